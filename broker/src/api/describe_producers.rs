//! DescribeProducers (61), version 0: the producers that a partition knows (behaviour 116; Kafka's
//! `ReplicaManager.activeProducerState`). Transactions are not there yet: no producer has one open.

use std::collections::HashSet;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse};

use super::{Context, error};
use crate::broker::Broker;
use crate::metadata::ImageRef;
use crate::partition::wall_clock_ms;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let image = broker.metadata.image();
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut seen = HashSet::new();
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
        for index in topic.partition_indexes {
            let response = PartitionResponse::default().with_partition_index(index).with_error_message(None);
            // Four bytes of a request may bring half a megabyte of answer, but each partition's only once.
            let found = if seen.insert((topic.name.clone(), index)) {
                producers(broker, &image, &topic.name, index).await
            } else {
                Err(ResponseError::InvalidRequest)
            };
            partitions.push(match found {
                Ok(active) => response.with_active_producers(active),
                Err(error) => response.with_error_code(error.code()),
            });
        }
        topics.push(TopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    DescribeProducersResponse::default().with_topics(topics)
}

async fn producers(
    broker: &Broker,
    image: &ImageRef,
    topic: &str,
    index: i32,
) -> Result<Vec<ProducerState>, ResponseError> {
    let topic = image.topic_named(topic).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let partition = broker.partitions.get(topic, index).await.map_err(|why| error::of_get(&why))?;
    let states = partition.producers(wall_clock_ms(), |id, producer| {
        let last = producer.last();
        ProducerState::default()
            .with_producer_id(id.into())
            .with_producer_epoch(producer.epoch.into())
            .with_last_sequence(last.last_sequence)
            .with_last_timestamp(last.timestamp)
            .with_coordinator_epoch(-1)
            .with_current_txn_start_offset(-1)
    });
    Ok(states)
}
