//! Every option of `ottla serve`, once. Flags, environment variables, TOML keys, `--help` and `docs/config.md` all come
//! from this table, the second half of which is in `advanced`.

use super::advanced;
use super::bounds::{Bounds, Field};

/// One option. The name `log-cache` is the flag `--log-cache`, the variable `OTTLA_LOG_CACHE` and the TOML key
/// `log-cache`.
#[derive(Debug)]
pub struct Definition {
    pub name: &'static str,
    pub section: Section,
    pub kind: Kind,
    pub default: Preset,
    pub help: &'static str,
}

/// Where an option's default comes from.
#[derive(Clone, Copy, Debug)]
pub enum Preset {
    /// The absence of a value means something (see the help).
    Absent,
    /// As the user would write it.
    Text(&'static str),
    /// What this field has in the `Default` of the struct that it belongs to. The option's value goes there too.
    Of(Place),
}

/// The field of [`Bounds`] that an option sets.
pub type Place = fn(&mut Bounds) -> Field<'_>;

impl Definition {
    /// The default as the user would write it.
    pub fn default_text(&self) -> Option<String> {
        match self.default {
            Preset::Absent => None,
            Preset::Text(text) => Some(text.to_owned()),
            Preset::Of(place) => Some(self.kind.show(place(&mut Bounds::default()).get())),
        }
    }

    pub fn place(&self) -> Option<Place> {
        match self.default {
            Preset::Of(place) => Some(place),
            Preset::Absent | Preset::Text(_) => None,
        }
    }
}

/// Defaults of a broker with a volume beside a bucket. Others may have to wait for its lease when it has died, so the lease is
/// short; and so it has to look at the metadata often, and not to wait long for one answer.
pub const SHARED_VOLUME: [(&str, &str); 4] = [
    ("lease", "1s"),
    ("metadata-poll", "300ms"),
    ("metadata-hedge-after", "250ms"),
    ("metadata-request-timeout", "2s"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Storage,
    Network,
    Memory,
    Limits,
    Kafka,
    Operation,
    /// Not in the short help.
    Advanced,
}

impl Section {
    pub const ALL: [Section; 7] = [
        Section::Storage,
        Section::Network,
        Section::Memory,
        Section::Limits,
        Section::Kafka,
        Section::Operation,
        Section::Advanced,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Section::Storage => "Storage",
            Section::Network => "Network",
            Section::Memory => "Memory",
            Section::Limits => "Limits",
            Section::Kafka => "Kafka configs",
            Section::Operation => "Operation",
            Section::Advanced => "Advanced limits",
        }
    }
}

/// What a value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text {
        placeholder: &'static str,
    },
    /// `64MiB`, `1GiB`, plain bytes; within the bounds, both included.
    Bytes {
        min: u64,
        max: u64,
    },
    /// `250ms`, `10s`, `5m`; within the bounds in milliseconds, both included.
    Duration {
        min_ms: u64,
        max_ms: u64,
    },
    Number {
        min: u64,
        max: u64,
    },
    /// A flag without a value on the command line; `true` or `false` elsewhere.
    Switch,
    /// May be given several times; a comma-separated list elsewhere.
    Pairs,
}

impl Kind {
    pub fn placeholder(self) -> &'static str {
        match self {
            Kind::Text { placeholder } => placeholder,
            Kind::Bytes { .. } => "SIZE",
            Kind::Duration { .. } => "TIME",
            Kind::Number { .. } => "N",
            Kind::Switch => "true|false",
            Kind::Pairs => "NAME=VALUE",
        }
    }

    /// The least and the most, in bytes, in milliseconds or as a count, for the kinds that have them.
    pub fn range(self) -> Option<(u64, u64)> {
        match self {
            Kind::Bytes { min, max } | Kind::Number { min, max } => Some((min, max)),
            Kind::Duration { min_ms, max_ms } => Some((min_ms, max_ms)),
            Kind::Text { .. } | Kind::Switch | Kind::Pairs => None,
        }
    }

    /// An amount as the user would write it.
    pub fn show(self, amount: u64) -> String {
        match self {
            Kind::Bytes { .. } => {
                let units = [(1 << 40, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
                with_unit(amount, &units, "")
            }
            Kind::Duration { .. } => {
                let units = [(DAY_MS, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
                with_unit(amount, &units, "ms")
            }
            Kind::Number { .. } | Kind::Text { .. } | Kind::Switch | Kind::Pairs => amount.to_string(),
        }
    }
}

/// In the largest unit of which it is a whole number.
fn with_unit(amount: u64, units: &[(u64, &str)], smallest: &str) -> String {
    match units.iter().find(|(scale, _)| amount > 0 && amount.is_multiple_of(*scale)) {
        Some((scale, unit)) => format!("{}{unit}", amount / scale),
        None => format!("{amount}{smallest}"),
    }
}

/// Every row.
pub fn definitions() -> impl Iterator<Item = &'static Definition> {
    ORDINARY.iter().chain(advanced::ROWS)
}

pub fn find(name: &str) -> Option<&'static Definition> {
    definitions().find(|definition| definition.name == name)
}

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const DAY_MS: u64 = 86_400_000;

const fn option(
    name: &'static str,
    section: Section,
    kind: Kind,
    default: Option<&'static str>,
    help: &'static str,
) -> Definition {
    let default = match default {
        Some(text) => Preset::Text(text),
        None => Preset::Absent,
    };
    Definition { name, section, kind, default, help }
}

/// An option that is a field of one of the structs in [`Bounds`], and has its default from there.
pub(super) const fn bound(
    name: &'static str,
    section: Section,
    kind: Kind,
    place: Place,
    help: &'static str,
) -> Definition {
    Definition { name, section, kind, default: Preset::Of(place), help }
}

const fn text(placeholder: &'static str) -> Kind {
    Kind::Text { placeholder }
}

static ORDINARY: &[Definition] = &[
    option(
        "store",
        Section::Storage,
        text("URL"),
        Some("file:./ottla-data"),
        "Where the cluster lives: file:PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX. Everything \
         that must not be lost is there (and in the write-ahead log).",
    ),
    option(
        "wal",
        Section::Storage,
        text("URI"),
        None,
        "The write-ahead log, where records are durable first: object (objects in the store itself), \
         block:///dev/DEVICE, or block:///PATH/TO/FILE?capacity=SIZE. Without it: for a directory a file of 256 MiB \
         inside, for a bucket object.",
    ),
    option(
        "wal-attach",
        Section::Storage,
        text("COMMAND"),
        None,
        "A shell command that brings the volume of a dead broker's write-ahead log to this machine, for recovery. It is told \
         OTTLA_WAL_URI, OTTLA_WAL_BROKER and OTTLA_WAL_EPOCH, and may print the path at which the volume is here. Only \
         for block WALs that are not on this machine already.",
    ),
    option(
        "wal-reservation",
        Section::Storage,
        text("auto|off|required"),
        Some("auto"),
        "Whether the persistent reservation of a block WAL's device (SCSI, NVMe) is taken, with which others shut this broker out \
         at once if it dies. auto: where the device has them, and this process may (before Linux 6.4: CAP_SYS_ADMIN). off: the \
         others wait for its lease. required: no start without.",
    ),
    option(
        "wal-detached",
        Section::Storage,
        Kind::Switch,
        Some("false"),
        "Start on a volume that another machine wrote last and did not close, because that machine cannot write to it any \
         more: it was detached there, or is stopped for good. What it writes later would destroy what is acknowledged \
         here. Not to be left on.",
    ),
    option(
        "s3-endpoint",
        Section::Storage,
        text("URL"),
        None,
        "An S3-compatible server, http://HOST:PORT. Without it: AWS_ENDPOINT_URL, or AWS itself.",
    ),
    option(
        "s3-region",
        Section::Storage,
        text("REGION"),
        None,
        "The bucket's region. Without it: AWS_REGION, or us-east-1.",
    ),
    option(
        "s3-path-style",
        Section::Storage,
        text("true|false"),
        None,
        "Address the bucket in the path instead of the host name. Without it: true with an endpoint, false for AWS.",
    ),
    option(
        "s3-allow-http",
        Section::Storage,
        Kind::Switch,
        Some("false"),
        "Allow an endpoint without TLS: data and signatures travel unencrypted.",
    ),
    option(
        "gcs-endpoint",
        Section::Storage,
        text("URL"),
        None,
        "A server that speaks Google Cloud Storage's XML API. Without it: STORAGE_EMULATOR_HOST, or Google itself. One \
         without TLS is sent no credentials.",
    ),
    option(
        "gcs-allow-http",
        Section::Storage,
        Kind::Switch,
        Some("false"),
        "Allow such a server without TLS: data travels unencrypted.",
    ),
    option(
        "azure-account",
        Section::Storage,
        text("NAME"),
        None,
        "The storage account of az://. Without it: AZURE_STORAGE_ACCOUNT_NAME.",
    ),
    option(
        "azure-endpoint",
        Section::Storage,
        text("URL"),
        None,
        "A server that speaks Azure Blob Storage's API, http://HOST:PORT/ACCOUNT. Without it: AZURE_ENDPOINT, or Azure \
         itself.",
    ),
    option(
        "azure-allow-http",
        Section::Storage,
        Kind::Switch,
        Some("false"),
        "Allow such a server without TLS: data and signatures travel unencrypted.",
    ),
    bound(
        "puts-per-second",
        Section::Storage,
        Kind::Number { min: 1, max: 10_000 },
        |bounds| Field::from(&mut bounds.object_wal.puts_per_second_max),
        "The budget of a broker with --wal object: how many PUTs and LISTs a second it sends on average, whatever for. At \
         $0.005 for 1,000, one a second all month is $13. Uploads, compaction and metadata send what they must; the log \
         gathers acknowledgements for longer as it gets less of the budget, but always has a quarter of it. Batches that \
         are full (object-wal-batch) do not wait, and an idle broker sends none.",
    ),
    bound(
        "upload-bytes",
        Section::Storage,
        Kind::Bytes { min: MIB, max: 4 * GIB },
        |bounds| Field::from(&mut bounds.engine.upload_bytes),
        "Data gathered in the log cache before it is uploaded as objects. Larger means fewer, larger objects.",
    ),
    bound(
        "upload-interval",
        Section::Storage,
        Kind::Duration { min_ms: 1_000, max_ms: DAY_MS },
        |bounds| Field::from(&mut bounds.engine.upload_interval_max),
        "Data is uploaded after this time even if upload-bytes is not reached, so that recovery stays short.",
    ),
    option(
        "listen",
        Section::Network,
        text("HOST:PORT"),
        Some("127.0.0.1:9092"),
        "Where Kafka clients connect. There is no authentication yet: beyond loopback, everybody who reaches the port \
         may read and write everything.",
    ),
    option(
        "advertise",
        Section::Network,
        text("HOST:PORT"),
        None,
        "What clients are told to connect to. Without it: the address of listen, or this host's name where listen is a \
         wildcard.",
    ),
    option(
        "admin-listen",
        Section::Network,
        text("HOST:PORT"),
        None,
        "Where the broker tells its operator about itself, over HTTP: /usage, which `ottla cost` reads. It needs no \
         password: keep it on loopback or behind a firewall. Without it there is no such endpoint.",
    ),
    option(
        "node-id",
        Section::Network,
        text("ID"),
        Some("auto"),
        "The broker's id in the cluster, a number from 0. A second process with the same id is the successor of the first. \
         auto: the broker whose volume --wal names; else the one that advertised the same address; else a new one.",
    ),
    option("rack", Section::Network, text("NAME"), None, "The broker's zone, as clients see it."),
    bound(
        "connections-max",
        Section::Limits,
        Kind::Number { min: 1, max: 1_000_000 },
        |bounds| Field::from(&mut bounds.server.connections_max),
        "Open client connections; more are closed at once.",
    ),
    bound(
        "connections-per-ip-max",
        Section::Limits,
        Kind::Number { min: 1, max: 1_000_000 },
        |bounds| Field::from(&mut bounds.server.connections_per_ip_max),
        "Open client connections from one address.",
    ),
    bound(
        "log-cache",
        Section::Memory,
        Kind::Bytes { min: 8 * MIB, max: 1024 * GIB },
        |bounds| Field::from(&mut bounds.engine.log_cache_bytes),
        "Recent data: tail reads come from here, and it is the buffer of what is not uploaded yet. Producers wait when \
         it is full of the latter.",
    ),
    bound(
        "block-cache",
        Section::Memory,
        Kind::Bytes { min: 8 * MIB, max: 1024 * GIB },
        |bounds| Field::from(&mut bounds.engine.block_cache.cache_bytes),
        "Blocks of objects, for consumers that read older data.",
    ),
    bound(
        "request-memory",
        Section::Memory,
        Kind::Bytes { min: 8 * MIB, max: 4095 * MIB },
        |bounds| Field::from(&mut bounds.server.queued_bytes_max),
        "Requests that were read and not yet dealt with. Connections wait when it is used up.",
    ),
    option(
        "kafka",
        Section::Kafka,
        Kind::Pairs,
        None,
        "A Kafka broker config, such as num.partitions=4 or auto.create.topics.enable=false. May be repeated; in TOML a \
         table [kafka].",
    ),
    option(
        "takeover",
        Section::Operation,
        Kind::Switch,
        Some("false"),
        "Replace the broker with this id even though it still answers: it can acknowledge nothing from then on.",
    ),
    option(
        "partition-accept-lost-checkpoints",
        Section::Operation,
        Kind::Switch,
        Some("false"),
        "Open partitions whose newest checkpoint is damaged or missing, or the log behind it, with every record that is \
         there: those that DeleteRecords deleted since the last pass of retention are back, and what a producer sends \
         again may be there twice. Once is enough: not to be left on.",
    ),
    bound(
        "lease",
        Section::Operation,
        Kind::Duration { min_ms: 1_000, max_ms: 600_000 },
        |bounds| Field::from(&mut bounds.metadata.lease),
        "How long a broker that cannot read the store's metadata goes on acknowledging. Whoever recovers a block WAL that its \
         broker may still write to waits this long first: so the default is 1s with a block WAL and a bucket.",
    ),
    bound(
        "metadata-poll",
        Section::Operation,
        Kind::Duration { min_ms: 100, max_ms: 60_000 },
        |bounds| Field::from(&mut bounds.metadata.log.poll_interval),
        "How often the store's metadata is looked at for changes: one GET each time. At most a third of lease. The default \
         is 300ms with a block WAL and a bucket. If it is given there, the other defaults are as for any other log.",
    ),
    bound(
        "drain-timeout",
        Section::Operation,
        Kind::Duration { min_ms: 0, max_ms: 3_600_000 },
        |bounds| Field::from(&mut bounds.mover.drain_timeout),
        "How long SIGTERM hands partitions over to other brokers, while clients are served as always, before shutdown-timeout \
         begins. What is left then is given to others when everything is uploaded.",
    ),
    option(
        "shutdown-timeout",
        Section::Operation,
        Kind::Duration { min_ms: 1_000, max_ms: 3_600_000 },
        Some("30s"),
        "How long SIGTERM waits for the upload of what is still only in the write-ahead log. What remains is recovered at \
         the next start.",
    ),
    option(
        "log",
        Section::Operation,
        text("FILTER"),
        Some("info"),
        "What is logged to standard error: error, warn, info, debug, trace, or per module as in ottla=debug,wal=info.",
    ),
    option("log-json", Section::Operation, Kind::Switch, Some("false"), "Log JSON lines."),
];
