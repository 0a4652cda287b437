//! JoinGroup (behaviours 82–87 and 92).

use super::{
    Effect, Group, JoinRefused, JoinRequest, Joined, JoinedMember, Member, MemberId, NEVER, Now, Rules,
    State, Storing, Waiter,
};
use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use std::collections::HashMap;
use std::sync::Arc;

impl Group {
    /// The answer comes as an [`Effect::Join`] of this or a later call.
    ///
    /// The caller has checked the session timeout and that the group exists if the member id is not empty.
    pub fn join(
        &mut self,
        now: Now,
        rules: &Rules,
        waiter: Waiter,
        mut request: JoinRequest,
        effects: &mut Vec<Effect>,
    ) {
        request.session_timeout_ms = request.session_timeout_ms.max(0);
        request.rebalance_timeout_ms = request.rebalance_timeout_ms.max(0);
        drop_repeated_names(&mut request);
        let nobody = || MemberId::from("");
        if !self.accepts(rules, &request.member_id) {
            self.remove(&request.member_id, effects);
            effects.push(refuse(waiter, ResponseError::GroupMaxSizeReached, nobody()));
            return self.maybe_complete_join(now, effects);
        }
        let is_new = request.member_id.is_empty();
        if !self.supports(&request) {
            let member_id = request.member_id.clone();
            effects.push(refuse(waiter, ResponseError::InconsistentGroupProtocol, member_id));
        } else if is_new {
            self.join_new(now, rules, waiter, request, effects);
        } else {
            self.join_known(now, rules, waiter, request, effects);
        }
    }

    /// Room for this member? While a join phase runs, those who have rejoined count, so that an over-full group loses
    /// whoever comes last.
    fn accepts(&self, rules: &Rules, member_id: &str) -> bool {
        let member = self.members.get(member_id);
        match self.state {
            State::Empty => true,
            State::PreparingRebalance => {
                member.is_some_and(|member| member.join.is_some())
                    || self.joins_waiting < rules.group_size_max
            }
            State::CompletingRebalance | State::Stable => {
                member.is_some() || self.members.len() < rules.group_size_max
            }
        }
    }

    /// Behaviour 84: at least one offered protocol that all members offer, and the group's protocol type.
    fn supports(&self, request: &JoinRequest) -> bool {
        if self.state == State::Empty {
            return !request.protocol_type.is_empty() && !request.protocols.is_empty();
        }
        self.protocol_type.as_ref() == Some(&request.protocol_type)
            && request.protocols.iter().any(|offered| self.supporters_of(&offered.name) == self.members.len())
    }

    pub(super) fn supporters_of(&self, protocol: &str) -> usize {
        self.supporters.get(protocol).copied().unwrap_or(0)
    }

    fn join_new(
        &mut self,
        now: Now,
        rules: &Rules,
        waiter: Waiter,
        request: JoinRequest,
        effects: &mut Vec<Effect>,
    ) {
        let stem = request.instance_id.as_ref().unwrap_or(&request.client_id);
        let member_id = MemberId::from(format!("{stem}-{}", request.fresh));
        if let Some(instance_id) = &request.instance_id {
            match self.statics.get(instance_id).cloned() {
                Some(holder) => self.replace_static(now, waiter, request, holder, member_id, effects),
                None => self.add(now, rules, waiter, request, member_id, effects),
            }
        } else if !request.requires_known_member_id {
            self.add(now, rules, waiter, request, member_id, effects);
        } else if self.pending_joins.len() >= rules.pending_members_max {
            effects.push(refuse(waiter, ResponseError::GroupMaxSizeReached, MemberId::from("")));
        } else {
            let lapses = self.arm(now.tick_ms + request.session_timeout_ms as u64);
            self.pending_joins.insert(member_id.clone(), lapses);
            effects.push(refuse(waiter, ResponseError::MemberIdRequired, member_id));
        }
    }

    fn join_known(
        &mut self,
        now: Now,
        rules: &Rules,
        waiter: Waiter,
        request: JoinRequest,
        effects: &mut Vec<Effect>,
    ) {
        let member_id = request.member_id.clone();
        if self.pending_joins.contains_key(&member_id) && request.instance_id.is_none() {
            return self.add(now, rules, waiter, request, member_id, effects);
        }
        if let Err(error) = self.check_member(&member_id, request.instance_id.as_deref()) {
            effects.push(refuse(waiter, error, member_id));
            return;
        }
        let unchanged = self.members[&member_id].protocols == request.protocols;
        let current = match self.state {
            State::PreparingRebalance => false,
            // The response to its join may have been lost.
            State::CompletingRebalance => unchanged,
            // A leader that joins wants a new assignment, of other topics perhaps.
            State::Stable => unchanged && !self.is_leader(&member_id),
            // A member of an empty group cannot be.
            State::Empty => unreachable!("group {}: members in state Empty", self.id),
        };
        if current {
            let joined = self.joined(&member_id);
            effects.push(Effect::Join(waiter, Ok(joined)));
        } else {
            self.update(waiter, request, &member_id, effects);
            self.rebalance_or_complete(now, rules, effects);
        }
    }

    fn add(
        &mut self,
        now: Now,
        rules: &Rules,
        waiter: Waiter,
        request: JoinRequest,
        member_id: MemberId,
        effects: &mut Vec<Effect>,
    ) {
        if self.state == State::PreparingRebalance && self.initial {
            self.new_member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type);
        }
        let session_deadline = self.arm(now.tick_ms + rules.new_member_join_timeout.as_millis() as u64);
        let member = Member {
            instance_id: request.instance_id,
            client_id: request.client_id,
            client_host: request.client_host,
            session_timeout_ms: request.session_timeout_ms,
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            protocols: request.protocols,
            assignment: Bytes::new(),
            join: Some(waiter),
            sync: None,
            is_new: true,
            session_deadline,
        };
        self.insert(member_id, member);
        self.rebalance_or_complete(now, rules, effects);
    }

    /// The member has what the request says and waits for the end of the join phase.
    fn update(
        &mut self,
        waiter: Waiter,
        request: JoinRequest,
        member_id: &MemberId,
        effects: &mut Vec<Effect>,
    ) {
        let was_leader = self.is_leader(member_id);
        let was_pending_sync = self.pending_syncs.contains(member_id);
        let mut member = self.take(member_id).expect("the caller has checked that the member is there");
        if let Some(superseded) = member.join.replace(waiter) {
            effects.push(refuse(superseded, ResponseError::RebalanceInProgress, member_id.clone()));
        }
        member.protocols = request.protocols;
        member.session_timeout_ms = request.session_timeout_ms;
        member.rebalance_timeout_ms = request.rebalance_timeout_ms;
        self.insert(member_id.clone(), member);
        if was_leader {
            self.leader = Some(member_id.clone());
        }
        if was_pending_sync {
            self.pending_syncs.insert(member_id.clone());
        }
    }

    /// Behaviour 92: the instance is back without its member id; a new id takes the old one's place.
    fn replace_static(
        &mut self,
        now: Now,
        waiter: Waiter,
        request: JoinRequest,
        old: MemberId,
        new: MemberId,
        effects: &mut Vec<Effect>,
    ) {
        let skip_assignment_known = request.supports_skipping_assignment;
        let leader_before = self.leader.clone().expect("a group with a static member has a leader");
        let was_pending_sync = self.pending_syncs.contains(&old);
        let mut member = self.take(&old).expect("an instance id maps to a member");
        if let Some(fenced) = member.join.take() {
            effects.push(refuse(fenced, ResponseError::FencedInstanceId, old.clone()));
        }
        if let Some(fenced) = member.sync.take() {
            effects.push(Effect::Sync(fenced, Err(ResponseError::FencedInstanceId)));
        }
        member.is_new = false;
        self.insert(new.clone(), member);
        if leader_before == old {
            self.leader = Some(new.clone());
        }
        if was_pending_sync {
            self.pending_syncs.insert(new.clone());
        }
        self.update(waiter, request, &new, effects);
        self.rearm_session(&new, now);
        match self.state {
            State::Stable if self.protocol.as_ref() == self.select_protocol().as_ref() => {
                let storing = Storing::StaticMember { member_id: new, leader_before, skip_assignment_known };
                self.store(storing, effects);
            }
            // The old id may be on its way to the leader for an assignment already, so everybody has to come again.
            State::Stable | State::CompletingRebalance => self.prepare_rebalance_now(now, effects),
            State::PreparingRebalance => self.maybe_complete_join(now, effects),
            State::Empty => unreachable!("group {}: members in state Empty", self.id),
        }
    }

    /// The value with a replaced static member is durable, or could not be made so.
    pub(super) fn static_member_stored(
        &mut self,
        now: Now,
        member_id: &MemberId,
        leader_before: MemberId,
        skip_assignment_known: bool,
        result: Result<(), ResponseError>,
        effects: &mut Vec<Effect>,
    ) {
        // If a rebalance began meanwhile, its end answers the member.
        if self.state != State::Stable {
            return;
        }
        let is_leader = self.is_leader(member_id);
        let mut joined = match self.members.get(member_id) {
            Some(member) if member.join.is_some() => self.joined(member_id),
            _ => return,
        };
        let waiter = self.answer_join(member_id).expect("checked above");
        self.rearm_session(member_id, now);
        if let Err(error) = result {
            // The member keeps its new id: the old one is fenced already, and the client comes again without an id.
            effects.push(refuse(waiter, error, MemberId::from("")));
            return;
        }
        if skip_assignment_known {
            joined.skip_assignment = is_leader;
        } else {
            // An older client would take being named leader as an order to assign; it learns who led before instead.
            joined.leader = leader_before;
            joined.members.clear();
        }
        effects.push(Effect::Join(waiter, Ok(joined)));
    }

    /// The answer that a member gets for the current generation.
    pub(super) fn joined(&self, member_id: &MemberId) -> Joined {
        let protocol = self.protocol.clone().unwrap_or_else(|| Arc::from(""));
        let everybody = || {
            let listed = self.members.iter().map(|(member_id, member)| JoinedMember {
                member_id: member_id.clone(),
                instance_id: member.instance_id.clone(),
                metadata: member.metadata(&protocol),
            });
            listed.collect()
        };
        Joined {
            member_id: member_id.clone(),
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_else(|| MemberId::from("")),
            skip_assignment: false,
            members: if self.is_leader(member_id) { everybody() } else { Vec::new() },
        }
    }

    /// Takes the member's waiter, to be answered by the caller.
    pub(super) fn answer_join(&mut self, member_id: &str) -> Option<Waiter> {
        let waiter = self.members.get_mut(member_id)?.join.take();
        self.joins_waiting -= usize::from(waiter.is_some());
        waiter
    }

    /// Behaviour 84: of the protocols that all members offer, the one that most members prefer; of several, the one
    /// that comes first in the first member's list.
    pub(super) fn select_protocol(&self) -> Option<Arc<str>> {
        let mut votes: HashMap<&Arc<str>, usize> = HashMap::new();
        for member in self.members.values() {
            let vote = member
                .protocols
                .iter()
                .find(|offered| self.supporters_of(&offered.name) == self.members.len());
            let vote = vote
                .unwrap_or_else(|| panic!("group {}: no protocol that all members support (G4)", self.id));
            *votes.entry(&vote.name).or_default() += 1;
        }
        let most = votes.values().copied().max()?;
        let first = self.members.values().next()?;
        let in_order = first.protocols.iter().map(|offered| &offered.name);
        in_order.clone().find(|name| votes.get(name) == Some(&most)).cloned()
    }

    /// Removes a member; whatever it waits for is answered with UNKNOWN_MEMBER_ID, so that a live client joins anew.
    pub(super) fn remove(&mut self, member_id: &str, effects: &mut Vec<Effect>) {
        let Some(mut member) = self.take(member_id) else { return };
        if let Some(waiter) = member.join.take() {
            effects.push(refuse(waiter, ResponseError::UnknownMemberId, MemberId::from("")));
        }
        if let Some(waiter) = member.sync.take() {
            effects.push(Effect::Sync(waiter, Err(ResponseError::UnknownMemberId)));
        }
    }

    /// Its answer is out: from now on heartbeats are expected of it.
    pub(super) fn is_established(&mut self, member_id: &str, now: Now) {
        if let Some(member) = self.members.get_mut(member_id) {
            member.is_new = false;
            member.session_deadline = NEVER;
        }
        self.rearm_session(member_id, now);
    }
}

pub(super) fn refuse(waiter: Waiter, error: ResponseError, member_id: MemberId) -> Effect {
    Effect::Join(waiter, Err(JoinRefused { error, member_id }))
}

/// A name that a member offers twice counts once.
fn drop_repeated_names(request: &mut JoinRequest) {
    let mut seen = std::collections::HashSet::new();
    request.protocols.retain(|offered| seen.insert(offered.name.clone()));
}
