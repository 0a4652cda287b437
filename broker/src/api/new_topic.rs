//! What a topic that is to be created looks like, by request or by being asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::topic_name::{self, CONSUMER_OFFSETS, SHARE_GROUP_STATE, TRANSACTION_STATE};
use crate::broker::Broker;
use crate::metadata::image::Config;
use crate::metadata::{CreateTopicError, TopicSpec};

/// Partitions that one request may create (Kafka's `ReplicationControlManager.MAX_PARTITIONS_PER_BATCH`).
pub const PARTITIONS_PER_REQUEST_MAX: usize = 10_000;

/// Configs from a request: by name, each once, the last wins. `Err` is a name without a value.
pub fn configs<'a>(pairs: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> Result<Vec<Config>, &'a str> {
    let mut sorted: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, value) in pairs {
        sorted.insert(name, value.ok_or(name)?);
    }
    Ok(sorted.into_iter().map(|(name, value)| (Arc::from(name), Arc::from(value))).collect())
}

/// Creates those of `names` that do not exist, because a client asked for them (behaviour 21). What cannot be created
/// (its name is invalid, or taken in another spelling) is left out: whoever asks the image afterwards finds out.
pub async fn auto_create<'a>(broker: &Broker, names: impl Iterator<Item = &'a str>) {
    let image = broker.metadata.image();
    // Positive numbers, by their rows in the config table.
    let partitions = broker.config().num_partitions as u32;
    let offsets_partitions = broker.config().offsets_topic_num_partitions as u32;
    let room = PARTITIONS_PER_REQUEST_MAX / partitions as usize;
    let mut specs: BTreeMap<&str, TopicSpec> = BTreeMap::new();
    for name in names {
        if topic_name::validate(name).is_err() || image.colliding(name).is_some() {
            continue;
        }
        match name {
            CONSUMER_OFFSETS => {
                if let Err(error) = broker.metadata.ensure_internal_topic(name, offsets_partitions).await {
                    tracing::warn!(topic = name, %error, "the topic could not be created");
                }
            }
            // No coordinator of this version uses them.
            TRANSACTION_STATE | SHARE_GROUP_STATE => {}
            _ if specs.len() < room => {
                specs.insert(
                    name,
                    TopicSpec { name: name.into(), partitions, configs: Vec::new(), leaders: Vec::new() },
                );
            }
            _ => {}
        }
    }
    if specs.is_empty() {
        return;
    }
    for result in broker.metadata.create_topics(specs.into_values().collect()).await {
        match result {
            Ok(topic) => tracing::info!(topic = %topic.name, "created a topic that a client asked for"),
            // Somebody else was quicker, or it collides with another one of the request.
            Err(CreateTopicError::Rejected(_)) => {}
            Err(CreateTopicError::Metadata(error)) => {
                tracing::warn!(%error, "topics that a client asked for could not be created");
                return;
            }
        }
    }
}
