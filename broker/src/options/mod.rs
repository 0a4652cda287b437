//! Ottla's own options: flags, environment, TOML file and defaults, in this order of precedence.
//!
//! `table` is the one list of what there is; [`Options`] is what the program uses, [`Bounds`] the part of it that the
//! other crates and modules take as their own configuration. Kafka's configs are elsewhere
//! (`config/`): here they only pass through as `--kafka NAME=VALUE`.

mod advanced;
mod bounds;
mod docs;
mod source;
mod table;
mod value;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use bounds::Bounds;
pub use docs::{markdown, plain_text};
#[cfg(feature = "fuzzing")]
pub use source::Values;
pub use source::{arguments, gather};
pub use value::parse_bytes;
pub(crate) use value::parse_host_port;
#[cfg(feature = "fuzzing")]
pub(crate) use value::{parse_duration, parse_pair, parse_switch};

use crate::store::{Access, AzureOptions, GcsOptions, Location, S3Options};

/// What `ottla serve` was told, checked.
#[derive(Clone, Debug)]
pub struct Options {
    pub store: Location,
    /// How to reach the store.
    pub access: Access,
    pub wal: WalChoice,
    /// Brings a dead broker's volume here.
    pub wal_attach: Option<String>,
    /// Nobody else can write to our volume any more, whatever it looks like.
    pub wal_detached: bool,
    pub listen: HostPort,
    pub advertise: Option<HostPort>,
    /// Of the admin endpoint; there is none without it.
    pub admin_listen: Option<HostPort>,
    /// `None`: whoever the volume or the address says, or a new one.
    pub node_id: Option<i32>,
    pub rack: Option<String>,
    pub bounds: Bounds,
    pub kafka: BTreeMap<String, String>,
    pub takeover: bool,
    pub accept_lost_checkpoints: bool,
    pub shutdown_timeout: Duration,
    pub log: String,
    pub log_json: bool,
}

/// Which write-ahead log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalChoice {
    /// Slots in the store's bucket.
    Object,
    /// A volume, or a preallocated file.
    Block(wal::Uri),
}

impl std::fmt::Display for WalChoice {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WalChoice::Object => formatter.write_str("object (slots in the store)"),
            WalChoice::Block(uri) => uri.fmt(formatter),
        }
    }
}

/// `HOST:PORT`; IPv6 addresses in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// What is wrong with an option, and where it came from.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{origin}: {detail}")]
    Value { origin: String, detail: String },
    #[error("the config file {}: {detail}", path.display())]
    File { path: PathBuf, detail: String },
    #[error("{0}")]
    Together(String),
}

/// The default WAL file of a directory store.
fn wal_file(store: &Path) -> wal::Uri {
    let absolute = std::path::absolute(store).unwrap_or_else(|_| store.to_owned());
    wal::Uri(format!("block://{}?capacity=256MiB", absolute.join("wal").display()))
}

impl Options {
    /// Reads the values gathered from all sources. Every message names the source of the value at fault.
    pub fn from_values(values: &source::Values) -> Result<Options, Error> {
        let store: Location = values.parsed("store", |text| text.parse())?;
        let wal = match (values.text("wal"), &store) {
            (Some("object"), _) | (None, Location::Bucket { .. }) => WalChoice::Object,
            (None, Location::Directory(path)) => WalChoice::Block(wal_file(path)),
            (Some(uri), _) if uri.starts_with("block:") => WalChoice::Block(wal::Uri(uri.to_owned())),
            (Some(other), _) => {
                return Err(values
                    .fault("wal", format!("{other:?} is neither object nor block:///PATH[?capacity=SIZE]")));
            }
        };
        // Only there is a lease that others may have to wait out. Who says how often the store is to be looked at need not know that
        // the lease would be shorter than three looks.
        let shared = matches!((&store, &wal), (Location::Bucket { .. }, WalChoice::Block(_)))
            && values.is_preset("metadata-poll");
        let values = &values.with_presets(if shared { &table::SHARED_VOLUME } else { &[] });
        let mut bounds = Bounds::from_values(values)?;
        bounds.block_wal.reservation = values.parsed("wal-reservation", value::parse_reservation)?;
        let access = Access {
            s3: S3Options {
                endpoint: values.text("s3-endpoint").map(str::to_owned),
                region: values.text("s3-region").map(str::to_owned),
                path_style: values.optional("s3-path-style", value::parse_switch)?,
                allow_http: values.switch("s3-allow-http")?,
            },
            gcs: GcsOptions {
                endpoint: values.text("gcs-endpoint").map(str::to_owned),
                allow_http: values.switch("gcs-allow-http")?,
            },
            azure: AzureOptions {
                account: values.text("azure-account").map(str::to_owned),
                endpoint: values.text("azure-endpoint").map(str::to_owned),
                allow_http: values.switch("azure-allow-http")?,
            },
            limits: bounds.store.clone(),
        };
        let options = Options {
            store,
            access,
            wal,
            listen: values.parsed("listen", value::parse_host_port)?,
            advertise: values.optional("advertise", value::parse_host_port)?,
            admin_listen: values.optional("admin-listen", value::parse_host_port)?,
            node_id: values.parsed("node-id", value::parse_node_id)?,
            wal_attach: values.text("wal-attach").map(str::to_owned),
            wal_detached: values.switch("wal-detached")?,
            rack: values.text("rack").map(str::to_owned),
            bounds,
            kafka: values.pairs.clone(),
            takeover: values.switch("takeover")?,
            accept_lost_checkpoints: values.switch("partition-accept-lost-checkpoints")?,
            shutdown_timeout: values.duration("shutdown-timeout")?,
            log: values.text("log").unwrap_or_default().to_owned(),
            log_json: values.switch("log-json")?,
        };
        options.validate()?;
        Ok(options)
    }

    fn validate(&self) -> Result<(), Error> {
        if let Some(advertise) = &self.advertise
            && matches!(advertise.host.as_str(), "0.0.0.0" | "::")
        {
            return Err(Error::Together(format!(
                "advertise {advertise} is a wildcard; clients need an address that they can connect to"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
