//! Consumers whose position was deleted, by DeleteRecords and by retention, and consumers that check their position with
//! OffsetForLeaderEpoch once a restart has begun another epoch (behaviours 68, 72, 78 and 111).

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use crate::process::{self, DEADLINE, Ottla, Storage, exit_within, run};

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

fn java() -> Command {
    process::java("PositionScenario")
}

fn librdkafka() -> Command {
    process::python("confluent_positions")
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
