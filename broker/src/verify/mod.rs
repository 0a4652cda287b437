//! Does the bucket hold what the metadata says, and nothing else?
//!
//! ```text
//!   metadata log ──► image ──► named objects ──┐
//!                                              ├─ compare: missing, of another size
//!   listing of the whole bucket ──► keys ──────┤
//!                                              └─ named by nothing: why, and may the collector delete it?
//!   with checksums:  every named object ──► footer, index, blocks ──► are the offsets that its streams expect there?
//! ```
//!
//! **Consistency.** It only reads, and works beside a living broker. An object that seems to be missing, damaged or
//! unnamed is judged again on a state that was read afterwards: what was collected meanwhile is no problem, what
//! was committed meanwhile is no orphan.
//!
//! **Memory.** The metadata, and a few words for each object and part of a stream; of objects a few megabytes at a time.
//! What is reported one by one is bounded by [`Options::details_max`]; the counts are exact.
//!
//! **Retries.** Reads that fail are tried again a few times; a store that does not answer ends the run with an error.

mod listing;
mod objects;

use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;

use crate::metadata;
use crate::metadata::observer::Observer;

/// How thoroughly to look, and how hard.
#[derive(Clone, Debug)]
pub struct Options {
    /// Read every named object whole, and check every checksum and offset in it.
    pub checksums: bool,
    /// Objects that are read at once. Default 4.
    pub reads_in_flight_max: usize,
    /// Bytes of one GET, at least a block. Default 8 MiB.
    pub get_bytes_max: u64,
    /// Problems and orphans that are named one by one. Default 10,000.
    pub details_max: usize,
    /// One answer of the store. Default 60 s.
    pub request_timeout: Duration,
    /// How often a read is tried. Default 5.
    pub attempts_max: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            checksums: false,
            reads_in_flight_max: 4,
            get_bytes_max: 8 << 20,
            details_max: 10_000,
            request_timeout: Duration::from_secs(60),
            attempts_max: 5,
        }
    }
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub kind: ProblemKind,
    /// A key of the store, or where else.
    pub location: String,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// The metadata names it, and it is not in the store.
    Missing,
    WrongSize,
    /// Its bytes are not what was written.
    Corrupt,
    /// The metadata contradicts itself.
    Metadata,
}

impl ProblemKind {
    pub fn name(self) -> &'static str {
        match self {
            ProblemKind::Missing => "missing",
            ProblemKind::WrongSize => "wrong size",
            ProblemKind::Corrupt => "corrupt",
            ProblemKind::Metadata => "metadata",
        }
    }
}

/// An object that the metadata does not name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    pub key: String,
    pub size_bytes: u64,
    pub reason: String,
    /// Whether the collector may delete it now, or once its delay is over.
    pub collectable: bool,
}

/// Number and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub objects: u64,
    pub bytes: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub cluster: String,
    /// The last entry of the metadata log that was looked at first.
    pub entry: u64,
    pub topics: u64,
    pub partitions: u64,
    pub streams: u64,
    /// Pieces that the streams consist of: a cold read takes a request or two for each.
    pub parts: u64,
    /// Named by at least one part of a stream, and there.
    pub named: Sum,
    /// Condemned by the metadata, and still there.
    pub garbage: Sum,
    /// Known to nobody, and the collector's to delete.
    pub orphans: Sum,
    /// Not named (yet), and not to be touched: uploads under way, slots of living logs.
    pub pending: Sum,
    pub seals: Sum,
    /// Entries and snapshots of the metadata log.
    pub metadata_log: Sum,
    /// Keys that Ottla does not make.
    pub foreign: Sum,
    /// Read whole and checked, with `checksums`.
    pub checked: Sum,
    pub checked_blocks: u64,
    pub problem_count: u64,
    /// At most [`Options::details_max`].
    pub problems: Vec<Problem>,
    /// At most [`Options::details_max`]: garbage, orphans, pending and foreign objects.
    pub unnamed: Vec<Orphan>,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }
}

/// Is told how far it is.
pub trait Progress: Send + Sync {
    /// Objects were listed.
    fn listed(&self, objects: u64);
    /// Of `total` bytes, `bytes` were read and checked.
    fn checked(&self, bytes: u64, total: u64);
}

/// For whoever does not want to know.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn listed(&self, _: u64) {}
    fn checked(&self, _: u64, _: u64) {}
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Metadata(#[from] metadata::Error),
    #[error("the store cannot be read: {0}")]
    Store(String),
}

/// Looks at everything once. Problems are in the report, not in the error.
pub async fn verify(
    metadata_store: Arc<dyn ObjectStore>,
    store: Arc<dyn ObjectStore>,
    log: metalog::Config,
    options: Options,
    progress: &dyn Progress,
) -> Result<Report, Error> {
    let observer = Observer::open(metadata_store, log).await?;
    let mut run = Run { store, options, observer, report: Report::default() };
    let outcome = run.all(progress).await;
    run.observer.close().await;
    outcome.map(|()| run.report)
}

struct Run {
    store: Arc<dyn ObjectStore>,
    options: Options,
    observer: Observer,
    report: Report,
}

impl Run {
    async fn all(&mut self, progress: &dyn Progress) -> Result<(), Error> {
        let image = self.observer.image();
        let report = &mut self.report;
        report.cluster = image.cluster().map(|cluster| cluster.id.to_string()).unwrap_or_default();
        report.entry = image.number();
        report.topics = image.topics().count() as u64;
        report.partitions = image.partition_count() as u64;
        report.streams = image.stream_count() as u64;
        report.parts = image.objects().map(|(_, object)| u64::from(object.parts)).sum();
        if let Err(contradiction) = image.check() {
            self.problem(ProblemKind::Metadata, format!("entry {}", image.number()), contradiction);
        }
        self.compare_with_listing(progress).await?;
        if self.options.checksums {
            self.check_objects(progress).await?;
        }
        Ok(())
    }

    fn problem(&mut self, kind: ProblemKind, location: String, detail: String) {
        self.report.problem_count += 1;
        if self.report.problems.len() < self.options.details_max {
            self.report.problems.push(Problem { kind, location, detail });
        }
    }

    fn unnamed(&mut self, orphan: Orphan) {
        if self.report.unnamed.len() < self.options.details_max {
            self.report.unnamed.push(orphan);
        }
    }
}
