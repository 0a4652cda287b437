//! The formats of a volume, for `crate::fuzzing`.

/// A frame: its header, and its records.
pub mod frame {
    use bytes::Bytes;
    use uuid::Uuid;

    use super::super::frame::{
        HEADER_BYTES, Header, crc, decode_records, frame_bytes, put, record_bytes, u32_at,
    };
    use crate::fuzzing::Check;
    use crate::{Meta, Record};

    const BLOCK: usize = 512;

    pub fn decode(input: &Bytes) -> Option<Check> {
        let header = Header::decode(input)?;
        let end = HEADER_BYTES.checked_add(header.body_bytes as usize)?;
        if end > input.len() {
            return None;
        }
        let records = decode_records(&header, &input.slice(HEADER_BYTES..end))?;
        let input = input.clone();
        Some(Box::new(move || {
            let body: usize = records.iter().map(record_bytes).sum();
            assert_eq!(body, header.body_bytes as usize);
            let mut again = vec![0; frame_bytes(body, BLOCK)];
            header.encode(&records, BLOCK, &mut again);
            assert_eq!(again[..end], input[..end]);
        }))
    }

    pub fn seal(bytes: &mut [u8]) {
        if bytes.len() < HEADER_BYTES {
            return;
        }
        let end = HEADER_BYTES.saturating_add(u32_at(bytes, 56) as usize);
        let sum = bytes.get(HEADER_BYTES..end).map(crc);
        if let Some(sum) = sum {
            put(bytes, 64, &sum.to_le_bytes());
        }
        let sum = crc(&bytes[..68]);
        put(bytes, 68, &sum.to_le_bytes());
    }

    pub fn seeds() -> Vec<Vec<u8>> {
        let header = Header {
            volume: Uuid::from_u128(1),
            epoch: 3,
            position: 8192,
            previous_end: 4096,
            durable_before: 4096,
            body_bytes: 0,
            records: 0,
            body_crc: 0,
        };
        let record = |meta: &[u8], body: &'static [u8]| Record {
            kind: 1,
            meta: Meta::new(meta),
            body: Bytes::from_static(body),
        };
        [vec![record(&[7; 40], b"hello"), record(&[], b"")], vec![record(&[1], &[9; 600])]]
            .map(|records| {
                let body: usize = records.iter().map(record_bytes).sum();
                let mut bytes = vec![0; frame_bytes(body, BLOCK)];
                header.encode(&records, BLOCK, &mut bytes);
                bytes
            })
            .to_vec()
    }
}

/// The two slots of a superblock, one behind the other.
pub mod superblock {
    use bytes::Bytes;
    use uuid::Uuid;

    use super::super::frame::{crc, put};
    use super::super::superblock::{Pair, SLOT_BYTES, Slot, Superblock};
    use crate::Incarnation;
    use crate::fuzzing::Check;

    /// What of a slot carries something.
    const USED_BYTES: usize = 112;
    const CRC_AT: usize = 108;

    pub fn decode(input: &Bytes) -> Option<Check> {
        let (first, second) = input.split_at(input.len() / 2);
        let slots = [first, second].map(Slot::decode);
        let pair = Pair::of(slots[0], slots[1]);
        let input = input.clone();
        Some(Box::new(move || {
            let (first, second) = input.split_at(input.len() / 2);
            for (slot, bytes) in slots.iter().zip([first, second]) {
                if let Slot::Valid(superblock) = slot {
                    let again = Slot::decode(&superblock.encode());
                    assert_eq!(again, *slot);
                    assert!(bytes.len() >= USED_BYTES);
                }
            }
            if let Pair::Valid(superblock) = pair {
                assert!(slots.contains(&Slot::Valid(superblock)));
                let newer =
                    |slot: &Slot| matches!(slot, Slot::Valid(other) if other.sequence > superblock.sequence);
                assert!(!slots.iter().any(newer), "an older superblock counts");
            }
        }))
    }

    pub fn seal(bytes: &mut [u8]) {
        let half = bytes.len() / 2;
        let (first, second) = bytes.split_at_mut(half);
        for slot in [first, second] {
            if slot.len() >= USED_BYTES {
                let sum = crc(&slot[..CRC_AT]);
                put(slot, CRC_AT, &sum.to_le_bytes());
            }
        }
    }

    pub fn seeds() -> Vec<Vec<u8>> {
        let superblock = |sequence: u64| Superblock {
            block_bytes: 4096,
            cluster: Uuid::from_u128(1),
            volume: Uuid::from_u128(2),
            ring_bytes: 0x1000_0000,
            sequence,
            owner: Some(Incarnation { broker: 7, epoch: 42 }),
            released: false,
            trim: 0x3000,
            durable: 0x8000,
            reach: 0x20_0000,
        };
        let used = |sequence| superblock(sequence).encode()[..USED_BYTES].to_vec();
        let whole = superblock(9).encode().to_vec();
        assert_eq!(whole.len(), SLOT_BYTES);
        vec![
            [used(9), used(10)].concat(),
            [used(9), vec![0; USED_BYTES]].concat(),
            [whole.clone(), whole].concat(),
        ]
    }
}
