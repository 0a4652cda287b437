//! When to cut a batch: a state machine that knows sizes and times, and no I/O.
//!
//! ```text
//!   nothing waits                          ─► idle
//!   every PUT place is taken               ─► wait for a place
//!   a full batch waits                     ─► cut         (a full PUT is worth its money, budget or not)
//!   the budget has nothing left            ─► wait for it (the linger that it imposes),
//!                                             or, in a hurry, for `linger` and then cut
//!   nothing is under way                   ─► cut         (an idle writer flushes at once)
//!   the oldest has waited for `linger`     ─► cut
//!   otherwise                              ─► wait for that
//! ```
//!
//! - **C1** A batch is a prefix of what waits, in append order, at least one record.
//! - **C2** A batch that is not full goes only with a token of the [budget](super::budget); a full one needs none, and is
//!   charged to it all the same. So is one that goes in a hurry (C4).
//! - **C3** What waits is cut as soon as the conditions allow; a wake-up time is never beyond that.
//! - **C4** A batch with something that is in a [hurry](Batcher::hurry) waits for no token: one a second on average at most, and
//!   [`HURRIES_MAX`] after a quiet time.

use std::collections::VecDeque;
use std::time::Duration;

use super::Config;
use super::budget::Budget;

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Decision {
    /// Nothing waits.
    Idle,
    /// Nothing to do before a PUT completes.
    Full,
    /// Ask again at this time (of the clock that the caller's times are of), or when something changes.
    At(Duration),
    /// Send the first `records`, `bytes` in all.
    Cut { records: usize, bytes: usize },
}

/// Sizes and ages of what waits. Times are durations since any fixed moment, monotonic.
#[derive(Debug)]
pub(super) struct Batcher {
    batch_bytes_max: usize,
    puts_in_flight_max: usize,
    linger: Duration,
    budget: Budget,
    waiting: VecDeque<(usize, Duration)>,
    waiting_bytes: usize,
    in_flight: usize,
    hurry: Hurry,
}

/// C4.
#[derive(Debug)]
struct Hurry {
    /// Since when something of what waits is in a hurry.
    since: Option<Duration>,
    /// How many batches may go for that.
    left: f64,
    refilled: Duration,
}

/// Batches that go without a token, one behind the other. No option: it is small beside any budget, and charged to it.
const HURRIES_MAX: f64 = 4.0;

impl Hurry {
    /// When a batch may go without a token, if anything is in a hurry.
    fn due(&mut self, now: Duration, linger: Duration) -> Option<Duration> {
        let elapsed = now.saturating_sub(self.refilled).as_secs_f64();
        self.left = (self.left + elapsed).min(HURRIES_MAX);
        self.refilled = self.refilled.max(now);
        // Rounded up, so that it is there then.
        let missing = Duration::from_secs_f64((1.0 - self.left).max(0.0)) + Duration::from_nanos(1);
        let granted = if self.left >= 1.0 { now } else { now + missing };
        Some(granted.max(self.since? + linger))
    }
}

impl Batcher {
    pub(super) fn new(config: &Config, now: Duration) -> Batcher {
        Batcher {
            batch_bytes_max: config.batch_bytes_max,
            puts_in_flight_max: config.puts_in_flight_max,
            linger: config.linger,
            budget: Budget::new(config, now),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: 0,
            hurry: Hurry { since: None, left: HURRIES_MAX, refilled: now },
        }
    }

    /// What was pushed last should go soon (C4).
    pub(super) fn hurry(&mut self, now: Duration) {
        if !self.waiting.is_empty() {
            self.hurry.since.get_or_insert(now);
        }
    }

    pub(super) fn push(&mut self, now: Duration, bytes: usize) {
        self.waiting.push_back((bytes, now));
        self.waiting_bytes += bytes;
    }

    /// A PUT of an earlier cut is done.
    pub(super) fn put_done(&mut self) {
        assert!(self.in_flight > 0, "a PUT is done that was never sent");
        self.in_flight -= 1;
    }

    /// `all` PUTs were sent since the beginning, by this log and by everybody else who has part in its budget.
    pub(super) fn sent(&mut self, all: u64) {
        self.budget.sent(all);
    }

    /// A second PUT was sent beside one that is under way.
    pub(super) fn put_doubled(&mut self) {
        self.budget.spend();
    }

    /// What waits is given up.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.hurry.since = None;
    }

    /// What to do now. A [`Decision::Cut`] is carried out: the batch counts as under way.
    pub(super) fn decide(&mut self, now: Duration) -> Decision {
        self.budget.advance(now);
        let Some(&(_, oldest)) = self.waiting.front() else { return Decision::Idle };
        if self.in_flight == self.puts_in_flight_max {
            return Decision::Full;
        }
        let full = self.waiting_bytes >= self.batch_bytes_max;
        if !full {
            if let Some(wait) = self.budget.wait() {
                // Others that have waited as well come along.
                match self.hurry.due(now, self.linger) {
                    Some(due) if due <= now => self.hurry.left -= 1.0,
                    due => return Decision::At(due.unwrap_or(now + wait).min(now + wait)),
                }
            } else if self.in_flight > 0 && now < oldest + self.linger {
                return Decision::At(oldest + self.linger);
            }
        }
        self.budget.spend();
        self.cut()
    }

    fn cut(&mut self) -> Decision {
        let (mut records, mut bytes) = (0, 0);
        while let Some(&(size, _)) = self.waiting.front() {
            if records > 0 && bytes + size > self.batch_bytes_max {
                break;
            }
            self.waiting.pop_front();
            records += 1;
            bytes += size;
        }
        self.waiting_bytes -= bytes;
        self.in_flight += 1;
        if self.waiting.is_empty() {
            self.hurry.since = None;
        }
        Decision::Cut { records, bytes }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config() -> Config {
        Config {
            batch_bytes_max: 1_000,
            puts_in_flight_max: 2,
            puts_per_second_max: 10.0,
            puts_burst_max: 3.0,
            linger: Duration::from_millis(5),
            ..Config::default()
        }
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn an_idle_writer_flushes_at_once_and_a_busy_one_lingers() {
        let mut batcher = Batcher::new(&config(), ms(0));
        assert_eq!(batcher.decide(ms(0)), Decision::Idle);
        batcher.push(ms(1), 100);
        assert_eq!(batcher.decide(ms(1)), Decision::Cut { records: 1, bytes: 100 });
        batcher.push(ms(2), 100);
        batcher.push(ms(3), 50);
        assert_eq!(batcher.decide(ms(3)), Decision::At(ms(7)));
        assert_eq!(batcher.decide(ms(7)), Decision::Cut { records: 2, bytes: 150 });
        batcher.push(ms(8), 1);
        assert_eq!(batcher.decide(ms(8)), Decision::Full);
        batcher.put_done();
        batcher.put_done();
        assert_eq!(batcher.decide(ms(8)), Decision::Cut { records: 1, bytes: 1 });
    }

    #[test]
    fn a_full_batch_needs_neither_token_nor_linger() {
        let mut batcher = Batcher::new(&Config { puts_burst_max: 1.0, ..config() }, ms(0));
        batcher.push(ms(0), 10);
        assert!(matches!(batcher.decide(ms(0)), Decision::Cut { .. }));
        batcher.push(ms(0), 700);
        assert!(matches!(batcher.decide(ms(0)), Decision::At(_)), "no token is left");
        batcher.push(ms(0), 700);
        assert_eq!(batcher.decide(ms(0)), Decision::Cut { records: 1, bytes: 700 });
    }

    /// C4.
    #[test]
    fn what_is_in_a_hurry_does_not_wait_for_the_budget_and_pays_for_it() {
        let config = Config { puts_burst_max: 1.0, puts_in_flight_max: 99, ..config() };
        let mut batcher = Batcher::new(&config, ms(0));
        batcher.push(ms(0), 1);
        assert!(matches!(batcher.decide(ms(0)), Decision::Cut { .. }));
        for turn in 0..4 {
            batcher.push(ms(turn), 1);
            batcher.hurry(ms(turn));
            assert_eq!(batcher.decide(ms(turn)), Decision::At(ms(turn + 5)), "company is waited for");
            assert_eq!(batcher.decide(ms(turn + 5)), Decision::Cut { records: 1, bytes: 1 });
        }
        batcher.push(ms(9), 1);
        batcher.hurry(ms(9));
        let Decision::At(token) = batcher.decide(ms(9)) else { panic!("no hurry is left") };
        assert!(token > ms(100), "and what went in a hurry is a debt: {token:?}");
        assert!(matches!(batcher.decide(token), Decision::Cut { .. }));
        batcher.push(ms(1_190), 1);
        assert!(matches!(batcher.decide(ms(1_200)), Decision::Cut { .. }), "a token");
        batcher.push(ms(1_200), 1);
        assert!(
            matches!(batcher.decide(ms(1_205)), Decision::At(time) if time > ms(1_250)),
            "nobody is in a hurry"
        );
        batcher.hurry(ms(1_205));
        assert!(matches!(batcher.decide(ms(1_210)), Decision::Cut { .. }), "a second has passed");

        let mut slow = Batcher::new(&Config { puts_per_second_max: 0.1, ..config }, ms(0));
        for _ in 0..5 {
            slow.push(ms(0), 1);
            slow.hurry(ms(0));
            assert!(matches!(slow.decide(ms(5)), Decision::Cut { .. }));
        }
        slow.push(ms(5), 1);
        slow.hurry(ms(5));
        let Decision::At(granted) = slow.decide(ms(5)) else { panic!("none is left") };
        assert!(
            granted > ms(1_000) && granted < ms(1_100),
            "the next hurry comes before a token: {granted:?}"
        );
        assert!(matches!(slow.decide(granted), Decision::Cut { .. }));
    }

    /// C2: what others send, and full batches, make what is not full wait.
    #[test]
    fn whoever_sends_the_log_waits_for_it() {
        fn send(batcher: &mut Batcher, bytes: usize) {
            batcher.push(ms(0), bytes);
            assert!(matches!(batcher.decide(ms(0)), Decision::Cut { .. }));
        }
        let wait = |prepare: fn(&mut Batcher)| {
            let config = Config { puts_burst_max: 1.0, puts_in_flight_max: 9, ..config() };
            let mut batcher = Batcher::new(&config, ms(0));
            prepare(&mut batcher);
            batcher.push(ms(0), 1);
            match batcher.decide(ms(0)) {
                Decision::At(time) => time,
                other => panic!("{other:?}"),
            }
        };
        let near = |time, expected: f64| {
            let seconds = Duration::as_secs_f64(&time);
            assert!((seconds - expected).abs() < 1e-6, "{seconds}, not {expected}");
        };
        near(wait(|batcher| send(batcher, 1)), 0.1);
        // 50 of others, to be paid back over 10 s: half of the rate.
        let beside_others = wait(|batcher| {
            batcher.sent(50);
            send(batcher, 1);
        });
        near(beside_others, 0.2);
        // The first has the token, the others are a debt.
        near(wait(|batcher| (0..6).for_each(|_| send(batcher, 1_000))), 1.0 / 9.5);
    }

    #[test]
    fn a_record_over_the_batch_size_goes_alone() {
        let mut batcher = Batcher::new(&config(), ms(0));
        batcher.push(ms(0), 5_000);
        batcher.push(ms(0), 1);
        assert_eq!(batcher.decide(ms(0)), Decision::Cut { records: 1, bytes: 5_000 });
    }

    proptest! {
        /// C1, C2, C3 over arbitrary loads and PUT times.
        #[test]
        fn budget_order_and_progress_hold(
            events in prop::collection::vec((0u64..20, 1usize..1_500, any::<bool>(), any::<bool>()), 1..400),
        ) {
            let config = config();
            let mut batcher = Batcher::new(&config, ms(0));
            let mut waiting: VecDeque<usize> = VecDeque::new();
            let (mut now, mut in_flight, mut not_full) = (ms(0), 0usize, 0f64);
            for (pause, bytes, done, hurries) in events {
                now += ms(pause);
                if done && in_flight > 0 {
                    in_flight -= 1;
                    batcher.put_done();
                }
                batcher.push(now, bytes);
                waiting.push_back(bytes);
                if hurries {
                    batcher.hurry(now);
                }
                loop {
                    match batcher.decide(now) {
                        Decision::Cut { records, bytes } => {
                            let full = waiting.iter().sum::<usize>() >= config.batch_bytes_max;
                            let taken: usize = waiting.drain(..records).sum();
                            prop_assert_eq!(taken, bytes);
                            prop_assert!(records == 1 || bytes <= config.batch_bytes_max);
                            in_flight += 1;
                            prop_assert!(in_flight <= config.puts_in_flight_max);
                            not_full += f64::from(u8::from(!full));
                            let budget = config.puts_burst_max + now.as_secs_f64() * config.puts_per_second_max;
                            let budget = budget + HURRIES_MAX + now.as_secs_f64();
                            prop_assert!(not_full <= budget + 1e-6, "{not_full} PUTs of {budget}");
                        }
                        Decision::At(time) => {
                            prop_assert!(time > now, "a wake-up in the past would spin");
                            // C3: at that time it is cut, if a place is free.
                            prop_assert!(in_flight < config.puts_in_flight_max);
                            break;
                        }
                        Decision::Full => {
                            prop_assert_eq!(in_flight, config.puts_in_flight_max);
                            break;
                        }
                        Decision::Idle => {
                            prop_assert!(waiting.is_empty());
                            break;
                        }
                    }
                }
            }
            // Left alone, everything goes.
            while !waiting.is_empty() {
                match batcher.decide(now) {
                    Decision::Cut { records, .. } => {
                        waiting.drain(..records);
                    }
                    Decision::At(time) => now = time,
                    Decision::Full => batcher.put_done(),
                    Decision::Idle => prop_assert!(false, "idle although {} wait", waiting.len()),
                }
            }
        }
    }
}
