//! Bounds: memory, the WAL's space, and what makes uploads start.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;

use s3stream::object::ObjectSlotCodec;
use s3stream::{Config, Error, RECORD_OVERHEAD_BYTES, Storage, StreamMetadata};
use tokio::time::timeout;
use uuid::Uuid;
use wal::Uri;
use wal::block::BlockMedium;
use wal::memory::{MemoryMedium, Options};
use wal::object::ObjectMedium;

use crate::world::{World, read_all, record, small};

const LONG: Duration = Duration::from_secs(600);

#[tokio::test(start_paused = true)]
async fn memory_stays_bounded_while_nothing_can_be_committed_and_all_goes_on_afterwards() {
    let world = World::new(small());
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    world.metadata.set_outage(true);
    let mut appended = 0;
    while let Ok(outcome) = timeout(LONG, broker.append(0, record(0, appended, 1, 1000))).await {
        outcome.expect("appends");
        appended += 1;
        let status = broker.storage.status();
        assert!(status.cache_used_bytes <= status.cache_limit_bytes);
        assert!(appended < 100, "admits without a bound");
    }
    assert_eq!(
        appended,
        64 * 1024 / (1000 + RECORD_OVERHEAD_BYTES) as u64,
        "the budget is used up, and no more"
    );
    assert!(broker.storage.failed().now_or_never().is_none(), "an outage is no failure");
    world.metadata.set_outage(false);
    broker.fill(0, 200, 1000).await;
    broker.storage.flush().await.expect("flushes");
    assert_eq!(read_all(&broker.streams[0], 0).await.len(), appended as usize + 200);
}

#[tokio::test(start_paused = true)]
async fn waiting_admissions_are_served_in_order_and_leave_nothing_behind() {
    let world = World::new(small());
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    let storage = &broker.storage;
    let limit = storage.status().cache_limit_bytes;
    assert!(
        matches!(storage.admit(limit).await, Err(Error::TooLarge { .. })),
        "with its overhead it never fits"
    );
    let all = storage.admit(limit - RECORD_OVERHEAD_BYTES).await.expect("fits");
    let mut large = Box::pin(storage.admit(limit / 2));
    let mut small = Box::pin(storage.admit(10));
    assert!((&mut large).now_or_never().is_none());
    assert!((&mut small).now_or_never().is_none());
    drop(all);
    let large_admission = (&mut large).now_or_never().expect("is first").expect("fits");
    let small_admission = (&mut small).now_or_never().expect("fits beside it").expect("fits");
    let mut blocked = Box::pin(storage.admit(limit / 2));
    let mut behind = Box::pin(storage.admit(10));
    assert!((&mut blocked).now_or_never().is_none());
    assert!((&mut behind).now_or_never().is_none(), "no overtaking");
    drop(blocked);
    let behind = (&mut behind).now_or_never().expect("the one before it left").expect("fits");
    drop((large_admission, small_admission, behind));
    assert_eq!(storage.status().cache_used_bytes, 0);
    assert_eq!(storage.status().admissions_waiting, 0);
}

/// What a request waits for others must not grow with the number of its records.
#[tokio::test]
async fn a_run_of_small_records_waits_for_one_turn() {
    let world = World::new(small());
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    let storage = &broker.storage;
    let limit = storage.status().cache_limit_bytes;
    let all = storage.admit(limit - RECORD_OVERHEAD_BYTES).await.expect("fits");
    let bodies = [10; 50];
    let mut run = Box::pin(storage.admit_run(&bodies));
    let mut behind = Box::pin(storage.admit(10));
    assert!((&mut run).now_or_never().is_none());
    assert!((&mut behind).now_or_never().is_none());
    assert_eq!(storage.status().admissions_waiting, 2);
    drop(all);
    let mut admission = (&mut run).now_or_never().expect("is first").expect("fits");
    let mut appending = Vec::new();
    for (base, bytes) in (0..).zip(bodies) {
        let own = admission.split(bytes).expect("was let in with the others");
        appending.push(broker.streams[0].append(own, record(0, base, 1, bytes)).expect("appends"));
    }
    assert!(admission.split(0).is_none(), "no more than was asked for");
    drop((admission, behind));
    for appending in appending {
        appending.await.expect("confirmed");
    }
    assert_eq!(storage.status().cache_used_bytes, 50 * (10 + RECORD_OVERHEAD_BYTES));
}

/// One turn takes no more than one large record would, of the WAL or of the cache; what is larger goes alone.
#[tokio::test]
async fn a_run_is_bounded_by_the_largest_record_and_by_a_share_of_the_cache() {
    async fn admitted(storage: &Storage, bodies: &[usize]) -> usize {
        let mut run = storage.admit_run(bodies).await.expect("fits");
        bodies.iter().take_while(|bytes| run.split(**bytes).is_some()).count()
    }
    let options = Options { record_bytes_max: 1 << 10, ..Options::default() };
    let medium = Arc::new(MemoryMedium::new("narrow", options));
    let world = World::on(small(), Arc::new(object_store::memory::InMemory::new()), medium);
    let broker = world.start(&[]).await;
    // With what the log adds to each, 40 bytes.
    for (bodies, expected) in
        [(&[300; 5][..], 3), (&[344, 600][..], 2), (&[345, 600][..], 1), (&[2_000, 1][..], 1)]
    {
        assert_eq!(admitted(&broker.storage, bodies).await, expected, "{bodies:?}");
    }
    let broker = World::new(small()).start(&[]).await;
    let quarter = broker.storage.status().cache_limit_bytes / 4;
    let half = quarter / 2 - RECORD_OVERHEAD_BYTES;
    for (bodies, expected) in [(&[half; 5][..], 2), (&[half, half + 1][..], 1), (&[60_000, 0][..], 1)] {
        assert_eq!(admitted(&broker.storage, bodies).await, expected, "{bodies:?}");
    }
    assert_eq!(broker.storage.status().cache_used_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_engine_does_nothing_and_an_old_block_is_uploaded() {
    let world = World::new(small());
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    let committed = || world.metadata.stream(id).expect("exists").committed_end;
    tokio::time::sleep(LONG).await;
    assert!(world.metadata.named_objects().is_empty());
    broker.fill(0, 3, 10).await;
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(committed(), 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(committed(), 3);
    assert_eq!(broker.storage.status().wal.used_bytes, 0);
    tokio::time::sleep(LONG).await;
    assert_eq!(world.metadata.named_objects().len(), 1);
    assert!(broker.streams[0].read_cached(0, 1, u64::MAX).is_some(), "what is uploaded stays as tail cache");
}

/// Many appends at once wait for each other's writes, not for room that an upload would make.
#[tokio::test]
async fn appends_that_wait_for_writes_under_way_start_no_upload() {
    let directory = tempfile::tempdir().expect("a directory");
    let uri = Uri::block(&directory.path().join("volume"), Some(64 << 20)).expect("a path");
    let config = wal::block::Config {
        frame_bytes_max: 64 << 10,
        frame_bytes_target: 16 << 10,
        pending_bytes_max: 64 << 10,
        ..wal::block::Config::default()
    };
    let medium = BlockMedium::new(&uri, Uuid::from_u128(7), config).expect("a volume");
    let config = Config { log_cache_bytes: 64 << 20, upload_bytes: 32 << 20, ..small() };
    let world = World::on(config, Arc::new(object_store::memory::InMemory::new()), Arc::new(medium));
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    let mut waited = 0;
    for round in 0..10 {
        let (base, mut appending) = (round * 50, Vec::new());
        for at in 0..50 {
            let mut admission = Box::pin(broker.storage.admit(10_000));
            let admission = match (&mut admission).now_or_never() {
                Some(admission) => admission,
                None => {
                    waited += 1;
                    admission.await
                }
            };
            let record = record(0, base + at, 1, 10_000);
            appending.push(broker.streams[0].append(admission.expect("admitted"), record).expect("appends"));
        }
        for appending in appending {
            appending.await.expect("durable");
        }
    }
    assert!(waited > 0, "nothing waited");
    let status = broker.storage.status();
    assert_eq!((status.cache_blocks, status.bytes_uploaded), (1, 0), "after {waited} waits");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_fills_up_makes_room_for_itself() {
    let medium = MemoryMedium::new("tight", Options { capacity_bytes: 10 << 10, ..Options::default() });
    let config = Config { log_cache_bytes: 64 << 20, upload_bytes: 32 << 20, ..small() };
    let world = World::on(config, Arc::new(object_store::memory::InMemory::new()), Arc::new(medium));
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    // Each of these needs most of the log: the fraction at which uploads start is never passed by one alone.
    for bytes in [4000, 7000, 9000, 100, 9000, 5000, 5200] {
        timeout(LONG, broker.fill(0, 1, bytes)).await.expect("room is made");
    }
    // A request that waits does not wait for the block's age.
    timeout(Duration::from_secs(50), broker.fill(0, 100, 900)).await.expect("room is made");
    broker.storage.flush().await.expect("flushes");
    assert_eq!(read_all(&broker.streams[0], 0).await.len(), 107);
}

/// As many as a recovery may have to read, whatever they hold: a minute of small batches would be a thousand of them.
#[tokio::test(start_paused = true)]
async fn a_log_of_many_slots_is_uploaded_before_its_time() {
    let store = Arc::new(object_store::memory::InMemory::new());
    let codec = Arc::new(ObjectSlotCodec::default());
    let medium = ObjectMedium::new(store.clone(), codec, wal::object::Config::default());
    let config = Config { wal_slots_max: 40, upload_interval_max: Duration::from_secs(3600), ..small() };
    let world = World::on(config, store, Arc::new(medium));
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    // Each waits for the one before, and so has a slot of its own: forty of them in about 20 s.
    let mut most = 0;
    for _ in 0..30 {
        broker.fill(0, 10, 10).await;
        most = most.max(broker.storage.status().wal.used_slots);
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert!((40..60).contains(&most), "{most} slots at once");
    let status = broker.storage.status();
    assert!(status.bytes_uploaded > 0 && world.metadata.named_objects().len() <= 300 / 40, "{status:?}");
    assert_eq!(read_all(&broker.streams[0], 0).await.len(), 300);
}

/// Each upload is an entry in the metadata log, which all brokers share: many slots are not uploaded the more often the faster
/// they come.
#[tokio::test(start_paused = true)]
async fn a_log_of_many_slots_is_not_uploaded_all_the_time() {
    let store = Arc::new(object_store::memory::InMemory::new());
    let codec = Arc::new(ObjectSlotCodec::default());
    let fast = wal::object::Config { puts_per_second_max: 400.0, ..wal::object::Config::default() };
    let medium = ObjectMedium::new(store.clone(), codec, fast);
    let (log_cache_bytes, upload_bytes) = (64 << 20, 32 << 20);
    let config = Config { wal_slots_max: 40, log_cache_bytes, upload_bytes, ..small() };
    let world = World::on(config, store, Arc::new(medium));
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        broker.fill(0, 40, 10).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let uploads = world.metadata.named_objects().len();
    assert!((2..=4).contains(&uploads), "{uploads} uploads in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_memory_does_not_wait_for_a_full_block() {
    let world = World::new(Config { upload_bytes: 64 << 10, ..small() });
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    timeout(Duration::from_secs(50), broker.fill(0, 30, 10_000)).await.expect("room is made");
    assert_eq!(read_all(&broker.streams[0], 0).await.len(), 30);
}

#[tokio::test]
async fn eviction_gives_everything_back_and_no_more_than_is_wanted() {
    let world = World::new(small());
    let ids: Vec<_> = (0..3).map(|_| world.metadata.create_stream()).collect();
    let broker = world.start(&ids).await;
    for stream in 0..3 {
        broker.fill(stream, 15, 1000).await;
    }
    broker.storage.flush().await.expect("flushes");
    let status = broker.storage.status();
    let free = status.cache_limit_bytes - status.cache_used_bytes;
    let admission = broker.storage.admit(free).await.expect("fits");
    let record_charge = 1000 + RECORD_OVERHEAD_BYTES;
    let used = broker.storage.status().cache_used_bytes;
    assert!(used > status.cache_limit_bytes - record_charge, "{used}: one record had to go, or none");
    drop(admission);
    // One stream is closed, another was opened anew and has forgotten what it had cached.
    broker.streams[0].close();
    broker.streams[1].close();
    world.metadata.open_stream(ids[1], broker.owner);
    broker.storage.open_stream(ids[1], None).expect("opens");
    let all = status.cache_limit_bytes - RECORD_OVERHEAD_BYTES;
    drop(broker.storage.admit(all).await.expect("fits"));
    let status = broker.storage.status();
    assert_eq!((status.cache_used_bytes, status.cache_blocks, status.streams), (0, 0, 2));
}

#[tokio::test]
async fn many_small_streams_share_an_object_and_a_large_one_has_its_own() {
    let world = World::new(Config { upload_bytes: 60 << 10, ..small() });
    let ids: Vec<_> = (0..20).map(|_| world.metadata.create_stream()).collect();
    let broker = world.start(&ids).await;
    for stream in 0..20 {
        let (records, bytes) = if stream == 7 { (10, 1000) } else { (1, 100) };
        broker.fill(stream, records, bytes).await;
    }
    broker.storage.flush().await.expect("flushes");
    assert_eq!(world.metadata.named_objects().len(), 2);
    let object = |id| world.metadata.locate(id, 0, 9)[0].object;
    assert_eq!(object(ids[0]), object(ids[19]));
    assert_ne!(object(ids[0]), object(ids[7]));
}

#[tokio::test]
async fn a_block_with_many_streams_is_committed_in_bounded_entries() {
    let config = Config { object_streams_max: 3, commit_parts_max: 6, ..small() };
    let world = World::new(config);
    let ids: Vec<_> = (0..20).map(|_| world.metadata.create_stream()).collect();
    let broker = world.start(&ids).await;
    for stream in 0..20 {
        broker.fill(stream, 2, 50).await;
    }
    broker.storage.flush().await.expect("flushes");
    assert_eq!(world.metadata.named_objects().len(), 7, "three streams an object");
    assert!(world.metadata.commits() >= 4, "six parts an entry, at most");
    assert_eq!(broker.storage.status().wal.used_bytes, 0);
}
