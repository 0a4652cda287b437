//! JoinGroup (key 11), versions 0–9. Behaviours 82–88 and 92.

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::Context;
use super::strings::{shared, wire};
use crate::broker::Broker;
use crate::group::Groups;
use crate::group::state::{JoinAnswer, JoinRequest, Protocol};

const NO_GENERATION: i32 = -1;

pub async fn handle(
    broker: &Broker,
    context: &Context,
    version: i16,
    request: JoinGroupRequest,
) -> JoinGroupResponse {
    answer(&broker.groups, context, version, request).await
}

pub async fn answer(
    groups: &Groups,
    context: &Context,
    version: i16,
    request: JoinGroupRequest,
) -> JoinGroupResponse {
    if request.group_id.is_empty() {
        return refused(version, ResponseError::InvalidGroupId, request.member_id);
    }
    let group = shared(&request.group_id);
    let join = JoinRequest {
        member_id: shared(&request.member_id),
        instance_id: request.group_instance_id.as_ref().map(shared),
        client_id: context.client_id.clone().unwrap_or_else(|| "".into()),
        client_host: format!("/{}", context.peer.ip()).into(),
        session_timeout_ms: request.session_timeout_ms,
        // Version 0 has but one time-out for both.
        rebalance_timeout_ms: match version {
            0 => request.session_timeout_ms,
            _ => request.rebalance_timeout_ms,
        },
        protocol_type: shared(&request.protocol_type),
        protocols: request.protocols.iter().map(protocol).collect(),
        requires_known_member_id: version >= 4,
        supports_skipping_assignment: version >= 9,
        fresh: Uuid::new_v4(),
    };
    // It is kept by the state machine while the join waits; the request's buffer need not be.
    drop(request);
    response(version, groups.join(group, join).await)
}

fn protocol(offered: &kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol) -> Protocol {
    Protocol { name: shared(&offered.name), metadata: Bytes::copy_from_slice(&offered.metadata) }
}

fn response(version: i16, answer: JoinAnswer) -> JoinGroupResponse {
    let joined = match answer {
        Ok(joined) => joined,
        Err(refusal) => return refused(version, refusal.error, wire(&refusal.member_id)),
    };
    let members = joined.members.iter().map(|member| {
        let instance_id = member.instance_id.as_deref().filter(|_| version >= 5);
        JoinGroupResponseMember::default()
            .with_member_id(wire(&member.member_id))
            .with_group_instance_id(instance_id.map(wire))
            .with_metadata(member.metadata.clone())
    });
    JoinGroupResponse::default()
        .with_generation_id(joined.generation)
        .with_protocol_type(joined.protocol_type.as_deref().filter(|_| version >= 7).map(wire))
        .with_protocol_name(protocol_name(version, joined.protocol.as_deref()))
        .with_leader(wire(&joined.leader))
        .with_skip_assignment(joined.skip_assignment)
        .with_member_id(wire(&joined.member_id))
        .with_members(members.collect())
}

fn refused(version: i16, error: ResponseError, member_id: StrBytes) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_error_code(error.code())
        .with_generation_id(NO_GENERATION)
        .with_protocol_name(protocol_name(version, None))
        .with_member_id(member_id)
}

/// Nullable from version 7 on.
fn protocol_name(version: i16, name: Option<&str>) -> Option<StrBytes> {
    match name {
        None if version < 7 => Some(StrBytes::default()),
        name => name.map(wire),
    }
}
