//! The superblock: whose volume this is, and where its log begins.
//!
//! Two slots are written in turn, each with a sequence number and a CRC, so that a torn write leaves the other one. A new
//! owner writes both before its first frame: from then on no single damaged slot can bring an earlier owner back.
//!
//! All integers are little endian, all CRCs CRC-32C (Castagnoli).
//!
//! ```text
//!   offset size  field
//!        0    8  magic "OTTLAWAL"
//!        8    4  version, 1
//!       12    4  block bytes: frames start and end at multiples of this
//!       16   16  cluster id
//!       32   16  volume id, random, made when the volume was formatted
//!       48    8  ring bytes, a multiple of the block
//!       56    8  sequence number; the larger one of two valid slots counts
//!       64    4  owner's broker id
//!       68    4  1 if there is an owner, 0 if there never was one
//!       72    8  owner's epoch
//!       80    8  trim point: everything below this position is given up
//!       88    8  durable: every frame below this position was durable when this was written
//!       96    8  reach: how far beyond the first frame that is not durable the owner may have written
//!      104    4  1 if the owner has closed its log and writes no more, 0 otherwise
//!      108    4  CRC of bytes 0 to 107
//!      112       zeroes up to 4096
//!
//!   volume:  slot 0 at 0 │ slot 1 at 65536 │ ring from 131072, ring bytes long
//! ```

use uuid::Uuid;

use super::frame::{crc, put, u32_at, u64_at};
use super::{BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, LastOwner};
use crate::Incarnation;

/// Bytes of a slot that carry something; also what is written.
pub(super) const SLOT_BYTES: usize = 4096;
const MAGIC: [u8; 8] = *b"OTTLAWAL";
const VERSION: u32 = 1;

/// Where the slots lie. A slot's place is the same for every block size.
pub(super) const SLOT_OFFSETS: [u64; 2] = [0, BLOCK_BYTES_MAX as u64];
/// Where the ring begins.
pub(super) const RING_OFFSET: u64 = 2 * BLOCK_BYTES_MAX as u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub block_bytes: u32,
    pub cluster: Uuid,
    pub volume: Uuid,
    pub ring_bytes: u64,
    pub sequence: u64,
    pub owner: Option<Incarnation>,
    /// The owner's last write: nothing of it is on its way to the volume any more.
    pub released: bool,
    pub trim: u64,
    pub durable: u64,
    pub reach: u64,
}

/// What one slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Nothing but zeroes.
    Blank,
    Valid(Superblock),
    /// Ours by its magic, of another version.
    Version(u32),
    /// Ours by its magic, but damaged: a torn write, or worse.
    Damaged,
    /// Something else.
    Foreign,
}

impl Superblock {
    pub(super) fn last_owner(&self) -> Option<LastOwner> {
        self.owner.map(|incarnation| LastOwner { incarnation, released: self.released })
    }

    pub(super) fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 12, &self.block_bytes.to_le_bytes());
        put(&mut bytes, 16, self.cluster.as_bytes());
        put(&mut bytes, 32, self.volume.as_bytes());
        put(&mut bytes, 48, &self.ring_bytes.to_le_bytes());
        put(&mut bytes, 56, &self.sequence.to_le_bytes());
        if let Some(owner) = self.owner {
            put(&mut bytes, 64, &owner.broker.to_le_bytes());
            put(&mut bytes, 68, &1u32.to_le_bytes());
            put(&mut bytes, 72, &owner.epoch.to_le_bytes());
        }
        put(&mut bytes, 80, &self.trim.to_le_bytes());
        put(&mut bytes, 88, &self.durable.to_le_bytes());
        put(&mut bytes, 96, &self.reach.to_le_bytes());
        put(&mut bytes, 104, &u32::from(self.released).to_le_bytes());
        let sum = crc(&bytes[..108]);
        put(&mut bytes, 108, &sum.to_le_bytes());
        bytes
    }
}

impl Slot {
    /// The slot at the front of `bytes`.
    pub(super) fn decode(bytes: &[u8]) -> Slot {
        if bytes.iter().all(|byte| *byte == 0) {
            return Slot::Blank;
        }
        let Some(bytes) = bytes.first_chunk::<112>().filter(|bytes| bytes[..8] == MAGIC) else {
            return Slot::Foreign;
        };
        if crc(&bytes[..108]) != u32_at(bytes, 108) {
            return Slot::Damaged;
        }
        match u32_at(bytes, 8) {
            VERSION => Slot::decode_v1(bytes),
            version => Slot::Version(version),
        }
    }

    fn decode_v1(bytes: &[u8; 112]) -> Slot {
        let uuid = |at: usize| Uuid::from_bytes(*bytes[at..].first_chunk().expect("within the fixed layout"));
        let owner = match u32_at(bytes, 68) {
            0 => None,
            1 => Some(Incarnation { broker: u32_at(bytes, 64), epoch: u64_at(bytes, 72) }),
            _ => return Slot::Damaged,
        };
        let released = match u32_at(bytes, 104) {
            0 => false,
            1 => true,
            _ => return Slot::Damaged,
        };
        let superblock = Superblock {
            block_bytes: u32_at(bytes, 12),
            cluster: uuid(16),
            volume: uuid(32),
            ring_bytes: u64_at(bytes, 48),
            sequence: u64_at(bytes, 56),
            owner,
            released,
            trim: u64_at(bytes, 80),
            durable: u64_at(bytes, 88),
            reach: u64_at(bytes, 96),
        };
        let block = u64::from(superblock.block_bytes);
        let sane = superblock.block_bytes.is_power_of_two()
            && (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&(superblock.block_bytes as usize))
            && superblock.ring_bytes >= block
            && superblock.ring_bytes.is_multiple_of(block)
            && superblock.ring_bytes < u64::MAX / 4
            && superblock.trim <= superblock.durable
            && superblock.trim.is_multiple_of(block)
            && superblock.durable < u64::MAX / 4
            && superblock.reach <= superblock.ring_bytes;
        if sane { Slot::Valid(superblock) } else { Slot::Damaged }
    }
}

/// What two slots say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pair {
    Blank,
    Valid(Superblock),
    Version(u32),
    Damaged,
    Foreign,
}

impl Pair {
    /// The newer valid slot. One that is torn is made up for by the other; a foreign one by nothing.
    pub(super) fn of(first: Slot, second: Slot) -> Pair {
        match (first, second) {
            (Slot::Foreign, _) | (_, Slot::Foreign) => Pair::Foreign,
            (Slot::Version(version), _) | (_, Slot::Version(version)) => Pair::Version(version),
            (Slot::Valid(a), Slot::Valid(b)) => Pair::Valid(if a.sequence > b.sequence { a } else { b }),
            (Slot::Valid(one), _) | (_, Slot::Valid(one)) => Pair::Valid(one),
            (Slot::Blank, Slot::Blank) => Pair::Blank,
            (Slot::Damaged, _) | (_, Slot::Damaged) => Pair::Damaged,
        }
    }
}

/// The slot that the superblock with this sequence number goes to: never the one that holds its predecessor.
pub(super) fn slot_offset(sequence: u64) -> u64 {
    SLOT_OFFSETS[(sequence % 2) as usize]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn superblock() -> Superblock {
        Superblock {
            block_bytes: 4096,
            cluster: Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            volume: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
            ring_bytes: 0x1000_0000,
            sequence: 9,
            owner: Some(Incarnation { broker: 7, epoch: 42 }),
            released: false,
            trim: 0x3000,
            durable: 0x8000,
            reach: 0x20_0000,
        }
    }

    /// `docs/formats/wal-block.md` prints the same bytes.
    #[test]
    fn golden() {
        let bytes = superblock().encode();
        let hex: String = bytes[..108].iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = concat!(
            "4f54544c4157414c0100000000100000",
            "0123456789abcdef0123456789abcdef",
            "00112233445566778899aabbccddeeff",
            "00000010000000000900000000000000",
            "07000000010000002a00000000000000",
            "00300000000000000080000000000000",
            "000020000000000000000000",
        );
        assert_eq!(hex, golden);
        assert_eq!(u32_at(&bytes, 108), crc(&bytes[..108]));
        assert!(bytes[112..].iter().all(|byte| *byte == 0));
        assert_eq!(Slot::decode(&bytes), Slot::Valid(superblock()));
    }

    #[test]
    fn the_newer_slot_counts_and_a_torn_one_does_not() {
        let old = superblock();
        let new = Superblock { sequence: 10, owner: Some(Incarnation { broker: 7, epoch: 43 }), ..old };
        assert_eq!(Pair::of(Slot::Valid(new), Slot::Valid(old)), Pair::Valid(new));
        assert_eq!(Pair::of(Slot::Valid(old), Slot::Valid(new)), Pair::Valid(new));
        assert_eq!(Pair::of(Slot::Damaged, Slot::Valid(old)), Pair::Valid(old));
        assert_eq!(Pair::of(Slot::Valid(old), Slot::Blank), Pair::Valid(old));
        assert_eq!(Pair::of(Slot::Blank, Slot::Blank), Pair::Blank);
        assert_eq!(Pair::of(Slot::Damaged, Slot::Damaged), Pair::Damaged);
        assert_eq!(Pair::of(Slot::Damaged, Slot::Blank), Pair::Damaged);
        assert_eq!(Pair::of(Slot::Valid(old), Slot::Foreign), Pair::Foreign);
        assert_eq!(Pair::of(Slot::Version(2), Slot::Valid(old)), Pair::Version(2));
        assert_ne!(slot_offset(old.sequence), slot_offset(new.sequence));
    }

    #[test]
    fn other_versions_and_other_content_are_told_apart() {
        let mut bytes = superblock().encode();
        put(&mut bytes, 8, &2u32.to_le_bytes());
        let sum = crc(&bytes[..108]);
        put(&mut bytes, 108, &sum.to_le_bytes());
        assert_eq!(Slot::decode(&bytes), Slot::Version(2));
        assert_eq!(Slot::decode(&[1; SLOT_BYTES]), Slot::Foreign);
        assert_eq!(Slot::decode(&[0; SLOT_BYTES]), Slot::Blank);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = superblock().encode();
        for bit in 0..112 * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(Slot::decode(&flipped), Slot::Valid(_)), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(
            sequence in any::<u64>(),
            owner in any::<Option<(u32, u64)>>(),
            released in any::<bool>(),
            trim in 0u64..1 << 40,
        ) {
            let owner = owner.map(|(broker, epoch)| Incarnation { broker, epoch });
            let trim = trim / 4096 * 4096;
            let superblock = Superblock { sequence, owner, released, trim, durable: trim + 4096, ..superblock() };
            prop_assert_eq!(Slot::decode(&superblock.encode()), Slot::Valid(superblock));
        }

        #[test]
        fn every_truncation_is_noticed(length in 0usize..112) {
            prop_assert!(!matches!(Slot::decode(&superblock().encode()[..length]), Slot::Valid(_)));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Slot::decode(&bytes);
        }
    }
}
