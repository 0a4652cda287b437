//! What a user of rskafka does to a broker, in two parts with a restart of the broker in between: Fetch version 4 and
//! other requests of old. The client has no groups.
//!
//! Arguments: `first|second BOOTSTRAP TOPIC`. Exits with 0 only if everything held.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::DateTime;
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;

const PARTITIONS: i32 = 3;
const PER_CODEC: usize = 200;
const CODECS: [Compression; 4] =
    [Compression::NoCompression, Compression::Gzip, Compression::Snappy, Compression::Lz4];
const TOTAL: usize = CODECS.len() * PER_CODEC;
const FIRST_TIMESTAMP: i64 = 1_700_000_000_000;
const TIMEOUT_MS: i32 = 60_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (part, bootstrap, topic) =
        (arguments.next().unwrap(), arguments.next().unwrap(), arguments.next().unwrap());
    let client = ClientBuilder::new(vec![bootstrap]).build().await.unwrap();
    let work = async {
        match part.as_str() {
            "first" => first(&client, &topic).await,
            "second" => second(&client, &topic).await,
            other => panic!("no such part: {other}"),
        }
    };
    tokio::time::timeout(Duration::from_secs(240), work).await.unwrap();
    println!("rskafka {part}: ok");
}

async fn first(client: &Client, topic: &str) {
    let controller = client.controller_client().unwrap();
    controller.create_topic(topic, PARTITIONS, 1, TIMEOUT_MS).await.unwrap();
    let again = controller.create_topic(topic, PARTITIONS, 1, TIMEOUT_MS).await;
    assert_refused(again, ProtocolError::TopicAlreadyExists);
    let topics = client.list_topics().await.unwrap();
    let described = topics.iter().find(|known| known.name == topic).expect("it is listed");
    assert_eq!(described.partitions.len(), PARTITIONS as usize);
    for (number, codec) in CODECS.into_iter().enumerate() {
        produce(client, topic, codec, number * PER_CODEC..(number + 1) * PER_CODEC).await;
    }
    verify(client, topic, TOTAL).await;
    // Partition 1 holds records 1, 4, 7, …: the first at or after number 500 is 502, at offset 167.
    let found =
        partition(client, topic, 1).await.get_offset(OffsetAt::Timestamp(timestamp(500))).await.unwrap();
    assert_eq!(found, 167);
}

async fn second(client: &Client, topic: &str) {
    verify(client, topic, TOTAL).await;
    produce(client, topic, Compression::Lz4, TOTAL..TOTAL + PER_CODEC).await;
    verify(client, topic, TOTAL + PER_CODEC).await;
    let controller = client.controller_client().unwrap();
    controller.delete_topic(topic, TIMEOUT_MS).await.unwrap();
    assert!(client.list_topics().await.unwrap().iter().all(|known| known.name != topic));
    assert_refused(controller.delete_topic(topic, TIMEOUT_MS).await, ProtocolError::UnknownTopicOrPartition);
}

fn assert_refused(result: Result<(), Error>, expected: ProtocolError) {
    match result {
        Err(Error::ServerError { protocol_error, .. }) if protocol_error == expected => {}
        other => panic!("expected {expected:?}, got {other:?}"),
    }
}

fn timestamp(number: usize) -> DateTime<chrono::Utc> {
    DateTime::from_timestamp_millis(FIRST_TIMESTAMP + number as i64).unwrap()
}

async fn partition(client: &Client, topic: &str, partition: i32) -> PartitionClient {
    client.partition_client(topic, partition, UnknownTopicHandling::Error).await.unwrap()
}

/// Every seventh has a null value.
fn record(number: usize) -> Record {
    Record {
        key: Some(format!("key-{number}").into_bytes()),
        value: (number % 7 != 0).then(|| format!("value {number} {}", "x".repeat(number % 300)).into_bytes()),
        headers: BTreeMap::from([
            ("empty".to_owned(), Vec::new()),
            ("number".to_owned(), number.to_string().into_bytes()),
        ]),
        timestamp: timestamp(number),
    }
}

/// The numbers of a partition among some.
fn of_partition(numbers: std::ops::Range<usize>, partition: i32) -> impl Iterator<Item = usize> {
    numbers.filter(move |number| number % PARTITIONS as usize == partition as usize)
}

async fn produce(client: &Client, topic: &str, codec: Compression, numbers: std::ops::Range<usize>) {
    for index in 0..PARTITIONS {
        let records = of_partition(numbers.clone(), index).map(record).collect();
        let offsets = partition(client, topic, index).await.produce(records, codec).await.unwrap();
        let expected: Vec<i64> = of_partition(numbers.clone(), index)
            .map(|number| number as i64 / i64::from(PARTITIONS))
            .collect();
        assert_eq!(offsets, expected);
    }
}

/// Holds each of the first `count` records to its place and contents.
async fn verify(client: &Client, topic: &str, count: usize) {
    for index in 0..PARTITIONS {
        let partition = partition(client, topic, index).await;
        let expected: Vec<Record> = of_partition(0..count, index).map(record).collect();
        assert_eq!(partition.get_offset(OffsetAt::Earliest).await.unwrap(), 0);
        assert_eq!(partition.get_offset(OffsetAt::Latest).await.unwrap(), expected.len() as i64);
        let mut read = Vec::new();
        while read.len() < expected.len() {
            let (records, high_watermark) =
                partition.fetch_records(read.len() as i64, 1..10_000_000, 500).await.unwrap();
            assert_eq!(high_watermark, expected.len() as i64);
            for fetched in records {
                assert_eq!(fetched.offset, read.len() as i64);
                read.push(fetched.record);
            }
        }
        assert!(read == expected, "the records of partition {index} are those that were sent");
    }
}
