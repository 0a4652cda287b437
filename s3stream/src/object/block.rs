//! A block: the records of one stream, as slices of one buffer.

use std::ops::Range;

use bytes::Bytes;

use super::format::{RECORD_BYTES, u32_at, u64_at};
use super::{BlockEntry, Error};
use crate::StreamRecord;

/// A checked block. Cheap to clone; everything it gives shares its bytes.
#[derive(Clone, Debug)]
pub struct Block {
    entry: BlockEntry,
    /// The whole block: record table, then bodies.
    bytes: Bytes,
}

impl Block {
    /// Checks length, checksum and table. `bytes` are what the object holds at `entry`'s position.
    pub fn decode(entry: &BlockEntry, bytes: Bytes) -> Result<Block, Error> {
        let corrupt = |detail: &str| {
            Err(Error::Corrupt {
                at: entry.position,
                detail: format!("block of stream {} at offset {}: {detail}", entry.stream.0, entry.base),
            })
        };
        if bytes.len() != entry.size as usize {
            return corrupt("its length is not the index's");
        }
        if crc_fast::crc32_iscsi(&bytes) != entry.crc {
            return corrupt("its checksum does not match");
        }
        if entry.count as usize > bytes.len() / RECORD_BYTES {
            return corrupt("its table is longer than the block");
        }
        let block = Block { entry: *entry, bytes };
        let mut end = entry.base;
        let mut body_end = 0;
        let mut max_timestamp = i64::MIN;
        for record in 0..block.len() {
            let row = block.row(record);
            if row.base < end || row.base >= row.end || row.body_end < body_end {
                return corrupt("its table is out of order");
            }
            if record == 0 && row.base != entry.base {
                return corrupt("it begins at another offset than the index says");
            }
            end = row.end;
            body_end = row.body_end;
            max_timestamp = max_timestamp.max(row.max_timestamp);
        }
        if end != entry.end || max_timestamp != entry.max_timestamp {
            return corrupt("its table is at odds with the index");
        }
        if body_end as usize != block.bytes.len() - block.bodies_at() {
            return corrupt("its bodies do not fill it");
        }
        Ok(block)
    }

    pub fn entry(&self) -> &BlockEntry {
        &self.entry
    }

    /// Number of records; at least one.
    #[expect(clippy::len_without_is_empty, reason = "a block is never empty")]
    pub fn len(&self) -> usize {
        self.entry.count as usize
    }

    /// Bytes of memory that this keeps alive.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Block>() + self.bytes.len()
    }

    /// The record number `record`; its body is a slice.
    ///
    /// # Panics
    /// If there is no such record.
    pub fn record(&self, record: usize) -> StreamRecord {
        let row = self.row(record);
        StreamRecord {
            base: row.base,
            end: row.end,
            max_timestamp: row.max_timestamp,
            body: self.bodies(record..record + 1),
        }
    }

    /// The offsets `[base, end)` of record number `record`.
    ///
    /// # Panics
    /// If there is no such record.
    pub fn offsets(&self, record: usize) -> Range<u64> {
        let row = self.row(record);
        row.base..row.end
    }

    /// The bodies of a run of records as one slice.
    ///
    /// # Panics
    /// If the range is not within the block.
    pub fn bodies(&self, records: Range<usize>) -> Bytes {
        let at = self.bodies_at();
        self.bytes.slice(at + self.body_start(records.start)..at + self.body_start(records.end))
    }

    /// Bytes of the bodies of a run of records.
    ///
    /// # Panics
    /// If the range is not within the block.
    pub fn body_bytes(&self, records: Range<usize>) -> usize {
        self.body_start(records.end) - self.body_start(records.start)
    }

    /// The number of the first record that ends beyond `offset`; [`len`](Block::len) if there is none.
    pub fn seek(&self, offset: u64) -> usize {
        partition_point(0..self.len(), |record| self.row(record).end <= offset)
    }

    /// The number of the first record that begins at or beyond `offset`; [`len`](Block::len) if there is none.
    pub fn seek_base(&self, offset: u64) -> usize {
        partition_point(0..self.len(), |record| self.row(record).base < offset)
    }

    /// The longest run of records from number `first` on, below number `last`, whose bodies fit `max_bytes`.
    pub fn fitting(&self, first: usize, last: usize, max_bytes: usize) -> Range<usize> {
        let limit = self.body_start(first).saturating_add(max_bytes);
        let end = partition_point(first..last, |record| self.body_start(record + 1) <= limit);
        first..end
    }

    /// The first of `records` with a max timestamp of at least `timestamp`.
    pub fn find_timestamp(&self, mut records: Range<usize>, timestamp: i64) -> Option<usize> {
        records.find(|record| self.row(*record).max_timestamp >= timestamp)
    }

    fn bodies_at(&self) -> usize {
        self.len() * RECORD_BYTES
    }

    /// Where body number `record` begins, from the first body's first byte; for `len()`, where the last one ends.
    fn body_start(&self, record: usize) -> usize {
        if record == 0 { 0 } else { self.row(record - 1).body_end as usize }
    }

    fn row(&self, record: usize) -> Row {
        assert!(record < self.len(), "record {record} of {}", self.len());
        let row = &self.bytes[record * RECORD_BYTES..][..RECORD_BYTES];
        Row {
            base: u64_at(row, 0),
            end: u64_at(row, 8),
            max_timestamp: u64_at(row, 16) as i64,
            body_end: u32_at(row, 24),
        }
    }
}

/// An entry of the record table.
struct Row {
    base: u64,
    end: u64,
    max_timestamp: i64,
    body_end: u32,
}

/// The first of `range` for which `before` no longer holds, as [`slice::partition_point`].
fn partition_point(range: Range<usize>, before: impl Fn(usize) -> bool) -> usize {
    let Range { mut start, mut end } = range;
    while start < end {
        let middle = start + (end - start) / 2;
        if before(middle) {
            start = middle + 1;
        } else {
            end = middle;
        }
    }
    start
}
