//! What nothing needs any more leaves the store, and nothing else does.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use s3stream::ObjectId;
use s3stream::object::{object_key, parse_object_key};

use crate::process::{Ottla, Storage, run, wait_until};
use crate::verify::report;

/// A broker that uploads at once and collects at once.
fn hasty(storage: Storage) -> Ottla {
    Ottla::new(storage).with(&[
        "--upload-interval",
        "1s",
        "--collect-delay",
        "1s",
        "--collect-interval",
        "100ms",
        "--collect-first-sweep",
        "300ms",
        "--collect-sweep-interval",
        "1s",
    ])
}

fn produce(broker: &Ottla, topic: &str, count: usize) {
    let values: Vec<String> = (0..count).map(|number| format!("{topic} {number}")).collect();
    let mut arguments = vec!["produce", topic];
    arguments.extend(values.iter().map(String::as_str));
    run(&mut broker.cli(&arguments));
}

fn values(broker: &Ottla, topic: &str) -> Vec<String> {
    run(&mut broker.cli(&["consume", topic, "--from-beginning"])).lines().map(str::to_owned).collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn keys(store: &dyn ObjectStore, prefix: &str) -> BTreeSet<Path> {
    let listed = block_on(store.list(Some(&prefix.into())).try_collect::<Vec<_>>()).unwrap();
    listed.into_iter().map(|meta| meta.location).collect()
}

fn collects(storage: Storage) {
    let mut broker = hasty(storage);
    broker.start();
    produce(&broker, "doomed", 20);
    let store = broker.objects();
    wait_until("it is never uploaded", || !keys(&*store, "data").is_empty());
    let doomed = keys(&*store, "data");
    produce(&broker, "kept", 20);
    run(&mut broker.cli(&["topic", "delete", "doomed"]));
    wait_until("a deleted topic's objects stay for ever", || keys(&*store, "data").is_disjoint(&doomed));

    // What is only in the log when it is killed, and something of it that nobody will ever commit.
    produce(&broker, "kept", 20);
    let Some(ObjectId::Data { owner, .. }) = parse_object_key(doomed.first().unwrap()) else {
        panic!("{doomed:?}");
    };
    broker.kill();
    let orphan = object_key(ObjectId::Data { owner, counter: 77_777 });
    block_on(store.put(&orphan, "of an upload that was cut off".into())).unwrap();
    // Of a life that has not begun yet, as far as anybody knows.
    let unheard = owner.epoch + 1_000_000;
    let unheard = ObjectId::Data { owner: wal::Incarnation { epoch: unheard, ..owner }, counter: 0 };
    let unheard = object_key(unheard);
    block_on(store.put(&unheard, "not to be touched".into())).unwrap();

    broker.start();
    produce(&broker, "kept", 1);
    wait_until("an orphan stays for ever", || !keys(&*store, "data").contains(&orphan));
    wait_until("something is left that can be collected", || {
        let report = report(&broker, &["--checksums"]);
        report["garbage"]["objects"] == 0 && report["orphans"]["objects"] == 0
    });
    assert!(keys(&*store, "data").contains(&unheard));
    let seals = report(&broker, &[])["seals"]["objects"].as_u64().unwrap();
    let is_object_wal = matches!(storage, Storage::DirectoryObject | Storage::BucketObject);
    assert_eq!(seals, u64::from(is_object_wal), "one life ended without saying so");

    let expected: Vec<String> =
        [20, 20, 1].into_iter().flat_map(|count| (0..count).map(|number| format!("kept {number}"))).collect();
    assert_eq!(values(&broker, "kept"), expected);
    broker.stop();
    broker.start();
    assert_eq!(values(&broker, "kept"), expected, "from the objects alone");
}

#[test]
fn in_a_directory_with_a_block_wal() {
    collects(Storage::DirectoryBlock);
}

#[test]
fn in_a_directory_with_an_object_wal() {
    collects(Storage::DirectoryObject);
}

#[test]
fn in_a_bucket_with_an_object_wal() {
    collects(Storage::BucketObject);
}
