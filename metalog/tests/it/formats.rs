//! Entries and snapshots as bytes.

use bytes::Bytes;
use metalog::Issuer;
use metalog::entry::{DecodeError, ENTRY_BYTES_LIMIT, Entry, Nonce};
use metalog::snapshot::Snapshot;
use proptest::collection::vec;
use proptest::prelude::*;

/// Hexadecimal digits with any white space; `#` begins a comment.
fn hex(text: &str) -> Bytes {
    let digits: Vec<u8> = text
        .lines()
        .flat_map(|line| line.split('#').next().expect("a first part").chars())
        .filter(|character| !character.is_whitespace())
        .map(|digit| digit.to_digit(16).expect("a hexadecimal digit") as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn counting_nonce(first: u8) -> Nonce {
    Nonce(std::array::from_fn(|at| first + at as u8))
}

fn golden_entry() -> Entry {
    Entry {
        number: 0x0102_0304_0506_0708,
        nonce: counting_nonce(0xa0),
        predecessor: counting_nonce(0x10),
        time_ms: 1_767_225_600_000,
        issuer: Some(Issuer { broker: 7, epoch: 41 }),
        commands: vec![Bytes::from_static(b"first"), Bytes::new(), Bytes::from_static(b"third")],
    }
}

fn golden_snapshot() -> Snapshot {
    Snapshot {
        number: 0x0102_0304_0506_0708,
        nonce: counting_nonce(0xa0),
        log_start: 0x0102_0304_0506_0001,
        state: Bytes::from_static(b"the state"),
    }
}

fn snapshot_bytes(snapshot: &Snapshot) -> Bytes {
    snapshot.encode().concat().into()
}

/// Another checksum, so that what it protects can be wrong on purpose.
fn resealed(content: &[u8]) -> Bytes {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, content) as u32;
    [content, &crc.to_le_bytes()].concat().into()
}

#[test]
fn the_golden_entry_is_written_and_read() {
    let golden = hex(include_str!("../golden/entry-v1.hex"));
    assert_eq!(golden_entry().encode(), golden);
    assert_eq!(Entry::decode(golden).unwrap(), golden_entry());
}

#[test]
fn the_golden_first_entry_is_written_and_read() {
    let golden = hex(include_str!("../golden/entry-v1-first.hex"));
    let first = Entry {
        number: 1,
        nonce: counting_nonce(0x01),
        predecessor: Nonce::NONE,
        time_ms: -1,
        issuer: None,
        commands: vec![],
    };
    assert_eq!(first.encode(), golden);
    assert_eq!(Entry::decode(golden).unwrap(), first);
}

#[test]
fn the_golden_snapshot_is_written_and_read() {
    let golden = hex(include_str!("../golden/snapshot-v1.hex"));
    assert_eq!(snapshot_bytes(&golden_snapshot()), golden);
    assert_eq!(Snapshot::decode(golden).unwrap(), golden_snapshot());
}

#[test]
fn commands_and_states_are_slices_of_what_was_read() {
    let bytes = golden_entry().encode();
    let command = Entry::decode(bytes.clone()).unwrap().commands.remove(0);
    assert!(bytes.as_ptr_range().contains(&command.as_ptr()));
    let bytes = snapshot_bytes(&golden_snapshot());
    let state = Snapshot::decode(bytes.clone()).unwrap().state;
    assert!(bytes.as_ptr_range().contains(&state.as_ptr()));
}

#[test]
fn no_truncation_is_read() {
    let entry = golden_entry().encode();
    for length in 0..entry.len() {
        Entry::decode(entry.slice(..length)).expect_err("a cut entry");
    }
    let snapshot = snapshot_bytes(&golden_snapshot());
    for length in 0..snapshot.len() {
        Snapshot::decode(snapshot.slice(..length)).expect_err("a cut snapshot");
    }
}

#[test]
fn nothing_behind_the_end_is_read() {
    let longer = |bytes: Bytes| Bytes::from([&bytes[..], &[0]].concat());
    Entry::decode(longer(golden_entry().encode())).expect_err("a longer entry");
    Snapshot::decode(longer(snapshot_bytes(&golden_snapshot()))).expect_err("a longer snapshot");
}

#[test]
fn no_flipped_bit_is_read() {
    let entry = golden_entry().encode();
    let snapshot = snapshot_bytes(&golden_snapshot());
    for bit in 0..entry.len() * 8 {
        let mut flipped = entry.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        Entry::decode(flipped.into()).expect_err("a flipped bit");
    }
    for bit in 0..snapshot.len() * 8 {
        let mut flipped = snapshot.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        Snapshot::decode(flipped.into()).expect_err("a flipped bit");
    }
}

#[test]
fn other_versions_and_other_magics_are_named() {
    let with = |at: usize, value: u8| {
        let mut bytes = golden_entry().encode().to_vec();
        bytes[at] = value;
        resealed(&bytes[..bytes.len() - 4])
    };
    assert_eq!(Entry::decode(with(4, 2)), Err(DecodeError::Version(2)));
    assert_eq!(Entry::decode(with(3, b'X')), Err(DecodeError::Magic(*b"OTLX", *b"OTLE")));
    let text = Entry::decode(with(3, b'S')).unwrap_err().to_string();
    assert!(text.contains("OTLE"), "{text}");
    Snapshot::decode(golden_entry().encode()).expect_err("an entry is no snapshot");
}

/// A correct checksum vouches for the bytes, not for what they say.
#[test]
fn contradictions_are_refused_though_the_checksum_is_right() {
    let entry = golden_entry().encode();
    let changed = |at: usize, bytes: &[u8]| {
        let mut content = entry[..entry.len() - 4].to_vec();
        content[at..at + bytes.len()].copy_from_slice(bytes);
        Entry::decode(resealed(&content)).expect_err("a contradiction")
    };
    changed(6, &[1]); // flags
    changed(8, &[0; 8]); // number 0
    changed(8, &1u64.to_le_bytes()); // entry 1 with a predecessor
    changed(16, &[0; 16]); // no nonce
    changed(32, &[0; 16]); // no predecessor
    changed(60, &[0; 8]); // an issuer without an epoch
    changed(68, &2u32.to_le_bytes()); // fewer commands than there are
    changed(68, &4u32.to_le_bytes()); // more
    changed(68, &u32::MAX.to_le_bytes()); // far more
    changed(72, &u32::MAX.to_le_bytes()); // a body of 4 GiB
    changed(76, &u32::MAX.to_le_bytes()); // a command of 4 GiB
    changed(76, &6u32.to_le_bytes()); // a command that takes from the next

    let snapshot = snapshot_bytes(&golden_snapshot());
    let changed = |at: usize, bytes: &[u8]| {
        let mut content = snapshot[..snapshot.len() - 4].to_vec();
        content[at..at + bytes.len()].copy_from_slice(bytes);
        Snapshot::decode(resealed(&content)).expect_err("a contradiction")
    };
    changed(6, &[1]); // flags
    changed(8, &[0; 8]); // number 0
    changed(16, &[0; 16]); // no nonce
    changed(32, &[0; 8]); // a log that starts at 0
    changed(32, &u64::MAX.to_le_bytes()); // a log that starts behind the snapshot
    changed(40, &u64::MAX.to_le_bytes()); // a state of 16 EiB
}

#[test]
#[should_panic(expected = "over the format's limit")]
fn an_entry_over_the_limit_is_never_written() {
    let command = Bytes::from(vec![0; ENTRY_BYTES_LIMIT]);
    Entry { commands: vec![command], ..golden_entry() }.encode();
}

fn any_nonce() -> impl Strategy<Value = Nonce> {
    any::<[u8; 16]>().prop_filter("a nonce is never all zero", |bytes| *bytes != [0; 16]).prop_map(Nonce)
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let issuer = proptest::option::of((any::<u32>(), 1..=u64::MAX));
    let commands = vec(vec(any::<u8>(), 0..50), 0..10);
    (1..=u64::MAX, any_nonce(), any_nonce(), any::<i64>(), issuer, commands).prop_map(
        |(number, nonce, predecessor, time_ms, issuer, commands)| Entry {
            number,
            nonce,
            predecessor: if number == 1 { Nonce::NONE } else { predecessor },
            time_ms,
            issuer: issuer.map(|(broker, epoch)| Issuer { broker, epoch }),
            commands: commands.into_iter().map(Bytes::from).collect(),
        },
    )
}

proptest! {
    #[test]
    fn every_entry_is_read_as_it_was_written(entry in any_entry()) {
        prop_assert_eq!(Entry::decode(entry.encode()).unwrap(), entry);
    }

    #[test]
    fn every_snapshot_is_read_as_it_was_written(
        number in 1..=u64::MAX,
        nonce in any_nonce(),
        start in any::<u64>(),
        state in vec(any::<u8>(), 0..200),
    ) {
        let snapshot = Snapshot { number, nonce, log_start: start % number + 1, state: state.into() };
        prop_assert_eq!(Snapshot::decode(snapshot_bytes(&snapshot)).unwrap(), snapshot);
    }

    /// Arbitrary bytes behind a right magic and a right checksum: read or refused, never a panic.
    #[test]
    fn arbitrary_bytes_never_panic(mut content in vec(any::<u8>(), 0..300)) {
        let _ = Entry::decode(resealed(&content));
        let _ = Snapshot::decode(resealed(&content));
        for magic in [b"OTLE\x01\0\0\0", b"OTLS\x01\0\0\0"] {
            let length = content.len().min(8);
            content[..length].copy_from_slice(&magic[..length]);
            let _ = Entry::decode(resealed(&content));
            let _ = Snapshot::decode(resealed(&content));
        }
    }
}
