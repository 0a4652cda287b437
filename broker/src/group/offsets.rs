//! What one group committed: the last offset of each partition, as the log has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::records::CommittedOffset;

/// A topic and a partition of it.
pub type TopicPartition = (Arc<str>, i32);

/// Counts its memory in bytes, for the coordinator's budget.
#[derive(Debug, Default)]
pub struct Offsets {
    topics: BTreeMap<Arc<str>, BTreeMap<i32, CommittedOffset>>,
    bytes: usize,
}

const TOPIC_OVERHEAD_BYTES: usize = 96;
const OFFSET_OVERHEAD_BYTES: usize = 128;

/// What an offset with this metadata takes.
pub fn offset_bytes(offset: &CommittedOffset) -> usize {
    OFFSET_OVERHEAD_BYTES + offset.metadata.len()
}

impl Offsets {
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn get(&self, topic: &str, partition: i32) -> Option<&CommittedOffset> {
        self.topics.get(topic)?.get(&partition)
    }

    /// By topic and partition, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, i32, &CommittedOffset)> {
        self.topics
            .iter()
            .flat_map(|(topic, partitions)| partitions.iter().map(move |(at, offset)| (topic, *at, offset)))
    }

    pub fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        self.topics.keys()
    }

    pub fn set(&mut self, topic: &Arc<str>, partition: i32, offset: CommittedOffset) {
        if !self.topics.contains_key(topic) {
            self.bytes += TOPIC_OVERHEAD_BYTES + topic.len();
            self.topics.insert(topic.clone(), BTreeMap::new());
        }
        self.bytes += offset_bytes(&offset);
        let partitions = self.topics.get_mut(topic).expect("just made sure");
        if let Some(before) = partitions.insert(partition, offset) {
            self.bytes -= offset_bytes(&before);
        }
    }

    pub fn remove(&mut self, topic: &str, partition: i32) {
        let Some(partitions) = self.topics.get_mut(topic) else { return };
        if let Some(removed) = partitions.remove(&partition) {
            self.bytes -= offset_bytes(&removed);
        }
        if partitions.is_empty() {
            self.topics.remove(topic);
            self.bytes -= TOPIC_OVERHEAD_BYTES + topic.len();
        }
    }

    /// Offsets of topics that are gone, given what a topic's id is now (behaviour 97).
    pub fn orphans(&self, topic_id: &dyn Fn(&str) -> Option<Uuid>) -> Vec<TopicPartition> {
        let mut orphans = Vec::new();
        for (topic, partitions) in &self.topics {
            let current = topic_id(topic);
            let gone = partitions.iter().filter(|(_, offset)| is_orphan(offset, current));
            orphans.extend(gone.map(|(partition, _)| (topic.clone(), *partition)));
        }
        orphans
    }
}

/// The topic for which it was committed does not exist any more; perhaps another of its name does.
pub fn is_orphan(offset: &CommittedOffset, current: Option<Uuid>) -> bool {
    match (offset.topic_id, current) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(then), Some(now)) => then != now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(metadata: &str, topic_id: Option<u128>) -> CommittedOffset {
        CommittedOffset {
            offset: 1,
            leader_epoch: -1,
            metadata: Arc::from(metadata),
            committed_at_ms: 0,
            expires_at_ms: None,
            topic_id: topic_id.map(Uuid::from_u128),
        }
    }

    #[test]
    fn bytes_are_given_back() {
        let topic: Arc<str> = Arc::from("t");
        let mut offsets = Offsets::default();
        offsets.set(&topic, 0, offset("long metadata", None));
        let with_long = offsets.bytes();
        offsets.set(&topic, 0, offset("x", None));
        assert!(offsets.bytes() < with_long);
        offsets.set(&topic, 1, offset("", None));
        offsets.remove("t", 0);
        offsets.remove("t", 1);
        offsets.remove("t", 1);
        offsets.remove("u", 1);
        assert!(offsets.is_empty());
        assert_eq!(offsets.bytes(), 0);
    }

    #[test]
    fn behaviour_97_offsets_of_another_topic_of_the_name_are_orphans() {
        let topic: Arc<str> = Arc::from("t");
        let mut offsets = Offsets::default();
        offsets.set(&topic, 0, offset("", Some(1)));
        offsets.set(&topic, 1, offset("", Some(2)));
        offsets.set(&topic, 2, offset("", None));
        assert_eq!(offsets.orphans(&|_| Some(Uuid::from_u128(2))), [(topic.clone(), 0)]);
        assert_eq!(offsets.orphans(&|_| None).len(), 3);
    }
}
