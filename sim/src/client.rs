//! A small Kafka client: one request at a time on each connection, everything else its caller's business.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use host::net::{ReadHalf, WriteHalf};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{ApiKey, MetadataRequest, RequestHeader, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::machine;
use crate::world::{MachineId, World};

pub const PORT: u16 = 9092;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

/// What became of a request.
#[derive(Debug)]
pub enum Failure {
    /// It was never sent.
    Unsent,
    /// It may have had its effect.
    Unknown,
}

struct Connection {
    from: ReadHalf,
    to: WriteHalf,
    correlation_id: i32,
}

/// A client: its connections, and what it believes about the cluster.
pub struct Client {
    world: World,
    brokers: usize,
    connections: BTreeMap<i32, Connection>,
    addresses: BTreeMap<i32, (String, u16)>,
    leaders: BTreeMap<(String, i32), i32>,
    /// The newest leader epoch of each partition that it heard of.
    epochs: BTreeMap<(String, i32), i32>,
}

pub fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// Of the APIs that the workload uses.
fn version(key: i16) -> i16 {
    match ApiKey::try_from(key).expect("an API that there is") {
        ApiKey::Produce => 9,
        ApiKey::Fetch => 12,
        ApiKey::Metadata => 9,
        ApiKey::ListOffsets => 7,
        ApiKey::InitProducerId => 4,
        ApiKey::CreateTopics => 6,
        ApiKey::DeleteTopics => 5,
        ApiKey::DeleteRecords => 2,
        ApiKey::AlterPartitionReassignments => 0,
        ApiKey::FindCoordinator => 3,
        ApiKey::JoinGroup => 5,
        ApiKey::SyncGroup => 3,
        ApiKey::Heartbeat => 3,
        ApiKey::LeaveGroup => 3,
        ApiKey::OffsetCommit => 7,
        ApiKey::OffsetFetch => 5,
        other => unreachable!("{other:?} is not used"),
    }
}

impl Connection {
    async fn open(host: &str, port: u16) -> Result<Connection, Failure> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, host::net::connect(host, port)).await;
        let (from, to) = connected.map_err(|_| Failure::Unsent)?.map_err(|_| Failure::Unsent)?.into_split();
        Ok(Connection { from, to, correlation_id: 0 })
    }

    async fn call<R: Request>(&mut self, request: &R) -> io::Result<R::Response> {
        let version = version(R::KEY);
        self.correlation_id += 1;
        let invalid = |error: anyhow::Error| io::Error::other(error);
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("sim")))
            .encode(&mut frame, R::header_version(version))
            .map_err(invalid)?;
        request.encode(&mut frame, version).map_err(invalid)?;
        let length = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.to.write_all(&frame).await?;
        let length = self.from.read_i32().await?;
        let mut body = vec![0; length as usize];
        self.from.read_exact(&mut body).await?;
        let mut body = Bytes::from(body);
        let key = ApiKey::try_from(R::KEY).expect("an API that there is");
        let header =
            ResponseHeader::decode(&mut body, key.response_header_version(version)).map_err(invalid)?;
        assert_eq!(header.correlation_id, self.correlation_id, "an answer to another question");
        R::Response::decode(&mut body, version).map_err(invalid)
    }
}

impl Client {
    pub fn new(world: World, brokers: usize) -> Client {
        Client {
            world,
            brokers,
            connections: BTreeMap::new(),
            addresses: BTreeMap::new(),
            leaders: BTreeMap::new(),
            epochs: BTreeMap::new(),
        }
    }

    pub fn pick(&self, below: usize) -> usize {
        self.world.lock().random.random_range(0..below.max(1))
    }

    /// Any broker, whatever its id: asked for what any of them knows.
    pub async fn call_any<R: Request>(&mut self, request: &R) -> Result<R::Response, Failure> {
        // Of the machines of brokers, and of those where they may be besides, behind this one.
        let machine = self.pick(2 * self.brokers);
        let machine: MachineId = if machine < self.brokers { machine } else { machine + 1 };
        let host = machine::address(machine).to_string();
        let mut connection = Connection::open(&host, PORT).await?;
        match tokio::time::timeout(CALL_TIMEOUT, connection.call(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(Failure::Unknown),
        }
    }

    /// The broker of that id.
    pub async fn call<R: Request>(&mut self, node: i32, request: &R) -> Result<R::Response, Failure> {
        let mut connection = match self.connections.remove(&node) {
            Some(connection) => connection,
            None => {
                let (host, port) = self.addresses.get(&node).cloned().ok_or(Failure::Unsent)?;
                Connection::open(&host, port).await?
            }
        };
        match tokio::time::timeout(CALL_TIMEOUT, connection.call(request)).await {
            Ok(Ok(answer)) => {
                self.connections.insert(node, connection);
                Ok(answer)
            }
            _ => Err(Failure::Unknown),
        }
    }

    /// Where the broker of that id is.
    pub fn learn(&mut self, node: i32, host: &str, port: i32) {
        let address = (host.to_owned(), port as u16);
        if self.addresses.insert(node, address.clone()).is_some_and(|before| before != address) {
            self.connections.remove(&node);
        }
    }

    /// The brokers that were heard of.
    pub fn nodes(&self) -> Vec<i32> {
        self.addresses.keys().copied().collect()
    }

    /// Learns who leads what.
    pub async fn refresh(&mut self, topics: &[String]) -> Result<(), Failure> {
        let wanted =
            topics.iter().map(|topic| MetadataRequestTopic::default().with_name(Some(name(topic)))).collect();
        let request =
            MetadataRequest::default().with_topics(Some(wanted)).with_allow_auto_topic_creation(false);
        let answer = self.call_any(&request).await?;
        for broker in answer.brokers {
            self.learn(broker.node_id.0, &broker.host, broker.port);
        }
        for topic in answer.topics {
            let Some(topic_name) = topic.name.map(|name| name.0.to_string()) else { continue };
            for partition in topic.partitions {
                let key = (topic_name.clone(), partition.partition_index);
                // What is older than what is known is not believed, as Kafka's clients do not (KIP-320).
                let known = self.epochs.get(&key).copied().unwrap_or(-1);
                if partition.leader_epoch < known {
                    continue;
                }
                match partition.leader_id.0 {
                    leader if leader >= 0 && partition.error_code == 0 => {
                        self.epochs.insert(key.clone(), partition.leader_epoch);
                        self.leaders.insert(key, leader);
                    }
                    _ => {
                        self.leaders.remove(&key);
                    }
                }
            }
        }
        Ok(())
    }

    pub fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        self.leaders.get(&(topic.to_owned(), partition)).copied()
    }

    /// Of its leader; -1 if that is not known.
    pub fn epoch(&self, topic: &str, partition: i32) -> i32 {
        self.epochs.get(&(topic.to_owned(), partition)).copied().unwrap_or(-1)
    }

    /// Somebody read what a leader of that epoch wrote.
    pub fn learn_epoch(&mut self, topic: &str, partition: i32, epoch: i32) {
        if epoch > self.epoch(topic, partition) {
            self.epochs.insert((topic.to_owned(), partition), epoch);
            self.forget_leader(topic, partition);
        }
    }

    pub fn forget_leader(&mut self, topic: &str, partition: i32) {
        self.leaders.remove(&(topic.to_owned(), partition));
    }
}
