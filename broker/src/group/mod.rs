//! Classic consumer groups: membership, and the offsets that groups commit.
//!
//! ```text
//!   api/join_group.rs …  ──►  Groups ── hash of the group id ──►  one coordinator per partition of __consumer_offsets
//!                                                                 that is in use (an actor: coordinator.rs)
//!                                                                   │ owns
//!                                                                   ▼
//!                        state.rs: the membership of a group ◄── shard.rs ──► offsets.rs: what it committed
//!                                                                   │ writes, and replays at first use
//!                                                                   ▼
//!                                              records.rs in batch.rs: Kafka's own formats, in an ordinary partition
//! ```
//!
//! Reading order: [`state`], [`records`], [`shard`], [`coordinator`], [`groups`], [`surroundings`]. [`subscription`] is the
//! one look into what members send.

pub mod batch;
pub mod coordinator;
pub mod groups;
pub mod log;
pub mod offsets;
pub mod records;
pub mod shard;
pub mod state;
pub mod subscription;
pub mod surroundings;

use std::time::Duration;

use crate::config::BrokerConfig;

pub use groups::Groups;
pub use surroundings::BrokerSurroundings;

/// Options of the group coordinators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub rules: state::Rules,
    /// `offset.metadata.max.bytes`: metadata of a committed offset, in bytes.
    pub offset_metadata_bytes_max: usize,
    /// Groups per partition of `__consumer_offsets`; the next one is told GROUP_MAX_SIZE_REACHED.
    pub groups_max: usize,
    /// Memory for groups and offsets of the whole broker, in bytes. What would grow beyond it is refused; what the
    /// log holds is always loaded.
    pub state_bytes_max: usize,
    /// Requests that wait for a coordinator, per partition; further ones wait in their connections.
    pub queued_messages_max: usize,
    /// Writes that wait for the log, per partition, in bytes; beyond it joins, syncs and commits are told
    /// COORDINATOR_NOT_AVAILABLE.
    pub queued_bytes_max: usize,
    /// Writes are gathered into batches of about this many bytes.
    pub batch_bytes_target: usize,
    /// All records of one request or one group's membership, in bytes, frames included. Beyond it the request fails. Together with
    /// `batch_bytes_target` it bounds an append, which has to fit the write-ahead log.
    pub record_bytes_max: usize,
    /// Appends under way at a time, per partition.
    pub appends_in_flight_max: usize,
    /// How much of the log is read at a time when it is replayed, in bytes.
    pub load_chunk_bytes: usize,
    /// A log of at least so many bytes is rewritten and trimmed when it has become
    /// [`rewrite_factor`](Options::rewrite_factor) times as long as what lives in it (decision 0015).
    pub rewrite_log_bytes_min: u64,
    pub rewrite_factor: u32,
    /// How long a request waits for the replay before it is told that the coordinator loads.
    pub load_wait_max: Duration,
}

impl Options {
    /// With what Kafka's broker configs say.
    pub fn with_configs(self, config: &BrokerConfig) -> Options {
        let millis = |value: i32| Duration::from_millis(u64::try_from(value).unwrap_or(0));
        let count = |value: i32| usize::try_from(value).unwrap_or(0);
        let rules = state::Rules {
            session_timeout_min: millis(config.group_min_session_timeout_ms),
            session_timeout_max: millis(config.group_max_session_timeout_ms),
            initial_rebalance_delay: millis(config.group_initial_rebalance_delay_ms),
            group_size_max: count(config.group_max_size),
            offsets_retention: 60 * 1000 * millis(config.offsets_retention_minutes),
            offsets_retention_check_interval: Duration::from_millis(
                u64::try_from(config.offsets_retention_check_interval_ms).unwrap_or(0),
            ),
            ..self.rules
        };
        let offset_metadata_bytes_max = count(config.offset_metadata_max_bytes);
        Options { rules, offset_metadata_bytes_max, ..self }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            rules: state::Rules::default(),
            offset_metadata_bytes_max: 4096,
            groups_max: 100_000,
            state_bytes_max: 256 << 20,
            queued_messages_max: 1024,
            queued_bytes_max: 16 << 20,
            batch_bytes_target: 512 << 10,
            record_bytes_max: 4 << 20,
            appends_in_flight_max: 4,
            load_chunk_bytes: 4 << 20,
            rewrite_log_bytes_min: 8 << 20,
            rewrite_factor: 4,
            load_wait_max: Duration::from_secs(5),
        }
    }
}
