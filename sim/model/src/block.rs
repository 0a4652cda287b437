//! The block WAL's fail-over on a volume that several hosts reach: B1 (b) and B2.
//!
//! ```text
//!   writer W ──write──► queue of its host ──► device's cache ──flush──► medium ◄── read ── recoverers A, B
//!      │ acks while its right holds: L from when a poll began                                 │ challenge, fence
//!      │ uploads, trims                                                                       │ read from T as far as there is anything
//!      │                                                                                      │ wait L and a margin, read on to the end
//!      └──────────► metadata: T, fence, content of the stream ◄── commit ─────────────────────┘
//!                                 └─ recovered, and W's host cut off: N formats the volume, writes, and dies too
//! ```
//!
//! A frame is one record and has one place in the ring: its absolute position modulo the ring. A write is queued on the
//! host, reaches the device's cache at any later time, whether its process lives or not, and is on the medium after a
//! flush. When the power goes what is in the cache is there, torn, or gone, for each place by itself. Reads see the cache.
//!
//! A recoverer may read ahead: what is in the volume behind the fence, while W may still write and acknowledge, is committed as
//! a part, and T moves to the last record of it. The end is found behind the wait, in a pass that reads from there.
//!
//! Time is counted in ticks where a scenario has a clock: L is two, the margin one. W's clock may fall behind by one tick (a bounded
//! rate). Where a scenario has none, "the wait is over" is one step, after which W's right is over too.
//!
//! # Properties
//! - what was acknowledged is at its offset in the stream as soon as its life is recovered, and nothing else ever is;
//! - no record is in the stream twice, and none at another offset than its own; none is torn;
//! - nothing of a life joins the stream once the next life has opened it;
//! - what the metadata names is in the bucket;
//! - in the end every life is recovered, as long as one recoverer lives.

mod choices;
mod lease;
mod rules;

use stateright::{Model, Property};

use crate::check::Off;
use lease::{Challenger, Lease, Log};
use rules::rule::*;

const W: usize = 0;
const N: usize = 1;
/// Records of a life, at most.
const RECORDS: usize = 5;
/// Places of a ring, at most.
const PLACES: usize = 4;
const LEASE: u8 = 2;
const MARGIN: u8 = 1;

/// What a frame that was torn decodes to.
const TORN: u8 = 0x60;
const OF_NEW_OWNER: u8 = 0x20;

/// Objects: of recoverer A, of B, others.
const OTHER: u8 = 9;

/// How much of what happens.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    records: u8,
    places: u8,
    in_flight: u8,
    uploads: u8,
    /// Records by which T stays behind what is committed.
    trim_lags: u8,
    power_cuts: u8,
    failed_flushes: u8,
    recoverers: usize,
    recoverers_die: u8,
    /// One may be fenced itself instead of dying.
    recoverers_fenced: bool,
    answers_lost: u8,
    appends: u8,
    /// Ticks until the fence is proposed; none without a clock.
    ticks: u8,
    polls: u8,
    challenges: u8,
    /// Recoverers may read ahead.
    ahead: bool,
    /// Records of the next life on the volume.
    next_life: u8,
}

/// A place of the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Frame {
    written: bool,
    torn: bool,
    life: u8,
    position: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Writer {
    runs: bool,
    /// Its host cannot write to the volume any more.
    cut_off: bool,
    submitted: u8,
    /// Positions, as bits: queued on the host, written as far as the writer knows, durable as far as it knows.
    queued: u8,
    written: u8,
    durable: u8,
    acked: u8,
    /// The right held when these were submitted.
    allowed: u8,
    committed: u8,
    /// An upload of everything below, on its way to be committed.
    pending: Option<u8>,
    trim: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Life {
    fenced: bool,
    recovered: bool,
    trim: u8,
    base: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Nobody,
    Life(u8),
    /// A broker that stays.
    Healthy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Read {
    from: u8,
    end: u8,
    at: u8,
    /// It reads ahead, and waits from this tick on.
    ahead: Option<u8>,
    /// Values of the records found, in order.
    found: [u8; RECORDS],
    count: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// Has read T and the committed end before the fence.
    Early(u8, u8),
    /// The fence was proposed at this tick and is not committed yet.
    Proposed(u8),
    /// Waits from this tick on.
    Waiting {
        since: u8,
        /// What was read before the fence.
        early: Option<(u8, u8)>,
        /// Has read ahead.
        ahead: bool,
    },
    Reading(Read),
    Committing(Read),
    Done,
    Stuck,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Recoverer {
    of: u8,
    fenced: bool,
    /// May still wipe the ring: only where recoverers write.
    wipes: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Part {
    value: u8,
    object: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    medium: [Frame; PLACES],
    /// What the device has taken and not yet put on the medium.
    cache: [Frame; PLACES],
    /// T as W last wrote it into its superblock.
    superblock_trim: u8,
    lives: [Life; 2],
    content: Vec<Part>,
    owner: Owner,
    writers: [Writer; 2],
    next_life: bool,
    recoverers: [Recoverer; 2],
    /// Objects of recoverers that were written and not deleted.
    objects: u8,
    trimmed_ahead: bool,
    now: u8,
    /// How far W's clock is behind.
    behind: u8,
    lease: Lease,
    /// Of what concerns W's right.
    log: Log,
    challenger: Challenger,
    /// Where there is no clock: W's right is over.
    lapsed: bool,
    left: Left,
}

/// What may yet happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Left {
    uploads: u8,
    power_cuts: u8,
    failed_flushes: u8,
    deaths: u8,
    answers: u8,
    appends: u8,
    polls: u8,
    challenges: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Submit {
        life: usize,
    },
    Write {
        life: usize,
        position: u8,
    },
    Flush {
        life: usize,
    },
    FlushFails {
        life: usize,
    },
    Acknowledge {
        life: usize,
        position: u8,
    },
    /// For each place of the cache: 0 lost, 1 torn, 2 there.
    PowerCut {
        life: usize,
        fates: [u8; PLACES],
    },
    CutOff,
    Tick {
        behind: bool,
    },
    BeginPoll,
    EndPoll,
    SendHint,
    TakeHint,
    ProposeChallenge,
    CommitChallenge,
    SendAnswer,
    LandAnswer,
    EndAnswer,
    Upload {
        to: u8,
    },
    TrimAhead,
    Commit,
    WriteSuperblock,
    ReadTrimEarly {
        by: usize,
    },
    ProposeFence {
        by: usize,
    },
    CommitFence {
        by: usize,
    },
    ReadAhead {
        by: usize,
    },
    FinishWait {
        by: usize,
    },
    Read {
        by: usize,
    },
    CommitRecovered {
        by: usize,
        answered: bool,
    },
    Wipe {
        by: usize,
    },
    RecovererDies {
        by: usize,
    },
    FenceRecoverer {
        by: usize,
    },
    Collect {
        by: usize,
    },
    Format,
    AppendByNewOwner,
}

#[derive(Debug)]
pub struct Block {
    bounds: Bounds,
    off: Off,
}

impl Block {
    fn on(&self, rule: u8) -> bool {
        !self.off.holds(rule)
    }

    fn has_clock(&self) -> bool {
        self.bounds.ticks > 0
    }

    fn records_of(&self, life: usize) -> u8 {
        if life == W { self.bounds.records } else { self.bounds.next_life }
    }

    fn place(&self, position: u8) -> usize {
        usize::from(position % self.bounds.places)
    }

    /// Whether W may acknowledge now.
    fn right_holds(&self, state: &State) -> bool {
        if self.has_clock() { Block::lease_holds(state) } else { !state.lapsed }
    }

    /// The record at `position`, for a recovery of `of`.
    fn frame(&self, state: &State, of: usize, position: u8) -> Option<u8> {
        let place = self.place(position);
        let frame = if state.cache[place].written { state.cache[place] } else { state.medium[place] };
        let ours = usize::from(frame.life) == of || !self.on(EPOCH_IN_FRAME);
        let here = frame.position == position || !self.on(POSITION_IN_FRAME);
        let whole = !frame.torn || !self.on(CHECKSUM);
        if !(frame.written && ours && here && whole) {
            return None;
        }
        let torn = if frame.torn { TORN } else { 0 };
        Some(torn | frame.life << 4 | frame.position)
    }

    /// A record's offset by its value.
    fn offset(&self, state: &State, value: u8) -> u8 {
        state.lives[usize::from(value >> 4 & 1)].base + (value & 15)
    }

    fn read(&self, state: &State, of: usize, mut read: Read) -> Phase {
        let full = usize::from(read.count) == RECORDS || usize::from(read.at) == RECORDS;
        match self.frame(state, of, read.at).filter(|_| !full) {
            Some(value) => {
                read.at += 1;
                let offset = self.offset(state, value);
                let next = read.end + read.count;
                if offset < next && self.on(CLIP) {
                    return Phase::Reading(read);
                }
                // Something is missing between: no rule lets a recoverer skip it.
                if offset > next && value < TORN {
                    return Phase::Stuck;
                }
                read.found[usize::from(read.count)] = value;
                read.count += 1;
                Phase::Reading(read)
            }
            None if !self.on(HOLE_ENDS) && !full => {
                read.at += 1;
                Phase::Reading(read)
            }
            None => match read.ahead {
                // What is committed already is no news.
                Some(since) if read.count == 0 && self.on(END_BEHIND_LEASE) => Block::has_read_ahead(since),
                _ => Phase::Committing(read),
            },
        }
    }

    fn has_read_ahead(since: u8) -> Phase {
        Phase::Waiting { since, early: None, ahead: true }
    }

    fn commit_recovered(&self, state: &mut State, by: usize, answered: bool) {
        let Recoverer { of, fenced, phase, .. } = state.recoverers[by];
        let (of, Phase::Committing(read)) = (usize::from(of), phase) else { return };
        if fenced && self.on(RECOVERER_FENCED) {
            state.recoverers[by].phase = Phase::Dead;
            return;
        }
        let life = state.lives[of];
        let complete = life.recovered && self.on(NOT_COMPLETE);
        let moved = life.trim != read.from && self.on(TRIM_UNCHANGED);
        let fits = read.count == 0
            || (usize::from(read.end) == state.content.len() || !self.on(EXACT))
                && (state.owner == Owner::Life(of as u8) || !self.on(OWNER));
        let accepted = !complete && !moved && fits;
        if accepted {
            let found = read.found[..usize::from(read.count)].iter();
            state.content.extend(found.map(|value| Part { value: *value, object: by as u8 }));
            let last = read.ahead.is_none() || !self.on(END_BEHIND_LEASE);
            state.lives[of].recovered |= last;
            if !last {
                state.lives[of].trim = read.at - 1;
            } else if state.owner == Owner::Life(of as u8) {
                let next = self.bounds.next_life > 0 && of == W;
                state.owner = if next { Owner::Nobody } else { Owner::Healthy };
            }
        }
        if !answered {
            state.left.answers -= 1;
            return;
        }
        state.recoverers[by].phase = match accepted {
            // Whatever became of it, the end is found later.
            _ if read.ahead.is_some() && !state.lives[of].recovered => {
                Block::has_read_ahead(read.ahead.unwrap_or(0))
            }
            true => Phase::Done,
            // Nobody was first, so nothing will be different next time.
            false if !complete && !moved && state.content.len() == usize::from(read.end) => Phase::Stuck,
            false => Phase::Idle,
        };
        state.recoverers[by].wipes = accepted && !self.on(ONLY_READ);
    }

    fn commit(&self, state: &mut State) {
        let writer = &mut state.writers[W];
        let Some(to) = writer.pending.take() else { return };
        let life = state.lives[W];
        let exact = usize::from(writer.committed) == state.content.len() || !self.on(EXACT);
        let owns = state.owner == Owner::Life(W as u8) || !self.on(OWNER);
        if life.fenced || life.recovered || !exact || !owns {
            writer.runs = false;
            return;
        }
        state.content.extend((writer.committed..to).map(|record| Part { value: record, object: OTHER }));
        writer.committed = to;
        writer.trim = to.saturating_sub(self.bounds.trim_lags);
        state.lives[W].trim = writer.trim;
        state.trimmed_ahead = false;
    }

    fn write(&self, state: &mut State, life: usize, position: u8) {
        let place = self.place(position);
        state.cache[place] = Frame { written: true, torn: false, life: life as u8, position };
        let writer = &mut state.writers[life];
        writer.queued &= !(1 << position);
        if writer.runs {
            writer.written |= 1 << position;
        }
    }

    fn settle(state: &mut State) {
        for place in 0..PLACES {
            if state.cache[place].written {
                state.medium[place] = state.cache[place];
                state.cache[place] = Frame::default();
            }
        }
    }

    fn start_read(&self, state: &State, early: Option<(u8, u8)>) -> Phase {
        let (trim, end) = early.unwrap_or((state.lives[W].trim, state.content.len() as u8));
        let at = if self.on(METADATA_TRIM) { trim } else { state.superblock_trim };
        Phase::Reading(Read { from: trim, end, at, ahead: None, found: [0; RECORDS], count: 0 })
    }

    fn recovery(&self, state: &mut State, action: Action) {
        match action {
            Action::ReadTrimEarly { by } => {
                state.recoverers[by].phase = Phase::Early(state.lives[W].trim, state.content.len() as u8);
            }
            Action::ProposeFence { by } => {
                let Recoverer { of, phase, .. } = state.recoverers[by];
                let of = usize::from(of);
                state.recoverers[by].phase = match phase {
                    _ if state.lives[of].recovered => Phase::Done,
                    Phase::Early(trim, end) => {
                        let since = self.append_fence(state, state.now);
                        Phase::Waiting { since, early: Some((trim, end)), ahead: false }
                    }
                    _ if of == N => {
                        state.lives[of].fenced = true;
                        state.writers[N].runs = false;
                        let end = state.content.len() as u8;
                        Phase::Reading(Read {
                            from: 0,
                            end,
                            at: 0,
                            ahead: None,
                            found: [0; RECORDS],
                            count: 0,
                        })
                    }
                    _ => Phase::Proposed(state.now),
                };
            }
            Action::CommitFence { by } => {
                let Phase::Proposed(proposed) = state.recoverers[by].phase else { return };
                let since = self.append_fence(state, proposed);
                if !self.on(OPEN_RECOVERED) && state.owner == Owner::Life(W as u8) {
                    state.owner = Owner::Healthy;
                }
                state.recoverers[by].phase = Phase::Waiting { since, early: None, ahead: false };
            }
            Action::ReadAhead { by } => {
                let Phase::Waiting { since, .. } = state.recoverers[by].phase else { return };
                if let Phase::Reading(read) = self.start_read(state, None) {
                    state.recoverers[by].phase = Phase::Reading(Read { ahead: Some(since), ..read });
                }
            }
            Action::FinishWait { by } => {
                let Phase::Waiting { early, .. } = state.recoverers[by].phase else { return };
                state.lapsed |= self.on(WAIT) && state.lives[W].fenced;
                state.recoverers[by].phase = self.start_read(state, early);
            }
            Action::Read { by } => {
                let Recoverer { of, phase: Phase::Reading(read), .. } = state.recoverers[by] else { return };
                state.recoverers[by].phase = self.read(state, usize::from(of), read);
                if matches!(state.recoverers[by].phase, Phase::Committing(_)) {
                    state.objects |= 1 << by;
                }
            }
            Action::CommitRecovered { by, answered } => self.commit_recovered(state, by, answered),
            Action::Wipe { by } => {
                state.recoverers[by].wipes = false;
                state.medium = [Frame::default(); PLACES];
                state.cache = [Frame::default(); PLACES];
            }
            Action::RecovererDies { by } => {
                state.left.deaths -= 1;
                state.recoverers[by].phase = Phase::Dead;
            }
            Action::FenceRecoverer { by } => {
                state.left.deaths -= 1;
                state.recoverers[by].fenced = true;
            }
            Action::Collect { by } => state.objects &= !(1 << by),
            _ => {}
        }
    }
}

impl Model for Block {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let life = Life { fenced: false, recovered: false, trim: 0, base: 0 };
        let writer = Writer {
            runs: true,
            cut_off: false,
            submitted: 0,
            queued: 0,
            written: 0,
            durable: 0,
            acked: 0,
            allowed: 0,
            committed: 0,
            pending: None,
            trim: 0,
        };
        let recoverer = Recoverer { of: W as u8, fenced: false, wipes: false, phase: Phase::Idle };
        // B is there for the next life, if there is one.
        let beside = self.bounds.recoverers > 1 && self.bounds.next_life == 0;
        let second = if beside { Phase::Idle } else { Phase::Dead };
        vec![State {
            medium: [Frame::default(); PLACES],
            cache: [Frame::default(); PLACES],
            superblock_trim: 0,
            lives: [life; 2],
            content: Vec::new(),
            owner: Owner::Life(W as u8),
            writers: [writer, Writer { runs: false, ..writer }],
            next_life: false,
            recoverers: [recoverer, Recoverer { phase: second, ..recoverer }],
            objects: 0,
            trimmed_ahead: false,
            now: 0,
            behind: 0,
            lease: Lease::default(),
            log: Log::default(),
            challenger: Challenger::default(),
            lapsed: false,
            left: Left {
                uploads: self.bounds.uploads,
                power_cuts: self.bounds.power_cuts,
                failed_flushes: self.bounds.failed_flushes,
                deaths: self.bounds.recoverers_die,
                answers: self.bounds.answers_lost,
                appends: self.bounds.appends,
                polls: self.bounds.polls,
                challenges: self.bounds.challenges,
            },
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.writer_actions(state, W, actions);
        self.writer_actions(state, N, actions);
        self.upload_actions(state, actions);
        self.clock_actions(state, actions);
        (0..self.bounds.recoverers).for_each(|by| self.recovery_actions(state, by, actions));
        if state.left.power_cuts > 0 {
            // Of the host that has the volume.
            let life = if state.next_life { N } else { W };
            self.power_cuts(state, life, actions);
        }
        if self.bounds.next_life > 0 {
            if !state.writers[W].cut_off && state.lives[W].fenced {
                actions.push(Action::CutOff);
            }
            let recovered = state.lives[W].recovered || !self.on(FORMAT_RECOVERED);
            let cut_off = state.writers[W].cut_off || !self.on(CUT_OFF);
            if !state.next_life && state.lives[W].fenced && recovered && cut_off {
                actions.push(Action::Format);
            }
        }
        if state.owner == Owner::Healthy && state.left.appends > 0 {
            actions.push(Action::AppendByNewOwner);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Submit { life } => {
                let allowed = u8::from(life != W || self.right_holds(&state));
                let writer = &mut state.writers[life];
                writer.queued |= 1 << writer.submitted;
                writer.allowed |= allowed << writer.submitted;
                writer.submitted += 1;
            }
            Action::Write { life, position } => self.write(&mut state, life, position),
            Action::Flush { life } => {
                Block::settle(&mut state);
                state.writers[life].durable |= state.writers[life].written;
            }
            Action::FlushFails { life } => {
                state.left.failed_flushes -= 1;
                // What was to be flushed is dropped, and counts as clean.
                state.cache = [Frame::default(); PLACES];
                state.writers[life].runs &= !self.on(FAILED_FLUSH);
            }
            Action::Acknowledge { life, position } => state.writers[life].acked |= 1 << position,
            Action::PowerCut { life, fates } => {
                state.left.power_cuts -= 1;
                for (place, fate) in fates.into_iter().enumerate() {
                    let torn = fate == 1;
                    state.cache[place].torn |= torn && state.cache[place].written;
                    if fate == 0 {
                        state.cache[place] = Frame::default();
                    }
                }
                Block::settle(&mut state);
                state.writers[life].runs = false;
                state.writers[life].queued = 0;
                state.writers[life].cut_off = true;
            }
            Action::CutOff => {
                state.writers[W].cut_off = true;
                state.writers[W].queued = 0;
            }
            Action::Upload { to } => {
                state.left.uploads -= 1;
                state.writers[W].pending = Some(to);
            }
            Action::TrimAhead => {
                state.trimmed_ahead = true;
                if !state.lives[W].fenced && !state.lives[W].recovered {
                    state.lives[W].trim = state.writers[W].pending.unwrap_or(0);
                }
            }
            Action::Commit => self.commit(&mut state),
            Action::WriteSuperblock => state.superblock_trim = state.writers[W].trim,
            Action::Format => {
                state.next_life = true;
                state.superblock_trim = 0;
                state.lives[N].base = state.content.len() as u8;
                if state.owner == Owner::Nobody || !self.on(FORMAT_RECOVERED) {
                    state.owner = Owner::Life(N as u8);
                }
                state.writers[N].runs = true;
                let second = &mut state.recoverers[1];
                *second = Recoverer { of: N as u8, phase: Phase::Idle, ..*second };
            }
            Action::AppendByNewOwner => {
                state.left.appends -= 1;
                let value = OF_NEW_OWNER | state.left.appends;
                state.content.push(Part { value, object: OTHER });
            }
            Action::Tick { .. }
            | Action::BeginPoll
            | Action::EndPoll
            | Action::SendHint
            | Action::TakeHint
            | Action::ProposeChallenge
            | Action::CommitChallenge
            | Action::SendAnswer
            | Action::LandAnswer
            | Action::EndAnswer => {
                self.clock(&mut state, action);
            }
            _ => self.recovery(&mut state, action),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Block>> {
        vec![
            Property::always("what was acknowledged is kept", |model: &Block, state: &State| {
                [W, N].iter().all(|life| model.keeps(state, *life))
            }),
            Property::always("no record twice", |_, state: &State| {
                let parts = &state.content;
                (1..parts.len()).all(|at| parts[..at].iter().all(|before| before.value != parts[at].value))
            }),
            Property::always("every record whole and at its offset", |model: &Block, state: &State| {
                state.content.iter().enumerate().all(|(offset, part)| {
                    let own = part.value & 0xf0 == OF_NEW_OWNER;
                    own || part.value < TORN && usize::from(model.offset(state, part.value)) == offset
                })
            }),
            Property::always("nothing of an earlier life comes back", |_, state: &State| {
                let base = usize::from(state.lives[N].base);
                !state.next_life || state.content.iter().skip(base).all(|part| part.value >> 4 != W as u8)
            }),
            Property::always("what is named is there", |_, state: &State| {
                state.content.iter().all(|part| part.object == OTHER || state.objects & 1 << part.object != 0)
            }),
            Property::eventually("every life is recovered", |model: &Block, state: &State| {
                state.lives[W].recovered && (model.bounds.next_life == 0 || state.lives[N].recovered)
            }),
            Property::sometimes("a recoverer finds something", |_, state: &State| {
                state.lives[W].recovered && state.content.iter().any(|part| part.object != OTHER)
            }),
        ]
    }
}

impl Block {
    /// Whether what `life` acknowledged is where it belongs, or can still get there.
    fn keeps(&self, state: &State, life: usize) -> bool {
        let base = state.lives[life].base;
        (0..self.records_of(life)).filter(|record| state.writers[life].acked & 1 << record != 0).all(
            |record| match state.content.get(usize::from(base + record)) {
                Some(part) => part.value == (life as u8) << 4 | record,
                None => !state.lives[life].recovered,
            },
        )
    }
}
