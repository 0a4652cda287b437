//! `ottla verify`: is everything that the metadata names in the store, whole, and is nothing else there?

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::json;

use super::output;
use super::store::store_arguments;
use crate::options::{Options, gather};
use crate::store::{self, Purpose};
use crate::verify::{self, Progress, Report, Sum};

pub(super) fn command() -> Command {
    Command::new("verify")
        .about("Compare the store with its metadata, both ways")
        .long_about(
            "Compare the store with its metadata, both ways: everything that the metadata names must be there, with the \
             size it had; whatever else is there is listed with the reason.\n\n\
             It only reads, and may run beside a living broker. Exit code 0: all is well; 1: something is missing or \
             damaged; 2: the store could not be examined, or the command line was not understood.",
        )
        .after_help(
            "Examples:\n  ottla verify\n  ottla verify --store s3://bucket/prefix --checksums\n  \
             ottla verify --store s3://bucket/prefix --json | jq .problems",
        )
        .args_override_self(true)
        .arg(
            Arg::new("checksums").long("checksums").action(ArgAction::SetTrue).help(
                "Read every object whole, and check every checksum and the offsets of every stream in it",
            ),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print the report as JSON"))
        .arg(
            Arg::new("orphans")
                .long("orphans")
                .action(ArgAction::SetTrue)
                .help("Name every object that the metadata does not, with the reason (with --json always)"),
        )
        .args(store_arguments())
}

/// The exit code is 1 where there are problems.
pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<std::process::ExitCode> {
    let options = Options::from_values(&gather(matches, std::env::vars_os())?)?;
    let stores = store::open_for_reading(options.store.clone(), &options.access)?;
    let verify_options =
        verify::Options { checksums: matches.get_flag("checksums"), ..verify::Options::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let bar = Bar::new();
    let report = runtime
        .block_on(verify::verify(
            stores.metadata.clone(),
            stores.data(Purpose::Read),
            options.bounds.metadata.log.clone(),
            verify_options,
            &bar,
        ))
        .with_context(|| format!("{} cannot be verified", options.store));
    bar.bar.finish_and_clear();
    runtime.shutdown_background();
    let report = report?;
    let mut out = output::stdout();
    let printed = if matches.get_flag("json") {
        print_json(&mut out, &options.store.to_string(), &report)
    } else {
        print_text(&mut out, &options.store.to_string(), &report, matches.get_flag("orphans"))
    };
    match printed.and_then(|()| Ok(out.flush()?)) {
        Err(error) if output::is_broken_pipe(&error) => {}
        other => other?,
    }
    Ok(if report.is_clean() { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE })
}

/// On a terminal only.
struct Bar {
    bar: ProgressBar,
    checking: AtomicBool,
}

impl Bar {
    fn new() -> Bar {
        let bar =
            if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        Bar { bar, checking: AtomicBool::new(false) }
    }
}

impl Progress for Bar {
    fn listed(&self, objects: u64) {
        if objects.is_multiple_of(100) {
            self.bar.set_message(format!("{objects} objects listed"));
            self.bar.tick();
        }
    }

    fn checked(&self, bytes: u64, total: u64) {
        if !self.checking.swap(true, Ordering::Relaxed) {
            let style = "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
            self.bar.set_style(ProgressStyle::with_template(style).expect("the template is right"));
            self.bar.set_length(total);
        }
        self.bar.set_position(bytes);
    }
}

fn sums(report: &Report) -> [(&'static str, &'static str, Sum); 8] {
    [
        ("named", "named by the metadata", report.named),
        ("checked", "of these read and checked", report.checked),
        ("garbage", "named no more, to be deleted after the delay", report.garbage),
        ("orphans", "never named, to be deleted by the collector", report.orphans),
        ("pending", "not named (yet), in use by a broker", report.pending),
        ("seals", "seals of ended logs", report.seals),
        ("metadata_log", "metadata log", report.metadata_log),
        ("foreign", "not Ottla's", report.foreign),
    ]
}

fn print_text(out: &mut impl Write, store: &str, report: &Report, orphans: bool) -> anyhow::Result<()> {
    writeln!(
        out,
        "{store}: cluster {} at entry {}; {}, {}, {} in {}",
        report.cluster,
        report.entry,
        output::counted(report.topics, "topic"),
        output::counted(report.partitions, "partition"),
        output::counted(report.streams, "stream"),
        output::counted(report.parts, "part"),
    )?;
    for (_, what, sum) in sums(report) {
        if sum.objects > 0 || what.starts_with("named by") {
            writeln!(
                out,
                "  {:>10}  {:>12}  {what}",
                output::counted(sum.objects, "object"),
                HumanBytes(sum.bytes).to_string()
            )?;
        }
    }
    if orphans {
        for orphan in &report.unnamed {
            let may = if orphan.collectable { "collectable" } else { "kept" };
            writeln!(out, "{may}: {} ({} bytes): {}", orphan.key, orphan.size_bytes, orphan.reason)?;
        }
    }
    for problem in &report.problems {
        writeln!(out, "{}: {}: {}", problem.kind.name().to_uppercase(), problem.location, problem.detail)?;
    }
    let listed = report.problems.len() as u64;
    if report.problem_count > listed {
        writeln!(out, "and {} more", report.problem_count - listed)?;
    }
    match report.problem_count {
        0 => writeln!(out, "ok: nothing is missing")?,
        count => writeln!(out, "{}", output::counted(count, "problem"))?,
    }
    Ok(())
}

fn print_json(out: &mut impl Write, store: &str, report: &Report) -> anyhow::Result<()> {
    let mut value = json!({
        "store": store,
        "cluster": report.cluster,
        "entry": report.entry,
        "topics": report.topics,
        "partitions": report.partitions,
        "streams": report.streams,
        "parts": report.parts,
        "checked_blocks": report.checked_blocks,
        "problem_count": report.problem_count,
        "problems": report.problems.iter().map(|problem| json!({
            "kind": problem.kind.name(),
            "location": problem.location,
            "detail": problem.detail,
        })).collect::<Vec<_>>(),
        "unnamed": report.unnamed.iter().map(|orphan| json!({
            "key": orphan.key,
            "bytes": orphan.size_bytes,
            "reason": orphan.reason,
            "collectable": orphan.collectable,
        })).collect::<Vec<_>>(),
    });
    for (name, _, sum) in sums(report) {
        value[name] = json!({ "objects": sum.objects, "bytes": sum.bytes });
    }
    serde_json::to_writer_pretty(&mut *out, &value)?;
    writeln!(out)?;
    Ok(())
}
