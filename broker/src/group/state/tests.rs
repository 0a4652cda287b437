//! One test per rule, and random walks that check the invariants of the module.

mod random;
mod removal;
mod rules;

use super::*;
use std::collections::HashMap;

/// A group, a clock, and the answers so far.
pub struct Driver {
    pub group: Group,
    pub now: Now,
    pub rules: Rules,
    pub joins: HashMap<Waiter, JoinAnswer>,
    pub syncs: HashMap<Waiter, SyncAnswer>,
    /// Not yet reported as stored.
    pub stores: Vec<(StoreId, GroupMetadata)>,
    next_waiter: u64,
    next_uuid: u128,
}

impl Driver {
    pub fn new() -> Driver {
        let now = Now { tick_ms: 1_000_000, wall_ms: 1_700_000_000_000, outvoted: false };
        Driver {
            group: Group::new(Arc::from("g"), now),
            now,
            rules: Rules::default(),
            joins: HashMap::new(),
            syncs: HashMap::new(),
            stores: Vec::new(),
            next_waiter: 0,
            next_uuid: 0,
        }
    }

    pub fn absorb(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Join(waiter, answer) => {
                    assert!(self.joins.insert(waiter, answer).is_none(), "{waiter:?} answered twice (G5)");
                }
                Effect::Sync(waiter, answer) => {
                    assert!(self.syncs.insert(waiter, answer).is_none(), "{waiter:?} answered twice (G5)");
                }
                Effect::Store(id, value) => self.stores.push((id, value)),
            }
        }
    }

    pub fn run<T>(&mut self, call: impl FnOnce(&mut Group, Now, &Rules, &mut Vec<Effect>) -> T) -> T {
        let mut effects = Vec::new();
        let result = call(&mut self.group, self.now, &self.rules, &mut effects);
        self.absorb(effects);
        result
    }

    pub fn waiter(&mut self) -> Waiter {
        self.next_waiter += 1;
        Waiter(self.next_waiter)
    }

    pub fn request(&mut self, member_id: &str) -> JoinRequest {
        self.next_uuid += 1;
        JoinRequest {
            member_id: Arc::from(member_id),
            instance_id: None,
            client_id: Arc::from("c"),
            client_host: Arc::from("/127.0.0.1"),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 60_000,
            protocol_type: Arc::from("consumer"),
            protocols: vec![protocol("range", "topics")],
            requires_known_member_id: true,
            supports_skipping_assignment: true,
            fresh: Uuid::from_u128(self.next_uuid),
        }
    }

    pub fn join(&mut self, request: JoinRequest) -> Waiter {
        let waiter = self.waiter();
        self.run(|group, now, rules, effects| group.join(now, rules, waiter, request, effects));
        waiter
    }

    /// Asks for a member id as a client would.
    pub fn fresh_id(&mut self) -> MemberId {
        let request = self.request("");
        let waiter = self.join(request);
        let refused = self.joins[&waiter].clone().unwrap_err();
        assert_eq!(refused.error, ResponseError::MemberIdRequired);
        refused.member_id
    }

    /// Both steps of a new dynamic member.
    pub fn join_new(&mut self) -> (MemberId, Waiter) {
        let member_id = self.fresh_id();
        let request = self.request(&member_id);
        let waiter = self.join(request);
        (member_id, waiter)
    }

    pub fn join_static(&mut self, instance_id: &str) -> Waiter {
        let mut request = self.request("");
        request.instance_id = Some(Arc::from(instance_id));
        self.join(request)
    }

    pub fn rejoin(&mut self, member_id: &str) -> Waiter {
        let request = self.request(member_id);
        self.join(request)
    }

    pub fn joined(&self, waiter: Waiter) -> Joined {
        self.joins[&waiter].clone().expect("joined")
    }

    pub fn join_error(&self, waiter: Waiter) -> ResponseError {
        self.joins[&waiter].clone().expect_err("refused").error
    }

    pub fn sync(&mut self, member_id: &str, assignments: &[(&str, &str)]) -> Waiter {
        let request = SyncRequest {
            member_id: Arc::from(member_id),
            instance_id: None,
            generation: self.group.generation(),
            protocol_type: None,
            protocol: None,
            assignments: assignments.iter().map(|(id, bytes)| (Arc::from(*id), text(bytes))).collect(),
        };
        self.sync_with(request)
    }

    pub fn sync_with(&mut self, request: SyncRequest) -> Waiter {
        let waiter = self.waiter();
        self.run(|group, now, _, effects| group.sync(now, waiter, request, effects));
        waiter
    }

    pub fn store_all(&mut self) {
        for (id, _) in std::mem::take(&mut self.stores) {
            self.run(|group, now, _, effects| group.stored(now, id, Ok(()), effects));
        }
    }

    pub fn heartbeat(&mut self, member_id: &str) -> Result<(), ResponseError> {
        let (now, generation) = (self.now, self.group.generation());
        self.group.heartbeat(now, member_id, None, generation)
    }

    pub fn leave(&mut self, member_id: &str, instance_id: Option<&str>) -> Result<(), ResponseError> {
        let leaving = Leaving { member_id: Arc::from(member_id), instance_id: instance_id.map(Arc::from) };
        self.run(|group, now, _, effects| group.leave(now, &[leaving], effects))[0]
    }

    /// Lets time pass, waking the group whenever it asked for it.
    pub fn pass(&mut self, duration_ms: u64) {
        let end = self.now.tick_ms + duration_ms;
        while self.group.wake() <= end {
            let step = self.group.wake().max(self.now.tick_ms) - self.now.tick_ms;
            self.step(step);
            self.run(|group, now, rules, effects| group.expire(now, rules, effects));
        }
        let rest = end - self.now.tick_ms;
        self.step(rest);
    }

    fn step(&mut self, duration_ms: u64) {
        self.now.tick_ms += duration_ms;
        self.now.wall_ms += duration_ms as i64;
    }

    /// A stable group of `count` dynamic members, each with its index as its assignment. Leader first.
    pub fn stable(count: usize) -> (Driver, Vec<MemberId>) {
        let mut driver = Driver::new();
        let mut members: Vec<(MemberId, Waiter)> = (0..count).map(|_| driver.join_new()).collect();
        driver.pass(12_000);
        let leader = driver.joined(members[0].1).leader;
        members.sort_by_key(|(member_id, _)| (*member_id != leader, member_id.clone()));
        let ids: Vec<MemberId> = members.into_iter().map(|(member_id, _)| member_id).collect();
        driver.sync_all(&ids);
        assert_eq!(driver.group.state(), State::Stable);
        (driver, ids)
    }

    /// Everybody syncs, the leader with assignments "0", "1", … in order.
    pub fn sync_all(&mut self, ids: &[MemberId]) {
        let texts: Vec<String> = (0..ids.len()).map(|index| index.to_string()).collect();
        let assignments: Vec<(&str, &str)> =
            ids.iter().zip(&texts).map(|(id, text)| (&**id, text.as_str())).collect();
        for id in ids {
            self.sync(id, &assignments);
        }
        self.store_all();
    }
}

pub fn protocol(name: &str, metadata: &str) -> Protocol {
    Protocol { name: Arc::from(name), metadata: text(metadata) }
}

pub fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
