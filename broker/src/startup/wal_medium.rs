//! From a WAL's name to its medium: ours, and those that earlier incarnations left.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use object_store::ObjectStore;
use s3stream::object::ObjectSlotCodec;
use uuid::Uuid;
use wal::block::BlockMedium;
use wal::object::ObjectMedium;
use wal::uri::Target;
use wal::{Medium, Uri};

use crate::options::{Options, WalChoice};

/// What any WAL of this cluster is opened with.
pub(super) struct Media<'a> {
    pub options: &'a Options,
    pub cluster: Uuid,
    pub store: Arc<dyn ObjectStore>,
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
            WalChoice::Object => Ok(self.object()),
            WalChoice::Block(uri) => self.block(uri),
        }
    }

    /// A log that an earlier incarnation wrote.
    pub fn theirs(&self, uri: &Uri) -> anyhow::Result<Opened> {
        match uri.target()? {
            Target::Object { .. } => Ok(self.object()),
            Target::Block { path, .. } => {
                ensure!(
                    path.exists(),
                    "{uri} is not there, and it may hold records that were acknowledged and are nowhere else. Attach the \
                     volume, or restore the file, and start again"
                );
                self.block(uri)
            }
            Target::Memory { .. } => anyhow::bail!("{uri} was in the memory of a process that is gone"),
        }
    }

    fn object(&self) -> Opened {
        let config = wal::object::Config {
            puts_per_second_max: f64::from(self.options.wal_puts_per_second),
            puts_burst_max: f64::from(self.options.wal_puts_per_second),
            // Slots go only when nobody can hold a right any more that was granted before they were trimmed.
            delete_delay: (self.options.lease * 10).max(wal::object::Config::default().delete_delay),
            ..wal::object::Config::default()
        };
        let codec = Arc::new(ObjectSlotCodec::default());
        // Epochs alone make it safe; there is nothing to wait for.
        Opened { medium: Arc::new(ObjectMedium::new(self.store.clone(), codec, config)), exclusive: true }
    }

    fn block(&self, uri: &Uri) -> anyhow::Result<Opened> {
        let medium = BlockMedium::new(uri, self.cluster, wal::block::Config::default())
            .with_context(|| format!("the write-ahead log {uri} cannot be used"))?;
        let exclusive = match uri.target()? {
            Target::Block { path, .. } => is_regular_file(&path),
            _ => false,
        };
        Ok(Opened { medium: Arc::new(medium), exclusive })
    }
}

/// A file's lock is known to every process that can write to it. A device's is not, where several hosts can attach it.
fn is_regular_file(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}
