//! Stores that are down, at start or later, and disks that are full: nothing acknowledged is lost, the broker stays, its
//! memory stays bounded, and it goes on when the trouble is over.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::gate::{Door, Gate};
use crate::ledger::Ledger;
use crate::process::{Ottla, Storage, run};
use crate::s3::S3Server;

/// Far above the caches that these brokers are given.
const RESIDENT_BYTES_MAX: u64 = 512 << 20;

/// Small, so that what cannot be uploaded fills everything up soon.
const SMALL: [&str; 6] = ["--log-cache", "8MiB", "--upload-bytes", "1MiB", "--upload-interval", "1s"];

fn assert_bounded(broker: &Ottla) {
    let resident = broker.resident_bytes_max();
    assert!(resident < RESIDENT_BYTES_MAX, "{} MiB were resident", resident >> 20);
}

/// A broker whose store is behind a gate, and the gate, shut.
fn behind_a_gate(storage: Storage) -> (Ottla, Gate) {
    let gate = Gate::before(&S3Server::shared().endpoint());
    let endpoint = gate.endpoint();
    let broker = Ottla::new(storage).with(&SMALL).with(&[
        "--s3-endpoint",
        &endpoint,
        "--lease",
        "3s",
        "--metadata-poll",
        "500ms",
    ]);
    (broker, gate)
}

#[test]
fn a_store_that_is_down_at_start_is_waited_for_until_it_is_there_or_somebody_says_stop() {
    let (mut broker, gate) = behind_a_gate(Storage::BucketObject);
    broker.begin();
    broker.wait_until_logged("does not answer");
    assert!(broker.output().is_empty(), "it is not ready: {}", broker.output());
    // Whoever is told to stop does so in order, also while it waits.
    broker.stop();
    broker.begin();
    gate.turn(Door::Open);
    broker.wait_until_ready();
    run(&mut broker.cli(&["produce", "t", "v"]));
    assert_eq!(run(&mut broker.cli(&["consume", "t"])), "v\n");
}

fn a_store_that_goes_and_comes_back(storage: Storage) {
    let (mut broker, gate) = behind_a_gate(storage);
    gate.turn(Door::Open);
    broker.start();
    let mut ledger = Ledger::open(&broker, "ledger");
    ledger.produce_until_acknowledged();
    for trouble in [Door::Shut, Door::Stuck] {
        gate.turn(trouble);
        ledger.produce_until_refused();
        assert!(broker.is_running(), "{trouble:?}: {}", broker.log());
        gate.turn(Door::Open);
        ledger.produce_until_acknowledged();
        ledger.verify(&broker);
    }
    // A crash in the middle of it.
    gate.turn(Door::Shut);
    ledger.produce_until_refused();
    assert_bounded(&broker);
    broker.kill();
    gate.turn(Door::Open);
    broker.start();
    ledger.verify(&broker);
    broker.stop();
}

#[test]
fn a_bucket_that_goes_and_comes_back_loses_nothing_of_an_object_wal() {
    a_store_that_goes_and_comes_back(Storage::BucketObject);
}

#[test]
fn a_bucket_that_goes_and_comes_back_loses_nothing_of_a_block_wal() {
    a_store_that_goes_and_comes_back(Storage::BucketBlock);
}

#[test]
fn what_is_only_in_a_store_that_is_down_can_be_read_when_it_is_back() {
    let (mut broker, gate) = behind_a_gate(Storage::BucketBlock);
    gate.turn(Door::Open);
    broker.start();
    run(&mut broker.cli(&["produce", "cold", "one", "two"]));
    broker.stop();
    broker.start();
    gate.turn(Door::Shut);
    let output = broker.cli(&["consume", "cold", "--timeout", "2s"]).output().unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b""[..]));
    assert!(broker.is_running(), "{}", broker.log());
    gate.turn(Door::Open);
    assert_eq!(run(&mut broker.cli(&["consume", "cold"])), "one\ntwo\n");
}

/// A small file system of its own, in a file.
struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    fn new(mebibytes: u64) -> SmallDisk {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        let disk = SmallDisk { directory };
        std::fs::create_dir(disk.path()).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path()));
        disk
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    /// Takes all space that is left, but for less than a block.
    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::options().create(true).append(true).open(self.filler()).unwrap();
        for bytes in [1 << 20, 4096, 1] {
            while file.write(&vec![1; bytes]).is_ok_and(|written| written > 0) {}
        }
        let _ = file.sync_all();
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn a_full_disk(disk: &SmallDisk, wal: &Path) {
    let mut broker = Ottla::new(Storage::DirectoryBlock).with(&SMALL).with(&[
        "--store",
        disk.path().join("store").to_str().unwrap(),
        "--wal",
        &format!("block://{}?capacity=16MiB", wal.display()),
        "--shutdown-timeout",
        "60s",
    ]);
    broker.start();
    let mut ledger = Ledger::open(&broker, "ledger");
    ledger.produce_until_acknowledged();
    disk.fill();
    ledger.produce_until_refused();
    assert!(broker.is_running(), "{}", broker.log());
    assert_bounded(&broker);
    disk.free();
    ledger.produce_until_acknowledged();
    ledger.verify(&broker);

    // Full when it dies, full when it starts.
    disk.fill();
    ledger.produce_until_refused();
    broker.kill();
    disk.fill();
    broker.begin();
    broker.wait_until_logged("No space left");
    disk.free();
    broker.wait_until_ready();
    ledger.verify(&broker);
    broker.stop();
}

#[test]
fn a_full_disk_under_the_store_stops_producers_and_loses_nothing() {
    let (disk, elsewhere) = (SmallDisk::new(24), tempfile::tempdir().unwrap());
    a_full_disk(&disk, &elsewhere.path().join("wal"));
}

#[test]
fn a_full_disk_under_store_and_wal_stops_producers_and_loses_nothing() {
    let disk = SmallDisk::new(48);
    a_full_disk(&disk, &disk.path().join("wal"));
}

/// The disk of the log is full, or its reader gone: a broker that cannot say how it is goes on all the same.
#[test]
fn a_log_that_nobody_takes_stops_nothing() {
    let mut broker = Ottla::new(Storage::DirectoryBlock);
    let mut command = broker.command();
    command.env("OTTLA_LOG", "debug");
    command.stderr(std::fs::File::options().write(true).open("/dev/full").unwrap());
    broker.begin_with_its_own_log(command);
    broker.wait_until_ready();
    run(&mut broker.cli(&["produce", "topic", "one", "two"]));
    assert_eq!(run(&mut broker.cli(&["consume", "topic"])), "one\ntwo\n");
    broker.stop();
    broker.start();
    assert_eq!(run(&mut broker.cli(&["consume", "topic"])), "one\ntwo\n");
    broker.stop();
}
