//! A store that says why it is asked, and the connector below the client that counts it.
//!
//! The purpose travels as a task-local: object_store calls its HTTP client in the task that waits for the answer, and so
//! do streams while they are polled, which is why those are wrapped too. A body that breaks off is asked for again in the
//! middle of such a poll.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};
use object_store::path::Path;
use object_store::{
    ClientOptions, CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use super::meter::{Meter, Purpose, Request};

tokio::task_local! {
    static PURPOSE: Purpose;
}

/// One purpose's view of a store.
#[derive(Debug)]
pub(super) struct Metered {
    inner: Arc<dyn ObjectStore>,
    caller: Caller,
}

/// Who asks, and for a store without a wire where its calls are counted.
#[derive(Clone, Debug)]
struct Caller {
    purpose: Purpose,
    calls: Option<Arc<Meter>>,
}

impl Caller {
    fn called(&self, request: Request, sent_bytes: usize) {
        if let Some(meter) = &self.calls {
            meter.request(self.purpose, request, sent_bytes as u64);
        }
    }

    fn received(&self, bytes: u64) {
        if let Some(meter) = &self.calls {
            meter.received(self.purpose, bytes);
        }
    }
}

impl Metered {
    pub fn new(inner: Arc<dyn ObjectStore>, purpose: Purpose, calls: Option<Arc<Meter>>) -> Metered {
        Metered { inner, caller: Caller { purpose, calls } }
    }

    fn scoped<T: 'static>(&self, mut stream: BoxStream<'static, T>) -> BoxStream<'static, T> {
        let purpose = self.caller.purpose;
        futures::stream::poll_fn(move |context| {
            PURPOSE.sync_scope(purpose, || stream.poll_next_unpin(context))
        })
        .boxed()
    }
}

impl fmt::Display for Metered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(formatter)
    }
}

#[async_trait]
impl ObjectStore for Metered {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.caller.called(Request::Put, payload.content_length());
        PURPOSE.scope(self.caller.purpose, self.inner.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.caller.called(Request::Put, 0);
        let begin = self.inner.put_multipart_opts(location, options);
        let inner = PURPOSE.scope(self.caller.purpose, begin).await?;
        Ok(Box::new(MeteredUpload { inner, caller: self.caller.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.caller.called(Request::Get, 0);
        let head = options.head;
        let mut result = PURPOSE.scope(self.caller.purpose, self.inner.get_opts(location, options)).await?;
        if !head {
            // All of it, as a bucket would send it.
            self.caller.received(result.range.end - result.range.start);
        }
        result.payload = match result.payload {
            GetResultPayload::Stream(body) => GetResultPayload::Stream(self.scoped(body)),
            file => file,
        };
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let caller = self.caller.clone();
        let counted = locations.inspect_ok(move |_| caller.called(Request::Delete, 0));
        self.scoped(self.inner.delete_stream(counted.boxed()))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.caller.called(Request::List, 0);
        self.scoped(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.caller.called(Request::List, 0);
        self.scoped(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.caller.called(Request::List, 0);
        PURPOSE.scope(self.caller.purpose, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.caller.called(Request::Put, 0);
        PURPOSE.scope(self.caller.purpose, self.inner.copy_opts(from, to, options)).await
    }
}

#[derive(Debug)]
struct MeteredUpload {
    inner: Box<dyn MultipartUpload>,
    caller: Caller,
}

#[async_trait]
impl MultipartUpload for MeteredUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.caller.called(Request::Put, data.content_length());
        PURPOSE.scope(self.caller.purpose, self.inner.put_part(data)).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.caller.called(Request::Put, 0);
        PURPOSE.scope(self.caller.purpose, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.caller.called(Request::Delete, 0);
        PURPOSE.scope(self.caller.purpose, self.inner.abort()).await
    }
}

/// Makes clients that count what they send to one bucket.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    target: Target,
    meter: Arc<Meter>,
}

impl Connector {
    pub fn new(bucket: &str, meter: Arc<Meter>) -> Connector {
        Connector { target: Target { bucket: bucket.to_owned(), endpoint: None }, meter }
    }

    /// For clients of an endpoint that somebody named, which may be the bucket's own: then nothing names the bucket.
    pub fn at(mut self, endpoint: Option<&str>) -> Connector {
        self.target.endpoint = endpoint.and_then(|url| {
            let (scheme, rest) = url.split_once("://")?;
            let authority = rest.split(['/', '?', '#']).next()?;
            let (host, port) = match authority.rsplit_once(':') {
                // An address of IPv6 has colons, and ends with a bracket.
                Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                    (host, port.parse().ok())
                }
                _ => (authority, None),
            };
            Some((host.to_ascii_lowercase(), port.or_else(|| default_port(scheme))))
        });
        self
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Counting { client, target: self.target.clone(), meter: self.meter.clone() }))
    }
}

#[derive(Debug)]
struct Counting {
    client: HttpClient,
    target: Target,
    meter: Arc<Meter>,
}

#[async_trait]
impl HttpService for Counting {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let uri = request.uri();
        if !self.target.is_of(&request) {
            // For credentials.
            return self.client.execute(request).await;
        }
        let Ok(purpose) = PURPOSE.try_with(|purpose| *purpose) else {
            // Stores are handed out with a purpose (M1): it is for credentials, from a host or a path of the bucket's name.
            return self.client.execute(request).await;
        };
        let kind = kind_of(request.method().as_str(), uri.query().unwrap_or_default());
        self.meter.request(purpose, kind, request.body().content_length() as u64);
        let answer = self.client.execute(request).await?;
        let meter = self.meter.clone();
        Ok(answer.map(|body| {
            HttpResponseBody::new(body.map_frame(move |frame| {
                meter.received(purpose, frame.data_ref().map_or(0, Bytes::len) as u64);
                frame
            }))
        }))
    }
}

/// What tells requests for the bucket from those for credentials, which the same clients send.
#[derive(Clone, Debug)]
struct Target {
    bucket: String,
    /// Host and port.
    endpoint: Option<(String, Option<u16>)>,
}

impl Target {
    fn is_of(&self, request: &HttpRequest) -> bool {
        let uri = request.uri();
        let host = uri.host().unwrap_or_default();
        if is_for_bucket(&self.bucket, host, uri.path()) {
            return true;
        }
        let port = uri.port_u16().or_else(|| default_port(uri.scheme_str().unwrap_or_default()));
        let at_endpoint =
            self.endpoint.as_ref().is_some_and(|endpoint| (&*endpoint.0, endpoint.1) == (host, port));
        // A server may give out credentials there, too: what asks for them names an action, as AWS's STS has it.
        let asks_for_credentials =
            uri.query().is_some_and(|query| query.split('&').any(|part| part.starts_with("Action=")));
        at_endpoint && !asks_for_credentials
    }
}

/// The bucket stands in the name of the host, or in the path: first, or behind an account.
fn is_for_bucket(bucket: &str, host: &str, path: &str) -> bool {
    let in_host = host.strip_prefix(bucket).is_some_and(|rest| rest.starts_with('.'));
    in_host || path.trim_start_matches('/').split('/').take(2).any(|part| part == bucket)
}

/// By what all three clouds' clients send. A batch of deletions is a POST.
fn kind_of(method: &str, query: &str) -> Request {
    let has = |parameter: &str| query.split('&').any(|part| part == parameter);
    match method {
        "GET" if has("list-type=2") || has("comp=list") => Request::List,
        "GET" | "HEAD" => Request::Get,
        "DELETE" => Request::Delete,
        "POST" if has("delete") || has("delete=") || has("comp=batch") => Request::Delete,
        _ => Request::Put,
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;
    use crate::store::meter::Totals;

    #[test]
    fn requests_to_the_bucket_are_told_from_those_for_credentials() {
        for (host, path) in [
            ("127.0.0.1", "/logs/prefix/key"),
            ("127.0.0.1", "/logs"),
            ("logs.s3.us-east-1.amazonaws.com", "/prefix/key"),
            ("storage.googleapis.com", "/logs/key"),
            ("account.blob.core.windows.net", "/logs/key"),
            ("127.0.0.1", "/devstoreaccount1/logs/key"),
        ] {
            assert!(is_for_bucket("logs", host, path), "{host}{path}");
        }
        for (host, path) in [
            ("169.254.169.254", "/latest/meta-data/iam/security-credentials/role"),
            ("sts.us-east-1.amazonaws.com", "/"),
            ("oauth2.googleapis.com", "/token"),
            ("logs2.s3.us-east-1.amazonaws.com", "/key"),
            ("127.0.0.1", "/a/b/logs"),
        ] {
            assert!(!is_for_bucket("logs", host, path), "{host}{path}");
        }
    }

    /// An endpoint may be the bucket's own: a name of one's own for it, a gateway that has one.
    #[test]
    fn all_that_goes_to_the_endpoint_is_for_the_bucket_but_what_asks_for_credentials() {
        let is_counted = |endpoint: &str, uri: &str| {
            let mut request = HttpRequest::new(Bytes::new().into());
            *request.uri_mut() = uri.parse().unwrap();
            Connector::new("logs", Arc::default()).at(Some(endpoint)).target.is_of(&request)
        };
        for (endpoint, uri) in [
            ("https://storage.example", "https://storage.example/prefix/key"),
            ("https://Storage.example/", "https://storage.example:443/?list-type=2"),
            ("http://10.0.0.1:9000", "http://10.0.0.1:9000/key"),
            ("http://[::1]:9000", "http://[::1]:9000/key"),
            ("http://[::1]", "http://[::1]/key"),
            ("https://storage.example/account", "https://logs.elsewhere.example/key"),
        ] {
            assert!(is_counted(endpoint, uri), "{uri} at {endpoint}");
        }
        for (endpoint, uri) in [
            (
                "https://storage.example",
                "https://storage.example/?Action=AssumeRoleWithWebIdentity&Version=1",
            ),
            ("https://storage.example", "https://storage.example:8443/key"),
            ("https://storage.example", "http://storage.example/key"),
            ("https://storage.example", "https://sts.example/key"),
            ("http://10.0.0.1:9000", "http://169.254.169.254/latest/api/token"),
        ] {
            assert!(!is_counted(endpoint, uri), "{uri} at {endpoint}");
        }
    }

    #[test]
    fn requests_are_told_apart_as_they_are_billed() {
        for (method, query, expected) in [
            ("PUT", "", Request::Put),
            ("PUT", "partNumber=1&uploadId=a", Request::Put),
            ("POST", "uploads=", Request::Put),
            ("POST", "uploadId=delete", Request::Put),
            ("POST", "delete", Request::Delete),
            ("POST", "delete=", Request::Delete),
            ("POST", "comp=batch", Request::Delete),
            ("DELETE", "", Request::Delete),
            ("DELETE", "uploadId=a", Request::Delete),
            ("GET", "", Request::Get),
            ("HEAD", "", Request::Get),
            ("GET", "list-type=2&prefix=data", Request::List),
            ("GET", "restype=container&comp=list", Request::List),
        ] {
            assert_eq!(kind_of(method, query), expected, "{method} {query}");
        }
    }

    /// A store without a wire: every kind of call is counted once, as its kind, under its purpose.
    #[tokio::test]
    async fn every_call_is_counted_as_its_kind_under_its_purpose() {
        let (inner, meter) = (Arc::new(InMemory::new()), Arc::new(Meter::default()));
        let (key, other) = (Path::from("a"), Path::from("b"));
        let mut purposes = Purpose::ALL.into_iter();
        // Each step under the next purpose: what it adds there, and to no other.
        let mut step = async |asked: &'static str, expected: Totals| {
            let purpose = purposes.next().unwrap();
            let store = Metered::new(inner.clone(), purpose, Some(meter.clone()));
            let before = Purpose::ALL.map(|purpose| meter.totals(purpose));
            match asked {
                "put" => drop(store.put(&key, "12345".into()).await.unwrap()),
                "upload" => {
                    let mut upload = store.put_multipart(&other).await.unwrap();
                    upload.put_part("123".into()).await.unwrap();
                    upload.put_part("4567".into()).await.unwrap();
                    upload.complete().await.unwrap();
                    // In memory there is nothing to abort: only the call counts.
                    let _ = store.put_multipart(&Path::from("c")).await.unwrap().abort().await;
                }
                "get" => {
                    assert_eq!(store.get_range(&key, 1..4).await.unwrap(), Bytes::from("234"));
                    store.head(&key).await.unwrap();
                    assert_eq!(store.get(&other).await.unwrap().bytes().await.unwrap().len(), 7);
                }
                "list" => {
                    assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 2);
                    let behind = store.list_with_offset(None, &key);
                    assert_eq!(behind.try_collect::<Vec<_>>().await.unwrap().len(), 1);
                    assert_eq!(store.list_with_delimiter(None).await.unwrap().objects.len(), 2);
                }
                "copy" => store.copy(&key, &Path::from("d")).await.unwrap(),
                "delete" => {
                    let keys = futures::stream::iter([key.clone(), other.clone()].map(Ok)).boxed();
                    assert_eq!(store.delete_stream(keys).try_collect::<Vec<_>>().await.unwrap().len(), 2);
                }
                _ => drop(store.get(&Path::from("nothing")).await.unwrap_err()),
            }
            for (before, of) in before.into_iter().zip(Purpose::ALL) {
                let added = meter.totals(of).combine(before, |after, before| after - before);
                let expected = if of == purpose { expected } else { Totals::default() };
                assert_eq!(added, expected, "{asked}, {of:?}");
            }
        };
        let none = Totals::default();
        step("put", Totals { puts: 1, sent_bytes: 5, ..none }).await;
        step("upload", Totals { puts: 5, sent_bytes: 7, deletes: 1, ..none }).await;
        step("get", Totals { gets: 3, received_bytes: 10, ..none }).await;
        step("list", Totals { lists: 3, ..none }).await;
        step("copy", Totals { puts: 1, ..none }).await;
        step("delete", Totals { deletes: 2, ..none }).await;
        step("get of nothing", Totals { gets: 1, ..none }).await;
        assert_eq!(meter.puts(), 1 + 5 + 3 + 1, "PUTs and LISTs");
    }

    /// The other side of a connection: takes what it is sent, and answers with so many bytes.
    #[derive(Debug)]
    struct Answers(&'static [u8]);

    #[async_trait]
    impl HttpService for Answers {
        async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
            drop(request);
            Ok(HttpResponse::new(Bytes::from_static(self.0).into()))
        }
    }

    /// Below the client: bytes in both directions, under the purpose that the task has; a body as far as it was read.
    #[tokio::test]
    async fn what_goes_over_the_wire_is_counted_with_its_bytes() {
        let meter = Arc::new(Meter::default());
        let client = HttpClient::new(Answers(b"answer"));
        let target = Connector::new("logs", meter.clone()).target;
        let counting = Counting { client, target, meter: meter.clone() };
        let send = async |method: &str, uri: &str, body: &'static str| {
            let mut request = HttpRequest::new(Bytes::from(body).into());
            *request.method_mut() = method.parse().unwrap();
            *request.uri_mut() = uri.parse().unwrap();
            let answer = counting.call(request).await.unwrap();
            answer.into_body().bytes().await.unwrap()
        };
        let sent = async {
            assert_eq!(send("PUT", "http://127.0.0.1/logs/a", "12345").await, "answer");
            send("GET", "http://127.0.0.1/logs/a", "").await;
            send("GET", "http://127.0.0.1/logs?list-type=2", "").await;
            send("POST", "http://127.0.0.1/logs?delete", "123").await;
        };
        PURPOSE.scope(Purpose::Compaction, sent).await;
        let expected = Totals { puts: 1, gets: 1, lists: 1, deletes: 1, sent_bytes: 8, received_bytes: 24 };
        assert_eq!(meter.totals(Purpose::Compaction), expected);
        // Nobody asks for an object without a purpose (M1): this is for credentials.
        send("GET", "http://127.0.0.1/logs", "").await;
        let all = Purpose::ALL.map(|purpose| meter.totals(purpose).requests());
        assert_eq!(all.into_iter().sum::<u64>(), 4);
    }
}
