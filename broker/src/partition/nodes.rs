//! Brokers on one store for tests of what happens between two of them: nothing is done in the background unless a test does it.

use std::sync::Arc;

use bytes::BytesMut;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use s3stream::{Storage, StreamMetadata};
use tokio::sync::oneshot;
use wal::memory::MemoryMedium;
use wal::{AckRight, Medium, Vacated};

use super::handover::Leave;
use super::{Config, Partition, Partitions, testing};
use crate::metadata::command::Handed;
use crate::metadata::image::{Listener, Topic};
use crate::metadata::{Metadata, Options, Registering, TopicSpec};

pub struct Node {
    pub metadata: Arc<Metadata>,
    pub storage: Storage,
    pub partitions: Arc<Partitions>,
}

/// Brokers 1 and 2.
pub async fn two() -> [Node; 2] {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let nodes = [Node::start(1, store.clone()).await, Node::start(2, store).await];
    nodes[0].metadata.refresh().await.unwrap();
    nodes
}

impl Node {
    async fn start(id: u32, store: Arc<dyn ObjectStore>) -> Node {
        let metadata = Metadata::open(store.clone(), Options::default()).await.unwrap();
        let medium = MemoryMedium::new(&format!("node-{id}"), Default::default());
        let registering = Registering {
            id,
            wal: medium.uri(),
            listener: Listener { host: "nowhere".into(), port: 1 },
            rack: None,
            machine: "machine",
            replaces: None,
            claim: None,
        };
        let by = metadata.register(registering).await.unwrap().incarnation;
        let right = Arc::new(AckRight::unlimited());
        let wal = medium.open(by, Vacated::new_medium(), right).await.unwrap();
        metadata.open_leaderships().await.unwrap();
        let streams: Arc<dyn StreamMetadata> = metadata.clone();
        let storage = Storage::start(s3stream::Config::default(), store, streams, wal, by);
        let mut config = Config::default();
        config.handover.stopped_max = std::time::Duration::from_millis(400);
        let partitions = Partitions::start(config, id, storage.clone(), metadata.clone());
        // Nobody opens and nobody closes behind the test's back.
        partitions.closing.cancel();
        Node { metadata, storage, partitions }
    }

    /// A topic that this broker leads, as its metadata has it now.
    pub async fn topic(&self, name: &str, partitions: u32) -> Arc<Topic> {
        let leaders = vec![self.partitions.broker; partitions as usize];
        let spec = TopicSpec { name: name.into(), partitions, configs: Vec::new(), leaders };
        self.metadata.create_topics(vec![spec]).await.remove(0).unwrap()
    }

    /// The same topic, as everything that was committed has it.
    pub async fn known(&self, topic: &Topic) -> Arc<Topic> {
        self.metadata.refresh().await.unwrap().topic(topic.id).unwrap().clone()
    }

    pub async fn open(&self, topic: &Topic) -> Arc<Partition> {
        let topic = self.known(topic).await;
        self.partitions.get(&topic, 0).await.unwrap()
    }

    /// Gives partition 0, of which everything is uploaded, to broker `to`.
    pub async fn give(&self, topic: &Topic, to: u32) {
        self.storage.flush().await.unwrap();
        let image = self.metadata.refresh().await.unwrap();
        let info = image.topic(topic.id).unwrap().partitions[0];
        let end = |stream| image.stream(stream).unwrap().committed_end;
        let (log_end, checkpoint_end) = (end(info.log), end(info.checkpoint));
        let handed = Handed {
            topic: topic.id,
            partition: 0,
            to,
            log_end,
            checkpoint_end,
            leader_epoch: None,
            note: None,
        };
        assert_eq!(self.metadata.hand_over(vec![handed], oneshot::channel().0).await.unwrap(), [Ok(())]);
    }
}

/// Appends a batch of one record, durably.
pub async fn append(partition: &Arc<Partition>) -> u64 {
    let batch: BytesMut = testing::batch(1, |_| {});
    let appended = partition.append_own(batch).await.unwrap();
    let offset = appended.base_offset;
    appended.durable().await.unwrap();
    offset
}

pub fn leave(topic: &Topic, index: i32, to: u32) -> Leave {
    Leave { topic: topic.id, index, to }
}
