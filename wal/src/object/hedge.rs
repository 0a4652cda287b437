//! When a PUT is so late that a second one goes beside it. A state machine: no clock, no I/O.
//!
//! Acknowledgements are in order, so one slow PUT holds up everything behind it. A store that takes long for one request
//! usually answers another one in its usual time. Both create the same key with the same bytes, so whichever lands first
//! is the slot, and the other one finds that (O4: "already exists" is resolved by reading).
//!
//! - **H1** A PUT is late once it has taken `hedge_factor` times as long as one of its size takes by what was seen lately,
//!   at least `hedge_min`; but no later than so many times the average of all, and as long as its bytes may take besides.
//!   Nothing is late before a first PUT was answered.
//! - **H2** An attempt is doubled once at most, and doubles are at most one in ten PUTs, a few in a row apart: a store that has
//!   become slow as a whole is not asked for twice as much.
//! - **H3** One PUT teaches little: it counts as [`LEARNED_MAX`] times what it was expected to take, if it took longer. An outage is
//!   no measure of what follows it.
//!
//! What a PUT takes by its size is a straight line through the last few dozen, least squares. Where they were all of about
//! one size there is no telling how steep it is: then it is as steep as the slowest transfer that is waited for towards larger
//! ones, and flat towards smaller ones.

use std::time::Duration;

use super::Config;

#[derive(Debug)]
pub(super) struct Hedge {
    factor: f64,
    min: Duration,
    /// The most that a byte may take, in seconds.
    per_byte_max: f64,
    /// What PUTs take lately.
    line: Option<Line>,
    /// Doubles that may be sent now.
    credit: f64,
}

/// Weighted means: of sizes (bytes), of times (seconds), and how they vary together.
#[derive(Debug)]
struct Line {
    bytes: f64,
    seconds: f64,
    variance: f64,
    covariance: f64,
}

/// The weight of the newest PUT in the averages.
const NEWEST: f64 = 1.0 / 32.0;
/// See H3.
const LEARNED_MAX: f64 = 4.0;
/// How far apart sizes have to be for their times to say something about bytes: the square of 64 KiB.
const APART: f64 = (64.0 * 1024.0) * (64.0 * 1024.0);
/// Doubles earned by a PUT, and how many can be saved up.
const SHARE: f64 = 0.1;
const CREDIT_MAX: f64 = 4.0;

impl Line {
    /// What a PUT of `bytes` takes.
    fn at(&self, bytes: f64, per_byte_max: f64) -> f64 {
        let more = bytes - self.bytes;
        let unknown = if more > 0.0 { per_byte_max } else { 0.0 };
        let slope = (self.covariance + unknown * APART) / (self.variance + APART);
        (self.seconds + slope.clamp(0.0, per_byte_max) * more).max(0.0)
    }

    fn learn(&mut self, bytes: f64, seconds: f64) {
        let (more, longer) = (bytes - self.bytes, seconds - self.seconds);
        self.bytes += more * NEWEST;
        self.seconds += longer * NEWEST;
        self.variance = (1.0 - NEWEST) * (self.variance + NEWEST * more * more);
        self.covariance = (1.0 - NEWEST) * (self.covariance + NEWEST * more * longer);
    }
}

impl Hedge {
    pub(super) fn new(config: &Config) -> Hedge {
        Hedge {
            factor: config.hedge_factor,
            min: config.hedge_min,
            per_byte_max: 1.0 / config.bytes_per_second_min as f64,
            line: None,
            credit: CREDIT_MAX,
        }
    }

    /// When a PUT of `bytes` is late, if ever.
    pub(super) fn after(&self, bytes: usize) -> Option<Duration> {
        let line = self.line.as_ref().filter(|_| self.factor > 0.0)?;
        let min = self.min.as_secs_f64();
        let of_its_size = (line.at(bytes as f64, self.per_byte_max) * self.factor).max(min);
        let at_most = (line.seconds * self.factor).max(min) + bytes as f64 * self.per_byte_max;
        Some(Duration::from_secs_f64(of_its_size.min(at_most)))
    }

    /// Whether a double may be sent now; then it counts as sent.
    pub(super) fn double(&mut self) -> bool {
        let may = self.credit >= 1.0;
        if may {
            self.credit -= 1.0;
        }
        may
    }

    /// A slot of `bytes` was there after `took`.
    pub(super) fn done(&mut self, bytes: usize, took: Duration) {
        let (bytes, took) = (bytes as f64, took.as_secs_f64());
        match &mut self.line {
            Some(line) => {
                let expected = line.at(bytes, self.per_byte_max);
                // What was next to nothing may become something.
                let most = (expected * LEARNED_MAX).max(self.min.as_secs_f64());
                line.learn(bytes, took.min(most));
            }
            None => {
                self.line = Some(Line { bytes, seconds: took, variance: 0.0, covariance: 0.0 });
            }
        }
        self.credit = (self.credit + SHARE).min(CREDIT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: usize = 1 << 20;

    fn hedge(factor: f64) -> Hedge {
        Hedge::new(&Config {
            hedge_factor: factor,
            hedge_min: Duration::from_millis(50),
            ..Config::default()
        })
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn late_is_measured_by_what_puts_took_lately() {
        let mut hedge = hedge(3.0);
        assert_eq!(hedge.after(0), None, "nothing is known yet");
        hedge.done(0, ms(10));
        assert_eq!(hedge.after(0), Some(ms(50)));
        assert_eq!(hedge.after(8 * MIB), Some(ms(8050)), "nothing is known of large ones");
        for _ in 0..1_000 {
            hedge.done(0, ms(100));
        }
        let after = hedge.after(0).unwrap();
        assert!((after.as_secs_f64() - 0.3).abs() < 0.001, "{after:?}");
    }

    /// H1: 60 ms, and 10 more for each MiB.
    #[test]
    fn large_slots_are_late_by_what_large_ones_take() {
        let mut hedge = hedge(3.0);
        for round in 0..200 {
            let mib = [0, 1, 8][round % 3];
            hedge.done(mib * MIB, ms(60 + 10 * mib as u64));
        }
        for (mib, expected) in [(0, 180.0), (1, 210.0), (8, 420.0), (16, 660.0)] {
            let after = hedge.after(mib * MIB).unwrap().as_secs_f64() * 1e3;
            assert!((after / expected - 1.0).abs() < 0.1, "{mib} MiB: {after} ms, not {expected}");
        }
    }

    /// H3: eight PUTs, as many as are under way, meet an outage of a minute.
    #[test]
    fn an_outage_is_soon_forgotten() {
        let mut hedge = hedge(3.0);
        let done = |hedge: &mut Hedge, count, took| (0..count).for_each(|_| hedge.done(8 << 10, took));
        done(&mut hedge, 100, ms(40));
        let before = hedge.after(8 << 10).unwrap();
        done(&mut hedge, 8, Duration::from_secs(60));
        let after = hedge.after(8 << 10).unwrap();
        assert!(after > before && after < before * 5 / 2, "{before:?}, then {after:?}");
        done(&mut hedge, 64, ms(40));
        let later = hedge.after(8 << 10).unwrap();
        assert!(later < before * 5 / 4, "{before:?}, after a while {later:?}");
    }

    /// A store that has become slow for good is believed in the end.
    #[test]
    fn a_lasting_change_is_learned() {
        let mut hedge = hedge(3.0);
        hedge.done(0, ms(1));
        for _ in 0..200 {
            hedge.done(0, ms(500));
        }
        assert!(hedge.after(0).unwrap() > ms(1_400), "{:?}", hedge.after(0));
    }

    proptest! {
        /// H1: between `hedge_min`, and what the average and the slowest transfer allow.
        #[test]
        fn it_is_never_later_than_the_slowest_transfer(
            puts in proptest::collection::vec((0usize..32 * MIB, 0u64..20_000), 1..100),
            bytes in 0usize..256 * MIB,
        ) {
            let mut hedge = hedge(3.0);
            for (bytes, took_ms) in puts {
                hedge.done(bytes, ms(took_ms));
                let average = hedge.line.as_ref().unwrap().seconds;
                let most = (average * 3.0).max(0.05) + bytes as f64 / MIB as f64;
                let after = hedge.after(bytes).unwrap().as_secs_f64();
                prop_assert!((0.05 - 1e-9..=most + 1e-6).contains(&after), "{after} of {most}");
            }
            prop_assert!(hedge.after(bytes).is_some());
        }
    }

    #[test]
    fn a_factor_of_zero_is_never() {
        let mut hedge = hedge(0.0);
        hedge.done(0, ms(10));
        assert_eq!(hedge.after(0), None);
    }

    #[test]
    fn doubles_are_few() {
        let mut hedge = hedge(3.0);
        let mut doubles = 0;
        for _ in 0..1_000 {
            doubles += u32::from(hedge.double());
            doubles += u32::from(hedge.double());
            hedge.done(0, Duration::from_secs(1));
        }
        assert!((95..=104).contains(&doubles), "{doubles} doubles of 1,000 PUTs");
    }
}
