//! One connection that speaks Kafka's protocol, a request at a time.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than any wait that a request asks for. An answer that takes longer counts as a lost connection.
const PATIENCE: Duration = Duration::from_secs(90);
const RESPONSE_BYTES_MAX: usize = 64 << 20;

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
        let stream = TcpStream::connect(("127.0.0.1", port)).await.context("connecting")?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, correlation_id: 0 })
    }

    pub async fn call<R: Request>(&mut self, version: i16, request: &R) -> anyhow::Result<R::Response> {
        tokio::time::timeout(PATIENCE, self.exchange(version, request)).await.context("no answer in time")?
    }

    async fn exchange<R: Request>(&mut self, version: i16, request: &R) -> anyhow::Result<R::Response> {
        self.correlation_id += 1;
        let api = ApiKey::try_from(R::KEY).map_err(|()| anyhow::anyhow!("API {} is not known", R::KEY))?;
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("soak")))
            .encode(&mut frame, api.request_header_version(version))?;
        request.encode(&mut frame, version)?;
        let length = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame).await?;

        let length = self.stream.read_i32().await? as usize;
        ensure!(length <= RESPONSE_BYTES_MAX, "an answer of {length} bytes");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        let mut body = Bytes::from(body);
        let header = ResponseHeader::decode(&mut body, api.response_header_version(version))?;
        if header.correlation_id != self.correlation_id {
            bail!("an answer to request {} where {} was due", header.correlation_id, self.correlation_id);
        }
        let response = R::Response::decode(&mut body, version)?;
        ensure!(!body.has_remaining(), "{} bytes behind an answer", body.remaining());
        Ok(response)
    }

    /// Half a request, and away.
    pub async fn abandon(mut self) -> anyhow::Result<()> {
        self.stream.write_all(&[0, 0, 0, 50, 0, 3, 0, 9]).await?;
        Ok(())
    }
}
