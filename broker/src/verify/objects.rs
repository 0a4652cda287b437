//! Every named object, byte by byte.

use std::collections::HashMap;
use std::ops::Range;

use bytes::Bytes;
use futures::StreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use s3stream::object::{Block, HEADER_BYTES, HEADER_MAGIC, ObjectIndex, Tail, object_key};
use s3stream::{ObjectId, StreamId};
use tokio::time::timeout;

use super::{Error, Options, ProblemKind, Progress, Run};
use crate::metadata::image::Image;

/// How much of an object's end the first read asks for.
const TAIL_BYTES: u64 = 64 << 10;

/// What a stream expects of an object.
#[derive(Clone, Debug)]
struct Expected {
    stream: StreamId,
    offsets: Range<u64>,
}

/// What one object turned out to be.
enum Outcome {
    Good {
        bytes: u64,
        blocks: u64,
    },
    /// It is not there, or not what it must be.
    Bad(ProblemKind, String),
}

impl Run {
    pub(super) async fn check_objects(&mut self, progress: &dyn Progress) -> Result<(), Error> {
        let image = self.observer.refresh().await?;
        let mut objects: Vec<(ObjectId, u64, Vec<Expected>)> = expectations(&image)
            .into_iter()
            .map(|(id, expected)| (id, image.object(id).expect("a part names it (I2)").size_bytes, expected))
            .collect();
        objects.sort_by_key(|(id, ..)| *id);
        let total = objects.iter().map(|(_, size, _)| size).sum();
        let (store, options) = (self.store.clone(), self.options.clone());
        let mut checks = futures::stream::iter(objects)
            .map(|(id, size, expected)| {
                let (store, options) = (store.clone(), options.clone());
                async move { (id, size, check(&*store, &options, id, size, &expected).await) }
            })
            .buffer_unordered(self.options.reads_in_flight_max.max(1));
        let mut done = 0;
        while let Some((id, size, outcome)) = checks.next().await {
            done += size;
            progress.checked(done, total);
            match outcome? {
                Outcome::Good { bytes, blocks } => {
                    self.report.checked.add(bytes);
                    self.report.checked_blocks += blocks;
                }
                Outcome::Bad(kind, detail) => {
                    // Whatever was collected meanwhile may be gone.
                    let image = self.observer.refresh().await?;
                    if image.object(id).is_none() {
                        continue;
                    }
                    let detail = format!("{detail}; named by {}", self.named_by(&image, id));
                    let location = object_key(id).to_string();
                    // The comparison has reported it already.
                    let known = self.report.problems.iter().any(|problem| problem.location == location);
                    if kind == ProblemKind::Corrupt || !known {
                        self.problem(kind, location, detail);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Everything without a gap: a log is only ever cut at its start, of topics whose policy is `compact` too, and the groups'
/// own (decision 0015).
fn expectations(image: &Image) -> HashMap<ObjectId, Vec<Expected>> {
    let mut expected: HashMap<ObjectId, Vec<Expected>> = HashMap::new();
    for partition in image.topics().flat_map(|topic| topic.partitions.iter()) {
        for stream in [partition.log, partition.checkpoint] {
            for located in image.parts(stream) {
                let offsets = located.part.base..located.part.end;
                expected.entry(located.object).or_default().push(Expected { stream, offsets });
            }
        }
    }
    expected
}

/// Why an object could not be checked.
enum Failure {
    Gone,
    /// The bytes are wrong; a second read may show that only the transfer was.
    Corrupt(String),
    Unavailable(String),
}

async fn check(
    store: &dyn ObjectStore,
    options: &Options,
    id: ObjectId,
    size: u64,
    expected: &[Expected],
) -> Result<Outcome, Error> {
    let mut failure = Failure::Unavailable(String::new());
    let mut corrupt = 0;
    for _ in 0..options.attempts_max.max(2) {
        failure = match check_once(store, options, id, size, expected).await {
            Ok(blocks) => return Ok(Outcome::Good { bytes: size, blocks }),
            Err(Failure::Gone) => {
                return Ok(Outcome::Bad(ProblemKind::Missing, "it is not in the store".into()));
            }
            Err(failure) => failure,
        };
        corrupt += u32::from(matches!(failure, Failure::Corrupt(_)));
        if corrupt == 2 {
            break;
        }
    }
    match failure {
        Failure::Corrupt(detail) => Ok(Outcome::Bad(ProblemKind::Corrupt, detail)),
        Failure::Unavailable(detail) => Err(Error::Store(detail)),
        Failure::Gone => unreachable!("returned at once"),
    }
}

/// The number of blocks.
async fn check_once(
    store: &dyn ObjectStore,
    options: &Options,
    id: ObjectId,
    size: u64,
    expected: &[Expected],
) -> Result<u64, Failure> {
    // One request for what is small, as most slots of a log are.
    let whole = if size <= TAIL_BYTES { Some(read(store, options, id, 0..size).await?) } else { None };
    let read = async |range: Range<u64>| match &whole {
        Some(_) if range.end > size => Err(Failure::Corrupt("its index names more than it has".to_owned())),
        Some(whole) => Ok(whole.slice(range.start as usize..range.end as usize)),
        None => read(store, options, id, range).await,
    };
    let header = read(0..(HEADER_BYTES as u64).min(size)).await?;
    if header[..] != HEADER_MAGIC {
        return Err(Failure::Corrupt("it does not begin like an object".to_owned()));
    }
    let mut from = size.saturating_sub(TAIL_BYTES);
    let index = loop {
        let tail = read(from..size).await?;
        match ObjectIndex::decode(&tail, size).map_err(corrupt)? {
            Tail::More { from: wanted } if wanted < from => from = wanted,
            Tail::More { .. } => return Err(Failure::Corrupt("its index cannot be found".to_owned())),
            Tail::Index(index) => break index,
        }
    };
    if index.identity().object != id {
        return Err(Failure::Corrupt(format!("it says that it is {:?}", index.identity().object)));
    }
    // Where each expectation stands: the next offset that has not been seen.
    let mut next: Vec<u64> = expected.iter().map(|expected| expected.offsets.start).collect();
    let blocks = index.blocks();
    let mut at = 0;
    while at < blocks.len() {
        let start = blocks[at].position;
        let mut end = at + 1;
        while end < blocks.len() && blocks[end].position_end() - start <= options.get_bytes_max {
            end += 1;
        }
        let bytes = read(start..blocks[end - 1].position_end()).await?;
        for entry in &blocks[at..end] {
            let from = (entry.position - start) as usize;
            let block =
                Block::decode(entry, bytes.slice(from..from + entry.size as usize)).map_err(corrupt)?;
            for (expected, next) in expected.iter().zip(&mut next) {
                if expected.stream == entry.stream {
                    follow(&block, expected, next).map_err(Failure::Corrupt)?;
                }
            }
        }
        at = end;
    }
    for (expected, next) in expected.iter().zip(next) {
        if next < expected.offsets.end {
            let (stream, end) = (expected.stream.0, expected.offsets.end);
            return Err(Failure::Corrupt(format!(
                "offsets {next} to {end} of stream {stream} are not in it"
            )));
        }
    }
    Ok(blocks.len() as u64)
}

/// Moves `next` over the records of `block`, which must go on where it stands.
fn follow(block: &Block, expected: &Expected, next: &mut u64) -> Result<(), String> {
    for record in block.seek(*next)..block.len() {
        let offsets = block.offsets(record);
        if offsets.start >= expected.offsets.end {
            break;
        }
        if offsets.start > *next {
            return Err(format!(
                "offsets {next} to {} of stream {} are not in it",
                offsets.start, expected.stream.0
            ));
        }
        *next = offsets.end;
    }
    Ok(())
}

fn corrupt(error: s3stream::object::Error) -> Failure {
    Failure::Corrupt(error.to_string())
}

async fn read(
    store: &dyn ObjectStore,
    options: &Options,
    id: ObjectId,
    range: Range<u64>,
) -> Result<Bytes, Failure> {
    let key = object_key(id);
    let wanted = range.end - range.start;
    match timeout(options.request_timeout, store.get_range(&key, range)).await {
        Ok(Ok(bytes)) if bytes.len() as u64 == wanted => Ok(bytes),
        Ok(Ok(bytes)) => Err(Failure::Corrupt(format!("{} bytes instead of {wanted}", bytes.len()))),
        Ok(Err(object_store::Error::NotFound { .. })) => Err(Failure::Gone),
        // A range beyond the end of what is there is an error of its own in every store.
        Ok(Err(error)) => match timeout(options.request_timeout, store.head(&key)).await {
            Ok(Ok(meta)) if meta.size < wanted => {
                Err(Failure::Corrupt(format!("only {} bytes are left", meta.size)))
            }
            Ok(Err(object_store::Error::NotFound { .. })) => Err(Failure::Gone),
            _ => Err(Failure::Unavailable(error.to_string())),
        },
        Err(_) => Err(Failure::Unavailable(format!("{key}: no answer in time"))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use s3stream::StreamRecord;
    use s3stream::metadata::{Commit, NewObject, StreamPart};
    use s3stream::object::{Encoded, Identity, ObjectWriter};
    use uuid::Uuid;
    use wal::{Incarnation, Position};

    use super::*;
    use crate::metadata::apply::At;
    use crate::metadata::command::{Command, FORMAT_VERSION, NewTopic, Registration};
    use crate::metadata::image::Listener;

    const BY: Incarnation = Incarnation { broker: 1, epoch: 2 };
    const ID: ObjectId = ObjectId::Data { owner: BY, counter: 0 };

    /// What is expected of an object that holds offsets 0 to 5 of a topic.
    fn expected(configs: Vec<(Arc<str>, Arc<str>)>) -> Vec<Expected> {
        let mut image = Image::empty();
        let mut number = 0;
        let mut apply = |command: Command| {
            number += 1;
            image.apply(At { number, time_ms: 0 }, &command).unwrap();
        };
        apply(Command::Format { cluster_id: "cluster".into(), format: FORMAT_VERSION });
        apply(Command::RegisterBroker(Registration {
            broker: 1,
            wal_uri: "memory:1".into(),
            lease_ms: 10_000,
            listener: Listener { host: "localhost".into(), port: 9092 },
            rack: None,
            machine: "machine".into(),
            replaces: None,
            claim: None,
        }));
        apply(Command::OpenLeaderships { by: BY });
        let topic =
            NewTopic { id: Uuid::new_v4(), name: "t".into(), partitions: 1, configs, leaders: Vec::new() };
        apply(Command::CreateTopics { by: BY, topics: vec![topic] });
        let part = StreamPart { stream: StreamId(0), base: 0, end: 5, max_timestamp: 0, bytes: 50 };
        let object = NewObject { id: ID, size_bytes: 100, parts: vec![part] };
        apply(Command::CommitObjects {
            commit: Commit { owner: BY, objects: vec![object], wal_trim: Position(1) },
        });
        expectations(&image).remove(&ID).unwrap()
    }

    /// An object that holds these offsets.
    fn object(records: &[Range<u64>]) -> Encoded {
        let mut writer = ObjectWriter::new(Identity { object: ID, nonce: 7 }, Default::default());
        for offsets in records {
            let body = Bytes::from_static(b"a batch");
            let record = StreamRecord { base: offsets.start, end: offsets.end, max_timestamp: 0, body };
            writer.add(StreamId(0), 1, 1, record);
        }
        writer.finish()
    }

    #[tokio::test]
    async fn offsets_that_are_not_in_an_object_are_damage_whatever_the_policy_of_their_topic() {
        for configs in [Vec::new(), vec![("cleanup.policy".into(), "compact".into())]] {
            let expected = expected(configs);
            for (records, missing) in [
                (vec![0..2, 2..5], None),
                (vec![1..2, 2..5], Some("offsets 0 to 1 ")),
                (vec![0..2, 4..5], Some("offsets 2 to 4 ")),
                (vec![0..2, 2..3], Some("offsets 3 to 5 ")),
            ] {
                let (store, object) = (InMemory::new(), object(&records));
                store.put(&object_key(ID), object.payload()).await.unwrap();
                let found =
                    check(&store, &Options::default(), ID, object.size_bytes, &expected).await.unwrap();
                match (found, missing) {
                    (Outcome::Good { .. }, None) => {}
                    (Outcome::Bad(ProblemKind::Corrupt, detail), Some(missing)) => {
                        assert!(detail.contains(missing), "{detail}");
                    }
                    (Outcome::Good { .. }, Some(missing)) => panic!("{missing}not missed"),
                    (Outcome::Bad(_, detail), _) => panic!("{detail}"),
                }
            }
        }
    }
}
