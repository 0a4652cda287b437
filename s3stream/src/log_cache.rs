//! The log cache: what was appended lately, at once tail cache and upload buffer. Pure; the shell owns locks and time.
//!
//! Every append lands in two places: its stream's [`Tail`], which holds the record and serves reads by offset, and the
//! active block of [`Blocks`], which only counts: which range of which stream, how many bytes, which WAL positions.
//!
//! ```text
//!   Blocks   [ 7 committed ][ 8 uploading ][ 9 sealed ][ 10 active ]      FIFO: evicted at the left, filled at the right
//!                 │ ranges       │              │             │
//!   Tail a   ──[ r r r ]──────[ r r ]────────[ r ]─────────[ r r ]──►     contiguous, ends at the stream's next offset
//!   Tail b   ──[ r ]───────────────────────[ r r r ]───────[ r ]────►
//! ```
//!
//! # Invariants
//! - **C1** A tail is contiguous and its last record ends at `next`; `start <= confirmed <= next`.
//! - **C2** Blocks leave in order and only once committed, a few records at a time: a record that is not in a data object
//!   is in its tail.
//! - **C3** A block's records lie behind those of the blocks before it, in their streams and in the WAL.

use std::collections::VecDeque;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::time::Instant;
use wal::Position;

use crate::{StreamId, StreamRecord};

/// Charged per record on top of its body: the record in the tail, its place in the ack queue and in the WAL.
pub const RECORD_OVERHEAD_BYTES: usize = 256;

/// What a record of `body_bytes` costs.
pub(crate) fn charge_of(body_bytes: usize) -> usize {
    body_bytes + RECORD_OVERHEAD_BYTES
}

/// One stream's end: its offsets, and the records that are cached.
#[derive(Debug)]
pub(crate) struct Tail {
    start: u64,
    confirmed: u64,
    next: u64,
    records: VecDeque<StreamRecord>,
}

impl Tail {
    /// An empty tail of a stream that holds `[start, end)` elsewhere.
    pub fn new(start: u64, end: u64) -> Tail {
        assert!(start <= end, "a stream's start ({start}) lies beyond its end ({end})");
        Tail { start, confirmed: end, next: end, records: VecDeque::new() }
    }

    pub fn start(&self) -> u64 {
        self.start
    }

    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn push(&mut self, record: StreamRecord) {
        assert_eq!(record.base, self.next, "an append must begin where the last one ended");
        assert!(record.base < record.end, "a record covers at least one offset");
        self.next = record.end;
        self.records.push_back(record);
    }

    /// Bytes of the cached records that begin at `offset` or behind it.
    pub fn bytes_from(&self, offset: u64) -> u64 {
        let behind = self.records.iter().rev().take_while(|record| record.base >= offset);
        behind.map(|record| record.body.len() as u64).sum()
    }

    /// The record `[base, end)` is durable (S1).
    pub fn confirm(&mut self, base: u64, end: u64) {
        assert_eq!(base, self.confirmed, "records are confirmed in order");
        assert!(end <= self.next);
        self.confirmed = end;
    }

    pub fn trim(&mut self, to: u64) {
        assert!(to <= self.confirmed, "a trim to {to} beyond the confirmed end {}", self.confirmed);
        self.start = self.start.max(to);
    }

    /// Confirmed records from the one that holds `from`, up to `max_bytes` of bodies (at least one record) and to `end`.
    /// `None` if the answer is not here; empty if there is nothing at `from` yet.
    pub fn read(&self, from: u64, max_bytes: usize, end: u64) -> Option<Vec<StreamRecord>> {
        if from < self.start || from > self.confirmed {
            return None;
        }
        let end = end.min(self.confirmed);
        if from >= end {
            return Some(Vec::new());
        }
        let at = self.position_of(from)?;
        let mut bytes = 0usize;
        let fits = |(nth, record): &(usize, &StreamRecord)| {
            bytes += record.body.len();
            record.end <= end && (*nth == 0 || bytes <= max_bytes)
        };
        let count = self.records.range(at..).enumerate().take_while(fits).count();
        Some(self.records.range(at..at + count).cloned().collect())
    }

    /// All records inside `[base, end)`, which must be cached.
    pub fn slice(&self, base: u64, end: u64) -> Vec<StreamRecord> {
        let first = self.position_of(base).expect("records that are not committed stay cached");
        let records: Vec<_> =
            self.records.range(first..).take_while(|record| record.end <= end).cloned().collect();
        assert_eq!(records.first().map(|record| record.base), Some(base));
        assert_eq!(records.last().map(|record| record.end), Some(end));
        records
    }

    /// Drops the oldest records below `upto` until their charges reach `wanted`. Returns the charges, and whether
    /// nothing below `upto` is left.
    pub fn evict(&mut self, upto: u64, wanted: usize) -> (usize, bool) {
        let mut freed = 0;
        while let Some(record) = self.records.front().filter(|record| record.end <= upto) {
            if freed >= wanted {
                return (freed, false);
            }
            freed += charge_of(record.body.len());
            self.records.pop_front();
        }
        (freed, true)
    }

    /// The first confirmed cached record that is not wholly trimmed, ends beyond `from`, and has `timestamp` or a later
    /// one.
    pub fn find_timestamp(&self, from: u64, timestamp: i64) -> Option<&StreamRecord> {
        self.visible().find(|record| record.end > from && record.max_timestamp >= timestamp)
    }

    /// The first of the confirmed cached records with the largest timestamp.
    pub fn max_timestamp(&self) -> Option<&StreamRecord> {
        self.visible()
            .reduce(|best, record| if record.max_timestamp > best.max_timestamp { record } else { best })
    }

    fn visible(&self) -> impl Iterator<Item = &StreamRecord> {
        let first = self.records.partition_point(|record| record.end <= self.start);
        self.records.range(first..).take_while(|record| record.end <= self.confirmed)
    }

    fn position_of(&self, offset: u64) -> Option<usize> {
        if self.records.front()?.base > offset {
            return None;
        }
        let at = self.records.partition_point(|record| record.end <= offset);
        (at < self.records.len()).then_some(at)
    }
}

/// Dense, in the order of sealing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlockId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Active,
    Sealed,
    Uploading,
    Committed,
}

/// The range of one stream in one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// The stream's epoch under which all of it was appended.
    pub epoch: u64,
    pub base: u64,
    pub end: u64,
    pub body_bytes: usize,
    /// What the budget still counts for it.
    pub charge: usize,
}

#[derive(Debug)]
struct Block {
    phase: Phase,
    opened: Instant,
    /// Ids are this cluster's own: no peer chooses what they hash to.
    slices: FxHashMap<StreamId, Slice>,
    /// The slices once more, from the commit on: those that eviction has not taken yet.
    evictable: Vec<(StreamId, Slice)>,
    charge: usize,
    appended: usize,
    confirmed: usize,
    /// Positions of the first and of the last record confirmed so far.
    positions: Option<(Position, Position)>,
}

/// How far the WAL may be trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trimmable {
    /// To this position.
    To(Position),
    /// Nothing appended is uncommitted: to wherever the WAL is durable, which is beyond this last position.
    Everything(Position),
}

/// The FIFO of blocks.
#[derive(Debug)]
pub(crate) struct Blocks {
    upload_bytes: usize,
    /// Id of the front block, or of the next one if there is none.
    first: u64,
    blocks: VecDeque<Block>,
    uncommitted_bytes: usize,
    /// The last position confirmed in any block: a lower bound for what is not confirmed yet.
    last_confirmed: Option<Position>,
    hurried_below: BlockId,
}

impl Blocks {
    pub fn new(upload_bytes: usize) -> Blocks {
        Blocks {
            upload_bytes,
            first: 0,
            blocks: VecDeque::new(),
            uncommitted_bytes: 0,
            last_confirmed: None,
            hurried_below: BlockId(0),
        }
    }

    /// Counts a record into the active block and says which that is. Seals the block if that filled it, and before it
    /// if the stream's epoch is another.
    pub fn append(
        &mut self,
        now: Instant,
        stream: StreamId,
        epoch: u64,
        record: &StreamRecord,
        charge: usize,
    ) -> BlockId {
        if self
            .blocks
            .back()
            .and_then(|block| block.slices.get(&stream))
            .is_some_and(|slice| slice.epoch != epoch)
        {
            self.seal();
        }
        if self.blocks.back().is_none_or(|block| block.phase != Phase::Active) {
            self.blocks.push_back(Block {
                phase: Phase::Active,
                opened: now,
                slices: FxHashMap::default(),
                evictable: Vec::new(),
                charge: 0,
                appended: 0,
                confirmed: 0,
                positions: None,
            });
        }
        let id = BlockId(self.first + self.blocks.len() as u64 - 1);
        let block = self.blocks.back_mut().expect("just made sure of it");
        let slice = block.slices.entry(stream).or_insert(Slice {
            epoch,
            base: record.base,
            end: record.base,
            body_bytes: 0,
            charge: 0,
        });
        assert_eq!(slice.end, record.base, "a block's range of a stream is contiguous");
        slice.end = record.end;
        slice.body_bytes += record.body.len();
        slice.charge += charge;
        block.charge += charge;
        block.appended += 1;
        self.uncommitted_bytes += charge;
        if block.charge >= self.upload_bytes {
            block.phase = Phase::Sealed;
        }
        id
    }

    /// A record of `block` is durable at `position`. Called in append order.
    pub fn confirm(&mut self, block: BlockId, position: Position) {
        assert!(self.last_confirmed.is_none_or(|last| last <= position), "WAL positions never move back");
        self.last_confirmed = Some(position);
        let block = self.get_mut(block);
        block.confirmed += 1;
        assert!(block.confirmed <= block.appended);
        block.positions = Some(match block.positions {
            None => (position, position),
            Some((first, _)) => (first, position),
        });
    }

    /// Seals the active block, if it holds anything.
    pub fn seal(&mut self) -> bool {
        match self.blocks.back_mut() {
            Some(block) if block.phase == Phase::Active => {
                block.phase = Phase::Sealed;
                true
            }
            _ => false,
        }
    }

    /// When the active block's first record was appended.
    pub fn active_since(&self) -> Option<Instant> {
        self.blocks.back().filter(|block| block.phase == Phase::Active).map(|block| block.opened)
    }

    /// Whether the active block is older than `age_max`.
    pub fn is_old(&self, now: Instant, age_max: Duration) -> bool {
        self.active_since().is_some_and(|opened| now.saturating_duration_since(opened) >= age_max)
    }

    /// Whether some sealed block is still on its way into the bucket.
    pub fn is_uploading(&self) -> bool {
        self.blocks.iter().any(|block| matches!(block.phase, Phase::Sealed | Phase::Uploading))
    }

    /// Blocks below this one are uploaded before all of them is durable.
    pub fn hurry(&mut self, below: BlockId) {
        self.hurried_below = self.hurried_below.max(below);
    }

    /// Whether all of `block`, which is not the active one, is durable.
    pub fn is_durable(&self, block: BlockId) -> bool {
        let block = self.get(block);
        block.confirmed == block.appended
    }

    /// The next sealed block all of which is durable, or that is [hurried](Blocks::hurry); marks it as being uploaded. In order.
    pub fn take_uploadable(&mut self) -> Option<(BlockId, Vec<(StreamId, Slice)>)> {
        let at = self
            .blocks
            .iter()
            .position(|block| !matches!(block.phase, Phase::Committed | Phase::Uploading))?;
        let block = &mut self.blocks[at];
        let hurried = self.first + (at as u64) < self.hurried_below.0;
        if block.phase != Phase::Sealed || (block.confirmed < block.appended && !hurried) {
            return None;
        }
        block.phase = Phase::Uploading;
        let mut slices: Vec<_> = block.slices.iter().map(|(stream, slice)| (*stream, *slice)).collect();
        slices.sort_unstable_by_key(|(stream, _)| *stream);
        Some((BlockId(self.first + at as u64), slices))
    }

    /// The id that the next block will have: all that was appended is in blocks below it.
    pub fn end(&self) -> BlockId {
        BlockId(self.first + self.blocks.len() as u64)
    }

    /// The lowest WAL position that holds anything uncommitted, were everything up to and including `block` committed
    /// (S3). Where the next record's position is not known yet, that of the record before it: positions never move
    /// back, and one position may hold several records.
    pub fn trimmable_after(&self, block: BlockId) -> Trimmable {
        let last = self.get(block).positions.expect("an uploaded block is durable").1;
        match self.blocks.get((block.0 + 1 - self.first) as usize).map(|next| next.positions) {
            None => Trimmable::Everything(last),
            Some(Some((first, _))) => Trimmable::To(first),
            Some(None) => Trimmable::To(last),
        }
    }

    /// The position of the first record of `block`, all of which is durable.
    pub fn begins_at(&self, block: BlockId) -> Position {
        self.get(block).positions.expect("an uploaded block is durable").0
    }

    /// `block` is in data objects and the metadata says so. In order.
    pub fn commit(&mut self, block: BlockId) {
        let at = (block.0 - self.first) as usize;
        assert!(at == 0 || self.blocks[at - 1].phase == Phase::Committed, "blocks are committed in order");
        let block = &mut self.blocks[at];
        assert_eq!(block.phase, Phase::Uploading);
        assert_eq!(block.confirmed, block.appended, "only what is durable is committed (S1)");
        block.phase = Phase::Committed;
        block.evictable = std::mem::take(&mut block.slices).into_iter().collect();
        self.uncommitted_bytes -= block.charge;
    }

    /// A slice of the oldest block, if that may go (C2).
    pub fn evictable(&self) -> Option<(StreamId, Slice)> {
        self.blocks.front().filter(|block| block.phase == Phase::Committed)?.evictable.last().copied()
    }

    /// Records of the slice that [`evictable`](Blocks::evictable) named were dropped, with charges of `freed` in all, and
    /// with `done` it is used up. Returns what to give back to the budget.
    pub fn evicted(&mut self, freed: usize, done: bool) -> usize {
        let front = self.blocks.front_mut().expect("a slice was evictable");
        let (_, slice) = front.evictable.last_mut().expect("a slice was evictable");
        // A stream that was opened anew has dropped its records before.
        let freed = if done { slice.charge } else { freed };
        slice.charge -= freed;
        if done {
            front.evictable.pop();
        }
        if front.evictable.is_empty() {
            self.blocks.pop_front();
            self.first += 1;
        }
        freed
    }

    /// Bodies of `stream` from `committed_end` on, as far as they are not in committed objects. Costs a look into each of
    /// the few blocks that are not.
    pub fn uncommitted_of(&self, stream: StreamId, committed_end: u64) -> usize {
        self.blocks
            .iter()
            .rev()
            .take_while(|block| block.phase != Phase::Committed)
            .filter_map(|block| block.slices.get(&stream))
            .filter(|slice| slice.base >= committed_end)
            .map(|slice| slice.body_bytes)
            .sum()
    }

    /// Charges of records that are not in committed objects yet.
    pub fn uncommitted_bytes(&self) -> usize {
        self.uncommitted_bytes
    }

    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    fn get(&self, block: BlockId) -> &Block {
        &self.blocks[(block.0 - self.first) as usize]
    }

    fn get_mut(&mut self, block: BlockId) -> &mut Block {
        &mut self.blocks[(block.0 - self.first) as usize]
    }
}

#[cfg(test)]
mod tests;
