//! Files and devices as they are: locks, making, refusals.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use wal::block::device::is_unlocked;
use wal::block::{BlockMedium, Config, LastOwner};
use wal::{AckRight, Error, Incarnation, Medium, Uri, Vacated};

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
    assert!(first.recovers_early(), "it is read past the page cache");
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

#[tokio::test]
async fn another_clusters_file_is_refused_and_kept() {
    let directory = directory();
    let path = directory.path().join("volume");
    let medium = take(&path).unwrap();
    let owner = Incarnation { broker: 1, epoch: 1 };
    let opened = medium.open(owner, Vacated::nothing_left(), Arc::new(AckRight::unlimited())).await;
    opened.unwrap().close().await;
    drop(medium);
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

/// V7: only an owner that closed its log in order is told to be done with the volume, and only the owner that was found
/// when the volume was taken is followed by another one.
#[tokio::test]
async fn a_volume_says_whether_its_last_owner_writes_no_more() {
    let directory = directory();
    let path = directory.path().join("volume");
    let owner = |epoch| Incarnation { broker: 1, epoch };
    let open = async |medium: &BlockMedium, epoch, right: &Arc<AckRight>| {
        medium.open(owner(epoch), Vacated::nothing_left(), right.clone()).await
    };
    let right = Arc::new(AckRight::unlimited());
    let medium = take(&path).unwrap();
    assert_eq!(medium.last_owner(), None);
    let wal = open(&medium, 3, &right).await.unwrap();
    assert!(!is_unlocked(&path).unwrap());
    let living = medium.last_owner();
    assert_eq!(living, Some(LastOwner { incarnation: owner(3), released: false }));
    drop((wal, medium));

    // It died: nobody said that it is done.
    let unlocked = async || {
        while !is_unlocked(&path).unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    unlocked().await;
    let medium = take(&path).unwrap();
    assert_eq!(medium.last_owner(), living);
    let wal = open(&medium, 5, &right).await.unwrap();
    wal.close().await;
    drop((wal, medium));
    unlocked().await;
    let medium = take(&path).unwrap();
    assert_eq!(medium.last_owner(), Some(LastOwner { incarnation: owner(5), released: true }));

    // A fenced one may have been followed by another host, and does not touch the volume again.
    let fenced = Arc::new(AckRight::leased());
    let wal = open(&medium, 7, &fenced).await.unwrap();
    fenced.revoke("a test");
    wal.close().await;
    drop((wal, medium));
    unlocked().await;
    let medium = take(&path).unwrap();
    assert_eq!(medium.last_owner(), Some(LastOwner { incarnation: owner(7), released: false }));

    // Another host's owner, which no lock of this host keeps out.
    let before = std::fs::read(&path).unwrap();
    let wal = open(&medium, 9, &right).await.unwrap();
    wal.close().await;
    drop((wal, medium));
    let theirs = std::fs::read(&path).unwrap();
    std::fs::write(&path, before).unwrap();
    unlocked().await;
    let medium = take(&path).unwrap();
    std::fs::write(&path, theirs).unwrap();
    match open(&medium, 11, &right).await {
        Err(Error::Fenced(reason)) => assert!(reason.contains("another owner"), "{reason}"),
        other => panic!("not refused: {other:?}"),
    }
}
