//! Clocks that a test moves.

use std::sync::Arc;
use std::time::Duration;

use metalog::Clock;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Goes with tokio's (paused) time, plus whatever a test adds, unless it stands still.
#[derive(Debug)]
pub struct TestClock {
    began: Instant,
    added: Mutex<Duration>,
    stopped_at: Mutex<Option<Duration>>,
}

impl TestClock {
    pub fn new() -> Arc<TestClock> {
        Arc::new(TestClock { began: Instant::now(), added: Mutex::default(), stopped_at: Mutex::default() })
    }

    /// As if the host had been suspended for so long.
    pub fn add(&self, duration: Duration) {
        *self.added.lock() += duration;
    }

    /// As if a hypervisor had stopped the guest's clocks too.
    pub fn stop(&self) {
        let now = self.boottime();
        *self.stopped_at.lock() = Some(now);
    }
}

impl Clock for TestClock {
    fn boottime(&self) -> Duration {
        let stopped_at = *self.stopped_at.lock();
        stopped_at.unwrap_or_else(|| self.began.elapsed() + *self.added.lock() + Duration::from_secs(1000))
    }

    fn wall_ms(&self) -> i64 {
        1_767_225_600_000 + self.boottime().as_millis() as i64
    }
}
