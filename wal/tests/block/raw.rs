//! A raw block device: a loop device over a file. Needs root, as the continuous integration has it.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use wal::block::device::{Access, Device, FileDevice};
use wal::block::{BlockMedium, Config};
use wal::{Error, Uri};

use crate::faulty::{Disk, OnDisk, VOLUME_BYTES};

/// A loop device that goes away with this.
struct Loop {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Loop {
    fn attach(bytes: u64) -> Loop {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let file = directory.path().join("disk");
        std::fs::File::create(&file).unwrap().set_len(bytes).unwrap();
        let made = Command::new("losetup")
            .args(["--direct-io=on", "--show", "--find"])
            .arg(&file)
            .output()
            .expect("losetup (util-linux) is needed to test raw devices");
        assert!(
            made.status.success(),
            "a loop device is needed to test raw devices; run the tests as root, with /dev/loop-control there: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let path = PathBuf::from(String::from_utf8(made.stdout).unwrap().trim());
        Loop { path, _directory: directory }
    }

    fn uri(&self) -> Uri {
        Uri::block(&self.path, None).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Detached by the kernel once the last user is gone.
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

/// The device is opened once, exclusively; each case gets it blank.
#[derive(Debug)]
struct Shared(Arc<FileDevice>);

impl Device for Shared {
    fn block_bytes(&self) -> usize {
        self.0.block_bytes()
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read(buffer, offset)
    }

    fn write_durable(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_durable(bytes, offset)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_conformance_suite_on_a_raw_device() {
    let disk = Loop::attach(VOLUME_BYTES);
    let access = Access::Own { capacity: None, zeroing_max: Duration::ZERO };
    let device = Arc::new(FileDevice::open(&disk.path, access).unwrap());
    assert_eq!(device.size_bytes(), VOLUME_BYTES);
    let make = || {
        let disk = Disk::new(Shared(device.clone()));
        disk.edit(0, VOLUME_BYTES as usize, |bytes| bytes.fill(0));
        disk
    };
    wal::conformance::run(&OnDisk { make, model_seeds: 5 }).await;
}

#[test]
fn a_raw_device_in_use_is_refused() {
    let disk = Loop::attach(8 << 20);
    let config = || Config { frame_bytes_max: 64 << 10, frame_bytes_target: 64 << 10, ..Config::default() };
    let cluster = Uuid::from_u128(1);
    let first = BlockMedium::new(&disk.uri(), cluster, config()).unwrap();
    match BlockMedium::new(&disk.uri(), cluster, config()) {
        Err(Error::Refused(reason)) => assert!(reason.contains("in use by another process"), "{reason}"),
        other => panic!("{other:?}"),
    }
    drop(first);
    BlockMedium::new(&disk.uri(), cluster, config()).unwrap();
}
