//! The command line: `ottla serve` (also what bare `ottla` does), its tools, and a small Kafka client.
//!
//! Exit codes: 0 done, 1 failed (the reason is on standard error), 2 the command line was not understood. `ottla verify`
//! has its own: 1 where it found problems, 2 where it could not look, as `ottla metalog dump` and `ottla wal inspect` where
//! there is no cluster to look into.

pub(crate) mod client;
mod cluster;
mod config;
mod consume;
mod cost;
mod failure;
mod group;
mod inspect;
mod options;
mod output;
mod produce;
mod serve;
mod store;
mod tools;
mod topic;
mod verify;

use std::process::ExitCode;

use clap::{ArgMatches, Command};

/// Parses the process's arguments and runs what they ask for.
pub fn run() -> ExitCode {
    let matches = command().get_matches();
    if let Some(("verify", matches)) = matches.subcommand() {
        return verify::run(matches).unwrap_or_else(|error| {
            failure::print(&error);
            ExitCode::from(2)
        });
    }
    match dispatch(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            failure::print(&error);
            if error.is::<inspect::NoCluster>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn command() -> Command {
    let command = Command::new("ottla").subcommand(serve::command());
    // The tools bring texts of their own for the whole command; these are the ones that count.
    tools::augment(command)
        .subcommand(store::command())
        .subcommand(verify::command())
        .subcommands(inspect::commands())
        .subcommand(options::command())
        .version(env!("CARGO_PKG_VERSION"))
        .about("A Kafka-compatible broker whose only dependency is a bucket")
        .after_help(
            "Without a command, `ottla` runs a broker: the same as `ottla serve`.\n\n\
             Examples:\n  ottla\n  ottla produce hello \"first record\"\n  ottla consume hello",
        )
}

fn dispatch(matches: &ArgMatches) -> anyhow::Result<()> {
    if let Some(result) = tools::run(matches) {
        return result;
    }
    match matches.subcommand() {
        Some(("serve", matches)) => serve::run(matches),
        Some(("store", matches)) => store::run(matches),
        Some(("wal" | "object" | "metalog", _)) => inspect::run(matches),
        Some(("options", matches)) => options::run(matches),
        Some((name, _)) => unreachable!("{name} is a subcommand without an arm"),
        None => serve::run(&serve::command().get_matches_from(["serve"])),
    }
}
