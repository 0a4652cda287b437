//! ListPartitionReassignments (behaviour 115): partitions that are to be led by another broker than they are.

use std::collections::BTreeMap;

use kafka_protocol::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use kafka_protocol::messages::{
    BrokerId, ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, TopicName,
};

use super::{Context, strings};
use crate::broker::Broker;
use crate::metadata::Topic;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let response = ListPartitionReassignmentsResponse::default().with_error_message(None);
    let image = broker.metadata.image();
    if image.brokers_with_moving().next().is_none() {
        return response;
    }
    let topics: Vec<OngoingTopicReassignment> = match &request.topics {
        None => image.topics().filter_map(|topic| ongoing(topic, |_| true)).collect(),
        Some(wanted) => {
            let mut indexes: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
            for topic in wanted {
                indexes.entry(&topic.name.0).or_default().extend(&topic.partition_indexes);
            }
            let known = indexes.into_iter().filter_map(|(name, indexes)| {
                let topic = image.topic_named(name)?;
                ongoing(topic, |index| indexes.contains(&index))
            });
            known.collect()
        }
    };
    response.with_topics(topics)
}

fn ongoing(topic: &Topic, wanted: impl Fn(i32) -> bool) -> Option<OngoingTopicReassignment> {
    let moving = (0..).zip(topic.partitions.iter()).filter_map(|(index, partition)| {
        let target = partition.target.filter(|_| wanted(index))?;
        let (adding, removing) = (BrokerId(target as i32), BrokerId(partition.leader as i32));
        let ongoing = OngoingPartitionReassignment::default()
            .with_partition_index(index)
            .with_replicas(vec![adding, removing])
            .with_adding_replicas(vec![adding])
            .with_removing_replicas(vec![removing]);
        Some(ongoing)
    });
    let partitions: Vec<_> = moving.collect();
    (!partitions.is_empty()).then(|| {
        OngoingTopicReassignment::default()
            .with_name(TopicName(strings::wire(&topic.name)))
            .with_partitions(partitions)
    })
}
