//! The storage engine: append-only streams over a write-ahead log, two caches and a bucket.
//!
//! ```text
//!   Stream::append ──► wal ──► confirmed in order ──► log cache ──► listeners (waiting reads)
//!                                                        │
//!                                  sealed, all durable   ▼
//!                              upload: one mixed object + one object per large stream
//!                                                        │ StreamMetadata::commit (objects and WAL trim point: one entry)
//!                                                        ▼
//!                                                   wal.trim, cache block becomes evictable
//!
//!   compaction: data objects ──► fewer, larger ones ──► StreamMetadata::replace (the swap: one entry)
//!
//!   Stream::read ◄── log cache ◄── block cache (moka, read-ahead, single flight) ◄── data objects
//! ```
//!
//! A stream is a sequence of *records*: opaque bodies, each covering a range of offsets `[base, end)`. (In Kafka's
//! terms a record here is a batch.) Offsets are the caller's; appends are contiguous.
//!
//! # Invariants
//!
//! - **S1** A stream's record is confirmed only once the WAL says that it is durable, and in order: the confirmed end
//!   never moves back, and a read never returns anything at or beyond it.
//! - **S2** At any moment each offset between a stream's start and confirmed end is in at least one of: the WAL beyond
//!   its trim point, a committed data object.
//! - **S3** The WAL is trimmed to a point only after the commit that carries that point was accepted.
//! - **S4** A commit extends a stream exactly from its committed end; a commit that would leave a gap or an overlap is
//!   rejected by the metadata, not repaired here.
//! - **S5** Every byte that leaves an object is covered by a CRC that was checked on the way.
//! - **S6** Memory: the log cache, the block cache and reads in flight each have a budget in bytes.
//!
//! # How to use it
//!
//! ```text
//! recovery::recover(left, ..)      for each fenced incarnation: its WAL becomes committed objects
//! medium.open(..), Storage::start  the engine of this incarnation
//! storage.open_stream(id, listener)
//! storage.admit(bytes).await       back-pressure, before the order is fixed
//! stream.append(admission, record) fixes the order at once; the future it returns means durable
//! stream.read_cached(..)           tail reads without a wait; stream.read(..).await for everything
//! storage.failed().await           stop serving
//! storage.shutdown().await         leaves an empty WAL
//! ```
//!
//! Reading order: [`stream`], [`metadata`], [`storage`], `log_cache`, `ack`, `upload`, [`object`], [`block_cache`],
//! [`compaction`], [`recovery`], [`gc`].

mod ack;
mod backoff;
pub mod block_cache;
mod budget;
pub mod compaction;
pub mod config;
mod counters;
pub mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod gc;
mod log_cache;
pub mod metadata;
pub mod object;
pub mod record;
pub mod recovery;
pub mod storage;
pub mod stream;
mod upload;

pub use config::Config;
pub use error::{Error, ReadError};
pub use log_cache::RECORD_OVERHEAD_BYTES;
pub use metadata::{ObjectId, StreamId, StreamMetadata};
pub use record::StreamRecord;
pub use storage::{Admission, Listener, Status, Storage, Stores};
pub use stream::{Appending, Stream, Traffic};
