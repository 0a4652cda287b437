//! From one generation to the next (behaviours 86–88), and what time does to a group.

use super::join::refuse;
use super::{Effect, Group, JoinDeadline, MemberId, NEVER, Now, Rules, State, StoreId, Storing};
use kafka_protocol::error::ResponseError;

/// A rebalance timeout of nothing must not make an unattended join phase spin.
const NOBODY_CAME_WAIT_MS_MIN: u64 = 1000;

impl Group {
    /// A freshly restored group that is over a lowered `group.max.size` rebalances, so that somebody drops out.
    pub fn loaded(&mut self, now: Now, rules: &Rules, effects: &mut Vec<Effect>) {
        if self.members.len() > rules.group_size_max {
            self.prepare_rebalance_now(now, effects);
        }
    }

    pub(super) fn rebalance_or_complete(&mut self, now: Now, rules: &Rules, effects: &mut Vec<Effect>) {
        match self.state {
            State::Empty => self.prepare_initial_rebalance(now, rules),
            State::CompletingRebalance | State::Stable => self.prepare_rebalance_now(now, effects),
            State::PreparingRebalance => self.maybe_complete_join(now, effects),
        }
    }

    /// The group was empty: wait for more members before the first generation (behaviour 87).
    fn prepare_initial_rebalance(&mut self, now: Now, rules: &Rules) {
        let delay_ms = rules.initial_rebalance_delay.as_millis() as u64;
        let remaining_ms = self.rebalance_timeout_ms().saturating_sub(delay_ms);
        let at = self.arm(now.tick_ms + delay_ms);
        self.join_deadline = Some(JoinDeadline::Initial { at, delay_ms, remaining_ms });
        self.new_member_added = false;
        self.clear_pending_syncs();
        self.enter(State::PreparingRebalance, now);
    }

    pub(super) fn prepare_rebalance_now(&mut self, now: Now, effects: &mut Vec<Effect>) {
        assert!(
            matches!(self.state, State::CompletingRebalance | State::Stable),
            "group {}: a rebalance begins in state {}",
            self.id,
            self.state.name()
        );
        if self.state == State::CompletingRebalance {
            self.drop_assignments(ResponseError::RebalanceInProgress, now, effects);
        }
        self.clear_pending_syncs();
        self.enter(State::PreparingRebalance, now);
        if self.all_joined() {
            self.complete_join(now, effects);
        } else {
            let at = self.arm(now.tick_ms + self.rebalance_timeout_ms());
            self.join_deadline = Some(JoinDeadline::Rebalance { at });
        }
    }

    /// The longest that any member asked for.
    pub(super) fn rebalance_timeout_ms(&self) -> u64 {
        self.members.values().map(|member| member.rebalance_timeout_ms as u64).max().unwrap_or(0)
    }

    fn all_joined(&self) -> bool {
        self.members.len() == self.joins_waiting && self.pending_joins.is_empty()
    }

    /// Ends the join phase once everybody is there; the first one of an empty group always runs its time.
    pub(super) fn maybe_complete_join(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.state == State::PreparingRebalance && self.all_joined() && !self.initial {
            self.complete_join(now, effects);
        }
    }

    /// The join phase is over: dynamic members that did not come are out, and the next generation begins. Static ones
    /// keep their place until their session is over.
    fn complete_join(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.join_deadline = None;
        let missing =
            self.members.iter().filter(|(_, member)| member.join.is_none() && member.instance_id.is_none());
        let missing: Vec<MemberId> = missing.map(|(member_id, _)| member_id.clone()).collect();
        for member_id in &missing {
            self.remove(member_id, effects);
        }
        if !self.elect_joined_leader() && !self.members.is_empty() {
            // Nobody came, and the static members keep their places: wait for sessions to end or somebody to come.
            let wait_ms = self.rebalance_timeout_ms().max(NOBODY_CAME_WAIT_MS_MIN);
            let at = self.arm(now.tick_ms + wait_ms);
            self.join_deadline = Some(JoinDeadline::Rebalance { at });
            return;
        }
        // After 2^31 - 1 of them, or where the log says so. (Kafka's number becomes negative, which no client is made for.)
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.clear_pending_syncs();
        if self.members.is_empty() {
            self.protocol = None;
            self.enter(State::Empty, now);
            self.store(Storing::Empty, effects);
            return;
        }
        self.protocol = self.select_protocol();
        self.enter(State::CompletingRebalance, now);
        let everybody: Vec<MemberId> = self.members.keys().cloned().collect();
        for member_id in everybody {
            if let Some(waiter) = self.answer_join(&member_id) {
                let joined = self.joined(&member_id);
                effects.push(Effect::Join(waiter, Ok(joined)));
            }
            self.is_established(&member_id, now);
            self.pending_syncs.insert(member_id);
        }
        self.sync_deadline = self.arm(now.tick_ms + self.rebalance_timeout_ms());
    }

    /// The leader has to be somebody who joined. `false` if nobody did.
    fn elect_joined_leader(&mut self) -> bool {
        let Some(leader) = &self.leader else { return false };
        if self.members[leader].join.is_some() {
            return true;
        }
        let joined = self.members.iter().find(|(_, member)| member.join.is_some());
        match joined.map(|(member_id, _)| member_id.clone()) {
            Some(member_id) => {
                self.leader = Some(member_id);
                true
            }
            None => false,
        }
    }

    fn clear_pending_syncs(&mut self) {
        self.pending_syncs.clear();
        self.sync_deadline = NEVER;
    }

    /// Everybody who waits for an assignment gets the error instead.
    pub(super) fn drop_assignments(&mut self, error: ResponseError, now: Now, effects: &mut Vec<Effect>) {
        let everybody: Vec<MemberId> = self.members.keys().cloned().collect();
        for member_id in everybody {
            let member = self.members.get_mut(&member_id).expect("just listed");
            member.assignment = bytes::Bytes::new();
            if let Some(waiter) = member.sync.take() {
                effects.push(Effect::Sync(waiter, Err(error)));
                self.rearm_session(&member_id, now);
            }
        }
    }

    /// What an [`Effect::Store`] asked for is durable, or could not be made so, with the error for whoever waits.
    ///
    /// # Panics
    /// If `id` is not on its way.
    pub fn stored(
        &mut self,
        now: Now,
        id: StoreId,
        result: Result<(), ResponseError>,
        effects: &mut Vec<Effect>,
    ) {
        match self.storing.remove(&id).expect("every store is reported once") {
            Storing::Assignment { generation, assignments } => {
                // Somebody may have joined or left meanwhile: then this assignment is of the past (G3).
                if self.state == State::CompletingRebalance && self.generation == generation {
                    match result {
                        Ok(()) => self.release_assignments(now, assignments, effects),
                        Err(error) => {
                            self.drop_assignments(error, now, effects);
                            self.prepare_rebalance_now(now, effects);
                        }
                    }
                }
            }
            Storing::StaticMember { member_id, leader_before, skip_assignment_known } => {
                self.static_member_stored(
                    now,
                    &member_id,
                    leader_before,
                    skip_assignment_known,
                    result,
                    effects,
                );
            }
            // If it failed, a restart finds the last generation with members and lets their sessions end: as safe.
            Storing::Empty => {}
        }
    }

    /// Does what is due. To be called at [`Group::wake`] or later; sets the next wake exactly.
    pub fn expire(&mut self, now: Now, rules: &Rules, effects: &mut Vec<Effect>) {
        if now.tick_ms < self.wake {
            return;
        }
        self.expire_pending_joins(now, effects);
        self.expire_sessions(now, effects);
        self.expire_join_phase(now, rules, effects);
        self.expire_sync_phase(now, effects);
        let sessions = self.members.values().map(|member| member.session_deadline);
        let phases = [self.join_deadline.map_or(NEVER, JoinDeadline::at), self.sync_deadline];
        let all = sessions.chain(self.pending_joins.values().copied()).chain(phases);
        self.wake = all.min().unwrap_or(NEVER);
    }

    fn expire_pending_joins(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let before = self.pending_joins.len();
        self.pending_joins.retain(|_, lapses| *lapses > now.tick_ms);
        let some_lapsed = self.pending_joins.len() < before;
        if some_lapsed && self.state == State::PreparingRebalance && self.all_joined() {
            self.complete_join(now, effects);
        }
    }

    fn expire_sessions(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let due = self.members.iter().filter(|(_, member)| member.session_deadline <= now.tick_ms);
        let due: Vec<MemberId> = due.map(|(member_id, _)| member_id.clone()).collect();
        for member_id in due {
            // It may have been removed, or been given more time, by what an earlier one's end led to.
            let Some(member) = self.members.get_mut(&member_id) else { continue };
            if member.session_deadline > now.tick_ms {
                continue;
            }
            if !member.is_new && (member.join.is_some() || member.sync.is_some()) {
                // It waits for us (behaviour 88); its session starts again when it is answered.
                member.session_deadline = NEVER;
                continue;
            }
            self.remove(&member_id, effects);
            match self.state {
                State::CompletingRebalance | State::Stable => self.prepare_rebalance_now(now, effects),
                State::PreparingRebalance if self.all_joined() => self.complete_join(now, effects),
                State::PreparingRebalance | State::Empty => {}
            }
        }
    }

    fn expire_join_phase(&mut self, now: Now, rules: &Rules, effects: &mut Vec<Effect>) {
        let Some(deadline) = self.join_deadline.filter(|deadline| deadline.at() <= now.tick_ms) else {
            return;
        };
        assert_eq!(
            self.state,
            State::PreparingRebalance,
            "group {}: a join phase ends in another state",
            self.id
        );
        match deadline {
            JoinDeadline::Initial { delay_ms, remaining_ms, .. }
                if self.new_member_added && remaining_ms > 0 =>
            {
                self.new_member_added = false;
                let next_ms = (rules.initial_rebalance_delay.as_millis() as u64).min(remaining_ms);
                let at = self.arm(now.tick_ms + next_ms);
                let remaining_ms = remaining_ms.saturating_sub(delay_ms);
                self.join_deadline = Some(JoinDeadline::Initial { at, delay_ms: next_ms, remaining_ms });
            }
            JoinDeadline::Initial { .. } | JoinDeadline::Rebalance { .. } => self.complete_join(now, effects),
        }
    }

    /// Behaviour 88: who joined and never synced is out.
    fn expire_sync_phase(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.sync_deadline > now.tick_ms {
            return;
        }
        self.sync_deadline = NEVER;
        let missing: Vec<MemberId> = self.pending_syncs.iter().cloned().collect();
        for member_id in &missing {
            self.remove(member_id, effects);
        }
        if !missing.is_empty() {
            self.prepare_rebalance_now(now, effects);
        }
    }

    /// For a coordinator that stops: everybody who waits gets the error.
    pub fn abandon(&mut self, error: ResponseError, effects: &mut Vec<Effect>) {
        let everybody: Vec<MemberId> = self.members.keys().cloned().collect();
        for member_id in everybody {
            if let Some(waiter) = self.answer_join(&member_id) {
                effects.push(refuse(waiter, error, member_id.clone()));
            }
            if let Some(waiter) = self.members.get_mut(&member_id).and_then(|member| member.sync.take()) {
                effects.push(Effect::Sync(waiter, Err(error)));
            }
        }
    }
}
