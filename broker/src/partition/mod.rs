//! Partitions: offsets, idempotence, waiting fetches. The hot path.
//!
//! ```text
//!  produce ──► validate ──► Partition::append ──► State (pure): duplicate? in order? offset
//!                                │                  │ one short lock
//!                                ▼                  ▼
//!                          s3stream::Stream::append ── order is fixed; durable later ──► ack
//!                                │ confirmed(end)
//!                                ▼
//!                            Waiters ──► waiting fetches, by bytes; repeated batches, by offset
//! ```
//!
//! A partition is one stream of batches and one small stream of checkpoints. It is opened when somebody first asks for
//! it, and then stays open: an idle one costs a few hundred bytes and no task.
//!
//! What grows with time is cut: logs by [`retention`], producers by age and number, streams of checkpoints to their last
//! one. What is replayed when a partition is opened does not grow with its history.
//!
//! Reading order: [`batch`], [`records`], [`validate`], [`state`], [`checkpoint`], [`leader_epochs`], [`waiters`], [`log`],
//! this file, [`retention`].

pub mod arrival;
pub mod batch;
pub mod checkpoint;
pub mod codec;
mod fallen;
pub mod handover;
pub mod leader_epochs;
pub mod log;
#[cfg(test)]
mod nodes;
mod open;
pub mod recompress;
pub mod records;
pub mod retention;
pub mod state;
#[cfg(test)]
pub(crate) mod testing;
pub mod validate;
pub mod waiters;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::StreamExt;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use s3stream::Storage;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use uuid::Uuid;

pub use log::{AppendError, Appended, DeleteRecordsError, Found, Leaving, Partition};
pub use open::OpenError;
pub use state::Limits;

use open::Surroundings;

use crate::api::topic_name;
use crate::metadata::image::{Image, PartitionInfo, Topic};
use crate::metadata::{ImageRef, Metadata};
use crate::tasks::Tasks;

/// Why a partition cannot be opened is logged at most this often for each.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Checkpoints that are made and written side by side at shutdown: each may take two megabytes.
const CHECKPOINTS_AT_ONCE: usize = 64;

/// Milliseconds since the epoch.
pub fn wall_clock_ms() -> i64 {
    host::clock::wall_ms()
}

/// Settings of all partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Producers kept for each partition, and for how long.
    pub limits: Limits,
    /// A checkpoint is written after this many bytes of log, and so about as many are replayed at most when a partition
    /// is opened. Default 16 MiB.
    pub checkpoint_interval_bytes: u64,
    /// The records of one batch when decompressed, bytes: a bound on work, not on memory. Default 256 MiB.
    pub decompressed_bytes_max: u64,
    /// DeleteRecords waits so long at least until its own write is durable, however little time the request gives it.
    /// Default 5 s.
    pub own_write_time_min: Duration,
    /// Opens partitions whose newest checkpoint is lost, with all the records that are there. Default no.
    pub accept_lost_checkpoints: bool,
    pub retention: retention::Limits,
    pub handover: handover::Limits,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            limits: Limits::default(),
            checkpoint_interval_bytes: 16 << 20,
            decompressed_bytes_max: 256 << 20,
            own_write_time_min: Duration::from_secs(5),
            accept_lost_checkpoints: false,
            retention: retention::Limits::default(),
            handover: handover::Limits::default(),
        }
    }
}

/// Why there is no partition to work with.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// The topic has no such partition (any more).
    #[error("no such partition")]
    Unknown,
    /// This broker does not lead it, but perhaps that one, under this epoch. A dead broker's partition has no leader: a client that
    /// was told of the dead one again would go back there.
    #[error("{}", match leader { Some((leader, _)) => format!("broker {leader} leads the partition"), None => "nobody leads the partition now".to_owned() })]
    NotLeader { leader: Option<(u32, i32)> },
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// A partition that is open, or that somebody wanted open.
#[derive(Debug, Default)]
struct Slot {
    partition: OnceLock<Arc<Partition>>,
    /// Held while the partition is being opened; and, of one that is not open, while it is being handed over.
    gate: Arc<tokio::sync::Mutex<()>>,
    /// When the log was last told why it cannot be opened.
    reported: Mutex<Option<Instant>>,
}

impl Slot {
    /// Clients ask again and again, and are told no more than a number.
    fn report(&self, topic: &Topic, index: i32, error: &OpenError) {
        let mut reported = self.reported.lock();
        if reported.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL) {
            *reported = Some(Instant::now());
            error!(topic = %topic.name, partition = index, %error, "a partition cannot be opened");
        }
    }
}

/// The partitions that this broker leads and has open.
#[derive(Debug)]
pub struct Partitions {
    config: Config,
    broker: u32,
    storage: Storage,
    metadata: Arc<Metadata>,
    /// No peer chooses what these hash to: topic ids are this cluster's, and indices those that the topic has.
    open: Mutex<FxHashMap<(Uuid, i32), Arc<Slot>>>,
    pub(crate) tasks: Tasks,
    closing: CancellationToken,
    notes: arrival::Notes,
    /// The entry up to which it was looked for partitions that arrived.
    looked_upto: watch::Sender<u64>,
    /// Partitions that stay although producers were told otherwise, until they are opened anew (G5 of [`handover`]).
    kept: handover::KeptHere,
}

impl Partitions {
    /// For the broker with the id `broker`. Must be called inside a tokio runtime.
    pub fn start(config: Config, broker: u32, storage: Storage, metadata: Arc<Metadata>) -> Arc<Partitions> {
        let partitions = Arc::new(Partitions {
            config,
            broker,
            storage,
            metadata,
            open: Mutex::default(),
            tasks: Tasks::default(),
            closing: CancellationToken::new(),
            notes: arrival::Notes::default(),
            looked_upto: watch::Sender::new(0),
            kept: handover::KeptHere::default(),
        });
        partitions.tasks.keep("the closing of partitions that went", partitions.clone().close_deleted());
        partitions.tasks.keep("the opening of partitions that arrive", partitions.clone().open_arriving());
        partitions
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The partition `index` of `topic`, opened if need be.
    pub async fn get(&self, topic: &Topic, index: i32) -> Result<Arc<Partition>, GetError> {
        let info = self.led(topic, index)?;
        let slot = self.open.lock().entry((topic.id, index)).or_default().clone();
        match slot.partition.get() {
            Some(partition) if partition.leader_epoch >= info.leader_epoch => return Ok(partition.clone()),
            // It left and came back, and who closes what has left has not come to it.
            Some(_) => self.forget_left(topic.id, index, &slot),
            None => {}
        }
        // Elsewhere: opening takes kilobytes of state, which every request would carry along for each partition.
        Box::pin(self.open(topic, index)).await
    }

    /// The same; but of what another broker leads, and may be handing over at this moment, or led, and left to this one, not before
    /// that has come or is not expected any more: clients are told who leads next a little before that one knows. It is not waited for beyond
    /// `until`: a broker that says that it is handing something over, and then nothing more, must not hold a request up, and all
    /// behind it on its connection.
    pub async fn get_expected(
        &self,
        topic: &Topic,
        index: i32,
        until: Instant,
    ) -> Result<Arc<Partition>, GetError> {
        let got = self.get(topic, index).await;
        match got {
            Err(GetError::NotLeader { .. }) => Box::pin(self.get_when_expected(topic.id, index, until)).await,
            got => got,
        }
    }

    async fn get_when_expected(
        &self,
        topic: Uuid,
        index: i32,
        until: Instant,
    ) -> Result<Arc<Partition>, GetError> {
        let mut awaited = None;
        loop {
            let image = self.metadata.image();
            let got = self.get(image.topic(topic).ok_or(GetError::Unknown)?, index).await;
            if !matches!(got, Err(GetError::NotLeader { .. })) {
                return got;
            }
            // Only this: what has come is opened, however long that takes.
            let expected = match self.inherited_until(&image, topic, index) {
                Some(said_until) => {
                    let came = timeout_at(said_until.min(until.into()), self.metadata.beyond(&image)).await;
                    // Then as if it had never been said: the entry may be known to be there by now, and be waited for by who
                    // comes behind.
                    came.unwrap_or(said_until < until.into())
                }
                None => {
                    let expected = self.metadata.expected(&image, &mut awaited);
                    timeout_at(until.into(), expected).await.unwrap_or(false)
                }
            };
            if !expected {
                return got;
            }
        }
    }

    /// Until when clients are told that this broker will lead a partition, whose leader is dead (`metadata::heirs`).
    pub fn inherited_until(&self, image: &ImageRef, topic: Uuid, index: i32) -> Option<tokio::time::Instant> {
        let index = usize::try_from(index).ok()?;
        let owner = image.owner(image.topic(topic)?.partitions.get(index)?)?;
        let said_for = self.config.handover.expected_wait;
        let heirs = (!image.is_live(owner)).then(|| self.metadata.heirs(image, said_for))?;
        heirs.of(owner, topic, index).filter(|(heir, _)| *heir == self.broker).map(|(_, until)| until)
    }

    /// The partition, if this broker leads it.
    fn led<'a>(&self, topic: &'a Topic, index: i32) -> Result<&'a PartitionInfo, GetError> {
        let info =
            usize::try_from(index).ok().and_then(|at| topic.partitions.get(at)).ok_or(GetError::Unknown)?;
        match info.leader == self.broker {
            true => Ok(info),
            false => Err(self.not_leader(info)),
        }
    }

    fn not_leader(&self, info: &PartitionInfo) -> GetError {
        let leads = self.metadata.image().leader(info) == Some(info.leader);
        GetError::NotLeader { leader: leads.then_some((info.leader, info.leader_epoch)) }
    }

    async fn open(&self, topic: &Topic, index: i32) -> Result<Arc<Partition>, GetError> {
        self.looked_for_arrivals_of(self.metadata.image().number()).await;
        let (slot, gate) = loop {
            let slot = self.open.lock().entry((topic.id, index)).or_default().clone();
            let gate = slot.gate.clone().lock_owned().await;
            if let Some(partition) = slot.partition.get() {
                return Ok(partition.clone());
            }
            // It may have been handed over, and forgotten, during the wait.
            if self.holds(topic.id, index, &slot) {
                break (slot, gate);
            }
        };
        self.open_gated(topic, index, &slot, gate, None).await
    }

    /// `note` is what the last leader knew, perhaps.
    async fn open_gated(
        &self,
        topic: &Topic,
        index: i32,
        slot: &Arc<Slot>,
        _gate: OwnedMutexGuard<()>,
        note: Option<arrival::Note>,
    ) -> Result<Arc<Partition>, GetError> {
        // The caller's view may be older than what it has waited for.
        let image = self.metadata.image();
        let now = image.topic(topic.id).ok_or(GetError::Unknown).and_then(|topic| self.led(topic, index));
        let info = now.inspect_err(|_| self.forget_left(topic.id, index, slot))?;
        if image.owner(info) != self.metadata.incarnation() {
            // An earlier life of this broker led it, and what that one left is not recovered yet.
            self.forget_left(topic.id, index, slot);
            return Err(self.not_leader(info));
        }
        let (storage, metadata) = (&self.storage, &self.metadata);
        let around = Surroundings { storage, metadata, config: &self.config, tasks: &self.tasks };
        let internal = topic_name::is_internal(&topic.name);
        let opened = Partition::open(&around, topic.id, index, info, internal, note).await;
        let opened = opened.inspect(|partition| self.kept.take_over(partition));
        match opened.map(|partition| slot.partition.get_or_init(|| Arc::new(partition))) {
            Ok(partition) => {
                if !self.holds(topic.id, index, slot) {
                    // It left, or its topic went, while it was opened: nobody would find it any more.
                    partition.close_left();
                    return Err(self.not_leader(info));
                }
                if self.metadata.image().topic(topic.id).is_none() {
                    // Deleted meanwhile, perhaps after the last look for deleted ones.
                    self.forget(topic.id, index);
                    partition.close();
                    return Err(GetError::Unknown);
                }
                Ok(partition.clone())
            }
            Err(error) => {
                if self.metadata.image().topic(topic.id).is_none() {
                    self.forget(topic.id, index);
                    return Err(GetError::Unknown);
                }
                slot.report(topic, index, &error);
                Err(error.into())
            }
        }
    }

    /// Whether the partition is open here, and what is said of its present is true ([`Partition::is_current`]).
    pub fn is_current(&self, topic: Uuid, index: i32) -> bool {
        self.opened(topic, index).is_some_and(|partition| partition.is_current())
    }

    /// The partition, if it is open.
    fn opened(&self, topic: Uuid, index: i32) -> Option<Arc<Partition>> {
        self.open.lock().get(&(topic, index))?.partition.get().cloned()
    }

    /// Bytes of the partition `index` of `topic`: of the objects that `image` names, and of what is not uploaded yet.
    pub fn size_bytes(&self, image: &Image, topic: &Topic, index: i32) -> u64 {
        let info = usize::try_from(index).ok().and_then(|at| topic.partitions.get(at));
        let Some(stream) = info.and_then(|info| image.stream(info.log)) else { return 0 };
        let slot = self.open.lock().get(&(topic.id, index)).cloned();
        // One that nobody asked for has nothing that is not uploaded: recovery saw to that.
        let open = slot.as_ref().and_then(|slot| slot.partition.get());
        stream.bytes() + open.map_or(0, |partition| partition.bytes_from(stream.committed_end))
    }

    fn forget(&self, topic: Uuid, index: i32) {
        let slot = self.open.lock().remove(&(topic, index));
        if let Some(partition) = slot.as_ref().and_then(|slot| slot.partition.get()) {
            partition.close();
        }
    }

    /// Whether this slot is the one that everybody finds.
    fn holds(&self, topic: Uuid, index: i32, slot: &Arc<Slot>) -> bool {
        self.open.lock().get(&(topic, index)).is_some_and(|now| Arc::ptr_eq(now, slot))
    }

    /// Closes what is not led here any more. Only this slot: there may be a newer one.
    fn forget_left(&self, topic: Uuid, index: i32, slot: &Arc<Slot>) {
        let mut open = self.open.lock();
        if open.get(&(topic, index)).is_some_and(|now| Arc::ptr_eq(now, slot)) {
            open.remove(&(topic, index));
        }
        drop(open);
        if let Some(partition) = slot.partition.get() {
            partition.close_left();
        }
    }

    /// Closes the partitions of topics that are deleted, and what other brokers lead, as long as the broker runs.
    async fn close_deleted(self: Arc<Self>) {
        let mut changed = self.metadata.changed();
        loop {
            tokio::select! {
                () = self.closing.cancelled() => return,
                change = changed.changed() => if change.is_err() {
                    // The metadata ended, and says so itself.
                    return self.closing.cancelled().await;
                },
            }
            self.close_gone();
            for (topic, index, slot) in self.left() {
                self.forget_left(topic, index, &slot);
            }
        }
    }

    /// Closes the partitions of topics that are deleted.
    fn close_gone(&self) {
        let open = self.open.lock();
        // As new as every view by which something was opened: those are older than the lock.
        let image = self.metadata.image();
        let gone: Vec<_> = open.keys().filter(|(topic, _)| image.topic(*topic).is_none()).copied().collect();
        drop(open);
        for (topic, index) in gone {
            self.forget(topic, index);
        }
    }

    /// What is open here although another broker leads it by now, or this one again since.
    fn left(&self) -> Vec<(Uuid, i32, Arc<Slot>)> {
        let open = self.open.lock();
        // As above.
        let image = self.metadata.image();
        let slots = open.iter().filter_map(|((topic, index), slot)| {
            let info = usize::try_from(*index).ok().and_then(|at| image.topic(*topic)?.partitions.get(at))?;
            let epoch = slot.partition.get().map_or(info.leader_epoch, |partition| partition.leader_epoch);
            (info.leader != self.broker || epoch < info.leader_epoch).then(|| (*topic, *index, slot.clone()))
        });
        slots.collect()
    }

    /// Cancelled when they are shut down.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Resolves once a task behind the partitions has met a broken invariant: the process must end. Otherwise never.
    pub async fn failed(&self) -> String {
        self.tasks.failed().await
    }

    /// The first broken invariant so far.
    pub fn failure(&self) -> Option<String> {
        self.tasks.failure()
    }

    /// Writes the checkpoints that a quick restart wants. To be called when no requests are served any more, before the
    /// storage engine is shut down.
    pub async fn shutdown(&self) {
        self.tasks.close();
        self.closing.cancel();
        self.tasks.wait().await;
        let open: Vec<_> =
            self.open.lock().values().filter_map(|slot| slot.partition.get().cloned()).collect();
        let wanted = open.iter().filter(|partition| partition.wants_checkpoint());
        // Side by side: one after the other, a thousand would be as many PUTs of an object WAL.
        let checkpoint = async |partition: &Arc<Partition>| {
            if let Err(error) = partition.checkpoint(0).await {
                warn!(topic = %partition.topic_id, partition = partition.index, %error, "no checkpoint at shutdown");
            }
        };
        futures::stream::iter(wanted).for_each_concurrent(CHECKPOINTS_AT_ONCE, checkpoint).await;
    }
}
