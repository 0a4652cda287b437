//! What may have happened to a volume between two lives, and what recovery says to it.

use std::sync::Arc;

use bytes::Bytes;
use futures::poll;
use wal::conformance::InFlight;
use wal::{AckRight, AppendError, Error, Incarnation, Medium, Meta, Position, Record, Vacated, Wal};

use crate::faulty::{Disk, RING_OFFSET, VOLUME_BYTES};

const SLOTS: [u64; 2] = [0, 65_536];

fn life(epoch: u64) -> Incarnation {
    Incarnation { broker: 7, epoch }
}

fn record(number: u8, bytes: usize) -> Record {
    Record { kind: number, meta: Meta::new(&[number; 3]), body: Bytes::from(vec![number; bytes]) }
}

async fn open(disk: &Arc<Disk>, epoch: u64, vacated: Vacated) -> Arc<dyn Wal> {
    let medium = disk.medium().unwrap();
    medium.open(life(epoch), vacated, Arc::new(AckRight::unlimited())).await.unwrap()
}

/// One frame for each record; where they lie.
async fn append_frames(wal: &dyn Wal, records: &[Record]) -> Vec<u64> {
    let mut offsets = Vec::new();
    for record in records {
        offsets.push(RING_OFFSET + wal.append(record.clone()).unwrap().await.unwrap().0);
    }
    offsets
}

async fn recover(disk: &Arc<Disk>, epoch: u64, from: u64) -> Result<(Vec<Record>, Vacated), Error> {
    let mut recovery = disk.medium()?.recover(life(epoch), Position(from)).await?;
    let mut records = Vec::new();
    while let Some(batch) = recovery.next().await? {
        records.extend(batch.records);
    }
    Ok((records, recovery.finish()))
}

/// A crashed disk with six frames of two blocks each, all acknowledged.
async fn six_frames() -> (Arc<Disk>, Vec<Record>, Vec<u64>) {
    let disk = Disk::in_memory();
    let wal = open(&disk, 1, Vacated::new_medium()).await;
    let records: Vec<_> = (1..=6).map(|number| record(number, 5_000)).collect();
    let offsets = append_frames(&*wal, &records).await;
    disk.crash(InFlight::Lost);
    (disk, records, offsets)
}

/// V5: a frame that a later one proves to have been durable is not the end of the log.
#[tokio::test]
async fn bit_rot_in_what_was_acknowledged_is_corruption() {
    for damaged_at in [0, 40, 70, 100, 5_000] {
        let (disk, records, offsets) = six_frames().await;
        disk.edit(offsets[2] + damaged_at, 1, |bytes| bytes[0] ^= 0x10);
        match recover(&disk, 1, 0).await {
            Err(Error::Corrupt { location, detail }) => {
                assert!(location.contains(&format!("position {}", offsets[2] - RING_OFFSET)), "{location}");
                assert!(detail.contains("durable"), "{detail}");
            }
            other => panic!("damage at {damaged_at}: {other:?}"),
        }
        // Behind the damage everything is there.
        let from = offsets[3] - RING_OFFSET;
        assert_eq!(recover(&disk, 1, from).await.unwrap().0, records[3..]);
    }
}

/// V5: even if the proof is a frame whose own body is gone.
#[tokio::test]
async fn the_header_of_a_torn_frame_still_proves() {
    let (disk, _, offsets) = six_frames().await;
    disk.edit(offsets[4], 8_192, |bytes| bytes.fill(0));
    disk.edit(offsets[5] + 4_096, 4_096, |bytes| bytes.fill(0));
    assert!(matches!(recover(&disk, 1, 0).await, Err(Error::Corrupt { .. })));
}

/// W5: nothing proves that the last frame was ever whole; it ends the log, as a torn write does.
#[tokio::test]
async fn a_torn_tail_is_the_end() {
    for torn_at in [0, 512, 4_096] {
        let (disk, records, offsets) = six_frames().await;
        disk.edit(offsets[5] + torn_at, 8_192 - torn_at as usize, |bytes| bytes.fill(0xdd));
        assert_eq!(recover(&disk, 1, 0).await.unwrap().0, records[..5], "torn at {torn_at}");
    }
}

/// V5: after an orderly close the superblock says how far the log goes, so even its last frame is missed.
#[tokio::test]
async fn a_closed_log_misses_its_last_frame() {
    let disk = Disk::in_memory();
    let wal = open(&disk, 1, Vacated::new_medium()).await;
    let offsets = append_frames(&*wal, &[record(1, 10), record(2, 10)]).await;
    wal.close().await;
    assert_eq!(recover(&disk, 1, 0).await.unwrap().0.len(), 2);
    disk.edit(offsets[1] + 80, 1, |bytes| bytes[0] ^= 1);
    assert!(matches!(recover(&disk, 1, 0).await, Err(Error::Corrupt { .. })));
}

/// F17: an error is not an end.
#[tokio::test]
async fn a_read_error_ends_the_recovery_with_an_error() {
    let (disk, records, offsets) = six_frames().await;
    for offset in [offsets[0], offsets[3]] {
        disk.fail_reads_at(Some(offset));
        assert!(matches!(recover(&disk, 1, 0).await, Err(Error::Failed(reason)) if reason.contains("read")));
    }
    disk.fail_reads_at(None);
    assert_eq!(recover(&disk, 1, 0).await.unwrap().0, records);
}

/// V3: whichever of the two superblocks is lost, no earlier owner comes back.
#[tokio::test]
async fn one_damaged_superblock_is_made_up_for() {
    for slot in SLOTS {
        let (disk, _, _) = six_frames().await;
        let (_, vacated) = recover(&disk, 1, 0).await.unwrap();
        let wal = open(&disk, 2, vacated).await;
        append_frames(&*wal, &[record(9, 100)]).await;
        disk.crash(InFlight::Lost);
        disk.edit(slot + 60, 1, |bytes| bytes[0] ^= 1);
        assert_eq!(recover(&disk, 2, 0).await.unwrap().0, [record(9, 100)], "slot at {slot}");
        assert!(matches!(recover(&disk, 1, 0).await, Err(Error::Fenced(_))));
    }
}

#[tokio::test]
async fn two_damaged_superblocks_are_corruption() {
    let (disk, _, _) = six_frames().await;
    for slot in SLOTS {
        disk.edit(slot + 60, 1, |bytes| bytes[0] ^= 1);
    }
    assert!(matches!(disk.medium(), Err(Error::Corrupt { .. })));
}

/// V2: nothing that somebody else may want is formatted over, and the error says what to do.
#[tokio::test]
async fn foreign_content_is_refused() {
    for offset in [0, 0x438, 65_536 + 64, 900_000, VOLUME_BYTES - 1] {
        let disk = Disk::in_memory();
        disk.edit(offset, 1, |bytes| bytes[0] = 0x53);
        match disk.medium() {
            Err(Error::Refused(reason)) => assert!(reason.contains("wipe"), "{reason}"),
            other => panic!("a byte at {offset}: {other:?}"),
        }
        assert_eq!(disk.bytes(offset, 1), [0x53]);
    }
}

#[tokio::test]
async fn another_cluster_and_another_version_are_refused() {
    let (disk, records, _) = six_frames().await;
    let other = wal::block::BlockMedium::on_device(
        disk.process(),
        crate::faulty::uri(),
        uuid::Uuid::from_u128(0xbad),
        crate::faulty::config(),
    );
    assert!(matches!(other, Err(Error::Refused(reason)) if reason.contains("belongs to the cluster")));
    assert_eq!(recover(&disk, 1, 0).await.unwrap().0, records);
    for slot in SLOTS {
        edit_superblock(&disk, slot, |bytes| bytes[8] = 2);
    }
    assert!(matches!(disk.medium(), Err(Error::Refused(reason)) if reason.contains("version 2")));
}

/// A log that the metadata log knows of cannot be on a volume that was blank a moment ago, however often one asks.
#[tokio::test]
async fn a_blank_volume_in_place_of_a_log_is_refused() {
    let disk = Disk::in_memory();
    for _ in 0..2 {
        let recovered = recover(&disk, 1, 0).await;
        assert!(matches!(recovered, Err(Error::Refused(reason)) if reason.contains("blank")));
    }
}

/// V9: whoever only takes a volume writes nothing, and whoever finds that another host was quicker writes nothing over it.
#[tokio::test]
async fn of_two_that_take_a_blank_volume_the_second_finds_the_first() {
    let disk = Disk::in_memory();
    let (first, second) = (disk.medium().unwrap(), disk.medium().unwrap());
    assert!(first.is_blank() && second.is_blank() && first.id() != second.id());
    assert!(disk.bytes(0, VOLUME_BYTES as usize).iter().all(|byte| *byte == 0), "nothing is written yet");
    let wal = first.open(life(1), Vacated::new_medium(), Arc::new(AckRight::unlimited())).await.unwrap();
    append_frames(&*wal, &[record(1, 100)]).await;
    let before = disk.bytes(0, VOLUME_BYTES as usize);
    let opened = second.open(life(2), Vacated::new_medium(), Arc::new(AckRight::unlimited())).await;
    assert!(matches!(opened, Err(Error::Fenced(reason)) if reason.contains("was blank")));
    assert!(disk.bytes(0, VOLUME_BYTES as usize) == before);
    assert_eq!((disk.medium().unwrap().id(), first.is_blank()), (first.id(), false));
}

/// V7: another volume in its place.
#[tokio::test]
async fn a_volume_that_was_exchanged_is_not_opened() {
    let disk = Disk::in_memory();
    open(&disk, 1, Vacated::new_medium()).await.close().await;
    let medium = disk.medium().unwrap();
    for slot in SLOTS {
        edit_superblock(&disk, slot, |bytes| bytes[32] ^= 1);
    }
    let opened = medium.open(life(2), Vacated::nothing_left(), Arc::new(AckRight::unlimited())).await;
    assert!(matches!(opened, Err(Error::Fenced(_))));
}

fn edit_superblock(disk: &Disk, slot: u64, edit: impl FnOnce(&mut [u8])) {
    disk.edit(slot, 112, |bytes| {
        edit(bytes);
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[..108]) as u32;
        bytes[108..112].copy_from_slice(&crc.to_le_bytes());
    });
}

/// V6: a volume that an earlier program formatted, and died, must not make anybody believe that there never was a log.
#[tokio::test]
async fn a_volume_that_never_had_the_owner_is_refused() {
    let disk = Disk::in_memory();
    open(&disk, 1, Vacated::new_medium()).await.close().await;
    for slot in SLOTS {
        edit_superblock(&disk, slot, |bytes| bytes[64..80].fill(0));
    }
    for from in [0, 4_096] {
        let recovered = recover(&disk, 1, from).await;
        assert!(matches!(&recovered, Err(Error::Refused(reason)) if reason.contains("never had an owner")));
    }
}

/// V6: a volume brought back from a copy holds an older life's log, not that of the life that acknowledged since.
#[tokio::test]
async fn an_older_copy_of_the_volume_is_refused() {
    let (disk, records, _) = six_frames().await;
    for from in [0, 4_096] {
        let recovered = recover(&disk, 2, from).await;
        assert!(matches!(&recovered, Err(Error::Refused(reason)) if reason.contains("epoch 1")));
    }
    assert_eq!(recover(&disk, 1, 0).await.unwrap().0, records);
}

/// A metadata log that is older than the volume (restored from a backup) must not pass for the truth.
#[tokio::test]
async fn a_trim_point_before_the_volumes_is_corruption() {
    let disk = Disk::in_memory();
    let wal = open(&disk, 1, Vacated::new_medium()).await;
    let offsets = append_frames(&*wal, &[record(1, 10), record(2, 10), record(3, 10)]).await;
    wal.trim(Position(offsets[2] - RING_OFFSET)).await.unwrap();
    disk.crash(InFlight::Lost);
    assert!(matches!(recover(&disk, 1, 0).await, Err(Error::Corrupt { .. })));
    assert_eq!(recover(&disk, 1, offsets[2] - RING_OFFSET).await.unwrap().0, [record(3, 10)]);
    assert!(matches!(recover(&disk, 1, 100).await, Err(Error::Corrupt { .. })));
}

/// A recovery that is overtaken by the next owner says so instead of ending early.
#[tokio::test]
async fn a_recovery_that_lost_its_volume_is_fenced() {
    let (disk, _, _) = six_frames().await;
    let (_, vacated) = recover(&disk, 1, 0).await.unwrap();
    let mut late = disk.medium().unwrap().recover(life(1), Position(0)).await.unwrap();
    late.next().await.unwrap().unwrap();
    let wal = open(&disk, 2, vacated).await;
    append_frames(&*wal, &[record(9, 60_000), record(9, 60_000)]).await;
    let end = loop {
        match late.next().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert!(matches!(end, Err(Error::Fenced(_))), "{end:?}");
}

/// V3: an operator wiped the front of a volume, as a refusal tells one to; the frames further on are still there, of the
/// same broker and epoch, at just the positions that the new log reaches.
#[tokio::test]
async fn frames_of_a_wiped_volume_are_not_data() {
    let disk = Disk::sized(4 << 20);
    drop(disk.medium().unwrap());
    let frames: Vec<_> = (1..=40).map(|number| record(number, 60_000)).collect();
    let wal = open(&disk, 1, Vacated::new_medium()).await;
    append_frames(&*wal, &frames).await;
    disk.crash(InFlight::Lost);
    disk.edit(0, 1 << 20, |bytes| bytes.fill(0));
    let wal = open(&disk, 1, Vacated::new_medium()).await;
    append_frames(&*wal, &frames[..20]).await;
    disk.crash(InFlight::Lost);
    assert_eq!(recover(&disk, 1, 0).await.unwrap().0, frames[..20]);
}

/// W5: a frame that just filled its lap is lost, the first one of the next lap arrived. It may look as if the end of the
/// ring had been skipped; but that frame says where its predecessor ended.
#[tokio::test]
async fn a_hole_at_the_end_of_a_lap_is_not_skipped() {
    let disk = Disk::in_memory();
    let wal = open(&disk, 1, Vacated::new_medium()).await;
    let block = |number| record(number, 4_096 - 72 - 8 - 3);
    let lap: Vec<_> = (0..255).map(block).collect();
    let offsets = append_frames(&*wal, &lap).await;
    wal.trim(Position(offsets[250] - RING_OFFSET)).await.unwrap();
    disk.hold();
    for number in [1, 2] {
        let held = disk.held();
        let _append = wal.append(block(number)).unwrap();
        while disk.held() == held {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
    disk.complete(1);
    disk.crash(InFlight::Lost);
    assert_eq!(recover(&disk, 1, offsets[250] - RING_OFFSET).await.unwrap().0, lap[250..]);
}

/// W5: everything is trimmed, and just where the log ends a whole frame of the lap before begins.
#[tokio::test]
async fn a_frame_of_an_earlier_lap_is_not_data() {
    let disk = Disk::in_memory();
    let wal = open(&disk, 1, Vacated::new_medium()).await;
    for number in 0..300u64 {
        let position = wal.append(record(number as u8, 100)).unwrap().await.unwrap();
        assert_eq!(position, Position(number * 4_096));
        wal.trim(position).await.unwrap();
    }
    let end = wal.status().durable;
    wal.trim(end).await.unwrap();
    disk.crash(InFlight::Lost);
    assert!(recover(&disk, 1, end.0).await.unwrap().0.is_empty());
}

/// W6: no space comes back before the superblock with the trim point is durable; trims that wait share one.
#[tokio::test]
async fn space_comes_back_with_the_superblock() {
    let disk = Disk::in_memory();
    let wal = open(&disk, 1, Vacated::new_medium()).await;
    let mut positions = Vec::new();
    loop {
        match wal.append(record(1, 60_000)) {
            Ok(append) => positions.push(append.await.unwrap()),
            Err(AppendError::OverCapacity { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let full = wal.status();
    let writes = disk.superblock_writes();
    disk.hold_superblocks();
    let mut trims: Vec<_> = positions.iter().map(|position| Box::pin(wal.trim(*position))).collect();
    for trim in &mut trims[1..] {
        assert!(poll!(trim).is_pending());
    }
    while disk.held() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!(wal.status(), full);
    assert!(matches!(wal.append(record(2, 60_000)), Err(AppendError::OverCapacity { .. })));
    disk.resume();
    for trim in trims {
        trim.await.unwrap();
    }
    assert_eq!(wal.status().trimmed, *positions.last().unwrap());
    assert!(disk.superblock_writes() - writes <= 2, "trims that wait share a superblock");
    wal.append(record(2, 60_000)).unwrap().await.unwrap();
}

/// F13: a flush that failed is not tried again, and what it covered is not acknowledged by a later one.
#[tokio::test]
async fn nothing_is_written_after_a_failed_flush() {
    let disk = Disk::in_memory();
    let wal = open(&disk, 1, Vacated::new_medium()).await;
    append_frames(&*wal, &[record(1, 10)]).await;
    disk.fail_flush();
    assert!(matches!(wal.append(record(2, 10)).unwrap().await, Err(Error::Failed(_))));
    let before = disk.bytes(0, VOLUME_BYTES as usize);
    assert!(wal.append(record(3, 10)).is_err());
    assert!(wal.trim(Position(0)).await.is_err());
    wal.close().await;
    assert!(disk.bytes(0, VOLUME_BYTES as usize) == before, "a failed log wrote to its volume");
}

/// B2: nor after a fence.
#[tokio::test]
async fn nothing_is_written_after_a_fence() {
    let disk = Disk::in_memory();
    let right = Arc::new(AckRight::unlimited());
    let medium = disk.medium().unwrap();
    let wal = medium.open(life(1), Vacated::new_medium(), right.clone()).await.unwrap();
    append_frames(&*wal, &[record(1, 10)]).await;
    right.revoke("taken over");
    assert!(matches!(wal.failed().await, Error::Fenced(_)));
    let before = disk.bytes(0, VOLUME_BYTES as usize);
    assert!(wal.append(record(2, 10)).is_err());
    wal.close().await;
    assert!(disk.bytes(0, VOLUME_BYTES as usize) == before, "a fenced log wrote to its volume");
}

/// B2: a log whose right has lapsed may have been recovered already; its close leaves the superblocks alone.
#[tokio::test]
async fn a_close_without_the_right_leaves_the_superblocks_alone() {
    let disk = Disk::in_memory();
    let medium = disk.medium().unwrap();
    let wal = medium.open(life(1), Vacated::new_medium(), Arc::new(AckRight::leased())).await.unwrap();
    let append = wal.append(record(1, 10)).unwrap();
    let writes = disk.superblock_writes();
    wal.close().await;
    assert!(append.await.is_err());
    assert_eq!(disk.superblock_writes(), writes);
}

/// V1 inside one process: one log at a time on a medium, and a log that was dropped leaves it.
#[tokio::test]
async fn a_medium_has_one_log_at_a_time() {
    let disk = Disk::in_memory();
    let medium = disk.medium().unwrap();
    let right = || Arc::new(AckRight::unlimited());
    let wal = medium.open(life(1), Vacated::new_medium(), right()).await.unwrap();
    append_frames(&*wal, &[record(1, 10)]).await;
    let second = medium.open(life(2), Vacated::new_medium(), right()).await;
    assert!(matches!(second, Err(Error::Refused(reason)) if reason.contains("open already")));
    drop(wal);
    let mut recovery = medium.recover(life(1), Position(0)).await.unwrap();
    assert_eq!(recovery.next().await.unwrap().unwrap().records, [record(1, 10)]);
    assert!(recovery.next().await.unwrap().is_none());
    medium.open(life(2), recovery.finish(), right()).await.unwrap().close().await;
}

/// Another broker's volume is neither recovered nor taken by mistake.
#[tokio::test]
async fn a_volume_belongs_to_one_broker() {
    let (disk, _, _) = six_frames().await;
    let medium = disk.medium().unwrap();
    let stranger = Incarnation { broker: 8, epoch: 5 };
    assert!(matches!(medium.recover(stranger, Position(0)).await.err(), Some(Error::Refused(_))));
    let (_, vacated) = recover(&disk, 1, 0).await.unwrap();
    let opened = medium.open(stranger, vacated, Arc::new(AckRight::unlimited())).await;
    assert!(matches!(opened, Err(Error::Refused(_))));
}
