//! From writes to records. A write is *placed* when its records are in a batch: from then on its place in the log is
//! fixed, and only then is it decided what a removal removes (C2).

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use uuid::Uuid;

use super::entry::Change;
use super::rewrite::record_bytes;
use super::{Output, Shard, Touched};
use crate::group::offsets::{TopicPartition, is_orphan};
use crate::group::records::{CommittedOffset, GroupMetadata, Key, TooLong};
use crate::group::state::{Now, StoreId, Waiter};

/// To be appended to the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    Group { group: Arc<str>, id: StoreId, value: Arc<GroupMetadata> },
    Commit { group: Arc<str>, waiter: Waiter, offsets: Vec<(TopicPartition, CommittedOffset)> },
    Remove { group: Arc<str>, what: Removal },
}

/// What goes, of what the log has when the removal is placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Offsets of topics that are gone (behaviour 97).
    Orphans,
    /// Offsets whose retention is over (behaviour 96), at a time that was believed.
    Expired { wall_ms: i64 },
    /// The whole group.
    Group,
    /// These offsets, and the membership too if `membership`.
    Keys { keys: Vec<TopicPartition>, membership: bool },
}

/// A record's key and value; no value is a tombstone.
pub type EncodedRecord = (Bytes, Option<Bytes>);

/// The records of a write.
#[derive(Debug)]
pub struct Placement {
    pub records: Vec<EncodedRecord>,
    /// For [`Shard::written`], once the records are durable.
    pub placed: Placed,
    /// A removal may be too much for one append: to be placed next, before anything else.
    pub rest: Option<Write>,
}

/// A write that has its place.
#[derive(Debug)]
pub struct Placed {
    group: Arc<str>,
    what: What,
}

#[derive(Debug)]
enum What {
    Group(StoreId),
    Commit(Waiter),
    Removal,
    /// There is nothing to remove, or there is more that counts.
    Nothing,
}

impl Write {
    /// What it takes while it waits for its place.
    pub fn estimate_bytes(&self) -> usize {
        const PER_ITEM: usize = 128;
        match self {
            Write::Group { value, .. } => {
                let members = value.members.iter().map(|member| {
                    PER_ITEM + member.subscription.len() + member.assignment.len() + member.client_id.len()
                });
                PER_ITEM + members.sum::<usize>()
            }
            Write::Commit { offsets, .. } => {
                let each =
                    offsets.iter().map(|((topic, _), offset)| PER_ITEM + topic.len() + offset.metadata.len());
                PER_ITEM + each.sum::<usize>()
            }
            Write::Remove { what: Removal::Keys { keys, .. }, .. } => PER_ITEM + keys.len() * PER_ITEM,
            Write::Remove { .. } => PER_ITEM,
        }
    }

    fn group(&self) -> &Arc<str> {
        match self {
            Write::Group { group, .. } | Write::Commit { group, .. } | Write::Remove { group, .. } => group,
        }
    }
}

/// Records that are gathered up to a bound.
struct Gathered {
    records: Vec<EncodedRecord>,
    /// What they take in a batch, its header aside.
    bytes: usize,
}

impl Gathered {
    fn push(&mut self, key: Bytes, value: Option<Bytes>) {
        self.bytes += record_bytes(&key, value.as_ref());
        self.records.push((key, value));
    }
}

pub(super) fn offset_key(group: &Arc<str>, topic: &Arc<str>, partition: i32) -> Result<Bytes, TooLong> {
    Key::Offset { group: group.clone(), topic: topic.clone(), partition }.encode()
}

impl Shard {
    /// Fixes the place of the write that was put out first. Its records are to be appended at once, or else nothing is
    /// to be placed any more. If it is refused, nothing was placed and [`refused`](Shard::refused) is to be called.
    /// Records take at most `bytes_max` of a batch, its header aside, and the tombstone of a membership on top.
    pub fn place(
        &mut self,
        write: Write,
        bytes_max: usize,
        topic_id: &dyn Fn(&str) -> Option<Uuid>,
    ) -> Result<Placement, (Write, TooLong)> {
        let placed = match &write {
            Write::Group { group, id, value } => self.place_membership(group, *id, value, bytes_max),
            Write::Commit { group, offsets, .. } => encode_commit(group, offsets, bytes_max),
            Write::Remove { group, what } => self.place_removal(group, what, bytes_max, topic_id),
        };
        match (placed, write) {
            (Err(error), write) => Err((write, error)),
            (Ok(placement), Write::Commit { group, waiter, offsets }) => {
                self.entry_mut(&group).changes.push_back(Change::Commit(offsets));
                let placed = Placed { group, what: What::Commit(waiter) };
                Ok(Placement { placed, ..placement })
            }
            (Ok(placement), Write::Group { group, .. } | Write::Remove { group, .. }) => {
                self.recount(&group);
                Ok(placement)
            }
        }
    }

    fn place_membership(
        &mut self,
        group: &Arc<str>,
        id: StoreId,
        value: &Arc<GroupMetadata>,
        bytes_max: usize,
    ) -> Result<Placement, TooLong> {
        let record = (Key::Group { group: group.clone() }.encode()?, Some(value.encode()?));
        let bytes = record_bytes(&record.0, record.1.as_ref());
        if bytes > bytes_max {
            return Err(TooLong { what: "a group's membership", length: bytes });
        }
        let entry = self.entry_mut(group);
        entry.membership = Some(value.clone());
        entry.membership_bytes = bytes;
        let placed = Placed { group: group.clone(), what: What::Group(id) };
        Ok(Placement { records: vec![record], placed, rest: None })
    }

    fn place_removal(
        &mut self,
        group: &Arc<str>,
        what: &Removal,
        bytes_max: usize,
        topic_id: &dyn Fn(&str) -> Option<Uuid>,
    ) -> Result<Placement, TooLong> {
        let (keys, membership) = self.to_remove(group, what, topic_id);
        let mut gathered = Gathered { records: Vec::new(), bytes: 0 };
        let mut placed = 0;
        for (topic, partition) in &keys {
            let key = offset_key(group, topic, *partition)?;
            if placed > 0 && gathered.bytes + record_bytes(&key, None) > bytes_max {
                break;
            }
            gathered.push(key, None);
            placed += 1;
        }
        let is_all = placed == keys.len();
        let entry = self.entry_mut(group);
        if is_all && membership {
            gathered.push(Key::Group { group: group.clone() }.encode()?, None);
            entry.membership = None;
            entry.membership_bytes = 0;
        }
        let mut keys = keys;
        let left = keys.split_off(placed);
        let mut rest = None;
        if !is_all {
            entry.writing += 1;
            let what = Removal::Keys { keys: left, membership };
            rest = Some(Write::Remove { group: group.clone(), what });
        }
        let what = if gathered.records.is_empty() { What::Nothing } else { What::Removal };
        if matches!(what, What::Removal) {
            entry.changes.push_back(Change::Remove(keys));
        }
        Ok(Placement { records: gathered.records, placed: Placed { group: group.clone(), what }, rest })
    }

    /// Offsets to remove, and whether the membership goes too.
    fn to_remove(
        &self,
        group: &Arc<str>,
        what: &Removal,
        topic_id: &dyn Fn(&str) -> Option<Uuid>,
    ) -> (Vec<TopicPartition>, bool) {
        let entry = self.groups.get(group).expect("a group that writes is kept");
        let overrides = entry.overrides();
        let placed = entry.placed_after(&overrides, None);
        let at = |(topic, partition, _): (&Arc<str>, i32, &CommittedOffset)| (topic.clone(), partition);
        match what {
            Removal::Group => (placed.map(at).collect(), entry.membership.is_some()),
            Removal::Orphans => {
                let orphans = placed.filter(|(topic, _, offset)| is_orphan(offset, topic_id(topic)));
                (orphans.map(at).collect(), false)
            }
            Removal::Expired { wall_ms } => {
                let expired = self.expired(entry, *wall_ms);
                let over = placed.filter(|(topic, _, offset)| expired.includes(topic, offset));
                (over.map(at).collect(), false)
            }
            Removal::Keys { keys, membership } => {
                let is_there = |at: &&TopicPartition| match overrides.get(at) {
                    Some(change) => change.is_some(),
                    None => entry.offsets.get(&at.0, at.1).is_some(),
                };
                let keys = keys.iter().filter(is_there).cloned().collect();
                (keys, *membership && entry.membership.is_some())
            }
        }
    }

    /// The records of a write are durable. In the order in which they were placed.
    pub fn written(&mut self, now: Now, placed: Placed, out: &mut Output) {
        let Placed { group, what } = placed;
        let entry = self.groups.get_mut(&group).expect("a group that writes is kept");
        entry.writing -= 1;
        let touched = match what {
            What::Group(id) => {
                entry.group.stored(now, id, Ok(()), &mut self.effects);
                Touched::Membership
            }
            What::Commit(waiter) => {
                entry.apply_oldest();
                out.commits.push((waiter, Ok(())));
                Touched::Offsets
            }
            What::Removal => {
                entry.apply_oldest();
                Touched::Offsets
            }
            What::Nothing => Touched::Offsets,
        };
        self.settle(&group, touched, out);
    }

    /// A write could not be placed: whoever waits for it gets the error.
    pub fn refused(&mut self, now: Now, write: Write, error: ResponseError, out: &mut Output) {
        let group = write.group().clone();
        let entry = self.entry_mut(&group);
        entry.writing -= 1;
        match write {
            Write::Group { id, .. } => {
                let entry = self.groups.get_mut(&group).expect("just there");
                entry.group.stored(now, id, Err(error), &mut self.effects);
            }
            Write::Commit { waiter, .. } => out.commits.push((waiter, Err(error))),
            Write::Remove { .. } => {}
        }
        self.settle(&group, Touched::Membership, out);
    }
}

fn encode_commit(
    group: &Arc<str>,
    offsets: &[(TopicPartition, CommittedOffset)],
    bytes_max: usize,
) -> Result<Placement, TooLong> {
    let mut gathered = Gathered { records: Vec::with_capacity(offsets.len()), bytes: 0 };
    for ((topic, partition), offset) in offsets {
        gathered.push(offset_key(group, topic, *partition)?, Some(offset.encode()?));
    }
    if gathered.bytes > bytes_max {
        return Err(TooLong { what: "a commit", length: gathered.bytes });
    }
    let placed = Placed { group: group.clone(), what: What::Nothing };
    Ok(Placement { records: gathered.records, placed, rest: None })
}
