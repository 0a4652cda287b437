//! The state machine's tests: rules one by one, random histories against a naive model, and the formats.

mod collect;
mod collect_race;
mod departed;
mod format;
mod handle;
mod members;
mod model;
mod moves;
mod replace;
mod rules;
mod volumes;

use std::sync::Arc;

use s3stream::metadata::{Commit, NewObject, Replacement, StreamPart};
use s3stream::{ObjectId, StreamId};
use uuid::Uuid;
use wal::{Incarnation, Position};

use super::apply::{At, Outcome, Registered, Rejection};
use super::command::{
    Claiming, Command, FORMAT_VERSION, GrownTopic, Handed, Kept, NewTopic, Reassigned, Registration,
};
use super::image::{Config, Image, Listener, Topic};
use super::note_hash::NoteHash;

/// An image and the number of its last entry. Every command takes the way through its bytes.
#[derive(Clone, Debug)]
struct Log {
    image: Image,
    number: u64,
    /// How far the clock of those who append is ahead.
    ahead_ms: i64,
}

impl Log {
    fn empty() -> Log {
        Log { image: Image::empty(), number: 0, ahead_ms: 0 }
    }

    fn formatted() -> Log {
        let mut log = Log::empty();
        log.apply(Command::Format { cluster_id: "cluster".into(), format: FORMAT_VERSION }).unwrap();
        log
    }

    fn apply(&mut self, command: Command) -> Result<Outcome, Rejection> {
        self.number += 1;
        let at = At { number: self.number, time_ms: self.number as i64 * 1000 + self.ahead_ms };
        let outcome = self.image.apply_bytes(at, &command.encode());
        self.image.check().unwrap();
        outcome
    }

    /// With the claim of a volume.
    fn claim(&mut self, broker: u32, claim: Claiming) -> Result<Incarnation, Rejection> {
        let Command::RegisterBroker(registration) = self.registration(broker) else { unreachable!() };
        let command = Command::RegisterBroker(Registration { claim: Some(claim), ..registration });
        self.apply(command).map(|_| Incarnation { broker, epoch: self.number })
    }

    fn register(&mut self, broker: u32) -> Registered {
        match self.apply(self.registration(broker)).unwrap() {
            Outcome::Registered(registered) => registered,
            other => panic!("{other:?}"),
        }
    }

    /// In place of whatever is registered under this id.
    fn registration(&self, broker: u32) -> Command {
        let Command::RegisterBroker(registration) = registration(broker) else { unreachable!() };
        Command::RegisterBroker(Registration {
            replaces: self.image.last_registration(broker),
            ..registration
        })
    }

    /// Registered, with its leaderships open.
    fn serving(&mut self, broker: u32) -> Incarnation {
        let by = self.register(broker).incarnation;
        self.apply(Command::OpenLeaderships { by }).unwrap();
        by
    }

    /// The recovery of `of`, which left nothing, is complete.
    fn recovered(&mut self, by: Incarnation, of: Incarnation) {
        let from = self.image.life(of).unwrap().trim;
        let commit = commit(of, from.0, &[]);
        self.apply(Command::CommitRecovered { by, of, from, commit, last: true }).unwrap();
    }

    fn topic(&mut self, by: Incarnation, name: &str, partitions: u32) -> Arc<Topic> {
        match self.apply(create(by, name, partitions)).unwrap() {
            Outcome::Created(mut topics) => topics.remove(0).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

/// A claim of a volume by somebody who knows all of the image.
fn claiming(image: &Image, volume: u128) -> Claiming {
    Claiming {
        volume: Uuid::from_u128(volume),
        device: "".into(),
        blank: false,
        alone: true,
        judged: image.newest_registration(),
        gone: Vec::new(),
    }
}

/// The first of its id.
fn registration(broker: u32) -> Command {
    Command::RegisterBroker(Registration {
        broker,
        wal_uri: format!("memory:{broker}").into(),
        lease_ms: 10_000,
        listener: Listener { host: "localhost".into(), port: 9092 },
        rack: None,
        machine: "machine".into(),
        replaces: None,
        claim: None,
    })
}

fn create(by: Incarnation, name: &str, partitions: u32) -> Command {
    let id = Uuid::new_v4();
    Command::CreateTopics {
        by,
        topics: vec![NewTopic {
            id,
            name: name.into(),
            partitions,
            configs: Vec::new(),
            leaders: Vec::new(),
        }],
    }
}

fn part(stream: StreamId, base: u64, end: u64) -> StreamPart {
    StreamPart { stream, base, end, max_timestamp: end as i64, bytes: 10 * (end - base) }
}

fn data(owner: Incarnation, counter: u64, parts: &[StreamPart]) -> NewObject {
    NewObject { id: ObjectId::Data { owner, counter }, size_bytes: 100 + counter, parts: parts.to_vec() }
}

fn slot(owner: Incarnation, slot: u64, parts: &[StreamPart]) -> NewObject {
    NewObject { id: ObjectId::Slot { owner, slot }, size_bytes: 200 + slot, parts: parts.to_vec() }
}

fn commit(owner: Incarnation, trim: u64, objects: &[NewObject]) -> Commit {
    Commit { owner, objects: objects.to_vec(), wal_trim: Position(trim) }
}

/// By an object that was made of `sources`.
fn replacement(object: NewObject, sources: &[NewObject]) -> Replacement {
    Replacement { object, sources: sources.iter().map(|source| source.id).collect() }
}
