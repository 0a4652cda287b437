//! AlterPartitionReassignments (behaviour 115). The store keeps the copies, so that a replica is a broker that could lead; a
//! partition is led by the first one that is named. The request is answered once that is said in the metadata, as in Kafka;
//! the leader hands the partition over at once, without a copy, and what is under way says ListPartitionReassignments.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::{AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse};

use super::resource::{Refused, unknown_topic};
use super::{Context, assignment, error, strings};
use crate::broker::Broker;
use crate::metadata::command::Reassigned;
use crate::metadata::{ImageRef, MoveRejection, Topic};

const NOT_MOVING: &str = "No partition reassignment is in progress.";

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let image = broker.metadata.image();
    let mut moves = Vec::new();
    let checked: Vec<Vec<Result<(), Refused>>> = request
        .topics
        .iter()
        .map(|topic| {
            let known = image.topic_named(&topic.name.0);
            let check = |wanted| match check(&image, known.map(|topic| &**topic), wanted) {
                Ok(reassigned) => {
                    moves.push(reassigned);
                    Ok(())
                }
                Err(refused) => Err(refused),
            };
            topic.partitions.iter().map(check).collect()
        })
        .collect();
    let moved = if moves.is_empty() { Ok(Vec::new()) } else { broker.metadata.reassign(moves).await };
    let response = AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(request.allow_replication_factor_change)
        .with_error_message(None);
    let mut moved = match moved {
        Ok(moved) => moved.into_iter(),
        Err(why) => {
            let message = strings::wire(&why.to_string());
            return response
                .with_error_code(error::of_metadata(&why).code())
                .with_error_message(Some(message));
        }
    };
    let responses = request.topics.iter().zip(checked).map(|(topic, checked)| {
        let partitions = topic.partitions.iter().zip(checked).map(|(wanted, checked)| {
            let answer =
                ReassignablePartitionResponse::default().with_partition_index(wanted.partition_index);
            let mut moved = || moved.next().expect("an answer for each").map_err(refusal);
            match checked.and_then(|()| moved()) {
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
    response.with_responses(responses.collect())
}

fn check(
    image: &ImageRef,
    topic: Option<&Topic>,
    wanted: &ReassignablePartition,
) -> Result<Reassigned, Refused> {
    let topic = topic.ok_or_else(unknown_topic)?;
    let index = u32::try_from(wanted.partition_index).map_err(|_| unknown_topic())?;
    let partition = topic.partitions.get(index as usize).ok_or_else(unknown_topic)?;
    let target = match &wanted.replicas {
        None if partition.target.is_none() => {
            return Err((ResponseError::NoReassignmentInProgress, NOT_MOVING.to_owned()));
        }
        None => None,
        Some(replicas) => {
            let refuse = |message| (ResponseError::InvalidReplicaAssignment, message);
            assignment::check(image, std::iter::once(&replicas[..])).map_err(refuse)?;
            Some(replicas[0].0 as u32)
        }
    };
    Ok(Reassigned { topic: topic.id, partition: index, target })
}

fn refusal(rejection: MoveRejection) -> Refused {
    match rejection {
        MoveRejection::Gone => unknown_topic(),
        MoveRejection::NotMoving => (ResponseError::NoReassignmentInProgress, NOT_MOVING.to_owned()),
        MoveRejection::NoReceiver(_)
        | MoveRejection::NotOwner(_)
        | MoveRejection::OtherEpoch(_)
        | MoveRejection::NotCommitted { .. } => {
            (ResponseError::InvalidReplicaAssignment, rejection.to_string())
        }
    }
}
