//! A log is written anew and trimmed, so that it stays short.

use super::*;

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
