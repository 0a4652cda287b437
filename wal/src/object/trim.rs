//! Slots that are trimmed, until they are deleted (O5).

use std::collections::VecDeque;
use std::time::Duration;

/// Runs of slots that wait for their deletion. No option: further ones join the newest run.
const RUNS_MAX: usize = 1_024;

/// What the writer's slots hold, and when trimmed ones may go. Pure; times are durations since any fixed moment.
#[derive(Debug)]
pub(super) struct Slots {
    delete_delay: Duration,
    /// Slots at or beyond the trim point, oldest first, with their bytes.
    held: VecDeque<(u64, u64)>,
    held_bytes: u64,
    /// The trim point.
    trimmed: u64,
    /// Trimmed slots `[from, to)` and when they may be deleted, oldest first.
    condemned: VecDeque<(u64, u64, Duration)>,
}

impl Slots {
    pub(super) fn new(delete_delay: Duration) -> Slots {
        Slots { delete_delay, held: VecDeque::new(), held_bytes: 0, trimmed: 0, condemned: VecDeque::new() }
    }

    /// How many slots lie at or beyond the trim point.
    pub(super) fn held(&self) -> u64 {
        self.held.len() as u64
    }

    /// A slot is being written.
    pub(super) fn add(&mut self, slot: u64, bytes: u64) {
        self.held.push_back((slot, bytes));
        self.held_bytes += bytes;
    }

    /// Slots below `upto` hold nothing of value any more. False if that is nothing new.
    pub(super) fn trim(&mut self, now: Duration, upto: u64) -> bool {
        if upto <= self.trimmed {
            return false;
        }
        while let Some(&(slot, bytes)) = self.held.front()
            && slot < upto
        {
            self.held.pop_front();
            self.held_bytes -= bytes;
        }
        let due = now + self.delete_delay;
        // Where deletes do not get through, runs grow instead of the queue; later is always safe.
        let crowded = self.condemned.len() >= RUNS_MAX;
        match self.condemned.back_mut() {
            // Neighbours that fall due within a second are one run: frequent trims do not make the queue long.
            Some((_, to, last_due))
                if *to == self.trimmed && (due < *last_due + Duration::from_secs(1) || crowded) =>
            {
                *to = upto;
                *last_due = due;
            }
            _ => self.condemned.push_back((self.trimmed, upto, due)),
        }
        self.trimmed = upto;
        true
    }

    /// The next run of slots `[from, to)` to delete, or the time at which there is one.
    pub(super) fn due(&mut self, now: Duration) -> Due {
        match self.condemned.front() {
            None => Due::Nothing,
            Some(&(_, _, due)) if now < due => Due::At(due),
            Some(_) => {
                let (from, mut to, _) = self.condemned.pop_front().expect("there is one");
                if host::planted("delete-beyond-trim") {
                    to += 8;
                }
                Due::Now { from, to }
            }
        }
    }

    /// The run could not be deleted, not all of it at least: it falls due again.
    pub(super) fn retry(&mut self, (from, to): (u64, u64), due: Duration) {
        self.condemned.push_front((from, to, due));
    }

    pub(super) fn trimmed(&self) -> u64 {
        self.trimmed
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    At(Duration),
    Now { from: u64, to: u64 },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn slots_go_only_after_the_delay_and_only_below_the_trim_point() {
        let mut slots = Slots::new(secs(100));
        (0..10).for_each(|slot| slots.add(slot, 5));
        assert_eq!((slots.due(secs(0)), slots.held_bytes()), (Due::Nothing, 50));
        assert!(slots.trim(secs(1), 4));
        assert!(!slots.trim(secs(1), 4) && !slots.trim(secs(1), 2), "idempotent and monotone");
        assert_eq!((slots.trimmed(), slots.held_bytes()), (4, 30));
        assert!(slots.trim(secs(50), 6));
        assert_eq!(slots.due(secs(100)), Due::At(secs(101)));
        assert_eq!(slots.due(secs(101)), Due::Now { from: 0, to: 4 });
        assert_eq!(slots.due(secs(101)), Due::At(secs(150)));
        assert_eq!(slots.due(secs(500)), Due::Now { from: 4, to: 6 });
        assert_eq!(slots.due(secs(500)), Due::Nothing);
    }

    #[test]
    fn a_store_that_deletes_nothing_does_not_make_the_queue_long() {
        let mut slots = Slots::new(secs(10));
        for upto in 1..=10_000 {
            slots.trim(secs(2 * upto), upto);
            if let Due::Now { from, to } = slots.due(secs(2 * upto)) {
                slots.retry((from, to), secs(2 * upto + 1));
            }
        }
        assert!(slots.condemned.len() <= RUNS_MAX + 1, "{} runs", slots.condemned.len());
        let mut deleted = 0;
        while let Due::Now { from, to } = slots.due(secs(30_000)) {
            assert_eq!(from, deleted, "runs are dense");
            deleted = to;
        }
        assert_eq!(deleted, 10_000);
    }

    #[test]
    fn frequent_trims_make_one_run_whose_last_slot_still_waits_its_time() {
        let mut slots = Slots::new(secs(10));
        for upto in 1..=1_000 {
            slots.trim(Duration::from_millis(upto), upto);
        }
        assert!(slots.condemned.len() <= 2);
        assert_eq!(slots.due(secs(10)), Due::At(Duration::from_millis(11_000)));
        assert_eq!(slots.due(secs(11)), Due::Now { from: 0, to: 1_000 });
    }
}
