//! OffsetCommit (key 8), versions 2–9. Behaviours 93 and 94.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};
use uuid::Uuid;

use super::Context;
use super::strings::shared;
use crate::broker::Broker;
use crate::group::Groups;
use crate::group::offsets::TopicPartition;
use crate::group::records::CommittedOffset;
use crate::group::shard::CommitRequest;

/// No retention time of its own.
const DEFAULT_RETENTION: i64 = -1;

/// What is known of a partition's commit before the coordinator has spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checked {
    /// Its error, whatever the coordinator says.
    Refused(ResponseError),
    /// Its error, unless the coordinator refuses the whole commit.
    Unacceptable(ResponseError),
    Offered,
}

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    version: i16,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    answer(&broker.groups, version, request).await
}

pub async fn answer(groups: &Groups, version: i16, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let mut checked = Vec::new();
    let mut offsets = Vec::new();
    let stamp = Stamp::new(version, &request);
    for topic in &request.topics {
        let known = groups.topic(&topic.name);
        let name = shared(&topic.name);
        for partition in &topic.partitions {
            let verdict = match known {
                Some(known) if (0..known.partitions).contains(&partition.partition_index) => {
                    offer(groups, &stamp, &name, known.id, partition, &mut offsets)
                }
                _ => Checked::Refused(ResponseError::UnknownTopicOrPartition),
            };
            checked.push(verdict);
        }
    }
    let asks = checked.iter().any(|verdict| !matches!(verdict, Checked::Refused(_)));
    let outcome = if asks {
        groups.commit(shared(&request.group_id), commit(version, &request, offsets)).await
    } else {
        Ok(())
    };
    response(request, checked, outcome)
}

fn commit(
    version: i16,
    request: &OffsetCommitRequest,
    offsets: Vec<(TopicPartition, CommittedOffset)>,
) -> CommitRequest {
    CommitRequest {
        member_id: shared(&request.member_id),
        instance_id: request.group_instance_id.as_ref().map(shared),
        generation: request.generation_id_or_member_epoch,
        knows_group_id_not_found: version >= 9,
        offsets,
    }
}

/// The times that all offsets of a commit have in common.
struct Stamp {
    committed_at_ms: i64,
    expires_at_ms: Option<i64>,
}

impl Stamp {
    fn new(version: i16, request: &OffsetCommitRequest) -> Stamp {
        let committed_at_ms = host::clock::wall_ms();
        let asked = version <= 4 && request.retention_time_ms != DEFAULT_RETENTION;
        let expires_at_ms = asked.then(|| committed_at_ms.saturating_add(request.retention_time_ms.max(0)));
        Stamp { committed_at_ms, expires_at_ms }
    }
}

fn offer(
    groups: &Groups,
    stamp: &Stamp,
    topic: &Arc<str>,
    topic_id: Uuid,
    partition: &OffsetCommitRequestPartition,
    offsets: &mut Vec<(TopicPartition, CommittedOffset)>,
) -> Checked {
    let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
    if metadata.len() > groups.options().offset_metadata_bytes_max {
        return Checked::Unacceptable(ResponseError::OffsetMetadataTooLarge);
    }
    let offset = CommittedOffset {
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata: Arc::from(metadata),
        committed_at_ms: stamp.committed_at_ms,
        expires_at_ms: stamp.expires_at_ms,
        topic_id: Some(topic_id),
    };
    offsets.push(((topic.clone(), partition.partition_index), offset));
    Checked::Offered
}

fn response(
    request: OffsetCommitRequest,
    checked: Vec<Checked>,
    outcome: Result<(), ResponseError>,
) -> OffsetCommitResponse {
    let mut checked = checked.into_iter();
    let mut code = || {
        let error = match (checked.next().expect("a verdict for each partition"), outcome) {
            (Checked::Refused(error), _) | (Checked::Unacceptable(error), Ok(())) => Some(error),
            (_, Err(error)) => Some(error),
            (Checked::Offered, Ok(())) => None,
        };
        error.map_or(0, |error| error.code())
    };
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code())
        });
        let partitions = partitions.collect();
        OffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}
