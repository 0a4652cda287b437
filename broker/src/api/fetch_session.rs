//! Fetch sessions (KIP-227): the broker remembers what a consumer fetches and what it was told, so that requests and
//! responses carry only what changed.
//!
//! Invariants, from `FetchSession.java`'s `FetchManager.newContext` and `IncrementalFetchContext`:
//!
//! - **F1** A session's requests carry its id and an epoch that counts from 1; the next one wraps from `i32::MAX` to 1.
//!   Anything else is answered with 70 or 71 and changes nothing.
//! - **F2** An incremental response names a partition if it has records or an error, or if its high watermark or log
//!   start differ from what was said last. After an error it is named once more when the error is gone.
//! - **F3** Partitions that had records go to the end of the session's order, so that none is starved.
//! - **F4** At most [`Limits::sessions_max`] sessions, and [`Limits::partitions_max`] partitions in all of them, whose
//!   topics have names that could exist. A new one takes the place of the one that was used longest ago, if that was long enough ago; else it is not made, which
//!   clients cope with.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use uuid::Uuid;

/// Versions below name topics, from it on they give ids.
pub const TOPIC_IDS_FROM: i16 = 13;

/// Epochs with a meaning (`FetchMetadata.java`).
const INITIAL_EPOCH: i32 = 0;
const FINAL_EPOCH: i32 = -1;
pub const NO_SESSION: i32 = 0;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `max.incremental.fetch.session.cache.slots`. Default 1000.
    pub sessions_max: usize,
    /// Partitions in all sessions. Default 1,000,000.
    pub partitions_max: usize,
    /// Partitions of all requests that wait for data, in sessions or not. Default 1,000,000.
    pub waiting_partitions_max: usize,
    /// A session that was not used for this long may be replaced
    /// (`min.incremental.fetch.session.eviction.ms`). Default 2 min.
    pub eviction_age: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            sessions_max: 1000,
            partitions_max: 1_000_000,
            waiting_partitions_max: 1_000_000,
            eviction_age: Duration::from_secs(120),
        }
    }
}

/// A topic as the request names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TopicKey {
    /// A copy that does not pin the request's buffer.
    Name(Arc<str>),
    Id(Uuid),
}

/// A partition to fetch from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub topic: TopicKey,
    pub partition: i32,
    pub fetch_offset: i64,
    /// -1 for no check.
    pub current_leader_epoch: i32,
    /// -1 for no check.
    pub last_fetched_epoch: i32,
    pub max_bytes: i32,
}

/// What a partition's part of the response says, as far as sessions care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    pub high_watermark: i64,
    pub log_start: i64,
    pub error: bool,
    pub has_records: bool,
    /// Named in any case: it diverges.
    pub urgent: bool,
}

/// What a request is about.
#[derive(Debug)]
pub struct Plan {
    /// In the order in which they are to be served.
    pub partitions: Vec<Wanted>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Sessionless,
    /// A session may be made of it.
    Full {
        by_id: bool,
    },
    Incremental {
        id: i32,
        session: Arc<Mutex<Session>>,
    },
}

type Key = (TopicKey, i32);

#[derive(Debug)]
struct Session {
    by_id: bool,
    /// Of the next request (F1).
    epoch: i32,
    partitions: HashMap<Key, Remembered>,
    /// The order in which they are served (F3).
    order: BTreeMap<u64, Key>,
    next_place: u64,
}

#[derive(Debug)]
struct Remembered {
    wanted: Wanted,
    place: u64,
    high_watermark: i64,
    log_start: i64,
}

/// Not told yet, or to be told again.
const UNSAID: i64 = -2;

impl Session {
    fn new(by_id: bool) -> Session {
        Session { by_id, epoch: 1, partitions: HashMap::new(), order: BTreeMap::new(), next_place: 0 }
    }

    fn want(&mut self, wanted: Wanted) {
        let key = (wanted.topic.clone(), wanted.partition);
        if let Some(known) = self.partitions.get_mut(&key) {
            known.wanted = wanted;
            return;
        }
        let place = self.next_place;
        self.next_place += 1;
        self.order.insert(place, key.clone());
        self.partitions.insert(key, Remembered { wanted, place, high_watermark: UNSAID, log_start: UNSAID });
    }

    fn forget(&mut self, key: &Key) {
        if let Some(known) = self.partitions.remove(key) {
            self.order.remove(&known.place);
        }
    }

    /// Takes note of what is about to be said; whether it is said at all (F2).
    fn say(&mut self, key: &Key, said: &Said) -> bool {
        // Forgotten by a later request of the same session, which is not what clients do.
        let Some(known) = self.partitions.get_mut(key) else { return true };
        let changed = known.high_watermark != said.high_watermark || known.log_start != said.log_start;
        known.high_watermark = if said.error { UNSAID } else { said.high_watermark };
        known.log_start = said.log_start;
        if said.has_records {
            self.order.remove(&known.place);
            known.place = self.next_place;
            self.next_place += 1;
            self.order.insert(known.place, key.clone());
        }
        changed || said.error || said.has_records || said.urgent
    }
}

fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

#[derive(Debug)]
struct Entry {
    session: Arc<Mutex<Session>>,
    used: Instant,
    partitions: usize,
}

/// All sessions of a broker.
#[derive(Debug)]
pub struct Sessions {
    limits: Limits,
    entries: Mutex<Entries>,
    waiting: Semaphore,
}

impl Default for Sessions {
    fn default() -> Sessions {
        Sessions::new(Limits::default())
    }
}

#[derive(Debug, Default)]
struct Entries {
    by_id: HashMap<i32, Entry>,
    partitions: usize,
}

impl Entries {
    fn remove(&mut self, id: i32) {
        if let Some(entry) = self.by_id.remove(&id) {
            self.partitions -= entry.partitions;
        }
    }
}

impl Sessions {
    pub fn new(limits: Limits) -> Sessions {
        let waiting = Semaphore::new(limits.waiting_partitions_max);
        Sessions { limits, entries: Mutex::default(), waiting }
    }

    /// A place for a request of so many partitions that is going to wait for data, if there is one.
    pub fn try_wait(&self, partitions: usize) -> Option<SemaphorePermit<'_>> {
        self.waiting.try_acquire_many(u32::try_from(partitions).ok()?).ok()
    }

    /// What the request is about, or the error for all of it.
    pub fn begin(&self, version: i16, request: &FetchRequest) -> Result<Plan, ResponseError> {
        let by_id = version >= TOPIC_IDS_FROM;
        let (id, epoch) = (request.session_id, request.session_epoch);
        let wanted = wanted(by_id, request);
        let remember = wanted.iter().all(memorable);
        let mut entries = self.entries.lock();
        if epoch == INITIAL_EPOCH || epoch == FINAL_EPOCH {
            entries.remove(id);
            let kind = match epoch {
                INITIAL_EPOCH if remember => Kind::Full { by_id },
                _ => Kind::Sessionless,
            };
            return Ok(Plan { partitions: wanted, kind });
        }
        let Some(entry) = entries.by_id.get_mut(&id) else {
            return Err(ResponseError::FetchSessionIdNotFound);
        };
        let shared = entry.session.clone();
        let mut session = shared.lock();
        if session.epoch != epoch {
            return Err(ResponseError::InvalidFetchSessionEpoch);
        }
        if session.by_id != by_id {
            return Err(ResponseError::FetchSessionTopicIdError);
        }
        for wanted in wanted {
            session.want(wanted);
        }
        for key in forgotten(by_id, request) {
            session.forget(&key);
        }
        session.epoch = next_epoch(epoch);
        entry.used = Instant::now();
        let (before, now) = (entry.partitions, session.partitions.len());
        entry.partitions = now;
        entries.partitions = entries.partitions - before + now;
        let too_much = entries.partitions > self.limits.partitions_max || !remember;
        if session.partitions.is_empty() || too_much {
            // Nothing left to remember, or too much: the client begins anew.
            entries.remove(id);
            if too_much {
                return Err(ResponseError::FetchSessionIdNotFound);
            }
            return Ok(Plan { partitions: Vec::new(), kind: Kind::Sessionless });
        }
        let partitions = session.order.values().map(|key| session.partitions[key].wanted.clone()).collect();
        drop(session);
        Ok(Plan { partitions, kind: Kind::Incremental { id, session: shared } })
    }

    /// The session id of the response, and for each partition, in the plan's order, whether it is in the response.
    pub fn finish(&self, plan: &Plan, said: &[Said]) -> (i32, Vec<bool>) {
        let keys = plan.partitions.iter().map(|wanted| (wanted.topic.clone(), wanted.partition));
        match &plan.kind {
            Kind::Sessionless => (NO_SESSION, vec![true; said.len()]),
            Kind::Full { by_id } => {
                let mut session = Session::new(*by_id);
                for (wanted, (key, said)) in plan.partitions.iter().zip(keys.zip(said)) {
                    session.want(wanted.clone());
                    session.say(&key, said);
                }
                (self.insert(session), vec![true; said.len()])
            }
            Kind::Incremental { id, session } => {
                let mut session = session.lock();
                (*id, keys.zip(said).map(|(key, said)| session.say(&key, said)).collect())
            }
        }
    }

    fn insert(&self, session: Session) -> i32 {
        let now = Instant::now();
        let partitions = session.partitions.len();
        let mut entries = self.entries.lock();
        let fits = |entries: &Entries| {
            entries.by_id.len() < self.limits.sessions_max
                && entries.partitions + partitions <= self.limits.partitions_max
        };
        if partitions == 0 {
            return NO_SESSION;
        }
        if !fits(&entries) {
            let oldest = entries.by_id.iter().min_by_key(|(_, entry)| entry.used);
            match oldest.map(|(id, entry)| (*id, entry.used)) {
                Some((id, used)) if now - used >= self.limits.eviction_age => entries.remove(id),
                _ => return NO_SESSION,
            }
            if !fits(&entries) {
                return NO_SESSION;
            }
        }
        // Random, so that a client cannot meet another's by chance or by counting.
        let id = loop {
            let id = rand::random_range(1..=i32::MAX);
            if !entries.by_id.contains_key(&id) {
                break id;
            }
        };
        entries.partitions += partitions;
        let session = Arc::new(Mutex::new(session));
        entries.by_id.insert(id, Entry { session, used: now, partitions });
        id
    }
}

/// Whether a session may hold on to it: a name can be as long as a request.
fn memorable(wanted: &Wanted) -> bool {
    match &wanted.topic {
        TopicKey::Name(name) => name.len() <= super::topic_name::LENGTH_MAX,
        TopicKey::Id(_) => true,
    }
}

fn key(by_id: bool, name: &StrBytes, id: Uuid) -> TopicKey {
    if by_id { TopicKey::Id(id) } else { TopicKey::Name(name.as_str().into()) }
}

fn wanted(by_id: bool, request: &FetchRequest) -> Vec<Wanted> {
    let mut all = Vec::with_capacity(request.topics.iter().map(|topic| topic.partitions.len()).sum());
    for topic in &request.topics {
        let key = key(by_id, &topic.topic.0, topic.topic_id);
        all.extend(topic.partitions.iter().map(|partition| Wanted {
            topic: key.clone(),
            partition: partition.partition,
            fetch_offset: partition.fetch_offset,
            current_leader_epoch: partition.current_leader_epoch,
            last_fetched_epoch: partition.last_fetched_epoch,
            max_bytes: partition.partition_max_bytes,
        }));
    }
    all
}

fn forgotten(by_id: bool, request: &FetchRequest) -> impl Iterator<Item = Key> {
    request.forgotten_topics_data.iter().flat_map(move |topic| {
        let key = key(by_id, &topic.topic.0, topic.topic_id);
        topic.partitions.iter().map(move |partition| (key.clone(), *partition))
    })
}

#[cfg(test)]
#[path = "fetch_session_tests.rs"]
mod tests;
