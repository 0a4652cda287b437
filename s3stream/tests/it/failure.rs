//! Fencing, failing media, and crashes at each step of an upload.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use s3stream::metadata::memory::Fault;
use s3stream::{Error, StreamMetadata};
use tokio::time::timeout;
use wal::memory::{MemoryMedium, Options};

use crate::world::{World, read_all, record, small};

fn world() -> (World, MemoryMedium) {
    let medium = MemoryMedium::new("failure", Options::default());
    let store = Arc::new(object_store::memory::InMemory::new());
    (World::on(small(), store, Arc::new(medium.clone())), medium)
}

#[tokio::test]
async fn a_failed_write_stops_the_engine_and_leaves_no_hole() {
    let (world, medium) = world();
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    broker.fill(0, 2, 10).await;
    medium.fail_next_write();
    let mut appending = Vec::new();
    for base in 2..5 {
        let admission = broker.storage.admit(10).await;
        let Ok(admission) = admission else { break };
        match broker.streams[0].append(admission, record(0, base, 1, 10)) {
            Ok(future) => appending.push(future),
            Err(error) => assert!(matches!(error, Error::Failed(_)), "{error}"),
        }
    }
    for appending in appending {
        assert!(matches!(appending.await, Err(Error::Failed(_))));
    }
    assert!(matches!(broker.storage.failed().await, Error::Failed(_)));
    assert!(matches!(broker.storage.admit(1).await, Err(Error::Failed(_))));
    assert!(matches!(broker.storage.flush().await, Err(Error::Failed(_))));
    assert_eq!(broker.streams[0].confirmed_end(), 2);
    assert!(broker.storage.shutdown().await.is_err());
    let broker = world.start(&[id]).await;
    assert_eq!(broker.streams[0].next(), 2);
    broker.fill(0, 2, 10).await;
    assert_eq!(read_all(&broker.streams[0], 0).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_learn_that_the_engine_failed() {
    let (world, medium) = world();
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    medium.hold();
    let admission = broker.storage.admit(10).await.expect("fits");
    let appending = broker.streams[0].append(admission, record(0, 0, 1, 10)).expect("appends");
    let limit = broker.storage.status().cache_limit_bytes;
    let waiting = broker.storage.admit(limit - 300);
    let (waited, appended, failed, ()) = tokio::join!(waiting, appending, broker.storage.failed(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        medium.crash(|_| false);
    });
    assert!(matches!(waited, Err(Error::Failed(_))));
    assert!(matches!(appended, Err(Error::Failed(_))));
    assert!(matches!(failed, Error::Failed(_)));
}

#[tokio::test]
async fn a_fenced_incarnation_commits_nothing_and_stops() {
    let (world, _) = world();
    let id = world.metadata.create_stream();
    let old = world.start(&[id]).await;
    old.fill(0, 5, 10).await;
    let by = world.metadata.register(1);
    assert!(matches!(old.storage.flush().await, Err(Error::Fenced(_))));
    assert!(matches!(old.storage.failed().await, Error::Fenced(_)));
    assert!(matches!(old.storage.admit(1).await, Err(Error::Fenced(_))));
    assert_eq!(world.metadata.stream(id).expect("exists").committed_end, 0);
    assert!(world.metadata.named_objects().is_empty(), "its object lies there, unnamed");
    world.recover(by).await.expect("recovers");
    assert_eq!(world.metadata.stream(id).expect("exists").committed_end, 5);
    let new = world.start(&[id]).await;
    assert_eq!(read_all(&new.streams[0], 0).await.len(), 5);
}

#[tokio::test]
async fn a_zombie_acknowledges_nothing_that_recovery_did_not_yield() {
    let (world, medium) = world();
    let id = world.metadata.create_stream();
    let old = world.start(&[id]).await;
    old.fill(0, 5, 10).await;
    medium.hold();
    let admission = old.storage.admit(10).await.expect("fits");
    let appending = old.streams[0].append(admission, record(0, 5, 1, 10)).expect("appends");
    let new = world.start(&[id]).await;
    medium.resume();
    assert!(matches!(appending.await, Err(Error::Fenced(_))));
    assert!(matches!(old.storage.failed().await, Error::Fenced(_)));
    assert_eq!(old.streams[0].confirmed_end(), 5);
    assert_eq!(new.streams[0].next(), 5);
}

/// Crashes with the commit left hanging before or after it was applied, and with lost replies (F34, F36).
#[tokio::test(start_paused = true)]
async fn a_crash_around_a_commit_loses_and_doubles_nothing() {
    for fault in [Fault::HangBefore, Fault::HangAfter, Fault::LostReply, Fault::Unavailable] {
        let (world, medium) = world();
        let ids = [world.metadata.create_stream(), world.metadata.create_stream()];
        let mut broker = world.start(&ids).await;
        for round in 1..5u64 {
            broker.fill(0, 3, 100).await;
            broker.fill(1, 2, 3000).await;
            world.metadata.inject(fault);
            let flushed = timeout(Duration::from_secs(60), broker.storage.flush()).await;
            let hangs = matches!(fault, Fault::HangBefore | Fault::HangAfter);
            assert_eq!(flushed.is_err(), hangs, "{fault:?}");
            broker.fill(0, 1, 10).await;
            medium.crash(|_| false);
            drop(broker);
            broker = world.start(&ids).await;
            assert_eq!(broker.streams[0].next(), 4 * round, "{fault:?}");
            let expected: Vec<_> = (0..2 * round).map(|base| record(1, base, 1, 3000)).collect();
            assert_eq!(read_all(&broker.streams[1], 0).await, expected, "{fault:?}");
        }
    }
}

#[tokio::test]
async fn dropping_every_handle_stops_the_tasks() {
    let (world, _) = world();
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    broker.fill(0, 1, 10).await;
    let metadata = Arc::downgrade(&world.metadata);
    let held = metadata.strong_count();
    let admission = broker.storage.admit(1).await.expect("fits");
    drop(broker);
    drop(admission);
    while metadata.strong_count() == held {
        tokio::task::yield_now().await;
    }
    assert_eq!(metadata.strong_count(), 1);
}

#[tokio::test]
async fn a_deleted_stream_holds_nobody_up() {
    let (world, medium) = world();
    let ids = [world.metadata.create_stream(), world.metadata.create_stream()];
    let broker = world.start(&ids).await;
    broker.fill(0, 3, 10).await;
    broker.fill(1, 3, 10).await;
    world.metadata.delete_stream(ids[0]);
    broker.streams[0].close();
    broker.storage.flush().await.expect("flushes");
    assert!(matches!(broker.streams[0].trim(1).await, Err(Error::NotOpen { .. })));
    broker.fill(1, 3, 10).await;
    medium.crash(|_| false);
    drop(broker);
    let broker = world.start(&ids[1..]).await;
    assert_eq!(read_all(&broker.streams[0], 0).await.len(), 6);
    assert!(broker.storage.failed().now_or_never().is_none());
}
