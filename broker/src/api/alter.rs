//! What AlterConfigs and IncrementalAlterConfigs have in common (behaviours 110 and 111).
//!
//! A change is read, made, checked and written, and begins anew where somebody else wrote in between: so two requests
//! that each append to a list both have their way. What was answered with success holds from then on.

use std::collections::BTreeMap;

use futures::StreamExt;
use kafka_protocol::ResponseError;

use super::resource::{Refused, Resource};
use super::{error, topic_name};
use crate::broker::Broker;
use crate::config::alter::{self, Changes, Dynamic};
use crate::metadata;

/// Resources of one request that are changed side by side. No option: they share the entries of the metadata log.
const AT_ONCE: usize = 64;
/// How often a change is made anew because somebody else came in between. No option: each of the others has got on.
const TRIES_MAX: usize = 32;

/// What a request wants of one resource.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub kind: i8,
    pub name: &'a str,
    pub changes: Result<Changes<'a>, Refused>,
}

/// In the order of `wanted`. Each resource gets all of its changes, or none.
pub(super) async fn alter(
    broker: &Broker,
    wanted: Vec<Wanted<'_>>,
    validate_only: bool,
) -> Vec<Result<(), Refused>> {
    let mut times: BTreeMap<(i8, &str), usize> = BTreeMap::new();
    for resource in &wanted {
        *times.entry((resource.kind, resource.name)).or_default() += 1;
    }
    let times = &times;
    let one = async |wanted: Wanted<'_>| {
        if times[&(wanted.kind, wanted.name)] > 1 {
            let message = "Each resource must appear at most once.";
            return Err((ResponseError::InvalidRequest, message.to_owned()));
        }
        alter_one(broker, wanted, validate_only).await
    };
    futures::stream::iter(wanted).map(one).buffered(AT_ONCE).collect().await
}

async fn alter_one(broker: &Broker, wanted: Wanted<'_>, validate_only: bool) -> Result<(), Refused> {
    let changes = wanted.changes?;
    for _ in 0..TRIES_MAX {
        let image = broker.metadata.image();
        let resource = Resource::find(broker, &image, wanted.kind, wanted.name)?;
        let config = broker.configs.of(&image);
        let own = Some(broker.node_id as u32);
        let set = Dynamic { cluster: image.broker_configs(None), own: image.broker_configs(own) };
        let written = match resource {
            Resource::Topic(topic) => {
                let internal = topic_name::is_internal(&topic.name);
                let next = alter::topic(&topic.configs, &changes, &config, internal).map_err(refusal)?;
                if validate_only || next == *topic.configs {
                    return Ok(());
                }
                broker.metadata.set_topic_configs(topic.id, topic.configs.to_vec(), next).await
            }
            Resource::Own | Resource::Cluster => {
                let for_all = matches!(resource, Resource::Cluster);
                let next = alter::broker(set, &changes, &config, for_all).map_err(refusal)?;
                let (id, was) = if for_all { (None, set.cluster) } else { (own, set.own) };
                if validate_only || next == was {
                    return Ok(());
                }
                broker.metadata.set_broker_configs(id, was.to_vec(), next).await
            }
        };
        match written {
            Ok(()) => return Ok(()),
            // Our image has what was written instead.
            Err(metadata::Error::Conflict(_)) => {}
            Err(error) => return Err((error::of_metadata(&error), error.to_string())),
        }
    }
    let message = "The configs are being changed by too many at once; nothing was changed.";
    Err((ResponseError::RequestTimedOut, message.to_owned()))
}

fn refusal(refused: alter::Refused) -> Refused {
    let code = match refused {
        alter::Refused::Config(_) => ResponseError::InvalidConfig,
        alter::Refused::Request(_) => ResponseError::InvalidRequest,
    };
    (code, refused.to_string())
}

/// For configs that need a value and have none.
pub(super) fn null_values(names: &[&str]) -> Refused {
    (ResponseError::InvalidRequest, format!("Null value not supported for : {}", names.join(",")))
}
