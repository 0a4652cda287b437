//! Groups over TCP, against a whole broker: behaviours 81 to 101 where the wire, the log or a restart matters.

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponsePartitions;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use ottla::config::BrokerConfig;

use crate::support::{Client, Disk, Options, TestBroker, name, until};

/// Without the initial delay, as suites run Kafka.
pub fn options() -> Options {
    let set = [("group.initial.rebalance.delay.ms".to_owned(), "0".to_owned())];
    let config = BrokerConfig::new(&set.into()).expect("a valid config");
    Options { config, ..Options::default() }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group(id: &str) -> GroupId {
    GroupId(text(id))
}

fn join_request(id: &str, member_id: &str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"topics"));
    JoinGroupRequest::default()
        .with_group_id(group(id))
        .with_session_timeout_ms(45_000)
        .with_rebalance_timeout_ms(60_000)
        .with_member_id(text(member_id))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

pub async fn join(client: &mut Client, id: &str) -> JoinGroupResponse {
    let required = client.call(9, &join_request(id, "")).await;
    assert_eq!(required.error_code, 79);
    let joined = client.call(9, &join_request(id, &required.member_id)).await;
    assert_eq!(joined.error_code, 0);
    joined
}

pub fn sync_request(
    id: &str,
    joined: &JoinGroupResponse,
    assignments: &[(&StrBytes, &'static str)],
) -> SyncGroupRequest {
    let assignments = assignments.iter().map(|(member_id, assignment)| {
        SyncGroupRequestAssignment::default()
            .with_member_id((*member_id).clone())
            .with_assignment(Bytes::from_static(assignment.as_bytes()))
    });
    SyncGroupRequest::default()
        .with_group_id(group(id))
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")))
        .with_assignments(assignments.collect())
}

pub fn heartbeat(id: &str, joined: &JoinGroupResponse) -> HeartbeatRequest {
    HeartbeatRequest::default()
        .with_group_id(group(id))
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
}

pub fn commit_request(id: &str, topic: &str, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(5)
        .with_committed_metadata(Some(text("note")));
    let topic = OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(group(id))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

pub async fn commit(client: &mut Client, request: &OffsetCommitRequest) -> i16 {
    client.call(9, request).await.topics[0].partitions[0].error_code
}

pub async fn committed(client: &mut Client, id: &str, topic: &str) -> OffsetFetchResponsePartitions {
    let topic = OffsetFetchRequestTopics::default().with_name(name(topic)).with_partition_indexes(vec![0]);
    let asked = OffsetFetchRequestGroup::default().with_group_id(group(id)).with_topics(Some(vec![topic]));
    let response = client.call(9, &OffsetFetchRequest::default().with_groups(vec![asked])).await;
    assert_eq!(response.groups[0].error_code, 0);
    response.groups[0].topics[0].partitions[0].clone()
}

#[tokio::test]
async fn behaviour_81_the_coordinator_is_this_broker_at_the_address_of_the_listener() {
    let broker = TestBroker::on(&Disk::new(), options()).await;
    let mut client = broker.connect().await;
    for version in 0..=3 {
        let found = client.call(version, &FindCoordinatorRequest::default().with_key(text("g"))).await;
        assert_eq!((found.error_code, *found.node_id), (0, 1));
        assert_eq!((&*found.host, found.port), ("127.0.0.1", i32::from(broker.address.port())));
    }
    for version in 4..=6 {
        let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("a"), text("b")]);
        let found = client.call(version, &request).await;
        assert_eq!(found.coordinators.len(), 2);
        assert!(found.coordinators.iter().all(|row| row.error_code == 0 && *row.node_id == 1));
    }
    let listed = client.call(12, &MetadataRequest::default().with_topics(None)).await;
    let internal = listed.topics.iter().find(|topic| topic.is_internal).expect("the offsets topic is listed");
    assert_eq!((&*internal.name.as_ref().unwrap().0, internal.partitions.len()), ("__consumer_offsets", 50));
}

#[tokio::test]
async fn behaviour_85_89_two_members_share_a_generation() {
    let broker = TestBroker::on(&Disk::new(), options()).await;
    let (mut first, mut second) = (broker.connect().await, broker.connect().await);
    let alone = join(&mut first, "g").await;
    first.call(5, &sync_request("g", &alone, &[(&alone.member_id, "all")])).await;
    let required = second.call(9, &join_request("g", "")).await;
    let waiting = second.send(9, &join_request("g", &required.member_id)).await;
    // Behaviour 90: a heartbeat tells the first of the rebalance, once the second's join has come in.
    while first.call(4, &heartbeat("g", &alone)).await.error_code == 0 {
        tokio::task::yield_now().await;
    }
    let again = first.call(9, &join_request("g", &alone.member_id)).await;
    let joined = second.receive::<JoinGroupRequest>(9, waiting).await;
    assert_eq!((again.generation_id, joined.generation_id), (2, 2));
    assert_eq!(
        (again.leader.clone(), again.members.len(), joined.members.len()),
        (joined.leader.clone(), 2, 0)
    );
    let assignments = [(&again.member_id, "one"), (&joined.member_id, "two")];
    let follower = second.send(5, &sync_request("g", &joined, &[])).await;
    let leader = first.call(5, &sync_request("g", &again, &assignments)).await;
    let follower = second.receive::<SyncGroupRequest>(5, follower).await;
    assert_eq!((&leader.assignment[..], &follower.assignment[..]), (&b"one"[..], &b"two"[..]));
}

#[tokio::test]
async fn behaviour_94_95_101_offsets_survive_an_orderly_restart() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, options()).await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    assert_eq!(committed(&mut client, "g", "t").await.committed_offset, -1);
    assert_eq!(commit(&mut client, &commit_request("g", "t", 41)).await, 0);
    assert_eq!(commit(&mut client, &commit_request("g", "t", 42)).await, 0);
    drop(client);
    broker.stop().await;
    let broker = TestBroker::on(&disk.with_new_wal(), options()).await;
    let mut client = broker.connect().await;
    let row = committed(&mut client, "g", "t").await;
    assert_eq!((row.committed_offset, row.committed_leader_epoch), (42, 5));
    assert_eq!(row.metadata.as_deref(), Some("note"));
}

#[tokio::test]
async fn behaviour_101_a_crash_loses_no_offset_and_causes_no_rebalance() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, options()).await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    let joined = join(&mut client, "g").await;
    let synced = client.call(5, &sync_request("g", &joined, &[(&joined.member_id, "mine")])).await;
    assert_eq!(&synced.assignment[..], b"mine");
    let of_member = |offset| {
        commit_request("g", "t", offset)
            .with_generation_id_or_member_epoch(joined.generation_id)
            .with_member_id(joined.member_id.clone())
    };
    for offset in 0..50 {
        assert_eq!(commit(&mut client, &of_member(offset)).await, 0);
    }
    drop(client);
    broker.crash(&disk).await;
    let broker = TestBroker::on(&disk, options()).await;
    let mut client = broker.connect().await;
    assert_eq!(client.call(4, &heartbeat("g", &joined)).await.error_code, 0, "the generation stands");
    let again = client.call(5, &sync_request("g", &joined, &[])).await;
    assert_eq!(&again.assignment[..], b"mine", "and so does the assignment");
    assert_eq!(committed(&mut client, "g", "t").await.committed_offset, 49);
    assert_eq!(commit(&mut client, &of_member(50)).await, 0);
    let listed = client.call(5, &ListGroupsRequest::default()).await;
    let row = &listed.groups[0];
    assert_eq!((&*row.group_id.0, &*row.group_state, &*row.group_type), ("g", "Stable", "classic"));
}

#[tokio::test]
async fn behaviour_91_leaving_members_empty_the_group() {
    let broker = TestBroker::on(&Disk::new(), options()).await;
    let mut client = broker.connect().await;
    let joined = join(&mut client, "g").await;
    client.call(5, &sync_request("g", &joined, &[])).await;
    let member = MemberIdentity::default().with_member_id(joined.member_id.clone());
    let request = LeaveGroupRequest::default().with_group_id(group("g")).with_members(vec![member]);
    assert_eq!(client.call(5, &request).await.members[0].error_code, 0);
    let described = client.call(6, &DescribeGroupsRequest::default().with_groups(vec![group("g")])).await;
    assert_eq!((&*described.groups[0].group_state, described.groups[0].members.len()), ("Empty", 0));
}

#[tokio::test]
async fn behaviour_97_a_topic_made_again_has_no_offsets() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, options()).await;
    let topic = broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    assert_eq!(commit(&mut client, &commit_request("g", "t", 41)).await, 0);
    broker.broker.metadata.delete_topics(vec![topic.id]).await.expect("delete");
    assert_eq!(committed(&mut client, "g", "t").await.committed_offset, -1);
    assert_eq!(commit(&mut client, &commit_request("g", "t", 42)).await, 3);
    broker.topic("t", 1, &[]).await;
    assert_eq!(committed(&mut client, "g", "t").await.committed_offset, -1);
    drop(client);
    broker.crash(&disk).await;
    let broker = TestBroker::on(&disk, options()).await;
    let mut client = broker.connect().await;
    assert_eq!(committed(&mut client, "g", "t").await.committed_offset, -1);
}

#[tokio::test]
async fn behaviour_92_a_static_member_that_restarts_keeps_its_place_across_a_crash() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, options()).await;
    let mut client = broker.connect().await;
    let instance = |member_id: &str| join_request("g", member_id).with_group_instance_id(Some(text("one")));
    let joined = client.call(9, &instance("")).await;
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    client.call(5, &sync_request("g", &joined, &[(&joined.member_id, "mine")])).await;
    let replaced = client.call(9, &instance("")).await;
    assert_eq!((replaced.generation_id, replaced.skip_assignment), (1, true));
    drop(client);
    broker.crash(&disk).await;
    let broker = TestBroker::on(&disk, options()).await;
    let mut client = broker.connect().await;
    let fenced = heartbeat("g", &joined).with_group_instance_id(Some(text("one")));
    assert_eq!(client.call(4, &fenced).await.error_code, 82, "the replacement was durable");
    let synced = client.call(5, &sync_request("g", &replaced, &[])).await;
    assert_eq!(&synced.assignment[..], b"mine");
}

#[tokio::test]
async fn behaviour_81_a_broker_without_the_right_does_not_call_itself_the_coordinator() {
    let broker = TestBroker::on(&Disk::new(), options()).await;
    let mut client = broker.connect().await;
    let request = FindCoordinatorRequest::default().with_key(text("g"));
    assert_eq!(client.call(3, &request).await.error_code, 0);
    broker.broker.right.revoke("deposed");
    assert_eq!(client.call(3, &request).await.error_code, 15);
    let asked = OffsetFetchRequestGroup::default().with_group_id(group("g"));
    let fetched = client.call(9, &OffsetFetchRequest::default().with_groups(vec![asked])).await;
    assert_eq!(fetched.groups[0].error_code, 16);
}

async fn delete_groups(client: &mut Client, ids: &[&str]) -> Vec<i16> {
    let request = DeleteGroupsRequest::default().with_groups_names(ids.iter().map(|id| group(id)).collect());
    client.call(2, &request).await.results.iter().map(|result| result.error_code).collect()
}

async fn delete_offset(client: &mut Client, id: &str, topic: &str) -> (i16, Option<i16>) {
    let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
    let topic = OffsetDeleteRequestTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    let request = OffsetDeleteRequest::default().with_group_id(group(id)).with_topics(vec![topic]);
    let response = client.call(0, &request).await;
    let partition = response.topics.first().map(|topic| topic.partitions[0].error_code);
    (response.error_code, partition)
}

#[tokio::test]
async fn behaviour_98_deleted_groups_and_offsets_stay_deleted_across_a_crash() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, options()).await;
    for topic in ["t", "u"] {
        broker.topic(topic, 1, &[]).await;
    }
    let mut client = broker.connect().await;
    for id in ["whole", "part"] {
        assert_eq!(commit(&mut client, &commit_request(id, "t", 41)).await, 0);
        assert_eq!(commit(&mut client, &commit_request(id, "u", 42)).await, 0);
    }
    let joined = join(&mut client, "live").await;
    client.call(5, &sync_request("live", &joined, &[])).await;
    assert_eq!(delete_groups(&mut client, &["whole", "live", "none"]).await, [0, 68, 69]);
    assert_eq!(delete_offset(&mut client, "part", "t").await, (0, Some(0)));
    assert_eq!(delete_offset(&mut client, "part", "nowhere").await, (0, Some(3)));
    assert_eq!(delete_offset(&mut client, "none", "t").await, (69, None));
    // The members' metadata is no consumer's, so that any topic may be among theirs.
    assert_eq!(delete_offset(&mut client, "live", "t").await, (0, Some(86)));
    drop(client);
    broker.crash(&disk).await;
    let broker = TestBroker::on(&disk, options()).await;
    let mut client = broker.connect().await;
    assert_eq!(committed(&mut client, "whole", "t").await.committed_offset, -1);
    assert_eq!(committed(&mut client, "part", "t").await.committed_offset, -1);
    assert_eq!(committed(&mut client, "part", "u").await.committed_offset, 42);
    let listed = client.call(5, &ListGroupsRequest::default()).await;
    let mut ids: Vec<String> = listed.groups.iter().map(|row| row.group_id.to_string()).collect();
    ids.sort();
    assert_eq!(ids, ["live", "part"]);
}

#[tokio::test]
async fn behaviour_96_offsets_of_a_group_without_members_expire() {
    let set = [("offsets.retention.minutes", "1"), ("offsets.retention.check.interval.ms", "1")];
    let set = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = BrokerConfig::new(&set.into()).expect("a valid config");
    let broker = TestBroker::on(&Disk::new(), Options { config, ..Options::default() }).await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    // A retention of its own, of which it has nothing left; version 2 to 4 alone can say so.
    let brief = commit_request("brief", "t", 41).with_retention_time_ms(0);
    assert_eq!(client.call(4, &brief).await.topics[0].partitions[0].error_code, 0);
    assert_eq!(commit(&mut client, &commit_request("g", "t", 42)).await, 0);
    while committed(&mut client, "brief", "t").await.committed_offset != -1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(committed(&mut client, "g", "t").await.committed_offset, 42, "its minute is not over");
}

/// Whatever somebody sets there: a coordinator knows what is still needed, retention does not.
#[tokio::test]
async fn retention_leaves_the_coordinators_logs_alone() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, options()).await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    assert_eq!(commit(&mut client, &commit_request("g", "t", 7)).await, 0);
    broker.upload().await;
    let metadata = &broker.broker.metadata;
    let topic = metadata.image().topic_named("__consumer_offsets").cloned().expect("it is there");
    let shall = vec![("cleanup.policy".into(), "delete".into()), ("retention.ms".into(), "1".into())];
    metadata.set_topic_configs(topic.id, topic.configs.to_vec(), shall).await.expect("is set");
    let now = ottla::partition::retention::Now { ms: i64::MAX, believed: true };
    let freed = broker.broker.partitions.retain(&broker.broker.config(), now).await.expect("a pass");
    assert_eq!(freed, ottla::partition::retention::Freed::default());
    drop(client);
    broker.crash(&disk).await;
    let broker = TestBroker::on(&disk, options()).await;
    let mut client = broker.connect().await;
    assert_eq!(committed(&mut client, "g", "t").await.committed_offset, 7);
}

#[tokio::test]
async fn a_long_history_of_commits_leaves_a_short_log() {
    let disk = Disk::new();
    let groups = ottla::group::Options { rewrite_log_bytes_min: 20_000, ..Default::default() };
    let options = || Options { groups: groups.clone(), ..options() };
    let broker = TestBroker::on(&disk, options()).await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    let joined = join(&mut client, "g").await;
    client.call(5, &sync_request("g", &joined, &[(&joined.member_id, "mine")])).await;
    let of_member = |offset| {
        commit_request("g", "t", offset)
            .with_generation_id_or_member_epoch(joined.generation_id)
            .with_member_id(joined.member_id.clone())
    };
    let partition = ottla::group::groups::partition_of("g", 50);
    let topic =
        broker.broker.metadata.image().topic_named("__consumer_offsets").cloned().expect("it is there");
    let log = broker.partition(&topic, partition).await;
    for round in 0..3 {
        let before = log.log_start();
        for offset in 0..400 {
            assert_eq!(commit(&mut client, &of_member(round * 400 + offset)).await, 0);
        }
        broker.upload().await;
        until(|| log.log_start() > before).await;
        assert!(log.log_end() - log.log_start() < 400, "{}..{}", log.log_start(), log.log_end());
    }
    drop(client);
    broker.crash(&disk).await;
    let broker = TestBroker::on(&disk, options()).await;
    let mut client = broker.connect().await;
    assert_eq!(client.call(4, &heartbeat("g", &joined)).await.error_code, 0, "the membership was repeated");
    assert_eq!(committed(&mut client, "g", "t").await.committed_offset, 1199);
    assert_eq!(commit(&mut client, &of_member(1200)).await, 0);
}
