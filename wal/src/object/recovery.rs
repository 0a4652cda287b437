//! The walk of O1: from the trim point to the first free slot, which is sealed.
//!
//! Several slots are fetched ahead, but only the head of the walk decides anything, and where the head seems free the
//! *create* of the seal decides: a slot that a dying writer fills between our read and our create is data, and the walk
//! goes on. Walks may be interrupted, repeated, and run beside each other; all yield the same run, because the first
//! seal that was created is the end for everybody.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;

use super::put::{self, Created, Retries};
use super::{Parts, Seal, SlotId, slot_key};
use crate::{Error, Incarnation, Origin, Position, Recovered, Recovery, Vacated};

type Fetch = Pin<Box<dyn Future<Output = Option<Bytes>> + Send>>;

pub(super) struct Walk {
    parts: Parts,
    of: Incarnation,
    /// The head of the walk.
    slot: u64,
    /// Reads of the slots from the head on, begun.
    ahead: VecDeque<Fetch>,
    sealed: bool,
}

/// What lies at the head.
enum Found {
    Data(Bytes),
    Seal,
}

impl Walk {
    pub(super) fn new(parts: Parts, of: Incarnation, from: u64) -> Walk {
        Walk { parts, of, slot: from, ahead: VecDeque::new(), sealed: false }
    }

    fn fetch_ahead(&mut self) {
        while self.ahead.len() < self.parts.config.recovery_read_ahead {
            let parts = self.parts.clone();
            let key = slot_key(self.of, self.slot + self.ahead.len() as u64);
            let fetch = async move {
                let mut retries = Retries::new(&parts.config);
                put::read(&*parts.store, &parts.config, &key, &mut retries).await
            };
            // A task of its own, so that it makes progress while the head is being dealt with; ended with the walk.
            let task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(fetch));
            self.ahead.push_back(Box::pin(async move {
                task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
            }));
        }
    }

    async fn head(&mut self) -> Result<Found, Error> {
        self.fetch_ahead();
        let fetch = self.ahead.pop_front().expect("at least one slot is fetched");
        let bytes = match fetch.await {
            Some(bytes) => bytes,
            None => match self.seal().await? {
                None => return Ok(Found::Seal),
                // Filled after it was read: what was fetched behind it may be as stale.
                Some(bytes) => {
                    self.ahead.clear();
                    bytes
                }
            },
        };
        match Seal::decode(&bytes) {
            None => Ok(Found::Data(bytes)),
            Some(Ok(seal)) if seal.sealed == self.of && seal.slot == self.slot => Ok(Found::Seal),
            Some(Ok(seal)) => Err(self.corrupt(format!("holds the seal of another slot: {seal:?}"))),
            Some(Err(detail)) => Err(self.corrupt(detail)),
        }
    }

    /// Creates the seal at the head; `Some` with what is there if somebody was first.
    async fn seal(&mut self) -> Result<Option<Bytes>, Error> {
        let seal = Seal { sealed: self.of, slot: self.slot, nonce: rand::random() };
        let key = slot_key(self.of, self.slot);
        match put::create(&*self.parts.store, &self.parts.config, &key, &[seal.encode()]).await {
            Created::Ours => Ok(None),
            Created::Theirs(bytes) => Ok(Some(bytes)),
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

#[async_trait]
impl Recovery for Walk {
    async fn next(&mut self) -> Result<Option<Recovered>, Error> {
        if self.sealed {
            return Ok(None);
        }
        let bytes = match self.head().await? {
            Found::Seal => {
                self.sealed = true;
                self.ahead.clear();
                return Ok(None);
            }
            Found::Data(bytes) => bytes,
        };
        let key = slot_key(self.of, self.slot);
        let (SlotId { owner, slot, .. }, records) =
            self.parts.codec.decode(&bytes).map_err(|error| match error {
                Error::Corrupt { location, detail } => {
                    Error::Corrupt { location: format!("{key}, {location}"), detail }
                }
                other => other,
            })?;
        if (owner, slot) != (self.of, self.slot) {
            return Err(self.corrupt(format!("says that it is slot {slot} of {owner:?}")));
        }
        if records.is_empty() {
            return Err(self.corrupt("holds no records".to_owned()));
        }
        let position = Position(self.slot);
        self.slot += 1;
        Ok(Some(Recovered { position, records, origin: Some(Origin { key, bytes }) }))
    }

    fn finish(self: Box<Self>) -> Vacated {
        assert!(self.sealed, "a recovery is finished only after its last record was read");
        Vacated::recovered()
    }
}
