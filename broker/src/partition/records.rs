//! The records inside a batch: walked to be checked (behaviour 36) and to be searched (behaviour 76), never kept.
//!
//! A record (`DefaultRecord.java`); varint is zigzag LEB128:
//!
//! | field | type |
//! |---|---|
//! | length of what follows | varint |
//! | attributes, unused | int8 |
//! | timestamp delta | varlong |
//! | offset delta | varint |
//! | key length, -1 for null; key | varint, bytes |
//! | value length, -1 for null; value | varint, bytes |
//! | number of headers | varint |
//! | each: key length, key; value length, -1 for null, value | varint, bytes, varint, bytes |

use std::io::{self, BufRead};

use super::batch::{BatchHeader, Codec, HEADER_BYTES};
use super::codec;

/// What the walk sees of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView {
    /// Its place in the batch.
    pub index: i32,
    pub offset_delta: i32,
    pub timestamp: i64,
    pub has_key: bool,
}

/// Why the records of a batch are not what its header says.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("the records cannot be decompressed: {0}")]
    Decompression(io::Error),
    #[error("record {index}: {detail}")]
    Record { index: i32, detail: &'static str },
    #[error("the records take more than {limit_bytes} bytes when decompressed")]
    TooLarge { limit_bytes: u64 },
    #[error("bytes follow the last record")]
    Trailing,
    #[error("codec {0} does not exist")]
    Codec(i16),
}

/// Calls `visit` for each record of the whole batch `bytes`, until it answers `false`. Reads at most `limit_bytes` of
/// decompressed records.
pub fn walk(
    header: &BatchHeader,
    bytes: &[u8],
    limit_bytes: u64,
    mut visit: impl FnMut(RecordView) -> bool,
) -> Result<(), Invalid> {
    let codec = header.codec().ok_or(Invalid::Codec(header.attributes & 7))?;
    let mut records = &bytes[HEADER_BYTES..header.size];
    match codec {
        // As what it is rather than behind a trait object: most of what a broker is sent is not compressed.
        Codec::None => walk_records(header, &mut records, limit_bytes, &mut visit),
        _ => codec::decompressed(codec, records, limit_bytes, |from| {
            walk_records(header, from, limit_bytes, &mut visit)
        })
        .map_err(Invalid::Decompression)?,
    }
}

fn walk_records<R: BufRead + ?Sized>(
    header: &BatchHeader,
    from: &mut R,
    limit_bytes: u64,
    visit: &mut impl FnMut(RecordView) -> bool,
) -> Result<(), Invalid> {
    let mut walk = Walk { from, left: limit_bytes };
    for index in 0..header.count {
        let view = walk.record(header, index).map_err(|problem| problem.at(index, limit_bytes))?;
        if !visit(view) {
            return Ok(());
        }
    }
    match walk.from.fill_buf() {
        Ok([]) => Ok(()),
        Ok(_) => Err(Invalid::Trailing),
        Err(error) => Err(Invalid::Decompression(error)),
    }
}

enum Problem {
    Io(io::Error),
    Limit,
    Detail(&'static str),
}

impl Problem {
    fn at(self, index: i32, limit_bytes: u64) -> Invalid {
        match self {
            Problem::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                Invalid::TooLarge { limit_bytes }
            }
            Problem::Io(error) => Invalid::Decompression(error),
            Problem::Limit => Invalid::TooLarge { limit_bytes },
            Problem::Detail(detail) => Invalid::Record { index, detail },
        }
    }
}

struct Walk<'a, R: ?Sized> {
    from: &'a mut R,
    left: u64,
}

impl<R: BufRead + ?Sized> Walk<'_, R> {
    fn record(&mut self, header: &BatchHeader, index: i32) -> Result<RecordView, Problem> {
        let length = self.varint()?;
        let length = u64::try_from(length).map_err(|_| Problem::Detail("negative length"))?;
        if length > self.left {
            return Err(Problem::Limit);
        }
        let after = self.left - length;
        self.byte()?;
        let timestamp_delta = self.varint()?;
        let offset_delta = self.varint()?;
        let has_key = self.skip_nullable()?;
        self.skip_nullable()?;
        let headers = self.varint()?;
        if headers < 0 {
            return Err(Problem::Detail("negative number of headers"));
        }
        for _ in 0..headers {
            if !self.skip_nullable()? {
                return Err(Problem::Detail("a header without a key"));
            }
            self.skip_nullable()?;
            if self.left < after {
                break;
            }
        }
        if self.left != after {
            return Err(Problem::Detail("its length is not that of its fields"));
        }
        let timestamp = if header.is_log_append_time() {
            header.max_timestamp
        } else {
            header.base_timestamp.wrapping_add(timestamp_delta)
        };
        let offset_delta = i32::try_from(offset_delta).map_err(|_| Problem::Detail("offset out of range"))?;
        Ok(RecordView { index, offset_delta, timestamp, has_key })
    }

    fn byte(&mut self) -> Result<u8, Problem> {
        self.left = self.left.checked_sub(1).ok_or(Problem::Limit)?;
        let byte = *self.from.fill_buf().map_err(Problem::Io)?.first().ok_or(Problem::Detail("cut short"))?;
        self.from.consume(1);
        Ok(byte)
    }

    fn varint(&mut self) -> Result<i64, Problem> {
        if self.left == 0 {
            return Err(Problem::Limit);
        }
        // Most are one or two bytes, and whole in what is buffered.
        let buffered = self.from.fill_buf().map_err(Problem::Io)?;
        let known = (buffered.len() as u64).min(self.left).min(2) as usize;
        let short = match buffered[..known] {
            [only, ..] if only & 0x80 == 0 => Some((u64::from(only), 1)),
            [low, high] if high & 0x80 == 0 => Some((u64::from(low & 0x7f) | u64::from(high) << 7, 2)),
            _ => None,
        };
        if let Some((value, bytes)) = short {
            self.left -= bytes as u64;
            self.from.consume(bytes);
            return Ok(decoded(value));
        }
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(decoded(value));
            }
        }
        Err(Problem::Detail("a number is too long"))
    }

    /// `false` for null.
    fn skip_nullable(&mut self) -> Result<bool, Problem> {
        let length = self.varint()?;
        if length == -1 {
            return Ok(false);
        }
        let mut length = u64::try_from(length).map_err(|_| Problem::Detail("negative length of a field"))?;
        self.left = self.left.checked_sub(length).ok_or(Problem::Limit)?;
        while length > 0 {
            let available = self.from.fill_buf().map_err(Problem::Io)?.len();
            if available == 0 {
                return Err(Problem::Detail("cut short"));
            }
            let step = (available as u64).min(length);
            self.from.consume(step as usize);
            length -= step;
        }
        Ok(true)
    }
}

/// Zigzag.
fn decoded(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::testing;

    fn views(bytes: &[u8]) -> Result<Vec<RecordView>, Invalid> {
        let header = BatchHeader::parse(bytes).unwrap();
        let mut views = Vec::new();
        walk(&header, bytes, 1 << 20, |view| {
            views.push(view);
            true
        })
        .map(|()| views)
    }

    #[test]
    fn behaviour_36_every_codec_is_walked() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let bytes = testing::batch(100, |spec| {
                spec.codec = codec;
                spec.base_timestamp = 500;
            });
            let views = views(&bytes).unwrap();
            assert_eq!(views.len(), 100, "{codec:?}");
            for (index, view) in views.iter().enumerate() {
                assert_eq!((view.offset_delta, view.timestamp), (index as i32, 500 + index as i64));
            }
        }
    }

    #[test]
    fn behaviour_36_flipped_bits_are_seen_or_harmless_and_never_panic() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let bytes = testing::batch(10, |spec| spec.codec = codec);
            for at in HEADER_BYTES..bytes.len() {
                for bit in 0..8 {
                    let mut flipped = bytes.clone();
                    flipped[at] ^= 1 << bit;
                    let _ = views(&flipped);
                }
            }
        }
    }

    #[test]
    fn counts_and_lengths_that_lie_are_invalid() {
        let bytes = testing::batch(10, |_| {});
        for count in [9i32, 11, i32::MAX] {
            let mut lying = bytes.clone();
            lying[57..61].copy_from_slice(&count.to_be_bytes());
            assert!(views(&lying).is_err(), "{count}");
        }
        let mut longer = bytes.clone();
        longer[HEADER_BYTES] += 2;
        assert!(views(&longer).is_err());
    }

    #[test]
    fn a_bomb_is_cut_at_the_limit() {
        for codec in [Codec::Gzip, Codec::Zstd, Codec::Lz4, Codec::Snappy] {
            let bytes = testing::batch(1, |spec| {
                spec.codec = codec;
                spec.value_bytes = 2 << 20;
            });
            assert!(matches!(views(&bytes), Err(Invalid::TooLarge { .. })), "{codec:?}");
        }
    }
}
