//! `ottla metalog dump`: entries and snapshots of the metadata log, as they lie in the store.
//!
//! It goes by a listing and decodes each object alone, so it shows something even where no broker would start.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use futures::TryStreamExt;
use metalog::entry::{ENTRY_BYTES_LIMIT, Entry, Nonce};
use metalog::snapshot::Snapshot;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::json;

use super::{Out, time};
use crate::metadata::command::Command as MetadataCommand;
use crate::metadata::image::Image;

pub(super) fn command() -> Command {
    let number = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("NUMBER").value_parser(value_parser!(u64)).help(help)
    };
    Command::new("dump")
        .about("Show the entries of the metadata log, a line for each command")
        .long_about(
            "Show the entries of the metadata log, a line for each command. Missing numbers, entries that do not follow \
             their predecessor, and damage are pointed out; exit code 1 if there is any of it.\n\n\
             Old entries are deleted once snapshots cover them, so a log need not begin at 1.",
        )
        .after_help(
            "Examples:\n  ottla metalog dump --store s3://bucket/prefix --from 1200\n  ottla metalog dump --snapshots",
        )
        .arg(number("from", "The first entry to show"))
        .arg(number("to", "The last entry to show"))
        .arg(
            Arg::new("snapshots")
                .long("snapshots")
                .action(ArgAction::SetTrue)
                .help("Show the snapshots instead of the entries"),
        )
}

pub(super) async fn run(matches: &ArgMatches, out: &mut Out) -> anyhow::Result<()> {
    let stores = super::stores(matches)?;
    let from = matches.get_one::<u64>("from").copied().unwrap_or(0);
    let to = matches.get_one::<u64>("to").copied().unwrap_or(u64::MAX);
    let faults = if matches.get_flag("snapshots") {
        snapshots(&*stores.data, from, to, out).await?
    } else {
        entries(&*stores.data, from, to, out).await?
    };
    if faults > 0 {
        bail!(
            "the metadata log of {} is damaged in {}",
            stores.location,
            crate::cli::output::counted(faults, "place")
        );
    }
    Ok(())
}

/// Numbered objects below `prefix`, with their sizes.
async fn numbered(
    store: &dyn ObjectStore,
    prefix: &str,
    from: u64,
    to: u64,
) -> anyhow::Result<BTreeMap<u64, (Path, u64)>> {
    let mut found = BTreeMap::new();
    let mut listing = store.list(Some(&prefix.into()));
    while let Some(meta) = listing.try_next().await.context("the store cannot be listed")? {
        let number = meta.location.filename().and_then(|name| name.parse::<u64>().ok());
        if let Some(number) = number.filter(|number| (from..=to).contains(number)) {
            found.insert(number, (meta.location, meta.size));
        }
    }
    Ok(found)
}

async fn get(store: &dyn ObjectStore, path: &Path, size: u64, most: usize) -> anyhow::Result<Bytes> {
    if size > most as u64 {
        bail!("{path} has {size} bytes; at most {most} are believed");
    }
    Ok(store.get(path).await?.bytes().await?)
}

async fn entries(store: &dyn ObjectStore, from: u64, to: u64, out: &mut Out) -> anyhow::Result<u64> {
    let listed = numbered(store, "meta/log", from, to).await?;
    let mut faults = 0;
    let mut before: Option<(u64, Option<Nonce>)> = None;
    for (number, (path, size)) in listed {
        let mut fault = |detail: String, out: &mut Out| {
            faults += 1;
            out.line("fault", || format!("!! {detail}"), json!({ "number": number, "detail": detail }))
        };
        if let Some((last, _)) = before
            && last + 1 != number
        {
            fault(format!("entries {} to {} are missing", last + 1, number - 1), out)?;
            before = None;
        }
        let decoded = match get(store, &path, size, ENTRY_BYTES_LIMIT).await {
            Ok(bytes) => Entry::decode(bytes).map_err(|error| error.to_string()),
            // Deleted since it was listed, as old entries are.
            Err(error) => Err(format!("{error:#}")),
        };
        let entry = match decoded {
            Ok(entry) if entry.number == number => entry,
            Ok(entry) => {
                fault(format!("{path} says that it is entry {}", entry.number), out)?;
                before = Some((number, None));
                continue;
            }
            Err(detail) => {
                fault(format!("{path}: {detail}"), out)?;
                before = Some((number, None));
                continue;
            }
        };
        if let Some((_, Some(nonce))) = before
            && nonce != entry.predecessor
        {
            fault(format!("entry {number} does not follow the one before it"), out)?;
        }
        before = Some((number, Some(entry.nonce)));
        show(&entry, size, out)?;
    }
    Ok(faults)
}

fn show(entry: &Entry, size: u64, out: &mut Out) -> anyhow::Result<()> {
    let number = entry.number;
    out.line(
        "entry",
        || format!("{number}  {}  {size} bytes  nonce {:?}", time(entry.time_ms), entry.nonce),
        json!({
            "number": number, "time_ms": entry.time_ms, "bytes": size, "nonce": format!("{:?}", entry.nonce),
            "predecessor": format!("{:?}", entry.predecessor), "commands": entry.commands.len(),
        }),
    )?;
    for command in &entry.commands {
        let text = match MetadataCommand::decode(command) {
            Ok(command) => format!("{command:?}"),
            Err(error) => format!("{} bytes that this version does not understand: {error}", command.len()),
        };
        out.line("command", || format!("    {text}"), json!({ "number": number, "command": text }))?;
    }
    Ok(())
}

async fn snapshots(store: &dyn ObjectStore, from: u64, to: u64, out: &mut Out) -> anyhow::Result<u64> {
    let most = metalog::Config::default().snapshot_bytes_max;
    let mut faults = 0;
    for (number, (path, size)) in numbered(store, "meta/snapshot", from, to).await? {
        let decoded = get(store, &path, size, most).await.and_then(|bytes| {
            let snapshot = Snapshot::decode(bytes)?;
            let image = Image::decode(&snapshot.state)?;
            Ok((snapshot, image))
        });
        match decoded {
            Ok((snapshot, image)) => {
                let (topics, objects) = (image.topics().count(), image.objects().count());
                let garbage = image.garbage().count();
                let written = time(image.time_ms());
                out.line(
                    "snapshot",
                    || {
                        format!(
                            "{number}  {written}  {size} bytes  nonce {:?}  log from {}  {topics} topics, {} partitions, \
                             {objects} objects, {garbage} garbage",
                            snapshot.nonce,
                            snapshot.log_start,
                            image.partition_count()
                        )
                    },
                    json!({
                        "number": number, "time_ms": image.time_ms(), "bytes": size,
                        "nonce": format!("{:?}", snapshot.nonce), "log_start": snapshot.log_start,
                        "topics": topics, "partitions": image.partition_count(), "objects": objects,
                        "garbage": garbage,
                    }),
                )?;
            }
            Err(error) => {
                faults += 1;
                let detail = format!("{path}: {error:#}");
                out.line("fault", || format!("!! {detail}"), json!({ "number": number, "detail": detail }))?;
            }
        }
    }
    Ok(faults)
}
