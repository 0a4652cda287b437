//! Produce (0), versions 3 to 13, in two phases: [`enqueue`] fixes the order of the batches, [`InFlight::finish`] waits
//! until they are durable. Requests of one connection may be enqueued before earlier ones are finished.
//!
//! The request is read by hand, so that each partition's records are a piece of the request's own buffer, which the
//! broker may write the offset into. Layout (`ProduceRequest.json`; compact from version 9):
//!
//! | field | type |
//! |---|---|
//! | transactional_id | nullable string |
//! | acks | int16 |
//! | timeout_ms | int32 |
//! | topics | array of: name string, or from version 13 topic_id uuid; partitions |
//! | partitions | array of: index int32, records nullable bytes |
//!
//! `acks` of 1 and -1 both mean durable. Errors are per partition (behaviour 42).

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;
use s3stream::{Admission, Storage};
use tokio::time::Instant;
use uuid::Uuid;

use super::fetch_response::Endpoint;
use super::produce_response::{Acknowledged, CURRENT_LEADER_FROM, Failure, ProduceResponse, TopicResponse};
use super::wire::{Malformed, Reader};
use super::{Context, error};
use crate::broker::Broker;
use crate::config::{CompressionType, TimestampType, TopicConfig};
use crate::metadata::{ImageRef, Topic};
use crate::partition::batch::Codec;
use crate::partition::recompress::Target;
use crate::partition::validate::{self, Checked, Rules};
use crate::partition::{AppendError, Appended, GetError, Leaving, Partition, wall_clock_ms};

const FLEXIBLE_FROM: i16 = 9;
const TOPIC_IDS_FROM: i16 = 13;
const ZSTD_FROM: i16 = 7;

/// A peer that has left holds a place for no longer than this, whatever time it gave its request. No option: it
/// is the client who says less.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(crate) struct Request {
    acks: i16,
    timeout: Duration,
    topics: Vec<TopicData>,
}

#[derive(Debug)]
struct TopicData {
    name: StrBytes,
    id: Uuid,
    partitions: Vec<(i32, Option<BytesMut>)>,
}

/// Topics in one request, and partitions in all of them. A request may be 100 MiB, and a topic without a name takes three
/// bytes of it, but over a hundred in memory (behaviour 16); producers send no more than fit their `max.request.size`,
/// at 61 bytes or more each. No option: socket.request.max.bytes is the one for the size of requests.
const TOPICS_MAX: usize = 1 << 16;
const PARTITIONS_MAX: usize = 1 << 16;

pub(crate) fn parse(version: i16, body: BytesMut) -> Result<Request, Malformed> {
    let mut reader = Reader { bytes: body, flexible: version >= FLEXIBLE_FROM };
    reader.nullable_string()?;
    let acks = reader.i16()?;
    let timeout = Duration::from_millis(reader.i32()?.max(0) as u64).min(TIMEOUT_MAX);
    let topic_count = reader.array(if version >= TOPIC_IDS_FROM { 17 } else { 2 })?;
    if topic_count > TOPICS_MAX {
        return Err(Malformed);
    }
    let mut topics = Vec::with_capacity(topic_count);
    let mut partitions_left = PARTITIONS_MAX;
    for _ in 0..topic_count {
        let (name, id) = if version >= TOPIC_IDS_FROM {
            (StrBytes::default(), reader.uuid()?)
        } else {
            (reader.string()?, Uuid::nil())
        };
        let partition_count = reader.array(5)?;
        partitions_left = partitions_left.checked_sub(partition_count).ok_or(Malformed)?;
        let mut partitions = Vec::with_capacity(partition_count);
        for _ in 0..partition_count {
            let index = reader.i32()?;
            partitions.push((index, reader.nullable_bytes()?));
            reader.tagged_fields()?;
        }
        reader.tagged_fields()?;
        topics.push(TopicData { name, id, partitions });
    }
    reader.tagged_fields()?;
    Ok(Request { acks, timeout, topics })
}

/// A partition's batch on its way through the phases.
type Stage<T> = Result<T, Unplaced>;

/// A batch that has no place.
#[derive(Debug)]
enum Unplaced {
    Failed(Failure),
    /// Its partition is being handed over. The answer waits until that is decided: then the next leader can be named, and
    /// the producer need not ask again and again.
    Leaving {
        partition: Arc<Partition>,
        leaving: Leaving,
    },
}

impl<F: Into<Failure>> From<F> for Unplaced {
    fn from(failure: F) -> Unplaced {
        Unplaced::Failed(failure.into())
    }
}

/// A request whose batches have their places.
#[derive(Debug)]
pub struct InFlight {
    acks: i16,
    deadline: Instant,
    topics: Vec<TopicInFlight>,
    endpoints: Vec<Endpoint>,
    /// Whether its answer can name leaders (KIP-951).
    names_leaders: bool,
}

#[derive(Debug)]
struct TopicInFlight {
    name: StrBytes,
    id: Uuid,
    partitions: Vec<(i32, Stage<Placed>)>,
}

#[derive(Debug)]
struct Placed {
    appended: Appended,
    log_append_time: bool,
    log_start: u64,
}

/// What a peer that asked for no acknowledgement is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unacknowledged {
    /// Nothing.
    Silence,
    /// That something went wrong: the connection is closed, so that the producer asks for metadata (behaviour 10).
    Close,
}

/// First phase: checks every batch, waits for room, and appends. Batches of one partition are appended in the order in
/// which this is called.
pub async fn enqueue(
    broker: &Broker,
    _context: &Context,
    version: i16,
    body: BytesMut,
) -> Result<InFlight, Malformed> {
    let request = parse(version, body)?;
    let deadline = Instant::now() + request.timeout;
    // Of all its partitions together.
    let expected_until = deadline.min(Instant::now() + broker.partitions.config().handover.expected_wait);
    let now_ms = wall_clock_ms();
    let image = broker.metadata.image();
    let mut checked = Vec::with_capacity(request.topics.len());
    let mut sizes = Vec::new();
    for topic in request.topics {
        let known =
            if version >= TOPIC_IDS_FROM { image.topic(topic.id) } else { image.topic_named(&topic.name) };
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for (index, records) in topic.partitions {
            let stage = match known {
                _ if !matches!(request.acks, -1..=1) => Err(ResponseError::InvalidRequiredAcks.into()),
                None if version >= TOPIC_IDS_FROM => Err(ResponseError::UnknownTopicId.into()),
                None => Err(ResponseError::UnknownTopicOrPartition.into()),
                Some(known) => check(broker, version, known, index, records, (now_ms, expected_until)).await,
            };
            if let Ok((_, checked, _)) = &stage {
                sizes.push(checked.bytes.len());
            }
            partitions.push((index, stage));
        }
        checked.push((topic.name, topic.id, partitions));
    }

    let storage = broker.partitions.storage();
    let mut placing =
        Placing { broker, storage, deadline, now_ms, sizes, next: 0, admission: None, asked: false };
    let mut topics = Vec::with_capacity(checked.len());
    let mut endpoints = Vec::new();
    for (name, id, checked) in checked {
        let mut partitions = Vec::with_capacity(checked.len());
        for (index, stage) in checked {
            let placed = match stage {
                Ok(batch) => placing.place(batch).await,
                Err(failure) => Err(failure),
            };
            if let Err(Unplaced::Failed(Failure { leader: Some((leader, _)), .. })) = &placed {
                add_endpoint(&mut endpoints, &image, *leader);
            }
            partitions.push((index, placed));
        }
        topics.push(TopicInFlight { name, id, partitions });
    }
    let names_leaders = version >= CURRENT_LEADER_FROM;
    Ok(InFlight { acks: request.acks, deadline, topics, endpoints, names_leaders })
}

type CheckedBatch = (Arc<Partition>, Checked, bool);

async fn check(
    broker: &Broker,
    version: i16,
    topic: &Arc<Topic>,
    index: i32,
    records: Option<BytesMut>,
    (now_ms, expected_until): (i64, Instant),
) -> Stage<CheckedBatch> {
    // The coordinators alone write to these (behaviour 41). Kafka lets in whoever calls himself `__admin_client`: without
    // authentication that is anybody, and what a coordinator did not write it does not know.
    if super::topic_name::is_internal(&topic.name) {
        return Err(ResponseError::InvalidTopicException.into());
    }
    let partition =
        broker.partitions.get_expected(topic, index, expected_until.into_std()).await.map_err(|why| {
            let leader = match why {
                GetError::NotLeader { leader } => leader.map(|(leader, epoch)| (leader as i32, epoch)),
                GetError::Unknown | GetError::Open(_) => None,
            };
            Failure { leader, message: Some(why.to_string()), ..error::of_get(&why).into() }
        })?;
    let config = partition.topic_config(topic, &broker.config());
    let log_append_time = config.timestamp_type() == TimestampType::LogAppendTime;
    let rules = Rules {
        batch_bytes_max: config.max_message_bytes().max(0) as usize,
        log_append_time,
        timestamp_before_max_ms: config.timestamp_before_max_ms(),
        timestamp_after_max_ms: config.timestamp_after_max_ms(),
        keys_required: config.cleanup().compact,
        decompressed_bytes_max: broker.partitions.config().decompressed_bytes_max,
        compression: compression(&config),
        zstd_allowed: version >= ZSTD_FROM,
    };
    match validate::check(records.unwrap_or_default(), &rules, now_ms) {
        Ok(checked) => Ok((partition, checked, log_append_time)),
        Err(rejected) => Err(Unplaced::Failed(Failure {
            code: error::of_rejected(rejected.reason),
            message: Some(rejected.message),
            records: rejected.records,
            leader: None,
        })),
    }
}

/// What the topic wants its batches compressed with, unless that is what the producer chose (behaviour 43).
fn compression(config: &TopicConfig) -> Option<Target> {
    let codec = match config.compression_type() {
        CompressionType::Producer => return None,
        CompressionType::Uncompressed => Codec::None,
        CompressionType::Gzip => Codec::Gzip,
        CompressionType::Snappy => Codec::Snappy,
        CompressionType::Lz4 => Codec::Lz4,
        CompressionType::Zstd => Codec::Zstd,
    };
    Some(Target { codec, gzip_level: config.gzip_level(), zstd_level: config.zstd_level() })
}

/// Gives the batches of one request their places, in order.
///
/// As many as may have room together ask for it together: whoever asks is the last in the queue, and a request of many small
/// batches is not to wait for everybody else once for each. It may take several turns all the same: all of them together may
/// be more than the log ever has room for, and those that have their places are on their way out of it.
struct Placing<'a> {
    broker: &'a Broker,
    storage: &'a Storage,
    deadline: Instant,
    now_ms: i64,
    /// Bytes of the batches.
    sizes: Vec<usize>,
    /// Which of them comes next.
    next: usize,
    /// Room for some of those that come next.
    admission: Option<Admission>,
    /// Whether the request has asked for room at all.
    asked: bool,
}

impl Placing<'_> {
    /// Waits for room for the next batch, which is this one, and appends it.
    async fn place(&mut self, (partition, mut checked, log_append_time): CheckedBatch) -> Stage<Placed> {
        let at = self.next;
        self.next += 1;
        // What to say if its time is up.
        let mut late = Failure::from(ResponseError::RequestTimedOut);
        let refused = loop {
            let admission = match self.room(at).await {
                Ok(Some(admission)) => admission,
                Ok(None) => break late,
                Err(why) => break error::of_storage(&why).into(),
            };
            match partition.append(self.now_ms, checked, admission) {
                Ok(appended) => {
                    return Ok(Placed { appended, log_append_time, log_start: partition.log_start() });
                }
                // Another request was faster. What is left of the admission is for those behind, whose turn it is not.
                Err(AppendError::NoRoom { batch, detail }) => {
                    (checked, self.admission) = (*batch, None);
                    late = Failure { message: Some(detail), ..error::NO_ROOM.into() };
                    tokio::task::yield_now().await;
                }
                Err(AppendError::Leaving { leaving, .. }) => {
                    return Err(Unplaced::Leaving { partition, leaving });
                }
                Err(why) => {
                    // What a deposed leader knows of producers is old, and no retry follows such an answer. A right that has
                    // not run out yet is not enough: others lead by the time they have fenced this one.
                    if matches!(why, AppendError::Refused(_))
                        && (self.broker.metadata.refresh().await.is_err()
                            || !self.broker.speaks_for(&partition))
                    {
                        return Err(ResponseError::NotLeaderOrFollower.into());
                    }
                    return Err(Unplaced::Failed(Failure {
                        message: Some(why.to_string()),
                        ..error::of_append(&why).into()
                    }));
                }
            }
        };
        partition.turned_away(self.now_ms, &checked);
        Err(Unplaced::Failed(refused))
    }

    /// Room for the batch `at`; `None` if the request's time is up. Then nothing more of it is appended, even if it would
    /// fit: the peer is told that it was too late, and sends it again. Only the first attempt is made whatever the time:
    /// a request may have none at all.
    async fn room(&mut self, at: usize) -> Result<Option<Admission>, s3stream::Error> {
        let bytes = self.sizes[at];
        if let Some(own) = self.admission.as_mut().and_then(|admission| admission.split(bytes)) {
            return Ok(Some(own));
        }
        if std::mem::replace(&mut self.asked, true) && Instant::now() >= self.deadline {
            return Ok(None);
        }
        let admitted = self.storage.admit_run(&self.sizes[at..]);
        let Ok(admitted) = tokio::time::timeout_at(self.deadline, admitted).await else { return Ok(None) };
        let mut admission = admitted?;
        let own = admission.split(bytes).expect("the first one was let in");
        self.admission = Some(admission);
        Ok(Some(own))
    }
}

fn add_endpoint(endpoints: &mut Vec<Endpoint>, image: &ImageRef, leader: i32) {
    if endpoints.iter().any(|endpoint| endpoint.node_id == leader) {
        return;
    }
    if let Some(broker) = u32::try_from(leader).ok().and_then(|leader| image.broker(leader)) {
        endpoints.push(Endpoint {
            node_id: leader,
            host: broker.listener.host.clone(),
            port: broker.listener.port,
            rack: broker.rack.clone(),
        });
    }
}

impl InFlight {
    /// Second phase: waits until every batch is durable or the request's time is up. For `acks=0` there is no response,
    /// and nothing to wait for.
    pub async fn finish(self) -> Result<ProduceResponse, Unacknowledged> {
        if self.acks == 0 {
            let failed =
                self.topics.iter().flat_map(|topic| &topic.partitions).any(|(_, stage)| stage.is_err());
            return Err(if failed { Unacknowledged::Close } else { Unacknowledged::Silence });
        }
        let mut topics = Vec::with_capacity(self.topics.len());
        let mut endpoints = self.endpoints;
        for TopicInFlight { name, id, partitions: placed } in self.topics {
            let mut partitions = Vec::with_capacity(placed.len());
            for (index, stage) in placed {
                let outcome = match stage {
                    Ok(placed) => acknowledge(placed, self.deadline).await,
                    Err(Unplaced::Failed(failure)) => Err(failure),
                    Err(Unplaced::Leaving { partition, leaving }) => {
                        // Whoever cannot be told asks for metadata instead, and must find it right.
                        let known = if self.names_leaders { &leaving.told } else { &leaving.decided };
                        let _ = tokio::time::timeout_at(self.deadline, known.cancelled()).await;
                        let named = self.names_leaders.then(|| partition.tell_leader()).flatten();
                        Err(not_leader(&partition, named, &mut endpoints))
                    }
                };
                partitions.push((index, outcome));
            }
            topics.push(TopicResponse { name, id, partitions });
        }
        Ok(ProduceResponse { topics, endpoints })
    }
}

/// What to say of a partition that is leaving, or was about to.
fn not_leader(partition: &Partition, named: Option<(u32, i32)>, endpoints: &mut Vec<Endpoint>) -> Failure {
    let failure = Failure::from(ResponseError::NotLeaderOrFollower);
    match named {
        Some((leader, epoch)) if epoch > partition.leader_epoch => {
            add_endpoint(endpoints, &partition.metadata().image(), leader as i32);
            Failure { leader: Some((leader as i32, epoch)), ..failure }
        }
        _ => failure,
    }
}

async fn acknowledge(placed: Placed, deadline: Instant) -> Result<Acknowledged, Failure> {
    let Placed { appended, log_append_time, log_start } = placed;
    let acknowledged = Acknowledged {
        base_offset: appended.base_offset as i64,
        log_append_time_ms: if log_append_time { appended.max_timestamp } else { -1 },
        log_start: log_start as i64,
    };
    match tokio::time::timeout_at(deadline, appended.durable()).await {
        Ok(Ok(())) => Ok(acknowledged),
        Ok(Err(why)) => Err(Failure { message: Some(why.to_string()), ..error::of_storage(&why).into() }),
        // It is in the log's order and will be durable unless this broker fails: the outcome is unknown.
        Err(_) => Err(ResponseError::RequestTimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
    use kafka_protocol::messages::{ProduceRequest, TopicName};
    use kafka_protocol::protocol::Encodable;

    fn encoded(version: i16) -> BytesMut {
        let partition = |index: i32, records: &'static [u8]| {
            PartitionProduceData::default()
                .with_index(index)
                .with_records(Some(bytes::Bytes::from_static(records)))
        };
        let topic = TopicProduceData::default()
            .with_partition_data(vec![partition(0, b"records of 0"), partition(7, b"")]);
        let topic = if version >= TOPIC_IDS_FROM {
            topic.with_topic_id(Uuid::from_u128(5))
        } else {
            topic.with_name(TopicName(StrBytes::from_static_str("topic")))
        };
        let mut bytes = BytesMut::new();
        ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(1500)
            .with_topic_data(vec![topic])
            .encode(&mut bytes, version)
            .unwrap();
        bytes
    }

    #[test]
    fn every_version_is_read_without_copying_the_records() {
        for version in 3..=13 {
            let bytes = encoded(version);
            let within = bytes.as_ptr_range();
            let request = parse(version, bytes).unwrap();
            assert_eq!((request.acks, request.timeout), (-1, Duration::from_millis(1500)));
            let topic = &request.topics[0];
            if version >= TOPIC_IDS_FROM {
                assert_eq!(topic.id, Uuid::from_u128(5));
            } else {
                assert_eq!(&*topic.name, "topic");
            }
            let records = topic.partitions[0].1.as_ref().unwrap();
            assert_eq!(&records[..], b"records of 0");
            assert!(within.contains(&records.as_ptr()));
            assert_eq!(topic.partitions[1].0, 7);
        }
    }

    #[test]
    fn behaviour_16_truncated_and_lying_requests_are_malformed() {
        for version in 3..=13 {
            let whole = encoded(version);
            for length in 0..whole.len() {
                assert!(parse(version, BytesMut::from(&whole[..length])).is_err(), "{version} {length}");
            }
        }
        // As many topics, or partitions of one topic, as there are bytes for.
        let nameless = |count: u32, each: &[u8], before: &[u8]| {
            let mut bytes = BytesMut::from(&b"\0\0\x01\0\0\0\0"[..]);
            bytes.extend_from_slice(before);
            let mut writer = crate::api::wire::Writer { bytes, flexible: true };
            writer.count(count as usize);
            for _ in 0..count {
                writer.bytes.extend_from_slice(each);
            }
            writer.bytes.extend_from_slice(&[0, 0]);
            parse(9, writer.bytes)
        };
        assert_eq!(nameless(TOPICS_MAX as u32, &[1, 1, 0], &[]).unwrap().topics.len(), TOPICS_MAX);
        assert_eq!(nameless(TOPICS_MAX as u32 + 1, &[1, 1, 0], &[]).unwrap_err(), Malformed);
        let partitions = PARTITIONS_MAX as u32;
        assert!(nameless(partitions, &[0, 0, 0, 0, 0, 0], &[2, 1]).is_ok());
        assert_eq!(nameless(partitions + 1, &[0, 0, 0, 0, 0, 0], &[2, 1]).unwrap_err(), Malformed);
        // A null transactional id, acks, time-out, then 2^31-1 topics.
        let mut lying = BytesMut::from(&b"\xff\xff\0\x01\0\0\0\0\x7f\xff\xff\xff"[..]);
        assert_eq!(parse(3, lying.clone()).unwrap_err(), Malformed);
        lying.extend_from_slice(&[0; 1000]);
        assert_eq!(parse(3, lying).unwrap_err(), Malformed);
    }
}
