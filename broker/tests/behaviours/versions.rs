//! Every API at every version that is advertised: a valid request, and a response that is read to its last byte. What is
//! not advertised closes the connection (behaviour 8).

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use ottla::api::versions::SUPPORTED;
use ottla::config::BrokerConfig;
use uuid::Uuid;

use crate::support::{
    Client, Disk, Options, TestBroker, fetch_request, frame, name, produce_request, produce_request_by_id,
};
use crate::testing;

fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

/// Sends a valid request of the API in the version and says which error the response has at its first place for one.
async fn round_trip(client: &mut Client, topic: Uuid, api: ApiKey, version: i16) -> i16 {
    match api {
        ApiKey::Produce
        | ApiKey::Fetch
        | ApiKey::ListOffsets
        | ApiKey::DeleteRecords
        | ApiKey::OffsetForLeaderEpoch
        | ApiKey::DescribeProducers => data(client, topic, api, version).await,
        ApiKey::OffsetCommit | ApiKey::OffsetFetch => offsets(client, api, version).await,
        ApiKey::JoinGroup | ApiKey::SyncGroup | ApiKey::Heartbeat | ApiKey::LeaveGroup => {
            membership(client, api, version).await
        }
        ApiKey::FindCoordinator | ApiKey::DescribeGroups | ApiKey::ListGroups => {
            groups(client, api, version).await
        }
        ApiKey::AlterConfigs
        | ApiKey::IncrementalAlterConfigs
        | ApiKey::CreatePartitions
        | ApiKey::DescribeTopicPartitions
        | ApiKey::DescribeLogDirs
        | ApiKey::ElectLeaders
        | ApiKey::AlterPartitionReassignments
        | ApiKey::ListPartitionReassignments
        | ApiKey::ListConfigResources
        | ApiKey::DescribeAcls
        | ApiKey::CreateAcls
        | ApiKey::DeleteAcls
        | ApiKey::DeleteGroups
        | ApiKey::OffsetDelete => admin(client, api, version).await,
        _ => cluster(client, api, version).await,
    }
}

async fn data(client: &mut Client, topic: Uuid, api: ApiKey, version: i16) -> i16 {
    match api {
        ApiKey::DeleteRecords => {
            let wanted = DeleteRecordsPartition::default().with_offset(1);
            let topic = DeleteRecordsTopic::default().with_name(name("topic")).with_partitions(vec![wanted]);
            let request = DeleteRecordsRequest::default().with_timeout_ms(60_000).with_topics(vec![topic]);
            let response = client.call(version, &request).await;
            assert_eq!(response.topics[0].partitions[0].low_watermark, 1);
            response.topics[0].partitions[0].error_code
        }
        ApiKey::OffsetForLeaderEpoch => {
            let wanted = OffsetForLeaderPartition::default().with_current_leader_epoch(-1);
            let topic =
                OffsetForLeaderTopic::default().with_topic(name("topic")).with_partitions(vec![wanted]);
            let request = OffsetForLeaderEpochRequest::default().with_topics(vec![topic]);
            let response = client.call(version, &request).await;
            assert!(response.topics[0].partitions[0].end_offset > 0);
            response.topics[0].partitions[0].error_code
        }
        ApiKey::DescribeProducers => {
            let topic = TopicRequest::default().with_name(name("topic")).with_partition_indexes(vec![0]);
            let request = DescribeProducersRequest::default().with_topics(vec![topic]);
            client.call(version, &request).await.topics[0].partitions[0].error_code
        }
        ApiKey::Produce => {
            let batch = testing::batch(2, |_| {});
            let request = match version {
                13 => produce_request_by_id(topic, 0, &batch),
                _ => produce_request("topic", 0, &batch),
            };
            client.call(version, &request).await.responses[0].partition_responses[0].error_code
        }
        ApiKey::Fetch => {
            let mut request = fetch_request("topic", 0, 0);
            if version >= 13 {
                request.topics[0].topic = Default::default();
                request.topics[0].topic_id = topic;
            }
            let response = client.call(version, &request).await;
            assert!(!response.responses[0].partitions[0].records.as_ref().unwrap().is_empty());
            response.responses[0].partitions[0].error_code
        }
        ApiKey::ListOffsets => {
            let wanted = ListOffsetsPartition::default().with_timestamp(-2).with_current_leader_epoch(-1);
            let topic = ListOffsetsTopic::default().with_name(name("topic")).with_partitions(vec![wanted]);
            let response =
                client.call(version, &ListOffsetsRequest::default().with_topics(vec![topic])).await;
            response.topics[0].partitions[0].error_code
        }
        _ => panic!("{api:?} is tested elsewhere"),
    }
}

async fn offsets(client: &mut Client, api: ApiKey, version: i16) -> i16 {
    let group = GroupId(text("offsets"));
    match api {
        ApiKey::OffsetCommit => {
            let partition = OffsetCommitRequestPartition::default()
                .with_committed_offset(i64::from(version))
                .with_committed_metadata(Some(text("seen")));
            let topic =
                OffsetCommitRequestTopic::default().with_name(name("topic")).with_partitions(vec![partition]);
            let request = OffsetCommitRequest::default()
                .with_group_id(group)
                .with_generation_id_or_member_epoch(-1)
                .with_topics(vec![topic]);
            client.call(version, &request).await.topics[0].partitions[0].error_code
        }
        _ if version < 8 => {
            let topic =
                OffsetFetchRequestTopic::default().with_name(name("topic")).with_partition_indexes(vec![0]);
            let request = OffsetFetchRequest::default().with_group_id(group).with_topics(Some(vec![topic]));
            let response = client.call(version, &request).await;
            assert_eq!(response.topics[0].partitions[0].committed_offset, 9);
            response.error_code
        }
        _ => {
            let topic =
                OffsetFetchRequestTopics::default().with_name(name("topic")).with_partition_indexes(vec![0]);
            let wanted = OffsetFetchRequestGroup::default()
                .with_group_id(group)
                .with_member_epoch(-1)
                .with_topics(Some(vec![topic]));
            let response =
                client.call(version, &OffsetFetchRequest::default().with_groups(vec![wanted])).await;
            assert_eq!(response.groups[0].topics[0].partitions[0].committed_offset, 9);
            response.groups[0].error_code
        }
    }
}

/// A group of its own for each API and version, through a whole generation of one member.
async fn membership(client: &mut Client, api: ApiKey, version: i16) -> i16 {
    let of = |wanted: ApiKey| if api == wanted { version } else { 3 };
    let group = GroupId(text(format!("{api:?}-{version}")));
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
    let join = JoinGroupRequest::default()
        .with_group_id(group.clone())
        .with_session_timeout_ms(45_000)
        .with_rebalance_timeout_ms(if of(ApiKey::JoinGroup) == 0 { -1 } else { 60_000 })
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    let mut joined = client.call(of(ApiKey::JoinGroup), &join).await;
    if joined.error_code == 79 {
        joined = client.call(of(ApiKey::JoinGroup), &join.with_member_id(joined.member_id)).await;
    }
    assert_eq!((joined.error_code, joined.members.len()), (0, 1), "{version}");
    let assignment = SyncGroupRequestAssignment::default()
        .with_member_id(joined.member_id.clone())
        .with_assignment(bytes::Bytes::from_static(b"all"));
    let mut sync = SyncGroupRequest::default()
        .with_group_id(group.clone())
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_assignments(vec![assignment]);
    if of(ApiKey::SyncGroup) >= 5 {
        sync = sync.with_protocol_type(Some(text("consumer"))).with_protocol_name(Some(text("range")));
    }
    let synced = client.call(of(ApiKey::SyncGroup), &sync).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all"[..]));
    let beat = HeartbeatRequest::default()
        .with_group_id(group.clone())
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone());
    assert_eq!(client.call(of(ApiKey::Heartbeat), &beat).await.error_code, 0);
    let leave = LeaveGroupRequest::default().with_group_id(group);
    let leave = match of(ApiKey::LeaveGroup) {
        0..=2 => leave.with_member_id(joined.member_id),
        _ => leave.with_members(vec![MemberIdentity::default().with_member_id(joined.member_id)]),
    };
    let left = client.call(of(ApiKey::LeaveGroup), &leave).await;
    left.members.first().map_or(left.error_code, |member| member.error_code)
}

async fn groups(client: &mut Client, api: ApiKey, version: i16) -> i16 {
    match api {
        ApiKey::FindCoordinator => {
            let request = FindCoordinatorRequest::default();
            let request = match version {
                0..=3 => request.with_key(text("group")),
                _ => request.with_coordinator_keys(vec![text("group"), text("other")]),
            };
            let response = client.call(version, &request).await;
            response.coordinators.first().map_or(response.error_code, |row| row.error_code)
        }
        ApiKey::DescribeGroups => {
            let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text("offsets"))]);
            client.call(version, &request).await.groups[0].error_code
        }
        _ => {
            let response = client.call(version, &ListGroupsRequest::default()).await;
            assert!(response.groups.iter().any(|listed| &*listed.group_id.0 == "offsets"));
            response.error_code
        }
    }
}

async fn cluster(client: &mut Client, api: ApiKey, version: i16) -> i16 {
    let fresh = name(&format!("topic-{version}"));
    match api {
        ApiKey::Metadata => {
            let wanted = MetadataRequestTopic::default().with_name(Some(name("topic")));
            let response =
                client.call(version, &MetadataRequest::default().with_topics(Some(vec![wanted]))).await;
            assert_eq!((response.brokers.len(), response.topics[0].partitions.len()), (1, 1));
            response.topics[0].error_code
        }
        ApiKey::ApiVersions => {
            let request = ApiVersionsRequest::default()
                .with_client_software_name(text("round-trip"))
                .with_client_software_version(text("1"));
            client.call(version, &request).await.error_code
        }
        ApiKey::CreateTopics => {
            let topic =
                CreatableTopic::default().with_name(fresh).with_num_partitions(1).with_replication_factor(1);
            let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5000);
            client.call(version, &request).await.topics[0].error_code
        }
        ApiKey::DeleteTopics => {
            // Of those that CreateTopics made; the first one has no counterpart there.
            let request = DeleteTopicsRequest::default().with_timeout_ms(5000);
            let request = match version {
                0..=5 => request.with_topic_names(vec![fresh]),
                _ => request.with_topics(vec![DeleteTopicState::default().with_name(Some(fresh))]),
            };
            let code = client.call(version, &request).await.responses[0].error_code;
            if version == 1 && code == 3 { 0 } else { code }
        }
        ApiKey::InitProducerId => {
            let request = InitProducerIdRequest::default()
                .with_transactional_id(None)
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1);
            client.call(version, &request).await.error_code
        }
        ApiKey::DescribeConfigs => {
            let resource =
                DescribeConfigsResource::default().with_resource_type(2).with_resource_name(text("topic"));
            let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
            client.call(version, &request).await.results[0].error_code
        }
        ApiKey::DescribeCluster => client.call(version, &DescribeClusterRequest::default()).await.error_code,
        _ => panic!("{api:?} is advertised and not tested here"),
    }
}

async fn admin(client: &mut Client, api: ApiKey, version: i16) -> i16 {
    match api {
        ApiKey::AlterConfigs => {
            let resource = alter_configs_request::AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("topic"));
            let request = AlterConfigsRequest::default().with_resources(vec![resource]);
            client.call(version, &request).await.responses[0].error_code
        }
        ApiKey::IncrementalAlterConfigs => {
            let change = incremental_alter_configs_request::AlterableConfig::default()
                .with_name(text("segment.ms"))
                .with_value(Some(text("5")));
            let resource = incremental_alter_configs_request::AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("topic"))
                .with_configs(vec![change]);
            let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
            client.call(version, &request).await.responses[0].error_code
        }
        ApiKey::CreatePartitions => {
            let growing = create_partitions_request::CreatePartitionsTopic::default()
                .with_name(name("topic"))
                .with_count(i32::from(version) + 2)
                .with_assignments(None);
            let request = CreatePartitionsRequest::default().with_topics(vec![growing]);
            client.call(version, &request).await.results[0].error_code
        }
        ApiKey::DescribeTopicPartitions => {
            let request = DescribeTopicPartitionsRequest::default().with_response_partition_limit(9);
            client.call(version, &request).await.topics[0].error_code
        }
        ApiKey::DescribeLogDirs => {
            let response = client.call(version, &DescribeLogDirsRequest::default().with_topics(None)).await;
            assert!(!response.results[0].topics.is_empty());
            response.results[0].error_code
        }
        ApiKey::ElectLeaders => {
            let wanted = elect_leaders_request::TopicPartitions::default()
                .with_topic(name("topic"))
                .with_partitions(vec![0]);
            let request = ElectLeadersRequest::default().with_topic_partitions(Some(vec![wanted]));
            let response = client.call(version, &request).await;
            // ELECTION_NOT_NEEDED is what there is to say.
            assert_eq!(response.replica_election_results[0].partition_result[0].error_code, 84);
            response.error_code
        }
        ApiKey::AlterPartitionReassignments => {
            let partition = alter_partition_reassignments_request::ReassignablePartition::default()
                .with_replicas(Some(vec![BrokerId(1)]));
            let topic = alter_partition_reassignments_request::ReassignableTopic::default()
                .with_name(name("topic"))
                .with_partitions(vec![partition]);
            let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
            client.call(version, &request).await.responses[0].partitions[0].error_code
        }
        ApiKey::ListPartitionReassignments => {
            let request = ListPartitionReassignmentsRequest::default().with_topics(None);
            client.call(version, &request).await.error_code
        }
        ApiKey::ListConfigResources => {
            client.call(version, &ListConfigResourcesRequest::default()).await.error_code
        }
        // SECURITY_DISABLED is what there is to say.
        ApiKey::DescribeAcls => client.call(version, &DescribeAclsRequest::default()).await.error_code - 54,
        ApiKey::CreateAcls => {
            let request = CreateAclsRequest::default().with_creations(vec![Default::default()]);
            client.call(version, &request).await.results[0].error_code - 54
        }
        ApiKey::DeleteAcls => {
            let request = DeleteAclsRequest::default().with_filters(vec![Default::default()]);
            client.call(version, &request).await.filter_results[0].error_code - 54
        }
        // GROUP_ID_NOT_FOUND is what there is to say.
        ApiKey::DeleteGroups => {
            let request =
                DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text("no such group"))]);
            client.call(version, &request).await.results[0].error_code - 69
        }
        ApiKey::OffsetDelete => {
            let request = OffsetDeleteRequest::default().with_group_id(GroupId(text("no such group")));
            client.call(version, &request).await.error_code - 69
        }
        _ => panic!("{api:?} is advertised and not tested here"),
    }
}

#[tokio::test]
async fn every_version_of_every_api_is_answered_in_its_own_encoding() {
    let set = [("group.initial.rebalance.delay.ms".to_owned(), "0".to_owned())];
    let config = BrokerConfig::new(&set.into()).expect("a valid config");
    let broker = TestBroker::on(&Disk::new(), Options { config, ..Options::default() }).await;
    let topic = broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    for row in SUPPORTED {
        for version in row.min..=row.max {
            let code = round_trip(&mut client, topic.id, row.key, version).await;
            assert_eq!(code, 0, "{:?} {version}", row.key);
        }
    }
}

/// Without quotas nobody is throttled: 0 at once, never a negative number.
#[tokio::test]
async fn behaviour_14_nothing_is_throttled() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    let batch = testing::batch(1, |_| {});
    assert_eq!(client.call(9, &produce_request("topic", 0, &batch)).await.throttle_time_ms, 0);
    assert_eq!(client.call(12, &fetch_request("topic", 0, 0)).await.throttle_time_ms, 0);
    assert_eq!(client.call(10, &ListOffsetsRequest::default()).await.throttle_time_ms, 0);
    assert_eq!(client.call(13, &MetadataRequest::default()).await.throttle_time_ms, 0);
    assert_eq!(client.call(3, &ApiVersionsRequest::default()).await.throttle_time_ms, 0);
    assert_eq!(client.call(4, &HeartbeatRequest::default()).await.throttle_time_ms, 0);
    assert_eq!(client.call(7, &CreateTopicsRequest::default()).await.throttle_time_ms, 0);
    assert_eq!(client.call(5, &ListGroupsRequest::default()).await.throttle_time_ms, 0);
}

#[tokio::test]
async fn behaviour_8_what_is_not_advertised_closes_the_connection() {
    let broker = TestBroker::start().await;
    let bytes = frame(4, 1, &ApiVersionsRequest::default());
    let mut not_served = Vec::new();
    for key in -1..=100 {
        match SUPPORTED.iter().find(|row| row.key as i16 == key) {
            Some(row) if row.key == ApiKey::ApiVersions => {}
            Some(row) => not_served.extend([(key, row.min - 1), (key, row.max + 1), (key, i16::MAX)]),
            None => not_served.push((key, 0)),
        }
    }
    for (key, version) in not_served {
        let mut bytes = bytes.clone();
        bytes[4..6].copy_from_slice(&key.to_be_bytes());
        bytes[6..8].copy_from_slice(&version.to_be_bytes());
        let mut client = broker.connect().await;
        client.send_raw(&bytes).await;
        client.closed().await;
    }
}

/// Clients would push their metrics to a broker that drops them.
#[tokio::test]
async fn behaviour_117_telemetry_is_not_advertised() {
    let broker = TestBroker::start().await;
    let mut client = broker.connect().await;
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text("telemetry"))
        .with_client_software_version(text("1"));
    let advertised = client.call(4, &request).await.api_keys;
    assert_eq!(advertised.len(), SUPPORTED.len());
    for key in [ApiKey::GetTelemetrySubscriptions, ApiKey::PushTelemetry] {
        assert!(advertised.iter().all(|row| row.api_key != key as i16), "{key:?}");
    }
}
