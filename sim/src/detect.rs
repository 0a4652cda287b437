//! How many seeds it takes to find each defect that can be planted.

use std::process::{ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::One;

/// A defect that is not found in so many seeds counts as not found.
const SEEDS_MAX: u64 = 200;

/// Name, and what is wrong with it in place.
pub const PLANTED: &[(&str, &str)] = &[
    ("ack-before-durable", "a slot's appends are acknowledged when its PUT begins (W3)"),
    ("ack-in-completion-order", "each slot is acknowledged when it is durable, whatever lies before it (W2)"),
    ("skip-seal", "recovery ends at the first free slot without a seal (O1)"),
    ("recover-behind-the-trim-point", "recovery starts one slot behind the trim point (O1)"),
    ("overwrite-slot", "slots are written without a condition (O3)"),
    ("exists-is-ours", "a slot that exists counts as the writer's own, unread (O4)"),
    ("error-is-written", "a PUT that failed counts as done, unread (O4)"),
    ("delete-beyond-trim", "slots behind the trim point are deleted (O5)"),
    ("trim-early", "the trim point moves to what is durable, uploaded or not (W6)"),
    ("commit-before-upload", "objects are committed whether their PUT succeeded or not (S3)"),
    ("collect-unnamed", "the collector deletes what nothing names yet (O5)"),
    ("collect-named-slots", "the collector deletes slots that were adopted (O5)"),
    ("ignore-epoch", "commands of fenced lives are accepted, for streams of others too (O6)"),
    ("adopt-anything", "a recovery commits though another one has moved the trim point (O2)"),
    ("forget-producers", "a partition is opened without what it knew of producers (F40)"),
    ("no-duplicates", "a batch that is repeated is appended again (F40)"),
    ("stale-latest", "the latest offset is told without the right to (O4)"),
];

/// Runs them all and prints the table for docs/testing.md.
pub fn run(jobs: u64, one: &One) -> ExitCode {
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(vec![String::new(); PLANTED.len()]);
    let missed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((name, what)) = PLANTED.get(at) else { return };
                    let found =
                        (1..=SEEDS_MAX).find_map(|seed| Some((seed, first_finding(one, name, seed)?)));
                    let row = match &found {
                        Some((seed, how)) => format!("| `{name}` | {what} | {seed} | {how} |"),
                        None => {
                            missed.fetch_add(1, Ordering::Relaxed);
                            format!("| `{name}` | {what} | not in {SEEDS_MAX} | |")
                        }
                    };
                    println!("{row}");
                    rows.lock()[at] = row;
                }
            });
        }
    });
    println!("\n| planted | what is wrong | seeds | first seen as |\n|---|---|---|---|");
    for row in rows.into_inner() {
        println!("{row}");
    }
    ExitCode::from(u8::from(missed.into_inner() > 0))
}

/// How a seed tells of the defect, if it does.
fn first_finding(one: &One, name: &str, seed: u64) -> Option<String> {
    let mut command = one.command(seed);
    let output =
        command.env("OTTLA_PLANTED", name).stdin(Stdio::null()).output().expect("this program can be run");
    if output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let finding = text.lines().find_map(|line| line.strip_prefix("FOUND "));
    let finding = finding.map_or_else(|| output.status.to_string(), str::to_owned);
    Some(finding.chars().take(80).map(|character| if character == '|' { '/' } else { character }).collect())
}
