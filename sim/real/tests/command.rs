//! The command as its user meets it. What it does is a step of `./test`, and needs the other programs.

use std::process::{Command, Output};

fn real(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_real")).args(arguments).output().unwrap()
}

fn refusal(arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = real(arguments);
    assert_eq!(status.code(), Some(2), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stderr).into_owned()
}

#[test]
fn what_cannot_be_run_is_refused() {
    assert!(refusal(&["--brokers", "0"]).contains("--brokers"));
    assert!(refusal(&["--partitions", "0"]).contains("--partitions"));
    assert!(refusal(&["--only", "thunder"]).contains("no fault is called thunder"));
    assert!(refusal(&["--ottla", "/nowhere/ottla"]).contains("/nowhere/ottla is missing"));
}

#[test]
fn its_user_is_told_that_it_needs_root() {
    if !rustix::process::geteuid().is_root() {
        assert!(refusal(&[]).contains("need root"));
        return;
    }
    // The same, as somebody else. The program may be where only root may look.
    let directory = std::env::temp_dir().join(format!("real-command-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let program = directory.join("real");
    std::fs::copy(env!("CARGO_BIN_EXE_real"), &program).unwrap();
    let Output { status, stderr, .. } = Command::new("setpriv")
        .args(["--reuid", "65534", "--clear-groups"])
        .arg(&program)
        .args(["--cycles", "1"])
        .current_dir("/")
        .output()
        .unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("need root"), "{stderr}");
}
