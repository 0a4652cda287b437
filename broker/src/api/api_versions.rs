//! ApiVersions (18): what this broker speaks.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::StrBytes;

use crate::api::versions::{self, Supported};

/// The feature level of Kafka 4.1 (`MetadataVersion.IBP_4_1_IV1`). Tools derive "which Kafka is this" from it.
/// `transaction.version` is absent on purpose: at level 2 clients would use KIP-890's second protocol.
const METADATA_VERSION: &str = "metadata.version";
const METADATA_VERSION_LEVEL: i16 = 27;
/// `MetadataVersion.MINIMUM_VERSION` (3.3-IV3).
const METADATA_VERSION_MIN: i16 = 7;

/// The first version whose response carries features.
const FEATURES_FROM: i16 = 3;

/// Needs nothing of the broker: the same answer before and after authentication (behaviour 5).
pub fn handle(version: i16, request: &ApiVersionsRequest) -> ApiVersionsResponse {
    if version >= FEATURES_FROM
        && !(is_software_name(&request.client_software_name)
            && is_software_name(&request.client_software_version))
    {
        return ApiVersionsResponse::default().with_error_code(ResponseError::InvalidRequest.code());
    }
    let response =
        ApiVersionsResponse::default().with_api_keys(versions::SUPPORTED.iter().map(advertise).collect());
    if version < FEATURES_FROM {
        return response;
    }
    response
        .with_supported_features(vec![
            SupportedFeatureKey::default()
                .with_name(StrBytes::from_static_str(METADATA_VERSION))
                .with_min_version(METADATA_VERSION_MIN)
                .with_max_version(METADATA_VERSION_LEVEL),
        ])
        .with_finalized_features(vec![
            FinalizedFeatureKey::default()
                .with_name(StrBytes::from_static_str(METADATA_VERSION))
                .with_min_version_level(METADATA_VERSION_LEVEL)
                .with_max_version_level(METADATA_VERSION_LEVEL),
        ])
        .with_finalized_features_epoch(0)
}

/// For a version of ApiVersions that this broker does not know: to be encoded as version 0, with the one row that tells
/// the client how to ask again (KIP-511).
pub fn unsupported_version() -> ApiVersionsResponse {
    let own =
        versions::SUPPORTED.iter().filter(|row| row.key == kafka_protocol::messages::ApiKey::ApiVersions);
    ApiVersionsResponse::default()
        .with_error_code(ResponseError::UnsupportedVersion.code())
        .with_api_keys(own.map(advertise).collect())
}

fn advertise(row: &Supported) -> ApiVersion {
    ApiVersion::default()
        .with_api_key(row.key as i16)
        .with_min_version(row.advertised_min)
        .with_max_version(row.max)
}

/// `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?` (`ApiVersionsRequest.SOFTWARE_NAME_VERSION_PATTERN`).
fn is_software_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: &'static str, version: &'static str) -> ApiVersionsRequest {
        ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(name))
            .with_client_software_version(StrBytes::from_static_str(version))
    }

    #[test]
    fn behaviour_4_software_names_are_checked_from_version_3() {
        for (name, version, good) in [
            ("apache-kafka-java", "4.1.1", true),
            ("a", "0", true),
            ("", "1", false),
            ("a", "", false),
            ("-a", "1", false),
            ("a.", "1", false),
            ("a b", "1", false),
            ("a", "1_0", false),
        ] {
            let answer = handle(3, &request(name, version));
            assert_eq!(answer.error_code == 0, good, "{name:?} {version:?}");
            assert_eq!(answer.api_keys.is_empty(), !good);
            if !good {
                assert_eq!(answer.error_code, 42);
            }
            assert_eq!(handle(2, &request(name, version)).error_code, 0);
        }
    }

    #[test]
    fn behaviour_6_features_steer_clients() {
        let answer = handle(4, &request("a", "1"));
        assert!(answer.finalized_features_epoch >= 0);
        assert!(answer.supported_features.iter().all(|feature| feature.min_version > 0));
        assert!(answer.finalized_features.iter().all(|feature| &*feature.name != "transaction.version"));
        assert_eq!(&*answer.finalized_features[0].name, "metadata.version");
        assert!(handle(2, &request("a", "1")).finalized_features.is_empty());
    }
}
