//! DeleteTopics (behaviour 107; Kafka's `ControllerApis.deleteTopics`).
//!
//! The broker's own topics are not deleted: with them the offsets of every group would be gone for good. (Kafka's
//! controller deletes them like any other; its own tool refuses to in ZooKeeper's days.) INVALID_TOPIC_EXCEPTION is what
//! Produce, DeleteRecords and CreatePartitions say of them, too, and it is known in every version.

use std::collections::BTreeSet;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::topic_name::is_internal;
use super::{Context, error};
use crate::broker::Broker;
use crate::metadata::ImageRef;

/// From here on topics may be named by id.
const TOPIC_ID_VERSION: i16 = 6;
/// From here on clients know TOPIC_DELETION_DISABLED.
const DELETION_DISABLED_VERSION: i16 = 3;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    version: i16,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let wanted = if version >= TOPIC_ID_VERSION {
        request.topics
    } else {
        let by_name = |name| DeleteTopicState::default().with_name(Some(name));
        request.topic_names.into_iter().map(by_name).collect()
    };
    if !broker.config().delete_topic_enable {
        let error = if version < DELETION_DISABLED_VERSION {
            ResponseError::InvalidRequest
        } else {
            ResponseError::TopicDeletionDisabled
        };
        let refused =
            wanted.iter().map(|topic| failed(topic, error, "Topic deletion is disabled.")).collect();
        return DeleteTopicsResponse::default().with_responses(refused);
    }
    let image = broker.metadata.image();
    let mut results = Vec::new();
    let mut found: Vec<(DeleteTopicState, Uuid)> = Vec::new();
    let repeated = repeated(&wanted, &image);
    for topic in wanted {
        match resolve(&topic, &image) {
            Ok(id) if image.topic(id).is_some_and(|known| is_internal(&known.name)) => {
                results.push(failed(&topic, ResponseError::InvalidTopicException, INTERNAL));
            }
            Ok(id) if repeated.contains(&id) => {
                results.push(failed(&topic, ResponseError::InvalidRequest, "Duplicate topic."));
            }
            Ok(id) => found.push((topic, id)),
            Err((error, message)) => results.push(failed(&topic, error, message)),
        }
    }
    let ids = found.iter().map(|(_, id)| *id).collect();
    match broker.metadata.delete_topics(ids).await {
        Ok(deleted) => {
            for ((topic, id), deleted) in found.iter().zip(deleted) {
                results.push(if deleted { success(&image, *id) } else { gone(topic) });
            }
        }
        Err(error) => {
            let code = error::of_metadata(&error);
            results.extend(found.iter().map(|(topic, _)| failed(topic, code, &error.to_string())));
        }
    }
    DeleteTopicsResponse::default().with_responses(results)
}

/// Topics that are meant more than once, by name, by id or by both.
fn repeated(wanted: &[DeleteTopicState], image: &ImageRef) -> BTreeSet<Uuid> {
    let mut once = BTreeSet::new();
    wanted.iter().filter_map(|topic| resolve(topic, image).ok()).filter(|id| !once.insert(*id)).collect()
}

fn resolve(topic: &DeleteTopicState, image: &ImageRef) -> Result<Uuid, (ResponseError, &'static str)> {
    match &topic.name {
        Some(_) if !topic.topic_id.is_nil() => {
            Err((ResponseError::InvalidRequest, "You may not specify both topic name and topic id."))
        }
        Some(name) => image.topic_named(&name.0).map(|known| known.id).ok_or(UNKNOWN_NAME),
        None if topic.topic_id.is_nil() => {
            Err((ResponseError::InvalidRequest, "Neither topic name nor id were specified."))
        }
        None => image.topic(topic.topic_id).map(|known| known.id).ok_or(UNKNOWN_ID),
    }
}

const INTERNAL: &str = "The topic is the broker's own and cannot be deleted: what groups have committed is in it. DeleteGroups deletes groups.";
const UNKNOWN_NAME: (ResponseError, &str) =
    (ResponseError::UnknownTopicOrPartition, "This server does not host this topic-partition.");
const UNKNOWN_ID: (ResponseError, &str) =
    (ResponseError::UnknownTopicId, "This server does not host this topic ID.");

/// Somebody else was quicker.
fn gone(topic: &DeleteTopicState) -> DeletableTopicResult {
    let (error, message) = if topic.name.is_some() { UNKNOWN_NAME } else { UNKNOWN_ID };
    failed(topic, error, message)
}

fn failed(topic: &DeleteTopicState, error: ResponseError, message: &str) -> DeletableTopicResult {
    DeletableTopicResult::default()
        .with_name(topic.name.clone())
        .with_topic_id(topic.topic_id)
        .with_error_code(error.code())
        .with_error_message(Some(StrBytes::from_string(message.to_owned())))
}

fn success(image: &ImageRef, id: Uuid) -> DeletableTopicResult {
    let name = image.topic(id).map(|topic| TopicName(StrBytes::from_string(topic.name.to_string())));
    DeletableTopicResult::default().with_name(name).with_topic_id(id).with_error_message(None)
}
