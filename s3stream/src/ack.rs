//! The ack pump: one task that takes the WAL's confirmations in order and passes them on.
//!
//! For each run of appends that have become durable: stream ends move (S1), then listeners are called, then the
//! appenders' futures complete. It runs whether or not anybody still waits for an append.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::oneshot;
use wal::Position;

use crate::log_cache::BlockId;
use crate::storage::{Inner, Listener};
use crate::stream::Shared;
use crate::{Error, StreamId};

/// Confirmations handled under one lock. No option: the rest is handled right after.
const BATCH_MAX: usize = 1024;

/// Whom to tell, and how far each stream is confirmed.
type Listeners = Vec<(StreamId, Arc<dyn Listener>, u64)>;

/// An append on its way through the WAL.
#[derive(Debug)]
pub(crate) struct Pending {
    pub append: wal::Append,
    pub stream: Arc<Shared>,
    pub block: BlockId,
    pub base: u64,
    pub end: u64,
    pub done: oneshot::Sender<Result<(), Error>>,
}

impl Pending {
    pub fn complete(self, result: Result<(), Error>) {
        // The appender may have gone away; the record is confirmed all the same.
        let _ = self.done.send(result);
    }
}

pub(crate) async fn run(inner: Arc<Inner>) {
    let mut queue: VecDeque<Pending> = VecDeque::new();
    let mut durable: Vec<(Pending, Position)> = Vec::new();
    let mut listeners = Listeners::new();
    let mut failed = std::pin::pin!(inner.failed());
    loop {
        if queue.is_empty() {
            std::mem::swap(&mut queue, &mut inner.ledger.lock().pending);
        }
        let Some(front) = queue.front_mut() else {
            tokio::select! {
                () = inner.appended.notified() => continue,
                error = inner.wal.failed() => return fail(&inner, queue, error),
                _ = &mut failed => return,
            }
        };
        let mut result = tokio::select! {
            biased;
            result = &mut front.append => result,
            error = &mut failed => return queue.into_iter().for_each(|pending| pending.complete(Err(error.clone()))),
        };
        loop {
            match result {
                Ok(position) => durable.push((queue.pop_front().expect("it is the front"), position)),
                Err(error) => {
                    confirm(&inner, &mut durable, &mut listeners);
                    return fail(&inner, queue, error);
                }
            }
            let Some(next) = queue.front_mut() else { break };
            match (&mut next.append).now_or_never() {
                Some(next) if durable.len() < BATCH_MAX => result = next,
                Some(next) => {
                    confirm(&inner, &mut durable, &mut listeners);
                    result = next;
                }
                None => break,
            }
        }
        confirm(&inner, &mut durable, &mut listeners);
    }
}

/// Empties `durable`. `listeners` is empty before and after: it is kept for its memory.
fn confirm(inner: &Arc<Inner>, durable: &mut Vec<(Pending, Position)>, listeners: &mut Listeners) {
    if durable.is_empty() {
        return;
    }
    let uploadable = {
        let mut ledger = inner.ledger.lock();
        if ledger.failure.is_some() {
            // Once the engine has said that it failed, nothing is confirmed any more.
            drop(ledger);
            durable.clear();
            return;
        }
        for (pending, position) in durable.iter() {
            ledger.blocks.confirm(pending.block, *position);
            if let Some(listener) = pending.stream.confirm(pending.base, pending.end) {
                match listeners.last_mut() {
                    Some((stream, _, end)) if *stream == pending.stream.id() => *end = pending.end,
                    _ => listeners.push((pending.stream.id(), listener, pending.end)),
                }
            }
        }
        ledger.blocks.is_uploading()
    };
    if uploadable {
        inner.upload_wanted.notify_one();
    } else {
        inner.relieve_wal();
    }
    // Each stream is told once, of the last of its ends.
    listeners.sort_by_key(|(stream, ..)| *stream);
    listeners.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.2 = later.2;
        }
        same
    });
    for (_, listener, end) in listeners.drain(..) {
        listener.confirmed(end);
    }
    for (pending, _) in durable.drain(..) {
        pending.complete(Ok(()));
    }
}

fn fail(inner: &Arc<Inner>, queue: VecDeque<Pending>, error: wal::Error) {
    let error = match error {
        wal::Error::Fenced(detail) => Error::Fenced(detail),
        other => Error::Failed(other.to_string()),
    };
    inner.fail(error.clone());
    for pending in queue {
        pending.complete(Err(error.clone()));
    }
}
