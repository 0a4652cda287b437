//! A store in memory that takes its time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::latency::Latencies;

/// How long a request takes, in seconds.
#[derive(Clone, Copy, Debug)]
pub enum Distribution {
    Uniform {
        from: f64,
        to: f64,
    },
    /// The logarithm is normally distributed: many requests near the median, a few far beyond it.
    LogNormal {
        median: f64,
        sigma: f64,
    },
}

/// Of the standard normal distribution.
const QUANTILE_99: f64 = 2.326_347_874;

impl Distribution {
    pub fn uniform(mean: f64, spread: f64) -> Distribution {
        Distribution::Uniform { from: mean * (1.0 - spread), to: mean * (1.0 + spread) }
    }

    pub fn log_normal(median: f64, p99: f64) -> Distribution {
        Distribution::LogNormal { median, sigma: (p99 / median).ln() / QUANTILE_99 }
    }

    fn draw(&self, random: &mut StdRng) -> f64 {
        match *self {
            Distribution::Uniform { from, to } => from + (to - from) * random.random::<f64>(),
            Distribution::LogNormal { median, sigma } => {
                // Box and Muller.
                let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
                median * (sigma * radius * (std::f64::consts::TAU * random.random::<f64>()).cos()).exp()
            }
        }
    }
}

/// What was asked of the store.
#[derive(Debug, Default)]
pub struct Asked {
    pub puts: u64,
    pub put_bytes: u64,
    pub gets: u64,
    pub lists: u64,
    pub deletes: u64,
    /// Of the PUTs that were answered.
    pub put_latencies: Latencies,
}

/// PUTs and GETs take as long as the distribution says, independently of each other, and as long as their bytes take;
/// a PUT takes effect at a random moment of that. Listings and deletions are immediate. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct SlowStore {
    inner: Arc<InMemory>,
    distribution: Distribution,
    /// The share of requests that stall, and for how many seconds.
    stalls: (f64, f64),
    /// Of one request's body.
    bytes_per_second: f64,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    random: StdRng,
    asked: Asked,
}

impl SlowStore {
    pub fn new(
        distribution: Distribution,
        stalls: (f64, f64),
        bytes_per_second: f64,
        seed: u64,
    ) -> SlowStore {
        let state = State { random: StdRng::seed_from_u64(seed), asked: Asked::default() };
        SlowStore {
            inner: Arc::default(),
            distribution,
            stalls,
            bytes_per_second,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// What was asked since the last time that somebody asked this.
    pub fn take_asked(&self) -> Asked {
        std::mem::take(&mut self.state.lock().asked)
    }

    /// How long the next request takes, and a share of that.
    fn draw(&self, bytes: usize) -> (Duration, Duration) {
        let mut state = self.state.lock();
        let stalled = if state.random.random::<f64>() < self.stalls.0 { self.stalls.1 } else { 0.0 };
        let usual = self.distribution.draw(&mut state.random) + bytes as f64 / self.bytes_per_second;
        let seconds = usual + stalled;
        let share = state.random.random::<f64>();
        (Duration::from_secs_f64(seconds), Duration::from_secs_f64(seconds * share))
    }
}

impl fmt::Display for SlowStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SlowStore({:?})", self.distribution)
    }
}

#[async_trait]
impl ObjectStore for SlowStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let began = Instant::now();
        let bytes = payload.content_length();
        let (takes, applied_after) = self.draw(bytes);
        {
            let asked = &mut self.state.lock().asked;
            asked.puts += 1;
            asked.put_bytes += bytes as u64;
        }
        tokio::time::sleep_until(began + applied_after).await;
        let result = self.inner.put_opts(location, payload, options).await;
        tokio::time::sleep_until(began + takes).await;
        self.state.lock().asked.put_latencies.record(began.elapsed());
        result
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (takes, _) = self.draw(0);
        self.state.lock().asked.gets += 1;
        tokio::time::sleep(takes).await;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let state = self.state.clone();
        let counted = locations.inspect(move |_| state.lock().asked.deletes += 1).boxed();
        self.inner.delete_stream(counted)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.state.lock().asked.lists += 1;
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.state.lock().asked.lists += 1;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(distribution: Distribution) -> Vec<f64> {
        let mut random = StdRng::seed_from_u64(7);
        let mut drawn: Vec<f64> = (0..100_000).map(|_| distribution.draw(&mut random)).collect();
        drawn.sort_unstable_by(f64::total_cmp);
        drawn
    }

    #[test]
    fn distributions_are_what_they_are_called() {
        let even = drawn(Distribution::uniform(0.025, 0.3));
        assert!(even[0] >= 0.0175 && even[99_999] <= 0.0325);
        assert!((even.iter().sum::<f64>() / 1e5 - 0.025).abs() < 1e-4);
        let tailed = drawn(Distribution::log_normal(0.060, 0.250));
        assert!((tailed[50_000] - 0.060).abs() < 0.001, "{}", tailed[50_000]);
        assert!((tailed[99_000] - 0.250).abs() < 0.010, "{}", tailed[99_000]);
    }
}
