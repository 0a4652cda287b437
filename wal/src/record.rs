//! What is appended: a body that is never looked into, and a few bytes about it.

use bytes::Bytes;

/// One append. `body` is shared, never copied before the medium itself demands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the body is, in the appender's terms. A later kind may be a pointer instead of data.
    pub kind: u8,
    /// The appender's fixed-size description of the body: stream, offsets, timestamp.
    pub meta: Meta,
    pub body: Bytes,
}

impl Record {
    /// Bytes that count against budgets: meta and body.
    pub fn size(&self) -> usize {
        self.meta.len() + self.body.len()
    }
}

/// Up to [`Meta::CAPACITY`] bytes, kept inline so that an append allocates nothing for them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    len: u8,
    bytes: [u8; Meta::CAPACITY],
}

impl Meta {
    pub const CAPACITY: usize = 62;

    /// # Panics
    /// If `bytes` is longer than [`Meta::CAPACITY`].
    pub fn new(bytes: &[u8]) -> Meta {
        assert!(bytes.len() <= Meta::CAPACITY, "a record's meta is at most {} bytes", Meta::CAPACITY);
        let mut meta = Meta { len: bytes.len() as u8, bytes: [0; Meta::CAPACITY] };
        meta.bytes[..bytes.len()].copy_from_slice(bytes);
        meta
    }

    /// `None` if `bytes` is longer than [`Meta::CAPACITY`]; for bytes that come from a medium.
    pub fn decode(bytes: &[u8]) -> Option<Meta> {
        (bytes.len() <= Meta::CAPACITY).then(|| Meta::new(bytes))
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl std::fmt::Debug for Meta {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Meta({:02x?})", self.as_slice())
    }
}
