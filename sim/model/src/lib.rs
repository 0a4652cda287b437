//! Exhaustive models of fail-over and of hand-overs: every interleaving of a few processes, with every rule as a switch.
//!
//! ```text
//!   a model (rules, bounds) ──► check ──► all rules on:  every reachable state keeps every property
//!                                    └──► a rule off:    the shortest history that breaks one, or the rules that stand in
//! ```
//!
//! The models are of the protocol, as `docs/architecture.md` has it, and know nothing of the code that carries it out:
//! that code is run against histories elsewhere. What they show is that the rules are enough, and which of them are needed
//! for what; the tables are in `docs/testing.md`.
//!
//! What is not in them: damage (checksums are taken to hold), clocks beyond a bounded rate, more than two recoverers, more than
//! one stream, and what readers are told.
//!
//! Reading order: [`check`], [`object`], [`block`], [`volumes`], [`numbers`], [`handover`], [`page`].

pub mod block;
pub mod check;
pub mod handover;
pub mod numbers;
pub mod object;
pub mod page;
pub mod volumes;
