//! What may happen next, by who does it.

use super::rules::rule::*;
use super::{Action, Block, LEASE, MARGIN, PLACES, Phase, RECORDS, Recoverer, State, W};

impl Block {
    pub(super) fn writer_actions(&self, state: &State, life: usize, actions: &mut Vec<Action>) {
        let writer = &state.writers[life];
        if !writer.cut_off {
            let queued = (0..RECORDS as u8).filter(|position| writer.queued & 1 << position != 0);
            actions.extend(queued.map(|position| Action::Write { life, position }));
        }
        if !writer.runs {
            return;
        }
        let free_from = match writer.pending {
            _ if !self.on(KEPT_STAYS) => u8::MAX - self.bounds.places,
            Some(to) if !self.on(SPACE_COMMITTED) => to,
            _ => writer.trim,
        };
        let under_way = writer.submitted - writer.durable.count_ones() as u8;
        if writer.submitted < self.records_of(life)
            && under_way < self.bounds.in_flight
            && writer.submitted < free_from + self.bounds.places
        {
            actions.push(Action::Submit { life });
        }
        if writer.written & !writer.durable != 0 && !writer.cut_off {
            actions.push(Action::Flush { life });
            if state.left.failed_flushes > 0 {
                actions.push(Action::FlushFails { life });
            }
        }
        for position in 0..writer.submitted {
            let bit = 1 << position;
            let durable = if self.on(FLUSH_FIRST) { writer.durable } else { writer.written };
            let in_order = writer.acked.trailing_ones() == u32::from(position) || !self.on(ACK_IN_ORDER);
            let right = if life != W || !self.on(LEASE_HELD) {
                true
            } else if self.on(RIGHT_BEHIND_DURABLE) {
                self.right_holds(state)
            } else {
                writer.allowed & bit != 0
            };
            if durable & bit != 0 && writer.acked & bit == 0 && in_order && right {
                actions.push(Action::Acknowledge { life, position });
            }
        }
    }

    pub(super) fn upload_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let writer = &state.writers[W];
        if !writer.runs {
            return;
        }
        match writer.pending {
            None if state.left.uploads > 0 => {
                let acked = writer.acked.trailing_ones() as u8;
                actions.extend((writer.committed + 1..=acked).map(|to| Action::Upload { to }));
            }
            None => {}
            Some(_) if !self.on(ONE_ENTRY) && !state.trimmed_ahead => actions.push(Action::TrimAhead),
            Some(_) => actions.push(Action::Commit),
        }
        if self.bounds.uploads > 0
            && writer.trim > state.superblock_trim
            && !writer.cut_off
            && !state.next_life
        {
            actions.push(Action::WriteSuperblock);
        }
    }

    pub(super) fn recovery_actions(&self, state: &State, by: usize, actions: &mut Vec<Action>) {
        let Recoverer { of, fenced, wipes, phase } = state.recoverers[by];
        if wipes {
            actions.push(Action::Wipe { by });
        }
        if fenced
            && state.objects & 1 << by != 0
            && state.content.iter().all(|part| usize::from(part.object) != by)
        {
            actions.push(Action::Collect { by });
        }
        match phase {
            Phase::Idle => {
                actions.push(Action::ProposeFence { by });
                if !self.on(TRIM_READ_FENCED) && usize::from(of) == W {
                    actions.push(Action::ReadTrimEarly { by });
                }
            }
            Phase::Early(..) => actions.push(Action::ProposeFence { by }),
            Phase::Proposed(_) => actions.push(Action::CommitFence { by }),
            Phase::Waiting { since, early, ahead } => {
                if self.bounds.ahead && early.is_none() && !ahead {
                    actions.push(Action::ReadAhead { by });
                }
                let margin = if self.on(MARGIN_WAITED) { MARGIN } else { 0 };
                let over = !self.has_clock() || !self.on(WAIT) || state.now >= since + LEASE + margin;
                if over {
                    actions.push(Action::FinishWait { by });
                }
            }
            Phase::Reading(_) => actions.push(Action::Read { by }),
            Phase::Committing(_) => {
                actions.push(Action::CommitRecovered { by, answered: true });
                if state.left.answers > 0 {
                    actions.push(Action::CommitRecovered { by, answered: false });
                }
            }
            Phase::Done | Phase::Stuck | Phase::Dead => return,
        }
        if state.left.deaths > 0 {
            actions.push(Action::RecovererDies { by });
        }
        if state.left.deaths > 0 && self.bounds.recoverers_fenced && !fenced {
            actions.push(Action::FenceRecoverer { by });
        }
    }

    /// Each way in which what is in the cache may end.
    pub(super) fn power_cuts(&self, state: &State, life: usize, actions: &mut Vec<Action>) {
        let mut fates = vec![[0; PLACES]];
        for place in 0..PLACES {
            if state.cache[place].written {
                fates = fates
                    .iter()
                    .flat_map(|known| {
                        [0, 1, 2].map(|fate| {
                            let mut more = *known;
                            more[place] = fate;
                            more
                        })
                    })
                    .collect();
            }
        }
        actions.extend(fates.into_iter().map(|fates| Action::PowerCut { life, fates }));
    }
}
