//! The numbers of this incarnation's data objects, and which of them may still come to be committed.
//!
//! ```text
//!   0 … 6          │ 7 … 11                 │ 12 …
//!   settled        │ some may be committed  │ not taken yet
//!                  └ lowest_in_flight
//! ```
//!
//! Whoever writes objects begins a [`Writing`] before it takes the first number and drops it once the outcome of the
//! commit is known: accepted, or given up for good. What lies below the lowest of them and is not named by the metadata
//! by then never will be: the collector publishes that bound, and deletes (O5). To be wrong here would cost a commit,
//! not data: the metadata rejects what lies below the published bound.
//!
//! # Invariants
//! - A number is taken once in an incarnation. (Those of recoveries are elsewhere: in the upper half.)
//! - [`Counters::lowest_in_flight`] never goes back, and no [`Writing`] that is under way has taken, or will take, a
//!   number below it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Recoveries number their objects from here on, so that they need nothing of the engine's.
pub(crate) const COUNTER_OF_RECOVERY: u64 = 1 << 63;

/// A cheap handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Where those under way began, and how many began there. As many as there are uploads and compactions at once.
    floors: BTreeMap<u64, usize>,
}

/// Objects being written, up to the outcome of their commit.
#[derive(Debug)]
pub(crate) struct Writing {
    counters: Counters,
    /// No number that it takes is lower.
    floor: u64,
}

impl Counters {
    pub fn begin(&self) -> Writing {
        let mut state = self.state.lock();
        let floor = state.next;
        *state.floors.entry(floor).or_default() += 1;
        Writing { counters: self.clone(), floor }
    }

    /// No number below will be in a commit from now on, unless it was in one before.
    pub fn lowest_in_flight(&self) -> u64 {
        let state = self.state.lock();
        state.floors.first_key_value().map_or(state.next, |(floor, _)| *floor)
    }
}

impl Writing {
    /// Takes the next number.
    pub fn next(&self) -> u64 {
        let mut state = self.counters.state.lock();
        let counter = state.next;
        assert!(
            counter >= self.floor && counter < COUNTER_OF_RECOVERY,
            "the upper half belongs to recoveries"
        );
        state.next += 1;
        counter
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut state = self.counters.state.lock();
        let count = state.floors.get_mut(&self.floor).expect("registered when it began");
        *count -= 1;
        if *count == 0 {
            state.floors.remove(&self.floor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_holds_the_bound_back_until_its_end() {
        let counters = Counters::default();
        assert_eq!(counters.lowest_in_flight(), 0);
        let first = counters.begin();
        let second = counters.begin();
        assert_eq!((first.next(), second.next(), first.next()), (0, 1, 2));
        let third = counters.begin();
        drop(first);
        assert_eq!(counters.lowest_in_flight(), 0, "the second began there too");
        drop(second);
        assert_eq!(counters.lowest_in_flight(), 3);
        drop(third);
        assert_eq!(counters.lowest_in_flight(), 3);
        assert_eq!(counters.begin().next(), 3, "no number is taken twice");
    }

    proptest::proptest! {
        /// Random beginnings, numbers and ends: the bound never goes back and never passes a number of what is under way.
        #[test]
        fn the_bound_is_below_all_that_is_under_way(steps in proptest::collection::vec((0u8..4, 0usize..8), 1..200)) {
            let counters = Counters::default();
            let mut writing: Vec<(Writing, Vec<u64>)> = Vec::new();
            let mut taken = 0;
            let mut bound = 0;
            for (step, pick) in steps {
                match step {
                    0 => writing.push((counters.begin(), Vec::new())),
                    1 | 2 if !writing.is_empty() => {
                        let at = pick % writing.len();
                        let (writer, numbers) = &mut writing[at];
                        let number = writer.next();
                        assert_eq!(number, taken);
                        taken += 1;
                        numbers.push(number);
                    }
                    3 if !writing.is_empty() => drop(writing.swap_remove(pick % writing.len())),
                    _ => {}
                }
                let lowest = counters.lowest_in_flight();
                assert!(lowest >= bound, "went back");
                bound = lowest;
                assert!(writing.iter().flat_map(|(_, numbers)| numbers).all(|number| *number >= bound));
                if writing.is_empty() {
                    assert_eq!(bound, taken, "nothing is under way");
                }
            }
        }
    }
}
