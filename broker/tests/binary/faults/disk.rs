//! A file whose disk misbehaves on command: a file system of one file, served by this process through `/dev/fuse`.
//!
//! ```text
//!   broker ── pwrite, pread, fdatasync ──► kernel ── FUSE requests ──► this thread ──► bytes in memory
//! ```
//!
//! What was written counts as cached until a flush; [`FaultyFile::cut_power`] throws cached writes away, or keeps parts of
//! them, as a disk does that loses its power. The kernel's side of the protocol is `include/uapi/linux/fuse.h`; the root
//! of this file system is the file itself, so there are no names to look up.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::io::{Errno, FdFlags};

use crate::process::{run, wait_for};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const ENOSYS: i32 = 38;

/// The most that one request may write.
const WRITE_BYTES_MAX: u32 = 1 << 20;
const PAGE_BYTES: u32 = 4096;
const SECTOR_BYTES: usize = 512;

/// What goes wrong. Each says how often; `u64::MAX` is until [`FaultyFile::heal`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// Writes that fail with EIO, applied or not: nobody knows.
    pub failed_writes: u64,
    /// Writes that fail for want of space.
    pub full_writes: u64,
    /// Flushes that fail with EIO; what was cached stays cached.
    pub failed_flushes: u64,
    /// Reads that are spared before others fail.
    pub spared_reads: u64,
    /// Reads that fail with EIO.
    pub failed_reads: u64,
    /// Writes that stop in the middle, at a page.
    pub short_writes: u64,
    /// Reads that stop in the middle, at a page.
    pub short_reads: u64,
    /// Flushes that say that all is well and leave everything cached.
    pub lying_flushes: u64,
    /// Writes and flushes that are not answered before [`FaultyFile::heal`].
    pub hang: bool,
    /// Flushes that neither happen nor are answered before [`FaultyFile::heal`].
    pub held_flushes: bool,
}

/// What is left of cached writes when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    Lost,
    /// Some, some not, some torn between two sectors; a seed.
    Torn(u64),
}

/// Requests so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Served {
    pub writes: u64,
    pub flushes: u64,
    pub reads: u64,
    /// Requests that met a fault.
    pub struck: u64,
}

struct State {
    current: Vec<u8>,
    /// Without what is only cached.
    durable: Vec<u8>,
    /// Where cached writes went, oldest first.
    cached: Vec<(usize, usize)>,
    trouble: Trouble,
    served: Served,
    /// Answers that wait for `heal`.
    hanging: Vec<Vec<u8>>,
}

/// The file. Dropping it unmounts it.
pub struct FaultyFile {
    directory: tempfile::TempDir,
    fuse: File,
    state: Arc<Mutex<State>>,
}

impl FaultyFile {
    /// A file of zeroes.
    pub fn new(bytes: usize) -> FaultyFile {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("volume");
        File::create(&path).unwrap();
        let fuse = File::options().read(true).write(true).open("/dev/fuse").expect("root, and /dev/fuse");
        let state = Arc::new(Mutex::new(State {
            current: vec![0; bytes],
            durable: vec![0; bytes],
            cached: Vec::new(),
            trouble: Trouble::default(),
            served: Served::default(),
            hanging: Vec::new(),
        }));
        let options = format!("fd={},rootmode=100000,user_id=0,group_id=0", fuse.as_raw_fd());
        let mut mount = Command::new("mount");
        mount.args(["--internal-only", "-t", "fuse", "-o", &options, "ottla-test"]).arg(&path);
        // The mounting process has to have the descriptor as well.
        rustix::io::fcntl_setfd(&fuse, FdFlags::empty()).unwrap();
        run(&mut mount);
        rustix::io::fcntl_setfd(&fuse, FdFlags::CLOEXEC).unwrap();
        let (serving, requests) = (state.clone(), fuse.try_clone().unwrap());
        std::thread::spawn(move || serve(&serving, &requests));
        FaultyFile { directory, fuse, state }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("volume")
    }

    pub fn set(&self, trouble: Trouble) {
        self.state.lock().unwrap().trouble = trouble;
    }

    /// Ends all trouble; what hung is answered.
    pub fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        if std::mem::take(&mut state.trouble).held_flushes {
            make_durable(&mut state);
        }
        for answer in state.hanging.drain(..) {
            let _ = (&self.fuse).write(&answer);
        }
    }

    pub fn served(&self) -> Served {
        self.state.lock().unwrap().served
    }

    pub fn hanging(&self) -> usize {
        self.state.lock().unwrap().hanging.len()
    }

    /// Waits until a request hangs.
    pub fn wait_until_hanging(&self) {
        wait_for(|| match self.hanging() {
            0 => Err(format!("the trouble met nobody: {:?}", self.served())),
            _ => Ok(()),
        });
    }

    /// The power goes, and comes again. Returns how many bytes had been written and not flushed.
    pub fn cut_power(&self, cached: Cached) -> usize {
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        let mut random = StdRng::seed_from_u64(if let Cached::Torn(seed) = cached { seed } else { 0 });
        let mut unflushed = 0;
        for (at, bytes) in std::mem::take(&mut state.cached) {
            unflushed += bytes;
            let kept = match cached {
                Cached::Lost => 0,
                Cached::Torn(_) => match random.random_range(0..3) {
                    0 => 0,
                    1 => bytes,
                    _ => random.random_range(0..=bytes / SECTOR_BYTES) * SECTOR_BYTES,
                },
            };
            state.durable[at..at + kept].copy_from_slice(&state.current[at..at + kept]);
        }
        state.current.clone_from(&state.durable);
        unflushed
    }

    /// What a medium might do by itself.
    pub fn edit(&self, change: impl FnOnce(&mut [u8])) {
        let mut state = self.state.lock().unwrap();
        let state = &mut *state;
        change(&mut state.current);
        state.durable.clone_from(&state.current);
        state.cached.clear();
    }

    /// What is there now.
    pub fn bytes(&self) -> Vec<u8> {
        self.state.lock().unwrap().current.clone()
    }
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        self.heal();
        unmount(&self.path());
    }
}

fn unmount(path: &Path) {
    let _ = Command::new("umount").arg("--lazy").arg(path).status();
}

mod opcode {
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const INTERRUPT: u32 = 36;
    pub const BATCH_FORGET: u32 = 42;
}

/// Answers until the file system is unmounted.
fn serve(state: &Mutex<State>, mut fuse: &File) {
    let mut buffer = vec![0; (WRITE_BYTES_MAX + PAGE_BYTES) as usize];
    loop {
        let request = match fuse.read(&mut buffer) {
            Ok(bytes) => &buffer[..bytes],
            // The unmount.
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => return,
            // A request that was taken back before it was read.
            Err(_) => continue,
        };
        let unique = u64::from_ne_bytes(request[8..16].try_into().expect("eight bytes"));
        let mut state = state.lock().unwrap();
        let answer = match answer(&mut state, request) {
            Answer::Nothing => continue,
            Answer::Ok(body) => envelope(unique, 0, &body),
            Answer::Late(body) => {
                state.hanging.push(envelope(unique, 0, &body));
                continue;
            }
            Answer::Error(error) => envelope(unique, -error, &[]),
        };
        // An answer to a process that is gone has nobody to take it.
        let _ = fuse.write(&answer);
    }
}

enum Answer {
    Nothing,
    Ok(Vec<u8>),
    /// The same, once the trouble is over.
    Late(Vec<u8>),
    Error(i32),
}

fn envelope(unique: u64, error: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + body.len());
    bytes.extend((16 + body.len() as u32).to_ne_bytes());
    bytes.extend(error.to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(body);
    bytes
}

fn answer(state: &mut State, request: &[u8]) -> Answer {
    let u32_at = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().expect("eight bytes"));
    match u32_at(4) {
        opcode::INIT => {
            let mut body = Vec::new();
            // Version 7.31, the client's read-ahead, and of its flags: parallel reads, large writes, many pages.
            let flags = u32_at(52) & (1 | 1 << 5 | 1 << 22);
            for word in [7, 31, u32_at(48), flags] {
                body.extend(u32::to_ne_bytes(word));
            }
            body.extend(16u16.to_ne_bytes());
            body.extend(12u16.to_ne_bytes());
            body.extend(WRITE_BYTES_MAX.to_ne_bytes());
            body.extend(1u32.to_ne_bytes());
            body.extend(((WRITE_BYTES_MAX / PAGE_BYTES) as u16).to_ne_bytes());
            body.resize(64, 0);
            Answer::Ok(body)
        }
        opcode::GETATTR | opcode::SETATTR => Answer::Ok(attributes(state.current.len())),
        opcode::OPEN => {
            let mut body = 1u64.to_ne_bytes().to_vec();
            // FOPEN_DIRECT_IO: no page cache, every call comes here.
            body.extend(1u32.to_ne_bytes());
            body.extend(0u32.to_ne_bytes());
            Answer::Ok(body)
        }
        opcode::READ => read(state, u64_at(48) as usize, u32_at(56) as usize),
        opcode::WRITE => write(state, u64_at(48) as usize, &request[80..80 + u32_at(56) as usize]),
        opcode::FSYNC => flush(state),
        opcode::FLUSH | opcode::RELEASE => Answer::Ok(Vec::new()),
        opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => Answer::Nothing,
        _ => Answer::Error(ENOSYS),
    }
}

fn attributes(size: usize) -> Vec<u8> {
    let mut body = vec![0; 16];
    for word in [1, size as u64, size as u64 / 512, 0, 0, 0] {
        body.extend(u64::to_ne_bytes(word));
    }
    // Three parts of times; mode, links, user, group, device, block, flags.
    for word in [0, 0, 0, 0o100_600, 1, 0, 0, 0, PAGE_BYTES, 0] {
        body.extend(u32::to_ne_bytes(word));
    }
    body
}

fn read(state: &mut State, at: usize, bytes: usize) -> Answer {
    state.served.reads += 1;
    if !take(&mut state.trouble.spared_reads) && take(&mut state.trouble.failed_reads) {
        state.served.struck += 1;
        return Answer::Error(EIO);
    }
    let mut end = (at + bytes).min(state.current.len());
    if bytes > PAGE_BYTES as usize && take(&mut state.trouble.short_reads) {
        state.served.struck += 1;
        end = end.min(at + PAGE_BYTES as usize);
    }
    Answer::Ok(state.current.get(at..end).unwrap_or_default().to_vec())
}

fn write(state: &mut State, at: usize, bytes: &[u8]) -> Answer {
    state.served.writes += 1;
    let mut bytes = bytes;
    if take(&mut state.trouble.full_writes) {
        state.served.struck += 1;
        return Answer::Error(ENOSPC);
    }
    if take(&mut state.trouble.failed_writes) {
        state.served.struck += 1;
        return Answer::Error(EIO);
    }
    if bytes.len() > PAGE_BYTES as usize && take(&mut state.trouble.short_writes) {
        state.served.struck += 1;
        bytes = &bytes[..PAGE_BYTES as usize];
    }
    let Some(place) = state.current.get_mut(at..at + bytes.len()) else { return Answer::Error(ENOSPC) };
    place.copy_from_slice(bytes);
    state.cached.push((at, bytes.len()));
    let mut body = (bytes.len() as u32).to_ne_bytes().to_vec();
    body.extend([0; 4]);
    late_if_hanging(state, body)
}

fn flush(state: &mut State) -> Answer {
    state.served.flushes += 1;
    if take(&mut state.trouble.failed_flushes) {
        state.served.struck += 1;
        return Answer::Error(EIO);
    }
    if take(&mut state.trouble.lying_flushes) {
        state.served.struck += 1;
        return Answer::Ok(Vec::new());
    }
    if state.trouble.held_flushes {
        state.served.struck += 1;
        return Answer::Late(Vec::new());
    }
    make_durable(state);
    late_if_hanging(state, Vec::new())
}

fn make_durable(state: &mut State) {
    for (at, bytes) in state.cached.drain(..) {
        state.durable[at..at + bytes].copy_from_slice(&state.current[at..at + bytes]);
    }
}

fn late_if_hanging(state: &mut State, body: Vec<u8>) -> Answer {
    if state.trouble.hang {
        state.served.struck += 1;
        return Answer::Late(body);
    }
    Answer::Ok(body)
}

/// Whether there is one left, which is then used up.
fn take(left: &mut u64) -> bool {
    let any = *left > 0;
    if *left != u64::MAX {
        *left = left.saturating_sub(1);
    }
    any
}
