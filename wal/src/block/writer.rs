//! The open log: threads that write frames, and one that writes superblocks.
//!
//! ```text
//!   append ──► layout (under a lock) ──► open frame gathers ──► taken by a writer thread
//!                                                                 encode (one copy, CRC), write, flush
//!                                                                 └─► releaser: in order, under the right
//!   trim ────► trim_wanted ──► keeper thread: superblock ──► space comes back (W6)
//! ```
//!
//! Plain OS threads do all I/O and release the acknowledgements, so that a busy runtime delays none of them. Each writer
//! has one aligned buffer; with the bound on frames this bounds the memory.
//!
//! # Failure
//!
//! The first failed write or flush fails the log for good: nothing is tried again, since after a failed flush nobody
//! knows what the device still holds. Frames under way end as they may, nothing behind the failed one is acknowledged.
//! One that the device refuses because another broker took its reservation fails it as fenced (V8).
//!
//! # Cancellation, crash
//!
//! A dropped append stays in the log. Dropping the log without [`Wal::close`] does no I/O: threads end after the write
//! they are in, what was queued is not in the log. `close` writes everything and then, if the right still holds, a
//! superblock that says how far the log was durable, and that its owner writes no more.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use host::work::Condition;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::aligned::AlignedBuffer;
use super::frame::Header;
use super::layout::{Frame, Geometry, Layout};
use super::reservation::{self, Held};
use super::superblock::{RING_OFFSET, Superblock};
use super::volume::Volume;
use crate::release::{Releaser, Ticket};
use crate::right::boottime;
use crate::{AckRight, Append, AppendCompletion, AppendError, Error, Position, Record, Status, Wal};

/// The handle. Its drop ends the threads.
#[derive(Debug)]
pub(super) struct BlockWal {
    shared: Arc<Shared>,
    /// Waiters of `admit`, first come, first served.
    turnstile: tokio::sync::Mutex<()>,
    /// How many those are. While there are none, whoever comes need not queue.
    queued: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct Shared {
    volume: Volume,
    /// The device's reservation, if this log has it.
    held: Option<Held>,
    right: Arc<AckRight>,
    releaser: Releaser,
    state: Mutex<State>,
    /// A frame may be ready, or the log ends.
    frames: Condition,
    /// A trim is wanted, or the log ends.
    keeping: Condition,
    /// Changes when room may have come back, or a trim is done.
    room: watch::Sender<()>,
    /// True once no thread touches the device any more.
    ended: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    layout: Layout<AppendCompletion>,
    /// As it was last written.
    superblock: Superblock,
    trim_wanted: u64,
    /// Writer threads alive, and those of them that wait.
    writers: usize,
    idle: usize,
    ending: Ending,
}

#[derive(Clone, Debug)]
enum Ending {
    No,
    /// Write what was appended, then end.
    Closing,
    /// End at once.
    Abandoned,
    Failed(Error),
}

/// One who waits in `admit`, until it is dropped.
struct Queued<'a>(&'a AtomicUsize);

impl Queued<'_> {
    fn new(count: &AtomicUsize) -> Queued<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Queued(count)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a thread does.
#[derive(Clone, Copy)]
enum Role {
    Write,
    Keep,
}

/// A frame on its way to the device.
struct Job {
    frame: Frame<()>,
    pending: usize,
    ticket: Ticket,
    header: Header,
}

impl BlockWal {
    /// Starts the threads of a log whose superblocks were just written.
    pub(super) fn start(
        volume: Volume,
        superblock: Superblock,
        geometry: Geometry,
        right: Arc<AckRight>,
        held: Option<Held>,
    ) -> Result<BlockWal, Error> {
        let shared = Arc::new(Shared {
            volume,
            held,
            releaser: Releaser::new(right.clone(), Position(superblock.trim))?,
            right,
            state: Mutex::new(State {
                layout: Layout::new(geometry),
                superblock,
                trim_wanted: 0,
                writers: 0,
                idle: 0,
                ending: Ending::No,
            }),
            frames: Condition::new(),
            keeping: Condition::new(),
            room: watch::Sender::new(()),
            ended: watch::Sender::new(false),
        });
        // From here on the drop of the handle ends whatever was started.
        let wal = BlockWal { shared, turnstile: tokio::sync::Mutex::new(()), queued: AtomicUsize::new(0) };
        wal.spawn("wal-keep", Role::Keep)?;
        for index in 0..geometry.writes_max {
            wal.shared.state.lock().writers += 1;
            if let Err(error) = wal.spawn(&format!("wal-write-{index}"), Role::Write) {
                wal.shared.state.lock().writers -= 1;
                return Err(error);
            }
        }
        Ok(wal)
    }

    fn spawn(&self, name: &str, role: Role) -> Result<(), Error> {
        let shared = self.shared.clone();
        let body = move || async move {
            let _guard = FailOnPanic(&shared);
            match role {
                Role::Write => shared.write_frames().await,
                Role::Keep => shared.keep().await,
            }
        };
        host::work::thread(name, body)
            .map_err(|error| Error::Failed(format!("cannot start a thread of the write-ahead log: {error}")))
    }

    pub(super) fn shared(&self) -> Weak<Shared> {
        Arc::downgrade(&self.shared)
    }
}

/// A thread that panics leaves frames that nobody writes: the log fails instead of hanging.
struct FailOnPanic<'a>(&'a Shared);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = Error::Failed("a thread of the write-ahead log panicked, see the log".to_owned());
            self.0.fail(self.0.state.lock(), error);
        }
    }
}

impl Drop for BlockWal {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if matches!(state.ending, Ending::No) {
            state.ending = Ending::Abandoned;
        }
        drop(state);
        self.shared.wake_all();
    }
}

#[async_trait]
impl Wal for BlockWal {
    async fn admit(&self, bytes: usize) -> Result<(), Error> {
        if self.queued.load(Ordering::Relaxed) == 0 && self.shared.has_room(bytes)? {
            return Ok(());
        }
        let _queued = Queued::new(&self.queued);
        let _turn = self.turnstile.lock().await;
        let mut room = self.shared.room.subscribe();
        loop {
            room.mark_unchanged();
            if self.shared.has_room(bytes)? {
                return Ok(());
            }
            tokio::select! {
                _ = room.changed() => {}
                error = self.shared.releaser.failed() => return Err(error),
            }
        }
    }

    fn append(&self, record: Record) -> Result<Append, AppendError> {
        let bytes = record.size();
        let (completion, append) = Append::channel();
        let mut state = self.shared.state.lock();
        self.shared.check_open(&state)?;
        let limit_bytes = state.layout.geometry().record_max();
        if bytes > limit_bytes {
            return Err(AppendError::TooLarge { bytes, limit_bytes });
        }
        if state.layout.append(record, completion).is_err() {
            return Err(AppendError::OverCapacity {
                used_bytes: state.layout.used(),
                capacity_bytes: state.layout.geometry().ring,
            });
        }
        let wake = state.idle > 0 && state.layout.ready(self.shared.releaser.durable_end().0);
        drop(state);
        if wake {
            self.shared.frames.notify_one();
        }
        Ok(append)
    }

    async fn trim(&self, upto: Position) -> Result<(), Error> {
        let mut room = self.shared.room.subscribe();
        {
            let mut state = self.shared.state.lock();
            self.shared.check_open(&state)?;
            let block = state.layout.geometry().block as u64;
            assert!(
                upto <= self.shared.releaser.durable_end() && upto.0.is_multiple_of(block),
                "{upto:?} is no position that an append resolved to, nor the durable end"
            );
            state.trim_wanted = state.trim_wanted.max(upto.0);
        }
        self.shared.keeping.notify_one();
        loop {
            room.mark_unchanged();
            {
                let state = self.shared.state.lock();
                if state.layout.trimmed() >= upto.0 {
                    return Ok(());
                }
                if *self.shared.ended.borrow() {
                    return Err(self.shared.releaser.failure().unwrap_or(Error::Closed));
                }
            }
            tokio::select! {
                _ = room.changed() => {}
                error = self.shared.releaser.failed() => return Err(error),
            }
        }
    }

    fn record_bytes_max(&self) -> usize {
        self.shared.state.lock().layout.geometry().record_max()
    }

    fn status(&self) -> Status {
        let state = self.shared.state.lock();
        Status {
            trimmed: Position(state.layout.trimmed()),
            durable: self.shared.releaser.durable_end(),
            used_bytes: state.layout.used(),
            capacity_bytes: state.layout.geometry().ring,
            used_slots: 0,
        }
    }

    async fn failed(&self) -> Error {
        self.shared.releaser.failed().await
    }

    async fn close(&self) {
        {
            let mut state = self.shared.state.lock();
            if matches!(state.ending, Ending::No) {
                state.ending = Ending::Closing;
            }
        }
        self.shared.wake_all();
        self.shared.ended().await;
        self.shared.releaser.close().await;
    }
}

impl Shared {
    /// Whether the log still takes orders: nobody else may have the volume while this is so.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.state.lock().ending, Ending::No)
    }

    /// Resolves once no thread touches the device any more.
    pub(super) async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        // The sender is in `self`, so it cannot be gone.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Whether `append` would take a record of `bytes`, or refuse it at any time, which it is to say itself.
    fn has_room(&self, bytes: usize) -> Result<bool, Error> {
        let state = self.state.lock();
        self.check_open(&state)?;
        Ok(bytes > state.layout.geometry().record_max() || state.layout.fits(bytes))
    }

    fn check_open(&self, state: &State) -> Result<(), Error> {
        match &state.ending {
            Ending::Closing | Ending::Abandoned => return Err(Error::Closed),
            Ending::Failed(error) => return Err(error.clone()),
            Ending::No => {}
        }
        if let Some(reason) = self.right.revoked() {
            return Err(Error::Fenced(reason));
        }
        self.releaser.failure().map_or(Ok(()), Err)
    }

    fn wake_all(&self) {
        self.frames.notify_all();
        self.keeping.notify_all();
        self.room.send_replace(());
    }

    /// Ends the log: what waits fails, in order, behind what is under way.
    fn fail(&self, mut state: MutexGuard<'_, State>, error: Error) {
        if !matches!(state.ending, Ending::Failed(_)) {
            state.ending = Ending::Failed(error.clone());
        }
        let block = state.layout.geometry().block;
        for frame in state.layout.drain() {
            let end = frame.end(block);
            self.releaser.enqueue(Position(frame.position), Position(end), frame.tokens);
        }
        drop(state);
        self.releaser.fail(error);
        self.wake_all();
    }

    /// A writer thread.
    async fn write_frames(&self) {
        let Geometry { block, ring, frame_target, frame_max, .. } = *self.state.lock().layout.geometry();
        // What a frame usually takes: its last record may go beyond the target. A larger one gets a buffer for itself.
        let usual = (2 * frame_target).min(frame_max).next_multiple_of(block);
        let mut buffer = AlignedBuffer::zeroed(usual);
        while let Some(job) = self.next_job().await {
            let bytes = job.frame.bytes(block);
            if bytes > buffer.len() {
                buffer = AlignedBuffer::zeroed(bytes);
            }
            job.header.encode(&job.frame.records, block, &mut buffer);
            let offset = RING_OFFSET + job.frame.position % ring;
            let Job { frame, pending, ticket, .. } = job;
            // The copy is made; what was appended need not be kept for the write.
            drop(frame);
            let began = self.held.as_ref().map(|_| boottime());
            let written = self.volume.write(&buffer[..bytes], offset).await;
            match written
                .map_err(|error| self.refused(&error, bytes, offset))
                .and_then(|()| self.settle(began))
            {
                Ok(()) => self.written(ticket, pending),
                Err(error) => self.fail(self.state.lock(), error),
            }
            if buffer.len() > usual {
                buffer = AlignedBuffer::zeroed(usual);
            }
        }
        self.state.lock().writers -= 1;
        self.wake_all();
    }

    fn refused(&self, error: &std::io::Error, bytes: usize, offset: u64) -> Error {
        if reservation::is_refusal(error) {
            return reservation::taken();
        }
        Error::Failed(format!(
            "could not write {bytes} bytes at {offset} of {}: {error}; restart the broker, and look at the device",
            self.volume.uri
        ))
    }

    /// A write under a reservation that was slow counts only if the reservation still holds (P4).
    fn settle(&self, began: Option<Duration>) -> Result<(), Error> {
        match (&self.held, began) {
            (Some(held), Some(began)) if boottime().saturating_sub(began) > reservation::SETTLE => {
                held.confirm()
            }
            _ => Ok(()),
        }
    }

    fn written(&self, ticket: Ticket, pending: usize) {
        self.releaser.durable(ticket);
        let mut state = self.state.lock();
        state.layout.written(pending);
        let ending = !matches!(state.ending, Ending::No);
        drop(state);
        // A frame that is ready by this is this thread's next; it wakes another one if there are more.
        if ending {
            self.frames.notify_all();
        }
        // Who subscribed too late to be counted looks for room, under the lock, after it was made.
        if self.room.receiver_count() > 0 {
            self.room.send_replace(());
        }
    }

    /// Waits for a frame. `None` ends the thread.
    async fn next_job<'a>(&'a self) -> Option<Job> {
        let mut idle = false;
        let attempt = |mut state: MutexGuard<'a, State>| {
            if std::mem::take(&mut idle) {
                state.idle -= 1;
            }
            if let Some(error) = self.releaser.failure() {
                // Fenced, or failed by another thread: nothing is written any more.
                self.fail(state, error);
                return Ok(None);
            }
            match &state.ending {
                Ending::Abandoned | Ending::Failed(_) => return Ok(None),
                Ending::Closing if state.layout.is_idle() => return Ok(None),
                _ => {}
            }
            let durable = self.releaser.durable_end().0;
            if let Some(frame) = state.layout.take(durable) {
                let job = self.job(&state, frame, durable);
                let more = state.idle > 0 && state.layout.ready(durable);
                drop(state);
                if more {
                    self.frames.notify_one();
                }
                return Ok(Some(job));
            }
            state.idle += 1;
            idle = true;
            Err(state)
        };
        self.frames.wait_until(&self.state, attempt).await
    }

    /// Fixes the frame's place in the order of releases; under the lock, like the take.
    fn job(&self, state: &State, frame: Frame<AppendCompletion>, durable_before: u64) -> Job {
        let pending = Layout::pending_of(&frame);
        let end = frame.end(state.layout.geometry().block);
        let owner = state.superblock.owner.expect("an open log has an owner");
        let header = Header {
            volume: state.superblock.volume,
            epoch: owner.epoch,
            position: frame.position,
            previous_end: frame.previous_end,
            durable_before: if host::planted("early-proof") { frame.position } else { durable_before },
            body_bytes: 0,
            records: 0,
            body_crc: 0,
        };
        let (frame, tokens) = frame.split();
        let ticket = self.releaser.enqueue(Position(frame.position), Position(end), tokens);
        Job { frame, pending, ticket, header }
    }

    /// The keeper thread: superblocks, one at a time; trims that come meanwhile share the next one.
    async fn keep(&self) {
        while let Some(next) = self.next_superblock().await {
            let written = self.volume.write_superblock(&next).await;
            let mut state = self.state.lock();
            match written {
                Ok(()) => {
                    state.superblock = next;
                    state.layout.trim(next.trim);
                    drop(state);
                    self.room.send_replace(());
                }
                Err(error) => self.fail(state, error),
            }
        }
        if let Some(held) = self.held.as_ref().filter(|_| self.state.lock().superblock.released) {
            held.release();
        }
        self.ended.send_replace(true);
        self.room.send_replace(());
    }

    /// Waits until a superblock is to be written. `None`, once no writer is left, ends the thread.
    async fn next_superblock<'a>(&'a self) -> Option<Superblock> {
        let attempt = |state: MutexGuard<'a, State>| {
            let durable = self.releaser.durable_end().0;
            let next = Superblock {
                sequence: state.superblock.sequence + 1,
                trim: state.trim_wanted,
                durable,
                released: state.writers == 0 && matches!(state.ending, Ending::Closing),
                ..state.superblock
            };
            let ended = state.writers == 0;
            let wanted = match state.ending {
                Ending::No => state.trim_wanted > state.superblock.trim,
                Ending::Closing => ended && !state.superblock.released && self.right.holds(),
                Ending::Abandoned | Ending::Failed(_) => false,
            };
            if wanted && self.releaser.failure().is_none() {
                return Ok(Some(next));
            }
            if ended && !matches!(state.ending, Ending::No) {
                return Ok(None);
            }
            Err(state)
        };
        self.keeping.wait_until(&self.state, attempt).await
    }
}
