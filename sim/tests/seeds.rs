//! Seeds, in processes of their own.

use std::process::Command;

fn run(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().expect("the program runs");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sim2: not the same verdict, the same events.
#[test]
fn the_same_seed_has_the_same_trace() {
    let trace = |seed: &str| {
        let (passed, text) = run(&["--seed", seed]);
        assert!(passed, "{text}");
        let (_, after) = text.split_once("trace ").expect("the trace is printed");
        let before = text.split_once(" events").expect("the events are counted").0;
        format!("{before} {}", after.split(',').next().unwrap_or_default())
    };
    // Of each kind of log.
    for seed in ["1", "2", "4", "8"] {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
    assert_ne!(trace("1"), trace("2"));
}
