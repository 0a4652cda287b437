//! An in-memory store whose GETs a test delays, counts and spoils.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

/// What happens to a GET.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    Fine,
    Refused,
    /// The body ends after so many bytes.
    Truncated(usize),
    /// The byte at this place of the object, if it is in the range, has a bit flipped.
    Flipped(u64),
    /// Nothing ever comes back.
    Silent,
}

#[derive(Debug, Default)]
pub struct State {
    /// For the next GETs; then `always`.
    pub next: VecDeque<Fate>,
    pub always: Option<Fate>,
    pub latency: Duration,
    pub gets: Vec<(Path, Range<u64>)>,
    in_flight_bytes: u64,
    pub in_flight_bytes_max: u64,
    in_flight: usize,
    pub in_flight_max: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Probe {
    pub inner: Arc<InMemory>,
    state: Arc<Mutex<State>>,
}

impl Probe {
    pub fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock())
    }

    pub fn gets(&self) -> usize {
        self.state.lock().gets.len()
    }
}

/// Counts a GET out again, however it ends.
struct Flying(Arc<Mutex<State>>, u64);

impl Drop for Flying {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.in_flight_bytes -= self.1;
        state.in_flight -= 1;
    }
}

impl std::fmt::Display for Probe {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Probe")
    }
}

#[async_trait]
impl ObjectStore for Probe {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head {
            return self.inner.get_opts(location, options).await;
        }
        let Some(GetRange::Bounded(range)) = options.range.clone() else { panic!("a GET without a range") };
        let bytes = range.end - range.start;
        let (fate, latency, _flying) = self.with(|state| {
            state.gets.push((location.clone(), range.clone()));
            state.in_flight += 1;
            state.in_flight_bytes += bytes;
            state.in_flight_max = state.in_flight_max.max(state.in_flight);
            state.in_flight_bytes_max = state.in_flight_bytes_max.max(state.in_flight_bytes);
            let fate = state.next.pop_front().or(state.always).unwrap_or(Fate::Fine);
            (fate, state.latency, Flying(Arc::clone(&self.state), bytes))
        });
        tokio::time::sleep(latency).await;
        let refused = || object_store::Error::Generic { store: "Probe", source: "503 Slow Down".into() };
        match fate {
            Fate::Refused => return Err(refused()),
            Fate::Silent => std::future::pending().await,
            Fate::Fine | Fate::Truncated(_) | Fate::Flipped(_) => {}
        }
        let result = self.inner.get_opts(location, options).await?;
        let (meta, attributes, range) =
            (result.meta.clone(), result.attributes.clone(), result.range.clone());
        let extensions = result.extensions.clone();
        let mut body = result.bytes().await?.to_vec();
        match fate {
            Fate::Truncated(len) => body.truncate(len),
            Fate::Flipped(at) if range.contains(&at) => body[(at - range.start) as usize] ^= 4,
            _ => {}
        }
        // In uneven chunks, as a network has them.
        let chunks: Vec<Result<Bytes>> =
            body.chunks(100_003).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let payload = GetResultPayload::Stream(futures::stream::iter(chunks).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
