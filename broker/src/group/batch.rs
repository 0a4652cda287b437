//! Record batches that the broker itself writes and reads: Kafka's v2 format, uncompressed, without headers.
//!
//! | at | size | field | written |
//! |---|---|---|---|
//! | 0 | 8 | base offset | 0; the partition puts the real one |
//! | 8 | 4 | length of what follows | |
//! | 12 | 4 | partition leader epoch | -1; the partition puts the real one |
//! | 16 | 1 | magic | 2 |
//! | 17 | 4 | CRC32C of everything from 21 | |
//! | 21 | 2 | attributes | 0 |
//! | 23 | 4 | last offset delta | |
//! | 27 | 8 | base timestamp | |
//! | 35 | 8 | max timestamp | |
//! | 43 | 14 | producer id, epoch, base sequence | -1 |
//! | 57 | 4 | record count | |
//! | 61 | | records: length varint, attributes 8, timestamp delta, offset delta, key, value (length varint, bytes), header count | |
//!
//! Varints are zig-zag. (Source: Kafka's documentation, "Record Batch"; KIP-98.)

use bytes::{BufMut, Bytes, BytesMut};

use super::records::Malformed;

const HEADER_BYTES: usize = 61;
const AT_LENGTH: usize = 8;
const AT_MAGIC: usize = 16;
const AT_CRC: usize = 17;
const AT_ATTRIBUTES: usize = 21;
const AT_LAST_DELTA: usize = 23;
const AT_COUNT: usize = 57;
const MAGIC: u8 = 2;
const ATTRIBUTE_COMPRESSION: u16 = 0x7;
const ATTRIBUTE_CONTROL: u16 = 0x20;

/// Gathers records for one append.
#[derive(Debug)]
pub struct Builder {
    bytes: BytesMut,
    count: i32,
    timestamp_ms: i64,
}

/// A finished batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub bytes: Bytes,
    pub records: u32,
    /// The timestamp of every record in it, in milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
}

impl Builder {
    pub fn new(timestamp_ms: i64) -> Builder {
        let mut bytes = BytesMut::with_capacity(1024);
        bytes.put_bytes(0, 12);
        bytes.put_i32(-1);
        bytes.put_u8(MAGIC);
        bytes.put_bytes(0, 4 + 2 + 4);
        bytes.put_i64(timestamp_ms);
        bytes.put_i64(timestamp_ms);
        bytes.put_i64(-1);
        bytes.put_i16(-1);
        bytes.put_i32(-1);
        bytes.put_i32(0);
        assert_eq!(bytes.len(), HEADER_BYTES);
        Builder { bytes, count: 0, timestamp_ms }
    }

    /// Appends a record; a `None` value is a tombstone.
    pub fn push(&mut self, key: &[u8], value: Option<&[u8]>) {
        let delta = self.count;
        let value_length = value.map_or(-1, |value| value.len() as i64);
        let fixed = 1 + 1 + varint_bytes(i64::from(delta)) + 1;
        let length = fixed
            + varint_bytes(key.len() as i64)
            + key.len()
            + varint_bytes(value_length)
            + value.map_or(0, <[u8]>::len);
        put_varint(&mut self.bytes, length as i64);
        self.bytes.put_u8(0);
        put_varint(&mut self.bytes, 0);
        put_varint(&mut self.bytes, i64::from(delta));
        put_varint(&mut self.bytes, key.len() as i64);
        self.bytes.put_slice(key);
        put_varint(&mut self.bytes, value_length);
        self.bytes.put_slice(value.unwrap_or_default());
        put_varint(&mut self.bytes, 0);
        self.count += 1;
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// # Panics
    /// If it is empty: Kafka has no batches without records but those of compaction.
    pub fn finish(mut self) -> Batch {
        assert!(self.count > 0, "an empty batch");
        let length = i32::try_from(self.bytes.len() - AT_LENGTH - 4).expect("the owner bounds a batch");
        self.bytes[AT_LENGTH..AT_LENGTH + 4].copy_from_slice(&length.to_be_bytes());
        self.bytes[AT_LAST_DELTA..AT_LAST_DELTA + 4].copy_from_slice(&(self.count - 1).to_be_bytes());
        self.bytes[AT_COUNT..HEADER_BYTES].copy_from_slice(&self.count.to_be_bytes());
        let crc = crc32c(&self.bytes[AT_ATTRIBUTES..]);
        self.bytes[AT_CRC..AT_ATTRIBUTES].copy_from_slice(&crc.to_be_bytes());
        Batch { bytes: self.bytes.freeze(), records: self.count as u32, timestamp_ms: self.timestamp_ms }
    }
}

/// A record's key and value, both nullable.
pub type Record<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// What a stored batch holds.
#[derive(Debug)]
pub enum Content<'a> {
    Records(Vec<Record<'a>>),
    /// Not of this writer: compressed, or control records.
    Foreign,
}

/// Splits off the first batch of `log`; `None` at its end. Checks length, magic and CRC.
pub fn split_batch<'a>(log: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
    const WHAT: Malformed = Malformed { what: "record batch" };
    if log.is_empty() {
        return Ok(None);
    }
    let length = log.get(AT_LENGTH..AT_LENGTH + 4).ok_or(WHAT)?;
    let length = i32::from_be_bytes(length.try_into().expect("four bytes"));
    let total = usize::try_from(length).map_err(|_| WHAT)? + AT_LENGTH + 4;
    let (batch, rest) = log.split_at_checked(total).ok_or(WHAT)?;
    if batch.len() < HEADER_BYTES || batch[AT_MAGIC] != MAGIC {
        return Err(WHAT);
    }
    let crc = u32::from_be_bytes(batch[AT_CRC..AT_ATTRIBUTES].try_into().expect("four bytes"));
    if crc != crc32c(&batch[AT_ATTRIBUTES..]) {
        return Err(Malformed { what: "record batch (its CRC does not match)" });
    }
    *log = rest;
    Ok(Some(batch))
}

/// The records of a batch that [`split_batch`] returned.
pub fn records(batch: &[u8]) -> Result<Content<'_>, Malformed> {
    const WHAT: Malformed = Malformed { what: "record" };
    let attributes = u16::from_be_bytes([batch[AT_ATTRIBUTES], batch[AT_ATTRIBUTES + 1]]);
    if attributes & (ATTRIBUTE_COMPRESSION | ATTRIBUTE_CONTROL) != 0 {
        return Ok(Content::Foreign);
    }
    let count = i32::from_be_bytes(batch[AT_COUNT..HEADER_BYTES].try_into().expect("four bytes"));
    let mut input = &batch[HEADER_BYTES..];
    let mut found = Vec::new();
    for _ in 0..count {
        let length = usize::try_from(take_varint(&mut input).ok_or(WHAT)?).map_err(|_| WHAT)?;
        let mut record = take(&mut input, length).ok_or(WHAT)?;
        found.push(key_and_value(&mut record).ok_or(WHAT)?);
    }
    if input.is_empty() { Ok(Content::Records(found)) } else { Err(WHAT) }
}

/// Headers, if any, are left unread.
fn key_and_value<'a>(record: &mut &'a [u8]) -> Option<Record<'a>> {
    take(record, 1)?;
    take_varint(record)?;
    take_varint(record)?;
    let key = take_field(record)?;
    let value = take_field(record)?;
    Some((key, value))
}

fn take_field<'a>(input: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    match take_varint(input)? {
        -1 => Some(None),
        length => Some(Some(take(input, usize::try_from(length).ok()?)?)),
    }
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(taken)
}

fn take_varint(input: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let byte = take(input, 1)?[0];
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

fn put_varint(out: &mut BytesMut, value: i64) {
    let mut value = ((value << 1) ^ (value >> 63)) as u64;
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn varint_bytes(value: i64) -> usize {
    let value = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch(records: &[(&[u8], Option<&[u8]>)]) -> Batch {
        let mut builder = Builder::new(1_700_000_000_000);
        for (key, value) in records {
            builder.push(key, *value);
        }
        builder.finish()
    }

    #[test]
    fn golden_batch() {
        let batch = batch(&[(b"k", Some(b"value")), (b"gone", None)]);
        let hex: String = batch.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = "000000000000000000000049ffffffff0275452a1a000000000001\
             0000018bcfe568000000018bcfe56800ffffffffffffffffffffffffffff00000002\
             18000000026b0a76616c756500\
             1400000208676f6e650100";
        assert_eq!(hex, golden);
    }

    #[test]
    fn truncation_and_flipped_bits_are_noticed() {
        let whole = batch(&[(b"key", Some(b"value"))]).bytes;
        for length in 1..whole.len() {
            assert!(split_batch(&mut &whole[..length]).is_err());
        }
        // The base offset and the leader epoch are the partition's, outside the CRC.
        for bit in (8 * 8..12 * 8).chain(16 * 8..whole.len() * 8) {
            let mut flipped = whole.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(split_batch(&mut &flipped[..]).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn compressed_batches_and_control_records_are_foreign() {
        for attributes in [1u16, 0x20] {
            let mut bytes = batch(&[(b"k", None)]).bytes.to_vec();
            bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
            let crc = crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
            let mut log = &bytes[..];
            let batch = split_batch(&mut log).unwrap().unwrap();
            assert!(matches!(records(batch), Ok(Content::Foreign)));
        }
    }

    #[test]
    fn counts_that_lie_are_noticed() {
        for count in [0i32, 2, i32::MAX, -1] {
            let mut bytes = batch(&[(b"k", Some(b"v"))]).bytes.to_vec();
            bytes[57..61].copy_from_slice(&count.to_be_bytes());
            let crc = crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
            let mut log = &bytes[..];
            let batch = split_batch(&mut log).unwrap().unwrap();
            assert!(records(batch).is_err(), "{count}");
        }
    }

    proptest! {
        #[test]
        fn batches_round_trip(
            written in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..200), prop::option::of(prop::collection::vec(any::<u8>(), 0..200))),
                1..100,
            )
        ) {
            let borrowed: Vec<_> = written.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
            let first = batch(&borrowed);
            let log = [first.bytes.clone(), batch(&borrowed[..1]).bytes].concat();
            let mut log = &log[..];
            let read = split_batch(&mut log).unwrap().unwrap();
            let Content::Records(read) = records(read).unwrap() else { panic!("foreign") };
            let expected: Vec<Record<'_>> = borrowed.iter().map(|(key, value)| (Some(*key), *value)).collect();
            prop_assert_eq!(read, expected);
            prop_assert!(split_batch(&mut log).unwrap().is_some());
            prop_assert!(split_batch(&mut log).unwrap().is_none());
        }

        #[test]
        fn kafka_protocol_reads_what_is_written(key in prop::collection::vec(any::<u8>(), 0..300)) {
            let written = batch(&[(&key, Some(b"value")), (b"gone", None)]);
            let mut bytes = written.bytes.clone();
            let read = kafka_protocol::records::RecordBatchDecoder::decode(&mut bytes).unwrap();
            prop_assert_eq!(read.records.len(), 2);
            prop_assert_eq!(read.records[0].key.as_deref(), Some(&key[..]));
            prop_assert_eq!(read.records[1].value.as_deref(), None);
            prop_assert_eq!(read.records[0].timestamp, 1_700_000_000_000);
        }

        #[test]
        fn arbitrary_records_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut whole = batch(&[(b"k", None)]).bytes[..61].to_vec();
            whole[57..61].copy_from_slice(&5i32.to_be_bytes());
            whole.extend_from_slice(&bytes);
            let _ = records(&whole);
        }
    }
}
