//! F18, F28: acknowledged data whose object is damaged or gone. Whoever asks for it hears an error, the operator hears the
//! object's key and the offset, and nobody else hears anything: not the other partitions of the same object either.

use std::path::PathBuf;

use crate::process::{Ottla, S3Server, Storage, run};
use crate::wire::{Neighbour, Wire};

/// CORRUPT_MESSAGE and KAFKA_STORAGE_ERROR: what a consumer hears.
const ERRORS: [i16; 2] = [2, 56];

/// The objects of a stopped broker, wherever they are.
enum Place {
    Directory(PathBuf),
    Bucket(String),
}

impl Place {
    fn of(broker: &Ottla) -> Place {
        let command = broker.command();
        let store = command.get_args().find_map(|argument| argument.to_str()?.strip_prefix("s3://"));
        match store {
            Some(bucket) => Place::Bucket(format!("/{bucket}")),
            None => Place::Directory(broker.directory.path().join("store/objects")),
        }
    }

    /// Keys of the data objects.
    fn keys(&self) -> Vec<String> {
        match self {
            Place::Directory(path) => {
                let mut keys = Vec::new();
                for spread in std::fs::read_dir(path.join("data")).into_iter().flatten() {
                    for object in std::fs::read_dir(spread.unwrap().path()).unwrap() {
                        let object = object.unwrap().path();
                        keys.push(object.strip_prefix(path).unwrap().to_str().unwrap().to_owned());
                    }
                }
                keys
            }
            Place::Bucket(prefix) => {
                let (bucket, cluster) = prefix[1..].split_once('/').unwrap();
                let list = format!("/{bucket}?list-type=2&prefix={cluster}/data/");
                let listed = String::from_utf8(S3Server::shared().ask("GET", &list, b"")).unwrap();
                let keys = listed.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap());
                keys.map(|key| key.strip_prefix(&format!("{cluster}/")).unwrap().to_owned()).collect()
            }
        }
    }

    fn read(&self, key: &str) -> Vec<u8> {
        match self {
            Place::Directory(path) => std::fs::read(path.join(key)).unwrap(),
            Place::Bucket(prefix) => S3Server::shared().ask("GET", &format!("{prefix}/{key}"), b""),
        }
    }

    fn write(&self, key: &str, bytes: &[u8]) {
        match self {
            Place::Directory(path) => std::fs::write(path.join(key), bytes).unwrap(),
            Place::Bucket(prefix) => {
                S3Server::shared().ask("PUT", &format!("{prefix}/{key}"), bytes);
            }
        }
    }

    fn delete(&self, key: &str) {
        match self {
            Place::Directory(path) => std::fs::remove_file(path.join(key)).unwrap(),
            Place::Bucket(prefix) => {
                S3Server::shared().ask("DELETE", &format!("{prefix}/{key}"), b"");
            }
        }
    }
}

fn position(bytes: &[u8], text: &str) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text.as_bytes())
}

fn damaged_objects_spoil_what_they_hold_and_nothing_else(storage: Storage) {
    let mut broker = Ottla::new(storage);
    let place = Place::of(&broker);
    // One object for each of these, and one that three partitions share.
    let mut keys = Vec::new();
    for topics in [&["flipped"][..], &["missing"], &["cut"], &["whole"], &["one", "two", "three"]] {
        broker.start();
        for topic in topics {
            run(&mut broker.cli(&[
                "produce",
                topic,
                &format!("{topic}: first"),
                &format!("{topic}: second"),
            ]));
        }
        let before = place.keys();
        broker.stop();
        let holds = |key: &String| position(&place.read(key), &format!("{}: first", topics[0])).is_some();
        let new = place.keys().into_iter().filter(|key| !before.contains(key)).find(holds);
        keys.push(new.expect("an object with the records"));
    }
    let flip = |key: &str, text: &str| {
        let mut bytes = place.read(key);
        let at = position(&bytes, text).expect("the record");
        bytes[at] ^= 1;
        place.write(key, &bytes);
    };
    flip(&keys[0], "flipped: second");
    place.delete(&keys[1]);
    let whole = place.read(&keys[2]);
    place.write(&keys[2], &whole[..whole.len() / 2]);
    flip(&keys[4], "two: first");

    broker.start();
    let neighbour = Neighbour::move_in(&broker);
    for (topic, key) in [("flipped", &keys[0]), ("missing", &keys[1]), ("cut", &keys[2]), ("two", &keys[4])] {
        for offset in [0, 1] {
            let fetched = Wire::connect(&broker).fetch(topic, offset).unwrap();
            assert!(ERRORS.contains(&fetched.error_code), "{topic} at {offset}: {fetched:?}");
            assert!(fetched.records.is_none_or(|records| records.is_empty()), "{topic} at {offset}: data");
        }
        let log = broker.log();
        let named = log
            .lines()
            .any(|line| line.contains(key.as_str()) && line.contains("offset=0") && line.contains("ERROR"));
        assert!(named, "the operator is not told of {key}:\n{log}");
        neighbour.goes_on();
    }
    for topic in ["whole", "one", "three"] {
        let expected = format!("{topic}: first\n{topic}: second\n");
        assert_eq!(run(&mut broker.cli(&["consume", topic])), expected, "{topic}");
    }
    // What comes after the damage is there, and is read.
    run(&mut broker.cli(&["produce", "flipped", "flipped: third"]));
    assert_eq!(run(&mut broker.cli(&["consume", "flipped", "--offset", "2"])), "flipped: third\n");
    assert!(broker.is_running(), "{}", broker.log());
    neighbour.move_out();
    // The copy of the bucket that every operator has.
    place.write(&keys[2], &whole);
    assert_eq!(run(&mut broker.cli(&["consume", "cut"])), "cut: first\ncut: second\n");
    broker.stop();
}

#[test]
fn damaged_objects_of_a_directory_spoil_what_they_hold_and_nothing_else() {
    damaged_objects_spoil_what_they_hold_and_nothing_else(Storage::DirectoryObject);
}

#[test]
fn damaged_objects_of_a_bucket_spoil_what_they_hold_and_nothing_else() {
    damaged_objects_spoil_what_they_hold_and_nothing_else(Storage::BucketBlock);
}
