//! Kafka's own command-line tools against the real binary: what an operator types, and what is printed.

mod groups;
mod limits;
mod records;
mod tools;
mod topics;
