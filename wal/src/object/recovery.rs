//! The walk of O1: from the trim point to the first free slot, which is sealed.
//!
//! Several slots are fetched ahead, but only the head of the walk decides anything, and where the head seems free the
//! *create* of the seal decides: a slot that a dying writer fills between our read and our create is data, and the walk
//! goes on. Walks may be interrupted, repeated, and run beside each other; all yield the same run, because the first
//! seal that was created is the end for everybody.
//!
//! **Memory.** What is fetched ahead has a budget, of which each fetch reserves a share; a slot over its share is left and
//! fetched again as the head. So a walk holds that budget and one slot. Many slots are fetched ahead while slots are small,
//! so that a walk takes as few round trips as it can; as few as fit the budget once they turn out to be large.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::path::Path;

use super::put::{self, Created, Found, REREADS, Retries};
use super::{Parts, Seal, SlotId, slot_key};
use crate::{Error, Incarnation, Origin, Position, Record, Recovered, Recovery, Vacated};

type Fetch = Pin<Box<dyn Future<Output = Option<Found>> + Send>>;

pub(super) struct Walk {
    parts: Parts,
    of: Incarnation,
    /// The head of the walk.
    slot: u64,
    /// Reads of the slots from the head on, begun, with the share of the budget that each has.
    ahead: VecDeque<(usize, Fetch)>,
    /// Bytes of those shares.
    reserved: usize,
    /// Bytes of the largest slot lately; what it was fades from slot to slot.
    usual: usize,
    /// The lowest slot that a read ahead did not find. What may lie beyond is not worth a read before the walk is there: an
    /// owner that is dead left nothing.
    end: Arc<AtomicU64>,
    sealed: bool,
}

/// What lies at the head.
enum Head {
    Data(Bytes, Vec<Record>),
    Seal,
}

impl Walk {
    pub(super) fn new(parts: Parts, of: Incarnation, from: u64) -> Walk {
        Walk {
            parts,
            of,
            slot: from,
            ahead: VecDeque::new(),
            reserved: 0,
            usual: 0,
            end: Arc::new(AtomicU64::new(u64::MAX)),
            sealed: false,
        }
    }

    fn fetch_ahead(&mut self) {
        let config = self.parts.config.clone();
        let budget = config.recovery_read_ahead_bytes;
        let window = (budget / self.usual.max(1)).clamp(1, config.recovery_read_ahead);
        let share = (budget / window).min(config.slot_bytes_max);
        while self.ahead.len() < window && (self.ahead.is_empty() || self.reserved + share <= budget) {
            let slot = self.slot + self.ahead.len() as u64;
            if !self.ahead.is_empty() && slot > self.end.load(Ordering::Relaxed) {
                break;
            }
            let (fetch, end) = (fetch(self.parts.clone(), slot_key(self.of, slot), share), self.end.clone());
            let fetch = async move {
                let found = fetch.await;
                if found.is_none() {
                    end.fetch_min(slot, Ordering::Relaxed);
                }
                found
            };
            self.reserved += share;
            // A task of its own, so that it makes progress while the head is being dealt with; ended with the walk.
            let task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(fetch));
            let fetch: Fetch = Box::pin(async move {
                task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
            });
            self.ahead.push_back((share, fetch));
        }
    }

    async fn head(&mut self) -> Result<Head, Error> {
        self.fetch_ahead();
        let key = slot_key(self.of, self.slot);
        let (share, fetch) = self.ahead.pop_front().expect("at least one slot is fetched");
        self.reserved -= share;
        let mut found = fetch.await;
        let mut reread = 0;
        loop {
            let there = match found {
                // Over its share of what may be fetched ahead, or over every limit.
                Some(Found::Oversized(_)) => self.fetch_head(&key).await,
                other => other,
            };
            let there = match there {
                Some(there) => there,
                None => match self.seal().await? {
                    None => return Ok(Head::Seal),
                    // Filled after it was read: what was fetched behind it may be as stale.
                    Some(there) => {
                        self.forget_ahead();
                        there
                    }
                },
            };
            match self.understand(there) {
                Err(Error::Corrupt { location, detail }) if reread < REREADS => {
                    tracing::warn!("{location}: {detail}; reading it again");
                    reread += 1;
                    found = self.fetch_head(&key).await;
                }
                understood => return understood,
            }
        }
    }

    fn forget_ahead(&mut self) {
        self.ahead.clear();
        self.reserved = 0;
        // Not the same one: a read that was forgotten may be about to say something stale.
        self.end = Arc::new(AtomicU64::new(u64::MAX));
    }

    fn fetch_head(&self, key: &Path) -> impl Future<Output = Option<Found>> + Send + use<> {
        fetch(self.parts.clone(), key.clone(), self.parts.config.slot_bytes_max)
    }

    /// Nothing is believed before magic, version, checksums and the slot's own name are right.
    fn understand(&self, found: Found) -> Result<Head, Error> {
        let bytes = match found {
            Found::Whole(bytes) => bytes,
            Found::Oversized(size) => {
                let limit = self.parts.config.slot_bytes_max;
                return Err(self.corrupt(format!("{size} bytes, over the limit of {limit} (slot_bytes_max)")));
            }
        };
        match Seal::decode(&bytes) {
            Some(Ok(seal)) if seal.sealed == self.of && seal.slot == self.slot => return Ok(Head::Seal),
            Some(Ok(seal)) => return Err(self.corrupt(format!("holds the seal of another slot: {seal:?}"))),
            Some(Err(detail)) => return Err(self.corrupt(detail)),
            None => {}
        }
        let key = slot_key(self.of, self.slot);
        let (SlotId { owner, slot, .. }, records) =
            self.parts.codec.decode(&bytes).map_err(|error| match error {
                Error::Corrupt { location, detail } => {
                    Error::Corrupt { location: format!("{key}, {location}"), detail }
                }
                Error::Refused(reason) => Error::Refused(format!("{key}: {reason}")),
                other => other,
            })?;
        if (owner, slot) != (self.of, self.slot) {
            return Err(self.corrupt(format!("says that it is slot {slot} of {owner:?}")));
        }
        if records.is_empty() {
            return Err(self.corrupt("holds no records".to_owned()));
        }
        Ok(Head::Data(bytes, records))
    }

    /// Creates the seal at the head; `Some` with what is there if somebody was first.
    async fn seal(&mut self) -> Result<Option<Found>, Error> {
        if host::planted("skip-seal") {
            return Ok(None);
        }
        let seal = Seal { sealed: self.of, slot: self.slot, nonce: rand::random() };
        let key = slot_key(self.of, self.slot);
        match put::create(&*self.parts.store, &self.parts.config, &key, &[seal.encode()], None).await {
            Created::Ours => Ok(None),
            Created::Theirs(found) => Ok(Some(found)),
            // Nobody deletes slots of an incarnation that is being recovered, nor seals: this store forgets.
            Created::Vanished => {
                Err(self.corrupt("was there and is gone again: nothing deletes it".to_owned()))
            }
        }
    }

    fn corrupt(&self, detail: String) -> Error {
        Error::Corrupt { location: slot_key(self.of, self.slot).to_string(), detail }
    }
}

async fn fetch(parts: Parts, key: Path, limit: usize) -> Option<Found> {
    let mut retries = Retries::new(&parts.config);
    put::read(&*parts.store, &parts.config, &key, limit, &mut retries).await
}

#[async_trait]
impl Recovery for Walk {
    async fn next(&mut self) -> Result<Option<Recovered>, Error> {
        if self.sealed {
            return Ok(None);
        }
        let (bytes, records) = match self.head().await? {
            Head::Seal => {
                self.sealed = true;
                self.forget_ahead();
                return Ok(None);
            }
            Head::Data(bytes, records) => (bytes, records),
        };
        let key = slot_key(self.of, self.slot);
        let position = Position(self.slot);
        self.slot += 1;
        self.usual = bytes.len().max(self.usual - self.usual / 8);
        Ok(Some(Recovered { position, records, origin: Some(Origin { key, bytes }) }))
    }

    fn finish(self: Box<Self>) -> Vacated {
        assert!(self.sealed, "a recovery is finished only after its last record was read");
        Vacated::recovered()
    }
}
