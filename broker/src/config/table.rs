//! Every config, once. Names, types, defaults and ranges are those of Kafka 4.1 (`LogConfig`, `ServerConfigs`,
//! `GroupCoordinatorConfig`, `TransactionLogConfig`).

use super::kind::Kind;

/// A row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    /// For a topic config: broker configs that give its default, the first that is set wins, each with what its
    /// value is to be multiplied by.
    pub broker: &'static [(&'static str, i64)],
    /// Whether this version of Ottla acts on it.
    pub effect: bool,
    pub doc: &'static str,
}

const ANY: &[&str] = &[];
const POSITIVE: Kind = Kind::Int { min: 1, max: i32::MAX };
const NATURAL: Kind = Kind::Int { min: 0, max: i32::MAX };
const LONG_0: Kind = Kind::Long { min: 0 };
const LONG_1: Kind = Kind::Long { min: 1 };
const LONG_MAX: &str = "9223372036854775807";
const CODECS: &[&str] = &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];

const fn row(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    broker: &'static [(&'static str, i64)],
    effect: bool,
    doc: &'static str,
) -> Row {
    Row { name, kind, default, broker, effect, doc }
}

/// By name, ascending.
#[rustfmt::skip]
pub const TOPIC: &[Row] = &[
    row("cleanup.policy", Kind::List(&["compact", "delete"]), "delete", &[("log.cleanup.policy", 1)], true,
        "What happens to old records: `delete` drops them by retention, `compact` keeps the last of each key."),
    row("compression.gzip.level", Kind::Int { min: -1, max: 9 }, "-1", &[("compression.gzip.level", 1)], true,
        "Level for `compression.type=gzip`: 1 to 9, or -1 for gzip's own default."),
    row("compression.lz4.level", Kind::Int { min: 1, max: 17 }, "9", &[("compression.lz4.level", 1)], false,
        "Ottla's lz4 has one level; the config is kept and has no effect."),
    row("compression.type", Kind::Text(CODECS), "producer", &[("compression.type", 1)], true,
        "Codec of stored batches. `producer` keeps them as they were sent, byte for byte; another makes the broker \
         compress them anew, which costs CPU."),
    row("compression.zstd.level", Kind::Int { min: -131_072, max: 22 }, "3", &[("compression.zstd.level", 1)], true,
        "Level for `compression.type=zstd`."),
    row("delete.retention.ms", LONG_0, "86400000", &[("log.cleaner.delete.retention.ms", 1)], false,
        "How long tombstones of a compacted topic are kept."),
    row("file.delete.delay.ms", LONG_0, "60000", &[("log.segment.delete.delay.ms", 1)], false,
        "How long a file stays after its deletion. There are no files."),
    row("flush.messages", LONG_1, LONG_MAX, &[("log.flush.interval.messages", 1)], false,
        "Records between two flushes. Every acknowledged record is durable already."),
    row("flush.ms", LONG_0, LONG_MAX, &[("log.flush.interval.ms", 1)], false,
        "Time between two flushes. Every acknowledged record is durable already."),
    row("follower.replication.throttled.replicas", Kind::List(ANY), "", &[], false,
        "Replicas whose followers are throttled. There are no followers."),
    row("index.interval.bytes", NATURAL, "4096", &[("log.index.interval.bytes", 1)], false,
        "Bytes between two entries of the offset index. Objects carry their own index."),
    row("leader.replication.throttled.replicas", Kind::List(ANY), "", &[], false,
        "Replicas whose leaders are throttled. There are no followers."),
    row("local.retention.bytes", Kind::Long { min: -2 }, "-2", &[("log.local.retention.bytes", 1)], false,
        "Bytes kept locally of a tiered topic. All data is in the object store."),
    row("local.retention.ms", Kind::Long { min: -2 }, "-2", &[("log.local.retention.ms", 1)], false,
        "Time data of a tiered topic is kept locally. All data is in the object store."),
    row("max.compaction.lag.ms", LONG_1, LONG_MAX, &[("log.cleaner.max.compaction.lag.ms", 1)], false,
        "Longest time that a record stays uncompacted."),
    row("max.message.bytes", NATURAL, "1048588", &[("message.max.bytes", 1)], true,
        "Largest record batch, in bytes, as the producer compressed it."),
    row("message.timestamp.after.max.ms", LONG_0, "3600000", &[("log.message.timestamp.after.max.ms", 1)], true,
        "How far a record's timestamp may be ahead of the broker's clock."),
    row("message.timestamp.before.max.ms", LONG_0, LONG_MAX, &[("log.message.timestamp.before.max.ms", 1)], true,
        "How far a record's timestamp may be behind the broker's clock."),
    row("message.timestamp.type", Kind::Text(&["CreateTime", "LogAppendTime"]), "CreateTime",
        &[("log.message.timestamp.type", 1)], true,
        "Whether a record's timestamp is the producer's or that of its arrival."),
    row("min.cleanable.dirty.ratio", Kind::Double { min: 0.0, max: 1.0 }, "0.5",
        &[("log.cleaner.min.cleanable.ratio", 1)], false,
        "Part of a compacted log that must be uncompacted before it is compacted again."),
    row("min.compaction.lag.ms", LONG_0, "0", &[("log.cleaner.min.compaction.lag.ms", 1)], false,
        "Shortest time that a record stays uncompacted."),
    row("min.insync.replicas", POSITIVE, "1", &[("min.insync.replicas", 1)], false,
        "Replicas that must confirm a write. Durability is the store's; one broker counts as all of them."),
    row("preallocate", Kind::Boolean, "false", &[("log.preallocate", 1)], false,
        "Whether files are preallocated. There are no files."),
    row("remote.log.copy.disable", Kind::Boolean, "false", &[], false,
        "Whether a tiered topic stops tiering. All data is in the object store."),
    row("remote.log.delete.on.disable", Kind::Boolean, "false", &[], false,
        "Whether tiered data is deleted with tiering. All data is in the object store."),
    row("remote.storage.enable", Kind::Boolean, "false", &[], false,
        "Kafka's tiered storage. All data is in the object store anyway; only false is accepted."),
    row("retention.bytes", Kind::Long { min: i64::MIN }, "-1", &[("log.retention.bytes", 1)], true,
        "Bytes of a partition beyond which its oldest records are dropped, uploaded part by part; negative for no limit."),
    row("retention.ms", Kind::Long { min: -1 }, "604800000",
        &[("log.retention.ms", 1), ("log.retention.minutes", 60_000), ("log.retention.hours", 3_600_000)], true,
        "Age beyond which records are dropped; -1 for no limit."),
    row("segment.bytes", Kind::Int { min: 1 << 20, max: i32::MAX }, "1073741824", &[("log.segment.bytes", 1)], false,
        "Size of a segment file. There are no segments."),
    row("segment.index.bytes", Kind::Int { min: 4, max: i32::MAX }, "10485760",
        &[("log.index.size.max.bytes", 1)], false,
        "Size of an index file. There are none."),
    row("segment.jitter.ms", LONG_0, "0", &[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", 3_600_000)], false,
        "Jitter of the roll of segments. There are no segments."),
    row("segment.ms", LONG_1, "604800000", &[("log.roll.ms", 1), ("log.roll.hours", 3_600_000)], false,
        "Time after which a segment is rolled. There are no segments."),
    row("unclean.leader.election.enable", Kind::Boolean, "false", &[("unclean.leader.election.enable", 1)], false,
        "Whether a replica that lags may lead. Every leader has everything that was acknowledged."),
];

/// By name, ascending. Those that give topics' defaults are here too, with the type and range of the topic config.
#[rustfmt::skip]
pub const BROKER: &[Row] = &[
    row("auto.create.topics.enable", Kind::Boolean, "true", &[], true,
        "Whether a topic that a client asks for is created."),
    row("broker.id", Kind::Int { min: -1, max: i32::MAX }, "1", &[], false,
        "The broker's number; set by Ottla's own option."),
    row("broker.rack", Kind::Text(ANY), "", &[], false,
        "The broker's rack; set by Ottla's own option."),
    row("compression.gzip.level", Kind::Int { min: -1, max: 9 }, "-1", &[], true, "Default of the topic config."),
    row("compression.lz4.level", Kind::Int { min: 1, max: 17 }, "9", &[], false, "Default of the topic config."),
    row("compression.type", Kind::Text(CODECS), "producer", &[], true, "Default of the topic config."),
    row("compression.zstd.level", Kind::Int { min: -131_072, max: 22 }, "3", &[], true,
        "Default of the topic config."),
    row("connections.max.idle.ms", Kind::Long { min: i64::MIN }, "600000", &[], true,
        "Time after which an idle connection is closed."),
    row("default.replication.factor", POSITIVE, "1", &[], true,
        "Replication factor that is reported for topics created with -1. Durability is the store's."),
    row("delete.topic.enable", Kind::Boolean, "true", &[], true, "Whether topics can be deleted."),
    row("fetch.max.bytes", Kind::Int { min: 1024, max: i32::MAX }, "57671680", &[], true,
        "Largest response to a fetch, in bytes, but for a first batch that is larger."),
    row("group.consumer.heartbeat.interval.ms", POSITIVE, "5000", &[], false,
        "Heartbeat interval of the new group protocol."),
    row("group.consumer.session.timeout.ms", POSITIVE, "45000", &[], false,
        "Session time-out of the new group protocol."),
    row("group.initial.rebalance.delay.ms", NATURAL, "3000", &[], true,
        "How long a new group waits for more members before its first rebalance."),
    row("group.max.session.timeout.ms", POSITIVE, "1800000", &[], true, "Longest session time-out of a member."),
    row("group.max.size", POSITIVE, "2147483647", &[], true, "Most members of a group."),
    row("group.min.session.timeout.ms", POSITIVE, "6000", &[], true, "Shortest session time-out of a member."),
    row("log.cleaner.delete.retention.ms", LONG_0, "86400000", &[], false, "Default of `delete.retention.ms`."),
    row("log.cleaner.max.compaction.lag.ms", LONG_1, LONG_MAX, &[], false, "Default of `max.compaction.lag.ms`."),
    row("log.cleaner.min.cleanable.ratio", Kind::Double { min: 0.0, max: 1.0 }, "0.5", &[], false,
        "Default of `min.cleanable.dirty.ratio`."),
    row("log.cleaner.min.compaction.lag.ms", LONG_0, "0", &[], false, "Default of `min.compaction.lag.ms`."),
    row("log.cleanup.policy", Kind::List(&["compact", "delete"]), "delete", &[], true, "Default of `cleanup.policy`."),
    row("log.flush.interval.messages", LONG_1, LONG_MAX, &[], false, "Default of `flush.messages`."),
    row("log.flush.interval.ms", LONG_0, LONG_MAX, &[], false, "Default of `flush.ms`."),
    row("log.index.interval.bytes", NATURAL, "4096", &[], false, "Default of `index.interval.bytes`."),
    row("log.index.size.max.bytes", Kind::Int { min: 4, max: i32::MAX }, "10485760", &[], false,
        "Default of `segment.index.bytes`."),
    row("log.local.retention.bytes", Kind::Long { min: -2 }, "-2", &[], false, "Default of `local.retention.bytes`."),
    row("log.local.retention.ms", Kind::Long { min: -2 }, "-2", &[], false, "Default of `local.retention.ms`."),
    row("log.message.timestamp.after.max.ms", LONG_0, "3600000", &[], true,
        "Default of `message.timestamp.after.max.ms`."),
    row("log.message.timestamp.before.max.ms", LONG_0, LONG_MAX, &[], true,
        "Default of `message.timestamp.before.max.ms`."),
    row("log.message.timestamp.type", Kind::Text(&["CreateTime", "LogAppendTime"]), "CreateTime", &[], true,
        "Default of `message.timestamp.type`."),
    row("log.preallocate", Kind::Boolean, "false", &[], false, "Default of `preallocate`."),
    row("log.retention.bytes", Kind::Long { min: i64::MIN }, "-1", &[], true, "Default of `retention.bytes`."),
    row("log.retention.check.interval.ms", LONG_1, "300000", &[], true,
        "Time between two looks for records that are too old or too many."),
    row("log.retention.hours", Kind::Int { min: -1, max: i32::MAX }, "168", &[], true,
        "Default of `retention.ms`, in hours."),
    row("log.retention.minutes", Kind::Int { min: -1, max: i32::MAX }, "10080", &[], true,
        "Default of `retention.ms`, in minutes; outranks the hours."),
    row("log.retention.ms", Kind::Long { min: -1 }, "604800000", &[], true,
        "Default of `retention.ms`; outranks minutes and hours."),
    row("log.roll.hours", POSITIVE, "168", &[], false, "Default of `segment.ms`, in hours."),
    row("log.roll.jitter.hours", NATURAL, "0", &[], false, "Default of `segment.jitter.ms`, in hours."),
    row("log.roll.jitter.ms", LONG_0, "0", &[], false, "Default of `segment.jitter.ms`."),
    row("log.roll.ms", LONG_1, "604800000", &[], false, "Default of `segment.ms`."),
    row("log.segment.bytes", Kind::Int { min: 1 << 20, max: i32::MAX }, "1073741824", &[], false,
        "Default of `segment.bytes`."),
    row("log.segment.delete.delay.ms", LONG_0, "60000", &[], false, "Default of `file.delete.delay.ms`."),
    row("max.incremental.fetch.session.cache.slots", NATURAL, "1000", &[], true, "Most fetch sessions."),
    row("max.request.partition.size.limit", POSITIVE, "2000", &[], true,
        "Most partitions in a response to DescribeTopicPartitions."),
    row("message.max.bytes", NATURAL, "1048588", &[], true, "Default of `max.message.bytes`."),
    row("min.insync.replicas", POSITIVE, "1", &[], false, "Default of the topic config."),
    row("node.id", NATURAL, "1", &[], false, "The broker's number; set by Ottla's own option."),
    row("num.partitions", POSITIVE, "1", &[], true,
        "Partitions of topics that are created without a number of their own."),
    row("offset.metadata.max.bytes", NATURAL, "4096", &[], true, "Longest text that a consumer may keep with an offset."),
    row("offsets.retention.check.interval.ms", LONG_1, "600000", &[], true,
        "How often a coordinator looks for offsets whose retention is over."),
    row("offsets.retention.minutes", POSITIVE, "10080", &[], true,
        "How long the offsets of a group without members are kept."),
    row("offsets.topic.num.partitions", POSITIVE, "50", &[], true,
        "Partitions of `__consumer_offsets` when it is created."),
    row("offsets.topic.replication.factor", Kind::Short { min: 1 }, "3", &[], false,
        "Replication factor of `__consumer_offsets`. Durability is the store's."),
    row("producer.id.expiration.ms", POSITIVE, "86400000", &[], true,
        "Idle time after which a partition forgets a producer."),
    row("socket.request.max.bytes", POSITIVE, "104857600", &[], true, "Largest request, in bytes."),
    row("transaction.max.timeout.ms", POSITIVE, "900000", &[], false, "Longest transaction time-out."),
    row("transaction.state.log.min.isr", POSITIVE, "2", &[], false,
        "Replicas that must confirm the state of a transaction. Durability is the store's."),
    row("transaction.state.log.num.partitions", POSITIVE, "50", &[], false,
        "Partitions of `__transaction_state` when it is created."),
    row("transaction.state.log.replication.factor", Kind::Short { min: 1 }, "3", &[], false,
        "Replication factor of `__transaction_state`. Durability is the store's."),
    row("transactional.id.expiration.ms", POSITIVE, "604800000", &[], false,
        "Idle time after which a transactional id is forgotten."),
    row("unclean.leader.election.enable", Kind::Boolean, "false", &[], false, "Default of the topic config."),
];

pub fn topic(name: &str) -> Option<&'static Row> {
    TOPIC.binary_search_by(|row| row.name.cmp(name)).ok().map(|at| &TOPIC[at])
}

/// Whether a broker config can be set while brokers run: those that give topics' defaults in the topic configs' own unit
/// (Kafka's `DynamicLogConfig.RECONFIGURABLE_CONFIGS`).
pub fn is_dynamic(name: &str) -> bool {
    TOPIC.iter().any(|row| row.broker.contains(&(name, 1)))
}

pub fn broker(name: &str) -> Option<&'static Row> {
    BROKER.binary_search_by(|row| row.name.cmp(name)).ok().map(|at| &BROKER[at])
}
