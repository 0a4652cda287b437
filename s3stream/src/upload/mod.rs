//! Upload: from sealed, durable blocks of the log cache to committed data objects.
//!
//! ```text
//!   block 8  ──► plan ──► PUT PUT PUT ──┐
//!   block 9  ──► plan ──► PUT PUT ──────┼──► commit 8, trim the WAL, commit 9, trim the WAL, …
//! ```
//!
//! **Overview.** One task per engine. It seals the active block when it is old (other reasons seal it elsewhere), starts
//! the upload of sealed blocks as soon as all of their records are durable, or at once if somebody waits for it, and commits them strictly in block order.
//! An engine to which nothing is appended does nothing at all: no timer runs without an active block.
//!
//! **Consistency.** Only durable records are committed, so the metadata never names what the WAL might not hold (S1). In a hurry
//! they are uploaded before they are durable, and otherwise behind it. The WAL is
//! trimmed after the commit that carries the trim point was accepted (S3). An object that was written but not committed
//! is unnamed garbage.
//!
//! **Retries.** PUTs and commits are tried again for as long as the store is down; memory stays bounded because the
//! blocks remain in the log cache, which stops admitting.
//!
//! **Cancellation, crash.** At any point: what is not committed is still in the WAL.

pub(crate) mod commit;
pub(crate) mod plan;
pub(crate) mod put;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::counters::Writing;
use crate::log_cache::{BlockId, Slice};
use crate::metadata::NewObject;
use crate::storage::Inner;
use crate::{ObjectId, StreamId};

use plan::StreamRecords;

type Written = (BlockId, Uploaded);

/// What is in the bucket and not committed yet. Its counters are in flight until that is decided.
pub(crate) struct Uploaded {
    objects: Vec<NewObject>,
    _writing: Writing,
}

pub(crate) async fn run(inner: Arc<Inner>) {
    let mut uploads: JoinSet<Written> = JoinSet::new();
    let mut written: BTreeMap<BlockId, Uploaded> = BTreeMap::new();
    let mut committing: Option<BoxFuture<'static, Result<(), crate::Error>>> = None;
    let mut next_commit = BlockId(0);
    let mut failed = std::pin::pin!(inner.failed());
    loop {
        let age_limit = start_uploads(&inner, &mut uploads, written.len());
        if committing.is_none()
            && written.contains_key(&next_commit)
            && inner.ledger.lock().blocks.is_durable(next_commit)
            && let Some(uploaded) = written.remove(&next_commit)
        {
            committing = Some(commit::commit(inner.clone(), next_commit, uploaded).boxed());
        }
        tokio::select! {
            _ = &mut failed => return,
            result = async { committing.as_mut().expect("checked").await }, if committing.is_some() => {
                committing = None;
                next_commit.0 += 1;
                if let Err(error) = result {
                    inner.fail(error);
                    return;
                }
            }
            Some(upload) = uploads.join_next() => match upload {
                Ok((block, uploaded)) => { written.insert(block, uploaded); }
                Err(stopped) => match stopped.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return,
                },
            },
            () = inner.upload_wanted.notified() => {}
            () = async { tokio::time::sleep_until(age_limit.expect("checked")).await }, if age_limit.is_some() => {}
        }
    }
}

/// Starts what can be started. Returns when the active block, if there is one, will be old.
fn start_uploads(inner: &Arc<Inner>, uploads: &mut JoinSet<Written>, written: usize) -> Option<Instant> {
    let mut ledger = inner.ledger.lock();
    if ledger.blocks.is_old(Instant::now(), inner.config.upload_interval_max) {
        ledger.blocks.seal();
    }
    while uploads.len() + written < inner.config.uploads_in_flight_max {
        let Some((block, slices)) = ledger.blocks.take_uploadable() else { break };
        let contents = slices.into_iter().map(|(stream, slice)| {
            let shared = ledger.streams.get(&stream).expect("streams with cached records are kept").clone();
            (shared, slice)
        });
        uploads.spawn(upload(inner.clone(), block, contents.collect()));
    }
    ledger.blocks.active_since().map(|opened| opened + inner.config.upload_interval_max)
}

async fn upload(
    inner: Arc<Inner>,
    block: BlockId,
    contents: Vec<(Arc<crate::stream::Shared>, Slice)>,
) -> Written {
    let exists = |id: StreamId| inner.metadata.stream(id).is_some();
    let contents: Vec<StreamRecords> = contents
        .into_iter()
        // Streams that were deleted meanwhile need no objects any more.
        .filter(|(shared, _)| exists(shared.id()))
        .map(|(shared, slice)| StreamRecords {
            stream: shared.id(),
            epoch: slice.epoch,
            body_bytes: slice.body_bytes,
            records: shared.slice(&slice),
        })
        .collect();
    let writing = inner.counters.begin();
    let next_id = || ObjectId::Data { owner: inner.owner, counter: writing.next() };
    let puts = plan::plan(contents, &inner.config)
        .into_iter()
        .map(|contents| put::put(&inner.config, inner.stores.upload.as_ref(), &next_id, contents));
    let objects = futures::stream::iter(puts).buffered(inner.config.puts_in_flight_max).collect().await;
    (block, Uploaded { objects, _writing: writing })
}
