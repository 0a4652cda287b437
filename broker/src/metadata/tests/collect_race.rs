//! The collector at work beside the real engine, over a store that misbehaves: writers, readers, retention, compaction,
//! topics that come and go, and a process that ends in the middle of it all, again and again.
//!
//! Records say what they are, so a reader needs no model: what it gets at an offset is right or wrong by itself. At the
//! end the bucket holds what the metadata names, the seals, and the slots of the life that still lives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use faults::{Fault, FaultStore, Operation, Rule};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use s3stream::gc::{Collector, Config, Status};
use s3stream::object::{ObjectSlotCodec, object_key, parse_object_key};
use s3stream::{ReadError, Storage, Stream, StreamMetadata, StreamRecord};
use wal::object::{ObjectMedium, Seal};
use wal::{AckRight, Medium, Vacated};

use super::*;
use crate::metadata::{Metadata, Registering, TopicSpec};

const TOPICS: usize = 3;
const LIVES: usize = 6;
const HANG: Duration = Duration::from_secs(120);

/// What outlives a process.
struct World {
    store: FaultStore,
    medium: ObjectMedium,
    /// Per topic: offsets below were acknowledged, under the topic's present id.
    acknowledged: Vec<Arc<AtomicU64>>,
}

struct Life {
    metadata: Arc<Metadata>,
    storage: Storage,
    collector: Collector,
    streams: Vec<Stream>,
}

fn body(topic: usize, base: u64) -> Bytes {
    let mut body = format!("{topic}/{base}/").into_bytes();
    body.resize(200 + (base % 7) as usize * 100, base as u8);
    body.into()
}

fn name(topic: usize) -> String {
    format!("topic{topic}")
}

impl World {
    fn new(seed: u64) -> World {
        let store = FaultStore::in_memory(seed);
        let config = wal::object::Config { linger: Duration::ZERO, ..Default::default() };
        let medium = ObjectMedium::new(Arc::new(store.clone()), Arc::new(ObjectSlotCodec::default()), config);
        World { store, medium, acknowledged: (0..TOPICS).map(|_| Arc::default()).collect() }
    }

    async fn start(&self) -> Life {
        let store: Arc<dyn ObjectStore> = Arc::new(self.store.clone());
        let metadata = Metadata::open(store.clone(), Default::default()).await.unwrap();
        let listener = Listener { host: "localhost".into(), port: 9092 };
        let registered = metadata
            .register(Registering {
                id: 1,
                wal: self.medium.uri(),
                listener,
                rack: None,
                machine: "machine",
                replaces: metadata.image().last_registration(1),
                claim: None,
            })
            .await
            .unwrap();
        let by = registered.incarnation;
        let engine = s3stream::Config {
            upload_bytes: 4 << 10,
            log_cache_bytes: 64 << 10,
            stream_object_bytes: 2 << 10,
            retry_pause_min: Duration::from_millis(1),
            compaction: s3stream::compaction::Options {
                jobs_max: 2,
                interval: Duration::from_millis(2),
                fan_in: 4,
                full_bytes: 16 << 10,
                object_bytes: 64 << 10,
                memory_bytes: 64 << 10,
                piece_bytes: 8 << 10,
                retry_pause_min: Duration::from_millis(5),
                retry_pause_max: Duration::from_millis(50),
                ..Default::default()
            },
            ..Default::default()
        };
        let streams: Arc<dyn StreamMetadata> = metadata.clone();
        let mut vacated = Vacated::new_medium();
        for previous in registered.previous {
            let (of, from) = (previous.incarnation, previous.trim);
            let left = s3stream::recovery::Left {
                config: &engine,
                store: store.clone(),
                metadata: streams.clone(),
                by,
                of,
                from,
            };
            let recovered = s3stream::recovery::recover(left, &self.medium);
            vacated = recovered.await.expect("what was left can be recovered");
        }
        let right = Arc::new(AckRight::unlimited());
        let wal = self.medium.open(by, vacated, right).await.unwrap();
        metadata.open_leaderships().await.unwrap();
        let storage = Storage::start(engine, store.clone(), streams, wal, by);
        let lowest = storage.clone();
        let config = Config {
            delay: Duration::from_millis(20),
            interval: Duration::from_millis(3),
            first_sweep_after: Duration::from_millis(5),
            sweep_interval: Duration::from_millis(5),
            batch_objects_max: 7,
            ..Config::default()
        };
        let lowest = Arc::new(move || lowest.lowest_counter_in_flight());
        let collector = Collector::start(config, store, metadata.clone(), by, lowest);
        for topic in 0..TOPICS {
            if metadata.image().topic_named(&name(topic)).is_none() {
                create(&metadata, topic).await;
            }
        }
        let mut life = Life { metadata, storage, collector, streams: Vec::new() };
        for topic in 0..TOPICS {
            let stream = life.open(topic);
            let acknowledged = self.acknowledged[topic].load(Ordering::SeqCst);
            assert!(stream.confirmed_end() >= acknowledged, "{} is lost beyond {acknowledged}", name(topic));
            life.streams.push(stream);
        }
        life
    }
}

async fn create(metadata: &Metadata, topic: usize) {
    let spec =
        TopicSpec { name: name(topic).into(), partitions: 1, configs: Vec::new(), leaders: Vec::new() };
    metadata.create_topics(vec![spec]).await.remove(0).unwrap();
}

impl Life {
    fn open(&self, topic: usize) -> Stream {
        let topic = self.metadata.image().topic_named(&name(topic)).unwrap().clone();
        self.storage.open_stream(topic.partitions[0].log, None).unwrap()
    }

    /// Appends to one stream until told to stop.
    async fn write(stream: Stream, storage: Storage, topic: usize, acknowledged: Arc<AtomicU64>) {
        loop {
            let base = stream.next();
            let record = StreamRecord { base, end: base + 1, max_timestamp: 0, body: body(topic, base) };
            let Ok(admission) = storage.admit(record.body.len()).await else { return };
            let Ok(appending) = stream.append(admission, record) else { return };
            if appending.await.is_err() {
                return;
            }
            acknowledged.store(base + 1, Ordering::SeqCst);
        }
    }

    /// Reads everything again and again, from wherever the stream starts by then.
    async fn read(stream: Stream, topic: usize) {
        loop {
            let mut next = stream.start();
            while next < stream.confirmed_end() {
                match stream.read(next, 8 << 10).await {
                    Ok(records) => {
                        for record in &records {
                            assert_eq!(
                                record.body,
                                body(topic, record.base),
                                "{} at {}",
                                name(topic),
                                record.base
                            );
                        }
                        next = records.last().map_or(next, |last| last.end);
                    }
                    // Retention went faster.
                    Err(ReadError::OutOfRange { start, .. }) => next = next.max(start),
                    Err(ReadError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
                    Err(ReadError::Gone(_)) => return,
                    Err(error) => panic!("{}: {error}", name(topic)),
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A while of everything at once; ends where it stands.
    async fn run_and_die(self, world: &World, random: &mut StdRng) -> (Status, u64) {
        let mut tasks = tokio::task::JoinSet::new();
        for (topic, stream) in self.streams.iter().enumerate() {
            let acknowledged = world.acknowledged[topic].clone();
            tasks.spawn(Life::write(stream.clone(), self.storage.clone(), topic, acknowledged));
            tasks.spawn(Life::read(stream.clone(), topic));
        }
        for _ in 0..random.random_range(5..25) {
            tokio::time::sleep(Duration::from_millis(random.random_range(1..15))).await;
            // The first topic is never trimmed.
            let topic = random.random_range(1..TOPICS);
            let stream = &self.streams[topic];
            let committed = self.metadata.stream(stream.id()).map_or(0, |view| view.committed_end);
            let to = random.random_range(0..=committed);
            if to > stream.start() {
                stream.trim(to).await.unwrap();
            }
            if random.random_bool(0.3) {
                world.store.land_late().await;
            }
        }
        let deletes = random.random_bool(0.4);
        if deletes {
            let id = self.metadata.image().topic_named(&name(1)).unwrap().id;
            self.metadata.delete_topics(vec![id]).await.unwrap();
        }
        // A panic of a reader is the test's.
        while let Some(ended) = tasks.try_join_next() {
            ended.unwrap();
        }
        tasks.abort_all();
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        if deletes {
            world.acknowledged[1].store(0, Ordering::SeqCst);
        }
        let Life { metadata, storage, collector, streams } = self;
        let status = (collector.status(), storage.status().compaction.jobs);
        // In any order: the collector may be in the middle of a deletion.
        drop(streams);
        drop(storage);
        drop(collector);
        let _ = metadata.close(false).await;
        status
    }
}

async fn keys(store: &dyn ObjectStore) -> BTreeSet<ObjectId> {
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    listed.iter().filter_map(|meta| parse_object_key(&meta.location)).collect()
}

async fn is_seal(store: &dyn ObjectStore, id: ObjectId) -> bool {
    match store.get(&object_key(id)).await {
        Ok(found) => Seal::decode(&found.bytes().await.unwrap()).is_some(),
        Err(_) => false,
    }
}

/// What was deleted, garbage and orphans, and how many swaps of compaction there were.
async fn race(seed: u64) -> (u64, u64, u64) {
    let world = World::new(seed);
    let mut random = StdRng::seed_from_u64(seed);
    let (mut garbage, mut orphans, mut swaps) = (0, 0, 0);
    let flaky = |operation, fault, under: &str, probability| {
        world.store.add(Rule::new(operation, fault).under(under).with_probability(probability));
    };
    for _ in 0..LIVES {
        flaky(Operation::Delete, Fault::Refuse, "data", 0.1);
        flaky(Operation::Delete, Fault::LoseReply, "", 0.1);
        flaky(Operation::Put, Fault::Late, "data", 0.02);
        flaky(Operation::Put, Fault::LoseReply, "data", 0.05);
        flaky(Operation::Put, Fault::Duplicate, "data", 0.05);
        flaky(Operation::List, Fault::Refuse, "data", 0.1);
        let (status, compacted) = world.start().await.run_and_die(&world, &mut random).await;
        swaps += compacted;
        garbage += status.garbage_deleted;
        orphans += status.orphans_deleted;
        // A life starts over a store that works.
        world.store.heal();
    }
    world.store.land_late().await;
    let life = world.start().await;
    for (topic, stream) in life.streams.iter().enumerate() {
        let mut next = stream.start();
        while next < stream.confirmed_end() {
            let records = stream.read(next, 1 << 20).await.unwrap();
            for record in &records {
                assert_eq!((record.base, &record.body), (next, &body(topic, record.base)), "{}", name(topic));
                next = record.end;
            }
        }
    }
    assert_eq!(life.streams[0].start(), 0);
    life.storage.flush().await.unwrap();
    // Ours are deleted late, and by their writer.
    let own = life.metadata.incarnation().unwrap();
    let inner = world.store.inner();
    let mut remaining = BTreeSet::new();
    let settled = tokio::time::timeout(HANG, async {
        loop {
            let image = life.metadata.refresh().await.unwrap();
            let named: BTreeSet<ObjectId> = image.objects().map(|(id, _)| id).collect();
            remaining = keys(&*inner).await;
            if life.metadata.refresh().await.unwrap().number() != image.number() {
                // Compaction goes on: what was named then may have been swapped and deleted since.
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            assert!(named.is_subset(&remaining), "lost: {:?}", &named - &remaining);
            remaining.retain(|id| {
                !named.contains(id) && !matches!(id, ObjectId::Slot { owner, .. } if *owner == own)
            });
            let mut seals = 0;
            for id in &remaining {
                seals += usize::from(is_seal(&*inner, *id).await);
            }
            if seals == remaining.len() && image.garbage().next().is_none() {
                assert_eq!(seals, LIVES, "one for each life that did not end in order");
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(settled.await.is_ok(), "never collected: {remaining:?}");
    let status = life.collector.status();
    life.collector.shutdown().await;
    life.storage.shutdown().await.unwrap();
    life.metadata.close(true).await.unwrap();
    (garbage + status.garbage_deleted, orphans + status.orphans_deleted, swaps)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_collector_races_writers_readers_retention_and_crashes() {
    let (mut garbage, mut orphans, mut swaps) = (0, 0, 0);
    for seed in 0..4 {
        let deleted = race(seed).await;
        garbage += deleted.0;
        orphans += deleted.1;
        swaps += deleted.2;
    }
    println!("deleted: {garbage} of garbage, {orphans} orphans; {swaps} swaps");
    assert!(swaps > 0, "nothing was compacted");
    assert!(garbage > 0 && orphans > 0, "{garbage} of garbage and {orphans} orphans: nothing was raced");
}
