//! The block WAL: the conformance suite on three kinds of disk, and what only a volume can suffer.

mod damage;
mod faulty;
mod file;
mod kill;
mod raw;

use std::time::Duration;

use faulty::{Disk, OnDisk};
use wal::block::device::{Access, FileDevice};

fn file_access() -> Access {
    Access::Own { capacity: Some(faulty::VOLUME_BYTES), zeroing_max: Duration::from_secs(5) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_conformance_suite_on_a_disk_in_memory() {
    wal::conformance::run(&OnDisk { make: Disk::in_memory, model_seeds: 100 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_conformance_suite_on_a_file() {
    // Beside the build, not in /tmp: that may be a file system without direct I/O.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let count = std::sync::atomic::AtomicU64::new(0);
    let make = || {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = directory.path().join(format!("volume-{number}"));
        Disk::new(FileDevice::open(&path, file_access()).unwrap())
    };
    wal::conformance::run(&OnDisk { make, model_seeds: 10 }).await;
}
