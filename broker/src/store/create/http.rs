//! The AWS SDK over the HTTP client that object_store has: one TLS stack, one set of trusted certificates, one set of
//! time-outs, and the same refusal of plain HTTP.

use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::config::{HttpClient, RuntimeComponents};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use futures::TryStreamExt;
use object_store::client::{self, HttpError, HttpErrorKind};

/// How long an answer may be. The longest there is, a thousand lifecycle rules, has less than half of it.
const ANSWER_BYTES_MAX: usize = 8 << 20;

#[derive(Clone, Debug)]
pub(super) struct Http(pub client::HttpClient);

impl HttpClient for Http {
    /// Time-outs are object_store's.
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Http {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move { call(client, request).await })
    }
}

async fn call(client: client::HttpClient, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
    let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
    let (head, body) = request.into_parts();
    let body = ByteStream::new(body).collect().await.map_err(|error| ConnectorError::user(error.into()))?;
    let request = client::HttpRequest::from_parts(head, body.into_bytes().into());

    let (head, body) = client.execute(request).await.map_err(failed)?.into_parts();
    let mut answer = Vec::new();
    let mut pieces = body.bytes_stream();
    while let Some(piece) = pieces.try_next().await.map_err(failed)? {
        if answer.len() + piece.len() > ANSWER_BYTES_MAX {
            let detail = format!("the answer is longer than {ANSWER_BYTES_MAX} bytes");
            return Err(ConnectorError::other(detail.into(), None));
        }
        answer.extend_from_slice(&piece);
    }
    let answer = client::HttpResponse::from_parts(head, Vec::new().into()).map(|_| SdkBody::from(answer));
    HttpResponse::try_from(answer).map_err(|error| ConnectorError::other(error.into(), None))
}

/// By what the SDK does about it: it tries again after the first three.
fn failed(error: HttpError) -> ConnectorError {
    match error.kind() {
        HttpErrorKind::Timeout => ConnectorError::timeout(error.into()),
        HttpErrorKind::Connect => ConnectorError::io(error.into()).never_connected(),
        HttpErrorKind::Request | HttpErrorKind::Interrupted => ConnectorError::io(error.into()),
        // It grows.
        _ => ConnectorError::other(error.into(), None),
    }
}
