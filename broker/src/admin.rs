//! The admin endpoint: HTTP for whoever runs the broker, on an address of its own.
//!
//! ```text
//!   GET /usage   what was asked of the store, and why: JSON, see [`usage`](crate::usage)
//! ```
//!
//! It only tells, and is off unless it is given an address. It is no part of the Kafka listener: who may write records and
//! who may look at a broker are different people. A request is one line and headers that nobody reads; each connection
//! is for one of them. What it costs to make the page is bounded there (U1).
//!
//! - **Ad1** Whatever a peer sends or leaves out, it holds one of [`Config::connections_max`] places for at most
//!   [`Config::request_timeout`], and [`HEAD_BYTES_MAX`] of memory beside its answer.
//! - **Ad2** The port is taken before the predecessor is fenced: a start that must be refused disturbs nobody.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::options::HostPort;
use crate::tasks::Tasks;

/// A request's line and headers, bytes. Browsers with cookies stay below it.
pub const HEAD_BYTES_MAX: usize = 16 << 10;

/// After a failed accept (no file descriptors, most likely), so that the loop does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Bounds of the endpoint.
#[derive(Clone, Debug)]
pub struct Config {
    /// Requests under way at once; more wait in the kernel's queue. Default 16.
    pub connections_max: usize,
    /// For a request and its answer. Default 10 s.
    pub request_timeout: Duration,
    /// How long after it was made the document at `/usage` is made anew at the earliest; until then requests get the same
    /// again. Default 1 s.
    pub usage_interval: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            connections_max: 16,
            request_timeout: Duration::from_secs(10),
            usage_interval: Duration::from_secs(1),
        }
    }
}

/// What is at a path; `None` is 404.
pub type Pages = Arc<dyn Fn(&str) -> Option<BoxFuture<'static, Bytes>> + Send + Sync>;

/// Bound sockets, not yet accepting.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    listeners: Vec<TcpListener>,
}

/// The endpoint at work, until [`shutdown`](Admin::shutdown) or drop.
#[derive(Debug)]
pub struct Admin {
    address: HostPort,
    tasks: Tasks,
    stop: CancellationToken,
}

impl Bound {
    /// Every address that `at` stands for.
    pub async fn new(at: &HostPort, config: Config) -> anyhow::Result<Bound> {
        let addresses = tokio::net::lookup_host((at.host.as_str(), at.port))
            .await
            .with_context(|| format!("admin-listen: {} is not an address of this machine", at.host))?;
        let mut listeners: Vec<TcpListener> = Vec::new();
        for mut address in addresses {
            if let Some(first) = listeners.first() {
                // One port for all of them, whatever was free.
                address.set_port(first.local_addr()?.port());
            }
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("admin-listen: {address} cannot be listened on"))?;
            listeners.push(listener);
        }
        anyhow::ensure!(!listeners.is_empty(), "admin-listen: {} has no address", at.host);
        Ok(Bound { config, listeners })
    }

    pub fn serve(self, pages: Pages) -> anyhow::Result<Admin> {
        let address = self.listeners[0].local_addr()?;
        let address = HostPort { host: address.ip().to_string(), port: address.port() };
        let (tasks, stop) = (Tasks::default(), CancellationToken::new());
        let places = Arc::new(Semaphore::new(self.config.connections_max));
        for listener in self.listeners {
            let accepting = accept(
                self.config.clone(),
                listener,
                places.clone(),
                pages.clone(),
                tasks.clone(),
                stop.clone(),
            );
            tasks.keep("the admin endpoint", accepting);
        }
        Ok(Admin { address, tasks, stop })
    }
}

impl Admin {
    /// The first address that it listens on.
    pub fn address(&self) -> &HostPort {
        &self.address
    }

    /// Resolves once a task of it has met a broken invariant; otherwise never.
    pub async fn failed(&self) -> String {
        self.tasks.failed().await
    }

    pub async fn shutdown(&self) {
        self.tasks.close();
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.tasks.close();
        self.stop.cancel();
    }
}

async fn accept(
    config: Config,
    listener: TcpListener,
    places: Arc<Semaphore>,
    pages: Pages,
    tasks: Tasks,
    stop: CancellationToken,
) {
    let accepting = async {
        loop {
            let place = places.clone().acquire_owned().await.expect("nobody closes it");
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the admin endpoint");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let (pages, stop, timeout) = (pages.clone(), stop.clone(), config.request_timeout);
            drop(tasks.spawn("an admin connection", async move {
                let _place = place;
                // Who goes away, or takes too long, hears nothing more.
                let answered = tokio::time::timeout(timeout, answer(stream, &pages));
                let _ = stop.run_until_cancelled(answered).await;
            }));
        }
    };
    stop.run_until_cancelled(accepting).await;
}

/// Reads one request and answers it.
async fn answer(mut stream: TcpStream, pages: &Pages) -> std::io::Result<()> {
    let (status, body) = match head(&mut stream).await? {
        None => ("431 Request Header Fields Too Large", Bytes::from_static(b"the request is too large\n")),
        Some(head) => respond(&head, pages).await,
    };
    let kind = if status == OK { "application/json" } else { "text/plain" };
    let allow = if status == NOT_ALLOWED { "Allow: GET\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}Cache-Control: no-store\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await
}

const OK: &str = "200 OK";
const NOT_ALLOWED: &str = "405 Method Not Allowed";

/// Everything up to the empty line; `None` if that is too far away.
async fn head(stream: &mut TcpStream) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    loop {
        let read = stream.read(&mut piece).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&piece[..read]);
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            head.truncate(end);
            return Ok(Some(head));
        }
        if head.len() > HEAD_BYTES_MAX {
            return Ok(None);
        }
    }
}

async fn respond(head: &[u8], pages: &Pages) -> (&'static str, Bytes) {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let words: Vec<&str> = std::str::from_utf8(line).unwrap_or_default().split(' ').collect();
    let [method, target, version] = words[..] else {
        return ("400 Bad Request", Bytes::from_static(b"this is not an HTTP request\n"));
    };
    if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
        return ("400 Bad Request", Bytes::from_static(b"this is not an HTTP/1.1 request for a path\n"));
    }
    if method != "GET" {
        return (NOT_ALLOWED, Bytes::from_static(b"everything here is for GET\n"));
    }
    let path = target.split('?').next().unwrap_or_default();
    match pages(path) {
        Some(page) => (OK, page.await),
        None => ("404 Not Found", Bytes::from_static(b"there is /usage\n")),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    async fn endpoint(config: Config) -> Admin {
        let at = HostPort { host: "127.0.0.1".to_owned(), port: 0 };
        let pages =
            |path: &str| (path == "/page").then(|| std::future::ready(Bytes::from_static(b"{}")).boxed());
        Bound::new(&at, config).await.unwrap().serve(Arc::new(pages)).unwrap()
    }

    async fn ask(admin: &Admin, request: &[u8]) -> String {
        let mut stream =
            TcpStream::connect((admin.address().host.as_str(), admin.address().port)).await.unwrap();
        // A peer that has said too much may be cut off.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn what_is_asked_for_is_answered_and_nothing_else() {
        let admin = endpoint(Config::default()).await;
        let answer = ask(&admin, b"GET /page?now HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n{}"), "{answer}");
        assert!(answer.contains("Content-Length: 2\r\n"), "{answer}");
        for (request, status) in [
            (&b"GET /other HTTP/1.1\r\n\r\n"[..], "404"),
            (b"POST /page HTTP/1.1\r\n\r\n", "405"),
            (b"GET /page\r\n\r\n", "400"),
            (b"GET page HTTP/1.1\r\n\r\n", "400"),
            (b"GET /page HTTP/2.0\r\n\r\n", "400"),
            (b"\xff\xfe\r\n\r\n", "400"),
            (b"\r\n\r\n", "400"),
        ] {
            let answer = ask(&admin, request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        }
        admin.shutdown().await;
    }

    /// Ad1.
    #[tokio::test]
    async fn an_endless_request_is_cut_off() {
        let admin = endpoint(Config::default()).await;
        let answer = ask(&admin, &[b'a'; HEAD_BYTES_MAX + 1]).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    /// Ad1: the one place is held by somebody who says nothing, until its time is over.
    #[tokio::test]
    async fn silence_gives_its_place_back() {
        let config =
            Config { connections_max: 1, request_timeout: Duration::from_millis(50), ..Config::default() };
        let admin = endpoint(config).await;
        let mut silent =
            TcpStream::connect((admin.address().host.as_str(), admin.address().port)).await.unwrap();
        let answer = ask(&admin, b"GET /page HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0, "it was closed without a word");
    }
}
