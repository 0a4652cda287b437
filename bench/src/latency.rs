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

    /// In microseconds; 0 for nothing.
    pub fn mean(&self) -> f64 {
        self.0.iter().map(|us| f64::from(*us)).sum::<f64>() / self.0.len().max(1) as f64
    }

    /// One quantile in microseconds; 0 for nothing.
    pub fn at(&self, quantile: f64) -> f64 {
        let mut all = self.0.clone();
        all.sort_unstable();
        f64::from(quantile_of(&all, quantile).unwrap_or(0))
    }

    /// The mean and quantiles in microseconds.
    pub fn summary(mut self) -> Value {
        self.0.sort_unstable();
        let at = |quantile| quantile_of(&self.0, quantile);
        json!({
            "mean_us": self.mean() as u64,
            "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": at(1.0),
        })
    }
}

fn quantile_of(sorted: &[u32], quantile: f64) -> Option<u32> {
    let index = (sorted.len() as f64 * quantile) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied()
}
