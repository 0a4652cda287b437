//! Two brokers of one store: one is told to stop, and its clients go on with the other; then it comes back.

use crate::load::Load;
use crate::process::{Ottla, Storage, run, wait_for, wait_until};

#[test]
fn a_broker_that_is_told_to_stop_hands_over_what_it_leads_and_clients_go_on() {
    let mut first = Ottla::new(Storage::BucketObject).with(&["--node-id", "1"]);
    let mut second = first.successor().with(&["--node-id", "2"]);
    first.start();
    second.start();
    let mut load = Load::start(&second, "handed");
    load.more(300);
    first.stop();
    assert!(first.log().contains("all partitions were handed over"), "{}", first.log());
    load.more(300);
    // It comes back, and gets its share without being told.
    first.start();
    let status = || run(&mut second.cli(&["cluster", "status"]));
    let leads = |broker: &str| {
        let status = status();
        let row: Vec<&str> = status
            .lines()
            .map(|line| line.split_whitespace().collect())
            .find(|row: &Vec<&str>| row.first() == Some(&broker) && row.contains(&"serving"))?;
        row.iter().rev().nth(1)?.parse::<u64>().ok()
    };
    wait_until("the broker that came back has no partitions", || leads("1").is_some_and(|leads| leads > 0));
    load.more(300);
    run(&mut second.cli(&["cluster", "drain", "2"]));
    load.more(300);
    assert_eq!(leads("2"), None, "it is being emptied");
    run(&mut first.cli(&["cluster", "undrain", "2"]));
    let plan = run(&mut second.cli(&["cluster", "rebalance", "--observe", "100ms"]));
    wait_for(|| match (leads("1"), leads("2")) {
        (Some(2), Some(2)) => Ok(()),
        other => Err(format!("{other:?} after\n{plan}")),
    });
    let judge = load.finish();
    println!("{}, {}", judge.summary, judge.verify(&second).trim());
    first.stop();
    second.stop();
}
