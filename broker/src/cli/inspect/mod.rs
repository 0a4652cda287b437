//! `ottla wal inspect`, `ottla object inspect`, `ottla metalog dump`: what the bytes say, for whoever has to know at
//! night. They only read.

mod metalog_dump;
mod object;
mod wal;

use std::io::Write;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command};
use futures::TryStreamExt;
use object_store::ObjectStore;
use serde_json::{Value, json};

use super::output;
use super::store::store_arguments;
use crate::options::{Options, gather};
use crate::store::{self, Location, Purpose, Stores};

/// Where the metadata log and its snapshots are.
const METADATA: &str = "meta";

pub(super) fn commands() -> [Command; 3] {
    let group = |name: &'static str, about: &'static str, command: Command| {
        let command = command.args_override_self(true).arg(json_flag()).args(store_arguments());
        Command::new(name).about(about).subcommand_required(true).subcommand(command)
    };
    [
        group("wal", "Look into a write-ahead log", wal::command()),
        group("object", "Look into a data object", object::command()),
        group("metalog", "Look into the metadata log", metalog_dump::command()),
    ]
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let (name, matches) = matches.subcommand().expect("the caller has seen it");
    let (_, matches) = matches.subcommand().expect("clap requires one");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut out = Out { out: output::stdout(), json: matches.get_flag("json") };
    let outcome = runtime
        .block_on(async {
            match name {
                "wal" => wal::run(matches, &mut out).await,
                "object" => object::run(matches, &mut out).await,
                _ => metalog_dump::run(matches, &mut out).await,
            }
        })
        .and_then(|()| Ok(out.out.flush()?));
    runtime.shutdown_background();
    match outcome {
        Err(error) if output::is_broken_pipe(&error) => Ok(()),
        other => other,
    }
}

fn json_flag() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print a JSON object per line")
}

fn stores(matches: &ArgMatches) -> anyhow::Result<Stores> {
    let options = Options::from_values(&gather(matches, std::env::vars_os())?)?;
    Ok(store::open_for_reading(options.store.clone(), &options.access)?)
}

/// There is nothing to look into.
#[derive(Debug, thiserror::Error)]
#[error("{0}: there is no cluster in this store")]
pub(super) struct NoCluster(Location);

/// To be asked where nothing was found: a store without a metadata log is most often another one than was meant.
async fn has_cluster(stores: &Stores) -> anyhow::Result<()> {
    let mut log = stores.data(Purpose::Read).list(Some(&METADATA.into()));
    match log.try_next().await.context("the store cannot be listed")? {
        Some(_) => Ok(()),
        None => Err(NoCluster(stores.location.clone()).into()),
    }
}

/// Lines for people or for programs.
struct Out {
    out: std::io::BufWriter<std::io::StdoutLock<'static>>,
    json: bool,
}

impl Out {
    /// One thing that was found: as text, or as JSON with `kind`.
    fn line(&mut self, kind: &str, text: impl FnOnce() -> String, fields: Value) -> anyhow::Result<()> {
        if self.json {
            let mut line = json!({ "kind": kind });
            if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
                line.extend(fields);
            }
            serde_json::to_writer(&mut self.out, &line)?;
            writeln!(self.out)?;
        } else {
            writeln!(self.out, "{}", text())?;
        }
        Ok(())
    }
}

/// Milliseconds since the epoch, for people; "-" for none.
fn time(millis: i64) -> String {
    match u64::try_from(millis) {
        Ok(millis) => {
            let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(millis));
            // Beyond the year 9999 the formatter has no text.
            time.filter(|_| millis < 253_402_300_800_000).map_or_else(
                || format!("{millis} ms"),
                |time| humantime::format_rfc3339_millis(time).to_string(),
            )
        }
        Err(_) if millis == -1 => "-".to_owned(),
        Err(_) => format!("{millis} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_can_be_shown() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(-1), "-");
        for millis in [i64::MIN, -2, 253_402_300_799_999, 253_402_300_800_000, i64::MAX] {
            assert!(!time(millis).is_empty());
        }
    }
}
