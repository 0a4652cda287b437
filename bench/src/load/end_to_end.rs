//! Records that are due at fixed times, whatever happened to those before them: how long from there until they are
//! acknowledged, and until a consumer has them. A broker that stalls is charged for all that was due meanwhile
//! (no "coordinated omission").

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use kafka_protocol::messages::ProduceResponse;
use kafka_protocol::protocol::Decodable;
use serde_json::{Value, json};

use super::Target;
use super::connection::Connection;
use super::consume::fetch;
use super::produce::request;
use crate::batch::{self, Producer};
use crate::client::Frame;
use crate::cpu::Meter;
use crate::latency::Latencies;

const VERSION: i16 = 8;
/// Less than what brokers take (message.max.bytes).
const BATCH_BYTES_MAX: usize = 1_000_000;
/// What a record of a batch has beside its value, at most.
const RECORD_BYTES_MORE: usize = 32;
/// How long consumers wait for what is still missing at the end.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    /// Records a second, of all producers together
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    #[arg(long, default_value_t = 1)]
    producers: usize,
    #[arg(long, default_value_t = 1)]
    consumers: usize,
    /// Requests under way on each producer's connection
    #[arg(long, default_value_t = 5)]
    in_flight: usize,
    /// A producer sends what is due at most this often (linger.ms)
    #[arg(long, default_value_t = 0.0)]
    linger_ms: f64,
    /// Bytes of a record's value, at least 8
    #[arg(long, default_value_t = 1024)]
    record_bytes: usize,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Before anything is measured
    #[arg(long, default_value_t = 2.0)]
    warm_up_seconds: f64,
}

/// The run's clock: records hold the nanoseconds from `began` until they were due.
struct Schedule {
    began: Instant,
    measured_from: u64,
    until: u64,
}

impl Schedule {
    fn measures(&self, due: u64) -> bool {
        (self.measured_from..self.until).contains(&due)
    }

    fn since(&self, due: u64) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_nanos(due))
    }
}

pub fn run(options: &Options) -> anyhow::Result<Value> {
    let mut target = options.target.clone();
    // Consumers begin at the start: what an earlier run left would come first.
    target.topic = format!("{}-{}", target.topic, std::process::id());
    target.create_topic()?;
    let (target, consumers) = (&target, options.consumers.min(target.partitions as usize));
    let nanos = |seconds: f64| (seconds * 1e9) as u64;
    let schedule = Schedule {
        began: Instant::now(),
        measured_from: nanos(options.warm_up_seconds),
        until: nanos(options.warm_up_seconds + options.seconds),
    };
    let (schedule, sent_all) = (&schedule, &AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reading: Vec<_> = (0..consumers)
            .map(|nth| {
                let partitions = target.share(nth, consumers);
                scope.spawn(move || consume(target, &partitions, schedule, sent_all))
            })
            .collect();
        let writing: Vec<_> = (0..options.producers)
            .map(|nth| scope.spawn(move || produce(options, target, nth, schedule)))
            .collect();
        let warm_up = Duration::from_nanos(schedule.measured_from);
        std::thread::sleep(warm_up.saturating_sub(schedule.began.elapsed()));
        let cpu = Meter::begin(target.pid)?;
        let (mut acknowledged, mut consumed) = (Latencies::default(), Latencies::default());
        let (mut sent, mut received) = (0, 0);
        let written: Vec<_> =
            writing.into_iter().map(|producer| producer.join().expect("it does not panic")).collect();
        // Before anything that went wrong is told: consumers wait for it.
        sent_all.store(true, Ordering::Release);
        for producer in written {
            let (records, latencies) = producer?;
            sent += records;
            acknowledged.merge(latencies);
        }
        let cpu = cpu.end((options.rate * options.seconds) as u64 * options.record_bytes as u64)?;
        for consumer in reading {
            let (records, latencies) = consumer.join().expect("it does not panic")?;
            received += records;
            consumed.merge(latencies);
        }
        ensure!(sent == received, "{sent} records were acknowledged and {received} consumed");
        Ok(json!({
            "bench": "end-to-end", "label": target.label, "rate": options.rate,
            "producers": options.producers, "consumers": consumers, "partitions": target.partitions,
            "linger_ms": options.linger_ms, "record_bytes": options.record_bytes,
            "records": consumed.len(),
            "acknowledged": acknowledged.summary(), "consumed": consumed.summary(),
            "cpu": cpu,
        }))
    })
}

/// The records that were acknowledged, and how long after they were due.
fn produce(
    options: &Options,
    target: &Target,
    nth: usize,
    schedule: &Schedule,
) -> anyhow::Result<(u64, Latencies)> {
    let mut connection = Connection::open(&target.bootstrap)?;
    let partitions = target.share(nth, options.producers);
    let interval = options.producers as f64 * 1e9 / options.rate;
    // Producers take turns.
    let due = |record: u64| ((record as f64 + nth as f64 / options.producers as f64) * interval) as u64;
    let linger = Duration::from_secs_f64(options.linger_ms / 1e3);
    let batch_records = (BATCH_BYTES_MAX / (options.record_bytes + RECORD_BYTES_MORE)).max(1);
    let (mut next, mut turn) = (0, 0);
    let mut not_before = schedule.began;
    let mut under_way: std::collections::VecDeque<Vec<u64>> = std::collections::VecDeque::new();
    let mut acknowledged = 0;
    let mut latencies = Latencies::default();
    loop {
        let now = schedule.began.elapsed().as_nanos() as u64;
        let ended = due(next) >= schedule.until;
        let may_send = under_way.len() < options.in_flight && Instant::now() >= not_before;
        if !ended && may_send && due(next) <= now {
            let mut batch = Vec::new();
            while due(next) <= now && due(next) < schedule.until && batch.len() < batch_records {
                batch.push(due(next));
                next += 1;
            }
            let encoded = batch::encode(Producer::NONE, 0, batch.iter().copied(), options.record_bytes);
            let request = request(&target.topic, partitions[turn % partitions.len()], -1, encoded);
            let mut frame = Frame::new(VERSION, &request)?.into_bytes();
            let length = frame.len();
            connection.send(&mut frame, length, Instant::now())?;
            turn += 1;
            not_before = Instant::now() + linger;
            under_way.push_back(batch);
        }
        while let Some((mut answer, _)) = connection.received()? {
            let response = ProduceResponse::decode(&mut answer, VERSION)?;
            let code = response.responses[0].partition_responses[0].error_code;
            ensure!(code == 0, "a batch was refused: error {code}");
            for due in under_way.pop_front().expect("as many as requests") {
                acknowledged += 1;
                if schedule.measures(due) {
                    latencies.record(schedule.since(due));
                }
            }
        }
        if due(next) >= schedule.until && under_way.is_empty() {
            return Ok((acknowledged, latencies));
        }
        let full = under_way.len() >= options.in_flight;
        let wake = if full || due(next) >= schedule.until {
            Instant::now() + PATIENCE
        } else {
            not_before.max(schedule.began + Duration::from_nanos(due(next)))
        };
        connection.wait(wake)?;
    }
}

/// The records that came, and how long after they were due. Ends when nothing comes any more after all was sent.
fn consume(
    target: &Target,
    partitions: &[i32],
    schedule: &Schedule,
    sent_all: &AtomicBool,
) -> anyhow::Result<(u64, Latencies)> {
    let mut connection = Connection::open(&target.bootstrap)?;
    let mut at: BTreeMap<i32, i64> = partitions.iter().map(|partition| (*partition, 0)).collect();
    let mut latencies = Latencies::default();
    let mut records = 0;
    loop {
        let last = sent_all.load(Ordering::Acquire);
        let fetched = fetch(&mut connection, &target.topic, &at, (52_428_800, 1_048_576))?;
        let mut moved = false;
        for (partition, bytes) in fetched {
            let offset = at.get_mut(&partition).expect("only what was asked for comes");
            batch::decode(bytes, |found, due| {
                if found as i64 >= *offset {
                    *offset = found as i64 + 1;
                    (records, moved) = (records + 1, true);
                    if schedule.measures(due) {
                        latencies.record(schedule.since(due));
                    }
                }
                Ok(())
            })?;
        }
        if last && !moved {
            return Ok((records, latencies));
        }
    }
}
