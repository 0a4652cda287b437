//! A small Kafka that keeps its promises, and clients that record what they see of it: true histories, by seed.
//!
//! Each step is of one client, chosen at random: it invokes something, lets it take effect, or hears how it came out. Sends
//! fail, are in doubt and land late; transactions commit, abort and hang; members come too late for their generation; the
//! starts of logs advance.

use std::collections::{BTreeMap, VecDeque};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::history::{F, Group, History, Key, Mop, Offset, Op, Polled, Process, Type, Value, Watermark};

/// What stands at an offset.
#[derive(Clone, Copy)]
enum Slot {
    Record(Value),
    /// Of a transaction, by number.
    Of(u32, Value),
    Marker,
}

#[derive(Default)]
struct Partition {
    slots: Vec<Slot>,
    start: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Open,
    Committed,
    Aborted,
}

/// A call under way.
struct Under {
    call: Option<u64>,
    f: F,
    /// Parts that took effect.
    done: usize,
    txn: Option<u32>,
    /// How it will come out, once all of it took effect or nothing will.
    plan: Plan,
}

#[derive(Clone, Copy, PartialEq)]
enum Plan {
    Ok,
    Fail,
    /// In doubt, and it happens at once, later, or never.
    Now,
    Late,
    Never,
}

#[derive(Default)]
struct Client {
    process: Process,
    role: Role,
    under: VecDeque<Under>,
    keys: Vec<Key>,
    positions: BTreeMap<Key, usize>,
    generation: i32,
    next_call: u64,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Role {
    #[default]
    Sends,
    /// Several sends at once.
    Streams,
    Reads,
    Transacts,
    Member,
    Watches,
}

pub(super) struct Made {
    pub ops: Vec<Op>,
    /// Lends the names.
    pub names: History,
    pub keys: Vec<Key>,
    pub group: Group,
}

impl Made {
    pub fn history(&self) -> History {
        let mut history = self.names.clone();
        for op in &self.ops {
            history.record(op.clone()).unwrap();
        }
        history
    }
}

struct World {
    random: StdRng,
    ops: Vec<Op>,
    keys: Vec<Key>,
    partitions: BTreeMap<Key, Partition>,
    fates: Vec<Fate>,
    /// Effects that are still on their way.
    late: Vec<Late>,
    next_value: Value,
    group: Group,
    generation: i32,
    assigned: BTreeMap<Process, Vec<Key>>,
    committed: BTreeMap<Key, Offset>,
    retention: bool,
}

enum Late {
    /// All of a call, in order.
    Send(Vec<(Key, Value)>),
    End(u32, Fate),
    Commit(i32, Vec<(Key, Offset)>),
}

/// A true history of about `steps` steps.
pub(super) fn make(seed: u64, steps: usize) -> Made {
    let mut random = StdRng::seed_from_u64(seed);
    let mut names = History::new();
    let keys: Vec<Key> = (0..random.random_range(1..5)).map(|at| names.key(&format!("t-{at}"))).collect();
    let group = names.group("g");
    let partitions = keys.iter().map(|key| (*key, Partition::default())).collect();
    let roles = [Role::Sends, Role::Streams, Role::Reads, Role::Transacts, Role::Member, Role::Watches];
    let mut clients: Vec<Client> = Vec::new();
    for process in 0..random.random_range(6..12) {
        let role = roles[if process < 6 { process as usize } else { random.random_range(0..roles.len()) }];
        clients.push(Client { process, role, ..Client::default() });
    }
    let mut world = World {
        ops: Vec::new(),
        partitions,
        fates: Vec::new(),
        late: Vec::new(),
        next_value: 0,
        group,
        generation: 0,
        assigned: BTreeMap::new(),
        committed: BTreeMap::new(),
        retention: random.random_bool(0.3),
        keys: keys.clone(),
        random,
    };
    for _ in 0..steps {
        let at = world.random.random_range(0..clients.len());
        world.step(&mut clients[at]);
        if world.random.random_bool(0.05) {
            world.rebalance(&clients);
        }
        world.lands(0.1);
        world.delete();
    }
    world.end(&mut clients);
    Made { ops: world.ops, names, keys, group }
}

impl World {
    fn record(&mut self, process: Process, call: Option<u64>, kind: Type, f: F) {
        let time = self.ops.len() as u64 * 1_000_000;
        self.ops.push(Op { process, kind, time, call, f });
    }

    fn value(&mut self) -> Value {
        self.next_value += 1;
        self.next_value
    }

    fn key(&mut self) -> Key {
        self.keys[self.random.random_range(0..self.keys.len())]
    }

    fn append(&mut self, key: Key, slot: Slot) -> Offset {
        let slots = &mut self.partitions.get_mut(&key).unwrap().slots;
        slots.push(slot);
        slots.len() as Offset - 1
    }

    /// Ends a transaction, with a marker in each partition that it wrote to.
    fn finish(&mut self, txn: u32, fate: Fate) {
        self.fates[txn as usize] = fate;
        for partition in self.partitions.values_mut() {
            if partition.slots.iter().any(|slot| matches!(slot, Slot::Of(of, _) if *of == txn)) {
                partition.slots.push(Slot::Marker);
            }
        }
    }

    fn lands(&mut self, chance: f64) {
        if self.late.is_empty() || !self.random.random_bool(chance) {
            return;
        }
        let at = self.random.random_range(0..self.late.len());
        match self.late.swap_remove(at) {
            Late::Send(records) => {
                for (key, value) in records {
                    self.append(key, Slot::Record(value));
                }
            }
            Late::End(txn, fate) => self.finish(txn, fate),
            Late::Commit(generation, offsets) => {
                if generation == self.generation {
                    self.committed.extend(offsets);
                }
            }
        }
    }

    fn delete(&mut self) {
        if self.retention && self.random.random_bool(0.02) {
            let key = self.key();
            let left = self.stable(key) - self.partitions[&key].start;
            let cut = self.random.random_range(0..=left);
            self.partitions.get_mut(&key).unwrap().start += cut;
        }
    }

    /// Where the first transaction that is open begins.
    fn stable(&self, key: Key) -> usize {
        let slots = &self.partitions[&key].slots;
        let open = |slot: &Slot| matches!(slot, Slot::Of(txn, _) if self.fates[*txn as usize] == Fate::Open);
        slots.iter().position(open).unwrap_or(slots.len())
    }

    /// At most so many slots from a position; the next position.
    fn read(&self, key: Key, from: usize, most: usize) -> (Vec<Polled>, usize) {
        let to = self.stable(key).min(from + most);
        let mut polled = Vec::new();
        for offset in from..to {
            let value = match self.partitions[&key].slots[offset] {
                Slot::Record(value) => value,
                Slot::Of(txn, value) if self.fates[txn as usize] == Fate::Committed => value,
                _ => continue,
            };
            polled.push(Polled { key, offset: offset as Offset, value });
        }
        (polled, to.max(from))
    }

    fn poll(&mut self, process: Process, positions: &mut BTreeMap<Key, usize>) -> Mop {
        let mut polled = Vec::new();
        let keys: Vec<Key> = positions.keys().copied().collect();
        for key in keys {
            let start = self.partitions[&key].start;
            if positions[&key] < start {
                let refused = F::OutOfRange { key, offset: positions[&key] as Offset };
                self.record(process, None, Type::Info, refused);
                positions.insert(key, start);
            } else if self.random.random_bool(0.7) {
                let most = self.random.random_range(1..6);
                let (records, next) = self.read(key, positions[&key], most);
                polled.extend(records);
                positions.insert(key, next);
            }
        }
        Mop::Poll(polled)
    }

    fn rebalance(&mut self, clients: &[Client]) {
        self.generation += 1;
        self.assigned.clear();
        let members: Vec<Process> = clients
            .iter()
            .filter(|client| client.role == Role::Member)
            .map(|client| client.process)
            .collect();
        for key in self.keys.clone() {
            let member = members[self.random.random_range(0..members.len())];
            self.assigned.entry(member).or_default().push(key);
        }
    }

    fn step(&mut self, client: &mut Client) {
        match client.role {
            Role::Sends | Role::Streams => self.produce(client),
            Role::Reads => self.consume(client),
            Role::Transacts => self.transact(client),
            Role::Member => self.member(client),
            Role::Watches => {
                let f = F::Watermarks(Vec::new());
                self.record(client.process, None, Type::Invoke, f);
                let marks = self.keys.iter().map(|key| Watermark {
                    key: *key,
                    start: self.partitions[key].start as Offset,
                    end: self.stable(*key) as Offset,
                });
                let f = F::Watermarks(marks.collect());
                self.record(client.process, None, Type::Ok, f);
            }
        }
    }

    fn plan(&mut self) -> Plan {
        match self.random.random_range(0..20) {
            0 => Plan::Fail,
            1 => Plan::Now,
            2 => Plan::Late,
            3 => Plan::Never,
            _ => Plan::Ok,
        }
    }

    /// A client that is in doubt ends, and its successor begins with nothing.
    fn crash(&mut self, client: &mut Client) {
        self.record(client.process, None, Type::Info, F::Crash);
        client.keys.clear();
        client.positions.clear();
        client.generation = 0;
    }

    fn produce(&mut self, client: &mut Client) {
        let most = if client.role == Role::Streams { 4 } else { 1 };
        if client.under.len() < most && self.random.random_bool(0.5) {
            let plan = match self.plan() {
                // Nothing of one producer overtakes: what is behind it would have to wait.
                Plan::Late if client.role == Role::Streams => Plan::Never,
                plan => plan,
            };
            let sends = if client.role == Role::Sends { self.random.random_range(1..3) } else { 1 };
            let mops = (0..sends).map(|_| Mop::Send { key: self.key(), value: self.value(), offset: None });
            let f = F::Send(mops.collect());
            let call = (client.role == Role::Streams).then_some(client.next_call);
            client.next_call += 1;
            self.record(client.process, call, Type::Invoke, f.clone());
            client.under.push_back(Under { call, f, done: 0, txn: None, plan });
            return;
        }
        // Effects in order of invocation; answers in any order.
        let pending = client.under.iter().position(|under| under.done < under.f.mops().len());
        if let Some(at) = pending.filter(|_| self.random.random_bool(0.6)) {
            let Under { plan, done, f, .. } = &mut client.under[at];
            let F::Send(mops) = f else { unreachable!() };
            let part = *done;
            *done += 1;
            let (plan, Mop::Send { key, value, offset }) = (*plan, &mut mops[part]) else { unreachable!() };
            match plan {
                Plan::Ok => *offset = Some(self.append(*key, Slot::Record(*value))),
                Plan::Now => {
                    self.append(*key, Slot::Record(*value));
                }
                Plan::Fail | Plan::Never | Plan::Late => {}
            }
            return;
        }
        let ready: Vec<usize> = (0..client.under.len())
            .filter(|at| client.under[*at].done == client.under[*at].f.mops().len())
            .collect();
        if ready.is_empty() {
            return;
        }
        let at = ready[self.random.random_range(0..ready.len())];
        let Under { call, f, plan, .. } = client.under.remove(at).unwrap();
        match plan {
            Plan::Ok => self.record(client.process, call, Type::Ok, f),
            Plan::Fail => self.record(client.process, call, Type::Fail, f),
            Plan::Now | Plan::Never | Plan::Late => {
                if plan == Plan::Late {
                    self.late.push(Late::Send(f.sends().map(|(key, value, _)| (key, value)).collect()));
                }
                self.record(client.process, call, Type::Info, f);
                // Its producer ends with it, and so does whatever else it had under way.
                for Under { call, f, plan, done, .. } in std::mem::take(&mut client.under) {
                    let acknowledged = done == f.mops().len() && plan == Plan::Ok;
                    self.record(client.process, call, if acknowledged { Type::Ok } else { Type::Info }, f);
                }
                self.crash(client);
            }
        }
    }

    fn assign(&mut self, client: &mut Client) {
        let mut keys: Vec<Key> = self.keys.clone();
        keys.retain(|_| self.random.random_bool(0.7));
        let seek = self.random.random_bool(0.3);
        for key in &keys {
            let begin = self.partitions[key].start;
            if seek {
                client.positions.insert(*key, begin);
            } else {
                client.positions.entry(*key).or_insert(begin);
            }
        }
        client.positions.retain(|key, _| keys.contains(key));
        client.keys = keys.clone();
        self.record(client.process, None, Type::Invoke, F::Assign { keys: keys.clone(), seek });
        self.record(client.process, None, Type::Ok, F::Assign { keys, seek });
    }

    fn consume(&mut self, client: &mut Client) {
        if client.under.is_empty() && (client.keys.is_empty() || self.random.random_bool(0.03)) {
            return self.assign(client);
        }
        if client.under.is_empty() {
            self.record(client.process, None, Type::Invoke, F::poll(Vec::new()));
            let f = F::Poll { mops: Vec::new(), rebalanced: Vec::new() };
            client.under.push_back(Under { call: None, f, done: 0, txn: None, plan: Plan::Ok });
            return;
        }
        client.under.clear();
        let mut positions = client.positions.clone();
        let mops: Vec<Mop> =
            (0..self.random.random_range(1..3)).map(|_| self.poll(client.process, &mut positions)).collect();
        let f = F::Poll { mops, rebalanced: client.keys.clone() };
        // Which key was reset within the call is not told apart here: it is said of all.
        let reset =
            positions.iter().any(|(key, at)| client.positions[key] < self.partitions[key].start && *at > 0);
        let f = match f {
            F::Poll { mops, .. } if !reset => F::Poll { mops, rebalanced: Vec::new() },
            f => f,
        };
        let kind = match self.random.random_range(0..20) {
            0 => Type::Fail,
            1 => Type::Info,
            _ => Type::Ok,
        };
        if kind == Type::Ok {
            client.positions = positions;
        }
        self.record(client.process, None, kind, f);
    }

    fn transact(&mut self, client: &mut Client) {
        if client.under.is_empty() && (client.keys.is_empty() || self.random.random_bool(0.05)) {
            return self.assign(client);
        }
        let Some(mut under) = client.under.pop_front() else {
            let plan = self.plan();
            let mut mops = Vec::new();
            for _ in 0..self.random.random_range(1..5) {
                mops.push(match self.random.random_bool(0.6) {
                    true => Mop::Send { key: self.key(), value: self.value(), offset: None },
                    false => Mop::Poll(Vec::new()),
                });
            }
            let f = F::Txn { mops, rebalanced: Vec::new() };
            self.record(client.process, None, Type::Invoke, f.clone());
            self.fates.push(Fate::Open);
            let txn = Some(self.fates.len() as u32 - 1);
            client.under.push_back(Under { call: None, f, done: 0, txn, plan });
            return;
        };
        let txn = under.txn.unwrap();
        let F::Txn { mops, rebalanced } = &mut under.f else { unreachable!() };
        // What it polls in this call begins where its last one that was ok ended.
        let mut positions = client.positions.clone();
        for polled in mops[..under.done].iter().flat_map(|mop| match mop {
            Mop::Poll(records) => records.as_slice(),
            Mop::Send { .. } => &[],
        }) {
            positions.insert(polled.key, polled.offset as usize + 1);
        }
        if under.done < mops.len() {
            match &mut mops[under.done] {
                Mop::Send { key, value, offset } => *offset = Some(self.append(*key, Slot::Of(txn, *value))),
                poll => {
                    let before = positions.clone();
                    *poll = self.poll(client.process, &mut positions);
                    let deleted = |(key, _): &(&Key, &usize)| before[*key] < self.partitions[*key].start;
                    let reset: Vec<Key> = positions.iter().filter(deleted).map(|(key, _)| *key).collect();
                    rebalanced.extend(reset);
                }
            }
            under.done += 1;
            client.under.push_front(under);
            return;
        }
        let kind = match under.plan {
            Plan::Ok => {
                self.finish(txn, Fate::Committed);
                client.positions = positions;
                Type::Ok
            }
            Plan::Fail => {
                self.finish(txn, Fate::Aborted);
                Type::Fail
            }
            Plan::Now => {
                self.finish(txn, Fate::Committed);
                Type::Info
            }
            Plan::Late => {
                let fate = if self.random.random_bool(0.5) { Fate::Committed } else { Fate::Aborted };
                self.late.push(Late::End(txn, fate));
                Type::Info
            }
            Plan::Never => {
                self.finish(txn, Fate::Aborted);
                Type::Info
            }
        };
        self.record(client.process, None, kind, under.f);
        if kind == Type::Info {
            self.crash(client);
        }
    }

    fn member(&mut self, client: &mut Client) {
        let process = client.process;
        let group = self.group;
        if client.generation == 0 {
            let f = F::Subscribe { group: Some(group), keys: self.keys.clone() };
            self.record(process, None, Type::Ok, f);
        }
        if client.generation == 0 || (client.generation != self.generation && self.random.random_bool(0.5)) {
            if self.generation == 0 {
                return;
            }
            let nothing = F::Join { group, generation: -1, keys: Vec::new() };
            self.record(process, None, Type::Invoke, nothing);
            client.generation = self.generation;
            client.keys = self.assigned.get(&process).cloned().unwrap_or_default();
            let f = F::Join { group, generation: client.generation, keys: client.keys.clone() };
            self.record(process, None, Type::Ok, f);
            self.record(process, None, Type::Ok, F::Rebalance(self.keys.clone()));
            self.record(process, None, Type::Invoke, F::Committed { group, offsets: Vec::new() });
            let offsets: Vec<(Key, Option<Offset>)> =
                client.keys.iter().map(|key| (*key, self.committed.get(key).copied())).collect();
            client.positions =
                offsets.iter().map(|(key, offset)| (*key, offset.unwrap_or(0) as usize)).collect();
            self.record(process, None, Type::Ok, F::Committed { group, offsets });
            return;
        }
        if self.random.random_bool(0.5) {
            let mut positions = client.positions.clone();
            let before = positions.clone();
            self.record(process, None, Type::Invoke, F::poll(Vec::new()));
            let mop = self.poll(process, &mut positions);
            let deleted = |key: &&Key| before.get(*key).is_some_and(|at| *at < self.partitions[*key].start);
            let rebalanced: Vec<Key> = client.keys.iter().filter(deleted).copied().collect();
            client.positions = positions;
            self.record(process, None, Type::Ok, F::Poll { mops: vec![mop], rebalanced });
        } else if !client.positions.is_empty() {
            let offsets: Vec<(Key, Offset)> =
                client.positions.iter().map(|(key, at)| (*key, *at as Offset)).collect();
            let f = F::Commit { group, generation: Some(client.generation), offsets: offsets.clone() };
            self.record(process, None, Type::Invoke, f.clone());
            let kind = if client.generation != self.generation {
                Type::Fail
            } else if self.random.random_bool(0.1) {
                self.late.push(Late::Commit(self.generation, offsets));
                Type::Info
            } else {
                self.committed.extend(offsets);
                Type::Ok
            };
            self.record(process, None, kind, f);
        }
    }

    /// Everything under way ends, and somebody reads all that is there.
    fn end(&mut self, clients: &mut [Client]) {
        while !self.late.is_empty() {
            self.lands(1.0);
        }
        for client in clients.iter_mut() {
            for under in std::mem::take(&mut client.under) {
                if let Some(txn) = under.txn {
                    self.finish(txn, Fate::Aborted);
                }
            }
        }
        let process = clients.len() as Process;
        let keys = self.keys.clone();
        self.record(process, None, Type::Ok, F::Assign { keys: keys.clone(), seek: true });
        for key in keys {
            let start = self.partitions[&key].start;
            let mark =
                Watermark { key, start: start as Offset, end: self.partitions[&key].slots.len() as Offset };
            self.record(process, None, Type::Invoke, F::Watermarks(Vec::new()));
            self.record(process, None, Type::Ok, F::Watermarks(vec![mark]));
            let mut from = start;
            while from < self.partitions[&key].slots.len() {
                let (polled, next) = self.read(key, from, 7);
                self.record(process, None, Type::Invoke, F::poll(Vec::new()));
                self.record(process, None, Type::Ok, F::poll(polled));
                from = next;
            }
        }
    }
}
