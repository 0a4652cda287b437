//! Who may write to the volumes that several hosts can reach, as far as the cluster knows.
//!
//! A life that means to open its log on such a volume *claims* it when it registers, which is before it writes there for the first
//! time (V9 of [`wal::block`]). What is on the volume says who has opened it; who is about to, perhaps on a host that stands
//! still, with its first writes on their way, is only known from here.
//!
//! ```text
//!   RegisterBroker with a claim ──► claimed ──OpenLeaderships──► claimed, and not blank any more
//!                                      │                              │
//!                                      ├── CloseBroker ◄──────────────┤
//!                                      ▼                              ▼
//!                                  forgotten ◄── a later claim, whose issuer vouches that this life can write no more
//! ```
//!
//! - **N4** The claims of a volume are in one order, and whoever claims it has judged all before it: a registration says up to which
//!   one its issuer knew all, and is rejected if there is a newer claim of the same volume; or, if it found its volume blank, of
//!   a blank one that may be the same. Blank volumes have no name that two hosts agree on: only their devices' ids tell them
//!   apart, where both have one.
//! - **N5** Neither a fence nor a recovery ends a claim: both say what counts, and not what a host may still write. A claim ends
//!   with the orderly end of its life, or by the word of a later claim of the same volume (M5 of [`media`](crate::media)).
//!   A start that has written nothing ends its own, unless that is the only word that the volume's last owner is gone.
//! - **N6** A volume has [`CLAIMS_MAX`] claims at most. One that is never seen again keeps its last.

use std::sync::Arc;

use uuid::Uuid;
use wal::Incarnation;

use super::apply::{Rejection, conflict, invalid};
use super::command::Registration;
use super::image::Image;

/// Lives that may write to one volume. No option: each but the first one is a start that ended early, of which nobody can say
/// that it is over, and an operator ends them all at once (`--wal-detached`).
pub const CLAIMS_MAX: usize = 16;

/// A life that may write to a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub life: Incarnation,
    /// Of its registration.
    pub machine: Arc<str>,
    /// What the volume is called there.
    pub wal_uri: Arc<str>,
    /// The device's own id, the same on every host; empty if it has none.
    pub device: Arc<str>,
    /// It found the volume blank, and may not have formatted it yet.
    pub blank: bool,
    /// Nobody who was there before could write any more.
    pub alone: bool,
}

impl Image {
    /// Lives that may write to this volume, oldest first.
    pub fn claims(&self, volume: Uuid) -> &[Claim] {
        self.volumes.get(&volume).map_or(&[], |claims| claims)
    }

    /// Lives that may be about to format a volume, which could be the one whose device has this id.
    pub fn blank_claims(&self, device: &str) -> impl Iterator<Item = (Uuid, &Claim)> {
        let all = self.volumes.iter().flat_map(|(id, claims)| claims.iter().map(move |claim| (*id, claim)));
        all.filter(move |(_, claim)| claim.blank && may_be_same(&claim.device, device))
    }

    /// All volumes with those who may write to them, by id.
    pub fn claimed_volumes(&self) -> impl Iterator<Item = (Uuid, &[Claim])> {
        self.volumes.iter().map(|(id, claims)| (*id, &**claims))
    }

    /// The newest registration: whoever knows it knows all claims up to it.
    pub fn newest_registration(&self) -> u64 {
        self.brokers.values().map(|broker| broker.epoch).max().unwrap_or_default()
    }

    /// N4, N6.
    pub(super) fn check_claim(&self, number: u64, registration: &Registration) -> Result<(), Rejection> {
        let Some(claiming) = &registration.claim else { return Ok(()) };
        let claims = self.claims(claiming.volume);
        // Nobody knows of what is in the same entry.
        let newer = |claim: &Claim| claim.life.epoch > claiming.judged.min(number - 1);
        let rival = claims.iter().find(|claim| newer(claim)).or_else(|| {
            let blank = || self.blank_claims(&claiming.device).map(|(_, claim)| claim);
            if claiming.blank { blank().find(|claim| newer(claim)) } else { None }
        });
        if let Some(rival) = rival {
            return Err(conflict(format!(
                "broker {} epoch {} has claimed the volume, or a blank one, meanwhile",
                rival.life.broker, rival.life.epoch
            )));
        }
        let left = claims.iter().filter(|claim| !claiming.ends(claiming.volume, claim.life)).count();
        if left >= CLAIMS_MAX {
            return Err(invalid(format!(
                "{left} lives may write to the volume already. --wal-detached says that none of them can any more"
            )));
        }
        Ok(())
    }

    /// N5.
    pub(super) fn claim(&mut self, life: Incarnation, registration: &Registration) {
        let Some(claiming) = &registration.claim else { return };
        self.end_claims(|volume, claim| claiming.ends(volume, claim.life));
        let mut claims = self.claims(claiming.volume).to_vec();
        claims.push(Claim {
            life,
            machine: registration.machine.clone(),
            wal_uri: registration.wal_uri.clone(),
            device: claiming.device.clone(),
            blank: claiming.blank,
            alone: claiming.alone,
        });
        self.volumes.insert_mut(claiming.volume, claims.into());
    }

    /// This life has opened its log.
    pub(super) fn claim_opened(&mut self, life: Incarnation) {
        let is_its = |claim: &Claim| claim.life == life && claim.blank;
        let formatted = self.volumes.iter().find(|(_, claims)| claims.iter().any(is_its)).map(|(id, _)| *id);
        let Some(id) = formatted else { return };
        let mut claims = self.claims(id).to_vec();
        claims.iter_mut().filter(|claim| claim.life == life).for_each(|claim| claim.blank = false);
        self.volumes.insert_mut(id, claims.into());
    }

    pub(super) fn end_claims(&mut self, ends: impl Fn(Uuid, &Claim) -> bool) {
        let touched: Vec<Uuid> = self
            .volumes
            .iter()
            .filter(|(id, claims)| claims.iter().any(|claim| ends(**id, claim)))
            .map(|(id, _)| *id)
            .collect();
        for id in touched {
            let left: Vec<Claim> = self.claims(id).iter().filter(|claim| !ends(id, claim)).cloned().collect();
            if left.is_empty() {
                self.volumes.remove_mut(&id);
            } else {
                self.volumes.insert_mut(id, left.into());
            }
        }
    }

    /// I10.
    pub(super) fn check_claims(&self) -> Result<(), String> {
        for (id, claims) in &self.volumes {
            let ascend = claims.is_sorted_by(|one, next| one.life.epoch < next.life.epoch);
            if claims.is_empty() || claims.len() > CLAIMS_MAX || !ascend {
                return Err(format!("volume {id} has {} claims, or out of order (I10)", claims.len()));
            }
            let known = |claim: &Claim| {
                self.last_registration(claim.life.broker).is_some_and(|last| last >= claim.life.epoch)
            };
            if !claims.iter().all(known) {
                return Err(format!("volume {id} is claimed by a life that nobody knows (I10)"));
            }
        }
        Ok(())
    }
}

/// Whether two devices, by their ids, may be one.
pub fn may_be_same(one: &str, other: &str) -> bool {
    one.is_empty() || other.is_empty() || one == other
}
