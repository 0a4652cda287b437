//! A bucket as the suite's medium. Each process is a runtime of its own, so that a crash ends its tasks wherever they
//! stand; a store of its own over the shared bucket, so that only the writer's PUTs are held.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use faults::FaultStore;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Runtime;
use wal::conformance::{Fault, Harness, InFlight, Subject};
use wal::object::{Config, ObjectMedium};
use wal::{AckRight, Error, Incarnation, Medium, Position, Recovery, Uri, Vacated, Wal};

use super::codec::PlainCodec;

pub fn config() -> Config {
    Config {
        record_bytes_max: 1 << 20,
        pending_bytes_max: 2 << 20,
        // As many PUTs as a test wants at once; the batcher's own tests are about the budget.
        puts_per_second_max: 1e6,
        puts_burst_max: 1e6,
        linger: Duration::ZERO,
        // Tests that hold PUTs count them.
        hedge_factor: 0.0,
        retry_pause: Duration::from_millis(1),
        retry_pause_max: Duration::from_millis(5),
        ..Config::default()
    }
}

pub struct Buckets;

#[async_trait]
impl Harness for Buckets {
    async fn fresh(&self) -> Arc<dyn Subject> {
        Arc::new(Bucket { bucket: Arc::new(InMemory::new()), writer: Arc::default() })
    }
}

struct Bucket {
    bucket: Arc<InMemory>,
    writer: Arc<Mutex<Option<Process>>>,
}

/// A process that dies when it is dropped.
struct Process {
    runtime: Option<Runtime>,
    store: FaultStore,
    wal: Arc<dyn Wal>,
    right: Arc<AckRight>,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Bucket {
    fn store(&self) -> FaultStore {
        self.writer.lock().unwrap().as_ref().expect("a writer is open").store.clone()
    }
}

#[async_trait]
impl Subject for Bucket {
    fn supports(&self, fault: Fault) -> bool {
        matches!(fault, Fault::Hold | Fault::Seals)
    }

    async fn medium(&self) -> Arc<dyn Medium> {
        let store = FaultStore::new(self.bucket.clone(), 0);
        let inner = ObjectMedium::new(Arc::new(store.clone()), Arc::new(PlainCodec), config());
        Arc::new(ProcessMedium { inner, store, writer: self.writer.clone() })
    }

    async fn crash(&self, in_flight: InFlight) {
        let Some(process) = self.writer.lock().unwrap().take() else { return };
        let mut coin = StdRng::seed_from_u64(if let InFlight::Some(seed) = in_flight { seed } else { 0 });
        for key in process.store.held_puts() {
            let kept = match in_flight {
                InFlight::Lost => false,
                InFlight::Kept => true,
                InFlight::Some(_) => coin.random(),
            };
            if kept {
                process.store.silence_put(0);
                while self.bucket.head(&key).await.is_err() {
                    tokio::task::yield_now().await;
                }
            } else {
                // Left to hang: its process dies before it hears anything.
                let rest = process.store.held_puts().iter().position(|held| *held == key).unwrap();
                assert_eq!(rest, 0, "the oldest is looked at first");
                process.store.forget_put(0);
            }
        }
        let (wal, right) = (process.wal.clone(), process.right.clone());
        drop(process);
        // What the dead process promised in memory is broken for whoever still holds a handle of it here.
        right.revoke("the process died");
        wal.close().await;
    }

    fn record_bytes_max(&self) -> usize {
        config().record_bytes_max
    }

    fn hold(&self) {
        self.store().hold_puts();
    }

    fn held(&self) -> usize {
        self.store().held_puts().len()
    }

    fn complete(&self, nth: usize) {
        self.store().complete_put(nth);
    }

    fn resume(&self) {
        self.store().resume_puts();
    }
}

#[derive(Debug)]
struct ProcessMedium {
    inner: ObjectMedium,
    store: FaultStore,
    writer: Arc<Mutex<Option<Process>>>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Process")
    }
}

#[async_trait]
impl Medium for ProcessMedium {
    fn uri(&self) -> &Uri {
        self.inner.uri()
    }

    async fn recover(&self, previous: Incarnation, from: Position) -> Result<Box<dyn Recovery>, Error> {
        self.inner.recover(previous, from).await
    }

    async fn open(
        &self,
        owner: Incarnation,
        vacated: Vacated,
        right: Arc<AckRight>,
    ) -> Result<Arc<dyn Wal>, Error> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let inner = self.inner.clone();
        let rights = right.clone();
        let opened = runtime.spawn(async move { inner.open(owner, vacated, rights).await }).await.unwrap();
        match opened {
            Ok(wal) => {
                let process =
                    Process { runtime: Some(runtime), store: self.store.clone(), wal: wal.clone(), right };
                *self.writer.lock().unwrap() = Some(process);
                Ok(wal)
            }
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }
}
