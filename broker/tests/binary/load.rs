//! An idempotent producer outside of this process that writes all the time, and the judge of what became of it: every
//! acknowledged record is there once, in order, at the offset that was acknowledged (`clients/python/crash.py`).

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::process::{Ottla, installed, run, source};

/// A writer at work on a topic of its own.
pub struct Load {
    judge: Judge,
    writer: Child,
    progress: Lines<BufReader<ChildStdout>>,
    acknowledged: u64,
}

/// What was acknowledged, to be compared with what is there.
pub struct Judge {
    topic: String,
    acks: PathBuf,
    /// What the writer said at its end.
    pub summary: String,
}

impl Load {
    /// Creates the topic and begins to write.
    pub fn start(broker: &Ottla, topic: &str) -> Load {
        let acks = broker.directory.path().join(format!("acks-{topic}"));
        let judge = Judge { topic: topic.to_owned(), acks, summary: String::new() };
        let mut writer =
            judge.script("write", broker).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let progress = BufReader::new(writer.stdout.take().unwrap()).lines();
        Load { judge, writer, progress, acknowledged: 0 }
    }

    /// Waits until so many more records were acknowledged, to the next hundred.
    pub fn more(&mut self, records: u64) {
        let before = self.acknowledged;
        while self.acknowledged < before + records {
            let line = self.progress.next().expect("the writer goes on").unwrap();
            self.acknowledged = line.parse().unwrap_or_else(|_| panic!("the writer stopped: {line}"));
        }
    }

    /// Lets the writer finish what it has begun.
    pub fn finish(mut self) -> Judge {
        drop(self.writer.stdin.take());
        let last = (&mut self.progress).map_while(Result::ok).last().expect("the writer reports its end");
        assert!(self.writer.wait().unwrap().success(), "the writer was content: {last}");
        Judge { summary: last, topic: self.judge.topic.clone(), acks: self.judge.acks.clone() }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.writer.kill();
        let _ = self.writer.wait();
    }
}

impl Judge {
    /// Reads everything, and panics unless it is what was acknowledged. What it counted.
    pub fn verify(&self, broker: &Ottla) -> String {
        run(&mut self.script("verify", broker))
    }

    fn script(&self, command: &str, broker: &Ottla) -> Command {
        let mut script = Command::new(installed("venv/bin/python"));
        script.arg(source("clients/python/crash.py"));
        script.args([command, &broker.bootstrap(), &self.topic]).arg::<&Path>(&self.acks);
        script
    }
}
