//! The memory WAL passes the suite.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wal::conformance::{Fault, Harness, InFlight, Subject};
use wal::memory::{MemoryMedium, Options};
use wal::{AckRight, Error, Incarnation, Medium, Meta, Position, Record, Vacated};

struct Memory {
    /// Recovery reads, as of a volume, and does not seal.
    only_reads: bool,
}

struct MemorySubject {
    medium: MemoryMedium,
    options: Options,
    only_reads: bool,
}

#[async_trait]
impl Harness for Memory {
    async fn fresh(&self) -> Arc<dyn Subject> {
        let options = Options { capacity_bytes: 1 << 20, record_bytes_max: 128 << 10 };
        let medium = MemoryMedium::new("test", options);
        if self.only_reads {
            medium.only_read();
        }
        Arc::new(MemorySubject { medium, options, only_reads: self.only_reads })
    }

    fn model_seeds(&self) -> u64 {
        200
    }
}

#[async_trait]
impl Subject for MemorySubject {
    fn supports(&self, fault: Fault) -> bool {
        match fault {
            Fault::FailFlush => false,
            Fault::Seals => !self.only_reads,
            _ => true,
        }
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
    wal::conformance::run(&Memory { only_reads: false }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_conformance_suite_as_a_volume() {
    wal::conformance::run(&Memory { only_reads: true }).await;
}

/// M3: a lying medium lost the middle of what was acknowledged, and what came later shows it.
#[tokio::test]
async fn what_was_provably_acknowledged_is_missed() {
    let medium = MemoryMedium::new("lying", Options::default());
    let life = Incarnation { broker: 1, epoch: 1 };
    let wal = medium.open(life, Vacated::new_medium(), Arc::new(AckRight::unlimited())).await.unwrap();
    medium.lie(true);
    let mut positions = Vec::new();
    for kind in 0..3 {
        let record = Record { kind, meta: Meta::new(&[]), body: Bytes::from_static(b"x") };
        positions.push(wal.append(record).unwrap().await.unwrap());
    }
    medium.crash(|position| position != positions[1]);
    let recovered = medium.recover(life, Position(0)).await.map(drop);
    assert!(matches!(recovered, Err(Error::Corrupt { .. })), "{recovered:?}");
}
