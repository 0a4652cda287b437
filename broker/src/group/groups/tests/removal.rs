//! Offsets and groups end: with their topics, when they are deleted, when their time is over.

use super::*;

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
