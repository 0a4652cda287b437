//! Who waits for a partition's high watermark to move: fetches for bytes, repeated batches for an offset.
//!
//! A waiter registers *before* it looks at the log, so that nothing that arrives in between is missed; what arrives in
//! between may be counted twice, and then the waiter looks once more than needed. No timer is involved.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use s3stream::Listener;
use tokio::sync::{Notify, oneshot};

/// One waiting request, on any number of partitions.
#[derive(Debug)]
pub struct Wait {
    number: u64,
    arrived_bytes: AtomicUsize,
    wanted_bytes: AtomicUsize,
    changed: AtomicBool,
    notify: Notify,
}

impl Default for Wait {
    fn default() -> Wait {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Wait {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            arrived_bytes: AtomicUsize::new(0),
            wanted_bytes: AtomicUsize::new(0),
            changed: AtomicBool::new(false),
            notify: Notify::new(),
        }
    }
}

impl Wait {
    /// Begins to count. To be called before looking at the log.
    pub fn arm(&self) {
        self.wanted_bytes.store(usize::MAX, Ordering::SeqCst);
        self.arrived_bytes.store(0, Ordering::SeqCst);
        self.changed.store(false, Ordering::SeqCst);
    }

    /// Returns once `bytes` have arrived since [`arm`](Wait::arm), or something other than data happened to a
    /// partition.
    pub async fn arrived(&self, bytes: usize) {
        self.wanted_bytes.store(bytes, Ordering::SeqCst);
        while self.arrived_bytes.load(Ordering::SeqCst) < bytes && !self.changed.load(Ordering::SeqCst) {
            self.notify.notified().await;
        }
    }

    fn arrive(&self, bytes: usize) {
        let arrived = self.arrived_bytes.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if arrived >= self.wanted_bytes.load(Ordering::SeqCst) {
            self.notify.notify_one();
        }
    }

    fn change(&self) {
        self.changed.store(true, Ordering::SeqCst);
        self.notify.notify_one();
    }
}

/// The waiters of one partition. Told by the storage engine how far the log is confirmed.
#[derive(Debug, Default)]
pub struct Waiters(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    confirmed: u64,
    closed: bool,
    /// Appends that are not confirmed yet: end offset and bytes. As bounded as the log cache.
    unconfirmed: VecDeque<(u64, usize)>,
    /// By the wait's number: who began to wait first is told first.
    fetches: BTreeMap<u64, Registered>,
    offsets: Vec<(u64, oneshot::Sender<()>)>,
}

/// A wait, and how often it is registered: a request may name a partition again and again. It is told once.
#[derive(Debug)]
struct Registered {
    wait: Arc<Wait>,
    times: usize,
}

impl Inner {
    fn waits(&self) -> impl Iterator<Item = &Wait> {
        self.fetches.values().map(|registered| &*registered.wait)
    }
}

impl Waiters {
    /// The log ends at `end`, and all of it is confirmed.
    pub fn begin_at(&self, end: u64) {
        self.0.lock().confirmed = end;
    }

    /// An append of `bytes` up to `end` is about to be made.
    pub fn appending(&self, end: u64, bytes: usize) {
        self.0.lock().unconfirmed.push_back((end, bytes));
    }

    /// The append announced last was not made after all.
    pub fn not_appended(&self) {
        self.0.lock().unconfirmed.pop_back();
    }

    /// Counts what arrives for `wait` until the registration is dropped.
    pub fn register(self: &Arc<Self>, wait: &Arc<Wait>) -> Registration {
        let mut inner = self.0.lock();
        let fresh = || Registered { wait: wait.clone(), times: 0 };
        inner.fetches.entry(wait.number).or_insert_with(fresh).times += 1;
        if inner.closed {
            wait.change();
        }
        Registration { waiters: self.clone(), wait: wait.clone() }
    }

    /// Fetches that wait now.
    pub fn waiting(&self) -> usize {
        self.0.lock().fetches.len()
    }

    /// Resolves when everything below `end` is confirmed; with an error if the partition is closed before.
    pub fn confirmed_upto(&self, end: u64) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.0.lock();
        if end <= inner.confirmed {
            let _ = sender.send(());
        } else if !inner.closed {
            inner.offsets.push((end, sender));
        }
        receiver
    }

    /// The partition is gone: wakes everybody, now and later.
    pub fn close(&self) {
        let mut inner = self.0.lock();
        inner.closed = true;
        inner.offsets.clear();
        inner.waits().for_each(Wait::change);
    }
}

impl Listener for Waiters {
    fn confirmed(&self, end: u64) {
        let mut inner = self.0.lock();
        inner.confirmed = inner.confirmed.max(end);
        let mut arrived = 0;
        while let Some((at, bytes)) = inner.unconfirmed.front().copied()
            && at <= end
        {
            arrived += bytes;
            inner.unconfirmed.pop_front();
        }
        inner.waits().for_each(|wait| wait.arrive(arrived));
        let mut at = 0;
        while at < inner.offsets.len() {
            if inner.offsets[at].0 <= end {
                // The request may have timed out meanwhile.
                let _ = inner.offsets.swap_remove(at).1.send(());
            } else {
                at += 1;
            }
        }
    }
}

/// A place among a partition's waiters.
#[derive(Debug)]
pub struct Registration {
    waiters: Arc<Waiters>,
    wait: Arc<Wait>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut inner = self.waiters.0.lock();
        let key = self.wait.number;
        let registered = inner.fetches.get_mut(&key).expect("it is registered until this is dropped");
        registered.times -= 1;
        if registered.times == 0 {
            inner.fetches.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn waiting() -> (Arc<Waiters>, Arc<Wait>) {
        (Arc::default(), Arc::default())
    }

    #[test]
    fn behaviour_67_a_wait_ends_with_the_append_that_brings_enough_bytes() {
        let (waiters, wait) = waiting();
        wait.arm();
        let registration = waiters.register(&wait);
        waiters.appending(1, 60);
        waiters.appending(2, 60);
        let mut arrived = Box::pin(wait.arrived(100));
        assert!(arrived.as_mut().now_or_never().is_none());
        waiters.confirmed(1);
        assert!(arrived.as_mut().now_or_never().is_none(), "60 of 100 bytes");
        waiters.confirmed(2);
        assert!(arrived.as_mut().now_or_never().is_some());
        drop(registration);
        assert!(waiters.0.lock().fetches.is_empty());
    }

    #[test]
    fn a_wait_that_is_registered_twice_counts_once_and_stays_until_the_last_is_dropped() {
        let (waiters, wait) = waiting();
        wait.arm();
        let [first, second] = [waiters.register(&wait), waiters.register(&wait)];
        waiters.appending(1, 60);
        waiters.confirmed(1);
        assert!(wait.arrived(61).now_or_never().is_none());
        drop(first);
        waiters.appending(2, 1);
        waiters.confirmed(2);
        assert!(wait.arrived(61).now_or_never().is_some());
        drop(second);
        assert!(waiters.0.lock().fetches.is_empty());
    }

    #[test]
    fn what_arrives_between_registering_and_waiting_counts() {
        let (waiters, wait) = waiting();
        wait.arm();
        let _registration = waiters.register(&wait);
        waiters.appending(1, 60);
        waiters.confirmed(1);
        assert!(wait.arrived(60).now_or_never().is_some());
        wait.arm();
        assert!(wait.arrived(1).now_or_never().is_none());
    }

    #[test]
    fn behaviour_67_deletion_wakes() {
        let (waiters, wait) = waiting();
        wait.arm();
        let _registration = waiters.register(&wait);
        let mut offset = waiters.confirmed_upto(5);
        let mut arrived = Box::pin(wait.arrived(1));
        assert!(arrived.as_mut().now_or_never().is_none());
        waiters.close();
        assert!(arrived.now_or_never().is_some());
        assert!(offset.try_recv().is_err());
        let late = Arc::new(Wait::default());
        late.arm();
        let _late_registration = waiters.register(&late);
        assert!(late.arrived(1).now_or_never().is_some(), "whoever comes later is told too");
    }

    #[test]
    fn behaviour_48_a_duplicate_waits_for_its_original() {
        let (waiters, _) = waiting();
        waiters.begin_at(10);
        assert!(waiters.confirmed_upto(10).try_recv().is_ok());
        let mut duplicate = waiters.confirmed_upto(12);
        waiters.confirmed(11);
        assert!(duplicate.try_recv().is_err());
        waiters.confirmed(12);
        assert!(duplicate.try_recv().is_ok());
    }
}
