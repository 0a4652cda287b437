//! The metadata of streams in memory: the seam's guarantees in their plainest form.
//!
//! For tests and simulation. It validates every command strictly (M1–M4) and can be told to misbehave the way a log in
//! a bucket does: to be unavailable, to lose the reply to a command that it applied, or never to answer.

mod catalog;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use wal::{Incarnation, Position};

use super::{
    Commit, EpochStart, Error, Located, NewObject, ObjectId, Replacement, StreamId, StreamMetadata,
    StreamPart, StreamView,
};

/// What happens to the next command instead of success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not applied; answered with [`Error::Unavailable`].
    Unavailable,
    /// Applied; answered with [`Error::Unavailable`].
    LostReply,
    /// Not applied; never answered.
    HangBefore,
    /// Applied; never answered.
    HangAfter,
    /// Applied after so long, and answered.
    Delay(Duration),
}

/// A cluster's streams, objects and incarnations.
#[derive(Debug)]
pub struct MemoryMetadata {
    /// Time zero of the wall clock.
    began: Instant,
    state: Mutex<State>,
    looks: AtomicU64,
    /// The number of commands so far.
    changed: watch::Sender<u64>,
}

#[derive(Clone, Debug, Default)]
struct State {
    entries: u64,
    commits: u64,
    next_stream: u64,
    incarnations: HashMap<Incarnation, Life>,
    streams: BTreeMap<StreamId, StreamState>,
    /// Every object that was ever committed.
    objects: HashMap<ObjectId, u64>,
    /// Of those, when it was noticed that nothing names them, in milliseconds on the wall clock, and as of which change.
    garbage: BTreeMap<ObjectId, (i64, u64)>,
    clock_ahead_ms: i64,
    clock_doubted: bool,
    /// Of those, what was deleted from the bucket.
    forgotten: HashSet<ObjectId>,
    /// `None` leaves a command alone.
    faults: VecDeque<Option<Fault>>,
    outage: bool,
    /// What reads of parts see meanwhile.
    behind: Option<BTreeMap<StreamId, StreamState>>,
}

/// The parts of streams, as they were at some time.
#[derive(Clone, Debug)]
pub struct Seen(BTreeMap<StreamId, StreamState>);

#[derive(Clone, Debug)]
struct Life {
    /// It has opened a stream, and so its WAL before that. One that has not left nothing to recover.
    opened: bool,
    fenced: bool,
    recovered: bool,
    trim: Position,
    low_water: u64,
}

#[derive(Clone, Debug)]
struct StreamState {
    view: StreamView,
    parts: Vec<Located>,
}

impl MemoryMetadata {
    pub fn new() -> Arc<MemoryMetadata> {
        let (state, looks, changed) = Default::default();
        Arc::new(MemoryMetadata { began: Instant::now(), state, looks, changed })
    }

    fn wall_ms(&self, state: &State) -> i64 {
        self.began.elapsed().as_millis() as i64 + state.clock_ahead_ms
    }

    /// A new life of `broker`; all earlier ones are fenced.
    pub fn register(&self, broker: u32) -> Incarnation {
        let mut state = self.state.lock();
        state.entries += 1;
        let incarnation = Incarnation { broker, epoch: state.entries };
        for (other, life) in &mut state.incarnations {
            life.fenced |= other.broker == broker;
        }
        state.incarnations.insert(
            incarnation,
            Life { opened: false, fenced: false, recovered: false, trim: Position::default(), low_water: 0 },
        );
        incarnation
    }

    /// Lives that opened a stream, are fenced and not recovered, with their trim points, oldest first.
    pub fn unrecovered(&self) -> Vec<(Incarnation, Position)> {
        let state = self.state.lock();
        let mut found: Vec<_> = state
            .incarnations
            .iter()
            .filter(|(_, life)| life.opened && life.fenced && !life.recovered)
            .map(|(incarnation, life)| (*incarnation, life.trim))
            .collect();
        found.sort();
        found
    }

    pub fn wal_trim(&self, of: Incarnation) -> Position {
        self.state.lock().incarnations[&of].trim
    }

    pub fn create_stream(&self) -> StreamId {
        let mut state = self.state.lock();
        state.next_stream += 1;
        let id = StreamId(state.next_stream);
        let view = StreamView { id, epoch: 0, start: 0, committed_end: 0, owner: None, epochs: Vec::new() };
        state.streams.insert(id, StreamState { view, parts: Vec::new() });
        id
    }

    pub fn delete_stream(&self, id: StreamId) {
        let mut state = self.state.lock();
        state.streams.remove(&id);
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Opens a stream under `by`.
    ///
    /// # Panics
    /// If `by` is fenced, or the stream's last owner is fenced and not recovered: that would lose data (O2).
    pub fn open_stream(&self, id: StreamId, by: Incarnation) {
        let mut state = self.state.lock();
        assert!(!state.incarnations[&by].fenced, "{by:?} is fenced");
        if let Some(owner) = state.streams[&id].view.owner.filter(|owner| *owner != by) {
            assert!(state.incarnations[&owner].recovered, "{owner:?} is not recovered");
        }
        state.incarnations.get_mut(&by).expect("looked at it").opened = true;
        let view = &mut state.streams.get_mut(&id).expect("looked at it").view;
        view.epoch += 1;
        view.owner = Some(by);
        view.epochs.push(EpochStart { epoch: view.epoch, start: view.committed_end });
    }

    /// The stream goes from its owner, who lives, to `to`.
    pub fn hand_over(&self, id: StreamId, to: Incarnation) {
        let mut state = self.state.lock();
        assert!(!state.incarnations[&to].fenced, "{to:?} is fenced");
        state.incarnations.get_mut(&to).expect("looked at it").opened = true;
        let view = &mut state.streams.get_mut(&id).expect("there is such a stream").view;
        view.owner = Some(to);
        view.epoch += 1;
    }

    /// All objects that some stream names.
    pub fn named_objects(&self) -> BTreeSet<ObjectId> {
        let state = self.state.lock();
        state.streams.values().flat_map(|stream| stream.parts.iter().map(|part| part.object)).collect()
    }

    /// Commits that were accepted, of owners and of recoverers.
    pub fn commits(&self) -> u64 {
        self.state.lock().commits
    }

    /// How often somebody asked for parts or streams.
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    /// From now on commands of `incarnation` are rejected.
    pub fn fence(&self, incarnation: Incarnation) {
        self.state.lock().incarnations.get_mut(&incarnation).expect("was registered").fenced = true;
    }

    /// Applies to the next command that has none yet.
    pub fn inject(&self, fault: Fault) {
        self.inject_after(0, fault);
    }

    /// Lets `undisturbed` commands pass first.
    pub fn inject_after(&self, undisturbed: usize, fault: Fault) {
        let mut state = self.state.lock();
        state.faults.extend(std::iter::repeat_n(None, undisturbed));
        state.faults.push_back(Some(fault));
    }

    /// Faults that did not happen yet, and commands that are to pass before them.
    pub fn faults_left(&self) -> usize {
        self.state.lock().faults.len()
    }

    /// Forgets the faults that did not happen yet.
    pub fn clear_faults(&self) {
        self.state.lock().faults.clear();
    }

    /// Sets the wall clock so much ahead of the right time, or behind it.
    pub fn set_clock_ahead(&self, by_ms: i64) {
        self.state.lock().clock_ahead_ms = by_ms;
    }

    /// While set, the wall clock is not to be believed.
    pub fn doubt_clock(&self, doubted: bool) {
        self.state.lock().clock_doubted = doubted;
    }

    /// What reads see of parts now.
    pub fn seen(&self) -> Seen {
        Seen(self.state.lock().streams.clone())
    }

    /// From here on reads see no more of parts than then, until they are told to catch up: a broker that stood still.
    pub fn fall_behind(&self, then: Seen) {
        self.state.lock().behind = Some(then.0);
    }

    /// While set, no command is applied and all are answered with [`Error::Unavailable`].
    pub fn set_outage(&self, outage: bool) {
        self.state.lock().outage = outage;
    }

    async fn command(&self, apply: impl FnOnce(&mut State) -> Result<(), Error>) -> Result<(), Error> {
        let unavailable = |detail: &str| Err(Error::Unavailable(detail.to_owned()));
        let mut fault = {
            let mut state = self.state.lock();
            if state.outage {
                return unavailable("outage");
            }
            state.faults.pop_front().flatten()
        };
        if let Some(Fault::Delay(delay)) = fault {
            tokio::time::sleep(delay).await;
            fault = None;
        }
        let outcome = {
            let mut state = self.state.lock();
            // Under the lock: whoever looks knows by the number how old what it sees is.
            self.changed.send_modify(|changes| *changes += 1);
            match fault {
                Some(Fault::Unavailable | Fault::HangBefore) => None,
                _ => {
                    // All or nothing (M3).
                    let mut next = state.clone();
                    let outcome = apply(&mut next);
                    if outcome.is_ok() {
                        next.entries += 1;
                        *state = next;
                    }
                    Some(outcome)
                }
            }
        };
        tokio::task::yield_now().await;
        match fault {
            Some(Fault::HangBefore | Fault::HangAfter) => std::future::pending().await,
            Some(Fault::Unavailable) => unavailable("not applied"),
            Some(Fault::LostReply) => unavailable("outcome unknown"),
            None | Some(Fault::Delay(_)) => outcome.expect("applied"),
        }
    }
}

impl State {
    /// M2.
    fn check_live(&self, by: Incarnation) -> Result<(), Error> {
        match self.incarnations.get(&by) {
            Some(life) if !life.fenced => Ok(()),
            _ => Err(Error::Fenced(format!("{by:?} is fenced"))),
        }
    }

    fn add(&mut self, owner: Incarnation, object: &NewObject) -> Result<(), Error> {
        if self.objects.contains_key(&object.id) {
            return Err(Error::Conflict(format!("{:?} was committed before", object.id)));
        }
        self.check_low_water(object.id)?;
        self.objects.insert(object.id, object.size_bytes);
        if object.parts.is_empty() {
            return Err(Error::Rejected(format!("{:?} holds nothing", object.id)));
        }
        for part in &object.parts {
            if part.base >= part.end || part.stream.0 > self.next_stream {
                return Err(Error::Rejected(format!("{part:?} makes no sense")));
            }
            let Some(stream) = self.streams.get_mut(&part.stream) else { continue };
            if stream.view.owner != Some(owner) {
                return Err(Error::Conflict(format!("{:?} is not open under {owner:?}", part.stream)));
            }
            if stream.view.committed_end != part.base {
                let end = stream.view.committed_end;
                return Err(Error::Conflict(format!("{part:?} does not begin at the committed end {end}")));
            }
            stream.view.committed_end = part.end;
            let located = Located { object: object.id, object_size_bytes: object.size_bytes, part: *part };
            stream.parts.push(located);
        }
        Ok(())
    }

    /// What reads of parts see.
    fn seen(&self) -> &BTreeMap<StreamId, StreamState> {
        self.behind.as_ref().unwrap_or(&self.streams)
    }

    /// M5.
    fn replace(&mut self, by: Incarnation, replacement: &Replacement) -> Result<(), Error> {
        let Replacement { object, sources } = replacement;
        if !matches!(object.id, ObjectId::Data { owner, .. } if owner == by) || object.parts.is_empty() {
            return Err(Error::Rejected(format!("{object:?} is nothing to replace parts with")));
        }
        if self.objects.contains_key(&object.id) {
            return Err(Error::Rejected(format!("{:?} was committed before", object.id)));
        }
        self.objects.insert(object.id, object.size_bytes);
        for part in &object.parts {
            let Some(stream) = self.streams.get_mut(&part.stream) else { continue };
            let start = stream.view.start;
            if part.end <= start {
                continue;
            }
            let part = StreamPart { base: part.base.max(start), ..*part };
            let first = stream.parts.partition_point(|old| old.part.end <= part.base);
            let last = stream.parts.partition_point(|old| old.part.end <= part.end);
            let old = &stream.parts[first..last];
            let exact = old.first().is_some_and(|old| old.part.base == part.base)
                && old.last().is_some_and(|old| old.part.end == part.end);
            if !exact || !old.iter().all(|old| sources.contains(&old.object)) {
                return Err(Error::Conflict(format!("{part:?} does not replace whole parts of its sources")));
            }
            let located = Located { object: object.id, object_size_bytes: object.size_bytes, part };
            stream.parts.splice(first..last, [located]);
        }
        Ok(())
    }

    /// Whether a replacement was carried out before.
    fn is_replaced(&self, replacement: &Replacement) -> bool {
        let id = replacement.object.id;
        self.objects.contains_key(&id)
            && replacement.object.parts.iter().all(|part| {
                let Some(stream) = self.streams.get(&part.stream) else { return true };
                let base = part.base.max(stream.view.start);
                part.end <= base
                    || stream
                        .parts
                        .iter()
                        .any(|old| old.object == id && old.part.base == base && old.part.end == part.end)
            })
    }

    /// The last step of a commit.
    fn move_trim(&mut self, of: Incarnation, to: Position) -> Result<(), Error> {
        self.commits += 1;
        let life = self.incarnations.get_mut(&of).expect("checked before");
        if to < life.trim {
            return Err(Error::Rejected(format!(
                "the trim point would go back from {:?} to {to:?}",
                life.trim
            )));
        }
        life.trim = to;
        Ok(())
    }
}

#[async_trait]
impl StreamMetadata for MemoryMetadata {
    fn stream(&self, id: StreamId) -> Option<StreamView> {
        self.state.lock().streams.get(&id).map(|stream| stream.view.clone())
    }

    fn locate(&self, id: StreamId, from: u64, limit: usize) -> Vec<Located> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let state = self.state.lock();
        let Some(stream) = state.seen().get(&id) else {
            return Vec::new();
        };
        let first = stream.parts.partition_point(|located| located.part.end <= from);
        stream.parts[first..].iter().take(limit).copied().collect()
    }

    fn locate_timestamp(&self, id: StreamId, timestamp: i64) -> Option<Located> {
        let state = self.state.lock();
        state.seen().get(&id)?.parts.iter().find(|located| located.part.max_timestamp >= timestamp).copied()
    }

    fn locate_max_timestamp(&self, id: StreamId) -> Option<Located> {
        let state = self.state.lock();
        let later = |best: Located, part: &Located| {
            if part.part.max_timestamp > best.part.max_timestamp { *part } else { best }
        };
        let parts = &state.seen().get(&id)?.parts;
        parts.iter().fold(None, |best, part| Some(best.map_or(*part, |best| later(best, part))))
    }

    fn owned_streams(&self, owner: Incarnation, from: StreamId, limit: usize) -> Vec<StreamId> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        let state = self.state.lock();
        let owned = state.streams.range(from..).filter(|(_, stream)| stream.view.owner == Some(owner));
        owned.take(limit).map(|(id, _)| *id).collect()
    }

    fn recovered_to(&self, of: Incarnation) -> Option<Position> {
        self.state.lock().incarnations.get(&of).filter(|life| !life.recovered).map(|life| life.trim)
    }

    async fn catch_up(&self) -> Result<(), Error> {
        let mut state = self.state.lock();
        if state.outage {
            return Err(Error::Unavailable("outage".to_owned()));
        }
        state.behind = None;
        Ok(())
    }

    async fn commit(&self, commit: Commit) -> Result<(), Error> {
        self.command(|state| {
            state.check_live(commit.owner)?;
            for object in &commit.objects {
                if !matches!(object.id, ObjectId::Data { owner, .. } if owner == commit.owner) {
                    return Err(Error::Rejected(format!("{:?} is not the owner's object", object.id)));
                }
                state.add(commit.owner, object)?;
            }
            state.move_trim(commit.owner, commit.wal_trim)
        })
        .await
    }

    async fn commit_recovered(
        &self,
        by: Incarnation,
        of: Incarnation,
        from: Position,
        commit: Commit,
        last: bool,
    ) -> Result<(), Error> {
        self.command(|state| {
            state.check_live(by)?;
            match state.incarnations.get(&of) {
                Some(life) if !life.fenced => return Err(Error::Rejected(format!("{of:?} is not fenced"))),
                Some(life) if !life.recovered && life.trim == from && commit.owner == of => {}
                other => return Err(Error::Conflict(format!("recovery from {from:?} of {other:?}"))),
            }
            for object in &commit.objects {
                match object.id {
                    ObjectId::Data { owner, .. } if owner == by => {}
                    ObjectId::Slot { owner, slot } if owner == of && slot >= from.0 => {}
                    other => return Err(Error::Rejected(format!("{other:?} is not of this recovery"))),
                }
                state.add(of, object)?;
            }
            state.move_trim(of, commit.wal_trim)?;
            state.incarnations.get_mut(&of).expect("checked before").recovered = last;
            Ok(())
        })
        .await
    }

    async fn trim(&self, by: Incarnation, trims: Vec<(StreamId, u64)>) -> Result<(), Error> {
        self.command(|state| {
            state.check_live(by)?;
            for (id, start) in &trims {
                let Some(stream) = state.streams.get_mut(id) else { continue };
                if *start > stream.view.committed_end {
                    return Err(Error::Rejected(format!("trim of {id:?} to {start}, beyond its end")));
                }
                stream.view.start = stream.view.start.max(*start);
                let start = stream.view.start;
                stream.parts.retain(|located| located.part.end > start);
                if let Some(first) = stream.parts.first_mut() {
                    let StreamPart { base, .. } = &mut first.part;
                    *base = start.max(*base);
                }
            }
            Ok(())
        })
        .await
    }

    async fn replace(&self, by: Incarnation, replacements: Vec<Replacement>) -> Result<(), Error> {
        self.command(|state| {
            state.check_live(by)?;
            if replacements.iter().all(|replacement| state.is_replaced(replacement)) {
                return Ok(());
            }
            replacements.iter().try_for_each(|replacement| state.replace(by, replacement))
        })
        .await
    }
}
