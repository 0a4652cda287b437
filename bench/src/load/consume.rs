//! Reads everything that the topic holds, once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Args;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{
    BrokerId, FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse,
};
use kafka_protocol::protocol::Decodable;
use serde_json::{Value, json};

use super::Target;
use super::connection::Connection;
use crate::GIB;
use crate::batch;
use crate::client::{Frame, topic_name};
use crate::cpu::{Meter, round};

/// The last version without sessions' topic ids and tagged fields.
const VERSION: i16 = 11;
const LIST_VERSION: i16 = 5;
const EARLIEST: i64 = -2;
pub const LATEST: i64 = -1;

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    /// Readers, each with partitions of its own
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Bytes of an answer (fetch.max.bytes)
    #[arg(long, default_value_t = 52_428_800)]
    fetch_bytes: i32,
    /// Bytes of a partition in an answer (max.partition.fetch.bytes)
    #[arg(long, default_value_t = 1_048_576)]
    partition_bytes: i32,
    /// Stops after so much
    #[arg(long)]
    gib: Option<f64>,
    /// Begins again at its end, until so many seconds have passed
    #[arg(long)]
    seconds: Option<f64>,
}

#[derive(Debug, Default)]
struct Done {
    requests: u64,
    records: u64,
    bytes: u64,
}

pub fn run(options: &Options) -> anyhow::Result<Value> {
    let target = &options.target;
    let cpu = Meter::begin(target.pid)?;
    let began = Instant::now();
    let connections = options.connections.min(target.partitions as usize);
    let enough = options.gib.map_or(u64::MAX, |gib| (gib * GIB / connections as f64) as u64);
    let until = options.seconds.map(|seconds| began + Duration::from_secs_f64(seconds));
    let done = std::thread::scope(|scope| -> anyhow::Result<Done> {
        let load: Vec<_> = (0..connections)
            .map(|nth| scope.spawn(move || read(options, &target.share(nth, connections), enough, until)))
            .collect();
        let mut all = Done::default();
        for connection in load {
            let done = connection.join().expect("it does not panic")?;
            all.requests += done.requests;
            all.records += done.records;
            all.bytes += done.bytes;
        }
        Ok(all)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(json!({
        "bench": "consume", "label": target.label, "connections": connections, "partitions": target.partitions,
        "gib": round(done.bytes as f64 / GIB), "seconds": round(seconds),
        "mb_per_second": round(done.bytes as f64 / 1e6 / seconds),
        "records_per_second": (done.records as f64 / seconds) as u64,
        "requests_per_second": (done.requests as f64 / seconds) as u64,
        "cpu": cpu.end(done.bytes)?,
    }))
}

fn read(options: &Options, partitions: &[i32], enough: u64, until: Option<Instant>) -> anyhow::Result<Done> {
    let topic = &options.target.topic;
    let mut connection = Connection::open(&options.target.bootstrap)?;
    let ends = offsets(&mut connection, topic, partitions, LATEST)?;
    let starts = offsets(&mut connection, topic, partitions, EARLIEST)?;
    let mut at = starts.clone();
    let mut done = Done::default();
    loop {
        at.retain(|partition, offset| *offset < ends[partition]);
        let late = until.is_some_and(|until| Instant::now() >= until);
        if late || done.bytes >= enough || (at.is_empty() && until.is_none()) || starts == ends {
            return Ok(done);
        }
        if at.is_empty() {
            at = starts.clone();
            continue;
        }
        let mut moved = false;
        let limits = (options.fetch_bytes, options.partition_bytes);
        for (partition, records) in fetch(&mut connection, topic, &at, limits)? {
            done.bytes += records.len() as u64;
            if let Some((next, count)) = batch::skim(records) {
                at.insert(partition, next);
                done.records += count;
                moved = true;
            }
        }
        ensure!(moved, "there are records, and none came");
        done.requests += 1;
        // Whoever reads one partition to its end goes on with the others in turn, as the broker fills answers in order.
    }
}

/// What comes at the offsets `at`, by partition; waits up to half a second for the first byte.
pub fn fetch(
    connection: &mut Connection,
    topic: &str,
    at: &BTreeMap<i32, i64>,
    (bytes, partition_bytes): (i32, i32),
) -> anyhow::Result<Vec<(i32, Bytes)>> {
    let partitions = at
        .iter()
        .map(|(partition, offset)| {
            FetchPartition::default()
                .with_partition(*partition)
                .with_fetch_offset(*offset)
                .with_partition_max_bytes(partition_bytes)
        })
        .collect();
    let topic = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(partitions);
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(500)
        .with_min_bytes(1)
        .with_max_bytes(bytes)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let mut frame = Frame::new(VERSION, &request)?.into_bytes();
    let length = frame.len();
    connection.send(&mut frame, length, Instant::now())?;
    let (mut answer, _) = connection.receive()?;
    let response = FetchResponse::decode(&mut answer, VERSION)?;
    ensure!(response.error_code == 0, "a fetch was refused: error {}", response.error_code);
    let mut found = Vec::new();
    for partition in response.responses.into_iter().flat_map(|topic| topic.partitions) {
        let (index, code) = (partition.partition_index, partition.error_code);
        ensure!(code == 0, "partition {index} was refused: error {code}");
        found.extend(partition.records.map(|records| (index, records)));
    }
    Ok(found)
}

/// One offset of each partition: the earliest or the latest.
pub fn offsets(
    connection: &mut Connection,
    topic: &str,
    partitions: &[i32],
    timestamp: i64,
) -> anyhow::Result<BTreeMap<i32, i64>> {
    let wanted = |partition: &i32| {
        ListOffsetsPartition::default().with_partition_index(*partition).with_timestamp(timestamp)
    };
    let topic = ListOffsetsTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(partitions.iter().map(wanted).collect());
    let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
    let mut frame = Frame::new(LIST_VERSION, &request)?.into_bytes();
    let length = frame.len();
    connection.send(&mut frame, length, Instant::now())?;
    let (mut answer, _) = connection.receive()?;
    let response = ListOffsetsResponse::decode(&mut answer, LIST_VERSION)?;
    let topic = response.topics.into_iter().next().context("no answer")?;
    let mut found = BTreeMap::new();
    for partition in topic.partitions {
        let (index, code) = (partition.partition_index, partition.error_code);
        ensure!(code == 0, "the offsets of partition {index}: error {code}");
        found.insert(index, partition.offset);
    }
    Ok(found)
}
