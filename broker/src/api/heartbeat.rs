//! Heartbeat (key 12), versions 0–4. Behaviour 90.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use super::Context;
use super::strings::shared;
use crate::broker::Broker;
use crate::group::Groups;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: HeartbeatRequest,
) -> HeartbeatResponse {
    answer(&broker.groups, request).await
}

pub async fn answer(groups: &Groups, request: HeartbeatRequest) -> HeartbeatResponse {
    let beat = if request.group_id.is_empty() {
        Err(ResponseError::InvalidGroupId)
    } else {
        let instance_id = request.group_instance_id.as_ref().map(shared);
        let (group, member_id) = (shared(&request.group_id), shared(&request.member_id));
        groups.heartbeat(group, member_id, instance_id, request.generation_id).await
    };
    HeartbeatResponse::default().with_error_code(beat.err().map_or(0, |error| error.code()))
}
