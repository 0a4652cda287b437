//! Where records go in the ring, and which frame is written next. A state machine: no I/O, no clock, no thread.
//!
//! ```text
//!            trimmed        durable          taken          tail
//!   ring ──────┼──────────────┼────────────────┼──────────────┼──────► position
//!              │  kept        │ writes under   │ closed │open │  free: until trimmed + ring
//!              │              │ way (window)   │ frames gathering
//! ```
//!
//! - **L1** Frames lie behind each other, in append order, and none crosses the ring's end: a frame that would begins at
//!   the next lap instead, and says so by its `previous_end`.
//! - **L2** No frame reaches beyond `trimmed + ring`: nothing that is kept is overwritten.
//! - **L3** A frame is taken only if it ends within `window` of the durable end, or if nothing else is under way. So a
//!   frame that lies `reach` behind another proves that the other one was durable.
//! - **L4** Bytes of records that are not written yet, queued or under way, are at most `pending_max`.

use std::collections::VecDeque;

use super::frame::{HEADER_BYTES, RECORD_HEADER_BYTES, frame_bytes, record_bytes};
use crate::Record;

/// See [`Geometry::gather`]. From 32 KiB on, a third write under way has 128 KiB, a fourth 512 KiB.
const GATHER_GROWTH: usize = 4;

/// The bounds of a layout, in bytes where nothing else is said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub block: usize,
    pub ring: u64,
    pub frame_max: usize,
    /// A frame that has reached this takes no more records.
    pub frame_target: usize,
    /// While a write is under way, the open frame is written only once it has reached this; with each further one,
    /// [`GATHER_GROWTH`] times as much.
    pub gather: usize,
    /// Writes under way at once.
    pub writes_max: usize,
    pub window: u64,
    pub pending_max: usize,
}

impl Geometry {
    /// The largest record that fits into a frame.
    pub(super) fn record_max(&self) -> usize {
        self.frame_max - HEADER_BYTES - RECORD_HEADER_BYTES
    }

    /// See L3.
    pub(super) fn reach(&self) -> u64 {
        (self.window.max(self.frame_max as u64) + self.frame_max as u64).min(self.ring)
    }
}

/// A frame's place and content. `T` stands for whoever waits for a record.
#[derive(Debug)]
pub(super) struct Frame<T> {
    pub position: u64,
    pub previous_end: u64,
    pub records: Vec<Record>,
    pub tokens: Vec<T>,
    body_bytes: usize,
    /// Sum of the records' sizes, for L4.
    record_bytes: usize,
}

impl<T> Frame<T> {
    pub(super) fn end(&self, block: usize) -> u64 {
        self.position + self.bytes(block) as u64
    }

    /// The frame without those who wait for it.
    pub(super) fn split(self) -> (Frame<()>, Vec<T>) {
        let Frame { position, previous_end, records, tokens, body_bytes, record_bytes } = self;
        (Frame { position, previous_end, records, tokens: Vec::new(), body_bytes, record_bytes }, tokens)
    }

    /// On the medium.
    pub(super) fn bytes(&self, block: usize) -> usize {
        frame_bytes(self.body_bytes, block)
    }
}

/// A record does not fit now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

enum Place {
    Open,
    New { position: u64, previous_end: u64 },
}

#[derive(Debug)]
pub(super) struct Layout<T> {
    geometry: Geometry,
    trimmed: u64,
    closed: VecDeque<Frame<T>>,
    open: Option<Frame<T>>,
    /// End of the last frame, the open one included.
    tail: u64,
    /// End of the last frame that was taken.
    taken: u64,
    under_way: usize,
    pending: usize,
}

impl<T> Layout<T> {
    pub(super) fn new(geometry: Geometry) -> Layout<T> {
        Layout {
            geometry,
            trimmed: 0,
            closed: VecDeque::new(),
            open: None,
            tail: 0,
            taken: 0,
            under_way: 0,
            pending: 0,
        }
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(super) fn trimmed(&self) -> u64 {
        self.trimmed
    }

    pub(super) fn used(&self) -> u64 {
        self.tail - self.trimmed
    }

    /// Whether a record of `size` bytes (meta and body) would be taken now.
    pub(super) fn fits(&self, size: usize) -> bool {
        self.place(size).is_ok()
    }

    /// Puts a record behind all others.
    ///
    /// # Panics
    /// If the record is over [`Geometry::record_max`].
    pub(super) fn append(&mut self, record: Record, token: T) -> Result<(), Full> {
        let size = record.size();
        if let Place::New { position, previous_end } = self.place(size)? {
            self.closed.extend(self.open.take());
            self.open = Some(Frame {
                position,
                previous_end,
                records: Vec::new(),
                tokens: Vec::new(),
                body_bytes: 0,
                record_bytes: 0,
            });
        }
        let frame = self.open.as_mut().expect("a place is in an open frame");
        frame.body_bytes += record_bytes(&record);
        frame.record_bytes += size;
        frame.records.push(record);
        frame.tokens.push(token);
        self.pending += size;
        self.tail = frame.end(self.geometry.block);
        assert!(self.tail <= self.trimmed + self.geometry.ring, "L2: a frame overwrites what is kept");
        Ok(())
    }

    fn place(&self, size: usize) -> Result<Place, Full> {
        let geometry = &self.geometry;
        assert!(size <= geometry.record_max(), "a record over the limit is refused before");
        if self.pending > 0 && self.pending + size > geometry.pending_max {
            return Err(Full);
        }
        let limit = self.trimmed + geometry.ring;
        if let Some(open) = &self.open {
            let bytes = frame_bytes(open.body_bytes + RECORD_HEADER_BYTES + size, geometry.block);
            let room = (geometry.ring - open.position % geometry.ring).min(geometry.frame_max as u64);
            if open.bytes(geometry.block) < geometry.frame_target && bytes as u64 <= room {
                return if open.position + bytes as u64 <= limit { Ok(Place::Open) } else { Err(Full) };
            }
        }
        let bytes = frame_bytes(RECORD_HEADER_BYTES + size, geometry.block) as u64;
        let lap_left = geometry.ring - self.tail % geometry.ring;
        let position = if bytes <= lap_left { self.tail } else { self.tail + lap_left };
        if position + bytes > limit {
            Err(Full)
        } else {
            Ok(Place::New { position, previous_end: self.tail })
        }
    }

    /// What the open frame waits for. Little while little is under way, so that no append waits for another's write where
    /// the medium has time for both; more and more where it has not, since few large writes cost less than many small ones.
    fn gather(&self) -> usize {
        let Some(further) = self.under_way.checked_sub(1) else { return 0 };
        let growth = GATHER_GROWTH.saturating_pow(further as u32);
        self.geometry.gather.saturating_mul(growth).min(self.geometry.frame_target)
    }

    /// Whether [`Layout::take`] would give a frame.
    pub(super) fn ready(&self, durable: u64) -> bool {
        let geometry = &self.geometry;
        if self.under_way >= geometry.writes_max {
            return false;
        }
        let next = match (self.closed.front(), &self.open) {
            (Some(frame), _) => frame,
            (None, Some(open)) if open.bytes(geometry.block) >= self.gather() => open,
            (None, _) => return false,
        };
        // L3.
        self.taken <= durable || next.end(geometry.block) <= durable + geometry.window
    }

    /// The next frame to write, if it is time. `durable` is the end of what is durable in order.
    pub(super) fn take(&mut self, durable: u64) -> Option<Frame<T>> {
        if !self.ready(durable) {
            return None;
        }
        let frame = self.closed.pop_front().or_else(|| self.open.take())?;
        assert!(frame.position >= self.taken, "L1: frames are written in order");
        self.taken = frame.end(self.geometry.block);
        self.under_way += 1;
        Some(frame)
    }

    /// A frame that was taken is written. `record_bytes` is [`Layout::pending_of`] of it.
    pub(super) fn written(&mut self, record_bytes: usize) {
        self.under_way -= 1;
        self.pending -= record_bytes;
    }

    pub(super) fn pending_of(frame: &Frame<T>) -> usize {
        frame.record_bytes
    }

    /// Whether everything that was appended is written.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way == 0 && self.open.is_none() && self.closed.is_empty()
    }

    /// Gives up what lies below `upto`; its space is free. Lower than before changes nothing.
    ///
    /// # Panics
    /// If frames beyond those that were taken would be given up.
    pub(super) fn trim(&mut self, upto: u64) {
        assert!(upto <= self.taken, "only what is written can be trimmed");
        self.trimmed = self.trimmed.max(upto);
    }

    /// Takes everything that is not under way, for a log that has failed.
    pub(super) fn drain(&mut self) -> Vec<Frame<T>> {
        let frames: Vec<_> = self.closed.drain(..).chain(self.open.take()).collect();
        self.pending -= frames.iter().map(|frame| frame.record_bytes).sum::<usize>();
        self.tail = self.taken;
        frames
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::Meta;

    const GEOMETRY: Geometry = Geometry {
        block: 4096,
        ring: 64 << 10,
        frame_max: 16 << 10,
        frame_target: 12 << 10,
        gather: 8 << 10,
        writes_max: 3,
        window: 24 << 10,
        pending_max: 40 << 10,
    };

    fn record(size: usize) -> Record {
        Record { kind: 0, meta: Meta::new(&[]), body: Bytes::from(vec![0; size]) }
    }

    #[test]
    fn records_gather_while_a_write_is_under_way() {
        let mut layout = Layout::new(GEOMETRY);
        layout.append(record(10), 0).unwrap();
        let first = layout.take(0).unwrap();
        assert_eq!((first.position, first.bytes(4096), first.tokens), (0, 4096, vec![0]));
        layout.append(record(10), 1).unwrap();
        layout.append(record(10), 2).unwrap();
        assert!(layout.take(0).is_none(), "a small frame waits for company");
        layout.append(record(5000), 3).unwrap();
        let second = layout.take(0).unwrap();
        assert_eq!((second.position, second.tokens), (4096, vec![1, 2, 3]));
        layout.append(record(10), 4).unwrap();
        assert!(layout.take(0).is_none());
        layout.written(10);
        layout.written(5020);
        assert_eq!(layout.take(12 << 10).unwrap().tokens, vec![4]);
    }

    #[test]
    fn with_each_write_under_way_the_next_one_gathers_more() {
        let geometry = Geometry { gather: 4 << 10, frame_target: 64 << 10, frame_max: 64 << 10, ..GEOMETRY };
        let geometry = Geometry { ring: 1 << 20, window: 1 << 20, pending_max: 1 << 20, ..geometry };
        let mut layout = Layout::new(Geometry { writes_max: 4, ..geometry });
        for (gathers, token) in [(1, 0), (4 << 10, 1), (16 << 10, 2), (64 << 10, 3)] {
            let mut bytes = 0;
            while layout.take(0).is_none() {
                assert!(bytes < gathers, "{gathers}");
                layout.append(record(2000), token).unwrap();
                bytes = layout.open.as_ref().map_or(gathers, |frame| frame.bytes(4096));
            }
            assert!(bytes >= gathers, "{bytes} of {gathers}");
        }
    }

    #[test]
    fn a_frame_that_would_cross_the_end_begins_the_next_lap() {
        let mut layout = Layout::new(GEOMETRY);
        for token in 0..4 {
            layout.append(record(14_000), token).unwrap();
            let frame = layout.take(token * (16 << 10)).unwrap();
            assert_eq!(frame.position, token * (16 << 10));
            layout.written(14_000);
        }
        assert_eq!(layout.append(record(1), 4), Err(Full));
        layout.trim(32 << 10);
        layout.append(record(1), 4).unwrap();
        let frame = layout.take(64 << 10).unwrap();
        assert_eq!((frame.position, frame.previous_end), (64 << 10, 64 << 10));
        layout.written(1);
        layout.append(record(14_000), 5).unwrap();
        assert_eq!(layout.take(68 << 10).unwrap().position, 68 << 10);
    }

    #[test]
    fn the_window_bounds_what_a_slow_write_lets_past() {
        let mut layout = Layout::new(GEOMETRY);
        for token in 0..3 {
            layout.append(record(12_000), token).unwrap();
        }
        assert_eq!(layout.take(0).unwrap().position, 0);
        // Ends at 24 KiB: within the window of 24 KiB. The third one would not.
        assert_eq!(layout.take(0).unwrap().position, 12 << 10);
        layout.written(12_000);
        assert!(layout.take(0).is_none(), "L3");
        assert_eq!(layout.take(12 << 10).unwrap().position, 24 << 10);
    }

    proptest! {
        /// Against a list of frames on a medium: nothing kept is overwritten, none crosses the end, the order holds, and
        /// every frame is within the reach of the oldest that is not durable.
        #[test]
        fn the_invariants_hold(steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>(), 0usize..15_000), 1..300)) {
            let mut layout = Layout::new(GEOMETRY);
            let mut next_token = 0;
            let mut expected_token = 0;
            // Frames under way: position, end, pending, written.
            let mut under_way: VecDeque<(u64, u64, usize, bool)> = VecDeque::new();
            let mut durable_starts = vec![0];
            let mut durable = 0;
            for (action, index, size) in steps {
                match action {
                    0 | 1 => {
                        let fits = layout.fits(size);
                        let taken = layout.append(record(size), next_token).is_ok();
                        prop_assert_eq!(fits, taken);
                        next_token += u64::from(taken);
                    }
                    2 => if let Some(frame) = layout.take(durable) {
                        for token in &frame.tokens {
                            prop_assert_eq!(*token, expected_token);
                            expected_token += 1;
                        }
                        let (position, end) = (frame.position, frame.end(GEOMETRY.block));
                        prop_assert!(frame.bytes(GEOMETRY.block) <= GEOMETRY.frame_max);
                        prop_assert_eq!(position / GEOMETRY.ring, (end - 1) / GEOMETRY.ring, "L1");
                        prop_assert!(end <= layout.trimmed() + GEOMETRY.ring, "L2");
                        let last = under_way.back().map_or(durable, |(_, end, _, _)| *end);
                        prop_assert_eq!(frame.previous_end, last);
                        if let Some((oldest, ..)) = under_way.front() {
                            prop_assert!(end <= oldest + GEOMETRY.window, "L3");
                        }
                        under_way.push_back((position, end, Layout::pending_of(&frame), false));
                        prop_assert!(under_way.iter().filter(|frame| !frame.3).count() <= GEOMETRY.writes_max);
                    },
                    _ => {
                        let left: Vec<_> = under_way.iter_mut().filter(|frame| !frame.3).collect();
                        if !left.is_empty() {
                            let at = index.index(left.len());
                            let frame = left.into_iter().nth(at).unwrap();
                            frame.3 = true;
                            layout.written(frame.2);
                        }
                        while let Some((position, end, _, true)) = under_way.front().copied() {
                            durable = end;
                            durable_starts.push(position);
                            under_way.pop_front();
                        }
                        if size > 7_000 {
                            layout.trim(durable_starts[index.index(durable_starts.len())]);
                        }
                    }
                }
                prop_assert!(layout.used() <= GEOMETRY.ring);
            }
        }
    }
}
