//! Batches and requests, encoded before anything is counted.

use std::time::UNIX_EPOCH;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiKey, FetchRequest, ProduceRequest, RequestHeader, TopicName};
use kafka_protocol::protocol::{Encodable, Request, StrBytes};
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record,
    RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

/// The newest versions that name topics, as most clients do.
pub const PRODUCE_VERSION: i16 = 12;
pub const FETCH_VERSION: i16 = 12;

pub fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// An uncompressed batch of `count` records with keys of 8 bytes and values of `value_bytes` that compress to about half.
pub fn batch(count: usize, value_bytes: usize) -> anyhow::Result<Bytes> {
    let timestamp = UNIX_EPOCH.elapsed()?.as_millis() as i64;
    let record = |index: usize| Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        timestamp_type: TimestampType::Creation,
        offset: index as i64,
        // The encoder begins another batch where sequence and offset do not go together.
        sequence: NO_SEQUENCE + index as i32,
        timestamp,
        key: Some(Bytes::copy_from_slice(&(index as u64).to_be_bytes())),
        value: Some(value(index, value_bytes)),
        headers: Default::default(),
    };
    let records: Vec<Record> = (0..count).map(record).collect();
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut bytes, &records, &options)?;
    Ok(bytes.freeze())
}

/// Stretches of noise and of repetition in turn; the same for the same `seed`.
fn value(seed: usize, bytes: usize) -> Bytes {
    let mut state = seed as u64 + 1;
    let noise = |at: usize| {
        // Numerical Recipes' generator.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if (at / 16).is_multiple_of(2) { (state >> 24) as u8 } else { b'a' + (at % 16) as u8 }
    };
    (0..bytes).map(noise).collect()
}

/// A whole frame: length, header, body.
pub fn frame<R: Request>(version: i16, request: &R) -> anyhow::Result<Bytes> {
    let api = ApiKey::try_from(R::KEY).map_err(|()| anyhow::anyhow!("API {} is not known", R::KEY))?;
    let mut bytes = BytesMut::new();
    bytes.put_i32(0);
    RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_client_id(Some(StrBytes::from_static_str("instructions")))
        .encode(&mut bytes, api.request_header_version(version))?;
    request.encode(&mut bytes, version)?;
    let length = (bytes.len() - 4) as i32;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    Ok(bytes.freeze())
}

/// `batch` for each of the first `partitions` of a topic.
pub fn produce(topic: &str, partitions: i32, batch: &Bytes) -> ProduceRequest {
    let data = |index| PartitionProduceData::default().with_index(index).with_records(Some(batch.clone()));
    let topic = TopicProduceData::default()
        .with_name(topic_name(topic))
        .with_partition_data((0..partitions).map(data).collect());
    ProduceRequest::default().with_acks(-1).with_timeout_ms(600_000).with_topic_data(vec![topic])
}

/// A Fetch of the first `partitions` of a topic from their beginning, without a session.
pub fn fetch(topic: &str, partitions: i32, max_bytes: i32) -> FetchRequest {
    let wanted = |index| {
        FetchPartition::default()
            .with_partition(index)
            .with_current_leader_epoch(-1)
            .with_last_fetched_epoch(-1)
            .with_partition_max_bytes(max_bytes)
    };
    let topic = FetchTopic::default()
        .with_topic(topic_name(topic))
        .with_partitions((0..partitions).map(wanted).collect());
    FetchRequest::default()
        .with_max_bytes(max_bytes)
        .with_min_bytes(1)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}
