//! Clocks that a test moves.

use std::sync::Arc;
use std::time::Duration;

use metalog::Clock;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Goes with tokio's (paused) time unless it stands still, plus whatever a test adds.
#[derive(Debug)]
pub struct TestClock {
    began: Instant,
    added: Mutex<Duration>,
    stopped: Mutex<Option<Instant>>,
}

impl TestClock {
    pub fn new() -> Arc<TestClock> {
        Arc::new(TestClock { began: Instant::now(), added: Mutex::default(), stopped: Mutex::default() })
    }

    /// As if the host had been suspended for so long.
    pub fn add(&self, duration: Duration) {
        *self.added.lock() += duration;
    }

    /// As if a hypervisor had stopped the guest's clocks too.
    pub fn stop(&self) {
        *self.stopped.lock() = Some(Instant::now());
    }
}

impl Clock for TestClock {
    fn boottime(&self) -> Duration {
        let now = self.stopped.lock().unwrap_or_else(Instant::now);
        now - self.began + *self.added.lock() + Duration::from_secs(1000)
    }

    fn wall_ms(&self) -> i64 {
        1_767_225_600_000 + self.boottime().as_millis() as i64
    }
}
