//! What a PUT may cost: the budget of everything that the broker sends, as far as the log can keep it.
//!
//! ```text
//!   puts_per_second_max ──► tokens, up to puts_burst_max ──► one for each PUT of the log
//!            │
//!            └──► debt: PUTs of others, and full batches that went without a token;
//!                 paid back over DEBT_TIME, with three quarters of the rate at most
//! ```
//!
//! Uploads, compaction and the metadata log send what they must. The log is the one that can wait, so it pays for all of
//! them: what they send takes the rate from it, smoothly, and the sum stays where the operator put it. Times are those of
//! the [batcher](super::batch): durations since any fixed moment, monotonic.
//!
//! - **P1** All PUTs together are at most `puts_burst_max`, the rate times the time, and the debt at its end; as long as
//!   no debt was forgiven.
//! - **P2** The log's own share never falls below a quarter of the rate: debt over [`DEBT_TIME`] of the other three quarters
//!   is forgiven. A budget that others alone exceed slows acknowledgements down; it never stops them.

use std::time::Duration;

use super::Config;

/// Over how long debt is paid back: the waits that others cause are evened out over it.
const DEBT_TIME: Duration = Duration::from_secs(10);

/// Of the rate, what goes for debt at most.
const DEBT_SHARE_MAX: f64 = 0.75;

#[derive(Debug)]
pub(super) struct Budget {
    per_second: f64,
    tokens_max: f64,
    tokens: f64,
    debt: f64,
    refilled: Duration,
    /// PUTs of the log that were allowed.
    own: u64,
    /// PUTs of others that are in the debt, or were.
    others: u64,
}

impl Budget {
    pub fn new(config: &Config, now: Duration) -> Budget {
        Budget {
            per_second: config.puts_per_second_max,
            tokens_max: config.puts_burst_max,
            tokens: config.puts_burst_max,
            debt: 0.0,
            refilled: now,
            own: 0,
            others: 0,
        }
    }

    /// What of the rate goes for debt now.
    fn debt_rate(&self) -> f64 {
        (self.debt / DEBT_TIME.as_secs_f64()).min(self.per_second * DEBT_SHARE_MAX)
    }

    pub fn advance(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.refilled).as_secs_f64();
        self.refilled = self.refilled.max(now);
        let paid = (self.debt_rate() * elapsed).min(self.debt);
        self.tokens += elapsed * self.per_second - paid;
        // What the log has no use for pays, too.
        let spare = (self.tokens - self.tokens_max).max(0.0);
        self.tokens -= spare;
        self.debt = (self.debt - paid - spare).max(0.0);
    }

    /// `all` PUTs were sent since the beginning, by the log and by everybody else. Those that the log was allowed and has
    /// not sent yet hide as many of others for a moment.
    pub fn sent(&mut self, all: u64) {
        let others = all.saturating_sub(self.own);
        self.owe(others.saturating_sub(self.others) as f64);
        self.others = self.others.max(others);
    }

    fn owe(&mut self, puts: f64) {
        let debt_max = self.per_second * DEBT_SHARE_MAX * DEBT_TIME.as_secs_f64();
        self.debt = (self.debt + puts).min(debt_max);
    }

    /// How long until there is a token, if nobody else sends anything; `None` if there is one.
    pub fn wait(&self) -> Option<Duration> {
        if self.tokens >= 1.0 {
            return None;
        }
        // At the present rate, which only grows as debt is paid back. Rounded up, so that the token is there then.
        let nanos = ((1.0 - self.tokens) / (self.per_second - self.debt_rate()) * 1e9).ceil();
        Some(Duration::from_nanos(nanos as u64 + 1))
    }

    /// The log sends one, with a token or without.
    pub fn spend(&mut self) {
        self.own += 1;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
        } else {
            self.owe(1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config() -> Config {
        Config { puts_per_second_max: 16.0, puts_burst_max: 16.0, ..Config::default() }
    }

    /// A log that sends whenever it may, beside others at a steady rate; PUTs of the log over `seconds`.
    fn own_puts(others_per_second: u64, seconds: u64) -> u64 {
        let mut budget = Budget::new(&config(), Duration::ZERO);
        for ms in 0..seconds * 1000 {
            budget.advance(Duration::from_millis(ms));
            budget.sent(budget.own + ms * others_per_second / 1000);
            while budget.wait().is_none() {
                budget.spend();
            }
        }
        budget.own
    }

    /// P1, P2 in numbers: 16 a second.
    #[test]
    fn the_log_takes_what_others_leave() {
        for (others, own) in [(0, 16), (1, 15), (10, 6), (12, 4), (100, 4)] {
            let sent = own_puts(others, 600);
            // What was saved up, and the debt at the end.
            let slack = 16 + 16 * 10;
            assert!(sent.abs_diff(own * 600) <= slack, "{sent} beside {others} a second");
        }
    }

    #[test]
    fn a_quiet_log_pays_with_what_it_does_not_use() {
        let mut budget = Budget::new(&config(), Duration::ZERO);
        budget.sent(40);
        assert_eq!(budget.debt, 40.0);
        budget.advance(Duration::from_secs(5));
        assert_eq!((budget.debt, budget.tokens), (0.0, 16.0));
    }

    #[test]
    fn a_put_that_is_allowed_and_not_sent_yet_is_charged_once() {
        let mut budget = Budget::new(&config(), Duration::ZERO);
        budget.spend();
        budget.spend();
        budget.sent(1);
        assert_eq!(budget.debt, 0.0, "one of ours, or somebody else's: it will show");
        budget.sent(2);
        budget.sent(5);
        budget.sent(5);
        assert_eq!((budget.debt, budget.tokens), (3.0, 14.0));
    }

    proptest! {
        /// P1 whatever others do and however unevenly, up to where debt is forgiven; P2 always.
        #[test]
        fn the_sum_stays_inside_and_the_log_gets_its_quarter(
            steps in prop::collection::vec((1u64..2_000, 0u64..30, 0u32..3), 1..300),
        ) {
            let mut budget = Budget::new(&config(), Duration::ZERO);
            let (mut now, mut others, mut forgiven) = (Duration::ZERO, 0, 0.0);
            for (pause_ms, puts, without_token) in steps {
                now += Duration::from_millis(pause_ms);
                budget.advance(now);
                others += puts;
                let before = budget.debt;
                budget.sent(budget.own + others);
                forgiven += before + puts as f64 - budget.debt;
                while budget.wait().is_none() {
                    budget.spend();
                }
                for _ in 0..without_token {
                    let before = budget.debt;
                    budget.spend();
                    forgiven += before + 1.0 - budget.debt;
                }
                let wait = budget.wait().expect("all tokens were spent");
                prop_assert!(wait <= Duration::from_millis(250), "{wait:?}: less than a quarter of the rate");
                let sent = (budget.own + others) as f64;
                let allowed = 16.0 + 16.0 * now.as_secs_f64() + budget.debt + forgiven;
                prop_assert!(sent <= allowed + 1e-3, "{sent} of {allowed}");
            }
        }
    }
}
