//! A volume that is made once and opened again for each run, so that no run pays for blocks that were never written.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ::wal::block::device::{Access, Device, FileDevice};
use ::wal::block::{BlockMedium, Config};
use ::wal::uri::ByteSize;
use ::wal::{AckRight, Incarnation, Medium, Uri, Vacated, Wal};
use anyhow::Context;
use uuid::Uuid;

use super::{Done, Loops};
use crate::cpu;
use crate::latency::Latencies;

/// Where the device's own writes begin: behind the superblocks, so that the next log finds them.
const DATA_OFFSET: u64 = 1 << 20;
/// Of memory, for direct I/O.
const ALIGNMENT: usize = 4096;
/// No file takes longer to fill with zeroes.
const ZEROING_MAX: Duration = Duration::from_secs(600);

/// A file that is deleted in the end, or a block device.
#[derive(Debug)]
pub struct Volume {
    path: PathBuf,
    capacity: u64,
    is_file: bool,
    epoch: u64,
}

impl Volume {
    /// Makes the file, filled with zeroes; a block device is taken as it is.
    pub fn make(path: &Path, capacity: ByteSize) -> anyhow::Result<Volume> {
        let path = std::path::absolute(path)?;
        let is_file = !path.exists();
        anyhow::ensure!(
            is_file || !path.is_file(),
            "{} is there already; name a file that is not",
            path.display()
        );
        // Later than that of any run before on the same device.
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
        let volume = Volume { path, capacity: capacity.0, is_file, epoch };
        volume.device()?;
        Ok(volume)
    }

    /// The device without a log.
    fn device(&self) -> anyhow::Result<FileDevice> {
        let capacity = self.is_file.then_some(self.capacity);
        Ok(FileDevice::open(&self.path, Access::Own { capacity, zeroing_max: ZEROING_MAX })?)
    }

    /// An empty log under the next epoch, and what counts its writes.
    pub async fn open(&mut self, config: &Config) -> anyhow::Result<(Arc<dyn Wal>, Arc<Counting>)> {
        self.epoch += 1;
        let device = Arc::new(Counting {
            device: self.device()?,
            writes: AtomicU64::new(0),
            written: AtomicU64::new(0),
        });
        let uri = Uri::block(&self.path, None)?;
        let medium = BlockMedium::on_device(device.clone(), uri, Uuid::nil(), config.clone())?;
        let owner = Incarnation { broker: 1, epoch: self.epoch };
        let wal = medium
            .open(owner, Vacated::nothing_left(), Arc::new(AckRight::unlimited()))
            .await
            .with_context(|| format!("opening {}", self.path.display()))?;
        Ok((wal, device))
    }

    /// The loops on the device itself: each writer on a thread of its own, through the WAL's device layer, at the next
    /// place of the ring.
    pub fn write_directly(&self, loops: Loops) -> anyhow::Result<Done> {
        let device = self.device()?;
        let places = (device.size_bytes() - DATA_OFFSET) / loops.bytes as u64;
        let next = AtomicU64::new(0);
        let cpu = cpu::own_seconds();
        let began = Instant::now();
        let until = began + loops.duration;
        let thread = || -> io::Result<Latencies> {
            let memory = vec![0x5a; loops.bytes + ALIGNMENT];
            let start = memory.as_ptr().align_offset(ALIGNMENT);
            let buffer = &memory[start..start + loops.bytes];
            let mut latencies = Latencies::default();
            while Instant::now() < until {
                let place = next.fetch_add(1, Ordering::Relaxed) % places;
                let began = Instant::now();
                device.write_durable(buffer, DATA_OFFSET + place * loops.bytes as u64)?;
                latencies.record(began.elapsed());
            }
            Ok(latencies)
        };
        let latencies = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..loops.writers).map(|_| scope.spawn(thread)).collect();
            let mut all = Latencies::default();
            for thread in threads {
                all.merge(thread.join().expect("a benchmark's thread")?);
            }
            io::Result::Ok(all)
        })?;
        let seconds = began.elapsed().as_secs_f64();
        let (writes, written) = (latencies.len() as u64, (latencies.len() * loops.bytes) as u64);
        let cpu_seconds = cpu::own_seconds() - cpu;
        Ok(Done { seconds, cpu_seconds, latencies, bytes: written, writes, written })
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.is_file {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Counts what the log writes, superblocks included.
#[derive(Debug)]
pub struct Counting {
    device: FileDevice,
    writes: AtomicU64,
    written: AtomicU64,
}

impl Counting {
    /// Writes, and their bytes, so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.writes.load(Ordering::Relaxed), self.written.load(Ordering::Relaxed))
    }
}

impl Device for Counting {
    fn block_bytes(&self) -> usize {
        self.device.block_bytes()
    }

    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn writes_max(&self) -> usize {
        self.device.writes_max()
    }

    fn is_direct(&self) -> bool {
        self.device.is_direct()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.device.read(buffer, offset)
    }

    fn write_durable(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.device.write_durable(bytes, offset)?;
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}
