//! The state behind an entry, as an object.
//!
//! ```text
//!  at  size  field            little endian throughout
//!   0     4  magic            "OTLS"
//!   4     2  version          1
//!   6     2  flags            0; anything else is refused
//!   8     8  number           the last entry that the state contains
//!  16    16  nonce            that entry's; never all zero
//!  32     8  log start        entries below it were deleted already, as far as the writer knew; from 1
//!  40     8  state            its bytes
//!  48     …  state            the machine's own format
//!   …     4  crc              CRC-32C of everything before it
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest, checksum};

use crate::entry::{DecodeError, Nonce, array};

const MAGIC: [u8; 4] = *b"OTLS";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 48;
const CRC_BYTES: usize = 4;

/// What a snapshot costs beside its state.
pub(crate) const ENVELOPE_BYTES: usize = HEADER_BYTES + CRC_BYTES;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub number: u64,
    pub nonce: Nonce,
    pub log_start: u64,
    pub state: Bytes,
}

impl Snapshot {
    /// The object's bytes in three parts, so that the state is not copied.
    pub fn encode(&self) -> [Bytes; 3] {
        assert!(self.number > 0 && self.nonce != Nonce::NONE, "a snapshot stands behind an entry");
        assert!(
            (1..=self.number).contains(&self.log_start),
            "a snapshot's own entry is never deleted before it"
        );
        let mut header = BytesMut::with_capacity(HEADER_BYTES);
        header.put_slice(&MAGIC);
        header.put_u16_le(VERSION);
        header.put_u16_le(0);
        header.put_u64_le(self.number);
        header.put_slice(&self.nonce.0);
        header.put_u64_le(self.log_start);
        header.put_u64_le(self.state.len() as u64);
        assert_eq!(header.len(), HEADER_BYTES);
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&header);
        digest.update(&self.state);
        let crc = Bytes::copy_from_slice(&(digest.finalize() as u32).to_le_bytes());
        [header.freeze(), self.state.clone(), crc]
    }

    /// The state is a slice of `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Snapshot, DecodeError> {
        if bytes.len() < ENVELOPE_BYTES {
            return Err(DecodeError::Length {
                actual: bytes.len(),
                expected: format!("at least {ENVELOPE_BYTES}"),
            });
        }
        let header = &mut &bytes[..HEADER_BYTES];
        let magic = array(header);
        if magic != MAGIC {
            return Err(DecodeError::Magic(magic, MAGIC));
        }
        let version = header.get_u16_le();
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        if header.get_u16_le() != 0 {
            return Err(DecodeError::Field("flags that this version does not have"));
        }
        let number = header.get_u64_le();
        let nonce = Nonce(array(header));
        let log_start = header.get_u64_le();
        let state = header.get_u64_le();
        if state != (bytes.len() - ENVELOPE_BYTES) as u64 {
            return Err(DecodeError::Length {
                actual: bytes.len(),
                expected: format!("{ENVELOPE_BYTES} and a state of {state}"),
            });
        }
        let (content, mut stored) = bytes.split_at(bytes.len() - CRC_BYTES);
        let (actual, expected) = (checksum(CrcAlgorithm::Crc32Iscsi, content) as u32, stored.get_u32_le());
        if actual != expected {
            return Err(DecodeError::Checksum { actual, expected });
        }
        if number == 0 || nonce == Nonce::NONE || !(1..=number).contains(&log_start) {
            return Err(DecodeError::Field("number, nonce and log start contradict each other"));
        }
        let state = bytes.slice(HEADER_BYTES..bytes.len() - CRC_BYTES);
        Ok(Snapshot { number, nonce, log_start, state })
    }
}
