//! `ottla metalog dump`: entries and snapshots of the metadata log, as they lie in the store.
//!
//! It goes by a listing and decodes each object alone, so it shows something even where no broker would start. What a
//! living broker's retention deletes after it was listed is no damage: an object that is not there any more is looked for
//! in a second listing, and passed over if that begins behind it, since retention deletes in ascending order.

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
use crate::store::Purpose;

const ENTRIES: &str = "meta/log";
const SNAPSHOTS: &str = "meta/snapshot";

pub(super) fn command() -> Command {
    let number = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("NUMBER").value_parser(value_parser!(u64)).help(help)
    };
    Command::new("dump")
        .about("Show the entries of the metadata log, a line for each command")
        .long_about(
            "Show the entries of the metadata log, a line for each command. Missing numbers, entries that do not follow \
             their predecessor, and damage are pointed out; exit code 1 if there is any of it, \
             2 if there is no cluster in the store.\n\n\
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
    let prefix = if matches.get_flag("snapshots") { SNAPSHOTS } else { ENTRIES };
    let listed = numbered(&*stores.data(Purpose::Read), prefix, from, to).await?;
    if listed.is_empty() {
        super::has_cluster(&stores).await?;
    }
    let faults = if matches.get_flag("snapshots") {
        snapshots(&*stores.data(Purpose::Read), listed, out).await?
    } else {
        entries(&*stores.data(Purpose::Read), listed, out).await?
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
async fn numbered(store: &dyn ObjectStore, prefix: &str, from: u64, to: u64) -> anyhow::Result<Listed> {
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

/// What was listed, and what of it is not there any more.
struct Reader<'a> {
    store: &'a dyn ObjectStore,
    prefix: &'static str,
    /// The lowest number there was when it was listed last; retention has deleted everything below.
    first: u64,
}

impl<'a> Reader<'a> {
    fn new(store: &'a dyn ObjectStore, prefix: &'static str) -> Reader<'a> {
        Reader { store, prefix, first: 0 }
    }

    /// `None` if retention has deleted it since it was listed.
    async fn get(
        &mut self,
        (number, path, size): (u64, &Path, u64),
        most: usize,
    ) -> anyhow::Result<Option<Bytes>> {
        if size > most as u64 {
            bail!("{path} has {size} bytes; at most {most} are believed");
        }
        let missing = match self.store.get(path).await {
            Ok(found) => return Ok(Some(found.bytes().await?)),
            Err(error @ object_store::Error::NotFound { .. }) => error,
            Err(error) => return Err(error.into()),
        };
        // One listing for all that is gone by then.
        if number >= self.first
            && let Some((first, _)) = numbered(self.store, self.prefix, 0, u64::MAX).await?.first_key_value()
        {
            self.first = *first;
        }
        if number < self.first { Ok(None) } else { Err(missing.into()) }
    }
}

type Listed = BTreeMap<u64, (Path, u64)>;

async fn entries(store: &dyn ObjectStore, listed: Listed, out: &mut Out) -> anyhow::Result<u64> {
    let mut faults = 0;
    let mut before: Option<(u64, Option<Nonce>)> = None;
    let mut reader = Reader::new(store, ENTRIES);
    for (number, (path, size)) in listed {
        let got = reader.get((number, &path, size), ENTRY_BYTES_LIMIT).await;
        if matches!(got, Ok(None)) {
            before = None;
            continue;
        }
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
        let decoded = match got {
            Ok(bytes) => Entry::decode(bytes.unwrap_or_default()).map_err(|error| error.to_string()),
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

async fn snapshots(store: &dyn ObjectStore, listed: Listed, out: &mut Out) -> anyhow::Result<u64> {
    let most = metalog::Config::default().snapshot_bytes_max;
    let mut faults = 0;
    let mut reader = Reader::new(store, SNAPSHOTS);
    for (number, (path, size)) in listed {
        let got = reader.get((number, &path, size), most).await;
        if matches!(got, Ok(None)) {
            continue;
        }
        let decoded = got.and_then(|bytes| {
            let snapshot = Snapshot::decode(bytes.unwrap_or_default())?;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ::faults::FaultStore;
    use object_store::memory::InMemory;

    use super::*;
    use crate::metadata::image::Listener;
    use crate::metadata::{Metadata, Registering};

    /// A log of some entries, as it is listed now.
    async fn log() -> (Arc<InMemory>, Listed) {
        let store = Arc::new(InMemory::new());
        let metadata = Metadata::open(store.clone(), Default::default()).await.unwrap();
        for _ in 0..4 {
            // Each one fences the one before.
            let metadata = Metadata::open(store.clone(), Default::default()).await.unwrap();
            let listener = Listener { host: "localhost".into(), port: 9092 };
            metadata
                .register(Registering {
                    id: 1,
                    wal: &wal::Uri("memory:".into()),
                    listener,
                    rack: None,
                    machine: "machine",
                    replaces: metadata.image().last_registration(1),
                    claim: None,
                })
                .await
                .unwrap();
            metadata.close(false).await.unwrap();
        }
        metadata.close(false).await.unwrap();
        let listed = numbered(&*store, ENTRIES, 0, u64::MAX).await.unwrap();
        assert_eq!(listed.len(), 5);
        (store, listed)
    }

    async fn faults(store: &dyn ObjectStore, listed: &Listed) -> u64 {
        let mut out = Out { out: std::io::BufWriter::new(std::io::stdout().lock()), json: false };
        entries(store, listed.clone(), &mut out).await.unwrap()
    }

    #[tokio::test]
    async fn entries_that_retention_deleted_since_they_were_listed_are_no_damage_and_others_are() {
        let (store, listed) = log().await;
        assert_eq!(faults(&*store, &listed).await, 0);
        let paths: Vec<Path> = listed.values().map(|(path, _)| path.clone()).collect();
        for path in &paths[..2] {
            store.delete(path).await.unwrap();
        }
        let counted = FaultStore::new(store.clone(), 0);
        assert_eq!(faults(&counted, &listed).await, 0, "in ascending order");
        assert_eq!(counted.counts().lists, 1, "for both");
        store.delete(&paths[3]).await.unwrap();
        assert_eq!(faults(&*store, &listed).await, 1, "in the middle");
        let now = numbered(&*store, ENTRIES, 0, u64::MAX).await.unwrap();
        assert_eq!(faults(&*store, &now).await, 1, "the same, listed anew");
    }
}
