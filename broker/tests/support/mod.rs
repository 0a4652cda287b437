//! A whole broker in the test's process, and a client that speaks raw frames to it over TCP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use object_store::memory::InMemory;
use ottla::broker::Broker;
use ottla::config::BrokerConfig;
use ottla::metadata::Metadata;
use ottla::metadata::image::Listener;
use ottla::server::{Config, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The binary's allocator: with it a request that asks for 154 GB is an ordinary decoding error.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Nothing in these tests takes longer unless it hangs.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A running broker. Dropping it stops it without waiting; [`TestBroker::stop`] waits.
pub struct TestBroker {
    pub address: SocketAddr,
    shutdown: DropGuard,
    serving: JoinHandle<Result<(), ottla::server::Error>>,
}

impl TestBroker {
    pub async fn start() -> TestBroker {
        TestBroker::with_server(Config::default()).await
    }

    pub async fn with_server(config: Config) -> TestBroker {
        let metadata = metadata().await;
        let broker = Arc::new(Broker {
            node_id: 1,
            cluster_id: metadata.cluster_id().to_string(),
            config: Arc::new(BrokerConfig::default()),
            metadata,
        });
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::bind(config, broker, &[(loopback, None)]).await.expect("bind");
        let address = server.addresses().next().expect("one listener").0;
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.run(shutdown.clone()));
        TestBroker { address, shutdown: shutdown.drop_guard(), serving }
    }

    pub async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        Client { stream, correlation_id: 0 }
    }

    pub async fn stop(self) {
        drop(self.shutdown);
        within(self.serving).await.expect("the server panicked").expect("the server failed");
    }
}

/// A cluster of its own, of which broker 1 leads everything.
async fn metadata() -> Arc<Metadata> {
    let store = Arc::new(InMemory::new());
    let metadata = Metadata::open(store, ottla::metadata::Options::default()).await.expect("open");
    let listener = Listener { host: "127.0.0.1".into(), port: 9092 };
    metadata.register(1, &wal::Uri("memory:test".to_owned()), listener, None).await.expect("register");
    metadata.open_leaderships().await.expect("open leaderships");
    metadata
}

/// `future`, or a failed test if it hangs.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("the broker hangs")
}

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    correlation_id: i32,
}

impl Client {
    /// Sends a request and waits for its response.
    pub async fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let correlation_id = self.send(version, request).await;
        self.receive::<R>(version, correlation_id).await
    }

    /// Sends a request; returns its correlation id.
    pub async fn send<R: Request>(&mut self, version: i16, request: &R) -> i32 {
        self.correlation_id += 1;
        let frame = frame(version, self.correlation_id, request);
        self.send_raw(&frame).await;
        self.correlation_id
    }

    /// Waits for the next response, which must be the one to `correlation_id`.
    pub async fn receive<R: Request>(&mut self, version: i16, correlation_id: i32) -> R::Response {
        let mut frame = self.receive_frame().await.expect("a response, not the end of the connection");
        let key = ApiKey::try_from(R::KEY).expect("a known key");
        let header =
            ResponseHeader::decode(&mut frame, key.response_header_version(version)).expect("header");
        assert_eq!(header.correlation_id, correlation_id, "responses out of order");
        let response = R::Response::decode(&mut frame, version).expect("response");
        assert!(!frame.has_remaining(), "{} bytes behind the response", frame.remaining());
        response
    }

    pub async fn send_raw(&mut self, bytes: &[u8]) {
        within(self.stream.write_all(bytes)).await.expect("send");
    }

    /// The next frame without its length; `None` if the broker closed the connection.
    pub async fn receive_frame(&mut self) -> Option<Bytes> {
        let length = match within(self.stream.read_i32()).await {
            Ok(length) => usize::try_from(length).expect("a length"),
            Err(_) => return None,
        };
        let mut bytes = vec![0; length];
        within(self.stream.read_exact(&mut bytes)).await.expect("a whole frame");
        Some(Bytes::from(bytes))
    }

    /// Waits until the broker closes the connection, without having sent anything more.
    pub async fn closed(&mut self) {
        assert!(self.receive_frame().await.is_none(), "a response instead of the end of the connection");
    }
}

/// A whole frame: length, header, body.
pub fn frame<R: Request>(version: i16, correlation_id: i32, request: &R) -> Vec<u8> {
    let key = ApiKey::try_from(R::KEY).expect("a known key");
    let mut bytes = BytesMut::new();
    bytes.put_i32(0);
    RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_static_str("behaviours")))
        .encode(&mut bytes, key.request_header_version(version))
        .expect("header");
    request.encode(&mut bytes, version).expect("request");
    let length = (bytes.len() - 4) as i32;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes.to_vec()
}
