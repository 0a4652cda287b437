//! What can go wrong between this command and a broker, said so that a person knows what to do next.

use std::io;
use std::time::Duration;

use kafka_protocol::ResponseError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot connect to {address}: {reason}. Is the broker running? `ottla serve` starts one; --bootstrap HOST:PORT names another"
    )]
    Connect { address: String, reason: io::Error },
    #[error(
        "broker {node} tells clients to connect to {address}, which does not work from here: {reason}. Start it with --advertise HOST:PORT, an address that clients can reach"
    )]
    Advertised { node: i32, address: String, reason: io::Error },
    #[error("the connection to {address} broke: {detail}")]
    Lost { address: String, detail: String },
    #[error("{address} did not answer within {timeout:?}; --timeout allows more")]
    Timeout { address: String, timeout: Duration },
    #[error("{address} does not speak {api}; is it a Kafka broker of version 2.4 or later?")]
    Unsupported { address: String, api: String },
    #[error("{address} sent something that cannot be understood: {detail}")]
    Malformed { address: String, detail: String },
    #[error("broker {node} is not in the cluster's metadata")]
    NoBroker { node: i32 },
    #[error("{what}: {}", explain(.error, .message.as_deref()))]
    Kafka { what: String, error: ResponseError, message: Option<String> },
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Whether trying again may help.
    pub fn is_retriable(&self) -> bool {
        match self {
            Error::Lost { .. } | Error::NoBroker { .. } | Error::Timeout { .. } => true,
            Error::Kafka { error, .. } => error.is_retriable(),
            Error::Connect { .. }
            | Error::Advertised { .. }
            | Error::Unsupported { .. }
            | Error::Malformed { .. }
            | Error::Usage(_) => false,
        }
    }

    /// Whether nobody listens where a broker should be.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Error::Connect { .. } | Error::Advertised { .. })
    }

    pub fn is(&self, wanted: ResponseError) -> bool {
        matches!(self, Error::Kafka { error, .. } if *error == wanted)
    }
}

/// An error code of a response as an error. `what` says what was being done, `message` is the broker's own, if any.
pub fn check(code: i16, what: impl FnOnce() -> String, message: Option<&str>) -> Result<(), Error> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(error) => Err(Error::Kafka {
            what: what(),
            error,
            message: message.filter(|message| !message.is_empty()).map(str::to_owned),
        }),
    }
}

/// The broker's own words, or ours for what people meet most; then what to do about it.
fn explain(error: &ResponseError, message: Option<&str>) -> String {
    let (statement, advice) = match error {
        ResponseError::UnknownTopicOrPartition => {
            ("it does not exist", "`ottla topic list` shows what does, `ottla topic create TOPIC` makes one")
        }
        ResponseError::TopicAlreadyExists => ("it exists already", "`ottla topic describe TOPIC` shows it"),
        ResponseError::InvalidTopicException => {
            ("the name is not valid", "Use 1 to 249 letters, digits, '.', '_' and '-'")
        }
        ResponseError::LeaderNotAvailable | ResponseError::NotLeaderOrFollower => {
            ("it has no leader at the moment", "Is every broker running?")
        }
        ResponseError::CoordinatorNotAvailable | ResponseError::CoordinatorLoadInProgress => {
            ("the group's coordinator is not available at the moment", "Try again in a while")
        }
        ResponseError::MessageTooLarge | ResponseError::RecordListTooLarge => {
            ("a record is too large for the topic", "The topic's max.message.bytes says what is allowed")
        }
        ResponseError::GroupIdNotFound => {
            ("there is no such group", "`ottla group list` shows those there are")
        }
        ResponseError::InvalidConfig => {
            ("the value is not valid", "`ottla config describe --all` shows all configs")
        }
        ResponseError::InvalidPartitions => {
            ("that is no more partitions than it has", "Partitions can be added, and not be taken away")
        }
        ResponseError::NonEmptyGroup => ("the group has members", "Stop its consumers first"),
        ResponseError::GroupSubscribedToTopic => {
            ("the group's members consume the topic", "Stop its consumers first")
        }
        ResponseError::TopicAuthorizationFailed
        | ResponseError::GroupAuthorizationFailed
        | ResponseError::ClusterAuthorizationFailed => ("this user may not do that", ""),
        _ => ("the broker refused", ""),
    };
    let statement = message.unwrap_or(statement).trim_end_matches('.');
    if advice.is_empty() {
        format!("{statement} ({error})")
    } else {
        format!("{statement} ({error}). {advice}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_happened_to_what_and_what_to_do() {
        let error = check(3, || "topic greetings".to_owned(), None).unwrap_err();
        assert!(error.is_retriable());
        let text = error.to_string();
        assert!(
            text.starts_with("topic greetings: it does not exist (UnknownTopicOrPartition). `ottla"),
            "{text}"
        );
        let error = check(44, || "topic x".to_owned(), Some("no")).unwrap_err();
        assert_eq!(error.to_string(), "topic x: no (PolicyViolation)");
        assert!(check(0, || unreachable!(), None).is_ok());
        let refused = Error::Connect {
            address: "127.0.0.1:1".to_owned(),
            reason: io::ErrorKind::ConnectionRefused.into(),
        };
        assert!(refused.to_string().contains("ottla serve"));
    }
}
