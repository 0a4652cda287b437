//! Sockets, frames, and the order of responses.
//!
//! ```text
//!  listener ── accept, caps ──► connection (one task)
//!                                 │ reader:    frames; bytes are budgeted as they are read
//!                                 ▼ bounded by count and bytes
//!                                 │ processor: one request after the other, in order; a Produce is only *enqueued*
//!                                 ▼ bounded by count
//!                                 │ writer:    responses in the order of their requests, several per write
//! ```
//!
//! # Guarantees
//!
//! - **N1** Responses leave in the order of their requests (behaviour 9).
//! - **N2** Requests of one connection are processed strictly one after the other, each after the response of the one
//!   before was written, as Kafka does by muting the channel; except that a Produce may follow another Produce
//!   before that one is durable. Produce requests are appended in the order in which they came.
//! - **N3** A declared length is checked against a limit before anything is done with it, and the memory that a request
//!   really fills is taken from the budget before it is filled (behaviours 11, 16).
//! - **N4** A peer can hold a connection's place by being slow only as long as the time-outs of [`Config`] let it.
//! - **N5** Whatever one peer sends harms no other connection. A panic outside of decoding is a broken invariant of this
//!   program, and ends [`Server::run`] with an error.
//!
//! Shutdown: no new requests are read, waiting fetches are released, what is under way may finish for
//! [`Config::shutdown_grace`].

mod connection;
mod dispatch;
mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod header;
mod listener;
mod responses;
mod rope;

pub use listener::{Error, Server};
pub use responses::ResponseBudget;
pub use rope::Rope;

use std::time::Duration;

/// Limits of the network side. Names in Kafka's configuration are given where there are any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Largest request, bytes (`socket.request.max.bytes`). Default 100 MiB.
    pub request_bytes_max: usize,
    /// Largest request of any API but Produce, bytes. Default 8 MiB.
    pub control_request_bytes_max: usize,
    /// What has arrived of requests of all connections that are not yet processed, bytes
    /// (`queued.max.request.bytes`). Default 256 MiB. Readers wait while it is used up, but for one, whose request may
    /// go beyond it: else requests of which each has come in part could wait for each other for ever.
    pub queued_bytes_max: usize,
    /// A request of up to this many bytes is a small one. Default 64 KiB.
    pub small_request_bytes: usize,
    /// What small requests have to themselves of memory like [`queued_bytes_max`](Config::queued_bytes_max), bytes: so
    /// that large requests that come slowly, or wait for the store, hold up no heartbeat. Default 64 MiB.
    pub queued_small_bytes_max: usize,
    /// What requests other than small ones and Produce may take once they are decoded, bytes, each taken for 32 times
    /// its size. Default 256 MiB. They are decoded one after the other while it is used up.
    pub decoded_bytes_max: usize,
    /// After this long a request that waits, for data or for others, no longer counts in any of these: what it waits
    /// with is bounded by whoever keeps it. Default 1 s.
    pub queued_time_max: Duration,
    /// The same for one connection, bytes; one request may be larger. Default 16 MiB.
    pub queued_bytes_per_connection_max: usize,
    /// Responses of all connections that are not written yet, bytes: records, and other responses that are not small.
    /// Default 256 MiB. While it is used up, a Fetch is answered with one batch, and peers that leave a response unread
    /// for [`contended_stall`](Config::contended_stall) are cut off.
    pub response_bytes_max: usize,
    /// How long a peer may take nothing of a response while others wait for the memory. Default 5 s. Otherwise it is
    /// [`idle_timeout`](Config::idle_timeout).
    pub contended_stall: Duration,
    /// Requests of one connection that wait for their turn, and Produce requests of one connection that wait for
    /// durability, each at most this many. Default 64.
    pub pipelined_requests_max: usize,
    /// A request must be complete this long after its first byte, plus the time its size takes at
    /// `frame_rate_min`. Default 30 s.
    pub frame_timeout: Duration,
    /// Bytes per second. Default 256 KiB: Kafka's own clients give a request 30 s in all.
    pub frame_rate_min: usize,
    /// Answers to a peer that has stopped sending may take this long; it has left, most likely. Default 30 s.
    pub linger: Duration,
    /// A connection without any progress in either direction for this long is closed
    /// (`connections.max.idle.ms`). Default 10 min.
    pub idle_timeout: Duration,
    /// Connections in all (`max.connections`). Default 10,000. Beyond it new ones are closed at once.
    pub connections_max: usize,
    /// Connections from one address (`max.connections.per.ip`). Default 5,000.
    pub connections_per_ip_max: usize,
    /// How long requests under way may take to finish at shutdown. Default 5 s.
    pub shutdown_grace: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            request_bytes_max: 100 << 20,
            control_request_bytes_max: 8 << 20,
            queued_bytes_max: 256 << 20,
            small_request_bytes: 64 << 10,
            queued_small_bytes_max: 64 << 20,
            decoded_bytes_max: 256 << 20,
            queued_time_max: Duration::from_secs(1),
            queued_bytes_per_connection_max: 16 << 20,
            response_bytes_max: 256 << 20,
            contended_stall: Duration::from_secs(5),
            pipelined_requests_max: 64,
            frame_timeout: Duration::from_secs(30),
            frame_rate_min: 256 << 10,
            linger: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(600),
            connections_max: 10_000,
            connections_per_ip_max: 5_000,
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

impl Config {
    /// What is wrong with the configuration, if anything is.
    pub fn validate(&self) -> Result<(), String> {
        let positive = [
            ("request_bytes_max", self.request_bytes_max),
            ("control_request_bytes_max", self.control_request_bytes_max),
            ("queued_bytes_max", self.queued_bytes_max),
            ("small_request_bytes", self.small_request_bytes),
            ("queued_small_bytes_max", self.queued_small_bytes_max),
            ("decoded_bytes_max", self.decoded_bytes_max),
            ("queued_bytes_per_connection_max", self.queued_bytes_per_connection_max),
            ("response_bytes_max", self.response_bytes_max),
            ("pipelined_requests_max", self.pipelined_requests_max),
            ("frame_rate_min", self.frame_rate_min),
            ("connections_max", self.connections_max),
            ("connections_per_ip_max", self.connections_per_ip_max),
        ];
        for (name, value) in positive {
            if value == 0 || value > u32::MAX as usize {
                return Err(format!("{name} is {value}; it must be between 1 and {}", u32::MAX));
            }
        }
        if self.queued_bytes_max < self.request_bytes_max {
            return Err(format!(
                "queued_bytes_max ({}) must be at least request_bytes_max ({}), or the largest request could never \
                 be read",
                self.queued_bytes_max, self.request_bytes_max
            ));
        }
        if self.queued_small_bytes_max < self.small_request_bytes {
            return Err(format!(
                "queued_small_bytes_max ({}) must be at least small_request_bytes ({})",
                self.queued_small_bytes_max, self.small_request_bytes
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_a_budget_below_a_request_is_not() {
        assert_eq!(Config::default().validate(), Ok(()));
        assert!(Config { queued_bytes_max: 1, ..Config::default() }.validate().is_err());
        assert!(Config { pipelined_requests_max: 0, ..Config::default() }.validate().is_err());
    }
}
