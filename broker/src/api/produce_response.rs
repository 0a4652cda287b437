//! The response to Produce, written by hand: it is as many numbers for each partition, and nothing else as a rule.
//!
//! Layout (`ProduceResponse.json`; compact, with tagged fields, from version 9):
//!
//! | field | type | from version |
//! |---|---|---|
//! | topics | array of: name string, or from 13 topic_id uuid; partitions | |
//! | index | int32 | |
//! | error_code | int16 | |
//! | base_offset, log_append_time_ms | int64 each | |
//! | log_start_offset | int64 | 5 |
//! | record_errors | array of: batch_index int32, batch_index_error_message nullable string | 8 |
//! | error_message | nullable string | 8 |
//! | tagged in a partition: 0 current_leader (id int32, epoch int32) | | 10 |
//! | throttle_time_ms | int32 | |
//! | tagged in the response: 0 node_endpoints (node_id int32, host, port int32, rack) | | 10 |

use std::num::TryFromIntError;

use bytes::{BufMut, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::fetch_response::{Endpoint, encode_endpoints};
use super::wire::Writer;
use crate::server::Rope;

const LOG_START_FROM: i16 = 5;
const MESSAGES_FROM: i16 = 8;
const FLEXIBLE_FROM: i16 = 9;
pub(super) const CURRENT_LEADER_FROM: i16 = 10;
const TOPIC_IDS_FROM: i16 = 13;

/// What a partition takes where nothing went wrong, and a topic beside its name: for the first allocation.
const PARTITION_BYTES: usize = 4 + 2 + 3 * 8 + 4 + 2 + 1;
const TOPIC_BYTES: usize = 16 + 4 + 1;
/// Length, correlation id, number of topics, throttle time, tags.
const FRAME_BYTES: usize = 4 + 4 + 4 + 4 + 2;

#[derive(Debug, Default)]
pub struct ProduceResponse {
    pub topics: Vec<TopicResponse>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug)]
pub struct TopicResponse {
    pub name: StrBytes,
    pub id: Uuid,
    pub partitions: Vec<(i32, Result<Acknowledged, Failure>)>,
}

/// A batch that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub base_offset: i64,
    /// -1 unless the broker gave the batch its time.
    pub log_append_time_ms: i64,
    pub log_start: i64,
}

/// Why a partition's batch was not taken, or not acknowledged.
#[derive(Debug)]
pub struct Failure {
    pub code: ResponseError,
    pub message: Option<String>,
    /// The records that are at fault, by their place in the batch.
    pub records: Vec<(i32, String)>,
    /// Who leads the partition, and its leader epoch.
    pub leader: Option<(i32, i32)>,
}

impl From<ResponseError> for Failure {
    fn from(code: ResponseError) -> Failure {
        Failure { code, message: None, records: Vec::new(), leader: None }
    }
}

impl ProduceResponse {
    /// The whole frame: length, header, body.
    ///
    /// # Errors
    /// If that is longer than a frame can be.
    pub fn encode(self, version: i16, correlation_id: i32) -> Result<Rope, TryFromIntError> {
        let topic_bytes =
            |topic: &TopicResponse| TOPIC_BYTES + topic.name.len() + PARTITION_BYTES * topic.partitions.len();
        let bytes = FRAME_BYTES + self.topics.iter().map(topic_bytes).sum::<usize>();
        let mut writer = Writer { bytes: BytesMut::with_capacity(bytes), flexible: version >= FLEXIBLE_FROM };
        writer.bytes.put_i32(0);
        writer.bytes.put_i32(correlation_id);
        writer.tagged_fields(&[]);
        writer.count(self.topics.len());
        for topic in self.topics {
            if version >= TOPIC_IDS_FROM {
                writer.uuid(topic.id);
            } else {
                writer.string(&topic.name);
            }
            writer.count(topic.partitions.len());
            for (index, outcome) in topic.partitions {
                writer.bytes.put_i32(index);
                match outcome {
                    Ok(acknowledged) => acknowledged.encode(version, &mut writer),
                    Err(failure) => failure.encode(version, &mut writer),
                }
            }
            writer.tagged_fields(&[]);
        }
        writer.bytes.put_i32(0);
        if version >= CURRENT_LEADER_FROM && !self.endpoints.is_empty() {
            writer.tagged_fields(&[(0, encode_endpoints(&self.endpoints))]);
        } else {
            writer.tagged_fields(&[]);
        }
        let mut bytes = writer.bytes;
        let length = i32::try_from(bytes.len() - 4)?;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        Ok(Rope::from(bytes.freeze()))
    }
}

impl Acknowledged {
    fn encode(self, version: i16, writer: &mut Writer) {
        writer.bytes.put_i16(0);
        put_places(version, writer, self);
        if version >= MESSAGES_FROM {
            writer.count(0);
            writer.nullable_string(None);
        }
        writer.tagged_fields(&[]);
    }
}

impl Failure {
    fn encode(self, version: i16, writer: &mut Writer) {
        writer.bytes.put_i16(self.code.code());
        put_places(version, writer, Acknowledged { base_offset: -1, log_append_time_ms: -1, log_start: -1 });
        if version >= MESSAGES_FROM {
            writer.count(self.records.len());
            for (index, message) in &self.records {
                writer.bytes.put_i32(*index);
                writer.nullable_string(Some(shortened(message)));
                writer.tagged_fields(&[]);
            }
            writer.nullable_string(self.message.as_deref().map(shortened));
        }
        match self.leader {
            Some((leader, epoch)) if version >= CURRENT_LEADER_FROM => {
                let mut value = BytesMut::with_capacity(9);
                value.put_i32(leader);
                value.put_i32(epoch);
                value.put_u8(0);
                writer.tagged_fields(&[(0, value.freeze())]);
            }
            _ => writer.tagged_fields(&[]),
        }
    }
}

fn put_places(version: i16, writer: &mut Writer, places: Acknowledged) {
    writer.bytes.put_i64(places.base_offset);
    writer.bytes.put_i64(places.log_append_time_ms);
    if version >= LOG_START_FROM {
        writer.bytes.put_i64(places.log_start);
    }
}

/// As much as a string's length can say in the oldest versions.
fn shortened(message: &str) -> &str {
    &message[..message.floor_char_boundary(i16::MAX as usize)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use kafka_protocol::messages::produce_response::{
        BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse,
        TopicProduceResponse,
    };
    use kafka_protocol::messages::{ApiKey, BrokerId, ProduceResponse as Theirs, ResponseHeader, TopicName};
    use kafka_protocol::protocol::Encodable;

    const VERSIONS: std::ops::RangeInclusive<i16> = 3..=13;

    fn sample() -> ProduceResponse {
        let acknowledged = Acknowledged { base_offset: 1 << 40, log_append_time_ms: 77, log_start: 3 };
        let misled = Failure { leader: Some((2, 9)), ..ResponseError::NotLeaderOrFollower.into() };
        let invalid = Failure {
            message: Some("two records are at fault".to_owned()),
            records: vec![(0, "the first".to_owned()), (7, String::new())],
            ..ResponseError::InvalidRecord.into()
        };
        ProduceResponse {
            topics: vec![
                TopicResponse {
                    name: StrBytes::from_static_str("topic"),
                    id: Uuid::from_u128(5),
                    partitions: vec![(0, Ok(acknowledged)), (300, Err(misled)), (2, Err(invalid))],
                },
                TopicResponse {
                    name: StrBytes::from_static_str("none"),
                    id: Uuid::nil(),
                    partitions: vec![],
                },
            ],
            endpoints: vec![Endpoint {
                node_id: 2,
                host: "there".into(),
                port: 9093,
                rack: Some("rack".into()),
            }],
        }
    }

    /// The same for the codec, which refuses a value in a version that does not have it.
    fn theirs(version: i16) -> Theirs {
        let failed = |index, code: ResponseError| {
            PartitionProduceResponse::default()
                .with_index(index)
                .with_error_code(code.code())
                .with_base_offset(-1)
                .with_log_append_time_ms(-1)
                .with_log_start_offset(-1)
        };
        let acknowledged = PartitionProduceResponse::default()
            .with_base_offset(1 << 40)
            .with_log_append_time_ms(77)
            .with_log_start_offset(3);
        let mut misled = failed(300, ResponseError::NotLeaderOrFollower);
        let mut invalid = failed(2, ResponseError::InvalidRecord);
        if version >= 8 {
            let record = |index, message| {
                BatchIndexAndErrorMessage::default()
                    .with_batch_index(index)
                    .with_batch_index_error_message(Some(StrBytes::from_static_str(message)))
            };
            invalid = invalid
                .with_record_errors(vec![record(0, "the first"), record(7, "")])
                .with_error_message(Some(StrBytes::from_static_str("two records are at fault")));
        }
        let mut response = Theirs::default();
        if version >= 10 {
            misled = misled.with_current_leader(
                LeaderIdAndEpoch::default().with_leader_id(BrokerId(2)).with_leader_epoch(9),
            );
            response = response.with_node_endpoints(vec![
                NodeEndpoint::default()
                    .with_node_id(BrokerId(2))
                    .with_host(StrBytes::from_static_str("there"))
                    .with_port(9093)
                    .with_rack(Some(StrBytes::from_static_str("rack"))),
            ]);
        }
        let topic = |name, id, partitions| {
            let topic = TopicProduceResponse::default().with_partition_responses(partitions);
            if version >= 13 {
                topic.with_topic_id(id)
            } else {
                topic.with_name(TopicName(StrBytes::from_static_str(name)))
            }
        };
        response.with_responses(vec![
            topic("topic", Uuid::from_u128(5), vec![acknowledged, misled, invalid]),
            topic("none", Uuid::nil(), vec![]),
        ])
    }

    #[test]
    fn every_version_is_byte_for_byte_what_the_codec_writes() {
        for version in VERSIONS {
            let rope = sample().encode(version, 42).unwrap();
            let ours: Bytes = rope.segments().flatten().copied().collect::<Vec<_>>().into();
            let mut expected = BytesMut::new();
            expected.put_i32(ours.len() as i32 - 4);
            ResponseHeader::default()
                .with_correlation_id(42)
                .encode(&mut expected, ApiKey::Produce.response_header_version(version))
                .unwrap();
            theirs(version).encode(&mut expected, version).unwrap();
            assert_eq!(ours, expected, "version {version}");
        }
    }

    #[test]
    fn messages_are_cut_to_what_a_length_can_say() {
        let long = "ö".repeat(40_000);
        assert_eq!(shortened(&long).len(), i16::MAX as usize - 1);
        assert_eq!(shortened("short"), "short");
    }
}
