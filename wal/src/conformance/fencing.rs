//! W4, O4 and B1: one writer, and only while it may.

use std::sync::Arc;
use std::time::Duration;

use futures::poll;

use super::subject::*;
use crate::right::boottime;
use crate::{AckRight, Append, AppendError, Error, Position, Vacated};

pub(super) async fn run(harness: &dyn Harness) {
    a_lapsed_right_acknowledges_nothing(harness).await;
    a_revoked_right_fences(harness).await;
    a_zombie_acknowledges_only_what_is_recovered(harness).await;
    recovery_seals_by_itself(harness).await;
    an_older_life_opens_nothing(harness).await;
    somebody_elses_medium_is_refused(harness).await;
}

/// O4, B1: durable, but the right has lapsed: no acknowledgement before it is renewed.
pub async fn a_lapsed_right_acknowledges_nothing(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    let right = Arc::new(AckRight::leased());
    let wal = open_with(&*subject, 1, Vacated::new_medium(), right.clone()).await;
    let before = wal.status().durable;
    let mut append = wal.append(record(1, 100)).expect("room");
    until("the record is durable", || wal.status().durable > before).await;
    tokio::task::yield_now().await;
    assert!(poll!(&mut append).is_pending(), "acknowledged without the right");
    // A renewal that is over already grants nothing.
    right.renew(boottime().saturating_sub(Duration::from_secs(60)), Duration::from_secs(1));
    tokio::task::yield_now().await;
    assert!(poll!(&mut append).is_pending(), "acknowledged under a lease that is over");
    right.renew(boottime(), Duration::from_secs(3600));
    settled(append).await.expect("acknowledged");
    append_all(&*wal, &records(2, 5, 100)).await;
    wal.close().await;
}

/// A fence was seen: what is durable but not acknowledged stays so, and the log says why it stopped.
pub async fn a_revoked_right_fences(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    let right = Arc::new(AckRight::leased());
    let wal = open_with(&*subject, 1, Vacated::new_medium(), right.clone()).await;
    let waiting = wal.append(record(1, 100)).expect("room");
    right.revoke("life 2 took over");
    assert!(matches!(settled(waiting).await, Err(Error::Fenced(_))));
    assert!(
        matches!(within("failed", wal.failed()).await, Error::Fenced(reason) if reason == "life 2 took over")
    );
    assert!(matches!(wal.append(record(2, 1)), Err(AppendError::Wal(Error::Fenced(_)))));
    assert!(matches!(within("admit", wal.admit(1)).await, Err(Error::Fenced(_))));
    within("a fenced log closes", wal.close()).await;
}

/// W4: whatever a writer still acknowledges after its right was revoked and the recovery has begun, recovery yields.
pub async fn a_zombie_acknowledges_only_what_is_recovered(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    if !subject.supports(Fault::Hold) {
        return;
    }
    let right = Arc::new(AckRight::unlimited());
    let wal = open_with(&*subject, 1, Vacated::new_medium(), right.clone()).await;
    let appended = records(3, 24, 500);
    append_all(&*wal, &appended[..8]).await;
    subject.hold();
    let mut appends: Vec<Append> = Vec::new();
    appends.extend(appended[8..16].iter().map(|record| wal.append(record.clone()).expect("room")));
    until("a write is under way", || subject.held() > 0).await;
    right.revoke("life 2 took over");
    let (got, vacated) = recovered(&*subject, 1, Position::default()).await;
    assert_prefix(&got, &appended, 8);
    subject.resume();
    for record in &appended[16..] {
        appends.extend(wal.append(record.clone()).ok());
    }
    let mut acknowledged = 8;
    for append in appends {
        acknowledged += usize::from(settled(append).await.is_ok());
    }
    assert!(acknowledged <= got.len(), "{acknowledged} acknowledged, {} recovered", got.len());
    within("a fenced log closes", wal.close()).await;
    drop(wal);
    subject.crash(InFlight::Lost).await;
    let wal = open_with(&*subject, 2, vacated, Arc::new(AckRight::unlimited())).await;
    append_all(&*wal, &appended[..3]).await;
    subject.crash(InFlight::Lost).await;
    assert_records(&recovered(&*subject, 2, Position::default()).await.0, &appended[..3]);
}

/// W4, for media that seal: a writer that sleeps through its own recovery acknowledges nothing that was not recovered,
/// although its right still holds.
pub async fn recovery_seals_by_itself(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    if !subject.supports(Fault::Seals) {
        return;
    }
    let wal = open_new(&*subject, 1).await;
    let appended = records(4, 12, 500);
    append_all(&*wal, &appended[..6]).await;
    let (got, _) = recovered(&*subject, 1, Position::default()).await;
    assert_records(&got, &appended[..6]);
    let late: Vec<_> = appended[6..].iter().map(|record| wal.append(record.clone())).collect();
    for append in late.into_iter().flatten() {
        assert!(matches!(settled(append).await, Err(Error::Fenced(_))), "acknowledged after the seal");
    }
    assert!(matches!(within("failed", wal.failed()).await, Error::Fenced(_)));
    assert_records(&recovered(&*subject, 1, Position::default()).await.0, &appended[..6]);
    within("a fenced log closes", wal.close()).await;
}

/// Epochs grow: neither the same nor an older life gets a medium that a life already had.
pub async fn an_older_life_opens_nothing(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    let wal = open_new(&*subject, 5).await;
    let appended = records(5, 3, 100);
    append_all(&*wal, &appended).await;
    subject.crash(InFlight::Lost).await;
    for epoch in [4, 5] {
        let (got, vacated) = recovered(&*subject, 5, Position::default()).await;
        assert_records(&got, &appended);
        let opened = subject.medium().await.open(life(epoch), vacated, Arc::new(AckRight::unlimited())).await;
        assert!(matches!(opened, Err(Error::Fenced(_))), "life {epoch} opened life 5's medium: {opened:?}");
    }
    assert_records(&recovered(&*subject, 5, Position::default()).await.0, &appended);
}

/// A medium with an owner is not new, whatever the caller believes.
pub async fn somebody_elses_medium_is_refused(harness: &dyn Harness) {
    let subject = harness.fresh().await;
    let wal = open_new(&*subject, 1).await;
    let appended = records(6, 3, 100);
    append_all(&*wal, &appended).await;
    subject.crash(InFlight::Lost).await;
    if subject.supports(Fault::Full) {
        let medium = subject.medium().await;
        let opened = medium.open(life(2), Vacated::new_medium(), Arc::new(AckRight::unlimited())).await;
        assert!(matches!(opened, Err(Error::Refused(_))), "opened over another life's records: {opened:?}");
    }
    assert_records(&recovered(&*subject, 1, Position::default()).await.0, &appended);
}
