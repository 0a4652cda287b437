//! ElectLeaders (behaviour 115): the leader is always the preferred one, so no election is ever needed.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse, TopicName};

use super::resource::unknown_topic;
use super::{Context, strings};
use crate::broker::Broker;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: ElectLeadersRequest,
) -> ElectLeadersResponse {
    // Of all partitions those are left out that need no election (`ReplicationControlManager.electLeaders`).
    let mut wanted: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
    for topic in request.topic_partitions.iter().flatten() {
        wanted.entry(&topic.topic.0).or_default().extend(&topic.partitions);
    }
    let image = broker.metadata.image();
    let results = wanted.into_iter().map(|(name, partitions)| {
        let known = image.topic_named(name).map_or(0, |topic| topic.partitions.len() as i32);
        let results = partitions.into_iter().map(|partition| {
            let (error, message) = if (0..known).contains(&partition) {
                let message = "Leader election not needed for topic partition.";
                (ResponseError::ElectionNotNeeded, message.to_owned())
            } else {
                unknown_topic()
            };
            PartitionResult::default()
                .with_partition_id(partition)
                .with_error_code(error.code())
                .with_error_message(Some(strings::wire(&message)))
        });
        ReplicaElectionResult::default()
            .with_topic(TopicName(strings::wire(name)))
            .with_partition_result(results.collect())
    });
    ElectLeadersResponse::default().with_replica_election_results(results.collect())
}
