//! A member of a classic group: JoinGroup, SyncGroup, Heartbeat, OffsetFetch, OffsetCommit, LeaveGroup.
//!
//! - **Who is asked** is the client's affair (`client::coordinator`): a coordinator that hangs, dies or moves is no error here, and no
//!   reason to join again. The member goes on under its id and generation until a coordinator says that the group has moved on.
//! - **Membership** outlives a wait for something else ([`Member::while_alive`]): heartbeats go out meanwhile, by a client that nothing
//!   else uses.
//! - **Offsets** count as committed once a coordinator has said so. Who leaves with others says that too.

use std::collections::BTreeMap;
use std::pin::pin;
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
    GroupId, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse,
    SyncGroupRequest, SyncGroupResponse,
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

    /// Joins, or joins again, and returns the partitions that fall to this member.
    pub async fn join(&mut self) -> Result<Vec<i32>, Error> {
        loop {
            // Without an answer the group moved on in between, or gave us our id: at once again.
            if let Some(partitions) = self.join_once().await? {
                self.beat_at = Instant::now() + HEARTBEAT_INTERVAL;
                self.committed.clear();
                return Ok(partitions);
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
        let what = format!("joining group {}", self.group);
        let read = |response: JoinGroupResponse| match ResponseError::try_from_code(response.error_code) {
            None | Some(ResponseError::MemberIdRequired | ResponseError::UnknownMemberId) => Ok(response),
            Some(_) => check(response.error_code, || what.clone(), None).map(|()| response),
        };
        let response = self.ask(&request, REBALANCE_TIMEOUT, read).await?;
        match ResponseError::try_from_code(response.error_code) {
            Some(ResponseError::MemberIdRequired) => {
                self.member_id = response.member_id.to_string();
                return Ok(None);
            }
            Some(_) => {
                self.member_id.clear();
                return Ok(None);
            }
            None => {}
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
        let what = format!("joining group {}", self.group);
        let read = |response: SyncGroupResponse| judged(response.error_code, &what).map(|()| response);
        let response = self.ask(&request, REBALANCE_TIMEOUT, read).await?;
        if self.moved_on(response.error_code) {
            return Ok(None);
        }
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
        let what = format!("reading the offsets of group {}", self.group);
        let read = |response: OffsetFetchResponse| {
            check(response.error_code, || what.clone(), None)?;
            let mut offsets = BTreeMap::new();
            for partition in response.topics.into_iter().flat_map(|topic| topic.partitions) {
                check(partition.error_code, || what.clone(), None)?;
                offsets.insert(partition.partition_index, partition.committed_offset);
            }
            Ok(offsets)
        };
        self.ask(&request, Duration::ZERO, read).await
    }

    /// Does `work`, and tells the coordinator all the while that this member lives. `None` if the group moved on before `work` was
    /// done, which is given up then.
    pub async fn while_alive<T>(
        &mut self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<Option<T>, Error> {
        let mut work = pin!(work);
        loop {
            if self.heartbeat().await? == Beat::Rebalance {
                return Ok(None);
            }
            tokio::select! {
                done = &mut work => return done.map(Some),
                () = tokio::time::sleep_until(self.beat_at) => {}
            }
        }
    }

    /// Tells the coordinator that this member lives, if it is time.
    async fn heartbeat(&mut self) -> Result<Beat, Error> {
        if Instant::now() < self.beat_at {
            return Ok(Beat::Fine);
        }
        let request = HeartbeatRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(self.generation)
            .with_member_id(StrBytes::from_string(self.member_id.clone()));
        let what = format!("group {}: heartbeat", self.group);
        let read =
            |response: HeartbeatResponse| judged(response.error_code, &what).map(|()| response.error_code);
        let code = self.ask(&request, Duration::ZERO, read).await;
        or_joins_again(code.map(|code| self.beat(code)))
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
        if changed.is_empty() {
            return Ok(Beat::Fine);
        }
        if self.generation < 0 {
            return Ok(Beat::Rebalance);
        }
        let topic =
            OffsetCommitRequestTopic::default().with_name(topic_name(&self.topic)).with_partitions(changed);
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(StrBytes::from_string(self.member_id.clone()))
            .with_topics(vec![topic]);
        let what = format!("group {}: committing offsets", self.group);
        let read = |response: OffsetCommitResponse| {
            let codes = response.topics.iter().flat_map(|topic| &topic.partitions);
            let code = codes.map(|partition| partition.error_code).find(|code| *code != 0).unwrap_or(0);
            judged(code, &what).map(|()| code)
        };
        let code = self.ask(&request, Duration::ZERO, read).await?;
        let beat = self.beat(code);
        if beat == Beat::Fine {
            self.committed = positions.clone();
        }
        Ok(beat)
    }

    /// Commits and leaves, so that the others need not wait for the session to time out. Whoever is in a `hurry` lets the commit
    /// take [`LEAVE_TIMEOUT`] from then on.
    pub async fn leave(
        mut self,
        positions: &BTreeMap<i32, i64>,
        hurry: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let late = async {
            hurry.await;
            tokio::time::sleep(LEAVE_TIMEOUT).await;
        };
        let committed = tokio::select! {
            committed = self.commit(positions) => committed,
            () = late => return Err(Error::Usage(format!(
                "the coordinator did not take the last offsets within {LEAVE_TIMEOUT:?}: some records will be read again"
            ))),
        };
        if !self.member_id.is_empty() {
            let member = MemberIdentity::default()
                .with_member_id(StrBytes::from_string(self.member_id.clone()))
                .with_reason(Some(StrBytes::from_static_str("done")));
            let request =
                LeaveGroupRequest::default().with_group_id(self.group_id()).with_members(vec![member]);
            // Best effort: the session ends anyhow.
            let read =
                |response: LeaveGroupResponse| check(response.error_code, || "leaving".to_owned(), None);
            let leaving = self.ask(&request, Duration::ZERO, read);
            let _ = tokio::time::timeout(LEAVE_TIMEOUT, leaving).await;
        }
        match committed? {
            Beat::Fine => Ok(()),
            Beat::Rebalance => Err(Error::Usage(
                "the group changed before the last offsets were committed: some records will be read again"
                    .to_owned(),
            )),
        }
    }

    /// What the code of an answer to a heartbeat or commit means for membership.
    fn beat(&mut self, code: i16) -> Beat {
        if self.moved_on(code) {
            return Beat::Rebalance;
        }
        self.beat_at = Instant::now() + HEARTBEAT_INTERVAL;
        Beat::Fine
    }

    /// Whether `code` is one of those that [`judged`] lets pass, of which some end the membership.
    fn moved_on(&mut self, code: i16) -> bool {
        if ResponseError::try_from_code(code) == Some(ResponseError::UnknownMemberId) {
            self.member_id.clear();
            self.generation = -1;
        }
        code != 0
    }

    /// `held`: how long the coordinator may rightly wait before it answers.
    async fn ask<R: Request, T>(
        &mut self,
        request: &R,
        held: Duration,
        read: impl Fn(R::Response) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.client.call_known_coordinator(&self.group, &mut self.coordinator, request, held, read).await
    }

    fn group_id(&self) -> GroupId {
        GroupId(StrBytes::from_string(self.group.clone()))
    }

    fn malformed(&self, error: &anyhow::Error) -> Error {
        Error::Malformed { address: format!("group {}", self.group), detail: error.to_string() }
    }
}

/// Who could not be asked may be reached anew: joining again finds it, and gives up where that fails too.
pub fn or_joins_again(beat: Result<Beat, Error>) -> Result<Beat, Error> {
    match beat {
        Err(error) if error.is_retriable() || error.is_unreachable() => Ok(Beat::Rebalance),
        beat => beat,
    }
}

/// An error, unless `code` is none, or says that the group has another generation by now, has given this member up, or reads
/// something that is gone: then it is for the member to join again.
fn judged(code: i16, what: &str) -> Result<(), Error> {
    match ResponseError::try_from_code(code) {
        Some(
            ResponseError::RebalanceInProgress
            | ResponseError::IllegalGeneration
            | ResponseError::UnknownMemberId
            | ResponseError::UnknownTopicOrPartition,
        ) => Ok(()),
        _ => check(code, || what.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{RequestKind, ResponseKind};

    use super::*;
    use crate::cli::client::Connect;
    use crate::cli::client::peer::{Peer, coordinator};

    fn member(bootstrap: String) -> Member {
        let connect = Connect { bootstrap: vec![bootstrap], timeout: Duration::from_secs(60) };
        Member::new(Client::new(&connect), "g", "t")
    }

    #[tokio::test]
    async fn heartbeats_go_out_during_a_wait_and_end_it_when_the_group_moves_on() {
        let rebalance =
            HeartbeatResponse::default().with_error_code(ResponseError::RebalanceInProgress.code());
        let rebalance = ResponseKind::Heartbeat(rebalance);
        let coordinates = Peer::start(move |_| std::future::ready(rebalance.clone())).await;
        let found = coordinator(1, &coordinates.address);
        let bootstrap = Peer::start(move |_| std::future::ready(found.clone())).await;
        let mut member = member(bootstrap.address);
        (member.member_id, member.generation) = ("one".to_owned(), 7);
        member.beat_at = Instant::now() + Duration::from_millis(20);
        let done = member.while_alive(std::future::pending::<Result<(), Error>>()).await.unwrap();
        assert_eq!(done, None);
        let asked = coordinates.asked();
        let [RequestKind::Heartbeat(beat)] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!((beat.member_id.as_str(), beat.generation_id), ("one", 7));
        assert_eq!((&member.member_id[..], member.generation), ("one", 7), "it joins again as who it is");
    }

    #[tokio::test]
    async fn a_coordinator_that_cannot_be_asked_is_looked_for_by_joining_again() {
        let mut member = member("127.0.0.1:1".to_owned());
        (member.member_id, member.generation) = ("one".to_owned(), 7);
        assert_eq!(member.heartbeat().await.unwrap(), Beat::Rebalance);
        let committed = member.commit(&BTreeMap::from([(0, 5)])).await;
        assert_eq!(or_joins_again(committed).unwrap(), Beat::Rebalance);
        assert_eq!(member.member_id, "one");
    }

    #[tokio::test]
    async fn who_leaves_with_offsets_that_nobody_took_says_so() {
        let nobody = "127.0.0.1:1".to_owned();
        let positions = BTreeMap::from([(0, 5)]);
        let error = member(nobody.clone()).leave(&positions, std::future::pending()).await.unwrap_err();
        assert!(error.to_string().contains("will be read again"), "{error}");
        let mut took = member(nobody);
        took.committed = positions.clone();
        took.leave(&positions, std::future::pending()).await.unwrap();
    }
}
