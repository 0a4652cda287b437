//! Configs that are changed while the broker runs: what is accepted, what is shown, and that it acts at once.

use kafka_protocol::messages::alter_configs_request::{
    AlterConfigsResource as ReplacedResource, AlterableConfig as ReplacedConfig,
};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{AlterConfigsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest};
use kafka_protocol::protocol::StrBytes;
use ottla::config::{BrokerConfig, table};

use crate::support::{Client, Disk, Options, TestBroker};
use crate::testing;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn change(name: &str, op: i8, value: Option<&str>) -> AlterableConfig {
    AlterableConfig::default().with_name(text(name)).with_config_operation(op).with_value(value.map(text))
}

fn resource(kind: i8, name: &str, changes: Vec<AlterableConfig>) -> AlterConfigsResource {
    AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(changes)
}

/// Code and message for each resource.
async fn alter_all(
    client: &mut Client,
    resources: Vec<AlterConfigsResource>,
    validate_only: bool,
) -> Vec<(i16, String)> {
    let request =
        IncrementalAlterConfigsRequest::default().with_resources(resources).with_validate_only(validate_only);
    let answered = client.call(1, &request).await.responses;
    let message = |message: Option<StrBytes>| message.map_or_else(String::new, |text| text.to_string());
    answered.into_iter().map(|row| (row.error_code, message(row.error_message))).collect()
}

async fn alter(client: &mut Client, kind: i8, name: &str, changes: Vec<AlterableConfig>) -> (i16, String) {
    alter_all(client, vec![resource(kind, name, changes)], false).await.remove(0)
}

async fn set(client: &mut Client, kind: i8, resource: &str, name: &str, value: &str) {
    let answered = alter(client, kind, resource, vec![change(name, SET, Some(value))]).await;
    assert_eq!(answered, (0, String::new()), "{name}={value}");
}

async fn replace(client: &mut Client, kind: i8, name: &str, values: &[(&str, &str)]) -> i16 {
    let config = |(name, value): &(&str, &str)| {
        ReplacedConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    let resource = ReplacedResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(values.iter().map(config).collect());
    let request = AlterConfigsRequest::default().with_resources(vec![resource]);
    client.call(2, &request).await.responses[0].error_code
}

/// All configs, with synonyms.
async fn describe(client: &mut Client, kind: i8, name: &str) -> Vec<DescribeConfigsResourceResult> {
    let wanted = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![wanted]).with_include_synonyms(true);
    let mut answered = client.call(4, &request).await.results;
    assert_eq!(answered[0].error_code, 0, "{answered:?}");
    answered.remove(0).configs
}

/// Value and source.
async fn shown(client: &mut Client, kind: i8, resource: &str, name: &str) -> (String, i8) {
    let all = describe(client, kind, resource).await;
    let config = all.iter().find(|config| config.name.as_str() == name).expect("described");
    (config.value.as_ref().expect("a value").to_string(), config.config_source)
}

async fn with_topic() -> (TestBroker, Client) {
    let broker = TestBroker::start().await;
    broker.topic("t", 1, &[]).await;
    let client = broker.connect().await;
    (broker, client)
}

#[tokio::test]
async fn behaviour_110_each_operation_does_what_it_says() {
    let (_broker, mut client) = with_topic().await;
    set(&mut client, TOPIC, "t", "retention.ms", "5").await;
    assert_eq!(shown(&mut client, TOPIC, "t", "retention.ms").await, ("5".to_owned(), 1));
    let list = "leader.replication.throttled.replicas";
    // An element that is there already is not added again.
    for (op, value, expected) in [
        (APPEND, "0:1", "0:1"),
        (APPEND, "0:1,1:1", "0:1,1:1"),
        (APPEND, "1:1", "0:1,1:1"),
        (SUBTRACT, "0:1,7:7", "1:1"),
        (SUBTRACT, "1:1", ""),
        (SET, "*", "*"),
    ] {
        assert_eq!(alter(&mut client, TOPIC, "t", vec![change(list, op, Some(value))]).await.0, 0);
        assert_eq!(shown(&mut client, TOPIC, "t", list).await, (expected.to_owned(), 1), "{op} {value}");
    }
    // The others stay, and one that is not set can be unset.
    let unset = vec![change("retention.ms", DELETE, None), change("segment.ms", DELETE, Some("x"))];
    assert_eq!(alter(&mut client, TOPIC, "t", unset).await.0, 0);
    assert_eq!(shown(&mut client, TOPIC, "t", "retention.ms").await, ("604800000".to_owned(), 5));
    assert_eq!(shown(&mut client, TOPIC, "t", list).await, ("*".to_owned(), 1));
}

/// A list is appended to as it is shown, also where it is the broker's default.
#[tokio::test]
async fn behaviour_110_a_default_list_is_appended_to() {
    let (_broker, mut client) = with_topic().await;
    assert_eq!(
        alter(&mut client, TOPIC, "t", vec![change("cleanup.policy", APPEND, Some("delete"))]).await.0,
        0
    );
    assert_eq!(shown(&mut client, TOPIC, "t", "cleanup.policy").await, ("delete".to_owned(), 1));
}

#[tokio::test]
async fn behaviour_110_a_resource_gets_all_of_its_changes_or_none() {
    let (_broker, mut client) = with_topic().await;
    let mixed = vec![change("segment.ms", SET, Some("9")), change("retention.ms", SET, Some("soon"))];
    let good = vec![change("min.insync.replicas", SET, Some("2"))];
    let resources = vec![resource(TOPIC, "t", mixed), resource(TOPIC, "u", good.clone())];
    _broker.topic("u", 1, &[]).await;
    let answered = alter_all(&mut client, resources, false).await;
    assert_eq!((answered[0].0, answered[1].0), (40, 0));
    assert!(answered[0].1.contains("Not a number of type LONG"), "{answered:?}");
    assert_eq!(shown(&mut client, TOPIC, "t", "segment.ms").await, ("604800000".to_owned(), 5));
    assert_eq!(shown(&mut client, TOPIC, "u", "min.insync.replicas").await, ("2".to_owned(), 1));
    // Validated only: everything but the change.
    let resources = vec![
        resource(TOPIC, "t", good),
        resource(TOPIC, "u", vec![change("retention.ms", SET, Some("-2"))]),
        resource(BROKER, "", vec![change("log.retention.ms", SET, Some("7"))]),
    ];
    let codes: Vec<i16> =
        alter_all(&mut client, resources, true).await.into_iter().map(|row| row.0).collect();
    assert_eq!(codes, [0, 40, 0]);
    assert_eq!(shown(&mut client, TOPIC, "t", "min.insync.replicas").await, ("1".to_owned(), 5));
    assert_eq!(describe(&mut client, BROKER, "").await, []);
}

#[tokio::test]
async fn behaviour_110_what_is_refused_and_how() {
    let (_broker, mut client) = with_topic().await;
    let one = |name: &str, op, value| vec![change(name, op, value)];
    let twice = vec![change("retention.ms", SET, Some("5")), change("retention.ms", DELETE, None)];
    let cases = [
        (TOPIC, "t", one("no.such", SET, Some("1")), 40, "Unknown topic config name: no.such"),
        (TOPIC, "t", one("retention.ms", APPEND, Some("1")), 40, "its type is not LIST"),
        (TOPIC, "t", one("retention.ms", SUBTRACT, Some("1")), 40, "Can't SUBTRACT to key retention.ms"),
        (TOPIC, "t", one("cleanup.policy", APPEND, Some("shred")), 40, "compact, delete"),
        (TOPIC, "t", one("retention.ms", SET, None), 42, "Null value not supported"),
        (TOPIC, "t", one("retention.ms", SET, Some("")), 40, "Not a number"),
        (TOPIC, "t", one("retention.ms", 4, Some("1")), 42, "Unknown operation 4"),
        (TOPIC, "t", twice, 42, "duplicate config keys"),
        (TOPIC, "absent", one("retention.ms", SET, Some("1")), 3, "does not host"),
        (TOPIC, "a b", one("retention.ms", SET, Some("1")), 17, "a b"),
        (TOPIC, "", one("retention.ms", SET, Some("1")), 42, "Default topic resources"),
        (BROKER, "9", one("log.retention.ms", SET, Some("1")), 42, "Unexpected broker id, expected 1"),
        (BROKER, "one", one("log.retention.ms", SET, Some("1")), 42, "must be an integer"),
        (
            BROKER,
            "1",
            one("num.partitions", SET, Some("3")),
            42,
            "Cannot update these configs dynamically: num.partitions",
        ),
        (BROKER, "", one("log.retention.hours", DELETE, None), 42, "Cannot update these configs dynamically"),
        (BROKER, "", one("log.retention.ms", SET, Some("soon")), 42, "Not a number of type LONG"),
        (BROKER, "", one("no.such", SET, Some("1")), 40, "Unknown broker config name: no.such"),
        (8, "1", one("kafka", SET, Some("DEBUG")), 42, "BROKER_LOGGER"),
        (16, "m", one("interval.ms", SET, Some("1")), 42, "CLIENT_METRICS"),
        (32, "g", one("consumer.session.timeout.ms", SET, Some("1")), 42, "GROUP"),
        (0, "x", Vec::new(), 42, "Unsupported resource type: 0"),
    ];
    for (kind, name, changes, code, message) in cases {
        let answered = alter(&mut client, kind, name, changes).await;
        assert_eq!(answered.0, code, "{kind} {name}: {answered:?}");
        assert!(answered.1.contains(message), "{kind} {name}: {answered:?}");
    }
    let same = || resource(TOPIC, "t", vec![change("retention.ms", SET, Some("1"))]);
    for (code, message) in alter_all(&mut client, vec![same(), same()], false).await {
        assert_eq!((code, message.as_str()), (42, "Each resource must appear at most once."));
    }
    assert_eq!(shown(&mut client, TOPIC, "t", "retention.ms").await.1, 5);
}

/// Two that append at the same time both have their way.
#[tokio::test]
async fn behaviour_110_concurrent_changes_are_not_lost() {
    let (broker, mut client) = with_topic().await;
    let mut appending = tokio::task::JoinSet::new();
    for number in 0..16 {
        let mut client = broker.connect().await;
        appending.spawn(async move {
            let element = format!("{number}:1");
            let list = change("leader.replication.throttled.replicas", APPEND, Some(&element));
            assert_eq!(alter(&mut client, TOPIC, "t", vec![list]).await, (0, String::new()));
        });
    }
    while let Some(done) = appending.join_next().await {
        done.expect("no panic");
    }
    let (list, _) = shown(&mut client, TOPIC, "t", "leader.replication.throttled.replicas").await;
    assert_eq!(list.split(',').count(), 16, "{list}");
}

#[tokio::test]
async fn behaviour_110_the_legacy_request_replaces_everything() {
    let (_broker, mut client) = with_topic().await;
    set(&mut client, TOPIC, "t", "retention.ms", "5").await;
    assert_eq!(replace(&mut client, TOPIC, "t", &[("segment.ms", "7")]).await, 0);
    assert_eq!(shown(&mut client, TOPIC, "t", "retention.ms").await, ("604800000".to_owned(), 5));
    assert_eq!(shown(&mut client, TOPIC, "t", "segment.ms").await, ("7".to_owned(), 1));
    assert_eq!(replace(&mut client, TOPIC, "t", &[("segment.ms", "0")]).await, 40);
    assert_eq!(replace(&mut client, TOPIC, "t", &[("segment.ms", "1"), ("segment.ms", "2")]).await, 42);
    assert_eq!(replace(&mut client, TOPIC, "absent", &[]).await, 3);
    assert_eq!(shown(&mut client, TOPIC, "t", "segment.ms").await, ("7".to_owned(), 1));
    assert_eq!(replace(&mut client, BROKER, "", &[("log.segment.bytes", "2000000")]).await, 0);
    assert_eq!(replace(&mut client, BROKER, "", &[("log.retention.ms", "9")]).await, 0);
    let cluster = describe(&mut client, BROKER, "").await;
    assert_eq!(cluster.iter().map(|config| config.name.as_str()).collect::<Vec<_>>(), ["log.retention.ms"]);
}

/// Where a value comes from, in the order in which sources outrank each other; and all of it after a restart.
#[tokio::test]
async fn behaviour_109_sources_and_synonyms_in_their_order() {
    let disk = Disk::new();
    let set_at_start = [("log.retention.ms".to_owned(), "4".to_owned())];
    let config = BrokerConfig::new(&set_at_start.into()).expect("valid");
    let options = Options { config, ..Options::default() };
    let broker = TestBroker::on(&disk, options.clone()).await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    let name = "log.retention.ms";
    assert_eq!(shown(&mut client, TOPIC, "t", "retention.ms").await, ("4".to_owned(), 4));
    set(&mut client, BROKER, "", name, "3").await;
    assert_eq!(shown(&mut client, TOPIC, "t", "retention.ms").await, ("3".to_owned(), 3));
    assert_eq!(shown(&mut client, BROKER, "1", name).await, ("3".to_owned(), 3));
    set(&mut client, BROKER, "1", name, "2").await;
    assert_eq!(shown(&mut client, TOPIC, "t", "retention.ms").await, ("2".to_owned(), 2));
    set(&mut client, TOPIC, "t", "retention.ms", "1").await;
    broker.stop().await;

    let broker = TestBroker::on(&disk.with_new_wal(), options).await;
    let mut client = broker.connect().await;
    let topic = describe(&mut client, TOPIC, "t").await;
    assert_eq!(topic.len(), table::TOPIC.len());
    let retention = topic.iter().find(|config| config.name.as_str() == "retention.ms").expect("there");
    let synonym = |config: &DescribeConfigsResourceResult| -> Vec<(String, String, i8)> {
        let synonyms = config.synonyms.iter();
        synonyms
            .map(|one| (one.name.to_string(), one.value.as_ref().expect("a value").to_string(), one.source))
            .collect()
    };
    let expected = |rows: &[(&str, &str, i8)]| -> Vec<(String, String, i8)> {
        rows.iter().map(|(name, value, source)| (name.to_string(), value.to_string(), *source)).collect()
    };
    let of_broker = [(name, "2", 2), (name, "3", 3), (name, "4", 4), (name, "604800000", 5)];
    let mut of_topic = vec![("retention.ms", "1", 1)];
    of_topic.extend(of_broker);
    assert_eq!(synonym(retention), expected(&of_topic));
    assert!(!retention.read_only && !retention.is_sensitive);
    assert_eq!((retention.config_type, &retention.documentation), (5, &None));
    let own = describe(&mut client, BROKER, "1").await;
    assert_eq!(own.len(), table::BROKER.len());
    let retention = own.iter().find(|config| config.name.as_str() == name).expect("there");
    assert_eq!(synonym(retention), expected(&of_broker));
    assert!(!retention.read_only);
    for fixed in ["num.partitions", "log.retention.hours", "node.id", "auto.create.topics.enable"] {
        assert!(own.iter().find(|config| config.name.as_str() == fixed).expect("there").read_only, "{fixed}");
    }
    // Of all brokers, only what was set for them.
    let cluster = describe(&mut client, BROKER, "").await;
    assert_eq!(cluster.len(), 1);
    assert_eq!(synonym(&cluster[0]), expected(&[(name, "3", 3)]));
    // Unset one after the other, the next source shows.
    for (kind, resource, config, value, source) in
        [(TOPIC, "t", "retention.ms", "2", 2), (BROKER, "1", name, "3", 3), (BROKER, "", name, "4", 4)]
    {
        assert_eq!(alter(&mut client, kind, resource, vec![change(config, DELETE, None)]).await.0, 0);
        assert_eq!(shown(&mut client, TOPIC, "t", "retention.ms").await, (value.to_owned(), source));
    }
    broker.stop().await;
}

/// What the configs of batches are called, for a topic and for a broker.
struct Names {
    max_bytes: &'static str,
    timestamp_type: &'static str,
    before: &'static str,
    after: &'static str,
}

const OF_TOPIC: Names = Names {
    max_bytes: "max.message.bytes",
    timestamp_type: "message.timestamp.type",
    before: "message.timestamp.before.max.ms",
    after: "message.timestamp.after.max.ms",
};
const OF_BROKER: Names = Names {
    max_bytes: "message.max.bytes",
    timestamp_type: "log.message.timestamp.type",
    before: "log.message.timestamp.before.max.ms",
    after: "log.message.timestamp.after.max.ms",
};

/// The attributes of the batch at `offset`, as it is stored.
async fn attributes(client: &mut Client, offset: i64) -> i16 {
    let records = client.fetch("t", 0, offset).await.records.expect("records");
    i16::from_be_bytes([records[21], records[22]])
}

/// Every config with an effect on what is produced, set on a partition that is open: by the topic, by all brokers, by the
/// one. Each acts on the next batch, and no more once it is unset.
#[tokio::test]
async fn behaviour_111_configs_act_at_once_on_open_partitions() {
    let (_broker, mut client) = with_topic().await;
    let now = ottla::partition::wall_clock_ms();
    let old = testing::batch(1, |_| {});
    let ahead = testing::batch(1, |spec| spec.base_timestamp = now + 600_000);
    for batch in [&old, &ahead] {
        client.produced("t", 0, batch).await;
    }
    for (kind, name, names) in [(TOPIC, "t", OF_TOPIC), (BROKER, "", OF_BROKER), (BROKER, "1", OF_BROKER)] {
        for (config, value, batch, error) in [
            (names.max_bytes, "70", &old, 10),
            (names.before, "60000", &old, 32),
            (names.after, "60000", &ahead, 32),
        ] {
            set(&mut client, kind, name, config, value).await;
            assert_eq!(client.produce("t", 0, batch).await.error_code, error, "{kind} {name} {config}");
            assert_eq!(alter(&mut client, kind, name, vec![change(config, DELETE, None)]).await.0, 0);
            client.produced("t", 0, batch).await;
        }
        let stamped = [(names.timestamp_type, "LogAppendTime", 0x8), ("compression.type", "zstd", 4)];
        for (config, value, bits) in stamped {
            set(&mut client, kind, name, config, value).await;
            let offset = client.produced("t", 0, &old).await;
            assert_eq!(attributes(&mut client, offset).await, bits, "{kind} {name} {config}");
            assert_eq!(alter(&mut client, kind, name, vec![change(config, DELETE, None)]).await.0, 0);
            let offset = client.produced("t", 0, &old).await;
            assert_eq!(attributes(&mut client, offset).await, 0, "{kind} {name} {config}");
        }
    }
}

/// `compression.gzip.level` and `compression.zstd.level` act on the next batch too.
#[tokio::test]
async fn behaviour_111_compression_levels_act_at_once() {
    let (_broker, mut client) = with_topic().await;
    let batch = testing::batch(200, |spec| spec.value_bytes = 100);
    for (codec, low, high) in [("gzip", "1", "9"), ("zstd", "-5", "19")] {
        set(&mut client, TOPIC, "t", "compression.type", codec).await;
        let mut sizes = Vec::new();
        for (kind, name, level) in [(BROKER, "", low), (TOPIC, "t", high)] {
            set(&mut client, kind, name, &format!("compression.{codec}.level"), level).await;
            let offset = client.produced("t", 0, &batch).await;
            sizes.push(client.fetch("t", 0, offset).await.records.expect("records").len());
        }
        assert_ne!(sizes[0], sizes[1], "{codec}");
    }
}

/// Whatever the write-ahead log would not take cannot be promised.
#[tokio::test]
async fn behaviour_111_batches_that_the_log_cannot_take_are_not_allowed() {
    let config = BrokerConfig::default().with_batch_limit(2_000_000).expect("more than the default");
    let broker = TestBroker::on(&Disk::new(), Options { config, ..Options::default() }).await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    for (kind, name, config, code) in [
        (TOPIC, "t", "max.message.bytes", 40),
        (BROKER, "", "message.max.bytes", 42),
        (BROKER, "1", "message.max.bytes", 42),
    ] {
        let refused = alter(&mut client, kind, name, vec![change(config, SET, Some("2000001"))]).await;
        assert_eq!(refused.0, code);
        assert!(refused.1.contains("takes batches of up to 2000000 bytes"), "{refused:?}");
        set(&mut client, kind, name, config, "2000000").await;
    }
}

/// Topic configs of 4.J as they are shown where nobody set anything.
#[tokio::test]
async fn behaviour_109_every_default_that_clients_observe() {
    let (_broker, mut client) = with_topic().await;
    let of_topic = [
        ("max.message.bytes", "1048588"),
        ("min.insync.replicas", "1"),
        ("retention.ms", "604800000"),
        ("segment.ms", "604800000"),
        ("retention.bytes", "-1"),
        ("segment.bytes", "1073741824"),
        ("delete.retention.ms", "86400000"),
        ("min.cleanable.dirty.ratio", "0.5"),
        ("compression.type", "producer"),
        ("cleanup.policy", "delete"),
        ("message.timestamp.type", "CreateTime"),
        ("message.timestamp.after.max.ms", "3600000"),
        ("flush.messages", "9223372036854775807"),
        ("flush.ms", "9223372036854775807"),
        ("index.interval.bytes", "4096"),
        ("segment.index.bytes", "10485760"),
        ("file.delete.delay.ms", "60000"),
    ];
    let of_broker = [
        ("message.max.bytes", "1048588"),
        ("fetch.max.bytes", "57671680"),
        ("socket.request.max.bytes", "104857600"),
        ("num.partitions", "1"),
        ("auto.create.topics.enable", "true"),
        ("offset.metadata.max.bytes", "4096"),
        ("offsets.retention.minutes", "10080"),
        ("offsets.topic.num.partitions", "50"),
        ("group.min.session.timeout.ms", "6000"),
        ("group.max.session.timeout.ms", "1800000"),
        ("group.initial.rebalance.delay.ms", "3000"),
        ("group.consumer.session.timeout.ms", "45000"),
        ("group.consumer.heartbeat.interval.ms", "5000"),
        ("transaction.max.timeout.ms", "900000"),
        ("producer.id.expiration.ms", "86400000"),
        ("transactional.id.expiration.ms", "604800000"),
        ("max.incremental.fetch.session.cache.slots", "1000"),
        ("connections.max.idle.ms", "600000"),
    ];
    for (kind, resource, expected) in [(TOPIC, "t", &of_topic[..]), (BROKER, "1", &of_broker[..])] {
        let all = describe(&mut client, kind, resource).await;
        for (name, value) in expected {
            let config = all.iter().find(|config| config.name.as_str() == *name).expect(name);
            assert_eq!(config.value.as_deref(), Some(*value), "{name}");
            assert_eq!(config.config_source, 5, "{name}");
        }
    }
}
