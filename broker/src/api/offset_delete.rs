//! OffsetDelete (key 47), version 0. Behaviour 98; KIP-496.

use std::collections::HashMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use super::Context;
use super::strings::shared;
use crate::broker::Broker;
use crate::group::Groups;
use crate::group::offsets::TopicPartition;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    answer(&broker.groups, request).await
}

/// A partition that does not exist is an error of its own; what is wrong with the group is one of the response.
pub async fn answer(groups: &Groups, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let refused = |error: ResponseError| OffsetDeleteResponse::default().with_error_code(error.code());
    if request.group_id.is_empty() {
        return refused(ResponseError::InvalidGroupId);
    }
    let mut wanted: Vec<TopicPartition> = Vec::new();
    for topic in &request.topics {
        let (known, name) = (groups.topic(&topic.name), shared(&topic.name));
        let exists = |partition: i32| known.is_some_and(|known| (0..known.partitions).contains(&partition));
        let partitions = topic.partitions.iter().map(|partition| partition.partition_index);
        wanted.extend(partitions.filter(|partition| exists(*partition)).map(|at| (name.clone(), at)));
    }
    let deleted = match groups.delete_offsets(shared(&request.group_id), wanted).await {
        Ok(deleted) => deleted,
        Err(error) => return refused(error),
    };
    let codes: HashMap<TopicPartition, i16> =
        deleted.into_iter().map(|(at, result)| (at, result.err().map_or(0, |error| error.code()))).collect();
    let topics = request.topics.into_iter().map(|topic| {
        let name = shared(&topic.name);
        let partitions = topic.partitions.iter().map(|partition| {
            let at = (name.clone(), partition.partition_index);
            let code = codes.get(&at).copied();
            OffsetDeleteResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code.unwrap_or(ResponseError::UnknownTopicOrPartition.code()))
        });
        let partitions = partitions.collect();
        OffsetDeleteResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}
