//! The storage engine from outside: over the memory WAL, a store in memory, and the metadata in memory.

mod basics;
mod collect;
mod compaction;
mod crash_steps;
mod failure;
mod media;
mod model;
mod pressure;
mod recovery;
mod store;
mod upload;
mod world;
