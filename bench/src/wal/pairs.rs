//! The block WAL beside what it could be, in turn.

use std::path::PathBuf;
use std::time::Duration;

use ::wal::block::Config;
use ::wal::uri::ByteSize;
use clap::Args;
use serde_json::{Value, json};

use super::volume::Volume;
use super::{Done, Loops, measure};
use crate::cpu::round;
use crate::turns::{Ratios, Spread, take_turns};

#[derive(Args)]
pub struct Options {
    /// A file, which is made and deleted, or a block device, which is written over
    #[arg(long)]
    path: PathBuf,
    /// Of a file
    #[arg(long, default_value = "1GiB")]
    capacity: ByteSize,
    /// Concurrent writers, a line for each
    #[arg(long, value_delimiter = ',', default_value = "8,16,32,64")]
    writers: Vec<usize>,
    /// Bytes of a record, a line for each
    #[arg(long, value_delimiter = ',', default_value = "65536")]
    bytes: Vec<usize>,
    /// How often each has its turn
    #[arg(long, default_value_t = 20)]
    pairs: usize,
    /// How long a turn is
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// The WAL's writes in flight at most
    #[arg(long, default_value_t = Config::default().writes_in_flight_max)]
    in_flight: usize,
    /// Bytes that a write of the WAL gathers while others are in flight
    #[arg(long, default_value_t = Config::default().gather_bytes)]
    gather: usize,
    /// A frame of the WAL that has reached this takes no more records
    #[arg(long, default_value_t = Config::default().frame_bytes_target)]
    target: usize,
}

impl Options {
    fn config(&self) -> Config {
        Config {
            writes_in_flight_max: self.in_flight,
            gather_bytes: self.gather,
            frame_bytes_target: self.target,
            ..Config::default()
        }
    }

    /// A line for each size and number of writers.
    fn each(
        &self,
        mut measure: impl FnMut(&mut Volume, Loops) -> anyhow::Result<Value>,
    ) -> anyhow::Result<()> {
        let mut volume = Volume::make(&self.path, self.capacity)?;
        for &bytes in &self.bytes {
            for &writers in &self.writers {
                let loops = Loops { writers, bytes, duration: Duration::from_secs_f64(self.seconds) };
                let mut line = measure(&mut volume, loops)?;
                line["writers"] = writers.into();
                line["bytes"] = bytes.into();
                line["pairs"] = self.pairs.into();
                line["seconds"] = self.seconds.into();
                println!("{line}");
            }
        }
        Ok(())
    }
}

/// The WAL; the device with as many writers of the same size; the device with as many writes in flight as the WAL has,
/// each as large as the WAL's are on average.
pub fn against_device(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let config = options.config();
    options.each(|volume, loops| {
        // One uncounted turn says how large a frame is.
        let mut frame = frame_of(&measure(&runtime, volume, &config, loops)?, loops.bytes);
        let [wal, device, frames] = take_turns(options.pairs, |arm| match arm {
            0 => {
                let done = measure(&runtime, volume, &config, loops)?;
                frame = frame_of(&done, loops.bytes);
                Ok(done)
            }
            1 => volume.write_directly(loops),
            _ => {
                let writers = config.writes_in_flight_max.min(loops.writers);
                volume.write_directly(Loops { writers, bytes: frame, ..loops })
            }
        })?;
        let on_device = |done: &Done| done.written as f64 / done.seconds;
        Ok(json!({
            "bench": "wal-against-device",
            "wal": said(&wal), "device": said(&device), "frames": said(&frames),
            "ratio": Ratios::of(&wal, &device, Done::mb_per_second).said(),
            "ratio_to_frames": Ratios::of(&wal, &frames, on_device).said(),
        }))
    })
}

/// What a write of the device takes on average, in whole blocks.
fn frame_of(done: &Done, at_least: usize) -> usize {
    (done.written.checked_div(done.writes).unwrap_or(0) as usize).max(at_least).next_multiple_of(4096)
}

/// The WAL, and the WAL without W2.
#[cfg(feature = "models")]
pub fn against_any_order(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let config = options.config();
    options.each(|volume, loops| {
        measure(&runtime, volume, &config, loops)?;
        let [in_order, any_order] = take_turns(options.pairs, |arm| {
            ::wal::any_order::want(arm == 1);
            measure(&runtime, volume, &config, loops)
        })?;
        ::wal::any_order::want(false);
        Ok(json!({
            "bench": "wal-against-any-order",
            "in_order": said(&in_order), "any_order": said(&any_order),
            "ratio": Ratios::of(&in_order, &any_order, Done::mb_per_second).said(),
            "ratio_p50": Ratios::of(&in_order, &any_order, |done| done.latencies.at(0.5)).said(),
            "ratio_p99": Ratios::of(&in_order, &any_order, |done| done.latencies.at(0.99)).said(),
            "ratio_cpu": Ratios::of(&in_order, &any_order, Done::cpu_seconds_per_gib).said(),
        }))
    })
}

fn said(runs: &[Done]) -> Value {
    let spread = |of: fn(&Done) -> f64| Spread::of(runs.iter().map(of)).said();
    let median = |of: fn(&Done) -> f64| round(Spread::of(runs.iter().map(of)).median);
    json!({
        "mb_per_second": spread(Done::mb_per_second),
        "cpu_s_per_gib": median(Done::cpu_seconds_per_gib),
        "p50_us": median(|done| done.latencies.at(0.5)),
        "p99_us": median(|done| done.latencies.at(0.99)),
        "write_bytes": median(|done| done.written as f64 / done.writes.max(1) as f64) as u64,
    })
}
