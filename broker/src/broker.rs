//! What the parts of one broker share.

use std::sync::Arc;

use crate::config::BrokerConfig;
use crate::metadata::Metadata;

/// Shared by every connection and handler of one broker.
#[derive(Debug)]
pub struct Broker {
    /// Kafka's node id: 1 unless configured.
    pub node_id: i32,
    /// Stable for the life of the store.
    pub cluster_id: String,
    /// Kafka's broker configs, fixed for the broker's life.
    pub config: Arc<BrokerConfig>,
    pub metadata: Arc<Metadata>,
}
