//! The recovery of one life's log, by a start for its own and by the fail-over for others'.
//!
//! **Retries.** What the store does not answer is waited for inside; where another recovery went first this one starts over
//! from where the metadata stands, `STARTS_MAX` times at most while that does not move. Everything else is the caller's to try again.
//!
//! **Cancellation.** May be dropped at any point: nothing is half done.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use s3stream::recovery::{self, Left};
use tokio::time::Instant;
use wal::uri::Target;
use wal::{Incarnation, Medium, Position, Uri, Vacated};

use crate::media::{Media, Opened};
use crate::metadata::image::lease_and_margin;
use crate::metadata::{Error, Metadata};
use crate::store::Purpose;

/// Between two attempts after another recoverer went first.
const PAUSE: Duration = Duration::from_millis(300);

/// How often a recovery starts over from the same place before it counts as failed. No option: another recoverer that went first
/// has moved something.
const STARTS_MAX: u32 = 16;

/// What a recovery is done with.
#[derive(Clone, Debug)]
pub struct Recoverer {
    pub metadata: Arc<Metadata>,
    pub media: Arc<Media>,
    pub engine: s3stream::Config,
    /// The recoverer.
    pub by: Incarnation,
}

/// How a recovery that is over came to its end.
#[derive(Debug)]
pub enum Recovered {
    /// By this process. The proof that nothing is left in the log, for whoever is to open it next.
    Here { vacated: Vacated, took: Duration },
    /// Somebody else completed it.
    Elsewhere,
}

impl fmt::Display for Recovered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recovered::Here { took, .. } => {
                write!(formatter, "recovered what it left, in {took:?}; its partitions are placed")
            }
            Recovered::Elsewhere => formatter.write_str("another broker recovered what it left"),
        }
    }
}

/// Gives up the log of the fenced life `of`, which nobody will ever read again: its partitions go on from what was uploaded. What
/// was acknowledged and is only in that log is lost, by the word of whoever asks. [`Error::Conflict`] if there is no such
/// life, it is not fenced, or its broker is back (under its id a new life recovers it first); [`Error::Refused`] if its log
/// is in the bucket, where a log cannot be lost.
///
/// Returns when nothing can be acknowledged on it any more and its partitions are placed: after a lease at most.
pub async fn forsake(metadata: &Metadata, of: Incarnation) -> Result<(), Error> {
    let image = metadata.refresh().await?;
    let Some(life) = image.life(of).filter(|life| life.fenced) else {
        let waiting: Vec<String> = image
            .unrecovered()
            .map(|(of, life)| format!("broker {} epoch {} ({})", of.broker, of.epoch, life.wal_uri))
            .collect();
        let waiting = if waiting.is_empty() { "none".to_owned() } else { waiting.join(", ") };
        return Err(Error::Conflict(format!(
            "the log of broker {} epoch {} is not waited for; logs that are: {waiting}",
            of.broker, of.epoch
        )));
    };
    if matches!(Uri(life.wal_uri.to_string()).target(), Ok(Target::Object { .. })) {
        return Err(Error::Refused(format!(
            "the log of broker {} epoch {} is in the bucket, as {}: restore what is damaged of it from a copy, and it is recovered",
            of.broker, of.epoch, life.wal_uri
        )));
    }
    let (trim, wait) = (life.trim, lease_and_margin(life.lease));
    tokio::time::sleep(wait).await;
    let image = metadata.refresh().await?;
    if let Some((back, _)) = image.live(of.broker) {
        // It has the volume, or it would not have come this far, and reads it now.
        return Err(Error::Conflict(format!(
            "broker {} is back, as epoch {}: it recovers the log itself, or says why it cannot",
            back.broker, back.epoch
        )));
    }
    metadata.forsake(of, trim).await?;
    tracing::warn!(
        broker = of.broker,
        epoch = of.epoch,
        "{} was given up on request: what was acknowledged and not uploaded from it is lost",
        life.wal_uri
    );
    Ok(())
}

impl Recoverer {
    /// Recovers what the life `of` left, wherever that is. `known` is from when its lease counts (F2), `until` when
    /// a command that brings its volume here has to end, besides its own time.
    pub async fn recover_left(
        &self,
        of: Incarnation,
        known: Instant,
        until: Option<Instant>,
    ) -> anyhow::Result<Recovered> {
        let mut image = self.metadata.image();
        if self.media.attach_timeout().is_some() {
            // A volume is not taken from whoever has it by what was true when this one's turn came.
            image = self.metadata.refresh().await?;
        }
        let Some(life) = image.life(of) else { return Ok(Recovered::Elsewhere) };
        let uri = Uri(life.wal_uri.to_string());
        // What is known of its machine is what its id registered last.
        let machine =
            image.broker(of.broker).filter(|info| info.epoch == of.epoch).map(|info| &*info.machine);
        // A command that moves a volume takes its time: it is ended where others need it no more, and may use what it would take.
        let Opened { medium, exclusive } = tokio::select! {
            opened = self.media.left(of, &uri, machine, until) => opened?,
            () = self.recovered_elsewhere(of) => return Ok(Recovered::Elsewhere),
        };
        if exclusive || host::planted("no-lease-wait") {
            return self.recover(of, &*medium).await;
        }
        self.recover_leased(of, known, &*medium).await
    }

    fn left(&self, of: Incarnation, from: Position) -> Left<'_> {
        let store = self.media.stores.data(Purpose::Recovery);
        Left { config: &self.engine, store, metadata: self.metadata.clone(), by: self.by, of, from }
    }

    /// Resolves when nothing of the life `of` is left to recover.
    async fn recovered_elsewhere(&self, of: Incarnation) {
        let mut changed = self.metadata.changed();
        while self.metadata.image().life(of).is_some() {
            if changed.changed().await.is_err() {
                // The metadata ended, and says so itself.
                return std::future::pending().await;
            }
        }
    }

    /// Recovers what the life `of` left on `medium`, where it may write, and acknowledge, until its lease is over, which
    /// counts from `known` (F2). What is whole before that is recovered before that (F6).
    pub async fn recover_leased(
        &self,
        of: Incarnation,
        known: Instant,
        medium: &dyn Medium,
    ) -> anyhow::Result<Recovered> {
        let image = self.metadata.image();
        let Some(life) = image.life(of) else { return Ok(Recovered::Elsewhere) };
        let until = known + lease_and_margin(life.lease);
        let left = until.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            tracing::info!(
                broker = of.broker,
                epoch = of.epoch,
                "waiting {left:?} until nothing can be acknowledged on {} any more",
                life.wal_uri
            );
            let waited = async {
                if life.fenced {
                    self.recover_early(of, life.trim, until, medium).await;
                }
                tokio::time::sleep_until(until).await;
            };
            tokio::select! {
                () = waited => {}
                () = self.recovered_elsewhere(of) => return Ok(Recovered::Elsewhere),
            }
        }
        self.recover(of, medium).await
    }

    /// F6. Whatever becomes of it, the recovery that counts comes behind it.
    async fn recover_early(&self, of: Incarnation, from: Position, until: Instant, medium: &dyn Medium) {
        let ended = recovery::recover_early(self.left(of, from), medium, until).await;
        let to = self.metadata.image().life(of).map(|life| life.trim.0);
        match ended {
            // There was nothing, or nothing that may be read early.
            Ok(()) if to == Some(from.0) => {}
            Ok(()) => tracing::info!(
                broker = of.broker,
                epoch = of.epoch,
                from = from.0,
                to,
                "recovered what was whole; the rest follows when the wait is over"
            ),
            Err(error) => tracing::info!(
                broker = of.broker,
                epoch = of.epoch,
                from = from.0,
                to,
                %error,
                "recovered not all that was whole; the rest follows when the wait is over"
            ),
        }
    }

    /// The same, on a medium that nobody writes to any more.
    pub async fn recover(&self, of: Incarnation, medium: &dyn Medium) -> anyhow::Result<Recovered> {
        let began = Instant::now();
        let uri = medium.uri();
        let mut image = self.metadata.image();
        let mut starts = (Position(0), 0);
        loop {
            // F3. The trim point is read at or behind the fence (O1).
            let Some(life) = image.life(of) else { return Ok(Recovered::Elsewhere) };
            if !life.fenced {
                bail!("broker {} epoch {} is not fenced", of.broker, of.epoch);
            }
            tracing::info!(
                broker = of.broker,
                epoch = of.epoch,
                from = life.trim.0,
                "recovering what it left in {uri}"
            );
            let from = life.trim;
            match recovery::recover(self.left(of, from), medium).await {
                Ok(vacated) => return Ok(Recovered::Here { vacated, took: began.elapsed() }),
                Err(s3stream::Error::Unavailable(reason)) => {
                    starts = if starts.0 == from { (from, starts.1 + 1) } else { (from, 1) };
                    if starts.1 == STARTS_MAX {
                        bail!(
                            "{uri} cannot be recovered: started over {STARTS_MAX} times at {}: {reason}",
                            from.0
                        );
                    }
                    tracing::warn!(
                        broker = of.broker,
                        epoch = of.epoch,
                        "recovery: {reason}; starting over from where the metadata stands"
                    );
                    tokio::time::sleep(PAUSE).await;
                    image = self.metadata.refresh().await?;
                }
                Err(error) => {
                    // What somebody else has finished, and perhaps deleted since, looks like damage.
                    image = self.metadata.refresh().await?;
                    if image.life(of).is_some() {
                        return Err(error).with_context(|| format!("{uri} cannot be recovered"));
                    }
                }
            }
        }
    }
}
