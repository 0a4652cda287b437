//! What the hot paths cost in instructions: the cases that `bench/gate` counts under valgrind and compares with
//! `bench/instructions.json`.
//!
//! ```text
//!   bench/gate ──► valgrind instructions CASE --rounds N    ──► I(N)  ┐
//!              └─► valgrind instructions CASE --rounds 2·N  ──► I(2N) ┴─► (I(2N) − I(N)) / N: one round, without the set-up
//! ```
//!
//! A round is one request, one append or one batch. The program says nothing and measures nothing; it only does a case's
//! work a given number of times.
//!
//! # Invariants
//!
//! - **I1** Everything but the block WAL's own threads runs on one thread, over in-memory streams instead of sockets: which
//!   work is done, and in which pieces, does not depend on the kernel or on what else the machine does.
//! - **I2** Nothing that comes with time (uploads, checkpoints, retention) falls into the rounds.
//! - **I3** Each round's outcome is looked at: a case whose requests fail is not a cheap one, it panics.
//! - **I4** What the peer does in a round is small beside what the broker does: requests are encoded before, and of
//!   responses no more than the beginning is kept.

mod broker;
mod codec;
mod peer;
mod requests;
mod serve;
mod wal;

use clap::{Parser, Subcommand};

/// The binary's allocator, whose work is counted too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Rounds before the ones that are asked for: what grows once has grown then.
const WARM_UP_ROUNDS: usize = 50;

/// A path that is counted.
struct Case {
    name: &'static str,
    /// What one round is.
    about: &'static str,
    /// How many are needed for their mean to be the same every time.
    rounds: usize,
    run: fn(rounds: usize) -> anyhow::Result<()>,
}

const CASES: &[Case] = &[
    Case {
        name: "produce",
        about: "a Produce of one batch of 64 records of 1 KiB, up to its acknowledgement",
        rounds: 300,
        run: |rounds| serve::produce(64, 1024, rounds),
    },
    Case {
        name: "produce-small",
        about: "a Produce of one record of 100 bytes",
        rounds: 1000,
        run: |rounds| serve::produce(1, 100, rounds),
    },
    Case {
        name: "produce-partitions",
        about: "a Produce of one record of 100 bytes for each of 50 partitions",
        rounds: 100,
        run: |rounds| serve::produce_to_many(50, 100, rounds),
    },
    Case {
        name: "fetch",
        about: "a Fetch of 1 MiB in 16 batches from the log cache",
        rounds: 500,
        run: |rounds| serve::fetch(16, 64, rounds),
    },
    Case {
        name: "fetch-small",
        about: "a Fetch of one record of 1 KiB from the log cache",
        rounds: 1000,
        run: |rounds| serve::fetch(1, 1, rounds),
    },
    Case {
        name: "fetch-cold",
        about: "a Fetch of 1 MiB in 16 batches from the block cache",
        rounds: 300,
        run: serve::fetch_cold,
    },
    Case {
        name: "wal-append-1k",
        about: "an append of 1 KiB to a block WAL, up to its acknowledgement",
        rounds: 4000,
        run: |rounds| wal::append(1 << 10, rounds),
    },
    Case {
        name: "wal-append-64k",
        about: "an append of 64 KiB to a block WAL, up to its acknowledgement",
        rounds: 400,
        run: |rounds| wal::append(64 << 10, rounds),
    },
    Case {
        name: "validate",
        about: "the checks of a produced batch of 64 records of 1 KiB",
        rounds: 1000,
        run: |rounds| codec::validate(false, rounds),
    },
    Case {
        name: "validate-lz4",
        about: "the same, compressed with lz4",
        rounds: 200,
        run: |rounds| codec::validate(true, rounds),
    },
    Case {
        name: "walk-metadata",
        about: "the walk before decoding of a Metadata request for 100 topics",
        rounds: 5000,
        run: codec::walk_metadata,
    },
    Case {
        name: "walk-fetch",
        about: "the walk before decoding of a Fetch of 100 partitions",
        rounds: 5000,
        run: codec::walk_fetch,
    },
    Case {
        name: "object-encode",
        about: "a data object of 8 streams with 32 records of 1 KiB each",
        rounds: 500,
        run: codec::encode_object,
    },
    Case {
        name: "object-decode",
        about: "the index and every block of that object",
        rounds: 500,
        run: codec::decode_object,
    },
];

#[derive(Parser)]
#[command(about = "The cases that bench/gate counts the instructions of")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A line for each case: its name, its rounds, what one of them is
    List,
    /// Does a case's work
    Run {
        case: String,
        #[arg(long)]
        rounds: usize,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::List => {
            for Case { name, about, rounds, .. } in CASES {
                println!("{name}\t{rounds}\t{about}");
            }
            Ok(())
        }
        Command::Run { case, rounds } => {
            let found = CASES.iter().find(|known| known.name == case);
            let found =
                found.ok_or_else(|| anyhow::anyhow!("there is no case {case}; see `instructions list`"))?;
            (found.run)(rounds)
        }
    }
}

/// Runs what a case does on a runtime of one thread.
fn on_one_thread<F: Future<Output = anyhow::Result<()>>>(work: F) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Each looks at what its rounds led to (I3), so that it need not be counted to be seen to rot.
    #[test]
    fn every_case_does_its_work() {
        for case in CASES {
            (case.run)(3).unwrap_or_else(|error| panic!("{}: {error:#}", case.name));
        }
    }

    #[test]
    fn every_case_has_a_baseline_and_every_baseline_a_case() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../instructions.json");
        let known: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let named =
            |what: &str| -> BTreeSet<String> { known[what].as_object().unwrap().keys().cloned().collect() };
        let cases: BTreeSet<String> = CASES.iter().map(|case| case.name.to_owned()).collect();
        assert_eq!(cases.len(), CASES.len(), "two cases have one name");
        assert_eq!(named("baselines"), cases);
        let mut tolerances = named("tolerance_percent");
        assert!(tolerances.remove("otherwise"));
        assert!(tolerances.is_subset(&cases), "{tolerances:?}");
    }
}
