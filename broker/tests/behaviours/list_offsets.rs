//! kafka.md 4.F: ListOffsets.

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{ListOffsetsRequest, ProduceRequest};
use ottla::partition::batch::Codec;

use crate::support::{Client, Disk, Options, TestBroker, name, produce_request, until};
use crate::testing;

fn request(topic: &str, partitions: &[(i32, i64)]) -> ListOffsetsRequest {
    let wanted = partitions.iter().map(|(partition, timestamp)| {
        ListOffsetsPartition::default()
            .with_partition_index(*partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(*timestamp)
    });
    ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![
        ListOffsetsTopic::default().with_name(name(topic)).with_partitions(wanted.collect()),
    ])
}

async fn ask(client: &mut Client, version: i16, timestamp: i64) -> (i16, i64, i64) {
    let response = client.call(version, &request("topic", &[(0, timestamp)])).await;
    let answer = &response.topics[0].partitions[0];
    (answer.error_code, answer.offset, answer.timestamp)
}

async fn produce(client: &mut Client, codec: Codec, timestamp: i64, count: i32) {
    let batch = testing::batch(count, |spec| {
        spec.codec = codec;
        spec.base_timestamp = timestamp;
    });
    client.produced("topic", 0, &batch).await;
}

#[tokio::test]
async fn behaviour_75_special_timestamps_by_version() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    assert_eq!(ask(&mut client, 7, -3).await, (0, -1, -1), "no record has a timestamp");
    produce(&mut client, Codec::None, 1000, 3).await;
    produce(&mut client, Codec::None, 500, 3).await;
    for version in 1..=10 {
        assert_eq!(ask(&mut client, version, -1).await, (0, 6, -1));
        assert_eq!(ask(&mut client, version, -2).await, (0, 0, -1));
        let special =
            [(-3, 7, (0, 2, 1002)), (-4, 8, (0, 0, -1)), (-5, 9, (0, -1, -1)), (-6, 11, (0, -1, -1))];
        for (timestamp, from, answer) in special {
            let expected = if version >= from { answer } else { (35, -1, -1) };
            assert_eq!(ask(&mut client, version, timestamp).await, expected, "{version} {timestamp}");
        }
    }
}

#[tokio::test]
async fn behaviour_76_the_first_record_at_or_after_a_time() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    for (at, codec) in
        [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd].into_iter().enumerate()
    {
        produce(&mut client, codec, 1000 * (at as i64 + 1), 10).await;
    }
    let answers = [
        (0, (0, 0, 1000)),
        (1005, (0, 5, 1005)),
        (1010, (0, 10, 2000)),
        (2009, (0, 19, 2009)),
        (3003, (0, 23, 3003)),
        (4001, (0, 31, 4001)),
        (5009, (0, 49, 5009)),
        (5010, (0, -1, -1)),
    ];
    for (timestamp, expected) in answers {
        assert_eq!(ask(&mut client, 5, timestamp).await, expected, "{timestamp}");
    }
    // The same from data objects.
    broker.stop().await;
    let broker = TestBroker::on(&disk.with_new_wal(), Options::default()).await;
    let mut client = broker.connect().await;
    for (timestamp, expected) in answers {
        assert_eq!(ask(&mut client, 5, timestamp).await, expected, "{timestamp}");
    }
}

#[tokio::test]
async fn behaviour_76_log_append_time_is_that_of_the_batch() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    let mut client = broker.connect().await;
    produce(&mut client, Codec::None, 1000, 3).await;
    let (error, offset, timestamp) = ask(&mut client, 5, 1001).await;
    assert_eq!((error, offset), (0, 0));
    assert!(timestamp > 1_000_000_000_000);
}

#[tokio::test]
async fn behaviour_77_duplicates_and_unknown_partitions() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 2, &[]).await;
    let mut client = broker.connect().await;
    let response = client.call(5, &request("topic", &[(0, -1), (1, -1), (0, -2), (9, -1)])).await;
    let codes: Vec<i16> = response.topics[0].partitions.iter().map(|answer| answer.error_code).collect();
    assert_eq!(codes, [42, 0, 42, 3]);
    let response = client.call(5, &request("nowhere", &[(0, -1)])).await;
    assert_eq!(response.topics[0].partitions[0].error_code, 3);
}

#[tokio::test]
async fn behaviour_71_epochs_are_checked_and_answered() {
    let broker = TestBroker::start().await;
    let topic = broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    produce(&mut client, Codec::None, 1000, 3).await;
    let ours = broker.broker.partitions.get(&topic, 0).await.unwrap().leader_epoch;
    for timestamp in [-1, -2, -3, 1000] {
        let response = client.call(7, &request("topic", &[(0, timestamp)])).await;
        assert_eq!(response.topics[0].partitions[0].leader_epoch, ours, "{timestamp}");
    }
    let mut ahead = request("topic", &[(0, -1)]);
    ahead.topics[0].partitions[0].current_leader_epoch = ours + 1;
    assert_eq!(client.call(7, &ahead).await.topics[0].partitions[0].error_code, 75);
}

#[tokio::test]
async fn a_broker_without_the_right_does_not_say_what_is_latest() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    broker.broker.right.revoke("a test");
    assert_eq!(ask(&mut client, 5, -1).await, (6, -1, -1));
}

/// N2: whatever follows a Produce on its connection is processed after it, as Kafka does by muting the channel.
#[tokio::test]
async fn behaviour_9_a_request_behind_a_produce_sees_what_it_wrote() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    let topic = broker.topic("topic", 1, &[]).await;
    let partition = broker.partition(&topic, 0).await;
    let mut client = broker.connect().await;
    produce(&mut client, Codec::None, 1000, 1).await;
    disk.wal.hold();
    let batch = testing::batch(1, |_| {});
    let first = client.send(9, &produce_request("topic", 0, &batch)).await;
    let second = client.send(9, &produce_request("topic", 0, &batch)).await;
    let third = client.send(5, &request("topic", &[(0, -1)])).await;
    until(|| partition.log_end() == 3).await;
    disk.wal.resume();
    client.receive::<ProduceRequest>(9, first).await;
    client.receive::<ProduceRequest>(9, second).await;
    let response = client.receive::<ListOffsetsRequest>(5, third).await;
    assert_eq!(response.topics[0].partitions[0].offset, 3);
}
