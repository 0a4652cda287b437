//! What the WAL's writes could be made of: durable direct writes to a preallocated file, several in flight.

use std::alloc::{Layout, alloc_zeroed};
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use io_uring::squeue::Flags;
use io_uring::{IoUring, opcode, types};
use rustix::io::ReadWriteFlags;
use serde_json::json;
use wal::uri::ByteSize;

use crate::latency::Latencies;

#[derive(Args)]
pub struct Options {
    /// A file, which is made and deleted
    #[arg(long)]
    path: PathBuf,
    #[arg(long, default_value = "256MiB")]
    capacity: ByteSize,
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "threads-flush,threads-dsync,uring-flush,uring-dsync"
    )]
    engine: Vec<Engine>,
    /// Writes in flight, a run for each
    #[arg(long, value_delimiter = ',', default_value = "1,4")]
    depth: Vec<usize>,
    /// Bytes of a write, a multiple of 4096; a run for each
    #[arg(long, value_delimiter = ',', default_value = "4096,65536,1048576")]
    bytes: Vec<usize>,
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Engine {
    /// pwrite, then fdatasync, on a thread for each write in flight
    ThreadsFlush,
    /// pwritev2 with RWF_DSYNC, on a thread for each write in flight
    ThreadsDsync,
    /// A write linked to an fdatasync, on one ring
    UringFlush,
    /// A write with RWF_DSYNC, on one ring
    UringDsync,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32)
        .open(&options.path)?;
    let zeroes = aligned(1 << 20);
    for offset in (0..options.capacity.0).step_by(zeroes.len()) {
        rustix::io::pwrite(&file, zeroes, offset)?;
    }
    file.sync_all()?;
    for &bytes in &options.bytes {
        for &depth in &options.depth {
            for &engine in &options.engine {
                let run = Run {
                    file: &file,
                    bytes,
                    depth,
                    places: options.capacity.0 / bytes as u64,
                    next: AtomicU64::new(0),
                    until: Instant::now() + Duration::from_secs(options.seconds),
                };
                let latencies = match engine {
                    Engine::ThreadsFlush => run.threads(ReadWriteFlags::empty())?,
                    Engine::ThreadsDsync => run.threads(ReadWriteFlags::DSYNC)?,
                    Engine::UringFlush => run.uring(false)?,
                    Engine::UringDsync => run.uring(true)?,
                };
                let writes = latencies.len() as f64 / options.seconds as f64;
                let line = json!({
                    "bench": "device", "engine": format!("{engine:?}"), "depth": depth, "bytes": bytes,
                    "writes_per_second": writes as u64, "mb_per_second": (writes * bytes as f64 / 1e6) as u64,
                    "latency": latencies.summary(),
                });
                println!("{line}");
            }
        }
    }
    std::fs::remove_file(&options.path)?;
    Ok(())
}

struct Run<'a> {
    file: &'a File,
    bytes: usize,
    depth: usize,
    places: u64,
    next: AtomicU64,
    until: Instant,
}

impl Run<'_> {
    /// The ring's next place.
    fn offset(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) % self.places * self.bytes as u64
    }

    fn threads(&self, flags: ReadWriteFlags) -> anyhow::Result<Latencies> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.depth).map(|_| scope.spawn(|| self.thread(flags))).collect();
            let mut all = Latencies::default();
            for thread in threads {
                all.merge(thread.join().expect("a benchmark's thread")?);
            }
            Ok(all)
        })
    }

    fn thread(&self, flags: ReadWriteFlags) -> anyhow::Result<Latencies> {
        let buffer = aligned(self.bytes);
        let mut latencies = Latencies::default();
        while Instant::now() < self.until {
            let began = Instant::now();
            let written = rustix::io::pwritev2(self.file, &[IoSlice::new(buffer)], self.offset(), flags)?;
            anyhow::ensure!(written == self.bytes, "short write");
            if flags.is_empty() {
                rustix::fs::fdatasync(self.file)?;
            }
            latencies.record(began.elapsed());
        }
        Ok(latencies)
    }

    fn uring(&self, dsync: bool) -> anyhow::Result<Latencies> {
        let mut ring: IoUring = IoUring::builder().setup_single_issuer().setup_coop_taskrun().build(128)?;
        let buffer = aligned(self.bytes);
        let mut began = vec![Instant::now(); self.depth];
        let mut free: Vec<usize> = (0..self.depth).collect();
        let mut latencies = Latencies::default();
        while Instant::now() < self.until || free.len() < self.depth {
            while Instant::now() < self.until
                && let Some(slot) = free.pop()
            {
                began[slot] = Instant::now();
                let file = types::Fd(self.file.as_raw_fd());
                let write =
                    opcode::Write::new(file, buffer.as_ptr(), self.bytes as u32).offset(self.offset());
                // SAFETY: the buffer lives as long as the process, the file longer than the ring.
                unsafe {
                    if dsync {
                        let flags = ReadWriteFlags::DSYNC.bits() as i32;
                        ring.submission().push(&write.rw_flags(flags).build().user_data(slot as u64))?;
                    } else {
                        ring.submission().push(&write.build().flags(Flags::IO_LINK).user_data(u64::MAX))?;
                        let flush = opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC);
                        ring.submission().push(&flush.build().user_data(slot as u64))?;
                    }
                }
            }
            ring.submit_and_wait(1)?;
            for completion in ring.completion() {
                anyhow::ensure!(completion.result() >= 0, "error {}", completion.result());
                if completion.user_data() != u64::MAX {
                    latencies.record(began[completion.user_data() as usize].elapsed());
                    free.push(completion.user_data() as usize);
                }
            }
        }
        Ok(latencies)
    }
}

/// Zeroes that direct I/O takes. Kept for the life of the process.
fn aligned(bytes: usize) -> &'static [u8] {
    let layout = Layout::from_size_align(bytes.max(4096), 4096).expect("a sane size");
    // SAFETY: the size is not zero, the memory is zeroed and never freed.
    unsafe {
        let start = alloc_zeroed(layout);
        assert!(!start.is_null(), "out of memory");
        std::slice::from_raw_parts(start, bytes)
    }
}
