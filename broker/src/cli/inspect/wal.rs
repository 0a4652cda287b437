//! `ottla wal inspect URI`: superblocks and frames of a volume, or the slots of a bucket.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use clap::{Arg, ArgAction, ArgMatches, Command};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use s3stream::record::RecordMeta;
use serde_json::{Value, json};
use wal::block::inspect::{Found, Inspection, Summary};
use wal::object::{Seal, parse_slot_key};
use wal::uri::Target;
use wal::{Incarnation, Record, Uri};

use super::{Out, time};
use crate::metadata::cluster_id;
use crate::store::Purpose;

/// Larger slots are no seals.
const SEAL_BYTES_MAX: u64 = 4 << 10;

pub(super) fn command() -> Command {
    Command::new("inspect")
        .about("Show what a write-ahead log holds")
        .long_about(
            "Show what a write-ahead log holds. Of a volume: both superblocks, and the frames from the trim point to the \
             end, with every checksum checked as recovery would. Of a bucket (object): the slots of each life of each \
             broker, holes in them, and seals. Exit code 1 if anything is damaged, 2 if there is no cluster in the \
             bucket.\n\n\
             It only reads and takes no lock. Beside a living broker it shows one moment after the other: a frame that \
             the broker has overwritten meanwhile looks like damage.",
        )
        .after_help(
            "Examples:\n  ottla wal inspect block:///var/lib/ottla/wal\n  ottla wal inspect ./ottla-data/wal --records\n  \
             ottla wal inspect object --store s3://bucket/prefix",
        )
        .arg(
            Arg::new("wal")
                .value_name("URI")
                .required(true)
                .help("block:///PATH, a path, or object (with --store)"),
        )
        .arg(
            Arg::new("records")
                .long("records")
                .action(ArgAction::SetTrue)
                .help("Also show each record of a volume's frames: stream, offsets, newest timestamp, bytes"),
        )
}

pub(super) async fn run(matches: &ArgMatches, out: &mut Out) -> anyhow::Result<()> {
    let name = matches.get_one::<String>("wal").expect("required");
    if name == "object" || name.starts_with("object:") {
        return slots(matches, out).await;
    }
    let path = if name.starts_with("block:") {
        match Uri(name.clone()).target()? {
            Target::Block { path, .. } => path,
            _ => bail!("{name} does not name a volume"),
        }
    } else {
        Path::new(name).to_owned()
    };
    volume(&path, matches.get_flag("records"), out)
}

fn volume(path: &Path, records: bool, out: &mut Out) -> anyhow::Result<()> {
    if is_locked(path) {
        eprintln!(
            "ottla: {} is in use by a running broker; what follows may be out of date as it is read",
            path.display()
        );
    }
    let mut inspection = Inspection::open(path)?;
    let size = inspection.size_bytes;
    out.line(
        "volume",
        || format!("{}: {size} bytes", path.display()),
        json!({ "path": path.display().to_string(), "bytes": size }),
    )?;
    for (number, found) in inspection.superblocks.iter().enumerate() {
        out.line(
            "superblock",
            || format!("  superblock {number}: {}", superblock_text(found)),
            superblock_json(number, found),
        )?;
    }
    let Some(current) = inspection.current.clone() else {
        if inspection.superblocks == [Found::Blank, Found::Blank] {
            return Ok(());
        }
        bail!("{} has no superblock that can be believed", path.display());
    };
    let (mut frames, mut count, mut bytes) = (0u64, 0u64, 0u64);
    while let Some(frame) = inspection.next_frame()? {
        let body: usize = frame.records.iter().map(|record| record.body.len()).sum();
        (frames, count, bytes) = (frames + 1, count + frame.records.len() as u64, bytes + body as u64);
        let position = frame.position.0;
        out.line(
            "frame",
            || format!("  frame at {position}: {} records, {body} bytes", frame.records.len()),
            json!({ "position": position, "records": frame.records.len(), "bytes": body }),
        )?;
        for record in frame.records.iter().filter(|_| records) {
            show_record(record, out)?;
        }
    }
    let end = inspection.position().unwrap_or(current.trim);
    out.line(
        "end",
        || format!("  end at {end}: {frames} frames, {count} records, {bytes} bytes since the trim point"),
        json!({ "position": end, "frames": frames, "records": count, "bytes": bytes }),
    )
}

/// Whether a broker holds the volume. A device is not asked: to open it exclusively would disturb others.
fn is_locked(path: &Path) -> bool {
    use rustix::fs::{FlockOperation, flock};
    let Ok(file) = std::fs::File::open(path) else { return false };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return false;
    }
    // Shared, and given back at once: it disturbs a broker only if one starts at this very moment.
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            let _ = flock(&file, FlockOperation::Unlock);
            false
        }
        Err(error) => error == rustix::io::Errno::WOULDBLOCK,
    }
}

fn owner_text(owner: Option<Incarnation>) -> String {
    owner
        .map_or_else(|| "nobody".to_owned(), |owner| format!("broker {} epoch {}", owner.broker, owner.epoch))
}

fn superblock_text(found: &Found) -> String {
    match found {
        Found::Blank => "blank".to_owned(),
        Found::Damaged => "damaged".to_owned(),
        Found::Foreign => "not Ottla's".to_owned(),
        Found::Version(version) => format!("format version {version}, which this build does not know"),
        Found::Valid(Summary {
            cluster,
            volume,
            block_bytes,
            ring_bytes,
            sequence,
            owner,
            trim,
            durable,
        }) => {
            format!(
                "sequence {sequence}, owner {}, trim {trim}, durable {durable}, ring of {ring_bytes} bytes in blocks \
                 of {block_bytes}, volume {volume}, cluster {}",
                owner_text(*owner),
                cluster_id::base64(*cluster)
            )
        }
    }
}

fn superblock_json(number: usize, found: &Found) -> Value {
    match found {
        Found::Valid(summary) => json!({
            "number": number, "state": "valid", "sequence": summary.sequence,
            "broker": summary.owner.map(|owner| owner.broker), "epoch": summary.owner.map(|owner| owner.epoch),
            "trim": summary.trim, "durable": summary.durable, "ring_bytes": summary.ring_bytes,
            "block_bytes": summary.block_bytes, "volume": summary.volume.to_string(),
            "cluster": cluster_id::base64(summary.cluster),
        }),
        other => json!({ "number": number, "state": superblock_text(other) }),
    }
}

fn show_record(record: &Record, out: &mut Out) -> anyhow::Result<()> {
    let bytes = record.body.len();
    match RecordMeta::decode(&record.meta) {
        Some(meta) => out.line(
            "record",
            || {
                format!(
                    "    stream {} epoch {}  offsets {}..{}  newest {}  {bytes} bytes",
                    meta.stream.0,
                    meta.stream_epoch,
                    meta.base,
                    meta.end,
                    time(meta.max_timestamp)
                )
            },
            json!({
                "stream": meta.stream.0, "epoch": meta.stream_epoch, "base": meta.base, "end": meta.end,
                "max_timestamp": meta.max_timestamp, "bytes": bytes,
            }),
        ),
        None => out.line(
            "record",
            || format!("    of kind {}, not understood  {bytes} bytes", record.kind),
            json!({ "record_kind": record.kind, "bytes": bytes }),
        ),
    }
}

async fn slots(matches: &ArgMatches, out: &mut Out) -> anyhow::Result<()> {
    let stores = super::stores(matches)?;
    let mut lives: BTreeMap<Incarnation, BTreeMap<u64, u64>> = BTreeMap::new();
    let mut listing = stores.data(Purpose::Read).list(Some(&"wal".into()));
    while let Some(meta) = listing.try_next().await.context("the store cannot be listed")? {
        if let Some((owner, slot)) = parse_slot_key(&meta.location) {
            lives.entry(owner).or_default().insert(slot, meta.size);
        }
    }
    if lives.is_empty() {
        super::has_cluster(&stores).await?;
    }
    for (owner, slots) in lives {
        let bytes: u64 = slots.values().sum();
        let (first, last) =
            (*slots.keys().next().expect("not empty"), *slots.keys().last().expect("not empty"));
        let mut seal = None;
        // A seal is the last one, unless somebody filled slots of a life that had ended.
        for (slot, size) in slots.iter().rev().filter(|(_, size)| **size <= SEAL_BYTES_MAX) {
            let key = wal::object::slot_key(owner, *slot);
            let bytes = stores.data(Purpose::Read).get(&key).await?.bytes().await?;
            if Seal::decode(&bytes).is_some_and(|seal| seal.is_ok()) {
                seal = Some((*slot, *size));
                break;
            }
        }
        let missing = last - first + 1 - slots.len() as u64;
        out.line(
            "life",
            || {
                let sealed = match seal {
                    Some((slot, _)) => format!("sealed at {slot}"),
                    None => "not sealed".to_owned(),
                };
                format!(
                    "broker {} epoch {}: slots {first} to {last}, {} there, {missing} missing in between, {bytes} bytes, \
                     {sealed}",
                    owner.broker,
                    owner.epoch,
                    slots.len()
                )
            },
            json!({
                "broker": owner.broker, "epoch": owner.epoch, "first": first, "last": last, "slots": slots.len(),
                "missing": missing, "bytes": bytes, "seal": seal.map(|(slot, _)| slot),
            }),
        )?;
    }
    Ok(())
}
