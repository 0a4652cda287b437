//! `ottla verify`: what it finds, and what it does not take for a finding.

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use s3stream::ObjectId;
use s3stream::object::{object_key, parse_object_key};
use serde_json::Value;

use crate::process::{Ottla, Storage, run};

/// What it says, and with which exit code.
fn verify(broker: &Ottla, arguments: &[&str]) -> (Value, i32) {
    let arguments = [&["verify", "--json"], arguments].concat();
    let output = broker.tool(&arguments).output().unwrap();
    let code = output.status.code().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("exit {code}: {stderr}"));
    (value, code)
}

/// The report of a store in which nothing is missing.
pub fn report(broker: &Ottla, arguments: &[&str]) -> Value {
    let (report, code) = verify(broker, arguments);
    assert_eq!(code, 0, "{report:#}");
    report
}

/// A broker that has stopped, with topics `a` and `b`.
fn filled(storage: Storage) -> Ottla {
    let mut broker = Ottla::new(storage);
    broker.start();
    for topic in ["a", "b"] {
        let records: Vec<String> = (0..50).map(|number| format!("{topic} {number}")).collect();
        let mut arguments = vec!["produce", topic];
        arguments.extend(records.iter().map(String::as_str));
        run(&mut broker.cli(&arguments));
    }
    // Beside a living broker, which has nothing in objects yet.
    assert_eq!(report(&broker, &["--checksums"])["problem_count"], 0);
    broker.stop();
    broker
}

fn finds_what_is_wrong(storage: Storage) {
    let broker = filled(storage);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = broker.objects();

    let clean = report(&broker, &["--checksums"]);
    let named = clean["named"]["objects"].as_u64().unwrap();
    assert!(named > 0, "{clean:#}");
    assert_eq!(clean["checked"], clean["named"]);
    assert!(clean["checked_blocks"].as_u64().unwrap() > 0);
    assert_eq!((&clean["topics"], &clean["partitions"]), (&2.into(), &2.into()));
    for nothing in ["garbage", "orphans", "pending", "foreign", "seals"] {
        if nothing != "orphans" {
            assert_eq!(clean[nothing]["objects"], 0, "{nothing}: {clean:#}");
        }
    }

    let listed = runtime.block_on(store.list(Some(&"data".into())).try_collect::<Vec<_>>()).unwrap();
    let key = listed[0].location.clone();
    let original = runtime.block_on(async { store.get(&key).await.unwrap().bytes().await.unwrap() });
    let Some(ObjectId::Data { owner, .. }) = parse_object_key(&key) else { panic!("{key}") };

    // Objects that nothing names are no problem; each is told with its reason.
    let orphan = object_key(ObjectId::Data { owner, counter: 4_711 });
    let future = wal::Incarnation { epoch: owner.epoch + 1_000, ..owner };
    let unheard = object_key(ObjectId::Data { owner: future, counter: 0 });
    let foreign = "somebody/else's".into();
    for key in [&orphan, &unheard, &foreign] {
        runtime.block_on(store.put(key, original.clone().into())).unwrap();
    }
    let before = clean["orphans"]["objects"].as_u64().unwrap();
    let found = report(&broker, &["--checksums"]);
    assert_eq!(found["orphans"]["objects"], before + 1, "{found:#}");
    assert_eq!((&found["pending"]["objects"], &found["foreign"]["objects"]), (&1.into(), &1.into()));
    for (key, collectable, reason) in [
        (&orphan, true, "its writer has ended"),
        (&unheard, false, "registered after"),
        (&foreign, false, "not a key"),
    ] {
        let unnamed = found["unnamed"].as_array().unwrap();
        let told = unnamed.iter().find(|told| told["key"] == key.as_ref()).unwrap();
        assert_eq!(told["collectable"], collectable, "{told}");
        assert!(told["reason"].as_str().unwrap().contains(reason), "{told}");
        runtime.block_on(store.delete(key)).unwrap();
    }

    let problem = |arguments: &[&str], kind: &str, words: &str| {
        let (report, code) = verify(&broker, arguments);
        assert_eq!((code, &report["problem_count"]), (1, &1.into()), "{report:#}");
        let problem = &report["problems"][0];
        assert_eq!((&problem["kind"], &problem["location"]), (&kind.into(), &key.as_ref().into()));
        assert!(problem["detail"].as_str().unwrap().contains(words), "{problem}");
    };
    // Every byte counts, wherever it lies.
    for at in [0, 9, original.len() / 2, original.len() - 100, original.len() - 1] {
        let mut flipped = original.to_vec();
        flipped[at] ^= 0x10;
        runtime.block_on(store.put(&key, flipped.into())).unwrap();
        assert_eq!(report(&broker, &[])["problem_count"], 0, "it did not look inside");
        problem(&["--checksums"], "corrupt", "named by a-0");
    }
    let half = original.slice(..original.len() / 2);
    runtime.block_on(store.put(&key, half.into())).unwrap();
    problem(&[], "wrong size", &format!("instead of {}", original.len()));
    runtime.block_on(store.delete(&key)).unwrap();
    problem(&[], "missing", "named by a-0 (log, offsets 0 to 50)");
    problem(&["--checksums"], "missing", "named by a-0");
    runtime.block_on(store.put(&key, original.into())).unwrap();

    let text = run(&mut broker.tool(&["verify", "--checksums"]));
    assert!(text.contains("ok: nothing is missing") && text.contains("2 topics"), "{text}");
}

#[test]
fn in_a_directory() {
    finds_what_is_wrong(Storage::DirectoryBlock);
}

#[test]
fn in_a_bucket() {
    finds_what_is_wrong(Storage::BucketObject);
}

#[test]
fn what_is_no_store_is_an_error_of_its_own_and_stays_what_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("nothing");
    let empty = directory.path().join("empty");
    std::fs::create_dir_all(empty.join("objects")).unwrap();
    for (path, words) in [(&missing, "cannot be used"), (&empty, "no cluster")] {
        let store = format!("file:{}", path.display());
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_ottla"))
            .args(["verify", "--store", &store])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }
    assert!(!missing.exists());
    assert_eq!(std::fs::read_dir(empty.join("objects")).unwrap().count(), 0);
}
