//! F1 to F4: what the caretaker decides, by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use wal::{Incarnation, Position};

use super::{DEAD, History, SECOND, SUSPECTED};
use crate::cluster::{Verdicts, Why};
use crate::failover::Config;
use crate::failover::caretaker::{Action, Caretaker};
use crate::metadata::command::Command;

fn caretaker(own: Incarnation) -> Caretaker {
    Caretaker::new(Config::default(), own, format!("machine {}", own.broker), None)
}

/// When each of the living begins with `of`, if nobody else does anything.
fn begins(history: &History, living: &[Incarnation], of: Incarnation, verdicts: &Verdicts) -> Vec<Duration> {
    let mut begins = Vec::new();
    for own in living {
        let mut caretaker = caretaker(*own);
        let mut now = Duration::ZERO;
        loop {
            let actions = caretaker.look(now, &history.image, verdicts);
            if actions.iter().any(|action| matches!(action, Action::Fence { of: it, .. } | Action::Recover { of: it, .. } if *it == of)) {
                break begins.push(now);
            }
            now = caretaker.due().expect("its turn comes");
        }
    }
    begins.sort();
    begins
}

#[test]
fn brokers_take_turns_and_each_has_one() {
    let (mut history, lives) = History::serving(4, "object:");
    let (of, living) = (lives[0], &lives[1..]);
    let verdicts = Verdicts::default().with(of, DEAD);
    let Config { fence_patience, recovery_patience, .. } = Config::default();
    let turns = |patience: Duration| (0..3).map(|rank| patience * rank).collect::<Vec<_>>();
    assert_eq!(begins(&history, living, of, &verdicts), turns(fence_patience));
    history.apply(Command::Fence { by: living[0], of });
    assert_eq!(begins(&history, living, of, &verdicts), turns(recovery_patience));

    // Who is suspected, or about to leave, is not waited for.
    history.apply(Command::SetDraining { by: living[0], broker: living[1].broker, draining: true });
    let both = verdicts.with(living[0], SUSPECTED);
    assert_eq!(begins(&history, &living[2..], of, &both), [Duration::ZERO]);
}

/// C5.
#[test]
fn who_refuses_and_has_a_volume_is_challenged_once_by_the_first_in_rank() {
    let (mut history, lives) = History::serving(4, "block:///dev/volume");
    let (of, living) = (lives[0], &lives[1..]);
    let none = Verdicts::default();
    let refusing = none.clone().with_refusing(of);
    let mut caretakers: Vec<Caretaker> = living.iter().map(|own| caretaker(*own)).collect();
    let mut ask = |second: u32, history: &History, verdicts: &Verdicts| -> usize {
        let now = second * SECOND;
        let asked =
            caretakers.iter_mut().map(|caretaker| caretaker.challenges(now, &history.image, verdicts));
        let asked: Vec<Action> = asked.flatten().collect();
        assert!(asked.iter().all(|action| *action == Action::Challenge { of }), "{asked:?}");
        asked.len()
    };
    assert_eq!(ask(0, &history, &none), 0);
    assert_eq!(ask(1, &history, &refusing), 1);
    assert_eq!(ask(2, &history, &refusing), 0, "once");
    history.apply(Command::Challenge { by: living[0], of });
    history.apply(Command::Answer { by: of });
    assert_eq!(ask(3, &history, &refusing), 0, "though it has answered");
    for second in 4..30 {
        let verdicts = if second % 9 == 0 { &refusing } else { &none };
        assert_eq!(ask(second, &history, verdicts), 0, "it comes and goes");
    }
    assert_eq!(ask(37, &history, &refusing), 0, "it was well for nine seconds");
    assert_eq!(ask(70, &history, &refusing), 0, "and not at all since");
    assert_eq!(ask(71, &history, &none), 0);
    assert_eq!(ask(81, &history, &refusing), 1, "it refuses again");
    assert_eq!(ask(82, &history, &none), 0);
    history.apply(Command::Fence { by: living[0], of });
    assert_eq!(ask(100, &history, &refusing), 0, "there is nothing to save any more");

    let (history, lives) = History::serving(2, "object:");
    let refusing = none.with_refusing(lives[0]);
    assert_eq!(
        caretaker(lives[1]).challenges(SECOND, &history.image, &refusing),
        [],
        "it has no lease to wait out"
    );
}

/// F2: a lease counts from the challenge that stood when the fence came, and from no other.
#[test]
fn a_lease_counts_from_the_challenge_that_was_never_answered() {
    let (mut history, lives) = History::serving(2, "block:///dev/volume");
    let (of, own) = (lives[0], lives[1]);
    let none = Verdicts::default();
    let mut late = caretaker(own);
    let mut caretaker = caretaker(own);
    let mut at = |history: &History, second: u32| caretaker.look(second * SECOND, &history.image, &none);
    let from = |second: u32| [Action::Recover { of, lease_from: second * SECOND, until: None }];
    history.apply(Command::Challenge { by: own, of });
    assert_eq!(at(&history, 1), []);
    history.apply(Command::Answer { by: of });
    assert_eq!(at(&history, 2), []);
    let mut other = History { image: history.image.clone(), number: history.number };
    history.apply(Command::Challenge { by: own, of });
    assert_eq!(at(&history, 3), []);
    assert_eq!(at(&history, 4), []);
    history.apply(Command::Fence { by: own, of });
    assert_eq!(at(&history, 5), from(3));
    // Who sees all of it at once knows of nothing earlier.
    assert_eq!(late.look(9 * SECOND, &history.image, &none), from(9));

    // Answered, and challenged again while nobody looked.
    let mut caretaker = self::caretaker(own);
    let mut at = |history: &History, second: u32| caretaker.look(second * SECOND, &history.image, &none);
    other.apply(Command::Challenge { by: own, of });
    assert_eq!(at(&other, 1), []);
    other.apply(Command::Answer { by: of });
    other.apply(Command::Challenge { by: own, of });
    other.apply(Command::Fence { by: own, of });
    assert_eq!(at(&other, 7), from(7));
}

/// The dead are spread over the living.
#[test]
fn several_dead_are_several_brokers_work() {
    let (mut history, lives) = History::serving(40, "object:");
    let (dead, living) = lives.split_at(20);
    for of in dead {
        history.apply(Command::Fence { by: living[0], of: *of });
    }
    let mut first = std::collections::BTreeMap::<Incarnation, usize>::new();
    for own in living {
        let actions = caretaker(*own).look(Duration::ZERO, &history.image, &Verdicts::default());
        first.insert(*own, actions.len());
    }
    assert_eq!(first.values().sum::<usize>(), 20, "one each: {first:?}");
    assert!(first.values().all(|count| *count <= 5), "{first:?}");
}

/// A file is best recovered where it is.
#[test]
fn a_dead_brokers_volume_is_its_machines_first() {
    let (mut history, lives) = History::serving(5, "block:///wal");
    let of = lives[0];
    history.apply(Command::Fence { by: lives[1], of });
    for own in &lives[1..] {
        let mut there = Caretaker::new(Config::default(), *own, "machine 1".to_owned(), None);
        let actions = there.look(Duration::ZERO, &history.image, &Verdicts::default());
        assert_eq!(actions, [Action::Recover { of, lease_from: Duration::ZERO, until: None }]);
    }
}

/// F1: on nothing but a verdict of death, not twice, and not by who is fenced itself.
#[test]
fn only_the_dead_are_fenced_and_only_by_the_living() {
    let (mut history, lives) = History::serving(2, "object:");
    let (of, own) = (lives[0], lives[1]);
    let mut caretaker = caretaker(own);
    let look = |caretaker: &mut Caretaker, history: &History, verdicts: &Verdicts| {
        caretaker.look(Duration::ZERO, &history.image, verdicts)
    };
    assert_eq!(look(&mut caretaker, &history, &Verdicts::default()), []);
    assert_eq!(look(&mut caretaker, &history, &Verdicts::default().with(of, SUSPECTED)), []);
    let dead = Verdicts::default().with(of, DEAD);
    assert_eq!(look(&mut caretaker, &history, &dead), [Action::Fence { of, why: Why::Silent }]);
    assert_eq!(look(&mut caretaker, &history, &dead), [], "it is under way");
    caretaker.fence_ended(Duration::ZERO, of);
    assert_eq!(look(&mut caretaker, &history, &dead), [], "after a pause");
    let later = caretaker.due().unwrap();
    assert_eq!(caretaker.look(later, &history.image, &dead), [Action::Fence { of, why: Why::Silent }]);
    history.apply(Command::Fence { by: of, of: own });
    let mut anew = self::caretaker(own);
    assert_eq!(anew.look(SECOND, &history.image, &dead), [], "it is fenced itself");
}

/// C4.
#[test]
fn the_first_in_rank_read_ahead_once() {
    let (mut history, lives) = History::serving(10, "object:");
    let (of, from) = (lives[0], Position(0));
    let dead = Verdicts::default().with(of, DEAD);
    let mut caretakers: Vec<_> = lives[1..].iter().map(|own| caretaker(*own)).collect();
    let mut ahead = |history: &History, verdicts: &Verdicts| {
        let begun = caretakers.iter_mut().flat_map(|caretaker| caretaker.ahead(&history.image, verdicts));
        begun.collect::<Vec<_>>()
    };
    assert_eq!(ahead(&history, &Verdicts::default().with(of, SUSPECTED)), []);
    assert_eq!(ahead(&history, &dead), [(of, from); 4]);
    assert_eq!(ahead(&history, &dead), [], "once");
    assert_eq!(ahead(&history, &Verdicts::default()), []);
    let refusing = Verdicts::default().with_refusing(of);
    assert_eq!(ahead(&history, &refusing), [(of, from); 4], "it was well in between");
    assert_eq!(ahead(&history, &dead), [], "once");
    history.apply(Command::Fence { by: lives[1], of });
    assert_eq!(ahead(&history, &Verdicts::default()), [], "it is the same life");
    history.apply(Command::Fence { by: lives[1], of: lives[2] });
    assert_eq!(ahead(&history, &Verdicts::default()).len(), 4, "a fence is reason enough");

    let (history, lives) = History::serving(2, "block:///wal");
    let dead = Verdicts::default().with(lives[0], DEAD);
    assert_eq!(caretaker(lives[1]).ahead(&history.image, &dead), [], "a volume may not be read yet");
}

/// F3, F4.
#[test]
fn recoveries_are_bounded_and_tried_again_until_the_life_is_forgotten() {
    let (mut history, lives) = History::serving(7, "object:");
    let own = lives[6];
    for of in &lives[..6] {
        history.apply(Command::Fence { by: own, of: *of });
    }
    let none = Verdicts::default();
    let mut caretaker = caretaker(own);
    let recovers = |actions: Vec<Action>| -> Vec<Incarnation> {
        let of = |action: &Action| match action {
            Action::Recover { of, .. } => *of,
            other => panic!("{other:?}"),
        };
        actions.iter().map(of).collect()
    };
    assert_eq!(recovers(caretaker.look(Duration::ZERO, &history.image, &none)), lives[..4]);
    caretaker.recovery_ended(SECOND, lives[0]);
    assert_eq!(
        recovers(caretaker.look(SECOND, &history.image, &none)),
        lives[4..5],
        "whoever waited is next"
    );
    assert_eq!(
        recovers(caretaker.look(2 * SECOND, &history.image, &none)),
        [],
        "as many as may be at a time"
    );
    // One that another broker completes is nobody's business any more.
    let mut begun = 5;
    for (at, of) in lives[..6].iter().enumerate() {
        let from = history.image.life(*of).unwrap().trim;
        let commit = s3stream::metadata::Commit { owner: *of, objects: Vec::new(), wal_trim: from };
        history.apply(Command::CommitRecovered { by: own, of: *of, from, commit, last: true });
        caretaker.recovery_ended(3 * SECOND, *of);
        begun += caretaker.look(10 * SECOND, &history.image, &none).len();
        assert_eq!(caretaker.counts_from(*of), None, "{at}");
    }
    assert!((6..=7).contains(&begun), "{begun}");

    // Pauses grow.
    let (mut history, lives) = History::serving(2, "object:");
    history.apply(Command::Fence { by: lives[1], of: lives[0] });
    let mut caretaker = self::caretaker(lives[1]);
    let mut now = Duration::ZERO;
    let mut pauses = Vec::new();
    for _ in 0..9 {
        assert_eq!(recovers(caretaker.look(now, &history.image, &none)), lives[..1]);
        caretaker.recovery_ended(now, lives[0]);
        caretaker.look(now, &history.image, &none);
        let due = caretaker.due().unwrap();
        pauses.push((due - now).as_millis());
        now = due;
    }
    assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
}

/// C3: some that never succeed keep nobody from its turn.
#[test]
fn of_those_that_are_due_what_was_tried_least_is_recovered_first() {
    let (mut history, lives) = History::serving(7, "object:");
    let own = lives[6];
    let mut caretaker = caretaker(own);
    let mut begun = BTreeMap::<Incarnation, u32>::new();
    lives[..6].iter().for_each(|of| history.apply(Command::Fence { by: own, of: *of }));
    // All pauses are over each time.
    for now in (0..6).map(|round| round * 60 * SECOND) {
        let actions = caretaker.look(now, &history.image, &Verdicts::default());
        assert_eq!(actions.len(), Config::default().recoveries_max);
        for action in actions {
            let Action::Recover { of, .. } = action else { panic!("{action:?}") };
            *begun.entry(of).or_default() += 1;
            caretaker.recovery_ended(now, of);
        }
    }
    assert_eq!(begun.into_values().collect::<Vec<_>>(), [4; 6]);
}
