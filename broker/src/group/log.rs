//! What a coordinator needs from the rest of the broker: the log of its partition, and which topics there are.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use kafka_protocol::error::ResponseError;
use tokio::sync::watch;
use uuid::Uuid;

use super::batch::Batch;

/// One partition of `__consumer_offsets`, led here.
#[async_trait]
pub trait OffsetsLog: Send + Sync + Debug + 'static {
    /// Waits for room and fixes the batch's place in the log. It is durable later, in the order of the appends.
    async fn append(&self, batch: Batch) -> Result<Appended, LogError>;

    /// Whole batches that begin at `from`, about `max_bytes` of them but at least one; `None` at the end of what is
    /// durable.
    async fn read(&self, from: u64, max_bytes: usize) -> Result<Option<Chunk>, LogError>;

    /// The offset after the last durable record.
    fn end(&self) -> u64;

    /// Below this [`trim`](OffsetsLog::trim) costs little: it is uploaded.
    fn committed_end(&self) -> u64;

    /// Whether this broker still leads the partition, under the leader epoch under which this was opened.
    fn is_led(&self) -> bool;

    /// Gives up what is below `to`, durably. To be tried again after an error; the outcome may be unknown.
    async fn trim(&self, to: u64) -> Result<(), LogError>;
}

/// A batch that has its place.
pub struct Appended {
    pub base: u64,
    /// The offset after its last record.
    pub end: u64,
    /// Resolves once it is durable.
    pub durable: BoxFuture<'static, Result<(), LogError>>,
}

/// Batches that follow one another.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub batches: Vec<Bytes>,
    /// Where to read on.
    pub next: u64,
}

/// What matters of a topic here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownTopic {
    pub id: Uuid,
    pub partitions: i32,
}

/// The broker around the coordinators.
#[async_trait]
pub trait Surroundings: Send + Sync + Debug + 'static {
    /// Creates `__consumer_offsets` if it does not exist, and says how many partitions it has.
    async fn ensure_offsets_topic(&self) -> Result<i32, LogError>;

    /// `None` as long as `__consumer_offsets` does not exist.
    fn offsets_partitions(&self) -> Option<i32>;

    async fn open(&self, partition: i32) -> Result<Arc<dyn OffsetsLog>, LogError>;

    /// The leader epoch under which this broker leads the partition; `None` if it does not.
    fn led_epoch(&self, partition: i32) -> Option<i32>;

    /// Whether this broker leads the partition and is not about to hand it over.
    fn is_current(&self, partition: i32) -> bool;

    /// Whether other brokers' clocks speak against this one's ([`crate::clocks`]).
    fn clock_is_outvoted(&self) -> bool;

    /// The topic that has the name now.
    fn topic(&self, name: &str) -> Option<KnownTopic>;

    /// Changes at least whenever a topic is created or deleted, or a partition changes its leader.
    fn topics_changed(&self) -> watch::Receiver<u64>;

    /// Whether this broker may still speak for its partitions: a deposed one must not mislead (architecture,
    /// section 6). To be asked after the answer was read.
    fn is_fresh(&self) -> bool;
}

/// By what the caller does about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// This broker does not lead the partition (any more): clients look for the coordinator again.
    #[error("not the coordinator: {0}")]
    NotLeader(String),
    /// Try again later.
    #[error("the offsets partition is unavailable: {0}")]
    Unavailable(String),
}

impl LogError {
    /// As clients are told. Both are retriable in every client and every API of the group protocol.
    pub fn response(&self) -> ResponseError {
        match self {
            LogError::NotLeader(_) => ResponseError::NotCoordinator,
            LogError::Unavailable(_) => ResponseError::CoordinatorNotAvailable,
        }
    }
}
