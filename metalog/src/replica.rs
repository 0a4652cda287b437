//! One broker's replica of the machine: a handle, and the actor that owns the log.
//!
//! ```text
//!   propose ──► queue (bounded in bytes and commands) ──┐
//!   refresh ──► waiters ───────────────┐                │ as many as fit one entry
//!   hint, poll interval ──► catch up ◄─┴── lost race ── commit: create n+1, verify n, apply, answer
//!   expect ──► reads of n+1 ───┘                         │
//!                              └── view, applied, polls ─┘
//! ```
//!
//! What somebody waits for goes first: a poll that nobody asked for is given up for a command, and taken up again behind it. An
//! entry that is [expected](Replica::expect) is asked for again and again before it is there, several requests at a time, for a
//! bounded time: so it is known about when whoever writes it knows that it is written, and not a request later.
//!
//! # Consistency
//! A view holds every entry up to its number and nothing else. It is published before the proposer is answered. A
//! commit that was verified counts as a poll: it is a read of the tail at the moment the create was sent.
//!
//! # Retries
//! Commands of a lost race are tried again at the next number, together with what was queued meanwhile. Commands of a
//! create whose outcome stayed unknown are answered so and never tried again: they may be in the log.
//!
//! # Cancellation
//! Dropping a proposal's future does not take the command back. Closing lets the request under way end, answers what
//! was sent as unknown and what was not as closed. Dropping the last handle closes too, without waiting.
//!
//! # Crash
//! There is nothing to recover: a replica is what the log says.
//!
//! # Damage
//! The first [`Error::Corrupt`] stops the replica for good: every call gets it, the watches end, the last view stays.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::entry::{ENVELOPE_BYTES, Entry, Nonce, command_bytes};
use crate::load::{Loaded, load};
use crate::log::{Created, Log, Missing, corrupt, entry_path};
use crate::state::{Mismatch, State, Step};
use crate::{Clock, Config, Error, Issuer, Machine, SystemClock, retention};

/// Between two reads of an expected entry, how many are under way at a time, and how many are made in all for one
/// [`Replica::expect`]. No options: they shape what that costs, some GETs for each.
const SCOUT_INTERVAL: Duration = Duration::from_millis(20);
const SCOUTS_AT_ONCE: usize = 4;
const SCOUTS_MAX: usize = 32;

/// The part of the poll interval by which a poll may be late for scouts. No option: it must not matter to a lease.
const SCOUTED_POLL_DELAY: u32 = 4;

/// The machine as of one entry.
#[derive(Clone, Debug)]
pub struct View<M> {
    pub machine: M,
    /// The last entry in it; 0 if the log is empty.
    pub number: u64,
}

/// A command that is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied<O> {
    /// The entry that holds it.
    pub number: u64,
    /// What the machine said to it.
    pub outcome: O,
}

/// A read of the store that reached the log's tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled {
    /// Boot time before the read began.
    pub began: Duration,
    /// The last entry; the view holds it already.
    pub number: u64,
}

/// A replica of the machine. Cheap to clone.
pub struct Replica<M: Machine> {
    inner: Arc<Inner<M>>,
}

impl<M: Machine> Clone for Replica<M> {
    fn clone(&self) -> Self {
        Replica { inner: self.inner.clone() }
    }
}

impl<M: Machine> std::fmt::Debug for Replica<M> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Replica").field("number", &self.view().number).finish_non_exhaustive()
    }
}

struct Inner<M: Machine> {
    shared: Arc<Shared<M>>,
    config: Arc<Config>,
    messages: mpsc::Sender<Message<M>>,
    /// Bytes of commands that may wait.
    room: Arc<Semaphore>,
    hint: Arc<watch::Sender<u64>>,
    expected: watch::Sender<bool>,
    /// Somebody waits for the actor.
    pressing: Arc<Notify>,
    applied: watch::Receiver<u64>,
    polled: watch::Receiver<Polled>,
    tasks: TaskTracker,
    _closes_on_drop: DropGuard,
    closing: CancellationToken,
}

/// What the actor publishes and the handles read.
struct Shared<M> {
    view: ArcSwap<View<M>>,
    issuer: Mutex<Option<Issuer>>,
    /// Set once the actor has ended.
    ended: watch::Sender<Option<Error>>,
}

enum Message<M: Machine> {
    /// In this order, and with nothing in between.
    Propose(Vec<Proposal<M::Outcome>>),
    Refresh(oneshot::Sender<Result<Arc<View<M>>, Error>>),
}

/// A command, and who is told early ([`Replica::propose_early`]).
pub type Proposed<O> = (Bytes, Option<oneshot::Sender<O>>);

type Answer<O> = Result<Applied<O>, Error>;

struct Proposal<O> {
    command: Bytes,
    /// When the proposer has waited enough for a command that was not sent.
    until: Instant,
    answer: oneshot::Sender<Answer<O>>,
    /// Told the likely outcome when its entry is first sent.
    early: Option<oneshot::Sender<O>>,
    _room: OwnedSemaphorePermit,
}

impl<M: Machine> Replica<M> {
    /// Loads the newest good snapshot and the entries behind it. Writes nothing: an empty store gives `empty` as of
    /// entry 0.
    pub async fn open(store: Arc<dyn ObjectStore>, config: Config, empty: M) -> Result<Self, Error> {
        Self::open_with_clock(store, config, Arc::new(SystemClock), empty).await
    }

    /// [`open`](Replica::open) with clocks of the caller's.
    pub async fn open_with_clock(
        store: Arc<dyn ObjectStore>,
        config: Config,
        clock: Arc<dyn Clock>,
        empty: M,
    ) -> Result<Self, Error> {
        config.validate()?;
        let config = Arc::new(config);
        let closing = CancellationToken::new();
        let log = Log { store, config: config.clone(), closing: closing.clone() };
        let loaded = load(&log, &*clock, &empty).await?;

        let number = loaded.state.number;
        let view = View { machine: loaded.state.machine.clone(), number };
        let shared = Arc::new(Shared {
            view: ArcSwap::from_pointee(view),
            issuer: Mutex::new(None),
            ended: watch::Sender::new(None),
        });
        let (messages, inbox) = mpsc::channel(config.queue_commands_max);
        let (applied_sender, applied) = watch::channel(number);
        let (polled_sender, polled) = watch::channel(Polled { began: loaded.began, number });
        let (hint, hinted) = watch::channel(0);
        let hint = Arc::new(hint);
        let (expected, expecting) = watch::channel(false);
        let pressing = Arc::new(Notify::new());
        let long_replay = loaded.replayed >= config.snapshot_entries.saturating_mul(2);
        let mut actor = Actor {
            log,
            clock,
            empty,
            shared: shared.clone(),
            applied: applied_sender,
            polled: polled_sender,
            inbox,
            hint: hint.clone(),
            hinted,
            expecting,
            pressing: pressing.clone(),
            scouts: FuturesUnordered::new(),
            scouts_left: 0,
            scout_due: Instant::now(),
            fresh: loaded.began,
            verified: loaded.began,
            poll_due: Instant::now() + config.poll_interval,
            state: loaded.state,
            queue: VecDeque::new(),
            refreshes: Vec::new(),
            losses: 0,
            background: JoinSet::new(),
        };
        if long_replay {
            // Whoever should have taken snapshots did not.
            actor.take_snapshot();
        }
        let tasks = TaskTracker::new();
        let guard = FailOnPanic(shared.clone());
        tasks.spawn(async move {
            let _guard = guard;
            actor.run().await;
        });
        tasks.close();
        let room = Arc::new(Semaphore::new(config.queue_bytes_max));
        let _closes_on_drop = closing.clone().drop_guard();
        let inner = Inner {
            shared,
            config,
            messages,
            room,
            hint,
            expected,
            pressing,
            applied,
            polled,
            tasks,
            _closes_on_drop,
            closing,
        };
        Ok(Replica { inner: Arc::new(inner) })
    }

    /// The newest state that this replica knows. Wait-free.
    pub fn view(&self) -> Arc<View<M>> {
        self.inner.shared.view.load_full()
    }

    /// Appends a command and gives the machine's outcome once it is applied here (L2). Waits for room in the queue.
    /// Dropping the future does not take the command back. Only [`Error::Unknown`] leaves open whether the command
    /// takes effect; after every other error it does not.
    pub async fn propose(&self, command: Bytes) -> Result<Applied<M::Outcome>, Error> {
        self.propose_one((command, None)).await
    }

    /// The same; and `early` is told what the outcome will be when the command's entry is first sent: two requests before it is
    /// known that the entry was created, and counts (L5). Whoever acts on that must be able to live with another answer after all:
    /// an entry of somebody else's may come first, and with it another outcome, or none in time.
    pub async fn propose_early(
        &self,
        command: Bytes,
        early: oneshot::Sender<M::Outcome>,
    ) -> Result<Applied<M::Outcome>, Error> {
        self.propose_one((command, Some(early))).await
    }

    async fn propose_one(&self, command: Proposed<M::Outcome>) -> Result<Applied<M::Outcome>, Error> {
        self.propose_together(vec![command]).await.pop().expect("one answer for each command")
    }

    /// The same for several commands, which are queued in this order with nothing in between: in one entry, if they fit one.
    /// In the order of `commands`.
    pub async fn propose_together(
        &self,
        commands: Vec<Proposed<M::Outcome>>,
    ) -> Vec<Result<Applied<M::Outcome>, Error>> {
        let count = commands.len();
        let answers = match self.enqueue(commands).await {
            Ok(answers) => answers,
            Err(error) => return (0..count).map(|_| Err(error.clone())).collect(),
        };
        let mut answered = Vec::with_capacity(count);
        for answer in answers {
            let ended = |_| Err(Error::Unknown("the replica ended abruptly".into()));
            answered.push(answer.await.unwrap_or_else(ended));
        }
        answered
    }

    /// All of them, or none.
    async fn enqueue(
        &self,
        commands: Vec<Proposed<M::Outcome>>,
    ) -> Result<Vec<oneshot::Receiver<Answer<M::Outcome>>>, Error> {
        let limit_bytes = self.inner.config.command_bytes_max();
        if let Some((command, _)) = commands.iter().find(|(command, _)| command.len() > limit_bytes) {
            return Err(Error::TooLarge { bytes: command.len(), limit_bytes });
        }
        let until = Instant::now() + self.inner.config.operation_timeout;
        let bytes = commands.iter().map(|(command, _)| command_bytes(command)).sum::<usize>();
        if bytes > self.inner.config.queue_bytes_max {
            return Err(Error::TooLarge { bytes, limit_bytes: self.inner.config.queue_bytes_max });
        }
        let room = self.inner.room.clone().acquire_many_owned(bytes as u32);
        let mut room = match timeout_at(until, room).await {
            Ok(Ok(room)) => room,
            Ok(Err(_)) => return Err(self.ended()),
            Err(_) => return Err(Error::Unavailable("the queue of commands stayed full".into())),
        };
        let mut answers = Vec::with_capacity(commands.len());
        let mut proposals = Vec::with_capacity(commands.len());
        for (command, early) in commands {
            let (answer, answered) = oneshot::channel();
            let own = room.split(command_bytes(&command)).expect("there is room for all of them");
            proposals.push(Proposal { command, until, answer, early, _room: own });
            answers.push(answered);
        }
        if self.inner.messages.send(Message::Propose(proposals)).await.is_err() {
            return Err(self.ended());
        }
        self.inner.pressing.notify_one();
        Ok(answers)
    }

    /// A view that holds at least every entry that was committed before the call.
    pub async fn refresh(&self) -> Result<Arc<View<M>>, Error> {
        let (answer, answered) = oneshot::channel();
        if self.inner.messages.send(Message::Refresh(answer)).await.is_err() {
            return Err(self.ended());
        }
        answered.await.unwrap_or_else(|_| Err(self.ended()))
    }

    /// Says that entry `number` was committed by somebody, so that the next poll need not be waited for. Only ever
    /// makes reading earlier: it renews nothing. Hints are looked after one poll at a time, and one that turns out to be
    /// false is forgotten by it.
    pub fn hint(&self, number: u64) {
        self.inner.hint.send_if_modified(|known| {
            let newer = number > *known;
            *known = number.max(*known);
            newer
        });
    }

    /// The largest number that was hinted; at most that of the view where the hints were looked after. Changes wake it.
    pub fn hinted(&self) -> watch::Receiver<u64> {
        self.inner.hint.subscribe()
    }

    /// Whether somebody has said that he is about to append an entry that matters here. As long as it is so, and for a bounded
    /// number of reads, the next entry is asked for before it is there. Like a [hint](Replica::hint) it renews nothing.
    pub fn expect(&self, expected: bool) {
        let began = self.inner.expected.send_if_modified(|known| {
            let changed = *known != expected;
            *known = expected;
            changed && expected
        });
        if began {
            self.inner.pressing.notify_one();
        }
    }

    /// Every read of the store that reached the tail. A lease may be renewed from the moment that it began, if the
    /// view shows no fence. Ends with the replica.
    pub fn polls(&self) -> watch::Receiver<Polled> {
        self.inner.polled.clone()
    }

    /// The number of the last entry applied; woken by every one. Ends with the replica.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.inner.applied.clone()
    }

    /// Who later entries are stamped with. Commands that are on their way may still go without.
    pub fn set_issuer(&self, issuer: Option<Issuer>) {
        assert!(issuer.is_none_or(|issuer| issuer.epoch > 0), "epoch 0 stands for no issuer");
        *self.inner.shared.issuer.lock() = issuer;
    }

    /// Resolves once the replica has stopped, with the reason: [`Error::Corrupt`], or [`Error::Closed`].
    pub async fn failed(&self) -> Error {
        let mut ended = self.inner.shared.ended.subscribe();
        // The sender lives as long as this handle.
        let _ = ended.wait_for(|ended| ended.is_some()).await;
        self.ended()
    }

    /// The reason why the replica has stopped, if it has.
    pub fn failure(&self) -> Option<Error> {
        self.inner.shared.ended.borrow().clone()
    }

    /// Stops, and waits until nothing of this replica runs any more. Idempotent.
    pub async fn close(&self) {
        self.inner.closing.cancel();
        self.inner.tasks.wait().await;
    }

    fn ended(&self) -> Error {
        self.failure().unwrap_or(Error::Closed)
    }
}

struct Actor<M: Machine> {
    log: Log,
    clock: Arc<dyn Clock>,
    empty: M,
    shared: Arc<Shared<M>>,
    applied: watch::Sender<u64>,
    polled: watch::Sender<Polled>,
    inbox: mpsc::Receiver<Message<M>>,
    hint: Arc<watch::Sender<u64>>,
    hinted: watch::Receiver<u64>,
    expecting: watch::Receiver<bool>,
    pressing: Arc<Notify>,
    /// Reads of an entry that is expected.
    scouts: FuturesUnordered<Scout>,
    scouts_left: usize,
    scout_due: Instant,

    state: State<M>,
    /// Boot time at which the last read began that found `state` to be the tail (or that was in it from then on).
    fresh: Duration,
    /// The same, for reads that also verified that the last entry stands.
    verified: Duration,
    poll_due: Instant,
    queue: VecDeque<Proposal<M::Outcome>>,
    refreshes: Vec<oneshot::Sender<Result<Arc<View<M>>, Error>>>,
    /// Races lost in a row.
    losses: u32,
    /// At most one snapshot under way.
    background: JoinSet<()>,
}

/// Commands of one entry on its way.
type Batch<O> = Vec<Proposal<O>>;

/// A read of an entry that may not be there yet; one that fails is as good as one that finds nothing.
type Scout = BoxFuture<'static, Option<Entry>>;

impl<M: Machine> Actor<M> {
    async fn run(mut self) {
        let closing = self.log.closing.clone();
        let reason = loop {
            if closing.is_cancelled() {
                break Error::Closed;
            }
            let worked = match self.wait_for_work().await {
                Ok(()) => self.work().await,
                failed => failed,
            };
            if let Err(error) = worked {
                error!(%error, "the metadata log cannot be followed any further");
                break error;
            }
        };
        self.end(reason).await;
    }

    /// Returns once there is something to do; takes in what is there. An error is the end.
    async fn wait_for_work(&mut self) -> Result<(), Error> {
        while let Some(ended) = self.background.try_join_next() {
            resume(ended);
        }
        if self.queue.is_empty() && self.refreshes.is_empty() {
            let poll_at = self.poll_at();
            tokio::select! {
                () = self.log.closing.cancelled() => return Ok(()),
                Some(ended) = self.background.join_next() => resume(ended),
                Some(message) = self.inbox.recv() => self.take_in(message),
                Ok(()) = self.hinted.changed() => self.hear(),
                Ok(()) = self.expecting.changed() => self.expect(),
                Some(found) = self.scouts.next() => self.scouted(found).await?,
                () = sleep_until(self.scout_due), if self.scouts_left > 0 => self.scout(),
                () = sleep_until(poll_at) => {}
            }
        }
        if self.expecting.has_changed().unwrap_or(false) {
            // Before a poll that is due: it would be begun and given up.
            self.expect();
        }
        while self.queue.len() + self.refreshes.len() < self.log.config.queue_commands_max {
            let Ok(message) = self.inbox.try_recv() else { break };
            self.take_in(message);
        }
        Ok(())
    }

    fn expect(&mut self) {
        if *self.expecting.borrow_and_update() {
            self.scouts_left = SCOUTS_MAX;
            self.scout_due = Instant::now();
        } else {
            self.stop_scouting();
        }
    }

    /// Unless an entry is expected, or there by what somebody says.
    fn stop_scouting(&mut self) {
        if !*self.expecting.borrow() && *self.hint.borrow() <= self.state.number {
            self.scouts_left = 0;
        }
    }

    /// When to poll. A little later where scouts are on their way, which ask for the same: nothing goes on during a poll, and one
    /// that was begun too early would hold up those that are not.
    fn poll_at(&self) -> Instant {
        let interval = self.log.config.poll_interval;
        if self.scouts_left > 0 { self.poll_due + interval / SCOUTED_POLL_DELAY } else { self.poll_due }
    }

    fn scout(&mut self) {
        self.scout_due = Instant::now() + SCOUT_INTERVAL;
        if self.scouts.len() < SCOUTS_AT_ONCE {
            self.scouts_left -= 1;
            let (log, number) = (self.log.clone(), self.state.number + 1);
            self.scouts.push(async move { log.read(number).await.ok().flatten() }.boxed());
        }
    }

    async fn scouted(&mut self, found: Option<Entry>) -> Result<(), Error> {
        match found {
            // It may have been read otherwise meanwhile.
            Some(entry) if entry.number == self.state.number + 1 => {
                if self.is_believed() {
                    // What lies behind is for other scouts to find: nothing goes on while it is read here.
                    self.take(&entry).await?;
                } else {
                    end_if_corrupt(self.catch_up(Some(entry)).await)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether an entry that follows this view's last one is the log's, without a look at that one (L5).
    fn is_believed(&self) -> bool {
        !self.verify_due(self.clock.boottime()) && !self.is_too_old()
    }

    /// Applies the next entry and reads nothing: it renews nothing either.
    async fn take(&mut self, entry: &Entry) -> Result<(), Error> {
        match self.apply(entry) {
            Ok(_) => Ok(()),
            Err(Mismatch) => end_if_corrupt(self.reload("the next entry is of another history").await),
        }
    }

    fn hear(&mut self) {
        if *self.hinted.borrow_and_update() > self.state.number {
            // A poll that is due already, and waits for scouts, must not be put off again.
            self.poll_due = self.poll_due.min(Instant::now());
        }
    }

    fn take_in(&mut self, message: Message<M>) {
        match message {
            Message::Propose(proposals) => self.queue.extend(proposals),
            Message::Refresh(answer) => self.refreshes.push(answer),
        }
    }

    /// An error is the end.
    async fn work(&mut self) -> Result<(), Error> {
        let (now, due) = (Instant::now(), self.poll_due);
        // Commits are polls as well, but those that fail are none: then the lease must not wait for them.
        let overdue = now >= due + self.log.config.poll_interval;
        if !self.refreshes.is_empty() || overdue {
            self.poll().await?;
        } else if self.queue.is_empty() && now >= self.poll_at() {
            let pressing = self.pressing.clone();
            // Of what was taken in already.
            let _ = pressing.notified().now_or_never();
            tokio::select! {
                polled = self.poll() => polled?,
                // It is as due as it was.
                () = pressing.notified() => self.poll_due = due,
            }
        }
        if !self.queue.is_empty() {
            self.commit().await?;
        }
        Ok(())
    }

    async fn poll(&mut self) -> Result<(), Error> {
        self.poll_due = Instant::now() + self.log.config.poll_interval;
        let waiting = std::mem::take(&mut self.refreshes);
        let hinted = *self.hint.borrow();
        let result = self.catch_up(None).await.map(|()| self.shared.view.load_full());
        match &result {
            Ok(_) => {
                self.forget_hints(hinted);
                self.stop_scouting();
            }
            Err(error) => warn!(%error, "the tail of the metadata log could not be read"),
        }
        for answer in waiting {
            // Whoever asked may have gone away.
            let _ = answer.send(result.clone());
        }
        end_if_corrupt(result.map(drop))
    }

    /// What was hinted up to `hinted` was looked for. A number that is not there must not hide those that will be.
    fn forget_hints(&self, hinted: u64) {
        let number = self.state.number;
        self.hint.send_if_modified(|known| {
            let forgotten = *known <= hinted && *known != number;
            if forgotten {
                *known = number;
            }
            forgotten
        });
    }

    /// Applies entries up to the tail. `found` is the next entry, if it was read already.
    async fn catch_up(&mut self, found: Option<Entry>) -> Result<(), Error> {
        let began = self.clock.boottime();
        if self.is_too_old() {
            return self.reload("it was not renewed for too long").await;
        }
        let (anchor, anchor_nonce) = (self.state.number, self.state.nonce);
        let verify = self.verify_due(began);
        let mut next = found;
        let mut walk = self.log.walk(anchor + 1 + u64::from(next.is_some()));
        loop {
            let entry = match next.take() {
                Some(entry) => entry,
                None => match walk.next().await? {
                    Some(entry) => entry,
                    None => break,
                },
            };
            // While the anchor stands, what follows it was never deleted, so it cannot be a sleeper's work (L5).
            if verify && entry.number == anchor + 1 && !self.log.stands(anchor, anchor_nonce).await? {
                return self.reload("its last entry was deleted").await;
            }
            if self.apply(&entry).is_err() {
                return self.reload("the next entry is of another history").await;
            }
        }
        if verify {
            let missing = self.log.missing(self.state.number + 1, self.state.nonce).await?;
            if missing == Missing::Stale {
                return self.reload("its last entry was deleted").await;
            }
            self.verified = began;
        }
        if self.is_too_old() {
            return self.reload("reading the tail took too long").await;
        }
        self.renew(began);
        Ok(())
    }

    /// Throws the state away and loads it anew.
    async fn reload(&mut self, reason: &str) -> Result<(), Error> {
        info!(number = self.state.number, reason, "the view of the metadata log is stale; loading it anew");
        let Loaded { state, began, .. } = load(&self.log, &*self.clock, &self.empty).await?;
        let number = self.state.number;
        if state.number < number || (state.number == number && state.nonce != self.state.nonce) {
            let detail = format!("it was applied here, but the log now ends at entry {}", state.number);
            return Err(corrupt(&entry_path(number), detail));
        }
        self.state = state;
        self.verified = began;
        self.publish();
        self.renew(began);
        Ok(())
    }

    /// Creates the next entry with as many commands as fit.
    async fn commit(&mut self) -> Result<(), Error> {
        if self.is_too_old() {
            end_if_corrupt(self.catch_up(None).await)?;
        }
        self.drop_overdue();
        if self.queue.is_empty() || self.is_too_old() {
            return Ok(());
        }
        let mut batch = self.take_batch();
        let entry = Entry {
            number: self.state.number + 1,
            nonce: Nonce::fresh(),
            predecessor: self.state.nonce,
            time_ms: self.clock.wall_ms(),
            issuer: *self.shared.issuer.lock(),
            commands: batch.iter().map(|proposal| proposal.command.clone()).collect(),
        };
        self.tell_early(&entry, &mut batch);
        let began = self.clock.boottime();
        match self.log.create(&entry).await {
            Ok(Created::Won) => {
                self.losses = 0;
                self.won(entry, batch, began).await
            }
            Ok(Created::Lost(other)) => {
                self.losses += 1;
                if self.is_too_old() {
                    // The number may have been ours first, used and deleted, and what lies there a sleeper's (L5): to try
                    // again could apply a command twice.
                    let detail =
                        "the view that it was made on was too old by the time its number was read back";
                    fail(batch, &Error::Unknown(detail.to_owned()));
                } else {
                    // They keep their order and their place before what was queued meanwhile.
                    for proposal in batch.into_iter().rev() {
                        self.queue.push_front(proposal);
                    }
                }
                self.follow(other).await
            }
            Err(error) => {
                fail(batch, &unknown(&error));
                end_if_corrupt(Err(error))
            }
        }
    }

    fn verify_due(&self, began: Duration) -> bool {
        began.saturating_sub(self.verified) >= self.log.config.verify_interval
    }

    /// A race was lost to `other`. Whoever loses for the first time tries the next number at once: the winner makes sure of its
    /// entry first, so a loser that pauses, or reads what may lie behind, loses to it again. With more losers than one that would
    /// only cost everybody requests.
    async fn follow(&mut self, other: Entry) -> Result<(), Error> {
        if self.losses == 1 && *self.hint.borrow() <= other.number && self.is_believed() {
            return self.take(&other).await;
        }
        end_if_corrupt(self.catch_up(Some(other)).await)?;
        let pause = self.log.conflict_pause(self.losses);
        self.log.closing.run_until_cancelled(tokio::time::sleep(pause)).await;
        Ok(())
    }

    /// Our create succeeded. It counts if our view was not so old that the number may have been used and deleted (L5).
    async fn won(&mut self, entry: Entry, batch: Batch<M::Outcome>, began: Duration) -> Result<(), Error> {
        let stands = match self.log.stands(self.state.number, self.state.nonce).await {
            Ok(stands) => stands,
            Err(error) => {
                // The next poll finds the entry like anybody else's.
                fail(batch, &unknown(&error));
                return end_if_corrupt(Err(error));
            }
        };
        if !stands || self.is_too_old() {
            let detail = "the view that it was made on was too old by the time it was written".to_owned();
            fail(batch, &Error::Unknown(detail));
            return end_if_corrupt(self.reload("it went out of date during a commit").await);
        }
        let step = match self.apply(&entry) {
            Ok(step) => step,
            Err(Mismatch) => panic!("entry {} was made to follow this state", entry.number),
        };
        if step.snapshot_due {
            // Everybody finds it due here; whoever appended the entry does it.
            self.take_snapshot();
        }
        let outcomes = step.outcomes;
        self.verified = began;
        self.renew(began);
        let number = entry.number;
        assert_eq!(outcomes.len(), batch.len(), "one outcome for each command");
        for (proposal, outcome) in batch.into_iter().zip(outcomes) {
            // The proposer may have gone away; the command is in the log all the same.
            let _ = proposal.answer.send(Ok(Applied { number, outcome }));
        }
        Ok(())
    }

    /// What the entry will have done if it is the next one, and counts.
    fn tell_early(&self, entry: &Entry, batch: &mut Batch<M::Outcome>) {
        if batch.iter().all(|proposal| proposal.early.is_none()) {
            return;
        }
        let Ok(step) = self.state.clone().apply(entry, &self.log.config) else { return };
        for (proposal, outcome) in batch.iter_mut().zip(step.outcomes) {
            if let Some(early) = proposal.early.take() {
                // Nobody has to wait for it.
                let _ = early.send(outcome);
            }
        }
    }

    fn apply(&mut self, entry: &Entry) -> Result<Step<M::Outcome>, Mismatch> {
        let step = self.state.apply(entry, &self.log.config)?;
        self.publish();
        self.stop_scouting();
        Ok(step)
    }

    fn publish(&self) {
        let (machine, number) = (self.state.machine.clone(), self.state.number);
        self.shared.view.store(Arc::new(View { machine, number }));
        self.applied.send_replace(number);
    }

    /// A read that began at `began` found `state` to be the tail.
    fn renew(&mut self, began: Duration) {
        self.fresh = self.fresh.max(began);
        self.poll_due = Instant::now() + self.log.config.poll_interval;
        self.polled.send_replace(Polled { began, number: self.state.number });
    }

    fn is_too_old(&self) -> bool {
        self.clock.boottime().saturating_sub(self.fresh) > self.log.config.view_age_max
    }

    fn take_snapshot(&mut self) {
        while let Some(ended) = self.background.try_join_next() {
            resume(ended);
        }
        if self.background.is_empty() {
            let State { machine, number, nonce, .. } = self.state.clone();
            self.background.spawn(retention::snapshot(self.log.clone(), machine, number, nonce));
        }
    }

    fn take_batch(&mut self) -> Batch<M::Outcome> {
        let mut bytes = ENVELOPE_BYTES;
        let fits = |proposal: &Proposal<_>| {
            bytes += command_bytes(&proposal.command);
            bytes <= self.log.config.entry_bytes_max
        };
        let count = self.queue.iter().map(fits).take_while(|fits| *fits).count();
        assert!(count > 0, "propose takes no command that does not fit an entry");
        self.queue.drain(..count).collect()
    }

    /// Answers commands that were not sent in time: they never will be.
    fn drop_overdue(&mut self) {
        let now = Instant::now();
        let (overdue, queue): (VecDeque<_>, _) =
            self.queue.drain(..).partition(|proposal| proposal.until <= now);
        self.queue = queue;
        fail(
            overdue.into(),
            &Error::Unavailable("no entry could be appended in time; nothing was sent".into()),
        );
    }

    async fn end(mut self, reason: Error) {
        self.shared.ended.send_replace(Some(reason.clone()));
        self.inbox.close();
        fail(self.queue.drain(..).collect(), &reason);
        while let Some(message) = self.inbox.recv().await {
            match message {
                Message::Propose(proposals) => fail(proposals, &reason),
                Message::Refresh(answer) => self.refreshes.push(answer),
            }
        }
        for answer in self.refreshes.drain(..) {
            let _ = answer.send(Err(reason.clone()));
        }
        self.log.closing.cancel();
        while let Some(ended) = self.background.join_next().await {
            resume(ended);
        }
    }
}

/// A panic of the actor's own tasks is the actor's.
fn resume(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Whoever waits for a replica must hear that it will never answer.
struct FailOnPanic<M: Machine>(Arc<Shared<M>>);

impl<M: Machine> Drop for FailOnPanic<M> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.ended.send_replace(Some(Error::Failed("a task of it panicked, see the log")));
        }
    }
}

fn fail<O>(batch: Batch<O>, error: &Error) {
    for proposal in batch {
        // The proposer may have gone away.
        let _ = proposal.answer.send(Err(error.clone()));
    }
}

fn unknown(error: &Error) -> Error {
    match error {
        Error::Unknown(detail) => Error::Unknown(detail.clone()),
        other => Error::Unknown(other.to_string()),
    }
}

/// Damage ends the replica; whatever else went wrong may be better at the next try.
fn end_if_corrupt(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error @ Error::Corrupt { .. }) => Err(error),
        _ => Ok(()),
    }
}
