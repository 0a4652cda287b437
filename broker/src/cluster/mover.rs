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
//!   broker that is suspected: a hand-over to a dead one would take a fail-over to come back. What cannot go does not keep
//!   the rest from going: after a failure others come first. To a broker that is heard, but cannot be connected to (the address that
//!   it advertises may be wrong), goes what its target says, or what nobody else can take: no share, and nothing that has a choice.
//! - **V2** One hand-over at a time, so that a partition is in one at most.
//! - **V3** Without a target, and without a change in who serves, nothing is looked at but a few counts. What cannot go now is
//!   looked at again after a pause.
//! - **V4** The caretaker begins only when a broker has joined (`joined`) and has less than its share by much, plans again only when all that
//!   has a target has moved, or has not for [`Config::joining_patience`], be it on the caretaker itself, and moves
//!   [`Config::joining_moves_max`] at a time. What somebody moved by hand stays there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
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

/// Brokers that should get nothing now, by id.
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
    /// How long the caretaker waits for a partition that is to move before it plans without it. Default 1 min.
    pub joining_patience: Duration,
    /// How long a broker that is told to stop hands over what it leads. Default 30 s.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            retry_pause: Duration::from_millis(500),
            joining_moves_max: 100,
            pauses: Pauses::default(),
            joining_patience: Duration::from_secs(60),
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
    /// Suspected.
    avoided: Avoided,
    /// Not to be connected to.
    unreached: Avoided,
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
        unreached: Avoided,
    ) -> Arc<Mover> {
        let own = metadata.incarnation().expect("a broker that moves partitions has registered");
        let stop = partitions.closing().child_token();
        // Before anything else may happen: who comes from now on has joined.
        let joined = Joined::new(takers_of(&metadata.image()));
        let mover = Arc::new(Mover { partitions, metadata, own, config, avoided, unreached, stop });
        let running = mover.clone();
        mover.partitions.tasks.keep("the moving of partitions", async move {
            let closing = running.partitions.closing().clone();
            running.run(joined).await;
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

    async fn run(self: Arc<Self>, mut joined: Joined) {
        let mut changed = self.metadata.changed();
        let mut failures = 0u32;
        // V1: how many are behind others for now.
        let mut last = 0usize;
        let mut awaited = Awaited::default();
        loop {
            let image = self.metadata.image();
            let avoided = (self.avoided)();
            let at_once = self.partitions.config().handover.partitions_max;
            let leaving = leaving(&image, self.own, &avoided, &*self.unreached, last, at_once);
            let pause = if leaving.is_empty() {
                failures = 0;
                let settled = self.settle_joined(&image, &mut joined, &mut awaited).await;
                let blocked = has_to_give(&image, self.own).then_some(self.config.retry_pause * 4);
                settled.into_iter().chain(blocked).min()
            } else {
                let handing = self.hand_over(&leaving);
                let Some(all_left) = self.seeing_who_joins(handing, &mut changed, &mut joined).await else {
                    return;
                };
                if all_left {
                    failures = 0;
                    continue;
                }
                last = last.wrapping_add(at_once);
                failures = (failures + 1).min(10);
                // V4: what cannot leave keeps nobody from a share.
                self.settle_joined(&self.metadata.image(), &mut joined, &mut awaited).await;
                // Entries come by all the time: the pause is waited for.
                let paused = tokio::time::sleep(self.config.retry_pause * failures);
                if self.seeing_who_joins(paused, &mut changed, &mut joined).await.is_none() {
                    return;
                }
                continue;
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
                change = changed.changed() => if change.is_err() {
                    // The metadata ended, and says so itself.
                    return self.stop.cancelled().await;
                },
            }
        }
    }

    /// What comes of `doing`, unless it is stopped. Meanwhile who joins is seen, be it to leave again.
    async fn seeing_who_joins<T>(
        &self,
        doing: impl Future<Output = T>,
        changed: &mut watch::Receiver<u64>,
        joined: &mut Joined,
    ) -> Option<T> {
        tokio::pin!(doing);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return None,
                done = &mut doing => return Some(done),
                change = changed.changed() => {
                    if change.is_err() {
                        // The metadata ended, and says so itself.
                        self.stop.cancelled().await;
                        return None;
                    }
                    let image = self.metadata.image();
                    let is_live = |life| image.is_live(life);
                    joined.see(Instant::now(), takers_of(&image), is_live, self.config.pauses);
                }
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
    async fn settle_joined(
        &self,
        image: &Image,
        joined: &mut Joined,
        awaited: &mut Awaited,
    ) -> Option<Duration> {
        if self.config.joining_moves_max == 0 {
            return None;
        }
        let now = Instant::now();
        let falls_short = |takers: &BTreeSet<Incarnation>| {
            let counts: Vec<usize> = takers.iter().map(|taker| image.led_count(taker.broker)).collect();
            balance::falls_short(&counts, Slack::automatic(0).count)
        };
        let is_live = |life| image.is_live(life);
        let Some(waiting) = joined.look(now, takers_of(image), is_live, falls_short, self.config.pauses)
        else {
            return joined.due(now);
        };
        if image.caretaker() != Some(self.own) {
            return None;
        }
        let serving = takers_of(image);
        if let Some(rest) = awaited.rest(now, &serving) {
            return Some(rest);
        }
        let avoided = &(&(self.avoided)() | &(self.unreached)()) | &waiting;
        let brokers: BTreeSet<u32> = takers(image, &avoided).collect();
        let placed = placed(image, |_, _| Load::default());
        if awaited.look(Instant::now(), &placed, self.config.joining_patience) {
            return Some(self.config.pauses.joining);
        }
        let moves = balance::plan(&brokers, &placed, Slack::automatic(self.config.joining_moves_max));
        if moves.is_empty() {
            if brokers.len() < serving.len() {
                // Who is suspected for a moment, or waits, may be the one that joined.
                let rest = self.config.pauses.joining;
                awaited.resting = Some((now + rest, serving));
                return Some(rest);
            }
            joined.settled();
            *awaited = Awaited::default();
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

/// Whether there is anything that should go, if it can.
fn has_to_give(image: &Image, own: Incarnation) -> bool {
    let draining = image.life(own).is_some_and(|life| life.draining);
    image.moving_count(own.broker) > 0 || draining && image.led_count(own.broker) > 0
}

/// V1: what of `own` should go, and where to, at most `max`; the first `last` of them come last.
fn leaving(
    image: &Image,
    own: Incarnation,
    avoided: &BTreeSet<u32>,
    unreached: impl FnOnce() -> BTreeSet<u32>,
    last: usize,
    max: usize,
) -> Vec<Leave> {
    let Some(life) = image.life(own) else { return Vec::new() };
    let mut leaving = Vec::new();
    if image.moving_count(own.broker) > 0 {
        let aimed =
            image.partitions_of(own).filter_map(|(topic, index)| {
                let to = topic.partitions[index].target?;
                (to != own.broker && !avoided.contains(&to) && image.receiver(to).is_some())
                    .then_some(Leave { topic: topic.id, index: index as i32, to })
            });
        leaving.extend(aimed);
    }
    if life.draining {
        let brokers: BTreeSet<u32> = takers(image, avoided).collect();
        let reached = &brokers - &unreached();
        let brokers = if reached.is_empty() { brokers } else { reached };
        let placed = placed(image, |_, _| Load::default());
        let moves = balance::evacuate(&brokers, &placed, own.broker, usize::MAX);
        leaving.extend(moves.iter().map(|done| Leave { topic: done.topic, index: done.index, to: done.to }));
    }
    let last = last % leaving.len().max(1);
    leaving.rotate_left(last);
    leaving.truncate(max);
    leaving
}

/// Partitions that are to move, and since when that is known (V4).
#[derive(Default)]
struct Awaited {
    since: BTreeMap<(Uuid, i32), Instant>,
    /// People were told that some do not.
    told: bool,
    /// Nothing is planned before that, as long as these take partitions: entries come by all the time, and a plan is a pass over
    /// all partitions.
    resting: Option<(Instant, BTreeSet<Incarnation>)>,
}

impl Awaited {
    /// How long nothing is planned, if it is so.
    fn rest(&self, now: Instant, serving: &BTreeSet<Incarnation>) -> Option<Duration> {
        let (until, known) = self.resting.as_ref()?;
        (known == serving).then(|| until.saturating_duration_since(now)).filter(|rest| !rest.is_zero())
    }

    /// Whether one of them is still waited for.
    fn look(&mut self, now: Instant, placed: &[Placed], patience: Duration) -> bool {
        let moving = placed.iter().filter(|placed| placed.moving).map(|placed| (placed.topic, placed.index));
        self.since = moving.map(|key| (key, self.since.get(&key).copied().unwrap_or(now))).collect();
        let given_up = self.since.iter().find(|(_, since)| now - **since >= patience);
        if let Some(((topic, index), _)) = given_up
            && !self.told
        {
            warn!(%topic, index, "partitions have been about to move for {patience:?}, and do not; others do meanwhile");
        }
        self.told = given_up.is_some();
        self.since.values().any(|since| now - *since < patience)
    }
}

/// Whose shares are looked at.
fn takers_of(image: &Image) -> BTreeSet<Incarnation> {
    image.serving().filter(|(_, life)| !life.draining).map(|(incarnation, _)| incarnation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::tests::History;
    use crate::metadata::command::{Command, NewTopic};

    const MINUTE: Duration = Duration::from_secs(60);

    fn topic(by: Incarnation, leaders: Vec<u32>) -> Command {
        let partitions = leaders.len() as u32;
        let topic =
            NewTopic { id: Uuid::from_u128(1), name: "t".into(), partitions, configs: Vec::new(), leaders };
        Command::CreateTopics { by, topics: vec![topic] }
    }

    fn aim(by: Incarnation, partitions: std::ops::Range<u32>, to: u32) -> Command {
        let aim = |partition| Reassigned { topic: Uuid::from_u128(1), partition, target: Some(to) };
        Command::Reassign { by, moves: partitions.map(aim).collect() }
    }

    /// V3: whoever is unreached for good costs a pass over all partitions once in a pause, and not with each entry.
    #[test]
    fn what_cannot_be_planned_is_not_looked_at_with_every_entry() {
        let (now, pause) = (Instant::now(), Duration::from_secs(3));
        let lives =
            |brokers: &[u32]| brokers.iter().map(|at| Incarnation { broker: *at, epoch: 1 }).collect();
        let mut awaited = Awaited::default();
        assert_eq!(awaited.rest(now, &lives(&[1, 2])), None);
        awaited.resting = Some((now + pause, lives(&[1, 2])));
        assert_eq!(awaited.rest(now + pause / 3, &lives(&[1, 2])), Some(pause * 2 / 3));
        assert_eq!(awaited.rest(now, &lives(&[1, 2, 3])), None, "somebody came");
        assert_eq!(awaited.rest(now + pause, &lives(&[1, 2])), None);
    }

    /// V1: five that cannot go, and two at a time.
    #[test]
    fn after_a_failure_others_come_first_and_all_have_their_turn() {
        let (mut history, lives) = History::serving(2, "object:");
        history.apply(topic(lives[0], vec![1; 5]));
        let none = BTreeSet::new();
        let turns = |history: &History| -> Vec<i32> {
            let turn = |failed: usize| leaving(&history.image, lives[0], &none, BTreeSet::new, 2 * failed, 2);
            (0..5).flat_map(turn).map(|leave| leave.index).collect()
        };
        history.apply(aim(lives[0], 0..5, 2));
        assert_eq!(turns(&history), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
        let (mut history, _) = History::serving(2, "object:");
        history.apply(topic(lives[0], vec![1; 5]));
        history.apply(Command::SetDraining { by: lives[0], broker: 1, draining: true });
        assert_eq!(turns(&history), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
        assert!(has_to_give(&history.image, lives[0]));
        let avoided = BTreeSet::from([2]);
        let left = leaving(&history.image, lives[0], &avoided, BTreeSet::new, 0, 2);
        assert_eq!(left.len(), 0, "not to the suspected");
    }

    /// V1: not by itself, if there is a choice.
    #[test]
    fn who_cannot_be_connected_to_gets_what_nobody_else_can_take() {
        let (mut history, lives) = History::serving(3, "object:");
        history.apply(topic(lives[0], vec![1; 4]));
        history.apply(Command::SetDraining { by: lives[0], broker: 1, draining: true });
        let to = |avoided: &[u32], unreached: &[u32]| -> BTreeSet<u32> {
            let avoided = avoided.iter().copied().collect();
            let unreached = || unreached.iter().copied().collect();
            let left = leaving(&history.image, lives[0], &avoided, unreached, 0, 4);
            left.iter().map(|leave| leave.to).collect()
        };
        assert_eq!(to(&[], &[]), BTreeSet::from([2, 3]));
        assert_eq!(to(&[], &[3]), BTreeSet::from([2]));
        assert_eq!(to(&[2], &[3]), BTreeSet::from([3]));
        assert_eq!(to(&[], &[2, 3]), BTreeSet::from([2, 3]));
    }

    /// V4: the one that joined gets its share though something else is stuck.
    #[test]
    fn what_is_stuck_holds_up_a_plan_for_its_patience_only() {
        let (mut history, lives) = History::serving(3, "object:");
        history.apply(topic(lives[0], (0..30).map(|at| 1 + at % 2).collect()));
        history.apply(aim(lives[0], 0..1, 2));
        let (mut awaited, began) = (Awaited::default(), Instant::now());
        let placed = placed(&history.image, |_, _| Load::default());
        assert!(awaited.look(began, &placed, MINUTE));
        assert!(awaited.look(began + MINUTE / 2, &placed, MINUTE) && !awaited.told);
        assert!(!awaited.look(began + MINUTE, &placed, MINUTE) && awaited.told);
        let brokers: BTreeSet<u32> = takers(&history.image, &BTreeSet::new()).collect();
        let moves = balance::plan(&brokers, &placed, Slack::automatic(100));
        assert_eq!((moves.len(), moves.iter().all(|done| done.to == 3 && done.index != 0)), (10, true));
        // What begins to move is waited for anew.
        history.apply(aim(lives[0], 2..3, 3));
        let placed = super::placed(&history.image, |_, _| Load::default());
        assert!(awaited.look(began + MINUTE, &placed, MINUTE));
        assert!(!awaited.look(began + 2 * MINUTE, &placed, MINUTE));
    }
}
