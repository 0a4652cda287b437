//! What the collector asks of the metadata, and what it has recorded there: O5's side of the state machine.
//!
//! ```text
//!   named ──last part gone──► garbage ──deleted from the store──► ForgetGarbage ──► unknown
//!
//!   counters of a living incarnation:   0 … low water … in flight … next
//!                                       └ never named any more unless they are now
//! ```

use std::ops::Bound;
use std::time::Duration;

use async_trait::async_trait;
use s3stream::gc::{Catalog, Due, Look, Naming, Owner, Standing};
use s3stream::metadata::{Commit, Error};
use s3stream::{ObjectId, StreamMetadata};
use tokio::sync::watch;
use wal::uri::Target;
use wal::{Incarnation, Uri};

use super::Metadata;
use super::apply::{At, Rejection, invalid};
use super::command::Command;
use super::image::{Garbage, Image};

impl Garbage {
    pub(super) fn at(at: At, size_bytes: u64) -> Garbage {
        Garbage { size_bytes, since_ms: at.time_ms, since: at.number }
    }
}

impl Image {
    pub(super) fn forget_garbage(&mut self, objects: &[ObjectId]) {
        for object in objects {
            self.garbage.remove_mut(object);
        }
    }

    pub(super) fn raise_low_water(&mut self, by: Incarnation, counter: u64) {
        let life = self.lives.get_mut(&by).expect("checked to live");
        life.low_water = life.low_water.max(counter);
    }

    /// I8: `object` is about to be named for the first time.
    pub(super) fn check_low_water(&self, object: ObjectId) -> Result<(), Rejection> {
        let ObjectId::Data { owner, counter } = object else { return Ok(()) };
        match self.lives.get(&owner) {
            Some(life) if counter < life.low_water => Err(invalid(format!(
                "{object:?} is below the low-water mark {} of its writer, so it may have been deleted",
                life.low_water
            ))),
            _ => Ok(()),
        }
    }

    /// The objects of a repeated commit that the metadata has forgotten: a late PUT of its first try may have brought
    /// them back, so they are to be deleted (again).
    pub(super) fn return_to_garbage(&mut self, at: At, commit: &Commit) {
        for object in &commit.objects {
            if !self.objects.contains_key(&object.id) && !self.garbage.contains_key(&object.id) {
                self.garbage.insert_mut(object.id, Garbage::at(at, object.size_bytes));
            }
        }
    }

    /// What the state as of entry `number` says about an object, for the collector's rules.
    pub fn standing(&self, number: u64, id: ObjectId) -> Standing {
        let naming = if self.objects.contains_key(&id) {
            Naming::Named
        } else if self.garbage.contains_key(&id) {
            Naming::Garbage
        } else {
            Naming::Unnamed
        };
        let (ObjectId::Data { owner, .. } | ObjectId::Slot { owner, .. }) = id;
        let owner = match self.lives.get(&owner) {
            Some(life) => Owner::Listed {
                fenced: life.fenced,
                low_water: life.low_water,
                slots_below: match Uri(life.wal_uri.to_string()).target() {
                    Ok(Target::Object { .. }) => Some(life.trim.0),
                    _ => None,
                },
            },
            // Incarnations are numbered by the entries that register them.
            None if owner.epoch <= number => Owner::Ended,
            None => Owner::Unheard,
        };
        Standing { naming, owner }
    }

    /// Whether a recovery may still come by this object: a slot at or beyond the trim point of a log that is not
    /// recovered. A commit in several entries names slots before it moves the trim point; to the recovery that goes on for
    /// one that died in between, a slot that is missing would be the log's end (O2, O5).
    fn is_walked(&self, id: ObjectId) -> bool {
        let ObjectId::Slot { owner, slot } = id else { return false };
        self.lives.get(&owner).is_some_and(|life| slot >= life.trim.0)
    }

    /// See [`Catalog::garbage`], as of entry `number`.
    pub fn due_garbage(&self, number: u64, look: &Look) -> Due {
        let mut due = Due { state: number, ..Due::default() };
        let from = look.from.map_or(Bound::Unbounded, Bound::Included);
        let mut garbage = self.garbage.range((from, Bound::Unbounded));
        for (id, Garbage { since, since_ms, .. }) in garbage.by_ref().take(look.limit) {
            if self.is_walked(*id) {
                // Falls due by the entry that moves the trim point: what has changed is looked at again.
                continue;
            }
            let aged = look.aged.filter(|aged| *since <= aged.state);
            let wait_ms = aged.map(|aged| since_ms.saturating_sub(aged.since_ms_max));
            if look.known.is_some_and(|known| *since <= known) || wait_ms.is_some_and(|wait| wait <= 0) {
                due.objects.push(*id);
                continue;
            }
            due.waiting = Some(due.waiting.map_or(*since, |lowest| lowest.min(*since)));
            let wait = wait_ms.map(|wait| Duration::from_millis(wait as u64));
            due.next_in = [due.next_in, wait].into_iter().flatten().min();
        }
        due.next = garbage.next().map(|(id, _)| *id);
        due
    }
}

#[async_trait]
impl Catalog for Metadata {
    fn changed(&self) -> watch::Receiver<u64> {
        Metadata::changed(self)
    }

    fn believed_ms(&self) -> Option<i64> {
        let now_ms = host::clock::wall_ms();
        let steady = self.clocks.lock().look(self.opened.elapsed(), now_ms);
        (steady && !self.skews.outvote_us()).then_some(now_ms)
    }

    fn is_caretaker(&self) -> bool {
        self.image().caretaker().is_some_and(|caretaker| Some(caretaker) == self.incarnation())
    }

    fn garbage(&self, look: &Look) -> Due {
        let image = self.image();
        image.due_garbage(image.number(), look)
    }

    fn standing(&self, id: ObjectId) -> Standing {
        let image = self.image();
        image.standing(image.number(), id)
    }

    async fn refresh(&self) -> Result<(), Error> {
        StreamMetadata::catch_up(self).await
    }

    async fn forget_garbage(&self, by: Incarnation, objects: Vec<ObjectId>) -> Result<(), Error> {
        self.carry_out(Command::ForgetGarbage { by, objects }).await
    }

    async fn raise_low_water(&self, by: Incarnation, counter: u64) -> Result<(), Error> {
        self.carry_out(Command::RaiseLowWater { by, counter }).await
    }
}
