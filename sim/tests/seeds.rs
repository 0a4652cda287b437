//! Seeds, in processes of their own.

use std::process::Command;

fn run(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().expect("the program runs");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What happened in a seed.
fn trace(seed: &str, displace: &str) -> String {
    let (passed, text) = run(&["--seed", seed, "--displace", displace]);
    assert!(passed, "{text}");
    let (_, after) = text.split_once("trace ").expect("the trace is printed");
    let before = text.split_once(" events").expect("the events are counted").0;
    format!("{before} {}", after.split(',').next().unwrap_or_default())
}

/// Sim2: not the same verdict, the same events. Wherever things lie in memory, which another build decides as well.
#[test]
fn the_same_seed_has_the_same_trace() {
    // Of each kind of log.
    for (seed, displace) in [("1", "0"), ("2", "1"), ("4", "50"), ("8", "3"), ("16", "7")] {
        assert_eq!(trace(seed, "0"), trace(seed, displace), "seed {seed}");
    }
    assert_ne!(trace("1", "0"), trace("2", "0"));
}
