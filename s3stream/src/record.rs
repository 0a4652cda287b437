//! A record of a stream, and how it is described in a WAL record's meta (`docs/formats/wal-record.md`).

use bytes::Bytes;
use wal::Meta;

use crate::StreamId;

/// One append to a stream: a body that covers the offsets `[base, end)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRecord {
    pub base: u64,
    pub end: u64,
    /// The largest timestamp inside, in milliseconds since the epoch; -1 if there is none.
    pub max_timestamp: i64,
    pub body: Bytes,
}

/// What a WAL record's meta says. Layout, little endian: stream 8, stream epoch 8, base 8, end 8, max timestamp 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMeta {
    pub stream: StreamId,
    /// The stream's epoch under which the append was made.
    pub stream_epoch: u64,
    pub base: u64,
    pub end: u64,
    pub max_timestamp: i64,
}

/// The only kind so far: the body is the data. (A pointer to data elsewhere will be another.)
pub const KIND_DATA: u8 = 1;

/// Bytes of an encoded [`RecordMeta`].
pub const META_BYTES: usize = 40;

impl RecordMeta {
    pub fn encode(&self) -> Meta {
        let mut bytes = [0u8; META_BYTES];
        bytes[0..8].copy_from_slice(&self.stream.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.stream_epoch.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.base.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.end.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.max_timestamp.to_le_bytes());
        Meta::new(&bytes)
    }

    /// `None` if the bytes are not a meta of this layout or describe an empty range.
    pub fn decode(meta: &Meta) -> Option<RecordMeta> {
        let bytes: &[u8; META_BYTES] = meta.as_slice().try_into().ok()?;
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let decoded = RecordMeta {
            stream: StreamId(word(0)),
            stream_epoch: word(8),
            base: word(16),
            end: word(24),
            max_timestamp: word(32) as i64,
        };
        (decoded.base < decoded.end).then_some(decoded)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `docs/formats/wal-record.md` prints the same bytes.
    #[test]
    fn golden() {
        let meta =
            RecordMeta { stream: StreamId(7), stream_epoch: 3, base: 0x100, end: 0x102, max_timestamp: -1 };
        let hex: String = meta.encode().as_slice().iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = concat!(
            "0700000000000000",
            "0300000000000000",
            "0001000000000000",
            "0201000000000000",
            "ffffffffffffffff"
        );
        assert_eq!(hex, golden);
    }

    #[test]
    fn other_lengths_and_empty_ranges_are_refused() {
        let meta = RecordMeta { stream: StreamId(7), stream_epoch: 3, base: 5, end: 6, max_timestamp: 9 };
        let bytes = meta.encode();
        for length in 0..META_BYTES {
            assert_eq!(RecordMeta::decode(&Meta::new(&bytes.as_slice()[..length])), None, "{length}");
        }
        assert_eq!(RecordMeta::decode(&Meta::new(&[bytes.as_slice(), &[0]].concat())), None);
        for end in [0, 4, 5] {
            assert_eq!(RecordMeta::decode(&RecordMeta { end, ..meta }.encode()), None, "[5, {end})");
        }
    }

    proptest! {
        #[test]
        fn round_trip(
            stream in any::<u64>(), stream_epoch in any::<u64>(), base in 0..u64::MAX, records in 1..u64::MAX,
            max_timestamp in any::<i64>(),
        ) {
            let end = base.saturating_add(records);
            let meta = RecordMeta { stream: StreamId(stream), stream_epoch, base, end, max_timestamp };
            prop_assert_eq!(RecordMeta::decode(&meta.encode()), Some(meta));
        }
    }
}
