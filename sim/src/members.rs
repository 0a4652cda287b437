//! Members of consumer groups, through the coordinator that is released.
//!
//! ```text
//!   find the coordinator ──► join ──► (the leader assigns) sync ──► what is committed ──► read, commit, heartbeat ──┐
//!        ▲                    ▲                                                                                     │
//!        └── not the one ─────┴───── another generation ◄───────────────────────────────────────────────────────────┤
//!                                    leaves, or is gone without a word, or says nothing for longer than its session ┘
//! ```
//!
//! - **M1** A commit is `ok` if it was acknowledged, and `fail` only with an error that says that nothing was done.
//! - **M2** A member that comes back too late tries to commit what it had read, in the generation that it knows.
//! - **M3** In the end a group commits all that was acknowledged, and somebody reads what is committed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use checker::{F, Group, Key, Type};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerProtocolSubscription, FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::{Encodable, StrBytes};
use tokio::time::{Instant, sleep};

use crate::client::{Failure, name};
use crate::reading::Reading;
use crate::workload::{PAUSE, Shared};

const SESSION: Duration = Duration::from_secs(4);
const REBALANCE: Duration = Duration::from_secs(4);
/// What the brokers must allow for that.
pub const BROKER_CONFIGS: [&str; 2] =
    ["group.min.session.timeout.ms=1000", "group.initial.rebalance.delay.ms=100"];

const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const NOT_COORDINATOR: i16 = 16;
const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER_ID: i16 = 25;
const REBALANCE_IN_PROGRESS: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;

/// A place in a group: one member after another.
pub async fn member(shared: Arc<Shared>, group: usize, process: u32) {
    let (name, group) = shared.groups[group].clone();
    loop {
        let all: Vec<Key> = shared.places.iter().map(|(_, key)| *key).collect();
        shared.record(process, Type::Ok, F::Subscribe { group: Some(group), keys: all.clone() });
        let mut member = Member {
            reading: Reading::new(&shared, process),
            process,
            name: name.clone(),
            group,
            all,
            coordinator: None,
            id: String::new(),
            generation: None,
            committed: BTreeMap::new(),
        };
        let ended = member.live(&shared).await;
        shared.record(process, Type::Info, F::Crash);
        if ended {
            break;
        }
        let pause = member.reading.client.pick(4_000) as u64;
        sleep(Duration::from_millis(pause)).await;
    }
    shared.state.lock().members -= 1;
}

struct Member {
    reading: Reading,
    process: u32,
    name: String,
    group: Group,
    all: Vec<Key>,
    coordinator: Option<i32>,
    id: String,
    /// As long as it believes to be in one.
    generation: Option<i32>,
    /// Of the partitions that it was given.
    committed: BTreeMap<Key, i64>,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

impl Member {
    /// Whether everything is done.
    async fn live(&mut self, shared: &Shared) -> bool {
        let time = 3_000 + self.reading.client.pick(20_000) as u64;
        let mut until = Instant::now() + Duration::from_millis(time);
        loop {
            if self.is_done(shared) {
                while !self.read_committed(shared, self.all.clone()).await {
                    sleep(PAUSE).await;
                    self.find(shared).await;
                }
                self.leave().await;
                return true;
            }
            if Instant::now() > until && !shared.is_stopped() {
                match self.reading.client.pick(4) {
                    0 => return false,
                    1 => {
                        self.leave().await;
                        return false;
                    }
                    _ => {
                        let time = SESSION.as_millis() as usize;
                        let silence = time / 2 + self.reading.client.pick(2 * time);
                        sleep(Duration::from_millis(silence as u64)).await;
                        self.commit(shared).await;
                        until = Instant::now() + Duration::from_millis(time as u64 * 2);
                    }
                }
            }
            self.go_on(shared).await;
            let pause = 50 + self.reading.client.pick(400) as u64;
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// M3: all that was acknowledged is committed.
    fn is_done(&self, shared: &Shared) -> bool {
        let state = shared.state.lock();
        let committed = |key: &Key| state.committed.get(&(self.group, *key)).copied().unwrap_or_default();
        state.stop && state.producers == 0 && state.ends.iter().all(|(key, end)| committed(key) >= *end)
    }

    async fn go_on(&mut self, shared: &Shared) {
        if self.coordinator.is_none() {
            self.find(shared).await;
        }
        if self.generation.is_none() {
            if self.join(shared).await {
                let given = self.reading.positions.keys().copied().collect();
                if !self.read_committed(shared, given).await {
                    self.generation = None;
                }
            }
            return;
        }
        self.reading.poll(shared).await;
        if self.reading.client.pick(2) == 0 {
            self.commit(shared).await;
        }
        self.heartbeat().await;
    }

    async fn find(&mut self, shared: &Shared) {
        let request = FindCoordinatorRequest::default().with_key(text(&self.name));
        match self.reading.client.call_any(&request).await {
            Ok(answer) if answer.error_code == 0 => {
                self.reading.client.learn(answer.node_id.0, &answer.host, answer.port);
                self.coordinator = Some(answer.node_id.0);
            }
            _ => shared.world.note(format_args!("{} has no coordinator", self.name)),
        }
    }

    /// What an error means for what this member believes.
    fn told(&mut self, code: i16) {
        match code {
            COORDINATOR_LOAD_IN_PROGRESS | COORDINATOR_NOT_AVAILABLE | NOT_COORDINATOR => {
                self.coordinator = None;
            }
            UNKNOWN_MEMBER_ID => {
                self.id.clear();
                self.generation = None;
            }
            ILLEGAL_GENERATION | REBALANCE_IN_PROGRESS => self.generation = None,
            _ => {}
        }
    }

    /// Whether it was given partitions in a generation.
    async fn join(&mut self, shared: &Shared) -> bool {
        let Some(coordinator) = self.coordinator else { return false };
        let unknown = |group| F::Join { group, generation: -1, keys: Vec::new() };
        shared.record(self.process, Type::Invoke, unknown(self.group));
        match self.try_join(shared, coordinator).await {
            Ok((generation, keys)) => {
                self.generation = Some(generation);
                // Whatever it had read of them, it begins anew with what is committed.
                self.reading.positions = keys.iter().map(|key| (*key, 0)).collect();
                let f = F::Join { group: self.group, generation, keys };
                shared.record(self.process, Type::Ok, f);
                shared.record(self.process, Type::Ok, F::Rebalance(self.all.clone()));
                true
            }
            Err(code) => {
                match code {
                    Some(code) => self.told(code),
                    None => self.coordinator = None,
                }
                shared.record(self.process, Type::Info, unknown(self.group));
                false
            }
        }
    }

    async fn try_join(&mut self, shared: &Shared, coordinator: i32) -> Result<(i32, Vec<Key>), Option<i16>> {
        let lost = |_: Failure| None;
        let answer = loop {
            let protocol = JoinGroupRequestProtocol::default()
                .with_name(StrBytes::from_static_str("range"))
                .with_metadata(subscription(&shared.topics()));
            let request = JoinGroupRequest::default()
                .with_group_id(GroupId(text(&self.name)))
                .with_session_timeout_ms(SESSION.as_millis() as i32)
                .with_rebalance_timeout_ms(REBALANCE.as_millis() as i32)
                .with_member_id(text(&self.id))
                .with_protocol_type(StrBytes::from_static_str("consumer"))
                .with_protocols(vec![protocol]);
            let answer = self.reading.client.call(coordinator, &request).await.map_err(lost)?;
            match answer.error_code {
                0 => break answer,
                MEMBER_ID_REQUIRED => self.id = answer.member_id.to_string(),
                code => return Err(Some(code)),
            }
        };
        self.id = answer.member_id.to_string();
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(text(&self.name)))
            .with_generation_id(answer.generation_id)
            .with_member_id(text(&self.id))
            .with_assignments(self.assign(shared, &answer));
        let synced = self.reading.client.call(coordinator, &request).await.map_err(lost)?;
        if synced.error_code != 0 {
            return Err(Some(synced.error_code));
        }
        let keys = synced.assignment.iter().map(|at| shared.places[usize::from(*at)].1).collect();
        Ok((answer.generation_id, keys))
    }

    /// Partitions in turn: each member's share are their numbers, a byte each.
    fn assign(&self, shared: &Shared, answer: &JoinGroupResponse) -> Vec<SyncGroupRequestAssignment> {
        let members = &answer.members;
        let share = |of: usize| (0..shared.places.len()).filter(move |at| at % members.len() == of);
        let assignment = |(at, member): (usize, _)| {
            let member: &kafka_protocol::messages::join_group_response::JoinGroupResponseMember = member;
            SyncGroupRequestAssignment::default()
                .with_member_id(member.member_id.clone())
                .with_assignment(share(at).map(|at| at as u8).collect())
        };
        members.iter().enumerate().map(assignment).collect()
    }

    /// Learns what is committed, and goes on from there where it was given something.
    async fn read_committed(&mut self, shared: &Shared, keys: Vec<Key>) -> bool {
        let Some(coordinator) = self.coordinator else { return false };
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (place, key) in &shared.places {
            if keys.contains(key) {
                topics.entry(&place.topic).or_default().push(place.partition);
            }
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            OffsetFetchRequestTopic::default().with_name(name(topic)).with_partition_indexes(partitions)
        });
        let request = OffsetFetchRequest::default()
            .with_group_id(GroupId(text(&self.name)))
            .with_topics(Some(topics.collect()));
        let nothing = || F::Committed { group: self.group, offsets: Vec::new() };
        shared.record(self.process, Type::Invoke, nothing());
        let answer = self.reading.client.call(coordinator, &request).await;
        let partitions =
            || answer.iter().flat_map(|answer| &answer.topics).flat_map(|topic| &topic.partitions);
        let code = match &answer {
            Ok(answer) if answer.error_code != 0 => Some(answer.error_code),
            Ok(_) => partitions().map(|partition| partition.error_code).find(|code| *code != 0),
            Err(_) => Some(NOT_COORDINATOR),
        };
        if let Some(code) = code {
            shared.record(self.process, Type::Fail, nothing());
            self.told(code);
            return false;
        }
        let mut offsets = Vec::new();
        for topic in answer.iter().flat_map(|answer| &answer.topics) {
            for partition in &topic.partitions {
                let of = |(place, _): &&_| {
                    let place: &crate::workload::Place = place;
                    place.topic == *topic.name.0 && place.partition == partition.partition_index
                };
                let Some((place, key)) = shared.places.iter().find(of) else { continue };
                let offset = (partition.committed_offset >= 0).then_some(partition.committed_offset);
                offsets.push((*key, offset));
                let epoch = partition.committed_leader_epoch;
                self.reading.client.learn_epoch(&place.topic, place.partition, epoch);
                if let Some(position) = self.reading.positions.get_mut(key) {
                    *position = offset.unwrap_or_default();
                }
            }
        }
        let heard = offsets.iter().filter_map(|(key, offset)| Some((*key, (*offset)?)));
        self.committed = heard.collect();
        self.is_committed(shared, self.committed.iter());
        shared.record(self.process, Type::Ok, F::Committed { group: self.group, offsets });
        true
    }

    fn is_committed<'a>(&self, shared: &Shared, offsets: impl Iterator<Item = (&'a Key, &'a i64)>) {
        let mut state = shared.state.lock();
        for (key, offset) in offsets {
            let known = state.committed.entry((self.group, *key)).or_default();
            *known = (*known).max(*offset);
        }
    }

    /// What it has read since the last time.
    async fn commit(&mut self, shared: &Shared) {
        let (Some(coordinator), Some(generation)) = (self.coordinator, self.generation) else { return };
        let changed: BTreeMap<Key, i64> = self
            .reading
            .positions
            .iter()
            .filter(|(key, at)| **at > 0 && self.committed.get(key) != Some(at))
            .map(|(key, at)| (*key, *at))
            .collect();
        if changed.is_empty() {
            return;
        }
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for (place, key) in &shared.places {
            if let Some(offset) = changed.get(key) {
                topics.entry(&place.topic).or_default().push(
                    OffsetCommitRequestPartition::default()
                        .with_partition_index(place.partition)
                        .with_committed_offset(*offset)
                        .with_committed_leader_epoch(self.reading.client.epoch(&place.topic, place.partition))
                        .with_committed_metadata(Some(StrBytes::default())),
                );
            }
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(partitions)
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(&self.name)))
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(text(&self.id))
            .with_topics(topics.collect());
        let offsets = changed.iter().map(|(key, offset)| (*key, *offset)).collect();
        let f = F::Commit { group: self.group, generation: Some(generation), offsets };
        shared.record(self.process, Type::Invoke, f.clone());
        let answer = self.reading.client.call(coordinator, &request).await;
        let codes: Vec<i16> = answer
            .iter()
            .flat_map(|answer| &answer.topics)
            .flat_map(|topic| &topic.partitions)
            .map(|partition| partition.error_code)
            .collect();
        let outcome = match answer {
            Err(Failure::Unsent) => Type::Fail,
            Err(Failure::Unknown) => Type::Info,
            Ok(_) if codes.iter().all(|code| *code == 0) => Type::Ok,
            Ok(_) if codes.iter().all(|code| is_refusal(*code)) => Type::Fail,
            Ok(_) => Type::Info,
        };
        shared.record(self.process, outcome, f);
        if outcome == Type::Ok {
            self.is_committed(shared, changed.iter());
            shared.state.lock().commits += 1;
            self.committed.extend(changed);
        } else {
            self.told(codes.into_iter().find(|code| *code != 0).unwrap_or(NOT_COORDINATOR));
        }
    }

    async fn heartbeat(&mut self) {
        let (Some(coordinator), Some(generation)) = (self.coordinator, self.generation) else { return };
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text(&self.name)))
            .with_generation_id(generation)
            .with_member_id(text(&self.id));
        match self.reading.client.call(coordinator, &request).await {
            Ok(answer) => self.told(answer.error_code),
            Err(_) => self.coordinator = None,
        }
    }

    async fn leave(&mut self) {
        let Some(coordinator) = self.coordinator.filter(|_| !self.id.is_empty()) else { return };
        let request = LeaveGroupRequest::default()
            .with_group_id(GroupId(text(&self.name)))
            .with_members(vec![MemberIdentity::default().with_member_id(text(&self.id))]);
        let _ = self.reading.client.call(coordinator, &request).await;
    }
}

/// M1: it says that nothing was done.
fn is_refusal(code: i16) -> bool {
    matches!(
        code,
        COORDINATOR_LOAD_IN_PROGRESS | ILLEGAL_GENERATION | UNKNOWN_MEMBER_ID | REBALANCE_IN_PROGRESS
    )
}

fn subscription(topics: &[String]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    ConsumerProtocolSubscription::default()
        .with_topics(topics.iter().map(|topic| text(topic)).collect())
        .encode(&mut bytes, 0)
        .expect("a subscription");
    bytes.freeze()
}
