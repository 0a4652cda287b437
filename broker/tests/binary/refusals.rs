//! What a broker refuses at start, and how a successor takes over: never two owners of one store or volume.

use std::process::{Command, Stdio};

use faults::Port;

use crate::process::{DEADLINE, Ottla, Storage, exit_within, run};
use crate::s3::{CarelessS3Server, S3Server};

/// Starts the command, expects it to leave by itself with exit code 1, and returns what it said.
pub fn refusal(mut command: Command) -> String {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(exit_within(&mut child, DEADLINE).is_some(), "it was to be refused and it runs");
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

fn produce(broker: &Ottla, value: &str) {
    run(&mut broker.cli(&["produce", "refusals", value]));
}

fn consume(broker: &Ottla) -> Vec<String> {
    run(&mut broker.cli(&["consume", "refusals", "--from-beginning"])).lines().map(str::to_owned).collect()
}

/// Before anything is written, so that a predecessor is not fenced for it.
#[test]
fn batches_that_the_log_does_not_take_are_not_promised() {
    let broker = Ottla::new(Storage::DirectoryBlock);
    let mut command = broker.command();
    command.args(["--kafka", "message.max.bytes=9000000"]);
    let said = refusal(command);
    assert!(said.contains("message.max.bytes") && said.contains("block-wal-frame"), "{said}");
}

#[test]
fn a_second_process_on_a_directory_is_refused() {
    let mut broker = Ottla::new(Storage::DirectoryBlock);
    broker.start();
    let said = refusal(broker.successor().command());
    assert!(said.contains("in use by another process"), "{said}");
    assert!(said.contains(&broker.process_id().to_string()), "it names the holder: {said}");
    produce(&broker, "unharmed");
    assert_eq!(consume(&broker), ["unharmed"]);
}

#[test]
fn a_second_process_on_a_volume_is_refused() {
    let mut broker = Ottla::new(Storage::DirectoryBlock);
    broker.start();
    let other_store = tempfile::tempdir().unwrap();
    let mut command = broker.successor().command();
    command.args(["--store", other_store.path().to_str().unwrap()]);
    let said = refusal(command);
    assert!(said.contains("in use"), "{said}");
    produce(&broker, "unharmed");
    assert_eq!(consume(&broker), ["unharmed"]);
}

#[test]
fn a_volume_of_another_cluster_is_refused_and_unharmed() {
    let mut broker = Ottla::new(Storage::DirectoryBlock);
    broker.start();
    produce(&broker, "still only in the log");
    broker.kill();
    let other_store = tempfile::tempdir().unwrap();
    let mut command = broker.successor().command();
    command.args(["--store", other_store.path().to_str().unwrap()]);
    let said = refusal(command);
    assert!(said.contains("belongs to the cluster"), "{said}");
    broker.start();
    assert_eq!(consume(&broker), ["still only in the log"]);
}

#[test]
fn a_second_process_on_a_bucket_is_refused_while_the_first_lives() {
    let mut broker = Ottla::new(Storage::BucketObject);
    broker.start();
    let said = refusal(broker.successor().command());
    assert!(said.contains("is alive"), "{said}");
    produce(&broker, "unharmed");
    assert_eq!(consume(&broker), ["unharmed"]);
}

/// As two hosts behind one name: each listens on an address of its own, both tell clients the same one.
#[test]
fn a_second_process_that_advertises_the_same_address_is_refused_while_the_first_lives() {
    let mut broker = Ottla::new(Storage::BucketObject);
    broker.start();
    let mut other = broker.successor().command();
    let listen = format!("127.0.0.2:{}", broker.port);
    other.args(["--listen", &listen, "--advertise", &broker.bootstrap()]);
    let said = refusal(other);
    assert!(said.contains("is alive"), "{said}");
    produce(&broker, "unharmed");
    assert_eq!(consume(&broker), ["unharmed"]);
}

/// From another machine nobody can tell whether a loopback address is still served, so only the operator can say.
#[test]
fn a_loopback_address_of_another_machine_is_taken_over_only_if_told() {
    let mut broker = Ottla::new(Storage::BucketObject);
    broker.start();
    produce(&broker, "before");
    broker.kill();
    let mut successor = broker.successor();
    let said = refusal(elsewhere(&successor, &[]));
    assert!(said.contains("from another machine"), "{said}");
    successor.begin_as(elsewhere(&successor, &["--takeover"]));
    successor.wait_until_ready();
    assert_eq!(consume(&successor), ["before"]);
}

/// What an earlier life left in a volume that is not here is not passed over, and the way out is named.
#[test]
fn a_broker_whose_last_volume_is_missing_says_what_to_do() {
    let mut broker = Ottla::new(Storage::BucketBlock);
    broker.start();
    produce(&broker, "only in the first one");
    broker.kill();
    let (volume, away) = (broker.directory.path().join("wal"), broker.directory.path().join("away"));
    std::fs::rename(&volume, &away).unwrap();
    let said = refusal(broker.fellow().with_variable("OTTLA_NODE_ID", "1").command());
    for hint in ["is not here", "has to be recovered first", "--wal-attach", "--wal-detached", "--node-id"] {
        assert!(said.contains(hint), "{hint}: {said}");
    }
    // Blank, under the right name.
    let said = refusal(broker.command());
    assert!(said.contains("is blank"), "{said}");
    std::fs::rename(&away, &volume).unwrap();
    broker.start();
    assert_eq!(consume(&broker), ["only in the first one"]);
}

/// The broker's command on what the broker takes for another machine, with another kernel.
fn elsewhere(broker: &Ottla, arguments: &[&str]) -> Command {
    let file = |name: &str, id: &str| std::fs::write(broker.directory.path().join(name), id).unwrap();
    file("machine-id", "0123456789abcdef0123456789abcdef");
    file("boot-id", "01234567-89ab-cdef-0123-456789abcdef");
    // Containers often have no machine id; the host's name stands in for it then.
    let pretend = "hostname elsewhere; [ ! -e /etc/machine-id ] || mount --bind machine-id /etc/machine-id; \
                   mount --bind boot-id /proc/sys/kernel/random/boot_id; exec \"$@\"";
    let real = broker.command();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--uts", "sh", "-c", pretend, "sh"])
        .arg(real.get_program())
        .args(real.get_args());
    command.args(arguments).current_dir(real.get_current_dir().expect("it has one of its own"));
    command.envs(real.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

#[test]
fn a_second_process_takes_over_from_a_dead_one() {
    let mut broker = Ottla::new(Storage::BucketObject);
    broker.start();
    produce(&broker, "before");
    broker.kill();
    let mut successor = broker.successor();
    successor.start();
    assert_eq!(consume(&successor), ["before"]);
}

/// A broker that hangs long enough to be replaced must acknowledge nothing once it wakes up, and must leave.
#[test]
fn a_broker_that_was_replaced_while_it_hung_acknowledges_nothing() {
    let mut hung = Ottla::new(Storage::BucketObject);
    hung.start();
    produce(&hung, "before");
    hung.signal("STOP");
    let mut successor = hung.successor();
    successor.start();
    produce(&successor, "after");
    hung.signal("CONT");
    // It may refuse the connection (gone already) or answer with an error; it must not say that all is well. There is time for one
    // attempt: another one might ask for the leader again, and find the successor.
    let late = hung.cli(&["produce", "refusals", "never acknowledged", "--timeout", "2s"]).output().unwrap();
    assert!(
        !late.status.success(),
        "a replaced broker acknowledged: {}",
        String::from_utf8_lossy(&late.stdout)
    );
    let said = hung.wait_for_failure();
    assert!(said.contains("fenced"), "{said}");
    assert_eq!(consume(&successor), ["before", "after"]);
}

#[test]
fn a_store_whose_conditional_creates_do_not_hold_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let server = CarelessS3Server::start(directory.path());
    let careless = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
        command
            .args(arguments)
            .args(["--store", &format!("s3://{}/cluster", CarelessS3Server::BUCKET)])
            .args(["--s3-allow-http", "--s3-endpoint", &server.endpoint()])
            .env("AWS_ACCESS_KEY_ID", CarelessS3Server::KEY)
            .env("AWS_SECRET_ACCESS_KEY", CarelessS3Server::KEY);
        refusal(command)
    };
    let said = careless(&["store", "check"]);
    assert!(said.contains("conditional"), "{said}");
    let said = careless(&["serve", "--listen", &format!("127.0.0.1:{}", Port::reserve())]);
    assert!(said.contains("conditional"), "{said}");
}

#[test]
fn a_store_that_keeps_its_promise_passes_the_check() {
    let server = S3Server::shared();
    let said = run(Command::new(env!("CARGO_BIN_EXE_ottla"))
        .args(["store", "check", "--store", &server.new_store()])
        .args(server.arguments())
        .envs(server.environment()));
    assert!(said.contains("ok"), "{said}");
}

#[test]
fn a_bucket_that_does_not_exist_is_refused_at_once() {
    let server = S3Server::shared();
    let said = refusal({
        let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
        command
            .args(["serve", "--listen", &format!("127.0.0.1:{}", Port::reserve())])
            .args(["--store", "s3://no-such-bucket-here/cluster"])
            .args(server.arguments())
            .envs(server.environment());
        command
    });
    assert_eq!(said.matches("NoSuchBucket").count(), 1, "{said}");
    assert!(said.contains("`ottla store create` creates it"), "{said}");
}
