//! How long a broker takes from its start as a process to its first acknowledged record, and what it costs while nobody
//! wants anything.
//!
//! ```text
//!   prepare   a store with N partitions, each of which holds one record; the broker ends in order (or by SIGKILL)
//!   run       spawn ──► connection ──► one record acknowledged ──► each of the N has acknowledged one
//!   idle      spawn ──► settled ──► processor time, memory, threads, descriptors, with no client
//! ```
//!
//! - U1. Time counts from before the process is made, until a client that tried all the while has its acknowledgement.
//! - U2. With 0 partitions each run is on a store of its own that was formatted and is empty; making the topic counts.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Args;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use kafka_protocol::protocol::Decodable;
use serde_json::{Value, json};

use crate::batch::{self, Producer};
use crate::client::{self, Frame, topic_name};
use crate::cpu::{round, seconds};
use crate::load::connection::Connection;
use crate::process::{Ottla, S3, Storage};
use crate::turns::Spread;

const TOPIC: &str = "bench";
const PRODUCE_VERSION: i16 = 8;
/// For a start as a whole.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two attempts to connect, and between two attempts to produce.
const PAUSE: Duration = Duration::from_micros(500);
/// After a start, before idleness is measured.
const SETTLE: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub struct Options {
    /// The broker's program
    #[arg(long, env = "OTTLA", default_value = "target/release/ottla")]
    ottla: PathBuf,
    /// Where the stores are made; nothing is left of them
    #[arg(long)]
    dir: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "directory")]
    storage: Storage,
    #[command(flatten)]
    s3: S3,
    /// Partitions of the topic, written once before; 0 for a store that is formatted and empty
    #[arg(long, default_value_t = 0)]
    partitions: i32,
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// The broker before was killed, so that there is a log to recover
    #[arg(long)]
    killed: bool,
    /// How long it is watched while it has nothing to do; 0 for not at all
    #[arg(long, default_value_t = 0.0)]
    idle_seconds: f64,
    /// Said again in the result, to tell runs apart
    #[arg(long, default_value = "")]
    label: String,
    /// More options for the broker, behind --
    #[arg(last = true)]
    more: Vec<String>,
}

/// Seconds from the spawn.
#[derive(Debug)]
struct Times {
    connected: f64,
    first: f64,
    /// Of all partitions, with one request.
    all: f64,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(options.partitions >= 0 && options.runs > 0, "there is nothing to measure");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{}", runtime.block_on(measure(options))?);
    Ok(())
}

async fn measure(options: &Options) -> anyhow::Result<Value> {
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let directory = parent.join(format!("ottla-start-up-{}", std::process::id()));
    let result = measure_in(options, &directory).await;
    if directory.exists() {
        std::fs::remove_dir_all(&directory).with_context(|| format!("removing {}", directory.display()))?;
    }
    result
}

async fn measure_in(options: &Options, directory: &std::path::Path) -> anyhow::Result<Value> {
    let mut times = Vec::new();
    let mut idle = Value::Null;
    let mut broker = None;
    for run in 0..options.runs {
        let mut ready = match broker.take() {
            Some(broker) if options.partitions > 0 => broker,
            _ => prepared(options, &directory.join(run.to_string())).await?,
        };
        times.push(start(options, &mut ready)?);
        ready.stop(!options.killed).await?;
        if run + 1 == options.runs && options.idle_seconds > 0.0 {
            if options.partitions == 0 {
                // The one that was started has a topic by now.
                ready = prepared(options, &directory.join("idle")).await?;
            }
            ready.start().await?;
            tokio::time::sleep(SETTLE).await;
            idle = watch(&ready, options.idle_seconds).await?;
            ready.stop(true).await?;
        }
        broker = Some(ready);
    }
    let said = |figure: fn(&Times) -> f64| Spread::of(times.iter().map(|times| figure(times) * 1e3)).said();
    Ok(json!({
        "bench": "start-up", "label": options.label, "partitions": options.partitions, "runs": options.runs,
        "before": if options.killed { "killed" } else { "ended in order" },
        "connected_ms": said(|times| times.connected),
        "first_acknowledged_ms": said(|times| times.first),
        "all_acknowledged_ms": said(|times| times.all),
        "idle": idle,
    }))
}

/// A broker that has ended, on a store with the partitions that are asked for and one record in each.
async fn prepared(options: &Options, directory: &std::path::Path) -> anyhow::Result<Ottla> {
    std::fs::create_dir_all(directory)?;
    let directory = directory.canonicalize()?;
    let program = options.ottla.canonicalize().with_context(|| format!("{}", options.ottla.display()))?;
    let mut broker = Ottla::new(&program, options.storage, &directory, &options.s3, &options.more).await?;
    broker.start().await?;
    if options.partitions > 0 {
        client::Connection::open(broker.port).await?.create_topic(TOPIC, options.partitions, &[]).await?;
        let mut connection = Connection::open(&address(&broker))?;
        acknowledged_by(&mut connection, 0..options.partitions, Instant::now() + PATIENCE)?;
    }
    broker.stop(!options.killed).await?;
    Ok(broker)
}

/// U1. Blocks its thread: nothing is to come between the clock and the broker.
fn start(options: &Options, broker: &mut Ottla) -> anyhow::Result<Times> {
    let began = Instant::now();
    let until = began + PATIENCE;
    let _lines = broker.spawn()?;
    let mut connection = loop {
        match Connection::open(&address(broker)) {
            Ok(connection) => break connection,
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => std::thread::sleep(PAUSE),
        }
    };
    let connected = began.elapsed().as_secs_f64();
    if options.partitions == 0 {
        connection.create_topic(TOPIC, 1)?;
    }
    acknowledged_by(&mut connection, 0..1, until)?;
    let first = began.elapsed().as_secs_f64();
    acknowledged_by(&mut connection, 0..options.partitions.max(1), until)?;
    Ok(Times { connected, first, all: began.elapsed().as_secs_f64() })
}

/// Returns once each of the partitions has acknowledged one record.
fn acknowledged_by(
    connection: &mut Connection,
    partitions: std::ops::Range<i32>,
    until: Instant,
) -> anyhow::Result<()> {
    let record = batch::encode(Producer::NONE, 0, [0].into_iter(), 100);
    let mut missing: Vec<i32> = partitions.collect();
    while !missing.is_empty() {
        let mut frame = Frame::new(PRODUCE_VERSION, &request(&missing, &record))?.into_bytes();
        let length = frame.len();
        connection.send(&mut frame, length, Instant::now())?;
        let (mut answer, _) = connection.receive()?;
        let response = ProduceResponse::decode(&mut answer, PRODUCE_VERSION)?;
        let answers = response.responses.into_iter().flat_map(|topic| topic.partition_responses);
        let refused: Vec<(i32, i16)> = answers
            .filter(|partition| partition.error_code != 0)
            .map(|partition| (partition.index, partition.error_code))
            .collect();
        if let Some((partition, code)) = refused.first() {
            ensure!(Instant::now() < until, "partition {partition} did not take a record: error {code}");
            std::thread::sleep(PAUSE);
        }
        missing = refused.into_iter().map(|(partition, _)| partition).collect();
    }
    Ok(())
}

fn request(partitions: &[i32], record: &Bytes) -> ProduceRequest {
    let data =
        |index: &i32| PartitionProduceData::default().with_index(*index).with_records(Some(record.clone()));
    let topic = TopicProduceData::default()
        .with_name(topic_name(TOPIC))
        .with_partition_data(partitions.iter().map(data).collect());
    ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic])
}

async fn watch(broker: &Ottla, wanted: f64) -> anyhow::Result<Value> {
    let process = broker.process()?;
    let (began, used) = (Instant::now(), seconds(process)?);
    tokio::time::sleep(Duration::from_secs_f64(wanted)).await;
    let used = seconds(process)? - used;
    let [resident, threads, descriptors] = broker.sample()?;
    Ok(json!({
        "seconds": round(began.elapsed().as_secs_f64()), "cpu_s": round(used),
        "cpu_percent": round(used / began.elapsed().as_secs_f64() * 100.0),
        "resident_mib": round(resident as f64 / f64::from(1 << 20)), "threads": threads, "descriptors": descriptors,
    }))
}

fn address(broker: &Ottla) -> String {
    format!("127.0.0.1:{}", broker.port)
}
