//! One job: read, check, write, swap.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::Compactor;
use super::damage::Why;
use super::plan::{Job, Run};
use super::sink::Sink;
use crate::backoff::Backoff;
use crate::block_cache::fetch::CachedIndex;
use crate::block_cache::{self, within};
use crate::metadata::{self, Located, NewObject, Replacement, StreamPart};
use crate::object::{Block, BlockEntry, Identity, Options, StreamingWriter};
use crate::record::KIND_DATA;
use crate::{Error, ObjectId, StreamId};

/// What a job did.
pub(super) struct Done {
    pub parts: usize,
    pub bytes_read: u64,
    pub bytes_written: u64,
}

/// By what happens next.
pub(super) enum Failure {
    /// The engine stops.
    Final(Error),
    /// The metadata has moved on: plan anew.
    Outdated(String),
    /// Later: the store takes no writes.
    Unavailable(String),
    /// Not with these: everything that could not be read, of all that the job reads.
    Damaged(Vec<Damaged>),
    /// Later: of all that was tried nothing could be reached. As far as it was.
    Away(Vec<Damaged>),
}

/// Something that cannot be read.
#[derive(Debug)]
pub(super) struct Damaged {
    pub why: Why,
    pub object: ObjectId,
    /// If only that is concerned.
    pub stream: Option<StreamId>,
    pub offset: u64,
    pub detail: String,
}

/// Requests of one window at a time; their bytes are the window's. No option: it hides the store's latency.
const GETS_MAX: usize = 8;
const INDEXES_MAX: usize = 4;
/// A job that cannot reach so many objects, and none before, looks for no more: it is not they, it is the store. No
/// option: it only bounds what an outage costs.
const UNAVAILABLE_MAX: usize = 8;
/// How often is looked whether producers still wait for room, and how long compaction stands back for them at most in
/// one place, where nothing is uploaded either: what it does makes room too, in the end.
const STAND_BACK_STEP: Duration = Duration::from_millis(20);
const STAND_BACK_MAX: Duration = Duration::from_secs(5);

/// A part to be copied.
struct Piece<'a> {
    located: &'a Located,
    run: usize,
    may_be_cut: bool,
}

/// A block to be copied, and for which piece.
struct Wanted {
    piece: usize,
    entry: BlockEntry,
}

pub(super) async fn run(compactor: &Compactor, job: &Job) -> Result<Done, Failure> {
    let inner = &compactor.inner;
    let writing = inner.counters.begin();
    let id = ObjectId::Data { owner: inner.owner, counter: writing.next() };
    let mut sink = Sink::new(&inner.config, inner.stores.compaction.as_ref(), id);
    let copied = match copy(compactor, job, id, &mut sink).await {
        Ok(copied) => copied,
        Err(failure) => {
            sink.abandon().await;
            return Err(failure);
        }
    };
    let Copied { writer, parts, bytes } = copied;
    let written = match sink.finish(writer.finish()).await {
        Ok(written) => written,
        Err(reason) => {
            sink.abandon().await;
            return Err(Failure::Unavailable(reason));
        }
    };
    let bytes_written = written.size_bytes;
    // What is replaced is said by the metadata's bounds: between records there may be gaps.
    let object = NewObject { parts, ..written };
    let mut sources: Vec<ObjectId> =
        job.runs.iter().flat_map(|run| &run.parts).map(|located| located.object).collect();
    sources.sort_unstable();
    sources.dedup();
    swap(compactor, Replacement { object, sources }).await?;
    drop(writing);
    Ok(Done { parts: job.parts(), bytes_read: bytes, bytes_written })
}

struct Copied {
    writer: StreamingWriter,
    /// Of the runs of which there were records.
    parts: Vec<StreamPart>,
    bytes: u64,
}

async fn copy(
    compactor: &Compactor,
    job: &Job,
    id: ObjectId,
    sink: &mut Sink<'_>,
) -> Result<Copied, Failure> {
    let config = &compactor.inner.config;
    let pieces: Vec<Piece<'_>> = job.runs.iter().enumerate().flat_map(|(run, of)| pieces(run, of)).collect();
    let (wanted, whole, mut damaged) = wanted(compactor, &pieces).await?;
    let identity = Identity { object: id, nonce: uuid::Uuid::new_v4().as_u128() };
    let writer = StreamingWriter::new(identity, Options { block_bytes: config.object_block_bytes });
    let parts = job.runs.iter().map(part_of).collect();
    let mut copy =
        Copy { pieces: &pieces, writer, parts, records: vec![0; job.runs.len()], at: 0, bytes: 0, last: 0 };
    for window in windows(&wanted, config.compaction.memory_bytes / 4) {
        let bytes = window.iter().map(|wanted| u64::from(wanted.entry.size)).sum();
        stand_back(compactor, bytes).await;
        tokio::time::sleep_until(compactor.pace.take(Instant::now(), bytes)).await;
        let blocks = match fetch(compactor, &pieces, &whole, window, &mut damaged).await {
            // What was found is not to be found again.
            Err(_) if !damaged.is_empty() => return Err(Failure::Damaged(damaged)),
            fetched => fetched?,
        };
        // From here on the rest is read only to find the rest of the damage: the next job goes around all of it.
        for (wanted, block) in window.iter().zip(blocks) {
            if damaged.is_empty()
                && let Err(found) = copy.add(wanted, &block.expect("what cannot be read is damaged"))
            {
                damaged.push(found);
            }
            // A window's checksums take tens of milliseconds: others come in between.
            tokio::task::yield_now().await;
        }
        if damaged.is_empty() {
            let chunks = copy.writer.take();
            sink.push(chunks).await.map_err(Failure::Unavailable)?;
        }
    }
    if damaged.is_empty()
        && let Err(found) = copy.end_of_pieces(pieces.len())
    {
        damaged.push(found);
    }
    if !damaged.is_empty() {
        return Err(Failure::Damaged(damaged));
    }
    // All that is left of a run may lie between the records of a compacted topic: nothing to swap it for.
    let parts: Vec<StreamPart> = copy
        .parts
        .iter()
        .zip(&copy.records)
        .filter(|(_, records)| **records > 0)
        .map(|(part, _)| *part)
        .collect();
    if parts.is_empty() {
        let empty = pieces.iter().map(|piece| piece.located).map(|located| Damaged {
            why: Why::Empty,
            object: located.object,
            stream: Some(located.part.stream),
            offset: located.part.base,
            detail: "no record of it is left".to_owned(),
        });
        return Err(Failure::Damaged(empty.collect()));
    }
    let bytes = parts.iter().map(|part| part.bytes).sum();
    Ok(Copied { writer: copy.writer, parts, bytes })
}

fn pieces(run: usize, of: &Run) -> impl Iterator<Item = Piece<'_>> {
    of.parts.iter().enumerate().map(move |(at, located)| {
        if at > 0 {
            let before = of.parts[at - 1].part;
            assert!(
                before.stream == located.part.stream && before.end == located.part.base,
                "a run is adjacent"
            );
        }
        Piece { located, run, may_be_cut: at == 0 && of.may_be_cut }
    })
}

fn part_of(run: &Run) -> StreamPart {
    let (first, last) = (run.parts.first().expect("has parts"), run.parts.last().expect("has parts"));
    StreamPart { end: last.part.end, max_timestamp: -1, bytes: 0, ..first.part }
}

/// Small objects that came with their indexes.
type Whole = HashMap<ObjectId, Bytes>;

/// The blocks of all pieces, in the order of the new object, and of which pieces there is no telling. Of the indexes no
/// more is kept.
async fn wanted(
    compactor: &Compactor,
    pieces: &[Piece<'_>],
) -> Result<(Vec<Wanted>, Whole, Vec<Damaged>), Failure> {
    let mut by_object: HashMap<ObjectId, Vec<usize>> = HashMap::new();
    for (at, piece) in pieces.iter().enumerate() {
        by_object.entry(piece.located.object).or_default().push(at);
    }
    let mut whole = Whole::new();
    let (mut wanted, mut damaged, mut is_reached) = (Vec::new(), Vec::new(), false);
    let indexes = by_object.into_values().map(|of_object| index_of(compactor, pieces, of_object).boxed());
    let mut indexes = futures::stream::iter(indexes).buffer_unordered(INDEXES_MAX);
    while let Some(fetched) = indexes.next().await {
        let (of_object, index) = match fetched {
            Err(Failure::Damaged(found)) => {
                is_reached |= found.iter().any(|found| found.why != Why::Unavailable);
                damaged.extend(found);
                if !is_reached && damaged.len() >= UNAVAILABLE_MAX {
                    return Err(Failure::Away(damaged));
                }
                continue;
            }
            Err(_) if !damaged.is_empty() => return Err(Failure::Damaged(damaged)),
            other => other?,
        };
        is_reached = true;
        for at in of_object {
            let Located { object, part, .. } = *pieces[at].located;
            let entries = &index.index.blocks()[index.index.seek(part.stream, part.base)];
            let entries = &entries[..entries.partition_point(|entry| entry.base < part.end)];
            let foreign = entries.iter().find(|entry| entry.kind != KIND_DATA);
            let detail = if entries.is_empty() && !pieces[at].may_be_cut {
                Some("it holds nothing of the offsets that the metadata says it does".to_owned())
            } else {
                foreign.map(|entry| format!("a block's kind is {}", entry.kind))
            };
            if let Some(detail) = detail {
                let stream = Some(part.stream);
                damaged.push(Damaged { why: Why::Broken, object, stream, offset: part.base, detail });
                continue;
            }
            wanted.extend(entries.iter().map(|entry| Wanted { piece: at, entry: *entry }));
        }
        if let Some(bytes) = &index.whole {
            whole.insert(index.index.identity().object, bytes.clone());
        }
    }
    drop(indexes);
    wanted.sort_by_key(|wanted| (wanted.piece, wanted.entry.base));
    Ok((wanted, whole, damaged))
}

async fn index_of(
    compactor: &Compactor,
    pieces: &[Piece<'_>],
    of_object: Vec<usize>,
) -> Result<(Vec<usize>, Arc<CachedIndex>), Failure> {
    let located = pieces[of_object[0]].located;
    let index = compactor.indexes.try_get_with(located.object, compactor.fetcher.index(located)).await;
    index
        .map(|index| (of_object, index))
        .map_err(|error: Arc<block_cache::Error>| failure(compactor, (*error).clone(), located, None))
}

/// Cuts into pieces of at most `bytes`, or of one block.
fn windows(wanted: &[Wanted], bytes: u64) -> impl Iterator<Item = &[Wanted]> {
    let mut rest = wanted;
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = rest.iter().take_while(|wanted| {
            sum += u64::from(wanted.entry.size);
            sum <= bytes
        });
        let (window, after) = rest.split_at(fits.count().max(1).min(rest.len()));
        rest = after;
        (!window.is_empty()).then_some(window)
    })
}

/// C5.
async fn stand_back(compactor: &Compactor, bytes: u64) {
    let inner = &compactor.inner;
    let until = Instant::now() + STAND_BACK_MAX;
    // What is begun without anybody waiting is taken from the credit too: it was paid for by the same uploads.
    while !compactor.credit.take(inner.bytes_uploaded.load(Ordering::Relaxed), bytes)
        && inner.is_pressed()
        && Instant::now() < until
    {
        tokio::time::sleep(STAND_BACK_STEP).await;
    }
}

/// The blocks of a window, in its order; `None` for those that are added to `damaged`, and for the rest of objects that
/// cannot be reached. What lies together in a source comes with one GET.
async fn fetch(
    compactor: &Compactor,
    pieces: &[Piece<'_>],
    whole: &Whole,
    window: &[Wanted],
    damaged: &mut Vec<Damaged>,
) -> Result<Vec<Option<Block>>, Failure> {
    let object_of = |at: usize| pieces[window[at].piece].located.object;
    let away: HashSet<ObjectId> =
        damaged.iter().filter(|found| found.why == Why::Unavailable).map(|found| found.object).collect();
    let mut order: Vec<usize> = (0..window.len()).filter(|at| !away.contains(&object_of(*at))).collect();
    order.sort_unstable_by_key(|at| (object_of(*at), window[*at].entry.position));
    let get_bytes_max = compactor.inner.config.block_cache.get_bytes_max;
    let mut bytes = 0;
    let together = order.chunk_by(|one, next| {
        bytes += u64::from(window[*one].entry.size);
        let adjacent = object_of(*one) == object_of(*next)
            && window[*one].entry.position_end() == window[*next].entry.position
            && bytes + u64::from(window[*next].entry.size) <= get_bytes_max;
        if !adjacent {
            bytes = 0;
        }
        adjacent
    });
    let together: Vec<Vec<usize>> = together.map(<[usize]>::to_vec).collect();
    let gets = together.into_iter().map(|run| get(compactor, pieces, whole, window, run).boxed());
    let mut gets = futures::stream::iter(gets).buffer_unordered(GETS_MAX);
    let mut blocks: Vec<Option<Block>> = vec![None; window.len()];
    while let Some((run, landed)) = gets.try_next().await? {
        for (at, block) in run.iter().zip(landed) {
            match block {
                Ok(block) => blocks[*at] = Some(block),
                Err(found) => damaged.push(found),
            }
        }
    }
    Ok(blocks)
}

/// Blocks that lie together in one source.
async fn get(
    compactor: &Compactor,
    pieces: &[Piece<'_>],
    whole: &Whole,
    window: &[Wanted],
    run: Vec<usize>,
) -> Result<(Vec<usize>, Vec<Result<Block, Damaged>>), Failure> {
    let located = pieces[window[run[0]].piece].located;
    let entries: Vec<BlockEntry> = run.iter().map(|at| window[*at].entry).collect();
    let whole = whole.get(&located.object);
    match compactor.fetcher.blocks(located, whole, &entries).await {
        Ok(blocks) => Ok((run, blocks.into_iter().map(Ok).collect())),
        // Of several blocks one is damaged: its stream is to blame, not its neighbours.
        Err(block_cache::Error::Corrupt { .. }) if run.len() > 1 => {
            let mut blocks = Vec::with_capacity(run.len());
            for (at, entry) in run.iter().zip(&entries) {
                let located = pieces[window[*at].piece].located;
                match compactor.fetcher.blocks(located, whole, std::slice::from_ref(entry)).await {
                    Ok(one) => blocks.extend(one.into_iter().map(Ok)),
                    Err(error) => blocks.push(Err(found(failure(compactor, error, located, Some(entry)))?)),
                }
            }
            Ok((run, blocks))
        }
        Err(error) => {
            let mut blocks = Vec::with_capacity(run.len());
            for (at, entry) in run.iter().zip(&entries) {
                let located = pieces[window[*at].piece].located;
                blocks.push(Err(found(failure(compactor, error.clone(), located, Some(entry)))?));
            }
            Ok((run, blocks))
        }
    }
}

/// The damage, if it is that.
fn found(failure: Failure) -> Result<Damaged, Failure> {
    match failure {
        Failure::Damaged(mut one) if one.len() == 1 => Ok(one.remove(0)),
        other => Err(other),
    }
}

/// The copying itself: what a job wrote so far.
struct Copy<'a> {
    pieces: &'a [Piece<'a>],
    writer: StreamingWriter,
    /// One for each run, and how many records it has.
    parts: Vec<StreamPart>,
    records: Vec<usize>,
    /// The piece that is being copied, and how much of it was.
    at: usize,
    bytes: u64,
    /// End of the last record of the run.
    last: u64,
}

impl Copy<'_> {
    fn add(&mut self, wanted: &Wanted, block: &Block) -> Result<(), Damaged> {
        self.end_of_pieces(wanted.piece)?;
        let piece = &self.pieces[wanted.piece];
        let part = &piece.located.part;
        let entry = block.entry();
        for number in within(block, part, 0) {
            let record = block.record(number);
            if record.end > part.end
                || record.base < self.last
                || (record.base < part.base && !piece.may_be_cut)
            {
                return Err(self.damaged(
                    wanted.piece,
                    format!(
                        "a record {}..{} lies across {}..{}",
                        record.base, record.end, part.base, part.end
                    ),
                ));
            }
            self.last = record.end;
            self.bytes += record.body.len() as u64;
            let to = &mut self.parts[piece.run];
            to.bytes += record.body.len() as u64;
            self.records[piece.run] += 1;
            to.max_timestamp = to.max_timestamp.max(record.max_timestamp);
            self.writer.add(part.stream, entry.stream_epoch, entry.kind, record);
        }
        Ok(())
    }

    /// All pieces before `to` are complete: C1.
    fn end_of_pieces(&mut self, to: usize) -> Result<(), Damaged> {
        while self.at < to {
            let piece = &self.pieces[self.at];
            let committed = piece.located.part.bytes;
            if self.bytes > committed || (self.bytes < committed && !piece.may_be_cut) {
                let detail = format!("{} bytes of records, the metadata has {committed}", self.bytes);
                return Err(self.damaged(self.at, detail));
            }
            self.at += 1;
            self.bytes = 0;
            if self.pieces.get(self.at).is_some_and(|next| next.run != piece.run) {
                self.last = 0;
            }
        }
        Ok(())
    }

    fn damaged(&self, piece: usize, detail: String) -> Damaged {
        let Located { object, part, .. } = *self.pieces[piece].located;
        Damaged { why: Why::Broken, object, stream: Some(part.stream), offset: part.base, detail }
    }
}

/// `entry` is the first of the blocks that were asked for; `None` for an index.
fn failure(
    compactor: &Compactor,
    error: block_cache::Error,
    located: &Located,
    entry: Option<&BlockEntry>,
) -> Failure {
    let stream = entry.map(|entry| entry.stream);
    let offset = entry.map_or(located.part.base, |entry| entry.base);
    let damaged =
        |why, object, stream, detail| Failure::Damaged(vec![Damaged { why, object, stream, offset, detail }]);
    match error {
        block_cache::Error::Unavailable { object, .. } => {
            damaged(Why::Unavailable, object, None, error.to_string())
        }
        block_cache::Error::Missing { object } => {
            // Deleted with its topic, or replaced? Then nobody misses it.
            let part = &located.part;
            let now = compactor.inner.metadata.locate(part.stream, part.base, 1);
            if now.first().is_some_and(|now| now.object == object) {
                damaged(Why::Broken, object, None, "it is not in the store".to_owned())
            } else {
                Failure::Outdated(error.to_string())
            }
        }
        block_cache::Error::Corrupt { object, .. } | block_cache::Error::Unsupported { object, .. } => {
            damaged(Why::Broken, object, stream, error.to_string())
        }
    }
}

/// C3.
async fn swap(compactor: &Compactor, replacement: Replacement) -> Result<(), Failure> {
    let inner = &compactor.inner;
    let mut backoff = Backoff::new(&inner.config);
    loop {
        match inner.metadata.replace(inner.owner, vec![replacement.clone()]).await {
            Ok(()) => return Ok(()),
            Err(metadata::Error::Fenced(reason)) => return Err(Failure::Final(Error::Fenced(reason))),
            Err(metadata::Error::Conflict(reason)) => return Err(Failure::Outdated(reason)),
            Err(metadata::Error::Rejected(reason)) => {
                // A defect of ours, but no reason to stop: the swap did not happen, and nothing depends on it.
                tracing::error!(reason, object = ?replacement.object.id, "the swap of a compacted object was rejected");
                return Err(Failure::Outdated(reason));
            }
            Err(metadata::Error::Unavailable(reason)) => {
                tracing::warn!(reason, "the swap of a compacted object failed; retrying");
            }
        }
        backoff.pause().await;
    }
}
