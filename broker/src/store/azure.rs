//! Azure Blob Storage. Credentials from the `AZURE_*` variables (account key, SAS, client secret, workload identity) or
//! the machine's managed identity.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::azure::MicrosoftAzureBuilder;

use super::metered::Connector;
use super::{Error, Patience, check_endpoint, from_environment};

/// How to reach Azure Blob Storage.
#[derive(Clone, Debug, Default)]
pub struct AzureOptions {
    /// The storage account; `AZURE_STORAGE_ACCOUNT_NAME` where absent.
    pub account: Option<String>,
    /// `http://host:port/account` of a server that speaks its API; Azure where absent.
    pub endpoint: Option<String>,
    pub allow_http: bool,
}

pub(super) fn client(
    container: &str,
    options: &AzureOptions,
    patience: &Patience<'_>,
    connector: Connector,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let client_error = |detail: String| Error::Client { store: format!("az://{container}"), detail };
    let endpoint = options.endpoint.clone().or_else(|| from_environment("AZURE_ENDPOINT"));
    check_endpoint(endpoint.as_deref(), options.allow_http, "--azure-allow-http").map_err(client_error)?;
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(container)
        .with_retry(patience.retry())
        .with_client_options(patience.client(options.allow_http))
        .with_http_connector(connector.at(endpoint.as_deref()));
    if let Some(account) = &options.account {
        builder = builder.with_account(account);
    }
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    Ok(Arc::new(builder.build().map_err(|error| client_error(error.to_string()))?))
}
