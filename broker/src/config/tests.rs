use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::metadata::image::Config;

fn configs(pairs: &[(&str, &str)]) -> Vec<Config> {
    let mut configs: Vec<Config> =
        pairs.iter().map(|(name, value)| (Arc::from(*name), Arc::from(*value))).collect();
    configs.sort();
    configs
}

fn broker(pairs: &[(&str, &str)]) -> BrokerConfig {
    let set: BTreeMap<String, String> =
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    BrokerConfig::new(&set).expect("valid")
}

#[test]
fn tables_are_sorted_and_their_defaults_valid() {
    for rows in [table::TOPIC, table::BROKER] {
        assert!(rows.is_sorted_by(|one, next| one.name < next.name));
        for row in rows {
            row.kind.validate(row.name, row.default).unwrap_or_else(|error| panic!("{}: {error}", row.name));
        }
    }
    assert_eq!(table::TOPIC.len(), 33);
}

#[test]
fn a_broker_config_that_gives_a_default_has_the_topic_configs_default() {
    for row in table::TOPIC {
        for (name, factor) in row.broker {
            let broker = table::broker(name).unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(broker.effect, row.effect, "{name}");
            if *factor == 1 {
                assert_eq!(broker.default, row.default, "{name}");
                assert_eq!(broker.kind, row.kind, "{name}");
            } else {
                let scaled = broker.default.parse::<i64>().unwrap() * factor;
                assert_eq!(scaled.to_string(), row.default, "{name}");
            }
        }
    }
}

#[test]
fn defaults_that_clients_observe() {
    let config = TopicConfig::new(&[], &BrokerConfig::default());
    assert_eq!(config.max_message_bytes(), 1_048_588);
    assert_eq!(config.retention_ms(), 604_800_000);
    assert_eq!(config.retention_bytes(), -1);
    assert_eq!(config.timestamp_after_max_ms(), 3_600_000);
    assert_eq!(config.timestamp_before_max_ms(), i64::MAX);
    assert_eq!(config.timestamp_type(), TimestampType::CreateTime);
    assert_eq!(config.compression_type(), CompressionType::Producer);
    assert_eq!(config.cleanup(), Cleanup { delete: true, compact: false });
    let broker = BrokerConfig::default();
    assert_eq!(broker.fetch_max_bytes, 57_671_680);
    assert_eq!(broker.socket_request_max_bytes, 104_857_600);
    assert_eq!(broker.num_partitions, 1);
    assert_eq!(broker.group_initial_rebalance_delay_ms, 3_000);
    assert_eq!(broker.offsets_topic_num_partitions, 50);
}

#[test]
fn a_topics_value_outranks_the_brokers_and_ms_outranks_hours() {
    let broker = broker(&[("log.retention.hours", "1"), ("message.max.bytes", "7")]);
    let config = TopicConfig::new(&configs(&[("max.message.bytes", "9")]), &broker);
    assert_eq!(config.max_message_bytes(), 9);
    assert_eq!(config.retention_ms(), 3_600_000);
    let broker = self::broker(&[("log.retention.hours", "1"), ("log.retention.ms", "5")]);
    assert_eq!(TopicConfig::new(&[], &broker).retention_ms(), 5);
    let broker = self::broker(&[("log.retention.hours", "-1")]);
    assert_eq!(TopicConfig::new(&[], &broker).retention_ms(), -1);
}

#[test]
fn a_value_that_cannot_be_read_counts_as_not_set() {
    let config = TopicConfig::new(&configs(&[("max.message.bytes", "many")]), &BrokerConfig::default());
    assert_eq!(config.max_message_bytes(), 1_048_588);
}

#[test]
fn behaviour_106_invalid_configs_are_refused_with_kafkas_words() {
    let broker = BrokerConfig::default();
    let refused =
        |name: &str, value: &str| validate_topic(&configs(&[(name, value)]), &broker).unwrap_err().0;
    assert_eq!(refused("no.such", "1"), "Unknown topic config name: no.such");
    assert!(refused("retention.ms", "soon").contains("Not a number of type LONG"));
    assert!(refused("retention.ms", "-2").contains("at least -1"));
    assert!(refused("segment.bytes", "14").contains("at least 1048576"));
    assert!(refused("cleanup.policy", "shred").contains("compact, delete"));
    assert!(refused("message.timestamp.type", "Never").contains("must be one of"));
    assert!(refused("preallocate", "perhaps").contains("true or false"));
    assert!(refused("min.cleanable.dirty.ratio", "NaN").contains("DOUBLE"));
    assert!(refused("min.cleanable.dirty.ratio", "1.5").contains("no more than 1"));
    assert!(refused("leader.replication.throttled.replicas", &"1:2,".repeat(9_000)).contains("at most 8192"));
    assert!(refused("remote.storage.enable", "true").contains("Tiered Storage"));
    let lag = configs(&[("min.compaction.lag.ms", "9"), ("max.compaction.lag.ms", "8")]);
    assert!(validate_topic(&lag, &broker).unwrap_err().0.contains("min.compaction.lag.ms (9)"));
}

#[test]
fn compaction_is_refused_for_users_and_granted_to_the_broker() {
    let broker = BrokerConfig::default();
    for value in ["compact", "delete, compact", "compact,delete"] {
        let set = configs(&[("cleanup.policy", value)]);
        assert!(validate_topic(&set, &broker).unwrap_err().0.contains("not supported yet"));
        assert!(validate_topic_internal(&set, &broker).is_ok());
        assert!(TopicConfig::new(&set, &broker).cleanup().compact);
    }
    validate_topic(&configs(&[("cleanup.policy", "delete")]), &broker).unwrap();
}

#[test]
fn unknown_or_invalid_broker_configs_are_refused() {
    let refused = |name: &str, value: &str| {
        BrokerConfig::new(&BTreeMap::from([(name.to_owned(), value.to_owned())])).unwrap_err().0
    };
    assert_eq!(refused("zookeeper.connect", "x"), "Unknown broker config name: zookeeper.connect");
    assert!(refused("num.partitions", "0").contains("at least 1"));
    assert!(refused("log.cleanup.policy", "compact").contains("not supported yet"));
    assert!(refused("default.replication.factor", "40000").contains("default.replication.factor"));
}

#[test]
fn behaviour_109_sources_and_synonyms() {
    use describe::{Source, topic};
    let broker = broker(&[("log.retention.hours", "1")]);
    let set = configs(&[("retention.ms", "5")]);
    let all: Vec<_> = topic(&set, &broker).collect();
    assert_eq!(all.len(), 33);
    let retention = all.iter().find(|config| config.name == "retention.ms").unwrap();
    assert_eq!((retention.value.as_str(), retention.source), ("5", Source::Topic));
    let expected = [
        ("retention.ms", "5".to_owned(), Source::Topic),
        ("log.retention.hours", "3600000".to_owned(), Source::StaticBroker),
        ("log.retention.ms", "604800000".to_owned(), Source::Default),
    ];
    assert_eq!(retention.synonyms, expected);
    let unset = topic(&[], &broker).find(|config| config.name == "retention.ms").unwrap();
    assert_eq!((unset.value.as_str(), unset.source), ("3600000", Source::StaticBroker));
    let default = topic(&[], &broker).find(|config| config.name == "segment.ms").unwrap();
    assert_eq!((default.value.as_str(), default.source), ("604800000", Source::Default));
}

#[test]
fn the_docs_page_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config-kafka.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    if std::env::var_os("OTTLA_WRITE_DOCS").is_some() {
        std::fs::write(path, markdown()).unwrap();
    } else {
        assert!(page == markdown(), "docs/config-kafka.md is stale: run the tests with OTTLA_WRITE_DOCS=1");
    }
}
