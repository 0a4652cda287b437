//! Who will lead what a broker left that died a moment ago, as clients are told already.
//!
//! ```text
//!   killed ──── fence ──── recovery ──── placed, opened ────►
//!    the dead one │ its heir, a second at most  │ who leads           is named to clients
//! ```
//!
//! A client that hears of no leader asks again when it thinks fit, librdkafka a second later, and most of a fail-over would be
//! that second. Where the partitions will go is known from the fence on, as long as nobody comes or goes meanwhile: so the broker is
//! named that will lead, and what is produced there too early waits for the partition.
//!
//! - **W1** A word and nothing else: whoever is named takes nothing, and says nothing of the partition, before the metadata
//!   gives it to him. A word that turns out wrong costs the client another question.
//! - **W2** It is said under the leader epoch that the dead one had, so that no client has a reason to call what it hears later
//!   the older news.
//! - **W3** Only for `handover-expected-time` from when the dead one's log can be read, no longer than that one is listed (`departed`), and
//!   only by who is not fenced himself and has a fresh view. That is from the fence on; where a lease has to be waited out, from its end, if
//!   that is not further away from the fence than this time, and else nothing is said. Requests wait no longer than that either, all of
//!   a connection together: behind them wait those for partitions that nothing has happened to, and what they hold is part of the memory for
//!   requests. A recovery that takes longer leaves the partition without a leader for
//!   clients, which is what people look for then.
//! - **W4** Foretold once for each state of the metadata at most, and only where somebody asks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;
use wal::Incarnation;

use super::image::Image;
use super::{ImageRef, Metadata};

/// Who will lead what, and until when that is said.
#[derive(Debug, Default)]
pub struct Heirs {
    /// Of which image.
    number: u64,
    lives: Vec<(Incarnation, Instant)>,
    /// By topic and index.
    brokers: HashMap<(Uuid, usize), u32>,
}

impl Heirs {
    /// Of a partition that `owner` has left.
    pub fn of(&self, owner: Incarnation, topic: Uuid, index: usize) -> Option<(u32, Instant)> {
        let (_, until) = self.lives.iter().find(|(life, _)| *life == owner)?;
        Some((*self.brokers.get(&(topic, index))?, *until))
    }
}

/// What was foretold last.
#[derive(Debug, Default)]
pub struct Foretold(Mutex<Arc<Heirs>>);

impl Foretold {
    /// As of the image with this number, what `lives` have left, which are fenced; each until then.
    pub fn of(&self, number: u64, image: &Image, lives: Vec<(Incarnation, Instant)>) -> Arc<Heirs> {
        let mut last = self.0.lock();
        if last.number != number || last.lives != lives {
            let fenced: Vec<_> = lives.iter().map(|(life, _)| *life).collect();
            *last = Arc::new(Heirs { number, lives, brokers: image.heirs(&fenced) });
        }
        last.clone()
    }
}

impl Metadata {
    /// Who will lead what those left that died less than `within` ago and are not recovered yet ([`heirs`](self)).
    pub fn heirs(&self, image: &ImageRef, within: Duration) -> Arc<Heirs> {
        self.note_departures(image);
        let lives = self.departed.unrecovered(Instant::now(), image, within);
        self.foretold.of(image.number(), image, lives)
    }
}
