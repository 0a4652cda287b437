//! What fuzzers call: the decoders of the log's objects. `wal::fuzzing` says what each has.

/// What remains to be checked of accepted bytes.
pub type Check = Box<dyn FnOnce()>;

fn seal_tail(bytes: &mut [u8]) {
    let Some((content, crc)) = bytes.split_last_chunk_mut::<4>() else { return };
    *crc = (crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, content) as u32).to_le_bytes();
}

/// An entry of the log.
pub mod entry {
    use bytes::Bytes;

    use super::Check;
    use crate::Issuer;
    use crate::entry::{Entry, Nonce};

    pub fn decode(input: &Bytes) -> Option<Check> {
        let entry = Entry::decode(input.clone()).ok()?;
        let input = input.clone();
        Some(Box::new(move || assert_eq!(entry.encode(), input)))
    }

    pub fn seal(bytes: &mut [u8]) {
        super::seal_tail(bytes);
    }

    pub fn seeds() -> Vec<Vec<u8>> {
        let entry = |commands: &[&'static [u8]]| Entry {
            number: 2,
            nonce: Nonce([1; 16]),
            predecessor: Nonce([2; 16]),
            time_ms: 1_700_000_000_000,
            issuer: Some(Issuer { broker: 1, epoch: 1 }),
            commands: commands.iter().map(|command| Bytes::from_static(command)).collect(),
        };
        let lists: [&[&[u8]]; 3] = [&[], &[b"command"], &[b"", b"one", b"two"]];
        lists.map(|commands| entry(commands).encode().to_vec()).to_vec()
    }
}

/// A snapshot.
pub mod snapshot {
    use bytes::Bytes;

    use super::Check;
    use crate::entry::Nonce;
    use crate::snapshot::Snapshot;

    pub fn decode(input: &Bytes) -> Option<Check> {
        let snapshot = Snapshot::decode(input.clone()).ok()?;
        let input = input.clone();
        Some(Box::new(move || assert_eq!(snapshot.encode().concat(), input)))
    }

    pub fn seal(bytes: &mut [u8]) {
        super::seal_tail(bytes);
    }

    pub fn seeds() -> Vec<Vec<u8>> {
        let state = Bytes::from_static(b"state");
        vec![Snapshot { number: 9, nonce: Nonce([1; 16]), log_start: 3, state }.encode().concat()]
    }
}
