//! What configs are asked of: topics and brokers, by Kafka's `ConfigResource.Type`.

use std::sync::Arc;

use kafka_protocol::ResponseError;

use super::topic_name;
use crate::broker::Broker;
use crate::metadata::{Image, Topic};

pub const TOPIC: i8 = 2;
pub const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

/// Error and message of one resource.
pub type Refused = (ResponseError, String);

/// A resource that is there.
#[derive(Clone, Debug)]
pub enum Resource {
    Topic(Arc<Topic>),
    /// The broker that is asked.
    Own,
    /// All brokers.
    Cluster,
}

impl Resource {
    /// Finds what a request names.
    pub fn find(broker: &Broker, image: &Image, kind: i8, name: &str) -> Result<Resource, Refused> {
        let request = |message: String| Err((ResponseError::InvalidRequest, message));
        let why = match kind {
            TOPIC if name.is_empty() => {
                return request("Default topic resources are not allowed.".to_owned());
            }
            TOPIC => {
                topic_name::validate(name)
                    .map_err(|invalid| (ResponseError::InvalidTopicException, invalid.to_string()))?;
                let known = image.topic_named(name).cloned().map(Resource::Topic);
                return known.ok_or_else(unknown_topic);
            }
            BROKER if name.is_empty() => return Ok(Resource::Cluster),
            BROKER => {
                let own = broker.node_id;
                return match name.parse::<i32>() {
                    Ok(id) if id == own => Ok(Resource::Own),
                    Ok(_) => request(format!(
                        "Unexpected broker id, expected {own} or empty string, but received {name}"
                    )),
                    Err(_) => request(format!("Broker id must be an integer, but it is: {name}")),
                };
            }
            BROKER_LOGGER => "(BROKER_LOGGER): what is logged is decided when a broker is started",
            CLIENT_METRICS => "(CLIENT_METRICS): clients' metrics are not collected",
            GROUP => "(GROUP): groups have no configs of their own",
            _ => "",
        };
        request(format!("Unsupported resource type: {kind} {why}").trim_end().to_owned())
    }
}

/// Whether there is such a type in Kafka, whatever can be done with it here.
pub fn is_known(kind: i8) -> bool {
    [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP].contains(&kind)
}

pub fn unknown_topic() -> Refused {
    let message = "This server does not host this topic-partition.";
    (ResponseError::UnknownTopicOrPartition, message.to_owned())
}
