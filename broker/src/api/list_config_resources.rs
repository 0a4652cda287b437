//! ListConfigResources (KIP-1142): what can be described. Version 0 knows clients' metrics only, of which there are none.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};

use super::resource::{self, BROKER, TOPIC};
use super::{Context, strings};
use crate::broker::Broker;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    version: i16,
    request: ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    if request.resource_types.iter().any(|kind| !resource::is_known(*kind)) {
        return ListConfigResourcesResponse::default()
            .with_error_code(ResponseError::UnsupportedVersion.code());
    }
    let wants = |kind| request.resource_types.is_empty() || request.resource_types.contains(&kind);
    let of = |kind, name: &str| {
        ConfigResource::default().with_resource_type(kind).with_resource_name(strings::wire(name))
    };
    let image = broker.metadata.image();
    let mut resources = Vec::new();
    if version > 0 && wants(TOPIC) {
        resources.extend(image.topics().map(|topic| of(TOPIC, &topic.name)));
    }
    if version > 0 && wants(BROKER) {
        resources.extend(image.serving_brokers().map(|(id, _)| of(BROKER, &id.to_string())));
    }
    ListConfigResourcesResponse::default().with_config_resources(resources)
}
