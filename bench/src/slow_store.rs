//! A door before an S3 server that makes PUTs, and whatever else is asked for, take their time.
//!
//! It says where it listens in a line of JSON. Each line on standard input then holds the milliseconds that answers are
//! kept back from then on: one number for every request, or two: for PUTs, and for all others. It ends with its input.

use std::io::{BufRead, Write};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use faults::{Fault, Operation, Proxy, Rule};
use serde_json::json;

#[derive(Debug, Args)]
pub struct Options {
    /// http://HOST:PORT of the S3 server
    #[arg(long)]
    s3_endpoint: String,
    /// What PUTs take from the beginning
    #[arg(long, default_value_t = 0)]
    put_ms: u64,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    // Nothing depends on the keys: no parts of the path are told apart.
    let proxy = Proxy::before(&options.s3_endpoint, 0, 1);
    slow_down(&proxy, options.put_ms, 0);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", json!({ "bench": "slow-store", "s3_endpoint": proxy.endpoint() }))?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let wanted = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>();
        let wanted = wanted.with_context(|| format!("{line:?} is not a number of milliseconds"))?;
        ensure!((1..=2).contains(&wanted.len()), "one number or two, not {line:?}");
        slow_down(&proxy, wanted[0], wanted[wanted.len() - 1]);
    }
    Ok(())
}

fn slow_down(proxy: &Proxy, put_ms: u64, others_ms: u64) {
    proxy.heal();
    for (operation, milliseconds) in [
        (Operation::Put, put_ms),
        (Operation::Get, others_ms),
        (Operation::Delete, others_ms),
        (Operation::List, others_ms),
    ] {
        if milliseconds > 0 {
            proxy.add(Rule::new(operation, Fault::Delay(Duration::from_millis(milliseconds))));
        }
    }
}
