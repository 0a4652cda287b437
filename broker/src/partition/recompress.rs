//! Batches of a topic whose `compression.type` is not `producer` (behaviour 43): the records are compressed anew, and
//! nothing in them changes.
//!
//! Both sides stream, and the output stops at the topic's largest batch, so memory is bounded by that whatever the bytes
//! claim to hold.

use std::io::{self, Read, Write};

use bytes::BytesMut;
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use super::batch::{self, BatchHeader, Codec, HEADER_BYTES};
use super::codec::decompressed;

/// What a topic wants its batches to be compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub codec: Codec,
    /// `compression.gzip.level`: 1 to 9, or -1 for gzip's own default.
    pub gzip_level: i32,
    /// `compression.zstd.level`.
    pub zstd_level: i32,
}

/// Blocks of the xerial framing, as snappy-java makes them by default.
const SNAPPY_BLOCK_BYTES: usize = 32 << 10;
/// snappy-java's stream header: magic, version 1, oldest version that can read it, 1.
const XERIAL_HEADER: &[u8; 16] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

/// The batch `bytes`, whole and checked, in `target`'s codec. `None` if it came out larger than `batch_bytes_max`.
///
/// # Errors
/// If the records do not decompress; a batch that was walked before does.
pub fn recompress(
    bytes: &BytesMut,
    header: &BatchHeader,
    from: Codec,
    target: Target,
    batch_bytes_max: usize,
) -> io::Result<Option<BytesMut>> {
    let mut out = Bounded { bytes: bytes[..HEADER_BYTES].to_vec(), max: batch_bytes_max, full: false };
    let payload = &bytes[HEADER_BYTES..header.size];
    // How much there is was checked when it was walked.
    let written = decompressed(from, payload, u64::MAX, |records| compress(records, target, &mut out))?;
    if out.full {
        return Ok(None);
    }
    written?;
    let mut out = BytesMut::from(&out.bytes[..]);
    batch::set_codec(&mut out, target.codec);
    Ok(Some(out))
}

fn compress(records: &mut dyn Read, target: Target, out: &mut Bounded) -> io::Result<()> {
    match target.codec {
        Codec::None => io::copy(records, out).map(drop),
        Codec::Gzip => {
            let level = u32::try_from(target.gzip_level)
                .map_or(flate2::Compression::default(), flate2::Compression::new);
            let mut encoder = flate2::write::GzEncoder::new(out, level);
            io::copy(records, &mut encoder)?;
            encoder.finish().map(drop)
        }
        Codec::Lz4 => {
            // What Kafka's reader accepts: independent blocks, no sizes or checksums that it does not know.
            let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
            let mut encoder = FrameEncoder::with_frame_info(info, out);
            io::copy(records, &mut encoder)?;
            encoder.finish().map(drop).map_err(io::Error::other)
        }
        Codec::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(out, target.zstd_level)?;
            io::copy(records, &mut encoder)?;
            encoder.finish().map(drop)
        }
        Codec::Snappy => snappy(records, out),
    }
}

fn snappy(records: &mut dyn Read, out: &mut Bounded) -> io::Result<()> {
    out.write_all(XERIAL_HEADER)?;
    let mut encoder = snap::raw::Encoder::new();
    let mut block = Vec::with_capacity(SNAPPY_BLOCK_BYTES);
    loop {
        block.clear();
        records.take(SNAPPY_BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(());
        }
        let compressed = encoder.compress_vec(&block).map_err(io::Error::other)?;
        out.write_all(&(compressed.len() as u32).to_be_bytes())?;
        out.write_all(&compressed)?;
    }
}

/// Takes bytes up to a bound, and says when there were more.
struct Bounded {
    bytes: Vec<u8>,
    max: usize,
    full: bool,
}

impl Write for Bounded {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + from.len() > self.max {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(from);
        Ok(from.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::records;
    use crate::partition::testing;

    const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    fn target(codec: Codec) -> Target {
        Target { codec, gzip_level: -1, zstd_level: 3 }
    }

    fn records_of(bytes: &[u8], codec: Codec) -> Vec<u8> {
        decompressed(codec, &bytes[HEADER_BYTES..], u64::MAX, |from| {
            let mut out = Vec::new();
            from.read_to_end(&mut out).map(|_| out)
        })
        .unwrap()
        .unwrap()
    }

    #[test]
    fn behaviour_43_every_codec_becomes_every_other_with_the_same_records() {
        for from in CODECS {
            let bytes = testing::batch(500, |spec| spec.codec = from);
            let before = BatchHeader::parse(&bytes).unwrap();
            for to in CODECS {
                let out = recompress(&bytes, &before, from, target(to), 1 << 20).unwrap().expect("it fits");
                let after = BatchHeader::parse(&out).unwrap();
                assert_eq!(after.codec(), Some(to));
                assert_eq!(after.size, out.len());
                assert_eq!(after.crc, batch::checksum(&out), "{from:?} to {to:?}");
                let same = BatchHeader {
                    size: before.size,
                    crc: before.crc,
                    attributes: before.attributes,
                    ..after
                };
                assert_eq!(same, before, "nothing else changes");
                assert_eq!(records_of(&out, to), records_of(&bytes, from), "{from:?} to {to:?}");
                let mut count = 0;
                records::walk(&after, &out, 1 << 20, |_| {
                    count += 1;
                    true
                })
                .unwrap();
                assert_eq!(count, 500);
            }
        }
    }

    #[test]
    fn behaviour_43_a_batch_that_grows_beyond_the_bound_is_stopped_there() {
        let bytes = testing::batch(5_000, |spec| spec.codec = Codec::Zstd);
        let header = BatchHeader::parse(&bytes).unwrap();
        assert!(recompress(&bytes, &header, Codec::Zstd, target(Codec::None), 10_000).unwrap().is_none());
    }
}
