//! Checks, walks and encodings, without a broker around them.

use std::hint::black_box;

use anyhow::{Context, ensure};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{ApiKey, MetadataRequest};
use kafka_protocol::protocol::Encodable;
use ottla::api::layout::{self, Side};
use ottla::partition::batch::{BatchHeader, Codec};
use ottla::partition::recompress::{Target, recompress};
use ottla::partition::validate::{self, Rules};
use ottla::partition::wall_clock_ms;
use s3stream::object::{Block, Encoded, Identity, ObjectIndex, ObjectWriter, Options};
use s3stream::{ObjectId, StreamId, StreamRecord};
use wal::Incarnation;

use crate::WARM_UP_ROUNDS;
use crate::requests::{self, FETCH_VERSION};

const METADATA_VERSION: i16 = 12;
const BATCH_BYTES_MAX: usize = 1 << 20;

/// The checks of a batch of 64 records of 1 KiB.
pub fn validate(lz4: bool, rounds: usize) -> anyhow::Result<()> {
    let mut bytes = BytesMut::from(requests::batch(64, 1024)?);
    if lz4 {
        let header = BatchHeader::parse(&bytes)?;
        let target = Target { codec: Codec::Lz4, gzip_level: -1, zstd_level: 3 };
        let smaller = recompress(&bytes, &header, Codec::None, target, BATCH_BYTES_MAX)?;
        bytes = smaller.context("the batch is too large")?;
    }
    let rules = Rules {
        batch_bytes_max: BATCH_BYTES_MAX,
        log_append_time: false,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: 3_600_000,
        keys_required: false,
        decompressed_bytes_max: 256 << 20,
        compression: None,
        zstd_allowed: true,
    };
    let now_ms = wall_clock_ms();
    for _ in 0..WARM_UP_ROUNDS + rounds {
        let checked = validate::check(bytes, &rules, now_ms)?;
        ensure!(checked.header.count == 64, "{:?}", checked.header);
        bytes = checked.bytes;
    }
    Ok(())
}

pub fn walk_metadata(rounds: usize) -> anyhow::Result<()> {
    let topic = |index| {
        let name = requests::topic_name(&format!("a-topic-of-many-{index:03}"));
        MetadataRequestTopic::default().with_name(Some(name))
    };
    let request = MetadataRequest::default().with_topics(Some((0..100).map(topic).collect()));
    walk(ApiKey::Metadata, METADATA_VERSION, &request, rounds)
}

pub fn walk_fetch(rounds: usize) -> anyhow::Result<()> {
    walk(ApiKey::Fetch, FETCH_VERSION, &requests::fetch("a-topic-of-many", 100, 1 << 20), rounds)
}

fn walk<R: Encodable>(api: ApiKey, version: i16, request: &R, rounds: usize) -> anyhow::Result<()> {
    let mut body = BytesMut::new();
    request.encode(&mut body, version)?;
    for _ in 0..WARM_UP_ROUNDS + rounds {
        let walked = layout::check(api, Side::Request, version, black_box(&body))?;
        ensure!(walked.consumed == body.len(), "{walked:?} of {} bytes", body.len());
    }
    Ok(())
}

const STREAMS: u64 = 8;
const RECORDS: u64 = 32;

fn object(body: &Bytes) -> Encoded {
    let owner = Incarnation { broker: 1, epoch: 1 };
    let identity = Identity { object: ObjectId::Data { owner, counter: 1 }, nonce: 1 };
    let mut writer = ObjectWriter::new(identity, Options::default());
    // As the log cache has them: one stream after the other.
    for stream in 0..STREAMS {
        for base in 0..RECORDS {
            let record = StreamRecord { base, end: base + 1, max_timestamp: 1, body: body.clone() };
            writer.add(StreamId(stream), 1, 1, record);
        }
    }
    writer.finish()
}

pub fn encode_object(rounds: usize) -> anyhow::Result<()> {
    let body = Bytes::from(vec![0x5a; 1024]);
    let size_bytes = object(&body).size_bytes;
    for _ in 0..WARM_UP_ROUNDS + rounds {
        let encoded = object(black_box(&body));
        ensure!(encoded.size_bytes == size_bytes, "{} bytes", encoded.size_bytes);
    }
    Ok(())
}

pub fn decode_object(rounds: usize) -> anyhow::Result<()> {
    let chunks = object(&Bytes::from(vec![0x5a; 1024])).chunks;
    let bytes = Bytes::from(chunks.concat());
    for _ in 0..WARM_UP_ROUNDS + rounds {
        let index = ObjectIndex::decode_object(black_box(&bytes))?;
        let mut records = 0;
        for entry in index.blocks() {
            let at = entry.position as usize;
            let block = Block::decode(entry, bytes.slice(at..entry.position_end() as usize))?;
            records += (0..block.len()).map(|record| block.record(record).body.len() / 1024).sum::<usize>();
        }
        ensure!(records as u64 == STREAMS * RECORDS, "{records} records");
    }
    Ok(())
}
