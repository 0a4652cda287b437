//! Handing partitions over to other brokers while clients write to them and read. No record is copied: what one leader has
//! uploaded the next one reads.
//!
//! ```text
//!   prepare   checkpoints, upload of what is there                 appends go on
//!   stop      no more appends, no more checkpoints      ──┐
//!   finish    upload of what came meanwhile               ├─ nobody can write: two requests to the store or so
//!   hand over one entry, with the upload's commit         │
//!             ahead: they belong to the next leader     ──┘
//!   close     waiting fetches and appends are told; the next leader opens
//! ```
//!
//! Two things keep a third request, and a fourth, out of that time. The next leader looks for the entry while it is being
//! written ([`expect`](crate::metadata::Metadata::expect)), so that it knows of it when it is there. And producers are told to go there as soon as it is
//! sent, since their own pause before they do (`retry.backoff.ms`, 100 ms) takes about as long as that; who is there too early
//! waits there. All that they were told is advice, and G5 sees to it that it does no harm. Producers that understand no advice
//! (Produce before version 10) ask for metadata as soon as they are answered, so they are answered when that is right.
//!
//! # Guarantees
//! - **G1** Nothing is acknowledged after a partition has stopped that was not appended before; what was is acknowledged, by
//!   this broker, and is committed before the entry (H1 of [`moves`](crate::metadata::moves)).
//! - **G2** What the next leader opens says all that this one knew: the newest checkpoint, and the log behind it, are committed.
//!   So a batch that a producer sends again, to the next leader, is recognised there.
//! - **G3** Whatever goes wrong, the partition goes on where it was, as it was; but only once it is known that the entry was not
//!   applied, and never will be. As long as that is not known it takes nothing.
//! - **G4** It is bounded how long appends are stopped for an upload ([`Limits::stopped_max`]), and how many partitions share
//!   an entry and its fate ([`Limits::partitions_max`]).
//!
//! - **G5** Where producers were told of a next leader that it did not become, the partition goes on under a new leader epoch (H5),
//!   and not before: they believe nothing older than what they were told. Until the metadata log takes that entry it takes nothing.
//!
//! # Retries
//! None here, but for an outcome that is not known, and for G5: whoever wanted the move asks again.
//!
//! # Cancellation
//! Dropping the future of [`Partitions::hand_over`] stops nothing: what has begun comes to its end.
//!
//! # Crash
//! At any point: either the entry is in the log, and with it all that there was; or this broker still owns the partition, and
//! its WAL is recovered like any other's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tracing::{info, warn};
use uuid::Uuid;

use super::log::Ends;
use super::{CHECKPOINTS_AT_ONCE, Partition, Partitions, Slot};
use crate::metadata::MoveRejection::NotCommitted;
use crate::metadata::apply::{Outcome, Rejection};
use crate::metadata::command::{Handed, Kept};
use crate::metadata::image::Image;
use crate::metadata::{Error, HandingTo, MOVES_PER_COMMAND_MAX, MoveRejection, NoteHash};

/// How long to wait before it is tried again to learn what became of an entry, or to get a new leader epoch. No option: the log's
/// own time-outs lie before it.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(200);

/// How long what producers were turned away with is known to the next opening of a partition. No option: it bounds memory.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// What was not uploaded when appends stop has to be uploaded while they are stopped: more than this is uploaded once more
/// before, if there is time. No option: it is what an object store takes in about the time of a request.
const REST_BYTES_MAX: usize = 1 << 20;

/// Uploads before appends stop: with a load that nothing keeps up with, more would not make the rest smaller.
const PREPARATIONS_MAX: usize = 3;

/// Bounds of a hand-over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Partitions that stop together, and are handed over by one entry. Default 500.
    pub partitions_max: usize,
    /// How long partitions are stopped at most for the upload of their rest; then they go on here. Default 5 s.
    pub stopped_max: Duration,
    /// How long the upload before that may take. Default 30 s.
    pub prepare_max: Duration,
    /// How long the next leader waits for the last one's notes ([`arrival`](super::arrival)). Default 250 ms.
    pub note_wait: Duration,
    /// What those may take in memory, bytes. Default 32 MiB.
    pub notes_bytes_max: usize,
    /// How long a request that is there too early waits for the partition to arrive. Default 1 s.
    pub expected_wait: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            partitions_max: 500,
            stopped_max: Duration::from_secs(5),
            prepare_max: Duration::from_secs(30),
            note_wait: Duration::from_millis(250),
            notes_bytes_max: 32 << 20,
            expected_wait: Duration::from_secs(1),
        }
    }
}

/// A partition that is to go to another broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    pub topic: Uuid,
    pub index: i32,
    /// Broker id.
    pub to: u32,
}

/// Why none of the partitions left.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    #[error(transparent)]
    Storage(#[from] s3stream::Error),
    #[error(transparent)]
    Metadata(#[from] Error),
    #[error("{0} did not come to its end in time")]
    Late(&'static str),
}

/// What became of them.
#[derive(Debug, Default)]
pub struct HandedOver {
    pub left: Vec<Leave>,
    /// Those that stay, and why.
    pub stayed: Vec<(Leave, String)>,
    /// How long they took no appends.
    pub stopped: Duration,
}

/// A partition that has stopped. Goes on when this is dropped.
struct Stopped {
    leave: Leave,
    slot: Arc<Slot>,
    ends: Ends,
    leader_epoch: i32,
    /// Of what the next leader will be told of it.
    note: Option<NoteHash>,
    /// Of one that is not open: nobody opens it meanwhile.
    gate: Option<OwnedMutexGuard<()>>,
}

impl Stopped {
    fn handed(&self) -> Handed {
        Handed {
            topic: self.leave.topic,
            partition: self.leave.index as u32,
            to: self.leave.to,
            log_end: self.ends.log,
            checkpoint_end: self.ends.checkpoints,
            leader_epoch: Some(self.leader_epoch),
            note: self.note,
        }
    }

    fn kept(&self) -> Kept {
        Kept {
            topic: self.leave.topic,
            partition: self.leave.index as u32,
            log_end: self.ends.log,
            checkpoint_end: self.ends.checkpoints,
            leader_epoch: self.leader_epoch,
        }
    }

    /// It goes on here, unless it has left after all, perhaps even come back: as another, of a later epoch. `false` if producers
    /// were told that it goes: then it takes nothing under this epoch (G5).
    fn goes_on(&mut self) -> bool {
        let goes_on = match self.slot.partition.get() {
            Some(partition) if partition.is_led() => partition.stay(),
            Some(partition) => {
                partition.close_left();
                true
            }
            None => true,
        };
        if goes_on {
            self.gate = None;
        }
        goes_on
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if !self.goes_on()
            && let Some(partition) = self.slot.partition.get()
        {
            partition.close_left();
        }
    }
}

/// Partitions that stay here under a new leader epoch, as they were under the old one: those whose next opening has something to
/// take over. For a time: whoever was turned away comes back at once, or not at all.
#[derive(Debug, Default)]
pub(super) struct KeptHere(Mutex<Vec<(Instant, Arc<Partition>)>>);

impl KeptHere {
    fn add(&self, partition: Arc<Partition>) {
        let mut kept = self.0.lock();
        kept.retain(|(since, other)| {
            let same = other.topic_id == partition.topic_id && other.index == partition.index;
            !same && since.elapsed() < KEPT_FOR
        });
        kept.push((Instant::now(), partition));
    }

    /// `opened` is what everybody finds from now on.
    pub fn take_over(&self, opened: &Partition) {
        let mut kept = self.0.lock();
        kept.retain(|(since, _)| since.elapsed() < KEPT_FOR);
        let at = kept.iter().position(|(_, was)| {
            was.topic_id == opened.topic_id
                && was.index == opened.index
                && was.leader_epoch < opened.leader_epoch
        });
        if let Some(at) = at {
            let (_, was) = kept.swap_remove(at);
            drop(kept);
            was.close_left();
            opened.know_turned_away(&was);
        }
    }
}

impl Partitions {
    /// Hands over as many of `leaving` as [`Limits::partitions_max`], from the first. Those that this broker does not lead, or
    /// that nobody can take, stay. Whoever calls it makes sure that no other call has one of them at the same time.
    pub async fn hand_over(self: &Arc<Self>, leaving: &[Leave]) -> Result<HandedOver, HandOverError> {
        let count = leaving.len().min(self.config.handover.partitions_max).min(MOVES_PER_COMMAND_MAX);
        let (partitions, leaving) = (self.clone(), leaving[..count].to_vec());
        let handing = self.tasks.spawn("a hand-over", async move { partitions.carry_out(leaving).await });
        handing.await.expect("a hand-over does not panic")
    }

    async fn carry_out(&self, leaving: Vec<Leave>) -> Result<HandedOver, HandOverError> {
        let mut done = HandedOver::default();
        let image = self.metadata.image();
        let mut going = Vec::with_capacity(leaving.len());
        for leave in leaving {
            match self.may_leave(&image, &leave) {
                Ok(()) => going.push(leave),
                Err(why) => done.stayed.push((leave, why)),
            }
        }
        if going.is_empty() {
            return Ok(done);
        }
        self.prepare(&going).await?;
        let began = Instant::now();
        // From before anybody is told: some are there as soon as they are.
        let handing = self.metadata.handing_to(going.iter().map(|leave| leave.to));
        let mut stopped = self.stop(going, &mut done).await;
        let results = self.give_away(&mut stopped, handing).await?;
        for (stopped, result) in stopped.into_iter().zip(results) {
            match result {
                Ok(()) => {
                    self.forget_left(stopped.leave.topic, stopped.leave.index, &stopped.slot);
                    done.left.push(stopped.leave);
                }
                Err(why) => done.stayed.push((stopped.leave, why)),
            }
        }
        done.stopped = began.elapsed();
        let (left, stayed, stopped) = (done.left.len(), done.stayed.len(), done.stopped);
        info!(left, stayed, ?stopped, "partitions were handed over");
        Ok(done)
    }

    fn may_leave(&self, image: &Image, leave: &Leave) -> Result<(), String> {
        let topic = image.topic(leave.topic).ok_or("there is no such topic (any more)")?;
        self.led(topic, leave.index).map_err(|why| why.to_string())?;
        match image.receiver(leave.to) {
            Some(to) if to.broker != self.broker => Ok(()),
            _ => Err(MoveRejection::NoReceiver(leave.to).to_string()),
        }
    }

    /// What can be done while appends go on, so that little is left for when they do not.
    async fn prepare(&self, going: &[Leave]) -> Result<(), HandOverError> {
        let open: Vec<_> = going.iter().filter_map(|leave| self.opened(leave.topic, leave.index)).collect();
        let preparing = async {
            // Otherwise the next leader would have to read all the log behind the last one.
            let wanted = open.iter().filter(|partition| partition.wants_checkpoint());
            let checkpoint = async |partition: &Arc<Partition>| {
                if let Err(error) = partition.checkpoint(0).await {
                    warn!(topic = %partition.topic_id, partition = partition.index, %error, "no checkpoint before a hand-over");
                }
            };
            stream::iter(wanted).for_each_concurrent(CHECKPOINTS_AT_ONCE, checkpoint).await;
            for _ in 0..PREPARATIONS_MAX {
                if open.iter().all(|partition| partition.is_committed()) {
                    break;
                }
                self.storage.flush().await?;
                if self.storage.status().uncommitted_bytes <= REST_BYTES_MAX {
                    break;
                }
            }
            Ok(())
        };
        let prepared = tokio::time::timeout(self.config.handover.prepare_max, preparing).await;
        prepared.unwrap_or(Err(HandOverError::Late("the upload before a hand-over")))
    }

    /// From here on nothing is appended to them.
    async fn stop(&self, going: Vec<Leave>, done: &mut HandedOver) -> Vec<Stopped> {
        let mut stopped = Vec::with_capacity(going.len());
        // Side by side: some may wait for a checkpoint.
        let stopping = going
            .iter()
            .map(|leave| tokio::time::timeout(self.config.handover.stopped_max / 4, self.stop_one(*leave)));
        for (leave, one) in going.iter().copied().zip(join_all(stopping).await) {
            match one {
                Ok(Some(one)) => stopped.push(one),
                // The others are not to wait for it.
                Err(_) => done.stayed.push((leave, "it is being opened, or writes a checkpoint".to_owned())),
                Ok(None) => done.stayed.push((leave, "it is being closed".to_owned())),
            }
        }
        stopped
    }

    async fn stop_one(&self, leave: Leave) -> Option<Stopped> {
        let slot = self.open.lock().entry((leave.topic, leave.index)).or_default().clone();
        // Whoever opens it comes to an end first.
        let gate = slot.gate.clone().lock_owned().await;
        if let Some(partition) = slot.partition.get() {
            let ends = partition.stop_taking().await?;
            let asked = (leave.topic, leave.index as u32, partition.leader_epoch);
            let note = partition.note();
            let hash = note.hash;
            self.notes.keep(asked, note, self.config.handover.notes_bytes_max);
            return Some(Stopped { leave, slot, ends, leader_epoch: asked.2, note: Some(hash), gate: None });
        }
        // It may have left, or been closed, during the wait.
        if !self.holds(leave.topic, leave.index, &slot) {
            return None;
        }
        let image = self.metadata.image();
        let info = image.topic(leave.topic)?.partitions.get(usize::try_from(leave.index).ok()?)?;
        // Of one that is not open nothing is on its way, unless it was closed a moment ago.
        let end = |stream| {
            let committed_end = image.stream(stream)?.committed_end;
            (self.storage.uncommitted_bytes(stream, committed_end) == 0).then_some(committed_end)
        };
        let ends = Ends { log: end(info.log)?, checkpoints: end(info.checkpoint)? };
        Some(Stopped { leave, slot, ends, leader_epoch: info.leader_epoch, note: None, gate: Some(gate) })
    }

    /// In the order of `stopped`. What stays goes on, or is led under a new epoch (G5).
    async fn give_away(
        &self,
        stopped: &mut [Stopped],
        handing: HandingTo<'_>,
    ) -> Result<Vec<Result<(), String>>, HandOverError> {
        let results = self.finish(stopped).await;
        drop(handing);
        let mut told: Vec<&Stopped> = Vec::new();
        for (at, one) in stopped.iter_mut().enumerate() {
            if results.as_ref().is_ok_and(|results| results[at].is_ok()) {
                // Whoever asks for what has left need not wait for what stays.
                one.gate = None;
            } else if !one.goes_on() {
                told.push(one);
            }
        }
        self.keep(told).await;
        results
    }

    /// Uploads the rest, and gives them away with its commit or behind it.
    async fn finish(&self, stopped: &[Stopped]) -> Result<Vec<Result<(), String>>, HandOverError> {
        let open = || stopped.iter().filter_map(|stopped| stopped.slot.partition.get());
        if open().all(|partition| partition.is_committed()) {
            return self.decide(stopped, false).await;
        }
        let needs = open().flat_map(|partition| partition.ends()).collect();
        let (early, told) = oneshot::channel();
        let riding = self.metadata.ride(handed(stopped), needs, early);
        // What is committed is durable: with it everything is, and was acknowledged.
        let uploading = tokio::time::timeout(self.config.handover.stopped_max, self.storage.flush_hurried());
        let uploaded = beside(uploading, tell_next(stopped, told)).await;
        // Whatever became of the upload: once it was sent, it is not ours to say that they stay (G3).
        match self.metadata.alight(riding).await {
            None => {
                uploaded.map_err(|_| HandOverError::Late("the upload of what came last"))??;
                self.decide(stopped, false).await
            }
            Some(Ok(results)) if !results.iter().any(|result| matches!(result, Err(NotCommitted { .. }))) => {
                Ok(results.into_iter().map(|result| result.map_err(|why| why.to_string())).collect())
            }
            // It came before the commit.
            Some(Ok(_) | Err(Error::Unknown(_))) => self.decide(stopped, true).await,
            Some(Err(Error::Unavailable(_))) => self.decide(stopped, false).await,
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// One entry. Returns once it is known what became of each (G3). `unknown` says that there may be such an entry already.
    async fn decide(
        &self,
        stopped: &[Stopped],
        mut unknown: bool,
    ) -> Result<Vec<Result<(), String>>, HandOverError> {
        let moves = handed(stopped);
        loop {
            let (early, told) = oneshot::channel();
            let handing = self.metadata.hand_over(moves.clone(), early);
            match beside(handing, tell_next(stopped, told)).await {
                Ok(results) => {
                    let results = stopped.iter().zip(results).map(|(stopped, result)| match result {
                        Ok(()) => Ok(()),
                        // An earlier entry whose outcome was not known, perhaps.
                        Err(_) if unknown && self.has_left(stopped) => Ok(()),
                        Err(why) => Err(why.to_string()),
                    });
                    return Ok(results.collect());
                }
                // It may be in the log, or come yet. A later entry, which this asks for, decides that.
                Err(error @ Error::Unknown(_)) => {
                    unknown = true;
                    warn!(%error, "a hand-over may have been applied; asking again");
                }
                Err(error @ Error::Unavailable(_)) if unknown => {
                    warn!(%error, "a hand-over may have been applied, and the metadata log does not answer");
                }
                Err(error @ (Error::Fenced(_) | Error::Failed(_))) if unknown => {
                    // This process ends; it must not take anything before it does.
                    warn!(%error, "a hand-over may have been applied, and this broker cannot go on");
                    end_with(stopped);
                    return Err(error.into());
                }
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(UNKNOWN_PAUSE).await;
        }
    }

    /// Has partitions, which stay although producers were told otherwise, led under a new epoch: then they are opened anew, and
    /// found (G5). Returns once that is so, or none of this broker's business any more.
    async fn keep(&self, told: Vec<&Stopped>) {
        let mut left = told;
        left.iter()
            .filter_map(|stopped| stopped.slot.partition.get())
            .for_each(|told| self.kept.add(told.clone()));
        while !left.is_empty() {
            match self.metadata.keep_leaderships(left.iter().map(|stopped| stopped.kept()).collect()).await {
                Ok(results) => {
                    let count = results.iter().filter(|result| result.is_ok()).count();
                    warn!(
                        count,
                        "partitions stay, although producers were told otherwise: under a new leader epoch"
                    );
                    let mut results = results.into_iter();
                    // Any other is led by others by now, or gone, or has its new epoch by an entry whose answer was lost.
                    left.retain(|_| matches!(results.next(), Some(Err(NotCommitted { .. }))));
                }
                Err(error @ (Error::Fenced(_) | Error::Failed(_))) => {
                    warn!(%error, "partitions that were to be handed over stay, and this broker cannot go on");
                    return end_with(left);
                }
                Err(error) => {
                    warn!(%error, "a new leader epoch is needed for what was not handed over; asking again")
                }
            }
            if left.is_empty() {
                return;
            }
            if self.closing.run_until_cancelled(tokio::time::sleep(UNKNOWN_PAUSE)).await.is_none() {
                return end_with(left);
            }
        }
    }

    /// Whether the partition belongs to another incarnation as of now.
    fn has_left(&self, stopped: &Stopped) -> bool {
        let image = self.metadata.image();
        let index = stopped.leave.index as usize;
        let info = image.topic(stopped.leave.topic).and_then(|topic| topic.partitions.get(index));
        info.is_some_and(|info| image.owner(info) != self.metadata.incarnation())
    }
}

/// This process ends, and takes nothing for them any more.
fn end_with<'a>(stopped: impl IntoIterator<Item = &'a Stopped>) {
    let open = stopped.into_iter().filter_map(|stopped| stopped.slot.partition.get());
    open.for_each(|partition| partition.close_left());
}

/// Clients may be told of whatever will have gone.
async fn tell_next(stopped: &[Stopped], told: oneshot::Receiver<Result<Outcome, Rejection>>) {
    let Ok(Ok(Outcome::Moved(results))) = told.await else { return };
    for (stopped, result) in stopped.iter().zip(results) {
        if let (Ok(()), Some(partition)) = (result, stopped.slot.partition.get()) {
            partition.tell_next(stopped.leave.to);
        }
    }
}

/// What `main` gives; meanwhile `other` goes on.
async fn beside<T>(main: impl Future<Output = T>, other: impl Future<Output = ()>) -> T {
    let other = async {
        other.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = other => unreachable!("it never ends"),
        done = main => done,
    }
}

fn handed(stopped: &[Stopped]) -> Vec<Handed> {
    stopped.iter().map(Stopped::handed).collect()
}

#[cfg(test)]
mod tests;
