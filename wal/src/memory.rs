//! The memory WAL: the contract in its plainest form, and a medium that tests can break.
//!
//! A [`MemoryMedium`] is the volume; it outlives its writers. By default every write is durable at once. A test may
//! hold writes back, complete them in any order, fail them, let the medium lie about them, and crash the writer, which
//! loses what was not durable or keeps an arbitrary part of it. Recovery seals: it fences the writer that is still
//! there, as a bucket's seal does; or it only reads, as of a volume, if a test says so.
//!
//! ```text
//!   append ─► Write{position, record, state} ─► Held ──complete──► Durable ─► released in order
//!                                                 └──crash: lost, or kept (a hole may precede it)
//! ```
//!
//! - **M1** A position is the sum of the sizes of all earlier records and their overhead: strictly growing, from 0.
//! - **M2** What is held is neither acknowledged nor recovered.
//! - **M3** A record whose successor proves that it was acknowledged, and which is gone, is corruption, not the end.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::release::{Releaser, Ticket};
use crate::{
    AckRight, Append, AppendError, Error, Incarnation, Medium, Position, Record, Recovered, Recovery, Status,
    Uri, Vacated, Wal,
};

/// Bytes that every record takes on the medium besides its own, as a header would.
pub const RECORD_OVERHEAD_BYTES: u64 = 16;

/// Bounds of a memory WAL.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of records and their overhead between the trim point and the tail. Default 64 MiB.
    pub capacity_bytes: u64,
    /// The largest record, meta and body. Default 16 MiB.
    pub record_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { capacity_bytes: 64 << 20, record_bytes_max: 16 << 20 }
    }
}

/// A volume in memory. Clones are handles of the same volume.
#[derive(Clone, Debug)]
pub struct MemoryMedium {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    uri: Uri,
    options: Options,
    volume: Mutex<Volume>,
    /// Changes when space comes back or a held write is done.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Volume {
    owner: Option<Incarnation>,
    /// Which writer may write. Every open, seal and crash ends the one before.
    generation: u64,
    writer: Option<Arc<Releaser>>,
    log: VecDeque<Write>,
    trimmed: u64,
    tail: u64,
    holding: bool,
    lying: bool,
    admits_all: bool,
    only_read: bool,
    fail_next: bool,
}

#[derive(Debug)]
struct Write {
    position: u64,
    end: u64,
    /// What was durable when this was written: proves earlier acknowledgements (M3).
    durable_before: Position,
    record: Record,
    state: WriteState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteState {
    Held(Ticket),
    /// Reported as durable by a medium that lies.
    Volatile,
    Durable,
}

impl MemoryMedium {
    pub fn new(name: &str, options: Options) -> MemoryMedium {
        MemoryMedium {
            shared: Arc::new(Shared {
                uri: Uri(format!("memory:{name}")),
                options,
                volume: Mutex::default(),
                changed: watch::Sender::new(()),
            }),
        }
    }

    /// From now on writes stay under way until they are completed by hand.
    pub fn hold(&self) {
        self.shared.volume.lock().holding = true;
    }

    /// The writes that are held, oldest first.
    pub fn held(&self) -> Vec<Position> {
        let volume = self.shared.volume.lock();
        let held = volume.log.iter().filter(|write| matches!(write.state, WriteState::Held(_)));
        held.map(|write| Position(write.position)).collect()
    }

    /// Completes one held write, whatever came before it. False if there is no such write.
    pub fn complete(&self, position: Position) -> bool {
        self.shared.complete(|write| write.position == position.0) > 0
    }

    /// Completes all held writes and holds no more.
    pub fn resume(&self) {
        self.shared.volume.lock().holding = false;
        self.shared.complete(|_| true);
    }

    /// From now on `admit` lets everybody in, as where others are always faster: it is a hint.
    pub fn admit_all(&self) {
        self.shared.volume.lock().admits_all = true;
    }

    /// From now on recovery only reads, as of a volume, and fences nobody.
    pub fn only_read(&self) {
        self.shared.volume.lock().only_read = true;
    }

    /// The next write fails; its writer fails with it.
    pub fn fail_next_write(&self) {
        self.shared.volume.lock().fail_next = true;
    }

    /// While lying, writes are reported durable and are lost in the next crash all the same.
    pub fn lie(&self, lying: bool) {
        self.shared.volume.lock().lying = lying;
    }

    /// The writer's process dies. Of what was not durable only the writes that `survives` picks are left.
    pub fn crash(&self, mut survives: impl FnMut(Position) -> bool) {
        let mut volume = self.shared.volume.lock();
        volume.generation += 1;
        volume.holding = false;
        volume.fail_next = false;
        volume.log.retain(|write| write.state == WriteState::Durable || survives(Position(write.position)));
        for write in &mut volume.log {
            write.state = WriteState::Durable;
        }
        let writer = volume.writer.take();
        drop(volume);
        self.shared.changed.send_replace(());
        if let Some(writer) = writer {
            writer.fail(Error::Failed("the process crashed".into()));
        }
    }
}

impl Shared {
    fn complete(&self, mut which: impl FnMut(&Write) -> bool) -> usize {
        let mut tickets = Vec::new();
        let mut volume = self.volume.lock();
        let done = if volume.lying { WriteState::Volatile } else { WriteState::Durable };
        for write in &mut volume.log {
            if let WriteState::Held(ticket) = write.state
                && which(write)
            {
                write.state = done;
                tickets.push(ticket);
            }
        }
        let writer = volume.writer.clone();
        drop(volume);
        if let Some(writer) = writer {
            for ticket in &tickets {
                writer.durable(*ticket);
            }
        }
        self.changed.send_replace(());
        tickets.len()
    }
}

#[async_trait]
impl Medium for MemoryMedium {
    fn uri(&self) -> &Uri {
        &self.shared.uri
    }

    async fn recover(&self, previous: Incarnation, from: Position) -> Result<Box<dyn Recovery>, Error> {
        let mut volume = self.shared.volume.lock();
        if !volume.belongs_to(previous, &self.shared.uri)? {
            if from > Position::default() {
                return Err(corrupt(&self.shared.uri, from.0, "the log of this incarnation is not here"));
            }
            return Ok(Box::new(MemoryRecovery { records: VecDeque::new(), exhausted: false }));
        }
        if from.0 < volume.trimmed {
            let detail =
                format!("trimmed up to {} although the metadata log says {}", volume.trimmed, from.0);
            return Err(corrupt(&self.shared.uri, from.0, &detail));
        }
        if volume.only_read {
            let records = volume.contiguous(from, &self.shared.uri)?;
            return Ok(Box::new(MemoryRecovery { records, exhausted: false }));
        }
        // The seal: nothing that is still under way can be acknowledged or recovered by anybody any more.
        volume.generation += 1;
        volume.log.retain(|write| !matches!(write.state, WriteState::Held(_)));
        let writer = volume.writer.take();
        let records = volume.contiguous(from, &self.shared.uri);
        drop(volume);
        self.shared.changed.send_replace(());
        if let Some(writer) = writer {
            writer.fail(Error::Fenced(format!("{previous:?} is being recovered")));
        }
        Ok(Box::new(MemoryRecovery { records: records?, exhausted: false }))
    }

    fn recovers_early(&self) -> bool {
        self.shared.volume.lock().only_read
    }

    async fn open(
        &self,
        owner: Incarnation,
        vacated: Vacated,
        right: Arc<AckRight>,
    ) -> Result<Arc<dyn Wal>, Error> {
        let releaser = Arc::new(Releaser::new(right.clone(), Position::default())?);
        let mut volume = self.shared.volume.lock();
        if let Some(previous) = volume.owner {
            if previous.broker != owner.broker || vacated.claims_no_owner() {
                return Err(Error::Refused(format!("{} already belongs to {previous:?}", self.shared.uri)));
            }
            if previous.epoch >= owner.epoch {
                return Err(Error::Fenced(format!("{} was opened by {previous:?} already", self.shared.uri)));
            }
        }
        let generation = volume.generation + 1;
        let faults = (volume.holding, volume.lying, volume.admits_all, volume.only_read, volume.fail_next);
        let before = std::mem::take(&mut *volume);
        (volume.holding, volume.lying, volume.admits_all, volume.only_read, volume.fail_next) = faults;
        volume.owner = Some(owner);
        volume.generation = generation;
        volume.writer = Some(releaser.clone());
        drop(volume);
        if let Some(writer) = before.writer {
            writer.fail(Error::Fenced(format!("{owner:?} took over")));
        }
        Ok(Arc::new(MemoryWal {
            shared: self.shared.clone(),
            generation,
            releaser,
            right,
            turnstile: tokio::sync::Mutex::new(()),
            closed: watch::Sender::new(false),
        }))
    }
}

impl Volume {
    /// Whether the log here is `previous`'s; false if it never opened the volume.
    fn belongs_to(&self, previous: Incarnation, uri: &Uri) -> Result<bool, Error> {
        match self.owner {
            Some(owner) if owner.broker != previous.broker => {
                Err(Error::Refused(format!("{uri} belongs to {owner:?}, not to {previous:?}")))
            }
            Some(owner) if owner.epoch > previous.epoch => {
                Err(Error::Fenced(format!("{uri} was opened by {owner:?} already")))
            }
            owner => Ok(owner == Some(previous)),
        }
    }

    fn contiguous(&self, from: Position, uri: &Uri) -> Result<VecDeque<Recovered>, Error> {
        let mut expected = from.0;
        let mut records = VecDeque::new();
        // M2.
        let written = self.log.iter().filter(|write| !matches!(write.state, WriteState::Held(_)));
        for write in written.filter(|write| write.position >= from.0) {
            if write.position == expected {
                expected = write.end;
                let position = Position(write.position);
                records.push_back(Recovered { position, records: vec![write.record.clone()], origin: None });
            } else if write.durable_before.0 > expected {
                return Err(corrupt(uri, expected, "a record that was acknowledged is missing"));
            } else {
                // A hole: nothing behind it counts. Go on only to see whether it is one.
                continue;
            }
        }
        Ok(records)
    }
}

fn corrupt(uri: &Uri, position: u64, detail: &str) -> Error {
    Error::Corrupt { location: format!("{uri}, position {position}"), detail: detail.to_owned() }
}

#[derive(Debug)]
struct MemoryRecovery {
    records: VecDeque<Recovered>,
    exhausted: bool,
}

#[async_trait]
impl Recovery for MemoryRecovery {
    async fn next(&mut self) -> Result<Option<Recovered>, Error> {
        let next = self.records.pop_front();
        self.exhausted = next.is_none();
        Ok(next)
    }

    fn finish(self: Box<Self>) -> Vacated {
        assert!(self.exhausted, "a recovery is finished only after its last record was read");
        Vacated::recovered()
    }
}

#[derive(Debug)]
struct MemoryWal {
    shared: Arc<Shared>,
    generation: u64,
    releaser: Arc<Releaser>,
    right: Arc<AckRight>,
    /// Waiters of `admit`, first come, first served.
    turnstile: tokio::sync::Mutex<()>,
    closed: watch::Sender<bool>,
}

impl MemoryWal {
    fn check_open(&self) -> Result<(), Error> {
        if *self.closed.borrow() {
            return Err(Error::Closed);
        }
        if let Some(reason) = self.right.revoked() {
            return Err(Error::Fenced(reason));
        }
        self.releaser.failure().map_or(Ok(()), Err)
    }

    /// Whether held writes of this writer are left.
    fn under_way(&self) -> bool {
        let volume = self.shared.volume.lock();
        volume.generation == self.generation
            && volume.log.iter().any(|write| matches!(write.state, WriteState::Held(_)))
    }
}

#[async_trait]
impl Wal for MemoryWal {
    async fn admit(&self, bytes: usize) -> Result<(), Error> {
        let _turn = self.turnstile.lock().await;
        let mut changed = self.shared.changed.subscribe();
        let mut closed = self.closed.subscribe();
        loop {
            changed.mark_unchanged();
            self.check_open()?;
            let options = &self.shared.options;
            let wanted = bytes as u64 + RECORD_OVERHEAD_BYTES;
            if self.shared.volume.lock().admits_all {
                return Ok(());
            }
            // What can never fit need not wait to be told so by `append`.
            if bytes > options.record_bytes_max || self.status().used_bytes + wanted <= options.capacity_bytes
            {
                return Ok(());
            }
            tokio::select! {
                _ = changed.changed() => {}
                _ = closed.wait_for(|closed| *closed) => {}
                error = self.releaser.failed() => return Err(error),
            }
        }
    }

    fn append(&self, record: Record) -> Result<Append, AppendError> {
        self.check_open()?;
        let options = &self.shared.options;
        let bytes = record.size();
        if bytes > options.record_bytes_max {
            return Err(AppendError::TooLarge { bytes, limit_bytes: options.record_bytes_max });
        }
        let (completion, append) = Append::channel();
        let mut volume = self.shared.volume.lock();
        if volume.generation != self.generation {
            return Err(Error::Fenced("another incarnation took over".into()).into());
        }
        let used_bytes = volume.tail - volume.trimmed;
        let size = bytes as u64 + RECORD_OVERHEAD_BYTES;
        if used_bytes + size > options.capacity_bytes {
            return Err(AppendError::OverCapacity { used_bytes, capacity_bytes: options.capacity_bytes });
        }
        let position = volume.tail;
        let end = position + size;
        let durable_before = self.releaser.durable_end();
        let ticket = self.releaser.enqueue(Position(position), Position(end), vec![completion]);
        if std::mem::take(&mut volume.fail_next) {
            drop(volume);
            self.releaser.fail(Error::Failed("injected: the write failed".into()));
            return Ok(append);
        }
        volume.tail = end;
        let state = match (volume.holding, volume.lying) {
            (true, _) => WriteState::Held(ticket),
            (false, true) => WriteState::Volatile,
            (false, false) => WriteState::Durable,
        };
        volume.log.push_back(Write { position, end, durable_before, record, state });
        drop(volume);
        if !matches!(state, WriteState::Held(_)) {
            self.releaser.durable(ticket);
        }
        Ok(append)
    }

    async fn trim(&self, upto: Position) -> Result<(), Error> {
        self.check_open()?;
        {
            let mut volume = self.shared.volume.lock();
            if volume.generation != self.generation {
                return Err(Error::Fenced("another incarnation took over".into()));
            }
            let durable = self.releaser.durable_end();
            if upto.0 <= volume.trimmed {
                return Ok(());
            }
            assert!(
                upto == durable
                    || (upto < durable && volume.log.iter().any(|write| write.position == upto.0)),
                "{upto:?} is no position that an append resolved to, nor the durable end"
            );
            volume.log.retain(|write| write.position >= upto.0);
            volume.trimmed = upto.0;
        }
        self.shared.changed.send_replace(());
        Ok(())
    }

    fn record_bytes_max(&self) -> usize {
        let options = &self.shared.options;
        let capacity = options.capacity_bytes.saturating_sub(RECORD_OVERHEAD_BYTES);
        options.record_bytes_max.min(usize::try_from(capacity).unwrap_or(usize::MAX))
    }

    fn status(&self) -> Status {
        let volume = self.shared.volume.lock();
        let durable = self.releaser.durable_end();
        let capacity_bytes = self.shared.options.capacity_bytes;
        if volume.generation != self.generation {
            return Status { trimmed: durable, durable, used_bytes: 0, capacity_bytes, used_slots: 0 };
        }
        Status {
            trimmed: Position(volume.trimmed),
            durable,
            used_bytes: volume.tail - volume.trimmed,
            capacity_bytes,
            used_slots: 0,
        }
    }

    async fn failed(&self) -> Error {
        self.releaser.failed().await
    }

    async fn close(&self) {
        self.closed.send_replace(true);
        let mut changed = self.shared.changed.subscribe();
        while self.under_way() && self.releaser.failure().is_none() {
            tokio::select! {
                _ = changed.changed() => {}
                _ = self.releaser.failed() => {}
            }
        }
        self.releaser.close().await;
    }
}
