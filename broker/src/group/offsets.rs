//! What one group committed: the last offset of each partition, as the log has it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use uuid::Uuid;

use super::records::CommittedOffset;

/// A topic and a partition of it.
pub type TopicPartition = (Arc<str>, i32);

/// Counts its memory in bytes, for the coordinator's budget, and what it takes as records.
#[derive(Debug, Default)]
pub struct Offsets {
    topics: BTreeMap<Arc<str>, BTreeMap<i32, CommittedOffset>>,
    bytes: usize,
    count: usize,
    /// Names of topics and metadata, for each offset.
    text_bytes: usize,
}

const TOPIC_OVERHEAD_BYTES: usize = 96;
const OFFSET_OVERHEAD_BYTES: usize = 128;
/// The most that an offset's record takes in the log, texts and the batch's header aside.
const OFFSET_RECORD_BYTES: usize = 96;

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

    /// At most how many bytes the offsets take as records of the log, for a group with an id of `group_bytes`.
    pub fn record_bytes(&self, group_bytes: usize) -> usize {
        self.count * (OFFSET_RECORD_BYTES + group_bytes) + self.text_bytes
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

    /// Those behind `after` (all of them if there is no such), by topic and partition, ascending.
    pub fn iter_after(
        &self,
        after: Option<&TopicPartition>,
    ) -> impl Iterator<Item = (&Arc<str>, i32, &CommittedOffset)> {
        let from = after.map_or(Bound::Unbounded, |(topic, _)| Bound::Included(topic));
        let topics = self.topics.range::<Arc<str>, _>((from, Bound::Unbounded));
        topics.flat_map(move |(topic, partitions)| {
            let within = after.filter(|(last, _)| last == topic).map(|(_, partition)| *partition);
            let from = within.map_or(Bound::Unbounded, Bound::Excluded);
            partitions.range((from, Bound::Unbounded)).map(move |(at, offset)| (topic, *at, offset))
        })
    }

    pub fn set(&mut self, topic: &Arc<str>, partition: i32, offset: CommittedOffset) {
        if !self.topics.contains_key(topic) {
            self.bytes += TOPIC_OVERHEAD_BYTES + topic.len();
            self.topics.insert(topic.clone(), BTreeMap::new());
        }
        self.bytes += offset_bytes(&offset);
        self.count += 1;
        self.text_bytes += topic.len() + offset.metadata.len();
        let partitions = self.topics.get_mut(topic).expect("just made sure");
        if let Some(before) = partitions.insert(partition, offset) {
            self.uncount(topic, &before);
        }
    }

    pub fn remove(&mut self, topic: &str, partition: i32) {
        let Some(partitions) = self.topics.get_mut(topic) else { return };
        let removed = partitions.remove(&partition);
        let is_last = partitions.is_empty();
        if let Some(removed) = removed {
            self.uncount(topic, &removed);
        }
        if is_last {
            self.topics.remove(topic);
            self.bytes -= TOPIC_OVERHEAD_BYTES + topic.len();
        }
    }

    fn uncount(&mut self, topic: &str, gone: &CommittedOffset) {
        self.bytes -= offset_bytes(gone);
        self.count -= 1;
        self.text_bytes -= topic.len() + gone.metadata.len();
    }

    /// Whether some are of topics that are gone, given what a topic's id is now (behaviour 97).
    pub fn has_orphans(&self, topic_id: &dyn Fn(&str) -> Option<Uuid>) -> bool {
        self.topics.iter().any(|(topic, partitions)| {
            let current = topic_id(topic);
            partitions.values().any(|offset| is_orphan(offset, current))
        })
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
        assert_eq!((offsets.bytes(), offsets.record_bytes(10)), (0, 0));
    }

    #[test]
    fn behaviour_97_offsets_of_another_topic_of_the_name_are_orphans() {
        let topic: Arc<str> = Arc::from("t");
        let mut offsets = Offsets::default();
        offsets.set(&topic, 0, offset("", Some(1)));
        offsets.set(&topic, 1, offset("", Some(2)));
        offsets.set(&topic, 2, offset("", None));
        assert!(offsets.has_orphans(&|_| Some(Uuid::from_u128(2))));
        offsets.remove("t", 0);
        assert!(!offsets.has_orphans(&|_| Some(Uuid::from_u128(2))));
        assert!(offsets.has_orphans(&|_| None));
    }

    #[test]
    fn iteration_goes_on_behind_any_place() {
        let mut offsets = Offsets::default();
        for topic in ["a", "b", "d"] {
            for partition in [0, 2, 7] {
                offsets.set(&Arc::from(topic), partition, offset("", None));
            }
        }
        let all: Vec<_> = offsets.iter().map(|(topic, partition, _)| (topic.clone(), partition)).collect();
        assert_eq!(all.len(), 9);
        let after = |place: Option<&TopicPartition>| -> Vec<TopicPartition> {
            offsets.iter_after(place).map(|(topic, partition, _)| (topic.clone(), partition)).collect()
        };
        assert_eq!(after(None), all);
        for topic in ["", "a", "b", "c", "d", "e"] {
            for partition in -1..9 {
                let place = (Arc::from(topic), partition);
                let behind: Vec<_> = all.iter().filter(|at| **at > place).cloned().collect();
                assert_eq!(after(Some(&place)), behind, "{place:?}");
            }
        }
    }
}
