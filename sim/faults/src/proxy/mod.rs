//! A door between a broker and its S3 server at which requests go wrong: what [`FaultStore`](crate::FaultStore) is inside
//! a process, for processes of their own.
//!
//! ```text
//!   broker ── HTTP ──► Proxy ── one connection per request ──► S3 server
//!                        rules: by kind of request, prefix of the key, order, and a seeded coin
//! ```
//!
//! The rules are the crate's. Keys are what follows the bucket and the cluster's prefix in the path. The n-th request
//! has the n-th coins of the seed, so a seed repeats a run as far as the client's own order repeats.
//!
//! Headers pass as they are, `Host` too: it is the proxy's own address, and signatures hold for it.
//!
//! A thread per connection; a proxy that is dropped cuts them all.

mod http;

use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use parking_lot::{Condvar, Mutex};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::{Counts, Fault, Operation, Rule};
use http::Message;

/// Requests that are remembered for [`Proxy::log`]; counting goes on beyond them.
const LOG_MAX: usize = 100_000;
/// For the server behind the proxy. Only a hang meets it.
const SERVER_TIMEOUT: Duration = Duration::from_secs(60);

/// A request that came through.
#[derive(Clone, Debug)]
pub struct Seen {
    pub operation: Operation,
    pub key: Path,
    /// What struck it, if anything did.
    pub fault: Option<Fault>,
}

/// Forwards to one server. Dropping it closes its port.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    /// The server, `HOST:PORT`.
    target: String,
    /// How many leading parts of a path are not the key's.
    depth: usize,
    seed: u64,
    state: Mutex<State>,
    /// Signals that hanging requests may go, as after [`Proxy::heal`].
    changed: Condvar,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    outage: Option<Fault>,
    /// Access keys that are no longer taken.
    expired_keys: Vec<String>,
    /// Counts up with every `heal`; what hangs goes then.
    heals: u64,
    closed: bool,
    requests: u64,
    counts: Counts,
    bytes_read: u64,
    log: Vec<Seen>,
    late: Vec<Message>,
    connections: HashMap<u64, TcpStream>,
    next_connection: u64,
}

impl Proxy {
    /// Before the server `target`, `http://HOST:PORT`; requests are for `BUCKET/PREFIX`, where `prefix_parts`
    /// says how many parts the prefix has.
    ///
    /// # Panics
    /// If there is no port to listen on, or `target` is no such URL.
    pub fn before(target: &str, prefix_parts: usize, seed: u64) -> Proxy {
        let target = target.strip_prefix("http://").expect("a URL of plain HTTP").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port to listen on");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            target,
            depth: 1 + prefix_parts,
            seed,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if accepting.state.lock().closed {
                    return;
                }
                let shared = accepting.clone();
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Proxy { port, shared }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Adds a rule behind those that are there.
    pub fn add(&self, rule: Rule) {
        self.shared.state.lock().rules.push(rule);
    }

    /// Every request meets `fault`, whatever the rules say, until [`heal`](Proxy::heal). Connections that are there are
    /// cut.
    pub fn set_outage(&self, fault: Fault) {
        let mut state = self.shared.state.lock();
        state.outage = Some(fault);
        cut(&mut state);
    }

    /// From now on requests that are signed with this access key hear that their token has expired, whatever the rules
    /// say.
    pub fn expire_key(&self, key: &str) {
        self.shared.state.lock().expired_keys.push(format!("Credential={key}/"));
    }

    /// Requests so far that a fault struck.
    pub fn struck(&self) -> usize {
        self.shared.state.lock().log.iter().filter(|seen| seen.fault.is_some()).count()
    }

    /// Removes all rules, ends an outage, and cuts what hangs. Late PUTs stay late, expired keys expired.
    pub fn heal(&self) {
        let mut state = self.shared.state.lock();
        state.rules.clear();
        state.outage = None;
        state.heals += 1;
        self.shared.changed.notify_all();
    }

    /// Applies the PUTs that were late or doubled, in the order in which they were sent. Returns how many took effect.
    pub fn land_late(&self) -> usize {
        let late = std::mem::take(&mut self.shared.state.lock().late);
        late.iter().filter(|put| self.shared.forward(put).is_ok_and(|answer| answer.status() == 200)).count()
    }

    pub fn late(&self) -> usize {
        self.shared.state.lock().late.len()
    }

    pub fn counts(&self) -> Counts {
        self.shared.state.lock().counts
    }

    /// Bytes of objects that were read: the bodies of GETs that succeeded.
    pub fn bytes_read(&self) -> u64 {
        self.shared.state.lock().bytes_read
    }

    /// The requests so far, hit by a fault or not.
    pub fn log(&self) -> Vec<Seen> {
        self.shared.state.lock().log.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.heal();
        let mut state = self.shared.state.lock();
        state.closed = true;
        cut(&mut state);
        drop(state);
        // Wakes the listener, which then goes.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn cut(state: &mut State) {
    for (_, stream) in state.connections.drain() {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let number = {
            let mut state = self.state.lock();
            // Accepted just before: whoever closed it did not see this one.
            if state.closed {
                return;
            }
            let Ok(clone) = stream.try_clone() else { return };
            let number = state.next_connection;
            state.next_connection += 1;
            state.connections.insert(number, clone);
            number
        };
        // An error is a client that went away, or a connection that is to be cut.
        let _ = self.converse(&stream);
        let _ = stream.shutdown(Shutdown::Both);
        self.state.lock().connections.remove(&number);
    }

    fn converse(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut from = BufReader::new(stream);
        while let Some(request) = Message::request(&mut from)? {
            let (operation, key) = self.classify(&request);
            let signed = request.header("authorization").unwrap_or_default();
            let (fault, heals) = self.strike(operation, &key, signed);
            match self.answer(&request, fault, heals)? {
                Some(answer) => {
                    if operation == Operation::Get && (200..300).contains(&answer.message.status()) {
                        self.state.lock().bytes_read += answer.message.body.len() as u64;
                    }
                    let promised = (request.method_and_target().0 != "HEAD").then_some(answer.promised);
                    answer.message.write(&mut &*stream, promised, false)?;
                    if answer.cut {
                        break;
                    }
                }
                None => break,
            }
        }
        Ok(())
    }

    /// What goes back to the client; `None` cuts the connection.
    fn answer(&self, request: &Message, fault: Option<Fault>, heals: u64) -> io::Result<Option<Answer>> {
        match fault {
            Some(Fault::Refuse) => return Ok(Some(refusal(503, "SlowDown"))),
            Some(Fault::Fail) => return Ok(Some(refusal(500, "InternalError"))),
            Some(Fault::Expire) => return Ok(Some(refusal(400, "ExpiredToken"))),
            Some(Fault::Forbid) => return Ok(Some(refusal(403, "AccessDenied"))),
            Some(Fault::Conflict) => return Ok(Some(refusal(409, "ConditionalRequestConflict"))),
            Some(Fault::Hide) if self.classify(request).0 == Operation::List => {
                return Ok(Some(empty_listing()));
            }
            Some(Fault::Hide) => return Ok(Some(refusal(404, "NoSuchKey"))),
            Some(Fault::Cut) => return Ok(None),
            Some(Fault::Hang) => {
                let mut state = self.state.lock();
                self.changed.wait_while(&mut state, |state| state.heals == heals && !state.closed);
                return Ok(None);
            }
            Some(Fault::Delay(time)) => std::thread::sleep(time),
            Some(Fault::Late) => {
                self.state.lock().late.push(request.clone());
                return Ok(None);
            }
            Some(Fault::Duplicate) => self.state.lock().late.push(request.clone()),
            _ => {}
        }
        let mut message = self.forward(request)?;
        match fault {
            Some(Fault::LoseReply) => return Ok(None),
            Some(Fault::HiddenRetry) => message = self.forward(request)?,
            Some(Fault::FlipBit(bit)) if !message.body.is_empty() => {
                let bit = bit % (message.body.len() as u64 * 8);
                message.body[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
            Some(Fault::Truncate(length)) => message.body.truncate(length),
            Some(Fault::CutBody(length)) => {
                let promised = message.body.len();
                message.body.truncate(length);
                return Ok(Some(Answer { message, promised, cut: true }));
            }
            _ => {}
        }
        Ok(Some(Answer { promised: message.body.len(), message, cut: false }))
    }

    /// Asks the server, on a connection for this request alone.
    fn forward(&self, request: &Message) -> io::Result<Message> {
        let stream = TcpStream::connect(&self.target)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SERVER_TIMEOUT))?;
        let (method, _) = request.method_and_target();
        let has_body = request.header("content-length").is_some() || !request.body.is_empty();
        request.write(&mut &stream, has_body.then_some(request.body.len()), true)?;
        (&stream).flush()?;
        Message::response(&mut BufReader::new(&stream), method)
    }

    fn classify(&self, request: &Message) -> (Operation, Path) {
        let (method, target) = request.method_and_target();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parts: Vec<&str> = path.trim_start_matches('/').splitn(self.depth + 1, '/').collect();
        let mut key =
            Path::from_url_path(parts.get(self.depth).copied().unwrap_or_default()).unwrap_or_default();
        // A listing's key is its prefix, as the store sees it: with the cluster's in front.
        if let Some(prefix) = query.split('&').find_map(|part| part.strip_prefix("prefix=")) {
            let whole = Path::from_url_path(prefix).unwrap_or_default();
            key = whole.parts().skip(self.depth - 1).collect();
        }
        let operation = match method {
            "PUT" => Operation::Put,
            "DELETE" => Operation::Delete,
            "POST" if query.split('&').any(|part| part == "delete" || part == "delete=") => Operation::Delete,
            "GET" if query.contains("list-type=") => Operation::List,
            _ => Operation::Get,
        };
        (operation, key)
    }

    /// Counts the request and picks its fault.
    fn strike(&self, operation: Operation, key: &Path, signed: &str) -> (Option<Fault>, u64) {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.requests += 1;
        state.counts.count(operation);
        let mut coins = StdRng::seed_from_u64(self.seed ^ state.requests.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let struck = |rule: &mut Rule| rule.strikes(operation, key, coins.random()).then_some(rule.fault);
        let expired = state.expired_keys.iter().any(|key| signed.contains(key)).then_some(Fault::Expire);
        let fault = expired.or(state.outage).or_else(|| state.rules.iter_mut().find_map(struck));
        if state.log.len() < LOG_MAX {
            state.log.push(Seen { operation, key: key.clone(), fault });
        }
        (fault, state.heals)
    }
}

struct Answer {
    message: Message,
    /// The length that the client is told.
    promised: usize,
    /// Whether the connection ends with it.
    cut: bool,
}

/// An error in S3's own words.
fn refusal(status: u16, code: &str) -> Answer {
    xml(status, code, &format!("<Error><Code>{code}</Code><Message>on purpose</Message></Error>"))
}

fn empty_listing() -> Answer {
    let namespace = "http://s3.amazonaws.com/doc/2006-03-01/";
    let result = "<KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>";
    xml(200, "OK", &format!("<ListBucketResult xmlns=\"{namespace}\">{result}</ListBucketResult>"))
}

fn xml(status: u16, reason: &str, document: &str) -> Answer {
    let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{document}");
    let message = Message {
        start: format!("HTTP/1.1 {status} {reason}"),
        headers: vec![("Content-Type".to_owned(), "application/xml".to_owned())],
        body: body.into_bytes(),
    };
    Answer { promised: message.body.len(), message, cut: false }
}

#[cfg(test)]
mod tests;
