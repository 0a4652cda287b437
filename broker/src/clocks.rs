//! Whether the wall clock may be believed when something is about to go for its age.
//!
//! A wall clock that ran ahead of the monotonic one by more than [`JUMP_MAX`] between two looks is not believed at the second
//! one: what is set to another year for a moment costs nothing; what stays there is believed at the look after that. The
//! first look has nothing to compare with, and is not believed either: a machine may start with a wrong clock, and set it
//! soon after. A clock that was set back makes nothing old.

use std::time::Duration;

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
}
