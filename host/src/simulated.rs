//! The machine of whatever runs on this thread, where a simulation is one.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, LocalBoxFuture};
use object_store::ObjectStore;
use tokio::io::{AsyncRead, AsyncWrite};

/// A machine that is simulated.
pub trait Machine: Send + Sync + fmt::Debug {
    /// Its name, and its id.
    fn id(&self) -> String;

    /// Names the boot of its kernel.
    fn boot(&self) -> String;

    fn boottime(&self) -> Duration;

    fn wall(&self) -> Duration;

    fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;

    fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>>;

    fn connect(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Stream>>;

    /// A client of the one object store, whose requests take at most `timeout`.
    fn store(&self, timeout: Duration) -> Arc<dyn ObjectStore>;

    /// Runs what would be a thread: in turn with everything else of the process.
    fn thread(&self, body: Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>);

    /// What is at `path`, if anything is.
    fn look(&self, path: &Path) -> Option<Found>;

    /// Opens a volume. `own`: to write to it, under this machine's lock, which the process holds until the last of its writes
    /// has ended; refused with `WouldBlock` while another process of this machine holds it.
    fn volume(&self, path: &Path, own: bool) -> io::Result<Arc<dyn Volume>>;

    /// Whether no process of this machine holds the volume's lock.
    fn is_unlocked(&self, path: &Path) -> io::Result<bool>;

    /// The operator's command that brings the volume `uri` here. Where it is now, if that is said.
    fn attach(&self, uri: &str) -> BoxFuture<'static, io::Result<Option<PathBuf>>>;
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Of the volume, whatever the path is.
    pub id: u64,
    /// A file, and no device.
    pub is_file: bool,
    /// Only one machine at a time can reach it: its lock is known to everybody who can write to it.
    pub is_one_machines: bool,
}

/// A volume that is open. Offsets and lengths are multiples of its block.
pub trait Volume: Send + Sync + fmt::Debug {
    fn block_bytes(&self) -> usize;

    fn size_bytes(&self) -> u64;

    /// Whether a single write can be told to be durable when it is done.
    fn fua(&self) -> bool;

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Durable at once: for what is written before anything depends on it.
    fn write_now(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Writes; `durable` by itself, or by a flush that begins afterwards. It has left when this returns, and lands whether
    /// the future is polled or not.
    fn write(&self, bytes: &[u8], offset: u64, durable: bool) -> BoxFuture<'static, io::Result<()>>;

    fn flush(&self) -> BoxFuture<'static, io::Result<()>>;
}

/// Where connections to a simulated machine come in.
pub trait Listener: Send + Sync + fmt::Debug {
    fn local_addr(&self) -> SocketAddr;

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(Stream, SocketAddr)>>;
}

pub trait Reader: AsyncRead + Send + Sync + fmt::Debug {}
impl<T: AsyncRead + Send + Sync + fmt::Debug> Reader for T {}

pub trait Writer: AsyncWrite + Send + Sync + fmt::Debug {}
impl<T: AsyncWrite + Send + Sync + fmt::Debug> Writer for T {}

pub type From = Pin<Box<dyn Reader>>;
pub type To = Pin<Box<dyn Writer>>;

/// A connection between simulated machines. Dropping `to` tells the peer that nothing more comes.
#[derive(Debug)]
pub struct Stream {
    pub from: From,
    pub to: To,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Machine>>> = const { RefCell::new(None) };
}

/// What runs on this thread runs on `machine` from here on, and on the real one if there is none. Returns the one before.
pub fn enter(machine: Option<Arc<dyn Machine>>) -> Option<Arc<dyn Machine>> {
    CURRENT.with(|current| current.replace(machine))
}

/// The machine of this thread, if it is a simulated one.
pub fn current() -> Option<Arc<dyn Machine>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}
