//! Files that are damaged, missing, or somebody else's: said loudly, never taken for the end of the data, and left as they
//! are.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{DEADLINE, Ottla, Storage, exit_within, run};
use crate::wire::Neighbour;

const WAL_BYTES: u64 = 64 << 20;
/// Where the block WAL's ring begins (`docs/formats/`).
const RING_OFFSET: u64 = 128 << 10;

fn wal(broker: &Ottla) -> PathBuf {
    broker.directory.path().join("wal")
}

/// All objects below a prefix of the store, in the order of their keys.
fn objects(broker: &Ottla, prefix: &str) -> Vec<PathBuf> {
    fn gather(directory: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { gather(&path, files) } else { files.push(path) }
        }
    }
    let mut files = Vec::new();
    gather(&broker.directory.path().join("store/objects").join(prefix), &mut files);
    files.sort();
    files
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
}

/// Starts the broker, expects it to leave with exit code 1 before it is ready, and returns what it said.
fn refusal(broker: &Ottla) -> String {
    refusal_of(broker.command())
}

fn refusal_of(mut command: Command) -> String {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let ended = exit_within(&mut child, DEADLINE);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(ended.is_some(), "it was to be refused and it runs: {said}");
    assert_eq!((output.status.code(), &*printed), (Some(1), ""), "{said}");
    said
}

/// A broker that has acknowledged some records, one request after the other, and was killed: they are in its WAL alone.
fn killed_with_records(count: usize) -> Ottla {
    let mut broker = Ottla::new(Storage::DirectoryBlock);
    broker.start();
    for number in 0..count {
        run(&mut broker.cli(&["produce", "kept", &format!("record {number}")]));
    }
    broker.kill();
    broker
}

fn kept(broker: &Ottla) -> Vec<String> {
    run(&mut broker.cli(&["consume", "kept", "--from-beginning"])).lines().map(str::to_owned).collect()
}

#[test]
fn a_wal_file_of_garbage_is_refused_and_left_alone() {
    let broker = Ottla::new(Storage::DirectoryBlock);
    let garbage: Vec<u8> = (0..WAL_BYTES / 64).flat_map(|at| [(at * 37 + 11) as u8; 64]).collect();
    std::fs::write(wal(&broker), &garbage).unwrap();
    let said = refusal(&broker);
    assert!(said.contains(wal(&broker).to_str().unwrap()), "{said}");
    assert!(std::fs::read(wal(&broker)).unwrap() == garbage, "somebody's file was changed");
}

#[test]
fn a_wal_file_that_was_cut_short_is_said_loudly() {
    let mut broker = killed_with_records(2);
    let whole = std::fs::read(wal(&broker)).unwrap();
    for bytes in [0, 4096, RING_OFFSET, WAL_BYTES / 2] {
        std::fs::File::options().write(true).open(wal(&broker)).unwrap().set_len(bytes).unwrap();
        let said = refusal(&broker);
        assert!(said.contains(wal(&broker).to_str().unwrap()), "{bytes}: {said}");
        std::fs::write(wal(&broker), &whole).unwrap();
    }
    std::fs::remove_file(wal(&broker)).unwrap();
    let said = refusal(&broker);
    assert!(said.contains(wal(&broker).to_str().unwrap()), "{said}");
    // Nothing of all that has done harm.
    std::fs::write(wal(&broker), &whole).unwrap();
    broker.start();
    assert_eq!(kept(&broker), ["record 0", "record 1"]);
}

#[test]
fn a_flipped_bit_in_acknowledged_data_is_not_taken_for_the_end_of_the_log() {
    let mut broker = killed_with_records(6);
    let whole = std::fs::read(wal(&broker)).unwrap();
    let place = |text: &[u8]| whole.windows(text.len()).position(|window| window == text).unwrap() as u64;
    // In the middle of a record, and in the header of the frame that carries it.
    let record = place(b"record 1");
    for at in [record, record / 4096 * 4096 + 20] {
        flip(&wal(&broker), at);
        let said = refusal(&broker);
        assert!(said.contains("damaged") || said.contains("corrupt"), "{said}");
        assert!(said.contains(wal(&broker).to_str().unwrap()), "{said}");
        flip(&wal(&broker), at);
    }
    broker.start();
    assert_eq!(kept(&broker).len(), 6);
}

#[test]
fn one_damaged_superblock_is_survived_and_two_are_refused() {
    let mut broker = killed_with_records(2);
    flip(&wal(&broker), 20);
    broker.start();
    assert_eq!(kept(&broker).len(), 2);
    run(&mut broker.cli(&["produce", "kept", "more"]));
    broker.kill();
    let whole = std::fs::read(wal(&broker)).unwrap();
    flip(&wal(&broker), 20);
    flip(&wal(&broker), 65536 + 20);
    let said = refusal(&broker);
    assert!(said.contains(wal(&broker).to_str().unwrap()), "{said}");
    std::fs::write(wal(&broker), &whole).unwrap();
    broker.start();
    assert_eq!(kept(&broker).len(), 3);
}

#[test]
fn a_missing_or_damaged_metadata_entry_is_never_skipped() {
    let mut broker = killed_with_records(2);
    for name in ["another", "and-another", "and-one-more"] {
        broker.start();
        run(&mut broker.cli(&["topic", "create", name]));
        broker.kill();
    }
    let entries = objects(&broker, "meta/log");
    assert!(entries.len() >= 6, "{entries:?}");
    let named = |said: &str, path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(said.contains(&format!("meta/log/{name}")), "{name} is not named: {said}");
    };
    let set_aside = broker.directory.path().join("set-aside");
    let middle = &entries[entries.len() / 2];
    for missing in [&entries[0], middle] {
        std::fs::rename(missing, &set_aside).unwrap();
        named(&refusal(&broker), missing);
        std::fs::rename(&set_aside, missing).unwrap();
    }
    // Several in a row.
    let gone = &entries[2..4];
    for (number, entry) in gone.iter().enumerate() {
        std::fs::rename(entry, set_aside.with_extension(number.to_string())).unwrap();
    }
    named(&refusal(&broker), &gone[0]);
    for (number, entry) in gone.iter().enumerate() {
        std::fs::rename(set_aside.with_extension(number.to_string()), entry).unwrap();
    }
    for damaged in [&entries[0], middle, entries.last().unwrap()] {
        let bytes = std::fs::metadata(damaged).unwrap().len();
        for at in [0, bytes / 2, bytes - 1] {
            flip(damaged, at);
            named(&refusal(&broker), damaged);
            flip(damaged, at);
        }
        let whole = std::fs::read(damaged).unwrap();
        std::fs::write(damaged, &whole[..whole.len() / 2]).unwrap();
        named(&refusal(&broker), damaged);
        std::fs::write(damaged, &whole).unwrap();
    }
    assert_eq!(objects(&broker, "meta/log"), entries, "a refused start has written something");
    broker.start();
    assert_eq!(kept(&broker).len(), 2);
}

/// Topics whose data is in objects of their own: each was uploaded by an orderly stop. The broker runs, its caches are
/// empty.
fn with_objects(topics: &[&str]) -> (Ottla, Vec<PathBuf>) {
    let mut broker = Ottla::new(Storage::DirectoryBlock);
    let mut places = Vec::new();
    for topic in topics {
        broker.start();
        run(&mut broker.cli(&["produce", topic, "one", "two"]));
        let before = objects(&broker, "data");
        broker.stop();
        let mut new = objects(&broker, "data");
        new.retain(|object| !before.contains(object));
        // The one with the records, not the checkpoints'.
        let holds = |path: &PathBuf| {
            let bytes = std::fs::read(path).unwrap();
            bytes.windows(3).any(|window| window == b"two")
        };
        places.push(new.into_iter().find(holds).expect("an object with the records"));
    }
    broker.start();
    (broker, places)
}

#[test]
fn a_damaged_or_missing_object_spoils_its_own_partitions_alone() {
    let (broker, places) = with_objects(&["flipped", "missing", "cut", "whole"]);
    let neighbour = Neighbour::move_in(&broker);
    let bytes = std::fs::read(&places[0]).unwrap();
    let at = bytes.windows(3).position(|window| window == b"two").unwrap() as u64;
    flip(&places[0], at);
    std::fs::remove_file(&places[1]).unwrap();
    let whole = std::fs::read(&places[2]).unwrap();
    std::fs::write(&places[2], &whole[..whole.len() / 3]).unwrap();
    for topic in ["flipped", "missing", "cut"] {
        let consumed = broker.cli(&["consume", topic, "--timeout", "2s"]).output().unwrap();
        let said = String::from_utf8_lossy(&consumed.stderr);
        assert_eq!(consumed.status.code(), Some(1), "{topic}: {said}");
        assert!(consumed.stdout.is_empty(), "{topic}: {}", String::from_utf8_lossy(&consumed.stdout));
        neighbour.goes_on();
    }
    let log = broker.log();
    for place in &places[..3] {
        let key = place.file_name().unwrap().to_str().unwrap();
        assert!(log.contains(key), "the operator is not told of {key}:\n{log}");
    }
    assert_eq!(run(&mut broker.cli(&["consume", "whole"])), "one\ntwo\n");
    // What is new is there too, even in the spoiled partitions.
    run(&mut broker.cli(&["produce", "flipped", "three"]));
    assert_eq!(run(&mut broker.cli(&["consume", "flipped", "--offset", "2"])), "three\n");
    neighbour.move_out();
}

/// Root may do anything, so the broker runs without root's privileges.
fn unprivileged(broker: &Ottla) -> Command {
    let wrapped = broker.command();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(wrapped.get_program());
    command.args(wrapped.get_args());
    for (name, value) in wrapped.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.current_dir(wrapped.get_current_dir().unwrap());
    command
}

#[test]
fn a_directory_that_may_not_be_used_is_named() {
    let mut broker = killed_with_records(1);
    let store = broker.directory.path().join("store");
    let permit = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for (path, mode, then) in [
        // The store, its lock, and the WAL.
        (store.clone(), 0o000, 0o755),
        (store.join("lock"), 0o000, 0o644),
        (wal(&broker), 0o000, 0o644),
    ] {
        permit(&path, mode);
        let said = refusal_of(unprivileged(&broker));
        permit(&path, then);
        assert!(said.contains("denied"), "{}: {said}", path.display());
        let named = if path == wal(&broker) { wal(&broker) } else { store.clone() };
        assert!(said.contains(named.to_str().unwrap()), "{}: {said}", path.display());
    }
    let fresh = broker.directory.path().join("closed");
    std::fs::create_dir(&fresh).unwrap();
    permit(&fresh, 0o555);
    let mut command = unprivileged(&broker);
    command.args(["--store", fresh.join("store").to_str().unwrap()]);
    let said = refusal_of(command);
    assert!(said.contains("denied") && said.contains(fresh.to_str().unwrap()), "{said}");
    broker.start();
    assert_eq!(kept(&broker), ["record 0"]);
}
