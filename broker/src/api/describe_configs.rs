//! DescribeConfigs (behaviour 109; Kafka's `ConfigHelper`).

use std::collections::BTreeSet;

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use super::Context;
use super::resource::{Refused, Resource};
use crate::broker::Broker;
use crate::config::describe::{self, Described};
use crate::metadata::ImageRef;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let image = broker.metadata.image();
    // A resource that is asked for twice is answered once: an answer is a hundred times as long as its question.
    let mut seen = BTreeSet::new();
    let results = request
        .resources
        .iter()
        .filter(|wanted| seen.insert((wanted.resource_type, wanted.resource_name.as_str())))
        .map(|wanted| {
            let result = DescribeConfigsResult::default()
                .with_resource_type(wanted.resource_type)
                .with_resource_name(wanted.resource_name.clone())
                .with_error_message(None);
            match configs(broker, &image, wanted) {
                Ok(configs) => result.with_configs(select(configs, wanted, &request)),
                Err((error, message)) => result
                    .with_error_code(error.code())
                    .with_error_message(Some(StrBytes::from_string(message))),
            }
        })
        .collect();
    DescribeConfigsResponse::default().with_results(results)
}

fn configs(
    broker: &Broker,
    image: &ImageRef,
    wanted: &DescribeConfigsResource,
) -> Result<Vec<Described>, Refused> {
    let config = broker.configs.of(image);
    match Resource::find(broker, image, wanted.resource_type, &wanted.resource_name)? {
        Resource::Topic(topic) => Ok(describe::topic(&topic.configs, &config).collect()),
        // Only what was set for all brokers while they ran.
        Resource::Cluster => Ok(describe::cluster(&config).collect()),
        Resource::Own => {
            let rack = image.broker(broker.node_id as u32).and_then(|info| info.rack.clone());
            let actual = |name: &str| match name {
                "broker.id" | "node.id" => Some(broker.node_id.to_string()),
                "broker.rack" => rack.as_ref().map(|rack| rack.to_string()),
                _ => None,
            };
            Ok(describe::broker(&config, actual).collect())
        }
    }
}

/// Those that were asked for: all, if none was named (behaviour 15).
fn select(
    configs: Vec<Described>,
    wanted: &DescribeConfigsResource,
    request: &DescribeConfigsRequest,
) -> Vec<DescribeConfigsResourceResult> {
    let keys = wanted.configuration_keys.as_deref().unwrap_or_default();
    configs
        .into_iter()
        .filter(|config| keys.is_empty() || keys.iter().any(|key| key.as_str() == config.name))
        .map(|config| {
            let synonyms = config.synonyms.into_iter().map(|(name, value, source)| {
                DescribeConfigsSynonym::default()
                    .with_name(StrBytes::from_static_str(name))
                    .with_value(Some(StrBytes::from_string(value)))
                    .with_source(source as i8)
            });
            let documentation = StrBytes::from_static_str(config.documentation);
            DescribeConfigsResourceResult::default()
                .with_name(StrBytes::from_static_str(config.name))
                .with_value(Some(StrBytes::from_string(config.value)))
                .with_read_only(config.read_only)
                .with_config_source(config.source as i8)
                .with_synonyms(if request.include_synonyms { synonyms.collect() } else { Vec::new() })
                .with_config_type(config.kind)
                .with_documentation(request.include_documentation.then_some(documentation))
        })
        .collect()
}
