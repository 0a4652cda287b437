//! Errors, by what the caller does about them.

use crate::{ObjectId, StreamId, metadata};

/// Why an append, a flush, a trim or a recovery did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Another incarnation took over: stop serving for good.
    #[error("fenced: {0}")]
    Fenced(String),
    /// The engine failed and accepts nothing more. What was not confirmed has an unknown outcome; restart and recover.
    #[error("the storage engine failed: {0}")]
    Failed(String),
    /// The stream or the engine was closed in an orderly way.
    #[error("{0} is closed")]
    Closed(&'static str),
    /// The WAL has no room at this instant. Nothing was changed: admit again and repeat.
    #[error("no room in the write-ahead log: {0}")]
    Full(String),
    /// Larger than a budget allows; it will never fit.
    #[error("{bytes} bytes are over the limit of {limit_bytes}")]
    TooLarge { bytes: usize, limit_bytes: usize },
    /// There is no such stream, or this incarnation does not have it open.
    #[error("stream {} cannot be used: {detail}", .stream.0)]
    NotOpen { stream: StreamId, detail: String },
    /// An argument is out of bounds: a trim beyond the confirmed end, for instance.
    #[error("rejected: {0}")]
    Rejected(String),
    /// The metadata or the store does not answer; trying again later makes sense.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Recovered bytes are not what was written, or some are missing. Never skipped; needs an operator.
    #[error("corrupt: {0}")]
    Corrupt(String),
}

impl From<metadata::Error> for Error {
    fn from(error: metadata::Error) -> Error {
        match error {
            metadata::Error::Fenced(detail) => Error::Fenced(detail),
            metadata::Error::Conflict(detail) => Error::Unavailable(format!("metadata conflict: {detail}")),
            metadata::Error::Rejected(detail) => Error::Rejected(detail),
            metadata::Error::Unavailable(detail) => Error::Unavailable(detail),
        }
    }
}

impl From<wal::Error> for Error {
    fn from(error: wal::Error) -> Error {
        match error {
            wal::Error::Fenced(detail) => Error::Fenced(detail),
            wal::Error::Closed => Error::Closed("the write-ahead log"),
            wal::Error::Unavailable(detail) => Error::Unavailable(detail),
            wal::Error::Corrupt { location, detail } => {
                Error::Corrupt(format!("write-ahead log at {location}: {detail}"))
            }
            wal::Error::Failed(detail) | wal::Error::Refused(detail) => Error::Failed(detail),
        }
    }
}

/// Why a read did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is below the stream's start or beyond its confirmed end.
    #[error("out of range: the stream holds offsets from {start} up to {end}")]
    OutOfRange { start: u64, end: u64 },
    /// The stream was deleted.
    #[error("stream {} no longer exists", .0.0)]
    Gone(StreamId),
    /// The store does not answer; trying again later makes sense.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Bytes of an object are not what was written, or committed data is missing.
    #[error("corrupt: {object:?} for offset {offset}: {detail}")]
    Corrupt { object: Option<ObjectId>, offset: u64, detail: String },
}
