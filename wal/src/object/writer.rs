//! The writer: appends become batches, batches become slots.
//!
//! ```text
//!   append: queue + batcher under one short lock ──► notify
//!   cutter (one task): asks the batcher, gives the batch the next slot and its place in the releaser, starts the PUT
//!   PUT tasks: at most `puts_in_flight_max`, each to a known outcome; durable ─► releaser, theirs ─► fenced
//!   sweeper (one task): deletes trimmed slots when they are due
//! ```
//!
//! **Cancellation.** Dropping the writer, or losing it to a fence, ends the tasks where they stand; a PUT that is under
//! way then may land, and recovery or the seal deals with it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::batch::{Batcher, Decision};
use super::hedge::Hedge;
use super::put::{self, Created, Double, Found};
use super::trim::{Due, Slots};
use super::{Parts, Seal, SlotId, slot_key};
use crate::release::{Releaser, Ticket};
use crate::{
    AckRight, Append, AppendCompletion, AppendError, Error, Incarnation, Position, Record, Status, Wal,
};

#[derive(Debug)]
pub(super) struct ObjectWal {
    shared: Arc<Shared>,
    /// Waiters of `admit`, first come, first served.
    turnstile: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Shared {
    parts: Parts,
    owner: Incarnation,
    right: Arc<AckRight>,
    releaser: Releaser,
    queue: Mutex<Queue>,
    slots: Mutex<Slots>,
    hedge: Mutex<Hedge>,
    /// The cutter is to look again.
    wanted: Notify,
    /// Bytes appended and not yet acknowledged: slots beyond a hole count, and so does what waits for the right to
    /// acknowledge. Changes wake `admit`.
    pending: watch::Sender<usize>,
    /// Records appended and not yet durable; `close` waits for the last one.
    under_way: watch::Sender<usize>,
    trimmed: Notify,
    closing: watch::Sender<bool>,
    /// Of the batcher's and the slots' times.
    epoch: Instant,
    /// Of [`PutCount`](super::PutCount), at that moment.
    puts_before: u64,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

#[derive(Debug)]
struct Queue {
    batcher: Batcher,
    records: VecDeque<(Record, AppendCompletion)>,
    /// Slots not yet acknowledged, in order: where each ends, and its share of `pending`.
    cut: VecDeque<(Position, usize)>,
}

/// Between two attempts to delete a run of slots. Nothing waits for it.
const DELETE_RETRY: Duration = Duration::from_secs(60);

/// What a record costs in memory besides its meta and body, so that empty records have a bound, too.
const RECORD_OVERHEAD_BYTES: usize = 128;

impl ObjectWal {
    pub(super) fn start(parts: Parts, owner: Incarnation, right: Arc<AckRight>) -> Result<ObjectWal, Error> {
        let epoch = Instant::now();
        let shared = Arc::new(Shared {
            releaser: Releaser::new(right.clone(), Position(0))?,
            queue: Mutex::new(Queue {
                batcher: Batcher::new(&parts.config, Duration::ZERO),
                records: VecDeque::new(),
                cut: VecDeque::new(),
            }),
            slots: Mutex::new(Slots::new(parts.config.delete_delay)),
            puts_before: (parts.all_puts)(),
            hedge: Mutex::new(Hedge::new(&parts.config)),
            parts,
            owner,
            right,
            wanted: Notify::new(),
            pending: watch::Sender::new(0),
            under_way: watch::Sender::new(0),
            trimmed: Notify::new(),
            closing: watch::Sender::new(false),
            epoch,
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        });
        shared.spawn(cut(shared.clone()));
        shared.spawn(account(shared.clone()));
        shared.spawn(sweep(shared.clone()));
        shared.spawn(give_up(shared.clone()));
        Ok(ObjectWal { shared, turnstile: tokio::sync::Mutex::new(()) })
    }
}

impl Drop for ObjectWal {
    fn drop(&mut self) {
        self.shared.cancel.cancel();
    }
}

impl Shared {
    fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        let guard = FailOnPanic(self.clone());
        self.tasks.spawn(async move {
            let _guard = guard;
            cancel.run_until_cancelled(task).await;
        });
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn check_open(&self) -> Result<(), Error> {
        if *self.closing.borrow() {
            return Err(Error::Closed);
        }
        if let Some(reason) = self.right.revoked() {
            return Err(Error::Fenced(reason));
        }
        self.releaser.failure().map_or(Ok(()), Err)
    }

    /// Stops for good: no slot is written any more, and none of those under way is acknowledged.
    fn fail(&self, error: Error) {
        tracing::error!("the object WAL of {:?} stops: {error}", self.owner);
        self.releaser.fail(error);
    }

    /// Fails what was not cut yet. The log has failed or is closing already: an append that comes later sees that under
    /// the same lock.
    fn abandon(&self, error: &Error) {
        let abandoned = {
            let mut queue = self.queue.lock();
            queue.batcher.clear();
            std::mem::take(&mut queue.records)
        };
        for (_, completion) in abandoned {
            completion.complete(Err(error.clone()));
        }
    }
}

/// A task that panics leaves a slot that nobody fills: the log fails instead of hanging.
struct FailOnPanic(Arc<Shared>);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::Failed("a task of the object WAL panicked, see the log".to_owned()));
        }
    }
}

/// Gives back the room of what was acknowledged.
async fn account(shared: Arc<Shared>) {
    let mut released = shared.releaser.released();
    // Something may have been released before there was anybody to be told.
    released.mark_changed();
    while released.changed().await.is_ok() {
        let end = *released.borrow_and_update();
        let mut bytes = 0;
        {
            let mut queue = shared.queue.lock();
            while let Some((_, slot_bytes)) = queue.cut.pop_front_if(|(slot_end, _)| *slot_end <= end) {
                bytes += slot_bytes;
            }
        }
        shared.pending.send_modify(|pending| *pending -= bytes);
    }
}

/// Gives up what waits once the log has failed, for whatever reason, and ends the other tasks.
async fn give_up(shared: Arc<Shared>) {
    let error = shared.releaser.failed().await;
    shared.abandon(&error);
    shared.cancel.cancel();
}

/// Cuts batches for as long as there is a log.
async fn cut(shared: Arc<Shared>) {
    let mut next_slot = 0;
    loop {
        let puts = (shared.parts.all_puts)().saturating_sub(shared.puts_before);
        let decision = {
            let mut queue = shared.queue.lock();
            queue.batcher.sent(puts);
            let decision = queue.batcher.decide(shared.now());
            match decision {
                Decision::Cut { records, bytes } => {
                    let batch: Vec<_> = queue.records.drain(..records).collect();
                    queue.cut.push_back((Position(next_slot + 1), bytes + records * RECORD_OVERHEAD_BYTES));
                    drop(queue);
                    begin(&shared, next_slot, batch, bytes);
                    next_slot += 1;
                    continue;
                }
                other => other,
            }
        };
        match decision {
            Decision::At(time) => {
                tokio::select! {
                    () = shared.wanted.notified() => {}
                    () = tokio::time::sleep_until(shared.epoch + time) => {}
                }
            }
            _ => shared.wanted.notified().await,
        }
    }
}

/// Gives the batch its place and starts its PUT.
fn begin(shared: &Arc<Shared>, slot: u64, batch: Vec<(Record, AppendCompletion)>, bytes: usize) {
    let (records, completions): (Vec<Record>, Vec<AppendCompletion>) = batch.into_iter().unzip();
    let ticket = shared.releaser.enqueue(Position(slot), Position(slot + 1), completions);
    shared.slots.lock().add(slot, bytes as u64);
    shared.spawn(fill(shared.clone(), slot, records, ticket));
}

async fn fill(shared: Arc<Shared>, slot: u64, records: Vec<Record>, ticket: Ticket) {
    let key = slot_key(shared.owner, slot);
    let id = SlotId { owner: shared.owner, slot, nonce: rand::random() };
    let chunks = shared.parts.codec.encode(&id, &records);
    let count = records.len();
    drop(records);
    assert!(
        chunks.first().is_none_or(|chunk| Seal::decode(chunk).is_none()),
        "a slot never looks like a seal"
    );
    let (size, limit) = (chunks.iter().map(Bytes::len).sum::<usize>(), shared.parts.config.slot_bytes_max);
    assert!(size <= limit, "a slot of {size} bytes could not be read back, the limit is {limit}");
    let began = Instant::now();
    let after = shared.hedge.lock().after(size);
    // What doubles cost is part of the budget: batches behind them wait longer.
    let may = || {
        let may = shared.hedge.lock().double();
        if may {
            shared.queue.lock().batcher.put_doubled();
        }
        may
    };
    let double = after.map(|after| Double { after, may: &may });
    let early = host::planted("ack-before-durable");
    if early {
        shared.releaser.durable(ticket);
    }
    let created = put::create(&*shared.parts.store, &shared.parts.config, &key, &chunks, double).await;
    match created {
        Created::Ours => {
            if !early {
                shared.releaser.durable(ticket);
            }
            shared.hedge.lock().done(size, began.elapsed());
            shared.queue.lock().batcher.put_done();
            shared.under_way.send_modify(|records| *records -= count);
            shared.wanted.notify_one();
        }
        Created::Theirs(found) => shared.fail(taken(&shared, &id, &found)),
        Created::Vanished => {
            shared.fail(Error::Fenced(format!(
                "{key} was there and is gone: this log was recovered and cleaned up long ago"
            )));
        }
    }
}

/// Who has the slot that was to be `wanted`, as far as its bytes tell.
fn taken(shared: &Shared, wanted: &SlotId, found: &Found) -> Error {
    let key = slot_key(wanted.owner, wanted.slot);
    let bytes = match found {
        Found::Whole(bytes) => bytes,
        Found::Oversized(size) => {
            return Error::Failed(format!("{key} holds {size} bytes of somebody else, over slot_bytes_max"));
        }
    };
    match Seal::decode(bytes) {
        Some(Ok(seal)) => {
            return Error::Fenced(format!("{key} was sealed ({seal:?}): another process took over"));
        }
        Some(Err(detail)) => return Error::Failed(format!("{key} holds something like a seal: {detail}")),
        None => {}
    }
    match shared.parts.codec.decode(bytes) {
        Ok((id, _)) if id == *wanted => {
            Error::Failed(format!("{key} holds other bytes under this writer's own nonce"))
        }
        Ok((id, _)) => Error::Fenced(format!(
            "{key} was filled by another process, as slot {} of {:?}",
            id.slot, id.owner
        )),
        Err(error) => Error::Failed(format!("{key} holds what no writer of slots wrote: {error}")),
    }
}

/// Deletes trimmed slots when they are due, and again where that failed. What is left at the end of this life is the
/// collector's.
async fn sweep(shared: Arc<Shared>) {
    loop {
        let due = shared.slots.lock().due(shared.now());
        match due {
            Due::Nothing => shared.trimmed.notified().await,
            Due::At(time) => tokio::time::sleep_until(shared.epoch + time).await,
            Due::Now { from, to } => {
                let owner = shared.owner;
                let keys =
                    futures::stream::iter((from..to).map(move |slot| Ok(slot_key(owner, slot)))).boxed();
                let mut deleted = shared.parts.store.delete_stream(keys);
                let mut failed = false;
                while let Some(outcome) = deleted.next().await {
                    if let Err(error) = outcome
                        && !matches!(error, object_store::Error::NotFound { .. })
                    {
                        failed = true;
                        tracing::warn!("deleting trimmed slots {from} to {to}: {error}; trying again later");
                    }
                }
                if failed {
                    let due = shared.now() + DELETE_RETRY;
                    shared.slots.lock().retry((from, to), due);
                }
            }
        }
    }
}

/// Whether a record of `bytes` has room. The largest one fits into an empty log, whatever its overhead.
fn fits(limit: usize, pending: usize, bytes: usize) -> bool {
    pending == 0 || pending + bytes + RECORD_OVERHEAD_BYTES <= limit
}

#[async_trait]
impl Wal for ObjectWal {
    async fn admit(&self, bytes: usize) -> Result<(), Error> {
        let _turn = self.turnstile.lock().await;
        let config = &self.shared.parts.config;
        // What can never fit need not wait to be told so by `append`.
        let fits = |pending: &usize| {
            bytes > config.record_bytes_max || fits(config.pending_bytes_max, *pending, bytes)
        };
        let mut pending = self.shared.pending.subscribe();
        let mut closing = self.shared.closing.subscribe();
        let revoked = self.shared.right.lost();
        self.shared.check_open()?;
        tokio::select! {
            biased;
            fitting = pending.wait_for(fits) => fitting.map(drop).map_err(|_| Error::Closed),
            _ = closing.wait_for(|closing| *closing) => Err(Error::Closed),
            error = self.shared.releaser.failed() => Err(error),
            reason = revoked => Err(Error::Fenced(reason)),
        }
    }

    fn append(&self, record: Record) -> Result<Append, AppendError> {
        let shared = &self.shared;
        let config = &shared.parts.config;
        let bytes = record.size();
        if bytes > config.record_bytes_max {
            return Err(AppendError::TooLarge { bytes, limit_bytes: config.record_bytes_max });
        }
        let (completion, append) = Append::channel();
        {
            let mut queue = shared.queue.lock();
            // Under the lock: `fail` and `close` empty the queue after they have said so.
            shared.check_open()?;
            let used = *shared.pending.borrow();
            if !fits(config.pending_bytes_max, used, bytes) {
                return Err(AppendError::OverCapacity {
                    used_bytes: used as u64,
                    capacity_bytes: config.pending_bytes_max as u64,
                });
            }
            shared.pending.send_modify(|pending| *pending += bytes + RECORD_OVERHEAD_BYTES);
            shared.under_way.send_modify(|records| *records += 1);
            queue.batcher.push(shared.now(), bytes);
            queue.records.push_back((record, completion));
        }
        shared.wanted.notify_one();
        Ok(append)
    }

    fn hurry(&self) {
        self.shared.queue.lock().batcher.hurry(self.shared.now());
        self.shared.wanted.notify_one();
    }

    async fn trim(&self, upto: Position) -> Result<(), Error> {
        self.shared.check_open()?;
        let durable = self.shared.releaser.durable_end();
        assert!(upto <= durable, "{upto:?} lies beyond what is durable, {durable:?}");
        if self.shared.slots.lock().trim(self.shared.now(), upto.0) {
            self.shared.trimmed.notify_one();
        }
        Ok(())
    }

    fn record_bytes_max(&self) -> usize {
        self.shared.parts.config.record_bytes_max
    }

    fn status(&self) -> Status {
        let slots = self.shared.slots.lock();
        Status {
            trimmed: Position(slots.trimmed()),
            durable: self.shared.releaser.durable_end(),
            used_bytes: slots.held_bytes(),
            capacity_bytes: u64::MAX,
            used_slots: slots.held(),
        }
    }

    async fn failed(&self) -> Error {
        self.shared.releaser.failed().await
    }

    async fn close(&self) {
        // Under the lock, so that no append slips in behind it.
        {
            let _queue = self.shared.queue.lock();
            self.shared.closing.send_replace(true);
        }
        let mut under_way = self.shared.under_way.subscribe();
        tokio::select! {
            _ = under_way.wait_for(|records| *records == 0) => {}
            _ = self.shared.releaser.failed() => {}
        }
        self.shared.releaser.close().await;
        self.shared.abandon(&self.shared.releaser.failure().unwrap_or(Error::Closed));
        self.shared.cancel.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}
