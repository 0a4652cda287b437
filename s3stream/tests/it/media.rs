//! The same life over each write-ahead log as it is: appends, uploads, trims, crashes, recoveries cut off half-way.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use s3stream::metadata::memory::Fault;
use s3stream::object::ObjectSlotCodec;
use s3stream::{ObjectId, StreamMetadata, StreamRecord};
use uuid::Uuid;
use wal::block::BlockMedium;
use wal::memory::MemoryMedium;
use wal::object::ObjectMedium;
use wal::{Error, Medium, Uri};

use crate::world::{Broker, World, read_all, record, small};

/// Makes the medium for the next incarnation.
enum Kind {
    Memory(MemoryMedium),
    Block(PathBuf),
    Object(Arc<dyn ObjectStore>),
}

impl Kind {
    /// The medium, once the incarnation before has let go of it.
    async fn medium(&self) -> Arc<dyn Medium> {
        match self {
            Kind::Memory(medium) => {
                medium.crash(|_| true);
                Arc::new(medium.clone())
            }
            Kind::Object(store) => {
                let codec = Arc::new(ObjectSlotCodec::default());
                let config =
                    wal::object::Config { batch_bytes_max: 8 << 10, ..wal::object::Config::default() };
                Arc::new(ObjectMedium::new(store.clone(), codec, config))
            }
            Kind::Block(path) => {
                let uri = Uri::block(path, Some(4 << 20)).expect("a path");
                let config = wal::block::Config {
                    frame_bytes_max: 64 << 10,
                    frame_bytes_target: 16 << 10,
                    ..wal::block::Config::default()
                };
                let deadline = Instant::now() + Duration::from_secs(20);
                loop {
                    match BlockMedium::new(&uri, Uuid::from_u128(7), config.clone()) {
                        Ok(medium) => return Arc::new(medium),
                        Err(Error::Refused(reason)) if Instant::now() < deadline => {
                            assert!(reason.contains("in use"), "{reason}");
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
    }
}

struct Life {
    kind: Kind,
    world: World,
    random: StdRng,
    ids: Vec<s3stream::StreamId>,
    /// What was acknowledged, and behind it what was appended without waiting.
    acknowledged: Vec<Vec<StreamRecord>>,
    unanswered: Vec<Vec<StreamRecord>>,
}

const STREAMS: usize = 5;

impl Life {
    async fn new(kind: Kind, store: Arc<dyn ObjectStore>, seed: u64) -> Life {
        let world = World::on(small(), store, kind.medium().await);
        let ids = (0..STREAMS).map(|_| world.metadata.create_stream()).collect();
        let random = StdRng::seed_from_u64(seed);
        Life {
            kind,
            world,
            random,
            ids,
            acknowledged: vec![Vec::new(); STREAMS],
            unanswered: vec![Vec::new(); STREAMS],
        }
    }

    /// As a new process has it: the one before holds nothing any more.
    async fn next_medium(&mut self) {
        self.world.medium = Arc::new(MemoryMedium::new("none", wal::memory::Options::default()));
        self.world.medium = self.kind.medium().await;
    }

    async fn write(&mut self, broker: &Broker) {
        for _ in 0..self.random.random_range(1..12) {
            let mut group = Vec::new();
            for _ in 0..self.random.random_range(1..8) {
                let at = self.random.random_range(0..STREAMS);
                let bytes = self.random.random_range(0..2500);
                let record =
                    record(at as u64, broker.streams[at].next(), self.random.random_range(1..4), bytes);
                let admission = broker.storage.admit(record.body.len()).await.expect("admits");
                let appending = broker.streams[at].append(admission, record.clone()).expect("appends");
                group.push((at, record, appending));
            }
            for (at, record, appending) in group {
                appending.await.expect("confirms");
                self.acknowledged[at].push(record);
            }
            if self.random.random_bool(0.1) {
                broker.storage.flush().await.expect("flushes");
            }
        }
        for _ in 0..self.random.random_range(0..6) {
            let at = self.random.random_range(0..STREAMS);
            let record = record(at as u64, broker.streams[at].next(), 1, 300);
            let admission = broker.storage.admit(record.body.len()).await.expect("admits");
            drop(broker.streams[at].append(admission, record.clone()).expect("appends"));
            self.unanswered[at].push(record);
        }
    }

    async fn trim(&mut self, broker: &Broker) {
        let at = self.random.random_range(0..STREAMS);
        let to = self.random.random_range(0..=broker.streams[at].confirmed_end());
        broker.streams[at].trim(to).await.expect("trims");
        let start = broker.streams[at].start();
        self.acknowledged[at].retain(|record| record.end > start);
    }

    /// The next incarnation, perhaps after some that died in the middle of their recovery.
    async fn restart(&mut self, broker: Broker) -> Broker {
        drop(broker);
        self.next_medium().await;
        for _ in 0..self.random.random_range(0..3) {
            let by = self.world.metadata.register(1);
            let fault = if self.random.random_bool(0.5) { Fault::HangBefore } else { Fault::HangAfter };
            self.world.metadata.inject_after(self.random.random_range(0..3), fault);
            let cut = tokio::time::timeout(Duration::from_millis(50), self.world.recover(by));
            let _ = cut.await;
        }
        self.world.metadata.clear_faults();
        let broker = self.world.start(&self.ids).await;
        self.verify(&broker).await;
        broker
    }

    async fn verify(&mut self, broker: &Broker) {
        for (at, stream) in broker.streams.iter().enumerate() {
            let found = read_all(stream, stream.start()).await;
            let acknowledged = &mut self.acknowledged[at];
            assert!(found.len() >= acknowledged.len(), "stream {at} lost acknowledged records");
            assert_eq!(found[..acknowledged.len()], acknowledged[..], "stream {at}");
            let rest = &found[acknowledged.len()..];
            assert_eq!(*rest, self.unanswered[at][..rest.len()], "stream {at} has what nobody wrote");
            acknowledged.extend_from_slice(rest);
            self.unanswered[at].clear();
        }
    }

    async fn live(&mut self) {
        let mut broker = self.world.start(&self.ids).await;
        for round in 0..12 {
            self.write(&broker).await;
            if round % 3 == 2 {
                self.settle(&broker).await;
                self.trim(&broker).await;
            }
            broker = self.restart(broker).await;
        }
        self.write(&broker).await;
        self.settle(&broker).await;
        broker.storage.shutdown().await.expect("shuts down");
        let commits = self.world.metadata.commits();
        let broker = self.restart_after_shutdown(broker).await;
        assert!(
            self.world.metadata.commits() <= commits + 1,
            "an orderly shutdown leaves nothing to recover"
        );
        broker.storage.shutdown().await.expect("shuts down");
    }

    async fn restart_after_shutdown(&mut self, broker: Broker) -> Broker {
        drop(broker);
        self.next_medium().await;
        let broker = self.world.start(&self.ids).await;
        self.verify(&broker).await;
        broker
    }

    /// What nobody waited for is confirmed now.
    async fn settle(&mut self, broker: &Broker) {
        broker.storage.flush().await.expect("flushes");
        self.verify(broker).await;
    }
}

async fn keys(store: &dyn ObjectStore, prefix: &str) -> BTreeSet<Path> {
    store.list(Some(&Path::from(prefix))).map(|object| object.expect("lists").location).collect().await
}

#[tokio::test]
async fn a_life_over_the_memory_wal() {
    for seed in 0..5 {
        let kind = Kind::Memory(MemoryMedium::new("life", wal::memory::Options::default()));
        Life::new(kind, Arc::new(InMemory::new()), seed).await.live().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_over_the_block_wal() {
    for seed in 0..2 {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("makes a directory");
        let kind = Kind::Block(directory.path().join("volume"));
        Life::new(kind, Arc::new(InMemory::new()), seed).await.live().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_life_over_the_object_wal() {
    for seed in 0..5 {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        Life::new(Kind::Object(store.clone()), store, seed).await.live().await;
    }
}

/// Fail-over of an object WAL rewrites nothing: slots are named as they are, clipped to what was not uploaded (O2).
#[tokio::test(start_paused = true)]
async fn slots_are_adopted_by_reference() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut life = Life::new(Kind::Object(store.clone()), store.clone(), 1).await;
    let broker = life.world.start(&life.ids).await;
    // One slot with two records each of two streams: hold the first PUT back by appending all at once.
    let mut appending = Vec::new();
    for base in 0..2 {
        for at in 0..2usize {
            let record = record(at as u64, base, 1, 100);
            let admission = broker.storage.admit(100).await.expect("admits");
            appending.push(broker.streams[at].append(admission, record).expect("appends"));
        }
    }
    for appending in appending {
        appending.await.expect("confirms");
    }
    let owner = broker.owner;
    drop(broker);
    let before = keys(store.as_ref(), "data").await;
    life.next_medium().await;
    let broker = life.world.start(&life.ids).await;
    assert_eq!(keys(store.as_ref(), "data").await, before, "recovery wrote data objects");
    let located = life.world.metadata.locate(life.ids[0], 0, 9);
    assert!(
        located
            .iter()
            .all(|located| matches!(located.object, ObjectId::Slot { owner: of, .. } if of == owner)),
        "{located:?}"
    );
    for (at, stream) in broker.streams[..2].iter().enumerate() {
        let expected: Vec<_> = (0..2).map(|base| record(at as u64, base, 1, 100)).collect();
        assert_eq!(read_all(stream, 0).await, expected);
        assert_eq!(stream.find_timestamp(0, 1).await.expect("looks").map(|record| record.base), Some(1));
    }
    assert!(broker.storage.failed().now_or_never().is_none());
}
