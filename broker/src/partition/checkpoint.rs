//! A checkpoint of a partition's state, kept in the partition's second stream: what the log said up to an offset, so
//! that only what lies behind it is replayed when the partition is opened (behaviour 51).
//!
//! Little endian:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `OTCP` |
//! | 4 | 2 | version: 1 |
//! | 6 | 2 | reserved, 0 |
//! | 8 | 4 | CRC-32C of everything from 12 on |
//! | 12 | 8 | log end: every batch below it is accounted for |
//! | 20 | 8 | log start: offsets below are gone, whatever the metadata says |
//! | 28 | 4 | number of producers |
//! | 32 | | producers, the one that wrote longest ago first |
//!
//! A producer: id 8, epoch 2, last seen 8 (milliseconds since the epoch), number of batches 1 (1 to 5), then for each
//! batch, oldest first: base sequence 4, last sequence 4, base offset 8, end offset 8, max timestamp 8.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use crc_fast::CrcAlgorithm;

use super::state::{BATCHES_KEPT, KeptBatch, Limits, Producer, State};

const MAGIC: &[u8; 4] = b"OTCP";
const VERSION: u16 = 1;
const CRC_AT: usize = 8;
const CHECKED_FROM: usize = 12;
const HEADER_BYTES: usize = 32;
const PRODUCER_BYTES: usize = 19;
const BATCH_BYTES: usize = 32;

/// The bytes are not a checkpoint that this version can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unusable checkpoint: {0}")]
pub struct Unusable(&'static str);

/// What a checkpoint says.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub state: State,
    /// At most the state's log end.
    pub log_start: u64,
}

/// # Panics
/// If the log would start behind its end.
pub fn encode(state: &State, log_start: u64) -> Bytes {
    assert!(log_start <= state.log_end(), "a log of [{log_start}, {})", state.log_end());
    let producers = state.producer_count();
    let mut bytes =
        BytesMut::with_capacity(HEADER_BYTES + producers * (PRODUCER_BYTES + BATCHES_KEPT * BATCH_BYTES));
    bytes.put_slice(MAGIC);
    bytes.put_u16_le(VERSION);
    bytes.put_u16_le(0);
    bytes.put_u32_le(0);
    bytes.put_u64_le(state.log_end());
    bytes.put_u64_le(log_start);
    bytes.put_u32_le(producers as u32);
    for (id, producer) in state.producers() {
        bytes.put_i64_le(id);
        bytes.put_i16_le(producer.epoch);
        bytes.put_i64_le(producer.seen_ms);
        bytes.put_u8(producer.batches.len() as u8);
        for batch in &producer.batches {
            bytes.put_i32_le(batch.base_sequence);
            bytes.put_i32_le(batch.last_sequence);
            bytes.put_u64_le(batch.base_offset);
            bytes.put_u64_le(batch.end_offset);
            bytes.put_i64_le(batch.timestamp);
        }
    }
    let crc = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &bytes[CHECKED_FROM..]) as u32;
    bytes[CRC_AT..CHECKED_FROM].copy_from_slice(&crc.to_le_bytes());
    bytes.freeze()
}

pub fn decode(bytes: &[u8], limits: Limits) -> Result<Checkpoint, Unusable> {
    if bytes.len() < HEADER_BYTES || &bytes[..4] != MAGIC {
        return Err(Unusable("no checkpoint"));
    }
    let mut at = &bytes[4..];
    if at.get_u16_le() != VERSION || at.get_u16_le() != 0 {
        return Err(Unusable("of another version"));
    }
    let crc = at.get_u32_le();
    if crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &bytes[CHECKED_FROM..]) as u32 != crc {
        return Err(Unusable("wrong checksum"));
    }
    let mut state = State::new(limits, at.get_u64_le());
    let log_start = at.get_u64_le();
    if log_start > state.log_end() {
        return Err(Unusable("contradicts itself"));
    }
    let producers = at.get_u32_le() as usize;
    for _ in 0..producers {
        let (id, producer) = decode_producer(&mut at)?;
        if !state.restore(id, producer) {
            return Err(Unusable("contradicts itself"));
        }
    }
    if at.has_remaining() {
        return Err(Unusable("too long"));
    }
    Ok(Checkpoint { state, log_start })
}

fn decode_producer(at: &mut &[u8]) -> Result<(i64, Producer), Unusable> {
    if at.remaining() < PRODUCER_BYTES {
        return Err(Unusable("too short"));
    }
    let (id, epoch, seen_ms, count) =
        (at.get_i64_le(), at.get_i16_le(), at.get_i64_le(), at.get_u8() as usize);
    if count == 0 || count > BATCHES_KEPT || at.remaining() < count * BATCH_BYTES {
        return Err(Unusable("too short"));
    }
    let mut batches = VecDeque::with_capacity(count);
    for _ in 0..count {
        batches.push_back(KeptBatch {
            base_sequence: at.get_i32_le(),
            last_sequence: at.get_i32_le(),
            base_offset: at.get_u64_le(),
            end_offset: at.get_u64_le(),
            timestamp: at.get_i64_le(),
        });
    }
    Ok((id, Producer { epoch, seen_ms, batches }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::batch::BatchHeader;
    use crate::partition::testing;
    use proptest::prelude::*;

    fn sample(batches: &[(i64, i16, i32)]) -> State {
        let mut state = State::new(Limits::default(), 100);
        for (at, (id, epoch, count)) in batches.iter().enumerate() {
            let bytes = testing::batch(1, |spec| {
                (spec.producer_id, spec.producer_epoch, spec.base_sequence) = (*id, *epoch, at as i32);
            });
            let header = BatchHeader::parse(&bytes).unwrap();
            state.appended(
                5000 + at as i64,
                &BatchHeader { last_offset_delta: count - 1, count: *count, ..header },
            );
        }
        state
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn golden() {
        let bytes = encode(&sample(&[(7, 1, 2), (9, 0, 3), (7, 1, 1)]), 77);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/partition/checkpoint.golden.hex");
        if std::env::var_os("OTTLA_WRITE_GOLDEN").is_some() {
            std::fs::write(path, hex(&bytes) + "\n").unwrap();
        }
        assert_eq!(hex(&bytes), std::fs::read_to_string(path).unwrap().trim());
        assert!(decode(&bytes, Limits::default()).is_ok());
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_unusable() {
        let bytes = encode(&sample(&[(7, 1, 2), (9, 0, 3)]), 50);
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length], Limits::default()).is_err(), "{length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, Limits::default()).is_err(), "{bit}");
        }
    }

    #[test]
    fn a_count_that_lies_is_unusable_even_with_the_right_checksum() {
        let lie = |at: usize, value: &[u8]| {
            let mut bytes = encode(&sample(&[(7, 1, 2)]), 50).to_vec();
            bytes[at..at + value.len()].copy_from_slice(value);
            let crc = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &bytes[CHECKED_FROM..]) as u32;
            bytes[CRC_AT..CHECKED_FROM].copy_from_slice(&crc.to_le_bytes());
            decode(&bytes, Limits::default())
        };
        assert!(lie(28, &u32::MAX.to_le_bytes()).is_err());
        assert!(lie(20, &103u64.to_le_bytes()).is_err(), "a log that starts behind its end, 102");
        assert_eq!(lie(20, &102u64.to_le_bytes()).unwrap().log_start, 102);
    }

    proptest! {
        #[test]
        fn round_trips(
            batches in proptest::collection::vec((0i64..20, 0i16..3, 1i32..9), 0..100),
            log_start in 0u64..=100,
        ) {
            let state = sample(&batches);
            let bytes = encode(&state, log_start);
            let Checkpoint { state: back, log_start: start } = decode(&bytes, Limits::default()).unwrap();
            prop_assert_eq!(start, log_start);
            prop_assert_eq!(back.log_end(), state.log_end());
            prop_assert!(back.producers().eq(state.producers()));
            prop_assert_eq!(encode(&back, start), bytes);
        }
    }
}
