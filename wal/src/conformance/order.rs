//! W1 and W2: order, completion, close.

use std::sync::Arc;

use futures::{FutureExt, poll};

use super::subject::*;
use crate::{AckRight, Append, AppendError, Error, Position, Vacated};

pub(super) async fn run(harness: &dyn Harness) {
    appends_complete_in_append_order(harness).await;
    a_medium_out_of_order_does_not_show(harness).await;
    a_dropped_future_takes_nothing_back(harness).await;
    records_over_the_limit_are_refused(harness).await;
    close_waits_and_then_refuses(harness).await;
}

/// W2: many appends, completions in append order, positions that never go back.
pub async fn appends_complete_in_append_order(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    let wal = open_new(&*subject, 1).await;
    let records = records(1, 200, 300);
    let mut appends: Vec<_> =
        records.iter().map(|record| wal.append(record.clone()).expect("room").fuse()).collect();
    let mut positions = vec![None; appends.len()];
    // Whenever one is seen to be done, all before it must be.
    for watched in [150, 3, 170, 199] {
        if positions[watched].is_none() {
            positions[watched] =
                Some(within("an append", &mut appends[watched]).await.expect("acknowledged"));
        }
        for (earlier, append) in appends[..watched].iter_mut().enumerate() {
            if positions[earlier].is_none() {
                // Unconstrained: a task that used up its budget sees every channel as empty.
                let done = tokio::task::unconstrained(append).now_or_never();
                let done = done.expect("acknowledged before an earlier append");
                positions[earlier] = Some(done.expect("acknowledged"));
            }
        }
    }
    assert!(positions.is_sorted(), "positions never go back");
    let last = positions.into_iter().flatten().next_back().expect("positions");
    let status = wal.status();
    assert!(status.durable > last && status.trimmed <= Position::default());
    assert!(status.used_bytes > 0 && status.used_bytes <= status.capacity_bytes);
    wal.close().await;
}

/// W2: later writes complete first; nobody hears of it before the first one is there.
pub async fn a_medium_out_of_order_does_not_show(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    if !subject.supports(Fault::Hold) {
        return;
    }
    let wal = open_new(&*subject, 1).await;
    subject.hold();
    let mut appends: Vec<Append> = Vec::new();
    // One write each, so that there is something to reorder; a medium that gathers may put two into one.
    for index in 0..3 {
        let before = subject.held();
        appends.push(wal.append(record(index, 100)).expect("room"));
        until("the write reaches the medium", || subject.held() > before).await;
    }
    subject.complete(2);
    subject.complete(1);
    tokio::task::yield_now().await;
    for append in &mut appends {
        assert!(poll!(append).is_pending(), "acknowledged before an earlier append");
    }
    subject.complete(0);
    let mut last = None;
    for append in appends {
        let position = settled(append).await.expect("acknowledged");
        assert!(last < Some(position));
        last = Some(position);
    }
    subject.resume();
    wal.close().await;
}

/// W1: the order, and the record, are fixed at the call.
pub async fn a_dropped_future_takes_nothing_back(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    let wal = open_new(&*subject, 1).await;
    let records = records(2, 20, 500);
    for record in &records[..19] {
        drop(wal.append(record.clone()).expect("room"));
    }
    settled(wal.append(records[19].clone()).expect("room")).await.expect("acknowledged");
    subject.crash(InFlight::Lost).await;
    assert_records(&recovered(&*subject, 1, Position::default()).await.0, &records);
}

/// W1: a record over the limit never gets in, the largest one does, and so does an empty one.
pub async fn records_over_the_limit_are_refused(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    let wal = open_new(&*subject, 1).await;
    let limit = subject.record_bytes_max();
    assert_eq!(wal.record_bytes_max(), limit);
    let oversized = wal.append(record(1, limit + 1)).expect_err("over the limit");
    assert!(
        matches!(oversized, AppendError::TooLarge { bytes, limit_bytes } if bytes == limit + 1 && limit_bytes == limit),
        "{oversized}"
    );
    within("admit of what can never fit returns", wal.admit(limit + 1)).await.expect("left to append");
    let records = [record(2, limit), record(3, 0), record(4, limit - 1), record(5, 1)];
    for record in &records {
        within("admit", wal.admit(record.size())).await.expect("healthy");
        append_all(&*wal, std::slice::from_ref(record)).await;
    }
    subject.crash(InFlight::Lost).await;
    assert_records(&recovered(&*subject, 1, Position::default()).await.0, &records);
}

/// Close waits for what is under way, refuses what comes later, may be called twice, and loses nothing.
pub async fn close_waits_and_then_refuses(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    let wal = open_new(&*subject, 1).await;
    let records = records(3, 50, 2_000);
    let appends: Vec<Append> =
        records.iter().map(|record| wal.append(record.clone()).expect("room")).collect();
    within("close", wal.close()).await;
    within("close again", wal.close()).await;
    for append in appends {
        let done = tokio::task::unconstrained(append).now_or_never().expect("close waited for the appends");
        done.expect("acknowledged");
    }
    assert!(matches!(wal.append(record(1, 1)), Err(AppendError::Wal(Error::Closed))), "append after close");
    assert!(matches!(within("admit", wal.admit(1)).await, Err(Error::Closed)), "admit after close");
    assert!(matches!(within("trim", wal.trim(Position(1))).await, Err(Error::Closed)), "trim after close");
    drop(wal);
    let (got, vacated) = recovered(&*subject, 1, Position::default()).await;
    assert_records(&got, &records);
    closing_without_the_right_settles(&*subject, vacated).await;
}

/// A log that may not acknowledge still closes; its appends end in an error, and their outcome is open.
async fn closing_without_the_right_settles(subject: &dyn Subject, vacated: Vacated) {
    let wal = open_with(subject, 2, vacated, Arc::new(AckRight::leased())).await;
    let append = wal.append(record(9, 10)).expect("room");
    within("close", wal.close()).await;
    assert!(append.now_or_never().expect("close settles every append").is_err());
    drop(wal);
    let (got, _) = recovered(subject, 2, Position::default()).await;
    assert_prefix(&got, &[record(9, 10)], 0);
}
