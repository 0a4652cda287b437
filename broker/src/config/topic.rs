//! Configs of topics: what may be set, and what then holds.

use std::borrow::Cow;

use super::describe::Source;
use super::kind::{elements, parse_boolean};
use super::{BrokerConfig, Invalid, table};
use crate::metadata::image::{Config, Topic};

/// Longest value of a config, in bytes: every broker keeps it in memory. No option: far beyond any value with a meaning.
const VALUE_BYTES_MAX: usize = 8 * 1024;

/// What happens to old records. Neither means that they are kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanup {
    pub delete: bool,
    pub compact: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionType {
    /// As sent.
    Producer,
    Uncompressed,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// The values that hold for a topic, parsed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    cleanup: Cleanup,
    compression_type: CompressionType,
    gzip_level: i32,
    zstd_level: i32,
    max_message_bytes: i32,
    timestamp_type: TimestampType,
    timestamp_after_max_ms: i64,
    timestamp_before_max_ms: i64,
    retention_ms: i64,
    retention_bytes: i64,
}

impl TopicConfig {
    pub fn of(topic: &Topic, broker: &BrokerConfig) -> TopicConfig {
        TopicConfig::new(&topic.configs, broker)
    }

    /// `set` is by name, ascending. A value that this version cannot read (another may have written it) counts as not
    /// set.
    pub fn new(set: &[Config], broker: &BrokerConfig) -> TopicConfig {
        let text = |name: &str| effective(table::topic(name).expect("a row of the table"), set, broker);
        let long = |name: &str| text(name).trim().parse::<i64>().expect("effective values are valid");
        let policies = text("cleanup.policy");
        TopicConfig {
            cleanup: Cleanup {
                delete: elements(&policies).any(|policy| policy == "delete"),
                compact: elements(&policies).any(|policy| policy == "compact"),
            },
            compression_type: match text("compression.type").trim() {
                "uncompressed" => CompressionType::Uncompressed,
                "gzip" => CompressionType::Gzip,
                "snappy" => CompressionType::Snappy,
                "lz4" => CompressionType::Lz4,
                "zstd" => CompressionType::Zstd,
                _ => CompressionType::Producer,
            },
            gzip_level: text("compression.gzip.level").trim().parse().expect("effective values are valid"),
            zstd_level: text("compression.zstd.level").trim().parse().expect("effective values are valid"),
            max_message_bytes: text("max.message.bytes").trim().parse().expect("effective values are valid"),
            timestamp_type: match text("message.timestamp.type").trim() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_after_max_ms: long("message.timestamp.after.max.ms"),
            timestamp_before_max_ms: long("message.timestamp.before.max.ms"),
            retention_ms: long("retention.ms"),
            retention_bytes: long("retention.bytes"),
        }
    }

    pub fn cleanup(&self) -> Cleanup {
        self.cleanup
    }

    pub fn compression_type(&self) -> CompressionType {
        self.compression_type
    }

    /// What `compression.type=gzip` compresses with: 1 to 9, or -1 for gzip's own default.
    pub fn gzip_level(&self) -> i32 {
        self.gzip_level
    }

    pub fn zstd_level(&self) -> i32 {
        self.zstd_level
    }

    /// Largest batch, in bytes, header included.
    pub fn max_message_bytes(&self) -> i32 {
        self.max_message_bytes
    }

    pub fn timestamp_type(&self) -> TimestampType {
        self.timestamp_type
    }

    /// Milliseconds that a timestamp may be ahead of the broker's clock.
    pub fn timestamp_after_max_ms(&self) -> i64 {
        self.timestamp_after_max_ms
    }

    /// Milliseconds that a timestamp may be behind the broker's clock.
    pub fn timestamp_before_max_ms(&self) -> i64 {
        self.timestamp_before_max_ms
    }

    /// Milliseconds; -1 for no limit.
    pub fn retention_ms(&self) -> i64 {
        self.retention_ms
    }

    /// Bytes; -1 for no limit.
    pub fn retention_bytes(&self) -> i64 {
        self.retention_bytes
    }
}

/// The value that holds for a topic. Always valid for the row's kind.
pub(super) fn effective<'a>(row: &table::Row, set: &'a [Config], broker: &'a BrokerConfig) -> Cow<'a, str> {
    let own = set.binary_search_by(|(name, _)| name.as_ref().cmp(row.name)).ok().map(|at| &set[at].1);
    if let Some(own) = own.filter(|own| row.kind.validate(row.name, own).is_ok()) {
        return Cow::Borrowed(own.as_ref());
    }
    broker_values(row, broker).next().map_or(Cow::Borrowed(row.default), |(_, value, _)| value)
}

/// What the broker's configs give: by which name, and where that was set. The one that holds first: what was set while
/// the broker ran outranks what it was started with.
pub(super) fn broker_values<'a>(
    row: &table::Row,
    broker: &'a BrokerConfig,
) -> impl Iterator<Item = (&'static str, Cow<'a, str>, Source)> {
    let names = row.broker;
    broker.layers().into_iter().flat_map(move |(source, layer)| {
        names.iter().filter_map(move |(name, factor)| {
            let value = layer.get(name)?;
            if *factor == 1 {
                return Some((*name, Cow::Borrowed(value.as_str()), source));
            }
            let number: i64 = value.parse().ok()?;
            let scaled = if number < 0 { -1 } else { number.saturating_mul(*factor) };
            Some((*name, Cow::Owned(scaled.to_string()), source))
        })
    })
}

/// Checks what a user wants to set for a topic; in ascending order of names, a name at most once.
pub fn validate_topic(set: &[Config], broker: &BrokerConfig) -> Result<(), Invalid> {
    validate_topic_internal(set, broker)?;
    if TopicConfig::new(set, broker).cleanup().compact {
        return Err(Invalid(
            "Invalid value for configuration cleanup.policy: compaction is not supported yet; create the topic \
             with cleanup.policy=delete"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Checks a value on its own.
pub(super) fn check_value(row: &table::Row, value: &str) -> Result<(), Invalid> {
    check_length(row.name, value)?;
    row.kind.validate(row.name, value)
}

/// Checks the length of a value of the config `name`.
pub(super) fn check_length(name: &str, value: &str) -> Result<(), Invalid> {
    let bytes = value.len();
    if bytes > VALUE_BYTES_MAX {
        return Err(Invalid(format!(
            "Invalid value for configuration {name}: {bytes} bytes, at most {VALUE_BYTES_MAX}"
        )));
    }
    Ok(())
}

/// As [`validate_topic`], for the broker's own topics, which may ask for compaction.
pub fn validate_topic_internal(set: &[Config], broker: &BrokerConfig) -> Result<(), Invalid> {
    for (name, value) in set {
        let row = table::topic(name).ok_or_else(|| Invalid(format!("Unknown topic config name: {name}")))?;
        check_value(row, value)?;
    }
    let number = |name: &str| {
        let row = table::topic(name).expect("a row of the table");
        effective(row, set, broker).trim().parse::<i64>().expect("effective values are valid")
    };
    let (min, max) = (number("min.compaction.lag.ms"), number("max.compaction.lag.ms"));
    if min > max {
        return Err(Invalid(format!(
            "conflict topic config setting min.compaction.lag.ms ({min}) > max.compaction.lag.ms ({max})"
        )));
    }
    let (largest, limit) = (number("max.message.bytes"), broker.batch_bytes_max());
    if largest > 0 && largest as u64 > limit {
        return Err(Invalid(format!(
            "Invalid value {largest} for configuration max.message.bytes (a broker's message.max.bytes): the write-ahead \
             log takes batches of up to {limit} bytes (broker options block-wal-frame and object-wal-record)"
        )));
    }
    let tiered = table::topic("remote.storage.enable").expect("a row of the table");
    if parse_boolean(&effective(tiered, set, broker)) == Some(true) {
        return Err(Invalid(
            "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log \
             storage."
                .to_owned(),
        ));
    }
    Ok(())
}
