//! LeaveGroup (key 13), versions 0–5. Behaviour 91.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::Context;
use super::strings::shared;
use crate::broker::Broker;
use crate::group::Groups;
use crate::group::state::Leaving;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    version: i16,
    request: LeaveGroupRequest,
) -> LeaveGroupResponse {
    answer(&broker.groups, version, request).await
}

pub async fn answer(groups: &Groups, version: i16, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let refused = |error: ResponseError| LeaveGroupResponse::default().with_error_code(error.code());
    if request.group_id.is_empty() {
        return refused(ResponseError::InvalidGroupId);
    }
    // Until version 2 one member leaves, and its error is the response's.
    let members = match version {
        0..=2 => vec![MemberIdentity::default().with_member_id(request.member_id)],
        _ => request.members,
    };
    let leaving = members.iter().map(|member| Leaving {
        member_id: shared(&member.member_id),
        instance_id: member.group_instance_id.as_ref().map(shared),
    });
    let results = match groups.leave(shared(&request.group_id), leaving.collect()).await {
        Ok(results) => results,
        Err(error) => return refused(error),
    };
    let code = |result: &Result<(), ResponseError>| result.err().map_or(0, |error| error.code());
    if version <= 2 {
        return LeaveGroupResponse::default().with_error_code(results.first().map_or(0, code));
    }
    let members = members.into_iter().zip(&results).map(|(member, result)| {
        MemberResponse::default()
            .with_member_id(member.member_id)
            .with_group_instance_id(member.group_instance_id)
            .with_error_code(code(result))
    });
    LeaveGroupResponse::default().with_members(members.collect())
}
