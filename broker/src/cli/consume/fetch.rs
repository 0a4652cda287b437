//! Fetches from the leaders of some partitions, all of them at once.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest};

use crate::cli::client::records::{self, Record};
use crate::cli::client::{Client, EARLIEST, Error, LATEST, Topic, check, no_partition, topic_name};
use crate::cli::topic::millis;

/// Bytes that one fetch may bring, of all partitions and of one.
const FETCH_BYTES_MAX: i32 = 16 << 20;
const PARTITION_BYTES_MAX: i32 = 2 << 20;

/// Positions, and where to ask.
#[derive(Debug)]
pub struct Fetcher {
    topic: Topic,
    positions: BTreeMap<i32, i64>,
    /// Whether the user named the offset: then one that is not there is an error.
    exact: bool,
}

/// What came of a partition.
#[derive(Debug)]
pub struct Polled {
    pub partition: i32,
    pub records: Vec<Record>,
    /// Where to read on when all of `records` are dealt with.
    pub next: i64,
}

impl Fetcher {
    pub fn new(topic: Topic, positions: BTreeMap<i32, i64>, exact: bool) -> Fetcher {
        Fetcher { topic, positions, exact }
    }

    /// The next offset of each partition that is not dealt with yet.
    pub fn positions(&self) -> &BTreeMap<i32, i64> {
        &self.positions
    }

    pub fn advance(&mut self, partition: i32, to: i64) {
        if let Some(position) = self.positions.get_mut(&partition) {
            *position = to.max(*position);
        }
    }

    /// Waits up to `wait` for something in `partitions`. Leaders that moved and brokers that restart are followed, for as
    /// long as the client's patience lasts.
    pub async fn poll(
        &mut self,
        client: &mut Client,
        partitions: &[i32],
        wait: Duration,
    ) -> Result<Vec<Polled>, Error> {
        let mut retry = client.retry();
        loop {
            match self.poll_once(client, partitions, wait).await {
                Ok(polled) => return Ok(polled),
                Err(error) => {
                    retry.pause(error).await?;
                    self.topic = client.topic(&self.topic.name, false).await?;
                }
            }
        }
    }

    async fn poll_once(
        &mut self,
        client: &mut Client,
        partitions: &[i32],
        wait: Duration,
    ) -> Result<Vec<Polled>, Error> {
        let mut by_leader: BTreeMap<i32, Vec<FetchPartition>> = BTreeMap::new();
        for partition in partitions {
            let leader = self.topic.leaders.get(partition);
            let leader = leader.ok_or_else(|| no_partition(&self.topic.name, *partition))?;
            let asked = FetchPartition::default()
                .with_partition(*partition)
                .with_fetch_offset(self.positions[partition])
                .with_partition_max_bytes(PARTITION_BYTES_MAX);
            by_leader.entry(*leader).or_default().push(asked);
        }
        let mut calls = Vec::new();
        for (leader, partitions) in by_leader {
            let request = self.request(partitions, wait);
            let mut connection = client.take_node(leader).await?;
            let timeout = client.request_timeout() + wait;
            calls.push(async move {
                connection.call(&request, timeout).await.map(|response| (connection, response))
            });
        }
        let mut polled = Vec::new();
        let mut failure = None;
        for answer in join_all(calls).await {
            let (connection, response) = answer?;
            client.put_back(connection);
            check(response.error_code, || format!("fetching from {}", self.topic.name), None)?;
            for data in response.responses.into_iter().flat_map(|topic| topic.partitions) {
                match self.read(client, data).await {
                    Ok(some) => polled.extend(some),
                    Err(error) if error.is_retriable() => failure = Some(error),
                    Err(error) => return Err(error),
                }
            }
        }
        // What came is not thrown away because another partition's leader moved.
        match failure {
            Some(error) if polled.is_empty() => Err(error),
            _ => Ok(polled),
        }
    }

    fn request(&self, partitions: Vec<FetchPartition>, wait: Duration) -> FetchRequest {
        let topic =
            FetchTopic::default().with_topic(topic_name(&self.topic.name)).with_partitions(partitions);
        FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(millis(wait))
            .with_min_bytes(1)
            .with_max_bytes(FETCH_BYTES_MAX)
            .with_isolation_level(1)
            .with_session_id(0)
            .with_session_epoch(-1)
            .with_topics(vec![topic])
    }

    async fn read(&mut self, client: &mut Client, data: PartitionData) -> Result<Option<Polled>, Error> {
        let partition = data.partition_index;
        let Some(&position) = self.positions.get(&partition) else { return Ok(None) };
        if data.error_code == ResponseError::OffsetOutOfRange.code() {
            self.out_of_range(client, partition, position).await?;
            return Ok(None);
        }
        check(data.error_code, || format!("fetching {} [{partition}]", self.topic.name), None)?;
        let decoded = records::decode(data.records.unwrap_or_default(), position).map_err(|error| {
            Error::Malformed {
                address: format!("{} [{partition}]", self.topic.name),
                detail: error.to_string(),
            }
        })?;
        let next = decoded.next.unwrap_or(position);
        Ok((next > position).then_some(Polled { partition, records: decoded.records, next }))
    }

    /// The offset is gone (retention) or was never there. Goes on with what there is, and says so.
    async fn out_of_range(
        &mut self,
        client: &mut Client,
        partition: i32,
        position: i64,
    ) -> Result<(), Error> {
        let name = self.topic.name.clone();
        let start = client.offsets(&name, &[partition], EARLIEST).await?[&partition];
        let end = client.offsets(&name, &[partition], LATEST).await?[&partition];
        if self.exact {
            check_offset(&name, partition, position, start, end)?;
        }
        let to = position.clamp(start, end);
        if to == position {
            // In range by now.
            return Ok(());
        }
        eprintln!("{name} [{partition}]: offset {position} is gone; going on at {to}");
        self.positions.insert(partition, to);
        Ok(())
    }
}

/// An offset that the user named must be one that is there, or the next to come.
pub fn check_offset(topic: &str, partition: i32, offset: i64, start: i64, end: i64) -> Result<(), Error> {
    if (start..=end).contains(&offset) {
        return Ok(());
    }
    Err(Error::Usage(format!("{topic} [{partition}] has no offset {offset}; it holds {start} to {end}")))
}
