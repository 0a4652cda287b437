//! `ottla wal inspect`, `ottla object inspect`, `ottla metalog dump`.

use std::os::unix::fs::FileExt;
use std::process::Command;

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use serde_json::Value;

use crate::process::{Ottla, Storage, run};

fn lines(text: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

fn of_kind<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["kind"] == kind).collect()
}

/// Runs it to the end: what it printed, what it said, and its exit code.
fn look(command: &mut Command) -> (Vec<Value>, String, i32) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (lines(&output.stdout), said, output.status.code().unwrap())
}

fn started(storage: Storage, records: usize) -> Ottla {
    let mut broker = Ottla::new(storage);
    broker.start();
    for number in 0..records {
        run(&mut broker.cli(&["produce", "t", &format!("record {number}")]));
    }
    broker
}

fn sum(lines: &[&Value], field: &str) -> u64 {
    lines.iter().map(|line| line[field].as_u64().unwrap()).sum()
}

#[test]
fn a_volume_shows_its_superblocks_frames_and_records_and_where_it_is_damaged() {
    let mut broker = started(Storage::DirectoryBlock, 5);
    let wal = broker.directory.path().join("wal");
    let uri = format!("block://{}", wal.display());
    let inspect = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
        look(command.args(["wal", "inspect", "--json"]).args(arguments))
    };
    // A living broker's, which goes on undisturbed.
    let (living, said, code) = inspect(&[&uri]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("in use by a running broker"), "{said}");
    assert!(sum(&of_kind(&living, "frame"), "records") >= 5);
    run(&mut broker.cli(&["produce", "t", "one more"]));
    broker.kill();

    let (dead, said, code) = inspect(&[wal.to_str().unwrap(), "--records"]);
    assert_eq!((code, said.as_str()), (0, ""));
    let superblocks = of_kind(&dead, "superblock");
    assert_eq!(superblocks.len(), 2);
    assert!(superblocks.iter().all(|superblock| superblock["state"] == "valid"), "{superblocks:?}");
    assert!(superblocks.iter().any(|superblock| superblock["broker"] == 1 && superblock["epoch"].is_u64()));
    // As everything else spells it.
    let cluster = superblocks[0]["cluster"].as_str().unwrap();
    let (log, said, _) = look(&mut broker.tool(&["metalog", "dump", "--json"]));
    let format = of_kind(&log, "command")[0]["command"].to_string();
    assert!(format.contains(&format!("\"{cluster}\"").replace('"', "\\\"")), "{cluster}: {format} {said}");
    let (frames, records) = (of_kind(&dead, "frame"), of_kind(&dead, "record"));
    assert_eq!(sum(&frames, "records"), records.len() as u64);
    let end = of_kind(&dead, "end")[0];
    assert_eq!((&end["frames"], &end["records"]), (&frames.len().into(), &records.len().into()));
    // The topic's stream: six offsets in order, whatever else is in between.
    let stream = &records.last().unwrap()["stream"];
    let offsets: Vec<_> = records.iter().filter(|record| record["stream"] == *stream).collect();
    assert_eq!(
        offsets.iter().map(|record| record["base"].as_u64().unwrap()).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 5]
    );

    // The first frame, which later ones prove to have been durable.
    let ring = 128 << 10;
    let at = ring + frames[0]["position"].as_u64().unwrap() + 80;
    let file = std::fs::File::options().read(true).write(true).open(&wal).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    let (_, said, code) = inspect(&[&uri]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("damaged"), "{said}");
    // Neither changed anything.
    file.write_all_at(&byte, at).unwrap();
    broker.start();
    let kept = run(&mut broker.cli(&["consume", "t", "--from-beginning"]));
    assert_eq!(kept.lines().count(), 6, "{kept}");
}

#[test]
fn a_store_without_a_cluster_is_an_error_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("objects")).unwrap();
    let store = format!("file:{}", directory.path().display());
    for tool in [&["metalog", "dump"][..], &["metalog", "dump", "--snapshots"], &["wal", "inspect", "object"]]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
        let (found, said, code) = look(command.args(tool).args(["--store", &store]));
        assert_eq!((found.len(), code), (0, 2), "{tool:?}: {said}");
        assert!(said.contains("there is no cluster in this store"), "{tool:?}: {said}");
    }
}

#[test]
fn slots_show_by_life_with_seals_and_objects_by_block() {
    let mut broker = started(Storage::BucketObject, 5);
    broker.kill();
    broker.start();
    let (found, said, code) = look(&mut broker.tool(&["wal", "inspect", "object", "--json"]));
    assert_eq!(code, 0, "{said}");
    let lives = of_kind(&found, "life");
    assert_eq!(lives.len(), 1, "{found:?}");
    assert_eq!(lives[0]["missing"], 0);
    let seal = lives[0]["seal"].as_u64().expect("the killed life was sealed");
    assert_eq!((lives[0]["first"].as_u64(), lives[0]["last"].as_u64()), (Some(0), Some(seal)));

    // A slot was adopted: it is an object of a partition now.
    let store = broker.objects();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let slots = runtime.block_on(store.list(Some(&"wal".into())).try_collect::<Vec<_>>()).unwrap();
    let (mut records, mut named) = (0, 0);
    for slot in &slots {
        let key = slot.location.as_ref();
        let (found, said, code) = look(&mut broker.tool(&["object", "inspect", key, "--records", "--json"]));
        assert_eq!(code, 0, "{said}");
        if !of_kind(&found, "seal").is_empty() {
            assert!(key.ends_with(&format!("{seal:020}")));
            continue;
        }
        assert_eq!(of_kind(&found, "object")[0]["type"], "slot");
        let blocks = of_kind(&found, "block");
        assert!(blocks.iter().all(|block| block["state"] == "ok"));
        assert_eq!(sum(&blocks, "records"), of_kind(&found, "record").len() as u64);
        named += usize::from(of_kind(&found, "standing")[0]["naming"] == "Named");
        records += sum(
            &blocks.into_iter().filter(|block| block["partition"] == "t-0").collect::<Vec<_>>(),
            "records",
        );
    }
    assert_eq!(records, 5);
    assert!(named > 0);

    // A copy with one bit flipped, as a file.
    let key = &slots[0].location;
    let mut bytes = runtime.block_on(async { store.get(key).await.unwrap().bytes().await.unwrap() }).to_vec();
    bytes[40] ^= 1;
    let copy = broker.directory.path().join("copy");
    std::fs::write(&copy, bytes).unwrap();
    let (found, said, code) =
        look(&mut broker.tool(&["object", "inspect", copy.to_str().unwrap(), "--json"]));
    assert_eq!(code, 1);
    assert!(said.contains("1 of") && said.contains("damaged"), "{said}");
    assert_eq!(of_kind(&found, "block").iter().filter(|block| block["state"] != "ok").count(), 1);
    let (_, said, code) = look(&mut broker.tool(&["object", "inspect", "data/no/such-object", "--json"]));
    assert!(code == 1 && said.contains("neither a file nor a key"), "{said}");
}

#[test]
fn the_metadata_log_shows_every_command_and_what_is_missing() {
    let mut broker = started(Storage::DirectoryBlock, 1);
    run(&mut broker.cli(&["topic", "create", "second"]));
    run(&mut broker.cli(&["topic", "delete", "second"]));
    broker.stop();
    let dump =
        |arguments: &[&str]| look(&mut broker.tool(&[&["metalog", "dump", "--json"], arguments].concat()));
    let (all, said, code) = dump(&[]);
    assert_eq!(code, 0, "{said}");
    let entries = of_kind(&all, "entry");
    let numbers: Vec<u64> = entries.iter().map(|entry| entry["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    for pair in entries.windows(2) {
        assert_eq!(pair[0]["nonce"], pair[1]["predecessor"]);
    }
    let commands: Vec<&str> =
        of_kind(&all, "command").iter().map(|line| line["command"].as_str().unwrap()).collect();
    for wanted in
        ["Format", "RegisterBroker", "OpenLeaderships", "CreateTopics", "DeleteTopics", "CloseBroker"]
    {
        assert!(commands.iter().any(|command| command.starts_with(wanted)), "{wanted}: {commands:#?}");
    }
    let (some, _, code) = dump(&["--from", "2", "--to", "3"]);
    assert_eq!((code, of_kind(&some, "entry").len()), (0, 2));
    let text = run(&mut broker.tool(&["metalog", "dump", "--to", "1"]));
    assert!(text.starts_with("1  20") && text.contains("Format"), "{text}");

    // Where no broker would start, it still shows the rest.
    let hidden = broker.directory.path().join(format!("store/objects/meta/log/{:020}", 2));
    let away = broker.directory.path().join("away");
    std::fs::rename(&hidden, &away).unwrap();
    let (rest, said, code) = dump(&[]);
    assert!(code == 1 && said.contains("damaged in 1 place"), "{said}");
    assert_eq!(of_kind(&rest, "entry").len(), numbers.len() - 1);
    assert!(of_kind(&rest, "fault")[0]["detail"].as_str().unwrap().contains("entries 2 to 2 are missing"));
    // Another entry in its place: neither its number nor the chain is right.
    std::fs::copy(hidden.with_file_name(format!("{:020}", 3)), &hidden).unwrap();
    let (_, said, code) = dump(&[]);
    assert!(code == 1 && said.contains("damaged"), "{said}");
    std::fs::rename(&away, &hidden).unwrap();
    assert_eq!(dump(&[]).2, 0);

    let (none, _, code) = dump(&["--snapshots"]);
    assert_eq!((code, none.len()), (0, 0), "too young for one");
    broker = broker.with(&["--metadata-snapshot-entries", "1"]);
    broker.start();
    run(&mut broker.cli(&["produce", "t", "more"]));
    broker.stop();
    let (snapshots, said, code) = look(&mut broker.tool(&["metalog", "dump", "--snapshots", "--json"]));
    assert_eq!(code, 0, "{said}");
    assert!(of_kind(&snapshots, "snapshot").iter().any(|snapshot| snapshot["topics"] == 1), "{snapshots:?}");
}
