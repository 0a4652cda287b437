//! What an operator may tune, and the two clocks.

use std::time::Duration;

use crate::Error;
use crate::entry::{ENTRY_BYTES_LIMIT, ENVELOPE_BYTES, command_bytes};

/// Bounds of a [`Replica`](crate::Replica). Replicas of one log may differ in all of them but `retention`, which every
/// one must set to at least [`RETENTION_PER_VIEW_AGE`] times the largest `view_age_max` among them.
#[derive(Clone, Debug)]
pub struct Config {
    /// How often an idle replica looks for the next entry. Default 1 s.
    pub poll_interval: Duration,
    /// After this long without one, a poll also verifies that its last entry still exists (L5) and that no entry
    /// lies behind the one it misses. Default 10 s.
    pub verify_interval: Duration,
    /// The longest wait for one answer of the store. Default 5 s.
    pub request_timeout: Duration,
    /// A read that has taken so long gets a second one beside it, so that one answer that is late costs no lease. Default
    /// 500 ms.
    pub hedge_after: Duration,
    /// The longest wait for a snapshot, which may be large. Default 5 min.
    pub snapshot_timeout: Duration,
    /// How long a proposal, a refresh, or an open keeps trying while the store fails or others win. Default 30 s.
    pub operation_timeout: Duration,
    /// Pauses between tries while the store fails: the first, and the most they grow to by doubling. Each is drawn
    /// evenly from zero up. Default 20 ms to 2 s.
    pub retry_pause: Duration,
    pub retry_pause_max: Duration,
    /// Pauses after another replica won the number, in the same manner: short, since a create is long
    /// against them, and whoever waits longer than others is overtaken again and again. Default 5 ms to 50 ms.
    pub conflict_pause: Duration,
    pub conflict_pause_max: Duration,

    /// The most bytes of an entry that this replica writes. Default 1 MiB, at most [`ENTRY_BYTES_LIMIT`].
    pub entry_bytes_max: usize,
    /// The most bytes of commands that wait; more proposals wait for room. Default 16 MiB.
    pub queue_bytes_max: usize,
    /// The most commands that wait. Default 4,096.
    pub queue_commands_max: usize,
    /// The most entries that are fetched ahead while catching up. Default 64.
    pub read_ahead: usize,

    /// A snapshot is due after so many entries. Default 1,000.
    pub snapshot_entries: u64,
    /// A snapshot is due after so many bytes of entries. Default 64 MiB.
    pub snapshot_log_bytes: u64,
    /// The largest snapshot that is written or believed. Default 1 GiB.
    pub snapshot_bytes_max: usize,
    /// How many snapshots are kept, the newest included. Default 2, which is also the least.
    pub snapshots_kept: usize,
    /// How long an entry is kept at least, by the store's own clock, though snapshots cover it. Default 7 days.
    pub retention: Duration,
    /// The most entries that one run of retention deletes. Default 10,000.
    pub deletes_max: u64,
    /// A view that is older than this is thrown away and loaded anew before anything is made of it (L5). Default 1 h.
    pub view_age_max: Duration,
}

/// How much longer than any view entries are kept.
pub const RETENTION_PER_VIEW_AGE: u32 = 4;

impl Default for Config {
    fn default() -> Config {
        Config {
            poll_interval: Duration::from_secs(1),
            verify_interval: Duration::from_secs(10),
            request_timeout: Duration::from_secs(5),
            hedge_after: Duration::from_millis(500),
            snapshot_timeout: Duration::from_secs(300),
            operation_timeout: Duration::from_secs(30),
            retry_pause: Duration::from_millis(20),
            retry_pause_max: Duration::from_secs(2),
            conflict_pause: Duration::from_millis(5),
            conflict_pause_max: Duration::from_millis(50),
            entry_bytes_max: 1 << 20,
            queue_bytes_max: 16 << 20,
            queue_commands_max: 4096,
            read_ahead: 64,
            snapshot_entries: 1000,
            snapshot_log_bytes: 64 << 20,
            snapshot_bytes_max: 1 << 30,
            snapshots_kept: 2,
            retention: Duration::from_secs(7 * 24 * 3600),
            deletes_max: 10_000,
            view_age_max: Duration::from_secs(3600),
        }
    }
}

impl Config {
    pub fn validate(&self) -> Result<(), Error> {
        let require = |holds: bool, what: &str| {
            if holds { Ok(()) } else { Err(Error::Invalid(format!("metadata log configuration: {what}"))) }
        };
        require(!self.poll_interval.is_zero(), "poll_interval must not be zero")?;
        require(!self.request_timeout.is_zero(), "request_timeout must not be zero")?;
        require(!self.snapshot_timeout.is_zero(), "snapshot_timeout must not be zero")?;
        require(
            self.operation_timeout >= self.request_timeout,
            "operation_timeout is below request_timeout",
        )?;
        require(
            self.entry_bytes_max > ENVELOPE_BYTES + command_bytes(&[])
                && self.entry_bytes_max <= ENTRY_BYTES_LIMIT,
            "entry_bytes_max is outside what the entry format allows",
        )?;
        require(
            self.queue_bytes_max >= self.entry_bytes_max && self.queue_bytes_max <= u32::MAX as usize,
            "queue_bytes_max must lie between entry_bytes_max and 4 GiB",
        )?;
        require(
            (1..=1 << 20).contains(&self.queue_commands_max),
            "queue_commands_max must lie between 1 and 1,048,576",
        )?;
        require((1..=1024).contains(&self.read_ahead), "read_ahead must lie between 1 and 1024")?;
        require(
            self.snapshot_entries > 0 && self.snapshot_log_bytes > 0,
            "snapshot_entries and snapshot_log_bytes must not be zero",
        )?;
        require(self.snapshots_kept >= 2, "snapshots_kept is below 2; the previous snapshot must be kept")?;
        require(!self.view_age_max.is_zero(), "view_age_max must not be zero")?;
        require(
            self.retention >= self.view_age_max * RETENTION_PER_VIEW_AGE,
            "retention is below four times view_age_max",
        )
    }

    /// The largest command that [`propose`](crate::Replica::propose) takes.
    pub fn command_bytes_max(&self) -> usize {
        self.entry_bytes_max - ENVELOPE_BYTES - command_bytes(&[])
    }
}

/// Where time comes from. Timers are tokio's; this is what the age of a view is measured with.
pub trait Clock: Send + Sync + std::fmt::Debug + 'static {
    /// CLOCK_BOOTTIME: monotonic, and it counts suspension.
    fn boottime(&self) -> Duration;

    /// Milliseconds since the Unix epoch.
    fn wall_ms(&self) -> i64;
}

/// The host's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn boottime(&self) -> Duration {
        host::clock::boottime()
    }

    fn wall_ms(&self) -> i64 {
        host::clock::wall_ms()
    }
}
