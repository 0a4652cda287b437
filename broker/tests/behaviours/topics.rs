//! Topics and the cluster over real connections: every API of theirs, at every version that is advertised.

use crate::support::{Client, Disk, Options, TestBroker};
use crate::testing;
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::{
    ApiKey, BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, FindCoordinatorRequest, GroupId, InitProducerIdRequest,
    MetadataRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla::api::versions::supported;

fn versions(key: ApiKey) -> std::ops::RangeInclusive<i16> {
    let row = supported(key as i16).expect("supported");
    row.min..=row.max
}

fn name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

#[tokio::test]
async fn behaviour_32_topics_are_visible_at_once_and_gone_at_once() {
    let broker = TestBroker::start().await;
    let mut client = broker.connect().await;
    for version in versions(ApiKey::CreateTopics) {
        let topic =
            CreatableTopic::default().with_name(name("t")).with_num_partitions(3).with_replication_factor(1);
        let created = client.call(version, &CreateTopicsRequest::default().with_topics(vec![topic])).await;
        assert_eq!(created.topics[0].error_code, 0);
        let mut id = uuid::Uuid::nil();
        for version in versions(ApiKey::Metadata) {
            // In version 0 no topics means all; later, null does.
            let all = (version == 0).then(Vec::new);
            let all = client.call(version, &MetadataRequest::default().with_topics(all)).await;
            assert_eq!(all.topics[0].partitions.len(), 3);
            assert_eq!(all.brokers[0].port, i32::from(broker.address.port()));
            id = all.topics[0].topic_id;
        }
        let request = DeleteTopicsRequest::default();
        let deleted = match version % 2 {
            0 => client.call(1, &request.with_topic_names(vec![name("t")])).await,
            _ => {
                let state = DeleteTopicState::default().with_name(None).with_topic_id(id);
                client.call(6, &request.with_topics(vec![state])).await
            }
        };
        assert_eq!(deleted.responses[0].error_code, 0);
        let gone = client.call(9, &MetadataRequest::default().with_topics(None)).await;
        assert!(gone.topics.is_empty());
    }
    broker.stop().await;
}

fn growth(topic: &str, count: i32, assignments: Option<&[&[i32]]>) -> CreatePartitionsTopic {
    let assigned = |replicas: &&[i32]| {
        let replicas = replicas.iter().map(|id| BrokerId(*id)).collect();
        CreatePartitionsAssignment::default().with_broker_ids(replicas)
    };
    CreatePartitionsTopic::default()
        .with_name(name(topic))
        .with_count(count)
        .with_assignments(assignments.map(|all| all.iter().map(assigned).collect()))
}

/// Code for each topic.
async fn grow(
    client: &mut Client,
    topics: Vec<CreatePartitionsTopic>,
    validate_only: bool,
) -> Vec<(String, i16)> {
    let request = CreatePartitionsRequest::default().with_topics(topics).with_validate_only(validate_only);
    let answered = client.call(3, &request).await.results;
    answered.into_iter().map(|row| (row.name.0.to_string(), row.error_code)).collect()
}

#[tokio::test]
async fn behaviour_108_new_partitions_serve_at_once_and_old_ones_stay() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    let batch = testing::batch(2, |_| {});
    client.produced("t", 0, &batch).await;
    assert_eq!(grow(&mut client, vec![growth("t", 3, None)], true).await, [("t".to_owned(), 0)]);
    assert_eq!(client.produce("t", 2, &batch).await.error_code, 3, "only validated");
    assert_eq!(grow(&mut client, vec![growth("t", 3, None)], false).await, [("t".to_owned(), 0)]);
    for partition in 1..3 {
        assert_eq!(client.produced("t", partition, &batch).await, 0);
        assert_eq!(client.fetch("t", partition, 0).await.high_watermark, 2);
    }
    assert_eq!(client.produced("t", 0, &batch).await, 2, "what was there stays there");
    let seen = client.call(9, &MetadataRequest::default().with_topics(None)).await;
    let leaders: Vec<i32> = seen.topics[0].partitions.iter().map(|partition| partition.leader_id.0).collect();
    assert_eq!(leaders, [1, 1, 1]);
    broker.crash(&disk).await;

    let broker = TestBroker::on(&disk, Options::default()).await;
    let mut client = broker.connect().await;
    assert_eq!(client.fetch("t", 2, 0).await.high_watermark, 2, "after a crash");
    assert_eq!(client.fetch("t", 0, 0).await.high_watermark, 4);
    broker.stop().await;
}

#[tokio::test]
async fn behaviour_108_each_topic_has_its_own_answer() {
    let broker = TestBroker::start().await;
    for topic in ["a", "b", "c", "d", "e", "f", "g"] {
        broker.topic(topic, 2, &[]).await;
    }
    let mut client = broker.connect().await;
    let internal = GroupId(StrBytes::from_static_str("g"));
    let find = FindCoordinatorRequest::default().with_key(internal.0);
    assert_eq!(client.call(1, &find).await.error_code, 0, "makes the broker's own topic");
    let topics = vec![
        growth("a", 3, Some(&[&[1]])),
        growth("b", 2, None),
        growth("c", 1, None),
        growth("absent", 3, None),
        growth("d", 3, None),
        growth("d", 4, None),
        growth("e", 4, Some(&[&[1]])),
        growth("f", 3, Some(&[&[9]])),
        growth("g", 3, Some(&[&[]])),
        growth("__consumer_offsets", 51, None),
        growth("c", -1, None),
    ];
    let mut answered = grow(&mut client, topics, false).await;
    answered.sort();
    let expected = [
        ("__consumer_offsets", 17),
        ("a", 0),
        ("absent", 3),
        ("b", 37),
        ("c", 42),
        ("d", 42),
        ("e", 39),
        ("f", 39),
        ("g", 39),
    ];
    assert_eq!(answered, expected.map(|(name, code)| (name.to_owned(), code)));
    let all = [growth("a", 0, None), growth("b", 1, None), growth("c", i32::MAX, None)];
    let mut answered = grow(&mut client, all.to_vec(), false).await;
    answered.sort();
    assert_eq!(answered, [("a", 37), ("b", 37), ("c", 44)].map(|(name, code)| (name.to_owned(), code)));
    let many = vec![growth("a", 6_000, None), growth("b", 6_000, None)];
    assert!(grow(&mut client, many, false).await.iter().all(|(_, code)| *code == 44));
    let seen = client.call(9, &MetadataRequest::default().with_topics(None)).await;
    let count = |wanted: &str| {
        let mut topics = seen.topics.iter();
        topics.find(|topic| topic.name == Some(name(wanted))).expect("there").partitions.len()
    };
    assert_eq!((count("a"), count("b"), count("d")), (3, 2, 2));
}

#[tokio::test]
async fn every_advertised_version_is_answered() {
    let broker = TestBroker::start().await;
    let mut client = broker.connect().await;
    for version in versions(ApiKey::DeleteTopics) {
        let request = DeleteTopicsRequest::default();
        let request = if version < 6 {
            request.with_topic_names(vec![name("t")])
        } else {
            request.with_topics(vec![DeleteTopicState::default().with_name(Some(name("t")))])
        };
        assert_eq!(client.call(version, &request).await.responses[0].error_code, 3);
    }
    for version in versions(ApiKey::DescribeConfigs) {
        let own = DescribeConfigsResource::default()
            .with_resource_type(4)
            .with_resource_name(StrBytes::from_static_str("1"))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![own]).with_include_synonyms(true);
        let described = client.call(version, &request).await;
        assert!(described.results[0].configs.len() > 40);
    }
    for version in versions(ApiKey::DescribeCluster) {
        let described = client.call(version, &DescribeClusterRequest::default()).await;
        assert_eq!((described.error_code, described.brokers.len()), (0, 1));
    }
    for version in versions(ApiKey::InitProducerId) {
        let request = InitProducerIdRequest::default().with_transactional_id(None);
        let answered = client.call(version, &request).await;
        assert_eq!((answered.error_code, answered.producer_epoch), (0, 0));
    }
    broker.stop().await;
}

/// Neighbours of what is advertised, and counts that ask for 154 GB in four bytes.
#[tokio::test]
async fn behaviour_8_and_16_what_is_not_served_or_not_true_closes() {
    let broker = TestBroker::start().await;
    let mut bystander = broker.connect().await;
    let bare = |key: ApiKey, version: i16, body: &[u8]| {
        let mut header = vec![0, 0, 0, 0];
        header.extend_from_slice(&(key as i16).to_be_bytes());
        header.extend_from_slice(&version.to_be_bytes());
        header.extend_from_slice(&[0, 0, 0, 1, 0xff, 0xff]);
        if key.request_header_version(version) >= 2 {
            header.push(0);
        }
        header.extend_from_slice(body);
        let length = header.len() as i32 - 4;
        header[..4].copy_from_slice(&length.to_be_bytes());
        header
    };
    let requests = [
        bare(ApiKey::InitProducerId, 6, &[0; 32]),
        bare(ApiKey::CreateTopics, 1, &[0; 32]),
        bare(ApiKey::DescribeCluster, 3, &[0; 32]),
        bare(ApiKey::Metadata, 1, &i32::MAX.to_be_bytes()),
        bare(ApiKey::Metadata, 9, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        bare(ApiKey::CreateTopics, 2, &i32::MAX.to_be_bytes()),
        bare(ApiKey::DeleteTopics, 1, &i32::MAX.to_be_bytes()),
        bare(ApiKey::DescribeConfigs, 1, &i32::MAX.to_be_bytes()),
    ];
    for request in requests {
        let mut client = broker.connect().await;
        client.send_raw(&request).await;
        client.closed().await;
        let alive = bystander.call(9, &MetadataRequest::default().with_topics(None)).await;
        assert_eq!(alive.error_code, 0);
    }
    broker.stop().await;
}
