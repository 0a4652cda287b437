//! Byte tables and the fixed-size parts. All integers are little endian, all CRCs CRC-32C.
//!
//! Header, 8 bytes: the magic `OTTLAOBJ`.
//!
//! Record table entry, 28 bytes, one per record at the block's beginning:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | base offset |
//! | 8 | 8 | end offset, exclusive; greater than base |
//! | 16 | 8 | max timestamp in milliseconds, -1 if none |
//! | 24 | 4 | where the body ends, counted from the first body's first byte |
//!
//! Index entry, 64 bytes, one per block:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | stream id |
//! | 8 | 8 | stream epoch |
//! | 16 | 8 | base offset of the first record |
//! | 24 | 8 | end offset of the last record |
//! | 32 | 8 | position of the block in the object |
//! | 40 | 8 | max timestamp of the block in milliseconds, -1 if none |
//! | 48 | 4 | size of the block in bytes, table included |
//! | 52 | 4 | number of records, at least 1 |
//! | 56 | 4 | CRC of the block |
//! | 60 | 1 | kind of the bodies, not 0: 1 is data |
//! | 61 | 3 | zero |
//!
//! Footer, 72 bytes, the object's last. The last 16 bytes mean the same in every version:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | position of the index |
//! | 8 | 4 | size of the index in bytes: 64 per block |
//! | 12 | 4 | CRC of the index |
//! | 16 | 8 | epoch of the writer |
//! | 24 | 8 | counter (data object) or slot number |
//! | 32 | 16 | nonce |
//! | 48 | 4 | broker of the writer |
//! | 52 | 1 | 1: data object, 2: slot of an object WAL |
//! | 53 | 3 | zero |
//! | 56 | 2 | version |
//! | 58 | 2 | zero |
//! | 60 | 4 | CRC of the footer's bytes 0 to 60 |
//! | 64 | 8 | the magic `OTTLAEND` |

use bytes::{BufMut, BytesMut};
use wal::Incarnation;

use super::Error;
use crate::{ObjectId, StreamId};

/// Versions are never reused.
pub const VERSION: u16 = 1;
pub const HEADER_BYTES: usize = 8;
pub const RECORD_BYTES: usize = 28;
pub const ENTRY_BYTES: usize = 64;
pub const FOOTER_BYTES: usize = 72;
/// A longer index (a million blocks) is taken for damage: a constant of the format, for every reader alike.
pub const INDEX_BYTES_MAX: u32 = 64 << 20;

/// The header: what every object begins with.
pub const HEADER_MAGIC: [u8; 8] = *b"OTTLAOBJ";
const FOOTER_MAGIC: [u8; 8] = *b"OTTLAEND";
const DATA_OBJECT: u8 = 1;
const SLOT_OBJECT: u8 = 2;

/// Which object this is, and which attempt to write it (F4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub object: ObjectId,
    /// Random per attempt: resolves a create whose outcome is unknown.
    pub nonce: u128,
}

/// What the index says about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockEntry {
    pub stream: StreamId,
    /// The stream's epoch under which the records were appended.
    pub stream_epoch: u64,
    /// Base offset of the first record.
    pub base: u64,
    /// End offset of the last record, exclusive.
    pub end: u64,
    /// Where the block begins in the object, in bytes.
    pub position: u64,
    /// Largest timestamp in the block in milliseconds, -1 if there is none.
    pub max_timestamp: i64,
    /// Bytes of the block, record table included.
    pub size: u32,
    /// Number of records.
    pub count: u32,
    pub crc: u32,
    /// What the bodies are, as in [`wal::Record::kind`].
    pub kind: u8,
}

impl BlockEntry {
    /// The byte after the block's last.
    pub fn position_end(&self) -> u64 {
        self.position + u64::from(self.size)
    }

    /// Bytes of the bodies alone.
    pub fn body_bytes(&self) -> u64 {
        u64::from(self.size) - u64::from(self.count) * RECORD_BYTES as u64
    }

    pub(super) fn encode(&self, into: &mut BytesMut) {
        into.put_u64_le(self.stream.0);
        into.put_u64_le(self.stream_epoch);
        into.put_u64_le(self.base);
        into.put_u64_le(self.end);
        into.put_u64_le(self.position);
        into.put_i64_le(self.max_timestamp);
        into.put_u32_le(self.size);
        into.put_u32_le(self.count);
        into.put_u32_le(self.crc);
        into.put_u8(self.kind);
        into.put_bytes(0, 3);
    }

    /// Checks what an entry can say about itself; its place among the others is the index's to check.
    pub(super) fn decode(bytes: &[u8; ENTRY_BYTES]) -> Result<BlockEntry, &'static str> {
        let entry = BlockEntry {
            stream: StreamId(u64_at(bytes, 0)),
            stream_epoch: u64_at(bytes, 8),
            base: u64_at(bytes, 16),
            end: u64_at(bytes, 24),
            position: u64_at(bytes, 32),
            max_timestamp: u64_at(bytes, 40) as i64,
            size: u32_at(bytes, 48),
            count: u32_at(bytes, 52),
            crc: u32_at(bytes, 56),
            kind: bytes[60],
        };
        if entry.base >= entry.end {
            return Err("a block covers no offsets");
        }
        if entry.count == 0 || u64::from(entry.count) * RECORD_BYTES as u64 > u64::from(entry.size) {
            return Err("a block's record count does not fit its size");
        }
        if entry.kind == 0 || bytes[61..] != [0; 3] {
            return Err("a block's kind or padding is invalid");
        }
        Ok(entry)
    }
}

/// The object's last bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub index_position: u64,
    pub index_bytes: u32,
    pub index_crc: u32,
    pub identity: Identity,
}

impl Footer {
    pub fn encode(&self, into: &mut BytesMut) {
        let at = into.len();
        let (kind, owner, number) = match self.identity.object {
            ObjectId::Data { owner, counter } => (DATA_OBJECT, owner, counter),
            ObjectId::Slot { owner, slot } => (SLOT_OBJECT, owner, slot),
        };
        into.put_u64_le(self.index_position);
        into.put_u32_le(self.index_bytes);
        into.put_u32_le(self.index_crc);
        into.put_u64_le(owner.epoch);
        into.put_u64_le(number);
        into.put_u128_le(self.identity.nonce);
        into.put_u32_le(owner.broker);
        into.put_u8(kind);
        into.put_bytes(0, 3);
        into.put_u16_le(VERSION);
        into.put_bytes(0, 2);
        let crc = crc_fast::crc32_iscsi(&into[at..]);
        into.put_u32_le(crc);
        into.put_slice(&FOOTER_MAGIC);
        debug_assert_eq!(into.len() - at, FOOTER_BYTES);
    }

    /// `bytes` are the last [`FOOTER_BYTES`] of an object of `object_size` bytes.
    pub fn decode(bytes: &[u8; FOOTER_BYTES], object_size: u64) -> Result<Footer, Error> {
        let corrupt = |detail: &str| Error::Corrupt {
            at: object_size.saturating_sub(FOOTER_BYTES as u64),
            detail: detail.to_owned(),
        };
        if bytes[64..] != FOOTER_MAGIC {
            return Err(corrupt("the footer's magic is missing"));
        }
        let version = u16::from_le_bytes([bytes[56], bytes[57]]);
        if version != VERSION {
            return Err(Error::Version { found: version });
        }
        if crc_fast::crc32_iscsi(&bytes[..60]) != u32_at(bytes, 60) {
            return Err(corrupt("the footer's checksum does not match"));
        }
        if bytes[53..56] != [0; 3] || bytes[58..60] != [0; 2] {
            return Err(corrupt("the footer's padding is not zero"));
        }
        let owner = Incarnation { broker: u32_at(bytes, 48), epoch: u64_at(bytes, 16) };
        let number = u64_at(bytes, 24);
        let object = match bytes[52] {
            DATA_OBJECT => ObjectId::Data { owner, counter: number },
            SLOT_OBJECT => ObjectId::Slot { owner, slot: number },
            _ => return Err(corrupt("the footer's object kind is unknown")),
        };
        let nonce = u128::from_le_bytes(bytes[32..48].try_into().expect("sixteen bytes"));
        let footer = Footer {
            index_position: u64_at(bytes, 0),
            index_bytes: u32_at(bytes, 8),
            index_crc: u32_at(bytes, 12),
            identity: Identity { object, nonce },
        };
        if footer.index_bytes == 0
            || footer.index_bytes > INDEX_BYTES_MAX
            || !footer.index_bytes.is_multiple_of(ENTRY_BYTES as u32)
        {
            return Err(corrupt("the index's size is impossible"));
        }
        let end = footer.index_position.checked_add(u64::from(footer.index_bytes) + FOOTER_BYTES as u64);
        if footer.index_position < HEADER_BYTES as u64 || end != Some(object_size) {
            return Err(corrupt("the index does not lie between the header and the footer"));
        }
        Ok(footer)
    }
}

/// # Panics
/// If `at + 8` is beyond `bytes`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// # Panics
/// If `at + 4` is beyond `bytes`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
