//! ElectLeaders (behaviour 115): whoever leads is the preferred one, so no election is ever needed; and what nobody leads is
//! given to somebody as soon as its write-ahead log is recovered, which no request can hasten.

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
        let topic = image.topic_named(name);
        let results = partitions.into_iter().map(|partition| {
            let at = usize::try_from(partition).ok();
            let (error, message) = match at.and_then(|at| topic?.partitions.get(at)) {
                Some(info) if image.leader(info).is_some() => {
                    let message = "Leader election not needed for topic partition.";
                    (ResponseError::ElectionNotNeeded, message.to_owned())
                }
                Some(_) => {
                    let message = "The partition is being recovered, and gets a leader then.";
                    (ResponseError::EligibleLeadersNotAvailable, message.to_owned())
                }
                None => unknown_topic(),
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
