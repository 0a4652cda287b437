//! What a broker does about others that died: it fences them, recovers their write-ahead logs, and opens what it is given.
//!
//! ```text
//!   verdicts (cluster) ──► dead ──► Fence ──► fenced ──► recovery ──► CommitRecovered{last} ──► placed, by apply
//!   metadata image ────────────────────────────┘                                                    │
//!                                                             partitions that fell to us are opened ◄┘
//! ```
//!
//! There is no leader among the brokers for this: each one ranks itself among those that serve, by a hash of the dead life
//! and the broker, so that several dead are several brokers' work. The first in rank acts at once, the next after some
//! patience, in case the first is dead as well. Two that do the same thing at once do no harm.
//!
//! - **F1** A life is fenced only on the detector's verdict, and only by a broker that is not fenced itself (O6).
//! - **F2** A recovery begins on a view of the metadata that has the fence (O1). Where the log on a volume ends that somebody may
//!   still write to is looked for only when the dead life's lease and a margin have passed since this process itself first saw that
//!   fence, or the challenge that stood, not answered, when the fence came (B1, N4 of `metadata::members`).
//! - **F3** A recovery is over when the metadata has forgotten the life, by whomever; nothing else counts as success. It
//!   is tried again, with growing pauses, until then, by everybody who can: in turn, as long as somebody makes progress.
//! - **F4** Everything is bounded: recoveries at a time, partitions opened at a time, pauses between attempts, what is read
//!   ahead.
//! - **F5** What is done before the fence is there, to save its time, only reads, and only what does not change any more: slots
//!   that were created (`store::ahead`). Where the log ends, and from where it counts, is decided behind the fence.
//! - **F6** While that lease runs, what is whole on the volume is recovered already, from the trim point on. From the fence on the
//!   dead life's commits and trims are rejected (O6), so it writes over nothing there, and a frame that is whole stays as it is: what
//!   is committed is the beginning of what the recovery behind the lease would have found. That one starts where this one came to, and
//!   finds whatever was acknowledged meanwhile. It alone says where the log ends, whether it is damaged, and that the
//!   recovery is over: how the early one ended counts for nothing. That one reads no more when the lease is over, and commits what
//!   it has read, which would be the other's first step.
//!
//! **Crash.** A broker that dies in the middle of a recovery leaves it to the next in rank, which starts at the trim point
//! of the last commit.
//!
//! Reading order: [`caretaker`] (who does what when: no I/O), [`recovery`], this file.

pub mod caretaker;
pub mod recovery;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wal::{Incarnation, Position};

use caretaker::{Action, Caretaker};
use recovery::{Recovered, Recoverer};

use crate::cluster::Verdicts;
use crate::metadata;
use crate::partition::Partitions;
use crate::tasks::Tasks;

/// Times and bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long the next in rank waits for the one before it to fence a dead life. Default 300 ms.
    pub fence_patience: Duration,
    /// How long a broker that was challenged must not refuse connections before it is challenged again. Default 10 s.
    pub challenge_pause: Duration,
    /// How long the next in rank waits for a recovery that makes no progress. Default 5 s.
    pub recovery_patience: Duration,
    /// Recoveries at a time. Default 4.
    pub recoveries_max: usize,
    /// After a failed attempt; doubled each time. Default 500 ms to 30 s.
    pub retry_pause: Duration,
    pub retry_pause_max: Duration,
    /// Partitions that are opened at a time when they fell to this broker. Default 256.
    pub opens_max: usize,
    /// Brokers that read what a dead one left in the store before its fence is there. Default 4; 0 for none.
    pub ahead_brokers: usize,
    /// What that may take of memory, bytes. Default 64 MiB.
    pub ahead_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            fence_patience: Duration::from_millis(300),
            challenge_pause: Duration::from_secs(10),
            recovery_patience: Duration::from_secs(5),
            recoveries_max: 4,
            retry_pause: Duration::from_millis(500),
            retry_pause_max: Duration::from_secs(30),
            opens_max: 256,
            ahead_brokers: 4,
            ahead_bytes_max: 64 << 20,
        }
    }
}

/// The fail-over of one broker, running.
#[derive(Debug)]
pub struct Failover {
    pub(crate) tasks: Tasks,
    pub(crate) closing: CancellationToken,
}

impl Failover {
    /// For a broker that serves. Must be called inside a tokio runtime.
    pub fn start(
        config: Config,
        recoverer: Recoverer,
        verdicts: watch::Receiver<Arc<Verdicts>>,
        partitions: Option<Arc<Partitions>>,
    ) -> Failover {
        let (tasks, closing) = (Tasks::default(), CancellationToken::new());
        let (ended, endings) = mpsc::channel(2 * config.recoveries_max.max(1));
        if let Some(partitions) = partitions {
            let opening = partitions.open_what_falls_to_us(config.opens_max, closing.clone());
            tasks.keep("the opening of partitions", opening);
        }
        let ahead_bytes_max = config.ahead_bytes_max;
        let caretaker = Caretaker::new(
            config,
            recoverer.by,
            recoverer.media.machine.clone(),
            recoverer.media.attach_timeout(),
        );
        let actor = Actor {
            caretaker,
            recoverer: Arc::new(recoverer),
            verdicts,
            began: Instant::now(),
            tasks: tasks.clone(),
            closing: closing.clone(),
            ended,
            endings,
            ahead_bytes_max,
        };
        tasks.keep("the fail-over", actor.run());
        Failover { tasks, closing }
    }

    /// Resolves once a task of it has met a broken invariant.
    pub async fn failed(&self) -> String {
        self.tasks.failed().await
    }

    /// Gives up what is under way, for others to do.
    pub async fn shutdown(&self) {
        self.tasks.close();
        self.closing.cancel();
        self.tasks.wait().await;
    }
}

struct Actor {
    caretaker: Caretaker,
    recoverer: Arc<Recoverer>,
    verdicts: watch::Receiver<Arc<Verdicts>>,
    began: Instant,
    tasks: Tasks,
    closing: CancellationToken,
    ended: mpsc::Sender<Ended>,
    endings: mpsc::Receiver<Ended>,
    ahead_bytes_max: usize,
}

/// What became of something that was tried.
enum Ended {
    Fence(Incarnation, Result<(), metadata::Error>),
    /// With from when its lease counts.
    Recovery(Incarnation, Instant, anyhow::Result<Recovered>),
}

impl Actor {
    async fn run(mut self) {
        let metadata = self.recoverer.metadata.clone();
        let mut changed = metadata.changed();
        let mut verdicts_end = false;
        loop {
            changed.borrow_and_update();
            let verdicts = self.verdicts.borrow_and_update().clone();
            let image = metadata.image();
            // Behind the view: what it shows was known by then, however long this thread stood still in between (F2).
            let now = self.began.elapsed();
            for action in self.caretaker.look(now, &image, &verdicts) {
                self.begin(action, now);
            }
            for action in self.caretaker.challenges(now, &image, &verdicts) {
                self.begin(action, now);
            }
            for (of, from) in self.caretaker.ahead(&image, &verdicts) {
                self.read_ahead(of, from);
            }
            let due = self.caretaker.due().map(|due| self.began + due);
            tokio::select! {
                () = self.closing.cancelled() => return,
                change = changed.changed() => if change.is_err() {
                    // The metadata ended, and says so itself.
                    return self.closing.cancelled().await;
                },
                change = self.verdicts.changed(), if !verdicts_end => verdicts_end = change.is_err(),
                () = sleep_until(due) => {}
                Some(ended) = self.endings.recv() => self.ended(ended),
            }
        }
    }

    /// F5.
    fn read_ahead(&self, of: Incarnation, from: Position) {
        let (recoverer, closing, bytes_max) =
            (self.recoverer.clone(), self.closing.clone(), self.ahead_bytes_max);
        self.tasks.spawn("reading what a dead broker left", async move {
            let fetching = recoverer.media.stores.fetch_ahead(of, from, bytes_max);
            closing.run_until_cancelled(fetching).await;
        });
    }

    fn begin(&self, action: Action, now: Duration) {
        let (ended, recoverer) = (self.ended.clone(), self.recoverer.clone());
        let closing = self.closing.clone();
        match action {
            Action::Fence { of, why } => {
                tracing::warn!(broker = of.broker, epoch = of.epoch, "fencing: {why}");
                self.tasks.spawn("a fence", async move {
                    let fenced = recoverer.metadata.fence(of);
                    if let Some(fenced) = closing.run_until_cancelled(fenced).await {
                        // Whoever waited for it may be gone.
                        let _ = ended.send(Ended::Fence(of, fenced)).await;
                    }
                });
            }
            Action::Challenge { of } => {
                self.tasks.spawn("a challenge", async move {
                    let challenge = recoverer.metadata.challenge(of);
                    // Nothing is lost without it but time.
                    if let Some(Err(error)) = closing.run_until_cancelled(challenge).await {
                        tracing::info!(broker = of.broker, epoch = of.epoch, %error, "could not challenge it");
                    }
                });
            }
            Action::Recover { of, lease_from, until } => {
                let known = Instant::now() - now.saturating_sub(lease_from);
                let until = until.map(|until| self.began + until);
                self.tasks.spawn("a recovery", async move {
                    let recovered = recoverer.recover_left(of, known, until);
                    if let Some(recovered) = closing.run_until_cancelled(recovered).await {
                        let _ = ended.send(Ended::Recovery(of, known, recovered)).await;
                    }
                });
            }
        }
    }

    fn ended(&mut self, ended: Ended) {
        let now = self.began.elapsed();
        match ended {
            Ended::Fence(of, Ok(())) => self.caretaker.fence_ended(now, of),
            Ended::Fence(of, Err(error)) => {
                tracing::warn!(broker = of.broker, epoch = of.epoch, %error, "could not fence it");
                self.caretaker.fence_ended(now, of);
            }
            Ended::Recovery(of, known, Ok(recovered)) => {
                tracing::info!(
                    broker = of.broker,
                    epoch = of.epoch,
                    since = ?known.elapsed(),
                    "{recovered}"
                );
                self.caretaker.recovery_ended(now, of);
            }
            Ended::Recovery(of, _, Err(error)) => {
                tracing::error!(
                    broker = of.broker,
                    epoch = of.epoch,
                    "what it left cannot be recovered here (yet): {error:#}; its partitions have no leader until somebody can"
                );
                self.caretaker.recovery_ended(now, of);
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
