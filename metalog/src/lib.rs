//! The metadata log: a replicated state machine whose log is a run of numbered objects in a bucket.
//!
//! ```text
//!   meta/log/00000000000000000041   created with If-None-Match: * — whoever creates number n has committed entry n
//!   meta/log/00000000000000000042     ▲ carries its own nonce and its predecessor's
//!   meta/snapshot/…                   bounds replay; old entries go in ascending order, late
//!
//!   propose(command) ─► queue ─► read to the tail, create the next number ─► apply ─► outcome
//!                                   └─ lost? read on, try again; queued commands join the next entry
//! ```
//!
//! It knows numbers, nonces, snapshots and object stores; what a command means is the [`Machine`]'s business. There is
//! no election: any number of appenders may race, and every one of them is right.
//!
//! # Guarantees
//!
//! - **L1** Entry *n* is what the one successful create of number *n* wrote, for every reader and for ever.
//! - **L2** A command has succeeded only once its entry was applied here; its outcome is the machine's, deterministic.
//! - **L3** A create whose outcome is unknown (time-out, 5xx, 409, "already exists" after a hidden retry) is resolved by
//!   reading the object back and comparing nonces, never by assuming. A command is applied at most once.
//! - **L4** Each entry and snapshot names its predecessor's nonce. On a mismatch a reader discards its state and reloads.
//! - **L5** Deleted numbers cannot be re-created unnoticed: after a create (or a 404) at n+1, entry n must still exist
//!   with the known nonce, and the age of the view is checked again afterwards.
//! - **L6** Only create-if-absent is used, so the same code runs on every store that [`probe`] accepts.
//! - **L7** Everything is bounded: an entry's bytes, the queue of proposals, the retries of one attempt.

pub mod probe;
