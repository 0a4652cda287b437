//! F18, F28: acknowledged data whose object is damaged or gone. Whoever asks for it hears an error, the operator hears the
//! object's key and the offset, and nobody else hears anything: not the other partitions of the same object either.

use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::process::{Ottla, Storage, run};
use crate::wire::{Neighbour, Wire};

/// CORRUPT_MESSAGE and KAFKA_STORAGE_ERROR: what a consumer hears.
const ERRORS: [i16; 2] = [2, 56];

/// The objects of a stopped broker, wherever they are.
struct Place {
    store: Arc<dyn ObjectStore>,
    runtime: tokio::runtime::Runtime,
}

impl Place {
    fn of(broker: &Ottla) -> Place {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Place { store: broker.objects(), runtime }
    }

    /// Keys of the data objects.
    fn keys(&self) -> Vec<Path> {
        let listed = self.store.list(Some(&"data".into())).map_ok(|meta| meta.location);
        self.runtime.block_on(listed.try_collect()).unwrap()
    }

    fn read(&self, key: &Path) -> Vec<u8> {
        self.runtime.block_on(async { self.store.get(key).await.unwrap().bytes().await.unwrap() }).to_vec()
    }

    fn write(&self, key: &Path, bytes: &[u8]) {
        self.runtime.block_on(self.store.put(key, bytes.to_vec().into())).unwrap();
    }

    fn delete(&self, key: &Path) {
        self.runtime.block_on(self.store.delete(key)).unwrap();
    }
}

fn position(bytes: &[u8], text: &str) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text.as_bytes())
}

fn damaged_objects_spoil_what_they_hold_and_nothing_else(storage: Storage) {
    let mut broker = Ottla::new(storage);
    // There is a directory once it was formatted.
    broker.start();
    let place = Place::of(&broker);
    broker.stop();
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
        let holds = |key: &Path| position(&place.read(key), &format!("{}: first", topics[0])).is_some();
        let new = place.keys().into_iter().filter(|key| !before.contains(key)).find(holds);
        keys.push(new.expect("an object with the records"));
    }
    let flip = |key: &Path, text: &str| {
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
            .any(|line| line.contains(key.as_ref()) && line.contains("offset=0") && line.contains("ERROR"));
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

/// All records are there, and nobody knows any more where DeleteRecords made the log begin.
#[test]
fn a_partition_whose_checkpoint_is_lost_is_named_and_opens_if_that_is_accepted() {
    let mut broker = Ottla::new(Storage::DirectoryBlock).with(&["--partition-checkpoint-interval", "64KiB"]);
    broker.start();
    let place = Place::of(&broker);
    run(&mut broker.cli(&["produce", "topic", &"x".repeat(100 << 10), "second"]));
    broker.stop();
    let mut lost = place.keys();
    lost.retain(|key| {
        let mut bytes = place.read(key);
        let Some(at) = position(&bytes, "OTCP") else { return false };
        bytes[at] ^= 1;
        place.write(key, &bytes);
        true
    });
    assert_eq!(lost.len(), 1, "a checkpoint was written");

    broker.start();
    let neighbour = Neighbour::move_in(&broker);
    let mut wire = Wire::connect(&broker);
    for _ in 0..3 {
        assert_eq!(wire.fetch("topic", 0).unwrap().error_code, 56);
    }
    let log = broker.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("a partition cannot be opened")).collect();
    assert_eq!(told.len(), 1, "once a minute:\n{log}");
    assert!(told[0].contains("topic=topic partition=0") && told[0].contains(lost[0].as_ref()), "{}", told[0]);
    assert!(told[0].contains("--partition-accept-lost-checkpoints"), "what to do: {}", told[0]);
    neighbour.goes_on();
    neighbour.move_out();
    broker.stop();
    let mut broker = broker.with(&["--partition-accept-lost-checkpoints"]);
    broker.start();
    assert_eq!(run(&mut broker.cli(&["consume", "topic", "--offset", "1"])), "second\n");
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
