//! Reads of data objects: a cache of blocks, with read-ahead, over bounded and retried GETs.
//!
//! ```text
//!   read(parts, from, max_bytes)
//!     │ index of the object   ── cache of indexes; one GET of the tail on a miss, shared by all who ask
//!     │ blocks of the range   ── cache of blocks ── in flight already? join it ── else claim: adjacent blocks, one GET
//!     ▼
//!   Fetched: slices of cached blocks         └─► a sequential reader: read-ahead in the background
//! ```
//!
//! # Overview
//!
//! One [`BlockCache`] per broker; a cheap handle. [`read`](BlockCache::read) takes the parts that
//! [`StreamMetadata::locate`](crate::StreamMetadata::locate) gave (several, so that read-ahead can cross objects; one
//! is enough) and returns whole records from the one that contains or follows `from` on.
//! [`find_timestamp`](BlockCache::find_timestamp) and [`find_max_timestamp`](BlockCache::find_max_timestamp) search
//! inside one part. A part clips what its object holds (adopted slots): nothing outside is returned.
//!
//! # Invariants
//!
//! - **C1** Whatever the number of concurrent readers, a block is fetched by one GET at a time (single flight).
//! - **C2** A byte is returned only if its block's CRC, its index's CRC and the object's identity were right (S5).
//! - **C3** Memory: indexes and blocks each have a budget in bytes; the bytes of all GETs in flight have one too, read-ahead
//!   included; what a caller holds of a [`Fetched`] is the caller's (it pins at most the blocks that it touches).
//! - **C4** A cached block owns its buffer: evicting it frees it, whatever else came with the same GET.
//!
//! # Retries, corruption, cancellation, crash
//!
//! A GET is tried [`Options::attempts_max`] times with growing, jittered pauses, then [`Error::Unavailable`]. "Not found" is not
//! retried: [`Error::Missing`] tells the caller to look the range up again, since compaction may have moved it. Bytes that
//! fail a check are fetched again as often, then [`Error::Corrupt`]. A caller that goes away cancels its GETs unless somebody
//! else waits for them; read-ahead goes on. Nothing here writes.

pub(crate) mod fetch;
mod fetched;
mod flight;
mod read_ahead;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{FutureExt, join_all, try_join_all};
use futures::{StreamExt, stream};
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metadata::{Located, StreamPart};
use crate::object::{Block, ObjectIndex};
use crate::record::KIND_DATA;
use crate::{ObjectId, StreamRecord};
use fetch::{CachedIndex, Fetcher};
pub use fetched::{Fetched, Slice};
use flight::{BlockKey, FlightGuard, Flights, Joined};
use read_ahead::ReadAhead;

/// Limits, in bytes unless the name says otherwise.
#[derive(Clone, Debug)]
pub struct Options {
    /// Budget of decoded blocks. Default 128 MiB.
    pub cache_bytes: u64,
    /// Budget of indexes, and of whole objects that are not larger than a tail. Default 32 MiB.
    pub index_cache_bytes: u64,
    /// How much of an object's end the first GET asks for. Default 64 KiB.
    pub tail_bytes: u64,
    /// Adjacent blocks are fetched together up to this size; one larger block by itself. Default 8 MiB.
    pub get_bytes_max: u64,
    /// GETs in flight, a count. What they hold is bounded by the next one: many are needed where many partitions are opened, each of
    /// which reads little. Default 256.
    pub gets_in_flight_max: usize,
    /// Bytes of all GETs in flight. A single GET that is larger waits until it is alone. Default 64 MiB.
    pub in_flight_bytes_max: u64,
    /// How far ahead of a sequential reader blocks are fetched, at most. 0: no read-ahead. Default 8 MiB.
    pub read_ahead_bytes_max: u64,
    /// Read-ahead tasks at a time, a count; beyond it there is no read-ahead. Default 16.
    pub read_aheads_max: usize,
    /// Sequential readers that are remembered, a count. Default 4096.
    pub readers_max: usize,
    /// How often a GET is tried, a count. Default 5.
    pub attempts_max: u32,
    /// The pause after the first failed attempt; it doubles with each. Default 50 ms.
    pub backoff_min: Duration,
    /// The longest pause. Default 2 s.
    pub backoff_max: Duration,
    /// How long one attempt may take. Default 15 s.
    pub get_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cache_bytes: 128 << 20,
            index_cache_bytes: 32 << 20,
            tail_bytes: 64 << 10,
            get_bytes_max: 8 << 20,
            gets_in_flight_max: 256,
            in_flight_bytes_max: 64 << 20,
            read_ahead_bytes_max: 8 << 20,
            read_aheads_max: 16,
            readers_max: 4096,
            attempts_max: 5,
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            get_timeout: Duration::from_secs(15),
        }
    }
}

/// By what the caller does about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Look the range up in the metadata again; if it still names the object, data is lost.
    #[error("object {object:?} is not in the store")]
    Missing { object: ObjectId },
    /// The store does not answer; trying again later makes sense.
    #[error("object {object:?} cannot be read now: {detail}")]
    Unavailable { object: ObjectId, detail: String },
    /// Bytes are not what was written, and were not when fetched again. Never skipped.
    #[error("object {object:?} is corrupt at byte {at}: {detail}")]
    Corrupt { object: ObjectId, at: u64, detail: String },
    /// Written by a newer build than this one.
    #[error("object {object:?} needs a newer version of Ottla: {detail}")]
    Unsupported { object: ObjectId, detail: String },
}

/// See the module.
#[derive(Clone, Debug)]
pub struct BlockCache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    fetcher: Fetcher,
    indexes: Cache<ObjectId, Arc<CachedIndex>>,
    blocks: Cache<BlockKey, Block>,
    flights: Flights,
    readers: Mutex<ReadAhead>,
    read_aheads: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// A task has met a broken invariant.
    panicked: watch::Sender<bool>,
}

struct TellOnPanic<'a>(&'a watch::Sender<bool>);

impl Drop for TellOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.send_replace(true);
        }
    }
}

/// What an entry costs beside its bytes: key, node and bookkeeping of the cache.
const ENTRY_OVERHEAD_BYTES: usize = 256;
/// Parts that one read-ahead looks into, and how many of them at a time. No options: bytes, tasks and GETs have them.
const READ_AHEAD_PARTS_MAX: usize = 64;
const READ_AHEAD_CONCURRENCY: usize = 4;

impl BlockCache {
    /// `store` is scoped to the cluster's prefix.
    pub fn new(store: Arc<dyn ObjectStore>, options: Options) -> BlockCache {
        // LRU, not TinyLFU: a block that was read ahead has never been asked for, and must not be refused for that.
        let indexes = Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            .max_capacity(options.index_cache_bytes)
            .weigher(|_, index: &Arc<CachedIndex>| weight(index.memory_bytes()))
            .build();
        let blocks = Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            .max_capacity(options.cache_bytes)
            .weigher(|_, block: &Block| weight(block.memory_bytes()))
            .build();
        BlockCache {
            inner: Arc::new(Inner {
                fetcher: Fetcher::new(store, &options),
                indexes,
                blocks,
                flights: Flights::default(),
                readers: Mutex::new(ReadAhead::new(&options)),
                read_aheads: Arc::new(Semaphore::new(options.read_aheads_max)),
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
                panicked: watch::Sender::new(false),
                options,
            }),
        }
    }

    /// Whole records from the first that ends beyond `from` on, at least one if `parts` hold any, otherwise bodies of
    /// at most `max_bytes`. `parts` are of one stream and in offset order.
    ///
    /// Returns less than `max_bytes` rather than fetch from a second object: there is always a later read.
    /// [`Fetched::next`] says where to read on; beyond the parts' gaps it moves even if nothing was found.
    pub async fn read(&self, parts: &[Located], from: u64, max_bytes: usize) -> Result<Fetched, Error> {
        let mut fetched = Fetched::new(from);
        for located in parts {
            if located.part.end <= fetched.next() {
                continue;
            }
            let budget = max_bytes.saturating_sub(fetched.bytes());
            let index;
            let blocks;
            if fetched.is_empty() {
                index = self.inner.index(located).await?;
                let wanted = select(&index.index, located, fetched.next(), budget as u64)?;
                blocks = self.inner.blocks(located, &index, wanted).await?;
            } else if budget > 0
                && let Some(cached) = self.inner.indexes.get(&located.object).await
            {
                index = cached;
                let wanted = select(&index.index, located, fetched.next(), budget as u64)?;
                blocks = self.inner.resident(located, wanted).await;
            } else {
                break;
            }
            let all = blocks.into_iter().all(|block| fetched.push(block, &located.part, max_bytes));
            if !all || !select(&index.index, located, fetched.next(), 1)?.is_empty() {
                break;
            }
            fetched.skip_to(located.part.end);
        }
        self.inner.clone().advance(parts, from, &fetched);
        Ok(fetched)
    }

    /// Brings what `parts` hold from `from` on into the cache, of each about `bytes_max` at most, and as many side by side as
    /// there may be GETs: for whoever is about to read all of it. What fails is left to the reader to meet.
    pub async fn warm(&self, parts: &[Located], from: u64, bytes_max: u64) {
        let load = async |located: &Located| {
            let loaded = async {
                let index = self.inner.index(located).await?;
                let wanted = select(&index.index, located, from, bytes_max)?;
                self.inner.blocks(located, &index, wanted).await
            };
            if let Err(error) = loaded.await {
                tracing::debug!(%error, "reading ahead of a replay failed");
            }
        };
        stream::iter(parts).for_each_concurrent(self.inner.options.gets_in_flight_max.max(1), load).await;
    }

    /// The first record of the part with a max timestamp of at least `timestamp`.
    pub async fn find_timestamp(
        &self,
        located: &Located,
        timestamp: i64,
    ) -> Result<Option<StreamRecord>, Error> {
        let index = self.inner.index(located).await?;
        for number in select(&index.index, located, 0, u64::MAX)? {
            if index.index.blocks()[number].max_timestamp < timestamp {
                continue;
            }
            for block in self.inner.blocks(located, &index, number..number + 1).await? {
                if let Some(record) = block.find_timestamp(within(&block, &located.part, 0), timestamp) {
                    return Ok(Some(block.record(record)));
                }
            }
        }
        Ok(None)
    }

    /// The record of the part with the largest max timestamp, the first of several.
    pub async fn find_max_timestamp(&self, located: &Located) -> Result<Option<StreamRecord>, Error> {
        let index = self.inner.index(located).await?;
        let mut best: Option<StreamRecord> = None;
        for number in select(&index.index, located, 0, u64::MAX)? {
            let at_most = index.index.blocks()[number].max_timestamp;
            if best.as_ref().is_some_and(|best| at_most <= best.max_timestamp) {
                continue;
            }
            for block in self.inner.blocks(located, &index, number..number + 1).await? {
                // A clip may have cut off the record that the index speaks of.
                for record in within(&block, &located.part, 0).map(|record| block.record(record)) {
                    if best.as_ref().is_none_or(|best| record.max_timestamp > best.max_timestamp) {
                        best = Some(record);
                    }
                }
            }
        }
        Ok(best)
    }

    /// Bytes that the cached blocks and indexes take, overhead included.
    pub async fn cached_bytes(&self) -> u64 {
        self.inner.indexes.run_pending_tasks().await;
        self.inner.blocks.run_pending_tasks().await;
        self.inner.indexes.weighted_size() + self.inner.blocks.weighted_size()
    }

    /// Resolves once reading ahead has met a broken invariant. Otherwise never.
    pub async fn panicked(&self) {
        let _ = self.inner.panicked.subscribe().wait_for(|panicked| *panicked).await;
    }

    /// Stops read-ahead and waits for it. Reads still work. Idempotent.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl Inner {
    async fn index(&self, located: &Located) -> Result<Arc<CachedIndex>, Error> {
        let load = self.fetcher.index(located);
        let index = self.indexes.try_get_with(located.object, load).await;
        index.map_err(|error: Arc<Error>| (*error).clone())
    }

    /// The blocks of these numbers, from the cache, from GETs under way, or from GETs of their own (C1).
    async fn blocks(
        self: &Arc<Self>,
        located: &Located,
        index: &Arc<CachedIndex>,
        numbers: Range<usize>,
    ) -> Result<Vec<Block>, Error> {
        let mut found: Vec<Option<Block>> = Vec::with_capacity(numbers.len());
        for number in numbers.clone() {
            found.push(self.blocks.get(&(located.object, number)).await);
        }
        let missing: Vec<usize> =
            numbers.clone().filter(|number| found[number - numbers.start].is_none()).collect();
        if !missing.is_empty() {
            let joined = self.flights.join(
                located.object,
                &missing,
                index.index.blocks(),
                &self.options,
                |run, guard| Inner::fly(Arc::clone(self), *located, Arc::clone(index), run, guard).boxed(),
            );
            let landed =
                try_join_all(joined.into_iter().map(|Joined { wanted, first, flight }| async move {
                    flight.await.map(|blocks| (wanted, first, blocks))
                }));
            for (wanted, first, blocks) in landed.await? {
                for number in wanted {
                    found[number - numbers.start] = Some(blocks[number - first].clone());
                }
            }
        }
        Ok(found.into_iter().map(|block| block.expect("found, or brought by a flight")).collect())
    }

    /// One GET of adjacent blocks, into the cache.
    async fn fly(
        self: Arc<Self>,
        located: Located,
        index: Arc<CachedIndex>,
        run: Range<usize>,
        guard: FlightGuard,
    ) -> Result<Arc<[Block]>, Error> {
        let key = |number| (located.object, number);
        // A flight that landed between this one's look into the cache and its claim has left its blocks there.
        let resident = join_all(run.clone().map(async |number| self.blocks.get(&key(number)).await)).await;
        let missing: Vec<usize> =
            run.clone().filter(|number| resident[number - run.start].is_none()).collect();
        let gaps = flight::runs(&missing, index.index.blocks(), self.options.get_bytes_max);
        let fetched = try_join_all(
            gaps.into_iter()
                .map(|gap| self.fetcher.blocks(&located, index.whole.as_ref(), &index.index.blocks()[gap])),
        );
        let mut fetched = fetched.await?.into_iter().flatten();
        let mut blocks = Vec::with_capacity(run.len());
        for (number, resident) in run.zip(resident) {
            let block = match resident {
                Some(block) => block,
                None => {
                    let block = fetched.next().expect("what is missing was fetched");
                    self.blocks.insert(key(number), block.clone()).await;
                    block
                }
            };
            blocks.push(block);
        }
        // Evict now: the cache would let some dozens of insertions pass first, and a block is large.
        self.blocks.run_pending_tasks().await;
        // Only now: whoever does not find the flight any more finds the blocks.
        drop(guard);
        Ok(blocks.into())
    }

    /// As many of the leading blocks as are in the cache.
    async fn resident(&self, located: &Located, numbers: Range<usize>) -> Vec<Block> {
        let mut blocks = Vec::with_capacity(numbers.len());
        for number in numbers {
            match self.blocks.get(&(located.object, number)).await {
                Some(block) => blocks.push(block),
                None => break,
            }
        }
        blocks
    }

    /// Notes what a reader took, and reads ahead if it is sequential.
    fn advance(self: Arc<Self>, parts: &[Located], from: u64, fetched: &Fetched) {
        let Some(stream) = parts.first().map(|located| located.part.stream) else { return };
        let (next, bytes) = (fetched.next(), fetched.bytes() as u64);
        let Some(window) = self.readers.lock().advance(stream, from, next, bytes) else { return };
        if self.stop.is_cancelled() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.read_aheads).try_acquire_owned() else { return };
        self.readers.lock().granted(stream, next, window);
        let parts: Vec<Located> = ahead(parts, next, window);
        let inner = Arc::clone(&self);
        self.tasks.spawn(async move {
            let (stop, panicked) = (inner.stop.clone(), inner.panicked.clone());
            let _guard = TellOnPanic(&panicked);
            stop.run_until_cancelled(inner.read_ahead(parts, next, window)).await;
            drop(permit);
        });
    }

    /// Brings `window` bytes from `from` on into the cache. What fails is left to the reader to meet.
    async fn read_ahead(self: Arc<Self>, parts: Vec<Located>, from: u64, window: u64) {
        let indexes = parts.into_iter().map(|located| {
            let inner = Arc::clone(&self);
            async move { inner.index(&located).await.map(|index| (located, index)) }
        });
        let mut indexes = stream::iter(indexes).buffered(READ_AHEAD_CONCURRENCY);
        let mut wanted = Vec::new();
        let mut left = window;
        while let Some(Ok((located, index))) = indexes.next().await {
            let Ok(numbers) = select(&index.index, &located, from, left) else { break };
            let bytes: u64 =
                index.index.blocks()[numbers.clone()].iter().map(|block| block.body_bytes()).sum();
            left = left.saturating_sub(bytes);
            wanted.push((located, index, numbers));
            if left == 0 {
                break;
            }
        }
        drop(indexes);
        let loads = wanted.into_iter().map(|(located, index, numbers)| {
            let inner = Arc::clone(&self);
            async move {
                if let Err(error) = inner.blocks(&located, &index, numbers).await {
                    tracing::debug!(%error, "read-ahead failed");
                }
            }
        });
        stream::iter(loads).buffer_unordered(READ_AHEAD_CONCURRENCY).collect::<()>().await;
    }
}

/// The parts that hold `window` bytes from `from` on.
fn ahead(parts: &[Located], from: u64, window: u64) -> Vec<Located> {
    let mut beyond = 0u64;
    let parts = parts.iter().filter(|located| located.part.end > from).take(READ_AHEAD_PARTS_MAX);
    let mut taken = Vec::new();
    for located in parts {
        taken.push(*located);
        // How much of the part lies before `from` is not known here.
        if located.part.base >= from {
            beyond = beyond.saturating_add(located.part.bytes);
        }
        if beyond >= window {
            break;
        }
    }
    taken
}

/// The numbers of the blocks to read from `from` on: the first whatever its size, others while `budget` bytes of
/// bodies are not reached. Empty if the part holds nothing beyond `from`.
fn select(index: &ObjectIndex, located: &Located, from: u64, budget: u64) -> Result<Range<usize>, Error> {
    let Located { object, part, .. } = *located;
    let all = index.blocks_of(part.stream);
    if all.is_empty() {
        let detail = format!("it holds nothing of stream {}, which the metadata says it does", part.stream.0);
        return Err(Error::Corrupt { object, at: 0, detail });
    }
    let from = from.max(part.base);
    let candidates = index.seek(part.stream, from);
    let mut end = candidates.start;
    let mut bytes = 0;
    for block in &index.blocks()[candidates.clone()] {
        if block.base >= part.end || (end > candidates.start && bytes >= budget) {
            break;
        }
        if block.kind != KIND_DATA {
            let detail = format!("a block's kind is {}", block.kind);
            return Err(Error::Unsupported { object, detail });
        }
        bytes += block.body_bytes();
        end += 1;
    }
    Ok(candidates.start..end)
}

/// The records of `block` that `part` has, from the first that ends beyond `from` on.
pub(crate) fn within(block: &Block, part: &StreamPart, from: u64) -> Range<usize> {
    let first = block.seek(from.max(part.base));
    let last = block.seek_base(part.end);
    first..last.max(first)
}

fn weight(bytes: usize) -> u32 {
    u32::try_from(bytes + ENTRY_OVERHEAD_BYTES).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
