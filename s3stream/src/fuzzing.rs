//! What fuzzers call: the decoders of objects, of their keys and of WAL records' metas. `wal::fuzzing` says what each has.

pub use wal::fuzzing::Check;

/// A whole object: footer, index, blocks; and, if it is one, the slot of an object WAL.
pub mod object {
    use bytes::Bytes;
    use wal::Incarnation;
    use wal::object::SlotCodec;

    use super::Check;
    use crate::object::{
        Block, ENTRY_BYTES, FOOTER_BYTES, HEADER_BYTES, Identity, ObjectIndex, ObjectSlotCodec, ObjectWriter,
        Options,
    };
    use crate::{ObjectId, StreamId, StreamRecord};

    pub fn decode(input: &Bytes) -> Option<Check> {
        let slot = ObjectSlotCodec::default().decode(input).ok();
        let index = ObjectIndex::decode_object(input).ok()?;
        let mut blocks = Vec::with_capacity(index.blocks().len());
        for entry in index.blocks() {
            let bytes = input.slice(entry.position as usize..entry.position_end() as usize);
            blocks.push(Block::decode(entry, bytes).ok()?);
        }
        let input = input.clone();
        Some(Box::new(move || {
            for block in &blocks {
                let records = (0..block.len()).map(|record| block.record(record).body.len()).sum::<usize>();
                assert_eq!(records as u64, block.entry().body_bytes());
                for offset in [block.entry().base, block.entry().end - 1] {
                    let record = block.seek(offset);
                    assert!(record < block.len() && block.offsets(record).end > offset);
                }
            }
            let parts: u64 = index.parts().iter().map(|part| part.bytes).sum();
            assert_eq!(parts, index.blocks().iter().map(|entry| entry.body_bytes()).sum::<u64>());
            if let Some((id, records)) = slot {
                let again = Bytes::from(ObjectSlotCodec::default().encode(&id, &records).concat());
                let (same, twice) = ObjectSlotCodec::default().decode(&again).expect("what was just written");
                assert_eq!((same, twice), (id, records));
            }
            let size = input.len() as u64;
            for tail in [0, FOOTER_BYTES, FOOTER_BYTES + ENTRY_BYTES, input.len() - HEADER_BYTES] {
                let tail = &input[input.len() - tail.min(input.len())..];
                ObjectIndex::decode(tail, size).expect("any tail of a whole object is good, or too short");
            }
        }))
    }

    /// Footer, index and blocks get the checksums that they should have.
    pub fn seal(bytes: &mut [u8]) {
        let crc = |bytes: &[u8]| crc_fast::crc32_iscsi(bytes).to_le_bytes();
        let Some(footer_at) = bytes.len().checked_sub(FOOTER_BYTES) else { return };
        let word = |bytes: &[u8], at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("within"));
        let half = |bytes: &[u8], at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("within"));
        let index_bytes = half(bytes, footer_at + 8) as usize;
        if let Some(index_at) = footer_at.checked_sub(index_bytes) {
            for entry_at in
                (index_at..footer_at).step_by(ENTRY_BYTES).filter(|at| at + ENTRY_BYTES <= footer_at)
            {
                let position = word(bytes, entry_at + 32) as usize;
                let end = position.saturating_add(half(bytes, entry_at + 48) as usize);
                if let Some(sum) = bytes.get(position..end).map(crc) {
                    bytes[entry_at + 56..entry_at + 60].copy_from_slice(&sum);
                }
            }
            let sum = crc(&bytes[index_at..footer_at]);
            bytes[footer_at + 12..footer_at + 16].copy_from_slice(&sum);
        }
        let sum = crc(&bytes[footer_at..footer_at + 60]);
        bytes[footer_at + 60..footer_at + 64].copy_from_slice(&sum);
    }

    pub fn seeds() -> Vec<Vec<u8>> {
        let owner = Incarnation { broker: 1, epoch: 2 };
        let object = |object: ObjectId, streams: u64, records: u64, block_bytes: usize| {
            let mut writer = ObjectWriter::new(Identity { object, nonce: 7 }, Options { block_bytes });
            for stream in 0..streams {
                for record in 0..records {
                    let body = Bytes::from(vec![record as u8; 10 + record as usize]);
                    let (base, end) = (record * 10, record * 10 + 5);
                    let record = StreamRecord { base, end, max_timestamp: record as i64, body };
                    writer.add(StreamId(stream), 1, 1, record);
                }
            }
            writer.finish().chunks.concat()
        };
        vec![
            object(ObjectId::Data { owner, counter: 3 }, 1, 1, 512 << 10),
            object(ObjectId::Data { owner, counter: 4 }, 2, 4, 60),
            object(ObjectId::Slot { owner, slot: 5 }, 2, 3, 512 << 10),
        ]
    }
}

/// Keys of objects.
pub mod object_key {
    use bytes::Bytes;
    use object_store::path::Path;
    use wal::Incarnation;

    use super::Check;
    use crate::ObjectId;
    use crate::object::{object_key, parse_object_key};

    pub fn decode(input: &Bytes) -> Option<Check> {
        let key = Path::parse(std::str::from_utf8(input).ok()?).ok()?;
        let id = parse_object_key(&key)?;
        Some(Box::new(move || assert_eq!(object_key(id), key)))
    }

    pub fn seal(_: &mut [u8]) {}

    pub fn seeds() -> Vec<Vec<u8>> {
        let owner = Incarnation { broker: 3, epoch: 42 };
        [ObjectId::Data { owner, counter: 7 }, ObjectId::Slot { owner, slot: 7 }]
            .map(|id| object_key(id).as_ref().as_bytes().to_vec())
            .to_vec()
    }
}

/// What a WAL record says of itself.
pub mod record_meta {
    use bytes::Bytes;
    use wal::Meta;

    use super::Check;
    use crate::StreamId;
    use crate::record::RecordMeta;

    pub fn decode(input: &Bytes) -> Option<Check> {
        let meta = Meta::decode(input)?;
        let decoded = RecordMeta::decode(&meta)?;
        Some(Box::new(move || assert_eq!(decoded.encode(), meta)))
    }

    pub fn seal(_: &mut [u8]) {}

    pub fn seeds() -> Vec<Vec<u8>> {
        let meta = RecordMeta { stream: StreamId(7), stream_epoch: 3, base: 5, end: 9, max_timestamp: -1 };
        vec![meta.encode().as_slice().to_vec()]
    }
}
