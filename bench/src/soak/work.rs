//! The load: who writes and reads what, and what each checks.
//!
//! A broken connection or a retriable error is waited out and tried again, as any client would; the batch that was under way
//! is sent again with its sequence. Whatever contradicts what was acknowledged goes to [`World::violation`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use parking_lot::Mutex;
use rand::Rng;

use crate::batch::{self, Producer};
use crate::client::{Connection, text, topic_name};

pub const EARLIEST: i64 = -2;
pub const LATEST: i64 = -1;
const OFFSET_OUT_OF_RANGE: i16 = 1;
const FETCH_BYTES: i32 = 1 << 20;

/// A partition of the steady topics.
#[derive(Debug)]
pub struct Partition {
    pub topic: String,
    pub index: i32,
    /// Records that were acknowledged: all below it.
    pub acknowledged: AtomicU64,
}

/// What all share.
#[derive(Debug)]
pub struct World {
    pub port: u16,
    pub partitions: Vec<Partition>,
    pub record_bytes: usize,
    pub batches_per_second: f64,
    /// Records that a partition keeps, where the broker deletes records.
    pub keep_records: u64,
    pub stopping: AtomicBool,
    pub consumed: AtomicU64,
    pub rebalances: AtomicU64,
    pub interruptions: AtomicU64,
    pub churned: AtomicU64,
    last_interruption: Mutex<String>,
    violations: Mutex<Vec<String>>,
}

impl World {
    pub fn new(port: u16, topics: usize, partitions: i32) -> World {
        let partition = |topic: usize, index| Partition {
            topic: format!("steady-{topic}"),
            index,
            acknowledged: AtomicU64::new(0),
        };
        let partitions =
            (0..topics).flat_map(|topic| (0..partitions).map(move |index| partition(topic, index))).collect();
        World {
            port,
            partitions,
            record_bytes: 500,
            batches_per_second: 10.0,
            keep_records: 20_000,
            stopping: AtomicBool::new(false),
            consumed: AtomicU64::new(0),
            rebalances: AtomicU64::new(0),
            interruptions: AtomicU64::new(0),
            churned: AtomicU64::new(0),
            last_interruption: Mutex::default(),
            violations: Mutex::default(),
        }
    }

    pub fn running(&self) -> bool {
        !self.stopping.load(Ordering::Relaxed)
    }

    pub fn violation(&self, what: String) {
        eprintln!("VIOLATION: {what}");
        self.violations.lock().push(what);
    }

    /// What happened so far.
    pub fn progress(&self) -> String {
        let acknowledged: u64 =
            self.partitions.iter().map(|partition| partition.acknowledged.load(Ordering::Relaxed)).sum();
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        format!(
            "{acknowledged} records acknowledged, {} consumed, {} rebalances, {} topics passed, {} interruptions ({})",
            count(&self.consumed),
            count(&self.rebalances),
            count(&self.churned),
            count(&self.interruptions),
            self.last_interruption.lock()
        )
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    /// Something to be tried again; not too soon.
    pub async fn interrupted(&self, why: impl std::fmt::Display) {
        self.interruptions.fetch_add(1, Ordering::Relaxed);
        *self.last_interruption.lock() = format!("{why:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn producer_id(connection: &mut Connection) -> anyhow::Result<Producer> {
    let request =
        InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000);
    let response = connection.call(4, &request).await?;
    ensure!(response.error_code == 0, "a producer id: error {}", response.error_code);
    Ok(Producer { id: response.producer_id.0, epoch: response.producer_epoch })
}

/// Sends one batch; the offset it got, or the error's code.
async fn send(
    connection: &mut Connection,
    topic: &str,
    index: i32,
    batch: Bytes,
) -> anyhow::Result<Result<i64, i16>> {
    let data = PartitionProduceData::default().with_index(index).with_records(Some(batch));
    let topic = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
    let request =
        ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]);
    let response = connection.call(9, &request).await?;
    let answer = &response.responses[0].partition_responses[0];
    Ok(if answer.error_code == 0 { Ok(answer.base_offset) } else { Err(answer.error_code) })
}

/// The one producer of a partition.
pub async fn produce(world: &World, partition: &Partition) {
    let mut connection = None;
    let mut producer = None;
    let mut sequence = 0;
    while world.running() {
        let first = partition.acknowledged.load(Ordering::Relaxed);
        let count: u32 = rand::rng().random_range(1..=20);
        // Until it is acknowledged, the same batch.
        loop {
            let attempt = async {
                let connection = match &mut connection {
                    Some(connection) => connection,
                    None => connection.insert(Connection::open(world.port).await?),
                };
                let producer = match producer {
                    Some(producer) => producer,
                    None => *producer.insert(producer_id(connection).await?),
                };
                let batch = batch::encode(
                    producer,
                    sequence,
                    (0..count).map(|index| first + u64::from(index)),
                    world.record_bytes,
                );
                send(connection, &partition.topic, partition.index, batch).await
            };
            match attempt.await {
                Ok(Ok(offset)) => {
                    if offset != first as i64 {
                        world.violation(format!(
                            "{}-{}: records {first} to {} got offset {offset}",
                            partition.topic,
                            partition.index,
                            first + u64::from(count)
                        ));
                    }
                    break;
                }
                // Out of order, unknown producer, fenced: what was acknowledged was forgotten.
                Ok(Err(code @ (45 | 46 | 47 | 59 | 87 | 2))) => {
                    world.violation(format!(
                        "{}-{}: error {code} for a batch in order",
                        partition.topic, partition.index
                    ));
                    return;
                }
                Ok(Err(code)) => world.interrupted(format!("producing: error {code}")).await,
                Err(error) => {
                    connection = None;
                    world.interrupted(error).await;
                }
            }
        }
        sequence += count as i32;
        partition.acknowledged.store(first + u64::from(count), Ordering::Relaxed);
        let pause = rand::rng().random_range(0.5..1.5) / world.batches_per_second;
        tokio::time::sleep(Duration::from_secs_f64(pause)).await;
    }
}

pub async fn list_offset(
    connection: &mut Connection,
    topic: &str,
    index: i32,
    at: i64,
) -> anyhow::Result<u64> {
    let wanted = ListOffsetsPartition::default().with_partition_index(index).with_timestamp(at);
    let topic = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![wanted]);
    let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
    let response = connection.call(6, &request).await?;
    let answer = &response.topics[0].partitions[0];
    ensure!(answer.error_code == 0, "offsets of {index}: error {}", answer.error_code);
    Ok(answer.offset as u64)
}

/// What one partition has from `from` on; `None` if there is nothing at that offset any more.
pub async fn fetch(
    connection: &mut Connection,
    topic: &str,
    index: i32,
    from: u64,
    max_wait_ms: i32,
) -> anyhow::Result<Option<Bytes>> {
    let partition = FetchPartition::default()
        .with_partition(index)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(from as i64)
        .with_partition_max_bytes(FETCH_BYTES);
    let topic = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(FETCH_BYTES)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let mut response = connection.call(11, &request).await?;
    let answer = response.responses.first_mut().and_then(|topic| topic.partitions.first_mut());
    let answer = answer.context("an answer without the partition")?;
    match answer.error_code {
        0 => Ok(Some(answer.records.take().unwrap_or_default())),
        OFFSET_OUT_OF_RANGE => Ok(None),
        code => anyhow::bail!("fetching {index}: error {code}"),
    }
}

/// Reads a partition from its start to where it ends now, and checks every record. How many it read.
pub async fn read_all(world: &World, partition: &Partition) -> anyhow::Result<u64> {
    let (topic, index) = (&partition.topic[..], partition.index);
    let mut connection = Connection::open(world.port).await?;
    // Asked first: what is acknowledged must be there, however much comes behind it.
    let acknowledged = partition.acknowledged.load(Ordering::Relaxed);
    let end = list_offset(&mut connection, topic, index, LATEST).await?;
    if end < acknowledged {
        world.violation(format!("{topic}-{index} ends at {end}; {acknowledged} records were acknowledged"));
    }
    let mut at = list_offset(&mut connection, topic, index, EARLIEST).await?;
    let mut read = 0;
    while at < end {
        match fetch(&mut connection, topic, index, at, 100).await? {
            Some(bytes) => {
                let next = match batch::check(bytes, at) {
                    Ok(next) => next,
                    Err(error) => {
                        world.violation(format!("{topic}-{index}: {error}"));
                        return Ok(read);
                    }
                };
                read += next - at;
                at = next;
            }
            // Records were deleted in front of the reader.
            None => {
                let start = list_offset(&mut connection, topic, index, EARLIEST).await?;
                if start <= at {
                    world.violation(format!(
                        "{topic}-{index}: {at} is out of range, and the log begins at {start}"
                    ));
                    return Ok(read);
                }
                at = start;
            }
        }
    }
    Ok(read)
}

/// Reads partitions from their start, one after the other.
pub async fn catch_up(world: &World) {
    while world.running() {
        let partition = &world.partitions[rand::rng().random_range(0..world.partitions.len())];
        match read_all(world, partition).await {
            Ok(read) => drop(world.consumed.fetch_add(read, Ordering::Relaxed)),
            Err(error) => world.interrupted(error).await,
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Topics that come and go, and connections that are dropped at any moment.
pub async fn churn(world: &World) {
    let mut number = 0;
    while world.running() {
        number += 1;
        let name = format!("passing-{number}");
        let pass = async {
            let mut connection = Connection::open(world.port).await?;
            connection.create_topic(&name, 2, &[]).await?;
            let producer = producer_id(&mut connection).await?;
            let batch = batch::encode(producer, 0, (0..50u32).map(u64::from), world.record_bytes);
            let sent = send(&mut connection, &name, 1, batch).await?;
            ensure!(sent.is_ok(), "producing to {name}: {sent:?}");
            let fetched =
                fetch(&mut connection, &name, 1, 0, 100).await?.context("its start is out of range")?;
            if let Err(error) = batch::check(fetched, 0) {
                world.violation(format!("{name}: {error}"));
            }
            connection.delete_topic(&name).await?;
            Connection::open(world.port).await?.abandon().await?;
            super::group::come_and_go(world, &mut connection, number).await
        };
        match pass.await {
            Ok(()) => drop(world.churned.fetch_add(1, Ordering::Relaxed)),
            Err(error) => {
                world.interrupted(error).await;
                let gone = async { Connection::open(world.port).await?.delete_topic(&name).await };
                let _ = gone.await;
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Whether the broker serves an API.
pub async fn serves(connection: &mut Connection, api: ApiKey) -> anyhow::Result<bool> {
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text("soak"))
        .with_client_software_version(text("1"));
    let response = connection.call(3, &request).await?;
    Ok(response.api_keys.iter().any(|row| row.api_key == api as i16))
}

/// Deletes old records, so that the store has no reason to grow.
pub async fn trim(world: &World) {
    while world.running() {
        for partition in &world.partitions {
            let upto = partition.acknowledged.load(Ordering::Relaxed).saturating_sub(world.keep_records);
            if upto == 0 {
                continue;
            }
            let attempt = async {
                let wanted = DeleteRecordsPartition::default()
                    .with_partition_index(partition.index)
                    .with_offset(upto as i64);
                let topic = DeleteRecordsTopic::default()
                    .with_name(topic_name(&partition.topic))
                    .with_partitions(vec![wanted]);
                let request =
                    DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
                let response = Connection::open(world.port).await?.call(2, &request).await?;
                let code = response.topics[0].partitions[0].error_code;
                ensure!(code == 0, "error {code}");
                anyhow::Ok(())
            };
            if let Err(error) = attempt.await {
                world.interrupted(error).await;
            }
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}
