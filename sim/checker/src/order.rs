//! Clients that skipped or went back: within a call, from call to call, and against the order of time.
//!
//! Neighbours in what one client polled must be neighbours in the log, as far as the log is known ([`Log::distance`] is 1);
//! later is a **skip**, earlier or the same is **nonmonotonic**. What a client sends must stand in the order in which it sent
//! it. Beyond Jepsen's workload: a rebalance, a seek, a fetch out of range or the end of a client are known by
//! themselves and end the comparison for what they concern; an assignment does not end a producer's order; and a record that
//! was acknowledged or read before another one was sent at all must stand before it, whoever sent them.

use rustc_hash::FxHashMap;

use crate::evidence::{Evidence, Log, NONE};
use crate::history::{Call, F, History, Key, Process, Type, Value};
use crate::rules::{Rule, on};
use crate::verdict::about;
use crate::{Anomaly, Options, Verdict};

/// Skipped records that a finding names.
const NAMED: usize = 8;

pub(crate) fn check(history: &History, evidence: &Evidence, options: &Options, verdict: &mut Verdict) {
    let mut last = FxHashMap::default();
    for (at, call) in history.calls().iter().enumerate() {
        within(history, evidence, at as u32, call, &mut last, verdict);
    }
    consumers(history, evidence, options, verdict);
    producers(history, evidence, verdict);
    for key in history.keys() {
        in_time(history, evidence, key, evidence.log(key), verdict);
    }
}

/// Neighbours in one call. `last` is only there to be used again.
fn within(
    history: &History,
    evidence: &Evidence,
    at: u32,
    call: &Call,
    last: &mut FxHashMap<Key, Value>,
    verdict: &mut Verdict,
) {
    last.clear();
    for polled in call.f.polled() {
        let Some(before) = last.insert(polled.key, polled.value) else { continue };
        if call.f.rebalanced().contains(&polled.key) && on(Rule::RebalancedKeysAreExempt) {
            continue;
        }
        let log = evidence.log(polled.key);
        let (skip, back) = (Anomaly::IntPollSkip, Anomaly::IntNonmonotonicPoll);
        let step = Step { key: polled.key, from: before, to: polled.value, calls: [at, NONE], legal: false };
        step.judge(history, log, skip, back, "polled", verdict);
    }
    last.clear();
    for (key, value, _) in call.f.sends() {
        let Some(before) = last.insert(key, value) else { continue };
        if call.outcome == Type::Fail && on(Rule::FailedSendsHaveNoOrder) {
            continue;
        }
        let (skip, back) = (Anomaly::IntSendSkip, Anomaly::IntNonmonotonicSend);
        let step = Step { key, from: before, to: value, calls: [at, NONE], legal: false };
        step.judge(history, evidence.log(key), skip, back, "sent", verdict);
    }
}

/// From one record to the next, as a client met them.
struct Step {
    key: Key,
    from: Value,
    to: Value,
    calls: [u32; 2],
    legal: bool,
}

impl Step {
    fn judge(
        &self,
        history: &History,
        log: &Log,
        skip: Anomaly,
        back: Anomaly,
        did: &str,
        verdict: &mut Verdict,
    ) {
        let Step { key, from, to, calls, legal } = self;
        let distance = log.distance(*from, *to);
        if distance == 1 {
            return;
        }
        let anomaly = if distance > 1 { skip } else { back };
        verdict.find(anomaly, *legal || anomaly.always_legal(), || {
            let mut values = vec![*from, *to];
            let sentence = if distance > 1 {
                let skipped = log.between(*from, *to, NAMED);
                values.extend(&skipped);
                let more = if (skipped.len() as i64) < distance - 1 { " …" } else { "" };
                format!("{did} {from}, then {to}; between them {} stand {skipped:?}{more}", distance - 1)
            } else if distance == 0 {
                format!("{did} {from}, then {to} at the same place")
            } else {
                format!("{did} {from}, then {to}, which stands {} before it", -distance)
            };
            let offsets = [*from, *to].into_iter().filter_map(|value| log.offset(log.record(value)?));
            let offsets: Vec<i64> = offsets.collect();
            about(
                history,
                *key,
                &values,
                &offsets,
                calls.iter().copied().filter(|call| *call != NONE),
                &sentence,
            )
        });
    }
}

#[derive(Default)]
struct Consumer {
    /// The last record of each key, and the call that polled it.
    last: FxHashMap<Key, (Value, u32)>,
    subscribed: bool,
}

/// From call to call of each consumer.
fn consumers(history: &History, evidence: &Evidence, options: &Options, verdict: &mut Verdict) {
    let mut consumers: FxHashMap<Process, Consumer> = FxHashMap::default();
    for (at, call) in history.calls().iter().enumerate() {
        let consumer = consumers.entry(call.process).or_default();
        match &call.f {
            F::Assign { .. } | F::Subscribe { .. }
                if call.outcome == Type::Fail && on(Rule::FailedAssignChangesNothing) => {}
            F::Assign { keys, seek } => {
                let forget = *seek && on(Rule::SeekForgetsPosition);
                consumer.keep(if forget { &[] } else { keys });
                consumer.subscribed = false;
            }
            F::Subscribe { keys, .. } => {
                consumer.keep(keys);
                consumer.subscribed = true;
            }
            F::Rebalance(keys) if on(Rule::RebalanceForgetsPosition) => {
                consumer.last.retain(|key, _| !keys.contains(key));
            }
            F::OutOfRange { key, .. } if on(Rule::OutOfRangeForgetsPosition) => {
                consumer.last.remove(key);
            }
            F::Crash if on(Rule::CrashForgetsPosition) => *consumer = Consumer::default(),
            F::Poll { .. } | F::Txn { .. } => {
                if on(Rule::RebalanceForgetsPosition) {
                    for key in call.f.rebalanced() {
                        consumer.last.remove(key);
                    }
                }
                let logged = options.rebalances_logged || !on(Rule::SubscribersMayJump);
                let legal = consumer.subscribed && !logged;
                consumer.poll(history, evidence, at as u32, call, legal, verdict);
            }
            _ => {}
        }
    }
}

impl Consumer {
    fn keep(&mut self, keys: &[Key]) {
        let (named, others) = (on(Rule::AssignKeepsNamedKeys), on(Rule::AssignDropsOtherKeys));
        self.last.retain(|key, _| if keys.contains(key) { named } else { !others });
    }

    fn poll(
        &mut self,
        history: &History,
        evidence: &Evidence,
        at: u32,
        call: &Call,
        legal: bool,
        verdict: &mut Verdict,
    ) {
        // What came first and last of each key, in the order in which they came.
        let mut ends: Vec<(Key, Value, Value)> = Vec::new();
        let mut places: FxHashMap<Key, usize> = FxHashMap::default();
        for polled in call.f.polled() {
            if let Some((key, _, last)) = ends.last_mut()
                && *key == polled.key
            {
                *last = polled.value;
                continue;
            }
            let place = *places.entry(polled.key).or_insert(ends.len());
            match ends.get_mut(place) {
                Some((_, _, last)) => *last = polled.value,
                None => ends.push((polled.key, polled.value, polled.value)),
            }
        }
        for (key, first, last) in ends {
            if let Some((before, by)) = self.last.get(&key) {
                let step = Step { key, from: *before, to: first, calls: [*by, at], legal };
                let (skip, back) = (Anomaly::PollSkip, Anomaly::NonmonotonicPoll);
                step.judge(history, evidence.log(key), skip, back, "polled", verdict);
            }
            // What failed or is in doubt is polled again.
            if call.outcome == Type::Ok || !on(Rule::AbortRewinds) {
                self.last.insert(key, (last, at));
            }
        }
    }
}

/// From call to call of each producer.
fn producers(history: &History, evidence: &Evidence, verdict: &mut Verdict) {
    let mut last: FxHashMap<Process, FxHashMap<Key, (Value, u32)>> = FxHashMap::default();
    let mut calls: Vec<u32> = (0..history.calls().len() as u32).collect();
    if !on(Rule::SendsInOrderOfInvocation) {
        calls.sort_by_key(|at| history.calls()[*at as usize].heard());
    }
    for at in calls {
        let call = &history.calls()[at as usize];
        if matches!(call.f, F::Crash) && on(Rule::CrashForgetsSends) {
            last.remove(&call.process);
        }
        if call.outcome == Type::Fail && on(Rule::FailedSendsHaveNoOrder) {
            continue;
        }
        for (key, value, _) in call.f.sends() {
            let log = evidence.log(key);
            if log.record(value).is_none_or(|record| record.index == NONE) {
                continue;
            }
            let own = last.entry(call.process).or_default();
            if let Some((before, by)) = own.insert(key, (value, at))
                && by != at
                && log.distance(before, value) < 1
            {
                let step = Step { key, from: before, to: value, calls: [by, at], legal: false };
                let kind = Anomaly::NonmonotonicSend;
                step.judge(history, log, kind, kind, "sent", verdict);
            }
        }
    }
}

/// What was over before something else began stands before it.
fn in_time(history: &History, evidence: &Evidence, key: Key, log: &Log, verdict: &mut Verdict) {
    // From the end of the log: what was there first of all that stands further back, and when.
    let mut earliest: Option<(u32, u32)> = None;
    for (id, offset) in log.order.iter().rev() {
        let record = &log.records[*id as usize];
        let Some(writer) = history.calls().get(record.writer as usize) else { continue };
        if let Some((by, witness)) = earliest.filter(|(by, _)| writer.invoked.index > *by) {
            verdict.error(Anomaly::RealtimeOrder, || {
                let behind = &log.records[witness as usize];
                let beyond = log.offset(behind).unwrap_or_default();
                let sentence = format!(
                    "{} at offset {offset} was sent after #{by}, when {} stood behind it already, at offset {beyond}",
                    record.value, behind.value
                );
                let calls = [behind.writer, behind.read, record.writer].into_iter().filter(|call| *call != NONE);
                about(history, key, &[record.value, behind.value], &[*offset, beyond], calls, &sentence)
            });
        }
        let acknowledged = if evidence.committed(history, record) || !on(Rule::DoubtfulCallsNeverEnd) {
            if on(Rule::DoubtfulCallsNeverEnd) { writer.over() } else { writer.heard() }
        } else {
            None
        };
        let read = if on(Rule::ReadIsProofOfTime) { record.read_by } else { NONE };
        let there = acknowledged.unwrap_or(NONE).min(read);
        if there != NONE && earliest.is_none_or(|(by, _)| there < by) {
            earliest = Some((there, *id));
        }
    }
}
