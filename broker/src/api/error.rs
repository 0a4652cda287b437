//! What clients are told when something goes wrong inside: the one place that maps errors to Kafka's codes.
//!
//! Chosen by what clients do with a code: 6 makes them look for the leader again, 56 and 19 make them try again, 2 and
//! -1 stop them. There is no wildcard arm on purpose: a new error needs a decision.

use kafka_protocol::error::ResponseError;
use s3stream::ReadError;

use crate::metadata::{self, CreatePartitionsError, CreateTopicError, GrowRejection, TopicRejection};
use crate::partition::state::Refused;
use crate::partition::validate::Reason;
use crate::partition::{AppendError, GetError, OpenError};

pub fn of_rejected(reason: Reason) -> ResponseError {
    match reason {
        Reason::Corrupt => ResponseError::CorruptMessage,
        Reason::TooLarge => ResponseError::MessageTooLarge,
        Reason::Timestamp => ResponseError::InvalidTimestamp,
        Reason::Transactional => ResponseError::InvalidTxnState,
        Reason::Compression => ResponseError::UnsupportedCompressionType,
        Reason::InvalidRecord => ResponseError::InvalidRecord,
    }
}

/// Not appended, and worth another try: what Kafka says when replicas are missing before the append.
pub const NO_ROOM: ResponseError = ResponseError::NotEnoughReplicas;

pub fn of_append(error: &AppendError) -> ResponseError {
    match error {
        AppendError::Refused(Refused::OutOfOrder { .. }) => ResponseError::OutOfOrderSequenceNumber,
        AppendError::Refused(Refused::Fenced { .. }) => ResponseError::InvalidProducerEpoch,
        AppendError::Storage(error) => of_storage(error),
        AppendError::NoRoom { .. } => NO_ROOM,
        AppendError::Leaving { .. } | AppendError::Left => ResponseError::NotLeaderOrFollower,
        AppendError::Deleted => ResponseError::UnknownTopicOrPartition,
    }
}

pub fn of_storage(error: &s3stream::Error) -> ResponseError {
    match error {
        // Somebody else leads now, or will as soon as this process has stopped.
        s3stream::Error::Fenced(_) | s3stream::Error::Closed(_) | s3stream::Error::NotOpen { .. } => {
            ResponseError::NotLeaderOrFollower
        }
        s3stream::Error::Failed(_) | s3stream::Error::Unavailable(_) | s3stream::Error::Corrupt(_) => {
            ResponseError::KafkaStorageError
        }
        s3stream::Error::Full(_) => NO_ROOM,
        s3stream::Error::TooLarge { .. } => ResponseError::MessageTooLarge,
        s3stream::Error::Rejected(_) => ResponseError::UnknownServerError,
    }
}

/// `OutOfRange` is the caller's to judge: only a leader with a fresh view may say so.
pub fn of_read(error: &ReadError) -> ResponseError {
    match error {
        ReadError::OutOfRange { .. } => ResponseError::OffsetOutOfRange,
        ReadError::Gone(_) => ResponseError::UnknownTopicOrPartition,
        ReadError::Unavailable(_) => ResponseError::KafkaStorageError,
        ReadError::Corrupt { .. } => ResponseError::CorruptMessage,
    }
}

pub fn of_get(error: &GetError) -> ResponseError {
    match error {
        GetError::Unknown => ResponseError::UnknownTopicOrPartition,
        GetError::NotLeader { .. } => ResponseError::NotLeaderOrFollower,
        GetError::Open(OpenError::Storage(error)) => of_storage(error),
        GetError::Open(OpenError::Read(_) | OpenError::Corrupt(_) | OpenError::Checkpoint(_)) => {
            ResponseError::KafkaStorageError
        }
    }
}

/// For requests that Kafka's controller would answer.
pub fn of_metadata(error: &metadata::Error) -> ResponseError {
    match error {
        // To look again is what these clients do after a time-out, and the outcome is as open as after one.
        metadata::Error::Unavailable(_) | metadata::Error::Unknown(_) | metadata::Error::Conflict(_) => {
            ResponseError::RequestTimedOut
        }
        // Somebody else answers for the cluster now: clients look for them.
        metadata::Error::Fenced(_) | metadata::Error::Failed(_) => ResponseError::NotController,
        metadata::Error::Refused(_) => ResponseError::UnknownServerError,
    }
}

pub fn of_create_topic(error: &CreateTopicError) -> ResponseError {
    match error {
        CreateTopicError::Metadata(error) => of_metadata(error),
        CreateTopicError::Rejected(rejection) => match rejection {
            TopicRejection::Exists(_) => ResponseError::TopicAlreadyExists,
            TopicRejection::Collides { .. } | TopicRejection::InvalidName(_) => {
                ResponseError::InvalidTopicException
            }
            TopicRejection::NoPartitions => ResponseError::InvalidPartitions,
            TopicRejection::TooManyPartitions { .. } => ResponseError::PolicyViolation,
            TopicRejection::IdTaken(_) => ResponseError::UnknownServerError,
            TopicRejection::Assignment(_) => ResponseError::InvalidReplicaAssignment,
        },
    }
}

pub fn of_create_partitions(error: &CreatePartitionsError) -> ResponseError {
    match error {
        CreatePartitionsError::Metadata(error) => of_metadata(error),
        CreatePartitionsError::Rejected(rejection) => of_growth(rejection),
    }
}

pub fn of_growth(rejection: &GrowRejection) -> ResponseError {
    match rejection {
        GrowRejection::Gone => ResponseError::UnknownTopicOrPartition,
        GrowRejection::Equal(_) | GrowRejection::Fewer { .. } => ResponseError::InvalidPartitions,
        GrowRejection::TooMany { .. } => ResponseError::PolicyViolation,
        GrowRejection::Assignment(_) => ResponseError::InvalidReplicaAssignment,
    }
}

/// COORDINATOR_LOAD_IN_PROGRESS is what Kafka says while it gets no producer ids from its controller; clients try again.
/// A broker that was fenced says so too, and closes the connection soon: to an idempotent producer NOT_COORDINATOR makes
/// no sense.
pub fn of_producer_id(error: &metadata::Error) -> ResponseError {
    match error {
        metadata::Error::Unavailable(_)
        | metadata::Error::Unknown(_)
        | metadata::Error::Conflict(_)
        | metadata::Error::Fenced(_)
        | metadata::Error::Failed(_) => ResponseError::CoordinatorLoadInProgress,
        metadata::Error::Refused(_) => ResponseError::UnknownServerError,
    }
}
