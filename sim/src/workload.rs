//! What all clients share, and those that write. Everybody writes down what was asked and what was told.
//!
//! ```text
//!   producers   here         idempotent; one batch at a time of 1–3 records, sent again until it is acknowledged or its time is over
//!   readers     reading.rs   assigned to all partitions, from the beginning; now and then they ask for the ends
//!   members     members.rs   of consumer groups: they join, read, commit, leave, or are gone without a word
//!   admin       admin.rs     moves partitions, deletes records, creates and deletes topics
//!   final       reading.rs   after everything was healed: read all, from the beginning
//! ```
//!
//! - **K1** Whatever may have happened is recorded as `info`: a request that was sent and not answered, whatever is answered
//!   to its repetition but success.
//! - **K2** A producer that did nothing wrong is never told that it did: a sequence that is out of order, a producer that is
//!   not known or was fenced is a finding by itself, unless an earlier outcome of that producer is unknown.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use checker::{F, Group, History, Key, Mop, Op, Type};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{CreateTopicsRequest, InitProducerIdRequest, ProduceRequest};
use kafka_protocol::protocol::StrBytes;
use ottla::records::{Builder, Producer};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::client::{Client, Failure, name};
use crate::machine;
use crate::world::World;

/// How long a batch is tried.
const SEND_TIME_MAX: Duration = Duration::from_secs(40);
pub const PAUSE: Duration = Duration::from_millis(100);

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub topic: String,
    pub partition: i32,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.topic, self.partition)
    }
}

/// What may delete records of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletes {
    Nothing,
    /// DeleteRecords.
    Asked,
    /// Retention by size; `retention.bytes`.
    Size(u64),
    /// Retention by age; `retention.ms`.
    Age(u64),
}

/// A topic of the load.
#[derive(Clone, Debug)]
pub struct Topic {
    pub name: String,
    pub partitions: i32,
    pub deletes: Deletes,
}

/// What all clients share.
pub struct Shared {
    pub world: World,
    pub brokers: usize,
    pub topics: Vec<Topic>,
    pub places: Vec<(Place, Key)>,
    pub groups: Vec<(String, Group)>,
    /// Of all brokers.
    pub longest_lease: Duration,
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
    /// Members of groups that are still at it.
    pub members: usize,
    /// What was committed and acknowledged, the furthest.
    pub committed: BTreeMap<(Group, Key), i64>,
    pub commits: u64,
    /// Of each partition: what anybody was told of its start and its end, and when; and up to where anybody asked to
    /// delete.
    told: BTreeMap<Key, Vec<Told>>,
    pub asked: BTreeMap<Key, i64>,
    /// The batches of each partition: the end of each, and its bytes; and the bytes of those that may be in it.
    batches: BTreeMap<Key, Vec<(i64, u64)>>,
    doubtful: BTreeMap<Key, u64>,
    pub moves: u64,
    /// What went wrong with each partition last, and when.
    troubles: BTreeMap<Place, (Duration, String)>,
    /// Topics that are gone for good.
    pub deleted: Vec<String>,
    next_value: u64,
}

/// How far a log reached, as somebody was told.
#[derive(Clone, Copy)]
struct Told {
    at: Duration,
    start: i64,
    end: i64,
}

/// Where errors are shown if something is not done in the end.
const TROUBLES_SHOWN: usize = 4;

impl State {
    /// What is not done yet, and why.
    pub fn undone(&self) -> String {
        let mut troubles: Vec<_> = self.troubles.iter().collect();
        troubles.sort_by_key(|(_, (at, _))| std::cmp::Reverse(*at));
        let troubles = troubles.into_iter().take(TROUBLES_SHOWN);
        let troubles: Vec<String> =
            troubles.map(|(place, (at, what))| format!("{place}: {what} at {at:?}")).collect();
        let (producers, members, reads) = (self.producers, self.members, self.final_reads);
        format!(
            "{producers} producers and {members} members are still at it, {reads} final reads; {}",
            troubles.join(", ")
        )
    }

    fn tell(&mut self, key: Key, at: Duration, start: i64, end: i64) {
        let told = self.told.entry(key).or_default();
        let last = told.last().copied().unwrap_or(Told { at, start: 0, end: 0 });
        told.push(Told { at, start: start.max(last.start), end: end.max(last.end) });
    }
}

fn now() -> Duration {
    machine::precise().unwrap_or_default()
}

impl Shared {
    pub fn new(
        world: World,
        brokers: usize,
        topics: &[Topic],
        groups: usize,
        longest_lease: Duration,
    ) -> Arc<Shared> {
        let mut history = History::new();
        let mut places = Vec::new();
        for Topic { name: topic, partitions, .. } in topics {
            for partition in 0..*partitions {
                let key = history.key(&format!("{topic}-{partition}"));
                places.push((Place { topic: topic.clone(), partition }, key));
            }
        }
        let groups = (0..groups)
            .map(|number| format!("group-{number}"))
            .map(|name| (name.clone(), history.group(&name)))
            .collect();
        Arc::new(Shared {
            world,
            brokers,
            topics: topics.to_vec(),
            places,
            groups,
            longest_lease,
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
                members: 0,
                committed: BTreeMap::new(),
                commits: 0,
                told: BTreeMap::new(),
                troubles: BTreeMap::new(),
                asked: BTreeMap::new(),
                batches: BTreeMap::new(),
                doubtful: BTreeMap::new(),
                moves: 0,
                deleted: Vec::new(),
                next_value: 0,
            }),
        })
    }

    pub fn record(&self, process: u32, kind: Type, f: F) {
        let time = machine::precise().unwrap_or_default().as_nanos() as u64;
        let recorded = self.state.lock().history.record(Op::new(process, kind, time, f));
        recorded.expect("the workload makes a history");
    }

    pub fn finding(&self, text: String) {
        self.world.note(format_args!("FINDING {text}"));
        self.state.lock().findings.push(text);
    }

    pub fn is_stopped(&self) -> bool {
        self.state.lock().stop
    }

    pub fn topics(&self) -> Vec<String> {
        self.topics.iter().map(|topic| topic.name.clone()).collect()
    }

    pub fn deletes(&self, place: &Place) -> Deletes {
        let topic = self.topics.iter().find(|topic| topic.name == place.topic);
        topic.map_or(Deletes::Nothing, |topic| topic.deletes)
    }

    /// The furthest start, and the end of what was acknowledged, that anybody had been told of so long ago.
    pub fn known(&self, key: Key, ago: Duration) -> (i64, i64) {
        let Some(until) = now().checked_sub(ago) else { return (0, 0) };
        let state = self.state.lock();
        let told = state.told.get(&key).into_iter().flatten().rev().find(|told| told.at <= until);
        told.map_or((0, 0), |told| (told.start, told.end))
    }

    pub fn trouble(&self, place: &Place, what: String) {
        self.state.lock().troubles.insert(place.clone(), (now(), what));
    }

    /// Somebody was told that a log begins there.
    pub fn starts_at(&self, place: &Place, key: Key, start: i64) {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.tell(key, now(), start, 0);
        let asked = state.asked.get(&key).copied().unwrap_or_default();
        let wrong = match self.deletes(place) {
            Deletes::Nothing => (start > 0).then(|| "nothing deletes there".to_owned()),
            Deletes::Asked => (start > asked).then(|| format!("it was asked to begin at {asked}")),
            Deletes::Size(bytes) => {
                let kept = state.batches.get(&key).into_iter().flatten().filter(|(end, _)| *end > start);
                let kept: u64 = kept.map(|(_, bytes)| bytes).sum();
                let more = state.doubtful.get(&key).copied().unwrap_or_default();
                (start > 0 && kept + more < bytes)
                    .then(|| format!("it keeps {kept} bytes and at most {more} more, of {bytes}"))
            }
            // Clocks go wrong.
            Deletes::Age(_) => None,
        };
        if let Some(wrong) = wrong {
            state.findings.push(format!("{place} begins at {start}, and {wrong}"));
        }
    }

    pub fn client(&self) -> Client {
        Client::new(self.world.clone(), self.brokers)
    }
}

impl Topic {
    pub fn wanted(&self) -> CreatableTopic {
        let config = match self.deletes {
            Deletes::Nothing | Deletes::Asked => None,
            Deletes::Size(bytes) => Some(("retention.bytes", bytes)),
            Deletes::Age(ms) => Some(("retention.ms", ms)),
        };
        let config = config.map(|(key, value)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_static_str(key))
                .with_value(Some(StrBytes::from_string(value.to_string())))
        });
        CreatableTopic::default()
            .with_name(name(&self.name))
            .with_num_partitions(self.partitions)
            .with_replication_factor(-1)
            .with_configs(config.into_iter().collect())
    }
}

/// Creates the topics, however long it takes.
pub async fn create_topics(shared: Arc<Shared>) {
    let mut client = shared.client();
    let wanted = shared.topics.iter().map(Topic::wanted).collect();
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

pub enum Sending {
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
            let bytes = batch.len() as u64;
            *shared.state.lock().doubtful.entry(key).or_default() += bytes;
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
                        state.tell(key, now(), 0, offset + values.len() as i64);
                        state.batches.entry(key).or_default().push((offset + values.len() as i64, bytes));
                        *state.doubtful.entry(key).or_default() -= bytes;
                    }
                    drop(state);
                    *sequence += count as i32;
                }
                Sending::Refused(code, why) => {
                    // K2. Duplicates are looked for by the checker.
                    if matches!(code, 45 | 47 | 59) {
                        shared.finding(format!(
                            "producer {} was refused with error {code} on {place} at sequence {sequence}{}: {why}",
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

pub async fn attempt(client: &mut Client, topics: &[String], place: &Place, batch: &bytes::Bytes) -> Sending {
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
