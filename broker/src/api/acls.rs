//! DescribeAcls, CreateAcls and DeleteAcls without an authorizer (behaviour 113): SECURITY_DISABLED, which tools take for
//! "there are none".

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_acls_response::AclCreationResult;
use kafka_protocol::messages::delete_acls_response::DeleteAclsFilterResult;
use kafka_protocol::messages::{
    CreateAclsRequest, CreateAclsResponse, DeleteAclsRequest, DeleteAclsResponse, DescribeAclsRequest,
    DescribeAclsResponse,
};
use kafka_protocol::protocol::StrBytes;

const DISABLED: i16 = ResponseError::SecurityDisabled.code();

fn message() -> Option<StrBytes> {
    Some(StrBytes::from_static_str("No Authorizer is configured."))
}

pub fn describe(_request: &DescribeAclsRequest) -> DescribeAclsResponse {
    DescribeAclsResponse::default().with_error_code(DISABLED).with_error_message(message())
}

/// One result for each entry.
pub fn create(request: &CreateAclsRequest) -> CreateAclsResponse {
    let result = || AclCreationResult::default().with_error_code(DISABLED).with_error_message(message());
    CreateAclsResponse::default().with_results(request.creations.iter().map(|_| result()).collect())
}

/// One result for each filter.
pub fn delete(request: &DeleteAclsRequest) -> DeleteAclsResponse {
    let result = || DeleteAclsFilterResult::default().with_error_code(DISABLED).with_error_message(message());
    DeleteAclsResponse::default().with_filter_results(request.filters.iter().map(|_| result()).collect())
}
