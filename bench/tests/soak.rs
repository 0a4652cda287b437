//! The soak, short: a minute of mixed load on each kind of storage.

use std::path::Path;
use std::process::Command;

fn soak(storage: &str) {
    let bench = Path::new(env!("CARGO_BIN_EXE_bench"));
    let ottla = bench.with_file_name("ottla");
    assert!(ottla.exists(), "{} is not there; `cargo build --package ottla` makes it", ottla.display());
    let moto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.test/venv/bin/moto_server");
    let mut command = Command::new(bench);
    command.args(["soak", "--minutes", "1", "--topics", "2", "--partitions", "3", "--keep-records", "1000"]);
    command.args(["--batches-per-second", "4", "--storage", storage]);
    command.arg("--ottla").arg(ottla).arg("--moto").arg(moto);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{}{said}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_minute_on_a_directory_loses_nothing_and_grows_nothing() {
    soak("directory");
}

#[test]
fn a_minute_on_a_bucket_loses_nothing_and_grows_nothing() {
    soak("bucket");
}
