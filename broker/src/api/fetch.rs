//! Fetch (1), versions 4 to 18.
//!
//! A request is answered at once if it has enough bytes, an error, or no time to wait; else it registers with its
//! partitions and is woken by the append, or the deletion, that makes the difference (behaviour 67).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::FetchRequest;
use s3stream::{ReadError, StreamRecord};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::error;
use super::fetch_response::{Endpoint, FetchResponse, PartitionResponse, TopicResponse};
use super::fetch_session::{Plan, Said, TOPIC_IDS_FROM, TopicKey, Wanted};
use crate::broker::Broker;
use crate::metadata::ImageRef;
use crate::partition::waiters::Wait;
use crate::partition::{GetError, Partition};
use crate::server::ResponseBudget;

/// Partitions of one request that are read at the same time, when they are not in memory. No option: what
/// all requests read together has the options read-gets-in-flight and read-bytes-in-flight.
const READS_AT_ONCE: usize = 8;
const CURRENT_LEADER_FROM: i16 = 16;
const READ_COMMITTED: i8 = 1;

/// What became of a partition of the request.
#[derive(Debug)]
struct Answer {
    error: Option<ResponseError>,
    high_watermark: i64,
    log_start: i64,
    diverging: Option<(i32, i64)>,
    current_leader: Option<(i32, i32)>,
    /// This broker will lead the partition in a moment: what the error says is not told before, if the request may wait.
    inherited_until: Option<Instant>,
    records: Vec<StreamRecord>,
    /// How much of `min_bytes` it makes up: the bytes of its records, or the whole limit if more would follow that a
    /// limit keeps out. Else a request whose `min_bytes` are near a limit would wait with the response full.
    counted: usize,
}

impl Answer {
    fn failed(error: ResponseError) -> Answer {
        Answer {
            error: Some(error),
            high_watermark: -1,
            log_start: -1,
            diverging: None,
            current_leader: None,
            inherited_until: None,
            records: Vec::new(),
            counted: 0,
        }
    }

    fn bytes(&self) -> usize {
        self.records.iter().map(|record| record.body.len()).sum()
    }
}

/// The share of `answers` in the memory for responses. If there is not so much left, all but the first batch is dropped
/// from them, which clients fetch again; for that one there is a wait, unless the peer goes.
async fn charge(
    budget: &ResponseBudget,
    answers: &mut [Answer],
    gone: &CancellationToken,
) -> Option<OwnedSemaphorePermit> {
    if let Some(permit) = budget.try_take(answers.iter().map(Answer::bytes).sum()) {
        return Some(permit);
    }
    let mut first = 0;
    for answer in answers {
        answer.records.truncate(usize::from(first == 0));
        first += answer.bytes();
    }
    budget.take(first, gone).await
}

/// `gone` is cancelled when the peer has left or the broker stops: then there is nobody to wait for.
pub async fn handle(
    broker: &Broker,
    budget: &ResponseBudget,
    gone: &CancellationToken,
    version: i16,
    request: FetchRequest,
) -> FetchResponse {
    let plan = match broker.fetch_sessions.begin(version, &request) {
        Ok(plan) => plan,
        Err(error) => return FetchResponse { error_code: error.code(), ..FetchResponse::default() },
    };
    let max_bytes = request.max_bytes.clamp(0, broker.config().fetch_max_bytes);
    let fetch = Fetch {
        broker,
        version,
        max_bytes: max_bytes as usize,
        min_bytes: request.min_bytes.clamp(0, max_bytes) as usize,
        deadline: Instant::now() + Duration::from_millis(request.max_wait_ms.max(0) as u64),
    };
    let mut answers = fetch.answers(&plan, gone).await;
    let permit = charge(budget, &mut answers, gone).await;
    let response = respond(&fetch, plan, answers, request.isolation_level == READ_COMMITTED);
    FetchResponse { permit, ..response }
}

struct Fetch<'a> {
    broker: &'a Broker,
    version: i16,
    max_bytes: usize,
    min_bytes: usize,
    deadline: Instant,
}

type Located = Result<Arc<Partition>, Answer>;

impl Fetch<'_> {
    async fn answers(&self, plan: &Plan, gone: &CancellationToken) -> Vec<Answer> {
        let mut answers = self.look(&plan.partitions).await;
        if self.enough(&answers) || plan.partitions.is_empty() || self.deadline <= Instant::now() {
            return answers;
        }
        // Beyond what may wait at all, a request is answered with what there is.
        let Some(_waiting) = self.broker.fetch_sessions.try_wait(plan.partitions.len()) else {
            return answers;
        };
        let wait = Arc::new(Wait::default());
        loop {
            wait.arm();
            let image = self.broker.metadata.image();
            let mut registrations = Vec::with_capacity(plan.partitions.len());
            for wanted in &plan.partitions {
                if let Ok(partition) = self.locate(wanted).await {
                    registrations.push(partition.register(&wait));
                }
            }
            answers = self.look(&plan.partitions).await;
            if self.enough(&answers) {
                return answers;
            }
            let missing = self.min_bytes - answers.iter().map(|answer| answer.counted).sum::<usize>();
            // Too little to be answered, and no reason to keep memory from being freed for as long as a peer likes.
            answers.iter_mut().for_each(|answer| answer.records = Vec::new());
            let inherited_until = answers.iter().filter_map(|answer| answer.inherited_until).min();
            let until = inherited_until.map_or(self.deadline, |until| until.min(self.deadline));
            tokio::select! {
                () = wait.arrived(missing) => {}
                _ = self.broker.metadata.beyond(&image), if inherited_until.is_some() => {}
                () = tokio::time::sleep_until(until) => if until == self.deadline {
                    return self.look(&plan.partitions).await;
                },
                () = gone.cancelled() => return answers,
            }
        }
    }

    /// Whether the request is to be answered now (behaviour 67).
    fn enough(&self, answers: &[Answer]) -> bool {
        let urgent = |answer: &Answer| {
            answer.error.is_some() && answer.inherited_until.is_none() || answer.diverging.is_some()
        };
        let counted = answers.iter().map(|answer| answer.counted).sum::<usize>();
        answers.iter().any(urgent) || counted >= self.min_bytes
    }

    /// Reads what is there, in the order of the partitions, within the request's bytes (behaviour 66).
    async fn look(&self, wanted: &[Wanted]) -> Vec<Answer> {
        let mut answers: Vec<Answer> = Vec::with_capacity(wanted.len());
        let mut left = self.max_bytes;
        let mut first = true;
        let mut rest = wanted;
        while let Some(largest) = rest.iter().take(READS_AT_ONCE).map(|wanted| wanted.max_bytes).max() {
            // Together they may hold about as much as the response, not several times that.
            let at_once = left / usize::try_from(largest).unwrap_or(0).max(1);
            let (group, behind) = rest.split_at(rest.len().min(at_once.clamp(1, READS_AT_ONCE)));
            rest = behind;
            let reads = group.iter().map(|wanted| self.read(wanted, left, first));
            for (mut answer, wanted) in join_all(reads).await.into_iter().zip(group) {
                // The first batch of all is whole even if it is larger than every limit; later ones must fit.
                let limit = left.min(wanted.max_bytes.max(0) as usize);
                let fitting = fitting(&answer.records, limit);
                answer.records.truncate(if first { fitting.max(1) } else { fitting });
                let next = answer.records.last().map_or(wanted.fetch_offset, |last| last.end as i64);
                let more = answer.error.is_none() && next < answer.high_watermark;
                answer.counted = if more { limit.max(answer.bytes()) } else { answer.bytes() };
                first &= answer.records.is_empty();
                left = left.saturating_sub(answer.bytes());
                answers.push(answer);
            }
            // With many partitions, all of them in memory, nothing else would let others run.
            tokio::task::coop::consume_budget().await;
        }
        answers
    }

    async fn locate(&self, wanted: &Wanted) -> Located {
        let image = self.broker.metadata.image();
        let (topic, unknown) = match &wanted.topic {
            TopicKey::Id(id) => (image.topic(*id), ResponseError::UnknownTopicId),
            TopicKey::Name(name) => (image.topic_named(name), ResponseError::UnknownTopicOrPartition),
        };
        let topic = topic.ok_or_else(|| Answer::failed(unknown))?;
        self.broker.partitions.get(topic, wanted.partition).await.map_err(|why| {
            let mut answer = Answer::failed(error::of_get(&why));
            if let GetError::NotLeader { leader } = why {
                answer.current_leader = leader.map(|(leader, epoch)| (leader as i32, epoch));
                answer.inherited_until =
                    self.broker.partitions.inherited_until(&image, topic.id, wanted.partition);
            }
            answer
        })
    }

    async fn read(&self, wanted: &Wanted, left: usize, first: bool) -> Answer {
        let partition = match self.locate(wanted).await {
            Ok(partition) => partition,
            Err(answer) => return answer,
        };
        if let Some(error) = check_epoch(&partition, wanted.current_leader_epoch) {
            let mut answer = Answer::failed(error);
            if error == ResponseError::FencedLeaderEpoch {
                answer.current_leader = Some((self.broker.node_id, partition.leader_epoch));
            }
            return answer;
        }
        let high_watermark = partition.high_watermark();
        let mut answer = Answer {
            error: None,
            high_watermark: high_watermark as i64,
            log_start: partition.log_start() as i64,
            diverging: None,
            current_leader: None,
            inherited_until: None,
            records: Vec::new(),
            counted: 0,
        };
        let Ok(offset) = u64::try_from(wanted.fetch_offset) else {
            return self.out_of_range(&partition, answer);
        };
        match diverging(&partition, wanted, offset) {
            Some(diverging) => answer.diverging = diverging,
            None => return self.out_of_range(&partition, answer),
        }
        let limit = left.min(wanted.max_bytes.max(0) as usize);
        if answer.diverging.is_some() || (limit == 0 && !first) {
            return answer;
        }
        if offset > high_watermark {
            // What was appended but is not durable yet may not be read, but is not out of range.
            if offset > partition.log_end() {
                return self.out_of_range(&partition, answer);
            }
            return answer;
        }
        if offset < partition.log_start() {
            return self.out_of_range(&partition, answer);
        }
        if offset == high_watermark {
            return answer;
        }
        let read = match partition.read_cached(offset, limit) {
            Some(records) => Ok(records),
            None => partition.read(offset, limit).await,
        };
        match read {
            Ok(records) => answer.records = records,
            Err(ReadError::OutOfRange { .. }) => return self.out_of_range(&partition, answer),
            Err(ReadError::Gone(_)) if self.version >= TOPIC_IDS_FROM => {
                return Answer::failed(ResponseError::UnknownTopicId);
            }
            Err(why) => return Answer::failed(error::of_read(&why)),
        }
        answer
    }

    /// Clients reset their position when they hear it: so only who surely leads may say it.
    fn out_of_range(&self, partition: &Partition, answer: Answer) -> Answer {
        if !self.broker.speaks_for(partition) {
            return Answer::failed(ResponseError::NotLeaderOrFollower);
        }
        Answer { error: Some(ResponseError::OffsetOutOfRange), ..answer }
    }
}

/// How many of the first records fit `limit`.
fn fitting(records: &[StreamRecord], limit: usize) -> usize {
    let mut bytes = 0;
    records
        .iter()
        .take_while(|record| {
            bytes += record.body.len();
            bytes <= limit
        })
        .count()
}

/// Behaviour 71.
pub(super) fn check_epoch(partition: &Partition, claimed: i32) -> Option<ResponseError> {
    match claimed {
        -1 => None,
        older if older < partition.leader_epoch => Some(ResponseError::FencedLeaderEpoch),
        newer if newer > partition.leader_epoch => Some(ResponseError::UnknownLeaderEpoch),
        _ => None,
    }
}

/// Behaviour 73: whether what the client fetched last is not what this log has there, and from where on. `None` if there
/// is no saying: the log has never seen such an epoch, or begins behind the offset.
fn diverging(partition: &Partition, wanted: &Wanted, offset: u64) -> Option<Option<(i32, i64)>> {
    if wanted.last_fetched_epoch < 0 {
        return Some(None);
    }
    let (epoch, end) = partition.end_of_epoch(wanted.last_fetched_epoch, partition.log_end())?;
    if offset < partition.log_start() {
        return None;
    }
    Some((epoch < wanted.last_fetched_epoch || end < offset).then_some((epoch, end as i64)))
}

fn respond(fetch: &Fetch<'_>, plan: Plan, answers: Vec<Answer>, read_committed: bool) -> FetchResponse {
    let said: Vec<Said> = answers
        .iter()
        .map(|answer| Said {
            high_watermark: answer.high_watermark,
            log_start: answer.log_start,
            error: answer.error.is_some(),
            has_records: !answer.records.is_empty(),
            urgent: answer.diverging.is_some(),
        })
        .collect();
    let (session_id, named) = fetch.broker.fetch_sessions.finish(&plan, &said);
    let image = fetch.broker.metadata.image();
    let mut response = FetchResponse { session_id, ..FetchResponse::default() };
    for ((wanted, answer), named) in plan.partitions.into_iter().zip(answers).zip(named) {
        if !named {
            continue;
        }
        let (name, id) = match wanted.topic {
            TopicKey::Name(name) => (name, Uuid::nil()),
            TopicKey::Id(id) => ("".into(), id),
        };
        if fetch.version >= CURRENT_LEADER_FROM
            && let Some((leader, _)) = answer.current_leader
        {
            add_endpoint(&mut response.endpoints, &image, leader);
        }
        let partition = PartitionResponse {
            index: wanted.partition,
            error_code: answer.error.map_or(0, |error| error.code()),
            high_watermark: answer.high_watermark,
            // Without transactions everything durable is stable.
            last_stable_offset: answer.high_watermark,
            log_start: answer.log_start,
            read_committed,
            diverging: answer.diverging,
            current_leader: answer.current_leader.filter(|_| fetch.version >= CURRENT_LEADER_FROM),
            records: answer.records.into_iter().map(|record| record.body).collect::<Vec<Bytes>>(),
        };
        match response.topics.last_mut() {
            Some(last) if last.name == name && last.id == id => last.partitions.push(partition),
            _ => response.topics.push(TopicResponse { name, id, partitions: vec![partition] }),
        }
    }
    response
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn answer(sizes: &[usize]) -> Answer {
        let record = |bytes: &usize| {
            let body = Bytes::from(vec![0; *bytes]);
            StreamRecord { base: 0, end: 1, max_timestamp: -1, body }
        };
        Answer {
            records: sizes.iter().map(record).collect(),
            error: None,
            ..Answer::failed(ResponseError::Unknown(0))
        }
    }

    #[tokio::test]
    async fn responses_share_a_budget_and_shrink_to_one_batch_without_it() {
        let budget = ResponseBudget::new(1000);
        let gone = CancellationToken::new();
        let mut whole = [answer(&[]), answer(&[300, 300])];
        let held = charge(&budget, &mut whole, &gone).await.unwrap();
        assert_eq!(whole[1].bytes(), 600);
        let mut shrunk = [answer(&[]), answer(&[300, 300]), answer(&[100])];
        let second = charge(&budget, &mut shrunk, &gone).await.unwrap();
        assert_eq!(shrunk.iter().map(Answer::bytes).collect::<Vec<_>>(), [0, 300, 0]);
        let mut waiting = [answer(&[500])];
        assert!(charge(&budget, &mut waiting, &gone).now_or_never().is_none());
        drop(held);
        let third = charge(&budget, &mut waiting, &gone).now_or_never().expect("there is room again");
        drop((second, third));
        let mut larger_than_all = [answer(&[5000])];
        assert!(charge(&budget, &mut larger_than_all, &gone).await.is_some());
        assert!(budget.try_take(1000).is_some(), "everything was given back");
    }
}
