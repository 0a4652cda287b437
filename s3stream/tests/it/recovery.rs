//! Recovery of what is written into a log by hand: what it demands, what it skips, and that it can be interrupted.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::ObjectStore;
use s3stream::metadata::memory::Fault;
use s3stream::object::ObjectSlotCodec;
use s3stream::record::{KIND_DATA, RecordMeta};
use s3stream::recovery::{Left, recover, recover_early};
use s3stream::{Config, Error, StreamId, StreamMetadata};
use tokio::time::Instant;
use wal::memory::{MemoryMedium, Options};
use wal::{AckRight, Append, Incarnation, Medium, Position, Record, Recovered, Recovery, Uri, Vacated, Wal};

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
        recover(self.world.left(by, self.of, from), self.world.medium.as_ref()).await
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
        async move {
            let left = Left { config: &config, store, metadata, by, of, from: Position(0) };
            recover(left, medium.as_ref()).await
        }
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

/// A log whose owner is fenced and writes on: recovery only reads it, as it does a volume.
struct Zombie {
    dead: Dead,
    medium: MemoryMedium,
    log: Arc<dyn Wal>,
    by: Incarnation,
}

impl Zombie {
    async fn new(config: Config) -> Zombie {
        let medium = MemoryMedium::new("zombie", Options::default());
        medium.only_read();
        let store = Arc::new(object_store::memory::InMemory::new());
        let world = World::on(config, store, Arc::new(medium.clone()));
        let streams = vec![world.metadata.create_stream()];
        let of = world.metadata.register(1);
        world.metadata.open_stream(streams[0], of);
        let right = Arc::new(AckRight::unlimited());
        let log = medium.open(of, Vacated::new_medium(), right).await.expect("opens");
        let by = world.metadata.register(2);
        Zombie { dead: Dead { world, of, streams }, medium, log, by }
    }

    fn append(&self, base: u64) -> Append {
        let meta = meta(self.dead.streams[0], base, base + 1);
        let body = record(0, base, 1, 500).body;
        self.log.append(Record { kind: KIND_DATA, meta, body }).expect("fits")
    }

    /// Acknowledged, so that they may not be lost.
    async fn write(&self, bases: std::ops::Range<u64>) {
        for base in bases {
            self.append(base).await.expect("durable");
        }
    }

    /// By itself, or on another medium.
    async fn early(&self, by: Incarnation, medium: &dyn Medium) -> Result<(), Error> {
        self.early_until(by, medium, Instant::now() + Duration::from_secs(3600)).await
    }

    async fn early_until(&self, by: Incarnation, medium: &dyn Medium, until: Instant) -> Result<(), Error> {
        let world = &self.dead.world;
        world.metadata.fence(self.dead.of);
        let from = world.metadata.wal_trim(self.dead.of);
        recover_early(world.left(by, self.dead.of, from), medium, until).await
    }

    fn committed(&self) -> u64 {
        self.dead.ends()[0]
    }

    /// Where the recovery that is not complete starts next.
    fn trim(&self) -> Position {
        match &*self.dead.world.metadata.unrecovered() {
            [(of, trim)] if *of == self.dead.of => *trim,
            other => panic!("it is complete, or another one is not: {other:?}"),
        }
    }

    /// The recovery behind the wait: then each record is there, once.
    async fn complete(&self, records: u64) {
        self.dead.recover(self.by).await.expect("recovers");
        let world = &self.dead.world;
        assert!(world.metadata.unrecovered().is_empty());
        assert_eq!(self.committed(), records);
        let next = world.metadata.register(1);
        let vacated = world.recover(next).await.expect("nothing");
        let broker = world.open(next, vacated, &self.dead.streams).await.expect("opens");
        let expected: Vec<_> = (0..records).map(|base| record(0, base, 1, 500)).collect();
        assert_eq!(read_all(&broker.streams[0], 0).await, expected);
    }
}

/// R1, R2: what is acknowledged after an early recovery is found by the one behind it, which starts at the last batch of the first.
#[tokio::test]
async fn an_early_recovery_takes_a_beginning_and_completes_nothing() {
    for recovery_bytes in [3_000, 1 << 20] {
        let zombie = Zombie::new(Config { recovery_bytes, ..small() }).await;
        zombie.write(0..20).await;
        let last = zombie.append(20).await.expect("durable");
        zombie.early(zombie.by, &zombie.medium).await.expect("nothing is under way");
        assert_eq!((zombie.committed(), zombie.trim()), (21, last));
        zombie.write(21..30).await;
        assert_eq!(zombie.committed(), 21);
        zombie.complete(30).await;
    }
}

/// R2: again and again, as by recoverers that die.
#[tokio::test]
async fn early_recoveries_go_on_where_the_last_one_came_to() {
    let zombie = Zombie::new(small()).await;
    for round in 1..=5 {
        zombie.write(7 * (round - 1)..7 * round).await;
        let by = zombie.dead.world.metadata.register(3);
        zombie.early(by, &zombie.medium).await.expect("nothing is under way");
        assert_eq!(zombie.committed(), 7 * round);
    }
    zombie.complete(35).await;
}

/// R1: a write that is under way ends it, and nothing more.
#[tokio::test]
async fn an_early_recovery_ends_at_what_is_half_written() {
    let zombie = Zombie::new(small()).await;
    zombie.write(0..5).await;
    zombie.medium.hold();
    let under_way: Vec<_> = (5..9).map(|base| zombie.append(base)).collect();
    // The one that came last is there first.
    assert!(zombie.medium.complete(zombie.medium.held()[3]));
    zombie.early(zombie.by, &zombie.medium).await.expect("an end");
    assert_eq!(zombie.committed(), 5);
    zombie.medium.resume();
    for append in under_way {
        append.await.expect("durable");
    }
    zombie.complete(9).await;
}

/// R3: nobody is told that something moved.
#[tokio::test]
async fn an_early_recovery_commits_nothing_where_there_is_nothing() {
    let zombie = Zombie::new(small()).await;
    zombie.early(zombie.by, &zombie.medium).await.expect("empty");
    assert_eq!((zombie.dead.world.metadata.commits(), zombie.trim()), (0, Position(0)));
    zombie.write(0..5).await;
    zombie.early(zombie.by, &zombie.medium).await.expect("nothing is under way");
    let (commits, trim) = (zombie.dead.world.metadata.commits(), zombie.trim());
    for _ in 0..3 {
        zombie.early(zombie.by, &zombie.medium).await.expect("all is committed");
    }
    assert_eq!((zombie.dead.world.metadata.commits(), zombie.trim()), (commits, trim));
    zombie.complete(5).await;
}

/// A medium whose walks end in an error behind so many batches.
#[derive(Debug)]
struct Ending {
    inner: MemoryMedium,
    batches: usize,
    /// None: they do not end.
    error: Option<wal::Error>,
}

struct EndingWalk {
    inner: Box<dyn Recovery>,
    left: usize,
    error: Option<wal::Error>,
}

#[async_trait]
impl Medium for Ending {
    fn uri(&self) -> &Uri {
        self.inner.uri()
    }

    async fn recover(&self, of: Incarnation, from: Position) -> Result<Box<dyn Recovery>, wal::Error> {
        let inner = self.inner.recover(of, from).await?;
        Ok(Box::new(EndingWalk { inner, left: self.batches, error: self.error.clone() }))
    }

    fn recovers_early(&self) -> bool {
        true
    }

    async fn open(
        &self,
        owner: Incarnation,
        vacated: Vacated,
        right: Arc<AckRight>,
    ) -> Result<Arc<dyn Wal>, wal::Error> {
        self.inner.open(owner, vacated, right).await
    }
}

#[async_trait]
impl Recovery for EndingWalk {
    async fn next(&mut self) -> Result<Option<Recovered>, wal::Error> {
        if self.left == 0 {
            match &self.error {
                Some(error) => return Err(error.clone()),
                None => std::future::pending::<()>().await,
            }
        }
        self.left -= 1;
        self.inner.next().await
    }

    fn finish(self: Box<Self>) -> Vacated {
        self.inner.finish()
    }
}

/// R1: what looks like damage, or cannot be read, is for the recovery behind it to judge; what was read before that counts.
#[tokio::test]
async fn an_early_recovery_keeps_what_it_read_before_an_error() {
    let damaged = wal::Error::Corrupt { location: "here".into(), detail: "damaged".into() };
    for error in [damaged, wal::Error::Failed("no".into()), wal::Error::Unavailable("not now".into())] {
        for batches in [0, 1, 12] {
            let zombie = Zombie::new(small()).await;
            zombie.write(0..20).await;
            let medium = Ending { inner: zombie.medium.clone(), batches, error: Some(error.clone()) };
            zombie.early(zombie.by, &medium).await.expect_err("an error");
            assert_eq!(zombie.committed(), batches as u64, "{error}");
            zombie.complete(20).await;
        }
    }
}

/// R4: when the wait is over it reads no more, and what it has read by then is committed, however long that takes.
#[tokio::test(start_paused = true)]
async fn an_early_recovery_ends_with_the_wait_and_commits_what_it_read() {
    for batches in [0, 1, 12] {
        let zombie = Zombie::new(small()).await;
        zombie.write(0..20).await;
        let medium = Ending { inner: zombie.medium.clone(), batches, error: None };
        zombie.dead.world.metadata.inject(Fault::Delay(Duration::from_secs(5)));
        let until = Instant::now() + Duration::from_secs(1);
        let early = zombie.early_until(zombie.by, &medium, until);
        let ended = tokio::time::timeout(Duration::from_secs(600), early).await.expect("it ends");
        ended.expect("its time is over");
        assert_eq!(zombie.committed(), batches as u64);
        zombie.dead.world.metadata.clear_faults();
        // Too late for anything.
        zombie.early_until(zombie.by, &zombie.medium, until).await.expect("its time is over");
        assert_eq!(zombie.committed(), batches as u64);
        zombie.complete(20).await;
    }
}

/// Several early ones and the one behind the wait, all at once, while the log is written to. With a single batch the trim point does not
/// move, and the streams' ends alone tell the second that it is late (S4).
#[tokio::test]
async fn early_recoveries_at_once_double_nothing() {
    for records in [1, 2, 30] {
        let zombie = Zombie::new(Config { recovery_bytes: 2_000, ..small() }).await;
        zombie.write(0..records).await;
        let (two, three) = (zombie.dead.world.metadata.register(3), zombie.dead.world.metadata.register(4));
        let (one, two, three, ()) = tokio::join!(
            zombie.early(zombie.by, &zombie.medium),
            zombie.early(two, &zombie.medium),
            zombie.early(three, &zombie.medium),
            zombie.write(records..records + 10),
        );
        for outcome in [one, two, three] {
            assert!(matches!(outcome, Ok(()) | Err(Error::Unavailable(_))), "{outcome:?}");
        }
        zombie.trim();
        zombie.complete(records + 10).await;
    }
}

/// Cut off at any commit, as where another recovery came to the end meanwhile.
#[tokio::test(start_paused = true)]
async fn an_early_recovery_may_be_dropped_at_any_commit() {
    for fault in [Fault::HangBefore, Fault::HangAfter, Fault::LostReply] {
        for undisturbed in 0..6 {
            let zombie = Zombie::new(Config { recovery_bytes: 3_000, ..small() }).await;
            zombie.write(0..30).await;
            zombie.dead.world.metadata.inject_after(undisturbed, fault);
            let early = zombie.early(zombie.by, &zombie.medium);
            let _ = tokio::time::timeout(Duration::from_secs(60), early).await;
            zombie.dead.world.metadata.clear_faults();
            zombie.trim();
            zombie.write(30..33).await;
            zombie.complete(33).await;
        }
    }
}

/// A bucket's walk would seal it while it is still read and written by right.
#[tokio::test]
async fn a_medium_that_recovery_seals_is_not_recovered_early() {
    let dead = dead(1, &[(0, 0, 2)]).await;
    let world = &dead.world;
    let by = world.metadata.register(2);
    world.metadata.fence(dead.of);
    let (left, until) = (world.left(by, dead.of, Position(0)), Instant::now() + Duration::from_secs(3600));
    recover_early(left, world.medium.as_ref(), until).await.expect("nothing");
    assert_eq!((dead.ends(), world.metadata.commits()), (vec![0], 0));
}
