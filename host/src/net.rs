//! TCP.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, tcp};

#[cfg(feature = "simulated")]
use crate::simulated;

/// Addresses of `host` with `port`, as this machine's resolver knows them.
pub async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    #[cfg(feature = "simulated")]
    if let Some(machine) = simulated::current() {
        return machine.lookup(host, port);
    }
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

/// Whether `address` can be listened on now, and at which port if any will do.
pub fn probe(address: SocketAddr) -> io::Result<u16> {
    #[cfg(feature = "simulated")]
    if simulated::current().is_some() {
        return Ok(address.port());
    }
    Ok(std::net::TcpListener::bind(address)?.local_addr()?.port())
}

/// Connects to the first address of `host` that lets it, without Nagle's delay.
pub async fn connect(host: &str, port: u16) -> io::Result<Stream> {
    #[cfg(feature = "simulated")]
    if let Some(machine) = simulated::current() {
        return machine.connect(host, port).await.map(Stream::Simulated);
    }
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(Stream::Tcp(stream))
}

/// Where connections come in.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    #[cfg(feature = "simulated")]
    Simulated(Box<dyn simulated::Listener>),
}

impl Listener {
    pub async fn bind(address: SocketAddr) -> io::Result<Listener> {
        #[cfg(feature = "simulated")]
        if let Some(machine) = simulated::current() {
            return machine.listen(address).map(Listener::Simulated);
        }
        TcpListener::bind(address).await.map(Listener::Tcp)
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr(),
            #[cfg(feature = "simulated")]
            Listener::Simulated(listener) => Ok(listener.local_addr()),
        }
    }

    /// The next connection, and who it is from. Cancelling it loses none.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Listener::Tcp(listener) => {
                listener.accept().await.map(|(stream, peer)| (Stream::Tcp(stream), peer))
            }
            #[cfg(feature = "simulated")]
            Listener::Simulated(listener) => {
                let (stream, peer) = std::future::poll_fn(|context| listener.poll_accept(context)).await?;
                Ok((Stream::Simulated(stream), peer))
            }
        }
    }
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    #[cfg(feature = "simulated")]
    Simulated(simulated::Stream),
}

impl Stream {
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_nodelay(nodelay),
            #[cfg(feature = "simulated")]
            Stream::Simulated(_) => Ok(()),
        }
    }

    /// Its two directions. Dropping the second one tells the peer that nothing more comes.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Stream::Tcp(stream) => {
                let (from, to) = stream.into_split();
                (ReadHalf::Tcp(from), WriteHalf::Tcp(to))
            }
            #[cfg(feature = "simulated")]
            Stream::Simulated(stream) => (ReadHalf::Simulated(stream.from), WriteHalf::Simulated(stream.to)),
        }
    }
}

/// What comes from the peer.
#[derive(Debug)]
pub enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    #[cfg(feature = "simulated")]
    Simulated(simulated::From),
}

/// What goes to the peer.
#[derive(Debug)]
pub enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    #[cfg(feature = "simulated")]
    Simulated(simulated::To),
}

impl AsyncRead for ReadHalf {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ReadHalf::Tcp(from) => Pin::new(from).poll_read(context, buffer),
            #[cfg(feature = "simulated")]
            ReadHalf::Simulated(from) => from.as_mut().poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for WriteHalf {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            WriteHalf::Tcp(to) => Pin::new(to).poll_write(context, bytes),
            #[cfg(feature = "simulated")]
            WriteHalf::Simulated(to) => to.as_mut().poll_write(context, bytes),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            WriteHalf::Tcp(to) => Pin::new(to).poll_write_vectored(context, slices),
            #[cfg(feature = "simulated")]
            WriteHalf::Simulated(to) => to.as_mut().poll_write_vectored(context, slices),
        }
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        match self {
            WriteHalf::Tcp(to) => to.is_write_vectored(),
            #[cfg(feature = "simulated")]
            WriteHalf::Simulated(to) => to.is_write_vectored(),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            WriteHalf::Tcp(to) => Pin::new(to).poll_flush(context),
            #[cfg(feature = "simulated")]
            WriteHalf::Simulated(to) => to.as_mut().poll_flush(context),
        }
    }

    #[inline]
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            WriteHalf::Tcp(to) => Pin::new(to).poll_shutdown(context),
            #[cfg(feature = "simulated")]
            WriteHalf::Simulated(to) => to.as_mut().poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_connection_carries_bytes_both_ways_and_its_end() {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = async {
            let (mut from, mut to) = connect("127.0.0.1", address.port()).await.unwrap().into_split();
            to.write_all(b"question").await.unwrap();
            let mut answer = [0; 6];
            from.read_exact(&mut answer).await.unwrap();
            drop(to);
            assert_eq!(&answer, b"answer");
            assert_eq!(from.read(&mut [0; 1]).await.unwrap(), 0);
        };
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut from, mut to) = stream.into_split();
            let mut question = [0; 8];
            from.read_exact(&mut question).await.unwrap();
            assert_eq!(&question, b"question");
            to.write_all(b"answer").await.unwrap();
            assert_eq!(from.read(&mut [0; 1]).await.unwrap(), 0);
        };
        tokio::join!(client, server);
    }
}
