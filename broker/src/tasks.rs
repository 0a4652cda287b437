//! The tasks behind one part of the broker: counted, awaited at its end, and none of them dies unnoticed (F59).
//!
//! A task that panics has met a broken invariant of ours. What it was there for would not happen any more, or half, and
//! nobody would be told; so the process ends, loudly, and its successor recovers. The same goes for one that is to run
//! as long as the broker does and ends before.
//!
//! - **T1** After a panic of any task of a [`Tasks`], [`Tasks::failed`] resolves, with its message; so it does after a
//!   task that was to be [kept](Tasks::keep) has ended before [`Tasks::close`].

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// See the module. Clones are of the same tasks.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    /// The first failure.
    failure: watch::Sender<Option<String>>,
}

impl Tasks {
    /// Runs a task that ends when it has done its work. `what` names it for people.
    pub fn spawn<T: Send + 'static>(
        &self,
        what: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let tasks = self.clone();
        self.tracker.spawn(async move {
            match AssertUnwindSafe(task).catch_unwind().await {
                Ok(done) => done,
                Err(panic) => {
                    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                    let text = text.unwrap_or_else(|| "no message".to_owned());
                    tasks.fail(format!("a broken invariant in {what}: {text}"));
                    std::panic::resume_unwind(panic)
                }
            }
        })
    }

    /// Runs a task that is not to end before [`close`](Tasks::close).
    pub fn keep(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let tasks = self.clone();
        self.spawn(what, async move {
            task.await;
            if !tasks.tracker.is_closed() {
                tasks.fail(format!("{what} ended by itself"));
            }
        });
    }

    fn fail(&self, reason: String) {
        tracing::error!(reason, "a task that the broker cannot do without has failed");
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(reason);
            first
        });
    }

    /// Resolves with the first failure; otherwise never.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        let failure = failure.wait_for(Option::is_some).await.expect("the sender is in self");
        failure.clone().expect("waited for it")
    }

    /// The first failure so far.
    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// From here on tasks that were kept may end. To be called before they are asked to.
    pub fn close(&self) {
        self.tracker.close();
    }

    /// Waits for the end of all tasks, after [`close`](Tasks::close).
    pub async fn wait(&self) {
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_heard_of_with_its_message_and_the_first_one_counts() {
        let tasks = Tasks::default();
        assert_eq!(tasks.spawn("a sum", async { 1 + 1 }).await.unwrap(), 2);
        let number = 7;
        let panicked = tasks.spawn("arithmetic", async move { assert_eq!(number, 8, "seven is not eight") });
        assert!(panicked.await.unwrap_err().is_panic());
        assert!(tasks.spawn("more of it", async { panic!("later") }).await.is_err());
        let reason = tasks.failed().await;
        assert!(reason.contains("arithmetic") && reason.contains("seven is not eight"), "{reason}");
        tasks.close();
        tasks.wait().await;
        assert_eq!(tasks.failed().await, reason);
    }

    #[tokio::test]
    async fn a_task_that_is_kept_may_end_only_at_the_end() {
        let tasks = Tasks::default();
        let stop = CancellationToken::new();
        tasks.keep("a watch", stop.clone().cancelled_owned());
        tasks.close();
        stop.cancel();
        tasks.wait().await;
        assert_eq!(tasks.failure(), None);
        assert_eq!(tasks.failed().now_or_never(), None);
        let tasks = Tasks::default();
        tasks.keep("a watch", async {});
        assert_eq!(tasks.failed().await, "a watch ended by itself");
        assert_eq!(tasks.failure().as_deref(), Some("a watch ended by itself"));
    }
}
