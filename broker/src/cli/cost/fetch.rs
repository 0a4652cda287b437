//! One GET of the admin endpoint.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::options::HostPort;
use crate::usage::Usage;

/// The largest answer that is read: of a cluster with far more topics than any.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// What the broker at `admin` has used.
pub async fn usage(admin: &HostPort, timeout: Duration) -> anyhow::Result<Usage> {
    let answer = tokio::time::timeout(timeout, get(admin, "/usage"))
        .await
        .with_context(|| format!("{admin} did not answer within {timeout:?}"))??;
    let body =
        body(&answer).with_context(|| format!("{admin} does not answer like a broker's admin endpoint"))?;
    serde_json::from_slice(body)
        .with_context(|| format!("{admin} answers what this version of ottla does not understand"))
}

async fn get(admin: &HostPort, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((admin.host.as_str(), admin.port)).await.with_context(|| {
        format!(
            "no broker answers at {admin}. Start it with --admin-listen {admin}, or say where its admin endpoint is with \
             --admin"
        )
    })?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut answer).await?;
    ensure!(answer.len() as u64 <= ANSWER_BYTES_MAX, "{admin} sends more than any broker would");
    Ok(answer)
}

/// Of an answer that is whole, and of success.
fn body(answer: &[u8]) -> anyhow::Result<&[u8]> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { bail!("no HTTP") };
    let (head, body) = (std::str::from_utf8(&answer[..end])?, &answer[end + 4..]);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    ensure!(status.starts_with("HTTP/1.1 200 "), "it says {status:?}");
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    ensure!(length == Some(body.len()), "its answer was cut off");
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_answers_of_success_count() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap(), b"{}");
        for answer in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\n\r\n{}",
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}",
            b"\x00\x00\x00\x04\xff\xff\r\n\r\n",
        ] {
            body(answer).expect_err(&String::from_utf8_lossy(answer));
        }
    }
}
