//! The groups of one partition of `__consumer_offsets`: a state machine without I/O, around [`Group`]s and their
//! `Offsets`.
//!
//! ```text
//!   request ──► Output: answers
//!                     └ writes ──► place (in order): records, and their place in the log ──► written (in order): durable
//!                                    ▲
//!                     rewrite ───────┘ a few records of what there is, between writes
//! ```
//!
//! Calls take the time and fill an [`Output`]: answers to give, and [`Write`]s to append *in order*. The owner turns each
//! into records with [`Shard::place`] when it fills a batch, and reports it with [`Shard::written`] once it is durable,
//! in the same order. A committed offset is visible to fetches from then on and not before, so that what a consumer
//! was told survives a crash.
//!
//! # Invariants
//!
//! - **C1** The offsets that fetches see are those that a replay of the durable log would give.
//! - **C2** What a removal removes, and what a rewrite repeats, is decided when its records are placed, on what the log has
//!   by then: it neither buries nor takes back a commit in front of it, and what is placed behind it outlasts it. (A
//!   commit for a topic that was deleted and made again is not buried by the tombstone of its predecessor's.)
//! - **C3** Every group with a deadline is in the timer heap at that deadline or earlier.
//! - **C4** is `rewrite`'s.
//! - **C5** Nothing goes for its age by a wall clock that has just jumped ahead or is outvoted ([`crate::clocks`]), nor by a later reading of it than
//!   the one that was believed.
//!
//! Reading order: this file, `shard/entry.rs`, `shard/placing.rs`, `shard/removal.rs`, `shard/rewrite.rs`.

mod entry;
mod placing;
mod removal;
mod rewrite;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use uuid::Uuid;

use super::offsets::{TopicPartition, is_orphan, offset_bytes};
use super::records::{CommittedOffset, GroupMetadata};
use super::state::{
    Description, Effect, Group, JoinAnswer, JoinRefused, JoinRequest, Leaving, Now, Rules, SyncAnswer,
    SyncRequest, Waiter,
};

use crate::clocks::Clocks;

pub use placing::{EncodedRecord, Placed, Placement, Removal, Write};
pub use removal::Deleted;

use entry::{Entry, NEW_GROUP_BYTES};
use rewrite::Rewrite;

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

/// What a call leads to.
#[derive(Debug, Default)]
pub struct Output {
    pub joins: Vec<(Waiter, JoinAnswer)>,
    pub syncs: Vec<(Waiter, SyncAnswer)>,
    pub commits: Vec<(Waiter, Result<(), ResponseError>)>,
    pub writes: Vec<Write>,
}

/// What a call may have changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Touched {
    Membership,
    Offsets,
}

const NEVER: u64 = u64::MAX;

/// An estimate of what a member takes, what it offers aside.
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
    /// What a rewrite of everything would take, at most.
    live_bytes: usize,
    rewrite: Option<Rewrite>,
    /// When offsets are looked at for whose time is over, and what the clocks said when that was done last.
    next_check: u64,
    clocks: Clocks,
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
            live_bytes: 0,
            rewrite: None,
            next_check: 0,
            clocks: Clocks::default(),
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
    ///
    /// Retention is looked at after its interval: consumers have that long to come back, and the clock to be set right.
    pub fn loaded(&mut self, now: Now, out: &mut Output) {
        self.next_check = now.tick_ms + self.check_interval_ms();
        self.clocks.look(Duration::from_millis(now.tick_ms), now.wall_ms);
        for (id, value) in std::mem::take(&mut self.replayed) {
            let entry = self.entry(&id, now);
            entry.group = Group::restore(id.clone(), &value, now);
            entry.membership_bytes = rewrite::membership_bytes(&id, &value);
            entry.membership = Some(Arc::new(value));
        }
        let ids: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        for id in ids {
            let entry = self.groups.get_mut(&id).expect("just listed");
            entry.group.loaded(now, &self.rules, &mut self.effects);
            self.settle(&id, Touched::Membership, out);
        }
    }

    fn entry(&mut self, id: &Arc<str>, now: Now) -> &mut Entry {
        self.groups.entry(id.clone()).or_insert_with(|| Entry::new(id, now))
    }

    /// Of a group that is kept for what it writes or for what is known of it.
    fn entry_mut(&mut self, id: &str) -> &mut Entry {
        self.groups.get_mut(id).expect("a group that writes is kept")
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
        entry.writing += 1;
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

    /// When [`expire`](Shard::expire) or [`check_retention`](Shard::check_retention) is due next; `None` if there is no
    /// deadline.
    pub fn wake(&self) -> Option<u64> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let check = (!self.groups.is_empty()).then_some(self.next_check);
        timer.into_iter().chain(check).min()
    }

    /// Does what is due of groups.
    pub fn expire(&mut self, now: Now, out: &mut Output) {
        while self.timers.peek().is_some_and(|Reverse((at, _))| *at <= now.tick_ms) {
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
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Join(waiter, answer) => out.joins.push((waiter, answer)),
                Effect::Sync(waiter, answer) => out.syncs.push((waiter, answer)),
                Effect::Store(store, value) => {
                    self.entry_mut(id).writing += 1;
                    out.writes.push(Write::Group { group: id.clone(), id: store, value: Arc::new(value) });
                }
            }
        }
        let Some(entry) = self.groups.get_mut(id) else { return };
        if entry.is_vacant() {
            self.budget.recharge(entry.charged, 0);
            self.live_bytes -= entry.live;
            self.groups.remove(id);
            return;
        }
        if touched == Touched::Membership {
            entry.group_bytes = entry.group.memory_bytes();
        }
        let bytes = entry.memory_bytes();
        self.budget.recharge(entry.charged, bytes);
        entry.charged = bytes;
        let wake = entry.group.wake();
        if wake < entry.scheduled {
            entry.scheduled = wake;
            self.timers.push(Reverse((wake, id.clone())));
        }
        self.recount(id);
        self.prune_timers();
    }

    /// Brings the group's share of the live bytes up to date.
    fn recount(&mut self, id: &str) {
        let entry = self.groups.get_mut(id).expect("a group that writes is kept");
        let live = entry.live_bytes();
        self.live_bytes = self.live_bytes + live - entry.live;
        entry.live = live;
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
