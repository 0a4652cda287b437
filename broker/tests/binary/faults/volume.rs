//! The block WAL's volume on a disk that misbehaves. What it does about it: a write or a flush that failed ends the log
//! for good, and with it the process, loudly (F13); a volume that cannot be read is refused, never skipped (F17); what
//! only takes time, or comes in pieces, is borne (F15, F19); a disk that lies is found out (F14).
//!
//! `OTTLA_FAULT_HANG_MS` is how long the disk hangs (3000), `OTTLA_POWER_CUTS` how often the power goes (6).

use std::process::Command;
use std::time::Duration;

use super::disk::{Cached, FaultyFile, Trouble};
use super::store::number;
use crate::ledger::Ledger;
use crate::load::Load;
use crate::process::{Ottla, Storage, run, wait_until};
use crate::wire::Wire;

const VOLUME_BYTES: usize = 16 << 20;

/// What the file is served by this broker cannot know (FUSE): so it asks whether writes of the last one may still be on their
/// way. The disk here is the test's own, and none is.
fn on(disk: &FaultyFile) -> Ottla {
    let wal = format!("block://{}", disk.path().display());
    Ottla::new(Storage::DirectoryBlock).with(&[
        "--wal",
        &wal,
        "--wal-detached",
        "--upload-bytes",
        "1MiB",
        "--log-cache",
        "16MiB",
    ])
}

/// The log goes with the process; what the broker says at its end is for the operator.
fn ends_loudly(broker: &mut Ottla, because: &str) {
    let log = broker.wait_for_failure();
    let last: Vec<&str> = log.lines().rev().take(12).collect();
    assert!(last.iter().any(|line| line.contains(because)), "{because:?} is not said at the end:\n{log}");
}

/// The trouble meets a broker under load; it ends by itself, and the next one has everything that was acknowledged.
fn ends_and_recovers(trouble: Trouble, because: &str) {
    let disk = FaultyFile::new(VOLUME_BYTES);
    let mut broker = on(&disk);
    broker.start();
    let mut load = Load::start(&broker, "disk");
    load.more(500);
    disk.set(trouble);
    ends_loudly(&mut broker, because);
    disk.heal();
    // The page cache of a real disk may claim that a failed write is there; the power settles it.
    disk.cut_power(Cached::Torn(1));
    broker.start();
    load.more(500);
    let judge = load.finish();
    judge.verify(&broker);
    broker.kill();
    broker.start();
    judge.verify(&broker);
    broker.stop();
}

#[test]
fn a_flush_that_fails_ends_the_broker_and_the_next_one_has_everything() {
    // One that fails and then works again, as after an error that the kernel reported once.
    ends_and_recovers(Trouble { failed_flushes: 1, ..Trouble::default() }, "os error 5");
}

#[test]
fn a_write_that_fails_ends_the_broker_and_the_next_one_has_everything() {
    ends_and_recovers(Trouble { failed_writes: 1, ..Trouble::default() }, "os error 5");
}

#[test]
fn a_volume_without_space_ends_the_broker_and_the_next_one_has_everything() {
    // It is preallocated, so this is a thinly provisioned volume.
    ends_and_recovers(Trouble { full_writes: 1, ..Trouble::default() }, "os error 28");
}

/// Records in the WAL alone, each in a frame of its own, after a crash.
fn crashed(disk: &FaultyFile) -> (Ottla, Ledger) {
    let mut broker = on(disk).with(&["--upload-interval", "1h"]);
    broker.start();
    let mut ledger = Ledger::open(&broker, "ledger");
    for _ in 0..5 {
        ledger.produce_until_acknowledged();
    }
    broker.kill();
    (broker, ledger)
}

#[test]
fn a_volume_that_cannot_be_read_is_refused_until_it_can() {
    let disk = FaultyFile::new(VOLUME_BYTES);
    let (mut broker, ledger) = crashed(&disk);
    let before = disk.bytes();
    // At the superblocks, and behind them.
    for spared_reads in [0, 1, 2, 3] {
        disk.set(Trouble { spared_reads, failed_reads: u64::MAX, ..Trouble::default() });
        broker.begin();
        ends_loudly(&mut broker, "os error 5");
        disk.heal();
    }
    let names_it = broker.log().contains(disk.path().to_str().unwrap());
    assert!(names_it, "{}", broker.log());
    assert!(disk.bytes() == before, "a refused start has written to the volume");
    broker.start();
    ledger.verify(&broker);
    broker.stop();
}

#[test]
fn what_comes_in_pieces_is_put_together() {
    let disk = FaultyFile::new(VOLUME_BYTES);
    let mut broker = on(&disk).with(&["--upload-interval", "1h"]);
    broker.start();
    let mut ledger = Ledger::open(&broker, "ledger");
    for _ in 0..20 {
        disk.set(Trouble { short_writes: 3, ..Trouble::default() });
        ledger.produce_until_acknowledged();
    }
    assert!(disk.served().struck >= 20, "{:?}", disk.served());
    broker.kill();
    disk.cut_power(Cached::Lost);
    let before = disk.served().struck;
    disk.set(Trouble { short_reads: 20, ..Trouble::default() });
    broker.start();
    assert!(disk.served().struck > before, "no read was cut short");
    disk.heal();
    ledger.verify(&broker);
    broker.stop();
}

/// EINTR comes from signals; a tracer can make the calls return it without any.
#[test]
fn interrupted_calls_are_made_again() {
    let mut broker = Ottla::new(Storage::DirectoryBlock).with(&["--upload-bytes", "1MiB"]);
    broker.start();
    let mut ledger = Ledger::open(&broker, "ledger");
    ledger.produce_until_acknowledged();
    let trace = broker.directory.path().join("trace");
    let mut tracer = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=pwritev2,fdatasync"])
        .args(["-e", "inject=pwritev2,fdatasync:error=EINTR:when=1+2", "-o"])
        .arg(&trace)
        .args(["-p", &broker.process_id().to_string()])
        .spawn()
        .expect("strace is installed");
    let interrupted = || std::fs::read_to_string(&trace).unwrap_or_default().matches("EINTR").count();
    wait_until("nothing was interrupted", || {
        ledger.produce_until_acknowledged();
        interrupted() >= 20
    });
    run(Command::new("kill").args(["-INT", &tracer.id().to_string()]));
    tracer.wait().unwrap();
    broker.kill();
    broker.start();
    ledger.verify(&broker);
    broker.stop();
}

#[test]
fn a_disk_that_hangs_holds_acknowledgements_back_and_nothing_else() {
    let disk = FaultyFile::new(VOLUME_BYTES);
    let mut broker = on(&disk);
    broker.start();
    let mut load = Load::start(&broker, "disk");
    load.more(500);
    let mut ledger = Ledger::open(&broker, "ledger");
    ledger.produce_until_acknowledged();
    disk.set(Trouble { hang: true, ..Trouble::default() });
    // Answered in time, with an error after which a client tries again.
    assert!(!ledger.produce(), "it was acknowledged by a disk that hangs");
    assert!(disk.hanging() > 0);
    std::thread::sleep(Duration::from_millis(number("OTTLA_FAULT_HANG_MS", 3_000)));
    assert!(!ledger.produce(), "it was acknowledged by a disk that hangs");
    // What is there already can be read meanwhile.
    let fetched = Wire::connect(&broker).fetch("ledger", ledger.acknowledged[0].0).unwrap();
    assert_eq!(fetched.error_code, 0);
    assert!(broker.is_running(), "{}", broker.log());
    disk.heal();
    ledger.produce_until_acknowledged();
    load.more(500);
    let judge = load.finish();
    judge.verify(&broker);
    ledger.verify(&broker);
    broker.kill();
    disk.cut_power(Cached::Lost);
    broker.start();
    judge.verify(&broker);
    ledger.verify(&broker);
    broker.stop();
}

/// F10, F11: whatever part of what was not flushed is there afterwards, and however torn.
#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    let disk = FaultyFile::new(VOLUME_BYTES);
    let mut broker = on(&disk).with(&["--upload-interval", "2s"]);
    broker.start();
    let mut load = Load::start(&broker, "power");
    let mut unflushed = 0;
    for seed in 0..number("OTTLA_POWER_CUTS", 6) {
        load.more(300);
        // Between the writes and their flush, which is when there is something to lose.
        disk.set(Trouble { held_flushes: true, ..Trouble::default() });
        disk.wait_until_hanging();
        broker.signal("KILL");
        unflushed += disk.cut_power(if seed % 3 == 0 { Cached::Lost } else { Cached::Torn(seed) });
        disk.heal();
        broker.kill();
        broker.start();
    }
    assert!(unflushed > 0, "every power cut met a disk that had nothing to do");
    let judge = load.finish();
    let verified = judge.verify(&broker);
    println!("{unflushed} bytes were not flushed when the power went; {}, {verified}", judge.summary);
    broker.stop();
}

/// F14. What the disk promised and lost is missed: by what stands behind it, or by what the superblock says.
#[test]
fn a_disk_that_lies_about_a_flush_is_found_out() {
    let disk = FaultyFile::new(VOLUME_BYTES);
    let mut broker = on(&disk).with(&["--upload-interval", "1h"]);
    broker.start();
    let mut ledger = Ledger::open(&broker, "ledger");
    ledger.produce_until_acknowledged();
    let honest = disk.bytes();
    disk.set(Trouble { lying_flushes: u64::MAX, ..Trouble::default() });
    ledger.produce_until_acknowledged();
    let lied_about = disk.bytes();
    disk.heal();
    for _ in 0..3 {
        ledger.produce_until_acknowledged();
    }
    broker.kill();
    // The flushes since were honest, but this one's writes went where a disk's cache goes without power.
    disk.edit(|volume| {
        for (at, byte) in volume.iter_mut().enumerate() {
            if honest[at] != lied_about[at] {
                *byte = honest[at];
            }
        }
    });
    broker.begin();
    ends_loudly(&mut broker, "corrupt");
    assert!(broker.log().contains(disk.path().to_str().unwrap()), "{}", broker.log());
}
