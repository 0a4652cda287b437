//! The clients under test: programs of their own, beside those of the broker's tests. What they did is in their histories.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::cluster::in_tree;
use crate::network::Host;
use crate::scene::Scene;

/// Longer than a client's own patience with what it has under way, and its readers' with the rest.
const END_WITHIN: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Java,
    Librdkafka,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Java, Kind::Librdkafka];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Java => "java",
            Kind::Librdkafka => "librdkafka",
        }
    }

    fn command(self, scene: &Scene) -> anyhow::Result<Command> {
        let clients = Host::Clients.name();
        Ok(match self {
            Kind::Java => {
                let mut command = scene.command(&clients, "java".as_ref());
                command.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
                command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]);
                command.arg(format!("{}/*", in_tree(".test/java/lib")?.display()));
                command.arg(in_tree("broker/tests/clients/java/src/main/java/ottla/Ops.java")?);
                command
            }
            Kind::Librdkafka => {
                let mut command = scene.command(&clients, &in_tree(".test/venv")?.join("bin/python"));
                command.arg(in_tree("broker/tests/clients/python/ops.py")?);
                command
            }
        })
    }
}

/// What all clients of a run work on.
pub struct Work<'s> {
    pub scene: &'s Scene,
    pub topic: &'static str,
    pub partitions: i32,
    pub pace: u32,
}

/// A client that writes and reads until it is told to end.
pub struct Client {
    pub kind: Kind,
    pub history: PathBuf,
    child: Child,
    input: Option<ChildStdin>,
}

impl Work<'_> {
    fn history(&self, kind: Kind, word: &str) -> PathBuf {
        self.scene.directory().join(format!("{}-{word}.jsonl", kind.name()))
    }

    /// The file for what a client says beside its history.
    fn log(&self, kind: Kind, word: &str) -> anyhow::Result<File> {
        Ok(File::create(self.scene.directory().join(format!("{}-{word}.log", kind.name())))?)
    }

    /// `number` is the client's own, at most 1,000: its processes and values are taken from it.
    pub fn start(&self, kind: Kind, number: u32, bootstrap: &[String]) -> anyhow::Result<Client> {
        let (history, log) = (self.history(kind, "run"), self.log(kind, "run")?);
        let mut child = kind
            .command(self.scene)?
            .args(["run", &bootstrap.join(","), self.topic, &self.partitions.to_string()])
            .args([number.to_string(), self.pace.to_string()])
            .arg(&history)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", kind.name()))?;
        let input = child.stdin.take();
        Ok(Client { kind, history, child, input })
    }

    /// Reads everything once more, through each of `bootstraps` in turn. Returns the history, and what was wrong, if
    /// anything was.
    pub async fn read(
        &self,
        kind: Kind,
        number: u32,
        bootstraps: &[String],
    ) -> anyhow::Result<(PathBuf, Option<String>)> {
        let (history, log) = (self.history(kind, "read"), self.log(kind, "read")?);
        let mut child = kind
            .command(self.scene)?
            .args(["read", &bootstraps.join(";"), self.topic, &self.partitions.to_string()])
            .arg(number.to_string())
            .arg(&history)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let status = timeout(END_WITHIN * bootstraps.len() as u32, child.wait())
            .await
            .with_context(|| format!("the last read of {} hangs", kind.name()))??;
        let name = kind.name();
        let wrong =
            (!status.success()).then(|| format!("the last read of {name}: {status}, see {name}-read.log"));
        Ok((history, wrong))
    }
}

impl Client {
    /// How it ended, if it has.
    pub fn ended(&mut self) -> anyhow::Result<Option<String>> {
        let status = self.child.try_wait()?;
        Ok(status.map(|status| format!("{} ended with {status}", self.kind.name())))
    }

    /// Lets it finish what it has under way.
    pub async fn end(mut self) -> anyhow::Result<()> {
        drop(self.input.take());
        let name = self.kind.name();
        let status = timeout(END_WITHIN, self.child.wait())
            .await
            .with_context(|| format!("{name} does not end"))??;
        ensure!(status.success(), "{name} ended with {status}: see {name}-run.log");
        Ok(())
    }
}
