//! What it takes the metadata to replace a broker, and to empty one.

use std::time::Duration;

use ottla::metadata::command::Command;
use s3stream::ObjectId;
use s3stream::metadata::{Commit, NewObject, StreamPart};
use wal::Position;

use crate::cluster::{COMMIT_PARTS, Cluster, Costs};

/// How a broker's partitions came to others.
#[derive(Clone, Debug)]
pub struct Replaced {
    pub partitions: usize,
    /// Each is a PUT, and behind the one before it.
    pub entries: u64,
    pub bytes: u64,
    pub cpu: Duration,
    /// Of the entry that took longest, and which that was.
    pub cpu_max: (Duration, &'static str),
    /// The most that any broker has more than the one with the least.
    pub spread: usize,
}

/// A broker dies with so many slots in its log, each of which holds records of so many of its partitions; another one fences it
/// and adopts the slots.
pub fn fail_over(cluster: &mut Cluster, dead: usize, slots: usize, partitions_each: usize) -> Replaced {
    let of = cluster.brokers[dead].by;
    let partitions = cluster.image.partitions_of(of).count();
    let streams = cluster.active(of);
    cluster.brokers.remove(dead);
    let by = cluster.brokers[0].by;
    cluster.costs.clear();
    cluster.apply("fence", Command::Fence { by, of });

    let from = cluster.image.life(of).map_or(0, |life| life.trim.0);
    let mut ends: Vec<u64> =
        streams.iter().map(|(log, _)| cluster.image.stream(*log).map_or(0, |s| s.committed_end)).collect();
    let mut objects: Vec<Vec<NewObject>> = vec![Vec::new()];
    let mut parts_in_last = 0;
    let mut next = 0;
    for slot in 0..slots as u64 {
        let mut parts = Vec::new();
        for _ in 0..partitions_each.min(streams.len()) {
            let at = next % streams.len();
            next += 1;
            let (base, end) = (ends[at], ends[at] + 10);
            ends[at] = end;
            parts.push(StreamPart { stream: streams[at].0, base, end, max_timestamp: 0, bytes: 10_240 });
        }
        if parts.is_empty() {
            break;
        }
        parts.sort_by_key(|part| part.stream);
        if parts_in_last >= COMMIT_PARTS {
            objects.push(Vec::new());
            parts_in_last = 0;
        }
        parts_in_last += parts.len();
        let id = ObjectId::Slot { owner: of, slot: from + slot };
        let size_bytes = parts.iter().map(|part| part.bytes).sum();
        objects.last_mut().expect("begun").push(NewObject { id, size_bytes, parts });
    }
    let commits = objects.len();
    let mut trim = from;
    for (nth, objects) in objects.into_iter().enumerate() {
        let last = nth + 1 == commits;
        let before = Position(trim);
        trim += objects.len() as u64;
        let commit = Commit { owner: of, objects, wal_trim: Position(trim) };
        let kind = if last { "last recovery commit" } else { "recovery commit" };
        cluster.apply(kind, Command::CommitRecovered { by, of, from: before, commit, last });
    }
    replaced(cluster, partitions)
}

/// A broker is emptied and closes: so many partitions in an entry, to all others in turn.
pub fn drain(cluster: &mut Cluster, leaving: usize, moves_each: usize) -> Replaced {
    let by = cluster.brokers[leaving].by;
    let partitions = cluster.image.partitions_of(by).count();
    cluster.brokers.remove(leaving);
    cluster.costs.clear();
    cluster.apply("draining", Command::SetDraining { by, broker: by.broker, draining: true });
    let mut moves = cluster.handed(by, 0);
    for (nth, handed) in moves.iter_mut().enumerate() {
        handed.to = cluster.brokers[nth % cluster.brokers.len()].by.broker;
    }
    for moves in moves.chunks(moves_each) {
        cluster.apply("hand over", Command::HandOver { by, moves: moves.to_vec() });
    }
    cluster.apply("close", Command::CloseBroker { by });
    replaced(cluster, partitions)
}

fn replaced(cluster: &Cluster, partitions: usize) -> Replaced {
    let costs: &Costs = &cluster.costs;
    let longest = costs.iter().max_by_key(|(_, cost)| cost.cpu_max).map(|(kind, cost)| (cost.cpu_max, *kind));
    let led: Vec<usize> =
        cluster.brokers.iter().map(|broker| cluster.image.led_count(broker.by.broker)).collect();
    Replaced {
        partitions,
        entries: costs.values().map(|cost| cost.entries).sum(),
        bytes: costs.values().map(|cost| cost.bytes).sum(),
        cpu: costs.values().map(|cost| cost.cpu).sum(),
        cpu_max: longest.unwrap_or_default(),
        spread: led.iter().max().unwrap_or(&0) - led.iter().min().unwrap_or(&0),
    }
}
