//! What fuzzers call: the decoders of bytes that come from a volume, a bucket or an operator.
//!
//! Of each decoder there is `decode`, which is the part that is watched (its allocations, its panics) and gives back what
//! checks the rest; `seal`, which puts right what no fuzzer guesses (checksums); `seeds`, bytes to begin with.

/// What remains to be checked of accepted bytes: that encoding gives them back, and whatever else must hold.
pub type Check = Box<dyn FnOnce()>;

pub use crate::block::fuzzing::{frame, superblock};

/// The seal of an incarnation's slots.
pub mod seal {
    use bytes::Bytes;
    use crc_fast::{CrcAlgorithm, checksum};

    use super::Check;
    use crate::Incarnation;
    use crate::object::Seal;

    pub fn decode(input: &Bytes) -> Option<Check> {
        let seal = Seal::decode(input)?.ok()?;
        let input = input.clone();
        Some(Box::new(move || assert_eq!(seal.encode(), input)))
    }

    pub fn seal(bytes: &mut [u8]) {
        let Some((body, crc)) = bytes.split_last_chunk_mut::<4>() else { return };
        *crc = (checksum(CrcAlgorithm::Crc32Iscsi, body) as u32).to_le_bytes();
    }

    pub fn seeds() -> Vec<Vec<u8>> {
        let sealed = Incarnation { broker: 7, epoch: 42 };
        vec![Seal { sealed, slot: 9, nonce: 5 }.encode().to_vec()]
    }
}

/// Names of WALs and sizes, as people write them.
pub mod uri {
    use bytes::Bytes;

    use super::Check;
    use crate::Uri;
    use crate::uri::{ByteSize, Target};

    pub fn decode(input: &Bytes) -> Option<Check> {
        let text = std::str::from_utf8(input).ok()?;
        let size = text.parse::<ByteSize>().ok();
        let target = text.parse::<Uri>().and_then(|uri| uri.target()).ok();
        Some(Box::new(move || {
            if let Some(size) = size {
                assert_eq!(size.to_string().parse(), Ok(size));
            }
            if let Some(Target::Block { path, capacity }) = target {
                let again = Uri::block(&path, capacity).and_then(|uri| uri.target());
                assert_eq!(again.expect("a path from a name has a name"), Target::Block { path, capacity });
            }
        }))
    }

    pub fn seal(_: &mut [u8]) {}

    pub fn seeds() -> Vec<Vec<u8>> {
        let texts =
            ["block:///dev/nvme1n1?capacity=256MiB", "object:wal/", "memory:x", "1.5GiB", "268435456"];
        texts.map(|text| text.as_bytes().to_vec()).to_vec()
    }
}

/// Keys of slots.
pub mod slot_key {
    use bytes::Bytes;
    use object_store::path::Path;

    use super::Check;
    use crate::Incarnation;
    use crate::object::{parse_slot_key, slot_key};

    pub fn decode(input: &Bytes) -> Option<Check> {
        let key = Path::parse(std::str::from_utf8(input).ok()?).ok()?;
        let (owner, slot) = parse_slot_key(&key)?;
        Some(Box::new(move || assert_eq!(slot_key(owner, slot), key)))
    }

    pub fn seal(_: &mut [u8]) {}

    pub fn seeds() -> Vec<Vec<u8>> {
        vec![slot_key(Incarnation { broker: 3, epoch: 42 }, 7).as_ref().as_bytes().to_vec()]
    }
}
