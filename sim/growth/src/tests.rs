//! Small clusters: counts and bytes, which are the same everywhere. Nothing here looks at a clock.

use std::time::Duration;

use crate::cluster::{Cluster, Shape};
use crate::fail_over::{drain, fail_over};
use crate::race::{self, Race};
use crate::report::weigh;

fn small() -> Shape {
    Shape {
        brokers: 5,
        partitions: 200,
        topics: 10,
        active: 200,
        // 64 MiB in a minute from each broker: as seldom as uploads are.
        ingest: 5 << 20,
        full_parts: 2,
        seed: 7,
    }
}

#[test]
fn an_upload_of_a_broker_is_an_entry_whatever_it_holds() {
    let mut cluster = Cluster::new(small());
    cluster.check();
    cluster.run(600);
    cluster.check();
    let uploads = cluster.costs["upload"];
    // One that has given all its partitions away has nothing to upload.
    let most = 5 * 600 / cluster.upload_every();
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
    // A part for each of the 20, wherever they are.
    assert!(uploads.bytes / uploads.entries < 20 * 46 + 200, "{}", uploads.bytes / uploads.entries);
    assert!(weigh(&idle).snapshot_bytes < 200 * 250, "{}", weigh(&idle).snapshot_bytes);
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
    let race = Race {
        replicas: 10,
        commands_per_second: 20.0,
        put_ms: (20, 100),
        get_ms: (10, 30),
        seconds: 5,
        seed: 3,
    };
    let outcome = race::run(&race);
    assert_eq!(outcome.committed + outcome.unknown, outcome.proposed, "{outcome:?}");
    assert!(outcome.proposed > 50 && outcome.unknown == 0, "{outcome:?}");
    assert!(outcome.entries <= outcome.committed && outcome.puts >= outcome.entries, "{outcome:?}");
    assert!(outcome.took < Duration::from_secs(30), "of the paused clock: {outcome:?}");
    let alone = race::run(&Race { replicas: 1, commands_per_second: 200.0, ..race });
    assert!(alone.entries < alone.committed / 5, "commands that wait share an entry: {alone:?}");
    assert_eq!(alone.puts, alone.entries, "{alone:?}");
}
