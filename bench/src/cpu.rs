//! Processor time and memory, as Linux counts them.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::{Value, json};

use crate::GIB;

/// What this process and the broker's have used up since a moment.
#[derive(Debug)]
pub struct Meter {
    broker: Option<u32>,
    broker_began: f64,
    client_began: f64,
    threads_began: BTreeMap<u32, (String, f64)>,
}

impl Meter {
    pub fn begin(broker: Option<u32>) -> anyhow::Result<Meter> {
        let broker_began = broker.map_or(Ok(0.0), seconds)?;
        let threads_began = broker.map_or_else(|| Ok(BTreeMap::new()), threads)?;
        Ok(Meter { broker, broker_began, client_began: seconds(std::process::id())?, threads_began })
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
            said["resident_mib"] = (memory(broker, "VmRSS:")? >> 20).into();
            said["resident_most_mib"] = (memory(broker, "VmHWM:")? >> 20).into();
            let mut by_name: BTreeMap<String, f64> = BTreeMap::new();
            for (id, (name, seconds)) in threads(broker)? {
                let before = self.threads_began.get(&id).map_or(0.0, |(_, seconds)| *seconds);
                *by_name.entry(name).or_insert(0.0) += seconds - before;
            }
            by_name.insert("ended".to_owned(), used - by_name.values().sum::<f64>());
            for (name, seconds) in by_name {
                if round(seconds) > 0.0 {
                    said["threads"][name] = round(seconds).into();
                }
            }
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
pub fn seconds(process: u32) -> anyhow::Result<f64> {
    seconds_in(&format!("/proc/{process}/stat"))
}

fn seconds_in(path: &str) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| -> anyhow::Result<u64> { Ok(fields.get(at).context("Linux tells it")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The same of each thread that there is, with its name but for the number at its end.
fn threads(process: u32) -> anyhow::Result<BTreeMap<u32, (String, f64)>> {
    let mut found = BTreeMap::new();
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let thread = thread?;
        let id = thread.file_name().to_string_lossy().parse()?;
        // It may end while it is looked at.
        let Ok(name) = std::fs::read_to_string(thread.path().join("comm")) else { continue };
        let Ok(used) = seconds_in(&thread.path().join("stat").display().to_string()) else { continue };
        let name = name.trim().trim_end_matches(|end: char| end.is_ascii_digit() || end == '-');
        found.insert(id, (name.to_owned(), used));
    }
    Ok(found)
}

/// A line of the process's status, in bytes.
fn memory(process: u32, name: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("Linux tells it")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
