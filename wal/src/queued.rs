//! Counts those who wait for admission.

use std::sync::atomic::{AtomicUsize, Ordering};

/// One who waits, until it is dropped.
pub(crate) struct Queued<'a>(&'a AtomicUsize);

impl Queued<'_> {
    pub fn new(count: &AtomicUsize) -> Queued<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Queued(count)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
