//! Two clocks: one that only goes on, and the one on the wall.

use std::time::{Duration, SystemTime};

/// CLOCK_BOOTTIME: monotonic, and it counts suspension.
pub fn boottime() -> Duration {
    #[cfg(feature = "simulated")]
    if let Some(machine) = crate::simulated::current() {
        return machine.boottime();
    }
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Since the Unix epoch; nothing before it.
pub fn wall() -> Duration {
    #[cfg(feature = "simulated")]
    if let Some(machine) = crate::simulated::current() {
        return machine.wall();
    }
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The same in milliseconds.
pub fn wall_ms() -> i64 {
    wall().as_millis() as i64
}
