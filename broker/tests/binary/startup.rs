//! What a start asks of its store, counted at a door in front of it. However long the history, it is about the same: the
//! newest snapshot of the metadata and the entries behind it, and of each log that is used the newest checkpoint and what
//! is replayed behind that.

use std::collections::BTreeSet;

use faults::{Fault, Operation, Proxy, Rule};
use futures::TryStreamExt;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use crate::faults::store::behind_a_proxy;
use crate::process::{Ottla, Storage, run, wait_for};
use crate::testing;
use crate::wire::{Wire, name};

/// Everything that is done now and then is done often, so that a short history knows it, too.
const BUSY: [&str; 18] = [
    "--metadata-snapshot-entries",
    "20",
    "--group-rewrite-log",
    "64KiB",
    "--partition-checkpoint-interval",
    "64KiB",
    "--puts-per-second",
    "10000",
    "--collect-delay",
    "1s",
    "--collect-interval",
    "100ms",
    "--compaction-interval",
    "100ms",
    "--compaction-fan-in",
    "4",
    "--upload-bytes",
    "1MiB",
];

/// What a start took until it served.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// Different objects that were asked for. The metadata's poll asks for the same one again and again, as often as time
    /// passes.
    gets: usize,
    /// Pages of listings, each of at most a thousand keys.
    lists: usize,
    /// Of objects that were read, the poll's included.
    bytes: u64,
    /// Of the newest snapshot of the metadata.
    snapshot_bytes: u64,
    /// In the store, for comparison.
    objects: usize,
}

const PARTITIONS: i32 = 100;

/// Records, commits, and topics that come and go: about 20 KiB of the first in a round, and 140 KiB of the second, of which a
/// fifth lives.
fn live(wire: &mut Wire, rounds: std::ops::Range<i64>) {
    let batch = testing::batch(1, |spec| spec.value_bytes = 10_000);
    for round in rounds {
        let churn = format!("churn-{round}");
        let topic = CreatableTopic::default()
            .with_name(name(&churn))
            .with_num_partitions(3)
            .with_replication_factor(1);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(60_000);
        assert_eq!(wire.call(5, &request).unwrap().topics[0].error_code, 0);
        for topic in ["kept", "kept", &churn] {
            assert_eq!(wire.produce(topic, &batch).unwrap().error_code, 0);
        }
        for number in 0..5 {
            commit(wire, PARTITIONS, round * 100 + number);
        }
        let request =
            DeleteTopicsRequest::default().with_topic_names(vec![name(&churn)]).with_timeout_ms(60_000);
        assert_eq!(wire.call(5, &request).unwrap().responses[0].error_code, 0);
    }
}

/// Commits an offset of so many partitions.
fn commit(wire: &mut Wire, partitions: i32, offset: i64) {
    let partitions = (0..partitions).map(|partition| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(StrBytes::from_string("m".repeat(200))))
    });
    let topic =
        OffsetCommitRequestTopic::default().with_name(name("kept")).with_partitions(partitions.collect());
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(StrBytes::from_static_str("g")))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    let committed = wire.call(8, &request).unwrap();
    assert!(committed.topics[0].partitions.iter().all(|partition| partition.error_code == 0));
}

/// Goes on with small commits until the log of the groups was shortened, so that a start does not find what a slow upload has
/// kept so far.
fn settle(broker: &Ottla, wire: &mut Wire, offset: i64) {
    let lengths = || -> Vec<u64> {
        let log = broker.log();
        let shortened =
            log.lines().filter(|line| line.contains("the log of groups and offsets is short again"));
        let bytes = shortened.map(|line| line.split("bytes=").nth(1).expect("it says how long it is"));
        bytes.map(|bytes| bytes.split_whitespace().next().unwrap().parse().unwrap()).collect()
    };
    let before = lengths().len();
    for _ in 0..5 {
        commit(wire, PARTITIONS, offset);
    }
    wait_for(|| {
        commit(wire, 1, offset);
        match lengths().split_off(before).last() {
            Some(bytes) if *bytes < 256 << 10 => Ok(()),
            last => Err(format!("the log of the groups is not shortened: {last:?}")),
        }
    });
}

/// Uses what there is: the group's coordinator and the partition are opened by it.
fn use_all(broker: &Ottla, records: i64, committed: i64) {
    let mut wire = Wire::connect(broker);
    let request = OffsetFetchRequest::default()
        .with_group_id(GroupId(StrBytes::from_static_str("g")))
        .with_topics(None);
    let fetched = wire.call(7, &request).unwrap();
    assert_eq!((fetched.error_code, fetched.topics[0].partitions[0].committed_offset), (0, committed));
    let wanted = ListOffsetsPartition::default().with_current_leader_epoch(-1).with_timestamp(-1);
    let topic = ListOffsetsTopic::default().with_name(name("kept")).with_partitions(vec![wanted]);
    let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    assert_eq!(wire.call(5, &request).unwrap().topics[0].partitions[0].offset, records);
}

/// Objects in all, and the size of the newest snapshot.
fn look_at(broker: &Ottla) -> (usize, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut objects: Vec<_> = runtime.block_on(broker.objects().list(None).try_collect()).unwrap();
    objects.sort_by(|a, b| a.location.cmp(&b.location));
    let newest = objects.iter().rfind(|object| object.location.as_ref().starts_with("meta/snapshot/"));
    (objects.len(), newest.map_or(0, |newest| newest.size))
}

fn started(broker: &mut Ottla, proxy: &Proxy, rounds: i64) -> Start {
    let (seen, bytes) = (proxy.log().len(), proxy.bytes_read());
    broker.start();
    use_all(broker, 2 * rounds, (rounds - 1) * 100 + 4);
    let bytes = proxy.bytes_read() - bytes;
    let log = proxy.log().split_off(seen);
    let gets: BTreeSet<_> =
        log.iter().filter(|seen| seen.operation == Operation::Get).map(|seen| &seen.key).collect();
    let lists = log.iter().filter(|seen| seen.operation == Operation::List).count();
    let (objects, snapshot_bytes) = look_at(broker);
    Start { gets: gets.len(), lists, bytes, snapshot_bytes, objects }
}

/// Starts after a short history and after one twenty times as long, each once in order and once after a kill.
fn starts_cost_the_same_whatever_the_history(storage: Storage) {
    const SHORT: i64 = 5;
    let (broker, proxy) = behind_a_proxy(storage);
    let mut broker = broker.with(&BUSY);
    broker.start();
    run(&mut broker.cli(&["topic", "create", "kept", "-p", &PARTITIONS.to_string()]));
    let mut lived = 0;
    let starts = [SHORT, 20 * SHORT].map(|rounds| {
        let mut wire = Wire::connect(&broker);
        live(&mut wire, lived..rounds);
        settle(&broker, &mut wire, (rounds - 1) * 100 + 4);
        lived = rounds;
        broker.stop();
        let in_order = started(&mut broker, &proxy, rounds);
        broker.kill();
        (in_order, started(&mut broker, &proxy, rounds))
    });
    broker.stop();
    for (how, long, short) in
        [("in order", starts[1].0, starts[0].0), ("after a kill", starts[1].1, starts[0].1)]
    {
        println!("{storage:?} {how}: {short:?}, with 20 times the history {long:?}");
        // Between two snapshots there are up to twenty entries, between two checkpoints 64 KiB of log, and what lives of the
        // commits is some 30 KiB. All commits together are 13 MiB more.
        assert!(long.gets <= short.gets + 60, "{how}: {short:?} {long:?}");
        assert!(long.lists <= short.lists + 1, "{how}: {short:?} {long:?}");
        assert!(long.bytes <= short.bytes + (1 << 20), "{how}: {short:?} {long:?}");
        assert!(long.snapshot_bytes <= 64 << 10, "{how}: {short:?} {long:?}");
        assert!(long.objects > 4 * short.objects, "a history is there: {short:?} {long:?}");
    }
}

#[test]
fn starts_with_a_block_wal_cost_the_same_whatever_the_history() {
    starts_cost_the_same_whatever_the_history(Storage::BucketBlock);
}

#[test]
fn starts_with_an_object_wal_cost_the_same_whatever_the_history() {
    starts_cost_the_same_whatever_the_history(Storage::BucketObject);
}

/// A coordinator that has to read its log first says so at once here. The commands come again until it is ready.
#[test]
fn commands_about_groups_wait_for_a_coordinator_that_loads() {
    let (broker, proxy) = behind_a_proxy(Storage::BucketBlock);
    let mut broker = broker.with(&["--group-load-wait", "0ms"]);
    broker.start();
    run(&mut broker.cli(&["topic", "create", "t", "-p", "1"]));
    run(&mut broker.cli(&["produce", "t", "one"]));
    let reset = |to| ["group", "reset-offsets", "g", "--topic", "t", to, "--execute"];
    run(&mut broker.cli(&reset("--to-latest")));
    for (arguments, expected) in [
        (&["group", "describe", "g"][..], "group g: Empty"),
        (&["group", "list"], "g      Empty"),
        (&reset("--to-earliest"), "1          0"),
        (&["group", "delete-offsets", "g", "--topic", "t"], "deleted the offset of t [0]"),
        (&reset("--to-latest"), "-          1"),
        (&["group", "delete", "g"], "deleted group g"),
    ] {
        // What is in order is in objects, and these cannot be read.
        broker.stop();
        broker.start();
        proxy.add(Rule::new(Operation::Get, Fault::Hang).under("data/"));
        let mut patient = broker.cli(&[arguments, &["--timeout", "120s"]].concat());
        let mut child = patient.stdout(std::process::Stdio::piped()).spawn().unwrap();
        // However slow it is to come: it has no answer before the store has one.
        std::thread::sleep(std::time::Duration::from_millis(700));
        assert!(child.try_wait().unwrap().is_none(), "{arguments:?} does not wait");
        proxy.heal();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains(expected), "{arguments:?}: {said}");
    }
    broker.stop();
}
