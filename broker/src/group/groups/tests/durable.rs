//! What is answered is in the log, and stays.

use super::*;

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
