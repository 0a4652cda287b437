//! The calls as Linux has them (`linux/pr.h`), for SCSI and NVMe alike.
//!
//! - An `ioctl` answers 0, or a negative error of the kernel's, or a *positive* status of the device's: only 0 is success.
//! - `pr_preempt` names the caller's key `old_key` and the victim's `new_key`.
//! - To register the key 0, which takes a registration back with SCSI, *replaces* it by the key 0 with NVMe: it is never done.
//! - Kernels before 6.4 want CAP_SYS_ADMIN; later ones are content with a descriptor that is open for writing, of a whole
//!   device and not a partition.

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

use super::{Call, Key, Reply, Reservable};

/// `PR_WRITE_EXCLUSIVE_REG_ONLY`.
const WRITE_EXCLUSIVE_REGISTRANTS_ONLY: u32 = 3;
/// `PR_FL_IGNORE_KEY`.
const IGNORE_KEY: u32 = 1;

#[derive(Clone, Copy)]
#[repr(C)]
struct Reservation {
    key: u64,
    kind: u32,
    flags: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Registration {
    old_key: u64,
    new_key: u64,
    flags: u32,
    pad: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Preemption {
    own_key: u64,
    victim_key: u64,
    kind: u32,
    flags: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Clearing {
    key: u64,
    flags: u32,
    pad: u32,
}

const REGISTER: Opcode = opcode::write::<Registration>(b'p', 200);
const RESERVE: Opcode = opcode::write::<Reservation>(b'p', 201);
const RELEASE: Opcode = opcode::write::<Reservation>(b'p', 202);
const PREEMPT: Opcode = opcode::write::<Preemption>(b'p', 203);
const CLEAR: Opcode = opcode::write::<Clearing>(b'p', 205);

/// One `ioctl` that reads a `T`.
struct Request<T> {
    opcode: Opcode,
    argument: T,
}

// SAFETY: each opcode reads as many bytes as its `T` has, by its definition, and writes none.
unsafe impl<T: Copy> Ioctl for Request<T> {
    type Output = c_int;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.argument).cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<c_int> {
        Ok(output)
    }
}

/// The reservations of the block device at a path.
#[derive(Debug)]
pub struct PathReservations {
    file: File,
    path: PathBuf,
}

impl PathReservations {
    /// `None` if there is no block device, or it cannot be opened: whoever wants to write to it hears of that elsewhere.
    pub fn open(path: &Path) -> Option<PathReservations> {
        if !std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device()) {
            return None;
        }
        let writable = File::options().read(true).write(true).open(path);
        let file = writable.or_else(|_| File::open(path)).ok()?;
        Some(PathReservations { file, path: path.to_owned() })
    }

    fn request<T: Copy>(&self, opcode: Opcode, argument: T) -> Reply {
        // SAFETY: see `Request`.
        reply(unsafe { rustix::ioctl::ioctl(&self.file, Request { opcode, argument }) }, &self.path)
    }
}

impl Reservable for PathReservations {
    fn call(&self, call: Call) -> Reply {
        let (kind, flags) = (WRITE_EXCLUSIVE_REGISTRANTS_ONLY, 0);
        match call {
            Call::Register { old, new, whatever } => {
                let (old_key, new_key) = (old.map_or(0, Key::get), new.get());
                let flags = if whatever { IGNORE_KEY } else { 0 };
                self.request(REGISTER, Registration { old_key, new_key, flags, pad: 0 })
            }
            Call::Reserve { own } => self.request(RESERVE, Reservation { key: own.get(), kind, flags }),
            Call::Release { own } => self.request(RELEASE, Reservation { key: own.get(), kind, flags }),
            Call::Preempt { own, victim } => {
                let preemption = Preemption { own_key: own.get(), victim_key: victim.get(), kind, flags };
                self.request(PREEMPT, preemption)
            }
            Call::Clear { own } => self.request(CLEAR, Clearing { key: own.get(), flags, pad: 0 }),
        }
    }
}

fn reply(answer: rustix::io::Result<c_int>, path: &Path) -> Reply {
    let path = path.display();
    match answer {
        Ok(0) => Reply::Done,
        Ok(status) if is_conflict(status) => Reply::Conflict,
        Ok(status) => Reply::Failed(format!("{path} answered with status {status:#x}")),
        Err(Errno::BADE) => Reply::Conflict,
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::NOSYS) => {
            Reply::Unsupported(format!("{path} has no persistent reservations"))
        }
        Err(Errno::PERM | Errno::ACCESS) => Reply::Unsupported(format!(
            "this process may not reserve {path}: it is a partition, or a capability is missing (CAP_SYS_ADMIN)"
        )),
        Err(error) => Reply::Failed(format!("{path}: {error}")),
    }
}

/// A reservation conflict, as SCSI says it (with or without the bytes of the host above it, and so does every kernel from 6.4
/// on for NVMe), and as NVMe does (with or without its bit "do not retry").
fn is_conflict(status: c_int) -> bool {
    const SCSI: c_int = 0x18;
    const NVME: c_int = 0x83;
    (status & 0xff == SCSI && status >> 16 == 0) || status & 0x7ff == NVME
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `linux/pr.h` has them on every machine whose ioctl numbers are the usual ones.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn numbers_are_the_kernels() {
        let numbers = [REGISTER, RESERVE, RELEASE, PREEMPT, CLEAR];
        assert_eq!(numbers, [0x4018_70c8, 0x4010_70c9, 0x4010_70ca, 0x4018_70cb, 0x4010_70cd]);
    }

    #[test]
    fn only_zero_is_success() {
        let reply = |answer| super::reply(answer, Path::new("/dev/it"));
        assert_eq!(reply(Ok(0)), Reply::Done);
        for status in [0x18, 0x118, 0x83, 0x4083] {
            assert_eq!(reply(Ok(status)), Reply::Conflict, "{status:#x}");
        }
        assert_eq!(reply(Err(Errno::BADE)), Reply::Conflict);
        for status in [1, 2, 0x102, 0x4002, 0x1_0000, 0xe_0000] {
            assert!(matches!(reply(Ok(status)), Reply::Failed(_)), "{status:#x}");
        }
        for error in [Errno::OPNOTSUPP, Errno::NOTTY, Errno::PERM] {
            assert!(matches!(reply(Err(error)), Reply::Unsupported(_)), "{error}");
        }
        assert!(matches!(reply(Err(Errno::IO)), Reply::Failed(_)));
    }
}
