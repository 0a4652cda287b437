//! Two brokers of one store: one is told to stop, and its clients go on with the other; then it comes back.

use crate::load::Load;
use crate::process::{Ottla, Storage, run, wait_for, wait_until};

#[test]
fn a_broker_that_is_told_to_stop_hands_over_what_it_leads_and_clients_go_on() {
    let [mut first, mut second] = Ottla::two(Ottla::new(Storage::BucketObject));
    let mut load = Load::start(&second, "handed");
    load.more(300);
    first.stop();
    assert!(first.log().contains("all partitions were handed over"), "{}", first.log());
    load.more(300);
    // It comes back, and gets its share without being told.
    first.start();
    wait_until("the broker that came back has no partitions", || {
        second.led_by("1").is_some_and(|led| led > 0)
    });
    load.more(300);
    run(&mut second.cli(&["cluster", "drain", "2"]));
    load.more(300);
    assert_eq!(second.led_by("2"), None, "it is being emptied");
    // There is nobody else: that it waits is said, and how to have it otherwise.
    let refused = second.cli(&["cluster", "drain", "1"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("`ottla cluster undrain 1`"), "{said}");
    run(&mut first.cli(&["cluster", "undrain", "1"]));
    run(&mut first.cli(&["cluster", "undrain", "2"]));
    let plan = run(&mut second.cli(&["cluster", "rebalance", "--observe", "100ms"]));
    wait_for(|| match (second.led_by("1"), second.led_by("2")) {
        (Some(2), Some(2)) => Ok(()),
        other => Err(format!("{other:?} after\n{plan}")),
    });
    let judge = load.finish();
    println!("{}, {}", judge.summary, judge.verify(&second).trim());
    first.stop();
    second.stop();
}
