//! One connection: frames out, frames in, in order.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::Error;
use crate::api::layout::{self, Side};
use crate::cluster::wire;

const CLIENT_ID: &str = "ottla";
/// A larger response is taken for nonsense. Requests here ask for less.
const RESPONSE_BYTES_MAX: usize = 256 << 20;
/// Error code 35: the broker does not know the version of ApiVersions, and answers in version 0.
const UNSUPPORTED_VERSION: i16 = 35;

#[derive(Debug)]
pub struct Connection {
    address: String,
    stream: BufReader<TcpStream>,
    /// What the broker speaks, by API key.
    versions: HashMap<i16, (i16, i16)>,
    correlation_id: i32,
    /// Requests that were sent and not answered yet.
    pending: VecDeque<Pending>,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    correlation_id: i32,
    key: i16,
    version: i16,
}

impl Connection {
    /// Connects and negotiates versions.
    pub async fn open(address: &str, timeout: Duration) -> Result<Connection, Error> {
        let connected = tokio::time::timeout(timeout, TcpStream::connect(address)).await;
        let connect = |reason| Error::Connect { address: address.to_owned(), reason };
        let stream = connected.map_err(|_| connect(std::io::ErrorKind::TimedOut.into()))?.map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        let mut connection = Connection {
            address: address.to_owned(),
            stream: BufReader::with_capacity(64 << 10, stream),
            versions: HashMap::new(),
            correlation_id: 0,
            pending: VecDeque::new(),
        };
        connection.negotiate(timeout).await?;
        Ok(connection)
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// One request, one answer.
    ///
    /// # Panics
    /// If answers are outstanding.
    pub async fn call<R: Request>(&mut self, request: &R, timeout: Duration) -> Result<R::Response, Error> {
        assert!(self.pending.is_empty(), "a call on a connection with answers outstanding");
        self.send(request, timeout).await?;
        self.receive::<R>(timeout).await
    }

    /// Sends a request without waiting for its answer. Answers come in the order of requests.
    pub async fn send<R: Request>(&mut self, request: &R, timeout: Duration) -> Result<(), Error> {
        let version = self.version::<R>()?;
        self.send_version(request, version, timeout).await
    }

    /// Waits for the answer to the oldest request, which must have been an `R`.
    pub async fn receive<R: Request>(&mut self, timeout: Duration) -> Result<R::Response, Error> {
        let (pending, body) = self.receive_frame(timeout).await?;
        assert_eq!(pending.key, R::KEY, "answers are received in the order of requests");
        let decoded = decode::<R::Response>(R::KEY, pending.version, body);
        decoded.map_err(|error| self.malformed(error.to_string()))
    }

    /// One request of the keys that Kafka does not have ([`wire`]), and the body of its answer.
    ///
    /// # Panics
    /// If answers are outstanding.
    pub async fn call_own(&mut self, key: i16, body: &[u8], timeout: Duration) -> Result<Bytes, Error> {
        assert!(self.pending.is_empty(), "a call on a connection with answers outstanding");
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let frame = wire::request(key, self.correlation_id, CLIENT_ID, body);
        let exchange = async {
            self.stream.get_mut().write_all(&frame).await?;
            read_frame(&mut self.stream).await
        };
        let frame = match tokio::time::timeout(timeout, exchange).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(error)) => {
                return Err(Error::Lost { address: self.address.clone(), detail: error.to_string() });
            }
            Err(_) => return Err(Error::Timeout { address: self.address.clone(), timeout }),
        };
        let frame = frame.ok_or_else(|| self.malformed("a frame of an impossible length".to_owned()))?;
        let body = wire::response_body(&frame, self.correlation_id).map(|body| frame.slice_ref(body));
        body.ok_or_else(|| self.malformed("the answer to another request".to_owned()))
    }

    async fn negotiate(&mut self, timeout: Duration) -> Result<(), Error> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("ottla"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        self.send_version(&request, 3, timeout).await?;
        let (_, mut body) = self.receive_frame(timeout).await?;
        // The error code comes first in every version.
        let old = body.len() >= 2 && i16::from_be_bytes([body[0], body[1]]) == UNSUPPORTED_VERSION;
        if old {
            self.send_version(&ApiVersionsRequest::default(), 0, timeout).await?;
            (_, body) = self.receive_frame(timeout).await?;
        }
        let version = if old { 0 } else { 3 };
        let response = decode::<ApiVersionsResponse>(ApiVersionsRequest::KEY, version, body);
        let response = response.map_err(|error| self.malformed(error.to_string()))?;
        super::check(response.error_code, || format!("asking {} what it speaks", self.address), None)?;
        let versions = response.api_keys.iter();
        self.versions = versions.map(|api| (api.api_key, (api.min_version, api.max_version))).collect();
        Ok(())
    }

    async fn send_version<R: Request>(
        &mut self,
        request: &R,
        version: i16,
        timeout: Duration,
    ) -> Result<(), Error> {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let pending = Pending { correlation_id: self.correlation_id, key: R::KEY, version };
        let frame = encode(request, &pending).map_err(|error| Error::Unsupported {
            address: self.address.clone(),
            api: format!("{} as this command needs it ({error})", api_name(R::KEY)),
        })?;
        match tokio::time::timeout(timeout, self.stream.get_mut().write_all(&frame)).await {
            Ok(Ok(())) => {
                self.pending.push_back(pending);
                Ok(())
            }
            Ok(Err(error)) => Err(Error::Lost { address: self.address.clone(), detail: error.to_string() }),
            Err(_) => Err(Error::Timeout { address: self.address.clone(), timeout }),
        }
    }

    async fn receive_frame(&mut self, timeout: Duration) -> Result<(Pending, Bytes), Error> {
        let pending = self.pending.pop_front().expect("an answer is only awaited after a request");
        let frame = match tokio::time::timeout(timeout, read_frame(&mut self.stream)).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(error)) => {
                return Err(Error::Lost { address: self.address.clone(), detail: error.to_string() });
            }
            Err(_) => return Err(Error::Timeout { address: self.address.clone(), timeout }),
        };
        let mut body = frame.ok_or_else(|| self.malformed("a frame of an impossible length".to_owned()))?;
        let header_version = match ApiKey::try_from(pending.key) {
            Ok(key) => key.response_header_version(pending.version),
            Err(()) => return Err(self.malformed(format!("an answer to API {}", pending.key))),
        };
        let header = ResponseHeader::decode(&mut body, header_version)
            .map_err(|error| self.malformed(error.to_string()))?;
        if header.correlation_id != pending.correlation_id {
            return Err(self.malformed(format!(
                "the answer to request {} where that to {} was due",
                header.correlation_id, pending.correlation_id
            )));
        }
        Ok((pending, body))
    }

    /// The newest version of `R` that both sides speak.
    fn version<R: Request>(&self) -> Result<i16, Error> {
        let ours = R::VERSIONS;
        let newest = newest(R::KEY).min(ours.max);
        let common = self.versions.get(&R::KEY).and_then(|(min, max)| {
            let version = newest.min(*max);
            (version >= ours.min && version >= *min).then_some(version)
        });
        common.ok_or_else(|| Error::Unsupported { address: self.address.clone(), api: api_name(R::KEY) })
    }

    fn malformed(&self, detail: String) -> Error {
        Error::Malformed { address: self.address.clone(), detail }
    }
}

/// The newest version whose fields this client fills: topics by name, one group and one key a request.
fn newest(key: i16) -> i16 {
    match ApiKey::try_from(key) {
        Ok(ApiKey::Produce | ApiKey::Fetch) => 12,
        Ok(ApiKey::OffsetFetch) => 7,
        Ok(ApiKey::FindCoordinator) => 3,
        Ok(ApiKey::DeleteTopics) => 5,
        _ => i16::MAX,
    }
}

fn api_name(key: i16) -> String {
    ApiKey::try_from(key).map_or_else(|()| format!("API {key}"), |key| format!("{key:?}"))
}

/// The answer to a request of the API, if its body is what it claims to be: the codec alone believes any count.
fn decode<R: Decodable>(key: i16, version: i16, mut body: Bytes) -> anyhow::Result<R> {
    let api = ApiKey::try_from(key).map_err(|()| anyhow::anyhow!("API {key} is not known"))?;
    layout::check(api, Side::Response, version, &body)?;
    R::decode(&mut body, version)
}

/// Length, header, body.
fn encode<R: Request>(request: &R, pending: &Pending) -> anyhow::Result<Bytes> {
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(pending.version)
        .with_correlation_id(pending.correlation_id)
        .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)))
        .encode(&mut frame, R::header_version(pending.version))?;
    request.encode(&mut frame, pending.version)?;
    let length = i32::try_from(frame.len() - 4)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame.freeze())
}

/// `None` for a length that no response has.
async fn read_frame(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Bytes>> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await?;
    let length = (&prefix[..]).get_i32();
    let Some(length) = usize::try_from(length).ok().filter(|length| *length <= RESPONSE_BYTES_MAX) else {
        return Ok(None);
    };
    let mut body = BytesMut::with_capacity(length.min(1 << 20));
    let mut limited = stream.take(length as u64);
    while body.len() < length {
        if limited.read_buf(&mut body).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some(body.freeze()))
}
