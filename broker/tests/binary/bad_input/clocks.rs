//! Clocks that are hours apart: people are told, no record goes for an age that only one broker's clock gives it, and whether
//! anybody lives depends on none of them.

use std::path::PathBuf;

use crate::process::{Ottla, Storage, run, wait_for};

/// What goes between a process and its C library and tells it another time (Debian's package `faketime`).
fn another_clock() -> PathBuf {
    let places = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let found = places.map(|place| place.join("faketime/libfaketime.so.1")).find(|path| path.exists());
    found.expect("faketime is missing; run ./test --install once")
}

/// `seconds` off, but for the clock that only goes on.
fn with_clock(broker: Ottla, seconds: &str) -> Ottla {
    broker
        .with_variable("LD_PRELOAD", &another_clock().display().to_string())
        .with_variable("FAKETIME", seconds)
        .with_variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
}

/// Records are uploaded soon, are too old after an hour, and are looked at all the time.
const HASTY: [&str; 6] = [
    "--upload-interval",
    "1s",
    "--kafka",
    "log.retention.ms=3600000",
    "--kafka",
    "log.retention.check.interval.ms=50",
];

const OUTVOTED: &str = "this broker's clock is ahead of those of too many others";

#[test]
fn a_clock_that_is_hours_ahead_is_said_and_costs_no_record() {
    let mut right = Ottla::new(Storage::BucketObject).with(&HASTY);
    let mut ahead = with_clock(right.fellow(), "+18030");
    right.start();
    ahead.start();
    right.wait_until_logged("is 5 h 0 min ahead of this broker's");
    ahead.wait_until_logged("is 5 h 0 min behind this broker's");
    // One partition is led by each. Their records are as old as they are for the producer, whose clock is right.
    run(&mut right.cli(&["topic", "create", "t", "--partitions", "2"]));
    for (partition, value) in [("0", "a"), ("1", "b"), ("0", "c"), ("1", "d")] {
        run(&mut right.cli(&["produce", "t", "-p", partition, value]));
    }
    // Passes of retention; by the second one at the latest a clock that is only new is believed.
    let passes = || ahead.log().matches(OUTVOTED).count();
    let before = passes();
    wait_for(|| match passes() - before {
        0..100 => Err(format!("retention does not look:\n{}", ahead.log())),
        _ => Ok(()),
    });
    let mut values: Vec<String> =
        run(&mut right.cli(&["consume", "t", "--from-beginning"])).lines().map(str::to_owned).collect();
    values.sort();
    assert_eq!(values, ["a", "b", "c", "d"], "{}", ahead.log());
    assert!(!right.log().contains(OUTVOTED), "its own clock is behind: {}", right.log());
    assert!(!ahead.log().contains("taken to be dead"), "{}", ahead.log());
    assert!(!right.log().contains("taken to be dead"), "{}", right.log());
    ahead.stop();
    right.stop();
}

#[test]
fn a_clock_that_is_hours_behind_is_said_and_costs_no_record() {
    let mut right = Ottla::new(Storage::BucketObject);
    let mut behind = with_clock(right.fellow(), "-10830");
    right.start();
    behind.start();
    right.wait_until_logged("is 3 h 0 min behind this broker's");
    behind.wait_until_logged("is 3 h 0 min ahead of this broker's");
    // What right producers write is hours ahead to the broker that is behind, which Kafka allows up to one.
    let later = "message.timestamp.after.max.ms=86400000";
    run(&mut right.cli(&["topic", "create", "t", "--partitions", "2", "--config", later]));
    for (partition, value) in [("0", "a"), ("1", "b"), ("0", "c"), ("1", "d")] {
        run(&mut right.cli(&["produce", "t", "-p", partition, value]));
    }
    for log in [right.log(), behind.log()] {
        assert!(!log.contains("taken to be dead"), "{log}");
    }
    // Nor does a fail-over go by a clock.
    behind.kill();
    let mut values: Vec<String> =
        run(&mut right.cli(&["consume", "t", "--from-beginning"])).lines().map(str::to_owned).collect();
    values.sort();
    assert_eq!(values, ["a", "b", "c", "d"], "{}", right.log());
    right.stop();
}
