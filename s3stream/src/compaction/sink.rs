//! One object into the bucket, while it is being made.
//!
//! An object of up to three pieces is created as any upload, in so many attempts: sources and memory are held meanwhile,
//! and a store that does not take it is better left alone for a while, as the compactor does. A larger one is written as a multipart upload in pieces of equal
//! size, some in flight: that is two PUTs more. Multipart uploads know no "only if nothing is there"; they need none, since no key is used twice:
//! each attempt has an id of its own, and one that failed in any way is given up, whatever became of it (F24, F26).

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutPayload};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::metadata::NewObject;
use crate::object::{ENTRY_BYTES, Encoded, FOOTER_BYTES, ObjectIndex, Tail, object_key};
use crate::upload::put::create_within;
use crate::{Config, ObjectId};

/// Pieces in flight at a time; with the one that is being filled three quarters of a job's memory at most (C4).
const PIECES_IN_FLIGHT_MAX: usize = 2;

/// Of an object that is one PUT: as many as are held otherwise.
pub(super) const SINGLE_PIECES_MAX: u64 = PIECES_IN_FLIGHT_MAX as u64 + 1;

pub(super) struct Sink<'a> {
    config: &'a Config,
    store: &'a dyn ObjectStore,
    id: ObjectId,
    key: Path,
    upload: Option<Box<dyn MultipartUpload>>,
    /// They go on while the next ones are being read; dropping this stops them.
    in_flight: JoinSet<Result<(), String>>,
    waiting: VecDeque<Bytes>,
    waiting_bytes: u64,
}

impl<'a> Sink<'a> {
    pub fn new(config: &'a Config, store: &'a dyn ObjectStore, id: ObjectId) -> Sink<'a> {
        Sink {
            config,
            store,
            id,
            key: object_key(id),
            upload: None,
            in_flight: JoinSet::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    /// The object's next bytes. Waits while enough is in flight.
    pub async fn push(&mut self, chunks: Vec<Bytes>) -> Result<(), String> {
        self.waiting_bytes += chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        self.waiting.extend(chunks.into_iter().filter(|chunk| !chunk.is_empty()));
        let piece_bytes = self.config.compaction.piece_bytes;
        if self.upload.is_none() && self.waiting_bytes <= SINGLE_PIECES_MAX * piece_bytes {
            return Ok(());
        }
        // More than a piece: the last one, which may be shorter, is not empty.
        while self.waiting_bytes > piece_bytes {
            self.send(piece_bytes).await?;
        }
        Ok(())
    }

    /// The object's last bytes, and what it is. Returns once it is in the bucket and its end was read back (C2). After a
    /// failure it is to be [abandoned](Sink::abandon).
    pub async fn finish(&mut self, mut encoded: Encoded) -> Result<NewObject, String> {
        let last = std::mem::take(&mut encoded.chunks);
        self.push(last).await?;
        if self.upload.is_some() {
            self.send(self.waiting_bytes).await?;
            while !self.in_flight.is_empty() {
                self.sent().await?;
            }
            let upload = self.upload.as_mut().expect("checked");
            bounded(self.config.put_timeout, upload.complete()).await?;
            self.upload = None;
        } else {
            encoded.chunks = self.waiting.drain(..).collect();
            let attempts_max = self.config.compaction.put_attempts_max;
            if !create_within(attempts_max, self.config, self.store, self.id, &encoded).await? {
                return Err(format!("the key {} of a new object holds something else", self.key));
            }
        }
        read_back(self.config, self.store, &self.key, &encoded).await?;
        Ok(encoded.new_object())
    }

    /// Gives the store a chance to forget the pieces; what it does not forget, its rule for unfinished uploads does.
    pub async fn abandon(mut self) {
        self.in_flight.shutdown().await;
        if let Some(mut upload) = self.upload.take()
            && let Err(error) = bounded(self.config.put_timeout, upload.abort()).await
        {
            tracing::debug!(key = %self.key, error, "an unfinished multipart upload could not be aborted");
        }
    }

    async fn send(&mut self, bytes: u64) -> Result<(), String> {
        if self.upload.is_none() {
            let begin = self.store.put_multipart_opts(&self.key, PutMultipartOptions::default());
            self.upload = Some(bounded(self.config.put_timeout, begin).await?);
        }
        while self.in_flight.len() >= PIECES_IN_FLIGHT_MAX {
            self.sent().await?;
        }
        let mut piece = Vec::new();
        let mut left = bytes;
        while left > 0 {
            let mut chunk = self.waiting.pop_front().expect("so many bytes wait");
            if chunk.len() as u64 > left {
                self.waiting.push_front(chunk.split_off(left as usize));
            }
            left -= chunk.len() as u64;
            piece.push(chunk);
        }
        self.waiting_bytes -= bytes;
        let payload: PutPayload = piece.into_iter().collect();
        let sending = self.upload.as_mut().expect("begun").put_part(payload);
        self.in_flight.spawn(bounded(self.config.put_timeout, sending));
        Ok(())
    }

    /// Waits for one piece.
    async fn sent(&mut self) -> Result<(), String> {
        match self.in_flight.join_next().await.expect("a piece is in flight") {
            Ok(sent) => sent,
            Err(stopped) => match stopped.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err("stopped".to_owned()),
            },
        }
    }
}

/// C2.
async fn read_back(
    config: &Config,
    store: &dyn ObjectStore,
    key: &Path,
    encoded: &Encoded,
) -> Result<(), String> {
    let tail_bytes = (encoded.index.blocks().len() * ENTRY_BYTES + FOOTER_BYTES) as u64;
    let range = encoded.size_bytes - tail_bytes..encoded.size_bytes;
    let tail = bounded(config.put_timeout, store.get_range(key, range)).await?;
    match ObjectIndex::decode(&tail, encoded.size_bytes) {
        Ok(Tail::Index(index)) if index == encoded.index => Ok(()),
        _ => Err(format!("{key} does not end as it was written")),
    }
}

async fn bounded<T>(
    limit: Duration,
    request: impl Future<Output = object_store::Result<T>>,
) -> Result<T, String> {
    match timeout(limit, request).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}
