//! Compaction from outside: what it makes of many uploads, and what it leaves when it is disturbed at any step.

use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStoreExt;
use s3stream::metadata::memory::Fault;
use s3stream::object::object_key;
use s3stream::{Config, Error, ObjectId, ReadError, StreamId, StreamMetadata, StreamRecord};
use tokio::time::{sleep, timeout};
use wal::memory::{MemoryMedium, Options};

use crate::store::{Bucket, Fate};
use crate::world::{Broker, World, compacting, read_all, record};

const LONG: Duration = Duration::from_secs(3600);

fn world_of(config: Config) -> (World, Bucket, MemoryMedium) {
    let bucket = Bucket::default();
    let medium = MemoryMedium::new("compaction", Options::default());
    let world = World::on(config, Arc::new(bucket.clone()), Arc::new(medium.clone()));
    (world, bucket, medium)
}

fn world() -> (World, Bucket, MemoryMedium) {
    world_of(compacting())
}

/// Uploads `count` times a record of `bytes` of each stream.
async fn uploads(broker: &Broker, count: u64, bytes: usize) {
    for _ in 0..count {
        for stream in 0..broker.streams.len() {
            broker.fill(stream, 1, bytes).await;
        }
        broker.storage.flush().await.expect("flushes");
    }
}

/// Waits until nothing changes any more.
async fn settle(broker: &Broker) {
    loop {
        let before = broker.storage.status().compaction;
        sleep(Duration::from_secs(300)).await;
        if broker.storage.status().compaction == before {
            return;
        }
    }
}

fn parts(world: &World, stream: StreamId) -> Vec<(u64, u64, ObjectId)> {
    let located = world.metadata.locate(stream, 0, usize::MAX);
    located.iter().map(|located| (located.part.base, located.part.end, located.object)).collect()
}

fn expected(stream: usize, count: u64, bytes: usize) -> Vec<StreamRecord> {
    (0..count).map(|base| record(stream as u64, base, 1, bytes)).collect()
}

async fn check(broker: &Broker, count: u64, bytes: usize) {
    for (at, stream) in broker.streams.iter().enumerate() {
        assert_eq!(
            read_all(stream, stream.start()).await,
            expected(at, count, bytes)[stream.start() as usize..]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn many_small_objects_become_few() {
    let (world, bucket, _) = world();
    let ids: Vec<_> = (0..5).map(|_| world.metadata.create_stream()).collect();
    let broker = world.start(&ids).await;
    uploads(&broker, 150, 300).await;
    settle(&broker).await;
    let status = broker.storage.status();
    assert_eq!(status.compaction.failures, 0, "{status:?}");
    // 45 kB of each stream: two full parts, and fewer than four of each of the tiers below.
    for id in &ids {
        let parts = parts(&world, *id);
        assert!(parts.len() <= 2 + 3 * 4, "{parts:?}");
    }
    let named = world.metadata.named_objects().len();
    assert!(named <= 30, "{named} objects");
    assert!(status.compaction.bytes_read <= 4 * status.bytes_uploaded, "{status:?}");
    check(&broker, 150, 300).await;
    // Epochs, timestamps and everything else survive a restart from the new objects.
    broker.storage.shutdown().await.expect("shuts down");
    let broker = world.start(&ids).await;
    let gets = bucket.gets();
    check(&broker, 150, 300).await;
    // A cold read of everything: two requests a part, and one for each 8 MiB.
    let parts: usize = ids.iter().map(|id| parts(&world, *id).len()).sum();
    assert!(bucket.gets() - gets <= 2 * parts, "{} GETs for {parts} parts", bucket.gets() - gets);
    let found = broker.streams[0].find_timestamp(0, 77).await.expect("reads").expect("is there");
    assert_eq!(found.base, 77);
    let last = broker.streams[0].max_timestamp().await.expect("reads").expect("is there");
    assert_eq!(last.base, 149);
}

/// Larger than memory and pieces: windows of several sources, a multipart upload.
#[tokio::test(start_paused = true)]
async fn large_objects_are_written_in_pieces() {
    let (world, bucket, _) = world();
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    uploads(&broker, 12, 7000).await;
    settle(&broker).await;
    let status = broker.storage.status().compaction;
    assert!(status.jobs > 0 && status.failures == 0, "{status:?}");
    assert!(bucket.puts() as u64 >= 12 + 28_000 * status.jobs / 4096, "in pieces of 4 KiB");
    assert!(parts(&world, id).len() <= 5, "{:?}", parts(&world, id));
    check(&broker, 12, 7000).await;
}

/// The engine does nothing to a bucket and metadata that nobody changes.
#[tokio::test(start_paused = true)]
async fn an_idle_engine_asks_for_nothing() {
    let (world, bucket, _) = world();
    let ids: Vec<_> = (0..3).map(|_| world.metadata.create_stream()).collect();
    let broker = world.start(&ids).await;
    uploads(&broker, 30, 200).await;
    settle(&broker).await;
    let (gets, puts, looks) = (bucket.gets(), bucket.puts(), world.metadata.looks());
    sleep(24 * LONG).await;
    assert_eq!((bucket.gets(), bucket.puts(), world.metadata.looks()), (gets, puts, looks));
}

/// Whatever happens to a request of the new object, the swap is made in the end, of a good one.
#[tokio::test(start_paused = true)]
async fn every_fate_of_its_writes_leads_to_a_swap_or_to_garbage() {
    for bytes in [300, 7000] {
        for fate in [Fate::Refused, Fate::LostReply, Fate::Silent] {
            for nth in 0..4 {
                let (world, bucket, _) = world();
                let id = world.metadata.create_stream();
                let broker = world.start(&[id]).await;
                uploads(&broker, 3, bytes).await;
                (0..nth).for_each(|_| bucket.next_piece(Fate::Fine));
                bucket.next_piece(fate);
                uploads(&broker, 1, bytes).await;
                bucket.next(fate);
                timeout(LONG, settle(&broker)).await.expect("settles");
                assert_eq!(parts(&world, id).len(), 1, "{fate:?} of request {nth}, {bytes} bytes");
                check(&broker, 4, bytes).await;
            }
        }
    }
}

/// A crash before the swap, or after it and before anybody knew.
#[tokio::test(start_paused = true)]
async fn a_crash_around_the_swap_leaves_one_or_the_other() {
    for (fault, swapped) in [(Fault::HangBefore, false), (Fault::HangAfter, true)] {
        let (world, _, medium) = world();
        let id = world.metadata.create_stream();
        let broker = world.start(&[id]).await;
        uploads(&broker, 3, 300).await;
        // The commit of the fourth, then the swap.
        world.metadata.inject_after(1, fault);
        uploads(&broker, 1, 300).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(parts(&world, id).len(), if swapped { 1 } else { 4 }, "{fault:?}");
        check(&broker, 4, 300).await;
        drop(broker);
        medium.crash(|_| false);
        let broker = world.start(&[id]).await;
        check(&broker, 4, 300).await;
        settle(&broker).await;
        assert_eq!(parts(&world, id).len(), 1, "the next life goes on with it");
        check(&broker, 4, 300).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_swap_of_unknown_outcome_is_asked_for_again() {
    for fault in [Fault::LostReply, Fault::Unavailable] {
        let (world, _, _) = world();
        let id = world.metadata.create_stream();
        let broker = world.start(&[id]).await;
        uploads(&broker, 3, 300).await;
        world.metadata.inject_after(1, fault);
        uploads(&broker, 1, 300).await;
        settle(&broker).await;
        let status = broker.storage.status().compaction;
        assert_eq!((status.jobs, status.failures, parts(&world, id).len()), (1, 0, 1), "{fault:?}");
    }
}

/// Holds the swap up, lets `change` happen, and lets it go.
async fn with_change_before_the_swap(change: impl AsyncFnOnce(&World, &Broker)) -> (World, Broker) {
    let (world, _, _) = world();
    let ids = [world.metadata.create_stream(), world.metadata.create_stream()];
    let broker = world.start(&ids).await;
    uploads(&broker, 3, 300).await;
    // The commit of the fourth passes.
    world.metadata.inject_after(1, Fault::Delay(Duration::from_secs(30)));
    uploads(&broker, 1, 300).await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(parts(&world, ids[0]).len(), 4, "the swap is under way");
    change(&world, &broker).await;
    settle(&broker).await;
    sleep(Duration::from_secs(60)).await;
    (world, broker)
}

#[tokio::test(start_paused = true)]
async fn a_trim_in_the_middle_is_kept() {
    let (world, broker) =
        with_change_before_the_swap(async |_, broker| broker.streams[0].trim(2).await.expect("trims")).await;
    let id = broker.streams[0].id();
    assert_eq!(world.metadata.stream(id).expect("exists").start, 2);
    assert_eq!(parts(&world, id).iter().map(|part| (part.0, part.1)).collect::<Vec<_>>(), [(2, 4)]);
    check(&broker, 4, 300).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_deleted_in_the_middle_stays_deleted() {
    let (world, broker) = with_change_before_the_swap(async |world, broker| {
        world.metadata.delete_stream(broker.streams[0].id());
    })
    .await;
    assert_eq!(parts(&world, broker.streams[0].id()), []);
    assert_eq!(parts(&world, broker.streams[1].id()).len(), 1);
    assert_eq!(read_all(&broker.streams[1], 0).await, expected(1, 4, 300));
}

/// O6: nothing that a fenced incarnation made takes the place of anything.
#[tokio::test(start_paused = true)]
async fn a_fence_in_the_middle_stops_the_engine() {
    let (world, broker) =
        with_change_before_the_swap(async |world, broker| world.metadata.fence(broker.owner)).await;
    assert_eq!(parts(&world, broker.streams[0].id()).len(), 4);
    assert!(matches!(broker.storage.failed().await, Error::Fenced(_)));
}

/// C3: a source was replaced by somebody else after it was read.
#[tokio::test(start_paused = true)]
async fn a_swap_of_what_was_replaced_meanwhile_is_rejected() {
    let (world, broker) = with_change_before_the_swap(async |world, broker| {
        let id = broker.streams[0].id();
        let old = world.metadata.locate(id, 0, 9);
        let other = ObjectId::Data { owner: broker.owner, counter: 4711 };
        let object = s3stream::metadata::NewObject {
            id: other,
            size_bytes: old[1].object_size_bytes,
            parts: vec![old[1].part],
        };
        let replacement = s3stream::metadata::Replacement { object, sources: vec![old[1].object] };
        world.metadata.replace(broker.owner, vec![replacement]).await.expect("replaces");
    })
    .await;
    let parts = parts(&world, broker.streams[0].id());
    assert!(
        parts.iter().any(|(base, end, object)| (*base, *end) == (1, 2)
            && matches!(object, ObjectId::Data { counter: 4711, .. })),
        "{parts:?}"
    );
    assert!(broker.storage.status().compaction.failures >= 1);
}

/// C6: a damaged or missing source stays as it is; everything around it is compacted, other streams of it too.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_compacted_around() {
    for missing in [false, true] {
        let (world, bucket, _) = world();
        let ids = [world.metadata.create_stream(), world.metadata.create_stream()];
        let broker = world.start(&ids).await;
        let mut damaged = None;
        for round in 0..16 {
            uploads(&broker, 1, 300).await;
            if round == 1 {
                // Its first block is the first stream's, behind the header and its table.
                let object = parts(&world, ids[0])[1].2;
                if missing {
                    bucket.delete(&object_key(object)).await;
                } else {
                    bucket.damage(&object_key(object), 100).await;
                }
                damaged = Some(object);
            }
        }
        settle(&broker).await;
        let damaged = damaged.expect("the second");
        let first = parts(&world, ids[0]);
        assert_eq!((first[1].0, first[1].1, first[1].2), (1, 2, damaged), "{first:?}");
        assert!(first.len() <= 8, "{first:?}");
        let second = parts(&world, ids[1]);
        assert_eq!(second.iter().any(|part| part.2 == damaged), missing, "{second:?}");
        let status = broker.storage.status().compaction;
        assert!(status.failures >= 1 && status.jobs >= 1, "{status:?}");
        broker.storage.shutdown().await.expect("shuts down");
        let broker = world.start(&ids).await;
        let error = broker.streams[0].read(1, 100).await.expect_err("cannot be read");
        assert!(
            matches!(error, ReadError::Corrupt { object: Some(object), .. } if object == damaged),
            "{error}"
        );
        let (from, to) = (2, 16);
        assert_eq!(read_all(&broker.streams[0], from).await, expected(0, to, 300)[2..]);
    }
}

/// F37: a read that looked up an object which is swapped and deleted before it got there finds the new one.
#[tokio::test(start_paused = true)]
async fn a_read_that_a_swap_overtakes_looks_again() {
    let (world, bucket, _) = world();
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    uploads(&broker, 3, 300).await;
    broker.storage.shutdown().await.expect("shuts down");
    // Nothing of it is in the log cache now.
    let broker = world.start(&[id]).await;
    let old = parts(&world, id);
    let gate = bucket.hold_get(object_key(old[1].2));
    let reader = broker.streams[0].clone();
    let reading = tokio::spawn(async move { reader.read(1, 100).await });
    while !bucket.is_get_held() {
        tokio::task::yield_now().await;
    }
    broker.fill(0, 1, 300).await;
    broker.storage.flush().await.expect("flushes");
    // Sooner than the GET that is held is given up.
    sleep(Duration::from_secs(2)).await;
    assert_eq!(parts(&world, id).len(), 1, "swapped");
    assert!(!reading.is_finished());
    for (_, _, object) in &old {
        bucket.delete(&object_key(*object)).await;
    }
    gate.notify_one();
    let found = timeout(LONG, reading).await.expect("ends").expect("does not panic").expect("finds it");
    assert_eq!(found[0], record(0, 1, 1, 300));
}

/// What was left undone is done without anybody appending.
#[tokio::test(start_paused = true)]
async fn compaction_goes_on_by_itself_after_a_restart() {
    let (world, _, _) = world_of(Config {
        compaction: s3stream::compaction::Options { jobs_max: 0, ..compacting().compaction },
        ..compacting()
    });
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    uploads(&broker, 40, 300).await;
    broker.storage.shutdown().await.expect("shuts down");
    assert_eq!(parts(&world, id).len(), 40, "it was off");
    let world = World { config: compacting(), ..world };
    let broker = world.start(&[id]).await;
    settle(&broker).await;
    assert!(parts(&world, id).len() <= 10);
    check(&broker, 40, 300).await;
}

/// C2: an object that is not what was written takes the place of nothing.
#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_back_is_not_swapped_in() {
    let (world, bucket, _) = world();
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    uploads(&broker, 3, 7000).await;
    bucket.spoil_next_completion();
    uploads(&broker, 1, 7000).await;
    settle(&broker).await;
    let status = broker.storage.status().compaction;
    assert_eq!((status.failures, status.jobs, parts(&world, id).len()), (1, 1, 1), "{status:?}");
    broker.storage.shutdown().await.expect("shuts down");
    let broker = world.start(&[id]).await;
    check(&broker, 4, 7000).await;
}

/// C1: a source that has fewer records than were committed stays, though every checksum in it is right.
#[tokio::test(start_paused = true)]
async fn a_source_that_lacks_records_is_not_compacted_over() {
    use object_store::ObjectStoreExt;
    use s3stream::object::{Identity, ObjectIndex, ObjectWriter, Options, Tail};
    let (world, bucket, _) = world();
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    for _ in 0..4 {
        broker.fill(0, 3, 300).await;
        broker.storage.flush().await.expect("flushes");
    }
    // The second object, as if its writer had forgotten the record in the middle.
    let object = parts(&world, id)[1].2;
    let key = object_key(object);
    let bytes = world.store.get(&key).await.expect("is there").bytes().await.expect("reads");
    let Ok(Tail::Index(index)) = ObjectIndex::decode(&bytes, bytes.len() as u64) else { panic!("is whole") };
    let epoch = index.blocks()[0].stream_epoch;
    let mut writer = ObjectWriter::new(Identity { object, nonce: 1 }, Options { block_bytes: 2 << 10 });
    writer.add(id, epoch, 1, record(0, 3, 1, 300));
    // As long as the one that is missing, and two bytes less: the object's size is what the metadata says.
    let padding = 300 + 28 + 300;
    writer.add(id, epoch, 1, StreamRecord { base: 5, ..record(0, 5, 1, padding) });
    bucket.replace(&key, writer.finish().payload()).await;
    settle(&broker).await;
    assert!(parts(&world, id).iter().any(|part| part.2 == object), "{:?}", parts(&world, id));
    assert!(broker.storage.status().compaction.failures > 0);
}

/// C5: while producers wait for room, no window is begun, for a while.
#[tokio::test(start_paused = true)]
async fn compaction_stands_back_while_producers_wait() {
    let off = s3stream::compaction::Options { jobs_max: 0, ..compacting().compaction };
    let (world, _, medium) = world_of(Config { compaction: off, ..compacting() });
    let ids = [world.metadata.create_stream(), world.metadata.create_stream()];
    let broker = world.start(&ids).await;
    uploads(&broker, 4, 300).await;
    broker.storage.shutdown().await.expect("shuts down");
    let world = World { config: compacting(), ..world };
    let broker = world.start(&ids[..1]).await;
    // Nothing becomes durable, so nothing can be uploaded and nobody gets room.
    medium.hold();
    let limit = broker.storage.status().cache_limit_bytes;
    let held = broker.storage.admit(limit - 2000).await.expect("fits");
    let waiting = broker.storage.clone();
    let waiting = tokio::spawn(async move { waiting.admit(4000).await.map(drop) });
    sleep(Duration::from_secs(4)).await;
    assert_eq!(broker.storage.status().compaction.jobs, 0, "a producer waits");
    assert_eq!(broker.storage.status().admissions_waiting, 1);
    drop(held);
    waiting.await.expect("does not panic").expect("is let in");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(broker.storage.status().compaction.jobs, 1);
}

/// C5: producers that always wait are kept up with, since what they write is uploaded all the while.
#[tokio::test(start_paused = true)]
async fn uploads_pay_for_compaction_while_producers_wait() {
    let off = s3stream::compaction::Options { jobs_max: 0, ..compacting().compaction };
    let (world, _, _) = world_of(Config { compaction: off, ..compacting() });
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    uploads(&broker, 4, 300).await;
    broker.storage.shutdown().await.expect("shuts down");
    let world = World { config: compacting(), ..world };
    let broker = world.start(&[id]).await;
    broker.fill(0, 20, 300).await;
    let status = broker.storage.status();
    let _held =
        broker.storage.admit(status.cache_limit_bytes - status.cache_used_bytes - 2000).await.expect("fits");
    // More than there is, even once everything is uploaded.
    let (waiting, wanted) = (broker.storage.clone(), status.cache_used_bytes + 4000);
    let waiting = tokio::spawn(async move { waiting.admit(wanted).await.map(drop) });
    sleep(Duration::from_secs(4)).await;
    let status = broker.storage.status();
    assert_eq!(status.admissions_waiting, 1, "a producer waits");
    assert!(status.bytes_uploaded > 0 && status.compaction.jobs > 0, "{status:?}");
    waiting.abort();
}

/// A commit whose outcome its uploader does not know yet must be recognised when it is tried again.
#[tokio::test(start_paused = true)]
async fn what_an_uploader_still_commits_is_left_alone() {
    let (world, _, _) = world();
    let ids = [world.metadata.create_stream(), world.metadata.create_stream()];
    let broker = world.start(&ids[..1]).await;
    uploads(&broker, 3, 300).await;
    // Applied, but nobody learns it for a minute.
    world.metadata.inject(Fault::LostReply);
    world.metadata.inject(Fault::Delay(Duration::from_secs(60)));
    broker.fill(0, 1, 300).await;
    let storage = broker.storage.clone();
    let flushing = tokio::spawn(async move { storage.flush().await });
    sleep(Duration::from_secs(1)).await;
    assert_eq!(parts(&world, ids[0]).len(), 4);
    // Makes the compactor look.
    world.metadata.open_stream(ids[1], broker.owner);
    broker.storage.open_stream(ids[1], None).expect("opens");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(parts(&world, ids[0]).len(), 4, "left alone");
    flushing.await.expect("does not panic").expect("flushes");
    settle(&broker).await;
    assert_eq!(parts(&world, ids[0]).len(), 1);
    assert!(broker.storage.status().failure.is_none());
}

/// Whichever request of a multipart upload fails, the store is told to forget what it has of it.
#[tokio::test(start_paused = true)]
async fn an_upload_in_pieces_that_failed_is_aborted() {
    let mut failures = 0;
    for fate in [Fate::Refused, Fate::Silent] {
        for nth in 0..9 {
            let (world, bucket, _) = world();
            let id = world.metadata.create_stream();
            let broker = world.start(&[id]).await;
            uploads(&broker, 3, 7000).await;
            (0..nth).for_each(|_| bucket.next_piece(Fate::Fine));
            bucket.next_piece(fate);
            uploads(&broker, 1, 7000).await;
            timeout(LONG, settle(&broker)).await.expect("settles");
            failures += broker.storage.status().compaction.failures;
            assert_eq!(parts(&world, id).len(), 1, "{fate:?} of request {nth}");
            assert_eq!(bucket.open_uploads(), 0, "{fate:?} of request {nth}");
        }
    }
    assert!(failures >= 2 * 8, "{failures}: what failed?");
}

/// As [`compacting`], with pauses as long as those of a real broker.
fn patient() -> Config {
    let compaction = s3stream::compaction::Options {
        retry_pause_min: Duration::from_secs(60),
        retry_pause_max: LONG,
        walk_interval: Duration::from_secs(600),
        ..compacting().compaction
    };
    Config { compaction, ..compacting() }
}

/// A stream of `count` uploads, of which those in `damaged` cannot be read, and a broker that finds it so.
async fn with_damage(config: Config, count: u64, damaged: &[usize]) -> (World, Bucket, Broker) {
    let off = s3stream::compaction::Options { jobs_max: 0, ..config.compaction.clone() };
    let (world, bucket, _) = world_of(Config { compaction: off, ..config.clone() });
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    uploads(&broker, count, 300).await;
    broker.storage.shutdown().await.expect("shuts down");
    let all = parts(&world, id);
    for at in damaged {
        bucket.damage(&object_key(all[*at].2), 100).await;
    }
    let world = World { config, ..world };
    let broker = world.start(&[id]).await;
    (world, bucket, broker)
}

/// C6: a job finds all damage of what it reads, not one place each time.
#[tokio::test(start_paused = true)]
async fn all_damage_of_a_job_is_found_at_once() {
    let damaged = [3, 4, 11, 19, 30, 38];
    let (world, _, broker) = with_damage(patient(), 40, &damaged).await;
    sleep(Duration::from_secs(10)).await;
    let status = broker.storage.status().compaction;
    assert_eq!(status.failures, 1, "{status:?}");
    let left = parts(&world, broker.streams[0].id());
    for at in damaged {
        assert!(left.iter().any(|part| (part.0, part.1) == (at as u64, at as u64 + 1)), "{left:?}");
    }
    assert!(left.len() <= 2 * damaged.len() + 4, "{left:?}");
}

/// More damage than is remembered: it is met again and again, seldom.
#[tokio::test(start_paused = true)]
async fn mass_damage_is_no_hot_loop() {
    let compaction = s3stream::compaction::Options { damaged_max: 2, ..patient().compaction };
    let damaged: Vec<usize> = (0..40).step_by(3).collect();
    let (_world, _, broker) = with_damage(Config { compaction, ..patient() }, 40, &damaged).await;
    let failures = || broker.storage.status().compaction.failures;
    // The clock is moved by hand: whoever never waits would stop it otherwise, and this test with it.
    for _ in 0..24 * 360 {
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(failures() < 100, "it tries again and again what it cannot remember");
    }
    assert!(failures() > 1, "{} attempts in a day", failures());
}

/// Uploads of a stream for itself: nothing of another one is in its objects.
async fn uploads_of(broker: &Broker, stream: usize, count: u64, bytes: usize) {
    for _ in 0..count {
        broker.fill(stream, 1, bytes).await;
        broker.storage.flush().await.expect("flushes");
    }
}

/// C6: an object that the store does not give away costs nobody else anything, and is taken up when it does.
#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_now_holds_up_no_other() {
    use faults::{Fault, FaultStore, Operation, Rule};
    for (fault, of) in [(Fault::Refuse, 1), (Fault::Hang, 1), (Fault::Refuse, 20)] {
        let store = FaultStore::in_memory(1);
        let medium = MemoryMedium::new("compaction", Options::default());
        let off = s3stream::compaction::Options { jobs_max: 0, ..patient().compaction };
        let world =
            World::on(Config { compaction: off, ..patient() }, Arc::new(store.clone()), Arc::new(medium));
        let ids: Vec<_> = (0..3).map(|_| world.metadata.create_stream()).collect();
        let broker = world.start(&ids).await;
        for stream in 0..3 {
            uploads_of(&broker, stream, 24, 300).await;
        }
        broker.storage.shutdown().await.expect("shuts down");
        let away: Vec<ObjectId> = parts(&world, ids[1])[2..2 + of].iter().map(|part| part.2).collect();
        for object in &away {
            store.add(Rule::new(Operation::Get, fault).under(object_key(*object).as_ref()));
        }
        let world = World { config: patient(), ..world };
        let broker = world.start(&ids).await;
        // Time-outs, and the pauses of an outage where there are many; not of what fails again and again.
        sleep(LONG).await;
        for id in [ids[0], ids[2]] {
            assert!(parts(&world, id).len() <= 6, "{fault:?} {of}: {:?}", parts(&world, id));
        }
        // Nor what comes later, of the same stream too.
        for stream in 0..3 {
            uploads_of(&broker, stream, 24, 300).await;
        }
        sleep(Duration::from_secs(30)).await;
        // Where so much is away of it that there is nothing else to read, its own parts may wait.
        for id in ids.iter().filter(|id| of == 1 || **id != ids[1]) {
            assert!(parts(&world, *id).len() <= of + 14, "{fault:?} {of}: {:?}", parts(&world, *id));
        }
        let failures = broker.storage.status().compaction.failures;
        sleep(24 * LONG).await;
        let failures = broker.storage.status().compaction.failures - failures;
        assert!(failures <= 6 * 24, "{fault:?} {of}: {failures} attempts in a day");
        store.heal();
        sleep(2 * LONG).await;
        uploads_of(&broker, 1, 24, 300).await;
        settle(&broker).await;
        assert!(parts(&world, ids[1]).len() <= 14, "{fault:?} {of}: {:?}", parts(&world, ids[1]));
    }
}

/// A store that takes no object of one PUT: the job is given up after so many attempts, and what it held is free. Uploads go
/// on, and so does the collector's view of what is in flight; later it is tried again, and a shutdown does not wait for it.
#[tokio::test(start_paused = true)]
async fn a_put_that_fails_again_and_again_is_given_up_until_later() {
    use faults::{Fault, FaultStore, Operation, Rule};
    for fault in [Fault::Refuse, Fault::Hang] {
        let plain = FaultStore::in_memory(1);
        let compacting = FaultStore::new(plain.inner(), 2);
        let config = Config { put_timeout: Duration::from_secs(10), ..patient() };
        let medium = MemoryMedium::new("compaction", Options::default());
        let world = World::on(config, Arc::new(plain.clone()), Arc::new(medium));
        let stores =
            s3stream::Stores { compaction: Arc::new(compacting.clone()), ..world.store.clone().into() };
        let id = world.metadata.create_stream();
        let broker = world.start_over(stores, &[id]).await;
        compacting.add(Rule::new(Operation::Put, fault));
        uploads_of(&broker, 0, 4, 300).await;
        let status = || broker.storage.status().compaction;
        while status().failures == 0 {
            assert!(compacting.counts().puts <= 3, "{fault:?}: {}", compacting.counts().puts);
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(compacting.counts().puts, 3, "{fault:?}");
        assert!(broker.storage.lowest_counter_in_flight() > 4, "{fault:?}: its counter is given back");
        // Pauses of a minute, two, and so on.
        sleep(6 * LONG).await;
        let (puts, failures) = (compacting.counts().puts, status().failures);
        assert!(
            puts == 3 * failures && (4..=20).contains(&failures),
            "{fault:?}: {puts} PUTs, {failures} jobs"
        );
        compacting.heal();
        sleep(2 * LONG).await;
        assert_eq!((parts(&world, id).len(), status().jobs), (1, 1), "{fault:?}");
        // In the middle of an attempt.
        compacting.add(Rule::new(Operation::Put, Fault::Hang));
        uploads_of(&broker, 0, 4, 300).await;
        sleep(Duration::from_secs(1)).await;
        let before = tokio::time::Instant::now();
        broker.storage.shutdown().await.expect("shuts down");
        assert!(before.elapsed() < Duration::from_secs(1), "{fault:?}: {:?}", before.elapsed());
    }
}

/// What fails for a reason that is not in what it reads is left alone for longer and longer, alone.
#[tokio::test(start_paused = true)]
async fn what_failed_holds_up_no_other_stream() {
    let (world, bucket, _) = world_of(patient());
    let ids: Vec<_> = (0..2).map(|_| world.metadata.create_stream()).collect();
    let broker = world.start(&ids).await;
    (0..1000).for_each(|_| bucket.next_piece(Fate::Refused));
    uploads_of(&broker, 0, 4, 7000).await;
    sleep(12 * LONG).await;
    let failures = broker.storage.status().compaction.failures;
    assert!((10..=40).contains(&failures), "{failures} attempts in half a day");
    for round in 1..=8 {
        uploads_of(&broker, 1, 4, 60).await;
        sleep(Duration::from_secs(30)).await;
        let parts = parts(&world, ids[1]);
        assert!(parts.len() <= 6, "round {round}: {parts:?}");
    }
    let more = broker.storage.status().compaction.failures - failures;
    assert!(more <= 1, "{more} attempts in four minutes");
    assert_eq!(parts(&world, ids[0]).len(), 4);
}

/// A job that is overtaken keeps the damage that it has found.
#[tokio::test(start_paused = true)]
async fn a_job_that_is_overtaken_forgets_no_damage() {
    let off = s3stream::compaction::Options { jobs_max: 0, ..patient().compaction };
    let (world, bucket, _) = world_of(Config { compaction: off, ..patient() });
    let ids: Vec<_> = (0..2).map(|_| world.metadata.create_stream()).collect();
    let broker = world.start(&ids).await;
    for stream in 0..2 {
        uploads_of(&broker, stream, 8, 300).await;
    }
    broker.storage.shutdown().await.expect("shuts down");
    let damaged = world.metadata.locate(ids[0], 0, usize::MAX)[2];
    bucket.damage(&object_key(damaged.object), damaged.object_size_bytes as usize - 3).await;
    let overtaken = parts(&world, ids[1])[5].2;
    let gate = bucket.hold_get(object_key(overtaken));
    let world = World { config: patient(), ..world };
    let broker = world.start(&ids).await;
    sleep(Duration::from_secs(5)).await;
    assert!(bucket.is_get_held() && broker.storage.status().compaction.failures == 0);
    world.metadata.delete_stream(ids[1]);
    world.store.delete(&object_key(overtaken)).await.expect("deletes");
    gate.notify_one();
    sleep(Duration::from_secs(10)).await;
    let status = broker.storage.status().compaction;
    assert_eq!(status.failures, 1, "{status:?}");
    let left = parts(&world, ids[0]);
    assert!(left.len() <= 4 && left.iter().any(|part| part.2 == damaged.object), "{left:?}");
}

/// An object that is to be emptied and cannot be read is tried at the pace of walks, and keeps nothing else awake.
#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_emptied_is_tried_seldom() {
    use faults::{Fault, FaultStore, Operation, Rule};
    let config = Config {
        log_cache_bytes: 64 << 20,
        upload_bytes: 32 << 20,
        stream_object_bytes: 16 << 20,
        object_block_bytes: 1 << 20,
        ..patient()
    };
    let store = FaultStore::in_memory(1);
    let medium = MemoryMedium::new("compaction", Options::default());
    let world = World::on(config, Arc::new(store.clone()), Arc::new(medium));
    let ids: Vec<_> = (0..5).map(|_| world.metadata.create_stream()).collect();
    let broker = world.start(&ids).await;
    for large in 0..4 {
        broker.fill(large, 1, 3 << 20).await;
    }
    broker.fill(4, 1, 1000).await;
    broker.storage.flush().await.expect("flushes");
    settle(&broker).await;
    let old = parts(&world, ids[4])[0].2;
    assert_eq!(parts(&world, ids[0])[0].2, old, "they share an object");
    store.add(Rule::new(Operation::Get, Fault::Refuse).under("data"));
    ids[..4].iter().for_each(|id| world.metadata.delete_stream(*id));
    broker.fill(4, 1, 1000).await;
    broker.storage.flush().await.expect("flushes");
    let gets = store.counts().gets;
    sleep(24 * LONG).await;
    let (gets, failures) = (store.counts().gets - gets, broker.storage.status().compaction.failures);
    // A walk each ten minutes, and the one attempt after it.
    assert!((1..=2 * 24 * 6).contains(&failures), "{failures} attempts in a day");
    assert!(gets <= failures * 10, "{gets} GETs");
    store.heal();
    settle(&broker).await;
    sleep(LONG).await;
    assert!(parts(&world, ids[4]).iter().all(|part| part.2 != old), "it was emptied in the end");
}

/// Work goes with what changes, not with what there is.
#[tokio::test(start_paused = true)]
async fn a_change_of_one_stream_has_one_stream_looked_at() {
    let (world, _, _) = world_of(patient());
    let ids: Vec<_> = (0..200).map(|_| world.metadata.create_stream()).collect();
    let broker = world.start(&ids).await;
    uploads(&broker, 1, 20).await;
    sleep(LONG).await;
    let looks = world.metadata.looks();
    broker.fill(7, 1, 20).await;
    broker.storage.flush().await.expect("flushes");
    sleep(Duration::from_secs(60)).await;
    let more = world.metadata.looks() - looks;
    assert!((1..=20).contains(&more), "{more} looks");
}

/// A process that stood still for longer than replaced objects are kept, or whose metadata cannot be read: what it reads by is old,
/// and what is not there any more is no loss.
#[tokio::test(start_paused = true)]
async fn an_object_that_was_replaced_is_not_reported_as_lost() {
    let mut old = None;
    let (world, broker) = with_change_before_the_swap(async |world, broker| {
        old = Some((world.metadata.seen(), parts(world, broker.streams[0].id())));
    })
    .await;
    let (seen, old) = old.expect("before the swap");
    let id = broker.streams[0].id();
    assert_eq!(parts(&world, id).len(), 1, "it was swapped");
    broker.storage.shutdown().await.expect("stops");
    for (_, _, object) in old {
        world.store.delete(&object_key(object)).await.expect("deletes");
    }
    // With nothing in its caches.
    let broker = world.start(&[id]).await;
    let stream = &broker.streams[0];
    world.metadata.fall_behind(seen);
    world.metadata.set_outage(true);
    let told = [
        stream.read(0, 1 << 20).await.map(drop),
        stream.find_timestamp(0, 0).await.map(drop),
        stream.max_timestamp().await.map(drop),
    ];
    assert!(told.iter().all(|told| matches!(told, Err(ReadError::Unavailable(_)))), "{told:?}");
    world.metadata.set_outage(false);
    assert_eq!(read_all(stream, 0).await, expected(0, 4, 300));
    // What is really gone is said to be.
    for object in world.metadata.named_objects() {
        world.store.delete(&object_key(object)).await.expect("deletes");
    }
    let later = world.start(&[id]).await;
    let told = later.streams[0].read(0, 1 << 20).await;
    assert!(matches!(told, Err(ReadError::Corrupt { .. })), "{told:?}");
}
