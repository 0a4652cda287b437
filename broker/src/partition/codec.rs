//! Readers of compressed records. They stream: memory stays small whatever the bytes claim to hold.
//!
//! Gzip, LZ4 and zstd decoders keep a window. Snappy has none, so a block is decompressed whole; no valid block expands
//! more than `SNAPPY_EXPANSION_MAX` times, and one that claims to, or to go beyond the caller's limit, is refused before
//! anything is allocated.

use std::io::{self, BufRead, BufReader, Chain, Read};

use bytes::Buf;
use lz4_flex::frame::FrameDecoder;

use super::batch::Codec;

/// Three bytes of a copy element produce at most 64.
const SNAPPY_EXPANSION_MAX: usize = 24;

/// snappy-java's stream format, which most clients use: a header, then blocks, each with its length in front.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;

/// What a frame begins with (`KafkaLZ4BlockOutputStream.MAGIC`).
const LZ4_MAGIC: &[u8] = &0x184D_2204_u32.to_le_bytes();

/// Calls `with` with a reader of the decompressed bytes. It is the caller who stops reading at `limit_bytes`; the reader
/// may fail beyond it, with [`io::ErrorKind::FileTooLarge`], rather than hold as much.
pub fn decompressed<T>(
    codec: Codec,
    payload: &[u8],
    limit_bytes: u64,
    with: impl FnOnce(&mut dyn BufRead) -> T,
) -> io::Result<T> {
    Ok(match codec {
        Codec::None => {
            let mut payload = payload;
            with(&mut payload)
        }
        Codec::Gzip => with(&mut BufReader::new(flate2::bufread::MultiGzDecoder::new(payload))),
        // The decoder would take frames of the oldest format, too, and 16 MiB for each; Kafka's clients know this one.
        Codec::Lz4 if payload.len() >= LZ4_MAGIC.len() && !payload.starts_with(LZ4_MAGIC) => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "this is no LZ4 frame"));
        }
        Codec::Lz4 => with(&mut BufReader::new(Lz4::new(payload))),
        Codec::Zstd => with(&mut BufReader::new(zstd::stream::read::Decoder::with_buffer(payload)?)),
        Codec::Snappy => with(&mut BufReader::new(Snappy::new(payload, limit_bytes)?)),
    })
}

/// One LZ4 frame, whole, and nothing behind it.
///
/// The decoder takes a frame that was cut between blocks for a whole one, and what it reports as the end may be an empty block,
/// or the end of one frame of several: who asks again gets more.
struct Lz4<'a> {
    decoder: FrameDecoder<Chain<&'a [u8], &'a [u8]>>,
    ended: bool,
}

/// Put behind the payload: the decoder needs it for the end of a frame that has none of its own.
const LZ4_END_MARK: &[u8] = &[0; 4];

impl<'a> Lz4<'a> {
    fn new(payload: &'a [u8]) -> Lz4<'a> {
        Lz4 { decoder: FrameDecoder::new(Read::chain(payload, LZ4_END_MARK)), ended: false }
    }
}

impl Read for Lz4<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.ended || into.is_empty() {
            return Ok(0);
        }
        let count = self.decoder.read(into)?;
        if count == 0 {
            let invalid = |detail| io::Error::new(io::ErrorKind::InvalidData, detail);
            match self.decoder.get_ref().get_ref() {
                ([], rest) if rest.len() == LZ4_END_MARK.len() => self.ended = true,
                ([], _) => return Err(invalid("an LZ4 frame is cut short")),
                _ => return Err(invalid("an LZ4 frame has an empty block, or bytes behind it")),
            }
        }
        Ok(count)
    }
}

/// Raw snappy or the xerial framing.
struct Snappy<'a> {
    rest: &'a [u8],
    framed: bool,
    block: Vec<u8>,
    at: usize,
    /// Bytes that may still come out.
    left: u64,
}

impl<'a> Snappy<'a> {
    fn new(payload: &'a [u8], left: u64) -> io::Result<Snappy<'a>> {
        let framed = payload.starts_with(XERIAL_MAGIC);
        let rest = if framed {
            payload.get(XERIAL_HEADER_BYTES..).ok_or(io::ErrorKind::UnexpectedEof)?
        } else {
            payload
        };
        Ok(Snappy { rest, framed, block: Vec::new(), at: 0, left })
    }

    fn next_block(&mut self) -> io::Result<()> {
        let mut compressed = std::mem::take(&mut self.rest);
        if self.framed {
            let length = compressed.try_get_u32().map_err(|_| io::ErrorKind::UnexpectedEof)? as usize;
            if length > compressed.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            (compressed, self.rest) = compressed.split_at(length);
        }
        let invalid = |error: snap::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let declared = snap::raw::decompress_len(compressed).map_err(invalid)?;
        if declared > compressed.len().saturating_mul(SNAPPY_EXPANSION_MAX) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a snappy block claims an impossible length",
            ));
        }
        self.left = self.left.checked_sub(declared as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::FileTooLarge, "a snappy block goes beyond the limit")
        })?;
        self.block = snap::raw::Decoder::new().decompress_vec(compressed).map_err(invalid)?;
        self.at = 0;
        Ok(())
    }
}

impl Read for Snappy<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if self.rest.is_empty() {
                return Ok(0);
            }
            self.next_block()?;
        }
        let count = into.len().min(self.block.len() - self.at);
        into[..count].copy_from_slice(&self.block[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::testing;
    use proptest::prelude::*;

    fn whole(codec: Codec, payload: &[u8]) -> io::Result<Vec<u8>> {
        decompressed(codec, payload, u64::MAX, |from| {
            let mut out = Vec::new();
            from.read_to_end(&mut out).map(|_| out)
        })?
    }

    #[test]
    fn behaviour_43_snappy_comes_raw_and_in_xerial_frames() {
        let text = b"snappy snappy snappy".repeat(5000);
        assert_eq!(whole(Codec::Snappy, &testing::snappy_raw(&text)).unwrap(), text);
        assert_eq!(whole(Codec::Snappy, &testing::snappy_xerial(&text)).unwrap(), text);
    }

    #[test]
    fn a_snappy_block_that_claims_gigabytes_is_refused_before_allocation() {
        for claim in [&b"\xff\xff\xff\xff\x0f\x00"[..], b"\x80\x80\x80\x80\x08\x00"] {
            let refused = whole(Codec::Snappy, claim).unwrap_err().to_string();
            assert!(refused.contains("impossible length"), "{refused}");
            let mut framed = XERIAL_MAGIC.to_vec();
            framed.extend([0, 0, 0, 1, 0, 0, 0, 1]);
            framed.extend((claim.len() as u32).to_be_bytes());
            framed.extend(claim);
            let refused = whole(Codec::Snappy, &framed).unwrap_err().to_string();
            assert!(refused.contains("impossible length"), "{refused}");
        }
    }

    #[test]
    fn a_snappy_block_beyond_the_limit_is_refused_before_it_is_decompressed() {
        let text = vec![7; 100_000];
        for payload in [testing::snappy_raw(&text), testing::snappy_xerial(&text)] {
            let read = |limit| {
                decompressed(Codec::Snappy, &payload, limit, |from| {
                    let mut out = Vec::new();
                    from.read_to_end(&mut out).map(|_| out.len())
                })
                .unwrap()
            };
            assert_eq!(read(100_000).unwrap(), 100_000);
            assert_eq!(read(50_000).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        }
    }

    #[test]
    fn an_lz4_frame_of_the_oldest_format_is_refused_before_allocation() {
        let refused = whole(Codec::Lz4, b"\x02\x21\x4c\x18\x01\0\0\0\0").unwrap_err().to_string();
        assert!(refused.contains("no LZ4 frame"), "{refused}");
    }

    #[test]
    fn of_lz4_one_whole_frame_is_taken_and_nothing_behind_it() {
        let text = b"lz4 lz4 lz4".repeat(20_000);
        let frame = testing::compress(Codec::Lz4, &text);
        assert_eq!(whole(Codec::Lz4, &frame).unwrap(), text);
        let refused = |payload: &[u8]| whole(Codec::Lz4, payload).unwrap_err().to_string();
        let without_end = &frame[..frame.len() - LZ4_END_MARK.len()];
        assert!(refused(without_end).contains("cut short"));
        let empty_block = [without_end, &[1, 0, 0, 0, 0], LZ4_END_MARK].concat();
        for longer in [[&frame[..], &[0]].concat(), frame.repeat(2), empty_block] {
            assert!(refused(&longer).contains("bytes behind it"));
        }
        for cut in 0..frame.len() {
            assert!(whole(Codec::Lz4, &frame[..cut]).is_err(), "{cut} of {} bytes", frame.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_codec_round_trips(text in proptest::collection::vec(0u8..8, 0..20_000)) {
            for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
                prop_assert_eq!(&whole(codec, &testing::compress(codec, &text)).unwrap(), &text);
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
                let _ = whole(codec, &bytes);
            }
        }
    }
}
