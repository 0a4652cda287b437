//! Work that would hold up a runtime: on threads of its own.

use std::io;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_elsewhere_and_its_panic_is_heard_of() {
        let here = std::thread::current().id();
        assert_ne!(blocking(|| std::thread::current().id()).await.unwrap(), here);
        let broken = tokio::spawn(async { blocking(|| panic!("it is broken")).await.unwrap() });
        assert!(broken.await.unwrap_err().is_panic());
    }
}
