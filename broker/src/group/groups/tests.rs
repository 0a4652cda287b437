//! Coordinators over a log in memory that can be held back, cut off and reopened.

mod durable;
mod load;
pub(crate) mod memory;
mod removal;
mod rewrite;

use std::time::Duration;

use bytes::Bytes;
use memory::{Memory, World};
use uuid::Uuid;

use super::*;
use crate::group::records::{CommittedOffset, GroupMetadata, Key};
use crate::group::state::{Joined, Protocol, State};

fn options() -> Options {
    Options { load_wait_max: Duration::from_secs(1), ..Options::default() }
}

fn groups(world: &Arc<World>) -> Groups {
    Groups::new(options(), Arc::new(Memory(world.clone())))
}

fn group() -> Arc<str> {
    Arc::from("g")
}

fn join_request(member_id: &str) -> JoinRequest {
    JoinRequest {
        member_id: Arc::from(member_id),
        instance_id: None,
        client_id: Arc::from("c"),
        client_host: Arc::from("/127.0.0.1"),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        protocol_type: Arc::from("consumer"),
        protocols: vec![Protocol { name: Arc::from("range"), metadata: Bytes::from_static(b"topics") }],
        requires_known_member_id: false,
        supports_skipping_assignment: true,
        fresh: Uuid::new_v4(),
    }
}

fn sync_request(joined: &Joined, assignment: &'static [u8]) -> SyncRequest {
    SyncRequest {
        member_id: joined.member_id.clone(),
        instance_id: None,
        generation: joined.generation,
        protocol_type: None,
        protocol: None,
        assignments: vec![(joined.member_id.clone(), Bytes::from_static(assignment))],
    }
}

fn commit_request(offset: i64, topic_id: Uuid) -> CommitRequest {
    let committed = CommittedOffset {
        offset,
        leader_epoch: 7,
        metadata: Arc::from("note"),
        committed_at_ms: 1,
        expires_at_ms: None,
        topic_id: Some(topic_id),
    };
    CommitRequest {
        member_id: Arc::from(""),
        instance_id: None,
        generation: -1,
        knows_group_id_not_found: true,
        offsets: vec![((Arc::from("t"), 0), committed)],
    }
}

async fn committed(groups: &Groups) -> Option<CommittedOffset> {
    let fetched = groups.fetch(group(), Some(vec![(Arc::from("t"), 0)])).await.unwrap();
    fetched[0].1.clone()
}

#[test]
fn a_group_is_in_the_partition_that_kafka_puts_it_in() {
    // Java: "abc".hashCode() == 96354, "polygenelubricants".hashCode() == Integer.MIN_VALUE,
    // "consumer-group-π".hashCode() by the same recurrence over UTF-16.
    assert_eq!(partition_of("abc", 50), 96354 % 50);
    assert_eq!(partition_of("polygenelubricants", 50), 0);
    assert_eq!(partition_of("", 50), 0);
    assert_eq!(partition_of("\u{1F600}", 1 << 20), (0xd83d * 31 + 0xde00) % (1 << 20));
}

#[tokio::test(start_paused = true)]
async fn sessions_end_without_anybody_asking() {
    let world = World::new();
    let groups = groups(&world);
    let joined = groups.join(group(), join_request("")).await.unwrap();
    groups.sync(group(), sync_request(&joined, b"mine")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    world.appended(2).await;
    let described = groups.describe(group()).await.unwrap().unwrap();
    assert_eq!(described.state, State::Empty);
    let beat = groups.heartbeat(group(), joined.member_id, None, joined.generation).await;
    assert_eq!(beat, Err(ResponseError::UnknownMemberId));
}

#[tokio::test(start_paused = true)]
async fn a_deposed_coordinator_does_not_speak_of_offsets() {
    let world = World::new();
    let groups = groups(&world);
    groups.commit(group(), commit_request(5, world.topic("t"))).await.unwrap();
    world.set_fresh(false);
    assert_eq!(groups.fetch(group(), None).await, Err(NoAnswer::NotCoordinator));
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_and_given_back() {
    let world = World::new();
    let tight = Options { state_bytes_max: 4_000, ..options() };
    let groups = Groups::new(tight, Arc::new(Memory(world.clone())));
    let mut refused = 0;
    for partition in 0..40 {
        let mut request = commit_request(1, world.topic("t"));
        request.offsets[0].0.1 = partition;
        match groups.commit(group(), request).await {
            Ok(()) => assert!(partition < 35),
            Err(error) => {
                assert_eq!(error, ResponseError::InvalidCommitOffsetSize);
                refused += 1;
            }
        }
    }
    assert!(refused > 5);
    let full = groups.join(Arc::from("other"), join_request("")).await;
    assert_eq!(full.unwrap_err().error, ResponseError::GroupMaxSizeReached);
    assert!(groups.budget.used_bytes() <= 4_000);
    groups.shutdown().await;
    assert_eq!(groups.budget.used_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_instead_of_growing() {
    let world = World::new();
    let tight = Options { queued_bytes_max: 2_000, appends_in_flight_max: 1, ..options() };
    let groups = Arc::new(Groups::new(tight, Arc::new(Memory(world.clone()))));
    groups.commit(group(), commit_request(0, world.topic("t"))).await.unwrap();
    world.hold(true);
    let mut commits = tokio::task::JoinSet::new();
    for offset in 0..100 {
        let (groups, request) = (groups.clone(), commit_request(offset, world.topic("t")));
        commits.spawn(async move { groups.commit(group(), request).await });
    }
    let refused = tokio::time::timeout(Duration::from_secs(60), commits.join_next()).await;
    let refused = refused.expect("nobody is refused").unwrap().unwrap();
    assert_eq!(refused, Err(ResponseError::CoordinatorNotAvailable));
    assert_eq!(
        groups.describe(group()).await.unwrap().unwrap().state,
        State::Empty,
        "reads are served meanwhile"
    );
    world.hold(false);
    let results = commits.join_all().await;
    assert!(results.iter().any(Result::is_ok) && results.iter().any(Result::is_err));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_fails_alone() {
    let world = World::new();
    let groups = groups(&world);
    let mut request = commit_request(5, world.topic("t"));
    request.offsets[0].0.0 = Arc::from("t".repeat(40_000));
    assert_eq!(groups.commit(group(), request).await, Err(ResponseError::InvalidCommitOffsetSize));
    groups.commit(group(), commit_request(6, world.topic("t"))).await.unwrap();
    assert_eq!(committed(&groups).await.unwrap().offset, 6);
}

#[tokio::test(start_paused = true)]
async fn shutdown_answers_those_who_wait() {
    let world = World::new();
    let groups = groups(&world);
    let join = groups.join(group(), join_request(""));
    tokio::pin!(join);
    tokio::select! {
        _ = &mut join => panic!("the initial delay is 3 s"),
        () = tokio::time::sleep(Duration::from_secs(1)) => {}
    }
    groups.shutdown().await;
    assert_eq!(join.await.unwrap_err().error, ResponseError::NotCoordinator);
}
