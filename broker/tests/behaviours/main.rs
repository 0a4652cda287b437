//! The numbered behaviours of a Kafka broker, each shown over TCP against a whole broker in this process. One program,
//! so that it is linked once.
//!
//! The numbers are those of the project's list of Kafka's subtle behaviours. Each that applies has a test here, or beside
//! its code, whose name contains `behaviour_` and the number. These do not apply yet:
//!
//! | numbers | what they are about |
//! |---|---|
//! | 5, 17–20 | SASL |
//! | 46, 47, 52–63 | transactions; what is refused of them is tested with 45 and 34 |
//! | 79 | compaction |
//! | 102–105 | the newer group protocol, share groups |
//! | 114 | quotas, SCRAM credentials |
//! | 116 | DescribeProducers, DescribeTransactions, ListTransactions |

mod admin;
mod cluster;
mod command;
mod configs;
mod connection;
mod fetch;
mod groups;
mod hostile;
mod leader_epochs;
mod list_offsets;
mod log_start;
mod notes;
mod partition_state;
mod peers;
mod produce;
mod storm;
#[path = "../support/mod.rs"]
mod support;
#[path = "../../src/partition/testing.rs"]
mod testing;
mod topics;
mod versions;

use ottla::partition::batch;
