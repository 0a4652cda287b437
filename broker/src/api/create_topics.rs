//! CreateTopics (behaviours 22 and 106; Kafka's `ControllerApis.createTopics` and `ReplicationControlManager`).
//!
//! The replication factor is accepted whatever it is, if it is one: the store keeps the copies, and a client that asks
//! for three gets what it wants by that.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::{Context, assignment, error, new_topic, topic_name};
use crate::broker::Broker;
use crate::config::{self, describe};
use crate::metadata::{CreateTopicError, ImageRef, TopicRejection, TopicSpec};

/// Kafka's own log of metadata; there is none here.
const CLUSTER_METADATA: &str = "__cluster_metadata";

/// A topic that can be created.
#[derive(Debug)]
struct Checked {
    spec: TopicSpec,
    replication_factor: i16,
}

/// Error and message of one topic.
type Refused = (ResponseError, String);

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in &request.topics {
        *times.entry(&topic.name.0).or_default() += 1;
    }
    let image = broker.metadata.image();
    let mut results = Vec::new();
    let mut checked = Vec::new();
    for topic in &request.topics {
        match times.insert(&topic.name.0, 0) {
            // The second and later of a name: it is answered already.
            Some(0) => {}
            Some(1) => match check(broker, &image, topic) {
                Ok(good) => checked.push(good),
                Err(refused) => results.push(refuse(topic.name.clone(), refused)),
            },
            _ => {
                let refused = (ResponseError::InvalidRequest, "Duplicate topic name.".to_owned());
                results.push(refuse(topic.name.clone(), refused));
            }
        }
    }
    let partitions: usize = checked.iter().map(|topic| topic.spec.partitions as usize).sum();
    if partitions > new_topic::PARTITIONS_PER_REQUEST_MAX {
        let message = "Excessively large number of partitions per request.";
        results.extend(
            checked.iter().map(|topic| {
                refuse(name_of(&topic.spec), (ResponseError::PolicyViolation, message.to_owned()))
            }),
        );
    } else if request.validate_only {
        results.extend(checked.iter().map(|topic| success(broker, topic, Uuid::nil())));
    } else {
        let created = new_topic::create(broker, checked.iter().map(|topic| topic.spec.clone()).collect());
        for (topic, result) in checked.iter().zip(created.await) {
            results.push(match result {
                Ok(created) => success(broker, topic, created.id),
                Err(error) => refuse(name_of(&topic.spec), refusal(&error)),
            });
        }
    }
    CreateTopicsResponse::default().with_topics(results)
}

fn refusal(error: &CreateTopicError) -> Refused {
    (error::of_create_topic(error), error.to_string())
}

fn check(broker: &Broker, image: &ImageRef, topic: &CreatableTopic) -> Result<Checked, Refused> {
    let name = topic.name.0.as_str();
    if name == CLUSTER_METADATA {
        let message = format!("Creation of internal topic {CLUSTER_METADATA} is prohibited.");
        return Err((ResponseError::InvalidRequest, message));
    }
    if let Err(invalid) = topic_name::validate(name) {
        return Err((ResponseError::InvalidTopicException, invalid.to_string()));
    }
    if let Some(existing) = image.colliding(name) {
        let rejection = if existing.name.as_ref() == name {
            TopicRejection::Exists(name.into())
        } else {
            TopicRejection::Collides { name: name.into(), existing: existing.name.clone() }
        };
        return Err(refusal(&rejection.into()));
    }
    if topic_name::is_internal(name) {
        // Its partitions and configs are its coordinator's business, which creates it when it needs it.
        let message = format!("Topic '{name}' is the broker's own, which creates it by itself.");
        return Err((ResponseError::InvalidTopicException, message));
    }
    let (partitions, replication_factor) = shape(broker, image, topic)?;
    let pairs =
        topic.configs.iter().map(|config| (config.name.as_str(), config.value.as_ref().map(|v| v.as_str())));
    let configs = new_topic::configs(pairs).map_err(|name| {
        (ResponseError::InvalidConfig, format!("Null value not supported for topic configs: {name}"))
    })?;
    config::validate_topic(&configs, &broker.config())
        .map_err(|invalid| (ResponseError::InvalidConfig, invalid.0))?;
    // By their index, which is checked to be that of the list; the first replica is the preferred leader.
    let mut assigned: Vec<_> = topic.assignments.iter().collect();
    assigned.sort_by_key(|assignment| assignment.partition_index);
    let leaders = assigned.iter().map(|assignment| assignment.broker_ids[0].0 as u32).collect();
    Ok(Checked { spec: TopicSpec { name: name.into(), partitions, configs, leaders }, replication_factor })
}

/// Number of partitions and replication factor.
fn shape(broker: &Broker, image: &ImageRef, topic: &CreatableTopic) -> Result<(u32, i16), Refused> {
    if !topic.assignments.is_empty() {
        return assigned(image, topic);
    }
    let partitions = match topic.num_partitions {
        -1 => broker.config().num_partitions,
        partitions if partitions > 0 => partitions,
        _ => {
            let message = "Number of partitions was set to an invalid non-positive value.";
            return Err((ResponseError::InvalidPartitions, message.to_owned()));
        }
    };
    let replication_factor = match topic.replication_factor {
        -1 => broker.config().default_replication_factor,
        factor if factor > 0 => factor,
        _ => {
            let message = "Replication factor must be larger than 0, or -1 to use the default value.";
            return Err((ResponseError::InvalidReplicationFactor, message.to_owned()));
        }
    };
    Ok((partitions as u32, replication_factor))
}

/// The same for a manual assignment, which must be a possible one though the broker leads everything anyway.
fn assigned(image: &ImageRef, topic: &CreatableTopic) -> Result<(u32, i16), Refused> {
    let request = |what: &str| {
        let message = format!("A manual partition assignment was specified, but {what} was not set to -1.");
        Err((ResponseError::InvalidRequest, message))
    };
    if topic.replication_factor != -1 {
        return request("replication factor");
    }
    if topic.num_partitions != -1 {
        return request("numPartitions");
    }
    let refuse = |message: String| Err((ResponseError::InvalidReplicaAssignment, message));
    let indexes: BTreeSet<i32> =
        topic.assignments.iter().map(|assignment| assignment.partition_index).collect();
    if indexes.len() != topic.assignments.len() {
        return refuse("Found multiple manual partition assignments for a partition".to_owned());
    }
    if indexes.first() != Some(&0) || indexes.last() != Some(&(indexes.len() as i32 - 1)) {
        return refuse("partitions should be a consecutive 0-based integer sequence".to_owned());
    }
    let replicas = topic.assignments.iter().map(|assignment| &assignment.broker_ids[..]);
    let factor = assignment::check(image, replicas)
        .map_err(|message| (ResponseError::InvalidReplicaAssignment, message))?;
    // No more replicas than there are brokers, whose number a registration bounds.
    Ok((indexes.len() as u32, factor as i16))
}

fn name_of(spec: &TopicSpec) -> TopicName {
    TopicName(StrBytes::from_string(spec.name.to_string()))
}

fn refuse(name: TopicName, (error, message): Refused) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(name)
        .with_error_code(error.code())
        .with_error_message(Some(StrBytes::from_string(message)))
}

fn success(broker: &Broker, topic: &Checked, id: Uuid) -> CreatableTopicResult {
    let configs = describe::topic(&topic.spec.configs, &broker.config())
        .map(|config| {
            CreatableTopicConfigs::default()
                .with_name(StrBytes::from_static_str(config.name))
                .with_value(Some(StrBytes::from_string(config.value)))
                .with_read_only(config.read_only)
                .with_config_source(config.source as i8)
        })
        .collect();
    CreatableTopicResult::default()
        .with_name(name_of(&topic.spec))
        .with_topic_id(id)
        .with_error_message(None)
        .with_num_partitions(topic.spec.partitions as i32)
        .with_replication_factor(topic.replication_factor)
        .with_configs(Some(configs))
}
