//! What may happen next, by who does it.

use super::rules::rule::*;
use super::{
    Action, Cell, Collector, MERGED_BY_W, OWN, Object, PLACES, Phase, Put, Recoverer, State, UPLOADED, W,
};

impl Object {
    pub(super) fn writer_actions(&self, state: &State, life: usize, actions: &mut Vec<Action>) {
        let writer = &state.writers[life];
        for slot in 0..self.slots_of(life) {
            let place = usize::from(slot);
            for recut in [false, true] {
                if writer.flying[place][usize::from(recut)] > 0 {
                    actions.push(Action::Land { life, slot, recut, answered: true });
                    if state.left.late > 0 && writer.runs && writer.puts[place] == Put::Flying {
                        actions.push(Action::Land { life, slot, recut, answered: false });
                    }
                }
            }
            if !writer.runs {
                continue;
            }
            let acked = (writer.acked[0] | writer.acked[1]) & 1 << slot != 0;
            match writer.puts[place] {
                Put::Unsent => {}
                Put::Flying if state.left.late > 0 => {
                    actions.push(Action::Hedge { life, slot });
                    actions.push(Action::TimeOut { life, slot });
                }
                Put::Unknown if !self.on(SLOT_ONCE) && writer.recut & 1 << slot == 0 => {
                    actions.push(Action::ReadBack { life, slot });
                    actions.push(Action::CutAnew { life, slot });
                }
                Put::Exists | Put::Unknown => actions.push(Action::ReadBack { life, slot }),
                Put::Flying | Put::Durable => {}
            }
            let durable = writer.puts[place] == Put::Durable
                || !self.on(ACK_DURABLE) && writer.puts[place] != Put::Unsent;
            let in_order = (writer.acked[0] | writer.acked[1]).trailing_ones() == u32::from(slot);
            let fresh = life != W || !state.lapsed || !self.on(FRESH_VIEW);
            if durable && !acked && fresh && (in_order || !self.on(ACK_IN_ORDER)) {
                actions.push(Action::Acknowledge { life, slot });
            }
        }
        let under_way =
            (0..writer.sent).filter(|slot| writer.puts[usize::from(*slot)] != Put::Durable).count();
        if writer.runs && writer.sent < self.slots_of(life) && under_way < 2 {
            actions.push(Action::Send { life });
        }
    }

    pub(super) fn upload_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let writer = &state.writers[W];
        if !writer.runs {
            return;
        }
        match writer.pending {
            None if state.left.uploads > 0 => {
                let acked = self.acked_records(state);
                actions.extend((writer.committed + 1..=acked).map(|to| Action::Upload { to }));
            }
            None => {}
            Some(_) => {
                if !self.on(ONE_ENTRY) && !state.trimmed_ahead {
                    actions.push(Action::TrimAhead);
                } else {
                    actions.push(Action::Commit);
                }
            }
        }
        let deletable = match writer.pending {
            Some(pending) if !self.on(DELETE_COMMITTED) => pending.to / self.bounds.records_per_slot,
            _ if !self.on(OWN_TRIM) => state.lives[W].trim,
            _ => writer.trim,
        };
        for slot in 0..deletable {
            if matches!(state.cells[W][usize::from(slot)], Cell::Data { .. }) {
                actions.push(Action::DeleteOwn { slot });
            }
        }
        if self.bounds.low_water
            && self.low_water(writer) > state.lives[W].low_water
            && self.is_live(state, W)
        {
            actions.push(Action::RaiseLowWater);
        }
        if self.bounds.merges_by_writer {
            if !state.merging && state.data & 1 << MERGED_BY_W == 0 && self.named(state, UPLOADED) {
                actions.push(Action::WriteMerged);
            } else if state.merging {
                actions.push(Action::SwapMerged);
            }
        }
    }

    pub(super) fn recovery_actions(&self, state: &State, by: usize, actions: &mut Vec<Action>) {
        let Recoverer { phase, .. } = state.recoverers[by];
        match phase {
            Phase::Idle => {
                actions.push(Action::FenceAndReadTrim { by });
                if !self.on(TRIM_READ_FENCED) {
                    actions.push(Action::ReadTrimEarly { by });
                }
            }
            Phase::Early(_) => actions.push(Action::FenceAndReadTrim { by }),
            Phase::Walking(walk) => {
                actions.push(Action::Walk { by });
                if self.bounds.two_entries && walk.found != 0 {
                    actions.push(Action::AdoptSoFar { by });
                }
            }
            Phase::AtFree(_) => actions.push(Action::CreateSeal { by }),
            Phase::Committing(..) => {
                actions.push(Action::Adopt { by, answered: true });
                if state.left.answers > 0 {
                    actions.push(Action::Adopt { by, answered: false });
                }
            }
            Phase::Done | Phase::Stuck | Phase::Dead => return,
        }
        if state.left.deaths > 0 {
            actions.push(Action::RecovererDies { by });
        }
    }

    pub(super) fn collector_actions(&self, state: &State, actions: &mut Vec<Action>) {
        match state.collector {
            Collector::Deleting(_) => actions.push(Action::CollectorDeletes),
            Collector::Idle if state.left.collects == 0 => {}
            Collector::Idle if !self.on(JUDGE_AFTER_LIST) => actions.push(Action::CollectorLooks),
            Collector::Idle => self.condemn(state, self.judge(state), actions),
            Collector::Looked(may_go) => self.condemn(state, may_go, actions),
        }
    }

    fn condemn(&self, state: &State, may_go: u16, actions: &mut Vec<Action>) {
        for object in 0..OWN {
            let seal = object < UPLOADED && {
                let (life, slot) = (usize::from(object) / PLACES, object % PLACES as u8);
                self.cell(state, life, slot) == Cell::Seal
            };
            let seal_goes = !self.on(SEAL_STAYS) || !self.on(SEAL_STAYS_LATE) && state.lapsed;
            if may_go & 1 << object != 0 && (self.exists(state, object) || seal && seal_goes) {
                actions.push(Action::CollectorCondemns { object });
            }
        }
    }
}
