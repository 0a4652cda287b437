//! C2: whose turn it is to run the command that takes a volume from one broker to another.

use std::time::Duration;

use wal::{Incarnation, Position};

use super::{DEAD, History, SECOND};
use crate::cluster::Verdicts;
use crate::failover::Config;
use crate::failover::caretaker::{Action, Caretaker};
use crate::metadata::command::Command;

/// Brokers whose command that attaches volumes may take two minutes.
struct Attaching {
    history: History,
    of: Incarnation,
    living: Vec<Incarnation>,
}

/// A broker's command ran, from when until when.
type Ran = (Duration, Duration, Incarnation);

impl Attaching {
    const TIMEOUT: Duration = Duration::from_secs(120);
    /// With the default patience.
    const TURN: Duration = Duration::from_secs(125);

    /// One of four is fenced.
    fn new() -> Attaching {
        let (mut history, mut living) = History::serving(4, "block:///dev/wal");
        let of = living.remove(0);
        history.apply(Command::Fence { by: living[0], of });
        let mut attaching = Attaching { history, of, living };
        // In rank.
        let begins = |own: &Incarnation| attaching.begins(&mut attaching.broker(*own), Duration::ZERO).0;
        let mut ranked = attaching.living.clone();
        ranked.sort_by_key(begins);
        attaching.living = ranked;
        attaching
    }

    fn broker(&self, own: Incarnation) -> Caretaker {
        let machine = format!("machine {}", own.broker);
        Caretaker::new(Config::default(), own, machine, Some(Self::TIMEOUT))
    }

    /// When it begins, and by when its command has to end.
    fn begins(&self, broker: &mut Caretaker, mut now: Duration) -> (Duration, Option<Duration>) {
        loop {
            match broker.look(now, &self.history.image, &Verdicts::default())[..] {
                [] => now = broker.due().expect("its turn comes").max(now),
                [Action::Recover { until, .. }] => return (now, until),
                ref other => panic!("{other:?}"),
            }
        }
    }

    /// What all do meanwhile, where each command takes so long, if it may, and fails.
    fn run(&self, takes: Duration, until: Duration) -> Vec<Ran> {
        let mut ran = Vec::new();
        for own in &self.living {
            let (mut broker, mut now) = (self.broker(*own), Duration::ZERO);
            while now < until {
                let (began, limit) = self.begins(&mut broker, now);
                now = (began + takes).min(limit.expect("the others have turns too"));
                ran.push((began, now, *own));
                broker.recovery_ended(now, self.of);
            }
        }
        ran.sort();
        ran
    }

    /// Somebody commits a part of what was left.
    fn commit(&mut self, by: Incarnation, to: u64) {
        let from = self.history.image.life(self.of).unwrap().trim;
        let commit =
            s3stream::metadata::Commit { owner: self.of, objects: Vec::new(), wal_trim: Position(to) };
        self.history.apply(Command::CommitRecovered { by, of: self.of, from, commit, last: false });
    }
}

/// C2: where a command takes volumes from one broker to another, one of them at a time does.
#[test]
fn whoever_attaches_volumes_keeps_to_its_turn() {
    let attaching = Attaching::new();
    let patience = Config::default().recovery_patience;
    for takes in [SECOND, 30 * SECOND, 61 * SECOND, 119 * SECOND] {
        let ran = attaching.run(takes, 1_500 * SECOND);
        for pair in ran.windows(2) {
            let [(_, ended, one), (began, _, next)] = pair else { unreachable!() };
            assert!(one == next || *began >= *ended + patience, "{takes:?}: {pair:?}");
        }
        let mut turns: Vec<Incarnation> = ran.iter().map(|(_, _, own)| *own).collect();
        turns.dedup();
        let expected: Vec<_> = attaching.living.iter().cycle().take(turns.len()).copied().collect();
        assert!(turns.len() >= 12, "{takes:?}: {turns:?}");
        assert_eq!(turns, expected, "{takes:?}");
        // Each turn is long enough for a command that takes its time.
        let first = ran.iter().find(|(_, _, own)| *own == attaching.living[1]).unwrap();
        assert_eq!(first.0, Attaching::TURN);
        assert_eq!(first.1, Attaching::TURN + takes);
    }
    // Nobody waits for the dead, and nobody who is alone for a turn.
    let dead = attaching.living[1..].iter();
    let dead = dead.fold(Verdicts::default(), |verdicts, life| verdicts.with(*life, DEAD));
    let mut alone = attaching.broker(attaching.living[0]);
    let recovers = |alone: &mut Caretaker, at: Duration| {
        let actions = alone.look(at, &attaching.history.image, &dead);
        actions.iter().any(|action| matches!(action, Action::Recover { until: None, .. }))
    };
    assert!(recovers(&mut alone, 100 * SECOND));
    alone.recovery_ended(200 * SECOND, attaching.of);
    assert!(recovers(&mut alone, 201 * SECOND));
}

/// C2: whoever has the volume is left alone while it reads it, whatever its rank, and may try again.
#[test]
fn a_trim_point_that_moves_gives_whoever_moved_it_a_turn() {
    let mut attaching = Attaching::new();
    let [first, second] = [0, 1].map(|rank| attaching.living[rank]);
    let (mut waits, mut reads) = (attaching.broker(first), attaching.broker(second));
    let none = Verdicts::default();
    // The first one's command failed, and it is the second one's turn.
    let (began, _) = attaching.begins(&mut waits, Duration::ZERO);
    waits.recovery_ended(began, attaching.of);
    waits.look(began, &attaching.history.image, &none);
    let (began, _) = attaching.begins(&mut reads, Duration::ZERO);
    let moved = began + 10 * SECOND;
    waits.look(moved - SECOND, &attaching.history.image, &none);
    attaching.commit(second, 100);
    assert!(waits.look(moved, &attaching.history.image, &none).is_empty());
    assert!(reads.look(moved, &attaching.history.image, &none).is_empty(), "it is under way");
    reads.recovery_ended(moved + SECOND, attaching.of);
    let (again, until) = attaching.begins(&mut reads, moved + SECOND);
    assert!(again < moved + 3 * SECOND, "{again:?}");
    assert_eq!(until, Some(moved + Attaching::TIMEOUT));
    assert_eq!(attaching.begins(&mut waits, moved).0, moved + Attaching::TURN);
    // Once its turn is over it is like the others.
    reads.recovery_ended(moved + 100 * SECOND, attaching.of);
    assert_eq!(attaching.begins(&mut reads, moved + 101 * SECOND).0, moved + 2 * Attaching::TURN);
}

/// C2: a broker that crashed and is back recovers its log from its own volume, which nobody takes away from it.
#[test]
fn a_volume_is_its_own_brokers_first_when_that_is_back() {
    let (mut history, lives) = History::serving(3, "block:///dev/wal");
    let of = lives[0];
    let back = history.register(1, "block:///dev/wal", Some(of.epoch));
    let mut attaching = Attaching { history, of, living: lives[1..].to_vec() };
    let all = |attaching: &Attaching| {
        let begin = |own: &Incarnation| attaching.begins(&mut attaching.broker(*own), Duration::ZERO).0;
        let mut begins: Vec<Duration> = attaching.living.iter().map(begin).collect();
        begins.sort();
        begins
    };
    assert_eq!(all(&attaching), [Attaching::TURN, 2 * Attaching::TURN]);
    // A start that failed is over.
    attaching.history.apply(Command::CloseBroker { by: back });
    assert_eq!(all(&attaching), [Duration::ZERO, Attaching::TURN]);
}
