//! What is made of the clients' histories: the ledger of what was acknowledged, how long each partition was without an
//! acknowledgement around a fault, and the checker's verdict.
//!
//! The ledger is simpler than the checker and knows nothing of it: each acknowledged record against each last read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use checker::json;
use serde::Deserialize;
use serde_json::Value;

/// As much of a line as is needed here.
#[derive(Debug, Deserialize)]
struct Line {
    time: u64,
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    f: String,
    #[serde(default)]
    value: Value,
    note: Option<String>,
    violation: Option<String>,
}

/// An acknowledged record: when, where, which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub time: u64,
    pub partition: i32,
    /// librdkafka does not say where, if the answer was lost and that to the next records of the same producer was not.
    pub offset: Option<i64>,
    pub number: u64,
}

/// A history that is still being written.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    file: Option<BufReader<File>>,
    /// The beginning of a line whose end is not there yet.
    begun: String,
    pub acks: Vec<Ack>,
    pub notes: Vec<String>,
    pub violations: Vec<String>,
}

impl Tail {
    pub fn new(path: PathBuf) -> Tail {
        Tail {
            path,
            file: None,
            begun: String::new(),
            acks: Vec::new(),
            notes: Vec::new(),
            violations: Vec::new(),
        }
    }

    /// Reads what has come since.
    pub fn read(&mut self) -> anyhow::Result<()> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok().map(BufReader::new);
        }
        while let Some(line) = self.next_line()? {
            // Most lines are none of these.
            let told = line.contains("\"note\"") || line.contains("\"violation\"");
            if told || (line.contains("\"type\":\"ok\"") && line.contains("\"f\":\"send\"")) {
                let line = serde_json::from_str(&line)
                    .with_context(|| format!("{}: {line}", self.path.display()))?;
                self.take(line)?;
            }
        }
        Ok(())
    }

    fn next_line(&mut self) -> anyhow::Result<Option<String>> {
        let Some(file) = &mut self.file else { return Ok(None) };
        file.take(json::LINE_BYTES_MAX).read_line(&mut self.begun)?;
        Ok(self.begun.ends_with('\n').then(|| std::mem::take(&mut self.begun)))
    }

    fn take(&mut self, line: Line) -> anyhow::Result<()> {
        let seconds = line.time as f64 / 1e9;
        if let Some(note) = line.note {
            self.notes.push(format!("{seconds:.3} {note}"));
        } else if let Some(violation) = line.violation {
            self.violations.push(format!("{seconds:.3} {violation}"));
        } else if line.r#type == "ok" && line.f == "send" {
            for send in line.value.as_array().into_iter().flatten() {
                self.acks.push(ack(line.time, send).with_context(|| format!("an acknowledgement: {send}"))?);
            }
        }
        Ok(())
    }
}

fn ack(time: u64, send: &Value) -> Option<Ack> {
    let (partition, at) = (send.get(1)?.as_str()?.parse().ok()?, send.get(2)?);
    let offset = match at.get(0)? {
        Value::Null => None,
        offset => Some(offset.as_i64()?),
    };
    Some(Ack { time, partition, offset, number: at.get(1)?.as_u64()? })
}

/// Who reads what: for each reader the record at each offset of each partition.
pub type Contents = BTreeMap<u64, BTreeMap<(i32, i64), u64>>;

/// What the polls of a file brought, by process.
pub fn contents(path: &Path) -> anyhow::Result<Contents> {
    #[derive(Deserialize)]
    struct Poll {
        process: Option<u64>,
        #[serde(default)]
        r#type: String,
        #[serde(default)]
        f: String,
        #[serde(default)]
        value: Value,
    }
    let mut contents = Contents::new();
    for line in BufReader::new(File::open(path)?).lines() {
        let Poll { process: Some(process), r#type, f, value } = serde_json::from_str(&line?)? else {
            continue;
        };
        if r#type != "ok" || f != "poll" {
            continue;
        }
        let records = value.pointer("/0/1").and_then(Value::as_object).context("a poll's records")?;
        for (partition, records) in records {
            let partition = partition.parse().context("a partition")?;
            for record in records.as_array().into_iter().flatten() {
                let pair = record.get(0).and_then(Value::as_i64).zip(record.get(1).and_then(Value::as_u64));
                let (offset, number) = pair.context("an offset and a number")?;
                contents.entry(process).or_default().insert((partition, offset), number);
            }
        }
    }
    Ok(contents)
}

/// What is wrong with `read`, where `acks` are all that was acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Acknowledged, and nowhere.
    pub lost: u64,
    /// Acknowledged, and at another offset only.
    pub moved: u64,
    /// At two offsets.
    pub doubled: u64,
    /// The first of each.
    pub examples: Vec<String>,
}

pub fn ledger<'a>(acks: impl Iterator<Item = &'a Ack>, read: &BTreeMap<(i32, i64), u64>) -> Ledger {
    let mut ledger = Ledger::default();
    let mut places: BTreeMap<(i32, u64), i64> = BTreeMap::new();
    for ((partition, offset), number) in read {
        if let Some(first) = places.insert((*partition, *number), *offset) {
            ledger.doubled += 1;
            if ledger.doubled == 1 {
                ledger.examples.push(format!("{number} is at {partition}:{first} and at {offset}"));
            }
        }
    }
    for ack in acks {
        let place = places.get(&(ack.partition, ack.number));
        let right = match ack.offset {
            Some(offset) => read.get(&(ack.partition, offset)) == Some(&ack.number),
            None => place.is_some(),
        };
        if right {
            continue;
        }
        let (count, what) = match place {
            Some(offset) => (&mut ledger.moved, format!("is at {offset}")),
            None => (&mut ledger.lost, "is nowhere".to_owned()),
        };
        *count += 1;
        if *count == 1 {
            let Ack { partition, number, time, .. } = ack;
            let offset = ack.offset.map_or("?".to_owned(), |offset| offset.to_string());
            let seconds = *time as f64 / 1e9;
            ledger
                .examples
                .push(format!("{number}, acknowledged at {partition}:{offset} at {seconds:.3}, {what}"));
        }
    }
    ledger
}

/// The longest time without an acknowledgement that began before `until` and ended after `from`, counted from `from`, and from
/// one acknowledgement to the next where it began later. `times` are in order. `None` if none came after `from`.
pub fn pause(times: &[u64], from: u64, until: u64) -> Option<u64> {
    let first = times.partition_point(|time| *time <= from);
    let mut last = from;
    let mut longest = None;
    for time in &times[first..] {
        if last >= until {
            break;
        }
        longest = longest.max(Some(time - last));
        last = *time;
    }
    longest
}

/// The value below which `percent` of the values are; 0 without any.
pub fn percentile(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    let Some(last) = values.len().checked_sub(1) else { return 0 };
    values[(last * percent).div_ceil(100).min(last)]
}

/// All histories as one.
pub fn merged(paths: &[PathBuf]) -> anyhow::Result<checker::History> {
    let mut history = checker::History::new();
    let mut ops = Vec::new();
    for path in paths {
        for (number, line) in BufReader::new(File::open(path)?).lines().enumerate() {
            let line = line?;
            if line.contains("\"note\":") || line.contains("\"violation\":") {
                continue;
            }
            match json::parse(&mut history, line.as_bytes()) {
                Ok(op) => ops.push(op),
                Err(error) => bail!("{}:{}: {error}", path.display(), number + 1),
            }
        }
    }
    ops.sort_by_key(|op| (op.time, op.kind != checker::Type::Invoke));
    for op in ops {
        history.record(op)?;
    }
    Ok(history)
}
