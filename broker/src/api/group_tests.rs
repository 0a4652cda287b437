//! The APIs of the group protocol at every version, over coordinators whose log is in memory.

use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, StrBytes};

use super::find_coordinator::{Brokers, Node};
use super::strings::wire;
use super::{Advertised, Context};
use super::{
    delete_groups, describe_groups, find_coordinator, heartbeat, join_group, leave_group, list_groups,
    offset_commit, offset_delete, offset_fetch, sync_group,
};
use crate::group::groups::tests::memory::{Memory, World};
use crate::group::{Groups, Options};

const JOIN: RangeInclusive<i16> = 0..=9;
const SYNC: RangeInclusive<i16> = 0..=5;
const COMMIT: RangeInclusive<i16> = 2..=9;
const FETCH: RangeInclusive<i16> = 1..=9;

fn context() -> Context {
    Context {
        client_id: Some("app".into()),
        peer: ([10, 0, 0, 7], 4711).into(),
        advertised: Advertised { host: "broker".into(), port: 9092 },
    }
}

fn groups(world: &Arc<World>) -> Groups {
    Groups::new(Options::default(), Arc::new(Memory(world.clone())))
}

fn id(text: &str) -> GroupId {
    GroupId(wire(text))
}

fn topic(text: &str) -> TopicName {
    TopicName(wire(text))
}

/// What the server will do with a response must succeed for the version.
fn encodes(response: &impl Encodable, version: i16) {
    let mut bytes = BytesMut::new();
    response.encode(&mut bytes, version).unwrap_or_else(|error| panic!("version {version}: {error}"));
}

fn join_request(group: &str, member_id: &str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(wire("range"))
        .with_metadata(Bytes::from_static(b"topics"));
    JoinGroupRequest::default()
        .with_group_id(id(group))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(60_000)
        .with_member_id(wire(member_id))
        .with_protocol_type(wire("consumer"))
        .with_protocols(vec![protocol])
}

/// As a client of the version would: with a second request where the first only yields an id.
async fn join(groups: &Groups, version: i16, group: &str) -> JoinGroupResponse {
    let response = join_group::answer(groups, &context(), version, join_request(group, "")).await;
    encodes(&response, version);
    if version < 4 {
        return response;
    }
    assert_eq!(response.error_code, 79);
    let request = join_request(group, &response.member_id);
    let response = join_group::answer(groups, &context(), version, request).await;
    encodes(&response, version);
    response
}

async fn sync(groups: &Groups, version: i16, group: &str, joined: &JoinGroupResponse) -> SyncGroupResponse {
    let assignment = SyncGroupRequestAssignment::default()
        .with_member_id(joined.member_id.clone())
        .with_assignment(Bytes::from_static(b"partitions"));
    let request = SyncGroupRequest::default()
        .with_group_id(id(group))
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_protocol_type((version >= 5).then(|| wire("consumer")))
        .with_protocol_name((version >= 5).then(|| wire("range")))
        .with_assignments(vec![assignment]);
    let response = sync_group::answer(groups, version, request).await;
    encodes(&response, version);
    response
}

fn commit_request(group: &str, topic_name: &str, partition: i32, metadata: &str) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(42)
        .with_committed_leader_epoch(3)
        .with_committed_metadata(Some(wire(metadata)));
    let topic =
        OffsetCommitRequestTopic::default().with_name(topic(topic_name)).with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(id(group))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic])
}

async fn commit(groups: &Groups, version: i16, request: OffsetCommitRequest) -> i16 {
    let response = offset_commit::answer(groups, version, request).await;
    encodes(&response, version);
    response.topics[0].partitions[0].error_code
}

#[tokio::test(start_paused = true)]
async fn a_member_joins_syncs_beats_and_leaves_at_every_version() {
    let groups = groups(&World::new());
    for version in JOIN {
        let group = format!("group-{version}");
        let joined = join(&groups, version, &group).await;
        assert_eq!((joined.error_code, joined.generation_id), (0, 1), "version {version}");
        assert_eq!(joined.members.len(), 1);
        assert_eq!(joined.protocol_type.as_deref(), (version >= 7).then_some("consumer"));
        assert_eq!(joined.protocol_name.as_deref(), Some("range"));
        let version = version.min(*SYNC.end());
        let synced = sync(&groups, version, &group, &joined).await;
        assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"partitions"[..]));
        let beat = HeartbeatRequest::default()
            .with_group_id(id(&group))
            .with_generation_id(1)
            .with_member_id(joined.member_id.clone());
        assert_eq!(heartbeat::answer(&groups, beat).await.error_code, 0);
        let leaving = MemberIdentity::default().with_member_id(joined.member_id.clone());
        let request = LeaveGroupRequest::default()
            .with_group_id(id(&group))
            .with_member_id(if version < 3 { joined.member_id } else { StrBytes::default() })
            .with_members(if version < 3 { Vec::new() } else { vec![leaving] });
        let left = leave_group::answer(&groups, version, request.clone()).await;
        encodes(&left, version);
        assert_eq!((left.error_code, left.members.len()), (0, usize::from(version >= 3)));
        let again = leave_group::answer(&groups, version, request).await;
        let code = again.members.first().map_or(again.error_code, |member| member.error_code);
        assert_eq!(code, 25);
    }
}

#[tokio::test(start_paused = true)]
async fn behaviour_83_bad_group_ids_and_session_timeouts() {
    let groups = groups(&World::new());
    for version in JOIN {
        let empty = join_group::answer(&groups, &context(), version, join_request("", "")).await;
        encodes(&empty, version);
        assert_eq!((empty.error_code, empty.generation_id), (24, -1));
        for timeout_ms in [5_999, 1_800_001, -1] {
            let request = join_request("g", "").with_session_timeout_ms(timeout_ms);
            assert_eq!(join_group::answer(&groups, &context(), version, request).await.error_code, 26);
        }
        let unknown = join_group::answer(&groups, &context(), version, join_request("g", "nobody")).await;
        encodes(&unknown, version);
        assert_eq!((unknown.error_code, &*unknown.member_id), (25, "nobody"));
    }
    assert_eq!(heartbeat::answer(&groups, HeartbeatRequest::default()).await.error_code, 24);
    assert_eq!(sync_group::answer(&groups, 3, SyncGroupRequest::default()).await.error_code, 24);
    assert_eq!(leave_group::answer(&groups, 3, LeaveGroupRequest::default()).await.error_code, 24);
}

#[tokio::test(start_paused = true)]
async fn behaviour_85_client_and_host_are_shown_as_kafka_shows_them() {
    let groups = groups(&World::new());
    let joined = join(&groups, 9, "g").await;
    assert!(joined.member_id.starts_with("app-"));
    sync(&groups, 5, "g", &joined).await;
    for version in 0..=6 {
        let request = DescribeGroupsRequest::default().with_groups(vec![id("g")]);
        let described = describe_groups::answer(&groups, version, request).await;
        encodes(&described, version);
        let row = &described.groups[0];
        assert_eq!(
            (&*row.group_state, &*row.protocol_type, &*row.protocol_data),
            ("Stable", "consumer", "range")
        );
        assert_eq!((&*row.members[0].client_id, &*row.members[0].client_host), ("app", "/10.0.0.7"));
        assert_eq!(row.authorized_operations, i32::MIN);
    }
}

#[tokio::test(start_paused = true)]
async fn behaviour_89_from_v5_on_protocol_type_and_name_are_mandatory() {
    let groups = groups(&World::new());
    let request = SyncGroupRequest::default().with_group_id(id("g")).with_generation_id(1);
    assert_eq!(sync_group::answer(&groups, 5, request.clone()).await.error_code, 23);
    assert_eq!(sync_group::answer(&groups, 4, request).await.error_code, 25);
}

#[tokio::test(start_paused = true)]
async fn behaviour_93_commits_of_an_unknown_group_by_version() {
    let world = World::new();
    world.topic("t");
    let groups = groups(&world);
    for version in COMMIT {
        let with_generation = commit_request("unknown", "t", 0, "").with_generation_id_or_member_epoch(1);
        let expected = if version >= 9 { 69 } else { 22 };
        assert_eq!(commit(&groups, version, with_generation).await, expected, "version {version}");
        let simple = commit_request(&format!("simple-{version}"), "t", 0, "");
        assert_eq!(commit(&groups, version, simple).await, 0);
    }
    assert_eq!(
        commit(&groups, 2, commit_request("", "t", 0, "")).await,
        0,
        "an empty group id may hold offsets"
    );
}

#[tokio::test(start_paused = true)]
async fn behaviour_93_a_live_group_refuses_commits_from_outside() {
    let world = World::new();
    world.topic("t");
    let groups = groups(&world);
    let joined = join(&groups, 9, "g").await;
    let member = |request: OffsetCommitRequest| {
        request.with_generation_id_or_member_epoch(1).with_member_id(joined.member_id.clone())
    };
    assert_eq!(commit(&groups, 9, member(commit_request("g", "t", 0, ""))).await, 27, "before the sync");
    sync(&groups, 5, "g", &joined).await;
    assert_eq!(commit(&groups, 9, member(commit_request("g", "t", 0, ""))).await, 0);
    assert_eq!(commit(&groups, 9, commit_request("g", "t", 0, "")).await, 25);
}

#[tokio::test(start_paused = true)]
async fn behaviour_94_errors_are_per_partition() {
    let world = World::new();
    world.topic("t");
    let groups = groups(&world);
    for version in COMMIT {
        assert_eq!(commit(&groups, version, commit_request("g", "nowhere", 0, "")).await, 3);
        assert_eq!(commit(&groups, version, commit_request("g", "t", 40, "")).await, 3);
        assert_eq!(commit(&groups, version, commit_request("g", "t", -1, "")).await, 3);
        assert_eq!(commit(&groups, version, commit_request("g", "t", 0, &"x".repeat(4097))).await, 12);
        assert_eq!(commit(&groups, version, commit_request("g", "t", 0, &"x".repeat(4096))).await, 0);
        let mut mixed = commit_request("g", "t", 0, "");
        mixed.topics[0]
            .partitions
            .insert(0, OffsetCommitRequestPartition::default().with_partition_index(99));
        mixed.topics.insert(0, commit_request("g", "nowhere", 0, "").topics.remove(0));
        let response = offset_commit::answer(&groups, version, mixed).await;
        let codes = response.topics.iter().flat_map(|topic| &topic.partitions);
        assert_eq!(codes.map(|partition| partition.error_code).collect::<Vec<_>>(), [3, 3, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn behaviour_94_a_group_error_outranks_metadata_that_is_too_large() {
    let world = World::new();
    world.topic("t");
    let groups = groups(&world);
    let request = commit_request("unknown", "t", 0, &"x".repeat(5000)).with_generation_id_or_member_epoch(1);
    assert_eq!(commit(&groups, 9, request).await, 69);
}

fn fetch_request(version: i16, group: &str, partitions: &[i32]) -> OffsetFetchRequest {
    let request = OffsetFetchRequest::default();
    if version >= 8 {
        let topic = OffsetFetchRequestTopics::default()
            .with_name(topic("t"))
            .with_partition_indexes(partitions.to_vec());
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(id(group))
            .with_topics((!partitions.is_empty()).then_some(vec![topic]));
        return request.with_groups(vec![group]);
    }
    let topic =
        OffsetFetchRequestTopic::default().with_name(topic("t")).with_partition_indexes(partitions.to_vec());
    request.with_group_id(id(group)).with_topics((!partitions.is_empty()).then_some(vec![topic]))
}

/// Partition, offset, leader epoch, metadata, error.
type Row = (i32, i64, i32, String, i16);

async fn fetch(groups: &Groups, version: i16, group: &str, partitions: &[i32]) -> Vec<Row> {
    let response = offset_fetch::answer(groups, version, fetch_request(version, group, partitions)).await;
    encodes(&response, version);
    let text = |text: &Option<StrBytes>| text.as_deref().unwrap_or("null").to_owned();
    if version >= 8 {
        assert_eq!(&**response.groups[0].group_id, group);
        let rows = response.groups[0].topics.iter().flat_map(|topic| &topic.partitions);
        let row = rows.map(|row| {
            let metadata = text(&row.metadata);
            (row.partition_index, row.committed_offset, row.committed_leader_epoch, metadata, row.error_code)
        });
        return row.collect();
    }
    let rows = response.topics.iter().flat_map(|topic| &topic.partitions);
    let row = rows.map(|row| {
        let metadata = text(&row.metadata);
        (row.partition_index, row.committed_offset, row.committed_leader_epoch, metadata, row.error_code)
    });
    row.collect()
}

#[tokio::test(start_paused = true)]
async fn behaviour_94_95_offset_epoch_and_metadata_come_back_and_the_rest_is_minus_one() {
    let world = World::new();
    world.topic("t");
    let groups = groups(&world);
    assert_eq!(commit(&groups, 9, commit_request("g", "t", 1, "my note")).await, 0);
    for version in FETCH {
        let rows = fetch(&groups, version, "g", &[0, 1]).await;
        let expected: [Row; 2] = [(0, -1, -1, String::new(), 0), (1, 42, 3, "my note".to_owned(), 0)];
        assert_eq!(rows, expected, "version {version}");
        let unknown = fetch(&groups, version, "unknown", &[0]).await;
        assert_eq!(unknown, [(0, -1, -1, String::new(), 0)]);
        if version >= 2 {
            let all = fetch(&groups, version, "g", &[]).await;
            assert_eq!(all, [expected[1].clone()]);
        }
    }
}

/// NOT_COORDINATOR, too, where the coordinator is not available: not every client expects that of OffsetFetch.
#[tokio::test(start_paused = true)]
async fn behaviour_95_errors_stand_where_the_version_has_them() {
    let (stale, without_topic) = (World::new(), World::new());
    stale.set_fresh(false);
    without_topic.lose_offsets_topic();
    without_topic.topic("t");
    assert_eq!(commit(&groups(&without_topic), 9, commit_request("g", "t", 0, "")).await, 15);
    for (world, version) in
        [stale, without_topic].iter().flat_map(|world| FETCH.map(move |version| (world, version)))
    {
        let response = offset_fetch::answer(&groups(world), version, fetch_request(version, "g", &[0])).await;
        encodes(&response, version);
        match version {
            1 => assert_eq!(response.topics[0].partitions[0].error_code, 16),
            2..=7 => assert_eq!((response.error_code, response.topics.len()), (16, 0)),
            _ => assert_eq!((response.groups[0].error_code, response.groups[0].topics.len()), (16, 0)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_retention_time_of_its_own_is_kept_with_the_offset() {
    let world = World::new();
    world.topic("t");
    for (version, asked, kept) in [(4, 60_000, true), (4, -1, false), (5, 60_000, false)] {
        let groups = groups(&world);
        let request = commit_request("g", "t", 0, "").with_retention_time_ms(asked);
        assert_eq!(
            offset_commit::answer(&groups, version, request).await.topics[0].partitions[0].error_code,
            0
        );
        let fetched = groups.fetch("g".into(), None).await.unwrap();
        let offset = fetched[0].1.as_ref().unwrap();
        let expires = offset.expires_at_ms.map(|at| at - offset.committed_at_ms);
        assert_eq!(expires, kept.then_some(60_000));
    }
}

/// Behaviour 97 holds for it too, whoever comes in between.
#[tokio::test(start_paused = true)]
async fn an_offset_with_a_retention_time_of_its_own_goes_with_its_topic() {
    let world = World::new();
    world.topic("t");
    let before = groups(&world);
    let request = commit_request("g", "t", 0, "note").with_retention_time_ms(60_000);
    assert_eq!(offset_commit::answer(&before, 4, request).await.topics[0].partitions[0].error_code, 0);
    before.shutdown().await;
    let after = groups(&world);
    let fetched = after.fetch("g".into(), None).await.unwrap();
    let offset = fetched[0].1.as_ref().unwrap();
    assert_eq!((offset.topic_id, &*offset.metadata), (Some(world.topic("t")), "note"));
    assert!(offset.expires_at_ms.is_some());
    after.shutdown().await;
    // Made again while nobody looks after the group.
    world.delete_topic("t");
    world.topic("t");
    assert_eq!(groups(&world).fetch("g".into(), None).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn behaviour_99_unknown_groups_are_dead_and_an_error_from_v6_on() {
    let groups = groups(&World::new());
    for version in 0..=6 {
        let request = DescribeGroupsRequest::default()
            .with_groups(vec![id("nobody")])
            .with_include_authorized_operations(version >= 3);
        let response = describe_groups::answer(&groups, version, request).await;
        encodes(&response, version);
        let row = &response.groups[0];
        assert_eq!((&*row.group_state, row.error_code), ("Dead", if version >= 6 { 69 } else { 0 }));
        assert_eq!(row.error_message.is_some(), version >= 6);
    }
}

#[tokio::test(start_paused = true)]
async fn behaviour_99_listing_filters_by_state_and_type() {
    let world = World::new();
    world.topic("t");
    let groups = groups(&world);
    commit(&groups, 9, commit_request("simple", "t", 0, "")).await;
    let joined = join(&groups, 9, "live").await;
    sync(&groups, 5, "live", &joined).await;
    let list = async |version: i16, states: &[&str], types: &[&str]| {
        let texts = |list: &[&str]| list.iter().map(|text| wire(text)).collect();
        let request =
            ListGroupsRequest::default().with_states_filter(texts(states)).with_types_filter(texts(types));
        let response = list_groups::answer(&groups, version, request).await;
        encodes(&response, version);
        let mut rows: Vec<_> = response
            .groups
            .iter()
            .map(|row| {
                [&**row.group_id, &*row.protocol_type, &*row.group_state, &*row.group_type].map(str::to_owned)
            })
            .collect();
        rows.sort();
        rows
    };
    let (live, simple) = (["live", "consumer", "Stable", "classic"], ["simple", "", "Empty", "classic"]);
    assert_eq!(list(5, &[], &[]).await, [live, simple]);
    assert_eq!(list(5, &["stable"], &["CLASSIC"]).await, [live]);
    assert_eq!(list(5, &["Empty", "Dead"], &[]).await, [simple]);
    assert!(list(5, &[], &["consumer"]).await.is_empty());
    assert_eq!(list(4, &[], &[]).await[0][3], "");
    for version in 0..=3 {
        assert_eq!(list(version, &[], &[]).await[0], ["live", "consumer", "", ""]);
    }
}

#[tokio::test(start_paused = true)]
async fn behaviour_81_coordinators_by_version_and_key_type() {
    let groups = groups(&World::new());
    let leads = |partition: i32| (partition != 0).then(|| Node::new(7, "broker".into(), 9092));
    let this = Node::new(1, "here".into(), 9093);
    for (leader, known) in
        [(&leads as &(dyn Fn(i32) -> Option<Node> + Send + Sync), true), (&|_| None, false)]
    {
        let brokers = Brokers { this: this.clone(), leader };
        for version in 0..=6 {
            let request = FindCoordinatorRequest::default();
            let request = match version {
                0..=3 => request.with_key(wire("abc")),
                _ => request.with_coordinator_keys(vec![wire("abc"), wire("abd")]),
            };
            let response = find_coordinator::answer(&groups, &brokers, version, request).await;
            encodes(&response, version);
            let found = match response.coordinators.first() {
                None => (response.error_code, *response.node_id, response.port),
                Some(row) => (row.error_code, *row.node_id, row.port),
            };
            assert_eq!(found, if known { (0, 7, 9092) } else { (15, -1, -1) });
            assert_eq!(response.coordinators.len(), if version >= 4 { 2 } else { 0 });
        }
    }
    let brokers = Brokers { this, leader: &leads };
    for (version, key_type, expected) in [(1, 1, 0), (4, 1, 0), (4, 2, 42), (6, 2, 42), (3, 9, 42)] {
        let request = FindCoordinatorRequest::default().with_key_type(key_type);
        let request = match version {
            0..=3 => request.with_key(wire("tx")),
            _ => request.with_coordinator_keys(vec![wire("tx")]),
        };
        let response = find_coordinator::answer(&groups, &brokers, version, request).await;
        let code = response.coordinators.first().map_or(response.error_code, |row| row.error_code);
        assert_eq!(code, expected, "key type {key_type} at version {version}");
    }
}

fn offset_delete_request(group: &str, offsets: &[(&str, &[i32])]) -> OffsetDeleteRequest {
    let topics = offsets.iter().map(|(name, partitions)| {
        let partitions = partitions
            .iter()
            .map(|partition| OffsetDeleteRequestPartition::default().with_partition_index(*partition));
        OffsetDeleteRequestTopic::default().with_name(topic(name)).with_partitions(partitions.collect())
    });
    OffsetDeleteRequest::default().with_group_id(id(group)).with_topics(topics.collect())
}

async fn delete_offsets(groups: &Groups, group: &str, offsets: &[(&str, &[i32])]) -> (i16, Vec<i16>) {
    let response = offset_delete::answer(groups, offset_delete_request(group, offsets)).await;
    encodes(&response, 0);
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    (response.error_code, partitions.map(|partition| partition.error_code).collect())
}

#[tokio::test(start_paused = true)]
async fn behaviour_98_offset_delete_has_errors_for_the_group_and_for_each_partition() {
    let world = World::new();
    world.topic("t");
    let groups = groups(&world);
    assert_eq!(delete_offsets(&groups, "", &[("t", &[0])]).await, (24, vec![]));
    assert_eq!(delete_offsets(&groups, "nobody", &[("t", &[0])]).await, (69, vec![]));
    commit(&groups, 9, commit_request("g", "t", 0, "")).await;
    commit(&groups, 9, commit_request("g", "t", 1, "")).await;
    let deleted = delete_offsets(&groups, "g", &[("t", &[0, 7, 40, -1]), ("none", &[0])]).await;
    assert_eq!(deleted, (0, vec![0, 0, 3, 3, 3]), "7 was never committed, 40 is not a partition");
    let left: Vec<_> = groups.fetch("g".into(), None).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].0.1, 1);
}

#[tokio::test(start_paused = true)]
async fn behaviour_98_delete_groups_answers_for_each_group_once() {
    let world = World::new();
    world.topic("t");
    let groups = groups(&world);
    for version in 0..=2 {
        commit(&groups, 9, commit_request("simple", "t", 0, "")).await;
        let joined = join(&groups, 9, "live").await;
        sync(&groups, 5, "live", &joined).await;
        let names = ["simple", "live", "nobody", "simple"].map(id).to_vec();
        let request = DeleteGroupsRequest::default().with_groups_names(names);
        let response = delete_groups::answer(&groups, request).await;
        encodes(&response, version);
        let codes: Vec<_> =
            response.results.iter().map(|result| (result.group_id.to_string(), result.error_code)).collect();
        let expected = [("simple", 0), ("live", 68), ("nobody", 69)];
        assert_eq!(codes, expected.map(|(id, code)| (id.to_owned(), code)));
        let leaving = MemberIdentity::default().with_member_id(joined.member_id);
        let request = LeaveGroupRequest::default().with_group_id(id("live")).with_members(vec![leaving]);
        leave_group::answer(&groups, 5, request).await;
        let request = DeleteGroupsRequest::default().with_groups_names(vec![id("live")]);
        assert_eq!(delete_groups::answer(&groups, request).await.results[0].error_code, 0);
        let request = DescribeGroupsRequest::default().with_groups(vec![id("live"), id("simple")]);
        let described = describe_groups::answer(&groups, 5, request).await;
        assert!(described.groups.iter().all(|group| &*group.group_state == "Dead"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_loads_holds_up_no_other_group_of_the_request() {
    let world = World::new();
    world.topic("t");
    let before = groups(&world);
    for group in ["g", "other", "third"] {
        commit(&before, 9, commit_request(group, "t", 0, "")).await;
    }
    before.shutdown().await;
    let groups = groups(&world);
    world.hold_reads(true);
    let names = ["g", "other", "third"];
    let began = tokio::time::Instant::now();
    let asked =
        names.map(|name| OffsetFetchRequestGroup::default().with_group_id(id(name)).with_topics(None));
    let request = OffsetFetchRequest::default().with_groups(asked.to_vec());
    let fetched = offset_fetch::answer(&groups, 9, request).await;
    assert!(fetched.groups.iter().all(|group| group.error_code == 14));
    let request = DescribeGroupsRequest::default().with_groups(names.map(id).to_vec());
    let described = describe_groups::answer(&groups, 6, request).await;
    assert!(described.groups.iter().all(|group| group.error_code == 14));
    assert_eq!(began.elapsed(), 2 * Options::default().load_wait_max, "once for each request");
}
