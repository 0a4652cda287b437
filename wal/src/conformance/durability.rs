//! W3 and W5: what a crash leaves, and what recovery makes of it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;

use super::subject::*;
use crate::{AckRight, AppendError, Error, Position};

pub(super) async fn run(harness: &dyn Harness) {
    an_empty_log_recovers_empty(harness).await;
    acknowledged_records_survive(harness).await;
    what_was_under_way_may_or_may_not_survive(harness).await;
    nothing_behind_a_hole_is_recovered(harness).await;
    recovery_may_be_repeated(harness).await;
    a_log_may_be_read_while_it_is_written(harness).await;
    an_unread_recovery_cannot_be_finished(harness).await;
    a_failed_write_fails_the_log(harness).await;
    a_failed_flush_fails_the_log(harness).await;
    a_lying_medium_yields_no_garbage(harness).await;
}

/// W5: nothing appended, nothing recovered.
pub async fn an_empty_log_recovers_empty(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    drop(open_new(&*subject, 1).await);
    subject.crash(InFlight::Lost).await;
    let (got, vacated) = recovered(&*subject, 1, Position::default()).await;
    assert!(got.is_empty());
    let wal = open_with(&*subject, 2, vacated, Arc::new(AckRight::unlimited())).await;
    assert_eq!(wal.status().used_bytes, 0);
    subject.crash(InFlight::Lost).await;
    let (got, _) = recovered(&*subject, 2, Position::default()).await;
    assert!(got.is_empty());
}

/// W3: every size, over several lives.
pub async fn acknowledged_records_survive(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    let mut wal = open_new(&*subject, 1).await;
    for epoch in 1..=3 {
        let mut appended = records(epoch, 40, 1_000);
        appended.extend((0..20).map(|power| record(epoch + 100 * power, 1 << power.min(14))));
        appended.push(record(epoch, 0));
        append_all(&*wal, &appended).await;
        subject.crash(InFlight::Lost).await;
        let (got, vacated) = recovered(&*subject, epoch, Position::default()).await;
        assert_records(&got, &appended);
        wal = open_with(&*subject, epoch + 1, vacated, Arc::new(AckRight::unlimited())).await;
    }
    subject.crash(InFlight::Lost).await;
    assert!(recovered(&*subject, 4, Position::default()).await.0.is_empty(), "the new life's log is empty");
}

/// W5: the run is contiguous whether the writes under way arrived or not; nothing of them was acknowledged.
pub async fn what_was_under_way_may_or_may_not_survive(harness: &dyn Harness) {
    for in_flight in [InFlight::Lost, InFlight::Kept] {
        let subject = harness.fresh().await;
        if !subject.supports(Fault::Hold) {
            return;
        }
        let wal = open_new(&*subject, 1).await;
        let appended = records(4, 30, 700);
        append_all(&*wal, &appended[..10]).await;
        subject.hold();
        // The first write is there before others are made: several reach the medium in any order.
        let mut appends = vec![wal.append(appended[10].clone()).expect("room")];
        until("a write is under way", || subject.held() > 0).await;
        appends.extend(appended[11..].iter().map(|record| wal.append(record.clone()).expect("room")));
        subject.crash(in_flight).await;
        for append in appends {
            assert!(settled(append).await.is_err(), "acknowledged by a dead process");
        }
        let (got, _) = recovered(&*subject, 1, Position::default()).await;
        assert_prefix(&got, &appended, 10);
        match in_flight {
            InFlight::Lost => assert_eq!(got.len(), 10, "lost writes came back"),
            _ => assert!(got.len() > 10, "writes that arrived are part of the run"),
        }
    }
}

/// W5: a write is missing, later ones arrived: the run ends at the hole, and the next life's log never revives what
/// lay behind it.
pub async fn nothing_behind_a_hole_is_recovered(harness: &dyn Harness) {
    for seed in 0..8 {
        let subject = harness.fresh().await;
        if !subject.supports(Fault::Hold) {
            return;
        }
        let wal = open_new(&*subject, 1).await;
        let appended = records(5 + seed, 14, 400);
        append_all(&*wal, &appended[..4]).await;
        subject.hold();
        let mut appends = Vec::new();
        for record in &appended[4..7] {
            let before = subject.held();
            appends.push(wal.append(record.clone()).expect("room"));
            until("the write reaches the medium", || subject.held() > before).await;
        }
        appends.extend(appended[7..].iter().map(|record| wal.append(record.clone()).expect("room")));
        subject.complete(2);
        subject.crash(InFlight::Some(seed)).await;
        for append in appends {
            assert!(settled(append).await.is_err(), "acknowledged beyond a hole");
        }
        let (first, _) = recovered(&*subject, 1, Position::default()).await;
        let (again, vacated) = recovered(&*subject, 1, Position::default()).await;
        assert_prefix(&first, &appended, 4);
        assert_records(&again, &first);
        // The next life fills the hole with as much as lay there, so that what follows would fit.
        let wal = open_with(&*subject, 2, vacated, Arc::new(AckRight::unlimited())).await;
        let fresh: Vec<_> =
            appended.iter().take(first.len() + 1).map(|old| record(seed, old.size())).collect();
        for record in &fresh {
            append_all(&*wal, std::slice::from_ref(record)).await;
        }
        subject.crash(InFlight::Lost).await;
        assert_records(&recovered(&*subject, 2, Position::default()).await.0, &fresh);
    }
}

/// W5: recovery twice, in part, and by two at once, all see the same.
pub async fn recovery_may_be_repeated(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    let wal = open_new(&*subject, 1).await;
    let appended = records(6, 60, 3_000);
    for chunk in appended.chunks(7) {
        append_all(&*wal, chunk).await;
    }
    subject.crash(InFlight::Lost).await;
    let medium = subject.medium().await;
    // Dies in the middle.
    let mut partial = medium.recover(life(1), Position::default()).await.expect("recovery");
    partial.next().await.expect("a batch").expect("a batch");
    drop(partial);
    // Two at once.
    let mut one = medium.recover(life(1), Position::default()).await.expect("recovery");
    let mut other = subject.medium().await.recover(life(1), Position::default()).await.expect("recovery");
    let mut seen = (Vec::new(), Vec::new());
    loop {
        let batches = (one.next().await.expect("recovery"), other.next().await.expect("recovery"));
        match batches {
            (Some(a), Some(b)) => {
                assert_eq!(a.position, b.position);
                seen.0.extend(a.records);
                seen.1.extend(b.records);
            }
            (None, None) => break,
            _ => panic!("two recoverers disagree about the end"),
        }
    }
    assert_records(&seen.0, &appended);
    assert_records(&seen.1, &appended);
    assert_records(&recovered(&*subject, 1, Position::default()).await.0, &appended);
}

/// Where a recovery may come early ([`Medium::recovers_early`](crate::Medium::recovers_early)) it yields a beginning of the log whatever
/// is under way, the writer notices nothing, and a later one goes on without a gap from what it yielded last.
pub async fn a_log_may_be_read_while_it_is_written(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    let wal = open_new(&*subject, 1).await;
    if !subject.medium().await.recovers_early() {
        return;
    }
    let appended = records(11, 90, 3_000);
    append_all(&*wal, &appended[..20]).await;
    let (batches, _) = recover(&*subject, 1, Position::default()).await.expect("nothing is under way");
    let reached = batches.last().expect("a batch").position;
    let before: usize = batches[..batches.len() - 1].iter().map(|batch| batch.records.len()).sum();
    let got: Vec<_> = batches.into_iter().flat_map(|batch| batch.records).collect();
    assert_records(&got, &appended[..20]);
    if subject.supports(Fault::Hold) {
        subject.hold();
        let held: Vec<_> =
            appended[20..30].iter().map(|record| wal.append(record.clone()).expect("room")).collect();
        until("a write reaches the medium", || subject.held() > 0).await;
        let (got, _) = recovered(&*subject, 1, Position::default()).await;
        assert_prefix(&got, &appended[..30], 20);
        subject.resume();
        for append in held {
            settled(append).await.expect("acknowledged");
        }
    } else {
        append_all(&*wal, &appended[20..30]).await;
    }
    // As it comes: a walk that meets a write under way may even take it for damage at its end.
    for chunk in 30..80 {
        let append = wal.append(appended[chunk].clone()).expect("room");
        let mut early = subject.medium().await.recover(life(1), reached).await.expect("recovery");
        let mut got = Vec::new();
        while let Ok(Some(batch)) = early.next().await {
            got.extend(batch.records);
        }
        assert_prefix(&got, &appended[before..=chunk], chunk - before);
        settled(append).await.expect("acknowledged");
    }
    append_all(&*wal, &appended[80..]).await;
    assert!(wal.failed().now_or_never().is_none(), "the writer noticed");
    subject.crash(InFlight::Lost).await;
    assert_records(&recovered(&*subject, 1, reached).await.0, &appended[before..]);
    assert_records(&recovered(&*subject, 1, Position::default()).await.0, &appended);
}

/// W4: a recovery that was not read to its end proves nothing.
pub async fn an_unread_recovery_cannot_be_finished(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    let wal = open_new(&*subject, 1).await;
    append_all(&*wal, &records(7, 3, 10)).await;
    subject.crash(InFlight::Lost).await;
    let mut recovery = subject.medium().await.recover(life(1), Position::default()).await.expect("recovery");
    recovery.next().await.expect("a batch");
    let finished = std::panic::catch_unwind(AssertUnwindSafe(|| recovery.finish()));
    assert!(finished.is_err(), "finish went through with records unread");
}

/// A write that failed fails the log for good, with everything behind it.
pub async fn a_failed_write_fails_the_log(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    if subject.supports(Fault::FailWrite) {
        subject_that_fails(&*subject, || subject.fail_next_write()).await;
    }
}

/// A flush that failed is never tried again (fsyncgate): the log has failed.
pub async fn a_failed_flush_fails_the_log(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    if subject.supports(Fault::FailFlush) {
        subject_that_fails(&*subject, || subject.fail_next_flush()).await;
    }
}

async fn subject_that_fails(subject: &dyn Subject, inject: impl FnOnce()) {
    let wal = open_new(subject, 1).await;
    let appended = records(8, 8, 600);
    append_all(&*wal, &appended[..5]).await;
    assert!(wal.failed().now_or_never().is_none(), "a healthy log has not failed");
    inject();
    let append = wal.append(appended[5].clone()).expect("room");
    assert!(matches!(settled(append).await, Err(Error::Failed(_))), "the failed append");
    assert!(matches!(within("failed", wal.failed()).await, Error::Failed(_)));
    assert!(
        matches!(wal.append(appended[6].clone()), Err(AppendError::Wal(Error::Failed(_)))),
        "a failed log takes no appends"
    );
    assert!(matches!(within("admit", wal.admit(1)).await, Err(Error::Failed(_))));
    within("a failed log closes", wal.close()).await;
    drop(wal);
    subject.crash(InFlight::Lost).await;
    let (got, vacated) = recovered(subject, 1, Position::default()).await;
    assert_prefix(&got, &appended[..6], 5);
    let wal = open_with(subject, 2, vacated, Arc::new(AckRight::unlimited())).await;
    append_all(&*wal, &appended[7..]).await;
}

/// A medium that reported writes durable and lost some: recovery yields a true prefix or says that the log is corrupt.
/// It never yields a wrong record, and never skips one.
pub async fn a_lying_medium_yields_no_garbage(harness: &dyn Harness) {
    for seed in 0..12 {
        let subject = harness.fresh().await;
        if !subject.supports(Fault::Lie) {
            return;
        }
        let wal = open_new(&*subject, 1).await;
        let appended = records(9 + seed, 30, 900);
        append_all(&*wal, &appended[..6]).await;
        subject.lie(true);
        for record in &appended[6..] {
            append_all(&*wal, std::slice::from_ref(record)).await;
        }
        subject.crash(InFlight::Some(seed)).await;
        match recover(&*subject, 1, Position::default()).await {
            Ok((batches, _)) => {
                let got: Vec<_> = batches.into_iter().flat_map(|batch| batch.records).collect();
                assert_prefix(&got, &appended, 6);
            }
            Err(Error::Corrupt { .. }) => {}
            Err(error) => panic!("a lying medium is corrupt, not: {error}"),
        }
    }
}
