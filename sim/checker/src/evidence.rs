//! What must stand where in each log, from what clients were told.
//!
//! Offsets come from sends that took effect for certain, and from every poll, even of calls that failed: a consumer that reads
//! committed records is told the truth whatever becomes of its transaction. Then offsets are replaced by *indexes*,
//! which have no gaps: not every offset holds a record that clients see.
//!
//! ```text
//!   offset   4    5    6    7    8
//!   seen     a   (b c)      b    d        b stands twice: duplicate; b and c at one offset: inconsistent
//!   index    0    1         2    3        the order: a c b d
//! ```

use rustc_hash::FxHashMap;

use crate::history::{Call, F, History, Key, Offset, Type, Value};
use crate::rules::{Rule, on};

pub(crate) const NONE: u32 = u32::MAX;

/// A record that anybody sent or polled.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub value: Value,
    /// The call that sent it, or `NONE`.
    pub writer: u32,
    /// Its send was acknowledged with an offset.
    pub acknowledged: bool,
    /// The first call that is ok and polled it, or `NONE`.
    pub read_ok: u32,
    /// The first call that polled it at all, or `NONE`.
    pub read: u32,
    /// The first position in the history at which somebody had polled it, or `NONE`.
    pub read_by: u32,
    /// Its place in the order, or `NONE` if it has none, or another record has it.
    pub index: u32,
    /// The first and the last index at which it was seen, or `NONE`.
    pub first: u32,
    pub last: u32,
}

/// A partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub records: Vec<Record>,
    ids: FxHashMap<Value, u32>,
    /// Which records were seen at which offsets, in order, each pair once.
    pub places: Vec<(Offset, u32)>,
    /// By index: the record that stands there, and its offset.
    pub order: Vec<(u32, Offset)>,
    /// Everything below may have been deleted.
    pub start: Offset,
}

impl Log {
    pub fn id(&self, value: Value) -> Option<u32> {
        self.ids.get(&value).copied()
    }

    pub fn record(&self, value: Value) -> Option<&Record> {
        self.id(value).map(|id| &self.records[id as usize])
    }

    /// How far `to` is behind `from`: 1 if it is the next record, or if nobody knows.
    pub fn distance(&self, from: Value, to: Value) -> i64 {
        let index = |value| self.record(value).map(|record| record.index).filter(|index| *index != NONE);
        match (index(from), index(to)) {
            (Some(from), Some(to)) if !on(Rule::GapsAreLegal) => {
                self.order[to as usize].1.saturating_sub(self.order[from as usize].1)
            }
            (Some(from), Some(to)) => i64::from(to) - i64::from(from),
            _ => 1,
        }
    }

    /// The records strictly between two, in order; at most `most`.
    pub fn between(&self, from: Value, to: Value, most: usize) -> Vec<Value> {
        let (Some(from), Some(to)) = (self.record(from), self.record(to)) else { return Vec::new() };
        let range = from.index as usize + 1..to.index as usize;
        self.order[range].iter().take(most).map(|(id, _)| self.records[*id as usize].value).collect()
    }

    /// The last offset at which it was seen.
    pub fn offset(&self, record: &Record) -> Option<Offset> {
        (record.last != NONE).then(|| self.order[record.last as usize].1)
    }

    fn intern(&mut self, value: Value) -> &mut Record {
        let Log { records, ids, .. } = self;
        let id = *ids.entry(value).or_insert_with(|| {
            records.push(Record {
                value,
                writer: NONE,
                acknowledged: false,
                read_ok: NONE,
                read: NONE,
                read_by: NONE,
                index: NONE,
                first: NONE,
                last: NONE,
            });
            records.len() as u32 - 1
        });
        &mut records[id as usize]
    }
}

pub(crate) struct Evidence {
    logs: Vec<Log>,
    /// Transactions in doubt of which a record was read, by call.
    proved: Vec<bool>,
    /// Values that were sent twice, and the two calls.
    pub reused: Vec<(Key, Value, u32, u32)>,
}

/// How a call came out, as far as its sends are concerned.
pub(crate) fn outcome(call: &Call) -> Type {
    match call.completed {
        None if !on(Rule::OpenCallsMayHappen) => Type::Fail,
        None => Type::Info,
        Some(_) => call.outcome,
    }
}

impl Evidence {
    pub fn gather(history: &History) -> Evidence {
        let logs = (0..history.key_count()).map(|_| Log::default()).collect();
        let mut evidence = Evidence { logs, proved: vec![false; history.calls().len()], reused: Vec::new() };
        evidence.meet(history);
        evidence.prove(history);
        evidence.place(history);
        for log in &mut evidence.logs {
            put_in_order(log);
        }
        evidence
    }

    pub fn log(&self, key: Key) -> &Log {
        &self.logs[key.0 as usize]
    }

    /// Whether its send took effect for certain.
    pub fn committed(&self, history: &History, record: &Record) -> bool {
        let Some(call) = history.calls().get(record.writer as usize) else { return false };
        match (outcome(call), &call.f) {
            (Type::Ok, _) => true,
            (Type::Info, F::Txn { .. }) => {
                self.proved[record.writer as usize] && on(Rule::ReadProvesTransaction)
            }
            (Type::Info, _) => {
                (record.acknowledged && on(Rule::AcknowledgedOneByOne)) || record.read_ok != NONE
            }
            _ => false,
        }
    }

    /// Who sent what, and who read it.
    fn meet(&mut self, history: &History) {
        for (at, call) in history.calls().iter().enumerate() {
            let at = at as u32;
            for (key, value, offset) in call.f.sends() {
                let record = self.logs[key.0 as usize].intern(value);
                if record.writer != NONE {
                    self.reused.push((key, value, record.writer, at));
                    continue;
                }
                record.writer = at;
                record.acknowledged = offset.is_some();
            }
            for polled in call.f.polled() {
                let record = self.logs[polled.key.0 as usize].intern(polled.value);
                if record.read == NONE {
                    record.read = at;
                }
                if record.read_ok == NONE && call.outcome == Type::Ok {
                    record.read_ok = at;
                }
                record.read_by = record.read_by.min(call.heard().unwrap_or(NONE));
            }
            if let (F::Watermarks(marks), Type::Ok) = (&call.f, call.outcome) {
                for mark in marks {
                    let log = &mut self.logs[mark.key.0 as usize];
                    log.start = log.start.max(mark.start);
                }
            }
        }
    }

    fn prove(&mut self, history: &History) {
        for (at, call) in history.calls().iter().enumerate() {
            if outcome(call) == Type::Info {
                let read = |(key, value, _): (Key, Value, _)| {
                    self.log(key).record(value).is_some_and(|record| record.read_ok != NONE)
                };
                self.proved[at] = call.f.sends().any(read);
            }
        }
    }

    fn place(&mut self, history: &History) {
        for (at, call) in history.calls().iter().enumerate() {
            let certain = match (outcome(call), &call.f) {
                (Type::Ok, _) => true,
                (Type::Info, F::Txn { .. }) => self.proved[at] || !on(Rule::DoubtfulSendsAreNoEvidence),
                (Type::Info, _) => on(Rule::AcknowledgedOneByOne) || self.proved[at],
                _ => !on(Rule::FailedSendsAreNoEvidence),
            };
            if certain {
                for (key, value, offset) in call.f.sends() {
                    if let Some(offset) = offset {
                        self.seen(key, value, offset);
                    }
                }
            }
            if call.outcome == Type::Ok || on(Rule::FailedPollsAreEvidence) {
                for polled in call.f.polled() {
                    self.seen(polled.key, polled.value, polled.offset);
                }
            }
        }
    }

    /// Most places are seen many times: a record's first place is kept in itself until all are known.
    fn seen(&mut self, key: Key, value: Value, offset: Offset) {
        let log = &mut self.logs[key.0 as usize];
        let id = log.ids[&value];
        let record = &mut log.records[id as usize];
        // Until the order is known, `index` is where in `places` its first place is.
        if record.index == NONE {
            record.index = log.places.len() as u32;
        } else if log.places[record.index as usize].0 == offset {
            return;
        }
        log.places.push((offset, id));
    }
}

fn put_in_order(log: &mut Log) {
    let Log { records, places, order, .. } = log;
    places.sort_unstable();
    places.dedup();
    for record in records.iter_mut() {
        record.index = NONE;
    }
    let mut indexes = 0;
    for pair in 0..places.len() {
        let (offset, id) = places[pair];
        if pair > 0 && places[pair - 1].0 != offset {
            indexes += 1;
        }
        let record = &mut records[id as usize];
        if record.first == NONE {
            record.first = indexes;
        }
        record.last = indexes;
    }
    let mut from = 0;
    while from < places.len() {
        let offset = places[from].0;
        let here = places[from..].iter().take_while(|place| place.0 == offset).count();
        let claims = &places[from..from + here];
        let index = order.len() as u32;
        // The one that stands nowhere later, and of several the first that was heard of.
        let settled = |id: &u32| records[*id as usize].last == index && on(Rule::MostSettledRecordStands);
        let ids = || claims.iter().map(|place| place.1);
        let id = ids().find(settled).unwrap_or_else(|| claims[0].1);
        records[id as usize].index = index;
        order.push((id, offset));
        from += here;
    }
}
