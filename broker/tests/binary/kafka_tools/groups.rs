//! kafka-consumer-groups and kafka-groups: looking at groups, and every way to reset their offsets.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use super::tools::{Tools, rows, sorted};
use crate::process::{DEADLINE, Ottla, Storage, exit_within, wait_until};

/// By partition.
type Offsets = BTreeMap<i32, i64>;

fn offsets<const N: usize>(offsets: [i64; N]) -> Offsets {
    (0..).zip(offsets).collect()
}

/// Columns of a table by their heads, and one row for each partition of `orders`.
fn by_partition(table: &str, column: &str) -> Offsets {
    let rows = rows(table);
    let heads =
        rows.iter().position(|row| row.first() == Some(&"GROUP")).unwrap_or_else(|| panic!("{table}"));
    let at = |name: &str| {
        rows[heads].iter().position(|head| *head == name).unwrap_or_else(|| panic!("{name}: {table}"))
    };
    let (partition, value) = (at("PARTITION"), at(column));
    rows[heads + 1..]
        .iter()
        .map(|row| (row[partition].parse().unwrap(), row[value].parse().unwrap()))
        .collect()
}

fn committed(tools: &Tools) -> Offsets {
    by_partition(&tools.run("kafka-consumer-groups --describe --group g --offsets"), "CURRENT-OFFSET")
}

/// Resets offsets, and holds what is printed, and what is committed then, to what is expected.
fn reset(tools: &Tools, how: &str, expected: &Offsets) {
    let before = committed(tools);
    let reset = format!("kafka-consumer-groups --reset-offsets --group g {how}");
    let printed = by_partition(&tools.run(&format!("{reset} --dry-run")), "NEW-OFFSET");
    assert_eq!(&printed, expected, "{how}");
    assert_eq!(committed(tools), before, "{how}: a dry run changes nothing");
    let printed = by_partition(&tools.run(&format!("{reset} --execute")), "NEW-OFFSET");
    assert_eq!(&printed, expected, "{how}");
    let mut after = before;
    after.extend(expected);
    assert_eq!(committed(tools), after, "{how}");
}

/// Two records in each of three partitions. The time that comes back lies between the first four and the last two.
fn produce(tools: &Tools) -> SystemTime {
    tools.run("kafka-topics --create --topic orders --partitions 3");
    // By Kafka's own partitioner, k2 and k5 go to partition 0, k3 and k4 to 1, k1 to 2.
    let keyed = "kafka-console-producer --topic orders --property parse.key=true --property key.separator=:";
    tools.run_with(keyed, &["k1:v1", "k2:v2", "k3:v3", "k4:v4"]);
    std::thread::sleep(Duration::from_millis(5));
    let between = SystemTime::now();
    std::thread::sleep(Duration::from_millis(5));
    tools.run_with(keyed, &["k5:v5", "k1:v6"]);
    between
}

const CONSUME: &str = "kafka-console-consumer --topic orders --group g --from-beginning --timeout-ms 60000";

#[test]
fn every_way_to_reset_offsets() {
    let mut broker = Ottla::new(Storage::DirectoryBlock);
    broker.start();
    let tools = Tools(&broker);
    let between = produce(&tools);
    tools.run(&format!("{CONSUME} --max-messages 6"));
    assert_eq!(committed(&tools), offsets([2, 2, 2]));

    let all = "--topic orders";
    reset(&tools, &format!("{all} --to-earliest"), &offsets([0, 0, 0]));
    reset(&tools, &format!("{all} --to-latest"), &offsets([2, 2, 2]));
    reset(&tools, &format!("{all} --to-offset 1"), &offsets([1, 1, 1]));
    reset(&tools, &format!("{all} --to-offset 999"), &offsets([2, 2, 2]));
    reset(&tools, &format!("{all} --shift-by -1"), &offsets([1, 1, 1]));
    reset(&tools, &format!("{all} --shift-by -100"), &offsets([0, 0, 0]));
    reset(&tools, &format!("{all} --shift-by 2"), &offsets([2, 2, 2]));
    reset(&tools, "--topic orders:0,2 --to-earliest", &[(0, 0), (2, 0)].into());
    reset(&tools, "--all-topics --to-current", &offsets([0, 2, 0]));
    let datetime = humantime::format_rfc3339_millis(between);
    reset(&tools, &format!("{all} --to-datetime {datetime}"), &offsets([1, 2, 1]));
    reset(&tools, &format!("{all} --by-duration P1D"), &offsets([0, 0, 0]));
    reset(&tools, &format!("{all} --by-duration PT0S"), &offsets([2, 2, 2]));
    let file = broker.directory.path().join("offsets.csv");
    std::fs::write(&file, "orders,0,1\norders,1,0\norders,2,2\n").unwrap();
    reset(&tools, &format!("--from-file {}", file.display()), &offsets([1, 0, 2]));
    let exported =
        tools.run(&format!("kafka-consumer-groups --reset-offsets --group g {all} --to-current --export"));
    assert_eq!(sorted(exported.trim()), ["orders,0,1", "orders,1,0", "orders,2,2"]);

    broker.kill();
    broker.start();
    let tools = Tools(&broker);
    assert_eq!(committed(&tools), offsets([1, 0, 2]), "a reset survives a crash");
    assert_eq!(sorted(&tools.run(&format!("{CONSUME} --max-messages 3"))), ["v3", "v4", "v5"]);
    assert_eq!(committed(&tools), offsets([2, 2, 2]));
    broker.stop();
}

#[test]
fn groups_with_and_without_members() {
    let mut broker = Ottla::new(Storage::DirectoryObject);
    broker.start();
    let tools = Tools(&broker);
    produce(&tools);
    tools.run(&format!("{CONSUME} --max-messages 6"));
    assert_eq!(tools.run("kafka-consumer-groups --list"), "g\n");
    assert_eq!(rows(&tools.run("kafka-consumer-groups --list --state"))[1], ["g", "Empty"]);
    assert_eq!(rows(&tools.run("kafka-consumer-groups --list --type"))[1], ["g", "Classic"]);
    assert_eq!(rows(&tools.run("kafka-groups --list"))[1], ["g", "Classic", "consumer"]);
    let empty = tools.output_with("kafka-consumer-groups --describe --group g", &[]);
    assert!(empty.contains("Consumer group 'g' has no active members."), "{empty}");
    tools.run_with("kafka-console-producer --topic orders", &["v7"]);
    let lag = by_partition(&tools.run("kafka-consumer-groups --describe --all-groups"), "LAG");
    assert_eq!(lag.values().sum::<i64>(), 1, "{lag:?}");

    // A member of another make.
    let mut member = Command::new("kcat")
        .args(["-b", &broker.bootstrap(), "-G", "g", "-X", "client.id=member", "-q", "orders"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let state = || tools.run("kafka-consumer-groups --describe --group g --state");
    let stable = |state: &str| rows(state).last().is_some_and(|row| row.ends_with(&["range", "Stable", "1"]));
    wait_until("the member does not get the partitions", || stable(&state()));
    let members = tools.run("kafka-consumer-groups --describe --group g --members --verbose");
    let members = rows(&members);
    assert_eq!(members.len(), 2, "{members:?}");
    assert_eq!(members[1][2..5], ["/127.0.0.1", "member", "3"]);
    let busy = tools.output_with(
        "kafka-consumer-groups --reset-offsets --group g --topic orders --to-earliest --execute",
        &[],
    );
    assert!(busy.contains("Assignments can only be reset if the group 'g' is inactive"), "{busy}");
    assert_eq!(rows(&tools.run("kafka-consumer-groups --list --state Stable"))[1], ["g", "Stable"]);

    let pid = member.id().to_string();
    Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(exit_within(&mut member, DEADLINE).is_some(), "it leaves the group, and ends");
    wait_until("the group does not empty", || state().contains("Empty"));
    broker.stop();
}

#[test]
fn deleted_offsets_and_groups() {
    let mut broker = Ottla::new(Storage::DirectoryBlock);
    broker.start();
    let tools = Tools(&broker);
    produce(&tools);
    tools.run(&format!("{CONSUME} --max-messages 6"));
    let deleted = tools.run("kafka-consumer-groups --delete-offsets --group g --topic orders:0");
    assert!(rows(&deleted).contains(&vec!["orders", "0", "Successful"]), "{deleted}");
    assert_eq!(committed(&tools), [(1, 2), (2, 2)].into());
    let unknown = tools.output_with("kafka-consumer-groups --delete --group unknown", &[]);
    assert!(unknown.contains("GroupIdNotFoundException"), "{unknown}");
    let deleted = tools.run("kafka-consumer-groups --delete --group g");
    assert!(deleted.contains("Deletion of requested consumer groups ('g') was successful."), "{deleted}");
    assert_eq!(tools.run("kafka-consumer-groups --list").trim(), "");

    broker.kill();
    broker.start();
    let tools = Tools(&broker);
    assert_eq!(tools.run("kafka-consumer-groups --list").trim(), "", "it stays deleted");
    // A new group of the name begins anew.
    assert_eq!(tools.run(&format!("{CONSUME} --max-messages 6")).lines().count(), 6);
    broker.stop();
}
