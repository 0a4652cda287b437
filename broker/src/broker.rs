//! What the parts of one broker share.

use std::sync::Arc;

use wal::AckRight;

use crate::api::fetch_session::Sessions;
use crate::cluster::Peers;
use crate::config::{BrokerConfig, CurrentConfig};
use crate::group::Groups;
use crate::metadata::Metadata;
use crate::partition::{Partition, Partitions};

/// Shared by every connection and handler of one broker.
#[derive(Debug)]
pub struct Broker {
    /// Kafka's node id: 1 unless configured.
    pub node_id: i32,
    /// Stable for the life of the store.
    pub cluster_id: String,
    /// Kafka's broker configs, as they hold at a moment.
    pub configs: Arc<CurrentConfig>,
    /// Where the data is, as an operator knows it: what tools show as the log directory.
    pub data_location: String,
    pub metadata: Arc<Metadata>,
    /// The other brokers.
    pub peers: Arc<Peers>,
    pub partitions: Arc<Partitions>,
    /// To be shut down before the partitions are.
    pub groups: Arc<Groups>,
    /// Whether what this broker says about the present may be believed: out-of-range and latest offsets are answered
    /// only while it holds.
    pub right: Arc<AckRight>,
    pub fetch_sessions: Sessions,
}

impl Broker {
    /// Kafka's broker configs as they hold now. Take it once per request.
    pub fn config(&self) -> Arc<BrokerConfig> {
        self.configs.now()
    }

    /// Whether what this broker has found out about a partition's present is true, and no other broker knows better. To be
    /// asked last.
    pub fn speaks_for(&self, partition: &Partition) -> bool {
        self.right.holds() && partition.is_current()
    }
}

#[cfg(test)]
impl Broker {
    /// A broker over a memory WAL, whose incarnation is registered and has opened its leaderships.
    pub(crate) async fn for_test(
        store: Arc<dyn object_store::ObjectStore>,
        metadata: Arc<Metadata>,
        config: BrokerConfig,
    ) -> Broker {
        use wal::Medium;
        let owner = metadata.incarnation().expect("registered");
        let right = Arc::new(AckRight::unlimited());
        let medium = wal::memory::MemoryMedium::new("test", Default::default());
        let wal = medium.open(owner, wal::Vacated::new_medium(), right.clone()).await.expect("an empty WAL");
        let storage =
            s3stream::Storage::start(s3stream::Config::default(), store, metadata.clone(), wal, owner);
        let config = Arc::new(config);
        let partitions = Partitions::start(Default::default(), owner.broker, storage, metadata.clone());
        Broker {
            node_id: owner.broker as i32,
            cluster_id: metadata.cluster_id().to_string(),
            groups: Arc::new(Groups::of_broker(
                Default::default(),
                metadata.clone(),
                partitions.clone(),
                right.clone(),
                config.clone(),
            )),
            configs: Arc::new(CurrentConfig::new(config, owner.broker, metadata.clone())),
            data_location: "memory:".to_owned(),
            peers: Arc::new(Peers::start(Default::default(), metadata.clone(), right.clone())),
            partitions,
            metadata,
            right,
            fetch_sessions: Sessions::default(),
        }
    }
}
