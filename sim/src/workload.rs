//! Clients that write and read, and write down what they asked and what they were told.
//!
//! ```text
//!   producers   idempotent; one batch at a time of 1–3 records, sent again until it is acknowledged or its time is over
//!   readers     assigned to all partitions, from the beginning; now and then they ask for the ends
//!   final       after everything was healed: read all, from the beginning
//! ```
//!
//! - **K1** Whatever may have happened is recorded as `info`: a request that was sent and not answered, whatever is answered
//!   to its repetition but success.
//! - **K2** A producer that did nothing wrong is never told that it did: a sequence that is out of order, a producer that is
//!   not known or was fenced is a finding by itself, unless an earlier outcome of that producer is unknown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use checker::{F, History, Key, Mop, Op, Polled, Type, Watermark};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, FetchRequest, InitProducerIdRequest, ListOffsetsRequest, ProduceRequest,
};
use kafka_protocol::protocol::StrBytes;
use ottla::records::{self, Builder, Producer};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::client::{Client, Failure, name};
use crate::machine;
use crate::world::World;

/// How long a batch is tried.
const SEND_TIME_MAX: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_millis(100);

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub topic: String,
    pub partition: i32,
}

/// What all clients share.
pub struct Shared {
    pub world: World,
    pub brokers: usize,
    pub places: Vec<(Place, Key)>,
    pub state: Mutex<State>,
}

pub struct State {
    pub history: History,
    /// Producers stop when it is set.
    pub stop: bool,
    pub producers: usize,
    /// What went wrong that no history tells.
    pub findings: Vec<String>,
    pub acknowledged: u64,
    pub unknown: u64,
    pub read: u64,
    /// The end of each partition behind the last record that was acknowledged.
    pub ends: BTreeMap<Key, i64>,
    pub final_reads: usize,
    next_value: u64,
}

impl Shared {
    pub fn new(world: World, brokers: usize, topics: &[(String, i32)]) -> Arc<Shared> {
        let mut history = History::new();
        let mut places = Vec::new();
        for (topic, partitions) in topics {
            for partition in 0..*partitions {
                let key = history.key(&format!("{topic}-{partition}"));
                places.push((Place { topic: topic.clone(), partition }, key));
            }
        }
        Arc::new(Shared {
            world,
            brokers,
            places,
            state: Mutex::new(State {
                history,
                stop: false,
                producers: 0,
                findings: Vec::new(),
                acknowledged: 0,
                unknown: 0,
                read: 0,
                ends: BTreeMap::new(),
                final_reads: 0,
                next_value: 0,
            }),
        })
    }

    fn record(&self, process: u32, kind: Type, f: F) {
        let time = machine::precise().unwrap_or_default().as_nanos() as u64;
        let recorded = self.state.lock().history.record(Op::new(process, kind, time, f));
        recorded.expect("the workload makes a history");
    }

    fn finding(&self, text: String) {
        self.world.note(format_args!("FINDING {text}"));
        self.state.lock().findings.push(text);
    }

    fn is_stopped(&self) -> bool {
        self.state.lock().stop
    }

    fn topics(&self) -> Vec<String> {
        let mut topics: Vec<String> = self.places.iter().map(|(place, _)| place.topic.clone()).collect();
        topics.dedup();
        topics
    }

    fn client(&self) -> Client {
        Client::new(self.world.clone(), self.brokers)
    }
}

/// Creates the topics, however long it takes.
pub async fn create_topics(shared: Arc<Shared>, configs: Vec<(String, String)>) {
    let mut client = shared.client();
    let mut counts: BTreeMap<String, i32> = BTreeMap::new();
    for (place, _) in &shared.places {
        *counts.entry(place.topic.clone()).or_default() += 1;
    }
    let configs: Vec<_> = configs
        .into_iter()
        .map(|(key, value)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_string(key))
                .with_value(Some(StrBytes::from_string(value)))
        })
        .collect();
    let wanted = counts
        .iter()
        .map(|(topic, partitions)| {
            CreatableTopic::default()
                .with_name(name(topic))
                .with_num_partitions(*partitions)
                .with_replication_factor(-1)
                .with_configs(configs.clone())
        })
        .collect();
    let request = CreateTopicsRequest::default().with_topics(wanted).with_timeout_ms(5_000);
    loop {
        let answer = client.call_any(&request).await;
        let codes =
            answer.map(|answer| answer.topics.iter().map(|topic| topic.error_code).collect::<Vec<_>>());
        shared.world.note(format_args!("topics: {codes:?}"));
        if codes.is_ok_and(|codes| codes.iter().all(|code| matches!(code, 0 | 36))) {
            return;
        }
        sleep(PAUSE).await;
    }
}

enum Sending {
    Acknowledged(Option<i64>),
    Refused(i16, String),
    Again { unknown: bool },
}

pub async fn producer(shared: Arc<Shared>, process: u32) {
    let mut client = shared.client();
    let topics = shared.topics();
    while !shared.is_stopped() {
        let Some(producer) = identity(&mut client).await else {
            sleep(PAUSE).await;
            continue;
        };
        let mut sequences: BTreeMap<Key, i32> = BTreeMap::new();
        while !shared.is_stopped() {
            let (place, key) = shared.places[client.pick(shared.places.len())].clone();
            let count = 1 + client.pick(3);
            let values: Vec<u64> = {
                let mut state = shared.state.lock();
                let first = state.next_value;
                state.next_value += count as u64;
                (first..first + count as u64).collect()
            };
            let sequence = sequences.entry(key).or_insert(0);
            let mut builder = Builder::new(host::clock::wall_ms());
            for value in &values {
                builder.push(None, Some(value.to_string().as_bytes()), &[]);
            }
            let batch = builder.finish(Some(producer), *sequence);
            let sends = |offset: Option<i64>| {
                let mop = |(at, value): (usize, &u64)| Mop::Send {
                    key,
                    value: *value,
                    offset: offset.map(|offset| offset + at as i64),
                };
                F::Send(values.iter().enumerate().map(mop).collect())
            };
            shared.record(process, Type::Invoke, sends(None));
            let until = Instant::now() + SEND_TIME_MAX;
            let mut unknown = false;
            let sent = loop {
                match attempt(&mut client, &topics, &place, &batch).await {
                    Sending::Again { unknown: is_unknown } if Instant::now() < until => {
                        unknown |= is_unknown;
                        sleep(PAUSE).await;
                    }
                    Sending::Again { unknown: is_unknown } => {
                        unknown |= is_unknown;
                        break Sending::Again { unknown };
                    }
                    ended => break ended,
                }
            };
            match sent {
                Sending::Acknowledged(offset) => {
                    shared.record(process, Type::Ok, sends(offset));
                    let mut state = shared.state.lock();
                    state.acknowledged += values.len() as u64;
                    if let Some(offset) = offset {
                        let end = state.ends.entry(key).or_default();
                        *end = (*end).max(offset + values.len() as i64);
                    }
                    drop(state);
                    *sequence += count as i32;
                }
                Sending::Refused(code, why) => {
                    // K2. Duplicates are looked for by the checker.
                    if matches!(code, 45 | 47 | 59) {
                        shared.finding(format!(
                            "producer {} was refused with error {code} on {place:?} at sequence {sequence}{}: {why}",
                            producer.id,
                            if unknown { ", repeating itself" } else { "" }
                        ));
                    }
                    let kind = if unknown { Type::Info } else { Type::Fail };
                    shared.record(process, kind, sends(None));
                    break;
                }
                Sending::Again { unknown } => {
                    let kind = if unknown { Type::Info } else { Type::Fail };
                    shared.state.lock().unknown += values.len() as u64;
                    shared.record(process, kind, sends(None));
                    break;
                }
            }
            let pause = client.pick(60) as u64;
            sleep(Duration::from_millis(pause)).await;
        }
        shared.record(process, Type::Info, F::Crash);
    }
    shared.state.lock().producers -= 1;
}

async fn identity(client: &mut Client) -> Option<Producer> {
    let request =
        InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000);
    let answer = client.call_any(&request).await.ok()?;
    (answer.error_code == 0).then_some(Producer { id: answer.producer_id.0, epoch: answer.producer_epoch })
}

async fn attempt(client: &mut Client, topics: &[String], place: &Place, batch: &bytes::Bytes) -> Sending {
    let Some(leader) = client.leader(&place.topic, place.partition) else {
        let _ = client.refresh(topics).await;
        return Sending::Again { unknown: false };
    };
    let data = PartitionProduceData::default().with_index(place.partition).with_records(Some(batch.clone()));
    let topic = TopicProduceData::default().with_name(name(&place.topic)).with_partition_data(vec![data]);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(6_000).with_topic_data(vec![topic]);
    match client.call(leader, &request).await {
        Err(failure) => {
            client.forget_leader(&place.topic, place.partition);
            Sending::Again { unknown: matches!(failure, Failure::Unknown) }
        }
        Ok(answer) => {
            let answer = &answer.responses[0].partition_responses[0];
            match answer.error_code {
                0 => Sending::Acknowledged((answer.base_offset >= 0).then_some(answer.base_offset)),
                // A duplicate whose offset is not known any more.
                46 => Sending::Acknowledged(None),
                // Of what is tried again: was not taken at all.
                code @ (3 | 5 | 6 | 9 | 19 | 56 | 74 | 75 | 76 | 89 | 100) => {
                    client.forget_leader(&place.topic, place.partition);
                    let _ = code;
                    Sending::Again { unknown: matches!(code, 56 | 6) }
                }
                // Timed out, or not enough replicas after it was appended: nobody knows.
                7 | 20 | -1 | 14 | 15 | 16 => {
                    client.forget_leader(&place.topic, place.partition);
                    Sending::Again { unknown: true }
                }
                code => {
                    let why = answer
                        .error_message
                        .as_ref()
                        .map(|why| format!("{why} by {leader}"))
                        .unwrap_or_default();
                    Sending::Refused(code, why)
                }
            }
        }
    }
}

/// Reads all partitions from the beginning for as long as the producers do, and a little longer.
pub async fn reader(shared: Arc<Shared>, process: u32) {
    let mut reading = Reading::begin(&shared, process);
    loop {
        if shared.is_stopped() && shared.state.lock().producers == 0 {
            return;
        }
        reading.poll(&shared).await;
        if reading.client.pick(8) == 0 {
            reading.ends(&shared).await;
        }
        let pause = reading.client.pick(200) as u64;
        sleep(Duration::from_millis(pause)).await;
    }
}

/// Reads everything once more.
pub async fn final_reader(shared: Arc<Shared>, process: u32) {
    let mut reading = Reading::begin(&shared, process);
    loop {
        reading.poll(&shared).await;
        let ends = shared.state.lock().ends.clone();
        let behind = ends.iter().any(|(key, end)| reading.positions.get(key).is_none_or(|at| at < end));
        if !behind && reading.is_at_the_end(&shared).await {
            break;
        }
        sleep(PAUSE).await;
    }
    shared.state.lock().final_reads += 1;
}

struct Reading {
    client: Client,
    topics: Vec<String>,
    positions: BTreeMap<Key, i64>,
    process: u32,
}

impl Reading {
    fn begin(shared: &Shared, process: u32) -> Reading {
        let keys: Vec<Key> = shared.places.iter().map(|(_, key)| *key).collect();
        shared.record(process, Type::Ok, F::Assign { keys: keys.clone(), seek: true });
        Reading {
            client: shared.client(),
            topics: shared.topics(),
            positions: keys.into_iter().map(|key| (key, 0)).collect(),
            process,
        }
    }

    /// One fetch of what one broker leads.
    async fn poll(&mut self, shared: &Shared) {
        let (some, _) = &shared.places[self.client.pick(shared.places.len())];
        let Some(leader) = self.client.leader(&some.topic, some.partition) else {
            let _ = self.client.refresh(&self.topics).await;
            return;
        };
        let mut by_topic: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
        let mut keys = BTreeMap::new();
        for (place, key) in &shared.places {
            if self.client.leader(&place.topic, place.partition) == Some(leader) {
                keys.insert((place.topic.clone(), place.partition), *key);
                by_topic.entry(&place.topic).or_default().push(
                    FetchPartition::default()
                        .with_partition(place.partition)
                        .with_current_leader_epoch(-1)
                        .with_last_fetched_epoch(-1)
                        .with_fetch_offset(self.positions[key])
                        .with_log_start_offset(-1)
                        .with_partition_max_bytes(1 << 20),
                );
            }
        }
        let topics = by_topic
            .into_iter()
            .map(|(topic, partitions)| {
                FetchTopic::default().with_topic(name(topic)).with_partitions(partitions)
            })
            .collect();
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(500)
            .with_min_bytes(1)
            .with_max_bytes(4 << 20)
            .with_session_epoch(-1)
            .with_topics(topics);
        shared.record(self.process, Type::Invoke, F::poll(Vec::new()));
        let Ok(answer) = self.client.call(leader, &request).await else {
            for (topic, partition) in keys.keys() {
                self.client.forget_leader(topic, *partition);
            }
            shared.record(self.process, Type::Fail, F::poll(Vec::new()));
            return;
        };
        let mut polled = Vec::new();
        let mut out_of_range = Vec::new();
        for topic in answer.responses {
            let topic_name = topic.topic.0.to_string();
            for partition in topic.partitions {
                let place = (topic_name.clone(), partition.partition_index);
                let Some(key) = keys.get(&place).copied() else { continue };
                match partition.error_code {
                    0 => {}
                    1 => {
                        out_of_range.push(key);
                        continue;
                    }
                    _ => {
                        self.client.forget_leader(&place.0, place.1);
                        continue;
                    }
                }
                let at = self.positions[&key];
                let Some(bytes) = partition.records else { continue };
                match records::decode(bytes, at) {
                    Ok(decoded) => {
                        for record in decoded.records {
                            let text = record.value.unwrap_or_default();
                            let value = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
                            match value {
                                Some(value) => polled.push(Polled { key, offset: record.offset, value }),
                                None => shared.finding(format!("{place:?} at {}: {text:?}", record.offset)),
                            }
                        }
                        if let Some(next) = decoded.next {
                            self.positions.insert(key, next);
                        }
                    }
                    Err(error) => shared.finding(format!("{place:?} from {at}: {error}")),
                }
            }
        }
        shared.state.lock().read += polled.len() as u64;
        shared.record(self.process, Type::Ok, F::poll(polled));
        for key in out_of_range {
            let offset = self.positions[&key];
            // Nothing is deleted here, so no position was ever out of range.
            shared.finding(format!("a position of a reader, {offset}, is out of range: {key:?}"));
            shared.record(self.process, Type::Ok, F::OutOfRange { key, offset });
        }
    }

    async fn ends(&mut self, shared: &Shared) {
        shared.record(self.process, Type::Invoke, F::Watermarks(Vec::new()));
        let (place, key) = shared.places[self.client.pick(shared.places.len())].clone();
        match self.end_of(&place).await {
            Some(end) => {
                let seen = vec![Watermark { key, start: 0, end }];
                shared.record(self.process, Type::Ok, F::Watermarks(seen));
            }
            None => shared.record(self.process, Type::Fail, F::Watermarks(Vec::new())),
        }
    }

    async fn end_of(&mut self, place: &Place) -> Option<i64> {
        let leader = self.client.leader(&place.topic, place.partition)?;
        let partition = ListOffsetsPartition::default()
            .with_partition_index(place.partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(-1);
        let topic =
            ListOffsetsTopic::default().with_name(name(&place.topic)).with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        let answer = self.client.call(leader, &request).await.ok()?;
        let answer = &answer.topics[0].partitions[0];
        (answer.error_code == 0 && answer.offset >= 0).then_some(answer.offset)
    }

    async fn is_at_the_end(&mut self, shared: &Shared) -> bool {
        for (place, key) in &shared.places {
            match self.end_of(place).await {
                Some(end) if self.positions[key] >= end => {}
                _ => return false,
            }
        }
        true
    }
}
