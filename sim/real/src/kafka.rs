//! The two questions that the harness itself asks: who leads what, and for a topic.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiKey, CreateTopicsRequest, MetadataRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANSWER_BYTES_MAX: usize = 1 << 20;
const TOPIC_EXISTS: i16 = 36;

/// One request to `address`, and its answer.
async fn call<R: Request>(
    address: &str,
    version: i16,
    request: &R,
    patience: Duration,
) -> anyhow::Result<R::Response> {
    tokio::time::timeout(patience, exchange(address, version, request)).await.context("no answer in time")?
}

async fn exchange<R: Request>(address: &str, version: i16, request: &R) -> anyhow::Result<R::Response> {
    let api = ApiKey::try_from(R::KEY).map_err(|()| anyhow::anyhow!("API {} is not known", R::KEY))?;
    let mut stream = TcpStream::connect(address).await?;
    let mut body = BytesMut::new();
    RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(1)
        .encode(&mut body, api.request_header_version(version))?;
    request.encode(&mut body, version)?;
    let mut frame = BytesMut::new();
    frame.put_i32(body.len() as i32);
    frame.put(body);
    stream.write_all(&frame).await?;
    let length = stream.read_i32().await? as usize;
    ensure!(length <= ANSWER_BYTES_MAX, "an answer of {length} bytes");
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    let mut answer = Bytes::from(answer);
    ResponseHeader::decode(&mut answer, api.response_header_version(version))?;
    R::Response::decode(&mut answer, version)
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// What `address` knows: the brokers, and who leads each partition of `topic`.
pub async fn metadata(
    address: &str,
    topic: &str,
    patience: Duration,
) -> anyhow::Result<(Vec<i32>, BTreeMap<i32, i32>)> {
    let asked = MetadataRequestTopic::default().with_name(Some(name(topic)));
    let request =
        MetadataRequest::default().with_topics(Some(vec![asked])).with_allow_auto_topic_creation(false);
    let answer = call(address, 9, &request, patience).await?;
    let brokers = answer.brokers.iter().map(|broker| broker.node_id.0).collect();
    let partitions = answer.topics.into_iter().flat_map(|topic| topic.partitions);
    Ok((brokers, partitions.map(|one| (one.partition_index, one.leader_id.0)).collect()))
}

pub async fn create_topic(address: &str, topic: &str, partitions: i32) -> anyhow::Result<()> {
    let asked = CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(-1);
    let request = CreateTopicsRequest::default().with_topics(vec![asked]).with_timeout_ms(60_000);
    let answer = call(address, 7, &request, Duration::from_secs(90)).await?;
    let code = answer.topics.first().context("an answer about the topic")?.error_code;
    ensure!(code == 0 || code == TOPIC_EXISTS, "creating {topic}: error {code}");
    Ok(())
}
