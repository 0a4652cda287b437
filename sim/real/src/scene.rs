//! What a run has put into the machine, so that it can be taken away: by the run itself, or by the next one if it was killed.
//!
//! A run's directory is named after its process and when that began, `PID-START`; the namespaces are `ottla-PID-…`. Processes
//! die with the one that started them ([`Scene::command`]), whatever becomes of it. So a directory whose process is gone says
//! all that is to be taken away.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::process::Command;

/// Where `ip netns` keeps the names.
const NAMESPACES: &str = "/run/netns";

fn root() -> PathBuf {
    std::env::temp_dir().join("ottla-real")
}

/// When a process began, in the kernel's ticks; `None` if there is no such process.
fn start_of(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Its name, in brackets, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    // The 22nd field; the first two are gone.
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Takes away what killed runs left.
pub fn sweep() -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(root()) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().into_string().unwrap_or_default();
        let parts =
            name.split_once('-').and_then(|(id, start)| Some((id.parse().ok()?, start.parse().ok()?)));
        let Some((process, start)) = parts else { continue };
        if start_of(process) != Some(start) {
            println!("taking away what run {process} left");
            take_away(process, &entry.path())?;
        }
    }
    Ok(())
}

fn take_away(process: u32, directory: &Path) -> anyhow::Result<()> {
    let prefix = prefix(process);
    if let Ok(names) = fs::read_dir(NAMESPACES) {
        for name in names {
            let name = name?.file_name().into_string().unwrap_or_default();
            if name.starts_with(&prefix) {
                let status = std::process::Command::new("ip").args(["netns", "delete", &name]).status()?;
                if !status.success() {
                    bail!("the namespace {name} cannot be deleted");
                }
            }
        }
    }
    fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))
}

fn prefix(process: u32) -> String {
    format!("ottla-{process}-")
}

/// This run's directory and names. [`end`](Scene::end) takes all of it away.
#[derive(Debug)]
pub struct Scene {
    directory: PathBuf,
    ended: bool,
}

impl Scene {
    pub fn new() -> anyhow::Result<Scene> {
        let process = std::process::id();
        let start = start_of(process).context("/proc is needed")?;
        let directory = root().join(format!("{process}-{start}"));
        fs::create_dir_all(&directory)?;
        Ok(Scene { directory, ended: false })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The namespace of that name.
    pub fn namespace(&self, name: &str) -> String {
        prefix(std::process::id()) + name
    }

    /// A program in a namespace. It is killed when this process ends, however that happens, and when its handle is dropped.
    pub fn command(&self, namespace: &str, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "ip", "netns", "exec", &self.namespace(namespace)]);
        command.arg(program).kill_on_drop(true);
        command
    }

    /// Copies logs and histories, not volumes, into a directory of their own below `into`, and returns it.
    pub fn keep(&self, into: &Path) -> anyhow::Result<PathBuf> {
        let name = self.directory.file_name().context("a run's directory has a name")?;
        let into = into.join(name);
        fs::create_dir_all(&into)?;
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), into.join(entry.file_name()))?;
            }
        }
        Ok(into)
    }

    pub fn end(&mut self) -> anyhow::Result<()> {
        self.ended = true;
        take_away(std::process::id(), &self.directory)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.end();
        }
    }
}
