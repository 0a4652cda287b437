//! kafka-topics, kafka-configs, and the tools that look at the cluster.

use super::tools::{Tools, rows, sorted};
use crate::process::{Ottla, Storage};

#[test]
fn kafka_topics() {
    let mut broker = Ottla::new(Storage::DirectoryBlock);
    broker.start();
    let tools = Tools(&broker);

    let created = tools.run("kafka-topics --create --topic orders --partitions 3 --replication-factor 1 --config retention.ms=86400000");
    assert_eq!(created, "Created topic orders.\n");
    assert!(tools.fail("kafka-topics --create --topic orders").contains("Topic 'orders' already exists."));
    assert_eq!(tools.run("kafka-topics --create --topic orders --if-not-exists"), "");
    assert_eq!(tools.run("kafka-topics --create --topic plain"), "Created topic plain.\n");
    let unknown = tools.fail("kafka-topics --create --topic odd --config no.such=1");
    assert!(unknown.contains("Unknown topic config name: no.such"), "{unknown}");
    assert!(tools.fail("kafka-topics --create --topic no/slash").contains("InvalidTopicException"));
    assert_eq!(sorted(&tools.run("kafka-topics --list --exclude-internal")), ["orders", "plain"]);

    let described = tools.run("kafka-topics --describe --topic orders");
    let described = rows(&described);
    assert_eq!(described.len(), 4, "{described:?}");
    assert_eq!(described[0][..2], ["Topic:", "orders"]);
    assert_eq!(
        described[0][4..],
        ["PartitionCount:", "3", "ReplicationFactor:", "1", "Configs:", "retention.ms=86400000"]
    );
    for (partition, row) in described[1..].iter().enumerate() {
        let expected = [
            "Topic:",
            "orders",
            "Partition:",
            &partition.to_string(),
            "Leader:",
            "1",
            "Replicas:",
            "1",
            "Isr:",
            "1",
        ];
        assert_eq!(row[..10], expected);
    }
    for filter in ["--under-replicated-partitions", "--unavailable-partitions", "--under-min-isr-partitions"]
    {
        assert_eq!(tools.run(&format!("kafka-topics --describe {filter}")), "", "{filter}");
    }
    let overridden = tools.run("kafka-topics --describe --topics-with-overrides");
    assert!(overridden.contains("orders") && !overridden.contains("plain"), "{overridden}");
    let unknown = tools.fail("kafka-topics --describe --topic unknown");
    assert!(unknown.contains("Topic 'unknown' does not exist as expected"), "{unknown}");

    assert_eq!(tools.run("kafka-topics --alter --topic orders --partitions 5"), "");
    assert!(tools.run("kafka-topics --describe --topic orders").contains("PartitionCount: 5"));
    let fewer = tools.fail("kafka-topics --alter --topic orders --partitions 2");
    assert!(fewer.contains("InvalidPartitionsException"), "{fewer}");

    broker.kill();
    broker.start();
    let tools = Tools(&broker);
    let described = tools.run("kafka-topics --describe --topic orders");
    assert!(
        described.contains("PartitionCount: 5") && described.contains("retention.ms=86400000"),
        "{described}"
    );
    assert_eq!(tools.run("kafka-topics --delete --topic orders"), "");
    let gone = tools.fail("kafka-topics --delete --topic orders");
    assert!(gone.contains("Topic 'orders' does not exist as expected"), "{gone}");
    assert_eq!(tools.run("kafka-topics --delete --topic orders --if-exists"), "");
    assert_eq!(sorted(&tools.run("kafka-topics --list --exclude-internal")), ["plain"]);
    broker.stop();
}

#[test]
fn kafka_configs() {
    let mut broker = Ottla::new(Storage::DirectoryObject);
    broker.start();
    let tools = Tools(&broker);
    tools.run("kafka-topics --create --topic orders");
    let topic = "--entity-type topics --entity-name orders";
    let describe = format!("kafka-configs --describe {topic}");

    assert_eq!(tools.run(&describe), "Dynamic configs for topic orders are:\n");
    let altered = tools.run(&format!(
        "kafka-configs --alter {topic} --add-config retention.ms=1000000,max.message.bytes=2000"
    ));
    assert_eq!(altered, "Completed updating config for topic orders.\n");
    let described = tools.run(&describe);
    assert_eq!(values(&described), ["max.message.bytes=2000", "retention.ms=1000000"]);
    assert!(
        described.contains(
            "DYNAMIC_TOPIC_CONFIG:max.message.bytes=2000, DEFAULT_CONFIG:message.max.bytes=1048588"
        )
    );
    // It acts at once.
    let too_large = "x".repeat(3000);
    let refused = tools.output_with("kafka-console-producer --topic orders", &[&too_large]);
    assert!(refused.contains("RecordTooLargeException"), "{refused}");
    tools.run(&format!("kafka-configs --alter {topic} --delete-config max.message.bytes"));
    assert_eq!(values(&tools.run(&describe)), ["retention.ms=1000000"]);
    tools.run_with("kafka-console-producer --topic orders", &[&too_large]);
    for (wrong, complaint) in
        [("no.such=1", "Unknown topic config name: no.such"), ("retention.ms=soon", "retention.ms")]
    {
        let refused = tools.fail(&format!("kafka-configs --alter {topic} --add-config {wrong}"));
        assert!(
            refused.contains("InvalidConfigurationException") && refused.contains(complaint),
            "{refused}"
        );
    }
    assert_eq!(values(&tools.run(&describe)), ["retention.ms=1000000"]);
    let all = tools.run(&format!("{describe} --all"));
    assert!(values(&all).contains(&"cleanup.policy=delete") && values(&all).len() > 30, "{all}");

    // For all brokers, and for one, which goes before it.
    let brokers = "--entity-type brokers --entity-default";
    let one = "--entity-type brokers --entity-name 1";
    assert_eq!(
        tools.run(&format!("kafka-configs --alter {brokers} --add-config log.retention.ms=2000000")),
        "Completed updating default config for brokers in the cluster.\n"
    );
    tools.run(&format!("kafka-configs --alter {one} --add-config log.retention.ms=3000000"));
    assert_eq!(
        values(&tools.run(&format!("kafka-configs --describe {brokers}"))),
        ["log.retention.ms=2000000"]
    );
    let described = tools.run(&format!("kafka-configs --describe {one}"));
    assert_eq!(values(&described), ["log.retention.ms=3000000"], "{described}");
    tools.run("kafka-topics --create --topic later");
    let inherits = "kafka-configs --describe --entity-type topics --entity-name later --all";
    assert!(values(&tools.run(inherits)).contains(&"retention.ms=3000000"));
    tools.run(&format!("kafka-configs --alter {one} --delete-config log.retention.ms"));
    assert!(values(&tools.run(inherits)).contains(&"retention.ms=2000000"));
    let read_only = tools.fail(&format!("kafka-configs --alter {one} --add-config broker.id=2"));
    assert!(read_only.contains("Cannot update these configs dynamically: broker.id"), "{read_only}");

    broker.kill();
    broker.start();
    let tools = Tools(&broker);
    assert_eq!(values(&tools.run(&describe)), ["retention.ms=1000000"]);
    assert!(values(&tools.run(inherits)).contains(&"retention.ms=2000000"));
    broker.stop();
}

/// The configs and their values, in the order of their names.
fn values(described: &str) -> Vec<&str> {
    let mut values: Vec<&str> = described
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .map(|line| line.split_whitespace().next().unwrap_or_default())
        .collect();
    values.sort_unstable();
    values
}

#[test]
fn tools_that_look_at_the_cluster() {
    let mut broker = Ottla::new(Storage::DirectoryBlock);
    broker.start();
    let tools = Tools(&broker);
    let id = tools.run("kafka-cluster cluster-id");
    assert!(id.starts_with("Cluster ID: ") && id.trim().len() == "Cluster ID: ".len() + 22, "{id}");
    let endpoints = tools.run("kafka-cluster list-endpoints");
    let port = broker.port.to_string();
    assert_eq!(rows(&endpoints)[1], ["1", "127.0.0.1", &port, "null", "unfenced", "broker"]);
    let versions = tools.run("kafka-broker-api-versions");
    assert!(
        versions.contains(&format!("{} (id: 1 rack: null isFenced: false) -> (", broker.bootstrap())),
        "{versions}"
    );
    assert!(versions.contains("Fetch(1): 4 to 18 [usable: 18]"), "{versions}");

    tools.run("kafka-topics --create --topic orders --partitions 2");
    tools.run_with("kafka-console-producer --topic orders", &["one", "two"]);
    let sizes = tools.run("kafka-log-dirs --describe --topic-list orders");
    let sizes: serde_json::Value = serde_json::from_str(sizes.lines().last().unwrap()).unwrap();
    let [directory] = sizes["brokers"][0]["logDirs"].as_array().unwrap().as_slice() else {
        panic!("{sizes}")
    };
    let partitions = directory["partitions"].as_array().unwrap();
    let bytes: u64 = partitions.iter().map(|partition| partition["size"].as_u64().unwrap()).sum();
    assert!(partitions.len() == 2 && bytes > 0, "{sizes}");
    let elected = tools.run("kafka-leader-election --election-type PREFERRED --topic orders --partition 0");
    assert_eq!(elected, "Valid replica already elected for partitions orders-0\n");
    assert_eq!(tools.run("kafka-reassign-partitions --list"), "No partition reassignments found.\n");
    let acls = tools.fail("kafka-acls --list");
    assert!(acls.contains("SecurityDisabledException: No Authorizer is configured."), "{acls}");

    broker.kill();
    broker.start();
    assert_eq!(Tools(&broker).run("kafka-cluster cluster-id"), id);
    broker.stop();
}
