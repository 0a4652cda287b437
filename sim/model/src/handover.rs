//! A partition that two brokers hand to each other while a producer writes: H1 to H4, G1 to G4, and what the next leader is
//! told (N1).
//!
//! ```text
//!   producer ──► leader: take, make durable, acknowledge ──► upload and commit
//!                  │ stop ──► HandOver, which may be late, or its answer lost ──► given, or not
//!                  └─────────► note, which may be lost, late, or somebody else's ──► next leader: open ──► take …
//! ```
//!
//! A batch is its sequence number. The *log* of a partition is what is committed and, behind it, what is durable at the broker
//! that owns it under the present leader epoch: what a recovery of that broker would find. A broker that is fenced goes on until
//! it is recovered, which is one step here: how that comes about is what the other models show.
//!
//! # Properties
//! - what was acknowledged is in the log, where the producer was told, and nothing is in it twice;
//! - no producer is refused that did nothing wrong;
//! - in the end every batch is acknowledged, whoever died.

use stateright::{Model, Property};

use crate::check::{Off, Rule, Scenario, Subject};

/// What can be switched off.
pub mod rule {
    pub const OWNER: u8 = 0;
    pub const COMMITTED: u8 = 1;
    pub const ONE_ENTRY: u8 = 2;
    pub const RECEIVER: u8 = 3;
    pub const GO_ON: u8 = 4;
    pub const STOP: u8 = 5;
    pub const ASK_AGAIN: u8 = 6;
    pub const WHO_LEADS: u8 = 7;
    pub const LATER_DECIDES: u8 = 8;
    pub const REPLAY: u8 = 9;
    pub const HASH: u8 = 10;
    pub const NOTE_END: u8 = 11;
    pub const NOTE_WHEN_STOPPED: u8 = 12;
    pub const OPENED_ANEW: u8 = 13;
    pub const REFUSE_AS_LEADER: u8 = 14;
    pub const OF_EPOCH: u8 = 15;
}
use rule::*;

/// How much of what happens.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    batches: u8,
    /// Hand-overs that are begun.
    moves: u8,
    /// Answers to a hand-over that are lost, with the request done or yet to come.
    late: u8,
    /// Brokers that are fenced, crashed or not.
    deaths: u8,
    /// Times that a broker is told to be emptied, and no more.
    drains: u8,
}

/// What a leader knows: how many batches of the producer, and where the log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    known: u8,
    end: u8,
}

/// A hand-over on its way to the metadata log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Request {
    by: usize,
    epoch: u8,
    end: u8,
    note: Note,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Standing {
    Open,
    Stopped,
    /// Has asked for the hand-over. `unknown`: an earlier answer did not come. `waits`: for one that is under way.
    Asking {
        unknown: bool,
        waits: bool,
    },
    Left,
}

/// A partition as a broker has it. What is durable of its log outlives a crash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Part {
    epoch: u8,
    log: Vec<u8>,
    durable: u8,
    /// The producer's next sequence.
    known: u8,
    standing: Standing,
    /// What it will tell the next leader.
    note: Option<Note>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Broker {
    crashed: bool,
    fenced: bool,
    /// And forgotten: nothing of it becomes durable any more.
    recovered: bool,
    draining: bool,
    part: Option<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What the metadata say.
    owner: Option<usize>,
    epoch: u8,
    committed: Vec<u8>,
    /// Of the note, in the entry that gave it to its owner.
    hash: Option<Note>,
    /// Where a partition goes of which the first of two entries was applied.
    released: Option<usize>,
    brokers: [Broker; 2],
    flying: Vec<Request>,
    /// What the last leader says, and what one before it said.
    said: Option<Note>,
    said_before: Option<Note>,
    /// Offsets, by sequence.
    acknowledged: Vec<u8>,
    refused: bool,
    moved: bool,
    bounds: [u8; 4],
}

const MOVES: usize = 0;
const LATE: usize = 1;
const DEATHS: usize = 2;
const DRAINS: usize = 3;

/// What the next leader gets for a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    Nothing,
    Said,
    SaidBefore,
    /// By somebody else: that there never was a producer.
    Lie,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Open { by: usize, heard: Heard },
    Take { by: usize },
    MakeDurable { by: usize },
    Acknowledge { by: usize },
    Commit { by: usize },
    Prepare { by: usize },
    Stop { by: usize },
    HandOver { by: usize },
    Land { request: usize, answered: bool },
    TimeOut { by: usize },
    Grant,
    Drain { of: usize },
    DrainNoMore { of: usize },
    Crash { of: usize },
    Fence { of: usize },
    Recover { of: usize },
}

#[derive(Debug)]
pub struct HandOver {
    bounds: Bounds,
    off: Off,
}

/// Why a hand-over was rejected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Given,
    Fenced,
    Rejected,
}

impl State {
    /// The partition as its owner has it under the present leader epoch.
    fn led(&self) -> Option<&Part> {
        self.brokers[self.owner?].part.as_ref().filter(|part| part.epoch == self.epoch)
    }

    /// What a recovery of the owner would leave.
    fn log(&self) -> &[u8] {
        self.led().map_or(&self.committed, |part| &part.log[..part.durable.into()])
    }

    fn leads(&self, by: usize) -> bool {
        self.owner == Some(by) && self.led().is_some()
    }

    fn part(&mut self, by: usize) -> &mut Part {
        self.brokers[by].part.as_mut().expect("whoever acts on it has it")
    }
}

impl HandOver {
    fn on(&self, rule: u8) -> bool {
        !self.off.holds(rule)
    }

    fn open(&self, state: &mut State, by: usize, heard: Heard) {
        let epoch = state.epoch;
        if let Some(part) = state.brokers[by].part.as_mut().filter(|_| !self.on(OPENED_ANEW)) {
            part.epoch = epoch;
            part.standing = Standing::Open;
            return;
        }
        let end = state.committed.len() as u8;
        let note = match heard {
            Heard::Nothing => None,
            Heard::Said => state.said,
            Heard::SaidBefore => state.said_before,
            Heard::Lie => Some(Note { known: 0, end }),
        };
        let note = note.filter(|note| !self.on(HASH) || state.hash == Some(*note));
        let note = note.filter(|note| !self.on(NOTE_END) || note.end == end);
        let replayed = state.committed.iter().max().map_or(0, |last| last + 1);
        let known = note.map_or(if self.on(REPLAY) { replayed } else { 0 }, |note| note.known);
        let log = state.committed.clone();
        state.brokers[by].part =
            Some(Part { epoch, log, durable: end, known, standing: Standing::Open, note: None });
    }

    /// The producer's batch arrives.
    fn take(&self, state: &mut State, by: usize) {
        let next = state.acknowledged.len() as u8;
        let leads = state.leads(by);
        let part = state.part(by);
        if part.known == next {
            part.log.push(next);
            part.known += 1;
        } else if part.known < next && (leads || !self.on(REFUSE_AS_LEADER)) {
            state.refused = true;
        }
    }

    /// Applies a hand-over.
    fn apply(&self, state: &mut State, request: Request) -> Outcome {
        let Request { by, epoch, end, note } = request;
        if state.brokers[by].fenced {
            return Outcome::Fenced;
        }
        let to = 1 - by;
        let receives = !state.brokers[to].fenced && !state.brokers[to].draining;
        let owns = state.owner == Some(by) || !self.on(OWNER);
        let owns = owns && (state.epoch == epoch || !self.on(OF_EPOCH));
        let committed = state.committed.len() == usize::from(end) || !self.on(COMMITTED);
        if !owns || !committed || self.on(RECEIVER) && !receives {
            return Outcome::Rejected;
        }
        state.hash = Some(note);
        if self.on(ONE_ENTRY) {
            HandOver::give(state, to);
        } else {
            state.owner = None;
            state.released = Some(to);
        }
        Outcome::Given
    }

    fn give(state: &mut State, to: usize) {
        state.owner = Some(to);
        state.epoch += 1;
        state.moved = true;
    }

    /// The owner of a hand-over learns of its outcome.
    fn learn(&self, state: &mut State, by: usize, outcome: Outcome) {
        let leads = state.leads(by) || !self.on(WHO_LEADS);
        let Some(part) = state.brokers[by].part.as_mut() else { return };
        let Standing::Asking { unknown, .. } = part.standing else { return };
        part.standing = match outcome {
            Outcome::Given => Standing::Left,
            // The process is about to end.
            Outcome::Fenced if unknown => Standing::Left,
            Outcome::Fenced | Outcome::Rejected if !leads => Standing::Left,
            Outcome::Fenced | Outcome::Rejected if self.on(GO_ON) => Standing::Open,
            Outcome::Fenced | Outcome::Rejected => Standing::Left,
        };
    }

    /// Nobody will ever tell it.
    fn not_told(&self, state: &mut State, by: usize) {
        state.bounds[LATE] -= 1;
        let again = self.on(ASK_AGAIN);
        let part = state.part(by);
        part.standing = match again {
            true => Standing::Asking { unknown: true, waits: false },
            false => Standing::Open,
        };
    }

    fn land(&self, state: &mut State, at: usize, answered: bool) {
        let request = state.flying.remove(at);
        let by = request.by;
        let newest = !state.flying[at..].iter().any(|later| later.by == by);
        if self.on(LATER_DECIDES) {
            // Each of them was to be the entry behind what its broker knew; now there is another.
            let mut place = 0;
            state.flying.retain(|earlier| {
                place += 1;
                place > at || earlier.by != by
            });
        }
        let outcome = self.apply(state, request);
        let waits = |part: &Part| matches!(part.standing, Standing::Asking { waits: true, .. });
        if !newest || state.brokers[by].crashed || !state.brokers[by].part.as_ref().is_some_and(waits) {
            return;
        }
        if answered {
            self.learn(state, by, outcome);
        } else {
            self.not_told(state, by);
        }
    }

    fn recover(state: &mut State, of: usize) {
        state.committed =
            if state.owner == Some(of) { state.log().to_vec() } else { state.committed.clone() };
        state.brokers[of].recovered = true;
        if state.owner == Some(of) {
            state.owner = Some(1 - of);
            state.epoch += 1;
            state.hash = None;
        }
    }

    fn broker_actions(&self, state: &State, by: usize, actions: &mut Vec<Action>) {
        let broker = &state.brokers[by];
        if state.owner == Some(by) && !broker.fenced && state.led().is_none() {
            let heard = [Heard::Nothing, Heard::Said, Heard::SaidBefore, Heard::Lie];
            actions.extend(heard.map(|heard| Action::Open { by, heard }));
        }
        let Some(part) = &broker.part else { return };
        let next = state.acknowledged.len() as u8;
        let takes = part.standing == Standing::Open
            || !self.on(STOP) && matches!(part.standing, Standing::Stopped | Standing::Asking { .. });
        if takes && next < self.bounds.batches {
            actions.push(Action::Take { by });
        }
        if usize::from(part.durable) < part.log.len() && !broker.recovered {
            actions.push(Action::MakeDurable { by });
        }
        let offset = part.log.iter().rposition(|batch| *batch == next);
        if offset.is_some_and(|offset| offset < part.durable.into()) && part.standing != Standing::Left {
            actions.push(Action::Acknowledge { by });
        }
        if broker.fenced {
            return;
        }
        if state.leads(by) && usize::from(part.durable) > state.committed.len() {
            actions.push(Action::Commit { by });
        }
        match part.standing {
            Standing::Open if state.bounds[MOVES] > 0 && state.leads(by) => {
                if !self.on(NOTE_WHEN_STOPPED) && part.note.is_none() {
                    actions.push(Action::Prepare { by });
                }
                actions.push(Action::Stop { by });
            }
            // What is not committed yet is waited for.
            Standing::Stopped
                if !self.on(COMMITTED) || state.committed.len() == part.log.len() || !self.on(STOP) =>
            {
                actions.push(Action::HandOver { by });
            }
            Standing::Asking { waits: false, .. } if state.flying.len() < 2 => {
                actions.push(Action::HandOver { by });
            }
            Standing::Asking { waits: true, .. } if state.bounds[LATE] > 0 => {
                actions.push(Action::TimeOut { by });
            }
            _ => {}
        }
    }
}

impl Model for HandOver {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let Bounds { moves, late, deaths, drains, .. } = self.bounds;
        vec![State {
            owner: Some(0),
            epoch: 0,
            committed: Vec::new(),
            hash: None,
            released: None,
            brokers: Default::default(),
            flying: Vec::new(),
            said: None,
            said_before: None,
            acknowledged: Vec::new(),
            refused: false,
            moved: false,
            bounds: [moves, late, deaths, drains],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (by, broker) in state.brokers.iter().enumerate() {
            if !broker.crashed {
                self.broker_actions(state, by, actions);
            }
            let other = &state.brokers[1 - by];
            let other_lives = !other.crashed && !other.fenced;
            if state.bounds[DEATHS] > 0 && other_lives && !broker.fenced {
                actions.push(Action::Fence { of: by });
            }
            if (state.bounds[DEATHS] > 0 || broker.fenced) && other_lives && !broker.crashed {
                actions.push(Action::Crash { of: by });
            }
            if broker.fenced && !broker.recovered {
                actions.push(Action::Recover { of: by });
            }
            if broker.draining {
                actions.push(Action::DrainNoMore { of: by });
            } else if state.bounds[DRAINS] > 0 {
                actions.push(Action::Drain { of: by });
            }
        }
        for request in 0..state.flying.len() {
            actions.push(Action::Land { request, answered: true });
            if state.bounds[LATE] > 0 {
                actions.push(Action::Land { request, answered: false });
            }
        }
        if let Some(to) = state.released
            && !state.brokers[1 - to].crashed
        {
            actions.push(Action::Grant);
        }
    }

    fn next_state(&self, last_state: &State, action: Action) -> Option<State> {
        let mut state = last_state.clone();
        match action {
            Action::Open { by, heard } => self.open(&mut state, by, heard),
            Action::Take { by } => self.take(&mut state, by),
            Action::MakeDurable { by } => {
                let part = state.part(by);
                part.durable = part.log.len() as u8;
            }
            Action::Acknowledge { by } => {
                let next = state.acknowledged.len() as u8;
                let log = &state.part(by).log;
                let offset = log.iter().rposition(|batch| *batch == next).expect("looked at it");
                state.acknowledged.push(offset as u8);
            }
            Action::Commit { by } => {
                let part = state.part(by);
                state.committed = part.log[..part.durable.into()].to_vec();
            }
            Action::Prepare { by } => {
                let part = state.part(by);
                part.note = Some(Note { known: part.known, end: part.log.len() as u8 });
            }
            Action::Stop { by } => {
                state.bounds[MOVES] -= 1;
                let part = state.part(by);
                part.standing = Standing::Stopped;
                let now = Note { known: part.known, end: part.log.len() as u8 };
                part.note = Some(part.note.filter(|_| !self.on(NOTE_WHEN_STOPPED)).unwrap_or(now));
            }
            Action::HandOver { by } => {
                let part = state.part(by);
                let unknown = matches!(part.standing, Standing::Asking { unknown: true, .. });
                part.standing = Standing::Asking { unknown, waits: true };
                let note = part.note.expect("it has stopped");
                // Where it ended when it stopped.
                let epoch = part.epoch;
                let end = if self.on(NOTE_WHEN_STOPPED) { note.end } else { part.log.len() as u8 };
                if !unknown {
                    state.said_before = state.said;
                    state.said = Some(note);
                }
                state.flying.push(Request { by, epoch, end, note });
            }
            Action::Land { request, answered } => self.land(&mut state, request, answered),
            Action::TimeOut { by } => self.not_told(&mut state, by),
            Action::Grant => {
                let to = state.released.take()?;
                HandOver::give(&mut state, to);
            }
            Action::Drain { of } => {
                state.bounds[DRAINS] -= 1;
                state.brokers[of].draining = true;
            }
            Action::DrainNoMore { of } => state.brokers[of].draining = false,
            Action::Crash { of } => {
                if !state.brokers[of].fenced {
                    // Its fence follows.
                    state.bounds[DEATHS] = 1;
                }
                state.brokers[of].crashed = true;
            }
            Action::Fence { of } => {
                state.bounds[DEATHS] = 0;
                state.brokers[of].fenced = true;
            }
            Action::Recover { of } => HandOver::recover(&mut state, of),
        }
        (state != *last_state).then_some(state)
    }

    fn properties(&self) -> Vec<Property<HandOver>> {
        vec![
            Property::always("what was acknowledged is kept", |_, state: &State| {
                let log = state.log();
                (0..)
                    .zip(&state.acknowledged)
                    .all(|(batch, offset)| log.get(usize::from(*offset)) == Some(&batch))
            }),
            Property::always("no batch twice", |_, state: &State| {
                let log = state.log();
                (1..log.len()).all(|at| !log[..at].contains(&log[at]))
            }),
            Property::always("no producer is refused", |_, state: &State| !state.refused),
            Property::eventually("every batch is acknowledged", |model: &HandOver, state: &State| {
                state.acknowledged.len() == usize::from(model.bounds.batches)
            }),
            Property::sometimes("it moves", |_, state: &State| state.moved),
        ]
    }
}

const USUAL: [Bounds; 4] = [
    Bounds { batches: 3, moves: 1, late: 1, deaths: 0, drains: 0 },
    Bounds { batches: 3, moves: 2, late: 1, deaths: 0, drains: 0 },
    Bounds { batches: 2, moves: 1, late: 1, deaths: 1, drains: 0 },
    Bounds { batches: 2, moves: 1, late: 2, deaths: 0, drains: 1 },
];

const SCENARIOS: [Scenario; 4] = [
    Scenario {
        name: "a move",
        holds: "three batches, a hand-over, an answer that is lost or late; notes of every kind",
    },
    Scenario { name: "there and back", holds: "the same with two hand-overs" },
    Scenario {
        name: "a death",
        holds: "two batches, one hand-over, and one broker that crashes, is fenced while it lives, or both",
    },
    Scenario {
        name: "a drain",
        holds: "two batches, one hand-over, two answers that are lost or late, and a broker that takes nothing for a while",
    },
];

const RULES: &[Rule] = &[
    Rule {
        number: OWNER,
        name: "by the owner",
        source: "H1",
        without: "whoever owned it gives it away",
        shown_in: "a move",
        covered_by: &[OF_EPOCH],
    },
    Rule {
        number: OF_EPOCH,
        name: "of its leader epoch",
        source: "H1",
        without: "an entry of before gives away what has come back",
        shown_in: "there and back",
        covered_by: &[],
    },
    Rule {
        number: COMMITTED,
        name: "all committed",
        source: "H1",
        without: "what is not uploaded stays in the old leader's log",
        shown_in: "a move",
        covered_by: &[],
    },
    Rule {
        number: ONE_ENTRY,
        name: "one entry",
        source: "H2",
        without: "one entry takes it away and another one gives it",
        shown_in: "a death",
        covered_by: &[],
    },
    Rule {
        number: RECEIVER,
        name: "to who serves",
        source: "H3",
        without: "it is given to who is fenced",
        shown_in: "a death",
        covered_by: &[],
    },
    Rule {
        number: GO_ON,
        name: "whoever keeps it goes on",
        source: "H4, G3",
        without: "after a rejection it takes nothing",
        shown_in: "a drain",
        covered_by: &[],
    },
    Rule {
        number: STOP,
        name: "stop first",
        source: "G1",
        without: "batches are taken until the entry is there",
        shown_in: "a move",
        covered_by: &[],
    },
    Rule {
        number: ASK_AGAIN,
        name: "ask again",
        source: "G3",
        without: "without an answer it goes on",
        shown_in: "a move",
        covered_by: &[],
    },
    Rule {
        number: WHO_LEADS,
        name: "ask who leads",
        source: "G3",
        without: "a rejection is taken for “it stays”",
        shown_in: "a move",
        covered_by: &[],
    },
    Rule {
        number: LATER_DECIDES,
        name: "a later entry decides",
        source: "G3, L2",
        without: "a hand-over that is late is applied behind the one that was rejected",
        shown_in: "a drain",
        covered_by: &[],
    },
    Rule {
        number: REPLAY,
        name: "read the store",
        source: "G2",
        without: "without a note nothing is known of producers",
        shown_in: "a move",
        covered_by: &[],
    },
    Rule {
        number: HASH,
        name: "the note's hash",
        source: "N1",
        without: "whoever answers is believed",
        shown_in: "a move",
        covered_by: &[],
    },
    Rule {
        number: NOTE_END,
        name: "the note's end",
        source: "N1",
        without: "a note of another end is believed",
        shown_in: "a move",
        covered_by: &[NOTE_WHEN_STOPPED],
    },
    Rule {
        number: NOTE_WHEN_STOPPED,
        name: "a note of what has stopped",
        source: "N1, G1",
        without: "it is written before",
        shown_in: "a move",
        covered_by: &[NOTE_END],
    },
    Rule {
        number: OPENED_ANEW,
        name: "opened anew",
        source: "I6",
        without: "what comes back goes on as it was when it left",
        shown_in: "there and back",
        covered_by: &[],
    },
    Rule {
        number: REFUSE_AS_LEADER,
        name: "refuse as its leader",
        source: "produce",
        without: "a broker that was fenced refuses what it does not know",
        shown_in: "a death",
        covered_by: &[],
    },
];

impl Subject for HandOver {
    type Model = HandOver;

    const NAME: &'static str = "hand-over";

    fn rules() -> &'static [Rule] {
        RULES
    }

    fn scenarios() -> &'static [Scenario] {
        &SCENARIOS
    }

    fn model(scenario: usize, deep: bool, off: Off) -> HandOver {
        let mut bounds = USUAL[scenario];
        bounds.batches += u8::from(deep);
        HandOver { bounds, off }
    }
}
