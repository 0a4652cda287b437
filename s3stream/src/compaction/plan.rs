//! What to merge. Pure: parts in, jobs out.
//!
//! ```text
//!   sizes of a stream's parts, oldest first:
//!
//!     64M  70M  64M │ 2M 2M … 2M   60K … 60K      (fan_in 32, full from 32 MiB on)
//!     └─ full: left alone  │          └─ 32 of a tier ──► one of the next
//!                          └─ 32 of a tier ──► one that is full
//! ```
//!
//! A part's **tier** is the power of `fan_in` that its size reaches: with 32, parts from 32 KiB to 1 MiB are of one tier, those
//! up to 32 MiB of the next. Parts of `full_bytes` and those that cannot be read divide a stream into segments; in
//! each the lowest tier with a run to merge gives this pass's merges. A run of tier *t* is of adjacent parts of tiers up
//! to *t*, as long as possible. It is merged
//!
//! - **P1** if `fan_in` of its parts are of tier *t*, or if it is as large as an object may be: then each of its bytes
//!   moves up at least a tier;
//! - **P2** if it can grow no more, because a part of a higher tier follows, and has `fan_in` parts; or two parts, where
//!   what follows is full. (Nothing is ever inserted there, so this happens to a byte once for each *t*.)
//!
//! # Bounds
//!
//! *Write amplification.* With *n* the number of tiers from that of a stream's uploads to the last that is not full, a
//! byte is rewritten at most *n* times if uploads are of about one size, and 2*n* times whatever their sizes. With the
//! defaults *n* is 0 for uploads from 32 MiB on, 1 from 1 MiB on, 2 from 32 KiB on.
//!
//! *Parts.* When there is nothing to do, at most `2 × bytes / full_bytes + 1` segments' ends and full parts, and in the
//! open segment at the stream's end fewer than `fan_in` parts of each tier for uploads of about one size.
//!
//! *Space.* An object with a quarter or less of it still named (others' streams moved on, this one's did not) is emptied: its
//! remaining parts are rewritten once, paid by three times as many bytes that are gone.
//!
//! Objects of which a job reads are read once for many streams: runs of neighbouring streams, which lie next to each other
//! in each source, are packed into one mixed object, those of `stream_object_bytes` have one of their own.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::Options;
use crate::metadata::Located;
use crate::object::{ENTRY_BYTES, RECORD_BYTES};
use crate::{Config, ObjectId};

/// Adjacent parts of one stream that become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub parts: Vec<Located>,
    /// It begins at the stream's start: its first part may have been cut, and have less than the metadata says.
    pub may_be_cut: bool,
}

/// What becomes one object, in order of stream, then offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Job {
    pub runs: Vec<Run>,
}

/// Objects to be emptied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reclaim(HashSet<ObjectId>);

impl Reclaim {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Run {
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|located| located.part.bytes).sum()
    }
}

impl Job {
    pub fn parts(&self) -> usize {
        self.runs.iter().map(|run| run.parts.len()).sum()
    }
}

/// What a look at a stream leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// Nothing, and so it will be until the stream changes: what is planned depends on its parts alone.
    Nothing,
    /// It has to be looked at again though nothing changes it: there is something to merge, which may fail; or something
    /// is left out, for a while.
    LeavesSomething,
}

/// Gathers the streams of one pass.
#[derive(Debug)]
pub(crate) struct Planner<'a> {
    options: &'a Options,
    stream_object_bytes: u64,
    streams_max: usize,
    reclaim: Reclaim,
    jobs: Vec<Job>,
    /// The mixed object that is being filled.
    open: Packed,
    /// Of objects that hold more than one part: size, and about how much of it is named.
    shared: HashMap<ObjectId, (u64, u64)>,
}

#[derive(Debug, Default)]
struct Packed {
    job: Job,
    bytes: u64,
    parts: usize,
    sources: HashSet<ObjectId>,
}

/// Of an object's size that may be still named when it is emptied: a quarter. Not less than this is won by it, in bytes.
/// No options: together they bound what reclaiming costs.
const RECLAIM_DIVISOR: u64 = 4;
const RECLAIM_BYTES_MIN: u64 = 8 << 20;

impl<'a> Planner<'a> {
    /// `reclaim` is what an earlier pass found.
    pub fn new(config: &'a Config, reclaim: Reclaim) -> Planner<'a> {
        Planner {
            options: &config.compaction,
            stream_object_bytes: config.stream_object_bytes as u64,
            streams_max: config.object_streams_max.min(config.commit_parts_max),
            reclaim,
            jobs: Vec::new(),
            open: Packed::default(),
            shared: HashMap::new(),
        }
    }

    /// All parts of a stream; streams in ascending order. `is_damaged` says what must not be touched now. What
    /// `is_settled` does not hold for was committed just now, or by this very pass: it and what follows is left for the
    /// next one.
    pub fn add(
        &mut self,
        parts: &[Located],
        is_damaged: impl Fn(&Located) -> bool,
        is_settled: impl Fn(ObjectId) -> bool,
    ) -> Added {
        let all = parts.len();
        let settled = parts.iter().position(|located| !is_settled(located.object));
        let parts = &parts[..settled.unwrap_or(parts.len())];
        for located in parts {
            if is_shared(located) {
                let (_, named) = self.shared.entry(located.object).or_insert((located.object_size_bytes, 0));
                // At least a block with a record: a size that includes them must not look like waste.
                *named += located.part.bytes + (ENTRY_BYTES + RECORD_BYTES) as u64;
            }
        }
        let mut runs = runs(parts, &is_damaged, self.options);
        if !self.reclaim.is_empty() {
            let reclaimed = |at: &usize| self.reclaim.0.contains(&parts[*at].object);
            let others: Vec<usize> = (0..parts.len())
                .filter(reclaimed)
                .filter(|at| !is_damaged(&parts[*at]) && !runs.iter().any(|run| run.contains(at)))
                .collect();
            runs.extend(others.into_iter().map(|at| at..at + 1));
            runs.sort_by_key(|run| run.start);
        }
        let leaves = !runs.is_empty() || parts.len() < all || parts.iter().any(&is_damaged);
        for run in runs {
            let may_be_cut = run.start == 0;
            self.push(Run { parts: parts[run].to_vec(), may_be_cut });
        }
        if leaves { Added::LeavesSomething } else { Added::Nothing }
    }

    fn push(&mut self, run: Run) {
        let bytes = run.bytes();
        if bytes >= self.stream_object_bytes {
            self.jobs.push(Job { runs: vec![run] });
            return;
        }
        let new = run.parts.iter().filter(|located| !self.open.sources.contains(&located.object)).count();
        let full = self.open.bytes + bytes > self.options.object_bytes
            || self.open.job.runs.len() >= self.streams_max
            || self.open.parts + run.parts.len() > self.options.parts_max
            || self.open.sources.len() + new > self.options.sources_max;
        if full && !self.open.job.runs.is_empty() {
            self.close();
        }
        self.open.bytes += bytes;
        self.open.parts += run.parts.len();
        self.open.sources.extend(run.parts.iter().map(|located| located.object));
        self.open.job.runs.push(run);
    }

    fn close(&mut self) {
        let packed = std::mem::take(&mut self.open);
        self.jobs.push(packed.job);
    }

    /// Jobs that are complete.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Jobs that are complete so far.
    pub fn take(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs)
    }

    /// The rest of the jobs, and what the next pass shall empty.
    pub fn finish(mut self) -> (Vec<Job>, Reclaim) {
        if !self.open.job.runs.is_empty() {
            self.close();
        }
        let wasteful = |(size, named): &(u64, u64)| {
            size.saturating_sub(*named) >= RECLAIM_BYTES_MIN && *named <= *size / RECLAIM_DIVISOR
        };
        // What it was to empty and could not is tried again when something else has changed.
        let found =
            self.shared.iter().filter(|(id, object)| wasteful(object) && !self.reclaim.0.contains(id));
        (self.jobs, Reclaim(found.map(|(id, _)| *id).collect()))
    }
}

/// Whether the object may hold parts of other streams, by its size.
fn is_shared(located: &Located) -> bool {
    located.part.bytes < located.object_size_bytes / 2
}

fn tier(bytes: u64, fan_in: usize) -> u32 {
    bytes.max(1).ilog(fan_in as u64)
}

/// The runs of a stream's parts to merge now; they do not overlap.
fn runs(parts: &[Located], is_damaged: &dyn Fn(&Located) -> bool, options: &Options) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut from = 0;
    for at in 0..=parts.len() {
        let divides =
            parts.get(at).is_none_or(|part| part.part.bytes >= options.full_bytes || is_damaged(part));
        if divides {
            let closed = at < parts.len();
            if at > from + 1 {
                segment(parts, from..at, closed, options, &mut runs);
            }
            from = at + 1;
        }
    }
    runs
}

/// The runs of one segment: those of the lowest tier that has any.
fn segment(
    parts: &[Located],
    segment: Range<usize>,
    closed: bool,
    options: &Options,
    found: &mut Vec<Range<usize>>,
) {
    let tier_of = |at: usize| tier(parts[at].part.bytes, options.fan_in);
    let top = segment.clone().map(tier_of).max().expect("a segment has parts");
    let lowest = segment.clone().map(tier_of).min().expect("a segment has parts");
    let before = found.len();
    for tier in lowest..=top {
        let mut from = segment.start;
        for at in segment.start..=segment.end {
            if at < segment.end && tier_of(at) <= tier {
                continue;
            }
            let run = from..at;
            from = at + 1;
            if run.len() < 2 {
                continue;
            }
            let of_tier = run.clone().filter(|at| tier_of(*at) == tier).count();
            let bytes: u64 = parts[run.clone()].iter().map(|located| located.part.bytes).sum();
            let grows = at == segment.end && !closed;
            let last = at == segment.end && tier == top;
            let grown = of_tier >= options.fan_in || bytes >= options.object_bytes;
            let ended = !grows && (run.len() >= options.fan_in || last);
            if grown || ended {
                found.push(bounded(parts, run, options));
            }
        }
        if found.len() > before {
            return;
        }
    }
}

/// As much of the beginning of `run` as one object and one job may hold; at least two parts.
fn bounded(parts: &[Located], run: Range<usize>, options: &Options) -> Range<usize> {
    let mut sources = HashSet::new();
    let mut bytes = 0;
    for (count, located) in parts[run.clone()].iter().enumerate() {
        sources.insert(located.object);
        let over = count >= options.parts_max || sources.len() > options.sources_max;
        if count >= 2 && (over || bytes >= options.object_bytes) {
            return run.start..run.start + count;
        }
        bytes += located.part.bytes;
    }
    run
}

#[cfg(test)]
mod tests;
