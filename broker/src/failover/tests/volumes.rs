//! B1, B2, M2 to M5: a volume that several hosts can reach is taken only when nobody else can write to it.

use std::sync::Arc;
use std::time::Duration;

use wal::{AckRight, Incarnation, Position, Vacated, Wal};

use super::{Cluster, Member};
use crate::media::{Judged, LastWriter, Media, Ours, check_ours};
use crate::metadata::image::Listener;
use crate::metadata::{Metadata, Registering, cluster_id};

/// M2, M3: when nobody else can write to a volume, and when that is not known.
#[tokio::test]
async fn who_can_write_to_a_volume_is_judged_by_locks_machines_and_last_words() {
    let cluster = Cluster::new();
    let owner = cluster.member(1, "one.wal", "there/1").await;
    let (of, uri) = (owner.life, owner.ours.medium.uri().clone());
    let other = cluster.member(2, "object", "here/2").await;
    let exclusive = async |machine| other.media.left(of, &uri, machine, None).await.unwrap().exclusive;
    assert!(!exclusive(Some("there/1")).await, "it is held");
    assert!(!exclusive(Some("here/2")).await, "it is held");
    let Member { wal, ours, media, metadata, .. } = owner;
    drop((wal, ours));
    let path = cluster.path("one.wal");
    while !wal::block::device::is_unlocked(&path).unwrap() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(exclusive(Some("here/2")).await, "its process is gone from this kernel");
    for elsewhere in [Some("here/3"), Some("here"), Some("there/1"), None] {
        assert!(!exclusive(elsewhere).await, "whose lock is another kernel's: {elsewhere:?}");
    }
    let stranger = Incarnation { broker: 1, epoch: of.epoch + 1 };
    assert!(
        !other.media.left(stranger, &uri, Some("here/2"), None).await.unwrap().exclusive,
        "not its volume"
    );

    // As somebody's own log: this file is on one machine's file system, or on this machine.
    let ours = media.ours().unwrap();
    let judged = check_ours(&media, &ours, &metadata.image(), 1, false).unwrap();
    assert_eq!((judged.writer, judged.claim), (LastWriter::Gone, None));
    let wal = ours
        .medium
        .open(
            Incarnation { broker: 1, epoch: of.epoch + 9 },
            Vacated::nothing_left(),
            Arc::new(AckRight::unlimited()),
        )
        .await
        .unwrap();
    wal.close().await;
    assert_eq!(wal.status().trimmed, Position(0));
}

/// One disk, as two hosts see it: each has a device of its own, whose locks say nothing about the other's.
struct SharedDisk([String; 2]);

impl SharedDisk {
    fn new(cluster: &Cluster) -> SharedDisk {
        let file = cluster.path("disk");
        std::fs::File::create(&file).unwrap().set_len(4 << 20).unwrap();
        let attach = |_| {
            let mut losetup = std::process::Command::new("losetup");
            let made = losetup.args(["--direct-io=on", "--show", "--find"]).arg(&file).output();
            let made =
                made.expect("losetup (util-linux) is needed to test devices that several hosts can reach");
            let said = String::from_utf8_lossy(&made.stderr).into_owned();
            assert!(made.status.success(), "loop devices are needed, as root: {said}");
            String::from_utf8(made.stdout).unwrap().trim().to_owned()
        };
        SharedDisk([(); 2].map(attach))
    }
}

impl Drop for SharedDisk {
    fn drop(&mut self) {
        for device in &self.0 {
            // Detached by the kernel once the last user is gone.
            let _ = std::process::Command::new("losetup").arg("--detach").arg(device).status();
        }
    }
}

/// A broker that was started, and has registered with its log on `device`, and not opened it yet.
struct Starting {
    metadata: Arc<Metadata>,
    ours: Ours,
    judged: anyhow::Result<Judged>,
}

impl Starting {
    async fn on(cluster: &Cluster, device: &str, machine: &str, detached: bool) -> Starting {
        let options = cluster.options(device, &[]);
        let log = options.bounds.metadata.clone();
        let metadata = Metadata::open(cluster.stores.metadata.clone(), log).await.unwrap();
        let id = cluster_id::parse(&metadata.cluster_id()).unwrap();
        let media = Media::new(&options, id, cluster.stores.clone(), machine.to_owned());
        let ours = media.ours().unwrap();
        let judged = check_ours(&media, &ours, &metadata.image(), 1, detached);
        Starting { metadata, ours, judged }
    }

    async fn register(&self, machine: &str) -> Result<Incarnation, crate::metadata::Error> {
        let registering = Registering {
            id: 1,
            wal: self.ours.medium.uri(),
            listener: Listener { host: "a host".into(), port: 1 },
            rack: None,
            machine,
            replaces: self.metadata.image().last_registration(1),
            claim: self.judged.as_ref().unwrap().claim.clone(),
        };
        Ok(self.metadata.register(registering).await?.incarnation)
    }

    async fn open(&self, life: Incarnation) -> Result<Arc<dyn Wal>, wal::Error> {
        let right = Arc::new(AckRight::unlimited());
        self.ours.medium.open(life, Vacated::nothing_left(), right).await
    }
}

/// M5, N4: a host stands still with the first writes of its broker on their way. Whoever comes to the same volume meanwhile
/// finds nobody's name on it, and must know of that one nevertheless: its writes would land over what is acknowledged then.
/// Once as a blank volume, and once as one whose last owner closed its log.
#[tokio::test]
async fn a_volume_that_another_host_is_about_to_write_to_is_not_taken() {
    let cluster = Cluster::new();
    let disk = SharedDisk::new(&cluster);
    let [here, there] = &disk.0;
    for blank in [true, false] {
        // Both have looked at the volume when neither had registered.
        let slow = Starting::on(&cluster, here, "a/1", false).await;
        let before = std::fs::read(cluster.path("disk")).unwrap();
        let second = Starting::on(&cluster, there, "b/2", false).await;
        assert_eq!(slow.judged.as_ref().unwrap().writer, LastWriter::Gone);
        assert_eq!(slow.judged.as_ref().unwrap().claim.as_ref().unwrap().blank, blank);
        let life = slow.register("a/1").await.unwrap();
        let refused = second.register("b/2").await;
        assert!(matches!(refused, Err(crate::metadata::Error::Conflict(_))), "{refused:?}");
        drop(second);

        // Whoever looks later is told to wait, or refused, whatever became of the first one meanwhile.
        let third = Starting::on(&cluster, there, "b/2", false).await;
        match &third.judged {
            Ok(judged) => assert!(blank && judged.wait.as_ref().unwrap().contains("a/1")),
            Err(refused) => {
                let refused = refused.to_string();
                assert!(!blank && refused.contains("a/1") && refused.contains("--wal-detached"), "{refused}");
            }
        }
        drop(third);
        assert!(std::fs::read(cluster.path("disk")).unwrap() == before, "nobody has written anything");
        // Its own next life, under the same kernel, which has the lock of the volume.
        let Starting { metadata, ours, .. } = slow;
        metadata.close(false).await.unwrap();
        drop(ours);
        let again = Starting::on(&cluster, here, "a/1", false).await;
        let judged = again.judged.as_ref().unwrap();
        assert_eq!((judged.writer, &judged.wait), (LastWriter::Gone, &None));
        assert_eq!(judged.claim.as_ref().unwrap().gone, [life]);
        let life = again.register("a/1").await.unwrap();
        let wal = again.open(life).await.unwrap();
        again.metadata.open_leaderships().await.unwrap();
        wal.close().await;
        again.metadata.close(true).await.unwrap();
        assert_eq!(again.metadata.image().claimed_volumes().count(), 0, "it closed its log");
    }
    // The operator's word ends all claims.
    let slow = Starting::on(&cluster, here, "a/1", false).await;
    slow.register("a/1").await.unwrap();
    let moved = Starting::on(&cluster, there, "b/2", true).await;
    let life = moved.register("b/2").await.unwrap();
    moved.open(life).await.unwrap();
    assert_eq!(moved.metadata.image().claimed_volumes().flat_map(|(_, claims)| claims).count(), 1);
}

/// B1, B2 on a device that two hosts can reach: it is read when the lease is over, and is nobody's to format while the old
/// host may write to it, though its log was recovered. (With `OTTLA_PLANTED=format-early` this fails.) The last part shows
/// what would become of it.
#[tokio::test(start_paused = true)]
async fn a_shared_volume_is_read_after_the_lease_and_formatted_by_nobody_while_its_host_may_write() {
    let cluster = Cluster::new();
    let disk = SharedDisk::new(&cluster);
    let [here, there] = &disk.0;
    // Which goes on living, cut off.
    let zombie = cluster.member(1, here, "a/1").await;
    let (of, stream) = (zombie.life, zombie.write(20).await);
    let hook = format!("--wal-attach=echo {there}");
    let heir = cluster.member_with(2, "object", "b/2", &[&hook]).await;
    heir.waits_out_the_lease_of(of, stream).await;

    // The guard: nothing on this machine holds a lock of that device.
    let taker_on = |machine: &str, more: &[&str]| {
        let options = cluster.options(there, more);
        let id = cluster_id::parse(&heir.metadata.cluster_id()).unwrap();
        Media::new(&options, id, cluster.stores.clone(), machine.to_owned())
    };
    let taker = |more: &[&str]| taker_on("b/2", more);
    let before = std::fs::read(cluster.path("disk")).unwrap();
    // Neither on another machine nor on one of the same id, which may be a clone of it.
    for machine in ["b/2", "a/2", "a"] {
        let media = taker_on(machine, &[]);
        let ours = media.ours().unwrap();
        let refused = check_ours(&media, &ours, &heir.metadata.image(), 1, false);
        let refused = refused.expect_err("its old host may still write to it").to_string();
        assert!(refused.contains("--wal-detached") && refused.contains("a/1"), "{refused}");
        let required = taker(&["--wal-reservation=required"]).ours();
        assert!(required.is_err(), "the device is in use by this process");
    }
    assert!(std::fs::read(cluster.path("disk")).unwrap() == before, "a start that is refused writes nothing");

    // Somebody says that the volume is detached, and it is not.
    let media = taker(&[]);
    let ours = media.ours().unwrap();
    let judged = check_ours(&media, &ours, &heir.metadata.image(), 1, true).unwrap();
    assert_eq!(judged.writer, LastWriter::Gone);
    assert!(judged.claim.unwrap().gone.contains(&of), "whose claim outlived its recovery");
    let life = Incarnation { broker: 1, epoch: of.epoch + 100 };
    let right = Arc::new(AckRight::unlimited());
    let wal = ours.medium.open(life, Vacated::nothing_left(), right).await.unwrap();
    let taker = Member { wal, ours, ..heir };
    for base in 20..60 {
        taker.append(stream, base).await;
    }
    let count = async || {
        let mut recovery = taker.ours.medium.recover(life, Position(0)).await.unwrap();
        let mut count = 0;
        while let Ok(Some(batch)) = recovery.next().await {
            count += batch.records.len();
        }
        count
    };
    assert_eq!(count().await, 40);
    // What it had on its way.
    for base in 20..30 {
        zombie.append(stream, base).await;
        if count().await < 40 {
            return;
        }
    }
    panic!("what was acknowledged was not overwritten, of all that the old host wrote");
}
