//! Frames: what the ring holds. One frame is one device write and carries one or many records.
//!
//! All integers are little endian, all CRCs CRC-32C (Castagnoli).
//!
//! ```text
//!   offset size  header
//!        0    4  magic "OWF1"
//!        4    4  version, 1
//!        8   16  volume id: frames of a volume that was wiped and formatted again are not data
//!       24    8  epoch of the writer's incarnation
//!       32    8  position: absolute, grows for ever within an epoch; position % ring size is the place in the ring
//!       40    8  previous end: where the frame before this one ended; less than position where the ring's end was skipped
//!       48    8  durable before: every frame below this position was durable when this one was written
//!       56    4  body bytes
//!       60    4  records
//!       64    4  CRC of the body
//!       68    4  CRC of the header's bytes 0 to 67
//!       72    n  body: the records
//!                zeroes up to the next multiple of the ring's block
//!
//!   offset size  a record
//!        0    1  kind
//!        1    1  meta bytes, at most 62
//!        2    2  zero
//!        4    4  body bytes
//!        8    m  meta
//!      8+m    n  body
//! ```
//!
//! The header has a CRC of its own, so that a frame whose body is damaged still proves, by "durable before", that earlier
//! frames were acknowledged.

use bytes::Bytes;
use uuid::Uuid;

use crate::{Meta, Record};

pub(super) const HEADER_BYTES: usize = 72;
pub(super) const RECORD_HEADER_BYTES: usize = 8;
const MAGIC: [u8; 4] = *b"OWF1";
const VERSION: u32 = 1;

/// A frame's header, apart from what follows from the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub volume: Uuid,
    pub epoch: u64,
    pub position: u64,
    pub previous_end: u64,
    pub durable_before: u64,
    pub body_bytes: u32,
    pub records: u32,
    pub body_crc: u32,
}

/// The bytes that a record takes in a frame's body.
pub(super) fn record_bytes(record: &Record) -> usize {
    RECORD_HEADER_BYTES + record.size()
}

/// The bytes that a frame with `body_bytes` takes in a ring of blocks of `block` bytes.
pub(super) fn frame_bytes(body_bytes: usize, block: usize) -> usize {
    (HEADER_BYTES + body_bytes).next_multiple_of(block)
}

impl Header {
    /// Where the frame ends in a ring of blocks of `block` bytes.
    pub(super) fn end(&self, block: usize) -> u64 {
        self.position + frame_bytes(self.body_bytes as usize, block) as u64
    }

    /// Writes the frame to the front of `buffer`, which is zeroed up to the end of its last block; the whole length.
    /// `body_bytes`, `records` and `body_crc` are filled in.
    ///
    /// # Panics
    /// If `buffer` is too small.
    pub(super) fn encode(mut self, records: &[Record], block: usize, buffer: &mut [u8]) -> usize {
        let mut at = HEADER_BYTES;
        for record in records {
            let meta = record.meta.as_slice();
            buffer[at] = record.kind;
            buffer[at + 1] = meta.len() as u8;
            buffer[at + 2..at + 4].fill(0);
            put(buffer, at + 4, &(record.body.len() as u32).to_le_bytes());
            at += RECORD_HEADER_BYTES;
            put(buffer, at, meta);
            at += meta.len();
            put(buffer, at, &record.body);
            at += record.body.len();
        }
        let end = at.next_multiple_of(block);
        buffer[at..end].fill(0);
        self.body_bytes = (at - HEADER_BYTES) as u32;
        self.records = records.len() as u32;
        self.body_crc = crc(&buffer[HEADER_BYTES..at]);
        put(buffer, 0, &self.encode_header());
        end
    }

    fn encode_header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        put(&mut header, 0, &MAGIC);
        put(&mut header, 4, &VERSION.to_le_bytes());
        put(&mut header, 8, self.volume.as_bytes());
        put(&mut header, 24, &self.epoch.to_le_bytes());
        put(&mut header, 32, &self.position.to_le_bytes());
        put(&mut header, 40, &self.previous_end.to_le_bytes());
        put(&mut header, 48, &self.durable_before.to_le_bytes());
        put(&mut header, 56, &self.body_bytes.to_le_bytes());
        put(&mut header, 60, &self.records.to_le_bytes());
        put(&mut header, 64, &self.body_crc.to_le_bytes());
        let header_crc = crc(&header[..68]);
        put(&mut header, 68, &header_crc.to_le_bytes());
        header
    }

    /// The header at the front of `bytes`, or `None` where there is none that was ever written as a whole.
    pub(super) fn decode(bytes: &[u8]) -> Option<Header> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        if bytes[..4] != MAGIC || u32_at(bytes, 4) != VERSION || u32_at(bytes, 68) != crc(&bytes[..68]) {
            return None;
        }
        Some(Header {
            volume: Uuid::from_bytes(*bytes[8..].first_chunk()?),
            epoch: u64_at(bytes, 24),
            position: u64_at(bytes, 32),
            previous_end: u64_at(bytes, 40),
            durable_before: u64_at(bytes, 48),
            body_bytes: u32_at(bytes, 56),
            records: u32_at(bytes, 60),
            body_crc: u32_at(bytes, 64),
        })
    }
}

/// The records of a frame whose header is `header`, as slices of `body`; `None` if the body is not the one that was
/// written.
pub(super) fn decode_records(header: &Header, body: &Bytes) -> Option<Vec<Record>> {
    if body.len() != header.body_bytes as usize || crc(body) != header.body_crc {
        return None;
    }
    // Each record takes a header at least: bounds the allocation by what was read.
    if header.records as usize > body.len() / RECORD_HEADER_BYTES {
        return None;
    }
    let mut records = Vec::with_capacity(header.records as usize);
    let mut at = 0;
    for _ in 0..header.records {
        let head = body.get(at..at + RECORD_HEADER_BYTES)?;
        let (kind, meta_bytes, body_bytes) = (head[0], head[1] as usize, u32_at(head, 4) as usize);
        let meta_at = at + RECORD_HEADER_BYTES;
        let body_at = meta_at + meta_bytes;
        let end = body_at.checked_add(body_bytes)?;
        let meta = Meta::decode(body.get(meta_at..body_at)?)?;
        if head[2..4] != [0, 0] || end > body.len() {
            return None;
        }
        records.push(Record { kind, meta, body: body.slice(body_at..end) });
        at = end;
    }
    (at == body.len()).then_some(records)
}

pub(super) fn crc(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

pub(super) fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    buffer[at..at + bytes.len()].copy_from_slice(bytes);
}

/// # Panics
/// If `bytes` ends before `at + 4`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("within the fixed layout"))
}

/// # Panics
/// If `bytes` ends before `at + 8`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("within the fixed layout"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: usize = 4096;

    fn header() -> Header {
        Header {
            volume: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
            epoch: 3,
            position: 0x1_2000,
            previous_end: 0x1_1000,
            durable_before: 0xf000,
            body_bytes: 0,
            records: 0,
            body_crc: 0,
        }
    }

    fn record(kind: u8, meta: &[u8], body: &[u8]) -> Record {
        Record { kind, meta: Meta::new(meta), body: Bytes::copy_from_slice(body) }
    }

    fn encode(records: &[Record]) -> Vec<u8> {
        let body: usize = records.iter().map(record_bytes).sum();
        let mut buffer = vec![0xee; frame_bytes(body, BLOCK)];
        assert_eq!(header().encode(records, BLOCK, &mut buffer), buffer.len());
        buffer
    }

    fn decode(bytes: &[u8]) -> Option<(Header, Vec<Record>)> {
        let header = Header::decode(bytes)?;
        let body = bytes.get(HEADER_BYTES..HEADER_BYTES + header.body_bytes as usize)?;
        Some((header, decode_records(&header, &Bytes::copy_from_slice(body))?))
    }

    /// `docs/formats/wal-block.md` prints the same bytes.
    #[test]
    fn golden() {
        let bytes = encode(&[record(1, &[0xaa, 0xbb], b"hello"), record(2, &[], b"")]);
        let golden = concat!(
            "4f574631010000000011223344556677",
            "8899aabbccddeeff0300000000000000",
            "0020010000000000001001000000000000f0000000000000",
            "1700000002000000",
        );
        let hex: String = bytes[..64].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, golden);
        let body: String = bytes[72..96].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(body, "0102000005000000aabb68656c6c6f020000000000000000");
        assert_eq!(u32_at(&bytes, 64), crc(&bytes[72..95]));
        assert!(bytes[95..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_torn_body_leaves_the_header_readable() {
        let mut bytes = encode(&[record(0, &[], &[7; 5000])]);
        bytes[BLOCK..].fill(0);
        assert!(Header::decode(&bytes).is_some_and(|header| header.durable_before == 0xf000));
        assert!(decode(&bytes).is_none());
    }

    #[test]
    fn counts_that_lie_are_not_believed() {
        let body = Bytes::from_static(&[0; 16]);
        for (records, accepted) in [(2, true), (1, false), (3, false), (u32::MAX, false)] {
            let header = Header { records, body_bytes: 16, body_crc: crc(&body), ..header() };
            assert_eq!(decode_records(&header, &body).is_some(), accepted, "{records}");
        }
        let body = Bytes::from_static(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        let header = Header { records: 1, body_bytes: 8, body_crc: crc(&body), ..header() };
        assert!(decode_records(&header, &body).is_none());
    }

    /// Of the frame; what lies behind it up to the block's end is not read.
    #[test]
    fn every_flipped_bit_is_noticed() {
        let records =
            [record(1, &[0xaa, 0xbb], b"hello"), record(2, &[], b""), record(3, &[7; 62], &[9; 300])];
        let bytes = encode(&records);
        let used = HEADER_BYTES + records.iter().map(record_bytes).sum::<usize>();
        for bit in 0..used * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_none(), "bit {bit}");
        }
    }

    fn any_record() -> impl Strategy<Value = Record> {
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..=62), prop::collection::vec(any::<u8>(), 0..600))
            .prop_map(|(kind, meta, body)| record(kind, &meta, &body))
    }

    proptest! {
        #[test]
        fn round_trip(records in prop::collection::vec(any_record(), 1..20)) {
            let (header, decoded) = decode(&encode(&records)).unwrap();
            prop_assert_eq!(header.records as usize, records.len());
            prop_assert_eq!(decoded, records);
        }

        #[test]
        fn every_truncation_is_noticed(
            records in prop::collection::vec(any_record(), 1..4), at in any::<prop::sample::Index>()
        ) {
            let bytes = encode(&records);
            let used = HEADER_BYTES + records.iter().map(record_bytes).sum::<usize>();
            prop_assert!(decode(&bytes[..at.index(used)]).is_none());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }
    }
}
