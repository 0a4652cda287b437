//! A broker that others took for dead, and that lives: it says so, and becomes a new incarnation.
//!
//! - **J1** From the moment at which it learns of the fence it acknowledges, serves and deletes nothing: its right to is
//!   revoked first, and the process is replaced by one that knows nothing of its state (`exec`), with the same arguments.
//! - **J2** Not in a loop: a life that was short is followed by a pause that grows.
//! - **J3** Only who was fenced by others does so, be it during its start. One whose id another process has taken ends, as it was told to.
//! - **J4** Whoever is told to stop while it waits does not begin anew.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use futures::{Stream, StreamExt};
use wal::Incarnation;

use crate::metadata::image::Image;

/// What ended a broker that is to begin anew.
#[derive(Debug, thiserror::Error)]
#[error("the other brokers took this one for dead (broker {}, epoch {})", .own.broker, .own.epoch)]
pub struct Deposed {
    own: Incarnation,
    lived: Duration,
}

/// J3.
pub(super) fn deposed(image: &Image, own: Incarnation, lived: Duration) -> Option<Deposed> {
    let is_last = image.last_registration(own.broker) == Some(own.epoch);
    (is_last && !image.is_live(own)).then_some(Deposed { own, lived })
}

/// How many short lives came before this one; for our own successors only.
const LIVES: &str = "_OTTLA_SHORT_LIVES";
/// A life of this length is not short.
const LONG_LIFE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// J2: the pause, and what to tell the successor.
fn next_life(short_lives: u32, lived: Duration) -> (Duration, u32) {
    if lived >= LONG_LIFE {
        return (PAUSE, 0);
    }
    ((PAUSE * (1 << short_lives.min(16))).min(PAUSE_MAX), short_lives.saturating_add(1))
}

/// A new process in place of this one.
#[derive(Debug)]
pub struct Again {
    short_lives: u32,
}

/// J2: waits before the next life begins. `None` if one of the `signals` said meanwhile that there shall be none (J4).
pub async fn pause(
    deposed: &Deposed,
    mut signals: impl Stream<Item = &'static str> + Unpin,
) -> Option<Again> {
    let short_lives = std::env::var(LIVES).ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    let (pause, short_lives) = next_life(short_lives, deposed.lived);
    tracing::warn!("{deposed}; starting again as a new incarnation in {pause:?}");
    tokio::select! {
        biased;
        Some(name) = signals.next() => {
            tracing::info!("{name}: not starting again");
            None
        }
        () = tokio::time::sleep(pause) => Some(Again { short_lives }),
    }
}

impl Again {
    /// Replaces this process by a new one of itself. Returns only if that cannot be done.
    pub fn start(self) -> std::io::Error {
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_else(|| OsString::from("ottla"));
        // The very program that runs, also when its file was replaced meanwhile.
        Command::new("/proc/self/exe")
            .arg0(name)
            .args(arguments)
            .env(LIVES, self.short_lives.to_string())
            .exec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_over_short_lives_and_not_over_long_ones() {
        let second = Duration::from_secs(1);
        let mut lives = 0;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let (pause, next) = next_life(lives, second);
            pauses.push(pause.as_millis());
            lives = next;
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        assert_eq!(next_life(lives, LONG_LIFE), (PAUSE, 0));
        assert_eq!(next_life(u32::MAX, second), (PAUSE_MAX, u32::MAX));
    }
    /// J4. Of the same moment too: a signal that came while the broker ended was meant for good.
    #[tokio::test(start_paused = true)]
    async fn whoever_is_told_to_stop_does_not_begin_anew() {
        let deposed = Deposed { own: Incarnation { broker: 1, epoch: 2 }, lived: LONG_LIFE };
        assert!(pause(&deposed, futures::stream::iter(["SIGTERM"])).await.is_none());
        let later = futures::stream::once(Box::pin(async {
            tokio::time::sleep(PAUSE / 2).await;
            "SIGTERM"
        }));
        assert!(pause(&deposed, later).await.is_none());
        assert!(pause(&deposed, futures::stream::pending()).await.is_some());
        assert!(pause(&deposed, futures::stream::empty()).await.is_some());
    }
}
