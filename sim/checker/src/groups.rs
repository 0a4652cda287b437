//! What consumer groups committed, and who was allowed to.
//!
//! A committed offset is a register, one for each group and key: what is read of it was committed by somebody, and not
//! overwritten before the read began. A commit was *overwritten* if another one began after it was over and had itself taken
//! effect by then, as its acknowledgement shows, or a read of it.
//!
//! ```text
//!   commit 5 ├────ok┤      commit 9 ├───ok┤     read ├──┤      9, never 5
//!   commit 5 ├──────────────────────── in doubt …  read ├──┤   5 or 9: it may have landed late
//! ```
//!
//! Generations are those of classic groups, a process is a member: a static member that is replaced keeps the
//! number of the process. Groups are not deleted, and offsets do not expire, in the histories that are judged here.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::evidence::{Evidence, NONE};
use crate::history::{F, Group, History, Key, Offset, Process, Type};
use crate::rules::{Rule, on};
use crate::verdict::{Finding, about, describe};
use crate::{Anomaly, Verdict};

struct Commit {
    call: u32,
    offset: Offset,
    began: u32,
    /// When it could take effect no more; none if at any time.
    over: Option<u32>,
    /// When it had taken effect for certain; none if nobody knows.
    there: Option<u32>,
}

struct Read {
    call: u32,
    offset: Option<Offset>,
    began: u32,
    over: u32,
}

#[derive(Default)]
struct Register {
    commits: Vec<Commit>,
    reads: Vec<Read>,
}

pub(crate) fn check(history: &History, evidence: &Evidence, verdict: &mut Verdict) {
    if history.group_count() == 0 {
        return;
    }
    let registers = gather(history);
    for ((group, key), mut register) in registers {
        judge(history, group, key, &mut register, verdict);
    }
    generations(history, verdict);
    skips(history, evidence, verdict);
}

/// In the order of groups and keys.
fn gather(history: &History) -> std::collections::BTreeMap<(Group, Key), Register> {
    let mut registers: std::collections::BTreeMap<(Group, Key), Register> = Default::default();
    for (at, call) in history.calls().iter().enumerate() {
        let (call_at, began) = (at as u32, call.invoked.index);
        match &call.f {
            F::Commit { group, offsets, .. } => {
                if call.outcome == Type::Fail && on(Rule::FailedCommitsDoNotCount) {
                    continue;
                }
                let over = if on(Rule::DoubtfulCommitsMayLand) { call.over() } else { call.heard() };
                let there = if call.outcome == Type::Ok { call.heard() } else { None };
                for (key, offset) in offsets {
                    let register = registers.entry((*group, *key)).or_default();
                    register.commits.push(Commit { call: call_at, offset: *offset, began, over, there });
                }
            }
            F::Committed { group, offsets } if call.outcome == Type::Ok => {
                let Some(over) = call.heard() else { continue };
                for (key, offset) in offsets {
                    let register = registers.entry((*group, *key)).or_default();
                    register.reads.push(Read { call: call_at, offset: *offset, began, over });
                }
            }
            _ => {}
        }
    }
    registers
}

fn judge(history: &History, group: Group, key: Key, register: &mut Register, verdict: &mut Verdict) {
    let Register { commits, reads } = register;
    let mut by_offset: FxHashMap<Offset, Vec<u32>> = FxHashMap::default();
    for (at, commit) in commits.iter().enumerate() {
        by_offset.entry(commit.offset).or_default().push(at as u32);
    }
    // A read proves a commit if it can be of no other.
    if on(Rule::ReadProvesCommit) {
        for read in reads.iter() {
            if let Some([only]) = read.offset.and_then(|offset| by_offset.get(&offset)).map(Vec::as_slice) {
                let commit = &mut commits[*only as usize];
                commit.there = Some(commit.there.map_or(read.over, |there| there.min(read.over)));
            }
        }
    }
    // By when which was there, and the latest beginning of all that were there by then.
    let mut there: Vec<(u32, u32)> =
        commits.iter().filter_map(|commit| Some((commit.there?, commit.began))).collect();
    there.sort_unstable();
    let mut latest = 0;
    for (_, began) in &mut there {
        latest = latest.max(*began);
        *began = latest;
    }
    for read in reads.iter() {
        let known = there.partition_point(|(by, _)| *by < read.began);
        let newest = known.checked_sub(1).map(|last| there[last].1);
        let newest_commit = || newest.and_then(|began| commits.iter().find(|commit| commit.began == began));
        let Some(offset) = read.offset else {
            if let Some(commit) = newest_commit() {
                verdict.error(Anomaly::StaleCommit, || {
                    let calls = [commit.call, read.call];
                    of_group(
                        history,
                        group,
                        key,
                        &calls,
                        &format!("no offset, but {} was committed", commit.offset),
                    )
                });
            }
            continue;
        };
        let candidates = || {
            let all = by_offset.get(&offset).map_or(&[][..], Vec::as_slice).iter();
            all.map(|at| &commits[*at as usize]).filter(|commit| commit.began < read.over)
        };
        if candidates().next().is_none() {
            verdict.error(Anomaly::PhantomCommit, || {
                of_group(
                    history,
                    group,
                    key,
                    &[read.call],
                    &format!("{offset} was answered and never committed"),
                )
            });
            continue;
        }
        let overwritten = |commit: &Commit| {
            newest.is_some_and(|newest| {
                let over = if on(Rule::ConcurrentCommits) { commit.over } else { Some(commit.began) };
                over.is_some_and(|over| over < newest)
            })
        };
        if candidates().all(overwritten) {
            verdict.error(Anomaly::StaleCommit, || {
                let newer = newest_commit();
                let calls: Vec<u32> = candidates()
                    .take(2)
                    .map(|commit| commit.call)
                    .chain(newer.map(|commit| commit.call))
                    .chain([read.call])
                    .collect();
                let by = newer.map_or(offset, |commit| commit.offset);
                of_group(
                    history,
                    group,
                    key,
                    &calls,
                    &format!("{offset} was answered, which {by} had overwritten"),
                )
            });
        }
    }
}

fn of_group(history: &History, group: Group, key: Key, calls: &[u32], sentence: &str) -> Finding {
    let sentence = format!("group {}: {sentence}", history.group_name(group));
    Finding { group: Some(group), ..about(history, key, &[], &[], calls.iter().copied(), &sentence) }
}

/// What is known of a group while its history is walked through.
#[derive(Default)]
struct Generations {
    /// Joins that were over: when, generation, call. Only those that no later one surpasses.
    latest: Vec<(u32, i32, u32)>,
    /// When each member learned of each generation, the last time.
    members: FxHashMap<(Process, i32), u32>,
    holders: FxHashMap<(i32, Key), (Process, u32)>,
    /// Offsets are committed since.
    kept: Option<u32>,
}

/// Members that commit after their time, generations that go back, keys that two members hold.
fn generations(history: &History, verdict: &mut Verdict) {
    let mut groups: FxHashMap<Group, Generations> = FxHashMap::default();
    let mut heard: Vec<(u32, u32)> = Vec::new();
    for (at, call) in history.calls().iter().enumerate() {
        if matches!(call.f, F::Join { .. } | F::Commit { .. } | F::Crash) {
            heard.extend(call.heard().map(|index| (index, at as u32)));
        }
    }
    heard.sort_unstable();
    for (now, at) in heard {
        let call = &history.calls()[at as usize];
        match &call.f {
            F::Crash if on(Rule::CrashReturnsKeys) => {
                for group in groups.values_mut() {
                    group.holders.retain(|_, (process, _)| *process != call.process);
                }
            }
            F::Join { group: of, generation, keys } if call.outcome == Type::Ok => {
                let group = groups.entry(*of).or_default();
                group.joined(history, *of, (now, at), *generation, verdict);
                group.members.insert((call.process, *generation), now);
                for key in keys {
                    let holder = *group.holders.entry((*generation, *key)).or_insert((call.process, at));
                    if holder.0 != call.process {
                        verdict.error(Anomaly::DoubleAssignment, || {
                            let sentence = format!("two members were given it in generation {generation}");
                            of_group(history, *of, *key, &[holder.1, at], &sentence)
                        });
                    }
                }
            }
            F::Commit { group: of, generation, .. } if call.outcome == Type::Ok => {
                let group = groups.entry(*of).or_default();
                group.kept.get_or_insert(now);
                let Some(generation) = generation else { continue };
                group.zombie(history, *of, at, *generation, verdict);
            }
            _ => {}
        }
    }
}

impl Generations {
    fn joined(
        &mut self,
        history: &History,
        of: Group,
        (now, at): (u32, u32),
        generation: i32,
        verdict: &mut Verdict,
    ) {
        let began = history.calls()[at as usize].invoked.index;
        // The stack falls from its bottom to its top: the lowest entry that was over before is the greatest generation.
        let over = self.latest.iter().find(|(over, later, _)| *over < began && *later > generation);
        if let Some((_, later, by)) = over.copied() {
            let kept = self.kept.is_some_and(|since| since < began) || !on(Rule::RestartedGroups);
            if kept {
                verdict.error(Anomaly::GenerationBack, || {
                    let mut finding = Finding { group: Some(of), calls: vec![by, at], ..Finding::default() };
                    finding.text = format!(
                        "group {}: generation {generation} after generation {later}\n{}\n{}",
                        history.group_name(of),
                        describe(history, by, None, &[]),
                        describe(history, at, None, &[]),
                    );
                    finding
                });
            } else {
                self.holders.clear();
                self.latest.clear();
            }
        }
        while self.latest.last().is_some_and(|(_, earlier, _)| *earlier <= generation) {
            self.latest.pop();
        }
        self.latest.push((now, generation, at));
    }

    fn zombie(&self, history: &History, of: Group, at: u32, generation: i32, verdict: &mut Verdict) {
        let call = &history.calls()[at as usize];
        let Some(joined) = self.members.get(&(call.process, generation)) else { return };
        let began = call.invoked.index;
        let surpassed =
            self.latest.iter().find(|(over, later, _)| over > joined && *over < began && *later > generation);
        if let Some((_, later, by)) = surpassed {
            verdict.error(Anomaly::ZombieCommit, || {
                let mut finding = Finding { group: Some(of), calls: vec![*by, at], ..Finding::default() };
                finding.text = format!(
                    "group {}: committed in generation {generation} after generation {later} had begun\n{}\n{}",
                    history.group_name(of),
                    describe(history, *by, None, &[]),
                    describe(history, at, None, &[]),
                );
                finding
            });
        }
    }
}

/// Records before a committed offset that no member ever polled.
fn skips(history: &History, evidence: &Evidence, verdict: &mut Verdict) {
    // Which groups a process was ever in, which keys it ever polled, and what was committed by whom.
    let mut groups: FxHashMap<Process, Vec<Group>> = FxHashMap::default();
    let mut polls: FxHashSet<(Process, Key)> = FxHashSet::default();
    let mut committed: std::collections::BTreeMap<(Group, Key), (Offset, u32)> = Default::default();
    for call in history.calls() {
        let group = match &call.f {
            F::Subscribe { group, .. } => *group,
            F::Join { group, .. } | F::Commit { group, .. } => Some(*group),
            _ => None,
        };
        if let Some(group) = group {
            let groups = groups.entry(call.process).or_default();
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        polls.extend(call.f.polled().map(|polled| (call.process, polled.key)));
    }
    let mut outside: FxHashSet<(Group, Key)> = FxHashSet::default();
    for (at, call) in history.calls().iter().enumerate() {
        let F::Commit { group, generation, offsets } = &call.f else { continue };
        for (key, offset) in offsets {
            if generation.is_none() && !polls.contains(&(call.process, *key)) && on(Rule::OutsideCommits) {
                outside.insert((*group, *key));
            }
            if call.outcome == Type::Ok {
                let furthest = committed.entry((*group, *key)).or_insert((*offset, at as u32));
                if *offset > furthest.0 {
                    *furthest = (*offset, at as u32);
                }
            }
        }
    }
    // What each group polled of the keys that it committed, by record; and the first offset.
    let mut seen: FxHashMap<(Group, Key), (Vec<bool>, Offset)> = FxHashMap::default();
    for call in history.calls().iter().filter(|call| call.f.is_data()) {
        for group in groups.get(&call.process).into_iter().flatten() {
            for polled in call.f.polled() {
                let of = (*group, polled.key);
                if !committed.contains_key(&of) {
                    continue;
                }
                let log = evidence.log(polled.key);
                let (seen, first) =
                    seen.entry(of).or_insert_with(|| (vec![false; log.records.len()], Offset::MAX));
                *first = polled.offset.min(*first);
                if let Some(id) = log.id(polled.value) {
                    seen[id as usize] = true;
                }
            }
        }
    }
    for ((group, key), (offset, call)) in committed {
        let Some((seen, first)) = seen.get(&(group, key)).filter(|_| !outside.contains(&(group, key))) else {
            continue;
        };
        let log = evidence.log(key);
        let from = if on(Rule::GroupsStartAnywhere) { *first } else { 0 };
        let from = if on(Rule::GroupsForgetDeleted) { from.max(log.start) } else { from };
        let skipped = log.order.iter().filter(|(id, at)| {
            *at >= from && *at < offset && !seen[*id as usize] && {
                let record = &log.records[*id as usize];
                evidence.committed(history, record) || record.read != NONE
            }
        });
        let skipped: Vec<(u32, Offset)> = skipped.copied().collect();
        let Some((id, _)) = skipped.first() else { continue };
        verdict.error(Anomaly::GroupSkip, || {
            let record = &log.records[*id as usize];
            let offsets: Vec<Offset> = skipped.iter().take(16).map(|(_, at)| *at).collect();
            let sentence = format!(
                "{offset} was committed, and {} records before it were polled by no member, at {offsets:?}",
                skipped.len()
            );
            let calls: Vec<u32> = [record.writer, call].into_iter().filter(|call| *call != NONE).collect();
            let mut finding = of_group(history, group, key, &calls, &sentence);
            finding.values = vec![record.value];
            finding.offsets = offsets;
            finding
        });
    }
}
