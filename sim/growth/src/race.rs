//! How many commits one log takes from many replicas, on a store whose PUTs and GETs take their time.
//!
//! Real replicas on one store in memory and a paused clock: seconds of the log cost as much processor time as their
//! requests do. Whoever has committed tells all others, as brokers do; who does not hear of it polls.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use faults::{Fault, FaultStore, Operation, Rule};
use metalog::{Applying, Clock, Config, Error, Machine, Replica};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;

#[derive(Clone, Debug)]
pub struct Race {
    pub replicas: usize,
    /// Commands of all of them together, per second.
    pub commands_per_second: f64,
    /// Of a request, both evenly spread in five steps.
    pub put_ms: (u64, u64),
    pub get_ms: (u64, u64),
    pub seconds: u64,
    pub seed: u64,
}

#[derive(Clone, Debug)]
pub struct Outcome {
    pub proposed: u64,
    pub committed: u64,
    /// Neither committed nor known not to be.
    pub unknown: u64,
    pub entries: u64,
    pub puts: u64,
    pub gets: u64,
    /// From the proposal to the answer.
    pub p50: Duration,
    pub p99: Duration,
    /// Until the last answer.
    pub took: Duration,
}

/// Counts commands.
#[derive(Clone, Default)]
struct Counter(u64);

impl Machine for Counter {
    type Outcome = ();

    fn apply(&mut self, _: &Applying, _: &[u8]) {
        self.0 += 1;
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }

    fn restore(bytes: &[u8]) -> Result<Counter, Error> {
        let bytes = bytes
            .try_into()
            .map_err(|_| Error::Corrupt { object: "a count".into(), detail: "length".into() })?;
        Ok(Counter(u64::from_le_bytes(bytes)))
    }
}

/// Goes with tokio's clock.
#[derive(Debug)]
struct Paused(Instant);

impl Clock for Paused {
    fn boottime(&self) -> Duration {
        self.0.elapsed() + Duration::from_secs(1)
    }

    fn wall_ms(&self) -> i64 {
        self.0.elapsed().as_millis() as i64
    }
}

/// How long a broker's word to another one takes.
const HINT: Duration = Duration::from_millis(1);

/// Runs on a runtime of its own.
pub fn run(race: &Race) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(go(race))
}

async fn go(race: &Race) -> Outcome {
    let store = FaultStore::in_memory(race.seed);
    for (operation, (from, to)) in [(Operation::Put, race.put_ms), (Operation::Get, race.get_ms)] {
        for step in 0..5 {
            let time = Duration::from_millis(from + (to - from) * step / 4);
            let rule = Rule::new(operation, Fault::Delay(time)).under("meta/log");
            store.add(rule.with_probability(1.0 / (5 - step) as f64));
        }
    }
    let clock = Arc::new(Paused(Instant::now()));
    let mut replicas = Vec::new();
    for _ in 0..race.replicas {
        // Snapshots are another matter.
        let config = Config { snapshot_entries: u64::MAX, ..Config::default() };
        let handle: Arc<dyn object_store::ObjectStore> = Arc::new(store.clone());
        let opened = Replica::open_with_clock(handle, config, clock.clone(), Counter::default()).await;
        replicas.push(opened.expect("an empty log opens"));
    }
    let everybody = Arc::new(replicas.clone());
    let began = Instant::now();
    let mut calls: JoinSet<(Result<u64, Error>, Duration)> = JoinSet::new();
    let mut random = StdRng::seed_from_u64(race.seed);
    let mut at = Duration::ZERO;
    let mut proposed = 0;
    loop {
        // As often as chance has it (a Poisson process), on any replica.
        at += Duration::from_secs_f64(-(1.0 - random.random::<f64>()).ln() / race.commands_per_second);
        if at > Duration::from_secs(race.seconds) {
            break;
        }
        proposed += 1;
        let replica = replicas[random.random_range(0..replicas.len())].clone();
        let everybody = everybody.clone();
        calls.spawn(async move {
            tokio::time::sleep_until(began + at).await;
            let asked = Instant::now();
            let answer = replica.propose(Bytes::from_static(b"command")).await;
            let took = asked.elapsed();
            if let Ok(applied) = &answer {
                tokio::time::sleep(HINT).await;
                everybody.iter().for_each(|replica| replica.hint(applied.number));
            }
            (answer.map(|applied| applied.number), took)
        });
    }
    let mut times = Vec::new();
    let (mut unknown, mut last) = (0, 0);
    while let Some(done) = calls.join_next().await {
        match done.expect("no call panics") {
            (Ok(number), took) => {
                times.push(took);
                last = last.max(number);
            }
            (Err(Error::Unknown(_)), _) => unknown += 1,
            (Err(Error::Unavailable(_)), _) => {}
            (Err(error), _) => panic!("{error}"),
        }
    }
    let took = began.elapsed();
    let counts = store.counts();
    for replica in replicas {
        replica.close().await;
    }
    times.sort_unstable();
    let quantile = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    Outcome {
        proposed,
        committed: times.len() as u64,
        unknown,
        entries: last,
        puts: counts.puts,
        gets: counts.gets,
        p50: quantile(0.5),
        p99: quantile(0.99),
        took,
    }
}
