//! The S3 servers of the tests: moto, or the one that `OTTLA_TEST_S3_ENDPOINT` names, and s3rver, which must be refused.
//!
//! Each store is a prefix of its own in one bucket. Whoever looks at objects behind a broker's back does it with signed
//! requests, whatever the server.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use faults::Port;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::prefix::PrefixStore;

use crate::process::{Server, installed, source};

/// The secret key for moto. It is to stand in no log.
pub const SECRET: &str = "test-secret";

/// A server with a bucket, and the keys to it.
pub struct S3Server {
    endpoint: String,
    bucket: String,
    access_key: String,
    secret_key: String,
    process: Option<Server>,
}

impl S3Server {
    /// The server of all tests that do not say otherwise. It lives as long as this process, or longer.
    ///
    /// | variable | what | default |
    /// |---|---|---|
    /// | `OTTLA_TEST_S3_ENDPOINT` | `http://HOST:PORT` of an S3 server that runs already | moto is started |
    /// | `OTTLA_TEST_S3_BUCKET` | a bucket there | `ottla-test` |
    /// | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` | the keys to it | none |
    pub fn shared() -> &'static S3Server {
        static NAMED: OnceLock<Option<S3Server>> = OnceLock::new();
        NAMED.get_or_init(S3Server::named).as_ref().unwrap_or_else(S3Server::moto)
    }

    /// moto, for tests that need a server which takes any key.
    pub fn moto() -> &'static S3Server {
        static MOTO: OnceLock<S3Server> = OnceLock::new();
        MOTO.get_or_init(|| {
            let (port, bucket) = (Port::reserve(), "ottla");
            let (python, script) = (installed("venv/bin/python"), source("clients/python/s3_server.py"));
            let server =
                Server::start(&format!("{} {} {port} {bucket}", python.display(), script.display()), port);
            S3Server {
                endpoint: server.endpoint(),
                bucket: bucket.to_owned(),
                access_key: "test".to_owned(),
                secret_key: SECRET.to_owned(),
                process: Some(server),
            }
        })
    }

    fn named() -> Option<S3Server> {
        let endpoint =
            std::env::var("OTTLA_TEST_S3_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty())?;
        assert!(endpoint.starts_with("http://"), "{endpoint}: faults can be made only of what is plain HTTP");
        let key = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is needed for {endpoint}"));
        Some(S3Server {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            bucket: std::env::var("OTTLA_TEST_S3_BUCKET").unwrap_or_else(|_| "ottla-test".to_owned()),
            access_key: key("AWS_ACCESS_KEY_ID"),
            secret_key: key("AWS_SECRET_ACCESS_KEY"),
            process: None,
        })
    }

    /// `http://HOST:PORT`.
    pub fn endpoint(&self) -> String {
        self.process.as_ref().map_or_else(|| self.endpoint.clone(), Server::endpoint)
    }

    /// The URL of a store that nobody else has. Its prefix is one part.
    pub fn new_store(&self) -> String {
        format!("s3://{}/test-{}", self.bucket, uuid::Uuid::new_v4())
    }

    /// What a broker needs to be told of the server, beside the store.
    pub fn arguments(&self) -> Vec<String> {
        vec!["--s3-endpoint".to_owned(), self.endpoint(), "--s3-allow-http".to_owned()]
    }

    /// The keys, as variables.
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID".to_owned(), self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), self.secret_key.clone()),
        ]
    }

    /// The objects of a store with this URL.
    pub fn objects(&self, store: &str) -> Arc<dyn ObjectStore> {
        let (bucket, prefix) = store.strip_prefix("s3://").unwrap().split_once('/').unwrap();
        let region = std::env::var("AWS_REGION").unwrap_or_else(|_| "us-east-1".to_owned());
        let client = AmazonS3Builder::new()
            .with_endpoint(self.endpoint())
            .with_allow_http(true)
            .with_region(region)
            .with_bucket_name(bucket)
            .with_access_key_id(&self.access_key)
            .with_secret_access_key(&self.secret_key)
            .build()
            .unwrap();
        Arc::new(PrefixStore::new(client, prefix))
    }
}

/// s3rver: a real S3 server that ignores `If-None-Match`. What must be refused.
pub struct CarelessS3Server(Server);

impl CarelessS3Server {
    /// Its one bucket.
    pub const BUCKET: &str = "careless";
    /// Its access key, and its secret as well.
    pub const KEY: &str = "S3RVER";

    pub fn start(directory: &Path) -> CarelessS3Server {
        let port = Port::reserve();
        CarelessS3Server(Server::start(
            &format!(
                "{} --address 127.0.0.1 --port {port} --directory {} --configure-bucket {}",
                installed("s3rver/node_modules/.bin/s3rver").display(),
                directory.display(),
                Self::BUCKET,
            ),
            port,
        ))
    }

    pub fn endpoint(&self) -> String {
        self.0.endpoint()
    }
}
