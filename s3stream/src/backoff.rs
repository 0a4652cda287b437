//! Pauses between attempts: doubling, jittered, bounded.

use std::time::Duration;

use crate::Config;

#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub fn new(config: &Config) -> Backoff {
        Backoff::between(config.retry_pause_min, config.retry_pause_max)
    }

    pub fn between(first: Duration, max: Duration) -> Backoff {
        Backoff { next: first, max }
    }

    /// Between half and all of a length that doubles with each call.
    pub fn next_pause(&mut self) -> Duration {
        let length = self.next;
        self.next = (length * 2).min(self.max);
        length.mul_f64(rand::random_range(0.5..=1.0))
    }

    pub async fn pause(&mut self) {
        tokio::time::sleep(self.next_pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_bound() {
        let config = Config { retry_pause_max: Duration::from_millis(400), ..Config::default() };
        let mut backoff = Backoff::new(&config);
        for length in [50, 100, 200, 400, 400, 400] {
            let pause = backoff.next_pause();
            assert!(pause <= Duration::from_millis(length) && pause * 2 >= Duration::from_millis(length));
        }
    }
}
