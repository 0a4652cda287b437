//! Persistent reservations: the device itself refuses the writes of a host that must not write any more (B1 (a)).
//!
//! ```text
//!   owner, at open        Register(own) ─► Preempt(last owner) ─► Preempt(who recovered it) ─► Reserve(own)
//!   recoverer, behind     Register(recoverer of X) ─► Preempt(X) ─► Reserve ─► wait SETTLE_WAIT ─► read
//!   the fence of X                                                     └─► from here on X's writes are answered with EBADE
//! ```
//!
//! The reservation is of the type *write exclusive, registrants only*: whoever is not registered reads, and does not
//! write. A device tells hosts from each other (more exactly: paths), not processes; on one host it is the lock that keeps
//! processes apart (V1).
//!
//! - **P1** An owner that takes the reservation has it before its first write as an owner. Whoever was registered for the
//!   last life of this log, or to recover it, is not registered any more. That one removed those before it, unless it went
//!   without (`--wal-reservation off`): a volume that several hosts reach is not switched to and fro.
//! - **P2** Keys follow from incarnations, so that nobody has to be asked for them: an owner's from its own, a recoverer's
//!   from that of whom it shuts out. Anybody who knows the last owner of a volume knows whom to preempt. A reservation of
//!   somebody else is never broken but by the operator's word (`--wal-detached`).
//! - **P3** [`shut_out`] is a proof only where the victim was registered until then, and over another path, and a reservation
//!   stands: the device said that it removed it, and that the recoverer has the reservation. Everything else, an answer that
//!   was lost included, is no proof, and the lease is waited out. An owner that did not get its reservation does not keep
//!   the key whose removal would be a proof. A host that may be the victim's ([`Host`]) registers nothing to shut it out: once
//!   somebody has removed the victim, that would let it write again.
//! - **P4** A preempted host's writes that the device had accepted before may still complete, and to ask for their abortion is not
//!   safe everywhere. So an owner counts a write that took longer than [`SETTLE`] only after the device has said *again*
//!   that the reservation holds, and a recoverer reads only [`SETTLE_WAIT`] after the device removed the owner. A write that
//!   counts was thus complete before anybody read. One that does not could land on what the next owner wrote: where nothing
//!   but the reservation keeps the last owner out, the next one writes only [`LANDING_WAIT`] after it got it.
//! - **P5** A write that the device refuses for the reservation is [`Error::Fenced`]: final, and nothing behind it is
//!   acknowledged.
//! - **P6** A recoverer leaves its reservation where it is: the old host stays shut out until the next owner takes the volume
//!   (B2). An owner that closed its log in order gives its own back. It stays registered, since Linux cannot take back a
//!   registration with NVMe; that lets its host write, which has nothing to write, until the next owner removes it.
//!
//! P4 compares spans of two clocks, like the lease, but of a fifth of a second each, and a clock that stands still does no
//! harm unless the device holds back a write for just as long.
//!
//! **Retries.** A call that fails is repeated a few times: SCSI reports what happened to a path by failing the next command on
//! it. All calls may be repeated. **Crash.** What is registered and reserved stays as it is, through a power cut of the
//! device as well, where it can.
//!
//! [`claim`] is the order of calls, without I/O; `kernel` makes them.

mod claim;
mod kernel;
#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

pub use self::claim::Claimed;
use self::claim::{Claim, ShutOut, Step};
pub use self::kernel::PathReservations;
use crate::{Error, Incarnation};

/// How long a write may take to count without another look at the reservation (P4). No option: all brokers of a cluster
/// must mean the same.
pub const SETTLE: Duration = Duration::from_millis(200);

/// How long a recoverer waits before it reads: more than [`SETTLE`] by what clocks may differ, and threads be late.
pub const SETTLE_WAIT: Duration = Duration::from_millis(250);

/// How long what a device accepted from a host that was removed since may take to land: Linux gives a command 30 s.
pub const LANDING_WAIT: Duration = Duration::from_secs(30);

/// Whose host a recoverer is on. To a device all processes and containers under one kernel are one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// For certain not the one that the owner was on.
    Another,
    PerhapsItsOwn,
}

/// Whether reservations are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Use {
    /// Where the device has them.
    #[default]
    Auto,
    Off,
    /// A log is not opened without one.
    Required,
}

/// What a host registers with, and is removed by.
///
/// ```text
///   bit   63     1
///   bit   62     1 for a recoverer, 0 for an owner
///   bits  61-31  broker id
///   bit   30     1 for an owner without the reservation
///   bits  29-0   epoch, its lower bits
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(NonZeroU64);

impl Key {
    pub fn of_owner(life: Incarnation) -> Key {
        Key::new(0, life)
    }

    /// Of whoever recovers what `of` left.
    pub fn of_recoverer(of: Incarnation) -> Key {
        Key::new(1 << 62, of)
    }

    /// Of an owner that goes without the reservation.
    pub fn of_bystander(life: Incarnation) -> Key {
        Key::new(1 << 30, life)
    }

    fn new(role: u64, life: Incarnation) -> Key {
        const BROKER: u64 = (1 << 31) - 1;
        const EPOCH: u64 = (1 << 30) - 1;
        let bits = 1 << 63 | role | (u64::from(life.broker) & BROKER) << 31 | life.epoch & EPOCH;
        Key(NonZeroU64::new(bits).expect("its highest bit is set"))
    }

    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#018x}", self.0)
    }
}

/// What a device is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// This host gets the key `new`. `old` is the one that it has by now, unless whatever it has is to go.
    Register {
        old: Option<Key>,
        new: Key,
        whatever: bool,
    },
    Reserve {
        own: Key,
    },
    Release {
        own: Key,
    },
    /// Removes whoever is registered with `victim`; the reservation that it held is `own`'s.
    Preempt {
        own: Key,
        victim: Key,
    },
    /// Removes everybody, and the reservation.
    Clear {
        own: Key,
    },
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Done,
    /// Somebody holds what was asked for, or nobody has the key that was named.
    Conflict,
    /// This device, or this process, cannot do so at all.
    Unsupported(String),
    Failed(String),
}

/// A device that hosts register with. Calls block.
pub trait Reservable: Send + Sync + fmt::Debug {
    fn call(&self, call: Call) -> Reply;
}

/// Repetitions of a call that fails. No option: they are there for a device that has to say something first.
const TRIES: u32 = 3;

fn call(device: &dyn Reservable, call: Call) -> Reply {
    let mut reply = device.call(call);
    for _ in 1..TRIES {
        if !matches!(reply, Reply::Failed(_)) {
            break;
        }
        reply = device.call(call);
    }
    tracing::debug!(?call, ?reply, "a persistent reservation");
    reply
}

/// Takes the device for the life `own`, whose log's last owner was `last` (P1). `anybodys`: whoever holds it may be
/// removed, since the operator says so. Blocks.
pub fn claim(
    device: &dyn Reservable,
    own: Incarnation,
    last: Option<Incarnation>,
    anybodys: bool,
) -> Claimed {
    let (mut claim, mut step) = Claim::new(own, last, anybodys);
    loop {
        match step {
            Step::Call(next) => step = claim.after(call(device, next)),
            Step::Ended(claimed) => {
                return claimed;
            }
        }
    }
}

/// Removes the owner `of` from the device, which must be fenced in the metadata. `host`: of this process. Blocks.
///
/// # Errors
/// Why there is no proof that it was removed just now (P3).
pub fn shut_out(device: &dyn Reservable, of: Incarnation, host: Host) -> Result<(), String> {
    let (mut shutting, mut step) = ShutOut::new(of, host);
    loop {
        match step {
            Step::Call(next) => step = shutting.after(call(device, next)),
            Step::Ended(proved) => return proved,
        }
    }
}

/// Whether this host can register with the device beside the owner `of`, so that it will be able to shut it out. The
/// owner notices nothing of it. Blocks.
///
/// # Errors
/// Why it cannot.
pub fn prepare(device: &dyn Reservable, of: Incarnation, host: Host) -> Result<(), String> {
    let (mut shutting, mut step) = ShutOut::new(of, host);
    loop {
        match step {
            Step::Call(Call::Preempt { .. }) => return Ok(()),
            Step::Call(next) => step = shutting.after(call(device, next)),
            Step::Ended(proved) => return proved,
        }
    }
}

/// Whether the device has reservations that this process may take. Changes nothing: it gives this host the key that it has, if
/// that is of the owner `of`. Blocks.
///
/// # Errors
/// Why not.
pub fn has_them(device: &dyn Reservable, of: Incarnation) -> Result<(), String> {
    let key = Key::of_owner(of);
    match call(device, Call::Register { old: Some(key), new: key, whatever: false }) {
        Reply::Done | Reply::Conflict => Ok(()),
        Reply::Unsupported(reason) | Reply::Failed(reason) => Err(reason),
    }
}

/// The reservation of an owner that has it.
#[derive(Clone, Debug)]
pub struct Held {
    device: Arc<dyn Reservable>,
    own: Key,
}

impl Held {
    pub fn new(device: Arc<dyn Reservable>, own: Incarnation) -> Held {
        Held { device, own: Key::of_owner(own) }
    }

    /// Asks the device whether it still holds (P4). Blocks.
    ///
    /// # Errors
    /// [`Error::Fenced`] if somebody took it, [`Error::Failed`] if the device does not say.
    pub fn confirm(&self) -> Result<(), Error> {
        match call(&*self.device, Call::Reserve { own: self.own }) {
            Reply::Done => Ok(()),
            Reply::Conflict => Err(taken()),
            Reply::Unsupported(reason) | Reply::Failed(reason) => {
                Err(Error::Failed(format!("the device does not say who holds its reservation: {reason}")))
            }
        }
    }

    /// Gives it back (P6). Blocks.
    pub fn release(&self) {
        match call(&*self.device, Call::Release { own: self.own }) {
            // What somebody took meanwhile is theirs.
            Reply::Done | Reply::Conflict => {}
            Reply::Unsupported(reason) | Reply::Failed(reason) => {
                tracing::warn!("the device's reservation could not be given back: {reason}");
            }
        }
    }
}

/// P5.
pub fn taken() -> Error {
    Error::Fenced(
        "the volume's persistent reservation was taken by another broker, which took this one for dead"
            .into(),
    )
}

/// Whether a write failed because the device refused it for a reservation.
pub fn is_refusal(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::BADE.raw_os_error())
}
