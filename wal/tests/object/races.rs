//! A zombie with PUTs under way, and two recoverers, in random interleavings: whatever was acknowledged is recovered, by
//! both, in order, and nothing is acknowledged once a recovery is complete.

use std::sync::Arc;
use std::time::Duration;

use faults::{Fault, FaultStore, Operation, Rule};
use wal::object::Config;
use wal::{AckRight, Medium, Position, Vacated};

use super::faults::{OWNER, medium, medium_with, number, record};
use super::subject::config;

/// One recovery, through a client of its own.
async fn recover(bucket: FaultStore, seed: u64) -> Vec<u64> {
    let client = FaultStore::new(bucket.inner(), seed);
    client.add(Rule::new(Operation::Put, Fault::LoseReply).with_probability(0.2));
    client.add(Rule::new(Operation::Put, Fault::HiddenRetry).with_probability(0.2));
    client.add(Rule::new(Operation::Put, Fault::Late).with_probability(0.1));
    client.add(Rule::new(Operation::Get, Fault::Delay(Duration::from_millis(9))).with_probability(0.5));
    client.add(Rule::new(Operation::Put, Fault::Delay(Duration::from_millis(6))).with_probability(0.5));
    let mut recovery = medium(&client).recover(OWNER, Position(0)).await.unwrap();
    let mut numbers = Vec::new();
    while let Some(batch) = recovery.next().await.unwrap() {
        numbers.extend(batch.records.iter().map(number));
    }
    client.land_late().await;
    numbers
}

#[tokio::test(start_paused = true)]
async fn recoverers_agree_and_a_zombie_acknowledges_nothing_beyond_them() {
    let mut fenced_runs = 0;
    for seed in 0..300 {
        let store = FaultStore::in_memory(seed);
        // Every other writer sends a second PUT beside each that takes longer than usual.
        let hedging = Config {
            hedge_factor: f64::from(u8::from(seed % 2 == 0)),
            hedge_min: Duration::from_millis(1),
            ..config()
        };
        let right = Arc::new(AckRight::unlimited());
        let wal = medium_with(&store, hedging).open(OWNER, Vacated::new_medium(), right).await.unwrap();
        // PUTs of different lengths overtake each other, replies get lost.
        for millis in [3, 11, 23] {
            let delay = Fault::Delay(Duration::from_millis(millis));
            store.add(Rule::new(Operation::Put, delay).with_probability(0.3));
        }
        store.add(Rule::new(Operation::Put, Fault::LoseReply).with_probability(0.1));
        store.add(Rule::new(Operation::Put, Fault::Late).with_probability(0.1));
        let writer = {
            let (wal, store) = (wal.clone(), store.clone());
            tokio::spawn(async move {
                let mut appends = Vec::new();
                for number in 0..40 {
                    appends.extend(wal.append(record(number)).ok());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    if number % 8 == 0 {
                        store.land_late().await;
                    }
                }
                let mut acknowledged = 0;
                let mut failed = false;
                for append in appends {
                    let ok = append.await.is_ok();
                    assert!(!(ok && failed), "acknowledged behind a failure");
                    failed |= !ok;
                    acknowledged += u64::from(ok);
                }
                acknowledged
            })
        };
        tokio::time::sleep(Duration::from_millis(seed % 37)).await;
        let (one, other) = tokio::join!(recover(store.clone(), seed), async {
            tokio::time::sleep(Duration::from_millis(seed % 7)).await;
            recover(store.clone(), seed + 1).await
        },);
        assert_eq!(one, other, "seed {seed}: two recoverers disagree");
        assert_eq!(one, (0..one.len() as u64).collect::<Vec<_>>(), "seed {seed}: not a prefix in order");
        let acknowledged = writer.await.unwrap();
        assert!(
            acknowledged <= one.len() as u64,
            "seed {seed}: {acknowledged} acknowledged, {} recovered",
            one.len()
        );
        store.land_late().await;
        assert_eq!(recover(store.clone(), seed + 2).await, one, "seed {seed}: a later recovery differs");
        fenced_runs += u64::from(acknowledged < 40);
    }
    assert!(fenced_runs > 100, "the recoveries met a living writer in {fenced_runs} runs only");
}
