//! Since when this process knows of a state, by the monotonic clock. Pure.
//!
//! States are numbered, and what is garbage as of one stays so until it is deleted (G6). So one pair of a time and a
//! number stands for all garbage there was, and a few pairs for all of the delay.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Marks that are kept: a state is known for the delay a 64th of it late at most. No option: 24 bytes each.
const MARKS_MAX: u32 = 64;

#[derive(Debug)]
pub(super) struct Seen {
    delay: Duration,
    /// Ascending in both.
    marks: VecDeque<(Instant, u64)>,
}

impl Seen {
    pub fn new(delay: Duration) -> Seen {
        Seen { delay, marks: VecDeque::new() }
    }

    /// `state` has been seen, not later than `now`.
    pub fn note(&mut self, now: Instant, state: u64) {
        let due = self.marks.back().is_none_or(|(at, last)| {
            *last < state && now.saturating_duration_since(*at) >= self.delay / MARKS_MAX
        });
        if due {
            self.marks.push_back((now, state));
        }
    }

    /// The latest state that was seen the delay ago, or before.
    pub fn for_the_delay(&mut self, now: Instant) -> Option<u64> {
        let old = |(at, _): &(Instant, u64)| now.saturating_duration_since(*at) >= self.delay;
        while self.marks.get(1).is_some_and(old) {
            self.marks.pop_front();
        }
        self.marks.front().filter(|mark| old(mark)).map(|(_, state)| *state)
    }

    /// When `state` will have been known for the delay; when that can be noted, if it was not yet.
    pub fn due_in(&self, now: Instant, state: u64) -> Duration {
        let at = match (self.marks.iter().find(|(_, marked)| *marked >= state), self.marks.back()) {
            (Some((marked_at, _)), _) => *marked_at + self.delay,
            (None, Some((last_at, _))) => *last_at + self.delay / MARKS_MAX,
            (None, None) => now,
        };
        at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_counts_once_it_was_known_for_the_delay_and_the_bound_holds() {
        let delay = Duration::from_secs(640);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut seen = Seen::new(delay);
        assert_eq!(seen.for_the_delay(at(0)), None);
        for second in 0..10_000u64 {
            seen.note(at(second), second);
            // Again, of the same state or an older one: known since the first time.
            seen.note(at(second), second / 2);
            let known = seen.for_the_delay(at(second));
            assert!(known.is_none_or(|known| known + 640 <= second), "{known:?} at {second}");
            // Whoever comes back when told to finds it known after two waits at most, no earlier and not much later.
            let noted_in = seen.due_in(at(second), second);
            assert!(
                noted_in == delay || noted_in <= delay / MARKS_MAX && !noted_in.is_zero(),
                "{noted_in:?} at {second}"
            );
            let known_in = seen.due_in(at(second), second.saturating_sub(100)).as_secs();
            assert!((530..=550).contains(&known_in) || second < 110, "{known_in} s at {second}");
            if second >= 660 {
                assert!(known.is_some_and(|known| known + 640 + 10 >= second), "{known:?} at {second}");
            }
            assert!(seen.marks.len() <= MARKS_MAX as usize + 2);
        }
        assert_eq!(seen.for_the_delay(at(1_000_000)), Some(9_990), "the last one that was noted");
        assert_eq!(seen.due_in(at(1_000_000), 9_000), Duration::ZERO);
        assert_eq!(Seen::new(delay).due_in(start, 7), Duration::ZERO);
    }
}
