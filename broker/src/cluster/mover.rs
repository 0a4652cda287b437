//! Moves partitions off this broker, as the metadata says that they should; and, on the broker that is the caretaker, says so
//! when a broker has joined.
//!
//! ```text
//!   AlterPartitionReassignments, `ottla cluster rebalance`, ElectLeaders ──► target ─┐
//!   the caretaker, when a broker has joined ───────────────────────────────► target ─┼──► hand_over, some at a time
//!   SIGTERM, `ottla cluster drain` ───────────────────► draining ──► evacuate ───────┘
//! ```
//!
//! # Guarantees
//! - **V1** A partition goes where its target says; off a broker that is being emptied, to where its topic has least. Never to a
//!   broker that is suspected: a hand-over to a dead one would take a fail-over to come back.
//! - **V2** One hand-over at a time, so that a partition is in one at most.
//! - **V3** Without a target, and without a change in who serves, nothing is looked at but a few counts.
//! - **V4** The caretaker begins only when a broker has joined (`joined`) and has less than its share by much, plans again only when all that
//!   it asked for has moved, and moves [`Config::joining_moves_max`] at a time. What somebody moved by hand stays there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;
use wal::Incarnation;

use super::balance::{self, Load, Placed, Slack};
use super::joined::{Joined, Pauses};
use crate::metadata::Metadata;
use crate::metadata::command::Reassigned;
use crate::metadata::image::Image;
use crate::partition::Partitions;
use crate::partition::handover::Leave;

/// Brokers that should get nothing now: suspected ones, by id.
pub type Avoided = Arc<dyn Fn() -> BTreeSet<u32> + Send + Sync>;

/// Times and bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// After a hand-over that failed, the first time; then twice as long, up to ten times. Default 500 ms.
    pub retry_pause: Duration,
    /// Partitions that the caretaker has move at a time when a broker has joined; 0 for never. Default 100.
    pub joining_moves_max: usize,
    /// How long those that have joined wait for it.
    pub pauses: Pauses,
    /// How long a broker that is told to stop hands over what it leads. Default 30 s.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            retry_pause: Duration::from_millis(500),
            joining_moves_max: 100,
            pauses: Pauses::default(),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// See the module. Ends with the partitions, or when it is [stopped](Mover::stop).
pub struct Mover {
    partitions: Arc<Partitions>,
    metadata: Arc<Metadata>,
    own: Incarnation,
    config: Config,
    avoided: Avoided,
    stop: CancellationToken,
}

impl std::fmt::Debug for Mover {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Mover").field("own", &self.own).finish_non_exhaustive()
    }
}

impl Mover {
    /// Must be called inside a tokio runtime, by a broker that has registered.
    pub fn start(
        config: Config,
        partitions: Arc<Partitions>,
        metadata: Arc<Metadata>,
        avoided: Avoided,
    ) -> Arc<Mover> {
        let own = metadata.incarnation().expect("a broker that moves partitions has registered");
        let stop = partitions.closing().child_token();
        let mover = Arc::new(Mover { partitions, metadata, own, config, avoided, stop });
        let running = mover.clone();
        mover.partitions.tasks.keep("the moving of partitions", async move {
            let closing = running.partitions.closing().clone();
            running.run().await;
            // It may be stopped earlier.
            closing.cancelled().await;
        });
        mover
    }

    /// No more hand-overs are begun.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Empties this broker: says that it gets no more partitions, and returns once it has none, or nobody is there to take
    /// them, with how many it still has. Dropping the future leaves it draining.
    ///
    /// # Errors
    /// If that could not be said.
    pub async fn drain(&self) -> Result<usize, crate::metadata::Error> {
        let mut changed = self.metadata.changed();
        self.metadata.set_draining(self.own.broker, true).await?;
        loop {
            changed.borrow_and_update();
            let image = self.metadata.image();
            let left = image.led_count(self.own.broker);
            if left == 0 || !image.is_live(self.own) || takers(&image, &BTreeSet::new()).next().is_none() {
                return Ok(left);
            }
            if changed.changed().await.is_err() {
                return Ok(left);
            }
        }
    }

    async fn run(self: Arc<Self>) {
        let mut changed = self.metadata.changed();
        let mut failures = 0u32;
        let mut joined = Joined::new(takers_of(&self.metadata.image()));
        loop {
            let image = self.metadata.image();
            let avoided = (self.avoided)();
            let leaving =
                leaving(&image, self.own, &avoided, self.partitions.config().handover.partitions_max);
            let pause = if leaving.is_empty() {
                failures = 0;
                self.settle_joined(&image, &mut joined).await
            } else {
                let all_left = tokio::select! {
                    all_left = self.hand_over(&leaving) => all_left,
                    () = self.stop.cancelled() => return,
                };
                if all_left {
                    failures = 0;
                    continue;
                }
                failures = (failures + 1).min(10);
                Some(self.config.retry_pause * failures)
            };
            let paused = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = paused => {}
                // After a failure the pause is waited for: entries come by all the time.
                change = changed.changed(), if failures == 0 => if change.is_err() {
                    // The metadata ended, and says so itself.
                    return self.stop.cancelled().await;
                },
            }
        }
    }

    /// Whether all of them left, of as many as one hand-over takes.
    async fn hand_over(&self, leaving: &[Leave]) -> bool {
        match self.partitions.hand_over(leaving).await {
            Ok(done) => {
                if let Some((leave, why)) = done.stayed.first() {
                    let (count, topic, index) = (done.stayed.len(), leave.topic, leave.index);
                    warn!(count, %topic, index, why, "partitions were not handed over; trying again");
                }
                done.stayed.is_empty()
            }
            Err(error) => {
                warn!(%error, partitions = leaving.len(), "a hand-over failed; trying again");
                false
            }
        }
    }

    /// V4. When to look again, whatever happens.
    async fn settle_joined(&self, image: &Image, joined: &mut Joined) -> Option<Duration> {
        if self.config.joining_moves_max == 0 {
            return None;
        }
        let now = Instant::now();
        let falls_short = |takers: &BTreeSet<Incarnation>| {
            let counts: Vec<usize> = takers.iter().map(|taker| image.led_count(taker.broker)).collect();
            balance::falls_short(&counts, Slack::automatic(0).count)
        };
        let is_live = |life| image.is_live(life);
        if !joined.look(now, takers_of(image), is_live, falls_short, self.config.pauses) {
            return joined.due(now);
        }
        if image.caretaker() != Some(self.own) {
            return None;
        }
        let brokers: BTreeSet<u32> = takers(image, &(self.avoided)()).collect();
        let placed = placed(image, |_, _| Load::default());
        if placed.iter().any(|placed| placed.moving) {
            return Some(self.config.pauses.joining);
        }
        let moves = balance::plan(&brokers, &placed, Slack::automatic(self.config.joining_moves_max));
        if moves.is_empty() {
            joined.settled();
            return None;
        }
        info!(partitions = moves.len(), "moving partitions to brokers that have joined");
        let aim = |done: &balance::Move| Reassigned {
            topic: done.topic,
            partition: done.index as u32,
            target: Some(done.to),
        };
        if let Err(error) = self.metadata.reassign(moves.iter().map(aim).collect()).await {
            warn!(%error, "partitions were not told to move; trying again");
        }
        Some(self.config.retry_pause)
    }
}

/// Who can take partitions, less `avoided`.
fn takers<'a>(image: &'a Image, avoided: &'a BTreeSet<u32>) -> impl Iterator<Item = u32> + 'a {
    let takes = image.serving().filter(|(_, life)| !life.draining).map(|(incarnation, _)| incarnation.broker);
    takes.filter(|broker| !avoided.contains(broker))
}

/// All partitions that somebody leads, where they are or will be.
pub fn placed(image: &Image, load: impl Fn(Uuid, i32) -> Load) -> Vec<Placed> {
    let mut placed = Vec::with_capacity(image.partition_count());
    for topic in image.topics() {
        for (index, info) in (0..).zip(topic.partitions.iter()) {
            placed.push(Placed {
                topic: topic.id,
                index,
                broker: info.target.unwrap_or(info.leader),
                load: load(topic.id, index),
                moving: info.target.is_some(),
            });
        }
    }
    placed
}

/// V1: what of `own` should go, and where to, at most `max`.
fn leaving(image: &Image, own: Incarnation, avoided: &BTreeSet<u32>, max: usize) -> Vec<Leave> {
    let Some(life) = image.life(own) else { return Vec::new() };
    let mut leaving = Vec::new();
    if image.moving_count(own.broker) > 0 {
        let aimed =
            image.partitions_of(own).filter_map(|(topic, index)| {
                let to = topic.partitions[index].target?;
                (to != own.broker && !avoided.contains(&to) && image.receiver(to).is_some())
                    .then_some(Leave { topic: topic.id, index: index as i32, to })
            });
        leaving.extend(aimed.take(max));
    }
    if life.draining && leaving.len() < max {
        let brokers: BTreeSet<u32> = takers(image, avoided).collect();
        let placed = placed(image, |_, _| Load::default());
        let moves = balance::evacuate(&brokers, &placed, own.broker, max - leaving.len());
        leaving.extend(moves.iter().map(|done| Leave { topic: done.topic, index: done.index, to: done.to }));
    }
    leaving
}

/// Whose shares are looked at.
fn takers_of(image: &Image) -> BTreeSet<Incarnation> {
    image.serving().filter(|(_, life)| !life.draining).map(|(incarnation, _)| incarnation).collect()
}
