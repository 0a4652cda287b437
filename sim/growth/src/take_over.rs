//! How long it takes the store and the log to give a dead broker's partitions to others, while everybody goes on writing.
//!
//! ```text
//!   dead ─┬─ fence ──────────────┬─ seal ── commit ── commit … the last one places ──► everybody knows it
//!         └─ slots, read ahead ──┘
//! ```
//!
//! From the verdict on. Before it lies the detection, behind it each new leader opens its share: real brokers show these.
//! Processor time is not in it either ([`crate::fail_over`]).

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::arena::{Arena, Conditions, paused};

/// Slots that a recovery reads ahead: the default of `object-wal-recovery-read-ahead`.
const READ_AHEAD: usize = 64;

/// The log is as busy as it will be.
const BEFORE: Duration = Duration::from_secs(5);
/// Of the traffic meanwhile: more than any recovery takes.
const TRAFFIC_MAX: Duration = Duration::from_secs(600);

pub fn run(conditions: &Conditions, slots: usize, commits: u64) -> Duration {
    paused(go(conditions, slots, commits))
}

async fn go(conditions: &Conditions, slots: usize, commits: u64) -> Duration {
    let arena = Arena::open(conditions).await;
    // Ends with this function.
    let _traffic = arena.traffic(conditions, TRAFFIC_MAX);
    tokio::time::sleep(BEFORE).await;
    let began = Instant::now();
    tokio::join!(commit(&arena), read(&arena, slots));
    // The first free place is looked at, and sealed.
    arena.read_slot(slots).await;
    arena.write_slot(slots).await;
    let mut last = 0;
    for _ in 0..commits {
        last = commit(&arena).await;
    }
    arena.known(last).await;
    let took = began.elapsed();
    arena.close().await;
    took
}

/// Until it is there: a recovery is tried again.
async fn commit(arena: &Arena) -> u64 {
    loop {
        if let Ok(number) = arena.commit(0).await {
            return number;
        }
    }
}

async fn read(arena: &Arena, slots: usize) {
    let mut reads = JoinSet::new();
    for slot in 0..slots {
        if reads.len() == READ_AHEAD {
            reads.join_next().await;
        }
        let arena = arena.clone();
        reads.spawn(async move { arena.read_slot(slot).await });
    }
    reads.join_all().await;
}
