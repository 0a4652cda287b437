//! Does a store keep its promise of conditional creates, under a race?
//!
//! Everything rests on that promise (L1), and stores break it in ways that a single client never sees: some check
//! and then write, so that of several racing creates more than one is told that it succeeded; some ignore
//! `If-None-Match` altogether. So before a store is trusted, [`probe`] races creates of fresh keys:
//!
//! ```text
//!   round:  N creates of probe/<uuid>/<round> at once, each with a body of its own
//!           ├─ at most one is told "created"; its body, or that of one whose answer was lost, is what a GET gives
//!           ├─ a further create of the key is refused, and the body stays
//!           └─ a LIST shows the key
//! ```
//!
//! An answer that is neither "created" nor "exists already" proves nothing, nor does "exists already" to the one
//! whose body is there (a client that retries by itself hears that of its own success): bodies decide.
//! It writes under `probe/` only and deletes what it wrote; what a crash leaves there may be deleted at any time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::time::timeout;
use tracing::{debug, warn};
use uuid::Uuid;

/// How hard to try.
#[derive(Clone, Debug)]
pub struct Options {
    /// Concurrent creates in each round. Default 8, at least 2.
    pub writers: usize,
    /// Keys that are raced for. A store that checks and then writes got through one round in twenty. Default 16.
    pub rounds: usize,
    /// Rounds under way at a time. Default 4.
    pub rounds_at_once: usize,
    /// Size of a body, which gives races time to happen. Default 4 KiB.
    pub body_bytes: usize,
    /// The longest wait for one answer. Default 10 s.
    pub request_timeout: Duration,
    /// How often a request without a usable answer is made again. Default 4.
    pub retries: u32,
    /// The pause before the first of them; it doubles. Default 100 ms.
    pub retry_pause: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            writers: 8,
            rounds: 16,
            rounds_at_once: 4,
            body_bytes: 4096,
            request_timeout: Duration::from_secs(10),
            retries: 4,
            retry_pause: Duration::from_millis(100),
        }
    }
}

/// The store kept its promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    pub writers: usize,
    pub rounds: usize,
    /// Creates whose answer was neither "created" nor "exists already", resolved by reading back. Many of them speak
    /// of a store, or a way to it, that is slow or overloaded.
    pub unclear: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeFailure {
    /// The store breaks its promise. It must not be used.
    #[error(
        "this object store does not keep conditional creates (PUT with If-None-Match: *): {0}. \
         Two brokers could both believe that they own the same object, and acknowledged records would be lost. \
         Use a store that keeps them under concurrency (AWS S3, Google Cloud Storage, Azure Blob Storage, \
         Ceph RGW from release 20, a local directory), or a release of this one that does"
    )]
    Unsafe(Seen),
    /// The store did not answer well enough to be judged; trying again makes sense.
    #[error(
        "the object store could not be tested for conditional creates: {0}. \
         Check that it is up, its address, the bucket, and that the credentials may put, get, list and delete"
    )]
    Unavailable(String),
}

/// What went wrong, in how many rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub writers: usize,
    pub rounds: usize,
    /// More than one create of the same key succeeded.
    pub several_winners: usize,
    /// What was read back was not what the only winner wrote.
    pub replaced: usize,
    /// A create of a key that was there already succeeded.
    pub overwritten: usize,
    /// A key was missing just after it had been created.
    pub unreadable: usize,
    /// A key was not listed just after it had been created.
    pub unlisted: usize,
}

impl Seen {
    fn count(&mut self, round: &Round) {
        self.several_winners += usize::from(round.several_winners);
        self.replaced += usize::from(round.replaced);
        self.overwritten += usize::from(round.overwritten);
        self.unreadable += usize::from(round.unreadable);
    }

    fn is_clean(&self) -> bool {
        self.several_winners + self.replaced + self.overwritten + self.unreadable + self.unlisted == 0
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Seen { writers, rounds, .. } = self;
        let several = format!("more than one of {writers} concurrent creates of the same key succeeded");
        let mut separator = "";
        for (count, what) in [
            (self.several_winners, several.as_str()),
            (self.replaced, "the object read back was not the one that the only winner wrote"),
            (self.overwritten, "a create of a key that existed already succeeded"),
            (self.unreadable, "an object was missing just after it had been created"),
            (self.unlisted, "an object was not listed just after it had been created"),
        ] {
            if count > 0 {
                write!(formatter, "{separator}in {count} of {rounds} rounds {what}")?;
                separator = "; ";
            }
        }
        Ok(())
    }
}

/// Races creates against each other and judges the store by what it then holds.
pub async fn probe(store: Arc<dyn ObjectStore>, options: Options) -> Result<Report, ProbeFailure> {
    assert!(options.writers >= 2 && options.rounds >= 1, "a race takes two writers and a round");
    let prefix = Path::from(format!("probe/{}", Uuid::new_v4()));
    let probe = Probe { store: &*store, options: &options, prefix: &prefix };
    let mut rounds = stream::iter(0..options.rounds)
        .map(|round| probe.round(round))
        .buffer_unordered(options.rounds_at_once.max(1));
    let mut seen = Seen { writers: options.writers, rounds: options.rounds, ..Seen::default() };
    let mut unclear = 0;
    let mut unavailable = None;
    while let Some(round) = rounds.next().await {
        match round {
            Ok(round) => {
                seen.count(&round);
                unclear += round.unclear;
            }
            Err(detail) => {
                unavailable = Some(detail);
                break;
            }
        }
    }
    drop(rounds);
    if unavailable.is_none() {
        match probe.unlisted().await {
            Ok(unlisted) => seen.unlisted = unlisted,
            Err(detail) => unavailable = Some(detail),
        }
    }
    probe.delete_all().await;
    // A broken promise outweighs everything that could not be tested.
    if !seen.is_clean() {
        return Err(ProbeFailure::Unsafe(seen));
    }
    match unavailable {
        Some(detail) => Err(ProbeFailure::Unavailable(detail)),
        None => Ok(Report { writers: options.writers, rounds: options.rounds, unclear }),
    }
}

/// What one round showed.
#[derive(Default)]
struct Round {
    several_winners: bool,
    replaced: bool,
    overwritten: bool,
    unreadable: bool,
    unclear: usize,
}

/// What a create was told.
enum Told {
    Created,
    Exists,
    /// Anything else: it may have happened or not.
    Unclear(String),
}

struct Probe<'a> {
    store: &'a dyn ObjectStore,
    options: &'a Options,
    prefix: &'a Path,
}

impl Probe<'_> {
    fn key(&self, round: usize) -> Path {
        self.prefix.clone().join(format!("{round:06}"))
    }

    /// `Err` says why there is no verdict.
    async fn round(&self, number: usize) -> Result<Round, String> {
        let key = self.key(number);
        let mut round = Round::default();
        let mut last = "each was told that it exists already, but it does not".to_owned();
        let mut pause = self.options.retry_pause;
        for _ in 0..=self.options.retries {
            let bodies: Vec<Bytes> = (0..self.options.writers).map(|_| self.body()).collect();
            let told = join_all(bodies.iter().map(|body| self.create(&key, body))).await;
            let winners: Vec<&Bytes> = told
                .iter()
                .zip(&bodies)
                .filter_map(|(told, body)| matches!(told, Told::Created).then_some(body))
                .collect();
            round.unclear += told.iter().filter(|told| matches!(told, Told::Unclear(_))).count();
            round.several_winners |= winners.len() > 1;
            let found = self.read(&key).await?;
            let Some(found) = found else {
                if !winners.is_empty() {
                    round.unreadable = true;
                    return Ok(round);
                }
                // Nobody created it: conflicts or errors all around. Once more; late creates of this turn take part.
                for told in told {
                    if let Told::Unclear(said) = told {
                        last = said;
                    }
                }
                debug!(%key, last, "nobody won");
                tokio::time::sleep(pause).await;
                pause *= 2;
                continue;
            };
            round.replaced |= winners.len() == 1 && found != winners[0];
            round.overwritten = self.overwritten(&key, &found, &mut round.unclear).await?;
            return Ok(round);
        }
        let (tries, writers) = (self.options.retries + 1, self.options.writers);
        Err(format!("nobody could create {key} in {tries} tries of {writers} writers: {last}"))
    }

    /// Whether a create of a key that holds `found` succeeds.
    async fn overwritten(&self, key: &Path, found: &Bytes, unclear: &mut usize) -> Result<bool, String> {
        let body = self.body();
        let mut pause = self.options.retry_pause;
        let mut last = String::new();
        for _ in 0..=self.options.retries {
            match self.create(key, &body).await {
                Told::Created => return Ok(true),
                Told::Exists => {
                    let now = self.read(key).await?;
                    // Gone is as bad as replaced.
                    return Ok(now.as_ref() != Some(found));
                }
                Told::Unclear(said) => last = said,
            }
            *unclear += 1;
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(format!("a create of {key}, which exists, was neither refused nor accepted: {last}"))
    }

    /// Unlike any other body, by its first line.
    fn body(&self) -> Bytes {
        let mut body = format!("Ottla tests this store; this object may be deleted. {}\n", Uuid::new_v4());
        let padding = self.options.body_bytes.saturating_sub(body.len());
        body.extend(std::iter::repeat_n('.', padding));
        Bytes::from(body)
    }

    async fn create(&self, key: &Path, body: &Bytes) -> Told {
        let put = self.store.put_opts(key, PutPayload::from(body.clone()), PutMode::Create.into());
        match timeout(self.options.request_timeout, put).await {
            Ok(Ok(_)) => Told::Created,
            Ok(Err(Error::AlreadyExists { .. } | Error::Precondition { .. })) => Told::Exists,
            Ok(Err(error)) => Told::Unclear(error.to_string()),
            Err(_) => Told::Unclear(self.late()),
        }
    }

    async fn read(&self, key: &Path) -> Result<Option<Bytes>, String> {
        let mut pause = self.options.retry_pause;
        let mut last = String::new();
        for _ in 0..=self.options.retries {
            let read = async {
                let found = self.store.get(key).await?;
                // Bounded: nobody but this probe writes here, and it writes little.
                if found.meta.size > (self.options.body_bytes as u64).max(1024) {
                    return Ok(Bytes::new());
                }
                found.bytes().await
            };
            match timeout(self.options.request_timeout, read).await {
                Ok(Ok(bytes)) => return Ok(Some(bytes)),
                Ok(Err(Error::NotFound { .. })) => return Ok(None),
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => last = self.late(),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(format!("reading {key}: {last}"))
    }

    /// How many rounds' keys a listing does not show.
    async fn unlisted(&self) -> Result<usize, String> {
        let mut pause = self.options.retry_pause;
        let mut last = String::new();
        for _ in 0..=self.options.retries {
            match timeout(self.options.request_timeout, self.list()).await {
                Ok(Ok(listed)) => {
                    let keys = (0..self.options.rounds).map(|round| self.key(round));
                    return Ok(keys.filter(|key| !listed.contains(key)).count());
                }
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => last = self.late(),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(format!("listing {}: {last}", self.prefix))
    }

    async fn list(&self) -> Result<BTreeSet<Path>, Error> {
        let mut listed = BTreeSet::new();
        let mut listing = self.store.list(Some(self.prefix));
        while let Some(meta) = listing.next().await {
            listed.insert(meta?.location);
            if listed.len() > self.options.rounds {
                break;
            }
        }
        Ok(listed)
    }

    /// Best effort: what stays harms nobody.
    async fn delete_all(&self) {
        for round in 0..self.options.rounds {
            let key = self.key(round);
            let failure = match timeout(self.options.request_timeout, self.store.delete(&key)).await {
                Ok(Ok(()) | Err(Error::NotFound { .. })) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => self.late(),
            };
            return warn!(%key, failure, "objects of the store's test were left behind");
        }
    }

    fn late(&self) -> String {
        format!("no answer within {:?}", self.options.request_timeout)
    }
}
