//! Ottla: a Kafka-compatible broker whose only dependency is a bucket.
//!
//! ```text
//!   server/      sockets, frames, order of responses      ── knows bytes and versions
//!   api/         one file per Kafka API                    ── knows requests and error codes
//!   partition/   offsets, idempotence, waiting fetches     ── the hot path
//!   group/       the classic group coordinator
//!   cluster/     the brokers among themselves
//!   failover/    what is done about brokers that died: fence, recover, open
//!   media.rs     from a write-ahead log's name to its medium, ours or a dead broker's
//!   metadata/    the cluster's state machine over `metalog`; implements `s3stream::StreamMetadata`
//!   config/      Kafka topic and broker configs: one table
//!   options/     Ottla's own options: one table gives flags, environment, TOML and the docs page
//!   cli/         the `ottla` command: serve, and a small Kafka client
//!   store/       the object store: from URL to clients, and the count of what is asked of it
//!   admin.rs     HTTP for whoever runs the broker
//!   usage.rs     what a broker has used of its store: what `ottla cost` prices
//!   clocks.rs    whether the wall clock may be believed
//!   startup/     from options to a running broker, and back
//!   cluster/     the brokers of one cluster among themselves: who lives, who has news
//!   tasks.rs     what runs in the background, none of which dies unnoticed
//!   broker.rs    how they are wired together
//! ```
//!
//! Reading order: `broker.rs`, `server/connection.rs`, `api/produce.rs`, `partition/mod.rs`, `api/fetch.rs`.

mod admin;
pub mod api;
pub mod broker;
pub mod cli;
pub mod clocks;
pub mod cluster;
pub mod config;
pub mod failover;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod group;
pub mod machine;
pub mod media;
pub mod metadata;
pub mod options;
pub mod partition;
pub mod server;
pub mod startup;
pub mod store;
mod tasks;
mod usage;
pub mod verify;

/// What a client writes and reads, for the simulation's.
#[cfg(feature = "simulated")]
pub use cli::client::records;
