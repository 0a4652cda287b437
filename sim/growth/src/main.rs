//! `growth`: what the metadata log costs a large cluster, as tables.

use clap::Parser;
use growth::cluster::{Cluster, Shape};
use growth::report;

/// What the metadata log costs a large cluster: the real state machine and the real log, without the brokers.
#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 100)]
    brokers: u32,
    #[arg(long, default_value_t = 100_000)]
    partitions: usize,
    #[arg(long, default_value_t = 1_000)]
    topics: usize,
    /// Partitions that are written to; all unless it is given
    #[arg(long)]
    active: Option<usize>,
    /// MiB a second that producers write, to all of them
    #[arg(long, default_value_t = 100)]
    ingest: u64,
    /// PUTs a second of each broker's log, of which 400 bring an upload every 20 s at most; 0 for a block WAL
    #[arg(long, default_value_t = 20)]
    slots_per_second: u64,
    /// Parts of 32 MiB that retention leaves of each
    #[arg(long, default_value_t = 4)]
    full_parts: u64,
    /// Seconds of traffic
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only the log's own part: how many commits it takes
    #[arg(long)]
    races_only: bool,
    /// Without that part
    #[arg(long)]
    no_races: bool,
}

fn main() {
    let arguments = Arguments::parse();
    if !arguments.races_only {
        let shape = Shape {
            brokers: arguments.brokers,
            partitions: arguments.partitions,
            topics: arguments.topics,
            active: arguments.active.unwrap_or(arguments.partitions),
            ingest: arguments.ingest << 20,
            slots_per_second: arguments.slots_per_second,
            full_parts: arguments.full_parts,
            seed: arguments.seed,
        };
        println!("{shape:?}\n");
        let mut cluster = Cluster::new(shape);
        report::weight(&report::weigh(&cluster));
        cluster.run(arguments.seconds);
        let entries_per_second = report::traffic(&cluster, arguments.seconds);
        report::weight(&report::weigh(&cluster));
        report::replacing(&mut cluster, entries_per_second);
    }
    if !arguments.no_races {
        report::races(arguments.seed);
    }
}
