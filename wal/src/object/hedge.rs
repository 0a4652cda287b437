//! When a PUT is so late that a second one goes beside it. A state machine: no clock, no I/O.
//!
//! Acknowledgements are in order, so one slow PUT holds up everything behind it. A store that takes long for one request
//! usually answers another one in its usual time. Both create the same key with the same bytes, so whichever lands first
//! is the slot, and the other one finds that (O4: "already exists" is resolved by reading).
//!
//! - **H1** A PUT is late once it has taken `hedge_factor` times as long as PUTs took on average lately, at least
//!   `hedge_min`, and as long as its bytes may take besides. Nothing is late before a first PUT was answered.
//! - **H2** An attempt is doubled once at most, and doubles are at most one in ten PUTs, a few in a row apart: a store that has
//!   become slow as a whole is not asked for twice as much.

use std::time::Duration;

use super::Config;

#[derive(Debug)]
pub(super) struct Hedge {
    factor: f64,
    min: Duration,
    /// What a PUT takes lately, in seconds.
    usual: Option<f64>,
    /// Doubles that may be sent now.
    credit: f64,
}

/// The weight of the newest PUT in the average.
const NEWEST: f64 = 1.0 / 32.0;
/// Doubles earned by a PUT, and how many can be saved up.
const SHARE: f64 = 0.1;
const CREDIT_MAX: f64 = 4.0;

impl Hedge {
    pub(super) fn new(config: &Config) -> Hedge {
        Hedge { factor: config.hedge_factor, min: config.hedge_min, usual: None, credit: CREDIT_MAX }
    }

    /// When a PUT of `bytes` is late, if ever. `transfer` is how long the bytes may take.
    pub(super) fn after(&self, transfer: Duration) -> Option<Duration> {
        let usual = self.usual.filter(|_| self.factor > 0.0)?;
        Some(Duration::from_secs_f64(usual * self.factor).max(self.min) + transfer)
    }

    /// Whether a double may be sent now; then it counts as sent.
    pub(super) fn double(&mut self) -> bool {
        let may = self.credit >= 1.0;
        if may {
            self.credit -= 1.0;
        }
        may
    }

    /// A slot was there after `took`.
    pub(super) fn done(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        self.usual = Some(self.usual.map_or(took, |usual| usual + (took - usual) * NEWEST));
        self.credit = (self.credit + SHARE).min(CREDIT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hedge(factor: f64) -> Hedge {
        Hedge::new(&Config {
            hedge_factor: factor,
            hedge_min: Duration::from_millis(50),
            ..Config::default()
        })
    }

    #[test]
    fn late_is_measured_by_what_puts_took_lately() {
        let mut hedge = hedge(3.0);
        assert_eq!(hedge.after(Duration::ZERO), None, "nothing is known yet");
        hedge.done(Duration::from_millis(10));
        assert_eq!(hedge.after(Duration::ZERO), Some(Duration::from_millis(50)));
        assert_eq!(hedge.after(Duration::from_secs(8)), Some(Duration::from_millis(8050)));
        for _ in 0..1_000 {
            hedge.done(Duration::from_millis(100));
        }
        let after = hedge.after(Duration::ZERO).unwrap();
        assert!((after.as_secs_f64() - 0.3).abs() < 0.001, "{after:?}");
    }

    #[test]
    fn a_factor_of_zero_is_never() {
        let mut hedge = hedge(0.0);
        hedge.done(Duration::from_millis(10));
        assert_eq!(hedge.after(Duration::ZERO), None);
    }

    #[test]
    fn doubles_are_few() {
        let mut hedge = hedge(3.0);
        let mut doubles = 0;
        for _ in 0..1_000 {
            doubles += u32::from(hedge.double());
            doubles += u32::from(hedge.double());
            hedge.done(Duration::from_secs(1));
        }
        assert!((95..=104).contains(&doubles), "{doubles} doubles of 1,000 PUTs");
    }
}
