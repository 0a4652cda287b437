//! Logs are read when somebody asks for a group of theirs, whatever is in them.

use super::*;
use crate::group::records::MemberMetadata;

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
