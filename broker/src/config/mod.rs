//! Kafka's topic and broker configs, as far as Ottla knows them.
//!
//! [`table`] is the one list: it gives validation, effective values, DescribeConfigs and the docs page. A config of
//! Kafka's that has no meaning here (index sizes, throttles) is accepted, kept and shown, as clients expect, and marked
//! in the table as without effect.
//!
//! A topic's value comes from the topic, else from the broker's config of the same meaning (`retention.ms`:
//! `log.retention.ms`, else `log.retention.minutes`, else `log.retention.hours`), else from the table.

mod broker;
pub mod describe;
mod docs;
mod kind;
pub mod table;
#[cfg(test)]
mod tests;
mod topic;

pub use broker::BrokerConfig;
pub use docs::markdown;
pub use kind::Kind;
pub use topic::{
    Cleanup, CompressionType, TimestampType, TopicConfig, validate_topic, validate_topic_internal,
};

/// Why a config is refused. Kafka's INVALID_CONFIG (40), with this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);
