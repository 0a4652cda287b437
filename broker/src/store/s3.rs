//! S3 and what speaks it, S3 Express directory buckets included.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};

use super::rotating_keys::RotatingKeys;
use super::{Error, Patience, aws_profile, check_endpoint, from_environment};

/// How to reach S3.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// `http://host:port` of an S3-compatible server; AWS where absent.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Bucket in the path instead of the host name. Default: yes with an endpoint, no without.
    pub path_style: Option<bool>,
    pub allow_http: bool,
}

/// What AWS ends the names of directory buckets with: `BASE--ZONE--x-s3`.
const DIRECTORY_BUCKET_SUFFIX: &str = "--x-s3";

pub(super) fn client(
    bucket: &str,
    options: &S3Options,
    patience: &Patience<'_>,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let client_error = |detail: String| Error::Client { store: format!("s3://{bucket}"), detail };
    let profile = aws_profile::load()?;
    let endpoint = options
        .endpoint
        .clone()
        .or_else(|| from_environment("AWS_ENDPOINT_URL_S3"))
        .or_else(|| from_environment("AWS_ENDPOINT_URL"))
        .or_else(|| from_environment("AWS_ENDPOINT"))
        .or_else(|| profile.endpoint.clone());
    let region = options
        .region
        .clone()
        .or_else(|| from_environment("AWS_REGION"))
        .or_else(|| from_environment("AWS_DEFAULT_REGION"))
        .or_else(|| profile.region.clone());
    let allow_http =
        options.allow_http || from_environment("AWS_ALLOW_HTTP").is_some_and(|value| value == "true");
    check_endpoint(endpoint.as_deref(), allow_http, "--s3-allow-http").map_err(client_error)?;

    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(patience.retry())
        .with_client_options(patience.client(allow_http));
    if is_directory_bucket(bucket) {
        // Sessions instead of a signature with long-lived keys, and the endpoint of the bucket's zone.
        builder = builder.with_s3_express(true);
    }
    let path_style = options.path_style.unwrap_or(endpoint.is_some());
    builder = builder.with_virtual_hosted_style_request(!path_style);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    // Where nothing names a region, S3-compatible servers expect this one; AWS answers with a clear redirect.
    builder = builder.with_region(region.unwrap_or_else(|| "us-east-1".to_owned()));
    if from_environment("AWS_ACCESS_KEY_ID").is_none()
        && let Some(keys) = profile.keys
    {
        let reload = patience.limits.keys_reload;
        builder = builder.with_credentials(Arc::new(RotatingKeys::new(keys, reload)));
    }
    Ok(Arc::new(builder.build().map_err(|error| client_error(error.to_string()))?))
}

fn is_directory_bucket(bucket: &str) -> bool {
    bucket.ends_with(DIRECTORY_BUCKET_SUFFIX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Limits;

    #[test]
    fn directory_buckets_are_told_by_their_names() {
        assert!(is_directory_bucket("ottla--usw2-az1--x-s3"));
        assert!(!is_directory_bucket("ottla--x-s3-copy"));
        assert!(!is_directory_bucket("ottla"));
    }

    #[test]
    fn a_directory_bucket_is_reached_in_its_zone() {
        let limits = Limits::default();
        let patience = Patience { limits: &limits, timeout: limits.metadata_timeout, retries_max: 0 };
        let options = S3Options { region: Some("us-west-2".to_owned()), ..S3Options::default() };
        let shown = |bucket| format!("{:?}", client(bucket, &options, &patience).unwrap());
        let zonal = shown("ottla--usw2-az1--x-s3");
        assert!(zonal.contains("s3express-usw2-az1.us-west-2.amazonaws.com"), "{zonal}");
        assert!(!shown("ottla").contains("s3express-"));
    }
}
