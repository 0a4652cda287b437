//! The object WAL's fail-over: O1 to O6, with everything that can be late.
//!
//! ```text
//!   writer W (soon a zombie) ── PUT, hedged, timed out, late ──► slots 0 1 2 … ◄── seal ── recoverers A, B
//!        │ uploads, trims, deletes its own                         ▲                          │ fence, read T, walk,
//!        │ merges                                                  │ deletes                  │ adopt, complete
//!        └────────► metadata: T, fence, content of the stream ◄── collector ◄─────────────────┘
//!                              └─ completed: a new owner appends, merges; or the next life N opens a log, and dies too
//! ```
//!
//! A metadata command is one step: the log makes its number unique, and validation is deterministic (`numbers` is the model
//! of the log itself). A command is *issued* with what its issuer knew and carried out at any later time. There is one stream.
//! Slot *k* of a life holds its records *k·r* to *(k+1)·r*; a record belongs to one offset. Nothing in here knows time, but
//! for one thing: whether W's last poll of the metadata is longer ago than its lease.
//!
//! W may stop at any point for ever: that is every history in which it does nothing more. So a crash of its process
//! matters only for what it would have done to be heard of, and is an action of its own where it can.
//!
//! # Properties
//! - what was acknowledged is at its offset in the stream as soon as its life is recovered, and nothing else ever is;
//! - no record is in the stream twice, and none at another offset than its own;
//! - what the metadata names is in the bucket;
//! - in the end every life is recovered, as long as one recoverer lives.

mod choices;
mod recovery;
mod rules;

use stateright::{Model, Property};

use crate::check::Off;
use rules::rule::*;

/// Places for slots of a life; the last one is only ever sealed.
const PLACES: usize = 5;
/// The writer W, and the next life of its broker.
const W: usize = 0;
const N: usize = 1;

/// Ids of objects: slots from 0, `PLACES` for each life; then these.
const UPLOADED: u8 = 10;
const MERGED_BY_W: u8 = 13;
const MERGED: u8 = 14;
/// Whatever the new owner wrote by itself.
const OWN: u8 = 15;

/// Values of records: life, whether its slot was cut anew, number.
fn value(life: usize, recut: bool, record: u8) -> u8 {
    (life as u8) << 4 | u8::from(recut) << 3 | record
}
const OF_NEW_OWNER: u8 = 0x20;

/// How much of what happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    slots: u8,
    records_per_slot: u8,
    /// Requests that are late, doubled, or whose answer is lost.
    late: u8,
    writer_dies: bool,
    uploads: u8,
    low_water: bool,
    merges_by_writer: bool,
    recoverers: usize,
    recoverers_die: u8,
    /// Answers of the metadata log to recoverers that are lost.
    answers_lost: u8,
    /// Recoveries commit what they have found so far, wherever they like.
    two_entries: bool,
    appends: u8,
    merges: bool,
    collects: u8,
    clock: bool,
    /// Slots of the next life of the same broker.
    next_life: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cell {
    Free,
    Data { life: u8, recut: bool },
    Seal,
}

/// A slot as its writer knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Put {
    Unsent,
    Flying,
    /// Told that the object exists.
    Exists,
    /// Timed out, or answered with an error.
    Unknown,
    Durable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Life {
    fenced: bool,
    recovered: bool,
    trim: u8,
    low_water: u8,
    /// Offset of its first record.
    base: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Nobody,
    Life(u8),
    /// A broker that stays.
    Healthy,
}

/// Records `[from, to)`, uploaded, on their way to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pending {
    counter: u8,
    from: u8,
    to: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Writer {
    runs: bool,
    sent: u8,
    puts: [Put; PLACES],
    /// Requests on the way, with the first content of the slot and with the second.
    flying: [[u8; 2]; PLACES],
    /// Slots that were cut anew.
    recut: u8,
    /// Slots that were acknowledged, by content.
    acked: [u8; 2],
    /// Records of its own that it knows to be committed.
    committed: u8,
    trim: u8,
    counter: u8,
    pending: Option<Pending>,
}

/// What a recoverer has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Walk {
    /// T as it was read.
    from: u8,
    /// The committed end, read together with it.
    end: u8,
    at: u8,
    /// Slots found, and those of them that were cut anew.
    found: u8,
    recut: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// Has read T before the fence.
    Early(Walk),
    Walking(Walk),
    /// The head of the walk looked free.
    AtFree(Walk),
    Committing(Walk, bool),
    Done,
    /// Found something that cannot be: needs an operator.
    Stuck,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Recoverer {
    of: u8,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Collector {
    Idle,
    /// Holds a view: what may go by it.
    Looked(u16),
    Deleting(u8),
}

/// A place in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Part {
    value: u8,
    object: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    cells: [[Cell; PLACES]; 2],
    /// Data objects in the bucket.
    data: u16,
    lives: [Life; 2],
    content: Vec<Part>,
    owner: Owner,
    writers: [Writer; 2],
    /// Whether N is registered, and where its slots begin if keys carry no epoch.
    next_life: Option<u8>,
    recoverers: [Recoverer; 2],
    collector: Collector,
    /// W's last poll is longer ago than its lease.
    lapsed: bool,
    merging: bool,
    trimmed_ahead: bool,
    left: Left,
}

/// What may yet happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Left {
    late: u8,
    uploads: u8,
    deaths: u8,
    answers: u8,
    appends: u8,
    collects: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Send { life: usize },
    Hedge { life: usize, slot: u8 },
    TimeOut { life: usize, slot: u8 },
    Land { life: usize, slot: u8, recut: bool, answered: bool },
    ReadBack { life: usize, slot: u8 },
    CutAnew { life: usize, slot: u8 },
    Acknowledge { life: usize, slot: u8 },
    WriterDies,
    LeaseLapses,
    Upload { to: u8 },
    TrimAhead,
    Commit,
    DeleteOwn { slot: u8 },
    RaiseLowWater,
    WriteMerged,
    SwapMerged,
    ReadTrimEarly { by: usize },
    FenceAndReadTrim { by: usize },
    Walk { by: usize },
    CreateSeal { by: usize },
    AdoptSoFar { by: usize },
    Adopt { by: usize, answered: bool },
    RecovererDies { by: usize },
    OpenNextLife,
    AppendByNewOwner,
    MergeByNewOwner,
    CollectorLooks,
    CollectorCondemns { object: u8 },
    CollectorDeletes,
}

#[derive(Debug)]
pub struct Object {
    bounds: Bounds,
    off: Off,
}

impl Object {
    fn on(&self, rule: u8) -> bool {
        !self.off.holds(rule)
    }

    /// Where slot `slot` of `life` lies.
    fn place(&self, state: &State, life: usize, slot: u8) -> (usize, usize) {
        match state.next_life {
            Some(first) if life == N && !self.on(EPOCH_IN_KEY) => {
                (W, usize::from((first + slot).min(PLACES as u8 - 1)))
            }
            _ => (life, usize::from(slot)),
        }
    }

    fn cell(&self, state: &State, life: usize, slot: u8) -> Cell {
        let (run, place) = self.place(state, life, slot);
        state.cells[run][place]
    }

    fn slots_of(&self, life: usize) -> u8 {
        if life == W { self.bounds.slots } else { self.bounds.next_life }
    }

    /// The records of a slot.
    fn records(&self, slot: u8) -> std::ops::Range<u8> {
        slot * self.bounds.records_per_slot..(slot + 1) * self.bounds.records_per_slot
    }

    fn is_live(&self, state: &State, life: usize) -> bool {
        !self.on(FENCED_REJECTED) || !(state.lives[life].fenced || state.lives[life].recovered)
    }

    /// The end of what W has acknowledged without a gap, in records.
    fn acked_records(&self, state: &State) -> u8 {
        let acked = state.writers[W].acked;
        (acked[0] | acked[1]).trailing_ones() as u8 * self.bounds.records_per_slot
    }

    /// T once everything below `record` is committed.
    fn trim_for(&self, record: u8) -> u8 {
        let per_slot = self.bounds.records_per_slot;
        if self.on(TRIM_LOWEST) { record / per_slot } else { record.div_ceil(per_slot) }
    }

    fn low_water(&self, writer: &Writer) -> u8 {
        match writer.pending {
            Some(pending) if self.on(LOW_WATER_IN_FLIGHT) => pending.counter,
            _ => writer.counter,
        }
    }

    fn named(&self, state: &State, object: u8) -> bool {
        state.content.iter().any(|part| part.object == object)
    }

    fn exists(&self, state: &State, object: u8) -> bool {
        match object {
            OWN => true,
            slot if slot < UPLOADED => {
                let (life, slot) = (usize::from(slot) / PLACES, slot % PLACES as u8);
                matches!(self.cell(state, life, slot), Cell::Data { .. })
            }
            data => state.data & 1 << data != 0,
        }
    }

    /// What may go by this state: the collector's rules.
    fn judge(&self, state: &State) -> u16 {
        let mut may_go = 0;
        for object in 0..OWN {
            if self.named(state, object) && self.on(NAMED_STAYS) {
                continue;
            }
            let goes = if object < UPLOADED {
                let (life, slot) = (usize::from(object) / PLACES, object % PLACES as u8);
                let standing = &state.lives[life];
                let heard_of = life == W || state.next_life.is_some();
                if !heard_of {
                    !self.on(UNHEARD)
                } else {
                    standing.recovered
                        || standing.fenced && slot < standing.trim
                        || !self.on(SLOT_MAY_BE_READ)
                }
            } else if object == MERGED {
                false
            } else {
                let below = object < MERGED_BY_W && object - UPLOADED < state.lives[W].low_water;
                state.lives[W].recovered || below || !self.on(DATA_MAY_BE_NAMED)
            };
            may_go |= u16::from(goes) << object;
        }
        may_go
    }

    fn land(&self, state: &mut State, life: usize, slot: u8, recut: bool, answered: bool) {
        let (run, place) = self.place(state, life, slot);
        let created = state.cells[run][place] == Cell::Free || !self.on(CREATE_ONLY);
        if created {
            state.cells[run][place] = Cell::Data { life: life as u8, recut };
        }
        let writer = &mut state.writers[life];
        writer.flying[usize::from(slot)][usize::from(recut)] -= 1;
        let asked = writer.recut & 1 << slot != 0;
        let put = &mut writer.puts[usize::from(slot)];
        if !writer.runs || *put != Put::Flying || recut != asked {
            return;
        }
        *put = match (answered, created) {
            (false, _) => {
                state.left.late -= 1;
                Put::Unknown
            }
            (true, true) => Put::Durable,
            (true, false) if !self.on(READ_BACK) => Put::Durable,
            (true, false) => Put::Exists,
        };
    }

    fn read_back(&self, state: &mut State, life: usize, slot: u8) {
        let cell = self.cell(state, life, slot);
        let writer = &mut state.writers[life];
        let asked = writer.recut & 1 << slot != 0;
        let put = &mut writer.puts[usize::from(slot)];
        match cell {
            Cell::Data { life: of, recut }
                if usize::from(of) == life && (recut == asked || !self.on(OWN_NONCE)) =>
            {
                *put = Put::Durable;
            }
            Cell::Free if *put == Put::Unknown => {
                *put = Put::Flying;
                writer.flying[usize::from(slot)][usize::from(asked)] += 1;
            }
            // Somebody else's, a seal, or gone although it was there.
            Cell::Data { .. } | Cell::Seal | Cell::Free => writer.runs = false,
        }
    }

    fn commit(&self, state: &mut State) {
        let Some(Pending { counter, from, to }) = state.writers[W].pending.take() else { return };
        let life = &state.lives[W];
        let owns = state.owner == Owner::Life(W as u8) || !self.on(OWNER);
        let exact = usize::from(from) == state.content.len() || !self.on(EXACT);
        let honoured = counter >= life.low_water || !self.on(LOW_WATER_HONOURED);
        let trim = self.trim_for(to);
        if !self.is_live(state, W)
            || !owns
            || !exact
            || !honoured
            || trim < life.trim && self.on(TRIM_UNCHANGED)
        {
            state.writers[W].runs = false;
            return;
        }
        let recut = state.writers[W].recut;
        let per_slot = self.bounds.records_per_slot;
        state.content.extend((from..to).map(|record| Part {
            value: value(W, recut & 1 << (record / per_slot) != 0, record),
            object: UPLOADED + counter,
        }));
        state.lives[W].trim = trim.max(state.lives[W].trim);
        state.writers[W].committed = to;
        state.writers[W].trim = trim;
        state.trimmed_ahead = false;
    }

    fn open_next_life(&self, state: &mut State) {
        let seal = state.cells[W].iter().position(|cell| *cell == Cell::Seal);
        state.next_life = Some(seal.map_or(0, |at| at as u8 + 1));
        state.lives[N].base = state.content.len() as u8;
        state.owner = Owner::Life(N as u8);
        state.writers[N].runs = true;
        // B stays to recover it.
        state.recoverers[1] = Recoverer { of: N as u8, phase: Phase::Idle };
    }

    fn own_action(&self, state: &mut State, action: Action) {
        let puts = |state: &mut State, life: usize, slot: u8, put: Put| {
            state.writers[life].puts[usize::from(slot)] = put;
        };
        match action {
            Action::Send { life } => {
                let slot = state.writers[life].sent;
                state.writers[life].sent += 1;
                state.writers[life].flying[usize::from(slot)][0] += 1;
                puts(state, life, slot, Put::Flying);
            }
            Action::Hedge { life, slot } => {
                state.left.late -= 1;
                let recut = state.writers[life].recut >> slot & 1;
                state.writers[life].flying[usize::from(slot)][usize::from(recut)] += 1;
            }
            Action::TimeOut { life, slot } => {
                state.left.late -= 1;
                puts(state, life, slot, Put::Unknown);
            }
            Action::Land { life, slot, recut, answered } => self.land(state, life, slot, recut, answered),
            Action::ReadBack { life, slot } => self.read_back(state, life, slot),
            Action::CutAnew { life, slot } => {
                state.writers[life].recut |= 1 << slot;
                state.writers[life].flying[usize::from(slot)][1] += 1;
                puts(state, life, slot, Put::Flying);
            }
            Action::Acknowledge { life, slot } => {
                let recut = state.writers[life].recut >> slot & 1;
                state.writers[life].acked[usize::from(recut)] |= 1 << slot;
            }
            Action::WriterDies => state.writers[W].runs = false,
            Action::LeaseLapses => state.lapsed = true,
            Action::Upload { to } => {
                let writer = &mut state.writers[W];
                writer.pending = Some(Pending { counter: writer.counter, from: writer.committed, to });
                state.data |= 1 << (UPLOADED + writer.counter);
                writer.counter += 1;
                state.left.uploads -= 1;
            }
            Action::TrimAhead => {
                let to = state.writers[W].pending.map_or(0, |pending| self.trim_for(pending.to));
                state.trimmed_ahead = true;
                if self.is_live(state, W) {
                    state.lives[W].trim = to.max(state.lives[W].trim);
                }
            }
            Action::Commit => self.commit(state),
            Action::DeleteOwn { slot } => state.cells[W][usize::from(slot)] = Cell::Free,
            Action::RaiseLowWater => state.lives[W].low_water = self.low_water(&state.writers[W]),
            Action::WriteMerged => {
                state.merging = true;
                state.data |= 1 << MERGED_BY_W;
            }
            Action::SwapMerged => {
                state.merging = false;
                if self.is_live(state, W) {
                    rename(state, |object| object == UPLOADED, MERGED_BY_W);
                } else {
                    state.writers[W].runs = false;
                }
            }
            _ => {}
        }
    }
}

/// One object in the place of others, wherever these are named.
fn rename(state: &mut State, sources: impl Fn(u8) -> bool, object: u8) {
    state.content.iter_mut().filter(|part| sources(part.object)).for_each(|part| part.object = object);
}

impl Model for Object {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let life = Life { fenced: false, recovered: false, trim: 0, low_water: 0, base: 0 };
        let writer = Writer {
            runs: true,
            sent: 0,
            puts: [Put::Unsent; PLACES],
            flying: [[0; 2]; PLACES],
            recut: 0,
            acked: [0; 2],
            committed: 0,
            trim: 0,
            counter: 0,
            pending: None,
        };
        let Bounds { late, uploads, recoverers_die, answers_lost, appends, collects, .. } = self.bounds;
        let second = if self.bounds.recoverers > 1 { Phase::Idle } else { Phase::Dead };
        vec![State {
            cells: [[Cell::Free; PLACES]; 2],
            data: 0,
            lives: [life; 2],
            content: Vec::new(),
            owner: Owner::Life(W as u8),
            writers: [writer, Writer { runs: false, ..writer }],
            next_life: None,
            recoverers: [
                Recoverer { of: W as u8, phase: Phase::Idle },
                Recoverer { of: W as u8, phase: second },
            ],
            collector: Collector::Idle,
            lapsed: false,
            merging: false,
            trimmed_ahead: false,
            left: Left { late, uploads, deaths: recoverers_die, answers: answers_lost, appends, collects },
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.writer_actions(state, W, actions);
        self.writer_actions(state, N, actions);
        self.upload_actions(state, actions);
        if self.bounds.writer_dies && state.writers[W].runs {
            actions.push(Action::WriterDies);
        }
        if self.bounds.clock && !state.lapsed {
            actions.push(Action::LeaseLapses);
        }
        (0..self.bounds.recoverers).for_each(|by| self.recovery_actions(state, by, actions));
        if self.bounds.next_life > 0 && state.lives[W].recovered && state.next_life.is_none() {
            actions.push(Action::OpenNextLife);
        }
        if state.owner == Owner::Healthy {
            if state.left.appends > 0 {
                actions.push(Action::AppendByNewOwner);
            }
            if self.bounds.merges && state.content.iter().any(|part| part.object < UPLOADED) {
                actions.push(Action::MergeByNewOwner);
            }
        }
        self.collector_actions(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::ReadTrimEarly { by } => {
                let walk = self.start_walk(&state, usize::from(state.recoverers[by].of));
                state.recoverers[by].phase = Phase::Early(walk);
            }
            Action::FenceAndReadTrim { by } => self.fence(&mut state, by),
            Action::Walk { by } => {
                let Recoverer { of, phase: Phase::Walking(walk) } = state.recoverers[by] else { return None };
                let of = usize::from(of);
                let cell =
                    if usize::from(walk.at) < PLACES { self.cell(&state, of, walk.at) } else { Cell::Seal };
                state.recoverers[by].phase = self.see(&state, of, walk, cell);
            }
            Action::CreateSeal { by } => {
                let Recoverer { of, phase: Phase::AtFree(walk) } = state.recoverers[by] else { return None };
                let of = usize::from(of);
                let (run, place) = self.place(&state, of, walk.at);
                let found = state.cells[run][place];
                state.recoverers[by].phase = if found == Cell::Free || !self.on(CREATE_ONLY) {
                    state.cells[run][place] = Cell::Seal;
                    self.gather(&state, of, walk, true)
                } else if self.on(SEAL_LOST_READS) {
                    self.see(&state, of, walk, found)
                } else {
                    self.gather(&state, of, walk, true)
                };
            }
            Action::AdoptSoFar { by } => {
                let Recoverer { of, phase: Phase::Walking(walk) } = state.recoverers[by] else { return None };
                state.recoverers[by].phase = self.gather(&state, usize::from(of), walk, false);
            }
            Action::Adopt { by, answered } => self.adopt(&mut state, by, answered),
            Action::RecovererDies { by } => {
                state.left.deaths -= 1;
                state.recoverers[by].phase = Phase::Dead;
            }
            Action::OpenNextLife => self.open_next_life(&mut state),
            Action::AppendByNewOwner => {
                state.left.appends -= 1;
                let value = OF_NEW_OWNER | state.left.appends;
                state.content.push(Part { value, object: OWN });
            }
            Action::MergeByNewOwner => {
                state.data |= 1 << MERGED;
                rename(&mut state, |object| object < UPLOADED, MERGED);
            }
            Action::CollectorLooks => state.collector = Collector::Looked(self.judge(&state)),
            Action::CollectorCondemns { object } => {
                state.left.collects -= 1;
                state.collector = Collector::Deleting(object);
            }
            Action::CollectorDeletes => {
                let Collector::Deleting(object) = state.collector else { return None };
                state.collector = Collector::Idle;
                if object < UPLOADED {
                    let (life, slot) = (usize::from(object) / PLACES, object % PLACES as u8);
                    let (run, place) = self.place(&state, life, slot);
                    state.cells[run][place] = Cell::Free;
                } else {
                    state.data &= !(1 << object);
                }
            }
            own => self.own_action(&mut state, own),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Object>> {
        vec![
            Property::always("what was acknowledged is kept", |model: &Object, state: &State| {
                [W, N].iter().all(|life| model.keeps(state, *life))
            }),
            Property::always("no record twice", |_, state: &State| {
                let parts = &state.content;
                (1..parts.len()).all(|at| parts[..at].iter().all(|before| before.value != parts[at].value))
            }),
            Property::always("every record at its offset", |_, state: &State| {
                state.content.iter().enumerate().all(|(offset, part)| {
                    let life = usize::from(part.value >> 4);
                    life > N || usize::from(state.lives[life].base + (part.value & 7)) == offset
                })
            }),
            Property::always("what is named is there", |model: &Object, state: &State| {
                state.content.iter().all(|part| model.exists(state, part.object))
            }),
            Property::eventually("every life is recovered", |model: &Object, state: &State| {
                state.lives[W].recovered && (model.bounds.next_life == 0 || state.lives[N].recovered)
            }),
            Property::sometimes("a zombie's slot is adopted", |_, state: &State| {
                state.lives[W].recovered && state.content.iter().any(|part| part.object < UPLOADED)
            }),
        ]
    }
}

impl Object {
    /// Whether what `life` acknowledged is where it belongs, or can still get there.
    fn keeps(&self, state: &State, life: usize) -> bool {
        let base = state.lives[life].base;
        let acked = state.writers[life].acked;
        (0..self.slots_of(life)).all(|slot| {
            [false, true].iter().filter(|recut| acked[usize::from(**recut)] & 1 << slot != 0).all(|recut| {
                self.records(slot).all(|record| match state.content.get(usize::from(base + record)) {
                    Some(part) => part.value == value(life, *recut, record),
                    None => !state.lives[life].recovered,
                })
            })
        })
    }
}
