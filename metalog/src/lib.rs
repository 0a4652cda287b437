//! The metadata log: a replicated state machine whose log is a run of numbered objects in a bucket.
//!
//! ```text
//!   meta/log/00000000000000000041   created with If-None-Match: * — whoever creates number n has committed entry n
//!   meta/log/00000000000000000042     ▲ carries its own nonce and its predecessor's
//!   meta/snapshot/…                   bounds replay; old entries go in ascending order, late
//!   meta/trimmed                      there once the first entry was deleted: from then on a snapshot must be found
//!
//!   propose(command) ─► queue ─► read to the tail, create the next number ─► apply ─► outcome
//!                                   └─ lost? read on, try again; queued commands join the next entry
//! ```
//!
//! It knows numbers, nonces, snapshots and object stores; what a command means is the [`Machine`]'s business. There is
//! no election: any number of appenders may race, and every one of them is right.
//!
//! # Guarantees
//!
//! - **L1** Entry *n* is what the one successful create of number *n* wrote, for every reader and for ever.
//! - **L2** A command has succeeded only once its entry was applied here; its outcome is the machine's, deterministic.
//! - **L3** A create whose outcome is unknown (time-out, 5xx, 409, "already exists" after a hidden retry) is resolved by
//!   reading the object back and comparing nonces, never by assuming. A command is applied at most once.
//! - **L4** Each entry and snapshot names its predecessor's nonce. On a mismatch a reader discards its state and reloads.
//! - **L5** Deleted numbers cannot be re-created unnoticed: after a create (or a 404) at n+1, entry n must still exist
//!   with the known nonce, and the age of the view is checked again afterwards.
//! - **L6** Only create-if-absent is used, so the same code runs on every store that [`probe`] accepts.
//! - **L7** Everything is bounded: an entry's bytes, the queue of proposals, the retries of one attempt.
//!
//! Reading order: this file, [`entry`], `log` (create, read, walk), `state`, [`replica`], then `load`, [`snapshot`] and
//! `retention`. [`probe`] stands alone.

pub mod config;
pub mod entry;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod load;
mod log;
pub mod probe;
pub mod replica;
mod retention;
pub mod snapshot;
mod state;

pub use config::{Clock, Config, SystemClock};
pub use entry::Issuer;
pub use replica::{Applied, Polled, Proposed, Replica, View};

/// A deterministic state machine: the same commands in the same order give the same state and the same outcomes on
/// every replica. It does no I/O and reads no clock. Clones must be cheap (persistent maps): every entry makes one.
pub trait Machine: Clone + Send + Sync + 'static {
    /// What a proposer learns: accepted or rejected, and whatever else the command yields.
    type Outcome: Send + 'static;

    /// Applies one command of an entry. Bytes that are no command must give an outcome too, the same one everywhere.
    fn apply(&mut self, context: &Applying, command: &[u8]) -> Self::Outcome;

    /// The whole state. Equal states give equal bytes.
    fn snapshot(&self) -> Vec<u8>;

    /// The state from the bytes of [`snapshot`](Machine::snapshot); [`Error::Corrupt`] if they are none.
    fn restore(bytes: &[u8]) -> Result<Self, Error>;
}

/// What a machine may know about the entry that it applies a command of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applying {
    pub number: u64,
    /// The issuer's wall clock in milliseconds since the Unix epoch. It may run backwards from entry to entry.
    pub time_ms: i64,
    pub issuer: Option<Issuer>,
}

/// By what the caller does about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing was changed; trying again later makes sense.
    #[error("the metadata log is unavailable: {0}")]
    Unavailable(String),
    /// The command may have been applied, may be applied yet, or never will be. Look at a refreshed view; commands
    /// that must not take effect twice need an identity of their own.
    #[error("it is unknown whether the metadata command took effect: {0}")]
    Unknown(String),
    /// Split the change.
    #[error("a metadata command of {bytes} bytes is over the limit of {limit_bytes}; split the change")]
    TooLarge { bytes: usize, limit_bytes: usize },
    /// An object of the log is not what it must be. The replica has stopped; nothing was skipped.
    #[error("the metadata log is damaged at {object}: {detail}")]
    Corrupt { object: String, detail: String },
    /// An invariant of the replica is broken, and it has stopped: what it did last has an unknown outcome.
    #[error("the metadata log's replica has failed: {0}")]
    Failed(&'static str),
    /// The replica was closed in an orderly way. The command was not sent.
    #[error("the metadata log is closed")]
    Closed,
    /// A configuration that cannot work.
    #[error("{0}")]
    Invalid(String),
}
