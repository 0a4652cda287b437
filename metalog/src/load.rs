//! From nothing to the tail: the newest good snapshot, then every entry behind it.
//!
//! # Consistency
//! A listing only says where to start. Entries are contiguous, so the walk decides where the log ends; a snapshot's
//! mere name proves that the log reaches it at least. A snapshot that is damaged, or that the next entry does not
//! follow, is passed over for an older one with a longer replay. If that replay does not reach what is known to have
//! been there, entries are missing, and nothing is opened.

use std::time::Duration;

use tracing::{info, warn};

use crate::log::{
    Listed, Log, Missing, Wanted, corrupt, entry_path, snapshot_path, snapshot_prefix, trimmed_path,
};
use crate::snapshot::{self, Snapshot};
use crate::state::{Mismatch, State};
use crate::{Clock, Error, Machine};

/// How often a load that was overtaken by retention starts over.
const ROUNDS: u32 = 5;

pub(crate) struct Loaded<M> {
    pub state: State<M>,
    /// Boot time at which the walk began that reached the tail.
    pub began: Duration,
    /// Entries replayed.
    pub replayed: u64,
}

enum Replayed<M> {
    Tail(Loaded<M>),
    /// The first entry does not follow the snapshot.
    Unrelated,
    /// Retention overtook the replay.
    Overtaken,
}

pub(crate) async fn load<M: Machine>(log: &Log, clock: &dyn Clock, empty: &M) -> Result<Loaded<M>, Error> {
    let mut pauses = log.pauses();
    for _ in 0..ROUNDS {
        let Some(loaded) = round(log, clock, empty).await? else {
            pauses.pause().await;
            continue;
        };
        if clock.boottime().saturating_sub(loaded.began) <= log.config.view_age_max {
            return Ok(loaded);
        }
        warn!("replaying the metadata log took longer than a view may age; starting over");
    }
    let detail = "whenever a snapshot was followed, entries or snapshots that must be there were missing";
    Err(corrupt(&snapshot_prefix(), detail))
}

/// `None` if what the listing showed was deleted before it was read.
async fn round<M: Machine>(log: &Log, clock: &dyn Clock, empty: &M) -> Result<Option<Loaded<M>>, Error> {
    let snapshots = log.snapshots().await?;
    let least = snapshots.first().map_or(0, |newest| newest.number);
    for listed in &snapshots {
        let state = match restore(log, listed).await? {
            Restored::Good(state) => state,
            Restored::Gone => return Ok(None),
            Restored::Damaged => continue,
        };
        match replay(log, clock, state).await? {
            Replayed::Tail(loaded) => return reached(loaded, least).map(Some),
            Replayed::Overtaken => return Ok(None),
            Replayed::Unrelated => {
                warn!(snapshot = listed.number, "the log does not follow this snapshot; trying an older one");
            }
        }
    }
    if log.was_trimmed().await? {
        // Read after the listing: the marker is younger than the snapshots that made it possible.
        let listed_again = log.snapshots().await?;
        if !listed_again.iter().map(|again| again.number).eq(snapshots.iter().map(|listed| listed.number)) {
            return Ok(None);
        }
        let detail = "old entries were deleted, but no usable snapshot is left under meta/snapshot/; \
                      restore one from a copy of the bucket";
        return Err(corrupt(&trimmed_path(), detail));
    }
    match replay(log, clock, State::new(empty.clone())).await? {
        Replayed::Tail(loaded) => reached(loaded, least).map(Some),
        Replayed::Overtaken => Ok(None),
        Replayed::Unrelated => Err(corrupt(&entry_path(1), "the first entry names a predecessor")),
    }
}

fn reached<M: Machine>(loaded: Loaded<M>, least: u64) -> Result<Loaded<M>, Error> {
    let number = loaded.state.number;
    if number < least {
        let snapshot = snapshot_path(least);
        let detail = format!("it is missing, but {snapshot} says that the log goes on");
        return Err(corrupt(&entry_path(number + 1), detail));
    }
    info!(number, replayed = loaded.replayed, "loaded the metadata log");
    Ok(loaded)
}

enum Restored<M> {
    Good(State<M>),
    Damaged,
    Gone,
}

async fn restore<M: Machine>(log: &Log, listed: &Listed) -> Result<Restored<M>, Error> {
    let path = snapshot_path(listed.number);
    let restored = match read_snapshot(log, listed.number).await {
        Ok(Some(snapshot)) => M::restore(&snapshot.state)
            .map(|machine| State::restored(machine, snapshot.number, snapshot.nonce)),
        Ok(None) => return Ok(Restored::Gone),
        Err(Error::Corrupt { object, detail }) => Err(Error::Corrupt { object, detail }),
        Err(error) => return Err(error),
    };
    match restored {
        Ok(state) => Ok(Restored::Good(state)),
        Err(error) => {
            warn!(%path, %error, "a snapshot is unusable; trying an older one");
            Ok(Restored::Damaged)
        }
    }
}

/// The snapshot behind entry `number`, if it is there.
pub(crate) async fn read_snapshot(log: &Log, number: u64) -> Result<Option<Snapshot>, Error> {
    let path = snapshot_path(number);
    let bytes_max = log.config.snapshot_bytes_max.saturating_add(snapshot::ENVELOPE_BYTES);
    let wanted = Wanted {
        path: &path,
        first_bytes: None,
        bytes_max,
        timeout: log.config.snapshot_timeout,
        hedged: false,
    };
    let decode = |bytes| {
        let snapshot = Snapshot::decode(bytes).map_err(|error| error.to_string())?;
        if snapshot.number == number {
            Ok(snapshot)
        } else {
            Err(format!("it says that it is snapshot {}", snapshot.number))
        }
    };
    log.fetch(&wanted, &mut log.pauses(), decode).await
}

async fn replay<M: Machine>(log: &Log, clock: &dyn Clock, mut state: State<M>) -> Result<Replayed<M>, Error> {
    let began = clock.boottime();
    let mut replayed = 0;
    let mut walk = log.walk(state.number + 1);
    while let Some(entry) = walk.next().await? {
        match state.apply(&entry, &log.config) {
            Ok(_) => replayed += 1,
            Err(Mismatch) if replayed == 0 => return Ok(Replayed::Unrelated),
            Err(Mismatch) => {
                let detail = format!("it does not follow {}", entry_path(state.number));
                return Err(corrupt(&entry_path(entry.number), detail));
            }
        }
    }
    match log.missing(state.number + 1, state.nonce).await? {
        Missing::Tail => {
            log.nothing_behind(state.number + 1).await?;
            Ok(Replayed::Tail(Loaded { state, began, replayed }))
        }
        // The entry behind which the snapshot stands is another one, or gone.
        Missing::Stale if replayed == 0 && log.nonce_of(state.number).await?.is_some() => {
            Ok(Replayed::Unrelated)
        }
        Missing::Stale => Ok(Replayed::Overtaken),
    }
}
