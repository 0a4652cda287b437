//! The records of `__consumer_offsets`: Kafka's own formats, so that Kafka's tools can read the topic and it can be
//! copied from or to Kafka.
//!
//! Integers are big endian. `string` is a 16-bit length and UTF-8, `nullable` has length -1 for null, `bytes` is a
//! 32-bit length and the bytes. Key and value each begin with a 16-bit version; the key's also says what it is.
//!
//! | key version | key fields | value |
//! |---|---|---|
//! | 0, 1 | group string, topic string, partition 32 | a committed offset |
//! | 2 | group string | a group's membership |
//! | others | | of newer kinds of groups; skipped |
//!
//! | committed offset | versions | |
//! |---|---|---|
//! | offset | 0–4 | 64 |
//! | leader epoch | 3–4 | 32, -1 unknown |
//! | metadata | 0–4 | string |
//! | commit timestamp | 0–4 | 64, milliseconds since the epoch |
//! | expire timestamp | 1 | 64, -1 none |
//! | topic id | 4 | tagged field 0: 16 bytes |
//! | expire timestamp | 4 | tagged field 20308, Ottla's own: 64; none if absent |
//!
//! | membership | versions | |
//! |---|---|---|
//! | protocol type | 0–4 | string |
//! | generation | 0–4 | 32 |
//! | protocol, leader | 0–4 | nullable, nullable |
//! | state timestamp | 2–4 | 64, -1 unknown |
//! | members | 0–4 | 32-bit count, then each: |
//! | – member id | 0–4 | string |
//! | – instance id | 3–4 | nullable |
//! | – client id, client host | 0–4 | string, string |
//! | – rebalance timeout | 1–4 | 32, milliseconds |
//! | – session timeout | 0–4 | 32, milliseconds |
//! | – subscription, assignment | 0–4 | bytes, bytes |
//!
//! Version 4 of both values is "flexible": lengths and counts are unsigned varints of one more than the number (0 is
//! null), and each structure ends with its tagged fields. A null value is a tombstone.
//!
//! Written are: keys 1 and 2; offsets as version 4 with the topic's id, so that the offsets of a deleted topic are not
//! taken for those of a new one of the same name; membership as version 3. Kafka writes an offset whose commit asked for a
//! retention time of its own as version 1, which has neither topic id nor leader epoch; here it has them, and Kafka, which
//! passes over tagged fields that it does not know, reads the rest. (Source: `OffsetCommitKey/Value.json` and `GroupMetadataKey/Value.json` in Kafka's
//! group-coordinator module; KIP-915 for the flexible versions; Kafka 4.x writes the same versions.)

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

const KEY_OFFSET: i16 = 1;
const KEY_GROUP: i16 = 2;
const OFFSET_WITH_EXPIRY: i16 = 1;
const OFFSET_NEWEST: i16 = 4;
const GROUP_WRITTEN: i16 = 3;
const GROUP_NEWEST: i16 = 4;
const TAG_TOPIC_ID: u32 = 0;
/// Far from the numbers that Kafka gives out.
const TAG_EXPIRES_AT: u32 = 20_308;

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    Offset { group: Arc<str>, topic: Arc<str>, partition: i32 },
    Group { group: Arc<str> },
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    pub offset: i64,
    /// -1 if the client did not say.
    pub leader_epoch: i32,
    pub metadata: Arc<str>,
    /// Milliseconds since the Unix epoch.
    pub committed_at_ms: i64,
    /// Only if the commit asked for a retention of its own (OffsetCommit v2–v4).
    pub expires_at_ms: Option<i64>,
    pub topic_id: Option<Uuid>,
}

/// A group's membership, as of the last completed rebalance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetadata {
    /// Empty for a group that only holds offsets.
    pub protocol_type: Arc<str>,
    pub generation: i32,
    pub protocol: Option<Arc<str>>,
    pub leader: Option<Arc<str>>,
    /// When the group came into its state, in milliseconds since the Unix epoch; -1 if unknown.
    pub state_since_ms: i64,
    pub members: Vec<MemberMetadata>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberMetadata {
    pub member_id: Arc<str>,
    pub instance_id: Option<Arc<str>>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    /// -1 in values of version 0.
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub subscription: Bytes,
    pub assignment: Bytes,
}

/// A record's bytes are not what their version says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}")]
pub struct Malformed {
    pub what: &'static str,
}

/// A string or an array is longer than the format can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is too long for a record ({length})")]
pub struct TooLong {
    pub what: &'static str,
    pub length: usize,
}

impl Key {
    pub fn encode(&self) -> Result<Bytes, TooLong> {
        let mut out = BytesMut::with_capacity(64);
        match self {
            Key::Offset { group, topic, partition } => {
                out.put_i16(KEY_OFFSET);
                put_string(&mut out, group, "group id")?;
                put_string(&mut out, topic, "topic name")?;
                out.put_i32(*partition);
            }
            Key::Group { group } => {
                out.put_i16(KEY_GROUP);
                put_string(&mut out, group, "group id")?;
            }
        }
        Ok(out.freeze())
    }

    /// `None` for a key of a version that is not known here.
    pub fn decode(bytes: &[u8]) -> Result<Option<Key>, Malformed> {
        let mut input = Reader { bytes, what: "key", flexible: false };
        let key = match input.i16()? {
            0 | KEY_OFFSET => {
                Key::Offset { group: input.string()?, topic: input.string()?, partition: input.i32()? }
            }
            KEY_GROUP => Key::Group { group: input.string()? },
            _ => return Ok(None),
        };
        input.end()?;
        Ok(Some(key))
    }
}

impl CommittedOffset {
    pub fn encode(&self) -> Result<Bytes, TooLong> {
        let mut out = BytesMut::with_capacity(64 + self.metadata.len());
        out.put_i16(OFFSET_NEWEST);
        out.put_i64(self.offset);
        out.put_i32(self.leader_epoch);
        let length = self.metadata.len();
        let counted = u32::try_from(length + 1).map_err(|_| TooLong { what: "offset metadata", length })?;
        put_unsigned_varint(&mut out, counted);
        out.put_slice(self.metadata.as_bytes());
        out.put_i64(self.committed_at_ms);
        let tagged = u32::from(self.topic_id.is_some()) + u32::from(self.expires_at_ms.is_some());
        put_unsigned_varint(&mut out, tagged);
        if let Some(id) = self.topic_id {
            put_unsigned_varint(&mut out, TAG_TOPIC_ID);
            put_unsigned_varint(&mut out, 16);
            out.put_slice(id.as_bytes());
        }
        if let Some(expires_at_ms) = self.expires_at_ms {
            put_unsigned_varint(&mut out, TAG_EXPIRES_AT);
            put_unsigned_varint(&mut out, 8);
            out.put_i64(expires_at_ms);
        }
        Ok(out.freeze())
    }

    /// `None` for a value of a version that is not known here.
    pub fn decode(bytes: &[u8]) -> Result<Option<CommittedOffset>, Malformed> {
        let mut input = Reader { bytes, what: "committed offset", flexible: false };
        let version = input.i16()?;
        if !(0..=OFFSET_NEWEST).contains(&version) {
            return Ok(None);
        }
        input.flexible = version >= 4;
        let offset = input.i64()?;
        let leader_epoch = if version >= 3 { input.i32()? } else { -1 };
        let metadata = input.string()?;
        let committed_at_ms = input.i64()?;
        let mut expires_at_ms = if version == OFFSET_WITH_EXPIRY { Some(input.i64()?) } else { None };
        let mut topic_id = None;
        if input.flexible {
            input.tagged(|tag, field| {
                match tag {
                    TAG_TOPIC_ID => {
                        let id = Uuid::from_slice(field).map_err(|_| Malformed { what: "topic id" })?;
                        topic_id = Some(id).filter(|id| !id.is_nil());
                    }
                    TAG_EXPIRES_AT => {
                        let at = field.try_into().map_err(|_| Malformed { what: "expire timestamp" })?;
                        expires_at_ms = Some(i64::from_be_bytes(at));
                    }
                    _ => {}
                }
                Ok(())
            })?;
        }
        input.end()?;
        let expires_at_ms = expires_at_ms.filter(|at| *at >= 0);
        Ok(Some(CommittedOffset { offset, leader_epoch, metadata, committed_at_ms, expires_at_ms, topic_id }))
    }
}

impl GroupMetadata {
    pub fn encode(&self) -> Result<Bytes, TooLong> {
        let mut out = BytesMut::with_capacity(256);
        out.put_i16(GROUP_WRITTEN);
        put_string(&mut out, &self.protocol_type, "protocol type")?;
        out.put_i32(self.generation);
        put_nullable(&mut out, self.protocol.as_deref(), "protocol")?;
        put_nullable(&mut out, self.leader.as_deref(), "leader")?;
        out.put_i64(self.state_since_ms);
        let length = self.members.len();
        out.put_i32(i32::try_from(length).map_err(|_| TooLong { what: "member list", length })?);
        for member in &self.members {
            put_string(&mut out, &member.member_id, "member id")?;
            put_nullable(&mut out, member.instance_id.as_deref(), "instance id")?;
            put_string(&mut out, &member.client_id, "client id")?;
            put_string(&mut out, &member.client_host, "client host")?;
            out.put_i32(member.rebalance_timeout_ms);
            out.put_i32(member.session_timeout_ms);
            put_bytes(&mut out, &member.subscription, "subscription")?;
            put_bytes(&mut out, &member.assignment, "assignment")?;
        }
        Ok(out.freeze())
    }

    /// `None` for a value of a version that is not known here. Byte fields are copies: they outlive the batch.
    ///
    /// # Errors
    /// Members without an id, of one id or of one instance id are no group, too. (Kafka does not look.)
    pub fn decode(bytes: &[u8]) -> Result<Option<GroupMetadata>, Malformed> {
        let mut input = Reader { bytes, what: "group metadata", flexible: false };
        let version = input.i16()?;
        if !(0..=GROUP_NEWEST).contains(&version) {
            return Ok(None);
        }
        input.flexible = version >= 4;
        let protocol_type = input.string()?;
        let generation = input.i32()?;
        let protocol = input.nullable()?;
        let leader = input.nullable()?;
        let state_since_ms = if version >= 2 { input.i64()? } else { -1 };
        let count = input.count()?;
        let mut members = Vec::new();
        for _ in 0..count {
            members.push(member(&mut input, version)?);
        }
        input.end_of_structure()?;
        input.end()?;
        // Empty is what a client says that has none yet.
        if members.iter().any(|member| member.member_id.is_empty()) {
            return Err(Malformed { what: "group metadata (a member has no id)" });
        }
        if repeats(members.iter().map(|member| Some(&member.member_id))) {
            return Err(Malformed { what: "group metadata (two members have one id)" });
        }
        if repeats(members.iter().map(|member| member.instance_id.as_ref())) {
            return Err(Malformed { what: "group metadata (two members have one instance id)" });
        }
        Ok(Some(GroupMetadata { protocol_type, generation, protocol, leader, state_since_ms, members }))
    }
}

fn repeats<'a>(ids: impl Iterator<Item = Option<&'a Arc<str>>>) -> bool {
    let mut once = HashSet::new();
    ids.flatten().any(|id| !once.insert(id))
}

fn member(input: &mut Reader<'_>, version: i16) -> Result<MemberMetadata, Malformed> {
    let member = MemberMetadata {
        member_id: input.string()?,
        instance_id: if version >= 3 { input.nullable()? } else { None },
        client_id: input.string()?,
        client_host: input.string()?,
        rebalance_timeout_ms: if version >= 1 { input.i32()? } else { -1 },
        session_timeout_ms: input.i32()?,
        subscription: input.bytes()?,
        assignment: input.bytes()?,
    };
    input.end_of_structure()?;
    Ok(member)
}

fn put_string(out: &mut BytesMut, text: &str, what: &'static str) -> Result<(), TooLong> {
    let length = text.len();
    out.put_i16(i16::try_from(length).map_err(|_| TooLong { what, length })?);
    out.put_slice(text.as_bytes());
    Ok(())
}

fn put_nullable(out: &mut BytesMut, text: Option<&str>, what: &'static str) -> Result<(), TooLong> {
    match text {
        Some(text) => put_string(out, text, what),
        None => {
            out.put_i16(-1);
            Ok(())
        }
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8], what: &'static str) -> Result<(), TooLong> {
    let length = bytes.len();
    out.put_i32(i32::try_from(length).map_err(|_| TooLong { what, length })?);
    out.put_slice(bytes);
    Ok(())
}

fn put_unsigned_varint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Reads fields in order and never beyond the end.
struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
    flexible: bool,
}

impl<'a> Reader<'a> {
    fn malformed(&self) -> Malformed {
        Malformed { what: self.what }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(self.malformed())?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        Ok(self.take(N)?.try_into().expect("take returns what was asked for"))
    }

    fn i16(&mut self) -> Result<i16, Malformed> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn unsigned_varint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            let bits = u32::from(byte & 0x7f);
            value |=
                bits.checked_shl(shift).filter(|moved| moved >> shift == bits).ok_or(self.malformed())?;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed())
    }

    /// A length or count in the flexible form; `None` for null.
    fn counted(&mut self) -> Result<Option<usize>, Malformed> {
        Ok((self.unsigned_varint()? as usize).checked_sub(1))
    }

    fn nullable(&mut self) -> Result<Option<Arc<str>>, Malformed> {
        let length = match self.flexible {
            true => self.counted()?,
            false => match self.i16()? {
                -1 => None,
                length => Some(usize::try_from(length).map_err(|_| self.malformed())?),
            },
        };
        let Some(length) = length else { return Ok(None) };
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| self.malformed())?;
        Ok(Some(Arc::from(text)))
    }

    fn string(&mut self) -> Result<Arc<str>, Malformed> {
        self.nullable()?.ok_or(self.malformed())
    }

    /// Null counts as empty, as Kafka's reader of old values has it.
    fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = match self.flexible {
            true => self.counted()?.unwrap_or(0),
            false => match self.i32()? {
                -1 => 0,
                length => usize::try_from(length).map_err(|_| self.malformed())?,
            },
        };
        Ok(Bytes::copy_from_slice(self.take(length)?))
    }

    /// An array's count. Not to be trusted with an allocation; each element takes bytes, so that reading on is
    /// bounded by the input.
    fn count(&mut self) -> Result<usize, Malformed> {
        match self.flexible {
            true => self.counted()?.ok_or(self.malformed()),
            false => usize::try_from(self.i32()?).map_err(|_| self.malformed()),
        }
    }

    fn tagged(
        &mut self,
        mut field: impl FnMut(u32, &[u8]) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        for _ in 0..self.unsigned_varint()? {
            let tag = self.unsigned_varint()?;
            let size = self.unsigned_varint()? as usize;
            field(tag, self.take(size)?)?;
        }
        Ok(())
    }

    /// Skips a structure's tagged fields, if the version has them.
    fn end_of_structure(&mut self) -> Result<(), Malformed> {
        if self.flexible { self.tagged(|_, _| Ok(())) } else { Ok(()) }
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }
}

#[cfg(test)]
pub(super) mod tests;
