//! CreatePartitions (behaviour 108; Kafka's `ReplicationControlManager.createPartitions`).
//!
//! The new partitions can be written to at once. Keys of a topic that has grown may go elsewhere from then on, as in
//! Kafka: that is the producers' hash.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::resource::{Refused, unknown_topic};
use super::{Context, assignment, error, new_topic, topic_name};
use crate::broker::Broker;
use crate::metadata::command::GrownTopic;
use crate::metadata::{ImageRef, check_growth};

/// A topic that can grow.
struct Growth<'a> {
    wanted: &'a CreatePartitionsTopic,
    id: Uuid,
    added: usize,
}

impl Growth<'_> {
    fn command(&self) -> GrownTopic {
        let assignments = self.wanted.assignments.iter().flatten();
        // Checked to name a broker each; the first replica is the preferred leader.
        let leaders = assignments.map(|assignment| assignment.broker_ids[0].0 as u32).collect();
        GrownTopic { id: self.id, partitions: self.wanted.count as u32, leaders }
    }
}

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in &request.topics {
        *times.entry(&topic.name.0).or_default() += 1;
    }
    let image = broker.metadata.image();
    let mut results = Vec::new();
    let mut growing = Vec::new();
    for topic in &request.topics {
        match times.insert(&topic.name.0, 0) {
            // The second and later of a name: it is answered already.
            Some(0) => {}
            Some(1) => match check(&image, topic) {
                Ok(growth) => growing.push(growth),
                Err(refused) => results.push(answer(topic, Err(refused))),
            },
            _ => {
                let refused = (ResponseError::InvalidRequest, "Duplicate topic name.".to_owned());
                results.push(answer(topic, Err(refused)));
            }
        }
    }
    if growing.iter().map(|growth| growth.added).sum::<usize>() > new_topic::PARTITIONS_PER_REQUEST_MAX {
        let message = "Excessively large number of partitions per request.";
        let refused = || Err((ResponseError::PolicyViolation, message.to_owned()));
        results.extend(growing.iter().map(|growth| answer(growth.wanted, refused())));
    } else if request.validate_only {
        results.extend(growing.iter().map(|growth| answer(growth.wanted, Ok(()))));
    } else {
        let wanted = growing.iter().map(Growth::command).collect();
        let grown = new_topic::grow(broker, wanted).await;
        results.extend(growing.iter().zip(grown).map(|(growth, result)| {
            let refusal = |error| (error::of_create_partitions(&error), error.to_string());
            answer(growth.wanted, result.map(drop).map_err(refusal))
        }));
    }
    CreatePartitionsResponse::default().with_results(results)
}

fn check<'a>(image: &ImageRef, wanted: &'a CreatePartitionsTopic) -> Result<Growth<'a>, Refused> {
    let name = wanted.name.0.as_str();
    let topic = image.topic_named(name).ok_or_else(unknown_topic)?;
    if topic_name::is_internal(name) {
        // Which of its partitions a group or transaction belongs to follows from their number.
        let message = format!("Topic '{name}' is the broker's own, and its number of partitions is fixed.");
        return Err((ResponseError::InvalidTopicException, message));
    }
    let count = usize::try_from(wanted.count).unwrap_or(0);
    let added = check_growth(topic, image.partition_count(), count)
        .map_err(|rejection| (error::of_growth(&rejection), rejection.to_string()))?;
    if let Some(assignments) = &wanted.assignments {
        let refuse = |message| (ResponseError::InvalidReplicaAssignment, message);
        if assignments.len() != added {
            let given = assignments.len();
            return Err(refuse(format!(
                "Attempted to add {added} additional partition(s), but only {given} assignment(s) were specified."
            )));
        }
        let replicas = assignments.iter().map(|assignment| &assignment.broker_ids[..]);
        assignment::check(image, replicas).map_err(refuse)?;
    }
    Ok(Growth { wanted, id: topic.id, added })
}

fn answer(wanted: &CreatePartitionsTopic, result: Result<(), Refused>) -> CreatePartitionsTopicResult {
    let (code, message) = match result {
        Ok(()) => (0, None),
        Err((error, message)) => (error.code(), Some(StrBytes::from_string(message))),
    };
    CreatePartitionsTopicResult::default()
        .with_name(wanted.name.clone())
        .with_error_code(code)
        .with_error_message(message)
}
