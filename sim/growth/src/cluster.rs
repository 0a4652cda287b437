//! A cluster's metadata, and what its brokers would write into it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use metalog::entry::{Entry, Nonce};
use ottla::metadata::NoteHash;
use ottla::metadata::apply::{At, Outcome};
use ottla::metadata::command::{Command, FORMAT_VERSION, Handed, NewTopic, Registration};
use ottla::metadata::image::{Image, Listener};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use s3stream::metadata::{Commit, NewObject, Replacement, StreamPart};
use s3stream::{ObjectId, StreamId};
use uuid::Uuid;
use wal::{Incarnation, Position};

use crate::measure::cpu_of;

/// How large, how busy. Sizes of the storage engine are its defaults.
#[derive(Clone, Debug)]
pub struct Shape {
    pub brokers: u32,
    pub partitions: usize,
    pub topics: usize,
    /// Partitions that anything is written to; the others stay empty.
    pub active: usize,
    /// What producers write to all of them, bytes per second.
    pub ingest: u64,
    /// PUTs of a broker's log per second; none with a block WAL.
    pub slots_per_second: u64,
    /// Full parts that retention leaves of an active partition.
    pub full_parts: u64,
    pub seed: u64,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            brokers: 100,
            partitions: 100_000,
            topics: 1_000,
            active: 100_000,
            ingest: 100 << 20,
            slots_per_second: 20,
            full_parts: 4,
            seed: 1,
        }
    }
}

const UPLOAD_BYTES: u64 = 64 << 20;
const UPLOAD_INTERVAL: u64 = 60;
/// Slots of an object WAL that an upload does not wait any longer for, and the time that it waits nevertheless.
const UPLOAD_SLOTS: u64 = 400;
const UPLOAD_SLOTS_INTERVAL: u64 = 20;
/// Parts in one entry.
pub(crate) const COMMIT_PARTS: usize = 4096;
const FAN_IN: usize = 32;
const FULL_BYTES: u64 = 32 << 20;
const OBJECT_BYTES: u64 = 256 << 20;
const CHECKPOINT_EVERY: u64 = 16 << 20;
/// Checkpoints that are there when all but the last are trimmed.
const CHECKPOINTS: usize = 16;
const RETENTION_EVERY: u64 = 300;
const COLLECT_EVERY: u64 = 60;
const COLLECT_AFTER_MS: i64 = 600_000;
const MOVE_EVERY: u64 = 60;
/// Partitions that are moved at a time.
const MOVED: usize = 10;
const RECORD_BYTES: u64 = 1024;

/// What commands of one kind cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub entries: u64,
    /// Of the entries' objects.
    pub bytes: u64,
    pub cpu: Duration,
    pub cpu_max: Duration,
}

impl Cost {
    pub fn add(&mut self, other: &Cost) {
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.cpu += other.cpu;
        self.cpu_max = self.cpu_max.max(other.cpu_max);
    }
}

pub type Costs = BTreeMap<&'static str, Cost>;

pub struct Cluster {
    pub shape: Shape,
    pub image: Image,
    number: u64,
    /// Virtual.
    seconds: u64,
    pub costs: Costs,
    pub brokers: Vec<Broker>,
    /// By the number of a partition.
    is_active: Vec<bool>,
    random: StdRng,
}

#[derive(Debug)]
pub struct Broker {
    pub by: Incarnation,
    pub(crate) counter: u64,
    trim: u64,
    /// Where its intervals begin.
    phase: u64,
    next_upload: u64,
    /// Bytes that each of its active partitions got since its last upload.
    waiting: u64,
}

impl Cluster {
    /// Brokers serve, topics are there, and each active partition holds what it would after a long time.
    pub fn new(shape: Shape) -> Cluster {
        let mut cluster = Cluster {
            image: Image::empty(),
            number: 0,
            seconds: 0,
            costs: Costs::new(),
            brokers: Vec::new(),
            is_active: spread(shape.partitions, shape.active),
            random: StdRng::seed_from_u64(shape.seed),
            shape,
        };
        cluster.apply("format", Command::Format { cluster_id: "growth".into(), format: FORMAT_VERSION });
        for id in 0..cluster.shape.brokers {
            cluster.join(id);
        }
        cluster.create_topics();
        cluster.fill();
        cluster
    }

    /// An entry of one command. Its view stays alive meanwhile, as it does in a replica.
    pub fn apply(&mut self, kind: &'static str, command: Command) -> (Outcome, Duration) {
        self.number += 1;
        let at = At { number: self.number, time_ms: self.seconds as i64 * 1000 };
        let bytes = Bytes::from(command.encode());
        let entry = Entry {
            number: at.number,
            nonce: Nonce([1; 16]),
            predecessor: if at.number == 1 { Nonce::NONE } else { Nonce([2; 16]) },
            time_ms: at.time_ms,
            issuer: None,
            commands: vec![bytes.clone()],
        };
        let size = entry.encode().len() as u64;
        let view = self.image.clone();
        let (outcome, cpu) = cpu_of(|| {
            let outcome = self.image.apply_bytes(at, &bytes);
            drop(view);
            outcome
        });
        let outcome = outcome.unwrap_or_else(|rejection| panic!("{kind}: {rejection}"));
        let cost = Cost { entries: 1, bytes: size, cpu, cpu_max: cpu };
        self.costs.entry(kind).or_default().add(&cost);
        (outcome, cpu)
    }

    pub fn join(&mut self, id: u32) {
        let registration = Registration {
            broker: id,
            wal_uri: "object:".into(),
            lease_ms: 3_000,
            listener: Listener { host: format!("broker-{id}.ottla.internal").into(), port: 9092 },
            rack: Some("eu-central-1a".into()),
            machine: Uuid::from_u128(id.into()).to_string().into(),
            replaces: self.image.last_registration(id),
            claim: None,
        };
        let (outcome, _) = self.apply("register", Command::RegisterBroker(registration));
        let Outcome::Registered(registered) = outcome else { panic!("{outcome:?}") };
        let by = registered.incarnation;
        self.apply("open leaderships", Command::OpenLeaderships { by });
        let phase = self.random.random_range(0..UPLOAD_INTERVAL);
        self.brokers.push(Broker { by, counter: 0, trim: 0, phase, next_upload: 0, waiting: 0 });
    }

    fn create_topics(&mut self) {
        let by = self.brokers[0].by;
        let (each, rest) =
            (self.shape.partitions / self.shape.topics, self.shape.partitions % self.shape.topics);
        for topic in 0..self.shape.topics {
            let new = NewTopic {
                id: Uuid::from_u128(self.random.random()),
                name: format!("team.application.topic-{topic}").into(),
                partitions: (each + usize::from(topic < rest)) as u32,
                configs: vec![("retention.ms".into(), "604800000".into())],
                leaders: Vec::new(),
            };
            if new.partitions > 0 {
                self.apply("create topics", Command::CreateTopics { by, topics: vec![new] });
            }
        }
    }

    /// The active partitions of a broker: their logs and checkpoints.
    pub fn active(&self, by: Incarnation) -> Vec<(StreamId, StreamId)> {
        // Streams are numbered as they were created, two for each partition.
        let is_active = |log: StreamId| self.is_active[(log.0 / 2) as usize];
        let led = self.image.partitions_of(by).map(|(topic, index)| topic.partitions[index]);
        led.filter(|partition| is_active(partition.log))
            .map(|partition| (partition.log, partition.checkpoint))
            .collect()
    }

    fn partition_rate(&self) -> u64 {
        self.shape.ingest / self.shape.active.max(1) as u64
    }

    /// Seconds from one upload of a broker to the next, by what its active partitions get.
    pub fn upload_every(&self, broker: usize) -> u64 {
        self.upload_interval(self.active(self.brokers[broker].by).len())
    }

    fn upload_interval(&self, active: usize) -> u64 {
        let by_bytes = UPLOAD_BYTES / (self.partition_rate() * active as u64).max(1);
        let by_slots = match UPLOAD_SLOTS.checked_div(self.shape.slots_per_second) {
            Some(seconds) => seconds.max(UPLOAD_SLOTS_INTERVAL),
            None => UPLOAD_INTERVAL,
        };
        by_bytes.clamp(1, by_slots.min(UPLOAD_INTERVAL))
    }

    /// The next part of a stream.
    fn part(&self, stream: StreamId, bytes: u64, added: &mut BTreeMap<StreamId, u64>) -> StreamPart {
        let end = added
            .entry(stream)
            .or_insert_with(|| self.image.stream(stream).map_or(0, |stream| stream.committed_end));
        let base = *end;
        *end += (bytes / RECORD_BYTES).max(1);
        StreamPart { stream, base, end: *end, max_timestamp: self.seconds as i64 * 1000, bytes }
    }

    /// Objects of so many streams each, one part of so many bytes for each stream.
    fn upload(&mut self, kind: &'static str, broker: usize, streams: &[(StreamId, u64)], per_object: usize) {
        for streams in streams.chunks(COMMIT_PARTS) {
            let mut added = BTreeMap::new();
            let mut objects = Vec::new();
            for streams in streams.chunks(per_object.max(1)) {
                let parts: Vec<StreamPart> =
                    streams.iter().map(|(stream, bytes)| self.part(*stream, *bytes, &mut added)).collect();
                let counter = self.next_counter(broker);
                let id = ObjectId::Data { owner: self.brokers[broker].by, counter };
                let size_bytes = parts.iter().map(|part| part.bytes).sum();
                objects.push(NewObject { id, size_bytes, parts });
            }
            let Broker { by, trim, .. } = &mut self.brokers[broker];
            *trim += UPLOAD_BYTES;
            let commit = Commit { owner: *by, objects, wal_trim: Position(*trim) };
            self.apply(kind, Command::CommitObjects { commit });
        }
    }

    pub(crate) fn next_counter(&mut self, broker: usize) -> u64 {
        self.brokers[broker].counter += 1;
        self.brokers[broker].counter
    }

    /// Full parts, then those of each smaller tier, as many as chance has it.
    fn fill(&mut self) {
        for broker in 0..self.brokers.len() {
            let streams = self.active(self.brokers[broker].by);
            let every = self.upload_interval(streams.len());
            let small = (self.partition_rate() * every).max(1);
            self.brokers[broker].next_upload = 1 + self.brokers[broker].phase % every;
            let logs = |bytes| streams.iter().map(|(log, _)| (*log, bytes)).collect::<Vec<_>>();
            for _ in 0..self.shape.full_parts {
                self.upload("fill", broker, &logs(FULL_BYTES), (OBJECT_BYTES / FULL_BYTES) as usize);
            }
            let mut bytes = tiers(small);
            bytes.reverse();
            for bytes in bytes {
                let per_object =
                    if bytes == small { COMMIT_PARTS } else { (OBJECT_BYTES / bytes).max(1) as usize };
                for _ in 0..self.random.random_range(0..FAN_IN) {
                    self.upload("fill", broker, &logs(bytes), per_object.min(COMMIT_PARTS));
                }
            }
        }
    }

    /// Lets so many seconds pass. Costs are counted from here on.
    pub fn run(&mut self, seconds: u64) {
        self.costs.clear();
        for _ in 0..seconds {
            self.seconds += 1;
            for broker in 0..self.brokers.len() {
                self.brokers[broker].waiting += self.partition_rate();
                if self.seconds >= self.brokers[broker].next_upload {
                    self.brokers[broker].next_upload = self.seconds + self.upload_every(broker);
                    self.upload_waiting(broker);
                    self.compact(broker);
                }
                if (self.seconds + self.brokers[broker].phase).is_multiple_of(RETENTION_EVERY) {
                    self.retain(broker);
                }
            }
            if self.seconds.is_multiple_of(COLLECT_EVERY) {
                self.collect();
            }
            if self.seconds.is_multiple_of(MOVE_EVERY) {
                self.move_some();
            }
        }
    }

    fn upload_waiting(&mut self, broker: usize) {
        let bytes = std::mem::take(&mut self.brokers[broker].waiting);
        if bytes == 0 {
            return;
        }
        let mut streams = Vec::new();
        let mut full = Vec::new();
        for (log, checkpoint) in self.active(self.brokers[broker].by) {
            streams.push((log, bytes));
            if self.random.random_range(0..CHECKPOINT_EVERY) < bytes {
                streams.push((checkpoint, RECORD_BYTES));
                full.push(checkpoint);
            }
        }
        self.upload("upload", broker, &streams, COMMIT_PARTS);
        for checkpoint in full {
            self.trim_checkpoints(broker, checkpoint);
        }
    }

    fn trim_checkpoints(&mut self, broker: usize, checkpoint: StreamId) {
        let stream = self.image.stream(checkpoint).expect("just extended");
        if stream.parts().size() < CHECKPOINTS {
            return;
        }
        let by = self.brokers[broker].by;
        let trims = vec![(checkpoint, stream.committed_end - 1)];
        self.apply("checkpoint trim", Command::TrimStreams { by, trims });
    }

    /// Merges what has enough adjacent parts of one tier, until nothing has.
    fn compact(&mut self, broker: usize) {
        let by = self.brokers[broker].by;
        loop {
            let mut runs = VecDeque::new();
            for (log, _) in self.active(by) {
                if let Some(run) = self.run_of(log) {
                    runs.push_back(run);
                }
            }
            if runs.is_empty() {
                return;
            }
            while let Some(first) = runs.pop_front() {
                let mut bytes = first.0.bytes;
                let mut parts = vec![first.0];
                let mut sources: BTreeSet<ObjectId> = first.1.into_iter().collect();
                while let Some((part, more)) = runs.front() {
                    let fits = bytes + part.bytes <= OBJECT_BYTES
                        && parts.len() * FAN_IN < 16_384
                        && sources.len() + more.len() <= 256;
                    if !fits {
                        break;
                    }
                    bytes += part.bytes;
                    parts.push(*part);
                    sources.extend(more.iter().copied());
                    runs.pop_front();
                }
                let id = ObjectId::Data { owner: by, counter: self.next_counter(broker) };
                let object = NewObject { id, size_bytes: bytes, parts };
                let replacements = vec![Replacement { object, sources: sources.into_iter().collect() }];
                self.apply("compaction", Command::ReplaceParts { by, replacements });
            }
        }
    }

    /// The first adjacent parts of one tier that are enough to be merged: what they become, and where they lie.
    fn run_of(&self, log: StreamId) -> Option<(StreamPart, Vec<ObjectId>)> {
        let stream = self.image.stream(log)?;
        let mut run = Vec::new();
        for (base, part) in stream.parts() {
            let tier = tier(part.bytes);
            if tier.is_none() || run.last().is_some_and(|(_, _, last)| *last != tier) {
                run.clear();
            }
            if tier.is_some() {
                run.push((*base, *part, tier));
            }
            if run.len() == FAN_IN {
                let merged = StreamPart {
                    stream: log,
                    base: run[0].0,
                    end: part.end,
                    max_timestamp: part.max_timestamp,
                    bytes: run.iter().map(|(_, part, _)| part.bytes).sum(),
                };
                return Some((merged, run.iter().map(|(_, part, _)| part.object).collect()));
            }
        }
        None
    }

    /// Cuts what is beyond the full parts that are kept.
    fn retain(&mut self, broker: usize) {
        let by = self.brokers[broker].by;
        let mut trims = Vec::new();
        for (log, _) in self.active(by) {
            let Some(stream) = self.image.stream(log) else { continue };
            let full = stream.parts().values().take_while(|part| tier(part.bytes).is_none());
            let full: Vec<u64> = full.map(|part| part.end).collect();
            if let Some(beyond) =
                (full.len() as u64).checked_sub(self.shape.full_parts).filter(|beyond| *beyond > 0)
            {
                trims.push((log, full[beyond as usize - 1]));
            }
        }
        if !trims.is_empty() {
            self.apply("retention", Command::TrimStreams { by, trims });
        }
    }

    fn collect(&mut self) {
        let by = self.image.caretaker().expect("somebody serves");
        let due = self.seconds as i64 * 1000 - COLLECT_AFTER_MS;
        let objects: Vec<ObjectId> =
            self.image.garbage().filter(|(_, garbage)| garbage.since_ms <= due).map(|(id, _)| id).collect();
        for objects in objects.chunks(1_000) {
            self.apply("collector", Command::ForgetGarbage { by, objects: objects.to_vec() });
        }
    }

    /// A broker gives some of its partitions away.
    fn move_some(&mut self) {
        let from = self.random.random_range(0..self.brokers.len());
        let to = (from + 1) % self.brokers.len();
        let (by, to) = (self.brokers[from].by, self.brokers[to].by.broker);
        let moves = self.handed(by, to).into_iter().take(MOVED).collect();
        self.apply("hand over", Command::HandOver { by, moves });
    }

    /// All that a broker has, to be handed to another one.
    pub fn handed(&self, by: Incarnation, to: u32) -> Vec<Handed> {
        let end = |id| self.image.stream(id).map_or(0, |stream| stream.committed_end);
        let led = self.image.partitions_of(by);
        led.map(|(topic, index)| {
            let partition = topic.partitions[index];
            Handed {
                topic: topic.id,
                partition: index as u32,
                to,
                log_end: end(partition.log),
                checkpoint_end: end(partition.checkpoint),
                leader_epoch: Some(partition.leader_epoch),
                note: Some(NoteHash::of(&topic.id.into_bytes())),
            }
        })
        .collect()
    }

    /// Parts of all streams.
    pub fn parts(&self) -> usize {
        (0..self.image.stream_count() as u64 * 2)
            .filter_map(|id| self.image.stream(StreamId(id)))
            .map(|stream| stream.parts().size())
            .sum()
    }

    pub fn check(&self) {
        self.image.check().unwrap_or_else(|violation| panic!("{violation}"));
    }
}

/// So many of so many numbers, the same ones everywhere, by hash: they follow no order in which partitions were placed.
fn spread(of: usize, chosen: usize) -> Vec<bool> {
    // The finalizer of splitmix64.
    let hash = |number: usize| {
        let mut hash = (number as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ hash >> 31
    };
    let mut numbers: Vec<usize> = (0..of).collect();
    numbers.sort_unstable_by_key(|number| hash(*number));
    let mut is_chosen = vec![false; of];
    numbers.into_iter().take(chosen).for_each(|number| is_chosen[number] = true);
    is_chosen
}

/// Sizes of parts that are still to be merged, from what an upload brings up.
fn tiers(small: u64) -> Vec<u64> {
    std::iter::successors(Some(small), |bytes| bytes.checked_mul(FAN_IN as u64))
        .take_while(|bytes| tier(*bytes).is_some())
        .collect()
}

/// Which parts are merged with each other; none if it is large enough.
fn tier(bytes: u64) -> Option<u32> {
    (bytes < FULL_BYTES).then(|| bytes.max(1).ilog(FAN_IN as u64))
}
