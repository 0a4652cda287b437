//! The one object format: uploads of many streams, compacted single-stream objects and the slots of the object WAL are
//! the same bytes, so that recovery can adopt a slot by reference.
//!
//! ```text
//!   0        8                                        index position            size-72      size
//!   ┌────────┬─────────┬─────────┬────────┬─────────┬──────────────────────────┬────────────┐
//!   │ header │ block 0 │ block 1 │   …    │ block n │ index: 64 bytes a block  │   footer   │
//!   └────────┴─────────┴─────────┴────────┴─────────┴──────────────────────────┴────────────┘
//!                 │
//!                 ▼ one stream, one stream epoch, one kind
//!            ┌───────────────────────────┬──────────────────────────────┐
//!            │ table: 28 bytes a record  │ bodies, one after the other  │
//!            └───────────────────────────┴──────────────────────────────┘
//! ```
//!
//! The bodies of a block lie together, so a fetch of many records is one slice. The table comes first, so that a block
//! can be understood while it still arrives. The byte tables are in `docs/formats/object.md` and in `format`.
//!
//! # Invariants
//!
//! - **F1** Every byte but the header's magic is covered by a CRC32C that is checked before the byte is believed: blocks
//!   by their index entries, the index by the footer, the footer by itself. Blocks lie without gaps from the header to
//!   the index, so nothing hides in between.
//! - **F2** Index entries are in order of stream, then offset; blocks of one stream are adjacent and do not overlap.
//!   Offsets may have gaps (compacted topics), inside a block and between blocks. Stream epochs do not decrease.
//! - **F3** A record is never split across blocks, a block never holds two streams, two stream epochs or two kinds.
//! - **F4** An object says who wrote it ([`Identity`]); its nonce tells two attempts to write the same key apart.
//! - **F5** Nothing is allocated from a length that was not compared with the bytes at hand.
//!
//! # How to use it
//!
//! - Write: [`ObjectWriter::new`], [`ObjectWriter::add`] in offset order per stream (streams in any order),
//!   [`ObjectWriter::finish`] gives the rope to PUT, the size and the parts to commit.
//!   One that is too large to be held: [`StreamingWriter`], which wants the streams in ascending order.
//! - Read through the block cache; or by hand: [`ObjectIndex::decode`] of the object's tail, then
//!   [`Block::decode`] of each block's bytes. A whole object in memory (a recovered slot): [`ObjectIndex::decode_object`].
//! - Keys: [`object_key`], [`parse_object_key`].
//! - Object WAL: [`ObjectSlotCodec`].

mod block;
mod codec;
mod format;
mod index;
mod key;
mod streaming;
mod writer;

pub use block::Block;
pub use codec::ObjectSlotCodec;
pub use format::{
    BlockEntry, ENTRY_BYTES, FOOTER_BYTES, HEADER_BYTES, HEADER_MAGIC, INDEX_BYTES_MAX, Identity,
    RECORD_BYTES, VERSION,
};
pub use index::{ObjectIndex, Tail};
pub use key::{object_key, parse_object_key};
pub use streaming::StreamingWriter;
pub use writer::{Encoded, ObjectWriter, Options};

/// Why bytes are not (a part of) an object. By what the caller does about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are not what was written. Fetch them again once; then report the object as corrupt.
    #[error("corrupt object at byte {at}: {detail}")]
    Corrupt { at: u64, detail: String },
    /// Written by a build that is newer than this one. Not damage: run a newer build.
    #[error("object format version {found} is not known to this build (it knows {VERSION})")]
    Version { found: u16 },
}

#[cfg(test)]
mod tests;
