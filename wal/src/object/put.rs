//! One object created, or known not to be: a conditional PUT driven to a known outcome.
//!
//! ```text
//!   PUT If-None-Match:* ── 200 ────────────────────────────► ours
//!        │ "already exists" (412)      time-out, 5xx, 409
//!        ▼                                   ▼
//!       GET ── our own bytes ─────────────────────────────► ours
//!        │  └─ other bytes, also when read again ─────────► theirs
//!        └─ 404 ── after a 412: vanished                     after anything else: the same PUT again
//! ```
//!
//! A PUT that is late may get a second one beside it (`hedge`): the same bytes under the same key, so at most one of them
//! creates the object, and the picture holds for whichever answers first.
//!
//! A hidden retry inside a client or a proxy reports one's own success as "already exists"; a 409 from S3 does not say
//! that the object exists. So nothing but a read settles what is not a plain success. Our own bytes carry a random
//! nonce, so nobody else's are equal to them.

use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use rand::Rng;
use tokio::time::error::Elapsed;

use super::Config;

/// How often bytes that are not the expected ones are read again before they are believed: damage on the way is not
/// damage in the store.
pub(super) const REREADS: usize = 4;

/// What became of a create.
#[derive(Debug)]
pub(super) enum Created {
    /// The object is there, with our bytes.
    Ours,
    /// Something else is there.
    Theirs(Found),
    /// It existed a moment ago, and is gone: slots are not deleted under their owner's feet (O4).
    Vanished,
}

/// An object that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Whole(Bytes),
    /// Over the limit of the read, so not read; its size.
    Oversized(u64),
}

/// A second PUT beside one that is late (`hedge`).
pub(super) struct Double<'a> {
    pub after: Duration,
    /// Asked when it would be sent.
    pub may: &'a (dyn Fn() -> bool + Send + Sync),
}

/// An attempt that took too long gives the next one twice its time, up to so many times the first: several on a slow line,
/// each with its share of it, would otherwise all be cut off and begin anew, for ever.
const TIMEOUT_GROWTH_MAX: u32 = 8;

/// Creates `key` with `chunks`, however long the store takes to give an answer that counts.
pub(super) async fn create(
    store: &dyn ObjectStore,
    config: &Config,
    key: &Path,
    chunks: &[Bytes],
    double: Option<Double<'_>>,
) -> Created {
    let mut timeout = config.timeout(chunks.iter().map(Bytes::len).sum());
    let timeout_max = timeout * TIMEOUT_GROWTH_MAX;
    let mut retries = Retries::new(config);
    loop {
        let put = || {
            let payload = PutPayload::from_iter(chunks.iter().cloned());
            let overwrites = host::planted("overwrite-slot");
            let mode = if overwrites { PutMode::Overwrite } else { PutMode::Create };
            tokio::time::timeout(timeout, store.put_opts(key, payload, PutOptions::from(mode)))
        };
        let exists = match doubled(put, double.as_ref()).await {
            Ok(Ok(_)) => return Created::Ours,
            Ok(Err(error)) => {
                let exists = says_that_it_exists(&error);
                if exists && host::planted("exists-is-ours") || !exists && host::planted("error-is-written") {
                    return Created::Ours;
                }
                if !exists {
                    tracing::warn!("writing {key}: {error}; finding out what became of it");
                }
                exists
            }
            Err(_) => {
                tracing::warn!("writing {key} takes longer than {timeout:?}; finding out what became of it");
                timeout = (timeout * 2).min(timeout_max);
                false
            }
        };
        match read_back(store, config, key, chunks, &mut retries).await {
            Some(None) => return Created::Ours,
            Some(Some(found)) => return Created::Theirs(found),
            None if exists => return Created::Vanished,
            None => retries.pause().await,
        }
    }
}

/// What one PUT said, or where it was late the first of two that said what counts: success, or that the object exists.
async fn doubled<T, P: Future<Output = Result<object_store::Result<T>, Elapsed>>>(
    put: impl Fn() -> P,
    double: Option<&Double<'_>>,
) -> P::Output {
    let mut first = std::pin::pin!(put());
    let Some(double) = double else { return first.await };
    if let Ok(said) = tokio::time::timeout(double.after, &mut first).await {
        return said;
    }
    if !(double.may)() {
        return first.await;
    }
    let second = std::pin::pin!(put());
    match select(first, second).await {
        Either::Left((said, other)) | Either::Right((said, other)) => match said {
            Ok(Ok(_)) => said,
            Ok(Err(ref error)) if says_that_it_exists(error) => said,
            _ => other.await,
        },
    }
}

/// What lies at `key`: `None` for nothing, `Some(None)` for our own `chunks`, otherwise what two reads agree on, or the
/// last of several that do not.
async fn read_back(
    store: &dyn ObjectStore,
    config: &Config,
    key: &Path,
    chunks: &[Bytes],
    retries: &mut Retries,
) -> Option<Option<Found>> {
    let mut before: Option<Found> = None;
    for _ in 0..=REREADS {
        let found = read(store, config, key, config.slot_bytes_max, retries).await?;
        if matches!(&found, Found::Whole(bytes) if is_rope(bytes, chunks)) {
            return Some(None);
        }
        if before.as_ref() == Some(&found) {
            break;
        }
        before = Some(found);
    }
    Some(before)
}

/// What lies at `key`, `None` if nothing does; goes on until the store gives one of these answers. Nothing over
/// `limit` bytes is read.
pub(super) async fn read(
    store: &dyn ObjectStore,
    config: &Config,
    key: &Path,
    limit: usize,
    retries: &mut Retries,
) -> Option<Found> {
    loop {
        match attempt(store, config, key, limit).await {
            Ok(found) => return Some(found),
            Err(Some(object_store::Error::NotFound { .. })) => return None,
            Err(Some(error)) => tracing::warn!("reading {key}: {error}; trying again"),
            Err(None) => tracing::warn!("reading {key} takes too long; trying again"),
        }
        retries.pause().await;
    }
}

/// One GET; `Err(None)` if it takes too long.
async fn attempt(
    store: &dyn ObjectStore,
    config: &Config,
    key: &Path,
    limit: usize,
) -> Result<Found, Option<object_store::Error>> {
    let answer = tokio::time::timeout(config.request_timeout, store.get(key)).await.map_err(|_| None)??;
    let size = answer.meta.size;
    match usize::try_from(size) {
        Ok(bytes) if bytes <= limit => {
            let body = tokio::time::timeout(config.timeout(bytes), answer.bytes());
            Ok(Found::Whole(body.await.map_err(|_| None)??))
        }
        _ => Ok(Found::Oversized(size)),
    }
}

/// Whether the store says, for certain, that there is an object. object_store gives a 409 the same name as a 412;
/// S3 answers 409 to a create that raced with another request, and that other one may have failed as well.
fn says_that_it_exists(error: &object_store::Error) -> bool {
    match error {
        object_store::Error::Precondition { .. } => true,
        object_store::Error::AlreadyExists { source, .. } => !source.to_string().contains("409 Conflict"),
        _ => false,
    }
}

fn is_rope(bytes: &[u8], chunks: &[Bytes]) -> bool {
    let mut rest = bytes;
    for chunk in chunks {
        match rest.strip_prefix(&chunk[..]) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

/// Pauses between attempts, doubling, with jitter.
#[derive(Debug)]
pub(super) struct Retries {
    next: Duration,
    max: Duration,
}

impl Retries {
    pub(super) fn new(config: &Config) -> Retries {
        Retries { next: config.retry_pause, max: config.retry_pause_max }
    }

    pub(super) async fn pause(&mut self) {
        let pause = self.next.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.max);
        tokio::time::sleep(pause).await;
    }
}
