//! What needs root, as the continuous integration has it: a raw block device (a loop device over a file), and a file
//! system that can do little.

use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;
use wal::block::device::{Access, Device, FileDevice};
use wal::block::{BlockMedium, Config};
use wal::{AckRight, Error, Incarnation, Medium, Meta, Position, Record, Uri, Vacated};

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

/// A file system without O_DIRECT and without fallocate: ramfs.
struct Ramfs(tempfile::TempDir);

impl Ramfs {
    fn mount() -> Ramfs {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mounted = Command::new("mount").args(["-t", "ramfs", "ramfs"]).arg(directory.path()).status();
        assert!(
            mounted.is_ok_and(|status| status.success()),
            "a ramfs is needed to test file systems without direct I/O; run the tests as root"
        );
        Ramfs(directory)
    }
}

impl Drop for Ramfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// Writes through the page cache, one at a time, instead of nothing; and reserves space by writing zeroes.
#[tokio::test]
async fn a_file_system_without_direct_io_still_serves() {
    let ramfs = Ramfs::mount();
    let path = ramfs.0.path().join("volume");
    let access = Access::Own { capacity: Some(4 << 20), zeroing_max: Duration::ZERO };
    let device = FileDevice::open(&path, access).unwrap();
    assert_eq!((device.writes_max(), device.size_bytes()), (1, 4 << 20));
    drop(device);
    let config = Config { frame_bytes_max: 64 << 10, frame_bytes_target: 64 << 10, ..Config::default() };
    let medium = BlockMedium::new(&Uri::block(&path, None).unwrap(), Uuid::from_u128(1), config).unwrap();
    assert!(!medium.recovers_early(), "another host's write may not be seen");
    let life = Incarnation { broker: 1, epoch: 1 };
    let wal = medium.open(life, Vacated::new_medium(), Arc::new(AckRight::unlimited())).await.unwrap();
    let record = Record { kind: 1, meta: Meta::new(b"meta"), body: Bytes::from_static(b"body") };
    wal.append(record.clone()).unwrap().await.unwrap();
    wal.close().await;
    let mut recovery = medium.recover(life, Position(0)).await.unwrap();
    assert_eq!(recovery.next().await.unwrap().unwrap().records, [record]);
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

    fn is_direct(&self) -> bool {
        self.0.is_direct()
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
