//! Is the broker that is registered under our id still alive?
//!
//! Asked before a predecessor is fenced, so that a second process started by mistake is refused instead of throwing the
//! first one out. The answer is a courtesy, not a safety argument: being wrong costs availability, never data, since a
//! fenced broker can acknowledge nothing (O1, O4, B1).

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, MetadataRequest, MetadataResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// For connecting, asking and being answered together. A broker that is alive answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// An answer that names one broker and no topics is far smaller.
const RESPONSE_BYTES_MAX: usize = 64 << 10;

const METADATA_VERSION: i16 = 4;

/// Whether a broker of cluster `cluster_id` answers on `host:port` as node `node_id`.
pub(super) async fn is_alive(host: &str, port: u16, cluster_id: &str, node_id: i32) -> bool {
    match tokio::time::timeout(PATIENCE, ask(host, port)).await {
        Ok(Ok(answer)) => {
            answer.cluster_id.as_deref() == Some(cluster_id)
                && answer.brokers.iter().any(|broker| broker.node_id.0 == node_id)
        }
        Ok(Err(error)) => {
            tracing::info!("the broker registered at {host}:{port} is not alive: {error:#}");
            false
        }
        Err(_) => {
            tracing::info!("the broker registered at {host}:{port} does not answer within {PATIENCE:?}");
            false
        }
    }
}

async fn ask(host: &str, port: u16) -> anyhow::Result<MetadataResponse> {
    let (mut from, mut to) = host::net::connect(host, port).await.context("connecting")?.into_split();
    let mut request = BytesMut::new();
    request.extend_from_slice(&[0; 4]);
    let header = RequestHeader::default()
        .with_request_api_key(ApiKey::Metadata as i16)
        .with_request_api_version(METADATA_VERSION)
        .with_correlation_id(1)
        .with_client_id(Some(StrBytes::from_static_str("ottla-successor")));
    header.encode(&mut request, MetadataRequest::header_version(METADATA_VERSION))?;
    // No topics: only who is there.
    let body = MetadataRequest::default().with_topics(Some(Vec::new())).with_allow_auto_topic_creation(false);
    body.encode(&mut request, METADATA_VERSION)?;
    let length = (request.len() - 4) as i32;
    request[..4].copy_from_slice(&length.to_be_bytes());
    to.write_all(&request).await.context("asking")?;

    let length = from.read_i32().await.context("waiting for the answer")?;
    ensure!((4..=RESPONSE_BYTES_MAX as i32).contains(&length), "an answer of {length} bytes");
    let mut response = vec![0; length as usize];
    from.read_exact(&mut response).await.context("reading the answer")?;
    let mut response = Bytes::from(response);
    ResponseHeader::decode(&mut response, MetadataResponse::header_version(METADATA_VERSION))?;
    ensure!(response.has_remaining(), "an empty answer");
    MetadataResponse::decode(&mut response, METADATA_VERSION)
}
