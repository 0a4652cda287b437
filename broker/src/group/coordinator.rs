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
//! # Leaving
//!
//! When the partition goes to another broker, appends wait until that is decided. Then this coordinator ends: whoever waits
//! is told NOT_COORDINATOR, and finds the next one, which knows members and generations from the log. So no group rebalances
//! for that.
//!
//! # The length of the log
//!
//! Every commit makes the log longer, and a load reads all of it. So when it has become long beside what lives, all that
//! lives is written once more, a step at a time between commits, and the log is trimmed to where that began
//! (`coordinator/history.rs`, decision 0015). A crash at any point leaves a log that says the same.
//!
//! # Cancellation
//!
//! A request whose connection is gone is carried out nevertheless; its answer goes nowhere. When the broker stops,
//! whoever waits in a join or a sync is told NOT_COORDINATOR; appends under way are awaited.

mod append;
pub(super) mod history;
mod load;

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, Either, FutureExt, pending};
use futures::stream::FuturesOrdered;
use kafka_protocol::error::ResponseError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Options;
use super::log::{LogError, OffsetsLog, Surroundings};
use super::offsets::TopicPartition;
use super::records::CommittedOffset;
use super::shard::{Budget, CommitRequest, Deleted, Output, Shard};
use super::state::{
    Description, JoinAnswer, JoinRequest, Leaving, Now, State, SyncAnswer, SyncRequest, Waiter,
};

use append::{Admitting, Answer, Flight, Item, Started};
use history::History;

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
    /// The whole group.
    Delete {
        group: Arc<str>,
        reply: oneshot::Sender<Result<(), ResponseError>>,
    },
    DeleteOffsets {
        group: Arc<str>,
        offsets: Vec<TopicPartition>,
        reply: oneshot::Sender<DeletedAnswer>,
    },
}

/// One result for each that leaves, or one error for all.
pub type LeaveAnswer = Result<Vec<Result<(), ResponseError>>, ResponseError>;

/// One result for each offset, or one error for all.
pub type DeletedAnswer = Result<Deleted, ResponseError>;

/// What an actor is started with.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Of `__consumer_offsets`.
    pub partition: i32,
    /// Ticks count from here: when the broker began to look after groups.
    pub started: Instant,
    pub options: Options,
    pub surroundings: Arc<dyn Surroundings>,
    pub budget: Arc<Budget>,
    pub stop: CancellationToken,
}

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
    /// Starts an actor; the future is to be spawned by whoever owns it.
    pub fn new(setting: Setting) -> (Coordinator, impl Future<Output = ()> + Send + 'static) {
        let (sender, receiver) = mpsc::channel(setting.options.queued_messages_max);
        let (loaded_sender, loaded) = watch::channel(false);
        let run = run(setting, receiver, loaded_sender);
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
    history: History,
}

async fn run(setting: Setting, messages: mpsc::Receiver<Message>, loaded: watch::Sender<bool>) {
    let Setting { partition, started, options, surroundings, budget, stop } = setting;
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
    let history = History::new(options.rewrite_log_bytes_min, options.rewrite_factor);
    let mut actor = Actor {
        partition,
        options,
        surroundings,
        log,
        shard,
        started,
        next_waiter: 0,
        joins: HashMap::new(),
        syncs: HashMap::new(),
        commits: HashMap::new(),
        queue: VecDeque::new(),
        queued_bytes: 0,
        history,
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
        Now {
            tick_ms: self.started.elapsed().as_millis() as u64,
            wall_ms: host::clock::wall_ms(),
            outvoted: self.surroundings.clock_is_outvoted(),
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
        let mut trimming: Option<BoxFuture<'static, Result<(), LogError>>> = None;
        let mut topics_live = true;
        loop {
            if admitting.is_none() && in_flight.len() < self.options.appends_in_flight_max {
                match self.start_append() {
                    Some(Started::Admitting(started)) => admitting = Some(started),
                    Some(Started::Nothing(flight)) => in_flight.push_back(flight),
                    None => {}
                }
            }
            if trimming.is_none() {
                trimming = self.start_trim();
            }
            let now = self.now();
            let deadline = match self.shard.wake() {
                Some(at) => {
                    Either::Left(tokio::time::sleep(Duration::from_millis(at.saturating_sub(now.tick_ms))))
                }
                None => Either::Right(pending()),
            };
            let admitted = match &mut admitting {
                Some(admitting) => Either::Left(admitting.append()),
                None => Either::Right(pending()),
            };
            let trimmed = match &mut trimming {
                Some(trimming) => Either::Left(trimming),
                None => Either::Right(pending()),
            };
            tokio::select! {
                () = stop.cancelled() => break,
                Some((landings, result)) = in_flight.next(), if !in_flight.is_empty() => {
                    if let Err(error) = self.landed(landings, result) {
                        tracing::warn!(partition = self.partition, %error, "an append failed; starting over");
                        return self.wind_down(in_flight, admitting, error.response()).await;
                    }
                }
                appended = admitted => {
                    let admitting = admitting.take().expect("it was polled");
                    match self.admitted(admitting, appended) {
                        Ok(flight) => in_flight.push_back(flight),
                        Err(error) => {
                            tracing::warn!(partition = self.partition, %error, "an append failed; starting over");
                            return self.wind_down(in_flight, None, error.response()).await;
                        }
                    }
                }
                result = trimmed => {
                    trimming = None;
                    self.trimmed(result);
                }
                () = deadline => self.expire(),
                changed = topics.changed(), if topics_live => {
                    topics_live = changed.is_ok();
                    if !self.log.is_led() {
                        tracing::info!(partition = self.partition, "these groups have another coordinator now");
                        break;
                    }
                    self.history.try_again();
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

    /// The beginning of the log goes once it is uploaded: earlier, that alone would force an upload. Every upload is an
    /// entry of the metadata log, which wakes this actor.
    fn start_trim(&mut self) -> Option<BoxFuture<'static, Result<(), LogError>>> {
        let mark = self.history.trim_due(self.log.end())?;
        if self.log.committed_end() < mark {
            return None;
        }
        self.history.trim_started();
        let log = self.log.clone();
        Some(async move { log.trim(mark).await }.boxed())
    }

    fn trimmed(&mut self, result: Result<(), LogError>) {
        self.history.trim_ended(result.is_ok());
        let (partition, bytes) = (self.partition, self.history.bytes());
        match result {
            Ok(()) => tracing::info!(partition, bytes, "the log of groups and offsets is short again"),
            // Harmless: it is tried again, and a successor that finds the log too long begins a rewrite of its own.
            Err(error) => {
                tracing::warn!(partition, %error, "the log of groups and offsets is not shortened yet");
            }
        }
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
        if let Some(mut admitting) = admitting {
            let appended = admitting.append().await;
            if let Ok(flight) = self.admitted(admitting, appended) {
                in_flight.push_back(flight);
            }
        }
        let mut in_flight = pin!(in_flight);
        while let Some((landings, result)) = in_flight.next().await {
            if let Err(error) = self.landed(landings, result) {
                tracing::warn!(partition = self.partition, %error, "an append failed while its coordinator ended");
            }
        }
        self.give_up(error);
    }

    fn expire(&mut self) {
        let (now, mut out) = (self.now(), Output::default());
        self.shard.expire(now, &mut out);
        if self.shard.is_check_due(now) {
            let surroundings = self.surroundings.clone();
            self.shard.check_retention(now, &|topic| Some(surroundings.topic(topic)?.id), &mut out);
        }
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
            Message::Commit { reply, .. } | Message::Delete { reply, .. } if self.is_congested() => {
                let _ = reply.send(Err(ResponseError::CoordinatorNotAvailable));
            }
            Message::DeleteOffsets { reply, .. } if self.is_congested() => {
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
                self.answer_when_durable(Answer::Left(reply, results), &mut out);
            }
            Message::Delete { group, reply } => match self.shard.delete(now, &group, &mut out) {
                Ok(()) => self.answer_when_durable(Answer::Deleted(reply), &mut out),
                Err(error) => drop(reply.send(Err(error))),
            },
            Message::DeleteOffsets { group, offsets, reply } => {
                match self.shard.delete_offsets(&group, offsets, &mut out) {
                    Ok(results) => {
                        self.answer_when_durable(Answer::OffsetsDeleted(reply, results), &mut out);
                    }
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Message::Fetch { group, scope, reply } => drop(reply.send(self.fetch(&group, scope))),
            Message::Describe { group, reply } => drop(reply.send(self.shard.describe(&group))),
            Message::List { reply } => drop(reply.send(self.list())),
        }
        self.absorb(out);
    }

    fn answer_when_durable(&mut self, answer: Answer, out: &mut Output) {
        if out.writes.is_empty() {
            return answer.give();
        }
        self.absorb(std::mem::take(out));
        self.queue.push_back(Item::Answer(answer));
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

    /// The memory may be ahead of the log: nothing more is decided here.
    fn give_up(&mut self, error: ResponseError) {
        let mut out = Output::default();
        self.shard.abandon(error, &mut out);
        self.absorb(out);
        for (_, reply) in self.commits.drain() {
            let _ = reply.send(Err(error));
        }
        for item in self.queue.drain(..) {
            if let Item::Answer(answer) = item {
                answer.fail(error);
            }
        }
    }
}
