//! Many replicas at once over a store that loses replies, delays, duplicates and fails: L1 to L5 together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use metalog::{Applied, Config, Error, Replica};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock::TestClock;
use crate::journal::{Journal, command};
use crate::rough::{Faults, Rough};

/// What one proposer was told.
struct Told {
    id: String,
    writer: usize,
    asked: Instant,
    answered: Instant,
    answer: Result<Applied<u64>, Error>,
}

async fn propose_all(replica: Replica<Journal>, writer: usize, count: usize, pause: Duration) -> Vec<Told> {
    let mut random = StdRng::seed_from_u64(writer as u64);
    let mut told = Vec::new();
    for which in 0..count {
        let asked = Instant::now();
        let answer = replica.propose(command(writer, which)).await;
        let id = format!("{writer}:{which}");
        told.push(Told { id, writer, asked, answered: Instant::now(), answer });
        tokio::time::sleep(pause.mul_f64(random.random())).await;
    }
    told
}

/// Every accepted command is there exactly once and where its proposer was told; what was refused is not there; what
/// is unknown is there at most once. A writer's commands are in its order, and nothing is before what had been
/// answered before it was asked.
fn check(told: &[Told], journal: &Journal) -> usize {
    let commands = journal.commands();
    let contexts = journal.contexts();
    assert_eq!(commands.iter().collect::<BTreeSet<_>>().len(), commands.len(), "a command was applied twice");
    let places: BTreeMap<&str, usize> =
        commands.iter().enumerate().map(|(place, id)| (id.as_str(), place)).collect();
    let mut unknown = 0;
    for Told { id, answer, .. } in told {
        let place = places.get(id.as_str());
        match answer {
            Ok(applied) => {
                let place = *place.unwrap_or_else(|| panic!("{id} was accepted, but is not in the log"));
                assert_eq!((applied.outcome, applied.number), (place as u64, contexts[place].number), "{id}");
            }
            Err(Error::Unknown(_)) => unknown += 1,
            Err(error) => assert_eq!(place, None, "{id} is in the log in spite of: {error}"),
        }
    }

    let by_id: BTreeMap<&str, &Told> = told.iter().map(|told| (told.id.as_str(), told)).collect();
    let mut latest_asked = None;
    let mut next_of_writer = BTreeMap::new();
    for id in &commands {
        let told = by_id[id.as_str()];
        let which: usize = id.split_once(':').expect("writer:which").1.parse().expect("a number");
        let next = next_of_writer.insert(told.writer, which + 1).unwrap_or(0);
        assert!(which >= next, "{id} is behind a later command of its writer");
        if told.answer.is_ok() {
            assert!(
                latest_asked.is_none_or(|asked| told.answered >= asked),
                "{id} is behind a later command"
            );
        }
        latest_asked = latest_asked.max(Some(told.asked));
    }
    unknown
}

fn storm() -> Faults {
    Faults {
        refused: 0.05,
        lost_reply: 0.05,
        hidden_retry: 0.05,
        conflict: 0.05,
        late: 0.03,
        duplicate: 0.05,
        hang: 0.01,
    }
}

/// Hardly anything is answered, but puts may land.
fn outage() -> Faults {
    Faults { refused: 0.9, late: 0.5, ..storm() }
}

const SECOND: Duration = Duration::from_secs(1);

fn stormy() -> Config {
    Config {
        request_timeout: Duration::from_secs(1),
        operation_timeout: Duration::from_secs(20),
        snapshot_entries: 20,
        view_age_max: Duration::from_secs(10),
        // Less than a late put may take.
        retention: Duration::from_secs(40),
        verify_interval: Duration::from_secs(2),
        ..Config::default()
    }
}

const WRITERS: usize = 8;

async fn open(store: &Arc<Rough>, clock: Arc<TestClock>) -> Result<Replica<Journal>, Error> {
    Replica::open_with_clock(store.store(), stormy(), clock, Journal::default()).await
}

/// Opens again and again, waits in between, and gives what it saw; a reader's view is always a prefix of the log.
async fn read_again_and_again(store: Arc<Rough>, until: Instant) -> Vec<Journal> {
    let mut seen = Vec::new();
    while Instant::now() < until {
        match open(&store, TestClock::new()).await {
            Ok(replica) => {
                seen.push(replica.view().machine.clone());
                tokio::time::sleep(Duration::from_secs(2)).await;
                if let Ok(view) = replica.refresh().await {
                    seen.push(view.machine.clone());
                }
                replica.close().await;
            }
            Err(Error::Unavailable(_)) => {}
            Err(error) => panic!("a log that only the store's replies damage: {error}"),
        }
    }
    seen
}

/// Everything that goes wrong in one simulated run; the count of unknown outcomes.
async fn run(seed: u64, commands: usize, pause: Duration) -> (usize, usize) {
    let store = Rough::new(seed);
    store.set_delay(Duration::from_millis(50));
    store.set_faults(storm());
    let mut random = StdRng::seed_from_u64(seed);
    let clocks: Vec<_> = (0..WRITERS).map(|_| TestClock::new()).collect();
    let mut replicas = Vec::new();
    for clock in &clocks {
        replicas.push(open(&store, clock.clone()).await.expect("it opens in the end"));
    }
    let mut proposers = JoinSet::new();
    for (writer, replica) in replicas.iter().enumerate() {
        proposers.spawn(propose_all(replica.clone(), writer, commands, pause));
    }
    let readers =
        tokio::spawn(read_again_and_again(store.clone(), Instant::now() + pause * commands as u32 / 2));
    let mut told = Vec::new();
    loop {
        tokio::select! {
            done = proposers.join_next() => match done {
                Some(done) => told.extend(done.expect("a proposer that ends")),
                None => break,
            },
            () = tokio::time::sleep(Duration::from_secs(3)) => {
                // Somebody was suspended, the store goes down or comes back, or late puts land.
                match random.random_range(0..20) {
                    0..10 => clocks[random.random_range(0..WRITERS)].add(random.random_range(0..30) * SECOND),
                    10..13 => store.set_faults(outage()),
                    13 => _ = store.faulty.land_late().await,
                    _ => store.set_faults(storm()),
                }
            }
        }
    }
    let readers = readers.await.expect("readers that end");

    store.faulty.heal();
    store.faulty.land_late().await;
    let fresh = open(&store, TestClock::new()).await.expect("a store that behaves");
    let truth = fresh.view();
    for replica in &replicas {
        let view = replica.refresh().await.expect("a store that behaves");
        assert_eq!(view.number, truth.number);
        assert_eq!(view.machine.commands(), truth.machine.commands());
        replica.close().await;
    }
    let commands = truth.machine.commands();
    for seen in readers {
        assert!(commands.starts_with(&seen.commands()), "a reader saw what is not in the log");
    }
    fresh.close().await;
    (check(&told, &truth.machine), store.deleted().len())
}

fn runs(seeds: std::ops::Range<u64>, commands: usize, pause: Duration) -> (usize, usize) {
    let (mut unknown, mut deleted) = (0, 0);
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let (more_unknown, more_deleted) = runtime
            .expect("a runtime")
            .block_on(async { tokio::spawn(run(seed, commands, pause)).await })
            .unwrap_or_else(|panic| panic!("seed {seed}: {panic}"));
        unknown += more_unknown;
        deleted += more_deleted;
    }
    (unknown, deleted)
}

#[test]
fn eight_hurried_writers_over_a_store_that_misbehaves() {
    let (unknown, _) = runs(0..20, 50, Duration::ZERO);
    assert!(unknown > 0, "the store was too kind");
}

#[test]
fn eight_slow_writers_while_snapshots_are_taken_and_entries_deleted() {
    let (_, deleted) = runs(100..110, 50, Duration::from_secs(10));
    assert!(deleted > 100, "{deleted} objects were deleted: retention took no part");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_over_a_directory_and_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = || -> Arc<dyn ObjectStore> {
        Arc::new(LocalFileSystem::new_with_prefix(directory.path()).unwrap().with_fsync(true))
    };
    let config = Config { snapshot_entries: 10, ..Config::default() };
    let mut proposers = JoinSet::new();
    for writer in 0..4 {
        let replica = Replica::open(store(), config.clone(), Journal::default()).await.unwrap();
        proposers.spawn(async move {
            let told = propose_all(replica.clone(), writer, 25, Duration::ZERO).await;
            replica.close().await;
            told
        });
    }
    let told: Vec<_> = proposers.join_all().await.into_iter().flatten().collect();
    let replica = Replica::open(store(), config, Journal::default()).await.unwrap();
    assert_eq!(check(&told, &replica.view().machine), 0);
    assert_eq!(replica.view().machine.commands().len(), 100);
    replica.close().await;
}
