//! The block WAL: a ring of frames on a raw device or in a preallocated file. An append is acknowledged after one write.
//!
//! ```text
//!   ┌────────────┬────────────┬───────────────────────────────────────────────┐
//!   │superblock 0│superblock 1│ ring:  frame │ frame │frame│        │ frame    │
//!   └────────────┴────────────┴───────────────────────────────────────────────┘
//!     written in turn            absolute positions; position % size is the place
//! ```
//!
//! Invariants, besides W1 to W7:
//!
//! - **V1** Only the owner writes: an exclusive lock (and O_EXCL on a device) is held from before the superblocks are read
//!   until the last thread has ended. Recoverers only read (B2).
//! - **V2** A volume is formatted only if it is blank; another cluster's, another version's and foreign content are refused. It
//!   is the opening of a log that formats: whoever only took the volume has written nothing (V9).
//! - **V3** Both superblocks name the owner before its first frame is written; frames carry volume and epoch, so nothing
//!   that an earlier life or an earlier volume left is ever taken for data.
//! - **V4** A failed write or flush is final.
//! - **V5** What was provably durable and cannot be read is [`Error::Corrupt`], never an end of the log.
//! - **V6** Only the owner that the superblock names is recovered. One that opened its log is named from then on (V3), so
//!   a volume with an older owner, or none, is not the one that it wrote.
//! - **V7** An owner whose log was closed in order says so on the volume with its last write ([`LastOwner::released`]).
//!   A volume is opened under a new owner only if it is still the one that was found when it was taken, with the same last
//!   owner, or as blank: whoever decides who can write to it no more has looked at the right one (B2).
//!
//! - **V8** Where the device has persistent reservations an owner takes one before its first write ([`reservation`], B1 (a));
//!   a write that is refused for it fences the log. Without one a volume that two hosts can reach is fenced by the lease of
//!   [`AckRight`] alone, which is B1 (b).
//! - **V9** Nothing is written to a volume before the cluster knows of the life that will be its owner: a blank one is
//!   planned when it is taken, and formatted by the opening of its log, in one with V3. Whoever is about to write to a volume
//!   for the first time can so be known to whoever comes after it, and one that finds it blank no more has lost a race.
//!
//! Reading order: `superblock` and `frame` (the format), `layout` (where records go), [`device`], `volume`,
//! `writer`, `recovery`, [`reservation`].

mod aligned;
pub mod device;
mod frame;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub mod inspect;
mod layout;
mod recovery;
pub mod reservation;
mod superblock;
mod volume;
mod writer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use uuid::Uuid;

use self::device::{Access, Device, FileDevice};
use self::layout::Geometry;
use self::recovery::{BlockRecovery, Scan};
use self::reservation::{Claimed, Held, PathReservations, Reservable};
use self::superblock::Superblock;
use self::volume::Volume;
use self::writer::{BlockWal, Shared};
use crate::uri::Target;
use crate::{AckRight, Error, Incarnation, Medium, Position, Recovery, Uri, Vacated, Wal};

/// The smallest block that frames are aligned to.
pub const BLOCK_BYTES_MIN: usize = 4096;
/// The largest logical block of a device that is supported.
pub const BLOCK_BYTES_MAX: usize = 65536;

/// The bounds of a block WAL.
#[derive(Clone, Debug)]
pub struct Config {
    /// Writes under way at once, each on a thread of its own. Default 4.
    pub writes_in_flight_max: usize,
    /// Bytes between the oldest write under way and the end of the newest one. Also bounds what recovery reads beyond
    /// the end of the log. Default 8 MiB.
    pub in_flight_bytes_max: usize,
    /// The largest frame, in bytes; a little less is the largest record. At most a quarter of the ring. Default 8 MiB.
    pub frame_bytes_max: usize,
    /// A frame that has reached this many bytes takes no more records. Default 1 MiB.
    pub frame_bytes_target: usize,
    /// While a write is under way, the next one waits until it has this many bytes (or one is done); the one after it for
    /// four times as much, and so on. Raise it where the volume limits operations per second rather than latency. Default
    /// 32 KiB.
    pub gather_bytes: usize,
    /// Bytes of records that are appended but not yet written. Default 64 MiB.
    pub pending_bytes_max: usize,
    /// How long the making of a new file may write zeroes. What is left is zeroed by use, at the price of slower first
    /// writes there. Default 200 ms.
    pub zeroing_time_max: Duration,
    /// Whether the device's persistent reservation is taken. Default: where it has them.
    pub reservation: reservation::Use,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            writes_in_flight_max: 4,
            in_flight_bytes_max: 8 << 20,
            frame_bytes_max: 8 << 20,
            frame_bytes_target: 1 << 20,
            gather_bytes: 32 << 10,
            pending_bytes_max: 64 << 20,
            zeroing_time_max: Duration::from_millis(200),
            reservation: reservation::Use::default(),
        }
    }
}

impl Config {
    /// # Errors
    /// [`Error::Refused`] that names the bound that makes no sense.
    pub fn validate(&self) -> Result<(), Error> {
        let checks = [
            ((1..=64).contains(&self.writes_in_flight_max), "writes_in_flight_max must be from 1 to 64"),
            (
                (64 << 10..=256 << 20).contains(&self.frame_bytes_max),
                "frame_bytes_max must be from 64 KiB to 256 MiB",
            ),
            (
                self.frame_bytes_target <= self.frame_bytes_max,
                "frame_bytes_target must be at most frame_bytes_max",
            ),
            (self.in_flight_bytes_max <= 1 << 30, "in_flight_bytes_max must be at most 1 GiB"),
            (
                self.pending_bytes_max >= self.frame_bytes_max,
                "pending_bytes_max must be at least frame_bytes_max",
            ),
        ];
        match checks.iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, rule)) => Err(Error::Refused(format!("the block WAL's {rule}"))),
        }
    }

    fn geometry(&self, superblock: &Superblock, device: &dyn Device) -> Geometry {
        let block = superblock.block_bytes as usize;
        let quarter = usize::try_from(superblock.ring_bytes / 4).unwrap_or(usize::MAX);
        let frame_max = self.frame_bytes_max.min(quarter) / block * block;
        Geometry {
            block,
            ring: superblock.ring_bytes,
            frame_max,
            frame_target: self.frame_bytes_target.min(frame_max),
            gather: self.gather_bytes,
            writes_max: self.writes_in_flight_max.min(device.writes_max()),
            window: self.in_flight_bytes_max as u64,
            pending_max: self.pending_bytes_max,
        }
    }
}

/// Who had a volume last, by its superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastOwner {
    pub incarnation: Incarnation,
    /// It closed its log: nothing of it is on its way to the volume any more.
    pub released: bool,
}

/// A volume, and the right to it.
#[derive(Debug)]
pub struct BlockMedium {
    volume: Volume,
    config: Config,
    /// Whether it is ours to write (V1).
    owned: bool,
    /// As it will be formatted, while it is blank (V9).
    plan: Mutex<Option<Superblock>>,
    /// The volume's own id, made when it was formatted, or planned.
    id: Uuid,
    /// As it was found, or as this process left it (V7).
    last_owner: Mutex<Option<LastOwner>>,
    /// The log that was opened last.
    live: Mutex<Weak<Shared>>,
    reservations: Option<Arc<dyn Reservable>>,
    /// Nothing but a reservation keeps the last owner from writing: without one there is no log.
    relies_on_reservation: AtomicBool,
    /// Nobody else writes to the volume, by the operator's word: whoever holds a reservation is a leftover.
    anybodys: AtomicBool,
}

impl BlockMedium {
    /// Takes the volume for this process: opens and locks it, makes a missing file (256 MiB if the URI names no capacity).
    /// Blocks, for up to about [`Config::zeroing_time_max`] where a file is made.
    ///
    /// Do this before the metadata log hears of the incarnation that will own it: a second process on the same volume
    /// then ends here, and an incarnation that is known always has a volume.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is in use, another cluster's, foreign, too small, or not there.
    pub fn new(uri: &Uri, cluster: Uuid, config: Config) -> Result<BlockMedium, Error> {
        let Target::Block { path, capacity } = uri.target()? else {
            return Err(Error::Refused(format!("{uri} does not name a block WAL")));
        };
        let access = Access::Own { capacity, zeroing_max: config.zeroing_time_max };
        let device = FileDevice::open(&path, access)?;
        tracing::info!(volume = device.describe(), "opened the write-ahead log's volume");
        let reservations = reservations_at(&path, &config);
        if reservations.is_none() && config.reservation == reservation::Use::Required {
            return Err(Error::Refused(format!(
                "the write-ahead log {uri} is no block device and has no persistent reservations, which are required"
            )));
        }
        let medium = BlockMedium::own(Arc::new(device), uri.clone(), capacity, cluster, config)?;
        Ok(BlockMedium { reservations, ..medium })
    }

    /// With a way to the device's reservations that the caller brings.
    pub fn with_reservations(self, reservations: Arc<dyn Reservable>) -> BlockMedium {
        BlockMedium { reservations: Some(reservations), ..self }
    }

    /// The volume of a dead broker, to recover it from another one. Needs no lock, since its owner is fenced by the
    /// metadata log and its lease; only reads; cannot be opened for appending.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is not there or not this cluster's.
    pub fn for_recovery(uri: &Uri, cluster: Uuid, config: Config) -> Result<BlockMedium, Error> {
        config.validate()?;
        let Target::Block { path, .. } = uri.target()? else {
            return Err(Error::Refused(format!("{uri} does not name a block WAL")));
        };
        let volume =
            Volume { device: Arc::new(FileDevice::open(&path, Access::Read)?), uri: uri.clone(), cluster };
        let found = volume.superblock()?;
        let reservations = reservations_at(&path, &config);
        let medium = BlockMedium::of(volume, config, found);
        Ok(BlockMedium { reservations, ..medium })
    }

    /// Like [`BlockMedium::for_recovery`], on a device that the caller brings.
    ///
    /// # Errors
    /// As [`BlockMedium::for_recovery`].
    pub fn for_recovery_on_device(
        device: Arc<dyn Device>,
        uri: Uri,
        cluster: Uuid,
        config: Config,
    ) -> Result<BlockMedium, Error> {
        config.validate()?;
        let volume = Volume { device, uri, cluster };
        let found = volume.superblock()?;
        Ok(BlockMedium::of(volume, config, found))
    }

    /// To read it.
    fn of(volume: Volume, config: Config, found: Option<Superblock>) -> BlockMedium {
        BlockMedium {
            volume,
            config,
            owned: false,
            plan: Mutex::default(),
            id: found.map(|superblock| superblock.volume).unwrap_or_default(),
            last_owner: Mutex::new(found.and_then(|superblock| superblock.last_owner())),
            live: Mutex::default(),
            reservations: None,
            relies_on_reservation: AtomicBool::new(false),
            anybodys: AtomicBool::new(false),
        }
    }

    /// Who had it last when it was taken, or whom it was opened for since.
    pub fn last_owner(&self) -> Option<LastOwner> {
        *self.last_owner.lock()
    }

    /// The volume's own id, wherever it is and whatever it is called there. A blank one has an id once its log is opened: this
    /// one, if it is this process that opens it.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Whether nobody has opened a log on it yet.
    pub fn is_blank(&self) -> bool {
        self.plan.lock().is_some()
    }

    /// Like [`BlockMedium::new`], on a device that the caller brings. It must be the caller's alone (V1).
    ///
    /// # Errors
    /// As [`BlockMedium::new`].
    pub fn on_device(
        device: Arc<dyn Device>,
        uri: Uri,
        cluster: Uuid,
        config: Config,
    ) -> Result<BlockMedium, Error> {
        BlockMedium::own(device, uri, None, cluster, config)
    }

    fn own(
        device: Arc<dyn Device>,
        uri: Uri,
        capacity: Option<u64>,
        cluster: Uuid,
        config: Config,
    ) -> Result<BlockMedium, Error> {
        config.validate()?;
        let volume = Volume { device, uri, cluster };
        let found = volume.superblock()?;
        let superblock = match found {
            Some(superblock) => superblock,
            None => volume.plan(capacity)?,
        };
        let ring_bytes = superblock.ring_bytes;
        if let Some(capacity) = capacity.filter(|capacity| capacity.abs_diff(ring_bytes) > 1 << 20) {
            tracing::warn!(
                uri = %volume.uri, capacity, ring_bytes,
                "the volume keeps the capacity that it was made with"
            );
        }
        let plan = Mutex::new(found.is_none().then_some(superblock));
        Ok(BlockMedium { owned: true, plan, ..BlockMedium::of(volume, config, Some(superblock)) })
    }

    /// Shuts the last owner out of the device for good, if it holds its reservation: it must be fenced in the metadata. What
    /// it acknowledged is on the volume when this returns (P3, P4 of [`reservation`]).
    ///
    /// # Errors
    /// Why that is not certain; then its lease has to be waited out.
    pub async fn shut_out(&self, of: Incarnation, host: reservation::Host) -> Result<(), String> {
        self.reserving(move |device| reservation::shut_out(device, of, host)).await?;
        tokio::time::sleep(reservation::SETTLE_WAIT).await;
        Ok(())
    }

    /// Whether [`BlockMedium::shut_out`] may succeed, without shutting anybody out. Blocks.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn prepare_to_shut_out(&self, of: Incarnation, host: reservation::Host) -> Result<(), String> {
        let device = self.reservations.as_deref().ok_or_else(no_device)?;
        reservation::prepare(device, of, host)
    }

    /// Whether there will be a reservation to rely on, as far as one can tell without taking it from the owner `of`. Blocks.
    ///
    /// # Errors
    /// Why not.
    pub fn has_reservations(&self, of: Incarnation) -> Result<(), String> {
        reservation::has_them(self.reservations.as_deref().ok_or_else(no_device)?, of)
    }

    /// Nothing but a reservation keeps the last owner, or one before it, from writing: without one [`Medium::open`] refuses, and
    /// with it waits for what the device may still have of that one (P4 of [`reservation`]).
    pub fn rely_on_reservation(&self) {
        self.relies_on_reservation.store(true, Ordering::Relaxed);
    }

    /// The operator says that no other host can write to the volume: whoever holds a reservation is a leftover.
    pub fn is_detached_elsewhere(&self) {
        self.anybodys.store(true, Ordering::Relaxed);
    }

    async fn reserving(
        &self,
        run: impl FnOnce(&dyn Reservable) -> Result<(), String> + Send + 'static,
    ) -> Result<(), String> {
        let device = self.reservations.clone().ok_or_else(no_device)?;
        let done = host::work::blocking(move || run(&*device));
        // A thread that hangs in the kernel is left behind.
        match tokio::time::timeout(RESERVING_TIMEOUT, done).await {
            Ok(done) => done.map_err(|error| error.to_string())?,
            Err(_) => Err(format!("the device did not answer within {RESERVING_TIMEOUT:?}")),
        }
    }

    /// V8. Blocks.
    fn reserve(
        reservations: Option<Arc<dyn Reservable>>,
        volume: &Volume,
        owner: Incarnation,
        last: Option<Incarnation>,
        reserving: &Reserving,
    ) -> Result<Option<Held>, Error> {
        let claimed = match &reservations {
            Some(device) => reservation::claim(&**device, owner, last, reserving.anybodys),
            None => Claimed::Without(no_device()),
        };
        match (claimed, reservations) {
            (Claimed::Held, Some(device)) => {
                tracing::info!(uri = %volume.uri, "holds the device's persistent reservation: no other host can write to it");
                Ok(Some(Held::new(device, owner)))
            }
            (Claimed::Taken, _) => Err(volume.refuse(format!(
                "is reserved on its device by somebody who is not its last owner ({}): see who with `sg_persist --in \
                 --read-keys` or `nvme resv-report`. If no other host writes to it, start with --wal-detached, this once",
                last.map_or_else(|| "it has none".to_owned(), |last| format!("broker {}", last.broker))
            ))),
            (Claimed::Unclear(reason), _) => Err(volume.refuse(format!(
                "may be reserved on its device by this host or not, which does not say: {reason}. Start again, or with \
                 --wal-reservation off"
            ))),
            (Claimed::Without(reason), _) if reserving.required => Err(volume.refuse(format!(
                "has no persistent reservation, without which another host may still write to it: {reason}"
            ))),
            (Claimed::Without(reason), Some(_)) => {
                tracing::info!(uri = %volume.uri, "no persistent reservation, the lease alone keeps other hosts out: {reason}");
                Ok(None)
            }
            (_, None) => Ok(None),
        }
    }

    /// Reads the superblock and decides what there is to recover. Blocks.
    fn start_recovery(volume: Volume, previous: Incarnation, from: Position) -> Result<BlockRecovery, Error> {
        let Some(superblock) = volume.superblock()? else {
            return Err(volume.refuse(
                "is blank, but the metadata log knows of a log on it; attach the right volume".into(),
            ));
        };
        match superblock.owner {
            Some(owner) if owner.broker != previous.broker => Err(volume.refuse(format!(
                "belongs to broker {}, not to broker {}; each broker needs a volume of its own",
                owner.broker, previous.broker
            ))),
            Some(owner) if owner.epoch > previous.epoch => Err(Error::Fenced(format!(
                "{} was taken over by epoch {} of its broker; epoch {} has nothing left on it",
                volume.uri, owner.epoch, previous.epoch
            ))),
            Some(owner) if owner == previous => {
                if superblock.trim > from.0 {
                    let detail = format!(
                        "the volume is trimmed up to {}, the metadata log says {}: it is older than the volume",
                        superblock.trim, from.0
                    );
                    return Err(volume.corrupt(from.0, &detail));
                }
                if !from.0.is_multiple_of(u64::from(superblock.block_bytes)) {
                    return Err(
                        volume.corrupt(from.0, "the metadata log's trim point is no position in this log")
                    );
                }
                Ok(BlockRecovery::new(Scan::new(volume, superblock, previous, from.0)))
            }
            // V6.
            Some(older) => Err(volume.refuse(format!(
                "was last opened by epoch {} of broker {}, but its epoch {} left a log that was acknowledged; it is a copy of \
                 that time, or another volume. Attach the right one, and start again",
                older.epoch, older.broker, previous.epoch
            ))),
            None => Err(volume.refuse(format!(
                "never had an owner, but broker {} left its log of epoch {} there; attach the right volume or bring the file \
                 back",
                previous.broker, previous.epoch
            ))),
        }
    }

    /// Writes both superblocks for the new owner (V3) and starts the log. Blocks.
    async fn start_log(
        volume: Volume,
        config: &Config,
        owner: Incarnation,
        expected: Expected,
        claims_no_owner: bool,
        right: Arc<AckRight>,
        reserving: Reserving,
    ) -> Result<BlockWal, Error> {
        let last = expected.owner;
        let held = BlockMedium::reserve(reserving.reservations.clone(), &volume, owner, last, &reserving)?;
        let found = match (volume.superblock()?, expected.plan) {
            (Some(found), None) => found,
            (None, Some(plan)) => plan,
            (None, None) => {
                return Err(volume.refuse("was wiped while it was in use; start again".into()));
            }
            // V9.
            (Some(found), Some(_)) => {
                return Err(Error::Fenced(format!(
                    "{} was blank when this process took it, and has an owner, {:?}, now: another host writes to it",
                    volume.uri, found.owner
                )));
            }
        };
        // V7.
        if found.owner != last || found.volume != expected.volume {
            return Err(Error::Fenced(format!(
                "{} got another owner, {:?}, while this process held it: another host writes to it",
                volume.uri, found.owner
            )));
        }
        if let Some(previous) = found.owner {
            if previous.broker != owner.broker || claims_no_owner {
                return Err(volume.refuse(format!(
                    "holds the log of broker {}, epoch {}, which was not recovered; name another volume, or let that broker \
                     start on it first",
                    previous.broker, previous.epoch
                )));
            }
            if previous.epoch >= owner.epoch {
                return Err(Error::Fenced(format!(
                    "{} was opened by epoch {} of its broker already, this is epoch {}",
                    volume.uri, previous.epoch, owner.epoch
                )));
            }
        }
        let geometry = config.geometry(&found, &*volume.device);
        let mut superblock = Superblock {
            sequence: found.sequence + 1,
            owner: Some(owner),
            released: false,
            trim: 0,
            durable: 0,
            reach: geometry.reach(),
            ..found
        };
        // Of a reservation that this broker never had it is not told that it lost it.
        let refused = |error| {
            match error {
            Error::Fenced(_) if held.is_none() && expected.plan.is_some() => volume.refuse(
                "is blank, but reserved on its device by some host: clear the reservation first (from a host that is registered, \
                 `sg_persist --out --clear` or `nvme resv-release --rrela=1`), or name another device"
                    .into(),
            ),
            Error::Fenced(_) if held.is_none() => volume.refuse(
                "is reserved on its device, probably by who recovered its log, and this broker has no reservation of its own: \
                 give it one (--wal-reservation auto, and before Linux 6.4 CAP_SYS_ADMIN), or clear the device's \
                 (`sg_persist --out --clear`, `nvme resv-release --rrela=1`)"
                    .into(),
            ),
            error => error,
        }
        };
        volume.write_superblock(&superblock).await.map_err(refused)?;
        superblock.sequence += 1;
        volume.write_superblock(&superblock).await.map_err(refused)?;
        BlockWal::start(volume, superblock, geometry, right, held)
    }
}

/// A volume as it was when it was taken (V7, V9).
#[derive(Clone, Copy)]
struct Expected {
    volume: Uuid,
    owner: Option<Incarnation>,
    /// If it was blank.
    plan: Option<Superblock>,
}

/// How a log's owner goes about its device's reservation.
#[derive(Clone)]
struct Reserving {
    reservations: Option<Arc<dyn Reservable>>,
    required: bool,
    anybodys: bool,
}

/// How long a device may take to answer when an owner is shut out, before its lease is waited out instead. No option: as
/// long as a lease is at most, or so.
const RESERVING_TIMEOUT: Duration = Duration::from_secs(10);

fn reservations_at(path: &std::path::Path, config: &Config) -> Option<Arc<dyn Reservable>> {
    if config.reservation == reservation::Use::Off {
        return None;
    }
    PathReservations::open(path).map(|device| Arc::new(device) as Arc<dyn Reservable>)
}

fn no_device() -> String {
    "persistent reservations are a block device's, and not switched off (wal-reservation)".to_owned()
}

#[async_trait]
impl Medium for BlockMedium {
    fn uri(&self) -> &Uri {
        &self.volume.uri
    }

    async fn recover(&self, previous: Incarnation, from: Position) -> Result<Box<dyn Recovery>, Error> {
        if self.is_blank() {
            return Err(self.volume.refuse(format!(
                "is blank, but broker {} left its log of epoch {} there; attach the right volume or bring the file back",
                previous.broker, previous.epoch
            )));
        }
        let volume = self.volume.clone();
        let started = blocking(move || BlockMedium::start_recovery(volume, previous, from)).await?;
        Ok(Box::new(started))
    }

    /// What a read brought into this host's page cache would be found there by the recovery that counts.
    fn recovers_early(&self) -> bool {
        self.volume.device.is_direct()
    }

    async fn open(
        &self,
        owner: Incarnation,
        vacated: Vacated,
        right: Arc<AckRight>,
    ) -> Result<Arc<dyn Wal>, Error> {
        if !self.owned {
            return Err(self.volume.refuse("was opened to recover it, not to append to it".into()));
        }
        let before = self.live.lock().upgrade();
        if let Some(before) = before {
            if before.is_live() {
                return Err(self.volume.refuse("is open already in this process".into()));
            }
            before.ended().await;
        }
        let (volume, config) = (self.volume.clone(), self.config.clone());
        let claims_no_owner = vacated.claims_no_owner();
        let last = self.last_owner().map(|last| last.incarnation);
        let expected = Expected { volume: self.id, owner: last, plan: *self.plan.lock() };
        let required = self.config.reservation == reservation::Use::Required
            || self.relies_on_reservation.load(Ordering::Relaxed);
        let anybodys = self.anybodys.load(Ordering::Relaxed);
        let reserving = Reserving { reservations: self.reservations.clone(), required, anybodys };
        if self.relies_on_reservation.load(Ordering::Relaxed) {
            let (volume, reserving) = (volume.clone(), reserving.clone());
            blocking(move || {
                BlockMedium::reserve(reserving.reservations.clone(), &volume, owner, last, &reserving)
            })
            .await?;
            tracing::info!(
                uri = %self.volume.uri, wait = ?reservation::LANDING_WAIT,
                "waits for what the device may still have of earlier owners that did not close the volume"
            );
            tokio::time::sleep(reservation::LANDING_WAIT).await;
        }
        let wal = apart(async move {
            BlockMedium::start_log(volume, &config, owner, expected, claims_no_owner, right, reserving).await
        })
        .await?;
        *self.plan.lock() = None;
        *self.last_owner.lock() = Some(LastOwner { incarnation: owner, released: false });
        *self.live.lock() = wal.shared();
        Ok(Arc::new(wal))
    }
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    host::work::blocking(run).await.unwrap_or_else(|error| Err(died(&error)))
}

/// The same, where a simulated device has to be waited for.
async fn apart<T: Send + 'static>(
    run: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    host::work::apart(run).await.unwrap_or_else(|error| Err(died(&error)))
}

fn died(error: &std::io::Error) -> Error {
    Error::Failed(format!("a thread of the write-ahead log died: {error}"))
}
