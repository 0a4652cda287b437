//! A view of a record batch of format 2, and what a broker writes into one.
//!
//! Big endian; 61 bytes of header, then the records, compressed as a whole if at all (`DefaultRecordBatch.java`):
//!
//! | at | bytes | field | written by the broker |
//! |---|---|---|---|
//! | 0 | 8 | base offset | always |
//! | 8 | 4 | length: bytes that follow this field | |
//! | 12 | 4 | partition leader epoch | always |
//! | 16 | 1 | magic: 2 | |
//! | 17 | 4 | CRC-32C of everything from 21 on | with the next two |
//! | 21 | 2 | attributes: codec 0–2, timestamp type 3, transactional 4, control 5, delete horizon 6 | LogAppendTime |
//! | 23 | 4 | last offset delta | |
//! | 27 | 8 | base timestamp | |
//! | 35 | 8 | max timestamp | LogAppendTime, or if it was wrong |
//! | 43 | 8 | producer id, -1 if none | |
//! | 51 | 2 | producer epoch | |
//! | 53 | 4 | base sequence, -1 if none | |
//! | 57 | 4 | number of records | |

use bytes::Buf;
use crc_fast::CrcAlgorithm;

pub const HEADER_BYTES: usize = 61;
/// Base offset and length: what the length does not count.
pub const LENGTH_PREFIX_BYTES: usize = 12;
pub const MAGIC: i8 = 2;

const LENGTH_AT: usize = 8;
const LEADER_EPOCH_AT: usize = 12;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;

const CODEC_MASK: i16 = 7;
const TIMESTAMP_TYPE: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;

/// How the records of a batch are compressed, with the numbers that the attributes have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

/// The fields of a batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: i64,
    /// Of the whole batch, header included.
    pub size: usize,
    pub leader_epoch: i32,
    pub magic: i8,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub count: i32,
}

/// The bytes do not begin with a batch of format 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{0} bytes are less than a batch's header")]
    Short(usize),
    #[error("a batch says that it has {declared} bytes, where there are {present}")]
    Length { declared: i32, present: usize },
    #[error("magic {0}")]
    Magic(i8),
}

impl BatchHeader {
    /// Reads the header of the batch at the beginning of `bytes`, which must hold all of it, and may hold more.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, Malformed> {
        if bytes.len() <= MAGIC_AT {
            return Err(Malformed::Short(bytes.len()));
        }
        // First of all the magic: older formats are shorter.
        let magic = bytes[MAGIC_AT] as i8;
        if magic != MAGIC {
            return Err(Malformed::Magic(magic));
        }
        if bytes.len() < HEADER_BYTES {
            return Err(Malformed::Short(bytes.len()));
        }
        let mut at = bytes;
        let base_offset = at.get_i64();
        let length = at.get_i32();
        let leader_epoch = at.get_i32();
        let magic = at.get_i8();
        let size = usize::try_from(length).ok().and_then(|length| length.checked_add(LENGTH_PREFIX_BYTES));
        let size = size
            .filter(|size| (HEADER_BYTES..=bytes.len()).contains(size))
            .ok_or(Malformed::Length { declared: length, present: bytes.len() })?;
        Ok(BatchHeader {
            base_offset,
            size,
            leader_epoch,
            magic,
            crc: at.get_u32(),
            attributes: at.get_i16(),
            last_offset_delta: at.get_i32(),
            base_timestamp: at.get_i64(),
            max_timestamp: at.get_i64(),
            producer_id: at.get_i64(),
            producer_epoch: at.get_i16(),
            base_sequence: at.get_i32(),
            count: at.get_i32(),
        })
    }

    /// `None` for a codec that does not exist.
    pub fn codec(&self) -> Option<Codec> {
        match self.attributes & 7 {
            0 => Some(Codec::None),
            1 => Some(Codec::Gzip),
            2 => Some(Codec::Snappy),
            3 => Some(Codec::Lz4),
            4 => Some(Codec::Zstd),
            _ => None,
        }
    }

    pub fn is_log_append_time(&self) -> bool {
        self.attributes & TIMESTAMP_TYPE != 0
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    pub fn has_producer(&self) -> bool {
        self.producer_id >= 0
    }

    /// The sequence number of the last record; they wrap from `i32::MAX` to 0.
    pub fn last_sequence(&self) -> i32 {
        add_to_sequence(self.base_sequence, self.last_offset_delta)
    }
}

const MAGIC_AT: usize = 16;

/// `DefaultRecordBatch.incrementSequence`: modulo 2^31.
pub fn add_to_sequence(sequence: i32, delta: i32) -> i32 {
    (i64::from(sequence) + i64::from(delta)).rem_euclid(1 << 31) as i32
}

/// The checksum that belongs into the batch `bytes`, which is whole and nothing else.
pub fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &bytes[ATTRIBUTES_AT..]) as u32
}

/// Outside of the checksum.
pub fn set_base_offset(bytes: &mut [u8], offset: i64) {
    bytes[..8].copy_from_slice(&offset.to_be_bytes());
}

/// Outside of the checksum.
pub fn set_leader_epoch(bytes: &mut [u8], epoch: i32) {
    bytes[LEADER_EPOCH_AT..LEADER_EPOCH_AT + 4].copy_from_slice(&epoch.to_be_bytes());
}

/// For a batch whose records were compressed anew: writes its length, its codec, and then the checksum.
pub fn set_codec(bytes: &mut [u8], codec: Codec) {
    let length = (bytes.len() - LENGTH_PREFIX_BYTES) as i32;
    bytes[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_be_bytes());
    let attributes = i16::from_be_bytes([bytes[ATTRIBUTES_AT], bytes[ATTRIBUTES_AT + 1]]);
    let attributes = attributes & !CODEC_MASK | codec as i16;
    bytes[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    let crc = checksum(bytes);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
}

/// Writes the max timestamp, and that the broker set it if it did; then the checksum.
pub fn set_max_timestamp(bytes: &mut [u8], timestamp: i64, log_append_time: bool) {
    let mut attributes = i16::from_be_bytes([bytes[ATTRIBUTES_AT], bytes[ATTRIBUTES_AT + 1]]);
    attributes = if log_append_time { attributes | TIMESTAMP_TYPE } else { attributes & !TIMESTAMP_TYPE };
    bytes[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    bytes[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&timestamp.to_be_bytes());
    let crc = checksum(bytes);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::testing;

    #[test]
    fn header_of_the_codecs_own_batch() {
        let bytes = testing::batch(3, |spec| spec.base_timestamp = 1000);
        let header = BatchHeader::parse(&bytes).unwrap();
        assert_eq!((header.count, header.last_offset_delta, header.base_offset), (3, 2, 0));
        assert_eq!((header.base_timestamp, header.max_timestamp), (1000, 1002));
        assert_eq!((header.size, header.crc), (bytes.len(), checksum(&bytes)));
        assert_eq!(header.codec(), Some(Codec::None));
        assert!(!header.is_control() && !header.is_transactional() && !header.is_log_append_time());
    }

    #[test]
    fn behaviour_35_offset_and_epoch_are_outside_of_the_checksum() {
        let mut bytes = testing::batch(3, |_| {});
        let before = bytes.clone();
        set_base_offset(&mut bytes, 77);
        set_leader_epoch(&mut bytes, 5);
        let header = BatchHeader::parse(&bytes).unwrap();
        assert_eq!((header.base_offset, header.leader_epoch), (77, 5));
        assert_eq!(header.crc, checksum(&bytes));
        assert_eq!(before[16..], bytes[16..]);
    }

    #[test]
    fn behaviour_35_log_append_time_is_inside_of_the_checksum() {
        let mut bytes = testing::batch(3, |_| {});
        set_max_timestamp(&mut bytes, 4242, true);
        let header = BatchHeader::parse(&bytes).unwrap();
        assert!(header.is_log_append_time());
        assert_eq!((header.max_timestamp, header.crc), (4242, checksum(&bytes)));
    }

    #[test]
    fn every_truncation_and_any_length_is_an_error_or_within_bounds() {
        let bytes = testing::batch(3, |_| {});
        for length in 0..bytes.len() {
            assert!(BatchHeader::parse(&bytes[..length]).is_err(), "{length}");
        }
        for declared in [i32::MIN, -1, 0, 48, bytes.len() as i32, i32::MAX] {
            let mut lying = bytes.clone();
            lying[8..12].copy_from_slice(&declared.to_be_bytes());
            assert!(matches!(BatchHeader::parse(&lying), Err(Malformed::Length { .. })), "{declared}");
        }
        let mut old = bytes.clone();
        old[16] = 1;
        assert_eq!(BatchHeader::parse(&old), Err(Malformed::Magic(1)));
        assert_eq!(BatchHeader::parse(&old[..20]), Err(Malformed::Magic(1)));
    }

    #[test]
    fn behaviour_49_sequences_wrap() {
        assert_eq!(add_to_sequence(5, 3), 8);
        assert_eq!(add_to_sequence(i32::MAX, 1), 0);
        assert_eq!(add_to_sequence(i32::MAX - 1, 3), 1);
    }
}
