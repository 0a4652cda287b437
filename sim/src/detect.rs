//! How many seeds it takes to find each defect that can be planted.

use std::collections::BTreeSet;
use std::process::{ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::One;

/// A defect that is not found in so many seeds counts as not found.
const SEEDS_MAX: u64 = 200;

/// Of a finding, in the table.
const SHOWN: usize = 90;

/// Name, and what is wrong with it in place.
pub const PLANTED: &[(&str, &str)] = &[
    ("ack-before-durable", "a slot's appends are acknowledged when its PUT begins (W3)"),
    ("ack-in-completion-order", "a slot that is durable acknowledges those before it, durable or not (W2)"),
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
    ("place-unrecovered", "a fenced broker's partitions are led elsewhere before its log is recovered (O2)"),
    ("forget-producers", "a partition is opened without what it knew of producers (F40)"),
    ("no-duplicates", "a batch that is repeated is appended again (F40)"),
    ("trim-unaccounted", "retention drops what no checkpoint accounts for (F40)"),
    ("delete-unwritten", "DeleteRecords is answered and not written"),
    ("forget-offsets", "a coordinator begins without what its log says"),
    ("any-commit", "a group takes commits of whoever is no member any more"),
    ("ack-before-flush", "a frame is acknowledged when it is written, before it is flushed (W3)"),
    ("ack-without-right", "appends are acknowledged though the lease has lapsed (O4)"),
    ("stale-frame-accepted", "frames of earlier lives are taken for this one's (V3)"),
    ("early-proof", "frames claim that what lies before them is durable (V5)"),
    ("no-lease-wait", "a volume that its old host may write to is read at once (B1)"),
    ("early-pass-is-the-end", "what is read of a volume while its lease runs counts as all of it (B1)"),
    ("format-early", "a volume is formatted for its next owner while its old host may write to it (B1)"),
    ("stale-latest", "the latest offset is told without the right to (O4)"),
];

/// Why none can be chosen.
pub const WITHOUT: &str = "there are planted defects only in a build with --features planted";

const VARIABLE: &str = "OTTLA_PLANTED";

/// The defect that was chosen, if one was; one that there is not is refused, as nothing would tell that it was not there.
pub fn chosen() -> Result<Option<String>, String> {
    let Some(name) = std::env::var(VARIABLE).ok().filter(|name| !name.is_empty()) else { return Ok(None) };
    if !cfg!(feature = "planted") {
        return Err(format!("{VARIABLE}={name}: {WITHOUT}"));
    }
    if PLANTED.iter().any(|(known, _)| *known == name) {
        return Ok(Some(name));
    }
    let known: Vec<&str> = PLANTED.iter().map(|(known, _)| *known).collect();
    Err(format!("{VARIABLE}={name}: there is none of that name, but {}", known.join(", ")))
}

/// What a seed says.
enum Said {
    Nothing,
    Finding(String),
}

/// Runs them all, or the one that is chosen, and prints the table for docs/testing.md.
///
/// A defect is found by the first seed that fails with it and passes without it.
pub fn run(jobs: u64, one: &One) -> ExitCode {
    let next = AtomicUsize::new(0);
    let chosen = chosen().expect("looked at before");
    let rows = Mutex::new(vec![String::new(); PLANTED.len()]);
    let missed = AtomicUsize::new(0);
    let unsound = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((name, what)) = PLANTED.get(at) else { return };
                    if chosen.as_ref().is_some_and(|chosen| chosen != name) {
                        continue;
                    }
                    let found = (1..=SEEDS_MAX).find_map(|seed| {
                        let Said::Finding(how) = said(one, name, seed) else { return None };
                        if let Said::Finding(why) = said(one, "", seed) {
                            println!("seed {seed} fails without any defect: {why}");
                            unsound.lock().insert(seed);
                            return None;
                        }
                        Some((seed, how))
                    });
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
    for row in rows.into_inner().into_iter().filter(|row| !row.is_empty()) {
        println!("{row}");
    }
    let unsound = unsound.into_inner();
    for seed in &unsound {
        println!("fails without any defect: {}", crate::replay(*seed, one, None));
    }
    ExitCode::from(u8::from(missed.into_inner() > 0 || !unsound.is_empty()))
}

/// What a seed says with a defect, or without any if that has no name.
fn said(one: &One, name: &str, seed: u64) -> Said {
    let mut command = one.command(seed);
    let output = command.env(VARIABLE, name).stdin(Stdio::null()).output().expect("this program can be run");
    if output.status.success() {
        return Said::Nothing;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let finding = text.lines().find_map(|line| line.strip_prefix("FOUND "));
    let finding = finding.map_or_else(|| output.status.to_string(), str::to_owned);
    Said::Finding(shortened(&finding.replace('|', "/")))
}

/// As many whole words as fit.
fn shortened(finding: &str) -> String {
    let Some((most, _)) = finding.char_indices().nth(SHOWN) else { return finding.to_owned() };
    let words = finding[..most].rsplit_once(' ').map_or(&finding[..most], |(words, _)| words);
    format!("{} …", words.trim_end_matches([' ', ',', ':']))
}
