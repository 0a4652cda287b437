//! Record batches whose records begin with a number each.
//!
//! In the soak the record at offset *n* holds the number *n*, since each partition has one producer: a reader sees a lost
//! record, and one that is there twice, without knowing anything else. In loads it is the time at which the record was due.

use anyhow::{bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};

const HEADER_BYTES: usize = 61;
/// Base offset and length, which the length does not count.
const PREFIX_BYTES: usize = 12;

/// Who writes, for the broker to tell a repeated batch from a new one.
#[derive(Clone, Copy, Debug)]
pub struct Producer {
    pub id: i64,
    pub epoch: i16,
}

impl Producer {
    /// Batches that are not told apart.
    pub const NONE: Producer = Producer { id: -1, epoch: -1 };
}

/// A batch of records of `record_bytes` each, at least 8, which begin with `numbers`.
pub fn encode(
    producer: Producer,
    sequence: i32,
    numbers: impl ExactSizeIterator<Item = u64>,
    record_bytes: usize,
) -> Bytes {
    let count = numbers.len();
    let timestamp = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as i64);
    let mut bytes = BytesMut::with_capacity(HEADER_BYTES + count * (record_bytes + 16));
    bytes.put_i64(0);
    bytes.put_i32(0);
    bytes.put_i32(-1);
    bytes.put_i8(2);
    bytes.put_u32(0);
    bytes.put_i16(0);
    bytes.put_i32(count as i32 - 1);
    bytes.put_i64(timestamp);
    bytes.put_i64(timestamp);
    bytes.put_i64(producer.id);
    bytes.put_i16(producer.epoch);
    bytes.put_i32(sequence);
    bytes.put_i32(count as i32);
    let mut record = BytesMut::new();
    for (index, number) in numbers.enumerate() {
        record.clear();
        record.put_i8(0);
        put_varint(&mut record, 0);
        put_varint(&mut record, index as i64);
        put_varint(&mut record, -1);
        put_varint(&mut record, record_bytes.max(8) as i64);
        record.put_u64(number);
        record.put_bytes(index as u8, record_bytes.saturating_sub(8));
        put_varint(&mut record, 0);
        put_varint(&mut bytes, record.len() as i64);
        bytes.put_slice(&record);
    }
    let length = (bytes.len() - PREFIX_BYTES) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[21..]) as u32;
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.freeze()
}

/// Calls `seen` with each offset and the number that stands there, for the whole batches in `fetched`.
///
/// # Errors
/// If a batch is not what was sent, or `seen` fails.
pub fn decode(
    mut fetched: Bytes,
    mut seen: impl FnMut(u64, u64) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    while let Some(batch) = split_batch(&mut fetched) {
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &batch[21..]) as u32;
        ensure!(crc == (&batch[17..21]).get_u32(), "a fetched batch has a wrong checksum");
        let base = (&batch[..8]).get_u64();
        let count = (&batch[57..61]).get_u32();
        let mut records = batch.slice(HEADER_BYTES..);
        for index in 0..u64::from(count) {
            let length = get_varint(&mut records)? as usize;
            ensure!(length <= records.len(), "a record is cut short");
            let mut record = records.split_to(length);
            record.advance(1);
            for _ in 0..4 {
                get_varint(&mut record)?;
            }
            seen(base + index, record.try_get_u64()?)?;
        }
    }
    Ok(())
}

/// Takes one whole batch off.
fn split_batch(fetched: &mut Bytes) -> Option<Bytes> {
    if fetched.len() < HEADER_BYTES {
        return None;
    }
    let size = (&fetched[8..12]).get_i32() as usize + PREFIX_BYTES;
    (size <= fetched.len()).then(|| fetched.split_to(size))
}

/// The offset behind the last whole batch and the number of records, by the headers alone.
pub fn skim(mut fetched: Bytes) -> Option<(i64, u64)> {
    let mut found = None;
    let mut records = 0;
    while let Some(batch) = split_batch(&mut fetched) {
        records += u64::from((&batch[57..61]).get_u32());
        let last = (&batch[..8]).get_i64() + i64::from((&batch[23..27]).get_i32());
        found = Some((last + 1, records));
    }
    found
}

/// Reads the whole batches in `fetched` from the record at `from` on, and says at which offset to go on.
///
/// # Errors
/// If a record holds another number than its offset, or a batch is not what was sent.
pub fn check(fetched: Bytes, from: u64) -> anyhow::Result<u64> {
    let mut next = from;
    decode(fetched, |offset, number| {
        ensure!(number == offset, "record {number} stands at offset {offset}: records were lost or doubled");
        if offset >= next {
            ensure!(offset == next, "offset {offset} follows where {next} was due");
            next += 1;
        }
        Ok(())
    })?;
    Ok(next)
}

fn put_varint(to: &mut BytesMut, value: i64) {
    let mut value = ((value << 1) ^ (value >> 63)) as u64;
    while value >= 0x80 {
        to.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    to.put_u8(value as u8);
}

fn get_varint(from: &mut Bytes) -> anyhow::Result<i64> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let byte = from.try_get_u8()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    bail!("a number is too long")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRODUCER: Producer = Producer { id: 1, epoch: 0 };

    fn stored(first: u64, count: u32, offset: u64) -> Bytes {
        let mut bytes =
            BytesMut::from(&encode(PRODUCER, 0, (0..count).map(|index| first + u64::from(index)), 100)[..]);
        bytes[..8].copy_from_slice(&offset.to_be_bytes());
        bytes.freeze()
    }

    fn log(batches: &[Bytes]) -> Bytes {
        batches.concat().into()
    }

    #[test]
    fn what_was_written_in_order_is_right_from_wherever_it_is_read() {
        let whole = log(&[stored(0, 5, 0), stored(5, 3, 5)]);
        for from in 0..5 {
            assert_eq!(check(whole.clone(), from).unwrap(), 8);
        }
        assert_eq!(check(whole.slice(..whole.len() - 1), 0).unwrap(), 5, "the last batch is cut");
        assert_eq!(check(Bytes::new(), 7).unwrap(), 7);
    }

    #[test]
    fn lost_and_doubled_records_are_seen() {
        let lost = log(&[stored(0, 5, 0), stored(6, 3, 5)]);
        let doubled = log(&[stored(0, 5, 0), stored(0, 5, 5)]);
        let gap = log(&[stored(0, 5, 0), stored(6, 3, 6)]);
        for (wrong, what) in [(lost, "stands at"), (doubled, "stands at"), (gap, "was due")] {
            let error = check(wrong, 0).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        let mut flipped = stored(0, 5, 0).to_vec();
        flipped[100] ^= 1;
        assert!(check(flipped.into(), 0).unwrap_err().to_string().contains("checksum"));
    }
}
