//! The real binary as a process of its own, with real clients, a real S3 server, and real kills.

mod bad_input;
mod clouds;
mod cluster;
mod collect;
mod cost;
mod crash;
mod drain;
mod faults;
mod first_minute;
mod inspect;
mod kafka_tools;
mod ledger;
mod load;
mod process;
mod real_clients;
mod real_groups;
mod real_positions;
mod refusals;
mod room;
mod s3;
mod startup;
mod store_create;
#[path = "../../src/partition/testing.rs"]
mod testing;
mod verify;
mod wire;

use ottla::partition::batch;
