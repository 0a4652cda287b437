//! Who may write to a volume that two hosts reach: the claims of decision 23 (N4, N5), M3 and M5, V7 and V9, and what a
//! reservation adds to them.
//!
//! ```text
//!   start ──► take: lock, look ──► judge ──► register and claim ──► [reserve] ──► open: look again, two superblocks ──► serve ──► close
//!              │ blank: plan an id     │ by a view that may be old                   │                                 │
//!              ▼                       ▼                                             ▼ queue of the host, for any time ▼
//!           volume ◄──────────────────────────────────────────────── [accepted by the device] ◄── superblocks, records
//! ```
//!
//! A write waits on its host for as long as it likes, whether its process lives or not; a power cut or a detachment ends it. A
//! start writes its second superblock when the first one is there, and serves behind the second. Superblocks carry a number, the
//! higher one counts; a record is in one place, whoever writes it. Of the operator's word it is known that it is true.
//!
//! A life acknowledges one record. It is uploaded by the orderly end of that life, or by a recovery, which is one step here, with
//! the end of its right to acknowledge: the block WAL's own model has that.
//!
//! # Properties
//! - what was acknowledged is in the bucket, or is on the volume, under the name of the life that acknowledged it;
//! - where all lives were under one kernel, no start under it is refused.

mod rules;

use stateright::{Model, Property};

use crate::check::Off;
use rules::rule::*;

const HOSTS: usize = 2;

/// What the volume is when all begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    Blank,
    /// With a log that was closed.
    Closed,
    /// With an owner that serves on the first host, and may have claimed the volume.
    Owned {
        claimed: bool,
    },
}

/// How much of what happens.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    begins: Begins,
    /// Each host starts a broker of its own.
    two_brokers: bool,
    reservations: bool,
    starts: [u8; HOSTS],
    kills: u8,
    power_cuts: u8,
    fences: u8,
    /// Hosts that an operator detaches.
    detached: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Superblock {
    number: u8,
    id: u8,
    owner: Option<u8>,
    released: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    Superblock(Superblock),
    Record(u8),
}

/// A write on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Write {
    host: usize,
    process: u8,
    what: What,
}

/// A registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Life {
    host: usize,
    boot: u8,
    broker: u8,
    opened: bool,
    fenced: bool,
    /// Recovered, or forgotten.
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Claim {
    volume: u8,
    life: u8,
    blank: bool,
    alone: bool,
}

/// The metadata as a process knows them: the claims, and how many registrations there were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct View {
    claims: Vec<Claim>,
    lives: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Started,
    Took,
    /// Formats what it found blank: only without the rule.
    Formatting,
    Registered,
    Reserved,
    Opening,
    Opened,
    Serving,
    Closing,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Record {
    None,
    UnderWay,
    Durable,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    number: u8,
    phase: Phase,
    /// The operator has said that nobody else can write.
    word: bool,
    view: View,
    /// The volume when it was taken; as planned if that was blank.
    seen: Superblock,
    blank: bool,
    life: u8,
    /// Only a reservation keeps others out.
    relies: bool,
    record: Record,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Host {
    boot: u8,
    attached: bool,
    starts: u8,
    process: Option<Process>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    superblocks: [Option<Superblock>; 2],
    record: Option<u8>,
    /// On their hosts.
    queued: Vec<Write>,
    /// Taken by the device: only where it has reservations.
    accepted: Vec<Write>,
    /// Who has the reservation, and from which host.
    reserved: Option<(u8, usize)>,
    lives: Vec<Life>,
    claims: Vec<Claim>,
    hosts: [Host; HOSTS],
    processes: u8,
    /// Lives, as bits: what was acknowledged, what is in the bucket.
    acknowledged: u8,
    kept: u8,
    kills: u8,
    power_cuts: u8,
    fences: u8,
    detached: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Start { host: usize, word: bool },
    Take { host: usize },
    Refresh { host: usize },
    Register { host: usize },
    GiveUp { host: usize },
    Reserve { host: usize },
    Open { host: usize },
    OpenLeaderships { host: usize },
    Write { host: usize },
    Acknowledge { host: usize },
    Close { host: usize },
    EndClaim { host: usize },
    Accept { write: usize },
    Land { write: usize },
    Recover { life: u8 },
    Fence { life: u8 },
    Kill { host: usize },
    PowerCut { host: usize },
    Detach { host: usize },
}

#[derive(Debug)]
pub struct Volumes {
    bounds: Bounds,
    off: Off,
}

/// What a start makes of what it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Wait,
    Refused,
    Go { gone: Vec<u8>, alone: bool },
}

const BLANK: Superblock = Superblock { number: 0, id: 0, owner: None, released: false };

impl State {
    /// The superblock that counts.
    fn top(&self) -> Option<Superblock> {
        self.superblocks.iter().flatten().max_by_key(|superblock| superblock.number).copied()
    }

    fn process(&mut self, host: usize) -> &mut Process {
        self.hosts[host].process.as_mut().expect("it does something")
    }

    fn view(&self) -> View {
        View { claims: self.claims.clone(), lives: self.lives.len() as u8 }
    }

    fn newest_of(&self, broker: u8, lives: u8) -> Option<u8> {
        (0..lives).rev().find(|life| self.lives[usize::from(*life)].broker == broker)
    }

    fn queue(&mut self, host: usize, process: u8, what: What) {
        self.queued.push(Write { host, process, what });
    }

    fn queue_superblock(&mut self, host: usize, change: impl FnOnce(&mut Superblock)) {
        let process = self.process(host);
        process.seen.number += 1;
        change(&mut process.seen);
        let (number, superblock) = (process.number, process.seen);
        self.queue(host, number, What::Superblock(superblock));
    }
}

impl Volumes {
    fn on(&self, rule: u8) -> bool {
        !self.off.holds(rule)
    }

    fn broker(&self, host: usize) -> u8 {
        if self.bounds.two_brokers { host as u8 } else { 0 }
    }

    fn is_same_kernel(&self, state: &State, host: usize, life: u8) -> bool {
        let life = state.lives[usize::from(life)];
        !self.on(KERNEL) || life.host == host && life.boot == state.hosts[host].boot
    }

    fn judge(&self, state: &State, host: usize, process: &Process) -> Verdict {
        let Process { view, seen, blank, word, .. } = process;
        let is_gone = |life: u8, known: bool| {
            let closed = seen.released && seen.owner == Some(life);
            closed || *word || known && self.is_same_kernel(state, host, life)
        };
        let claims: Vec<Claim> =
            view.claims.iter().filter(|claim| claim.volume == seen.id).copied().collect();
        let (mut gone, mut left) = (Vec::new(), false);
        let unclaimed = seen.owner.filter(|owner| claims.iter().all(|claim| claim.life != *owner));
        if let Some(owner) = unclaimed.filter(|_| self.on(OWNER_JUDGED)) {
            let broker = state.lives[usize::from(owner)].broker;
            let known = state.newest_of(broker, view.lives) == Some(owner);
            let vouched = claims.iter().any(|claim| claim.alone && claim.life > owner);
            left = !vouched && !is_gone(owner, known);
        }
        for claim in &claims {
            if is_gone(claim.life, true) {
                gone.push(claim.life);
            } else {
                left = true;
            }
        }
        if *blank && self.on(RIVALS) {
            for rival in view.claims.iter().filter(|claim| claim.blank && claim.volume != seen.id) {
                let broker = state.lives[usize::from(rival.life)].broker;
                if self.is_same_kernel(state, host, rival.life) || *word && broker == self.broker(host) {
                    gone.push(rival.life);
                } else if !*word {
                    return Verdict::Wait;
                }
            }
        }
        if left && !self.bounds.reservations && self.on(REFUSE) {
            return Verdict::Refused;
        }
        Verdict::Go { gone, alone: !left }
    }

    fn fence(&self, state: &mut State, life: u8) {
        let fenced = &mut state.lives[usize::from(life)];
        if fenced.over || fenced.fenced {
            return;
        }
        fenced.fenced = true;
        fenced.over = !fenced.opened;
        if !self.on(OUTLIVES) {
            state.claims.retain(|claim| claim.life != life);
        }
    }

    fn register(&self, state: &mut State, host: usize) {
        let process = state.process(host).clone();
        let Verdict::Go { gone, alone } = self.judge(state, host, &process) else { return };
        let (broker, lives) = (self.broker(host), state.lives.len() as u8);
        let replaced = state.newest_of(broker, process.view.lives) == state.newest_of(broker, lives);
        if !replaced && self.on(REPLACES) {
            state.hosts[host].process = None;
            return;
        }
        let newer = |claim: &Claim| claim.life >= process.view.lives;
        let same = |claim: &Claim| claim.volume == process.seen.id && self.on(NEWER);
        let blank = |claim: &Claim| process.blank && claim.blank && self.on(BLANK_NEWER);
        if state.claims.iter().any(|claim| newer(claim) && (same(claim) || blank(claim))) {
            let view = state.view();
            state.process(host).view = view;
            return;
        }
        (0..lives)
            .filter(|life| state.lives[usize::from(*life)].broker == broker)
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|life| self.fence(state, life));
        let boot = state.hosts[host].boot;
        state.lives.push(Life { host, boot, broker, opened: false, fenced: false, over: false });
        if self.on(CLAIM) {
            let volume = process.seen.id;
            let ends = |claim: &Claim| alone && claim.volume == volume || gone.contains(&claim.life);
            state.claims.retain(|claim| !ends(claim));
            state.claims.push(Claim { volume, life: lives, blank: process.blank, alone });
        }
        let process = state.process(host);
        let relies = !alone && self.bounds.reservations;
        (process.life, process.relies, process.phase) = (lives, relies, Phase::Registered);
        // It is not looked at any more.
        (process.view, process.word) = (View::default(), process.word && self.bounds.reservations);
    }

    /// Whether everything that a start has to recover is.
    fn may_open(&self, state: &State, process: &Process) -> bool {
        let broker = state.lives[usize::from(process.life)].broker;
        state.lives.iter().all(|life| life.broker != broker || !life.fenced || life.over)
    }

    /// V7, V9; and that nothing but its own broker's older log is written over.
    fn open(&self, state: &mut State, host: usize) {
        let found = state.top();
        let process = state.process(host).clone();
        let blank = process.blank && found.is_none();
        let unchanged = blank
            || !process.blank
                && found
                    .is_some_and(|found| (found.id, found.owner) == (process.seen.id, process.seen.owner));
        let owner = found.and_then(|found| found.owner);
        let broker = |life: u8| state.lives[usize::from(life)].broker;
        let anothers = owner.is_some_and(|owner| broker(owner) != broker(process.life));
        if !unchanged && self.on(UNCHANGED) || anothers && self.on(ANOTHERS) {
            state.hosts[host].process = None;
            return;
        }
        let process = state.process(host);
        process.seen = found.unwrap_or(process.seen);
        process.phase = Phase::Opening;
        let life = process.life;
        process.seen.owner = Some(life);
        process.seen.released = false;
        process.record = Record::None;
        state.queue_superblock(host, |_| {});
        if !self.on(IN_TURN) {
            state.queue_superblock(host, |_| {});
        }
    }

    /// A process whose write is there goes on.
    fn landed(&self, state: &mut State, write: Write) {
        let Some(process) = state.hosts[write.host].process.as_mut() else { return };
        if process.number != write.process {
            return;
        }
        match (process.phase, write.what) {
            (Phase::Formatting, What::Superblock(superblock)) if superblock.number < 2 => {
                state.queue_superblock(write.host, |_| {});
            }
            (Phase::Formatting, _) => {
                // Read back.
                let top = state.top().expect("just written");
                let process = state.process(write.host);
                (process.phase, process.blank, process.seen) = (Phase::Took, false, top);
            }
            (Phase::Opening, _) if process.record == Record::None => {
                // One of two: no start has a record.
                process.record = Record::UnderWay;
                if self.on(IN_TURN) {
                    state.queue_superblock(write.host, |_| {});
                }
            }
            (Phase::Opening, _) => (process.phase, process.record) = (Phase::Opened, Record::None),
            (Phase::Closing, What::Superblock(_)) => process.phase = Phase::Closed,
            (_, What::Record(_)) => process.record = Record::Durable,
            _ => {}
        }
    }

    fn process_actions(&self, state: &State, host: usize, process: &Process, actions: &mut Vec<Action>) {
        let life = state.lives.get(usize::from(process.life));
        match process.phase {
            Phase::Started => actions.push(Action::Take { host }),
            Phase::Took => {
                if let Verdict::Go { .. } = self.judge(state, host, process) {
                    actions.push(Action::Register { host });
                } else {
                    actions.push(Action::GiveUp { host });
                }
                if process.view != state.view() {
                    actions.push(Action::Refresh { host });
                }
            }
            Phase::Registered | Phase::Reserved => {
                actions.push(Action::GiveUp { host });
                if !self.may_open(state, process) {
                    return;
                }
                let is_reserved = process.phase == Phase::Reserved;
                if self.bounds.reservations && !is_reserved {
                    actions.push(Action::Reserve { host });
                }
                let landing = state.accepted.iter().any(|write| write.host != host);
                let waits = is_reserved && process.relies && landing && self.on(LANDING);
                if (is_reserved || !process.relies || !self.on(RESERVED_FIRST)) && !waits {
                    actions.push(Action::Open { host });
                }
            }
            Phase::Opening if !self.on(BEGUN_STAYS) => actions.push(Action::GiveUp { host }),
            Phase::Formatting | Phase::Opening | Phase::Closing => {}
            Phase::Opened => actions.push(Action::OpenLeaderships { host }),
            Phase::Serving => {
                if process.record == Record::None {
                    actions.push(Action::Write { host });
                }
                let life = life.expect("it has registered");
                if process.record == Record::Durable
                    && state.acknowledged & 1 << process.life == 0
                    && !life.over
                {
                    actions.push(Action::Acknowledge { host });
                }
                if !life.fenced && (process.record != Record::UnderWay || !self.on(CLOSED_LAST)) {
                    actions.push(Action::Close { host });
                }
            }
            Phase::Closed => actions.push(Action::EndClaim { host }),
        }
    }

    /// Whether it is this process's claim alone that says of the last owner, which did not close its log, that it is gone.
    fn is_rested_on(&self, state: &State, process: &Process) -> bool {
        let is_claimed = |owner: u8| state.claims.iter().any(|claim| claim.life == owner);
        let owner = process.seen.owner.filter(|_| !process.seen.released);
        self.on(RESTED_ON) && owner.is_some_and(|owner| !is_claimed(owner))
    }

    fn close_broker(state: &mut State, host: usize) {
        let life = state.process(host).life;
        let registered = &mut state.lives[usize::from(life)];
        if !registered.fenced {
            registered.over = true;
            state.claims.retain(|claim| claim.life != life);
        }
    }
}

impl Model for Volumes {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let Bounds { begins, starts, kills, power_cuts, fences, detached, .. } = self.bounds;
        let host = |starts| Host { boot: 0, attached: true, starts, process: None };
        let mut state = State {
            superblocks: [None; 2],
            record: None,
            queued: Vec::new(),
            accepted: Vec::new(),
            reserved: None,
            lives: Vec::new(),
            claims: Vec::new(),
            hosts: [host(starts[0]), host(starts[1])],
            processes: 1,
            acknowledged: 0,
            kept: 0,
            kills,
            power_cuts,
            fences,
            detached,
        };
        if begins == Begins::Blank {
            return vec![state];
        }
        let is_closed = begins == Begins::Closed;
        let seen = Superblock { number: 2, id: 0, owner: Some(0), released: is_closed };
        state.superblocks = [Some(seen), Some(Superblock { number: 1, released: false, ..seen })];
        state.lives.push(Life { host: 0, boot: 0, broker: 0, opened: true, fenced: false, over: is_closed });
        if let Begins::Owned { claimed } = begins {
            if claimed {
                state.claims.push(Claim { volume: 0, life: 0, blank: false, alone: true });
            }
            state.hosts[0].process = Some(Process {
                number: 0,
                phase: Phase::Serving,
                word: false,
                view: View::default(),
                seen,
                blank: false,
                life: 0,
                relies: false,
                record: Record::None,
            });
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (at, host) in state.hosts.iter().enumerate() {
            if let Some(process) = &host.process {
                self.process_actions(state, at, process, actions);
                if state.kills > 0 {
                    actions.push(Action::Kill { host: at });
                }
            } else if host.starts > 0 && host.attached {
                actions.push(Action::Start { host: at, word: false });
                let others = state.hosts.iter().enumerate().filter(|(other, _)| *other != at);
                let said = others.map(|(_, other)| other).all(|other| !other.attached);
                if said || !self.on(DETACHED) {
                    actions.push(Action::Start { host: at, word: true });
                }
            }
            let works = host.process.is_some() || state.queued.iter().any(|write| write.host == at);
            if state.power_cuts > 0 && works {
                actions.push(Action::PowerCut { host: at });
            }
            if state.detached > 0 && host.attached {
                actions.push(Action::Detach { host: at });
            }
        }
        if self.bounds.reservations {
            actions.extend((0..state.queued.len()).map(|write| Action::Accept { write }));
            actions.extend((0..state.accepted.len()).map(|write| Action::Land { write }));
        } else {
            actions.extend((0..state.queued.len()).map(|write| Action::Land { write }));
        }
        for (number, life) in state.lives.iter().enumerate() {
            let number = number as u8;
            // Under another owner's name there is nothing to be read (V6).
            let is_there = state.top().is_some_and(|top| top.owner == Some(number));
            if life.fenced && !life.over && is_there {
                actions.push(Action::Recover { life: number });
            }
            if state.fences > 0 && !life.fenced && !life.over {
                actions.push(Action::Fence { life: number });
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Start { host, word } => {
                let number = state.processes;
                state.processes += 1;
                state.hosts[host].starts -= 1;
                state.hosts[host].process = Some(Process {
                    number,
                    phase: Phase::Started,
                    word,
                    view: state.view(),
                    seen: BLANK,
                    blank: false,
                    life: 0,
                    relies: false,
                    record: Record::None,
                });
            }
            Action::Take { host } => {
                // What an earlier process of this kernel has under way keeps its lock.
                if self.on(LOCK) && state.queued.iter().chain(&state.accepted).any(|write| write.host == host)
                {
                    return None;
                }
                let top = state.top();
                let process = state.process(host);
                process.phase = Phase::Took;
                process.blank = top.is_none();
                process.seen = top.unwrap_or(Superblock { id: process.number, ..BLANK });
                if process.blank && !self.on(FORMAT_BEHIND) {
                    process.phase = Phase::Formatting;
                    state.queue_superblock(host, |_| {});
                }
            }
            Action::Refresh { host } => state.process(host).view = last.view(),
            Action::Register { host } => self.register(&mut state, host),
            Action::GiveUp { host } => {
                let process = state.process(host).clone();
                let is_known = process.phase != Phase::Took;
                // Begun: what it saw last is its own.
                if is_known && (process.phase == Phase::Opening || !self.is_rested_on(&state, &process)) {
                    Volumes::close_broker(&mut state, host);
                }
                state.hosts[host].process = None;
            }
            Action::Reserve { host } => {
                let process = state.process(host);
                let (life, word, owner) = (process.life, process.word, process.seen.owner);
                process.phase = Phase::Reserved;
                if last.reserved.is_none_or(|(holder, _)| word || Some(holder) == owner) {
                    state.reserved = Some((life, host));
                } else {
                    state.hosts[host].process = None;
                }
            }
            Action::Open { host } => self.open(&mut state, host),
            Action::OpenLeaderships { host } => {
                let life = state.process(host).life;
                let registered = &mut state.lives[usize::from(life)];
                if registered.fenced {
                    state.hosts[host].process = None;
                } else {
                    registered.opened = true;
                    state.process(host).phase = Phase::Serving;
                    let volume = state.process(host).seen.id;
                    if !self.on(KEPT_OUT) {
                        state.claims.retain(|claim| claim.volume != volume || claim.life == life);
                    }
                    state
                        .claims
                        .iter_mut()
                        .filter(|claim| claim.life == life)
                        .for_each(|claim| claim.blank = false);
                }
            }
            Action::Write { host } => {
                let process = state.process(host);
                process.record = Record::UnderWay;
                let (number, life) = (process.number, process.life);
                state.queue(host, number, What::Record(life));
            }
            Action::Acknowledge { host } => state.acknowledged |= 1 << state.process(host).life,
            Action::Close { host } => {
                let process = state.process(host);
                process.phase = Phase::Closing;
                let kept = u8::from(process.record == Record::Durable) << process.life;
                state.kept |= kept;
                state.queue_superblock(host, |superblock| superblock.released = true);
            }
            Action::EndClaim { host } => {
                Volumes::close_broker(&mut state, host);
                let life = state.process(host).life;
                state.reserved = state.reserved.filter(|(holder, _)| *holder != life);
                state.hosts[host].process = None;
            }
            Action::Accept { write } => {
                let write = state.queued.remove(write);
                if state.reserved.is_none_or(|(_, host)| host == write.host) {
                    state.accepted.push(write);
                } else {
                    let host = &mut state.hosts[write.host];
                    host.process = host.process.take().filter(|process| process.number != write.process);
                }
            }
            Action::Land { write } => {
                let from = if self.bounds.reservations { &mut state.accepted } else { &mut state.queued };
                let write = from.remove(write);
                match write.what {
                    What::Superblock(superblock) => {
                        state.superblocks[usize::from(superblock.number % 2)] = Some(superblock);
                    }
                    What::Record(life) => state.record = Some(life),
                }
                self.landed(&mut state, write);
            }
            Action::Recover { life } => {
                state.lives[usize::from(life)].over = true;
                if state.record == Some(life) {
                    state.kept |= 1 << life;
                }
            }
            Action::Fence { life } => {
                state.fences -= 1;
                self.fence(&mut state, life);
            }
            Action::Kill { host } => {
                state.kills -= 1;
                state.hosts[host].process = None;
            }
            Action::PowerCut { host } => {
                state.power_cuts -= 1;
                state.hosts[host].boot += 1;
                state.hosts[host].process = None;
                state.queued.retain(|write| write.host != host);
            }
            Action::Detach { host } => {
                state.detached -= 1;
                state.hosts[host].attached = false;
                state.hosts[host].process = None;
                state.queued.retain(|write| write.host != host);
                state.accepted.retain(|write| write.host != host);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Volumes>> {
        vec![
            Property::always("what was acknowledged is kept", |_, state: &State| {
                let on_volume = |life: u8| {
                    state.record == Some(life) && state.top().is_some_and(|top| top.owner == Some(life))
                };
                let lives = 0..state.lives.len() as u8;
                lives.filter(|life| state.acknowledged & !state.kept & 1 << life != 0).all(on_volume)
            }),
            Property::always("nobody is refused under the only kernel", |model: &Volumes, state: &State| {
                let is_alone = |host: usize, process: &Process| {
                    let boot = state.hosts[host].boot;
                    let is_here = |life: &Life| (life.host, life.boot) == (host, boot);
                    process.phase == Phase::Took
                        && process.view == state.view()
                        && state.lives.iter().all(is_here)
                };
                let processes = state.hosts.iter().enumerate();
                processes.filter_map(|(at, host)| Some((at, host.process.as_ref()?))).all(|(at, process)| {
                    !is_alone(at, process) || model.judge(state, at, process) != Verdict::Refused
                })
            }),
            Property::sometimes("whoever comes second acknowledges", |_, state: &State| {
                state.acknowledged >> 1 != 0
            }),
        ]
    }
}
