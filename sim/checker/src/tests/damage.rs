//! True histories are valid; damaged ones are not, and it is said why.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::model::{Made, make};
use super::summary;
use crate::history::{F, Mop, Op, Polled, Process, Type, Value};
use crate::{Anomaly, Options, check};

const STEPS: usize = 400;

/// Histories that are made; a tenth as many for each kind of damage.
fn seeds() -> u64 {
    std::env::var("OTTLA_HISTORIES").ok().and_then(|number| number.parse().ok()).unwrap_or(250)
}

fn options() -> Options {
    Options { rebalances_logged: true, ..Options::default() }
}

#[test]
fn true_histories_are_valid() {
    let mut records = 0;
    for seed in 0..seeds() {
        let made = make(seed, STEPS);
        let verdict = check(&made.history(), &options());
        assert!(verdict.valid(), "seed {seed}:\n{verdict}");
        records += verdict.counts.polled;
    }
    assert!(records > 100 * seeds(), "only {records} records were read");
}

/// Something that happens to a history, if it can happen to this one.
type Damage = fn(&mut Made, &mut StdRng) -> Option<()>;

const DAMAGES: [(&str, Damage, &[Anomaly]); 20] = [
    ("a record vanishes", vanish, &[Anomaly::LostWrite]),
    ("the last records vanish", vanish_last, &[Anomaly::Unseen]),
    ("a record comes twice", double, &[Anomaly::Duplicate]),
    ("a record has another's place", replace, &[Anomaly::InconsistentOffsets]),
    ("a failure was none", fail, &[Anomaly::G1a]),
    ("a record comes from nowhere", invent, &[Anomaly::PhantomRead]),
    ("a transaction reads itself", read_own, &[Anomaly::PrecommittedRead]),
    ("a poll is out of order", swap_polled, &[Anomaly::IntNonmonotonicPoll]),
    ("a poll has a hole", hole, &[Anomaly::IntPollSkip]),
    ("a consumer skips", skip, &[Anomaly::PollSkip]),
    ("a consumer goes back", back, &[Anomaly::NonmonotonicPoll]),
    ("two records change places", exchange, &[Anomaly::NonmonotonicSend, Anomaly::RealtimeOrder]),
    ("a record is read before it is sent", foresee, &[Anomaly::G1cRealtime]),
    ("an end goes back", shrink, &[Anomaly::WatermarkBack]),
    ("a fetch is refused", refuse, &[Anomaly::SpuriousOutOfRange]),
    ("a commit comes back", forget_commit, &[Anomaly::StaleCommit]),
    ("a commit comes from nowhere", invent_commit, &[Anomaly::PhantomCommit]),
    ("a late member commits", admit, &[Anomaly::ZombieCommit]),
    ("a generation goes back", rejuvenate, &[Anomaly::GenerationBack]),
    ("a key is given twice", share, &[Anomaly::DoubleAssignment]),
];

#[test]
fn damage_of_every_kind_is_found() {
    for (name, damage, expected) in DAMAGES {
        let mut times: u64 = 0;
        for seed in 0..seeds() / 10 {
            let mut made = make(seed, STEPS);
            let mut random = StdRng::seed_from_u64(seed);
            if damage(&mut made, &mut random).is_none() {
                continue;
            }
            times += 1;
            let verdict = check(&made.history(), &options());
            for anomaly in expected {
                let found = summary(&verdict);
                assert!(verdict.errors.contains_key(anomaly), "{name}, seed {seed}: found only «{found}»");
            }
        }
        assert!(times >= seeds() / 100, "{name}: only {times} times");
    }
}

/// Without any record of a key, a member's commits skip it.
#[test]
fn a_group_that_skips_is_found() {
    let mut times: u64 = 0;
    for seed in 0..seeds() / 10 {
        let mut made = make(seed, STEPS);
        let members: Vec<Process> =
            made.ops.iter().filter(|op| matches!(op.f, F::Join { .. })).map(|op| op.process).collect();
        let start = starts(&made);
        // Two records at least that members polled, the second of which they committed.
        let polled = made.ops.iter().filter(|op| members.contains(&op.process)).flat_map(|op| op.f.polled());
        let polled: Vec<Polled> = polled.collect();
        let committed = |polled: &Polled| {
            made.ops.iter().any(|op| match &op.f {
                F::Commit { offsets, .. } if op.kind == Type::Ok => {
                    offsets.iter().any(|(key, offset)| *key == polled.key && *offset > polled.offset)
                }
                _ => false,
            })
        };
        let victim = polled.iter().find(|victim| {
            victim.offset >= start(victim.key)
                && committed(victim)
                && polled.iter().any(|other| other.key == victim.key && other.offset < victim.offset)
        });
        let Some(victim) = victim.copied() else { continue };
        times += 1;
        edit_polls(&mut made, |process, records| {
            if members.contains(&process) {
                records.retain(|record| *record != victim);
            }
        });
        let verdict = check(&made.history(), &options());
        assert!(verdict.errors.contains_key(&Anomaly::GroupSkip), "seed {seed}: «{}»", summary(&verdict));
    }
    assert!(times >= seeds() / 100, "only {times} times");
}

fn starts(made: &Made) -> impl Fn(crate::Key) -> i64 + use<> {
    let mut starts = std::collections::HashMap::new();
    for op in &made.ops {
        if let F::Watermarks(marks) = &op.f {
            for mark in marks {
                let start = starts.entry(mark.key).or_insert(0);
                *start = mark.start.max(*start);
            }
        }
    }
    move |key| starts.get(&key).copied().unwrap_or(0)
}

fn edit_polls(made: &mut Made, mut edit: impl FnMut(Process, &mut Vec<Polled>)) {
    for op in &mut made.ops {
        if let F::Poll { mops, .. } | F::Txn { mops, .. } = &mut op.f {
            for mop in mops {
                if let Mop::Poll(records) = mop {
                    edit(op.process, records);
                }
            }
        }
    }
}

/// Records that were acknowledged, read by a call that is ok, and not deleted.
fn settled(made: &Made) -> Vec<Polled> {
    let start = starts(made);
    let ok = || made.ops.iter().filter(|op| op.kind == Type::Ok);
    let sent: std::collections::HashSet<(crate::Key, Value)> =
        ok().flat_map(|op| op.f.sends().map(|(key, value, _)| (key, value))).collect();
    let mut settled: Vec<Polled> = ok()
        .flat_map(|op| op.f.polled())
        .filter(|polled| sent.contains(&(polled.key, polled.value)) && polled.offset >= start(polled.key))
        .collect();
    settled.sort_by_key(|polled| (polled.key, polled.offset));
    settled.dedup();
    settled
}

fn vanish(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let settled = settled(made);
    let pairs: Vec<_> = settled.windows(2).filter(|pair| pair[0].key == pair[1].key).collect();
    let victim = pairs.choose(random)?[0];
    edit_polls(made, |_, records| records.retain(|record| *record != victim));
    Some(())
}

fn vanish_last(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let victim = *settled(made).choose(random)?;
    edit_polls(made, |_, records| {
        records.retain(|record| record.key != victim.key || record.offset < victim.offset);
    });
    Some(())
}

/// A completed poll of records, and one of its records.
fn a_poll(made: &Made, random: &mut StdRng, good: impl Fn(&Op, &[Polled]) -> bool) -> Option<(usize, usize)> {
    let mut polls = Vec::new();
    for (at, op) in made.ops.iter().enumerate().filter(|(_, op)| op.kind == Type::Ok) {
        for (part, mop) in op.f.mops().iter().enumerate() {
            if let Mop::Poll(records) = mop
                && !records.is_empty()
                && good(op, records)
            {
                polls.push((at, part));
            }
        }
    }
    polls.choose(random).copied()
}

fn records(made: &mut Made, (at, part): (usize, usize)) -> &mut Vec<Polled> {
    match &mut made.ops[at].f {
        F::Poll { mops, .. } | F::Txn { mops, .. } => match &mut mops[part] {
            Mop::Poll(records) => records,
            Mop::Send { .. } => unreachable!(),
        },
        _ => unreachable!(),
    }
}

fn double(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let poll = a_poll(made, random, |_, _| true)?;
    let records = records(made, poll);
    let again = *records.choose(random)?;
    records.push(Polled { offset: again.offset + 100_000, ..again });
    Some(())
}

fn replace(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let settled = settled(made);
    let pair = settled.windows(2).find(|pair| pair[0].key == pair[1].key)?;
    let (first, second) = (pair[0], pair[1]);
    let poll = a_poll(made, random, |_, records| records.contains(&first))?;
    for record in records(made, poll) {
        if *record == first {
            record.value = second.value;
        }
    }
    Some(())
}

fn fail(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let victim = *settled(made).choose(random)?;
    let sent = |op: &Op| op.f.sends().any(|(key, value, _)| (key, value) == (victim.key, victim.value));
    let op = made.ops.iter_mut().find(|op| op.kind == Type::Ok && sent(op))?;
    op.kind = Type::Fail;
    Some(())
}

fn invent(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let poll = a_poll(made, random, |_, _| true)?;
    let records = records(made, poll);
    let last = *records.last()?;
    records.push(Polled { offset: last.offset + 100_000, value: 1 << 40, ..last });
    Some(())
}

fn read_own(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let poll = a_poll(made, random, |op, _| matches!(op.f, F::Txn { .. }) && op.f.sends().next().is_some())?;
    let (key, value, offset) = made.ops[poll.0].f.sends().next()?;
    records(made, poll).push(Polled { key, offset: offset?, value });
    Some(())
}

fn swap_polled(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let two = |op: &Op, records: &[Polled]| op.f.rebalanced().is_empty() && neighbours(records).is_some();
    let poll = a_poll(made, random, two)?;
    let records = records(made, poll);
    let at = neighbours(records)?;
    records.swap(at, at + 1);
    Some(())
}

fn neighbours(records: &[Polled]) -> Option<usize> {
    records.windows(2).position(|pair| pair[0].key == pair[1].key)
}

/// Three of one key in one poll, which somebody else, the last reader, has read as well.
fn hole(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let settled = settled(made);
    let place = |records: &[Polled]| {
        records.windows(3).position(|three| {
            three.iter().all(|record| record.key == three[0].key) && settled.contains(&three[1])
        })
    };
    let last = made.ops.last()?.process;
    let good = |op: &Op, records: &[Polled]| {
        op.process != last && op.f.rebalanced().is_empty() && place(records).is_some()
    };
    let poll = a_poll(made, random, good)?;
    let at = place(records(made, poll))?;
    records(made, poll).remove(at + 1);
    Some(())
}

/// Two polls of the last reader, of one key.
fn last_reader(made: &Made) -> Option<(usize, usize)> {
    let last = made.ops.last()?.process;
    let polls: Vec<usize> = (0..made.ops.len())
        .filter(|at| made.ops[*at].process == last && made.ops[*at].f.polled().next().is_some())
        .collect();
    let key = |at: usize| made.ops[at].f.polled().next().map(|polled| polled.key);
    polls.windows(2).map(|pair| (pair[0], pair[1])).find(|(first, second)| key(*first) == key(*second))
}

fn skip(made: &mut Made, _: &mut StdRng) -> Option<()> {
    let (_, second) = last_reader(made)?;
    let records = records(made, (second, 0));
    if records.len() < 2 {
        return None;
    }
    let skipped = records.remove(0);
    // Known from its send, at least.
    settled(made).contains(&skipped).then_some(())?;
    let sent = made.ops.iter().any(|op| {
        op.kind == Type::Ok
            && op.f.sends().any(|sent| sent == (skipped.key, skipped.value, Some(skipped.offset)))
    });
    sent.then_some(())
}

fn back(made: &mut Made, _: &mut StdRng) -> Option<()> {
    let (first, second) = last_reader(made)?;
    let again = *records(made, (first, 0)).last()?;
    records(made, (second, 0)).insert(0, again);
    Some(())
}

/// Two records of one producer, sent one after the other, trade their offsets in whatever anybody saw.
fn exchange(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let mut pairs = Vec::new();
    let alone = |op: &Op| match (&op.f, op.f.mops()) {
        (F::Send(_), [Mop::Send { key, value, offset: Some(offset) }]) => Some((*key, *value, *offset)),
        _ => None,
    };
    let oks: Vec<usize> = (0..made.ops.len()).filter(|at| made.ops[*at].kind == Type::Ok).collect();
    for (nth, first) in oks.iter().enumerate() {
        let Some(one) = alone(&made.ops[*first]) else { continue };
        for second in &oks[nth + 1..] {
            let process = made.ops[*first].process;
            if made.ops[*second].process != process {
                continue;
            }
            let Some(two) =
                alone(&made.ops[*second]).filter(|two| two.0 == one.0 && made.ops[*second].call.is_none())
            else {
                continue;
            };
            let crashed =
                made.ops[*first..*second].iter().any(|op| op.process == process && op.f == F::Crash);
            if !crashed {
                pairs.push((one, two));
            }
        }
    }
    let (one, two) = *pairs.choose(random)?;
    let other = |value: Value| match value {
        value if value == one.1 => Some(two.1),
        value if value == two.1 => Some(one.1),
        _ => None,
    };
    let key = one.0;
    for op in &mut made.ops {
        if let F::Send(mops) = &mut op.f {
            for mop in mops {
                if let Mop::Send { key: of, value, offset: Some(offset) } = mop
                    && *of == key
                    && other(*value).is_some()
                {
                    *offset = if *value == one.1 { two.2 } else { one.2 };
                }
            }
        }
    }
    edit_polls(made, |_, records| {
        for record in records.iter_mut().filter(|record| record.key == key) {
            record.value = other(record.value).unwrap_or(record.value);
        }
    });
    Some(())
}

fn foresee(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let victim = *settled(made).choose(random)?;
    let sent = |op: &Op| op.f.sends().any(|(key, value, _)| (key, value) == (victim.key, victim.value));
    let invoked = made.ops.iter().position(|op| op.kind == Type::Invoke && sent(op))?;
    let mut moved = vec![made.ops.remove(invoked)];
    let completed = made.ops.iter().position(|op| op.kind == Type::Ok && sent(op))?;
    moved.push(made.ops.remove(completed));
    for op in &mut moved {
        // Whatever its process did meanwhile, it did beside this call.
        op.call = Some(1 << 40);
    }
    made.ops.extend(moved);
    Some(())
}

fn shrink(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let marks = made.ops.iter_mut().filter(|op| op.kind == Type::Ok);
    let mut marks: Vec<&mut Op> = marks.filter(|op| matches!(op.f, F::Watermarks(_))).collect();
    let last = marks.len().checked_sub(1)?;
    // A process that looked before, at something.
    let at = (1..last).find(|at| {
        let of = |op: &Op| match &op.f {
            F::Watermarks(marks) => marks.first().map(|mark| (op.process, mark.end)),
            _ => None,
        };
        of(marks[*at]).is_some_and(|(process, end)| {
            end > 0
                && marks[..*at].iter().any(|op| of(op).is_some_and(|(by, seen)| by == process && seen > 0))
        })
    })?;
    let _ = random;
    if let F::Watermarks(marks) = &mut marks[at].f {
        marks[0].end = 0;
        marks[0].start = 0;
    }
    Some(())
}

fn refuse(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let last = made.ops.last()?.process;
    let seen: Vec<Polled> =
        made.ops.iter().filter(|op| op.process == last).flat_map(|op| op.f.polled()).collect();
    let record = seen.choose(random)?;
    let f = F::OutOfRange { key: record.key, offset: record.offset };
    made.ops.push(Op { process: last, kind: Type::Info, time: 0, call: None, f });
    Some(())
}

/// A read of what is committed, at the end.
fn ask(made: &mut Made, key: crate::Key, offset: Option<i64>) {
    let (process, group) = (1_000, made.group);
    for (kind, offsets) in [(Type::Invoke, Vec::new()), (Type::Ok, vec![(key, offset)])] {
        let f = F::Committed { group, offsets };
        made.ops.push(Op { process, kind, time: 0, call: None, f });
    }
}

fn forget_commit(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let key = *made.keys.choose(random)?;
    // All commits were answered: the model's calls of one process do not overlap, and none is late any more.
    let commits: Vec<(Type, i64)> = made
        .ops
        .iter()
        .filter(|op| op.kind == Type::Ok || op.kind == Type::Info)
        .filter_map(|op| match &op.f {
            F::Commit { offsets, .. } => {
                offsets.iter().find(|(of, _)| *of == key).map(|(_, offset)| (op.kind, *offset))
            }
            _ => None,
        })
        .collect();
    let (_, newest) = *commits.iter().rev().find(|(kind, _)| *kind == Type::Ok)?;
    let before = commits.iter().find(|(kind, offset)| {
        *kind == Type::Ok
            && *offset != newest
            && !commits.iter().any(|(kind, other)| *kind == Type::Info && other == offset)
            && commits
                .iter()
                .rev()
                .find(|(kind, _)| *kind == Type::Ok)
                .is_some_and(|(_, last)| last != offset)
    });
    let offset = before?.1;
    ask(made, key, Some(offset));
    Some(())
}

fn invent_commit(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let key = *made.keys.choose(random)?;
    ask(made, key, Some(1 << 40));
    Some(())
}

fn admit(made: &mut Made, random: &mut StdRng) -> Option<()> {
    // A commit that came too late, after another member had learned of a later generation.
    let mut late = Vec::new();
    for (at, op) in made.ops.iter().enumerate() {
        let F::Commit { generation: Some(generation), .. } = &op.f else { continue };
        let told = made.ops[..at - 1].iter().any(|op| match &op.f {
            F::Join { generation: later, .. } => op.kind == Type::Ok && later > generation,
            _ => false,
        });
        if op.kind == Type::Fail && told {
            late.push(at);
        }
    }
    made.ops[*late.choose(random)?].kind = Type::Ok;
    Some(())
}

fn rejuvenate(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let first = made.ops.iter().position(|op| op.kind == Type::Ok && matches!(op.f, F::Commit { .. }))?;
    let mut joins = Vec::new();
    for (at, op) in made.ops.iter().enumerate().skip(first + 2) {
        if let F::Join { generation: 2.., .. } = op.f {
            joins.push(at);
        }
    }
    let at = *joins.choose(random)?;
    let F::Join { generation, keys, .. } = &mut made.ops[at].f else { return None };
    *generation = 0;
    keys.clear();
    Some(())
}

fn share(made: &mut Made, random: &mut StdRng) -> Option<()> {
    let joins: Vec<(Process, i32, Vec<crate::Key>)> = made
        .ops
        .iter()
        .filter_map(|op| match &op.f {
            F::Join { generation, keys, .. } if op.kind == Type::Ok => {
                Some((op.process, *generation, keys.clone()))
            }
            _ => None,
        })
        .collect();
    let holders: Vec<_> = joins.iter().filter(|(_, _, keys)| !keys.is_empty()).collect();
    let (holder, generation, keys) = (*holders.choose(random)?).clone();
    let other = made.ops.iter_mut().find(|op| match &op.f {
        F::Join { generation: of, .. } => op.kind == Type::Ok && *of == generation && op.process != holder,
        _ => false,
    })?;
    if let F::Join { keys: given, .. } = &mut other.f {
        given.push(keys[random.random_range(0..keys.len())]);
    }
    Some(())
}
