//! Several brokers on one store, in this process: partitions move between them while clients write and read.

mod deaths;
mod handover;
mod moves;
mod requests;
mod shares;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use faults::FaultStore;
use ottla::cluster::mover::{self, Mover};
use ottla::metadata::command::Reassigned;
use ottla::metadata::image::Topic;
use ottla::metadata::{Metadata, TopicSpec};
use ottla::partition::batch::BatchHeader;
use tokio::task::JoinSet;

use crate::support::{Client, Disk, Options, TestBroker, within};
use crate::testing;

/// Brokers 1, 2, … on one store.
pub struct Cluster {
    store: FaultStore,
    brokers: Vec<TestBroker>,
    disks: Vec<Disk>,
    movers: Vec<Arc<Mover>>,
    /// As peers do: whoever appended tells the others.
    _hints: JoinSet<()>,
}

impl Cluster {
    pub async fn start(count: u32) -> Cluster {
        Cluster::with(count, Options::default()).await
    }

    pub async fn with(count: u32, options: Options) -> Cluster {
        Cluster::of(count, options, |disk| disk).await
    }

    /// With what `place` makes of each broker's disk.
    pub async fn of(count: u32, options: Options, place: impl Fn(Disk) -> Disk) -> Cluster {
        Cluster::moving(count, options, place, mover::Config::default()).await
    }

    /// With movers like this, which try again soon.
    async fn moving(
        count: u32,
        options: Options,
        place: impl Fn(Disk) -> Disk,
        movers: mover::Config,
    ) -> Cluster {
        let store = FaultStore::in_memory(7);
        let disks: Vec<_> = (1..=count).map(|node| place(Disk::of(node, Arc::new(store.clone())))).collect();
        let mut brokers = Vec::new();
        for disk in &disks {
            brokers.push(TestBroker::on(disk, options.clone()).await);
        }
        let movers = brokers
            .iter()
            .map(|broker| {
                let broker = &broker.broker;
                let config = mover::Config { retry_pause: Duration::from_millis(20), ..movers.clone() };
                Mover::start(
                    config,
                    broker.partitions.clone(),
                    broker.metadata.clone(),
                    Arc::new(BTreeSet::new),
                    Arc::new(BTreeSet::new),
                )
            })
            .collect();
        let mut hints = JoinSet::new();
        for from in &brokers {
            let others: Vec<Arc<Metadata>> = brokers
                .iter()
                .filter(|other| other.broker.node_id != from.broker.node_id)
                .map(|other| other.broker.metadata.clone())
                .collect();
            let mut changed = from.broker.metadata.changed();
            hints.spawn(async move {
                while changed.changed().await.is_ok() {
                    let number = *changed.borrow_and_update();
                    for other in others.iter().filter(|other| other.image().number() < number) {
                        let _ = other.refresh().await;
                    }
                }
            });
        }
        Cluster { store, brokers, disks, movers, _hints: hints }
    }

    pub fn broker(&self, node: u32) -> &TestBroker {
        &self.brokers[node as usize - 1]
    }

    /// A topic whose partitions are led by these.
    pub async fn topic(&self, name: &str, leaders: &[u32]) -> Arc<Topic> {
        let partitions = leaders.len() as u32;
        let spec =
            TopicSpec { name: name.into(), partitions, configs: Vec::new(), leaders: leaders.to_vec() };
        let topic = self.brokers[0].broker.metadata.create_topics(vec![spec]).await.remove(0).unwrap();
        self.refresh().await;
        topic
    }

    /// Who leads it, by the broker that knows most.
    fn leader(&self, topic: &Topic, index: usize) -> u32 {
        let images = self.brokers.iter().map(|broker| broker.broker.metadata.image());
        let newest = images.max_by_key(|image| image.number()).unwrap();
        newest.topic(topic.id).unwrap().partitions[index].leader
    }

    /// Has a partition move, and returns once it has.
    pub async fn move_to(&self, topic: &Topic, index: usize, to: u32) {
        let aim = Reassigned { topic: topic.id, partition: index as u32, target: Some(to) };
        self.brokers[0].broker.metadata.reassign(vec![aim]).await.unwrap().remove(0).unwrap();
        within(async {
            while self.leader(topic, index) != to {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    pub async fn connect(&self, node: u32) -> Client {
        self.broker(node).connect().await
    }

    async fn refresh(&self) {
        for broker in &self.brokers {
            within(broker.broker.metadata.refresh()).await.unwrap();
        }
    }

    pub async fn stop(self) {
        self.movers.iter().for_each(|mover| mover.stop());
        for broker in self.brokers {
            let partitions = broker.broker.partitions.clone();
            broker.stop().await;
            assert_eq!(partitions.failure(), None);
        }
    }
}

const NOT_LEADER: i16 = 6;

pub fn batch(producer_id: i64, sequence: i32) -> Vec<u8> {
    let batch = testing::batch(1, |spec| {
        (spec.producer_id, spec.producer_epoch, spec.base_sequence) = (producer_id, 0, sequence);
    });
    batch.to_vec()
}

/// Produces to whoever leads, until it is taken; the base offset.
pub async fn write(
    cluster: &Cluster,
    client: &mut Option<(u32, Client)>,
    topic: &Topic,
    index: usize,
    batch: &[u8],
) -> i64 {
    loop {
        let leader = cluster.leader(topic, index);
        if client.as_ref().is_none_or(|(node, _)| *node != leader) {
            *client = Some((leader, cluster.connect(leader).await));
        }
        let (_, connection) = client.as_mut().unwrap();
        let response = connection.produce(&topic.name, index as i32, batch).await;
        match response.error_code {
            0 => return response.base_offset,
            NOT_LEADER => tokio::time::sleep(Duration::from_millis(1)).await,
            _ => panic!("{response:?}"),
        }
    }
}

/// All batches of a partition: base offset, and base sequence.
pub async fn read_all(cluster: &Cluster, topic: &Topic, index: usize) -> Vec<(i64, i32)> {
    let mut client = cluster.connect(cluster.leader(topic, index)).await;
    let (mut found, mut offset) = (Vec::new(), 0);
    loop {
        let answer = client.fetch(&topic.name, index as i32, offset).await;
        assert_eq!(answer.error_code, 0, "{answer:?}");
        let records = answer.records.unwrap_or_default();
        if records.is_empty() {
            assert_eq!(offset, answer.high_watermark);
            return found;
        }
        let mut rest = &records[..];
        while !rest.is_empty() {
            let header = BatchHeader::parse(rest).unwrap();
            let base = i64::from_be_bytes(rest[..8].try_into().unwrap());
            found.push((base, header.base_sequence));
            offset = base + i64::from(header.last_offset_delta) + 1;
            rest = &rest[header.size..];
        }
    }
}
