//! What clients asked and what they were told, in the order in which it happened.
//!
//! ```text
//!   invoke ────────────────► ok    it happened
//!      what was asked   ├──► fail  it did not, and never will
//!                       └──► info  nobody knows: a time-out, a broken connection, the end of the client
//! ```
//!
//! A history is recorded as a row of [`Op`]s; an invocation and its completion together are a [`Call`]. The position in the
//! row is the order in time that the checker believes ("this was over before that began"); the times are for people.
//! A call that was never completed counts as `info`.
//!
//! # Who records what
//!
//! - **H1** A process is one client: one producer and one consumer. It may have several calls open at once if each names its
//!   `call`; its sends then are ordered as they were invoked, which is what a producer promises.
//! - **H2** A value is sent to a key once, ever. A retry of the client's own is the same call; the next try after a `fail`
//!   takes another value.
//! - **H3** `fail` is said only of what is known not to have happened. Whatever is in doubt is `info`.
//! - **H4** A transaction (`txn`) happens as a whole or not at all. The sends of a `send` are acknowledged one by one:
//!   in an `info` of several, those that have an offset were.
//! - **H5** Histories of several machines are merged by one clock; of what happened at the same instant, invocations come
//!   first ([`crate::json::read`] does that).

use rustc_hash::FxHashMap;

/// A partition, by whatever name the history has for it: `topic-partition`, usually.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub(crate) u32);

/// A consumer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub(crate) u32);

pub type Process = u32;
pub type Offset = i64;
/// The content of a record, unique in its key.
pub type Value = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    Invoke,
    Ok,
    Fail,
    Info,
}

/// A part of a `send`, `poll` or `txn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mop {
    /// The offset is there once it was acknowledged.
    Send { key: Key, value: Value, offset: Option<Offset> },
    /// What one poll brought, each key's records in the order in which they came.
    Poll(Vec<Polled>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled {
    pub key: Key,
    pub offset: Offset,
    pub value: Value,
}

/// What a client heard of a partition's ends: of a ListOffsets, or of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    pub key: Key,
    pub start: Offset,
    /// The high watermark, or the last stable offset: always the same one for one process.
    pub end: Offset,
}

/// What is asked (in an invocation), or how it came out (in a completion).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum F {
    /// Sends, each acknowledged by itself.
    Send(Vec<Mop>),
    /// Polls; `rebalanced`: the keys that this consumer was given, lost or began anew meanwhile.
    Poll {
        mops: Vec<Mop>,
        rebalanced: Vec<Key>,
    },
    /// A transaction: its sends become visible all together or never, and what it polled is committed with it.
    Txn {
        mops: Vec<Mop>,
        rebalanced: Vec<Key>,
    },
    /// From now on exactly these keys; `seek`: from other positions than where the last polls ended.
    Assign {
        keys: Vec<Key>,
        seek: bool,
    },
    /// From now on whatever the group gives, of these keys.
    Subscribe {
        group: Option<Group>,
        keys: Vec<Key>,
    },
    /// This consumer was given or lost keys.
    Rebalance(Vec<Key>),
    /// A fetch at this offset was answered with OFFSET_OUT_OF_RANGE; the consumer goes on from somewhere else.
    OutOfRange {
        key: Key,
        offset: Offset,
    },
    Watermarks(Vec<Watermark>),
    /// A member of a group learned its generation and its keys.
    Join {
        group: Group,
        generation: i32,
        keys: Vec<Key>,
    },
    /// Offsets were committed, by a member of a generation or by somebody outside.
    Commit {
        group: Group,
        generation: Option<i32>,
        offsets: Vec<(Key, Offset)>,
    },
    /// What is committed.
    Committed {
        group: Group,
        offsets: Vec<(Key, Option<Offset>)>,
    },
    /// The client ends, and another one takes its number.
    Crash,
}

impl F {
    pub fn name(&self) -> &'static str {
        match self {
            F::Send(_) => "send",
            F::Poll { .. } => "poll",
            F::Txn { .. } => "txn",
            F::Assign { .. } => "assign",
            F::Subscribe { .. } => "subscribe",
            F::Rebalance(_) => "rebalance",
            F::OutOfRange { .. } => "out-of-range",
            F::Watermarks(_) => "watermarks",
            F::Join { .. } => "join",
            F::Commit { .. } => "commit",
            F::Committed { .. } => "committed",
            F::Crash => "crash",
        }
    }

    /// One send of one record.
    pub fn send(key: Key, value: Value, offset: Option<Offset>) -> F {
        F::Send(vec![Mop::Send { key, value, offset }])
    }

    /// One poll.
    pub fn poll(records: Vec<Polled>) -> F {
        F::Poll { mops: vec![Mop::Poll(records)], rebalanced: Vec::new() }
    }

    pub fn mops(&self) -> &[Mop] {
        match self {
            F::Send(mops) | F::Poll { mops, .. } | F::Txn { mops, .. } => mops,
            _ => &[],
        }
    }

    pub fn rebalanced(&self) -> &[Key] {
        match self {
            F::Poll { rebalanced, .. } | F::Txn { rebalanced, .. } => rebalanced,
            _ => &[],
        }
    }

    /// Each record that is sent, in order.
    pub fn sends(&self) -> impl Iterator<Item = (Key, Value, Option<Offset>)> + '_ {
        self.mops().iter().filter_map(|mop| match mop {
            Mop::Send { key, value, offset } => Some((*key, *value, *offset)),
            Mop::Poll(_) => None,
        })
    }

    /// Each record that was polled, in order.
    pub fn polled(&self) -> impl Iterator<Item = Polled> + '_ {
        self.mops()
            .iter()
            .flat_map(|mop| match mop {
                Mop::Poll(records) => records.as_slice(),
                Mop::Send { .. } => &[],
            })
            .copied()
    }

    pub fn is_data(&self) -> bool {
        matches!(self, F::Send(_) | F::Poll { .. } | F::Txn { .. })
    }

    /// Something that happens at an instant, and may be recorded without an invocation.
    fn is_instant(&self) -> bool {
        matches!(
            self,
            F::Assign { .. } | F::Subscribe { .. } | F::Rebalance(_) | F::OutOfRange { .. } | F::Crash
        )
    }
}

/// A line of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub process: Process,
    pub kind: Type,
    /// Nanoseconds since whenever.
    pub time: u64,
    /// Which of several open calls of the process; none where it has one at a time.
    pub call: Option<u64>,
    pub f: F,
}

impl Op {
    pub fn new(process: Process, kind: Type, time: u64, f: F) -> Op {
        Op { process, kind, time, call: None, f }
    }

    pub fn call(mut self, call: u64) -> Op {
        self.call = Some(call);
        self
    }
}

/// An invocation and its completion.
#[derive(Clone, Debug)]
pub struct Call {
    pub process: Process,
    pub outcome: Type,
    /// Position and time of the invocation.
    pub invoked: Moment,
    /// Of the completion, if there was one.
    pub completed: Option<Moment>,
    pub f: F,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    pub index: u32,
    pub time: u64,
}

impl Call {
    /// The position behind which it can have no further effect; none if nobody knows.
    pub(crate) fn over(&self) -> Option<u32> {
        match self.outcome {
            Type::Ok | Type::Fail => self.completed.map(|moment| moment.index),
            Type::Info | Type::Invoke => None,
        }
    }

    /// When its client heard of it at the latest, whatever it heard.
    pub(crate) fn heard(&self) -> Option<u32> {
        self.completed.map(|moment| moment.index)
    }
}

/// Why a row of operations is no history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error(
        "operation {index}: process {process} invokes while an earlier call without a number is open, or twice the same number"
    )]
    Busy { index: u32, process: Process },
    #[error("operation {index}: process {process} completes a {f} that it did not invoke")]
    NotInvoked { index: u32, process: Process, f: &'static str },
    #[error("operation {index}: process {process} completes a {invoked} with a {completed}")]
    Another { index: u32, process: Process, invoked: &'static str, completed: &'static str },
    #[error("operation {index}: a {f} holds what belongs into another kind of operation")]
    Misplaced { index: u32, f: &'static str },
    #[error("a history holds at most {} operations", u32::MAX - 1)]
    TooLong,
}

/// The calls of all clients, and the names of what they touched.
#[derive(Clone, Debug, Default)]
pub struct History {
    calls: Vec<Call>,
    next: u32,
    open: FxHashMap<(Process, Option<u64>), u32>,
    keys: Names,
    groups: Names,
}

#[derive(Clone, Debug, Default)]
struct Names {
    ids: FxHashMap<String, u32>,
    names: Vec<String>,
}

impl Names {
    fn id(&mut self, name: &str) -> u32 {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.names.len() as u32;
        self.ids.insert(name.to_string(), id);
        self.names.push(name.to_string());
        id
    }
}

impl History {
    pub fn new() -> History {
        History::default()
    }

    /// The key of that name.
    pub fn key(&mut self, name: &str) -> Key {
        Key(self.keys.id(name))
    }

    pub fn group(&mut self, name: &str) -> Group {
        Group(self.groups.id(name))
    }

    pub fn key_name(&self, key: Key) -> &str {
        &self.keys.names[key.0 as usize]
    }

    pub fn group_name(&self, group: Group) -> &str {
        &self.groups.names[group.0 as usize]
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> + use<> {
        (0..self.keys.names.len() as u32).map(Key)
    }

    pub(crate) fn key_count(&self) -> usize {
        self.keys.names.len()
    }

    pub(crate) fn group_count(&self) -> usize {
        self.groups.names.len()
    }

    /// In the order of their invocations.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// Operations recorded so far.
    pub fn len(&self) -> usize {
        self.next as usize
    }

    pub fn is_empty(&self) -> bool {
        self.next == 0
    }

    /// Adds the next operation. What is refused leaves the history as it was.
    pub fn record(&mut self, op: Op) -> Result<(), Malformed> {
        let index = self.next;
        if index >= u32::MAX - 1 {
            return Err(Malformed::TooLong);
        }
        let misplaced = match &op.f {
            F::Send(mops) => mops.iter().any(|mop| matches!(mop, Mop::Poll(_))),
            F::Poll { mops, .. } => mops.iter().any(|mop| matches!(mop, Mop::Send { .. })),
            _ => false,
        };
        if misplaced {
            return Err(Malformed::Misplaced { index, f: op.f.name() });
        }
        let moment = Moment { index, time: op.time };
        let slot = (op.process, op.call);
        if op.kind == Type::Invoke {
            if self.open.contains_key(&slot) {
                return Err(Malformed::Busy { index, process: op.process });
            }
            self.open.insert(slot, self.calls.len() as u32);
            self.calls.push(Call {
                process: op.process,
                outcome: Type::Info,
                invoked: moment,
                completed: None,
                f: op.f,
            });
        } else if let Some(at) = self.completes(slot, &op.f) {
            let call = &mut self.calls[at as usize];
            if call.f.name() != op.f.name() {
                let (invoked, completed) = (call.f.name(), op.f.name());
                return Err(Malformed::Another { index, process: op.process, invoked, completed });
            }
            self.open.remove(&slot);
            call.outcome = op.kind;
            call.completed = Some(moment);
            // A client that knows nothing may say nothing: what it asked for still counts.
            if !(op.kind != Type::Ok && op.f.is_data() && op.f.mops().is_empty()) {
                call.f = op.f;
            }
        } else if op.f.is_instant() {
            self.calls.push(Call {
                process: op.process,
                outcome: op.kind,
                invoked: moment,
                completed: Some(moment),
                f: op.f,
            });
        } else {
            return Err(Malformed::NotInvoked { index, process: op.process, f: op.f.name() });
        }
        self.next += 1;
        Ok(())
    }

    /// The open call that this completion ends; none if there is none, or if it happened beside that call.
    fn completes(&self, slot: (Process, Option<u64>), f: &F) -> Option<u32> {
        let at = *self.open.get(&slot)?;
        let same = self.calls[at as usize].f.name() == f.name();
        (same || !f.is_instant()).then_some(at)
    }
}
