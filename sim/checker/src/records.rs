//! Records that were lost, doubled, replaced, or came from nowhere.
//!
//! A record was **lost** if it was committed and nobody read it, while somebody read one that stands behind it. If a record
//! was seen at several offsets, its last one counts where it had to be read, and the first one where it proves how far
//! somebody read: nobody can say then which of them a reader met. At the end of a history that reads everything, whatever
//! was acknowledged and is **unseen** is an error too, lost or not.

use rustc_hash::FxHashSet;

use crate::evidence::{Evidence, Log, NONE, Record, outcome};
use crate::history::{F, History, Key, Type};
use crate::rules::{Rule, on};
use crate::verdict::{Finding, about};
use crate::{Anomaly, Options, Verdict};

pub(crate) fn check(history: &History, evidence: &Evidence, options: &Options, verdict: &mut Verdict) {
    for (key, value, first, second) in &evidence.reused {
        verdict.error(Anomaly::ReusedValue, || {
            about(
                history,
                *key,
                &[*value],
                &[],
                [*first, *second],
                &format!("{value} was sent twice: not a true history"),
            )
        });
    }
    for key in history.keys() {
        let log = evidence.log(key);
        places(history, key, log, verdict);
        let missed = lost(history, evidence, key, log, verdict);
        for (id, record) in log.records.iter().enumerate() {
            sources(history, key, record, verdict);
            if !missed.contains(&(id as u32)) || !on(Rule::LostIsNotAlsoUnseen) {
                unseen(history, options, key, log, record, verdict);
            }
        }
    }
    precommitted(history, verdict);
}

/// Two records at one offset, one record at two offsets.
fn places(history: &History, key: Key, log: &Log, verdict: &mut Verdict) {
    let mut from = 0;
    while from < log.places.len() {
        let offset = log.places[from].0;
        let here = log.places[from..].iter().take_while(|place| place.0 == offset).count();
        if here > 1 {
            verdict.error(Anomaly::InconsistentOffsets, || {
                let records: Vec<&Record> = log.places[from..from + here]
                    .iter()
                    .map(|place| &log.records[place.1 as usize])
                    .collect();
                let values: Vec<u64> = records.iter().map(|record| record.value).collect();
                let calls = records.iter().flat_map(|record| [record.writer, record.read]);
                let calls: Vec<u32> = calls.filter(|call| *call != NONE).take(8).collect();
                about(
                    history,
                    key,
                    &values,
                    &[offset],
                    calls,
                    &format!("{values:?} all stand at offset {offset}"),
                )
            });
        }
        from += here;
    }
    for record in log.records.iter().filter(|record| record.first != record.last) {
        verdict.error(Anomaly::Duplicate, || {
            let id = log.id(record.value);
            let offsets: Vec<i64> =
                log.places.iter().filter(|place| Some(place.1) == id).map(|place| place.0).collect();
            let calls = [record.writer, record.read].into_iter().filter(|call| *call != NONE);
            let sentence = format!("{} stands at the offsets {offsets:?}", record.value);
            about(history, key, &[record.value], &offsets, calls, &sentence)
        });
    }
}

/// Reports what was lost and gives it back, by number.
fn lost(
    history: &History,
    evidence: &Evidence,
    key: Key,
    log: &Log,
    verdict: &mut Verdict,
) -> FxHashSet<u32> {
    let mut missed = FxHashSet::default();
    let place = |record: &Record| if on(Rule::BoundByFirstOffset) { record.first } else { record.last };
    let read = log.records.iter().filter(|record| record.read_ok != NONE && record.first != NONE);
    let Some(furthest) = read.max_by_key(|record| (place(record), std::cmp::Reverse(record.value))) else {
        return missed;
    };
    let bound = place(furthest);
    let mut unread: Vec<u32> = (0..log.records.len() as u32)
        .filter(|id| {
            let record = &log.records[*id as usize];
            let stands = if on(Rule::LostByLastOffset) { record.last } else { record.first };
            record.read_ok == NONE && stands != NONE && stands <= bound
        })
        .collect();
    unread.sort_by_key(|id| log.records[*id as usize].last);
    for id in unread {
        let record = &log.records[id as usize];
        if record.writer == NONE || (on(Rule::OnlyCommittedIsLost) && !evidence.committed(history, record)) {
            continue;
        }
        let offset = log.offset(record).unwrap_or_default();
        if offset < log.start && on(Rule::DeletedIsNotLost) {
            continue;
        }
        missed.insert(id);
        verdict.error(Anomaly::LostWrite, || {
            let beyond = log.offset(furthest).unwrap_or_default();
            let sentence = format!(
                "{} at offset {offset} was committed and never read, although {} at offset {beyond} was",
                record.value, furthest.value
            );
            let values = [record.value, furthest.value];
            about(history, key, &values, &[offset, beyond], [record.writer, furthest.read_ok], &sentence)
        });
    }
    missed
}

fn unseen(history: &History, options: &Options, key: Key, log: &Log, record: &Record, verdict: &mut Verdict) {
    let acknowledged =
        history.calls().get(record.writer as usize).is_some_and(|call| call.outcome == Type::Ok);
    if !acknowledged || record.read_ok != NONE {
        return;
    }
    let offset = log.offset(record);
    if on(Rule::DeletedIsNotUnseen) && offset.is_some_and(|offset| offset < log.start) {
        return;
    }
    verdict.find(Anomaly::Unseen, !options.final_read && on(Rule::UnseenOnlyAtTheEnd), || {
        let at = offset.map_or(String::new(), |offset| format!(" at offset {offset}"));
        let sentence = format!("{}{at} was acknowledged and never read", record.value);
        about(history, key, &[record.value], offset.as_slice(), [record.writer], &sentence)
    });
}

/// Reads of what failed, and of what nobody sent.
fn sources(history: &History, key: Key, record: &Record, verdict: &mut Verdict) {
    if record.read == NONE {
        return;
    }
    let Some(writer) = history.calls().get(record.writer as usize) else {
        verdict.error(Anomaly::PhantomRead, || {
            let sentence = format!("{} was read and never sent", record.value);
            about(history, key, &[record.value], &[], [record.read], &sentence)
        });
        return;
    };
    let reader = if on(Rule::AbortedReadsByOkOnly) { record.read_ok } else { record.read };
    if outcome(writer) == Type::Fail && reader != NONE {
        verdict.error(Anomaly::G1a, || {
            let sentence = format!("{} was read although its send had failed", record.value);
            about(history, key, &[record.value], &[], [record.writer, reader], &sentence)
        });
    }
}

/// Transactions that read what they sent themselves.
fn precommitted(history: &History, verdict: &mut Verdict) {
    for (at, call) in history.calls().iter().enumerate() {
        if !matches!(call.f, F::Txn { .. }) || call.f.sends().next().is_none() {
            continue;
        }
        let sent: FxHashSet<_> = call.f.sends().map(|(key, value, _)| (key, value)).collect();
        let mut own = call.f.polled().filter(|polled| sent.contains(&(polled.key, polled.value)));
        if let Some(polled) = own.next() {
            verdict.error(Anomaly::PrecommittedRead, || -> Finding {
                let sentence = format!("a transaction read {}, which it had sent itself", polled.value);
                about(history, polled.key, &[polled.value], &[polled.offset], [at as u32], &sentence)
            });
        }
    }
}
