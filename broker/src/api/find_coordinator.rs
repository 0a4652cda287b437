//! FindCoordinator (key 10), versions 0–6. Behaviour 81.
//!
//! A group's coordinator is the leader of its partition of `__consumer_offsets`, which is created here at its first
//! use. For a transactional id this broker names itself although it has no transactions yet: so that a client comes to
//! InitProducerId and is told there, finally, instead of looking for a coordinator for ever.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use super::nodes::{self, Leads};
use super::strings::wire;
use super::topic_name::CONSUMER_OFFSETS;
use super::{Advertised, Context};
use crate::broker::Broker;
use crate::group::Groups;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// A broker and its address, as the client is to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: i32,
    pub address: Advertised,
}

/// Who is who, for [`answer`].
pub struct Brokers<'a> {
    pub this: Node,
    /// The leader of a partition of `__consumer_offsets`; `None` if it has none now.
    pub leader: &'a (dyn Fn(i32) -> Option<Node> + Send + Sync),
}

pub async fn handle(
    broker: &Broker,
    context: &Context,
    version: i16,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let this = Node { id: broker.node_id, address: context.advertised.clone() };
    let leader = |partition: i32| {
        let image = broker.metadata.image();
        let topic = image.topic_named(CONSUMER_OFFSETS)?;
        let info = topic.partitions.get(usize::try_from(partition).ok()?)?;
        // Deposed perhaps, and not to be believed: clients ask again, or somebody else.
        let leader = Leads::of(broker, &image).leader(info)? as i32;
        nodes::serving(broker, context, &image)
            .find(|node| node.id == leader)
            .map(|node| Node { id: node.id, address: node.address })
    };
    answer(&broker.groups, &Brokers { this, leader: &leader }, version, request).await
}

pub async fn answer(
    groups: &Groups,
    brokers: &Brokers<'_>,
    version: i16,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let key_type = if version == 0 { GROUP } else { request.key_type };
    if version < 4 {
        let response = FindCoordinatorResponse::default();
        return match find(groups, brokers, key_type, &request.key).await {
            Ok(node) => response
                .with_error_message(Some(StrBytes::default()))
                .with_node_id(BrokerId(node.id))
                .with_host(wire(&node.address.host))
                .with_port(i32::from(node.address.port)),
            Err(error) => response
                .with_error_code(error.code())
                .with_error_message(Some(wire(&error.to_string())))
                .with_node_id(BrokerId(-1))
                .with_port(-1),
        };
    }
    let mut coordinators = Vec::with_capacity(request.coordinator_keys.len());
    for key in request.coordinator_keys {
        let row = match find(groups, brokers, key_type, &key).await {
            Ok(node) => Coordinator::default()
                .with_error_message(Some(StrBytes::default()))
                .with_node_id(BrokerId(node.id))
                .with_host(wire(&node.address.host))
                .with_port(i32::from(node.address.port)),
            Err(error) => Coordinator::default()
                .with_error_code(error.code())
                .with_error_message(Some(wire(&error.to_string())))
                .with_node_id(BrokerId(-1))
                .with_port(-1),
        };
        coordinators.push(row.with_key(key));
    }
    FindCoordinatorResponse::default().with_coordinators(coordinators)
}

async fn find(
    groups: &Groups,
    brokers: &Brokers<'_>,
    key_type: i8,
    key: &str,
) -> Result<Node, ResponseError> {
    match key_type {
        GROUP => {
            let found = groups.ensure_partition_of(key).await;
            let partition = found.map_err(|_| ResponseError::CoordinatorNotAvailable)?;
            (brokers.leader)(partition).ok_or(ResponseError::CoordinatorNotAvailable)
        }
        TRANSACTION => Ok(brokers.this.clone()),
        // Share groups, and what does not exist.
        _ => Err(ResponseError::InvalidRequest),
    }
}

impl Node {
    pub fn new(id: i32, host: Arc<str>, port: u16) -> Node {
        Node { id, address: Advertised { host, port } }
    }
}
