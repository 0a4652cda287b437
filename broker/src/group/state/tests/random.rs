//! Random operations against the invariants of the module.

use super::*;
use crate::group::records::tests::any_group;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Fresh,
    JoinPending(usize),
    Join { who: usize, changed: bool },
    JoinStatic { instance: u8, changed: bool, skipping: bool },
    Sync { who: usize, stale: bool },
    Heartbeat(usize),
    Leave(usize),
    LeaveStatic(u8),
    Stored { ok: bool },
    Pass(u64),
    Restore,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Fresh),
        4 => any::<usize>().prop_map(Op::JoinPending),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(who, changed)| Op::Join { who, changed }),
        3 => (0u8..3, any::<bool>(), any::<bool>())
            .prop_map(|(instance, changed, skipping)| Op::JoinStatic { instance, changed, skipping }),
        8 => (any::<usize>(), prop::bool::weighted(0.1)).prop_map(|(who, stale)| Op::Sync { who, stale }),
        5 => any::<usize>().prop_map(Op::Heartbeat),
        1 => any::<usize>().prop_map(Op::Leave),
        1 => (0u8..3).prop_map(Op::LeaveStatic),
        6 => prop::bool::weighted(0.9).prop_map(|ok| Op::Stored { ok }),
        6 => prop_oneof![0u64..100, 1_000u64..5_000, 10_000u64..70_000].prop_map(Op::Pass),
        1 => Just(Op::Restore),
    ]
}

/// A driver that also knows which ids and waiters there have been.
struct Walk {
    driver: Driver,
    pending: Vec<MemberId>,
    join_waiters: Vec<Waiter>,
    sync_waiters: Vec<Waiter>,
    generation: i32,
    /// The last value that became durable.
    durable: Option<GroupMetadata>,
}

impl Walk {
    fn new(size_max: usize) -> Walk {
        let mut driver = Driver::new();
        driver.rules.group_size_max = size_max;
        Walk {
            driver,
            pending: Vec::new(),
            join_waiters: Vec::new(),
            sync_waiters: Vec::new(),
            generation: 0,
            durable: None,
        }
    }

    fn pick(&self, who: usize) -> Option<MemberId> {
        let count = self.driver.group.members.len();
        (count > 0).then(|| self.driver.group.members.keys().nth(who % count).expect("in range").clone())
    }

    fn join(&mut self, mut request: JoinRequest, changed: bool) {
        request.protocols = vec![protocol("range", if changed { "b" } else { "a" }), protocol("sticky", "s")];
        if changed {
            request.protocols.reverse();
        }
        let waiter = self.driver.join(request);
        self.join_waiters.push(waiter);
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Fresh => {
                let request = self.driver.request("");
                let waiter = self.driver.join(request);
                self.join_waiters.push(waiter);
                let refused = self.driver.joins[&waiter].clone().unwrap_err();
                if refused.error == ResponseError::MemberIdRequired {
                    self.pending.push(refused.member_id);
                }
            }
            Op::JoinPending(which) if !self.pending.is_empty() => {
                let member_id = self.pending.swap_remove(which % self.pending.len());
                let request = self.driver.request(&member_id);
                self.join(request, false);
            }
            Op::Join { who, changed } => {
                if let Some(member_id) = self.pick(who) {
                    let mut request = self.driver.request(&member_id);
                    request.instance_id = self.driver.group.members[&member_id].instance_id.clone();
                    self.join(request, changed);
                }
            }
            Op::JoinStatic { instance, changed, skipping } => {
                let mut request = self.driver.request("");
                request.instance_id = Some(Arc::from(format!("i{instance}")));
                request.supports_skipping_assignment = skipping;
                self.join(request, changed);
            }
            Op::Sync { who, stale } => self.sync(who, stale),
            Op::Heartbeat(who) => {
                if let Some(member_id) = self.pick(who) {
                    let _ = self.driver.heartbeat(&member_id);
                }
            }
            Op::Leave(who) => {
                if let Some(member_id) = self.pick(who) {
                    self.driver.leave(&member_id, None).expect("a member may leave");
                }
            }
            Op::LeaveStatic(instance) => drop(self.driver.leave("", Some(&format!("i{instance}")))),
            Op::Stored { ok } => self.stored(ok),
            Op::Pass(duration_ms) => self.driver.pass(duration_ms),
            Op::Restore => self.restore(),
            Op::JoinPending(_) => {}
        }
    }

    fn sync(&mut self, who: usize, stale: bool) {
        let Some(member_id) = self.pick(who) else { return };
        let everybody = self.driver.group.members.keys().cloned();
        let generation = self.driver.group.generation();
        let request = SyncRequest {
            member_id,
            instance_id: None,
            generation: generation.wrapping_sub(i32::from(stale)),
            protocol_type: None,
            protocol: None,
            assignments: everybody.map(|id| (id.clone(), text(&format!("{generation}/{id}")))).collect(),
        };
        let waiter = self.driver.sync_with(request);
        self.sync_waiters.push(waiter);
    }

    fn stored(&mut self, ok: bool) {
        if self.driver.stores.is_empty() {
            return;
        }
        let (id, value) = self.driver.stores.remove(0);
        if ok {
            self.durable = Some(value);
        }
        let result = if ok { Ok(()) } else { Err(ResponseError::NotCoordinator) };
        self.driver.run(|group, now, _, effects| group.stored(now, id, result, effects));
    }

    /// The coordinator dies: who waits hears nothing, and the group is what the log says.
    fn restore(&mut self) {
        let Some(value) = &self.durable else { return };
        let mut before = Driver::new();
        std::mem::swap(&mut before, &mut self.driver);
        self.driver.now = before.now;
        self.driver.rules = before.rules;
        self.driver.next_waiter = before.next_waiter;
        self.driver.next_uuid = before.next_uuid;
        self.driver.group = Group::restore(Arc::from("g"), value, before.now);
        self.generation = value.generation;
        self.pending.clear();
        self.join_waiters.clear();
        self.sync_waiters.clear();
    }

    fn check(&mut self) {
        let group = &self.driver.group;
        // G1
        assert!(group.generation >= self.generation);
        self.generation = group.generation;
        // G2
        assert_eq!(group.leader.is_some(), !group.members.is_empty());
        if let Some(leader) = &group.leader {
            assert!(group.members.contains_key(leader));
        }
        assert!(group.state != State::Empty || group.members.is_empty());
        // G3: what a member of a stable group holds was made for it, in this generation or (a static member under a
        // new id) for its predecessor.
        if group.state == State::Stable {
            let made_for = format!("{}/", group.generation);
            for member in group.members.values().filter(|member| !member.assignment.is_empty()) {
                assert!(member.assignment.starts_with(made_for.as_bytes()));
            }
        }
        // G4
        if !group.members.is_empty() {
            assert!(group.select_protocol().is_some());
        }
        // G6
        for (instance_id, member_id) in &group.statics {
            assert_eq!(group.members[member_id].instance_id.as_ref(), Some(instance_id));
        }
        self.check_counts();
        self.check_waiters();
    }

    fn check_counts(&self) {
        let group = &self.driver.group;
        let waiting = group.members.values().filter(|member| member.join.is_some()).count();
        assert_eq!(group.joins_waiting, waiting);
        let statics = group.members.values().filter(|member| member.instance_id.is_some()).count();
        assert_eq!(group.statics.len(), statics);
        assert!(group.pending_syncs.iter().all(|id| group.members.contains_key(id)));
        assert_eq!(group.join_deadline.is_some(), group.state == State::PreparingRebalance);
        let sessions = group.members.values().map(|member| member.session_deadline);
        let phases = [group.join_deadline.map_or(NEVER, JoinDeadline::at), group.sync_deadline];
        let earliest = sessions.chain(group.pending_joins.values().copied()).chain(phases).min();
        assert!(group.wake <= earliest.unwrap_or(NEVER), "no deadline is slept through");
    }

    /// G5: every request is answered, or is held by exactly one member.
    fn check_waiters(&self) {
        let held = |pick: fn(&Member) -> Option<Waiter>| -> Vec<Waiter> {
            let mut held: Vec<_> = self.driver.group.members.values().filter_map(pick).collect();
            held.sort();
            held
        };
        let open = |all: &[Waiter], answered: &dyn Fn(&Waiter) -> bool| -> Vec<Waiter> {
            all.iter().copied().filter(|waiter| !answered(waiter)).collect()
        };
        let joins = open(&self.join_waiters, &|waiter| self.driver.joins.contains_key(waiter));
        assert_eq!(joins, held(|member| member.join));
        let syncs = open(&self.sync_waiters, &|waiter| self.driver.syncs.contains_key(waiter));
        assert_eq!(syncs, held(|member| member.sync));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever a value in the log says that can be decoded: the group that is made of it bears what comes.
    #[test]
    fn a_group_of_any_value_in_the_log_can_be_worked_with(
        value in any_group(),
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut walk = Walk::new(1000);
        walk.durable = Some(value);
        walk.restore();
        for op in ops {
            walk.apply(op);
            walk.check_counts();
            walk.check_waiters();
        }
        // A session may be as long as 2^31 milliseconds.
        for _ in 0..4 {
            walk.driver.pass(1 << 32);
            while !walk.driver.stores.is_empty() {
                walk.stored(true);
            }
        }
        prop_assert_eq!(walk.driver.group.state(), State::Empty);
        prop_assert!(walk.driver.group.generation() != i32::MIN);
    }

    #[test]
    fn random_operations_keep_the_invariants(
        size_max in prop_oneof![Just(3usize), Just(1000)],
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut walk = Walk::new(size_max);
        for op in ops {
            walk.apply(op);
            walk.check();
        }
        // Left alone, everybody is answered in the end and the group empties.
        walk.driver.pass(20 * 60_000);
        while !walk.driver.stores.is_empty() {
            walk.stored(true);
            walk.check();
            walk.driver.pass(20 * 60_000);
        }
        walk.check();
        prop_assert_eq!(walk.driver.group.state(), State::Empty);
        prop_assert_eq!(walk.driver.group.wake(), NEVER);
    }
}
