//! The machine: clocks, the network, threads, and a name.
//!
//! ```text
//!   wal, metalog, broker ──► host ──► the operating system           always, in what is released
//!                                └──► a simulated::Machine           on a thread that entered one: `sim/`
//! ```
//!
//! It is ambient, as the operating system is: nobody passes it around, and a task that a broker starts anywhere is on the
//! same machine as whoever started it. Timers are tokio's, which a simulation has paused; what time it is for a lease or
//! for the age of a record is asked here.
//!
//! - **H1** Without the feature `simulated` each call is the operating system's, with nothing in between.
//! - **H2** With it, code that runs on a thread without a simulated machine finds the real one.
//!
//! What is not here: the object store, which has a trait of its own, and real volumes, which `wal` opens itself (a simulated
//! machine has volumes as well); and the environment, files of options and signals, which belong to the command line.

pub mod clock;
pub mod net;
mod planted;
#[cfg(feature = "simulated")]
pub mod simulated;
pub mod work;

pub use planted::planted;

/// Names this machine: systemd's machine id, which outlives reboots. A container may have none.
pub fn machine_id() -> Option<String> {
    #[cfg(feature = "simulated")]
    if let Some(machine) = simulated::current() {
        return Some(machine.id());
    }
    id_in("/etc/machine-id")
}

/// Names the kernel that runs, from its boot on: all containers of a machine have the same.
pub fn boot_id() -> Option<String> {
    #[cfg(feature = "simulated")]
    if let Some(machine) = simulated::current() {
        return Some(machine.boot());
    }
    id_in("/proc/sys/kernel/random/boot_id")
}

fn id_in(path: &str) -> Option<String> {
    let id: String = std::fs::read_to_string(path).ok()?.trim().chars().take(64).collect();
    // systemd writes such a word before it has made an id.
    (!id.is_empty() && id != "uninitialized").then_some(id)
}

/// What this machine calls itself on its network.
pub fn name() -> String {
    #[cfg(feature = "simulated")]
    if let Some(machine) = simulated::current() {
        return machine.id();
    }
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
