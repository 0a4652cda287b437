//! One connection to one other life: beats go out on it, answers come back.
//!
//! ```text
//!   connect ──refused──► told to the detector, pause ──┐
//!      │ ▲────────────── no answer in time, pause ◄─────┤
//!      ▼                                                │
//!   beat, answer, beat, answer … the connection ends ───┘
//! ```
//!
//! # Retries
//! For ever, as long as the metadata lists the life; at once when a connection ends that worked. Pauses grow from [`Config::reconnect_pause`] to
//! [`Config::reconnect_pause_max`].
//!
//! # Cancellation
//! Dropping the future closes the connection; what was sent may have arrived.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use host::net::Stream;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use wal::Incarnation;

use super::peers::Shared;
use super::wire::{self, Answer};
use super::{Config, Told};
use crate::clocks::skew_ms;
use crate::metadata::image::Listener;

/// Failures in a row after which the pause doubles, and so on. No option: it only shapes what the pauses bound.
const TRIES_PER_PAUSE: u32 = 8;

/// Buffered of what has come and is not read yet; an answer of usual size takes one system call.
const READ_BUFFER_BYTES: usize = 512;

pub(super) struct Link {
    pub to: Incarnation,
    pub address: Listener,
    pub shared: Arc<Shared>,
    /// Counted up by whatever is to be told at once.
    pub news: watch::Receiver<u64>,
}

/// Why a connection is of no use (any more).
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Nobody listens there.
    #[error("it refuses connections")]
    Refused,
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("it closed the connection")]
    Closed,
    /// Somebody else has its address.
    #[error("{0}")]
    Stranger(String),
    #[error("it answers with something else: {0}")]
    Nonsense(String),
}

impl Link {
    /// Until it is dropped.
    pub async fn run(mut self) {
        let mut failures = 0;
        loop {
            let (mut answered, began) = (false, Instant::now());
            let failure = match self.connect().await {
                Ok(stream) => self.talk(stream, &mut answered).await,
                Err(failure) => failure,
            };
            self.shared.link_failed(self.to, &self.address, &failure);
            failures = if answered { 0 } else { failures + 1 };
            // What has worked is tried at once: where a process was killed, the sooner its address is seen to refuse, the sooner
            // that is believed. Not so a connection that ends as soon as it was made: that would be a loop.
            if !answered || began.elapsed() < self.shared.config.reconnect_pause {
                sleep(pause(&self.shared.config, failures)).await;
            }
        }
    }

    async fn connect(&self) -> Result<Stream, Failure> {
        let limit = self.shared.config.connect_timeout;
        let connected = timeout(limit, host::net::connect(&self.address.host, self.address.port)).await;
        match connected.map_err(|_| Failure::Silent(limit))? {
            Ok(stream) => Ok(stream),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Err(Failure::Refused),
            Err(error) => Err(error.into()),
        }
    }

    /// Until the connection fails. `answered`: whether it was of any use before.
    async fn talk(&mut self, stream: Stream, answered: &mut bool) -> Failure {
        let (from, mut to) = stream.into_split();
        let mut from = BufReader::with_capacity(READ_BUFFER_BYTES, from);
        let mut correlation_id = 0i32;
        loop {
            let beat_at = Instant::now() + self.shared.config.detector.beat_interval;
            let news = *self.news.borrow_and_update();
            correlation_id = correlation_id.wrapping_add(1);
            let limit = self.shared.config.request_timeout;
            let asked_ms = host::clock::wall_ms();
            let asked = timeout(limit, self.ask(&mut from, &mut to, correlation_id)).await;
            match asked.unwrap_or(Err(Failure::Silent(limit))) {
                Ok(answer) => {
                    let skew_ms = skew_ms(asked_ms, answer.beat.wall_ms, host::clock::wall_ms());
                    if let Err(failure) = self.shared.answered(self.to, &self.address, answer, Told(news)) {
                        return failure;
                    }
                    *answered = true;
                    self.shared.saw_clock(self.to, skew_ms);
                }
                Err(failure) => return failure,
            }
            tokio::select! {
                biased;
                // A process that is killed is noticed by this, and not only at the next beat.
                more = from.fill_buf() => return match more {
                    Ok([]) => Failure::Closed,
                    Ok(_) => Failure::Nonsense("bytes that nobody asked for".to_owned()),
                    Err(error) => error.into(),
                },
                Ok(()) = self.news.changed() => {}
                () = sleep_until(beat_at) => {}
            }
        }
    }

    async fn ask(
        &self,
        from: &mut (impl AsyncReadExt + Unpin),
        to: &mut (impl AsyncWriteExt + Unpin),
        correlation_id: i32,
    ) -> Result<Answer, Failure> {
        let heartbeat = self.shared.heartbeat(self.to).encode();
        to.write_all(&wire::request(wire::HEARTBEAT, correlation_id, "ottla", &heartbeat)).await?;
        let length = from.read_i32().await.map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Failure::Closed,
            _ => error.into(),
        })?;
        let length = usize::try_from(length).ok().filter(|length| *length <= wire::RESPONSE_BYTES_MAX);
        let length = length.ok_or_else(|| Failure::Nonsense("an answer that is too long".to_owned()))?;
        let mut frame = vec![0; length];
        from.read_exact(&mut frame).await?;
        let body = wire::response_body(&frame, correlation_id)
            .ok_or_else(|| Failure::Nonsense("the answer to another request".to_owned()))?;
        Answer::decode(body).map_err(|malformed| Failure::Nonsense(malformed.to_string()))
    }
}

/// Before the next try, after so many failures in a row.
fn pause(config: &Config, failures: u32) -> Duration {
    let doublings = (failures / TRIES_PER_PAUSE).min(16);
    (config.reconnect_pause * (1 << doublings)).min(config.reconnect_pause_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_short_at_first_and_bounded() {
        let config = Config::default();
        let refusals = (0..8).map(|failures| pause(&config, failures)).sum::<Duration>();
        assert!(refusals >= config.detector.refusal(), "short pauses last until a refusal is believed");
        assert_eq!(pause(&config, 8), config.reconnect_pause * 2);
        assert_eq!(pause(&config, u32::MAX), config.reconnect_pause_max);
    }
}
