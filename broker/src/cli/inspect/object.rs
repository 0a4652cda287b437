//! `ottla object inspect KEY|PATH`: header, index, blocks, and whether their checksums hold.

use std::collections::HashMap;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Arg, ArgAction, ArgMatches, Command};
use object_store::ObjectStoreExt;
use s3stream::object::{Block, ObjectIndex, parse_object_key};
use s3stream::{ObjectId, StreamId};
use serde_json::json;
use wal::object::Seal;

use super::{Out, time};
use crate::metadata::observer::Observer;
use crate::store::Purpose;

/// Far above what is written; a larger file is something else.
const OBJECT_BYTES_MAX: u64 = 8 << 30;

pub(super) fn command() -> Command {
    Command::new("inspect")
        .about("Show the blocks of a data object or of a slot, and check their checksums")
        .long_about(
            "Show the blocks of a data object or of a slot of the write-ahead log: stream, epoch, offsets, newest \
             timestamp, and whether the checksum holds. Exit code 1 if anything is damaged.\n\n\
             A file of that name is read if there is one; otherwise it is taken for a key of the store, and streams \
             are shown with the partitions that they belong to.",
        )
        .after_help(
            "Examples:\n  ottla object inspect data/b7/0000000001-00000000000000000002-00000000000000000000 --store \
             s3://bucket/prefix\n  ottla object inspect ./copy-of-an-object --records",
        )
        .arg(Arg::new("object").value_name("KEY|PATH").required(true).help("A key of the store, or a file"))
        .arg(
            Arg::new("records")
                .long("records")
                .action(ArgAction::SetTrue)
                .help("Also show each record: offsets, newest timestamp, bytes"),
        )
}

pub(super) async fn run(matches: &ArgMatches, out: &mut Out) -> anyhow::Result<()> {
    let name = matches.get_one::<String>("object").expect("required");
    let mut names = HashMap::new();
    let bytes = if std::path::Path::new(name).is_file() {
        let size = std::fs::metadata(name)?.len();
        if size > OBJECT_BYTES_MAX {
            bail!("{name} has {size} bytes, which no object has");
        }
        Bytes::from(std::fs::read(name).with_context(|| format!("{name} cannot be read"))?)
    } else {
        let stores = super::stores(matches)?;
        let key = object_store::path::Path::parse(name)?;
        let found = stores
            .data(Purpose::Read)
            .get(&key)
            .await
            .with_context(|| format!("{name} is neither a file nor a key"))?;
        if found.meta.size > OBJECT_BYTES_MAX {
            bail!("{name} has {} bytes, which no object has", found.meta.size);
        }
        // Names are a courtesy: the object can be read without them.
        if let Ok(observer) = Observer::open(stores.metadata.clone(), metalog::Config::default()).await {
            names = partitions(&observer);
            let id = parse_object_key(&key);
            if let Some(id) = id {
                let image = observer.image();
                let standing = image.standing(image.number(), id);
                out.line(
                    "standing",
                    || format!("by the metadata (entry {}): {:?}", image.number(), standing.naming),
                    json!({ "entry": image.number(), "naming": format!("{:?}", standing.naming) }),
                )?;
            }
            observer.close().await;
        }
        found.bytes().await.with_context(|| format!("{name} cannot be read"))?
    };
    show(name, &bytes, &names, matches.get_flag("records"), out)
}

fn partitions(observer: &Observer) -> HashMap<StreamId, String> {
    let image = observer.image();
    let mut names = HashMap::new();
    for topic in image.topics() {
        for (number, partition) in topic.partitions.iter().enumerate() {
            names.insert(partition.log, format!("{}-{number}", topic.name));
            names.insert(partition.checkpoint, format!("{}-{number} (checkpoints)", topic.name));
        }
    }
    names
}

fn show(
    name: &str,
    bytes: &Bytes,
    names: &HashMap<StreamId, String>,
    records: bool,
    out: &mut Out,
) -> anyhow::Result<()> {
    if let Some(seal) = Seal::decode(bytes) {
        let seal = seal.map_err(|detail| anyhow::anyhow!("{name} is a damaged seal: {detail}"))?;
        let (broker, epoch, slot) = (seal.sealed.broker, seal.sealed.epoch, seal.slot);
        return out.line(
            "seal",
            || format!("{name}: the seal that ends the log of broker {broker} epoch {epoch} at slot {slot}"),
            json!({ "object": name, "broker": broker, "epoch": epoch, "slot": slot }),
        );
    }
    let index = ObjectIndex::decode_object(bytes).with_context(|| format!("{name} is damaged"))?;
    let (what, owner, number) = match index.identity().object {
        ObjectId::Data { owner, counter } => ("data object", owner, counter),
        ObjectId::Slot { owner, slot } => ("slot", owner, slot),
    };
    let blocks = index.blocks();
    out.line(
        "object",
        || {
            format!(
                "{name}: {what} {number} of broker {} epoch {}, {} bytes, {} blocks",
                owner.broker,
                owner.epoch,
                bytes.len(),
                blocks.len()
            )
        },
        json!({
            "object": name, "type": what, "number": number, "broker": owner.broker, "epoch": owner.epoch,
            "bytes": bytes.len(), "blocks": blocks.len(),
        }),
    )?;
    let mut damaged = 0;
    for entry in blocks {
        let at = entry.position as usize..entry.position_end() as usize;
        let block = Block::decode(entry, bytes.slice(at));
        let state = block.as_ref().err().map_or_else(|| "ok".to_owned(), ToString::to_string);
        damaged += usize::from(block.is_err());
        let partition = names.get(&entry.stream);
        out.line(
            "block",
            || {
                format!(
                    "  at {:>10}  {:>9} bytes  stream {}{} epoch {}  offsets {}..{}  {} records  newest {}  {state}",
                    entry.position,
                    entry.size,
                    entry.stream.0,
                    partition.map_or_else(String::new, |partition| format!(" {partition}")),
                    entry.stream_epoch,
                    entry.base,
                    entry.end,
                    entry.count,
                    time(entry.max_timestamp),
                )
            },
            json!({
                "position": entry.position, "bytes": entry.size, "stream": entry.stream.0, "partition": partition,
                "epoch": entry.stream_epoch, "base": entry.base, "end": entry.end, "records": entry.count,
                "max_timestamp": entry.max_timestamp, "crc": format!("{:08x}", entry.crc), "state": state,
            }),
        )?;
        let Ok(block) = block else { continue };
        for record in (0..block.len()).filter(|_| records) {
            let record = block.record(record);
            out.line(
                "record",
                || {
                    format!(
                        "    offsets {}..{}  {} bytes  newest {}",
                        record.base,
                        record.end,
                        record.body.len(),
                        time(record.max_timestamp)
                    )
                },
                json!({
                    "base": record.base, "end": record.end, "bytes": record.body.len(),
                    "max_timestamp": record.max_timestamp,
                }),
            )?;
        }
    }
    if damaged > 0 {
        bail!("{name}: {damaged} of {} blocks are damaged", blocks.len());
    }
    Ok(())
}
