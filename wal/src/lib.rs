//! The write-ahead log: where an append becomes durable.
//!
//! A broker owns one WAL. Every append of every stream goes through it, so its order is the order in which
//! the broker acknowledges. A WAL knows bytes, devices and object stores; it knows neither streams nor Kafka.
//!
//! ```text
//!             append(record) ── order is fixed here (W1)
//!                  │
//!   ┌──────────────▼──────────────┐   several writes in flight; the medium may complete
//!   │ batch n+2   batch n+1   n   │   them in any order
//!   └──────────────┬──────────────┘
//!                  │ completer: releases futures strictly in append order (W2),
//!                  ▼            only while the right to acknowledge holds (O4, B1)
//!          Append futures resolve to a Position
//!
//!   trim(upto): the owner has made everything below `upto` durable elsewhere (W6)
//! ```
//!
//! # The contract
//!
//! - **W1** [`Wal::append`] fixes the order of records at the call and returns at once with a future. Back-pressure
//!   is in bytes: an [`AppendError::OverCapacity`] or a wait in [`Wal::admit`], never unbounded memory.
//! - **W2** Futures complete in append order, whatever the order in which the medium completed them.
//! - **W3** A completed append survives any crash of the process, of the host, and (for a shared volume or a bucket)
//!   the loss of the host.
//! - **W4** The only way to a writer ([`Medium::open`]) demands a [`Vacated`], and the only way to a `Vacated` is to
//!   have run the recovery of what the previous incarnation left (or to have found that there was none). After a
//!   seal by somebody else, no append that recovery did not yield can ever complete successfully.
//! - **W5** Recovery yields exactly the contiguous run of records from the trim point to the first hole. Holes and torn
//!   or stale records are told apart from data by position, epoch and checksum, never guessed.
//! - **W6** `trim(upto)` is idempotent, and space comes back only after the trim point itself is durable.
//! - **W7** A WAL is named by a [`Uri`], recorded in the cluster's metadata, so that any broker can open it for
//!   recovery.
//!
//! [`memory`], [`block`] and [`object`] implement it; [`conformance`] is the suite that all of them pass.
//!
//! Reading order: this file, [`record`], [`memory`] (the contract in its plainest form), then the medium of interest.

pub mod block;
pub mod conformance;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod memory;
pub mod object;
pub mod record;
mod release;
pub mod right;
pub mod uri;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;

pub use record::{Meta, Record};
#[cfg(feature = "any-order")]
pub use release::any_order;
pub use right::AckRight;
pub use uri::Uri;

/// One life of one broker. `epoch` is the number of the metadata log's entry that registered it, so a later life of
/// the same broker always has a larger one, and no clock is involved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation {
    pub broker: u32,
    pub epoch: u64,
}

/// Where a record lies in its incarnation's log: a byte position for a ring, a slot number for a bucket. Several
/// records may share one. Positions grow in append order and mean nothing across incarnations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// A WAL that is open for appending. One owner at a time; shared by reference.
#[async_trait]
pub trait Wal: Send + Sync + std::fmt::Debug + 'static {
    /// Waits until `bytes` of record (meta and body) would fit (W1). A hint that is fair and bounded, not a
    /// reservation: an [`append`](Wal::append) that follows may still meet [`AppendError::OverCapacity`]. Waits for a trim
    /// only where [`Status::may_need_trim`] says so.
    async fn admit(&self, bytes: usize) -> Result<(), Error>;

    /// Fixes `record`'s place in the log and returns at once (W1). Dropping the future does not take the append back.
    fn append(&self, record: Record) -> Result<Append, AppendError>;

    /// Somebody has waited for what was appended last, and not only for the log: it should not wait for company, nor for the log's
    /// budget, if there is one. A wish; how often it is granted is up to the log.
    fn hurry(&self) {}

    /// Gives up everything strictly below `upto` (W6). Callers make the trim point durable in the metadata log first;
    /// there it outranks what the medium says. Idempotent; a lower `upto` than before is a no-op. `upto` is a position
    /// that an append resolved to, or [`Status::durable`]: nothing else is known to lie between two records.
    async fn trim(&self, upto: Position) -> Result<(), Error>;

    /// The largest record, meta and body, that [`append`](Wal::append) takes: it fits into an empty log. Does not change.
    fn record_bytes_max(&self) -> usize;

    fn status(&self) -> Status;

    /// Resolves when the log has failed or was fenced, with the reason. Never resolves for a healthy log.
    async fn failed(&self) -> Error;

    /// Stops accepting appends, waits for those under way, and releases the medium. Idempotent.
    async fn close(&self);
}

/// Where a WAL lives, before anybody owns it.
#[async_trait]
pub trait Medium: Send + Sync + std::fmt::Debug + 'static {
    fn uri(&self) -> &Uri;

    /// Reads what `previous` left at and beyond `from`, its trim point by the metadata log. `previous` must already be
    /// fenced there (O1), and must have opened its log: one that ended before that left nothing to recover, and a volume
    /// on which it is not found is refused. A bucket is sealed by the walk; a volume is only read (B2). May be called
    /// again after a crash in the middle, and by several recoverers at once; each sees the same records (W5).
    async fn recover(&self, previous: Incarnation, from: Position) -> Result<Box<dyn Recovery>, Error>;

    /// Whether [`recover`](Medium::recover) may also be called while `previous`, fenced, still writes and acknowledges: where it only
    /// reads, and reads what is on the medium now. What it yields then is the beginning of the log, and does not change any
    /// more. How it ends, whether with `None` or an error, says nothing: what looks like a hole, or like damage, may be a
    /// write under way. Where the log ends is for a recovery to say that begins when `previous` can acknowledge no more (O4, B1).
    fn recovers_early(&self) -> bool {
        false
    }

    /// Opens the log for `owner`, under its own epoch, at an empty log (W4).
    /// `right` is consulted before every acknowledgement (O4, B1).
    async fn open(
        &self,
        owner: Incarnation,
        vacated: Vacated,
        right: Arc<AckRight>,
    ) -> Result<Arc<dyn Wal>, Error>;
}

/// The records that an incarnation left, oldest first (W5).
#[async_trait]
pub trait Recovery: Send {
    /// The next batch, or `None` once the first hole (for a bucket: the seal) was reached. An error is final; the
    /// caller starts over with [`Medium::recover`].
    async fn next(&mut self) -> Result<Option<Recovered>, Error>;

    /// Declares that every record was yielded and is durable and committed elsewhere.
    ///
    /// # Panics
    /// If [`next`](Recovery::next) has not returned `None` yet: giving up unread records would lose data.
    fn finish(self: Box<Self>) -> Vacated;
}

/// A run of records that share a position.
#[derive(Clone, Debug)]
pub struct Recovered {
    pub position: Position,
    pub records: Vec<Record>,
    /// Set where the batch is an object of its own in the store, which may be adopted by reference instead of being
    /// written again.
    pub origin: Option<Origin>,
}

/// An object that already holds a recovered batch, in the format that the [`object::SlotCodec`] writes.
#[derive(Clone, Debug)]
pub struct Origin {
    pub key: object_store::path::Path,
    /// The whole object.
    pub bytes: Bytes,
}

/// Proof that nothing of value is left in a medium (W4). Made by [`Recovery::finish`], or by
/// [`Vacated::new_medium`] for a WAL that never had an owner.
#[derive(Debug)]
pub struct Vacated(Proof);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    NeverOwned,
    NothingLeft,
    Recovered,
}

impl Vacated {
    /// For a WAL that, by the metadata log, never had an owner. Implementations still refuse a medium on which they
    /// find another cluster's data, or an owner that the metadata log should have known.
    pub fn new_medium() -> Vacated {
        Vacated(Proof::NeverOwned)
    }

    /// For a WAL on which, by the metadata log, nothing is left to recover: it never had an owner, or all that it had
    /// were recovered or closed it empty. Only the metadata log can say so, as of the entry that registered the owner
    /// to be. Another cluster's data and a later owner are still refused.
    pub fn nothing_left() -> Vacated {
        Vacated(Proof::NothingLeft)
    }

    pub(crate) fn recovered() -> Vacated {
        Vacated(Proof::Recovered)
    }

    /// Whether the caller believes that nobody ever owned the medium.
    pub(crate) fn claims_no_owner(&self) -> bool {
        self.0 == Proof::NeverOwned
    }
}

/// An append under way. Resolves to the record's position once it is durable, in append order (W2, W3).
#[derive(Debug)]
pub struct Append(tokio::sync::oneshot::Receiver<Result<Position, Error>>);

impl Append {
    /// The future and the sender that completes it. Dropping the sender counts as [`Error::Closed`].
    pub fn channel() -> (AppendCompletion, Append) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        (AppendCompletion(sender), Append(receiver))
    }
}

impl Future for Append {
    type Output = Result<Position, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|sent| sent.unwrap_or(Err(Error::Closed)))
    }
}

/// The other end of an [`Append`], held by the implementation.
#[derive(Debug)]
pub struct AppendCompletion(tokio::sync::oneshot::Sender<Result<Position, Error>>);

impl AppendCompletion {
    pub fn complete(self, result: Result<Position, Error>) {
        // The appender may have gone away; the record is in the log all the same.
        let _ = self.0.send(result);
    }
}

/// What a log holds, for back-pressure, upload decisions and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Everything below is trimmed.
    pub trimmed: Position,
    /// Everything below is durable. Trimming to it empties a quiet log.
    pub durable: Position,
    /// Bytes between the trim point and the last append, on the medium, padding included.
    pub used_bytes: u64,
    /// Bytes that the medium can hold; `u64::MAX` where there is no bound but the bill.
    pub capacity_bytes: u64,
    /// Slots between the trim point and the last append, each of which a recovery has to ask for; 0 where there are none.
    pub used_slots: u64,
}

/// What a record may take on the medium besides its bytes: headers, and padding to a block.
const FRAMING_BYTES_MAX: u64 = 128 << 10;

impl Status {
    /// Whether an admission of `bytes` that waits may be waiting for a trim. If not, what it waits for are writes under
    /// way: nobody has to do anything about it.
    pub fn may_need_trim(&self, bytes: u64) -> bool {
        // Twice: where a record does not fit before the end of a ring, less than its own size stays unused there.
        self.used_bytes.saturating_add(2 * (bytes + FRAMING_BYTES_MAX)) > self.capacity_bytes
    }
}

/// Why an append was not taken. The record is not in the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    #[error("the write-ahead log is full ({used_bytes} of {capacity_bytes} bytes): uploads do not keep up")]
    OverCapacity { used_bytes: u64, capacity_bytes: u64 },
    #[error("a record of {bytes} bytes is over the write-ahead log's limit of {limit_bytes}")]
    TooLarge { bytes: usize, limit_bytes: usize },
    #[error(transparent)]
    Wal(#[from] Error),
}

/// By what the caller does about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Another incarnation took over; stop for good.
    #[error("fenced: {0}")]
    Fenced(String),
    /// The log was closed in an orderly way.
    #[error("the write-ahead log is closed")]
    Closed,
    /// The medium failed; what was not yet acknowledged has an unknown outcome. Restart and recover.
    #[error("the write-ahead log failed: {0}")]
    Failed(String),
    /// The medium does not answer; trying again later makes sense.
    #[error("the write-ahead log's medium is unavailable: {0}")]
    Unavailable(String),
    /// Bytes that must be there are not, or are not what was written. Never skipped.
    #[error("corrupt write-ahead log at {location}: {detail}")]
    Corrupt { location: String, detail: String },
    /// The medium is somebody else's, in use, or of a version that this build does not know.
    #[error("{0}")]
    Refused(String),
}
