//! The suite that every WAL passes: W1 to W7, tested from outside through [`Medium`](crate::Medium), [`Wal`](crate::Wal)
//! and [`Recovery`](crate::Recovery).
//!
//! An implementation brings a [`Harness`] and calls [`run`] (or single cases, as tests of their own):
//!
//! ```text
//!   Harness::fresh() ─► Subject: one medium that outlives its writers
//!                         medium()  as the next process would open it
//!                         crash()   the process dies; what was under way is lost, kept, or kept in part
//!                         hold() …  the faults that this medium can have
//! ```
//!
//! A case panics with what it expected. Cases never sleep and never assert on wall-clock time; they wait for a state
//! with a generous deadline. Put the subject into a runtime with time enabled and not paused.

mod durability;
mod fencing;
mod model;
mod order;
mod space;
mod subject;

pub use durability::*;
pub use fencing::*;
pub use model::*;
pub use order::*;
pub use space::*;
pub use subject::*;

/// Runs every case that applies to the medium, one after the other, each on a fresh one.
pub async fn run(harness: &dyn Harness) {
    order::run(harness).await;
    durability::run(harness).await;
    fencing::run(harness).await;
    space::run(harness).await;
    for seed in 0..harness.model_seeds() {
        random_histories_agree_with_the_model(harness, seed).await;
    }
}
