//! DescribeGroups (key 15), versions 0–6. Behaviour 99.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse, GroupId};

use super::Context;
use super::authorized;
use super::side_by_side;
use super::strings::{shared, wire};
use crate::broker::Broker;
use crate::group::Groups;
use crate::group::state::{DescribedMember, Description};

/// Of a group that is not there.
const DEAD: &str = "Dead";

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    version: i16,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    answer(&broker.groups, version, request).await
}

pub async fn answer(groups: &Groups, version: i16, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    // Side by side: one coordinator that loads does not hold up the others.
    let asked = request.include_authorized_operations;
    let described = request.groups.into_iter().map(async |id| {
        let row = match groups.describe(shared(&id)).await {
            Ok(Some(description)) => {
                let operations = authorized::if_asked(asked, authorized::GROUP);
                known(version, description).with_authorized_operations(operations)
            }
            Ok(None) => unknown(version, &id),
            Err(no_answer) => DescribedGroup::default().with_error_code(no_answer.response().code()),
        };
        row.with_group_id(id)
    });
    DescribeGroupsResponse::default().with_groups(side_by_side(described).await)
}

fn known(version: i16, description: Description) -> DescribedGroup {
    let members = description.members.into_iter().map(|member| describe_member(version, member));
    DescribedGroup::default()
        .with_group_state(wire(description.state.name()))
        .with_protocol_type(wire(&description.protocol_type))
        .with_protocol_data(wire(&description.protocol))
        .with_members(members.collect())
}

fn describe_member(version: i16, member: DescribedMember) -> DescribedGroupMember {
    let instance_id = member.instance_id.as_deref().filter(|_| version >= 4);
    DescribedGroupMember::default()
        .with_member_id(wire(&member.member_id))
        .with_group_instance_id(instance_id.map(wire))
        .with_client_id(wire(&member.client_id))
        .with_client_host(wire(&member.client_host))
        .with_member_metadata(member.metadata)
        .with_member_assignment(member.assignment)
}

/// An error from version 6 on (KIP-1043), a dead group before.
fn unknown(version: i16, id: &GroupId) -> DescribedGroup {
    let row = DescribedGroup::default().with_group_state(wire(DEAD));
    if version < 6 {
        return row;
    }
    row.with_error_code(ResponseError::GroupIdNotFound.code())
        .with_error_message(Some(wire(&format!("Group {} not found.", &**id))))
}
