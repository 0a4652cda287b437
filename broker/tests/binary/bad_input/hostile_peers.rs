//! What peers may send, while a neighbour goes on producing and consuming.

use std::io::Write;

use kafka_protocol::messages::{ApiKey, MetadataRequest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::process::{Ottla, Storage, run, wait_for};
use crate::testing;
use crate::wire::{Neighbour, Wire, frame, raw_frame};

/// Far above what a broker with the caches' default sizes needs for these tests, far below what the peers ask for.
const RESIDENT_BYTES_MAX: u64 = 512 << 20;

/// Checksum error of a batch (Kafka's CORRUPT_MESSAGE).
const CORRUPT_MESSAGE: i16 = 2;

struct Scene {
    broker: Ottla,
    neighbour: Neighbour,
}

impl Scene {
    fn new(arguments: &[&str]) -> Scene {
        let mut broker = Ottla::new(Storage::DirectoryBlock).with(arguments);
        broker.start();
        let neighbour = Neighbour::move_in(&broker);
        Scene { broker, neighbour }
    }

    fn end(self) {
        self.neighbour.move_out();
        let resident = self.broker.resident_bytes_max();
        assert!(resident < RESIDENT_BYTES_MAX, "{} MiB were resident", resident >> 20);
    }

    /// Sends bytes after which the broker must close the connection by itself, without an answer.
    fn refused(&self, what: &str, bytes: &[u8]) {
        let mut wire = Wire::connect(&self.broker);
        // The broker may be gone before everything is sent.
        let _ = wire.stream.write_all(bytes);
        assert!(wire.closed().is_empty(), "{what} was answered");
    }

    /// How many descriptors the broker has open.
    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.broker.process_id())).unwrap().count()
    }

    fn wait_until_descriptors_are_at_most(&self, count: usize) {
        wait_for(|| match self.descriptors() {
            open if open > count => Err(format!("{open} descriptors remain open")),
            _ => Ok(()),
        });
    }
}

#[test]
fn what_is_not_kafka_is_hung_up_on() {
    let scene = Scene::new(&[]);
    let mut client_hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    client_hello.resize(517, 7);
    let length = |length: i32| length.to_be_bytes().to_vec();
    let known = raw_frame(ApiKey::Metadata, 9, 1, b"");
    let with_prefix = |key: i16, version: i16| {
        let mut bytes = known.clone();
        bytes[4..6].copy_from_slice(&key.to_be_bytes());
        bytes[6..8].copy_from_slice(&version.to_be_bytes());
        bytes
    };
    for (what, bytes) in [
        ("a TLS ClientHello", client_hello),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("an SSH greeting", b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()),
        ("a negative length", length(-1)),
        ("the least length", length(i32::MIN)),
        ("a length of zero", length(0)),
        ("a length too short for a header", [length(7), vec![0; 7]].concat()),
        ("a length over socket.request.max.bytes", length((100 << 20) + 1)),
        ("the largest length", length(i32::MAX)),
        ("a control request of 90 MiB", [length(90 << 20), known[4..].to_vec()].concat()),
        ("an unknown API", with_prefix(9_999, 0)),
        ("a negative API", with_prefix(-1, 0)),
        ("an API between brokers", with_prefix(ApiKey::Vote as i16, 0)),
        ("a version from the future", with_prefix(ApiKey::Metadata as i16, 99)),
        ("a negative version", with_prefix(ApiKey::Metadata as i16, -1)),
        ("a body that ends too early", known.clone()),
    ] {
        scene.refused(what, &bytes);
        scene.neighbour.goes_on();
    }
    scene.end();
}

/// kafka.md 1.3: four bytes of a Metadata request ask a decoder for 2^31 topics of 72 bytes, 154 GB. Every API and version
/// gets the like, as plain and as compact arrays and strings.
#[test]
fn lengths_that_promise_gigabytes_cost_nothing() {
    let scene = Scene::new(&[]);
    let bodies: [&[u8]; 5] = [
        &[0x7f, 0xff, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0xff, 0x07],
        &[0, 0xff, 0xff, 0xff, 0xff, 0x07],
        &[0, 1, b'x', 0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    ];
    for key in ApiKey::iter() {
        let versions = key.valid_versions();
        for version in versions.min..=versions.max {
            for body in bodies {
                let mut wire = Wire::connect(&scene.broker);
                let _ = wire.stream.write_all(&raw_frame(key, version, 1, body));
                wire.finish();
            }
        }
        scene.neighbour.goes_on();
    }
    scene.end();
}

#[test]
fn random_bytes_and_mutilated_requests_harm_nobody() {
    let scene = Scene::new(&[]);
    // Fixed, so that a failure can be repeated.
    let mut random = StdRng::seed_from_u64(2);
    for _ in 0..300 {
        let mut bytes = vec![0; random.random_range(1..600)];
        random.fill(&mut bytes[..]);
        if random.random_bool(0.7) && bytes.len() > 12 {
            // Past the outer checks: a good length, an API that is there.
            let length = (bytes.len() - 4) as u32;
            bytes[..4].copy_from_slice(&length.to_be_bytes());
            bytes[4..6].copy_from_slice(&random.random_range(0..50i16).to_be_bytes());
            bytes[6..8].copy_from_slice(&random.random_range(0..12i16).to_be_bytes());
        }
        let mut wire = Wire::connect(&scene.broker);
        let _ = wire.stream.write_all(&bytes);
        wire.finish();
    }
    let good = frame(9, 1, &MetadataRequest::default());
    for cut in 1..good.len() {
        let mut wire = Wire::connect(&scene.broker);
        wire.stream.write_all(&good[..cut]).unwrap();
        assert!(wire.finish().is_empty(), "half a request was answered");
    }
    scene.end();
}

#[test]
fn corrupt_batches_are_refused_one_by_one() {
    let scene = Scene::new(&[]);
    run(&mut scene.broker.cli(&["topic", "create", "corrupt"]));
    let mut wire = Wire::connect(&scene.broker);
    let good = testing::batch(3, |_| {});
    assert_eq!(wire.produce("corrupt", &good).unwrap().base_offset, 0);
    // Everything but the base offset, the length (which then ends elsewhere) and the leader epoch is under the checksum or
    // is the checksum.
    for at in (16..good.len()).step_by(3) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        let refused = wire.produce("corrupt", &bad).unwrap();
        assert!(refused.error_code != 0 && refused.base_offset == -1, "a flipped bit at {at}: {refused:?}");
        if at > 20 {
            assert_eq!(refused.error_code, CORRUPT_MESSAGE, "a flipped bit at {at}");
        }
    }
    for cut in [0, 1, 11, 12, 60, 61, good.len() - 1] {
        let refused = wire.produce("corrupt", &good[..cut]).unwrap();
        assert!(refused.error_code != 0 && refused.base_offset == -1, "cut at {cut}: {refused:?}");
    }
    assert_eq!(wire.produce("corrupt", &good).unwrap().base_offset, 3, "nothing of them was stored");
    scene.end();
}

#[test]
fn connections_come_and_go_by_the_thousand() {
    let scene = Scene::new(&["--connections-per-ip-max", "600"]);
    let before = scene.descriptors();
    for wave in 0..8 {
        // 500 at a time; some say nothing, some half a sentence.
        let connections: Vec<Wire> = (0..500)
            .map(|number| {
                let mut wire = Wire::connect(&scene.broker);
                let _ = wire.stream.write_all(&[0, 0, 1, 0, 0, 3, 0, 9][..(number + wave) % 9]);
                wire
            })
            .collect();
        drop(connections);
        scene.neighbour.goes_on();
        scene.wait_until_descriptors_are_at_most(before + 50);
    }
    // Beyond the bound new ones are closed at once; those that are there stay.
    let mut connections: Vec<Wire> = (0..700).map(|_| Wire::connect(&scene.broker)).collect();
    let mut last = connections.pop().unwrap();
    assert!(last.closed().is_empty());
    scene.neighbour.goes_on();
    drop(connections);
    scene.wait_until_descriptors_are_at_most(before + 50);
    scene.end();
}

/// Peers that begin large requests and do not go on hold what they have sent, not what they have announced.
#[test]
fn requests_that_were_announced_and_never_come_take_nobodys_place() {
    let scene = Scene::new(&[]);
    let mut head = raw_frame(ApiKey::Produce, 9, 1, b"");
    head[..4].copy_from_slice(&(90u32 << 20).to_be_bytes());
    let mut stalled: Vec<Wire> = (0..300)
        .map(|_| {
            let mut wire = Wire::connect(&scene.broker);
            wire.stream.write_all(&head).unwrap();
            wire
        })
        .collect();
    scene.neighbour.goes_on();
    // A byte at a time is no better than none.
    for wire in &mut stalled {
        let _ = wire.stream.write_all(&[0]);
    }
    scene.neighbour.goes_on();
    scene.end();
}
