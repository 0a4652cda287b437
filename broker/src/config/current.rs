//! The broker's configs as they hold at a moment: those of the start, with what was set while it ran on top.

use std::sync::Arc;

use parking_lot::Mutex;

use super::BrokerConfig;
use crate::metadata::Metadata;
use crate::metadata::image::{Config, Image};

/// Follows the metadata: a change that AlterConfigs made is in the next [`now`](CurrentConfig::now).
#[derive(Debug)]
pub struct CurrentConfig {
    at_start: Arc<BrokerConfig>,
    broker: u32,
    metadata: Arc<Metadata>,
    latest: Mutex<Latest>,
}

/// A config, and what of the metadata it was made from.
#[derive(Debug)]
struct Latest {
    cluster: Option<Arc<[Config]>>,
    own: Option<Arc<[Config]>>,
    config: Arc<BrokerConfig>,
}

impl CurrentConfig {
    /// Of the broker with the id `broker`, which was started with `at_start`.
    pub fn new(at_start: Arc<BrokerConfig>, broker: u32, metadata: Arc<Metadata>) -> CurrentConfig {
        let latest = Mutex::new(Latest { cluster: None, own: None, config: at_start.clone() });
        CurrentConfig { at_start, broker, metadata, latest }
    }

    /// What holds now. The same `Arc` until something is changed.
    pub fn now(&self) -> Arc<BrokerConfig> {
        self.of(&self.metadata.image())
    }

    /// What holds as of `image`.
    pub fn of(&self, image: &Image) -> Arc<BrokerConfig> {
        let cluster = image.shared_broker_configs(None);
        let own = image.shared_broker_configs(Some(self.broker));
        let mut latest = self.latest.lock();
        if !is_same(cluster, latest.cluster.as_ref()) || !is_same(own, latest.own.as_ref()) {
            let of = |configs: Option<&Arc<[Config]>>| configs.cloned().unwrap_or_default();
            let config = Arc::new(self.at_start.with_dynamic(&of(cluster), &of(own)));
            *latest = Latest { cluster: cluster.cloned(), own: own.cloned(), config };
        }
        latest.config.clone()
    }
}

fn is_same(one: Option<&Arc<[Config]>>, other: Option<&Arc<[Config]>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}
