//! A stream: append at its end, read anywhere, trim at its start.

mod read;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;
use wal::{AppendError, Record};

use crate::ack::Pending;
use crate::log_cache::{Slice, Tail, charge_of};
use crate::metadata::StreamView;
use crate::record::{KIND_DATA, RecordMeta};
use crate::storage::{Admission, Listener, Storage};
use crate::{Error, StreamId, StreamRecord};

/// What the handles, the ack pump and the uploader share of one stream.
pub(crate) struct Shared {
    id: StreamId,
    state: Mutex<State>,
    traffic: Counted,
}

/// Bodies that went in, and that came out of data objects, since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub appended_bytes: u64,
    /// For readers beyond the log cache, whether the block cache had it or the store was asked.
    pub read_bytes: u64,
}

/// [`Traffic`] as it is counted.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    appended: AtomicU64,
    read: AtomicU64,
}

impl Counted {
    pub fn appended(&self, bytes: usize) {
        self.appended.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn traffic(&self) -> Traffic {
        let (appended_bytes, read_bytes) =
            (self.appended.load(Ordering::Relaxed), self.read.load(Ordering::Relaxed));
        Traffic { appended_bytes, read_bytes }
    }
}

struct State {
    epoch: u64,
    /// Counts openings; a handle of an earlier one can do nothing.
    opening: u64,
    open: bool,
    listener: Option<Arc<dyn Listener>>,
    tail: Tail,
}

/// What an eviction did.
pub(crate) struct Evicted {
    /// Charges of what was dropped.
    pub freed: usize,
    /// Nothing below the bound is left.
    pub done: bool,
    /// The stream is closed and has nothing cached.
    pub forgettable: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Stream").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Shared {
    pub fn new(view: &StreamView) -> Shared {
        let tail = Tail::new(view.start, view.committed_end);
        let state = State { epoch: view.epoch, opening: 0, open: false, listener: None, tail };
        Shared { id: view.id, state: Mutex::new(state), traffic: Counted::default() }
    }

    pub fn id(&self) -> StreamId {
        self.id
    }

    pub fn traffic(&self) -> Traffic {
        self.traffic.traffic()
    }

    /// The number of this opening, or `None` if it is open already.
    pub fn open(&self, view: &StreamView, listener: Option<Arc<dyn Listener>>) -> Option<u64> {
        let mut state = self.state.lock();
        if state.open {
            return None;
        }
        if state.tail.next() <= view.committed_end {
            // Nothing of ours is under way; others may have appended since.
            state.tail = Tail::new(view.start, view.committed_end);
        }
        state.epoch = view.epoch;
        state.open = true;
        state.opening += 1;
        state.listener = listener;
        Some(state.opening)
    }

    /// Moves the confirmed end and says whom to tell.
    pub fn confirm(&self, base: u64, end: u64) -> Option<Arc<dyn Listener>> {
        let mut state = self.state.lock();
        state.tail.confirm(base, end);
        state.listener.clone()
    }

    /// Drops cached records below `upto`, oldest first, until their charges reach `wanted`.
    pub fn evict(&self, upto: u64, wanted: usize) -> Evicted {
        let mut state = self.state.lock();
        let (freed, done) = state.tail.evict(upto, wanted);
        Evicted { freed, done, forgettable: !state.open && state.tail.is_empty() }
    }

    /// Offsets below `to` are gone, for whoever reads.
    pub fn advance_start(&self, to: u64) {
        let mut state = self.state.lock();
        // What is closed may belong to somebody else by now, and have grown beyond what was confirmed here.
        if state.open {
            state.tail.trim(to);
        }
    }

    /// The records of a block's slice, for upload.
    pub fn slice(&self, slice: &Slice) -> Vec<StreamRecord> {
        self.state.lock().tail.slice(slice.base, slice.end)
    }
}

/// An open stream. A cheap handle. The stream stays open, handles or not, until [`close`](Stream::close).
#[derive(Clone, Debug)]
pub struct Stream {
    storage: Storage,
    shared: Arc<Shared>,
    opening: u64,
}

/// An append under way: its place is fixed. Resolves once it is durable and listeners have been told. Dropping it
/// takes nothing back.
#[derive(Debug)]
#[must_use = "an append is acknowledged only once this resolves"]
pub struct Appending(oneshot::Receiver<Result<(), Error>>);

impl Future for Appending {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let gone = || Error::Failed("the storage engine stopped; the outcome is unknown".to_owned());
        Pin::new(&mut self.0).poll(context).map(|sent| sent.unwrap_or_else(|_| Err(gone())))
    }
}

impl Stream {
    pub(crate) fn new(storage: Storage, shared: Arc<Shared>, opening: u64) -> Stream {
        Stream { storage, shared, opening }
    }

    pub fn id(&self) -> StreamId {
        self.shared.id
    }

    /// Offsets below are gone.
    pub fn start(&self) -> u64 {
        self.shared.state.lock().tail.start()
    }

    /// The offset that the next append must begin at.
    pub fn next(&self) -> u64 {
        self.shared.state.lock().tail.next()
    }

    /// Everything below is durable and readable.
    pub fn confirmed_end(&self) -> u64 {
        self.shared.state.lock().tail.confirmed()
    }

    /// Bytes of the records that begin at `offset` or behind it and are cached: all that are not uploaded are.
    pub fn cached_bytes_from(&self, offset: u64) -> u64 {
        self.shared.state.lock().tail.bytes_from(offset)
    }

    /// Fixes the record's place and returns at once. After an error nothing was changed: [`Error::Full`] may be tried
    /// again with a fresh admission, anything else is final.
    ///
    /// # Panics
    /// If the record does not begin at [`next`](Stream::next), is empty, or is larger than its admission.
    pub fn append(&self, mut admission: Admission, record: StreamRecord) -> Result<Appending, Error> {
        assert!(record.base < record.end, "a record covers at least one offset");
        let charge = charge_of(record.body.len());
        let inner = &self.storage.inner;
        let now = Instant::now();
        let (sender, receiver) = oneshot::channel();

        let mut ledger = inner.ledger.lock();
        ledger.check_usable()?;
        let mut state = self.shared.state.lock();
        if !state.open || state.opening != self.opening {
            return Err(Error::Closed("the stream"));
        }
        assert_eq!(record.base, state.tail.next(), "an append must begin where the last one ended");
        // The formats know no other negative timestamp than "none".
        let record = StreamRecord { max_timestamp: record.max_timestamp.max(-1), ..record };
        let meta = RecordMeta {
            stream: self.shared.id,
            stream_epoch: state.epoch,
            base: record.base,
            end: record.end,
            max_timestamp: record.max_timestamp,
        };
        let logged = Record { kind: KIND_DATA, meta: meta.encode(), body: record.body.clone() };
        let append = match inner.wal.append(logged) {
            Ok(append) => append,
            Err(AppendError::Wal(error)) => {
                drop((state, ledger));
                return Err(self.wal_failed(error));
            }
            Err(AppendError::TooLarge { bytes, limit_bytes }) => {
                return Err(Error::TooLarge { bytes, limit_bytes });
            }
            Err(full @ AppendError::OverCapacity { .. }) => return Err(Error::Full(full.to_string())),
        };
        admission.take(charge);
        for counted in [&inner.traffic, &self.shared.traffic] {
            counted.appended(record.body.len());
        }
        let (base, end) = (record.base, record.end);
        let opens_block = ledger.blocks.active_since().is_none();
        let block = ledger.blocks.append(now, self.shared.id, state.epoch, &record, charge);
        state.tail.push(record);
        drop(state);
        let stream = self.shared.clone();
        ledger.pending.push_back(Pending { append, stream, block, base, end, done: sender });
        drop(ledger);
        inner.appended.notify_one();
        if opens_block {
            // Its age begins to count.
            inner.upload_wanted.notify_one();
        }
        Ok(Appending(receiver))
    }

    /// Somebody has waited long for what was appended last: see [`wal::Wal::hurry`].
    pub fn hurry(&self) {
        self.storage.inner.wal.hurry();
    }

    fn wal_failed(&self, error: wal::Error) -> Error {
        let error = match error {
            wal::Error::Fenced(detail) => Error::Fenced(detail),
            other => Error::Failed(other.to_string()),
        };
        self.storage.inner.fail(error.clone());
        error
    }

    /// The fast path of [`read`](Stream::read): `Some` only if the answer is in the log cache. Records that end at or
    /// below `end` and below the confirmed end, from the one that holds `from`, which is returned whole; at least one
    /// if there is any, then as many as fit `max_bytes`. Empty if nothing is confirmed at `from` yet.
    pub fn read_cached(&self, from: u64, max_bytes: usize, end: u64) -> Option<Vec<StreamRecord>> {
        self.shared.state.lock().tail.read(from, max_bytes, end)
    }

    /// Gives up everything below `to`, durably. What of it is not in objects yet is uploaded first.
    pub async fn trim(&self, to: u64) -> Result<(), Error> {
        let confirmed = self.confirmed_end();
        if to > confirmed {
            return Err(Error::Rejected(format!("cannot trim to {to}: the stream ends at {confirmed}")));
        }
        let not_open = |detail: &str| Error::NotOpen { stream: self.id(), detail: detail.to_owned() };
        let view = self.storage.inner.metadata.stream(self.id()).ok_or_else(|| not_open("it was deleted"))?;
        if to > view.committed_end {
            self.storage.flush().await?;
        }
        self.storage.trim(vec![(self.id(), to)]).await
    }

    /// Readers of this opening find nothing below `to` any more. To keep that beyond the opening is the caller's affair,
    /// and the space comes back with a trim.
    ///
    /// # Panics
    /// If `to` lies beyond the confirmed end.
    pub fn advance_start(&self, to: u64) {
        self.shared.advance_start(to);
    }

    /// Stops appends through every handle of this opening. What was appended is still confirmed and uploaded.
    pub fn close(&self) {
        let mut ledger = self.storage.inner.ledger.lock();
        let mut state = self.shared.state.lock();
        if state.opening == self.opening && state.open {
            state.open = false;
            state.listener = None;
            if state.tail.is_empty() {
                ledger.streams.remove(&self.shared.id);
            }
        }
    }
}
