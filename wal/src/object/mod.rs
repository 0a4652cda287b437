//! The object WAL: a dense run of slot objects in a bucket, one PUT per batch.
//!
//! Per incarnation, slots `wal/<broker>/<epoch>/<slot>` are created in order with `If-None-Match: *`, several in
//! flight, acknowledged in slot order (O1–O6 of `docs/architecture.md`).

pub mod key;

use bytes::Bytes;

use crate::{Error, Incarnation, Record};

pub use key::{parse_slot_key, slot_key};

/// How a batch of records becomes the bytes of a slot. The storage engine brings its data-object format, so that
/// recovery can adopt slots by reference; the WAL itself stays ignorant of streams.
pub trait SlotCodec: Send + Sync + std::fmt::Debug + 'static {
    /// The object's bytes, as a rope that shares the records' bodies. `id` must be readable back from them.
    fn encode(&self, id: &SlotId, records: &[Record]) -> Vec<Bytes>;

    /// Checks length, magic, version and every CRC before anything is believed. Records come in the order in which
    /// they were given to `encode` as far as one stream is concerned.
    fn decode(&self, bytes: &Bytes) -> Result<(SlotId, Vec<Record>), Error>;
}

/// Who wrote a slot, inside the object: resolves a create whose outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotId {
    pub owner: Incarnation,
    pub slot: u64,
    /// Random per attempt to fill the slot.
    pub nonce: u128,
}
