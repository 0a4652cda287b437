//! The primitives of the metadata's own encodings: little endian, lengths in front, everything checked.
//!
//! | primitive | bytes |
//! |---|---|
//! | integer | its size, little endian |
//! | bool, option | one byte, 0 or 1 (then the value) |
//! | string | `u16` length, UTF-8 |
//! | list | `u32` count, elements |
//! | UUID | 16 |
//! | incarnation | broker `u32`, epoch `u64` |
//! | hash | 16 |
//! | object id | kind `u8` (0 data, 1 slot), incarnation, counter or slot `u64` |
//!
//! A decoder never allocates for a count that the remaining bytes cannot hold, and a decoded value must use up all of
//! its bytes.

use std::sync::Arc;

use s3stream::ObjectId;
use uuid::Uuid;
use wal::Incarnation;

use super::note_hash::{NOTE_HASH_BYTES, NoteHash};

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct Malformed {
    pub what: &'static str,
    pub at: usize,
}

/// The longest string that can be encoded, in bytes.
pub const STRING_BYTES_MAX: usize = u16::MAX as usize;

/// Appends primitives to a buffer.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn bool(&mut self, value: bool) {
        self.u8(value as u8);
    }

    /// # Panics
    /// If `value` is longer than [`STRING_BYTES_MAX`]: callers bound what they were given long before.
    pub fn string(&mut self, value: &str) {
        let len = u16::try_from(value.len()).expect("a string of the metadata is bounded by its validation");
        self.u16(len);
        self.0.extend_from_slice(value.as_bytes());
    }

    pub fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("a list of the metadata is bounded by its validation"));
    }

    pub fn uuid(&mut self, value: Uuid) {
        self.0.extend_from_slice(value.as_bytes());
    }

    pub fn incarnation(&mut self, value: Incarnation) {
        self.u32(value.broker);
        self.u64(value.epoch);
    }

    pub fn hash(&mut self, value: NoteHash) {
        self.0.extend_from_slice(&value.0);
    }

    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub fn object(&mut self, value: ObjectId) {
        let (kind, owner, number) = match value {
            ObjectId::Data { owner, counter } => (0, owner, counter),
            ObjectId::Slot { owner, slot } => (1, owner, slot),
        };
        self.u8(kind);
        self.incarnation(owner);
        self.u64(number);
    }
}

/// Takes primitives off a slice.
#[derive(Debug)]
pub struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(all: &'a [u8]) -> Reader<'a> {
        Reader { all, at: 0 }
    }

    pub fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { what, at: self.at }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let rest = &self.all[self.at..];
        if rest.len() < len {
            return Err(self.malformed("truncated"));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(self.take(N)?.try_into().expect("took exactly N bytes"))
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed("a boolean that is neither 0 nor 1")),
        }
    }

    pub fn string(&mut self) -> Result<Arc<str>, Malformed> {
        let len = self.u16()? as usize;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map(Arc::from).map_err(|_| self.malformed("a string that is not UTF-8"))
    }

    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        self.take(len)
    }

    pub fn uuid(&mut self) -> Result<Uuid, Malformed> {
        Ok(Uuid::from_bytes(self.array()?))
    }

    pub fn hash(&mut self) -> Result<NoteHash, Malformed> {
        Ok(NoteHash(self.array::<NOTE_HASH_BYTES>()?))
    }

    pub fn incarnation(&mut self) -> Result<Incarnation, Malformed> {
        Ok(Incarnation { broker: self.u32()?, epoch: self.u64()? })
    }

    pub fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }

    pub fn object(&mut self) -> Result<ObjectId, Malformed> {
        let kind = self.u8()?;
        let owner = self.incarnation()?;
        let number = self.u64()?;
        match kind {
            0 => Ok(ObjectId::Data { owner, counter: number }),
            1 => Ok(ObjectId::Slot { owner, slot: number }),
            _ => Err(self.malformed("an object id of an unknown kind")),
        }
    }

    /// A list whose elements take at least `element_bytes_min` bytes each: a count beyond what is left is refused
    /// before anything is allocated for it.
    pub fn list<T>(
        &mut self,
        element_bytes_min: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.u32()? as usize;
        if count.saturating_mul(element_bytes_min.max(1)) > self.left() {
            return Err(self.malformed("a list longer than the bytes that are left"));
        }
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(read(self)?);
        }
        Ok(elements)
    }

    /// A [`list`](Reader::list) of keys and values. Keys ascend, as they were written: of two that are equal one would be lost.
    pub fn map<K: Ord, V>(
        &mut self,
        entry_bytes_min: usize,
        read: impl FnMut(&mut Self) -> Result<(K, V), Malformed>,
    ) -> Result<Vec<(K, V)>, Malformed> {
        let entries = self.list(entry_bytes_min, read)?;
        if !entries.is_sorted_by(|one, next| one.0 < next.0) {
            return Err(self.malformed("a map whose keys do not ascend"));
        }
        Ok(entries)
    }

    /// Bytes that were not read yet.
    pub fn left(&self) -> usize {
        self.all.len() - self.at
    }

    /// Everything must have been read.
    pub fn end(self) -> Result<(), Malformed> {
        if self.at == self.all.len() { Ok(()) } else { Err(self.malformed("bytes after the end")) }
    }
}
