//! Whether the wall clock may be believed when something is about to go for its age. Whether a broker lives, and what is
//! acknowledged, never depends on a wall clock.
//!
//! **It jumped.** A wall clock that ran ahead of the monotonic one by more than [`JUMP_MAX`] between two looks is not believed
//! at the second one: what is set to another year for a moment costs nothing; what stays there is believed at the look after
//! that. The first look has nothing to compare with, and is not believed either: a machine may start with a wrong clock, and
//! set it soon after. A clock that was set back makes nothing old. ([`Clocks`])
//!
//! **It is outvoted.** A wall clock that is ahead of those of half of all brokers by more than [`JUMP_MAX`] is not believed as
//! long as that is so: one broker whose clock is hours ahead costs no records, nor do two of which nobody knows whose clock
//! is right. One whose clock is behind keeps nobody else from believing theirs, unless there are only two. ([`Skews`])

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use wal::Incarnation;

/// How far the wall clock may run ahead of the monotonic one between two looks. No option: clocks that are corrected move
/// by seconds, clocks that are wrong by much more.
pub const JUMP_MAX: Duration = Duration::from_secs(600);

/// Compares the two clocks, from one look to the next.
#[derive(Debug, Default)]
pub struct Clocks(Option<(Duration, i64)>);

impl Clocks {
    /// The monotonic clock has come to `monotonic`, from wherever it began, and the wall clock shows `wall_ms`. Whether that is
    /// to be believed.
    pub fn look(&mut self, monotonic: Duration, wall_ms: i64) -> bool {
        let last = self.0.replace((monotonic, wall_ms));
        last.is_some_and(|(then, then_ms)| {
            let elapsed = monotonic.saturating_sub(then).saturating_add(JUMP_MAX);
            i128::from(wall_ms) - i128::from(then_ms) <= elapsed.as_millis() as i128
        })
    }
}

/// What two clocks may be apart before people are told. No option: clocks that are looked after are apart by milliseconds.
pub const SKEW_MAX: Duration = Duration::from_secs(5);

/// By how much another clock is ahead of ours, in milliseconds, if it showed `theirs` between our `before` and `after`.
/// However long the question took, a clock that is right is 0 ahead.
pub fn skew_ms(before: i64, theirs: i64, after: i64) -> i64 {
    let (before, after) = (before.min(after), before.max(after));
    theirs.saturating_sub(theirs.clamp(before, after))
}

/// By how much the clocks of the other brokers are ahead of ours.
#[derive(Debug, Default)]
pub struct Skews(Mutex<BTreeMap<Incarnation, i64>>);

impl Skews {
    pub fn saw(&self, life: Incarnation, ahead_ms: i64) {
        self.0.lock().insert(life, ahead_ms);
    }

    pub fn of(&self, life: Incarnation) -> Option<i64> {
        self.0.lock().get(&life).copied()
    }

    /// Forgets all lives but these.
    pub fn keep(&self, lives: impl Fn(Incarnation) -> bool) {
        self.0.lock().retain(|life, _| lives(*life));
    }

    /// Whether our clock is too far ahead of those of half of all brokers that were heard, ourselves included.
    pub fn outvote_us(&self) -> bool {
        let skews = self.0.lock();
        let far = -(JUMP_MAX.as_millis() as i64);
        let behind = skews.values().filter(|ahead_ms| **ahead_ms < far).count();
        2 * behind > skews.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_ahead_is_believed_only_if_it_stays_there() {
        let mut clocks = Clocks::default();
        let year = 365 * 86_400_000i64;
        let mut monotonic = Duration::from_secs(7);
        let mut look = |wall_ms: i64| {
            monotonic += Duration::from_secs(300);
            clocks.look(monotonic, wall_ms)
        };
        assert!(!look(1_000), "there is nothing to compare with");
        assert!(look(301_000));
        assert!(look(301_000 + 900_000), "so much is no jump");
        assert!(!look(10 * year));
        assert!(look(10 * year + 300_000), "it stayed");
        assert!(look(5_000), "back: nothing is old then, and no start moves back");
        assert!(!look(i64::MAX));
        assert!(look(i64::MIN));
    }
    #[test]
    fn a_question_that_takes_long_makes_no_clock_wrong() {
        assert_eq!(skew_ms(1_000, 1_500, 9_000), 0);
        assert_eq!(skew_ms(1_000, 9_500, 9_000), 500);
        assert_eq!(skew_ms(1_000, 400, 9_000), -600);
        // Ours was set back meanwhile.
        assert_eq!(skew_ms(9_000, 1_500, 1_000), 0);
        assert_eq!(skew_ms(0, i64::MAX, 1), i64::MAX - 1);
        assert_eq!(skew_ms(0, i64::MIN, 1), i64::MIN);
    }

    #[test]
    fn a_clock_that_is_ahead_of_half_of_all_is_outvoted() {
        const HOUR: i64 = 3_600_000;
        let outvoted = |others: &[i64]| {
            let skews = Skews::default();
            for (broker, ahead_ms) in (2..).zip(others) {
                skews.saw(Incarnation { broker, epoch: 1 }, *ahead_ms);
            }
            skews.outvote_us()
        };
        assert!(!outvoted(&[]), "alone");
        assert!(!outvoted(&[0, 2_000]));
        assert!(!outvoted(&[5 * HOUR, 5 * HOUR]), "what is behind makes nothing old");
        // Nobody knows which of two is right.
        assert!(outvoted(&[-HOUR]));
        assert!(outvoted(&[-HOUR, -HOUR]));
        assert!(!outvoted(&[-HOUR, 0]), "one that is behind outvotes nobody");
        assert!(outvoted(&[-HOUR, -HOUR, 0]));
        assert!(!outvoted(&[i64::MIN, 0, 0]));
        // By what clocks that are corrected may differ: not at all.
        assert!(!outvoted(&[-(JUMP_MAX.as_millis() as i64)]));
        let skews = Skews::default();
        skews.saw(Incarnation { broker: 2, epoch: 1 }, -HOUR);
        skews.keep(|_| false);
        assert!(!skews.outvote_us(), "who is gone has no vote");
    }
}
