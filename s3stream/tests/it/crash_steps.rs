//! A crash at each step of compaction and of the collector: of one fixed scenario, whose every request to the store and
//! every command to the metadata is numbered, and the process ends before the k-th of them, or after it and before
//! anybody knew, for every k.
//!
//! At the crash everything that the metadata names must be in the bucket. The next life, undisturbed, must read every
//! record that was acknowledged and not trimmed, and leave in the bucket what is named, and a seal, and nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use s3stream::gc::{self, Catalog, Collector, Due, Look, Standing};
use s3stream::metadata::memory::MemoryMetadata;
use s3stream::metadata::{Commit, Error, Located, Replacement, StreamView};
use s3stream::object::{object_key, parse_object_key};
use s3stream::{Config, ObjectId, Storage, Stream, StreamId, StreamMetadata, StreamRecord};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use wal::memory::{MemoryMedium, Options};
use wal::object::Seal;
use wal::{AckRight, Incarnation, Medium, Position};

use crate::world::{World, compacting, read_all, record};

/// Where in a step the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

/// The requests of one life, numbered.
#[derive(Debug, Default)]
struct Steps {
    taken: AtomicU64,
    crash: Option<(u64, Side)>,
    crashed: AtomicBool,
}

impl Steps {
    fn of(crash: Option<(u64, Side)>) -> Arc<Steps> {
        Arc::new(Steps { crash, ..Steps::default() })
    }

    fn is_crashed(&self) -> bool {
        self.crashed.load(Ordering::SeqCst)
    }

    /// A process that has ended hears nothing any more, and asks for nothing.
    async fn take<T>(&self, request: impl Future<Output = T>) -> T {
        let number = self.taken.fetch_add(1, Ordering::SeqCst);
        let ends = |side| self.crash == Some((number, side));
        if self.is_crashed() || ends(Side::Before) {
            self.crashed.store(true, Ordering::SeqCst);
            return std::future::pending().await;
        }
        let answer = request.await;
        if self.is_crashed() || ends(Side::After) {
            self.crashed.store(true, Ordering::SeqCst);
            return std::future::pending().await;
        }
        answer
    }
}

#[derive(Clone, Debug)]
struct Stepped<T> {
    inner: Arc<T>,
    steps: Arc<Steps>,
}

impl<T> std::fmt::Display for Stepped<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Stepped")
    }
}

#[derive(Debug)]
struct Pieces {
    inner: Box<dyn MultipartUpload>,
    steps: Arc<Steps>,
}

#[async_trait]
impl MultipartUpload for Pieces {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (sending, steps) = (self.inner.put_part(data), self.steps.clone());
        Box::pin(async move { steps.take(sending).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let steps = self.steps.clone();
        steps.take(self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let steps = self.steps.clone();
        steps.take(self.inner.abort()).await
    }
}

#[async_trait]
impl ObjectStore for Stepped<InMemory> {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.steps.take(self.inner.put_opts(key, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.steps.take(self.inner.put_multipart_opts(key, options)).await?;
        Ok(Box::new(Pieces { inner, steps: self.steps.clone() }))
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.steps.take(self.inner.get_opts(key, options)).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, steps) = (self.inner.clone(), self.steps.clone());
        keys.then(move |key| {
            let (inner, steps) = (inner.clone(), steps.clone());
            async move {
                let key = key?;
                steps.take(inner.delete(&key)).await.map(|()| key)
            }
        })
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, steps, prefix) = (self.inner.clone(), self.steps.clone(), prefix.cloned());
        let listing = async move {
            let listed = steps.take(inner.list(prefix.as_ref()).collect::<Vec<_>>()).await;
            futures::stream::iter(listed)
        };
        futures::stream::once(listing).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.steps.take(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.steps.take(self.inner.copy_opts(from, to, options)).await
    }
}

#[async_trait]
impl StreamMetadata for Stepped<MemoryMetadata> {
    fn stream(&self, id: StreamId) -> Option<StreamView> {
        self.inner.stream(id)
    }

    fn locate(&self, id: StreamId, from: u64, limit: usize) -> Vec<Located> {
        self.inner.locate(id, from, limit)
    }

    fn locate_timestamp(&self, id: StreamId, timestamp: i64) -> Option<Located> {
        self.inner.locate_timestamp(id, timestamp)
    }

    fn locate_max_timestamp(&self, id: StreamId) -> Option<Located> {
        self.inner.locate_max_timestamp(id)
    }

    fn owned_streams(&self, owner: Incarnation, from: StreamId, limit: usize) -> Vec<StreamId> {
        self.inner.owned_streams(owner, from, limit)
    }

    fn recovered_to(&self, of: Incarnation) -> Option<Position> {
        self.inner.recovered_to(of)
    }

    async fn catch_up(&self) -> std::result::Result<(), Error> {
        self.steps.take(self.inner.catch_up()).await
    }

    async fn commit(&self, commit: Commit) -> std::result::Result<(), Error> {
        self.steps.take(self.inner.commit(commit)).await
    }

    async fn commit_recovered(
        &self,
        by: Incarnation,
        of: Incarnation,
        from: Position,
        commit: Commit,
        last: bool,
    ) -> std::result::Result<(), Error> {
        self.steps.take(self.inner.commit_recovered(by, of, from, commit, last)).await
    }

    async fn trim(&self, by: Incarnation, trims: Vec<(StreamId, u64)>) -> std::result::Result<(), Error> {
        self.steps.take(self.inner.trim(by, trims)).await
    }

    async fn replace(&self, by: Incarnation, with: Vec<Replacement>) -> std::result::Result<(), Error> {
        self.steps.take(self.inner.replace(by, with)).await
    }
}

#[async_trait]
impl Catalog for Stepped<MemoryMetadata> {
    fn changed(&self) -> watch::Receiver<u64> {
        Catalog::changed(&*self.inner)
    }

    fn believed_ms(&self) -> Option<i64> {
        self.inner.believed_ms()
    }

    fn garbage(&self, look: &Look) -> Due {
        self.inner.garbage(look)
    }

    fn standing(&self, id: ObjectId) -> Standing {
        self.inner.standing(id)
    }

    async fn refresh(&self) -> std::result::Result<(), Error> {
        self.steps.take(self.inner.refresh()).await
    }

    async fn forget_garbage(
        &self,
        by: Incarnation,
        objects: Vec<ObjectId>,
    ) -> std::result::Result<(), Error> {
        self.steps.take(self.inner.forget_garbage(by, objects)).await
    }

    async fn raise_low_water(&self, by: Incarnation, counter: u64) -> std::result::Result<(), Error> {
        self.steps.take(self.inner.raise_low_water(by, counter)).await
    }
}

/// Records of each stream, and how many bytes each has: the first stream's merges go in pieces.
const STREAMS: [(u64, usize); 3] = [(8, 5000), (24, 300), (12, 300)];
const TRIMMED_TO: u64 = 10;
/// Nobody names it: as of an upload whose commit never came.
const ORPHAN: u64 = 1_000;

/// What outlives a process.
struct Scene {
    bucket: Arc<InMemory>,
    medium: Arc<MemoryMedium>,
    metadata: Arc<MemoryMetadata>,
    ids: Vec<StreamId>,
    seal: ObjectId,
}

struct Life {
    storage: Storage,
    collector: Collector,
    streams: Vec<Stream>,
}

fn config() -> Config {
    let compaction = s3stream::compaction::Options { jobs_max: 1, ..compacting().compaction };
    Config { compaction, ..compacting() }
}

impl Scene {
    /// Many small objects, of which some are garbage, and an orphan; nobody has compacted or collected anything yet.
    async fn new() -> Scene {
        let (bucket, medium) =
            (Arc::new(InMemory::new()), Arc::new(MemoryMedium::new("steps", Options::default())));
        let off = s3stream::compaction::Options { jobs_max: 0, ..config().compaction };
        let world = World::on(Config { compaction: off, ..config() }, bucket.clone(), medium.clone());
        let ids: Vec<StreamId> = STREAMS.iter().map(|_| world.metadata.create_stream()).collect();
        let broker = world.start(&ids).await;
        for round in 0..24 {
            for (at, (count, bytes)) in STREAMS.into_iter().enumerate() {
                if round % (24 / count) == 0 {
                    broker.fill(at, 1, bytes).await;
                }
            }
            broker.storage.flush().await.expect("flushes");
        }
        broker.streams[1].trim(TRIMMED_TO).await.expect("trims");
        broker.storage.shutdown().await.expect("shuts down");
        world.metadata.delete_stream(ids[2]);
        let orphan = ObjectId::Data { owner: broker.owner, counter: ORPHAN };
        let seal = ObjectId::Slot { owner: broker.owner, slot: 0 };
        let sealed = Seal { sealed: broker.owner, slot: 0, nonce: 7 }.encode();
        bucket.put(&object_key(orphan), "never committed".into()).await.expect("writes");
        bucket.put(&object_key(seal), sealed.into()).await.expect("writes");
        Scene { bucket, medium, metadata: world.metadata, ids, seal }
    }

    /// A life whose steps are counted from where it has opened its streams.
    async fn start(&self, steps: &Arc<Steps>) -> Life {
        let plain = World {
            metadata: self.metadata.clone(),
            store: self.bucket.clone(),
            medium: self.medium.clone(),
            config: config(),
        };
        let owner = self.metadata.register(1);
        let vacated = plain.recover(owner).await.expect("recovers");
        let wal = self.medium.open(owner, vacated, Arc::new(AckRight::unlimited())).await.expect("opens");
        let store: Arc<dyn ObjectStore> =
            Arc::new(Stepped { inner: self.bucket.clone(), steps: steps.clone() });
        let metadata = Arc::new(Stepped { inner: self.metadata.clone(), steps: steps.clone() });
        let storage = Storage::start(config(), store.clone(), metadata.clone(), wal, owner);
        let kept = &self.ids[..2];
        kept.iter().for_each(|id| self.metadata.open_stream(*id, owner));
        let streams = kept.iter().map(|id| storage.open_stream(*id, None).expect("opens")).collect();
        let gc = gc::Config {
            delay: Duration::from_secs(30),
            interval: Duration::from_secs(1),
            first_sweep_after: Duration::from_secs(20),
            sweep_interval: Duration::from_secs(120),
            batch_objects_max: 7,
            deletes_in_flight_max: 2,
            ..gc::Config::default()
        };
        let lowest = storage.clone();
        let lowest = Arc::new(move || lowest.lowest_counter_in_flight());
        let collector = Collector::start(gc, store, metadata, owner, lowest);
        Life { storage, collector, streams }
    }

    async fn keys(&self) -> BTreeSet<ObjectId> {
        let listed: Vec<ObjectMeta> = self.bucket.list(None).try_collect().await.expect("lists");
        listed.iter().filter_map(|meta| parse_object_key(&meta.location)).collect()
    }

    /// Whether the bucket holds what is named, the seal, and nothing else.
    async fn is_clean(&self) -> bool {
        let mut expected = self.metadata.named_objects();
        expected.insert(self.seal);
        self.keys().await == expected
    }

    /// Until everything is done, or the process has ended.
    async fn run(&self, steps: &Steps) {
        let mut quiet = 0;
        let mut before = 0;
        while quiet < 10 && !steps.is_crashed() {
            sleep(Duration::from_secs(30)).await;
            let taken = steps.taken.load(Ordering::SeqCst);
            // A listing of each prefix, and a look at the metadata, every other minute.
            let is_idle = taken - before <= 4 && self.is_clean().await;
            quiet = if is_idle { quiet + 1 } else { 0 };
            before = taken;
        }
    }

    async fn check_nothing_is_lost(&self, when: &str) {
        let lost = &self.metadata.named_objects() - &self.keys().await;
        assert!(lost.is_empty(), "{when}: {lost:?} is named and gone");
    }

    async fn check_records(&self, life: &Life, when: &str) {
        for (at, start) in [(0, 0), (1, TRIMMED_TO)] {
            let (count, bytes) = STREAMS[at];
            let expected: Vec<StreamRecord> =
                (start..count).map(|base| record(at as u64, base, 1, bytes)).collect();
            assert_eq!(life.streams[at].start(), start, "{when}");
            assert!(
                read_all(&life.streams[at], start).await == expected,
                "{when}: stream {at} is not what it was"
            );
        }
    }
}

/// One history; whether it came to the crash, and how many steps there were.
async fn history(crash: Option<(u64, Side)>) -> (bool, u64) {
    let when = format!("a crash at {crash:?}");
    let scene = Scene::new().await;
    let steps = Steps::of(crash);
    let life = scene.start(&steps).await;
    let ran = timeout(Duration::from_secs(24 * 3600), scene.run(&steps)).await;
    assert!(ran.is_ok(), "{when}: never comes to rest");
    scene.check_nothing_is_lost(&when).await;
    let (crashed, taken) = (steps.is_crashed(), steps.taken.load(Ordering::SeqCst));
    if crash.is_none() {
        let (jobs, collected) = (life.storage.status().compaction.jobs, life.collector.status());
        assert!(
            jobs >= 2 && collected.garbage_deleted >= 20 && collected.orphans_deleted == 1,
            "{jobs}, {collected:?}"
        );
    }
    drop(life);
    scene.medium.crash(|_| false);
    let steps = Steps::of(None);
    let life = scene.start(&steps).await;
    scene.check_records(&life, &when).await;
    let ran = timeout(Duration::from_secs(24 * 3600), scene.run(&steps)).await;
    assert!(ran.is_ok(), "{when}: {:?} stays", &scene.keys().await - &scene.metadata.named_objects());
    scene.check_nothing_is_lost(&when).await;
    scene.check_records(&life, &when).await;
    // A last life, with nothing in a cache.
    drop(life);
    scene.medium.crash(|_| false);
    let life = scene.start(&Steps::of(None)).await;
    scene.check_records(&life, &when).await;
    (crashed, taken)
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_each_step_of_compaction_and_the_collector_loses_nothing_and_leaves_nothing() {
    let (_, steps) = history(None).await;
    let mut crashes = 0;
    for number in 0..steps {
        for side in [Side::Before, Side::After] {
            crashes += usize::from(history(Some((number, side))).await.0);
        }
    }
    println!("{steps} steps, {crashes} crashes");
    assert!(steps >= 60, "{steps} steps");
    // In a history of its own a life may take a step less.
    assert!(crashes as u64 >= 2 * steps - steps / 10, "{crashes} crashes at {steps} steps");
}
