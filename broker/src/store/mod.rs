//! The object store that a cluster lives in: from its URL to clients that are ready to use.
//!
//! ```text
//!   --store file:./ottla-data          a directory; one process at a time (an exclusive lock on it)
//!   --store s3://bucket/prefix         S3 and what speaks it; credentials as every AWS tool finds them
//!   --store gs://bucket/prefix         Google Cloud Storage; credentials as every Google tool finds them
//!   --store az://container/prefix      Azure Blob Storage; credentials from AZURE_* or the machine's identity
//!
//!   Location ──► Stores { metadata: fails fast, its callers resolve outcomes themselves
//!                         data:     a few retries, for bulk transfer }
//! ```
//!
//! Whatever is asked of them is counted by purpose: see [`meter`].
//!
//! Two clients, because a hidden retry of a conditional create can report one's own success as "already exists"
//! (object_store retries 5xx even for those), and because a metadata append must not sit in a three-minute retry loop.

mod ahead;
mod answers;
mod aws_profile;
mod azure;
pub mod create;
mod directory;
mod gcs;
mod location;
mod lock;
pub mod meter;
mod metered;
mod rotating_keys;
mod s3;
mod staged;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use wal::{Incarnation, Position};

pub use answers::advice;
pub use azure::AzureOptions;
pub use gcs::GcsOptions;
pub use location::{Cloud, Location};
pub use lock::DirectoryLock;
pub use meter::{Meter, Purpose};
pub use s3::S3Options;

use ahead::Ahead;
use directory::Directory;
use metered::{Connector, Metered};

/// Clients for one store, scoped to the cluster's prefix.
#[derive(Debug)]
pub struct Stores {
    pub location: Location,
    /// For conditional creates whose outcome the caller resolves: no hidden retries, short time-out.
    pub metadata: Arc<dyn ObjectStore>,
    /// What is asked of the store, and why.
    pub meter: Arc<Meter>,
    /// Held for a directory store: a second process is refused.
    pub lock: Option<DirectoryLock>,
    data: Arc<dyn ObjectStore>,
    /// Where calls are counted, as there is no wire.
    calls: Option<Arc<Meter>>,
    ahead: Arc<ahead::Kept>,
}

impl Stores {
    fn new(
        location: Location,
        metadata: Arc<dyn ObjectStore>,
        data: Arc<dyn ObjectStore>,
        meter: Arc<Meter>,
        lock: Option<DirectoryLock>,
    ) -> Stores {
        let calls = matches!(location, Location::Directory(_)).then(|| meter.clone());
        let metadata = Arc::new(Metered::new(metadata, Purpose::Metadata, calls.clone()));
        Stores { location, metadata, meter, lock, data, calls, ahead: Arc::default() }
    }

    /// Of a machine that is simulated, whatever the location says.
    #[cfg(feature = "simulated")]
    fn simulated(location: Location, machine: &dyn host::simulated::Machine, limits: &Limits) -> Stores {
        let (metadata, data) = (machine.store(limits.metadata_timeout), machine.store(limits.data_timeout));
        let mut stores = Stores::new(location, metadata, data, Arc::default(), None);
        stores.calls = Some(stores.meter.clone());
        stores
    }

    /// For data objects and slots: a few retries, a time-out that fits a large object. What is asked through it counts
    /// as `purpose`'s.
    pub fn data(&self, purpose: Purpose) -> Arc<dyn ObjectStore> {
        let metered = self.metered(purpose);
        match purpose {
            Purpose::Recovery | Purpose::Read => Arc::new(Ahead::new(metered, self.ahead.clone())),
            _ => metered,
        }
    }

    fn metered(&self, purpose: Purpose) -> Arc<dyn ObjectStore> {
        Arc::new(Metered::new(self.data.clone(), purpose, self.calls.clone()))
    }

    /// Fetches what a broker that died left in its slots from `from` on, for whoever is about to ask for it here: see
    /// `ahead`. `bytes_max` bounds all that is kept and under way. Ends when it is forgotten again.
    pub async fn fetch_ahead(&self, of: Incarnation, from: Position, bytes_max: usize) {
        self.ahead.fetch(self.metered(Purpose::Recovery), of, from, bytes_max).await;
    }
}

/// How to reach the store, beyond what the URL says. Each cloud reads its own.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub s3: S3Options,
    pub gcs: GcsOptions,
    pub azure: AzureOptions,
    pub limits: Limits,
}

/// How long the clients of a bucket wait, and how often they try. What is above them has time-outs and retries of its own.
#[derive(Clone, Debug)]
pub struct Limits {
    /// For making a connection. Default 5 s.
    pub connect_timeout: Duration,
    /// For one request of the metadata log. Default 5 s.
    pub metadata_timeout: Duration,
    /// For one attempt of any other request, a PUT of 96 MiB on a slow line among them. Default 2 min.
    pub data_timeout: Duration,
    /// How often one of the latter is repeated by the client itself. Default 3.
    pub data_retries_max: usize,
    /// The longest pause between those attempts; the first is 100 ms, and it doubles. Default 2 s.
    pub data_retry_pause_max: Duration,
    /// Idle connections kept by each of the two clients. Default 64.
    pub idle_connections_max: usize,
    /// How often keys from the AWS tools' files are read again. Default 10 s.
    pub keys_reload: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connect_timeout: Duration::from_secs(5),
            metadata_timeout: Duration::from_secs(5),
            data_timeout: Duration::from_secs(120),
            data_retries_max: 3,
            data_retry_pause_max: Duration::from_secs(2),
            idle_connections_max: 64,
            keys_reload: Duration::from_secs(10),
        }
    }
}

/// Why a store cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the store {store:?} is not understood: {detail}. Use file:PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"
    )]
    Location { store: String, detail: String },
    #[error("the store directory {} cannot be used: {source}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error(
        "the store {} is in use by another process ({holder}). Stop it first, or give this one a store of its own with --store",
        path.display()
    )]
    Locked { path: PathBuf, holder: String },
    #[error("the client for {store} cannot be set up: {detail}")]
    Client { store: String, detail: String },
    #[error("AWS profile {profile:?}: {detail}")]
    Profile { profile: String, detail: String },
}

/// What is said of a name or a password in a URL.
const KEYS_IN_URL: &str = "keys go into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or into the AWS tools' files, never \
                           into a URL, which ends up in logs";

/// Opens `location`. A directory is created if it is missing and locked for this process.
pub fn open(location: Location, access: &Access) -> Result<Stores, Error> {
    #[cfg(feature = "simulated")]
    if let Some(machine) = host::simulated::current() {
        return Ok(Stores::simulated(location, &*machine, &access.limits));
    }
    match &location {
        Location::Directory(path) => {
            let directory_error = |source| Error::Directory { path: path.clone(), source };
            std::fs::create_dir_all(path).map_err(directory_error)?;
            let lock = DirectoryLock::acquire(path)?;
            let objects = path.join("objects");
            std::fs::create_dir_all(&objects).map_err(directory_error)?;
            let local =
                Directory::new(&objects).map_err(|error| directory_error(std::io::Error::other(error)))?;
            let store: Arc<dyn ObjectStore> = Arc::new(local);
            Ok(Stores::new(location, store.clone(), store, Arc::default(), Some(lock)))
        }
        Location::Bucket { cloud, bucket, prefix } => {
            let meter = Arc::<Meter>::default();
            let connector = Connector::new(bucket, meter.clone());
            let client = |patience: &Patience| match cloud {
                Cloud::S3 => {
                    let target = s3::target(bucket, &access.s3)?;
                    let client = s3::client(bucket, target, patience, connector.clone())?;
                    Ok(Arc::new(client) as Arc<dyn ObjectStore>)
                }
                Cloud::Gcs => gcs::client(bucket, &access.gcs, patience, connector.clone()),
                Cloud::Azure => azure::client(bucket, &access.azure, patience, connector.clone()),
            };
            let limits = &access.limits;
            let metadata = client(&Patience { limits, timeout: limits.metadata_timeout, retries_max: 0 })?;
            let retries_max = limits.data_retries_max;
            let data = client(&Patience { limits, timeout: limits.data_timeout, retries_max })?;
            let scoped = |store: Arc<dyn ObjectStore>| match prefix.as_str() {
                "" => store,
                prefix => Arc::new(PrefixStore::new(store, prefix)),
            };
            let (metadata, data) = (scoped(metadata), scoped(data));
            Ok(Stores::new(location, metadata, data, meter, None))
        }
    }
}

/// Opens `location` for somebody who only reads: no lock is taken, so it works beside a living broker, and nothing is
/// created.
pub fn open_for_reading(location: Location, access: &Access) -> Result<Stores, Error> {
    #[cfg(feature = "simulated")]
    if host::simulated::current().is_some() {
        return open(location, access);
    }
    let Location::Directory(path) = &location else { return open(location, access) };
    let objects = path.join("objects");
    let local = LocalFileSystem::new_with_prefix(&objects).map_err(|error| Error::Directory {
        path: path.clone(),
        source: match std::fs::metadata(&objects) {
            Err(missing) => missing,
            Ok(_) => std::io::Error::other(error),
        },
    })?;
    let store: Arc<dyn ObjectStore> = Arc::new(local);
    Ok(Stores::new(location, store.clone(), store, Arc::default(), None))
}

/// What tells the two clients of a bucket apart.
struct Patience<'a> {
    limits: &'a Limits,
    timeout: Duration,
    retries_max: usize,
}

impl Patience<'_> {
    fn retry(&self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig {
                max_backoff: self.limits.data_retry_pause_max,
                ..BackoffConfig::default()
            },
            max_retries: self.retries_max,
            retry_timeout: self.timeout * (self.retries_max as u32 + 1),
        }
    }

    fn client(&self, allow_http: bool) -> ClientOptions {
        ClientOptions::new()
            .with_timeout(self.timeout)
            .with_connect_timeout(self.limits.connect_timeout)
            .with_pool_max_idle_per_host(self.limits.idle_connections_max)
            .with_allow_http(allow_http)
    }
}

/// Of a variable that is set to something.
fn from_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Endpoints are printed; secrets must not be. Data and signatures cross the network unencrypted only where somebody
/// said so; `flag` is how.
fn check_endpoint(endpoint: Option<&str>, allow_http: bool, flag: &str) -> Result<(), String> {
    match endpoint {
        Some(endpoint) if location::has_keys(endpoint) => {
            Err(format!("the endpoint holds a name or a password: {KEYS_IN_URL}"))
        }
        Some(endpoint) if endpoint.starts_with("http://") && !allow_http => Err(format!(
            "the endpoint {endpoint} is plain HTTP, which sends data and signatures unencrypted. Say {flag} if that is \
             meant"
        )),
        _ => Ok(()),
    }
}
