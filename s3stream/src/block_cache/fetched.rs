//! What a read gave: slices of blocks.

use std::ops::Range;

use bytes::Bytes;

use super::within;
use crate::StreamRecord;
use crate::metadata::StreamPart;
use crate::object::Block;

/// Records in offset order, as runs of adjacent ones.
#[derive(Clone, Debug)]
pub struct Fetched {
    slices: Vec<Slice>,
    bytes: usize,
    next: u64,
}

/// Adjacent records of one block.
#[derive(Clone, Debug)]
pub struct Slice {
    block: Block,
    records: Range<usize>,
}

impl Slice {
    /// The bodies, one directly after the other: one slice, whatever the number of records.
    pub fn bodies(&self) -> Bytes {
        self.block.bodies(self.records.clone())
    }

    pub fn records(&self) -> impl Iterator<Item = StreamRecord> + '_ {
        self.records.clone().map(|record| self.block.record(record))
    }

    /// Base offset of the first record.
    pub fn base(&self) -> u64 {
        self.block.offsets(self.records.start).start
    }

    /// End offset of the last record, exclusive.
    pub fn end(&self) -> u64 {
        self.block.offsets(self.records.end - 1).end
    }
}

impl Fetched {
    pub(super) fn new(from: u64) -> Fetched {
        Fetched { slices: Vec::new(), bytes: 0, next: from }
    }

    /// Adds what `part` has of `block` from [`next`](Fetched::next) on, as far as `max_bytes` in all allow; the very
    /// first record regardless. Returns whether all of it fitted.
    pub(super) fn push(&mut self, block: Block, part: &StreamPart, max_bytes: usize) -> bool {
        let all = within(&block, part, self.next);
        if all.is_empty() {
            return true;
        }
        let mut fitting = block.fitting(all.start, all.end, max_bytes.saturating_sub(self.bytes));
        if fitting.is_empty() && self.is_empty() {
            fitting.end += 1;
        }
        if fitting.is_empty() {
            return false;
        }
        let complete = fitting.end == all.end;
        self.bytes += block.body_bytes(fitting.clone());
        self.next = block.offsets(fitting.end - 1).end;
        self.slices.push(Slice { block, records: fitting });
        complete
    }

    pub(super) fn skip_to(&mut self, offset: u64) {
        self.next = self.next.max(offset);
    }

    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// Bytes of the bodies.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where to read on: nothing between the last record and here exists.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The runs, in offset order.
    pub fn slices(&self) -> &[Slice] {
        &self.slices
    }

    pub fn records(&self) -> impl Iterator<Item = StreamRecord> + '_ {
        self.slices.iter().flat_map(Slice::records)
    }

    pub fn into_records(self) -> Vec<StreamRecord> {
        let mut records = Vec::with_capacity(self.slices.iter().map(|slice| slice.records.len()).sum());
        records.extend(self.records());
        records
    }
}
