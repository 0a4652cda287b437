//! A slot format for these tests: the records one after the other, each with its lengths, and a CRC over all.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use wal::object::{SlotCodec, SlotId};
use wal::{Error, Incarnation, Meta, Record};

#[derive(Debug)]
pub struct PlainCodec;

const MAGIC: &[u8; 8] = b"TESTSLOT";
const HEADER: usize = 8 + 4 + 8 + 8 + 16;

impl SlotCodec for PlainCodec {
    fn encode(&self, id: &SlotId, records: &[Record]) -> Vec<Bytes> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(id.owner.broker.to_le_bytes());
        bytes.extend(id.owner.epoch.to_le_bytes());
        bytes.extend(id.slot.to_le_bytes());
        bytes.extend(id.nonce.to_le_bytes());
        for record in records {
            bytes.extend([record.kind, record.meta.len() as u8]);
            bytes.extend((record.body.len() as u32).to_le_bytes());
            bytes.extend(record.meta.as_slice());
            bytes.extend(&record.body);
        }
        let crc = checksum(CrcAlgorithm::Crc32Iscsi, &bytes) as u32;
        // Two chunks, so that comparing with a rope is put to the test.
        vec![Bytes::from(bytes), Bytes::copy_from_slice(&crc.to_le_bytes())]
    }

    fn decode(&self, bytes: &Bytes) -> Result<(SlotId, Vec<Record>), Error> {
        decode(bytes)
            .ok_or_else(|| Error::Corrupt { location: "slot".into(), detail: "not a whole slot".into() })
    }
}

fn decode(bytes: &Bytes) -> Option<(SlotId, Vec<Record>)> {
    let (body, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    if crc != (checksum(CrcAlgorithm::Crc32Iscsi, body) as u32).to_le_bytes() || body.len() < HEADER {
        return None;
    }
    let rest = body.strip_prefix(MAGIC)?;
    let id = SlotId {
        owner: Incarnation {
            broker: u32::from_le_bytes(rest[..4].try_into().ok()?),
            epoch: u64::from_le_bytes(rest[4..12].try_into().ok()?),
        },
        slot: u64::from_le_bytes(rest[12..20].try_into().ok()?),
        nonce: u128::from_le_bytes(rest[20..36].try_into().ok()?),
    };
    let mut records = Vec::new();
    let mut at = HEADER;
    while at < body.len() {
        let (kind, meta) = (body[at], body[at + 1] as usize);
        let length = u32::from_le_bytes(body[at + 2..at + 6].try_into().ok()?) as usize;
        at += 6;
        let meta_bytes = Meta::decode(&body[at..at + meta])?;
        at += meta;
        records.push(Record { kind, meta: meta_bytes, body: bytes.slice(at..at + length) });
        at += length;
    }
    Some((id, records))
}
