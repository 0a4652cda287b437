//! The network: connections that keep their own order, on links that have none among themselves.
//!
//! What is written arrives after its link's latency, never before what was written to the same connection earlier. A link
//! that is cut holds everything back, one way or both, as TCP's retransmissions would, and gives it out when it is
//! mended: late, but in order. What nobody listens to is refused, and so is what is sent through a link that refuses, as a firewall
//! does; what is powered off is silent.
//!
//! - **N1** When a process dies its peers are told (reset) as soon as a link lets that through; when its machine lost power,
//!   only once it has power again.
//! - **N2** A connection takes at most [`WINDOW_BYTES`] that its reader has not read.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use host::simulated;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::machine::{self, Life};
use crate::world::{Inner, MachineId, STEP, World};

const WINDOW_BYTES: usize = 4 << 20;

/// Between two attempts to connect through a link that is cut.
const SYN_PAUSE: Duration = Duration::from_millis(1000);

/// One direction of a connection, and the other one: the index with its last bit flipped.
type Way = u64;

pub struct Network {
    links: Vec<Vec<Link>>,
    ways: BTreeMap<Way, Direction>,
    listeners: BTreeMap<SocketAddr, Listening>,
    powered: Vec<bool>,
    next: u64,
    next_port: u16,
}

/// From one machine to another.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub cut: bool,
    pub refuses: bool,
    pub least: Duration,
    pub most: Duration,
}

struct Listening {
    life: Life,
    backlog: VecDeque<(Way, SocketAddr)>,
    waker: Option<Waker>,
}

struct Direction {
    from: Life,
    to: Life,
    /// With the time of arrival; an empty one is the end.
    arriving: VecDeque<(Duration, Bytes)>,
    /// Written while the link was cut.
    held: VecDeque<Bytes>,
    bytes: usize,
    last: Duration,
    ended: bool,
    /// From when on the reader finds a reset.
    reset: Option<Duration>,
    /// The reader's machine must still be told that the writer is gone.
    reset_held: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Network {
    pub fn new(machines: usize) -> Network {
        let link = Link { cut: false, refuses: false, least: STEP, most: STEP + Duration::from_millis(2) };
        Network {
            links: vec![vec![link; machines]; machines],
            ways: BTreeMap::new(),
            listeners: BTreeMap::new(),
            powered: vec![true; machines],
            next: 0,
            next_port: 10_000,
        }
    }

    fn is_cut(&self, one: MachineId, other: MachineId) -> bool {
        self.links[one][other].cut || self.links[other][one].cut
    }
}

impl Inner {
    fn arrival(&mut self, from: MachineId, to: MachineId) -> Duration {
        let link = self.network.links[from][to];
        let now = machine::precise().unwrap_or(self.now);
        now + self.between(link.least, link.most)
    }

    /// Puts what a direction holds on its way, if the link lets it.
    fn release(&mut self, way: Way) {
        let Some(direction) = self.network.ways.get(&way) else { return };
        let (from, to) = (direction.from.machine, direction.to.machine);
        if self.network.links[from][to].cut || !self.network.powered[from] || !self.network.powered[to] {
            return;
        }
        let arrival = self.arrival(from, to);
        let direction = self.network.ways.get_mut(&way).expect("it was there");
        direction.last = direction.last.max(arrival);
        let at = direction.last;
        direction.arriving.extend(direction.held.drain(..).map(|bytes| (at, bytes)));
        if std::mem::take(&mut direction.reset_held) {
            direction.reset = Some(at);
        }
        if let Some(waker) = direction.reader.take() {
            waker.wake();
        }
    }

    /// Cuts a link, or mends it.
    pub fn set_cut(&mut self, from: MachineId, to: MachineId, cut: bool) {
        self.network.links[from][to].cut = cut;
        if !cut {
            self.release_all();
        }
    }

    /// Makes a link refuse, or no more. What was connected through it is reset.
    pub fn set_refusing(&mut self, from: MachineId, to: MachineId, refuses: bool) {
        self.network.links[from][to].refuses = refuses;
        if !refuses {
            return;
        }
        let through = |way: &Direction| (way.from.machine, way.to.machine) == (from, to);
        let ways = self.network.ways.iter().filter(|(_, way)| through(way));
        for way in ways.flat_map(|(way, _)| [*way, *way ^ 1]).collect::<Vec<_>>() {
            if let Some(direction) = self.network.ways.get_mut(&way) {
                direction.reset_held = true;
                self.release(way);
            }
        }
    }

    fn release_all(&mut self) {
        let ways: Vec<Way> = self.network.ways.keys().copied().collect();
        for way in ways {
            self.release(way);
        }
    }

    /// A process is gone, and with it its sockets. Without power its machine says nothing about it.
    pub fn disconnect(&mut self, life: Life, power: bool) {
        self.network.powered[life.machine] = power;
        self.network.listeners.retain(|_, listening| listening.life != life);
        let ways: Vec<Way> =
            self.network.ways.iter().filter(|(_, way)| way.from == life).map(|(way, _)| *way).collect();
        for way in ways {
            let direction = self.network.ways.get_mut(&way).expect("it was there");
            direction.reset_held = true;
            self.release(way);
            // Who writes to it meets the reset as well.
            if let Some(other) = self.network.ways.get_mut(&(way ^ 1)) {
                other.reader = None;
            }
        }
    }

    /// A machine has power again: its kernel refuses what belonged to the process that is gone.
    pub fn power_on(&mut self, machine: MachineId) {
        self.network.powered[machine] = true;
        self.release_all();
    }
}

pub fn listen(world: &World, life: Life, address: SocketAddr) -> io::Result<Box<dyn simulated::Listener>> {
    let mut inner = world.lock();
    if machine::machine_at(address.ip()) != Some(life.machine) {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    if inner.network.listeners.contains_key(&address) {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    let listening = Listening { life, backlog: VecDeque::new(), waker: None };
    inner.network.listeners.insert(address, listening);
    drop(inner);
    Ok(Box::new(Listener { world: world.clone(), address, life }))
}

pub async fn connect(world: World, life: Life, to: SocketAddr) -> io::Result<simulated::Stream> {
    let Some(target) = machine::machine_at(to.ip()) else {
        return Err(io::ErrorKind::HostUnreachable.into());
    };
    loop {
        let (there, back, passes) = {
            let mut inner = world.lock();
            let links =
                (inner.network.links[life.machine][target], inner.network.links[target][life.machine]);
            let there = inner.between(links.0.least, links.0.most);
            let back = inner.between(links.1.least, links.1.most);
            let passes = !inner.network.is_cut(life.machine, target) && inner.network.powered[target];
            (there, back, passes)
        };
        if !passes {
            tokio::time::sleep(SYN_PAUSE).await;
            continue;
        }
        tokio::time::sleep(there).await;
        let way = {
            let mut inner = world.lock();
            let inner = &mut *inner;
            let port = inner.network.next_port;
            inner.network.next_port = port.checked_add(1).unwrap_or(10_000);
            let way = inner.network.next * 2;
            let refuses = inner.network.links[life.machine][target].refuses;
            match inner.network.listeners.get_mut(&to).filter(|_| !refuses) {
                None => None,
                Some(listening) => {
                    inner.network.next += 1;
                    let peer = listening.life;
                    listening
                        .backlog
                        .push_back((way | 1, SocketAddr::new(machine::address(life.machine), port)));
                    if let Some(waker) = listening.waker.take() {
                        waker.wake();
                    }
                    inner.network.ways.insert(way, Direction::new(life, peer));
                    inner.network.ways.insert(way | 1, Direction::new(peer, life));
                    Some(way)
                }
            }
        };
        tokio::time::sleep(back).await;
        return match way {
            Some(way) => Ok(stream(&world, way)),
            None => Err(io::ErrorKind::ConnectionRefused.into()),
        };
    }
}

impl Direction {
    fn new(from: Life, to: Life) -> Direction {
        Direction {
            from,
            to,
            arriving: VecDeque::new(),
            held: VecDeque::new(),
            bytes: 0,
            last: Duration::ZERO,
            ended: false,
            reset: None,
            reset_held: false,
            reader: None,
            writer: None,
        }
    }
}

/// The end of a connection that writes on `way`.
fn stream(world: &World, way: Way) -> simulated::Stream {
    simulated::Stream {
        from: Box::pin(Reader { world: world.clone(), way: way ^ 1, sleep: None }),
        to: Box::pin(Writer { world: world.clone(), way }),
    }
}

struct Listener {
    world: World,
    address: SocketAddr,
    life: Life,
}

impl fmt::Debug for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Listener({})", self.address)
    }
}

impl simulated::Listener for Listener {
    fn local_addr(&self) -> SocketAddr {
        self.address
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(simulated::Stream, SocketAddr)>> {
        let mut inner = self.world.lock();
        let Some(listening) = inner.network.listeners.get_mut(&self.address) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        match listening.backlog.pop_front() {
            Some((way, peer)) => {
                drop(inner);
                Poll::Ready(Ok((stream(&self.world, way), peer)))
            }
            None => {
                listening.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut inner = self.world.lock();
        if inner.network.listeners.get(&self.address).is_some_and(|listening| listening.life == self.life) {
            inner.network.listeners.remove(&self.address);
        }
    }
}

struct Reader {
    world: World,
    way: Way,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Reader({})", self.way)
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let world = self.world.clone();
            let mut inner = world.lock();
            let now = machine::precise().unwrap_or(inner.now);
            let Some(direction) = inner.network.ways.get_mut(&self.way) else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            };
            let next = direction.arriving.front().map(|(at, _)| *at);
            match (next, direction.reset) {
                (Some(at), _) if at <= now => {
                    let (_, bytes) = direction.arriving.front_mut().expect("looked at");
                    if bytes.is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                    let length = bytes.len().min(buffer.remaining());
                    buffer.put_slice(&bytes[..length]);
                    bytes.advance(length);
                    if bytes.is_empty() {
                        direction.arriving.pop_front();
                    }
                    direction.bytes -= length;
                    if let Some(waker) = direction.writer.take() {
                        waker.wake();
                    }
                    return Poll::Ready(Ok(()));
                }
                (None, Some(at)) if at <= now => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                (next, reset) => {
                    direction.reader = Some(context.waker().clone());
                    let Some(at) = next.or(reset) else { return Poll::Pending };
                    drop(inner);
                    // Rounded up: timers count milliseconds.
                    let mut sleep = Box::pin(tokio::time::sleep(at - now + Duration::from_millis(1)));
                    if sleep.as_mut().poll(context).is_pending() {
                        self.sleep = Some(sleep);
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

struct Writer {
    world: World,
    way: Way,
}

impl fmt::Debug for Writer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Writer({})", self.way)
    }
}

impl Writer {
    fn send(&self, bytes: Bytes) {
        let mut inner = self.world.lock();
        let Some(direction) = inner.network.ways.get_mut(&self.way) else { return };
        if bytes.is_empty() && std::mem::replace(&mut direction.ended, true) {
            return;
        }
        direction.bytes += bytes.len();
        direction.held.push_back(bytes);
        inner.release(self.way);
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        {
            let mut inner = self.world.lock();
            let now = machine::precise().unwrap_or(inner.now);
            let is_reset = |way: &Direction| way.reset.is_some_and(|at| at <= now);
            if inner.network.ways.get(&(self.way ^ 1)).is_none_or(is_reset) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let Some(direction) = inner.network.ways.get_mut(&self.way) else {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            };
            if direction.ended {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if direction.bytes >= WINDOW_BYTES {
                direction.writer = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
        let length = bytes.len().min(WINDOW_BYTES);
        self.send(Bytes::copy_from_slice(&bytes[..length]));
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send(Bytes::new());
        Poll::Ready(Ok(()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.send(Bytes::new());
    }
}

impl Drop for Reader {
    /// What arrives for nobody is answered with a reset.
    fn drop(&mut self) {
        let mut inner = self.world.lock();
        let (now, way) = (machine::precise().unwrap_or(inner.now), self.way);
        let network = &mut inner.network;
        network.ways.remove(&way);
        // Both ends are gone.
        if network
            .ways
            .get(&(way ^ 1))
            .is_some_and(|other| other.ended && other.arriving.is_empty() && other.last <= now)
        {
            network.ways.remove(&(way ^ 1));
        }
    }
}
