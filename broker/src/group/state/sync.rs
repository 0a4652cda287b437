//! SyncGroup, Heartbeat and LeaveGroup (behaviours 89–91).

use super::{Effect, Group, Leaving, MemberId, NEVER, Now, State, Storing, SyncRequest, Synced, Waiter};
use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use std::collections::HashMap;
use std::sync::Arc;

impl Group {
    /// The answer comes as an [`Effect::Sync`] of this or a later call.
    pub fn sync(&mut self, now: Now, waiter: Waiter, request: SyncRequest, effects: &mut Vec<Effect>) {
        if let Err(error) = self.check_sync(&request) {
            effects.push(Effect::Sync(waiter, Err(error)));
            return;
        }
        let member_id = request.member_id.clone();
        self.pending_syncs.remove(&member_id);
        if self.pending_syncs.is_empty() {
            self.sync_deadline = NEVER;
        }
        if self.state == State::Stable {
            self.rearm_session(&member_id, now);
            let assignment = self.members[&member_id].assignment.clone();
            effects.push(Effect::Sync(waiter, Ok(self.synced(assignment))));
            return;
        }
        let member = self.members.get_mut(&member_id).expect("check_sync found it");
        if let Some(superseded) = member.sync.replace(waiter) {
            effects.push(Effect::Sync(superseded, Err(ResponseError::RebalanceInProgress)));
        }
        if self.is_leader(&member_id) {
            let assignments: HashMap<MemberId, Bytes> = request.assignments.into_iter().collect();
            self.store(Storing::Assignment { generation: self.generation, assignments }, effects);
        }
    }

    /// After this the state is CompletingRebalance or Stable and the member is in it.
    fn check_sync(&self, request: &SyncRequest) -> Result<(), ResponseError> {
        self.check_member(&request.member_id, request.instance_id.as_deref())?;
        if request.generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        let differs = |said: &Option<Arc<str>>, ours: &Option<Arc<str>>| said.is_some() && said != ours;
        if differs(&request.protocol_type, &self.protocol_type) || differs(&request.protocol, &self.protocol)
        {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        match self.state {
            State::Empty => Err(ResponseError::UnknownMemberId),
            State::PreparingRebalance => Err(ResponseError::RebalanceInProgress),
            State::CompletingRebalance | State::Stable => Ok(()),
        }
    }

    fn synced(&self, assignment: Bytes) -> Synced {
        Synced { protocol_type: self.protocol_type.clone(), protocol: self.protocol.clone(), assignment }
    }

    /// The assignments are durable: to the members with them. Who is not in the leader's list gets an empty one.
    pub(super) fn release_assignments(
        &mut self,
        now: Now,
        mut assignments: HashMap<MemberId, Bytes>,
        effects: &mut Vec<Effect>,
    ) {
        let everybody: Vec<MemberId> = self.members.keys().cloned().collect();
        for member_id in everybody {
            let assignment = assignments.remove(&member_id).unwrap_or_default();
            let synced = self.synced(assignment.clone());
            let member = self.members.get_mut(&member_id).expect("just listed");
            member.assignment = assignment;
            if let Some(waiter) = member.sync.take() {
                effects.push(Effect::Sync(waiter, Ok(synced)));
                self.rearm_session(&member_id, now);
            }
        }
        self.enter(State::Stable, now);
    }

    /// Behaviour 90.
    pub fn heartbeat(
        &mut self,
        now: Now,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<(), ResponseError> {
        self.check_member(member_id, instance_id)?;
        if generation != self.generation {
            return Err(ResponseError::IllegalGeneration);
        }
        self.rearm_session(member_id, now);
        match self.state {
            State::Empty => Err(ResponseError::UnknownMemberId),
            State::PreparingRebalance => Err(ResponseError::RebalanceInProgress),
            State::CompletingRebalance | State::Stable => Ok(()),
        }
    }

    /// Behaviour 91: one result for each, in order. The rebalance begins at once.
    pub fn leave(
        &mut self,
        now: Now,
        leaving: &[Leaving],
        effects: &mut Vec<Effect>,
    ) -> Vec<Result<(), ResponseError>> {
        let results: Vec<_> = leaving.iter().map(|member| self.leave_one(member, effects)).collect();
        if results.iter().any(Result::is_ok) {
            match self.state {
                State::CompletingRebalance | State::Stable => self.prepare_rebalance_now(now, effects),
                State::PreparingRebalance => self.maybe_complete_join(now, effects),
                State::Empty => {}
            }
        }
        results
    }

    fn leave_one(&mut self, leaving: &Leaving, effects: &mut Vec<Effect>) -> Result<(), ResponseError> {
        if leaving.member_id.is_empty() {
            let instance_id = leaving.instance_id.as_ref().ok_or(ResponseError::UnknownMemberId)?;
            let member_id = self.statics.get(instance_id).cloned().ok_or(ResponseError::UnknownMemberId)?;
            self.remove(&member_id, effects);
        } else if self.pending_joins.remove(&leaving.member_id).is_none() {
            self.check_member(&leaving.member_id, leaving.instance_id.as_deref())?;
            self.remove(&leaving.member_id, effects);
        }
        Ok(())
    }
}
