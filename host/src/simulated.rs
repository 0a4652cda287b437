//! The machine of whatever runs on this thread, where a simulation is one.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use object_store::ObjectStore;
use tokio::io::{AsyncRead, AsyncWrite};

/// A machine that is simulated.
pub trait Machine: Send + Sync + fmt::Debug {
    /// Its name, and its id.
    fn id(&self) -> String;

    fn boottime(&self) -> Duration;

    fn wall(&self) -> Duration;

    fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;

    fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>>;

    fn connect(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Stream>>;

    /// A client of the one object store, whose requests take at most `timeout`.
    fn store(&self, timeout: Duration) -> Arc<dyn ObjectStore>;
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
