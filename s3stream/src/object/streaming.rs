//! An object, encoded piece by piece: for those that are too large to be held as a whole.

use bytes::Bytes;

use super::format::{FOOTER_BYTES, HEADER_BYTES, HEADER_MAGIC};
use super::writer::{PendingBlock, encode_end};
use super::{BlockEntry, ENTRY_BYTES, Encoded, Identity, ObjectIndex, Options, RECORD_BYTES};
use crate::{StreamId, StreamRecord};

/// Takes records in their final order and gives up bytes as soon as they are known. It holds one block, and the index.
#[derive(Debug)]
pub struct StreamingWriter {
    identity: Identity,
    options: Options,
    open: Option<(StreamId, PendingBlock)>,
    entries: Vec<BlockEntry>,
    /// Where the next block begins.
    position: u64,
    ready: Vec<Bytes>,
}

impl StreamingWriter {
    pub fn new(identity: Identity, options: Options) -> StreamingWriter {
        StreamingWriter {
            identity,
            options,
            open: None,
            entries: Vec::new(),
            position: HEADER_BYTES as u64,
            ready: vec![Bytes::from_static(&HEADER_MAGIC)],
        }
    }

    /// Adds a record; shares its body, unless it is small.
    ///
    /// # Panics
    /// If streams do not ascend, and as [`ObjectWriter::add`](super::ObjectWriter::add).
    pub fn add(&mut self, stream: StreamId, stream_epoch: u64, kind: u8, record: StreamRecord) {
        assert!(record.base < record.end, "a record covers no offsets: {}..{}", record.base, record.end);
        assert!(kind != 0, "a record's kind is never 0");
        let bytes = RECORD_BYTES + record.body.len();
        assert!(u32::try_from(bytes).is_ok(), "a record of {bytes} bytes does not fit a block");
        let limit = self.options.block_bytes.min(u32::MAX as usize);
        let fits = self.open.as_ref().is_some_and(|(open, block)| {
            *open == stream
                && block.kind == kind
                && block.stream_epoch == stream_epoch
                && block.bytes + bytes <= limit
        });
        if !fits {
            self.close_block();
            let block = PendingBlock { kind, stream_epoch, records: Vec::new(), bytes: 0 };
            self.open = Some((stream, block));
        }
        let (_, block) = self.open.as_mut().expect("opened if there was none");
        let last = block.records.last().map(|last| last.end);
        assert!(last.is_none_or(|last| last <= record.base), "records of a stream in offset order");
        block.bytes += bytes;
        block.records.push(record);
    }

    fn close_block(&mut self) {
        let Some((stream, block)) = self.open.take() else { return };
        let entry = block.encode(stream, self.position, &mut self.ready);
        self.position = entry.position_end();
        self.entries.push(entry);
    }

    /// The object's bytes that are finished and were not taken yet. Together with what
    /// [`finish`](StreamingWriter::finish) gives they are the object, in order.
    pub fn take(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.ready)
    }

    /// The rest of the bytes, and what the whole object is.
    ///
    /// # Panics
    /// If nothing was added, or the order of blocks is wrong (F2).
    pub fn finish(mut self) -> Encoded {
        self.close_block();
        assert!(!self.entries.is_empty(), "an object holds at least one record");
        self.ready.push(encode_end(self.identity, &self.entries));
        let size_bytes = self.position + (self.entries.len() * ENTRY_BYTES + FOOTER_BYTES) as u64;
        let index = ObjectIndex::written(self.identity, size_bytes, self.entries);
        let parts = index.parts();
        Encoded { chunks: self.ready, size_bytes, index, parts }
    }
}
