//! What decides: the choice of faults, and what is made of acknowledgements.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::fault::{Blow, Choice, Cycle, Fault, KINDS, Way};
use crate::history::{Ack, Ledger, ledger, pause, percentile};
use crate::network::Host;

fn choice(brokers: u32, only: &[&str]) -> Choice {
    let only = only.iter().map(|name| (*name).to_owned()).collect();
    Choice { brokers, hold_max: Duration::from_secs(10), only }
}

fn cycles(choice: &Choice, seed: u64, count: usize) -> Vec<Cycle> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..count).map(|_| choice.next(&mut random).unwrap()).collect()
}

#[test]
fn a_seed_says_what_strikes() {
    let choice = choice(3, &[]);
    assert_eq!(cycles(&choice, 7, 100), cycles(&choice, 7, 100));
    assert_ne!(cycles(&choice, 7, 100), cycles(&choice, 8, 100));
}

#[test]
fn every_kind_of_fault_strikes_every_broker() {
    let all = cycles(&choice(3, &[]), 1, 2000);
    let kinds: BTreeSet<_> = all.iter().flat_map(|cycle| &cycle.faults).map(Fault::kind).collect();
    assert_eq!(kinds, BTreeSet::from(KINDS));
    let killed = all.iter().flat_map(|cycle| &cycle.faults).filter(|fault| fault.kind() == "kill");
    assert_eq!(killed.filter_map(Fault::victim).collect::<BTreeSet<_>>(), BTreeSet::from([1, 2, 3]));
    assert!(all.iter().all(|cycle| cycle.hold <= Duration::from_secs(10)));
    // Nobody is struck twice at once: a process that was killed cannot be stopped.
    for cycle in &all {
        let struck = cycle.faults.iter().filter(|fault| matches!(fault, Fault::Process { .. }));
        let victims: Vec<_> = struck.map(Fault::victim).collect();
        assert!(victims.len() < 2 || victims[0] != victims[1], "{cycle}");
    }
}

#[test]
fn only_what_was_asked_for_strikes() {
    let kinds: BTreeSet<_> = cycles(&choice(3, &["kill", "stop"]), 1, 200)
        .iter()
        .flat_map(|cycle| cycle.faults.iter().map(Fault::kind).collect::<Vec<_>>())
        .collect();
    assert_eq!(kinds, BTreeSet::from(["kill", "stop"]));
    assert!(choice(3, &["thunder"]).next(&mut StdRng::seed_from_u64(1)).is_none());
    // A single broker has nobody to be cut from but the store.
    let alone = cycles(&choice(1, &[]), 1, 500);
    assert!(alone.iter().flat_map(|cycle| &cycle.faults).all(|fault| !fault.kind().contains("brokers")));
}

#[test]
fn cuts_have_directions() {
    let [one, two, three] = [1, 2, 3].map(Host::Broker);
    let cut = |way| Fault::Cut { brokers: (1, 2), way }.cuts(3);
    assert_eq!(cut(Way::There), [(one, two)]);
    assert_eq!(cut(Way::Back), [(two, one)]);
    assert_eq!(cut(Way::Both), [(one, two), (two, one)]);
    let isolated = Fault::Isolate { broker: 2, way: Way::There }.cuts(3);
    assert_eq!(isolated, [(two, one), (two, three)]);
    let storeless = Fault::Storeless { broker: 3, way: Way::Back }.cuts(3);
    assert_eq!(storeless, [(Host::Store, three)]);
    assert_eq!(Fault::Alone { broker: 1 }.cuts(3).len(), 6);
    assert!(Fault::Process { blow: Blow::Kill, broker: 1 }.cuts(3).is_empty());
}

#[test]
fn the_longest_pause_is_found_wherever_it_began() {
    // Right away, as after a kill: counted from the fault, not from the acknowledgement before.
    assert_eq!(pause(&[90, 150, 160], 100, 200), Some(50));
    // Later, as when a lease has to run out first.
    assert_eq!(pause(&[90, 105, 110, 190, 195], 100, 200), Some(80));
    // It may end behind the end.
    assert_eq!(pause(&[90, 110, 500, 900], 100, 200), Some(390));
    // What begins behind the end belongs to the next fault.
    assert_eq!(pause(&[110, 190, 210, 900], 100, 200), Some(80));
    assert_eq!(pause(&[90], 100, 200), None);
}

#[test]
fn percentiles_are_of_the_values() {
    let mut values: Vec<u64> = (1..=100).rev().collect();
    assert_eq!(percentile(&mut values, 50), 51);
    assert_eq!(percentile(&mut values, 99), 100);
    assert_eq!(percentile(&mut values, 100), 100);
    assert_eq!(percentile(&mut [], 50), 0);
    assert_eq!(percentile(&mut [3], 99), 3);
}

#[test]
fn the_ledger_tells_lost_moved_and_doubled_apart() {
    let at = |offset, number| Ack { time: 1, partition: 0, offset, number };
    let ack = |offset, number| at(Some(offset), number);
    let read = |records: &[(i64, u64)]| -> BTreeMap<(i32, i64), u64> {
        records.iter().map(|(offset, number)| ((0, *offset), *number)).collect()
    };
    let acks = [ack(0, 10), ack(1, 11), ack(2, 12)];
    let counts = |ledger: Ledger| (ledger.lost, ledger.moved, ledger.doubled);
    let told = |records: &[(i64, u64)]| counts(ledger(acks.iter(), &read(records)));
    assert_eq!(told(&[(0, 10), (1, 11), (2, 12)]), (0, 0, 0));
    // One that was in doubt may stand there.
    assert_eq!(told(&[(0, 10), (1, 11), (2, 12), (3, 13)]), (0, 0, 0));
    assert_eq!(told(&[(0, 10), (1, 11)]), (1, 0, 0));
    assert_eq!(told(&[(0, 10), (1, 99), (2, 12)]), (1, 0, 0));
    assert_eq!(told(&[(0, 10), (2, 12), (5, 11)]), (0, 1, 0));
    assert_eq!(told(&[(0, 10), (1, 11), (2, 12), (3, 12)]), (0, 0, 1));
    // Acknowledged without a place: anywhere is right, nowhere is not.
    let somewhere = [at(None, 11)];
    assert_eq!(counts(ledger(somewhere.iter(), &read(&[(0, 10), (7, 11)]))), (0, 0, 0));
    assert_eq!(counts(ledger(somewhere.iter(), &read(&[(0, 10), (7, 12)]))), (1, 0, 0));
}
