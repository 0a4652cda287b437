//! Batches for tests, written independently of the code under test.

use std::io::Write;

use bytes::{BufMut, BytesMut};

use super::batch::Codec;

/// What a test batch is like.
pub struct Spec {
    pub codec: Codec,
    pub base_timestamp: i64,
    /// Milliseconds from one record to the next.
    pub step_ms: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub attributes: i16,
    pub value_bytes: usize,
    pub key: bool,
}

/// A batch of `count` records, one millisecond apart unless changed.
pub fn batch(count: i32, change: impl FnOnce(&mut Spec)) -> BytesMut {
    let mut spec = Spec {
        codec: Codec::None,
        base_timestamp: 1_000_000,
        step_ms: 1,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        attributes: 0,
        value_bytes: 5,
        key: true,
    };
    change(&mut spec);
    let mut records = Vec::new();
    for index in 0..count {
        record(&mut records, index, &spec);
    }
    let payload = compress(spec.codec, &records);
    let mut bytes = BytesMut::new();
    bytes.put_i64(0);
    bytes.put_i32((payload.len() + 49) as i32);
    bytes.put_i32(-1);
    bytes.put_i8(2);
    bytes.put_u32(0);
    bytes.put_i16(spec.attributes | spec.codec as i16);
    bytes.put_i32(count - 1);
    bytes.put_i64(spec.base_timestamp);
    bytes.put_i64(spec.base_timestamp + (spec.step_ms * i64::from(count - 1)).max(0));
    bytes.put_i64(spec.producer_id);
    bytes.put_i16(spec.producer_epoch);
    bytes.put_i32(spec.base_sequence);
    bytes.put_i32(count);
    bytes.put_slice(&payload);
    seal(&mut bytes);
    bytes
}

/// Writes the right checksum, whatever else is wrong.
pub fn seal(bytes: &mut BytesMut) {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[21..]) as u32;
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn record(out: &mut Vec<u8>, index: i32, spec: &Spec) {
    let mut body = vec![0];
    varint(&mut body, spec.step_ms * i64::from(index));
    varint(&mut body, i64::from(index));
    if spec.key {
        varint(&mut body, 1);
        body.push(b'k');
    } else {
        varint(&mut body, -1);
    }
    varint(&mut body, spec.value_bytes as i64);
    body.resize(body.len() + spec.value_bytes, b'v');
    varint(&mut body, 2);
    for value in [1, -1] {
        varint(&mut body, 1);
        body.push(b'h');
        varint(&mut body, value);
        body.extend((0..value).map(|_| b'x'));
    }
    varint(out, body.len() as i64);
    out.extend(body);
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut value = ((value << 1) ^ (value >> 63)) as u64;
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn compress(codec: Codec, bytes: &[u8]) -> Vec<u8> {
    match codec {
        Codec::None => bytes.to_vec(),
        Codec::Gzip => {
            let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            to.write_all(bytes).unwrap();
            to.finish().unwrap()
        }
        Codec::Lz4 => {
            let mut to = lz4_flex::frame::FrameEncoder::new(Vec::new());
            to.write_all(bytes).unwrap();
            to.finish().unwrap()
        }
        Codec::Zstd => zstd::encode_all(bytes, 1).unwrap(),
        Codec::Snappy => snappy_xerial(bytes),
    }
}

pub fn snappy_raw(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).unwrap()
}

pub fn snappy_xerial(bytes: &[u8]) -> Vec<u8> {
    let mut out = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    for chunk in bytes.chunks(32 << 10) {
        let block = snappy_raw(chunk);
        out.extend((block.len() as u32).to_be_bytes());
        out.extend(block);
    }
    out
}
