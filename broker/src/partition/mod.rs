//! See the crate's page.

pub mod batch;
pub mod checkpoint;
pub mod codec;
pub mod records;
pub mod state;
#[cfg(test)]
pub(crate) mod testing;
pub mod validate;
