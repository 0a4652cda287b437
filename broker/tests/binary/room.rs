//! Requests that are larger than what the write-ahead log or its cache takes at once: they wait, and are never refused.

use bytes::Bytes;
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};

use crate::process::{Ottla, Storage, run};
use crate::testing;
use crate::wire::{Wire, name};

const NO_ERROR: i16 = 0;
const MESSAGE_TOO_LARGE: i16 = 10;

/// One batch for each partition, of a record with a value of so many bytes; the error codes.
fn produce(port: u16, topic: &str, value_bytes: &[usize]) -> Vec<i16> {
    let data = value_bytes.iter().zip(0..).map(|(&bytes, index)| {
        let batch = testing::batch(1, |spec| spec.value_bytes = bytes);
        PartitionProduceData::default().with_index(index).with_records(Some(Bytes::from(batch)))
    });
    let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(data.collect());
    let request =
        ProduceRequest::default().with_acks(-1).with_timeout_ms(60_000).with_topic_data(vec![topic]);
    let response = Wire::connect_to(port).unwrap().call(9, &request).unwrap();
    let partitions = &response.responses[0].partition_responses;
    partitions.iter().map(|partition| partition.error_code).collect()
}

fn with_topic(arguments: &[&str], partitions: usize) -> Ottla {
    let mut broker = Ottla::new(Storage::DirectoryBlock).with(arguments);
    broker.start();
    run(&mut broker.cli(&["topic", "create", "t", "--partitions", &partitions.to_string()]));
    broker
}

/// Of the log's writes under way: one batch of the request leaves room for no other one.
#[test]
fn a_request_waits_for_the_writes_of_its_own_batches_and_of_others() {
    // One batch fills it.
    let log = [
        "--block-wal-frame",
        "160KiB",
        "--block-wal-frame-target",
        "160KiB",
        "--block-wal-pending",
        "160KiB",
    ];
    let others = ["--group-batch", "1KiB", "--group-record", "64KiB", "--kafka", "message.max.bytes=90000"];
    let mut broker = with_topic(&[&log[..], &others[..]].concat(), 20);
    let port = broker.port;
    assert_eq!(produce(port, "t", &[85_000; 20]), [NO_ERROR; 20]);
    // Several are let in at once, and one is faster.
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(move || {
                for _ in 0..30 {
                    assert_eq!(produce(port, "t", &[85_000; 2]), [NO_ERROR; 2]);
                }
            });
        }
    });
    // What never fits is refused at once, and keeps nothing else.
    let refused = produce(broker.port, "t", &[10, 100_000, 10]);
    assert_eq!(refused, [NO_ERROR, MESSAGE_TOO_LARGE, NO_ERROR]);
    broker.stop();
}

/// Of the log cache, and of the volume behind it, which has 64 MiB: only uploads and trims make room for the rest of it.
#[test]
fn a_request_larger_than_the_log_waits_for_trims() {
    let arguments = ["--log-cache", "16MiB", "--upload-bytes", "4MiB", "--upload-interval", "1h"];
    let mut broker = with_topic(&arguments, 90);
    assert_eq!(produce(broker.port, "t", &[900_000; 90]), [NO_ERROR; 90]);
    broker.stop();
}
