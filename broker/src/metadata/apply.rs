//! The only thing that changes an [`Image`]: one command, validated and carried out, or rejected with a reason. It is
//! deterministic: the same commands on the same image give the same image and the same outcomes, everywhere.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use s3stream::metadata::{Commit, EpochStart, NewObject, StreamPart};
use s3stream::{ObjectId, StreamId};
use uuid::Uuid;
use wal::{Incarnation, Position};

use super::alter::GrowRejection;
use super::command::{Command, FORMAT_VERSION, NewTopic};
use super::image::{Cluster, Garbage, Image, Object, Part, PartitionInfo, Stream, Topic, canonical_name};
use super::moves::MoveRejection;
use crate::api::topic_name;

/// Partitions of all topics of a cluster. Far beyond what one broker is sized for; a bound on what a client that
/// creates topics in a loop can make everybody hold in memory. No option: what a command does is part of the log's format,
/// and every replica must decide alike.
pub const PARTITIONS_MAX: usize = 1_000_000;

/// Producer ids that one command may take. No option, for the same reason.
pub const PRODUCER_IDS_PER_COMMAND_MAX: u32 = 1_000_000;

/// Where in the log a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Of the entry.
    pub number: u64,
    /// Wall clock of the entry, milliseconds since the epoch.
    pub time_ms: i64,
}

/// What an accepted command brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Registered(Registered),
    /// In the order of the command.
    Created(Vec<Result<Arc<Topic>, TopicRejection>>),
    /// In the order of the command; `false` where there was no such topic.
    Deleted(Vec<bool>),
    /// In the order of the command.
    Grown(Vec<Result<Arc<Topic>, GrowRejection>>),
    ProducerIds(Range<i64>),
    /// In the order of the command.
    Moved(Vec<Result<(), MoveRejection>>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    pub incarnation: Incarnation,
    /// All that is to be recovered, of whatever broker, oldest first within a broker.
    pub previous: Vec<Unrecovered>,
}

/// A fenced incarnation whose WAL may hold records that no object holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrecovered {
    pub incarnation: Incarnation,
    pub wal_uri: Arc<str>,
    /// Where its recovery starts (O1).
    pub trim: Position,
    /// How long it may still acknowledge after it was fenced (B1).
    pub lease: Duration,
}

/// Why a command changed nothing. By what the issuer does about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("the store has no cluster yet")]
    NotFormatted,
    #[error("the store already holds cluster {0}")]
    AlreadyFormatted(Arc<str>),
    /// Stop for good.
    #[error("broker {} epoch {} was fenced, or has closed", .0.broker, .0.epoch)]
    Fenced(Incarnation),
    /// Read again, start over.
    #[error("{0}")]
    Conflict(String),
    /// Not acceptable, now or later.
    #[error("{0}")]
    Invalid(String),
    /// This program cannot follow the log.
    #[error("{0}")]
    Halted(Arc<str>),
}

/// Why one topic of a command was not created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicRejection {
    #[error("Topic '{0}' already exists.")]
    Exists(Arc<str>),
    #[error("Topic '{name}' collides with existing topic: {existing}")]
    Collides { name: Arc<str>, existing: Arc<str> },
    #[error("{0}")]
    InvalidName(String),
    #[error("Number of partitions was set to an invalid non-positive value.")]
    NoPartitions,
    #[error(
        "the cluster has {existing} partitions already; {wanted} more would exceed its limit of {PARTITIONS_MAX}"
    )]
    TooManyPartitions { existing: usize, wanted: usize },
    /// A topic with this id exists, under whatever name.
    #[error("topic id {0} is taken")]
    IdTaken(Uuid),
    /// Of the leaders that were named.
    #[error("{0}")]
    Assignment(String),
}

pub(super) fn invalid(reason: impl Into<String>) -> Rejection {
    Rejection::Invalid(reason.into())
}

pub(super) fn conflict(reason: impl Into<String>) -> Rejection {
    Rejection::Conflict(reason.into())
}

impl Image {
    /// Applies an encoded command. What cannot be decoded halts the image for good, since it may mean something to
    /// others.
    pub fn apply_bytes(&mut self, at: At, command: &[u8]) -> Result<Outcome, Rejection> {
        if let Some(reason) = &self.halted {
            return Err(Rejection::Halted(reason.clone()));
        }
        match Command::decode(command) {
            Ok(command) => self.apply(at, &command),
            Err(malformed) => Err(self.halt(format!(
                "entry {} of the metadata log holds a command that this version of Ottla does not understand \
                 ({malformed}): start the version that wrote it, or a newer one",
                at.number
            ))),
        }
    }

    fn halt(&mut self, reason: String) -> Rejection {
        let reason: Arc<str> = reason.into();
        self.halted = Some(reason.clone());
        Rejection::Halted(reason)
    }

    /// All or nothing, but for topics, which are accepted one by one.
    pub fn apply(&mut self, at: At, command: &Command) -> Result<Outcome, Rejection> {
        if let Some(reason) = &self.halted {
            return Err(Rejection::Halted(reason.clone()));
        }
        // Clones are O(1), and a rejected command must leave no trace of what it did before it was found out.
        let mut next = self.clone();
        next.time_ms = at.time_ms;
        match next.carry_out(at, command) {
            Ok(outcome) => {
                *self = next;
                Ok(outcome)
            }
            Err(Rejection::Halted(reason)) => Err(self.halt(reason.to_string())),
            Err(rejection) => {
                self.time_ms = at.time_ms;
                Err(rejection)
            }
        }
    }

    fn carry_out(&mut self, at: At, command: &Command) -> Result<Outcome, Rejection> {
        if let Command::Format { cluster_id, format } = command {
            return self.format(at, cluster_id, *format);
        }
        if self.cluster.is_none() {
            return Err(Rejection::NotFormatted);
        }
        match command {
            Command::Format { .. } => unreachable!("handled above"),
            Command::RegisterBroker(registration) => self.register(at, registration).map(Outcome::Registered),
            Command::OpenLeaderships { by } => self.open_leaderships(*by),
            Command::CreateTopics { by, topics } => {
                self.check_opened(*by)?;
                Ok(Outcome::Created(topics.iter().map(|topic| self.create_topic(at, *by, topic)).collect()))
            }
            Command::DeleteTopics { by, topics } => {
                self.check_live(*by)?;
                Ok(Outcome::Deleted(topics.iter().map(|topic| self.delete_topic(at, *topic)).collect()))
            }
            Command::CommitObjects { commit } => self.commit(at, commit),
            Command::CommitRecovered { by, of, from, commit, last } => {
                self.commit_recovered(at, *by, *of, *from, commit, *last)
            }
            Command::TrimStreams { by, trims } => {
                self.check_live(*by)?;
                trims.iter().try_for_each(|(stream, start)| self.trim_stream(at, *stream, *start))?;
                Ok(Outcome::Done)
            }
            Command::AllocateProducerIds { by, count } => self.allocate_producer_ids(*by, *count),
            Command::CloseBroker { by } => self.close_broker(*by),
            Command::ReplaceParts { by, replacements } => self.replace_parts(at, *by, replacements),
            Command::ForgetGarbage { by, objects } => {
                self.check_live(*by)?;
                self.forget_garbage(objects);
                Ok(Outcome::Done)
            }
            Command::RaiseLowWater { by, counter } => {
                self.check_live(*by)?;
                self.raise_low_water(*by, *counter);
                Ok(Outcome::Done)
            }
            Command::CreatePartitions { by, topics } => {
                self.check_opened(*by)?;
                Ok(Outcome::Grown(topics.iter().map(|topic| self.grow_topic(*by, topic)).collect()))
            }
            Command::SetTopicConfigs { by, topic, was, shall } => {
                self.check_live(*by)?;
                self.set_topic_configs(*topic, was, shall)
            }
            Command::SetBrokerConfigs { by, broker, was, shall } => {
                self.check_live(*by)?;
                self.set_broker_configs(*broker, was, shall)
            }
            Command::Fence { by, of } => self.fence(*by, *of),
            Command::SetDraining { by, broker, draining } => self.set_draining(*by, *broker, *draining),
            Command::HandOver { by, moves } => self.hand_over(*by, moves),
            Command::Reassign { by, moves } => self.reassign(*by, moves),
            Command::KeepLeaderships { by, kept } => self.keep_leaderships(*by, kept),
            Command::Challenge { by, of } => self.challenge(at, *by, *of),
            Command::Answer { by } => self.answer(*by),
        }
    }

    /// O6.
    pub(super) fn check_live(&self, by: Incarnation) -> Result<(), Rejection> {
        if self.is_live(by) || host::planted("ignore-epoch") { Ok(()) } else { Err(Rejection::Fenced(by)) }
    }

    /// Only what has opened its streams may own any: a fence relies on it to know which WALs can hold something.
    fn check_opened(&self, by: Incarnation) -> Result<(), Rejection> {
        self.check_live(by)?;
        match self.lives.get(&by) {
            Some(life) if life.opened => Ok(()),
            _ => Err(invalid(format!(
                "broker {} epoch {} has not opened its leaderships yet",
                by.broker, by.epoch
            ))),
        }
    }

    fn format(&mut self, at: At, cluster_id: &Arc<str>, format: u32) -> Result<Outcome, Rejection> {
        if let Some(cluster) = &self.cluster {
            return Err(Rejection::AlreadyFormatted(cluster.id.clone()));
        }
        if format > FORMAT_VERSION {
            return Err(Rejection::Halted(
                format!(
                    "the store was formatted by a newer version of Ottla (metadata format {format}; this one \
                     knows {FORMAT_VERSION}): start that version, or a newer one"
                )
                .into(),
            ));
        }
        if cluster_id.is_empty() || format == 0 {
            return Err(invalid("a cluster needs an id, and a format of at least 1"));
        }
        self.cluster = Some(Cluster { id: cluster_id.clone(), format, formatted_ms: at.time_ms });
        Ok(Outcome::Done)
    }

    /// A stream gets another owner, under a new epoch.
    pub(super) fn open_stream(&mut self, id: StreamId, by: Incarnation) {
        let stream = self.streams.get_mut(&id).expect("a partition's streams exist (I3)");
        stream.owner = Some(by);
        stream.epoch += 1;
        let opened = EpochStart { epoch: stream.epoch, start: stream.committed_end };
        let epochs = Arc::make_mut(&mut stream.epochs);
        // An epoch in which nothing was written leaves no trace, as in Kafka's LeaderEpochFileCache.
        while epochs.last().is_some_and(|last| last.start >= opened.start) {
            epochs.pop();
        }
        epochs.push(opened);
    }

    fn create_topic(
        &mut self,
        at: At,
        by: Incarnation,
        new: &NewTopic,
    ) -> Result<Arc<Topic>, TopicRejection> {
        topic_name::validate(&new.name)
            .map_err(|invalid| TopicRejection::InvalidName(invalid.to_string()))?;
        if let Some(existing) = self.colliding(&new.name) {
            return Err(if existing.name == new.name {
                TopicRejection::Exists(new.name.clone())
            } else {
                TopicRejection::Collides { name: new.name.clone(), existing: existing.name.clone() }
            });
        }
        if self.topics.contains_key(&new.id) {
            return Err(TopicRejection::IdTaken(new.id));
        }
        let wanted = new.partitions as usize;
        if wanted == 0 {
            return Err(TopicRejection::NoPartitions);
        }
        if self.partitions + wanted > PARTITIONS_MAX {
            return Err(TopicRejection::TooManyPartitions { existing: self.partitions, wanted });
        }
        let leaders = self.leaders_for(by, &[], wanted, &new.leaders).map_err(TopicRejection::Assignment)?;
        let partitions = leaders
            .into_iter()
            .map(|leader| PartitionInfo::new(leader.broker, || self.create_stream(leader)))
            .collect();
        let topic = Arc::new(Topic {
            id: new.id,
            name: new.name.clone(),
            partitions,
            configs: new.configs.clone().into(),
            created_ms: at.time_ms,
        });
        self.put_topic(topic.clone());
        Ok(topic)
    }

    /// In place of the one with this id, if there is one, with the maps of names that are derived from it.
    pub(super) fn insert_topic(&mut self, topic: Arc<Topic>) {
        self.partitions += topic.partitions.len();
        self.partitions -= self.topics.get(&topic.id).map_or(0, |before| before.partitions.len());
        self.names.insert_mut(topic.name.clone(), topic.id);
        self.canonical.insert_mut(canonical_name(&topic.name).into(), topic.id);
        self.topics.insert_mut(topic.id, topic);
    }

    pub(super) fn create_stream(&mut self, by: Incarnation) -> StreamId {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        self.streams.insert_mut(id, Stream::new(by));
        id
    }

    fn delete_topic(&mut self, at: At, id: Uuid) -> bool {
        let Some(topic) = self.topics.get(&id).cloned() else { return false };
        self.topics.remove_mut(&id);
        self.names.remove_mut(&topic.name);
        self.canonical.remove_mut(canonical_name(&topic.name).as_str());
        self.partitions -= topic.partitions.len();
        self.recount(&topic.partitions, &[]);
        for partition in topic.partitions.iter() {
            for id in [partition.log, partition.checkpoint] {
                let stream = self.streams.get(&id).expect("a partition's streams exist (I3)").clone();
                self.streams.remove_mut(&id);
                stream.parts.values().for_each(|part| self.release_part(at, part.object));
            }
        }
        true
    }

    /// A part of `object` is gone (I2).
    pub(super) fn release_part(&mut self, at: At, object: ObjectId) {
        let entry = self.objects.get_mut(&object).expect("an object that a part names is known (I2)");
        entry.parts =
            entry.parts.checked_sub(1).expect("an object is named by as many parts as it counts (I2)");
        if entry.parts == 0 {
            let size_bytes = entry.size_bytes;
            self.objects.remove_mut(&object);
            self.garbage.insert_mut(object, Garbage::at(at, size_bytes));
        }
    }

    fn commit(&mut self, at: At, commit: &Commit) -> Result<Outcome, Rejection> {
        let owner = commit.owner;
        self.check_live(owner)?;
        let trim = self.lives.get(&owner).expect("checked to live").trim;
        if self.is_repeated(commit, trim) {
            self.return_to_garbage(at, commit);
            return Ok(Outcome::Done);
        }
        if commit.wal_trim < trim {
            return Err(invalid(format!(
                "the trim point would go back from {} to {}",
                trim.0, commit.wal_trim.0
            )));
        }
        for object in &commit.objects {
            match object.id {
                ObjectId::Data { owner: writer, .. } if writer == owner => {}
                other => return Err(invalid(format!("{other:?} is not an object of {owner:?}"))),
            }
            self.add_object(at, owner, object)?;
        }
        self.lives.get_mut(&owner).expect("checked to live").trim = commit.wal_trim;
        Ok(Outcome::Done)
    }

    /// Whether everything that this commit would do has been done, by its first try: so that a retry after an unknown
    /// outcome is harmless (F36). An object id that was used twice by mistake must not pass as a repetition: the WAL would
    /// be trimmed for data that no stream names. It cannot, since new data lies beyond its stream's committed end.
    fn is_repeated(&self, commit: &Commit, trim: Position) -> bool {
        !commit.objects.is_empty()
            && commit.wal_trim <= trim
            && commit.objects.iter().all(|object| {
                // One that was compacted and collected since is not known any more; its offsets are.
                self.size_of(object.id).is_none_or(|size_bytes| size_bytes == object.size_bytes)
                    && object.parts.iter().all(|part| self.was_committed(part))
            })
    }

    /// Of an object that is named or garbage.
    fn size_of(&self, id: ObjectId) -> Option<u64> {
        let named = self.objects.get(&id).map(|known| known.size_bytes);
        named.or_else(|| self.garbage.get(&id).map(|known| known.size_bytes))
    }

    /// Whether the part's offsets are committed, in whatever object they are by now: compaction may have moved them.
    fn was_committed(&self, part: &StreamPart) -> bool {
        match self.streams.get(&part.stream) {
            None => part.stream.0 < self.next_stream,
            Some(stream) => part.end <= stream.committed_end,
        }
    }

    /// Whether the object is known with this size, and every part that still matters is its.
    pub(super) fn is_named_as(&self, object: &NewObject) -> bool {
        self.size_of(object.id) == Some(object.size_bytes)
            && object.parts.iter().all(|part| self.is_committed(object.id, part))
    }

    pub(super) fn is_committed(&self, object: ObjectId, part: &StreamPart) -> bool {
        match self.streams.get(&part.stream) {
            None => part.stream.0 < self.next_stream,
            Some(stream) if part.end <= stream.start => true,
            Some(stream) => {
                let base = part.base.max(stream.start);
                stream.parts.get(&base).is_some_and(|known| known.object == object && known.end == part.end)
            }
        }
    }

    fn commit_recovered(
        &mut self,
        at: At,
        by: Incarnation,
        of: Incarnation,
        from: Position,
        commit: &Commit,
        last: bool,
    ) -> Result<Outcome, Rejection> {
        self.check_live(by)?;
        let Some(life) = self.lives.get(&of) else {
            return Err(conflict(format!(
                "the recovery of broker {} epoch {} is complete already",
                of.broker, of.epoch
            )));
        };
        if !life.fenced {
            return Err(invalid(format!("broker {} epoch {} is not fenced", of.broker, of.epoch)));
        }
        if commit.owner != of {
            return Err(invalid("a recovery commits for the incarnation that it recovers"));
        }
        if life.trim != from {
            return Err(conflict(format!(
                "the trim point of broker {} epoch {} is {}, not {}: another recovery has moved it",
                of.broker, of.epoch, life.trim.0, from.0
            )));
        }
        if commit.wal_trim < from {
            return Err(invalid("the trim point would go back"));
        }
        for object in &commit.objects {
            match object.id {
                ObjectId::Data { owner, .. } if owner == by => {}
                ObjectId::Slot { owner, slot } if owner == of && slot >= from.0 => {}
                other => return Err(invalid(format!("{other:?} cannot be part of this recovery"))),
            }
            self.add_object(at, of, object)?;
        }
        if last {
            self.forget_life(of);
        } else {
            self.lives.get_mut(&of).expect("just found").trim = commit.wal_trim;
        }
        Ok(Outcome::Done)
    }

    /// Adds an object and its parts, each of which must extend a stream of `owner` exactly (S4). Parts of streams that
    /// were deleted meanwhile are dropped.
    fn add_object(&mut self, at: At, owner: Incarnation, object: &NewObject) -> Result<(), Rejection> {
        if self.objects.contains_key(&object.id) || self.garbage.contains_key(&object.id) {
            return Err(invalid(format!("{:?} was committed before", object.id)));
        }
        self.check_low_water(object.id)?;
        if object.parts.is_empty() {
            return Err(invalid(format!("{:?} holds nothing", object.id)));
        }
        let mut live = 0;
        for part in &object.parts {
            live += u32::from(self.extend_stream(at, owner, object.id, part)?);
        }
        self.name_object(at, object, live);
        Ok(())
    }

    /// A new object that `live` parts name; garbage from the start if none does (I2).
    pub(super) fn name_object(&mut self, at: At, object: &NewObject, live: u32) {
        let size_bytes = object.size_bytes;
        if live == 0 {
            self.garbage.insert_mut(object.id, Garbage::at(at, size_bytes));
        } else {
            self.objects.insert_mut(object.id, Object { size_bytes, parts: live });
        }
    }

    /// Of a stream that is not there: whether it was deleted, or never was.
    pub(super) fn was_deleted(&self, id: StreamId) -> Result<(), Rejection> {
        if id.0 < self.next_stream {
            Ok(())
        } else {
            Err(invalid(format!("there never was a stream {}", id.0)))
        }
    }

    /// `false` if the stream was deleted.
    fn extend_stream(
        &mut self,
        at: At,
        owner: Incarnation,
        object: ObjectId,
        part: &StreamPart,
    ) -> Result<bool, Rejection> {
        if part.base >= part.end {
            return Err(invalid(format!("an empty part of stream {}", part.stream.0)));
        }
        let Some(stream) = self.streams.get_mut(&part.stream) else {
            return self.was_deleted(part.stream).map(|()| false);
        };
        if stream.owner != Some(owner) && !host::planted("ignore-epoch") {
            return Err(conflict(format!(
                "stream {} is open under {:?}, not under {owner:?}",
                part.stream.0, stream.owner
            )));
        }
        if part.base != stream.committed_end {
            return Err(conflict(format!(
                "stream {} ends at {}; a part that begins at {} would leave a gap or an overlap",
                part.stream.0, stream.committed_end, part.base
            )));
        }
        let added = Part {
            end: part.end,
            object,
            max_timestamp: part.max_timestamp,
            bytes: part.bytes,
            committed_ms: at.time_ms,
        };
        stream.parts.insert_mut(part.base, added);
        stream.committed_end = part.end;
        Ok(true)
    }

    fn trim_stream(&mut self, at: At, id: StreamId, start: u64) -> Result<(), Rejection> {
        let Some(stream) = self.streams.get_mut(&id) else { return self.was_deleted(id) };
        if start > stream.committed_end {
            return Err(invalid(format!(
                "stream {} cannot start at {start}: its committed end is {}",
                id.0, stream.committed_end
            )));
        }
        if start <= stream.start {
            return Ok(());
        }
        stream.start = start;
        let mut released = Vec::new();
        while let Some((base, part)) = stream.parts.first().map(|(base, part)| (*base, *part)) {
            if base >= start {
                break;
            }
            stream.parts.remove_mut(&base);
            if part.end > start {
                stream.parts.insert_mut(start, part);
                break;
            }
            released.push(part.object);
        }
        // The epoch that `start` lies in stays, from `start` on (Kafka's LeaderEpochFileCache.truncateFromStart).
        let epochs = Arc::make_mut(&mut stream.epochs);
        let first = epochs.partition_point(|epoch| epoch.start <= start).saturating_sub(1);
        epochs.drain(..first);
        if let Some(oldest) = epochs.first_mut() {
            oldest.start = oldest.start.max(start);
        }
        released.into_iter().for_each(|object| self.release_part(at, object));
        Ok(())
    }

    fn allocate_producer_ids(&mut self, by: Incarnation, count: u32) -> Result<Outcome, Rejection> {
        self.check_live(by)?;
        if count == 0 || count > PRODUCER_IDS_PER_COMMAND_MAX {
            return Err(invalid(format!("{count} producer ids at once")));
        }
        let first = self.next_producer_id;
        let end = first.checked_add(count.into()).ok_or_else(|| invalid("there are no producer ids left"))?;
        self.next_producer_id = end;
        Ok(Outcome::ProducerIds(first..end))
    }
}
