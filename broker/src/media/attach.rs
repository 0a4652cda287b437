//! The operator's command that brings a dead broker's volume to this machine.
//!
//! It is run by a shell with `OTTLA_WAL_URI`, `OTTLA_WAL_BROKER` and `OTTLA_WAL_EPOCH` in its environment, and has done its
//! work when it ends with 0. Its standard output is empty, or the path at which the volume is here. It may be run again, and
//! on several machines at once: it must be able to find its work done.
//!
//! - **At1** It ends within its time, or is ended, and so it is when nobody waits for it any more: it never goes on after who
//!   began it, with all that its shell started. What it says is read up to a bound.
//! - **At2** That it ended well proves nothing about who can write to the volume: the lease is waited out all the same.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::Instant;
use wal::{Incarnation, Uri};

/// What is read of each of its outputs: far more than a path, or a message worth logging.
const OUTPUT_BYTES_MAX: u64 = 8 << 10;

/// See the module.
#[derive(Clone, Debug)]
pub struct Attach {
    command: String,
    timeout: Duration,
}

impl Attach {
    pub fn new(command: String, timeout: Duration) -> Attach {
        Attach { command, timeout }
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Brings the volume `uri` of the life `of` here, by `until` if that comes first. Where it is now, if the command says so.
    pub async fn run(
        &self,
        of: Incarnation,
        uri: &Uri,
        until: Option<Instant>,
    ) -> anyhow::Result<Option<PathBuf>> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(self.timeout, |left| left.min(self.timeout));
        tracing::info!(broker = of.broker, epoch = of.epoch, %uri, command = self.command, "attaching the volume");
        #[cfg(feature = "simulated")]
        if let Some(machine) = host::simulated::current() {
            let attached = tokio::time::timeout(timeout, machine.attach(&uri.0)).await;
            return attached.context("wal-attach: in time")?.context("wal-attach");
        }
        let mut child = Command::new("/bin/sh")
            .arg("-c")
            .arg(&self.command)
            .env("OTTLA_WAL_URI", &uri.0)
            .env("OTTLA_WAL_BROKER", of.broker.to_string())
            .env("OTTLA_WAL_EPOCH", of.epoch.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // With everything that the shell starts.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("wal-attach: the command cannot be started")?;
        // Behind the child, so that it ends before that is reaped, and its number given to others.
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(id as i32)));
        let out = child.stdout.take().expect("it is piped");
        let complaint = child.stderr.take().expect("it is piped");
        let ended = tokio::time::timeout(timeout, async {
            let (out, complaint) = tokio::join!(read(out), read(complaint));
            (child.wait().await, out, complaint)
        });
        let Ok((status, out, complaint)) = ended.await else {
            bail!("wal-attach: the command did not end within {timeout:?}");
        };
        group.0 = None;
        let status = status.context("wal-attach")?;
        ensure!(status.success(), "wal-attach: the command ended with {status}: {}", complaint.trim());
        match out.trim() {
            "" => Ok(None),
            path if path.starts_with('/') && !path.contains('\n') => Ok(Some(PathBuf::from(path))),
            other => bail!("wal-attach: the command said {other:?}, which is no absolute path"),
        }
    }
}

/// At1: the processes of a command that has not ended.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended by now.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

/// All of it up to the bound; the rest is read and dropped, so that nobody waits to write it.
async fn read(mut from: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    // A pipe that breaks has said what it had to say.
    let _ = (&mut from).take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes).await;
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(command: &str, timeout: Duration) -> anyhow::Result<Option<PathBuf>> {
        let of = Incarnation { broker: 7, epoch: 42 };
        Attach::new(command.to_owned(), timeout).run(of, &"block:///dev/sdx".parse().unwrap(), None).await
    }

    #[tokio::test]
    async fn the_command_is_told_what_to_attach_and_says_where_it_is() {
        let minute = Duration::from_secs(60);
        let said = run("echo \"/at/$OTTLA_WAL_BROKER/$OTTLA_WAL_EPOCH/${OTTLA_WAL_URI##*/}\"", minute).await;
        assert_eq!(said.unwrap(), Some(PathBuf::from("/at/7/42/sdx")));
        assert_eq!(run("true", minute).await.unwrap(), None);
        let failed = run("echo no such volume >&2; exit 3", minute).await.unwrap_err().to_string();
        assert!(failed.contains("no such volume") && failed.contains('3'), "{failed}");
        let senseless = run("echo done", minute).await.unwrap_err().to_string();
        assert!(senseless.contains("no absolute path"), "{senseless}");
        // More than is read, and more than a pipe holds.
        let much = run("head -c 300000 /dev/zero | tr '\\0' x", minute).await.unwrap_err().to_string();
        assert!(much.len() < 20_000, "{} bytes", much.len());
    }

    /// At1: also what the shell began.
    #[tokio::test]
    async fn a_command_that_nobody_waits_for_is_ended_with_all_that_it_began() {
        use std::io::Read;
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let command = format!("sleep 600 > '{}' & wait", pipe.display());
        let running = tokio::spawn(async move { run(&command, Duration::from_secs(900)).await });
        // Opens when the one that sleeps is there, and ends when it is gone.
        let mut pipe = tokio::task::spawn_blocking(|| std::fs::File::open(pipe).unwrap()).await.unwrap();
        running.abort();
        let gone = tokio::task::spawn_blocking(move || pipe.read(&mut [0]).unwrap());
        assert_eq!(tokio::time::timeout(Duration::from_secs(60), gone).await.expect("it ends").unwrap(), 0);
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_ended() {
        let error = run("exec sleep 600", Duration::from_millis(50)).await.unwrap_err().to_string();
        assert!(error.contains("did not end"), "{error}");
        // Before its time is over, if others have the next turn.
        let (hour, of) = (Duration::from_secs(3_600), Incarnation { broker: 7, epoch: 42 });
        let attach = Attach::new("exec sleep 600".to_owned(), hour);
        let until = Some(Instant::now() + Duration::from_millis(50));
        let error =
            attach.run(of, &"block:///dev/sdx".parse().unwrap(), until).await.unwrap_err().to_string();
        assert!(error.contains("did not end"), "{error}");
    }
}
