//! The right to acknowledge (O4, B1): a lease that costs nothing.
//!
//! A broker polls the metadata log anyway. Each poll that found the tail and showed no fence renews the right for a
//! fixed time *from the moment that poll began*. A WAL acknowledges an append only if, after it became durable, the
//! right still holds. Only a read of the store renews; hints never do. Time is CLOCK_BOOTTIME, so that a suspended
//! host loses its right.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

pub use host::clock::boottime;

/// Shared by the poller, which renews or revokes it, and the WALs, which consult it.
#[derive(Debug)]
pub struct AckRight {
    /// Boot time in nanoseconds until which the right holds; [`FOREVER`] without a lease, 0 once revoked.
    until: AtomicU64,
    changed: watch::Sender<Standing>,
}

const FOREVER: u64 = u64::MAX;

/// What a waiter sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Renewed(u64),
    Revoked(String),
}

impl AckRight {
    /// A right that has yet to be renewed for the first time.
    pub fn leased() -> AckRight {
        AckRight { until: AtomicU64::new(0), changed: watch::Sender::new(Standing::Renewed(0)) }
    }

    /// A right that always holds, for media that nobody else can reach (the memory WAL, benchmarks).
    pub fn unlimited() -> AckRight {
        AckRight { until: AtomicU64::new(FOREVER), changed: watch::Sender::new(Standing::Renewed(FOREVER)) }
    }

    /// A poll that began at `poll_began` ([`boottime`]) reached the tail of the metadata log and saw no fence.
    /// A right that was revoked stays so.
    pub fn renew(&self, poll_began: Duration, lease: Duration) {
        let until = (poll_began + lease).as_nanos() as u64;
        self.changed.send_if_modified(|standing| {
            if matches!(standing, Standing::Revoked(_)) {
                return false;
            }
            self.until.fetch_max(until, Ordering::SeqCst);
            *standing = Standing::Renewed(self.until.load(Ordering::SeqCst));
            true
        });
    }

    /// A fence was seen: nothing is acknowledged any more.
    pub fn revoke(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.changed.send_modify(|standing| {
            self.until.store(0, Ordering::SeqCst);
            *standing = Standing::Revoked(reason);
        });
    }

    /// Whether an append that is durable by now may be acknowledged. The clock is read here, after durability.
    pub fn holds(&self) -> bool {
        let until = self.until.load(Ordering::SeqCst);
        until == FOREVER || (boottime().as_nanos() as u64) < until
    }

    /// Why the right was revoked, if it was.
    pub fn revoked(&self) -> Option<String> {
        match &*self.changed.borrow() {
            Standing::Revoked(reason) => Some(reason.clone()),
            Standing::Renewed(_) => None,
        }
    }

    /// Waits until the right holds (`Ok`) or is revoked (`Err` with the reason). An append that became durable
    /// between two polls waits here instead of failing.
    pub async fn granted(&self) -> Result<(), String> {
        let mut changed = self.changed.subscribe();
        loop {
            if let Standing::Revoked(reason) = &*changed.borrow_and_update() {
                return Err(reason.clone());
            }
            if self.holds() {
                return Ok(());
            }
            if changed.changed().await.is_err() {
                return Err("the metadata poller is gone".to_owned());
            }
        }
    }

    /// Waits until the right is revoked, and says why. Never resolves while it merely lapsed.
    pub async fn lost(&self) -> String {
        let mut changed = self.changed.subscribe();
        loop {
            if let Standing::Revoked(reason) = &*changed.borrow_and_update() {
                return reason.clone();
            }
            if changed.changed().await.is_err() {
                return "the metadata poller is gone".to_owned();
            }
        }
    }
}
