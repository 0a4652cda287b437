//! Kills the broker with SIGKILL under load, again and again, and has an external client prove that every acknowledged
//! record is there once, in order, at the offset that was acknowledged.
//!
//! `OTTLA_KILLS=100 cargo test --release --package ottla --test binary crash` runs a hundred kills per kind of storage.

use crate::load::Load;
use crate::process::{Ottla, Storage};

/// Acknowledged records between two kills, at least.
const RECORDS_PER_KILL: u64 = 1_000;

fn kills() -> u64 {
    match std::env::var("OTTLA_KILLS") {
        Ok(kills) => kills.parse().expect("OTTLA_KILLS is a number"),
        Err(_) => 4,
    }
}

fn every_acknowledged_record_survives(storage: Storage) {
    // Small uploads, so that kills meet them at every stage.
    let mut broker = Ottla::new(storage).with(&["--upload-bytes", "1MiB", "--upload-interval", "1s"]);
    broker.start();
    let mut load = Load::start(&broker, "crash");
    for _ in 0..kills() {
        load.more(RECORDS_PER_KILL);
        broker.kill();
        broker.start();
    }
    let judge = load.finish();
    // Once from the caches and objects of the running broker, once from a fresh one.
    let verified = judge.verify(&broker);
    broker.kill();
    broker.start();
    assert_eq!(judge.verify(&broker), verified);
    println!("{storage:?}: {} kills, writer {}, {}", kills(), judge.summary, verified.trim());
}

#[test]
fn on_a_directory_with_a_block_wal() {
    every_acknowledged_record_survives(Storage::DirectoryBlock);
}

#[test]
fn on_a_directory_with_an_object_wal() {
    every_acknowledged_record_survives(Storage::DirectoryObject);
}

#[test]
fn on_s3_with_an_object_wal() {
    every_acknowledged_record_survives(Storage::BucketObject);
}

#[test]
fn on_s3_with_a_block_wal() {
    every_acknowledged_record_survives(Storage::BucketBlock);
}
