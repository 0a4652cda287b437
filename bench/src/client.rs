//! One connection that speaks Kafka's protocol.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{
    ApiKey, CreateTopicsRequest, DeleteTopicsRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than any wait that a request asks for. An answer that takes longer counts as a lost connection.
const PATIENCE: Duration = Duration::from_secs(90);
const RESPONSE_BYTES_MAX: usize = 64 << 20;

pub fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

fn api<R: Request>() -> anyhow::Result<ApiKey> {
    ApiKey::try_from(R::KEY).map_err(|()| anyhow::anyhow!("API {} is not known", R::KEY))
}

/// A request as it is sent, but for its number; to be sent as often as one likes.
#[derive(Debug)]
pub struct Frame(Bytes);

impl Frame {
    /// Where the number stands: behind the length, the API's key and its version.
    pub const NUMBER: usize = 8;

    pub fn new<R: Request>(version: i16, request: &R) -> anyhow::Result<Frame> {
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_client_id(Some(StrBytes::from_static_str("bench")))
            .encode(&mut frame, api::<R>()?.request_header_version(version))?;
        request.encode(&mut frame, version)?;
        let length = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        Ok(Frame(frame.freeze()))
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into()
    }
}

#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    correlation_id: i32,
}

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

impl Connection {
    pub async fn open(port: u16) -> anyhow::Result<Connection> {
        Connection::open_at(&format!("127.0.0.1:{port}")).await
    }

    /// `address` is HOST:PORT.
    pub async fn open_at(address: &str) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, correlation_id: 0 })
    }

    /// One request, and its answer.
    pub async fn call<R: Request>(&mut self, version: i16, request: &R) -> anyhow::Result<R::Response> {
        let frame = Frame::new(version, request)?;
        let exchange = async {
            self.send(&frame).await?;
            self.receive::<R>(version, self.correlation_id).await
        };
        tokio::time::timeout(PATIENCE, exchange).await.context("no answer in time")?
    }

    /// Sends a request; its answer is that to the number that comes back.
    pub async fn send(&mut self, frame: &Frame) -> anyhow::Result<i32> {
        self.correlation_id += 1;
        let number = self.correlation_id.to_be_bytes();
        self.stream.write_all(&[&frame.0[..Frame::NUMBER], &number[..]].concat()).await?;
        self.stream.write_all(&frame.0[Frame::NUMBER + number.len()..]).await?;
        Ok(self.correlation_id)
    }

    /// The next answer, which is that to the request `number`.
    pub async fn receive<R: Request>(&mut self, version: i16, number: i32) -> anyhow::Result<R::Response> {
        let length = self.stream.read_i32().await? as usize;
        ensure!(length <= RESPONSE_BYTES_MAX, "an answer of {length} bytes");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        let mut body = Bytes::from(body);
        let header = ResponseHeader::decode(&mut body, api::<R>()?.response_header_version(version))?;
        if header.correlation_id != number {
            bail!("an answer to request {} where {number} was due", header.correlation_id);
        }
        let response = R::Response::decode(&mut body, version)?;
        ensure!(!body.has_remaining(), "{} bytes behind an answer", body.remaining());
        Ok(response)
    }

    /// Creates a topic, unless it is there.
    pub async fn create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let config = |(name, value): &(&str, &str)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        };
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(1)
            .with_configs(configs.iter().map(config).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let code = self.call(7, &request).await?.topics[0].error_code;
        ensure!(code == 0 || code == 36, "creating {name}: error {code}");
        Ok(())
    }

    /// Deletes a topic, if it is there.
    pub async fn delete_topic(&mut self, name: &str) -> anyhow::Result<()> {
        let request =
            DeleteTopicsRequest::default().with_topic_names(vec![topic_name(name)]).with_timeout_ms(30_000);
        let code = self.call(5, &request).await?.responses[0].error_code;
        ensure!(code == 0 || code == 3, "deleting {name}: error {code}");
        Ok(())
    }

    /// Half a request, and away.
    pub async fn abandon(mut self) -> anyhow::Result<()> {
        self.stream.write_all(&[0, 0, 0, 50, 0, 3, 0, 9]).await?;
        Ok(())
    }
}
