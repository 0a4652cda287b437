//! SIGKILL, for real: a child process appends until it is killed; whatever it reported as acknowledged is there.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use wal::block::{BlockMedium, Config};
use wal::{AckRight, AppendError, Incarnation, Medium, Meta, Position, Record, Uri, Vacated};

use crate::faulty::CLUSTER;

/// Set for the child: `epoch path`.
const CHILD: &str = "OTTLA_WAL_KILL_CHILD";
const ACKNOWLEDGED_MIN: u64 = 1_000;
const KILLS: u64 = 4;

fn life(epoch: u64) -> Incarnation {
    Incarnation { broker: 7, epoch }
}

fn medium(path: &Path) -> BlockMedium {
    let config = Config { frame_bytes_max: 256 << 10, frame_bytes_target: 64 << 10, ..Config::default() };
    BlockMedium::new(&Uri::block(path, Some(8 << 20)).unwrap(), CLUSTER, config).unwrap()
}

fn record(number: u64) -> Record {
    let bytes = (number * 7_919 % 3_000) as usize;
    Record { kind: 1, meta: Meta::new(&number.to_le_bytes()), body: Bytes::from(vec![number as u8; bytes]) }
}

fn number_of(record: &Record) -> u64 {
    u64::from_le_bytes(record.meta.as_slice().try_into().unwrap())
}

async fn recover(medium: &BlockMedium, epoch: u64, from: Position) -> (Vec<Record>, Vacated) {
    let mut recovery = medium.recover(life(epoch), from).await.unwrap();
    let mut records = Vec::new();
    while let Some(batch) = recovery.next().await.unwrap() {
        records.extend(batch.records);
    }
    (records, recovery.finish())
}

/// The child's part. Says `trim POSITION NUMBER` before it trims, and `ack NUMBER` after an acknowledgement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let (epoch, path) = order.split_once(' ').unwrap();
    let epoch: u64 = epoch.parse().unwrap();
    let medium = medium(&PathBuf::from(path));
    // What the previous life left was read by the parent; here it only makes the proof.
    let vacated =
        if epoch == 1 { Vacated::new_medium() } else { recover(&medium, epoch - 1, trim_of(path)).await.1 };
    let wal = medium.open(life(epoch), vacated, Arc::new(AckRight::unlimited())).await.unwrap();
    let mut out = std::io::stdout();
    let mut queue = std::collections::VecDeque::new();
    for number in 0.. {
        let append = loop {
            match wal.append(record(number)) {
                Ok(append) => break append,
                Err(AppendError::OverCapacity { .. }) => wal.admit(record(number).size()).await.unwrap(),
                Err(error) => panic!("{error}"),
            }
        };
        queue.push_back((number, append));
        if queue.len() == 64 {
            let (number, append) = queue.pop_front().unwrap();
            let position = append.await.unwrap();
            if number % 400 == 399 {
                writeln!(out, "trim {} {number}", position.0).unwrap();
                wal.trim(position).await.unwrap();
            }
            writeln!(out, "ack {number}").unwrap();
        }
    }
}

/// What the parent wrote down as the metadata log would.
fn trim_of(path: &str) -> Position {
    Position(std::fs::read_to_string(format!("{path}.trim")).unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_acknowledged_survives_sigkill() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("volume");
    // Formatted before there is an owner, as a broker does it.
    drop(medium(&path));
    for epoch in 1..=KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kill::child", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{epoch} {}", path.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = None;
        let mut trim = (0, 0);
        let mut killed = false;
        // Reads on after the kill: what was reported before it counts.
        while let Some(Ok(line)) = lines.next() {
            let mut words = line.split(' ');
            match (words.next(), words.next(), words.next()) {
                (Some("ack"), Some(number), None) => acknowledged = number.parse().ok(),
                (Some("trim"), Some(position), Some(number)) => {
                    trim = (position.parse().unwrap(), number.parse().unwrap());
                }
                _ => {}
            }
            if !killed && acknowledged >= Some(ACKNOWLEDGED_MIN + epoch * 137) {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "the child ended by itself");
        let acknowledged = acknowledged.unwrap();
        let (records, _) = recover(&medium(&path), epoch, Position(trim.0)).await;
        let first = number_of(&records[0]);
        assert!(first <= trim.1, "record {} is kept, recovery begins at {first}", trim.1);
        for (expected, found) in (first..).zip(&records) {
            assert!(*found == record(expected), "record {expected} is another one");
        }
        let last = number_of(records.last().unwrap());
        assert!(last >= acknowledged, "{acknowledged} was acknowledged, the log ends at {last}");
        std::fs::write(format!("{}.trim", path.display()), trim.0.to_string()).unwrap();
    }
}
