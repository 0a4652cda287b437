//! The engine of one incarnation: admission, the set of streams, and the life of the tasks behind them.
//!
//! ```text
//!   admit ──► Admission ──► Stream::append ──► [ledger: order, tail, block, ack queue] ──► wal
//!                                                    ack pump (ack) ◄── durable, in order ──┘
//!                                                        │ confirms, calls listeners, completes appends
//!                                                        ▼
//!                                                    uploader (upload): sealed and durable blocks ──► objects ──► commit ──► trim
//!                                                    compactor (compaction): many small parts ──► few large ones ──► swap
//! ```
//!
//! **Locks.** The ledger is one short critical section that fixes the order of appends across all streams; a
//! stream's state has a lock of its own, taken inside the ledger's or alone. Neither is held across an await, a
//! listener, or the completion of a future.
//!
//! **Crash and cancellation.** Dropping every handle stops the tasks where they stand; what was confirmed is in the WAL
//! or in committed objects (S2). Only [`Storage::shutdown`] leaves an empty WAL behind.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use wal::{Incarnation, Wal};

use crate::ack::{self, Pending};
use crate::block_cache::BlockCache;
use crate::budget::{Asked, Budget, Granted};
use crate::counters::Counters;
use crate::log_cache::{BlockId, Blocks, charge_of};
use crate::record::META_BYTES;
use crate::stream::{Counted, Shared, Stream, Traffic};
use crate::{Config, Error, StreamId, StreamMetadata, compaction};

/// What one turn of [`Storage::admit_run`] takes of the log cache: the others are to have theirs. No option: a turn is
/// bounded by the WAL's largest record as well.
const RUN_CACHE_SHARE: usize = 4;

/// How old a block is at least that is uploaded because the WAL has many slots, however fast they come. No option: each upload is an
/// entry in the metadata log, which all brokers share.
const LONG_WAL_UPLOAD_INTERVAL_MIN: Duration = Duration::from_secs(20);

/// Is told how far a stream is confirmed.
pub trait Listener: Send + Sync {
    /// Everything below `end` is durable and readable. Called in order, from the one task that acknowledges every
    /// append: it must not block, and it must not call back into the engine with anything that waits.
    fn confirmed(&self, end: u64);
}

/// One bucket, as each part of the engine reaches it: so that whoever hands it out can tell who asks.
#[derive(Clone, Debug)]
pub struct Stores {
    pub upload: Arc<dyn ObjectStore>,
    pub compaction: Arc<dyn ObjectStore>,
    /// For the block cache.
    pub read: Arc<dyn ObjectStore>,
}

/// Where nobody asks who asks.
impl From<Arc<dyn ObjectStore>> for Stores {
    fn from(store: Arc<dyn ObjectStore>) -> Stores {
        Stores { upload: store.clone(), compaction: store.clone(), read: store }
    }
}

/// The storage engine of one incarnation. A cheap handle.
#[derive(Clone, Debug)]
pub struct Storage {
    pub(crate) inner: Arc<Inner>,
    /// Stops the tasks with the last handle.
    _stop: Arc<DropGuard>,
}

/// What the handles and the tasks share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub config: Config,
    pub owner: Incarnation,
    pub stores: Stores,
    pub metadata: Arc<dyn StreamMetadata>,
    pub wal: Arc<dyn Wal>,
    wal_record_bytes_max: usize,
    pub block_cache: BlockCache,
    pub ledger: Mutex<Ledger>,
    /// Something was put into the ack queue.
    pub appended: Notify,
    /// A block may have become uploadable.
    pub upload_wanted: Notify,
    /// Something was committed, trimmed or opened: there may be something to compact.
    pub compaction_wanted: Notify,
    /// To which streams. Bounded by how many there are.
    pub compaction_dirty: Mutex<BTreeSet<StreamId>>,
    /// All blocks with an id below are committed, and the WAL was told so.
    pub committed: watch::Sender<u64>,
    /// Requests that wait for the WAL to have room, and their bytes.
    wal_waiters: AtomicUsize,
    wal_waiting_bytes: AtomicU64,
    pub counters: Counters,
    pub compaction: compaction::Counts,
    pub bytes_uploaded: AtomicU64,
    /// Of all streams, those that are gone included.
    pub traffic: Counted,
    failure: watch::Sender<Option<Error>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// Everything that is ordered across streams.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub failure: Option<Error>,
    pub stopping: bool,
    pub budget: Budget<Admission>,
    pub blocks: Blocks,
    /// Appends that the WAL has not yet confirmed, in its order. Bounded by the budget.
    pub pending: VecDeque<Pending>,
    /// Open streams, and closed ones that still have cached records.
    pub streams: HashMap<StreamId, Arc<Shared>>,
}

/// Room for an append, given before its order is fixed. Gives back what was not used.
#[derive(Debug)]
pub struct Admission {
    inner: Arc<Inner>,
    charge: usize,
}

impl Admission {
    /// Carves out the admission of one record with a body of `bytes`; `None` if less than that is left.
    pub fn split(&mut self, bytes: usize) -> Option<Admission> {
        let charge = charge_of(bytes);
        self.charge = self.charge.checked_sub(charge)?;
        Some(Admission { inner: self.inner.clone(), charge })
    }

    /// Moves `charge` into the log cache, which gives it back when it evicts.
    pub(crate) fn take(&mut self, charge: usize) {
        assert!(charge <= self.charge, "an append of {charge} bytes was admitted with {}", self.charge);
        self.charge -= charge;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.charge > 0 {
            self.inner.ledger.lock().budget.release(self.charge);
            self.inner.settle();
        }
    }
}

/// What the engine holds, for metrics and tests.
#[derive(Clone, Debug)]
pub struct Status {
    /// Of `log_cache_bytes`: records and unused admissions, with overhead.
    pub cache_used_bytes: usize,
    pub cache_limit_bytes: usize,
    /// Of those, records that are not in committed objects yet.
    pub uncommitted_bytes: usize,
    pub cache_blocks: usize,
    /// Appends that the WAL has not confirmed yet.
    pub appends_pending: usize,
    /// Requests that wait for room in the log cache or in the WAL.
    pub admissions_waiting: usize,
    pub streams: usize,
    /// Bodies uploaded and committed since the start.
    pub bytes_uploaded: u64,
    /// Of all streams, those that are gone included.
    pub traffic: Traffic,
    pub compaction: compaction::Status,
    pub wal: wal::Status,
    pub failure: Option<Error>,
}

impl Storage {
    /// Starts the engine over an empty, open `wal`. Must be called inside a tokio runtime.
    ///
    /// # Panics
    /// If `config` is not valid.
    pub fn start(
        config: Config,
        stores: impl Into<Stores>,
        metadata: Arc<dyn StreamMetadata>,
        wal: Arc<dyn Wal>,
        owner: Incarnation,
    ) -> Storage {
        if let Err(reason) = config.validate() {
            panic!("invalid storage configuration: {reason}");
        }
        let cancel = CancellationToken::new();
        let ledger = Ledger {
            failure: None,
            stopping: false,
            budget: Budget::new(config.log_cache_bytes),
            blocks: Blocks::new(config.upload_bytes),
            pending: VecDeque::new(),
            streams: HashMap::new(),
        };
        let stores = stores.into();
        let inner = Arc::new(Inner {
            block_cache: BlockCache::new(stores.read.clone(), config.block_cache.clone()),
            config,
            owner,
            stores,
            metadata,
            wal_record_bytes_max: wal.record_bytes_max(),
            wal,
            ledger: Mutex::new(ledger),
            appended: Notify::new(),
            upload_wanted: Notify::new(),
            compaction_wanted: Notify::new(),
            compaction_dirty: Mutex::default(),
            committed: watch::Sender::new(0),
            wal_waiters: AtomicUsize::new(0),
            wal_waiting_bytes: AtomicU64::new(0),
            counters: Counters::default(),
            compaction: compaction::Counts::default(),
            bytes_uploaded: AtomicU64::new(0),
            traffic: Counted::default(),
            failure: watch::Sender::new(None),
            tasks: TaskTracker::new(),
            cancel: cancel.clone(),
        });
        inner.spawn(ack::run(inner.clone()));
        inner.spawn(crate::upload::run(inner.clone()));
        inner.spawn(compaction::run(inner.clone()));
        let reads = inner.clone();
        inner.spawn(async move {
            reads.block_cache.panicked().await;
            reads.fail(Error::Failed("reading ahead panicked: see the log".to_owned()));
        });
        Storage { inner, _stop: Arc::new(cancel.drop_guard()) }
    }

    /// Waits for room for one record with a body of `bytes`: in the log cache and in the WAL. Fair, first come first
    /// served. Ask before the order of appends is fixed; dropping the admission, or the future, gives all of it back.
    pub async fn admit(&self, bytes: usize) -> Result<Admission, Error> {
        self.admit_run(&[bytes]).await
    }

    /// As [`admit`](Storage::admit), for the first of several records with bodies of so many bytes, and in the same turn
    /// for as many behind it as, with it, are no larger than the WAL's largest record and a quarter of the log cache. Those
    /// for which [`Admission::split`] has nothing left take another turn.
    pub async fn admit_run(&self, bodies: &[usize]) -> Result<Admission, Error> {
        let charge_max = self.inner.config.log_cache_bytes / RUN_CACHE_SHARE;
        let (mut charge, mut logged) = (0, 0);
        for (at, bytes) in bodies.iter().enumerate() {
            let with_it = (charge + charge_of(*bytes), logged + bytes + META_BYTES);
            if at > 0 && (with_it.0 > charge_max || with_it.1 > self.inner.wal_record_bytes_max) {
                break;
            }
            (charge, logged) = with_it;
        }
        let admission = self.inner.room_in_cache(charge).await?;
        self.inner.room_in_wal(logged).await?;
        Ok(admission)
    }

    /// Opens a stream that the metadata has open under this incarnation. It goes on at its committed end.
    pub fn open_stream(&self, id: StreamId, listener: Option<Arc<dyn Listener>>) -> Result<Stream, Error> {
        let refused = |detail: String| Error::NotOpen { stream: id, detail };
        let mut ledger = self.inner.ledger.lock();
        ledger.check_usable()?;
        // Read under the lock: no commit that would make this view stale can be forgotten meanwhile.
        let view =
            self.inner.metadata.stream(id).ok_or_else(|| refused("there is no such stream".to_owned()))?;
        if view.owner != Some(self.inner.owner) {
            return Err(refused(format!("it is open under {:?}, not {:?}", view.owner, self.inner.owner)));
        }
        let shared = ledger.streams.entry(id).or_insert_with(|| Arc::new(Shared::new(&view))).clone();
        let opening = shared.open(&view, listener).ok_or_else(|| refused("it is open already".to_owned()))?;
        self.inner.changed([id]);
        Ok(Stream::new(self.clone(), shared, opening))
    }

    /// Gives up everything below the offsets, durably and in one command. None may lie beyond its stream's committed
    /// end; one that its stream begins behind already changes nothing. Streams need not be open.
    pub async fn trim(&self, trims: Vec<(StreamId, u64)>) -> Result<(), Error> {
        let inner = &self.inner;
        inner.metadata.trim(inner.owner, trims.clone()).await?;
        // A stream that is opened from here on finds its new start in the metadata (M4).
        let ledger = inner.ledger.lock();
        for (id, to) in &trims {
            if let Some(shared) = ledger.streams.get(id) {
                shared.advance_start(*to);
            }
        }
        drop(ledger);
        inner.changed(trims.into_iter().map(|(id, _)| id));
        Ok(())
    }

    /// Bytes of a stream's bodies that are not in data objects yet. `committed_end` is from a view of the metadata taken
    /// before: what was committed since is in neither, rather than in both.
    pub fn uncommitted_bytes(&self, stream: StreamId, committed_end: u64) -> u64 {
        self.inner.ledger.lock().blocks.uncommitted_of(stream, committed_end) as u64
    }

    /// Uploads and commits everything that was appended so far, and trims the WAL.
    pub async fn flush(&self) -> Result<(), Error> {
        self.flush_to(|_, _| ()).await
    }

    /// The same, for somebody who waits: objects are on their way into the bucket while the WAL makes their records durable, and
    /// committed when both are done. If the WAL fails they are garbage.
    pub async fn flush_hurried(&self) -> Result<(), Error> {
        self.flush_to(Blocks::hurry).await
    }

    async fn flush_to(&self, hurry: impl FnOnce(&mut Blocks, BlockId)) -> Result<(), Error> {
        let target = {
            let mut ledger = self.inner.ledger.lock();
            ledger.blocks.seal();
            let end = ledger.blocks.end();
            hurry(&mut ledger.blocks, end);
            end.0
        };
        self.inner.upload_wanted.notify_one();
        let mut committed = self.inner.committed.subscribe();
        tokio::select! {
            biased;
            _ = committed.wait_for(|committed| *committed >= target) => Ok(()),
            error = self.failed() => Err(error),
        }
    }

    /// Resolves when the engine was fenced or its WAL failed: the process must stop serving. Otherwise never.
    pub async fn failed(&self) -> Error {
        self.inner.failed().await
    }

    /// Stops taking appends, uploads and commits everything, empties the WAL and closes it: the next start recovers
    /// nothing. If the store does not answer this waits; giving up (dropping the future) loses nothing.
    pub async fn shutdown(&self) -> Result<(), Error> {
        {
            let mut ledger = self.inner.ledger.lock();
            ledger.stopping = true;
            ledger.budget.close();
        }
        let flushed = self.flush().await;
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.block_cache.shutdown().await;
        self.inner.wal.close().await;
        flushed
    }

    /// No data object of this incarnation with a lower counter will be committed from now on, unless it was before.
    /// Never goes back.
    pub fn lowest_counter_in_flight(&self) -> u64 {
        self.inner.counters.lowest_in_flight()
    }

    /// Of each of `streams`, since it was opened in this process; nothing of those that are not open.
    pub fn traffic(&self, streams: impl IntoIterator<Item = StreamId>) -> Traffic {
        let ledger = self.inner.ledger.lock();
        let open = streams.into_iter().filter_map(|id| ledger.streams.get(&id));
        open.map(|shared| shared.traffic()).fold(Traffic::default(), |sum, traffic| Traffic {
            appended_bytes: sum.appended_bytes + traffic.appended_bytes,
            read_bytes: sum.read_bytes + traffic.read_bytes,
        })
    }

    pub fn status(&self) -> Status {
        let wal = self.inner.wal.status();
        let ledger = self.inner.ledger.lock();
        Status {
            cache_used_bytes: ledger.budget.used(),
            cache_limit_bytes: ledger.budget.limit(),
            uncommitted_bytes: ledger.blocks.uncommitted_bytes(),
            cache_blocks: ledger.blocks.len(),
            appends_pending: ledger.pending.len(),
            admissions_waiting: ledger.budget.waiting() + self.inner.wal_waiters.load(Ordering::Relaxed),
            streams: ledger.streams.len(),
            bytes_uploaded: self.inner.bytes_uploaded.load(Ordering::Relaxed),
            traffic: self.inner.traffic.traffic(),
            compaction: self.inner.compaction.status(),
            wal,
            failure: ledger.failure.clone(),
        }
    }
}

impl Ledger {
    pub fn check_usable(&self) -> Result<(), Error> {
        match &self.failure {
            Some(error) => Err(error.clone()),
            None if self.stopping => Err(Error::Closed("the storage engine")),
            None => Ok(()),
        }
    }

    /// Drops some of the oldest committed records, not many more than `wanted` bytes' worth: nobody else gets on
    /// meanwhile. `false` if there are none.
    fn evict(&mut self, wanted: usize) -> bool {
        let Some((id, slice)) = self.blocks.evictable() else { return false };
        let (freed, done) = match self.streams.get(&id) {
            None => (0, true),
            Some(shared) => {
                let evicted = shared.evict(slice.end, wanted);
                if evicted.forgettable {
                    self.streams.remove(&id);
                }
                (evicted.freed, evicted.done)
            }
        };
        let freed = self.blocks.evicted(freed, done);
        self.budget.release(freed);
        true
    }

    /// Serves those who wait: evicts what may go, and seals the active block if that is not enough.
    /// Returns whom to tell, and whether the uploader has something to do.
    fn settle(&mut self) -> (Vec<(oneshot::Sender<Admission>, Granted)>, bool) {
        let mut grants = Vec::new();
        loop {
            loop {
                let shortfall = self.budget.shortfall();
                if shortfall == 0 || !self.evict(shortfall) {
                    break;
                }
            }
            match self.budget.grant() {
                Some(grant) => grants.push(grant),
                None => break,
            }
        }
        let pressed = self.budget.waiting() > 0 && !self.blocks.is_uploading();
        (grants, pressed && self.blocks.seal())
    }
}

impl Inner {
    fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let inner = self.clone();
        self.tasks.spawn(async move {
            let _guard = FailOnPanic(&inner);
            inner.cancel.run_until_cancelled(task).await;
        });
    }

    pub async fn failed(&self) -> Error {
        let mut failure = self.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone().expect("waited for it"),
            Err(_) => unreachable!("the sender lives as long as self"),
        }
    }

    /// The first reason counts. Nothing is accepted or confirmed any more (S1): what is pending has an unknown outcome.
    pub fn fail(&self, error: Error) {
        let orphans = {
            let mut ledger = self.ledger.lock();
            if ledger.failure.is_some() {
                return;
            }
            ledger.failure = Some(error.clone());
            ledger.budget.close();
            std::mem::take(&mut ledger.pending)
        };
        tracing::error!(%error, "storage engine stopped");
        self.failure.send_replace(Some(error.clone()));
        for pending in orphans {
            pending.complete(Err(error.clone()));
        }
    }

    /// Serves those who wait for room in the log cache. Call after anything that may have made some.
    pub fn settle(self: &Arc<Self>) {
        let (grants, upload) = self.ledger.lock().settle();
        if upload {
            self.upload_wanted.notify_one();
        }
        for (sender, Granted(charge)) in grants {
            // Whoever left meanwhile drops the admission, which gives it back.
            drop(sender.send(Admission { inner: self.clone(), charge }));
        }
    }

    /// The parts of these streams have changed: there may be something to compact.
    pub fn changed(&self, streams: impl IntoIterator<Item = StreamId>) {
        if self.config.compaction.jobs_max > 0 {
            self.compaction_dirty.lock().extend(streams);
            self.compaction_wanted.notify_one();
        }
    }

    /// Whether producers wait for room.
    pub fn is_pressed(&self) -> bool {
        self.wal_waiters.load(Ordering::Relaxed) > 0 || self.ledger.lock().budget.waiting() > 0
    }

    /// Seals the active block if the WAL needs room that only a trim gives, or recovery would take long, and nothing is on its way
    /// that would help.
    /// Those who wait for writes under way are no reason: many small uploads would make nothing faster.
    pub fn relieve_wal(&self) {
        let status = self.wal.status();
        let threshold = self.config.wal_used_fraction_max * status.capacity_bytes as f64;
        let waiting = self.wal_waiting_bytes.load(Ordering::SeqCst);
        let pressed = waiting > 0 && status.may_need_trim(waiting);
        let long = status.used_slots >= self.config.wal_slots_max.max(1);
        let full = pressed || (status.used_bytes as f64) > threshold;
        if !full && !long {
            return;
        }
        let mut ledger = self.ledger.lock();
        if !full && !ledger.blocks.is_old(Instant::now(), LONG_WAL_UPLOAD_INTERVAL_MIN) {
            return;
        }
        if !ledger.blocks.is_uploading() && ledger.blocks.seal() {
            drop(ledger);
            self.upload_wanted.notify_one();
        }
    }

    async fn room_in_cache(self: &Arc<Self>, charge: usize) -> Result<Admission, Error> {
        let asked = {
            let mut ledger = self.ledger.lock();
            ledger.check_usable()?;
            if ledger.budget.waiting() == 0 {
                while let wanted @ 1.. = charge.saturating_sub(ledger.budget.free())
                    && charge <= ledger.budget.limit()
                    && ledger.evict(wanted)
                {}
            }
            ledger.budget.ask(charge)
        };
        match asked {
            Asked::Granted(Granted(charge)) => Ok(Admission { inner: self.clone(), charge }),
            Asked::TooLarge => {
                Err(Error::TooLarge { bytes: charge, limit_bytes: self.config.log_cache_bytes })
            }
            Asked::Closed => Err(self.refusal()),
            Asked::Wait(granted) => {
                // A waiter that leaves may have been the one that held up the others.
                let _departure = Departure(self);
                self.settle();
                granted.await.map_err(|_| self.refusal())
            }
        }
    }

    async fn room_in_wal(&self, bytes: usize) -> Result<(), Error> {
        let mut admitted = std::pin::pin!(self.wal.admit(bytes));
        let first = futures::poll!(&mut admitted);
        let admitted = match first {
            std::task::Poll::Ready(admitted) => admitted,
            std::task::Poll::Pending => {
                let _waiter = WalWaiter::new(self, bytes);
                self.relieve_wal();
                tokio::select! {
                    biased;
                    admitted = admitted => admitted,
                    error = self.failed() => return Err(error),
                }
            }
        };
        admitted.map_err(|error| match error {
            // Too large for the medium at any time: the caller's affair, and no reason to stop.
            wal::Error::Refused(detail) => Error::Rejected(detail),
            other => other.into(),
        })
    }

    fn refusal(&self) -> Error {
        self.ledger.lock().check_usable().err().unwrap_or(Error::Closed("the storage engine"))
    }
}

struct Departure<'a>(&'a Arc<Inner>);

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        self.0.settle();
    }
}

struct WalWaiter<'a> {
    inner: &'a Inner,
    bytes: u64,
}

impl WalWaiter<'_> {
    fn new(inner: &Inner, bytes: usize) -> WalWaiter<'_> {
        let bytes = bytes as u64;
        inner.wal_waiters.fetch_add(1, Ordering::SeqCst);
        inner.wal_waiting_bytes.fetch_add(bytes, Ordering::SeqCst);
        WalWaiter { inner, bytes }
    }
}

impl Drop for WalWaiter<'_> {
    fn drop(&mut self) {
        self.inner.wal_waiters.fetch_sub(1, Ordering::SeqCst);
        self.inner.wal_waiting_bytes.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// A broken invariant in a task must stop the engine, not leave it half alive (F59).
struct FailOnPanic<'a>(&'a Arc<Inner>);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::Failed("a task of the storage engine panicked: see the log".to_owned()));
        }
    }
}
