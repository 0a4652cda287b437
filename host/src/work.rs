//! Work that would hold up a runtime: on threads of its own.

use std::io;

use parking_lot::{Condvar, Mutex, MutexGuard};

/// Runs what blocks or computes for long on a thread where it holds up nobody.
///
/// # Errors
/// If it did not run, since the runtime is shutting down.
///
/// # Panics
/// If `work` does.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    #[cfg(feature = "simulated")]
    if crate::simulated::current().is_some() {
        // A simulation has one thread. The step aside lets others come in between, as a thread's end would.
        tokio::task::yield_now().await;
        return Ok(work());
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Runs `waiting`, which mostly waits, on a thread of its own: a busy runtime does not delay it.
pub fn waiter(name: &str, waiting: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    #[cfg(feature = "simulated")]
    if crate::simulated::current().is_some() {
        drop(tokio::spawn(waiting));
        return Ok(());
    }
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || futures::executor::block_on(waiting))
        .map(drop)
}

/// Runs to its end, on a thread that may block, what blocks in production and waits in a simulation. Returns as [`blocking`].
///
/// # Errors
/// As [`blocking`].
///
/// # Panics
/// If `work` does.
pub async fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
    #[cfg(feature = "simulated")]
    if crate::simulated::current().is_some() {
        tokio::task::yield_now().await;
        return Ok(work.await);
    }
    blocking(move || futures::executor::block_on(work)).await
}

/// Runs `body` on a thread of its own. What blocks a thread there is awaited, so that it holds up nobody where a simulation has
/// one thread: a [`Condition`], a device.
pub fn thread<F: Future<Output = ()> + 'static>(
    name: &str,
    body: impl FnOnce() -> F + Send + 'static,
) -> io::Result<()> {
    #[cfg(feature = "simulated")]
    if let Some(machine) = crate::simulated::current() {
        machine.thread(Box::new(move || Box::pin(body())));
        return Ok(());
    }
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || futures::executor::block_on(body()))
        .map(drop)
}

/// A condition variable. Waiting for it blocks the [`thread`].
#[derive(Debug, Default)]
pub struct Condition {
    condvar: Condvar,
    #[cfg(feature = "simulated")]
    notify: tokio::sync::Notify,
}

impl Condition {
    pub fn new() -> Condition {
        Condition::default()
    }

    pub fn notify_one(&self) {
        #[cfg(feature = "simulated")]
        if crate::simulated::current().is_some() {
            self.notify.notify_one();
            return;
        }
        self.condvar.notify_one();
    }

    pub fn notify_all(&self) {
        #[cfg(feature = "simulated")]
        if crate::simulated::current().is_some() {
            self.notify.notify_waiters();
            return;
        }
        self.condvar.notify_all();
    }

    /// Attempts until that gives something. An attempt has `mutex` locked; where it gives the guard back, the next one comes
    /// after a notification, or for no reason.
    pub async fn wait_until<'a, T, R>(
        &self,
        mutex: &'a Mutex<T>,
        mut attempt: impl FnMut(MutexGuard<'a, T>) -> Result<R, MutexGuard<'a, T>>,
    ) -> R {
        #[cfg(feature = "simulated")]
        if crate::simulated::current().is_some() {
            loop {
                let notified = self.notify.notified();
                tokio::pin!(notified);
                // From here on it hears of everything that is said.
                notified.as_mut().enable();
                if let Ok(done) = attempt(mutex.lock()) {
                    return done;
                }
                notified.await;
            }
        }
        let mut guard = mutex.lock();
        loop {
            match attempt(guard) {
                Ok(done) => return done,
                Err(given_back) => guard = given_back,
            }
            self.condvar.wait(&mut guard);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn work_is_done_elsewhere_and_its_panic_is_heard_of() {
        let here = std::thread::current().id();
        assert_ne!(blocking(|| std::thread::current().id()).await.unwrap(), here);
        let broken = tokio::spawn(async { blocking(|| panic!("it is broken")).await.unwrap() });
        assert!(broken.await.unwrap_err().is_panic());
    }

    #[test]
    fn a_thread_waits_for_a_condition() {
        struct Shared {
            state: Mutex<u32>,
            changed: Condition,
        }
        let shared = Arc::new(Shared { state: Mutex::new(0), changed: Condition::new() });
        let other = shared.clone();
        let (done, is_done) = std::sync::mpsc::channel();
        let body = move || async move {
            let attempt = other.changed.wait_until(&other.state, |mut state| {
                if *state == 0 {
                    return Err(state);
                }
                *state += 1;
                Ok(())
            });
            attempt.await;
            done.send(()).unwrap();
        };
        thread("waits", body).unwrap();
        *shared.state.lock() = 1;
        shared.changed.notify_all();
        is_done.recv().unwrap();
        assert_eq!(*shared.state.lock(), 2);
    }
}
