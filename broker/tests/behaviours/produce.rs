//! kafka.md 4.D and the idempotent part of 4.E.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiVersionsRequest, ProduceRequest, ProduceResponse};
use ottla::partition::batch::{BatchHeader, Codec};
use ottla::partition::validate::{self, Rules};
use ottla::partition::{AppendError, Partition, wall_clock_ms};
use uuid::Uuid;
use wal::memory::MemoryMedium;

use crate::support::{
    Client, Disk, Options, TestBroker, name, produce_request, produce_request_by_id, until, within,
};
use crate::testing::{self, Spec};

fn idempotent(id: i64, epoch: i16, sequence: i32, count: i32) -> Vec<u8> {
    let change = |spec: &mut Spec| {
        (spec.producer_id, spec.producer_epoch, spec.base_sequence) = (id, epoch, sequence);
    };
    testing::batch(count, change).to_vec()
}

fn plain(count: i32) -> Vec<u8> {
    testing::batch(count, |_| {}).to_vec()
}

async fn error(client: &mut Client, topic: &str, batch: &[u8]) -> i16 {
    let response = client.produce(topic, 0, batch).await;
    assert!(response.error_code == 0 || response.base_offset == -1, "behaviour 39: {response:?}");
    response.error_code
}

#[tokio::test]
async fn behaviour_39_every_version_answers_with_the_base_offset() {
    let broker = TestBroker::start().await;
    let topic = broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    for (at, version) in (3..=13).enumerate() {
        let request = match version {
            13 => produce_request_by_id(topic.id, 0, &plain(2)),
            _ => produce_request("topic", 0, &plain(2)),
        };
        let response = client.call(version, &request).await;
        let topic = &response.responses[0];
        assert_eq!(&*topic.name.0, if version < 13 { "topic" } else { "" });
        let partition = &topic.partition_responses[0];
        assert_eq!((partition.error_code, partition.base_offset), (0, at as i64 * 2), "{version}");
        assert_eq!(partition.log_append_time_ms, -1);
        assert_eq!(partition.log_start_offset, if version < 5 { -1 } else { 0 });
    }
}

#[tokio::test]
async fn behaviour_39_log_append_time_is_the_brokers_and_is_answered() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    let mut client = broker.connect().await;
    let before = wall_clock_ms();
    let response = client.produce("topic", 0, &plain(2)).await;
    assert!((before..=wall_clock_ms()).contains(&response.log_append_time_ms));
    let fetched = client.fetch("topic", 0, 0).await.records.unwrap();
    let header = BatchHeader::parse(&fetched).unwrap();
    assert!(header.is_log_append_time());
    assert_eq!(header.max_timestamp, response.log_append_time_ms);
}

#[tokio::test]
async fn behaviour_9_pipelined_produce_requests_are_appended_and_answered_in_order() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    let topic = broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    client.produced("topic", 0, &plain(1)).await;
    // With the WAL held back none can be acknowledged: all of them are enqueued before the first is done.
    disk.wal.hold();
    let ids: Vec<i32> = {
        let mut ids = Vec::new();
        for _ in 0..10 {
            ids.push(client.send(9, &produce_request("topic", 0, &plain(1))).await);
        }
        ids
    };
    let partition = broker.partition(&topic, 0).await;
    until(|| partition.log_end() == 11).await;
    assert_eq!(partition.high_watermark(), 1, "appended, and not yet readable");
    disk.wal.resume();
    for (at, id) in ids.into_iter().enumerate() {
        let response = client.receive::<ProduceRequest>(9, id).await;
        assert_eq!(response.responses[0].partition_responses[0].base_offset, at as i64 + 1);
    }
}

#[tokio::test]
async fn behaviour_10_acks_0_is_silent_and_an_error_closes_the_connection() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    client.send(9, &produce_request("topic", 0, &plain(1)).with_acks(0)).await;
    let hello = ApiVersionsRequest::default();
    let id = client.send(2, &hello).await;
    client.receive::<ApiVersionsRequest>(2, id).await;
    assert_eq!(client.produced("topic", 0, &plain(1)).await, 1, "the silent one was appended");
    client.send(9, &produce_request("nowhere", 0, &plain(1)).with_acks(0)).await;
    client.closed().await;
}

#[tokio::test]
async fn behaviour_33_and_behaviour_34_and_behaviour_38_bad_batches_are_refused_with_the_right_code_and_harm_nothing()
 {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[("max.message.bytes", "1000")]).await;
    let mut client = broker.connect().await;
    let changed = |change: fn(&mut bytes::BytesMut)| {
        let mut bytes = testing::batch(2, |_| {});
        change(&mut bytes);
        testing::seal(&mut bytes);
        bytes.to_vec()
    };
    assert_eq!(error(&mut client, "topic", &[]).await, 87);
    assert_eq!(error(&mut client, "topic", &[plain(1), plain(1)].concat()).await, 87);
    assert_eq!(error(&mut client, "topic", &changed(|bytes| bytes[16] = 1)).await, 87);
    assert_eq!(error(&mut client, "topic", &changed(|bytes| bytes[7] = 1)).await, 87);
    assert_eq!(error(&mut client, "topic", &changed(|bytes| bytes[22] |= 1 << 5)).await, 87);
    let mut corrupt = plain(2);
    *corrupt.last_mut().unwrap() ^= 1;
    assert_eq!(error(&mut client, "topic", &corrupt).await, 2);
    let large = testing::batch(1, |spec| spec.value_bytes = 1000);
    assert_eq!(error(&mut client, "topic", &large).await, 10);
    let future = testing::batch(2, |spec| spec.base_timestamp = wall_clock_ms() + 4_000_000);
    let response = client.produce("topic", 0, &future).await;
    assert_eq!((response.error_code, response.record_errors.len()), (32, 2));
    assert!(response.error_message.is_some());
    let zstd = testing::batch(1, |spec| spec.codec = Codec::Zstd).to_vec();
    let response = client.call(6, &produce_request("topic", 0, &zstd)).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 76);
    let transactional = testing::batch(1, |spec| {
        spec.attributes = 1 << 4;
        (spec.producer_id, spec.producer_epoch, spec.base_sequence) = (1, 0, 0);
    });
    assert_eq!(error(&mut client, "topic", &transactional).await, 48);
    assert_eq!(client.produced("topic", 0, &plain(1)).await, 0);
}

#[tokio::test]
async fn behaviour_35_and_behaviour_43_batches_come_back_byte_for_byte() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let sent = testing::batch(20, |spec| spec.codec = codec).to_vec();
        let offset = client.produced("topic", 0, &sent).await;
        let back = client.fetch("topic", 0, offset).await.records.unwrap();
        assert_eq!(back[..8], offset.to_be_bytes());
        assert_eq!(back[8..12], sent[8..12]);
        assert_eq!(back[16..], sent[16..], "{codec:?}");
    }
}

#[tokio::test]
async fn behaviour_44_null_and_empty_and_repeated_headers_come_back_as_they_were() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    // Length, attributes, timestamp and offset deltas, then key, value and headers; -1 is 1 in zigzag, 1 is 2.
    let records: [&[u8]; 4] = [
        // Null key and value, no headers.
        &[12, 0, 0, 0, 1, 1, 0],
        // Empty key and value; a header of an empty key and a null value.
        &[16, 0, 0, 2, 0, 0, 2, 0, 1],
        // The header `b`, then `a` twice with different values, then `a` again with an empty one.
        &[46, 0, 0, 4, 2, b'k', 2, b'v', 8, 2, b'b', 2, 1, 2, b'a', 2, 2, 2, b'a', 2, 1, 2, b'a', 0],
        &[12, 0, 0, 6, 1, 0, 0],
    ];
    let mut sent = testing::batch(1, |_| {});
    sent.truncate(61);
    for record in records {
        sent.extend_from_slice(record);
    }
    let length = (sent.len() - 12) as i32;
    sent[8..12].copy_from_slice(&length.to_be_bytes());
    sent[23..27].copy_from_slice(&3i32.to_be_bytes());
    sent[57..61].copy_from_slice(&4i32.to_be_bytes());
    testing::seal(&mut sent);
    let offset = client.produced("topic", 0, &sent).await;
    let back = client.fetch("topic", 0, offset).await.records.unwrap();
    assert_eq!(back[16..], sent[16..]);
}

#[tokio::test]
async fn behaviour_40_and_behaviour_41_and_behaviour_42_errors_are_per_partition() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 2, &[]).await;
    broker.topic("__consumer_offsets", 1, &[]).await;
    let mut client = broker.connect().await;
    let part = |index: i32, batch: Vec<u8>| {
        PartitionProduceData::default().with_index(index).with_records(Some(Bytes::from(batch)))
    };
    let mut corrupt = plain(1);
    *corrupt.last_mut().unwrap() ^= 1;
    let request = ProduceRequest::default().with_acks(1).with_timeout_ms(5000).with_topic_data(vec![
        TopicProduceData::default().with_name(name("topic")).with_partition_data(vec![
            part(0, plain(1)),
            part(1, corrupt),
            part(2, plain(1)),
        ]),
        TopicProduceData::default().with_name(name("nowhere")).with_partition_data(vec![part(0, plain(1))]),
        TopicProduceData::default()
            .with_name(name("__consumer_offsets"))
            .with_partition_data(vec![part(0, plain(1))]),
    ]);
    let response = client.call(9, &request).await;
    let codes: Vec<Vec<i16>> = response
        .responses
        .iter()
        .map(|topic| topic.partition_responses.iter().map(|partition| partition.error_code).collect())
        .collect();
    assert_eq!(codes, [vec![0, 2, 3], vec![3], vec![17]]);
    let response = client.call(13, &produce_request_by_id(Uuid::from_u128(1), 0, &plain(1))).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 100);
    for acks in [2, -2] {
        let response = client.call(9, &produce_request("topic", 0, &plain(1)).with_acks(acks)).await;
        assert_eq!(response.responses[0].partition_responses[0].error_code, 21);
    }
}

#[tokio::test]
async fn behaviour_48_a_duplicate_batch_returns_its_original_offset() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    for batch in 0..6 {
        assert_eq!(client.produced("topic", 0, &idempotent(7, 0, batch * 3, 3)).await, i64::from(batch) * 3);
    }
    for batch in 1..6 {
        assert_eq!(client.produced("topic", 0, &idempotent(7, 0, batch * 3, 3)).await, i64::from(batch) * 3);
    }
    assert_eq!(error(&mut client, "topic", &idempotent(7, 0, 0, 3)).await, 45);
    assert_eq!(client.fetch("topic", 0, 0).await.high_watermark, 18);
}

#[tokio::test]
async fn behaviour_48_a_duplicate_of_a_batch_in_flight_is_not_acknowledged_before_it() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    let topic = broker.topic("topic", 1, &[]).await;
    let partition = broker.partition(&topic, 0).await;
    let mut client = broker.connect().await;
    client.produced("topic", 0, &idempotent(7, 0, 0, 1)).await;
    disk.wal.hold();
    let mut other = broker.connect().await;
    let first = client.send(9, &produce_request("topic", 0, &idempotent(7, 0, 1, 1))).await;
    until(|| partition.log_end() == 2).await;
    // With little time the duplicate says that it has run out: it cannot be acknowledged yet.
    let hurried = produce_request("topic", 0, &idempotent(7, 0, 1, 1)).with_timeout_ms(20);
    let response = other.call(9, &hurried).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 7);
    assert_eq!(partition.log_end(), 2, "and was not appended again");
    let second = other.send(9, &produce_request("topic", 0, &idempotent(7, 0, 1, 1))).await;
    disk.wal.resume();
    for (client, id) in [(&mut client, first), (&mut other, second)] {
        let response = client.receive::<ProduceRequest>(9, id).await;
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!((partition.error_code, partition.base_offset), (0, 1));
    }
}

#[tokio::test]
async fn behaviour_49_and_behaviour_50_sequences_and_epochs_are_checked() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    assert_eq!(error(&mut client, "topic", &idempotent(7, 1, 5, 1)).await, 0, "nothing is known of it");
    assert_eq!(error(&mut client, "topic", &idempotent(7, 1, 7, 1)).await, 45);
    assert_eq!(error(&mut client, "topic", &idempotent(7, 0, 6, 1)).await, 47);
    assert_eq!(error(&mut client, "topic", &idempotent(7, 2, 6, 1)).await, 45);
    assert_eq!(error(&mut client, "topic", &idempotent(7, 2, 0, 1)).await, 0);
}

#[tokio::test]
async fn behaviour_51_producer_state_survives_a_crash() {
    // Once with the whole log replayed, once from checkpoints, which come every few batches.
    for checkpoint_interval_bytes in [u64::MAX, 300] {
        let disk = Disk::new();
        let partitions = ottla::partition::Config { checkpoint_interval_bytes, ..Default::default() };
        let options = Options { partitions, ..Options::default() };
        let broker = TestBroker::on(&disk, options.clone()).await;
        broker.topic("topic", 1, &[]).await;
        let mut client = broker.connect().await;
        for sequence in 0..20 {
            client.produced("topic", 0, &idempotent(7, 3, sequence, 1)).await;
        }
        broker.crash(&disk).await;

        let broker = TestBroker::on(&disk, options).await;
        let mut client = broker.connect().await;
        assert_eq!(
            client.produced("topic", 0, &idempotent(7, 3, 17, 1)).await,
            17,
            "a retry across the crash"
        );
        assert_eq!(error(&mut client, "topic", &idempotent(7, 2, 20, 1)).await, 47);
        assert_eq!(error(&mut client, "topic", &idempotent(7, 3, 21, 1)).await, 45);
        assert_eq!(client.produced("topic", 0, &idempotent(7, 3, 20, 1)).await, 20);
    }
}

#[tokio::test]
async fn behaviour_51_producer_state_survives_an_orderly_restart() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    for sequence in 0..3 {
        client.produced("topic", 0, &idempotent(7, 0, sequence, 1)).await;
    }
    broker.stop().await;
    let broker = TestBroker::on(&disk.with_new_wal(), Options::default()).await;
    let mut client = broker.connect().await;
    assert_eq!(client.produced("topic", 0, &idempotent(7, 0, 1, 1)).await, 1);
    assert_eq!(client.produced("topic", 0, &idempotent(7, 0, 3, 1)).await, 3);
    assert_eq!(client.fetch("topic", 0, 0).await.high_watermark, 4);
}

#[tokio::test]
async fn behaviour_64_a_topic_made_again_knows_nothing_of_the_old_one() {
    let broker = TestBroker::start().await;
    let old = broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    client.produced("topic", 0, &idempotent(7, 5, 0, 1)).await;
    broker.broker.metadata.delete_topics(vec![old.id]).await.unwrap();
    assert_eq!(error(&mut client, "topic", &idempotent(7, 5, 1, 1)).await, 3);
    broker.topic("topic", 1, &[]).await;
    assert_eq!(client.produced("topic", 0, &idempotent(7, 0, 9, 1)).await, 0);
}

#[tokio::test]
async fn a_produce_that_cannot_become_durable_in_time_says_so_and_is_not_lost() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    client.produced("topic", 0, &plain(1)).await;
    disk.wal.hold();
    let response = client.call(9, &produce_request("topic", 0, &plain(1)).with_timeout_ms(20)).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 7);
    let waiting = client.fetch("topic", 0, 1).await;
    assert_eq!((waiting.error_code, waiting.high_watermark), (0, 1), "not readable before it is durable");
    assert_eq!(waiting.records.unwrap().len(), 0);
    let beyond = client.fetch("topic", 0, 2).await;
    assert_eq!(beyond.error_code, 0, "behaviour 68: up to the log's end nothing is out of range");
    disk.wal.resume();
    assert_eq!(client.produced("topic", 0, &plain(1)).await, 2);
    assert_eq!(client.fetch("topic", 0, 1).await.high_watermark, 3);
}

/// A new producer pipelines, the broker has no room for its first batch, and has again when the second comes.
#[tokio::test]
async fn behaviour_49_a_batch_does_not_overtake_one_that_found_no_room() {
    let wal =
        MemoryMedium::new("small", wal::memory::Options { capacity_bytes: 3_900, ..Default::default() });
    let disk = Disk { wal, ..Disk::new() };
    let broker = TestBroker::on(&disk, Options::default()).await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    disk.wal.hold();
    let mut filler = broker.connect().await;
    let large = testing::batch(1, |spec| spec.value_bytes = 3_700).to_vec();
    filler.send(9, &produce_request("topic", 0, &large)).await;
    until(|| disk.wal.held().len() == 1).await;
    let first = produce_request("topic", 0, &idempotent(7, 0, 0, 2)).with_timeout_ms(20);
    let response = client.call(9, &first).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 7, "no room in time");
    disk.wal.resume();
    assert_eq!(error(&mut client, "topic", &idempotent(7, 0, 2, 1)).await, 45);
    assert_eq!(client.produced("topic", 0, &idempotent(7, 0, 0, 2)).await, 1);
    assert_eq!(client.produced("topic", 0, &idempotent(7, 0, 2, 1)).await, 3);
}

/// Admissions of a log are hints: two batches may be let in to room for one. The second is given back whole, and nothing is
/// changed by it.
#[tokio::test]
async fn a_batch_that_came_too_late_for_the_room_is_given_back() {
    let wal =
        MemoryMedium::new("small", wal::memory::Options { capacity_bytes: 3_900, ..Default::default() });
    let disk = Disk { wal, ..Disk::new() };
    let broker = TestBroker::on(&disk, Options::default()).await;
    let topic = broker.topic("topic", 1, &[]).await;
    let partition = broker.partition(&topic, 0).await;
    let storage = broker.broker.partitions.storage();
    let rules = Rules {
        batch_bytes_max: 1 << 20,
        log_append_time: false,
        timestamp_before_max_ms: i64::MAX,
        timestamp_after_max_ms: i64::MAX,
        keys_required: false,
        decompressed_bytes_max: 1 << 20,
        compression: None,
        zstd_allowed: true,
    };
    // Out of one buffer, as those of a request.
    let batch = testing::batch(1, |spec| spec.value_bytes = 3_000);
    let mut buffer = BytesMut::from(&batch[..]);
    buffer.extend_from_slice(&batch);
    let first = validate::check(buffer.split_to(batch.len()), &rules, 0).unwrap();
    let second = validate::check(buffer, &rules, 0).unwrap();
    let admissions = [storage.admit(batch.len()).await.unwrap(), storage.admit(batch.len()).await.unwrap()];
    let [one, two] = admissions;
    assert_eq!(partition.append(0, first, one).unwrap().base_offset, 0);
    let Err(AppendError::NoRoom { batch: back, .. }) = partition.append(0, second, two) else {
        panic!("there is room for one");
    };
    // What lies before is the broker's to write.
    assert_eq!((partition.log_end(), &back.bytes[16..]), (1, &batch[16..]));
    storage.flush().await.unwrap();
    let again = storage.admit(batch.len()).await.unwrap();
    let appended = partition.append(0, *back, again).unwrap();
    assert_eq!(appended.base_offset, 1);
    appended.durable().await.unwrap();
    let stored = partition.read(0, usize::MAX).await.unwrap();
    let stored: Vec<_> = stored.iter().map(|record| (record.base, &record.body[16..])).collect();
    assert_eq!(stored, [(0, &batch[16..]), (1, &batch[16..])]);
}

/// A request does not hear of it that another one was faster: it waits again, until there is room or its time is up.
#[tokio::test]
async fn a_request_whose_room_another_one_took_waits_again() {
    let wal =
        MemoryMedium::new("small", wal::memory::Options { capacity_bytes: 3_900, ..Default::default() });
    let disk = Disk { wal, ..Disk::new() };
    let broker = TestBroker::on(&disk, Options::default()).await;
    broker.topic("topic", 1, &[]).await;
    disk.wal.admit_all();
    disk.wal.hold();
    let large = testing::batch(1, |spec| spec.value_bytes = 3_000).to_vec();
    let mut faster = broker.connect().await;
    let first = faster.send(9, &produce_request("topic", 0, &large)).await;
    until(|| disk.wal.held().len() == 1).await;
    let mut client = broker.connect().await;
    let in_vain = produce_request("topic", 0, &large).with_timeout_ms(20);
    let response = client.call(9, &in_vain).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 19, "nothing makes room");
    let waiting = client.send(9, &produce_request("topic", 0, &large)).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    disk.wal.resume();
    faster.receive::<ProduceRequest>(9, first).await;
    broker.upload().await;
    let response: ProduceResponse = client.receive::<ProduceRequest>(9, waiting).await;
    let partition = &response.responses[0].partition_responses[0];
    assert_eq!((partition.error_code, partition.base_offset), (0, 1));
}

/// One batch for each partition, from 0 on.
fn to_each(topic: &str, batches: &[Vec<u8>]) -> ProduceRequest {
    let data = batches.iter().zip(0..).map(|(batch, index)| {
        PartitionProduceData::default().with_index(index).with_records(Some(Bytes::copy_from_slice(batch)))
    });
    let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(data.collect());
    ProduceRequest::default().with_acks(-1).with_timeout_ms(60_000).with_topic_data(vec![topic])
}

/// The partitions' error codes and base offsets.
fn outcomes(response: &ProduceResponse) -> Vec<(i16, i64)> {
    let partitions = &response.responses[0].partition_responses;
    partitions.iter().map(|partition| (partition.error_code, partition.base_offset)).collect()
}

fn of_value(value_bytes: usize) -> Vec<u8> {
    testing::batch(1, |spec| spec.value_bytes = value_bytes).to_vec()
}

/// A log with room for 3 900 bytes, a topic whose partitions are open, and a batch of that size which is not durable before
/// the log is told to resume.
async fn nearly_full(partitions: u32, value_bytes: usize) -> (TestBroker, Disk, Vec<Arc<Partition>>, Client) {
    let wal =
        MemoryMedium::new("small", wal::memory::Options { capacity_bytes: 3_900, ..Default::default() });
    let disk = Disk { wal, ..Disk::new() };
    let broker = TestBroker::on(&disk, Options::default()).await;
    let topic = broker.topic("topic", partitions, &[]).await;
    let mut open = Vec::new();
    for index in 0..partitions {
        open.push(broker.partition(&topic, index as i32).await);
    }
    broker.topic("filler", 1, &[]).await;
    disk.wal.hold();
    let mut filler = broker.connect().await;
    filler.send(9, &produce_request("filler", 0, &of_value(value_bytes))).await;
    until(|| disk.wal.held().len() == 1).await;
    (broker, disk, open, filler)
}

/// The peer is told that its time is up, and sends all of it again: what was appended nevertheless would be there twice.
#[tokio::test]
async fn nothing_of_a_request_is_appended_once_its_time_is_up() {
    let (broker, disk, partitions, _filler) = nearly_full(2, 3_000).await;
    let ends = || partitions.iter().map(|partition| partition.log_end()).collect::<Vec<_>>();
    let mut client = broker.connect().await;
    let large_first = [of_value(3_000), plain(1)];
    let in_vain = to_each("topic", &large_first).with_timeout_ms(20);
    let response: ProduceResponse = client.call(9, &in_vain).await;
    assert_eq!((outcomes(&response), ends()), (vec![(7, -1), (7, -1)], vec![0, 0]));
    // No time is enough for what need not wait.
    client.call(9, &to_each("topic", &[plain(1), plain(1)]).with_timeout_ms(0)).await;
    assert_eq!(ends(), [1, 1]);
    disk.wal.resume();
    broker.upload().await;
    let response: ProduceResponse = client.call(9, &to_each("topic", &large_first)).await;
    assert_eq!(outcomes(&response), [(0, 1), (0, 1)]);
}

/// Others come in between, and each turn is one at the end of the queue.
#[tokio::test]
async fn a_request_of_many_small_batches_waits_for_one_turn() {
    let (broker, disk, _partitions, _filler) = nearly_full(10, 3_700).await;
    let waiting = |count| {
        let storage = broker.broker.partitions.storage();
        until(move || storage.status().admissions_waiting == count)
    };
    let mut client = broker.connect().await;
    let batches: Vec<_> = (0..10).map(|_| plain(1)).collect();
    let many = client.send(9, &to_each("topic", &batches)).await;
    waiting(1).await;
    let mut other = broker.connect().await;
    let one = other.send(9, &produce_request("topic", 9, &plain(1))).await;
    waiting(2).await;
    disk.wal.resume();
    broker.upload().await;
    let response: ProduceResponse = client.receive::<ProduceRequest>(9, many).await;
    assert_eq!(outcomes(&response), [(0, 0); 10]);
    let response: ProduceResponse = other.receive::<ProduceRequest>(9, one).await;
    assert_eq!(outcomes(&response), [(0, 1)]);
}

/// Of the batches that were let in together, those before it stay where they are, and those behind it come after it.
#[tokio::test]
async fn a_request_goes_on_with_the_batch_whose_room_another_one_took() {
    let (broker, disk, partitions, _filler) = nearly_full(3, 1_700).await;
    let ends = || partitions.iter().map(|partition| partition.log_end()).collect::<Vec<_>>();
    disk.wal.admit_all();
    let mut client = broker.connect().await;
    let batches = [of_value(1_000), of_value(1_500), plain(1)];
    let in_vain = to_each("topic", &batches).with_timeout_ms(0);
    let response: ProduceResponse = client.call(9, &in_vain).await;
    assert_eq!(ends(), [1, 0, 0]);
    assert_eq!(outcomes(&response)[1..], [(19, -1), (7, -1)]);
    let waiting = client.send(9, &to_each("topic", &[plain(1), of_value(1_500), plain(1)])).await;
    until(|| ends() == [2, 0, 0]).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ends(), [2, 0, 0], "nothing overtakes");
    disk.wal.resume();
    broker.upload().await;
    let response: ProduceResponse = client.receive::<ProduceRequest>(9, waiting).await;
    assert_eq!(outcomes(&response), [(0, 1), (0, 0), (0, 0)]);
    assert_eq!(ends(), [2, 1, 1]);
}

/// A thousand partitions must not take a thousand round trips to stop.
#[tokio::test]
async fn checkpoints_at_shutdown_are_written_side_by_side() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    broker.topic("topic", 3, &[]).await;
    let mut client = broker.connect().await;
    for partition in 0..3 {
        client.produced("topic", partition, &idempotent(7, 0, 0, 1)).await;
    }
    disk.wal.hold();
    let partitions = broker.broker.partitions.clone();
    let stopping = tokio::spawn(async move { partitions.shutdown().await });
    until(|| disk.wal.held().len() == 3).await;
    disk.wal.resume();
    within(stopping).await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn behaviour_16_hostile_produce_requests_harm_nobody() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[]).await;
    let mut bystander = broker.connect().await;
    let whole = crate::support::frame(9, 1, &produce_request("topic", 0, &plain(3)));
    for length in 12..whole.len() {
        let mut cut = whole[..length].to_vec();
        cut[..4].copy_from_slice(&((length - 4) as i32).to_be_bytes());
        let mut client = broker.connect().await;
        client.send_raw(&cut).await;
        client.closed().await;
    }
    assert_eq!(bystander.produced("topic", 0, &plain(1)).await, 0);
    broker.stop().await;
}

/// A deposed leader's memory of producers is old: its refusals would stop a producer that did nothing wrong.
#[tokio::test]
async fn a_broker_without_the_right_to_acknowledge_refuses_no_sequence() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 1, &[]).await;
    let mut client = broker.connect().await;
    assert_eq!(error(&mut client, "topic", &idempotent(7, 0, 0, 3)).await, 0);
    assert_eq!(error(&mut client, "topic", &idempotent(7, 0, 9, 1)).await, 45);
    broker.broker.right.revoke("another broker leads");
    assert_eq!(error(&mut client, "topic", &idempotent(7, 0, 9, 1)).await, 6);
}
