//! The coordinator of the groups of one partition of `__consumer_offsets`: an actor around a [`Shard`].
//!
//! # Overview
//!
//! ```text
//!   handle ──message──► shard ──writes──► queue ──one batch──► append ──durable, in order──► shard ──► replies
//! ```
//!
//! Writes gather while appends are in flight, up to [`Options::appends_in_flight_max`] of them; so under load many
//! commits share a batch, and an idle coordinator appends at once. There is one timer, for the earliest deadline of
//! all groups.
//!
//! # Consistency
//!
//! Commits, and assignments, are answered once the append is durable. The order of the log is the order of the shard's
//! writes. If an append fails, the memory is ahead of the log: the actor tells everybody who waits to look for the
//! coordinator again and ends, and its successor starts from what the log says.
//!
//! # Loading
//!
//! The first thing an actor does is to replay its partition, a chunk at a time. Requests wait for that up to
//! [`Options::load_wait_max`] and are then told COORDINATOR_LOAD_IN_PROGRESS: waiting is what clients like best as long
//! as it is short (they need not back off), and nobody is kept beyond a client's own time-out. Heartbeats are answered
//! with success meanwhile, and SyncGroup with REBALANCE_IN_PROGRESS, as Kafka does.
//!
//! # Cancellation
//!
//! A request whose connection is gone is carried out nevertheless; its answer goes nowhere. When the broker stops,
//! whoever waits in a join or a sync is told NOT_COORDINATOR; appends under way are awaited.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, Either, FutureExt, pending};
use futures::stream::FuturesOrdered;
use kafka_protocol::error::ResponseError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Options;
use super::batch::{Builder, Content, records, split_batch};
use super::log::{LogError, OffsetsLog, Surroundings};
use super::offsets::TopicPartition;
use super::records::{CommittedOffset, GroupMetadata, Key, TooLong};
use super::shard::{Budget, CommitRequest, Output, Shard, Write};
use super::state::{
    Description, JoinAnswer, JoinRequest, Leaving, Now, State, SyncAnswer, SyncRequest, Waiter,
};

/// What a fetch asks for: these partitions, or all that there are.
pub type FetchScope = Option<Vec<TopicPartition>>;

/// Offsets, by topic and partition; `None` for one that is not there.
pub type Fetched = Vec<(TopicPartition, Option<CommittedOffset>)>;

/// A group as ListGroups shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub group: Arc<str>,
    /// Empty for a group that only holds offsets.
    pub protocol_type: Arc<str>,
    pub state: State,
}

/// A request, and where its answer goes.
#[derive(Debug)]
pub enum Message {
    Join {
        group: Arc<str>,
        request: JoinRequest,
        reply: oneshot::Sender<JoinAnswer>,
    },
    Sync {
        group: Arc<str>,
        request: SyncRequest,
        reply: oneshot::Sender<SyncAnswer>,
    },
    Heartbeat {
        group: Arc<str>,
        member_id: Arc<str>,
        instance_id: Option<Arc<str>>,
        generation: i32,
        reply: oneshot::Sender<Result<(), ResponseError>>,
    },
    Leave {
        group: Arc<str>,
        leaving: Vec<Leaving>,
        reply: oneshot::Sender<LeaveAnswer>,
    },
    Commit {
        group: Arc<str>,
        request: CommitRequest,
        reply: oneshot::Sender<Result<(), ResponseError>>,
    },
    Fetch {
        group: Arc<str>,
        scope: FetchScope,
        reply: oneshot::Sender<Fetched>,
    },
    Describe {
        group: Arc<str>,
        reply: oneshot::Sender<Option<Description>>,
    },
    List {
        reply: oneshot::Sender<Vec<Listed>>,
    },
}

/// One result for each that leaves, or one error for all.
pub type LeaveAnswer = Result<Vec<Result<(), ResponseError>>, ResponseError>;

/// The way to an actor.
#[derive(Clone, Debug)]
pub struct Coordinator {
    messages: mpsc::Sender<Message>,
    loaded: watch::Receiver<bool>,
}

/// Why an actor could not be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unasked {
    /// It is replaying its log still.
    Loading,
    /// It has ended.
    Ended,
}

impl Coordinator {
    /// Starts an actor; `run` is to be spawned by whoever owns it.
    pub fn new(
        partition: i32,
        options: Options,
        surroundings: Arc<dyn Surroundings>,
        budget: Arc<Budget>,
        stop: CancellationToken,
    ) -> (Coordinator, impl Future<Output = ()> + Send + 'static) {
        let (sender, receiver) = mpsc::channel(options.queued_messages_max);
        let (loaded_sender, loaded) = watch::channel(false);
        let run = run(partition, options, surroundings, budget, stop, receiver, loaded_sender);
        (Coordinator { messages: sender, loaded }, run)
    }

    pub fn has_ended(&self) -> bool {
        self.messages.is_closed()
    }

    /// Waits for the replay to be done, at most this long.
    pub async fn wait_loaded(&self, at_most: Duration) -> Result<(), Unasked> {
        let mut loaded = self.loaded.clone();
        match tokio::time::timeout(at_most, loaded.wait_for(|loaded| *loaded)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Unasked::Ended),
            Err(_) => Err(Unasked::Loading),
        }
    }

    /// Asks and waits for the answer.
    pub async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, Unasked> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(message(reply)).await.map_err(|_| Unasked::Ended)?;
        answer.await.map_err(|_| Unasked::Ended)
    }
}

/// What becomes of a stretch of the write queue.
#[derive(Debug)]
enum Item {
    Write(Write),
    /// A leave is answered once what it led to is durable.
    Left(oneshot::Sender<LeaveAnswer>, Vec<Result<(), ResponseError>>),
}

/// Items whose records are in one append.
type Flight = BoxFuture<'static, (Vec<Item>, Result<(), LogError>)>;

struct Actor {
    partition: i32,
    options: Options,
    surroundings: Arc<dyn Surroundings>,
    log: Arc<dyn OffsetsLog>,
    shard: Shard,
    started: Instant,
    next_waiter: u64,
    joins: HashMap<Waiter, oneshot::Sender<JoinAnswer>>,
    syncs: HashMap<Waiter, oneshot::Sender<SyncAnswer>>,
    commits: HashMap<Waiter, oneshot::Sender<Result<(), ResponseError>>>,
    queue: VecDeque<Item>,
    queued_bytes: usize,
}

async fn run(
    partition: i32,
    options: Options,
    surroundings: Arc<dyn Surroundings>,
    budget: Arc<Budget>,
    stop: CancellationToken,
    messages: mpsc::Receiver<Message>,
    loaded: watch::Sender<bool>,
) {
    let topics = surroundings.topics_changed();
    let opened = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        opened = surroundings.open(partition) => opened,
    };
    let log = match opened {
        Ok(log) => log,
        Err(error) => {
            return tracing::warn!(partition, %error, "cannot open a partition of __consumer_offsets");
        }
    };
    let shard = Shard::new(options.rules.clone(), options.groups_max, budget);
    let mut actor = Actor {
        partition,
        options,
        surroundings,
        log,
        shard,
        started: Instant::now(),
        next_waiter: 0,
        joins: HashMap::new(),
        syncs: HashMap::new(),
        commits: HashMap::new(),
        queue: VecDeque::new(),
        queued_bytes: 0,
    };
    let replayed = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        replayed = actor.load() => replayed,
    };
    match replayed {
        Ok(()) => {
            loaded.send_replace(true);
            actor.serve(messages, topics, stop).await;
        }
        Err(error) => tracing::warn!(partition, %error, "cannot replay a partition of __consumer_offsets"),
    }
}

impl Actor {
    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { tick_ms: self.started.elapsed().as_millis() as u64, wall_ms: wall.as_millis() as i64 }
    }

    async fn load(&mut self) -> Result<(), LogError> {
        let mut from = 0;
        while let Some(chunk) = self.log.read(from, self.options.load_chunk_bytes).await? {
            assert!(chunk.next > from, "a chunk of the log moves on");
            from = chunk.next;
            for batch in &chunk.batches {
                self.replay(batch);
            }
        }
        let (now, mut out) = (self.now(), Output::default());
        self.shard.loaded(now, &mut out);
        self.forget_orphans(&mut out);
        self.absorb(out);
        let groups = self.shard.groups().count();
        tracing::info!(partition = self.partition, groups, end = from, "loaded groups and offsets");
        Ok(())
    }

    /// Damage is logged and passed over: the rest of the groups should not be down for it.
    fn replay(&mut self, bytes: &Bytes) {
        let mut rest = &bytes[..];
        loop {
            let batch = match split_batch(&mut rest) {
                Ok(Some(batch)) => batch,
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(partition = self.partition, %error, "a batch of __consumer_offsets is skipped");
                    return;
                }
            };
            match records(batch) {
                Ok(Content::Records(records)) => {
                    for (key, value) in records {
                        self.replay_record(key.unwrap_or_default(), value);
                    }
                }
                Ok(Content::Foreign) => {
                    tracing::warn!(
                        partition = self.partition,
                        "a foreign batch in __consumer_offsets is skipped"
                    );
                }
                Err(error) => {
                    tracing::error!(partition = self.partition, %error, "a batch of __consumer_offsets is skipped");
                }
            }
        }
    }

    fn replay_record(&mut self, key: &[u8], value: Option<&[u8]>) {
        let now = self.now();
        let decoded = Key::decode(key).and_then(|key| match key {
            None => Ok(()),
            Some(Key::Group { group }) => {
                match value.map(GroupMetadata::decode).transpose()? {
                    // A value of a version from the future says nothing to us; what was before stands.
                    Some(None) => {}
                    Some(known) => self.shard.replay_group(group, known),
                    None => self.shard.replay_group(group, None),
                }
                Ok(())
            }
            Some(Key::Offset { group, topic, partition }) => {
                match value.map(CommittedOffset::decode).transpose()? {
                    Some(None) => {}
                    Some(known) => self.shard.replay_offset(now, group, (topic, partition), known),
                    None => self.shard.replay_offset(now, group, (topic, partition), None),
                }
                Ok(())
            }
        });
        if let Err(error) = decoded {
            tracing::error!(partition = self.partition, %error, "a record of __consumer_offsets is skipped");
        }
    }

    async fn serve(
        &mut self,
        mut messages: mpsc::Receiver<Message>,
        mut topics: watch::Receiver<u64>,
        stop: CancellationToken,
    ) {
        let mut in_flight: FuturesOrdered<Flight> = FuturesOrdered::new();
        let mut admitting: Option<Admitting> = None;
        let mut topics_live = true;
        loop {
            if admitting.is_none() && in_flight.len() < self.options.appends_in_flight_max {
                admitting = self.start_append();
            }
            let now = self.now();
            let deadline = match self.shard.wake() {
                Some(at) => {
                    Either::Left(tokio::time::sleep(Duration::from_millis(at.saturating_sub(now.tick_ms))))
                }
                None => Either::Right(pending()),
            };
            let admitted = match &mut admitting {
                Some(admitting) => Either::Left(&mut admitting.0),
                None => Either::Right(pending()),
            };
            tokio::select! {
                () = stop.cancelled() => break,
                Some((items, result)) = in_flight.next(), if !in_flight.is_empty() => {
                    if let Err(error) = self.landed(items, result) {
                        tracing::warn!(partition = self.partition, %error, "an append failed; starting over");
                        return self.wind_down(in_flight, admitting, error.response()).await;
                    }
                }
                appended = admitted => {
                    let items = admitting.take().expect("it was polled").1;
                    match appended {
                        Ok(durable) => in_flight.push_back(durable.map(move |result| (items, result)).boxed()),
                        Err(error) => {
                            tracing::warn!(partition = self.partition, %error, "an append failed; starting over");
                            self.queue.extend(items);
                            return self.wind_down(in_flight, None, error.response()).await;
                        }
                    }
                }
                () = deadline => self.expire(),
                changed = topics.changed(), if topics_live => {
                    topics_live = changed.is_ok();
                    let mut out = Output::default();
                    self.forget_orphans(&mut out);
                    self.absorb(out);
                }
                received = messages.recv() => match received {
                    Some(message) => {
                        self.handle(message);
                        self.handle_ready(&mut messages);
                    }
                    None => break,
                },
            }
        }
        self.wind_down(in_flight, admitting, ResponseError::NotCoordinator).await;
    }

    /// What else has come already, so that it may share a batch.
    fn handle_ready(&mut self, messages: &mut mpsc::Receiver<Message>) {
        for _ in 0..self.options.queued_messages_max {
            let Ok(message) = messages.try_recv() else { return };
            self.handle(message);
        }
    }

    /// The end, one way or another. What was handed to the log is awaited: those whose append succeeds are answered so,
    /// and a successor, which is not started before this one has ended, replays all that can ever be in the log.
    async fn wind_down(
        &mut self,
        mut in_flight: FuturesOrdered<Flight>,
        admitting: Option<Admitting>,
        error: ResponseError,
    ) {
        if let Some(Admitting(append, items)) = admitting {
            match append.await {
                Ok(durable) => in_flight.push_back(durable.map(move |result| (items, result)).boxed()),
                Err(_) => self.queue.extend(items),
            }
        }
        let mut in_flight = pin!(in_flight);
        while let Some((items, result)) = in_flight.next().await {
            if let Err(error) = self.landed(items, result) {
                tracing::warn!(partition = self.partition, %error, "an append failed while its coordinator ended");
            }
        }
        self.give_up(error);
    }

    fn expire(&mut self) {
        let (now, mut out) = (self.now(), Output::default());
        self.shard.expire(now, &mut out);
        self.absorb(out);
    }

    fn forget_orphans(&mut self, out: &mut Output) {
        let surroundings = self.surroundings.clone();
        self.shard.forget_orphans(&|topic| Some(surroundings.topic(topic)?.id), out);
    }

    fn waiter(&mut self) -> Waiter {
        self.next_waiter += 1;
        Waiter(self.next_waiter)
    }

    /// Whether the log is so far behind that nothing may be added to what waits for it.
    fn is_congested(&self) -> bool {
        self.queued_bytes > self.options.queued_bytes_max
    }

    fn handle(&mut self, message: Message) {
        let (now, mut out) = (self.now(), Output::default());
        match message {
            Message::Join { request, reply, .. } if self.is_congested() => {
                let error = ResponseError::CoordinatorNotAvailable;
                let refused = super::state::JoinRefused { error, member_id: request.member_id };
                let _ = reply.send(Err(refused));
            }
            Message::Sync { reply, .. } if self.is_congested() => {
                let _ = reply.send(Err(ResponseError::CoordinatorNotAvailable));
            }
            Message::Commit { reply, .. } if self.is_congested() => {
                let _ = reply.send(Err(ResponseError::CoordinatorNotAvailable));
            }
            Message::Join { group, request, reply } => {
                let waiter = self.waiter();
                self.joins.insert(waiter, reply);
                self.shard.join(now, &group, waiter, request, &mut out);
            }
            Message::Sync { group, request, reply } => {
                let waiter = self.waiter();
                self.syncs.insert(waiter, reply);
                self.shard.sync(now, &group, waiter, request, &mut out);
            }
            Message::Commit { group, request, reply } => {
                let waiter = self.waiter();
                self.commits.insert(waiter, reply);
                self.shard.commit(now, &group, waiter, request, &mut out);
            }
            Message::Heartbeat { group, member_id, instance_id, generation, reply } => {
                let beat = self.shard.heartbeat(now, &group, &member_id, instance_id.as_deref(), generation);
                let _ = reply.send(beat);
            }
            Message::Leave { group, leaving, reply } => {
                let results = self.shard.leave(now, &group, &leaving, &mut out);
                if out.writes.is_empty() {
                    let _ = reply.send(Ok(results));
                } else {
                    self.absorb(std::mem::take(&mut out));
                    self.queue.push_back(Item::Left(reply, results));
                }
            }
            Message::Fetch { group, scope, reply } => drop(reply.send(self.fetch(&group, scope))),
            Message::Describe { group, reply } => drop(reply.send(self.shard.describe(&group))),
            Message::List { reply } => drop(reply.send(self.list())),
        }
        self.absorb(out);
    }

    fn fetch(&self, group: &str, scope: FetchScope) -> Fetched {
        let topic_id = |topic: &str| Some(self.surroundings.topic(topic)?.id);
        match scope {
            None => {
                let all = self.shard.offsets(group, &topic_id);
                all.into_iter().map(|(at, offset)| (at, Some(offset))).collect()
            }
            Some(wanted) => {
                let found = wanted.into_iter().map(|(topic, partition)| {
                    let offset = self.shard.offset(group, &topic, partition, &topic_id).cloned();
                    ((topic, partition), offset)
                });
                found.collect()
            }
        }
    }

    fn list(&self) -> Vec<Listed> {
        let listed = self.shard.groups().map(|group| Listed {
            group: group.id().clone(),
            protocol_type: group.protocol_type().cloned().unwrap_or_else(|| Arc::from("")),
            state: group.state(),
        });
        listed.collect()
    }

    /// Gives answers and queues writes.
    fn absorb(&mut self, out: Output) {
        // A receiver that is gone is a connection that is gone.
        for (waiter, answer) in out.joins {
            self.joins.remove(&waiter).map(|reply| reply.send(answer));
        }
        for (waiter, answer) in out.syncs {
            self.syncs.remove(&waiter).map(|reply| reply.send(answer));
        }
        for (waiter, answer) in out.commits {
            self.commits.remove(&waiter).map(|reply| reply.send(answer));
        }
        for write in out.writes {
            self.queued_bytes += write.estimate_bytes();
            self.queue.push_back(Item::Write(write));
        }
    }

    /// Takes writes off the queue into one batch, and begins to append it.
    fn start_append(&mut self) -> Option<Admitting> {
        let mut builder = Builder::new(self.now().wall_ms);
        let mut items = Vec::new();
        while builder.len_bytes() < self.options.batch_bytes_target {
            let Some(item) = self.queue.pop_front() else { break };
            let Item::Write(write) = &item else {
                items.push(item);
                continue;
            };
            self.queued_bytes -= write.estimate_bytes();
            match write.encode(self.options.record_bytes_max) {
                Ok(records) => {
                    for (key, value) in &records {
                        builder.push(key, value.as_deref());
                    }
                    items.push(item);
                }
                Err(error) => self.unwritable(item, error),
            }
        }
        if builder.is_empty() {
            // Nothing but answers to leaves whose writes are durable or could not be encoded.
            for item in items {
                self.answer_left(item);
            }
            return None;
        }
        let (log, batch) = (self.log.clone(), builder.finish());
        Some(Admitting(async move { log.append(batch).await }.boxed(), items))
    }

    /// The write cannot be put into the format. (Kafka: an unknown server error, too.)
    fn unwritable(&mut self, item: Item, error: TooLong) {
        tracing::warn!(partition = self.partition, %error, "a group's record cannot be written");
        if let Item::Write(write) = item {
            let (now, mut out) = (self.now(), Output::default());
            let response = match &write {
                Write::Commit { .. } => ResponseError::InvalidCommitOffsetSize,
                Write::Group { .. } | Write::Forget { .. } => ResponseError::UnknownServerError,
            };
            self.shard.written(now, write, Err(response), &mut out);
            self.absorb(out);
        }
    }

    fn answer_left(&mut self, item: Item) {
        if let Item::Left(reply, results) = item {
            let _ = reply.send(Ok(results));
        }
    }

    /// An append has ended. Its failure puts the items back, for [`give_up`](Actor::give_up).
    fn landed(&mut self, items: Vec<Item>, result: Result<(), LogError>) -> Result<(), LogError> {
        if let Err(error) = result {
            self.queue.extend(items);
            return Err(error);
        }
        for item in items {
            match item {
                Item::Write(write) => {
                    let (now, mut out) = (self.now(), Output::default());
                    self.shard.written(now, write, Ok(()), &mut out);
                    self.absorb(out);
                }
                Item::Left(..) => self.answer_left(item),
            }
        }
        if self.shard.has_orphans_left() {
            let mut out = Output::default();
            self.forget_orphans(&mut out);
            self.absorb(out);
        }
        Ok(())
    }

    /// The memory may be ahead of the log: nothing more is decided here.
    fn give_up(&mut self, error: ResponseError) {
        let mut out = Output::default();
        self.shard.abandon(error, &mut out);
        self.absorb(out);
        for (_, reply) in self.commits.drain() {
            let _ = reply.send(Err(error));
        }
        for item in self.queue.drain(..) {
            if let Item::Left(reply, _) = item {
                let _ = reply.send(Err(error));
            }
        }
    }
}

/// An append that waits for room, and the items in it.
struct Admitting(BoxFuture<'static, Result<BoxFuture<'static, Result<(), LogError>>, LogError>>, Vec<Item>);

type EncodedRecord = (Bytes, Option<Bytes>);

impl Write {
    fn encode(&self, record_bytes_max: usize) -> Result<Vec<EncodedRecord>, TooLong> {
        let records = match self {
            Write::Group { group, value, .. } => {
                vec![(Key::Group { group: group.clone() }.encode()?, Some(value.encode()?))]
            }
            Write::Commit { group, offsets, .. } => {
                let encoded =
                    offsets.iter().map(|(at, offset)| Ok((offset_key(group, at)?, Some(offset.encode()?))));
                encoded.collect::<Result<_, TooLong>>()?
            }
            Write::Forget { group, offsets } => {
                let encoded = offsets.iter().map(|at| Ok((offset_key(group, at)?, None)));
                encoded.collect::<Result<_, TooLong>>()?
            }
        };
        let length =
            records.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum();
        if length > record_bytes_max {
            Err(TooLong { what: "a group's update", length })
        } else {
            Ok(records)
        }
    }

    /// What it takes while it waits for the log.
    fn estimate_bytes(&self) -> usize {
        const PER_ITEM: usize = 128;
        match self {
            Write::Group { value, .. } => {
                let members = value.members.iter().map(|member| {
                    PER_ITEM + member.subscription.len() + member.assignment.len() + member.client_id.len()
                });
                PER_ITEM + members.sum::<usize>()
            }
            Write::Commit { offsets, .. } => {
                let each =
                    offsets.iter().map(|((topic, _), offset)| PER_ITEM + topic.len() + offset.metadata.len());
                PER_ITEM + each.sum::<usize>()
            }
            Write::Forget { offsets, .. } => PER_ITEM + offsets.len() * PER_ITEM,
        }
    }
}

fn offset_key(group: &Arc<str>, (topic, partition): &TopicPartition) -> Result<Bytes, TooLong> {
    Key::Offset { group: group.clone(), topic: topic.clone(), partition: *partition }.encode()
}
