//! Where clients were told that a log begins and ends.
//!
//! What one client knows of a log only grows: neither end goes back, whichever brokers it asks. A fetch is out of range only
//! before the start that the log ever had, or behind the end that this client knows of.

use rustc_hash::FxHashMap;

use crate::evidence::{Evidence, NONE};
use crate::history::{F, History, Key, Offset, Process, Type};
use crate::rules::{Rule, on};
use crate::verdict::about;
use crate::{Anomaly, Verdict};

#[derive(Clone, Copy)]
struct Known {
    start: Offset,
    end: Offset,
    /// Who told of the end, or `NONE`.
    by: u32,
}

impl Default for Known {
    fn default() -> Known {
        Known { start: 0, end: 0, by: NONE }
    }
}

pub(crate) fn check(history: &History, evidence: &Evidence, verdict: &mut Verdict) {
    let mut known: FxHashMap<Process, FxHashMap<Key, Known>> = FxHashMap::default();
    // As clients heard it: what was asked earlier may have been answered later.
    let mut heard: Vec<(u32, u32)> = Vec::new();
    for (at, call) in history.calls().iter().enumerate() {
        if matches!(
            call.f,
            F::Poll { .. } | F::Txn { .. } | F::Watermarks(_) | F::OutOfRange { .. } | F::Crash
        ) {
            heard.extend(call.heard().map(|index| (index, at as u32)));
        }
    }
    heard.sort_unstable();
    for (_, at) in heard {
        let call = &history.calls()[at as usize];
        let own = known.entry(call.process).or_default();
        match &call.f {
            F::Crash if on(Rule::CrashForgetsWatermarks) => own.clear(),
            F::Poll { .. } | F::Txn { .. } if on(Rule::PollsAreWatermarks) => {
                for polled in call.f.polled() {
                    let mark = own.entry(polled.key).or_default();
                    if polled.offset.saturating_add(1) > mark.end {
                        *mark = Known { end: polled.offset.saturating_add(1), by: at, ..*mark };
                    }
                }
            }
            F::Watermarks(marks) if call.outcome == Type::Ok => {
                for heard in marks {
                    let mark = own.entry(heard.key).or_default();
                    if heard.end < mark.end || heard.start < mark.start || heard.start > heard.end {
                        verdict.error(Anomaly::WatermarkBack, || {
                            let sentence = format!(
                                "from {} to {}, but this client knew of records from {} to {}",
                                heard.start, heard.end, mark.start, mark.end
                            );
                            let offsets = [heard.start, heard.end, mark.start, mark.end];
                            let calls = [mark.by, at].into_iter().filter(|call| *call != NONE);
                            about(history, heard.key, &[], &offsets, calls, &sentence)
                        });
                    }
                    if heard.end >= mark.end {
                        mark.by = at;
                    }
                    mark.start = mark.start.max(heard.start);
                    mark.end = mark.end.max(heard.end);
                }
            }
            F::OutOfRange { key, offset } => {
                let mark = own.get(key).copied().unwrap_or_default();
                let start = if on(Rule::DeletedIsLegallyOutOfRange) { evidence.log(*key).start } else { 0 };
                let end = if on(Rule::BeyondTheEndIsOutOfRange) { mark.end } else { Offset::MAX };
                if (start..=end).contains(offset) {
                    verdict.error(Anomaly::SpuriousOutOfRange, || {
                        let sentence =
                            format!("{offset} was out of range, in a log known from {start} to {}", mark.end);
                        let calls = [mark.by, at].into_iter().filter(|call| *call != NONE);
                        about(history, *key, &[], &[*offset], calls, &sentence)
                    });
                }
            }
            _ => {}
        }
    }
}
