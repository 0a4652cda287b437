//! Commands and snapshots as bytes: golden files, truncation, flipped bits, garbage.

use proptest::prelude::*;

use super::*;

/// One of each kind, with every optional field there and every list filled.
fn commands() -> Vec<(&'static str, Command)> {
    let by = Incarnation { broker: 1, epoch: 0x0203 };
    let of = Incarnation { broker: 1, epoch: 7 };
    let part = StreamPart { stream: StreamId(4), base: 5, end: 6, max_timestamp: -1, bytes: 7 };
    let id = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
    let configs = vec![("retention.ms".into(), "5".into())];
    vec![
        ("format", Command::Format { cluster_id: "id".into(), format: 1 }),
        (
            "register-broker",
            Command::RegisterBroker(Registration {
                broker: 1,
                wal_uri: "object:wal/".into(),
                lease_ms: 10_000,
                listener: Listener { host: "h".into(), port: 9092 },
                rack: Some("r".into()),
                machine: "m".into(),
                replaces: Some(6),
                claim: None,
            }),
        ),
        (
            "register-with-volume",
            Command::RegisterBroker(Registration {
                broker: 1,
                wal_uri: "block:///v".into(),
                lease_ms: 10_000,
                listener: Listener { host: "h".into(), port: 9092 },
                rack: None,
                machine: "m/b".into(),
                replaces: None,
                claim: Some(Claiming {
                    volume: id,
                    device: "naa.5".into(),
                    blank: true,
                    alone: false,
                    judged: 6,
                    gone: vec![of],
                }),
            }),
        ),
        ("open-leaderships", Command::OpenLeaderships { by }),
        (
            "create-topics",
            Command::CreateTopics {
                by,
                topics: vec![NewTopic {
                    id,
                    name: "t".into(),
                    partitions: 3,
                    configs: configs.clone(),
                    leaders: vec![1, 2, 3],
                }],
            },
        ),
        ("delete-topics", Command::DeleteTopics { by, topics: vec![id] }),
        ("commit-objects", Command::CommitObjects { commit: commit(by, 9, &[data(by, 2, &[part])]) }),
        (
            "commit-recovered",
            Command::CommitRecovered {
                by,
                of,
                from: Position(8),
                commit: commit(of, 9, &[slot(of, 8, &[part])]),
                last: true,
            },
        ),
        ("trim-streams", Command::TrimStreams { by, trims: vec![(StreamId(4), 5)] }),
        ("allocate-producer-ids", Command::AllocateProducerIds { by, count: 1000 }),
        ("close-broker", Command::CloseBroker { by }),
        (
            "replace-parts",
            Command::ReplaceParts {
                by,
                replacements: vec![replacement(data(by, 3, &[part]), &[data(by, 2, &[]), slot(of, 8, &[])])],
            },
        ),
        (
            "forget-garbage",
            Command::ForgetGarbage {
                by,
                objects: vec![
                    ObjectId::Data { owner: by, counter: 4 },
                    ObjectId::Slot { owner: of, slot: 5 },
                ],
            },
        ),
        ("raise-low-water", Command::RaiseLowWater { by, counter: 6 }),
        (
            "create-partitions",
            Command::CreatePartitions {
                by,
                topics: vec![GrownTopic { id, partitions: 5, leaders: vec![2] }],
            },
        ),
        (
            "set-topic-configs",
            Command::SetTopicConfigs { by, topic: id, was: Vec::new(), shall: configs.clone() },
        ),
        (
            "set-broker-configs",
            Command::SetBrokerConfigs { by, broker: Some(1), was: configs, shall: Vec::new() },
        ),
        ("fence", Command::Fence { by, of }),
        ("challenge", Command::Challenge { by, of }),
        ("answer", Command::Answer { by }),
        ("set-draining", Command::SetDraining { by, broker: 1, draining: true }),
        (
            "hand-over",
            Command::HandOver {
                by,
                moves: vec![Handed {
                    topic: id,
                    partition: 1,
                    to: 2,
                    log_end: 3,
                    checkpoint_end: 4,
                    leader_epoch: None,
                    note: None,
                }],
            },
        ),
        (
            "hand-over-of-epoch",
            Command::HandOver {
                by,
                moves: [None, Some(NoteHash::of(b"note"))]
                    .map(|note| Handed {
                        topic: id,
                        partition: 1,
                        to: 2,
                        log_end: 3,
                        checkpoint_end: 4,
                        leader_epoch: Some(5),
                        note,
                    })
                    .to_vec(),
            },
        ),
        (
            "reassign",
            Command::Reassign { by, moves: vec![Reassigned { topic: id, partition: 1, target: Some(2) }] },
        ),
        (
            "keep-leaderships",
            Command::KeepLeaderships {
                by,
                kept: vec![Kept { topic: id, partition: 1, log_end: 3, checkpoint_end: 4, leader_epoch: 5 }],
            },
        ),
    ]
}

/// A state with something in every list.
fn image() -> Image {
    let mut log = Log::formatted();
    let old = log.serving(1);
    let fixed = |name: &str, number| NewTopic {
        id: Uuid::from_u128(number),
        name: name.into(),
        partitions: 2,
        configs: vec![("cleanup.policy".into(), "delete".into()), ("retention.ms".into(), "5".into())],
        leaders: Vec::new(),
    };
    let topics = vec![fixed("a", 1), fixed("b.c", 2)];
    log.apply(Command::CreateTopics { by: old, topics }).unwrap();
    let stream = StreamId(0);
    let objects =
        [data(old, 0, &[part(stream, 0, 5), part(StreamId(2), 0, 1)]), data(old, 1, &[part(stream, 5, 9)])];
    log.apply(Command::CommitObjects { commit: commit(old, 3, &objects) }).unwrap();
    log.apply(Command::TrimStreams { by: old, trims: vec![(stream, 7), (StreamId(2), 1)] }).unwrap();
    for (broker, value) in [(None, "1"), (Some(1), "2")] {
        let shall = vec![("log.retention.ms".into(), value.into())];
        log.apply(Command::SetBrokerConfigs { by: old, broker, was: Vec::new(), shall }).unwrap();
    }
    let other = log.serving(2);
    let id = log.image.topic_named("a").unwrap().id;
    let moves = vec![Reassigned { topic: id, partition: 1, target: Some(2) }];
    log.apply(Command::Reassign { by: other, moves }).unwrap();
    let (topic, note) = (log.image.topic_named("b.c").unwrap().id, Some(NoteHash::of(b"note")));
    let moves = vec![Handed {
        topic,
        partition: 1,
        to: 2,
        log_end: 0,
        checkpoint_end: 0,
        leader_epoch: Some(0),
        note,
    }];
    log.apply(Command::HandOver { by: old, moves }).unwrap();
    log.apply(Command::SetDraining { by: other, broker: 1, draining: true }).unwrap();
    let claim = Claiming { device: "naa.5".into(), blank: true, ..claiming(&log.image, 5) };
    let new = log.claim(1, claim).unwrap();
    log.claim(3, Claiming { alone: false, ..claiming(&log.image, 5) }).unwrap();
    log.apply(Command::AllocateProducerIds { by: new, count: 1000 }).unwrap();
    log.apply(Command::RaiseLowWater { by: new, counter: 3 }).unwrap();
    log.apply(Command::Challenge { by: new, of: other }).unwrap();
    log.image
}

fn hex(bytes: &[u8]) -> String {
    let lines: Vec<String> = bytes
        .chunks(32)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        .collect();
    lines.join("\n") + "\n"
}

/// Set `OTTLA_WRITE_GOLDEN` to write them; bytes that were ever released must not change.
fn golden(name: &str, bytes: &[u8]) {
    let path = format!("{}/src/metadata/tests/golden/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("OTTLA_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, hex(bytes)).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), hex(bytes), "{name}");
}

#[test]
fn golden_commands() {
    for (name, command) in commands() {
        golden(name, &command.encode());
        assert_eq!(Command::decode(&command.encode()).unwrap(), command);
    }
}

#[test]
fn golden_snapshot() {
    let bytes = image().encode();
    golden("snapshot", &bytes);
    assert_eq!(Image::decode(&bytes).unwrap().encode(), bytes);
}

/// What an earlier program wrote.
#[test]
fn snapshots_of_earlier_versions_are_read() {
    for version in [2, 3, 4] {
        let path = format!("{}/src/metadata/tests/golden/snapshot-{version}.hex", env!("CARGO_MANIFEST_DIR"));
        let digits: String = std::fs::read_to_string(path).unwrap().split_whitespace().collect();
        let bytes: Vec<u8> = (0..digits.len() / 2)
            .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let image = Image::decode(&bytes).unwrap();
        assert_eq!((bytes[0], image.topics().count(), image.check()), (version, 2, Ok(())));
        let has_notes = image.topics().any(|topic| topic.partitions.iter().any(|it| it.note.is_some()));
        let claimed = image.claimed_volumes().count();
        assert_eq!((has_notes, claimed > 0), (version >= 3, version >= 4));
        assert_eq!(Image::decode(&image.encode()).unwrap().encode(), image.encode());
    }
}

#[test]
fn truncated_or_extended_bytes_are_refused() {
    for (name, command) in commands() {
        let bytes = command.encode();
        for len in 0..bytes.len() {
            assert!(Command::decode(&bytes[..len]).is_err(), "{name} cut to {len}");
        }
        assert!(Command::decode(&[&bytes[..], &[0]].concat()).is_err(), "{name} with a byte more");
    }
    let bytes = image().encode();
    for len in 0..bytes.len() {
        assert!(Image::decode(&bytes[..len]).is_err(), "snapshot cut to {len}");
    }
    assert!(Image::decode(&[&bytes[..], &[0]].concat()).is_err());
}

/// The log's own checksum catches a flipped bit; here it must do no harm: refused, or another value that encodes to
/// exactly these bytes.
#[test]
fn flipped_bits_never_panic_and_never_decode_to_what_was_written() {
    for (name, command) in commands() {
        let bytes = command.encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(decoded) = Command::decode(&flipped) {
                assert_eq!(decoded.encode(), flipped, "{name}, bit {bit}");
            }
        }
    }
    let bytes = image().encode();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(decoded) = Image::decode(&flipped) {
            decoded.check().unwrap();
        }
    }
}

#[test]
fn counts_are_checked_before_anything_is_allocated() {
    let by = Incarnation { broker: 1, epoch: 1 };
    let mut bytes = Command::DeleteTopics { by, topics: Vec::new() }.encode();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(Command::decode(&bytes).unwrap_err().to_string().contains("longer than the bytes"));
}

proptest! {
    #[test]
    fn garbage_is_refused_or_applied_but_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), tag in 1..23u8) {
        let mut framed = vec![2, tag];
        framed.extend_from_slice(&bytes);
        for bytes in [&bytes[..], &framed[..]] {
            let mut image = image();
            let _ = image.apply_bytes(At { number: 1_000, time_ms: 0 }, bytes);
            image.check().unwrap();
            let _ = Image::decode(bytes);
        }
    }
}
