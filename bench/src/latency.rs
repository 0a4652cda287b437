//! Durations and what they come to.

use std::time::Duration;

use serde_json::{Value, json};

/// Every duration of a run, in microseconds.
#[derive(Debug, Default)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    pub fn record(&mut self, duration: Duration) {
        self.0.push(u32::try_from(duration.as_micros()).unwrap_or(u32::MAX));
    }

    pub fn merge(&mut self, other: Latencies) {
        self.0.extend(other.0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Quantiles in microseconds.
    pub fn summary(mut self) -> Value {
        self.0.sort_unstable();
        let at = |quantile: f64| {
            let index = (self.0.len() as f64 * quantile) as usize;
            self.0.get(index.min(self.0.len().saturating_sub(1))).copied()
        };
        json!({ "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": at(1.0) })
    }
}
