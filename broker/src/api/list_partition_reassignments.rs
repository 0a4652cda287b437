//! ListPartitionReassignments (behaviour 115): none is ever under way, since no replica has to be copied.

use kafka_protocol::messages::{ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse};

use super::Context;
use crate::broker::Broker;

pub async fn handle(
    _broker: &Broker,
    _context: &Context,
    _version: i16,
    _request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default().with_error_message(None)
}
