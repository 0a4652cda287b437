//! The groups of one partition of `__consumer_offsets`: a state machine without I/O, around [`Group`]s and their
//! [`Offsets`].
//!
//! Calls take the time and fill an [`Output`]: answers to give, and [`Write`]s to append *in order*. The owner reports
//! each write with [`Shard::written`] once it is durable, in the same order. A committed offset is visible to fetches
//! from then on and not before, so that what a consumer was told survives a crash.
//!
//! # Invariants
//!
//! - **C1** The offsets in memory are those that a replay of the durable log would give.
//! - **C2** Tombstones of a group are written only while none of its commits is on the way: a commit for a topic that
//!   was deleted and made again cannot be buried by the tombstone of its predecessor's.
//! - **C3** Every group with a deadline is in the timer heap at that deadline or earlier.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kafka_protocol::error::ResponseError;
use uuid::Uuid;

use super::offsets::{Offsets, TopicPartition, is_orphan, offset_bytes};
use super::records::{CommittedOffset, GroupMetadata};
use super::state::{
    Description, Effect, Group, JoinAnswer, JoinRefused, JoinRequest, Leaving, Now, Rules, StoreId,
    SyncAnswer, SyncRequest, Waiter,
};

/// Memory for groups and offsets, shared by all coordinators of a broker.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    pub fn new(max_bytes: usize) -> Budget {
        Budget { used: AtomicUsize::new(0), max: max_bytes }
    }

    pub fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether something may grow by `bytes`.
    fn has_room(&self, bytes: usize) -> bool {
        self.used_bytes().saturating_add(bytes) <= self.max
    }

    fn recharge(&self, before: usize, after: usize) {
        self.used.fetch_add(after, Ordering::Relaxed);
        self.used.fetch_sub(before, Ordering::Relaxed);
    }
}

/// An offset commit whose topics are known to exist.
#[derive(Clone, Debug)]
pub struct CommitRequest {
    pub member_id: Arc<str>,
    pub instance_id: Option<Arc<str>>,
    /// Negative for a commit from outside of the group protocol.
    pub generation: i32,
    /// OffsetCommit v9+ says GROUP_ID_NOT_FOUND where older versions say ILLEGAL_GENERATION.
    pub knows_group_id_not_found: bool,
    pub offsets: Vec<(TopicPartition, CommittedOffset)>,
}

/// To be appended to the log.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    Group { group: Arc<str>, id: StoreId, value: GroupMetadata },
    Commit { group: Arc<str>, waiter: Waiter, offsets: Vec<(TopicPartition, CommittedOffset)> },
    Forget { group: Arc<str>, offsets: Vec<TopicPartition> },
}

/// What a call leads to.
#[derive(Debug, Default)]
pub struct Output {
    pub joins: Vec<(Waiter, JoinAnswer)>,
    pub syncs: Vec<(Waiter, SyncAnswer)>,
    pub commits: Vec<(Waiter, Result<(), ResponseError>)>,
    pub writes: Vec<Write>,
}

#[derive(Debug)]
struct Entry {
    group: Group,
    offsets: Offsets,
    /// Commits that are on their way to the log.
    committing: usize,
    /// The earliest time at which the timer heap has it; `NEVER` if it is not there.
    scheduled: u64,
    /// What the group takes in memory, offsets aside.
    group_bytes: usize,
    /// What of the budget it holds.
    charged: usize,
}

/// What a call may have changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Touched {
    Membership,
    Offsets,
}

impl Entry {
    fn new(id: &Arc<str>, now: Now) -> Entry {
        Entry {
            group: Group::new(id.clone(), now),
            offsets: Offsets::default(),
            committing: 0,
            scheduled: NEVER,
            group_bytes: NEW_GROUP_BYTES + id.len(),
            charged: 0,
        }
    }
}

const NEVER: u64 = u64::MAX;

/// An estimate of what a group without members takes.
const NEW_GROUP_BYTES: usize = 512;

/// The same for a member, what it offers aside.
const NEW_MEMBER_BYTES: usize = 512;

/// See the module.
#[derive(Debug)]
pub struct Shard {
    rules: Rules,
    groups_max: usize,
    budget: Arc<Budget>,
    groups: HashMap<Arc<str>, Entry>,
    timers: BinaryHeap<Reverse<(u64, Arc<str>)>>,
    /// Memberships met by the replay; empty afterwards.
    replayed: HashMap<Arc<str>, GroupMetadata>,
    /// Some group could not be cleared of orphans because it was committing (C2).
    orphans_left: bool,
    effects: Vec<Effect>,
}

impl Shard {
    pub fn new(rules: Rules, groups_max: usize, budget: Arc<Budget>) -> Shard {
        Shard {
            rules,
            groups_max,
            budget,
            groups: HashMap::new(),
            timers: BinaryHeap::new(),
            replayed: HashMap::new(),
            orphans_left: false,
            effects: Vec::new(),
        }
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// A membership found in the log, in order; `None` is its tombstone.
    pub fn replay_group(&mut self, group: Arc<str>, value: Option<GroupMetadata>) {
        match value {
            Some(value) => drop(self.replayed.insert(group, value)),
            None => drop(self.replayed.remove(&group)),
        }
    }

    /// An offset found in the log, in order; `None` is its tombstone.
    pub fn replay_offset(
        &mut self,
        now: Now,
        group: Arc<str>,
        at: TopicPartition,
        offset: Option<CommittedOffset>,
    ) {
        match offset {
            Some(offset) => {
                let entry = self.entry(&group, now);
                entry.offsets.set(&at.0, at.1, offset);
            }
            None => {
                if let Some(entry) = self.groups.get_mut(&group) {
                    entry.offsets.remove(&at.0, at.1);
                }
            }
        }
    }

    /// The log is replayed: groups come to life, and their sessions begin anew (behaviour 101).
    pub fn loaded(&mut self, now: Now, out: &mut Output) {
        for (id, value) in std::mem::take(&mut self.replayed) {
            let entry = self.entry(&id, now);
            entry.group = Group::restore(id.clone(), &value, now);
        }
        let ids: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        for id in ids {
            let entry = self.groups.get_mut(&id).expect("just listed");
            if !entry.offsets.is_empty() {
                entry.group.set_recorded();
            }
            entry.group.loaded(now, &self.rules, &mut self.effects);
            self.settle(&id, Touched::Membership, out);
        }
    }

    fn entry(&mut self, id: &Arc<str>, now: Now) -> &mut Entry {
        self.groups.entry(id.clone()).or_insert_with(|| Entry::new(id, now))
    }

    fn has_room_for_group(&self, id: &str) -> bool {
        self.groups.contains_key(id) || self.groups.len() < self.groups_max
    }

    pub fn join(&mut self, now: Now, id: &Arc<str>, waiter: Waiter, request: JoinRequest, out: &mut Output) {
        let refuse = |error| JoinRefused { error, member_id: request.member_id.clone() };
        let (min, max) =
            (self.rules.session_timeout_min.as_millis(), self.rules.session_timeout_max.as_millis());
        let in_range =
            u128::try_from(request.session_timeout_ms).is_ok_and(|asked| (min..=max).contains(&asked));
        let known = self.groups.contains_key(id);
        let bytes: usize =
            request.protocols.iter().map(|offered| offered.name.len() + offered.metadata.len()).sum();
        let refused = if !in_range {
            Some(ResponseError::InvalidSessionTimeout)
        } else if !known && !request.member_id.is_empty() {
            Some(ResponseError::UnknownMemberId)
        } else if !self.has_room_for_group(id)
            || !self.budget.has_room(NEW_GROUP_BYTES + NEW_MEMBER_BYTES + bytes)
        {
            Some(ResponseError::GroupMaxSizeReached)
        } else {
            None
        };
        if let Some(error) = refused {
            out.joins.push((waiter, Err(refuse(error))));
            return;
        }
        let entry = self.groups.entry(id.clone()).or_insert_with(|| Entry::new(id, now));
        entry.group.join(now, &self.rules, waiter, request, &mut self.effects);
        self.settle(id, Touched::Membership, out);
    }

    pub fn sync(&mut self, now: Now, id: &Arc<str>, waiter: Waiter, request: SyncRequest, out: &mut Output) {
        let bytes: usize = request.assignments.iter().map(|(_, assignment)| assignment.len()).sum();
        let Some(entry) = self.groups.get_mut(id) else {
            out.syncs.push((waiter, Err(ResponseError::UnknownMemberId)));
            return;
        };
        if !self.budget.has_room(bytes) {
            out.syncs.push((waiter, Err(ResponseError::GroupMaxSizeReached)));
            return;
        }
        entry.group.sync(now, waiter, request, &mut self.effects);
        self.settle(id, Touched::Membership, out);
    }

    pub fn heartbeat(
        &mut self,
        now: Now,
        id: &str,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<(), ResponseError> {
        // Nothing but a deadline moves, and only back: no need to settle.
        let entry = self.groups.get_mut(id).ok_or(ResponseError::UnknownMemberId)?;
        entry.group.heartbeat(now, member_id, instance_id, generation)
    }

    /// A result for each that leaves. To be answered after the writes that come with it are durable.
    pub fn leave(
        &mut self,
        now: Now,
        id: &Arc<str>,
        leaving: &[Leaving],
        out: &mut Output,
    ) -> Vec<Result<(), ResponseError>> {
        let Some(entry) = self.groups.get_mut(id) else {
            return vec![Err(ResponseError::UnknownMemberId); leaving.len()];
        };
        let results = entry.group.leave(now, leaving, &mut self.effects);
        self.settle(id, Touched::Membership, out);
        results
    }

    /// Behaviour 93. The answer comes once the commit is durable.
    pub fn commit(
        &mut self,
        now: Now,
        id: &Arc<str>,
        waiter: Waiter,
        request: CommitRequest,
        out: &mut Output,
    ) {
        if let Err(error) = self.check_commit(now, id, &request) {
            out.commits.push((waiter, Err(error)));
            return;
        }
        if request.offsets.is_empty() {
            out.commits.push((waiter, Ok(())));
            return;
        }
        let entry = self.entry(id, now);
        entry.committing += 1;
        entry.group.set_recorded();
        out.writes.push(Write::Commit { group: id.clone(), waiter, offsets: request.offsets });
        self.settle(id, Touched::Offsets, out);
    }

    fn check_commit(&mut self, now: Now, id: &str, request: &CommitRequest) -> Result<(), ResponseError> {
        match self.groups.get_mut(id) {
            Some(entry) => {
                let instance_id = request.instance_id.as_deref();
                entry.group.check_commit(now, &request.member_id, instance_id, request.generation)?;
            }
            None if request.generation < 0 => {}
            None if request.knows_group_id_not_found => return Err(ResponseError::GroupIdNotFound),
            None => return Err(ResponseError::IllegalGeneration),
        }
        // Counted as if all were new: an overwrite near the bound is refused too, until something goes.
        let bytes: usize = request.offsets.iter().map(|(_, offset)| offset_bytes(offset)).sum();
        if self.has_room_for_group(id) && self.budget.has_room(NEW_GROUP_BYTES + bytes) {
            Ok(())
        } else {
            Err(ResponseError::InvalidCommitOffsetSize)
        }
    }

    /// The offset, unless the topic for which it was committed is gone.
    pub fn offset(
        &self,
        id: &str,
        topic: &str,
        partition: i32,
        topic_id: &dyn Fn(&str) -> Option<Uuid>,
    ) -> Option<&CommittedOffset> {
        let found = self.groups.get(id)?.offsets.get(topic, partition)?;
        (!is_orphan(found, topic_id(topic))).then_some(found)
    }

    /// All of a group's offsets, by topic and partition.
    pub fn offsets(
        &self,
        id: &str,
        topic_id: &dyn Fn(&str) -> Option<Uuid>,
    ) -> Vec<(TopicPartition, CommittedOffset)> {
        let Some(entry) = self.groups.get(id) else { return Vec::new() };
        let live = entry.offsets.iter().filter(|(topic, _, offset)| !is_orphan(offset, topic_id(topic)));
        live.map(|(topic, partition, offset)| ((topic.clone(), partition), offset.clone())).collect()
    }

    pub fn describe(&self, id: &str) -> Option<Description> {
        self.groups.get(id).map(|entry| entry.group.describe())
    }

    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values().map(|entry| &entry.group)
    }

    /// A write is durable, or could not be made so. In the order in which they were put out.
    pub fn written(&mut self, now: Now, write: Write, result: Result<(), ResponseError>, out: &mut Output) {
        let (id, touched) = match write {
            Write::Group { group, id, .. } => {
                let entry = self.groups.get_mut(&group).expect("a group that stores is kept");
                entry.group.stored(now, id, result, &mut self.effects);
                (group, Touched::Membership)
            }
            Write::Commit { group, waiter, offsets } => {
                let entry = self.groups.get_mut(&group).expect("a group that commits is kept");
                entry.committing -= 1;
                if result.is_ok() {
                    for ((topic, partition), offset) in offsets {
                        entry.offsets.set(&topic, partition, offset);
                    }
                }
                out.commits.push((waiter, result));
                (group, Touched::Offsets)
            }
            Write::Forget { group, offsets } => {
                if let Some(entry) = self.groups.get_mut(&group).filter(|_| result.is_ok()) {
                    for (topic, partition) in &offsets {
                        entry.offsets.remove(topic, *partition);
                    }
                }
                (group, Touched::Offsets)
            }
        };
        self.settle(&id, touched, out);
    }

    /// Whether [`forget_orphans`](Shard::forget_orphans) left something for later that can be done now.
    pub fn has_orphans_left(&self) -> bool {
        self.orphans_left && self.groups.values().all(|entry| entry.committing == 0)
    }

    /// Puts out tombstones for the offsets of topics that are gone (behaviour 97).
    pub fn forget_orphans(&mut self, topic_id: &dyn Fn(&str) -> Option<Uuid>, out: &mut Output) {
        self.orphans_left = false;
        for (id, entry) in &self.groups {
            let orphans = entry.offsets.orphans(topic_id);
            if orphans.is_empty() {
                continue;
            }
            if entry.committing > 0 {
                self.orphans_left = true;
                continue;
            }
            out.writes.push(Write::Forget { group: id.clone(), offsets: orphans });
        }
    }

    /// When [`expire`](Shard::expire) is to be called next; `None` if there is no deadline.
    pub fn wake(&self) -> Option<u64> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Does what is due.
    pub fn expire(&mut self, now: Now, out: &mut Output) {
        while self.wake().is_some_and(|at| at <= now.tick_ms) {
            let Some(Reverse((at, id))) = self.timers.pop() else { break };
            let Some(entry) = self.groups.get_mut(&id).filter(|entry| entry.scheduled == at) else {
                continue;
            };
            entry.scheduled = NEVER;
            entry.group.expire(now, &self.rules, &mut self.effects);
            self.settle(&id, Touched::Membership, out);
        }
    }

    /// For a coordinator that stops: whoever waits in a join or a sync gets the error.
    pub fn abandon(&mut self, error: ResponseError, out: &mut Output) {
        let mut effects = Vec::new();
        for entry in self.groups.values_mut() {
            entry.group.abandon(error, &mut effects);
        }
        for effect in effects {
            match effect {
                Effect::Join(waiter, answer) => out.joins.push((waiter, answer)),
                Effect::Sync(waiter, answer) => out.syncs.push((waiter, answer)),
                Effect::Store(..) => unreachable!("a group that is abandoned stores nothing"),
            }
        }
    }

    /// After a group changed: its effects go out, its timer and its charge are brought up to date, and it is forgotten
    /// if nothing would be lost.
    fn settle(&mut self, id: &Arc<str>, touched: Touched, out: &mut Output) {
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Join(waiter, answer) => out.joins.push((waiter, answer)),
                Effect::Sync(waiter, answer) => out.syncs.push((waiter, answer)),
                Effect::Store(store, value) => {
                    out.writes.push(Write::Group { group: id.clone(), id: store, value });
                }
            }
        }
        let Some(entry) = self.groups.get_mut(id) else { return };
        if entry.group.is_vacant() && entry.offsets.is_empty() && entry.committing == 0 {
            self.budget.recharge(entry.charged, 0);
            self.groups.remove(id);
            return;
        }
        if touched == Touched::Membership {
            entry.group_bytes = entry.group.memory_bytes();
        }
        let bytes = entry.group_bytes + entry.offsets.bytes();
        self.budget.recharge(entry.charged, bytes);
        entry.charged = bytes;
        let wake = entry.group.wake();
        if wake < entry.scheduled {
            entry.scheduled = wake;
            self.timers.push(Reverse((wake, id.clone())));
        }
        self.prune_timers();
    }

    /// Entries that were overtaken by an earlier one stay in the heap until their time; too many are swept out.
    fn prune_timers(&mut self) {
        if self.timers.len() > 64 + 2 * self.groups.len() {
            let groups = &self.groups;
            self.timers
                .retain(|Reverse((at, id))| groups.get(id).is_some_and(|entry| entry.scheduled == *at));
        }
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        let held: usize = self.groups.values().map(|entry| entry.charged).sum();
        self.budget.recharge(held, 0);
    }
}
