//! What may come of a call of [`Metadata`](super::Metadata).

use super::apply::Rejection;

/// By what the caller does about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Stop for good: another incarnation took over.
    #[error("fenced: {0}")]
    Fenced(String),
    /// Read the image again and start over.
    #[error("conflict: {0}")]
    Conflict(String),
    /// Not acceptable, now or later.
    #[error("{0}")]
    Refused(String),
    /// Nothing was changed; trying again later makes sense.
    #[error("metadata unavailable: {0}")]
    Unavailable(String),
    /// It may have been changed, or may be yet.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The log cannot be followed any further, or was closed: stop.
    #[error("metadata failed: {0}")]
    Failed(String),
}

impl From<metalog::Error> for Error {
    fn from(error: metalog::Error) -> Self {
        let reason = error.to_string();
        match error {
            metalog::Error::Unavailable(_) => Error::Unavailable(reason),
            metalog::Error::Unknown(_) => Error::Unknown(reason),
            metalog::Error::TooLarge { .. } | metalog::Error::Invalid(_) => Error::Refused(reason),
            metalog::Error::Corrupt { .. } | metalog::Error::Closed | metalog::Error::Failed(_) => {
                Error::Failed(reason)
            }
        }
    }
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        let reason = rejection.to_string();
        match rejection {
            Rejection::Fenced(_) => Error::Fenced(reason),
            Rejection::Conflict(_) => Error::Conflict(reason),
            Rejection::Invalid(_) | Rejection::NotFormatted | Rejection::AlreadyFormatted(_) => {
                Error::Refused(reason)
            }
            Rejection::Halted(_) => Error::Failed(reason),
        }
    }
}
