//! As much of HTTP/1.1 as object stores and their clients speak with each other: messages whose bodies have a length or
//! come in chunks. Nothing is streamed; a message is read whole and is bounded.

use std::io::{self, BufRead, Read, Write};

/// No head that a store or its client sends is nearly as large.
const HEAD_BYTES_MAX: u64 = 256 << 10;
/// Far above the objects of any test.
const BODY_BYTES_MAX: usize = 256 << 20;

/// A request or a response.
#[derive(Clone, Debug, Default)]
pub(super) struct Message {
    /// The first line, without its end.
    pub start: String,
    /// In their order; names as they were spelled.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    /// Reads a request. `None` if the peer has nothing more to say.
    pub fn request(from: &mut impl BufRead) -> io::Result<Option<Message>> {
        let Some(mut message) = Message::head(from)? else { return Ok(None) };
        if message.header("expect").is_some() {
            return Err(invalid("a client that waits for 100 Continue"));
        }
        message.read_body(from, false)?;
        Ok(Some(message))
    }

    /// Reads the response to a request by `method` from a server that closes its connection afterwards.
    pub fn response(from: &mut impl BufRead, method: &str) -> io::Result<Message> {
        let mut message =
            Message::head(from)?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        if !(method == "HEAD" || matches!(message.status(), 204 | 304)) {
            message.read_body(from, true)?;
        }
        Ok(message)
    }

    fn head(from: &mut impl BufRead) -> io::Result<Option<Message>> {
        let mut head = from.take(HEAD_BYTES_MAX);
        let mut line = || -> io::Result<Option<String>> {
            let mut bytes = Vec::new();
            if head.read_until(b'\n', &mut bytes)? == 0 {
                return Ok(None);
            }
            if bytes.pop() != Some(b'\n') {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.pop_if(|last| *last == b'\r');
            String::from_utf8(bytes).map(Some).map_err(|_| invalid("a head that is not UTF-8"))
        };
        let Some(start) = line()? else { return Ok(None) };
        let mut headers = Vec::new();
        loop {
            let line = line()?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            if line.is_empty() {
                return Ok(Some(Message { start, headers, body: Vec::new() }));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid("a header without a colon"))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    fn read_body(&mut self, from: &mut impl BufRead, until_end: bool) -> io::Result<()> {
        if self.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return self.read_chunks(from);
        }
        match self.header("content-length") {
            Some(length) => {
                let length: usize = length.parse().map_err(|_| invalid("a length that is no number"))?;
                self.append(from, length)
            }
            None if until_end => {
                from.take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut self.body)?;
                if self.body.len() > BODY_BYTES_MAX { Err(invalid("a body over the limit")) } else { Ok(()) }
            }
            None => Ok(()),
        }
    }

    fn read_chunks(&mut self, from: &mut impl BufRead) -> io::Result<()> {
        loop {
            let mut line = String::new();
            from.take(64).read_line(&mut line)?;
            let size = line.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(|_| invalid("a chunk without a size"))?;
            self.append(from, size)?;
            let mut end = [0; 2];
            from.read_exact(&mut end)?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn append(&mut self, from: &mut impl BufRead, bytes: usize) -> io::Result<()> {
        if bytes > BODY_BYTES_MAX - self.body.len() {
            return Err(invalid("a body over the limit"));
        }
        let before = self.body.len();
        self.body.resize(before + bytes, 0);
        from.read_exact(&mut self.body[before..])
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(candidate, _)| candidate.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// A response's status; 0 for what is none.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// A request's method and target.
    pub fn method_and_target(&self) -> (&str, &str) {
        let mut words = self.start.split(' ');
        (words.next().unwrap_or_default(), words.next().unwrap_or_default())
    }

    /// Writes it with a length of its own in place of how it came: `promised` bytes, whatever the body has. A response
    /// to HEAD keeps the length that it names.
    pub fn write(&self, to: &mut impl Write, promised: Option<usize>, close: bool) -> io::Result<()> {
        let mut bytes = format!("{}\r\n", self.start).into_bytes();
        for (name, value) in &self.headers {
            let lower = name.to_ascii_lowercase();
            let replaced = matches!(lower.as_str(), "connection" | "transfer-encoding" | "keep-alive")
                || (lower == "content-length" && promised.is_some());
            if !replaced {
                bytes.extend(format!("{name}: {value}\r\n").into_bytes());
            }
        }
        if let Some(promised) = promised {
            bytes.extend(format!("Content-Length: {promised}\r\n").into_bytes());
        }
        if close {
            bytes.extend(b"Connection: close\r\n");
        }
        bytes.extend(b"\r\n");
        bytes.extend(&self.body);
        to.write_all(&bytes)
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
