//! Real replicas of one log on a store in memory whose PUTs and GETs take their time, on a paused clock: seconds of the log cost
//! as much processor time as their requests do. Whoever has committed tells all others, as brokers do; who does not hear of it
//! polls.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use faults::{Fault, FaultStore, Operation, Rule};
use metalog::{Applying, Clock, Config, Error, Machine, Replica};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long a broker's word to another one takes.
const HINT: Duration = Duration::from_millis(1);

/// Where write-ahead logs lie.
const SLOTS: &str = "wal";

/// Who writes to the log, and to what store.
#[derive(Clone, Debug)]
pub struct Conditions {
    pub replicas: usize,
    /// Commands of all of them together, per second.
    pub commands_per_second: f64,
    /// Of a request, both evenly spread in five steps.
    pub put_ms: (u64, u64),
    pub get_ms: (u64, u64),
    pub seed: u64,
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

/// Runs on a runtime of its own, with a clock that goes on when nothing else does.
pub fn paused<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(work)
}

#[derive(Clone)]
pub struct Arena {
    pub store: FaultStore,
    replicas: Arc<Vec<Replica<Counter>>>,
}

impl Arena {
    pub async fn open(conditions: &Conditions) -> Arena {
        let store = FaultStore::in_memory(conditions.seed);
        for (operation, (from, to)) in
            [(Operation::Put, conditions.put_ms), (Operation::Get, conditions.get_ms)]
        {
            for step in 0..5 {
                let time = Duration::from_millis(from + (to - from) * step / 4);
                for prefix in ["meta/log", SLOTS] {
                    let rule = Rule::new(operation, Fault::Delay(time)).under(prefix);
                    store.add(rule.with_probability(1.0 / (5 - step) as f64));
                }
            }
        }
        let clock = Arc::new(Paused(Instant::now()));
        let mut replicas = Vec::new();
        for _ in 0..conditions.replicas {
            // Snapshots are another matter.
            let config = Config { snapshot_entries: u64::MAX, ..Config::default() };
            let handle: Arc<dyn ObjectStore> = Arc::new(store.clone());
            let opened = Replica::open_with_clock(handle, config, clock.clone(), Counter::default()).await;
            replicas.push(opened.expect("an empty log opens"));
        }
        Arena { store, replicas: Arc::new(replicas) }
    }

    /// A command of one replica, and its number; behind it all others are told.
    pub async fn commit(&self, by: usize) -> Result<u64, Error> {
        let applied = self.replicas[by].propose(Bytes::from_static(b"command")).await?;
        self.tell(applied.number);
        Ok(applied.number)
    }

    fn tell(&self, number: u64) {
        let everybody = self.replicas.clone();
        drop(tokio::spawn(async move {
            tokio::time::sleep(HINT).await;
            everybody.iter().for_each(|replica| replica.hint(number));
        }));
    }

    /// Commands as often as chance has it (a Poisson process), on any replica: what came of each, and how long it took.
    pub fn traffic(
        &self,
        conditions: &Conditions,
        time: Duration,
    ) -> JoinSet<(Result<u64, Error>, Duration)> {
        let began = Instant::now();
        let mut calls = JoinSet::new();
        let mut random = StdRng::seed_from_u64(conditions.seed);
        let mut at = Duration::ZERO;
        loop {
            at += Duration::from_secs_f64(
                -(1.0 - random.random::<f64>()).ln() / conditions.commands_per_second,
            );
            if at > time {
                return calls;
            }
            let by = random.random_range(0..self.replicas.len());
            let arena = self.clone();
            calls.spawn(async move {
                tokio::time::sleep_until(began + at).await;
                let asked = Instant::now();
                (arena.commit(by).await, asked.elapsed())
            });
        }
    }

    /// A GET of a slot. Whether there is one does not matter: it takes as long.
    pub async fn read_slot(&self, slot: usize) {
        let _ = self.store.get(&Path::from(format!("{SLOTS}/{slot}"))).await;
    }

    pub async fn write_slot(&self, slot: usize) {
        let path = Path::from(format!("{SLOTS}/{slot}"));
        self.store.put(&path, PutPayload::from_static(b"seal")).await.expect("a store without faults");
    }

    /// Returns once every replica has the entry.
    pub async fn known(&self, number: u64) {
        for replica in self.replicas.iter() {
            // It ends with the replica, which is held here.
            let _ = replica.applied().wait_for(|applied| *applied >= number).await;
        }
    }

    pub async fn close(&self) {
        for replica in self.replicas.iter() {
            replica.close().await;
        }
    }
}
