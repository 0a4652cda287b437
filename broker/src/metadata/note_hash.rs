//! What a leader that hands a partition over puts into the log of what it is about to tell the next one
//! ([`arrival`](crate::partition::arrival)): the next one believes what hashes to this, whoever says it, and nothing else.

use aws_lc_rs::digest::{SHA256, digest};

/// The first half of a SHA-256: finding anything else that has it takes 2^128 tries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NoteHash(pub [u8; NOTE_HASH_BYTES]);

pub const NOTE_HASH_BYTES: usize = 16;

impl NoteHash {
    pub fn of(note: &[u8]) -> NoteHash {
        let whole = digest(&SHA256, note);
        NoteHash(whole.as_ref()[..NOTE_HASH_BYTES].try_into().expect("it is longer"))
    }
}

impl std::fmt::Debug for NoteHash {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:032x}", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_half_of_a_sha_256() {
        assert_eq!(format!("{:?}", NoteHash::of(b"abc")), "ba7816bf8f01cfea414140de5dae2223");
    }
}
