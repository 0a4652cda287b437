//! GETs: bounded in number and bytes, retried, checked.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectStore, ObjectStoreExt};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Error, Options};
use crate::ObjectId;
use crate::metadata::Located;
use crate::object::{self, Block, BlockEntry, ObjectIndex, Tail, object_key};

/// An index, and the whole object where that came with it.
#[derive(Debug)]
pub(crate) struct CachedIndex {
    pub index: ObjectIndex,
    pub whole: Option<Bytes>,
}

impl CachedIndex {
    pub fn memory_bytes(&self) -> usize {
        self.index.memory_bytes() + self.whole.as_ref().map_or(0, Bytes::len)
    }
}

#[derive(Debug)]
pub(crate) struct Fetcher {
    store: Arc<dyn ObjectStore>,
    requests: Semaphore,
    /// In units of [`BYTES_UNIT`].
    bytes: Semaphore,
    bytes_max: u32,
    tail_bytes: u64,
    attempts_max: u32,
    backoff_min: Duration,
    backoff_max: Duration,
    get_timeout: Duration,
}

const BYTES_UNIT: u64 = 4096;

/// Why an attempt failed.
enum Failure {
    Missing,
    /// Worth another attempt.
    Transient(String),
    /// The object's size is not what the metadata says.
    Size(u64),
}

impl Fetcher {
    pub fn new(store: Arc<dyn ObjectStore>, options: &Options) -> Fetcher {
        let units = (options.in_flight_bytes_max / BYTES_UNIT).clamp(1, u64::from(u32::MAX >> 3));
        Fetcher {
            store,
            requests: Semaphore::new(options.gets_in_flight_max.max(1)),
            bytes: Semaphore::new(units as usize),
            bytes_max: units as u32,
            tail_bytes: options.tail_bytes,
            attempts_max: options.attempts_max.max(1),
            backoff_min: options.backoff_min,
            backoff_max: options.backoff_max,
            get_timeout: options.get_timeout,
        }
    }

    /// Fetches and checks the index (C2).
    pub async fn index(&self, located: &Located) -> Result<Arc<CachedIndex>, Error> {
        let index = self.until_whole("an index", located.object, || self.index_once(located)).await?;
        Ok(Arc::new(index))
    }

    /// Does `fetch` again while what it brings is damaged: bytes that were damaged on their way are whole the next time,
    /// those of a damaged object never.
    async fn until_whole<T, F: Future<Output = Result<T, Error>>>(
        &self,
        what: &str,
        object: ObjectId,
        fetch: impl Fn() -> F,
    ) -> Result<T, Error> {
        for attempt in 1..self.attempts_max {
            match fetch().await {
                Err(Error::Corrupt { detail, .. }) => {
                    tracing::warn!(?object, detail, "{what} is damaged; fetching it again");
                    tokio::time::sleep(self.backoff(attempt)).await;
                }
                other => return other,
            }
        }
        fetch().await
    }

    async fn index_once(&self, located: &Located) -> Result<CachedIndex, Error> {
        let Located { object, object_size_bytes: size, .. } = *located;
        let mut from = size.saturating_sub(self.tail_bytes.max(1));
        loop {
            let tail = self.get_one(object, size, from..size).await?;
            match ObjectIndex::decode(&tail, size).map_err(|error| decode_error(object, error))? {
                // Each turn asks for more: first for a footer, then for what the footer says.
                Tail::More { from: wanted } => {
                    assert!(wanted < from, "an index that lies in the tail was asked for again");
                    from = wanted;
                }
                Tail::Index(index) if index.identity().object != object => {
                    let detail = format!("it says that it is {:?}", index.identity().object);
                    return Err(Error::Corrupt { object, at: size, detail });
                }
                Tail::Index(index) => return Ok(CachedIndex { index, whole: (from == 0).then_some(tail) }),
            }
        }
    }

    /// Fetches and checks adjacent blocks (C2), each into a buffer of its own (C4). `whole` is the object, where it came
    /// with its index.
    pub async fn blocks(
        &self,
        located: &Located,
        whole: Option<&Bytes>,
        run: &[BlockEntry],
    ) -> Result<Vec<Block>, Error> {
        if let Some(whole) = whole {
            let slice =
                |entry: &BlockEntry| whole.slice(entry.position as usize..entry.position_end() as usize);
            match decode(located.object, run, run.iter().map(slice)).await {
                // It is cached with the index, which was whole: read again and again it would stay as it is.
                Err(Error::Corrupt { detail, .. }) => {
                    tracing::warn!(object = ?located.object, detail, "a block is damaged; fetching it");
                }
                decoded => return decoded,
            }
        }
        self.until_whole("a block", located.object, || self.blocks_once(located, run)).await
    }

    async fn blocks_once(&self, located: &Located, entries: &[BlockEntry]) -> Result<Vec<Block>, Error> {
        let Located { object, object_size_bytes: size, .. } = *located;
        let from = entries.first().expect("a run is not empty").position;
        let pieces: Vec<usize> = entries.iter().map(|entry| entry.size as usize).collect();
        // Their bytes are in flight until others may have them (C4): there is waiting between one and the next.
        let (pieces, _in_flight) = self.get(object, size, from, &pieces).await?;
        decode(object, entries, pieces.into_iter()).await
    }

    async fn get_one(&self, object: ObjectId, size: u64, range: Range<u64>) -> Result<Bytes, Error> {
        let (pieces, _) = self.get(object, size, range.start, &[(range.end - range.start) as usize]).await?;
        Ok(pieces.into_iter().next().expect("one piece was asked for"))
    }

    /// One GET for adjacent pieces from `from` on, tried several times, and the share of the bytes in flight that they take.
    /// `size` is the object's.
    async fn get(
        &self,
        object: ObjectId,
        size: u64,
        from: u64,
        pieces: &[usize],
    ) -> Result<(Vec<Bytes>, SemaphorePermit<'_>), Error> {
        let bytes: u64 = pieces.iter().map(|piece| *piece as u64).sum();
        let units = u32::try_from(bytes.div_ceil(BYTES_UNIT)).unwrap_or(u32::MAX).min(self.bytes_max);
        let in_flight = self.bytes.acquire_many(units).await.expect("never closed");
        let _request = self.requests.acquire().await.expect("never closed");
        let mut detail = String::new();
        let mut resized = false;
        for attempt in 0..self.attempts_max {
            if attempt > 0 {
                tokio::time::sleep(self.backoff(attempt)).await;
            }
            let result =
                tokio::time::timeout(self.get_timeout, self.attempt(object, size, from, pieces)).await;
            detail = match result {
                Ok(Ok(pieces)) => return Ok((pieces, in_flight)),
                Ok(Err(Failure::Missing)) => return Err(Error::Missing { object }),
                Ok(Err(Failure::Size(found))) if resized => return Err(wrong_size(object, size, found)),
                Ok(Err(Failure::Size(found))) => {
                    resized = true;
                    format!("the object has {found} bytes instead of {size}")
                }
                Ok(Err(Failure::Transient(detail))) => detail,
                Err(_) => format!("no answer within {:?}", self.get_timeout),
            };
            tracing::debug!(?object, from, bytes, attempt, detail, "a GET failed");
        }
        // A range beyond the end of a truncated object is refused by some stores in no particular way.
        match self.head(object).await {
            Some(found) if found != size => Err(wrong_size(object, size, found)),
            _ => Err(Error::Unavailable { object, detail }),
        }
    }

    async fn attempt(
        &self,
        object: ObjectId,
        size: u64,
        from: u64,
        pieces: &[usize],
    ) -> Result<Vec<Bytes>, Failure> {
        let bytes: u64 = pieces.iter().map(|piece| *piece as u64).sum();
        let range = from..from + bytes;
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let result = self.store.get_opts(&object_key(object), options).await.map_err(failure)?;
        if result.meta.size != size {
            return Err(Failure::Size(result.meta.size));
        }
        if result.range != range {
            return Err(Failure::Transient(format!("asked for bytes {range:?}, got {:?}", result.range)));
        }
        match result.payload {
            GetResultPayload::File(file, _) => {
                let pieces = pieces.to_vec();
                let read = tokio::task::spawn_blocking(move || read_pieces(&file, from, &pieces)).await;
                // Not read at all where the runtime ends.
                read.unwrap_or_else(|error| Err(error.to_string())).map_err(Failure::Transient)
            }
            GetResultPayload::Stream(mut chunks) => {
                let mut assembly = Assembly::new(pieces);
                while let Some(chunk) = chunks.next().await {
                    assembly.push(chunk.map_err(failure)?);
                    if assembly.excess > 0 {
                        break;
                    }
                }
                assembly.finish().map_err(Failure::Transient)
            }
        }
    }

    async fn head(&self, object: ObjectId) -> Option<u64> {
        let key = object_key(object);
        let head = tokio::time::timeout(self.get_timeout, self.store.head(&key)).await;
        Some(head.ok()?.ok()?.size)
    }

    /// Doubling, and half of it left to chance, so that many readers do not come back together.
    fn backoff(&self, attempt: u32) -> Duration {
        let full = self.backoff_min.saturating_mul(1 << (attempt - 1).min(20)).min(self.backoff_max);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// Reads adjacent pieces of a file, each into memory of its own that nobody has to clear before. As a stream a file would
/// be read in small steps, and as a whole it would have to be copied (C4).
pub(super) fn read_pieces(mut file: &File, from: u64, pieces: &[usize]) -> Result<Vec<Bytes>, String> {
    let problem = |error: io::Error| format!("reading a file of the store: {error}");
    file.seek(SeekFrom::Start(from)).map_err(problem)?;
    let read = pieces.iter().map(|size| {
        let mut piece = Vec::with_capacity(*size);
        let got = file.take(*size as u64).read_to_end(&mut piece).map_err(problem)?;
        if got < *size {
            return Err(format!("the file ended {} bytes early", size - got));
        }
        Ok(Bytes::from(piece))
    });
    read.collect()
}

/// Cuts a body's chunks into pieces of known sizes. A chunk that is a piece is taken as it is; others are copied, so
/// that no piece keeps its neighbours' memory alive.
struct Assembly<'a> {
    sizes: &'a [usize],
    pieces: Vec<Bytes>,
    open: BytesMut,
    excess: usize,
}

impl<'a> Assembly<'a> {
    fn new(sizes: &'a [usize]) -> Assembly<'a> {
        Assembly { sizes, pieces: Vec::with_capacity(sizes.len()), open: BytesMut::new(), excess: 0 }
    }

    fn push(&mut self, mut chunk: Bytes) {
        if self.open.is_empty() && self.sizes.get(self.pieces.len()) == Some(&chunk.len()) {
            self.pieces.push(chunk);
            return;
        }
        while !chunk.is_empty() {
            let Some(&size) = self.sizes.get(self.pieces.len()) else {
                self.excess += chunk.len();
                return;
            };
            self.open.reserve(size - self.open.len());
            let part = chunk.split_to(chunk.len().min(size - self.open.len()));
            self.open.extend_from_slice(&part);
            if self.open.len() == size {
                self.pieces.push(std::mem::take(&mut self.open).freeze());
            }
        }
    }

    fn finish(self) -> Result<Vec<Bytes>, String> {
        if self.excess > 0 {
            return Err("the body is longer than what was asked for".to_owned());
        }
        if self.pieces.len() < self.sizes.len() {
            let got = self.pieces.iter().map(Bytes::len).sum::<usize>() + self.open.len();
            return Err(format!("the body ended after {got} bytes"));
        }
        Ok(self.pieces)
    }
}

#[cfg(test)]
pub(super) fn cut(sizes: &[usize], chunks: impl IntoIterator<Item = Bytes>) -> Result<Vec<Bytes>, String> {
    let mut assembly = Assembly::new(sizes);
    chunks.into_iter().for_each(|chunk| assembly.push(chunk));
    assembly.finish()
}

fn failure(error: object_store::Error) -> Failure {
    match error {
        object_store::Error::NotFound { .. } => Failure::Missing,
        other => Failure::Transient(other.to_string()),
    }
}

fn wrong_size(object: ObjectId, size: u64, found: u64) -> Error {
    Error::Corrupt {
        object,
        at: found.min(size),
        detail: format!("it has {found} bytes; the metadata says {size}"),
    }
}

/// Checks blocks (C2), and gives way to other tasks after each: the checksums of a large GET take milliseconds.
async fn decode(
    object: ObjectId,
    entries: &[BlockEntry],
    bytes: impl Iterator<Item = Bytes>,
) -> Result<Vec<Block>, Error> {
    let mut blocks = Vec::with_capacity(entries.len());
    for (entry, bytes) in entries.iter().zip(bytes) {
        blocks.push(Block::decode(entry, bytes).map_err(|error| decode_error(object, error))?);
        if blocks.len() < entries.len() {
            tokio::task::yield_now().await;
        }
    }
    Ok(blocks)
}

fn decode_error(object: ObjectId, error: object::Error) -> Error {
    match error {
        object::Error::Corrupt { at, detail } => Error::Corrupt { object, at, detail },
        object::Error::Version { .. } => Error::Unsupported { object, detail: error.to_string() },
    }
}
