//! The cluster's metadata: what is in the log, and the commands that change it.
//!
//! ```text
//!   Metadata (this broker's handle)
//!     ├─ image()              the state as of the last entry read: wait-free, shared, never changes
//!     ├─ register, create_topics, commit, …  ──► Command ──► metalog ──► apply ──► outcome
//!     └─ keep_lease           polls of the log ──► AckRight
//! ```
//!
//! # Consistency
//! What a method of this handle did is in [`Metadata::image`] once it returned. What others did is there within a poll.
//!
//! # Retries
//! The log tries again by itself for a bounded time ([`metalog::Config::operation_timeout`]). After
//! [`Error::Unavailable`] nothing has changed; after [`Error::Unknown`] it may have.
//!
//! # Cancellation
//! Dropping a future does not take its command back.
//!
//! # Crash
//! The next registration of the same broker fences this one and is told what to recover.
//!
//! Reading order: [`image`], [`command`], [`apply`], [`members`], `place`, [`moves`], `alter`, [`snapshot`], then this file, `topics`,
//! `handing`, `lease`, [`challenges`], [`streams`].

mod alter;
pub mod apply;
pub mod challenges;
pub mod cluster_id;
pub mod codec;
mod collect;
pub mod command;
mod departed;
mod error;
mod handing;
pub mod heirs;
pub mod image;
mod lease;
pub mod members;
pub mod moves;
mod note_hash;
pub mod observer;
pub mod parts;
mod place;
mod replace;
mod rider;
pub mod snapshot;
pub mod streams;
#[cfg(test)]
mod tests;
mod topics;
pub mod volumes;

use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metalog::{Applying, Machine, Replica, View};
use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wal::{AckRight, Incarnation};

pub use alter::{GrowRejection, check_growth};
pub use apply::{Registered, TopicRejection, Unrecovered};
pub use error::Error;
pub use handing::{Early, HandingTo, MOVES_PER_COMMAND_MAX};
pub use image::{Image, Topic};
pub use moves::MoveRejection;
pub use note_hash::NoteHash;
pub use rider::Riding;
pub use topics::{CreatePartitionsError, CreateTopicError, TopicSpec};

use apply::{At, Outcome, PRODUCER_IDS_PER_COMMAND_MAX, Rejection};
use command::{Claiming, Command, FORMAT_VERSION, Registration};
use departed::Departed;
use heirs::Foretold;
use image::{Config, Listener};
use lease::{Lease, standing};

use crate::clocks::{Clocks, Skews};
use crate::tasks::Tasks;

impl Machine for Image {
    type Outcome = Result<Outcome, Rejection>;

    fn apply(&mut self, context: &Applying, command: &[u8]) -> Self::Outcome {
        self.apply_bytes(At { number: context.number, time_ms: context.time_ms }, command)
    }

    fn snapshot(&self) -> Vec<u8> {
        self.encode()
    }

    fn restore(bytes: &[u8]) -> Result<Self, metalog::Error> {
        Image::decode(bytes).map_err(|malformed| metalog::Error::Corrupt {
            object: "the state in a snapshot".to_owned(),
            detail: malformed.to_string(),
        })
    }
}

/// Bounds and times.
#[derive(Clone, Debug)]
pub struct Options {
    /// Default: that of `metalog`, but entries of up to 4 MiB, which is a commit for 100,000 streams at once.
    pub log: metalog::Config,
    /// How long after a poll began that showed no fence the broker may acknowledge. Default 3 s.
    pub lease: Duration,
    /// Producer ids that are taken from the log at once. Default 1,000; at most
    /// [`PRODUCER_IDS_PER_COMMAND_MAX`].
    pub producer_id_block: u32,
    /// How long clients are told where a broker was that died (`departed`). Default 5 s.
    pub dead_listed_for: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let log = metalog::Config { entry_bytes_max: 4 << 20, ..metalog::Config::default() };
        let dead_listed_for = Duration::from_secs(5);
        Options { log, lease: Duration::from_secs(3), producer_id_block: 1_000, dead_listed_for }
    }
}

impl Options {
    pub fn validate(&self) -> Result<(), Error> {
        if self.lease.is_zero() || u32::try_from(self.lease.as_millis()).is_err() {
            return Err(Error::Refused("the lease must lie between 1 ms and 49 days".to_owned()));
        }
        if self.lease <= self.log.poll_interval {
            return Err(Error::Refused(format!(
                "a lease of {:?} runs out between two polls, which are {:?} apart",
                self.lease, self.log.poll_interval
            )));
        }
        if !(1..=PRODUCER_IDS_PER_COMMAND_MAX).contains(&self.producer_id_block) {
            return Err(Error::Refused(format!(
                "producer_id_block must lie between 1 and {PRODUCER_IDS_PER_COMMAND_MAX}"
            )));
        }
        Ok(())
    }
}

/// What a broker says of itself when it starts.
#[derive(Clone, Debug)]
pub struct Registering<'a> {
    pub id: u32,
    pub wal: &'a wal::Uri,
    pub listener: Listener,
    pub rack: Option<&'a str>,
    /// The machine that it runs on.
    pub machine: &'a str,
    /// The epoch of the registration that this one comes after; `None` for the first of its id.
    pub replaces: Option<u64>,
    /// Of a volume that other hosts may reach.
    pub claim: Option<Claiming>,
}

/// The state as of one entry of the log.
#[derive(Clone, Debug)]
pub struct ImageRef(Arc<View<Image>>);

impl ImageRef {
    /// The last entry in it.
    pub fn number(&self) -> u64 {
        self.0.number
    }
}

impl Deref for ImageRef {
    type Target = Image;

    fn deref(&self) -> &Image {
        &self.0.machine
    }
}

/// This broker's replica of the metadata, and the way to change it.
#[derive(Debug)]
pub struct Metadata {
    replica: Replica<Image>,
    options: Options,
    incarnation: OnceLock<Incarnation>,
    /// The last entry that this handle appended.
    appended: watch::Sender<u64>,
    /// Taken from the log, not yet handed out.
    producer_ids: Mutex<Range<i64>>,
    /// One refill at a time.
    refill: Semaphore,
    opened: Instant,
    /// The collector's.
    clocks: Mutex<Clocks>,
    /// As the links to the other brokers find them.
    pub(crate) skews: Skews,
    departed: Departed,
    foretold: Foretold,
    closing: CancellationToken,
    riders: rider::Riders,
    /// Brokers to which partitions are on their way into the log, and how many hand-overs each waits for.
    handing: watch::Sender<BTreeMap<u32, usize>>,
    /// Others have partitions on their way here.
    expecting: watch::Sender<bool>,
    pub(crate) tasks: Tasks,
}

impl Metadata {
    /// Reads the log of `store`, and begins one, with a new cluster id, if there is none.
    pub async fn open(store: Arc<dyn ObjectStore>, options: Options) -> Result<Arc<Metadata>, Error> {
        options.validate()?;
        let replica = Replica::open(store, options.log.clone(), Image::empty()).await?;
        let metadata = Metadata {
            departed: Departed::new(options.dead_listed_for),
            replica,
            options,
            incarnation: OnceLock::new(),
            appended: watch::Sender::new(0),
            producer_ids: Mutex::new(0..0),
            refill: Semaphore::new(1),
            opened: Instant::now(),
            clocks: Mutex::default(),
            skews: Skews::default(),
            foretold: Foretold::default(),
            closing: CancellationToken::new(),
            riders: rider::Riders::default(),
            handing: watch::Sender::default(),
            expecting: watch::Sender::new(false),
            tasks: Tasks::default(),
        };
        if let Err(error) = metadata.format().await {
            metadata.replica.close().await;
            return Err(error);
        }
        Ok(Arc::new(metadata))
    }

    async fn format(&self) -> Result<(), Error> {
        if let Some(reason) = self.image().halted() {
            return Err(Error::Failed(reason.to_string()));
        }
        if self.image().cluster().is_some() {
            return Ok(());
        }
        let format = Command::Format { cluster_id: cluster_id::random(), format: FORMAT_VERSION };
        match self.replica.propose(format.encode().into()).await?.outcome {
            // Somebody was quicker: theirs it is.
            Ok(_) | Err(Rejection::AlreadyFormatted(_)) => Ok(()),
            Err(rejection) => Err(rejection.into()),
        }
    }

    /// The state as of now. Wait-free; take it once per request.
    pub fn image(&self) -> ImageRef {
        ImageRef(self.view())
    }

    fn view(&self) -> Arc<View<Image>> {
        self.replica.view()
    }

    /// The state with everything that was committed, by anybody, before the call.
    pub async fn refresh(&self) -> Result<ImageRef, Error> {
        Ok(ImageRef(self.replica.refresh().await?))
    }

    /// Stable for the life of the store.
    pub fn cluster_id(&self) -> Arc<str> {
        self.image().cluster().expect("a store is formatted when it is opened").id.clone()
    }

    /// The number of the last entry; woken by every one.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.replica.applied()
    }

    /// The number of the last entry that this handle appended: what the others may be told of. Woken by every one.
    pub fn appended(&self) -> watch::Receiver<u64> {
        self.appended.subscribe()
    }

    /// Somebody says that there is an entry `number`: it is looked for at once, if it is not known yet. Renews nothing.
    pub fn hint(&self, number: u64) {
        self.replica.hint(number);
    }

    /// Resolves with the next entry; with `false` if there will be none.
    pub async fn beyond(&self, known: &ImageRef) -> bool {
        let mut applied = self.changed();
        applied.wait_for(|number| *number > known.number()).await.is_ok()
    }

    /// This broker's life, once registered.
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.incarnation.get().copied()
    }

    async fn propose(&self, command: &Command) -> Result<Outcome, Error> {
        self.proposed(self.replica.propose(command.encode().into()).await)
    }

    fn proposed(
        &self,
        answer: Result<metalog::Applied<Result<Outcome, Rejection>>, metalog::Error>,
    ) -> Result<Outcome, Error> {
        let applied = answer?;
        self.appended.send_if_modified(|last| {
            let newer = applied.number > *last;
            *last = applied.number.max(*last);
            newer
        });
        Ok(applied.outcome?)
    }

    fn registered(&self) -> Result<Incarnation, Error> {
        self.incarnation().ok_or_else(|| Error::Refused("this broker has not registered yet".to_owned()))
    }

    /// Begins a new life of broker `id`, which fences the one before: `replaces` is that one's epoch, as the caller knows
    /// it ([`Image::last_registration`]). [`Error::Conflict`] if somebody else took the id meanwhile. What earlier lives
    /// left is still to be recovered; where a lease is what fences (B1), not before it has run out.
    ///
    /// # Panics
    /// If called again after it succeeded: a process is one incarnation.
    pub async fn register(&self, registering: Registering<'_>) -> Result<Registered, Error> {
        let Registering { id, wal, listener, rack, machine, replaces, claim } = registering;
        for text in [Some(wal.0.as_str()), Some(&*listener.host), rack, Some(machine)].into_iter().flatten() {
            if text.len() > codec::STRING_BYTES_MAX {
                return Err(Error::Refused(format!("a name of {} bytes is too long", text.len())));
            }
        }
        let registration = Registration {
            broker: id,
            wal_uri: wal.0.as_str().into(),
            lease_ms: u32::try_from(self.options.lease.as_millis()).expect("validated"),
            listener,
            rack: rack.map(Arc::from),
            machine: machine.into(),
            replaces,
            claim,
        };
        match self.propose(&Command::RegisterBroker(registration)).await? {
            Outcome::Registered(registered) => {
                self.incarnation.set(registered.incarnation).expect("a process registers once");
                Ok(registered)
            }
            other => unreachable!("a registration had the outcome {other:?}"),
        }
    }

    /// Renews `right` for as long as this incarnation is not fenced, and revokes it then. Call it once, after
    /// [`register`](Metadata::register).
    pub fn keep_lease(&self, right: Arc<AckRight>) -> Result<(), Error> {
        let lease = Lease {
            replica: self.replica.clone(),
            incarnation: self.registered()?,
            right,
            length: self.options.lease,
        };
        self.tasks.spawn("the lease", lease.keep(self.closing.clone()));
        Ok(())
    }

    /// This incarnation takes leaderships from now on, beginning with those that nobody has.
    pub async fn open_leaderships(&self) -> Result<(), Error> {
        let by = self.registered()?;
        self.propose(&Command::OpenLeaderships { by }).await.map(drop)
    }

    /// Takes `of` for dead (N2). Accepted as well if it was fenced already, or forgotten.
    pub async fn fence(&self, of: Incarnation) -> Result<(), Error> {
        let by = self.registered()?;
        self.propose(&Command::Fence { by, of }).await.map(drop)
    }

    /// Asks `of` to show that it lives (N4). [`Error::Conflict`] if it does not serve.
    pub async fn challenge(&self, of: Incarnation) -> Result<(), Error> {
        let by = self.registered()?;
        self.propose(&Command::Challenge { by, of }).await.map(drop)
    }

    /// Whether `broker` is to be emptied. [`Error::Conflict`] if it does not live.
    pub async fn set_draining(&self, broker: u32, draining: bool) -> Result<(), Error> {
        let by = self.registered()?;
        self.propose(&Command::SetDraining { by, broker, draining }).await.map(drop)
    }

    /// Ends the recovery of the fenced life `of` at its trim point `from`, whatever its log holds beyond. [`Error::Conflict`] if
    /// that moved, or nothing of it is left to recover.
    pub async fn forsake(&self, of: Incarnation, from: wal::Position) -> Result<(), Error> {
        let by = self.registered()?;
        let commit = s3stream::metadata::Commit { owner: of, objects: Vec::new(), wal_trim: from };
        self.propose(&Command::CommitRecovered { by, of, from, commit, last: true }).await.map(drop)
    }

    /// Replaces the configs of a topic, which are validated already; by name, ascending. [`Error::Conflict`] if they are
    /// not `was` (any more), or the topic is gone.
    pub async fn set_topic_configs(
        &self,
        topic: Uuid,
        was: Vec<Config>,
        shall: Vec<Config>,
    ) -> Result<(), Error> {
        let by = self.registered()?;
        self.propose(&Command::SetTopicConfigs { by, topic, was, shall }).await.map(drop)
    }

    /// The same for a broker, or with `None` for all brokers.
    pub async fn set_broker_configs(
        &self,
        broker: Option<u32>,
        was: Vec<Config>,
        shall: Vec<Config>,
    ) -> Result<(), Error> {
        let by = self.registered()?;
        self.propose(&Command::SetBrokerConfigs { by, broker, was, shall }).await.map(drop)
    }

    /// Takes `count` producer ids from the log; they are never given out again.
    pub async fn allocate_producer_ids(&self, count: u32) -> Result<Range<i64>, Error> {
        let by = self.registered()?;
        match self.propose(&Command::AllocateProducerIds { by, count }).await? {
            Outcome::ProducerIds(ids) => Ok(ids),
            other => unreachable!("an allocation of producer ids had the outcome {other:?}"),
        }
    }

    /// A producer id that nobody else has or will have. Most calls take one of the block at hand.
    pub async fn next_producer_id(&self) -> Result<i64, Error> {
        loop {
            if let Some(id) = self.producer_ids.lock().next() {
                return Ok(id);
            }
            let _turn = self.refill.acquire().await.expect("never closed");
            if self.producer_ids.lock().is_empty() {
                let block = self.allocate_producer_ids(self.options.producer_id_block).await?;
                *self.producer_ids.lock() = block;
            }
        }
    }

    /// Resolves once this process cannot go on: fenced, or its replica has failed or cannot follow the log.
    pub async fn failed(&self) -> Error {
        let mut applied = self.replica.applied();
        loop {
            applied.borrow_and_update();
            if let Some(error) = self.failure() {
                return error;
            }
            tokio::select! {
                error = self.replica.failed() => return error.into(),
                reason = self.tasks.failed() => return Error::Failed(reason),
                _ = applied.changed() => {}
            }
        }
    }

    /// Why this process cannot go on, if it cannot.
    pub fn failure(&self) -> Option<Error> {
        let view = self.view();
        if let Some(reason) = view.machine.halted() {
            return Some(Error::Failed(reason.to_string()));
        }
        if let Some(Err(reason)) = self.incarnation().map(|incarnation| standing(&view.machine, incarnation))
        {
            return Some(Error::Fenced(reason));
        }
        self.replica.failure().map(Error::from).or_else(|| self.tasks.failure().map(Error::Failed))
    }

    /// Stops. With `clean`, says so in the log first: only for a WAL that is empty (everything uploaded, committed and
    /// trimmed), since nobody will ever look into it again. Idempotent.
    ///
    /// # Errors
    /// It could not be said; or something behind the metadata has failed, if only while it ended.
    pub async fn close(&self, clean: bool) -> Result<(), Error> {
        let mut said = Ok(());
        if let (true, Some(by)) = (clean && !self.closing.is_cancelled(), self.incarnation()) {
            said = self.propose(&Command::CloseBroker { by }).await.map(drop);
        }
        self.tasks.close();
        self.closing.cancel();
        self.tasks.wait().await;
        self.replica.close().await;
        said?;
        match (self.tasks.failure(), self.replica.failure()) {
            (Some(reason), _) => Err(Error::Failed(reason)),
            (None, Some(error)) if error != metalog::Error::Closed => Err(error.into()),
            (None, _) => Ok(()),
        }
    }
}
