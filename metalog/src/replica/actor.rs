//! The actor that owns the log: takes in what the handles ask for, follows the log, and appends to it.
//!
//! What somebody waits for goes first: a poll that nobody asked for is given up for a command, and taken up again behind it. An
//! entry that is [expected](super::Replica::expect) is asked for again and again before it is there, several requests at a time, for a
//! bounded time: so it is known about when whoever writes it knows that it is written, and not a request later.
//!
//! # Retries
//! Commands of a lost race are tried again at the next number, together with what was queued meanwhile. Commands of a
//! create whose outcome stayed unknown are answered so and never tried again: they may be in the log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::{Applied, Message, Polled, Proposal, Shared, View};
use crate::entry::{ENVELOPE_BYTES, Entry, Nonce, command_bytes};
use crate::load::{Loaded, load};
use crate::log::{Created, Log, Missing, corrupt, entry_path};
use crate::state::{Mismatch, State, Step};
use crate::{Clock, Error, Machine, retention};

/// Between two reads of an expected entry, how many are under way at a time, and how many are made in all for one
/// [`Replica::expect`](super::Replica::expect). No options: they shape what that costs, some GETs for each.
const SCOUT_INTERVAL: Duration = Duration::from_millis(20);
const SCOUTS_AT_ONCE: usize = 4;
const SCOUTS_MAX: usize = 32;

/// The part of the poll interval by which a poll may be late for scouts. No option: it must not matter to a lease.
const SCOUTED_POLL_DELAY: u32 = 4;

/// The actor's ends of what its handles hold the others of.
pub(super) struct Channels<M: Machine> {
    pub(super) shared: Arc<Shared<M>>,
    pub(super) applied: watch::Sender<u64>,
    pub(super) polled: watch::Sender<Polled>,
    pub(super) inbox: mpsc::Receiver<Message<M>>,
    pub(super) hint: Arc<watch::Sender<u64>>,
    pub(super) hinted: watch::Receiver<u64>,
    pub(super) expecting: watch::Receiver<bool>,
    pub(super) pressing: Arc<Notify>,
}

pub(super) struct Actor<M: Machine> {
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
    pub(super) fn new(
        log: Log,
        clock: Arc<dyn Clock>,
        empty: M,
        loaded: Loaded<M>,
        channels: Channels<M>,
    ) -> Actor<M> {
        let Channels { shared, applied, polled, inbox, hint, hinted, expecting, pressing } = channels;
        let poll_due = Instant::now() + log.config.poll_interval;
        Actor {
            log,
            clock,
            empty,
            shared,
            applied,
            polled,
            inbox,
            hint,
            hinted,
            expecting,
            pressing,
            scouts: FuturesUnordered::new(),
            scouts_left: 0,
            scout_due: Instant::now(),
            fresh: loaded.began,
            verified: loaded.began,
            poll_due,
            state: loaded.state,
            queue: VecDeque::new(),
            refreshes: Vec::new(),
            losses: 0,
            background: JoinSet::new(),
        }
    }

    pub(super) async fn run(mut self) {
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
        let (log, clock) = (self.log.clone(), self.clock.clone());
        let began = clock.boottime();
        match log.create(&entry, &*clock, |began| self.found_tail(began)).await {
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

    /// A create that has not succeeded yet found its number free: what a poll would have found.
    fn found_tail(&mut self, began: Duration) {
        if self.is_believed() {
            self.renew(began);
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
        // A create began before the reads that found its number free.
        self.fresh = self.fresh.max(began);
        // From when it began: what took long has renewed little.
        let age = self.clock.boottime().saturating_sub(self.fresh);
        self.poll_due = Instant::now() + self.log.config.poll_interval.saturating_sub(age);
        self.polled.send_replace(Polled { began: self.fresh, number: self.state.number });
    }

    fn is_too_old(&self) -> bool {
        self.clock.boottime().saturating_sub(self.fresh) > self.log.config.view_age_max
    }

    pub(super) fn take_snapshot(&mut self) {
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
