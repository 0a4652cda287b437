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
use object_store::{ClientOptions, ObjectStore};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// Where the broker keeps its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Storage {
    /// A directory, and a file as the volume of the WAL.
    Directory,
    /// A bucket on a server of moto's (`.test/venv`, by `./test --install`), and the WAL inside.
    Bucket,
}

pub struct Ottla {
    program: PathBuf,
    directory: PathBuf,
    pub port: u16,
    _port: Port,
    arguments: Vec<String>,
    child: Option<Child>,
    store: Box<dyn ObjectStore>,
    _s3: Option<(Child, Port)>,
}

impl Ottla {
    /// A broker in the empty directory `directory`. Not started.
    pub async fn new(
        program: &Path,
        storage: Storage,
        directory: &Path,
        moto: &Path,
        more: &[String],
    ) -> anyhow::Result<Ottla> {
        let path = directory.display();
        let mut arguments = vec!["serve".to_owned(), "--shutdown-timeout=60s".to_owned()];
        let mut s3 = None;
        let store: Box<dyn ObjectStore> = match storage {
            Storage::Directory => {
                let root = directory.join("store");
                std::fs::create_dir_all(&root)?;
                arguments.push(format!("--store=file:{}", root.display()));
                arguments.push(format!("--wal=block://{path}/wal?capacity=256MiB"));
                Box::new(LocalFileSystem::new_with_prefix(&root)?)
            }
            Storage::Bucket => {
                let port = Port::reserve();
                let endpoint = format!("http://127.0.0.1:{port}");
                let log = std::fs::File::create(directory.join("s3.log"))?;
                let server = Command::new(moto)
                    .args(["-H", "127.0.0.1", "-p", &port.to_string()])
                    .stdin(Stdio::null())
                    .stdout(log.try_clone()?)
                    .stderr(log)
                    .kill_on_drop(true)
                    .spawn()
                    .with_context(|| {
                        format!("starting {}; `./test --install` puts it there", moto.display())
                    })?;
                create_bucket(port.number()).await?;
                s3 = Some((server, port));
                arguments.push("--store=s3://soak/cluster".to_owned());
                arguments.push(format!("--s3-endpoint={endpoint}"));
                arguments.push("--s3-allow-http".to_owned());
                let store = AmazonS3Builder::new()
                    .with_bucket_name("soak")
                    .with_region("us-east-1")
                    .with_endpoint(endpoint)
                    .with_access_key_id("test")
                    .with_secret_access_key("test-secret")
                    .with_client_options(ClientOptions::new().with_allow_http(true))
                    .build()?;
                Box::new(store)
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
            store,
            _s3: s3,
        })
    }

    /// Where the broker's log goes.
    pub fn log(&self) -> PathBuf {
        self.directory.join("broker.log")
    }

    /// Starts it, and returns once it serves.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.log())?;
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env("OTTLA_LISTEN", format!("127.0.0.1:{}", self.port))
            .envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test-secret")])
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        self.child = Some(child);
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                // The last line of the banner.
                if line.contains("ottla consume") {
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
        command.envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test-secret")]);
        Ok(command.output().await?)
    }

    /// Resident memory in bytes, threads, open descriptors.
    pub fn sample(&self) -> anyhow::Result<[u64; 3]> {
        let id = self.child.as_ref().and_then(Child::id).context("it does not run")?;
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
            let key = object.location.as_ref().trim_start_matches("cluster/").trim_start_matches("objects/");
            let part = key.split('/').next().unwrap_or_default().to_owned();
            let (count, bytes) = found.entry(part).or_insert((0, 0));
            (*count, *bytes) = (*count + 1, *bytes + object.size);
        }
        Ok(found)
    }
}

/// A bare PUT: moto looks at no signature.
async fn create_bucket(port: u16) -> anyhow::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for _ in 0..300 {
        if let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
            let request = format!(
                "PUT /soak HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "the bucket was not created: {answer}");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bail!("the S3 server does not listen")
}
