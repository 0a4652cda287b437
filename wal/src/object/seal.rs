//! The seal: the tiny object that ends an incarnation's run of slots.
//!
//! | bytes | field |
//! |---|---|
//! | 8 | magic `OTLASEAL` |
//! | 2 | version, 1 |
//! | 2 | zero |
//! | 4 | broker of the sealed incarnation |
//! | 8 | its epoch |
//! | 8 | the slot that this seal occupies |
//! | 16 | nonce, random per attempt to seal |
//! | 4 | CRC-32C of all of the above |
//!
//! Integers are little endian. `docs/formats/wal-object.md` is the page for readers.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};

use crate::Incarnation;

pub(super) const MAGIC: &[u8; 8] = b"OTLASEAL";
const VERSION: u16 = 1;
const BYTES: usize = 52;

/// What a seal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    pub sealed: Incarnation,
    pub slot: u64,
    pub nonce: u128,
}

impl Seal {
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&self.sealed.broker.to_le_bytes());
        bytes.extend_from_slice(&self.sealed.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.slot.to_le_bytes());
        bytes.extend_from_slice(&self.nonce.to_le_bytes());
        let crc = checksum(CrcAlgorithm::Crc32Iscsi, &bytes) as u32;
        bytes.extend_from_slice(&crc.to_le_bytes());
        assert_eq!(bytes.len(), BYTES, "the layout is what the table says");
        Bytes::from(bytes)
    }

    /// `None` if the bytes do not claim to be a seal; an error if they do and are not one of this version, whole.
    pub fn decode(bytes: &[u8]) -> Option<Result<Seal, String>> {
        bytes.starts_with(MAGIC).then(|| Seal::decode_claimed(bytes))
    }

    fn decode_claimed(bytes: &[u8]) -> Result<Seal, String> {
        let bytes: &[u8; BYTES] =
            bytes.try_into().map_err(|_| format!("a seal of {} bytes instead of {BYTES}", bytes.len()))?;
        let (body, crc) = bytes.split_at(BYTES - 4);
        if crc != (checksum(CrcAlgorithm::Crc32Iscsi, body) as u32).to_le_bytes() {
            return Err("the seal's CRC does not match".to_owned());
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION || bytes[10..12] != [0; 2] {
            return Err(format!("a seal of version {version}, which this program does not know"));
        }
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Ok(Seal {
            sealed: Incarnation {
                broker: u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes")),
                epoch: word(16),
            },
            slot: word(24),
            nonce: u128::from_le_bytes(bytes[32..48].try_into().expect("sixteen bytes")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEAL: Seal = Seal {
        sealed: Incarnation { broker: 7, epoch: 42 },
        slot: 9,
        nonce: 0x0123_4567_89ab_cdef_0011_2233_4455_6677,
    };

    #[test]
    fn the_bytes_are_those_of_the_golden_file() {
        let hex: String = SEAL.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("golden/seal.hex").trim());
    }

    #[test]
    fn a_seal_reads_back_and_nothing_else_does() {
        let bytes = SEAL.encode();
        assert_eq!(Seal::decode(&bytes), Some(Ok(SEAL)));
        assert_eq!(Seal::decode(b"data"), None);
        for length in 0..bytes.len() {
            assert!(!matches!(Seal::decode(&bytes[..length]), Some(Ok(_))), "truncated to {length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(Seal::decode(&flipped), Some(Ok(_))), "bit {bit} flipped");
        }
    }
}
