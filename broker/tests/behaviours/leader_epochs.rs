//! kafka.md 4.F: leader epochs, over restarts, each of which begins one.

use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, ProduceRequest};

use crate::support::{Client, Disk, Options, TestBroker, fetch_request, name, produce_request, until};
use crate::testing;

/// Error, epoch and end offset.
async fn ask(client: &mut Client, version: i16, current: i32, epoch: i32) -> (i16, i32, i64) {
    ask_of(client, "topic", 0, version, current, epoch).await
}

async fn ask_of(
    client: &mut Client,
    topic: &str,
    partition: i32,
    version: i16,
    current: i32,
    epoch: i32,
) -> (i16, i32, i64) {
    let wanted = OffsetForLeaderPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(current)
        .with_leader_epoch(epoch);
    let topics = vec![OffsetForLeaderTopic::default().with_topic(name(topic)).with_partitions(vec![wanted])];
    let mut request = OffsetForLeaderEpochRequest::default().with_topics(topics);
    if version >= 3 {
        request.replica_id = (-1).into();
    }
    let response = client.call(version, &request).await;
    let answer = &response.topics[0].partitions[0];
    assert_eq!((&response.topics[0].topic, answer.partition), (&name(topic), partition));
    (answer.error_code, answer.leader_epoch, answer.end_offset)
}

/// A broker whose topic has records of epoch 0 in `[0, 3)`, none of epoch 1, epoch 2 in `[3, 8)`, and of epoch 3 in
/// `[8, 9)`.
async fn four_lives(disk: &Disk) -> TestBroker {
    let broker = TestBroker::on(disk, Options::default()).await;
    broker.topic("topic", 1, &[]).await;
    broker.connect().await.produced("topic", 0, &testing::batch(3, |_| {})).await;
    broker.crash(disk).await;
    TestBroker::on(disk, Options::default()).await.crash(disk).await;
    for count in [5, 1] {
        let broker = TestBroker::on(disk, Options::default()).await;
        broker.connect().await.produced("topic", 0, &testing::batch(count, |_| {})).await;
        if count == 1 {
            return broker;
        }
        broker.crash(disk).await;
    }
    unreachable!("it returned")
}

#[tokio::test]
async fn behaviour_72_where_epochs_end_over_restarts() {
    let disk = Disk::new();
    let broker = four_lives(&disk).await;
    let mut client = broker.connect().await;
    for version in 2..=4 {
        for (epoch, answer) in [
            (0, (0, 0, 3)),
            (1, (0, 0, 3)),
            (2, (0, 2, 8)),
            (3, (0, 3, 9)),
            (4, (0, -1, -1)),
            (i32::MAX, (0, -1, -1)),
        ] {
            assert_eq!(ask(&mut client, version, -1, epoch).await, answer, "version {version} epoch {epoch}");
            assert_eq!(ask(&mut client, version, 3, epoch).await, answer);
        }
        // Behaviour 71.
        assert_eq!(ask(&mut client, version, 2, 0).await, (74, -1, -1));
        assert_eq!(ask(&mut client, version, 4, 0).await, (75, -1, -1));
        for (topic, partition) in [("nowhere", 0), ("topic", 1), ("topic", -1)] {
            assert_eq!(ask_of(&mut client, topic, partition, version, -1, 0).await, (3, -1, -1));
        }
    }
    // An orderly restart is a new epoch as well.
    broker.stop().await;
    let broker = TestBroker::on(&disk.with_new_wal(), Options::default()).await;
    let mut client = broker.connect().await;
    assert_eq!(ask(&mut client, 4, 4, 3).await, (0, 3, 9));
    assert_eq!(ask(&mut client, 4, 4, 4).await, (0, 4, 9), "an epoch that has written nothing yet");
    // With the records of an epoch its row goes; asked for, it ends where the log begins.
    let now = ottla::partition::retention::Now { ms: i64::MAX, believed: true };
    broker.broker.partitions.retain(&broker.broker.config(), now).await.unwrap();
    assert_eq!(ask(&mut client, 4, -1, 0).await, (0, 0, 9));
    assert_eq!(ask(&mut client, 4, -1, 4).await, (0, 4, 9));
    broker.broker.right.revoke("a test");
    assert_eq!(ask(&mut client, 4, -1, 0).await, (6, -1, -1), "a deposed leader does not know");
}

/// What is not durable may never be: a client that was told of it would look like one from a lost past.
#[tokio::test]
async fn behaviour_72_an_epoch_ends_where_it_is_durable() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    let topic = broker.topic("topic", 1, &[]).await;
    let partition = broker.partition(&topic, 0).await;
    let (mut producer, mut client) = (broker.connect().await, broker.connect().await);
    client.produced("topic", 0, &testing::batch(3, |_| {})).await;
    disk.wal.hold();
    let produced = producer.send(9, &produce_request("topic", 0, &testing::batch(2, |_| {}))).await;
    until(|| partition.log_end() == 5).await;
    assert_eq!(ask(&mut client, 4, -1, 0).await, (0, 0, 3));
    disk.wal.resume();
    producer.receive::<ProduceRequest>(9, produced).await;
    assert_eq!(ask(&mut client, 4, -1, 0).await, (0, 0, 5));
}

#[tokio::test]
async fn behaviour_73_a_fetch_whose_past_is_not_the_logs_is_told_where_they_part() {
    let disk = Disk::new();
    let broker = four_lives(&disk).await;
    let topic = broker.broker.metadata.image().topic_named("topic").unwrap().clone();
    let mut client = broker.connect().await;
    for version in 12..=18 {
        let mut fetch = async |last_fetched_epoch: i32, offset: i64| {
            let mut request = fetch_request("topic", 0, offset);
            if version >= 13 {
                request.topics[0].topic = Default::default();
                request.topics[0].topic_id = topic.id;
            }
            request.topics[0].partitions[0].last_fetched_epoch = last_fetched_epoch;
            let mut response = client.call(version, &request).await;
            let partition = response.responses.remove(0).partitions.remove(0);
            let bytes = partition.records.map_or(0, |records| records.len());
            let diverging = (partition.diverging_epoch.epoch, partition.diverging_epoch.end_offset);
            (partition.error_code, diverging, bytes > 0)
        };
        let none = (-1, -1);
        for (epoch, offset, answer) in [
            // What it fetched last is here: up to where the next epoch begins.
            (0, 0, (0, none, true)),
            (0, 3, (0, none, true)),
            (2, 8, (0, none, true)),
            (3, 9, (0, none, false)),
            // It has records of an epoch beyond that epoch's end.
            (0, 4, (0, (0, 3), false)),
            (2, 9, (0, (2, 8), false)),
            // It has records of an epoch that wrote nothing here.
            (1, 3, (0, (0, 3), false)),
            // Of an epoch that this log has never had there is no saying.
            (4, 3, (1, none, false)),
            (-1, 4, (0, none, true)),
        ] {
            assert_eq!(fetch(epoch, offset).await, answer, "version {version} epoch {epoch} offset {offset}");
        }
    }
    // Below the log's start it is out of range, whatever the epochs say.
    broker.partition(&topic, 0).await.delete_records(Some(8)).await.unwrap();
    let mut request = fetch_request("topic", 0, 4);
    request.topics[0].partitions[0].last_fetched_epoch = 0;
    let response = client.call(12, &request).await;
    let partition = &response.responses[0].partitions[0];
    assert_eq!((partition.error_code, partition.log_start_offset), (1, 8));
    assert_eq!(partition.diverging_epoch.epoch, -1);
}
