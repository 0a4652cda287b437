//! Random histories against a list.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::subject::*;
use crate::{AckRight, Append, AppendError, Position, Record, Vacated, Wal};

/// What the log must hold: everything appended in this life, how much of it is known to be acknowledged, and where.
#[derive(Default)]
struct Model {
    appended: Vec<Record>,
    /// One for each record that is acknowledged, in order.
    positions: Vec<Position>,
    trim: Position,
}

impl Model {
    /// Index of the first record that a trim to `trim` keeps.
    fn first_kept(&self) -> usize {
        self.positions.partition_point(|position| *position < self.trim)
    }

    fn check(&self, got: &[Record]) {
        let first = self.first_kept();
        assert_prefix(got, &self.appended[first..], self.positions.len() - first);
    }
}

/// Lives of appends, trims, faults and crashes, drawn from `seed`; after each crash recovery must agree with the model.
pub async fn random_histories_agree_with_the_model(harness: &dyn Harness, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let subject = harness.fresh().await;
    let mut vacated = Vacated::new_medium();
    for epoch in 1..=random.random_range(2..=4) {
        let wal = open_with(&*subject, epoch, vacated, Arc::new(AckRight::unlimited())).await;
        let mut model = Model::default();
        let mut pending: Vec<Append> = Vec::new();
        for step in 0..random.random_range(1..40u64) {
            act(&mut random, &*subject, &*wal, &mut model, &mut pending, seed * 10_000 + epoch * 100 + step)
                .await;
        }
        let in_flight = match random.random_range(0..3) {
            0 => InFlight::Lost,
            1 => InFlight::Kept,
            _ => InFlight::Some(random.random()),
        };
        subject.crash(in_flight).await;
        for append in pending {
            if let Ok(position) = settled(append).await {
                model.positions.push(position);
            }
        }
        let (got, _) = recovered(&*subject, epoch, model.trim).await;
        model.check(&got);
        let (again, proof) = recovered(&*subject, epoch, model.trim).await;
        assert_records(&again, &got);
        vacated = proof;
    }
}

async fn act(
    random: &mut StdRng,
    subject: &dyn Subject,
    wal: &dyn Wal,
    model: &mut Model,
    pending: &mut Vec<Append>,
    seed: u64,
) {
    match random.random_range(0..10) {
        0..=4 => {
            let bytes_max = if random.random_bool(0.1) { subject.record_bytes_max() } else { 2_000 };
            for record in records(seed, random.random_range(1..8), bytes_max) {
                match wal.append(record.clone()) {
                    Ok(append) => {
                        model.appended.push(record);
                        pending.push(append);
                    }
                    Err(AppendError::OverCapacity { .. }) => break,
                    Err(error) => panic!("append: {error}"),
                }
            }
        }
        5 if subject.supports(Fault::Hold) => subject.hold(),
        6 if subject.held() > 0 => subject.complete(random.random_range(0..subject.held())),
        7 | 8 => {
            subject.resume();
            for append in pending.drain(..) {
                model.positions.push(settled(append).await.expect("acknowledged"));
            }
        }
        _ if !model.positions.is_empty() => {
            let upto = if random.random_bool(0.2) && pending.is_empty() {
                wal.status().durable
            } else {
                model.positions[random.random_range(0..model.positions.len())]
            };
            // A trim writes; a medium that holds writes back would never finish it.
            subject.resume();
            within("trim", wal.trim(upto)).await.expect("trimmed");
            model.trim = model.trim.max(upto);
        }
        _ => {}
    }
}
