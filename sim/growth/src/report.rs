//! The figures, as tables.

use std::time::Duration;

use ottla::metadata::image::Image;

use crate::cluster::{Cluster, Cost};
use crate::fail_over::{drain, fail_over};
use crate::measure::{cpu_of, live_bytes};
use crate::race::{self, Race};

/// What a state weighs.
#[derive(Clone, Copy, Debug)]
pub struct Weight {
    pub parts: usize,
    pub objects: usize,
    pub snapshot_bytes: usize,
    pub encode: Duration,
    /// Decoding, with all the checks.
    pub load: Duration,
    /// What a loaded image holds.
    pub memory_bytes: isize,
}

pub fn weigh(cluster: &Cluster) -> Weight {
    let (bytes, encode) = cpu_of(|| cluster.image.encode());
    let before = live_bytes();
    let (loaded, load) = cpu_of(|| Image::decode(&bytes));
    let memory_bytes = live_bytes() - before;
    drop(loaded.expect("a snapshot of its own"));
    Weight {
        parts: cluster.parts(),
        objects: cluster.image.objects().count(),
        snapshot_bytes: bytes.len(),
        encode,
        load,
        memory_bytes,
    }
}

pub fn weight(weight: &Weight) {
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    println!(
        "| parts | objects | snapshot | to write | to load | memory of a broker |\n|---|---|---|---|---|---|"
    );
    println!(
        "| {} | {} | {:.1} MiB | {:.2} s | {:.2} s | {:.0} MiB |\n",
        weight.parts,
        weight.objects,
        mib(weight.snapshot_bytes as f64),
        weight.encode.as_secs_f64(),
        weight.load.as_secs_f64(),
        mib(weight.memory_bytes as f64),
    );
}

/// What a time of traffic cost.
pub fn traffic(cluster: &Cluster, seconds: u64) {
    println!(
        "| entries | each second | bytes each second | bytes each | processor, of one core | each, ms | most, ms |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut all = Cost::default();
    for (kind, cost) in &cluster.costs {
        all.add(cost);
        line(kind, cost, seconds);
    }
    line("all", &all, seconds);
    println!();
}

fn line(kind: &str, cost: &Cost, seconds: u64) {
    let per_second = |number: f64| number / seconds as f64;
    println!(
        "| {kind} | {:.2} | {:.0} | {} | {:.2} % | {:.3} | {:.2} |",
        per_second(cost.entries as f64),
        per_second(cost.bytes as f64),
        cost.bytes / cost.entries.max(1),
        per_second(cost.cpu.as_secs_f64()) * 100.0,
        cost.cpu.as_secs_f64() * 1e3 / cost.entries.max(1) as f64,
        cost.cpu_max.as_secs_f64() * 1e3,
    );
}

/// A broker dies, another one leaves.
pub fn replacing(cluster: &mut Cluster) {
    println!(
        "| | partitions | entries | bytes | processor, ms | longest entry, ms |\n|---|---|---|---|---|---|"
    );
    // What 20 PUTs a second leave between two uploads, a minute apart at most, each of some of the partitions.
    let slots = 20 * cluster.upload_every() as usize;
    let cases = [
        ("fail-over, nothing left", fail_over(cluster, 1, 0, 0)),
        ("fail-over, slots full of few", fail_over(cluster, 1, slots, 10)),
        ("fail-over, slots of many", fail_over(cluster, 1, slots, 100)),
        ("emptied, 1 at a time", drain(cluster, 1, 1)),
        ("emptied, 100 at a time", drain(cluster, 1, 100)),
    ];
    for (name, replaced) in cases {
        println!(
            "| {name} | {} | {} | {} | {:.1} | {:.1}: {} |",
            replaced.partitions,
            replaced.entries,
            replaced.bytes,
            replaced.cpu.as_secs_f64() * 1e3,
            replaced.cpu_max.0.as_secs_f64() * 1e3,
            replaced.cpu_max.1,
        );
    }
    println!();
}

/// Replicas that race for one log.
pub fn races(seed: u64) {
    println!(
        "| replicas | PUT, ms | commands a second | committed | a command each entry | PUTs for each | GETs for each | p50, ms | p99, ms |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for put_ms in [(20, 20), (20, 100), (100, 100)] {
        for (replicas, commands_per_second) in
            [(1, 100.0), (3, 10.0), (100, 2.0), (100, 5.0), (100, 10.0), (100, 20.0), (100, 50.0)]
        {
            let race = Race { replicas, commands_per_second, put_ms, get_ms: (10, 30), seconds: 60, seed };
            let outcome = race::run(&race);
            let each = |number: u64| number as f64 / outcome.committed.max(1) as f64;
            println!(
                "| {replicas} | {}–{} | {commands_per_second} | {:.1} a second | {:.2} | {:.2} | {:.1} | {} | {} |",
                put_ms.0,
                put_ms.1,
                outcome.committed as f64 / outcome.took.as_secs_f64(),
                outcome.committed as f64 / outcome.entries.max(1) as f64,
                each(outcome.puts),
                each(outcome.gets),
                outcome.p50.as_millis(),
                outcome.p99.as_millis(),
            );
        }
    }
    println!();
}
