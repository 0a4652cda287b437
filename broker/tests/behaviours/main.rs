//! The numbered behaviours of a Kafka broker, each shown over TCP against a whole broker in this process. One program,
//! so that it is linked once.

mod command;
mod connection;
mod fetch;
mod groups;
mod hostile;
mod list_offsets;
mod produce;
#[path = "../support/mod.rs"]
mod support;
#[path = "../../src/partition/testing.rs"]
mod testing;
mod topics;
mod versions;

use ottla::partition::batch;
