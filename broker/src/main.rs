//! The `ottla` command.

use std::process::ExitCode;

/// jemalloc: besides its speed, it turns an absurd allocation that a hostile frame provokes in a decoder into virtual
/// memory that is never touched, where other allocators abort the process.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    ottla::cli::run()
}
