//! A store in memory on simulated time that can be told to misbehave.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

/// How likely each thing is to happen to a request, from 0 to 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Every request takes up to this long; puts and gets twice, before and after they take effect.
    pub delay_max: Duration,
    /// An error, and nothing was done.
    pub refused: f64,
    /// The put took effect, an error is returned.
    pub lost_reply: f64,
    /// The put took effect, "exists already" is returned: a client that retried by itself.
    pub hidden_retry: f64,
    /// "Exists already" is returned, and nothing was done: a 409.
    pub conflict: f64,
    /// An error is returned, and the put takes effect up to `late_max` later.
    pub late: f64,
    pub late_max: Duration,
    /// The put takes effect and is tried again up to `late_max` later.
    pub duplicate: f64,
    /// No answer ever; nothing was done.
    pub hang: f64,
}

/// How the store treats `If-None-Match: *`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creates {
    Atomic,
    /// Checks, then writes.
    Racy,
    /// As if it were not there.
    Ignored,
}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Ledger {
    modified: HashMap<Path, Instant>,
    deleted: Vec<Path>,
    requests: HashMap<&'static str, usize>,
    hidden: HashSet<Path>,
    before_put: Option<Hook>,
    before_get: Option<(Path, Hook)>,
}

pub struct Rough {
    inner: Arc<InMemory>,
    ledger: Arc<Mutex<Ledger>>,
    faults: Mutex<Faults>,
    creates: Creates,
    random: Mutex<StdRng>,
    began: Instant,
}

impl std::fmt::Debug for Rough {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Rough")
    }
}

impl std::fmt::Display for Rough {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Rough")
    }
}

impl Rough {
    pub fn new(seed: u64) -> Arc<Rough> {
        Self::with_creates(seed, Creates::Atomic)
    }

    pub fn with_creates(seed: u64, creates: Creates) -> Arc<Rough> {
        Arc::new(Rough {
            inner: Arc::new(InMemory::new()),
            ledger: Arc::default(),
            faults: Mutex::default(),
            creates,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            began: Instant::now(),
        })
    }

    pub fn set_faults(&self, faults: Faults) {
        *self.faults.lock() = faults;
    }

    /// From now on the object cannot be read, though it is there.
    pub fn hide(&self, path: &Path) {
        self.ledger.lock().hidden.insert(path.clone());
    }

    /// Runs once, before the next put takes effect.
    pub fn before_next_put(&self, hook: impl FnOnce() + Send + 'static) {
        self.ledger.lock().before_put = Some(Box::new(hook));
    }

    /// Runs once, before the next get of `path`.
    pub fn before_next_get(&self, path: &Path, hook: impl FnOnce() + Send + 'static) {
        self.ledger.lock().before_get = Some((path.clone(), Box::new(hook)));
    }

    /// Everything that was deleted, in order.
    pub fn deleted(&self) -> Vec<Path> {
        self.ledger.lock().deleted.clone()
    }

    /// How many requests of a kind ("put", "get", "head", "delete", "list") came so far.
    pub fn requests(&self, kind: &str) -> usize {
        self.ledger.lock().requests.get(kind).copied().unwrap_or(0)
    }

    /// The store itself, without faults.
    pub fn inner(&self) -> &Arc<InMemory> {
        &self.inner
    }

    fn count(&self, kind: &'static str) {
        *self.ledger.lock().requests.entry(kind).or_default() += 1;
    }

    fn happens(&self, probability: f64) -> bool {
        probability > 0.0 && self.random.lock().random_bool(probability)
    }

    fn up_to(&self, most: Duration) -> Duration {
        most.mul_f64(self.random.lock().random())
    }

    async fn delay(&self) {
        let delay = self.up_to(self.faults.lock().delay_max);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    /// What may happen to any request before it does anything.
    async fn receive(&self) -> Result<()> {
        self.delay().await;
        let faults = *self.faults.lock();
        if self.happens(faults.hang) {
            std::future::pending::<()>().await;
        }
        if self.happens(faults.refused) { Err(error("503 Slow Down")) } else { Ok(()) }
    }

    /// The put at the store, at once.
    fn effect(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let options = match self.creates {
            Creates::Ignored => PutOptions { mode: PutMode::Overwrite, ..options },
            _ => options,
        };
        let put = self.inner.put_opts(path, payload, options).now_or_never();
        let result = put.expect("a put in memory does not wait");
        if result.is_ok() {
            self.ledger.lock().modified.insert(path.clone(), Instant::now());
        }
        result
    }

    fn effect_later(&self, path: &Path, payload: PutPayload, options: PutOptions, most: Duration) {
        let later = self.up_to(most);
        let path = path.clone();
        let (inner, ledger) = (self.inner.clone(), self.ledger.clone());
        tokio::spawn(async move {
            tokio::time::sleep(later).await;
            if inner.put_opts(&path, payload, options).await.is_ok() {
                ledger.lock().modified.insert(path, Instant::now());
            }
        });
    }

    fn stamp(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let modified = self.ledger.lock().modified.get(&meta.location).copied();
        // A day of its own, so that it cannot be taken for the host's.
        let midnight = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * 10_000);
        let since = modified.map_or(Duration::ZERO, |modified| modified.duration_since(self.began));
        meta.last_modified = (midnight + since).into();
        meta
    }
}

fn error(what: &'static str) -> Error {
    Error::Generic { store: "Rough", source: what.into() }
}

fn exists(path: &Path) -> Error {
    Error::AlreadyExists { path: path.to_string(), source: "412".into() }
}

#[async_trait]
impl ObjectStore for Rough {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.count("put");
        self.receive().await?;
        let hook = self.ledger.lock().before_put.take();
        if let Some(hook) = hook {
            hook();
        }
        let faults = *self.faults.lock();
        if self.happens(faults.conflict) {
            return Err(exists(path));
        }
        if self.happens(faults.late) {
            self.effect_later(path, payload, options, faults.late_max);
            return Err(error("connection reset"));
        }
        if self.happens(faults.duplicate) {
            self.effect_later(path, payload.clone(), options.clone(), faults.late_max);
        }
        if self.creates == Creates::Racy && matches!(options.mode, PutMode::Create) {
            if self.inner.head(path).await.is_ok() {
                return Err(exists(path));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            return self.effect(path, payload, PutOptions { mode: PutMode::Overwrite, ..options });
        }
        let result = self.effect(path, payload, options);
        self.delay().await;
        if result.is_ok() && self.happens(faults.lost_reply) {
            return Err(error("connection reset"));
        }
        if result.is_ok() && self.happens(faults.hidden_retry) {
            return Err(exists(path));
        }
        result
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.count(if options.head { "head" } else { "get" });
        self.receive().await?;
        let hook = self.ledger.lock().before_get.take_if(|(of, _)| of == path);
        if let Some((_, hook)) = hook {
            hook();
        }
        if self.ledger.lock().hidden.contains(path) {
            return Err(Error::NotFound { path: path.to_string(), source: "404".into() });
        }
        let result = self.inner.get_opts(path, options).await;
        self.delay().await;
        result.map(|result| GetResult { meta: self.stamp(result.meta.clone()), ..result })
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, ledger) = (self.inner.clone(), self.ledger.clone());
        paths
            .then(move |path| {
                let (inner, ledger) = (inner.clone(), ledger.clone());
                async move {
                    let path = path?;
                    inner.delete(&path).await?;
                    let mut ledger = ledger.lock();
                    *ledger.requests.entry("delete").or_default() += 1;
                    ledger.deleted.push(path.clone());
                    Ok(path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count("list");
        let listed: Vec<_> = self
            .inner
            .list(prefix)
            .collect::<Vec<_>>()
            .now_or_never()
            .expect("a list in memory does not wait");
        let refused = self.happens(self.faults.lock().refused).then(|| Err(error("503 Slow Down")));
        let listed: Vec<_> =
            listed.into_iter().map(|meta| meta.map(|meta| self.stamp(meta))).chain(refused).collect();
        futures::stream::iter(listed).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
