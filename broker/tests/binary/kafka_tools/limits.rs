//! What Kafka's tools say where one broker has nothing to do, and where Ottla has nothing to offer: an answer, or a clear
//! error at once.

use std::time::Instant;

use super::tools::{Tools, rows};
use crate::process::{DEADLINE, Ottla, Storage, run};

#[test]
fn topics_with_assignments_and_conditions() {
    let mut broker = Ottla::new(Storage::DirectoryBlock);
    broker.start();
    let tools = Tools(&broker);
    let placed = tools.run("kafka-topics --create --topic placed --replica-assignment 1,1,1");
    assert_eq!(placed, "Created topic placed.\n");
    assert!(tools.run("kafka-topics --describe --topic placed").contains("PartitionCount: 3"));
    let elsewhere = tools.fail("kafka-topics --create --topic elsewhere --replica-assignment 1,9");
    assert!(elsewhere.contains("includes broker 9, but no such broker is registered"), "{elsewhere}");
    let grown = "kafka-topics --alter --topic placed --partitions 4 --replica-assignment";
    assert_eq!(tools.run(&format!("{grown} 1,1,1,1")), "");
    let few = tools.fail("kafka-topics --alter --topic placed --partitions 6 --replica-assignment 1,1,1,1,1");
    assert!(few.contains("add 2 additional partition(s), but only 1 assignment(s)"), "{few}");
    assert!(tools.run("kafka-topics --describe --topic placed").contains("PartitionCount: 4"));

    for command in ["--alter --partitions 3", "--describe", "--delete"] {
        let line = format!("kafka-topics {command} --topic unknown");
        let unknown = tools.fail(&line);
        assert!(unknown.contains("Topic 'unknown' does not exist as expected"), "{command}: {unknown}");
        assert_eq!(tools.run(&format!("{line} --if-exists")), "", "{command}");
    }
    // One replica is as many as there are to be.
    let at_min = tools.run("kafka-topics --describe --at-min-isr-partitions");
    assert_eq!(rows(&at_min).len(), 4, "{at_min}");

    run(&mut broker.cli(&["group", "reset-offsets", "g", "--topic", "placed", "--to-latest", "--execute"]));
    assert_eq!(tools.run("kafka-topics --list"), "__consumer_offsets\nplaced\n");
    assert_eq!(tools.run("kafka-topics --list --exclude-internal"), "placed\n");
    let public = tools.run("kafka-topics --describe --exclude-internal");
    assert!(public.contains("placed") && !public.contains("__consumer_offsets"), "{public}");
    let refused = tools.fail("kafka-topics --delete --topic __consumer_offsets");
    assert!(refused.contains("the broker's own and cannot be deleted"), "{refused}");
    let refused = tools.fail("kafka-topics --alter --topic __consumer_offsets --partitions 60");
    assert!(refused.contains("its number of partitions is fixed"), "{refused}");
    assert_eq!(tools.run("kafka-consumer-groups --list"), "g\n", "it is all there still");
    broker.stop();
}

#[test]
fn reassignments_that_change_nothing() {
    let mut broker = Ottla::new(Storage::DirectoryObject);
    broker.start();
    let tools = Tools(&broker);
    tools.run("kafka-topics --create --topic orders --partitions 2");
    let file = |name: &str, text: &str| {
        let path = broker.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let topics = file("topics.json", r#"{"topics":[{"topic":"orders"}],"version":1}"#);
    let plan = tools.run(&format!(
        "kafka-reassign-partitions --generate --broker-list 1 --topics-to-move-json-file {topics}"
    ));
    let as_it_is = r#"{"version":1,"partitions":[{"topic":"orders","partition":0,"replicas":[1],"log_dirs":["any"]},{"topic":"orders","partition":1,"replicas":[1],"log_dirs":["any"]}]}"#;
    let proposed = plan.split("Proposed partition reassignment configuration\n").nth(1);
    assert_eq!(proposed.map(str::trim), Some(as_it_is), "{plan}");

    let same = format!("--reassignment-json-file {}", file("same.json", as_it_is));
    let verified =
        "Reassignment of partition orders-0 is completed.\nReassignment of partition orders-1 is completed.";
    assert!(tools.run(&format!("kafka-reassign-partitions --verify {same}")).contains(verified));
    let executed = tools.run(&format!("kafka-reassign-partitions --execute {same}"));
    assert!(
        executed.contains("Successfully started partition reassignments for orders-0,orders-1"),
        "{executed}"
    );
    assert!(tools.run(&format!("kafka-reassign-partitions --verify {same}")).contains(verified));
    let cancelled = tools.run(&format!("kafka-reassign-partitions --cancel {same}"));
    assert!(cancelled.contains("None of the specified partition reassignments are active."), "{cancelled}");
    let away = as_it_is.replace("[1]", "[2]");
    let away = format!("--reassignment-json-file {}", file("away.json", &away));
    let refused = tools.fail(&format!("kafka-reassign-partitions --execute {away}"));
    assert!(refused.contains("Unknown broker id 2"), "{refused}");
    assert_eq!(tools.run("kafka-reassign-partitions --list"), "No partition reassignments found.\n");
    broker.stop();
}

/// Three brokers: partitions of several leaders, moved by Kafka's own tools.
#[test]
fn reassignments_and_elections_among_three_brokers() {
    let mut first = Ottla::new(Storage::BucketObject);
    let (mut second, mut third) = (first.fellow(), first.fellow());
    first.start();
    second.start();
    third.start();
    let tools = Tools(&first);
    // Leader and replica of each partition, as one of the brokers knows them.
    let led = || -> Vec<String> {
        let described = tools.output_with("kafka-topics --describe --topic orders", &[]);
        let led = described.lines().filter_map(|line| {
            let (_, rest) = line.split_once("Leader: ")?;
            let mut words = rest.split_whitespace();
            Some(format!("{}{}", words.next()?, words.nth(1)?))
        });
        led.collect()
    };
    let deadline = Instant::now() + DEADLINE;
    let until = |what: &dyn Fn(&[String]) -> bool| {
        while !what(&led()) {
            assert!(Instant::now() < deadline, "{:?}", led());
        }
    };
    until(&|led| {
        // Refused as long as not all three are known.
        if led.is_empty() {
            tools.output_with("kafka-topics --create --topic orders --replica-assignment 1,2,3", &[]);
        }
        led == ["11", "22", "33"]
    });
    let file = |name: &str, text: &str| {
        let path = first.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let topics = file("topics.json", r#"{"topics":[{"topic":"orders"}],"version":1}"#);
    let plan = tools.run(&format!(
        "kafka-reassign-partitions --generate --broker-list 2,3 --topics-to-move-json-file {topics}"
    ));
    let proposed = plan.split("Proposed partition reassignment configuration\n").nth(1).unwrap().trim();
    assert!(!proposed.contains("[1]") && proposed.contains("[2]") && proposed.contains("[3]"), "{plan}");
    let wanted = format!("--reassignment-json-file {}", file("wanted.json", proposed));
    let executed = tools.run(&format!("kafka-reassign-partitions --execute {wanted}"));
    assert!(executed.contains("Successfully started partition reassignments for orders-0"), "{executed}");
    let verify = format!("kafka-reassign-partitions --verify {wanted}");
    while tools.run(&verify).matches("is completed.").count() < 3 {
        assert!(Instant::now() < deadline, "{}", tools.run(&verify));
    }
    assert_eq!(tools.run("kafka-reassign-partitions --list"), "No partition reassignments found.\n");
    let cancelled = tools.run(&format!("kafka-reassign-partitions --cancel {wanted}"));
    assert!(cancelled.contains("None of the specified partition reassignments are active."), "{cancelled}");
    until(&|led| led.len() == 3 && led.iter().all(|led| led != "11"));
    let elected = tools.run("kafka-leader-election --election-type PREFERRED --topic orders --partition 0");
    assert_eq!(elected, "Valid replica already elected for partitions orders-0\n");
    for broker in [&mut third, &mut second, &mut first] {
        broker.stop();
    }
}

/// Client quotas, SCRAM, and configs of what has none.
#[test]
fn configs_of_what_is_not_there() {
    let mut broker = Ottla::new(Storage::DirectoryBlock);
    broker.start();
    let tools = Tools(&broker);
    let quotas = "The node does not support DESCRIBE_CLIENT_QUOTAS";
    let rate = "--add-config producer_byte_rate=1024";
    for line in [
        "--describe --entity-type users --all".to_owned(),
        "--describe --entity-type users --entity-name alice".to_owned(),
        "--describe --entity-type clients --all".to_owned(),
        "--describe --entity-type clients --entity-default".to_owned(),
        "--describe --entity-type ips".to_owned(),
        format!("--alter --entity-type users --entity-name alice {rate}"),
        format!("--alter --entity-type clients --entity-default {rate}"),
    ] {
        let said = tools.fail(&format!("kafka-configs {line}"));
        assert!(said.contains("UnsupportedVersionException") && said.contains(quotas), "{line}: {said}");
    }
    let scram =
        "--alter --entity-type users --entity-name alice --add-config SCRAM-SHA-256=[password=secret]";
    let said = tools.fail(&format!("kafka-configs {scram}"));
    assert!(said.contains("The node does not support ALTER_USER_SCRAM_CREDENTIALS"), "{said}");

    tools.run("kafka-topics --create --topic orders");
    run(&mut broker.cli(&["group", "reset-offsets", "g", "--topic", "orders", "--to-latest", "--execute"]));
    let interval = "--add-config interval.ms=1000";
    let session = "--add-config consumer.session.timeout.ms=50000";
    for (line, why) in [
        ("--describe --entity-type groups".to_owned(), "groups have no configs of their own"),
        ("--describe --entity-type groups --entity-name g".to_owned(), "groups have no configs of their own"),
        (
            format!("--alter --entity-type groups --entity-name g {session}"),
            "groups have no configs of their own",
        ),
        (
            format!("--alter --entity-type client-metrics --entity-name m {interval}"),
            "clients' metrics are not collected",
        ),
        (
            "--describe --entity-type broker-loggers --entity-name 1".to_owned(),
            "what is logged is decided when a broker is started",
        ),
    ] {
        let said = tools.fail(&format!("kafka-configs {line}"));
        assert!(said.contains("InvalidRequestException") && said.contains(why), "{line}: {said}");
    }
    let unknown = tools.run("kafka-configs --describe --entity-type groups --entity-name unknown");
    assert_eq!(unknown, "The group 'unknown' doesn't exist and doesn't have dynamic config.\n");
    assert_eq!(tools.run("kafka-configs --describe --entity-type client-metrics"), "");

    for whole in ["--entity-name 1 --all", "--all"] {
        let brokers = tools.run(&format!("kafka-configs --describe --entity-type brokers {whole}"));
        assert!(brokers.contains("All configs for broker 1 are:"), "{brokers}");
        for config in ["broker.id=1 ", "log.retention.hours=168 ", "num.partitions=1 "] {
            assert!(brokers.contains(&format!("  {config}")), "{config}: {brokers}");
        }
    }
    broker.stop();
}

#[test]
fn groups_that_are_not_there_and_groups_at_once() {
    let mut broker = Ottla::new(Storage::DirectoryBlock);
    broker.start();
    let tools = Tools(&broker);
    tools.run("kafka-topics --create --topic orders --partitions 2");
    tools.run_with("kafka-console-producer --topic orders", &["one", "two", "three"]);
    let groups = "kafka-consumer-groups";
    for what in ["", "--state", "--members"] {
        let said = tools.output_with(&format!("{groups} --describe --group unknown {what}"), &[]);
        assert!(said.contains("GroupIdNotFoundException"), "{what}: {said}");
    }
    let said = tools.run(&format!("{groups} --delete-offsets --group unknown --topic orders"));
    assert!(said.contains("GroupIdNotFoundException"), "{said}");
    for group in ["g", "h"] {
        tools.run(&format!("{groups} --reset-offsets --group {group} --topic orders --to-latest --execute"));
    }
    let said = tools.run(&format!("{groups} --delete-offsets --group g --topic unknown"));
    assert!(said.contains("UnknownTopicOrPartitionException"), "{said}");
    let states = tools.run(&format!("{groups} --describe --all-groups --state"));
    let mut states: Vec<_> = rows(&states)
        .into_iter()
        .filter(|row| ["g", "h"].contains(&row[0]))
        .map(|row| (row[0], row[row.len() - 2], row[row.len() - 1]))
        .collect();
    states.sort_unstable();
    assert_eq!(states, [("g", "Empty", "0"), ("h", "Empty", "0")]);
    for verbose in ["--members", "--members --verbose", "--state --verbose", "--offsets --verbose"] {
        let said = tools.output_with(&format!("{groups} --describe --group g {verbose}"), &[]);
        assert!(said.contains("Consumer group 'g' has no active members."), "{verbose}: {said}");
    }
    let reset =
        tools.run(&format!("{groups} --reset-offsets --all-groups --all-topics --to-earliest --execute"));
    let reset = rows(&reset).iter().filter(|row| row.get(1) == Some(&"orders") && row[3] == "0").count();
    assert_eq!(reset, 4, "two groups, two partitions each");
    let exported =
        tools.run(&format!("{groups} --reset-offsets --group h --topic orders --shift-by 1 --export"));
    assert_eq!(rows(&exported).len(), 2, "{exported}");
    let deleted = tools.run(&format!("{groups} --delete --all-groups"));
    assert!(
        deleted.contains("'g'") && deleted.contains("'h'") && deleted.contains("was successful"),
        "{deleted}"
    );
    assert_eq!(tools.run(&format!("{groups} --list")).trim(), "");
    broker.stop();
}
