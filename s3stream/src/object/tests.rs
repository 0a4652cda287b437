//! Golden bytes, round trips, damage.

use bytes::Bytes;
use proptest::prelude::*;
use wal::object::{SlotCodec, SlotId};
use wal::{Incarnation, Record};

use super::format::{u32_at, u64_at};
use super::*;
use crate::metadata::StreamPart;
use crate::record::{KIND_DATA, RecordMeta};
use crate::{ObjectId, StreamId, StreamRecord};

const OWNER: Incarnation = Incarnation { broker: 3, epoch: 42 };
const IDENTITY: Identity = Identity {
    object: ObjectId::Data { owner: OWNER, counter: 7 },
    nonce: 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100,
};

fn record(base: u64, end: u64, max_timestamp: i64, body: &'static str) -> StreamRecord {
    StreamRecord { base, end, max_timestamp, body: Bytes::from_static(body.as_bytes()) }
}

/// Two streams, an epoch change, a gap, a record without a timestamp and one without a body.
fn sample() -> Encoded {
    let mut writer = ObjectWriter::new(IDENTITY, Options::default());
    writer.add(StreamId(9), 42, KIND_DATA, record(100, 103, 1_700_000_000_000, "nine-100"));
    writer.add(StreamId(2), 5, KIND_DATA, record(0, 1, -1, "two-0"));
    writer.add(StreamId(9), 42, KIND_DATA, record(110, 111, 1_600_000_000_000, ""));
    writer.add(StreamId(9), 43, KIND_DATA, record(111, 115, 1_500_000_000_000, "nine-111"));
    writer.finish()
}

fn joined(chunks: &[Bytes]) -> Bytes {
    Bytes::from(chunks.concat())
}

/// Every record of an object, by the index and the blocks alone.
fn read_all(object: &Bytes) -> Result<Vec<(StreamId, u64, u8, StreamRecord)>, Error> {
    let index = ObjectIndex::decode_object(object)?;
    let mut all = Vec::new();
    for entry in index.blocks() {
        let bytes = object.slice(entry.position as usize..entry.position_end() as usize);
        let block = Block::decode(entry, bytes)?;
        for number in 0..block.len() {
            all.push((entry.stream, entry.stream_epoch, entry.kind, block.record(number)));
        }
    }
    Ok(all)
}

#[test]
fn golden_object_is_written_and_read() {
    let golden: Vec<u8> = include_str!("golden/object-v1.hex")
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(str::split_whitespace)
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    let written = joined(&sample().chunks);
    let hex: Vec<String> = written.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(written, golden, "written: {}", hex.join(" "));
    let expected = vec![
        (StreamId(2), 5, KIND_DATA, record(0, 1, -1, "two-0")),
        (StreamId(9), 42, KIND_DATA, record(100, 103, 1_700_000_000_000, "nine-100")),
        (StreamId(9), 42, KIND_DATA, record(110, 111, 1_600_000_000_000, "")),
        (StreamId(9), 43, KIND_DATA, record(111, 115, 1_500_000_000_000, "nine-111")),
    ];
    assert_eq!(read_all(&Bytes::from(golden)), Ok(expected));
}

#[test]
fn parts_and_size_describe_the_object() {
    let encoded = sample();
    assert_eq!(encoded.size_bytes, joined(&encoded.chunks).len() as u64);
    assert_eq!(
        encoded.parts,
        [
            StreamPart { stream: StreamId(2), base: 0, end: 1, max_timestamp: -1, bytes: 5 },
            StreamPart {
                stream: StreamId(9),
                base: 100,
                end: 115,
                max_timestamp: 1_700_000_000_000,
                bytes: 16
            },
        ]
    );
    let read = ObjectIndex::decode_object(&joined(&encoded.chunks)).unwrap();
    assert_eq!(read, encoded.index);
    assert_eq!(read.identity(), IDENTITY);
}

#[test]
fn large_bodies_are_shared_not_copied_and_small_ones_become_one_chunk() {
    let mut writer = ObjectWriter::new(IDENTITY, Options::default());
    for base in 0..100 {
        writer.add(StreamId(1), 1, KIND_DATA, record(base, base + 1, 0, "small"));
    }
    assert_eq!(writer.finish().chunks.len(), 3, "header, one block, index");
    let body = Bytes::from(vec![7u8; 10_000]);
    let mut writer = ObjectWriter::new(IDENTITY, Options::default());
    let record = StreamRecord { base: 0, end: 1, max_timestamp: 0, body: body.clone() };
    writer.add(StreamId(1), 1, KIND_DATA, record);
    let encoded = writer.finish();
    assert!(encoded.chunks.iter().any(|chunk| chunk.as_ptr() == body.as_ptr()));
}

#[test]
fn blocks_end_at_the_target_and_records_are_never_split() {
    let mut writer = ObjectWriter::new(IDENTITY, Options { block_bytes: 100 });
    for offset in 0..6 {
        writer.add(StreamId(1), 1, KIND_DATA, record(offset, offset + 1, 0, "0123456789"));
    }
    writer.add(
        StreamId(1),
        1,
        KIND_DATA,
        StreamRecord { base: 6, end: 7, max_timestamp: 0, body: vec![1; 500].into() },
    );
    let encoded = writer.finish();
    let sizes: Vec<_> = encoded.index.blocks().iter().map(|block| (block.count, block.size)).collect();
    assert_eq!(sizes, [(2, 76), (2, 76), (2, 76), (1, 528)]);
}

#[test]
fn seek_finds_blocks_and_records_across_gaps() {
    let mut writer = ObjectWriter::new(IDENTITY, Options { block_bytes: 80 });
    for base in [10, 20, 30, 40] {
        writer.add(StreamId(5), 1, KIND_DATA, record(base, base + 5, base as i64, "0123456789"));
    }
    let encoded = writer.finish();
    let object = joined(&encoded.chunks);
    let index = encoded.index;
    assert_eq!(index.blocks().len(), 2);
    assert_eq!(index.seek(StreamId(5), 0), 0..2);
    assert_eq!(index.seek(StreamId(5), 24), 0..2);
    assert_eq!(index.seek(StreamId(5), 25), 1..2);
    assert_eq!(index.seek(StreamId(5), 45), 2..2);
    assert!(index.seek(StreamId(4), 0).is_empty() && index.seek(StreamId(6), 0).is_empty());
    let entry = index.blocks()[0];
    let block =
        Block::decode(&entry, object.slice(entry.position as usize..entry.position_end() as usize)).unwrap();
    assert_eq!(
        (block.seek(0), block.seek(14), block.seek(15), block.seek(24), block.seek(25)),
        (0, 0, 1, 1, 2)
    );
    assert_eq!((block.seek_base(10), block.seek_base(11), block.seek_base(21)), (0, 1, 2));
    assert_eq!(block.bodies(0..2).len(), 20);
    assert_eq!(block.fitting(0, 2, 19), 0..1);
    assert_eq!(block.fitting(0, 2, 20), 0..2);
    assert_eq!(block.fitting(1, 2, 9), 1..1);
    assert_eq!(block.find_timestamp(0..2, 11), Some(1));
    assert_eq!(block.find_timestamp(0..2, 21), None);
}

#[test]
fn a_short_tail_asks_for_what_it_needs() {
    let object = joined(&sample().chunks);
    let size = object.len() as u64;
    let index_at = size - (FOOTER_BYTES + 3 * ENTRY_BYTES) as u64;
    for tail in 0..object.len() {
        let from = size - tail as u64;
        match ObjectIndex::decode(&object[from as usize..], size).unwrap() {
            Tail::More { from: wanted } if tail < FOOTER_BYTES => {
                assert_eq!(wanted, size - FOOTER_BYTES as u64)
            }
            Tail::More { from: wanted } => {
                assert!(from > index_at);
                assert_eq!(wanted, index_at);
            }
            Tail::Index(index) => {
                assert!(from <= index_at);
                assert_eq!(index, sample().index);
            }
        }
    }
}

#[test]
fn truncation_at_every_byte_is_detected() {
    let object = joined(&sample().chunks);
    for len in 0..object.len() {
        assert!(read_all(&object.slice(..len)).is_err(), "the first {len} bytes passed for an object");
        let size = object.len() as u64;
        // The store returns fewer bytes than the metadata says the object has.
        if let Ok(Tail::Index(_)) = ObjectIndex::decode(&object[..len], size) {
            panic!("a truncated tail of {len} bytes passed for an index");
        }
    }
    let mut longer = object.to_vec();
    longer.push(0);
    assert!(read_all(&longer.into()).is_err());
}

#[test]
fn every_bit_flip_is_detected() {
    let object = joined(&sample().chunks);
    for at in 0..object.len() {
        for bit in 0..8 {
            let mut flipped = object.to_vec();
            flipped[at] ^= 1 << bit;
            assert!(read_all(&flipped.into()).is_err(), "bit {bit} of byte {at} flipped unnoticed");
        }
    }
}

/// Writes `value` at `at` of the index or footer and makes the checksums right again: what a hostile writer does.
fn forged(at_from_end: usize, value: &[u8]) -> Bytes {
    let mut object = joined(&sample().chunks).to_vec();
    let len = object.len();
    object[len - at_from_end..][..value.len()].copy_from_slice(value);
    let index_bytes = 3 * ENTRY_BYTES;
    if at_from_end > FOOTER_BYTES {
        let index = len - FOOTER_BYTES - index_bytes;
        let crc = crc_fast::crc32_iscsi(&object[index..index + index_bytes]);
        object[len - FOOTER_BYTES + 12..][..4].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc_fast::crc32_iscsi(&object[len - FOOTER_BYTES..][..60]);
    object[len - FOOTER_BYTES + 60..][..4].copy_from_slice(&crc.to_le_bytes());
    object.into()
}

#[test]
fn hostile_lengths_are_refused_before_anything_is_allocated() {
    let entry = FOOTER_BYTES + ENTRY_BYTES;
    for (what, bytes) in [
        ("index position", forged(FOOTER_BYTES, &u64::MAX.to_le_bytes())),
        ("index position 0", forged(FOOTER_BYTES, &0u64.to_le_bytes())),
        ("index size", forged(FOOTER_BYTES - 8, &0xffff_ffc0u32.to_le_bytes())),
        ("index size 0", forged(FOOTER_BYTES - 8, &0u32.to_le_bytes())),
        ("index size odd", forged(FOOTER_BYTES - 8, &65u32.to_le_bytes())),
        ("object kind", forged(FOOTER_BYTES - 52, &[9])),
        ("block position", forged(entry - 32, &u64::MAX.to_le_bytes())),
        ("block size", forged(entry - 48, &u32::MAX.to_le_bytes())),
        ("record count", forged(entry - 52, &u32::MAX.to_le_bytes())),
        ("record count 0", forged(entry - 52, &0u32.to_le_bytes())),
        ("record count 2", forged(entry - 52, &2u32.to_le_bytes())),
        ("empty range", forged(entry - 24, &111u64.to_le_bytes())),
        ("overlap", forged(entry - 16, &110u64.to_le_bytes())),
        ("stream order", forged(entry, &8u64.to_le_bytes())),
        ("epoch order", forged(entry - 8, &41u64.to_le_bytes())),
        ("kind 0", forged(entry - 60, &[0])),
        ("end beyond the records", forged(entry - 24, &u64::MAX.to_le_bytes())),
        ("timestamp", forged(entry - 40, &i64::MAX.to_le_bytes())),
    ] {
        assert!(matches!(read_all(&bytes), Err(Error::Corrupt { .. })), "{what}");
    }
    assert!(read_all(&forged(FOOTER_BYTES - 32, &[1])).is_ok(), "the forger gets its checksums right");
    assert_eq!(read_all(&forged(FOOTER_BYTES - 56, &[2, 0])), Err(Error::Version { found: 2 }));
}

#[test]
fn a_forged_record_table_is_refused() {
    let object = joined(&sample().chunks);
    let entry = *ObjectIndex::decode_object(&object).unwrap().blocks().get(1).unwrap();
    let honest = object.slice(entry.position as usize..entry.position_end() as usize);
    let forge = |at: usize, value: &[u8]| {
        let mut bytes = honest.to_vec();
        bytes[at..][..value.len()].copy_from_slice(value);
        let entry = BlockEntry { crc: crc_fast::crc32_iscsi(&bytes), ..entry };
        Block::decode(&entry, bytes.into())
    };
    assert!(forge(0, &[]).is_ok());
    assert!(forge(24, &u32::MAX.to_le_bytes()).is_err(), "a body beyond the block");
    assert!(forge(RECORD_BYTES + 24, &7u32.to_le_bytes()).is_err(), "a body that ends before it begins");
    assert!(forge(RECORD_BYTES + 24, &9u32.to_le_bytes()).is_err(), "bodies beyond the block");
    assert!(forge(RECORD_BYTES, &102u64.to_le_bytes()).is_err(), "records that overlap");
    assert!(forge(8, &100u64.to_le_bytes()).is_err(), "a record without offsets");
    assert!(forge(0, &99u64.to_le_bytes()).is_err(), "a base that is not the index's");
    assert!(forge(16, &0u64.to_le_bytes()).is_err(), "a timestamp that is not the index's");
}

#[test]
fn keys_are_fixed_and_parse_back() {
    let data = ObjectId::Data { owner: OWNER, counter: 7 };
    let slot = ObjectId::Slot { owner: OWNER, slot: 7 };
    assert_eq!(object_key(data).as_ref(), "data/a9/0000000003-00000000000000000042-00000000000000000007");
    assert_eq!(object_key(slot), wal::object::slot_key(OWNER, 7));
    for id in [data, slot, ObjectId::Data { owner: OWNER, counter: u64::MAX }] {
        assert_eq!(parse_object_key(&object_key(id)), Some(id));
    }
    for key in [
        "data/b8/0000000003-00000000000000000042-00000000000000000007",
        "data/a9/3-42-7",
        "data/a9/0000000003-00000000000000000042",
        "data/b8",
        "meta/log/1",
    ] {
        assert_eq!(parse_object_key(&key.into()), None, "{key}");
    }
}

fn wal_record(stream: u64, stream_epoch: u64, base: u64, len: u64, kind: u8, body: Vec<u8>) -> Record {
    let meta = RecordMeta {
        stream: StreamId(stream),
        stream_epoch,
        base,
        end: base + len,
        max_timestamp: base as i64 - 1,
    };
    Record { kind, meta: meta.encode(), body: body.into() }
}

#[test]
fn a_slot_is_an_object_and_a_data_object_is_no_slot() {
    let codec = ObjectSlotCodec::default();
    let id = SlotId { owner: OWNER, slot: 7, nonce: 99 };
    let chunks = codec.encode(&id, &[wal_record(4, 42, 10, 2, KIND_DATA, b"body".to_vec())]);
    let index = ObjectIndex::decode_object(&joined(&chunks)).unwrap();
    assert_eq!(index.identity(), Identity { object: ObjectId::Slot { owner: OWNER, slot: 7 }, nonce: 99 });
    assert_eq!(index.parts()[0].base..index.parts()[0].end, 10..12);
    assert!(matches!(codec.decode(&joined(&sample().chunks)), Err(wal::Error::Corrupt { .. })));
}

prop_compose! {
    /// Appends of a few streams, as a WAL sees them: contiguous per stream with an occasional gap, epochs that grow.
    fn appends()(
        steps in prop::collection::vec((0u64..5, 1u64..4, 0u64..3, 0u64..2, 1u8..3, prop::collection::vec(any::<u8>(), 0..40)), 1..80),
    ) -> Vec<Record> {
        let mut next = [0u64; 5];
        let mut epochs = [1u64; 5];
        steps
            .into_iter()
            .map(|(stream, len, gap, epoch, kind, body)| {
                let at = stream as usize;
                let base = next[at] + gap;
                next[at] = base + len;
                epochs[at] += epoch;
                wal_record(stream, epochs[at], base, len, kind, body)
            })
            .collect()
    }
}

proptest! {
    #[test]
    fn slots_round_trip(records in appends(), block_bytes in 1usize..400, nonce: u128) {
        let codec = ObjectSlotCodec { options: Options { block_bytes } };
        let id = SlotId { owner: OWNER, slot: 1, nonce };
        let (read_id, read) = codec.decode(&joined(&codec.encode(&id, &records))).unwrap();
        prop_assert_eq!(read_id, id);
        let mut expected = records;
        // A stable sort keeps each stream's own order.
        expected.sort_by_key(|record| RecordMeta::decode(&record.meta).unwrap().stream);
        prop_assert_eq!(read, expected);
    }

    /// Piece by piece or as a whole: the same bytes, of which the streaming writer keeps no more than a block.
    #[test]
    fn streaming_gives_the_same_object(records in appends(), block_bytes in 1usize..400) {
        let options = Options { block_bytes };
        let mut whole = ObjectWriter::new(IDENTITY, options.clone());
        let mut pieces = StreamingWriter::new(IDENTITY, options);
        let mut records: Vec<_> = records
            .into_iter()
            .map(|record| (RecordMeta::decode(&record.meta).unwrap(), record.kind, record.body))
            .collect();
        records.sort_by_key(|(meta, ..)| meta.stream);
        let mut taken = Vec::new();
        for (meta, kind, body) in records {
            let record = StreamRecord { base: meta.base, end: meta.end, max_timestamp: meta.max_timestamp, body };
            whole.add(meta.stream, meta.stream_epoch, kind, record.clone());
            pieces.add(meta.stream, meta.stream_epoch, kind, record);
            taken.extend(pieces.take());
        }
        let (whole, mut pieces) = (whole.finish(), pieces.finish());
        taken.append(&mut pieces.chunks);
        prop_assert_eq!(joined(&taken), joined(&whole.chunks));
        prop_assert_eq!(pieces.index, whole.index);
        prop_assert_eq!((pieces.parts, pieces.size_bytes), (whole.parts, whole.size_bytes));
    }

    #[test]
    fn lookups_equal_a_linear_search(records in appends(), block_bytes in 1usize..400, stream in 0u64..6, offset in 0u64..300) {
        let codec = ObjectSlotCodec { options: Options { block_bytes } };
        let object = joined(&codec.encode(&SlotId { owner: OWNER, slot: 1, nonce: 0 }, &records));
        let index = ObjectIndex::decode_object(&object).unwrap();
        let expected = records
            .iter()
            .filter_map(|record| RecordMeta::decode(&record.meta))
            .find(|meta| meta.stream.0 == stream && meta.end > offset);
        let found = index.seek(StreamId(stream), offset).next().map(|number| {
            let entry = &index.blocks()[number];
            let block = Block::decode(entry, object.slice(entry.position as usize..entry.position_end() as usize)).unwrap();
            block.record(block.seek(offset))
        });
        prop_assert_eq!(found.map(|record| (record.base, record.end)), expected.map(|meta| (meta.base, meta.end)));
    }

    #[test]
    fn decoding_noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..600), size: u64) {
        let _ = ObjectIndex::decode(&noise, size);
        let _ = ObjectIndex::decode(&noise, noise.len() as u64);
        let _ = ObjectSlotCodec::default().decode(&noise.into());
    }

    #[test]
    fn forged_indexes_never_panic(at in 1usize..264, value: u64) {
        let at = at.max(8);
        let _ = read_all(&forged(at, &value.to_le_bytes()));
    }
}

#[test]
fn byte_tables_hold() {
    let object = joined(&sample().chunks);
    let footer = &object[object.len() - FOOTER_BYTES..];
    let index_at = u64_at(footer, 0) as usize;
    assert_eq!(u32_at(footer, 8) as usize, 3 * ENTRY_BYTES);
    assert_eq!((u64_at(footer, 16), u64_at(footer, 24), u32_at(footer, 48), footer[52]), (42, 7, 3, 1));
    let entry = &object[index_at + ENTRY_BYTES..][..ENTRY_BYTES];
    assert_eq!((u64_at(entry, 0), u64_at(entry, 8), u64_at(entry, 16), u64_at(entry, 24)), (9, 42, 100, 111));
    assert_eq!(u64_at(entry, 32), 8 + 28 + 5);
    assert_eq!((u32_at(entry, 48), u32_at(entry, 52), entry[60]), (2 * 28 + 8, 2, KIND_DATA));
}
