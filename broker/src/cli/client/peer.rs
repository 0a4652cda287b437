//! A broker of these tests: answers as a test says, and tells what it was asked.

use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, BrokerId, FindCoordinatorResponse, RequestHeader, RequestKind,
    ResponseHeader, ResponseKind,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub struct Peer {
    pub address: String,
    asked: Arc<Mutex<Vec<RequestKind>>>,
}

impl Peer {
    /// What it speaks it says by itself; `answer` is for the rest. Lives as long as the test's runtime.
    pub async fn start<F, A>(answer: F) -> Peer
    where
        F: Fn(RequestKind) -> A + Send + Sync + 'static,
        A: Future<Output = ResponseKind> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let (answer, kept) = (Arc::new(answer), asked.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, answer.clone(), kept.clone()));
            }
        });
        Peer { address, asked }
    }

    /// All requests so far, but those for what it speaks.
    pub fn asked(&self) -> Vec<RequestKind> {
        self.asked.lock().clone()
    }
}

/// The answer that `node`, at `address`, coordinates.
pub fn coordinator(node: i32, address: &str) -> ResponseKind {
    let (host, port) = address.split_once(':').unwrap();
    let response = FindCoordinatorResponse::default()
        .with_node_id(BrokerId(node))
        .with_host(StrBytes::from_string(host.to_owned()))
        .with_port(port.parse().unwrap());
    ResponseKind::FindCoordinator(response)
}

/// Until the client closes the connection.
async fn serve<F, A>(mut stream: TcpStream, answer: Arc<F>, asked: Arc<Mutex<Vec<RequestKind>>>)
where
    F: Fn(RequestKind) -> A,
    A: Future<Output = ResponseKind>,
{
    while let Ok(length) = stream.read_u32().await {
        let mut frame = BytesMut::zeroed(length as usize);
        stream.read_exact(&mut frame).await.unwrap();
        let mut frame = frame.freeze();
        let (key, version) = ((&frame[..2]).get_i16(), (&frame[2..4]).get_i16());
        let key = ApiKey::try_from(key).unwrap();
        let header = RequestHeader::decode(&mut frame, key.request_header_version(version)).unwrap();
        let response = if key == ApiKey::ApiVersions {
            versions()
        } else {
            let request = RequestKind::decode(key, &mut frame, version).unwrap();
            asked.lock().push(request.clone());
            answer(request).await
        };
        let mut frame = BytesMut::new();
        frame.put_u32(0);
        ResponseHeader::default()
            .with_correlation_id(header.correlation_id)
            .encode(&mut frame, key.response_header_version(version))
            .unwrap();
        response.encode(&mut frame, version).unwrap();
        let length = frame.len() as u32 - 4;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        if stream.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// It speaks all that the codec does.
fn versions() -> ResponseKind {
    let keys = (0..100).filter_map(|key| ApiKey::try_from(key).ok());
    let versions = keys.map(|key| {
        let range = key.valid_versions();
        ApiVersion::default().with_api_key(key as i16).with_min_version(range.min).with_max_version(range.max)
    });
    ResponseKind::ApiVersions(ApiVersionsResponse::default().with_api_keys(versions.collect()))
}
