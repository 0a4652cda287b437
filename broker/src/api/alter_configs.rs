//! AlterConfigs, which replaces all configs of a resource: what is not named has its default again (behaviour 110). Newer
//! clients ask with IncrementalAlterConfigs instead.

use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use super::Context;
use super::alter::{self, Wanted};
use super::resource::Refused;
use crate::broker::Broker;
use crate::config::alter::Changes;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: AlterConfigsRequest,
) -> AlterConfigsResponse {
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
    AlterConfigsResponse::default().with_responses(responses.collect())
}

fn changes(resource: &AlterConfigsResource) -> Result<Changes<'_>, Refused> {
    let mut values = Vec::with_capacity(resource.configs.len());
    let mut null = Vec::new();
    for config in &resource.configs {
        match &config.value {
            Some(value) => values.push((config.name.as_str(), value.as_str())),
            None => null.push(config.name.as_str()),
        }
    }
    if null.is_empty() { Ok(Changes::All(values)) } else { Err(alter::null_values(&null)) }
}
