//! DescribeCluster (behaviour 31; Kafka's `AuthHelper.computeDescribeClusterResponse`).

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};
use kafka_protocol::protocol::StrBytes;

use super::{Context, authorized, metadata};
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
    let own = DescribeClusterBroker::default()
        .with_broker_id(BrokerId(broker.node_id))
        .with_host(StrBytes::from_string(context.advertised.host.to_string()))
        .with_port(context.advertised.port.into())
        .with_rack(metadata::rack(image.broker(broker.node_id as u32).and_then(|info| info.rack.as_ref())));
    let others = image.live_brokers().filter(|(id, _)| *id as i32 != broker.node_id).map(|(id, info)| {
        DescribeClusterBroker::default()
            .with_broker_id(BrokerId(id as i32))
            .with_host(StrBytes::from_string(info.listener.host.to_string()))
            .with_port(info.listener.port.into())
            .with_rack(metadata::rack(info.rack.as_ref()))
    });
    let asked = request.include_cluster_authorized_operations;
    DescribeClusterResponse::default()
        .with_endpoint_type(BROKERS)
        .with_cluster_id(StrBytes::from_string(broker.cluster_id.clone()))
        .with_controller_id(BrokerId(broker.node_id))
        .with_brokers(std::iter::once(own).chain(others).collect())
        .with_cluster_authorized_operations(authorized::if_asked(asked, authorized::CLUSTER))
}
