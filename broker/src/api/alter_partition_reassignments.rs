//! AlterPartitionReassignments (behaviour 115), as a cluster of one broker answers it: a partition is where it is, and
//! can be assigned to nothing else.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::{AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse};

use super::resource::{Refused, unknown_topic};
use super::{Context, assignment, strings};
use crate::broker::Broker;
use crate::metadata::{ImageRef, Topic};

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let image = broker.metadata.image();
    let responses = request.topics.iter().map(|topic| {
        let known = image.topic_named(&topic.name.0);
        let partitions = topic.partitions.iter().map(|wanted| {
            let answer =
                ReassignablePartitionResponse::default().with_partition_index(wanted.partition_index);
            match reassign(&image, known.map(|topic| &**topic), wanted) {
                Ok(()) => answer.with_error_message(None),
                Err((error, message)) => {
                    answer.with_error_code(error.code()).with_error_message(Some(strings::wire(&message)))
                }
            }
        });
        ReassignableTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(request.allow_replication_factor_change)
        .with_error_message(None)
        .with_responses(responses.collect())
}

fn reassign(image: &ImageRef, topic: Option<&Topic>, wanted: &ReassignablePartition) -> Result<(), Refused> {
    let partition = usize::try_from(wanted.partition_index)
        .ok()
        .and_then(|index| topic?.partitions.get(index))
        .ok_or_else(unknown_topic)?;
    let Some(replicas) = &wanted.replicas else {
        let message = "No partition reassignment is in progress.".to_owned();
        return Err((ResponseError::NoReassignmentInProgress, message));
    };
    let refuse = |message| (ResponseError::InvalidReplicaAssignment, message);
    assignment::check(image, std::iter::once(&replicas[..])).map_err(refuse)?;
    if replicas.iter().any(|replica| replica.0 != partition.leader as i32) {
        let message = format!(
            "The partition is on broker {}, whose data the store keeps; it cannot be moved.",
            partition.leader
        );
        return Err(refuse(message));
    }
    Ok(())
}
