//! What the metadata log costs a large cluster.
//!
//! ```text
//!   traffic ──► commands ──► their bytes ──► Image::apply_bytes   the real state machine, once: every broker does the same
//!   (what brokers would say)      │
//!                                 └── sizes, counts, processor time, allocated bytes, by kind of command
//!
//!   race: many real replicas of the log on one store with slow PUTs, on a paused clock ──► commits a second
//!   take_over: the same, and one of them recovers a dead broker meanwhile ──► seconds
//! ```
//!
//! No broker runs. [`cluster`] says what a hundred of them would write into the log: uploads with a part for each partition
//! that got anything, checkpoints, compaction by tiers, what retention and the collector do, moves, and a fail-over; each
//! command goes through its bytes, and each is an entry of its own, as they come from different brokers. [`race`] asks how
//! many of those a log of conditional creates takes, [`take_over`] how long a fail-over takes among them.
//!
//! - **G1** Counts and bytes are a function of the [`cluster::Shape`]: they are the same on every machine.
//! - **G2** Processor time is this thread's alone, and memory what is allocated and not freed: a loaded machine does not
//!   change what they mean.
//! - **G3** Times of the log are those of a paused clock: a loaded machine does not change them.
//! - **G4** After each phase the image holds its invariants.

pub mod arena;
pub mod cluster;
pub mod fail_over;
pub mod measure;
pub mod race;
pub mod report;
pub mod take_over;
#[cfg(test)]
mod tests;
