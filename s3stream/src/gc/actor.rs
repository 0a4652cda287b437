//! The collector at work: rounds over the garbage, and sweeps of the bucket.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use object_store::{GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::time::{Instant, sleep_until, timeout};
use wal::Incarnation;
use wal::object::Seal;

use super::rules::{Alive, Verdict, judge};
use super::seen::Seen;
use super::{Aged, Catalog, Config, Counts, Look, LowestInFlight};
use crate::ObjectId;
use crate::backoff::Backoff;
use crate::metadata::Error;
use crate::object::{object_key, parse_object_key};

/// Larger slots are no seals, of whatever version: they are not fetched to find out.
const SEAL_BYTES_MAX: u64 = 4 << 10;
/// Seals that are remembered, so that a sweep need not read them again. No option: 24 bytes each, one for each life of a
/// broker that did not end cleanly.
const SEALS_KNOWN_MAX: usize = 100_000;

pub(super) struct Actor {
    config: Config,
    store: Arc<dyn ObjectStore>,
    catalog: Arc<dyn Catalog>,
    by: Incarnation,
    lowest_in_flight: LowestInFlight,
    counts: Arc<Counts>,
    seals: HashSet<ObjectId>,
    seen: Seen,
    /// The state at the start: later garbage has readers here (G1).
    found: u64,
    /// Where the last round gave up.
    resume_from: Option<ObjectId>,
}

/// Why a round ended early.
enum Stopped {
    /// It may be better later.
    Later(String),
    /// Another incarnation took over: the collector's work is its now.
    Fenced(String),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Stopped {
        match error {
            Error::Fenced(reason) => Stopped::Fenced(reason),
            other => Stopped::Later(other.to_string()),
        }
    }
}

impl Actor {
    pub fn new(
        config: Config,
        store: Arc<dyn ObjectStore>,
        catalog: Arc<dyn Catalog>,
        by: Incarnation,
        lowest_in_flight: LowestInFlight,
        counts: Arc<Counts>,
    ) -> Actor {
        let mut seen = Seen::new(config.delay);
        let found = *catalog.changed().borrow();
        seen.note(Instant::now(), found);
        Actor {
            config,
            store,
            catalog,
            by,
            lowest_in_flight,
            counts,
            seals: HashSet::new(),
            seen,
            found,
            resume_from: None,
        }
    }

    pub async fn run(mut self) {
        let mut changed = self.catalog.changed();
        let mut sweep_at = Instant::now() + self.config.first_sweep_after;
        let mut garbage_at = Some(Instant::now());
        let Config { interval, retry_pause_max, first_sweep_after, sweep_interval, .. } = self.config;
        let after_garbage = || Backoff::between(2 * interval, retry_pause_max.max(2 * interval));
        let after_sweep = || Backoff::between(first_sweep_after, sweep_interval.max(first_sweep_after));
        let (mut garbage_backoff, mut sweep_backoff) = (after_garbage(), after_sweep());
        loop {
            let outcome = tokio::select! {
                () = sleep_until(garbage_at.unwrap_or(sweep_at)), if garbage_at.is_some() => {
                    // Who becomes the caretaker does so by an entry, and is woken by that.
                    let on_duty = self.catalog.is_caretaker();
                    let round = if on_duty { self.collect_garbage().await } else { Ok(None) };
                    let wait = match &round {
                        Ok(next_in) => {
                            garbage_backoff = after_garbage();
                            next_in.map(|next_in| next_in.max(self.config.interval))
                        }
                        Err(_) => Some(garbage_backoff.next_pause()),
                    };
                    garbage_at = wait.map(|wait| Instant::now() + wait);
                    round.map(drop)
                }
                () = sleep_until(sweep_at) => {
                    let sweep = self.sweep().await;
                    let wait = match &sweep {
                        Ok(()) => {
                            sweep_backoff = after_sweep();
                            self.config.sweep_interval
                        }
                        Err(_) => sweep_backoff.next_pause(),
                    };
                    sweep_at = Instant::now() + wait;
                    sweep
                }
                change = changed.changed() => match change {
                    Ok(()) => {
                        self.seen.note(Instant::now(), *changed.borrow_and_update());
                        garbage_at.get_or_insert(Instant::now() + self.config.interval);
                        Ok(())
                    }
                    Err(_) => Err(Stopped::Fenced("the metadata ended".to_owned())),
                },
            };
            match outcome {
                Ok(()) => {}
                Err(Stopped::Later(reason)) => {
                    tracing::warn!(reason, "not everything was collected; later again")
                }
                Err(Stopped::Fenced(reason)) => {
                    tracing::info!(reason, "the collector of this incarnation ends");
                    return;
                }
            }
        }
    }

    /// Looks at all garbage once, from where the last round gave up, and deletes what is due. Returns when more will be.
    async fn collect_garbage(&mut self) -> Result<Option<Duration>, Stopped> {
        let delay_ms = i64::try_from(self.config.delay.as_millis()).unwrap_or(i64::MAX);
        let aged = |now_ms: i64| Aged { state: self.found, since_ms_max: now_ms.saturating_sub(delay_ms) };
        let mut look = Look {
            from: self.resume_from.take(),
            limit: self.config.batch_objects_max,
            aged: self.catalog.believed_ms().map(aged),
            known: self.seen.for_the_delay(Instant::now()),
        };
        // What lies before is the next round's.
        let mut next_in = look.from.map(|_| Duration::ZERO);
        let mut failure = None;
        loop {
            let due = self.catalog.garbage(&look);
            let now = Instant::now();
            self.seen.note(now, due.state);
            let known_in = due.waiting.map(|since| match look.aged {
                // Once the clock is believed some of it may go at once.
                None if since <= self.found => Duration::ZERO,
                _ => self.seen.due_in(now, since),
            });
            next_in = [next_in, due.next_in, known_in].into_iter().flatten().min();
            let batch = self.delete(&due.objects).await;
            self.counts.garbage_deleted.fetch_add(batch.deleted.len() as u64, Ordering::Relaxed);
            if !batch.deleted.is_empty() {
                tracing::debug!(objects = batch.deleted.len(), "deleted what nothing names any more");
                // G7.
                self.catalog.forget_garbage(self.by, batch.deleted).await?;
            }
            if let (Some(reason), Some(untried)) = (&batch.failure, batch.untried) {
                self.resume_from = Some(untried);
                return Err(Stopped::Later(reason.clone()));
            }
            failure = failure.or(batch.failure);
            match due.next {
                Some(next) => look.from = Some(next),
                None => break,
            }
            // A long list of which nothing is due must not hold up others.
            tokio::task::yield_now().await;
        }
        failure.map_or(Ok(next_in), |reason| Err(Stopped::Later(reason)))
    }

    /// Goes through the bucket once. What cannot be read or deleted keeps nothing else: it is tried again by the next
    /// sweep, which comes early.
    async fn sweep(&mut self) -> Result<(), Stopped> {
        let mut failure = None;
        let before = self.counts.orphans_deleted.load(Ordering::Relaxed);
        for prefix in ["data", "wal"] {
            let mut listing = self.store.list(Some(&prefix.into()));
            let mut page = Vec::new();
            loop {
                let item = timeout(self.config.request_timeout, listing.next()).await;
                let item = item.map_err(|_| Stopped::Later(format!("listing {prefix}/ takes too long")))?;
                match item {
                    Some(Ok(meta)) => page.extend(self.propose(meta)),
                    Some(Err(error)) => return Err(Stopped::Later(format!("listing {prefix}/: {error}"))),
                    None => break,
                }
                if page.len() >= self.config.batch_objects_max {
                    let failed = self.decide(std::mem::take(&mut page)).await?;
                    failure = failure.or(failed);
                }
            }
            let failed = self.decide(page).await?;
            failure = failure.or(failed);
        }
        let deleted = self.counts.orphans_deleted.load(Ordering::Relaxed) - before;
        if deleted > 0 {
            tracing::info!(deleted, "deleted objects that nothing had named");
        }
        self.counts.sweeps.fetch_add(1, Ordering::Relaxed);
        failure.map_or(Ok(()), |reason| Err(Stopped::Later(reason)))
    }

    /// Whether something that was listed may turn out to be deletable.
    fn propose(&self, meta: ObjectMeta) -> Option<(ObjectId, u64)> {
        let id = parse_object_key(&meta.location)?;
        let may_go = match judge(id, &self.catalog.standing(id)) {
            Verdict::Delete(_) => true,
            Verdict::DeleteUnlessSeal(_) => !self.seals.contains(&id),
            Verdict::Keep(Alive::MayBeNamed) => self.is_given_up(id),
            Verdict::Keep(_) => false,
        };
        may_go.then_some((id, meta.size))
    }

    /// Of this incarnation, and nobody of it will name it any more: all that is missing is to say so.
    fn is_given_up(&self, id: ObjectId) -> bool {
        matches!(id, ObjectId::Data { owner, counter } if owner == self.by && counter < (self.lowest_in_flight)())
    }

    /// G2. Returns the first failure of those that say nothing about other objects.
    async fn decide(&mut self, page: Vec<(ObjectId, u64)>) -> Result<Option<String>, Stopped> {
        if page.is_empty() {
            return Ok(None);
        }
        if page.iter().any(|(id, _)| self.is_given_up(*id)) {
            self.catalog.raise_low_water(self.by, (self.lowest_in_flight)()).await?;
        }
        self.catalog.refresh().await?;
        let mut dead = Vec::new();
        let (mut failure, mut unread) = (None, 0);
        for (id, size) in page {
            match judge(id, &self.catalog.standing(id)) {
                Verdict::Delete(_) => dead.push(id),
                Verdict::DeleteUnlessSeal(_) => match self.is_seal(id, size).await {
                    Ok(true) => {}
                    Ok(false) => dead.push(id),
                    // A store that is down is not asked ten thousand times.
                    Err(reason) if unread == self.config.deletes_in_flight_max => {
                        return Err(Stopped::Later(reason));
                    }
                    Err(reason) => {
                        unread += 1;
                        failure.get_or_insert(reason);
                    }
                },
                Verdict::Keep(_) => {}
            }
        }
        let batch = self.delete(&dead).await;
        self.counts.orphans_deleted.fetch_add(batch.deleted.len() as u64, Ordering::Relaxed);
        match batch.failure {
            Some(reason) if batch.deleted.is_empty() && batch.untried.is_some() => {
                Err(Stopped::Later(reason))
            }
            failed => Ok(failure.or(failed)),
        }
    }

    /// G5. A damaged seal is one too.
    async fn is_seal(&mut self, id: ObjectId, size: u64) -> Result<bool, String> {
        if size > SEAL_BYTES_MAX {
            return Ok(false);
        }
        let key = object_key(id);
        let options = GetOptions { range: Some((0..SEAL_BYTES_MAX).into()), ..GetOptions::default() };
        let read = async { self.store.get_opts(&key, options).await?.bytes().await };
        match timeout(self.config.request_timeout, read).await {
            Ok(Ok(bytes)) if Seal::decode(&bytes).is_none() => Ok(false),
            Ok(Ok(_)) => {
                if self.seals.len() == SEALS_KNOWN_MAX {
                    self.seals.clear();
                }
                self.seals.insert(id);
                Ok(true)
            }
            Ok(Err(object_store::Error::NotFound { .. })) => Ok(false),
            Ok(Err(error)) => Err(format!("reading {key}: {error}")),
            Err(_) => Err(format!("reading {key} takes too long")),
        }
    }

    async fn delete(&self, objects: &[ObjectId]) -> Batch {
        let mut deletions = futures::stream::iter(objects.iter().copied())
            .map(|id| async move { (id, self.delete_one(id).await) })
            .buffer_unordered(self.config.deletes_in_flight_max);
        let mut batch = Batch::default();
        let mut failed = 0;
        while let Some((id, outcome)) = deletions.next().await {
            match outcome {
                Ok(()) => batch.deleted.push(id),
                Err(reason) => {
                    failed += 1;
                    batch.failure.get_or_insert(reason);
                    // A store that is down is not asked ten thousand times.
                    if failed == self.config.deletes_in_flight_max {
                        // At most as many as are under way were begun behind it.
                        batch.untried = objects.get(batch.deleted.len() + failed).copied();
                        break;
                    }
                }
            }
        }
        count(&self.counts.deletes_failed, failed);
        batch
    }

    async fn delete_one(&self, id: ObjectId) -> Result<(), String> {
        let key = object_key(id);
        match timeout(self.config.request_timeout, self.store.delete(&key)).await {
            Ok(Ok(()) | Err(object_store::Error::NotFound { .. })) => Ok(()),
            Ok(Err(error)) => Err(format!("deleting {key}: {error}")),
            Err(_) => Err(format!("deleting {key} takes too long")),
        }
    }
}

fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

/// What became of several deletions.
#[derive(Default)]
struct Batch {
    deleted: Vec<ObjectId>,
    /// The first of those that failed.
    failure: Option<String>,
    /// So many failed that the rest, from about here on, was not tried.
    untried: Option<ObjectId>,
}
