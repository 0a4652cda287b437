//! What brokers say to each other: requests of API keys that Kafka does not have, on the listener that clients use.
//!
//! | key | versions | request |
//! |---|---|---|
//! | 32700 | 0 | heartbeat: [`Heartbeat`], answered with [`Answer`] |
//! | 32701 | 0 | the state of the cluster, for people: [`state`](super::state) |
//! | 32702 | 0 | what a partition's last leader knew of it: [`arrival`](crate::partition::arrival) |
//!
//! They have Kafka's frames and Kafka's request header 1 (key, version, correlation id, client id) and response header 0
//! (correlation id); ApiVersions does not name them. What follows is little endian, in the primitives of the metadata's
//! own encodings (`metadata/codec.rs`).
//!
//! Heartbeat:
//!
//! | field | bytes |
//! |---|---|
//! | cluster id | 16 |
//! | whom it is meant for: broker, epoch | 4 + 8 |
//! | beat | see below |
//!
//! Answer:
//!
//! | field | bytes |
//! |---|---|
//! | error code, Kafka's | 2: 0; 104 INCONSISTENT_CLUSTER_ID; 77 STALE_BROKER_EPOCH: whoever answers is another life |
//! | cluster id | 16 |
//! | beat, of whoever answers | see below |
//!
//! Beat:
//!
//! | field | bytes |
//! |---|---|
//! | from: broker, epoch | 4 + 8 |
//! | number of the last metadata entry that it knows of | 8 |
//! | its wall clock, in milliseconds since the Unix epoch | 8 |
//! | flags: 1 ailing, 2 leaving, 4 blind, 8 unreached, 16 handing; others are ignored | 1 |
//! | what it leads costs it: bytes a second | 8 |
//! | suspects: count, then broker and epoch of each; ascending; at most [`SUSPECTS_MAX`] | 4 + 12 each |
//! | what a later Ottla says besides, ignored | at most [`LATER_BYTES_MAX`] |
//!
//! Brokers of several versions are in one cluster while it is updated: who does not understand all that another one says
//! must not take it for dead. So a beat only grows, at its end and by flags.
//!
//! Nobody is authenticated yet: whoever reaches the listener can say anything here. It can make a broker poll the metadata
//! log, keep a dead broker from being missed, or have one suspected; it can harm no data (`detector`). A note (key 32702) is
//! believed only if the metadata log has its hash, whoever says it.

use bytes::{Buf, BufMut, BytesMut};
use uuid::Uuid;
use wal::Incarnation;

use crate::metadata::codec::{Malformed, Reader, Writer};

/// The API key of heartbeats.
pub const HEARTBEAT: i16 = 32_700;

/// The only version of every request here.
pub const VERSION: i16 = 0;

/// Kafka's, of every request here.
pub const REQUEST_HEADER_VERSION: i16 = 1;

/// Suspects in one beat. No option: each is one broker of the cluster, and beyond so many there is no point in naming more.
pub const SUSPECTS_MAX: usize = 1_024;

/// What a beat may have at its end that this version does not know.
pub const LATER_BYTES_MAX: usize = 4_096;

/// The largest message, without its frame's length and header.
pub const MESSAGE_BYTES_MAX: usize =
    2 + 16 + 12 + BEAT_BYTES_MIN + SUSPECTS_MAX * INCARNATION_BYTES + LATER_BYTES_MAX;

const INCARNATION_BYTES: usize = 12;
const BEAT_BYTES_MIN: usize = INCARNATION_BYTES + 8 + 8 + 1 + 8 + 4;

/// Correlation id.
const RESPONSE_HEADER_BYTES: usize = 4;

/// The largest answer with its header, without the length in front.
pub const RESPONSE_BYTES_MAX: usize = RESPONSE_HEADER_BYTES + MESSAGE_BYTES_MAX;

mod flag {
    pub const AILING: u8 = 1;
    pub const LEAVING: u8 = 2;
    pub const BLIND: u8 = 4;
    pub const UNREACHED: u8 = 8;
    pub const HANDING: u8 = 16;
}

/// What a life says of itself and of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    pub from: Incarnation,
    /// Of the last entry of the metadata log that it knows of: a hint to whoever is behind.
    pub number: u64,
    /// What its wall clock shows.
    pub wall_ms: i64,
    /// It cannot reach the store.
    pub ailing: bool,
    /// It is about to close its listener.
    pub leaving: bool,
    /// It has not listened for long enough to miss anybody.
    pub blind: bool,
    /// It gets no connection to the address of whom it says this to.
    pub unreached: bool,
    /// It is writing an entry that gives partitions to whom it says this to.
    pub handing: bool,
    /// Of all that it leads, bytes a second.
    pub load: u64,
    /// Whom it suspects, ascending.
    pub suspects: Vec<Incarnation>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub cluster: Uuid,
    pub to: Incarnation,
    pub beat: Beat,
}

/// What a heartbeat was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Welcome,
    /// It was meant for another cluster.
    OtherCluster,
    /// It was meant for another life: another broker, or one that was here before.
    OtherLife,
}

impl Reply {
    /// Kafka's error code.
    fn code(self) -> u16 {
        match self {
            Reply::Welcome => 0,
            Reply::OtherCluster => 104,
            Reply::OtherLife => 77,
        }
    }

    fn of(code: u16) -> Option<Reply> {
        [Reply::Welcome, Reply::OtherCluster, Reply::OtherLife].into_iter().find(|reply| reply.code() == code)
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub reply: Reply,
    pub cluster: Uuid,
    pub beat: Beat,
}

impl Beat {
    fn write(&self, to: &mut Writer) {
        assert!(self.suspects.len() <= SUSPECTS_MAX, "whoever makes a beat bounds it");
        to.incarnation(self.from);
        to.u64(self.number);
        to.i64(self.wall_ms);
        let flags = [
            (self.ailing, flag::AILING),
            (self.leaving, flag::LEAVING),
            (self.blind, flag::BLIND),
            (self.unreached, flag::UNREACHED),
            (self.handing, flag::HANDING),
        ];
        to.u8(flags.into_iter().filter(|(is, _)| *is).map(|(_, bit)| bit).sum());
        to.u64(self.load);
        to.count(self.suspects.len());
        self.suspects.iter().for_each(|suspect| to.incarnation(*suspect));
    }

    /// A beat and the end of the message.
    fn read(from: &mut Reader<'_>) -> Result<Beat, Malformed> {
        let (who, number, wall_ms, flags) = (from.incarnation()?, from.u64()?, from.i64()?, from.u8()?);
        let load = from.u64()?;
        let suspects = from.list(INCARNATION_BYTES, |from| from.incarnation())?;
        if suspects.len() > SUSPECTS_MAX || !suspects.is_sorted_by(|one, next| one < next) {
            return Err(from.malformed("suspects that are too many or not in ascending order"));
        }
        if from.left() > LATER_BYTES_MAX {
            return Err(from.malformed("more than a later version says"));
        }
        let is = |bit| flags & bit != 0;
        Ok(Beat {
            from: who,
            number,
            wall_ms,
            ailing: is(flag::AILING),
            leaving: is(flag::LEAVING),
            blind: is(flag::BLIND),
            unreached: is(flag::UNREACHED),
            handing: is(flag::HANDING),
            load,
            suspects,
        })
    }
}

impl Heartbeat {
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.uuid(self.cluster);
        to.incarnation(self.to);
        self.beat.write(&mut to);
        to.0
    }

    pub fn decode(bytes: &[u8]) -> Result<Heartbeat, Malformed> {
        let mut from = Reader::new(bytes);
        Ok(Heartbeat { cluster: from.uuid()?, to: from.incarnation()?, beat: Beat::read(&mut from)? })
    }
}

impl Answer {
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u16(self.reply.code());
        to.uuid(self.cluster);
        self.beat.write(&mut to);
        to.0
    }

    pub fn decode(bytes: &[u8]) -> Result<Answer, Malformed> {
        let mut from = Reader::new(bytes);
        let code = from.u16()?;
        let Some(reply) = Reply::of(code) else {
            return Err(from.malformed("an unknown error code"));
        };
        Ok(Answer { reply, cluster: from.uuid()?, beat: Beat::read(&mut from)? })
    }
}

/// A whole request frame: length, header, body.
pub fn request(key: i16, correlation_id: i32, client_id: &str, body: &[u8]) -> BytesMut {
    let length = 2 + 2 + 4 + 2 + client_id.len() + body.len();
    let mut frame = BytesMut::with_capacity(4 + length);
    frame.put_i32(length as i32);
    frame.put_i16(key);
    frame.put_i16(VERSION);
    frame.put_i32(correlation_id);
    frame.put_i16(client_id.len() as i16);
    frame.put_slice(client_id.as_bytes());
    frame.put_slice(body);
    frame
}

/// A whole response frame: length, header, body.
pub fn response(correlation_id: i32, body: &[u8]) -> BytesMut {
    let mut frame = BytesMut::with_capacity(4 + RESPONSE_HEADER_BYTES + body.len());
    frame.put_i32((RESPONSE_HEADER_BYTES + body.len()) as i32);
    frame.put_i32(correlation_id);
    frame.put_slice(body);
    frame
}

/// The body of a response without its length, if it answers the request `correlation_id`.
pub fn response_body(mut frame: &[u8], correlation_id: i32) -> Option<&[u8]> {
    (frame.try_get_i32().ok()? == correlation_id).then_some(frame)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn life(broker: u32, epoch: u64) -> Incarnation {
        Incarnation { broker, epoch }
    }

    fn beat() -> Beat {
        Beat {
            from: life(3, 0x1122),
            number: 0x0102_0304,
            wall_ms: 0x0a0b_0c0d,
            ailing: true,
            leaving: false,
            blind: true,
            unreached: false,
            handing: true,
            load: 0x0a0b,
            suspects: vec![life(1, 5), life(2, 9)],
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_encodings_stay_as_they_are() {
        let cluster = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        let said = "0300000022110000000000000403020100000000\
                    0d0c0b0a00000000150b0a000000000000020000000100000005000000000000000200000009\
                    00000000000000";
        let request = Heartbeat { cluster, to: life(7, 8), beat: beat() };
        assert_eq!(
            hex(&request.encode()),
            format!("00112233445566778899aabbccddeeff070000000800000000000000{said}")
        );
        let answer = Answer { reply: Reply::OtherLife, cluster, beat: beat() };
        assert_eq!(hex(&answer.encode()), format!("4d0000112233445566778899aabbccddeeff{said}"));
        assert_eq!(
            hex(&request_frame()),
            "0000000e7fbc000000000007000362726b00ff".replace("0000000e", "0000000f")
        );
        assert_eq!(hex(&response(7, &[0, 255])), "000000060000000700ff");
        assert_eq!(response_body(&[0, 0, 0, 7, 1], 7), Some(&[1][..]));
        assert_eq!(response_body(&[0, 0, 0, 8, 1], 7), None);
        assert_eq!(response_body(&[0, 0, 7], 7), None);
    }

    fn request_frame() -> BytesMut {
        super::request(HEARTBEAT, 7, "brk", &[0, 255])
    }

    #[test]
    fn the_bounds_are_exact() {
        let many = (0..SUSPECTS_MAX as u32).map(|broker| life(broker, 1)).collect::<Vec<_>>();
        let whole = Answer {
            reply: Reply::Welcome,
            cluster: Uuid::nil(),
            beat: Beat { suspects: many.clone(), ..beat() },
        };
        let bytes = whole.encode();
        assert!(bytes.len() <= MESSAGE_BYTES_MAX);
        assert_eq!(Answer::decode(&bytes), Ok(whole));
        // One more, by hand: the encoder refuses to.
        let at = 2 + 16 + INCARNATION_BYTES + 25;
        let mut more = bytes.clone();
        more[at..at + 4].copy_from_slice(&(SUSPECTS_MAX as u32 + 1).to_le_bytes());
        more.extend(u32::MAX.to_le_bytes());
        more.extend(1u64.to_le_bytes());
        assert!(Answer::decode(&more).is_err());
        for (what, at, to) in [("an error code", 0, 1), ("a descending order", at + 4, 9)] {
            let mut bytes = bytes.clone();
            bytes[at] = to;
            assert!(Answer::decode(&bytes).is_err(), "{what}");
        }
    }

    /// A peer that was updated before this one goes on being heard.
    #[test]
    fn what_a_later_version_says_besides_is_ignored() {
        let known = Heartbeat { cluster: Uuid::from_u128(7), to: life(7, 8), beat: beat() };
        let mut later = known.encode();
        later[16 + INCARNATION_BYTES + INCARNATION_BYTES + 16] |= 0xe0;
        later.resize(later.len() + LATER_BYTES_MAX, 0xab);
        assert_eq!(Heartbeat::decode(&later), Ok(known));
        later.push(0);
        assert!(Heartbeat::decode(&later).is_err(), "it has a bound");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_and_nothing_else_is(
            ids in proptest::collection::btree_set((any::<u32>(), any::<u64>()), 0..20),
            (from, to) in ((any::<u32>(), any::<u64>()), (any::<u32>(), any::<u64>())),
            (number, load, wall_ms) in any::<(u64, u64, i64)>(),
            flags in any::<[bool; 5]>(),
            (cut, flip) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        ) {
            let suspects = ids.into_iter().map(|(broker, epoch)| life(broker, epoch)).collect();
            let [ailing, leaving, blind, unreached, handing] = flags;
            let from = life(from.0, from.1);
            let beat = Beat { from, number, wall_ms, ailing, leaving, blind, unreached, handing, load, suspects };
            let heartbeat = Heartbeat { cluster: Uuid::from_u128(7), to: life(to.0, to.1), beat };
            let bytes = heartbeat.encode();
            prop_assert_eq!(Heartbeat::decode(&bytes), Ok(heartbeat));
            prop_assert!(Heartbeat::decode(&bytes[..cut.index(bytes.len())]).is_err());
            let mut flipped = bytes.clone();
            let at = flip.index(bytes.len() * 8);
            flipped[at / 8] ^= 1 << (at % 8);
            // There is no checksum: TCP has one. What is still read is what is written again, up to what a later version
            // says.
            if let Ok(other) = Heartbeat::decode(&flipped) {
                flipped[16 + INCARNATION_BYTES + INCARNATION_BYTES + 16] &= 0x1f;
                prop_assert!(flipped.starts_with(&other.encode()));
            }
        }
    }
}
