//! A disk that breaks on demand, and the harness that puts the block WAL on it.
//!
//! A [`Disk`] outlives processes. A [`Process`] is one process's way to it; after a crash its accesses fail, as those of a
//! dead process cannot happen. Faults apply to the ring; superblock writes go through, except where said.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;
use wal::block::device::Device;
use wal::block::{BlockMedium, Config};
use wal::conformance::{Fault, Harness, InFlight, Subject};
use wal::{Medium, Uri};

/// Where the ring begins, by `docs/formats/wal-block.md`.
pub const RING_OFFSET: u64 = 131_072;
pub const CLUSTER: Uuid = Uuid::from_u128(0xc1);
/// The smallest volume: a ring of 1 MiB.
pub const VOLUME_BYTES: u64 = RING_OFFSET + (1 << 20);

pub fn uri() -> Uri {
    Uri("block:///test/volume".into())
}

/// Small, so that frames, laps and windows come round often.
pub fn config() -> Config {
    Config {
        frame_bytes_max: 64 << 10,
        frame_bytes_target: 16 << 10,
        in_flight_bytes_max: 96 << 10,
        gather_bytes: 1,
        pending_bytes_max: 256 << 10,
        ..Config::default()
    }
}

#[derive(Debug)]
pub struct Disk {
    inner: Box<dyn Device>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Which process may still do something.
    generation: u64,
    holding: bool,
    holding_superblocks: bool,
    superblock_writes: usize,
    lying: bool,
    fail_write: bool,
    fail_flush: bool,
    fail_reads_at: Option<u64>,
    next_id: u64,
    held: Vec<Held>,
    /// Reported durable, but only cached.
    volatile: Vec<(Vec<u8>, u64)>,
}

#[derive(Debug)]
struct Held {
    id: u64,
    bytes: Vec<u8>,
    offset: u64,
}

impl Disk {
    pub fn new(inner: impl Device) -> Arc<Disk> {
        Arc::new(Disk { inner: Box::new(inner), state: Mutex::default(), changed: Condvar::new() })
    }

    pub fn in_memory() -> Arc<Disk> {
        Disk::sized(VOLUME_BYTES)
    }

    pub fn sized(bytes: u64) -> Arc<Disk> {
        Disk::new(MemoryDevice(Mutex::new(vec![0; bytes as usize])))
    }

    /// The disk as a process sees it that starts now.
    pub fn process(self: &Arc<Disk>) -> Arc<Process> {
        Arc::new(Process { disk: self.clone(), generation: self.state.lock().generation })
    }

    pub fn medium(self: &Arc<Disk>) -> Result<BlockMedium, wal::Error> {
        BlockMedium::on_device(self.process(), uri(), CLUSTER, config())
    }

    /// Changes bytes behind everybody's back.
    pub fn edit(&self, offset: u64, bytes: usize, edit: impl FnOnce(&mut [u8])) {
        let block = self.inner.block_bytes() as u64;
        let start = offset / block * block;
        let mut buffer = Aligned::new(((offset + bytes as u64).next_multiple_of(block) - start) as usize);
        let at = (offset - start) as usize;
        self.inner.read(buffer.slice(), start).unwrap();
        edit(&mut buffer.slice()[at..at + bytes]);
        self.inner.write_durable(buffer.slice(), start).unwrap();
    }

    pub fn bytes(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let mut copy = Vec::new();
        self.edit(offset, bytes, |bytes| copy = bytes.to_vec());
        copy
    }

    /// Reads of the block at `offset` fail.
    pub fn fail_reads_at(&self, offset: Option<u64>) {
        self.state.lock().fail_reads_at = offset;
    }

    pub fn fail_flush(&self) {
        self.state.lock().fail_flush = true;
    }

    pub fn hold(&self) {
        self.state.lock().holding = true;
    }

    /// From here on superblock writes do not complete either.
    pub fn hold_superblocks(&self) {
        self.state.lock().holding_superblocks = true;
    }

    pub fn superblock_writes(&self) -> usize {
        self.state.lock().superblock_writes
    }

    pub fn held(&self) -> usize {
        self.state.lock().held.len()
    }

    pub fn complete(&self, nth: usize) {
        let mut state = self.state.lock();
        state.held.sort_by_key(|held| held.id);
        let held = state.held.remove(nth);
        self.put(&held.bytes, held.offset);
        drop(state);
        self.changed.notify_all();
    }

    pub fn resume(&self) {
        let mut state = self.state.lock();
        state.holding = false;
        state.holding_superblocks = false;
        for held in state.held.drain(..) {
            self.put(&held.bytes, held.offset);
        }
        drop(state);
        self.changed.notify_all();
    }

    pub fn crash(&self, in_flight: InFlight) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.held.sort_by_key(|held| held.id);
        let held = std::mem::take(&mut state.held).into_iter().map(|held| (held.bytes, held.offset));
        let cached = std::mem::take(&mut state.volatile);
        let mut random = StdRng::seed_from_u64(if let InFlight::Some(seed) = in_flight { seed } else { 0 });
        for (bytes, offset) in held.chain(cached) {
            let kept = match in_flight {
                InFlight::Lost => 0,
                InFlight::Kept => bytes.len(),
                InFlight::Some(_) => match random.random_range(0..3) {
                    0 => 0,
                    1 => bytes.len(),
                    // Torn between two sectors.
                    _ => random.random_range(0..bytes.len() / 512) * 512,
                },
            };
            if kept > 0 {
                self.edit(offset, kept, |on_disk| on_disk.copy_from_slice(&bytes[..kept]));
            }
        }
        *state = State { generation: state.generation, next_id: state.next_id, ..State::default() };
        drop(state);
        self.changed.notify_all();
    }

    fn put(&self, bytes: &[u8], offset: u64) {
        self.edit(offset, bytes.len(), |on_disk| on_disk.copy_from_slice(bytes));
    }
}

/// One process's way to the disk.
#[derive(Debug)]
pub struct Process {
    disk: Arc<Disk>,
    generation: u64,
}

impl Device for Process {
    fn block_bytes(&self) -> usize {
        self.disk.inner.block_bytes()
    }

    fn size_bytes(&self) -> u64 {
        self.disk.inner.size_bytes()
    }

    fn is_direct(&self) -> bool {
        self.disk.inner.is_direct()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.state.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("this process is dead"));
        }
        if state.fail_reads_at.is_some_and(|at| (offset..offset + buffer.len() as u64).contains(&at)) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.disk.inner.read(buffer, offset)
    }

    fn write_durable(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("this process is dead"));
        }
        if offset < RING_OFFSET {
            state.superblock_writes += 1;
            if !state.holding_superblocks {
                return self.disk.inner.write_durable(bytes, offset);
            }
            return self.wait_in_flight(state, bytes, offset);
        }
        if std::mem::take(&mut state.fail_write) {
            return Err(io::Error::from_raw_os_error(5));
        }
        if std::mem::take(&mut state.fail_flush) {
            self.disk.inner.write_durable(bytes, offset)?;
            return Err(io::Error::from_raw_os_error(5));
        }
        if state.lying {
            state.volatile.push((bytes.to_vec(), offset));
            return Ok(());
        }
        if !state.holding {
            return self.disk.inner.write_durable(bytes, offset);
        }
        self.wait_in_flight(state, bytes, offset)
    }
}

impl Process {
    /// The write is under way until somebody completes it, or the process dies.
    fn wait_in_flight(&self, mut state: MutexGuard<'_, State>, bytes: &[u8], offset: u64) -> io::Result<()> {
        let id = state.next_id;
        state.next_id += 1;
        state.held.push(Held { id, bytes: bytes.to_vec(), offset });
        while state.generation == self.generation && state.held.iter().any(|held| held.id == id) {
            self.disk.changed.wait(&mut state);
        }
        if state.generation == self.generation {
            Ok(())
        } else {
            Err(io::Error::other("this process is dead"))
        }
    }
}

#[derive(Debug)]
struct MemoryDevice(Mutex<Vec<u8>>);

impl Device for MemoryDevice {
    fn block_bytes(&self) -> usize {
        4096
    }

    fn size_bytes(&self) -> u64 {
        self.0.lock().len() as u64
    }

    fn is_direct(&self) -> bool {
        true
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.0.lock();
        buffer.copy_from_slice(&bytes[offset as usize..offset as usize + buffer.len()]);
        Ok(())
    }

    fn write_durable(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.lock()[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// Memory that O_DIRECT takes: a part of a larger allocation.
struct Aligned {
    memory: Vec<u8>,
    at: usize,
    bytes: usize,
}

impl Aligned {
    fn new(bytes: usize) -> Aligned {
        let memory = vec![0; bytes + 65_536];
        let at = memory.as_ptr().align_offset(65_536);
        Aligned { memory, at, bytes }
    }

    fn slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.at..self.at + self.bytes]
    }
}

/// The suite's harness: `make` brings a blank disk.
pub struct OnDisk<F> {
    pub make: F,
    pub model_seeds: u64,
}

#[async_trait]
impl<F: Fn() -> Arc<Disk> + Send + Sync> Harness for OnDisk<F> {
    async fn fresh(&self) -> Arc<dyn Subject> {
        let disk = (self.make)();
        // A volume is formatted before the metadata log hears of its first owner.
        drop(disk.medium().unwrap());
        Arc::new(DiskSubject(disk))
    }

    fn model_seeds(&self) -> u64 {
        self.model_seeds
    }
}

struct DiskSubject(Arc<Disk>);

#[async_trait]
impl Subject for DiskSubject {
    fn supports(&self, fault: Fault) -> bool {
        fault != Fault::Seals
    }

    async fn medium(&self) -> Arc<dyn Medium> {
        Arc::new(self.0.medium().unwrap())
    }

    async fn crash(&self, in_flight: InFlight) {
        self.0.crash(in_flight);
    }

    fn record_bytes_max(&self) -> usize {
        config().frame_bytes_max - 80
    }

    fn hold(&self) {
        self.0.hold();
    }

    fn held(&self) -> usize {
        self.0.held()
    }

    fn complete(&self, nth: usize) {
        self.0.complete(nth);
    }

    fn resume(&self) {
        self.0.resume();
    }

    fn fail_next_write(&self) {
        self.0.state.lock().fail_write = true;
    }

    fn fail_next_flush(&self) {
        self.0.fail_flush();
    }

    fn lie(&self, lying: bool) {
        self.0.state.lock().lying = lying;
    }
}
