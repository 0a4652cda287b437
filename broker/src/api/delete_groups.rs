//! DeleteGroups (key 42), versions 0–2. Behaviour 98; KIP-229.

use std::collections::HashSet;

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use super::Context;
use super::side_by_side;
use super::strings::shared;
use crate::broker::Broker;
use crate::group::Groups;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    answer(&broker.groups, request).await
}

/// One result for each group, however often the request names it.
pub async fn answer(groups: &Groups, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut seen = HashSet::new();
    let ids = request.groups_names.into_iter().filter(|id| seen.insert(id.clone()));
    let results = ids.map(async |id| {
        let deleted = groups.delete(shared(&id)).await;
        let code = deleted.err().map_or(0, |error| error.code());
        DeletableGroupResult::default().with_group_id(id).with_error_code(code)
    });
    DeleteGroupsResponse::default().with_results(side_by_side(results).await)
}
