//! Kills the broker with SIGKILL under load, again and again, and has an external client prove that every acknowledged
//! record is there once, in order, at the offset that was acknowledged.
//!
//! `OTTLA_KILLS=100 cargo test --release --package ottla --test binary crash` runs a hundred kills per kind of storage.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::process::{Ottla, Storage, installed, run, source};

/// Acknowledged records between two kills, at least.
const RECORDS_PER_KILL: u64 = 1_000;

fn kills() -> u64 {
    match std::env::var("OTTLA_KILLS") {
        Ok(kills) => kills.parse().expect("OTTLA_KILLS is a number"),
        Err(_) => 4,
    }
}

fn crash_script(command: &str, broker: &Ottla, acks: &std::path::Path) -> Command {
    let mut script = Command::new(installed("venv/bin/python"));
    script.arg(source("clients/python/crash.py")).args([command, &broker.bootstrap(), "crash"]).arg(acks);
    script
}

fn every_acknowledged_record_survives(storage: Storage) {
    // Small uploads, so that kills meet them at every stage.
    let mut broker = Ottla::new(storage).with(&["--upload-bytes", "1MiB", "--upload-interval", "1s"]);
    broker.start();
    let acks = broker.directory.path().join("acks");
    let mut writer =
        crash_script("write", &broker, &acks).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut progress = BufReader::new(writer.stdout.take().unwrap()).lines();
    let mut acknowledged = 0;
    for _ in 0..kills() {
        let before = acknowledged;
        while acknowledged < before + RECORDS_PER_KILL {
            let line = progress.next().expect("the writer goes on").unwrap();
            acknowledged = line.parse().unwrap_or_else(|_| panic!("the writer stopped: {line}"));
        }
        broker.kill();
        broker.start();
    }
    drop(writer.stdin.take());
    let last = progress.map_while(Result::ok).last().expect("the writer reports its end");
    assert!(writer.wait().unwrap().success(), "the writer was content: {last}");
    // Once from the caches and objects of the running broker, once from a fresh one.
    let verified = run(&mut crash_script("verify", &broker, &acks));
    broker.kill();
    broker.start();
    assert_eq!(run(&mut crash_script("verify", &broker, &acks)), verified);
    println!("{storage:?}: {} kills, writer {last}, {}", kills(), verified.trim());
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
