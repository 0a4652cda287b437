//! The block WAL from outside: closed loops of one append each.
//!
//! ```text
//!   wal                      a run for each number of writers, record size and setting
//!   wal-against-device       the WAL, the device with the same writers, the device with the WAL's own writes, in turn
//!   wal-against-any-order    the WAL, and the same one that acknowledges in any order, in turn (feature `models`)
//! ```

pub mod pairs;
mod volume;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::wal::block::Config;
use ::wal::uri::ByteSize;
use ::wal::{AppendError, Meta, Record, Wal};
use bytes::Bytes;
use clap::Args;
use serde_json::json;
use tokio::runtime::Runtime;

use self::volume::Volume;
use crate::cpu;
use crate::latency::Latencies;

#[derive(Args)]
pub struct Options {
    /// A file, which is made and deleted, or a block device, which is written over
    #[arg(long)]
    path: PathBuf,
    /// Of a file
    #[arg(long, default_value = "1GiB")]
    capacity: ByteSize,
    /// Concurrent writers, a run for each
    #[arg(long, value_delimiter = ',', default_value = "1,8,16,32,64")]
    writers: Vec<usize>,
    /// Bytes of a record, a run for each
    #[arg(long, value_delimiter = ',', default_value = "1024,16384,65536")]
    bytes: Vec<usize>,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Writes in flight at most, a run for each
    #[arg(long, value_delimiter = ',', default_value = "4")]
    in_flight: Vec<usize>,
    /// Bytes that a write gathers while others are in flight, a run for each
    #[arg(long, value_delimiter = ',', default_value = "4096")]
    gather: Vec<usize>,
}

/// What closed loops put on a medium.
#[derive(Clone, Copy, Debug)]
struct Loops {
    writers: usize,
    bytes: usize,
    duration: Duration,
}

/// What came of it.
#[derive(Debug)]
struct Done {
    seconds: f64,
    cpu_seconds: f64,
    /// Of each record.
    latencies: Latencies,
    /// Of records.
    bytes: u64,
    /// Writes of the device, and their bytes.
    writes: u64,
    written: u64,
}

impl Done {
    fn mb_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds
    }

    fn cpu_seconds_per_gib(&self) -> f64 {
        self.cpu_seconds / (self.bytes as f64 / crate::GIB)
    }
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut volume = Volume::make(&options.path, options.capacity)?;
    let duration = Duration::from_secs_f64(options.seconds);
    for &bytes in &options.bytes {
        for &writers in &options.writers {
            for &writes_in_flight_max in &options.in_flight {
                for &gather_bytes in &options.gather {
                    let config = Config { writes_in_flight_max, gather_bytes, ..Config::default() };
                    let loops = Loops { writers, bytes, duration };
                    let done = measure(&runtime, &mut volume, &config, loops)?;
                    let line = json!({
                        "bench": "wal", "writers": writers, "bytes": bytes,
                        "in_flight": writes_in_flight_max, "gather": gather_bytes,
                        "records_per_second": (done.latencies.len() as f64 / done.seconds) as u64,
                        "mb_per_second": done.mb_per_second() as u64,
                        "cpu_s_per_gib": cpu::round(done.cpu_seconds_per_gib()),
                        "device": {
                            "writes_per_second": (done.writes as f64 / done.seconds) as u64,
                            "mb_per_second": (done.written as f64 / 1e6 / done.seconds) as u64,
                        },
                        "latency": done.latencies.summary(),
                    });
                    println!("{line}");
                }
            }
        }
    }
    Ok(())
}

/// One run, in a life of the volume's own.
fn measure(runtime: &Runtime, volume: &mut Volume, config: &Config, loops: Loops) -> anyhow::Result<Done> {
    runtime.block_on(async {
        let (wal, device) = volume.open(config).await?;
        let trimmer = tokio::spawn(trim(wal.clone()));
        let cpu = cpu::own_seconds();
        let (writes, written) = device.counts();
        let began = Instant::now();
        let until = began + loops.duration;
        let tasks: Vec<_> =
            (0..loops.writers).map(|_| tokio::spawn(write(wal.clone(), loops.bytes, until))).collect();
        let mut latencies = Latencies::default();
        for task in tasks {
            latencies.merge(task.await??);
        }
        let seconds = began.elapsed().as_secs_f64();
        let cpu_seconds = cpu::own_seconds() - cpu;
        let (writes_after, written_after) = device.counts();
        trimmer.abort();
        // Its handle of the log goes with it.
        let _ = trimmer.await;
        wal.close().await;
        drop(wal);
        // Its threads let go of the device, and so of its lock, a moment after they have ended.
        while Arc::strong_count(&device) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(Done {
            seconds,
            cpu_seconds,
            bytes: (latencies.len() * loops.bytes) as u64,
            latencies,
            writes: writes_after - writes,
            written: written_after - written,
        })
    })
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
