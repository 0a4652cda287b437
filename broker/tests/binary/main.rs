//! The real binary as a process of its own, with real clients, a real S3 server, and real kills.

mod bad_input;
mod crash;
mod first_minute;
mod process;
mod real_clients;
mod refusals;
#[path = "../../src/partition/testing.rs"]
mod testing;
mod wire;

use ottla::partition::batch;
