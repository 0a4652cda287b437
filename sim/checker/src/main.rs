//! `checker FILE…`: the verdict on a history in JSON lines (see `checker::json`), merged from all the files by time.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;

use checker::{Options, check, json};
use clap::Parser;

/// Judges a history of what Kafka clients asked and were told. Exit code 1: something is wrong with it; 2: it is none.
#[derive(Parser)]
struct Arguments {
    /// Histories in JSON lines, of one clock; `-` for the standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The history ends without a read of everything, so that records may be unseen
    #[arg(long)]
    no_final_read: bool,
    /// Every rebalance is in the history: subscribed consumers may jump nowhere else
    #[arg(long)]
    rebalances_logged: bool,
    /// Findings of each kind that are printed
    #[arg(long, default_value_t = 16)]
    findings: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut sources: Vec<Box<dyn BufRead>> = Vec::new();
    for path in &arguments.files {
        if path.as_os_str() == "-" {
            sources.push(Box::new(BufReader::new(std::io::stdin())));
            continue;
        }
        match File::open(path) {
            Ok(file) => sources.push(Box::new(BufReader::new(file))),
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                return ExitCode::from(2);
            }
        }
    }
    let history = match json::read(&mut sources) {
        Ok(history) => history,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let options = Options {
        final_read: !arguments.no_final_read,
        rebalances_logged: arguments.rebalances_logged,
        findings_max: arguments.findings,
    };
    let verdict = check(&history, &options);
    print!("{verdict}");
    ExitCode::from(u8::from(!verdict.valid()))
}
