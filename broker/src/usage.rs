//! What a broker has used of its store since it started, as one document: what `ottla cost` prices.
//!
//! Counters of the process, not of the cluster: a restart begins anew, and says since when it counts. Nothing is written
//! to the store for it.

use serde::{Deserialize, Serialize};

use crate::broker::Broker;
use crate::store::meter::{Meter, Purpose, Totals};

/// See the module. Bodies of records are counted as they are stored: compressed, with their batches' headers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub node_id: i32,
    pub cluster_id: String,
    /// Its URL.
    pub store: String,
    /// When counting began, milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// How long it has gone on.
    pub seconds: f64,
    /// PUTs and LISTs a second that the object WAL keeps the broker inside; absent with a block WAL.
    pub puts_per_second_max: Option<f64>,
    /// One for each purpose.
    pub requests: Vec<Asked>,
    /// Appended to all partitions, those of topics that are gone included.
    pub appended_bytes: u64,
    /// Read from data objects for consumers, by way of the cache.
    pub read_bytes: u64,
    /// Data objects that the metadata names, now: of the whole cluster.
    pub stored_bytes: u64,
    /// By name.
    pub topics: Vec<TopicUsage>,
}

/// Requests for one purpose.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    pub purpose: Purpose,
    #[serde(flatten)]
    pub totals: Totals,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopicUsage {
    pub name: String,
    pub appended_bytes: u64,
    pub read_bytes: u64,
    pub stored_bytes: u64,
}

impl Usage {
    /// As it is now. Costs time in proportion to the partitions and objects of the cluster.
    pub fn of(broker: &Broker, meter: &Meter, puts_per_second_max: Option<f64>) -> Usage {
        let image = broker.metadata.image();
        let storage = broker.partitions.storage();
        let topics = image.topics().map(|topic| {
            let streams =
                || topic.partitions.iter().flat_map(|partition| [partition.log, partition.checkpoint]);
            let traffic = storage.traffic(streams());
            let stored = streams().filter_map(|id| image.stream(id)).map(|stream| stream.bytes()).sum();
            TopicUsage {
                name: topic.name.to_string(),
                appended_bytes: traffic.appended_bytes,
                read_bytes: traffic.read_bytes,
                stored_bytes: stored,
            }
        });
        let topics = topics.collect();
        // After those of the topics, which are parts of it.
        let traffic = storage.status().traffic;
        let asked = |purpose| Asked { purpose, totals: meter.totals(purpose) };
        Usage {
            node_id: broker.node_id,
            cluster_id: broker.cluster_id.clone(),
            store: broker.data_location.clone(),
            started_ms: meter.started_ms(),
            seconds: meter.seconds(),
            puts_per_second_max,
            requests: Purpose::ALL.into_iter().map(asked).collect(),
            appended_bytes: traffic.appended_bytes,
            read_bytes: traffic.read_bytes,
            stored_bytes: image.objects().map(|(_, object)| object.size_bytes).sum(),
            topics,
        }
    }
}
