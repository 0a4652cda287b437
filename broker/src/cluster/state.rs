//! What `ottla cluster` asks a broker: the state of the cluster as that broker knows it, to have a broker emptied, and to give
//! up a log that is lost.
//!
//! API key 32701, version 0, in frames and primitives like those of [`wire`](super::wire); any broker answers.
//!
//! Request:
//!
//! | field | bytes |
//! |---|---|
//! | what: 0 the state, 1 with the traffic of what the broker leads, 2 empty a broker, 3 let it have partitions again, 4 give up the log of a life | 1 |
//! | broker id, for 2, 3 and 4; otherwise 0 | 4 |
//! | epoch, for 4 alone | 8 |
//!
//! Answer:
//!
//! | field | bytes |
//! |---|---|
//! | error code, Kafka's; and what is wrong | 2, string |
//! | cluster id | string |
//! | who answers | 4 |
//! | number of the last metadata entry | 8 |
//! | the caretaker, if there is one | 1, 4 |
//! | brokers: count, then [`Member`] each, by id | 4, … |
//! | traffic: count, then [`Traffic`] each; at most [`TRAFFIC_MAX`] | 4, 36 each |
//!
//! The state is what any client may know of the cluster. Who may have a broker emptied or a log given up is a question of
//! authorization, which there is none of yet: as with the deletion of a topic, whoever reaches the listener may.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use uuid::Uuid;
use wal::Incarnation;

use crate::api::error;
use crate::broker::Broker;
use crate::failover::recovery;
use crate::metadata::codec::{Malformed, Reader, Writer};
use crate::metadata::image::Image;

pub const CLUSTER_STATE: i16 = 32_701;

/// Partitions whose traffic one answer tells. No option: beyond so many on one broker, those that are left out make no
/// difference to a plan.
pub const TRAFFIC_MAX: usize = 50_000;

const TRAFFIC_BYTES: usize = 36;
/// Id 4, epoch 8, host 2, port 2, rack 1, standing 1, leads 4, moving 4.
const MEMBER_BYTES_MIN: usize = 26;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    State {
        traffic: bool,
    },
    SetDraining {
        broker: u32,
        draining: bool,
    },
    /// The life is fenced and its log is lost: its partitions go on without what was only there.
    Forsake(Incarnation),
}

/// What a broker is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has registered and does not serve yet.
    Starting,
    Serving,
    /// It is being emptied.
    Draining,
    /// It is taken for dead, and its write-ahead log is being recovered.
    Fenced,
}

impl Standing {
    const ALL: [Standing; 4] = [Standing::Starting, Standing::Serving, Standing::Draining, Standing::Fenced];

    pub fn name(self) -> &'static str {
        match self {
            Standing::Starting => "starting",
            Standing::Serving => "serving",
            Standing::Draining => "draining",
            Standing::Fenced => "fenced",
        }
    }
}

/// One life of one broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: u32,
    pub epoch: u64,
    pub host: Arc<str>,
    pub port: u16,
    pub rack: Option<Arc<str>>,
    pub standing: Standing,
    /// Partitions that it leads, and those of them that are to move.
    pub leads: u32,
    pub moving: u32,
}

/// Of one partition, since it was opened: what was appended, and what was read of data objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    pub topic: Uuid,
    pub index: u32,
    pub appended_bytes: u64,
    pub read_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterState {
    /// Kafka's.
    pub error_code: u16,
    pub error_message: Arc<str>,
    pub cluster: Arc<str>,
    pub from: u32,
    pub number: u64,
    pub caretaker: Option<u32>,
    pub members: Vec<Member>,
    pub traffic: Vec<Traffic>,
}

impl Ask {
    pub fn encode(self) -> Vec<u8> {
        let mut to = Writer::default();
        let (what, broker) = match self {
            Ask::State { traffic } => (u8::from(traffic), 0),
            Ask::SetDraining { broker, draining } => (if draining { 2 } else { 3 }, broker),
            Ask::Forsake(of) => (4, of.broker),
        };
        to.u8(what);
        to.u32(broker);
        if let Ask::Forsake(of) = self {
            to.u64(of.epoch);
        }
        to.0
    }

    pub fn decode(bytes: &[u8]) -> Result<Ask, Malformed> {
        let mut from = Reader::new(bytes);
        let (what, broker) = (from.u8()?, from.u32()?);
        let ask = match (what, broker) {
            (0 | 1, 0) => Ask::State { traffic: what == 1 },
            (2 | 3, broker) => Ask::SetDraining { broker, draining: what == 2 },
            (4, broker) => Ask::Forsake(Incarnation { broker, epoch: from.u64()? }),
            _ => return Err(from.malformed("an unknown request")),
        };
        from.end()?;
        Ok(ask)
    }
}

impl ClusterState {
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u16(self.error_code);
        to.string(&self.error_message);
        to.string(&self.cluster);
        to.u32(self.from);
        to.u64(self.number);
        to.option(self.caretaker, |to, broker| to.u32(broker));
        to.count(self.members.len());
        for member in &self.members {
            to.u32(member.id);
            to.u64(member.epoch);
            to.string(&member.host);
            to.u16(member.port);
            to.option(member.rack.as_deref(), |to, rack| to.string(rack));
            to.u8(Standing::ALL.iter().position(|standing| *standing == member.standing).expect("all") as u8);
            to.u32(member.leads);
            to.u32(member.moving);
        }
        to.count(self.traffic.len());
        for traffic in &self.traffic {
            to.uuid(traffic.topic);
            to.u32(traffic.index);
            to.u64(traffic.appended_bytes);
            to.u64(traffic.read_bytes);
        }
        to.0
    }

    pub fn decode(bytes: &[u8]) -> Result<ClusterState, Malformed> {
        let mut from = Reader::new(bytes);
        let state = ClusterState {
            error_code: from.u16()?,
            error_message: from.string()?,
            cluster: from.string()?,
            from: from.u32()?,
            number: from.u64()?,
            caretaker: from.option(|from| from.u32())?,
            members: from.list(MEMBER_BYTES_MIN, read_member)?,
            traffic: from.list(TRAFFIC_BYTES, |from| {
                Ok(Traffic {
                    topic: from.uuid()?,
                    index: from.u32()?,
                    appended_bytes: from.u64()?,
                    read_bytes: from.u64()?,
                })
            })?,
        };
        from.end()?;
        Ok(state)
    }
}

fn read_member(from: &mut Reader<'_>) -> Result<Member, Malformed> {
    Ok(Member {
        id: from.u32()?,
        epoch: from.u64()?,
        host: from.string()?,
        port: from.u16()?,
        rack: from.option(|from| from.string())?,
        standing: {
            let standing = from.u8()?;
            let known = Standing::ALL.get(usize::from(standing));
            *known.ok_or_else(|| from.malformed("an unknown standing of a broker"))?
        },
        leads: from.u32()?,
        moving: from.u32()?,
    })
}

/// Does what is asked, and tells the state after it.
pub async fn answer(broker: &Broker, ask: Ask) -> ClusterState {
    let outcome = match ask {
        Ask::State { .. } => Ok(()),
        Ask::SetDraining { broker: id, draining } => broker.metadata.set_draining(id, draining).await,
        Ask::Forsake(of) => recovery::forsake(&broker.metadata, of).await,
    };
    let (error_code, error_message) = match outcome {
        Ok(()) => (0, "".into()),
        // There is no such broker, or not in that state.
        Err(why @ crate::metadata::Error::Conflict(_)) => {
            (ResponseError::BrokerIdNotRegistered.code() as u16, why.to_string().into())
        }
        Err(why) => (error::of_metadata(&why).code() as u16, why.to_string().into()),
    };
    let image = broker.metadata.image();
    let traffic = matches!(ask, Ask::State { traffic: true });
    ClusterState {
        error_code,
        error_message,
        cluster: broker.cluster_id.as_str().into(),
        from: broker.node_id as u32,
        number: image.number(),
        caretaker: image.caretaker().map(|caretaker| caretaker.broker),
        members: members(&image),
        traffic: if traffic { traffic_of(broker, &image) } else { Vec::new() },
    }
}

fn members(image: &Image) -> Vec<Member> {
    let member = |(of, life): (wal::Incarnation, &crate::metadata::image::Life)| {
        let info = image.broker(of.broker)?;
        let standing = match (life.fenced, life.opened, life.draining) {
            (true, ..) => Standing::Fenced,
            (_, false, _) => Standing::Starting,
            (_, _, true) => Standing::Draining,
            _ => Standing::Serving,
        };
        // Of two lives of one id, the partitions that name it are counted once.
        let last = info.epoch == of.epoch;
        let count = |count: usize| if last { count as u32 } else { 0 };
        Some(Member {
            id: of.broker,
            epoch: of.epoch,
            host: info.listener.host.clone(),
            port: info.listener.port,
            rack: info.rack.clone(),
            standing,
            leads: count(image.led_count(of.broker)),
            moving: count(image.moving_count(of.broker)),
        })
    };
    image.lives().filter_map(member).collect()
}

fn traffic_of(broker: &Broker, image: &Image) -> Vec<Traffic> {
    let Some(own) = broker.metadata.incarnation() else { return Vec::new() };
    let storage = broker.partitions.storage();
    let traffic = image.partitions_of(own).map(|(topic, index)| {
        let traffic = storage.traffic([topic.partitions[index].log]);
        Traffic {
            topic: topic.id,
            index: index as u32,
            appended_bytes: traffic.appended_bytes,
            read_bytes: traffic.read_bytes,
        }
    });
    traffic.filter(|traffic| traffic.appended_bytes + traffic.read_bytes > 0).take(TRAFFIC_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> ClusterState {
        ClusterState {
            error_code: 102,
            error_message: "no".into(),
            cluster: "c".into(),
            from: 3,
            number: 4,
            caretaker: Some(5),
            members: vec![Member {
                id: 6,
                epoch: 7,
                host: "h".into(),
                port: 8,
                rack: Some("r".into()),
                standing: Standing::Draining,
                leads: 9,
                moving: 10,
            }],
            traffic: vec![Traffic {
                topic: Uuid::from_u128(11),
                index: 12,
                appended_bytes: 13,
                read_bytes: 14,
            }],
        }
    }

    #[test]
    fn the_encodings_stay_as_they_are() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&Ask::State { traffic: true }.encode()), "0100000000");
        assert_eq!(hex(&Ask::SetDraining { broker: 7, draining: false }.encode()), "0307000000");
        assert_eq!(
            hex(&Ask::Forsake(Incarnation { broker: 7, epoch: 8 }).encode()),
            "04070000000800000000000000"
        );
        assert_eq!(
            hex(&state().encode()),
            "660002006e6f0100630300000004000000000000000105000000010000000600000007000000000000000100680800010100\
             7202090000000a00000001000000\
             0000000000000000000000000000000b0c0000000d000000000000000e00000000000000"
        );
    }

    #[test]
    fn what_is_cut_or_changed_is_refused_or_another() {
        let forsake = Ask::Forsake(Incarnation { broker: 9, epoch: 10 });
        for ask in [Ask::State { traffic: false }, Ask::SetDraining { broker: 9, draining: true }, forsake] {
            assert_eq!(Ask::decode(&ask.encode()), Ok(ask));
        }
        assert!(Ask::decode(&forsake.encode()[..12]).is_err());
        assert!(Ask::decode(&[0, 1, 0, 0, 0]).is_err());
        assert!(Ask::decode(&[5, 0, 0, 0, 0]).is_err());
        let bytes = state().encode();
        assert_eq!(ClusterState::decode(&bytes), Ok(state()));
        for length in 0..bytes.len() {
            assert!(ClusterState::decode(&bytes[..length]).is_err(), "{length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = ClusterState::decode(&flipped) {
                assert_eq!(other.encode(), flipped, "{bit}");
            }
        }
    }
}
