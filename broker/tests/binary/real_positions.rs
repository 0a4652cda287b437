//! Consumers whose position was deleted, by DeleteRecords and by retention, and consumers that check their position with
//! OffsetForLeaderEpoch once a restart has begun another epoch (behaviours 68, 72, 78 and 111).

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use crate::process::{DEADLINE, Ottla, Storage, exit_within, installed, run, source};

fn scenario(storage: Storage, crash: bool, client: impl Fn() -> Command) {
    // Retention believes no clock before its second look.
    let mut broker = Ottla::new(storage).with(&[
        "--kafka",
        "log.retention.check.interval.ms=100",
        "--upload-interval",
        "1s",
    ]);
    broker.start();
    let topic = format!("topic-{}", uuid::Uuid::new_v4());
    let part = |part: &str, broker: &Ottla| {
        let printed = run(client().arg(part).arg(broker.bootstrap()).arg(&topic));
        assert!(printed.contains(&format!("positions {part}: ok")), "the client got to its end: {printed}");
    };
    part("first", &broker);

    let mut live = client();
    live.arg("live").arg(broker.bootstrap()).arg(&topic).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut live = live.spawn().unwrap();
    let mut said = BufReader::new(live.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "live: waiting\n");
    if crash {
        broker.kill();
    } else {
        broker.stop();
    }
    broker.start();
    live.stdin.take().unwrap().write_all(b"\n").unwrap();
    let status = exit_within(&mut live, DEADLINE).expect("it goes on");
    said.read_to_string(&mut line).unwrap();
    assert!(status.success() && line.contains("positions live: ok"), "{line}");

    part("second", &broker);
    broker.stop();
}

/// Compiled as it is started: it is one file.
fn java() -> Command {
    let mut command = Command::new("java");
    command.args(["-Xmx256m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]);
    command.arg(format!("{}/*", installed("java/lib").display()));
    command.arg(source("clients/java/src/main/java/ottla/PositionScenario.java"));
    command
}

fn librdkafka() -> Command {
    let mut command = Command::new(installed("venv/bin/python"));
    command.arg(source("clients/python/confluent_positions.py"));
    command
}

#[test]
fn behaviour_72_78_111_java_across_a_crash() {
    scenario(Storage::DirectoryBlock, true, java);
}

#[test]
fn behaviour_72_78_111_java_across_an_orderly_restart_on_s3() {
    scenario(Storage::BucketObject, false, java);
}

#[test]
fn behaviour_72_78_111_librdkafka_across_a_crash_on_s3() {
    scenario(Storage::BucketObject, true, librdkafka);
}

#[test]
fn behaviour_72_78_111_librdkafka_across_an_orderly_restart() {
    scenario(Storage::DirectoryBlock, false, librdkafka);
}
