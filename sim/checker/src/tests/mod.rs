//! Histories made by hand, histories made by a model, damaged ones, and the checker without each of its rules.

mod cases;
mod damage;
mod lines;
mod model;

use crate::history::{F, History, Key, Mop, Op, Polled, Process, Type, Watermark};
use crate::{Options, Verdict, check};

/// A history in a few words, one completion a line; an invocation stands before it by itself unless the process has one open.
///
/// ```text
///   0 ok send x=7@5              sent 7 to x, acknowledged at offset 5
///   1 info txn x=8 poll(y:1@0,2@1;z:3@4)    polled 1 and 2 of y, and 3 of z
///   2 ok poll poll(x:7@5) !x     x was rebalanced meanwhile
///   3.1 invoke send x=9          the call number 1 of process 3
/// ```
fn history(words: &str) -> History {
    let mut history = History::new();
    let mut open = std::collections::HashSet::new();
    let mut time = 0;
    for line in words.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut parts = line.split_whitespace();
        let (who, kind, name) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        let (process, call) = match who.split_once('.') {
            Some((process, call)) => (process.parse().unwrap(), Some(call.parse().unwrap())),
            None => (who.parse::<Process>().unwrap(), None),
        };
        let kind = match kind {
            "invoke" => Type::Invoke,
            "ok" => Type::Ok,
            "fail" => Type::Fail,
            "info" => Type::Info,
            other => panic!("{other}"),
        };
        let f = f(&mut history, name, &parts.collect::<Vec<_>>());
        let mut record = |kind, f| {
            time += 1_000_000_000;
            let op = Op { process, kind, time, call, f };
            history.record(op).unwrap_or_else(|malformed| panic!("{line}: {malformed}"));
        };
        if kind == Type::Invoke {
            open.insert(who.to_string());
        } else if !open.remove(who) {
            record(Type::Invoke, f.clone());
        }
        record(kind, f);
    }
    history
}

fn f(history: &mut History, name: &str, parts: &[&str]) -> F {
    fn keys(history: &mut History, names: &[&str]) -> Vec<Key> {
        names.iter().map(|name| history.key(name)).collect()
    }
    let rebalanced: Vec<&str> = parts.iter().filter_map(|part| part.strip_prefix('!')).collect();
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.starts_with('!')).collect();
    let mops = |history: &mut History| parts.iter().map(|part| mop(history, part)).collect::<Vec<Mop>>();
    match name {
        "send" => F::Send(mops(history)),
        "poll" => F::Poll { mops: mops(history), rebalanced: keys(history, &rebalanced) },
        "txn" => F::Txn { mops: mops(history), rebalanced: keys(history, &rebalanced) },
        "assign" => F::Assign { keys: keys(history, &parts), seek: false },
        "seek" => F::Assign { keys: keys(history, &parts), seek: true },
        "subscribe" => {
            F::Subscribe { group: Some(history.group(parts[0])), keys: keys(history, &parts[1..]) }
        }
        "rebalance" => F::Rebalance(keys(history, &parts)),
        "out-of-range" => F::OutOfRange { key: history.key(parts[0]), offset: parts[1].parse().unwrap() },
        "watermarks" => {
            let mark = |part: &&str| {
                let (key, range) = part.split_once(':').unwrap();
                let (start, end) = range.split_once("..").unwrap();
                Watermark { key: history.key(key), start: start.parse().unwrap(), end: end.parse().unwrap() }
            };
            F::Watermarks(parts.iter().map(mark).collect())
        }
        "join" => F::Join {
            group: history.group(parts[0]),
            generation: parts[1].parse().unwrap(),
            keys: keys(history, &parts[2..]),
        },
        "commit" => {
            let offset = |part: &&str| {
                let (key, offset) = part.split_once('=').unwrap();
                (history.key(key), offset.parse().unwrap())
            };
            let offsets = parts[2..].iter().map(offset).collect();
            F::Commit { group: history.group(parts[0]), generation: parts[1].parse().ok(), offsets }
        }
        "committed" => {
            let offset = |part: &&str| {
                let (key, offset) = part.split_once('=').unwrap();
                (history.key(key), offset.parse().ok())
            };
            let offsets = parts[1..].iter().map(offset).collect();
            F::Committed { group: history.group(parts[0]), offsets }
        }
        "crash" => F::Crash,
        other => panic!("{other}"),
    }
}

fn mop(history: &mut History, part: &str) -> Mop {
    if let Some(records) = part.strip_prefix("poll") {
        let records = records.trim_start_matches('(').trim_end_matches(')');
        let mut polled = Vec::new();
        for of_key in records.split(';').filter(|of_key| !of_key.is_empty()) {
            let (key, pairs) = of_key.split_once(':').unwrap();
            let key = history.key(key);
            for pair in pairs.split(',') {
                let (value, offset) = pair.split_once('@').unwrap();
                polled.push(Polled { key, offset: offset.parse().unwrap(), value: value.parse().unwrap() });
            }
        }
        return Mop::Poll(polled);
    }
    let (key, rest) = part.split_once('=').unwrap();
    let (value, offset) = match rest.split_once('@') {
        Some((value, offset)) => (value, Some(offset.parse().unwrap())),
        None => (rest, None),
    };
    Mop::Send { key: history.key(key), value: value.parse().unwrap(), offset }
}

/// Kinds and counts, the legal ones in brackets: `duplicate lost-write×2 (G0)`.
fn summary(verdict: &Verdict) -> String {
    let count = |name: &str, count: u64| match count {
        1 => name.to_string(),
        count => format!("{name}×{count}"),
    };
    let errors = verdict.errors.iter().map(|(kind, found)| count(kind.name(), found.count));
    let notes = verdict.notes.iter().map(|(kind, found)| format!("({})", count(kind.name(), found.count)));
    errors.chain(notes).collect::<Vec<_>>().join(" ")
}

fn judge(words: &str, options: &Options) -> String {
    summary(&check(&history(words), options))
}
