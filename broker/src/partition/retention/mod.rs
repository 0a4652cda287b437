//! Retention: the oldest records of partitions go, by age, by size, and where somebody deleted them.
//!
//! ```text
//!   every log.retention.check.interval.ms ──► pass: all partitions that this broker leads, open or not
//!       image (parts, bytes) + effective configs ──► plan (pure) ──► checkpoints of what is to go, where they are due
//!                                                                       └─► Storage::trim: one entry for many partitions
//!                                                                       ├─► metadata: parts released, epoch table cut
//!                                                                       └─► open streams: their start
//! ```
//!
//! **Overview.** One task for the broker; a partition costs a look at its first part, no task and no timer. What Kafka
//! deletes by segment goes here by part: the records of a partition that were uploaded together, or were merged by
//! compaction since. A part goes as a whole, and what is not uploaded yet stays; an idle partition is uploaded within
//! `upload-interval`, so that one with old records alone becomes empty, as it does in Kafka. A pass also trims streams of
//! checkpoints to their last one, and has open partitions forget producers that have expired.
//!
//! **Producers.** What a part says of idempotent producers goes with it. So a part goes only when a checkpoint that is durable
//! accounts for it, or when there is no producer left that could go on: one that writes seldom, to a topic whose records go
//! soon, is known after a crash as well. A partition that is not open is opened for that, unless nothing came for so long
//! that all its producers have expired.
//!
//! **Consistency.** The configs are those of the pass's beginning: a change acts with the next one, as in Kafka. A log's
//! start only moves forward, whatever the clock says. Nobody waits for a pass, and it holds nothing that a reader or
//! writer waits for: a reader below the new start is told OFFSET_OUT_OF_RANGE, a reader that has its records keeps them.
//! Records that went are not served from the caches, whose room they leave to others when it is needed.
//!
//! **Clock.** A wall clock that has jumped ahead since the last pass is not believed in this one ([`Clocks`]): nothing goes
//! by age. One that was set to another year for a moment costs no records; one that stays there is believed five minutes
//! later.
//!
//! **Bounds.** [`Limits`]: what one entry trims, so that its application stops nobody for long, and what one pass does.
//!
//! **Retries, crash.** A pass that fails is logged and its rest left to the next one, as is a partition that cannot be
//! accounted for: one that is leaving, or is damaged. An entry is applied or not.

pub mod plan;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use s3stream::StreamId;
use tokio::time::Instant;

use super::{CHECKPOINTS_AT_ONCE, Partitions, wall_clock_ms};
use crate::api::topic_name::is_internal;
use crate::clocks::Clocks;
use crate::config::{BrokerConfig, CurrentConfig, TopicConfig};
use crate::metadata::image::{Image, PartitionInfo, Stream, Topic};

use plan::{Policy, plan};

/// The first pass comes no later than this after the start, as Kafka's does. No option: it drops nothing for its age yet.
const FIRST_PASS_AFTER_MAX: Duration = Duration::from_secs(30);

/// What a pass may do at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams that one entry of the metadata log trims, and parts that it releases, together. Default 16,384.
    pub entry_trims_max: usize,
    /// Parts that one pass releases; the rest is left to the next one. Default 1,000,000.
    pub pass_parts_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { entry_trims_max: 16_384, pass_parts_max: 1_000_000 }
    }
}

/// What a pass dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Partitions whose log begins later now.
    pub partitions: usize,
    /// Parts of logs that went.
    pub parts: usize,
    /// Bytes of those parts.
    pub bytes: u64,
}

/// What time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the epoch.
    pub ms: i64,
    /// Records may go for their age.
    pub believed: bool,
}

/// Trims that go into one entry.
#[derive(Debug, Default)]
struct Batch {
    trims: Vec<(StreamId, u64)>,
    /// Trims of logs that a checkpoint has to account for first.
    owing: Vec<Owing>,
    /// Of [`Limits::entry_trims_max`].
    cost: usize,
}

#[derive(Debug)]
struct Owing {
    topic: Arc<Topic>,
    index: i32,
    log: StreamId,
    to: u64,
}

impl Partitions {
    /// Has passes run for as long as the broker does. To be called once, inside a tokio runtime.
    pub fn keep_retention(self: &Arc<Self>, configs: Arc<CurrentConfig>) {
        self.tasks.keep("retention", self.clone().run_retention(configs));
    }

    async fn run_retention(self: Arc<Self>, configs: Arc<CurrentConfig>) {
        let interval = Duration::from_millis(configs.now().log_retention_check_interval_ms.max(1) as u64);
        let mut pause = interval.min(FIRST_PASS_AFTER_MAX);
        let (began, mut clocks) = (Instant::now(), Clocks::default());
        loop {
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = interval;
            let ms = wall_clock_ms();
            let (steady, outvoted) = (clocks.look(began.elapsed(), ms), self.metadata.skews.outvote_us());
            let now = Now { ms, believed: steady && !outvoted };
            if outvoted {
                tracing::warn!(
                    "this broker's clock is ahead of those of too many others: nothing goes for its age until they agree"
                );
            } else if !steady {
                tracing::debug!(
                    "the clock is new or has jumped: nothing goes for its age in this pass of retention"
                );
            }
            let broker = configs.now();
            let pass = tokio::select! {
                () = self.closing.cancelled() => return,
                pass = self.retain(&broker, now) => pass,
            };
            match pass {
                Ok(freed) if freed == Freed::default() => {}
                Ok(Freed { partitions, parts, bytes }) => {
                    tracing::info!(partitions, parts, bytes, "old records were dropped");
                }
                Err(error) => tracing::warn!(%error, "retention failed; the next pass goes on"),
            }
        }
    }

    /// One pass. Cancelled, it leaves behind what it has done so far.
    pub async fn retain(&self, broker: &BrokerConfig, now: Now) -> Result<Freed, s3stream::Error> {
        let image = self.metadata.image();
        let mut pass = Pass { of: self, now, batch: Batch::default(), freed: Freed::default() };
        for topic in image.topics() {
            // The coordinators keep their own logs short: whatever their configs say, what they wrote is theirs.
            let mut policy = match is_internal(&topic.name) {
                true => Policy::default(),
                false => Policy::of(&TopicConfig::of(topic, broker)),
            };
            policy.age_max_ms = policy.age_max_ms.filter(|_| now.believed);
            for (index, info) in (0..).zip(topic.partitions.iter()) {
                if info.leader == self.broker {
                    pass.partition(topic, index, info, &policy).await?;
                }
                // With very many partitions nothing else would let others run.
                tokio::task::coop::consume_budget().await;
            }
        }
        pass.commit().await?;
        Ok(pass.freed)
    }
}

struct Pass<'a> {
    of: &'a Partitions,
    now: Now,
    batch: Batch,
    freed: Freed,
}

impl Pass<'_> {
    async fn partition(
        &mut self,
        topic: &Arc<Topic>,
        index: i32,
        info: &PartitionInfo,
        policy: &Policy,
    ) -> Result<(), s3stream::Error> {
        let limits = &self.of.config.retention;
        let open = self.of.opened(topic.id, index);
        // The pass takes long, and partitions move meanwhile. What is open may be of before it left, and came back.
        let is_ours = |log: &Stream| {
            log.owner == self.of.metadata.incarnation()
                && open.as_ref().is_none_or(|partition| partition.leader_epoch as u64 == log.epoch)
        };
        // One view: what it says of the log's start is true of what is open only if it says that that leads.
        let image = self.of.metadata.image();
        let Some(log) = image.stream(info.log).filter(|log| is_ours(log)) else { return Ok(()) };
        if let Some(partition) = &open {
            if self.now.believed {
                partition.forget_expired_producers(self.now.ms);
            }
            // A trim whose answer was lost has reached the metadata, and not yet the readers.
            partition.advance_start(log.start);
        }
        if let Some((to, parts)) = image.stream(info.checkpoint).and_then(superseded) {
            self.trim(info.checkpoint, to, parts).await?;
        }
        let mut counted = false;
        loop {
            // Anew each time: what was trimmed so far is gone from it.
            let image = self.of.metadata.image();
            let Some(log) = image.stream(info.log).filter(|log| is_ours(log)) else { return Ok(()) };
            let mut bytes = log.parts().bytes();
            if policy.bytes_max.is_some() && open.is_some() {
                bytes += self.of.storage.uncommitted_bytes(info.log, log.committed_end);
            }
            let log_start = open.as_ref().map_or(0, |partition| partition.log_start());
            let parts_max = (limits.entry_trims_max - self.batch.cost)
                .min(limits.pass_parts_max.saturating_sub(self.freed.parts));
            let parts = log.parts().values();
            let Some(trim) = plan(parts, bytes, log_start, policy, self.now.ms, parts_max) else {
                return Ok(());
            };
            self.freed.partitions += usize::from(!std::mem::replace(&mut counted, true));
            self.freed.parts += trim.parts;
            self.freed.bytes += trim.bytes;
            let before = log.start;
            if open.is_none() && self.producers_have_expired(log) {
                self.batch.trims.push((info.log, trim.to));
            } else {
                let (topic, log) = (topic.clone(), info.log);
                self.batch.owing.push(Owing { topic, index, log, to: trim.to });
            }
            self.cost(trim.parts).await?;
            let stays = |image: &Image| image.stream(info.log).is_none_or(|log| log.start == before);
            if !trim.capped || stays(&self.of.metadata.image()) {
                return Ok(());
            }
        }
    }

    /// Whether all that wrote into this log did so too long ago to go on.
    fn producers_have_expired(&self, log: &Stream) -> bool {
        let last = log.parts().values().next_back().map_or(0, |part| part.committed_ms);
        self.now.believed && self.now.ms.saturating_sub(last) > self.of.config.limits.producer_expiration_ms
    }

    async fn trim(&mut self, stream: StreamId, to: u64, parts: usize) -> Result<(), s3stream::Error> {
        self.batch.trims.push((stream, to));
        self.cost(parts).await
    }

    async fn cost(&mut self, parts: usize) -> Result<(), s3stream::Error> {
        self.batch.cost += 1 + parts;
        if self.batch.cost >= self.of.config.retention.entry_trims_max {
            self.commit().await?;
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), s3stream::Error> {
        let Batch { mut trims, owing, .. } = std::mem::take(&mut self.batch);
        let accounted = futures::stream::iter(owing).map(|owing| self.account(owing));
        let accounted: Vec<Option<(StreamId, u64)>> =
            accounted.buffer_unordered(CHECKPOINTS_AT_ONCE).collect().await;
        trims.extend(accounted.into_iter().flatten());
        if trims.is_empty() { Ok(()) } else { self.of.storage.trim(trims).await }
    }
}

impl Pass<'_> {
    /// The trim, once a checkpoint accounts for what is to go.
    async fn account(&self, Owing { topic, index, log, to }: Owing) -> Option<(StreamId, u64)> {
        if host::planted("trim-unaccounted") {
            return Some((log, to));
        }
        let accounted = match self.of.get(&topic, index).await {
            Ok(partition) => partition.account_for(to).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = &accounted {
            tracing::debug!(topic = %topic.name, partition = index, error, "its old records stay until the next pass");
        }
        accounted.ok().map(|()| (log, to))
    }
}

/// Where a stream of checkpoints may begin, and how many parts that releases, if any: only its last one is ever read.
fn superseded(checkpoints: &Stream) -> Option<(u64, usize)> {
    let parts = checkpoints.parts();
    (parts.size() > 1).then(|| (checkpoints.committed_end - 1, parts.size() - 1))
}

#[cfg(test)]
mod tests;
