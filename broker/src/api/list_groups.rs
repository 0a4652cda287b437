//! ListGroups (key 16), versions 0–5. Behaviour 99.

use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{GroupId, ListGroupsRequest, ListGroupsResponse};
use kafka_protocol::protocol::StrBytes;

use super::Context;
use super::strings::wire;
use crate::broker::Broker;
use crate::group::Groups;

/// The type of every group so far, in Kafka's spelling.
const CLASSIC: &str = "classic";

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    version: i16,
    request: ListGroupsRequest,
) -> ListGroupsResponse {
    answer(&broker.groups, version, request).await
}

pub async fn answer(groups: &Groups, version: i16, request: ListGroupsRequest) -> ListGroupsResponse {
    let wanted = |filter: &[StrBytes], value: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
    };
    if !wanted(&request.types_filter, CLASSIC) {
        return ListGroupsResponse::default();
    }
    let listed = match groups.list().await {
        Ok(listed) => listed,
        Err(no_answer) => return ListGroupsResponse::default().with_error_code(no_answer.response().code()),
    };
    let listed = listed.into_iter().filter(|group| wanted(&request.states_filter, group.state.name()));
    let groups = listed.map(|group| {
        let row = ListedGroup::default()
            .with_group_id(GroupId(wire(&group.group)))
            .with_protocol_type(wire(&group.protocol_type));
        let row = if version >= 4 { row.with_group_state(wire(group.state.name())) } else { row };
        if version >= 5 { row.with_group_type(wire(CLASSIC)) } else { row }
    });
    ListGroupsResponse::default().with_groups(groups.collect())
}
