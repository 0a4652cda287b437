//! DescribeLogDirs (behaviour 112): how large the partitions are that this broker leads; clients ask every broker and add
//! up. There is one "directory", the store.

use std::collections::BTreeMap;

use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};

use super::{Context, strings};
use crate::broker::Broker;
use crate::metadata::{ImageRef, Topic};

/// A bucket has no size.
const UNKNOWN: i64 = -1;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let image = broker.metadata.image();
    let topics = match &request.topics {
        None => image
            .topics()
            .map(|topic| describe(broker, &image, topic, 0..topic.partitions.len() as i32))
            .filter(|topic| !topic.partitions.is_empty())
            .collect(),
        Some(wanted) => {
            // What is not there is simply not named. A partition that is asked for twice is answered once.
            let mut partitions: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
            for topic in wanted {
                partitions.entry(&topic.topic.0).or_default().extend(&topic.partitions);
            }
            let known = partitions.into_iter().filter_map(|(name, mut indexes)| {
                let topic = image.topic_named(name)?;
                indexes.sort_unstable();
                indexes.dedup();
                indexes.retain(|index| (0..topic.partitions.len() as i32).contains(index));
                Some(describe(broker, &image, topic, indexes.into_iter()))
            });
            known.filter(|topic| !topic.partitions.is_empty()).collect()
        }
    };
    let store = DescribeLogDirsResult::default()
        .with_log_dir(strings::wire(&broker.data_location))
        .with_topics(topics)
        .with_total_bytes(UNKNOWN)
        .with_usable_bytes(UNKNOWN);
    DescribeLogDirsResponse::default().with_results(vec![store])
}

/// Those of the partitions `indexes` of `topic`, each of which it has, that this broker leads.
fn describe(
    broker: &Broker,
    image: &ImageRef,
    topic: &Topic,
    indexes: impl Iterator<Item = i32>,
) -> DescribeLogDirsTopic {
    let own = broker.metadata.incarnation();
    let led = |index: &i32| image.owner(&topic.partitions[*index as usize]) == own;
    let partitions = indexes.filter(led).map(|index| {
        let size = broker.partitions.size_bytes(image, topic, index);
        DescribeLogDirsPartition::default()
            .with_partition_index(index)
            .with_partition_size(i64::try_from(size).unwrap_or(i64::MAX))
    });
    DescribeLogDirsTopic::default()
        .with_name(TopicName(strings::wire(&topic.name)))
        .with_partitions(partitions.collect())
}
