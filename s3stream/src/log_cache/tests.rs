use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn record(base: u64, end: u64, bytes: usize) -> StreamRecord {
    StreamRecord { base, end, max_timestamp: (base * 7 % 11) as i64, body: Bytes::from(vec![1; bytes]) }
}

#[test]
fn nothing_is_read_that_is_not_confirmed() {
    let mut tail = Tail::new(10, 10);
    tail.push(record(10, 12, 5));
    tail.push(record(12, 13, 5));
    assert_eq!(tail.read(10, 100, u64::MAX), Some(Vec::new()));
    assert_eq!(tail.find_timestamp(0, 0), None);
    tail.confirm(10, 12);
    assert_eq!(
        tail.read(11, 100, u64::MAX),
        Some(vec![record(10, 12, 5)]),
        "the record that holds it, whole"
    );
    assert_eq!(tail.read(12, 100, u64::MAX), Some(Vec::new()));
    assert_eq!(tail.read(13, 100, u64::MAX), None);
    assert_eq!(tail.max_timestamp().map(|record| record.base), Some(10));
}

#[test]
#[should_panic(expected = "must begin where the last one ended")]
fn an_append_that_leaves_a_gap_panics() {
    Tail::new(0, 5).push(record(6, 7, 1));
}

#[test]
#[should_panic(expected = "confirmed in order")]
fn a_confirmation_out_of_order_panics() {
    let mut tail = Tail::new(0, 0);
    tail.push(record(0, 1, 1));
    tail.push(record(1, 2, 1));
    tail.confirm(1, 2);
}

const A: StreamId = StreamId(1);

fn append(blocks: &mut Blocks, base: u64) -> BlockId {
    blocks.append(Instant::now(), A, 1, &record(base, base + 1, 10), 10)
}

#[tokio::test]
async fn a_trim_point_never_passes_what_is_not_committed() {
    let mut blocks = Blocks::new(20);
    let (first, again) = (append(&mut blocks, 0), append(&mut blocks, 1));
    assert_eq!(first, again);
    assert!(blocks.take_uploadable().is_none(), "not durable yet");
    blocks.confirm(first, Position(100));
    assert!(blocks.take_uploadable().is_none(), "not all of it");
    blocks.confirm(first, Position(200));
    let (taken, slices) = blocks.take_uploadable().expect("sealed and durable");
    assert_eq!((taken, slices.len()), (first, 1));
    assert!(blocks.take_uploadable().is_none(), "only once");
    assert_eq!(blocks.trimmable_after(first), Trimmable::Everything(Position(200)));
    let second = append(&mut blocks, 2);
    assert_eq!(blocks.trimmable_after(first), Trimmable::To(Position(200)), "it may share that position");
    blocks.confirm(second, Position(300));
    assert_eq!(blocks.trimmable_after(first), Trimmable::To(Position(300)));
    assert_eq!(blocks.begins_at(first), Position(100));
    assert!(blocks.evictable().is_none(), "not committed yet");
    assert_eq!(blocks.uncommitted_bytes(), 30);
    blocks.commit(first);
    assert_eq!(blocks.uncommitted_bytes(), 10);
    let (stream, slice) = blocks.evictable().expect("committed");
    assert_eq!((stream, slice.end, slice.charge), (A, 2, 20));
    assert_eq!(blocks.evicted(10, false), 10);
    assert_eq!(blocks.evictable().expect("half of it").1.charge, 10);
    assert_eq!(blocks.evicted(0, true), 10, "what was dropped otherwise counts, too");
    assert!(blocks.evictable().is_none());
    assert_eq!(blocks.end(), BlockId(2));
}

#[tokio::test]
#[should_panic(expected = "committed in order")]
async fn a_commit_out_of_order_panics() {
    let mut blocks = Blocks::new(10);
    for base in 0..2 {
        let block = append(&mut blocks, base);
        blocks.confirm(block, Position(base));
    }
    blocks.take_uploadable().expect("uploadable");
    let (second, _) = blocks.take_uploadable().expect("uploadable");
    blocks.commit(second);
}

#[tokio::test(start_paused = true)]
async fn a_block_grows_old_from_its_first_record_on() {
    let mut blocks = Blocks::new(100);
    let age = Duration::from_secs(60);
    assert!(!blocks.is_old(Instant::now(), age) && !blocks.seal());
    append(&mut blocks, 0);
    tokio::time::advance(Duration::from_secs(59)).await;
    append(&mut blocks, 1);
    assert!(!blocks.is_old(Instant::now(), age));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(blocks.is_old(Instant::now(), age));
    assert!(blocks.seal() && blocks.is_uploading());
    assert_eq!(blocks.active_since(), None);
}

#[tokio::test]
async fn another_epoch_of_a_stream_begins_another_block() {
    let mut blocks = Blocks::new(100);
    let first = append(&mut blocks, 0);
    let second = blocks.append(Instant::now(), A, 2, &record(1, 2, 10), 10);
    assert_ne!(first, second);
}

proptest! {
    /// A tail equals a list, whatever is pushed, confirmed, trimmed and evicted in between.
    #[test]
    fn a_tail_equals_a_list(steps in prop::collection::vec((0u8..6, 0u64..50, 0usize..100), 1..200)) {
        let mut tail = Tail::new(3, 7);
        let mut all: Vec<StreamRecord> = Vec::new();
        let (mut start, mut confirmed, mut evicted) = (3, 7, 7u64);
        for (step, at, bytes) in steps {
            match step {
                0 | 1 => {
                    let base = tail.next();
                    all.push(record(base, base + 1 + at % 3, bytes));
                    tail.push(all.last().expect("pushed").clone());
                }
                2 => if let Some(record) = all.iter().find(|record| record.base == confirmed) {
                    tail.confirm(record.base, record.end);
                    confirmed = record.end;
                },
                3 => {
                    let to = at.min(confirmed);
                    tail.trim(to);
                    start = start.max(to);
                }
                4 => {
                    let upto = confirmed.min(at);
                    let wanted = bytes * 10;
                    let (freed, done) = tail.evict(upto, wanted);
                    let mut left = 0;
                    let before = evicted;
                    for record in all.iter().filter(|record| record.base >= before && record.end <= upto) {
                        if left >= wanted {
                            break;
                        }
                        left += charge_of(record.body.len());
                        evicted = record.end;
                    }
                    prop_assert_eq!(freed, left);
                    prop_assert_eq!(done, !all.iter().any(|record| record.base >= evicted && record.end <= upto));
                }
                _ => {
                    let end = if at % 2 == 0 { u64::MAX } else { at + 5 };
                    let found = tail.read(at, bytes, end);
                    let mut budget = bytes as i64;
                    let expected: Vec<_> = all.iter()
                        .filter(|record| record.end > at)
                        .take_while(|record| record.end <= end.min(confirmed))
                        .enumerate()
                        .take_while(|(nth, record)| {
                            let fits = record.body.len() as i64 <= budget;
                            budget -= record.body.len() as i64;
                            *nth == 0 || fits
                        })
                        .map(|(_, record)| record.clone())
                        .collect();
                    match found {
                        Some(found) => prop_assert_eq!(found, expected),
                        None => prop_assert!(at < start || at > confirmed || at < evicted),
                    }
                }
            }
            let visible = || all.iter().filter(|record| record.base >= evicted && record.end > start && record.end <= confirmed);
            for from in [0, at] {
                let expected = visible().find(|record| record.end > from && record.max_timestamp >= 6);
                prop_assert_eq!(tail.find_timestamp(from, 6), expected);
            }
            let best = visible().map(|record| record.max_timestamp).max();
            prop_assert_eq!(tail.max_timestamp(), visible().find(|record| Some(record.max_timestamp) == best));
            prop_assert_eq!((tail.start(), tail.confirmed()), (start, confirmed));
        }
    }
}
