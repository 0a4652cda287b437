//! kafka.md 4.F: Fetch.

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::{FetchRequest, ProduceRequest};
use ottla::config::BrokerConfig;
use ottla::partition::batch::BatchHeader;
use ottla::server::Config;
use uuid::Uuid;

use crate::support::{Disk, Options, TestBroker, fetch_request, name, produce_request, until};
use crate::testing;

fn plain(count: i32) -> Vec<u8> {
    testing::batch(count, |_| {}).to_vec()
}

fn of_bytes(bytes: usize) -> Vec<u8> {
    testing::batch(1, |spec| spec.value_bytes = bytes).to_vec()
}

/// Partitions of one topic, each with an offset and a limit.
fn several(topic: &str, partitions: &[(i32, i64, i32)]) -> FetchRequest {
    let wanted = partitions.iter().map(|(partition, offset, max_bytes)| {
        FetchPartition::default()
            .with_partition(*partition)
            .with_current_leader_epoch(-1)
            .with_last_fetched_epoch(-1)
            .with_fetch_offset(*offset)
            .with_partition_max_bytes(*max_bytes)
    });
    fetch_request(topic, 0, 0)
        .with_topics(vec![FetchTopic::default().with_topic(name(topic)).with_partitions(wanted.collect())])
}

fn bases(records: &[u8]) -> Vec<i64> {
    let mut rest = records;
    let mut bases = Vec::new();
    while !rest.is_empty() {
        let header = BatchHeader::parse(rest).expect("whole batches");
        bases.push(header.base_offset);
        rest = &rest[header.size..];
    }
    bases
}

#[tokio::test]
async fn every_version_fetches() {
    let broker = TestBroker::start().await;
    let topic = broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    client.produced("topic", 0, &plain(3)).await;
    for version in 4..=18 {
        let mut request = fetch_request("topic", 0, 0);
        if version >= 13 {
            request.topics[0].topic = Default::default();
            request.topics[0].topic_id = topic.id;
        }
        let response = client.call(version, &request).await;
        let found = &response.responses[0];
        assert_eq!(found.topic_id, if version >= 13 { topic.id } else { Uuid::nil() }, "behaviour 70");
        let partition = &found.partitions[0];
        assert_eq!((partition.error_code, partition.high_watermark, partition.last_stable_offset), (0, 3, 3));
        assert_eq!(partition.log_start_offset, if version >= 5 { 0 } else { -1 });
        assert_eq!(bases(partition.records.as_ref().unwrap()), [0]);
    }
}

#[tokio::test]
async fn behaviour_65_an_offset_inside_a_batch_gives_the_whole_batch() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    for _ in 0..3 {
        client.produced("topic", 0, &plain(10)).await;
    }
    assert_eq!(bases(&client.fetch("topic", 0, 15).await.records.unwrap()), [10, 20]);
    assert_eq!(bases(&client.fetch("topic", 0, 29).await.records.unwrap()), [20]);
}

#[tokio::test]
async fn behaviour_66_the_first_batch_is_whole_and_the_rest_fits() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 3, &[]).await;
    let mut client = broker.connect().await;
    for partition in [1, 2] {
        for _ in 0..3 {
            client.produced("topic", partition, &of_bytes(1000)).await;
        }
    }
    let mut counts = async |partitions: &[(i32, i64, i32)], max_bytes: i32| {
        let response = client.call(12, &several("topic", partitions).with_max_bytes(max_bytes)).await;
        let found = response.responses[0].partitions.iter();
        found.map(|partition| bases(partition.records.as_ref().unwrap()).len()).collect::<Vec<_>>()
    };
    // The first that has anything may exceed both limits by one batch; the next ones may not.
    assert_eq!(counts(&[(0, 0, 1), (1, 0, 1), (2, 0, 1 << 20)], 1).await, [0, 1, 0]);
    assert_eq!(counts(&[(1, 0, 0), (2, 0, 0)], 1 << 20).await, [1, 0]);
    assert_eq!(counts(&[(1, 0, 2500), (2, 0, 2500)], 1 << 20).await, [2, 2]);
    assert_eq!(counts(&[(1, 0, 1 << 20), (2, 0, 1 << 20)], 4500).await, [3, 1]);
    assert_eq!(counts(&[(2, 0, 1 << 20), (1, 0, 500)], 1 << 20).await, [3, 0]);
}

#[tokio::test]
async fn behaviour_67_the_brokers_bound_on_a_response_is_kept_whatever_is_asked_for() {
    let set = [("fetch.max.bytes".to_owned(), "2048".to_owned())];
    let config = BrokerConfig::new(&set.into()).expect("a valid config");
    let broker = TestBroker::on(&Disk::new(), Options { config, ..Options::default() }).await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    for _ in 0..4 {
        client.produced("topic", 0, &of_bytes(900)).await;
    }
    let found = client.fetch("topic", 0, 0).await;
    assert_eq!(bases(&found.records.expect("records")), [0, 1], "as many as fit");
}

#[tokio::test]
async fn behaviour_67_a_fetch_is_woken_by_the_append_that_satisfies_it() {
    let broker = TestBroker::start().await;
    let topic = broker.topic("topic", 2, &[]).await;
    let mut consumer = broker.connect().await;
    let mut producer = broker.connect().await;
    let size = of_bytes(1000).len() as i32;
    // An hour: nothing but data can end it within the test.
    let request = several("topic", &[(0, 0, 1 << 20), (1, 0, 1 << 20)])
        .with_max_wait_ms(3_600_000)
        .with_min_bytes(2 * size);
    let id = consumer.send(12, &request).await;
    let partition = broker.partition(&topic, 0).await;
    until(|| partition.fetches_waiting() == 1).await;
    producer.produced("topic", 0, &of_bytes(1000)).await;
    producer.produced("topic", 1, &of_bytes(1000)).await;
    let response = consumer.receive::<FetchRequest>(12, id).await;
    let found: usize = response.responses[0]
        .partitions
        .iter()
        .map(|partition| partition.records.as_ref().unwrap().len())
        .sum();
    assert_eq!(found, 2 * size as usize, "not before both were there");
}

#[tokio::test]
async fn behaviour_67_a_response_that_is_full_does_not_wait_for_more() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 2, &[]).await;
    let mut client = broker.connect().await;
    for partition in [0, 1] {
        for _ in 0..5 {
            client.produced("topic", partition, &of_bytes(300)).await;
        }
    }
    // Whole batches do not come out at exactly the limit; there is more behind it all the same.
    for (max_bytes, partition_max, min_bytes) in
        [(1 << 20, 1000, 1000), (1000, 1 << 20, 1000), (1 << 20, 1000, 2000), (1000, 1 << 20, i32::MAX)]
    {
        let request = several("topic", &[(0, 0, partition_max), (1, 0, partition_max)])
            .with_max_bytes(max_bytes)
            .with_min_bytes(min_bytes)
            .with_max_wait_ms(3_600_000);
        let response = client.call(12, &request).await;
        assert!(!response.responses[0].partitions[0].records.as_ref().unwrap().is_empty());
    }
    // But what is not there yet is waited for.
    let request =
        several("topic", &[(0, 4, 1000), (1, 4, 1000)]).with_min_bytes(900).with_max_wait_ms(3_600_000);
    let id = client.send(12, &request).await;
    broker.connect().await.produced("topic", 1, &of_bytes(300)).await;
    let response = client.receive::<FetchRequest>(12, id).await;
    assert_eq!(bases(response.responses[0].partitions[1].records.as_ref().unwrap()), [4, 5]);
}

#[tokio::test]
async fn behaviour_67_max_wait_and_errors_end_the_wait() {
    let broker = TestBroker::start().await;
    let topic = broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    let patient = || fetch_request("topic", 0, 0).with_min_bytes(1);
    for max_wait in [0, 30, -1] {
        let response = client.call(12, &patient().with_max_wait_ms(max_wait)).await;
        assert_eq!(response.responses[0].partitions[0].records.as_ref().unwrap().len(), 0, "behaviour 74");
    }
    let response =
        client.call(12, &several("topic", &[(0, 0, 1), (5, 0, 1)]).with_max_wait_ms(3_600_000)).await;
    assert_eq!(response.responses[0].partitions[1].error_code, 3);

    let id = client.send(12, &patient().with_max_wait_ms(3_600_000)).await;
    let partition = broker.partition(&topic, 0).await;
    until(|| partition.fetches_waiting() == 1).await;
    broker.broker.metadata.delete_topics(vec![topic.id]).await.unwrap();
    let response = client.receive::<FetchRequest>(12, id).await;
    assert_eq!(response.responses[0].partitions[0].error_code, 3, "deletion wakes");
}

#[tokio::test]
async fn a_waiting_fetch_does_not_hold_up_the_shutdown() {
    let broker = TestBroker::start().await;
    let topic = broker.topic("topic", 1, &[]).await;
    let partition = broker.partition(&topic, 0).await;
    let mut client = broker.connect().await;
    let patient = fetch_request("topic", 0, 0).with_min_bytes(1).with_max_wait_ms(3_600_000);
    client.send(12, &patient).await;
    until(|| partition.fetches_waiting() == 1).await;
    // Not even for the grace that is given to requests under way.
    let stopped = tokio::time::timeout(Config::default().shutdown_grace, broker.stop()).await;
    assert!(stopped.is_ok());
}

#[tokio::test]
async fn behaviour_68_out_of_range_says_where_the_log_is() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    client.produced("topic", 0, &plain(3)).await;
    for offset in [4, i64::MAX, -1, i64::MIN] {
        let answer = client.fetch("topic", 0, offset).await;
        assert_eq!(
            (answer.error_code, answer.high_watermark, answer.log_start_offset),
            (1, 3, 0),
            "{offset}"
        );
    }
    let end = client.fetch("topic", 0, 3).await;
    assert_eq!((end.error_code, end.records.map(|records| records.len())), (0, Some(0)));
}

#[tokio::test]
async fn behaviour_68_what_is_not_durable_yet_is_neither_read_nor_out_of_range() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    let topic = broker.topic("topic", 1, &[]).await;
    let partition = broker.partition(&topic, 0).await;
    let (mut producer, mut client) = (broker.connect().await, broker.connect().await);
    client.produced("topic", 0, &plain(3)).await;
    disk.wal.hold();
    let produced = producer.send(9, &produce_request("topic", 0, &plain(2))).await;
    until(|| partition.log_end() == 5).await;
    for (offset, error) in [(3, 0), (4, 0), (5, 0), (6, 1)] {
        let answer = client.fetch("topic", 0, offset).await;
        let bytes = answer.records.map_or(0, |records| records.len());
        assert_eq!((answer.error_code, answer.high_watermark, bytes), (error, 3, 0), "{offset}");
    }
    disk.wal.resume();
    producer.receive::<ProduceRequest>(9, produced).await;
    assert!(!client.fetch("topic", 0, 4).await.records.expect("records").is_empty());
}

#[tokio::test]
async fn behaviour_68_a_broker_without_the_right_does_not_say_out_of_range() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    client.produced("topic", 0, &plain(3)).await;
    broker.broker.right.revoke("a test");
    assert_eq!(client.fetch("topic", 0, 4).await.error_code, 6);
    let below = client.fetch("topic", 0, 0).await;
    assert_eq!((below.error_code, bases(&below.records.unwrap()).len()), (0, 1), "what it has is true");
}

#[tokio::test]
async fn behaviour_69_sessions_say_only_what_changed() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 2, &[]).await;
    let mut client = broker.connect().await;
    let full = several("topic", &[(0, 0, 1 << 20), (1, 0, 1 << 20)]).with_session_epoch(0);
    let response = client.call(12, &full).await;
    let session = response.session_id;
    assert_ne!(session, 0);
    assert_eq!(response.responses[0].partitions.len(), 2);
    let next = |epoch| {
        FetchRequest::default().with_session_id(session).with_session_epoch(epoch).with_max_bytes(1 << 20)
    };
    let response = client.call(12, &next(1)).await;
    assert_eq!((response.error_code, response.session_id, response.responses.len()), (0, session, 0));
    client.produced("topic", 1, &plain(1)).await;
    let response = client.call(12, &next(2)).await;
    assert_eq!(response.responses[0].partitions.len(), 1);
    assert_eq!(response.responses[0].partitions[0].partition_index, 1);
    assert_eq!(client.call(12, &next(9)).await.error_code, 71);
    assert_eq!(client.call(13, &next(3)).await.error_code, 106);
    let forget = ForgottenTopic::default().with_topic(name("topic")).with_partitions(vec![1]);
    let response = client.call(12, &next(3).with_forgotten_topics_data(vec![forget])).await;
    assert_eq!((response.error_code, response.responses.len()), (0, 0));
    let response = client.call(12, &next(-1)).await;
    assert_eq!((response.error_code, response.session_id), (0, 0));
    assert_eq!(client.call(12, &next(4)).await.error_code, 70);
}

#[tokio::test]
async fn behaviour_74_and_behaviour_80_records_are_never_null_and_no_replica_is_preferred() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 2, &[]).await;
    let mut client = broker.connect().await;
    client.produced("topic", 0, &plain(1)).await;
    for version in 4..=12 {
        // With records, without, out of range, and not there at all.
        let request = several("topic", &[(0, 0, 1 << 20), (1, 0, 1 << 20), (0, 7, 1 << 20), (9, 0, 1 << 20)]);
        let response = client.call(version, &request).await;
        let partitions = &response.responses[0].partitions;
        let records: Vec<_> = partitions
            .iter()
            .map(|partition| partition.records.as_ref().map(|records| records.len()))
            .collect();
        assert_eq!(records, [Some(plain(1).len()), Some(0), Some(0), Some(0)], "{version}");
        for partition in partitions {
            assert_eq!(partition.preferred_read_replica.0, -1);
        }
    }
}

#[tokio::test]
async fn behaviour_70_topics_by_id() {
    let broker = TestBroker::start().await;
    let topic = broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    for (id, partition, code) in [(topic.id, 0, 0), (Uuid::from_u128(9), 0, 100), (topic.id, 3, 3)] {
        let mut request = fetch_request("", partition, 0);
        request.topics[0].topic_id = id;
        let response = client.call(13, &request).await;
        assert_eq!(response.responses[0].topic_id, id);
        assert_eq!(response.responses[0].partitions[0].error_code, code);
    }
}

#[tokio::test]
async fn behaviour_71_leader_epochs_are_checked() {
    let broker = TestBroker::start().await;
    let topic = broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    client.produced("topic", 0, &plain(3)).await;
    let ours = broker.broker.partitions.get(&topic, 0).await.unwrap().leader_epoch;
    for (claimed, code) in [(ours, 0), (-1, 0), (ours + 1, 75)] {
        let mut request = fetch_request("topic", 0, 0);
        request.topics[0].partitions[0].current_leader_epoch = claimed;
        let response = client.call(12, &request).await;
        assert_eq!(response.responses[0].partitions[0].error_code, code, "{claimed}");
    }
}
