//! The cluster's metadata: what is in the log, and the commands that change it.

/// This broker's replica of the metadata, and the way to change it.
#[derive(Debug)]
pub struct Metadata {}
