//! The index: which block holds which offsets of which stream.

use std::ops::Range;

use bytes::Bytes;

use super::format::{ENTRY_BYTES, FOOTER_BYTES, Footer, HEADER_BYTES, HEADER_MAGIC};
use super::{BlockEntry, Error, Identity};
use crate::StreamId;
use crate::metadata::StreamPart;

/// A decoded and checked index (F1, F2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectIndex {
    identity: Identity,
    object_size: u64,
    blocks: Box<[BlockEntry]>,
}

/// What the end of an object gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    Index(ObjectIndex),
    /// The tail was too short: the index begins at `from`. Fetch the bytes from there to the object's end.
    More {
        from: u64,
    },
}

impl ObjectIndex {
    /// Reads the index from the last `tail.len()` bytes of an object of `object_size` bytes.
    pub fn decode(tail: &[u8], object_size: u64) -> Result<Tail, Error> {
        let corrupt = |at: u64, detail: String| Err(Error::Corrupt { at, detail });
        if object_size < (HEADER_BYTES + ENTRY_BYTES + FOOTER_BYTES) as u64 || tail.len() as u64 > object_size
        {
            return corrupt(0, format!("{object_size} bytes are too few for an object"));
        }
        let Some((rest, footer)) = tail.split_last_chunk::<FOOTER_BYTES>() else {
            return Ok(Tail::More { from: object_size - FOOTER_BYTES as u64 });
        };
        let footer = Footer::decode(footer, object_size)?;
        let index_bytes = footer.index_bytes as usize;
        if rest.len() < index_bytes {
            return Ok(Tail::More { from: footer.index_position });
        }
        let bytes = &rest[rest.len() - index_bytes..];
        if crc_fast::crc32_iscsi(bytes) != footer.index_crc {
            return corrupt(footer.index_position, "the index's checksum does not match".to_owned());
        }
        let mut blocks: Vec<BlockEntry> = Vec::with_capacity(index_bytes / ENTRY_BYTES);
        let mut position = HEADER_BYTES as u64;
        for bytes in bytes.as_chunks::<ENTRY_BYTES>().0 {
            let at = footer.index_position + (blocks.len() * ENTRY_BYTES) as u64;
            let checked = BlockEntry::decode(bytes).and_then(|entry| {
                follows(blocks.last(), &entry)?;
                if entry.position != position {
                    return Err("a block does not begin where the one before it ends");
                }
                Ok(entry)
            });
            match checked {
                Ok(entry) => {
                    // Neither can overflow: both are at most the object's size, or the check below fails first.
                    position = position.saturating_add(u64::from(entry.size));
                    blocks.push(entry);
                }
                Err(detail) => return corrupt(at, detail.to_owned()),
            }
        }
        if position != footer.index_position {
            return corrupt(position, "the blocks do not end where the index begins".to_owned());
        }
        Ok(Tail::Index(ObjectIndex { identity: footer.identity, object_size, blocks: blocks.into() }))
    }

    /// Reads the index of an object that is in memory as a whole, and checks its header too.
    pub fn decode_object(object: &Bytes) -> Result<ObjectIndex, Error> {
        if !object.starts_with(&HEADER_MAGIC) {
            return Err(Error::Corrupt { at: 0, detail: "the header's magic is missing".to_owned() });
        }
        match ObjectIndex::decode(object, object.len() as u64)? {
            Tail::Index(index) => Ok(index),
            Tail::More { from } => Err(Error::Corrupt {
                at: from,
                detail: "the object is shorter than its index says".to_owned(),
            }),
        }
    }

    pub(super) fn written(identity: Identity, object_size: u64, blocks: Vec<BlockEntry>) -> ObjectIndex {
        for pair in blocks.windows(2) {
            follows(Some(&pair[0]), &pair[1]).expect("a writer orders its blocks (F2)");
        }
        ObjectIndex { identity, object_size, blocks: blocks.into() }
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    pub fn object_size(&self) -> u64 {
        self.object_size
    }

    /// All blocks, in order of stream, then offset.
    pub fn blocks(&self) -> &[BlockEntry] {
        &self.blocks
    }

    /// The numbers of `stream`'s blocks, which are adjacent; empty if the object holds nothing of it.
    pub fn blocks_of(&self, stream: StreamId) -> Range<usize> {
        let first = self.blocks.partition_point(|block| block.stream < stream);
        let len = self.blocks[first..].partition_point(|block| block.stream == stream);
        first..first + len
    }

    /// The numbers of `stream`'s blocks from the first that ends beyond `offset` on. Whether that block also begins at
    /// or below `offset` depends on gaps.
    pub fn seek(&self, stream: StreamId, offset: u64) -> Range<usize> {
        let all = self.blocks_of(stream);
        let skipped = self.blocks[all.clone()].partition_point(|block| block.end <= offset);
        all.start + skipped..all.end
    }

    /// What the object holds of each stream, in order of stream.
    pub fn parts(&self) -> Vec<StreamPart> {
        let mut parts: Vec<StreamPart> = Vec::new();
        for block in &self.blocks {
            match parts.last_mut() {
                Some(part) if part.stream == block.stream => {
                    part.end = block.end;
                    part.max_timestamp = part.max_timestamp.max(block.max_timestamp);
                    part.bytes += block.body_bytes();
                }
                _ => parts.push(StreamPart {
                    stream: block.stream,
                    base: block.base,
                    end: block.end,
                    max_timestamp: block.max_timestamp,
                    bytes: block.body_bytes(),
                }),
            }
        }
        parts
    }

    /// Bytes of memory that this takes, for a cache's budget.
    pub fn memory_bytes(&self) -> usize {
        size_of::<ObjectIndex>() + size_of_val(&*self.blocks)
    }
}

/// F2, for two neighbours.
fn follows(before: Option<&BlockEntry>, entry: &BlockEntry) -> Result<(), &'static str> {
    let Some(before) = before else { return Ok(()) };
    if before.stream > entry.stream {
        return Err("blocks are not in order of stream");
    }
    if before.stream == entry.stream {
        if before.end > entry.base {
            return Err("blocks of a stream overlap or are out of order");
        }
        if before.stream_epoch > entry.stream_epoch {
            return Err("a stream's epochs decrease");
        }
    }
    Ok(())
}
