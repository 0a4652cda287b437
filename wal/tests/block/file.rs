//! Files and devices as they are: locks, making, refusals.

use std::path::Path;
use std::time::Duration;

use uuid::Uuid;
use wal::block::{BlockMedium, Config};
use wal::{Error, Uri};

use crate::faulty::CLUSTER;

fn directory() -> tempfile::TempDir {
    // Beside the build, not in /tmp: that may be a file system without direct I/O.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn take(path: &Path) -> Result<BlockMedium, Error> {
    let uri = Uri::block(path, Some(2 << 20)).unwrap();
    BlockMedium::new(
        &uri,
        CLUSTER,
        Config { frame_bytes_max: 64 << 10, frame_bytes_target: 64 << 10, ..Config::default() },
    )
}

fn refusal(result: Result<BlockMedium, Error>) -> String {
    match result {
        Err(Error::Refused(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_volume_in_use_is_refused_until_it_is_free() {
    let directory = directory();
    let path = directory.path().join("volume");
    let first = take(&path).unwrap();
    let reason = refusal(take(&path));
    assert!(reason.contains("in use by another process") && reason.contains("stop that broker"), "{reason}");
    // A recoverer needs no lock.
    BlockMedium::for_recovery(&Uri::block(&path, None).unwrap(), CLUSTER, Config::default()).unwrap();
    drop(first);
    take(&path).unwrap();
}

#[test]
fn a_missing_file_is_made_whole() {
    let directory = directory();
    let path = directory.path().join("volume");
    for zeroing_time_max in [Duration::ZERO, Duration::from_secs(5)] {
        let uri = Uri::block(&path, Some(8 << 20)).unwrap();
        drop(
            BlockMedium::new(
                &uri,
                CLUSTER,
                Config { zeroing_time_max, frame_bytes_max: 1 << 20, ..Config::default() },
            )
            .unwrap(),
        );
        let made = std::fs::metadata(&path).unwrap();
        assert_eq!(made.len(), 8 << 20);
        assert!(std::os::unix::fs::MetadataExt::blocks(&made) * 512 >= 8 << 20, "the space is reserved");
        std::fs::remove_file(&path).unwrap();
    }
}

/// A process that died between making the file and formatting it leaves something that the next one can use.
#[test]
fn a_half_made_file_is_finished() {
    let directory = directory();
    for length in [0, 2 << 20] {
        let path = directory.path().join(format!("volume-{length}"));
        std::fs::File::create(&path).unwrap().set_len(length).unwrap();
        drop(take(&path).unwrap());
        take(&path).unwrap();
    }
    // A file's default capacity holds for that one as well.
    let path = directory.path().join("volume-without-capacity");
    std::fs::File::create(&path).unwrap();
    let uri = Uri::block(&path, None).unwrap();
    BlockMedium::new(&uri, CLUSTER, Config { zeroing_time_max: Duration::ZERO, ..Config::default() })
        .unwrap();
}

#[test]
fn what_cannot_be_a_volume_is_refused() {
    let directory = directory();
    let here = directory.path();
    assert!(refusal(take(here)).contains("neither a block device nor a regular file"));
    assert!(refusal(take(&here.join("no/such/directory"))).contains("its directory does not exist"));
    assert!(refusal(take(Path::new("/dev/no-such-device"))).contains("attach the device"));
    let text = here.join("notes.txt");
    std::fs::write(&text, "dear diary".repeat(400_000)).unwrap();
    assert!(refusal(take(&text)).contains("did not write"));
    assert!(std::fs::read_to_string(&text).unwrap().starts_with("dear diary"));
    let small = here.join("small");
    std::fs::write(&small, [0; 5_000]).unwrap();
    assert!(refusal(take(&small)).contains("bytes; a volume needs"));
    let missing = Uri::block(&here.join("missing"), None).unwrap();
    assert!(
        refusal(BlockMedium::for_recovery(&missing, CLUSTER, Config::default())).contains("does not exist")
    );
    assert!(!here.join("missing").exists());
}

#[test]
fn another_clusters_file_is_refused_and_kept() {
    let directory = directory();
    let path = directory.path().join("volume");
    drop(take(&path).unwrap());
    let before = std::fs::read(&path).unwrap();
    let uri = Uri::block(&path, None).unwrap();
    let reason = refusal(BlockMedium::new(&uri, Uuid::from_u128(0xbad), Config::default()));
    assert!(reason.contains(&CLUSTER.to_string()), "{reason}");
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn senseless_bounds_are_refused() {
    for config in [
        Config { writes_in_flight_max: 0, ..Config::default() },
        Config { frame_bytes_max: 1, ..Config::default() },
        Config { frame_bytes_target: 1 << 30, ..Config::default() },
        Config { pending_bytes_max: 1, ..Config::default() },
    ] {
        assert!(matches!(config.validate(), Err(Error::Refused(_))));
    }
    Config::default().validate().unwrap();
}
