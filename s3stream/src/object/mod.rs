//! The one object format.
