//! How a record looks.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::client::records::Record;

#[derive(Clone, Debug)]
pub enum Format {
    Values,
    /// Key, this text, value.
    Keyed(String),
    Json,
}

/// A record as JSON; fields are printed in this order.
#[derive(Debug, Serialize)]
struct Line<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Value,
    value: Value,
    headers: Vec<Header>,
}

#[derive(Debug, Serialize)]
struct Header {
    name: Value,
    value: Value,
}

pub fn record(
    out: &mut impl Write,
    format: &Format,
    topic: &str,
    partition: i32,
    record: &Record,
) -> io::Result<()> {
    match format {
        Format::Values => out.write_all(record.value.as_deref().unwrap_or(b"null"))?,
        Format::Keyed(separator) => {
            out.write_all(record.key.as_deref().unwrap_or(b"null"))?;
            out.write_all(separator.as_bytes())?;
            out.write_all(record.value.as_deref().unwrap_or(b"null"))?;
        }
        Format::Json => {
            let headers = record.headers.iter();
            let line = Line {
                topic,
                partition,
                offset: record.offset,
                timestamp: record.timestamp,
                key: text(record.key.as_deref()),
                value: text(record.value.as_deref()),
                headers: headers
                    .map(|(name, value)| Header { name: text(Some(name)), value: text(value.as_deref()) })
                    .collect(),
            };
            serde_json::to_writer(&mut *out, &line)?;
        }
    }
    out.write_all(b"\n")
}

/// A string, null, or `{"hex": "…"}` for bytes that are not UTF-8.
fn text(bytes: Option<&[u8]>) -> Value {
    let Some(bytes) = bytes else { return Value::Null };
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "hex": hex })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_print_as_values_with_keys_or_as_json() {
        let sample = Record {
            offset: 4,
            timestamp: 99,
            key: Some("k".into()),
            value: Some(b"\xff\x00".to_vec().into()),
            headers: vec![("trace".into(), None)],
        };
        let show = |format: Format, record: &Record| {
            let mut out = Vec::new();
            super::record(&mut out, &format, "t", 2, record).unwrap();
            out
        };
        assert_eq!(show(Format::Values, &sample), b"\xff\x00\n");
        assert_eq!(show(Format::Keyed(":".to_owned()), &sample), b"k:\xff\x00\n");
        assert_eq!(show(Format::Values, &Record { value: None, ..sample.clone() }), b"null\n");
        let line: Value = serde_json::from_slice(&show(Format::Json, &sample)).unwrap();
        let expected = json!({
            "topic": "t", "partition": 2, "offset": 4, "timestamp": 99,
            "key": "k", "value": {"hex": "ff00"}, "headers": [{"name": "trace", "value": null}],
        });
        assert_eq!(line, expected);
    }
}
