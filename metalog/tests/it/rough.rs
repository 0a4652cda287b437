//! A store in memory on simulated time, below a [`FaultStore`] that makes it misbehave.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use faults::{Fault, FaultStore, Operation, Rule};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

/// How likely each fault is, from 0 to 1; the `faults` crate says what they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Any request.
    pub refused: f64,
    pub hang: f64,
    /// Puts.
    pub lost_reply: f64,
    pub hidden_retry: f64,
    pub conflict: f64,
    pub late: f64,
    pub duplicate: f64,
}

/// The store and what a test does to it.
pub struct Rough {
    pub faulty: FaultStore,
    timed: Arc<Timed>,
}

impl Rough {
    pub fn new(seed: u64) -> Arc<Rough> {
        let timed = Arc::new(Timed {
            inner: Arc::new(InMemory::new()),
            state: Arc::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            began: Instant::now(),
        });
        Arc::new(Rough { faulty: FaultStore::new(timed.clone(), seed), timed })
    }

    /// For those who shall suffer.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.faulty.clone())
    }

    /// The objects, without faults and delays.
    pub fn inner(&self) -> &Arc<InMemory> {
        &self.timed.inner
    }

    pub fn set_faults(&self, faults: Faults) {
        self.faulty.heal();
        for operation in [Operation::Put, Operation::Get, Operation::List, Operation::Delete] {
            self.faulty.add(Rule::new(operation, Fault::Refuse).with_probability(faults.refused));
            self.faulty.add(Rule::new(operation, Fault::Hang).with_probability(faults.hang));
        }
        for (fault, probability) in [
            (Fault::LoseReply, faults.lost_reply),
            (Fault::HiddenRetry, faults.hidden_retry),
            (Fault::Conflict, faults.conflict),
            (Fault::Late, faults.late),
            (Fault::Duplicate, faults.duplicate),
        ] {
            self.faulty.add(Rule::new(Operation::Put, fault).with_probability(probability));
        }
    }

    /// Puts and gets take up to this long, before and again after they take effect.
    pub fn set_delay(&self, most: Duration) {
        self.timed.state.lock().delay_max = most;
    }

    /// From now on `If-None-Match` is ignored.
    pub fn ignore_creates(&self) {
        self.timed.state.lock().ignores_creates = true;
    }

    /// From now on the object cannot be read, though it is there.
    pub fn hide(&self, path: &Path) {
        self.faulty.add(Rule::new(Operation::Get, Fault::Hide).under(path.as_ref()));
    }

    /// Runs once, before the next put takes effect.
    pub fn before_next_put(&self, hook: impl FnOnce() + Send + 'static) {
        self.timed.state.lock().before_put = Some(Box::new(hook));
    }

    /// Runs once, before the next get of `path`.
    pub fn before_next_get(&self, path: &Path, hook: impl FnOnce() + Send + 'static) {
        self.timed.state.lock().before_get = Some((path.clone(), Box::new(hook)));
    }

    /// Everything that was deleted, in order.
    pub fn deleted(&self) -> Vec<Path> {
        let log = self.faulty.log();
        log.into_iter().filter_map(|(what, path)| (what == Operation::Delete).then_some(path)).collect()
    }
}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    modified: HashMap<Path, Instant>,
    delay_max: Duration,
    ignores_creates: bool,
    before_put: Option<Hook>,
    before_get: Option<(Path, Hook)>,
}

/// A store in memory whose modification times and delays are tokio's.
struct Timed {
    inner: Arc<InMemory>,
    state: Arc<Mutex<State>>,
    random: Mutex<StdRng>,
    began: Instant,
}

impl std::fmt::Debug for Timed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Timed")
    }
}

impl std::fmt::Display for Timed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Timed")
    }
}

impl Timed {
    async fn delay(&self) {
        let most = self.state.lock().delay_max;
        if !most.is_zero() {
            let delay = most.mul_f64(self.random.lock().random());
            tokio::time::sleep(delay).await;
        }
    }

    fn stamp(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let modified = self.state.lock().modified.get(&meta.location).copied();
        // A day of its own, so that it cannot be taken for the host's.
        let midnight = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * 10_000);
        let since = modified.map_or(Duration::ZERO, |modified| modified - self.began);
        meta.last_modified = (midnight + since).into();
        meta
    }
}

#[async_trait]
impl ObjectStore for Timed {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.delay().await;
        let (hook, ignores) = {
            let mut state = self.state.lock();
            (state.before_put.take(), state.ignores_creates)
        };
        if let Some(hook) = hook {
            hook();
        }
        let options = if ignores { PutMode::Overwrite.into() } else { options };
        let result = self.inner.put_opts(path, payload, options).await;
        if result.is_ok() {
            self.state.lock().modified.insert(path.clone(), Instant::now());
        }
        self.delay().await;
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
        self.delay().await;
        let hook = self.state.lock().before_get.take_if(|(of, _)| of == path);
        if let Some((_, hook)) = hook {
            hook();
        }
        let result = self.inner.get_opts(path, options).await;
        self.delay().await;
        result.map(|result| GetResult { meta: self.stamp(result.meta.clone()), ..result })
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let inner = self.inner.clone();
        paths
            .then(move |path| {
                let inner = inner.clone();
                async move {
                    let path = path?;
                    inner.delete(&path).await.map(|()| path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed: Vec<_> = self
            .inner
            .list(prefix)
            .collect::<Vec<_>>()
            .now_or_never()
            .expect("a list in memory does not wait");
        // In no useful order, as from an S3 directory bucket.
        let stamped: Vec<_> =
            listed.into_iter().rev().map(|meta| meta.map(|meta| self.stamp(meta))).collect();
        futures::stream::iter(stamped).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
