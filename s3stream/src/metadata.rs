//! What the storage engine needs to know and to have recorded: the seam to the metadata log.
//!
//! Guarantees of an implementation:
//!
//! - **M1** A command returns `Ok` only once it is durable and accepted by the deterministic validation of its entry.
//! - **M2** A command of a fenced incarnation is rejected with [`Error::Fenced`] (O6).
//! - **M3** [`StreamMetadata::commit`] is atomic: all objects and the WAL trim point, or nothing. It is rejected unless
//!   each stream's part begins exactly at that stream's committed end (S4).
//! - **M4** Reads see at least everything that this process's own accepted commands did.
//! - **M5** [`StreamMetadata::replace`] is atomic too. A part of a replacement takes the place of whole parts that lie in
//!   its sources, or of what retention left of them; anything else is a conflict. It changes no stream's bounds.

pub mod memory;

use async_trait::async_trait;
use wal::{Incarnation, Position};

/// Never reused within a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Names an object without reservation: who wrote it, and a counter of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectId {
    /// Uploaded or compacted: `data/<spread>/<broker>-<epoch>-<counter>`.
    Data { owner: Incarnation, counter: u64 },
    /// A slot of an object WAL, adopted by reference: `wal/<broker>/<epoch>/<slot>`.
    Slot { owner: Incarnation, slot: u64 },
}

/// A stream as the metadata has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamView {
    pub id: StreamId,
    /// The epoch under which it was opened last.
    pub epoch: u64,
    /// Offsets below are gone (retention, DeleteRecords).
    pub start: u64,
    /// Everything below is in data objects.
    pub committed_end: u64,
    /// The incarnation that has it open; `None` if closed.
    pub owner: Option<Incarnation>,
    /// Where each epoch began, oldest first: the leader epoch table.
    pub epochs: Vec<EpochStart>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: u64,
    pub start: u64,
}

/// The part of an object that belongs to one stream: offsets `[base, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPart {
    pub stream: StreamId,
    pub base: u64,
    pub end: u64,
    /// Largest timestamp in the part, milliseconds; -1 if none.
    pub max_timestamp: i64,
    pub bytes: u64,
}

/// An object and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewObject {
    pub id: ObjectId,
    pub size_bytes: u64,
    /// In stream order. For an adopted slot only what lies beyond each stream's committed end, clipped inside a block
    /// if need be (O2).
    pub parts: Vec<StreamPart>,
}

/// Objects and the WAL trim point that they make possible: one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Whose data it is; whose trim point moves.
    pub owner: Incarnation,
    pub objects: Vec<NewObject>,
    /// The lowest WAL position that still holds anything uncommitted after this entry.
    pub wal_trim: Position,
}

/// An object that takes the place of what it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Each of its parts covers whole parts of the stream, as they were when they were read.
    pub object: NewObject,
    /// Where those lay.
    pub sources: Vec<ObjectId>,
}

/// Where to find a range of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    pub object: ObjectId,
    pub object_size_bytes: u64,
    /// Valid offsets of the stream in this object, after clipping. The object may hold more of the stream than that.
    pub part: StreamPart,
}

/// See the module's guarantees.
#[async_trait]
pub trait StreamMetadata: Send + Sync + std::fmt::Debug + 'static {
    /// `None` if there is no such stream (any more).
    fn stream(&self, id: StreamId) -> Option<StreamView>;

    /// The parts that cover `[from, …)`, in offset order, at most `limit`. Empty if `from` is at or beyond the
    /// committed end. The first may begin below `from`.
    fn locate(&self, id: StreamId, from: u64, limit: usize) -> Vec<Located>;

    /// The first part in offset order whose `max_timestamp` is at least `timestamp`.
    fn locate_timestamp(&self, id: StreamId, timestamp: i64) -> Option<Located>;

    /// The part with the largest `max_timestamp`, the first of several.
    fn locate_max_timestamp(&self, id: StreamId) -> Option<Located>;

    /// Streams that `owner` has open, from the id `from` on, ascending, at most `limit`.
    fn owned_streams(&self, owner: Incarnation, from: StreamId, limit: usize) -> Vec<StreamId>;

    /// How far the recovery of `of` has come: its trim point; `None` once nothing of it is left to recover.
    fn recovered_to(&self, of: Incarnation) -> Option<Position>;

    /// From here on reads see every command that was accepted, of anybody, before the call. An error says that this cannot be had
    /// now.
    async fn catch_up(&self) -> Result<(), Error>;

    /// M3.
    async fn commit(&self, commit: Commit) -> Result<(), Error>;

    /// Commits what recovery of the fenced incarnation `of` found (O2): `by` is the recoverer, `from` the trim point it
    /// started at; rejected with [`Error::Conflict`] if that moved or the recovery is complete already. `last` marks
    /// the recovery complete; streams of `of` can be opened from then on.
    async fn commit_recovered(
        &self,
        by: Incarnation,
        of: Incarnation,
        from: Position,
        commit: Commit,
        last: bool,
    ) -> Result<(), Error>;

    /// Moves streams' starts forward. A start beyond what is known is a bug of the caller and rejected.
    async fn trim(&self, by: Incarnation, trims: Vec<(StreamId, u64)>) -> Result<(), Error>;

    /// M5. Parts of streams that were deleted meanwhile, or trimmed beyond the part, are dropped. Accepted again if it
    /// was accepted before: a caller that does not know the outcome asks again. Sources are objects of which it knows that
    /// their own commit was accepted: that commit cannot be told to be a repetition any more.
    async fn replace(&self, by: Incarnation, replacements: Vec<Replacement>) -> Result<(), Error>;
}

/// By what the caller does about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Stop for good: another incarnation took over.
    #[error("fenced: {0}")]
    Fenced(String),
    /// Read the metadata again and start over.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The command is not acceptable and will not be.
    #[error("rejected: {0}")]
    Rejected(String),
    /// The store does not answer; the outcome is known to be "not applied" or will be resolved by a retry.
    #[error("metadata unavailable: {0}")]
    Unavailable(String),
}
