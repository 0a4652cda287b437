//! Three brokers of one store: one dies, one hangs and wakes up, under the load of an idempotent producer.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use faults::{Fault, Operation, Rule};

use crate::faults::store::behind_a_proxy;
use crate::load::Load;
use crate::process::{Ottla, Storage, installed, run, source, wait_for, wait_until};

/// Long enough that a slow machine does not end it, short enough to be waited out.
const LEASE: &str = "4s";

/// Three brokers, each with a log of its own, that are reached at different ports.
fn three(storage: Storage) -> [Ottla; 3] {
    let mut first = Ottla::new(storage).with_variable("OTTLA_LEASE", LEASE);
    let (mut second, mut third) = (first.fellow(), first.fellow());
    // The first formats the store.
    first.start();
    second.begin();
    third.begin();
    second.wait_until_ready();
    third.wait_until_ready();
    [first, second, third]
}

/// Everything that was acknowledged is there once, whatever happened: a broker is killed and comes back, another one hangs
/// for longer than its lease, is replaced, and comes back by itself.
fn survives(storage: Storage) {
    let mut brokers = three(storage);
    let mut load = Load::start(&brokers[2], "cluster");
    load.more(500);
    brokers[1].kill();
    brokers[2].wait_until_either_logged(&brokers[0], "its partitions are placed");
    load.more(500);
    brokers[1].start();

    brokers[0].signal("STOP");
    brokers[2].wait_until_either_logged(&brokers[1], "fencing: it is silent");
    load.more(500);
    brokers[0].signal("CONT");
    brokers[0].wait_until_logged("starting again as a new incarnation");
    brokers[0].wait_until_ready_again();
    load.more(500);
    let judge = load.finish();
    let verified = judge.verify(&brokers[0]);
    println!("{storage:?}: writer {}, {}", judge.summary, verified.trim());
}

#[test]
fn what_was_acknowledged_outlives_brokers_with_object_wals() {
    survives(Storage::BucketObject);
}

#[test]
fn what_was_acknowledged_outlives_brokers_with_block_wals() {
    survives(Storage::BucketBlock);
}

/// A group's members notice nothing of a broker that dies, whether it was their coordinator or not.
#[test]
fn groups_go_on_without_a_rebalance_when_a_broker_dies() {
    let [mut first, mut second] =
        Ottla::two(Ottla::new(Storage::BucketObject).with_variable("OTTLA_LEASE", LEASE));
    let mut members = Command::new(installed("venv/bin/python"))
        .arg(source("clients/python/confluent_failover.py"))
        .args([&first.bootstrap(), "unmoved", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(members.stdout.take().unwrap()).lines();
    assert_eq!(said.next().expect("the members are still there").unwrap(), "ready");
    second.kill();
    first.wait_until_logged("its partitions are placed");
    drop(members.stdin.take());
    let summary = said.map_while(Result::ok).last();
    assert!(members.wait().unwrap().success(), "the members were content: {summary:?}");
    println!("{}", summary.unwrap());
    first.stop();
}

/// `consume --group` goes on beside a coordinator that hangs, and commits with the next one.
#[test]
fn a_member_leaves_a_coordinator_that_hangs_for_the_next() {
    let brokers = Ottla::two(Ottla::new(Storage::BucketObject).with_variable("OTTLA_LEASE", LEASE));
    run(&mut brokers[0].cli(&["produce", "other", "a record"]));
    run(&mut brokers[0].cli(&["consume", "other", "--group", "g"]));
    let (hangs, lives, id) = match run(&mut brokers[0].cli(&["group", "list"])).split_whitespace().last() {
        Some("1") => (&brokers[0], &brokers[1], "2"),
        _ => (&brokers[1], &brokers[0], "1"),
    };
    // The first that the other one leads: only the group is to be affected.
    let led_by_it = |topic: &&str| {
        run(&mut hangs.cli(&["produce", topic, "first"]));
        let described = wait_for(|| {
            let output = lives.cli(&["topic", "describe", topic]).output().unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
        });
        described.lines().last().and_then(|row| row.split_whitespace().nth(1)) == Some(id)
    };
    let topic = ["a", "b", "c", "d"].into_iter().find(led_by_it).expect("each leads some");
    let both = format!("{},{}", hangs.bootstrap(), lives.bootstrap());
    let shown = lives.directory.path().join("shown");
    let mut member = lives
        .cli(&["consume", topic, "--group", "g", "--follow", "--from-beginning"])
        // Longer than this test waits for anything.
        .args(["--bootstrap", &both, "--timeout", "3m"])
        .stdout(std::fs::File::create(&shown).unwrap())
        .spawn()
        .unwrap();
    let comes = |record: &str| {
        wait_until(&format!("the {record} record did not come"), || {
            std::fs::read_to_string(&shown).unwrap().lines().any(|line| line == record)
        });
    };
    comes("first");
    hangs.signal("STOP");
    run(&mut lives.cli(&["produce", topic, "second"]));
    comes("second");
    wait_for(|| {
        let described = run(&mut lives.cli(&["group", "describe", "g"]));
        let mut rows = described.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let committed = rows.any(|row| row.starts_with(&[topic, "0", "2"]));
        if committed { Ok(()) } else { Err(described) }
    });
    member.kill().unwrap();
    member.wait().unwrap();
}

/// A second process under an id that is in use is refused, and disturbs nobody.
#[test]
fn a_taken_id_is_refused() {
    let mut first = Ottla::new(Storage::BucketObject).with(&["--node-id", "7"]);
    first.start();
    let mut second = first.fellow();
    second.begin();
    let log = second.wait_for_failure();
    assert!(log.contains("broker 7 of s3://") && log.contains("is alive at"), "{log}");
    first.stop();
}

/// J3: whoever is taken for dead before it serves begins anew as well, and does not leave.
#[test]
fn a_broker_that_is_taken_for_dead_during_its_start_begins_anew() {
    let mut first = Ottla::new(Storage::BucketObject).with_variable("OTTLA_LEASE", LEASE);
    first.start();
    let (_, proxy) = behind_a_proxy(Storage::BucketObject);
    // It can register, and nothing else.
    proxy.add(Rule::new(Operation::Put, Fault::Fail).under("meta/log").after(1));
    let mut second = first.fellow().with(&["--s3-endpoint", &proxy.endpoint()]);
    second.begin();
    first.wait_until_logged("fencing: it");
    proxy.heal();
    second.wait_until_logged("starting again as a new incarnation");
    second.wait_until_ready();
    first.stop();
    second.stop();
}

/// A volume that is gone for good: what its broker led waits until somebody says that it is to go on without.
#[test]
fn a_log_that_is_lost_is_given_up_on_request_and_not_before() {
    let [mut first, mut second] =
        Ottla::two(Ottla::new(Storage::BucketBlock).with_variable("OTTLA_LEASE", LEASE));
    run(&mut first.cli(&["topic", "create", "spread", "--partitions", "4"]));
    second.kill();
    let left = first.directory.path().join(format!("wal-{}", second.port));
    std::fs::remove_file(&left).unwrap();
    first.wait_until_logged("fencing: it");
    let forsake = |epoch: &str, more: &[&str]| {
        let arguments = [&["cluster", "forsake", "2", epoch], more].concat();
        let output = first.cli(&arguments).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (done, said) = forsake("1", &[]);
    assert!(!done && said.contains("--accept-loss"), "{said}");
    // Only the life that is named, and only its id and epoch name it.
    let epoch = wait_for(|| {
        let (done, said) = forsake("1", &["--accept-loss"]);
        assert!(!done, "epoch 1 is nobody's");
        let waiting = said.split("logs that are: broker 2 epoch ").nth(1).ok_or(said.clone())?;
        Ok(waiting.split(' ').next().unwrap().to_owned())
    });
    assert_eq!(first.led_by("1"), Some(2), "the others wait");
    let (done, said) = forsake(&epoch, &["--accept-loss"]);
    assert!(done, "{said}");
    assert_eq!(first.led_by("1"), Some(4));
    for partition in ["0", "1", "2", "3"] {
        run(&mut first.cli(&["produce", "spread", "--partition", partition, "a record"]));
    }
    first.stop();
}
