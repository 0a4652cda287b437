//! Batches that came while their partition was on its way to another broker: they are sent on to that one.
//!
//! ```text
//!   producer ──Produce──► last leader: has stopped, and holds the batch
//!                              │ the entry that gives the partition away is written
//!                              └──Produce──► next leader: waits until it leads, appends, acknowledges
//!   producer ◄───────its answer┘◄────────────────┘
//! ```
//!
//! A producer that is told to go elsewhere lets its `retry.backoff.ms` pass first, 100 ms unless somebody changed it, and nobody
//! writes to the partition meanwhile. So what it had sent by then is not refused, but taken along. What it sends later is told
//! who leads.
//!
//! # Guarantees
//! - **K1** This broker acknowledges what the next leader acknowledged, and nothing else: that answer, error or offset, is what
//!   the producer gets.
//! - **K2** Batches of one connection arrive in the order in which they were sent: a request is sent on only when the answer to
//!   the one before it is there, and what is told to go elsewhere is told so behind that.
//! - **K3** A batch that may have been taken is never answered as one that was not: its time is up. A producer may send what was
//!   refused under another sequence number; what may be there it must not.
//! - **K4** What is held is bounded: it keeps its room in the log cache, for twice
//!   [`Limits::stopped_max`](crate::partition::handover::Limits::stopped_max) at most, so that a next leader that hangs does not take it
//!   from others for as long as producers have patience. At most
//!   [`Limits::forwards_max`](crate::partition::handover::Limits::forwards_max) requests are sent on at a time. The others are told who
//!   leads, as they would be without any of this.
//!
//! # Retries
//! None: the producer's own.
//!
//! # Cancellation
//! Dropping the future closes the connection; what was sent may be taken.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::join_all;
use host::net::Stream;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use s3stream::Admission;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::info;
use uuid::Uuid;

use super::produce_response::{Acknowledged, Failure};
use super::wire::{Malformed, Reader, Writer};
use crate::metadata::image::Listener;
use crate::partition::{Leaving, Partition};

/// With topic ids: whoever has the next leader's address meanwhile, in another cluster, takes nothing.
const VERSION: i16 = 13;
const CORRELATION_ID: i32 = 1;
const CLIENT_ID: &str = "ottla";

/// How long it may take to connect. No option: brokers that do not reach each other in this time are not up to date with each
/// other either, and the producer finds its way by itself.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// Of an answer. No option: an entry for each batch, and what may be wrong with each, which was checked here already.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Of a topic with its partition, of that partition alone, and of what is wrong with a record, in an answer.
const TOPIC_BYTES_MIN: usize = 16 + 1 + PARTITION_BYTES_MIN + 1;
const PARTITION_BYTES_MIN: usize = 4 + 2 + 3 * 8 + 1 + 1 + 1;
const RECORD_ERROR_BYTES_MIN: usize = 4 + 1 + 1;

/// Small pieces are written together.
const WRITE_BYTES: usize = 16 << 10;

/// A batch whose partition is on its way to another broker.
#[derive(Debug)]
pub(super) struct Held {
    pub partition: Arc<Partition>,
    pub leaving: Leaving,
    pub records: Bytes,
    pub since: Instant,
    /// Its room in the log cache (K4).
    pub _room: Admission,
    /// Requests that may be sent on.
    pub forwards: Arc<Semaphore>,
}

/// What became of a batch.
#[derive(Debug)]
pub(super) enum Sent {
    Answered(Result<Acknowledged, Failure>),
    /// The next leader did not get it, or does not lead.
    NotTaken,
    /// Nobody knows (K3).
    Unknown,
}

/// Topic and partition.
type Place = (Uuid, i32);

/// Waits until it is decided where the partitions of `held` go, and sends the batches there. In the order of `held`.
pub(super) async fn send_on(held: Vec<Held>, deadline: Instant) -> Vec<Sent> {
    let mut by_next: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (at, one) in held.iter().enumerate() {
        let until = deadline.min(one.since + one.partition.handover().stopped_max);
        if timeout_at(until, one.leaving.told.cancelled()).await.is_err() {
            continue;
        }
        match one.partition.current_leader() {
            Some((next, epoch)) if epoch > one.partition.leader_epoch => {
                by_next.entry(next).or_default().push(at)
            }
            _ => {}
        }
    }
    let sending = by_next.iter().map(|(next, batches)| {
        let batches: Vec<&Held> = batches.iter().map(|at| &held[*at]).collect();
        async move { to_next(*next, &batches, deadline).await }
    });
    let answers = join_all(sending).await;
    let mut sent: Vec<Sent> = held.iter().map(|_| Sent::NotTaken).collect();
    for (at, answer) in by_next.into_values().flatten().zip(answers.into_iter().flatten()) {
        sent[at] = answer;
    }
    sent
}

async fn to_next(next: u32, batches: &[&Held], deadline: Instant) -> Vec<Sent> {
    let first = batches[0];
    let image = first.partition.metadata().image();
    let until = deadline.min(first.since + 2 * first.partition.handover().stopped_max);
    let (Some(broker), Ok(_turn)) = (image.broker(next), first.forwards.try_acquire()) else {
        return batches.iter().map(|_| Sent::NotTaken).collect();
    };
    let places = batches.iter().map(|held| (held.partition.topic_id, held.partition.index)).collect();
    let records = batches.iter().map(|held| held.records.clone()).collect();
    send(&broker.listener, places, records, until).await
}

/// Sends `records` to the broker that listens there.
async fn send(listener: &Listener, places: Vec<Place>, records: Vec<Bytes>, deadline: Instant) -> Vec<Sent> {
    let not_taken = || places.iter().map(|_| Sent::NotTaken).collect();
    let connecting = host::net::connect(&listener.host, listener.port);
    let connected = timeout_at(deadline.min(Instant::now() + CONNECT_MAX), connecting).await;
    let Ok(Ok(stream)) = connected else { return not_taken() };
    let time_left = deadline.saturating_duration_since(Instant::now());
    let Some(request) = request(&places, records, time_left) else { return not_taken() };
    let exchange = timeout_at(deadline, exchange(stream, &request, &places)).await;
    exchange.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())).unwrap_or_else(|error| {
        info!(address = %listener.host, port = listener.port, %error, "batches were sent on, and nothing was answered");
        places.iter().map(|_| Sent::Unknown).collect()
    })
}

async fn exchange(stream: Stream, request: &[Bytes], places: &[Place]) -> Result<Vec<Sent>, Error> {
    let (mut from, to) = stream.into_split();
    let mut to = BufWriter::with_capacity(WRITE_BYTES, to);
    for piece in request {
        to.write_all(piece).await?;
    }
    to.flush().await?;
    let invalid = |what: &str| Error::new(ErrorKind::InvalidData, what.to_owned());
    let length = usize::try_from(from.read_i32().await?).ok().filter(|length| *length <= ANSWER_BYTES_MAX);
    let mut frame = BytesMut::zeroed(length.ok_or_else(|| invalid("an answer that is too long"))?);
    from.read_exact(&mut frame).await?;
    answer(frame, places).map_err(|Malformed| invalid("it is not an answer to what was asked"))
}

/// A whole frame, in pieces; `None` if it is longer than a frame can be. Each batch is a topic of its own, so that the answer has
/// as many, in the same order.
fn request(places: &[Place], records: Vec<Bytes>, time_left: Duration) -> Option<Vec<Bytes>> {
    let mut pieces = Vec::with_capacity(2 * places.len() + 2);
    let mut writer = Writer { bytes: BytesMut::new(), flexible: true };
    writer.bytes.put_i16(ApiKey::Produce as i16);
    writer.bytes.put_i16(VERSION);
    writer.bytes.put_i32(CORRELATION_ID);
    writer.bytes.put_i16(CLIENT_ID.len() as i16);
    writer.bytes.put_slice(CLIENT_ID.as_bytes());
    writer.tagged_fields(&[]);
    // No transactional id.
    writer.nullable_string(None);
    writer.bytes.put_i16(-1);
    writer.bytes.put_i32(i32::try_from(time_left.as_millis()).unwrap_or(i32::MAX));
    writer.count(places.len());
    for ((topic, index), records) in places.iter().zip(records) {
        writer.uuid(*topic);
        writer.count(1);
        writer.bytes.put_i32(*index);
        writer.count(records.len());
        pieces.push(writer.bytes.split().freeze());
        pieces.push(records);
        // Of the partition, and of the topic.
        writer.tagged_fields(&[]);
        writer.tagged_fields(&[]);
    }
    writer.tagged_fields(&[]);
    pieces.push(writer.bytes.freeze());
    let length = i32::try_from(pieces.iter().map(Bytes::len).sum::<usize>()).ok()?;
    pieces.insert(0, Bytes::copy_from_slice(&length.to_be_bytes()));
    Some(pieces)
}

/// What a frame, without its length, says of each of `places`.
fn answer(frame: BytesMut, places: &[Place]) -> Result<Vec<Sent>, Malformed> {
    let mut reader = Reader { bytes: frame, flexible: true };
    if reader.i32()? != CORRELATION_ID {
        return Err(Malformed);
    }
    reader.tagged_fields()?;
    if reader.array(TOPIC_BYTES_MIN)? != places.len() {
        return Err(Malformed);
    }
    let mut sent = Vec::with_capacity(places.len());
    for place in places {
        let topic = reader.uuid()?;
        if reader.array(PARTITION_BYTES_MIN)? != 1 || (topic, reader.i32()?) != *place {
            return Err(Malformed);
        }
        sent.push(outcome(&mut reader)?);
        reader.tagged_fields()?;
    }
    // The time of throttling, and who listens where.
    reader.i32()?;
    reader.tagged_fields()?;
    if !reader.bytes.is_empty() {
        return Err(Malformed);
    }
    Ok(sent)
}

fn outcome(reader: &mut Reader) -> Result<Sent, Malformed> {
    let code = reader.i16()?;
    let acknowledged = Acknowledged {
        base_offset: reader.i64()?,
        log_append_time_ms: reader.i64()?,
        log_start: reader.i64()?,
    };
    let mut records = Vec::new();
    for _ in 0..reader.array(RECORD_ERROR_BYTES_MIN)? {
        let at = reader.i32()?;
        records.push((at, reader.nullable_string()?.map_or_else(String::new, |message| message.to_string())));
        reader.tagged_fields()?;
    }
    let message = reader.nullable_string()?.map(|message| message.to_string());
    reader.tagged_fields()?;
    Ok(match code {
        0 => Sent::Answered(Ok(acknowledged)),
        code => match ResponseError::try_from_code(code).unwrap_or(ResponseError::UnknownServerError) {
            // Who leads is said by this broker, as far as it knows.
            ResponseError::NotLeaderOrFollower | ResponseError::UnknownTopicId => Sent::NotTaken,
            code => Sent::Answered(Err(Failure { code, message, records, leader: None })),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::produce::parse;
    use super::super::produce_response::{ProduceResponse, TopicResponse};
    use super::*;

    const PLACES: [Place; 3] = [(Uuid::from_u128(7), 0), (Uuid::from_u128(5), 300), (Uuid::from_u128(7), 0)];

    #[test]
    fn what_is_sent_on_is_a_request_as_any_other() {
        let records = [&b"first"[..], b"", b"the same partition again"].map(Bytes::from_static);
        let pieces = request(&PLACES, records.to_vec(), Duration::from_millis(1_500)).unwrap();
        let mut frame = BytesMut::from(&pieces.concat()[..]);
        let length = frame.split_to(4);
        assert_eq!(length[..], (frame.len() as i32).to_be_bytes());
        let header = [&[0, 0, 0, 13, 0, 0, 0, 1, 0, 5][..], b"ottla", &[0]].concat();
        assert_eq!(frame.split_to(header.len())[..], header);
        let (timeout, batches) = parse(VERSION, frame).unwrap().batches();
        assert_eq!(timeout, Duration::from_millis(1_500));
        let expected = PLACES.iter().zip(records).map(|((topic, index), records)| (*topic, *index, records));
        assert!(
            batches.into_iter().map(|(topic, index, records)| (topic, index, records.freeze())).eq(expected)
        );
    }

    fn answered() -> BytesMut {
        let acknowledged = Acknowledged { base_offset: 1 << 40, log_append_time_ms: -1, log_start: 3 };
        let invalid = Failure {
            message: Some("one record is at fault".to_owned()),
            records: vec![(2, "this one".to_owned())],
            ..ResponseError::InvalidRecord.into()
        };
        let misled = Failure { leader: Some((2, 9)), ..ResponseError::NotLeaderOrFollower.into() };
        let outcomes = [Ok(acknowledged), Err(invalid), Err(misled)];
        let topic = |((id, index), outcome): (&Place, _)| TopicResponse {
            name: Default::default(),
            id: *id,
            partitions: vec![(*index, outcome)],
        };
        let topics = PLACES.iter().zip(outcomes).map(topic).collect();
        let response = ProduceResponse { topics, endpoints: vec![] }.encode(VERSION, CORRELATION_ID).unwrap();
        let mut frame = BytesMut::from(&response.segments().cloned().collect::<Vec<_>>().concat()[..]);
        frame.split_off(4)
    }

    #[test]
    fn k1_an_answer_is_passed_on_as_it_is() {
        let mut sent = answer(answered(), &PLACES).unwrap().into_iter();
        let expected = Acknowledged { base_offset: 1 << 40, log_append_time_ms: -1, log_start: 3 };
        assert!(matches!(sent.next(), Some(Sent::Answered(Ok(acknowledged))) if acknowledged == expected));
        let Some(Sent::Answered(Err(failure))) = sent.next() else { panic!("it was refused") };
        assert_eq!(
            (failure.code, failure.records),
            (ResponseError::InvalidRecord, vec![(2, "this one".to_owned())])
        );
        assert_eq!(failure.message.as_deref(), Some("one record is at fault"));
        assert!(matches!(sent.next(), Some(Sent::NotTaken)));
    }

    /// Nothing is believed that is not an answer to what was asked, all of it.
    #[test]
    fn k3_whatever_else_comes_is_no_answer() {
        let whole = answered();
        for end in 0..whole.len() {
            assert!(answer(BytesMut::from(&whole[..end]), &PLACES).is_err(), "the first {end} bytes");
        }
        let mut longer = whole.clone();
        longer.put_u8(0);
        assert!(answer(longer, &PLACES).is_err());
        let mut others = PLACES;
        others.swap(0, 1);
        assert!(answer(whole.clone(), &others).is_err(), "of other partitions");
        assert!(answer(whole.clone(), &PLACES[..2]).is_err(), "of more than was asked");
        let mut late = whole;
        late[3] = 2;
        assert!(answer(late, &PLACES).is_err(), "to another request");
    }

    /// What a listener that does `answering` with each connection makes of a batch.
    async fn sent_to(answering: impl AsyncFn(&mut tokio::net::TcpStream)) -> Sent {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Listener { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let length = stream.read_i32().await.unwrap();
            stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
            answering(&mut stream).await;
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let sending = send(&address, vec![PLACES[0]], vec![Bytes::from_static(b"records")], deadline);
        tokio::join!(sending, answering).0.pop().unwrap()
    }

    #[tokio::test]
    async fn k3_what_may_be_there_is_not_said_to_be_refused() {
        assert!(matches!(sent_to(async |_| ()).await, Sent::Unknown), "closed");
        let half = sent_to(async |stream| stream.write_all(&[0, 0, 1, 0, 0, 0, 0, 1]).await.unwrap()).await;
        assert!(matches!(half, Sent::Unknown), "closed within the answer");
        let huge = sent_to(async |stream| stream.write_all(&[0x7f; 8]).await.unwrap()).await;
        assert!(matches!(huge, Sent::Unknown), "an answer beyond all bounds");
        // Nobody listens: nobody has got it.
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let address = Listener { host: "127.0.0.1".into(), port };
        let deadline = Instant::now() + Duration::from_secs(60);
        let sent = send(&address, vec![PLACES[0]], vec![Bytes::new()], deadline).await;
        assert!(matches!(sent[..], [Sent::NotTaken]));
    }
}
