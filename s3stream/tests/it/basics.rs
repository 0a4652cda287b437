//! One of each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use object_store::memory::InMemory;
use s3stream::{Error, Listener, ReadError, StreamMetadata};
use wal::memory::{MemoryMedium, Options};

use crate::world::{World, read_all, record, small};

#[tokio::test]
async fn what_was_appended_is_read_from_cache_and_from_objects() {
    let world = World::new(small());
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    broker.fill(0, 20, 100).await;
    let stream = &broker.streams[0];
    let expected: Vec<_> = (0..20).map(|base| record(0, base, 1, 100)).collect();
    assert_eq!(stream.confirmed_end(), 20);
    assert_eq!(stream.read_cached(0, usize::MAX, u64::MAX), Some(expected.clone()));
    assert_eq!(stream.read_cached(5, 250, u64::MAX), Some(expected[5..7].to_vec()));
    assert_eq!(
        stream.read_cached(5, 1, u64::MAX),
        Some(expected[5..6].to_vec()),
        "one record, whatever its size"
    );
    assert_eq!(stream.read_cached(5, usize::MAX, 8), Some(expected[5..8].to_vec()));
    assert_eq!(stream.read_cached(20, 1, u64::MAX), Some(Vec::new()));
    assert_eq!(stream.read_cached(21, 1, u64::MAX), None);
    assert!(matches!(stream.read(21, 1).await, Err(ReadError::OutOfRange { start: 0, end: 20 })));

    broker.storage.shutdown().await.expect("shuts down");
    let broker = world.start(&[id]).await;
    let stream = &broker.streams[0];
    assert_eq!((stream.start(), stream.next(), stream.confirmed_end()), (0, 20, 20));
    assert_eq!(stream.read_cached(0, 1, u64::MAX), None);
    assert_eq!(read_all(stream, 0).await, expected);
    assert_eq!(read_all(stream, 13).await, expected[13..]);
}

#[tokio::test]
async fn an_orderly_shutdown_leaves_nothing_to_recover() {
    let world = World::new(small());
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    broker.fill(0, 7, 100).await;
    broker.storage.shutdown().await.expect("shuts down");
    assert_eq!(broker.storage.status().wal.used_bytes, 0);
    assert!(matches!(broker.storage.admit(1).await, Err(Error::Closed(_))));
    let objects = world.metadata.named_objects();
    let next = world.start(&[id]).await;
    assert_eq!(world.metadata.named_objects(), objects, "recovery wrote something");
    assert_eq!(next.streams[0].next(), 7);
}

#[tokio::test]
async fn listeners_run_before_the_append_resolves() {
    struct Seen(AtomicU64);
    impl Listener for Seen {
        fn confirmed(&self, end: u64) {
            assert!(self.0.swap(end, Ordering::SeqCst) < end, "out of order");
        }
    }
    let world = World::new(small());
    let id = world.metadata.create_stream();
    let broker = world.start(&[]).await;
    world.metadata.open_stream(id, broker.owner);
    let seen = Arc::new(Seen(AtomicU64::new(0)));
    let stream = broker.storage.open_stream(id, Some(seen.clone())).expect("opens");
    for base in 0..100 {
        let admission = broker.storage.admit(50).await.expect("fits");
        let appending = stream.append(admission, record(0, base, 1, 50)).expect("appends");
        if base % 3 == 0 {
            appending.await.expect("confirmed");
            assert_eq!(seen.0.load(Ordering::SeqCst), base + 1);
        }
    }
    broker.storage.flush().await.expect("flushes");
    assert_eq!(seen.0.load(Ordering::SeqCst), 100, "dropped appends are confirmed all the same");
}

#[tokio::test]
async fn of_many_appends_at_once_each_stream_is_told_of_the_last() {
    #[derive(Default)]
    struct Seen(Mutex<Vec<u64>>);
    impl Listener for Seen {
        fn confirmed(&self, end: u64) {
            self.0.lock().unwrap().push(end);
        }
    }
    let medium = MemoryMedium::new("listeners", Options::default());
    let world = World::on(small(), Arc::new(InMemory::new()), Arc::new(medium.clone()));
    let broker = world.start(&[]).await;
    let (seen, streams): (Vec<_>, Vec<_>) = (0..3)
        .map(|_| {
            let id = world.metadata.create_stream();
            world.metadata.open_stream(id, broker.owner);
            let seen = Arc::new(Seen::default());
            (seen.clone(), broker.storage.open_stream(id, Some(seen)).expect("opens"))
        })
        .unzip();
    medium.hold();
    let mut appending = Vec::new();
    // In turns, and not in the order of their ids.
    for (base, stream) in [(0, 1), (0, 0), (0, 2), (1, 0), (1, 1), (2, 1), (1, 2)] {
        let admission = broker.storage.admit(50).await.expect("fits");
        appending.push(streams[stream].append(admission, record(0, base, 1, 50)).expect("appends"));
    }
    medium.resume();
    for append in appending {
        append.await.expect("confirmed");
    }
    let seen: Vec<_> = seen.iter().map(|seen| seen.0.lock().unwrap().clone()).collect();
    assert_eq!(seen, [[2], [3], [2]]);
}

#[tokio::test]
async fn traffic_is_counted_by_stream_and_outlives_it_in_the_sum() {
    let world = World::new(small());
    let (one, other) = (world.metadata.create_stream(), world.metadata.create_stream());
    let broker = world.start(&[one, other]).await;
    broker.fill(0, 10, 100).await;
    broker.fill(1, 2, 100).await;
    let traffic = |appended_bytes, read_bytes| s3stream::Traffic { appended_bytes, read_bytes };
    assert_eq!(read_all(&broker.streams[0], 0).await.len(), 10);
    assert_eq!(broker.storage.traffic([one]), traffic(1_000, 0), "from the log cache");
    assert_eq!(broker.storage.traffic([one, other]), traffic(1_200, 0));
    broker.storage.shutdown().await.expect("shuts down");

    let broker = world.start(&[one, other]).await;
    assert_eq!(broker.storage.traffic([one, other]), traffic(0, 0), "of this life");
    assert_eq!(read_all(&broker.streams[0], 0).await.len(), 10);
    assert_eq!(broker.storage.traffic([one, other]), traffic(0, 1_000));
    broker.streams[0].close();
    assert_eq!(broker.storage.traffic([one]), traffic(0, 0));
    assert_eq!(broker.storage.status().traffic, traffic(0, 1_000));
}

#[tokio::test]
async fn timestamps_are_found_in_objects_and_in_the_cache() {
    let world = World::new(small());
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    let stream = &broker.streams[0];
    assert_eq!(stream.max_timestamp().await.expect("looks"), None);
    for (base, timestamp) in [10i64, 30, 20, 90, 40, 90].into_iter().enumerate() {
        let record = s3stream::StreamRecord { max_timestamp: timestamp, ..record(0, base as u64, 1, 10) };
        broker.append(0, record).await.expect("appends");
        if base == 3 {
            broker.storage.shutdown().await.expect("shuts down");
            break;
        }
    }
    let broker = world.start(&[id]).await;
    let stream = &broker.streams[0];
    let at = |record: Option<s3stream::StreamRecord>| record.map(|record| record.base);
    assert_eq!(at(stream.max_timestamp().await.expect("looks")), Some(3));
    for (base, timestamp) in [(4, 40), (5, 90)] {
        let record = s3stream::StreamRecord { max_timestamp: timestamp, ..record(0, base, 1, 10) };
        broker.append(0, record).await.expect("appends");
    }
    assert_eq!(at(stream.max_timestamp().await.expect("looks")), Some(3), "the first of several");
    for (timestamp, base) in [(0, Some(0)), (11, Some(1)), (31, Some(3)), (90, Some(3)), (91, None)] {
        assert_eq!(
            at(stream.find_timestamp(0, timestamp).await.expect("looks")),
            base,
            "timestamp {timestamp}"
        );
    }
    stream.trim(4).await.expect("trims");
    assert_eq!(at(stream.max_timestamp().await.expect("looks")), Some(5));
    assert_eq!(at(stream.find_timestamp(0, 31).await.expect("looks")), Some(4));
}

#[tokio::test]
async fn a_trimmed_part_no_longer_counts_with_its_old_timestamp() {
    let world = World::new(small());
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    for (base, timestamp) in [(0, 900), (1, 20), (2, 30)] {
        let record = s3stream::StreamRecord { max_timestamp: timestamp, ..record(0, base, 1, 10) };
        broker.append(0, record).await.expect("appends");
    }
    broker.storage.flush().await.expect("flushes");
    for (base, timestamp) in [(3, 25), (4, 28)] {
        let record = s3stream::StreamRecord { max_timestamp: timestamp, ..record(0, base, 1, 10) };
        broker.append(0, record).await.expect("appends");
    }
    broker.streams[0].trim(1).await.expect("trims");
    broker.storage.shutdown().await.expect("shuts down");
    let broker = world.start(&[id]).await;
    let stream = &broker.streams[0];
    assert_eq!(stream.max_timestamp().await.expect("looks").map(|record| record.base), Some(2));
    assert_eq!(stream.find_timestamp(0, 29).await.expect("looks").map(|record| record.base), Some(2));
    assert_eq!(stream.find_timestamp(0, 31).await.expect("looks"), None);
}

/// As a trim does whose answer was lost.
#[tokio::test]
async fn a_trim_that_this_handle_was_not_told_of_is_found_out_by_reading() {
    let world = World::new(small());
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    broker.fill(0, 10, 100).await;
    broker.storage.shutdown().await.expect("shuts down");
    let broker = world.start(&[id]).await;
    broker.fill(0, 5, 100).await;
    broker.storage.flush().await.expect("flushes");
    world.metadata.trim(broker.owner, vec![(id, 4)]).await.expect("trims");
    let stream = &broker.streams[0];
    assert_eq!(stream.start(), 0);
    let below = stream.read(0, 1).await;
    assert!(matches!(below, Err(ReadError::OutOfRange { start: 4, .. })), "{below:?}");
    assert_eq!(stream.start(), 4, "known from now on");
    assert_eq!(read_all(stream, 4).await.len(), 11);
}

#[tokio::test]
async fn trim_moves_the_start_for_good() {
    let world = World::new(small());
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    broker.fill(0, 10, 100).await;
    let stream = &broker.streams[0];
    assert!(matches!(stream.trim(11).await, Err(Error::Rejected(_))));
    stream.trim(4).await.expect("trims what was not uploaded yet, too");
    stream.trim(2).await.expect("a lower start is no-op");
    assert!(matches!(stream.read(3, 1).await, Err(ReadError::OutOfRange { start: 4, end: 10 })));
    assert_eq!(read_all(stream, 4).await.len(), 6);
    let broker = world.start(&[id]).await;
    assert_eq!(broker.streams[0].start(), 4);
    assert_eq!(read_all(&broker.streams[0], 4).await.len(), 6);
}

#[tokio::test]
async fn a_stream_is_opened_once_and_only_by_its_owner() {
    let world = World::new(small());
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    let open = |id| broker.storage.open_stream(id, None);
    assert!(matches!(open(id), Err(Error::NotOpen { .. })), "twice");
    assert!(matches!(open(s3stream::StreamId(77)), Err(Error::NotOpen { .. })), "no such stream");
    assert!(matches!(open(world.metadata.create_stream()), Err(Error::NotOpen { .. })), "not ours");
    // Closed with records that are not uploaded yet, and opened again under a new epoch.
    broker.fill(0, 3, 10).await;
    broker.streams[0].close();
    let admission = broker.storage.admit(10).await.expect("fits");
    assert!(matches!(broker.streams[0].append(admission, record(0, 3, 1, 10)), Err(Error::Closed(_))));
    world.metadata.open_stream(id, broker.owner);
    let again = open(id).expect("opens");
    assert_eq!(again.next(), 3);
    let admission = broker.storage.admit(10).await.expect("fits");
    again.append(admission, record(0, 3, 1, 10)).expect("appends").await.expect("confirmed");
    broker.streams[0].close();
    assert_eq!(again.next(), 4, "the old handle closes nothing");
    drop(broker);
    let broker = world.start(&[id]).await;
    assert_eq!(read_all(&broker.streams[0], 0).await.len(), 4);
}

#[tokio::test]
async fn a_start_that_is_ahead_of_the_metadata_hides_records_in_objects_and_in_the_cache() {
    let world = World::new(small());
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    let stamped =
        |base, timestamp| s3stream::StreamRecord { max_timestamp: timestamp, ..record(0, base, 1, 10) };
    for (base, timestamp) in [(0, 900), (1, 20), (2, 30)] {
        broker.append(0, stamped(base, timestamp)).await.expect("appends");
    }
    broker.storage.shutdown().await.expect("shuts down");
    let broker = world.start(&[id]).await;
    for (base, timestamp) in [(3, 800), (4, 28)] {
        broker.append(0, stamped(base, timestamp)).await.expect("appends");
    }
    let stream = &broker.streams[0];
    let base = |record: Option<s3stream::StreamRecord>| record.map(|record| record.base);
    for (start, oldest, late, largest) in
        [(0, 0, Some(0), Some(0)), (1, 1, Some(3), Some(3)), (3, 3, Some(3), Some(3)), (4, 4, None, Some(4))]
    {
        stream.advance_start(start);
        assert_eq!(base(stream.find_timestamp(0, 0).await.expect("looks")), Some(oldest));
        assert_eq!(base(stream.find_timestamp(0, 700).await.expect("looks")), late, "from {start}");
        assert_eq!(base(stream.max_timestamp().await.expect("looks")), largest, "from {start}");
        assert_eq!(read_all(stream, start).await.len(), 5 - start as usize);
        if start > 0 {
            let below = stream.read(start - 1, 1).await;
            assert!(matches!(below, Err(ReadError::OutOfRange { end: 5, .. })), "{below:?}");
        }
    }
    assert_eq!(base(stream.find_timestamp(0, 20).await.expect("looks")), Some(4));
    let view = world.metadata.stream(id).expect("exists");
    assert_eq!(view.start, 0, "the metadata has not heard of it");
    assert_eq!(world.start(&[id]).await.streams[0].start(), 0, "it holds for the opening");
}

#[tokio::test]
async fn a_search_by_time_begins_where_it_is_told() {
    let world = World::new(small());
    let id = world.metadata.create_stream();
    let broker = world.start(&[id]).await;
    broker.fill(0, 10, 100).await;
    broker.storage.flush().await.expect("flushes");
    broker.fill(0, 10, 100).await;
    for (from, timestamp, found) in [(0, 3, Some(3)), (5, 3, Some(5)), (15, 3, Some(15)), (20, 3, None)] {
        let record = broker.streams[0].find_timestamp(from, timestamp).await.expect("looks");
        assert_eq!(record.map(|record| record.base), found);
    }
}

#[tokio::test]
async fn many_streams_are_trimmed_by_one_command_open_or_not() {
    let world = World::new(small());
    let ids: Vec<_> = (0..3).map(|_| world.metadata.create_stream()).collect();
    let broker = world.start(&ids).await;
    for stream in 0..3 {
        broker.fill(stream, 10, 100).await;
    }
    assert_eq!(broker.storage.uncommitted_bytes(ids[0], 0), 1_000);
    broker.storage.flush().await.expect("flushes");
    assert_eq!(broker.storage.uncommitted_bytes(ids[0], 10), 0);
    broker.fill(0, 2, 100).await;
    assert_eq!(broker.storage.uncommitted_bytes(ids[0], 10), 200);
    assert_eq!(broker.storage.uncommitted_bytes(ids[0], 12), 0, "committed since the caller looked");
    broker.streams[2].close();
    broker.storage.trim(vec![(ids[0], 4), (ids[1], 10), (ids[2], 7)]).await.expect("trims");
    assert_eq!((broker.streams[0].start(), broker.streams[1].start()), (4, 10));
    let reopened = broker.storage.open_stream(ids[2], None).expect("opens");
    assert_eq!(reopened.start(), 7);
    let beyond = broker.storage.trim(vec![(ids[1], 10), (ids[0], 12)]).await;
    assert!(matches!(beyond, Err(Error::Rejected(_))), "12 is not committed yet");
    assert_eq!(broker.streams[0].start(), 4);
}
