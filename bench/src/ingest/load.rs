//! Who writes what. A batch is encoded once and sent again and again, so that the writers cost little.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};

use super::Options;
use crate::batch::{self, Producer};
use crate::client::{Connection, Frame, topic_name};

const PRODUCE_VERSION: i16 = 9;
const RECORD_BYTES: usize = 1024;
/// Errors after which a client tries again: REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS, KAFKA_STORAGE_ERROR.
const RETRIABLE: [i16; 3] = [7, 19, 56];
/// Longer than an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two topics that come and go.
const PASSING_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Load {
    port: u16,
    topics: usize,
    partitions: i32,
    request_batches: i32,
    in_flight: usize,
    passing_bytes: usize,
    /// Of one topic.
    bytes_per_second: Option<f64>,
    batch: Bytes,
    /// Bytes of batches.
    pub acknowledged: AtomicU64,
    /// Batches that were refused and not sent again.
    pub refusals: AtomicU64,
    /// Topics that were created, filled and deleted.
    pub passed: AtomicU64,
    pub stopping: AtomicBool,
}

impl Load {
    pub fn new(port: u16, options: &Options) -> Load {
        let records = (options.batch_bytes / RECORD_BYTES).max(1) as u32;
        Load {
            port,
            topics: options.topics,
            partitions: options.partitions,
            request_batches: options.request_batches.clamp(1, options.partitions),
            in_flight: options.in_flight.max(1),
            passing_bytes: options.passing_bytes,
            bytes_per_second: options.rate.map(|rate| rate / options.topics as f64),
            batch: batch::encode(Producer::NONE, -1, (0..records).map(u64::from), RECORD_BYTES),
            acknowledged: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        }
    }

    pub fn topics(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.topics).map(|number| format!("ingest-{number}"))
    }

    fn running(&self) -> bool {
        !self.stopping.load(Ordering::Relaxed)
    }

    /// Requests that together reach every partition, each with as many batches.
    fn frames(&self, topic: &str, partitions: i32) -> anyhow::Result<Vec<Frame>> {
        let request = |from: i32| {
            let data = (0..self.request_batches).map(|number| {
                PartitionProduceData::default()
                    .with_index((from + number) % partitions)
                    .with_records(Some(self.batch.clone()))
            });
            let topic =
                TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(data.collect());
            let request =
                ProduceRequest::default().with_acks(-1).with_timeout_ms(60_000).with_topic_data(vec![topic]);
            Frame::new(PRODUCE_VERSION, &request)
        };
        (0..partitions).map(|round| request(round * self.request_batches % partitions)).collect()
    }

    /// Writes to a topic until all is over.
    pub async fn write(&self, topic: &str) -> anyhow::Result<()> {
        let frames = self.frames(topic, self.partitions)?;
        let mut connection = Connection::open(self.port).await?;
        let mut next = frames.iter().cycle();
        let (mut sent, mut answered) = (0, 0);
        let began = Instant::now();
        while self.running() || answered < sent {
            while self.running() && (sent - answered) < self.in_flight as i32 {
                if let Some(rate) = self.bytes_per_second {
                    let due = f64::from(sent) * f64::from(self.request_batches) * self.batch.len() as f64;
                    let ahead = due / rate - began.elapsed().as_secs_f64();
                    tokio::time::sleep(Duration::from_secs_f64(ahead.max(0.0))).await;
                }
                sent = connection.send(next.next().expect("they go round")).await?;
            }
            if answered < sent {
                answered += 1;
                self.answer(&mut connection, answered).await?;
            }
        }
        Ok(())
    }

    /// Takes an answer to a request and counts what it says.
    async fn answer(&self, connection: &mut Connection, number: i32) -> anyhow::Result<()> {
        let answer = connection.receive::<ProduceRequest>(PRODUCE_VERSION, number);
        let answer = tokio::time::timeout(PATIENCE, answer).await.context("no answer in time")??;
        for partition in answer.responses.iter().flat_map(|topic| &topic.partition_responses) {
            match partition.error_code {
                0 => drop(self.acknowledged.fetch_add(self.batch.len() as u64, Ordering::Relaxed)),
                code if RETRIABLE.contains(&code) => drop(self.refusals.fetch_add(1, Ordering::Relaxed)),
                code => bail!("a batch for partition {} was refused: error {code}", partition.index),
            }
        }
        Ok(())
    }

    /// Creates topics one after the other, fills each, and deletes it.
    pub async fn come_and_go(&self) -> anyhow::Result<()> {
        let mut connection = Connection::open(self.port).await?;
        while self.running() {
            let name = format!("passing-{}", self.passed.load(Ordering::Relaxed));
            connection.create_topic(&name, self.request_batches, &[]).await?;
            let frames = self.frames(&name, self.request_batches)?;
            let requests = self.passing_bytes / (self.batch.len() * self.request_batches as usize);
            for frame in frames.iter().cycle().take(requests.max(1)) {
                let number = connection.send(frame).await?;
                self.answer(&mut connection, number).await?;
            }
            connection.delete_topic(&name).await?;
            self.passed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PASSING_PAUSE).await;
        }
        Ok(())
    }
}
