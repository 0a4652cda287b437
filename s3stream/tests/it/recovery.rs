//! Recovery of what is written into a log by hand: what it demands, what it skips, and that it can be interrupted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use s3stream::metadata::memory::{Fault, MemoryMetadata};
use s3stream::object::ObjectSlotCodec;
use s3stream::record::{KIND_DATA, RecordMeta};
use s3stream::recovery::recover;
use s3stream::{Config, Error, StreamId, StreamMetadata};
use wal::memory::{MemoryMedium, Options};
use wal::{AckRight, Incarnation, Position, Record, Vacated};

use crate::world::{World, read_all, record, small};

struct Dead {
    world: World,
    of: Incarnation,
    streams: Vec<StreamId>,
}

/// A log with the records `(stream number, base, end)`, its owner dead. Streams open under the owner.
async fn dead(streams: usize, records: &[(usize, u64, u64)]) -> Dead {
    let wal = |record: &(usize, u64, u64), streams: &[StreamId]| {
        let (stream, base, end) = *record;
        let body = crate::world::record(stream as u64, base, end - base, 500).body;
        Record { kind: KIND_DATA, meta: meta(streams[stream], base, end), body }
    };
    let world = World::on(
        Config { recovery_bytes: 3000, ..small() },
        Arc::new(object_store::memory::InMemory::new()),
        Arc::new(MemoryMedium::new("dead", Options::default())),
    );
    let streams: Vec<_> = (0..streams).map(|_| world.metadata.create_stream()).collect();
    let of = world.metadata.register(1);
    streams.iter().for_each(|id| world.metadata.open_stream(*id, of));
    let records = records.iter().map(|record| wal(record, &streams)).collect();
    write(&world, of, records).await;
    Dead { world, of, streams }
}

async fn write(world: &World, owner: Incarnation, records: Vec<Record>) {
    let right = Arc::new(AckRight::unlimited());
    let log = world.medium.open(owner, Vacated::new_medium(), right).await.expect("opens");
    for record in records {
        log.append(record).expect("fits").await.expect("durable");
    }
}

fn meta(stream: StreamId, base: u64, end: u64) -> wal::Meta {
    RecordMeta { stream, stream_epoch: 1, base, end, max_timestamp: base as i64 }.encode()
}

impl Dead {
    async fn recover(&self, by: Incarnation) -> Result<Vacated, Error> {
        self.world.metadata.fence(self.of);
        let from = self.world.metadata.wal_trim(self.of);
        let world = &self.world;
        let metadata: Arc<MemoryMetadata> = world.metadata.clone();
        recover(&world.config, world.store.clone(), metadata, world.medium.as_ref(), by, self.of, from).await
    }

    fn ends(&self) -> Vec<u64> {
        let end = |id: &StreamId| self.world.metadata.stream(*id).map_or(0, |view| view.committed_end);
        self.streams.iter().map(end).collect()
    }
}

#[tokio::test]
async fn a_gap_in_a_stream_is_corruption_and_nothing_behind_it_is_taken() {
    let dead = dead(2, &[(0, 0, 2), (1, 0, 1), (0, 3, 4), (1, 1, 2)]).await;
    let by = dead.world.metadata.register(1);
    let error = dead.recover(by).await.expect_err("a gap");
    assert!(
        matches!(&error, Error::Corrupt(detail) if detail.contains("missing between 2 and 3")),
        "{error}"
    );
    assert_eq!(dead.world.metadata.unrecovered(), [(dead.of, Position(0))], "it is not complete");
}

#[tokio::test]
async fn a_record_across_the_committed_end_is_corruption() {
    let dead = dead(1, &[(0, 0, 4), (0, 2, 6)]).await;
    let by = dead.world.metadata.register(1);
    let error = dead.recover(by).await.expect_err("an overlap");
    assert!(matches!(&error, Error::Corrupt(detail) if detail.contains("straddles")), "{error}");
}

#[tokio::test]
async fn what_this_build_does_not_know_is_not_skipped() {
    let known = Record { kind: KIND_DATA, meta: meta(StreamId(1), 0, 1), body: Bytes::from_static(b"data") };
    for strange in
        [Record { kind: 9, ..known.clone() }, Record { meta: wal::Meta::new(b"?"), ..known.clone() }]
    {
        let world = World::new(small());
        let id = world.metadata.create_stream();
        let of = world.metadata.register(1);
        world.metadata.open_stream(id, of);
        write(&world, of, vec![known.clone(), strange]).await;
        let by = world.metadata.register(1);
        assert!(matches!(world.recover(by).await, Err(Error::Corrupt(_))));
    }
}

/// Nothing of it may be on its way when a stream is handed over; if something is, everything else is recovered all the same.
#[tokio::test]
async fn records_of_a_stream_that_belongs_to_somebody_else_hold_up_nothing() {
    let dead = dead(2, &[(0, 0, 2), (1, 0, 1), (0, 2, 3), (1, 1, 2)]).await;
    let by = dead.world.metadata.register(2);
    dead.world.metadata.hand_over(dead.streams[0], by);
    dead.recover(by).await.expect("completes");
    assert_eq!(dead.ends(), [0, 2]);
    assert_eq!(dead.world.metadata.unrecovered(), []);
}

#[tokio::test]
async fn records_of_deleted_streams_are_skipped() {
    let dead = dead(2, &[(0, 0, 2), (1, 0, 1), (0, 5, 6), (1, 1, 2)]).await;
    dead.world.metadata.delete_stream(dead.streams[0]);
    let by = dead.world.metadata.register(1);
    dead.recover(by).await.expect("recovers");
    assert_eq!(dead.ends(), [0, 2]);
}

#[tokio::test]
async fn an_empty_log_is_recovered_without_an_object() {
    let dead = dead(1, &[]).await;
    let by = dead.world.metadata.register(1);
    dead.recover(by).await.expect("recovers");
    assert!(dead.world.metadata.unrecovered().is_empty());
    assert!(dead.world.metadata.named_objects().is_empty());
}

/// 60 records of two streams in commits of 3,000 bytes at most.
async fn long() -> Dead {
    let records: Vec<_> = (0..60u64).map(|at| (at as usize % 2, at / 2, at / 2 + 1)).collect();
    dead(2, &records).await
}

#[tokio::test]
async fn memory_is_bounded_by_several_commits() {
    let dead = long().await;
    let by = dead.world.metadata.register(1);
    dead.recover(by).await.expect("recovers");
    assert_eq!(dead.ends(), [30, 30]);
    assert!(dead.world.metadata.commits() > 10);
}

/// Whatever the metadata does to each of the commits, and wherever recovery is cut off, running it again completes it.
#[tokio::test(start_paused = true)]
async fn recovery_may_be_interrupted_at_any_commit_and_run_again() {
    use std::time::Duration;
    for fault in [Fault::HangBefore, Fault::HangAfter, Fault::Unavailable, Fault::LostReply] {
        for undisturbed in 0..14 {
            let dead = long().await;
            let metadata = &dead.world.metadata;
            let by = metadata.register(1);
            metadata.inject_after(undisturbed, fault);
            let first = tokio::time::timeout(Duration::from_secs(60), dead.recover(by)).await;
            match fault {
                Fault::Unavailable | Fault::LostReply | Fault::Delay(_) => {
                    first.expect("does not hang").expect("resolved by itself");
                }
                Fault::HangBefore | Fault::HangAfter => {
                    metadata.clear_faults();
                    if !metadata.unrecovered().is_empty() {
                        let by = metadata.register(1);
                        dead.world.recover(by).await.expect("recovers");
                    }
                }
            }
            assert_eq!(dead.ends(), [30, 30], "{fault:?} after {undisturbed}");
            assert!(metadata.unrecovered().iter().all(|(of, _)| *of != dead.of));
        }
    }
}

/// Two brokers recover the same log at once: together they take each record once.
#[tokio::test]
async fn two_recoverers_at_once_double_nothing() {
    let dead = long().await;
    let (one, two) = (dead.world.metadata.register(2), dead.world.metadata.register(3));
    let (first, second) = tokio::join!(dead.recover(one), dead.recover(two));
    for outcome in [&first, &second] {
        assert!(matches!(outcome, Ok(_) | Err(Error::Unavailable(_))), "{outcome:?}");
    }
    let vacated = match first.or(second) {
        Ok(vacated) => vacated,
        Err(_) => dead.recover(one).await.expect("recovers"),
    };
    assert_eq!(dead.ends(), [30, 30]);
    let owner = dead.world.metadata.register(1);
    let new = dead.world.open(owner, vacated, &dead.streams).await.expect("opens");
    for (at, stream) in new.streams.iter().enumerate() {
        let expected: Vec<_> = (0..30).map(|base| record(at as u64, base, 1, 500)).collect();
        assert_eq!(read_all(stream, 0).await, expected);
    }
}

#[tokio::test]
async fn a_recoverer_that_is_fenced_itself_commits_nothing_more() {
    let dead = long().await;
    let by = dead.world.metadata.register(1);
    dead.world.metadata.register(1);
    assert!(matches!(dead.recover(by).await, Err(Error::Fenced(_))));
    assert_eq!(dead.ends(), [0, 0]);
}

/// Records of two epochs of one stream in one log.
#[tokio::test]
async fn epochs_of_a_stream_are_kept_apart() {
    let world = World::new(small());
    let id = world.metadata.create_stream();
    let of = world.metadata.register(1);
    world.metadata.open_stream(id, of);
    let records = (0..6).map(|base| {
        let meta =
            RecordMeta { stream: id, stream_epoch: base / 3 + 1, base, end: base + 1, max_timestamp: 0 };
        Record { kind: KIND_DATA, meta: meta.encode(), body: record(0, base, 1, 10).body }
    });
    write(&world, of, records.collect()).await;
    let by = world.metadata.register(1);
    world.recover(by).await.expect("recovers");
    assert_eq!(world.metadata.stream(id).expect("exists").committed_end, 6);
    assert_eq!(world.metadata.named_objects().len(), 2, "an object for each");
}

/// One recoverer commits a slot and dies before it has completed the recovery; another one, which had found the same before,
/// is refused, and must not take the slot, which has the same name for both, for a sign that its own commit was carried out.
#[tokio::test(start_paused = true)]
async fn what_another_recoverer_adopted_does_not_make_a_recovery_complete() {
    let store: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
    let codec = Arc::new(ObjectSlotCodec::default());
    let medium = wal::object::ObjectMedium::new(store.clone(), codec, wal::object::Config::default());
    let world = World::on(small(), store, Arc::new(medium));
    let (kept, deleted) = (world.metadata.create_stream(), world.metadata.create_stream());
    let of = world.metadata.register(1);
    [kept, deleted].iter().for_each(|id| world.metadata.open_stream(*id, of));
    let record = |id| Record { kind: KIND_DATA, meta: meta(id, 0, 2), body: record(0, 0, 2, 500).body };
    // Each in a slot of its own.
    write(&world, of, vec![record(kept), record(deleted)]).await;
    world.metadata.delete_stream(deleted);
    world.metadata.fence(of);
    let (first, second) = (world.metadata.register(2), world.metadata.register(3));
    let recover_by = |by, commit_parts_max| {
        let (metadata, store, medium) = (world.metadata.clone(), world.store.clone(), world.medium.clone());
        let config = Config { commit_parts_max, ..world.config.clone() };
        async move { recover(&config, store, metadata, medium.as_ref(), by, of, Position(0)).await }
    };
    // It has walked to the end, and its only commit is late.
    world.metadata.inject(Fault::Delay(Duration::from_secs(600)));
    let late = tokio::spawn(recover_by(second, 100));
    until_commanded(&world).await;
    // This one commits slot by slot, and is heard of no more after the first one.
    world.metadata.inject_after(1, Fault::HangBefore);
    let dies = tokio::time::timeout(Duration::from_secs(60), recover_by(first, 1)).await;
    assert!(dies.is_err(), "it hangs");
    assert_eq!(world.metadata.unrecovered(), [(of, Position(1))], "half of it is committed");
    let error = late.await.expect("ends").expect_err("it is not complete");
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    // Who reads the metadata again completes it.
    world.recover(second).await.expect("recovers");
    assert!(world.metadata.unrecovered().is_empty());
    assert_eq!(world.metadata.stream(kept).map(|view| view.committed_end), Some(2));
}

/// Until the next command has taken the only fault there is.
async fn until_commanded(world: &World) {
    tokio::time::timeout(Duration::from_secs(60), async {
        while world.metadata.faults_left() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("a command");
}

/// The answer to the commit that completed it is lost, whatever it held.
#[tokio::test]
async fn a_recovery_that_is_complete_is_complete_whoever_asks() {
    for records in [&[][..], &[(0, 0, 2)][..]] {
        let dead = dead(1, records).await;
        let by = dead.world.metadata.register(1);
        dead.world.metadata.inject(Fault::LostReply);
        dead.recover(by).await.expect("recovers");
        assert!(dead.world.metadata.unrecovered().is_empty());
    }
}
