//! The coordinators' surroundings in a broker: its metadata, and the partitions that it leads.
//!
//! **Retries.** An append that met a full write-ahead log after it was admitted is repeated a few times; anything else
//! is the coordinator's to handle, which starts over from the log.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use futures::future::FutureExt;
use s3stream::ReadError;
use tokio::sync::watch;
use wal::AckRight;

use super::batch::Batch;
use super::log::{Appended, Chunk, KnownTopic, LogError, OffsetsLog, Surroundings};
use crate::api::topic_name::CONSUMER_OFFSETS;
use crate::config::BrokerConfig;
use crate::metadata::{CreateTopicError, Error, Metadata, Topic};
use crate::partition::{AppendError, GetError, OpenError, Partition, Partitions};

/// How often an append is repeated that found no room in the write-ahead log although it was admitted.
/// No option: after these two seconds the client is told to come again.
const FULL_RETRIES_MAX: u32 = 100;
const FULL_RETRY_DELAY: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub struct BrokerSurroundings {
    pub metadata: Arc<Metadata>,
    pub partitions: Arc<Partitions>,
    pub right: Arc<AckRight>,
    pub config: Arc<BrokerConfig>,
}

impl BrokerSurroundings {
    fn offsets_topic(&self) -> Option<Arc<Topic>> {
        self.metadata.image().topic_named(CONSUMER_OFFSETS).cloned()
    }
}

#[async_trait]
impl Surroundings for BrokerSurroundings {
    async fn ensure_offsets_topic(&self) -> Result<i32, LogError> {
        let topic = match self.offsets_topic() {
            Some(topic) => topic,
            None => {
                let partitions = self.config.offsets_topic_num_partitions.max(1) as u32;
                self.metadata
                    .ensure_internal_topic(CONSUMER_OFFSETS, partitions)
                    .await
                    .map_err(of_creation)?
            }
        };
        Ok(topic.partitions.len() as i32)
    }

    fn clock_is_outvoted(&self) -> bool {
        self.metadata.skews.outvote_us()
    }

    fn offsets_partitions(&self) -> Option<i32> {
        self.offsets_topic().map(|topic| topic.partitions.len() as i32)
    }

    async fn open(&self, partition: i32) -> Result<Arc<dyn OffsetsLog>, LogError> {
        let topic =
            self.offsets_topic().ok_or_else(|| LogError::Unavailable("there is none yet".to_owned()))?;
        let partition = self.partitions.get(&topic, partition).await.map_err(of_get)?;
        Ok(Arc::new(PartitionLog(partition)))
    }

    fn led_epoch(&self, partition: i32) -> Option<i32> {
        let topic = self.offsets_topic()?;
        let info = topic.partitions.get(usize::try_from(partition).ok()?)?;
        (Some(info.leader) == self.metadata.incarnation().map(|own| own.broker)).then_some(info.leader_epoch)
    }

    fn is_current(&self, partition: i32) -> bool {
        self.offsets_topic().is_some_and(|topic| self.partitions.is_current(topic.id, partition))
    }

    fn topic(&self, name: &str) -> Option<KnownTopic> {
        let image = self.metadata.image();
        let topic = image.topic_named(name)?;
        Some(KnownTopic { id: topic.id, partitions: topic.partitions.len() as i32 })
    }

    fn topics_changed(&self) -> watch::Receiver<u64> {
        self.metadata.changed()
    }

    fn is_fresh(&self) -> bool {
        self.right.holds()
    }
}

/// A partition of `__consumer_offsets`.
#[derive(Debug)]
struct PartitionLog(Arc<Partition>);

#[async_trait]
impl OffsetsLog for PartitionLog {
    async fn append(&self, batch: Batch) -> Result<Appended, LogError> {
        let mut retries = 0;
        loop {
            // The partition patches the batch in place; this copy stays for a repetition.
            match self.0.append_own(BytesMut::from(&batch.bytes[..])).await {
                Ok(appended) => {
                    let base = appended.base_offset;
                    let durable = async { appended.durable().await.map_err(|error| of_storage(&error)) };
                    let end = base + u64::from(batch.records);
                    return Ok(Appended { base, end, durable: durable.boxed() });
                }
                Err(AppendError::NoRoom { .. }) if retries < FULL_RETRIES_MAX => {
                    retries += 1;
                    tokio::time::sleep(FULL_RETRY_DELAY).await;
                }
                Err(error) => return Err(of_append(&error)),
            }
        }
    }

    async fn read(&self, from: u64, max_bytes: usize) -> Result<Option<Chunk>, LogError> {
        let from = from.max(self.0.log_start());
        if from >= self.0.high_watermark() {
            return Ok(None);
        }
        let records = self.0.read(from, max_bytes).await.map_err(|error| of_read(&error))?;
        let Some(next) = records.last().map(|last| last.end) else {
            return Ok(None);
        };
        Ok(Some(Chunk { batches: records.into_iter().map(|record| record.body).collect(), next }))
    }

    fn end(&self) -> u64 {
        self.0.high_watermark()
    }

    fn committed_end(&self) -> u64 {
        self.0.committed_end()
    }

    fn is_led(&self) -> bool {
        self.0.is_led()
    }

    async fn trim(&self, to: u64) -> Result<(), LogError> {
        self.0.trim(to).await.map_err(|error| of_storage(&error))
    }
}

fn of_creation(error: CreateTopicError) -> LogError {
    match error {
        CreateTopicError::Metadata(Error::Fenced(reason)) => LogError::NotLeader(reason),
        CreateTopicError::Metadata(
            Error::Conflict(_)
            | Error::Refused(_)
            | Error::Unavailable(_)
            | Error::Unknown(_)
            | Error::Failed(_),
        )
        | CreateTopicError::Rejected(_) => LogError::Unavailable(error.to_string()),
    }
}

fn of_get(error: GetError) -> LogError {
    match error {
        GetError::NotLeader { .. } | GetError::Unknown => LogError::NotLeader(error.to_string()),
        GetError::Open(OpenError::Storage(error)) => of_storage(&error),
        GetError::Open(OpenError::Read(error)) => of_read(&error),
        GetError::Open(error) => LogError::Unavailable(error.to_string()),
    }
}

fn of_append(error: &AppendError) -> LogError {
    match error {
        AppendError::Storage(error) => of_storage(error),
        AppendError::NoRoom { detail, .. } => LogError::Unavailable(detail.clone()),
        AppendError::Leaving { .. } | AppendError::Left | AppendError::Deleted => {
            LogError::NotLeader(error.to_string())
        }
        AppendError::Refused(_) => unreachable!("a batch without a producer is never refused: {error}"),
    }
}

fn of_storage(error: &s3stream::Error) -> LogError {
    match error {
        s3stream::Error::Fenced(_)
        | s3stream::Error::Failed(_)
        | s3stream::Error::Closed(_)
        | s3stream::Error::NotOpen { .. } => LogError::NotLeader(error.to_string()),
        s3stream::Error::Full(_)
        | s3stream::Error::TooLarge { .. }
        | s3stream::Error::Rejected(_)
        | s3stream::Error::Unavailable(_)
        | s3stream::Error::Corrupt(_) => LogError::Unavailable(error.to_string()),
    }
}

fn of_read(error: &ReadError) -> LogError {
    match error {
        // The log's start moved meanwhile, or the topic went.
        ReadError::OutOfRange { .. } | ReadError::Unavailable(_) | ReadError::Corrupt { .. } => {
            LogError::Unavailable(error.to_string())
        }
        ReadError::Gone(_) => LogError::NotLeader(error.to_string()),
    }
}
