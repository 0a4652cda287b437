//! Partitions change their leader, as the brokers that give and get them ask for it and hear of it. What becomes of it is said in
//! [`moves`](super::moves).

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::{oneshot, watch};

use super::apply::{Outcome, Rejection};
use super::command::{Command, Handed, Kept, Reassigned};
use super::moves::MoveRejection;
use super::{Error, ImageRef, Metadata};

/// Partitions that one command moves at most; far below what an entry takes.
pub const MOVES_PER_COMMAND_MAX: usize = 4_000;

/// Told what a hand-over will have done, early ([`Metadata::hand_over`]).
pub type Early = oneshot::Sender<Result<Outcome, Rejection>>;

impl Metadata {
    /// Gives partitions of this broker away (H1 to H4). In the order of `moves`, which are at most
    /// [`MOVES_PER_COMMAND_MAX`]. `early` is told which of them will have gone when the entry is sent, before it is known that it
    /// is written, and counts; nothing but advice may follow from it.
    pub async fn hand_over(
        &self,
        moves: Vec<Handed>,
        early: Early,
    ) -> Result<Vec<Result<(), MoveRejection>>, Error> {
        let by = self.registered()?;
        let command = Command::HandOver { by, moves };
        moved(self.proposed(self.replica.propose_early(command.encode().into(), early).await)?)
    }

    /// Goes on leading partitions of this broker under leader epochs that no client was told of (H5). In the order of `kept`,
    /// which are at most [`MOVES_PER_COMMAND_MAX`].
    pub async fn keep_leaderships(&self, kept: Vec<Kept>) -> Result<Vec<Result<(), MoveRejection>>, Error> {
        let by = self.registered()?;
        moved(self.propose(&Command::KeepLeaderships { by, kept }).await?)
    }

    /// Says where partitions are to move, or that they are not to. In the order of `moves`.
    pub async fn reassign(&self, moves: Vec<Reassigned>) -> Result<Vec<Result<(), MoveRejection>>, Error> {
        let by = self.registered()?;
        let mut results = Vec::with_capacity(moves.len());
        for batch in moves.chunks(MOVES_PER_COMMAND_MAX) {
            results.extend(moved(self.propose(&Command::Reassign { by, moves: batch.to_vec() }).await?)?);
        }
        Ok(results)
    }

    /// As long as it is kept, brokers `to` are told that partitions are on their way to them.
    pub fn handing_to(&self, to: impl IntoIterator<Item = u32>) -> HandingTo<'_> {
        HandingTo::begin(&self.handing, to.into_iter().collect())
    }

    /// Brokers that are about to get partitions from this one, with what is on its way to the log. Changes wake it.
    pub fn handing(&self) -> watch::Receiver<BTreeMap<u32, usize>> {
        self.handing.subscribe()
    }

    /// Whether another broker is about to hand partitions to this one: their entry is looked for as long as it is so, and for a
    /// bounded time. Renews nothing.
    pub fn expect(&self, expecting: bool) {
        self.replica.expect(expecting);
        self.expecting.send_if_modified(|known| std::mem::replace(known, expecting) != expecting);
    }

    /// Resolves with the next entry while partitions are expected, or an entry was said to be there when they were expected last
    /// that is not known yet; and with `false` when that is not so (any more). Whoever asks again for what came gives the same
    /// `awaited`: entries that are said to be there later are not waited for.
    pub async fn expected(&self, known: &ImageRef, awaited: &mut Option<u64>) -> bool {
        let (mut expecting, mut applied) = (self.expecting.subscribe(), self.changed());
        let mut hinted = self.replica.hinted();
        loop {
            if *applied.borrow_and_update() > known.number() {
                return true;
            }
            if *expecting.borrow_and_update() {
                *awaited = None;
            } else {
                // Whoever has written the entry says at once that it is there and that nothing is on its way.
                let hinted = *hinted.borrow_and_update();
                // One that is not there is forgotten.
                if hinted.min(*awaited.get_or_insert(hinted)) <= known.number() {
                    return false;
                }
            }
            tokio::select! {
                changed = expecting.changed() => if changed.is_err() { return false },
                changed = applied.changed() => if changed.is_err() { return false },
                changed = hinted.changed() => if changed.is_err() { return false },
            }
        }
    }
}

pub(super) fn moved(outcome: Outcome) -> Result<Vec<Result<(), MoveRejection>>, Error> {
    match outcome {
        Outcome::Moved(results) => Ok(results),
        other => unreachable!("a move of partitions had the outcome {other:?}"),
    }
}

/// While it lives, brokers are told that partitions are on their way to them ([`Metadata::handing_to`]).
#[must_use = "dropping it says that nothing is on its way any more"]
pub struct HandingTo<'a> {
    all: &'a watch::Sender<BTreeMap<u32, usize>>,
    to: BTreeSet<u32>,
}

impl<'a> HandingTo<'a> {
    fn begin(all: &'a watch::Sender<BTreeMap<u32, usize>>, to: BTreeSet<u32>) -> HandingTo<'a> {
        all.send_modify(|all| to.iter().for_each(|to| *all.entry(*to).or_default() += 1));
        HandingTo { all, to }
    }
}

impl Drop for HandingTo<'_> {
    fn drop(&mut self) {
        self.all.send_modify(|all| {
            for to in &self.to {
                let left = all.get(to).map_or(0, |count| count - 1);
                if left == 0 {
                    all.remove(to)
                } else {
                    all.insert(*to, left)
                };
            }
        });
    }
}
