//! Slots of a dead broker's log, fetched before anybody asks for them: while its fence is on its way, for the walk that
//! recovers the log and for the partitions that are opened from it.
//!
//! ```text
//!   fetch: GETs side by side, to the first slot that is not there ──► kept ◄── a walk's reads of whole slots
//!                                                                          ◄── reads of ranges of what was adopted
//!                                            whoever finds nothing here ──► the store
//! ```
//!
//! - **A1** A slot that is there never changes: it was created once, under a name that is not used again (O3). So what was read
//!   before the fence is what is read behind it. That a slot was *not* there is never kept: it may be by now.
//! - **A2** Nobody is served worse than by the store: a GET that is under way here is waited for; one that fails is asked for
//!   again by whoever wants it.
//! - **A3** Only what passes every checksum is kept: what was damaged on the way is read again from the store.
//! - **A4** What is kept and under way is bounded in bytes, and forgotten after [`KEPT_FOR`].

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use s3stream::object::ObjectSlotCodec;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use wal::object::{SlotCodec, slot_key};
use wal::{Incarnation, Position};

/// By then whatever fell to this broker is open, or does not hurry. No option: it only gives memory back.
const KEPT_FOR: Duration = Duration::from_secs(15);
/// GETs of one fetch that are under way. No option: with the bytes of [`Kept::fetch`] it bounds a burst.
const WINDOW: usize = 64;
/// Fetches at a time; several dead at once are recovered without one.
const FETCHES_MAX: usize = 2;
/// A slot that takes longer is left to whoever wants it.
const GET_TIMEOUT: Duration = Duration::from_secs(2);

/// What was fetched ahead, for everybody in the process.
#[derive(Debug)]
pub struct Kept {
    /// Whose slots are fetched or kept.
    lives: Mutex<BTreeSet<Incarnation>>,
    slots: Mutex<HashMap<Path, Slot>>,
    /// Of those that are there.
    bytes: AtomicUsize,
    fetches: Semaphore,
}

/// `None` as long as its GET is under way; if that fails the sender is dropped.
type Slot = watch::Receiver<Option<Whole>>;

#[derive(Clone, Debug)]
struct Whole {
    meta: ObjectMeta,
    bytes: Bytes,
}

/// What an entry takes beside its bytes: keys, bookkeeping.
const ENTRY_OVERHEAD_BYTES: usize = 512;

impl Whole {
    fn memory_bytes(&self) -> usize {
        self.bytes.len() + ENTRY_OVERHEAD_BYTES
    }
}

impl Default for Kept {
    fn default() -> Kept {
        Kept {
            lives: Mutex::default(),
            slots: Mutex::default(),
            bytes: AtomicUsize::new(0),
            fetches: Semaphore::new(FETCHES_MAX),
        }
    }
}

impl Kept {
    /// Fetches the slots of `of` from `from` to the first that cannot be kept (it is not there, is large or damaged, or the store
    /// fails), as far as `bytes_max` go for what is kept and what is under way together; keeps them for a while. Dropping it
    /// forgets them.
    pub async fn fetch(
        self: &Arc<Self>,
        store: Arc<dyn ObjectStore>,
        of: Incarnation,
        from: Position,
        bytes_max: usize,
    ) {
        let Ok(turn) = self.fetches.try_acquire() else { return };
        if !self.lives.lock().insert(of) {
            return;
        }
        // Half for what is under way, half for what is there.
        let share = bytes_max / (2 * FETCHES_MAX * WINDOW);
        let room = || self.bytes.load(Ordering::Relaxed) < bytes_max / 2;
        let slots = (from.0..).take_while(|_| room());
        let mut forget = Forget { kept: self.clone(), of, keys: Vec::new() };
        let gets = slots.map(|slot| {
            let key = slot_key(of, slot);
            let (sender, receiver) = watch::channel(None);
            self.slots.lock().insert(key.clone(), receiver);
            forget.keys.push(key.clone());
            get(store.clone(), key, share).map(move |got| {
                let whole = got.filter(|whole| is_sound(of, slot, &whole.bytes));
                let is_kept = whole.is_some();
                if let Some(whole) = whole {
                    self.bytes.fetch_add(whole.memory_bytes(), Ordering::Relaxed);
                    sender.send_replace(Some(whole));
                }
                is_kept
            })
        });
        let there = stream::iter(gets).buffered(WINDOW).take_while(|is_kept| std::future::ready(*is_kept));
        let there = there.count().await;
        tracing::debug!(broker = of.broker, epoch = of.epoch, slots = there, "fetched what it left, ahead");
        drop(turn);
        tokio::time::sleep(KEPT_FOR).await;
    }

    /// The slot, if it was fetched, or is being fetched and comes.
    async fn get(&self, key: &Path) -> Option<Whole> {
        let mut slot = self.slots.lock().get(key)?.clone();
        slot.wait_for(Option::is_some).await.ok()?.clone()
    }
}

/// `None` if it is not there, the store does not give it, or it is too large: then so are those behind it, probably, and whoever
/// wants them reads ahead as well.
async fn get(store: Arc<dyn ObjectStore>, key: Path, bytes_max: usize) -> Option<Whole> {
    let whole = async {
        let answer = store.get(&key).await.ok()?;
        if answer.meta.size > bytes_max as u64 {
            return None;
        }
        Some(Whole { meta: answer.meta.clone(), bytes: answer.bytes().await.ok()? })
    };
    timeout(GET_TIMEOUT, whole).await.ok()?
}

/// A3.
fn is_sound(of: Incarnation, slot: u64, bytes: &Bytes) -> bool {
    let decoded = ObjectSlotCodec::default().decode(bytes);
    decoded.is_ok_and(|(id, _)| (id.owner, id.slot) == (of, slot))
}

struct Forget {
    kept: Arc<Kept>,
    of: Incarnation,
    keys: Vec<Path>,
}

impl Drop for Forget {
    fn drop(&mut self) {
        let mut slots = self.kept.slots.lock();
        for slot in self.keys.iter().filter_map(|key| slots.remove(key)) {
            let bytes = slot.borrow().as_ref().map_or(0, Whole::memory_bytes);
            self.kept.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.kept.lives.lock().remove(&self.of);
    }
}

/// A store whose slots may have been fetched already.
#[derive(Debug)]
pub(super) struct Ahead {
    inner: Arc<dyn ObjectStore>,
    kept: Arc<Kept>,
}

impl Ahead {
    pub fn new(inner: Arc<dyn ObjectStore>, kept: Arc<Kept>) -> Ahead {
        Ahead { inner, kept }
    }
}

/// As the store would have answered; `None` for what only the store can answer.
fn answer(whole: Whole, options: &GetOptions) -> Option<GetResult> {
    let GetOptions {
        range, if_match, if_none_match, if_modified_since, if_unmodified_since, version, ..
    } = options;
    let conditional = [if_match.is_some(), if_none_match.is_some(), version.is_some()];
    let timed = [if_modified_since.is_some(), if_unmodified_since.is_some()];
    if options.head || conditional.into_iter().chain(timed).any(|is_asked| is_asked) {
        return None;
    }
    let Whole { meta, bytes } = whole;
    let range: Range<u64> = match range {
        Some(range) => range.as_range(meta.size).ok()?,
        None => 0..meta.size,
    };
    let body = bytes.slice(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?);
    let payload = GetResultPayload::Stream(stream::once(async { Ok(body) }).boxed());
    Some(GetResult { payload, meta, range, attributes: Default::default(), extensions: Default::default() })
}

impl fmt::Display for Ahead {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(formatter)
    }
}

#[async_trait]
impl ObjectStore for Ahead {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if let Some(whole) = self.kept.get(location).await
            && let Some(answer) = answer(whole, &options)
        {
            return Ok(answer);
        }
        self.inner.get_opts(location, options).await
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use faults::{Fault, FaultStore, Operation, Rule};
    use s3stream::StreamId;
    use s3stream::record::{KIND_DATA, RecordMeta};
    use tokio::time::Instant;
    use wal::Record;
    use wal::object::SlotId;

    use super::*;

    const OF: Incarnation = Incarnation { broker: 1, epoch: 9 };
    const MEMORY: usize = 64 << 20;

    async fn put(store: &FaultStore, slot: u64, bytes: usize) {
        let meta =
            RecordMeta { stream: StreamId(1), stream_epoch: 1, base: slot, end: slot + 1, max_timestamp: 1 };
        let body = Bytes::from(vec![slot as u8; bytes]);
        let record = Record { kind: KIND_DATA, meta: meta.encode(), body };
        let id = SlotId { owner: OF, slot, nonce: 7 };
        let chunks = ObjectSlotCodec::default().encode(&id, &[record]);
        store.inner().put(&slot_key(OF, slot), PutPayload::from_iter(chunks)).await.unwrap();
    }

    /// A store with so many slots, and what reads ahead of it.
    async fn slots(count: u64, bytes: usize) -> (FaultStore, Arc<Kept>, Ahead) {
        let store = FaultStore::in_memory(1);
        for slot in 0..count {
            put(&store, slot, bytes).await;
        }
        let kept = Arc::<Kept>::default();
        let ahead = Ahead::new(Arc::new(store.clone()), kept.clone());
        (store, kept, ahead)
    }

    fn fetch(
        store: &FaultStore,
        kept: &Arc<Kept>,
        from: u64,
        bytes_max: usize,
    ) -> tokio::task::JoinHandle<()> {
        let (store, kept): (Arc<dyn ObjectStore>, _) = (Arc::new(store.clone()), kept.clone());
        tokio::spawn(async move { kept.fetch(store, OF, Position(from), bytes_max).await })
    }

    async fn read(ahead: &Ahead, slot: u64) -> Result<Bytes> {
        ahead.get(&slot_key(OF, slot)).await?.bytes().await
    }

    #[tokio::test(start_paused = true)]
    async fn a1_what_is_there_is_asked_for_once_and_what_is_not_there_by_everybody() {
        let (store, kept, ahead) = slots(100, 300).await;
        store.add(Rule::new(Operation::Get, Fault::Delay(Duration::from_millis(60))));
        let began = Instant::now();
        let fetching = fetch(&store, &kept, 10, MEMORY);
        tokio::task::yield_now().await;
        // The first is under way.
        let first = read(&ahead, 10).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_millis(60));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let asked = store.counts().gets;
        assert!((90..=90 + WINDOW as u64).contains(&asked), "{asked}");
        for slot in 10..100 {
            assert!(read(&ahead, slot).await.unwrap().len() > 300);
        }
        let range = ahead.get_range(&slot_key(OF, 10), 5..25).await.unwrap();
        assert_eq!(range, first.slice(5..25));
        assert_eq!(store.counts().gets, asked, "all of that was there");

        // It is taken for dead once more.
        fetch(&store, &kept, 10, MEMORY).await.unwrap();
        assert_eq!(store.counts().gets, asked, "and its slots are there");

        assert!(read(&ahead, 100).await.is_err());
        put(&store, 100, 300).await;
        assert!(read(&ahead, 100).await.is_ok(), "that it was not there was not kept");
        assert!(read(&ahead, 9).await.is_ok(), "nobody fetched it");
        assert_eq!(store.counts().gets, asked + 3);

        tokio::time::sleep(KEPT_FOR).await;
        fetching.await.unwrap();
        assert!(kept.slots.lock().is_empty(), "A4");
        assert_eq!(kept.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a2_a3_what_fails_or_is_damaged_is_asked_for_again() {
        let (store, kept, ahead) = slots(3, 300).await;
        for fault in [Fault::FlipBit(900), Fault::Refuse, Fault::Hang] {
            let first = slot_key(OF, 0).to_string();
            store.add(Rule::new(Operation::Get, fault).under(&first).times(1));
            let fetching = fetch(&store, &kept, 0, MEMORY);
            tokio::task::yield_now().await;
            let began = Instant::now();
            for slot in 0..3 {
                assert!(is_sound(OF, slot, &read(&ahead, slot).await.unwrap()), "{fault:?}: {slot}");
            }
            assert!(began.elapsed() <= GET_TIMEOUT, "{fault:?}");
            fetching.abort();
            let _ = fetching.await;
        }

        // A store that answers nothing, and one that answers anything, are not asked for ever.
        for fault in [Fault::Refuse, Fault::Truncate(0)] {
            store.add(Rule::new(Operation::Get, fault));
            let before = store.counts().gets;
            fetch(&store, &kept, 0, MEMORY).await.unwrap();
            assert!(store.counts().gets - before <= WINDOW as u64, "{fault:?}");
            assert_eq!((kept.slots.lock().len(), kept.bytes.load(Ordering::Relaxed)), (0, 0));
            store.heal();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a4_memory_is_bounded() {
        let (store, kept, ahead) = slots(300, 20_000).await;
        let share = 20_500;
        let fetching = fetch(&store, &kept, 0, share * 2 * FETCHES_MAX * WINDOW);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (bytes, count) = (kept.bytes.load(Ordering::Relaxed), kept.slots.lock().len());
        assert!(bytes <= share * (2 * FETCHES_MAX * WINDOW), "{bytes}");
        assert!((128..=200).contains(&count), "{count}");
        assert!(read(&ahead, 299).await.is_ok());
        fetching.abort();
        let _ = fetching.await;
        assert_eq!(kept.bytes.load(Ordering::Relaxed), 0);

        // One over its share is left to others, and so is what lies behind it.
        let before = store.counts().gets;
        let fetching = fetch(&store, &kept, 0, share * FETCHES_MAX * WINDOW);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(kept.bytes.load(Ordering::Relaxed), 0);
        assert!(store.counts().gets - before <= WINDOW as u64);
        assert!(read(&ahead, 0).await.is_ok());
        fetching.abort();
    }
}
