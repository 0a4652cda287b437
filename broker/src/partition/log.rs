//! One partition that this broker leads: the shell around [`State`].
//!
//! Appends take one short lock, in which a batch gets its offset and its place in the storage engine's order; nothing
//! is awaited in it. What comes back later, in order, is durability.
//!
//! **Crash.** Opening a partition reads its newest checkpoint and replays the log behind it: not much more than
//! [`Config::checkpoint_interval_bytes`], whatever the log holds. A checkpoint is appended to the same WAL behind the
//! batches that it accounts for, so it is never durable without them.
//!
//! **The log's start** is the larger of two: the stream's, which [`retention`](super::retention) moves for many partitions
//! by one entry of the metadata log; and the newest checkpoint's, which [`delete_records`](Partition::delete_records)
//! moves for one partition by one append, even beyond what is uploaded. The stream's follows with the next pass, by
//! whole parts. What that means for a checkpoint that is lost says `open.rs`.
//!
//! **Leaving.** A partition that is being handed over to another broker takes nothing: no batch, no checkpoint. What was
//! appended before is acknowledged as always, and read. That ends as it began, or with the partition's end here
//! ([`handover`](super::handover)).
//!
//! **Cancellation.** Dropping an [`Appended`] takes nothing back.

use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;
use s3stream::{Admission, Appending, ReadError, Storage, Stream, StreamRecord};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use super::arrival::Note;
use super::batch::{self, BatchHeader};
use super::open::{self, OpenError, Surroundings};
use super::state::{Producer, Refused, State, Verdict};
use super::validate::Checked;
use super::waiters::{Registration, Wait, Waiters};
use super::{Config, checkpoint, leader_epochs, records};
use crate::config::{BrokerConfig, TopicConfig};
use crate::metadata::Metadata;
use crate::metadata::image::{PartitionInfo, Topic};
use crate::tasks::Tasks;

/// A partition, open for appends and reads.
#[derive(Debug)]
pub struct Partition {
    pub topic_id: Uuid,
    pub index: i32,
    /// Kafka's leader epoch under which this broker leads it.
    pub leader_epoch: i32,
    config: Config,
    storage: Storage,
    metadata: Arc<Metadata>,
    log: Stream,
    checkpoints: Stream,
    waiters: Arc<Waiters>,
    core: Mutex<Core>,
    topic_config: Mutex<Option<Known>>,
    /// Held while a checkpoint is made and written: a later one must not know less.
    checkpoint_turn: tokio::sync::Mutex<()>,
    replayed_bytes: u64,
    tasks: Tasks,
}

/// A topic's config, and what it was made of.
#[derive(Debug)]
struct Known {
    topic: Arc<Topic>,
    broker: Arc<BrokerConfig>,
    config: TopicConfig,
}

#[derive(Debug)]
struct Core {
    state: State,
    /// Appended since the last checkpoint.
    bytes_since_checkpoint: u64,
    /// Where the log ended when the newest checkpoint that is durable was made.
    accounted: u64,
    checkpointing: bool,
    standing: Standing,
    /// Nothing was appended yet since it was opened.
    unwritten: bool,
}

/// Whether a partition takes anything.
#[derive(Debug)]
enum Standing {
    Open,
    /// Nothing until it is decided whether it goes or stays.
    Leaving(Leaving),
    /// Another broker leads it.
    Left,
    Deleted,
}

/// A partition on its way to another broker, perhaps.
#[derive(Clone, Debug)]
pub struct Leaving {
    /// Cancelled when it is decided whether it goes or stays.
    pub decided: CancellationToken,
    /// Cancelled then, or a little earlier: when it is about to go.
    pub told: CancellationToken,
    /// Who leads next, once it is about to go.
    next: Option<u32>,
    /// Whether a client was told of that.
    heard: bool,
}

impl Leaving {
    pub(super) fn new() -> Leaving {
        let decided = CancellationToken::new();
        Leaving { told: decided.child_token(), decided, next: None, heard: false }
    }
}

/// Why a batch was not appended. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Storage(#[from] s3stream::Error),
    /// The write-ahead log has no room at this instant, although it had when it was asked: others were faster. The batch is
    /// given back, for another admission.
    #[error("{detail}")]
    NoRoom { batch: Box<Checked>, detail: String },
    /// The partition is being handed over. The batch is given back, for when it is decided whether that came about.
    #[error("the partition is on its way to another broker")]
    Leaving { batch: Box<Checked>, leaving: Leaving },
    /// Another broker leads the partition.
    #[error("the partition went to another broker")]
    Left,
    /// The topic was deleted.
    #[error("the partition was deleted")]
    Deleted,
}

/// Why records were not deleted. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DeleteRecordsError {
    #[error("offset {offset} lies beyond the high watermark, {high_watermark}")]
    OutOfRange { offset: u64, high_watermark: u64 },
    /// The new start may hold after a restart all the same.
    #[error(transparent)]
    Storage(#[from] s3stream::Error),
    /// Another broker leads the partition.
    #[error("the partition went to another broker")]
    Left,
    /// The topic was deleted.
    #[error("the partition was deleted")]
    Deleted,
}

/// A batch that has its offset.
#[derive(Debug)]
#[must_use = "it is acknowledged only once it is durable"]
pub struct Appended {
    pub base_offset: u64,
    /// Of the batch: the broker's clock where the topic says LogAppendTime.
    pub max_timestamp: i64,
    durable: Durable,
}

#[derive(Debug)]
enum Durable {
    Own(Appending),
    /// A duplicate of a batch that may still be on its way (behaviour 48).
    Earlier(oneshot::Receiver<()>),
}

impl Appended {
    /// Waits until the batch is durable.
    pub async fn durable(self) -> Result<(), s3stream::Error> {
        match self.durable {
            Durable::Own(appending) => appending.await,
            Durable::Earlier(confirmed) => {
                confirmed.await.map_err(|_| s3stream::Error::Closed("the partition"))
            }
        }
    }
}

impl Partition {
    /// Opens the streams of a partition that the metadata has under this incarnation, and rebuilds its state.
    pub(super) async fn open(
        around: &Surroundings<'_>,
        topic_id: Uuid,
        index: i32,
        info: &PartitionInfo,
        internal: bool,
        note: Option<Note>,
    ) -> Result<Partition, OpenError> {
        let Surroundings { storage, metadata, config, tasks } = *around;
        let opened = open::open(around, info, internal, note).await?;
        let core = Core {
            state: opened.state,
            bytes_since_checkpoint: opened.behind_checkpoint,
            accounted: opened.accounted,
            checkpointing: false,
            standing: Standing::Open,
            unwritten: true,
        };
        Ok(Partition {
            topic_id,
            index,
            leader_epoch: info.leader_epoch,
            config: config.clone(),
            storage: storage.clone(),
            metadata: metadata.clone(),
            log: opened.log,
            checkpoints: opened.checkpoints,
            waiters: opened.waiters,
            core: Mutex::new(core),
            topic_config: Mutex::new(None),
            checkpoint_turn: tokio::sync::Mutex::default(),
            replayed_bytes: opened.replayed,
            tasks: tasks.clone(),
        })
    }

    /// Everything below is durable and may be read; also the last stable offset, as long as there are no
    /// transactions.
    pub fn high_watermark(&self) -> u64 {
        self.log.confirmed_end()
    }

    /// The offset that the next record gets; what lies between the high watermark and it is not durable yet.
    pub fn log_end(&self) -> u64 {
        self.log.next()
    }

    /// Offsets below are gone. Only moves forward.
    pub fn log_start(&self) -> u64 {
        self.log.start()
    }

    /// Bytes of the batches at `offset` and behind it that were not uploaded at that offset's time.
    pub fn bytes_from(&self, offset: u64) -> u64 {
        self.log.cached_bytes_from(offset)
    }

    /// Everything below is in data objects.
    pub fn committed_end(&self) -> u64 {
        self.metadata.image().stream(self.log.id()).map_or(0, |stream| stream.committed_end)
    }

    /// Gives up what is below `to`, durably. Beyond [`committed_end`](Partition::committed_end) it takes an upload first.
    pub async fn trim(&self, to: u64) -> Result<(), s3stream::Error> {
        self.log.trim(to).await
    }

    /// Of the log, when it was opened.
    pub fn replayed_bytes(&self) -> u64 {
        self.replayed_bytes
    }

    /// The values that hold for the partition's topic, parsed once for each state of `topic` and `broker`.
    pub fn topic_config(&self, topic: &Arc<Topic>, broker: &Arc<BrokerConfig>) -> TopicConfig {
        let mut known = self.topic_config.lock();
        match &*known {
            Some(known) if Arc::ptr_eq(&known.topic, topic) && Arc::ptr_eq(&known.broker, broker) => {
                known.config
            }
            _ => {
                let config = TopicConfig::of(topic, broker);
                *known = Some(Known { topic: topic.clone(), broker: broker.clone(), config });
                config
            }
        }
    }

    /// Gives a batch its offsets. Its place is fixed when this returns; [`Appended::durable`] is what may be
    /// acknowledged.
    pub fn append(
        self: &Arc<Self>,
        now_ms: i64,
        checked: Checked,
        admission: Admission,
    ) -> Result<Appended, AppendError> {
        let mut core = self.core.lock();
        match &core.standing {
            Standing::Open => {}
            Standing::Leaving(leaving) => {
                let leaving = leaving.clone();
                core.state.turned_away(now_ms, &checked.header);
                return Err(AppendError::Leaving { batch: Box::new(checked), leaving });
            }
            Standing::Left => {
                // It may have stayed here, under another epoch, and not be open yet.
                core.state.turned_away(now_ms, &checked.header);
                return Err(AppendError::Left);
            }
            Standing::Deleted => return Err(AppendError::Deleted),
        }
        let Checked { header, mut bytes } = checked;
        if let Verdict::Duplicate(kept) = core.state.check(now_ms, &header)? {
            let durable = Durable::Earlier(self.waiters.confirmed_upto(kept.end_offset));
            return Ok(Appended { base_offset: kept.base_offset, max_timestamp: kept.timestamp, durable });
        }
        let base = core.state.log_end();
        let end = base + header.last_offset_delta as u64 + 1;
        batch::set_base_offset(&mut bytes, base as i64);
        batch::set_leader_epoch(&mut bytes, self.leader_epoch);
        let size = bytes.len();
        let body = bytes.freeze();
        let record = StreamRecord { base, end, max_timestamp: header.max_timestamp, body: body.clone() };
        // Announced first: it may be confirmed before `append` is back.
        self.waiters.appending(end, size);
        let appending = match self.log.append(admission, record) {
            Ok(appending) => appending,
            Err(error) => {
                self.waiters.not_appended();
                core.state.turned_away(now_ms, &header);
                drop(core);
                return Err(match error {
                    s3stream::Error::Full(detail) => {
                        // Other batches of the request may share the buffer; then this is a copy.
                        let bytes = body.try_into_mut().unwrap_or_else(|body| BytesMut::from(&body[..]));
                        AppendError::NoRoom { batch: Box::new(Checked { header, bytes }), detail }
                    }
                    error => error.into(),
                });
            }
        };
        core.state.appended(now_ms, &header);
        if std::mem::take(&mut core.unwritten) {
            // Its producers have waited all the time that it took to come here.
            self.log.hurry();
        }
        core.bytes_since_checkpoint += size as u64;
        if core.bytes_since_checkpoint >= self.config.checkpoint_interval_bytes && !core.checkpointing {
            core.checkpointing = true;
            self.tasks.spawn("a checkpoint", self.clone().checkpoint_or_warn());
        }
        Ok(Appended {
            base_offset: base,
            max_timestamp: header.max_timestamp,
            durable: Durable::Own(appending),
        })
    }

    /// Takes note that there was no room for a batch, so that none behind it is taken for its producer's first.
    pub fn turned_away(&self, now_ms: i64, checked: &Checked) {
        self.core.lock().state.turned_away(now_ms, &checked.header);
    }

    /// Appends a batch that this broker made itself: one, whole, of format 2; its checksum is not looked at. Waits for
    /// room first, and until a hand-over that is under way is decided.
    ///
    /// # Panics
    /// If it is no such batch.
    pub async fn append_own(self: &Arc<Self>, bytes: BytesMut) -> Result<Appended, AppendError> {
        let header = BatchHeader::parse(&bytes).expect("a batch of our own");
        assert_eq!(header.size, bytes.len(), "one batch at a time");
        let mut checked = Checked { header, bytes };
        loop {
            let admission = self.storage.admit(checked.bytes.len()).await?;
            match self.append(super::wall_clock_ms(), checked, admission) {
                Err(AppendError::Leaving { batch, leaving }) => {
                    checked = *batch;
                    leaving.decided.cancelled().await;
                }
                appended => return appended,
            }
        }
    }

    /// The batches from the one that holds `from` on, as far as they are in memory; see
    /// [`Stream::read_cached`]. Bodies are whole batches.
    pub fn read_cached(&self, from: u64, max_bytes: usize) -> Option<Vec<StreamRecord>> {
        self.log.read_cached(from, max_bytes, u64::MAX)
    }

    /// The batches from the one that holds `from` on: at least one if there is any below the high watermark, then
    /// as many as fit `max_bytes`. Bodies are whole batches.
    pub async fn read(&self, from: u64, max_bytes: usize) -> Result<Vec<StreamRecord>, ReadError> {
        self.log.read(from, max_bytes).await
    }

    /// The first record by offset whose timestamp is at least `timestamp` (behaviour 76).
    pub async fn find_timestamp(&self, timestamp: i64) -> Result<Option<Found>, ReadError> {
        let start = self.log_start();
        let Some(record) = self.log.find_timestamp(start, timestamp).await? else { return Ok(None) };
        let (base, end) = (record.base, record.end);
        let found = self.search(record, |found| found >= timestamp)?;
        if found.is_some() || base >= start {
            return Ok(found);
        }
        // The log begins inside this batch, and what matched lies before.
        let Some(record) = self.log.find_timestamp(end, timestamp).await? else { return Ok(None) };
        self.search(record, |found| found >= timestamp)
    }

    /// The first record with the largest timestamp; `None` if no record has one.
    pub async fn max_timestamp(&self) -> Result<Option<Found>, ReadError> {
        let Some(record) = self.log.max_timestamp().await? else { return Ok(None) };
        let largest = record.max_timestamp;
        if largest < 0 {
            return Ok(None);
        }
        self.search(record, |found| found == largest)
    }

    fn search(&self, record: StreamRecord, wanted: impl Fn(i64) -> bool) -> Result<Option<Found>, ReadError> {
        let corrupt = |detail: String| ReadError::Corrupt { object: None, offset: record.base, detail };
        let header = BatchHeader::parse(&record.body).map_err(|error| corrupt(error.to_string()))?;
        let start = self.log_start();
        let mut found = None;
        let walked = records::walk(&header, &record.body, self.config.decompressed_bytes_max, |view| {
            let offset = record.base + view.offset_delta.max(0) as u64;
            if offset >= start && wanted(view.timestamp) {
                found = Some(Found { offset, timestamp: view.timestamp, leader_epoch: header.leader_epoch });
            }
            found.is_none()
        });
        walked.map_err(|error| corrupt(error.to_string()))?;
        Ok(found)
    }

    /// Has `wait` count what is confirmed from now on.
    pub fn register(&self, wait: &Arc<Wait>) -> Registration {
        self.waiters.register(wait)
    }

    /// Fetches that wait for data now.
    pub fn fetches_waiting(&self) -> usize {
        self.waiters.waiting()
    }

    /// The leader epoch in which `offset` was written; -1 if unknown. The metadata's table of the stream's epochs is
    /// Kafka's leader epoch cache.
    pub fn epoch_of(&self, offset: u64) -> i32 {
        let image = self.metadata.image();
        image.stream(self.log.id()).map_or(-1, |stream| leader_epochs::epoch_of(&stream.epochs, offset))
    }

    /// See [`leader_epochs::end_of_epoch`].
    pub fn end_of_epoch(&self, epoch: i32, log_end: u64) -> Option<(i32, u64)> {
        let image = self.metadata.image();
        leader_epochs::end_of_epoch(&image.stream(self.log.id())?.epochs, epoch, log_end)
    }

    /// What `describe` says of each idempotent producer that has not expired.
    pub fn producers<T>(&self, now_ms: i64, describe: impl Fn(i64, &Producer) -> T) -> Vec<T> {
        let core = self.core.lock();
        core.state.active_producers(now_ms).map(|(id, producer)| describe(id, producer)).collect()
    }

    /// The metadata says that the log begins no earlier.
    pub(super) fn advance_start(&self, to: u64) {
        self.log.advance_start(to);
    }

    /// Gives memory back that expired producers took.
    pub(super) fn forget_expired_producers(&self, now_ms: i64) {
        self.core.lock().state.forget_expired(now_ms);
    }

    /// Gives up everything below `upto` (`None` for the high watermark) and returns where the log begins then, durably
    /// (behaviour 78). Once begun it comes to its end, even if the future is dropped.
    pub async fn delete_records(self: &Arc<Self>, upto: Option<u64>) -> Result<u64, DeleteRecordsError> {
        let high_watermark = self.high_watermark();
        let upto = upto.unwrap_or(high_watermark);
        if upto > high_watermark {
            return Err(DeleteRecordsError::OutOfRange { offset: upto, high_watermark });
        }
        match self.core.lock().standing {
            Standing::Open | Standing::Leaving(_) => {}
            Standing::Left => return Err(DeleteRecordsError::Left),
            Standing::Deleted => return Err(DeleteRecordsError::Deleted),
        }
        if host::planted("delete-unwritten") {
            self.log.advance_start(upto);
        } else if upto > self.log_start() {
            let partition = self.clone();
            let written = self.tasks.spawn("DeleteRecords", async move { partition.checkpoint(upto).await });
            written.await.expect("a checkpoint does not panic")?;
        }
        Ok(self.log_start())
    }

    /// The topic was deleted: no more appends, and whoever waits is woken.
    pub(super) fn close(&self) {
        self.end(Standing::Deleted);
    }

    /// Another broker leads it: the same.
    pub(super) fn close_left(&self) {
        self.end(Standing::Left);
    }

    fn end(&self, standing: Standing) {
        let before = std::mem::replace(&mut self.core.lock().standing, standing);
        self.log.close();
        self.checkpoints.close();
        self.waiters.close();
        if let Standing::Leaving(leaving) = before {
            leaving.decided.cancel();
        }
    }

    /// Takes nothing from now on, until [`stay`](Partition::stay) or [`close_left`](Partition::close_left). Waits for a
    /// checkpoint that is being written. `None` if it takes nothing anyway.
    pub(super) async fn stop_taking(&self) -> Option<Ends> {
        let _turn = self.checkpoint_turn.lock().await;
        let mut core = self.core.lock();
        if !matches!(core.standing, Standing::Open) {
            return None;
        }
        core.standing = Standing::Leaving(Leaving::new());
        Some(Ends { log: self.log.next(), checkpoints: self.checkpoints.next() })
    }

    /// Its two streams, and where they end.
    pub(super) fn ends(&self) -> [(s3stream::StreamId, u64); 2] {
        [(self.log.id(), self.log.next()), (self.checkpoints.id(), self.checkpoints.next())]
    }

    /// What it knows; to be asked when it takes nothing any more.
    pub(super) fn note(&self) -> Note {
        let core = self.core.lock();
        Note::new(core.bytes_since_checkpoint, &checkpoint::encode(&core.state, self.log_start()))
    }

    /// Bytes of the log that no checkpoint accounts for.
    pub fn bytes_since_checkpoint(&self) -> u64 {
        self.core.lock().bytes_since_checkpoint
    }

    /// It was not handed over: everything goes on. `false` if it cannot, since a client was told otherwise.
    pub(super) fn stay(&self) -> bool {
        let mut core = self.core.lock();
        if let Standing::Leaving(leaving) = &core.standing {
            if leaving.heard {
                return false;
            }
            let decided = leaving.decided.clone();
            core.standing = Standing::Open;
            drop(core);
            decided.cancel();
        }
        true
    }

    /// Takes over what `was`, which is closed, knows of producers that it turned away (P4 of [`State`]).
    pub(super) fn know_turned_away(&self, was: &Partition) {
        let turned_away = was.core.lock().state.take_turned_away();
        self.core.lock().state.know_turned_away(turned_away);
    }

    /// `next` leads in a moment: clients are told so.
    pub(super) fn tell_next(&self, next: u32) {
        let mut core = self.core.lock();
        if let Standing::Leaving(leaving) = &mut core.standing {
            leaving.next = Some(next);
            let told = leaving.told.clone();
            drop(core);
            told.cancel();
        }
    }

    /// Whether this broker still leads the partition, under the same leader epoch.
    pub fn is_led(&self) -> bool {
        let image = self.metadata.image();
        let stream = image.stream(self.log.id());
        stream.is_some_and(|stream| {
            stream.owner == self.metadata.incarnation() && stream.epoch as i32 == self.leader_epoch
        })
    }

    /// Whether what is said of the partition's present is true: it is led here, and not about to be led elsewhere.
    pub fn is_current(&self) -> bool {
        matches!(self.core.lock().standing, Standing::Open) && self.is_led()
    }

    /// Whether everything of both streams is in data objects.
    pub(super) fn is_committed(&self) -> bool {
        let image = self.metadata.image();
        [&self.log, &self.checkpoints]
            .into_iter()
            .all(|stream| image.stream(stream.id()).is_none_or(|known| known.committed_end >= stream.next()))
    }

    /// Who leads the partition and under which epoch, as clients are told then: it cannot be taken back.
    pub fn tell_leader(&self) -> Option<(u32, i32)> {
        if let Standing::Leaving(Leaving { next: Some(next), heard, .. }) = &mut self.core.lock().standing {
            *heard = true;
            return Some((*next, self.leader_epoch + 1));
        }
        let image = self.metadata.image();
        let info = *image.topic(self.topic_id)?.partitions.get(usize::try_from(self.index).ok()?)?;
        Some((image.leader(&info)?, info.leader_epoch))
    }

    /// The metadata that it was opened from.
    pub fn metadata(&self) -> &Arc<Metadata> {
        &self.metadata
    }

    async fn checkpoint_or_warn(self: Arc<Self>) {
        if let Err(error) = self.checkpoint(0).await {
            // The next one is due after as many bytes again; until then a restart replays more.
            warn!(topic = %self.topic_id, partition = self.index, %error, "no checkpoint was written");
        }
    }

    /// Whether a restart would have to replay much, or something that matters.
    pub(super) fn wants_checkpoint(&self) -> bool {
        let core = self.core.lock();
        let replayed = core.bytes_since_checkpoint;
        matches!(core.standing, Standing::Open)
            && (replayed >= open::REPLAY_BYTES as u64 || (replayed > 0 && core.state.producer_count() > 0))
    }

    /// Sees to it that a checkpoint accounts for all below `upto`: what that says of producers is not replayed any more
    /// once it is cut off, and a producer that goes on would be refused as one that skipped something.
    pub(super) async fn account_for(&self, upto: u64) -> Result<(), s3stream::Error> {
        let owes = {
            let core = self.core.lock();
            core.accounted < upto && core.state.producer_count() > 0
        };
        if owes { self.checkpoint(0).await } else { Ok(()) }
    }

    /// Writes a checkpoint of the state as of now, and waits until it is durable. From then on the log begins at
    /// `log_start`, which is at most the high watermark, unless it begins later already.
    pub(super) async fn checkpoint(&self, log_start: u64) -> Result<(), s3stream::Error> {
        let (_turn, log_start, bytes, covered, accounted) = loop {
            let turn = self.checkpoint_turn.lock().await;
            let decided = {
                let core = self.core.lock();
                match &core.standing {
                    Standing::Open => {
                        let log_start = log_start.max(self.log_start());
                        let bytes = checkpoint::encode(&core.state, log_start);
                        break (turn, log_start, bytes, core.bytes_since_checkpoint, core.state.log_end());
                    }
                    Standing::Leaving(leaving) => leaving.decided.clone(),
                    Standing::Left | Standing::Deleted => {
                        return Err(s3stream::Error::Closed("the partition"));
                    }
                }
            };
            drop(turn);
            decided.cancelled().await;
        };
        let written = open::write_checkpoint(&self.storage, &self.checkpoints, bytes).await;
        {
            let mut core = self.core.lock();
            core.checkpointing = false;
            // After a failure too: it is tried again after as many bytes, not at once.
            core.bytes_since_checkpoint -= covered;
            if written.is_ok() {
                core.accounted = accounted;
            }
        }
        written?;
        self.log.advance_start(log_start);
        Ok(())
    }
}

/// Where the two streams of a partition end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub log: u64,
    pub checkpoints: u64,
}

/// What a search by time found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub offset: u64,
    pub timestamp: i64,
    pub leader_epoch: i32,
}
