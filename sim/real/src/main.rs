//! Brokers as real processes, each in a network namespace of its own, while real clients write and read and faults strike:
//! `sim/real/run --cycles 200`.
//!
//! ```text
//!   namespace b1        b2        b3        store             clients
//!      ottla serve   ottla serve  …        moto (S3)     Java and librdkafka: ops
//!           │             │        │          │                │      │
//!           └─────────────┴────────┴── hub ───┴────────────────┘      │  histories (JSON lines, one clock)
//!                     routes; cuts one direction of a pair            ▼
//!                     this program: faults by seed ──────────► judge: ledger, sim/checker, ottla verify
//! ```
//!
//! A cycle strikes, holds the fault, heals, waits until every partition acknowledges again, and rests. At the end all is
//! healed, both kinds of client read everything once more through each broker, the brokers are told to leave, and the
//! store is verified.
//!
//! - **P1** Everything random follows from the seed: which fault, on whom, how long. What the processes make of it does not.
//! - **P2** Nothing that was acknowledged may be missing, doubled, moved or changed in any of the last reads; whatever else
//!   the checker finds in what clients were told is a violation as well.
//! - **P3** Healed, every partition acknowledges again within [`HEALED_WITHIN`].
//! - **P4** A run leaves nothing behind: neither when it is interrupted, nor when it is killed, once the next one has begun.
//!
//! Reading order: [`fault`] (what can happen), [`network`], [`cluster`], [`clients`], [`history`] (what is made of it).

mod clients;
mod cluster;
mod fault;
mod history;
mod kafka;
mod network;
mod run;
mod scene;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use cluster::Wal;

/// How long a partition may stay without an acknowledged write once all is healed. Far beyond what fail-over takes: a
/// client's own back-off and a machine that does other things are in it.
pub const HEALED_WITHIN: Duration = Duration::from_secs(240);

/// Faults on a cluster of real processes, and what its clients were told
#[derive(Clone, Debug, Parser)]
#[command(name = "real")]
pub struct Options {
    /// Faults, one after the other
    #[arg(long, default_value_t = 200)]
    cycles: u32,
    /// What strikes whom, and for how long
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, value_enum, default_value_t = Wal::Object)]
    wal: Wal,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    brokers: u32,
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..=1000))]
    partitions: i32,
    /// A lane (two for each partition and client) rests so long between two records, on average
    #[arg(long, value_name = "MS", default_value_t = 200)]
    pace: u32,
    /// Each answer of the store is late by so many milliseconds at least
    #[arg(long, value_name = "MS", default_value_t = 20)]
    store_latency_min: u32,
    /// And by so many at most
    #[arg(long, value_name = "MS", default_value_t = 100)]
    store_latency_max: u32,
    /// The longest that a fault is held
    #[arg(long, value_name = "SECONDS", default_value_t = 6)]
    hold_max: u64,
    /// Only faults whose name begins so, such as kill or cut; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// An option for the brokers, as in --with=--lease=5s; may be repeated
    #[arg(long, value_name = "OPTION")]
    with: Vec<String>,
    /// The program
    #[arg(long, value_name = "PATH", default_value = "target/release/ottla")]
    ottla: PathBuf,
    /// Where the logs and histories go; without it they are kept only if something was wrong
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
}

fn main() -> ExitCode {
    // The threads that start processes and sockets are this one: a process dies with the thread that started it, and a
    // socket is in that thread's namespace.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(until_interrupted(Options::parse())),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("real: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether all was as it should be.
async fn until_interrupted(options: Options) -> anyhow::Result<bool> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "network namespaces need root: run it as root (sudo sim/real/run …)"
    );
    for name in &options.only {
        ensure!(
            fault::KINDS.iter().any(|kind| kind.starts_with(name)),
            "no fault is called {name}: there are {}",
            fault::KINDS.join(", ")
        );
    }
    let ottla = options.ottla.canonicalize().with_context(|| {
        format!("{} is missing: sim/real/run builds it, and --ottla names another", options.ottla.display())
    })?;
    let options = Options { ottla, ..options };
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    scene::sweep()?;
    let mut scene = scene::Scene::new()?;
    let outcome = tokio::select! {
        outcome = run::run(&options, &scene) => outcome,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("told to end")),
    };
    // All processes have been killed with what held them.
    let kept = match (&options.keep, &outcome) {
        (Some(directory), _) => Some(scene.keep(directory)?),
        (None, Ok(false)) => Some(scene.keep(&PathBuf::from(".test/real"))?),
        (None, _) => None,
    };
    if let Some(kept) = kept {
        println!("kept {}", kept.display());
    }
    scene.end()?;
    outcome
}
