//! Kafka's records as this client writes and reads them: format 2 (see `partition::batch` for the header's table).
//!
//! Written: uncompressed, with producer id and sequence. Read: every codec, within a limit of decompressed bytes.

use std::io::Read;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::partition::batch::{self, BatchHeader, HEADER_BYTES, MAGIC};
use crate::partition::codec;

/// Decompressed bytes of one batch beyond which it is refused.
const DECOMPRESSED_BYTES_MAX: u64 = 256 << 20;

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
}

pub type Header = (Bytes, Option<Bytes>);

/// Gathers the records of one batch.
#[derive(Debug)]
pub struct Builder {
    bytes: BytesMut,
    count: i32,
    timestamp: i64,
}

/// Who produces: for the broker to tell a repeated batch from a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    pub id: i64,
    pub epoch: i16,
}

impl Builder {
    /// All records get this timestamp, in milliseconds.
    pub fn new(timestamp: i64) -> Builder {
        let mut bytes = BytesMut::with_capacity(4096);
        bytes.put_bytes(0, HEADER_BYTES);
        Builder { bytes, count: 0, timestamp }
    }

    /// Bytes so far.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    pub fn count(&self) -> i32 {
        self.count
    }

    pub fn push(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header]) {
        let mut length = 1 + 1 + varint_len(i64::from(self.count)) + varint_len(headers.len() as i64);
        length += nullable_len(key) + nullable_len(value);
        for (name, value) in headers {
            length += nullable_len(Some(name)) + nullable_len(value.as_deref());
        }
        put_varint(&mut self.bytes, length as i64);
        self.bytes.put_u8(0);
        put_varint(&mut self.bytes, 0);
        put_varint(&mut self.bytes, i64::from(self.count));
        put_nullable(&mut self.bytes, key);
        put_nullable(&mut self.bytes, value);
        put_varint(&mut self.bytes, headers.len() as i64);
        for (name, value) in headers {
            put_nullable(&mut self.bytes, Some(name));
            put_nullable(&mut self.bytes, value.as_deref());
        }
        self.count += 1;
    }

    /// The batch; without a producer it has no sequence.
    ///
    /// # Panics
    /// If nothing was pushed.
    pub fn finish(mut self, producer: Option<Producer>, base_sequence: i32) -> Bytes {
        assert!(self.count > 0, "a batch holds at least one record");
        let length = self.bytes.len() - batch::LENGTH_PREFIX_BYTES;
        let (producer, sequence) = match producer {
            Some(producer) => (producer, base_sequence),
            None => (Producer { id: -1, epoch: -1 }, -1),
        };
        let mut header = &mut self.bytes[..HEADER_BYTES];
        header.put_i64(0);
        header.put_i32(length as i32);
        header.put_i32(-1);
        header.put_i8(MAGIC);
        header.put_u32(0);
        header.put_i16(0);
        header.put_i32(self.count - 1);
        header.put_i64(self.timestamp);
        header.put_i64(self.timestamp);
        header.put_i64(producer.id);
        header.put_i16(producer.epoch);
        header.put_i32(sequence);
        header.put_i32(self.count);
        let crc = batch::checksum(&self.bytes);
        self.bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        self.bytes.freeze()
    }
}

/// What a fetch brought of one partition.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// From the wanted offset on; control records left out.
    pub records: Vec<Record>,
    /// Where to read on, if there was a whole batch at all.
    pub next: Option<i64>,
}

#[derive(Debug, thiserror::Error)]
#[error("a batch at offset {offset} cannot be read: {detail}")]
pub struct Unreadable {
    pub offset: i64,
    pub detail: String,
}

/// Reads the whole batches at the beginning of `bytes`; a broker may cut the last one short.
pub fn decode(mut bytes: Bytes, from: i64) -> Result<Decoded, Unreadable> {
    let mut decoded = Decoded::default();
    while bytes.len() > HEADER_BYTES {
        let offset = (&bytes[..8]).get_i64();
        let length = (&bytes[8..12]).get_i32();
        let fail = |detail: String| Unreadable { offset, detail };
        let size = usize::try_from(length).map_err(|_| fail("a negative length".to_owned()))?;
        if size + batch::LENGTH_PREFIX_BYTES > bytes.len() {
            break;
        }
        let header = BatchHeader::parse(&bytes).map_err(|error| fail(error.to_string()))?;
        let batch = bytes.split_to(header.size);
        if batch::checksum(&batch) != header.crc {
            return Err(fail("its checksum does not match".to_owned()));
        }
        if !header.is_control() {
            let payload = payload(&header, &batch).map_err(fail)?;
            read_records(&header, payload, from, &mut decoded.records)
                .map_err(|detail| fail(detail.to_owned()))?;
        }
        let next = header.base_offset.saturating_add(i64::from(header.last_offset_delta)).saturating_add(1);
        decoded.next = Some(next.max(decoded.next.unwrap_or(i64::MIN)));
    }
    Ok(decoded)
}

fn payload(header: &BatchHeader, batch: &Bytes) -> Result<Bytes, String> {
    let codec = header.codec().ok_or("its codec does not exist")?;
    if codec == batch::Codec::None {
        return Ok(batch.slice(HEADER_BYTES..));
    }
    let read = codec::decompressed(codec, &batch[HEADER_BYTES..], DECOMPRESSED_BYTES_MAX, |from| {
        let mut out = Vec::new();
        from.take(DECOMPRESSED_BYTES_MAX + 1).read_to_end(&mut out).map(|_| out)
    });
    let out = read.and_then(|out| out).map_err(|error| error.to_string())?;
    if out.len() as u64 > DECOMPRESSED_BYTES_MAX {
        return Err(format!("it decompresses to more than {DECOMPRESSED_BYTES_MAX} bytes"));
    }
    Ok(out.into())
}

fn read_records(
    header: &BatchHeader,
    mut payload: Bytes,
    from: i64,
    records: &mut Vec<Record>,
) -> Result<(), &'static str> {
    for _ in 0..header.count {
        let length = usize::try_from(get_varint(&mut payload)?).map_err(|_| "a negative length")?;
        if length > payload.len() {
            return Err("a record is cut short");
        }
        let mut body = payload.split_to(length);
        if body.is_empty() {
            return Err("an empty record");
        }
        body.advance(1);
        let timestamp_delta = get_varint(&mut body)?;
        let offset_delta = get_varint(&mut body)?;
        let key = get_nullable(&mut body)?;
        let value = get_nullable(&mut body)?;
        let count = get_varint(&mut body)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = get_nullable(&mut body)?.ok_or("a header without a name")?;
            headers.push((name, get_nullable(&mut body)?));
        }
        let offset = header.base_offset.wrapping_add(offset_delta);
        let timestamp = if header.is_log_append_time() {
            header.max_timestamp
        } else {
            header.base_timestamp.wrapping_add(timestamp_delta)
        };
        if offset >= from {
            records.push(Record { offset, timestamp, key, value, headers });
        }
    }
    Ok(())
}

fn put_varint(into: &mut BytesMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        into.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    into.put_u8(rest as u8);
}

fn varint_len(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (64 - zigzag.leading_zeros() as usize).div_ceil(7).max(1)
}

fn put_nullable(into: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varint(into, bytes.len() as i64);
            into.put_slice(bytes);
        }
        None => put_varint(into, -1),
    }
}

fn nullable_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varint_len(bytes.len() as i64) + bytes.len())
}

fn get_varint(from: &mut Bytes) -> Result<i64, &'static str> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = from.try_get_u8().map_err(|_| "a number is cut short")?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    Err("a number is too long")
}

fn get_nullable(from: &mut Bytes) -> Result<Option<Bytes>, &'static str> {
    let length = get_varint(from)?;
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| "a negative length")?;
    if length > from.len() {
        return Err("a field is cut short");
    }
    Ok(Some(from.split_to(length)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Given = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

    fn build(records: &[Given], producer: Option<Producer>) -> Bytes {
        let mut builder = Builder::new(1_700_000_000_000);
        for (key, value, headers) in records {
            let headers: Vec<Header> = headers
                .iter()
                .map(|(name, value)| (name.clone().into(), value.clone().map(Bytes::from)))
                .collect();
            builder.push(key.as_deref(), value.as_deref(), &headers);
        }
        builder.finish(producer, 7)
    }

    /// The same batch as another producer would have compressed it.
    fn compressed(batch: &Bytes, codec: i16) -> Bytes {
        let payload = &batch[HEADER_BYTES..];
        let payload = match codec {
            1 => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                std::io::Write::write_all(&mut encoder, payload).unwrap();
                encoder.finish().unwrap()
            }
            2 => snap::raw::Encoder::new().compress_vec(payload).unwrap(),
            3 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                std::io::Write::write_all(&mut encoder, payload).unwrap();
                encoder.finish().unwrap()
            }
            4 => zstd::encode_all(payload, 1).unwrap(),
            _ => payload.to_vec(),
        };
        let mut bytes = batch[..HEADER_BYTES].to_vec();
        bytes.extend(payload);
        let length = (bytes.len() - batch::LENGTH_PREFIX_BYTES) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[21..23].copy_from_slice(&codec.to_be_bytes());
        let crc = batch::checksum(&bytes);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes.into()
    }

    proptest! {
        #[test]
        fn batches_round_trip_in_every_codec(
            records in prop::collection::vec(
                (
                    prop::option::of(prop::collection::vec(any::<u8>(), 0..80)),
                    prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
                    prop::collection::vec((prop::collection::vec(any::<u8>(), 0..9), prop::option::of(prop::collection::vec(any::<u8>(), 0..9))), 0..3),
                ),
                1..100,
            ),
            from in 0i64..100,
        ) {
            let batch = build(&records, Some(Producer { id: 5, epoch: 2 }));
            let header = BatchHeader::parse(&batch).unwrap();
            prop_assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (5, 2, 7));
            prop_assert_eq!((header.count as usize, header.size), (records.len(), batch.len()));
            for codec in 0..5 {
                let decoded = decode(compressed(&batch, codec), from).unwrap();
                prop_assert_eq!(decoded.next, Some(records.len() as i64));
                let got: Vec<Given> = decoded.records.iter().map(|record| (
                    record.key.as_ref().map(|key| key.to_vec()),
                    record.value.as_ref().map(|value| value.to_vec()),
                    record.headers.iter().map(|(name, value)| (name.to_vec(), value.as_ref().map(|value| value.to_vec()))).collect(),
                )).collect();
                prop_assert_eq!(&got[..], &records[records.len().min(from as usize)..]);
            }
        }

        #[test]
        fn noise_is_refused_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(bytes.clone().into(), 0);
            // Past the first checks.
            if bytes.len() > HEADER_BYTES {
                bytes[16] = 2;
                let length = (bytes.len() - batch::LENGTH_PREFIX_BYTES) as i32;
                bytes[8..12].copy_from_slice(&length.to_be_bytes());
                let crc = batch::checksum(&bytes);
                bytes[17..21].copy_from_slice(&crc.to_be_bytes());
                let _ = decode(bytes.into(), 0);
            }
        }
    }

    #[test]
    fn a_batch_that_is_cut_short_is_left_for_the_next_fetch() {
        let batch = build(&[(None, Some(b"x".to_vec()), vec![])], None);
        let both = Bytes::from([&batch[..], &batch[..batch.len() - 1]].concat());
        assert_eq!(decode(both, 0).unwrap().records.len(), 1);
        assert_eq!(decode(batch.slice(..batch.len() - 1), 0).unwrap(), Decoded::default());
        let mut flipped = batch.to_vec();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(decode(flipped.into(), 0).is_err());
    }

    #[test]
    fn control_batches_are_passed_over() {
        let mut batch = build(&[(None, None, vec![])], None).to_vec();
        batch[22] |= 0x20;
        let crc = batch::checksum(&batch);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        let decoded = decode(batch.into(), 0).unwrap();
        assert_eq!((decoded.records.len(), decoded.next), (0, Some(1)));
    }
}
