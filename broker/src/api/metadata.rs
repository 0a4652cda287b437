//! Metadata: who leads what (behaviours 15 and 21 to 29).

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::nodes::{self, Leads};
use super::{Context, authorized, new_topic, topic_name};
use crate::broker::Broker;
use crate::metadata::{ImageRef, Topic};

/// From here on a topic may be named by its id alone.
const TOPIC_ID_VERSION: i16 = 12;

pub async fn handle(
    broker: &Broker,
    context: &Context,
    version: i16,
    request: MetadataRequest,
) -> MetadataResponse {
    // Behaviour 15: version 0 has no null, and says "all" by naming none.
    let wanted = request.topics.as_deref().filter(|topics| version > 0 || !topics.is_empty());
    let by_id_too_early = |topic: &MetadataRequestTopic| !topic.topic_id.is_nil() || topic.name.is_none();
    if version < TOPIC_ID_VERSION && wanted.unwrap_or_default().iter().any(by_id_too_early) {
        return refuse_all(wanted.unwrap_or_default());
    }
    let answer_topic_ops = request.include_topic_authorized_operations;
    // Behaviour 21. Before the answer, where Kafka creates behind its back: clients need not come again.
    if let (Some(wanted), true, true) =
        (wanted, request.allow_auto_topic_creation, broker.config().auto_create_topics_enable)
    {
        let by_name = wanted.iter().filter(|topic| topic.topic_id.is_nil());
        new_topic::auto_create(
            broker,
            by_name.filter_map(|topic| topic.name.as_ref()).map(|name| name.0.as_str()),
        )
        .await;
    }
    // Taken after everything that was created, so that it holds it.
    let image = broker.metadata.image();
    let leads = Leads::of(broker, &image);
    let mut topics = Vec::new();
    match wanted {
        None => topics.extend(image.topics().map(|topic| describe(topic, &leads, answer_topic_ops))),
        Some(wanted) => {
            let mut seen = BTreeSet::new();
            for topic in wanted {
                if seen.insert((topic.topic_id, topic.name.as_ref().map(|name| name.0.as_str()))) {
                    topics.push(answer(broker, &image, &leads, topic, answer_topic_ops));
                }
            }
        }
    }
    let cluster_ops = (8..=10).contains(&version) && request.include_cluster_authorized_operations;
    MetadataResponse::default()
        .with_brokers(brokers(broker, context, &image))
        .with_cluster_id(Some(StrBytes::from_string(broker.cluster_id.clone())))
        // Behaviour 24. Any broker takes CreateTopics and its like.
        .with_controller_id(nodes::controller(&image))
        .with_topics(topics)
        .with_cluster_authorized_operations(authorized::if_asked(cluster_ops, authorized::CLUSTER))
}

/// Behaviour 23: an id before version 12 spoils the whole request.
fn refuse_all(wanted: &[MetadataRequestTopic]) -> MetadataResponse {
    let refused = wanted
        .iter()
        .map(|topic| {
            let name = topic.name.clone().unwrap_or_default();
            topic_error(Some(name), topic.topic_id, ResponseError::InvalidRequest)
        })
        .collect();
    MetadataResponse::default().with_topics(refused).with_error_code(ResponseError::InvalidRequest.code())
}

/// Who serves, and who did until a moment ago: clients that lose a broker in the answer that names a new leader lose the leader too.
fn brokers(broker: &Broker, context: &Context, image: &ImageRef) -> Vec<MetadataResponseBroker> {
    let listed = nodes::serving(broker, context, image).chain(nodes::departed(broker, image));
    let brokers = listed.map(|node| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(node.id))
            .with_host(StrBytes::from_string(node.address.host.to_string()))
            .with_port(node.address.port.into())
            .with_rack(rack(node.rack.as_ref()))
    });
    brokers.collect()
}

/// Null unless set (behaviour 25).
pub(super) fn rack(rack: Option<&Arc<str>>) -> Option<StrBytes> {
    rack.map(|rack| StrBytes::from_string(rack.to_string()))
}

fn answer(
    broker: &Broker,
    image: &ImageRef,
    leads: &Leads<'_>,
    wanted: &MetadataRequestTopic,
    answer_ops: bool,
) -> MetadataResponseTopic {
    if !wanted.topic_id.is_nil() {
        return match image.topic(wanted.topic_id) {
            Some(topic) => describe(topic, leads, answer_ops),
            None => topic_error(None, wanted.topic_id, ResponseError::UnknownTopicId),
        };
    }
    let Some(name) = &wanted.name else {
        return topic_error(None, wanted.topic_id, ResponseError::UnknownTopicId);
    };
    if let Some(topic) = image.topic_named(&name.0) {
        return describe(topic, leads, answer_ops);
    }
    let invalid = topic_name::validate(&name.0).is_err()
        || broker.config().auto_create_topics_enable && image.colliding(&name.0).is_some();
    let error =
        if invalid { ResponseError::InvalidTopicException } else { ResponseError::UnknownTopicOrPartition };
    topic_error(Some(name.clone()), Uuid::nil(), error)
}

fn topic_error(name: Option<TopicName>, id: Uuid, error: ResponseError) -> MetadataResponseTopic {
    let internal = name.as_ref().is_some_and(|name| topic_name::is_internal(&name.0));
    MetadataResponseTopic::default()
        .with_error_code(error.code())
        .with_name(name)
        .with_topic_id(id)
        .with_is_internal(internal)
}

fn describe(topic: &Topic, leads: &Leads<'_>, answer_ops: bool) -> MetadataResponseTopic {
    let partitions = topic.partitions.iter().enumerate().map(|(index, partition)| {
        let leader = leads.leader_or_heir(topic, index);
        let replica = BrokerId(leader.unwrap_or(partition.leader) as i32);
        let described = MetadataResponsePartition::default()
            .with_partition_index(index as i32)
            .with_leader_epoch(partition.leader_epoch)
            .with_replica_nodes(vec![replica])
            .with_isr_nodes(vec![replica]);
        if leader.is_some() {
            described.with_leader_id(replica)
        } else {
            // Behaviour 27: there, though nobody leads it.
            described
                .with_error_code(ResponseError::LeaderNotAvailable.code())
                .with_leader_id(BrokerId(-1))
                .with_offline_replicas(vec![replica])
        }
    });
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_string(topic.name.to_string()))))
        .with_topic_id(topic.id)
        .with_is_internal(topic_name::is_internal(&topic.name))
        .with_partitions(partitions.collect())
        .with_topic_authorized_operations(authorized::if_asked(answer_ops, authorized::TOPIC))
}
