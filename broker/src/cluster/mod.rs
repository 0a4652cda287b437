//! The brokers of one cluster among themselves.
//!
//! ```text
//!   other brokers ◄── link (one for each) ◄──┐                 ┌──► verdicts: who is to be fenced (the fail-over's)
//!   other brokers ──► server ── incoming ──► peers ── detector ─┤
//!   our own appends to the metadata log ─────┘                  └──► a hint: poll the metadata log now
//! ```
//!
//! There is no seed list: the metadata log says who lives and at which address. There is no membership protocol and no
//! leader among them: a broker that is believed dead is fenced by an entry of that log.
//!
//! - **P1** Every other life that the metadata lists as living has one link, and nobody else has one. A broker has as many
//!   connections to others as there are others, and a beat every [`beat_interval`](detector::Config::beat_interval) on each.
//! - **P2** What this broker appended to the metadata log, and whom it begins or ceases to suspect, is told to everybody as
//!   soon as their answer to the last beat is there, the newest only. Whoever is behind polls at once; one poll at a time.
//! - **P3** Nothing that a peer says is believed where data is at stake: a hint renews no lease, a verdict is advice.
//!
//! What it costs with *n* brokers at the defaults: 4 (*n* − 1) requests of about 100 bytes a second to send, and as many to
//! answer; with 100 brokers some 800 small messages a second for each, which is a few hundredths of a core.
//!
//! Reading order: [`wire`], [`detector`], `link`, `peers`.

pub mod balance;
pub mod detector;
pub mod joined;
mod link;
pub mod load;
pub mod mover;
mod peers;
pub mod state;
pub mod wire;

use std::time::Duration;

pub use detector::{Verdict, Verdicts, Why};
pub use peers::{PeerStatus, Peers};

/// Times and bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub detector: detector::Config,
    /// For making a connection. Default 1 s.
    pub connect_timeout: Duration,
    /// For the answer to a beat; after it the connection is made anew. Default 1 s.
    pub request_timeout: Duration,
    /// After the first failures to connect. Default 100 ms.
    pub reconnect_pause: Duration,
    /// After many. Default 1 s.
    pub reconnect_pause_max: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            detector: detector::Config::default(),
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(1),
            reconnect_pause: Duration::from_millis(100),
            reconnect_pause_max: Duration::from_secs(1),
        }
    }
}

impl Config {
    /// What is wrong with it, if anything is.
    pub fn validate(&self) -> Result<(), String> {
        self.detector.validate()?;
        if self.reconnect_pause > self.reconnect_pause_max {
            return Err("the pause before a new connection must not be above the longest one".to_owned());
        }
        if self.reconnect_pause_max > self.detector.silence {
            return Err(
                "the pause before a new connection must not be above the silence, or a peer that refuses would not \
                 count as reached"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// News up to here were told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Told(u64);
