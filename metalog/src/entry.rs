//! One entry of the log, as an object.
//!
//! ```text
//!  at  size  field            little endian throughout
//!   0     4  magic            "OTLE"
//!   4     2  version          1
//!   6     2  flags            0; anything else is refused
//!   8     8  number           the entry's place in the log, from 1
//!  16    16  nonce            drawn anew for every create; never all zero
//!  32    16  predecessor      nonce of entry number - 1; all zero for entry 1
//!  48     8  time             issuer's wall clock, ms since 1970-01-01, signed
//!  56     4  issuer broker    0 if there is no issuer
//!  60     8  issuer epoch     0 = no issuer
//!  68     4  commands         how many
//!  72     4  body             bytes of all commands with their lengths
//!  76     …  commands         each: length 4, then that many opaque bytes
//!   …     4  crc              CRC-32C of everything before it
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, checksum};

/// The most bytes an entry's object may have, by the format. What a replica writes is bounded by its
/// [`Config`](crate::Config), what it reads by this.
pub const ENTRY_BYTES_LIMIT: usize = 16 << 20;

const MAGIC: [u8; 4] = *b"OTLE";
const VERSION: u16 = 1;
/// From the magic to the first command.
pub(crate) const HEADER_BYTES: usize = 76;
const CRC_BYTES: usize = 4;
const LENGTH_BYTES: usize = 4;

/// Says which create wrote an object, so that a writer knows its own again (L3) and a reader sees whether two
/// objects are of one history (L4).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; 16]);

impl Nonce {
    /// What stands for "no entry": the predecessor of entry 1.
    pub const NONE: Nonce = Nonce([0; 16]);

    pub(crate) fn fresh() -> Nonce {
        // A version-4 UUID is never all zero.
        Nonce(*uuid::Uuid::new_v4().as_bytes())
    }
}

impl std::fmt::Debug for Nonce {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Who appended an entry: one life of one broker. `epoch` is the number of the entry that registered it, so never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Issuer {
    pub broker: u32,
    pub epoch: u64,
}

/// A batch of commands with its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub number: u64,
    pub nonce: Nonce,
    pub predecessor: Nonce,
    /// The issuer's wall clock in milliseconds since the Unix epoch. Nothing guarantees that it grows.
    pub time_ms: i64,
    pub issuer: Option<Issuer>,
    pub commands: Vec<Bytes>,
}

/// Why bytes are not an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{actual} bytes where the format allows {expected}")]
    Length { actual: usize, expected: String },
    #[error("the magic is {0:02x?}, not \"{expected}\"", expected = String::from_utf8_lossy(.1))]
    Magic([u8; 4], [u8; 4]),
    #[error("version {0} is not known to this build; a newer one wrote it")]
    Version(u16),
    #[error("the checksum is {actual:08x}, not {expected:08x} as stored")]
    Checksum { actual: u32, expected: u32 },
    #[error("{0}")]
    Field(&'static str),
}

/// What a command costs inside an entry.
pub(crate) fn command_bytes(command: &[u8]) -> usize {
    LENGTH_BYTES + command.len()
}

/// What an entry without commands costs.
pub(crate) const ENVELOPE_BYTES: usize = HEADER_BYTES + CRC_BYTES;

impl Entry {
    /// # Panics
    /// If the entry is over [`ENTRY_BYTES_LIMIT`] or its fields contradict each other: proposals are bounded long
    /// before.
    pub fn encode(&self) -> Bytes {
        assert!(self.number > 0, "entries are numbered from 1");
        assert!(self.nonce != Nonce::NONE, "entry {} has no nonce", self.number);
        assert_eq!(self.number == 1, self.predecessor == Nonce::NONE, "only entry 1 has no predecessor");
        assert!(self.issuer.is_none_or(|issuer| issuer.epoch > 0), "epoch 0 stands for no issuer");
        let size = self.bytes();
        let body = size - ENVELOPE_BYTES;
        assert!(size <= ENTRY_BYTES_LIMIT, "an entry of {size} bytes is over the format's limit");

        let mut bytes = BytesMut::with_capacity(size);
        bytes.put_slice(&MAGIC);
        bytes.put_u16_le(VERSION);
        bytes.put_u16_le(0);
        bytes.put_u64_le(self.number);
        bytes.put_slice(&self.nonce.0);
        bytes.put_slice(&self.predecessor.0);
        bytes.put_i64_le(self.time_ms);
        bytes.put_u32_le(self.issuer.map_or(0, |issuer| issuer.broker));
        bytes.put_u64_le(self.issuer.map_or(0, |issuer| issuer.epoch));
        bytes.put_u32_le(self.commands.len() as u32);
        bytes.put_u32_le(body as u32);
        for command in &self.commands {
            bytes.put_u32_le(command.len() as u32);
            bytes.put_slice(command);
        }
        let crc = checksum(CrcAlgorithm::Crc32Iscsi, &bytes) as u32;
        bytes.put_u32_le(crc);
        assert_eq!(bytes.len(), size);
        bytes.freeze()
    }

    /// What it takes in the store.
    pub(crate) fn bytes(&self) -> usize {
        ENVELOPE_BYTES + self.commands.iter().map(|command| command_bytes(command)).sum::<usize>()
    }

    /// Commands are slices of `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Entry, DecodeError> {
        let header = Header::decode(&bytes)?;
        let size = ENVELOPE_BYTES + header.body;
        if bytes.len() != size || size > ENTRY_BYTES_LIMIT {
            return Err(DecodeError::Length { actual: bytes.len(), expected: size.to_string() });
        }
        let (content, mut stored) = bytes.split_at(size - CRC_BYTES);
        let (actual, expected) = (checksum(CrcAlgorithm::Crc32Iscsi, content) as u32, stored.get_u32_le());
        if actual != expected {
            return Err(DecodeError::Checksum { actual, expected });
        }

        // Each command costs at least its length, so the count is bounded by the bytes that are there.
        if header.commands > header.body / LENGTH_BYTES {
            return Err(DecodeError::Field("more commands than the body can hold"));
        }
        let mut body = bytes.slice(HEADER_BYTES..size - CRC_BYTES);
        let mut commands = Vec::with_capacity(header.commands);
        for _ in 0..header.commands {
            if body.len() < LENGTH_BYTES {
                return Err(DecodeError::Field("a command's length lies outside the body"));
            }
            let length = body.get_u32_le() as usize;
            if body.len() < length {
                return Err(DecodeError::Field("a command reaches beyond the body"));
            }
            commands.push(body.split_to(length));
        }
        if !body.is_empty() {
            return Err(DecodeError::Field("bytes behind the last command"));
        }
        let Header { number, nonce, predecessor, time_ms, issuer, .. } = header;
        Ok(Entry { number, nonce, predecessor, time_ms, issuer, commands })
    }
}

/// What precedes the commands. Enough to know whose entry it is; not covered by a checksum of its own.
pub(crate) struct Header {
    pub number: u64,
    pub nonce: Nonce,
    predecessor: Nonce,
    time_ms: i64,
    issuer: Option<Issuer>,
    commands: usize,
    body: usize,
}

impl Header {
    pub fn decode(bytes: &[u8]) -> Result<Header, DecodeError> {
        let Some(mut header) = bytes.get(..HEADER_BYTES) else {
            return Err(DecodeError::Length {
                actual: bytes.len(),
                expected: format!("at least {HEADER_BYTES}"),
            });
        };
        let header = &mut header;
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
        let predecessor = Nonce(array(header));
        let time_ms = header.get_i64_le();
        let broker = header.get_u32_le();
        let epoch = header.get_u64_le();
        let commands = header.get_u32_le() as usize;
        let body = header.get_u32_le() as usize;
        if number == 0 || nonce == Nonce::NONE || (number == 1) != (predecessor == Nonce::NONE) {
            return Err(DecodeError::Field("number, nonce and predecessor contradict each other"));
        }
        if epoch == 0 && broker != 0 {
            return Err(DecodeError::Field("an issuer without an epoch"));
        }
        let issuer = (epoch > 0).then_some(Issuer { broker, epoch });
        Ok(Header { number, nonce, predecessor, time_ms, issuer, commands, body })
    }
}

/// The next `N` bytes. Callers have checked that they are there.
pub(crate) fn array<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let mut array = [0; N];
    bytes.copy_to_slice(&mut array);
    array
}
