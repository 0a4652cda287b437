//! Judges what Kafka clients asked and what they were told.
//!
//! ```text
//!   History ──► Evidence: what must stand where ──► records   lost, doubled, invented
//!   (calls)       in each partition's log       ├─► order     skipped, gone back
//!                                               ├─► cycles    transactions that saw each other
//!                                               ├─► ends      watermarks and refused offsets
//!                                               └─► groups    committed offsets and generations
//! ```
//!
//! The checks of records, order and cycles are those of Jepsen's workload for Kafka, of which this is a new
//! implementation; those of ends and groups, and a few that are stricter, were added ([`Anomaly`] tells which). Nothing is
//! known of the system but what clients saw: a verdict is valid if no client could have noticed anything wrong.
//!
//! # Guarantees
//!
//! - **K1** No false alarm: whatever is reported as an error cannot come from a Kafka that keeps its promises to idempotent
//!   producers with `acks=all`, provided that the history is true (H1 to H5 in [`history`]).
//! - **K2** A finding names the partition, the records, the calls, and what contradicts what.
//! - **K3** The same history gives the same verdict, word for word.
//! - **K4** Memory and time are linear in operations and records, but for sorting; offsets may be any number.
//! - **K5** Each rule, and each exemption from one, is needed: with any of them switched off a test of this crate fails.
//!
//! Reading order: [`history`], [`anomaly`], `evidence`, then the checks, [`verdict`] and [`json`].

pub mod anomaly;
mod cycles;
mod ends;
mod evidence;
mod groups;
pub mod history;
pub mod json;
mod lag;
mod order;
mod records;
mod rules;
#[cfg(test)]
mod tests;
pub mod verdict;

pub use anomaly::Anomaly;
pub use history::{
    Call, F, Group, History, Key, Malformed, Mop, Offset, Op, Polled, Process, Type, Value, Watermark,
};
pub use verdict::{Finding, Verdict};

/// What the history is known to hold.
#[derive(Clone, Debug)]
pub struct Options {
    /// At its end everything that was acknowledged could be read, and was: what nobody read is an error.
    pub final_read: bool,
    /// Every rebalance stands in it, so that consumers that subscribe may skip or go back nowhere else.
    pub rebalances_logged: bool,
    /// Findings of one kind that are kept word for word; all are counted.
    pub findings_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { final_read: true, rebalances_logged: false, findings_max: 16 }
    }
}

/// The verdict on a history.
pub fn check(history: &History, options: &Options) -> Verdict {
    let evidence = evidence::Evidence::gather(history);
    let mut verdict = Verdict::new(history, options);
    records::check(history, &evidence, options, &mut verdict);
    order::check(history, &evidence, options, &mut verdict);
    cycles::check(history, &evidence, &mut verdict);
    ends::check(history, &evidence, &mut verdict);
    groups::check(history, &evidence, &mut verdict);
    lag::measure(history, &mut verdict);
    verdict
}
