//! One broker's replica of the machine: a handle on the `actor` that owns the log.
//!
//! ```text
//!   propose ──► queue (bounded in bytes and commands) ──┐
//!   refresh ──► waiters ───────────────┐                │ as many as fit one entry
//!   hint, poll interval ──► catch up ◄─┴── lost race ── commit: create n+1, verify n, apply, answer
//!   expect ──► reads of n+1 ───┘                         │
//!                              └── view, applied, polls ─┘
//! ```
//!
//! # Consistency
//! A view holds every entry up to its number and nothing else. It is published before the proposer is answered. A
//! commit that was verified counts as a poll: it is a read of the tail at the moment the create was sent.
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

mod actor;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::entry::command_bytes;
use crate::load::load;
use crate::log::Log;
use crate::{Clock, Config, Error, Issuer, Machine, SystemClock};
use actor::{Actor, Channels};

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

        let long_replay = loaded.replayed >= config.snapshot_entries.saturating_mul(2);
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
        let channels = Channels {
            shared: shared.clone(),
            applied: applied_sender,
            polled: polled_sender,
            inbox,
            hint: hint.clone(),
            hinted,
            expecting,
            pressing: pressing.clone(),
        };
        let mut actor = Actor::new(log, clock, empty, loaded, channels);
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

/// Whoever waits for a replica must hear that it will never answer.
struct FailOnPanic<M: Machine>(Arc<Shared<M>>);

impl<M: Machine> Drop for FailOnPanic<M> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.ended.send_replace(Some(Error::Failed("a task of it panicked, see the log")));
        }
    }
}
