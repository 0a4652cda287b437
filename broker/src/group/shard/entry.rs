//! One group with its offsets: as they are, and as the log will have them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::NEVER;
use crate::group::offsets::{Offsets, TopicPartition};
use crate::group::records::{CommittedOffset, GroupMetadata};
use crate::group::state::{Group, Now};

/// An estimate of what a group without members takes.
pub(super) const NEW_GROUP_BYTES: usize = 512;

#[derive(Debug)]
pub(super) struct Entry {
    pub group: Group,
    /// What is durable, and so what fetches see.
    pub offsets: Offsets,
    /// What was placed in the log and is not durable yet, oldest first.
    pub changes: VecDeque<Change>,
    /// The membership that the log has, counted up to what was placed last.
    pub membership: Option<Arc<GroupMetadata>>,
    /// What that takes as a record.
    pub membership_bytes: usize,
    /// Writes that were put out and are neither reported as written nor refused.
    pub writing: usize,
    /// The earliest time at which the timer heap has it; `NEVER` if it is not there.
    pub scheduled: u64,
    /// What the group takes in memory, offsets aside.
    pub group_bytes: usize,
    /// What of the budget it holds.
    pub charged: usize,
    /// What of the shard's live bytes is its.
    pub live: usize,
}

/// To the offsets.
#[derive(Debug)]
pub(super) enum Change {
    Commit(Vec<(TopicPartition, CommittedOffset)>),
    Remove(Vec<TopicPartition>),
}

/// What becomes of offsets by the changes that are on their way; `None` for those that are removed.
pub(super) type Overrides<'a> = BTreeMap<&'a TopicPartition, Option<&'a CommittedOffset>>;

impl Entry {
    pub fn new(id: &Arc<str>, now: Now) -> Entry {
        Entry {
            group: Group::new(id.clone(), now),
            offsets: Offsets::default(),
            changes: VecDeque::new(),
            membership: None,
            membership_bytes: 0,
            writing: 0,
            scheduled: NEVER,
            group_bytes: NEW_GROUP_BYTES + id.len(),
            charged: 0,
            live: 0,
        }
    }

    /// Nothing would be lost if the entry were forgotten.
    pub fn is_vacant(&self) -> bool {
        self.group.is_vacant() && self.offsets.is_empty() && self.writing == 0
    }

    pub fn memory_bytes(&self) -> usize {
        self.group_bytes + self.offsets.bytes()
    }

    /// At most how many bytes of the log a rewrite of the group would take.
    pub fn live_bytes(&self) -> usize {
        self.membership_bytes + self.offsets.record_bytes(self.group.id().len())
    }

    /// The oldest change is durable.
    pub fn apply_oldest(&mut self) {
        match self.changes.pop_front().expect("what is durable was placed") {
            Change::Commit(offsets) => {
                for ((topic, partition), offset) in offsets {
                    self.offsets.set(&topic, partition, offset);
                }
            }
            Change::Remove(keys) => {
                for (topic, partition) in keys {
                    self.offsets.remove(&topic, partition);
                }
            }
        }
    }

    pub fn overrides(&self) -> Overrides<'_> {
        let mut overrides = Overrides::new();
        for change in &self.changes {
            match change {
                Change::Commit(offsets) => {
                    overrides.extend(offsets.iter().map(|(at, offset)| (at, Some(offset))));
                }
                Change::Remove(keys) => overrides.extend(keys.iter().map(|at| (at, None))),
            }
        }
        overrides
    }

    /// The offsets that the log has behind `after`, counted up to what was placed last; by topic and partition,
    /// ascending. `overrides` are those of this entry.
    pub fn placed_after<'a>(
        &'a self,
        overrides: &'a Overrides<'a>,
        after: Option<&'a TopicPartition>,
    ) -> impl Iterator<Item = (&'a Arc<str>, i32, &'a CommittedOffset)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut changed = overrides.range::<&TopicPartition, _>((from, Bound::Unbounded)).peekable();
        let mut durable = self.offsets.iter_after(after).peekable();
        std::iter::from_fn(move || {
            loop {
                let next_durable = durable.peek().map(|(topic, partition, _)| (*topic, *partition));
                let Some((topic, partition)) = changed.peek().map(|(at, _)| (&at.0, at.1)) else {
                    return durable.next();
                };
                if next_durable.is_some_and(|at| at < (topic, partition)) {
                    return durable.next();
                }
                if next_durable == Some((topic, partition)) {
                    durable.next();
                }
                if let Some((_, Some(offset))) = changed.next() {
                    return Some((topic, partition, *offset));
                }
            }
        })
    }
}
