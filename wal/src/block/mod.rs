//! The block WAL.
