//! A machine, and the life of a process on it.
//!
//! Each process is a runtime of its own, on one thread, with a clock that stands still unless it is [run](Process::run_until).
//! Whatever the process starts lives in that runtime. So the faults of machines are what is done to a runtime:
//!
//! | fault | the runtime |
//! |---|---|
//! | kill -9 | is never run again; its connections are reset |
//! | power cut | the same, and nobody is told |
//! | SIGSTOP, a suspended host | is not run for a while; then its timers find that it is late |
//! | a clock that goes wrong | is run for longer or less long than the world's step |

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, LocalBoxFuture};
use host::simulated::{self, Found, Machine, Volume};
use object_store::ObjectStore;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::device;
use crate::net;
use crate::os;
use crate::store::Client;
use crate::world::{Clock, EPOCH, MachineId, World};

thread_local! {
    /// Of the process that runs now: where its clock began, and when that was.
    static RUNNING: Cell<Option<(Instant, Duration, f64)>> = const { Cell::new(None) };
}

/// The world's time as the process that runs now has it; `None` between processes.
pub fn precise() -> Option<Duration> {
    let (origin, began, rate) = RUNNING.get()?;
    Some(began + Instant::now().saturating_duration_since(origin).div_f64(rate))
}

/// Which process of which machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    pub machine: MachineId,
    pub number: u64,
}

/// What the code of a process sees.
pub struct Simulated {
    pub world: World,
    pub life: Life,
}

impl fmt::Debug for Simulated {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "machine {}", self.life.machine)
    }
}

pub fn address(machine: MachineId) -> IpAddr {
    IpAddr::from([10, 0, 0, machine as u8 + 1])
}

pub fn machine_at(ip: IpAddr) -> Option<MachineId> {
    match ip {
        IpAddr::V4(ip) if ip.octets()[..3] == [10, 0, 0] => (ip.octets()[3] as usize).checked_sub(1),
        _ => None,
    }
}

impl Simulated {
    fn clock(&self) -> (Duration, Clock) {
        let now = precise();
        let inner = self.world.lock();
        (now.unwrap_or(inner.now), inner.clocks[self.life.machine])
    }
}

fn wall(now: Duration, clock: Clock) -> Duration {
    let wall_ms = (EPOCH + now).as_millis() as i64 + clock.wall_offset_ms;
    Duration::from_millis(wall_ms.max(0) as u64)
}

/// Boot time begins somewhere else on each machine.
fn boottime(now: Duration, machine: MachineId, clock: Clock) -> Duration {
    Duration::from_secs(1_000 * (machine as u64 + 1)) + now.mul_f64(clock.rate)
}

impl Machine for Simulated {
    fn id(&self) -> String {
        format!("machine-{}", self.life.machine)
    }

    fn boot(&self) -> String {
        format!("boot-{}-{:06}", self.life.machine, self.world.lock().boots[self.life.machine])
    }

    fn boottime(&self) -> Duration {
        let (now, clock) = self.clock();
        boottime(now, self.life.machine, clock)
    }

    fn wall(&self) -> Duration {
        let (now, clock) = self.clock();
        wall(now, clock)
    }

    fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let ip: IpAddr = host.parse().map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(vec![SocketAddr::new(ip, port)])
    }

    fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn simulated::Listener>> {
        net::listen(&self.world, self.life, address)
    }

    fn connect(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<simulated::Stream>> {
        let (world, life, address) = (self.world.clone(), self.life, self.lookup(host, port));
        Box::pin(async move { net::connect(world, life, address?[0]).await })
    }

    fn store(&self, timeout: Duration) -> Arc<dyn ObjectStore> {
        Arc::new(Client::new(self.world.clone(), self.life, timeout))
    }

    fn thread(&self, body: Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>) {
        drop(tokio::spawn(Here(body())));
    }

    fn look(&self, path: &Path) -> Option<Found> {
        self.world.lock().disks.look(self.life.machine, path)
    }

    fn volume(&self, path: &Path, own: bool) -> io::Result<Arc<dyn Volume>> {
        device::open(&self.world, self.life, path, own)
    }

    fn is_unlocked(&self, path: &Path) -> io::Result<bool> {
        self.world.lock().disks.is_unlocked(self.life.machine, path)
    }

    fn attach(&self, uri: &str) -> BoxFuture<'static, io::Result<Option<PathBuf>>> {
        let (world, machine) = (self.world.clone(), self.life.machine);
        let path = uri.strip_prefix("block://").unwrap_or(uri).split('?').next().unwrap_or_default();
        let path = PathBuf::from(path);
        let time = {
            let mut inner = world.lock();
            let most = Duration::from_millis(if inner.chance(0.7) { 100 } else { 3_000 });
            inner.between(Duration::from_millis(10), most)
        };
        Box::pin(async move {
            tokio::time::sleep(time).await;
            let mut inner = world.lock();
            if inner.disks.attach(machine, &path) {
                inner.note(format_args!("{} is attached to machine {machine}", path.display()));
                Ok(None)
            } else {
                Err(io::Error::other("there is no such volume"))
            }
        })
    }
}

/// A process has one thread, and what it runs never leaves it.
struct Here(LocalBoxFuture<'static, ()>);

// SAFETY: it is made on the thread that the simulation runs on, which is the only one that ever polls it: each runtime is a
// `current_thread` one, run by `Process::run_until` alone, and no process is handed to another thread.
unsafe impl Send for Here {}

impl Future for Here {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(context)
    }
}

/// A process: until it is dropped it is alive, or stopped.
pub struct Process {
    runtime: Option<Runtime>,
    /// Until it has ended.
    main: Option<LocalBoxFuture<'static, ()>>,
    machine: Arc<Simulated>,
    origin: Instant,
    began: Duration,
    rate: f64,
}

impl Process {
    /// Starts `main` on a machine; it does its first step when it is run.
    pub fn start(world: &World, life: Life, main: impl Future<Output = ()> + 'static) -> Process {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing");
        let origin = runtime.block_on(async { Instant::now() });
        let (began, rate) = {
            let inner = world.lock();
            (inner.now, inner.clocks[life.machine].rate)
        };
        let machine = Arc::new(Simulated { world: world.clone(), life });
        Process { runtime: Some(runtime), main: Some(Box::pin(main)), machine, origin, began, rate }
    }

    /// One more task of it.
    pub fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.within(|runtime| drop(runtime.spawn(task)));
    }

    pub fn life(&self) -> Life {
        self.machine.life
    }

    /// Runs it until the world's time is `until`. What was missed since the last time is made up for at once.
    pub fn run_until(&mut self, from: Duration, until: Duration) {
        let local = |time: Duration| self.origin + (time - self.began).mul_f64(self.rate);
        let (from, until) = (local(from), local(until));
        let mut main = self.main.take();
        self.within(|runtime| {
            runtime.block_on(async {
                let late = from.saturating_duration_since(Instant::now());
                if late > Duration::from_millis(1) {
                    tokio::time::advance(late).await;
                }
                let end = tokio::time::sleep_until(until);
                tokio::pin!(end);
                if let Some(running) = &mut main {
                    tokio::select! {
                        biased;
                        () = running => main = None,
                        () = &mut end => return,
                    }
                }
                end.await;
            });
        });
        self.main = main;
    }

    /// Does something as if it came from within.
    fn within<T>(&self, run: impl FnOnce(&Runtime) -> T) -> T {
        let Life { machine, .. } = self.machine.life;
        let (now, clock) = {
            let inner = self.machine.world.lock();
            (inner.now, inner.clocks[machine])
        };
        os::set_clocks(boottime(now, machine, clock), wall(now, clock));
        let outside = simulated::enter(Some(self.machine.clone()));
        RUNNING.set(Some((self.origin, self.began, self.rate)));
        let done = run(self.runtime.as_ref().expect("it is there until the process is dropped"));
        RUNNING.set(None);
        simulated::enter(outside);
        done
    }
}

impl Drop for Process {
    /// Nothing of it runs on, not even what it does when it is dropped: this is kill -9.
    fn drop(&mut self) {
        std::mem::forget(self.main.take());
        std::mem::forget(self.runtime.take());
    }
}

/// Runs a future to its end by its own clock, apart from the world: for what looks at the bucket when all is over.
pub fn apart<T>(world: &World, life: Life, future: impl Future<Output = T>) -> T {
    let process = Process::start(world, life, async {});
    process.within(|runtime| runtime.block_on(future))
}
