//! How long a coordinator's log is, and when its beginning can go (decision 0015).
//!
//! ```text
//!   Growing ── long enough ──► Rewriting ── every step durable ──► Rewritten ── uploaded so far ──► trim ──► Growing
//!              (mark := end)                                          ▲                              │
//!                                                                     └──────── it failed ───────────┘
//! ```
//!
//! - **H1** The log is trimmed only to a mark behind which everything that lives was repeated, durably (C4), and once every
//!   tombstone is durable on account of which something was not.
//! - **H2** A log that holds what is not understood here is never trimmed; nor is one in which something lies that this
//!   coordinator neither loaded nor placed, since nobody looked at it.
//! - **H3** Between a trim and the next rewrite the log grows by a multiple of what lives, or by the floor: rewriting
//!   costs a fixed share of what is written, however long the history.

/// Where a rewrite began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    offset: u64,
    /// What the log held below, in bytes.
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Growing,
    Rewriting {
        mark: Mark,
        /// A step is on its way to the log; the next one waits for it.
        step_in_flight: bool,
    },
    Rewritten {
        mark: Mark,
        /// Where the log ended. A key may have been left out because its tombstone was on its way to the log: until that
        /// is durable too, what it buries must not go.
        end: u64,
        trim: Trim,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trim {
    Due,
    UnderWay,
    /// It failed: not again before something has changed.
    Failed,
}

/// See the module.
#[derive(Debug)]
pub(in crate::group) struct History {
    floor_bytes: u64,
    factor: u64,
    /// Of all batches from the log's start to the last one that was placed.
    bytes: u64,
    /// The offset after the last batch that was placed.
    end: u64,
    /// H2
    is_foreign: bool,
    stage: Stage,
}

impl History {
    pub fn new(floor_bytes: u64, factor: u32) -> History {
        History {
            floor_bytes,
            factor: u64::from(factor),
            bytes: 0,
            end: 0,
            is_foreign: false,
            stage: Stage::Growing,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Of what was read while the log was loaded.
    pub fn loaded(&mut self, bytes: u64, end: u64) {
        self.bytes += bytes;
        self.end = end;
    }

    /// The log holds something that a rewrite would lose.
    pub fn found_foreign(&mut self) {
        self.is_foreign = true;
    }

    pub fn is_foreign(&self) -> bool {
        self.is_foreign
    }

    /// A batch has its place. What lies between the last one's end and it is somebody else's: H2.
    ///
    /// # Panics
    /// If it lies where another one does.
    pub fn appended(&mut self, base: u64, end: u64, bytes: u64) {
        assert!(base >= self.end, "a batch at {base} in a log that ended at {}", self.end);
        if base > self.end {
            self.is_foreign = true;
        }
        self.bytes += bytes;
        self.end = end;
    }

    /// Whether a rewrite should begin, given what lives, in bytes.
    pub fn is_too_long(&self, live_bytes: u64) -> bool {
        let bound = self.floor_bytes.max(live_bytes.saturating_mul(self.factor));
        self.stage == Stage::Growing && !self.is_foreign && self.bytes > bound
    }

    /// A rewrite begins. Every batch that was placed has its place in the log by now.
    pub fn begin(&mut self) {
        assert_eq!(self.stage, Stage::Growing, "one rewrite at a time");
        let mark = Mark { offset: self.end, bytes: self.bytes };
        self.stage = Stage::Rewriting { mark, step_in_flight: false };
    }

    /// Whether a step may be placed now.
    pub fn takes_step(&self) -> bool {
        matches!(self.stage, Stage::Rewriting { step_in_flight: false, .. })
    }

    pub fn step_placed(&mut self) {
        if let Stage::Rewriting { step_in_flight, .. } = &mut self.stage {
            *step_in_flight = true;
        }
    }

    pub fn step_durable(&mut self) {
        if let Stage::Rewriting { step_in_flight, .. } = &mut self.stage {
            *step_in_flight = false;
        }
    }

    /// There is nothing left to repeat, of what was placed so far.
    pub fn rewritten(&mut self) {
        match self.stage {
            Stage::Rewriting { mark, step_in_flight: false } => {
                self.stage = Stage::Rewritten { mark, end: self.end, trim: Trim::Due };
            }
            other => panic!("a rewrite ends in {other:?}"),
        }
    }

    /// What was loaded cannot be repeated: no further attempt.
    pub fn rewrite_failed(&mut self) {
        self.is_foreign = true;
        self.stage = Stage::Growing;
    }

    /// Where to trim the log, which is durable up to `durable_end`.
    pub fn trim_due(&self, durable_end: u64) -> Option<u64> {
        match self.stage {
            _ if self.is_foreign => None,
            Stage::Rewritten { mark, end, trim: Trim::Due } if end <= durable_end => Some(mark.offset),
            Stage::Rewritten { .. } | Stage::Growing | Stage::Rewriting { .. } => None,
        }
    }

    pub fn trim_started(&mut self) {
        if let Stage::Rewritten { trim, .. } = &mut self.stage {
            *trim = Trim::UnderWay;
        }
    }

    pub fn trim_ended(&mut self, succeeded: bool) {
        let Stage::Rewritten { mark, trim, .. } = &mut self.stage else { return };
        if succeeded {
            self.bytes -= mark.bytes;
            self.stage = Stage::Growing;
        } else {
            *trim = Trim::Failed;
        }
    }

    /// Something has changed: a trim that failed may be tried again.
    pub fn try_again(&mut self) {
        if let Stage::Rewritten { trim: trim @ Trim::Failed, .. } = &mut self.stage {
            *trim = Trim::Due;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(bytes: u64) -> History {
        let mut history = History::new(1000, 4);
        history.appended(0, 10, bytes);
        history
    }

    #[test]
    fn a_log_is_too_long_beyond_the_floor_and_the_factor() {
        assert!(!grown(1000).is_too_long(0));
        assert!(grown(1001).is_too_long(250));
        assert!(!grown(1001).is_too_long(251));
        assert!(!grown(u64::MAX).is_too_long(u64::MAX));
    }

    #[test]
    fn what_was_below_the_mark_goes_with_the_trim() {
        let mut history = grown(2000);
        history.begin();
        assert!(history.takes_step() && !history.is_too_long(0) && history.trim_due(u64::MAX).is_none());
        history.step_placed();
        assert!(!history.takes_step(), "one at a time");
        history.appended(10, 12, 300);
        history.step_durable();
        history.appended(12, 13, 50);
        history.rewritten();
        assert_eq!(history.trim_due(12), None, "what was placed last is not durable");
        assert_eq!(history.trim_due(13), Some(10));
        history.trim_started();
        assert_eq!(history.trim_due(13), None);
        history.trim_ended(false);
        assert_eq!(history.trim_due(13), None, "not at once");
        history.try_again();
        assert_eq!(history.trim_due(13), Some(10));
        history.trim_started();
        history.trim_ended(true);
        assert_eq!((history.bytes(), history.trim_due(13)), (350, None));
    }

    #[test]
    fn what_somebody_else_placed_is_kept_whenever_it_came() {
        let mut history = grown(2000);
        history.appended(11, 12, 50);
        assert!(history.is_foreign() && !history.is_too_long(0));
        // In the middle of a rewrite, and behind its end.
        for steps_before in [0, 1] {
            let mut history = grown(2000);
            history.begin();
            if steps_before == 0 {
                history.appended(13, 14, 50);
                history.rewritten();
            } else {
                history.rewritten();
                assert_eq!(history.trim_due(10), Some(10));
                history.appended(13, 14, 50);
            }
            assert!(history.is_foreign());
            assert_eq!(history.trim_due(u64::MAX), None);
        }
        let mut own = grown(2000);
        own.appended(10, 12, 50);
        assert!(!own.is_foreign());
    }

    #[test]
    fn what_is_not_understood_is_kept() {
        let mut history = grown(2000);
        history.found_foreign();
        assert!(!history.is_too_long(0));
        let mut history = grown(2000);
        history.begin();
        history.rewrite_failed();
        assert!(!history.is_too_long(0) && history.trim_due(u64::MAX).is_none());
    }
}
