//! One writer over a store that misbehaves: nothing is acknowledged that is not there, nothing is there twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use faults::{Fault, FaultStore, Operation, Rule};
use object_store::{ObjectStoreExt, PutPayload};
use wal::object::{Config, ObjectMedium, Seal, slot_key};
use wal::{AckRight, AppendError, Error, Incarnation, Medium, Meta, Position, Record, Vacated, Wal};

use super::codec::PlainCodec;
use super::subject::config;

pub const OWNER: Incarnation = Incarnation { broker: 1, epoch: 10 };

pub fn record(number: u64) -> Record {
    Record { kind: 1, meta: Meta::new(&number.to_le_bytes()), body: Bytes::from(vec![number as u8; 100]) }
}

pub fn medium_with(store: &FaultStore, config: Config) -> ObjectMedium {
    ObjectMedium::new(Arc::new(store.clone()), Arc::new(PlainCodec), config)
}

pub fn medium(store: &FaultStore) -> ObjectMedium {
    medium_with(store, config())
}

pub async fn open(store: &FaultStore) -> Arc<dyn Wal> {
    let right = Arc::new(AckRight::unlimited());
    medium(store).open(OWNER, Vacated::new_medium(), right).await.unwrap()
}

/// The numbers of the records that a recovery through a healthy client yields.
pub async fn recovered(store: &FaultStore) -> Vec<u64> {
    let healthy = FaultStore::new(store.inner(), 0);
    let mut recovery = medium(&healthy).recover(OWNER, Position(0)).await.unwrap();
    let mut numbers = Vec::new();
    while let Some(batch) = recovery.next().await.unwrap() {
        numbers.extend(batch.records.iter().map(number));
    }
    numbers
}

pub fn number(record: &Record) -> u64 {
    u64::from_le_bytes(record.meta.as_slice().try_into().unwrap())
}

/// A bucket that does not answer at the start is no reason to end: the creates decide.
#[tokio::test(start_paused = true)]
async fn a_log_is_opened_while_the_bucket_does_not_answer() {
    for fault in [Fault::Hang, Fault::Refuse] {
        let store = FaultStore::in_memory(1);
        store.add(Rule::new(Operation::List, fault).times(1));
        store.add(Rule::new(Operation::Put, Fault::Refuse).times(3));
        let wal = open(&store).await;
        wal.append(record(0)).unwrap().await.unwrap();
        assert_eq!(recovered(&store).await, [0]);
    }
}

/// Every record is acknowledged once and recovered once, whatever befalls PUTs and the reads that resolve them.
#[tokio::test(start_paused = true)]
async fn outcomes_are_found_out_and_never_assumed() {
    for seed in 0..60 {
        let store = FaultStore::in_memory(seed);
        // Every other writer sends a second PUT beside each that takes longer than usual.
        let hedge_factor = f64::from(u8::from(seed % 2 == 0));
        let hedging = Config { hedge_factor, hedge_min: Duration::from_millis(1), ..config() };
        let right = Arc::new(AckRight::unlimited());
        let wal = medium_with(&store, hedging).open(OWNER, Vacated::new_medium(), right).await.unwrap();
        for fault in [
            Fault::LoseReply,
            Fault::HiddenRetry,
            Fault::Refuse,
            Fault::Conflict,
            Fault::Late,
            Fault::Duplicate,
        ] {
            store.add(Rule::new(Operation::Put, fault).under("wal/").with_probability(0.12));
        }
        store.add(Rule::new(Operation::Get, Fault::Refuse).with_probability(0.2));
        store.add(Rule::new(Operation::Put, Fault::Delay(Duration::from_millis(80))).with_probability(0.3));
        let mut appends = Vec::new();
        for number in 0..60 {
            appends.push(wal.append(record(number)).unwrap());
            if number % 3 == 0 {
                tokio::time::sleep(Duration::from_millis(7)).await;
                store.land_late().await;
            }
        }
        for (number, append) in appends.into_iter().enumerate() {
            append.await.unwrap_or_else(|error| panic!("seed {seed}, record {number}: {error}"));
        }
        store.heal();
        store.land_late().await;
        wal.close().await;
        assert_eq!(recovered(&store).await, (0..60).collect::<Vec<_>>(), "seed {seed}");
    }
}

/// O4: "already exists", and then nothing is there: somebody recovered, cleaned up, and this writer is long dead.
#[tokio::test(start_paused = true)]
async fn a_vanished_slot_stops_the_writer_for_good() {
    let store = FaultStore::in_memory(1);
    let wal = open(&store).await;
    wal.append(record(0)).unwrap().await.unwrap();
    store.inner().put(&slot_key(OWNER, 1), PutPayload::from_static(b"somebody else's")).await.unwrap();
    store.add(Rule::new(Operation::Get, Fault::Hide).under("wal/").times(1));
    let append = wal.append(record(1)).unwrap();
    assert!(matches!(append.await, Err(Error::Fenced(_))));
    assert!(matches!(wal.append(record(2)), Err(AppendError::Wal(Error::Fenced(_)))));
}

/// O1: a seal in the middle of several PUTs under way: none at or behind it is acknowledged, although those behind it
/// reached the bucket.
#[tokio::test(start_paused = true)]
async fn a_seal_in_the_middle_fences_everything_behind_it() {
    let store = FaultStore::in_memory(1);
    let wal = open(&store).await;
    wal.append(record(0)).unwrap().await.unwrap();
    store.hold_puts();
    let mut appends = Vec::new();
    for number in 1..5 {
        appends.push(wal.append(record(number)).unwrap());
        while store.held_puts().len() < number as usize {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(recovered(&store).await, [0], "the recoverer seals slot 1");
    store.resume_puts();
    for append in appends {
        assert!(matches!(append.await, Err(Error::Fenced(_))));
    }
    let slots = store.inner();
    assert!(Seal::decode(&slots.get(&slot_key(OWNER, 1)).await.unwrap().bytes().await.unwrap()).is_some());
    assert!(slots.head(&slot_key(OWNER, 4)).await.is_ok(), "it landed, and counts for nothing");
    assert_eq!(recovered(&store).await, [0]);
}

/// W5: damage is an error that names the object, never an end of the log and never skipped.
#[tokio::test(start_paused = true)]
async fn a_damaged_slot_is_corrupt_and_named() {
    let store = FaultStore::in_memory(1);
    let wal = open(&store).await;
    for number in 0..3 {
        wal.append(record(number)).unwrap().await.unwrap();
    }
    let pristine = store.inner().get(&slot_key(OWNER, 1)).await.unwrap().bytes().await.unwrap();
    for damage in 0..pristine.len() {
        store.tamper(&slot_key(OWNER, 1), |bytes| bytes[damage] ^= 0x40).await;
        let mut recovery = medium(&store).recover(OWNER, Position(0)).await.unwrap();
        assert!(recovery.next().await.unwrap().is_some());
        match recovery.next().await {
            Err(Error::Corrupt { location, .. }) => assert!(location.contains(slot_key(OWNER, 1).as_ref())),
            other => panic!("byte {damage}: {other:?}"),
        }
        store.tamper(&slot_key(OWNER, 1), |bytes| bytes[damage] ^= 0x40).await;
    }
    assert_eq!(recovered(&store).await, [0, 1, 2]);
}

/// W1: a store that is down makes appends wait, in bounded memory, and they complete when it is back.
#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_out_in_bounded_memory() {
    let store = FaultStore::in_memory(1);
    let wal = open(&store).await;
    store.set_outage(true);
    let mut appends = Vec::new();
    let refused = loop {
        match wal.append(Record { body: Bytes::from(vec![0; 64 << 10]), ..record(appends.len() as u64) }) {
            Ok(append) => appends.push(append),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::OverCapacity { .. }));
    assert!(appends.len() * (64 << 10) <= config().pending_bytes_max);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    store.set_outage(false);
    wal.admit(64 << 10).await.unwrap();
    let count = appends.len();
    for append in appends {
        append.await.unwrap();
    }
    assert_eq!(recovered(&store).await.len(), count);
}

/// The bill: an idle log sends nothing; a busy one keeps inside its budget, full batches apart.
#[tokio::test(start_paused = true)]
async fn puts_stay_inside_their_budget() {
    let store = FaultStore::in_memory(1);
    let budget = Config { puts_per_second_max: 10.0, puts_burst_max: 5.0, ..config() };
    let right = Arc::new(AckRight::unlimited());
    let wal = medium_with(&store, budget).open(OWNER, Vacated::new_medium(), right).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(store.counts().puts, 0, "an idle log sends nothing");
    let mut appends = Vec::new();
    for number in 0..10_000 {
        appends.push(wal.append(record(number)).unwrap());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for append in appends {
        append.await.unwrap();
    }
    let puts = store.counts().puts;
    assert!(puts <= 5 + 10 * 11, "{puts} PUTs in ten seconds");
    assert!(puts >= 90, "{puts} PUTs: the budget is there to be used");
}

/// The budget is everybody's: what others send while the log is busy it does not.
#[tokio::test(start_paused = true)]
async fn what_others_send_the_log_does_not() {
    let store = FaultStore::in_memory(1);
    let budget = Config { puts_per_second_max: 10.0, puts_burst_max: 10.0, ..config() };
    let others = Arc::new(AtomicU64::new(1_000_000));
    let count = {
        let (store, others) = (store.clone(), others.clone());
        Arc::new(move || store.counts().puts + others.load(Ordering::Relaxed))
    };
    let medium = medium_with(&store, budget).beside(count);
    let right = Arc::new(AckRight::unlimited());
    let wal = medium.open(OWNER, Vacated::new_medium(), right).await.unwrap();
    let mut appends = Vec::new();
    for number in 0..100_000 {
        appends.push(wal.append(record(number)).unwrap());
        // Five a second.
        others.fetch_add(u64::from(number % 200 == 0), Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for append in appends {
        append.await.unwrap();
    }
    let (own, others) = (store.counts().puts, others.load(Ordering::Relaxed) - 1_000_000);
    // What was saved up, and what is owed at the end: 5 a second for 10 s.
    assert_eq!(others, 500);
    assert!(own + others <= 10 * 100 + 10 + 50 + 10, "{own} PUTs beside {others} of others");
    assert!(own >= 450, "{own} PUTs: the rest of the budget is there to be used");
}

/// O5: trimmed slots go after the delay, the rest stays, and so do seals.
#[tokio::test(start_paused = true)]
async fn trimmed_slots_are_deleted_late_and_nothing_else_is() {
    let store = FaultStore::in_memory(1);
    let wal = open(&store).await;
    for number in 0..6 {
        wal.append(record(number)).unwrap().await.unwrap();
    }
    wal.trim(Position(4)).await.unwrap();
    wal.trim(Position(2)).await.unwrap();
    tokio::time::sleep(config().delete_delay / 2).await;
    assert_eq!(store.counts().deletes, 0);
    tokio::time::sleep(config().delete_delay).await;
    for slot in 0..6 {
        let there = store.inner().head(&slot_key(OWNER, slot)).await.is_ok();
        assert_eq!(there, slot >= 4, "slot {slot}");
    }
    assert_eq!(wal.status().trimmed, Position(4));
}
