//! The response to Fetch, written by hand: record batches go into it as the slices that they are, without a copy.
//!
//! Layout (`FetchResponse.json`; compact, with tagged fields, from version 12):
//!
//! | field | type | from version |
//! |---|---|---|
//! | throttle_time_ms | int32 | |
//! | error_code | int16 | 7 |
//! | session_id | int32 | 7 |
//! | topics | array of: topic string, or from 13 topic_id uuid; partitions | |
//! | partition_index | int32 | |
//! | error_code | int16 | |
//! | high_watermark, last_stable_offset | int64 each | |
//! | log_start_offset | int64 | 5 |
//! | aborted_transactions | nullable array of producer_id int64, first_offset int64 | |
//! | preferred_read_replica | int32 | 11 |
//! | records | nullable bytes | |
//! | tagged in a partition: 0 diverging_epoch (epoch int32, end_offset int64), 1 current_leader (id int32, epoch int32) | | 12 |
//! | tagged in the response: 0 node_endpoints (node_id int32, host, port int32, rack) | | 16 |

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use super::wire::Writer;
use crate::server::Rope;

const FLEXIBLE_FROM: i16 = 12;
const TOPIC_IDS_FROM: i16 = 13;
const ENDPOINTS_FROM: i16 = 16;

/// Records up to this size are copied into the surrounding bytes: a slice of its own would cost more.
const COPIED_BYTES_MAX: usize = 512;

#[derive(Debug, Default)]
pub struct FetchResponse {
    pub error_code: i16,
    pub session_id: i32,
    pub topics: Vec<TopicResponse>,
    pub endpoints: Vec<Endpoint>,
    /// The records' share of the budget for responses that are not written yet.
    pub permit: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
pub struct TopicResponse {
    pub name: Arc<str>,
    pub id: Uuid,
    pub partitions: Vec<PartitionResponse>,
}

#[derive(Debug)]
pub struct PartitionResponse {
    pub index: i32,
    pub error_code: i16,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start: i64,
    /// read_committed is answered with an empty list, read_uncommitted with null (behaviour 15).
    pub read_committed: bool,
    pub diverging: Option<(i32, i64)>,
    pub current_leader: Option<(i32, i32)>,
    /// Whole batches.
    pub records: Vec<Bytes>,
}

#[derive(Debug)]
pub struct Endpoint {
    pub node_id: i32,
    pub host: Arc<str>,
    pub port: u16,
    pub rack: Option<Arc<str>>,
}

/// Closes the running buffer whenever records are put in between.
struct Out {
    rope: Rope,
    writer: Writer,
}

impl Out {
    fn records(&mut self, batches: Vec<Bytes>) {
        self.writer.count(batches.iter().map(Bytes::len).sum());
        for batch in batches {
            if batch.len() <= COPIED_BYTES_MAX {
                self.writer.bytes.put_slice(&batch);
            } else {
                let before = self.writer.bytes.split().freeze();
                self.rope.push(before);
                self.rope.push(batch);
            }
        }
    }
}

impl FetchResponse {
    /// The whole frame: length, header, body.
    pub fn encode(self, version: i16, correlation_id: i32) -> Rope {
        let flexible = version >= FLEXIBLE_FROM;
        let writer = Writer { bytes: BytesMut::with_capacity(256), flexible };
        let mut out = Out { rope: Rope::new(), writer };
        out.writer.bytes.put_i32(correlation_id);
        out.writer.tagged_fields(&[]);
        out.writer.bytes.put_i32(0);
        if version >= 7 {
            out.writer.bytes.put_i16(self.error_code);
            out.writer.bytes.put_i32(self.session_id);
        }
        out.writer.count(self.topics.len());
        for topic in self.topics {
            if version >= TOPIC_IDS_FROM {
                out.writer.uuid(topic.id);
            } else {
                out.writer.string(&topic.name);
            }
            out.writer.count(topic.partitions.len());
            for partition in topic.partitions {
                partition.encode(version, &mut out);
            }
            out.writer.tagged_fields(&[]);
        }
        if version >= ENDPOINTS_FROM && !self.endpoints.is_empty() {
            out.writer.tagged_fields(&[(0, encode_endpoints(&self.endpoints))]);
        } else {
            out.writer.tagged_fields(&[]);
        }
        let Out { mut rope, writer } = out;
        rope.push(writer.bytes.freeze());
        let mut frame = Rope::from(Bytes::copy_from_slice(&(rope.len() as i32).to_be_bytes()));
        frame.append(rope);
        if let Some(permit) = self.permit {
            frame.charge(permit);
        }
        frame
    }
}

impl PartitionResponse {
    fn encode(self, version: i16, out: &mut Out) {
        let bytes = &mut out.writer.bytes;
        bytes.put_i32(self.index);
        bytes.put_i16(self.error_code);
        bytes.put_i64(self.high_watermark);
        bytes.put_i64(self.last_stable_offset);
        if version >= 5 {
            bytes.put_i64(self.log_start);
        }
        if self.read_committed {
            out.writer.count(0);
        } else {
            out.writer.null_array();
        }
        if version >= 11 {
            // There is no other replica to prefer (behaviour 80).
            out.writer.bytes.put_i32(-1);
        }
        out.records(self.records);
        let mut tagged = Vec::new();
        if let Some((epoch, end_offset)) = self.diverging {
            let mut value = BytesMut::with_capacity(13);
            value.put_i32(epoch);
            value.put_i64(end_offset);
            value.put_u8(0);
            tagged.push((0, value.freeze()));
        }
        if let Some((leader, epoch)) = self.current_leader {
            let mut value = BytesMut::with_capacity(9);
            value.put_i32(leader);
            value.put_i32(epoch);
            value.put_u8(0);
            tagged.push((1, value.freeze()));
        }
        out.writer.tagged_fields(&tagged);
    }
}

pub(super) fn encode_endpoints(endpoints: &[Endpoint]) -> Bytes {
    let mut writer = Writer { bytes: BytesMut::new(), flexible: true };
    writer.count(endpoints.len());
    for endpoint in endpoints {
        writer.bytes.put_i32(endpoint.node_id);
        writer.string(&endpoint.host);
        writer.bytes.put_i32(i32::from(endpoint.port));
        writer.nullable_string(endpoint.rack.as_deref());
        writer.tagged_fields(&[]);
    }
    writer.bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::{ApiKey, FetchResponse as Theirs, ResponseHeader};
    use kafka_protocol::protocol::Decodable;

    fn sample() -> FetchResponse {
        let partition = |index, records: Vec<Bytes>| PartitionResponse {
            index,
            error_code: 6,
            high_watermark: 100,
            last_stable_offset: 99,
            log_start: 3,
            read_committed: index == 1,
            diverging: (index == 1).then_some((4, 50)),
            current_leader: (index == 1).then_some((2, 9)),
            records,
        };
        let large = Bytes::from(vec![7; 5000]);
        FetchResponse {
            error_code: 0,
            session_id: 77,
            topics: vec![TopicResponse {
                name: "topic".into(),
                id: Uuid::from_u128(5),
                partitions: vec![
                    partition(0, vec![large.clone(), Bytes::from_static(b"small"), large]),
                    partition(1, vec![]),
                ],
            }],
            endpoints: vec![Endpoint { node_id: 2, host: "there".into(), port: 9093, rack: None }],
            permit: None,
        }
    }

    #[test]
    fn every_version_is_what_the_codec_reads() {
        for version in 4..=18 {
            let rope = sample().encode(version, 42);
            let mut bytes: Bytes = rope.segments().flatten().copied().collect::<Vec<_>>().into();
            assert_eq!(bytes.split_to(4)[..], (bytes.len() as i32).to_be_bytes());
            let header = ApiKey::Fetch.response_header_version(version);
            assert_eq!(ResponseHeader::decode(&mut bytes, header).unwrap().correlation_id, 42);
            let theirs = Theirs::decode(&mut bytes, version).unwrap();
            assert!(bytes.is_empty(), "{version}");
            assert_eq!(theirs.session_id, if version >= 7 { 77 } else { 0 });
            let topic = &theirs.responses[0];
            if version >= 13 {
                assert_eq!(topic.topic_id, Uuid::from_u128(5));
            } else {
                assert_eq!(&*topic.topic.0, "topic");
            }
            let [first, second] = &topic.partitions[..] else { panic!("two partitions") };
            let records = first.records.as_ref().unwrap();
            assert_eq!(records.len(), 10_005);
            assert_eq!(&records[5000..5005], b"small");
            assert_eq!((first.error_code, first.high_watermark, first.last_stable_offset), (6, 100, 99));
            assert_eq!(first.aborted_transactions, None, "behaviour 15");
            assert_eq!(second.aborted_transactions, Some(vec![]), "behaviour 15");
            assert_eq!(second.records.as_ref().map(Bytes::len), Some(0), "behaviour 74");
            assert_eq!(first.preferred_read_replica.0, -1, "behaviour 80");
            if version >= 12 {
                assert_eq!((second.diverging_epoch.epoch, second.diverging_epoch.end_offset), (4, 50));
                assert_eq!((second.current_leader.leader_id.0, second.current_leader.leader_epoch), (2, 9));
            }
            assert_eq!(theirs.node_endpoints.len(), usize::from(version >= 16));
        }
    }

    #[test]
    fn large_batches_are_not_copied() {
        let response = sample();
        let pointer = response.topics[0].partitions[0].records[0].as_ptr();
        let rope = response.encode(16, 1);
        assert!(rope.segments().any(|segment| segment.as_ptr() == pointer));
    }
}
