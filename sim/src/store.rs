//! The object store: exact in what it keeps, unreliable in how it is reached.
//!
//! A request leaves its machine, arrives after a while, takes effect at that instant, and is answered after a while. Once it
//! has left, a machine that is killed meanwhile may still have written. What goes wrong, by [`Weather`]
//! and by links:
//!
//! | fault | the caller sees | the store |
//! |---|---|---|
//! | refused | 503 | did nothing |
//! | lost on its way | a connection that was reset | did nothing |
//! | lost reply | the same | did it |
//! | late | the same | does it, up to half a minute later |
//! | twice | an answer | does it again later |
//! | slow | an answer after seconds, or its own time-out | did it |
//! | cut link | its own time-out | does what had left before the cut, and some of what was tried during it |
//!
//! - **S1** Creates with If-None-Match are exact: whoever comes first has it, whatever went wrong with the answer.
//! - **S2** A request takes effect at one instant between its call and its answer (W1 of the world).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::machine::{self, Life};
use crate::world::{self, Inner, MachineId, World};

/// How the store is to be reached from a machine.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub least: Duration,
    pub most: Duration,
    pub refused: f64,
    pub lost: f64,
    pub reply_lost: f64,
    pub late: f64,
    pub twice: f64,
    pub slow: f64,
    /// Nothing passes.
    pub cut: bool,
}

impl Weather {
    pub const FAIR: Weather = Weather {
        least: Duration::from_millis(5),
        most: Duration::from_millis(40),
        refused: 0.0,
        lost: 0.0,
        reply_lost: 0.0,
        late: 0.0,
        twice: 0.0,
        slow: 0.0,
        cut: false,
    };
}

/// What a machine is about to ask of the store: for faults that are aimed.
#[derive(Clone, Debug)]
pub struct Asked {
    pub machine: MachineId,
    pub what: &'static str,
    pub key: String,
}

pub struct Bucket {
    pub objects: Arc<InMemory>,
    pub weather: Vec<Weather>,
    /// Requests since the nemesis last looked.
    pub asked: Vec<Asked>,
    /// How many requests of each kind there were.
    pub requests: u64,
    /// PUTs of these machines that leave from now on arrive this much later.
    pub delayed: Vec<Duration>,
    /// One slot of such a machine, the next that it writes, takes this much longer, however often it is tried.
    pub stumbling: Vec<Option<Stumble>>,
}

/// A slot that is slow while those behind it are not.
#[derive(Clone, Debug)]
pub struct Stumble {
    pub time: Duration,
    pub key: Option<String>,
}

impl Bucket {
    pub fn new(machines: usize) -> Bucket {
        Bucket {
            objects: Arc::new(InMemory::new()),
            weather: vec![Weather::FAIR; machines],
            asked: Vec::new(),
            requests: 0,
            delayed: vec![Duration::ZERO; machines],
            stumbling: vec![None; machines],
        }
    }
}

type Effect = Box<dyn FnOnce(&InMemory) + Send>;

/// Something that the store will have done.
pub struct Due {
    life: Life,
    effect: Effect,
    text: String,
}

impl Due {
    /// Who asked for it.
    pub fn life(&self) -> Life {
        self.life
    }

    pub fn happen(self, world: &World, at: Duration) {
        let objects = {
            let mut inner = world.lock();
            inner.note(format_args!("store {} {}", at.as_micros(), self.text));
            inner.bucket.objects.clone()
        };
        (self.effect)(&objects);
    }
}

/// A client of it, on a machine.
#[derive(Clone)]
pub struct Client {
    world: World,
    life: Life,
    timeout: Duration,
}

impl Client {
    pub fn new(world: World, life: Life, timeout: Duration) -> Client {
        Client { world, life, timeout }
    }

    /// Sends a request and waits for the answer, or for something to go wrong. `again`: whether it may arrive twice.
    async fn ask<T: Send + 'static>(
        &self,
        what: &'static str,
        key: &Path,
        is_write: bool,
        effect: impl Fn(&InMemory) -> Result<T> + Send + Clone + 'static,
    ) -> Result<T> {
        let sent = self.send(what, key, is_write, effect);
        let answer = async {
            let (answer, back) = match sent {
                Sent::Answered(answer, back) => (answer.await.map_err(|_| reset())?, back),
                Sent::Failed(error, back) => (Err(error), back),
                Sent::Silence => std::future::pending().await,
            };
            tokio::time::sleep(back).await;
            answer
        };
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(generic("the request timed out")),
        }
    }

    fn send<T: Send + 'static>(
        &self,
        what: &'static str,
        key: &Path,
        is_write: bool,
        effect: impl Fn(&InMemory) -> Result<T> + Send + Clone + 'static,
    ) -> Sent<T> {
        let (life, machine) = (self.life, self.life.machine);
        let mut inner = self.world.lock();
        let inner: &mut Inner = &mut inner;
        let now = machine::precise().unwrap_or(inner.now);
        inner.bucket.requests += 1;
        inner.bucket.asked.push(Asked { machine, what, key: key.to_string() });
        let weather = inner.bucket.weather[machine];
        let mut there = inner.between(weather.least, weather.most);
        let mut back = inner.between(weather.least, weather.most);
        if is_write {
            there += inner.bucket.delayed[machine];
        }
        if let Some(stumble) = &mut inner.bucket.stumbling[machine]
            && what == "put"
            && key.as_ref().starts_with("wal/")
            && *stumble.key.get_or_insert_with(|| key.to_string()) == key.as_ref()
        {
            there += stumble.time;
        }
        if inner.chance(weather.slow) {
            let more = inner.between(Duration::from_millis(200), Duration::from_secs(8));
            if inner.chance(0.5) { there += more } else { back += more }
        }
        let text = format!("{what} {key} by {machine}.{}", self.life.number);
        let due =
            |effect: Effect, how: &str| world::Due::Store(Due { life, effect, text: format!("{text}{how}") });
        let forgotten = {
            let effect = effect.clone();
            move |objects: &InMemory| drop(effect(objects))
        };
        if weather.cut {
            // It may be what had left before, or a retransmission that got through.
            if is_write && inner.chance(0.2) {
                let late = inner.between(Duration::from_millis(50), Duration::from_secs(12));
                inner.at(now + there + late, due(Box::new(forgotten), " (late)"));
            }
            return Sent::Silence;
        }
        if inner.chance(weather.refused) {
            return Sent::Failed(generic("503 Slow Down"), there + back);
        }
        if inner.chance(weather.lost) {
            return Sent::Failed(reset(), there + back);
        }
        if inner.chance(weather.reply_lost) {
            inner.at(now + there, due(Box::new(forgotten), " (unheard)"));
            return Sent::Failed(reset(), there + back);
        }
        if is_write && inner.chance(weather.late) {
            let late = inner.between(Duration::from_millis(100), Duration::from_secs(30));
            inner.at(now + there + late, due(Box::new(forgotten), " (late)"));
            return Sent::Failed(reset(), there + back);
        }
        if is_write && inner.chance(weather.twice) {
            let late = inner.between(Duration::from_millis(100), Duration::from_secs(30));
            inner.at(now + there + late, due(Box::new(forgotten), " (again)"));
        }
        let (answer, answered) = oneshot::channel();
        let done = move |objects: &InMemory| {
            let _ = answer.send(effect(objects));
        };
        inner.at(now + there, due(Box::new(done), ""));
        Sent::Answered(answered, back)
    }
}

enum Sent<T> {
    Answered(oneshot::Receiver<Result<T>>, Duration),
    Failed(Error, Duration),
    Silence,
}

/// What [`InMemory`] does is done when it is asked.
fn now<T>(done: impl Future<Output = T>) -> T {
    done.now_or_never().expect("a store in memory waits for nothing")
}

fn generic(text: &'static str) -> Error {
    Error::Generic { store: "simulated", source: text.into() }
}

fn reset() -> Error {
    generic("the connection was reset")
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the simulated store, from {:?}", self.life)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the simulated store")
    }
}

#[async_trait]
impl ObjectStore for Client {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let key = location.clone();
        self.ask("put", location, true, move |objects| {
            now(objects.put_opts(&key, payload.clone(), options.clone()))
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.ask("begin", location, true, |_| Ok(())).await?;
        Ok(Box::new(Upload { client: self.clone(), key: location.clone(), parts: Arc::default(), count: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let key = location.clone();
        let what = if options.head { "head" } else { "get" };
        self.ask(what, location, false, move |objects| now(objects.get_opts(&key, options.clone()))).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let client = self.clone();
        locations
            .and_then(move |location| {
                let client = client.clone();
                async move {
                    let key = location.clone();
                    client.ask("delete", &location, true, move |objects| now(objects.delete(&key))).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (client, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            let key = prefix.clone().unwrap_or_default();
            let all = client.ask("list", &key, false, move |objects| {
                Ok(now(objects.list(prefix.as_ref()).collect::<Vec<_>>()))
            });
            Ok::<_, Error>(futures::stream::iter(all.await?))
        };
        futures::stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned();
        let key = prefix.clone().unwrap_or_default();
        self.ask("list", &key, false, move |objects| now(objects.list_with_delimiter(prefix.as_ref()))).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (from, key) = (from.clone(), to.clone());
        self.ask("copy", to, true, move |objects| now(objects.copy_opts(&from, &key, options.clone()))).await
    }
}

/// A multipart upload.
struct Upload {
    client: Client,
    key: Path,
    parts: Arc<Mutex<Vec<Option<PutPayload>>>>,
    count: usize,
}

impl fmt::Debug for Upload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Upload({})", self.key)
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (client, key, parts, number) =
            (self.client.clone(), self.key.clone(), self.parts.clone(), self.count);
        self.count += 1;
        Box::pin(async move {
            client
                .ask("part", &key, true, move |_| {
                    let mut parts = parts.lock();
                    let length = parts.len().max(number + 1);
                    parts.resize(length, None);
                    parts[number] = Some(data.clone());
                    Ok(())
                })
                .await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (key, parts) = (self.key.clone(), self.parts.clone());
        self.client
            .ask("complete", &self.key, true, move |objects| {
                let parts = parts.lock().clone();
                let whole: Option<Vec<PutPayload>> = parts.into_iter().collect();
                let Some(whole) = whole else { return Err(generic("400 InvalidPart")) };
                let payload: PutPayload = whole.into_iter().flatten().collect();
                now(objects.put_opts(&key, payload, PutOptions::default()))
            })
            .await
    }

    async fn abort(&mut self) -> Result<()> {
        self.client.ask("abort", &self.key, true, |_| Ok(())).await
    }
}
