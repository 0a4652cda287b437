//! Classic consumer groups: membership, and the offsets that groups commit.
//!
//! ```text
//!   api/join_group.rs …  ──►  Groups ── hash of the group id ──►  one coordinator per partition of __consumer_offsets
//!                                                                 that is in use (an actor: coordinator.rs)
//!                                                                   │ owns
//!                                              state.rs: a group ◄──┼──► offsets.rs: what it committed
//!                                                                   │ writes, and replays at first use
//!                                                                   ▼
//!                                              records.rs in batch.rs: Kafka's own formats, in an ordinary partition
//! ```
//!
//! Reading order: [`state`], [`records`].

pub mod batch;
pub mod records;
pub mod state;
