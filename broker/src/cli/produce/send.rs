//! Delivers batches: several requests in flight per leader, acknowledged in order, sent again until a deadline.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, ProducerId};

use super::batches::Lot;
use crate::cli::client::records::Producer;
use crate::cli::client::{Client, Connection, Error, Topic, check, no_partition, topic_name};
use crate::cli::topic::millis;

/// As many as the broker remembers batches of a producer for (5, KIP-98).
const IN_FLIGHT: usize = 5;

pub struct Sender {
    client: Client,
    topic: Topic,
    producer: Option<Producer>,
    acknowledged: u64,
    acknowledged_bytes: u64,
}

/// What one round did.
#[derive(Default)]
struct Round {
    progress: bool,
    /// The first failure that may pass.
    failure: Option<Error>,
}

impl Sender {
    /// Gets a producer id, if the broker gives any.
    pub async fn start(mut client: Client, topic: Topic) -> Result<Sender, Error> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(i32::MAX)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let mut retry = client.retry();
        let producer = loop {
            let asked = match client.call_any(&request).await {
                Ok(response) => check(response.error_code, || "asking for a producer id".to_owned(), None)
                    .map(|()| Producer { id: response.producer_id.0, epoch: response.producer_epoch }),
                Err(error) => Err(error),
            };
            match asked {
                Ok(producer) => break Some(producer),
                Err(Error::Unsupported { .. }) => break None,
                Err(error) => retry.pause(error).await?,
            }
        };
        Ok(Sender { client, topic, producer, acknowledged: 0, acknowledged_bytes: 0 })
    }

    /// `None` if the broker cannot tell repeated batches from new ones.
    pub fn producer(&self) -> Option<Producer> {
        self.producer
    }

    /// Records that the broker has acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub fn acknowledged_bytes(&self) -> u64 {
        self.acknowledged_bytes
    }

    /// Returns once all of `lot` is acknowledged.
    pub async fn deliver(&mut self, mut lot: Lot) -> Result<(), Error> {
        let mut retry = self.client.retry();
        loop {
            lot.retain(|_, batches| !batches.is_empty());
            if lot.is_empty() {
                return Ok(());
            }
            let round = self.round(&mut lot).await?;
            if round.progress {
                retry = self.client.retry();
            }
            if let Some(error) = round.failure {
                retry.pause(error).await?;
                self.topic = self.client.topic(&self.topic.name, false).await?;
            }
        }
    }

    /// Sends up to [`IN_FLIGHT`] batches of each partition and takes out those that were acknowledged.
    async fn round(&mut self, lot: &mut Lot) -> Result<Round, Error> {
        let in_flight = if self.producer.is_some() { IN_FLIGHT } else { 1 };
        let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for &partition in lot.keys() {
            let leader = self.topic.leaders.get(&partition);
            let leader = leader.ok_or_else(|| no_partition(&self.topic.name, partition))?;
            by_leader.entry(*leader).or_default().push(partition);
        }
        let mut round = Round::default();
        let mut exchanges = Vec::new();
        // Who cannot tell repeated batches from new ones has all the time.
        let timeout = match self.producer {
            Some(_) => self.client.request_timeout(),
            None => self.client.timeout(),
        };
        for (leader, partitions) in by_leader {
            match self.client.take_node(leader).await {
                Ok(connection) => {
                    let requests: Vec<ProduceRequest> =
                        (0..in_flight).map_while(|turn| self.request(lot, &partitions, turn)).collect();
                    exchanges.push(exchange(connection, requests, timeout));
                }
                Err(error) if error.is_retriable() || error.is_unreachable() => round.failure = Some(error),
                Err(error) => return Err(error),
            }
        }
        for (connection, answers, error) in join_all(exchanges).await {
            match error {
                None => self.client.put_back(connection),
                // What is sent again may be there already, and nobody could tell.
                Some(error @ Error::Timeout { .. }) if self.producer.is_none() => return Err(error),
                Some(error) if error.is_retriable() => round.failure = Some(error),
                Some(error) => return Err(error),
            }
            let mut failed = BTreeSet::new();
            for response in answers.into_iter().flat_map(|answer| answer.responses) {
                for partition in response.partition_responses {
                    let message = partition.error_message.as_deref();
                    self.settle(
                        lot,
                        &mut failed,
                        &mut round,
                        partition.index,
                        partition.error_code,
                        message,
                    )?;
                }
            }
        }
        Ok(round)
    }

    /// The request with each partition's batch number `turn`; `None` if no partition has that many.
    fn request(&self, lot: &Lot, partitions: &[i32], turn: usize) -> Option<ProduceRequest> {
        let data: Vec<PartitionProduceData> = partitions
            .iter()
            .filter_map(|partition| {
                let batch = lot[partition].get(turn)?;
                let records = Some(batch.bytes.clone());
                Some(PartitionProduceData::default().with_index(*partition).with_records(records))
            })
            .collect();
        let topic =
            TopicProduceData::default().with_name(topic_name(&self.topic.name)).with_partition_data(data);
        (!topic.partition_data.is_empty()).then(|| {
            ProduceRequest::default()
                .with_acks(-1)
                .with_timeout_ms(millis(self.client.timeout()))
                .with_topic_data(vec![topic])
        })
    }

    /// The answer to a partition's next batch. Answers come in the order of its batches.
    fn settle(
        &mut self,
        lot: &mut Lot,
        failed: &mut BTreeSet<i32>,
        round: &mut Round,
        partition: i32,
        code: i16,
        message: Option<&str>,
    ) -> Result<(), Error> {
        // Behind one that failed nothing can have been taken; whatever is said about it follows from that.
        if failed.contains(&partition) {
            return Ok(());
        }
        let duplicate = ResponseError::DuplicateSequenceNumber.code();
        let code = if code == duplicate { 0 } else { code };
        match check(code, || format!("producing to {} [{partition}]", self.topic.name), message) {
            Ok(()) => {
                let batch = lot.get_mut(&partition).and_then(|batches| batches.pop_front());
                let batch = batch.ok_or_else(|| Error::Malformed {
                    address: self.topic.name.clone(),
                    detail: format!("an answer for partition {partition}, to which nothing was sent"),
                })?;
                self.acknowledged += batch.records;
                self.acknowledged_bytes += batch.bytes.len() as u64;
                round.progress = true;
                Ok(())
            }
            Err(error) if error.is_retriable() => {
                failed.insert(partition);
                round.failure = Some(error);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// All requests out, then all answers in; what was answered before an error counts.
async fn exchange(
    mut connection: Connection,
    requests: Vec<ProduceRequest>,
    timeout: std::time::Duration,
) -> (Connection, Vec<kafka_protocol::messages::ProduceResponse>, Option<Error>) {
    let mut answers = Vec::with_capacity(requests.len());
    let mut sent = 0;
    let mut error = None;
    for request in &requests {
        match connection.send(request, timeout).await {
            Ok(()) => sent += 1,
            Err(failure) => {
                error = Some(failure);
                break;
            }
        }
    }
    for _ in 0..sent {
        match connection.receive::<ProduceRequest>(timeout).await {
            Ok(answer) => answers.push(answer),
            Err(failure) => {
                error = error.or(Some(failure));
                break;
            }
        }
    }
    (connection, answers, error)
}
