//! Coordinators over a log in memory that can be held back, cut off and reopened.

pub(crate) mod memory;

use std::time::Duration;

use bytes::Bytes;
use memory::{Memory, World};
use uuid::Uuid;

use super::*;
use crate::group::records::{CommittedOffset, GroupMetadata, Key, MemberMetadata};
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
async fn behaviour_93_a_commit_is_answered_only_once_durable() {
    let world = World::new();
    let groups = groups(&world);
    world.hold(true);
    let commit = groups.commit(group(), commit_request(5, world.topic("t")));
    tokio::pin!(commit);
    tokio::select! {
        _ = &mut commit => panic!("answered before it is durable"),
        () = world.appended(1) => {}
    }
    assert_eq!(committed(&groups).await, None, "nor is it visible");
    assert!(futures::poll!(&mut commit).is_pending());
    world.hold(false);
    assert_eq!(commit.await, Ok(()));
    assert_eq!(committed(&groups).await.unwrap().offset, 5);
}

#[tokio::test(start_paused = true)]
async fn behaviour_94_101_offsets_epochs_and_metadata_survive_a_restart() {
    let world = World::new();
    groups(&world).commit(group(), commit_request(5, world.topic("t"))).await.unwrap();
    groups(&world).commit(group(), commit_request(6, world.topic("t"))).await.unwrap();
    let after = committed(&groups(&world)).await.unwrap();
    assert_eq!((after.offset, after.leader_epoch, &*after.metadata), (6, 7, "note"));
}

#[tokio::test(start_paused = true)]
async fn behaviour_101_members_and_assignments_survive_a_restart_without_a_rebalance() {
    let world = World::new();
    let before = groups(&world);
    let joined = before.join(group(), join_request("")).await.unwrap();
    before.sync(group(), sync_request(&joined, b"mine")).await.unwrap();
    before.shutdown().await;
    let after = groups(&world);
    let beat = after.heartbeat(group(), joined.member_id.clone(), None, joined.generation).await;
    assert_eq!(beat, Ok(()));
    let synced = after.sync(group(), sync_request(&joined, b"other")).await.unwrap();
    assert_eq!(synced.assignment, Bytes::from_static(b"mine"));
    let described = after.describe(group()).await.unwrap().unwrap();
    assert_eq!((described.state, described.members.len()), (State::Stable, 1));
}

#[tokio::test(start_paused = true)]
async fn behaviour_101_an_assignment_waits_for_the_log() {
    let world = World::new();
    let groups = groups(&world);
    let joined = groups.join(group(), join_request("")).await.unwrap();
    world.hold(true);
    let sync = groups.sync(group(), sync_request(&joined, b"mine"));
    tokio::pin!(sync);
    tokio::select! {
        _ = &mut sync => panic!("released before it is durable"),
        () = world.appended(1) => {}
    }
    groups.describe(group()).await.unwrap();
    assert!(futures::poll!(&mut sync).is_pending());
    world.hold(false);
    assert_eq!(sync.await.unwrap().assignment, Bytes::from_static(b"mine"));
}

#[tokio::test(start_paused = true)]
async fn behaviour_91_a_leave_that_empties_the_group_is_answered_once_durable() {
    let world = World::new();
    let groups = groups(&world);
    let joined = groups.join(group(), join_request("")).await.unwrap();
    groups.sync(group(), sync_request(&joined, b"mine")).await.unwrap();
    world.hold(true);
    let leaving = vec![Leaving { member_id: joined.member_id.clone(), instance_id: None }];
    let leave = groups.leave(group(), leaving);
    tokio::pin!(leave);
    tokio::select! {
        _ = &mut leave => panic!("answered before it is durable"),
        () = world.appended(2) => {}
    }
    groups.describe(group()).await.unwrap();
    assert!(futures::poll!(&mut leave).is_pending());
    world.hold(false);
    assert_eq!(leave.await, Ok(vec![Ok(())]));
    let described = self::groups(&world).describe(group()).await.unwrap().unwrap();
    assert_eq!(described.state, State::Empty);
}

#[tokio::test(start_paused = true)]
async fn commits_that_come_while_the_log_is_busy_share_a_batch() {
    let world = World::new();
    let groups = Arc::new(groups(&world));
    world.hold(true);
    let mut commits = tokio::task::JoinSet::new();
    for offset in 0..200 {
        let (groups, request) = (groups.clone(), commit_request(offset, world.topic("t")));
        commits.spawn(async move { groups.commit(group(), request).await });
    }
    world.appended(1).await;
    world.hold(false);
    for result in commits.join_all().await {
        assert_eq!(result, Ok(()));
    }
    assert!(world.batches() <= 8, "200 commits in {} batches", world.batches());
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
async fn a_failed_append_is_told_to_those_who_wait_and_the_next_request_starts_from_the_log() {
    let world = World::new();
    let groups = groups(&world);
    groups.commit(group(), commit_request(5, world.topic("t"))).await.unwrap();
    world.fail_appends(true);
    let failed = groups.commit(group(), commit_request(6, world.topic("t"))).await;
    assert_eq!(failed, Err(ResponseError::NotCoordinator));
    world.fail_appends(false);
    assert_eq!(committed(&groups).await.unwrap().offset, 5);
    groups.commit(group(), commit_request(7, world.topic("t"))).await.unwrap();
    assert_eq!(committed(&groups).await.unwrap().offset, 7);
}

#[tokio::test(start_paused = true)]
async fn while_it_loads_heartbeats_are_fine_syncs_start_over_and_others_are_told() {
    let world = World::new();
    groups(&world).commit(group(), commit_request(5, world.topic("t"))).await.unwrap();
    let groups = groups(&world);
    world.hold_reads(true);
    assert_eq!(groups.heartbeat(group(), Arc::from("m"), None, 1).await, Ok(()));
    assert_eq!(groups.fetch(group(), None).await, Err(NoAnswer::Loading));
    let joined = groups.join(group(), join_request("")).await;
    assert_eq!(joined.unwrap_err().error, ResponseError::CoordinatorLoadInProgress);
    let request = SyncRequest {
        member_id: Arc::from("m"),
        instance_id: None,
        generation: 1,
        protocol_type: None,
        protocol: None,
        assignments: Vec::new(),
    };
    assert_eq!(groups.sync(group(), request).await, Err(ResponseError::RebalanceInProgress));
    world.hold_reads(false);
    assert_eq!(committed(&groups).await.unwrap().offset, 5);
}

#[tokio::test(start_paused = true)]
async fn partitions_that_load_do_not_hold_up_others() {
    let world = World::new();
    let other: Arc<str> = Arc::from("other");
    let before = groups(&world);
    for group in [group(), other.clone()] {
        before.commit(group, commit_request(5, world.topic("t"))).await.unwrap();
    }
    before.shutdown().await;
    let partition = partition_of("g", 50);
    assert_ne!(partition_of("other", 50), partition);
    let groups = groups(&world);
    world.hold_reads_of(Some(partition));
    let began = Instant::now();
    let mine = groups.fetch(group(), None);
    tokio::pin!(mine);
    assert!(futures::poll!(&mut mine).is_pending());
    assert_eq!(groups.fetch(other, None).await.unwrap().len(), 1);
    assert_eq!(began.elapsed(), Duration::ZERO, "the other one did not wait");
    assert_eq!(groups.list().await, Err(NoAnswer::Loading));
    assert_eq!(began.elapsed(), options().load_wait_max, "one time-out for all partitions");
    assert_eq!(mine.await, Err(NoAnswer::Loading));
    world.hold_reads_of(None);
    assert_eq!(groups.list().await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_long_log_is_replayed_chunk_by_chunk() {
    let world = World::new();
    let before = groups(&world);
    for offset in 0..100 {
        before.commit(group(), commit_request(offset, world.topic("t"))).await.unwrap();
    }
    let small = Options { load_chunk_bytes: 300, ..options() };
    let after = Groups::new(small, Arc::new(Memory(world.clone())));
    assert_eq!(committed(&after).await.unwrap().offset, 99);
    assert!(world.reads() > 20);
}

#[tokio::test(start_paused = true)]
async fn behaviour_97_deleting_a_topic_deletes_its_offsets() {
    let world = World::new();
    let groups = groups(&world);
    groups.commit(group(), commit_request(5, world.topic("t"))).await.unwrap();
    world.delete_topic("t");
    assert_eq!(committed(&groups).await, None, "at once");
    world.appended(2).await;
    let recreated = world.topic("t");
    assert_eq!(
        committed(&self::groups(&world)).await,
        None,
        "a new topic of the name begins without offsets"
    );
    groups.commit(group(), commit_request(1, recreated)).await.unwrap();
    assert_eq!(committed(&self::groups(&world)).await.unwrap().offset, 1);
}

#[tokio::test(start_paused = true)]
async fn behaviour_97_a_topic_made_again_while_nobody_looked_begins_without_offsets() {
    let world = World::new();
    let before = groups(&world);
    before.commit(group(), commit_request(5, world.topic("t"))).await.unwrap();
    before.shutdown().await;
    world.delete_topic("t");
    world.topic("t");
    assert_eq!(committed(&groups(&world)).await, None);
    world.appended(2).await;
}

#[tokio::test(start_paused = true)]
async fn behaviour_97_the_tombstone_of_the_old_topic_does_not_bury_a_commit_for_the_new_one() {
    let world = World::new();
    let groups = groups(&world);
    groups.commit(group(), commit_request(5, world.topic("t"))).await.unwrap();
    world.hold(true);
    world.delete_topic_silently("t");
    let recreated = world.topic_silently("t");
    let commit = groups.commit(group(), commit_request(1, recreated));
    tokio::pin!(commit);
    tokio::select! {
        _ = &mut commit => panic!("held"),
        () = world.appended(2) => {}
    }
    world.notify_topics();
    // The coordinator takes what is ready in random order; by the last of these it has seen the change.
    for _ in 0..64 {
        assert_eq!(committed(&groups).await, None);
    }
    world.hold(false);
    assert_eq!(commit.await, Ok(()));
    groups.shutdown().await;
    assert_eq!(committed(&self::groups(&world)).await.unwrap().offset, 1);
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
async fn behaviour_99_listing_loads_what_is_not_loaded_and_skips_what_is_empty() {
    let world = World::new();
    let before = groups(&world);
    before.commit(Arc::from("simple"), commit_request(5, world.topic("t"))).await.unwrap();
    let joined = before.join(group(), join_request("")).await.unwrap();
    before.sync(group(), sync_request(&joined, b"mine")).await.unwrap();
    before.shutdown().await;
    let after = groups(&world);
    let mut listed = after.list().await.unwrap();
    listed.sort_by(|a, b| a.group.cmp(&b.group));
    let shown: Vec<_> =
        listed.iter().map(|listed| (&*listed.group, &*listed.protocol_type, listed.state.name())).collect();
    assert_eq!(shown, [("g", "consumer", "Stable"), ("simple", "", "Empty")]);
    assert_eq!(after.coordinators.lock().len(), 2, "no actor for an empty partition");
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
async fn unknown_and_damaged_records_do_not_stop_the_replay() {
    let world = World::new();
    groups(&world).commit(group(), commit_request(5, world.topic("t"))).await.unwrap();
    let partition = partition_of("g", 50);
    world.put(partition, &[(&[0, 3, 0, 1, b'g'], Some(b"newer kind of group"))]);
    world.put(partition, &[(&[0, 1, 0], Some(b"")), (b"", None)]);
    let future_value = Key::Group { group: group() }.encode().unwrap();
    world.put(partition, &[(&future_value, Some(&[0, 9, 1, 2, 3]))]);
    world.put_raw(partition, Bytes::from_static(&[1; 80]));
    assert_eq!(committed(&groups(&world)).await.unwrap().offset, 5);
}

/// What another writer of the topic may have put there.
#[tokio::test(start_paused = true)]
async fn a_membership_that_is_no_group_is_passed_over_and_the_rest_is_loaded() {
    let world = World::new();
    let before = groups(&world);
    let joined = before.join(group(), join_request("")).await.unwrap();
    before.sync(group(), sync_request(&joined, b"mine")).await.unwrap();
    before.commit(group(), commit_request(5, world.topic("t"))).await.unwrap_err();
    before.shutdown().await;
    let member = |id: &str, instance: Option<&str>| MemberMetadata {
        member_id: Arc::from(id),
        instance_id: instance.map(Arc::from),
        client_id: Arc::from("c"),
        client_host: Arc::from("/h"),
        rebalance_timeout_ms: i32::MAX,
        session_timeout_ms: 10_000,
        subscription: Bytes::new(),
        assignment: Bytes::new(),
    };
    let value = |generation, members: &[MemberMetadata]| GroupMetadata {
        protocol_type: Arc::from("consumer"),
        generation,
        protocol: Some(Arc::from("range")),
        leader: None,
        state_since_ms: i64::MIN,
        members: members.to_vec(),
    };
    let partition = partition_of("g", 50);
    let put = |id: &str, value: GroupMetadata| {
        let key = Key::Group { group: Arc::from(id) }.encode().unwrap();
        world.put(partition, &[(&key, Some(&value.encode().unwrap()))]);
    };
    put("g", value(9, &[member("a", None), member("b", None), member("a", None)]));
    put("g", value(9, &[member("a", Some("i")), member("b", Some("i"))]));
    let after = groups(&world);
    let beat = after.heartbeat(group(), joined.member_id.clone(), None, joined.generation).await;
    assert_eq!(beat, Ok(()), "the group is what the log said before");
    after.shutdown().await;
    // The last generation that the format can say.
    put("g", value(i32::MAX, &[member("a", None)]));
    let after = groups(&world);
    let joined = after.join(group(), join_request("a")).await.unwrap();
    assert_eq!((joined.generation, &*joined.member_id), (1, "a"));
    let synced = after.sync(group(), sync_request(&joined, b"mine")).await.unwrap();
    assert_eq!(synced.assignment, Bytes::from_static(b"mine"));
    assert_eq!(after.heartbeat(group(), joined.member_id, None, 1).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn tombstones_are_obeyed() {
    let world = World::new();
    let before = groups(&world);
    before.commit(group(), commit_request(5, world.topic("t"))).await.unwrap();
    let value = GroupMetadata {
        protocol_type: Arc::from("consumer"),
        generation: 3,
        protocol: None,
        leader: None,
        state_since_ms: 0,
        members: Vec::new(),
    };
    let partition = partition_of("g", 50);
    let key = Key::Group { group: group() }.encode().unwrap();
    world.put(partition, &[(&key, Some(&value.encode().unwrap()))]);
    assert_eq!(groups(&world).list().await.unwrap()[0].protocol_type.as_ref(), "consumer");
    let offset = Key::Offset { group: group(), topic: Arc::from("t"), partition: 0 }.encode().unwrap();
    world.put(partition, &[(&key, None), (&offset, None)]);
    assert_eq!(groups(&world).list().await.unwrap(), []);
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

#[tokio::test(start_paused = true)]
async fn behaviour_98_a_deleted_group_is_gone_for_good_once_that_is_durable() {
    let world = World::new();
    let groups = groups(&world);
    let joined = groups.join(group(), join_request("")).await.unwrap();
    groups.sync(group(), sync_request(&joined, b"mine")).await.unwrap();
    assert_eq!(groups.delete(group()).await, Err(ResponseError::NonEmptyGroup));
    let leaving = vec![Leaving { member_id: joined.member_id.clone(), instance_id: None }];
    groups.leave(group(), leaving).await.unwrap();
    groups.commit(group(), commit_request(5, world.topic("t"))).await.unwrap();
    world.hold(true);
    {
        let delete = groups.delete(group());
        tokio::pin!(delete);
        let before = world.batches();
        tokio::select! {
            _ = &mut delete => panic!("answered before it is durable"),
            () = world.appended(before + 1) => {}
        }
        assert_eq!(committed(&groups).await.unwrap().offset, 5, "nor is it visible");
        world.hold(false);
        assert_eq!(delete.await, Ok(()));
    }
    for groups in [groups, self::groups(&world)] {
        assert_eq!(committed(&groups).await, None);
        assert_eq!(groups.describe(group()).await.unwrap(), None);
        assert_eq!(groups.delete(group()).await, Err(ResponseError::GroupIdNotFound));
        groups.shutdown().await;
    }
}

/// What is answered stands behind its write in the queue, and may be looked at when the batch is on its way already.
#[tokio::test(start_paused = true)]
async fn an_answer_waits_for_what_is_in_front_of_it_though_it_writes_nothing_itself() {
    let world = World::new();
    let small = Options { batch_bytes_target: 62, ..options() };
    let groups = Groups::new(small, Arc::new(Memory(world.clone())));
    groups.commit(group(), commit_request(5, world.topic("t"))).await.unwrap();
    world.hold(true);
    let delete = groups.delete(group());
    tokio::pin!(delete);
    tokio::select! {
        _ = &mut delete => panic!("answered before it is durable"),
        () = world.appended(2) => {}
    }
    for _ in 0..64 {
        groups.describe(group()).await.unwrap();
    }
    assert!(futures::poll!(&mut delete).is_pending());
    world.hold(false);
    assert_eq!(delete.await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn behaviour_98_a_deletion_takes_the_commits_in_front_of_it_and_none_behind() {
    let world = World::new();
    let groups = groups(&world);
    let topic = world.topic("t");
    groups.commit(group(), commit_request(1, topic)).await.unwrap();
    world.hold(true);
    let in_front = groups.commit(group(), commit_request_at(3, 2, topic));
    let delete = groups.delete(group());
    let behind = groups.commit(group(), commit_request_at(4, 3, topic));
    let (in_front, delete, behind, ()) = tokio::join!(in_front, delete, behind, async {
        let before = world.batches();
        world.appended(before).await;
        for _ in 0..64 {
            groups.describe(group()).await.unwrap();
        }
        world.hold(false);
    });
    assert_eq!((in_front, delete, behind), (Ok(()), Ok(()), Ok(())));
    for groups in [groups, self::groups(&world)] {
        let left = groups.fetch(group(), None).await.unwrap();
        assert_eq!(left.iter().map(|((_, at), _)| *at).collect::<Vec<_>>(), [4]);
        groups.shutdown().await;
    }
}

fn commit_request_at(partition: i32, offset: i64, topic_id: Uuid) -> CommitRequest {
    let mut request = commit_request(offset, topic_id);
    request.offsets[0].0.1 = partition;
    request
}

#[tokio::test(start_paused = true)]
async fn a_deletion_of_more_than_fits_an_append_takes_several() {
    let world = World::new();
    let small = Options { record_bytes_max: 1_000, ..options() };
    let groups = Groups::new(small, Arc::new(Memory(world.clone())));
    let topic = world.topic("t");
    for partition in 0..200 {
        groups.commit(group(), commit_request_at(partition, 1, topic)).await.unwrap();
    }
    let offsets = (0..150).map(|partition| (Arc::from("t"), partition)).collect();
    let deleted = groups.delete_offsets(group(), offsets).await.unwrap();
    assert!(deleted.len() == 150 && deleted.iter().all(|(_, result)| result.is_ok()));
    assert_eq!(groups.fetch(group(), None).await.unwrap().len(), 50);
    assert_eq!(groups.delete(group()).await, Ok(()));
    assert_eq!(self::groups(&world).describe(group()).await.unwrap(), None);
}

/// Retention of an hour, looked at every ten minutes. The wall clock does not stand still with the paused one, so
/// commits carry their times themselves.
fn retention(hours: u64) -> Options {
    let mut options = options();
    options.rules.offsets_retention = Duration::from_secs(hours * 3600);
    options
}

#[tokio::test(start_paused = true)]
async fn behaviour_96_offsets_expire_by_their_commit_and_the_group_goes_with_the_last() {
    let world = World::new();
    let groups = Groups::new(retention(1), Arc::new(Memory(world.clone())));
    let topic = world.topic("t");
    let wall_ms = crate::partition::wall_clock_ms();
    let mut old = commit_request_at(0, 1, topic);
    old.offsets[0].1.committed_at_ms = wall_ms - 3_600_000;
    let mut young = commit_request_at(1, 2, topic);
    young.offsets[0].1.committed_at_ms = wall_ms;
    groups.commit(group(), old.clone()).await.unwrap();
    groups.commit(group(), young).await.unwrap();
    tokio::time::sleep(Duration::from_secs(599)).await;
    assert_eq!(groups.fetch(group(), None).await.unwrap().len(), 2, "nobody has looked yet");
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.appended(3).await;
    let left = groups.fetch(group(), None).await.unwrap();
    assert_eq!(left.iter().map(|((_, at), _)| *at).collect::<Vec<_>>(), [1]);
    let lonely: Arc<str> = Arc::from("lonely");
    groups.commit(lonely.clone(), old).await.unwrap();
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert_eq!(groups.describe(lonely.clone()).await.unwrap(), None);
    assert_eq!(self::groups(&world).describe(lonely).await.unwrap(), None, "in the log, too");
}

#[tokio::test(start_paused = true)]
async fn behaviour_96_the_time_since_the_group_emptied_survives_a_restart() {
    let world = World::new();
    let key = Key::Group { group: group() }.encode().unwrap();
    let wall_ms = crate::partition::wall_clock_ms();
    let emptied = |since_ms| GroupMetadata {
        protocol_type: Arc::from("consumer"),
        generation: 3,
        protocol: None,
        leader: None,
        state_since_ms: since_ms,
        members: Vec::new(),
    };
    let partition = partition_of("g", 50);
    for (since_ms, stays) in [(wall_ms, true), (wall_ms - 3_600_000, false)] {
        // An old commit does not count: the group was in use until it emptied.
        let mut old = commit_request(5, world.topic("t"));
        old.offsets[0].1.committed_at_ms = wall_ms - 7_200_000;
        let before = groups(&world);
        before.commit(group(), old).await.unwrap();
        before.shutdown().await;
        world.put(partition, &[(&key, Some(&emptied(since_ms).encode().unwrap()))]);
        let after = Groups::new(retention(1), Arc::new(Memory(world.clone())));
        assert!(committed(&after).await.is_some(), "a restart gives consumers the time to come back");
        tokio::time::sleep(Duration::from_secs(601)).await;
        after.shutdown().await;
        assert_eq!(committed(&groups(&world)).await.is_some(), stays);
    }
}

/// Its consumers have an interval to come back, and the clock has one to be set right.
#[tokio::test(start_paused = true)]
async fn behaviour_96_what_is_loaded_long_after_the_start_is_looked_at_an_interval_later() {
    let world = World::new();
    let mut old = commit_request(5, world.topic("t"));
    old.offsets[0].1.committed_at_ms = crate::partition::wall_clock_ms() - 7_200_000;
    groups(&world).commit(group(), old).await.unwrap();
    let after = Groups::new(retention(1), Arc::new(Memory(world.clone())));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(committed(&after).await.unwrap().offset, 5);
    tokio::time::sleep(Duration::from_secs(599)).await;
    assert_eq!(committed(&after).await.unwrap().offset, 5);
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.appended(2).await;
    assert_eq!(after.describe(group()).await.unwrap(), None);
}

/// Commits of ten partitions at a time, and what a later start has to read.
async fn history(commits: i64) -> (usize, usize, usize) {
    let world = World::new();
    let small = Options { rewrite_log_bytes_min: 20_000, batch_bytes_target: 4_000, ..options() };
    let before = Groups::new(small, Arc::new(Memory(world.clone())));
    let topic = world.topic("t");
    let joined = before.join(Arc::from("members"), join_request("")).await.unwrap();
    before.sync(Arc::from("members"), sync_request(&joined, b"mine")).await.unwrap();
    for offset in 0..commits {
        let mut request = commit_request(offset, topic);
        for partition in 1..10 {
            let at = (Arc::from("t"), partition);
            let committed = request.offsets[0].1.clone();
            request.offsets.push((at, committed));
        }
        before.commit(group(), request).await.unwrap();
        tokio::task::yield_now().await;
    }
    before.shutdown().await;
    let bytes: usize = world.log(partition_of("g", 50)).batches.iter().map(|batch| batch.len()).sum();
    let read_before = world.batches_read();
    let after = groups(&world);
    let left = after.fetch(group(), None).await.unwrap();
    assert!(
        left.len() == 10 && left.iter().all(|(_, offset)| offset.as_ref().unwrap().offset == commits - 1)
    );
    (bytes, world.batches_read() - read_before, world.trims())
}

#[tokio::test(start_paused = true)]
async fn what_a_start_reads_does_not_grow_with_history() {
    let (short_bytes, short_batches, short_trims) = history(20).await;
    let (long_bytes, long_batches, long_trims) = history(2_000).await;
    assert_eq!(short_trims, 0);
    assert!(short_bytes > 10_000, "{short_bytes}");
    // Without trims it would be a hundred times as much. The floor, and what comes while a rewrite is on its way.
    assert!(long_bytes < 30_000, "{long_bytes} bytes are read after a hundred times the history");
    assert!(long_batches < 2 * short_batches, "{short_batches} batches, then {long_batches}");
    // Each rewrite pays for the floor's worth of history.
    assert!((10..=100).contains(&long_trims), "{long_trims} trims");
}

#[tokio::test(start_paused = true)]
async fn the_log_is_trimmed_only_once_it_is_uploaded_and_a_failed_trim_is_tried_again() {
    let world = World::new();
    let small = Options { rewrite_log_bytes_min: 5_000, ..options() };
    let groups = Groups::new(small, Arc::new(Memory(world.clone())));
    let topic = world.topic("t");
    world.upload(false);
    for offset in 0..200 {
        groups.commit(group(), commit_request(offset, topic)).await.unwrap();
    }
    let partition = partition_of("g", 50);
    assert_eq!((world.log(partition).start, world.trims()), (0, 0));
    world.fail_trims(true);
    world.upload(true);
    world.trimmed(1).await;
    groups.commit(group(), commit_request(200, topic)).await.unwrap();
    assert_eq!((world.log(partition).start, world.trims()), (0, 1), "not before something has changed");
    world.fail_trims(false);
    world.notify_topics();
    world.trimmed(2).await;
    assert!(world.log(partition).start > 0);
    assert_eq!(committed(&self::groups(&world)).await.unwrap().offset, 200);
}

#[tokio::test(start_paused = true)]
async fn a_log_with_records_that_are_not_understood_is_kept() {
    let world = World::new();
    let partition = partition_of("g", 50);
    world.put(partition, &[(&[0, 3, 0, 1, b'g'], Some(b"newer kind of group"))]);
    let small = Options { rewrite_log_bytes_min: 5_000, ..options() };
    let groups = Groups::new(small, Arc::new(Memory(world.clone())));
    let topic = world.topic("t");
    for offset in 0..200 {
        groups.commit(group(), commit_request(offset, topic)).await.unwrap();
    }
    groups.shutdown().await;
    assert_eq!((world.log(partition).start, world.trims()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_too_long_already_is_shortened_after_the_load() {
    let world = World::new();
    let before = groups(&world);
    for offset in 0..200 {
        before.commit(group(), commit_request(offset, world.topic("t"))).await.unwrap();
    }
    before.shutdown().await;
    let small = Options { rewrite_log_bytes_min: 5_000, ..options() };
    let groups = Groups::new(small, Arc::new(Memory(world.clone())));
    assert_eq!(committed(&groups).await.unwrap().offset, 199);
    world.trimmed(1).await;
    assert!(world.log(partition_of("g", 50)).batches.len() <= 2);
    assert_eq!(committed(&self::groups(&world)).await.unwrap().offset, 199);
}

/// A bound that was lowered, or counted otherwise, when the record was written.
#[tokio::test(start_paused = true)]
async fn a_log_is_shortened_although_a_record_in_it_is_a_little_larger_than_a_new_one_may_be() {
    let world = World::new();
    let before = groups(&world);
    let mut request = commit_request(1, world.topic("t"));
    request.offsets[0].1.metadata = "m".repeat(2_000).into();
    let key = Key::Offset { group: group(), topic: Arc::from("t"), partition: request.offsets[0].0.1 };
    let bare_bytes = key.encode().unwrap().len() + request.offsets[0].1.encode().unwrap().len();
    for _ in 0..10 {
        before.commit(group(), request.clone()).await.unwrap();
    }
    before.shutdown().await;
    let small = Options { rewrite_log_bytes_min: 5_000, record_bytes_max: bare_bytes, ..options() };
    let groups = Groups::new(small, Arc::new(Memory(world.clone())));
    let refused = groups.commit(group(), request).await;
    assert_eq!(refused, Err(ResponseError::InvalidCommitOffsetSize));
    let trimmed = tokio::time::timeout(Duration::from_secs(120), world.trimmed(1)).await;
    trimmed.expect("the log is shortened all the same");
    assert_eq!(committed(&self::groups(&world)).await.unwrap().metadata.len(), 2_000);
}
