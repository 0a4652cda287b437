//! Ottla's benchmarks. Each run prints one line of JSON.
//!
//! ```text
//!   cargo run --release -p bench -- wal --path /mnt/wal.bench            the block WAL, from outside
//!   cargo run --release -p bench -- device --path /mnt/wal.bench         the writes it could be made of
//!   cargo run --release -p bench -- wal-against-device --path …          both in turn
//!   cargo run --release -p bench -- object-wal --put-ms 25 --spread 30   the object WAL over a store that takes its time
//!   cargo run --release -p bench -- cache                                the caches that reads are served from
//!   bench/figures-wal                                                    all figures of these on docs/benchmarks.md
//!   cargo run --release -p bench -- load produce --pid PID               a broker from outside; also consume, end-to-end
//!   cargo run --release -p bench -- start-up --partitions 1000           until the first acknowledged record; and idle
//!   cargo run --release -p bench -- get --path DIR/store                 bare GETs, to compare consumers of old data with
//!   bench/figures                                                        all figures of a broker on docs/benchmarks.md
//!   bench/overload                                                       more than it can take, with verdicts
//!   bench/soak --minutes 60                                              the broker under mixed load, for long
//!   bench/ingest --minutes 5                                             the broker at its fastest: does the rest keep up?
//! ```

mod batch;
mod cache;
mod client;
mod cpu;
mod device;
mod get;
mod ingest;
mod latency;
mod load;
mod object_wal;
mod process;
mod slow_store;
mod soak;
mod start_up;
mod trend;
mod turns;
mod wal;

use clap::{Parser, Subcommand};

const GIB: f64 = (1u64 << 30) as f64;

#[derive(Parser)]
#[command(about = "Ottla's benchmarks; each run prints one line of JSON")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Appends to a block WAL from concurrent writers, each with one append under way
    Wal(wal::Options),
    /// A block WAL and its device under the same writers, in turn
    WalAgainstDevice(wal::pairs::Options),
    /// A block WAL, and the same one acknowledging in any order, in turn
    #[cfg(feature = "models")]
    WalAgainstAnyOrder(wal::pairs::Options),
    /// Appends to an object WAL over a store in memory that takes its time
    ObjectWal(object_wal::Options),
    /// Appends to and reads of the log cache, and reads of the block cache
    Cache(cache::Options),
    /// Durable writes to a preallocated file, by threads and by io_uring
    Device(device::Options),
    /// Load on a broker that runs, and what it costs there
    #[command(subcommand)]
    Load(load::Load),
    /// From the start of a broker's process to its first acknowledged record; and what it costs while idle
    StartUp(start_up::Options),
    /// Bare GETs of a directory's data objects
    Get(get::Options),
    /// A door before an S3 server that makes it slow
    SlowStore(slow_store::Options),
    /// A broker under mixed load, watched for growth and for lost or doubled records
    Soak(soak::Options),
    /// A broker that takes in all it can, with retention and topics that go: do compaction and deletion keep up?
    Ingest(ingest::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Wal(options) => wal::run(&options),
        Command::WalAgainstDevice(options) => wal::pairs::against_device(&options),
        #[cfg(feature = "models")]
        Command::WalAgainstAnyOrder(options) => wal::pairs::against_any_order(&options),
        Command::ObjectWal(options) => object_wal::run(&options),
        Command::Cache(options) => cache::run(&options),
        Command::Device(options) => device::run(&options),
        Command::Load(load) => load::run(&load),
        Command::StartUp(options) => start_up::run(&options),
        Command::Get(options) => get::run(&options),
        Command::SlowStore(options) => slow_store::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Ingest(options) => ingest::run(&options),
    }
}
