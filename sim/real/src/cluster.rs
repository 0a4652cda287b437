//! The processes: the S3 server and the brokers, each in its namespace, and what is done to them.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::Options;
use crate::kafka;
use crate::network::Host;
use crate::scene::Scene;

const BUCKET: &str = "ottla";
const S3_PORT: u16 = 9000;
pub const KAFKA_PORT: u16 = 9092;
/// Whatever is asked of a process; only a hang meets it.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// From the first broker's start until all know each other. The probe of the store alone takes many requests.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// A broker that left by itself is started again, as an operator's supervisor would do it.
const SUPERVISED_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Wal {
    /// Objects in the bucket.
    Object,
    /// A file for each broker, which all can read.
    Block,
}

impl Wal {
    pub fn name(self) -> &'static str {
        match self {
            Wal::Object => "object",
            Wal::Block => "block",
        }
    }
}

/// What `./test --install` puts there, or what is in the tree.
pub fn in_tree(path: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    ensure!(path.exists(), "{} is missing; run ./test --install once", path.display());
    Ok(path.canonicalize()?)
}

pub struct Broker {
    pub id: u32,
    arguments: Vec<String>,
    child: Option<Child>,
    /// When it left by itself.
    left: Option<Instant>,
}

pub struct Cluster<'s> {
    scene: &'s Scene,
    program: PathBuf,
    store: Child,
    store_arguments: Vec<String>,
    pub brokers: Vec<Broker>,
    /// How often a broker left though nobody had told it to.
    pub left_by_themselves: u32,
}

impl<'s> Cluster<'s> {
    /// Starts the S3 server. No broker runs yet.
    pub async fn new(scene: &'s Scene, options: &Options) -> anyhow::Result<Cluster<'s>> {
        let address = Host::Store.address();
        let log = File::create(scene.directory().join("store.log"))?;
        let store = scene
            .command(&Host::Store.name(), &in_tree(".test/venv")?.join("bin/python"))
            .arg(in_tree("broker/tests/clients/python/s3_server.py")?)
            .args([&S3_PORT.to_string(), BUCKET, &address])
            .args([options.store_latency_min, options.store_latency_max].map(|ms| ms.to_string()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let listens = async {
            while TcpStream::connect((&address[..], S3_PORT)).await.is_err() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, listens).await.context("the S3 server does not listen")?;
        let store_arguments = vec![
            format!("--store=s3://{BUCKET}/real"),
            format!("--s3-endpoint=http://{address}:{S3_PORT}"),
            "--s3-allow-http".to_owned(),
        ];
        let brokers = (1..=options.brokers).map(|id| Broker::new(scene, options, id)).collect();
        Ok(Cluster {
            scene,
            program: options.ottla.clone(),
            store,
            store_arguments,
            brokers,
            left_by_themselves: 0,
        })
    }

    /// Addresses of all brokers, as clients are given them.
    pub fn addresses(&self) -> Vec<String> {
        self.brokers.iter().map(Broker::address).collect()
    }

    fn broker(&mut self, id: u32) -> &mut Broker {
        &mut self.brokers[id as usize - 1]
    }

    pub fn start(&mut self, id: u32) -> anyhow::Result<()> {
        let path = |end| self.scene.directory().join(format!("b{id}.{end}"));
        let append = |path| File::options().create(true).append(true).open(path);
        let child = self
            .scene
            .command(&Host::Broker(id).name(), &self.program)
            .arg("serve")
            .args(&self.store_arguments)
            .args(&self.brokers[id as usize - 1].arguments)
            .envs(keys())
            .current_dir(self.scene.directory())
            .stdin(Stdio::null())
            .stdout(append(path("out"))?)
            .stderr(append(path("log"))?)
            .spawn()
            .with_context(|| format!("starting broker {id}"))?;
        let broker = self.broker(id);
        ensure!(broker.child.is_none(), "broker {id} runs");
        (broker.child, broker.left) = (Some(child), None);
        Ok(())
    }

    /// SIGKILL, and nothing more comes of it once this returns.
    pub async fn kill(&mut self, id: u32) -> anyhow::Result<()> {
        if let Some(mut child) = self.broker(id).child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// SIGSTOP or SIGCONT.
    pub fn pause(&mut self, id: u32, stop: bool) -> anyhow::Result<()> {
        if let Some(child) = &self.broker(id).child {
            signal(child, if stop { Signal::STOP } else { Signal::CONT })?;
        }
        Ok(())
    }

    /// SIGTERM. Whoever has to know that it has left asks [`left_in_order`](Cluster::left_in_order).
    pub fn terminate(&mut self, id: u32) -> anyhow::Result<()> {
        if let Some(child) = &self.broker(id).child {
            signal(child, Signal::TERM)?;
        }
        Ok(())
    }

    /// Whether that is what a broker said last: others took it for dead while it was leaving, and it says that it has left something to
    /// them.
    fn was_fenced(&self, id: u32) -> anyhow::Result<bool> {
        let log = std::fs::read_to_string(self.scene.directory().join(format!("b{id}.log")))?;
        Ok(log.lines().rfind(|line| !line.is_empty()).is_some_and(|line| line.starts_with("ottla: fenced: ")))
    }

    /// What is wrong with how a broker that was told to leave has left, if anything is.
    pub async fn left_in_order(&mut self, id: u32) -> anyhow::Result<Option<String>> {
        let Some(mut child) = self.broker(id).child.take() else { return Ok(None) };
        Ok(match timeout(PATIENCE, child.wait()).await {
            Ok(status) => {
                let status = status?;
                // A process that has just begun, perhaps by itself, ends as any does until it listens to signals.
                let in_order = status.success()
                    || status.signal() == Some(Signal::TERM.as_raw())
                    || status.code() == Some(1) && self.was_fenced(id)?;
                (!in_order).then(|| format!("broker {id} was told to leave, and did with {status}"))
            }
            Err(_) => {
                child.kill().await?;
                Some(format!("broker {id} was told to leave, and had not after {PATIENCE:?}"))
            }
        })
    }

    pub fn pause_store(&self, stop: bool) -> anyhow::Result<()> {
        signal(&self.store, if stop { Signal::STOP } else { Signal::CONT })
    }

    /// Starts again what left by itself, unless it is in `but`. Returns what is to be said about those that have just left.
    pub fn supervise(&mut self, but: &[u32]) -> anyhow::Result<Vec<String>> {
        let mut said = Vec::new();
        for id in 1..=self.brokers.len() as u32 {
            if but.contains(&id) {
                continue;
            }
            let broker = self.broker(id);
            if let Some(child) = &mut broker.child
                && let Some(status) = child.try_wait()?
            {
                said.push(format!("broker {id} left by itself with {status}"));
                (broker.child, broker.left) = (None, Some(Instant::now()));
                self.left_by_themselves += 1;
            }
            if self.broker(id).left.is_some_and(|left| left.elapsed() >= SUPERVISED_AFTER) {
                self.start(id)?;
            }
        }
        Ok(said)
    }

    /// Waits until every broker answers and knows all others. Returns what is to be said about those that had to be started
    /// again.
    pub async fn ready(&mut self, topic: &str) -> anyhow::Result<Vec<String>> {
        let began = Instant::now();
        let mut said = Vec::new();
        for (id, address) in (1..).zip(self.addresses()) {
            loop {
                let known = kafka::metadata(&address, topic, Duration::from_secs(5)).await;
                if known.as_ref().is_ok_and(|(brokers, _)| brokers.len() == self.brokers.len()) {
                    break;
                }
                said.extend(self.supervise(&[])?);
                let known = known.map(|(brokers, _)| brokers);
                ensure!(
                    began.elapsed() < READY_WITHIN,
                    "broker {id} does not know all others, but {known:?}"
                );
                sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(said)
    }

    /// `ottla ARGUMENTS` on the store, past the brokers: whether it succeeded, and what it said.
    pub async fn tool(&self, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
        let mut command: Command = self.scene.command(&Host::Clients.name(), &self.program);
        command.args(arguments).args(&self.store_arguments).envs(keys()).stdin(Stdio::null());
        let output = command.output().await?;
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        Ok((output.status.success(), said.trim().to_owned()))
    }
}

impl Broker {
    fn new(scene: &Scene, options: &Options, id: u32) -> Broker {
        let directory = scene.directory().join(format!("volume{id}"));
        let wal = match options.wal {
            Wal::Object => "object".to_owned(),
            Wal::Block => format!("block://{}?capacity=64MiB", directory.display()),
        };
        let mut arguments = vec![
            format!("--node-id={id}"),
            format!("--wal={wal}"),
            format!("--listen={}:{KAFKA_PORT}", Host::Broker(id).address()),
        ];
        arguments.extend_from_slice(&options.with);
        Broker { id, arguments, child: None, left: None }
    }

    pub fn address(&self) -> String {
        format!("{}:{KAFKA_PORT}", Host::Broker(self.id).address())
    }
}

/// moto takes any.
fn keys() -> [(&'static str, &'static str); 2] {
    [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")]
}

fn signal(child: &Child, signal: Signal) -> anyhow::Result<()> {
    // Not one that has ended and was waited for: its number may be another's by now.
    let Some(pid) = child.id().and_then(|id| Pid::from_raw(id as i32)) else { return Ok(()) };
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
