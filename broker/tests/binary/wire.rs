//! A client that speaks raw frames over a blocking socket, and a neighbour that notices when somebody else's misdeeds
//! harm it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    ApiKey, FetchRequest, ProduceRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};

use crate::process::{DEADLINE, Ottla, run, wait_until};
use crate::testing;

/// Of a produce request: a healthy broker is far from it, however slow the machine.
const PRODUCE_TIMEOUT: Duration = Duration::from_secs(60);

/// One connection.
pub struct Wire {
    pub stream: TcpStream,
    correlation_id: i32,
}

impl Wire {
    pub fn connect(broker: &Ottla) -> Wire {
        Wire::connect_to(broker.port).unwrap()
    }

    /// # Errors
    /// If nobody listens there.
    pub fn connect_to(port: u16) -> io::Result<Wire> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Wire { stream, correlation_id: 0 })
    }

    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        self.correlation_id += 1;
        self.stream.write_all(&frame(version, self.correlation_id, request))?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut response = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut response)?;
        let mut response = Bytes::from(response);
        let key = ApiKey::try_from(R::KEY).unwrap();
        let header = ResponseHeader::decode(&mut response, key.response_header_version(version)).unwrap();
        assert_eq!(header.correlation_id, self.correlation_id, "responses out of order");
        Ok(R::Response::decode(&mut response, version).unwrap())
    }

    /// Produces one batch to partition 0.
    pub fn produce(&mut self, topic: &str, batch: &[u8]) -> io::Result<PartitionProduceResponse> {
        self.produce_within(PRODUCE_TIMEOUT, topic, batch)
    }

    /// The same, where the broker may not be able to.
    pub fn produce_within(
        &mut self,
        timeout: Duration,
        topic: &str,
        batch: &[u8],
    ) -> io::Result<PartitionProduceResponse> {
        let data =
            PartitionProduceData::default().with_index(0).with_records(Some(Bytes::copy_from_slice(batch)));
        let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(timeout.as_millis() as i32)
            .with_topic_data(vec![topic]);
        let mut response = self.call(9, &request)?;
        Ok(response.responses.remove(0).partition_responses.remove(0))
    }

    /// Fetches once from partition 0.
    pub fn fetch(&mut self, topic: &str, offset: i64) -> io::Result<PartitionData> {
        self.fetch_up_to(topic, offset, 1 << 20)
    }

    /// The same, of so many bytes if the broker likes.
    pub fn fetch_up_to(&mut self, topic: &str, offset: i64, bytes: i32) -> io::Result<PartitionData> {
        let partition = FetchPartition::default()
            .with_current_leader_epoch(-1)
            .with_last_fetched_epoch(-1)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(bytes);
        let request = FetchRequest::default()
            .with_max_bytes(bytes.max(50 << 20))
            .with_min_bytes(1)
            .with_max_wait_ms(500)
            .with_session_epoch(-1)
            .with_topics(vec![
                FetchTopic::default().with_topic(name(topic)).with_partitions(vec![partition]),
            ]);
        let mut response = self.call(12, &request)?;
        assert_eq!(response.error_code, 0);
        Ok(response.responses.remove(0).partitions.remove(0))
    }

    /// Says that nothing more will be sent, and takes what still comes, until the broker has closed the connection.
    pub fn finish(mut self) -> Vec<u8> {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        self.closed()
    }

    /// Waits until the broker closes the connection by itself; what it sent before that.
    pub fn closed(&mut self) -> Vec<u8> {
        let mut received = Vec::new();
        match self.stream.read_to_end(&mut received) {
            Ok(_) => {}
            // Closed with bytes of ours unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the broker did not close the connection: {error}"),
        }
        received
    }
}

/// A whole frame: length, header, body.
pub fn frame<R: Request>(version: i16, correlation_id: i32, request: &R) -> Vec<u8> {
    let mut body = BytesMut::new();
    request.encode(&mut body, version).unwrap();
    raw_frame(ApiKey::try_from(R::KEY).unwrap(), version, correlation_id, &body)
}

/// A frame with a proper header and any body.
pub fn raw_frame(key: ApiKey, version: i16, correlation_id: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    bytes.put_i32(0);
    RequestHeader::default()
        .with_request_api_key(key as i16)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_static_str("wire")))
        .encode(&mut bytes, key.request_header_version(version))
        .unwrap();
    bytes.put_slice(body);
    let length = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes.to_vec()
}

pub fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// Somebody who produces and consumes all the while, on one connection for each, and takes no error for an answer.
pub struct Neighbour {
    rounds: Arc<AtomicU64>,
    leaving: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Neighbour {
    const TOPIC: &str = "neighbour";

    pub fn move_in(broker: &Ottla) -> Neighbour {
        run(&mut broker.cli(&["topic", "create", Neighbour::TOPIC]));
        let (mut producer, mut consumer) = (Wire::connect(broker), Wire::connect(broker));
        let rounds = Arc::new(AtomicU64::new(0));
        let leaving = Arc::new(AtomicBool::new(false));
        let (counted, left) = (rounds.clone(), leaving.clone());
        let thread = std::thread::spawn(move || {
            while !left.load(Ordering::Relaxed) {
                let round = counted.load(Ordering::Relaxed) as i64;
                let batch = testing::batch(1, |spec| spec.base_timestamp = 1_000_000 + round);
                let produced = producer.produce(Neighbour::TOPIC, &batch).expect("the producer is served");
                assert_eq!((produced.error_code, produced.base_offset), (0, round));
                let fetched = consumer.fetch(Neighbour::TOPIC, round).expect("the consumer is served");
                assert_eq!((fetched.error_code, fetched.high_watermark), (0, round + 1));
                // The base timestamp, which tells this batch from any other.
                let records = fetched.records.expect("a batch");
                assert_eq!(records[27..35], batch[27..35]);
                counted.fetch_add(1, Ordering::Relaxed);
                // It is to notice trouble, not to take the whole machine.
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let neighbour = Neighbour { rounds, leaving, thread: Some(thread) };
        neighbour.goes_on();
        neighbour
    }

    /// Waits until it has produced and consumed some more, begun after this call.
    pub fn goes_on(&self) {
        let wanted = self.rounds.load(Ordering::Relaxed) + 3;
        wait_until("the neighbour waits in vain", || {
            let thread = self.thread.as_ref().expect("it has not moved out");
            assert!(!thread.is_finished(), "the neighbour was harmed");
            self.rounds.load(Ordering::Relaxed) >= wanted
        });
    }

    /// It was unharmed to the end.
    pub fn move_out(mut self) {
        self.goes_on();
        self.leaving.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it moves out once");
        assert!(thread.join().is_ok(), "the neighbour was harmed");
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.leaving.store(true, Ordering::Relaxed);
    }
}
