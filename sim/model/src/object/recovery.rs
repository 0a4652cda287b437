//! What a recoverer does, step by step: fence, walk, adopt.

use super::rules::rule::*;
use super::{Cell, Object, Owner, PLACES, Part, Phase, Recoverer, State, W, Walk, value};

impl Object {
    pub(super) fn start_walk(&self, state: &State, of: usize) -> Walk {
        let from = state.lives[of].trim;
        let listed = (0..PLACES as u8).find(|slot| self.cell(state, of, *slot) != Cell::Free);
        let at = if self.on(START_AT_TRIM) { from } else { listed.unwrap_or(from) };
        Walk { from, end: state.content.len() as u8, at, found: 0, recut: 0 }
    }

    pub(super) fn fence(&self, state: &mut State, by: usize) {
        let Recoverer { of, phase } = state.recoverers[by];
        let of = usize::from(of);
        if state.lives[of].recovered {
            state.recoverers[by].phase = Phase::Done;
            return;
        }
        if self.on(FENCE_FIRST) {
            state.lives[of].fenced = true;
        }
        if !self.on(OPEN_RECOVERED) && state.owner == Owner::Life(of as u8) {
            state.owner = Owner::Healthy;
        }
        let walk = match phase {
            Phase::Early(walk) => walk,
            _ => self.start_walk(state, of),
        };
        state.recoverers[by].phase = Phase::Walking(walk);
    }

    /// What lies at the head of the walk.
    pub(super) fn see(&self, state: &State, of: usize, walk: Walk, cell: Cell) -> Phase {
        let mut next = walk;
        match cell {
            Cell::Data { life, .. } if usize::from(life) != of => Phase::Stuck,
            Cell::Data { recut, .. } => {
                next.found |= 1 << walk.at;
                next.recut |= u8::from(recut) << walk.at;
                next.at += 1;
                Phase::Walking(next)
            }
            Cell::Seal if !self.on(SEAL_ENDS) && usize::from(walk.at) + 1 < PLACES => {
                next.at += 1;
                Phase::Walking(next)
            }
            Cell::Seal => self.gather(state, of, next, true),
            Cell::Free if !self.on(SEAL) => self.gather(state, of, next, true),
            Cell::Free => Phase::AtFree(next),
        }
    }

    /// What lies at or beyond the committed end is to be adopted. Stuck if it does not continue the stream: a record
    /// is missing, and no rule lets a recoverer skip one.
    pub(super) fn gather(&self, state: &State, of: usize, walk: Walk, last: bool) -> Phase {
        let mut next = walk.end;
        for (offset, _) in self.adopted(state, of, walk) {
            if offset != next && self.on(CLIP) {
                return Phase::Stuck;
            }
            next = offset + 1;
        }
        Phase::Committing(walk, last)
    }

    fn adopted(&self, state: &State, of: usize, walk: Walk) -> Vec<(u8, Part)> {
        let base = state.lives[of].base;
        let slots = (0..PLACES as u8).filter(|slot| walk.found & 1 << slot != 0);
        let records = slots.flat_map(|slot| {
            let recut = walk.recut & 1 << slot != 0;
            let object = of as u8 * PLACES as u8 + slot;
            self.records(slot)
                .map(move |record| (base + record, Part { value: value(of, recut, record), object }))
        });
        records.filter(|(offset, _)| *offset >= walk.end || !self.on(CLIP)).collect()
    }

    pub(super) fn adopt(&self, state: &mut State, by: usize, answered: bool) {
        let Recoverer { of, phase } = state.recoverers[by];
        let of = usize::from(of);
        let Phase::Committing(walk, last) = phase else { return };
        let parts = self.adopted(state, of, walk);
        let life = &state.lives[of];
        let complete = life.recovered && self.on(NOT_COMPLETE);
        let moved = life.trim != walk.from && self.on(TRIM_UNCHANGED);
        // Whatever it holds extends the stream exactly, and is the stream's owner's.
        let fits = parts.first().is_none_or(|(offset, _)| {
            (usize::from(*offset) == state.content.len() || !self.on(EXACT))
                && (state.owner == Owner::Life(of as u8) || !self.on(OWNER))
        });
        let accepted = !complete && !moved && fits;
        if accepted {
            state.content.extend(parts.iter().map(|(_, part)| *part));
            if last {
                state.lives[of].recovered = true;
                if state.owner == Owner::Life(of as u8) {
                    let next = self.bounds.next_life > 0 && of == W;
                    state.owner = if next { Owner::Nobody } else { Owner::Healthy };
                }
            } else {
                state.lives[of].trim = walk.at;
            }
        }
        if !answered {
            state.left.answers -= 1;
            return;
        }
        let ours = parts.iter().all(|(_, part)| state.content.contains(part)) && !parts.is_empty();
        let taken_for_ours = ours && !self.on(RETRY_LOOKS);
        state.recoverers[by].phase = match (accepted || taken_for_ours, last) {
            (true, true) => Phase::Done,
            (true, false) => {
                let end = state.content.len() as u8;
                Phase::Walking(Walk { from: walk.at, end, found: 0, recut: 0, ..walk })
            }
            // Nobody was first, so nothing will be different next time.
            (false, _) if !complete && !moved && state.content.len() == usize::from(walk.end) => Phase::Stuck,
            // Somebody was first, or an earlier try of this one: begin again, with what the metadata says.
            (false, _) => Phase::Idle,
        };
    }
}
