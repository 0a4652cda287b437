//! Clients that read: all partitions from the beginning, now and then the ends, and at the end everything once more; and those
//! that ask for nothing but where logs begin and end, of whoever last said that it leads them.
//!
//! - **R1** A position is out of range only if it lies before the log's start: whoever is told so asks where the log begins,
//!   and finds that it is behind the position.
//! - **R2** Ends are asked of a broker whose view of the metadata is fresh (O4): so it tells of nothing before what was
//!   acknowledged to anybody a lease before the question, and of no start before one that anybody was told of then. What one
//!   client heard never goes back.
//! - **R3** A log's start moves as far as somebody asked for, or as retention may: where nothing deletes it is 0.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use checker::{F, Key, Polled, Type, Watermark};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, ListOffsetsRequest};
use ottla::records;
use tokio::time::sleep;

use crate::admin;
use crate::client::{Client, name};
use crate::workload::{PAUSE, Place, Shared};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// Reads all partitions from the beginning for as long as the producers write, and a little longer.
pub async fn reader(shared: Arc<Shared>, process: u32) {
    let mut reading = Reading::of_all(&shared, process);
    loop {
        if shared.is_stopped() && shared.state.lock().producers == 0 {
            return;
        }
        reading.poll(&shared).await;
        if reading.client.pick(8) == 0 {
            let (place, key) = shared.places[reading.client.pick(shared.places.len())].clone();
            reading.watermarks(&shared, &place, key).await;
        }
        let pause = reading.client.pick(200) as u64;
        sleep(Duration::from_millis(pause)).await;
    }
}

/// Asks for the ends of each partition, each by itself: what one leader does not answer keeps none from the others. Nothing
/// but an error turns them away from a leader, so that they stay with one that is cut off together with them.
pub async fn monitors(shared: Arc<Shared>, processes: u32) {
    for (process, (place, key)) in (processes..).zip(shared.places.clone()) {
        let mut reading = Reading::new(&shared, process);
        let shared = shared.clone();
        drop(tokio::spawn(async move {
            while !shared.is_stopped() {
                reading.watermarks(&shared, &place, key).await;
                let pause = 200 + reading.client.pick(1_500) as u64;
                sleep(Duration::from_millis(pause)).await;
            }
        }));
    }
}

/// Reads everything once more.
pub async fn final_reader(shared: Arc<Shared>, process: u32) {
    let mut reading = Reading::of_all(&shared, process);
    while !reading.is_at_the_end(&shared).await {
        reading.poll(&shared).await;
        sleep(PAUSE).await;
    }
    admin::deleted_topics_are_gone(&shared, &mut reading.client).await;
    shared.state.lock().final_reads += 1;
}

/// A consumer: what it reads, and how far it is.
pub struct Reading {
    pub client: Client,
    topics: Vec<String>,
    pub positions: BTreeMap<Key, i64>,
    process: u32,
}

impl Reading {
    /// A consumer that was given nothing yet.
    pub fn new(shared: &Shared, process: u32) -> Reading {
        Reading { client: shared.client(), topics: shared.topics(), positions: BTreeMap::new(), process }
    }

    fn of_all(shared: &Shared, process: u32) -> Reading {
        let keys: Vec<Key> = shared.places.iter().map(|(_, key)| *key).collect();
        shared.record(process, Type::Ok, F::Assign { keys: keys.clone(), seek: true });
        let positions = keys.into_iter().map(|key| (key, 0)).collect();
        Reading { positions, ..Reading::new(shared, process) }
    }

    /// One fetch of what one broker leads.
    pub async fn poll(&mut self, shared: &Shared) {
        let own: Vec<&(Place, Key)> =
            shared.places.iter().filter(|(_, key)| self.positions.contains_key(key)).collect();
        let Some((some, _)) = own.get(self.client.pick(own.len())) else { return };
        let Some(leader) = self.client.leader(&some.topic, some.partition) else {
            let _ = self.client.refresh(&self.topics).await;
            return;
        };
        let mut by_topic: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
        let mut keys = BTreeMap::new();
        for (place, key) in own {
            if self.client.leader(&place.topic, place.partition) == Some(leader) {
                keys.insert((place.topic.clone(), place.partition), *key);
                by_topic.entry(&place.topic).or_default().push(
                    FetchPartition::default()
                        .with_partition(place.partition)
                        .with_current_leader_epoch(self.client.epoch(&place.topic, place.partition))
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
                let place = Place { topic: topic_name.clone(), partition: partition.partition_index };
                let Some(key) = keys.get(&(place.topic.clone(), place.partition)).copied() else { continue };
                match partition.error_code {
                    0 => {}
                    1 => {
                        out_of_range.push((place, key));
                        continue;
                    }
                    code => {
                        shared
                            .trouble(&place, format!("error {code} by {leader} at {}", self.positions[&key]));
                        self.client.forget_leader(&place.topic, place.partition);
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
                                None => shared.finding(format!("{place} at {}: {text:?}", record.offset)),
                            }
                        }
                        if let Some(next) = decoded.next {
                            self.positions.insert(key, next);
                        }
                    }
                    Err(error) => shared.finding(format!("{place} from {at}: {error}")),
                }
            }
        }
        shared.state.lock().read += polled.len() as u64;
        shared.record(self.process, Type::Ok, F::poll(polled));
        for (place, key) in out_of_range {
            self.out_of_range(shared, &place, key).await;
        }
    }

    /// Goes on where the log begins (R1).
    async fn out_of_range(&mut self, shared: &Shared, place: &Place, key: Key) {
        let offset = self.positions[&key];
        shared.record(self.process, Type::Ok, F::OutOfRange { key, offset });
        loop {
            if let Some((start, end)) = self.watermarks(shared, place, key).await {
                if start <= offset {
                    shared.finding(format!(
                        "a position of a reader, {offset}, is out of range of {place}, which is from {start} to {end}"
                    ));
                }
                self.positions.insert(key, start);
                return;
            }
            sleep(PAUSE).await;
            let _ = self.client.refresh(&self.topics).await;
        }
    }

    /// Where a log begins and ends (R2, R3).
    pub async fn watermarks(&mut self, shared: &Shared, place: &Place, key: Key) -> Option<(i64, i64)> {
        shared.record(self.process, Type::Invoke, F::Watermarks(Vec::new()));
        let known = shared.known(key, shared.longest_lease);
        let start = self.list(shared, place, EARLIEST).await;
        let end = if start.is_some() { self.list(shared, place, LATEST).await } else { None };
        let (Some(start), Some(end)) = (start, end) else {
            shared.record(self.process, Type::Fail, F::Watermarks(Vec::new()));
            return None;
        };
        shared.record(self.process, Type::Ok, F::Watermarks(vec![Watermark { key, start, end }]));
        if start < known.0 {
            shared.finding(format!("{place} began at {}, and then at {start}", known.0));
        }
        if end < known.1 {
            shared.finding(format!("{place} ends at {end}, when {} was acknowledged", known.1));
        }
        shared.starts_at(place, key, start);
        Some((start, end))
    }

    /// An offset, from the leader.
    async fn list(&mut self, shared: &Shared, place: &Place, timestamp: i64) -> Option<i64> {
        let Some(leader) = self.client.leader(&place.topic, place.partition) else {
            let _ = self.client.refresh(&self.topics).await;
            return None;
        };
        let partition = ListOffsetsPartition::default()
            .with_partition_index(place.partition)
            .with_current_leader_epoch(self.client.epoch(&place.topic, place.partition))
            .with_timestamp(timestamp);
        let topic =
            ListOffsetsTopic::default().with_name(name(&place.topic)).with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        let answer = self.client.call(leader, &request).await.ok();
        let answer = answer.as_ref().map(|answer| &answer.topics[0].partitions[0]);
        let offset = answer.filter(|answer| answer.error_code == 0 && answer.offset >= 0);
        if offset.is_none() {
            if let Some(answer) = answer {
                shared.trouble(
                    place,
                    format!("error {} by {leader}, asked for {timestamp}", answer.error_code),
                );
            }
            self.client.forget_leader(&place.topic, place.partition);
        }
        offset.map(|answer| answer.offset)
    }

    async fn is_at_the_end(&mut self, shared: &Shared) -> bool {
        let ends = shared.state.lock().ends.clone();
        if ends.iter().any(|(key, end)| self.positions.get(key).is_none_or(|at| at < end)) {
            return false;
        }
        for (place, key) in &shared.places {
            match self.watermarks(shared, place, *key).await {
                Some((_, end)) if self.positions[key] >= end => {}
                _ => return false,
            }
        }
        true
    }
}
