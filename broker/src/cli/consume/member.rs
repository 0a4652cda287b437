//! A member of a classic group: JoinGroup, SyncGroup, Heartbeat, OffsetCommit, LeaveGroup.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    OffsetFetchRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::{Request, StrBytes};
use tokio::time::Instant;

use super::assign;
use crate::cli::client::{Client, Error, check, topic_name};
use crate::cli::topic::millis;

/// A member that was killed is missed after this.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);
/// How long the group waits for its other members to join again.
const REBALANCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Leaving must not keep a person waiting.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the group goes on as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    Fine,
    /// [`Member::join`] again.
    Rebalance,
}

#[derive(Debug)]
pub struct Member {
    client: Client,
    group: String,
    topic: String,
    coordinator: Option<i32>,
    /// Given by the coordinator; empty before.
    member_id: String,
    /// -1 while not in the group.
    generation: i32,
    beat_at: Instant,
    /// What was committed last, to commit only what changed.
    committed: BTreeMap<i32, i64>,
}

impl Member {
    pub fn new(client: Client, group: &str, topic: &str) -> Member {
        Member {
            client,
            group: group.to_owned(),
            topic: topic.to_owned(),
            coordinator: None,
            member_id: String::new(),
            generation: -1,
            beat_at: Instant::now(),
            committed: BTreeMap::new(),
        }
    }

    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Joins, or joins again, and returns the partitions that fall to this member.
    pub async fn join(&mut self) -> Result<Vec<i32>, Error> {
        let mut retry = self.client.retry();
        loop {
            match self.join_once().await {
                Ok(Some(partitions)) => {
                    self.beat_at = Instant::now() + HEARTBEAT_INTERVAL;
                    self.committed.clear();
                    return Ok(partitions);
                }
                // The group moved on in between, or gave us our id: at once again.
                Ok(None) => {}
                Err(error) => {
                    self.coordinator = None;
                    retry.pause(error).await?;
                }
            }
        }
    }

    async fn join_once(&mut self) -> Result<Option<Vec<i32>>, Error> {
        let metadata = assign::encode_subscription(&[&self.topic]).map_err(|error| self.malformed(&error))?;
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(StrBytes::from_static_str(assign::RANGE))
            .with_metadata(metadata);
        let request = JoinGroupRequest::default()
            .with_group_id(self.group_id())
            .with_session_timeout_ms(millis(SESSION_TIMEOUT))
            .with_rebalance_timeout_ms(millis(REBALANCE_TIMEOUT))
            .with_member_id(StrBytes::from_string(self.member_id.clone()))
            .with_protocol_type(StrBytes::from_static_str("consumer"))
            .with_protocols(vec![protocol]);
        let response = self.ask(&request, REBALANCE_TIMEOUT).await?;
        match ResponseError::try_from_code(response.error_code) {
            Some(ResponseError::MemberIdRequired) => {
                self.member_id = response.member_id.to_string();
                return Ok(None);
            }
            Some(ResponseError::UnknownMemberId) => {
                self.member_id.clear();
                return Ok(None);
            }
            _ => check(response.error_code, || format!("joining group {}", self.group), None)?,
        }
        self.member_id = response.member_id.to_string();
        self.generation = response.generation_id;
        let assignments =
            if response.leader == response.member_id { self.assign(&response).await? } else { Vec::new() };
        self.sync(assignments).await
    }

    /// As the leader: divides the topics among all members.
    async fn assign(&mut self, joined: &JoinGroupResponse) -> Result<Vec<SyncGroupRequestAssignment>, Error> {
        let mut subscriptions = BTreeMap::new();
        for member in &joined.members {
            let topics = assign::decode_subscription(member.metadata.clone());
            let topics = topics.map_err(|error| self.malformed(&error))?;
            subscriptions.insert(member.member_id.to_string(), topics);
        }
        let mut partitions = BTreeMap::new();
        for topic in subscriptions.values().flatten() {
            if !partitions.contains_key(topic) {
                // A topic that somebody subscribed to need not exist (yet).
                let leaders = match self.client.topic(topic, false).await {
                    Ok(found) => found.leaders,
                    Err(error) if error.is(ResponseError::UnknownTopicOrPartition) => BTreeMap::new(),
                    Err(error) => return Err(error),
                };
                partitions.insert(topic.clone(), leaders.into_keys().collect());
            }
        }
        let mut assignments = Vec::new();
        for (member, assignment) in assign::range(&subscriptions, &partitions) {
            let bytes = assign::encode_assignment(&assignment).map_err(|error| self.malformed(&error))?;
            assignments.push(
                SyncGroupRequestAssignment::default()
                    .with_member_id(StrBytes::from_string(member))
                    .with_assignment(bytes),
            );
        }
        Ok(assignments)
    }

    async fn sync(
        &mut self,
        assignments: Vec<SyncGroupRequestAssignment>,
    ) -> Result<Option<Vec<i32>>, Error> {
        let request = SyncGroupRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(self.generation)
            .with_member_id(StrBytes::from_string(self.member_id.clone()))
            .with_protocol_type(Some(StrBytes::from_static_str("consumer")))
            .with_protocol_name(Some(StrBytes::from_static_str(assign::RANGE)))
            .with_assignments(assignments);
        let response = self.ask(&request, REBALANCE_TIMEOUT).await?;
        if self.moved_on(response.error_code) {
            return Ok(None);
        }
        check(response.error_code, || format!("joining group {}", self.group), None)?;
        let assignment = assign::decode_assignment(response.assignment);
        let mut assignment = assignment.map_err(|error| self.malformed(&error))?;
        Ok(Some(assignment.remove(&self.topic).unwrap_or_default()))
    }

    /// Where the group left off in these partitions; where nothing is committed, `otherwise` (earliest or latest).
    pub async fn positions(
        &mut self,
        partitions: &[i32],
        otherwise: i64,
    ) -> Result<BTreeMap<i32, i64>, Error> {
        let mut positions = self.committed_offsets(partitions).await?;
        positions.retain(|_, offset| *offset >= 0);
        self.committed = positions.clone();
        let missing: Vec<i32> =
            partitions.iter().copied().filter(|partition| !positions.contains_key(partition)).collect();
        if !missing.is_empty() {
            positions.extend(self.client.offsets(&self.topic, &missing, otherwise).await?);
        }
        Ok(positions)
    }

    async fn committed_offsets(&mut self, partitions: &[i32]) -> Result<BTreeMap<i32, i64>, Error> {
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let topic = OffsetFetchRequestTopic::default()
            .with_name(topic_name(&self.topic))
            .with_partition_indexes(partitions.to_vec());
        let request =
            OffsetFetchRequest::default().with_group_id(self.group_id()).with_topics(Some(vec![topic]));
        let mut retry = self.client.retry();
        loop {
            let fetched = match self.ask(&request, Duration::ZERO).await {
                Ok(response) => {
                    let what = || format!("reading the offsets of group {}", self.group);
                    check(response.error_code, what, None).and_then(|()| {
                        let mut offsets = BTreeMap::new();
                        for partition in response.topics.into_iter().flat_map(|topic| topic.partitions) {
                            check(partition.error_code, what, None)?;
                            offsets.insert(partition.partition_index, partition.committed_offset);
                        }
                        Ok(offsets)
                    })
                }
                Err(error) => Err(error),
            };
            match fetched {
                Ok(offsets) => return Ok(offsets),
                Err(error) => {
                    self.coordinator = None;
                    retry.pause(error).await?;
                }
            }
        }
    }

    /// Tells the coordinator that this member lives, if it is time.
    pub async fn heartbeat(&mut self) -> Result<Beat, Error> {
        if Instant::now() < self.beat_at {
            return Ok(Beat::Fine);
        }
        let request = HeartbeatRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(self.generation)
            .with_member_id(StrBytes::from_string(self.member_id.clone()));
        let answer = self.ask(&request, Duration::ZERO).await.map(|response| response.error_code);
        self.judge(answer, "heartbeat")
    }

    /// Commits the positions that changed.
    pub async fn commit(&mut self, positions: &BTreeMap<i32, i64>) -> Result<Beat, Error> {
        let changed: Vec<OffsetCommitRequestPartition> = positions
            .iter()
            .filter(|(partition, offset)| self.committed.get(partition) != Some(offset))
            .map(|(partition, offset)| {
                OffsetCommitRequestPartition::default()
                    .with_partition_index(*partition)
                    .with_committed_offset(*offset)
                    .with_committed_metadata(Some(StrBytes::default()))
            })
            .collect();
        if changed.is_empty() || self.generation < 0 {
            return Ok(Beat::Fine);
        }
        let topic =
            OffsetCommitRequestTopic::default().with_name(topic_name(&self.topic)).with_partitions(changed);
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(StrBytes::from_string(self.member_id.clone()))
            .with_topics(vec![topic]);
        let answer = self.ask(&request, Duration::ZERO).await.map(|response| {
            let codes = response.topics.iter().flat_map(|topic| &topic.partitions);
            codes.map(|partition| partition.error_code).find(|code| *code != 0).unwrap_or(0)
        });
        let beat = self.judge(answer, "committing offsets")?;
        if beat == Beat::Fine {
            self.committed = positions.clone();
        }
        Ok(beat)
    }

    /// Commits and leaves, so that the others need not wait for the session to time out.
    pub async fn leave(mut self, positions: &BTreeMap<i32, i64>) -> Result<(), Error> {
        if self.member_id.is_empty() {
            return Ok(());
        }
        let goodbye = async {
            let committed = self.commit(positions).await;
            let member = MemberIdentity::default()
                .with_member_id(StrBytes::from_string(self.member_id.clone()))
                .with_reason(Some(StrBytes::from_static_str("done")));
            let request =
                LeaveGroupRequest::default().with_group_id(self.group_id()).with_members(vec![member]);
            // Best effort: the session ends anyhow.
            let _ = self.ask(&request, Duration::ZERO).await;
            committed
        };
        match tokio::time::timeout(LEAVE_TIMEOUT, goodbye).await {
            Ok(Ok(Beat::Fine)) => Ok(()),
            Ok(Ok(Beat::Rebalance)) => Err(Error::Usage(
                "the group changed before the last offsets were committed: some records will be read again"
                    .to_owned(),
            )),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Usage(format!(
                "the coordinator did not take the last offsets within {LEAVE_TIMEOUT:?}: some records will be read again"
            ))),
        }
    }

    /// What an answer to a heartbeat or commit means for membership.
    fn judge(&mut self, answer: Result<i16, Error>, what: &str) -> Result<Beat, Error> {
        let answer = answer.and_then(|code| {
            if self.moved_on(code) {
                return Ok(Beat::Rebalance);
            }
            check(code, || format!("group {}: {what}", self.group), None).map(|()| Beat::Fine)
        });
        match answer {
            Ok(Beat::Fine) => {
                self.beat_at = Instant::now() + HEARTBEAT_INTERVAL;
                Ok(Beat::Fine)
            }
            Ok(Beat::Rebalance) => Ok(Beat::Rebalance),
            // The coordinator moved or restarts; joining again finds it.
            Err(error) if error.is_retriable() || error.is_unreachable() => {
                self.coordinator = None;
                Ok(Beat::Rebalance)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether `code` says that the group has another generation by now, or has given this member up.
    fn moved_on(&mut self, code: i16) -> bool {
        match ResponseError::try_from_code(code) {
            Some(ResponseError::RebalanceInProgress | ResponseError::IllegalGeneration) => true,
            Some(ResponseError::UnknownMemberId) => {
                self.member_id.clear();
                self.generation = -1;
                true
            }
            _ => false,
        }
    }

    /// `held`: how long the coordinator may rightly wait before it answers.
    async fn ask<R: Request>(&mut self, request: &R, held: Duration) -> Result<R::Response, Error> {
        let coordinator = match self.coordinator {
            Some(node) => node,
            None => {
                let node = self.client.coordinator(&self.group).await?;
                self.coordinator = Some(node);
                node
            }
        };
        let timeout = self.client.timeout() + held;
        self.client.call_within(coordinator, request, timeout).await
    }

    fn group_id(&self) -> GroupId {
        GroupId(StrBytes::from_string(self.group.clone()))
    }

    fn malformed(&self, error: &anyhow::Error) -> Error {
        Error::Malformed { address: format!("group {}", self.group), detail: error.to_string() }
    }
}
