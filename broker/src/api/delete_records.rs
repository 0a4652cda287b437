//! DeleteRecords (21), versions 0 to 2 (behaviour 78; Kafka's `ReplicaManager.deleteRecordsOnLocalLog` and
//! `Partition.deleteRecordsOnLeader`). The new start of a log is durable before it is answered.
//!
//! The request's timeout is what Kafka gives the followers; what the leader itself does is not counted, so that without
//! followers a timeout of nothing is enough. Here the leader's part is a write that takes time: it has
//! [`own_write_time_min`](crate::partition::Config::own_write_time_min) at least.

use std::time::Duration;

use futures::stream::{self, StreamExt};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_records_request::DeleteRecordsPartition;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use tokio::time::{Instant, timeout_at};

use super::{Context, error, topic_name};
use crate::broker::Broker;
use crate::metadata::ImageRef;
use crate::partition::DeleteRecordsError;

/// Means the high watermark.
const HIGH_WATERMARK: i64 = -1;
/// What is answered with an error.
const INVALID_LOW_WATERMARK: i64 = -1;

/// Partitions whose starts are made durable side by side. No option: the write-ahead log bounds what is in flight.
const DELETIONS_AT_ONCE: usize = 64;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let image = broker.metadata.image();
    let timeout = Duration::from_millis(request.timeout_ms.max(0) as u64);
    let deadline = Instant::now() + timeout.max(broker.partitions.config().own_write_time_min);
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let results = topic.partitions.iter().map(|wanted| async {
            let deleted = match timeout_at(deadline, delete(broker, &image, &topic.name, wanted)).await {
                Ok(deleted) => deleted,
                Err(_) => Err(ResponseError::RequestTimedOut),
            };
            let result = DeleteRecordsPartitionResult::default().with_partition_index(wanted.partition_index);
            match deleted {
                Ok(start) => result.with_low_watermark(start as i64),
                Err(error) => result.with_low_watermark(INVALID_LOW_WATERMARK).with_error_code(error.code()),
            }
        });
        let results: Vec<_> = results.collect();
        let partitions = stream::iter(results).buffered(DELETIONS_AT_ONCE).collect().await;
        let result = DeleteRecordsTopicResult::default().with_name(topic.name.clone());
        topics.push(result.with_partitions(partitions));
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

/// The log's start afterwards.
async fn delete(
    broker: &Broker,
    image: &ImageRef,
    name: &str,
    wanted: &DeleteRecordsPartition,
) -> Result<u64, ResponseError> {
    if topic_name::is_internal(name) {
        return Err(ResponseError::InvalidTopicException);
    }
    let topic = image.topic_named(name).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let partition = broker.partitions.get(topic, wanted.partition_index).await;
    let partition = partition.map_err(|why| error::of_get(&why))?;
    let cleanup = partition.topic_config(topic, &broker.config()).cleanup();
    if cleanup.compact && !cleanup.delete {
        return Err(ResponseError::PolicyViolation);
    }
    let upto = match wanted.offset {
        HIGH_WATERMARK => None,
        offset => Some(u64::try_from(offset).map_err(|_| ResponseError::OffsetOutOfRange)?),
    };
    // Clients take "out of range" for the truth, so only who surely leads may say it.
    if !broker.speaks_for(&partition) {
        return Err(ResponseError::NotLeaderOrFollower);
    }
    match partition.delete_records(upto).await {
        Ok(start) => Ok(start),
        Err(DeleteRecordsError::OutOfRange { .. }) => Err(ResponseError::OffsetOutOfRange),
        Err(DeleteRecordsError::Left) => Err(ResponseError::NotLeaderOrFollower),
        Err(DeleteRecordsError::Deleted) => Err(ResponseError::UnknownTopicOrPartition),
        Err(DeleteRecordsError::Storage(error)) => Err(error::of_storage(&error)),
    }
}
