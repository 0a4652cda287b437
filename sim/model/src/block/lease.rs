//! W's right to acknowledge, where a scenario has a clock: polls, challenges, and W's answers to them.
//!
//! ```text
//!   A:  Challenge ── the wait counts from here ────────── fence ──────► L and a margin are over: read
//!   W:  └─ a view that shows it renews nothing ─► Answer ─ only before the fence ─► renews; A has nothing to count from
//! ```
//!
//! Of the metadata log there is what concerns W's right: challenges, answers and the fence, numbered. A create fits if it follows
//! what its issuer has seen; if it does not, W reads on and tries again.

use super::rules::rule::*;
use super::{Action, Block, LEASE, MARGIN, Phase, State, W};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Log {
    /// Of the last entry.
    number: u8,
    /// The entry of the challenge that stands.
    challenge: Option<u8>,
}

/// The log as W has seen it, and whether it was fenced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct View {
    log: Log,
    fenced: bool,
}

/// W's right; all by W's own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Lease {
    until: u8,
    view: View,
    /// When the poll under way began, and what it found.
    poll: Option<(u8, View)>,
    answer: Option<Answer>,
    /// A hint that says that there is no fence is under way.
    hint: bool,
}

/// W's create of an entry that answers, and when it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Sent(u8),
    /// It is in the log, which W does not know yet.
    Landed(u8, View),
}

/// What A, the recoverer, has to do with challenges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Challenger {
    #[default]
    Silent,
    /// Proposed, and not committed yet. The wait counts from when it is known, or from this tick.
    Proposed(Option<u8>),
    /// Knows one, by its number, since this tick.
    Knows { since: u8, number: u8 },
}

impl Block {
    fn here(state: &State) -> u8 {
        state.now - state.behind
    }

    /// Whether W may acknowledge now.
    pub(super) fn lease_holds(state: &State) -> bool {
        Block::here(state) < state.lease.until
    }

    pub(super) fn clock_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if !self.has_clock() {
            return;
        }
        // Nothing waits for ever: the fence is proposed and committed some time, and nobody looks long behind the wait.
        let horizon = match state.recoverers[0].phase {
            Phase::Idle | Phase::Early(..) => self.bounds.ticks,
            Phase::Proposed(since) => since + LEASE,
            Phase::Waiting { since, .. } => since + LEASE + MARGIN,
            _ => 0,
        };
        if state.now < horizon {
            actions.push(Action::Tick { behind: false });
            // Within a bounded rate; or asleep, for as long as anybody likes.
            if state.behind < MARGIN || !self.on(BOOTTIME) {
                actions.push(Action::Tick { behind: true });
            }
        }
        if matches!(state.recoverers[0].phase, Phase::Idle | Phase::Proposed(_)) {
            match state.challenger {
                Challenger::Proposed(_) => actions.push(Action::CommitChallenge),
                _ if state.left.challenges > 0 && state.log.challenge.is_none() => {
                    actions.push(Action::ProposeChallenge);
                }
                _ => {}
            }
        }
        if !state.writers[W].runs {
            return;
        }
        match state.lease.poll {
            None if state.left.polls > 0 => actions.push(Action::BeginPoll),
            None => {}
            Some(_) => actions.push(Action::EndPoll),
        }
        match state.lease.answer {
            None if state.lease.view.log.challenge.is_some() => actions.push(Action::SendAnswer),
            None => {}
            Some(Answer::Sent(_)) => actions.push(Action::LandAnswer),
            Some(Answer::Landed(..)) => actions.push(Action::EndAnswer),
        }
        if !self.on(HINTS) {
            if state.lease.hint {
                actions.push(Action::TakeHint);
            } else if !state.lives[W].fenced && state.left.polls > 0 {
                actions.push(Action::SendHint);
            }
        }
    }

    pub(super) fn clock(&self, state: &mut State, action: Action) {
        let here = Block::here(state);
        match action {
            Action::Tick { behind } => {
                state.now += 1;
                state.behind += u8::from(behind);
            }
            Action::BeginPoll => {
                state.left.polls -= 1;
                state.lease.poll = Some((here, Block::tail(state)));
            }
            Action::EndPoll => {
                let Some((began, found)) = state.lease.poll.take() else { return };
                let before = state.lease.view;
                Block::see(state, found);
                let judged = if self.on(VIEW_BEHIND_POLL) { state.lease.view } else { before };
                if !judged.fenced && (judged.log.challenge.is_none() || !self.on(CHALLENGED)) {
                    let from = if self.on(FROM_POLL_BEGIN) { began } else { here };
                    state.lease.until = state.lease.until.max(from + LEASE);
                }
                if state.lease.view.fenced {
                    Block::stop(state);
                }
            }
            Action::SendAnswer => state.lease.answer = Some(Answer::Sent(here)),
            Action::LandAnswer => self.land_answer(state),
            Action::EndAnswer => {
                let Some(Answer::Landed(sent, found)) = state.lease.answer.take() else { return };
                Block::see(state, found);
                let view = state.lease.view;
                if view.log.challenge.is_none() && (!view.fenced || !self.on(ANSWER_UNFENCED)) {
                    let from = if self.on(ANSWER_FROM_SENT) { sent } else { here };
                    state.lease.until = state.lease.until.max(from + LEASE);
                }
            }
            Action::SendHint => {
                state.left.polls -= 1;
                state.lease.hint = true;
            }
            Action::TakeHint => {
                state.lease.hint = false;
                state.lease.until = here + LEASE;
            }
            Action::ProposeChallenge => {
                state.left.challenges -= 1;
                let since = match state.challenger {
                    Challenger::Knows { since, .. } if !self.on(TOLD_APART) => Some(since),
                    _ => (!self.on(WAIT_FROM_CHALLENGE)).then_some(state.now),
                };
                state.challenger = Challenger::Proposed(since);
            }
            Action::CommitChallenge => {
                let Challenger::Proposed(since) = state.challenger else { return };
                state.log.number += 1;
                state.log.challenge = Some(state.log.number);
                let since = since.unwrap_or(state.now);
                state.challenger = Challenger::Knows { since, number: state.log.number };
            }
            _ => {}
        }
    }

    /// W has seen that it is fenced.
    fn stop(state: &mut State) {
        state.writers[W].runs = false;
        state.lease = Lease::default();
    }

    fn tail(state: &State) -> View {
        View { log: state.log, fenced: state.lives[W].fenced }
    }

    /// W's view never goes back.
    fn see(state: &mut State, found: View) {
        if found.log.number > state.lease.view.log.number {
            state.lease.view = found;
        }
    }

    fn land_answer(&self, state: &mut State) {
        let Some(Answer::Sent(sent)) = state.lease.answer else { return };
        let tail = Block::tail(state);
        if tail != state.lease.view {
            state.lease.view = tail;
            state.lease.answer = Some(Answer::Sent(Block::here(state)));
            if tail.fenced && self.on(ANSWER_UNFENCED) {
                Block::stop(state);
            }
            return;
        }
        state.log.number += 1;
        state.log.challenge = None;
        state.lease.answer = Some(Answer::Landed(sent, Block::tail(state)));
    }

    /// The fence is in the log. Returns from when the wait counts, if it was proposed at `proposed`.
    pub(super) fn append_fence(&self, state: &mut State, proposed: u8) -> u8 {
        if self.on(FENCE_FIRST) && !state.lives[W].fenced {
            state.lives[W].fenced = true;
            state.log.number += 1;
        }
        let counts = match (std::mem::take(&mut state.challenger), state.log.challenge) {
            (Challenger::Knows { since, number }, Some(standing)) if number == standing => Some(since),
            (Challenger::Knows { since, .. }, None) if !self.on(CHALLENGE_STANDS) => Some(since),
            _ => None,
        };
        counts.unwrap_or(if self.on(WAIT_FROM_KNOWN) { state.now } else { proposed })
    }
}
