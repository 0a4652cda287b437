//! The figures, as tables.

use std::time::Duration;

use ottla::metadata::image::Image;

use crate::arena::Conditions;
use crate::cluster::{Cluster, Cost};
use crate::fail_over::{drain, fail_over};
use crate::measure::{cpu_of, live_bytes};
use crate::race::{self, Race};
use crate::take_over;

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

/// What a time of traffic cost; gives its entries per second.
pub fn traffic(cluster: &Cluster, seconds: u64) -> f64 {
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
    all.entries as f64 / seconds as f64
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

/// Times of a fail-over that are looked at.
const TAKE_OVERS: u64 = 20;

/// A broker dies, another one leaves, where the others write so many entries per second.
pub fn replacing(cluster: &mut Cluster, entries_per_second: f64) {
    let conditions = |seed| Conditions {
        replicas: cluster.brokers.len(),
        commands_per_second: entries_per_second.max(0.01),
        put_ms: (20, 100),
        get_ms: (20, 100),
        seed,
    };
    let conditions: Vec<Conditions> = (1..=TAKE_OVERS).map(conditions).collect();
    println!(
        "| | partitions | slots | entries | bytes | processor, ms | longest entry, ms | from the verdict until all know, s: p50 | longest |\n|---|---|---|---|---|---|---|---|---|"
    );
    // All that lie between two uploads, each of some of the partitions.
    let slots = (cluster.shape.slots_per_second * cluster.upload_every(1)) as usize;
    let cases = [
        ("fail-over, nothing left", Some(0), fail_over(cluster, 1, 0, 0)),
        ("fail-over, slots of ten", Some(slots), fail_over(cluster, 1, slots, 10)),
        ("fail-over, slots of a hundred", Some(slots), fail_over(cluster, 1, slots, 100)),
        ("emptied, 1 at a time", None, drain(cluster, 1, 1)),
        ("emptied, 100 at a time", None, drain(cluster, 1, 100)),
    ];
    for (name, slots, replaced) in cases {
        let mut times: Vec<f64> = Vec::new();
        if let Some(slots) = slots {
            // All but the fence.
            let commits = replaced.entries - 1;
            let take_over = |conditions| take_over::run(conditions, slots, commits).as_secs_f64();
            times.extend(conditions.iter().map(take_over));
            times.sort_by(f64::total_cmp);
        }
        let time = |at: Option<&f64>| at.map(|time| format!("{time:.2}")).unwrap_or_default();
        println!(
            "| {name} | {} | {} | {} | {} | {:.1} | {:.1}: {} | {} | {} |",
            replaced.partitions,
            slots.map(|slots| slots.to_string()).unwrap_or_default(),
            replaced.entries,
            replaced.bytes,
            replaced.cpu.as_secs_f64() * 1e3,
            replaced.cpu_max.0.as_secs_f64() * 1e3,
            replaced.cpu_max.1,
            time(times.get(times.len() / 2)),
            time(times.last()),
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
            let conditions = Conditions { replicas, commands_per_second, put_ms, get_ms: (10, 30), seed };
            let outcome = race::run(&Race { conditions, seconds: 60 });
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
