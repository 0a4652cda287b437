//! One classic consumer group: a state machine without I/O (kafka.md 4.G; Kafka's `ClassicGroup` and the classic half
//! of `GroupMetadataManager` are the reference for every rule).
//!
//! ```text
//!              first join                    join phase over, members left
//!   Empty ───────────────► PreparingRebalance ───────────────► CompletingRebalance
//!     ▲                      │    ▲   ▲                            │         │
//!     │ join phase over,     │    │   └── join with new metadata,  │         │ leader's assignment
//!     └── nobody left ───────┘    │       leave, no sync in time ──┘         ▼ is durable
//!                                 └──────────────────────────────────────  Stable
//!                                     join, leave, session over
//! ```
//!
//! There is no state "Dead" in memory: a group that is gone is not in its coordinator's map, and the API says "Dead".
//!
//! Every call takes the time, and appends what must happen to a list of [`Effect`]s: answers to waiting requests and
//! values to make durable. A waiter is answered exactly once. Deadlines (join phase, sync phase, sessions) are plain
//! numbers in here; [`Group::wake`] is a lower bound of the earliest one, and [`Group::expire`] is to be called then.
//! Heartbeats only move deadlines back, so they do not touch the caller's timer at all.
//!
//! # Invariants
//!
//! - **G1** The generation moves by one at the end of a join phase and nowhere else. It never decreases, but that 1 follows on
//!   2^31 - 1.
//! - **G2** If there are members, the leader is one of them.
//! - **G3** Assignments are released only after the value that holds them is durable ([`Effect::Store`],
//!   [`Group::stored`]), and only to the generation that they were made for.
//! - **G4** At least one protocol is supported by every member.
//! - **G5** A waiter is answered exactly once: when its request is decided, superseded, or its member is removed.
//! - **G6** An instance id maps to one member; a member id that was replaced is fenced from then on.

mod join;
mod rebalance;
mod removal;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use uuid::Uuid;

use super::records::{GroupMetadata, MemberMetadata};

pub use removal::{RetainedFrom, Subscription};

/// A member's id or instance id, as the coordinator made it or the client sent it.
pub type MemberId = Arc<str>;

/// Time as the state machine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a monotonic clock; deadlines are in its terms.
    pub tick_ms: u64,
    /// Milliseconds since the Unix epoch; only ever recorded.
    pub wall_ms: i64,
    /// Other brokers' clocks speak against that one.
    pub outvoted: bool,
}

/// Names a request that waits for its answer. Never reused by one coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Waiter(pub u64);

/// Names a value on its way to the log; counts up within a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreId(pub u64);

/// Rules of the broker that concern groups. Defaults are Kafka's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `group.min.session.timeout.ms`
    pub session_timeout_min: Duration,
    /// `group.max.session.timeout.ms`
    pub session_timeout_max: Duration,
    /// `group.initial.rebalance.delay.ms`: how long the first join phase of an empty group waits for more members.
    pub initial_rebalance_delay: Duration,
    /// `group.max.size`, in members.
    pub group_size_max: usize,
    /// Member ids handed out with MEMBER_ID_REQUIRED and not used yet, per group. (Kafka has no bound.)
    pub pending_members_max: usize,
    /// How long a new member may wait in its first join before it is taken for gone. It has no heartbeat yet: it does
    /// not know its id. (Kafka: `CLASSIC_GROUP_NEW_MEMBER_JOIN_TIMEOUT_MS`, 5 minutes.)
    pub new_member_join_timeout: Duration,
    /// `offsets.retention.minutes`: how long offsets are kept that nobody uses.
    pub offsets_retention: Duration,
    /// `offsets.retention.check.interval.ms`
    pub offsets_retention_check_interval: Duration,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            session_timeout_min: Duration::from_secs(6),
            session_timeout_max: Duration::from_secs(30 * 60),
            initial_rebalance_delay: Duration::from_secs(3),
            group_size_max: i32::MAX as usize,
            pending_members_max: 10_000,
            new_member_join_timeout: Duration::from_secs(5 * 60),
            offsets_retention: Duration::from_secs(7 * 24 * 60 * 60),
            offsets_retention_check_interval: Duration::from_secs(10 * 60),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

impl State {
    /// As DescribeGroups and ListGroups spell it.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

/// A protocol (an assignor's name, for consumers) that a member offers, and the member's metadata for it: opaque.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    pub name: Arc<str>,
    pub metadata: Bytes,
}

#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// Empty if the client has none yet.
    pub member_id: MemberId,
    pub instance_id: Option<MemberId>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub protocol_type: Arc<str>,
    pub protocols: Vec<Protocol>,
    /// JoinGroup v4+: a dynamic member without an id gets one and has to come back with it.
    pub requires_known_member_id: bool,
    /// JoinGroup v9+: a static leader that comes back is told to skip the assignment.
    pub supports_skipping_assignment: bool,
    /// Fresh randomness, in case a member id has to be made.
    pub fresh: Uuid,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    pub member_id: MemberId,
    pub instance_id: Option<MemberId>,
    pub metadata: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub member_id: MemberId,
    pub generation: i32,
    pub protocol_type: Option<Arc<str>>,
    pub protocol: Option<Arc<str>>,
    pub leader: MemberId,
    pub skip_assignment: bool,
    /// Everybody, for the leader; empty for others.
    pub members: Vec<JoinedMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRefused {
    pub error: ResponseError,
    /// What the response's member id is to be; a fresh one with MEMBER_ID_REQUIRED.
    pub member_id: MemberId,
}

pub type JoinAnswer = Result<Joined, JoinRefused>;

#[derive(Clone, Debug)]
pub struct SyncRequest {
    pub member_id: MemberId,
    pub instance_id: Option<MemberId>,
    pub generation: i32,
    /// Checked only if present (v5+).
    pub protocol_type: Option<Arc<str>>,
    pub protocol: Option<Arc<str>>,
    /// From the leader; ignored from others.
    pub assignments: Vec<(MemberId, Bytes)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    pub protocol_type: Option<Arc<str>>,
    pub protocol: Option<Arc<str>>,
    pub assignment: Bytes,
}

pub type SyncAnswer = Result<Synced, ResponseError>;

/// Who leaves: by member id, or (an administrator's request) by instance id with an empty member id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    pub member_id: MemberId,
    pub instance_id: Option<MemberId>,
}

/// What the caller has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Join(Waiter, JoinAnswer),
    Sync(Waiter, SyncAnswer),
    /// Append to the log, then call [`Group::stored`]. In the order in which they were emitted.
    Store(StoreId, GroupMetadata),
}

/// A group as DescribeGroups shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    pub state: State,
    pub protocol_type: Arc<str>,
    /// Empty unless stable.
    pub protocol: Arc<str>,
    pub members: Vec<DescribedMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedMember {
    pub member_id: MemberId,
    pub instance_id: Option<MemberId>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    /// Empty unless the group is stable.
    pub metadata: Bytes,
    pub assignment: Bytes,
}

/// No deadline.
const NEVER: u64 = u64::MAX;

#[derive(Clone, Debug)]
struct Member {
    instance_id: Option<MemberId>,
    client_id: Arc<str>,
    client_host: Arc<str>,
    session_timeout_ms: i32,
    rebalance_timeout_ms: i32,
    protocols: Vec<Protocol>,
    assignment: Bytes,
    join: Option<Waiter>,
    sync: Option<Waiter>,
    /// Until its first join is answered: it may expire although it waits.
    is_new: bool,
    session_deadline: u64,
}

impl Member {
    fn metadata(&self, protocol: &str) -> Bytes {
        let offered = self.protocols.iter().find(|offered| &*offered.name == protocol);
        offered.map(|offered| offered.metadata.clone()).unwrap_or_default()
    }
}

/// The end of a join phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JoinDeadline {
    /// Of a group that was empty: prolonged while members keep arriving and there is time left.
    Initial {
        at: u64,
        delay_ms: u64,
        remaining_ms: u64,
    },
    Rebalance {
        at: u64,
    },
}

impl JoinDeadline {
    fn at(self) -> u64 {
        match self {
            JoinDeadline::Initial { at, .. } | JoinDeadline::Rebalance { at } => at,
        }
    }
}

/// What a value on its way to the log is for.
#[derive(Clone, Debug)]
enum Storing {
    Assignment { generation: i32, assignments: HashMap<MemberId, Bytes> },
    StaticMember { member_id: MemberId, leader_before: MemberId, skip_assignment_known: bool },
    Empty,
}

/// See the module.
#[derive(Debug)]
pub struct Group {
    id: Arc<str>,
    state: State,
    /// The join phase under way began with an empty group.
    initial: bool,
    state_since_ms: i64,
    protocol_type: Option<Arc<str>>,
    protocol: Option<Arc<str>>,
    generation: i32,
    leader: Option<MemberId>,
    members: BTreeMap<MemberId, Member>,
    /// Instance id to member id.
    statics: HashMap<MemberId, MemberId>,
    /// Ids handed out with MEMBER_ID_REQUIRED, and when they lapse.
    pending_joins: HashMap<MemberId, u64>,
    pending_syncs: BTreeSet<MemberId>,
    /// How many members offer a protocol.
    supporters: HashMap<Arc<str>, usize>,
    /// How many members wait for the end of the join phase.
    joins_waiting: usize,
    new_member_added: bool,
    join_deadline: Option<JoinDeadline>,
    sync_deadline: u64,
    wake: u64,
    storing: BTreeMap<StoreId, Storing>,
    next_store: u64,
    /// A membership of this group is or will be in the log.
    recorded: bool,
}

impl Group {
    pub fn new(id: Arc<str>, now: Now) -> Group {
        Group {
            id,
            state: State::Empty,
            initial: false,
            state_since_ms: now.wall_ms,
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            statics: HashMap::new(),
            pending_joins: HashMap::new(),
            pending_syncs: BTreeSet::new(),
            supporters: HashMap::new(),
            joins_waiting: 0,
            new_member_added: false,
            join_deadline: None,
            sync_deadline: NEVER,
            wake: NEVER,
            storing: BTreeMap::new(),
            next_store: 0,
            recorded: false,
        }
    }

    /// The group as its last value in the log has it (behaviour 101): stable if it has members. Sessions start anew.
    pub fn restore(id: Arc<str>, value: &GroupMetadata, now: Now) -> Group {
        let mut group = Group::new(id, now);
        let some = |text: &Arc<str>| (!text.is_empty()).then(|| text.clone());
        group.recorded = true;
        group.generation = value.generation;
        group.protocol_type = some(&value.protocol_type);
        group.protocol = value.protocol.clone();
        group.state_since_ms = value.state_since_ms;
        group.state = if value.members.is_empty() { State::Empty } else { State::Stable };
        for stored in &value.members {
            let name = value.protocol.clone().unwrap_or_else(|| Arc::from(""));
            let rebalance = stored.rebalance_timeout_ms;
            let member = Member {
                instance_id: stored.instance_id.clone(),
                client_id: stored.client_id.clone(),
                client_host: stored.client_host.clone(),
                session_timeout_ms: stored.session_timeout_ms.max(0),
                rebalance_timeout_ms: if rebalance < 0 {
                    stored.session_timeout_ms.max(0)
                } else {
                    rebalance
                },
                protocols: vec![Protocol { name, metadata: stored.subscription.clone() }],
                assignment: stored.assignment.clone(),
                join: None,
                sync: None,
                is_new: false,
                session_deadline: NEVER,
            };
            group.insert(stored.member_id.clone(), member);
            group.rearm_session(&stored.member_id, now);
        }
        let stored_leader = value.leader.as_ref().filter(|leader| group.members.contains_key(*leader));
        group.leader = stored_leader.cloned().or_else(|| group.members.keys().next().cloned());
        group
    }

    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// `None` for a group that only holds offsets (a "simple" group).
    pub fn protocol_type(&self) -> Option<&Arc<str>> {
        self.protocol_type.as_ref()
    }

    /// When the group came into its state, in milliseconds since the Unix epoch.
    pub fn state_since_ms(&self) -> i64 {
        self.state_since_ms
    }

    /// A tick before which [`expire`](Group::expire) has nothing to do; `u64::MAX` if there is no deadline.
    pub fn wake(&self) -> u64 {
        self.wake
    }

    /// Nothing would be lost if the group were forgotten (its offsets aside).
    pub fn is_vacant(&self) -> bool {
        self.state == State::Empty
            && !self.recorded
            && self.pending_joins.is_empty()
            && self.storing.is_empty()
    }

    /// An estimate of the memory the group holds, in bytes.
    pub fn memory_bytes(&self) -> usize {
        // Both as it is and, in what was stored last, as it was.
        const PER_MEMBER: usize = 512;
        let members: usize = self.members.values().map(|member| PER_MEMBER + member.bytes()).sum();
        PER_MEMBER + self.id.len() + members + self.pending_joins.len() * 128
    }

    pub fn describe(&self) -> Description {
        let stable = self.state == State::Stable;
        let text = |text: &Option<Arc<str>>| text.clone().unwrap_or_else(|| Arc::from(""));
        let protocol = if stable { text(&self.protocol) } else { Arc::from("") };
        let members = self.members.iter().map(|(member_id, member)| DescribedMember {
            member_id: member_id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: if stable { member.metadata(&protocol) } else { Bytes::new() },
            assignment: if stable { member.assignment.clone() } else { Bytes::new() },
        });
        Description {
            state: self.state,
            protocol_type: text(&self.protocol_type),
            members: members.collect(),
            protocol,
        }
    }

    /// May this member commit offsets now (behaviour 93)? A member's valid commit counts as a heartbeat.
    pub fn check_commit(
        &mut self,
        now: Now,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<(), ResponseError> {
        if generation < 0 && self.state == State::Empty || host::planted("any-commit") {
            return Ok(());
        }
        if generation < 0 && member_id.is_empty() && instance_id.is_none() {
            return Err(ResponseError::UnknownMemberId);
        }
        self.check_member(member_id, instance_id)?;
        if generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        if self.state == State::CompletingRebalance {
            return Err(ResponseError::RebalanceInProgress);
        }
        self.rearm_session(member_id, now);
        Ok(())
    }

    /// The member is known, and is who holds the instance id, if there is one.
    fn check_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), ResponseError> {
        if let Some(instance_id) = instance_id {
            match self.statics.get(instance_id) {
                None => return Err(ResponseError::UnknownMemberId),
                Some(holder) if &**holder != member_id => return Err(ResponseError::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ResponseError::UnknownMemberId) }
    }

    fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    fn enter(&mut self, state: State, now: Now) {
        self.initial = state == State::PreparingRebalance && self.state == State::Empty;
        self.state = state;
        self.state_since_ms = now.wall_ms;
    }

    fn arm(&mut self, deadline: u64) -> u64 {
        self.wake = self.wake.min(deadline);
        deadline
    }

    fn rearm_session(&mut self, member_id: &str, now: Now) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        member.session_deadline = now.tick_ms + member.session_timeout_ms as u64;
        let deadline = member.session_deadline;
        self.arm(deadline);
    }

    /// Adds a member that is not there, and keeps the counts (joins waiting, supporters, instance ids) true.
    fn insert(&mut self, member_id: MemberId, member: Member) {
        for protocol in &member.protocols {
            *self.supporters.entry(protocol.name.clone()).or_default() += 1;
        }
        self.joins_waiting += usize::from(member.join.is_some());
        if let Some(instance_id) = &member.instance_id {
            self.statics.insert(instance_id.clone(), member_id.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(member_id.clone());
        }
        self.pending_joins.remove(&member_id);
        let replaced = self.members.insert(member_id, member);
        assert!(replaced.is_none(), "group {}: a member was added twice", self.id);
    }

    /// The reverse of [`insert`](Group::insert); the leader falls to somebody else.
    fn take(&mut self, member_id: &str) -> Option<Member> {
        self.pending_joins.remove(member_id);
        self.pending_syncs.remove(member_id);
        let member = self.members.remove(member_id)?;
        for protocol in &member.protocols {
            let count = self.supporters.get_mut(&protocol.name).expect("a member's protocols are counted");
            *count -= 1;
            if *count == 0 {
                self.supporters.remove(&protocol.name);
            }
        }
        self.joins_waiting -= usize::from(member.join.is_some());
        if let Some(instance_id) = &member.instance_id {
            self.statics.remove(instance_id);
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(member)
    }

    /// Emits the value that describes the group now, with these assignments instead of the members' own if given.
    fn store(&mut self, storing: Storing, effects: &mut Vec<Effect>) {
        let assigned = match &storing {
            Storing::Assignment { assignments, .. } => Some(assignments),
            Storing::StaticMember { .. } | Storing::Empty => None,
        };
        let protocol = self.protocol.clone().unwrap_or_else(|| Arc::from(""));
        let members = self.members.iter().map(|(member_id, member)| MemberMetadata {
            member_id: member_id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: member.metadata(&protocol),
            assignment: match assigned {
                Some(assigned) => assigned.get(member_id).cloned().unwrap_or_default(),
                None => member.assignment.clone(),
            },
        });
        let value = GroupMetadata {
            protocol_type: self.protocol_type.clone().unwrap_or_else(|| Arc::from("")),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_since_ms: self.state_since_ms,
            members: members.collect(),
        };
        let id = StoreId(self.next_store);
        self.next_store += 1;
        self.recorded = true;
        self.storing.insert(id, storing);
        effects.push(Effect::Store(id, value));
    }
}

impl Member {
    fn bytes(&self) -> usize {
        let offered = self.protocols.iter().map(|offered| offered.name.len() + offered.metadata.len());
        offered.sum::<usize>() + self.assignment.len() + self.client_id.len() + self.client_host.len()
    }
}
