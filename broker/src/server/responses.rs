//! The memory of responses that peers have yet to read.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// Bytes of responses that are not written yet: records, which keep memory from being freed, and large responses of any
/// other kind. How quickly they are written is up to the peers; so whoever has to wait for a share says so, and
/// connections that are not being read from give way ([`contended`](ResponseBudget::contended)).
#[derive(Debug)]
pub struct ResponseBudget {
    bytes: Arc<Semaphore>,
    max: usize,
    /// How many wait for a share.
    waiting: watch::Sender<usize>,
}

/// One of those who wait.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a watch::Sender<usize>) -> Waiting<'a> {
        waiting.send_modify(|count| *count += 1);
        Waiting(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl ResponseBudget {
    /// A budget of `max` bytes, at most `u32::MAX`.
    pub fn new(max: usize) -> ResponseBudget {
        ResponseBudget { bytes: Arc::new(Semaphore::new(max)), max, waiting: watch::Sender::new(0) }
    }

    /// A share, if it is left. What is larger than the whole takes the whole.
    pub fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.bytes.clone().try_acquire_many_owned(self.share(bytes)).ok()
    }

    /// Waits for a share; `None` if `gone` is cancelled before.
    pub async fn take(&self, bytes: usize, gone: &CancellationToken) -> Option<OwnedSemaphorePermit> {
        if let Some(permit) = self.try_take(bytes) {
            return Some(permit);
        }
        let _waiting = Waiting::begin(&self.waiting);
        tokio::select! {
            permit = self.bytes.clone().acquire_many_owned(self.share(bytes)) => {
                Some(permit.expect("never closed"))
            }
            () = gone.cancelled() => None,
        }
    }

    /// Returns once somebody waits for a share.
    pub async fn contended(&self) {
        let mut waiting = self.waiting.subscribe();
        waiting.wait_for(|count| *count > 0).await.expect("the sender is here");
    }

    fn share(&self, bytes: usize) -> u32 {
        bytes.min(self.max) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn whoever_waits_is_seen_until_it_has_its_share_or_gives_up() {
        let budget = ResponseBudget::new(1000);
        let gone = CancellationToken::new();
        let held = budget.take(900, &gone).now_or_never().flatten().expect("there is room");
        assert!(budget.contended().now_or_never().is_none());
        assert!(budget.try_take(200).is_none());
        {
            let mut waiting = Box::pin(budget.take(200, &gone));
            assert!(waiting.as_mut().now_or_never().is_none());
            assert!(budget.contended().now_or_never().is_some());
            drop(held);
            assert!(waiting.now_or_never().flatten().is_some());
        }
        assert!(budget.contended().now_or_never().is_none());
        let whole = budget.try_take(5000).expect("the whole for what is larger");
        let mut waiting = Box::pin(budget.take(1, &gone));
        assert!(waiting.as_mut().now_or_never().is_none());
        gone.cancel();
        assert!(waiting.now_or_never().expect("the peer is gone").is_none());
        assert!(budget.contended().now_or_never().is_none());
        drop(whole);
    }
}
