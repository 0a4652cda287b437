//! Who fences and recovers whom, and when: a state machine without I/O. Time is a span since any fixed moment.
//!
//! - **C1** Ranks are each broker's own opinion, recomputed at every look: among those that serve, are not about to leave,
//!   and are not suspected. This broker always counts itself in. A dead broker's file is best read on its own machine: who
//!   runs there comes first.
//! - **C2** Rank *r* waits *r* times the patience, from the moment at which it saw that there was something to do; a
//!   recovery of somebody else's that moves the trim point starts that wait anew.
//!   Where recovering begins with a command that takes the volume away from whoever has it (`--wal-attach`), nobody begins in
//!   anybody else's turn: a turn is as long as that command may take, and is over for beginning at its half; after the last in
//!   rank it is the first one's again.
//! - **C3** Nothing is begun twice at once, and nothing is begun again before its pause is over.
//! - **C4** What the dead left in the store is read by the first few in rank as soon as its address refuses, or they take it for dead:
//!   one of them will recover it, and all of them will open partitions from it. Once for each life, as long as that is so; nothing
//!   depends on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wal::{Incarnation, Position};

use super::Config;
use crate::cluster::{Verdicts, Why};
use crate::machine;
use crate::metadata::image::{Image, Life};

/// What is to be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Fence {
        of: Incarnation,
        why: Why,
    },
    Recover {
        of: Incarnation,
        /// When this process first saw the fence (F2).
        fenced_at: Duration,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Caretaker {
    config: Config,
    own: Incarnation,
    machine: String,
    /// Of this broker's `--wal-attach`, if it has one (C2).
    attach_timeout: Option<Duration>,
    accused: BTreeMap<Incarnation, Work>,
    fenced: BTreeMap<Incarnation, Fenced>,
    /// C4. Those that neither refuse nor are dead or fenced any more are forgotten.
    read_ahead: BTreeSet<Incarnation>,
    due: Option<Duration>,
}

/// Something that has to be done by somebody.
#[derive(Clone, Copy, Debug)]
struct Work {
    /// C2.
    since: Duration,
    running: bool,
    attempts: u32,
    not_before: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Fenced {
    at: Duration,
    trim: Position,
    work: Work,
}

impl Work {
    fn new(now: Duration) -> Work {
        Work { since: now, running: false, attempts: 0, not_before: now }
    }

    /// When it is this broker's turn.
    fn due(&self, patience: Duration, rank: usize) -> Duration {
        self.not_before.max(self.since + patience * rank as u32)
    }

    /// The same where turns are kept to (C2), of so many brokers: `now`, or when its next one begins.
    fn turn(&self, now: Duration, length: Duration, rank: usize, brokers: usize) -> Duration {
        let (first, cycle) = (self.since + length * rank as u32, length * brokers as u32);
        let earliest = now.max(self.not_before).max(first);
        let into = (earliest - first).as_nanos() % cycle.as_nanos().max(1);
        if brokers == 1 || into * 2 < length.as_nanos() {
            earliest
        } else {
            earliest + cycle - Duration::from_nanos(u64::try_from(into).unwrap_or(u64::MAX))
        }
    }

    fn ended(&mut self, now: Duration, config: &Config) {
        let pause = config.retry_pause * (1 << self.attempts.min(16));
        self.not_before = now + pause.min(config.retry_pause_max);
        self.attempts += 1;
        self.running = false;
    }
}

impl Caretaker {
    pub fn new(
        config: Config,
        own: Incarnation,
        machine: String,
        attach_timeout: Option<Duration>,
    ) -> Caretaker {
        Caretaker {
            config,
            own,
            machine,
            attach_timeout,
            accused: BTreeMap::new(),
            fenced: BTreeMap::new(),
            read_ahead: BTreeSet::new(),
            due: None,
        }
    }

    /// What is to be begun now, by what is known now.
    pub fn look(&mut self, now: Duration, image: &Image, verdicts: &Verdicts) -> Vec<Action> {
        let mut actions = Vec::new();
        self.due = None;
        if !image.is_live(self.own) {
            // F1. The process is about to end.
            return actions;
        }
        let mut running = self.fenced.values().filter(|fenced| fenced.work.running).count();
        let mut was = std::mem::take(&mut self.accused);
        for (of, why) in verdicts.dead() {
            if of == self.own || !image.is_live(of) {
                continue;
            }
            let mut work = was.remove(&of).unwrap_or_else(|| Work::new(now));
            if !work.running {
                let due = work.due(self.config.fence_patience, self.rank(of, image, verdicts).0);
                if due <= now {
                    work.running = true;
                    actions.push(Action::Fence { of, why });
                } else {
                    self.wake_at(due);
                }
            }
            self.accused.insert(of, work);
        }
        let mut was = std::mem::take(&mut self.fenced);
        for (of, life) in image.unrecovered() {
            let begun = || Fenced { at: now, trim: life.trim, work: Work::new(now) };
            let mut fenced = was.remove(&of).unwrap_or_else(begun);
            if fenced.trim != life.trim {
                fenced.trim = life.trim;
                fenced.work.since = now;
            }
            if !fenced.work.running {
                let (rank, brokers) = self.rank_for(of, life, image, verdicts);
                let patience = self.config.recovery_patience;
                let due = match self.attach_timeout.filter(|_| life.wal_uri.starts_with("block:")) {
                    Some(timeout) => fenced.work.turn(now, patience.max(timeout), rank, brokers),
                    None => fenced.work.due(patience, rank),
                };
                if due > now {
                    self.wake_at(due);
                } else if running < self.config.recoveries_max {
                    // Those behind are looked at again when one has ended.
                    running += 1;
                    fenced.work.running = true;
                    actions.push(Action::Recover { of, fenced_at: fenced.at });
                }
            }
            self.fenced.insert(of, fenced);
        }
        actions
    }

    /// Whose slots are to be read now, and from where (C4).
    pub fn ahead(&mut self, image: &Image, verdicts: &Verdicts) -> Vec<(Incarnation, Position)> {
        let accused = verdicts.dead().map(|(of, _)| of).chain(verdicts.refusing());
        let accused = accused.filter_map(|of| Some((of, image.life(of)?)));
        let gone: BTreeMap<_, _> = accused.chain(image.unrecovered()).collect();
        self.read_ahead.retain(|of| gone.contains_key(of));
        let mut begun = Vec::new();
        for (of, life) in gone {
            if of != self.own
                && image.is_live(self.own)
                && life.wal_uri.starts_with("object:")
                && !self.read_ahead.contains(&of)
                && self.rank(of, image, verdicts).0 < self.config.ahead_brokers
            {
                self.read_ahead.insert(of);
                begun.push((of, life.trim));
            }
        }
        begun
    }

    /// When to look again, if nothing changes before.
    pub fn due(&self) -> Option<Duration> {
        self.due
    }

    /// When this process first saw the fence of a life that is not recovered, as far as it looked.
    pub fn fenced_at(&self, of: Incarnation) -> Option<Duration> {
        self.fenced.get(&of).map(|fenced| fenced.at)
    }

    pub fn fence_ended(&mut self, now: Duration, of: Incarnation) {
        if let Some(work) = self.accused.get_mut(&of) {
            work.ended(now, &self.config);
        }
    }

    pub fn recovery_ended(&mut self, now: Duration, of: Incarnation) {
        if let Some(fenced) = self.fenced.get_mut(&of) {
            fenced.work.ended(now, &self.config);
        }
    }

    fn wake_at(&mut self, due: Duration) {
        self.due = Some(self.due.map_or(due, |known| known.min(due)));
    }

    /// C1, for a fence.
    fn rank(&self, of: Incarnation, image: &Image, verdicts: &Verdicts) -> (usize, usize) {
        self.before(of, image, verdicts, |_| false)
    }

    /// C1, for a recovery.
    fn rank_for(&self, of: Incarnation, life: &Life, image: &Image, verdicts: &Verdicts) -> (usize, usize) {
        let machine = |broker| image.broker(broker).map(|info| &*info.machine);
        let theirs = machine(of.broker).filter(|_| life.wal_uri.starts_with("block:"));
        let is_there = |broker: u32| {
            let runs_on = if broker == self.own.broker { Some(&*self.machine) } else { machine(broker) };
            theirs.zip(runs_on).is_some_and(|(theirs, own)| {
                machine::is_same_kernel(theirs, own) || machine::is_same(theirs, own)
            })
        };
        self.before(of, image, verdicts, is_there)
    }

    /// How many come before this broker, and how many there are with it.
    fn before(
        &self,
        of: Incarnation,
        image: &Image,
        verdicts: &Verdicts,
        comes_first: impl Fn(u32) -> bool,
    ) -> (usize, usize) {
        let place = |life: Incarnation| (!comes_first(life.broker), weight(of, life), life);
        let own = place(self.own);
        let (mut before, mut all) = (0, 1);
        for (life, state) in image.serving() {
            if life != self.own && life != of && !state.draining && verdicts.of(life).is_none() {
                all += 1;
                before += usize::from(place(life) < own);
            }
        }
        (before, all)
    }
}

/// Spreads the dead over the living, alike on every broker. Nothing but fairness depends on it.
fn weight(of: Incarnation, by: Incarnation) -> u64 {
    let mut mixed = 0x9e37_79b9_7f4a_7c15_u64;
    for part in [u64::from(of.broker), of.epoch, u64::from(by.broker)] {
        // SplitMix64's finalizer.
        mixed = mixed.wrapping_add(part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
    }
    mixed
}
