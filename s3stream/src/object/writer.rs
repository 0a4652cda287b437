//! Turns records into an object's bytes. Large bodies are not copied; small ones are, since a store takes one large chunk
//! for far less than the hundreds it is made of (a system call each, where it is a directory).

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use object_store::PutPayload;

use super::format::{ENTRY_BYTES, FOOTER_BYTES, Footer, HEADER_BYTES, HEADER_MAGIC, RECORD_BYTES};
use super::{BlockEntry, Identity, ObjectIndex};
use crate::metadata::{NewObject, StreamPart};
use crate::{StreamId, StreamRecord};

/// Blocks whose bodies are smaller than this on average become one chunk. What that takes in memory is bounded by what is
/// written at the same time; copying it costs about 0.1 s of processor time for a GiB.
const SMALL_BODY_BYTES: usize = 8 << 10;

/// How objects are laid out.
#[derive(Clone, Debug)]
pub struct Options {
    /// A block is ended before the record that would make it larger than this, in bytes, table included. One record
    /// that is larger has a block of its own. Default 512 KiB.
    pub block_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { block_bytes: 512 << 10 }
    }
}

/// Collects the records of an object.
#[derive(Debug)]
pub struct ObjectWriter {
    identity: Identity,
    options: Options,
    streams: BTreeMap<StreamId, Vec<PendingBlock>>,
    blocks: usize,
    records: usize,
    block_bytes: u64,
}

/// A block that is being filled.
#[derive(Debug)]
pub(super) struct PendingBlock {
    pub kind: u8,
    pub stream_epoch: u64,
    pub records: Vec<StreamRecord>,
    /// Table and bodies.
    pub bytes: usize,
}

/// A finished object.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The object's bytes, sharing the records' bodies unless they are small.
    pub chunks: Vec<Bytes>,
    pub size_bytes: u64,
    pub index: ObjectIndex,
    /// What it holds of each stream, in order of stream: for the commit.
    pub parts: Vec<StreamPart>,
}

impl Encoded {
    /// For a PUT; copies no bytes.
    pub fn payload(&self) -> PutPayload {
        self.chunks.iter().cloned().collect()
    }

    /// For [`StreamMetadata::commit`](crate::StreamMetadata::commit).
    pub fn new_object(&self) -> NewObject {
        NewObject { id: self.index.identity().object, size_bytes: self.size_bytes, parts: self.parts.clone() }
    }
}

impl ObjectWriter {
    pub fn new(identity: Identity, options: Options) -> ObjectWriter {
        ObjectWriter { identity, options, streams: BTreeMap::new(), blocks: 0, records: 0, block_bytes: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The object's size as it would be if it were finished now.
    pub fn size_bytes(&self) -> u64 {
        (HEADER_BYTES + self.blocks * ENTRY_BYTES + FOOTER_BYTES) as u64 + self.block_bytes
    }

    /// Adds a record. Streams in any order; the records of one stream in offset order, gaps allowed.
    ///
    /// # Panics
    /// If the record covers no offsets, overlaps or precedes the stream's last one, goes back to an earlier stream
    /// epoch, is of kind 0, or is of 4 GiB or more.
    pub fn add(&mut self, stream: StreamId, stream_epoch: u64, kind: u8, record: StreamRecord) {
        assert!(record.base < record.end, "a record covers no offsets: {}..{}", record.base, record.end);
        assert!(kind != 0, "a record's kind is never 0");
        let bytes = RECORD_BYTES + record.body.len();
        assert!(u32::try_from(bytes).is_ok(), "a record of {bytes} bytes does not fit a block");
        let blocks = self.streams.entry(stream).or_default();
        let limit = self.options.block_bytes.min(u32::MAX as usize);
        let open = blocks.last().is_some_and(|block| {
            let last = block.records.last().expect("a block holds a record");
            assert!(
                last.end <= record.base && block.stream_epoch <= stream_epoch,
                "stream {}: {}..{} in epoch {stream_epoch} after {}..{} in epoch {}",
                stream.0,
                record.base,
                record.end,
                last.base,
                last.end,
                block.stream_epoch,
            );
            block.kind == kind && block.stream_epoch == stream_epoch && block.bytes + bytes <= limit
        });
        if !open {
            blocks.push(PendingBlock { kind, stream_epoch, records: Vec::new(), bytes: 0 });
            self.blocks += 1;
        }
        let block = blocks.last_mut().expect("pushed if there was none");
        block.bytes += bytes;
        block.records.push(record);
        self.records += 1;
        self.block_bytes += bytes as u64;
    }

    /// # Panics
    /// If nothing was added: there is no empty object.
    pub fn finish(self) -> Encoded {
        let mut encoding = self.encoding();
        while encoding.next_block() {}
        encoding.end()
    }

    /// The same block by block, for a task that is not alone: the checksums of a large object take milliseconds.
    ///
    /// # Panics
    /// If nothing was added.
    pub fn encoding(self) -> Encoding {
        assert!(!self.is_empty(), "an object holds at least one record");
        let size_bytes = self.size_bytes();
        let of_stream = |(stream, blocks): (StreamId, Vec<PendingBlock>)| {
            blocks.into_iter().map(move |block| (stream, block))
        };
        Encoding {
            identity: self.identity,
            size_bytes,
            entries: Vec::with_capacity(self.blocks),
            blocks: self.streams.into_iter().flat_map(of_stream).collect::<Vec<_>>().into_iter(),
            chunks: vec![Bytes::from_static(&HEADER_MAGIC)],
            position: HEADER_BYTES as u64,
        }
    }
}

/// An object whose blocks are being encoded.
#[derive(Debug)]
pub struct Encoding {
    identity: Identity,
    size_bytes: u64,
    blocks: std::vec::IntoIter<(StreamId, PendingBlock)>,
    entries: Vec<BlockEntry>,
    chunks: Vec<Bytes>,
    position: u64,
}

impl Encoding {
    /// Encodes one block; `false` if there was none left.
    pub fn next_block(&mut self) -> bool {
        let Some((stream, block)) = self.blocks.next() else { return false };
        let entry = block.encode(stream, self.position, &mut self.chunks);
        self.position = entry.position_end();
        self.entries.push(entry);
        true
    }

    /// # Panics
    /// If there are blocks left.
    pub fn end(mut self) -> Encoded {
        assert!(self.blocks.next().is_none(), "an object holds all of its blocks");
        self.chunks.push(encode_end(self.identity, &self.entries));
        assert_eq!(
            self.size_bytes,
            self.chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>(),
            "an object's size"
        );
        let index = ObjectIndex::written(self.identity, self.size_bytes, self.entries);
        let parts = index.parts();
        Encoded { chunks: self.chunks, size_bytes: self.size_bytes, index, parts }
    }
}

/// Index and footer behind `entries`' blocks, of which there is at least one.
pub(super) fn encode_end(identity: Identity, entries: &[BlockEntry]) -> Bytes {
    let mut end = BytesMut::with_capacity(entries.len() * ENTRY_BYTES + FOOTER_BYTES);
    for entry in entries {
        entry.encode(&mut end);
    }
    let footer = Footer {
        index_position: entries.last().expect("an object has a block").position_end(),
        index_bytes: u32::try_from(end.len()).expect("an index is far below 4 GiB"),
        index_crc: crc_fast::crc32_iscsi(&end),
        identity,
    };
    assert!(footer.index_bytes <= super::INDEX_BYTES_MAX, "{} blocks are too many", entries.len());
    footer.encode(&mut end);
    end.freeze()
}

impl PendingBlock {
    pub fn encode(self, stream: StreamId, position: u64, chunks: &mut Vec<Bytes>) -> BlockEntry {
        let table_bytes = self.records.len() * RECORD_BYTES;
        let gathered = self.bytes - table_bytes < self.records.len() * SMALL_BODY_BYTES;
        let mut bytes = BytesMut::with_capacity(if gathered { self.bytes } else { table_bytes });
        let mut body_end = 0;
        let mut max_timestamp = i64::MIN;
        for record in &self.records {
            body_end += record.body.len();
            max_timestamp = record.max_timestamp.max(max_timestamp);
            bytes.put_u64_le(record.base);
            bytes.put_u64_le(record.end);
            bytes.put_i64_le(record.max_timestamp);
            bytes.put_u32_le(u32::try_from(body_end).expect("add bounds a block"));
        }
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        if gathered {
            self.records.iter().for_each(|record| bytes.put_slice(&record.body));
            digest.update(&bytes);
        } else {
            digest.update(&bytes);
            self.records.iter().for_each(|record| digest.update(&record.body));
        }
        let entry = BlockEntry {
            stream,
            stream_epoch: self.stream_epoch,
            base: self.records.first().expect("a block holds a record").base,
            end: self.records.last().expect("a block holds a record").end,
            position,
            max_timestamp,
            size: u32::try_from(self.bytes).expect("add bounds a block"),
            count: u32::try_from(self.records.len()).expect("fewer records than bytes"),
            crc: digest.finalize() as u32,
            kind: self.kind,
        };
        chunks.push(bytes.freeze());
        if !gathered {
            chunks.extend(self.records.into_iter().map(|record| record.body).filter(|body| !body.is_empty()));
        }
        entry
    }
}
