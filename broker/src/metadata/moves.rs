//! Partitions change their leader while both brokers live, as [`apply`](super::apply) sees it.
//!
//! ```text
//!   Reassign ──► target ──► its leader takes no more appends, uploads the rest ──► HandOver ──► led by the other
//! ```
//!
//! - **H1** Only the owner hands over, of the leader epoch under which it stopped, and only what is committed to its last record: the ends that it names are those of the
//!   state. So nothing of the partition is left in its WAL, and no recovery of it will ever look for any.
//! - **H2** One entry takes it from the one and gives it to the other: there is no moment without an owner, and none with two.
//! - **H3** It goes to a broker that serves and is not being emptied.
//! - **H4** Whoever could not hand over keeps the partition, as it was.
//! - **H5** An owner that keeps a partition after all leads it under a leader epoch beyond the one that the next leader would have
//!   had: clients that were told of that believe nothing older. Nothing else changes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use uuid::Uuid;
use wal::Incarnation;

use super::apply::{Outcome, Rejection};
use super::command::{Handed, Kept, Reassigned};
use super::image::{Image, PartitionInfo, Topic};

/// Why one partition of a command was not moved, or not told to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveRejection {
    #[error("there is no such partition (any more)")]
    Gone,
    #[error("it belongs to {0:?}")]
    NotOwner(Option<Incarnation>),
    #[error("its leader epoch is {0}")]
    OtherEpoch(i32),
    #[error("it is committed up to {committed_end}, and ends at {end}")]
    NotCommitted { committed_end: u64, end: u64 },
    #[error("broker {0} does not serve, or is being emptied")]
    NoReceiver(u32),
    #[error("it is not moving")]
    NotMoving,
}

/// Partitions that are being changed: each topic is copied once, however many of its partitions change.
#[derive(Default)]
struct Edit(BTreeMap<Uuid, (Arc<Topic>, Vec<PartitionInfo>)>);

impl Edit {
    fn partition(
        &mut self,
        image: &Image,
        topic: Uuid,
        index: u32,
    ) -> Result<&mut PartitionInfo, MoveRejection> {
        let (_, partitions) = match self.0.entry(topic) {
            Entry::Occupied(edited) => edited.into_mut(),
            Entry::Vacant(new) => {
                let known = image.topics.get(&topic).ok_or(MoveRejection::Gone)?;
                new.insert((known.clone(), known.partitions.to_vec()))
            }
        };
        partitions.get_mut(index as usize).ok_or(MoveRejection::Gone)
    }

    fn finish(self, image: &mut Image) {
        for (topic, partitions) in self.0.into_values() {
            if *topic.partitions != *partitions {
                image.put_partitions(&topic, partitions);
            }
        }
    }
}

impl Image {
    /// Whether partitions can be handed to this broker (H3).
    pub fn receiver(&self, broker: u32) -> Option<Incarnation> {
        self.live(broker)
            .filter(|(_, life)| life.opened && !life.draining)
            .map(|(incarnation, _)| incarnation)
    }

    pub(super) fn hand_over(&mut self, by: Incarnation, moves: &[Handed]) -> Result<Outcome, Rejection> {
        self.one_by_one(by, moves, |image, handed, edit| image.hand(by, handed, edit))
    }

    /// Each of `all` is accepted or rejected for itself.
    fn one_by_one<T>(
        &mut self,
        by: Incarnation,
        all: &[T],
        change: impl Fn(&mut Image, &T, &mut Edit) -> Result<(), MoveRejection>,
    ) -> Result<Outcome, Rejection> {
        self.check_live(by)?;
        let mut edit = Edit::default();
        let results = all.iter().map(|one| change(self, one, &mut edit)).collect();
        edit.finish(self);
        Ok(Outcome::Moved(results))
    }

    fn hand(&mut self, by: Incarnation, handed: &Handed, edit: &mut Edit) -> Result<(), MoveRejection> {
        let partition = edit.partition(self, handed.topic, handed.partition)?;
        self.check_stopped(by, partition, handed.leader_epoch, [handed.log_end, handed.checkpoint_end])?;
        let to = self.receiver(handed.to).filter(|to| *to != by);
        let to = to.ok_or(MoveRejection::NoReceiver(handed.to))?;
        self.open_partition(partition, to);
        partition.note = handed.note;
        Ok(())
    }

    /// H1.
    fn check_stopped(
        &self,
        by: Incarnation,
        partition: &PartitionInfo,
        leader_epoch: Option<i32>,
        [log_end, checkpoint_end]: [u64; 2],
    ) -> Result<(), MoveRejection> {
        let owner = self.owner(partition);
        if owner != Some(by) {
            return Err(MoveRejection::NotOwner(owner));
        }
        if leader_epoch.is_some_and(|epoch| epoch != partition.leader_epoch) {
            return Err(MoveRejection::OtherEpoch(partition.leader_epoch));
        }
        for (stream, end) in [(partition.log, log_end), (partition.checkpoint, checkpoint_end)] {
            let committed_end =
                self.streams.get(&stream).expect("a partition's streams exist (I3)").committed_end;
            if committed_end != end {
                return Err(MoveRejection::NotCommitted { committed_end, end });
            }
        }
        Ok(())
    }

    pub(super) fn keep_leaderships(&mut self, by: Incarnation, kept: &[Kept]) -> Result<Outcome, Rejection> {
        self.one_by_one(by, kept, |image, kept, edit| image.keep(by, kept, edit))
    }

    fn keep(&mut self, by: Incarnation, kept: &Kept, edit: &mut Edit) -> Result<(), MoveRejection> {
        let partition = edit.partition(self, kept.topic, kept.partition)?;
        self.check_stopped(by, partition, Some(kept.leader_epoch), [kept.log_end, kept.checkpoint_end])?;
        // Beyond the next leader's (H5).
        for _ in 0..2 {
            self.open_partition(partition, by);
        }
        Ok(())
    }

    pub(super) fn reassign(&mut self, by: Incarnation, moves: &[Reassigned]) -> Result<Outcome, Rejection> {
        self.one_by_one(by, moves, Image::aim)
    }

    fn aim(&mut self, reassigned: &Reassigned, edit: &mut Edit) -> Result<(), MoveRejection> {
        let partition = edit.partition(self, reassigned.topic, reassigned.partition)?;
        let Some(target) = reassigned.target else {
            return partition.target.take().map(drop).ok_or(MoveRejection::NotMoving);
        };
        let to = self.receiver(target).ok_or(MoveRejection::NoReceiver(target))?;
        match self.owner(partition) {
            Some(owner) if owner == to => partition.target = None,
            Some(_) => partition.target = Some(target),
            None => self.open_partition(partition, to),
        }
        Ok(())
    }
}
