//! What a partition knows beside its log: producers, and how it comes to know it when it is opened.

use kafka_protocol::messages::DescribeProducersRequest;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::PartitionResponse;
use ottla::partition::retention::Now;

use crate::support::{Client, Disk, Options, TestBroker, name};
use crate::testing;

async fn describe(client: &mut Client, topic: &str, partitions: &[i32]) -> Vec<PartitionResponse> {
    let topic = TopicRequest::default().with_name(name(topic)).with_partition_indexes(partitions.to_vec());
    let mut response = client.call(0, &DescribeProducersRequest::default().with_topics(vec![topic])).await;
    response.topics.remove(0).partitions
}

async fn produce(client: &mut Client, id: i64, epoch: i16, sequence: i32, count: i32) {
    let batch = testing::batch(count, |spec| {
        (spec.producer_id, spec.producer_epoch, spec.base_sequence) = (id, epoch, sequence);
    });
    client.produced("topic", 0, &batch).await;
}

#[tokio::test]
async fn behaviour_116_the_producers_of_a_partition_are_described() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    broker.topic("topic", 2, &[]).await;
    let mut client = broker.connect().await;
    produce(&mut client, 7, 0, 0, 3).await;
    produce(&mut client, 9, 2, 0, 1).await;
    produce(&mut client, 7, 0, 3, 2).await;
    let check = async |client: &mut Client| {
        let found = describe(client, "topic", &[0, 1, 2, 0]).await;
        let codes: Vec<_> = found.iter().map(|found| (found.partition_index, found.error_code)).collect();
        assert_eq!(codes, [(0, 0), (1, 0), (2, 3), (0, 42)]);
        let mut active: Vec<_> = found[0]
            .active_producers
            .iter()
            .map(|state| {
                (state.producer_id.0, state.producer_epoch, state.last_sequence, state.last_timestamp)
            })
            .collect();
        active.sort_unstable();
        assert_eq!(active, [(7, 0, 4, 1_000_001), (9, 2, 0, 1_000_000)]);
        for state in &found[0].active_producers {
            assert_eq!((state.coordinator_epoch, state.current_txn_start_offset), (-1, -1));
        }
        assert!(found[1].active_producers.is_empty());
        assert_eq!(describe(client, "nowhere", &[0]).await[0].error_code, 3);
    };
    check(&mut client).await;
    broker.crash(&disk).await;
    let mut options = Options::default();
    let broker = TestBroker::on(&disk, options.clone()).await;
    check(&mut broker.connect().await).await;
    broker.crash(&disk).await;
    // Whoever wrote last before this very moment has expired.
    options.partitions.limits.producer_expiration_ms = -1;
    let broker = TestBroker::on(&disk, options).await;
    let mut client = broker.connect().await;
    assert!(describe(&mut client, "topic", &[0]).await[0].active_producers.is_empty());
}

#[tokio::test]
async fn expired_producers_give_their_memory_back_without_a_new_one() {
    let broker = TestBroker::start().await;
    let topic = broker.topic("topic", 1, &[]).await;
    let partition = broker.partition(&topic, 0).await;
    let mut client = broker.connect().await;
    produce(&mut client, 7, 0, 0, 1).await;
    // Nobody has expired at the beginning of time: this is what is held.
    let held = || partition.producers(0, |id, _| id);
    let now = ottla::partition::wall_clock_ms();
    for (days, left) in [(0, vec![7]), (2, vec![])] {
        let now = Now { ms: now + days * 86_400_000, believed: true };
        broker.broker.partitions.retain(&broker.broker.config(), now).await.unwrap();
        assert_eq!(held(), left, "after {days} days");
    }
}

/// Retention takes what the log says of a producer; what the broker knows of it stays, in a crash as well.
#[tokio::test]
async fn a_producer_goes_on_after_its_records_went_and_the_broker_crashed() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    let topic = broker.topic("topic", 1, &[("retention.ms", "0")]).await;
    let mut client = broker.connect().await;
    let passes = async |broker: &TestBroker| {
        let now = Now { ms: ottla::partition::wall_clock_ms() + 60_000, believed: true };
        broker.broker.partitions.retain(&broker.broker.config(), now).await.unwrap()
    };
    let start = |broker: &TestBroker| {
        broker.broker.metadata.image().stream(topic.partitions[0].log).expect("it is there").start
    };
    produce(&mut client, 7, 0, 0, 1).await;
    broker.broker.partitions.storage().flush().await.unwrap();
    passes(&broker).await;
    assert_eq!(start(&broker), 1, "a partition that is open");
    broker.crash(&disk).await;

    let broker = TestBroker::on(&disk, Options::default()).await;
    let known = async || broker.partition(&topic, 0).await.producers(0, |id, _| id);
    assert_eq!(known().await, [7]);
    let mut client = broker.connect().await;
    produce(&mut client, 7, 0, 1, 1).await;
    broker.broker.partitions.storage().flush().await.unwrap();
    broker.crash(&disk).await;

    let broker = TestBroker::on(&disk, Options::default()).await;
    passes(&broker).await;
    assert_eq!(start(&broker), 2, "one that nobody has opened yet");
    broker.crash(&disk).await;

    let broker = TestBroker::on(&disk, Options::default()).await;
    let known = async || broker.partition(&topic, 0).await.producers(0, |id, _| id);
    assert_eq!(known().await, [7]);
    let mut client = broker.connect().await;
    produce(&mut client, 7, 0, 2, 1).await;
    assert_eq!(broker.partition(&topic, 0).await.high_watermark(), 3);
}

/// What a start reads does not grow with what was written before, even if nobody stops the broker in order.
#[tokio::test]
async fn behaviour_51_a_hundred_times_the_history_is_no_more_to_replay() {
    let interval = 16 << 10;
    let batch_bytes = testing::batch(1, |spec| spec.value_bytes = 1_000).len() as u64;
    let mut replayed = Vec::new();
    for batches in [24, 2_408] {
        let disk = Disk::new();
        let mut options = Options::default();
        options.partitions.checkpoint_interval_bytes = interval;
        let broker = TestBroker::on(&disk, options.clone()).await;
        let topic = broker.topic("topic", 1, &[]).await;
        let mut client = broker.connect().await;
        for batch in 0..batches {
            let bytes = testing::batch(1, |spec| {
                (spec.producer_id, spec.producer_epoch, spec.base_sequence) =
                    (batch % 7, 0, (batch / 7) as i32);
                spec.value_bytes = 1_000;
            });
            client.produced("topic", 0, &bytes).await;
            if batch % 200 == 199 {
                broker.broker.partitions.storage().flush().await.unwrap();
                let now = Now { ms: 0, believed: true };
                broker.broker.partitions.retain(&broker.broker.config(), now).await.unwrap();
            }
        }
        broker.crash(&disk).await;
        let broker = TestBroker::on(&disk, options).await;
        let partition = broker.partition(&topic, 0).await;
        assert_eq!(partition.high_watermark(), batches as u64);
        assert_eq!(partition.producers(0, |id, _| id).len(), 7, "all that it must know");
        replayed.push(partition.replayed_bytes());
        let image = broker.broker.metadata.image();
        let checkpoints = image.stream(topic.partitions[0].checkpoint).unwrap();
        // Those since the last pass; all before the last one are gone.
        assert!(checkpoints.committed_end - checkpoints.start <= 200 * batch_bytes / interval + 2);
        assert!(checkpoints.parts().size() <= 3, "{:?}", checkpoints.parts().size());
    }
    println!("replayed after 24 and after 2408 batches of {batch_bytes} bytes: {replayed:?} bytes");
    // The interval, and what came while the checkpoint was written.
    for bytes in replayed {
        assert!(bytes > 0 && bytes <= 2 * interval, "{bytes}");
    }
}
