//! Topics and the cluster over real connections: every API of theirs, at every version that is advertised.

use crate::support::TestBroker;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::{
    ApiKey, CreateTopicsRequest, DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest,
    InitProducerIdRequest, MetadataRequest, TopicName,
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
