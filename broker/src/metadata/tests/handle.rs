//! The handle over a real log, in memory.

use std::time::Duration;

use faults::{Fault, FaultStore, Operation, Rule};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use s3stream::StreamMetadata;
use s3stream::metadata::Error as StreamError;
use wal::AckRight;

use super::*;
use crate::metadata::{CreateTopicError, Error, Metadata, Options, Registering, TopicRejection, TopicSpec};

async fn open<S: ObjectStore>(store: &Arc<S>) -> Arc<Metadata> {
    let store: Arc<dyn ObjectStore> = store.clone();
    Metadata::open(store, Options::default()).await.unwrap()
}

async fn registered(metadata: &Metadata) -> Registered {
    registered_as(metadata, 1).await
}

async fn registered_as(metadata: &Metadata, id: u32) -> Registered {
    let listener = Listener { host: "localhost".into(), port: 9092 };
    metadata
        .register(Registering {
            id,
            wal: &wal::Uri("memory:1".to_owned()),
            listener,
            rack: None,
            machine: "machine",
            replaces: metadata.image().last_registration(id),
            claim: None,
        })
        .await
        .unwrap()
}

async fn serving<S: ObjectStore>(store: &Arc<S>) -> Arc<Metadata> {
    let metadata = open(store).await;
    registered(&metadata).await;
    metadata.open_leaderships().await.unwrap();
    metadata
}

/// One that serves, with its right to acknowledge.
async fn leased<S: ObjectStore>(store: &Arc<S>) -> (Arc<Metadata>, Arc<AckRight>) {
    let (metadata, right) = (serving(store).await, Arc::new(AckRight::leased()));
    metadata.keep_lease(right.clone()).unwrap();
    right.granted().await.unwrap();
    (metadata, right)
}

fn spec(name: &str) -> TopicSpec {
    TopicSpec { name: name.into(), partitions: 1, configs: Vec::new(), leaders: Vec::new() }
}

#[tokio::test(start_paused = true)]
async fn racing_openers_agree_on_the_cluster_and_it_outlives_them() {
    let store = Arc::new(InMemory::new());
    let (one, two) = tokio::join!(open(&store), open(&store));
    assert_eq!(one.cluster_id(), two.cluster_id());
    assert_eq!(one.cluster_id().len(), 22);
    one.close(false).await.unwrap();
    two.close(false).await.unwrap();
    assert_eq!(open(&store).await.cluster_id(), one.cluster_id());
}

#[tokio::test(start_paused = true)]
async fn topics_survive_a_restart_and_lead_again_after_a_clean_close() {
    let store = Arc::new(InMemory::new());
    let metadata = serving(&store).await;
    let topic = metadata.create_topics(vec![spec("t")]).await.remove(0).unwrap();
    metadata.close(true).await.unwrap();
    metadata.close(true).await.unwrap();
    let again = open(&store).await;
    assert_eq!(registered(&again).await.previous, [], "a clean close leaves nothing to recover");
    again.open_leaderships().await.unwrap();
    let image = again.image();
    let known = image.topic_named("t").unwrap();
    assert_eq!((known.id, known.partitions[0].leader_epoch), (topic.id, 1));
    assert_eq!(again.stream(topic.partitions[0].log).unwrap().owner, again.incarnation());
}

#[tokio::test(start_paused = true)]
async fn many_topics_are_created_in_order_though_in_several_commands() {
    let metadata = serving(&Arc::new(InMemory::new())).await;
    let configs = vec![("retention.ms".into(), "5".repeat(8_000).into())];
    let mut specs: Vec<_> =
        (0..100).map(|n| TopicSpec { configs: configs.clone(), ..spec(&format!("t{n}")) }).collect();
    specs[50].name = "t49".into();
    let results = metadata.create_topics(specs).await;
    for (n, result) in results.iter().enumerate() {
        match result {
            Ok(topic) => assert_eq!(topic.name.as_ref(), format!("t{n}")),
            Err(CreateTopicError::Rejected(TopicRejection::Exists(_))) => assert_eq!(n, 50),
            Err(other) => panic!("{other}"),
        }
    }
    let image = metadata.image();
    let ids: Vec<_> = image.topics().map(|topic| topic.id).collect();
    assert_eq!(ids.len(), 99);
    assert_eq!(metadata.delete_topics(ids).await.unwrap(), [true; 99]);
    assert_eq!(metadata.image().partition_count(), 0);
    assert_eq!(image.partition_count(), 99, "an image never changes");
}

#[tokio::test(start_paused = true)]
async fn an_internal_topic_is_created_once() {
    let metadata = serving(&Arc::new(InMemory::new())).await;
    let ensure = || metadata.ensure_internal_topic("__consumer_offsets", 50);
    let (one, two) = tokio::join!(ensure(), ensure());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.id, two.id);
    assert_eq!(one.partitions.len(), 50);
    assert_eq!(one.config("cleanup.policy").map(AsRef::as_ref), Some("compact"));
    let broker = crate::config::BrokerConfig::default();
    crate::config::validate_topic_internal(&one.configs, &broker).unwrap();
}

#[tokio::test(start_paused = true)]
async fn behaviour_45_producer_ids_are_never_given_out_twice() {
    let store = Arc::new(InMemory::new());
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let metadata = serving(&store).await;
        let before = metadata.image().number();
        let ids = futures::future::join_all((0..700).map(|_| metadata.next_producer_id())).await;
        for id in ids {
            assert!(seen.insert(id.unwrap()));
        }
        metadata.next_producer_id().await.unwrap();
        assert_eq!(
            metadata.image().number(),
            before + 1,
            "a block costs one entry, however many wait for it"
        );
        metadata.close(true).await.unwrap();
    }
    assert_eq!(seen.len(), 2100);
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_incarnation_left_is_recovered_before_it_is_led() {
    let store = Arc::new(InMemory::new());
    let old = serving(&store).await;
    let dead = old.incarnation().unwrap();
    let stream = old.create_topics(vec![spec("t")]).await.remove(0).unwrap().partitions[0].log;
    old.commit(commit(dead, 4, &[data(dead, 0, &[part(stream, 0, 3)])])).await.unwrap();

    let new = open(&store).await;
    let registered = registered(&new).await;
    let by = registered.incarnation;
    assert_eq!((registered.previous[0].incarnation, registered.previous[0].trim), (dead, Position(4)));
    assert_eq!(registered.previous[0].lease, Duration::from_secs(3));
    new.open_leaderships().await.unwrap();
    assert_eq!(new.stream(stream).unwrap().owner, Some(dead));
    let rest = commit(dead, 6, &[slot(dead, 5, &[part(stream, 3, 8)])]);
    let stale = new.commit_recovered(by, dead, Position(3), rest.clone(), true).await;
    assert!(matches!(stale, Err(StreamError::Conflict(_))));
    new.commit_recovered(by, dead, Position(4), rest, true).await.unwrap();
    let view = new.stream(stream).unwrap();
    assert_eq!((view.committed_end, view.owner), (8, Some(by)));
    assert_eq!(new.locate(stream, 4, 9)[0].object, ObjectId::Slot { owner: dead, slot: 5 });

    let zombie = old.commit(commit(dead, 6, &[data(dead, 1, &[part(stream, 3, 4)])])).await;
    assert!(matches!(zombie, Err(StreamError::Fenced(_))), "M2");
    let trim = new.trim(by, vec![(stream, 99)]).await;
    assert!(matches!(trim, Err(StreamError::Rejected(_))));
    new.trim(by, vec![(stream, 5)]).await.unwrap();
    assert_eq!(new.stream(stream).unwrap().start, 5);
}

#[tokio::test(start_paused = true)]
async fn the_right_is_renewed_by_polls_and_revoked_by_a_fence() {
    let store = Arc::new(InMemory::new());
    let old = serving(&store).await;
    let right = Arc::new(AckRight::leased());
    assert!(!right.holds());
    old.keep_lease(right.clone()).unwrap();
    right.granted().await.unwrap();
    let first = format!("{right:?}");
    until("a second renewal", || format!("{right:?}") != first).await;

    let new = open(&store).await;
    registered(&new).await;
    // The old broker is idle: it learns of it by its next poll.
    assert!(matches!(old.failed().await, Error::Fenced(_)));
    until("the revocation", || right.revoked().is_some()).await;
    assert!(!right.holds());
    assert!(right.granted().await.unwrap_err().contains("was fenced"));
}

/// N4: who lives answers, and its right is renewed as before.
#[tokio::test(start_paused = true)]
async fn a_challenge_is_answered() {
    let store = Arc::new(InMemory::new());
    let ((one, right), other) = (leased(&store).await, open(&store).await);
    registered_as(&other, 2).await;
    other.challenge(one.incarnation().unwrap()).await.unwrap();
    assert!(is_challenged(&other, &one));
    let mut answered = false;
    for _ in 0..100 {
        answered = answered || {
            other.refresh().await.unwrap();
            !is_challenged(&other, &one)
        };
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(answered);
    let renewed = format!("{right:?}");
    until("a renewal behind the answer", || format!("{right:?}") != renewed).await;
}

/// N4, and B1: from the challenge on no read renews anything, be it of a log without a fence.
#[tokio::test(start_paused = true)]
async fn while_a_challenge_stands_nothing_is_renewed() {
    let store = Arc::new(FaultStore::in_memory(1));
    let ((one, right), other) = (leased(&store).await, open(&store).await);
    registered_as(&other, 2).await;
    other.challenge(one.incarnation().unwrap()).await.unwrap();
    store.add(Rule::new(Operation::Put, Fault::Refuse));
    until("a view with the challenge", || is_challenged(&one, &one)).await;
    let last = format!("{right:?}");
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        one.refresh().await.unwrap();
        assert_eq!(format!("{right:?}"), last, "it reads, and nobody has fenced it");
    }
    store.heal();
    until("an answer, and a renewal", || format!("{right:?}") != last).await;
    assert!(!is_challenged(&one, &one));
}

fn is_challenged(by: &Metadata, of: &Metadata) -> bool {
    by.image().life(of.incarnation().unwrap()).unwrap().challenged.is_some()
}

/// Waits for something that a task is to bring about; the clock is paused, so a minute costs nothing.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("waited in vain for {what}");
}

#[tokio::test(start_paused = true)]
async fn the_right_is_revoked_when_the_replica_ends() {
    let (metadata, right) = leased(&Arc::new(InMemory::new())).await;
    metadata.replica.close().await;
    until("the revocation", || right.revoked().is_some()).await;
    assert!(matches!(metadata.failed().await, Error::Failed(_)));
    assert!(matches!(metadata.open_leaderships().await, Err(Error::Failed(_))));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_issued_before_a_registration() {
    let metadata = open(&Arc::new(InMemory::new())).await;
    assert!(matches!(metadata.open_leaderships().await, Err(Error::Refused(_))));
    assert!(metadata.create_topics(vec![spec("t")]).await[0].is_err());
    assert!(metadata.next_producer_id().await.is_err());
    assert!(metadata.keep_lease(Arc::new(AckRight::leased())).is_err());
}

#[test]
fn options_that_cannot_work_are_refused() {
    let defaults = Options::default();
    defaults.validate().unwrap();
    assert!(Options { lease: Duration::from_secs(1), ..defaults.clone() }.validate().is_err());
    assert!(Options { lease: Duration::from_secs(1 << 40), ..defaults.clone() }.validate().is_err());
    assert!(Options { producer_id_block: 0, ..defaults }.validate().is_err());
}

/// Tries again, as the storage engine does, until the commit is accepted. Returns how often it had to.
async fn commit_until_accepted(metadata: &Metadata, commit: s3stream::metadata::Commit) -> usize {
    for tries in 0..1_000 {
        match metadata.commit(commit.clone()).await {
            Ok(()) => return tries,
            Err(StreamError::Unavailable(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the commit was never accepted");
}

/// F22, F23, F36: whatever the store does to requests and replies, each commit takes effect once, in order.
#[tokio::test(start_paused = true)]
async fn a_store_that_loses_refuses_and_lies_neither_loses_nor_doubles_a_commit() {
    for seed in 0..20 {
        let store = Arc::new(FaultStore::in_memory(seed));
        let metadata = serving(&store).await;
        let by = metadata.incarnation().unwrap();
        let stream = metadata.create_topics(vec![spec("t")]).await.remove(0).unwrap().partitions[0].log;
        for fault in [Fault::LoseReply, Fault::HiddenRetry, Fault::Refuse, Fault::Conflict] {
            store.add(Rule::new(Operation::Put, fault).with_probability(0.2));
        }
        store.add(Rule::new(Operation::Get, Fault::Refuse).with_probability(0.3));
        for n in 0..15 {
            let object = data(by, n, &[part(stream, 3 * n, 3 * n + 3)]);
            commit_until_accepted(&metadata, commit(by, n + 1, &[object])).await;
        }
        store.heal();
        let located = open(&store).await.locate(stream, 0, 99);
        let ranges: Vec<_> = located.iter().map(|located| (located.part.base, located.part.end)).collect();
        assert_eq!(ranges, (0..15).map(|n| (3 * n, 3 * n + 3)).collect::<Vec<_>>(), "seed {seed}");
    }
}

/// F36: the first try took effect, but its outcome could not be learned in time.
#[tokio::test(start_paused = true)]
async fn a_commit_of_unknown_outcome_is_tried_again_without_harm() {
    let store = Arc::new(FaultStore::in_memory(1));
    let metadata = serving(&store).await;
    let by = metadata.incarnation().unwrap();
    let stream = metadata.create_topics(vec![spec("t")]).await.remove(0).unwrap().partitions[0].log;
    let first = commit(by, 1, &[data(by, 0, &[part(stream, 0, 5)])]);
    // Written, the reply lost; and nobody can read it back for longer than an operation may take.
    store.add(Rule::new(Operation::Put, Fault::LoseReply).under("meta/log").times(1));
    store.add(Rule::new(Operation::Put, Fault::Refuse));
    store.add(Rule::new(Operation::Get, Fault::Refuse));
    assert!(matches!(metadata.commit(first.clone()).await, Err(StreamError::Unavailable(_))));
    store.heal();
    metadata.refresh().await.unwrap();
    assert_eq!(metadata.stream(stream).unwrap().committed_end, 5, "it had taken effect");
    assert_eq!(commit_until_accepted(&metadata, first).await, 0);
    assert_eq!(metadata.locate(stream, 0, 9).len(), 1);
}

/// What rides with a commit must not keep it back, if there is room for the commit alone.
#[tokio::test]
async fn a_commit_that_leaves_no_room_for_what_rides_with_it_goes_alone() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let defaults = Options::default();
    let log = metalog::Config { entry_bytes_max: 8 << 10, queue_bytes_max: 8 << 10, ..defaults.log.clone() };
    let metadata = Metadata::open(store, Options { log, ..defaults }).await.unwrap();
    registered(&metadata).await;
    metadata.open_leaderships().await.unwrap();
    let by = metadata.incarnation().unwrap();
    let topic =
        metadata.create_topics(vec![TopicSpec { partitions: 400, ..spec("t") }]).await.remove(0).unwrap();
    let streams = || topic.partitions.iter().map(|partition| partition.log);
    let whole = (1..400)
        .map(|count| {
            let parts: Vec<_> = streams().take(count).map(|stream| part(stream, 0, 5)).collect();
            commit(by, 1, &[data(by, 0, &parts)])
        })
        .take_while(|commit| Command::CommitObjects { commit: commit.clone() }.encode().len() < 7 << 10)
        .last()
        .unwrap();
    let first = streams().next().unwrap();
    let moves: Vec<Handed> = (0..100)
        .map(|partition| Handed {
            topic: topic.id,
            partition,
            to: 2,
            log_end: 5,
            checkpoint_end: 0,
            leader_epoch: None,
            note: None,
        })
        .collect();
    let (early, _told) = tokio::sync::oneshot::channel();
    let riding = metadata.ride(moves, vec![(first, 5)], early);
    metadata.commit(whole).await.unwrap();
    assert_eq!(metadata.stream(first).unwrap().committed_end, 5);
    let outcome = metadata.alight(riding).await.expect("it was on board");
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
    metadata.close(false).await.unwrap();
}
