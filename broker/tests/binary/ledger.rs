//! A producer that keeps a ledger: what was acknowledged, and where.

use std::time::{Duration, Instant};

use crate::process::{DEADLINE, Ottla, run, wait_for, wait_until};
use crate::testing;
use crate::wire::Wire;

/// Produces, and remembers what was acknowledged where.
pub struct Ledger {
    topic: &'static str,
    wire: Wire,
    /// Base offset and base timestamp, which tells the batches apart.
    pub acknowledged: Vec<(i64, i64)>,
    next: i64,
}

/// How long the broker may wait for its disk or its store before it answers.
const PATIENCE: Duration = Duration::from_secs(2);

const VALUE_BYTES: usize = 100_000;

impl Ledger {
    pub fn open(broker: &Ottla, topic: &'static str) -> Ledger {
        run(&mut broker.cli(&["topic", "create", topic]));
        Ledger { topic, wire: Wire::connect(broker), acknowledged: Vec::new(), next: 1_000_000 }
    }

    /// One batch. An error must be one after which a client tries again.
    pub fn produce(&mut self) -> bool {
        let timestamp = self.next;
        self.next += 1;
        let batch = testing::batch(1, |spec| {
            spec.base_timestamp = timestamp;
            spec.value_bytes = VALUE_BYTES;
        });
        let answer = self.wire.produce_within(PATIENCE, self.topic, &batch).expect("an answer");
        if answer.error_code == 0 {
            self.acknowledged.push((answer.base_offset, timestamp));
            return true;
        }
        assert_eq!(answer.base_offset, -1, "an error with an offset that could be believed");
        let error = kafka_protocol::ResponseError::try_from_code(answer.error_code).unwrap();
        assert!(error.is_retriable(), "{error} is final");
        false
    }

    pub fn produce_until_acknowledged(&mut self) {
        wait_until("it does not recover", || self.produce());
    }

    /// As long as the WAL or its right lasts.
    pub fn produce_until_refused(&mut self) {
        let began = Instant::now();
        while self.produce() {
            assert!(began.elapsed() < DEADLINE, "it acknowledges for ever");
        }
    }

    /// Everything that was acknowledged is there, where it was acknowledged.
    pub fn verify(&self, broker: &Ottla) {
        let mut wire = Wire::connect(broker);
        for (offset, timestamp) in &self.acknowledged {
            let records = wait_for(|| {
                let fetched = wire.fetch(self.topic, *offset).expect("an answer");
                match fetched.records.filter(|records| !records.is_empty()) {
                    Some(records) if fetched.error_code == 0 => Ok(records),
                    _ => Err(format!("offset {offset}: {}", fetched.error_code)),
                }
            });
            assert_eq!(records[..8], offset.to_be_bytes(), "the batch at {offset}");
            assert_eq!(records[27..35], timestamp.to_be_bytes(), "the batch at {offset} is another");
        }
    }
}
