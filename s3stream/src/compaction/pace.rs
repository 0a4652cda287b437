//! How fast compaction may go: so many bytes per second, on average from one window to the next; and while producers
//! wait, so many for each byte that was uploaded.

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

/// What compaction may move for each byte that was uploaded while producers wait. With uploads of 32 KiB and more of a
/// partition a byte is rewritten twice at most (what `plan` bounds), so that this keeps up with them, however long they
/// wait. No option: it follows from that bound, as the advice about `bytes_per_second_max` does, which is the option that
/// limits what compaction moves. With less than 32 KiB of a partition in an upload (a byte is rewritten three times) a
/// window begins now and then only after the few seconds for which compaction stands back at most.
const MOVED_PER_UPLOADED: u64 = 2;

/// Shared by the jobs of an engine. Uploads bring it, windows use it up.
#[derive(Debug)]
pub(super) struct Credit {
    most: u64,
    /// Uploaded bytes that are counted, and what is left of them.
    state: Mutex<(u64, u64)>,
}

impl Credit {
    /// Saves up to `most` bytes: what one job moves ([`object_bytes`](super::Options::object_bytes)), so that one that begins
    /// after a quiet time need not wait, and none after it goes ahead of the uploads.
    pub fn new(most: u64) -> Credit {
        Credit { most, state: Mutex::new((0, 0)) }
    }

    /// Takes `bytes` if they are there; `uploaded` is what was uploaded since the start.
    pub fn take(&self, uploaded: u64, bytes: u64) -> bool {
        let mut state = self.state.lock();
        let (counted, credit) = &mut *state;
        let new = uploaded.saturating_sub(*counted).saturating_mul(MOVED_PER_UPLOADED);
        (*counted, *credit) = (uploaded, credit.saturating_add(new).min(self.most));
        // A window may have more than can ever be saved.
        let bytes = bytes.min(self.most);
        let enough = *credit >= bytes;
        if enough {
            *credit -= bytes;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_pay_for_twice_their_bytes_and_not_all_is_saved() {
        let credit = Credit::new(100);
        assert!(!credit.take(0, 1));
        assert!(credit.take(10, 20) && !credit.take(10, 1));
        assert!(!credit.take(14, 10) && credit.take(15, 10) && !credit.take(15, 1));
        assert!(
            credit.take(1000, 60) && credit.take(1000, 40) && !credit.take(1000, 1),
            "the rest is not saved"
        );
        assert!(!credit.take(1049, 5000) && credit.take(1050, 5000), "what is larger takes all");
    }

    /// Whoever always waits is kept up with: nothing that is uploaded stays unpaid.
    #[test]
    fn steady_uploads_pay_for_steady_windows() {
        let credit = Credit::new(256);
        let moved: u64 = (1..=1000).map(|block| if credit.take(block * 67, 32) { 32 } else { 0 }).sum();
        assert_eq!(moved, 32_000, "each window is paid for");
        let credit = Credit::new(256);
        let mut moved = 0;
        for block in 1..=1000 {
            while credit.take(block * 67, 32) {
                moved += 32;
            }
        }
        assert!((133_900..=134_000).contains(&moved), "twice what was uploaded: {moved}");
    }

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
