//! Ports for the servers of a test.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// A TCP port that the kernel gives to nobody else: neither to a bind to port 0 nor to an outgoing connection. Who names
/// the port and sets `SO_REUSEADDR` (as almost every server does) may listen on it, at any address, again and again;
/// while nobody does, connections to it are refused.
///
/// A port that is only asked for and given back can be taken, by any connection on the machine, before its server listens.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Bound, and never listening.
    _socket: OwnedFd,
}

impl Port {
    /// # Panics
    ///
    /// If the machine has no port left.
    pub fn reserve() -> Port {
        Port::bind().expect("a port to reserve")
    }

    fn bind() -> rustix::io::Result<Port> {
        let socket =
            rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
        let address = SocketAddrV4::try_from(rustix::net::getsockname(&socket)?)?;
        Ok(Port { number: address.port(), _socket: socket })
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn whoever_names_it_may_listen_and_nobody_gets_it_by_chance() {
        let port = Port::reserve();
        let connect = || TcpStream::connect(("127.0.0.1", port.number()));
        assert_eq!(connect().unwrap_err().kind(), ErrorKind::ConnectionRefused);
        for host in ["127.0.0.1", "127.0.0.2", "0.0.0.0"] {
            let listener = TcpListener::bind((host, port.number())).unwrap();
            let client = connect();
            assert_eq!(client.is_ok(), host != "127.0.0.2");
            drop(listener);
        }
        // What the kernel asks before it gives a port away: is any socket bound to it?
        let socket =
            rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let taken =
            rustix::net::bind(socket.unwrap(), &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port.number()));
        assert_eq!(taken, Err(rustix::io::Errno::ADDRINUSE));
    }
}
