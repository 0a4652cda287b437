//! Object stores that misbehave on purpose, for the tests of every crate.
//!
//! A [`FaultStore`] wraps any store. By default it is transparent; [`Rule`]s make chosen operations go wrong in the ways
//! in which object stores and their clients are known to:
//!
//! | fault | what the caller sees | what the store does |
//! |---|---|---|
//! | [`Fault::Refuse`] | 503 | nothing |
//! | [`Fault::Fail`] | 500 | nothing |
//! | [`Fault::Expire`], [`Fault::Forbid`] | an expired token; a 403 | nothing |
//! | [`Fault::Cut`] | a broken connection | nothing |
//! | [`Fault::LoseReply`] | an error | everything |
//! | [`Fault::HiddenRetry`] | "already exists", of its own object | everything |
//! | [`Fault::Conflict`] | "already exists", from a 409 | nothing |
//! | [`Fault::Late`] | an error | everything, later: at [`FaultStore::land_late`] |
//! | [`Fault::Duplicate`] | success | everything, and once more at [`FaultStore::land_late`] |
//! | [`Fault::Delay`] | the answer, later (tokio's time, so that a paused clock works) | everything |
//! | [`Fault::Hang`] | nothing, ever | nothing |
//! | [`Fault::Truncate`], [`Fault::FlipBit`] | a damaged body | nothing |
//! | [`Fault::CutBody`] | an error in the middle of a body | nothing |
//! | [`Fault::Hide`] | 404, or a listing without anything | nothing |
//!
//! [`FaultStore::hold_puts`] keeps PUTs between "reached the store" and "was answered", to be completed one by one in
//! any order. [`FaultStore::careless`] makes conditional creates check-then-write, as many servers do.
//!
//! A [`Proxy`] does the same to a process of its own, between its S3 client and a real S3 server. A [`Port`] is a place for
//! such a server that nobody else is given.
//!
//! Which operations a rule hits is decided by prefix, kind, order and a seeded coin, so a seed repeats a run as far as
//! the caller's own order repeats.

mod hold;
mod port;
pub mod proxy;
mod rule;
mod store;
#[cfg(test)]
mod tests;

pub use port::Port;
pub use proxy::{Proxy, Seen};
pub use rule::{Fault, Operation, Rule};
pub use store::{Counts, FaultStore};
