//! DescribeTopicPartitions (behaviour 30; KIP-966, Kafka's `DescribeTopicPartitionsRequestHandler`): what Metadata says of
//! topics, page by page.
//!
//! A page ends after so many partitions, within a topic if need be; its cursor names the first partition of the next.

use std::collections::BTreeSet;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName,
};

use super::nodes::Leads;
use super::{Context, authorized, strings, topic_name};
use crate::broker::Broker;
use crate::metadata::Topic;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let image = broker.metadata.image();
    let most = broker.config().max_request_partition_size_limit;
    // Positive, whatever was asked for: a page without a partition would never end.
    let limit = request.response_partition_limit.min(most).max(1) as usize;
    let (from, first) = match &request.cursor {
        Some(cursor) if cursor.partition_index < 0 => return refuse(&request),
        Some(cursor) => (cursor.topic_name.0.as_str(), cursor.partition_index as usize),
        None => ("", 0),
    };
    let page = Page { leads: Leads::of(broker, &image), limit, from, first };
    if request.topics.is_empty() {
        // A topic that was deleted since the cursor was given is passed over.
        page.fill(image.topics_from(from).map(|topic| (&*topic.name, Some(&**topic))))
    } else {
        let wanted: BTreeSet<&str> = request.topics.iter().map(|topic| topic.name.0.as_str()).collect();
        page.fill(wanted.range(from..).map(|name| (*name, image.topic_named(name).map(|topic| &**topic))))
    }
}

/// INVALID_REQUEST, for which the response has no place but at its topics.
fn refuse(request: &DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let cursor = request.cursor.as_ref().map(|cursor| &cursor.topic_name);
    let names = request.topics.iter().map(|topic| &topic.name).chain(cursor);
    let refused = names.map(|name| topic_error(&name.0, ResponseError::InvalidRequest)).collect();
    DescribeTopicPartitionsResponse::default().with_topics(refused)
}

struct Page<'a> {
    leads: Leads<'a>,
    /// Partitions.
    limit: usize,
    /// The topic to begin with, and which of its partitions.
    from: &'a str,
    first: usize,
}

impl Page<'_> {
    /// From topics by name, ascending, none before the one to begin with.
    fn fill<'t>(
        &self,
        topics: impl Iterator<Item = (&'t str, Option<&'t Topic>)>,
    ) -> DescribeTopicPartitionsResponse {
        let mut described = Vec::new();
        let mut left = self.limit;
        let mut next = None;
        for (name, topic) in topics {
            if left == 0 {
                next = Some(cursor(name, 0));
                break;
            }
            let Some(topic) = topic else {
                let error = match topic_name::validate(name) {
                    Ok(()) => ResponseError::UnknownTopicOrPartition,
                    Err(_) => ResponseError::InvalidTopicException,
                };
                described.push(topic_error(name, error));
                continue;
            };
            let first = if name == self.from { self.first.min(topic.partitions.len()) } else { 0 };
            let taken = (topic.partitions.len() - first).min(left);
            described.push(self.describe(topic, first, taken));
            left -= taken;
            if first + taken < topic.partitions.len() {
                next = Some(cursor(name, first + taken));
                break;
            }
        }
        DescribeTopicPartitionsResponse::default().with_topics(described).with_next_cursor(next)
    }

    fn describe(&self, topic: &Topic, first: usize, count: usize) -> DescribeTopicPartitionsResponseTopic {
        let partitions = (first..first + count).map(|index| {
            let partition = &topic.partitions[index];
            let replica = BrokerId(partition.leader as i32);
            let described = DescribeTopicPartitionsResponsePartition::default()
                .with_partition_index(index as i32)
                .with_leader_epoch(partition.leader_epoch)
                .with_replica_nodes(vec![replica])
                .with_isr_nodes(vec![replica])
                // Nullable, but Kafka's own client takes null for a list and fails.
                .with_eligible_leader_replicas(Some(Vec::new()))
                .with_last_known_elr(Some(Vec::new()));
            if self.leads.leader(partition).is_some() {
                described.with_leader_id(replica)
            } else {
                described
                    .with_error_code(ResponseError::LeaderNotAvailable.code())
                    .with_leader_id(BrokerId(-1))
                    .with_offline_replicas(vec![replica])
            }
        });
        DescribeTopicPartitionsResponseTopic::default()
            .with_name(Some(TopicName(strings::wire(&topic.name))))
            .with_topic_id(topic.id)
            .with_is_internal(topic_name::is_internal(&topic.name))
            .with_partitions(partitions.collect())
            .with_topic_authorized_operations(authorized::TOPIC)
    }
}

fn cursor(name: &str, partition: usize) -> Cursor {
    Cursor::default().with_topic_name(TopicName(strings::wire(name))).with_partition_index(partition as i32)
}

fn topic_error(name: &str, error: ResponseError) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(error.code())
        .with_name(Some(TopicName(strings::wire(name))))
        .with_is_internal(topic_name::is_internal(name))
        .with_topic_authorized_operations(authorized::NOT_ASKED)
}
