//! A whole broker in this process, over a write-ahead log and a store in memory.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use ottla::api::fetch_session::Sessions;
use ottla::broker::Broker;
use ottla::cluster::Peers;
use ottla::config::{BrokerConfig, CurrentConfig};
use ottla::group::Groups;
use ottla::metadata::image::{Listener, Topic};
use ottla::metadata::{Metadata, Registering, TopicSpec};
use ottla::partition::Partitions;
use ottla::server::Server;
use s3stream::{Storage, StreamMetadata};
use wal::memory::MemoryMedium;
use wal::{AckRight, Medium, Vacated};

use crate::peer::Peer;

/// More than any case writes.
const MEMORY_BYTES: usize = 1 << 30;

pub struct Running {
    pub broker: Arc<Broker>,
    pub storage: Storage,
    pub peer: Peer,
}

/// What the storage engine is given where everything is to stay in the log cache (I2).
pub fn roomy() -> s3stream::Config {
    s3stream::Config {
        log_cache_bytes: MEMORY_BYTES,
        upload_bytes: MEMORY_BYTES,
        upload_interval_max: Duration::from_secs(86_400),
        wal_used_fraction_max: 1.0,
        compaction: s3stream::compaction::Options { jobs_max: 0, ..Default::default() },
        ..s3stream::Config::default()
    }
}

/// A new broker, and a peer that is connected to it.
pub async fn start(storage_config: s3stream::Config) -> anyhow::Result<Running> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let options = wal::memory::Options { capacity_bytes: MEMORY_BYTES as u64, ..Default::default() };
    let medium = MemoryMedium::new("instructions", options);
    let metadata = Metadata::open(store.clone(), Default::default()).await?;
    let listener = Listener { host: "127.0.0.1".into(), port: 9092 };
    let by = metadata
        .register(Registering {
            id: 1,
            wal: medium.uri(),
            listener,
            rack: None,
            machine: "instructions",
            replaces: metadata.image().last_registration(1),
            claim: None,
        })
        .await?
        .incarnation;
    let right = Arc::new(AckRight::unlimited());
    let wal = medium.open(by, Vacated::new_medium(), right.clone()).await?;
    metadata.open_leaderships().await?;
    let streams: Arc<dyn StreamMetadata> = metadata.clone();
    let storage = Storage::start(storage_config, store, streams, wal, by);
    let partition_config =
        ottla::partition::Config { checkpoint_interval_bytes: u64::MAX, ..Default::default() };
    let partitions = Partitions::start(partition_config, by.broker, storage.clone(), metadata.clone());
    let config = Arc::new(BrokerConfig::default());
    let groups = Groups::of_broker(
        Default::default(),
        metadata.clone(),
        partitions.clone(),
        right.clone(),
        config.clone(),
    );
    let broker = Arc::new(Broker {
        node_id: 1,
        cluster_id: metadata.cluster_id().to_string(),
        configs: Arc::new(CurrentConfig::new(config, 1, metadata.clone())),
        data_location: "memory:".to_owned(),
        groups: Arc::new(groups),
        peers: Arc::new(Peers::start(Default::default(), metadata.clone(), right.clone())),
        metadata,
        partitions,
        right,
        fetch_sessions: Sessions::default(),
    });
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::bind(Default::default(), broker.clone(), &[(loopback, None)]).await?;
    let (peer, requests, responses) = Peer::new();
    tokio::spawn(async move { server.serve_stream(requests, responses, loopback).await });
    Ok(Running { broker, storage, peer })
}

impl Running {
    pub async fn topic(&self, name: &str, partitions: u32) -> anyhow::Result<Arc<Topic>> {
        let spec =
            TopicSpec { name: name.into(), partitions, configs: Default::default(), leaders: Vec::new() };
        Ok(self.broker.metadata.create_topics(vec![spec]).await.remove(0)?)
    }
}
