//! The collector: deletes from the bucket what the metadata names no more, or never did.
//!
//! ```text
//!   garbage (the metadata dropped the last name) ──older than the delay──► delete ──► forget_garbage
//!
//!   listing of data/ and wal/, page by page
//!      └─ proposes ──► raise_low_water, if that helps ──► refresh ──► rules::judge ──► seal? ──► delete
//! ```
//!
//! Of the two ways the first is the usual one and needs no listing. The second finds what was written and never named:
//! uploads whose commit never came, PUTs that landed after everybody had given up on them (F24), and the slots that an
//! ended process left.
//!
//! # Rules (O5 in `docs/architecture.md`)
//!
//! - **G1** What the metadata names is never deleted. What it has listed as garbage is deleted only after
//!   [`Config::delay`], which outlives any reader that located it before. The delay is a courtesy to readers, no safety
//!   argument: one that comes too late looks its part up again (F37). It is counted by the monotonic clock, from when
//!   this process heard of the entry that dropped the last name, so that no wall clock shortens it for a reader of this
//!   process. What a process finds when it starts goes by its age as well, on the wall clock, so that a restart does not
//!   begin its delay anew: once that clock is believed, and if that comes sooner.
//! - **G2** A listing only proposes; [`rules::judge`] decides, on a state that was read after the listing (F27). Age
//!   plays no part.
//! - **G3** An unnamed data object goes only if its writer's incarnation has ended (nothing of it can be recovered any
//!   more, and no command of it is accepted), or its counter is below the low-water mark that the writer published.
//! - **G4** An unnamed slot goes only if its incarnation has ended, or is fenced and its trim point is beyond the slot. A
//!   living writer deletes its own.
//! - **G5** A seal is never deleted (O3). What it is, its bytes say, not its place.
//! - **G6** What has become deletable stays so: each of the conditions above holds for ever once it holds. So it does not
//!   matter how long a deletion takes, whether it happens twice, or who else collects at the same time (O6).
//! - **G7** Garbage is forgotten only after the store has confirmed its deletion.
//!
//! # Rate
//! An idle cluster costs one listing each [`Config::sweep_interval`], and nothing else. A busy one has up to
//! [`Config::deletes_in_flight_max`] deletions under way, which is far above the rate at which uploads make objects. A
//! round looks at each piece of garbage once, [`Config::batch_objects_max`] at a time; there is none while nothing falls
//! due.
//!
//! # Retries, cancellation, crash
//! What fails is tried again in a later round, for ever: after pauses that double, with jitter, up to
//! [`Config::retry_pause_max`] (for listings up to [`Config::sweep_interval`]), so that a store that is down or refuses
//! is asked seldom. A round gives up after [`Config::deletes_in_flight_max`] failures of a batch, and the next one goes on behind
//! them: what can never be deleted keeps nothing else. At any point: what was deleted and not forgotten is deleted again,
//! and that it is gone already is no error.
//!
//! Reading order: this file, [`rules`], `seen`, `actor`.

mod actor;
pub mod rules;
mod seen;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use object_store::ObjectStore;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use wal::Incarnation;

use crate::ObjectId;
use crate::metadata::Error;

pub use rules::{Naming, Owner, Standing};

/// What the collector asks of the metadata. Each answer is of one state, which holds at least every command of this
/// process that was accepted before (M4).
#[async_trait]
pub trait Catalog: Send + Sync + std::fmt::Debug + 'static {
    /// The number of the newest state; woken by every change. States are numbered in their order.
    fn changed(&self) -> watch::Receiver<u64>;

    /// What the wall clock shows, in milliseconds since the epoch; `None` if it jumped ahead since the last call, or this
    /// is the first one: then it is not to be believed.
    fn believed_ms(&self) -> Option<i64>;

    /// Whether this process is the one that deletes garbage. Several at once do no harm, and only cost requests. What was
    /// never named is looked for by everybody: of its own only the writer knows that it has given it up.
    fn is_caretaker(&self) -> bool {
        true
    }

    /// What of a stretch of the garbage may go. Its cost is the stretch's.
    fn garbage(&self, look: &Look) -> Due;

    /// Everything that [`rules::judge`] wants to know about an object, of one state.
    fn standing(&self, id: ObjectId) -> Standing;

    /// From here on answers hold every command that was accepted, of anybody, before the call.
    async fn refresh(&self) -> Result<(), Error>;

    /// These were deleted. Objects that are not garbage are left alone.
    async fn forget_garbage(&self, by: Incarnation, objects: Vec<ObjectId>) -> Result<(), Error>;

    /// From here on no object of `by` with a lower counter is named that is not named already.
    async fn raise_low_water(&self, by: Incarnation, counter: u64) -> Result<(), Error>;
}

/// Which garbage to look at, and what of it may go (G1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Garbage lies in the order of the ids: where to begin; `None` for the beginning.
    pub from: Option<ObjectId>,
    /// How much to look at.
    pub limit: usize,
    /// What was garbage as of this state may go.
    pub known: Option<u64>,
    /// So may some of what is older than this process.
    pub aged: Option<Aged>,
}

/// Garbage that may go by its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aged {
    /// It was garbage as of this state already.
    pub state: u64,
    /// By the clock of the entry that dropped the last name, in milliseconds since the epoch, it became so then or before.
    pub since_ms_max: i64,
}

/// Garbage that may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Ascending.
    pub objects: Vec<ObjectId>,
    /// The lowest state as of which something was garbage that was looked at and may not go yet.
    pub waiting: Option<u64>,
    /// When the next of it may go by its age, if any may: [`Look::aged`].
    pub next_in: Option<Duration>,
    /// Where the next look begins; `None` at the garbage's end.
    pub next: Option<ObjectId>,
    /// The number of the state that was looked at.
    pub state: u64,
}

/// Bounds and times of a [`Collector`].
#[derive(Clone, Debug)]
pub struct Config {
    /// How long after the metadata dropped its last name an object is deleted. Longer than any read takes from looking
    /// a part up to the last byte. Default 10 min.
    pub delay: Duration,
    /// Between two rounds over the garbage, at least. Default 10 s.
    pub interval: Duration,
    /// Between two listings of the bucket. Default 6 h.
    pub sweep_interval: Duration,
    /// How long after the start the first listing begins, and after one that failed the next; that doubles up to
    /// `sweep_interval`. Default 15 min.
    pub first_sweep_after: Duration,
    /// After a round in which something could not be deleted the next one comes twice `interval` later at most, then
    /// after twice that, up to this. Default 10 min.
    pub retry_pause_max: Duration,
    /// Objects that are judged, deleted and forgotten together. Default 10,000.
    pub batch_objects_max: usize,
    /// Deletions under way at once. Default 32.
    pub deletes_in_flight_max: usize,
    /// One request of the collector may take this long. Default 30 s.
    pub request_timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            delay: Duration::from_secs(600),
            interval: Duration::from_secs(10),
            sweep_interval: Duration::from_secs(6 * 3600),
            first_sweep_after: Duration::from_secs(900),
            retry_pause_max: Duration::from_secs(600),
            batch_objects_max: 10_000,
            deletes_in_flight_max: 32,
            request_timeout: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// What is wrong with the configuration, if anything is.
    pub fn validate(&self) -> Result<(), String> {
        if self.batch_objects_max == 0 || self.deletes_in_flight_max == 0 {
            return Err("batch_objects_max and deletes_in_flight_max must be at least 1".to_owned());
        }
        let times = [
            self.interval,
            self.sweep_interval,
            self.first_sweep_after,
            self.retry_pause_max,
            self.request_timeout,
        ];
        if times.iter().any(Duration::is_zero) {
            return Err("no interval or time-out may be zero".to_owned());
        }
        Ok(())
    }
}

/// Tells the lowest counter that this incarnation may still name for the first time; it never goes back.
pub type LowestInFlight = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What the collector has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Objects deleted that the metadata had listed as garbage.
    pub garbage_deleted: u64,
    /// Objects deleted that nothing had ever named, or that an ended process left.
    pub orphans_deleted: u64,
    /// Deletions that failed; they are tried again.
    pub deletes_failed: u64,
    /// Listings of the bucket that were gone through to their end.
    pub sweeps: u64,
}

#[derive(Debug, Default)]
struct Counts {
    garbage_deleted: AtomicU64,
    orphans_deleted: AtomicU64,
    deletes_failed: AtomicU64,
    sweeps: AtomicU64,
}

/// The collector of one incarnation, at work. Dropping it stops it.
#[derive(Debug)]
pub struct Collector {
    counts: Arc<Counts>,
    task: JoinHandle<()>,
    panicked: watch::Receiver<bool>,
    _stop: DropGuard,
}

impl Collector {
    /// Starts it. It ends by itself once `by` is fenced.
    ///
    /// # Panics
    /// If `config` is not valid.
    pub fn start(
        config: Config,
        store: Arc<dyn ObjectStore>,
        catalog: Arc<dyn Catalog>,
        by: Incarnation,
        lowest_in_flight: LowestInFlight,
    ) -> Collector {
        if let Err(reason) = config.validate() {
            panic!("invalid configuration of the collector: {reason}");
        }
        let counts = Arc::new(Counts::default());
        let stop = CancellationToken::new();
        let actor = actor::Actor::new(config, store, catalog, by, lowest_in_flight, counts.clone());
        let stopped = stop.clone();
        let (tell, panicked) = watch::channel(false);
        let task = tokio::spawn(async move {
            let _guard = TellOnPanic(tell);
            stopped.run_until_cancelled(actor.run()).await;
        });
        Collector { counts, task, panicked, _stop: stop.drop_guard() }
    }

    /// Resolves once the collector has met a broken invariant: the process must end (F59). Otherwise never, also if it
    /// was fenced.
    pub async fn failed(&self) {
        let mut panicked = self.panicked.clone();
        if panicked.wait_for(|panicked| *panicked).await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether it has met a broken invariant so far.
    pub fn has_failed(&self) -> bool {
        *self.panicked.borrow()
    }

    pub fn status(&self) -> Status {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Status {
            garbage_deleted: count(&self.counts.garbage_deleted),
            orphans_deleted: count(&self.counts.orphans_deleted),
            deletes_failed: count(&self.counts.deletes_failed),
            sweeps: count(&self.counts.sweeps),
        }
    }

    /// Stops where it stands, and waits until nothing of it runs any more.
    ///
    /// # Panics
    /// If the collector has.
    pub async fn shutdown(self) {
        let Collector { task, _stop, .. } = self;
        drop(_stop);
        if let Err(error) = task.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Nobody else would hear of it before the end.
struct TellOnPanic(watch::Sender<bool>);

impl Drop for TellOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.send_replace(true);
        }
    }
}
