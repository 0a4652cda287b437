//! How far consumers were behind, and what they got more than once: told, not judged.
//!
//! The lag of a consumer in a key, at a poll, is how long it had then been known that something stood behind its position.
//! While a position stands still the lag grows, so that it is looked at where the position moves, and at the end.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::Verdict;
use crate::history::{F, History, Key, Offset, Process, Type, Value};
use crate::verdict::Lag;

/// Where one consumer stands in one key.
struct Position {
    /// The last offset that it polled or sent, -1 before the first.
    offset: Offset,
    /// When it last polled without moving.
    waited: Option<u64>,
}

pub(crate) fn measure(history: &History, verdict: &mut Verdict) {
    let known = known(history);
    let mut positions: FxHashMap<Process, FxHashMap<Key, Position>> = FxHashMap::default();
    let mut worst: Option<Lag> = None;
    let mut look = |process: Process, key: Key, position: &Position| {
        let Some(time) = position.waited else { return };
        let marks = &known[key.0 as usize];
        let since = marks.partition_point(|(offset, _)| *offset <= position.offset);
        let lag = marks.get(since).map_or(0, |(_, since)| time.saturating_sub(*since));
        let found = Lag { process, key, time, lag };
        if lag > 0 && worst.is_none_or(|worst| (lag, worst.time) > (worst.lag, time)) {
            worst = Some(found);
        }
    };
    for call in history.calls().iter().filter(|call| call.outcome == Type::Ok) {
        let own = positions.entry(call.process).or_default();
        match &call.f {
            F::Assign { keys, .. } => {
                own.retain(|key, position| {
                    let stays = keys.contains(key);
                    if !stays {
                        look(call.process, *key, position);
                    }
                    stays
                });
                for key in keys {
                    own.entry(*key).or_insert(Position { offset: -1, waited: None });
                }
            }
            F::Subscribe { .. } | F::Crash => {
                own.iter().for_each(|(key, position)| look(call.process, *key, position));
                own.clear();
            }
            F::Poll { .. } | F::Txn { .. } => {
                for (key, offset) in furthest(&call.f) {
                    let position = own.entry(key).or_insert(Position { offset: -1, waited: None });
                    if offset > position.offset {
                        look(call.process, key, position);
                        position.offset = offset;
                    }
                }
                for position in own.values_mut() {
                    position.waited = Some(call.invoked.time);
                }
            }
            _ => {}
        }
    }
    for (process, own) in &positions {
        own.iter().for_each(|(key, position)| look(*process, *key, position));
    }
    verdict.worst_lag = worst;
    consumed(history, verdict);
}

/// For each key: the offsets that were known to be there and since when, both ascending.
fn known(history: &History) -> Vec<Vec<(Offset, u64)>> {
    let mut heard: Vec<(u32, u32)> = Vec::new();
    for (at, call) in history.calls().iter().enumerate().filter(|(_, call)| call.outcome != Type::Fail) {
        heard.extend(call.heard().map(|index| (index, at as u32)));
    }
    heard.sort_unstable();
    let mut known: Vec<Vec<(Offset, u64)>> = vec![Vec::new(); history.key_count()];
    for (_, at) in heard {
        let call = &history.calls()[at as usize];
        let Some(time) = call.completed.map(|moment| moment.time) else { continue };
        let sent = call.f.sends().filter_map(|(key, _, offset)| Some((key, offset?)));
        for (key, offset) in sent.chain(call.f.polled().map(|polled| (polled.key, polled.offset))) {
            let marks = &mut known[key.0 as usize];
            if marks.last().is_none_or(|(last, _)| offset > *last) {
                marks.push((offset, time));
            }
        }
    }
    known
}

fn furthest(f: &F) -> FxHashMap<Key, Offset> {
    let mut furthest: FxHashMap<Key, Offset> = FxHashMap::default();
    let sent = f.sends().filter_map(|(key, _, offset)| Some((key, offset?)));
    for (key, offset) in sent.chain(f.polled().map(|polled| (polled.key, polled.offset))) {
        let at = furthest.entry(key).or_insert(offset);
        *at = (*at).max(offset);
    }
    furthest
}

/// How often subscribed consumers polled each record.
fn consumed(history: &History, verdict: &mut Verdict) {
    let mut subscribed: FxHashSet<Process> = FxHashSet::default();
    let mut times: FxHashMap<(Process, Key, Value), u32> = FxHashMap::default();
    for call in history.calls().iter().filter(|call| call.outcome == Type::Ok) {
        match &call.f {
            F::Subscribe { .. } => {
                subscribed.insert(call.process);
            }
            F::Poll { .. } | F::Txn { .. } if subscribed.contains(&call.process) => {
                for polled in call.f.polled() {
                    *times.entry((call.process, polled.key, polled.value)).or_default() += 1;
                }
            }
            _ => {}
        }
    }
    for times in times.into_values() {
        *verdict.consumed.entry(times).or_default() += 1;
    }
}
