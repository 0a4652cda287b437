//! A machine that remembers every command in order: what replicas must agree on.

use std::sync::Arc;

use bytes::Bytes;
use metalog::{Applying, Error, Machine};

/// The commands so far, newest first; clones share.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    newest: Option<Arc<Line>>,
    lines: u64,
}

#[derive(Debug)]
struct Line {
    command: Vec<u8>,
    context: Applying,
    older: Option<Arc<Line>>,
}

impl Drop for Line {
    // Iteratively: a long list would overflow the stack.
    fn drop(&mut self) {
        let mut older = self.older.take();
        while let Some(line) = older {
            older = Arc::try_unwrap(line).ok().and_then(|mut line| line.older.take());
        }
    }
}

impl Journal {
    /// Every command, oldest first.
    pub fn commands(&self) -> Vec<String> {
        let mut commands = self.walk(|line| String::from_utf8_lossy(&line.command).into_owned());
        commands.reverse();
        commands
    }

    /// What the machine was told with every command, oldest first.
    pub fn contexts(&self) -> Vec<Applying> {
        let mut contexts = self.walk(|line| line.context);
        contexts.reverse();
        contexts
    }

    fn walk<T>(&self, of: impl Fn(&Line) -> T) -> Vec<T> {
        let mut found = Vec::new();
        let mut line = self.newest.as_ref();
        while let Some(this) = line {
            found.push(of(this));
            line = this.older.as_ref();
        }
        found
    }

    fn push(&mut self, context: Applying, command: &[u8]) {
        let line = Line { command: command.to_vec(), context, older: self.newest.take() };
        self.newest = Some(Arc::new(line));
        self.lines += 1;
    }
}

impl Machine for Journal {
    /// How many commands came before.
    type Outcome = u64;

    fn apply(&mut self, context: &Applying, command: &[u8]) -> u64 {
        self.push(*context, command);
        self.lines - 1
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (command, context) in self.commands().iter().zip(self.contexts()) {
            bytes.extend(context.number.to_le_bytes());
            bytes.extend(context.time_ms.to_le_bytes());
            bytes.extend((command.len() as u32).to_le_bytes());
            bytes.extend(command.as_bytes());
        }
        bytes
    }

    fn restore(bytes: &[u8]) -> Result<Journal, Error> {
        let damaged =
            || Error::Corrupt { object: "a journal".into(), detail: "it ends inside a line".into() };
        let mut journal = Journal::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (head, tail) = rest.split_at_checked(20).ok_or_else(damaged)?;
            let number = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
            let time_ms = i64::from_le_bytes(head[8..16].try_into().expect("eight bytes"));
            let length = u32::from_le_bytes(head[16..].try_into().expect("four bytes"));
            let (command, tail) = tail.split_at_checked(length as usize).ok_or_else(damaged)?;
            journal.push(Applying { number, time_ms, issuer: None }, command);
            rest = tail;
        }
        Ok(journal)
    }
}

/// A command that is like no other.
pub fn command(who: usize, which: usize) -> Bytes {
    Bytes::from(format!("{who}:{which}"))
}
