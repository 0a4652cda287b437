//! Histories as JSON lines, one operation a line.
//!
//! ```json
//! {"process":0,"type":"invoke","time":10,"f":"send","value":[["send","t-0",7]]}
//! {"process":0,"type":"ok","time":20,"f":"send","value":[["send","t-0",[5,7]]]}
//! {"process":1,"type":"invoke","time":11,"f":"poll","value":[["poll"]]}
//! {"process":1,"type":"ok","time":21,"f":"poll","value":[["poll",{"t-0":[[4,6],[5,7]]}]],"rebalanced":["t-1"]}
//! ```
//!
//! | `f` | `value` | beside it |
//! |---|---|---|
//! | `send`, `poll`, `txn` | a list of `["send",KEY,VALUE]`, `["send",KEY,[OFFSET or null,VALUE]]`, `["poll"]`, `["poll",{KEY:[[OFFSET,VALUE],…]}]` | `rebalanced`: keys |
//! | `assign` | keys | `seek`: true if not from where the last polls ended |
//! | `subscribe` | keys | `group` |
//! | `rebalance` | keys | |
//! | `out-of-range` | `{"key":KEY,"offset":OFFSET}` | |
//! | `watermarks` | `{KEY:[START,END]}` | |
//! | `join` | keys | `group`, `generation` |
//! | `commit` | `{KEY:OFFSET}` | `group`, `generation` unless from outside |
//! | `committed` | `{KEY:OFFSET or null}` | `group` |
//! | `crash` | | |
//!
//! `type` is `invoke`, `ok`, `fail` or `info`; `call` numbers the calls of a process that has several open at once. A process
//! is a number, a key and a group a string, a value a number below 2^63. Fields that are not named here are ignored.

use std::io::{BufRead, Read};

use serde_json::{Map, Value as Json, json};

use crate::history::{F, History, Key, Malformed, Mop, Op, Polled, Type, Watermark};

/// The longest line that is read.
pub const LINE_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("line {line}: {what}")]
    Line { line: usize, what: String },
    #[error("line {line}: {cause}")]
    Malformed { line: usize, cause: Malformed },
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The history of one or several clients' files: merged by time, invocations first where times are equal (H5).
pub fn read(sources: &mut [Box<dyn BufRead>]) -> Result<History, Error> {
    let mut history = History::new();
    let mut ops = Vec::new();
    for source in sources {
        read_ops(source.as_mut(), &mut history, &mut ops)?;
    }
    // Stable: what one client recorded at one instant stays in its order, but for the invocations' precedence.
    ops.sort_by_key(|(_, op)| (op.time, op.kind != Type::Invoke));
    for (line, op) in ops {
        history.record(op).map_err(|cause| Error::Malformed { line, cause })?;
    }
    Ok(history)
}

fn read_ops(
    source: &mut dyn BufRead,
    history: &mut History,
    ops: &mut Vec<(usize, Op)>,
) -> Result<(), Error> {
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        if source.take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let op = parse(history, &bytes).map_err(|what| Error::Line { line, what })?;
        ops.push((line, op));
    }
    Ok(())
}

/// One line. The history only lends the names.
pub fn parse(history: &mut History, line: &[u8]) -> Result<Op, String> {
    let json: Json = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let object = json.as_object().ok_or("not an object")?;
    let process = object.get("process").and_then(Json::as_u64).ok_or("no process")?;
    let process = u32::try_from(process).map_err(|_| "the process is not a number below 2^32")?;
    let kind = match object.get("type").and_then(Json::as_str) {
        Some("invoke") => Type::Invoke,
        Some("ok") => Type::Ok,
        Some("fail") => Type::Fail,
        Some("info") => Type::Info,
        _ => return Err("the type is none of invoke, ok, fail, info".into()),
    };
    let time = object.get("time").and_then(Json::as_u64).ok_or("no time")?;
    let mut reader = Reader { history, object };
    let f = reader.f()?;
    let mut op = Op::new(process, kind, time, f);
    op.call = object.get("call").and_then(Json::as_u64);
    Ok(op)
}

struct Reader<'a> {
    history: &'a mut History,
    object: &'a Map<String, Json>,
}

impl Reader<'_> {
    fn f(&mut self) -> Result<F, String> {
        let name = self.object.get("f").and_then(Json::as_str).ok_or("no f")?;
        let value = self.object.get("value").unwrap_or(&Json::Null);
        let group = self.object.get("group").and_then(Json::as_str).map(|name| self.history.group(name));
        let generation = self.object.get("generation").and_then(Json::as_i64);
        let generation = generation.map(i32::try_from).transpose().map_err(|_| "a generation beyond 2^31")?;
        Ok(match name {
            "send" => F::Send(self.mops(value)?),
            "poll" => F::Poll { mops: self.mops(value)?, rebalanced: self.rebalanced()? },
            "txn" => F::Txn { mops: self.mops(value)?, rebalanced: self.rebalanced()? },
            "assign" => {
                let seek = self.object.get("seek").and_then(Json::as_bool).unwrap_or(false);
                F::Assign { keys: self.keys(value)?, seek }
            }
            "subscribe" => F::Subscribe { group, keys: self.keys(value)? },
            "rebalance" => F::Rebalance(self.keys(value)?),
            "out-of-range" => {
                let key = value.get("key").and_then(Json::as_str).ok_or("no key")?;
                let offset = value.get("offset").and_then(Json::as_i64).ok_or("no offset")?;
                F::OutOfRange { key: self.history.key(key), offset }
            }
            "watermarks" => F::Watermarks(self.each(value, |key, json| {
                let pair = json.as_array().filter(|pair| pair.len() == 2).ok_or("not [start, end]")?;
                let [start, end] = [&pair[0], &pair[1]].map(Json::as_i64);
                let (start, end) = start.zip(end).ok_or("a watermark is no number")?;
                Ok(Watermark { key, start, end })
            })?),
            "join" => F::Join {
                group: group.ok_or("no group")?,
                generation: generation.unwrap_or(-1),
                keys: self.keys(value)?,
            },
            "commit" => F::Commit {
                group: group.ok_or("no group")?,
                generation,
                offsets: self
                    .each(value, |key, json| Ok((key, json.as_i64().ok_or("an offset is no number")?)))?,
            },
            "committed" => F::Committed {
                group: group.ok_or("no group")?,
                offsets: self.each(value, |key, json| match json {
                    Json::Null => Ok((key, None)),
                    json => Ok((key, Some(json.as_i64().ok_or("an offset is no number")?))),
                })?,
            },
            "crash" => F::Crash,
            other => return Err(format!("f is {other}, which is not known")),
        })
    }

    fn rebalanced(&mut self) -> Result<Vec<Key>, String> {
        self.keys(self.object.get("rebalanced").unwrap_or(&Json::Null))
    }

    fn keys(&mut self, json: &Json) -> Result<Vec<Key>, String> {
        list(json)?
            .iter()
            .map(|key| {
                key.as_str().map(|name| self.history.key(name)).ok_or_else(|| "a key is no string".into())
            })
            .collect()
    }

    fn each<T>(
        &mut self,
        json: &Json,
        mut read: impl FnMut(Key, &Json) -> Result<T, &'static str>,
    ) -> Result<Vec<T>, String> {
        let empty = Map::new();
        let object = match json {
            Json::Null => &empty,
            json => json.as_object().ok_or("the value is not an object")?,
        };
        object.iter().map(|(name, json)| Ok(read(self.history.key(name), json)?)).collect()
    }

    fn mops(&mut self, json: &Json) -> Result<Vec<Mop>, String> {
        list(json)?.iter().map(|mop| self.mop(mop)).collect()
    }

    fn mop(&mut self, json: &Json) -> Result<Mop, String> {
        let parts = json.as_array().ok_or("a part is not a list")?;
        match (parts.first().and_then(Json::as_str), &parts[parts.len().min(1)..]) {
            (Some("send"), [key, value]) => {
                let key = self.history.key(key.as_str().ok_or("a key is no string")?);
                let (offset, value) = match value.as_array().map(Vec::as_slice) {
                    Some([Json::Null, value]) => (None, value),
                    Some([offset, value]) => (Some(offset.as_i64().ok_or("an offset is no number")?), value),
                    Some(_) => return Err("a send is neither VALUE nor [OFFSET, VALUE]".into()),
                    None => (None, value),
                };
                let value = value.as_u64().ok_or("a value is no number")?;
                Ok(Mop::Send { key, value, offset })
            }
            (Some("poll"), []) => Ok(Mop::Poll(Vec::new())),
            (Some("poll"), [records]) => {
                let mut polled = Vec::new();
                for (name, pairs) in records.as_object().ok_or("a poll does not hold an object")? {
                    let key = self.history.key(name);
                    for pair in list(pairs)? {
                        let pair =
                            pair.as_array().filter(|pair| pair.len() == 2).ok_or("not [offset, value]")?;
                        let offset = pair[0].as_i64().ok_or("an offset is no number")?;
                        let value = pair[1].as_u64().ok_or("a value is no number")?;
                        polled.push(Polled { key, offset, value });
                    }
                }
                Ok(Mop::Poll(polled))
            }
            _ => Err("a part is neither a send nor a poll".into()),
        }
    }
}

fn list(json: &Json) -> Result<&[Json], String> {
    match json {
        Json::Null => Ok(&[]),
        json => json.as_array().map(Vec::as_slice).ok_or_else(|| "not a list".into()),
    }
}

/// The line of an operation, without its end.
pub fn line(history: &History, op: &Op) -> String {
    let keys = |keys: &[Key]| keys.iter().map(|key| json!(history.key_name(*key))).collect::<Json>();
    let mut object = Map::new();
    object.insert("process".into(), json!(op.process));
    let kind = match op.kind {
        Type::Invoke => "invoke",
        Type::Ok => "ok",
        Type::Fail => "fail",
        Type::Info => "info",
    };
    object.insert("type".into(), json!(kind));
    object.insert("time".into(), json!(op.time));
    if let Some(call) = op.call {
        object.insert("call".into(), json!(call));
    }
    object.insert("f".into(), json!(op.f.name()));
    if !op.f.rebalanced().is_empty() {
        object.insert("rebalanced".into(), keys(op.f.rebalanced()));
    }
    let group = match &op.f {
        F::Subscribe { group, .. } => *group,
        F::Join { group, .. } | F::Commit { group, .. } | F::Committed { group, .. } => Some(*group),
        _ => None,
    };
    if let Some(group) = group {
        object.insert("group".into(), json!(history.group_name(group)));
    }
    let value = match &op.f {
        F::Send(mops) | F::Poll { mops, .. } | F::Txn { mops, .. } => {
            mops.iter().map(|mop| mop_json(history, mop)).collect()
        }
        F::Assign { keys: assigned, seek } => {
            if *seek {
                object.insert("seek".into(), json!(true));
            }
            keys(assigned)
        }
        F::Subscribe { keys: subscribed, .. } => keys(subscribed),
        F::Rebalance(rebalanced) => keys(rebalanced),
        F::OutOfRange { key, offset } => json!({"key": history.key_name(*key), "offset": offset}),
        F::Watermarks(marks) => {
            let marks =
                marks.iter().map(|mark| (history.key_name(mark.key).into(), json!([mark.start, mark.end])));
            Json::Object(marks.collect())
        }
        F::Join { generation, keys: joined, .. } => {
            object.insert("generation".into(), json!(generation));
            keys(joined)
        }
        F::Commit { generation, offsets, .. } => {
            if let Some(generation) = generation {
                object.insert("generation".into(), json!(generation));
            }
            Json::Object(offsets.iter().map(|(key, at)| (history.key_name(*key).into(), json!(at))).collect())
        }
        F::Committed { offsets, .. } => {
            Json::Object(offsets.iter().map(|(key, at)| (history.key_name(*key).into(), json!(at))).collect())
        }
        F::Crash => Json::Null,
    };
    object.insert("value".into(), value);
    Json::Object(object).to_string()
}

fn mop_json(history: &History, mop: &Mop) -> Json {
    match mop {
        Mop::Send { key, value, offset: None } => json!(["send", history.key_name(*key), value]),
        Mop::Send { key, value, offset } => {
            json!(["send", history.key_name(*key), [json!(offset), json!(value)]])
        }
        Mop::Poll(records) => {
            let mut keys = Map::new();
            for record in records {
                let pairs = keys.entry(history.key_name(record.key)).or_insert_with(|| json!([]));
                if let Json::Array(pairs) = pairs {
                    pairs.push(json!([record.offset, record.value]));
                }
            }
            json!(["poll", keys])
        }
    }
}
