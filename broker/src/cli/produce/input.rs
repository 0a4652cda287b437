//! Records from arguments or lines.

use std::time::Duration;

use anyhow::bail;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

use super::batches::Batches;

/// A lot is sent once it has this many bytes.
const LOT_BYTES: usize = 8 << 20;
/// A lot is sent once nothing came for so long: somebody may be typing.
const IDLE: Duration = Duration::from_millis(20);
/// A longer line is taken for something that is not lines.
const LINE_BYTES_MAX: usize = 64 << 20;

pub struct Input {
    source: Source,
    key_separator: Option<Vec<u8>>,
    /// The number of the current record, for messages.
    number: u64,
}

enum Source {
    Values(std::vec::IntoIter<String>),
    Lines(Lines),
}

impl Input {
    /// Arguments if there are any, else standard input.
    pub fn new(values: Vec<String>, key_separator: Option<String>) -> Input {
        let source = if values.is_empty() {
            Source::Lines(Lines::new(Box::new(BufReader::with_capacity(256 << 10, tokio::io::stdin()))))
        } else {
            Source::Values(values.into_iter())
        };
        Input { source, key_separator: key_separator.map(String::into_bytes), number: 0 }
    }

    #[cfg(test)]
    pub fn lines(reader: impl AsyncBufRead + Unpin + 'static, key_separator: Option<&str>) -> Input {
        Input {
            source: Source::Lines(Lines::new(Box::new(reader))),
            key_separator: key_separator.map(|text| text.as_bytes().to_vec()),
            number: 0,
        }
    }

    /// Moves records into `batches`: waits for one, then takes what is there, up to a lot. `false` at the end.
    pub async fn gather(&mut self, batches: &mut Batches) -> anyhow::Result<bool> {
        while batches.bytes() < LOT_BYTES {
            match &mut self.source {
                Source::Values(values) => match values.next() {
                    Some(value) => {
                        self.number += 1;
                        add(batches, value.as_bytes(), self.key_separator.as_deref(), self.number)?;
                    }
                    None => return Ok(false),
                },
                Source::Lines(lines) => {
                    let more = if batches.is_empty() {
                        lines.advance().await?
                    } else {
                        match tokio::time::timeout(IDLE, lines.advance()).await {
                            Ok(more) => more?,
                            Err(_) => return Ok(true),
                        }
                    };
                    if !more {
                        return Ok(false);
                    }
                    self.number += 1;
                    add(batches, lines.line(), self.key_separator.as_deref(), self.number)?;
                    lines.clear();
                }
            }
        }
        Ok(true)
    }
}

fn add(batches: &mut Batches, text: &[u8], separator: Option<&[u8]>, number: u64) -> anyhow::Result<()> {
    let (key, value) = match separator {
        None => (None, text),
        Some(separator) => match find(text, separator) {
            Some(at) => (Some(&text[..at]), &text[at + separator.len()..]),
            None => bail!(
                "record {number} has no key: the separator {:?} is not in it",
                String::from_utf8_lossy(separator)
            ),
        },
    };
    batches.push(key, value);
    Ok(())
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// Lines of bytes, without their ends. Cancelling [`advance`](Lines::advance) loses nothing.
struct Lines {
    reader: Box<dyn AsyncBufRead + Unpin>,
    line: Vec<u8>,
}

impl Lines {
    fn new(reader: Box<dyn AsyncBufRead + Unpin>) -> Lines {
        Lines { reader, line: Vec::new() }
    }

    /// Completes the next line; `false` at the end of the input.
    async fn advance(&mut self) -> anyhow::Result<bool> {
        loop {
            let chunk = self.reader.fill_buf().await?;
            if chunk.is_empty() {
                return Ok(!self.line.is_empty());
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(chunk.len());
            if self.line.len() + taken > LINE_BYTES_MAX {
                bail!("a line of standard input is longer than {LINE_BYTES_MAX} bytes");
            }
            self.line.extend_from_slice(&chunk[..taken]);
            self.reader.consume(taken + usize::from(end.is_some()));
            if end.is_some() {
                return Ok(true);
            }
        }
    }

    fn line(&self) -> &[u8] {
        self.line.strip_suffix(b"\r").unwrap_or(&self.line)
    }

    fn clear(&mut self) {
        self.line.clear();
    }
}
