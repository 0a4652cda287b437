//! SyncGroup (key 14), versions 0–5. Behaviours 88 and 89.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

use super::Context;
use super::strings::{shared, wire};
use crate::broker::Broker;
use crate::group::Groups;
use crate::group::state::SyncRequest;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    version: i16,
    request: SyncGroupRequest,
) -> SyncGroupResponse {
    answer(&broker.groups, version, request).await
}

pub async fn answer(groups: &Groups, version: i16, request: SyncGroupRequest) -> SyncGroupResponse {
    let refused = |error: ResponseError| SyncGroupResponse::default().with_error_code(error.code());
    if request.group_id.is_empty() {
        return refused(ResponseError::InvalidGroupId);
    }
    // From version 5 on both are mandatory (KIP-559).
    if version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        return refused(ResponseError::InconsistentGroupProtocol);
    }
    let group = shared(&request.group_id);
    let assignments = request.assignments.iter();
    let sync = SyncRequest {
        member_id: shared(&request.member_id),
        instance_id: request.group_instance_id.as_ref().map(shared),
        generation: request.generation_id,
        protocol_type: request.protocol_type.as_ref().map(shared),
        protocol: request.protocol_name.as_ref().map(shared),
        assignments: assignments
            .map(|assigned| (shared(&assigned.member_id), Bytes::copy_from_slice(&assigned.assignment)))
            .collect(),
    };
    drop(request);
    match groups.sync(group, sync).await {
        Ok(synced) => SyncGroupResponse::default()
            .with_protocol_type(synced.protocol_type.as_deref().filter(|_| version >= 5).map(wire))
            .with_protocol_name(synced.protocol.as_deref().filter(|_| version >= 5).map(wire))
            .with_assignment(synced.assignment),
        Err(error) => refused(error),
    }
}
