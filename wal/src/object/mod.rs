//! The object WAL: a dense run of slot objects in a bucket, one PUT per batch.
//!
//! ```text
//!   append ─► batcher (pure: when to cut) ─► slot n+2 ─┐
//!                                            slot n+1 ─┼─ PUT If-None-Match: *, several in flight,
//!                                            slot n   ─┘  each driven to a known outcome (put.rs)
//!                                                │
//!                      releaser: in slot order, only while the right to acknowledge holds
//!
//!   wal/<broker>/<epoch>/0 1 2 3 4 5 seal          recovery walks from the trim point, and seals the first free slot
//!                        └trimmed┘
//! ```
//!
//! Rules (O1–O6 in `docs/architecture.md`), as far as they are this crate's:
//!
//! - **O1** The recoverer walks from the trim point that it is given (read after the fence) and *creates* a seal at the
//!   first free slot. The create is the judge: if it loses, what is there is read; data is included and the walk
//!   goes on, a seal ends it. A listing decides nothing.
//! - **O3** Seals are never deleted, slots are used in order and never twice, the epoch is part of the key.
//! - **O4** A writer acknowledges only while its [`AckRight`] holds, and after "already exists" anything but its own
//!   bytes, a missing object included, stops it for good.
//! - **O5** The owner deletes its own slots below its trim point, after [`Config::delete_delay`], which outlives any
//!   lease: a slot that could be filled again is one whose former owner lost its right long ago. Nobody adopts slots
//!   of an incarnation that lives. Other incarnations' slots are the collector's business, not this crate's.
//!
//! **Retries and cancellation.** A PUT is repeated, with the same bytes under the same key, until its outcome is known;
//! the store being down means that appends wait, in bounded memory. An attempt that lands late finds its own bytes, or
//! a seal. Bytes that are not what was expected are read again before they are believed. **Crash.** What was acknowledged is in the bucket, in a dense run; holes end recovery (W5).

pub mod key;

mod batch;
mod budget;
mod hedge;
mod put;
mod recovery;
mod seal;
mod trim;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;

use crate::{AckRight, Error, Incarnation, Medium, Position, Record, Recovery, Uri, Vacated, Wal};

pub use key::{parse_slot_key, slot_key};
pub use seal::Seal;

/// How a batch of records becomes the bytes of a slot. The storage engine brings its data-object format, so that
/// recovery can adopt slots by reference; the WAL itself stays ignorant of streams.
pub trait SlotCodec: Send + Sync + std::fmt::Debug + 'static {
    /// The object's bytes, as a rope that shares the records' bodies. `id` must be readable back from them. They never
    /// begin like a [`Seal`], and stay under [`Config::slot_bytes_max`] for every batch under the other bounds.
    fn encode(&self, id: &SlotId, records: &[Record]) -> Vec<Bytes>;

    /// Checks length, magic, version and every CRC before anything is believed. Records come in the order in which
    /// they were given to `encode` as far as one stream is concerned.
    fn decode(&self, bytes: &Bytes) -> Result<(SlotId, Vec<Record>), Error>;
}

/// Who wrote a slot, inside the object: resolves a create whose outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotId {
    pub owner: Incarnation,
    pub slot: u64,
    /// Random per attempt to fill the slot.
    pub nonce: u128,
}

/// Bounds of an object WAL.
#[derive(Clone, Debug)]
pub struct Config {
    /// A batch is cut at this size, bytes of meta and body; a larger record is a batch of its own. Default 16 MiB.
    pub batch_bytes_max: usize,
    /// The largest record, meta and body. Default 112 MiB.
    pub record_bytes_max: usize,
    /// Appended and not yet acknowledged, bytes of meta and body and a little for each record; at least
    /// `record_bytes_max`. Default 128 MiB.
    pub pending_bytes_max: usize,
    /// The largest slot that is read, bytes: far over what the codec makes of the largest batch. Default 256 MiB.
    pub slot_bytes_max: usize,
    /// PUTs under way at the same time. Default 8.
    pub puts_in_flight_max: usize,
    /// How many PUTs a second the log, and whoever else is [counted](ObjectMedium::beside), sends on average. Full batches
    /// do not wait for it. Default 20.
    pub puts_per_second_max: f64,
    /// PUTs that may be sent in a burst after a quiet time. Default 20.
    pub puts_burst_max: f64,
    /// How long a record waits for company while another PUT is under way and the budget has room. Default 5 ms.
    pub linger: Duration,
    /// A PUT that has taken so many times as long as one of its size usually takes gets a second one beside it; 0 for never.
    /// Default 3.
    pub hedge_factor: f64,
    /// And at least so long: below that it is this host, not the store, that is late. Default 50 ms.
    pub hedge_min: Duration,
    /// One attempt of a request may take this long, and the time that its bytes take at `bytes_per_second_min`, before
    /// it is tried again. Default 10 s.
    pub request_timeout: Duration,
    /// The slowest transfer that is waited for instead of being tried again. Default 1 MiB/s.
    pub bytes_per_second_min: usize,
    /// Pauses between attempts: the first, and the most they grow to by doubling, each drawn evenly from half of it
    /// up. Default 50 ms to 2 s.
    pub retry_pause: Duration,
    pub retry_pause_max: Duration,
    /// How long after its trim a slot is deleted. Far longer than any lease (O4, O5). Default 10 min.
    pub delete_delay: Duration,
    /// Slots fetched ahead in recovery, while they are small. Default 64.
    pub recovery_read_ahead: usize,
    /// Bytes that slots fetched ahead may hold together. Large slots are fetched in smaller numbers, with a larger share
    /// each; one over its share is fetched when its turn comes. Default 128 MiB.
    pub recovery_read_ahead_bytes: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            batch_bytes_max: 16 << 20,
            record_bytes_max: 112 << 20,
            pending_bytes_max: 128 << 20,
            slot_bytes_max: 256 << 20,
            puts_in_flight_max: 8,
            puts_per_second_max: 20.0,
            puts_burst_max: 20.0,
            linger: Duration::from_millis(5),
            hedge_factor: 3.0,
            hedge_min: Duration::from_millis(50),
            request_timeout: Duration::from_secs(10),
            bytes_per_second_min: 1 << 20,
            retry_pause: Duration::from_millis(50),
            retry_pause_max: Duration::from_secs(2),
            delete_delay: Duration::from_secs(600),
            recovery_read_ahead: 64,
            recovery_read_ahead_bytes: 128 << 20,
        }
    }
}

impl Config {
    /// What is wrong with the configuration, if anything is.
    pub fn validate(&self) -> Result<(), String> {
        for (name, value) in [
            ("batch_bytes_max", self.batch_bytes_max),
            ("record_bytes_max", self.record_bytes_max),
            ("puts_in_flight_max", self.puts_in_flight_max),
            ("bytes_per_second_min", self.bytes_per_second_min),
            ("recovery_read_ahead", self.recovery_read_ahead),
        ] {
            if value == 0 {
                return Err(format!("{name} must be at least 1"));
            }
        }
        if self.pending_bytes_max < self.record_bytes_max {
            return Err(format!(
                "pending_bytes_max ({}) must be at least record_bytes_max ({}), or the largest record could never be \
                 appended",
                self.pending_bytes_max, self.record_bytes_max
            ));
        }
        if self.slot_bytes_max < 2 * self.batch_bytes_max.max(self.record_bytes_max) {
            return Err(format!(
                "slot_bytes_max ({}) must be at least twice the largest batch ({}) and the largest record ({}), or what \
                 is written could not be read back",
                self.slot_bytes_max, self.batch_bytes_max, self.record_bytes_max
            ));
        }
        if !(self.puts_per_second_max.is_finite()
            && self.puts_per_second_max > 0.0
            && self.puts_burst_max >= 1.0)
        {
            return Err("puts_per_second_max must be above 0, and puts_burst_max at least 1".to_owned());
        }
        if !(self.hedge_factor == 0.0 || self.hedge_factor.is_finite() && self.hedge_factor >= 1.0) {
            return Err("hedge_factor must be 0 for never, or at least 1".to_owned());
        }
        if self.request_timeout.is_zero()
            || self.retry_pause.is_zero()
            || self.retry_pause > self.retry_pause_max
        {
            return Err(
                "request_timeout and retry_pause must not be zero, nor retry_pause over its max".to_owned()
            );
        }
        Ok(())
    }

    /// How long an attempt to move `bytes` may take.
    fn timeout(&self, bytes: usize) -> Duration {
        self.request_timeout + self.transfer(bytes)
    }

    /// How long `bytes` may be on their way.
    fn transfer(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bytes_per_second_min as f64)
    }
}

/// How many PUTs were sent so far, whatever for, those of the log included. Only ever grows.
pub type PutCount = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The slots of one broker's incarnations in one bucket. `store` is scoped to the cluster's prefix.
#[derive(Clone, Debug)]
pub struct ObjectMedium {
    uri: Uri,
    parts: Parts,
}

/// What writer and recovery share.
#[derive(Clone)]
struct Parts {
    store: Arc<dyn ObjectStore>,
    codec: Arc<dyn SlotCodec>,
    config: Arc<Config>,
    all_puts: PutCount,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Parts").field("store", &self.store).finish_non_exhaustive()
    }
}

impl ObjectMedium {
    /// # Panics
    /// If `config` is not valid.
    pub fn new(store: Arc<dyn ObjectStore>, codec: Arc<dyn SlotCodec>, config: Config) -> ObjectMedium {
        if let Err(reason) = config.validate() {
            panic!("invalid configuration of the object WAL: {reason}");
        }
        ObjectMedium {
            uri: Uri("object:".to_owned()),
            // Nothing but the log's own.
            parts: Parts { store, codec, config: Arc::new(config), all_puts: Arc::new(|| 0) },
        }
    }

    /// The same, for a log whose budget is that of everything that `all_puts` counts.
    pub fn beside(mut self, all_puts: PutCount) -> ObjectMedium {
        self.parts.all_puts = all_puts;
        self
    }

    /// The first key at or beyond `owner`'s first slot: whatever lies there is of this life or of a later one.
    async fn first_key_of_life_or_later(&self, owner: Incarnation) -> Result<Option<Path>, Error> {
        let broker = Path::from(format!("wal/{:010}", owner.broker));
        // A prefix of all keys of this life, and so smaller than each of them.
        let before = Path::from(format!("wal/{:010}/{:020}", owner.broker, owner.epoch));
        // Where to begin saves pages, no more: not every store heeds it, or lists in order.
        let mut listing = self.parts.store.list_with_offset(Some(&broker), &before);
        loop {
            let next = tokio::time::timeout(self.parts.config.request_timeout, listing.try_next())
                .await
                .map_err(|_| Error::Unavailable("a listing of the bucket takes too long".to_owned()))?;
            match next {
                Ok(Some(meta)) if meta.location < before => {}
                Ok(found) => return Ok(found.map(|meta| meta.location)),
                Err(error) => return Err(Error::Unavailable(format!("listing {broker}: {error}"))),
            }
        }
    }
}

#[async_trait]
impl Medium for ObjectMedium {
    fn uri(&self) -> &Uri {
        &self.uri
    }

    async fn recover(&self, previous: Incarnation, from: Position) -> Result<Box<dyn Recovery>, Error> {
        Ok(Box::new(recovery::Walk::new(self.parts.clone(), previous, from.0)))
    }

    async fn open(
        &self,
        owner: Incarnation,
        _vacated: Vacated,
        right: Arc<AckRight>,
    ) -> Result<Arc<dyn Wal>, Error> {
        // Epochs are unique, so anything there means that this life, or a later one, was here before. This check only
        // makes the message clear early: the creates themselves would fail. So it is left out where the bucket does not
        // answer, which the first appends wait for as any others do.
        match self.first_key_of_life_or_later(owner).await {
            Ok(None) => {}
            Ok(Some(key)) => {
                return Err(Error::Fenced(format!("{owner:?} cannot open its log: {key} exists already")));
            }
            Err(error) => tracing::warn!(%error, "opening the log without a look at what is there"),
        }
        Ok(Arc::new(writer::ObjectWal::start(self.parts.clone(), owner, right)?))
    }
}
