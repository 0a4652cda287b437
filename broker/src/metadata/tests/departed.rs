//! Who died a moment ago is listed, and nobody else.

use std::time::Duration;

use tokio::time::Instant;

use super::super::command::Command;
use super::super::departed::State;
use super::super::image::lease_and_margin;
use super::{Incarnation, Log, Registration};

const LISTED: Duration = Duration::from_secs(5);

/// As a broker sees it that looks after each entry.
struct Observer {
    log: Log,
    state: State,
    now: Instant,
}

impl Observer {
    fn of(log: Log) -> Observer {
        let mut observer = Observer { log, state: State::new(LISTED), now: Instant::now() };
        observer.look();
        observer
    }

    fn look(&mut self) {
        self.state.look(self.now, self.log.number, &self.log.image);
    }

    fn apply(&mut self, command: Command) {
        self.log.apply(command).unwrap();
        self.look();
    }

    fn listed(&self) -> Vec<u32> {
        self.state.listed(self.now, &self.log.image).into_iter().map(|(broker, _)| broker).collect()
    }
}

/// Z1, Z2.
#[test]
fn who_is_fenced_stays_listed_for_a_while() {
    let mut log = Log::formatted();
    let [one, two] = [1, 2].map(|broker| log.serving(broker));
    let mut observer = Observer::of(log);
    assert_eq!(observer.listed(), [0; 0]);
    observer.apply(Command::Fence { by: one, of: two });
    assert_eq!(observer.listed(), [2]);
    // Recovered and forgotten, with its partitions led by others: that is when it counts.
    observer.now += LISTED / 2;
    observer.log.recovered(one, two);
    observer.look();
    assert_eq!(observer.listed(), [2]);
    observer.now += LISTED / 2;
    assert_eq!(observer.listed(), [0; 0]);
}

/// W3 of `heirs`: for as long as it is said, and no longer than who died is listed.
#[test]
fn who_is_fenced_and_not_recovered_is_told_of_for_a_while() {
    let mut log = Log::formatted();
    let [one, two] = [1, 2].map(|broker| log.serving(broker));
    let mut observer = Observer::of(log);
    let told = |observer: &Observer, within| {
        let told = observer.state.unrecovered(observer.now, &observer.log.image, within);
        told.into_iter().map(|(life, until)| (life, until - observer.now)).collect::<Vec<_>>()
    };
    observer.apply(Command::Fence { by: one, of: two });
    assert_eq!(told(&observer, LISTED / 5), [(two, LISTED / 5)]);
    assert_eq!(told(&observer, LISTED * 2), [(two, LISTED)]);
    observer.now += LISTED / 5;
    assert_eq!(told(&observer, LISTED / 5), []);
    assert_eq!(told(&observer, LISTED), [(two, LISTED * 4 / 5)]);
    observer.log.recovered(one, two);
    observer.look();
    assert_eq!(told(&observer, LISTED), []);
}

impl Log {
    fn serving_on(&mut self, broker: u32, wal_uri: &str, machine: &str) -> Incarnation {
        let Command::RegisterBroker(registration) = self.registration(broker) else { unreachable!() };
        let (wal_uri, machine) = (wal_uri.into(), machine.into());
        self.apply(Command::RegisterBroker(Registration { wal_uri, machine, ..registration })).unwrap();
        let by = Incarnation { broker, epoch: self.number };
        self.apply(Command::OpenLeaderships { by }).unwrap();
        by
    }
}

/// W3 of `heirs`: the lease counts from the challenge, where that stood, and what is left of it is short.
#[test]
fn of_a_volume_whose_lease_is_nearly_over_it_is_foretold_until_a_while_behind_its_end() {
    let mut log = Log::formatted();
    let one = log.serving(1);
    let two = log.serving_on(2, "block:///dev/wal", "m/1");
    let mut observer = Observer::of(log);
    let (start, within) = (observer.now, Duration::from_secs(1));
    // The lease of these brokers.
    let over = start + lease_and_margin(observer.log.image.life(two).unwrap().lease);
    observer.apply(Command::Challenge { by: one, of: two });
    observer.now = over - within;
    let mut late = Observer { log: observer.log.clone(), state: State::new(LISTED), now: observer.now };
    late.look();
    observer.apply(Command::Fence { by: one, of: two });
    let foretold =
        |observer: &Observer| observer.state.unrecovered(observer.now, &observer.log.image, within);
    assert_eq!(foretold(&observer), [(two, over + within)]);
    observer.now = over + within;
    assert_eq!(foretold(&observer), []);
    // Who has seen the challenge only now expects it later than that.
    late.apply(Command::Fence { by: one, of: two });
    assert_eq!(foretold(&late), []);
}

/// W3 of `heirs`: a lease is waited out there.
#[test]
fn of_a_volume_that_no_broker_shares_a_kernel_with_nothing_is_foretold() {
    let on = |machine: &str, of: &str| {
        let mut log = Log::formatted();
        let one = log.serving(1);
        let two = log.serving_on(2, "block:///dev/wal", of);
        log.serving_on(3, "object:", machine);
        let mut observer = Observer::of(log);
        observer.apply(Command::Fence { by: one, of: two });
        observer.state.unrecovered(observer.now, &observer.log.image, LISTED).len()
    };
    assert_eq!(on("m/1", "m/1"), 1);
    assert_eq!(on("m/2", "m/1"), 0);
    assert_eq!(on("n/2", "m/1"), 0);
}

/// Z2: fence and recovery may be read at once.
#[test]
fn who_was_fenced_and_recovered_between_two_looks_is_listed() {
    let mut log = Log::formatted();
    let [one, two] = [1, 2].map(|broker| log.serving(broker));
    let mut observer = Observer::of(log);
    observer.log.apply(Command::Fence { by: one, of: two }).unwrap();
    observer.log.recovered(one, two);
    observer.look();
    assert_eq!(observer.listed(), [2]);
}

/// Z2: the image alone does not tell who left from who was recovered.
#[test]
fn who_left_in_order_between_two_looks_is_listed_as_if_it_had_died() {
    let mut log = Log::formatted();
    let [_, two] = [1, 2].map(|broker| log.serving(broker));
    let mut observer = Observer::of(log);
    observer.log.apply(Command::SetDraining { by: two, broker: 2, draining: true }).unwrap();
    observer.log.apply(Command::CloseBroker { by: two }).unwrap();
    observer.look();
    assert_eq!(observer.listed(), [2]);
    observer.now += LISTED;
    assert_eq!(observer.listed(), [0; 0]);
}

/// Z2.
#[test]
fn who_left_in_order_is_not_listed() {
    let mut log = Log::formatted();
    let [_, two] = [1, 2].map(|broker| log.serving(broker));
    let mut observer = Observer::of(log);
    observer.apply(Command::SetDraining { by: two, broker: 2, draining: true });
    observer.apply(Command::CloseBroker { by: two });
    assert_eq!(observer.log.image.serving_brokers().map(|(broker, _)| broker).collect::<Vec<_>>(), [1]);
    assert_eq!(observer.listed(), [0; 0]);
}

/// Z2: an end that is not waited for, in the middle of a drain.
#[test]
fn who_died_before_it_was_empty_is_listed() {
    let mut log = Log::formatted();
    let [one, two] = [1, 2].map(|broker| log.serving(broker));
    log.topic(one, "one-each", 2);
    let mut observer = Observer::of(log);
    observer.apply(Command::SetDraining { by: two, broker: 2, draining: true });
    observer.apply(Command::Fence { by: one, of: two });
    assert_eq!(observer.listed(), [2]);
}

/// Z2.
#[test]
fn a_next_life_is_listed_once() {
    let mut log = Log::formatted();
    log.serving(1);
    log.serving(2);
    let mut observer = Observer::of(log);
    let by = observer.log.register(2).incarnation;
    observer.look();
    assert_eq!(observer.listed(), [2], "it is on its way");
    observer.apply(Command::OpenLeaderships { by });
    assert_eq!(observer.listed(), [0; 0]);
}

/// An image that was read before the last one says nothing of who came since.
#[test]
fn an_older_image_is_not_looked_at() {
    let mut log = Log::formatted();
    log.serving(1);
    let before = log.clone();
    log.serving(2);
    let mut observer = Observer::of(log);
    observer.state.look(observer.now, before.number, &before.image);
    assert_eq!(observer.listed(), [0; 0]);
}
