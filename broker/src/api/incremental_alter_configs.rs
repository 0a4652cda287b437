//! IncrementalAlterConfigs (behaviours 110 and 111; KIP-339, Kafka's `ConfigAdminManager`).

use kafka_protocol::ResponseError;
use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use super::Context;
use super::alter::{self, Wanted};
use super::resource::Refused;
use crate::broker::Broker;
use crate::config::alter::{Change, Changes, Op};

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let wanted = request.resources.iter().map(|resource| Wanted {
        kind: resource.resource_type,
        name: &resource.resource_name,
        changes: changes(resource),
    });
    let results = alter::alter(broker, wanted.collect(), request.validate_only).await;
    let responses = request.resources.iter().zip(results).map(|(resource, result)| {
        let (code, message) = match result {
            Ok(()) => (0, None),
            Err((error, message)) => (error.code(), Some(StrBytes::from_string(message))),
        };
        AlterConfigsResourceResponse::default()
            .with_error_code(code)
            .with_error_message(message)
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
    });
    IncrementalAlterConfigsResponse::default().with_responses(responses.collect())
}

fn changes(resource: &AlterConfigsResource) -> Result<Changes<'_>, Refused> {
    let mut changes = Vec::with_capacity(resource.configs.len());
    let mut null = Vec::new();
    for config in &resource.configs {
        let op = Op::of(config.config_operation).ok_or_else(|| {
            let message =
                format!("Unknown operation {} for config {}", config.config_operation, config.name.as_str());
            (ResponseError::InvalidRequest, message)
        })?;
        match &config.value {
            None if op != Op::Delete => null.push(config.name.as_str()),
            value => changes.push(Change {
                name: &config.name,
                op,
                value: value.as_ref().map_or("", |value| value.as_str()),
            }),
        }
    }
    if null.is_empty() { Ok(Changes::Some(changes)) } else { Err(alter::null_values(&null)) }
}
