//! What a topic that is to be created looks like, by request or by being asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use wal::Incarnation;

use super::topic_name::{self, CONSUMER_OFFSETS, SHARE_GROUP_STATE, TRANSACTION_STATE};
use crate::broker::Broker;
use crate::cluster::balance::{self, Home};
use crate::metadata::command::GrownTopic;
use crate::metadata::image::{Config, PartitionInfo};
use crate::metadata::{
    CreatePartitionsError, CreateTopicError, GrowRejection, Image, Topic, TopicRejection, TopicSpec,
};

/// Partitions that one request may create (Kafka's `ReplicationControlManager.MAX_PARTITIONS_PER_BATCH`).
pub const PARTITIONS_PER_REQUEST_MAX: usize = 10_000;

/// Configs from a request: by name, each once, the last wins. `Err` is a name without a value.
pub fn configs<'a>(pairs: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> Result<Vec<Config>, &'a str> {
    let mut sorted: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, value) in pairs {
        sorted.insert(name, value.ok_or(name)?);
    }
    Ok(sorted.into_iter().map(|(name, value)| (Arc::from(name), Arc::from(value))).collect())
}

/// Who can lead new partitions, with counts and load ([`balance`]), less those whom this broker has not heard (D10) or does not
/// reach. Nobody if everybody can and load says nothing, or is not known of every broker: then it is left to counts alone.
fn homes(broker: &Broker, image: &Image) -> Vec<Home> {
    let shunned = &broker.peers.untried() | &broker.peers.unreached();
    let takers = image.serving().filter(|(_, life)| !life.draining).map(|(taker, _)| taker);
    let (homes, others): (Vec<Incarnation>, Vec<_>) =
        takers.partition(|taker| !shunned.contains(&taker.broker));
    let loads: Option<Vec<u64>> = homes.iter().map(|taker| broker.peers.load(*taker)).collect();
    let loads = loads.unwrap_or_else(|| vec![0; homes.len()]);
    let home = |(taker, load): (&Incarnation, u64)| {
        let in_all = image.led_count(taker.broker);
        Home { broker: taker.broker, of_topic: 0, in_all, load }
    };
    let homes: Vec<Home> = homes.iter().zip(loads).map(home).collect();
    if !others.is_empty() || homes.len() > 1 && balance::any_load(&homes) { homes } else { Vec::new() }
}

/// Leaders for `count` more partitions of a topic that has `existing` ones.
fn leaders(homes: &mut [Home], existing: &[PartitionInfo], count: usize) -> Vec<u32> {
    for home in &mut *homes {
        home.of_topic = existing.iter().filter(|partition| partition.leader == home.broker).count();
    }
    balance::place(homes, count)
}

/// [`create_topics`](crate::metadata::Metadata::create_topics), with leaders by load where none are named.
pub async fn create(broker: &Broker, specs: Vec<TopicSpec>) -> Vec<Result<Arc<Topic>, CreateTopicError>> {
    let mut homes = homes(broker, &broker.metadata.image());
    let placed = specs.iter().cloned().map(|spec| match spec.leaders.is_empty() {
        true => TopicSpec { leaders: leaders(&mut homes, &[], spec.partitions as usize), ..spec },
        false => spec,
    });
    let mut results = broker.metadata.create_topics(placed.collect()).await;
    // Who was to lead has left meanwhile.
    let misplaced = |result: &Result<_, CreateTopicError>| {
        matches!(result, Err(CreateTopicError::Rejected(TopicRejection::Assignment(_))))
    };
    let again = specs.into_iter().zip(&mut results);
    let (again, refused): (Vec<_>, Vec<_>) =
        again.filter(|(spec, result)| spec.leaders.is_empty() && misplaced(result)).unzip();
    for (result, now) in refused.into_iter().zip(broker.metadata.create_topics(again).await) {
        *result = now;
    }
    results
}

/// The same for [`create_partitions`](crate::metadata::Metadata::create_partitions).
pub async fn grow(
    broker: &Broker,
    growing: Vec<GrownTopic>,
) -> Vec<Result<Arc<Topic>, CreatePartitionsError>> {
    let image = broker.metadata.image();
    let mut homes = homes(broker, &image);
    let placed = growing.iter().cloned().map(|grown| match image.topic(grown.id) {
        Some(topic) if grown.leaders.is_empty() => {
            let added = (grown.partitions as usize).saturating_sub(topic.partitions.len());
            GrownTopic { leaders: leaders(&mut homes, &topic.partitions, added), ..grown }
        }
        _ => grown,
    });
    let mut results = broker.metadata.create_partitions(placed.collect()).await;
    // Who was to lead has left meanwhile, or somebody else has made the topic larger.
    let misplaced = |result: &Result<_, CreatePartitionsError>| {
        matches!(result, Err(CreatePartitionsError::Rejected(GrowRejection::Assignment(_))))
    };
    let again = growing.into_iter().zip(&mut results);
    let (again, refused): (Vec<_>, Vec<_>) =
        again.filter(|(grown, result)| grown.leaders.is_empty() && misplaced(result)).unzip();
    for (result, now) in refused.into_iter().zip(broker.metadata.create_partitions(again).await) {
        *result = now;
    }
    results
}

/// Creates those of `names` that do not exist, because a client asked for them (behaviour 21). What cannot be created
/// (its name is invalid, or taken in another spelling) is left out: whoever asks the image afterwards finds out.
pub async fn auto_create<'a>(broker: &Broker, names: impl Iterator<Item = &'a str>) {
    let image = broker.metadata.image();
    // Positive numbers, by their rows in the config table.
    let partitions = broker.config().num_partitions as u32;
    let offsets_partitions = broker.config().offsets_topic_num_partitions as u32;
    let room = PARTITIONS_PER_REQUEST_MAX / partitions as usize;
    let mut specs: BTreeMap<&str, TopicSpec> = BTreeMap::new();
    for name in names {
        if topic_name::validate(name).is_err() || image.colliding(name).is_some() {
            continue;
        }
        match name {
            CONSUMER_OFFSETS => {
                if let Err(error) = broker.metadata.ensure_internal_topic(name, offsets_partitions).await {
                    tracing::warn!(topic = name, %error, "the topic could not be created");
                }
            }
            // No coordinator of this version uses them.
            TRANSACTION_STATE | SHARE_GROUP_STATE => {}
            _ if specs.len() < room => {
                specs.insert(
                    name,
                    TopicSpec { name: name.into(), partitions, configs: Vec::new(), leaders: Vec::new() },
                );
            }
            _ => {}
        }
    }
    if specs.is_empty() {
        return;
    }
    for result in create(broker, specs.into_values().collect()).await {
        match result {
            Ok(topic) => tracing::info!(topic = %topic.name, "created a topic that a client asked for"),
            // Somebody else was quicker, or it collides with another one of the request.
            Err(CreateTopicError::Rejected(_)) => {}
            Err(CreateTopicError::Metadata(error)) => {
                tracing::warn!(%error, "topics that a client asked for could not be created");
                return;
            }
        }
    }
}
