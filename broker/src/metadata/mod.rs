//! The cluster's metadata: what is in the log, and the commands that change it.
//!
//! Reading order: [`image`], [`command`], [`apply`].

pub mod apply;
pub mod codec;
pub mod command;
pub mod image;
pub mod snapshot;
#[cfg(test)]
mod tests;

/// This broker's replica of the metadata, and the way to change it.
#[derive(Debug)]
pub struct Metadata {}
