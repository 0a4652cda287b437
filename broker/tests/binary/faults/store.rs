//! A store that misbehaves: between the broker and a real S3 server stands a proxy that refuses, delays, loses, doubles and
//! damages what passes. An idempotent producer writes all the while; the broker is killed and started in the middle of
//! it; at the end every acknowledged record is there once, in order, at its offset.
//!
//! | variable | what | default |
//! |---|---|---|
//! | `OTTLA_FAULT_RECORDS` | acknowledged records in each phase | 500 |
//! | `OTTLA_FAULT_STRIKES` | requests that go wrong before the kill, and as many behind it | 6, stalls 2 |
//! | `OTTLA_FAULT_STALL_MS` | how long a stalled request takes; time-outs are 2 s | 3000 |
//! | `OTTLA_FAULT_SEED` | which requests go wrong | 1 |
//! | `OTTLA_OUTAGE_S` | how long the store is away, at least; everything that has a limit in time reaches it in 12 | 12 |

use std::time::{Duration, Instant};

use faults::{Fault, Operation, Proxy, Rule};

use crate::ledger::Ledger;
use crate::load::Load;
use crate::process::{Ottla, Storage, run, wait_until};
use crate::s3::S3Server;
use crate::wire::Wire;

const EVERY_KIND: [Operation; 4] = [Operation::Put, Operation::Get, Operation::List, Operation::Delete];

/// Small uploads, so that faults meet them all the time, and time-outs that a stall exceeds.
const QUICK: [&str; 26] = [
    "--upload-bytes",
    "1MiB",
    "--upload-interval",
    "1s",
    "--log-cache",
    "16MiB",
    "--block-cache",
    "8MiB",
    "--lease",
    "6s",
    "--metadata-poll",
    "500ms",
    "--store-metadata-timeout",
    "2s",
    "--store-data-timeout",
    "2s",
    "--metadata-request-timeout",
    "2s",
    "--object-wal-request-timeout",
    "2s",
    "--upload-put-timeout",
    "4s",
    "--read-timeout",
    "4s",
    "--store-data-retries",
    "1",
];

pub fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(number) => number.parse().unwrap_or_else(|_| panic!("{variable} is a number")),
        Err(_) => default,
    }
}

/// A broker, not started yet, and the proxy between it and its store.
pub fn behind_a_proxy(storage: Storage) -> (Ottla, Proxy) {
    behind_a_proxy_to(S3Server::shared, storage)
}

/// The same, with its store on `server`.
pub fn behind_a_proxy_to(server: fn() -> &'static S3Server, storage: Storage) -> (Ottla, Proxy) {
    let proxy = Proxy::before(&server().endpoint(), 1, number("OTTLA_FAULT_SEED", 1));
    let broker = Ottla::on(storage, server).with(&["--s3-endpoint", &proxy.endpoint()]).with(&QUICK);
    (broker, proxy)
}

/// Writes while `faults` strike, through a kill and a start in the middle of them.
fn nothing_is_lost_or_doubled(storage: Storage, faults: &[Rule]) {
    let records = number("OTTLA_FAULT_RECORDS", 500);
    // Those that take time hit fewer requests, or all would take minutes.
    let are_slow = faults.iter().all(|rule| matches!(rule.fault(), Fault::Delay(_) | Fault::Hang));
    let strikes = number("OTTLA_FAULT_STRIKES", if are_slow { 2 } else { 6 }) as usize;
    let (mut broker, proxy) = behind_a_proxy(storage);
    broker.start();
    let mut load = Load::start(&broker, "faults");
    load.more(records);
    for rule in faults {
        proxy.add(rule.clone());
    }
    for again in [true, false] {
        let before = proxy.struck();
        while proxy.struck() < before + strikes {
            load.more(100);
        }
        load.more(records);
        if again {
            broker.kill();
            // PUTs of the dead process arrive while the next one recovers.
            proxy.land_late();
            broker.start();
        }
    }
    proxy.heal();
    proxy.land_late();
    load.more(records);
    let judge = load.finish();
    let verified = judge.verify(&broker);
    broker.kill();
    broker.start();
    assert_eq!(judge.verify(&broker), verified);
    println!(
        "{storage:?}: {} of {} requests struck, writer {}, {}",
        proxy.struck(),
        proxy.log().len(),
        judge.summary,
        verified.trim()
    );
    broker.stop();
}

fn on_every_kind(fault: Fault, probability: f64) -> Vec<Rule> {
    EVERY_KIND.map(|kind| Rule::new(kind, fault).with_probability(probability)).to_vec()
}

fn storms() -> Vec<Rule> {
    [on_every_kind(Fault::Refuse, 0.1), on_every_kind(Fault::Fail, 0.1)].concat()
}

#[test]
fn storms_of_503_and_500_on_an_object_wal() {
    nothing_is_lost_or_doubled(Storage::BucketObject, &storms());
}

#[test]
fn storms_of_503_and_500_on_a_block_wal() {
    nothing_is_lost_or_doubled(Storage::BucketBlock, &storms());
}

fn stalls() -> Vec<Rule> {
    let stall = Duration::from_millis(number("OTTLA_FAULT_STALL_MS", 3_000));
    let hang = on_every_kind(Fault::Hang, 0.01);
    [on_every_kind(Fault::Delay(stall), 0.04), hang].concat()
}

#[test]
fn stalls_longer_than_every_timeout_on_an_object_wal() {
    nothing_is_lost_or_doubled(Storage::BucketObject, &stalls());
}

#[test]
fn stalls_longer_than_every_timeout_on_a_block_wal() {
    nothing_is_lost_or_doubled(Storage::BucketBlock, &stalls());
}

fn lost_replies() -> Vec<Rule> {
    let put = |fault, probability| Rule::new(Operation::Put, fault).with_probability(probability);
    vec![
        put(Fault::LoseReply, 0.15),
        put(Fault::HiddenRetry, 0.15),
        put(Fault::Conflict, 0.1),
        put(Fault::Cut, 0.1),
        Rule::new(Operation::Get, Fault::LoseReply).with_probability(0.1),
    ]
}

#[test]
fn lost_replies_on_an_object_wal() {
    nothing_is_lost_or_doubled(Storage::BucketObject, &lost_replies());
}

#[test]
fn lost_replies_on_a_block_wal() {
    nothing_is_lost_or_doubled(Storage::BucketBlock, &lost_replies());
}

fn late_and_doubled() -> Vec<Rule> {
    let put = |fault, probability| Rule::new(Operation::Put, fault).with_probability(probability);
    vec![put(Fault::Late, 0.2), put(Fault::Duplicate, 0.2)]
}

#[test]
fn late_and_doubled_puts_on_an_object_wal() {
    nothing_is_lost_or_doubled(Storage::BucketObject, &late_and_doubled());
}

#[test]
fn late_and_doubled_puts_on_a_block_wal() {
    nothing_is_lost_or_doubled(Storage::BucketBlock, &late_and_doubled());
}

fn broken_bodies() -> Vec<Rule> {
    let get = |fault, probability| Rule::new(Operation::Get, fault).with_probability(probability);
    vec![get(Fault::CutBody(100), 0.1), get(Fault::Truncate(50), 0.05), get(Fault::FlipBit(777), 0.03)]
}

/// Everything is read back through them as well: by recovery, and by a consumer of a broker whose caches are empty.
fn broken_bodies_are_fetched_again(storage: Storage) {
    let (mut broker, proxy) = behind_a_proxy(storage);
    broker.start();
    let mut load = Load::start(&broker, "faults");
    load.more(number("OTTLA_FAULT_RECORDS", 500) * 4);
    for rule in broken_bodies() {
        proxy.add(rule);
    }
    for _ in 0..2 {
        broker.kill();
        broker.start();
        load.more(100);
    }
    let judge = load.finish();
    broker.stop();
    broker.start();
    let verified = judge.verify(&broker);
    println!("{storage:?}: {} of {} requests struck, {verified}", proxy.struck(), proxy.log().len());
    assert!(proxy.struck() > 0, "no body was damaged");
}

#[test]
fn broken_bodies_are_fetched_again_for_an_object_wal() {
    broken_bodies_are_fetched_again(Storage::BucketObject);
}

#[test]
fn broken_bodies_are_fetched_again_for_a_block_wal() {
    broken_bodies_are_fetched_again(Storage::BucketBlock);
}

/// The mixture of reliability goal G7.
fn a_bad_day() -> Vec<Rule> {
    let stall = Duration::from_millis(number("OTTLA_FAULT_STALL_MS", 3_000));
    let put = |fault| Rule::new(Operation::Put, fault).with_probability(0.01);
    [
        on_every_kind(Fault::Refuse, 0.1),
        on_every_kind(Fault::Delay(stall), 0.01),
        vec![put(Fault::LoseReply), put(Fault::Late), put(Fault::Duplicate), put(Fault::HiddenRetry)],
    ]
    .concat()
}

#[test]
fn a_bad_day_on_an_object_wal() {
    nothing_is_lost_or_doubled(Storage::BucketObject, &a_bad_day());
}

#[test]
fn a_bad_day_on_a_block_wal() {
    nothing_is_lost_or_doubled(Storage::BucketBlock, &a_bad_day());
}

/// Requests for the write-ahead log and for data; those for the metadata come with the clock.
fn data_requests(proxy: &Proxy) -> usize {
    proxy.log().iter().filter(|seen| !seen.key.as_ref().starts_with("meta/")).count()
}

/// G7: one request in ten fails, and what is sent is not twice as much.
#[test]
fn retries_stay_within_twice_the_requests() {
    let requests_for = |faults: &[Rule]| {
        let (mut broker, proxy) = behind_a_proxy(Storage::BucketObject);
        broker = broker.with(&["--upload-bytes", "8MiB", "--upload-interval", "1h"]);
        broker.start();
        let mut ledger = Ledger::open(&broker, "budget");
        for rule in faults {
            proxy.add(rule.clone());
        }
        let before = data_requests(&proxy);
        // One after the other, so that each is a PUT of its own.
        for _ in 0..40 {
            ledger.produce_until_acknowledged();
        }
        let requests = data_requests(&proxy) - before;
        proxy.heal();
        ledger.verify(&broker);
        (requests, proxy.struck())
    };
    let (healthy, _) = requests_for(&[]);
    assert!(healthy >= 40, "each record is a PUT: {healthy}");
    let (faulty, struck) = requests_for(&on_every_kind(Fault::Refuse, 0.1));
    assert!(struck > 0);
    assert!(faulty <= 2 * healthy, "{faulty} requests with one failure in ten, {healthy} without");
    println!("{healthy} requests without faults, {faulty} with {struck} that failed");
}

/// Every limit in time is shorter than the outage, as an hour is longer than each of the defaults: the lease, the age of a
/// view of the metadata, every time-out, the memory for what was not uploaded.
fn an_outage_that_outlasts_every_limit(storage: Storage) {
    let (broker, proxy) = behind_a_proxy(storage);
    let mut broker = broker.with(&[
        "--log-cache",
        "8MiB",
        "--lease",
        "3s",
        "--metadata-view-age",
        "10s",
        "--metadata-retention",
        "1m",
        "--metadata-operation-timeout",
        "4s",
    ]);
    broker.start();
    let mut ledger = Ledger::open(&broker, "ledger");
    ledger.produce_until_acknowledged();
    run(&mut broker.cli(&["produce", "kept", "before"]));
    // A group with an offset, which must be there afterwards.
    let consumed = run(&mut broker.cli(&["consume", "kept", "--group", "readers", "--count", "1"]));
    assert_eq!(consumed, "before\n");
    let outage = Duration::from_secs(number("OTTLA_OUTAGE_S", 12));
    let began = Instant::now();
    let mut faults = [Fault::Refuse, Fault::Cut, Fault::Hang].into_iter().cycle();
    while began.elapsed() < outage {
        proxy.heal();
        proxy.set_outage(faults.next().expect("they go round"));
        ledger.produce_until_refused();
        // What was acknowledged and is in memory can be read all the while.
        let mut wire = Wire::connect(&broker);
        let fetched = wire.fetch("ledger", ledger.acknowledged.last().expect("one at least").0).unwrap();
        assert!(matches!(fetched.error_code, 0 | 6 | 56), "{}", fetched.error_code);
        assert!(broker.is_running(), "{}", broker.log());
        std::thread::sleep(Duration::from_millis(500));
    }
    let resident = broker.resident_bytes_max();
    assert!(resident < 512 << 20, "{} MiB were resident", resident >> 20);
    proxy.heal();
    ledger.produce_until_acknowledged();
    ledger.verify(&broker);
    run(&mut broker.cli(&["produce", "kept", "after"]));
    let consumed = run(&mut broker.cli(&["consume", "kept", "--group", "readers", "--count", "1"]));
    assert_eq!(consumed, "after\n", "the group goes on where it was");
    broker.kill();
    broker.start();
    ledger.verify(&broker);
    broker.stop();
}

#[test]
fn an_outage_that_outlasts_every_limit_on_an_object_wal() {
    an_outage_that_outlasts_every_limit(Storage::BucketObject);
}

#[test]
fn an_outage_that_outlasts_every_limit_on_a_block_wal() {
    an_outage_that_outlasts_every_limit(Storage::BucketBlock);
}

/// F30, with answers: a store that refuses everything is waited for.
#[test]
fn a_start_waits_for_a_store_that_answers_with_errors() {
    let (mut broker, proxy) = behind_a_proxy(Storage::BucketObject);
    for fault in [Fault::Refuse, Fault::Fail, Fault::Cut, Fault::Expire] {
        proxy.set_outage(fault);
        let before = proxy.struck();
        broker.begin();
        wait_until(&format!("{fault:?}: it does not try again"), || {
            assert!(broker.is_running(), "{fault:?}: {}", broker.log());
            proxy.struck() >= before + 2
        });
        assert!(broker.output().is_empty(), "{fault:?}: it is not ready: {}", broker.output());
        proxy.heal();
        broker.wait_until_ready();
        broker.kill();
    }
    broker.start();
    run(&mut broker.cli(&["produce", "t", "v"]));
    assert_eq!(run(&mut broker.cli(&["consume", "t"])), "v\n");
}

/// F27: a listing may be old, or lack anything at all. It decides nothing. (A store whose listings lack what was just
/// written is refused where it is formatted; later is another matter.)
#[test]
fn a_listing_that_shows_nothing_hides_nothing() {
    let (broker, proxy) = behind_a_proxy(Storage::BucketObject);
    let mut broker = broker.with(&["--metadata-snapshot-entries", "4"]);
    let mut lines = String::new();
    for life in 0..3 {
        proxy.heal();
        if life > 0 {
            for prefix in ["meta/log", "meta/snapshot", "data", "wal"] {
                proxy.add(Rule::new(Operation::List, Fault::Hide).under(prefix));
            }
        }
        broker.start();
        run(&mut broker.cli(&["produce", "t", &format!("life {life}")]));
        lines += &format!("life {life}\n");
        assert_eq!(run(&mut broker.cli(&["consume", "t"])), lines);
        broker.kill();
    }
    assert!(proxy.struck() > 0, "nothing was listed");
    proxy.heal();
    broker.start();
    assert_eq!(run(&mut broker.cli(&["consume", "t"])), lines);
    broker.stop();
}
