//! Which machine, and which kernel: what a registration says of where it came from.
//!
//! ```text
//!   MACHINE/BOOT     /etc/machine-id, or "host:" and the host's name; and /proc/sys/kernel/random/boot_id, or "-"
//! ```
//!
//! - **Ma1** *The same kernel* is proved by equal boot ids: then a lock that somebody holds is seen by everybody, and one
//!   that is free was held by nobody who still writes. Nothing else proves it; a machine that is resumed twice from one
//!   snapshot of its memory is outside of this.
//! - **Ma2** *Another host*, as a device knows hosts, is proved by two known boots that differ, of machines that have different ids
//!   or names. Of everything else it is not certain.
//! - **Ma3** *The same machine*, by id or by name, proves nothing, since images that are cloned share it: it is a courtesy: nothing that is acknowledged depends on it. Names may be shared,
//!   containers' above all. Two containers under one kernel are two machines in this sense: their addresses are.

/// This machine.
pub fn here() -> String {
    let machine = host::machine_id().unwrap_or_else(|| format!("{NAMED}{}", host::name().replace('/', "_")));
    format!("{machine}/{}", host::boot_id().as_deref().unwrap_or(NONE))
}

const NONE: &str = "-";
const NAMED: &str = "host:";

/// The machine's id, and the kernel's.
fn parts(machine: &str) -> (&str, &str) {
    machine.split_once('/').unwrap_or((machine, NONE))
}

fn is_known_and_same(one: &str, other: &str) -> bool {
    one == other && !one.is_empty() && one != NONE
}

/// Ma1.
pub fn is_same_kernel(one: &str, other: &str) -> bool {
    is_known_and_same(parts(one).1, parts(other).1)
}

/// Ma2.
pub fn is_another_host(one: &str, other: &str) -> bool {
    let differ =
        |one: &str, other: &str| [one, other].iter().all(|id| !id.is_empty() && *id != NONE) && one != other;
    differ(parts(one).0, parts(other).0) && differ(parts(one).1, parts(other).1)
}

/// Ma3.
pub fn is_same(one: &str, other: &str) -> bool {
    is_known_and_same(parts(one).0, parts(other).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_known_by_its_boot_and_a_machine_by_its_id() {
        let relations =
            |one, other| (is_same_kernel(one, other), is_another_host(one, other), is_same(one, other));
        for (one, other, kernel, another, machine) in [
            ("m/1", "m/1", true, false, true),
            // Started again, or cloned.
            ("m/1", "m/2", false, false, true),
            ("m/1", "n/2", false, true, false),
            ("m/-", "n/2", false, false, false),
            ("m/-", "n/-", false, false, false),
            ("m", "n/2", false, false, false),
            ("m/1", "n/1", true, false, false),
            ("host:a/1", "host:a/1", true, false, true),
            ("host:a/1", "host:a/2", false, false, true),
            ("host:a/1", "host:b/2", false, true, false),
            ("host:a/1", "m/1", true, false, false),
            ("host:a/1", "host:b/1", true, false, false),
            ("-/-", "-/-", false, false, false),
            ("m/-", "m/-", false, false, true),
            // As it was written before there were boots in it.
            ("m", "m", false, false, true),
            ("m", "m/1", false, false, true),
            ("", "", false, false, false),
            ("/", "/", false, false, false),
        ] {
            assert_eq!(relations(one, other), (kernel, another, machine), "{one} {other}");
            assert_eq!(relations(other, one), (kernel, another, machine), "{other} {one}");
        }
        assert!(is_same_kernel(&here(), &here()), "{}", here());
    }
}
