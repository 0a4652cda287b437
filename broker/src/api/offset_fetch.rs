//! OffsetFetch (key 9), versions 1–9. Behaviour 95.
//!
//! `require_stable` has nothing to wait for: there are no transactional commits yet. A member's id and epoch (version
//! 9) are checked for groups of the newer protocol only, as in Kafka.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{GroupId, OffsetFetchRequest, OffsetFetchResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::Context;
use super::side_by_side;
use super::strings::{shared, wire};
use crate::broker::Broker;
use crate::group::Groups;
use crate::group::coordinator::Fetched;
use crate::group::groups::NoAnswer;
use crate::group::records::CommittedOffset;

const NO_OFFSET: i64 = -1;
const NO_LEADER_EPOCH: i32 = -1;

/// What is asked of one group: topics with their partitions, or everything.
type Wanted = Option<Vec<(TopicName, Vec<i32>)>>;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    version: i16,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    answer(&broker.groups, version, request).await
}

pub async fn answer(groups: &Groups, version: i16, request: OffsetFetchRequest) -> OffsetFetchResponse {
    if version >= 8 {
        // Side by side: one coordinator that loads does not hold up the others.
        let answered = request.groups.into_iter().map(|group| answer_group(groups, group));
        return OffsetFetchResponse::default().with_groups(side_by_side(answered).await);
    }
    let wanted: Wanted = request
        .topics
        .map(|topics| topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect());
    let (error, topics) = match fetch(groups, &request.group_id, &wanted).await {
        Ok(fetched) => (None, by_topic(fetched)),
        // Version 1 has no place for an error but the partitions.
        Err(error) if version < 2 => (Some(error), asked(&wanted)),
        Err(error) => (Some(error), Vec::new()),
    };
    let code = error.map_or(0, |error| error.code());
    let topics = topics.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|(index, offset)| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(index)
                .with_committed_offset(offset_of(&offset))
                .with_committed_leader_epoch(leader_epoch_of(&offset))
                .with_metadata(Some(metadata_of(&offset)))
                .with_error_code(code)
        });
        OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions.collect())
    });
    OffsetFetchResponse::default().with_error_code(code).with_topics(topics.collect())
}

async fn answer_group(groups: &Groups, request: OffsetFetchRequestGroup) -> OffsetFetchResponseGroup {
    let wanted: Wanted = request
        .topics
        .map(|topics| topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect());
    let response = OffsetFetchResponseGroup::default();
    let fetched = match fetch(groups, &request.group_id, &wanted).await {
        Ok(fetched) => fetched,
        Err(error) => return response.with_group_id(request.group_id).with_error_code(error.code()),
    };
    let topics = by_topic(fetched).into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|(index, offset)| {
            OffsetFetchResponsePartitions::default()
                .with_partition_index(index)
                .with_committed_offset(offset_of(&offset))
                .with_committed_leader_epoch(leader_epoch_of(&offset))
                .with_metadata(Some(metadata_of(&offset)))
        });
        OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions.collect())
    });
    response.with_group_id(request.group_id).with_topics(topics.collect())
}

async fn fetch(groups: &Groups, group: &GroupId, wanted: &Wanted) -> Result<Fetched, ResponseError> {
    let scope = wanted.as_ref().map(|topics| {
        let pairs = topics.iter().flat_map(|(name, partitions)| {
            let name = shared(name);
            partitions.iter().map(move |partition| (name.clone(), *partition))
        });
        pairs.collect()
    });
    groups.fetch(shared(group), scope).await.map_err(|no_answer| match no_answer {
        // Not every client expects COORDINATOR_NOT_AVAILABLE here.
        NoAnswer::Unavailable => ResponseError::NotCoordinator,
        other => other.response(),
    })
}

type ByTopic = Vec<(TopicName, Vec<(i32, Option<CommittedOffset>)>)>;

/// Neighbours of one topic go together; the order stays.
fn by_topic(fetched: Fetched) -> ByTopic {
    let mut topics: Vec<(Arc<str>, Vec<_>)> = Vec::new();
    for ((topic, partition), offset) in fetched {
        match topics.last_mut() {
            Some((last, partitions)) if *last == topic => partitions.push((partition, offset)),
            _ => topics.push((topic, vec![(partition, offset)])),
        }
    }
    topics.into_iter().map(|(topic, partitions)| (TopicName(wire(&topic)), partitions)).collect()
}

fn asked(wanted: &Wanted) -> ByTopic {
    let topics = wanted.iter().flatten();
    topics
        .map(|(name, indexes)| (name.clone(), indexes.iter().map(|index| (*index, None)).collect()))
        .collect()
}

fn offset_of(offset: &Option<CommittedOffset>) -> i64 {
    offset.as_ref().map_or(NO_OFFSET, |offset| offset.offset)
}

fn leader_epoch_of(offset: &Option<CommittedOffset>) -> i32 {
    offset.as_ref().map_or(NO_LEADER_EPOCH, |offset| offset.leader_epoch)
}

fn metadata_of(offset: &Option<CommittedOffset>) -> StrBytes {
    offset.as_ref().map_or_else(StrBytes::default, |offset| wire(&offset.metadata))
}
