//! The commit of a block's objects, and the trim that it allows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use wal::Position;

use super::Uploaded;
use crate::Error;
use crate::StreamId;
use crate::backoff::Backoff;
use crate::log_cache::{BlockId, Trimmable};
use crate::metadata::{self, Commit, NewObject, StreamMetadata};
use crate::storage::Inner;

/// How often a conflict that nothing explains is tried again before the engine stops. No option: more of them
/// would only hide a defect.
const CONFLICTS_MAX: usize = 8;

/// Commits the objects of `block`, all blocks before which are committed, then trims the WAL (S3) and gives the
/// block's memory free. An error is final.
pub(super) async fn commit(inner: Arc<Inner>, block: BlockId, uploaded: Uploaded) -> Result<(), Error> {
    let Uploaded { objects, _writing } = uploaded;
    let bytes = objects.iter().flat_map(|object| &object.parts).map(|part| part.bytes).sum();
    let streams: BTreeSet<StreamId> =
        objects.iter().flat_map(|object| &object.parts).map(|part| part.stream).collect();
    let begins_at = inner.ledger.lock().blocks.begins_at(block);
    let mut entries = split(objects, inner.config.commit_parts_max);
    let last = entries.pop().unwrap_or_default();
    for objects in entries {
        commit_entry(&inner, objects, begins_at).await?;
    }
    let wal_trim = trim_point(&inner, block);
    commit_entry(&inner, last, wal_trim).await?;
    // The block's memory is free only now that the metadata names its objects (C2).
    inner.ledger.lock().blocks.commit(block);
    inner.bytes_uploaded.fetch_add(bytes, Ordering::Relaxed);
    match inner.wal.trim(wal_trim).await {
        Ok(()) => {}
        Err(wal::Error::Unavailable(reason)) => {
            tracing::warn!(reason, "cannot trim the write-ahead log now; the next trim covers it");
        }
        Err(wal::Error::Fenced(reason)) => return Err(Error::Fenced(reason)),
        Err(error) => return Err(Error::Failed(error.to_string())),
    }
    inner.committed.send_replace(block.0 + 1);
    inner.changed(streams);
    inner.settle();
    inner.relieve_wal();
    Ok(())
}

/// The lowest position that still holds anything uncommitted once `block` is committed.
fn trim_point(inner: &Inner, block: BlockId) -> Position {
    if host::planted("trim-early") {
        return inner.wal.status().durable;
    }
    let ledger = inner.ledger.lock();
    match ledger.blocks.trimmable_after(block) {
        Trimmable::To(position) => position,
        // Read under the lock: whatever is appended later lies at or beyond what is durable now.
        Trimmable::Everything(last) => inner.wal.status().durable.max(last),
    }
}

/// Objects in runs of at most `parts_max` parts, or of one object.
pub(crate) fn split(objects: Vec<NewObject>, parts_max: usize) -> Vec<Vec<NewObject>> {
    let mut entries: Vec<Vec<NewObject>> = Vec::new();
    let mut parts = 0;
    for object in objects {
        parts += object.parts.len();
        match entries.last_mut() {
            Some(entry) if parts <= parts_max => entry.push(object),
            _ => {
                parts = object.parts.len();
                entries.push(vec![object]);
            }
        }
    }
    entries
}

async fn commit_entry(inner: &Inner, objects: Vec<NewObject>, wal_trim: Position) -> Result<(), Error> {
    let commit = Commit { owner: inner.owner, objects, wal_trim };
    let mut backoff = Backoff::new(&inner.config);
    let mut conflicts = 0;
    loop {
        let reason = match inner.metadata.commit(commit.clone()).await {
            Ok(()) => return Ok(()),
            Err(metadata::Error::Fenced(reason)) => return Err(Error::Fenced(reason)),
            Err(metadata::Error::Rejected(reason)) => {
                return Err(Error::Failed(format!("a commit of uploaded objects was rejected: {reason}")));
            }
            Err(metadata::Error::Unavailable(reason)) => reason,
            Err(metadata::Error::Conflict(reason)) => {
                // An earlier attempt of ours whose answer was lost?
                if is_applied(inner.metadata.as_ref(), &commit) {
                    return Ok(());
                }
                conflicts += 1;
                if conflicts == CONFLICTS_MAX {
                    return Err(Error::Failed(format!("a commit conflicts again and again: {reason}")));
                }
                reason
            }
        };
        tracing::warn!(reason, "commit of uploaded objects failed; retrying");
        backoff.pause().await;
    }
}

/// Whether the metadata names every part of the commit that still matters. Parts of deleted streams, and what was
/// trimmed, do not.
pub(crate) fn is_applied(metadata: &dyn StreamMetadata, commit: &Commit) -> bool {
    let mut named = 0;
    for object in &commit.objects {
        for part in &object.parts {
            let Some(view) = metadata.stream(part.stream) else { continue };
            let from = part.base.max(view.start);
            if from >= part.end {
                continue;
            }
            match metadata.locate(part.stream, from, 1).first() {
                Some(located) if located.object == object.id => named += 1,
                _ => return false,
            }
        }
    }
    named > 0
}

#[cfg(test)]
mod tests {
    use wal::Incarnation;

    use super::*;
    use crate::metadata::StreamPart;
    use crate::{ObjectId, StreamId};

    fn object(counter: u64, parts: usize) -> NewObject {
        let owner = Incarnation { broker: 1, epoch: 1 };
        let part =
            |stream| StreamPart { stream: StreamId(stream), base: 0, end: 1, max_timestamp: 0, bytes: 1 };
        NewObject {
            id: ObjectId::Data { owner, counter },
            size_bytes: 100,
            parts: (0..parts as u64).map(part).collect(),
        }
    }

    #[test]
    fn entries_are_bounded_and_keep_the_order() {
        let objects = vec![object(0, 3), object(1, 1), object(2, 1), object(3, 9), object(4, 4)];
        let entries = split(objects.clone(), 4);
        let sizes: Vec<usize> = entries.iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1, 1, 1]);
        assert_eq!(entries.concat(), objects);
        assert!(split(Vec::new(), 4).is_empty());
    }
}
