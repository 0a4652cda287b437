//! The log as objects: conditional create, reads, and the walk to the tail.
//!
//! # Consistency
//! A create that plainly succeeded is believed; every other answer is resolved by reading the object back (L3). The
//! same bytes are tried for the same number until its owner is known or the caller is told that the outcome is
//! unknown. A request that was given up may still reach the store later: for a number that has an owner it changes
//! nothing, and for one that has none it competes like any other create.
//!
//! # Retries, cancellation
//! Every request has a time-out; every operation retries with growing, jittered pauses until its own time is up, or
//! until the replica is closed.
//!
//! # What a missing entry means
//! Either the tail was reached, or the reader slept until the number was deleted, or the store hides an object.
//! Entries are deleted in ascending order, so while entry n stands, whatever is missing behind it was never there, unless
//! something but this program deleted it: so before a replica is opened, a listing must not show anything further on.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, Either, select};
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::entry::{ENTRY_BYTES_LIMIT, Entry, HEADER_BYTES, Header, Nonce};
use crate::{Clock, Config, Error};

/// How often an object that does not decode is read again before it counts as damaged: a transfer may have been cut.
const REREADS: u32 = 4;
/// The most snapshots that one listing considers, the newest ones. There are rarely more than a few.
const SNAPSHOTS_LISTED_MAX: usize = 1024;

pub(crate) fn entry_path(number: u64) -> Path {
    Path::from(format!("meta/log/{number:020}"))
}

fn entry_prefix() -> Path {
    Path::from("meta/log")
}

pub(crate) fn snapshot_path(number: u64) -> Path {
    Path::from(format!("meta/snapshot/{number:020}"))
}

/// There once the first entry was deleted.
pub(crate) fn trimmed_path() -> Path {
    Path::from("meta/trimmed")
}

pub(crate) fn snapshot_prefix() -> Path {
    Path::from("meta/snapshot")
}

/// The log's objects in a store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Log {
    pub store: Arc<dyn ObjectStore>,
    pub config: Arc<Config>,
    /// Ends retries.
    pub closing: CancellationToken,
}

/// Who owns the number of a create.
#[derive(Debug)]
pub(crate) enum Created {
    Won,
    /// Somebody else's entry is there.
    Lost(Entry),
}

/// What a missing entry was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The log ended before it.
    Tail,
    /// The reader's own last entry is gone or another: its view is worth nothing.
    Stale,
}

/// A snapshot as a listing shows it.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub number: u64,
    /// By the store's clock, milliseconds since the Unix epoch.
    pub modified_ms: i64,
}

impl Log {
    /// Creates `entry`'s number, or learns who owns it. Errors are [`Error::Unknown`] and [`Error::Corrupt`]; after
    /// either the create may still take effect.
    ///
    /// Each time that nobody was found to own it, `free` is told when that read began, by `clock`.
    pub async fn create(
        &self,
        entry: &Entry,
        clock: &dyn Clock,
        mut free: impl FnMut(Duration) + Send,
    ) -> Result<Created, Error> {
        let path = entry_path(entry.number);
        let payload = PutPayload::from(entry.encode());
        let mut pauses = self.pauses();
        let mut missed = 0;
        loop {
            let refusal = match self.put(&path, payload.clone(), self.config.request_timeout).await {
                Ok(()) => return Ok(Created::Won),
                Err(refusal) => refusal,
            };
            debug!(%path, %refusal, "a create did not plainly succeed; reading it back");
            let began = clock.boottime();
            match self.read_until(entry.number, &mut pauses).await {
                Ok(Some(found)) if found.nonce != entry.nonce => return Ok(Created::Lost(found)),
                Ok(Some(found)) if found == *entry => return Ok(Created::Won),
                Ok(Some(_)) => {
                    return Err(corrupt(&path, "another entry carries the nonce of this replica's own"));
                }
                Ok(None) => {
                    missed += 1;
                    free(began);
                }
                Err(Error::Unavailable(detail)) => return Err(Error::Unknown(detail)),
                Err(error) => return Err(error),
            }
            // "Exists already", but nothing to be read, again and again: a store that hides an object?
            if missed > 1 {
                match self.missing(entry.number, entry.predecessor).await {
                    Ok(Missing::Tail) => {}
                    Ok(Missing::Stale) => {
                        return Err(Error::Unknown("the view that it was made on is out of date".into()));
                    }
                    Err(Error::Unavailable(detail)) => return Err(Error::Unknown(detail)),
                    Err(error) => return Err(error),
                }
            }
            if !pauses.pause().await {
                return Err(Error::Unknown(format!("creating {path}: {refusal}")));
            }
        }
    }

    /// The entry of that number, if it is there.
    pub async fn read(&self, number: u64) -> Result<Option<Entry>, Error> {
        self.read_until(number, &mut self.pauses()).await
    }

    async fn read_until(&self, number: u64, pauses: &mut Pauses) -> Result<Option<Entry>, Error> {
        let path = entry_path(number);
        let decode = |bytes| {
            let entry = Entry::decode(bytes).map_err(|error| error.to_string())?;
            check_number(entry.number, number).map(|()| entry)
        };
        self.fetch(&Wanted::entry(&path, &self.config), pauses, decode).await
    }

    /// The nonce of the entry of that number, if it is there. Reads the header alone.
    pub async fn nonce_of(&self, number: u64) -> Result<Option<Nonce>, Error> {
        let path = entry_path(number);
        let decode = |bytes: Bytes| {
            let header = Header::decode(&bytes).map_err(|error| error.to_string())?;
            check_number(header.number, number).map(|()| header.nonce)
        };
        let wanted = Wanted { first_bytes: Some(HEADER_BYTES), ..Wanted::entry(&path, &self.config) };
        self.fetch(&wanted, &mut self.pauses(), decode).await
    }

    /// Whether entry `number` still stands with the nonce that is known of it. While it does, no later entry was ever
    /// deleted (L5). Before the first entry: whether none was deleted yet.
    pub async fn stands(&self, number: u64, nonce: Nonce) -> Result<bool, Error> {
        if number == 0 {
            return Ok(!self.was_trimmed().await?);
        }
        match self.nonce_of(number).await? {
            None => Ok(false),
            Some(found) if found == nonce => Ok(true),
            // A header by itself has no checksum, so this may be damage on the way; the whole entry tells.
            Some(_) => Ok(self.read(number).await?.is_some_and(|entry| entry.nonce == nonce)),
        }
    }

    /// What it means that entry `number` was not found, to a reader that knows its predecessor's nonce.
    /// [`Error::Corrupt`] if an entry lies behind it: a gap is never skipped.
    pub async fn missing(&self, number: u64, predecessor: Nonce) -> Result<Missing, Error> {
        // Whoever created the entry behind had seen this one; so a second look must find it.
        let hidden = self.nonce_of(number + 1).await?.is_some() && self.nonce_of(number).await?.is_none();
        if !self.stands(number - 1, predecessor).await? {
            return Ok(Missing::Stale);
        }
        if hidden {
            let behind = entry_path(number + 1);
            return Err(corrupt(&entry_path(number), format!("it is missing, but {behind} is there")));
        }
        Ok(Missing::Tail)
    }

    /// [`Error::Corrupt`] if a listing shows entries behind `number`, which was found missing at the log's end: the gap
    /// may be wider than [`missing`](Log::missing) looks. A listing proves nothing by what it lacks.
    pub async fn nothing_behind(&self, number: u64) -> Result<(), Error> {
        let mut pauses = self.pauses();
        let listed = loop {
            match self.list_behind(number).await {
                Ok(listed) => break listed,
                Err(failure) => pauses.pause_or(|| format!("listing entries: {failure}")).await?,
            }
        };
        match listed {
            // Others may have appended since.
            Some(behind) if self.nonce_of(number).await?.is_none() => {
                Err(corrupt(&entry_path(number), format!("it is missing, but {behind} is there")))
            }
            _ => Ok(()),
        }
    }

    async fn list_behind(&self, number: u64) -> Result<Option<Path>, String> {
        let mut listing = self.store.list_with_offset(Some(&entry_prefix()), &entry_path(number));
        loop {
            let next = timeout(self.config.request_timeout, listing.next()).await;
            match next.map_err(|_| late(self.config.request_timeout))? {
                None => return Ok(None),
                Some(item) => {
                    let path = item.map_err(|error| error.to_string())?.location;
                    let listed = path.filename().and_then(|name| name.parse::<u64>().ok());
                    if listed.is_some_and(|listed| listed > number && entry_path(listed) == path) {
                        return Ok(Some(path));
                    }
                }
            }
        }
    }

    /// Reads on from entry `from`, several entries ahead once there are several.
    pub fn walk(&self, from: u64) -> Walk {
        Walk { log: self.clone(), next: from, found: 0, bytes_max: 0, ahead: FuturesOrdered::new() }
    }

    /// Whether entries were deleted from this log.
    pub async fn was_trimmed(&self) -> Result<bool, Error> {
        Ok(self.modified_ms(&trimmed_path()).await?.is_some())
    }

    /// When an object was written, by the store's clock; `None` if it is not there.
    pub async fn modified_ms(&self, path: &Path) -> Result<Option<i64>, Error> {
        let mut pauses = self.pauses();
        loop {
            let failure = match timeout(self.config.request_timeout, self.store.head(path)).await {
                Ok(Ok(meta)) => return Ok(Some(meta.last_modified.timestamp_millis())),
                Ok(Err(object_store::Error::NotFound { .. })) => return Ok(None),
                Ok(Err(error)) => error.to_string(),
                Err(_) => late(self.config.request_timeout),
            };
            pauses.pause_or(|| format!("looking for {path}: {failure}")).await?;
        }
    }

    /// The newest snapshots, newest first.
    pub async fn snapshots(&self) -> Result<Vec<Listed>, Error> {
        let mut pauses = self.pauses();
        loop {
            match self.list_snapshots().await {
                Ok(listed) => return Ok(listed),
                Err(failure) => pauses.pause_or(|| format!("listing snapshots: {failure}")).await?,
            }
        }
    }

    async fn list_snapshots(&self) -> Result<Vec<Listed>, String> {
        let mut newest = BTreeMap::new();
        let prefix = snapshot_prefix();
        let mut listing = self.store.list(Some(&prefix));
        while let Some(item) = timeout(self.config.request_timeout, listing.next())
            .await
            .map_err(|_| late(self.config.request_timeout))?
        {
            let meta = item.map_err(|error| error.to_string())?;
            let number = meta.location.filename().and_then(|name| name.parse().ok());
            let Some(number) = number.filter(|&number| snapshot_path(number) == meta.location) else {
                debug!(path = %meta.location, "not a snapshot's name");
                continue;
            };
            newest.insert(number, meta.last_modified.timestamp_millis());
            if newest.len() > SNAPSHOTS_LISTED_MAX {
                newest.pop_first();
            }
        }
        Ok(newest.into_iter().rev().map(|(number, modified_ms)| Listed { number, modified_ms }).collect())
    }

    /// Reads an object and decodes it, with retries. An object that is too large or does not decode is
    /// [`Error::Corrupt`].
    pub async fn fetch<T>(
        &self,
        wanted: &Wanted<'_>,
        pauses: &mut Pauses,
        decode: impl Fn(Bytes) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        let (path, limit) = (wanted.path, wanted.bytes_max);
        let mut rereads = 0;
        loop {
            match self.get(wanted).await {
                Ok(None) => return Ok(None),
                Ok(Some(bytes)) => match decode(bytes) {
                    Ok(decoded) => return Ok(Some(decoded)),
                    Err(detail) if rereads == REREADS => return Err(corrupt(path, detail)),
                    Err(detail) => {
                        warn!(%path, detail, "an object does not decode; reading it again");
                        rereads += 1;
                    }
                },
                Err(GetFailure::TooLarge(size)) => {
                    return Err(corrupt(path, format!("it has {size} bytes; at most {limit} are believed")));
                }
                Err(GetFailure::Transient(failure)) => {
                    pauses.pause_or(|| format!("reading {path}: {failure}")).await?;
                }
            }
        }
    }

    /// One read, and a second one beside it if the first is late: whichever answers first. Both see the store as it is at
    /// some moment after the call.
    async fn get(&self, wanted: &Wanted<'_>) -> Result<Option<Bytes>, GetFailure> {
        let mut first = pin!(self.get_once(wanted));
        if !wanted.hedged {
            return first.await;
        }
        if let Ok(answer) = timeout(self.config.hedge_after, &mut first).await {
            return answer;
        }
        match select(first, pin!(self.get_once(wanted))).await {
            Either::Left((Err(GetFailure::Transient(_)), second)) => second.await,
            Either::Right((Err(GetFailure::Transient(_)), first)) => first.await,
            Either::Left((answer, _)) | Either::Right((answer, _)) => answer,
        }
    }

    async fn get_once(&self, wanted: &Wanted<'_>) -> Result<Option<Bytes>, GetFailure> {
        let range = wanted.first_bytes.map(|bytes| (0..bytes as u64).into());
        let work = async {
            let options = GetOptions { range, ..GetOptions::default() };
            let result = self.store.get_opts(wanted.path, options).await?;
            if result.meta.size > wanted.bytes_max as u64 {
                return Ok(Err(result.meta.size));
            }
            result.bytes().await.map(Ok)
        };
        match timeout(wanted.timeout, work).await {
            Ok(Ok(Ok(bytes))) => Ok(Some(bytes)),
            Ok(Ok(Err(size))) => Err(GetFailure::TooLarge(size)),
            Ok(Err(object_store::Error::NotFound { .. })) => Ok(None),
            Ok(Err(error)) => Err(GetFailure::Transient(error.to_string())),
            Err(_) => Err(GetFailure::Transient(late(wanted.timeout))),
        }
    }

    /// One try of a create. What is said on failure tells nothing about what happened.
    pub async fn put(&self, path: &Path, payload: PutPayload, patience: Duration) -> Result<(), String> {
        let put = self.store.put_opts(path, payload, PutMode::Create.into());
        match timeout(patience, put).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(late(patience)),
        }
    }

    pub fn pauses(&self) -> Pauses {
        Pauses {
            next: self.config.retry_pause,
            max: self.config.retry_pause_max,
            until: Instant::now() + self.config.operation_timeout,
            closing: self.closing.clone(),
        }
    }

    /// Pauses between lost races; they do not end by themselves.
    pub fn conflict_pause(&self, losses: u32) -> Duration {
        let doubled = self.config.conflict_pause.saturating_mul(1 << losses.min(16));
        jittered(doubled.min(self.config.conflict_pause_max))
    }
}

pub(crate) fn late(patience: Duration) -> String {
    format!("no answer within {patience:?}")
}

/// What to read, and how much of it to believe.
pub(crate) struct Wanted<'a> {
    pub path: &'a Path,
    /// Only so many bytes from its start.
    pub first_bytes: Option<usize>,
    /// A larger object is damaged.
    pub bytes_max: usize,
    /// For one try.
    pub timeout: Duration,
    /// Small enough to be read twice at once.
    pub hedged: bool,
}

impl Wanted<'_> {
    fn entry<'a>(path: &'a Path, config: &Config) -> Wanted<'a> {
        Wanted {
            path,
            first_bytes: None,
            bytes_max: ENTRY_BYTES_LIMIT,
            timeout: config.request_timeout,
            hedged: true,
        }
    }
}

enum GetFailure {
    TooLarge(u64),
    Transient(String),
}

fn check_number(found: u64, expected: u64) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("it says that it is entry {found}")) }
}

pub(crate) fn corrupt(path: &Path, detail: impl Into<String>) -> Error {
    Error::Corrupt { object: path.to_string(), detail: detail.into() }
}

fn jittered(most: Duration) -> Duration {
    most.mul_f64(rand::random())
}

/// Growing, jittered pauses until an operation's time is up.
pub(crate) struct Pauses {
    next: Duration,
    max: Duration,
    until: Instant,
    closing: CancellationToken,
}

impl Pauses {
    /// False if there is no time for another try.
    pub async fn pause(&mut self) -> bool {
        let pause = jittered(self.next);
        if self.closing.is_cancelled() || Instant::now() + pause >= self.until {
            return false;
        }
        self.next = (self.next * 2).min(self.max);
        self.closing.run_until_cancelled(tokio::time::sleep(pause)).await.is_some()
    }

    pub async fn pause_or(&mut self, what: impl FnOnce() -> String) -> Result<(), Error> {
        if self.pause().await { Ok(()) } else { Err(Error::Unavailable(what())) }
    }
}

/// What entries that are fetched ahead may hold together, as long as they are no larger than those before them; four times as much
/// if they are, up to the largest that this replica itself writes.
const READ_AHEAD_BYTES: usize = 64 << 20;

/// How many entries are fetched ahead, where the largest so far had so many bytes.
fn read_ahead(config: &Config, found_bytes_max: usize) -> usize {
    let bytes = found_bytes_max.max(config.entry_bytes_max / 4).max(1);
    config.read_ahead.min(READ_AHEAD_BYTES / bytes).max(1)
}

/// Entries in order, up to the first that is missing.
pub(crate) struct Walk {
    log: Log,
    next: u64,
    found: usize,
    /// The largest that was found.
    bytes_max: usize,
    ahead: FuturesOrdered<BoxFuture<'static, Result<Option<Entry>, Error>>>,
}

impl Walk {
    /// The next entry, or `None` if there is none (yet); see [`Log::missing`] for what that means.
    pub async fn next(&mut self) -> Result<Option<Entry>, Error> {
        // As many ahead as were found: one request at the tail, a full window when far behind.
        let window = read_ahead(&self.log.config, self.bytes_max);
        while self.ahead.len() < self.found.clamp(1, window) {
            let (log, number) = (self.log.clone(), self.next);
            self.ahead.push_back(async move { log.read(number).await }.boxed());
            self.next += 1;
        }
        let entry = self.ahead.next().await.expect("at least one read is under way")?;
        match &entry {
            Some(entry) => {
                self.found += 1;
                self.bytes_max = self.bytes_max.max(entry.bytes());
            }
            None => self.ahead.clear(),
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever comes: small entries first, and as large as they get behind them.
    #[test]
    fn what_is_fetched_ahead_is_bounded_in_bytes() {
        for entry_bytes_max in [1 << 20, 4 << 20, 16 << 20] {
            let config = Config { entry_bytes_max, ..Config::default() };
            for found in [0, 1, 1000, 1 << 20, entry_bytes_max] {
                let ahead = read_ahead(&config, found);
                assert!(ahead * entry_bytes_max <= 4 * READ_AHEAD_BYTES, "{ahead} of {entry_bytes_max}");
                assert!(ahead * found <= READ_AHEAD_BYTES && ahead >= 1, "{ahead} of {found}");
            }
        }
        assert_eq!(read_ahead(&Config::default(), 1000), Config::default().read_ahead);
    }
}
