//! The object store that a cluster lives in: from its URL to clients that are ready to use.
//!
//! ```text
//!   --store file:./ottla-data          a directory; one process at a time (an exclusive lock on it)
//!   --store s3://bucket/prefix         S3 and what speaks it; credentials as every AWS tool finds them
//!
//!   Location ──► Stores { metadata: fails fast, its callers resolve outcomes themselves
//!                         data:     a few retries, for bulk transfer }
//! ```
//!
//! Two clients, because a hidden retry of a conditional create can report one's own success as "already exists"
//! (object_store retries 5xx even for those), and because a metadata append must not sit in a three-minute retry loop.

mod aws_profile;
mod location;
mod lock;
mod rotating_keys;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

pub use location::Location;
pub use lock::DirectoryLock;
use rotating_keys::RotatingKeys;

/// Clients for one store, scoped to the cluster's prefix.
#[derive(Debug)]
pub struct Stores {
    pub location: Location,
    /// For conditional creates whose outcome the caller resolves: no hidden retries, short time-out.
    pub metadata: Arc<dyn ObjectStore>,
    /// For data objects: a few retries, a time-out that fits a large object.
    pub data: Arc<dyn ObjectStore>,
    /// Held for a directory store: a second process is refused.
    pub lock: Option<DirectoryLock>,
}

/// How to reach S3, beyond what the URL says.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// `http://host:port` of an S3-compatible server; AWS where absent.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Bucket in the path instead of the host name. Default: yes with an endpoint, no without.
    pub path_style: Option<bool>,
    pub allow_http: bool,
    pub limits: S3Limits,
}

/// How long the S3 clients wait, and how often they try. What is above them has time-outs and retries of its own.
#[derive(Clone, Debug)]
pub struct S3Limits {
    /// For making a connection. Default 5 s.
    pub connect_timeout: Duration,
    /// For one request of the metadata log. Default 5 s.
    pub metadata_timeout: Duration,
    /// For one attempt of any other request. Default 30 s.
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

impl Default for S3Limits {
    fn default() -> S3Limits {
        S3Limits {
            connect_timeout: Duration::from_secs(5),
            metadata_timeout: Duration::from_secs(5),
            data_timeout: Duration::from_secs(30),
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
    #[error("the store {store:?} is not understood: {detail}. Use file:PATH or s3://BUCKET/PREFIX")]
    Location { store: String, detail: String },
    #[error("the store directory {} cannot be used: {source}", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
    #[error(
        "the store {} is in use by another process ({holder}). Stop it first, or give this one a store of its own with --store",
        path.display()
    )]
    Locked { path: PathBuf, holder: String },
    #[error("the S3 client for {store} cannot be set up: {detail}")]
    Client { store: String, detail: String },
    #[error("AWS profile {profile:?}: {detail}")]
    Profile { profile: String, detail: String },
}

/// What is said of a name or a password in a URL.
const KEYS_IN_URL: &str = "keys go into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or into the AWS tools' files, never \
                           into a URL, which ends up in logs";

/// Opens `location`. A directory is created if it is missing and locked for this process.
pub fn open(location: Location, s3: &S3Options) -> Result<Stores, Error> {
    match &location {
        Location::Directory(path) => {
            let directory_error = |source| Error::Directory { path: path.clone(), source };
            std::fs::create_dir_all(path).map_err(directory_error)?;
            let lock = DirectoryLock::acquire(path)?;
            let objects = path.join("objects");
            std::fs::create_dir_all(&objects).map_err(directory_error)?;
            let local = LocalFileSystem::new_with_prefix(&objects)
                .map_err(|error| directory_error(std::io::Error::other(error)))?
                // What a broker acknowledges or trims rests on these files.
                .with_fsync(true);
            let store: Arc<dyn ObjectStore> = Arc::new(local);
            Ok(Stores { metadata: store.clone(), data: store, lock: Some(lock), location })
        }
        Location::S3 { bucket, prefix } => {
            let metadata = s3_client(bucket, s3, s3.limits.metadata_timeout, 0)?;
            let data = s3_client(bucket, s3, s3.limits.data_timeout, s3.limits.data_retries_max)?;
            let (metadata, data) = if prefix.is_empty() {
                (metadata, data)
            } else {
                let scoped =
                    |store| Arc::new(PrefixStore::new(store, prefix.as_str())) as Arc<dyn ObjectStore>;
                (scoped(metadata), scoped(data))
            };
            Ok(Stores { metadata, data, lock: None, location })
        }
    }
}

/// Opens `location` for somebody who only reads: no lock is taken, so it works beside a living broker, and nothing is
/// created.
pub fn open_for_reading(location: Location, s3: &S3Options) -> Result<Stores, Error> {
    let Location::Directory(path) = &location else { return open(location, s3) };
    let objects = path.join("objects");
    let local = LocalFileSystem::new_with_prefix(&objects).map_err(|error| Error::Directory {
        path: path.clone(),
        source: match std::fs::metadata(&objects) {
            Err(missing) => missing,
            Ok(_) => std::io::Error::other(error),
        },
    })?;
    let store: Arc<dyn ObjectStore> = Arc::new(local);
    Ok(Stores { metadata: store.clone(), data: store, lock: None, location })
}

fn s3_client(
    bucket: &str,
    options: &S3Options,
    timeout: Duration,
    max_retries: usize,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let client_error = |detail: String| Error::Client { store: format!("s3://{bucket}"), detail };
    let from_environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let profile = aws_profile::load()?;
    let endpoint = options
        .endpoint
        .clone()
        .or_else(|| from_environment("AWS_ENDPOINT_URL_S3"))
        .or_else(|| from_environment("AWS_ENDPOINT_URL"))
        .or_else(|| from_environment("AWS_ENDPOINT"))
        .or_else(|| profile.endpoint.clone());
    if endpoint.as_deref().is_some_and(location::has_keys) {
        return Err(client_error(format!("the endpoint holds a name or a password: {KEYS_IN_URL}")));
    }
    let region = options
        .region
        .clone()
        .or_else(|| from_environment("AWS_REGION"))
        .or_else(|| from_environment("AWS_DEFAULT_REGION"))
        .or_else(|| profile.region.clone());

    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(RetryConfig {
            backoff: BackoffConfig {
                max_backoff: options.limits.data_retry_pause_max,
                ..BackoffConfig::default()
            },
            max_retries,
            retry_timeout: timeout * (max_retries as u32 + 1),
        });
    let mut client = ClientOptions::new()
        .with_timeout(timeout)
        .with_connect_timeout(options.limits.connect_timeout)
        .with_pool_max_idle_per_host(options.limits.idle_connections_max);
    if options.allow_http || from_environment("AWS_ALLOW_HTTP").is_some_and(|value| value == "true") {
        client = client.with_allow_http(true);
    } else if endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
        return Err(client_error(format!(
            "the endpoint {} is plain HTTP, which sends data and signatures unencrypted. Say --s3-allow-http if that is \
             meant",
            endpoint.as_deref().unwrap_or_default()
        )));
    }
    builder = builder.with_client_options(client);
    let path_style = options.path_style.unwrap_or(endpoint.is_some());
    builder = builder.with_virtual_hosted_style_request(!path_style);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    // Where nothing names a region, S3-compatible servers expect this one; AWS answers with a clear redirect.
    builder = builder.with_region(region.unwrap_or_else(|| "us-east-1".to_owned()));
    if from_environment("AWS_ACCESS_KEY_ID").is_none()
        && let Some(keys) = profile.keys
    {
        builder = builder.with_credentials(Arc::new(RotatingKeys::new(keys, options.limits.keys_reload)));
    }
    Ok(Arc::new(builder.build().map_err(|error| client_error(error.to_string()))?))
}
