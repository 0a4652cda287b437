//! What one writer and one walk may take at most, whatever the bucket and the lease do; and damage that is only on the
//! way.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use faults::{Fault, FaultStore, Operation, Rule};
use futures::FutureExt;
use object_store::{ObjectStoreExt, PutPayload};
use wal::object::{Config, ObjectMedium, SlotCodec, SlotId, slot_key};
use wal::right::boottime;
use wal::{AckRight, Append, AppendError, Error, Medium, Position, Record, Vacated, Wal};

use super::codec::PlainCodec;
use super::faults::{OWNER, medium, medium_with, number, open, record, recovered};
use super::subject::config;

async fn open_with(store: &FaultStore, config: Config, right: AckRight) -> (Arc<dyn Wal>, Arc<AckRight>) {
    let right = Arc::new(right);
    let wal = medium_with(store, config).open(OWNER, Vacated::new_medium(), right.clone()).await.unwrap();
    (wal, right)
}

/// Appends and lets the store work, until there is no room; panics if there is always room.
async fn fill(wal: &dyn Wal, bytes: usize, limit: usize) -> Vec<Append> {
    let mut appends = Vec::new();
    loop {
        let body = Bytes::from(vec![0; bytes]);
        match wal.append(Record { body, ..record(appends.len() as u64) }) {
            Ok(append) => appends.push(append),
            Err(AppendError::OverCapacity { .. }) => return appends,
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(appends.len() * bytes <= limit, "{} records are not acknowledged", appends.len());
    }
}

/// W1: slots behind a hole are durable and not acknowledged; they count until they are.
#[tokio::test(start_paused = true)]
async fn slots_behind_a_hole_count_until_they_are_acknowledged() {
    let store = FaultStore::in_memory(1);
    let (wal, _) = open_with(&store, config(), AckRight::unlimited()).await;
    let hole = |slot| Rule::new(Operation::Put, Fault::Hang).under(slot_key(OWNER, slot).as_ref());
    store.add(hole(0).times(1));
    store.add(hole(1));
    let mut appends = fill(&*wal, 64 << 10, config().pending_bytes_max).await;
    appends.remove(0).await.unwrap();
    let more = fill(&*wal, 64 << 10, config().pending_bytes_max).await;
    assert!(more.len() <= 1, "the room of one slot was given back, and {} records got in", more.len());
    store.heal();
    for append in appends.into_iter().chain(more) {
        append.await.unwrap();
    }
    assert!(wal.admit(1 << 20).now_or_never().is_some(), "the room is there again");
}

/// W1, O4: durable, and the right has lapsed: nothing is acknowledged, and memory stays bounded. Empty records count.
#[tokio::test(start_paused = true)]
async fn what_waits_for_the_right_counts_until_it_is_acknowledged() {
    for bytes in [0, 64 << 10] {
        let store = FaultStore::in_memory(1);
        let (wal, right) = open_with(&store, config(), AckRight::leased()).await;
        let appends = fill(&*wal, bytes, config().pending_bytes_max).await;
        assert!(appends.len() <= config().pending_bytes_max / 100, "{} appends", appends.len());
        right.renew(boottime(), Duration::from_secs(3600));
        let count = appends.len();
        for append in appends {
            append.await.unwrap();
        }
        assert_eq!(recovered(&store).await.len(), count);
    }
}

/// W1: closing waits for a record without bytes, too.
#[tokio::test(start_paused = true)]
async fn closing_waits_for_an_empty_record() {
    let store = FaultStore::in_memory(1);
    let wal = open(&store).await;
    store.add(Rule::new(Operation::Put, Fault::Delay(Duration::from_secs(3))));
    let append = wal.append(Record { kind: 1, meta: wal::Meta::new(&[]), body: Bytes::new() }).unwrap();
    wal.close().await;
    append.now_or_never().expect("settled").unwrap();
}

/// A slow transfer is not a dead one: a large slot gets the time that its bytes need.
#[tokio::test(start_paused = true)]
async fn a_large_slot_may_take_as_long_as_its_bytes_need() {
    let store = FaultStore::in_memory(1);
    let slow = Config { bytes_per_second_min: 32 << 10, request_timeout: Duration::from_secs(1), ..config() };
    let (wal, _) = open_with(&store, slow, AckRight::unlimited()).await;
    store.add(Rule::new(Operation::Put, Fault::Delay(Duration::from_secs(16))));
    let body = Bytes::from(vec![7; 512 << 10]);
    wal.append(Record { body, ..record(0) }).unwrap().await.unwrap();
    assert_eq!(store.counts().puts, 1, "16 s for 512 KiB is within 1 s + 16 s");
}

/// An object that nobody of ours wrote is not read into memory, neither by the writer who meets it nor by a walk.
#[tokio::test(start_paused = true)]
async fn an_object_over_the_limit_is_refused_unread() {
    let store = FaultStore::in_memory(1);
    let limits =
        Config { batch_bytes_max: 1 << 10, record_bytes_max: 1 << 10, slot_bytes_max: 2 << 10, ..config() };
    let (wal, _) = open_with(&store, limits.clone(), AckRight::unlimited()).await;
    wal.append(record(0)).unwrap().await.unwrap();
    store.inner().put(&slot_key(OWNER, 1), PutPayload::from(vec![0; 3 << 10])).await.unwrap();
    match wal.append(record(1)).unwrap().await {
        Err(Error::Failed(reason)) => assert!(reason.contains("over slot_bytes_max"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let mut recovery = medium_with(&store, limits).recover(OWNER, Position(0)).await.unwrap();
    assert!(recovery.next().await.unwrap().is_some());
    match recovery.next().await {
        Err(Error::Corrupt { location, detail }) => {
            assert!(
                location.contains(slot_key(OWNER, 1).as_ref()) && detail.contains("over the limit"),
                "{detail}"
            );
        }
        other => panic!("{other:?}"),
    }
}

/// Slots over their share of the read-ahead are left, and fetched when they are the head.
#[tokio::test(start_paused = true)]
async fn large_slots_are_not_fetched_ahead() {
    for (share, gets_a_slot) in [(64 << 10, 1), (16, 2)] {
        let store = FaultStore::in_memory(1);
        let wal = open(&store).await;
        for number in 0..20 {
            wal.append(record(number)).unwrap().await.unwrap();
        }
        let ahead = Config { recovery_read_ahead: 4, recovery_read_ahead_bytes: 4 * share, ..config() };
        let before = store.counts().gets;
        let mut recovery = medium_with(&store, ahead).recover(OWNER, Position(0)).await.unwrap();
        let mut numbers = Vec::new();
        while let Some(batch) = recovery.next().await.unwrap() {
            numbers.extend(batch.records.iter().map(number));
        }
        assert_eq!(numbers, (0..20).collect::<Vec<_>>());
        let gets = store.counts().gets - before;
        let at_the_end = gets - 20 * gets_a_slot;
        assert!((1..=4).contains(&at_the_end), "the last four at most find nothing: {at_the_end}");
    }
}

/// Once a read ahead has found nothing, nothing beyond is asked for: a dead owner left nothing there.
#[tokio::test(start_paused = true)]
async fn a_walk_asks_for_little_beyond_the_end() {
    let store = FaultStore::in_memory(1);
    let wal = open(&store).await;
    for number in 0..20 {
        wal.append(record(number)).unwrap().await.unwrap();
    }
    let ahead = Config { recovery_read_ahead: 32, ..config() };
    let before = store.counts().gets;
    let mut recovery = medium_with(&store, ahead).recover(OWNER, Position(0)).await.unwrap();
    let mut numbers = Vec::new();
    while let Some(batch) = recovery.next().await.unwrap() {
        numbers.extend(batch.records.iter().map(number));
    }
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
    let gets = store.counts().gets - before;
    // The first window; and the seal, where it is read back.
    assert!(gets <= 33, "{gets} reads for 20 slots");
}

/// W5: a body that was damaged on the way is read again, a walk neither fails nor ends over it.
#[tokio::test(start_paused = true)]
async fn a_walk_reads_again_what_was_damaged_on_the_way() {
    for fault in [Fault::Truncate(0), Fault::Truncate(60), Fault::FlipBit(77), Fault::FlipBit(400)] {
        for slot in 0..4 {
            let store = FaultStore::in_memory(1);
            let wal = open(&store).await;
            for number in 0..3 {
                wal.append(record(number)).unwrap().await.unwrap();
            }
            assert_eq!(recovered(&store).await, [0, 1, 2]);
            store.add(Rule::new(Operation::Get, fault).under(slot_key(OWNER, slot).as_ref()).times(1));
            let mut recovery = medium(&store).recover(OWNER, Position(0)).await.unwrap();
            let mut numbers = Vec::new();
            while let Some(batch) = recovery.next().await.unwrap() {
                numbers.extend(batch.records.iter().map(number));
            }
            assert_eq!(numbers, [0, 1, 2], "{fault:?} of slot {slot}");
        }
    }
}

/// O4: one's own slot, damaged on the way back, is still one's own.
#[tokio::test(start_paused = true)]
async fn a_read_back_that_was_damaged_on_the_way_fences_nobody() {
    for lost in [Fault::LoseReply, Fault::HiddenRetry] {
        for damage in [Fault::Truncate(0), Fault::Truncate(50), Fault::FlipBit(3), Fault::FlipBit(500)] {
            let store = FaultStore::in_memory(1);
            let wal = open(&store).await;
            store.add(Rule::new(Operation::Put, lost).times(1));
            store.add(Rule::new(Operation::Get, damage).times(1));
            wal.append(record(0))
                .unwrap()
                .await
                .unwrap_or_else(|error| panic!("{lost:?}, {damage:?}: {error}"));
            wal.append(record(1)).unwrap().await.unwrap();
            assert_eq!(recovered(&store).await, [0, 1]);
        }
    }
}

/// O4: the nonce alone does not make a slot one's own; the body must be, too.
#[tokio::test(start_paused = true)]
async fn ones_own_nonce_over_another_body_stops_the_writer() {
    let store = FaultStore::in_memory(1);
    let wal = open(&store).await;
    store.hold_puts();
    let mut append = wal.append(record(0)).unwrap();
    while store.held_puts().is_empty() {
        tokio::task::yield_now().await;
    }
    // The PUT is applied and unanswered; then its body changes under the same nonce.
    store.silence_put(0);
    let key = slot_key(OWNER, 0);
    while store.inner().head(&key).await.is_err() {
        tokio::task::yield_now().await;
    }
    let bytes = store.inner().get(&key).await.unwrap().bytes().await.unwrap();
    let (id, _) = PlainCodec.decode(&bytes).unwrap();
    let other = PlainCodec.encode(&id, &[record(99)]).concat();
    store.inner().put(&key, PutPayload::from(other)).await.unwrap();
    assert!((&mut append).now_or_never().is_none());
    store.resume_puts();
    match append.await {
        Err(Error::Failed(reason)) => assert!(reason.contains("own nonce"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// O5: a delete that failed is tried again.
#[tokio::test(start_paused = true)]
async fn slots_that_could_not_be_deleted_are_deleted_later() {
    let store = FaultStore::in_memory(1);
    let wal = open(&store).await;
    for number in 0..6 {
        wal.append(record(number)).unwrap().await.unwrap();
    }
    store.add(Rule::new(Operation::Delete, Fault::Refuse).times(3));
    wal.trim(Position(5)).await.unwrap();
    tokio::time::sleep(config().delete_delay + Duration::from_secs(300)).await;
    for slot in 0..6 {
        let there = store.inner().head(&slot_key(OWNER, slot)).await.is_ok();
        assert_eq!(there, slot >= 5, "slot {slot}");
    }
}

/// A codec that breaks its own rules.
#[derive(Debug)]
struct Broken;

impl SlotCodec for Broken {
    fn encode(&self, _: &SlotId, _: &[Record]) -> Vec<Bytes> {
        panic!("this codec is broken")
    }

    fn decode(&self, _: &Bytes) -> Result<(SlotId, Vec<Record>), Error> {
        Err(Error::Corrupt { location: "slot".into(), detail: "this codec is broken".into() })
    }
}

/// A bug of ours ends the log loudly; it does not leave appends hanging.
#[tokio::test(start_paused = true)]
async fn a_panic_in_a_task_fails_the_log() {
    let store = FaultStore::in_memory(1);
    let medium = ObjectMedium::new(Arc::new(store), Arc::new(Broken), config());
    let wal = medium.open(OWNER, Vacated::new_medium(), Arc::new(AckRight::unlimited())).await.unwrap();
    let append = wal.append(record(0)).unwrap();
    assert!(matches!(append.await, Err(Error::Failed(_))));
    assert!(matches!(wal.failed().await, Error::Failed(_)));
    assert!(matches!(wal.append(record(1)), Err(AppendError::Wal(Error::Failed(_)))));
    wal.close().await;
}
