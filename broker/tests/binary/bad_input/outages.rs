//! Stores that are down, at start or later, and disks that are full: nothing acknowledged is lost, the broker stays, its
//! memory stays bounded, and it goes on when the trouble is over.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::gate::{Door, Gate};
use crate::process::{DEADLINE, Ottla, S3Server, Storage, run};
use crate::testing;
use crate::wire::Wire;

/// Far above the caches that these brokers are given.
const RESIDENT_BYTES_MAX: u64 = 512 << 20;

/// Small, so that what cannot be uploaded fills everything up soon.
const SMALL: [&str; 6] = ["--log-cache", "8MiB", "--upload-bytes", "1MiB", "--upload-interval", "1s"];

/// Produces, and remembers what was acknowledged where.
struct Ledger {
    topic: &'static str,
    wire: Wire,
    /// Base offset and base timestamp, which tells the batches apart.
    acknowledged: Vec<(i64, i64)>,
    next: i64,
}

const VALUE_BYTES: usize = 100_000;

impl Ledger {
    fn open(broker: &Ottla, topic: &'static str) -> Ledger {
        run(&mut broker.cli(&["topic", "create", topic]));
        Ledger { topic, wire: Wire::connect(broker), acknowledged: Vec::new(), next: 1_000_000 }
    }

    /// One batch. An error must be one after which a client tries again.
    fn produce(&mut self) -> bool {
        let timestamp = self.next;
        self.next += 1;
        let batch = testing::batch(1, |spec| {
            spec.base_timestamp = timestamp;
            spec.value_bytes = VALUE_BYTES;
        });
        let answer = self.wire.produce(self.topic, &batch).expect("an answer");
        if answer.error_code == 0 {
            self.acknowledged.push((answer.base_offset, timestamp));
            return true;
        }
        let error = kafka_protocol::ResponseError::try_from_code(answer.error_code).unwrap();
        assert!(error.is_retriable(), "{error} is final");
        false
    }

    fn produce_until_acknowledged(&mut self) {
        let began = Instant::now();
        while !self.produce() {
            assert!(began.elapsed() < DEADLINE, "it does not recover");
        }
    }

    /// As long as the WAL or its right lasts.
    fn produce_until_refused(&mut self) {
        let began = Instant::now();
        while self.produce() {
            assert!(began.elapsed() < DEADLINE, "it acknowledges for ever");
        }
    }

    /// Everything that was acknowledged is there, where it was acknowledged.
    fn verify(&self, broker: &Ottla) {
        let mut wire = Wire::connect(broker);
        for (offset, timestamp) in &self.acknowledged {
            let began = Instant::now();
            let records = loop {
                let fetched = wire.fetch(self.topic, *offset).expect("an answer");
                match fetched.records.filter(|records| !records.is_empty()) {
                    Some(records) if fetched.error_code == 0 => break records,
                    _ => assert!(began.elapsed() < DEADLINE, "offset {offset}: {}", fetched.error_code),
                }
            };
            assert_eq!(records[..8], offset.to_be_bytes(), "the batch at {offset}");
            assert_eq!(records[27..35], timestamp.to_be_bytes(), "the batch at {offset} is another");
        }
    }
}

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
fn a_store_that_is_down_at_start_is_waited_for() {
    let (mut broker, gate) = behind_a_gate(Storage::BucketObject);
    broker.begin();
    broker.wait_until_logged("does not answer");
    assert!(broker.output().is_empty(), "it is not ready: {}", broker.output());
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
