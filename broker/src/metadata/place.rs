//! Where partitions go. Part of [`apply`](super::apply), so every replica places alike: by counts of leaderships that are in
//! the state. What load a partition has is no part of the state; who knows it moves partitions afterwards.
//!
//! - **L1** Only a broker that serves gets partitions, and one that is being emptied only if it is told by name, or if a
//!   new topic could go nowhere else.
//! - **L2** A partition goes where its topic has least leaderships, then where there are least in all, then to the lowest
//!   id.
//! - **L3** What nobody owns is placed as soon as somebody can take it: in the entry that released it, or in which a broker
//!   begins to serve. Where it was to move to anyhow, it goes there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use uuid::Uuid;
use wal::Incarnation;

use super::image::{Image, Led, PartitionInfo, Topic};

/// Who may take partitions, and how many each has.
pub(super) struct Candidates {
    /// By broker id.
    brokers: Vec<Candidate>,
}

struct Candidate {
    incarnation: Incarnation,
    of_topic: usize,
    in_all: usize,
}

impl Candidates {
    fn is_empty(&self) -> bool {
        self.brokers.is_empty()
    }

    /// Counts the leaderships of one topic from here on, which these brokers have.
    fn begin_topic(&mut self, leaders: impl Iterator<Item = u32>) {
        self.brokers.iter_mut().for_each(|candidate| candidate.of_topic = 0);
        for leader in leaders {
            if let Ok(at) = self.brokers.binary_search_by_key(&leader, |known| known.incarnation.broker) {
                self.brokers[at].of_topic += 1;
            }
        }
    }

    /// L2.
    fn take(&mut self) -> Incarnation {
        let least = self
            .brokers
            .iter_mut()
            .min_by_key(|candidate| (candidate.of_topic, candidate.in_all, candidate.incarnation.broker))
            .expect("there is a candidate");
        least.of_topic += 1;
        least.in_all += 1;
        least.incarnation
    }

    /// L2 and L3: where those partitions of a topic go that are released, by index. `leader` says who leads any other.
    fn place(
        &mut self,
        topic: &Topic,
        is_released: impl Fn(&PartitionInfo) -> bool,
        leader: impl Fn(usize) -> u32,
    ) -> Vec<(usize, Incarnation)> {
        let mut placed = Vec::new();
        for (index, partition) in topic.partitions.iter().enumerate() {
            if !is_released(partition) {
                continue;
            }
            if placed.is_empty() {
                let others = topic.partitions.iter().enumerate().filter(|(_, other)| !is_released(other));
                self.begin_topic(others.map(|(index, _)| leader(index)));
            }
            let aimed = partition.target.and_then(|target| self.take_named(target));
            placed.push((index, aimed.unwrap_or_else(|| self.take())));
        }
        placed
    }

    fn take_named(&mut self, broker: u32) -> Option<Incarnation> {
        let at = self.brokers.binary_search_by_key(&broker, |known| known.incarnation.broker).ok()?;
        self.brokers[at].of_topic += 1;
        self.brokers[at].in_all += 1;
        Some(self.brokers[at].incarnation)
    }
}

impl Image {
    /// Partitions that name this broker as their leader, whether or not it can be asked.
    pub fn led_count(&self, broker: u32) -> usize {
        self.led.get(&broker).map_or(0, |counts| counts.leads)
    }

    /// Brokers that lead partitions which are to move.
    pub fn brokers_with_moving(&self) -> impl Iterator<Item = u32> {
        self.led.iter().filter(|(_, counts)| counts.moving > 0).map(|(broker, _)| *broker)
    }

    /// How many of those have a target.
    pub fn moving_count(&self, broker: u32) -> usize {
        self.led.get(&broker).map_or(0, |counts| counts.moving)
    }

    /// Who leads the partition now, as clients may be told: `None` while its leader is fenced and not replaced yet, or
    /// nobody could take it.
    pub fn leader(&self, partition: &PartitionInfo) -> Option<u32> {
        self.owner(partition).filter(|owner| self.is_live(*owner)).map(|owner| owner.broker)
    }

    /// The incarnation that the partition belongs to, fenced or not.
    pub fn owner(&self, partition: &PartitionInfo) -> Option<Incarnation> {
        self.streams.get(&partition.log).and_then(|stream| stream.owner)
    }

    /// What belongs to this incarnation: topic and number of the partition, by topic id.
    pub fn partitions_of(&self, owner: Incarnation) -> impl Iterator<Item = (&Arc<Topic>, usize)> {
        self.topics.values().flat_map(move |topic| {
            let led = topic.partitions.iter().enumerate();
            let led = led.filter(move |(_, p)| p.leader == owner.broker && self.owner(p) == Some(owner));
            led.map(move |(index, _)| (topic, index))
        })
    }

    /// L1.
    fn candidates(&self) -> Candidates {
        let brokers = self.serving().filter(|(_, life)| !life.draining);
        Candidates { brokers: brokers.map(|(incarnation, _)| self.candidate(incarnation)).collect() }
    }

    fn candidate(&self, incarnation: Incarnation) -> Candidate {
        Candidate { incarnation, of_topic: 0, in_all: self.led_count(incarnation.broker) }
    }

    /// Leaders for `wanted` new partitions of a topic that has `existing` ones. `by` serves, and so somebody does.
    pub(super) fn leaders_for(
        &self,
        by: Incarnation,
        existing: &[PartitionInfo],
        wanted: usize,
        named: &[u32],
    ) -> Result<Vec<Incarnation>, String> {
        if !named.is_empty() {
            return self.named_leaders(wanted, named);
        }
        let mut candidates = self.candidates();
        if candidates.is_empty() {
            candidates.brokers.push(self.candidate(by));
        }
        candidates.begin_topic(existing.iter().map(|partition| partition.leader));
        Ok((0..wanted).map(|_| candidates.take()).collect())
    }

    fn named_leaders(&self, wanted: usize, named: &[u32]) -> Result<Vec<Incarnation>, String> {
        if named.len() != wanted {
            return Err(format!("leaders are named for {} of {wanted} partitions", named.len()));
        }
        let serves = |broker: &u32| match self.live(*broker) {
            Some((incarnation, life)) if life.opened => Ok(incarnation),
            _ => Err(format!("broker {broker} does not serve")),
        };
        named.iter().map(serves).collect()
    }

    /// Nobody may take partitions. Only then can there be orphans: whatever is released otherwise is placed by the same
    /// entry (L3).
    pub(super) fn no_candidates(&self) -> bool {
        self.serving().all(|(_, life)| life.draining)
    }

    /// L3. Every partition that has no owner gets one, if there is anybody. `released`: the topics, ascending, that can
    /// have any, and who led those; else they are looked for everywhere.
    pub(super) fn place_orphans(&mut self, released: Option<(&[Uuid], u32)>) {
        let mut candidates = self.candidates();
        if candidates.is_empty() {
            return;
        }
        let topics: Vec<Arc<Topic>> = match released {
            Some((topics, _)) => topics.iter().filter_map(|id| self.topics.get(id)).cloned().collect(),
            None => self.topics.values().cloned().collect(),
        };
        for topic in topics {
            let is_released = |partition: &PartitionInfo| self.is_orphan(partition, released);
            let placed = candidates.place(&topic, is_released, |index| topic.partitions[index].leader);
            if placed.is_empty() {
                continue;
            }
            let mut partitions = topic.partitions.to_vec();
            for (index, to) in placed {
                self.open_partition(&mut partitions[index], to);
            }
            self.put_partitions(&topic, partitions);
        }
    }

    /// Who will lead what each of `lives` left, which are fenced, if nothing changes until their recoveries end and they end in
    /// this order: L3, foretold.
    pub fn heirs(&self, lives: &[Incarnation]) -> HashMap<(Uuid, usize), u32> {
        let (mut candidates, mut heirs) = (self.candidates(), HashMap::new());
        if candidates.is_empty() {
            return heirs;
        }
        for life in lives {
            let is_left = |partition: &PartitionInfo| {
                partition.leader == life.broker && self.owner(partition) == Some(*life)
            };
            for topic in self.topics.values() {
                let leader =
                    |index| heirs.get(&(topic.id, index)).copied().unwrap_or(topic.partitions[index].leader);
                for (index, to) in candidates.place(topic, is_left, leader) {
                    heirs.insert((topic.id, index), to.broker);
                }
            }
        }
        heirs
    }

    /// Who owns a partition is asked only where that can be nobody: it is a walk down a large map.
    fn is_orphan(&self, partition: &PartitionInfo, released: Option<(&[Uuid], u32)>) -> bool {
        released.is_none_or(|(_, leader)| partition.leader == leader) && self.owner(partition).is_none()
    }

    /// From here on `to` leads the partition, under a new leader epoch that begins at the committed end.
    pub(super) fn open_partition(&mut self, partition: &mut PartitionInfo, to: Incarnation) {
        partition.leader = to.broker;
        partition.leader_epoch += 1;
        partition.note = None;
        if partition.target == Some(to.broker) {
            partition.target = None;
        }
        self.open_stream(partition.log, to);
        self.open_stream(partition.checkpoint, to);
    }

    /// Replaces the partitions of `topic`.
    pub(super) fn put_partitions(&mut self, topic: &Topic, partitions: Vec<PartitionInfo>) {
        self.put_topic(Arc::new(Topic { partitions: partitions.into(), ..Topic::clone(topic) }));
    }

    /// In place of the one with this id, if there is one, with all that is derived from it.
    pub(super) fn put_topic(&mut self, topic: Arc<Topic>) {
        let before = self.topics.get(&topic.id).cloned();
        self.recount(before.as_ref().map_or(&[], |topic| &topic.partitions), &topic.partitions);
        self.insert_topic(topic);
    }

    /// Some partitions are as in `after`, which were as in `before`.
    pub(super) fn recount(&mut self, before: &[PartitionInfo], after: &[PartitionInfo]) {
        let mut changes: BTreeMap<u32, [isize; 2]> = BTreeMap::new();
        for (partitions, by) in [(before, -1), (after, 1)] {
            for partition in partitions {
                let change = changes.entry(partition.leader).or_default();
                change[0] += by;
                change[1] += if partition.target.is_some() { by } else { 0 };
            }
        }
        for (broker, change) in changes {
            let [led, moving] = change;
            let add =
                |count: usize, change| count.checked_add_signed(change).expect("as many as were counted");
            let counts = self.led.get(&broker).copied().unwrap_or_default();
            let counts = Led { leads: add(counts.leads, led), moving: add(counts.moving, moving) };
            if counts.leads == 0 {
                self.led.remove_mut(&broker);
            } else {
                self.led.insert_mut(broker, counts);
            }
        }
    }
}
