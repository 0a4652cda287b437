//! The collector's side of the metadata in memory. When something became garbage is when that is noticed, by a wall clock
//! that can be told to be wrong, and not to be believed.

use std::ops::Bound;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use wal::Incarnation;

use super::{Error, MemoryMetadata, ObjectId, State};
use crate::gc::{Catalog, Due, Look, Naming, Owner, Standing};

impl State {
    fn is_named(&self, id: ObjectId) -> bool {
        self.streams.values().any(|stream| stream.parts.iter().any(|part| part.object == id))
    }

    fn note_garbage(&mut self, named: &std::collections::BTreeSet<ObjectId>, now: (i64, u64)) {
        for id in self.objects.keys() {
            if !named.contains(id) && !self.forgotten.contains(id) {
                self.garbage.entry(*id).or_insert(now);
            }
        }
    }

    /// An object that was given up must not be named any more: it may be gone.
    pub(super) fn check_low_water(&self, id: ObjectId) -> Result<(), Error> {
        match id {
            ObjectId::Data { owner, counter }
                if self.incarnations.get(&owner).is_some_and(|life| counter < life.low_water) =>
            {
                Err(Error::Rejected(format!("{id:?} is below the low-water mark")))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Catalog for MemoryMetadata {
    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn believed_ms(&self) -> Option<i64> {
        let state = self.state.lock();
        (!state.clock_doubted).then(|| self.wall_ms(&state))
    }

    fn garbage(&self, look: &Look) -> Due {
        let named = self.named_objects();
        let mut state = self.state.lock();
        let number = *self.changed.borrow();
        let now_ms = self.wall_ms(&state);
        state.note_garbage(&named, (now_ms, number));
        let mut due = Due { state: number, ..Due::default() };
        let from = look.from.map_or(Bound::Unbounded, Bound::Included);
        let mut garbage = state.garbage.range((from, Bound::Unbounded));
        for (id, (since_ms, since)) in garbage.by_ref().take(look.limit) {
            let aged = look.aged.filter(|aged| *since <= aged.state);
            let wait_ms = aged.map(|aged| since_ms - aged.since_ms_max);
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

    fn standing(&self, id: ObjectId) -> Standing {
        let state = self.state.lock();
        let naming = if state.is_named(id) {
            Naming::Named
        } else if state.objects.contains_key(&id) && !state.forgotten.contains(&id) {
            Naming::Garbage
        } else {
            Naming::Unnamed
        };
        let (ObjectId::Data { owner, .. } | ObjectId::Slot { owner, .. }) = id;
        let owner = match state.incarnations.get(&owner) {
            None => Owner::Unheard,
            Some(life) if life.fenced && (life.recovered || !life.opened) => Owner::Ended,
            Some(life) => Owner::Listed {
                fenced: life.fenced,
                low_water: life.low_water,
                slots_below: Some(life.trim.0),
            },
        };
        Standing { naming, owner }
    }

    async fn refresh(&self) -> Result<(), Error> {
        if self.state.lock().outage {
            return Err(Error::Unavailable("outage".to_owned()));
        }
        Ok(())
    }

    async fn forget_garbage(&self, by: Incarnation, objects: Vec<ObjectId>) -> Result<(), Error> {
        self.command(|state| {
            state.check_live(by)?;
            for id in objects {
                if state.garbage.remove(&id).is_some() {
                    state.forgotten.insert(id);
                }
            }
            Ok(())
        })
        .await
    }

    async fn raise_low_water(&self, by: Incarnation, counter: u64) -> Result<(), Error> {
        self.command(|state| {
            state.check_live(by)?;
            let life = state.incarnations.get_mut(&by).expect("it lives");
            life.low_water = life.low_water.max(counter);
            Ok(())
        })
        .await
    }
}
