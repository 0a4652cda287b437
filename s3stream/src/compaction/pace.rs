//! How fast compaction may go: so many bytes per second, on average from one window to the next.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Shared by the jobs of an engine.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u64,
    /// What was taken so far is paid for at this moment.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// # Panics
    /// If the rate is 0.
    pub fn new(bytes_per_second: u64) -> Pace {
        assert!(bytes_per_second > 0, "nothing would ever be compacted");
        Pace { bytes_per_second, next: Mutex::new(None) }
    }

    /// Takes `bytes`; says when to begin with them. A pause before is not saved up.
    pub fn take(&self, now: Instant, bytes: u64) -> Instant {
        let mut next = self.next.lock();
        let begin = next.map_or(now, |next| next.max(now));
        *next = Some(begin + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64));
        begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spread_over_time_and_pauses_are_not_saved_up() {
        let pace = Pace::new(100);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(pace.take(at(0), 200), at(0));
        assert_eq!(pace.take(at(1), 300), at(2));
        assert_eq!(pace.take(at(1), 100), at(5));
        assert_eq!(pace.take(at(60), 100), at(60));
        assert_eq!(pace.take(at(60), 100), at(61));
    }
}
