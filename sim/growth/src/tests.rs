//! Small clusters: counts and bytes, which are the same everywhere. Nothing here looks at a clock.

use std::time::Duration;

use crate::arena::Conditions;
use crate::cluster::{Cluster, Shape};
use crate::fail_over::{drain, fail_over};
use crate::race::{self, Race};
use crate::report::weigh;
use crate::take_over;

fn small() -> Shape {
    Shape {
        brokers: 5,
        partitions: 200,
        topics: 10,
        active: 200,
        // 64 MiB in a minute from each broker: as seldom as uploads are.
        ingest: 5 << 20,
        slots_per_second: 0,
        full_parts: 2,
        seed: 7,
    }
}

#[test]
fn an_upload_of_a_broker_is_an_entry_whatever_it_holds() {
    // So little that a minute is over first, whatever is moved.
    let mut cluster = Cluster::new(Shape { ingest: 1 << 20, ..small() });
    cluster.check();
    cluster.run(600);
    cluster.check();
    let uploads = cluster.costs["upload"];
    // One that has given all its partitions away has nothing to upload.
    let most = 5 * 600 / 60;
    assert!((most - 5..=most).contains(&uploads.entries), "{}", uploads.entries);
    // 40 bytes for each of about 40 parts, checkpoints now and then, and an envelope of less than 200.
    let per_part = uploads.bytes as f64 / (uploads.entries * 40) as f64;
    assert!((40.0..52.0).contains(&per_part), "{per_part}");
    // What is merged, trimmed, collected and moved is less than what is uploaded.
    let others: u64 =
        cluster.costs.iter().filter(|(kind, _)| **kind != "upload").map(|(_, cost)| cost.entries).sum();
    assert!(others < 4 * uploads.entries, "{:?}", cluster.costs);
}

/// A partition has fewer than 32 parts in each tier that is still merged, and its full ones.
#[test]
fn parts_are_bounded_however_long_it_runs() {
    let mut cluster = Cluster::new(small());
    let bound = |cluster: &Cluster| cluster.shape.active * (2 * 31 + cluster.shape.full_parts as usize + 40);
    for _ in 0..2 {
        cluster.run(1_800);
        assert!(cluster.parts() <= bound(&cluster), "{} parts", cluster.parts());
    }
    assert!(cluster.costs.contains_key("compaction") && cluster.costs.contains_key("collector"));
    cluster.check();
}

#[test]
fn partitions_that_nobody_writes_to_cost_no_entries() {
    let mut cluster = Cluster::new(Shape { active: 20, ingest: 1 << 20, ..small() });
    let idle = Cluster::new(Shape { active: 0, ..small() });
    assert_eq!(idle.parts(), 0);
    cluster.run(600);
    let uploads = cluster.costs["upload"];
    // Once a minute a part for each of the 20, checkpoints now and then, and an envelope for each broker that has any of them.
    assert!(uploads.entries <= 5 * 10, "{}", uploads.entries);
    assert!(uploads.bytes < 10 * 20 * 60 + uploads.entries * 200, "{uploads:?}");
    assert!(weigh(&idle).snapshot_bytes < 200 * 250, "{}", weigh(&idle).snapshot_bytes);
}

/// What each broker gets, and with it how often it uploads, must not depend on which of its partitions are written to.
#[test]
fn those_that_are_written_to_are_spread_over_all_brokers() {
    let shape = Shape { brokers: 20, partitions: 5_000, topics: 10, active: 500, ..small() };
    let cluster = Cluster::new(Shape { ingest: 20 << 20, full_parts: 0, ..shape.clone() });
    let active: Vec<usize> = cluster.brokers.iter().map(|broker| cluster.active(broker.by).len()).collect();
    assert_eq!(active.iter().sum::<usize>(), 500);
    // Twenty-five each, as chance has it: always the same.
    assert!(active.iter().all(|active| (10..=45).contains(active)), "{active:?}");
    let all = Cluster::new(Shape { active: 5_000, ingest: 20 << 20, full_parts: 0, ..shape });
    assert!(all.brokers.iter().all(|broker| all.active(broker.by).len() == 250));
}

#[test]
fn a_broker_uploads_by_what_it_gets_itself() {
    let every = |shape: Shape| Cluster::new(Shape { full_parts: 0, ..shape }).upload_every(1);
    // 64 MiB, a minute, 400 slots but not before 20 s: whichever comes first.
    assert_eq!(every(Shape { ingest: 5 * (8 << 20), ..small() }), 8);
    assert_eq!(every(small()), 60);
    assert_eq!(every(Shape { slots_per_second: 8, ..small() }), 50);
    assert_eq!(every(Shape { slots_per_second: 100, ..small() }), 20);
    // Half of the brokers have given away what they had: the others upload twice as often.
    let mut cluster = Cluster::new(Shape { brokers: 2, ingest: 4 << 20, full_parts: 0, ..small() });
    assert_eq!(cluster.upload_every(0), 32);
    drain(&mut cluster, 1, 100);
    assert_eq!(cluster.upload_every(0), 16);
}

/// A fence, the slots in as few commits as their parts fit into, and the partitions are placed in the last one.
#[test]
fn a_fail_over_takes_two_entries_and_one_more_for_each_4096_parts() {
    let mut cluster = Cluster::new(small());
    let empty = fail_over(&mut cluster, 1, 0, 0);
    assert_eq!((empty.partitions, empty.entries), (40, 2));
    cluster.check();
    let full = fail_over(&mut cluster, 1, 1_000, 10);
    assert_eq!((full.partitions, full.entries), (50, 1 + 10_000_u64.div_ceil(4_096)));
    assert!(full.spread <= 1, "{}", full.spread);
    cluster.check();
}

#[test]
fn a_broker_is_emptied_in_as_many_entries_as_it_likes() {
    let mut cluster = Cluster::new(small());
    assert_eq!(drain(&mut cluster, 1, 1).entries, 1 + 40 + 1);
    let rest = drain(&mut cluster, 1, 20);
    assert_eq!((rest.partitions, rest.entries), (50, 1 + 3 + 1));
    cluster.check();
}

#[test]
fn a_snapshot_reads_back_with_the_memory_that_is_reckoned_with() {
    let cluster = Cluster::new(small());
    let weight = weigh(&cluster);
    assert!(weight.memory_bytes > weight.parts as isize * 60, "{weight:?}");
    assert!(weight.memory_bytes < weight.parts as isize * 300 + (1 << 20), "{weight:?}");
    assert!(weight.snapshot_bytes < weight.parts * 61 + 200 * 600, "{weight:?}");
}

/// A log takes an entry for each PUT's time, whoever asks; what waits meanwhile goes into the next one.
#[test]
fn replicas_that_race_commit_everything_once() {
    let conditions =
        Conditions { replicas: 10, commands_per_second: 20.0, put_ms: (20, 100), get_ms: (10, 30), seed: 3 };
    let race = Race { conditions: conditions.clone(), seconds: 5 };
    let outcome = race::run(&race);
    assert_eq!(outcome.committed + outcome.unknown, outcome.proposed, "{outcome:?}");
    assert!(outcome.proposed > 50 && outcome.unknown == 0, "{outcome:?}");
    assert!(outcome.entries <= outcome.committed && outcome.puts >= outcome.entries, "{outcome:?}");
    assert!(outcome.took < Duration::from_secs(30), "of the paused clock: {outcome:?}");
    let alone = Conditions { replicas: 1, commands_per_second: 200.0, ..conditions };
    let alone = race::run(&Race { conditions: alone, seconds: 5 });
    assert!(alone.entries < alone.committed / 5, "commands that wait share an entry: {alone:?}");
    assert_eq!(alone.puts, alone.entries, "{alone:?}");
}

/// Alone on the log a commit is a PUT, and a GET that makes sure of it; the last one has to be heard of.
#[test]
fn a_take_over_takes_its_requests_one_behind_the_other() {
    let conditions =
        Conditions { replicas: 3, commands_per_second: 0.01, put_ms: (100, 100), get_ms: (50, 50), seed: 3 };
    let time = |slots, commits| take_over::run(&conditions, slots, commits);
    // The fence, the seal behind a look at its place, the commit, and a read by those who hear of it.
    let empty = time(0, 1);
    assert!((450..=700).contains(&empty.as_millis()), "{empty:?}");
    // Slots are read while the fence is on its way, 64 at a time.
    assert_eq!(time(128, 1), empty);
    let long = time(64 * 23, 1) - empty;
    assert!((900..=1_100).contains(&long.as_millis()), "{long:?}");
    let commits = time(0, 11) - empty;
    assert!((1_300..=1_700).contains(&commits.as_millis()), "{commits:?}");
}
