//! The broker as a process, with a store of its own, and what can be seen of both from outside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use faults::Port;
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// Where the broker keeps its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Storage {
    /// A directory, and a file as the volume of the WAL.
    Directory,
    /// A bucket on an S3 server, and the WAL inside.
    Bucket,
    /// A bucket on an S3 server, and a file as the volume of the WAL.
    BucketBlock,
}

/// The S3 server of what is in a bucket.
#[derive(Clone, Debug, clap::Args)]
pub struct S3 {
    /// An S3 server that runs already, http://HOST:PORT, with the keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
    /// Without it moto is started, for this run alone
    #[arg(long)]
    s3_endpoint: Option<String>,
    /// A bucket there
    #[arg(long, default_value = "ottla-test")]
    s3_bucket: String,
    /// Where moto is installed, as ./test --install does it
    #[arg(long, default_value = ".test/venv/bin/python")]
    moto_python: PathBuf,
    /// What starts it
    #[arg(long, default_value = "broker/tests/clients/python/s3_server.py")]
    moto_script: PathBuf,
}

impl S3 {
    /// The endpoint, and the server if it was started for this.
    async fn start(&self, log: &Path) -> anyhow::Result<(String, Option<(Child, Port)>)> {
        if let Some(endpoint) = &self.s3_endpoint {
            return Ok((endpoint.clone(), None));
        }
        let port = Port::reserve();
        let log = std::fs::File::create(log)?;
        let server = Command::new(&self.moto_python)
            .arg(&self.moto_script)
            .args([&port.to_string(), &self.s3_bucket])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!("starting {}; `./test --install` puts it there", self.moto_python.display())
            })?;
        let listens = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port.number())).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(READY_TIMEOUT, listens).await.context("the S3 server does not listen")?;
        Ok((format!("http://127.0.0.1:{port}"), Some((server, port))))
    }

    /// The keys. moto takes any.
    fn keys(&self) -> [(&'static str, String); 2] {
        let key = |name| std::env::var(name).unwrap_or_else(|_| "test".to_owned());
        ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| (name, key(name)))
    }
}

pub struct Ottla {
    program: PathBuf,
    directory: PathBuf,
    pub port: u16,
    _port: Port,
    arguments: Vec<String>,
    child: Option<Child>,
    keys: [(&'static str, String); 2],
    store: Box<dyn ObjectStore>,
    _s3: Option<(Child, Port)>,
}

impl Ottla {
    /// A broker in the empty directory `directory`. Not started.
    pub async fn new(
        program: &Path,
        storage: Storage,
        directory: &Path,
        s3: &S3,
        more: &[String],
    ) -> anyhow::Result<Ottla> {
        let path = directory.display();
        let mut arguments = vec!["serve".to_owned(), "--shutdown-timeout=60s".to_owned()];
        let keys = s3.keys();
        let mut server = None;
        let store: Box<dyn ObjectStore> = match storage {
            Storage::Directory => {
                let root = directory.join("store");
                std::fs::create_dir_all(&root)?;
                arguments.push(format!("--store=file:{}", root.display()));
                arguments.push(format!("--wal=block://{path}/wal?capacity=256MiB"));
                Box::new(LocalFileSystem::new_with_prefix(&root)?)
            }
            Storage::Bucket | Storage::BucketBlock => {
                let endpoint;
                (endpoint, server) = s3.start(&directory.join("s3.log")).await?;
                let prefix = format!("bench-{}", uuid::Uuid::new_v4());
                arguments.push(format!("--store=s3://{}/{prefix}", s3.s3_bucket));
                arguments.push(format!("--s3-endpoint={endpoint}"));
                arguments.push("--s3-allow-http".to_owned());
                if storage == Storage::BucketBlock {
                    arguments.push(format!("--wal=block://{path}/wal?capacity=256MiB"));
                }
                let store = AmazonS3Builder::new()
                    .with_bucket_name(&s3.s3_bucket)
                    .with_region(std::env::var("AWS_REGION").unwrap_or_else(|_| "us-east-1".to_owned()))
                    .with_endpoint(endpoint)
                    .with_access_key_id(&keys[0].1)
                    .with_secret_access_key(&keys[1].1)
                    .with_client_options(ClientOptions::new().with_allow_http(true))
                    .build()?;
                Box::new(PrefixStore::new(store, prefix))
            }
        };
        arguments.extend(["--kafka".to_owned(), "group.initial.rebalance.delay.ms=0".to_owned()]);
        arguments.extend_from_slice(more);
        let port = Port::reserve();
        let (program, directory) = (program.to_owned(), directory.to_owned());
        Ok(Ottla {
            program,
            directory,
            port: port.number(),
            _port: port,
            arguments,
            child: None,
            keys,
            store,
            _s3: server,
        })
    }

    /// Where the broker's log goes.
    pub fn log(&self) -> PathBuf {
        self.directory.join("broker.log")
    }

    /// Starts it, and returns at once, with what it prints.
    pub fn spawn(&mut self) -> anyhow::Result<Lines<BufReader<ChildStdout>>> {
        let log = std::fs::File::options().create(true).append(true).open(self.log())?;
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env("OTTLA_LISTEN", format!("127.0.0.1:{}", self.port))
            .envs(self.keys.iter().cloned())
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        self.child = Some(child);
        Ok(lines)
    }

    /// Starts it, and returns once it serves.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let mut lines = self.spawn()?;
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                // The last line of the banner.
                if line.contains(" consume --bootstrap ") {
                    return anyhow::Ok(());
                }
            }
            bail!("the broker left; see {}", self.log().display())
        };
        tokio::time::timeout(READY_TIMEOUT, ready).await.context("the broker did not become ready")??;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(())
    }

    /// SIGKILL, or SIGTERM and what it takes to end in order.
    pub async fn stop(&mut self, in_order: bool) -> anyhow::Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        if in_order {
            let pid = child
                .id()
                .and_then(|id| rustix::process::Pid::from_raw(id as i32))
                .context("it has ended")?;
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            let status =
                tokio::time::timeout(READY_TIMEOUT, child.wait()).await.context("it does not end")??;
            ensure!(status.success(), "the broker ended with {status}; see {}", self.log().display());
        } else {
            child.kill().await?;
        }
        Ok(())
    }

    /// A command of the program's on the same store, and what it printed.
    pub async fn command(&self, arguments: &[&str]) -> anyhow::Result<std::process::Output> {
        let of_store = self
            .arguments
            .iter()
            .filter(|argument| argument.starts_with("--store") || argument.starts_with("--s3-"));
        let mut command = Command::new(&self.program);
        command.args(arguments).args(of_store).stdin(Stdio::null());
        command.envs(self.keys.iter().cloned());
        Ok(command.output().await?)
    }

    /// Its process's id.
    pub fn process(&self) -> anyhow::Result<u32> {
        self.child.as_ref().and_then(Child::id).context("it does not run")
    }

    /// Resident memory in bytes, threads, open descriptors.
    pub fn sample(&self) -> anyhow::Result<[u64; 3]> {
        let id = self.process()?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let number = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("Linux tells it")?;
            Ok(line.trim().trim_end_matches(" kB").parse()?)
        };
        let descriptors = std::fs::read_dir(format!("/proc/{id}/fd"))?.count() as u64;
        Ok([number("VmRSS:")? * 1024, number("Threads:")?, descriptors])
    }

    /// Objects and their bytes, by the first part of their keys: `data`, `meta`, `wal`.
    pub async fn objects(&self) -> anyhow::Result<BTreeMap<String, (u64, u64)>> {
        let mut found = BTreeMap::new();
        let mut listing = self.store.list(None);
        while let Some(object) = listing.try_next().await? {
            let key = object.location.as_ref().trim_start_matches("objects/");
            let part = key.split('/').next().unwrap_or_default().to_owned();
            let (count, bytes) = found.entry(part).or_insert((0, 0));
            (*count, *bytes) = (*count + 1, *bytes + object.size);
        }
        Ok(found)
    }
}
