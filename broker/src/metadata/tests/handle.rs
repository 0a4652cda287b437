//! The handle over a real log, in memory.

use std::time::Duration;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use s3stream::StreamMetadata;
use s3stream::metadata::Error as StreamError;
use wal::AckRight;

use super::*;
use crate::metadata::{CreateTopicError, Error, Metadata, Options, TopicRejection, TopicSpec};

async fn open(store: &Arc<InMemory>) -> Arc<Metadata> {
    let store: Arc<dyn ObjectStore> = store.clone();
    Metadata::open(store, Options::default()).await.unwrap()
}

async fn registered(metadata: &Metadata) -> Registered {
    let listener = Listener { host: "localhost".into(), port: 9092 };
    metadata.register(1, &wal::Uri("memory:1".to_owned()), listener, None).await.unwrap()
}

async fn serving(store: &Arc<InMemory>) -> Arc<Metadata> {
    let metadata = open(store).await;
    registered(&metadata).await;
    metadata.open_leaderships().await.unwrap();
    metadata
}

fn spec(name: &str) -> TopicSpec {
    TopicSpec { name: name.into(), partitions: 1, configs: Vec::new() }
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
        let ids = futures::future::join_all((0..700).map(|_| metadata.next_producer_id())).await;
        for id in ids {
            assert!(seen.insert(id.unwrap()));
        }
        let before = metadata.changed().borrow().to_owned();
        metadata.next_producer_id().await.unwrap();
        assert_eq!(*metadata.changed().borrow(), before, "most ids cost no entry");
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
    assert_eq!(registered.previous[0].lease, Duration::from_secs(10));
    assert!(matches!(new.open_leaderships().await, Err(Error::Conflict(_))));
    let rest = commit(dead, 6, &[slot(dead, 5, &[part(stream, 3, 8)])]);
    let stale = new.commit_recovered(by, dead, Position(3), rest.clone(), true).await;
    assert!(matches!(stale, Err(StreamError::Conflict(_))));
    new.commit_recovered(by, dead, Position(4), rest, true).await.unwrap();
    new.open_leaderships().await.unwrap();
    assert_eq!(new.stream(stream).unwrap().committed_end, 8);
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
    let first = right_end(&right).await;
    while right_end(&right).await == first {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let new = open(&store).await;
    registered(&new).await;
    // The old broker is idle: it learns of it by its next poll.
    assert!(matches!(old.failed().await, Error::Fenced(_)));
    while right.revoked().is_none() {
        tokio::task::yield_now().await;
    }
    assert!(!right.holds());
    assert!(right.granted().await.unwrap_err().contains("fenced by a later registration"));
}

/// What the right was last renewed to, by its debug form: nothing else tells.
async fn right_end(right: &AckRight) -> String {
    tokio::task::yield_now().await;
    format!("{right:?}")
}

#[tokio::test(start_paused = true)]
async fn the_right_is_revoked_when_the_replica_ends() {
    let metadata = serving(&Arc::new(InMemory::new())).await;
    let right = Arc::new(AckRight::leased());
    metadata.keep_lease(right.clone()).unwrap();
    right.granted().await.unwrap();
    metadata.replica.close().await;
    while right.revoked().is_none() {
        tokio::task::yield_now().await;
    }
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
