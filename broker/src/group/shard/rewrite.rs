//! The live state as records, for a log that is to begin anew (decision 0015).
//!
//! A rewrite goes through the groups one by one, and through a group's offsets in order, a bounded number of bytes at a
//! time. Each step repeats what the log has *when the step is placed*, commits included that are on their way (C2).
//! So at every moment the log says of every key what it said before, and at the end
//!
//! - **C4** every key that the log had when the rewrite began, and still has, has its value behind that point: it was
//!   repeated, or written anew since.

use std::sync::Arc;

use bytes::Bytes;

use super::placing::{EncodedRecord, offset_key};
use super::{Entry, Shard};
use crate::group::offsets::TopicPartition;
use crate::group::records::{GroupMetadata, Key, TooLong};

/// The most that a record takes beside its key and value, the batch's header aside.
const RECORD_OVERHEAD_BYTES: usize = 24;

/// What a record takes in a batch, at most.
pub(super) fn record_bytes(key: &Bytes, value: Option<&Bytes>) -> usize {
    RECORD_OVERHEAD_BYTES + key.len() + value.map_or(0, Bytes::len)
}

/// How far a rewrite has come.
#[derive(Debug)]
pub(super) struct Rewrite {
    /// Groups that are still to be done.
    groups: Vec<Arc<str>>,
    within: Option<Within>,
}

#[derive(Debug)]
struct Within {
    group: Arc<str>,
    membership_done: bool,
    /// Up to here its offsets are done; none is without.
    upto: Option<TopicPartition>,
}

impl Shard {
    /// At most what a rewrite takes now, headers of batches aside.
    pub fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    /// From now on [`rewrite`](Shard::rewrite) yields everything there is.
    pub fn begin_rewrite(&mut self) {
        self.rewrite = Some(Rewrite { groups: self.groups.keys().cloned().collect(), within: None });
    }

    pub fn is_rewriting(&self) -> bool {
        self.rewrite.is_some()
    }

    pub fn stop_rewriting(&mut self) {
        self.rewrite = None;
    }

    /// The next records: about `bytes_target` of them. None at the end, and then the rewrite is over. They are to be
    /// appended at once, behind everything that was placed before.
    ///
    /// # Errors
    /// What was loaded cannot be written, or takes more than `bytes_max`. The rewrite cannot go on.
    pub fn rewrite(&mut self, bytes_target: usize, bytes_max: usize) -> Result<Vec<EncodedRecord>, TooLong> {
        let Some(mut rewrite) = self.rewrite.take() else { return Ok(Vec::new()) };
        let mut step = Step { records: Vec::new(), bytes: 0, bytes_target, bytes_max };
        while !step.is_full() {
            let within = match rewrite.within.take() {
                Some(within) => within,
                None => match rewrite.groups.pop() {
                    Some(group) => Within { group, membership_done: false, upto: None },
                    None => break,
                },
            };
            // Deleted meanwhile, its tombstones are behind the beginning.
            let Some(entry) = self.groups.get(&within.group) else { continue };
            rewrite.within = step.add(entry, within)?;
        }
        if step.is_full() || !step.records.is_empty() {
            self.rewrite = Some(rewrite);
        }
        Ok(step.records)
    }
}

struct Step {
    records: Vec<EncodedRecord>,
    bytes: usize,
    bytes_target: usize,
    bytes_max: usize,
}

impl Step {
    fn is_full(&self) -> bool {
        self.bytes >= self.bytes_target
    }

    fn push(&mut self, record: EncodedRecord) -> Result<(), TooLong> {
        let length = record_bytes(&record.0, record.1.as_ref());
        if length > self.bytes_max {
            return Err(TooLong { what: "a record of a group", length });
        }
        self.bytes += length;
        self.records.push(record);
        Ok(())
    }

    /// Adds of one group what there is room for; where to go on, if it is not all.
    fn add(&mut self, entry: &Entry, mut within: Within) -> Result<Option<Within>, TooLong> {
        let group = within.group.clone();
        if let (false, Some(membership)) = (within.membership_done, &entry.membership) {
            self.push((Key::Group { group: group.clone() }.encode()?, Some(membership.encode()?)))?;
        }
        within.membership_done = true;
        let overrides = entry.overrides();
        let start = within.upto.clone();
        for (topic, partition, offset) in entry.placed_after(&overrides, start.as_ref()) {
            if self.is_full() {
                return Ok(Some(within));
            }
            self.push((offset_key(&group, topic, partition)?, Some(offset.encode()?)))?;
            within.upto = Some((topic.clone(), partition));
        }
        Ok(None)
    }
}

/// What a membership takes as a record; 0 if it cannot be written.
pub(super) fn membership_bytes(group: &Arc<str>, membership: &GroupMetadata) -> usize {
    let key = Key::Group { group: group.clone() }.encode();
    match (key, membership.encode()) {
        (Ok(key), Ok(value)) => record_bytes(&key, Some(&value)),
        _ => 0,
    }
}
