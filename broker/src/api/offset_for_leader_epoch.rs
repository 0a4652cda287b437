//! OffsetForLeaderEpoch (23), versions 2 to 4 (behaviour 72; Kafka's `Partition.lastOffsetForLeaderEpoch`): consumers
//! ask it after a change of leadership, to see whether what they have read is still there.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use super::{Context, error, fetch};
use crate::broker::Broker;
use crate::metadata::ImageRef;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let image = broker.metadata.image();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in &topic.partitions {
            let (error_code, (epoch, end)) = match answer(broker, &image, &topic.topic, wanted).await {
                Ok(answer) => (0, answer.map_or((-1, -1), |(epoch, end)| (epoch, end as i64))),
                Err(error) => (error.code(), (-1, -1)),
            };
            let partition = EpochEndOffset::default().with_partition(wanted.partition);
            partitions
                .push(partition.with_error_code(error_code).with_leader_epoch(epoch).with_end_offset(end));
        }
        let result = OffsetForLeaderTopicResult::default().with_topic(topic.topic);
        topics.push(result.with_partitions(partitions));
    }
    OffsetForLeaderEpochResponse::default().with_topics(topics)
}

async fn answer(
    broker: &Broker,
    image: &ImageRef,
    topic: &str,
    wanted: &OffsetForLeaderPartition,
) -> Result<Option<(i32, u64)>, ResponseError> {
    let topic = image.topic_named(topic).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let partition = broker.partitions.get(topic, wanted.partition).await;
    let partition = partition.map_err(|why| error::of_get(&why))?;
    if let Some(error) = fetch::check_epoch(&partition, wanted.current_leader_epoch) {
        return Err(error);
    }
    let end = partition.end_of_epoch(wanted.leader_epoch, partition.high_watermark());
    // Asked last: a deposed leader does not know where the latest epoch ends.
    if broker.speaks_for(&partition) { Ok(end) } else { Err(ResponseError::NotLeaderOrFollower) }
}
