//! What came out, in words.

use std::collections::BTreeMap;
use std::fmt;

use crate::history::{Call, F, Group, History, Key, Mop, Offset, Process, Type, Value};
use crate::{Anomaly, Options};

/// What a history holds, and what is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Errors by kind; the history is valid if there are none.
    pub errors: BTreeMap<Anomaly, Found>,
    /// What looks odd and breaks no promise of Kafka's.
    pub notes: BTreeMap<Anomaly, Found>,
    pub counts: Counts,
    /// The longest that a consumer's position was behind what was known to be there.
    pub worst_lag: Option<Lag>,
    /// Records that a subscribed consumer polled, by how often: at least once is promised.
    pub consumed: BTreeMap<u32, u64>,
    findings_max: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Found {
    pub count: u64,
    /// The first of them.
    pub findings: Vec<Finding>,
}

/// One contradiction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    pub key: Option<Key>,
    pub group: Option<Group>,
    pub values: Vec<Value>,
    pub offsets: Vec<Offset>,
    /// Positions in [`History::calls`].
    pub calls: Vec<u32>,
    pub text: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub operations: u64,
    pub ok: u64,
    pub fail: u64,
    pub info: u64,
    /// Records that were acknowledged, each once.
    pub acknowledged: u64,
    /// Records that polls brought, as often as they did.
    pub polled: u64,
    pub commits: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    pub process: Process,
    pub key: Key,
    /// When the poll was invoked.
    pub time: u64,
    pub lag: u64,
}

impl Verdict {
    pub(crate) fn new(history: &History, options: &Options) -> Verdict {
        let mut verdict = Verdict { findings_max: options.findings_max, ..Verdict::default() };
        let counts = &mut verdict.counts;
        counts.operations = history.len() as u64;
        for call in history.calls() {
            match call.outcome {
                Type::Ok => counts.ok += 1,
                Type::Fail => counts.fail += 1,
                Type::Info | Type::Invoke => counts.info += 1,
            }
            if call.outcome == Type::Ok {
                counts.acknowledged += call.f.sends().count() as u64;
                counts.commits += u64::from(matches!(call.f, F::Commit { .. }));
            }
            counts.polled += call.f.polled().count() as u64;
        }
        verdict
    }

    pub fn valid(&self) -> bool {
        self.errors.is_empty()
    }

    pub(crate) fn error(&mut self, anomaly: Anomaly, finding: impl FnOnce() -> Finding) {
        self.find(anomaly, anomaly.always_legal(), finding);
    }

    pub(crate) fn find(&mut self, anomaly: Anomaly, legal: bool, finding: impl FnOnce() -> Finding) {
        let found = if legal { &mut self.notes } else { &mut self.errors }.entry(anomaly).or_default();
        found.count += 1;
        if found.findings.len() < self.findings_max {
            found.findings.push(finding());
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { operations, ok, fail, info, acknowledged, polled, commits } = self.counts;
        writeln!(out, "{}", if self.valid() { "valid" } else { "INVALID" })?;
        writeln!(out, "  {operations} operations: {ok} ok, {fail} failed, {info} in doubt")?;
        writeln!(out, "  {acknowledged} records acknowledged, {polled} polled, {commits} commits")?;
        if let Some(lag) = self.worst_lag {
            writeln!(
                out,
                "  longest lag {} (process {}, at {})",
                Seconds(lag.lag),
                lag.process,
                Seconds(lag.time)
            )?;
        }
        let again: u64 = self.consumed.range(2..).map(|(_, records)| records).sum();
        if again > 0 {
            writeln!(
                out,
                "  {again} records came to one subscribed consumer more than once, which is legal"
            )?;
        }
        for (title, kinds) in [("error", &self.errors), ("legal", &self.notes)] {
            for (anomaly, found) in kinds {
                writeln!(out, "{title}: {} × {}", found.count, anomaly.name())?;
                for finding in &found.findings {
                    writeln!(out, "  - {}", finding.text.replace('\n', "\n    "))?;
                }
                let more = found.count - found.findings.len() as u64;
                if more > 0 {
                    writeln!(out, "  - and {more} more")?;
                }
            }
        }
        Ok(())
    }
}

struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{:06} s", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1000)
    }
}

/// Records of a call that are shown, around the ones that it is about.
const SHOWN: usize = 3;

/// A call in a line: who, when, what, and of its records those of `key` around `values`.
pub(crate) fn describe(history: &History, at: u32, key: Option<Key>, values: &[Value]) -> String {
    use fmt::Write;
    let call: &Call = &history.calls()[at as usize];
    let mut line = format!("process {} {}", call.process, call.f.name());
    let _ = match call.completed {
        Some(end) => write!(line, " #{}–#{}", call.invoked.index, end.index),
        None => write!(line, " #{}–never", call.invoked.index),
    };
    let outcome = match call.outcome {
        Type::Ok => "ok",
        Type::Fail => "fail",
        Type::Info | Type::Invoke => "info",
    };
    let end = call.completed.unwrap_or(call.invoked).time;
    let _ = write!(line, " ({}–{}) {outcome}:", Seconds(call.invoked.time), Seconds(end));
    for mop in call.f.mops() {
        match mop {
            Mop::Send { key: to, value, offset } if key.is_none_or(|key| key == *to) => {
                let _ = match offset {
                    Some(offset) => write!(line, " sent {value} to {} at {offset}", history.key_name(*to)),
                    None => write!(line, " sent {value} to {}", history.key_name(*to)),
                };
            }
            Mop::Send { .. } => {}
            Mop::Poll(records) => {
                let about: Vec<_> =
                    records.iter().filter(|record| key.is_none_or(|key| key == record.key)).collect();
                let named = |at: usize| {
                    let from = at.saturating_sub(SHOWN);
                    let to = (at + SHOWN + 1).min(about.len());
                    about[from..to].iter().any(|record| values.contains(&record.value))
                };
                line.push_str(" polled");
                let mut gap = false;
                for (at, record) in about.iter().enumerate() {
                    if at >= SHOWN && at + SHOWN < about.len() && !named(at) {
                        if !gap {
                            line.push_str(" …");
                        }
                        gap = true;
                        continue;
                    }
                    gap = false;
                    let _ = match key {
                        Some(_) => write!(line, " {}@{}", record.value, record.offset),
                        None => write!(
                            line,
                            " {}@{}/{}",
                            record.value,
                            history.key_name(record.key),
                            record.offset
                        ),
                    };
                }
                if about.is_empty() {
                    line.push_str(" nothing");
                }
            }
        }
    }
    match &call.f {
        F::Join { generation, keys, .. } => {
            let keys: Vec<_> = keys.iter().map(|key| history.key_name(*key)).collect();
            let _ = write!(line, " generation {generation}, keys {}", keys.join(" "));
        }
        F::Commit { generation, offsets, .. } => {
            for (of, offset) in offsets.iter().filter(|(of, _)| key.is_none_or(|key| key == *of)) {
                let _ = write!(line, " {}={offset}", history.key_name(*of));
            }
            if let Some(generation) = generation {
                let _ = write!(line, " generation {generation}");
            }
        }
        F::Committed { offsets, .. } => {
            for (of, offset) in offsets.iter().filter(|(of, _)| key.is_none_or(|key| key == *of)) {
                let offset = offset.map_or("none".to_string(), |offset| offset.to_string());
                let _ = write!(line, " {}={offset}", history.key_name(*of));
            }
        }
        F::OutOfRange { offset, .. } => {
            let _ = write!(line, " asked for {offset}");
        }
        F::Watermarks(marks) => {
            for mark in marks.iter().filter(|mark| key.is_none_or(|key| key == mark.key)) {
                let _ = write!(line, " {} from {} to {}", history.key_name(mark.key), mark.start, mark.end);
            }
        }
        _ => {}
    }
    line
}

/// A finding about one key: a sentence, and the calls that prove it.
pub(crate) fn about(
    history: &History,
    key: Key,
    values: &[Value],
    offsets: &[Offset],
    calls: impl IntoIterator<Item = u32>,
    sentence: &str,
) -> Finding {
    let calls: Vec<u32> = calls.into_iter().collect();
    let mut text = format!("{}: {sentence}", history.key_name(key));
    for call in &calls {
        text.push('\n');
        text.push_str(&describe(history, *call, Some(key), values));
    }
    Finding { key: Some(key), group: None, values: values.to_vec(), offsets: offsets.to_vec(), calls, text }
}
