//! kafka-console-producer and -consumer, the two performance tests, kafka-get-offsets, kafka-delete-records.

use super::tools::{Tools, rows, sorted};
use crate::process::{Ottla, Storage, run};

#[test]
fn console_producer_and_consumer() {
    let mut broker = Ottla::new(Storage::BucketObject);
    broker.start();
    let tools = Tools(&broker);
    tools.run("kafka-topics --create --topic notes --partitions 3");
    // By Kafka's own partitioner, k2 and k5 go to partition 0, k3 and k4 to 1, k1 to 2.
    let keyed = "kafka-console-producer --topic notes --property parse.key=true";
    tools.run_with(&format!("{keyed} --property key.separator=:"), &["k1:v1", "k2:v2", "k3:v3", "k4:v4"]);
    let headers = "--property parse.headers=true --compression-codec zstd";
    tools.run_with(&format!("{keyed} {headers}"), &["h1:x,h2:y\tk5\tv5"]);

    let read = "kafka-console-consumer --topic notes --timeout-ms 60000";
    let whole = [
        "Partition:0\tOffset:0\tNO_HEADERS\tk2\tv2",
        "Partition:0\tOffset:1\th1:x,h2:y\tk5\tv5",
        "Partition:1\tOffset:0\tNO_HEADERS\tk3\tv3",
        "Partition:1\tOffset:1\tNO_HEADERS\tk4\tv4",
        "Partition:2\tOffset:0\tNO_HEADERS\tk1\tv1",
    ];
    let print = "--property print.key=true --property print.headers=true --property print.partition=true \
                 --property print.offset=true";
    let everything = format!("{read} --from-beginning --max-messages 5 {print}");
    assert_eq!(sorted(&tools.run(&everything)), whole);
    assert_eq!(tools.run(&format!("{read} --partition 1 --offset 1 --max-messages 1")), "v4\n");
    assert_eq!(tools.run(&format!("{read} --partition 0 --offset earliest --max-messages 2")), "v2\nv5\n");

    let member = format!("{read} --group readers --from-beginning");
    assert_eq!(sorted(&tools.run(&format!("{member} --max-messages 5"))), ["v1", "v2", "v3", "v4", "v5"]);
    broker.kill();
    broker.start();
    let tools = Tools(&broker);
    tools.run_with("kafka-console-producer --topic notes --producer-property acks=1 --sync", &["v6"]);
    assert_eq!(tools.run(&format!("{member} --max-messages 1")), "v6\n", "the group goes on where it was");
    let all = tools.run(&format!("{read} --from-beginning --max-messages 6"));
    assert_eq!(sorted(&all), ["v1", "v2", "v3", "v4", "v5", "v6"]);
    broker.stop();
}

#[test]
fn performance_tests_and_offsets() {
    let mut broker = Ottla::new(Storage::BucketBlock);
    broker.start();
    let tools = Tools(&broker);
    tools.run("kafka-topics --create --topic load --partitions 2");
    let sent = tools.run(
        "kafka-producer-perf-test --topic load --num-records 3000 --record-size 200 --throughput -1 \
         --producer-props compression.type=lz4 linger.ms=5 bootstrap.servers={bootstrap}",
    );
    assert!(sent.contains("3000 records sent"), "{sent}");
    let read = tools.run("kafka-consumer-perf-test --topic load --messages 3000 --timeout 60000");
    assert_eq!(rows(&read).len(), 2, "{read}");
    let messages = rows(&read)[1][6].trim_end_matches(',').to_owned();
    assert_eq!(messages, "3000", "{read}");
    let latency = tools.run("kafka-e2e-latency {bootstrap} load 20 all 100");
    assert!(latency.contains("Avg latency:") && latency.contains("Percentiles:"), "{latency}");

    let latest = tools.run("kafka-get-offsets --topic load");
    let ends = offsets("load", &latest);
    assert_eq!(ends.iter().sum::<i64>(), 3020, "{latest}");
    assert_eq!(tools.run("kafka-get-offsets --topic load --time -1"), latest);
    for earliest in ["-2", "earliest", "-4", "earliest-local", "1000"] {
        let answer = tools.run(&format!("kafka-get-offsets --topic load --time {earliest}"));
        assert_eq!(offsets("load", &answer), [0, 0], "{earliest}");
    }
    let newest = offsets("load", &tools.run("kafka-get-offsets --topic load --time max-timestamp"));
    assert!(newest.iter().zip(&ends).all(|(newest, end)| (0..*end).contains(newest)), "{newest:?} {ends:?}");
    // Nothing is tiered, and nothing is that new.
    assert_eq!(tools.run("kafka-get-offsets --topic load --time -5"), "");
    assert_eq!(tools.run("kafka-get-offsets --topic load --time 4000000000000"), "");
    let one = tools.run("kafka-get-offsets --topic-partitions load:1");
    assert_eq!(one, format!("load:1:{}\n", ends[1]));
    let unknown = tools.fail("kafka-get-offsets --topic unknown");
    assert!(unknown.contains("Could not match any topic-partitions"), "{unknown}");
    broker.stop();
}

#[test]
fn deleted_records() {
    let mut broker = Ottla::new(Storage::DirectoryBlock);
    broker.start();
    for topic in ["some", "all"] {
        Tools(&broker).run(&format!("kafka-topics --create --topic {topic} --partitions 1"));
        run(&mut broker.cli(&["produce", topic, "a", "b", "c", "d", "e"]));
    }
    let plan = broker.directory.path().join("offsets.json");
    let delete = |broker: &Ottla, some: i64| {
        let partition = |topic, offset| format!(r#"{{"topic":"{topic}","partition":0,"offset":{offset}}}"#);
        let partitions = format!("{},{}", partition("some", some), partition("all", -1));
        std::fs::write(&plan, format!(r#"{{"partitions":[{partitions}],"version":1}}"#)).unwrap();
        Tools(broker).run(&format!("kafka-delete-records --offset-json-file {}", plan.display()))
    };
    let said = delete(&broker, 3);
    assert!(said.contains("partition: some-0\tlow_watermark: 3"), "{said}");
    assert!(said.contains("partition: all-0\tlow_watermark: 5"), "{said}");
    let beyond = delete(&broker, 6);
    assert!(beyond.contains("partition: some-0\terror:"), "{beyond}");

    broker.kill();
    broker.start();
    let earliest = |topic| Tools(&broker).run(&format!("kafka-get-offsets --topic {topic} --time earliest"));
    assert_eq!((offsets("some", &earliest("some")), offsets("all", &earliest("all"))), (vec![3], vec![5]));
    let left = run(&mut broker.cli(&["consume", "some", "--from-beginning"]));
    assert_eq!(left, "d\ne\n");
}

/// The offsets of the partitions 0, 1, … of one topic.
fn offsets(topic: &str, printed: &str) -> Vec<i64> {
    let offset = |(partition, line): (usize, &str)| {
        let prefix = format!("{topic}:{partition}:");
        line.strip_prefix(&prefix).unwrap_or_else(|| panic!("{prefix} begins {line:?}")).parse().unwrap()
    };
    printed.lines().enumerate().map(offset).collect()
}
