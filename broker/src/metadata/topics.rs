//! Topics are created, grown and deleted: however many a caller names, each command fits an entry of the log.

use std::sync::Arc;

use uuid::Uuid;

use super::alter::GrowRejection;
use super::apply::{Outcome, TopicRejection};
use super::command::{Command, GrownTopic, NewTopic};
use super::image::{Config, Topic};
use super::{Error, Metadata, cluster_id};

/// Bytes of topics in one command; far below what an entry takes.
const BATCH_BYTES: usize = 256 << 10;

/// A topic to be created. Its configs are validated already
/// ([`validate_topic`](crate::config::validate_topic)); by name, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: Arc<str>,
    pub partitions: u32,
    pub configs: Vec<Config>,
    /// The leader of each partition; empty: where there is least.
    pub leaders: Vec<u32>,
}

/// Why one topic was not created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateTopicError {
    #[error(transparent)]
    Rejected(#[from] TopicRejection),
    #[error(transparent)]
    Metadata(#[from] Error),
}

/// Why one topic got no more partitions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreatePartitionsError {
    #[error(transparent)]
    Rejected(#[from] GrowRejection),
    #[error(transparent)]
    Metadata(#[from] Error),
}

impl Metadata {
    /// In the order of `topics`.
    ///
    /// # Panics
    /// If a name or config was not validated and is longer than can be encoded.
    pub async fn create_topics(&self, topics: Vec<TopicSpec>) -> Vec<Result<Arc<Topic>, CreateTopicError>> {
        let by = match self.registered() {
            Ok(by) => by,
            Err(error) => return topics.iter().map(|_| Err(error.clone().into())).collect(),
        };
        let mut results = Vec::with_capacity(topics.len());
        let mut waiting = topics.into_iter().map(new_topic).peekable();
        while waiting.peek().is_some() {
            let mut batch = Vec::new();
            let mut bytes = 0;
            while let Some(topic) = waiting.next_if(|next| bytes == 0 || bytes + size(next) <= BATCH_BYTES) {
                bytes += size(&topic);
                batch.push(topic);
            }
            let count = batch.len();
            match self.propose(&Command::CreateTopics { by, topics: batch }).await {
                Ok(Outcome::Created(created)) => {
                    results.extend(created.into_iter().map(|result| result.map_err(CreateTopicError::from)));
                }
                Ok(other) => unreachable!("a creation of topics had the outcome {other:?}"),
                Err(error) => results.extend((0..count).map(|_| Err(error.clone().into()))),
            }
        }
        results
    }

    /// In the order of `topics`; `false` where there was none with this id (any more).
    pub async fn delete_topics(&self, topics: Vec<Uuid>) -> Result<Vec<bool>, Error> {
        let by = self.registered()?;
        let mut results = Vec::with_capacity(topics.len());
        for batch in topics.chunks(BATCH_BYTES / 16) {
            match self.propose(&Command::DeleteTopics { by, topics: batch.to_vec() }).await? {
                Outcome::Deleted(deleted) => results.extend(deleted),
                other => unreachable!("a deletion of topics had the outcome {other:?}"),
            }
        }
        Ok(results)
    }

    /// Gives topics more partitions. In the order of `topics`.
    pub async fn create_partitions(
        &self,
        topics: Vec<GrownTopic>,
    ) -> Vec<Result<Arc<Topic>, CreatePartitionsError>> {
        let by = match self.registered() {
            Ok(by) => by,
            Err(error) => return topics.iter().map(|_| Err(error.clone().into())).collect(),
        };
        let mut results = Vec::with_capacity(topics.len());
        let mut waiting = topics.into_iter().peekable();
        while waiting.peek().is_some() {
            let mut batch: Vec<GrownTopic> = Vec::new();
            let mut bytes = 0;
            let size = |topic: &GrownTopic| 24 + 4 * topic.leaders.len();
            while let Some(topic) = waiting.next_if(|next| bytes == 0 || bytes + size(next) <= BATCH_BYTES) {
                bytes += size(&topic);
                batch.push(topic);
            }
            let count = batch.len();
            match self.propose(&Command::CreatePartitions { by, topics: batch }).await {
                Ok(Outcome::Grown(grown)) => {
                    results
                        .extend(grown.into_iter().map(|result| result.map_err(CreatePartitionsError::from)));
                }
                Ok(other) => unreachable!("a creation of partitions had the outcome {other:?}"),
                Err(error) => results.extend((0..count).map(|_| Err(error.clone().into()))),
            }
        }
        results
    }

    /// One of the broker's own topics, created if it is not there: compacted, with `partitions` partitions.
    pub async fn ensure_internal_topic(
        &self,
        name: &str,
        partitions: u32,
    ) -> Result<Arc<Topic>, CreateTopicError> {
        if let Some(topic) = self.image().topic_named(name) {
            return Ok(topic.clone());
        }
        let configs = ["cleanup.policy", "compression.type", "segment.bytes"]
            .into_iter()
            .zip(["compact", "producer", "104857600"])
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let spec = TopicSpec { name: name.into(), partitions, configs, leaders: Vec::new() };
        match self.create_topics(vec![spec]).await.remove(0) {
            // Created by a concurrent call.
            Err(CreateTopicError::Rejected(TopicRejection::Exists(_))) => {
                let image = self.image();
                let topic = image.topic_named(name).cloned();
                topic.ok_or_else(|| Error::Conflict(format!("{name} was deleted at once")).into())
            }
            result => result,
        }
    }
}

fn new_topic(spec: TopicSpec) -> NewTopic {
    let TopicSpec { name, partitions, configs, leaders } = spec;
    NewTopic { id: cluster_id::random_uuid(), name, partitions, configs, leaders }
}

/// About what it takes in a command.
fn size(topic: &NewTopic) -> usize {
    64 + topic.name.len()
        + 4 * topic.leaders.len()
        + topic.configs.iter().map(|(name, value)| name.len() + value.len() + 8).sum::<usize>()
}
