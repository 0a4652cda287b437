//! A small Kafka client for the command line: one task, few connections, every failure explained.
//!
//! ```text
//!   commands ── Client ── who leads what, retries
//!                 ├── coordinator: who coordinates whom
//!                 └── Connection ── frames, correlation ids, version negotiation
//! ```
//!
//! A connection is taken out of the client for a call and put back after it, so a call that is cancelled or fails leaves
//! no half-read connection behind.

mod connection;
mod coordinator;
mod error;
#[cfg(test)]
pub mod peer;
pub mod records;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::{Request, StrBytes};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::cluster::state::{Ask, CLUSTER_STATE, ClusterState};

pub use connection::Connection;
pub use error::{Error, check};

/// One answer is waited for a part of what a command waits in all, within bounds: a leader that hangs is left for the next one, which
/// is there a few seconds later.
const REQUESTS_PER_TIMEOUT: u32 = 3;
const REQUEST_TIMEOUT_MIN: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT_MAX: Duration = Duration::from_secs(10);

/// For ListOffsets: the first offset that is there.
pub const EARLIEST: i64 = -2;
/// For ListOffsets: the offset after the last record.
pub const LATEST: i64 = -1;

/// Where to find brokers, and how long to try.
#[derive(Clone, Debug, clap::Args)]
pub struct Connect {
    /// A broker of the cluster; several, separated by commas, are tried in turn
    #[arg(
        long,
        env = "OTTLA_BOOTSTRAP",
        default_value = "127.0.0.1:9092",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    pub bootstrap: Vec<String>,

    /// How long to keep trying before giving up, as in 500ms, 10s or 5m
    #[arg(
        long,
        env = "OTTLA_TIMEOUT",
        default_value = "30s",
        value_name = "TIME",
        value_parser = humantime::parse_duration
    )]
    pub timeout: Duration,
}

/// A topic as a broker describes it.
#[derive(Clone, Debug)]
pub struct Topic {
    pub name: String,
    pub id: uuid::Uuid,
    /// The leader of each partition.
    pub leaders: BTreeMap<i32, i32>,
}

#[derive(Debug)]
pub struct Client {
    bootstrap: Vec<String>,
    timeout: Duration,
    /// Idle connections by address.
    idle: HashMap<String, Connection>,
    known: Arc<Mutex<Known>>,
}

/// What is known of the cluster, by this client and those [`beside`](Client::beside) it.
#[derive(Debug, Default)]
struct Known {
    /// Addresses by node id.
    nodes: BTreeMap<i32, String>,
    /// Addresses that did not answer in time when they were asked last.
    silent: BTreeSet<String>,
    /// Whether a broker was ever reached: from then on an unreachable one is taken to be restarting.
    reached: bool,
}

impl Client {
    pub fn new(connect: &Connect) -> Client {
        Client {
            bootstrap: connect.bootstrap.clone(),
            timeout: connect.timeout,
            idle: HashMap::new(),
            known: Arc::default(),
        }
    }

    /// Another one of the same cluster, with connections of its own: for requests that wait for no others.
    pub fn beside(&self) -> Client {
        Client {
            bootstrap: self.bootstrap.clone(),
            timeout: self.timeout,
            idle: HashMap::new(),
            known: self.known.clone(),
        }
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How long one answer is waited for where the request can be sent again, if need be to somebody else.
    pub fn request_timeout(&self) -> Duration {
        let part = (self.timeout / REQUESTS_PER_TIMEOUT).clamp(REQUEST_TIMEOUT_MIN, REQUEST_TIMEOUT_MAX);
        part.min(self.timeout)
    }

    pub fn retry(&self) -> Retry {
        Retry {
            deadline: Instant::now() + self.timeout,
            pause: Duration::from_millis(50),
            reconnect: self.known.lock().reached,
        }
    }

    /// The ids of all brokers that the last metadata named.
    pub fn nodes(&self) -> Vec<i32> {
        self.known.lock().nodes.keys().copied().collect()
    }

    /// Asks any broker; the first bootstrap address that answers.
    pub async fn call_any<R: Request>(&mut self, request: &R) -> Result<R::Response, Error> {
        let mut last = None;
        for address in self.bootstrap.clone() {
            match self.call_address(&address, request, self.timeout).await {
                Err(error @ (Error::Connect { .. } | Error::Lost { .. })) => last = Some(error),
                other => return other,
            }
        }
        Err(last.expect("the command line demands an address"))
    }

    /// Asks any broker, and the next one if it does not answer: the request must bear a repetition. Who did not answer in time
    /// is asked last the next time.
    async fn ask_around<R: Request>(&mut self, request: &R) -> Result<R::Response, Error> {
        let mut addresses = self.bootstrap.clone();
        {
            let Known { nodes, silent, .. } = &*self.known.lock();
            addresses.extend(nodes.values().filter(|address| !self.bootstrap.contains(address)).cloned());
            addresses.sort_by_key(|address| silent.contains(address));
        }
        let mut first = None;
        for address in addresses {
            let timeout = self.request_timeout();
            let asked = tokio::time::timeout(timeout, self.call_address(&address, request, timeout)).await;
            match asked.unwrap_or_else(|_| Err(Error::Timeout { address: address.clone(), timeout })) {
                Err(error @ (Error::Connect { .. } | Error::Lost { .. } | Error::Timeout { .. })) => {
                    if matches!(error, Error::Timeout { .. }) {
                        self.known.lock().silent.insert(address);
                    }
                    first = first.or(Some(error));
                }
                other => return other,
            }
        }
        Err(first.expect("the command line demands an address"))
    }

    /// Asks a certain broker.
    pub async fn call<R: Request>(&mut self, node: i32, request: &R) -> Result<R::Response, Error> {
        let address = self.address(node)?;
        self.call_address(&address, request, self.timeout).await
    }

    async fn call_address<R: Request>(
        &mut self,
        address: &str,
        request: &R,
        timeout: Duration,
    ) -> Result<R::Response, Error> {
        let mut connection = self.take(address).await?;
        let response = connection.call(request, timeout).await?;
        self.put_back(connection);
        Ok(response)
    }

    /// The state of the cluster as any broker knows it, after what is asked.
    pub async fn cluster_state(&mut self, ask: Ask) -> Result<ClusterState, Error> {
        let mut last = None;
        for address in self.bootstrap.clone() {
            match self.state_from(&address, ask).await {
                Err(error @ (Error::Connect { .. } | Error::Lost { .. })) => last = Some(error),
                other => return other,
            }
        }
        Err(last.expect("the command line demands an address"))
    }

    /// The same, of the broker at `address`.
    pub async fn state_from(&mut self, address: &str, ask: Ask) -> Result<ClusterState, Error> {
        let mut connection = self.take(address).await?;
        let body = connection.call_own(CLUSTER_STATE, &ask.encode(), self.timeout).await?;
        self.put_back(connection);
        ClusterState::decode(&body)
            .map_err(|error| Error::Malformed { address: address.to_owned(), detail: error.to_string() })
    }

    /// A connection to a certain broker, to be given back with [`put_back`](Client::put_back) unless it failed.
    pub async fn take_node(&mut self, node: i32) -> Result<Connection, Error> {
        let (address, timeout) = (self.address(node)?, self.request_timeout());
        let taken = tokio::time::timeout(timeout, self.take(&address)).await;
        let taken = taken.unwrap_or_else(|_| Err(Error::Timeout { address, timeout }));
        taken.map_err(|error| match error {
            // Not an address that the user gave.
            Error::Connect { address, reason } => Error::Advertised { node, address, reason },
            other => other,
        })
    }

    pub fn put_back(&mut self, connection: Connection) {
        self.known.lock().silent.remove(connection.address());
        self.idle.insert(connection.address().to_owned(), connection);
    }

    async fn take(&mut self, address: &str) -> Result<Connection, Error> {
        match self.idle.remove(address) {
            Some(connection) => Ok(connection),
            None => {
                let connection = Connection::open(address, self.timeout).await?;
                self.known.lock().reached = true;
                Ok(connection)
            }
        }
    }

    fn address(&self, node: i32) -> Result<String, Error> {
        self.known.lock().nodes.get(&node).cloned().ok_or(Error::NoBroker { node })
    }

    /// Asks for some topics or, with `None`, for all; remembers where the brokers are.
    pub async fn metadata(
        &mut self,
        topics: Option<&[&str]>,
        create: bool,
    ) -> Result<MetadataResponse, Error> {
        let topics = topics.map(|names| {
            let topic = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
            names.iter().map(topic).collect()
        });
        let request = MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(create);
        let response = self.ask_around(&request).await?;
        let brokers = response.brokers.iter();
        self.known.lock().nodes = brokers
            .map(|broker| (broker.node_id.0, format!("{}:{}", broker.host.as_str(), broker.port)))
            .collect();
        Ok(response)
    }

    /// A topic with all its leaders; waits for them as long as retries last. `create` lets the broker create it.
    pub async fn topic(&mut self, name: &str, create: bool) -> Result<Topic, Error> {
        let mut retry = self.retry();
        loop {
            let error = match self.metadata(Some(&[name]), create).await {
                Ok(response) => match read_topic(&response, name) {
                    // Just created, it may take a moment to appear. Without creation the answer is final.
                    Err(error) if !create && error.is(ResponseError::UnknownTopicOrPartition) => {
                        return Err(error);
                    }
                    Err(error) => error,
                    Ok(topic) => return Ok(topic),
                },
                Err(error) => error,
            };
            retry.pause(error).await?;
        }
    }

    /// [`EARLIEST`], [`LATEST`] or the first offset at a time, for each partition. -1 if there is none.
    pub async fn offsets(
        &mut self,
        topic: &str,
        partitions: &[i32],
        timestamp: i64,
    ) -> Result<BTreeMap<i32, i64>, Error> {
        let mut retry = self.retry();
        let mut found = BTreeMap::new();
        loop {
            let asked = self.offsets_once(topic, partitions, timestamp, &mut found).await;
            match asked {
                Ok(()) => return Ok(found),
                Err(error) => retry.pause(error).await?,
            }
        }
    }

    async fn offsets_once(
        &mut self,
        topic: &str,
        partitions: &[i32],
        timestamp: i64,
        found: &mut BTreeMap<i32, i64>,
    ) -> Result<(), Error> {
        let leaders = self.topic(topic, false).await?.leaders;
        let mut by_leader: BTreeMap<i32, Vec<ListOffsetsPartition>> = BTreeMap::new();
        for &partition in partitions.iter().filter(|partition| !found.contains_key(partition)) {
            let leader = *leaders.get(&partition).ok_or_else(|| no_partition(topic, partition))?;
            let asked =
                ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(timestamp);
            by_leader.entry(leader).or_default().push(asked);
        }
        let mut calls = Vec::new();
        for (leader, partitions) in by_leader {
            let topic = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(partitions);
            let request =
                ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
            let mut connection = self.take_node(leader).await?;
            let timeout = self.request_timeout();
            calls.push(async move {
                connection.call(&request, timeout).await.map(|response| (connection, response))
            });
        }
        for answer in join_all(calls).await {
            let (connection, response) = answer?;
            self.put_back(connection);
            for partition in response.topics.into_iter().flat_map(|topic| topic.partitions) {
                let what = || format!("asking for offsets of {topic} [{}]", partition.partition_index);
                check(partition.error_code, what, None)?;
                found.insert(partition.partition_index, partition.offset);
            }
        }
        match partitions.iter().find(|partition| !found.contains_key(partition)) {
            Some(partition) => Err(Error::Malformed {
                address: topic.to_owned(),
                detail: format!("no offset of partition {partition} in the answer"),
            }),
            None => Ok(()),
        }
    }
}

/// Bounded patience: pauses grow, and the deadline ends them.
#[derive(Debug)]
pub struct Retry {
    deadline: Instant,
    pause: Duration,
    /// Whether an address that does not answer may come back.
    reconnect: bool,
}

impl Retry {
    /// Waits a little if `error` may pass, otherwise gives it back.
    pub async fn pause(&mut self, error: Error) -> Result<(), Error> {
        let hope = error.is_retriable() || (self.reconnect && error.is_unreachable());
        if !hope || Instant::now() + self.pause > self.deadline {
            return Err(error);
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(1));
        Ok(())
    }
}

pub fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

pub fn no_partition(topic: &str, partition: i32) -> Error {
    Error::Usage(format!(
        "topic {topic} has no partition {partition}; `ottla topic describe {topic}` shows those it has"
    ))
}

fn read_topic(response: &MetadataResponse, name: &str) -> Result<Topic, Error> {
    let found =
        response.topics.iter().find(|topic| topic.name.as_ref().is_some_and(|found| found.as_str() == name));
    let Some(topic) = found else {
        return Err(Error::Malformed {
            address: name.to_owned(),
            detail: "the broker's metadata does not mention the topic".to_owned(),
        });
    };
    check(topic.error_code, || format!("topic {name}"), None)?;
    let mut leaders = BTreeMap::new();
    for partition in &topic.partitions {
        // 5: no leader now. 9: a replica is missing, which does not matter here.
        if partition.error_code != ResponseError::ReplicaNotAvailable.code() {
            check(
                partition.error_code,
                || format!("partition {name} [{}]", partition.partition_index),
                None,
            )?;
        }
        leaders.insert(partition.partition_index, partition.leader_id.0);
    }
    if leaders.is_empty() {
        return check(ResponseError::LeaderNotAvailable.code(), || format!("topic {name}"), None)
            .map(|()| unreachable!("an error code is an error"));
    }
    Ok(Topic { name: name.to_owned(), id: topic.topic_id, leaders })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A leader that accepts and answers nothing takes a part of the time only, and the next one is asked for meanwhile.
    #[tokio::test]
    async fn who_does_not_answer_is_left_for_another() {
        let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = hanging.local_addr().unwrap().to_string();
        let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let next = refusing.local_addr().unwrap().to_string();
        let connect = Connect { bootstrap: vec![address.clone()], timeout: Duration::from_millis(600) };
        let mut client = Client::new(&connect);
        let parts = [1, 4, 15, 3600].map(|seconds| {
            let timeout = Duration::from_secs(seconds);
            Client::new(&Connect { timeout, ..connect.clone() }).request_timeout().as_secs()
        });
        assert_eq!(parts, [1, 2, 5, 10]);
        client.known.lock().nodes = BTreeMap::from([(1, address.clone()), (2, next)]);
        let asked_next = async { refusing.accept().await.unwrap() };
        let (error, _) = tokio::join!(client.metadata(None, false), asked_next);
        let error = error.unwrap_err();
        assert!(matches!(&error, Error::Timeout { address: first, .. } if *first == address), "{error}");
        let error = client.take_node(1).await.unwrap_err();
        assert!(error.is_retriable(), "{error}");
        // Nothing is tried for longer than was said.
        let mut retry = client.retry();
        retry.deadline = Instant::now();
        assert!(retry.pause(error).await.is_err());
    }
}
