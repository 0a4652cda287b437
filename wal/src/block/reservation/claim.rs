//! Which calls in which order, without I/O: each step is told what the device said to the one before.

use super::{Call, Host, Key, Reply};
use crate::Incarnation;

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step<T> {
    Call(Call),
    Ended(T),
}

/// How an owner's claim ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    Held,
    /// Somebody holds it who is neither the last owner nor whoever recovered that one's log (P2).
    Taken,
    /// It is not to be had, and nobody takes this host for one that has it.
    Without(String),
    /// The device does not say what became of it: whoever went on could be taken for its holder.
    Unclear(String),
}

/// An owner takes the device (P1).
#[derive(Debug)]
pub(super) struct Claim {
    own: Key,
    /// Whom to preempt, the last one first.
    victims: Vec<Key>,
    anybodys: bool,
    stage: Stage,
    bystander: Key,
    /// Why it does without.
    reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Registering,
    /// This host is registered already: an earlier life of ours was here.
    Replacing,
    Preempting,
    Reserving,
    Clearing,
    /// It does without, and gives up the key whose removal would be a proof (P3).
    Leaving,
}

impl Claim {
    pub(super) fn new(own: Incarnation, last: Option<Incarnation>, anybodys: bool) -> (Claim, Step<Claimed>) {
        let (own, bystander) = (Key::of_owner(own), Key::of_bystander(own));
        let mut victims = Vec::new();
        if let Some(last) = last {
            // Whoever removes the owner takes its reservation: so the owner is first, and then who may have removed it.
            victims = vec![Key::of_recoverer(last), Key::of_bystander(last), Key::of_owner(last)];
        }
        assert!(!victims.contains(&own), "an owner succeeds somebody else");
        let register = Call::Register { old: None, new: own, whatever: false };
        let (stage, reason) = (Stage::Registering, String::new());
        (Claim { own, victims, anybodys, stage, bystander, reason }, Step::Call(register))
    }

    pub(super) fn after(&mut self, reply: Reply) -> Step<Claimed> {
        match (self.stage, reply) {
            (Stage::Registering, Reply::Conflict) => {
                self.stage = Stage::Replacing;
                Step::Call(Call::Register { old: Some(self.own), new: self.own, whatever: true })
            }
            (Stage::Leaving, Reply::Done) => Step::Ended(Claimed::Without(std::mem::take(&mut self.reason))),
            (Stage::Leaving, _) => Step::Ended(Claimed::Unclear(std::mem::take(&mut self.reason))),
            // Nothing was done.
            (Stage::Registering | Stage::Replacing, Reply::Unsupported(reason)) => {
                Step::Ended(Claimed::Without(reason))
            }
            // It may be registered, and hold it, however it ended.
            (_, Reply::Unsupported(reason) | Reply::Failed(reason)) => self.leave(reason),
            (Stage::Replacing | Stage::Clearing, Reply::Conflict) => {
                self.leave("the device refuses this host's registration".into())
            }
            // Whoever is not registered need not be removed, and whoever still holds it is found in the end.
            (Stage::Registering | Stage::Replacing, Reply::Done)
            | (Stage::Preempting, Reply::Done | Reply::Conflict) => match self.victims.pop() {
                Some(victim) => {
                    self.stage = Stage::Preempting;
                    Step::Call(Call::Preempt { own: self.own, victim })
                }
                None => {
                    self.stage = Stage::Reserving;
                    Step::Call(Call::Reserve { own: self.own })
                }
            },
            (Stage::Reserving, Reply::Done) => Step::Ended(Claimed::Held),
            (Stage::Reserving, Reply::Conflict) if self.anybodys => {
                self.stage = Stage::Clearing;
                Step::Call(Call::Clear { own: self.own })
            }
            (Stage::Reserving, Reply::Conflict) => Step::Ended(Claimed::Taken),
            (Stage::Clearing, Reply::Done) => {
                // Once: somebody who takes it at this moment is no leftover.
                self.anybodys = false;
                self.stage = Stage::Registering;
                Step::Call(Call::Register { old: None, new: self.own, whatever: false })
            }
        }
    }

    fn leave(&mut self, reason: String) -> Step<Claimed> {
        (self.stage, self.reason) = (Stage::Leaving, reason);
        Step::Call(Call::Register { old: Some(self.own), new: self.bystander, whatever: true })
    }
}

/// A recoverer removes the owner (P3).
#[derive(Debug)]
pub(super) struct ShutOut {
    own: Key,
    victim: Key,
    stage: Removing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removing {
    Registering,
    /// Perhaps by this host, which tried before.
    Registered,
    Preempting,
    Reserving,
}

impl ShutOut {
    pub(super) fn new(of: Incarnation, host: Host) -> (ShutOut, Step<Result<(), String>>) {
        let (own, victim) = (Key::of_recoverer(of), Key::of_owner(of));
        let step = match host {
            Host::Another => Step::Call(Call::Register { old: None, new: own, whatever: false }),
            // To register would let the owner write again, if somebody else has removed it.
            Host::PerhapsItsOwn => Step::Ended(Err("this may be its own host".into())),
        };
        (ShutOut { own, victim, stage: Removing::Registering }, step)
    }

    pub(super) fn after(&mut self, reply: Reply) -> Step<Result<(), String>> {
        match (self.stage, reply) {
            (_, Reply::Unsupported(reason) | Reply::Failed(reason)) => Step::Ended(Err(reason)),
            (Removing::Registering, Reply::Conflict) => {
                self.stage = Removing::Registered;
                Step::Call(Call::Register { old: Some(self.own), new: self.own, whatever: false })
            }
            // Another key: of the owner itself, or of somebody else. It would not be kept from writing.
            (Removing::Registered, Reply::Conflict) => Step::Ended(Err(
                "this host is registered with the device already, for another purpose".into(),
            )),
            (Removing::Registering | Removing::Registered, Reply::Done) => {
                self.stage = Removing::Preempting;
                Step::Call(Call::Preempt { own: self.own, victim: self.victim })
            }
            // Which removed a registration. Whether a reservation stands is another question.
            (Removing::Preempting, Reply::Done) => {
                self.stage = Removing::Reserving;
                Step::Call(Call::Reserve { own: self.own })
            }
            (Removing::Reserving, Reply::Done) => Step::Ended(Ok(())),
            (Removing::Preempting | Removing::Reserving, Reply::Conflict) => {
                Step::Ended(Err("the owner of the log has no reservation to take".into()))
            }
        }
    }
}
