//! The metadata log's numbers: who created one has committed it, for ever, although old ones are deleted (L1 to L5).
//!
//! ```text
//!   appender A ── create n+1 ──► meta/log/1 2 3 … ◄── create n+1 ── appender B
//!      │ sleeps at any point         ▲      ▲                          │
//!      └─ reads on, checks ──────────┘      └─ deleted, ascending, below a snapshot
//! ```
//!
//! An entry is its nonce. The *true* entry of a number is the first one that was created there. A number whose entry was deleted
//! can be created again, by a sleeper whose request is late: such an entry is false, and nobody may take it for the log.
//! A view is the run of entries that an appender has applied. Creating, reading and checking are steps of their own.
//!
//! That an entry names its predecessor (L4) is no switch: the other rules leave it nothing to do unless objects are damaged
//! or deleted from outside, which is not in here.
//!
//! # Properties
//! - no view holds a false entry, and none misses a true one below its end;
//! - what was reported as committed is a true entry, and no command is in the log twice;
//! - in the end each command has an outcome, and every view is the whole log.

use stateright::{Model, Property};

use crate::check::{Off, Rule, Scenario, Subject};

/// Numbers from 1.
const NUMBERS: usize = 5;

/// What can be switched off.
pub mod rule {
    pub const CREATE_ONLY: u8 = 0;
    pub const READ_BACK: u8 = 1;
    pub const STANDS_CREATED: u8 = 2;
    pub const CHECK_BEHIND: u8 = 3;
    pub const STANDS_READ: u8 = 4;
    pub const ASCENDING: u8 = 5;
    pub const COVERED: u8 = 6;
    pub const MARKER: u8 = 7;
    pub const STALE_UNKNOWN: u8 = 8;
}
use rule::*;

/// How much of what happens.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Commands of A, of B, and of C.
    commands: [u8; 3],
    /// Answers that are lost, with the request done or yet to come.
    late: u8,
    snapshots: u8,
}

/// An entry, by its nonce, and the one that it names as its predecessor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Entry {
    nonce: u8,
    predecessor: u8,
}

/// What an appender has applied: nonces from number 1 on.
type View = [u8; NUMBERS];

fn end(view: &View) -> usize {
    view.iter().take_while(|nonce| **nonce != 0).count()
}

/// The nonce of a view's last entry, 0 for none.
fn last(view: &View) -> u8 {
    end(view).checked_sub(1).map_or(0, |at| view[at])
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// Has a request under way.
    Creating(Entry),
    /// Does not know what became of it.
    Unknown(Entry),
    /// Told that it was created; has yet to look whether its predecessor stands.
    Created(Entry),
    /// Has read the entry behind its view; has yet to look whether its own last one stands.
    Read(Entry),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Appender {
    view: View,
    phase: Phase,
    /// Its own last entry stood when it was looked at.
    looked: bool,
    /// Commands begun; one at a time.
    begun: u8,
    /// The one under way has an outcome.
    settled: bool,
    /// Commands that were reported as committed, as bits.
    reported: u8,
    /// Requests on the way: number and entry, two at most.
    flying: [(u8, Entry); 2],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What is in the bucket, from number 1.
    store: [Entry; NUMBERS],
    /// The first entry of each number.
    truth: View,
    /// The newest snapshot: a view.
    snapshot: View,
    trimmed: bool,
    appenders: [Appender; 3],
    late: u8,
    snapshots: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Look { by: usize },
    Create { by: usize },
    Land { by: usize, request: usize, answered: bool },
    TimeOut { by: usize },
    ReadBack { by: usize },
    CheckCreated { by: usize },
    ReadOn { by: usize },
    CheckRead { by: usize },
    Snapshot { by: usize },
    Delete { number: usize },
}

#[derive(Debug)]
pub struct Numbers {
    bounds: Bounds,
    off: Off,
}

impl Numbers {
    fn on(&self, rule: u8) -> bool {
        !self.off.holds(rule)
    }

    /// Whether the last entry of a view is where it was. Before the first entry: whether none was deleted.
    fn stands(&self, state: &State, view: &View) -> bool {
        match end(view) {
            0 => !state.trimmed || !self.on(MARKER),
            number => state.store[number - 1].nonce == view[number - 1],
        }
    }

    /// Unique for each command and number, so that an entry knows its own command.
    fn nonce(by: usize, command: u8, number: usize) -> u8 {
        ((by as u8) << 6 | command << 3 | number as u8) + 1
    }

    fn command(nonce: u8) -> u8 {
        (nonce - 1) >> 3
    }

    /// From the newest snapshot. What was under way may have been done, and is reported as unknown.
    fn reload(&self, state: &mut State, by: usize) {
        state.appenders[by].view = state.snapshot;
        state.appenders[by].phase = Phase::Idle;
        state.appenders[by].settled |= self.on(STALE_UNKNOWN);
    }

    /// `entry` is behind the view of `by`, and counts.
    fn apply(state: &mut State, by: usize, entry: Entry) {
        let appender = &mut state.appenders[by];
        let at = end(&appender.view);
        appender.view[at] = entry.nonce;
        appender.phase = Phase::Idle;
        let command = Numbers::command(entry.nonce);
        // Its own, whatever it took to learn of it.
        if usize::from(command >> 3) == by && command & 7 == appender.begun.wrapping_sub(1) {
            appender.settled = true;
            appender.reported |= 1 << (command & 7);
        }
    }

    fn land(&self, state: &mut State, by: usize, request: usize, answered: bool) {
        let (number, entry) = state.appenders[by].flying[request];
        state.appenders[by].flying[request] = (0, Entry::default());
        state.appenders[by].flying.sort_by_key(|(number, _)| *number == 0);
        let place = &mut state.store[usize::from(number) - 1];
        let created = place.nonce == 0 || !self.on(CREATE_ONLY);
        if created {
            *place = entry;
            let truth = &mut state.truth[usize::from(number) - 1];
            *truth = if *truth == 0 { entry.nonce } else { *truth };
        }
        if state.appenders[by].phase != Phase::Creating(entry) {
            return;
        }
        state.late -= u8::from(!answered);
        let taken_for_ours = !created && !self.on(READ_BACK);
        state.appenders[by].phase = match answered && (created || taken_for_ours) {
            true => Phase::Created(entry),
            false => Phase::Unknown(entry),
        };
    }

    fn read_back(&self, state: &mut State, by: usize) {
        let Appender { phase: Phase::Unknown(entry), view, .. } = state.appenders[by] else { return };
        let at = end(&view);
        let found = state.store[at];
        if found.nonce == entry.nonce {
            state.appenders[by].phase = Phase::Created(entry);
        } else if found.nonce != 0 {
            state.appenders[by].phase = Phase::Read(found);
        } else if !self.stands(state, &view) {
            self.reload(state, by);
        } else if state.appenders[by].flying.iter().all(|(number, _)| *number == 0) {
            // Nothing of it is under way: the same once more.
            state.appenders[by].phase = Phase::Creating(entry);
            state.appenders[by].flying[0] = (at as u8 + 1, entry);
        }
    }
}

impl Model for Numbers {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let appender = Appender {
            view: [0; NUMBERS],
            phase: Phase::Idle,
            looked: false,
            begun: 0,
            settled: true,
            reported: 0,
            flying: [(0, Entry::default()); 2],
        };
        vec![State {
            store: [Entry::default(); NUMBERS],
            truth: [0; NUMBERS],
            snapshot: [0; NUMBERS],
            trimmed: false,
            appenders: [appender; 3],
            late: self.bounds.late,
            snapshots: self.bounds.snapshots,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (by, appender) in state.appenders.iter().enumerate() {
            for (request, (number, _)) in appender.flying.iter().enumerate() {
                if *number > 0 {
                    actions.push(Action::Land { by, request, answered: true });
                    if state.late > 0 && matches!(appender.phase, Phase::Creating(_)) {
                        actions.push(Action::Land { by, request, answered: false });
                    }
                }
            }
            match appender.phase {
                Phase::Idle => {
                    let more = appender.begun < self.bounds.commands[by] || !appender.settled;
                    let room = end(&appender.view) < NUMBERS && appender.flying[1].0 == 0;
                    if more && room && !self.on(CHECK_BEHIND) && !appender.looked {
                        actions.push(Action::Look { by });
                    } else if more && room {
                        actions.push(Action::Create { by });
                    }
                    if end(&appender.view) < NUMBERS {
                        actions.push(Action::ReadOn { by });
                    }
                    if state.snapshots > 0 && end(&appender.view) > end(&state.snapshot) {
                        actions.push(Action::Snapshot { by });
                    }
                }
                Phase::Creating(_) if state.late > 0 => actions.push(Action::TimeOut { by }),
                Phase::Creating(_) => {}
                Phase::Unknown(_) => actions.push(Action::ReadBack { by }),
                Phase::Created(_) => actions.push(Action::CheckCreated { by }),
                Phase::Read(_) => actions.push(Action::CheckRead { by }),
            }
        }
        let floor = if self.on(COVERED) { end(&state.snapshot) } else { end(&state.truth) };
        let present: Vec<usize> = (1..floor).filter(|number| state.store[number - 1].nonce != 0).collect();
        let deletable = if self.on(ASCENDING) { present.len().min(1) } else { present.len() };
        actions.extend(present[..deletable].iter().map(|number| Action::Delete { number: *number }));
    }

    fn next_state(&self, last_state: &State, action: Action) -> Option<State> {
        let mut state = last_state.clone();
        match action {
            Action::Look { by } => {
                state.appenders[by].looked = true;
                let view = state.appenders[by].view;
                if !self.stands(&state, &view) {
                    self.reload(&mut state, by);
                    state.appenders[by].looked = false;
                }
            }
            Action::Create { by } => {
                let appender = &mut state.appenders[by];
                appender.begun += u8::from(appender.settled);
                appender.settled = false;
                let number = end(&appender.view) + 1;
                let nonce = Numbers::nonce(by, appender.begun - 1, number);
                let entry = Entry { nonce, predecessor: last(&appender.view) };
                let request = usize::from(appender.flying[0].0 != 0);
                appender.flying[request] = (number as u8, entry);
                appender.phase = Phase::Creating(entry);
            }
            Action::Land { by, request, answered } => self.land(&mut state, by, request, answered),
            Action::TimeOut { by } => {
                let Phase::Creating(entry) = state.appenders[by].phase else { return None };
                state.late -= 1;
                state.appenders[by].phase = Phase::Unknown(entry);
            }
            Action::ReadBack { by } => self.read_back(&mut state, by),
            Action::CheckCreated { by } => {
                let Appender { phase: Phase::Created(entry), view, .. } = state.appenders[by] else {
                    return None;
                };
                let checked = self.on(STANDS_CREATED) && self.on(CHECK_BEHIND);
                if checked && !self.stands(&state, &view) {
                    self.reload(&mut state, by);
                } else {
                    Numbers::apply(&mut state, by, entry);
                }
                state.appenders[by].looked = false;
            }
            Action::ReadOn { by } => {
                let view = state.appenders[by].view;
                let found = state.store[end(&view)];
                if found.nonce != 0 {
                    state.appenders[by].phase = Phase::Read(found);
                } else if !self.stands(&state, &view) {
                    self.reload(&mut state, by);
                }
            }
            Action::CheckRead { by } => {
                let Appender { phase: Phase::Read(found), view, .. } = state.appenders[by] else {
                    return None;
                };
                let follows = found.predecessor == last(&view);
                if !follows || self.on(STANDS_READ) && !self.stands(&state, &view) {
                    self.reload(&mut state, by);
                } else {
                    Numbers::apply(&mut state, by, found);
                }
                state.appenders[by].looked = false;
            }
            Action::Snapshot { by } => {
                state.snapshots -= 1;
                state.snapshot = state.appenders[by].view;
            }
            Action::Delete { number } => {
                state.store[number - 1] = Entry::default();
                state.trimmed = true;
            }
        }
        (state != *last_state).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Numbers>> {
        vec![
            Property::always("no view holds a false entry", |_, state: &State| {
                let views = state.appenders.iter().map(|appender| &appender.view).chain([&state.snapshot]);
                views.into_iter().all(|view| view[..end(view)] == state.truth[..end(view)])
            }),
            Property::always("what was reported is in the log, once", |_, state: &State| {
                let commands: Vec<u8> =
                    state.truth[..end(&state.truth)].iter().map(|nonce| Numbers::command(*nonce)).collect();
                let once = (1..commands.len()).all(|at| !commands[..at].contains(&commands[at]));
                once && state.appenders.iter().enumerate().all(|(by, appender)| {
                    (0..8u8)
                        .filter(|command| appender.reported & 1 << command != 0)
                        .all(|command| commands.contains(&((by as u8) << 3 | command)))
                })
            }),
            Property::eventually(
                "every command has an outcome, every view comes to the end",
                |model: &Numbers, state: &State| {
                    let done = |by: usize| {
                        let Appender { begun, settled, .. } = state.appenders[by];
                        settled && begun == model.bounds.commands[by]
                    };
                    let still = state.appenders.iter().all(|appender| appender.flying[0].0 == 0);
                    (0..3).all(done)
                        && still
                        && state.appenders.iter().all(|appender| appender.view == state.truth)
                },
            ),
            Property::sometimes("a number is created again", |_, state: &State| {
                let created = |number: &usize| {
                    let nonce = state.store[*number].nonce;
                    nonce != 0 && nonce != state.truth[*number]
                };
                (0..NUMBERS).any(|number| created(&number))
            }),
        ]
    }
}

const USUAL: [Bounds; 2] = [
    Bounds { commands: [1, 2, 0], late: 1, snapshots: 1 },
    Bounds { commands: [1, 3, 0], late: 1, snapshots: 2 },
];

const SCENARIOS: [Scenario; 2] = [
    Scenario {
        name: "a sleeper",
        holds: "one command of A, two of B, a reader C, a late request, a snapshot",
    },
    Scenario {
        name: "a long sleep",
        holds: "one command of A, three of B, a reader C, a late request, two snapshots",
    },
];

const RULES: &[Rule] = &[
    Rule {
        number: CREATE_ONLY,
        name: "create only",
        source: "L6",
        without: "an entry overwrites what is there",
        shown_in: "a sleeper",
        covered_by: &[],
    },
    Rule {
        number: READ_BACK,
        name: "read back",
        source: "L3",
        without: "“exists already” is taken for one's own success",
        shown_in: "a sleeper",
        covered_by: &[],
    },
    Rule {
        number: STANDS_CREATED,
        name: "a create is checked",
        source: "L5",
        without: "a create that succeeded counts as it is",
        shown_in: "a sleeper",
        covered_by: &[],
    },
    Rule {
        number: CHECK_BEHIND,
        name: "checked behind it",
        source: "L5",
        without: "the predecessor is looked at before the create",
        shown_in: "a sleeper",
        covered_by: &[],
    },
    Rule {
        number: STANDS_READ,
        name: "a read is checked",
        source: "L5",
        without: "an entry that follows counts as it is",
        shown_in: "a sleeper",
        covered_by: &[],
    },
    Rule {
        number: ASCENDING,
        name: "ascending",
        source: "L5",
        without: "entries are deleted in any order",
        shown_in: "a sleeper",
        covered_by: &[],
    },
    Rule {
        number: COVERED,
        name: "covered",
        source: "L5",
        without: "entries are deleted that no snapshot covers",
        shown_in: "a sleeper",
        covered_by: &[],
    },
    Rule {
        number: MARKER,
        name: "marker",
        source: "L5",
        without: "nothing says that the first entries were deleted",
        shown_in: "a sleeper",
        covered_by: &[],
    },
    Rule {
        number: STALE_UNKNOWN,
        name: "a stale view knows nothing",
        source: "L3, L5",
        without: "what was under way when a view turns out stale is tried again",
        shown_in: "a sleeper",
        covered_by: &[],
    },
];

impl Subject for Numbers {
    type Model = Numbers;

    const NAME: &'static str = "metadata log";

    fn rules() -> &'static [Rule] {
        RULES
    }

    fn scenarios() -> &'static [Scenario] {
        &SCENARIOS
    }

    fn model(scenario: usize, deep: bool, off: Off) -> Numbers {
        let mut bounds = USUAL[scenario];
        bounds.commands[0] += u8::from(deep);
        Numbers { bounds, off }
    }
}
