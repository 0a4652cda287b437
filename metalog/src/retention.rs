//! Taking snapshots, and deleting what they cover.
//!
//! Any replica may do both at any time; racing is harmless. A snapshot of an entry is the same whoever takes it, and
//! deleting what is deleted changes nothing.
//!
//! # What is deleted
//! - Entries below the oldest of the `snapshots_kept` newest *good* snapshots, in ascending order, once the store's
//!   own clock says that they were written at least `retention` before the newest snapshot was. No local clock takes
//!   part. Good is a snapshot that was read back, decodes, and carries the nonce of its entry.
//! - Snapshots below that one.
//!
//! # Crash
//! Every step may be the last. The marker `meta/trimmed` is there before the first entry goes; `log start` in the next
//! snapshot tells later runs where to begin.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::entry::Nonce;
use crate::load::read_snapshot;
use crate::log::{Listed, Log, entry_path, late, snapshot_path, trimmed_path};
use crate::snapshot::Snapshot;
use crate::{Error, Machine};

const MARKER: &[u8] =
    b"Entries of this metadata log were deleted; it can be loaded only from a snapshot in meta/snapshot/.\n";

/// Deletes what older snapshots allow, then takes a snapshot of `machine` as of entry `number`. Failures of the store are
/// logged: the next snapshot makes up for them. Ends early when the log is closed, and then leaves nothing that a later
/// run does not mend.
///
/// # Panics
/// If the machine does: it would at the next snapshot too, and nothing would ever be deleted again.
pub(crate) async fn snapshot<M: Machine>(log: Log, machine: M, number: u64, nonce: Nonce) {
    let closing = log.closing.clone();
    let log_start = match closing.run_until_cancelled(trim(&log)).await {
        Some(Ok(log_start)) => log_start,
        Some(Err(error)) => {
            warn!(%error, "old entries of the metadata log could not be deleted");
            1
        }
        None => return,
    };
    // To its end, whatever is closed: nothing of a replica outlives it, and a panic is heard of.
    let state = match host::work::blocking(move || machine.snapshot()).await {
        Ok(state) => Bytes::from(state),
        // The runtime is shutting down.
        Err(error) => return warn!(%error, "no snapshot was taken"),
    };
    if state.len() > log.config.snapshot_bytes_max {
        let (bytes, limit) = (state.len(), log.config.snapshot_bytes_max);
        return warn!(
            bytes,
            limit, "the metadata is larger than a snapshot may be; raise snapshot_bytes_max"
        );
    }
    let bytes = state.len();
    // A log start beyond the snapshot cannot be: it is bounded by older snapshots.
    let snapshot = Snapshot { number, nonce, log_start: log_start.min(number), state };
    match closing.run_until_cancelled(save(&log, &snapshot)).await {
        Some(Ok(())) => info!(number, bytes, log_start, "took a snapshot of the metadata"),
        Some(Err(error)) => warn!(number, %error, "no snapshot was taken"),
        None => {}
    }
}

async fn save(log: &Log, snapshot: &Snapshot) -> Result<(), Error> {
    let path = snapshot_path(snapshot.number);
    let payload: PutPayload = snapshot.encode().into_iter().collect();
    create_if_absent(log, &path, payload).await
}

/// Makes sure that an object is there, whoever writes it.
async fn create_if_absent(log: &Log, path: &Path, payload: PutPayload) -> Result<(), Error> {
    let mut pauses = log.pauses();
    while log.modified_ms(path).await?.is_none() {
        match log.put(path, payload.clone(), log.config.snapshot_timeout).await {
            Ok(()) => return Ok(()),
            Err(failure) => {
                debug!(%path, failure, "a create did not plainly succeed; looking whether it is there");
                pauses.pause_or(|| format!("creating {path}: {failure}")).await?;
            }
        }
    }
    Ok(())
}

/// Deletes what may go. The first entry that is still there, as far as this run knows.
pub(crate) async fn trim(log: &Log) -> Result<u64, Error> {
    let listed = log.snapshots().await?;
    let Some(newest) = listed.first() else { return Ok(1) };
    let (good, known_start) = good_snapshots(log, &listed).await?;
    if good.len() < log.config.snapshots_kept {
        return Ok(known_start);
    }
    let floor = *good.last().expect("at least two snapshots are kept");
    let log_start = delete_entries(log, known_start..floor, newest.modified_ms).await?;
    for old in listed.iter().rev().filter(|listed| listed.number < floor) {
        delete(log, &snapshot_path(old.number)).await?;
    }
    Ok(log_start)
}

/// The newest good snapshots, newest first, as many as are kept; and the highest log start that they know.
async fn good_snapshots(log: &Log, listed: &[Listed]) -> Result<(Vec<u64>, u64), Error> {
    let mut good = Vec::new();
    let mut log_start = 1;
    for Listed { number, .. } in listed {
        let snapshot = match read_snapshot(log, *number).await {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => continue,
            Err(Error::Corrupt { object, detail }) => {
                warn!(object, detail, "a snapshot is damaged; what only it covers is kept");
                continue;
            }
            Err(error) => return Err(error),
        };
        if log.nonce_of(*number).await? != Some(snapshot.nonce) {
            warn!(number, "a snapshot is not of the entry in the log; what only it covers is kept");
            continue;
        }
        log_start = log_start.max(snapshot.log_start);
        good.push(*number);
        if good.len() == log.config.snapshots_kept {
            break;
        }
    }
    Ok((good, log_start))
}

async fn delete_entries(log: &Log, numbers: std::ops::Range<u64>, now_ms: i64) -> Result<u64, Error> {
    let retention_ms = i64::try_from(log.config.retention.as_millis()).unwrap_or(i64::MAX);
    let mut deleted = 0;
    for number in numbers.clone() {
        let path = entry_path(number);
        let Some(modified_ms) = log.modified_ms(&path).await? else { continue };
        // Ascending order (L5): nothing goes before everything below it went.
        if now_ms.saturating_sub(modified_ms) < retention_ms || deleted == log.config.deletes_max {
            return Ok(number);
        }
        if deleted == 0 {
            create_if_absent(log, &trimmed_path(), PutPayload::from_static(MARKER)).await?;
        }
        delete(log, &path).await?;
        deleted += 1;
    }
    Ok(numbers.end.max(numbers.start))
}

/// Deletes an object; that it is gone already is no error.
async fn delete(log: &Log, path: &Path) -> Result<(), Error> {
    let mut pauses = log.pauses();
    loop {
        let failure = match timeout(log.config.request_timeout, log.store.delete(path)).await {
            Ok(Ok(()) | Err(object_store::Error::NotFound { .. })) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => late(log.config.request_timeout),
        };
        pauses.pause_or(|| format!("deleting {path}: {failure}")).await?;
    }
}
