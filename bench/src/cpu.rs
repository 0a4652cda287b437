//! Processor time and memory, as Linux counts them.

use anyhow::Context;
use serde_json::{Value, json};

use crate::GIB;

/// What this process and the broker's have used up since a moment.
#[derive(Debug)]
pub struct Meter {
    broker: Option<u32>,
    broker_began: f64,
    client_began: f64,
}

impl Meter {
    pub fn begin(broker: Option<u32>) -> anyhow::Result<Meter> {
        let broker_began = broker.map_or(Ok(0.0), seconds)?;
        Ok(Meter { broker, broker_began, client_began: seconds(std::process::id())? })
    }

    /// Processor seconds, in all and for each GiB.
    pub fn end(&self, bytes: u64) -> anyhow::Result<Value> {
        let gib = bytes as f64 / GIB;
        let client = seconds(std::process::id())? - self.client_began;
        let mut said = json!({ "client_cpu_s": round(client), "client_cpu_s_per_gib": round(client / gib) });
        if let Some(broker) = self.broker {
            let used = seconds(broker)? - self.broker_began;
            said["cpu_s"] = round(used).into();
            said["cpu_s_per_gib"] = round(used / gib).into();
            said["resident_mib"] = (resident_bytes(broker)? >> 20).into();
        }
        Ok(said)
    }
}

/// What all threads of this process have used so far, in seconds; finer than what [`Meter`] reads.
pub fn own_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

/// Three decimals.
pub fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// User and system time of all threads, those that ended included.
fn seconds(process: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{process}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| -> anyhow::Result<u64> { Ok(fields.get(at).context("Linux tells it")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn resident_bytes(process: u32) -> anyhow::Result<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{process}/statm"))?;
    let pages: u64 = statm.split_whitespace().nth(1).context("Linux tells it")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}
