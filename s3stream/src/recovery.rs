//! Recovery: what a fenced incarnation left in its WAL becomes committed objects.
//!
//! ```text
//!   wal of the dead ──► walk ──► per stream: skip what is committed, demand the rest without a gap
//!                                  │
//!           a bucket's slot: adopt it by reference    a volume's records: write data objects of bounded size
//!                                  └───────────────┬──────────────┘
//!                                                  ▼
//!                     commit_recovered (from, objects, new trim point) … the last one completes the recovery
//! ```
//!
//! **Consistency.** The walk is the WAL's (W5); what it yields at or beyond a stream's committed end extends the stream
//! exactly (S4). A gap means that something acknowledged is missing: recovery stops, loudly, and skips nothing.
//! A commit names the trim point that it started from and moves it (O2), so two recoverers cannot both succeed with the
//! same record, and one that is late is told so.
//!
//! **Ahead of its end.** Where the dead one may go on writing for a while, and its log
//! [can be read all the same](Medium::recovers_early), [`recover_early`] takes what is whole by then, before [`recover`] does the rest.
//!
//! - **R1** It completes nothing and proves nothing. Its commits are never the last one, it makes no [`Vacated`], and how its walk
//!   ended counts for nothing: what looks like the end of the log, or like damage, may be a write under way.
//! - **R2** It commits the beginning of what a later recovery would find, by the same rules: no gaps, each record once. Its trim
//!   point is the last batch that it read: the later recovery begins there, skips what is committed, and finds all that came after.
//! - **R3** Where there is nothing to commit it commits nothing: a trim point that moves says that somebody gets on.
//! - **R4** When the wait is over it reads no more. What it has read by then it commits, which is what the later recovery would begin
//!   with; a store that is not available holds up both, and another recovery that went first ends it.
//!
//! **Memory.** A volume's records are held up to `recovery_bytes` plus one batch; slots one at a time.
//!
//! **Retries, cancellation, crash.** An unavailable store is waited for. After a crash at any point the next recovery
//! starts at the trim point of the last commit and skips what is below the streams' committed ends; objects that were
//! written and not committed are garbage. Running it twice, or twice at once, is harmless.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use object_store::ObjectStore;
use tokio::time::{Instant, timeout_at};
use wal::{Incarnation, Medium, Origin, Position, Record, Recovered, Recovery, Vacated};

use crate::backoff::Backoff;
use crate::counters::COUNTER_OF_RECOVERY;
use crate::metadata::{self, Commit, NewObject, StreamPart};
use crate::object::object_key;
use crate::record::{KIND_DATA, RecordMeta};
use crate::upload::commit::{is_applied, split};
use crate::upload::plan::{StreamRecords, plan};
use crate::upload::put::put;
use crate::{Config, Error, ObjectId, StreamId, StreamMetadata, StreamRecord};

/// What a fenced incarnation left, and what it is recovered with.
#[derive(Clone)]
pub struct Left<'a> {
    pub config: &'a Config,
    pub store: Arc<dyn ObjectStore>,
    /// Shows the fence already (O1).
    pub metadata: Arc<dyn StreamMetadata>,
    /// The recoverer.
    pub by: Incarnation,
    pub of: Incarnation,
    /// The trim point of `of`, read from `metadata` when that showed the fence (O1).
    pub from: Position,
}

/// Recovers what was left in `medium` at and beyond the trim point. On success the recovery is complete in the metadata: the
/// streams of the dead incarnation can be opened, and the medium can be opened for a new owner.
///
/// # Errors
/// [`Error::Unavailable`]: read the metadata again and call again. [`Error::Corrupt`]: needs an operator.
pub async fn recover(left: Left<'_>, medium: &dyn Medium) -> Result<Vacated, Error> {
    let mut backoff = Backoff::new(left.config);
    let mut walk = Walk::new(left);
    loop {
        match walk.run(medium).await {
            Err(wal::Error::Unavailable(reason)) => {
                tracing::warn!(reason, "the write-ahead log cannot be read for recovery now; retrying");
            }
            Err(error) => return Err(error.into()),
            Ok(outcome) => return outcome,
        }
        backoff.pause().await;
        walk.expected.clear();
        walk.gathered = Gathered::default();
    }
}

/// Recovers ahead of time what an incarnation that may still write and acknowledge has left so far (R1 to R3); nothing if `medium`
/// is not for that. Otherwise like [`recover`], which is still to be called when it can acknowledge no more.
///
/// Reads no more when it is `until`, and commits what it has read (R4).
///
/// # Errors
/// Why it has not come to an end. What was committed before stays, whatever it is.
pub async fn recover_early(left: Left<'_>, medium: &dyn Medium, until: Instant) -> Result<(), Error> {
    if !medium.recovers_early() {
        return Ok(());
    }
    Walk::new(left).run_early(medium, until).await
}

/// A walk that ends when it is `until`, wherever it is (R4).
struct Until {
    recovery: Box<dyn Recovery>,
    until: Instant,
}

#[async_trait]
impl Recovery for Until {
    async fn next(&mut self) -> Result<Option<Recovered>, wal::Error> {
        if Instant::now() >= self.until {
            return Ok(None);
        }
        timeout_at(self.until, self.recovery.next()).await.unwrap_or(Ok(None))
    }

    fn finish(self: Box<Self>) -> Vacated {
        self.recovery.finish()
    }
}

struct Walk<'a> {
    /// From the trim point after the last commit.
    left: Left<'a>,
    /// The last batch that was gathered, or where the walk begins.
    reached: Position,
    counter: AtomicU64,
    /// Where each stream's next record must begin; `None` for streams that were deleted.
    expected: HashMap<StreamId, Option<u64>>,
    gathered: Gathered,
}

/// What the next commit will hold.
#[derive(Default)]
struct Gathered {
    /// Records to write, by stream.
    contents: BTreeMap<StreamId, StreamRecords>,
    bytes: usize,
    /// Slots to adopt.
    slots: Vec<NewObject>,
    parts: usize,
}

impl Gathered {
    fn is_empty(&self) -> bool {
        self.contents.is_empty() && self.slots.is_empty()
    }
}

impl<'a> Walk<'a> {
    fn new(left: Left<'a>) -> Walk<'a> {
        // The upper half of the numbers belongs to recoveries, the engine of the same incarnation counts in the lower.
        // Another recovery of this incarnation takes other numbers; were it not so, a create would not overwrite anything.
        let counter = COUNTER_OF_RECOVERY | u64::from(rand::random::<u32>() >> 1) << 32;
        Walk {
            reached: left.from,
            left,
            counter: AtomicU64::new(counter),
            expected: HashMap::new(),
            gathered: Gathered::default(),
        }
    }

    /// The outer error is the WAL's and may be worth another try, the inner one is final.
    async fn run(&mut self, medium: &dyn Medium) -> Result<Result<Vacated, Error>, wal::Error> {
        let planted = u64::from(host::planted("recover-behind-the-trim-point"));
        let mut recovery = medium.recover(self.left.of, Position(self.left.from.0 + planted)).await?;
        if let Err(error) = self.walk(recovery.as_mut()).await? {
            return Ok(Err(error));
        }
        Ok(self.commit(self.reached, true).await.map(|()| recovery.finish()))
    }

    async fn run_early(&mut self, medium: &dyn Medium, until: Instant) -> Result<(), Error> {
        let Ok(recovery) = timeout_at(until, medium.recover(self.left.of, self.left.from)).await else {
            return Ok(());
        };
        let walked = self.walk(&mut Until { recovery: recovery?, until }).await;
        if let Ok(Err(error)) = walked {
            return Err(error);
        }
        // R1: however the walk ended, what it yielded is what is there.
        let last = host::planted("early-pass-is-the-end");
        if !self.gathered.is_empty() || last {
            self.commit(self.reached, last).await?;
        }
        walked?
    }

    /// Gathers what there is, and commits as often as that is enough for a commit. The outer error is the WAL's.
    async fn walk(&mut self, recovery: &mut dyn Recovery) -> Result<Result<(), Error>, wal::Error> {
        self.reached = self.left.from;
        while let Some(batch) = recovery.next().await? {
            if batch.position < self.reached {
                let at = batch.position;
                return Ok(Err(Error::Corrupt(format!("{:?}: recovery went back to {at:?}", self.left.of))));
            }
            // Everything before this batch has been gathered: that is how far a commit may trim.
            if self.is_full()
                && let Err(error) = self.commit(batch.position, false).await
            {
                return Ok(Err(error));
            }
            self.reached = batch.position;
            if let Err(error) = self.gather(batch).await {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    fn is_full(&self) -> bool {
        self.gathered.bytes >= self.left.config.recovery_bytes
            || self.gathered.parts >= self.left.config.commit_parts_max
    }

    async fn gather(&mut self, batch: Recovered) -> Result<(), Error> {
        let Recovered { position, records, origin } = batch;
        let mut parts: BTreeMap<StreamId, StreamPart> = BTreeMap::new();
        for record in records {
            let Some(meta) = self.next_of_stream(position, &record)? else { continue };
            let bytes = record.body.len();
            if origin.is_some() {
                let (base, end, max_timestamp) = (meta.base, meta.base, meta.max_timestamp);
                let part = parts.entry(meta.stream).or_insert(StreamPart {
                    stream: meta.stream,
                    base,
                    end,
                    max_timestamp,
                    bytes: 0,
                });
                part.end = meta.end;
                part.max_timestamp = part.max_timestamp.max(meta.max_timestamp);
                part.bytes += bytes as u64;
                continue;
            }
            if self.gathered.contents.get(&meta.stream).is_some_and(|run| run.epoch != meta.stream_epoch) {
                // A volume's objects hold one epoch of a stream each. This batch is not done with: trim up to it.
                self.commit(position, false).await?;
            }
            let run = self.gathered.contents.entry(meta.stream).or_insert_with(|| StreamRecords {
                stream: meta.stream,
                epoch: meta.stream_epoch,
                body_bytes: 0,
                records: Vec::new(),
            });
            run.body_bytes += bytes;
            let (base, end, max_timestamp) = (meta.base, meta.end, meta.max_timestamp);
            run.records.push(StreamRecord { base, end, max_timestamp, body: record.body });
            self.gathered.bytes += crate::log_cache::charge_of(bytes);
        }
        self.gathered.parts = self.gathered.parts.max(self.gathered.contents.len());
        match origin {
            Some(origin) if !parts.is_empty() => self.adopt(position, &origin, parts.into_values().collect()),
            _ => Ok(()),
        }
    }

    /// The record's meta if it is to be kept, `None` if its stream has it already or is gone.
    fn next_of_stream(&mut self, position: Position, record: &Record) -> Result<Option<RecordMeta>, Error> {
        let corrupt = |detail: String| {
            Err(Error::Corrupt(format!("write-ahead log of {:?} at {}: {detail}", self.left.of, position.0)))
        };
        let Some(meta) = RecordMeta::decode(&record.meta).filter(|_| record.kind == KIND_DATA) else {
            return corrupt(format!("a record of kind {} that this build does not know", record.kind));
        };
        let expected = self.expected.entry(meta.stream).or_insert_with(|| {
            // The view holds the fence, so nothing of `of` itself comes behind it; what another recoverer commits
            // meanwhile makes ours a conflict.
            let view = self.left.metadata.stream(meta.stream)?;
            if view.owner == Some(self.left.of) {
                return Some(view.committed_end);
            }
            // It was handed over, with all that it held: to insist on more would never be accepted, and hold up everything else.
            if meta.end > view.committed_end {
                tracing::error!(
                    stream = meta.stream.0,
                    of = ?self.left.of,
                    owner = ?view.owner,
                    base = meta.base,
                    committed_end = view.committed_end,
                    "a record of a stream that belongs to somebody else is left behind"
                );
            }
            None
        });
        let Some(next) = expected else { return Ok(None) };
        if meta.end <= *next {
            return Ok(None);
        }
        if meta.base != *next {
            let detail = if meta.base > *next { "records are missing between" } else { "a record straddles" };
            return corrupt(format!("stream {}: {detail} {} and {}", meta.stream.0, *next, meta.base));
        }
        *next = meta.end;
        Ok(Some(meta))
    }

    fn adopt(&mut self, position: Position, origin: &Origin, parts: Vec<StreamPart>) -> Result<(), Error> {
        let id = ObjectId::Slot { owner: self.left.of, slot: position.0 };
        if object_key(id) != origin.key {
            return Err(Error::Corrupt(format!(
                "slot {} of {:?} lies at {}",
                position.0, self.left.of, origin.key
            )));
        }
        self.gathered.parts += parts.len();
        self.gathered.slots.push(NewObject { id, size_bytes: origin.bytes.len() as u64, parts });
        Ok(())
    }

    async fn commit(&mut self, wal_trim: Position, last: bool) -> Result<(), Error> {
        let gathered = std::mem::take(&mut self.gathered);
        let mut objects = gathered.slots;
        let contents: Vec<StreamRecords> = gathered.contents.into_values().collect();
        let (by, counter) = (self.left.by, &self.counter);
        let next_id = || ObjectId::Data { owner: by, counter: counter.fetch_add(1, Ordering::Relaxed) };
        let puts = plan(contents, self.left.config)
            .into_iter()
            .map(|contents| put(self.left.config, self.left.store.as_ref(), &next_id, contents));
        let written: Vec<NewObject> =
            futures::stream::iter(puts).buffered(self.left.config.puts_in_flight_max).collect().await;
        objects.extend(written);
        let mut entries = split(objects, self.left.config.commit_parts_max);
        let final_entry = entries.pop().unwrap_or_default();
        for objects in entries {
            self.commit_entry(objects, self.left.from, false).await?;
        }
        self.commit_entry(final_entry, wal_trim, last).await?;
        self.left.from = wal_trim;
        Ok(())
    }

    async fn commit_entry(
        &self,
        objects: Vec<NewObject>,
        wal_trim: Position,
        last: bool,
    ) -> Result<(), Error> {
        let commit = Commit { owner: self.left.of, objects, wal_trim };
        let mut backoff = Backoff::new(self.left.config);
        loop {
            let attempt = self
                .left
                .metadata
                .commit_recovered(self.left.by, self.left.of, self.left.from, commit.clone(), last)
                .await;
            match attempt {
                Ok(()) => return Ok(()),
                Err(metadata::Error::Fenced(reason)) => return Err(Error::Fenced(reason)),
                Err(metadata::Error::Unavailable(reason)) => {
                    tracing::warn!(reason, "commit of recovered records failed; retrying");
                }
                Err(metadata::Error::Conflict(_) | metadata::Error::Rejected(_))
                    if self.is_done(&commit, last) =>
                {
                    return Ok(());
                }
                Err(metadata::Error::Conflict(reason)) => {
                    return Err(Error::Unavailable(format!("another recovery went first: {reason}")));
                }
                // One that has come as far as this adopted some of the same slots.
                Err(metadata::Error::Rejected(reason))
                    if commit.objects.iter().any(|object| matches!(object.id, ObjectId::Slot { .. })) =>
                {
                    return Err(Error::Unavailable(format!("another recovery went first: {reason}")));
                }
                Err(metadata::Error::Rejected(reason)) => {
                    return Err(Error::Failed(format!("a recovery's commit was rejected: {reason}")));
                }
            }
            backoff.pause().await;
        }
    }

    /// Whether there is nothing left to do for a commit that was refused: an earlier attempt, whose answer was lost, or another
    /// recoverer has done it. That the objects are named says nothing of the recovery: slots bear the same names for every
    /// recoverer, and one that died may have adopted them and not come to the end.
    fn is_done(&self, commit: &Commit, last: bool) -> bool {
        match self.left.metadata.recovered_to(self.left.of) {
            None => true,
            Some(trim) => !last && trim == commit.wal_trim && is_applied(self.left.metadata.as_ref(), commit),
        }
    }
}
