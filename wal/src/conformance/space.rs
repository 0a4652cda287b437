//! W1's back-pressure and W6: capacity, trim, laps.

use std::sync::Arc;

use futures::poll;

use super::subject::*;
use crate::{AckRight, AppendError, Position, Record, Wal};

pub(super) async fn run(harness: &dyn Harness) {
    a_full_medium_refuses_until_it_is_trimmed(harness).await;
    trim_is_idempotent_and_monotone(harness).await;
    recovery_starts_at_the_trim_point(harness).await;
    earlier_laps_are_not_data(harness).await;
}

/// Appends until the medium is full; the records that got in, with their positions.
async fn fill(wal: &dyn Wal, seed: u64, bytes: usize) -> Vec<(Record, Position)> {
    let mut taken = Vec::new();
    let capacity = wal.status().capacity_bytes;
    for index in 0.. {
        let record = record(seed + index, bytes);
        match wal.append(record.clone()) {
            Ok(append) => taken.push((record, settled(append).await.expect("acknowledged"))),
            Err(AppendError::OverCapacity { used_bytes, capacity_bytes }) => {
                assert!(used_bytes <= capacity_bytes && capacity_bytes == capacity);
                return taken;
            }
            Err(error) => panic!("a full log is over capacity, not: {error}"),
        }
    }
    unreachable!("the medium has no end")
}

/// W1, W6: full is an error at once and a wait in `admit`; trimming gives the space back; nothing is lost meanwhile.
pub async fn a_full_medium_refuses_until_it_is_trimmed(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    if !subject.supports(Fault::Full) {
        return;
    }
    let wal = open_new(&*subject, 1).await;
    let bytes = subject.record_bytes_max() / 2;
    let taken = fill(&*wal, 1, bytes).await;
    assert!(taken.len() >= 3, "the medium holds {} records", taken.len());
    let mut admission = std::pin::pin!(wal.admit(bytes));
    assert!(poll!(&mut admission).is_pending(), "admitted to a full log");
    assert!(wal.status().may_need_trim(bytes as u64), "only a trim gives room");
    let kept = taken.len() - 1;
    within("trim", wal.trim(taken[kept].1)).await.expect("trimmed");
    within("admission after a trim", admission).await.expect("healthy");
    let more = fill(&*wal, 1_000, bytes).await;
    assert!(!more.is_empty(), "trimming gave nothing back");
    subject.crash(InFlight::Lost).await;
    let expected: Vec<_> = taken[kept..].iter().chain(&more).map(|(record, _)| record.clone()).collect();
    assert_records(&recovered(&*subject, 1, taken[kept].1).await.0, &expected);
}

/// W6: again, lower, and to the end.
pub async fn trim_is_idempotent_and_monotone(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    let wal = open_new(&*subject, 1).await;
    let mut positions = Vec::new();
    for record in records(2, 12, 900) {
        positions.extend(append_all(&*wal, &[record]).await);
    }
    let used = wal.status().used_bytes;
    for (index, trimmed) in [(5, 5), (5, 5), (2, 5), (0, 5), (8, 8)] {
        within("trim", wal.trim(positions[index])).await.expect("trimmed");
        assert_eq!(wal.status().trimmed, positions[trimmed]);
    }
    assert!(wal.status().used_bytes < used);
    let both = tokio::join!(wal.trim(positions[9]), wal.trim(positions[10]));
    both.0.and(both.1).expect("trimmed");
    let status = wal.status();
    assert_eq!(status.trimmed, positions[10]);
    within("trim", wal.trim(status.durable)).await.expect("trimmed");
    assert_eq!(
        (wal.status().trimmed, wal.status().used_bytes),
        (status.durable, 0),
        "a quiet log can be emptied"
    );
    let appended = records(3, 3, 50);
    append_all(&*wal, &appended).await;
    subject.crash(InFlight::Lost).await;
    assert_records(&recovered(&*subject, 1, status.durable).await.0, &appended);
}

/// W5, W6: from the metadata log's trim point, whether or not the medium has heard of it.
pub async fn recovery_starts_at_the_trim_point(harness: &dyn Harness) {
    for told in [true, false] {
        let subject = harness.fresh().await;
        let wal = open_new(&*subject, 1).await;
        let appended = records(4, 20, 900);
        let mut positions = Vec::new();
        for record in &appended {
            positions.extend(append_all(&*wal, std::slice::from_ref(record)).await);
        }
        let end = wal.status().durable;
        if told {
            within("trim", wal.trim(positions[11])).await.expect("trimmed");
        }
        subject.crash(InFlight::Lost).await;
        assert_records(&recovered(&*subject, 1, positions[11]).await.0, &appended[11..]);
        assert_records(&recovered(&*subject, 1, positions[19]).await.0, &appended[19..]);
        assert!(recovered(&*subject, 1, end).await.0.is_empty(), "all was trimmed");
    }
}

/// W5: a ring that went round several times, under several lives, yields only what is of this lap and this life.
pub async fn earlier_laps_are_not_data(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    if !subject.supports(Fault::Full) {
        return;
    }
    let mut wal = open_new(&*subject, 1).await;
    for epoch in 1..=3u64 {
        let capacity = wal.status().capacity_bytes;
        let bytes = subject.record_bytes_max() / 3;
        let mut written = 0;
        let mut trimmed = Position::default();
        let mut tail: Vec<(Record, Position)> = Vec::new();
        // Odd sizes, so that frames of different laps never line up.
        let mut index = 0;
        while written < 3 * capacity + epoch * capacity / 5 {
            let record = record(epoch * 1_000 + index, bytes - (index as usize * 37) % (bytes / 2));
            written += record.size() as u64;
            index += 1;
            within("admit", wal.admit(record.size())).await.expect("healthy");
            let position = append_all(&*wal, std::slice::from_ref(&record)).await[0];
            tail.push((record, position));
            if tail.len() > 3 {
                tail.remove(0);
                trimmed = tail[0].1;
                within("trim", wal.trim(trimmed)).await.expect("trimmed");
            }
        }
        subject.crash(InFlight::Lost).await;
        let (got, vacated) = recovered(&*subject, epoch, trimmed).await;
        let expected: Vec<_> = tail.into_iter().map(|(record, _)| record).collect();
        assert_records(&got, &expected);
        wal = open_with(&*subject, epoch + 1, vacated, Arc::new(AckRight::unlimited())).await;
    }
}
