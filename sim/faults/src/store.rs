//! The store itself.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::hold::{Holding, Verdict};
use crate::{Fault, Operation, Rule};

/// Requests so far, hit by a fault or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub puts: u64,
    pub gets: u64,
    pub deletes: u64,
    pub lists: u64,
}

impl Counts {
    pub(crate) fn count(&mut self, operation: Operation) {
        match operation {
            Operation::Put => self.puts += 1,
            Operation::Get => self.gets += 1,
            Operation::Delete => self.deletes += 1,
            Operation::List => self.lists += 1,
        }
    }
}

/// A store that does what its rules say, and else what the store that it wraps does. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
    holding: Holding,
}

#[derive(Debug)]
struct State {
    random: StdRng,
    rules: Vec<Rule>,
    outage: bool,
    careless: bool,
    late: Vec<Late>,
    counts: Counts,
    log: Vec<(Operation, Path)>,
}

/// A PUT that lands when it is told to.
#[derive(Clone, Debug)]
struct Late {
    key: Path,
    payload: PutPayload,
    options: PutOptions,
}

impl FaultStore {
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64) -> FaultStore {
        FaultStore {
            inner,
            state: Arc::new(Mutex::new(State {
                random: StdRng::seed_from_u64(seed),
                rules: Vec::new(),
                outage: false,
                careless: false,
                late: Vec::new(),
                counts: Counts::default(),
                log: Vec::new(),
            })),
            holding: Holding::default(),
        }
    }

    /// Over a fresh store in memory.
    pub fn in_memory(seed: u64) -> FaultStore {
        FaultStore::new(Arc::new(object_store::memory::InMemory::new()), seed)
    }

    /// Adds a rule behind those that are there.
    pub fn add(&self, rule: Rule) {
        self.state.lock().rules.push(rule);
    }

    /// Removes all rules and ends an outage. Late PUTs stay late.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.rules.clear();
        state.outage = false;
    }

    /// While out, every request is refused.
    pub fn set_outage(&self, out: bool) {
        self.state.lock().outage = out;
    }

    /// Makes conditional creates check first and write then, with the chance for others to do the same in between.
    pub fn careless(&self) {
        self.state.lock().careless = true;
    }

    /// From here on PUTs wait before they reach the store.
    pub fn hold_puts(&self) {
        self.holding.hold();
    }

    /// Keys of the PUTs that wait, oldest first.
    pub fn held_puts(&self) -> Vec<Path> {
        self.holding.held()
    }

    /// Lets the `nth` oldest held PUT through.
    ///
    /// # Panics
    /// If there is none.
    pub fn complete_put(&self, nth: usize) {
        self.holding.decide(nth, Verdict::Complete);
    }

    /// The `nth` oldest held PUT is applied, and its caller never hears of it.
    ///
    /// # Panics
    /// If there is none.
    pub fn silence_put(&self, nth: usize) {
        self.holding.decide(nth, Verdict::Silent);
    }

    /// The `nth` oldest held PUT never reaches the store, and its caller never hears of it.
    ///
    /// # Panics
    /// If there is none.
    pub fn forget_put(&self, nth: usize) {
        self.holding.decide(nth, Verdict::Lost);
    }

    /// The `nth` oldest held PUT never reaches the store; its caller gets an error.
    ///
    /// # Panics
    /// If there is none.
    pub fn drop_put(&self, nth: usize) {
        self.holding.decide(nth, Verdict::Drop);
    }

    /// Lets all held PUTs through and holds no more.
    pub fn resume_puts(&self) {
        self.holding.resume();
    }

    /// Applies the PUTs that were late or doubled, in the order in which they were sent. Returns how many took effect.
    pub async fn land_late(&self) -> usize {
        let late = std::mem::take(&mut self.state.lock().late);
        let mut landed = 0;
        for put in late {
            landed += usize::from(self.inner.put_opts(&put.key, put.payload, put.options).await.is_ok());
        }
        landed
    }

    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// Every request so far: what, and of which key (or prefix).
    pub fn log(&self) -> Vec<(Operation, Path)> {
        self.state.lock().log.clone()
    }

    /// What lies beneath, without faults: for tests that look or tamper.
    pub fn inner(&self) -> Arc<dyn ObjectStore> {
        self.inner.clone()
    }

    /// Overwrites an object behind everybody's back.
    pub async fn tamper(&self, key: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.inner.get(key).await.unwrap().bytes().await.unwrap().to_vec();
        change(&mut bytes);
        self.inner.put(key, PutPayload::from(bytes)).await.unwrap();
    }

    /// Counts the request and picks its fault.
    fn strike(&self, operation: Operation, key: &Path) -> Option<Fault> {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.counts.count(operation);
        state.log.push((operation, key.clone()));
        if state.outage {
            return Some(Fault::Refuse);
        }
        for rule in &mut state.rules {
            if rule.strikes(operation, key, state.random.random()) {
                return Some(rule.fault);
            }
        }
        None
    }

    /// Applies a PUT, with or without the carelessness of check-then-write.
    async fn apply_put(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if self.state.lock().careless && matches!(options.mode, PutMode::Create) {
            if self.inner.head(key).await.is_ok() {
                return Err(already_exists(key, "412 Precondition Failed"));
            }
            // The gap between the check and the write, wide enough that racing writers meet in it.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            return self.inner.put_opts(key, payload, PutOptions::from(PutMode::Overwrite)).await;
        }
        self.inner.put_opts(key, payload, options).await
    }

    fn postpone(&self, key: &Path, payload: &PutPayload, options: &PutOptions) {
        let late = Late { key: key.clone(), payload: payload.clone(), options: options.clone() };
        self.state.lock().late.push(late);
    }
}

/// What a request meets before it is answered, whatever its kind: refusal, delay, silence.
async fn before(fault: Option<Fault>) -> Result<()> {
    match fault {
        Some(Fault::Refuse) => Err(generic("503 Slow Down")),
        Some(Fault::Fail) => Err(generic("500 Internal Server Error")),
        Some(Fault::Expire) => Err(generic("400 ExpiredToken")),
        Some(Fault::Forbid) => {
            Err(Error::PermissionDenied { path: String::new(), source: "403 Forbidden".into() })
        }
        Some(Fault::Cut) => Err(generic("the connection was reset")),
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Delay(time)) => {
            tokio::time::sleep(time).await;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn generic(text: &'static str) -> Error {
    Error::Generic { store: "FaultStore", source: text.into() }
}

fn already_exists(key: &Path, text: &'static str) -> Error {
    Error::AlreadyExists { path: key.to_string(), source: text.into() }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FaultStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.strike(Operation::Put, location);
        before(fault).await?;
        match fault {
            Some(Fault::Conflict) => return Err(already_exists(location, "409 Conflict")),
            Some(Fault::Late) => {
                self.postpone(location, &payload, &options);
                return Err(generic("the connection was reset"));
            }
            Some(Fault::Duplicate) => self.postpone(location, &payload, &options),
            _ => {}
        }
        let verdict = self.holding.pass(location).await;
        match verdict {
            Verdict::Drop => return Err(generic("the connection was reset")),
            Verdict::Lost => return std::future::pending().await,
            Verdict::Complete | Verdict::Silent => {}
        }
        let applied = self.apply_put(location, payload, options).await?;
        if verdict == Verdict::Silent {
            return std::future::pending().await;
        }
        match fault {
            Some(Fault::LoseReply) => Err(generic("500 Internal Server Error")),
            Some(Fault::HiddenRetry) => Err(already_exists(location, "412 Precondition Failed")),
            _ => Ok(applied),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        before(self.strike(Operation::Put, location)).await?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.strike(Operation::Get, location);
        before(fault).await?;
        if fault == Some(Fault::Hide) {
            return Err(Error::NotFound { path: location.to_string(), source: "404 Not Found".into() });
        }
        let result = self.inner.get_opts(location, options).await?;
        match fault {
            Some(Fault::LoseReply) => Err(generic("the connection was reset")),
            Some(Fault::Truncate(length)) => damaged(result, |body| body.truncate(length)).await,
            Some(Fault::CutBody(length)) => broken(result, length).await,
            Some(Fault::FlipBit(bit)) => {
                let flip = |body: &mut Vec<u8>| {
                    if !body.is_empty() {
                        let bit = bit % (body.len() as u64 * 8);
                        body[(bit / 8) as usize] ^= 1 << (bit % 8);
                    }
                };
                damaged(result, flip).await
            }
            _ => Ok(result),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .and_then(move |location| {
                let store = store.clone();
                async move {
                    let fault = store.strike(Operation::Delete, &location);
                    before(fault).await?;
                    store.inner.delete(&location).await?;
                    if fault == Some(Fault::LoseReply) { Err(generic("500")) } else { Ok(location) }
                }
            })
            .boxed()
    }

    /// In no useful order, as from an S3 directory bucket.
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let fault = self.strike(Operation::List, &prefix.cloned().unwrap_or_default());
        let listing = self.inner.list(prefix);
        let answered = async move {
            before(fault).await?;
            if fault == Some(Fault::Hide) {
                return Ok(futures::stream::iter(Vec::new()));
            }
            let mut listed: Vec<Result<ObjectMeta>> = listing.collect().await;
            listed.reverse();
            Ok::<_, Error>(futures::stream::iter(listed))
        };
        futures::stream::once(answered).try_flatten().boxed()
    }

    /// Everything: not every store heeds where to begin.
    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        _offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        before(self.strike(Operation::List, &prefix.cloned().unwrap_or_default())).await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        before(self.strike(Operation::Put, to)).await?;
        self.inner.copy_opts(from, to, options).await
    }
}

/// The body's first `length` bytes, and an error.
async fn broken(result: GetResult, length: usize) -> Result<GetResult> {
    let result = damaged(result, |body| body.truncate(length)).await?;
    let GetResult { payload, meta, range, attributes, extensions } = result;
    let GetResultPayload::Stream(beginning) = payload else { unreachable!("damaged bodies are streams") };
    let end = futures::stream::iter([Err(generic("the connection was reset"))]);
    let payload = GetResultPayload::Stream(beginning.chain(end).boxed());
    Ok(GetResult { payload, meta, range, attributes, extensions })
}

async fn damaged(result: GetResult, damage: impl FnOnce(&mut Vec<u8>)) -> Result<GetResult> {
    let (meta, attributes, range, extensions) =
        (result.meta.clone(), result.attributes.clone(), result.range.clone(), result.extensions.clone());
    let mut body = result.bytes().await?.to_vec();
    damage(&mut body);
    let body: Result<Bytes> = Ok(Bytes::from(body));
    let payload = GetResultPayload::Stream(futures::stream::iter([body]).boxed());
    Ok(GetResult { payload, meta, range, attributes, extensions })
}
