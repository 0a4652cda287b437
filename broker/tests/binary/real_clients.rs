//! The clients that people use, against the real binary, with every kind of storage: create, produce with every codec,
//! consume in groups with rebalances, offsets by time, and all of it again after a restart in between.

use std::process::Command;

use crate::process::{self, Ottla, Storage, installed, python, run, source};

/// Runs a client's scenario: its first part, a restart of the broker, its second part.
fn scenario(storage: Storage, restart: Restart, client: impl Fn() -> Command) {
    let mut broker = Ottla::new(storage);
    broker.start();
    let topic = format!("topic-{}", uuid::Uuid::new_v4());
    let part = |part: &str, broker: &Ottla| {
        let printed = run(client().arg(part).arg(broker.bootstrap()).arg(&topic));
        assert!(printed.contains(&format!("{part}: ok")), "the client got to its end: {printed}");
    };
    part("first", &broker);
    match restart {
        Restart::Orderly => broker.stop(),
        Restart::Crash => broker.kill(),
    }
    broker.start();
    part("second", &broker);
    broker.stop();
}

#[derive(Clone, Copy)]
enum Restart {
    Orderly,
    Crash,
}

fn java() -> Command {
    process::java("Scenario")
}

fn go(client: &str) -> Command {
    let mut command = Command::new(installed("go/clients"));
    command.arg(client);
    command
}

fn node(client: &str) -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", installed("node/node_modules"));
    command.arg(source("clients/node/scenario.js")).arg(client);
    command
}

fn rskafka() -> Command {
    Command::new(installed("rust/debug/rskafka-scenario"))
}

fn kcat() -> Command {
    Command::new(source("clients/kcat/scenario.sh"))
}

macro_rules! scenarios {
    ($($name:ident: $storage:ident, $restart:ident, $client:expr;)*) => {
        $(
            #[test]
            fn $name() {
                scenario(Storage::$storage, Restart::$restart, || $client);
            }
        )*
    };
}

scenarios! {
    java_on_a_directory_with_a_block_wal: DirectoryBlock, Crash, java();
    java_on_a_directory_with_an_object_wal: DirectoryObject, Orderly, java();
    java_on_s3_with_an_object_wal: BucketObject, Crash, java();
    java_on_s3_with_a_block_wal: BucketBlock, Orderly, java();
    librdkafka_on_a_directory_with_a_block_wal: DirectoryBlock, Crash, python("confluent");
    librdkafka_on_a_directory_with_an_object_wal: DirectoryObject, Orderly, python("confluent");
    librdkafka_on_s3_with_an_object_wal: BucketObject, Crash, python("confluent");
    librdkafka_on_s3_with_a_block_wal: BucketBlock, Orderly, python("confluent");
    kafka_python_on_a_directory_with_a_block_wal: DirectoryBlock, Orderly, python("kafka_python");
    kafka_python_on_a_directory_with_an_object_wal: DirectoryObject, Crash, python("kafka_python");
    kafka_python_on_s3_with_an_object_wal: BucketObject, Orderly, python("kafka_python");
    kafka_python_on_s3_with_a_block_wal: BucketBlock, Crash, python("kafka_python");
    kcat_on_a_directory_with_a_block_wal: DirectoryBlock, Orderly, kcat();
    kcat_on_a_directory_with_an_object_wal: DirectoryObject, Crash, kcat();
    kcat_on_s3_with_an_object_wal: BucketObject, Orderly, kcat();
    kcat_on_s3_with_a_block_wal: BucketBlock, Crash, kcat();
    // Storage and client meet in all their pairs above; these are here for what each client asks of the protocol.
    franz_go_on_a_directory_with_a_block_wal: DirectoryBlock, Crash, go("franz");
    franz_go_on_s3_with_an_object_wal: BucketObject, Orderly, go("franz");
    sarama_on_a_directory_with_an_object_wal: DirectoryObject, Crash, go("sarama");
    kafka_go_on_s3_with_an_object_wal: BucketObject, Crash, go("segmentio");
    kafkajs_on_a_directory_with_a_block_wal: DirectoryBlock, Orderly, node("kafkajs");
    kafkajs_on_s3_with_an_object_wal: BucketObject, Crash, node("kafkajs");
    confluent_for_node_on_s3_with_a_block_wal: BucketBlock, Orderly, node("confluent");
    aiokafka_on_a_directory_with_an_object_wal: DirectoryObject, Orderly, python("aiokafka_scenario");
    aiokafka_on_s3_with_an_object_wal: BucketObject, Crash, python("aiokafka_scenario");
    rskafka_on_a_directory_with_a_block_wal: DirectoryBlock, Crash, rskafka();
    rskafka_on_s3_with_a_block_wal: BucketBlock, Crash, rskafka();
}
