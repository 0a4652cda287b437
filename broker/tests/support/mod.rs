//! A whole broker in the test's process, and a client that speaks raw frames to it over TCP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use faults::Port;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    ApiKey, FetchRequest, ProduceRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use ottla::api::fetch_session::Sessions;
use ottla::broker::Broker;
use ottla::cluster::Peers;
use ottla::config::{BrokerConfig, CurrentConfig};
use ottla::group::Groups;
use ottla::metadata::image::{Listener, Topic};
use ottla::metadata::{Metadata, Registering, TopicSpec};
use ottla::partition::{Partition, Partitions};
use ottla::server::{Config, Server};
use s3stream::{Storage, StreamMetadata};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;
use wal::memory::MemoryMedium;
use wal::{AckRight, Medium, Vacated};

/// The binary's allocator: with it a request that asks for 154 GB is an ordinary decoding error.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Nothing in these tests takes longer unless it hangs.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What outlives a broker: the bucket and the WAL's medium.
#[derive(Clone)]
pub struct Disk {
    pub store: Arc<dyn ObjectStore>,
    pub wal: MemoryMedium,
    /// Whose it is, and where it listens.
    pub node: u32,
    pub port: Arc<Port>,
    /// Where the others are told that it listens, if that is another port.
    pub advertised: Option<u16>,
}

impl Disk {
    pub fn new() -> Disk {
        Disk::of(1, Arc::new(InMemory::new()))
    }

    /// That of broker `node`, in a cluster on `store`.
    pub fn of(node: u32, store: Arc<dyn ObjectStore>) -> Disk {
        let wal = MemoryMedium::new(&format!("test-{node}"), Default::default());
        Disk { store, wal, node, port: Arc::new(Port::reserve()), advertised: None }
    }

    /// The same bucket with an empty WAL: after an orderly end nothing is in it.
    pub fn with_new_wal(&self) -> Disk {
        Disk::of(self.node, self.store.clone())
    }
}

/// What a test may choose.
#[derive(Clone, Default)]
pub struct Options {
    pub server: Config,
    pub partitions: ottla::partition::Config,
    pub groups: ottla::group::Options,
    pub config: BrokerConfig,
    pub metadata: ottla::metadata::Options,
    pub cluster: ottla::cluster::Config,
}

/// A running broker. Dropping it stops it without waiting.
pub struct TestBroker {
    pub address: SocketAddr,
    pub broker: Arc<Broker>,
    /// Nobody else gets it.
    _port: Arc<Port>,
    pub storage: Storage,
    shutdown: DropGuard,
    serving: JoinHandle<Result<(), ottla::server::Error>>,
}

impl TestBroker {
    pub async fn start() -> TestBroker {
        TestBroker::on(&Disk::new(), Options::default()).await
    }

    pub async fn with_server(server: Config) -> TestBroker {
        TestBroker::on(&Disk::new(), Options { server, ..Options::default() }).await
    }

    /// Starts a new life of the disk's broker, which recovers what the one before left.
    pub async fn on(disk: &Disk, options: Options) -> TestBroker {
        let store: Arc<dyn ObjectStore> = disk.store.clone();
        let metadata = Metadata::open(store.clone(), options.metadata).await.expect("open the metadata");
        let address = SocketAddr::from(([127, 0, 0, 1], disk.port.number()));
        let listener = Listener {
            host: address.ip().to_string().into(),
            port: disk.advertised.unwrap_or(address.port()),
        };
        let registered = metadata
            .register(Registering {
                id: disk.node,
                wal: disk.wal.uri(),
                listener,
                rack: None,
                machine: "machine",
                replaces: metadata.image().last_registration(disk.node),
                claim: None,
            })
            .await
            .expect("register");
        let streams: Arc<dyn StreamMetadata> = metadata.clone();
        let by = registered.incarnation;
        let storage_config = s3stream::Config::default();
        let mut vacated = Vacated::new_medium();
        for previous in registered.previous.into_iter().filter(|of| of.incarnation.broker == disk.node) {
            let left = s3stream::recovery::Left {
                config: &storage_config,
                store: store.clone(),
                metadata: streams.clone(),
                by,
                of: previous.incarnation,
                from: previous.trim,
            };
            vacated = s3stream::recovery::recover(left, &disk.wal).await.expect("recover");
        }
        let right = Arc::new(AckRight::unlimited());
        let wal = disk.wal.open(by, vacated, right.clone()).await.expect("open the WAL");
        metadata.open_leaderships().await.expect("open leaderships");
        let storage = Storage::start(storage_config, store, streams, wal, by);
        let partitions = Partitions::start(options.partitions, by.broker, storage.clone(), metadata.clone());
        let config = Arc::new(options.config);
        let groups = Groups::of_broker(
            options.groups,
            metadata.clone(),
            partitions.clone(),
            right.clone(),
            config.clone(),
        );
        let broker = Arc::new(Broker {
            node_id: disk.node as i32,
            cluster_id: metadata.cluster_id().to_string(),
            configs: Arc::new(CurrentConfig::new(config, disk.node, metadata.clone())),
            data_location: "memory:".to_owned(),
            groups: Arc::new(groups),
            peers: Arc::new(Peers::start(options.cluster, metadata.clone(), right.clone())),
            metadata,
            partitions,
            right,
            fetch_sessions: Sessions::default(),
        });
        let server = Server::bind(options.server, broker.clone(), &[(address, None)]).await.expect("bind");
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.run(shutdown.clone()));
        TestBroker {
            address,
            broker,
            _port: disk.port.clone(),
            storage,
            shutdown: shutdown.drop_guard(),
            serving,
        }
    }

    pub async fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).await.expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        Client { stream, correlation_id: 0 }
    }

    /// A topic, made without the API.
    pub async fn topic(&self, name: &str, partitions: u32, configs: &[(&str, &str)]) -> Arc<Topic> {
        let configs = configs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let spec = TopicSpec { name: name.into(), partitions, configs, leaders: Vec::new() };
        self.broker.metadata.create_topics(vec![spec]).await.remove(0).expect("create the topic")
    }

    /// Uploads what is only in the WAL.
    pub async fn upload(&self) {
        within(self.storage.flush()).await.expect("upload");
    }

    pub async fn partition(&self, topic: &Arc<Topic>, index: i32) -> Arc<Partition> {
        self.broker.partitions.get(topic, index).await.expect("a partition")
    }

    /// An orderly end; what it leaves needs no recovery.
    pub async fn stop(self) {
        within(self.broker.peers.leave()).await;
        drop(self.shutdown);
        within(self.serving).await.expect("the server panicked").expect("the server failed");
        within(self.broker.groups.shutdown()).await;
        within(self.broker.partitions.shutdown()).await;
        within(self.storage.shutdown()).await.expect("shut the storage down");
        within(self.broker.peers.close()).await;
        within(self.broker.metadata.close(true)).await.expect("close the metadata");
    }

    /// The process dies. Only what was durable is left.
    pub async fn crash(self, disk: &Disk) {
        self.serving.abort();
        // Its next life binds the same port: the listener is closed when the task is gone, and not before.
        let ended = within(self.serving).await;
        assert!(ended.is_err_and(|ended| ended.is_cancelled()), "the server ended by itself");
        within(self.broker.peers.close()).await;
        disk.wal.crash(|_| false);
        within(self.broker.metadata.close(false)).await.expect("close the metadata");
    }
}

/// `future`, or a failed test if it hangs.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future).await.expect("the broker hangs")
}

/// Returns once `condition` holds.
pub async fn until(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
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

/// A produce request of one batch to one partition of a topic that is named.
pub fn produce_request(topic: &str, partition: i32, batch: &[u8]) -> ProduceRequest {
    produce_to(TopicProduceData::default().with_name(name(topic)), partition, batch)
}

/// The same, by the topic's id (version 13).
pub fn produce_request_by_id(topic: Uuid, partition: i32, batch: &[u8]) -> ProduceRequest {
    produce_to(TopicProduceData::default().with_topic_id(topic), partition, batch)
}

fn produce_to(topic: TopicProduceData, partition: i32, batch: &[u8]) -> ProduceRequest {
    let data = PartitionProduceData::default()
        .with_index(partition)
        .with_records(Some(Bytes::copy_from_slice(batch)));
    ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(10_000)
        .with_topic_data(vec![topic.with_partition_data(vec![data])])
}

pub fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// A fetch of one partition from an offset, without a wait.
pub fn fetch_request(topic: &str, partition: i32, offset: i64) -> FetchRequest {
    let wanted = FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_last_fetched_epoch(-1)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20);
    FetchRequest::default()
        .with_max_bytes(50 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![FetchTopic::default().with_topic(name(topic)).with_partitions(vec![wanted])])
}

impl Client {
    /// Produces one batch and returns the partition's part of the response.
    pub async fn produce(&mut self, topic: &str, partition: i32, batch: &[u8]) -> PartitionProduceResponse {
        let mut response = self.call(9, &produce_request(topic, partition, batch)).await;
        response.responses.remove(0).partition_responses.remove(0)
    }

    /// Produces one batch that must be taken; its base offset.
    pub async fn produced(&mut self, topic: &str, partition: i32, batch: &[u8]) -> i64 {
        let response = self.produce(topic, partition, batch).await;
        assert_eq!(response.error_code, 0, "{response:?}");
        response.base_offset
    }

    /// Fetches once, without a wait, and returns the partition's part of the response.
    pub async fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> PartitionData {
        let mut response = self.call(12, &fetch_request(topic, partition, offset)).await;
        assert_eq!(response.error_code, 0);
        response.responses.remove(0).partitions.remove(0)
    }
}
