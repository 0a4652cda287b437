//! Faults of the store and of the disk, met by the real binary under the load of an outside producer. `docs/testing.md`
//! says which of the known failure modes each of these tests covers.

mod credentials;
mod disk;
mod flips;
mod memory;
mod objects;
mod secrets;
pub mod store;
mod table;
mod volume;
mod watermark;
