//! How brokers come and go: N1 to N3, and where partitions are placed: L1 to L3.

use super::*;

fn leaders(log: &Log, topic: &str) -> Vec<u32> {
    log.image.topic_named(topic).unwrap().partitions.iter().map(|partition| partition.leader).collect()
}

/// As clients are told.
fn visible(log: &Log, topic: &str) -> Vec<Option<u32>> {
    let topic = log.image.topic_named(topic).unwrap().clone();
    topic.partitions.iter().map(|partition| log.image.leader(partition)).collect()
}

#[test]
fn brokers_serve_side_by_side_and_the_oldest_takes_care() {
    let mut log = Log::formatted();
    assert_eq!(log.image.caretaker(), None);
    let starting = log.register(3).incarnation;
    let [second, first] = [2, 1].map(|broker| log.serving(broker));
    assert_eq!(log.image.serving_brokers().map(|(id, _)| id).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(log.image.caretaker(), Some(second), "who has not opened takes care of nothing");
    log.apply(Command::SetDraining { by: first, broker: 2, draining: true }).unwrap();
    assert_eq!(log.image.caretaker(), Some(first));
    log.apply(Command::OpenLeaderships { by: starting }).unwrap();
    assert_eq!(log.image.caretaker(), Some(starting));
}

/// N1.
#[test]
fn of_two_processes_that_take_one_id_the_second_is_told() {
    let mut log = Log::formatted();
    log.serving(1);
    let [one, other] = [log.registration(2), log.registration(2)];
    log.apply(one).unwrap();
    let before = log.image.encode();
    assert!(matches!(log.apply(other), Err(Rejection::Conflict(_))));
    assert_eq!(log.image.encode()[9..], before[9..]);
    let late = log.registration(2);
    log.register(2);
    assert!(matches!(log.apply(late), Err(Rejection::Conflict(_))));
}

#[test]
fn a_registration_leaves_the_lives_of_others_alone() {
    let mut log = Log::formatted();
    let [one, two] = [1, 2].map(|broker| log.serving(broker));
    let again = log.register(1);
    assert_eq!(again.previous.iter().map(|previous| previous.incarnation).collect::<Vec<_>>(), [one]);
    assert!(log.image.is_live(two) && !log.image.is_live(one));
}

/// N2.
#[test]
fn a_fence_is_for_good_and_may_be_said_twice() {
    let mut log = Log::formatted();
    let [one, two] = [1, 2].map(|broker| log.serving(broker));
    log.apply(Command::Fence { by: one, of: two }).unwrap();
    log.apply(Command::Fence { by: one, of: two }).unwrap();
    assert_eq!(log.apply(create(two, "t", 1)), Err(Rejection::Fenced(two)));
    assert_eq!(log.apply(Command::Fence { by: two, of: one }), Err(Rejection::Fenced(two)));
    assert_eq!(log.image.unrecovered().count(), 1);
    log.recovered(one, two);
    log.apply(Command::Fence { by: one, of: two }).unwrap();
    let never = Incarnation { broker: 2, epoch: 99 };
    for of in [one, never, Incarnation { broker: 7, epoch: 1 }] {
        assert!(matches!(log.apply(Command::Fence { by: one, of }), Err(Rejection::Invalid(_))), "{of:?}");
    }
    assert!(log.image.is_live(one));
}

/// N4.
#[test]
fn a_challenge_stands_until_it_is_answered_or_for_good() {
    let mut log = Log::formatted();
    let [one, two, three] = [1, 2, 3].map(|broker| log.serving(broker));
    let challenged = |log: &Log| log.image.life(two).unwrap().challenged;
    log.apply(Command::Challenge { by: one, of: two }).unwrap();
    let first = challenged(&log);
    assert_eq!(first, Some(log.number));
    log.apply(Command::Challenge { by: three, of: two }).unwrap();
    assert_eq!(challenged(&log), first, "the first one counts");
    assert_eq!(log.image.life(one).unwrap().challenged, None);
    log.apply(Command::Answer { by: one }).unwrap();
    assert_eq!(challenged(&log), first, "nobody answers for another");
    log.apply(Command::Answer { by: two }).unwrap();
    assert_eq!(challenged(&log), None);
    log.apply(Command::Challenge { by: one, of: two }).unwrap();
    let second = challenged(&log);
    assert!(second > first);
    log.apply(Command::Fence { by: one, of: two }).unwrap();
    assert_eq!(log.apply(Command::Answer { by: two }), Err(Rejection::Fenced(two)));
    assert_eq!(challenged(&log), second);
    assert!(matches!(log.apply(Command::Challenge { by: one, of: two }), Err(Rejection::Conflict(_))));

    let starting = log.register(4).incarnation;
    for (by, of) in [(one, one), (one, starting), (one, Incarnation { broker: 9, epoch: 1 })] {
        assert!(log.apply(Command::Challenge { by, of }).is_err(), "{of:?}");
    }
    // Its next life has nothing to do with it.
    let next = log.serving(2);
    assert_eq!(log.image.life(next).unwrap().challenged, None);
}

/// N3: until the recovery is complete nobody leads; from the same entry on somebody does.
#[test]
fn what_a_fenced_broker_led_moves_when_its_recovery_is_complete() {
    let mut log = Log::formatted();
    let [one, two, three] = [1, 2, 3].map(|broker| log.serving(broker));
    log.topic(one, "t", 6);
    assert_eq!(leaders(&log, "t"), [1, 2, 3, 1, 2, 3]);
    let kept = log.image.topic_named("t").unwrap().partitions[0];
    log.apply(Command::Fence { by: one, of: two }).unwrap();
    assert_eq!(visible(&log, "t"), [Some(1), None, Some(3), Some(1), None, Some(3)]);
    assert_eq!(log.image.partitions_of(two).map(|(_, index)| index).collect::<Vec<_>>(), [1, 4]);
    log.recovered(three, two);
    assert_eq!(leaders(&log, "t"), [1, 1, 3, 1, 3, 3]);
    let after = log.image.topic_named("t").unwrap().partitions.clone();
    assert_eq!(after[0], kept, "what was not affected stays as it was");
    assert_eq!((after[1].leader_epoch, log.image.owner(&after[4])), (1, Some(three)));
    assert_eq!(log.image.partitions_of(two).count(), 0);
}

#[test]
fn a_broker_that_restarts_leads_nothing_until_its_last_life_is_recovered() {
    let mut log = Log::formatted();
    let old = log.serving(1);
    log.topic(old, "t", 2);
    let new = log.serving(1);
    assert_eq!(visible(&log, "t"), [None, None]);
    assert_eq!(log.image.partitions_of(new).count(), 0);
    log.recovered(new, old);
    assert_eq!(visible(&log, "t"), [Some(1), Some(1)]);
    assert_eq!(log.image.partitions_of(new).count(), 2);
}

/// L3.
#[test]
fn what_nobody_could_take_is_taken_by_whoever_serves_first() {
    let mut log = Log::formatted();
    let one = log.serving(1);
    log.topic(one, "t", 4);
    log.apply(Command::CloseBroker { by: one }).unwrap();
    assert_eq!(visible(&log, "t"), [None; 4]);
    log.register(3);
    assert_eq!(visible(&log, "t"), [None; 4], "it does not serve yet");
    log.serving(2);
    assert_eq!(visible(&log, "t"), [Some(2); 4]);
    log.serving(4);
    assert_eq!(visible(&log, "t"), [Some(2); 4], "nothing moves by itself");
}

/// L3, foretold: as the entries that end the recoveries say it then, several topics, aims and several dead.
#[test]
fn it_is_known_who_will_lead_what_the_fenced_have_left() {
    let mut log = Log::formatted();
    let [one, two, three, four] = [1, 2, 3, 4].map(|broker| log.serving(broker));
    let topics = [("a", 7), ("b", 3), ("c", 10)];
    for (name, partitions) in topics {
        log.topic(one, name, partitions);
    }
    // It was on its way elsewhere.
    let a = log.image.topic_named("a").unwrap().clone();
    let index = a.partitions.iter().position(|partition| partition.leader == 2).unwrap();
    let moves = vec![Reassigned { topic: a.id, partition: index as u32, target: Some(3) }];
    log.apply(Command::Reassign { by: one, moves }).unwrap();
    assert!(log.image.heirs(&[]).is_empty());
    for of in [two, four] {
        log.apply(Command::Fence { by: one, of }).unwrap();
    }
    let foretold = log.image.heirs(&[two, four]);
    let left = |of| log.image.partitions_of(of).map(|(topic, index)| (topic.id, index)).collect::<Vec<_>>();
    let (of_two, of_four) = (left(two), left(four));
    assert!(of_two.len() >= 5 && of_four.len() >= 5);
    assert_eq!(foretold.len(), of_two.len() + of_four.len(), "of nobody else's");
    assert_eq!(foretold[&(a.id, index)], 3);
    for of in [two, four] {
        log.recovered(three, of);
    }
    for ((topic, index), heir) in foretold {
        let partition = &log.image.topic(topic).unwrap().partitions[index];
        assert_eq!(log.image.leader(partition), Some(heir), "{topic} {index}");
    }
}

#[test]
fn where_nobody_can_take_it_nobody_is_foretold() {
    let mut log = Log::formatted();
    let [one, two] = [1, 2].map(|broker| log.serving(broker));
    log.topic(one, "t", 2);
    log.apply(Command::SetDraining { by: one, broker: 1, draining: true }).unwrap();
    log.apply(Command::Fence { by: one, of: two }).unwrap();
    assert!(log.image.heirs(&[two]).is_empty());
}

/// L1, L2.
#[test]
fn new_partitions_go_where_there_are_least() {
    let mut log = Log::formatted();
    let [one, two, _three] = [1, 2, 3].map(|broker| log.serving(broker));
    log.topic(one, "a", 2);
    assert_eq!(leaders(&log, "a"), [1, 2]);
    log.topic(two, "b", 3);
    assert_eq!(leaders(&log, "b"), [3, 1, 2], "a topic is spread first, then the cluster");
    let id = log.image.topic_named("a").unwrap().id;
    let grown = |partitions, leaders| GrownTopic { id, partitions, leaders };
    log.apply(Command::CreatePartitions { by: one, topics: vec![grown(3, vec![])] }).unwrap();
    assert_eq!(leaders(&log, "a"), [1, 2, 3]);
    log.apply(Command::SetDraining { by: one, broker: 3, draining: true }).unwrap();
    log.topic(two, "c", 4);
    assert_eq!(leaders(&log, "c"), [1, 2, 1, 2]);
    log.apply(Command::CreatePartitions { by: one, topics: vec![grown(5, vec![3, 3])] }).unwrap();
    assert_eq!(leaders(&log, "a"), [1, 2, 3, 3, 3], "by name also onto one that is being emptied");
    assert_eq!([1, 2, 3].map(|broker| log.image.led_count(broker)), [4, 4, 4]);
}

#[test]
fn leaders_that_are_named_must_serve_and_be_as_many() {
    let mut log = Log::formatted();
    let one = log.serving(1);
    log.register(2);
    let named = |leaders: Vec<u32>| Command::CreateTopics {
        by: one,
        topics: vec![NewTopic {
            id: Uuid::new_v4(),
            name: "t".into(),
            partitions: 2,
            configs: Vec::new(),
            leaders,
        }],
    };
    for wrong in [vec![1], vec![1, 2], vec![1, 9], vec![1, 1, 1]] {
        let outcome = log.apply(named(wrong.clone())).unwrap();
        let Outcome::Created(created) = outcome else { panic!("{outcome:?}") };
        assert!(matches!(created[0], Err(super::super::TopicRejection::Assignment(_))), "{wrong:?}");
        assert_eq!(log.image.stream_count(), 0);
    }
    log.apply(named(vec![1, 1])).unwrap();
    assert_eq!(leaders(&log, "t"), [1, 1]);
}

/// With everybody being emptied a new topic still goes somewhere; what exists waits.
#[test]
fn where_all_are_being_emptied_only_new_topics_are_placed() {
    let mut log = Log::formatted();
    let [one, two] = [1, 2].map(|broker| log.serving(broker));
    log.topic(one, "t", 2);
    for broker in [1, 2] {
        log.apply(Command::SetDraining { by: one, broker, draining: true }).unwrap();
    }
    log.apply(Command::CloseBroker { by: two }).unwrap();
    assert_eq!(visible(&log, "t"), [Some(1), None]);
    log.topic(one, "u", 1);
    assert_eq!(visible(&log, "u"), [Some(1)]);
    log.apply(Command::SetDraining { by: one, broker: 1, draining: false }).unwrap();
    assert_eq!(visible(&log, "t"), [Some(1), Some(1)]);
    let gone = Command::SetDraining { by: one, broker: 2, draining: true };
    assert!(matches!(log.apply(gone), Err(Rejection::Conflict(_))));
}
