//! All coordinators of a broker: which one has a group, and how to ask it.

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use kafka_protocol::error::ResponseError;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wal::AckRight;

use super::coordinator::{
    Coordinator, DeletedAnswer, FetchScope, Fetched, LeaveAnswer, Listed, Message, Setting, Unasked,
};
use super::log::{KnownTopic, LogError, Surroundings};
use super::offsets::TopicPartition;
use super::shard::{Budget, CommitRequest};
use super::state::{Description, JoinAnswer, JoinRefused, JoinRequest, Leaving, SyncAnswer, SyncRequest};
use super::{BrokerSurroundings, Options};
use crate::config::BrokerConfig;
use crate::metadata::Metadata;
use crate::partition::Partitions;
use crate::tasks::Tasks;

/// Partitions that one listing of all groups loads side by side. No option: it bounds a burst of reads.
const LOADED_AT_ONCE: usize = 64;

/// The group coordinators of one broker: an actor for each partition of `__consumer_offsets` that is in use.
#[derive(Debug)]
pub struct Groups {
    options: Options,
    surroundings: Arc<dyn Surroundings>,
    budget: Arc<Budget>,
    /// With the leader epoch under which each began.
    coordinators: Mutex<HashMap<i32, (i32, Coordinator)>>,
    tasks: Tasks,
    stop: CancellationToken,
    started: Instant,
}

/// Why a group's coordinator gives no answer, for the API that asks to translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// It is replaying its log and this takes longer than a request should wait.
    Loading,
    /// It is not here, has ended, or may not speak any more: look for it again.
    NotCoordinator,
    /// It cannot be started now.
    Unavailable,
}

impl NoAnswer {
    pub fn response(self) -> ResponseError {
        match self {
            NoAnswer::Loading => ResponseError::CoordinatorLoadInProgress,
            NoAnswer::NotCoordinator => ResponseError::NotCoordinator,
            NoAnswer::Unavailable => ResponseError::CoordinatorNotAvailable,
        }
    }
}

impl From<LogError> for NoAnswer {
    fn from(error: LogError) -> NoAnswer {
        match error {
            LogError::NotLeader(_) => NoAnswer::NotCoordinator,
            LogError::Unavailable(_) => NoAnswer::Unavailable,
        }
    }
}

impl From<Unasked> for NoAnswer {
    fn from(unasked: Unasked) -> NoAnswer {
        match unasked {
            Unasked::Loading => NoAnswer::Loading,
            Unasked::Ended => NoAnswer::NotCoordinator,
        }
    }
}

impl Groups {
    pub fn new(options: Options, surroundings: Arc<dyn Surroundings>) -> Groups {
        let budget = Arc::new(Budget::new(options.state_bytes_max));
        Groups {
            options,
            surroundings,
            budget,
            coordinators: Mutex::new(HashMap::new()),
            tasks: Tasks::default(),
            stop: CancellationToken::new(),
            started: Instant::now(),
        }
    }

    /// The coordinators of a broker, with its configs; what these do not say is as in `options`.
    pub fn of_broker(
        options: Options,
        metadata: Arc<Metadata>,
        partitions: Arc<Partitions>,
        right: Arc<AckRight>,
        config: Arc<BrokerConfig>,
    ) -> Groups {
        let options = options.with_configs(&config);
        Groups::new(options, Arc::new(BrokerSurroundings { metadata, partitions, right, config }))
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The topic that has the name now.
    pub fn topic(&self, name: &str) -> Option<KnownTopic> {
        self.surroundings.topic(name)
    }

    /// Creates `__consumer_offsets` if need be, and says which of its partitions the group belongs to.
    pub async fn ensure_partition_of(&self, group: &str) -> Result<i32, NoAnswer> {
        let partitions = self.surroundings.ensure_offsets_topic().await?;
        Ok(partition_of(group, partitions))
    }

    pub async fn join(&self, group: Arc<str>, request: JoinRequest) -> JoinAnswer {
        let member_id = request.member_id.clone();
        let asked = match self.coordinator_of(&group).await {
            Ok(coordinator) => coordinator.ask(|reply| Message::Join { group, request, reply }).await,
            Err(no_answer) => return Err(JoinRefused { error: no_answer.response(), member_id }),
        };
        asked.unwrap_or_else(|unasked| {
            Err(JoinRefused { error: NoAnswer::from(unasked).response(), member_id })
        })
    }

    /// While the coordinator loads: a rebalance that was under way is lost, so the member should join again, and need
    /// not look for the coordinator for that. (As Kafka.)
    pub async fn sync(&self, group: Arc<str>, request: SyncRequest) -> SyncAnswer {
        let asked = match self.coordinator_of(&group).await {
            Ok(coordinator) => coordinator.ask(|reply| Message::Sync { group, request, reply }).await,
            Err(NoAnswer::Loading) => return Err(ResponseError::RebalanceInProgress),
            Err(no_answer) => return Err(no_answer.response()),
        };
        asked.unwrap_or_else(|unasked| Err(NoAnswer::from(unasked).response()))
    }

    /// While the coordinator loads, any heartbeat is fine. (As Kafka.)
    pub async fn heartbeat(
        &self,
        group: Arc<str>,
        member_id: Arc<str>,
        instance_id: Option<Arc<str>>,
        generation: i32,
    ) -> Result<(), ResponseError> {
        let coordinator = match self.coordinator_of(&group).await {
            Ok(coordinator) => coordinator,
            Err(NoAnswer::Loading) => return Ok(()),
            Err(no_answer) => return Err(no_answer.response()),
        };
        let message = |reply| Message::Heartbeat { group, member_id, instance_id, generation, reply };
        coordinator.ask(message).await.unwrap_or_else(|unasked| Err(NoAnswer::from(unasked).response()))
    }

    pub async fn leave(&self, group: Arc<str>, leaving: Vec<Leaving>) -> LeaveAnswer {
        let coordinator = self.coordinator_of(&group).await.map_err(NoAnswer::response)?;
        let asked = coordinator.ask(|reply| Message::Leave { group, leaving, reply }).await;
        asked.unwrap_or_else(|unasked| Err(NoAnswer::from(unasked).response()))
    }

    /// Resolves once the commit is durable.
    pub async fn commit(&self, group: Arc<str>, request: CommitRequest) -> Result<(), ResponseError> {
        let coordinator = self.coordinator_of(&group).await.map_err(NoAnswer::response)?;
        let asked = coordinator.ask(|reply| Message::Commit { group, request, reply }).await;
        asked.unwrap_or_else(|unasked| Err(NoAnswer::from(unasked).response()))
    }

    pub async fn fetch(&self, group: Arc<str>, scope: FetchScope) -> Result<Fetched, NoAnswer> {
        let partition = self.ensure_partition_of(&group).await?;
        let coordinator = self.coordinator_of(&group).await?;
        let fetched = coordinator.ask(|reply| Message::Fetch { group, scope, reply }).await?;
        // Asked last: what was read before is true if this is still the coordinator now.
        let speaks = self.surroundings.is_fresh() && self.surroundings.is_current(partition);
        if speaks { Ok(fetched) } else { Err(NoAnswer::NotCoordinator) }
    }

    /// Deletes a group with all its offsets. Resolves once that is durable.
    pub async fn delete(&self, group: Arc<str>) -> Result<(), ResponseError> {
        let coordinator = self.coordinator_of(&group).await.map_err(NoAnswer::response)?;
        let asked = coordinator.ask(|reply| Message::Delete { group, reply }).await;
        asked.unwrap_or_else(|unasked| Err(NoAnswer::from(unasked).response()))
    }

    /// Deletes offsets of a group. Resolves once that is durable.
    pub async fn delete_offsets(&self, group: Arc<str>, offsets: Vec<TopicPartition>) -> DeletedAnswer {
        let coordinator = self.coordinator_of(&group).await.map_err(NoAnswer::response)?;
        let asked = coordinator.ask(|reply| Message::DeleteOffsets { group, offsets, reply }).await;
        asked.unwrap_or_else(|unasked| Err(NoAnswer::from(unasked).response()))
    }

    /// `None` for a group that is not known.
    pub async fn describe(&self, group: Arc<str>) -> Result<Option<Description>, NoAnswer> {
        let coordinator = self.coordinator_of(&group).await?;
        Ok(coordinator.ask(|reply| Message::Describe { group, reply }).await?)
    }

    /// Every group that has its coordinator here. Loads what is not loaded yet, side by side; partitions without records
    /// are passed over.
    pub async fn list(&self) -> Result<Vec<Listed>, NoAnswer> {
        let Some(partitions) = self.surroundings.offsets_partitions() else { return Ok(Vec::new()) };
        let led = (0..partitions).filter(|partition| self.surroundings.led_epoch(*partition).is_some());
        let deadline = Instant::now() + self.options.load_wait_max;
        let parts = stream::iter(led).map(|partition| self.list_part(partition, deadline));
        let listed = parts.buffer_unordered(LOADED_AT_ONCE).try_concat().await?;
        // Asked last: who is deposed has groups that others have too.
        if self.surroundings.is_fresh() { Ok(listed) } else { Err(NoAnswer::NotCoordinator) }
    }

    async fn list_part(&self, partition: i32, deadline: Instant) -> Result<Vec<Listed>, NoAnswer> {
        match self.list_led(partition, deadline).await {
            // Another broker lists those.
            Err(NoAnswer::NotCoordinator) => Ok(Vec::new()),
            answer => answer,
        }
    }

    async fn list_led(&self, partition: i32, deadline: Instant) -> Result<Vec<Listed>, NoAnswer> {
        let running = self.running(partition);
        if running.is_none() && self.surroundings.open(partition).await?.end() == 0 {
            return Ok(Vec::new());
        }
        let coordinator = self.coordinator(partition)?;
        coordinator.wait_loaded(deadline.saturating_duration_since(Instant::now())).await?;
        Ok(coordinator.ask(|reply| Message::List { reply }).await?)
    }

    /// Stops all actors. Requests in joins and syncs are told to look for the coordinator again.
    pub async fn shutdown(&self) {
        self.tasks.close();
        self.stop.cancel();
        self.tasks.wait().await;
    }

    /// Resolves once a coordinator has met a broken invariant: the process must end. Otherwise never.
    pub async fn failed(&self) -> String {
        self.tasks.failed().await
    }

    /// The first broken invariant so far.
    pub fn failure(&self) -> Option<String> {
        self.tasks.failure()
    }

    async fn coordinator_of(&self, group: &str) -> Result<Coordinator, NoAnswer> {
        let partition = self.ensure_partition_of(group).await?;
        let coordinator = self.coordinator(partition)?;
        coordinator.wait_loaded(self.options.load_wait_max).await?;
        Ok(coordinator)
    }

    fn running(&self, partition: i32) -> Option<Coordinator> {
        let coordinators = self.coordinators.lock();
        let (_, coordinator) = coordinators.get(&partition)?;
        (!coordinator.has_ended()).then(|| coordinator.clone())
    }

    /// The partition's coordinator; a new one if there was none or it gave up. What another broker leads has its coordinator
    /// there, whatever still runs here.
    fn coordinator(&self, partition: i32) -> Result<Coordinator, NoAnswer> {
        let led = self.surroundings.led_epoch(partition);
        let mut coordinators = self.coordinators.lock();
        let known = coordinators.get(&partition);
        let running = known.filter(|(_, coordinator)| !coordinator.has_ended()).cloned();
        let epoch = match (led, running) {
            (Some(epoch), Some((began, coordinator))) if began == epoch => return Ok(coordinator),
            // One of an earlier time is about to end; the next one comes after it.
            (_, Some(_)) => return Err(NoAnswer::NotCoordinator),
            (Some(epoch), None) => epoch,
            (None, None) => {
                coordinators.remove(&partition);
                return Err(NoAnswer::NotCoordinator);
            }
        };
        let (coordinator, run) = Coordinator::new(Setting {
            partition,
            started: self.started,
            options: self.options.clone(),
            surroundings: self.surroundings.clone(),
            budget: self.budget.clone(),
            stop: self.stop.child_token(),
        });
        self.tasks.spawn("a group coordinator", run);
        coordinators.insert(partition, (epoch, coordinator.clone()));
        Ok(coordinator)
    }
}

/// Kafka's choice of a group's partition: `Utils.abs(groupId.hashCode()) % partitions`, on UTF-16 code units.
pub fn partition_of(group: &str, partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has partitions");
    let hash =
        group.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // `Utils.abs` makes 0 of the one number that has no absolute value.
    hash.checked_abs().unwrap_or(0) % partitions
}

#[cfg(test)]
pub(crate) mod tests;
