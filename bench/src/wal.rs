//! The block WAL from outside: closed loops of one append each.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::wal::block::{BlockMedium, Config};
use ::wal::uri::ByteSize;
use ::wal::{AckRight, AppendError, Incarnation, Medium, Meta, Record, Uri, Vacated, Wal};
use bytes::Bytes;
use clap::Args;
use serde_json::json;
use uuid::Uuid;

use crate::latency::Latencies;

#[derive(Args)]
pub struct Options {
    /// A file, which is made and deleted for each run
    #[arg(long)]
    path: PathBuf,
    #[arg(long, default_value = "1GiB")]
    capacity: ByteSize,
    /// Concurrent writers, a run for each
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    writers: Vec<usize>,
    /// Bytes of a record, a run for each
    #[arg(long, value_delimiter = ',', default_value = "1024,16384")]
    bytes: Vec<usize>,
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Writes in flight at most, a run for each
    #[arg(long, value_delimiter = ',', default_value = "4")]
    in_flight: Vec<usize>,
    /// Bytes that a write gathers while others are in flight, a run for each
    #[arg(long, value_delimiter = ',', default_value = "4096")]
    gather: Vec<usize>,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let uri = Uri::block(&std::path::absolute(&options.path)?, Some(options.capacity.0))?;
    for &bytes in &options.bytes {
        for &writers in &options.writers {
            for &writes_in_flight_max in &options.in_flight {
                for &gather_bytes in &options.gather {
                    let config = Config { writes_in_flight_max, gather_bytes, ..Config::default() };
                    let duration = Duration::from_secs(options.seconds);
                    let line = runtime.block_on(measure(&uri, config, writers, bytes, duration))?;
                    println!("{line}");
                    std::fs::remove_file(&options.path)?;
                }
            }
        }
    }
    Ok(())
}

async fn measure(
    uri: &Uri,
    config: Config,
    writers: usize,
    bytes: usize,
    duration: Duration,
) -> anyhow::Result<serde_json::Value> {
    let began = Instant::now();
    let medium = BlockMedium::new(uri, Uuid::nil(), config.clone())?;
    let wal = medium
        .open(Incarnation { broker: 1, epoch: 1 }, Vacated::new_medium(), Arc::new(AckRight::unlimited()))
        .await?;
    let opened_us = began.elapsed().as_micros() as u64;
    let trimmer = tokio::spawn(trim(wal.clone()));
    let until = Instant::now() + duration;
    let tasks: Vec<_> = (0..writers).map(|_| tokio::spawn(write(wal.clone(), bytes, until))).collect();
    let mut latencies = Latencies::default();
    for task in tasks {
        latencies.merge(task.await??);
    }
    trimmer.abort();
    let records = latencies.len() as f64 / duration.as_secs_f64();
    wal.close().await;
    Ok(json!({
        "bench": "wal", "writers": writers, "bytes": bytes,
        "in_flight": config.writes_in_flight_max, "gather": config.gather_bytes,
        "opened_us": opened_us,
        "records_per_second": records as u64,
        "mb_per_second": (records * bytes as f64 / 1e6) as u64,
        "latency": latencies.summary(),
    }))
}

async fn write(wal: Arc<dyn Wal>, bytes: usize, until: Instant) -> anyhow::Result<Latencies> {
    let body = Bytes::from(vec![0x5a; bytes]);
    let mut latencies = Latencies::default();
    while Instant::now() < until {
        let record = Record { kind: 0, meta: Meta::new(&[0; 40]), body: body.clone() };
        let began = Instant::now();
        match wal.append(record) {
            Ok(append) => {
                append.await?;
                latencies.record(began.elapsed());
            }
            Err(AppendError::OverCapacity { .. }) => wal.admit(bytes + 40).await?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(latencies)
}

/// Gives space back as an uploader would, in large steps.
async fn trim(wal: Arc<dyn Wal>) {
    loop {
        let status = wal.status();
        if status.used_bytes > status.capacity_bytes / 2 && wal.trim(status.durable).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
