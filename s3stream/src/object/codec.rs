//! The object WAL's slots in the object format.

use bytes::Bytes;
use wal::object::{SlotCodec, SlotId};
use wal::{Error, Record};

use super::{Block, Identity, ObjectIndex, ObjectWriter, Options};
use crate::record::RecordMeta;
use crate::{ObjectId, StreamRecord};

/// Writes WAL batches as objects, so that recovery can adopt a slot by reference. Streams come back in order of their
/// ids, the records of each in the order in which they were appended.
#[derive(Clone, Debug, Default)]
pub struct ObjectSlotCodec {
    pub options: Options,
}

impl SlotCodec for ObjectSlotCodec {
    /// # Panics
    /// If `records` is empty, if a record's meta is not a [`RecordMeta`], or if the records of a stream are not in
    /// offset order: only the storage engine appends, and it appends nothing else.
    fn encode(&self, id: &SlotId, records: &[Record]) -> Vec<Bytes> {
        let object = ObjectId::Slot { owner: id.owner, slot: id.slot };
        let mut writer = ObjectWriter::new(Identity { object, nonce: id.nonce }, self.options.clone());
        for record in records {
            let meta = RecordMeta::decode(&record.meta).expect("a record of a stream has its meta");
            let stream_record = StreamRecord {
                base: meta.base,
                end: meta.end,
                max_timestamp: meta.max_timestamp,
                body: record.body.clone(),
            };
            writer.add(meta.stream, meta.stream_epoch, record.kind, stream_record);
        }
        writer.finish().chunks
    }

    fn decode(&self, bytes: &Bytes) -> Result<(SlotId, Vec<Record>), Error> {
        decode(bytes).map_err(|error| match error {
            super::Error::Corrupt { at, detail } => {
                Error::Corrupt { location: format!("byte {at} of the slot"), detail }
            }
            super::Error::Version { .. } => Error::Refused(format!("the slot cannot be read: {error}")),
        })
    }
}

fn decode(bytes: &Bytes) -> Result<(SlotId, Vec<Record>), super::Error> {
    let index = ObjectIndex::decode_object(bytes)?;
    let Identity { object, nonce } = index.identity();
    let ObjectId::Slot { owner, slot } = object else {
        return Err(super::Error::Corrupt { at: 0, detail: format!("{object:?} is not a slot") });
    };
    let mut records = Vec::new();
    for entry in index.blocks() {
        // The index was checked against the object's size, which is this buffer's.
        let block =
            Block::decode(entry, bytes.slice(entry.position as usize..entry.position_end() as usize))?;
        records.extend((0..block.len()).map(|record| {
            let record = block.record(record);
            let meta = RecordMeta {
                stream: entry.stream,
                stream_epoch: entry.stream_epoch,
                base: record.base,
                end: record.end,
                max_timestamp: record.max_timestamp,
            };
            Record { kind: entry.kind, meta: meta.encode(), body: record.body }
        }));
    }
    Ok((SlotId { owner, slot, nonce }, records))
}
