//! Compaction: from many small parts of streams in data objects to few large ones.
//!
//! ```text
//!   uploads, adopted slots        mixed objects: a little of many streams each
//!     │  a stream has fan_in parts of one tier ──► plan: runs of adjacent parts, packed into jobs
//!     ▼
//!   job: indexes ──► windows of blocks, in the order of the new object ──► StreamingWriter ──► one PUT, or multipart
//!     │                (GETs of its own, past the block cache)                  (pieces; never the whole object)
//!     ▼
//!   read the new object's end back ──► StreamMetadata::replace: the swap, one entry
//! ```
//!
//! **Overview.** One task per engine. A commit or a trim wakes it; it then looks at the streams that these have changed,
//! and at those that the last look left something of (*a pass*), plans, and carries the jobs out, pass after pass until
//! one finds nothing. What is to be merged of a stream depends on its parts alone, so that nothing is missed (C7). Which
//! objects are to be emptied depends on all that name them: that is found by a walk over all streams that this
//! incarnation has open, at the start and then [`Options::walk_interval`] after a change. An engine to which nothing
//! happens asks the metadata and the bucket for nothing. `plan` is pure and says why its work is bounded.
//!
//! # Invariants
//!
//! - **C1** What a new object holds of a run is what its sources held: the same records in the same order with the same
//!   stream epochs. Every block's CRC was checked on the way in; each part gave exactly the bytes that the metadata has
//!   committed for it (a part that retention has cut gave no more).
//! - **C2** A source is never replaced by something that could not be read back: the new object's end is, before the swap.
//! - **C3** The swap names the sources that were read. If any of their parts was replaced meanwhile it is rejected, and
//!   the new object is garbage.
//! - **C4** Memory: a job holds `memory_bytes`, or its largest block if that is more, and its index: 64 bytes a block.
//! - **C5** An upload and a read go first: while producers wait for room, a window is begun only as uploads have paid for
//!   it, or after a while without any. Producers that always wait are kept up with all the same.
//! - **C6** A part that cannot be read, or not now, blocks nothing but itself: others, of the same stream too, are
//!   compacted around it. A job that meets one reads on to find all of them; only where it reaches nothing at all,
//!   which is the store, does it end, and wait. What waits is the job's own streams: the others go on.
//! - **C7** A pass over the streams that have changed, or were left with something, plans what a walk over all streams
//!   would.
//!
//! **Crash, cancellation, fence.** At any point there is either an object that nothing names, which the collector finds
//! (its counter is in flight until then), or a swap that was accepted. The old objects are not touched: whoever reads
//! them reads on until the collector deletes them, much later.
//!
//! **Retries.** GETs as everywhere. A write that failed (a PUT: [`Options::put_attempts_max`] times) gives up its object (a
//! multipart upload is aborted) and the job; its streams are planned again after a pause, which doubles until all that failed has succeeded. A swap of unknown outcome
//! is asked for again until it is known.

mod damage;
mod job;
mod pace;
pub(crate) mod plan;
mod sink;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use moka::future::Cache;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::block_cache;
use crate::block_cache::fetch::{CachedIndex, Fetcher};
use crate::counters::COUNTER_OF_RECOVERY;
use crate::metadata::Located;
use crate::storage::Inner;
use crate::{Error, ObjectId, StreamId};
use damage::Damage;
use pace::{Credit, Pace};
use plan::{Added, Job, Planner, Reclaim};

/// Limits of compaction. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Jobs at a time, a count; 0 turns compaction off. Default 1.
    pub jobs_max: usize,
    /// The shortest time from one look at the metadata that found nothing to do to the next. Default 10 s.
    pub interval: Duration,
    /// How long after a change, and after the last time, all streams are looked at for objects of which little is still
    /// named. Default 10 min.
    pub walk_interval: Duration,
    /// How many adjacent parts of one tier are merged, a count; a tier is a range of sizes from a power of this number to
    /// the next. At least 2. Default 32.
    pub fan_in: usize,
    /// A part of this size is large enough and left alone. Default 32 MiB.
    pub full_bytes: u64,
    /// About the largest object that is made. Default 256 MiB.
    pub object_bytes: u64,
    /// Memory of one job. Default 128 MiB.
    pub memory_bytes: u64,
    /// An object of more than three times this size is written in pieces of it. Default 32 MiB; what S3 takes is between 5 MiB and 5 GiB.
    pub piece_bytes: u64,
    /// How often the PUT of an object that is one is attempted, a count, before the job is given up until later. Each may take
    /// `put_timeout`. Default 3.
    pub put_attempts_max: usize,
    /// Parts that one job reads, a count: bounds what it knows, and the work of the swap. Default 16,384.
    pub parts_max: usize,
    /// Objects that one job reads, a count. Default 256.
    pub sources_max: usize,
    /// How fast is read, in bytes per second; as much is written. Default 256 MiB.
    pub bytes_per_second_max: u64,
    /// After a failure: how long until the same is tried again; it doubles. Others are not held up by it. Default 60 s.
    pub retry_pause_min: Duration,
    /// The longest such pause. Default 1 h.
    pub retry_pause_max: Duration,
    /// Parts that could not be read and are remembered, a count. Default 10,000.
    pub damaged_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            jobs_max: 1,
            interval: Duration::from_secs(10),
            walk_interval: Duration::from_secs(600),
            fan_in: 32,
            full_bytes: 32 << 20,
            object_bytes: 256 << 20,
            memory_bytes: 128 << 20,
            piece_bytes: 32 << 20,
            put_attempts_max: 3,
            parts_max: 16_384,
            sources_max: 256,
            bytes_per_second_max: 256 << 20,
            retry_pause_min: Duration::from_secs(60),
            retry_pause_max: Duration::from_secs(3600),
            damaged_max: 10_000,
        }
    }
}

impl Options {
    /// Says what is wrong with the settings, if anything is.
    pub fn validate(&self) -> Result<(), String> {
        for (name, value) in [
            ("full_bytes", self.full_bytes),
            ("memory_bytes", self.memory_bytes),
            ("piece_bytes", self.piece_bytes),
            ("bytes_per_second_max", self.bytes_per_second_max),
            ("damaged_max", self.damaged_max as u64),
            ("put_attempts_max", self.put_attempts_max as u64),
        ] {
            if value == 0 {
                return Err(format!("compaction {name} must be at least 1"));
            }
        }
        if self.fan_in < 2 || self.parts_max < self.fan_in || self.sources_max < self.fan_in {
            return Err(
                "compaction fan_in must be at least 2, and at most parts_max and sources_max".to_owned()
            );
        }
        if self.object_bytes < self.full_bytes {
            return Err("compaction full_bytes must not exceed object_bytes".to_owned());
        }
        if self.piece_bytes.saturating_mul(4) > self.memory_bytes {
            return Err("compaction piece_bytes must be at most a quarter of memory_bytes".to_owned());
        }
        if self.interval.is_zero() || self.walk_interval.is_zero() || self.retry_pause_min.is_zero() {
            return Err("compaction interval, walk_interval and retry_pause_min must not be zero".to_owned());
        }
        if self.retry_pause_max < self.retry_pause_min {
            return Err("compaction retry_pause_max must not be below retry_pause_min".to_owned());
        }
        Ok(())
    }
}

/// What was done since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    jobs: AtomicU64,
    failures: AtomicU64,
    parts: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

/// What compaction did since the start, for metrics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Jobs that ended with a swap: as many objects were made.
    pub jobs: u64,
    /// Jobs that ended otherwise.
    pub failures: u64,
    /// Parts that were replaced.
    pub parts: u64,
    /// Bodies of records that were read for swaps that succeeded.
    pub bytes_read: u64,
    /// Bytes of the objects that were made.
    pub bytes_written: u64,
}

impl Counts {
    pub fn status(&self) -> Status {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Status {
            jobs: get(&self.jobs),
            failures: get(&self.failures),
            parts: get(&self.parts),
            bytes_read: get(&self.bytes_read),
            bytes_written: get(&self.bytes_written),
        }
    }
}

/// Streams that are looked at in one go. No option: between two such pages others get their turn.
const PAGE: usize = 256;
/// Jobs that are planned before they are carried out; a bound on memory, not on work. No option.
const JOBS_PLANNED_MAX: usize = 64;
/// Of a core, for passes that find nothing: a pass is followed by a pause of so many times its length.
const PASS_PAUSE: u32 = 20;

pub(crate) async fn run(inner: Arc<Inner>) {
    let options = &inner.config.compaction;
    if options.jobs_max == 0 {
        return;
    }
    let mut compactor = Compactor::new(inner.clone());
    // Before a stream is open there is nothing to do.
    let mut has_begun = false;
    loop {
        let due = compactor.walk_at.into_iter().chain(compactor.retry_at).min().filter(|_| has_begun);
        tokio::select! {
            () = inner.compaction_wanted.notified() => {}
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        has_begun = true;
        let mut pause = options.interval;
        loop {
            tokio::time::sleep(pause).await;
            let began = Instant::now();
            let pass = match compactor.pass().await {
                Ok(pass) => pass,
                Err(error) => {
                    inner.fail(error);
                    return;
                }
            };
            if pass.swapped || pass.learned || pass.again {
                pause = Duration::ZERO;
            } else {
                // The next one must not follow at once, however often something is committed. One that failed was not
                // long for what it looked at.
                if pass.failed.is_empty() {
                    tokio::time::sleep(began.elapsed() * PASS_PAUSE).await;
                }
                break;
            }
        }
    }
}

struct Compactor {
    inner: Arc<Inner>,
    fetcher: Fetcher,
    pace: Pace,
    credit: Credit,
    damage: Mutex<Damage>,
    /// Of the sources of a pass: neighbouring streams' jobs read the same mixed objects.
    indexes: Cache<ObjectId, Arc<CachedIndex>>,
    /// Objects that hold little of value beside what is gone, by the last walk.
    reclaim: Reclaim,
    /// Streams that the last look left something of (C7).
    left: BTreeSet<StreamId>,
    /// Streams of jobs that failed, and when they are planned again. Of the streams that are left.
    held: BTreeSet<StreamId>,
    retry_at: Option<Instant>,
    backoff: Backoff,
    /// When to walk over all streams: at once, then so long after the first change since the last walk.
    walk_at: Option<Instant>,
}

/// What a pass led to.
#[derive(Debug, Default)]
struct Pass {
    /// A job succeeded: what was made can be merged with its neighbours.
    swapped: bool,
    /// Damage was found that is remembered: what is left without it may be merged.
    learned: bool,
    /// There is more to do at once.
    again: bool,
    /// Streams of what has to be tried again later.
    failed: BTreeSet<StreamId>,
}

impl Compactor {
    fn new(inner: Arc<Inner>) -> Compactor {
        let options = &inner.config.compaction;
        // Budgets of its own: it neither waits for readers nor takes their places.
        let reads = block_cache::Options {
            in_flight_bytes_max: options.memory_bytes / 2 * options.jobs_max as u64,
            ..inner.config.block_cache.clone()
        };
        let fetcher = Fetcher::new(inner.stores.compaction.clone(), &reads);
        let pace = Pace::new(options.bytes_per_second_max);
        let credit = Credit::new(options.object_bytes);
        let damage = Mutex::new(Damage::new(options));
        let indexes = Cache::builder()
            .max_capacity(options.memory_bytes / 8)
            .weigher(|_, index: &Arc<CachedIndex>| u32::try_from(index.memory_bytes()).unwrap_or(u32::MAX))
            .build();
        Compactor {
            fetcher,
            pace,
            credit,
            damage,
            indexes,
            reclaim: Reclaim::default(),
            left: BTreeSet::new(),
            held: BTreeSet::new(),
            retry_at: None,
            backoff: Backoff::between(options.retry_pause_min, options.retry_pause_max),
            walk_at: Some(Instant::now()),
            inner,
        }
    }

    /// A walk may find something that the last one did not.
    fn walk_later(&mut self) {
        let interval = self.inner.config.compaction.walk_interval;
        self.walk_at.get_or_insert_with(|| Instant::now() + interval);
    }

    /// One look, at all streams or at those that may have something to do. An error is final.
    async fn pass(&mut self) -> Result<Pass, Error> {
        let inner = self.inner.clone();
        let began = Instant::now();
        let mut pass = Pass::default();
        if self.retry_at.is_some_and(|at| at <= began) {
            self.retry_at = None;
            self.held.clear();
        }
        let reclaim = std::mem::take(&mut self.reclaim);
        let dirty = std::mem::take(&mut *inner.compaction_dirty.lock());
        let walks = self.walk_at.is_some_and(|at| at <= began) || !reclaim.is_empty();
        if walks {
            self.walk_at = None;
        } else if !dirty.is_empty() {
            self.walk_later();
        }
        let mut look_at = std::mem::take(&mut self.left);
        look_at.extend(dirty);
        if !walks {
            (self.left, look_at) = look_at.into_iter().partition(|stream| self.held.contains(stream));
        }
        // Left for the next pass: objects whose uploader may not know yet that they are committed (its retry would not be
        // understood as one any more), and those of this pass, not all of whose streams it would see.
        let newest = inner.counters.lowest_in_flight();
        let is_settled = |object: ObjectId| match object {
            ObjectId::Data { owner, counter } => {
                owner != inner.owner || counter < newest || counter >= COUNTER_OF_RECOVERY
            }
            ObjectId::Slot { .. } => true,
        };
        let mut planner = Planner::new(&inner.config, reclaim);
        let mut from = StreamId(0);
        loop {
            let streams: Vec<StreamId> = match walks {
                true => inner.metadata.owned_streams(inner.owner, from, PAGE),
                false => look_at.range(from..).take(PAGE).copied().collect(),
            };
            for stream in &streams {
                let parts = inner.metadata.locate(*stream, 0, usize::MAX);
                let now = Instant::now();
                let (damage, held) = (self.damage.lock(), self.held.contains(stream));
                let leave = |located: &Located| held || damage.is_known(now, located);
                let added = planner.add(&parts, leave, is_settled);
                if added == Added::LeavesSomething {
                    self.left.insert(*stream);
                }
            }
            match streams.last() {
                Some(last) => from = StreamId(last.0 + 1),
                None => break,
            }
            if planner.jobs() >= JOBS_PLANNED_MAX {
                self.carry_out(planner.take(), &mut pass).await?;
            }
            tokio::task::yield_now().await;
        }
        let (jobs, reclaim) = planner.finish();
        self.carry_out(jobs, &mut pass).await?;
        // Only a walk has seen all that names an object.
        let reclaim = if walks { reclaim } else { Reclaim::default() };
        pass.again |= !reclaim.is_empty();
        // A swap leaves less of its sources named; what failed may have been to empty an object.
        if pass.swapped || !pass.failed.is_empty() {
            self.walk_later();
        }
        if !pass.failed.is_empty() {
            self.held.extend(&pass.failed);
            let backoff = &mut self.backoff;
            let at = *self.retry_at.get_or_insert_with(|| Instant::now() + backoff.next_pause());
            let pause = at.saturating_duration_since(Instant::now());
            tracing::warn!(
                streams = self.held.len(),
                "compaction of what failed is tried again in {pause:.0?}"
            );
        } else if self.held.is_empty() {
            let options = &inner.config.compaction;
            self.backoff = Backoff::between(options.retry_pause_min, options.retry_pause_max);
        }
        // Where nothing else happens.
        if let Some(again) = self.damage.lock().next(began) {
            let again = again.max(began + inner.config.compaction.walk_interval);
            self.walk_at = Some(self.walk_at.map_or(again, |at| at.min(again)));
        }
        self.indexes.invalidate_all();
        self.indexes.run_pending_tasks().await;
        self.reclaim = reclaim;
        Ok(pass)
    }

    async fn carry_out(&self, jobs: Vec<Job>, pass: &mut Pass) -> Result<(), Error> {
        let at_once = self.inner.config.compaction.jobs_max;
        let mut jobs = futures::stream::iter(jobs.into_iter().map(|job| self.job(job).boxed()))
            .buffer_unordered(at_once);
        while let Some(done) = jobs.next().await {
            match done? {
                Next::Swapped => pass.swapped = true,
                Next::Learned => pass.learned = true,
                Next::Later(streams) => pass.failed.extend(streams),
            }
        }
        Ok(())
    }

    /// An error is final.
    async fn job(&self, job: Job) -> Result<Next, Error> {
        let counts = &self.inner.compaction;
        let failure = match job::run(self, &job).await {
            Ok(done) => {
                counts.jobs.fetch_add(1, Ordering::Relaxed);
                counts.parts.fetch_add(done.parts as u64, Ordering::Relaxed);
                counts.bytes_read.fetch_add(done.bytes_read, Ordering::Relaxed);
                counts.bytes_written.fetch_add(done.bytes_written, Ordering::Relaxed);
                return Ok(Next::Swapped);
            }
            Err(failure) => failure,
        };
        counts.failures.fetch_add(1, Ordering::Relaxed);
        let streams = || Next::Later(job.runs.iter().map(|run| run.parts[0].part.stream).collect());
        match failure {
            job::Failure::Final(error) => Err(error),
            job::Failure::Outdated(reason) => {
                tracing::debug!(reason, "a compaction was overtaken");
                Ok(streams())
            }
            job::Failure::Unavailable(reason) => {
                tracing::warn!(reason, "compaction cannot go on now");
                Ok(streams())
            }
            job::Failure::Away(found) => {
                self.note(found);
                Ok(streams())
            }
            job::Failure::Damaged(found) => Ok(if self.note(found) { Next::Learned } else { streams() }),
        }
    }

    /// Says whether all of it is remembered.
    fn note(&self, mut found: Vec<job::Damaged>) -> bool {
        found.sort_by_key(|found| (found.object, found.stream));
        found.dedup_by_key(|found| (found.object, found.stream));
        let (mut damage, now) = (self.damage.lock(), Instant::now());
        found.iter().filter(|found| damage.note(now, found)).count() == found.len()
    }
}

enum Next {
    Swapped,
    Learned,
    Later(BTreeSet<StreamId>),
}
