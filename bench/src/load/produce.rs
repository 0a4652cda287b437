//! As many batches as the broker takes, or as a rate asks for, from connections that each keep a number of requests under way.

use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use clap::Args;
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use serde_json::{Value, json};

use super::Target;
use super::connection::Connection;
use crate::GIB;
use crate::batch::{self, Producer};
use crate::client::{Frame, topic_name};
use crate::cpu::{Meter, round};
use crate::latency::Latencies;

/// The last version whose answer has a fixed layout.
const VERSION: i16 = 8;

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    target: Target,
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Requests under way on each connection (max.in.flight.requests.per.connection)
    #[arg(long, default_value_t = 5)]
    in_flight: usize,
    /// Bytes of a record's value, at least 8
    #[arg(long, default_value_t = 1024)]
    record_bytes: usize,
    /// Records of a batch; a request has one batch
    #[arg(long, default_value_t = 64)]
    records: usize,
    /// -1 waits until the batch is durable, 1 as well where the broker is alone
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    acks: i16,
    /// MiB of batches a second, of all connections together; without it as many as the broker takes
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Before anything is measured
    #[arg(long, default_value_t = 1.0)]
    warm_up_seconds: f64,
}

#[derive(Debug, Default)]
struct Done {
    requests: u64,
    bytes: u64,
    latencies: Latencies,
}

pub fn run(options: &Options) -> anyhow::Result<Value> {
    let target = &options.target;
    target.create_topic()?;
    let measured_from = Instant::now() + Duration::from_secs_f64(options.warm_up_seconds);
    let until = measured_from + Duration::from_secs_f64(options.seconds);
    let (done, cpu) = std::thread::scope(|scope| -> anyhow::Result<(Done, Meter)> {
        let load: Vec<_> = (0..options.connections)
            .map(|nth| scope.spawn(move || connection(options, nth, measured_from, until)))
            .collect();
        std::thread::sleep(measured_from.saturating_duration_since(Instant::now()));
        let cpu = Meter::begin(target.pid)?;
        let mut all = Done::default();
        for connection in load {
            let done = connection.join().expect("it does not panic")?;
            all.requests += done.requests;
            all.bytes += done.bytes;
            all.latencies.merge(done.latencies);
        }
        Ok((all, cpu))
    })?;
    let cpu = cpu.end(done.bytes)?;
    let seconds = options.seconds;
    Ok(json!({
        "bench": "produce", "label": target.label,
        "connections": options.connections, "in_flight": options.in_flight, "partitions": target.partitions,
        "record_bytes": options.record_bytes, "records": options.records, "rate": options.rate,
        "gib": round(done.bytes as f64 / GIB),
        "mb_per_second": round(done.bytes as f64 / 1e6 / seconds),
        "requests_per_second": (done.requests as f64 / seconds) as u64,
        "records_per_second": (done.requests as f64 * options.records as f64 / seconds) as u64,
        "acknowledged": done.latencies.summary(),
        "cpu": cpu,
    }))
}

fn connection(options: &Options, nth: usize, measured_from: Instant, until: Instant) -> anyhow::Result<Done> {
    let target = &options.target;
    let mut connection = Connection::open(&target.bootstrap)?;
    let batch = batch::encode(
        Producer::NONE,
        0,
        (0..options.records).map(|index| index as u64),
        options.record_bytes,
    );
    let partitions = target.share(nth, options.connections);
    // A round through the partitions, at least as long as what may be under way: sent in runs, without copying.
    let rounds = options.in_flight.div_ceil(partitions.len());
    let mut frames = Vec::new();
    let mut frame_bytes = 0;
    for partition in std::iter::repeat_n(&partitions, rounds).flatten() {
        let request = request(&target.topic, *partition, options.acks, batch.clone());
        let frame = Frame::new(VERSION, &request)?.into_bytes();
        frame_bytes = frame.len();
        frames.extend(frame);
    }
    // Topics, its name, partitions, index; see the schema of the answer's version.
    let error_at = 4 + 2 + target.topic.len() + 4 + 4;
    let mut done = Done::default();
    let mut pace = options.rate.map(|rate| Pace::new(rate, options.connections, nth, batch.len()));
    let mut at = 0;
    loop {
        let now = Instant::now();
        let free = options.in_flight - connection.under_way();
        let due = pace.as_ref().map_or(usize::MAX, |pace| pace.due(now));
        let run = if now < until { free.min(due).min((frames.len() - at) / frame_bytes) } else { 0 };
        if run > 0 {
            connection.send(&mut frames[at..at + run * frame_bytes], frame_bytes, now)?;
            at = (at + run * frame_bytes) % frames.len();
            pace.iter_mut().for_each(|pace| pace.sent(run));
        }
        if connection.under_way() == 0 && now >= until {
            return Ok(done);
        }
        let mut answer = match &pace {
            // The next one may be due before there is an answer.
            Some(pace) if now < until && connection.under_way() < options.in_flight => {
                match connection.received()? {
                    None => {
                        connection.wait(pace.next.min(until))?;
                        connection.received()?
                    }
                    received => received,
                }
            }
            _ => Some(connection.receive()?),
        };
        while let Some((body, took)) = answer {
            let code = body.get(error_at..error_at + 2).map(|code| i16::from_be_bytes([code[0], code[1]]));
            ensure!(code == Some(0), "a batch was refused: error {code:?}");
            let now = Instant::now();
            if now >= measured_from && now < until {
                done.requests += 1;
                done.bytes += batch.len() as u64;
                done.latencies.record(took);
            }
            answer = connection.received()?;
        }
    }
}

/// When a connection's batches are due. Those that could not be sent in time are made up for.
struct Pace {
    next: Instant,
    interval: Duration,
}

impl Pace {
    /// The `nth` of so many connections, each of which takes its turn.
    fn new(mib_per_second: f64, connections: usize, nth: usize, batch_bytes: usize) -> Pace {
        let turn = Duration::from_secs_f64(batch_bytes as f64 / (mib_per_second * (1u64 << 20) as f64));
        Pace { next: Instant::now() + turn * nth as u32, interval: turn * connections as u32 }
    }

    fn due(&self, now: Instant) -> usize {
        match now.checked_duration_since(self.next) {
            Some(late) => 1 + (late.as_secs_f64() / self.interval.as_secs_f64()) as usize,
            None => 0,
        }
    }

    fn sent(&mut self, batches: usize) {
        self.next += self.interval * batches as u32;
    }
}

pub fn request(topic: &str, partition: i32, acks: i16, batch: Bytes) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
    let topic = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![topic])
}
