//! From a WAL's name to its medium: ours, and those that earlier incarnations left.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use s3stream::object::ObjectSlotCodec;
use uuid::Uuid;
use wal::block::BlockMedium;
use wal::object::ObjectMedium;
use wal::uri::Target;
use wal::{Medium, Uri};

use crate::options::{Options, WalChoice};
use crate::store::{Purpose, Stores};

/// What any WAL of this cluster is opened with.
pub(super) struct Media<'a> {
    pub options: &'a Options,
    pub cluster: Uuid,
    pub stores: &'a Stores,
}

/// A medium, and whether nobody else can have it open.
pub(super) struct Opened {
    pub medium: Arc<dyn Medium>,
    /// Its lock cannot be had while another process, on this host or any other, still writes to it: a lease need not be
    /// waited out (B1, B2).
    pub exclusive: bool,
}

impl Media<'_> {
    /// The log that this process will write. Takes its lock, and makes it if it is missing.
    pub fn ours(&self) -> anyhow::Result<Opened> {
        match &self.options.wal {
            WalChoice::Object => Ok(self.object(Purpose::Wal)),
            WalChoice::Block(uri) => self.block(uri),
        }
    }

    /// A log that an earlier incarnation wrote; `None` if it is the volume that [`ours`](Media::ours) holds the lock of.
    pub fn left(&self, uri: &Uri, is_ours: bool) -> anyhow::Result<Option<Opened>> {
        match uri.target()? {
            // The same bucket, for another purpose.
            Target::Object { .. } => Ok(Some(self.object(Purpose::Recovery))),
            Target::Block { .. } if is_ours => Ok(None),
            Target::Block { path, .. } => {
                ensure!(
                    path.exists(),
                    "{uri} is not there, and it may hold records that were acknowledged and are nowhere else. Attach the \
                     volume, or restore the file, and start again"
                );
                self.block(uri).map(Some)
            }
            Target::Memory { .. } => anyhow::bail!("{uri} was in the memory of a process that is gone"),
        }
    }

    fn object(&self, purpose: Purpose) -> Opened {
        let codec = Arc::new(ObjectSlotCodec::default());
        let store = self.stores.data(purpose);
        let meter = self.stores.meter.clone();
        let medium = ObjectMedium::new(store, codec, self.options.bounds.object_wal.clone())
            .beside(Arc::new(move || meter.puts()));
        // Epochs alone make it safe; there is nothing to wait for.
        Opened { medium: Arc::new(medium), exclusive: true }
    }

    fn block(&self, uri: &Uri) -> anyhow::Result<Opened> {
        let medium = BlockMedium::new(uri, self.cluster, self.options.bounds.block_wal.clone())
            .with_context(|| format!("the write-ahead log {uri} cannot be used"))?;
        let exclusive = match uri.target()? {
            Target::Block { path, .. } => is_regular_file(&path),
            _ => false,
        };
        Ok(Opened { medium: Arc::new(medium), exclusive })
    }
}

/// Beyond a batch, what of an append has to fit into the log's largest record: a bound, no measure.
const APPEND_OVERHEAD_BYTES: u64 = 64 << 10;

/// The largest batch that the log of `options` is certain to take, bytes. A volume that exists already may be smaller
/// than its name says, and then take less: what is too large for it is refused when it is produced.
pub(super) fn batch_bytes_max(options: &Options) -> u64 {
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
pub(super) fn is_same(one: &Uri, other: &Uri) -> bool {
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
    let metadata = std::fs::metadata(path).ok()?;
    let is_device = metadata.file_type().is_block_device();
    Some(if is_device { (true, metadata.rdev(), 0) } else { (false, metadata.dev(), metadata.ino()) })
}

/// A file's lock is known to every process that can write to it. A device's is not, where several hosts can attach it.
fn is_regular_file(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
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
        let media = Media { options: &options, cluster: Uuid::nil(), stores: &stores };
        let owner = Incarnation { broker: 1, epoch: 1 };
        let right = Arc::new(AckRight::unlimited());
        let wal = media.ours().unwrap().medium.open(owner, Vacated::nothing_left(), right).await.unwrap();
        let mut next = 0;
        let mut sent_by_the_log = async |for_ms: u64| {
            let before = stores.meter.totals(Purpose::Wal).puts;
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
            stores.meter.totals(Purpose::Wal).puts - before
        };
        // Until what was saved up is spent.
        sent_by_the_log(2_000).await;
        let alone = sent_by_the_log(4_000).await;
        let upload = stores.data(Purpose::Upload);
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
