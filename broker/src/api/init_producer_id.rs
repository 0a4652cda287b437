//! InitProducerId, for idempotent producers (behaviour 45).
//!
//! Transactions are not supported yet, so there is no coordinator for a transactional id. The sensible answer would be
//! COORDINATOR_NOT_AVAILABLE, but both the Java client and librdkafka take it for a passing state and ask for ever.
//! TRANSACTIONAL_ID_AUTHORIZATION_FAILED is the one error here that both report at once as fatal, with the transactional
//! id in the text (`TransactionManager.InitProducerIdHandler`; `rd_kafka_idemp_check_error`).

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::{Context, error};
use crate::broker::Broker;

pub async fn handle(
    broker: &Broker,
    _context: &Context,
    _version: i16,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    match &request.transactional_id {
        Some(id) if id.0.is_empty() => return refuse(ResponseError::InvalidRequest),
        Some(_) => return refuse(ResponseError::TransactionalIdAuthorizationFailed),
        None => {}
    }
    if (request.producer_id.0 == -1) != (request.producer_epoch == -1) {
        return refuse(ResponseError::InvalidRequest);
    }
    match broker.metadata.next_producer_id().await {
        Ok(id) => InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0),
        Err(error) => refuse(error::of_producer_id(&error)),
    }
}

fn refuse(error: ResponseError) -> InitProducerIdResponse {
    InitProducerIdResponse::default().with_error_code(error.code()).with_producer_epoch(-1)
}
