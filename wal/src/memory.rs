//! The memory WAL (crashable, for tests).
