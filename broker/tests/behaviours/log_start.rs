//! kafka.md 4.F: where logs begin. DeleteRecords and retention.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{DeleteRecordsRequest, FetchRequest, ListOffsetsRequest};
use object_store::ObjectStoreExt;
use ottla::config::BrokerConfig;
use ottla::metadata::image::Topic;
use ottla::partition::retention::{Freed, Limits, Now};

use crate::support::{Client, Disk, Options, TestBroker, fetch_request, name, until};
use crate::testing;

/// KAFKA_STORAGE_ERROR.
const STORAGE_ERROR: i16 = 56;

/// Kafka's default for `retention.ms`.
const WEEK_MS: i64 = 604_800_000;

fn deletion(topic: &str, partition: i32, offset: i64) -> DeleteRecordsRequest {
    let wanted = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(offset);
    let topic = DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![wanted]);
    DeleteRecordsRequest::default().with_timeout_ms(60_000).with_topics(vec![topic])
}

/// Error and low watermark.
async fn delete(client: &mut Client, version: i16, topic: &str, partition: i32, offset: i64) -> (i16, i64) {
    let response = client.call(version, &deletion(topic, partition, offset)).await;
    let result = &response.topics[0].partitions[0];
    assert_eq!((&response.topics[0].name, result.partition_index), (&name(topic), partition));
    (result.error_code, result.low_watermark)
}

async fn offset_at(client: &mut Client, topic: &str, timestamp: i64) -> i64 {
    let (error, offset) = list_offsets(client, topic, timestamp).await;
    assert_eq!(error, 0);
    offset
}

/// Error and offset.
async fn list_offsets(client: &mut Client, topic: &str, timestamp: i64) -> (i16, i64) {
    let wanted = ListOffsetsPartition::default().with_current_leader_epoch(-1).with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![wanted]);
    let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    let response = client.call(5, &request).await;
    let partition = &response.topics[0].partitions[0];
    (partition.error_code, partition.offset)
}

async fn start_of(client: &mut Client, topic: &str) -> (i16, i64) {
    list_offsets(client, topic, -2).await
}

async fn earliest(client: &mut Client, topic: &str) -> i64 {
    offset_at(client, topic, -2).await
}

/// A batch of `count` records, the first of which has the timestamp.
async fn produce(client: &mut Client, topic: &str, partition: i32, count: i32, timestamp: i64) -> i64 {
    client.produced(topic, partition, &testing::batch(count, |spec| spec.base_timestamp = timestamp)).await
}

/// Of an operator who does without lost checkpoints.
fn accepting() -> Options {
    let mut options = Options::default();
    options.partitions.accept_lost_checkpoints = true;
    options
}

async fn flush(broker: &TestBroker) {
    broker.broker.partitions.storage().flush().await.expect("flush");
}

async fn retain(broker: &TestBroker, now_ms: i64) -> Freed {
    let now = Now { ms: now_ms, believed: true };
    broker.broker.partitions.retain(&broker.broker.config(), now).await.expect("a pass")
}

async fn garbage(broker: &TestBroker) -> usize {
    broker.broker.metadata.image().garbage().count()
}

#[tokio::test]
async fn behaviour_78_records_below_an_offset_are_deleted() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    broker.topic("topic", 1, &[]).await;
    broker.topic("compacted", 1, &[("cleanup.policy", "compact")]).await;
    broker.topic("both", 1, &[("cleanup.policy", "compact,delete")]).await;
    let mut client = broker.connect().await;
    for batch in 0..3 {
        produce(&mut client, "topic", 0, 10, 1_000 * (batch + 1)).await;
    }
    for (version, offset, answer) in [
        (0, 0, (0, 0)),
        (0, 5, (0, 5)),
        (1, 3, (0, 5)),
        (2, 15, (0, 15)),
        (2, 31, (1, -1)),
        (2, -2, (1, -1)),
        (1, i64::MAX, (1, -1)),
    ] {
        assert_eq!(delete(&mut client, version, "topic", 0, offset).await, answer, "{version} {offset}");
    }
    for (topic, partition, error) in [
        ("nowhere", 0, 3),
        ("topic", 1, 3),
        ("topic", -1, 3),
        ("__consumer_offsets", 0, 17),
        ("compacted", 0, 44),
    ] {
        assert_eq!(delete(&mut client, 2, topic, partition, 0).await, (error, -1), "{topic} {partition}");
    }
    assert_eq!(delete(&mut client, 2, "both", 0, -1).await, (0, 0));
    let status = broker.broker.partitions.storage().status();
    assert_eq!(status.bytes_uploaded, 0, "nothing was uploaded for it");

    let check = async |client: &mut Client, start: i64| {
        assert_eq!(earliest(client, "topic").await, start);
        let below = client.fetch("topic", 0, start - 1).await;
        assert_eq!((below.error_code, below.log_start_offset, below.high_watermark), (1, start, 30));
        let found = client.fetch("topic", 0, start).await;
        assert_eq!((found.error_code, found.log_start_offset), (0, start));
        found
    };
    let found = check(&mut client, 15).await;
    assert_eq!(found.records.expect("records")[7], 10, "the batch that holds it, whole");
    assert_eq!(offset_at(&mut client, "topic", 1_000).await, 15, "the first that is left");
    assert_eq!(offset_at(&mut client, "topic", 2_007).await, 17);

    // Durable, whatever became of the process.
    broker.crash(&disk).await;
    let broker = TestBroker::on(&disk, Options::default()).await;
    let mut client = broker.connect().await;
    check(&mut client, 15).await;
    assert_eq!(delete(&mut client, 2, "topic", 0, -1).await, (0, 30), "the high watermark");
    check(&mut client, 30).await;
    assert_eq!(offset_at(&mut client, "topic", 1_000).await, -1);
    broker.stop().await;
    let broker = TestBroker::on(&disk.with_new_wal(), Options::default()).await;
    let mut client = broker.connect().await;
    check(&mut client, 30).await;
    assert_eq!(produce(&mut client, "topic", 0, 1, 5_000).await, 30, "offsets go on");
    // The space comes back with the next pass.
    assert_eq!(garbage(&broker).await, 0);
    let freed = retain(&broker, 0).await;
    assert!(freed.partitions == 1 && freed.parts > 0, "{freed:?}");
    assert!(garbage(&broker).await > 0);
    assert_eq!(earliest(&mut client, "topic").await, 30);
}

/// Timestamps that do not ascend: what matches in the batch in which the log begins may be gone, and a later batch has more.
#[tokio::test]
async fn behaviour_76_a_search_by_time_goes_on_behind_the_batch_in_which_the_log_begins() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    let falling = testing::batch(10, |spec| (spec.base_timestamp, spec.step_ms) = (1_009, -1));
    client.produced("topic", 0, &falling).await;
    produce(&mut client, "topic", 0, 10, 500).await;
    produce(&mut client, "topic", 0, 10, 1_001).await;
    for (start, found) in [
        (0, [0, 0, 0, 0, -1]),
        // The records from here on are of 1003, 1002, 1001 and 1000.
        (6, [6, 6, 24, 28, -1]),
        (12, [12, 21, 24, 28, -1]),
    ] {
        assert_eq!(delete(&mut client, 2, "topic", 0, start).await, (0, start));
        for (timestamp, offset) in [0, 1_002, 1_005, 1_009, 1_011].into_iter().zip(found) {
            assert_eq!(offset_at(&mut client, "topic", timestamp).await, offset, "{timestamp} from {start}");
        }
    }
}

#[tokio::test]
async fn behaviour_78_a_deletion_that_is_not_durable_in_time_says_so() {
    let disk = Disk::new();
    let mut options = Options::default();
    options.partitions.own_write_time_min = Duration::ZERO;
    let broker = TestBroker::on(&disk, options).await;
    let topic = broker.topic("topic", 1, &[]).await;
    let partition = broker.partition(&topic, 0).await;
    let mut client = broker.connect().await;
    produce(&mut client, "topic", 0, 10, 1_000).await;
    disk.wal.hold();
    let response = client.call(2, &deletion("topic", 0, 4).with_timeout_ms(0)).await;
    let result = &response.topics[0].partitions[0];
    assert_eq!((result.error_code, result.low_watermark), (7, -1));
    assert_eq!(partition.log_start(), 0, "it is not durable, so nobody sees it");
    let pending = client.send(2, &deletion("topic", 0, 6)).await;
    disk.wal.resume();
    let response = client.receive::<DeleteRecordsRequest>(2, pending).await;
    assert_eq!(response.topics[0].partitions[0].low_watermark, 6);
    broker.broker.right.revoke("a test");
    // Nor does it say what is out of range, which a client would believe.
    for offset in [7, 99] {
        assert_eq!(
            delete(&mut client, 2, "topic", 0, offset).await,
            (6, -1),
            "a deposed leader decides nothing"
        );
    }
}

/// The timeout is for followers, and there are none: Kafka's answer to a timeout of nothing is success.
#[tokio::test]
async fn behaviour_78_a_deletion_waits_for_its_own_write_however_little_time_it_is_given() {
    let disk = Disk::new();
    let mut options = Options::default();
    options.partitions.own_write_time_min = Duration::from_secs(600);
    let broker = TestBroker::on(&disk, options).await;
    let topic = broker.topic("topic", 1, &[]).await;
    let partition = broker.partition(&topic, 0).await;
    let mut client = broker.connect().await;
    produce(&mut client, "topic", 0, 10, 1_000).await;
    for (timeout_ms, offset) in [(0, 4), (-1, 5), (1, 6)] {
        disk.wal.hold();
        let pending = client.send(2, &deletion("topic", 0, offset).with_timeout_ms(timeout_ms)).await;
        // Answered at once, it would be so before this other connection is.
        let mut other = broker.connect().await;
        assert_eq!(other.fetch("topic", 0, 9).await.error_code, 0);
        assert!(partition.log_start() < offset as u64);
        disk.wal.resume();
        let response = client.receive::<DeleteRecordsRequest>(2, pending).await;
        let result = &response.topics[0].partitions[0];
        assert_eq!((result.error_code, result.low_watermark), (0, offset));
    }
}

/// The newest checkpoint decides: none may know less than one before it.
#[tokio::test]
async fn a_deletion_survives_the_checkpoints_that_are_written_at_the_same_time() {
    let disk = Disk::new();
    let mut options = Options::default();
    options.partitions.checkpoint_interval_bytes = 1;
    let broker = TestBroker::on(&disk, options).await;
    let topic = broker.topic("topic", 1, &[]).await;
    let partition = broker.partition(&topic, 0).await;
    let mut client = broker.connect().await;
    for round in 0..50 {
        let batch = testing::batch(1, |_| {});
        let produced = client.send(9, &crate::support::produce_request("topic", 0, &batch)).await;
        let (deleted, again) = tokio::join!(partition.delete_records(None), partition.delete_records(None));
        assert!(deleted.is_ok() && again.is_ok());
        client.receive::<kafka_protocol::messages::ProduceRequest>(9, produced).await;
        assert!(partition.log_start() >= round);
    }
    let start = partition.log_start();
    broker.crash(&disk).await;
    let broker = TestBroker::on(&disk, Options::default()).await;
    let mut client = broker.connect().await;
    assert_eq!(earliest(&mut client, "topic").await, start as i64);
}

/// Nothing but the newest checkpoint says where DeleteRecords has moved the log's start to, until retention has dropped
/// whole parts. Whatever becomes of it, records that were deleted do not come back (behaviour 78).
#[tokio::test]
async fn behaviour_78_what_was_deleted_does_not_come_back_when_the_checkpoint_is_damaged() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    let topic = broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    produce(&mut client, "topic", 0, 10, 1_000).await;
    assert_eq!(delete(&mut client, 2, "topic", 0, 4).await, (0, 4), "inside the one batch");
    broker.stop().await;

    // The same bucket, and the checkpoint's object damaged in one way or another; in the end, as it was.
    let checkpoint = topic.partitions[0].checkpoint;
    let object = {
        let metadata = ottla::metadata::Metadata::open(disk.store.clone(), Default::default()).await.unwrap();
        let located = metadata.image().parts(checkpoint).last().expect("it was uploaded");
        metadata.close(false).await.unwrap();
        s3stream::object::object_key(located.object)
    };
    let whole = disk.store.get(&object).await.unwrap().bytes().await.unwrap();
    let magic = whole.windows(4).position(|bytes| bytes == b"OTCP").expect("a checkpoint");
    let mut flips: Vec<usize> = (magic..magic + 32).collect();
    flips.extend((0..whole.len()).step_by(7));
    let mut refused = 0;
    for damage in flips.into_iter().map(Some).chain([None]) {
        match damage {
            Some(at) => {
                let mut flipped = whole.to_vec();
                flipped[at] ^= 1;
                disk.store.put(&object, flipped.into()).await.unwrap();
            }
            None => disk.store.delete(&object).await.unwrap(),
        }
        let broker = TestBroker::on(&disk.with_new_wal(), Options::default()).await;
        let mut client = broker.connect().await;
        let (error, offset) = start_of(&mut client, "topic").await;
        refused += usize::from(error != 0);
        assert!(error == STORAGE_ERROR || (error, offset) == (0, 4), "{damage:?}: {error}, {offset}");
        broker.stop().await;
    }
    assert!(refused > 32, "{refused}: what was damaged?");
    disk.store.put(&object, whole.into()).await.unwrap();

    // One that is what was written, and no checkpoint that this version knows.
    let broker = TestBroker::on(&disk.with_new_wal(), Options::default()).await;
    let storage = broker.broker.partitions.storage();
    let stream = storage.open_stream(checkpoint, None).unwrap();
    let (base, body) =
        (stream.next(), bytes::Bytes::from_static(b"OTCP of another version, more than 32 bytes"));
    let record = s3stream::StreamRecord { base, end: base + 1, max_timestamp: -1, body };
    let admission = storage.admit(record.body.len()).await.unwrap();
    stream.append(admission, record).unwrap().await.unwrap();
    stream.close();
    let mut client = broker.connect().await;
    assert_eq!(start_of(&mut client, "topic").await.0, STORAGE_ERROR);
    flush(&broker).await;
    let error = broker.broker.partitions.get(&topic, 0).await.unwrap_err().to_string();
    let named = broker.broker.metadata.image().parts(checkpoint).last().unwrap().object;
    assert!(error.contains(s3stream::object::object_key(named).as_ref()), "{error}");

    // Nobody's DeleteRecords opens it: what it would leave may have been deleted long ago.
    assert_eq!(delete(&mut client, 2, "topic", 0, 2).await, (STORAGE_ERROR, -1));
    broker.stop().await;
    // The operator may, once.
    for (options, end) in [(accepting(), 10), (Options::default(), 12)] {
        let broker = TestBroker::on(&disk.with_new_wal(), options).await;
        let mut client = broker.connect().await;
        assert_eq!(start_of(&mut client, "topic").await, (0, 0));
        assert_eq!(produce(&mut client, "topic", 0, 2, 2_000).await, end);
        broker.stop().await;
    }
}

/// The checkpoint and a part of the log may lie in one object.
#[tokio::test]
async fn a_checkpoint_that_is_lost_together_with_records_can_be_done_without() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    let topic = broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    produce(&mut client, "topic", 0, 3, 1_000).await;
    assert_eq!(delete(&mut client, 2, "topic", 0, 1).await, (0, 1));
    flush(&broker).await;
    let image = broker.broker.metadata.image();
    let [log, checkpoint] = [topic.partitions[0].log, topic.partitions[0].checkpoint]
        .map(|stream| image.parts(stream).last().expect("it was uploaded").object);
    assert_eq!(log, checkpoint);
    produce(&mut client, "topic", 0, 3, 1_000).await;
    broker.stop().await;
    disk.store.delete(&s3stream::object::object_key(log)).await.unwrap();

    let broker = TestBroker::on(&disk.with_new_wal(), Options::default()).await;
    let mut client = broker.connect().await;
    assert_eq!(start_of(&mut client, "topic").await.0, STORAGE_ERROR);
    broker.stop().await;
    let broker = TestBroker::on(&disk.with_new_wal(), accepting()).await;
    let mut client = broker.connect().await;
    assert_eq!(start_of(&mut client, "topic").await, (0, 0));
    assert_ne!(client.fetch("topic", 0, 0).await.error_code, 0, "lost is lost");
    assert_eq!(client.fetch("topic", 0, 3).await.error_code, 0);
    assert_eq!(produce(&mut client, "topic", 0, 1, 2_000).await, 6);
}

/// The log is damaged where it would be replayed.
#[tokio::test]
async fn a_log_that_is_damaged_before_its_first_checkpoint_opens_if_that_is_accepted() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    let topic = broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    produce(&mut client, "topic", 0, 3, 1_000).await;
    flush(&broker).await;
    let part = broker.broker.metadata.image().parts(topic.partitions[0].log).last().expect("it was uploaded");
    produce(&mut client, "topic", 0, 3, 1_000).await;
    broker.stop().await;
    disk.store.delete(&s3stream::object::object_key(part.object)).await.unwrap();

    let broker = TestBroker::on(&disk.with_new_wal(), Options::default()).await;
    let mut client = broker.connect().await;
    assert_eq!(start_of(&mut client, "topic").await.0, STORAGE_ERROR);
    broker.stop().await;
    for (options, end) in [(accepting(), 6), (Options::default(), 7)] {
        let broker = TestBroker::on(&disk.with_new_wal(), options).await;
        let mut client = broker.connect().await;
        assert_eq!(produce(&mut client, "topic", 0, 1, 2_000).await, end);
        assert_eq!(delete(&mut client, 2, "topic", 0, 3).await, (0, 3), "consumers can pass");
        broker.stop().await;
    }
}

/// Records of internal topics are deleted by nobody: their checkpoints are worth no more than the replay that they save.
#[tokio::test]
async fn an_internal_topic_is_replayed_whole_when_its_checkpoint_is_lost() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    let topic = broker.topic("__consumer_offsets", 1, &[]).await;
    let checkpoints =
        broker.broker.partitions.storage().open_stream(topic.partitions[0].checkpoint, None).unwrap();
    let record =
        s3stream::StreamRecord { base: 0, end: 1, max_timestamp: -1, body: b"no checkpoint"[..].into() };
    let admission = broker.broker.partitions.storage().admit(record.body.len()).await.unwrap();
    checkpoints.append(admission, record).unwrap().await.unwrap();
    checkpoints.close();
    let partition = broker.partition(&topic, 0).await;
    let appended = partition.append_own(testing::batch(3, |_| ())).await.unwrap();
    appended.durable().await.unwrap();
    broker.crash(&disk).await;
    let broker = TestBroker::on(&disk, Options::default()).await;
    assert_eq!(broker.partition(&topic, 0).await.high_watermark(), 3);
}

#[tokio::test]
async fn behaviour_111_records_go_when_the_youngest_of_their_upload_is_too_old() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    let topic = broker.topic("topic", 1, &[("retention.ms", "1000")]).await;
    let partition = broker.partition(&topic, 0).await;
    let mut client = broker.connect().await;
    for timestamp in [10_000, 20_000] {
        produce(&mut client, "topic", 0, 3, timestamp).await;
        flush(&broker).await;
    }
    produce(&mut client, "topic", 0, 3, 10_000).await;
    // Waits at the end: retention is none of its affair.
    let mut waiting = broker.connect().await;
    let request = fetch_request("topic", 0, 9).with_max_wait_ms(3_600_000).with_min_bytes(1);
    let id = waiting.send(12, &request).await;
    until(|| partition.fetches_waiting() == 1).await;

    assert_eq!(retain(&broker, 11_002).await, Freed::default(), "a second old, to the millisecond");
    let freed = retain(&broker, 11_003).await;
    assert_eq!((freed.partitions, freed.parts), (1, 1));
    assert!(freed.bytes > 0);
    assert_eq!(earliest(&mut client, "topic").await, 3);
    let below = client.fetch("topic", 0, 2).await;
    assert_eq!((below.error_code, below.log_start_offset), (1, 3));
    assert_eq!(garbage(&broker).await, 1, "its object is the collector's");
    assert_eq!(retain(&broker, 11_003).await, Freed::default());
    // Everything is old, and goes as far as it is uploaded: then an idle log is empty.
    assert_eq!(retain(&broker, WEEK_MS).await.parts, 1);
    assert_eq!(earliest(&mut client, "topic").await, 6);
    flush(&broker).await;
    assert_eq!(retain(&broker, WEEK_MS).await.parts, 1);
    assert_eq!(earliest(&mut client, "topic").await, 9);
    assert_eq!(client.fetch("topic", 0, 9).await.error_code, 0);
    assert_eq!(partition.fetches_waiting(), 1);

    assert_eq!(produce(&mut client, "topic", 0, 1, WEEK_MS).await, 9, "offsets go on");
    let response = waiting.receive::<FetchRequest>(12, id).await;
    assert_eq!(response.responses[0].partitions[0].error_code, 0);
    assert!(!response.responses[0].partitions[0].records.as_ref().unwrap().is_empty());
    // Nothing comes back, and no epoch is known from before.
    broker.crash(&disk).await;
    let broker = TestBroker::on(&disk, Options::default()).await;
    let mut client = broker.connect().await;
    assert_eq!(earliest(&mut client, "topic").await, 9);
    let log = broker.broker.metadata.image().stream(topic.partitions[0].log).unwrap().clone();
    assert!(log.epochs.iter().all(|epoch| epoch.start >= 9), "{:?}", log.epochs);
}

#[tokio::test]
async fn behaviour_111_the_oldest_records_go_beyond_retention_bytes() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[("retention.bytes", "3000"), ("retention.ms", "-1")]).await;
    let mut client = broker.connect().await;
    let batch = testing::batch(1, |spec| spec.value_bytes = 1_000);
    for _ in 0..4 {
        client.produced("topic", 0, &batch).await;
        flush(&broker).await;
    }
    let kept = (batch.len() * 3) as u64;
    assert!((3_000..3_000 + batch.len() as u64).contains(&kept), "three are just enough");
    let freed = retain(&broker, i64::MAX).await;
    assert_eq!(freed, Freed { partitions: 1, parts: 1, bytes: batch.len() as u64 });
    assert_eq!(earliest(&mut client, "topic").await, 1);
    // What is not uploaded yet counts, and stays.
    for _ in 0..2 {
        client.produced("topic", 0, &batch).await;
    }
    assert_eq!(retain(&broker, i64::MAX).await.parts, 2);
    assert_eq!(earliest(&mut client, "topic").await, 3);
    assert_eq!(retain(&broker, i64::MAX).await, Freed::default());
}

/// By one entry of the metadata log, open or not.
#[tokio::test]
async fn retention_reaches_partitions_that_nobody_has_opened() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    broker.topic("old", 30, &[]).await;
    broker.topic("kept", 1, &[("retention.ms", "-1")]).await;
    broker.topic("compacted", 1, &[("cleanup.policy", "compact")]).await;
    let mut client = broker.connect().await;
    for partition in 0..30 {
        produce(&mut client, "old", partition, 3, 1_000).await;
    }
    for topic in ["kept", "compacted"] {
        produce(&mut client, topic, 0, 3, 1_000).await;
    }
    broker.stop().await;
    let broker = TestBroker::on(&disk.with_new_wal(), Options::default()).await;
    let before = broker.broker.metadata.image().number();
    let freed = retain(&broker, 1_003 + WEEK_MS).await;
    assert_eq!((freed.partitions, freed.parts), (30, 30));
    assert_eq!(broker.broker.metadata.image().number(), before + 1, "one entry");
    let mut client = broker.connect().await;
    for (topic, start) in [("old", 3), ("kept", 0), ("compacted", 0)] {
        assert_eq!(earliest(&mut client, topic).await, start, "{topic}");
    }
    assert_eq!(retain(&broker, 1_003 + WEEK_MS).await, Freed::default());
    assert_eq!(broker.broker.metadata.image().number(), before + 1, "nothing to do costs no entry");
}

#[tokio::test]
async fn entries_and_passes_are_bounded() {
    let mut options = Options::default();
    options.partitions.retention = Limits { entry_trims_max: 4, pass_parts_max: 10 };
    let broker = TestBroker::on(&Disk::new(), options).await;
    broker.topic("topic", 2, &[]).await;
    let mut client = broker.connect().await;
    for _ in 0..8 {
        for partition in 0..2 {
            produce(&mut client, "topic", partition, 1, 1_000).await;
        }
        flush(&broker).await;
    }
    let before = broker.broker.metadata.image().number();
    let freed = retain(&broker, i64::MAX).await;
    assert_eq!((freed.partitions, freed.parts), (2, 10), "all of the first, and of the second what is left");
    // At most four of trims and parts in an entry, which is one trim of up to four parts here.
    assert_eq!(broker.broker.metadata.image().number(), before + 3);
    assert_eq!(earliest(&mut client, "topic").await, 8);
    assert_eq!(retain(&broker, i64::MAX).await.parts, 6);
    assert_eq!(retain(&broker, i64::MAX).await, Freed::default());
}

/// F50.
#[tokio::test]
async fn a_start_only_moves_forward_whatever_the_clock_says() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[("retention.ms", "1000")]).await;
    let mut client = broker.connect().await;
    for timestamp in [10_000, 20_000] {
        produce(&mut client, "topic", 0, 1, timestamp).await;
        flush(&broker).await;
    }
    let ten_years = 315_360_000_000;
    let unbelieved = Now { ms: ten_years, believed: false };
    let partitions = &broker.broker.partitions;
    assert_eq!(partitions.retain(&broker.broker.config(), unbelieved).await.unwrap(), Freed::default());
    for (now, start) in [(i64::MIN, 0), (11_001, 1), (0, 1), (ten_years, 2), (0, 2)] {
        retain(&broker, now).await;
        assert_eq!(earliest(&mut client, "topic").await, start, "at {now}");
    }
}

#[tokio::test]
async fn behaviour_111_a_changed_retention_acts_with_the_next_pass() {
    let set = [("log.retention.hours", "1")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = BrokerConfig::new(&set.into()).unwrap();
    let broker = TestBroker::on(&Disk::new(), Options { config, ..Options::default() }).await;
    let topic = broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    produce(&mut client, "topic", 0, 1, 0).await;
    flush(&broker).await;
    assert_eq!(retain(&broker, 3_600_000).await, Freed::default(), "the broker's hour");
    let change = async |from: &Arc<Topic>, to: &[(&str, &str)]| {
        let to = to.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let was = from.configs.to_vec();
        broker.broker.metadata.set_topic_configs(from.id, was, to).await.expect("set");
        broker.broker.metadata.image().topic(from.id).unwrap().clone()
    };
    let kept = change(&topic, &[("retention.ms", "-1")]).await;
    assert_eq!(retain(&broker, i64::MAX).await, Freed::default(), "the topic's outranks it");
    change(&kept, &[]).await;
    assert_eq!(retain(&broker, 3_600_001).await.parts, 1);
    assert_eq!(earliest(&mut client, "topic").await, 1);
}
