//! Kafka's topic and broker configs, as far as Ottla knows them.
//!
//! [`table`] is the one list: it gives validation, effective values, DescribeConfigs and the docs page. A config of
//! Kafka's that has no meaning here (index sizes, throttles) is accepted, kept and shown, as clients expect, and marked
//! in the table as without effect.
//!
//! A topic's value comes from the topic, else from the broker's config of the same meaning (`retention.ms`:
//! `log.retention.ms`, else `log.retention.minutes`, else `log.retention.hours`), else from the table. A broker's value
//! comes from what was set for it while it ran, else from what was set for all brokers, else from its start:
//!
//! ```text
//!   AlterConfigs ──► metadata ──► image ──┐
//!                                         ├─► CurrentConfig::now ──► BrokerConfig ──► TopicConfig
//!   --kafka at the start ─────────────────┘
//! ```
//!
//! Only configs that give topics' defaults can be set while a broker runs ([`table::is_dynamic`]); the others are
//! fixed at its start.

pub mod alter;
mod broker;
mod current;
pub mod describe;
mod docs;
mod kind;
mod layers;
pub mod table;
#[cfg(test)]
mod tests;
mod topic;

pub use broker::BrokerConfig;
pub use current::CurrentConfig;
pub use docs::markdown;
pub use kind::Kind;
pub use topic::{
    Cleanup, CompressionType, TimestampType, TopicConfig, validate_topic, validate_topic_internal,
};

/// Why a config is refused. Kafka's INVALID_CONFIG (40), with this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);
