//! A device of blocks, and the two that there are: a raw block device and a preallocated file.
//!
//! [`Device`] is the boundary at which faults are injected. Every call blocks, on threads of its own, never on the
//! runtime's.
//!
//! # Durability
//!
//! A write is durable by FUA where the device has it (`pwritev2` with `RWF_DSYNC`, which the kernel turns into FUA on its
//! own), and otherwise by a write and an `fdatasync` that begins after it. Both are durable on every device; which one is
//! cheaper is read from the device's queue in sysfs, and `fdatasync` is the answer where that is not found.
//! A flush covers the writes of its own caller only: errors of a flush are reported once per descriptor, so one that
//! another thread's flush swallowed must not count as a success here. With O_DIRECT a write reports its own error, and
//! without it one write is under way at a time.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::FutureExt;
#[cfg(feature = "simulated")]
use futures::future::BoxFuture;
#[cfg(feature = "simulated")]
use host::simulated;
use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, OFlags, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::aligned::AlignedBuffer;
use super::{BLOCK_BYTES_MAX, BLOCK_BYTES_MIN};
use crate::Error;

/// Blocks that can be read, written and flushed. Offsets, lengths and memory are aligned to
/// [`block_bytes`](Device::block_bytes).
pub trait Device: Send + Sync + fmt::Debug + 'static {
    /// The alignment of every access, a power of two from 4096 to 65536.
    fn block_bytes(&self) -> usize;

    fn size_bytes(&self) -> u64;

    /// How many writes may be under way at once.
    fn writes_max(&self) -> usize {
        usize::MAX
    }

    /// Whether a read gives what is on the device now, whoever wrote it, and never what this host remembers of an earlier one.
    fn is_direct(&self) -> bool;

    /// Fills `buffer`, or fails.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes`; durable when it returns. After an error nothing is known about the range.
    fn write_durable(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// The same where it takes simulated time; `None` on a device that blocks.
    #[cfg(feature = "simulated")]
    fn write_simulated<'a>(
        &'a self,
        _bytes: &'a [u8],
        _offset: u64,
    ) -> Option<BoxFuture<'a, io::Result<()>>> {
        None
    }
}

/// The id that a device has of its own, the same on every host that reaches it, if it has one: sysfs knows it as `wwid`, from
/// a SCSI device's identification page or an NVMe namespace's UUID, NGUID, EUI-64 or serial number.
pub fn identity(path: &Path) -> Option<String> {
    #[cfg(feature = "simulated")]
    if simulated::current().is_some() {
        return None;
    }
    let found = std::fs::metadata(path).ok().filter(|found| found.file_type().is_block_device())?;
    let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // A part of a device would be told from its other parts by more than that.
    if device.join("partition").exists() {
        return None;
    }
    let read = |name: &str| std::fs::read_to_string(device.join(name)).ok();
    let id = read("wwid").or_else(|| read("device/wwid"))?;
    Some(id.trim().chars().take(IDENTITY_CHARS_MAX).collect()).filter(|id: &String| !id.is_empty())
}

/// Of a device's id: more than any of the standards has.
const IDENTITY_CHARS_MAX: usize = 256;

/// How a [`FileDevice`] is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Exclusively, for its owner; a missing file is made.
    /// `capacity` in bytes is a new file's, and the least that a device must have.
    Own { capacity: Option<u64>, zeroing_max: Duration },
    /// To recover what somebody else left: read only, without a lock.
    Read,
}

/// A raw block device, or a file.
#[derive(Debug)]
pub struct FileDevice {
    handle: Handle,
    path: PathBuf,
    block_bytes: usize,
    size_bytes: u64,
    fua: bool,
    direct: bool,
}

/// What a device is reached by. The operating system blocks; a simulated one is awaited.
#[derive(Debug)]
enum Handle {
    System(File),
    #[cfg(feature = "simulated")]
    Simulated(std::sync::Arc<dyn simulated::Volume>),
}

/// The size of a file that is made without being told one.
const CAPACITY_DEFAULT: u64 = 256 << 20;
const ZEROING_STEP_BYTES: usize = 4 << 20;

impl FileDevice {
    /// Opens `path`. Blocks for as long as a file is being made.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is in use, not there, or nothing that a WAL can be on.
    pub fn open(path: &Path, access: Access) -> Result<FileDevice, Error> {
        #[cfg(feature = "simulated")]
        if let Some(machine) = simulated::current() {
            return FileDevice::open_simulated(&*machine, path, access);
        }
        match std::fs::metadata(path) {
            Ok(found) if found.file_type().is_block_device() || found.is_file() => {
                FileDevice::open_existing(path, access, found.file_type().is_block_device())
            }
            Ok(_) => Err(refuse(path, "is neither a block device nor a regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match access {
                Access::Own { capacity, zeroing_max } => {
                    FileDevice::create(path, capacity.unwrap_or(CAPACITY_DEFAULT), zeroing_max)
                }
                Access::Read => {
                    Err(refuse(path, "does not exist; attach the volume that holds the log, then try again"))
                }
            },
            Err(error) => Err(refuse(path, format!("cannot be looked at: {error}"))),
        }
    }

    /// A simulated machine's volumes are there from the beginning, zeroed.
    #[cfg(feature = "simulated")]
    fn open_simulated(
        machine: &dyn simulated::Machine,
        path: &Path,
        access: Access,
    ) -> Result<FileDevice, Error> {
        let volume = machine.volume(path, access != Access::Read).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => refuse(path, "does not exist"),
            io::ErrorKind::WouldBlock => refuse(path, "is in use by another process"),
            _ => failed(path, "open", &error),
        })?;
        Ok(FileDevice {
            path: path.to_owned(),
            block_bytes: volume.block_bytes(),
            size_bytes: volume.size_bytes(),
            fua: volume.fua(),
            direct: true,
            handle: Handle::Simulated(volume),
        })
    }

    fn open_existing(path: &Path, access: Access, is_device: bool) -> Result<FileDevice, Error> {
        let own = access != Access::Read;
        // O_EXCL on a block device without O_CREAT: refused while it is mounted or held by somebody else like us.
        let exclusive = if own && is_device { OFlags::EXCL } else { OFlags::empty() };
        let (file, direct) = open_direct(path, own, exclusive)?;
        if own {
            lock(&file, path)?;
        }
        let device = FileDevice::inspect(file, path, direct, is_device)?;
        let Access::Own { capacity, zeroing_max } = access else { return Ok(device) };
        if let Some(capacity) = capacity.filter(|capacity| is_device && device.size_bytes < *capacity) {
            let message =
                format!("holds {} bytes, less than the capacity of {capacity} asked for", device.size_bytes);
            return Err(refuse(path, message));
        }
        if !is_device && device.size_bytes == 0 {
            // Made, but not allocated: its process died in between.
            return device.preallocated(capacity.unwrap_or(CAPACITY_DEFAULT), zeroing_max);
        }
        Ok(device)
    }

    fn create(path: &Path, capacity: u64, zeroing_max: Duration) -> Result<FileDevice, Error> {
        if path.starts_with("/dev") {
            return Err(refuse(
                path,
                "does not exist; a file would not survive there, attach the device or name another path",
            ));
        }
        let (file, direct) = open_direct(path, true, OFlags::CREATE)?;
        lock(&file, path)?;
        let device = FileDevice::inspect(file, path, direct, false)?.preallocated(capacity, zeroing_max)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| failed(path, "sync the directory of", &error))?;
        Ok(device)
    }

    fn inspect(mut file: File, path: &Path, direct: bool, is_device: bool) -> Result<FileDevice, Error> {
        let size_bytes = file.seek(SeekFrom::End(0)).map_err(|error| failed(path, "measure", &error))?;
        let block_bytes = block_bytes(&file, is_device).max(BLOCK_BYTES_MIN);
        if block_bytes > BLOCK_BYTES_MAX || !block_bytes.is_power_of_two() {
            return Err(refuse(
                path,
                format!("has blocks of {block_bytes} bytes; at most {BLOCK_BYTES_MAX} are supported"),
            ));
        }
        let metadata = file.metadata().map_err(|error| failed(path, "look at", &error))?;
        let number = if is_device { metadata.rdev() } else { metadata.dev() };
        let fua = has_fua(number);
        let handle = Handle::System(file);
        Ok(FileDevice { handle, path: path.to_owned(), block_bytes, size_bytes, fua, direct })
    }

    /// The file, where the volume is one.
    fn file(&self) -> &File {
        match &self.handle {
            Handle::System(file) => file,
            #[cfg(feature = "simulated")]
            Handle::Simulated(_) => unreachable!("a simulated volume is no file"),
        }
    }

    /// Reserves the space, and writes zeroes for as long as `zeroing_max` allows: a write to a block that was written
    /// before needs no change of the file system's metadata, and costs about half.
    fn preallocated(mut self, capacity: u64, zeroing_max: Duration) -> Result<FileDevice, Error> {
        #[cfg(feature = "simulated")]
        if let Handle::Simulated(_) = &self.handle {
            return Ok(self);
        }
        let file = self.file();
        let capacity = capacity.next_multiple_of(self.block_bytes as u64);
        let zeroing_until = match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, capacity) {
            Ok(()) => Some(Instant::now() + zeroing_max),
            // No such thing on this file system: only zeroes that are written reserve space.
            Err(Errno::OPNOTSUPP) => None,
            Err(error) => {
                let error = io::Error::from(error);
                // Whatever was made of it is nobody's yet.
                let _ = file.set_len(0);
                return Err(failed(&self.path, &format!("reserve {capacity} bytes for"), &error));
            }
        };
        let zeroes = AlignedBuffer::zeroed(ZEROING_STEP_BYTES);
        let mut offset = 0;
        while offset < capacity && zeroing_until.is_none_or(|until| Instant::now() < until) {
            let step = (capacity - offset).min(zeroes.len() as u64);
            write_all(file, &zeroes[..step as usize], offset, ReadWriteFlags::empty())
                .map_err(|error| failed(&self.path, "write zeroes to", &error))?;
            offset += step;
        }
        file.sync_all().map_err(|error| failed(&self.path, "sync", &error))?;
        self.size_bytes = capacity;
        Ok(self)
    }

    async fn write(&self, bytes: &[u8], offset: u64, durable: bool) -> io::Result<()> {
        match &self.handle {
            Handle::System(file) => {
                let flags = if durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
                write_all(file, bytes, offset, flags)
            }
            #[cfg(feature = "simulated")]
            Handle::Simulated(volume) => volume.write(bytes, offset, durable).await,
        }
    }

    async fn flush(&self) -> io::Result<()> {
        #[cfg(feature = "simulated")]
        if let Handle::Simulated(volume) = &self.handle {
            return volume.flush().await;
        }
        let file = self.file();
        loop {
            match rustix::fs::fdatasync(file) {
                // Interrupted before it began; an error of the device itself is never tried again.
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    async fn put(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.fua {
            return self.write(bytes, offset, true).await;
        }
        self.write(bytes, offset, false).await?;
        if host::planted("ack-before-flush") {
            return Ok(());
        }
        self.flush().await
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "{}: {} bytes, blocks of {}, {}, {}",
            self.path.display(),
            self.size_bytes,
            self.block_bytes,
            if self.direct { "direct I/O" } else { "buffered I/O" },
            if self.fua { "FUA" } else { "write and flush" }
        )
    }
}

impl Device for FileDevice {
    fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn is_direct(&self) -> bool {
        self.direct
    }

    fn writes_max(&self) -> usize {
        if self.direct { usize::MAX } else { 1 }
    }

    fn read(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        #[cfg(feature = "simulated")]
        if let Handle::Simulated(volume) = &self.handle {
            return volume.read(buffer, offset);
        }
        let file = self.file();
        while !buffer.is_empty() {
            match rustix::io::pread(file, &mut *buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    buffer = &mut buffer[read..];
                    offset += read as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn write_durable(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(feature = "simulated")]
        if let Handle::Simulated(volume) = &self.handle {
            return volume.write_now(bytes, offset);
        }
        self.put(bytes, offset).now_or_never().expect("the operating system blocks")
    }

    #[cfg(feature = "simulated")]
    fn write_simulated<'a>(&'a self, bytes: &'a [u8], offset: u64) -> Option<BoxFuture<'a, io::Result<()>>> {
        let is_simulated = matches!(self.handle, Handle::Simulated(_));
        is_simulated.then(|| self.put(bytes, offset).boxed())
    }
}

/// All of `bytes`, through interruptions and short writes.
fn write_all(file: &File, mut bytes: &[u8], mut offset: u64, flags: ReadWriteFlags) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwritev2(file, &[IoSlice::new(bytes)], offset, flags) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// With O_DIRECT, or without where the file system has none (and then says so in the log).
fn open_direct(path: &Path, write: bool, flags: OFlags) -> Result<(File, bool), Error> {
    let open = |extra: OFlags| {
        std::fs::OpenOptions::new()
            .read(true)
            .write(write)
            .create(flags.contains(OFlags::CREATE))
            .mode(0o600)
            .custom_flags((extra | flags.difference(OFlags::CREATE)).bits() as i32)
            .open(path)
    };
    let opened = match open(OFlags::DIRECT) {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            tracing::warn!(
                path = %path.display(),
                "this file system has no direct I/O: the write-ahead log goes through the page cache, one write at a time"
            );
            open(OFlags::empty()).map(|file| (file, false))
        }
        opened => opened.map(|file| (file, true)),
    };
    opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::BUSY) => {
            refuse(path, "is mounted or in use by another process; stop that one, or name another device")
        }
        Some(Errno::NOENT) => refuse(path, "cannot be made: its directory does not exist"),
        _ => refuse(path, format!("cannot be opened: {error}")),
    })
}

/// Whether no process has the file at `path` open as its log, by the lock that an owner holds until its last write has
/// ended. A device's lock says so of this host alone, and so does a file's where hosts share a file system.
///
/// # Errors
/// [`Error::Refused`] where it cannot be opened.
pub fn is_unlocked(path: &Path) -> Result<bool, Error> {
    #[cfg(feature = "simulated")]
    if let Some(machine) = simulated::current() {
        return machine.is_unlocked(path).map_err(|error| refuse(path, format!("cannot be locked: {error}")));
    }
    let file =
        File::open(path).map_err(|error| refuse(path, format!("cannot be opened to look at it: {error}")))?;
    // Shared, and given back at once: two who look do not meet, and an owner that comes meanwhile tries again.
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(refuse(path, format!("cannot be locked: {error}"))),
    }
}

/// Somebody who only [looked](is_unlocked) holds the lock for no time at all.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

fn lock(file: &File, path: &Path) -> Result<(), Error> {
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(error) => return Err(refuse(path, format!("cannot be locked: {error}"))),
        }
    }
    Err(refuse(
        path,
        "is in use by another process (it holds the lock); stop that broker, or give this one a volume of its own",
    ))
}

/// The alignment that direct I/O wants; 4096 if nobody says.
fn block_bytes(file: &File, is_device: bool) -> usize {
    if is_device {
        return rustix::fs::ioctl_blksszget(file).map_or(BLOCK_BYTES_MIN, |bytes| bytes as usize);
    }
    let wanted = StatxFlags::DIOALIGN;
    match rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, wanted) {
        Ok(found) if found.stx_mask & wanted.bits() != 0 && found.stx_dio_offset_align > 0 => {
            found.stx_dio_offset_align.max(found.stx_dio_mem_align) as usize
        }
        _ => BLOCK_BYTES_MIN,
    }
}

/// Whether the queue of the device with this number takes FUA writes. A partition asks its disk.
fn has_fua(number: u64) -> bool {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    ["queue/fua", "../queue/fua"].iter().any(|file| {
        std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/{file}"))
            .is_ok_and(|fua| fua.trim() == "1")
    })
}

fn refuse(path: &Path, reason: impl fmt::Display) -> Error {
    Error::Refused(format!("the write-ahead log's volume {} {reason}", path.display()))
}

fn failed(path: &Path, action: &str, error: &io::Error) -> Error {
    Error::Failed(format!("could not {action} the write-ahead log's volume {}: {error}", path.display()))
}
