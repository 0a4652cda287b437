//! What went wrong with the metadata, as Kafka's error codes.

use kafka_protocol::ResponseError;

use crate::metadata::{CreateTopicError, Error, TopicRejection};

/// For requests that Kafka's controller would answer.
pub fn code(error: &Error) -> ResponseError {
    match error {
        // To read again and start over is what these clients do after a time-out, and the outcome is as open as after
        // one.
        Error::Unavailable(_) | Error::Unknown(_) | Error::Conflict(_) => ResponseError::RequestTimedOut,
        // Somebody else answers for the cluster now: clients look for them.
        Error::Fenced(_) | Error::Failed(_) => ResponseError::NotController,
        Error::Refused(_) => ResponseError::UnknownServerError,
    }
}

/// For the creation of a topic.
pub fn create_topic_code(error: &CreateTopicError) -> ResponseError {
    match error {
        CreateTopicError::Metadata(error) => code(error),
        CreateTopicError::Rejected(rejection) => match rejection {
            TopicRejection::Exists(_) => ResponseError::TopicAlreadyExists,
            TopicRejection::Collides { .. } | TopicRejection::InvalidName(_) => {
                ResponseError::InvalidTopicException
            }
            TopicRejection::NoPartitions => ResponseError::InvalidPartitions,
            TopicRejection::TooManyPartitions { .. } => ResponseError::PolicyViolation,
            TopicRejection::IdTaken(_) => ResponseError::UnknownServerError,
        },
    }
}
