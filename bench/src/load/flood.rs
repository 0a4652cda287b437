//! Producers that send on whatever they are told, and what became of each batch: more than a broker can take.
//!
//! - L1. A batch that was acknowledged stands at the offset that was acknowledged: all of the topic is read back at the end.
//! - L2. A batch that was refused, or whose answer never came, may stand anywhere or nowhere.
//! - L3. A connection that the broker closes is a finding, and opened anew.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use kafka_protocol::messages::ProduceResponse;
use kafka_protocol::protocol::Decodable;
use serde_json::{Value, json};

use super::Target;
use super::connection::Connection;
use super::consume::{LATEST, fetch, offsets};
use super::produce::request;
use crate::batch::{self, Producer};
use crate::client::Frame;
use crate::cpu::{Meter, round};
use crate::latency::Latencies;

const VERSION: i16 = 8;
/// After a refusal, as clients do (retry.backoff.ms).
const BACKOFF: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests under way on each connection
    #[arg(long, default_value_t = 32)]
    in_flight: usize,
    /// Bytes of a record's value, at least 8; a batch is one record
    #[arg(long, default_value_t = 65_536)]
    record_bytes: usize,
    /// A connection waits so long after each answer
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

/// An acknowledged batch.
#[derive(Debug)]
struct Stands {
    partition: i32,
    offset: i64,
    number: u64,
}

#[derive(Debug, Default)]
struct Done {
    stands: Vec<Stands>,
    latencies: Latencies,
    /// How many batches were refused, by error code.
    refused: BTreeMap<i16, u64>,
    throttle_ms_max: i32,
    throttled: u64,
    disconnected: u64,
}

impl Done {
    fn merge(&mut self, other: Done) {
        self.stands.extend(other.stands);
        self.latencies.merge(other.latencies);
        for (code, count) in other.refused {
            *self.refused.entry(code).or_insert(0) += count;
        }
        self.throttle_ms_max = self.throttle_ms_max.max(other.throttle_ms_max);
        self.throttled += other.throttled;
        self.disconnected += other.disconnected;
    }
}

pub fn run(options: &Options) -> anyhow::Result<Value> {
    let mut target = options.target.clone();
    // Its account begins with an empty topic.
    target.topic = format!("{}-{}", target.topic, std::process::id());
    target.create_topic()?;
    let target = &target;
    let cpu = Meter::begin(target.pid)?;
    let until = Instant::now() + Duration::from_secs_f64(options.seconds);
    let done = std::thread::scope(|scope| -> anyhow::Result<Done> {
        let load: Vec<_> = (0..options.connections)
            .map(|nth| scope.spawn(move || connection(options, target, nth, until)))
            .collect();
        let mut all = Done::default();
        for connection in load {
            all.merge(connection.join().expect("it does not panic")?);
        }
        Ok(all)
    })?;
    let bytes = (done.stands.len() * options.record_bytes) as u64;
    let cpu = cpu.end(bytes.max(1))?;
    let acknowledged = done.stands.len();
    let (lost, read) = missing(target, done.stands)?;
    Ok(json!({
        "bench": "flood", "label": target.label, "connections": options.connections, "in_flight": options.in_flight,
        "record_bytes": options.record_bytes, "acknowledged_batches": acknowledged, "read_back": read, "lost": lost,
        "mb_per_second": round(bytes as f64 / 1e6 / options.seconds),
        "refused": done.refused.iter().map(|(code, count)| (code.to_string(), json!(count))).collect::<serde_json::Map<_, _>>(),
        "throttled": done.throttled, "throttle_ms_max": done.throttle_ms_max, "disconnected": done.disconnected,
        "acknowledged": done.latencies.summary(), "cpu": cpu,
    }))
}

fn connection(options: &Options, target: &Target, nth: usize, until: Instant) -> anyhow::Result<Done> {
    let partitions = target.share(nth, options.connections);
    let mut connection = Connection::open(&target.bootstrap)?;
    let mut done = Done::default();
    let mut under_way: VecDeque<(i32, u64)> = VecDeque::new();
    let mut count = 0u64;
    loop {
        while Instant::now() < until && under_way.len() < options.in_flight {
            let partition = partitions[count as usize % partitions.len()];
            let number = (nth as u64) << 40 | count;
            let encoded = batch::encode(Producer::NONE, 0, [number].into_iter(), options.record_bytes);
            let mut frame =
                Frame::new(VERSION, &request(&target.topic, partition, -1, encoded))?.into_bytes();
            let length = frame.len();
            count += 1;
            under_way.push_back((partition, number));
            if connection.send(&mut frame, length, Instant::now()).is_err() {
                break;
            }
        }
        if under_way.is_empty() {
            return Ok(done);
        }
        let Ok((mut answer, took)) = connection.receive() else {
            done.disconnected += 1;
            under_way.clear();
            std::thread::sleep(BACKOFF);
            connection = Connection::open(&target.bootstrap).context("the broker is gone")?;
            continue;
        };
        let (partition, number) = under_way.pop_front().context("an answer to no request")?;
        let response = ProduceResponse::decode(&mut answer, VERSION)?;
        done.throttle_ms_max = done.throttle_ms_max.max(response.throttle_time_ms);
        done.throttled += u64::from(response.throttle_time_ms > 0);
        let answer = &response.responses[0].partition_responses[0];
        ensure!(answer.index == partition, "partition {} answered for {partition}", answer.index);
        if answer.error_code == 0 {
            done.stands.push(Stands { partition, offset: answer.base_offset, number });
            done.latencies.record(took);
            std::thread::sleep(Duration::from_millis(options.pause_ms));
        } else {
            *done.refused.entry(answer.error_code).or_insert(0) += 1;
            std::thread::sleep(BACKOFF);
        }
    }
}

/// L1: how many acknowledged batches are not where they were said to be, and how many records there are.
fn missing(target: &Target, stands: Vec<Stands>) -> anyhow::Result<(usize, u64)> {
    let mut expected: HashMap<(i32, i64), u64> = HashMap::new();
    let mut lost = 0;
    for Stands { partition, offset, number } in stands {
        // An offset that was given out twice.
        lost += usize::from(expected.insert((partition, offset), number).is_some());
    }
    let mut connection = Connection::open(&target.bootstrap)?;
    let partitions: Vec<i32> = (0..target.partitions).collect();
    let ends = offsets(&mut connection, &target.topic, &partitions, LATEST)?;
    let mut at: BTreeMap<i32, i64> = partitions.iter().map(|partition| (*partition, 0)).collect();
    let mut read = 0;
    loop {
        at.retain(|partition, offset| *offset < ends[partition]);
        if at.is_empty() {
            return Ok((lost + expected.len(), read));
        }
        for (partition, bytes) in fetch(&mut connection, &target.topic, &at, (52_428_800, 1_048_576))? {
            let next = at.get_mut(&partition).context("only what was asked for comes")?;
            batch::decode(bytes, |offset, number| {
                let offset = offset as i64;
                ensure!(offset == *next, "partition {partition}: offset {offset} where {next} was due");
                *next += 1;
                read += 1;
                if expected.get(&(partition, offset)) == Some(&number) {
                    expected.remove(&(partition, offset));
                }
                Ok(())
            })?;
        }
    }
}
