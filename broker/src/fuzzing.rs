//! What fuzzers call: the decoders of bytes from clients, servers, operators and the store. `wal::fuzzing` says what each
//! has. What takes several parts takes them from the first bytes of its input.

use bytes::Bytes;
pub use wal::fuzzing::Check;

pub use crate::server::fuzzing as request;

pub fn seal_nothing(_: &mut [u8]) {}

/// A response as the command's own client reads it: API key and version in front.
pub mod response {
    use kafka_protocol::messages::{ApiKey, ResponseKind};

    use super::*;
    use crate::api::layout::{self, Side, sample};
    use crate::api::versions::SUPPORTED;

    pub fn decode(input: &Bytes) -> Option<Check> {
        let key = i16::from_be_bytes(*input.first_chunk()?);
        let version = i16::from_be_bytes(*input.get(2..)?.first_chunk()?);
        let api = ApiKey::try_from(key).ok()?;
        let versions = api.valid_versions();
        if !(versions.min..=versions.max).contains(&version) {
            return None;
        }
        let body = input.slice(4..);
        let walked = layout::check(api, Side::Response, version, &body).ok()?;
        let mut rest = body.clone();
        let decoded = ResponseKind::decode(api, &mut rest, version).ok()?;
        Some(Box::new(move || {
            assert_eq!(
                walked.consumed,
                body.len() - rest.len(),
                "{api:?} {version}: walk and codec disagree"
            );
            drop(decoded);
        }))
    }

    pub use super::seal_nothing as seal;

    pub fn seeds() -> Vec<Vec<u8>> {
        let mut seeds = Vec::new();
        for row in SUPPORTED {
            for version in row.min..=row.max {
                let body = sample::body(row.key, Side::Response, version, 2, 2).expect("it has a layout");
                let prefix = [(row.key as i16).to_be_bytes(), version.to_be_bytes()].concat();
                seeds.push([prefix, body].concat());
            }
        }
        seeds
    }
}

/// What brokers say to each other: `0` and a heartbeat, `2` and a question for the state of the cluster, `3` and its answer, `4` and a
/// question for notes of partitions, `5` and its answer, or anything else and the answer to a heartbeat.
pub mod peer {
    use uuid::Uuid;
    use wal::Incarnation;

    use super::*;
    use crate::cluster::state::{Ask, ClusterState, Member, Standing, Traffic};
    use crate::cluster::wire::{Answer, Beat, Heartbeat, Reply};
    use crate::partition::arrival::{NotesAnswer, NotesAsk};

    pub fn decode(input: &Bytes) -> Option<Check> {
        let (which, bytes) = (*input.first()?, input.slice(1..));
        if which == 0 {
            let heartbeat = Heartbeat::decode(&bytes).ok()?;
            let again = heartbeat.encode();
            // What a later version says besides is not kept.
            return Some(Box::new(move || assert_eq!(Heartbeat::decode(&again), Ok(heartbeat))));
        }
        if which == 2 {
            let ask = Ask::decode(&bytes).ok()?;
            return Some(Box::new(move || assert_eq!(ask.encode(), bytes)));
        }
        if which == 4 {
            let ask = NotesAsk::decode(&bytes).ok()?;
            return Some(Box::new(move || assert_eq!(ask.encode(), bytes)));
        }
        if which == 5 {
            let notes = NotesAnswer::decode(&bytes).ok()?;
            return Some(Box::new(move || assert_eq!(notes.encode(), bytes)));
        }
        if which == 3 {
            let state = ClusterState::decode(&bytes).ok()?;
            return Some(Box::new(move || assert_eq!(state.encode(), bytes)));
        }
        let answer = Answer::decode(&bytes).ok()?;
        let again = answer.encode();
        Some(Box::new(move || assert_eq!(Answer::decode(&again), Ok(answer))))
    }

    pub use super::seal_nothing as seal;

    pub fn seeds() -> Vec<Vec<u8>> {
        let life = |broker| Incarnation { broker, epoch: 7 };
        let mut seeds = Vec::new();
        for count in [0, 1, 20] {
            let beat = Beat {
                from: life(1),
                number: 9,
                wall_ms: -3,
                ailing: count == 0,
                leaving: count == 1,
                blind: count == 20,
                unreached: count > 0,
                handing: count == 1,
                load: 0,
                suspects: (0..count).map(life).collect(),
            };
            let cluster = Uuid::from_u128(5);
            let heartbeat = Heartbeat { cluster, to: life(2), beat: beat.clone() };
            seeds.push([vec![0], heartbeat.encode()].concat());
            for reply in [Reply::Welcome, Reply::OtherCluster, Reply::OtherLife] {
                let answer = Answer { reply, cluster, beat: beat.clone() };
                seeds.push([vec![1], answer.encode()].concat());
            }
        }
        let forsake = Ask::Forsake(life(3));
        for ask in [Ask::State { traffic: true }, Ask::SetDraining { broker: 3, draining: true }, forsake] {
            seeds.push([vec![2], ask.encode()].concat());
        }
        let member = |id| Member {
            id,
            epoch: 9,
            host: "127.0.0.1".into(),
            port: 9092,
            rack: (id > 1).then(|| "r".into()),
            standing: Standing::Serving,
            leads: 4,
            moving: 1,
        };
        let traffic = Traffic { topic: Uuid::from_u128(3), index: 2, appended_bytes: 5, read_bytes: 6 };
        let state = ClusterState {
            error_code: 0,
            error_message: "".into(),
            cluster: "cluster".into(),
            from: 1,
            number: 77,
            caretaker: Some(1),
            members: vec![member(1), member(2)],
            traffic: vec![traffic],
        };
        seeds.push([vec![3], state.encode()].concat());
        let ask = NotesAsk { to: life(1), partitions: vec![(Uuid::from_u128(3), 2, 1)] };
        seeds.push([vec![4], ask.encode()].concat());
        let notes = NotesAnswer(vec![(Uuid::from_u128(3), 2, Bytes::from_static(b"a note"))]);
        seeds.push([vec![5], notes.encode()].concat());
        seeds
    }
}

/// What the batch targets have in common.
mod batches {
    use super::*;
    use crate::cli::client::records::Builder;
    use crate::partition::batch::{self, BatchHeader, Codec};
    use crate::partition::recompress::{Target, recompress};

    pub const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    pub fn target(codec: Codec) -> Target {
        Target { codec, gzip_level: -1, zstd_level: 3 }
    }

    /// Batches of every codec.
    pub fn sample() -> Vec<bytes::BytesMut> {
        let mut builder = Builder::new(1_000_000);
        let header = (Bytes::from_static(b"name"), Some(Bytes::from_static(b"value")));
        builder.push(Some(b"key"), Some(&[7; 100]), std::slice::from_ref(&header));
        builder.push(None, None, &[]);
        builder.push(Some(b""), Some(&b"text text text ".repeat(20)), &[(Bytes::new(), None)]);
        let plain = bytes::BytesMut::from(&builder.finish(None, -1)[..]);
        let header = BatchHeader::parse(&plain).expect("a batch of our own");
        let of = |codec| match codec {
            Codec::None => plain.clone(),
            _ => recompress(&plain, &header, Codec::None, target(codec), 1 << 20)
                .expect("it is sound")
                .expect("it fits"),
        };
        CODECS.map(of).to_vec()
    }

    /// The checksum of the batch at `at`, and its length, if there is one.
    pub fn seal(bytes: &mut [u8]) {
        if bytes.len() >= batch::HEADER_BYTES {
            let length = (bytes.len() - batch::LENGTH_PREFIX_BYTES) as i32;
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            let crc = batch::checksum(bytes);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        }
    }
}

/// A produced batch, with the topic's rules in the first byte, through all checks, and compressed anew.
pub mod batch {
    use bytes::BytesMut;

    use super::batches::{CODECS, sample, target};
    use super::*;
    use crate::partition::batch::{BatchHeader, checksum};
    use crate::partition::records;
    use crate::partition::validate::{self, Rules};

    const DECOMPRESSED_BYTES_MAX: u64 = 1 << 20;
    const BATCH_BYTES_MAX: usize = 1 << 16;

    pub fn decode(input: &Bytes) -> Option<Check> {
        let (rules, batch) = (input.first()?, input.slice(1..));
        let rules = Rules {
            batch_bytes_max: BATCH_BYTES_MAX,
            log_append_time: rules & 1 != 0,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: if rules & 2 != 0 { 1000 } else { i64::MAX },
            keys_required: rules & 4 != 0,
            decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
            compression: CODECS.get(usize::from(rules >> 4)).copied().map(target),
            zstd_allowed: rules & 8 == 0,
        };
        let checked = validate::check(BytesMut::from(&batch[..]), &rules, 2_000_000).ok()?;
        Some(Box::new(move || {
            let (header, bytes) = (checked.header, checked.bytes);
            assert_eq!(BatchHeader::parse(&bytes), Ok(header));
            assert!(bytes.len() <= BATCH_BYTES_MAX && header.size == bytes.len());
            assert_eq!(checksum(&bytes), header.crc);
            if let Some(target) = rules.compression {
                assert_eq!(header.codec(), Some(target.codec));
            }
            let mut visited = 0;
            let mut latest = -1;
            let walked = records::walk(&header, &bytes, DECOMPRESSED_BYTES_MAX, |record| {
                assert_eq!(record.offset_delta, visited);
                latest = latest.max(record.timestamp);
                visited += 1;
                true
            });
            walked.expect("what was accepted can be read again");
            assert_eq!((visited, latest), (header.count, header.max_timestamp));
        }))
    }

    pub fn seal(bytes: &mut [u8]) {
        if let Some((_, batch)) = bytes.split_first_mut() {
            super::batches::seal(batch);
        }
    }

    pub fn seeds() -> Vec<Vec<u8>> {
        let rules = [0xf0, 0xf1, 0x00, 0x10, 0x24, 0x30, 0x40];
        let with = |rules: u8| sample().into_iter().map(move |batch| [&[rules], &batch[..]].concat());
        rules.into_iter().flat_map(with).collect()
    }
}

/// A codec (first byte), a limit in KiB (second byte) and what is to be decompressed.
pub mod codec {
    use super::batches::{CODECS, sample};
    use super::*;
    use crate::partition::batch::HEADER_BYTES;
    use crate::partition::codec::decompressed;

    pub fn decode(input: &Bytes) -> Option<Check> {
        let codec = CODECS[usize::from(*input.first()?) % CODECS.len()];
        let limit = u64::from(*input.get(1)?) << 10;
        let mut left = limit;
        let read = decompressed(codec, &input[2..], limit, |from| {
            loop {
                let got = from.fill_buf()?.len();
                if got == 0 || left == 0 {
                    return Ok::<bool, std::io::Error>(got == 0);
                }
                let step = (got as u64).min(left);
                from.consume(step as usize);
                left -= step;
            }
        });
        let whole = read.ok()?.ok()?;
        Some(Box::new(move || assert!(whole || left == 0)))
    }

    pub use super::seal_nothing as seal;

    pub fn seeds() -> Vec<Vec<u8>> {
        let payload =
            |(codec, batch): (usize, bytes::BytesMut)| [&[codec as u8, 255], &batch[HEADER_BYTES..]].concat();
        sample().into_iter().enumerate().map(payload).collect()
    }
}

/// Fetched batches, as the command's client reads them.
pub mod fetched {
    use super::*;
    use crate::cli::client::records::decode as read;

    pub fn decode(input: &Bytes) -> Option<Check> {
        let decoded = read(input.clone(), 0).ok()?;
        Some(Box::new(move || {
            assert!(decoded.records.iter().all(|record| record.offset >= 0));
        }))
    }

    pub use super::batches::seal;

    pub fn seeds() -> Vec<Vec<u8>> {
        super::batches::sample().into_iter().map(|batch| batch.to_vec()).collect()
    }
}

/// Records of `__consumer_offsets`, one format after the other; the first byte says which.
pub mod group_record {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::group::records::{CommittedOffset, GroupMetadata, Key, MemberMetadata};

    pub fn decode(input: &Bytes) -> Option<Check> {
        let (which, bytes) = input.split_first()?;
        match which % 3 {
            0 => {
                let key = Key::decode(bytes).ok()??;
                Some(Box::new(move || {
                    if let Ok(again) = key.encode() {
                        assert_eq!(Key::decode(&again), Ok(Some(key)));
                    }
                }))
            }
            1 => {
                let offset = CommittedOffset::decode(bytes).ok()??;
                Some(Box::new(move || {
                    let again =
                        offset.encode().ok().and_then(|again| CommittedOffset::decode(&again).ok()).flatten();
                    assert!(offset.metadata.len() > i16::MAX as usize || again == Some(offset));
                }))
            }
            _ => {
                let group = GroupMetadata::decode(bytes).ok()??;
                Some(Box::new(move || {
                    if let Ok(again) = group.encode() {
                        assert_eq!(GroupMetadata::decode(&again), Ok(Some(group)));
                    }
                }))
            }
        }
    }

    pub use super::seal_nothing as seal;

    pub fn seeds() -> Vec<Vec<u8>> {
        let text = Arc::<str>::from;
        let keys = [
            Key::Offset { group: text("group"), topic: text("topic"), partition: 3 },
            Key::Group { group: text("group") },
        ];
        let offset = |expires_at_ms, topic_id| CommittedOffset {
            offset: 42,
            leader_epoch: 1,
            metadata: text("seen"),
            committed_at_ms: 1_700_000_000_000,
            expires_at_ms,
            topic_id,
        };
        let member = MemberMetadata {
            member_id: text("member"),
            instance_id: Some(text("instance")),
            client_id: text("client"),
            client_host: text("/127.0.0.1"),
            rebalance_timeout_ms: 60_000,
            session_timeout_ms: 45_000,
            subscription: Bytes::from_static(b"subscription"),
            assignment: Bytes::from_static(b"assignment"),
        };
        let group = GroupMetadata {
            protocol_type: text("consumer"),
            generation: 7,
            protocol: Some(text("range")),
            leader: Some(text("member")),
            state_since_ms: 5,
            members: vec![member.clone(), member],
        };
        let encoded = |which: u8, bytes: Bytes| [&[which], &bytes[..]].concat();
        let mut seeds: Vec<_> = keys.iter().map(|key| encoded(0, key.encode().expect("short"))).collect();
        for value in [offset(None, None), offset(Some(9), None), offset(None, Some(Uuid::from_u128(5)))] {
            seeds.push(encoded(1, value.encode().expect("short")));
        }
        seeds.push(encoded(2, group.encode().expect("short")));
        // Flexible: version 4, nothing known, one member of empty fields.
        seeds.push(
            [&[2, 0, 4, 1, 0, 0, 0, 1, 0, 0][..], &[0; 8], &[2, 1, 0, 1, 1], &[0; 8], &[1, 1, 0, 0]].concat(),
        );
        seeds
    }
}

/// Batches of `__consumer_offsets`, split and taken apart as a coordinator does on loading.
pub mod group_batch {
    use super::*;
    use crate::group::batch::{Builder, Content, records, split_batch};

    pub fn decode(input: &Bytes) -> Option<Check> {
        let mut rest = &input[..];
        let mut found = Vec::new();
        while let Some(batch) = split_batch(&mut rest).ok()? {
            match records(batch).ok()? {
                Content::Records(records) => found.extend(records),
                Content::Foreign => {}
            }
        }
        let bytes: usize =
            found.iter().map(|(key, value)| key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len)).sum();
        let whole = input.len();
        Some(Box::new(move || assert!(bytes <= whole)))
    }

    pub use super::batches::seal;

    pub fn seeds() -> Vec<Vec<u8>> {
        let mut builder = Builder::new(1_700_000_000_000);
        builder.push(b"key", Some(b"value"));
        builder.push(b"gone", None);
        vec![builder.finish().bytes.to_vec()]
    }
}

/// A partition's checkpoint.
pub mod checkpoint {
    use super::*;
    use crate::partition::batch::BatchHeader;
    use crate::partition::checkpoint;
    use crate::partition::state::{Limits, State};

    pub fn decode(input: &Bytes) -> Option<Check> {
        let decoded = checkpoint::decode(input, Limits::default()).ok()?;
        Some(Box::new(move || {
            // Producers may have stood in another order.
            let encoded = checkpoint::encode(&decoded.state, decoded.log_start);
            let again = checkpoint::decode(&encoded, Limits::default()).expect("what was just written");
            assert_eq!(checkpoint::encode(&again.state, again.log_start), encoded);
        }))
    }

    pub fn seal(bytes: &mut [u8]) {
        if bytes.len() >= 12 {
            let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[12..]) as u32;
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        }
    }

    pub fn seeds() -> Vec<Vec<u8>> {
        let mut state = State::new(Limits::default(), 100);
        let empty = checkpoint::encode(&state, 60).to_vec();
        let plain = super::batches::sample().swap_remove(0);
        let header = BatchHeader::parse(&plain).expect("a batch of our own");
        for at in 0..8 {
            let header = BatchHeader {
                producer_id: 7 + at % 2,
                producer_epoch: 1,
                base_sequence: 3 * at as i32,
                ..header
            };
            state.appended(5000 + at, &header);
        }
        vec![empty, checkpoint::encode(&state, 100).to_vec()]
    }
}

/// A command of the metadata log.
pub mod command {
    use super::*;
    use crate::metadata::command::Command;

    pub fn decode(input: &Bytes) -> Option<Check> {
        let command = Command::decode(input).ok()?;
        let input = input.clone();
        Some(Box::new(move || assert_eq!(command.encode(), input)))
    }

    pub use super::seal_nothing as seal;

    pub fn seeds() -> Vec<Vec<u8>> {
        super::history::commands().iter().map(Command::encode).collect()
    }
}

/// A history of the metadata: commands, each with its length in two bytes, little endian, in front. No history may break the image's invariants, and each image is its snapshot's.
pub mod history {
    use s3stream::metadata::{Commit, NewObject, Replacement, StreamPart};
    use s3stream::{ObjectId, StreamId};
    use uuid::Uuid;
    use wal::{Incarnation, Position};

    use super::*;
    use crate::metadata::NoteHash;
    use crate::metadata::apply::At;
    use crate::metadata::command::{
        Claiming, Command, FORMAT_VERSION, GrownTopic, Handed, Kept, NewTopic, Reassigned, Registration,
    };
    use crate::metadata::image::{Image, Listener};

    const COMMANDS_MAX: usize = 32;
    const PARTITIONS_MAX: u32 = 100;

    pub fn decode(input: &Bytes) -> Option<Check> {
        let mut image = Image::empty();
        let mut rest = &input[..];
        for number in 1..=COMMANDS_MAX as u64 {
            let Some((length, behind)) = rest.split_first_chunk() else { break };
            let (command, behind) = behind.split_at_checked(u16::from_le_bytes(*length).into())?;
            rest = behind;
            // One command may make a million partitions, each with its streams.
            let partitions = match Command::decode(command) {
                Ok(Command::CreateTopics { topics, .. }) => topics.iter().map(|topic| topic.partitions).max(),
                Ok(Command::CreatePartitions { topics, .. }) => {
                    topics.iter().map(|topic| topic.partitions).max()
                }
                _ => None,
            };
            if partitions.is_some_and(|partitions| partitions > PARTITIONS_MAX) {
                return None;
            }
            let _ = image.apply_bytes(At { number, time_ms: number as i64 }, command);
            if image.halted().is_some() {
                return None;
            }
        }
        Some(Box::new(move || {
            assert_eq!(image.check(), Ok(()));
            let snapshot = image.encode();
            let again = Image::decode(&snapshot).expect("an image's own snapshot");
            assert_eq!(again.encode(), snapshot);
        }))
    }

    pub use super::seal_nothing as seal;

    /// One of each.
    pub(super) fn commands() -> Vec<Command> {
        let by = Incarnation { broker: 1, epoch: 2 };
        let registration = Registration {
            broker: 1,
            wal_uri: "object:".into(),
            lease_ms: 10_000,
            listener: Listener { host: "localhost".into(), port: 9092 },
            rack: Some("a".into()),
            machine: "machine".into(),
            replaces: None,
            claim: None,
        };
        let id = Uuid::from_u128(7);
        let configs = vec![("retention.ms".into(), "1000".into())];
        let topic = NewTopic {
            id,
            name: "topic".into(),
            partitions: 2,
            configs: configs.clone(),
            leaders: Vec::new(),
        };
        let object = |owner: Incarnation, counter: u64, base: u64, end: u64| NewObject {
            id: ObjectId::Data { owner, counter },
            size_bytes: 1000,
            parts: vec![StreamPart { stream: StreamId(0), base, end, max_timestamp: 5, bytes: 500 }],
        };
        let commit = |object: NewObject, end: u64| Commit {
            owner: by,
            wal_trim: Position(end * 100),
            objects: vec![object],
        };
        let next = Incarnation { broker: 1, epoch: 11 };
        vec![
            Command::Format { cluster_id: "cluster".into(), format: FORMAT_VERSION },
            Command::RegisterBroker(registration.clone()),
            Command::OpenLeaderships { by },
            Command::CreateTopics { by, topics: vec![topic] },
            Command::CommitObjects { commit: commit(object(by, 1, 0, 10), 10) },
            Command::CreatePartitions {
                by,
                topics: vec![GrownTopic { id, partitions: 3, leaders: vec![1] }],
            },
            Command::SetTopicConfigs {
                by,
                topic: id,
                was: configs.clone(),
                shall: vec![("retention.bytes".into(), "5".into())],
            },
            Command::SetBrokerConfigs { by, broker: None, was: Vec::new(), shall: configs },
            Command::TrimStreams { by, trims: vec![(StreamId(0), 5)] },
            Command::AllocateProducerIds { by, count: 1000 },
            Command::RegisterBroker(Registration {
                replaces: Some(2),
                claim: Some(Claiming {
                    volume: id,
                    device: "".into(),
                    blank: true,
                    alone: true,
                    judged: 2,
                    gone: vec![by],
                }),
                ..registration
            }),
            Command::CommitRecovered {
                by: next,
                of: by,
                from: Position(1000),
                commit: commit(object(next, 1, 10, 12), 12),
                last: true,
            },
            Command::OpenLeaderships { by: next },
            Command::ReplaceParts {
                by: next,
                replacements: vec![Replacement {
                    object: object(next, 2, 5, 12),
                    sources: vec![object(by, 1, 0, 10).id, object(next, 1, 10, 12).id],
                }],
            },
            Command::ForgetGarbage { by: next, objects: vec![object(by, 1, 0, 10).id] },
            Command::RaiseLowWater { by: next, counter: 2 },
            Command::Reassign {
                by: next,
                moves: vec![Reassigned { topic: id, partition: 0, target: Some(1) }],
            },
            Command::KeepLeaderships {
                by: next,
                kept: vec![Kept { topic: id, partition: 0, log_end: 12, checkpoint_end: 0, leader_epoch: 0 }],
            },
            Command::HandOver {
                by: next,
                moves: vec![Handed {
                    topic: id,
                    partition: 0,
                    to: 2,
                    log_end: 12,
                    checkpoint_end: 0,
                    leader_epoch: Some(2),
                    note: Some(NoteHash::of(b"note")),
                }],
            },
            Command::SetDraining { by: next, broker: 1, draining: true },
            Command::Challenge { by: next, of: by },
            Command::Answer { by },
            Command::Challenge { by: next, of: by },
            Command::Fence { by: next, of: by },
            Command::DeleteTopics { by: next, topics: vec![id] },
            Command::CloseBroker { by: next },
        ]
    }

    pub fn seeds() -> Vec<Vec<u8>> {
        let framed = |command: &Command| {
            let bytes = command.encode();
            [&(bytes.len() as u16).to_le_bytes()[..], &bytes].concat()
        };
        let whole: Vec<Vec<u8>> = commands().iter().map(framed).collect();
        vec![whole[..5].concat(), whole.concat()]
    }

    /// Images along the way, for the snapshot's target.
    pub(super) fn images() -> Vec<Image> {
        let mut image = Image::empty();
        let mut images = vec![image.clone()];
        for (number, command) in (1..).zip(commands()) {
            if image.apply(At { number, time_ms: 1 }, &command).is_ok() {
                images.push(image.clone());
            }
        }
        images
    }
}

/// A snapshot of the metadata.
pub mod image {
    use super::*;
    use crate::metadata::Image;

    pub fn decode(input: &Bytes) -> Option<Check> {
        let image = Image::decode(input).ok()?;
        Some(Box::new(move || {
            assert_eq!(image.check(), Ok(()));
            let again = image.encode();
            assert_eq!(Image::decode(&again).map(|image| image.encode()), Ok(again));
        }))
    }

    pub use super::seal_nothing as seal;

    pub fn seeds() -> Vec<Vec<u8>> {
        super::history::images().iter().map(|image| image.encode()).collect()
    }
}

/// The TOML file of options.
pub mod options_file {
    use super::*;
    use crate::options::{Options, Values};

    pub fn decode(input: &Bytes) -> Option<Check> {
        let text = std::str::from_utf8(input).ok()?;
        let values = Values::of_file(text).ok()?;
        let options = Options::from_values(&values).ok()?;
        Some(Box::new(move || {
            let again: crate::store::Location =
                options.store.to_string().parse().expect("a store's own name");
            assert_eq!(again, options.store);
        }))
    }

    pub use super::seal_nothing as seal;

    pub fn seeds() -> Vec<Vec<u8>> {
        [
            "store = \"s3://bucket/prefix\"\nlisten = \"0.0.0.0:9092\"\nlog-json = true\n",
            "store = \"/data\"\nwal = \"block:///data/wal?capacity=1GiB\"\n[kafka]\nnum.partitions = 4\n",
            "s3-endpoint = \"http://localhost:9000\"\nstore = \"s3://b\"\nshutdown-timeout = \"10s\"\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    }
}

/// Values as people write them: sizes, times, switches, addresses, pairs, stores.
pub mod option_value {
    use super::*;
    use crate::options;
    use crate::store::Location;

    pub fn decode(input: &Bytes) -> Option<Check> {
        let text = std::str::from_utf8(input).ok()?;
        let _ = options::parse_bytes(text);
        let _ = options::parse_duration(text);
        let _ = options::parse_switch(text);
        let _ = options::parse_pair(text);
        let address = options::parse_host_port(text);
        let location = text.parse::<Location>();
        Some(Box::new(move || {
            if let Ok(address) = address {
                assert_eq!(options::parse_host_port(&address.to_string()), Ok(address));
            }
            if let Ok(location) = location {
                assert_eq!(location.to_string().parse::<Location>().ok(), Some(location));
            }
        }))
    }

    pub use super::seal_nothing as seal;

    pub fn seeds() -> Vec<Vec<u8>> {
        ["64MiB", "250ms", "true", "[::1]:9092", "a=b", "s3://bucket/a/b", "file:///data", "file:data"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec()
    }
}

/// Kafka configs of a topic and of a broker: `NAME=VALUE` lines.
pub mod kafka_config {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::config::{BrokerConfig, TopicConfig, validate_topic};

    pub fn decode(input: &Bytes) -> Option<Check> {
        let text = std::str::from_utf8(input).ok()?;
        let pairs: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
        let named: Vec<(Arc<str>, Arc<str>)> =
            pairs.iter().map(|(name, value)| (Arc::from(*name), Arc::from(*value))).collect();
        let owned = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let broker = BrokerConfig::new(&owned);
        let defaults = BrokerConfig::new(&BTreeMap::new()).expect("the defaults");
        let valid = validate_topic(&named, &defaults);
        Some(Box::new(move || {
            // What was refused may have been written by another version, and must not end this one.
            let _ = TopicConfig::new(&named, broker.as_ref().unwrap_or(&defaults));
            drop(valid);
        }))
    }

    pub use super::seal_nothing as seal;

    pub fn seeds() -> Vec<Vec<u8>> {
        [
            "cleanup.policy=delete\nretention.ms=1000\nmax.message.bytes=1000000\n",
            "compression.type=zstd\ncompression.zstd.level=3\nmessage.timestamp.type=LogAppendTime\n",
            "num.partitions=4\nlog.retention.hours=1\nlog.retention.ms=-1\nauto.create.topics.enable=false\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    }
}
