//! Defects that are put into the code on purpose, to measure whether the simulation finds them (`sim/`, docs/testing.md).
//!
//! Each stands where a guard of the code does, under a name; a build with the feature `planted` has the one that
//! `OTTLA_PLANTED` names. Without the feature none is compiled in.

/// Whether the defect of that name is in this process.
#[cfg(feature = "planted")]
pub fn planted(name: &str) -> bool {
    static CHOSEN: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| std::env::var("OTTLA_PLANTED").unwrap_or_default());
    *CHOSEN == name
}

/// Never.
#[cfg(not(feature = "planted"))]
pub const fn planted(_: &str) -> bool {
    false
}
