//! ListOffsets (2), versions 1 to 10: where a log begins and ends, and what it held at a time (behaviours 75 to 77).

use std::collections::HashSet;

use futures::stream::{self, StreamExt};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};

use super::{Context, error, fetch};
use crate::broker::Broker;
use crate::metadata::ImageRef;
use crate::partition::Partition;

/// Partitions that are looked at concurrently: a search by time may read from the bucket. No option: see
/// read-gets-in-flight.
const LOOKUPS_AT_ONCE: usize = 8;

/// Timestamps with a meaning, and the version that brought each (`ListOffsetsRequest.java`).
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const SPECIAL_FROM: [(i64, i16); 3] = [(MAX_TIMESTAMP, 7), (EARLIEST_LOCAL, 8), (LATEST_TIERED, 9)];

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    version: i16,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let image = broker.metadata.image();
    let mut seen = HashSet::new();
    let mut twice = HashSet::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let key = (topic.name.as_str(), partition.partition_index);
            if !seen.insert(key) {
                twice.insert(key);
            }
        }
    }
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let answers = topic.partitions.iter().map(|wanted| async {
            let answer = if twice.contains(&(topic.name.as_str(), wanted.partition_index)) {
                Err(ResponseError::InvalidRequest)
            } else {
                answer(broker, &image, version, &topic.name, wanted).await
            };
            respond(version, wanted.partition_index, answer)
        });
        let answers: Vec<_> = answers.collect();
        let partitions = stream::iter(answers).buffered(LOOKUPS_AT_ONCE).collect().await;
        let response = ListOffsetsTopicResponse::default().with_name(topic.name.clone());
        topics.push(response.with_partitions(partitions));
    }
    ListOffsetsResponse::default().with_topics(topics)
}

/// Offset, timestamp, leader epoch; each -1 if there is none.
type Answer = (i64, i64, i32);

const NOTHING: Answer = (-1, -1, -1);

async fn answer(
    broker: &Broker,
    image: &ImageRef,
    version: i16,
    topic: &str,
    wanted: &ListOffsetsPartition,
) -> Result<Answer, ResponseError> {
    let supported = match SPECIAL_FROM.iter().find(|(special, _)| *special == wanted.timestamp) {
        Some((_, from)) => version >= *from,
        None => wanted.timestamp >= EARLIEST,
    };
    if !supported {
        return Err(ResponseError::UnsupportedVersion);
    }
    let topic = image.topic_named(topic).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let partition = broker.partitions.get(topic, wanted.partition_index).await;
    let partition = partition.map_err(|why| error::of_get(&why))?;
    if let Some(error) = fetch::check_epoch(&partition, wanted.current_leader_epoch) {
        return Err(error);
    }
    let answer = look_up(&partition, wanted.timestamp).await?;
    // Asked last: all that was read is true if this broker led until now. A deposed one does not know the latest.
    if broker.speaks_for(&partition) || host::planted("stale-latest") {
        Ok(answer)
    } else {
        Err(ResponseError::NotLeaderOrFollower)
    }
}

async fn look_up(partition: &Partition, timestamp: i64) -> Result<Answer, ResponseError> {
    let found = match timestamp {
        LATEST => {
            let offset = partition.high_watermark();
            return Ok((offset as i64, -1, partition.leader_epoch));
        }
        EARLIEST | EARLIEST_LOCAL => {
            let offset = partition.log_start();
            return Ok((offset as i64, -1, partition.epoch_of(offset)));
        }
        // Nothing is tiered in Kafka's sense.
        LATEST_TIERED => return Ok(NOTHING),
        MAX_TIMESTAMP => partition.max_timestamp().await,
        timestamp => partition.find_timestamp(timestamp).await,
    };
    let found = found.map_err(|why| error::of_read(&why))?;
    Ok(found.map_or(NOTHING, |found| (found.offset as i64, found.timestamp, found.leader_epoch)))
}

fn respond(version: i16, index: i32, answer: Result<Answer, ResponseError>) -> ListOffsetsPartitionResponse {
    let (error_code, (offset, timestamp, epoch)) = match answer {
        Ok(answer) => (0, answer),
        Err(error) => (error.code(), NOTHING),
    };
    let response = ListOffsetsPartitionResponse::default()
        .with_partition_index(index)
        .with_error_code(error_code)
        .with_offset(offset)
        .with_timestamp(timestamp);
    if version >= 4 { response.with_leader_epoch(epoch) } else { response }
}
