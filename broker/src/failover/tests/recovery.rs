//! What a dead broker left is recovered: whole, once, and only when it may be (F2, F3, F6).

use std::sync::Arc;
use std::time::Duration;

use wal::{AckRight, Incarnation, Medium, Position, Vacated, Wal};

use super::{Cluster, DEAD, Member, SECOND};
use crate::cluster::Verdicts;
use crate::failover::recovery::{Recovered, forsake};
use crate::metadata::image::{Listener, lease_and_margin};
use crate::metadata::{Metadata, Registering, TopicSpec};

#[tokio::test]
async fn what_a_dead_broker_left_is_recovered_and_led_by_another() {
    for (wal, left_open) in [("object", true), ("one.wal", false)] {
        let cluster = Cluster::new();
        let dead = cluster.member(1, wal, "here").await;
        let (of, stream) = (dead.life, dead.write(20).await);
        let heir = cluster.member(2, "object", "here").await;
        assert_eq!(
            heir.metadata.image().leader(&heir.metadata.image().topic_named("t").unwrap().partitions[0]),
            Some(1)
        );
        let (failover, verdicts) = heir.fail_over();
        let dead = if left_open {
            // A zombie's epochs are enough.
            Some(dead)
        } else {
            dead.metadata.close(false).await.unwrap();
            let Member { wal, ours, .. } = dead;
            drop((wal, ours));
            None
        };
        verdicts.send_replace(Arc::new(Verdicts::default().with(of, DEAD)));
        assert_eq!(heir.outcome(of, stream).await, (Some(2), 20), "{wal}");
        if let Some(zombie) = dead {
            let refused = zombie.metadata.allocate_producer_ids(1).await;
            assert!(matches!(refused, Err(crate::metadata::Error::Fenced(_))), "{refused:?}");
        }
        failover.shutdown().await;
        heir.metadata.close(false).await.unwrap();
    }
}

/// F2: the recovery of what somebody may still write to is not complete before its lease is over. Time is tokio's, and jumps ahead where nothing
/// else is to be done.
#[tokio::test(start_paused = true)]
async fn a_volume_that_is_still_held_is_recovered_only_after_the_lease() {
    let cluster = Cluster::new();
    let dead = cluster.member(1, "one.wal", "here").await;
    let (of, stream) = (dead.life, dead.write(20).await);
    let heir = cluster.member(2, "object", "here").await;
    heir.waits_out_the_lease_of(of, stream).await;
    drop(dead);
}

/// F6: what is whole is committed while the lease runs, and what is acknowledged meanwhile is found behind it.
#[tokio::test]
async fn what_is_whole_is_recovered_while_the_lease_runs() {
    let cluster = Cluster::new();
    let dead = cluster.member(1, "one.wal", "here").await;
    let (of, stream) = (dead.life, dead.write(20).await);
    let heir = cluster.member(2, "object", "here").await;
    heir.metadata.fence(of).await.unwrap();
    // Long enough for what follows; the rest of it passes at once.
    let (recoverer, known) = (heir.recoverer(), tokio::time::Instant::now() + 600 * SECOND);
    let recovering = tokio::spawn(async move { recoverer.recover_left(of, known, None).await });
    let mut changed = heir.metadata.changed();
    while heir.metadata.image().stream(stream).unwrap().committed_end < 20 {
        let change = tokio::time::timeout(120 * SECOND, changed.changed()).await;
        change.expect("what is whole is committed early, on a file system with direct I/O").unwrap();
    }
    let lease = heir.metadata.image().life(of).expect("it may go on").lease;
    for base in 20..25 {
        dead.append(stream, base).await;
    }
    // Where nothing else is to be done, it is over.
    tokio::time::pause();
    let recovered = recovering.await.unwrap().unwrap();
    assert!(matches!(recovered, Recovered::Here { .. }), "{recovered:?}");
    assert!(tokio::time::Instant::now() >= known + lease_and_margin(lease));
    assert_eq!(heir.outcome(of, stream).await, (Some(2), 25));
    drop(dead);
}

/// Time that would be waited out passes at once.
#[tokio::test]
async fn no_lease_is_waited_out_for_what_somebody_else_has_recovered() {
    let cluster = Cluster::new();
    let dead = cluster.member(1, "one.wal", "here").await;
    let (of, stream) = (dead.life, dead.write(20).await);
    let heir = cluster.member(2, "object", "here").await;
    heir.metadata.fence(of).await.unwrap();
    let (waits, known) = (heir.recoverer(), tokio::time::Instant::now() + 600 * SECOND);
    let waiting = tokio::spawn(async move { waits.recover_left(of, known, None).await });
    let recovered = heir.recoverer().recover(of, &*dead.ours.medium).await.unwrap();
    assert!(matches!(recovered, Recovered::Here { .. }), "{recovered:?}");
    tokio::time::pause();
    let waited = waiting.await.unwrap().unwrap();
    assert!(matches!(waited, Recovered::Elsewhere), "{waited:?}");
    assert!(tokio::time::Instant::now() < known);
    assert_eq!(heir.outcome(of, stream).await, (Some(2), 20));
    drop(dead);
}

/// A volume whose first walk does not come to its end.
#[derive(Debug)]
struct Reluctant {
    inner: Arc<dyn Medium>,
    /// How the first walk fails, or not even that.
    fails: Option<wal::Error>,
    walks: std::sync::atomic::AtomicUsize,
}

#[async_trait::async_trait]
impl Medium for Reluctant {
    fn uri(&self) -> &wal::Uri {
        self.inner.uri()
    }

    async fn recover(&self, of: Incarnation, from: Position) -> Result<Box<dyn wal::Recovery>, wal::Error> {
        if self.walks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0 {
            return self.inner.recover(of, from).await;
        }
        match &self.fails {
            Some(error) => Err(error.clone()),
            None => std::future::pending().await,
        }
    }

    fn recovers_early(&self) -> bool {
        true
    }

    async fn open(
        &self,
        owner: Incarnation,
        vacated: Vacated,
        right: Arc<AckRight>,
    ) -> Result<Arc<dyn Wal>, wal::Error> {
        self.inner.open(owner, vacated, right).await
    }
}

/// F6: however the early recovery ends, and if it does not, the one behind the lease judges.
#[tokio::test(start_paused = true)]
async fn an_early_recovery_that_does_not_succeed_holds_up_nothing() {
    let damaged = wal::Error::Corrupt { location: "here".into(), detail: "damaged".into() };
    for fails in [None, Some(damaged), Some(wal::Error::Fenced("it has another owner".into()))] {
        let cluster = Cluster::new();
        let dead = cluster.member(1, "one.wal", "here").await;
        let (of, stream) = (dead.life, dead.write(20).await);
        let heir = cluster.member(2, "object", "here").await;
        heir.metadata.fence(of).await.unwrap();
        let inner = dead.ours.medium.clone();
        let medium = Reluctant { inner, fails, walks: Default::default() };
        let recoverer = heir.recoverer();
        let recovering = recoverer.recover_leased(of, tokio::time::Instant::now(), &medium);
        let recovered = tokio::time::timeout(Duration::from_secs(600), recovering).await.expect("it ends");
        assert!(matches!(recovered, Ok(Recovered::Here { .. })), "{recovered:?}");
        assert_eq!(medium.walks.into_inner(), 2);
        assert_eq!(heir.outcome(of, stream).await, (Some(2), 20));
    }
}

/// A command that takes a volume away is run on what the metadata says now, not on what it said when the turn came.
#[tokio::test]
async fn a_volume_is_not_attached_once_its_log_is_recovered() {
    let cluster = Cluster::new();
    let ran = cluster.path("ran");
    let hook = format!("--wal-attach=touch '{}'", ran.display());
    let dead = cluster.member(1, "one.wal", "here/1").await;
    let of = dead.life;
    let late = cluster.member_with(2, "object", "there/2", &[&hook]).await;
    let Member { wal, ours, metadata, .. } = dead;
    metadata.close(false).await.unwrap();
    drop((wal, ours));
    late.metadata.fence(of).await.unwrap();
    let known = tokio::time::Instant::now();
    let (back, ours) = cluster.starting(1, "one.wal", "here/1", &[]).await;
    // It has recovered its log, of which the other has not heard yet.
    assert!(late.metadata.image().life(of).is_some());
    back.recover(of, &*ours.medium).await.unwrap();
    assert!(late.metadata.image().life(of).is_some());
    let outcome = late.recoverer().recover_left(of, known, None).await.unwrap();
    assert!(matches!(outcome, Recovered::Elsewhere), "{outcome:?}");
    assert!(!ran.exists());
}

/// The same where the command runs already: it is ended before it takes what the next life of that broker uses.
#[tokio::test]
async fn the_command_that_attaches_a_volume_ends_when_its_log_is_recovered() {
    let cluster = Cluster::new();
    let (began, goes_on) = (cluster.path("began"), cluster.path("goes-on"));
    assert!(std::process::Command::new("mkfifo").arg(&goes_on).status().unwrap().success());
    // Nobody ever writes there.
    let hook = format!("--wal-attach=touch '{}'; cat '{}'", began.display(), goes_on.display());
    let dead = cluster.member(1, "one.wal", "here/1").await;
    let of = dead.life;
    let taking = cluster.member_with(2, "object", "there/2", &[&hook]).await;
    let Member { wal, ours, metadata, .. } = dead;
    metadata.close(false).await.unwrap();
    drop((wal, ours));
    taking.metadata.fence(of).await.unwrap();
    let recoverer = taking.recoverer();
    let recovering =
        tokio::spawn(async move { recoverer.recover_left(of, tokio::time::Instant::now(), None).await });
    while !began.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (back, ours) = cluster.starting(1, "one.wal", "here/1", &[]).await;
    back.recover(of, &*ours.medium).await.unwrap();
    taking.metadata.refresh().await.unwrap();
    let outcome = tokio::time::timeout(Duration::from_secs(60), recovering).await.expect("it ends");
    assert!(matches!(outcome.unwrap().unwrap(), Recovered::Elsewhere));
}

/// Two fail over the same life at once; together they take each record once, and both end.
#[tokio::test]
async fn two_recoverers_at_once_take_each_record_once() {
    let cluster = Cluster::new();
    let dead = cluster.member(1, "object", "here").await;
    let (of, stream) = (dead.life, dead.write(30).await);
    let (one, two) = (cluster.member(2, "object", "here").await, cluster.member(3, "object", "here").await);
    one.metadata.fence(of).await.unwrap();
    two.metadata.refresh().await.unwrap();
    let known = tokio::time::Instant::now();
    let (first, second) = (one.recoverer(), two.recoverer());
    let (first, second) =
        tokio::join!(first.recover_left(of, known, None), second.recover_left(of, known, None));
    first.unwrap();
    second.unwrap();
    assert_eq!(one.outcome(of, stream).await.1, 30);
    assert_eq!(two.outcome(of, stream).await.1, 30);
}

/// One that is refused though nobody else has done anything: its caller is told, pauses, and tries another one meanwhile.
#[tokio::test(start_paused = true)]
async fn a_recovery_that_is_refused_again_and_again_ends() {
    let cluster = Cluster::new();
    let dead = cluster.member(1, "object", "here").await;
    let spec = TopicSpec {
        name: "t".into(),
        partitions: 400,
        configs: Vec::new(),
        leaders: vec![dead.life.broker; 400],
    };
    let topic = dead.metadata.create_topics(vec![spec]).await.remove(0).unwrap();
    // As many in one slot as its adoption has no room for in an entry.
    let appends = topic.partitions.iter().map(|partition| dead.append(partition.log, 0));
    futures::future::join_all(appends).await;
    let mut options = cluster.options("object", &[]);
    options.bounds.metadata.log.entry_bytes_max = 4 << 10;
    let (heir, _ours) = cluster.starting_as(options, 2, "here").await;
    heir.metadata.fence(dead.life).await.unwrap();
    let refused = heir.recover_left(dead.life, tokio::time::Instant::now(), None).await;
    let refused = format!("{:#}", refused.expect_err("its commit is too large"));
    assert!(refused.contains("started over"), "{refused}");
    // Others may do better.
    let other = cluster.member(3, "object", "here").await;
    other.recoverer().recover_left(dead.life, tokio::time::Instant::now(), None).await.unwrap();
    assert_eq!(other.outcome(dead.life, topic.partitions[399].log).await.1, 1);
}

/// What a broker that is back reads from its volume is not declared lost meanwhile; it would format the volume then.
#[tokio::test]
async fn a_log_is_given_up_only_while_its_broker_is_away() {
    let cluster = Cluster::new();
    let one = cluster.member(1, "one", "a/1").await;
    let two = cluster.member(2, "two", "b/2").await;
    let of = one.life;
    let refused = forsake(&two.metadata, of).await.unwrap_err().to_string();
    assert!(refused.contains("is not waited for; logs that are: none"), "{refused}");
    two.metadata.fence(of).await.unwrap();
    let registering = Registering {
        id: 1,
        wal: one.ours.medium.uri(),
        listener: Listener { host: "a host".into(), port: 1 },
        rack: None,
        machine: "a/1",
        replaces: Some(of.epoch),
        claim: None,
    };
    let log = cluster.options("one", &[]).bounds.metadata.clone();
    let metadata = Metadata::open(cluster.stores.metadata.clone(), log).await.unwrap();
    let back = metadata.register(registering).await.unwrap().incarnation;
    let refused = forsake(&two.metadata, of).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("broker 1 is back, as epoch {}", back.epoch)), "{refused}");
    assert!(two.metadata.image().life(of).is_some());
    two.metadata.fence(back).await.unwrap();
    forsake(&two.metadata, of).await.unwrap();
    assert!(two.metadata.image().life(of).is_none());
}
