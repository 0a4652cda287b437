//! What a broker's partitions cost it, as it tells the others: bytes appended and read, a second, of late.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Peers;
use crate::partition::Partitions;

/// How often it is measured. No option: it costs nothing, and nobody needs it sooner.
const INTERVAL: Duration = Duration::from_secs(5);

/// What was longer ago counts for little: a change is told by two thirds after so long. No option: a load that lasts for less
/// is no reason to put partitions elsewhere, which stay there.
const MEMORY: Duration = Duration::from_secs(30);

/// A rate that follows what is counted, smoothly.
#[derive(Debug, Default)]
struct Rate {
    last: Option<(Duration, u64)>,
    per_second: f64,
}

impl Rate {
    /// `total` was counted up to `now`.
    fn observe(&mut self, now: Duration, total: u64) -> u64 {
        if let Some((then, before)) = self.last
            && now > then
        {
            let elapsed = (now - then).as_secs_f64();
            let present = total.saturating_sub(before) as f64 / elapsed;
            let weight = 1.0 - (-elapsed / MEMORY.as_secs_f64()).exp();
            self.per_second += (present - self.per_second) * weight;
        }
        self.last = Some((now, total));
        self.per_second as u64
    }
}

/// Has `peers` told of the load of `partitions`, as long as those are open. Must be called inside a tokio runtime.
pub fn tell(partitions: &Arc<Partitions>, peers: &Arc<Peers>) {
    let (told, closing) = (peers.clone(), partitions.closing().clone());
    let storage = partitions.storage().clone();
    let telling = async move {
        let (mut rate, began) = (Rate::default(), Instant::now());
        while closing.run_until_cancelled(sleep(INTERVAL)).await.is_some() {
            let traffic = storage.status().traffic;
            let bytes = traffic.appended_bytes.saturating_add(traffic.read_bytes);
            told.set_load(rate.observe(began.elapsed(), bytes));
        }
    };
    partitions.tasks.keep("the measuring of load", telling);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_follows_what_lasts_and_forgets() {
        let mut rate = Rate::default();
        let seconds = Duration::from_secs;
        assert_eq!(rate.observe(seconds(0), 1_000_000), 0, "what was before nobody knows");
        let mut total = 1_000_000;
        for at in 1..=60 {
            total += 5_000;
            let now = rate.observe(seconds(5 * at), total);
            assert!(now < 1_000);
            assert!(at < 60 || now > 990, "{now}");
        }
        assert!(rate.observe(seconds(360), total) < 400, "after a minute of nothing little is left");
        assert_eq!(rate.observe(seconds(360), total), rate.observe(seconds(360), total));
    }
}
