//! A PUT that is late gets a second one beside it: the slot is there soon, once, and a fence still fences.

use std::sync::Arc;
use std::time::Duration;

use faults::{Fault, FaultStore, Operation, Rule};
use object_store::ObjectStoreExt;
use tokio::time::Instant;
use wal::object::{Config, Seal, slot_key};
use wal::{AckRight, Append, Error, Medium, Vacated, Wal};

use super::faults::{OWNER, medium_with, record, recovered};
use super::subject::config;

/// PUTs take this long.
const USUAL: Duration = Duration::from_millis(20);
/// Sooner than any time-out.
const SOON: Duration = Duration::from_millis(500);

fn hedging() -> Config {
    Config { hedge_factor: 3.0, ..config() }
}

/// A log that has seen what PUTs take.
async fn warm(store: &FaultStore, config: Config) -> Arc<dyn Wal> {
    let right = Arc::new(AckRight::unlimited());
    let wal = medium_with(store, config).open(OWNER, Vacated::new_medium(), right).await.unwrap();
    store.add(Rule::new(Operation::Put, Fault::Delay(USUAL)));
    for number in 0..3 {
        wal.append(record(number)).unwrap().await.unwrap();
    }
    wal
}

/// An append that has two PUTs under way, neither of which has taken effect.
async fn doubled(store: &FaultStore, wal: &dyn Wal) -> Append {
    store.heal();
    store.hold_puts();
    let append = wal.append(record(3)).unwrap();
    while store.held_puts().len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    append
}

/// Whether an append that finds a PUT that hangs is acknowledged soon.
async fn is_overtaken(config: Config) -> bool {
    let store = FaultStore::in_memory(1);
    let wal = warm(&store, config).await;
    store.heal();
    store.add(Rule::new(Operation::Put, Fault::Hang).times(1));
    store.add(Rule::new(Operation::Put, Fault::Delay(USUAL)));
    let began = Instant::now();
    let appends: Vec<Append> = (3..6).map(|number| wal.append(record(number)).unwrap()).collect();
    for append in appends {
        append.await.unwrap();
    }
    let took = began.elapsed();
    assert_eq!(recovered(&store).await, [0, 1, 2, 3, 4, 5]);
    took < SOON
}

#[tokio::test(start_paused = true)]
async fn a_put_that_hangs_is_overtaken() {
    assert!(is_overtaken(hedging()).await);
    assert!(!is_overtaken(config()).await, "without hedging it waits for the time-out");
}

/// The first PUT took effect, and its answer is lost: the second one finds "already exists", reads, and knows its own.
#[tokio::test(start_paused = true)]
async fn a_double_that_comes_second_finds_its_own_bytes() {
    let store = FaultStore::in_memory(1);
    let wal = warm(&store, hedging()).await;
    store.heal();
    store.hold_puts();
    let append = wal.append(record(3)).unwrap();
    while store.held_puts().is_empty() {
        tokio::task::yield_now().await;
    }
    store.silence_put(0);
    while store.held_puts().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let began = Instant::now();
    store.resume_puts();
    append.await.unwrap();
    assert!(began.elapsed() < SOON, "the first PUT was waited for");
    assert_eq!(store.counts().gets, 1);
    assert_eq!(recovered(&store).await, [0, 1, 2, 3]);
}

/// Both PUTs meet a seal: the append is not acknowledged, whichever is answered first.
#[tokio::test(start_paused = true)]
async fn a_double_is_fenced_like_any_other() {
    for first in 0..2 {
        let store = FaultStore::in_memory(1);
        let wal = warm(&store, hedging()).await;
        let append = doubled(&store, &*wal).await;
        assert_eq!(recovered(&store).await, [0, 1, 2], "the recoverer seals slot 3");
        store.complete_put(first);
        store.resume_puts();
        assert!(matches!(append.await, Err(Error::Fenced(_))));
        let slot = store.inner().get(&slot_key(OWNER, 3)).await.unwrap().bytes().await.unwrap();
        assert!(Seal::decode(&slot).is_some());
    }
}

/// One error of two PUTs decides nothing: the other one may still land.
#[tokio::test(start_paused = true)]
async fn an_error_of_one_waits_for_the_other() {
    for (first, gets) in [(0, 0), (1, 0)] {
        let store = FaultStore::in_memory(1);
        let wal = warm(&store, hedging()).await;
        let append = doubled(&store, &*wal).await;
        store.drop_put(first);
        tokio::time::sleep(Duration::from_millis(100)).await;
        store.complete_put(0);
        append.await.unwrap();
        assert_eq!(store.counts().gets, gets, "nothing had to be found out");
        store.resume_puts();
        assert_eq!(recovered(&store).await, [0, 1, 2, 3]);
    }
}

/// H2: a store that has become slow is not asked for twice as much. One PUT in four takes long, so that what is usual stays
/// below it.
#[tokio::test(start_paused = true)]
async fn a_slow_store_is_not_asked_for_twice_as_much() {
    let store = FaultStore::in_memory(1);
    let wal = warm(&store, hedging()).await;
    store.heal();
    let slow = Fault::Delay(Duration::from_secs(5));
    store.add(Rule::new(Operation::Put, slow).with_probability(0.25));
    let before = store.counts().puts;
    for number in 3..203 {
        wal.append(record(number)).unwrap().await.unwrap();
    }
    let puts = store.counts().puts - before;
    assert!((215..=224).contains(&puts), "{puts} PUTs for 200 slots");
}
