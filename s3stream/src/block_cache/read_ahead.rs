//! Who reads sequentially, and how far ahead to fetch for them. No I/O.
//!
//! A reader has no name here; it is known by the offset at which it must read on. A read that begins where one ended is
//! sequential. The window is twice what the reader has taken in sequence, so a reader that stops has wasted at most as much
//! again as it used, up to a maximum, and all windows together keep within half of the cache.

use std::collections::{BTreeMap, HashMap};

use super::Options;
use crate::StreamId;

/// The smallest window in bytes: about a block.
const WINDOW_MIN: u64 = 512 << 10;

#[derive(Debug)]
pub(super) struct ReadAhead {
    window_max: u64,
    /// What all windows may take together.
    budget: u64,
    readers_max: usize,
    readers: HashMap<Place, Reader>,
    /// By last use, oldest first.
    order: BTreeMap<u64, Place>,
    uses: u64,
    /// Readers with a window.
    sequential: u64,
}

/// Where a reader must read on.
type Place = (StreamId, u64);

#[derive(Clone, Copy, Debug, Default)]
struct Reader {
    used: u64,
    /// Bytes read in sequence.
    taken: u64,
    window: u64,
    /// Bytes that were read ahead and not yet taken.
    ahead: u64,
}

impl ReadAhead {
    pub fn new(options: &Options) -> ReadAhead {
        ReadAhead {
            window_max: options.read_ahead_bytes_max,
            budget: options.cache_bytes / 2,
            readers_max: options.readers_max,
            readers: HashMap::new(),
            order: BTreeMap::new(),
            uses: 0,
            sequential: 0,
        }
    }

    /// A read from `from` gave `bytes` and goes on at `next`. Says how many bytes from `next` on to have in the cache,
    /// if there is something to do about it.
    pub fn advance(&mut self, stream: StreamId, from: u64, next: u64, bytes: u64) -> Option<u64> {
        if next <= from || self.window_max == 0 || self.readers_max == 0 {
            return None;
        }
        let known = self.remove((stream, from));
        let mut reader = known.unwrap_or_default();
        reader.taken = reader.taken.saturating_add(bytes);
        reader.ahead = reader.ahead.saturating_sub(bytes);
        if known.is_some() {
            let share = self.budget / (self.sequential + 1);
            reader.window = reader
                .taken
                .saturating_mul(2)
                .clamp(WINDOW_MIN, self.window_max.max(WINDOW_MIN))
                .min(self.window_max)
                .min(share);
        }
        // Two readers met: from here on they are one.
        if let Some(other) = self.remove((stream, next)) {
            reader.taken = reader.taken.max(other.taken);
            reader.window = reader.window.max(other.window);
            reader.ahead = reader.ahead.max(other.ahead);
        }
        self.insert((stream, next), reader);
        (reader.window > 0 && reader.ahead <= reader.window / 2).then_some(reader.window)
    }

    /// `bytes` from `next` on are being fetched.
    pub fn granted(&mut self, stream: StreamId, next: u64, bytes: u64) {
        if let Some(reader) = self.readers.get_mut(&(stream, next)) {
            reader.ahead = bytes;
        }
    }

    fn remove(&mut self, place: Place) -> Option<Reader> {
        let reader = self.readers.remove(&place)?;
        self.order.remove(&reader.used);
        self.sequential -= u64::from(reader.window > 0);
        Some(reader)
    }

    fn insert(&mut self, place: Place, mut reader: Reader) {
        if self.readers.len() == self.readers_max
            && let Some((_, oldest)) = self.order.first_key_value()
        {
            self.remove(*oldest);
        }
        self.uses += 1;
        reader.used = self.uses;
        self.sequential += u64::from(reader.window > 0);
        self.order.insert(self.uses, place);
        self.readers.insert(place, reader);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const STREAM: StreamId = StreamId(1);

    fn machine(readers_max: usize, cache_bytes: u64) -> ReadAhead {
        ReadAhead::new(&Options { readers_max, cache_bytes, ..Options::default() })
    }

    #[test]
    fn a_window_grows_with_what_was_read_in_sequence() {
        let mut machine = machine(10, 256 * MIB);
        let windows: Vec<_> =
            (0..8).map(|at| machine.advance(STREAM, at * 10, at * 10 + 10, MIB / 4)).collect();
        assert_eq!(windows[0], None, "one read is not a sequence");
        assert_eq!(windows[1], Some(MIB));
        assert_eq!(windows[3], Some(2 * MIB));
        assert_eq!(machine.advance(STREAM, 80, 90, 100 * MIB), Some(8 * MIB), "never beyond the maximum");
    }

    #[test]
    fn nothing_is_asked_for_while_enough_is_ahead() {
        let mut machine = machine(10, 256 * MIB);
        machine.advance(STREAM, 0, 10, 100 * MIB);
        assert_eq!(machine.advance(STREAM, 10, 20, MIB), Some(8 * MIB));
        machine.granted(STREAM, 20, 8 * MIB);
        for at in 2..5 {
            assert_eq!(machine.advance(STREAM, at * 10, at * 10 + 10, MIB), None);
        }
        assert_eq!(machine.advance(STREAM, 50, 60, MIB), Some(8 * MIB));
    }

    #[test]
    fn random_reads_are_never_read_ahead_for() {
        let mut machine = machine(10, 256 * MIB);
        for at in 0..100 {
            assert_eq!(machine.advance(STREAM, at * 10, at * 10 + 5, MIB), None);
        }
        assert_eq!(machine.advance(STREAM, 7, 7, 0), None);
    }

    #[test]
    fn the_number_of_readers_is_bounded_and_the_oldest_goes() {
        let mut machine = machine(3, 256 * MIB);
        for stream in 0..100 {
            machine.advance(StreamId(stream), 0, 10, MIB);
        }
        assert_eq!((machine.readers.len(), machine.order.len()), (3, 3));
        assert_eq!(machine.advance(StreamId(0), 10, 20, MIB), None);
        assert!(machine.advance(StreamId(99), 10, 20, MIB).is_some());
    }

    #[test]
    fn all_windows_together_keep_within_half_of_the_cache() {
        let mut machine = machine(1000, 32 * MIB);
        let mut last = 0;
        for stream in 0..64 {
            machine.advance(StreamId(stream), 0, 10, 100 * MIB);
            last = machine.advance(StreamId(stream), 10, 20, MIB).unwrap();
        }
        assert_eq!(last, 16 * MIB / 64);
        assert_eq!(machine.sequential, 64);
    }
}
