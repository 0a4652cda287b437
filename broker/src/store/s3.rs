//! S3 and what speaks it, S3 Express directory buckets included.

use std::sync::Arc;

use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};

use super::aws_profile::Keys;
use super::metered::Connector;
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

pub(super) const DEFAULT_REGION: &str = "us-east-1";

/// What AWS ends the names of directory buckets with: `BASE--ZONE--x-s3`.
const DIRECTORY_BUCKET_SUFFIX: &str = "--x-s3";

/// What [`S3Options`], the environment and the AWS tools' files say together, in this order of precedence.
#[derive(Debug)]
pub(super) struct Target {
    pub endpoint: Option<String>,
    pub region: String,
    pub path_style: bool,
    pub allow_http: bool,
    keys: Option<Keys>,
}

/// Where `bucket` is reached.
///
/// # Errors
/// A profile that cannot be used, an endpoint that holds keys, and plain HTTP that nobody allowed.
pub(super) fn target(bucket: &str, options: &S3Options) -> Result<Target, Error> {
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
    check_endpoint(endpoint.as_deref(), allow_http, "--s3-allow-http")
        .map_err(|detail| client_error(bucket, detail))?;
    Ok(Target {
        path_style: options.path_style.unwrap_or(endpoint.is_some()),
        endpoint,
        // Where nothing names a region, S3-compatible servers expect this one; AWS answers with a clear redirect.
        region: region.unwrap_or_else(|| DEFAULT_REGION.to_owned()),
        allow_http,
        keys: profile.keys,
    })
}

/// The client of `bucket` at `target`, on connections of `connector`'s.
pub(super) fn client(
    bucket: &str,
    target: Target,
    patience: &Patience<'_>,
    connector: Connector,
) -> Result<AmazonS3, Error> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(patience.retry())
        .with_client_options(patience.client(target.allow_http))
        .with_http_connector(connector.at(target.endpoint.as_deref()));
    if zone(bucket).is_some() {
        // Sessions instead of a signature with long-lived keys, and the endpoint of the bucket's zone.
        builder = builder.with_s3_express(true);
    }
    builder = builder.with_virtual_hosted_style_request(!target.path_style).with_region(target.region);
    if let Some(endpoint) = target.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if from_environment("AWS_ACCESS_KEY_ID").is_none()
        && let Some(keys) = target.keys
    {
        let reload = patience.limits.keys_reload;
        builder = builder.with_credentials(Arc::new(RotatingKeys::new(keys, reload)));
    }
    builder.build().map_err(|error| client_error(bucket, error.to_string()))
}

fn client_error(bucket: &str, detail: String) -> Error {
    Error::Client { store: format!("s3://{bucket}"), detail }
}

/// The id of a directory bucket's zone, which is in its name; `None` for a bucket that is none.
pub(super) fn zone(bucket: &str) -> Option<&str> {
    let (base, zone) = bucket.strip_suffix(DIRECTORY_BUCKET_SUFFIX)?.rsplit_once("--")?;
    (!base.is_empty() && !zone.is_empty()).then_some(zone)
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;
    use crate::store::metered::Metered;
    use crate::store::{Limits, Meter, Purpose};

    #[test]
    fn directory_buckets_are_told_by_their_names() {
        assert_eq!(zone("ottla--usw2-az1--x-s3"), Some("usw2-az1"));
        assert_eq!(zone("a--b--usw2-lax1-az1--x-s3"), Some("usw2-lax1-az1"));
        for bucket in ["ottla--x-s3-copy", "ottla--x-s3", "--usw2-az1--x-s3", "ottla"] {
            assert_eq!(zone(bucket), None, "{bucket}");
        }
    }

    /// A bucket in the name of its host, at an endpoint that is the bucket's: object_store names it nowhere then.
    #[tokio::test]
    async fn requests_to_an_endpoint_of_the_buckets_own_are_counted() {
        let limits = Limits::default();
        let patience = Patience { limits: &limits, timeout: limits.metadata_timeout, retries_max: 0 };
        // Nobody listens there: it is counted as it leaves.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        for path_style in [false, true] {
            let keys = Keys {
                access_key_id: "key".to_owned(),
                secret_access_key: "secret".to_owned(),
                session_token: None,
            };
            let target = Target {
                endpoint: Some(format!("http://127.0.0.1:{port}")),
                region: DEFAULT_REGION.to_owned(),
                path_style,
                allow_http: true,
                keys: Some(keys),
            };
            let meter = Arc::<Meter>::default();
            let connector = Connector::new("logs", meter.clone());
            let store = client("logs", target, &patience, connector).unwrap();
            let store = Metered::new(Arc::new(store), Purpose::Upload, None);
            store.put(&"key".into(), "it".into()).await.unwrap_err();
            assert_eq!(meter.totals(Purpose::Upload).puts, 1, "path style: {path_style}");
        }
    }

    #[test]
    fn a_directory_bucket_is_reached_in_its_zone() {
        let limits = Limits::default();
        let patience = Patience { limits: &limits, timeout: limits.metadata_timeout, retries_max: 0 };
        let options = S3Options { region: Some("us-west-2".to_owned()), ..S3Options::default() };
        let shown = |bucket| {
            let target = target(bucket, &options).unwrap();
            let connector = Connector::new(bucket, Arc::default());
            format!("{:?}", client(bucket, target, &patience, connector).unwrap())
        };
        let zonal = shown("ottla--usw2-az1--x-s3");
        assert!(zonal.contains("s3express-usw2-az1.us-west-2.amazonaws.com"), "{zonal}");
        assert!(!shown("ottla").contains("s3express-"));
    }
}
