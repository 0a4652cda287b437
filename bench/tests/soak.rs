//! The soak, short: a minute of mixed load on each kind of storage.

use std::path::Path;
use std::process::Command;

fn soak(storage: &str) {
    let bench = Path::new(env!("CARGO_BIN_EXE_bench"));
    let ottla = bench.with_file_name("ottla");
    assert!(ottla.exists(), "{} is not there; `cargo build --package ottla` makes it", ottla.display());
    let mut command = Command::new(bench);
    command.args(["soak", "--minutes", "1", "--topics", "2", "--partitions", "3", "--keep-records", "1000"]);
    command.args(["--batches-per-second", "4", "--storage", storage]);
    command.arg("--ottla").arg(ottla).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    // The S3 server that the tests were told to take (`./test --s3-endpoint`).
    for (option, variable) in
        [("--s3-endpoint", "OTTLA_TEST_S3_ENDPOINT"), ("--s3-bucket", "OTTLA_TEST_S3_BUCKET")]
    {
        if let Ok(value) = std::env::var(variable) {
            command.args([option, &value]);
        }
    }
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
