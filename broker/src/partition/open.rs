//! Opening a partition: its streams, its newest checkpoint, and the log behind that.
//!
//! ```text
//!   checkpoints: newest ──understood──► state, log start ──► replay behind it ──► open
//!                   │
//!                   └─lost─► an internal topic, of which nobody deletes records ─┐
//!                            Config::accept_lost_checkpoints ────────────────────┴► replay of everything
//!                            otherwise: not opened
//! ```
//!
//! - **P1** A partition is never opened with a log that begins before where DeleteRecords has answered that it begins,
//!   unless the operator accepts it.
//! - **P2** Accepting it is needed once: a new checkpoint is written. Damage behind a checkpoint, or before there is one, is
//!   passed over as well then; a producer that sends a batch from there again is not recognised.

use std::sync::Arc;

use bytes::Bytes;
use s3stream::{ReadError, Storage, Stream, StreamRecord};
use tracing::warn;

use super::arrival::Note;
use super::batch::BatchHeader;
use super::checkpoint::{self, Checkpoint};
use super::state::State;
use super::waiters::Waiters;
use super::{Config, wall_clock_ms};
use crate::metadata::Metadata;
use crate::metadata::image::PartitionInfo;
use crate::tasks::Tasks;

/// Read at a time when a log is replayed.
pub(super) const REPLAY_BYTES: usize = 1 << 20;

/// What a partition is opened in.
pub(super) struct Surroundings<'a> {
    pub storage: &'a Storage,
    pub metadata: &'a Arc<Metadata>,
    pub config: &'a Config,
    pub tasks: &'a Tasks,
}

/// Why a partition could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Storage(#[from] s3stream::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log is not what this broker wrote. Needs an operator.
    #[error("corrupt partition: {0}")]
    Corrupt(String),
    /// What says where the log begins is lost. Needs an operator: [`Config::accept_lost_checkpoints`].
    #[error(
        "the newest checkpoint is lost: {0}. It says where the log begins, so that the partition cannot be opened without \
         it: restore the object from a copy of the bucket, or start the version that wrote it, or start with \
         --partition-accept-lost-checkpoints, which brings back what was deleted lately"
    )]
    Checkpoint(String),
}

/// Closes the streams if opening does not come to its end.
struct Opening(Option<[Stream; 2]>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.iter().flatten().for_each(Stream::close);
    }
}

/// What was found.
pub(super) struct Opened {
    pub log: Stream,
    pub checkpoints: Stream,
    pub waiters: Arc<Waiters>,
    pub state: State,
    /// Bytes of log.
    pub replayed: u64,
    /// Bytes of log behind the newest checkpoint.
    pub behind_checkpoint: u64,
    /// Where the log ended by the checkpoint that is durable.
    pub accounted: u64,
}

/// Opens the streams of a partition that the metadata has under this incarnation, and rebuilds its state.
pub(super) async fn open(
    around: &Surroundings<'_>,
    info: &PartitionInfo,
    internal: bool,
    note: Option<Note>,
) -> Result<Opened, OpenError> {
    let Surroundings { storage, metadata, config, .. } = *around;
    let waiters = Arc::new(Waiters::default());
    let log = storage.open_stream(info.log, Some(waiters.clone()))?;
    let mut opening = Opening(None);
    let checkpoints = storage.open_stream(info.checkpoint, None).inspect_err(|_| log.close())?;
    opening.0 = Some([log.clone(), checkpoints.clone()]);

    // One that accounts for all of the log says what the store would say (N1).
    let note = note.filter(|note| info.note == Some(note.hash));
    let note = note.as_ref().and_then(Note::parts).and_then(|(behind, bytes)| {
        let checkpoint = checkpoint::decode(bytes, config.limits).ok()?;
        (checkpoint.state.log_end() == log.confirmed_end()).then_some((behind, checkpoint))
    });
    let noted = note.is_some();
    let (behind, newest) = match note {
        Some((behind, checkpoint)) => (behind, Ok(Newest::Found(checkpoint))),
        None => (0, newest_checkpoint(&checkpoints, config, metadata).await),
    };
    let newest = match newest {
        Err(OpenError::Checkpoint(detail)) if internal || config.accept_lost_checkpoints => {
            warn!(
                checkpoints = checkpoints.id().0,
                detail, "replaying a whole log for want of its newest checkpoint"
            );
            Newest::Lost
        }
        newest => newest?,
    };
    let lost = matches!(newest, Newest::Lost);
    let Checkpoint { mut state, log_start } = match newest {
        Newest::Found(checkpoint) => checkpoint,
        Newest::None | Newest::Lost => {
            Checkpoint { state: State::new(config.limits, log.start()), log_start: 0 }
        }
    };
    // A note is gone with this process.
    let mut accounted = if noted { 0 } else { state.log_end() };
    let passing_over = (lost || config.accept_lost_checkpoints).then_some(metadata);
    let Replayed { bytes: replayed, passed_over } = replay(&log, &mut state, passing_over).await?;
    if host::planted("forget-producers") {
        let end = state.log_end();
        state = State::new(config.limits, end);
    }
    // Not beyond what the checkpoint accounts for, of which the replay has found all.
    log.advance_start(log_start);
    if lost || passed_over {
        write_checkpoint(storage, &checkpoints, checkpoint::encode(&state, log.start())).await?;
        accounted = state.log_end();
    }
    waiters.begin_at(state.log_end());
    opening.0 = None;
    let behind_checkpoint = behind + replayed;
    Ok(Opened { log, checkpoints, waiters, state, replayed, behind_checkpoint, accounted })
}

/// Appends a checkpoint, and waits until it is durable.
pub(super) async fn write_checkpoint(
    storage: &Storage,
    checkpoints: &Stream,
    bytes: Bytes,
) -> Result<(), s3stream::Error> {
    let admission = storage.admit(bytes.len()).await?;
    let number = checkpoints.next();
    let record = StreamRecord { base: number, end: number + 1, max_timestamp: -1, body: bytes };
    checkpoints.append(admission, record)?.await
}

enum Newest {
    Found(Checkpoint),
    /// None was written yet.
    None,
    Lost,
}

async fn newest_checkpoint(
    checkpoints: &Stream,
    config: &Config,
    metadata: &Metadata,
) -> Result<Newest, OpenError> {
    let end = checkpoints.confirmed_end();
    if end <= checkpoints.start() {
        return Ok(Newest::None);
    }
    let number = end - 1;
    let lost = |detail: String| {
        let located = metadata.image().locate(checkpoints.id(), number, 1);
        let object = located.first().map_or_else(
            || "the write-ahead log".to_owned(),
            |located| s3stream::object::object_key(located.object).to_string(),
        );
        OpenError::Checkpoint(format!(
            "{detail}, number {number} of stream {}, in {object}",
            checkpoints.id().0
        ))
    };
    let records = match checkpoints.read(number, 1).await {
        Err(ReadError::Corrupt { detail, .. }) => return Err(lost(detail)),
        records => records?,
    };
    let newest = records.last().filter(|record| record.base == number);
    let newest = newest.ok_or_else(|| lost("there is none".to_owned()))?;
    checkpoint::decode(&newest.body, config.limits)
        .map(Newest::Found)
        .map_err(|error| lost(error.to_string()))
}

struct Replayed {
    bytes: u64,
    /// Whether a part was damaged and left out.
    passed_over: bool,
}

/// Applies the batches of `log` behind `state`. With `passing_over`, parts whose objects are damaged
/// are passed over: what they would say of producers, a checkpoint would have said.
async fn replay(
    log: &Stream,
    state: &mut State,
    passing_over: Option<&Arc<Metadata>>,
) -> Result<Replayed, OpenError> {
    let now_ms = wall_clock_ms();
    let (start, end) = (log.start(), log.confirmed_end());
    if state.log_end() > end {
        return Err(OpenError::Corrupt(format!(
            "a checkpoint accounts for offsets up to {}, but the log ends at {end}",
            state.log_end()
        )));
    }
    if state.log_end() < start {
        state.skip_to(start);
    }
    let (mut replayed, mut passed_over) = (0, false);
    // What a dead broker left lies in many small objects: one after the other each would take a round trip.
    let mut warm_to = 0;
    while state.log_end() < end {
        let from = state.log_end();
        if from >= warm_to {
            warm_to = log.warm(from, REPLAY_BYTES).await;
        }
        let records = match log.read(from, REPLAY_BYTES).await {
            // A pass of retention came in between.
            Err(ReadError::OutOfRange { start, .. }) if start > from => {
                state.skip_to(start);
                continue;
            }
            Err(ReadError::Corrupt { object, offset, detail }) => {
                let located =
                    passing_over.and_then(|metadata| metadata.image().locate(log.id(), from, 1).pop());
                let Some(end) = located.map(|located| located.part.end).filter(|end| *end > from) else {
                    return Err(ReadError::Corrupt { object, offset, detail }.into());
                };
                warn!(log = log.id().0, from, end, detail, "replaying a log without a part of it");
                state.skip_to(end);
                passed_over = true;
                continue;
            }
            read => read?,
        };
        if records.is_empty() {
            return Err(OpenError::Corrupt(format!("no batch at offset {from} of a log that ends at {end}")));
        }
        for record in records {
            let header = BatchHeader::parse(&record.body)
                .map_err(|error| OpenError::Corrupt(format!("at offset {}: {error}", record.base)))?;
            if record.end <= state.log_end() {
                continue;
            }
            let length = header.last_offset_delta as u64 + 1;
            if header.last_offset_delta < 0 || record.end - record.base != length {
                let detail = format!("the batch at offset {} does not end at {}", record.base, record.end);
                return Err(OpenError::Corrupt(detail));
            }
            // A log may begin inside a batch.
            state.skip_to(record.base.max(state.log_end()));
            if record.base == state.log_end() {
                state.appended(now_ms, &header);
            } else {
                state.skip_to(record.end);
            }
            replayed += record.body.len() as u64;
        }
    }
    Ok(Replayed { bytes: replayed, passed_over })
}
