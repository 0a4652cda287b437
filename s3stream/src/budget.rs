//! Back-pressure in bytes: a fair budget. A pure state machine; the shell owns the wake-ups.
//!
//! # Invariants
//! - `used <= limit`, always (S6).
//! - First come, first served: nobody is granted while somebody who came earlier waits.
//! - A waiter that went away is passed over and keeps nothing.

use std::collections::VecDeque;

use tokio::sync::oneshot;

/// A charge that was granted; the shell wraps it at once in something that gives it back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Granted(pub usize);

#[derive(Debug)]
pub(crate) struct Budget<T> {
    limit: usize,
    used: usize,
    waiters: VecDeque<Waiter<T>>,
    closed: bool,
}

#[derive(Debug)]
struct Waiter<T> {
    charge: usize,
    grant: oneshot::Sender<T>,
}

/// What asking for a charge led to.
#[derive(Debug)]
pub(crate) enum Asked<T> {
    Granted(Granted),
    Wait(oneshot::Receiver<T>),
    TooLarge,
    Closed,
}

impl<T> Budget<T> {
    pub fn new(limit: usize) -> Budget<T> {
        Budget { limit, used: 0, waiters: VecDeque::new(), closed: false }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn used(&self) -> usize {
        self.used
    }

    pub fn free(&self) -> usize {
        self.limit - self.used
    }

    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    pub fn ask(&mut self, charge: usize) -> Asked<T> {
        if self.closed {
            return Asked::Closed;
        }
        if charge > self.limit {
            return Asked::TooLarge;
        }
        self.forget_the_gone();
        if self.waiters.is_empty() && charge <= self.free() {
            self.used += charge;
            return Asked::Granted(Granted(charge));
        }
        let (grant, granted) = oneshot::channel();
        self.waiters.push_back(Waiter { charge, grant });
        Asked::Wait(granted)
    }

    pub fn release(&mut self, charge: usize) {
        assert!(charge <= self.used, "more was given back ({charge}) than is in use ({})", self.used);
        self.used -= charge;
    }

    /// Bytes that have to be released before the next waiter can be served; 0 if nobody waits or the next one fits.
    pub fn shortfall(&mut self) -> usize {
        self.forget_the_gone();
        let Some(next) = self.waiters.front() else { return 0 };
        next.charge.saturating_sub(self.free())
    }

    /// The next waiter, if it fits; call until `None`, then send outside of any lock.
    pub fn grant(&mut self) -> Option<(oneshot::Sender<T>, Granted)> {
        if self.shortfall() > 0 {
            return None;
        }
        let next = self.waiters.pop_front()?;
        self.used += next.charge;
        Some((next.grant, Granted(next.charge)))
    }

    /// Refuses everybody from now on. Waiters learn it from their channel.
    pub fn close(&mut self) {
        self.closed = true;
        self.waiters.clear();
    }

    fn forget_the_gone(&mut self) {
        while self.waiters.front().is_some_and(|waiter| waiter.grant.is_closed()) {
            self.waiters.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(budget: &mut Budget<()>, charge: usize) -> oneshot::Receiver<()> {
        match budget.ask(charge) {
            Asked::Wait(receiver) => receiver,
            other => panic!("expected to wait, got {other:?}"),
        }
    }

    #[test]
    fn a_small_request_does_not_overtake_a_large_one() {
        let mut budget: Budget<()> = Budget::new(100);
        assert!(matches!(budget.ask(60), Asked::Granted(Granted(60))));
        let large = wait(&mut budget, 80);
        let _small = wait(&mut budget, 10);
        assert_eq!(budget.shortfall(), 40);
        assert!(budget.grant().is_none());
        drop(large);
        let (_, granted) = budget.grant().expect("the large one went away");
        assert_eq!(granted, Granted(10));
        assert_eq!(budget.used(), 70);
    }

    #[test]
    fn over_the_limit_is_refused_at_once_and_closing_refuses_all() {
        let mut budget: Budget<()> = Budget::new(100);
        assert!(matches!(budget.ask(101), Asked::TooLarge));
        assert!(matches!(budget.ask(100), Asked::Granted(_)));
        let mut waiter = wait(&mut budget, 1);
        budget.close();
        assert!(waiter.try_recv().is_err());
        assert!(matches!(budget.ask(1), Asked::Closed));
    }

    proptest::proptest! {
        /// Random asks, releases and departures: never over the limit, always in order, nobody left behind.
        #[test]
        fn agrees_with_a_queue(steps in proptest::collection::vec((0u8..3, 1usize..40), 1..200)) {
            let mut budget: Budget<()> = Budget::new(64);
            let mut held: Vec<usize> = Vec::new();
            let mut queue: VecDeque<(usize, oneshot::Receiver<()>)> = VecDeque::new();
            for (step, size) in steps {
                match step {
                    0 => match budget.ask(size) {
                        Asked::Granted(Granted(charge)) => {
                            assert!(queue.is_empty(), "overtook a waiter");
                            held.push(charge);
                        }
                        Asked::Wait(receiver) => queue.push_back((size, receiver)),
                        other => panic!("{other:?}"),
                    },
                    1 if !held.is_empty() => budget.release(held.swap_remove(size % held.len())),
                    2 if !queue.is_empty() => { queue.remove(size % queue.len()); }
                    _ => {}
                }
                while let Some((sender, Granted(charge))) = budget.grant() {
                    let (expected, mut receiver) = queue.pop_front().expect("granted to nobody");
                    assert_eq!(charge, expected);
                    sender.send(()).expect("granted to one who left");
                    assert!(receiver.try_recv().is_ok());
                    held.push(charge);
                }
                assert_eq!(budget.used(), held.iter().sum::<usize>());
                assert!(budget.used() <= budget.limit());
                if let Some((next, _)) = queue.front() {
                    assert!(budget.used() + next > budget.limit(), "a waiter that fits was left waiting");
                }
            }
        }
    }
}
