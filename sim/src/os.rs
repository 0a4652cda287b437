//! The clock and the random numbers of the C library, for this process.
//!
//! The broker and its libraries ask the operating system for both in many places: seeds of hash maps, ids, back-off,
//! which branch of a `select!` is looked at first, `Instant::now`. This program has functions of its own under those names,
//! which the linker prefers: so all of it follows from the seed, whoever asks.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

static SIMULATED: AtomicBool = AtomicBool::new(false);
static MONOTONIC: AtomicU64 = AtomicU64::new(0);
static WALL: AtomicU64 = AtomicU64::new(0);
static RANDOM: AtomicU64 = AtomicU64::new(0);

/// From here on this process has no time and no randomness but what is given to it.
pub fn simulate(seed: u64) {
    RANDOM.store(seed, Ordering::Relaxed);
    SIMULATED.store(true, Ordering::Relaxed);
}

/// What the clocks show until they are set again.
pub fn set_clocks(monotonic: Duration, wall: Duration) {
    MONOTONIC.store(monotonic.as_nanos() as u64, Ordering::Relaxed);
    WALL.store(wall.as_nanos() as u64, Ordering::Relaxed);
}

/// Processor time of this process, the real one.
pub fn cpu_time() -> Duration {
    real(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// The real time since whenever.
pub fn real_time() -> Duration {
    real(libc::CLOCK_MONOTONIC)
}

fn real(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec to where there is one.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// SplitMix64 (public domain, Vigna).
fn next_random() -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut mixed = RANDOM.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    let is_other = matches!(clock, libc::CLOCK_PROCESS_CPUTIME_ID | libc::CLOCK_THREAD_CPUTIME_ID);
    if is_other || !SIMULATED.load(Ordering::Relaxed) {
        // SAFETY: the caller's pointer is what the caller says it is.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as c_int };
    }
    let is_wall = matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE);
    let nanos = if is_wall { &WALL } else { &MONOTONIC }.load(Ordering::Relaxed);
    let shown = libc::timespec {
        tv_sec: (nanos / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanos % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: the caller gives room for a timespec.
    unsafe { time.write(shown) };
    0
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    if !SIMULATED.load(Ordering::Relaxed) {
        // SAFETY: the caller's pointer is what the caller says it is.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize };
    }
    for at in 0..length {
        let byte = (next_random() >> 32) as u8;
        // SAFETY: the caller gives room for `length` bytes.
        unsafe { buffer.cast::<u8>().add(at).write(byte) };
    }
    length as isize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Alone in its process, whatever runs beside it would lose its time.
    #[test]
    fn bytes_follow_from_the_seed() {
        let bytes = |seed| {
            RANDOM.store(seed, Ordering::Relaxed);
            [next_random(), next_random()]
        };
        assert_eq!(bytes(7), bytes(7));
        assert_ne!(bytes(7), bytes(8));
    }
}
