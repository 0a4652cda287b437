//! How brokers come and go, as [`apply`](super::apply) sees it.
//!
//! ```text
//!   RegisterBroker ──► registered ──OpenLeaderships──► serving ──SetDraining──► draining
//!                          │                              │ ▲──────────────────────┤ │
//!                          │ fenced before it opened      │     SetDraining(false)   │ CloseBroker
//!                          ▼                              ▼ Fence, RegisterBroker    ▼
//!                       forgotten                      fenced ──recovery complete──► forgotten
//! ```
//!
//! - **N1** An id has one registration that counts, the last. A registration names the one that it replaces, and is rejected
//!   if that is not the last (any more): two processes that take one id never fence each other in turn.
//! - **N2** A fence is for good. It needs no reason and no proof: to be wrong costs a move of partitions, never a record
//!   (O1, B1).
//! - **N3** What a fenced incarnation owns stays its own until its recovery is complete (O2). The entry that completes it,
//!   or that says that there is nothing to recover, also places what it owned (`place`).
//! - **N4** *Challenges.* Who may be dead is challenged before it is fenced, where somebody may have to wait for its lease: from that
//!   entry on no look at the log renews its right to acknowledge (`lease`), until it answers. One that lives
//!   answers long before its right is over, and loses nothing; of one that is dead the lease has begun to run out while
//!   nobody was certain yet. A challenge that stands when the fence comes stands for good: it is from its entry on that the
//!   lease counts then.

use std::sync::Arc;
use std::time::Duration;

use wal::{Incarnation, Position};

use super::apply::{At, Outcome, Registered, Rejection, Unrecovered, conflict, invalid};
use super::command::Registration;
use super::image::{BrokerInfo, Image, Life};

impl Image {
    /// The epoch of this id's last registration, whatever became of it.
    pub fn last_registration(&self, broker: u32) -> Option<u64> {
        self.brokers.get(&broker).map(|info| info.epoch)
    }

    /// The incarnation that registered last under this id, if it lives.
    pub fn live(&self, broker: u32) -> Option<(Incarnation, &Life)> {
        let incarnation = Incarnation { broker, epoch: self.last_registration(broker)? };
        let life = self.lives.get(&incarnation).filter(|life| !life.fenced)?;
        Some((incarnation, life))
    }

    /// All that the log still knows (I4), oldest first within a broker.
    pub fn lives(&self) -> impl Iterator<Item = (Incarnation, &Life)> {
        self.lives.iter().map(|(incarnation, life)| (*incarnation, life))
    }

    /// Who leads partitions, or can: lives and has opened. By id.
    pub fn serving(&self) -> impl Iterator<Item = (Incarnation, &Life)> {
        self.lives().filter(|(_, life)| !life.fenced && life.opened)
    }

    /// The same, with where they are reached: what clients are told of the cluster.
    pub fn serving_brokers(&self) -> impl Iterator<Item = (u32, &BrokerInfo)> {
        let info = |broker| self.brokers.get(&broker).expect("an incarnation was registered");
        self.serving().map(move |(incarnation, _)| (incarnation.broker, info(incarnation.broker)))
    }

    /// Who does what one broker is enough for: the one that has served longest, and is not about to leave. No election:
    /// two that take themselves for it, for a moment, are harmless (O6).
    pub fn caretaker(&self) -> Option<Incarnation> {
        let oldest = |(incarnation, life): &(Incarnation, &Life)| (life.draining, incarnation.epoch);
        self.serving().min_by_key(oldest).map(|(incarnation, _)| incarnation)
    }

    pub(super) fn register(&mut self, at: At, registration: &Registration) -> Result<Registered, Rejection> {
        let incarnation = Incarnation { broker: registration.broker, epoch: at.number };
        let last = self.last_registration(incarnation.broker);
        if last == Some(at.number) {
            return Err(invalid("a broker registers once in an entry"));
        }
        if last != registration.replaces {
            return Err(conflict(format!(
                "broker id {} was registered by another process meanwhile (entry {}, not {})",
                incarnation.broker,
                last.map_or("none".to_owned(), |epoch| epoch.to_string()),
                registration.replaces.map_or("none".to_owned(), |epoch| epoch.to_string()),
            )));
        }
        self.check_claim(at.number, registration)?;
        let earlier: Vec<Incarnation> =
            self.lives().map(|(of, _)| of).filter(|of| of.broker == incarnation.broker).collect();
        for of in earlier {
            assert!(of.epoch < incarnation.epoch, "an entry's number exceeds that of all before it");
            self.fence_life(of);
        }
        let life = Life {
            wal_uri: registration.wal_uri.clone(),
            lease: Duration::from_millis(registration.lease_ms.into()),
            trim: Position(0),
            fenced: false,
            opened: false,
            draining: false,
            challenged: None,
            registered_ms: at.time_ms,
            low_water: 0,
        };
        self.lives.insert_mut(incarnation, life);
        let broker = BrokerInfo {
            listener: registration.listener.clone(),
            rack: registration.rack.clone(),
            machine: registration.machine.clone(),
            epoch: incarnation.epoch,
        };
        self.brokers.insert_mut(incarnation.broker, broker);
        self.claim(incarnation, registration);
        let previous = self
            .unrecovered()
            .map(|(incarnation, life)| Unrecovered {
                incarnation,
                wal_uri: life.wal_uri.clone(),
                trim: life.trim,
                lease: life.lease,
            })
            .collect();
        Ok(Registered { incarnation, previous })
    }

    pub(super) fn open_leaderships(&mut self, by: Incarnation) -> Result<Outcome, Rejection> {
        self.check_live(by)?;
        let first = self.no_candidates();
        self.lives.get_mut(&by).expect("checked to live").opened = true;
        self.claim_opened(by);
        if first {
            self.place_orphans(None);
        }
        Ok(Outcome::Done)
    }

    /// Accepted once more for what is fenced already, or forgotten: whoever asks has what it wants.
    pub(super) fn fence(&mut self, by: Incarnation, of: Incarnation) -> Result<Outcome, Rejection> {
        self.check_live(by)?;
        if by == of {
            return Err(invalid(format!("broker {} epoch {} fences itself", by.broker, by.epoch)));
        }
        if self.last_registration(of.broker).is_none_or(|last| last < of.epoch) {
            return Err(invalid(format!("there is no broker {} epoch {}", of.broker, of.epoch)));
        }
        self.fence_life(of);
        Ok(Outcome::Done)
    }

    fn fence_life(&mut self, of: Incarnation) {
        let Some(life) = self.lives.get_mut(&of).filter(|life| !life.fenced) else { return };
        life.fenced = true;
        let opened = life.opened;
        self.forget_target(of.broker);
        if !opened || host::planted("place-unrecovered") {
            self.forget_life(of);
        }
    }

    /// N4. Accepted once more for who has been challenged: the first one counts.
    pub(super) fn challenge(
        &mut self,
        at: At,
        by: Incarnation,
        of: Incarnation,
    ) -> Result<Outcome, Rejection> {
        self.check_live(by)?;
        if by == of {
            return Err(invalid(format!("broker {} epoch {} challenges itself", by.broker, by.epoch)));
        }
        let Some(life) = self.lives.get_mut(&of).filter(|life| life.opened && !life.fenced) else {
            return Err(conflict(format!("broker {} epoch {} does not serve", of.broker, of.epoch)));
        };
        life.challenged.get_or_insert(at.number);
        Ok(Outcome::Done)
    }

    /// N4. What a fenced life says is not heard (O6): its challenge stands.
    pub(super) fn answer(&mut self, by: Incarnation) -> Result<Outcome, Rejection> {
        self.check_live(by)?;
        if let Some(life) = self.lives.get_mut(&by) {
            life.challenged = None;
        }
        Ok(Outcome::Done)
    }

    pub(super) fn set_draining(
        &mut self,
        by: Incarnation,
        broker: u32,
        draining: bool,
    ) -> Result<Outcome, Rejection> {
        self.check_live(by)?;
        let Some((of, _)) = self.live(broker) else {
            return Err(conflict(format!("there is no broker {broker} that lives")));
        };
        let first = self.no_candidates();
        self.lives.get_mut(&of).expect("just found").draining = draining;
        if draining {
            self.forget_target(broker);
        } else if first {
            self.place_orphans(None);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn close_broker(&mut self, by: Incarnation) -> Result<Outcome, Rejection> {
        self.check_live(by)?;
        self.forget_target(by.broker);
        self.end_claims(|_, claim| claim.life == by);
        self.forget_life(by);
        Ok(Outcome::Done)
    }

    /// Nothing of value is in this incarnation's WAL (any more): I4, N3.
    pub(super) fn forget_life(&mut self, incarnation: Incarnation) {
        let Some(life) = self.lives.get(&incarnation) else { return };
        let opened = life.opened;
        self.lives.remove_mut(&incarnation);
        if !opened {
            // Only what has opened owns streams (I9).
            return;
        }
        let mut released = Vec::new();
        let mut streams = Vec::new();
        for (topic, index) in self.partitions_of(incarnation) {
            if released.last() != Some(&topic.id) {
                released.push(topic.id);
            }
            streams.extend([topic.partitions[index].log, topic.partitions[index].checkpoint]);
        }
        for id in streams {
            self.streams.get_mut(&id).expect("a partition's streams exist (I3)").owner = None;
        }
        self.place_orphans(Some((&released, incarnation.broker)));
    }

    /// No partition is to move to this broker any more: it dies, leaves or is being emptied.
    fn forget_target(&mut self, broker: u32) {
        let aimed = |topic: &&Arc<super::Topic>| topic.partitions.iter().any(|p| p.target == Some(broker));
        let topics: Vec<_> = self.topics.values().filter(aimed).cloned().collect();
        for topic in topics {
            let mut partitions = topic.partitions.to_vec();
            partitions.iter_mut().filter(|p| p.target == Some(broker)).for_each(|p| p.target = None);
            self.put_partitions(&topic, partitions);
        }
    }
}
