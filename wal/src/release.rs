//! Releases appends strictly in order (W2), and only while the right to acknowledge holds (O4, B1).
//!
//! A medium completes writes in any order. Each write holds a [`Ticket`], handed out in append order; the futures of
//! a ticket resolve once it and every earlier one are durable *and* the right was seen to hold after that.
//!
//! ```text
//!   tickets    4     5     6     7          whoever reports the durability that closes the gap releases the
//!            [dur] [dur] [   ] [dur]        run on its own thread: no hop, no lock held while futures wake
//!            └─run─┘
//! ```
//!
//! Where the right has lapsed the run waits; a thread of its own (never a task that a busy runtime could starve)
//! sleeps until the right is granted again, releases, or until it is revoked, and then fails the log as fenced.
//!
//! - **R1** One releaser at a time: outcomes leave in ticket order, successes and failures alike.
//! - **R2** The right is read after the durability that it covers was reported.
//! - **R3** Once failed, nothing succeeds that was not durable in order before the failure was reported.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::future::{Either, select};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{AckRight, AppendCompletion, Error, Position};

/// Slots for which a releaser's memory is kept for the next one. No option: a few KiB, and a longer run pays for its own.
const TAKEN_KEPT_MAX: usize = 64;

/// The place of a write in the order of releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// The queue of writes under way. Cheap to share by `Arc`; ends with [`Releaser::close`] or when dropped.
#[derive(Debug)]
pub(crate) struct Releaser {
    shared: Arc<Shared>,
    /// Closed when the waiting thread has ended.
    ended: watch::Receiver<()>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    right: Arc<AckRight>,
    lapsed: Notify,
    /// Everything below was acknowledged.
    released: watch::Sender<Position>,
    failure: watch::Sender<Option<Error>>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Queue {
    /// Ticket of the front slot.
    first: u64,
    slots: VecDeque<Slot>,
    /// How many slots at the front are durable.
    run: usize,
    /// Everything below is durable, in order.
    durable: Position,
    releasing: bool,
    /// What a releaser takes the slots into: empty but for its memory, and here while nobody is releasing.
    taken: Vec<Slot>,
    failed: Option<Error>,
}

#[derive(Debug)]
struct Slot {
    durable: bool,
    position: Position,
    end: Position,
    completions: Vec<AppendCompletion>,
}

impl Releaser {
    /// `start` is where the empty log begins.
    pub(crate) fn new(right: Arc<AckRight>, start: Position) -> Result<Releaser, Error> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                first: 0,
                slots: VecDeque::new(),
                run: 0,
                durable: start,
                releasing: false,
                taken: Vec::new(),
                failed: None,
            }),
            right,
            lapsed: Notify::new(),
            released: watch::Sender::new(start),
            failure: watch::Sender::new(None),
            stop: CancellationToken::new(),
        });
        let (ending, ended) = watch::channel(());
        let waiter = shared.clone();
        let waiting = async move {
            let _guard = FailOnPanic(&waiter);
            waiter.await_right().await;
            drop(ending);
        };
        host::work::waiter("wal-right", waiting)
            .map_err(|error| Error::Failed(format!("cannot start a thread: {error}")))?;
        Ok(Releaser { shared, ended })
    }

    /// Queues a write that occupies `[position, end)`. Call in append order.
    ///
    /// # Panics
    /// If the write does not lie behind all earlier ones.
    pub(crate) fn enqueue(
        &self,
        position: Position,
        end: Position,
        completions: Vec<AppendCompletion>,
    ) -> Ticket {
        let mut queue = self.shared.queue.lock();
        let last = queue.slots.back().map_or(queue.durable, |slot| slot.end);
        assert!(last <= position && position <= end, "writes are queued in order");
        let ticket = Ticket(queue.first + queue.slots.len() as u64);
        queue.slots.push_back(Slot { durable: false, position, end, completions });
        let failed = queue.failed.is_some();
        drop(queue);
        if failed {
            self.shared.release();
        }
        ticket
    }

    /// The medium holds `ticket`'s write for good. Releases what that makes releasable.
    pub(crate) fn durable(&self, ticket: Ticket) {
        let mut queue = self.shared.queue.lock();
        let planted = host::planted("ack-in-completion-order");
        let Some(index) = ticket.0.checked_sub(queue.first) else {
            assert!(queue.failed.is_some() || planted, "a write became durable twice");
            return;
        };
        if planted {
            if queue.slots[index as usize].durable {
                return;
            }
            queue.slots.iter_mut().take(index as usize).for_each(|slot| slot.durable = true);
        }
        let slot = &mut queue.slots[index as usize];
        assert!(!slot.durable, "a write became durable twice");
        slot.durable = true;
        #[cfg(feature = "any-order")]
        let early = any_order::take(slot);
        queue.extend_run();
        drop(queue);
        #[cfg(feature = "any-order")]
        any_order::complete(early);
        self.shared.release();
    }

    /// Fails the log for good; the first reason stays. Writes that are durable in order are still released.
    pub(crate) fn fail(&self, error: Error) {
        self.shared.fail(error);
    }

    /// Everything below is durable, in order.
    pub(crate) fn durable_end(&self) -> Position {
        self.shared.queue.lock().durable
    }

    /// Follows the position below which everything was acknowledged, which lags behind [`durable_end`] while the right
    /// has lapsed. What was released before is no change: look first.
    ///
    /// [`durable_end`]: Releaser::durable_end
    pub(crate) fn released(&self) -> watch::Receiver<Position> {
        self.shared.released.subscribe()
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        self.shared.failure.borrow().clone()
    }

    /// Resolves once the log has failed or was fenced.
    pub(crate) async fn failed(&self) -> Error {
        let mut failure = self.shared.failure.subscribe();
        loop {
            if let Some(error) = &*failure.borrow_and_update() {
                return error.clone();
            }
            if failure.changed().await.is_err() {
                return Error::Closed;
            }
        }
    }

    /// Ends the queue. What is durable but lacks the right to be acknowledged fails: its outcome is unknown.
    pub(crate) async fn close(&self) {
        self.shared.settle();
        self.shared.stop.cancel();
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }
}

/// Breaks W2 where a benchmark asks for it: each write is acknowledged when it is durable, whatever lies before it.
#[cfg(feature = "any-order")]
pub mod any_order {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{AppendCompletion, Position, Slot};

    static WANTED: AtomicBool = AtomicBool::new(false);

    /// For every log of this process, from now on.
    pub fn want(wanted: bool) {
        WANTED.store(wanted, Ordering::Relaxed);
    }

    pub(super) fn take(slot: &mut Slot) -> (Position, Vec<AppendCompletion>) {
        let wanted = WANTED.load(Ordering::Relaxed);
        (slot.position, if wanted { std::mem::take(&mut slot.completions) } else { Vec::new() })
    }

    pub(super) fn complete((position, completions): (Position, Vec<AppendCompletion>)) {
        for completion in completions {
            completion.complete(Ok(position));
        }
    }
}

/// Without this thread nothing would be acknowledged again once the right had lapsed.
struct FailOnPanic<'a>(&'a Shared);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::Failed("a thread of the write-ahead log panicked, see the log".to_owned()));
        }
    }
}

impl Drop for Releaser {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Shared {
    /// The loop of R1. Whoever finds another thread in it leaves: that one looks again before it goes.
    fn release(&self) {
        let mut queue = self.queue.lock();
        if queue.releasing {
            return;
        }
        loop {
            let (count, failure) =
                if queue.run > 0 && (self.right.holds() || host::planted("ack-without-right")) {
                    (queue.run, None)
                } else if let Some(error) = &queue.failed {
                    (queue.slots.len(), Some(error.clone()))
                } else {
                    (0, None)
                };
            if count == 0 {
                if queue.run > 0 {
                    self.lapsed.notify_one();
                }
                return;
            }
            queue.releasing = true;
            let mut slots = queue.take(count);
            drop(queue);
            let end = slots.last().map(|slot| slot.end);
            for slot in slots.drain(..) {
                for completion in slot.completions {
                    completion.complete(failure.clone().map_or(Ok(slot.position), Err));
                }
            }
            if let (Some(end), None) = (end, &failure) {
                // To wake nobody costs more than all the rest here; who subscribes later looks first.
                self.released.send_if_modified(|released| {
                    *released = end;
                    self.released.receiver_count() > 0
                });
            }
            queue = self.queue.lock();
            queue.releasing = false;
            if slots.capacity() <= TAKEN_KEPT_MAX {
                queue.taken = slots;
            }
        }
    }

    fn fail(&self, error: Error) {
        {
            let mut queue = self.queue.lock();
            if queue.failed.is_none() {
                queue.failed = Some(error.clone());
            }
        }
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                *failure = Some(error);
            }
            first
        });
        self.release();
    }

    fn settle(&self) {
        let mut queue = self.queue.lock();
        if queue.failed.is_none() {
            queue.failed = Some(Error::Failed(
                "closed while the right to acknowledge had lapsed; what was appended last may be in the log"
                    .into(),
            ));
        }
        drop(queue);
        self.release();
    }

    async fn await_right(&self) {
        loop {
            let lapsed = std::pin::pin!(self.lapsed.notified());
            let lost = std::pin::pin!(self.right.lost());
            let event = select(lapsed, lost);
            let Some(event) = self.stop.run_until_cancelled(event).await else { return };
            let granted = match event {
                Either::Left(_) => self.stop.run_until_cancelled(self.right.granted()).await,
                Either::Right((reason, _)) => Some(Err(reason)),
            };
            match granted {
                Some(Ok(())) => self.release(),
                Some(Err(reason)) => return self.fail(Error::Fenced(reason)),
                None => return,
            }
        }
    }
}

impl Queue {
    fn extend_run(&mut self) {
        while let Some(slot) = self.slots.get(self.run).filter(|slot| slot.durable) {
            assert!(slot.end >= self.durable, "the durable end never moves back");
            self.durable = slot.end;
            self.run += 1;
        }
    }

    /// The first `count` slots: all of the run, and what is behind it if the log has failed.
    fn take(&mut self, count: usize) -> Vec<Slot> {
        self.first += count as u64;
        self.run = 0;
        let mut taken = std::mem::take(&mut self.taken);
        taken.extend(self.slots.drain(..count));
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;
    use crate::{Append, right::boottime};

    fn enqueue(releaser: &Releaser, position: u64) -> (Ticket, Append) {
        let (completion, append) = Append::channel();
        (releaser.enqueue(Position(position), Position(position + 1), vec![completion]), append)
    }

    #[tokio::test]
    async fn releases_in_order_whatever_the_medium_does() {
        let releaser = Releaser::new(Arc::new(AckRight::unlimited()), Position(0)).unwrap();
        let (first, mut a) = enqueue(&releaser, 0);
        let (second, mut b) = enqueue(&releaser, 1);
        releaser.durable(second);
        assert!((&mut a).now_or_never().is_none() && (&mut b).now_or_never().is_none());
        assert_eq!(releaser.durable_end(), Position(0));
        releaser.durable(first);
        assert_eq!((a.await.unwrap(), b.await.unwrap()), (Position(0), Position(1)));
        assert_eq!(releaser.durable_end(), Position(2));
    }

    #[tokio::test]
    async fn whoever_follows_late_sees_what_was_released_and_is_told_of_the_rest() {
        let releaser = Releaser::new(Arc::new(AckRight::unlimited()), Position(0)).unwrap();
        let (first, _) = enqueue(&releaser, 0);
        releaser.durable(first);
        let mut released = releaser.released();
        assert_eq!(*released.borrow(), Position(1));
        let mut changed = std::pin::pin!(released.changed());
        assert!((&mut changed).now_or_never().is_none());
        let (second, _) = enqueue(&releaser, 1);
        releaser.durable(second);
        assert!(matches!(changed.now_or_never(), Some(Ok(()))), "nobody was told");
    }

    #[tokio::test]
    async fn the_memory_for_a_release_is_used_again_unless_it_is_much() {
        let releaser = Releaser::new(Arc::new(AckRight::unlimited()), Position(0)).unwrap();
        let mut at = 0;
        for (count, kept) in [(1, true), (TAKEN_KEPT_MAX as u64, true), (1000, false), (2, true)] {
            let mut tickets: Vec<_> =
                (at..at + count).map(|position| enqueue(&releaser, position).0).collect();
            at += count;
            // The one that closes the gap releases all of them.
            tickets.rotate_left(1);
            tickets.into_iter().for_each(|ticket| releaser.durable(ticket));
            assert_eq!(*releaser.released().borrow(), Position(at));
            let taken = releaser.shared.queue.lock().taken.capacity();
            assert!(taken <= TAKEN_KEPT_MAX && (taken > 0) == kept, "{taken} after a run of {count}");
        }
    }

    #[tokio::test]
    async fn a_failure_spares_what_was_durable_in_order() {
        let releaser = Releaser::new(Arc::new(AckRight::unlimited()), Position(0)).unwrap();
        let (first, a) = enqueue(&releaser, 0);
        let (_second, b) = enqueue(&releaser, 1);
        let (third, c) = enqueue(&releaser, 2);
        releaser.durable(first);
        releaser.durable(third);
        releaser.fail(Error::Failed("EIO".into()));
        assert!(a.await.is_ok());
        assert!(b.await.is_err() && c.await.is_err());
        // Late news of a write that is given up already changes nothing.
        releaser.durable(third);
        let (_, d) = enqueue(&releaser, 3);
        assert!(matches!(d.await, Err(Error::Failed(_))));
        assert!(matches!(releaser.failed().await, Error::Failed(_)));
    }

    #[tokio::test]
    async fn a_lapsed_right_delays_and_a_revoked_one_fences() {
        let right = Arc::new(AckRight::leased());
        let releaser = Releaser::new(right.clone(), Position(0)).unwrap();
        let (first, mut a) = enqueue(&releaser, 0);
        releaser.durable(first);
        assert!((&mut a).now_or_never().is_none());
        assert_eq!((releaser.durable_end(), *releaser.released().borrow()), (Position(1), Position(0)));
        right.renew(boottime(), Duration::from_secs(3600));
        a.await.unwrap();
        releaser.released().wait_for(|end| *end == Position(1)).await.unwrap();
        right.revoke("taken over");
        assert!(matches!(releaser.failed().await, Error::Fenced(reason) if reason == "taken over"));
        let (_, b) = enqueue(&releaser, 1);
        assert!(matches!(b.await, Err(Error::Fenced(_))));
    }

    #[tokio::test]
    async fn closing_settles_what_may_not_be_acknowledged() {
        let releaser = Releaser::new(Arc::new(AckRight::leased()), Position(0)).unwrap();
        let (first, a) = enqueue(&releaser, 0);
        releaser.durable(first);
        releaser.close().await;
        assert!(matches!(a.await, Err(Error::Failed(_))));
    }
}
