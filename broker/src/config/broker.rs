//! Configs of the broker: those that are fixed for its life as fields, and the defaults of topics' configs.

use std::collections::BTreeMap;

use super::describe::Source;
use super::kind::parse_boolean;
use super::layers::Layers;
use super::{Invalid, table, validate_topic};
use crate::metadata::image::Config;

/// What the operator set, checked, over the table's defaults.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    layers: Layers,
    /// Largest batch that the write-ahead log takes, bytes.
    batch_bytes_max: u64,
    pub auto_create_topics_enable: bool,
    pub connections_max_idle_ms: i64,
    pub default_replication_factor: i16,
    pub delete_topic_enable: bool,
    pub fetch_max_bytes: i32,
    pub fetch_session_slots: usize,
    pub group_initial_rebalance_delay_ms: i32,
    pub group_max_session_timeout_ms: i32,
    pub group_max_size: i32,
    pub group_min_session_timeout_ms: i32,
    pub log_retention_check_interval_ms: i64,
    pub max_request_partition_size_limit: i32,
    pub num_partitions: i32,
    pub offset_metadata_max_bytes: i32,
    pub offsets_retention_check_interval_ms: i64,
    pub offsets_retention_minutes: i32,
    pub offsets_topic_num_partitions: i32,
    pub producer_id_expiration_ms: i32,
    pub socket_request_max_bytes: i32,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        BrokerConfig::new(&BTreeMap::new()).expect("the table's defaults are valid")
    }
}

impl BrokerConfig {
    /// `set` is by Kafka's names. A name that the table does not have is refused: it would have no effect.
    pub fn new(set: &BTreeMap<String, String>) -> Result<BrokerConfig, Invalid> {
        let mut checked = BTreeMap::new();
        for (name, value) in set {
            let row =
                table::broker(name).ok_or_else(|| Invalid(format!("Unknown broker config name: {name}")))?;
            row.kind.validate(name, value)?;
            checked.insert(row.name, value.trim().to_owned());
        }
        let text = |name: &str| -> &str {
            match checked.get(name) {
                Some(value) => value,
                None => table::broker(name).expect("a row of the table").default,
            }
        };
        let boolean = |name: &str| parse_boolean(text(name)).expect("validated");
        let int = |name: &str| text(name).parse::<i32>().expect("validated");
        let config = BrokerConfig {
            auto_create_topics_enable: boolean("auto.create.topics.enable"),
            connections_max_idle_ms: text("connections.max.idle.ms").parse().expect("validated"),
            default_replication_factor: int("default.replication.factor").try_into().map_err(|_| {
                Invalid(
                    "Invalid value for configuration default.replication.factor: at most 32767".to_owned(),
                )
            })?,
            delete_topic_enable: boolean("delete.topic.enable"),
            fetch_max_bytes: int("fetch.max.bytes"),
            fetch_session_slots: int("max.incremental.fetch.session.cache.slots") as usize,
            group_initial_rebalance_delay_ms: int("group.initial.rebalance.delay.ms"),
            group_max_session_timeout_ms: int("group.max.session.timeout.ms"),
            group_max_size: int("group.max.size"),
            group_min_session_timeout_ms: int("group.min.session.timeout.ms"),
            log_retention_check_interval_ms: text("log.retention.check.interval.ms")
                .parse()
                .expect("validated"),
            max_request_partition_size_limit: int("max.request.partition.size.limit"),
            num_partitions: int("num.partitions"),
            offset_metadata_max_bytes: int("offset.metadata.max.bytes"),
            offsets_retention_check_interval_ms: text("offsets.retention.check.interval.ms")
                .parse()
                .expect("validated"),
            offsets_retention_minutes: int("offsets.retention.minutes"),
            offsets_topic_num_partitions: int("offsets.topic.num.partitions"),
            producer_id_expiration_ms: int("producer.id.expiration.ms"),
            socket_request_max_bytes: int("socket.request.max.bytes"),
            layers: Layers { start: checked, ..Layers::default() },
            batch_bytes_max: u64::MAX,
        };
        // What a topic gets that sets nothing must be possible: topics are also created without being asked for.
        validate_topic(&[], &config)?;
        Ok(config)
    }

    /// The same where the write-ahead log takes no batch that is larger. No topic may then ask for more.
    pub fn with_batch_limit(self, batch_bytes_max: u64) -> Result<BrokerConfig, Invalid> {
        let config = BrokerConfig { batch_bytes_max, ..self };
        validate_topic(&[], &config)?;
        Ok(config)
    }

    /// The same with what was set, while brokers ran, for all of them and for this one. What cannot be read of it
    /// (another version may have written it) counts as not set.
    pub fn with_dynamic(&self, cluster: &[Config], own: &[Config]) -> BrokerConfig {
        let (cluster, own) = (Layers::usable(cluster), Layers::usable(own));
        let start = self.layers.start.clone();
        BrokerConfig { layers: Layers { own, cluster, start }, ..self.clone() }
    }

    /// What was set for it, wherever.
    pub fn set(&self, name: &str) -> Option<&str> {
        self.layers.get(name)
    }

    /// What was set under each source, the one that wins first.
    pub fn layers(&self) -> [(Source, &BTreeMap<&'static str, String>); 3] {
        self.layers.all()
    }

    pub fn batch_bytes_max(&self) -> u64 {
        self.batch_bytes_max
    }
}
