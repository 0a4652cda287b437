//! Google Cloud Storage. Credentials as Google's tools find them: `GOOGLE_*` variables, the application default
//! credentials' file, or the machine's service account.

use std::sync::Arc;

use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::{ObjectStore, StaticCredentialProvider};

use super::metered::Connector;
use super::{Error, Patience, check_endpoint, from_environment};

/// How to reach Google Cloud Storage.
#[derive(Clone, Debug, Default)]
pub struct GcsOptions {
    /// `http://host:port` of a server that speaks its XML API; Google where absent.
    pub endpoint: Option<String>,
    pub allow_http: bool,
}

pub(super) fn client(
    bucket: &str,
    options: &GcsOptions,
    patience: &Patience<'_>,
    connector: Connector,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let client_error = |detail: String| Error::Client { store: format!("gs://{bucket}"), detail };
    let endpoint = options.endpoint.clone().or_else(|| from_environment("STORAGE_EMULATOR_HOST"));
    check_endpoint(endpoint.as_deref(), options.allow_http, "--gcs-allow-http").map_err(client_error)?;
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket)
        .with_retry(patience.retry())
        .with_client_options(patience.client(options.allow_http))
        .with_http_connector(connector.at(endpoint.as_deref()));
    if let Some(endpoint) = endpoint {
        if endpoint.starts_with("http://") {
            // Unencrypted is never Google: whoever it is gets no token of Google's.
            let nobody = GcpCredential { bearer: String::new() };
            builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(nobody)));
        }
        builder = builder.with_base_url(&endpoint);
    }
    Ok(Arc::new(builder.build().map_err(|error| client_error(error.to_string()))?))
}
