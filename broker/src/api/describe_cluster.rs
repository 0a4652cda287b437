//! DescribeCluster (behaviour 31; Kafka's `AuthHelper.computeDescribeClusterResponse`).

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};
use kafka_protocol::protocol::StrBytes;

use super::{Context, authorized, metadata, nodes};
use crate::broker::Broker;

/// Kafka's `EndpointType`.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub async fn handle(
    broker: &Broker,
    context: &Context,
    version: i16,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    if request.endpoint_type != BROKERS {
        let (error, message) = match request.endpoint_type {
            CONTROLLERS => (
                ResponseError::MismatchedEndpointType,
                "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER",
            ),
            _ => (ResponseError::UnsupportedEndpointType, "Unsupported endpoint type"),
        };
        let error = if version == 0 { ResponseError::InvalidRequest } else { error };
        return DescribeClusterResponse::default()
            .with_error_code(error.code())
            .with_error_message(Some(StrBytes::from_static_str(message)));
    }
    let image = broker.metadata.image();
    let brokers = nodes::serving(broker, context, &image).map(|node| {
        DescribeClusterBroker::default()
            .with_broker_id(BrokerId(node.id))
            .with_host(StrBytes::from_string(node.address.host.to_string()))
            .with_port(node.address.port.into())
            .with_rack(metadata::rack(node.rack.as_ref()))
    });
    let asked = request.include_cluster_authorized_operations;
    DescribeClusterResponse::default()
        .with_endpoint_type(BROKERS)
        .with_cluster_id(StrBytes::from_string(broker.cluster_id.clone()))
        .with_controller_id(nodes::controller(&image))
        .with_brokers(brokers.collect())
        .with_cluster_authorized_operations(authorized::if_asked(asked, authorized::CLUSTER))
}
