//! From a WAL's name to its medium: our own log, and those that other lives left, whoever they were.
//!
//! ```text
//!   Uri of a life ──► object: ──► slots in the bucket, for whoever asks
//!                └──► block:  ──► our own volume, which we hold the lock of
//!                             └─► another one: brought here by --wal-attach where it is not here; only read (B2)
//! ```
//!
//! - **M1** Recovery only reads a volume. Whoever writes to one has taken it with [`Media::ours`].
//! - **M2** [`Opened::exclusive`] is claimed only on proof that nobody writes to the log any more: the epochs of an object
//!   log; the last word of an owner that closed its log in order; for a file of an owner under this very kernel, the lock that
//!   it held until its last write; the device, which removed its owner's reservation. Otherwise the lease has to be
//!   waited out (B1). That an operator's command moved a volume proves nothing, nor does a lock on a file system that is not
//!   known to be one machine's.
//! - **M3** A volume that another host may still write to is not taken for our own log, and so never formatted (B2):
//!   [`check_ours`]. Whoever may write to it must have closed it, or have had a device as a process of this kernel, or a file on
//!   a file system that one machine mounts; or the device must be able to keep that one out (persistent reservations). An
//!   operator who knows better says so (`--wal-detached`). An equal machine id is no proof.
//! - **M4** A process that may be on its last owner's host does not ask a device to shut that one out (P3): the lease is
//!   waited out, and a reservation taken when the log is opened.
//! - **M5** Who may write to a volume is not only its last owner, by its superblock, but every life that claimed it with its
//!   registration ([`volumes`](crate::metadata::volumes)), whether its first write has come there or not, and whether it was
//!   fenced or recovered since; and of a blank volume every life that is to format one which may be the same. A claim says
//!   of whom it is proved that they can write no more, and those alone are forgotten: who is kept out by a reservation
//!   may write again when that is given back.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;
use s3stream::object::ObjectSlotCodec;
use tokio::time::Instant;
use uuid::Uuid;
use wal::block::reservation::Host;
use wal::block::{BlockMedium, LastOwner};
use wal::object::ObjectMedium;
use wal::uri::Target;
use wal::{Incarnation, Medium, Uri};

use crate::machine;
use crate::options::{Options, WalChoice};
use crate::store::{Purpose, Stores};

mod attach;
mod ours;

pub use attach::Attach;
pub use ours::{Judged, LastWriter, check_ours};

/// Times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Of the operator's command that attaches a volume. Default 2 min.
    pub attach_timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config { attach_timeout: Duration::from_secs(120) }
    }
}

/// What any WAL of this cluster is opened with.
#[derive(Debug)]
pub struct Media {
    pub cluster: Uuid,
    pub stores: Arc<Stores>,
    /// The machine that this process runs on ([`machine::here`]).
    pub machine: String,
    wal: WalChoice,
    block: wal::block::Config,
    object: wal::object::Config,
    attach: Option<Attach>,
}

/// A medium, and whether anybody else can still write to it.
#[derive(Debug)]
pub struct Opened {
    pub medium: Arc<dyn Medium>,
    /// Nobody can: a lease need not be waited out (M2).
    pub exclusive: bool,
}

/// The log that this process is to write.
#[derive(Debug)]
pub struct Ours {
    pub medium: Arc<dyn Medium>,
    /// The same, if it is a volume.
    volume: Option<Arc<BlockMedium>>,
    /// Who wrote it last, if it is a volume.
    pub last_owner: Option<LastOwner>,
    /// Lives as which this process registered, and does not go on.
    forgone: Mutex<Vec<Incarnation>>,
}

async fn shut_out(volume: &BlockMedium, of: Incarnation, host: Host) -> bool {
    let Incarnation { broker, epoch } = of;
    match volume.shut_out(of, host).await {
        Ok(()) => {
            tracing::info!(
                broker,
                epoch,
                "its host cannot write to its volume any more: the device has removed its reservation"
            );
            true
        }
        Err(reason) => {
            tracing::info!(
                broker,
                epoch,
                "its lease is waited out, since no reservation was taken from it: {reason}"
            );
            false
        }
    }
}

/// M4. `None`: nobody knows where it was.
fn whose_host(theirs: Option<&str>, here: &str) -> Host {
    match theirs {
        Some(theirs) if machine::is_another_host(theirs, here) => Host::Another,
        _ => Host::PerhapsItsOwn,
    }
}

impl Media {
    pub fn new(options: &Options, cluster: Uuid, stores: Arc<Stores>, machine: String) -> Media {
        let bounds = &options.bounds;
        Media {
            cluster,
            stores,
            machine,
            wal: options.wal.clone(),
            block: bounds.block_wal.clone(),
            object: bounds.object_wal.clone(),
            attach: options
                .wal_attach
                .clone()
                .map(|command| Attach::new(command, bounds.media.attach_timeout)),
        }
    }

    /// How long the operator's command that attaches volumes may take, if there is one.
    pub fn attach_timeout(&self) -> Option<Duration> {
        self.attach.as_ref().map(Attach::timeout)
    }

    /// The log that this process will write. Takes its lock, and makes it if it is missing. Blocks.
    pub fn ours(&self) -> anyhow::Result<Ours> {
        match &self.wal {
            WalChoice::Object => {
                let medium = self.object(Purpose::Wal);
                Ok(Ours { medium, volume: None, last_owner: None, forgone: Mutex::default() })
            }
            WalChoice::Block(uri) => {
                let medium = BlockMedium::new(uri, self.cluster, self.block.clone())
                    .with_context(|| format!("the write-ahead log {uri} cannot be used"))?;
                let (last_owner, medium) = (medium.last_owner(), Arc::new(medium));
                Ok(Ours {
                    medium: medium.clone(),
                    volume: Some(medium),
                    last_owner,
                    forgone: Mutex::default(),
                })
            }
        }
    }

    /// The log that the life `of`, which is fenced, left at `uri`, of a broker that registered from `machine` if that is known.
    /// Not for the volume that this process holds itself. A command that brings it here has to end by `until`.
    pub async fn left(
        &self,
        of: Incarnation,
        uri: &Uri,
        machine: Option<&str>,
        until: Option<Instant>,
    ) -> anyhow::Result<Opened> {
        match uri.target()? {
            // The same bucket, for another purpose. Epochs alone make it safe.
            Target::Object { .. } => Ok(Opened { medium: self.object(Purpose::Recovery), exclusive: true }),
            Target::Block { path, .. } => self.left_volume(of, uri, path, machine, until).await,
            Target::Memory { .. } => bail!("{uri} was in the memory of a process that is gone"),
        }
    }

    async fn left_volume(
        &self,
        of: Incarnation,
        uri: &Uri,
        path: PathBuf,
        machine: Option<&str>,
        until: Option<Instant>,
    ) -> anyhow::Result<Opened> {
        let host = whose_host(machine, &self.machine);
        let same_kernel = machine.is_some_and(|theirs| machine::is_same_kernel(theirs, &self.machine));
        let same_machine =
            same_kernel || machine.is_some_and(|theirs| machine::is_same(theirs, &self.machine));
        // What is here is looked at as it is; a command that moves volumes is only asked for what is not, or not for certain.
        let is_here = same_machine && is_regular_file(&path);
        let at = match &self.attach {
            Some(attach) if !is_here => attach.run(of, uri, until).await?.unwrap_or(path),
            _ => path,
        };
        let (cluster, config, name) = (self.cluster, self.block.clone(), uri.clone());
        let opened = host::work::blocking(move || {
            ensure!(
                exists(&at),
                "{name} is not here ({} does not exist), and it may hold records that were acknowledged and are nowhere \
                 else. Attach the volume (--wal-attach names a command that does), or restore the file",
                at.display()
            );
            let medium = BlockMedium::for_recovery(&Uri::block(&at, None)?, cluster, config)?;
            let last = medium.last_owner();
            // A lock proves something of this very volume only.
            let is_its = last.is_some_and(|last| last.incarnation == of);
            let released = is_its && last.is_some_and(|last| last.released);
            let locked_out = is_its
                && is_regular_file(&at)
                && same_kernel
                && is_one_machines(&at)
                && wal::block::device::is_unlocked(&at)?;
            Ok((Arc::new(medium), is_its, released || locked_out))
        });
        let (medium, is_its, exclusive) = opened.await??;
        let exclusive = exclusive || (is_its && shut_out(&medium, of, host).await);
        Ok(Opened { medium, exclusive })
    }

    fn object(&self, purpose: Purpose) -> Arc<dyn Medium> {
        let codec = Arc::new(ObjectSlotCodec::default());
        let store = self.stores.data(purpose);
        let meter = self.stores.meter.clone();
        let medium =
            ObjectMedium::new(store, codec, self.object.clone()).beside(Arc::new(move || meter.puts()));
        Arc::new(medium)
    }
}

/// Beyond a batch, what of an append has to fit into the log's largest record: a bound, no measure.
const APPEND_OVERHEAD_BYTES: u64 = 64 << 10;

/// The largest batch that the log of `options` is certain to take, bytes. A volume that exists already may be smaller
/// than its name says, and then take less: what is too large for it is refused when it is produced.
pub(crate) fn batch_bytes_max(options: &Options) -> u64 {
    let record = match &options.wal {
        WalChoice::Object => options.bounds.object_wal.record_bytes_max as u64,
        WalChoice::Block(uri) => {
            let frame = options.bounds.block_wal.frame_bytes_max as u64;
            match uri.target() {
                Ok(Target::Block { capacity: Some(capacity), .. }) => frame.min(capacity / 4),
                _ => frame,
            }
        }
    };
    record.saturating_sub(APPEND_OVERHEAD_BYTES)
}

/// Whether two names mean the same log: a volume's capacity may be said or not, and its path may lead through links.
pub(crate) fn is_same(one: &Uri, other: &Uri) -> bool {
    match (one.target(), other.target()) {
        (Ok(Target::Block { path: one, .. }), Ok(Target::Block { path: other, .. })) => {
            one == other || file_id(&one).is_some_and(|id| file_id(&other) == Some(id))
        }
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// What tells a file, or a device, from every other one of this host.
fn file_id(path: &Path) -> Option<(bool, u64, u64)> {
    #[cfg(feature = "simulated")]
    if let Some(machine) = host::simulated::current() {
        return machine.look(path).map(|found| (!found.is_file, 0, found.id));
    }
    let metadata = std::fs::metadata(path).ok()?;
    let is_device = metadata.file_type().is_block_device();
    Some(if is_device { (true, metadata.rdev(), 0) } else { (false, metadata.dev(), metadata.ino()) })
}

fn exists(path: &Path) -> bool {
    #[cfg(feature = "simulated")]
    if let Some(machine) = host::simulated::current() {
        return machine.look(path).is_some();
    }
    path.exists()
}

/// A device's lock says nothing where several machines can attach it.
fn is_regular_file(path: &Path) -> bool {
    #[cfg(feature = "simulated")]
    if let Some(machine) = host::simulated::current() {
        return machine.look(path).is_some_and(|found| found.is_file);
    }
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

/// File systems that only one machine mounts for writing, by their magic numbers: ext2 to ext4, XFS, Btrfs, F2FS, ZFS, bcachefs,
/// JFS, tmpfs, ramfs; and an overlay, whose files can be written on none but a local one.
const LOCAL_FILE_SYSTEMS: [u64; 10] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
    0x3153_464a,
    0x0102_1994,
    0x8584_58f6,
    0x794c_7630,
];

/// Whether a lock on this file is known to every process of every machine that can write to it, and is free only when what
/// its holder had on its way has arrived. On every other file system, a network's or a program's (FUSE), it may arrive later.
fn is_one_machines(path: &Path) -> bool {
    #[cfg(feature = "simulated")]
    if let Some(machine) = host::simulated::current() {
        return machine.look(path).is_some_and(|found| found.is_one_machines);
    }
    rustix::fs::statfs(path).is_ok_and(|found| LOCAL_FILE_SYSTEMS.contains(&u64::from(found.f_type as u32)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use object_store::ObjectStoreExt;
    use s3stream::record::{KIND_DATA, RecordMeta};
    use wal::{AckRight, Incarnation, Record, Vacated};

    use super::*;
    use crate::options::{arguments, gather};

    fn options(given: &[&str]) -> Options {
        let given = std::iter::once("serve").chain(given.iter().copied());
        let matches = clap::Command::new("serve").args(arguments()).get_matches_from(given);
        Options::from_values(&gather(&matches, []).unwrap()).unwrap()
    }

    /// M4: under one kernel, or who knows where, nobody registers with the device.
    #[test]
    fn nobody_shuts_out_a_host_that_may_be_its_own() {
        for (theirs, host) in [
            (Some("n/2"), Host::Another),
            (Some("m/1"), Host::PerhapsItsOwn),
            (Some("n/1"), Host::PerhapsItsOwn),
            (Some("m/2"), Host::PerhapsItsOwn),
            (Some("n/-"), Host::PerhapsItsOwn),
            (Some("n"), Host::PerhapsItsOwn),
            (None, Host::PerhapsItsOwn),
        ] {
            assert_eq!(whose_host(theirs, "m/1"), host, "{theirs:?}");
        }
    }

    /// M2: only a file system that is known to be one machine's.
    #[test]
    fn a_lock_is_a_proof_on_local_file_systems_alone() {
        let directory = tempfile::tempdir().unwrap();
        assert!(is_one_machines(directory.path()), "a file system of this machine");
        assert!(is_one_machines(Path::new("/dev/shm")), "tmpfs");
        for another in ["/proc/self/status", "/gone"] {
            assert!(!is_one_machines(Path::new(another)), "{another}");
        }
    }

    #[test]
    fn the_largest_batch_follows_from_the_log() {
        let limit = |given: &[&str]| batch_bytes_max(&options(given));
        assert_eq!(limit(&[]), (8 << 20) - (64 << 10));
        assert_eq!(limit(&["--block-wal-frame=6MiB"]), (6 << 20) - (64 << 10));
        assert_eq!(limit(&["--wal=block:///wal?capacity=16MiB"]), (4 << 20) - (64 << 10));
        assert_eq!(limit(&["--wal=object"]), (112 << 20) - (64 << 10));
    }

    /// The budget is the broker's: what uploads send is what the log does not.
    #[tokio::test(start_paused = true)]
    async fn the_log_shares_its_budget_with_everybody() {
        let directory = tempfile::tempdir().unwrap();
        let store = format!("--store=file:{}", directory.path().display());
        let options = options(&[&store, "--wal=object", "--puts-per-second=16"]);
        let stores = crate::store::open(options.store.clone(), &options.access).unwrap();
        let media = Media::new(&options, Uuid::nil(), Arc::new(stores), "here".to_owned());
        let owner = Incarnation { broker: 1, epoch: 1 };
        let right = Arc::new(AckRight::unlimited());
        let wal = media.ours().unwrap().medium.open(owner, Vacated::nothing_left(), right).await.unwrap();
        let mut next = 0;
        let mut sent_by_the_log = async |for_ms: u64| {
            let before = media.stores.meter.totals(Purpose::Wal).puts;
            let mut appended = Vec::new();
            for _ in 0..for_ms / 10 {
                next += 1;
                let stream = s3stream::StreamId(1);
                let meta =
                    RecordMeta { stream, stream_epoch: 1, base: next, end: next + 1, max_timestamp: -1 };
                let body = Bytes::from_static(b"a body");
                appended.push(wal.append(Record { kind: KIND_DATA, meta: meta.encode(), body }).unwrap());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            for append in appended {
                append.await.unwrap();
            }
            media.stores.meter.totals(Purpose::Wal).puts - before
        };
        // Until what was saved up is spent.
        sent_by_the_log(2_000).await;
        let alone = sent_by_the_log(4_000).await;
        let upload = media.stores.data(Purpose::Upload);
        for number in 0..100 {
            upload.put(&format!("object-{number}").into(), "it".into()).await.unwrap();
        }
        let beside = sent_by_the_log(4_000).await;
        println!("{alone} slots alone, {beside} beside uploads");
        assert!((60..=70).contains(&alone), "16 a second: {alone}");
        assert!((16..=40).contains(&beside), "10 a second less, and then somewhat more: {beside}");
    }

    #[test]
    fn a_volume_is_the_same_under_every_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wal");
        let (link, other) = (directory.path().join("link"), directory.path().join("other"));
        for file in [&path, &other] {
            std::fs::File::create(file).unwrap();
        }
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let uri = |path: &Path, capacity| Uri::block(path, capacity).unwrap();
        let ours = uri(&path, Some(64 << 20));
        for same in [uri(&path, None), uri(&path, Some(1 << 30)), uri(&link, None)] {
            assert!(is_same(&same, &ours) && is_same(&ours, &same), "{same} is {ours}");
        }
        let gone = uri(&directory.path().join("gone"), None);
        for another in [uri(&other, Some(64 << 20)), gone.clone(), Uri("object:".to_owned())] {
            assert!(!is_same(&another, &ours) && !is_same(&ours, &another), "{another} is not {ours}");
        }
        assert!(is_same(&gone, &gone) && is_same(&Uri("object:".to_owned()), &Uri("object:".to_owned())));
    }
}
