//! The commands of the metadata log, and their bytes.
//!
//! A command is a version byte (2), a tag byte, and a body of [`codec`](super::codec) primitives in the order of the
//! variant's fields as written here. `docs/formats/metadata.md` has the table. A tag or version is never used again for
//! something else. A program that meets one that it does not know stops following the log
//! ([`Image::halted`](super::image::Image::halted)): to skip a command would be to diverge from everybody who did not.
//!
//! Each command but the first two carries its issuer's incarnation and is rejected once that is fenced (O6).

use std::sync::Arc;

use s3stream::metadata::{Commit, NewObject, Replacement, StreamPart};
use s3stream::{ObjectId, StreamId};
use uuid::Uuid;
use wal::{Incarnation, Position};

use super::codec::{Malformed, Reader, Writer};
use super::image::{Config, Listener};
use super::note_hash::NoteHash;

/// What commands a store may hold; raised when a command is added that older programs do not understand.
pub const FORMAT_VERSION: u32 = 6;

const COMMAND_VERSION: u8 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The first command of a store. Of several racing ones the first counts.
    Format {
        cluster_id: Arc<str>,
        format: u32,
    },
    /// A new life of a broker begins; its epoch is the number of the entry. Fences the broker's previous life.
    RegisterBroker(Registration),
    /// The issuer takes leaderships from now on: those that nobody has are placed, each under a new leader epoch that
    /// begins at its stream's committed end.
    OpenLeaderships {
        by: Incarnation,
    },
    /// Accepted or rejected topic by topic.
    CreateTopics {
        by: Incarnation,
        topics: Vec<NewTopic>,
    },
    DeleteTopics {
        by: Incarnation,
        topics: Vec<Uuid>,
    },
    /// Issued by `commit.owner` itself (M3).
    CommitObjects {
        commit: Commit,
    },
    /// Issued for a fenced incarnation by its recoverer (O2).
    CommitRecovered {
        by: Incarnation,
        of: Incarnation,
        from: Position,
        commit: Commit,
        last: bool,
    },
    /// Moves starts forward.
    TrimStreams {
        by: Incarnation,
        trims: Vec<(StreamId, u64)>,
    },
    /// Hands out the next `count` producer ids.
    AllocateProducerIds {
        by: Incarnation,
        count: u32,
    },
    /// The issuer's WAL is empty and it stops.
    CloseBroker {
        by: Incarnation,
    },
    /// Compacted objects take the place of the parts they were made of.
    ReplaceParts {
        by: Incarnation,
        replacements: Vec<Replacement>,
    },
    /// These were deleted from the store; whatever of them is not garbage (any more) stays as it is.
    ForgetGarbage {
        by: Incarnation,
        objects: Vec<ObjectId>,
    },
    /// The issuer will name no object of its own with a counter below for the first time (O5). Never goes back.
    RaiseLowWater {
        by: Incarnation,
        counter: u64,
    },
    /// More partitions. Accepted or rejected topic by topic.
    CreatePartitions {
        by: Incarnation,
        topics: Vec<GrownTopic>,
    },
    /// Replaces the configs of a topic, if they are as they were when the issuer read them.
    SetTopicConfigs {
        by: Incarnation,
        topic: Uuid,
        was: Vec<Config>,
        shall: Vec<Config>,
    },
    /// The same for a broker, or with `None` for all brokers.
    SetBrokerConfigs {
        by: Incarnation,
        broker: Option<u32>,
        was: Vec<Config>,
        shall: Vec<Config>,
    },
    /// `of` is taken for dead: none of its commands is accepted any more, and its WAL is to be recovered (O1, B1).
    Fence {
        by: Incarnation,
        of: Incarnation,
    },
    /// Whether a broker is being emptied: one that is gets no more partitions, and hands over those it has.
    SetDraining {
        by: Incarnation,
        broker: u32,
        draining: bool,
    },
    /// The issuer gives partitions away. Accepted or rejected one by one.
    HandOver {
        by: Incarnation,
        moves: Vec<Handed>,
    },
    /// Says where partitions are to move, or with `None` that they are to stay. Accepted or rejected one by one.
    Reassign {
        by: Incarnation,
        moves: Vec<Reassigned>,
    },
    /// The issuer goes on leading partitions, under leader epochs that nobody was told of. Accepted or rejected one by one.
    KeepLeaderships {
        by: Incarnation,
        kept: Vec<Kept>,
    },
    /// `of` may be dead: no look at the log renews its right to acknowledge any more, until it answers (B1).
    Challenge {
        by: Incarnation,
        of: Incarnation,
    },
    /// The issuer lives.
    Answer {
        by: Incarnation,
    },
}

/// What a broker says of itself when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub broker: u32,
    /// Name of its WAL (W7), for whoever must recover it.
    pub wal_uri: Arc<str>,
    /// How long, in milliseconds, after a poll that showed no fence it may acknowledge (B1).
    pub lease_ms: u32,
    pub listener: Listener,
    pub rack: Option<Arc<str>>,
    /// Names the machine it runs on, for whoever has to judge later what its address means. Never empty.
    pub machine: Arc<str>,
    /// The epoch of this id's last registration as the issuer knows it: of two processes that take one id, the second is
    /// told.
    pub replaces: Option<u64>,
    /// Of its volume, if other hosts may reach that.
    pub claim: Option<Claiming>,
}

/// What a broker says of a volume that it is about to write to ([`volumes`](super::volumes)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claiming {
    /// The volume's own id; of a blank one the id that it will have.
    pub volume: Uuid,
    /// The device's id, the same on every host; empty if it has none.
    pub device: Arc<str>,
    pub blank: bool,
    /// Nobody who was there before can write to the volume any more.
    pub alone: bool,
    /// The newest registration that the issuer knew.
    pub judged: u64,
    /// Lives that can write no more to what they claimed, this volume or another one.
    pub gone: Vec<Incarnation>,
}

impl Claiming {
    /// Whether the claim of `volume` by `life` is over with this one.
    pub(super) fn ends(&self, volume: Uuid, life: Incarnation) -> bool {
        (self.alone && volume == self.volume) || self.gone.contains(&life)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Random; picked by the issuer.
    pub id: Uuid,
    pub name: Arc<str>,
    pub partitions: u32,
    /// By name, ascending, validated by the issuer.
    pub configs: Vec<Config>,
    /// The leader of each partition, all of them serving; empty: where there is least.
    pub leaders: Vec<u32>,
}

/// A topic that is to have more partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrownTopic {
    pub id: Uuid,
    /// How many it is to have.
    pub partitions: u32,
    /// The leader of each one that is added; empty: where there is least.
    pub leaders: Vec<u32>,
}

/// A partition that its leader gives away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    pub topic: Uuid,
    pub partition: u32,
    /// Broker id.
    pub to: u32,
    /// Where its log and its checkpoints end, of which everything must be committed (H1).
    pub log_end: u64,
    pub checkpoint_end: u64,
    /// Under which it leads it: an entry that comes late gives nothing away that has left and come back. Older programs did not
    /// say.
    pub leader_epoch: Option<i32>,
    /// Of what it will tell the next leader when that asks.
    pub note: Option<NoteHash>,
}

/// A partition that its leader keeps after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub topic: Uuid,
    pub partition: u32,
    /// Where its log and its checkpoints end, of which everything must be committed.
    pub log_end: u64,
    pub checkpoint_end: u64,
    /// Under which it led it until now.
    pub leader_epoch: i32,
}

/// Where a partition is to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reassigned {
    pub topic: Uuid,
    pub partition: u32,
    /// Broker id; `None` takes back what was said before.
    pub target: Option<u32>,
}

mod tag {
    pub const FORMAT: u8 = 1;
    pub const REGISTER_BROKER: u8 = 2;
    pub const OPEN_LEADERSHIPS: u8 = 3;
    pub const CREATE_TOPICS: u8 = 4;
    pub const DELETE_TOPICS: u8 = 5;
    pub const COMMIT_OBJECTS: u8 = 6;
    pub const COMMIT_RECOVERED: u8 = 7;
    pub const TRIM_STREAMS: u8 = 8;
    pub const ALLOCATE_PRODUCER_IDS: u8 = 9;
    pub const CLOSE_BROKER: u8 = 10;
    pub const REPLACE_PARTS: u8 = 11;
    pub const FORGET_GARBAGE: u8 = 12;
    pub const RAISE_LOW_WATER: u8 = 13;
    pub const CREATE_PARTITIONS: u8 = 14;
    pub const SET_TOPIC_CONFIGS: u8 = 15;
    pub const SET_BROKER_CONFIGS: u8 = 16;
    pub const FENCE: u8 = 17;
    pub const SET_DRAINING: u8 = 18;
    pub const HAND_OVER: u8 = 19;
    pub const REASSIGN: u8 = 20;
    pub const HAND_OVER_OF_EPOCH: u8 = 21;
    pub const REGISTER_WITH_VOLUME: u8 = 22;
    pub const KEEP_LEADERSHIPS: u8 = 23;
    pub const CHALLENGE: u8 = 24;
    pub const ANSWER: u8 = 25;
}

impl Command {
    /// # Panics
    /// If a string is longer than [`STRING_BYTES_MAX`](super::codec::STRING_BYTES_MAX).
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u8(COMMAND_VERSION);
        match self {
            Command::Format { cluster_id, format } => {
                to.u8(tag::FORMAT);
                to.string(cluster_id);
                to.u32(*format);
            }
            Command::RegisterBroker(registration) => {
                let with_volume = registration.claim.is_some();
                to.u8(if with_volume { tag::REGISTER_WITH_VOLUME } else { tag::REGISTER_BROKER });
                write_registration(&mut to, registration);
            }
            Command::OpenLeaderships { by } => {
                to.u8(tag::OPEN_LEADERSHIPS);
                to.incarnation(*by);
            }
            Command::CreateTopics { by, topics } => {
                to.u8(tag::CREATE_TOPICS);
                to.incarnation(*by);
                to.count(topics.len());
                topics.iter().for_each(|topic| write_topic(&mut to, topic));
            }
            Command::DeleteTopics { by, topics } => {
                to.u8(tag::DELETE_TOPICS);
                to.incarnation(*by);
                to.count(topics.len());
                topics.iter().for_each(|topic| to.uuid(*topic));
            }
            Command::CommitObjects { commit } => {
                to.u8(tag::COMMIT_OBJECTS);
                write_commit(&mut to, commit);
            }
            Command::CommitRecovered { by, of, from, commit, last } => {
                to.u8(tag::COMMIT_RECOVERED);
                to.incarnation(*by);
                to.incarnation(*of);
                to.u64(from.0);
                write_commit(&mut to, commit);
                to.bool(*last);
            }
            Command::TrimStreams { by, trims } => {
                to.u8(tag::TRIM_STREAMS);
                to.incarnation(*by);
                to.count(trims.len());
                for (stream, start) in trims {
                    to.u64(stream.0);
                    to.u64(*start);
                }
            }
            Command::AllocateProducerIds { by, count } => {
                to.u8(tag::ALLOCATE_PRODUCER_IDS);
                to.incarnation(*by);
                to.u32(*count);
            }
            Command::CloseBroker { by } => {
                to.u8(tag::CLOSE_BROKER);
                to.incarnation(*by);
            }
            Command::ReplaceParts { by, replacements } => {
                to.u8(tag::REPLACE_PARTS);
                to.incarnation(*by);
                to.count(replacements.len());
                for replacement in replacements {
                    write_object(&mut to, &replacement.object);
                    to.count(replacement.sources.len());
                    replacement.sources.iter().for_each(|source| to.object(*source));
                }
            }
            Command::ForgetGarbage { by, objects } => {
                to.u8(tag::FORGET_GARBAGE);
                to.incarnation(*by);
                to.count(objects.len());
                objects.iter().for_each(|object| to.object(*object));
            }
            Command::RaiseLowWater { by, counter } => {
                to.u8(tag::RAISE_LOW_WATER);
                to.incarnation(*by);
                to.u64(*counter);
            }
            Command::CreatePartitions { by, topics } => {
                to.u8(tag::CREATE_PARTITIONS);
                to.incarnation(*by);
                to.count(topics.len());
                for topic in topics {
                    to.uuid(topic.id);
                    to.u32(topic.partitions);
                    write_ids(&mut to, &topic.leaders);
                }
            }
            Command::SetTopicConfigs { by, topic, was, shall } => {
                to.u8(tag::SET_TOPIC_CONFIGS);
                to.incarnation(*by);
                to.uuid(*topic);
                write_configs(&mut to, was);
                write_configs(&mut to, shall);
            }
            Command::SetBrokerConfigs { by, broker, was, shall } => {
                to.u8(tag::SET_BROKER_CONFIGS);
                to.incarnation(*by);
                to.option(*broker, |to, broker| to.u32(broker));
                write_configs(&mut to, was);
                write_configs(&mut to, shall);
            }
            Command::Fence { by, of } => {
                to.u8(tag::FENCE);
                to.incarnation(*by);
                to.incarnation(*of);
            }
            Command::SetDraining { by, broker, draining } => {
                to.u8(tag::SET_DRAINING);
                to.incarnation(*by);
                to.u32(*broker);
                to.bool(*draining);
            }
            Command::HandOver { by, moves } => {
                let of_epoch = moves.iter().any(|handed| handed.leader_epoch.is_some());
                to.u8(if of_epoch { tag::HAND_OVER_OF_EPOCH } else { tag::HAND_OVER });
                to.incarnation(*by);
                to.count(moves.len());
                moves.iter().for_each(|handed| write_handed(&mut to, handed, of_epoch));
            }
            Command::Reassign { by, moves } => {
                to.u8(tag::REASSIGN);
                to.incarnation(*by);
                to.count(moves.len());
                for reassigned in moves {
                    to.uuid(reassigned.topic);
                    to.u32(reassigned.partition);
                    to.option(reassigned.target, |to, target| to.u32(target));
                }
            }
            Command::KeepLeaderships { by, kept } => {
                to.u8(tag::KEEP_LEADERSHIPS);
                to.incarnation(*by);
                to.count(kept.len());
                for kept in kept {
                    to.uuid(kept.topic);
                    to.u32(kept.partition);
                    to.u64(kept.log_end);
                    to.u64(kept.checkpoint_end);
                    to.i32(kept.leader_epoch);
                }
            }
            Command::Challenge { by, of } => {
                to.u8(tag::CHALLENGE);
                to.incarnation(*by);
                to.incarnation(*of);
            }
            Command::Answer { by } => {
                to.u8(tag::ANSWER);
                to.incarnation(*by);
            }
        }
        to.0
    }

    pub fn decode(bytes: &[u8]) -> Result<Command, Malformed> {
        let mut from = Reader::new(bytes);
        if from.u8()? != COMMAND_VERSION {
            return Err(from.malformed("a command of an unknown version"));
        }
        let command = match from.u8()? {
            tag::FORMAT => Command::Format { cluster_id: from.string()?, format: from.u32()? },
            tag::REGISTER_BROKER => Command::RegisterBroker(read_registration(&mut from, false)?),
            tag::REGISTER_WITH_VOLUME => Command::RegisterBroker(read_registration(&mut from, true)?),
            tag::OPEN_LEADERSHIPS => Command::OpenLeaderships { by: from.incarnation()? },
            tag::CREATE_TOPICS => Command::CreateTopics {
                by: from.incarnation()?,
                topics: from.list(TOPIC_BYTES_MIN, read_topic)?,
            },
            tag::DELETE_TOPICS => {
                Command::DeleteTopics { by: from.incarnation()?, topics: from.list(16, |from| from.uuid())? }
            }
            tag::COMMIT_OBJECTS => Command::CommitObjects { commit: read_commit(&mut from)? },
            tag::COMMIT_RECOVERED => Command::CommitRecovered {
                by: from.incarnation()?,
                of: from.incarnation()?,
                from: Position(from.u64()?),
                commit: read_commit(&mut from)?,
                last: from.bool()?,
            },
            tag::TRIM_STREAMS => Command::TrimStreams {
                by: from.incarnation()?,
                trims: from.list(16, |from| Ok((StreamId(from.u64()?), from.u64()?)))?,
            },
            tag::ALLOCATE_PRODUCER_IDS => {
                Command::AllocateProducerIds { by: from.incarnation()?, count: from.u32()? }
            }
            tag::CLOSE_BROKER => Command::CloseBroker { by: from.incarnation()? },
            tag::REPLACE_PARTS => Command::ReplaceParts {
                by: from.incarnation()?,
                replacements: from.list(OBJECT_BYTES_MIN + 4, |from| {
                    let object = read_object(from)?;
                    let sources = from.list(OBJECT_ID_BYTES, |from| from.object())?;
                    Ok(Replacement { object, sources })
                })?,
            },
            tag::FORGET_GARBAGE => Command::ForgetGarbage {
                by: from.incarnation()?,
                objects: from.list(OBJECT_ID_BYTES, |from| from.object())?,
            },
            tag::RAISE_LOW_WATER => Command::RaiseLowWater { by: from.incarnation()?, counter: from.u64()? },
            tag::CREATE_PARTITIONS => Command::CreatePartitions {
                by: from.incarnation()?,
                topics: from.list(24, |from| {
                    Ok(GrownTopic { id: from.uuid()?, partitions: from.u32()?, leaders: read_ids(from)? })
                })?,
            },
            tag::SET_TOPIC_CONFIGS => Command::SetTopicConfigs {
                by: from.incarnation()?,
                topic: from.uuid()?,
                was: read_configs(&mut from)?,
                shall: read_configs(&mut from)?,
            },
            tag::SET_BROKER_CONFIGS => Command::SetBrokerConfigs {
                by: from.incarnation()?,
                broker: from.option(|from| from.u32())?,
                was: read_configs(&mut from)?,
                shall: read_configs(&mut from)?,
            },
            tag::FENCE => Command::Fence { by: from.incarnation()?, of: from.incarnation()? },
            tag::CHALLENGE => Command::Challenge { by: from.incarnation()?, of: from.incarnation()? },
            tag::ANSWER => Command::Answer { by: from.incarnation()? },
            tag::SET_DRAINING => {
                Command::SetDraining { by: from.incarnation()?, broker: from.u32()?, draining: from.bool()? }
            }
            tag::HAND_OVER => Command::HandOver {
                by: from.incarnation()?,
                moves: from.list(HANDED_BYTES_MIN, |from| read_handed(from, false))?,
            },
            tag::HAND_OVER_OF_EPOCH => {
                let by = from.incarnation()?;
                let moves = from.list(HANDED_BYTES_MIN + 5, |from| read_handed(from, true))?;
                // Nobody wrote it, and it would have two forms.
                if moves.is_empty() {
                    return Err(from.malformed("a hand-over of nothing under leader epochs"));
                }
                Command::HandOver { by, moves }
            }
            tag::REASSIGN => Command::Reassign {
                by: from.incarnation()?,
                moves: from.list(21, |from| {
                    Ok(Reassigned {
                        topic: from.uuid()?,
                        partition: from.u32()?,
                        target: from.option(|from| from.u32())?,
                    })
                })?,
            },
            tag::KEEP_LEADERSHIPS => Command::KeepLeaderships {
                by: from.incarnation()?,
                kept: from.list(KEPT_BYTES, |from| {
                    Ok(Kept {
                        topic: from.uuid()?,
                        partition: from.u32()?,
                        log_end: from.u64()?,
                        checkpoint_end: from.u64()?,
                        leader_epoch: from.i32()?,
                    })
                })?,
            },
            _ => return Err(from.malformed("a command of an unknown kind")),
        };
        from.end()?;
        Ok(command)
    }
}

fn write_registration(to: &mut Writer, registration: &Registration) {
    to.u32(registration.broker);
    to.string(&registration.wal_uri);
    to.u32(registration.lease_ms);
    to.string(&registration.listener.host);
    to.u16(registration.listener.port);
    to.option(registration.rack.as_deref(), |to, rack| to.string(rack));
    to.string(&registration.machine);
    to.option(registration.replaces, |to, epoch| to.u64(epoch));
    if let Some(claim) = &registration.claim {
        to.uuid(claim.volume);
        to.string(&claim.device);
        to.bool(claim.blank);
        to.bool(claim.alone);
        to.u64(claim.judged);
        to.count(claim.gone.len());
        claim.gone.iter().for_each(|life| to.incarnation(*life));
    }
}

fn read_registration(from: &mut Reader<'_>, with_volume: bool) -> Result<Registration, Malformed> {
    Ok(Registration {
        broker: from.u32()?,
        wal_uri: from.string()?,
        lease_ms: from.u32()?,
        listener: Listener { host: from.string()?, port: from.u16()? },
        rack: from.option(|from| from.string())?,
        machine: from.string()?,
        replaces: from.option(|from| from.u64())?,
        claim: if with_volume { Some(read_claiming(from)?) } else { None },
    })
}

fn read_claiming(from: &mut Reader<'_>) -> Result<Claiming, Malformed> {
    Ok(Claiming {
        volume: from.uuid()?,
        device: from.string()?,
        blank: from.bool()?,
        alone: from.bool()?,
        judged: from.u64()?,
        gone: from.list(12, |from| from.incarnation())?,
    })
}

/// Id 16, name 2, partitions 4, number of configs 4, number of leaders 4.
const TOPIC_BYTES_MIN: usize = 30;

fn write_topic(to: &mut Writer, topic: &NewTopic) {
    to.uuid(topic.id);
    to.string(&topic.name);
    to.u32(topic.partitions);
    write_configs(to, &topic.configs);
    write_ids(to, &topic.leaders);
}

fn read_topic(from: &mut Reader<'_>) -> Result<NewTopic, Malformed> {
    Ok(NewTopic {
        id: from.uuid()?,
        name: from.string()?,
        partitions: from.u32()?,
        configs: read_configs(from)?,
        leaders: read_ids(from)?,
    })
}

/// Topic 16, partition 4, to 4, two ends of 8.
const HANDED_BYTES_MIN: usize = 40;

/// Topic 16, partition 4, two ends of 8, leader epoch 4.
const KEPT_BYTES: usize = 40;

/// # Panics
/// If the leader epoch is missing, or there and the command has no place for it; if there is a note and no leader epoch.
fn write_handed(to: &mut Writer, handed: &Handed, of_epoch: bool) {
    assert_eq!(
        handed.leader_epoch.is_some(),
        of_epoch,
        "one command names the leader epochs of all or of none"
    );
    to.uuid(handed.topic);
    to.u32(handed.partition);
    to.u32(handed.to);
    to.u64(handed.log_end);
    to.u64(handed.checkpoint_end);
    match handed.leader_epoch {
        Some(epoch) => {
            to.i32(epoch);
            to.option(handed.note, |to, note| to.hash(note));
        }
        None => assert_eq!(handed.note, None, "whoever knows of notes knows of leader epochs"),
    }
}

fn read_handed(from: &mut Reader<'_>, of_epoch: bool) -> Result<Handed, Malformed> {
    Ok(Handed {
        topic: from.uuid()?,
        partition: from.u32()?,
        to: from.u32()?,
        log_end: from.u64()?,
        checkpoint_end: from.u64()?,
        leader_epoch: if of_epoch { Some(from.i32()?) } else { None },
        note: if of_epoch { from.option(|from| from.hash())? } else { None },
    })
}

fn write_ids(to: &mut Writer, ids: &[u32]) {
    to.count(ids.len());
    ids.iter().for_each(|id| to.u32(*id));
}

fn read_ids(from: &mut Reader<'_>) -> Result<Vec<u32>, Malformed> {
    from.list(4, |from| from.u32())
}

pub(super) fn write_configs(to: &mut Writer, configs: &[Config]) {
    to.count(configs.len());
    for (name, value) in configs {
        to.string(name);
        to.string(value);
    }
}

/// By name: [`Topic::config`](super::image::Topic::config) relies on it that they ascend.
pub(super) fn read_configs(from: &mut Reader<'_>) -> Result<Vec<Config>, Malformed> {
    from.map(4, |from| Ok((from.string()?, from.string()?)))
}

const OBJECT_ID_BYTES: usize = 21;
/// Its id, size 8, number of parts 4.
const OBJECT_BYTES_MIN: usize = OBJECT_ID_BYTES + 12;
const PART_BYTES: usize = 40;

fn write_commit(to: &mut Writer, commit: &Commit) {
    to.incarnation(commit.owner);
    to.u64(commit.wal_trim.0);
    to.count(commit.objects.len());
    commit.objects.iter().for_each(|object| write_object(to, object));
}

fn write_object(to: &mut Writer, object: &NewObject) {
    to.object(object.id);
    to.u64(object.size_bytes);
    to.count(object.parts.len());
    for part in &object.parts {
        to.u64(part.stream.0);
        to.u64(part.base);
        to.u64(part.end);
        to.i64(part.max_timestamp);
        to.u64(part.bytes);
    }
}

fn read_commit(from: &mut Reader<'_>) -> Result<Commit, Malformed> {
    Ok(Commit {
        owner: from.incarnation()?,
        wal_trim: Position(from.u64()?),
        objects: from.list(OBJECT_BYTES_MIN, read_object)?,
    })
}

fn read_object(from: &mut Reader<'_>) -> Result<NewObject, Malformed> {
    Ok(NewObject { id: from.object()?, size_bytes: from.u64()?, parts: from.list(PART_BYTES, read_part)? })
}

fn read_part(from: &mut Reader<'_>) -> Result<StreamPart, Malformed> {
    Ok(StreamPart {
        stream: StreamId(from.u64()?),
        base: from.u64()?,
        end: from.u64()?,
        max_timestamp: from.i64()?,
        bytes: from.u64()?,
    })
}
