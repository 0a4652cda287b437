//! A bit flipped in a stopped broker's files, in every region of every format: the next broker either has all data as it
//! was, or says which file is damaged. It never leaves anything out, and never gives out anything else.
//!
//! That no decoder takes a flipped bit is shown bit by bit beside each of them; here the question is what the broker
//! makes of it. `OTTLA_FLIPS` is how many more places, drawn at random, are tried in each file (default 1).

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::store::number;
use crate::process::{Ottla, Storage, run, wait_for};

/// What is flipped: a name for messages, the file, and the byte.
struct Place {
    what: &'static str,
    file: PathBuf,
    at: u64,
}

fn flip(place: &Place) {
    let file = std::fs::File::options().read(true).write(true).open(&place.file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, place.at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x04], place.at).unwrap();
}

/// Everything below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Whether the broker has become ready; if not, it has left by itself.
fn comes_up(broker: &mut Ottla) -> bool {
    broker.begin();
    wait_for(|| {
        if broker.output().contains("ottla consume") {
            return Ok(true);
        }
        if !broker.is_running() {
            return Ok(false);
        }
        Err(format!("it neither starts nor leaves: {}", broker.log()))
    })
}

/// A broker that was killed, a copy of all that it left, and what it had acknowledged.
struct Scene {
    broker: Ottla,
    copy: PathBuf,
    topics: Vec<(String, String)>,
    tried: usize,
    refused: usize,
    spoiled: usize,
}

impl Scene {
    /// Several lives, whose data is in objects and in the log: uploads, seals, checkpoints, snapshots, a group's offsets.
    fn new(storage: Storage) -> Scene {
        let mut broker = Ottla::new(storage).with(&["--metadata-snapshot-entries", "4"]);
        let mut topics: Vec<(String, String)> = Vec::new();
        for (life, clean) in [true, false, true, false].into_iter().enumerate() {
            broker.start();
            for topic in ["kept", &format!("life-{life}")] {
                for number in 0..3 {
                    let value = format!("{topic} {life} {number}");
                    run(&mut broker.cli(&["produce", topic, &value]));
                    match topics.iter_mut().find(|(known, _)| known == topic) {
                        Some((_, values)) => values.push_str(&format!("{value}\n")),
                        None => topics.push((topic.to_owned(), format!("{value}\n"))),
                    }
                }
            }
            run(&mut broker.cli(&["consume", "kept", "--group", "readers", "--count", "2"]));
            if clean { broker.stop() } else { broker.kill() }
        }
        let copy = broker.directory.path().join("copy");
        let scene = Scene { broker, copy, topics, tried: 0, refused: 0, spoiled: 0 };
        scene.copy_files(&scene.broker.directory.path().join("store"), &scene.copy.join("store"));
        if scene.wal().exists() {
            std::fs::copy(scene.wal(), scene.copy.join("wal")).unwrap();
        }
        scene
    }

    fn wal(&self) -> PathBuf {
        self.broker.directory.path().join("wal")
    }

    fn objects(&self, prefix: &str) -> Vec<PathBuf> {
        files(&self.broker.directory.path().join("store/objects").join(prefix))
    }

    fn copy_files(&self, from: &Path, to: &Path) {
        let _ = std::fs::remove_dir_all(to);
        for file in files(from) {
            let target = to.join(file.strip_prefix(from).unwrap());
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(&file, target).unwrap();
        }
    }

    fn restore(&self) {
        self.copy_files(&self.copy.join("store"), &self.broker.directory.path().join("store"));
        if self.wal().exists() {
            std::fs::copy(self.copy.join("wal"), self.wal()).unwrap();
        }
    }

    /// One flip: what the broker does, and that it is one of the two things that it may do.
    fn try_out(&mut self, place: &Place) {
        self.tried += 1;
        flip(place);
        let name = place.file.file_name().unwrap().to_str().unwrap().to_owned();
        let logged = self.broker.log().len();
        let what = format!("{} at byte {} of {}", place.what, place.at, place.file.display());
        if comes_up(&mut self.broker) {
            let mut spoiled = false;
            for (topic, expected) in &self.topics {
                let output = self.broker.cli(&["consume", topic, "--timeout", "1s"]).output().unwrap();
                let given = String::from_utf8_lossy(&output.stdout);
                if output.status.success() {
                    assert_eq!(*given, **expected, "{what}: {topic} is another, silently");
                } else {
                    spoiled = true;
                    assert!(expected.starts_with(&*given), "{what}: {topic} is another: {given}");
                }
            }
            let log = self.broker.log().split_off(logged);
            assert!(!spoiled || log.contains(&name), "{what}: it is not named:\n{log}");
            self.spoiled += usize::from(spoiled);
            self.broker.kill();
        } else {
            self.refused += 1;
            let log = self.broker.wait_for_failure().split_off(logged);
            assert!(!log.contains("panicked"), "{what}: {log}");
            // Slots and entries are known by their keys, which end in the file's name.
            assert!(log.contains(&name), "{what}: it is not named:\n{log}");
        }
        self.restore();
    }

    /// The undamaged copy is whole.
    fn end(mut self) {
        self.broker.start();
        for (topic, expected) in &self.topics {
            assert_eq!(run(&mut self.broker.cli(&["consume", topic])), *expected);
        }
        println!(
            "{} flips: {} starts were refused, {} spoiled a topic, the rest changed nothing",
            self.tried, self.refused, self.spoiled
        );
        self.broker.stop();
    }
}

/// Places inside a file of a format: named ones, counted from the start or (negative) from the end, and some at random.
fn places(file: &Path, named: &[(&'static str, i64)], random: &mut StdRng) -> Vec<Place> {
    let bytes = std::fs::metadata(file).unwrap().len();
    let mut places: Vec<Place> = named
        .iter()
        .map(|(what, at)| Place { what, file: file.to_owned(), at: at.rem_euclid(bytes as i64) as u64 })
        .collect();
    for _ in 0..number("OTTLA_FLIPS", 1) {
        places.push(Place { what: "somewhere", file: file.to_owned(), at: random.random_range(0..bytes) });
    }
    places
}

/// `docs/formats/object.md`; the first block begins at 8, and the index stands before the footer of 72 bytes.
const OBJECT: [(&str, i64); 9] = [
    ("the header's magic", 3),
    ("the record table", 8),
    ("the record table's last field", 8 + 24),
    ("a record", 8 + 28 + 61 + 8),
    ("the index's stream id", -72 - 64),
    ("the index's block position", -72 - 64 + 32),
    ("the footer's index position", -72),
    ("the footer's nonce", -72 + 32),
    ("the last magic", -1),
];

#[test]
fn a_flipped_bit_in_any_object_is_survived_or_named() {
    let mut scene = Scene::new(Storage::DirectoryObject);
    let mut random = StdRng::seed_from_u64(3);
    let mut all = Vec::new();
    let entries = scene.objects("meta/log");
    let entry = [
        ("the magic", 0),
        ("the version", 4),
        ("the number", 8),
        ("the nonce", 16),
        ("the predecessor", 32),
        ("the time", 48),
        ("the issuer", 60),
        ("a command", 80),
        ("the CRC", -2),
    ];
    all.extend(places(entries.last().unwrap(), &entry, &mut random));
    let snapshots = scene.objects("meta/snapshot");
    assert!(snapshots.len() >= 2, "{snapshots:?}");
    let snapshot =
        [("the magic", 1), ("the nonce", 20), ("the log start", 32), ("the state", 70), ("the CRC", -1)];
    all.extend(places(snapshots.last().unwrap(), &snapshot, &mut random));
    let is_seal = |path: &&PathBuf| std::fs::read(path).unwrap().starts_with(b"OTLASEAL");
    let (seals, slots): (Vec<_>, Vec<_>) = scene.objects("wal").into_iter().partition(|path| is_seal(&path));
    // Of the life that is not recovered yet, and of one that is.
    let last_life = slots.last().unwrap().parent().unwrap().to_owned();
    let unrecovered: Vec<_> = slots.iter().filter(|slot| slot.starts_with(&last_life)).collect();
    assert!(unrecovered.len() >= 6, "{unrecovered:?}");
    for slot in [unrecovered[0], unrecovered[unrecovered.len() - 1]] {
        all.extend(places(slot, &OBJECT, &mut random));
    }
    let recovered = slots.iter().find(|slot| !slot.starts_with(&last_life)).expect("an adopted slot");
    all.extend(places(recovered, &OBJECT[2..5], &mut random));
    all.extend(places(seals.first().expect("a seal"), &[("the magic", 0), ("the CRC", -1)], &mut random));
    let holds_records =
        |path: &PathBuf| std::fs::read(path).unwrap().windows(6).any(|window| window == b"kept 0");
    let data = scene.objects("data").into_iter().find(holds_records).expect("an upload of the first life");
    all.extend(places(&data, &OBJECT, &mut random));
    for place in &all {
        scene.try_out(place);
    }
    assert!(scene.refused > 20 && scene.spoiled > 5, "{} and {}", scene.refused, scene.spoiled);
    scene.end();
}

/// `docs/formats/wal-block.md`.
#[test]
fn a_flipped_bit_anywhere_in_a_volume_is_survived_or_named() {
    let mut scene = Scene::new(Storage::DirectoryBlock);
    let wal = scene.wal();
    let superblock = [
        ("the superblock's magic", 0),
        ("its version", 8),
        ("its block size", 13),
        ("its cluster", 16),
        ("its volume", 32),
        ("its sequence number", 56),
        ("its owner", 64),
        ("its owner's epoch", 72),
        ("its trim point", 81),
        ("its durable mark", 88),
        ("its reach", 97),
        ("its CRC", 108),
        ("what lies behind it", 2_000),
    ];
    let bytes = std::fs::read(&wal).unwrap();
    // A frame in the middle of what the last life left: the last one of a log that was not closed cannot be told from a
    // write that was under way.
    let text = b"life-3 3 0";
    let record = bytes.windows(text.len()).position(|window| window == text).expect("the record") as i64;
    let frame = record / 4096 * 4096;
    let frame = [
        ("the frame's magic", frame),
        ("its version", frame + 4),
        ("its volume", frame + 8),
        ("its epoch", frame + 24),
        ("its position", frame + 32),
        ("its previous end", frame + 40),
        ("its durable mark", frame + 48),
        ("its length", frame + 56),
        ("its count", frame + 60),
        ("its body's CRC", frame + 64),
        ("its header's CRC", frame + 68),
        ("a record's kind", frame + 72),
        ("a record's meta", frame + 80),
        ("a record", record),
        ("what lies behind it", frame + 4_090),
    ];
    let second: Vec<_> = superblock.iter().map(|(what, at)| (*what, at + 65_536)).collect();
    let mut random = StdRng::seed_from_u64(4);
    let mut all = Vec::new();
    // Alternately in the one and the other: both are of the last owner.
    for (number, place) in superblock.iter().zip(&second).enumerate() {
        let place = if number % 2 == 0 { place.0 } else { place.1 };
        all.extend(places(&wal, &[*place], &mut random));
    }
    all.extend(places(&wal, &frame, &mut random));
    for place in &all {
        // Random places may hit the last frame.
        if place.what != "somewhere" || place.at < record as u64 {
            scene.try_out(place);
        }
    }
    assert!(scene.refused > 10, "{}", scene.refused);
    scene.end();
}
