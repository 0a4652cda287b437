//! A shard with its log, step by step: random operations, rewrites, trims and crashes against a naive model.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::group::coordinator::history::History;
use crate::group::records::{GroupMetadata, Key};
use crate::group::state::{Protocol, State};

const FLOOR: u64 = 1_500;
const FACTOR: u32 = 2;
const STEP_BYTES: usize = 300;
const RETENTION_MS: i64 = 100_000;

#[derive(Debug)]
struct Batch {
    records: Vec<EncodedRecord>,
    landings: Vec<Placed>,
    is_step: bool,
}

impl Batch {
    fn bytes(&self) -> u64 {
        let records = self.records.iter();
        61 + records.map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len) + 10).sum::<usize>()
            as u64
    }
}

/// What the log says, replayed naively: the last value of each key.
type Said = BTreeMap<Bytes, Bytes>;

/// What the operations mean, applied naively when they get their place.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    memberships: BTreeMap<Arc<str>, Arc<GroupMetadata>>,
    offsets: BTreeMap<(Arc<str>, TopicPartition), CommittedOffset>,
}

struct Walk {
    shard: Shard,
    history: History,
    now: Now,
    topics: HashMap<String, Uuid>,
    next_waiter: u64,
    queue: VecDeque<Write>,
    /// All that ever got a place; offset is index.
    log: Vec<Batch>,
    /// What the model said behind each batch.
    models: Vec<Model>,
    durable: usize,
    start: usize,
    joins: HashMap<Waiter, JoinAnswer>,
    rewrites: usize,
}

fn rules() -> Rules {
    Rules {
        initial_rebalance_delay: Duration::ZERO,
        offsets_retention: Duration::from_millis(RETENTION_MS as u64),
        offsets_retention_check_interval: Duration::from_millis(20_000),
        ..Rules::default()
    }
}

fn shard() -> Shard {
    Shard::new(rules(), 1_000, Arc::new(Budget::new(usize::MAX)))
}

impl Walk {
    fn new() -> Walk {
        Walk {
            shard: shard(),
            history: History::new(FLOOR, FACTOR),
            now: Now { tick_ms: 0, wall_ms: 1_700_000_000_000, outvoted: false },
            topics: (0..3).map(|topic| (format!("t{topic}"), Uuid::from_u128(topic + 1))).collect(),
            next_waiter: 0,
            queue: VecDeque::new(),
            log: Vec::new(),
            models: vec![Model::default()],
            durable: 0,
            start: 0,
            joins: HashMap::new(),
            rewrites: 0,
        }
    }

    fn call(&mut self, call: impl FnOnce(&mut Shard, Now, &dyn Fn(&str) -> Option<Uuid>, &mut Output)) {
        let mut out = Output::default();
        let topics = self.topics.clone();
        call(&mut self.shard, self.now, &|topic| topics.get(topic).copied(), &mut out);
        self.joins.extend(out.joins);
        self.queue.extend(out.writes);
    }

    fn waiter(&mut self) -> Waiter {
        self.next_waiter += 1;
        Waiter(self.next_waiter)
    }

    fn commit(&mut self, group: u8, offsets: &[(u8, i32)]) {
        let (waiter, now) = (self.waiter(), self.now);
        let offsets = offsets.iter().filter_map(|(topic, partition)| {
            let topic = format!("t{topic}");
            let topic_id = Some(*self.topics.get(&topic)?);
            let committed = CommittedOffset {
                offset: waiter.0 as i64,
                leader_epoch: 1,
                metadata: Arc::from("m".repeat((waiter.0 % 7) as usize)),
                committed_at_ms: now.wall_ms,
                expires_at_ms: None,
                topic_id,
            };
            Some(((Arc::from(topic), *partition), committed))
        });
        let request = CommitRequest {
            member_id: Arc::from(""),
            instance_id: None,
            generation: -1,
            knows_group_id_not_found: true,
            offsets: offsets.collect(),
        };
        self.call(|shard, now, _, out| shard.commit(now, &id(group), waiter, request, out));
    }

    /// A member comes; with `sync` it gets its assignment, too.
    fn join(&mut self, group: u8, sync: bool) {
        let waiter = self.waiter();
        let request = JoinRequest {
            member_id: Arc::from(""),
            instance_id: Some(Arc::from("i")),
            client_id: Arc::from("c"),
            client_host: Arc::from("/h"),
            session_timeout_ms: 30_000,
            rebalance_timeout_ms: 10_000,
            protocol_type: Arc::from("consumer"),
            protocols: vec![Protocol { name: Arc::from("range"), metadata: Bytes::from_static(b"opaque") }],
            requires_known_member_id: true,
            supports_skipping_assignment: true,
            fresh: Uuid::from_u128(u128::from(waiter.0)),
        };
        self.call(|shard, now, _, out| shard.join(now, &id(group), waiter, request, out));
        self.call(|shard, now, _, out| shard.expire(now, out));
        if let (true, Some(Ok(joined))) = (sync, self.joins.get(&waiter).cloned()) {
            let waiter = self.waiter();
            let request = SyncRequest {
                member_id: joined.member_id.clone(),
                instance_id: None,
                generation: joined.generation,
                protocol_type: None,
                protocol: None,
                assignments: vec![(joined.member_id, Bytes::from_static(b"assigned"))],
            };
            self.call(|shard, now, _, out| shard.sync(now, &id(group), waiter, request, out));
        }
    }

    fn leave(&mut self, group: u8) {
        let leaving = Leaving { member_id: Arc::from(""), instance_id: Some(Arc::from("i")) };
        self.call(|shard, now, _, out| drop(shard.leave(now, &id(group), &[leaving], out)));
    }

    /// As the coordinator fills a batch.
    fn append(&mut self, writes: usize) {
        if self.history.is_too_long(self.shard.live_bytes() as u64) {
            self.history.begin();
            self.shard.begin_rewrite();
            self.rewrites += 1;
        }
        let mut batch = Batch { records: Vec::new(), landings: Vec::new(), is_step: false };
        if self.history.takes_step() {
            let records = self.shard.rewrite(STEP_BYTES, 10_000).expect("what was written can be repeated");
            if records.is_empty() {
                self.history.rewritten();
            } else {
                batch.records.extend(records);
                batch.is_step = true;
                self.history.step_placed();
            }
        }
        let mut model = self.models.last().expect("one is there").clone();
        for _ in 0..writes {
            let Some(write) = self.queue.pop_front() else { break };
            let before = model.clone();
            self.apply(&mut model, &write);
            let topics = self.topics.clone();
            match self.shard.place(write, 400, &|topic| topics.get(topic).copied()) {
                Ok(placement) => {
                    if let Some(rest) = placement.rest {
                        self.queue.push_front(rest);
                        model = before;
                        self.apply_tombstones(&mut model, &placement.records);
                    }
                    batch.records.extend(placement.records);
                    batch.landings.push(placement.placed);
                }
                Err((write, _)) => {
                    assert!(matches!(write, Write::Commit { .. }), "{write:?}");
                    model = before;
                    let error = ResponseError::InvalidCommitOffsetSize;
                    self.call(|shard, now, _, out| shard.refused(now, write, error, out));
                }
            }
        }
        if batch.records.is_empty() && batch.landings.is_empty() {
            return;
        }
        let base = self.log.len() as u64;
        self.history.appended(base, base + 1, batch.bytes());
        self.log.push(batch);
        self.models.push(model);
    }

    fn apply(&self, model: &mut Model, write: &Write) {
        match write {
            Write::Group { group, value, .. } => {
                model.memberships.insert(group.clone(), value.clone());
            }
            Write::Commit { group, offsets, .. } => {
                for (at, offset) in offsets {
                    model.offsets.insert((group.clone(), at.clone()), offset.clone());
                }
            }
            Write::Remove { group: of, what } => {
                let entry = &self.shard.groups[of];
                let goes = |at: &TopicPartition, offset: &CommittedOffset| match what {
                    Removal::Group => true,
                    Removal::Orphans => self.topics.get(&*at.0) != offset.topic_id.as_ref(),
                    Removal::Keys { keys, .. } => keys.contains(at),
                    // Nobody's metadata can be read here: nothing of a group with members expires.
                    Removal::Expired { wall_ms } => {
                        match (entry.group.state(), entry.group.protocol_type()) {
                            (State::Empty, None) => wall_ms - offset.committed_at_ms >= RETENTION_MS,
                            (State::Empty, Some(_)) => wall_ms - entry.group.state_since_ms() >= RETENTION_MS,
                            _ => false,
                        }
                    }
                };
                model.offsets.retain(|(group, at), offset| group != of || !goes(at, offset));
                if matches!(what, Removal::Group | Removal::Keys { membership: true, .. }) {
                    model.memberships.remove(of);
                }
            }
        }
    }

    /// The first part of a removal that takes several appends.
    fn apply_tombstones(&self, model: &mut Model, records: &[EncodedRecord]) {
        for (key, _) in records {
            match Key::decode(key).unwrap().unwrap() {
                Key::Offset { group, topic, partition } => {
                    model.offsets.remove(&(group, (topic, partition))).expect("it was there");
                }
                Key::Group { .. } => panic!("the membership goes last"),
            }
        }
    }

    fn land(&mut self) {
        if self.durable < self.log.len() {
            let landings = std::mem::take(&mut self.log[self.durable].landings);
            self.durable += 1;
            for placed in landings {
                self.call(|shard, now, _, out| shard.written(now, placed, out));
            }
            if self.log[self.durable - 1].is_step {
                self.history.step_durable();
            }
        }
    }

    /// What is durable is uploaded, and the log's beginning goes if it may.
    fn trim(&mut self) {
        if let Some(mark) = self.history.trim_due(self.durable as u64) {
            assert!(mark as usize <= self.durable, "a mark beyond what is durable (H1)");
            self.history.trim_started();
            self.start = self.start.max(mark as usize);
            self.history.trim_ended(true);
        }
    }

    fn said(&self, from: usize) -> Said {
        let mut said = Said::new();
        for (key, value) in self.log[from..self.durable].iter().flat_map(|batch| &batch.records) {
            match value {
                Some(value) => said.insert(key.clone(), value.clone()),
                None => said.remove(key),
            };
        }
        said
    }

    /// What is not durable is lost; the successor reads what is left of the log.
    fn crash(&mut self) {
        // The whole history says what the trimmed log says (C4).
        assert_eq!(self.said(self.start), self.said(0));
        let topics = self.topics.clone();
        let mut next = Walk { now: self.now, topics, next_waiter: self.next_waiter, ..Walk::new() };
        next.rewrites = self.rewrites;
        self.log.truncate(self.durable);
        self.models.truncate(self.durable + 1);
        for batch in &mut self.log {
            batch.landings.clear();
        }
        (next.durable, next.start) = (self.durable, self.start);
        std::mem::swap(&mut next.log, &mut self.log);
        std::mem::swap(&mut next.models, &mut self.models);
        let mut bytes = 0;
        for batch in &next.log[next.start..] {
            bytes += batch.bytes();
            for (key, value) in &batch.records {
                match Key::decode(key).unwrap().unwrap() {
                    Key::Group { group } => {
                        let value =
                            value.as_ref().map(|value| GroupMetadata::decode(value).unwrap().unwrap());
                        next.shard.replay_group(group, value);
                    }
                    Key::Offset { group, topic, partition } => {
                        let value =
                            value.as_ref().map(|value| CommittedOffset::decode(value).unwrap().unwrap());
                        next.shard.replay_offset(next.now, group, (topic, partition), value);
                    }
                }
            }
        }
        next.history.loaded(bytes, next.durable as u64);
        next.call(|shard, now, _, out| shard.loaded(now, out));
        *self = next;
        assert_eq!(self.state(), *self.models.last().expect("one is there"), "C1");
    }

    /// What the shard has, as the log will have it.
    fn state(&self) -> Model {
        let mut model = Model::default();
        for (id, entry) in &self.shard.groups {
            if let Some(membership) = &entry.membership {
                model.memberships.insert(id.clone(), membership.clone());
            }
            let overrides = entry.overrides();
            for (topic, partition, offset) in entry.placed_after(&overrides, None) {
                model.offsets.insert((id.clone(), (topic.clone(), partition)), offset.clone());
            }
        }
        model
    }

    fn check(&self) {
        assert_eq!(self.state(), *self.models.last().expect("one is there"), "C2");
        let live: usize = self.shard.groups.values().map(Entry::live_bytes).sum();
        assert_eq!(self.shard.live_bytes(), live);
    }

    /// Everything is durable, uploaded and at rest.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            self.append(8);
            self.land();
            self.trim();
            if self.queue.is_empty() && self.durable == self.log.len() && !self.shard.is_rewriting() {
                let before = self.log.len();
                self.append(8);
                if self.log.len() == before && self.history.trim_due(u64::MAX).is_none() {
                    return;
                }
            }
        }
        panic!("it never rests");
    }
}

fn id(group: u8) -> Arc<str> {
    Arc::from(format!("g{group}"))
}

#[derive(Clone, Debug)]
enum Op {
    Commit { group: u8, offsets: Vec<(u8, i32)> },
    Join { group: u8, sync: bool },
    Leave(u8),
    Delete(u8),
    DeleteOffsets { group: u8, offsets: Vec<(u8, i32)> },
    DeleteTopic(u8),
    MakeTopic(u8),
    Pass(u64),
    Append(usize),
    Land,
    Trim,
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let at = || (0u8..3, 0i32..6);
    let offsets = move || prop::collection::vec(at(), 1..8);
    prop_oneof![
        30 => (0u8..4, offsets()).prop_map(|(group, offsets)| Op::Commit { group, offsets }),
        4 => (4u8..6, any::<bool>()).prop_map(|(group, sync)| Op::Join { group, sync }),
        2 => (4u8..6).prop_map(Op::Leave),
        // A group of members that emptied takes commits, too.
        2 => (4u8..6, offsets()).prop_map(|(group, offsets)| Op::Commit { group, offsets }),
        3 => (0u8..6).prop_map(Op::Delete),
        4 => (0u8..6, offsets()).prop_map(|(group, offsets)| Op::DeleteOffsets { group, offsets }),
        1 => (0u8..3).prop_map(Op::DeleteTopic),
        3 => (0u8..3).prop_map(Op::MakeTopic),
        4 => (1u64..40_000).prop_map(Op::Pass),
        30 => (0usize..6).prop_map(Op::Append),
        30 => Just(Op::Land),
        6 => Just(Op::Trim),
        2 => Just(Op::Crash),
    ]
}

impl Walk {
    fn step(&mut self, op: Op) {
        match op {
            Op::Commit { group, offsets } => self.commit(group, &offsets),
            Op::Join { group, sync } => self.join(group, sync),
            Op::Leave(group) => self.leave(group),
            Op::Delete(group) => {
                self.call(|shard, now, _, out| shard.delete(now, &id(group), out).unwrap_or_default());
            }
            Op::DeleteOffsets { group, offsets } => {
                let offsets = offsets.iter().map(|(topic, at)| (Arc::from(format!("t{topic}")), *at));
                let offsets = offsets.collect();
                self.call(|shard, _, _, out| drop(shard.delete_offsets(&id(group), offsets, out)));
            }
            Op::DeleteTopic(topic) => {
                self.topics.remove(&format!("t{topic}"));
                self.call(|shard, _, topic_id, out| shard.forget_orphans(topic_id, out));
            }
            Op::MakeTopic(topic) => {
                self.next_waiter += 1;
                let fresh = Uuid::from_u128(u128::from(self.next_waiter) << 32);
                self.topics.entry(format!("t{topic}")).or_insert(fresh);
            }
            Op::Pass(duration_ms) => {
                self.now.tick_ms += duration_ms;
                self.now.wall_ms += duration_ms as i64;
                self.call(|shard, now, topic_id, out| {
                    shard.expire(now, out);
                    if shard.is_check_due(now) {
                        shard.check_retention(now, topic_id, out);
                    }
                });
            }
            Op::Append(writes) => self.append(writes),
            Op::Land => self.land(),
            Op::Trim => self.trim(),
            Op::Crash => self.crash(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_with_rewrites_and_crashes_match_a_naive_model(
        ops in prop::collection::vec(op(), 1..400),
    ) {
        let mut walk = Walk::new();
        for op in ops {
            walk.step(op);
            walk.check();
        }
        walk.settle();
        walk.check();
        let live = walk.shard.live_bytes() as u64;
        let bound = FLOOR.max(u64::from(FACTOR) * live);
        prop_assert!(walk.history.bytes() <= bound, "{} bytes, {live} of them live", walk.history.bytes());
        let left: u64 = walk.log[walk.start..].iter().map(Batch::bytes).sum();
        prop_assert_eq!(left, walk.history.bytes());
        walk.crash();
    }
}

/// C5.
#[test]
fn behaviour_96_a_clock_that_jumps_ahead_expires_nothing_until_it_stays_there() {
    const DECADE_MS: i64 = 10 * 365 * 86_400_000;
    let mut walk = Walk::new();
    walk.call(|shard, now, _, out| shard.loaded(now, out));
    // A simple group, a group that emptied, and one with members.
    walk.commit(0, &[(0, 0), (0, 1)]);
    walk.join(4, true);
    walk.settle();
    walk.leave(4);
    walk.commit(4, &[(1, 0)]);
    walk.settle();
    let all = walk.state();
    assert_eq!((all.offsets.len(), all.memberships.len()), (3, 1));
    let pass = |walk: &mut Walk, jump_ms: i64| {
        walk.now.wall_ms += jump_ms;
        walk.step(Op::Pass(20_000));
        walk.settle();
    };
    pass(&mut walk, DECADE_MS);
    assert_eq!(walk.state(), all, "a jump");
    pass(&mut walk, -DECADE_MS);
    pass(&mut walk, 0);
    assert_eq!(walk.state(), all, "it went back");
    pass(&mut walk, DECADE_MS);
    walk.crash();
    assert_eq!(walk.state(), all);
    pass(&mut walk, -DECADE_MS);
    // Believed, something expires; its removal finds its place when the clock has jumped.
    walk.now.wall_ms += RETENTION_MS;
    walk.commit(0, &[(0, 1)]);
    walk.settle();
    walk.step(Op::Pass(20_000));
    walk.now.wall_ms += DECADE_MS;
    walk.settle();
    let left: Vec<_> = walk.state().offsets.into_keys().map(|(group, (_, at))| (group, at)).collect();
    assert_eq!(left, [(id(0), 1)]);
    // It stays there, and nobody speaks against it.
    walk.now.outvoted = true;
    walk.step(Op::Pass(20_000));
    walk.step(Op::Pass(20_000));
    walk.settle();
    assert_eq!(walk.state().offsets.len(), 1);
    walk.now.outvoted = false;
    walk.step(Op::Pass(20_000));
    walk.settle();
    assert_eq!(walk.state(), Model::default());
}

/// A crash at every point of a rewrite: before and after each step is placed, durable, and the trim.
#[test]
fn a_crash_at_any_step_of_a_rewrite_loses_and_repeats_nothing() {
    let mut crashes = 0;
    for crash_at in 0.. {
        let mut walk = Walk::new();
        walk.join(4, true);
        for round in 0..24 {
            walk.commit(round % 3, &[(0, 0), (1, i32::from(round)), (2, 1)]);
        }
        walk.call(|shard, now, _, out| shard.delete(now, &id(2), out).expect("it has no members"));
        while !walk.history.takes_step() {
            walk.commit(0, &[(0, 0)]);
            walk.append(10);
            walk.land();
        }
        let mut moments = 0;
        let mut crashed = false;
        while walk.start == 0 && !crashed {
            for moment in [Walk::land as fn(&mut Walk), |walk| walk.append(1), Walk::trim] {
                moment(&mut walk);
                // Life goes on meanwhile.
                walk.commit((moments % 3) as u8, &[(1, 1), (0, moments % 5)]);
                if moments == crash_at {
                    walk.crash();
                    crashed = true;
                    break;
                }
                moments += 1;
            }
        }
        crashes += usize::from(crashed);
        walk.settle();
        walk.crash();
        assert!(walk.start > 0, "the successor finds the log too long and goes about it anew");
        if !crashed {
            break;
        }
    }
    assert!(crashes > 12, "{crashes} moments were tried");
}

#[test]
fn a_rewrite_costs_a_fixed_share_of_what_is_written() {
    let mut walk = Walk::new();
    let mut written = 0;
    for round in 0..3_000u32 {
        walk.commit((round % 4) as u8, &[(0, (round % 5) as i32), (1, 1)]);
        let before = walk.log.len();
        walk.append(1);
        written += walk.log[before..].iter().map(Batch::bytes).sum::<u64>();
        walk.land();
        walk.trim();
    }
    let commits: u64 = 3_000 * 2 * 60;
    assert!(walk.rewrites > 50);
    assert!(written < 3 * commits, "{written} bytes for {commits} of commits");
}

/// What records take in a batch, its header aside.
fn batch_bytes(records: &[EncodedRecord]) -> usize {
    let mut builder = crate::group::batch::Builder::new(0);
    for (key, value) in records {
        builder.push(key, value.as_deref());
    }
    builder.len_bytes() - 61
}

/// The bound is one of the write-ahead log: what frames a record counts, and most of a small one is that.
#[test]
fn what_is_placed_takes_no_more_of_a_batch_than_it_may() {
    const BYTES_MAX: usize = 10_000;
    let place = |walk: &mut Walk, write: Write| {
        let topics = walk.topics.clone();
        walk.shard.place(write, BYTES_MAX, &|topic| topics.get(topic).copied())
    };
    let (mut most, mut walk) = (0, Walk::new());
    for count in 1.. {
        let offsets: Vec<_> = (0..count).map(|partition| (0, partition)).collect();
        walk.commit(0, &offsets);
        let write = walk.queue.pop_front().unwrap();
        match place(&mut walk, write) {
            Ok(placement) => {
                let bytes = batch_bytes(&placement.records);
                assert!(bytes <= BYTES_MAX, "{count} offsets take {bytes}");
                most = most.max(bytes);
                walk.call(|shard, now, _, out| shard.written(now, placement.placed, out));
            }
            Err(_) => break,
        }
    }
    assert!(most > BYTES_MAX * 8 / 10, "nor much less: {most}");
    let mut removed = 0;
    walk.call(|shard, now, _, out| shard.delete(now, &id(0), out).unwrap());
    while let Some(write) = walk.queue.pop_front() {
        let placement = place(&mut walk, write).unwrap();
        let bytes = batch_bytes(&placement.records);
        assert!(bytes <= BYTES_MAX, "{} tombstones take {bytes}", placement.records.len());
        removed += placement.records.len();
        walk.queue.extend(placement.rest);
        walk.call(|shard, now, _, out| shard.written(now, placement.placed, out));
    }
    assert!(removed > 80);
}

#[test]
fn live_bytes_are_never_less_than_what_a_rewrite_takes() {
    let mut walk = Walk::new();
    walk.join(4, true);
    for round in 0..200 {
        walk.commit((round % 4) as u8, &[((round % 3) as u8, round), (0, -round)]);
    }
    for _ in 0..250 {
        walk.append(1);
        walk.land();
    }
    let live = walk.shard.live_bytes();
    while walk.shard.is_rewriting() {
        walk.shard.rewrite(1_000, 10_000).unwrap();
    }
    walk.shard.begin_rewrite();
    let mut builder = crate::group::batch::Builder::new(0);
    loop {
        let records = walk.shard.rewrite(1_000, 10_000).unwrap();
        if records.is_empty() {
            break;
        }
        for (key, value) in records {
            builder.push(&key, value.as_deref());
        }
    }
    let taken = builder.finish().bytes.len() - 61;
    assert!(taken <= live && live < taken * 2, "{taken} bytes, estimated as {live}");
}
