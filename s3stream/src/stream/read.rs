//! Reads: the log cache first, then data objects.
//!
//! What is not in the log cache when it is looked at was committed before (C2 of `log_cache`), so the
//! metadata, looked at second, names it. The other order could miss what moves in between.

use std::cmp::Reverse;

use super::Stream;
use crate::metadata::{Located, StreamPart};
use crate::object::object_key;
use crate::{ObjectId, ReadError, StreamRecord, block_cache};

/// Parts looked up at a time.
const PARTS: usize = 16;
/// How often a range is looked up again because an object went away under the read (F37). No option: one
/// look-up finds what replaced it.
const LOOKUPS_MAX: usize = 4;
/// Objects that are read side by side for a replay. No option: GETs in flight have a bound, and bytes.
const WARM_PARTS: usize = 256;

impl Stream {
    /// Whole records from the one that holds `from` on: at least one if any is confirmed there, then as many as fit
    /// `max_bytes` and come from one place; there is always a later read. Empty at the confirmed end.
    pub async fn read(&self, from: u64, max_bytes: usize) -> Result<Vec<StreamRecord>, ReadError> {
        let mut from = from;
        let mut lookups = 0;
        loop {
            {
                let tail = &self.shared.state.lock().tail;
                if let Some(found) = tail.read(from, max_bytes, u64::MAX) {
                    return Ok(found);
                }
                if from < tail.start() || from > tail.confirmed() {
                    return Err(ReadError::OutOfRange { start: tail.start(), end: tail.confirmed() });
                }
            }
            let parts = self.locate(from)?;
            match self.blocks().read(&parts, from, max_bytes).await {
                Ok(fetched) if !fetched.is_empty() => {
                    for counted in [&self.storage.inner.traffic, &self.shared.traffic] {
                        counted.read(fetched.bytes());
                    }
                    return Ok(fetched.into_records());
                }
                // A compacted stream has gaps; what comes behind them may be in the log cache.
                Ok(fetched) if fetched.next() > from => from = fetched.next(),
                Ok(_) => return Err(self.corrupt(from, "no data object holds a committed offset")),
                Err(error) => self.look_up_again(error, from, &mut lookups).await?,
            }
        }
    }

    /// Brings committed records from `from` on into the block cache, from many objects side by side: about `bytes_max` of
    /// them, or what lies in `WARM_PARTS` objects. Says where that ends.
    pub async fn warm(&self, from: u64, bytes_max: usize) -> u64 {
        let mut parts = self.storage.inner.metadata.locate(self.id(), from, WARM_PARTS);
        let mut bytes = 0;
        let fitting = parts.iter().take_while(|located| {
            let begun = bytes < bytes_max as u64;
            bytes += located.part.bytes;
            begun
        });
        parts.truncate(fitting.count());
        self.blocks().warm(&parts, from, bytes_max as u64).await;
        parts.last().map_or(u64::MAX, |last| last.part.end)
    }

    /// The first record that ends beyond `from` with a max timestamp of at least `timestamp`.
    pub async fn find_timestamp(&self, from: u64, timestamp: i64) -> Result<Option<StreamRecord>, ReadError> {
        let mut lookups = 0;
        loop {
            let cached = self.shared.state.lock().tail.find_timestamp(from, timestamp).cloned();
            match self.find_in_objects(from, timestamp).await {
                Ok(committed) => {
                    return Ok([committed, cached].into_iter().flatten().min_by_key(|record| record.base));
                }
                Err(error) => self.look_up_again(error, self.start(), &mut lookups).await?,
            }
        }
    }

    /// The first of the records with the largest max timestamp; `None` if the stream is empty.
    pub async fn max_timestamp(&self) -> Result<Option<StreamRecord>, ReadError> {
        let mut lookups = 0;
        loop {
            let cached = self.shared.state.lock().tail.max_timestamp().cloned();
            match self.max_in_objects().await {
                Ok(committed) => return Ok([committed, cached].into_iter().flatten().max_by_key(rank)),
                Err(error) => self.look_up_again(error, self.start(), &mut lookups).await?,
            }
        }
    }

    async fn find_in_objects(
        &self,
        from: u64,
        timestamp: i64,
    ) -> Result<Option<StreamRecord>, block_cache::Error> {
        let metadata = &self.storage.inner.metadata;
        let from = from.max(self.start());
        let mut next = metadata.locate_timestamp(self.id(), timestamp);
        while let Some(located) = next {
            if let Some(visible) = clip(located, from)
                && let Some(record) = self.blocks().find_timestamp(&visible, timestamp).await?
            {
                return Ok(Some(record));
            }
            // A part whose beginning was trimmed may no longer hold its largest timestamp.
            next = self.parts_from(located.part.end).find(|located| located.part.max_timestamp >= timestamp);
        }
        Ok(None)
    }

    async fn max_in_objects(&self) -> Result<Option<StreamRecord>, block_cache::Error> {
        let start = self.start();
        let Some(top) = self.storage.inner.metadata.locate_max_timestamp(self.id()) else { return Ok(None) };
        let mut best = match clip(top, start) {
            Some(visible) => self.blocks().find_max_timestamp(&visible).await?,
            None => None,
        };
        if best.as_ref().is_some_and(|best| best.max_timestamp == top.part.max_timestamp) {
            return Ok(best);
        }
        // The beginning of that part was trimmed, and its largest timestamp with it: others may have more.
        for located in self.parts_from(start).filter_map(|located| clip(located, start)) {
            if best.as_ref().is_some_and(|best| best.max_timestamp > located.part.max_timestamp) {
                continue;
            }
            let found = self.blocks().find_max_timestamp(&located).await?;
            best = [best, found].into_iter().flatten().max_by_key(rank);
        }
        Ok(best)
    }

    /// All committed parts from `from` on.
    fn parts_from(&self, from: u64) -> impl Iterator<Item = Located> {
        let mut next = from;
        std::iter::from_fn(move || {
            let parts = self.storage.inner.metadata.locate(self.id(), next, PARTS);
            next = parts.last()?.part.end;
            Some(parts)
        })
        .flatten()
    }

    fn locate(&self, from: u64) -> Result<Vec<Located>, ReadError> {
        let metadata = &self.storage.inner.metadata;
        let parts = metadata.locate(self.id(), from, PARTS);
        if parts.first().is_some_and(|first| first.part.base <= from) {
            return Ok(parts);
        }
        match metadata.stream(self.id()) {
            None => Err(ReadError::Gone(self.id())),
            // Trimmed meanwhile by somebody who has not told this handle yet. What is left must not pass for it.
            Some(view) if from < view.start => {
                self.shared.advance_start(view.start);
                Err(ReadError::OutOfRange { start: view.start, end: self.confirmed_end() })
            }
            Some(_) => Err(self.corrupt(from, "no data object holds a committed offset")),
        }
    }

    /// Whether to look at the metadata once more after `error`. The last time at what it was after the object was found missing:
    /// this process may have stood still for longer than replaced objects are kept.
    async fn look_up_again(
        &self,
        error: block_cache::Error,
        from: u64,
        lookups: &mut usize,
    ) -> Result<(), ReadError> {
        match error {
            block_cache::Error::Missing { object } => {
                if self.storage.inner.metadata.stream(self.id()).is_none() {
                    return Err(ReadError::Gone(self.id()));
                }
                *lookups += 1;
                if *lookups < LOOKUPS_MAX - 1 {
                    return Ok(());
                }
                if *lookups < LOOKUPS_MAX {
                    let newest = self.storage.inner.metadata.catch_up().await;
                    return newest.map_err(|error| {
                        let key = object_key(object);
                        ReadError::Unavailable(format!("{key} may have been replaced by others: {error}"))
                    });
                }
                Err(self.damaged(object, from, "the object is not in the store".to_owned()))
            }
            unavailable @ block_cache::Error::Unavailable { .. } => {
                Err(ReadError::Unavailable(unavailable.to_string()))
            }
            block_cache::Error::Corrupt { object, .. } | block_cache::Error::Unsupported { object, .. } => {
                Err(self.damaged(object, from, error.to_string()))
            }
        }
    }

    /// An operator must hear of it: whoever asked is told no more than that something is wrong.
    fn damaged(&self, object: ObjectId, offset: u64, detail: String) -> ReadError {
        tracing::error!(
            stream = self.id().0,
            offset,
            object = %object_key(object),
            detail,
            "acknowledged records cannot be read; restore the object from a copy of the bucket"
        );
        ReadError::Corrupt { object: Some(object), offset, detail }
    }

    fn blocks(&self) -> &block_cache::BlockCache {
        &self.storage.inner.block_cache
    }

    fn corrupt(&self, offset: u64, detail: &str) -> ReadError {
        ReadError::Corrupt { object: None, offset, detail: format!("stream {}: {detail}", self.id().0) }
    }
}

/// The part as far as it lies at or beyond `from`: a stream's start may be ahead of what the metadata has.
fn clip(located: Located, from: u64) -> Option<Located> {
    let part = StreamPart { base: located.part.base.max(from), ..located.part };
    (part.base < part.end).then_some(Located { part, ..located })
}

/// The largest timestamp wins, the lowest offset among equals.
fn rank(record: &StreamRecord) -> (i64, Reverse<u64>) {
    (record.max_timestamp, Reverse(record.base))
}
