//! Who fences and recovers whom, and when: a state machine without I/O. Time is a span since any fixed moment.
//!
//! - **C1** Ranks are each broker's own opinion, recomputed at every look: among those that serve, are not about to leave,
//!   and are not suspected. This broker always counts itself in. A dead broker's file is best read on its own machine: who
//!   runs there comes first.
//! - **C2** Rank *r* waits *r* times the patience, from the moment at which it saw that there was something to do; a
//!   recovery of somebody else's that moves the trim point starts that wait anew.
//!
//!   Where recovering begins with a command that takes the volume away from whoever has it (`--wal-attach`), one broker at a time
//!   runs it, in turns. A turn is as long as the command may take, and a patience longer, since brokers do not see the same thing at
//!   the same moment. It is begun in the first half of a turn, and has to end a patience before the turn does. The first turn
//!   is the dead broker's own if that one is back, whose start recovers what it left; then come the others by rank, and
//!   after the last one the first again. A trim point that moves says that somebody has the volume: whoever that is has a turn from
//!   then on, and then the first in rank.
//!
//!   That is a courtesy, and costs no more than an attempt where it fails: brokers that disagree about who serves, or
//!   since when, and a start that comes when somebody has begun, run the command at the same time, which it must bear; and
//!   who has committed nothing when its turn is over may lose the volume.
//! - **C3** Nothing is begun twice at once, and nothing is begun again before its pause is over. As many recoveries run at a time as
//!   may; of those that are due at the same moment what was tried least comes first, so that none waits for ever behind
//!   some that never succeed.
//! - **C4** What the dead left in the store is read by the first few in rank as soon as its address refuses, or they take it for dead:
//!   one of them will recover it, and all of them will open partitions from it. Once for each life, as long as that is so; nothing
//!   depends on it.
//! - **C5** Whose lease somebody may have to wait out is challenged (N4 of `metadata::members`) by the first in rank as soon as its
//!   address refuses, so that the lease runs out while it is found out whether it is dead. Not again before it has not refused for
//!   a while: a challenge and its answer are two entries.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wal::{Incarnation, Position};

use super::Config;
use crate::cluster::{Verdicts, Why};
use crate::machine;
use crate::metadata::challenges::Challenges;
use crate::metadata::image::{Image, Life};

/// What is to be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Fence {
        of: Incarnation,
        why: Why,
    },
    /// It may be dead (C5).
    Challenge {
        of: Incarnation,
    },
    Recover {
        of: Incarnation,
        /// From when its lease counts (F2).
        lease_from: Duration,
        /// By when the command that attaches its volume has to end (C2).
        until: Option<Duration>,
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
    /// C5: who was challenged from here, and since when its address does not refuse any more. Forgotten a pause later.
    refused: BTreeMap<Incarnation, Option<Duration>>,
    challenges: Challenges<Duration>,
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
    /// When this process first saw the fence, or the challenge that stood when it came.
    lease_from: Duration,
    trim: Position,
    /// This broker moved it.
    moved: bool,
    work: Work,
}

/// How turns are divided (C2).
#[derive(Clone, Copy, Debug)]
struct Turns {
    /// What the command has of a turn.
    command: Duration,
    /// What is left after it.
    patience: Duration,
}

impl Work {
    fn new(now: Duration) -> Work {
        Work { since: now, running: false, attempts: 0, not_before: now }
    }

    /// When it is this broker's turn.
    fn due(&self, patience: Duration, rank: usize) -> Duration {
        self.not_before.max(self.since + patience * rank as u32)
    }

    fn ended(&mut self, now: Duration, config: &Config) {
        let pause = config.retry_pause * (1 << self.attempts.min(16));
        self.not_before = now + pause.min(config.retry_pause_max);
        self.attempts += 1;
        self.running = false;
    }
}

impl Turns {
    fn length(self) -> Duration {
        self.command + self.patience
    }
}

impl Fenced {
    /// When this broker may begin, `now` or later, and by when the command has to end. `after` brokers come before it, of as many as
    /// take `turns` and are not the dead one itself.
    fn turn(
        &self,
        now: Duration,
        turns: Turns,
        after: usize,
        brokers: usize,
    ) -> (Duration, Option<Duration>) {
        let (earliest, length) = (now.max(self.work.not_before), turns.length());
        // Its own, which is over when the first one's begins.
        let held = self.moved && earliest + length < self.work.since + turns.command / 2;
        let first = self.work.since + length * after as u32;
        match brokers {
            // In nobody's way.
            1 if self.moved => (earliest, None),
            1 => (earliest.max(first), None),
            _ if held => (earliest, Some(self.work.since - turns.patience)),
            _ => {
                let cycle = length * brokers as u32;
                let over = earliest.saturating_sub(first + turns.command / 2).as_nanos();
                let begins = first + cycle * over.div_ceil(cycle.as_nanos().max(1)) as u32;
                (earliest.max(begins), Some(begins + turns.command))
            }
        }
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
            refused: BTreeMap::new(),
            challenges: Challenges::default(),
            due: None,
        }
    }

    /// What is to be begun now, by what is known now.
    pub fn look(&mut self, now: Duration, image: &Image, verdicts: &Verdicts) -> Vec<Action> {
        let mut actions = Vec::new();
        self.due = None;
        self.challenges.look(now, image);
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
        let mut unrecovered: Vec<_> = image.unrecovered().collect();
        unrecovered.sort_by_key(|(of, _)| was.get(of).map_or(0, |fenced| fenced.work.attempts));
        for (of, life) in unrecovered {
            // Only a challenge that stands ended the renewals before the fence.
            let lease_from = self.challenges.since(of).unwrap_or(now);
            let begun = || Fenced { lease_from, trim: life.trim, moved: false, work: Work::new(now) };
            let mut fenced = was.remove(&of).unwrap_or_else(begun);
            let patience = self.config.recovery_patience;
            let attaches = self.attach_timeout.filter(|_| life.has_volume());
            let turns = attaches.map(|timeout| Turns { command: timeout.max(patience), patience });
            if fenced.trim != life.trim {
                fenced.trim = life.trim;
                fenced.moved = fenced.work.running;
                fenced.work.since = now + turns.map_or(Duration::ZERO, Turns::length);
            }
            if !fenced.work.running {
                let (rank, brokers) = self.rank_for(of, life, image, verdicts);
                let (due, until) = match turns {
                    Some(turns) => {
                        let is_back = image.live(of.broker).is_some_and(|(_, next)| !next.opened);
                        fenced.turn(now, turns, rank + usize::from(is_back), brokers)
                    }
                    None => (fenced.work.due(patience, rank), None),
                };
                if due > now {
                    self.wake_at(due);
                } else if running < self.config.recoveries_max {
                    // Those behind are looked at again when one has ended.
                    running += 1;
                    fenced.work.running = true;
                    actions.push(Action::Recover { of, lease_from: fenced.lease_from, until });
                }
            }
            self.fenced.insert(of, fenced);
        }
        actions
    }

    /// Who is to be challenged now (C5).
    pub fn challenges(&mut self, now: Duration, image: &Image, verdicts: &Verdicts) -> Vec<Action> {
        let pause = self.config.challenge_pause;
        let refusing: BTreeSet<_> = verdicts.refusing().collect();
        self.refused.retain(|of, well_since| {
            let forgotten = well_since.is_some_and(|since| now.saturating_sub(since) >= pause);
            *well_since = if refusing.contains(of) { None } else { well_since.or(Some(now)) };
            !forgotten
        });
        let mut actions = Vec::new();
        for of in refusing {
            if self.refused.contains_key(&of) {
                continue;
            }
            let Some(life) = image.life(of).filter(|life| !life.fenced) else { continue };
            if of != self.own
                && image.is_live(self.own)
                && life.opened
                && life.challenged.is_none()
                && life.has_volume()
                && self.rank(of, image, verdicts).0 == 0
            {
                self.refused.insert(of, None);
                actions.push(Action::Challenge { of });
            }
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

    /// From when the lease of a life counts that is fenced and not recovered, as far as this process looked.
    pub fn counts_from(&self, of: Incarnation) -> Option<Duration> {
        self.fenced.get(&of).map(|fenced| fenced.lease_from)
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
        let theirs = machine(of.broker).filter(|_| life.has_volume());
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
