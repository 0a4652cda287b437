//! What the metadata log says at one moment: plain data that clones in O(1) and is only ever changed by
//! [`apply`](super::apply).
//!
//! # Invariants
//!
//! - **I1** A stream's parts are contiguous: from `start` to `committed_end`, without gap or overlap.
//! - **I2** An object's `parts` is the number of parts, over all streams, that name it. An object that no part names is
//!   in `garbage` instead, with the time of the entry that made it so, until the collector has deleted it; and in
//!   neither list twice.
//! - **I3** Every stream belongs to exactly one partition, and a partition's two streams exist as long as it does.
//! - **I4** A stream's owner is an incarnation that is listed. An incarnation is listed from its registration until
//!   nothing of value can be left in its WAL: it closed cleanly, its recovery is complete, or it was fenced before it
//!   had opened a stream.
//! - **I5** At most one incarnation of a broker is not fenced, and that is its last registration.
//! - **I6** A partition's leader epoch is the epoch of its log stream, and never goes back for the same topic id.
//! - **I7** Stream ids and producer ids are handed out once.
//! - **I8** A data object with a counter below its writer's low-water mark is named for the first time by no command: so
//!   one that is not named then never will be (O5).
//! - **I9** A partition's two streams have one owner, which has opened, and whose broker is the partition's leader; or
//!   none: then nobody could take it yet.
//! - **I10** The claims of a volume are of lives that were registered, in the order of their registrations; no volume is listed
//!   without one ([`volumes`](super::volumes)).

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use rpds::RedBlackTreeMapSync;
use s3stream::ObjectId;
use s3stream::StreamId;
use s3stream::metadata::{EpochStart, Located, StreamPart, StreamView};
use uuid::Uuid;
use wal::{Incarnation, Position};

use super::note_hash::NoteHash;
pub use super::parts::{Part, Parts};
pub use super::volumes::Claim;

pub(super) type Map<K, V> = RedBlackTreeMapSync<K, V>;

/// The cluster's identity, set once by [`Command::Format`](super::command::Command::Format).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// In Kafka's form: 22 characters of URL-safe base64.
    pub id: Arc<str>,
    /// What commands may stand in the log, [`FORMAT_VERSION`](super::command::FORMAT_VERSION) of the program that
    /// formatted the store.
    pub format: u32,
    pub formatted_ms: i64,
}

/// Where clients reach a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub host: Arc<str>,
    pub port: u16,
}

/// A broker by its last registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerInfo {
    pub listener: Listener,
    pub rack: Option<Arc<str>>,
    /// The machine that it registered from.
    pub machine: Arc<str>,
    /// The incarnation that registered last. It lives unless it is fenced or closed.
    pub epoch: u64,
}

/// One life of one broker, as long as its WAL may hold something of value (I4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Name of its WAL (W7).
    pub wal_uri: Arc<str>,
    /// How long after a poll that showed no fence it may still acknowledge (B1).
    pub lease: Duration,
    /// Everything in its WAL below is in data objects.
    pub trim: Position,
    /// None of its commands is accepted any more (O6).
    pub fenced: bool,
    /// It has opened its streams, so its WAL may hold records.
    pub opened: bool,
    /// It is being emptied: it gets no more partitions, and hands over those it has.
    pub draining: bool,
    /// The entry by which it was challenged, if it has not answered since (N4).
    pub challenged: Option<u64>,
    pub registered_ms: i64,
    /// No object of its own with a lower counter will be committed any more (O5): what is unnamed of those is garbage.
    pub low_water: u64,
}

impl Life {
    /// Its WAL is on a volume, which is somewhere, and not in the bucket.
    pub fn has_volume(&self) -> bool {
        self.wal_uri.starts_with("block:")
    }
}

/// How long whoever cannot tell otherwise waits until a lease is over (B1): on top of it what two clocks may disagree about in that
/// time, a tenth of it, and a little.
pub fn lease_and_margin(lease: Duration) -> Duration {
    lease + lease / 10 + Duration::from_millis(50)
}

/// Partitions that name a broker as their leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Led {
    pub leads: usize,
    /// Those of them that are to move.
    pub moving: usize,
}

/// Name and value.
pub type Config = (Arc<str>, Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub id: Uuid,
    pub name: Arc<str>,
    pub partitions: Arc<[PartitionInfo]>,
    /// Only what was set for this topic, by name, ascending.
    pub configs: Arc<[Config]>,
    pub created_ms: i64,
}

impl Topic {
    /// The value that was set for this topic.
    pub fn config(&self, name: &str) -> Option<&Arc<str>> {
        let at = self.configs.binary_search_by(|(key, _)| key.as_ref().cmp(name)).ok()?;
        Some(&self.configs[at].1)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Broker id. Whether it can be asked is [`Image::leader`]'s answer.
    pub leader: u32,
    pub leader_epoch: i32,
    pub log: StreamId,
    pub checkpoint: StreamId,
    /// The broker that it is to move to.
    pub target: Option<u32>,
    /// Of what its last leader knew, if that handed it over to this one.
    pub note: Option<NoteHash>,
}

impl PartitionInfo {
    /// A partition that begins its life, with streams of its own.
    pub(super) fn new(leader: u32, mut create_stream: impl FnMut() -> StreamId) -> PartitionInfo {
        PartitionInfo {
            leader,
            leader_epoch: 0,
            log: create_stream(),
            checkpoint: create_stream(),
            target: None,
            note: None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Stream {
    pub epoch: u64,
    pub start: u64,
    pub committed_end: u64,
    pub owner: Option<Incarnation>,
    pub epochs: Arc<Vec<EpochStart>>,
    /// By base offset (I1).
    pub(super) parts: Parts,
}

impl Stream {
    pub(super) fn new(owner: Incarnation) -> Stream {
        Stream {
            epoch: 0,
            start: 0,
            committed_end: 0,
            owner: Some(owner),
            epochs: Arc::new(vec![EpochStart { epoch: 0, start: 0 }]),
            parts: Parts::new(),
        }
    }

    /// By base offset, from `start` to `committed_end` (I1).
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Bytes of its parts.
    pub fn bytes(&self) -> u64 {
        self.parts.bytes()
    }

    /// The part that holds `offset` and all behind it, ascending.
    pub fn parts_from(&self, offset: u64) -> impl Iterator<Item = (&u64, &Part)> {
        let first = self
            .parts
            .range(..=offset)
            .next_back()
            .filter(|(_, part)| part.end > offset)
            .map_or(offset, |(base, _)| *base);
        self.parts.range((Bound::Included(first), Bound::Unbounded))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    pub size_bytes: u64,
    /// How many parts name it; never 0 (I2).
    pub parts: u32,
}

/// An object that nothing names any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbage {
    pub size_bytes: u64,
    /// Wall clock of the entry that dropped the last part, milliseconds.
    pub since_ms: i64,
    /// That entry.
    pub since: u64,
}

/// See the module's page.
#[derive(Clone, Debug)]
pub struct Image {
    pub(super) cluster: Option<Cluster>,
    pub(super) brokers: Map<u32, BrokerInfo>,
    pub(super) lives: Map<Incarnation, Life>,
    pub(super) topics: Map<Uuid, Arc<Topic>>,
    /// Derived from `topics`.
    pub(super) names: Map<Arc<str>, Uuid>,
    /// Derived from `topics`: names with `.` as `_`, of which no two may be equal.
    pub(super) canonical: Map<Arc<str>, Uuid>,
    /// Derived from `topics`.
    pub(super) partitions: usize,
    /// Derived from `topics`: how many partitions name a broker as their leader. No entry is 0.
    pub(super) led: Map<u32, Led>,
    pub(super) streams: Map<StreamId, Stream>,
    pub(super) objects: Map<ObjectId, Object>,
    pub(super) garbage: Map<ObjectId, Garbage>,
    pub(super) next_stream: u64,
    pub(super) next_producer_id: i64,
    /// What was set for a broker, and under `None` for all brokers, while they ran. No entry is empty.
    pub(super) configs: Map<Option<u32>, Arc<[Config]>>,
    /// Who may write to volumes that several hosts can reach.
    pub(super) volumes: Map<Uuid, Arc<[Claim]>>,
    /// Wall clock of the last entry, milliseconds.
    pub(super) time_ms: i64,
    /// Set by a command that this program does not understand: from then on it cannot know the state.
    pub(super) halted: Option<Arc<str>>,
}

impl Default for Image {
    fn default() -> Self {
        Image::empty()
    }
}

impl Image {
    /// The state before the first entry.
    pub fn empty() -> Image {
        Image {
            cluster: None,
            brokers: Map::new_sync(),
            lives: Map::new_sync(),
            topics: Map::new_sync(),
            names: Map::new_sync(),
            canonical: Map::new_sync(),
            partitions: 0,
            led: Map::new_sync(),
            streams: Map::new_sync(),
            objects: Map::new_sync(),
            garbage: Map::new_sync(),
            next_stream: 0,
            next_producer_id: 0,
            configs: Map::new_sync(),
            volumes: Map::new_sync(),
            time_ms: 0,
            halted: None,
        }
    }

    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// Why this program cannot follow the log any further, if so.
    pub fn halted(&self) -> Option<&Arc<str>> {
        self.halted.as_ref()
    }

    /// Wall clock of the last entry, milliseconds since the epoch.
    pub fn time_ms(&self) -> i64 {
        self.time_ms
    }

    pub fn broker(&self, id: u32) -> Option<&BrokerInfo> {
        self.brokers.get(&id)
    }

    /// Every id that was ever registered, with its last registration.
    pub fn brokers(&self) -> impl Iterator<Item = (u32, &BrokerInfo)> {
        self.brokers.iter().map(|(id, broker)| (*id, broker))
    }

    /// Brokers whose last incarnation lives, by id.
    pub fn live_brokers(&self) -> impl Iterator<Item = (u32, &BrokerInfo)> {
        self.brokers
            .iter()
            .filter(|(id, broker)| self.is_live(Incarnation { broker: **id, epoch: broker.epoch }))
            .map(|(id, broker)| (*id, broker))
    }

    /// Registered, and neither fenced nor closed.
    pub fn is_live(&self, incarnation: Incarnation) -> bool {
        self.lives.get(&incarnation).is_some_and(|life| !life.fenced)
    }

    /// What the log still knows of an incarnation; `None` once nothing of value can be left in its WAL (I4).
    pub fn life(&self, incarnation: Incarnation) -> Option<&Life> {
        self.lives.get(&incarnation)
    }

    /// Incarnations whose WAL must be recovered, oldest first.
    pub fn unrecovered(&self) -> impl Iterator<Item = (Incarnation, &Life)> {
        self.lives.iter().filter(|(_, life)| life.fenced).map(|(incarnation, life)| (*incarnation, life))
    }

    /// The trim point of `of`; `None` once it has closed, or its recovery is complete.
    pub fn recovered_to(&self, of: Incarnation) -> Option<Position> {
        self.lives.get(&of).map(|life| life.trim)
    }

    /// The configs that were set while brokers ran: for the broker with this id, or with `None` for all of them. By
    /// name, ascending.
    pub fn broker_configs(&self, broker: Option<u32>) -> &[Config] {
        self.configs.get(&broker).map_or(&[], |configs| configs)
    }

    /// The same, to be kept and compared by address: it is another one whenever it was changed.
    pub fn shared_broker_configs(&self, broker: Option<u32>) -> Option<&Arc<[Config]>> {
        self.configs.get(&broker)
    }

    pub fn topic(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    pub fn topic_named(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(name)?)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.names.values().map(|id| self.topics.get(id).expect("every name is a topic's"))
    }

    /// Those with the name `first` and behind it, by name.
    pub fn topics_from<'a>(&'a self, first: &str) -> impl Iterator<Item = &'a Arc<Topic>> {
        let names = self.names.range::<str, _>((Bound::Included(first), Bound::Unbounded));
        names.map(|(_, id)| self.topics.get(id).expect("every name is a topic's"))
    }

    /// An existing topic whose name equals `name` when `.` counts as `_`: their metrics would collide.
    pub fn colliding(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(self.canonical.get(canonical_name(name).as_str())?)
    }

    /// Number of partitions of all topics.
    pub fn partition_count(&self) -> usize {
        self.partitions
    }

    pub fn stream(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(&id)
    }

    pub fn stream_view(&self, id: StreamId) -> Option<StreamView> {
        self.streams.get(&id).map(|stream| StreamView {
            id,
            epoch: stream.epoch,
            start: stream.start,
            committed_end: stream.committed_end,
            owner: stream.owner,
            epochs: stream.epochs.to_vec(),
        })
    }

    /// See [`StreamMetadata::locate`](s3stream::StreamMetadata::locate).
    pub fn locate(&self, id: StreamId, from: u64, limit: usize) -> Vec<Located> {
        let Some(stream) = self.streams.get(&id) else { return Vec::new() };
        stream.parts_from(from).take(limit).map(|(base, part)| self.located(id, *base, part)).collect()
    }

    /// See [`StreamMetadata::locate_timestamp`](s3stream::StreamMetadata::locate_timestamp).
    pub fn locate_timestamp(&self, id: StreamId, timestamp: i64) -> Option<Located> {
        let (base, part) =
            self.streams.get(&id)?.parts.iter().find(|(_, part)| part.max_timestamp >= timestamp)?;
        Some(self.located(id, *base, part))
    }

    /// See [`StreamMetadata::locate_max_timestamp`](s3stream::StreamMetadata::locate_max_timestamp).
    pub fn locate_max_timestamp(&self, id: StreamId) -> Option<Located> {
        let mut largest: Option<(&u64, &Part)> = None;
        for (base, part) in self.streams.get(&id)?.parts.iter() {
            if largest.is_none_or(|(_, other)| part.max_timestamp > other.max_timestamp) {
                largest = Some((base, part));
            }
        }
        largest.map(|(base, part)| self.located(id, *base, part))
    }

    /// See [`StreamMetadata::owned_streams`](s3stream::StreamMetadata::owned_streams).
    pub fn owned_streams(&self, owner: Incarnation, from: StreamId, limit: usize) -> Vec<StreamId> {
        let owned = self.streams.range(from..).filter(|(_, stream)| stream.owner == Some(owner));
        owned.take(limit).map(|(id, _)| *id).collect()
    }

    fn located(&self, stream: StreamId, base: u64, part: &Part) -> Located {
        let object = self.objects.get(&part.object).expect("an object that a part names is known (I2)");
        Located {
            object: part.object,
            object_size_bytes: object.size_bytes,
            part: StreamPart {
                stream,
                base,
                end: part.end,
                max_timestamp: part.max_timestamp,
                bytes: part.bytes,
            },
        }
    }

    pub fn object(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(&id)
    }

    /// All objects that a part names, by id.
    pub fn objects(&self) -> impl Iterator<Item = (ObjectId, &Object)> {
        self.objects.iter().map(|(id, object)| (*id, object))
    }

    /// Number of streams of all partitions.
    pub fn stream_count(&self) -> usize {
        self.streams.size()
    }

    /// Where all parts of a stream lie, in offset order. Empty if there is no such stream.
    pub fn parts(&self, id: StreamId) -> impl Iterator<Item = Located> {
        let stream = self.streams.get(&id);
        let parts = stream.into_iter().flat_map(|stream| &stream.parts);
        parts.map(move |(base, part)| self.located(id, *base, part))
    }

    /// Objects that nothing names any more, for the collector.
    pub fn garbage(&self) -> impl Iterator<Item = (ObjectId, &Garbage)> {
        self.garbage.iter().map(|(id, garbage)| (*id, garbage))
    }
}

/// A topic's name as it counts for collisions (`Topic.hasCollision` in Kafka).
pub(super) fn canonical_name(name: &str) -> String {
    name.replace('.', "_")
}
