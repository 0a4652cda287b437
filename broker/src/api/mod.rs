//! One file per Kafka API: `pub async fn handle(&Broker, &Context, version, Request) -> Response`.
//!
//! A handler never fails: whatever goes wrong becomes the error code that Kafka would send, at the level (request,
//! topic, partition) at which Kafka would send it.

pub mod acls;
mod alter;
pub mod alter_configs;
pub mod alter_partition_reassignments;
pub mod api_versions;
mod assignment;
pub mod authorized;
#[cfg(test)]
mod compatibility;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod describe_topic_partitions;
pub mod elect_leaders;
pub mod error;
pub mod fetch;
pub mod fetch_response;
pub mod fetch_session;
pub mod find_coordinator;
pub mod heartbeat;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod join_group;
pub mod layout;
pub mod leave_group;
pub mod list_config_resources;
pub mod list_groups;
pub mod list_offsets;
pub mod list_partition_reassignments;
pub mod metadata;
pub mod new_topic;
mod nodes;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod produce_response;
mod resource;
pub mod strings;
pub mod sync_group;
pub mod topic_name;
#[cfg(test)]
mod topic_tests;
pub mod versions;
pub mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use futures::StreamExt;

/// What a handler knows about who asks.
#[derive(Clone, Debug)]
pub struct Context {
    /// As sent in the request header; a copy that does not pin the request's buffer.
    pub client_id: Option<Arc<str>>,
    pub peer: SocketAddr,
    /// Host and port that clients of the listener on which the request came are to use.
    pub advertised: Advertised,
}

/// An address that clients are told to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    pub host: Arc<str>,
    pub port: u16,
}

/// Groups of one request that are dealt with at a time. No option: it is enough that one coordinator that loads does not
/// hold up all others, and a request may name millions.
const GROUPS_AT_ONCE: usize = 64;

/// Answers in the order of the questions.
async fn side_by_side<T>(answers: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    futures::stream::iter(answers).buffered(GROUPS_AT_ONCE).collect().await
}

#[cfg(test)]
mod group_tests;
