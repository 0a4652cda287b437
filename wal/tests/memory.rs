//! The memory WAL passes the suite.

use std::sync::Arc;

use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wal::Medium;
use wal::conformance::{Fault, Harness, InFlight, Subject};
use wal::memory::{MemoryMedium, Options};

struct Memory;

struct MemorySubject {
    medium: MemoryMedium,
    options: Options,
}

#[async_trait]
impl Harness for Memory {
    async fn fresh(&self) -> Arc<dyn Subject> {
        let options = Options { capacity_bytes: 1 << 20, record_bytes_max: 128 << 10 };
        Arc::new(MemorySubject { medium: MemoryMedium::new("test", options), options })
    }

    fn model_seeds(&self) -> u64 {
        200
    }
}

#[async_trait]
impl Subject for MemorySubject {
    fn supports(&self, fault: Fault) -> bool {
        !matches!(fault, Fault::FailFlush)
    }

    async fn medium(&self) -> Arc<dyn Medium> {
        Arc::new(self.medium.clone())
    }

    async fn crash(&self, in_flight: InFlight) {
        let mut coin = StdRng::seed_from_u64(if let InFlight::Some(seed) = in_flight { seed } else { 0 });
        self.medium.crash(|_| match in_flight {
            InFlight::Lost => false,
            InFlight::Kept => true,
            InFlight::Some(_) => coin.random(),
        });
        self.medium.lie(false);
    }

    fn record_bytes_max(&self) -> usize {
        self.options.record_bytes_max
    }

    fn hold(&self) {
        self.medium.hold();
    }

    fn held(&self) -> usize {
        self.medium.held().len()
    }

    fn complete(&self, nth: usize) {
        assert!(self.medium.complete(self.medium.held()[nth]));
    }

    fn resume(&self) {
        self.medium.resume();
    }

    fn fail_next_write(&self) {
        self.medium.fail_next_write();
    }

    fn lie(&self, lying: bool) {
        self.medium.lie(lying);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_conformance_suite() {
    wal::conformance::run(&Memory).await;
}
