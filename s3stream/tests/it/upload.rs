//! Uploads to a bucket that misbehaves.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use s3stream::object::object_key;
use s3stream::{ReadError, StreamMetadata};
use tokio::time::timeout;
use wal::memory::{MemoryMedium, Options};

use crate::store::{Bucket, Fate};
use crate::world::{World, read_all, record, small};

const LONG: Duration = Duration::from_secs(600);

fn world() -> (World, Bucket, MemoryMedium) {
    let bucket = Bucket::default();
    let medium = MemoryMedium::new("upload", Options::default());
    let world = World::on(small(), Arc::new(bucket.clone()), Arc::new(medium.clone()));
    (world, bucket, medium)
}

/// F21–F26: whatever a create's answer says, what is committed is there and is ours.
#[tokio::test(start_paused = true)]
async fn an_upload_survives_every_fate_of_its_creates() {
    for fate in Fate::ALL {
        let (world, bucket, _) = world();
        let id = world.metadata.create_stream();
        let broker = world.start(&[id]).await;
        broker.fill(0, 10, 100).await;
        bucket.next(fate);
        timeout(LONG, broker.storage.flush()).await.expect("goes on").expect("flushes");
        bucket.deliver_late().await;
        assert_eq!(world.metadata.named_objects().len(), 1, "{fate:?}");
        broker.storage.shutdown().await.expect("shuts down");
        let broker = world.start(&[id]).await;
        let expected: Vec<_> = (0..10).map(|base| record(0, base, 1, 100)).collect();
        assert_eq!(read_all(&broker.streams[0], 0).await, expected, "{fate:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn recovery_survives_every_fate_of_its_creates() {
    for fate in Fate::ALL {
        let (world, bucket, medium) = world();
        let id = world.metadata.create_stream();
        let broker = world.start(&[id]).await;
        broker.fill(0, 30, 1000).await;
        drop(broker);
        medium.crash(|_| false);
        (0..3).for_each(|_| bucket.next(fate));
        let broker = timeout(LONG, world.start(&[id])).await.expect("goes on");
        let expected: Vec<_> = (0..30).map(|base| record(0, base, 1, 1000)).collect();
        assert_eq!(read_all(&broker.streams[0], 0).await, expected, "{fate:?}");
    }
}

/// F20: bounded while it lasts, and nobody has to restart anything.
#[tokio::test(start_paused = true)]
async fn an_outage_of_the_bucket_stops_admissions_and_ends_by_itself() {
    let (world, bucket, _) = world();
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    bucket.always(Fate::Refused);
    let mut appended = 0;
    while timeout(LONG, broker.fill(0, 1, 1000)).await.is_ok() {
        appended += 1;
        let status = broker.storage.status();
        assert!(status.cache_used_bytes <= status.cache_limit_bytes && appended < 100);
    }
    assert_eq!(
        read_all(&broker.streams[0], 0).await.len(),
        appended,
        "what was confirmed is served meanwhile"
    );
    assert!(broker.storage.failed().now_or_never().is_none());
    bucket.calm();
    broker.fill(0, 100, 1000).await;
    broker.storage.flush().await.expect("flushes");
    assert_eq!(read_all(&broker.streams[0], 0).await.len(), appended + 100);
}

/// F24: the create of an incarnation that died arrives when the next one has recovered and written on.
#[tokio::test(start_paused = true)]
async fn a_late_create_of_a_dead_incarnation_is_harmless() {
    let (world, bucket, medium) = world();
    let id = world.metadata.create_stream();
    let old = world.start(&[id]).await;
    old.fill(0, 10, 100).await;
    bucket.next(Fate::Late);
    assert!(timeout(Duration::from_secs(1), old.storage.flush()).await.is_err());
    drop(old);
    medium.crash(|_| false);
    let new = world.start(&[id]).await;
    new.fill(0, 10, 100).await;
    new.storage.flush().await.expect("flushes");
    assert_eq!(bucket.deliver_late().await, 1, "its key is its own");
    let expected: Vec<_> = (0..20).map(|base| record(0, base, 1, 100)).collect();
    assert_eq!(read_all(&new.streams[0], 0).await, expected);
    new.storage.shutdown().await.expect("shuts down");
    let new = world.start(&[id]).await;
    assert_eq!(read_all(&new.streams[0], 0).await, expected);
}

/// F34: a crash after each number of objects written, none of them committed.
#[tokio::test(start_paused = true)]
async fn a_crash_between_creates_and_commit_loses_and_doubles_nothing() {
    for written in 0..4 {
        let (world, bucket, medium) = world();
        let ids: Vec<_> = (0..3).map(|_| world.metadata.create_stream()).collect();
        let broker = world.start(&ids).await;
        for stream in 0..3 {
            broker.fill(stream, 2, 3500).await;
        }
        (0..written).for_each(|_| bucket.next(Fate::Fine));
        bucket.always(Fate::Silent);
        let puts = bucket.puts();
        let _ = timeout(Duration::from_secs(1), broker.storage.flush()).await;
        assert!(bucket.puts() > puts);
        bucket.calm();
        drop(broker);
        medium.crash(|_| false);
        let broker = world.start(&ids).await;
        for (at, stream) in broker.streams.iter().enumerate() {
            let expected: Vec<_> = (0..2).map(|base| record(at as u64, base, 1, 3500)).collect();
            assert_eq!(read_all(stream, 0).await, expected, "{written} objects");
        }
    }
}

/// The second block is in the bucket before the first: it waits for its turn.
#[tokio::test(start_paused = true)]
async fn blocks_are_committed_in_order_whatever_the_order_of_their_creates() {
    let (world, bucket, _) = world();
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    bucket.next(Fate::Silent); // Tried again only after a time-out.
    broker.fill(0, 30, 1000).await;
    while bucket.puts() < 2 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.metadata.stream(id).expect("exists").committed_end, 0);
    broker.storage.flush().await.expect("flushes");
    assert_eq!(world.metadata.stream(id).expect("exists").committed_end, 30);
}

/// O5: an object that may still be committed is not given up to the collector.
#[tokio::test(start_paused = true)]
async fn an_upload_holds_its_counters_until_its_commit() {
    let (world, bucket, _) = world();
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    assert_eq!(broker.storage.lowest_counter_in_flight(), 0);
    broker.fill(0, 1, 100).await;
    world.metadata.set_outage(true);
    assert!(timeout(Duration::from_secs(1), broker.storage.flush()).await.is_err());
    assert_eq!(bucket.puts(), 1);
    assert_eq!(broker.storage.lowest_counter_in_flight(), 0, "in the bucket, not committed");
    world.metadata.set_outage(false);
    broker.storage.flush().await.expect("flushes");
    assert_eq!(broker.storage.lowest_counter_in_flight(), 1);
}

#[tokio::test]
async fn a_stream_that_was_deleted_is_not_uploaded() {
    let (world, bucket, _) = world();
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    broker.fill(0, 10, 100).await;
    world.metadata.delete_stream(id);
    broker.storage.flush().await.expect("flushes");
    assert_eq!(bucket.puts(), 0);
    assert_eq!(broker.storage.status().wal.used_bytes, 0);
}

#[tokio::test]
async fn an_object_that_is_gone_is_reported_not_skipped() {
    let (world, bucket, _) = world();
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    broker.fill(0, 10, 100).await;
    broker.storage.shutdown().await.expect("shuts down");
    let object = *world.metadata.named_objects().first().expect("one");
    bucket.delete(&object_key(object)).await;
    let broker = world.start(&[id]).await;
    let error = broker.streams[0].read(3, 100).await.expect_err("is gone");
    assert!(
        matches!(error, ReadError::Corrupt { object: Some(gone), offset: 3, .. } if gone == object),
        "{error}"
    );
    world.metadata.delete_stream(id);
    assert!(matches!(broker.streams[0].read(3, 100).await, Err(ReadError::Gone(_))));
}

/// S1: somebody who waits has objects written before their records are durable, but never named.
#[tokio::test(start_paused = true)]
async fn a_hurried_upload_is_committed_only_once_its_records_are_durable() {
    for survives in [true, false] {
        let (world, bucket, medium) = world();
        let id = world.metadata.create_stream();
        let broker = world.start(&[id]).await;
        medium.hold();
        let admission = broker.storage.admit(10).await.expect("fits");
        let appending = broker.streams[0].append(admission, record(0, 0, 1, 10)).expect("appends");
        let before = bucket.puts();
        let mut flushing = std::pin::pin!(broker.storage.flush_hurried());
        assert!(timeout(LONG, &mut flushing).await.is_err(), "not durable, and so not committed");
        assert!(bucket.puts() > before, "but in the bucket");
        assert!(world.metadata.named_objects().is_empty());
        if survives {
            medium.resume();
            timeout(LONG, flushing).await.expect("goes on").expect("flushes");
            appending.await.expect("it is durable");
            assert_eq!(world.metadata.stream(id).expect("exists").committed_end, 1);
        } else {
            medium.crash(|_| false);
            assert!(flushing.await.is_err() && appending.await.is_err());
            assert!(world.metadata.named_objects().is_empty(), "its object lies there, unnamed");
        }
    }
}
