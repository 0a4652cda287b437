//! Static members of real clients, and what these clients delete, with a restart of the broker in between
//! (behaviours 92 and 98).

use std::process::Command;

use crate::process::{self, Ottla, Storage, run};

fn scenario(storage: Storage, crash: bool, client: impl Fn() -> Command) {
    let mut broker = Ottla::new(storage);
    broker.start();
    let topic = format!("topic-{}", uuid::Uuid::new_v4());
    let part = |part: &str, broker: &Ottla| {
        let printed = run(client().arg(part).arg(broker.bootstrap()).arg(&topic));
        assert!(printed.contains(&format!("groups {part}: ok")), "the client got to its end: {printed}");
    };
    part("first", &broker);
    if crash {
        broker.kill();
    } else {
        broker.stop();
    }
    broker.start();
    part("second", &broker);
    broker.stop();
}

fn java() -> Command {
    process::java("GroupScenario")
}

fn librdkafka() -> Command {
    process::python("confluent_groups")
}

#[test]
fn behaviour_92_98_java_across_a_crash() {
    scenario(Storage::DirectoryBlock, true, java);
}

#[test]
fn behaviour_92_98_java_across_an_orderly_restart_on_s3() {
    scenario(Storage::BucketObject, false, java);
}

#[test]
fn behaviour_92_librdkafka_across_a_crash_on_s3() {
    scenario(Storage::BucketObject, true, librdkafka);
}

#[test]
fn behaviour_92_librdkafka_across_an_orderly_restart() {
    scenario(Storage::DirectoryBlock, false, librdkafka);
}
