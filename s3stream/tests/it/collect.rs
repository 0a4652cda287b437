//! The collector's actor: when it acts, what it costs, and what it does about a store and a metadata log that fail.
//! Time is simulated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use faults::{Counts, Fault, FaultStore, Operation, Rule};
use object_store::{ObjectStoreExt, PutPayload};
use s3stream::gc::{Collector, Config};
use s3stream::metadata::memory::{self, MemoryMetadata};
use s3stream::metadata::{Commit, Error, NewObject, StreamPart};
use s3stream::object::object_key;
use s3stream::{ObjectId, StreamId, StreamMetadata};
use tokio::time::{Instant, sleep};
use wal::object::Seal;
use wal::{Incarnation, Position};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

struct World {
    metadata: Arc<MemoryMetadata>,
    store: FaultStore,
    owner: Incarnation,
    lowest: Arc<AtomicU64>,
    collector: Collector,
}

impl World {
    fn new() -> World {
        let metadata = MemoryMetadata::new();
        let owner = metadata.register(1);
        World::of(metadata, FaultStore::in_memory(1), owner)
    }

    fn of(metadata: Arc<MemoryMetadata>, store: FaultStore, owner: Incarnation) -> World {
        let lowest = Arc::new(AtomicU64::new(0));
        let tells = lowest.clone();
        let collector = Collector::start(
            Config::default(),
            Arc::new(store.clone()),
            metadata.clone(),
            owner,
            Arc::new(move || tells.load(Ordering::SeqCst)),
        );
        World { metadata, store, owner, lowest, collector }
    }

    fn data(&self, counter: u64) -> ObjectId {
        ObjectId::Data { owner: self.owner, counter }
    }

    async fn put(&self, id: ObjectId, bytes: impl Into<PutPayload>) {
        self.store.inner().put(&object_key(id), bytes.into()).await.unwrap();
    }

    async fn is_there(&self, id: ObjectId) -> bool {
        self.store.inner().head(&object_key(id)).await.is_ok()
    }

    /// A stream whose records lie in objects of one each, numbers 0 to `count`.
    async fn fill(&self, count: u64) -> StreamId {
        let stream = self.metadata.create_stream();
        self.metadata.open_stream(stream, self.owner);
        let mut objects = Vec::new();
        for counter in 0..count {
            let id = self.data(counter);
            self.put(id, "object").await;
            let part = StreamPart { stream, base: counter, end: counter + 1, max_timestamp: 0, bytes: 6 };
            objects.push(NewObject { id, size_bytes: 6, parts: vec![part] });
        }
        self.lowest.store(count, Ordering::SeqCst);
        let commit = Commit { owner: self.owner, objects, wal_trim: Position(0) };
        self.metadata.commit(commit).await.unwrap();
        stream
    }

    async fn left(&self, count: u64) -> u64 {
        let mut left = 0;
        for counter in 0..count {
            left += u64::from(self.is_there(self.data(counter)).await);
        }
        left
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_goes_after_the_delay_and_much_faster_than_it_can_come() {
    let world = World::new();
    let count = 5_000;
    let stream = world.fill(count).await;
    // A slow store.
    world.store.add(Rule::new(Operation::Delete, Fault::Delay(Duration::from_millis(100))));
    sleep(HOUR).await;
    assert_eq!(world.left(count).await, count, "all of it is named");
    world.metadata.delete_stream(stream);
    sleep(10 * MINUTE - SECOND).await;
    assert_eq!(world.left(count).await, count, "a reader may still be there");
    let began = Instant::now();
    while world.left(count).await > 0 {
        sleep(Duration::from_millis(100)).await;
    }
    // Ten seconds at most until it begins, then 32 at once: 100 MB/s of ingest make 12 objects and 20 slots a second.
    let took = began.elapsed().saturating_sub(Duration::from_secs(10)).as_secs_f64();
    assert!(count as f64 / took > 250.0, "{count} objects in {took} s");
    assert_eq!(world.collector.status().garbage_deleted, count);
    assert_eq!(world.store.counts().deletes, count, "each once");
}

#[tokio::test(start_paused = true)]
async fn an_idle_cluster_costs_a_listing_each_six_hours() {
    let world = World::new();
    world.fill(3).await;
    world.lowest.store(3, Ordering::SeqCst);
    sleep(24 * HOUR).await;
    let Counts { puts, gets, deletes, lists, .. } = world.store.counts();
    assert_eq!((puts, gets, deletes), (0, 0, 0));
    assert_eq!((lists, world.collector.status().sweeps), (8, 4), "two prefixes, first after 15 minutes");
    assert_eq!(world.metadata.commits(), 1, "nothing was said in the metadata");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_is_asked_seldom_and_everything_goes_in_the_end() {
    let world = World::new();
    let count = 1_000;
    let stream = world.fill(count).await;
    world.metadata.delete_stream(stream);
    world.store.set_outage(true);
    sleep(11 * MINUTE).await;
    sleep(HOUR).await;
    let before = world.store.counts().deletes;
    sleep(24 * HOUR).await;
    // Of 32 at once, 32 more at most have begun when the last of them fails; each five to ten minutes.
    let rounds = 24 * 12;
    let asked = world.store.counts().deletes - before;
    assert!(asked <= (rounds + 1) * 64, "{asked} deletions in a day");
    assert!(asked >= rounds / 2 * 32, "{asked}: it gave up");
    world.store.heal();
    // Commands fail as well, before and after they took effect: three rounds, up to ten minutes apart.
    for fault in [memory::Fault::Unavailable, memory::Fault::LostReply] {
        world.metadata.inject(fault);
    }
    sleep(31 * MINUTE).await;
    assert_eq!(world.left(count).await, 0);
    let deletes = world.store.counts().deletes;
    sleep(HOUR).await;
    assert_eq!(world.store.counts().deletes, deletes, "all of it is forgotten");
}

#[tokio::test(start_paused = true)]
async fn what_a_living_writer_gave_up_goes_once_it_has_said_so() {
    let world = World::new();
    let stream = world.metadata.create_stream();
    world.metadata.open_stream(stream, world.owner);
    for counter in 0..3 {
        world.put(world.data(counter), "of a failed job").await;
    }
    // Number 1 is on its way to its commit.
    world.lowest.store(1, Ordering::SeqCst);
    sleep(24 * HOUR).await;
    assert_eq!(world.left(3).await, 2);
    assert!(!world.is_there(world.data(0)).await);
    let commit = |counter| {
        let part = StreamPart { stream, base: 0, end: 1, max_timestamp: 0, bytes: 6 };
        let object = NewObject { id: world.data(counter), size_bytes: 6, parts: vec![part] };
        Commit { owner: world.owner, objects: vec![object], wal_trim: Position(0) }
    };
    assert!(matches!(world.metadata.commit(commit(0)).await, Err(Error::Rejected(_))), "it is gone");
    world.metadata.commit(commit(1)).await.unwrap();
    world.lowest.store(3, Ordering::SeqCst);
    sleep(24 * HOUR).await;
    assert!(world.is_there(world.data(1)).await && !world.is_there(world.data(2)).await);
    assert_eq!(world.collector.status().orphans_deleted, 2);
}

#[tokio::test(start_paused = true)]
async fn of_an_ended_life_only_the_seal_stays_and_it_is_read_once() {
    let metadata = MemoryMetadata::new();
    let ended = metadata.register(1);
    let owner = metadata.register(1);
    let world = World::of(metadata, FaultStore::in_memory(1), owner);
    let slot = |slot| ObjectId::Slot { owner: ended, slot };
    let seal = Seal { sealed: ended, slot: 2, nonce: 7 }.encode();
    // What was torn was a seal too.
    let torn = seal.slice(..20);
    world.put(slot(0), vec![1; 10_000]).await;
    world.put(slot(1), vec![2; 100]).await;
    world.put(slot(2), seal).await;
    world.put(slot(3), torn).await;
    world.put(ObjectId::Data { owner: ended, counter: 9 }, "orphan").await;
    let unheard = Incarnation { epoch: owner.epoch + 1, ..owner };
    world.put(ObjectId::Slot { owner: unheard, slot: 0 }, vec![3; 100]).await;
    world.store.inner().put(&"data/00/not-a-key".into(), "foreign".into()).await.unwrap();
    sleep(24 * HOUR).await;
    for (id, stays) in [
        (slot(0), false),
        (slot(1), false),
        (slot(2), true),
        (slot(3), true),
        (ObjectId::Data { owner: ended, counter: 9 }, false),
        (ObjectId::Slot { owner: unheard, slot: 0 }, true),
    ] {
        assert_eq!(world.is_there(id).await, stays, "{id:?}");
    }
    assert!(world.store.inner().head(&"data/00/not-a-key".into()).await.is_ok());
    assert_eq!(world.store.counts().gets, 3, "each small slot once, in four sweeps");
}

#[tokio::test(start_paused = true)]
async fn what_can_be_neither_read_nor_deleted_keeps_nothing_else() {
    let metadata = MemoryMetadata::new();
    let ended = metadata.register(1);
    let owner = metadata.register(1);
    let world = World::of(metadata, FaultStore::in_memory(1), owner);
    let data = |counter| ObjectId::Data { owner: ended, counter };
    let slot = |slot| ObjectId::Slot { owner: ended, slot };
    for number in 0..5 {
        world.put(data(number), "orphan").await;
        world.put(slot(number), vec![1; 100]).await;
    }
    let never = |operation, id| Rule::new(operation, Fault::Refuse).under(object_key(id).as_ref());
    world.store.add(never(Operation::Delete, data(2)));
    world.store.add(never(Operation::Get, slot(2)));
    sleep(HOUR).await;
    for number in 0..5 {
        assert_eq!(world.is_there(data(number)).await, number == 2, "data {number}");
        assert_eq!(world.is_there(slot(number)).await, number == 2, "slot {number}");
    }
    world.store.heal();
    sleep(HOUR + MINUTE).await;
    assert!(!world.is_there(data(2)).await && !world.is_there(slot(2)).await, "the next sweep comes early");
}

/// More than a round dares to try, in front of everything else.
#[tokio::test(start_paused = true)]
async fn garbage_that_can_never_be_deleted_keeps_nothing_else() {
    let world = World::new();
    let (count, locked) = (11_000, 70);
    let stream = world.fill(count).await;
    for counter in 0..locked {
        let key = object_key(world.data(counter));
        world.store.add(Rule::new(Operation::Delete, Fault::Refuse).under(key.as_ref()));
    }
    world.metadata.delete_stream(stream);
    sleep(2 * HOUR).await;
    assert_eq!(world.collector.status().garbage_deleted, count - locked);
    let before = world.store.counts().deletes;
    sleep(4 * HOUR).await;
    let asked = world.store.counts().deletes - before;
    assert!(asked <= (4 * 12 + 1) * 64, "{asked} deletions in four hours");
    world.store.heal();
    sleep(HOUR).await;
    assert_eq!(world.left(locked).await, 0);
}

const YEAR_MS: i64 = 365 * 24 * 3_600_000;
const SECOND: Duration = Duration::from_secs(1);

/// G1: whatever the clock says when something becomes garbage, and after that.
#[tokio::test(start_paused = true)]
async fn garbage_of_this_process_goes_after_the_delay_whatever_the_clock_says() {
    for (then_ms, later_ms) in [(YEAR_MS, 0), (0, YEAR_MS), (-YEAR_MS, 0), (0, -YEAR_MS)] {
        let world = World::new();
        let stream = world.fill(10).await;
        sleep(HOUR).await;
        world.metadata.set_clock_ahead(then_ms);
        world.metadata.delete_stream(stream);
        // It is noticed at the first look.
        sleep(MINUTE).await;
        world.metadata.set_clock_ahead(later_ms);
        // Others do not stand still, and have it looked at early.
        for _ in 0..8 {
            world.metadata.delete_stream(world.metadata.create_stream());
            sleep(MINUTE).await;
        }
        sleep(MINUTE - SECOND).await;
        assert_eq!(world.left(10).await, 10, "a reader may still be there ({then_ms}, {later_ms})");
        sleep(21 * SECOND).await;
        assert_eq!(world.left(10).await, 0, "{then_ms}, {later_ms}");
    }
}

/// G1: a restart does not begin the delay anew, unless the clock is doubted.
#[tokio::test(start_paused = true)]
async fn garbage_that_is_found_at_the_start_goes_by_its_age_on_a_clock_that_is_believed() {
    // How old it is, how long the clock is doubted then, and when it goes.
    for (age, doubted, goes) in [
        (6 * MINUTE, SECOND, 4 * MINUTE),
        (HOUR, SECOND, 10 * SECOND),
        (HOUR, 5 * MINUTE, 5 * MINUTE),
        (HOUR, HOUR, 10 * MINUTE),
    ] {
        let world = World::new();
        let stream = world.fill(10).await;
        world.metadata.delete_stream(stream);
        // It is noticed after ten.
        sleep(11 * SECOND).await;
        let World { metadata, store, owner, collector, .. } = world;
        collector.shutdown().await;
        sleep(age - SECOND).await;
        metadata.doubt_clock(true);
        let world = World::of(metadata.clone(), store, owner);
        tokio::spawn(async move {
            sleep(doubted).await;
            metadata.doubt_clock(false);
        });
        sleep(goes - SECOND).await;
        assert_eq!(world.left(10).await, 10, "{age:?} {doubted:?}");
        sleep(12 * SECOND).await;
        assert_eq!(world.left(10).await, 0, "{age:?} {doubted:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fenced_collector_ends() {
    let world = World::new();
    let stream = world.fill(1).await;
    world.metadata.delete_stream(stream);
    world.metadata.register(1);
    sleep(11 * MINUTE).await;
    // What it deletes is garbage whoever deletes it (G6); it can say nothing, and stops.
    let deletes = world.store.counts().deletes;
    sleep(24 * HOUR).await;
    assert_eq!((world.store.counts().deletes, deletes), (1, 1));
    assert_eq!(world.store.counts().lists, 0);
    world.collector.shutdown().await;
}

/// F59: a broken invariant in the collector is heard of at once, and a fence is none.
#[tokio::test(start_paused = true)]
async fn a_collector_that_panics_is_heard_of() {
    let metadata = MemoryMetadata::new();
    let owner = metadata.register(1);
    let collector = |lowest: fn() -> u64| {
        let store = Arc::new(FaultStore::in_memory(1));
        Collector::start(Config::default(), store, metadata.clone(), owner, Arc::new(lowest))
    };
    let key = object_key(ObjectId::Data { owner, counter: 1 });
    let store = FaultStore::in_memory(1);
    store.inner().put(&key, "unnamed".into()).await.unwrap();
    let lowest = Arc::new(|| panic!("a counter went back"));
    let broken = Collector::start(Config::default(), Arc::new(store), metadata.clone(), owner, lowest);
    let sound = collector(|| 0);
    tokio::time::timeout(HOUR, broken.failed()).await.expect("it is told within the first sweep");
    metadata.fence(owner);
    assert!(tokio::time::timeout(24 * HOUR, sound.failed()).await.is_err());
    assert!(broken.has_failed() && !sound.has_failed());
}
