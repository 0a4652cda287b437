//! Partitions that move while their leaders live: H1 to H5.

use super::*;
use crate::metadata::MoveRejection;
use crate::metadata::image::PartitionInfo;

/// Three brokers, and a topic whose three partitions they lead.
fn cluster() -> (Log, [Incarnation; 3], Uuid) {
    let mut log = Log::formatted();
    let brokers = [1, 2, 3].map(|broker| log.serving(broker));
    let id = log.topic(brokers[0], "t", 3).id;
    (log, brokers, id)
}

fn handed(topic: Uuid, partition: u32, to: u32, log_end: u64) -> Handed {
    Handed { topic, partition, to, log_end, checkpoint_end: 0, leader_epoch: None, note: None }
}

fn moved(outcome: Result<Outcome, Rejection>) -> Vec<Result<(), MoveRejection>> {
    match outcome.unwrap() {
        Outcome::Moved(results) => results,
        other => panic!("{other:?}"),
    }
}

impl Log {
    fn hand(&mut self, by: Incarnation, handed: Handed) -> Result<(), MoveRejection> {
        moved(self.apply(Command::HandOver { by, moves: vec![handed] })).remove(0)
    }

    fn aim(
        &mut self,
        by: Incarnation,
        topic: Uuid,
        partition: u32,
        target: Option<u32>,
    ) -> Result<(), MoveRejection> {
        moved(self.apply(Command::Reassign { by, moves: vec![Reassigned { topic, partition, target }] }))
            .remove(0)
    }
}

/// H1, H2.
#[test]
fn a_partition_changes_hands_in_one_entry_once_all_of_it_is_committed() {
    let (mut log, [one, two, _], id) = cluster();
    let stream = log.image.topic(id).unwrap().partitions[0].log;
    log.apply(Command::CommitObjects { commit: commit(one, 1, &[data(one, 0, &[part(stream, 0, 5)])]) })
        .unwrap();
    for end in [4, 6] {
        let rejection = MoveRejection::NotCommitted { committed_end: 5, end };
        assert_eq!(log.hand(one, handed(id, 0, 2, end)), Err(rejection));
    }
    assert_eq!(log.hand(two, handed(id, 0, 3, 5)), Err(MoveRejection::NotOwner(Some(one))));
    log.hand(one, handed(id, 0, 2, 5)).unwrap();
    let after = log.image.topic(id).unwrap().partitions[0];
    assert_eq!((after.leader, after.leader_epoch, log.image.owner(&after)), (2, 1, Some(two)));
    assert_eq!(log.hand(one, handed(id, 0, 2, 5)), Err(MoveRejection::NotOwner(Some(two))));
    let late = Command::CommitObjects { commit: commit(one, 2, &[data(one, 1, &[part(stream, 5, 6)])]) };
    assert!(matches!(log.apply(late), Err(Rejection::Conflict(_))));
}

/// H5.
#[test]
fn an_owner_that_keeps_a_partition_gets_a_leader_epoch_beyond_that_of_the_next_one() {
    let (mut log, [one, two, _], id) = cluster();
    log.aim(one, id, 0, Some(2)).unwrap();
    // Whoever is being emptied keeps what nobody has taken yet.
    log.apply(Command::SetDraining { by: one, broker: 1, draining: true }).unwrap();
    let before = log.image.topic(id).unwrap().partitions[0];
    let kept =
        |leader_epoch, log_end| Kept { topic: id, partition: 0, log_end, checkpoint_end: 0, leader_epoch };
    let mut keep = |by, kept| {
        let result = moved(log.apply(Command::KeepLeaderships { by, kept: vec![kept] })).remove(0);
        (result, log.image.topic(id).unwrap().partitions[0])
    };
    assert_eq!(keep(two, kept(0, 0)), (Err(MoveRejection::NotOwner(Some(one))), before));
    let uncommitted = MoveRejection::NotCommitted { committed_end: 0, end: 1 };
    assert_eq!(keep(one, kept(0, 1)), (Err(uncommitted), before));
    let after = PartitionInfo { leader_epoch: before.leader_epoch + 2, ..before };
    assert_eq!(keep(one, kept(0, 0)), (Ok(()), after));
    assert_eq!(keep(one, kept(0, 0)), (Err(MoveRejection::OtherEpoch(2)), after));
    assert_eq!(log.image.owner(&after), Some(one));
    log.hand(one, Handed { leader_epoch: Some(2), ..handed(id, 0, 2, 0) }).unwrap();
}

/// H1: an entry that comes late, when the partition has left by another one and has come back, gives nothing away.
#[test]
fn a_partition_that_came_back_is_not_given_away_by_an_entry_of_before() {
    let (mut log, [one, two, _], id) = cluster();
    let of = |leader_epoch, to| Handed { leader_epoch: Some(leader_epoch), ..handed(id, 0, to, 0) };
    log.hand(one, of(0, 2)).unwrap();
    log.hand(two, of(1, 1)).unwrap();
    assert_eq!(log.hand(one, of(0, 2)), Err(MoveRejection::OtherEpoch(2)));
    log.hand(one, of(2, 2)).unwrap();
}

/// H1, of the checkpoints.
#[test]
fn checkpoints_must_be_committed_as_well() {
    let (mut log, [one, ..], id) = cluster();
    let uncommitted = Handed { checkpoint_end: 1, ..handed(id, 0, 2, 0) };
    let rejection = MoveRejection::NotCommitted { committed_end: 0, end: 1 };
    assert_eq!(log.hand(one, uncommitted), Err(rejection));
}

/// H3, H4.
#[test]
fn a_partition_goes_only_to_a_broker_that_takes_it() {
    let (mut log, [one, two, three], id) = cluster();
    let before = log.image.topic(id).unwrap().clone();
    log.apply(Command::SetDraining { by: one, broker: 2, draining: true }).unwrap();
    log.apply(Command::Fence { by: one, of: three }).unwrap();
    log.register(4);
    for to in [1, 2, 3, 4, 9] {
        assert_eq!(log.hand(one, handed(id, 0, to, 0)), Err(MoveRejection::NoReceiver(to)));
        if to > 1 {
            assert_eq!(log.aim(one, id, 0, Some(to)), Err(MoveRejection::NoReceiver(to)));
        }
    }
    assert_eq!(log.image.topic(id).unwrap().partitions, before.partitions);
    for (topic, partition) in [(Uuid::nil(), 0), (id, 3)] {
        assert_eq!(log.hand(two, handed(topic, partition, 1, 0)), Err(MoveRejection::Gone));
        assert_eq!(log.aim(two, topic, partition, Some(1)), Err(MoveRejection::Gone));
    }
}

#[test]
fn several_partitions_of_a_topic_move_in_one_command() {
    let (mut log, [one, ..], _) = cluster();
    let id = log.topic(one, "u", 9).id;
    let own: Vec<u32> =
        log.image.partitions_of(one).filter(|(topic, _)| topic.id == id).map(|(_, at)| at as u32).collect();
    let moves = own.iter().map(|partition| handed(id, *partition, 3, 0)).collect();
    let results = moved(log.apply(Command::HandOver { by: one, moves }));
    assert_eq!(results, vec![Ok(()); 3]);
    let leaders: Vec<_> = log.image.topic(id).unwrap().partitions.iter().map(|p| p.leader).collect();
    assert_eq!(leaders.iter().filter(|leader| **leader == 3).count(), 6);
    assert_eq!([1, 2, 3].map(|broker| log.image.led_count(broker)), [1, 4, 7]);
}

#[test]
fn a_target_is_set_taken_back_reached_and_forgotten() {
    let (mut log, [one, two, three], id) = cluster();
    let target = |log: &Log| log.image.topic(id).unwrap().partitions[0].target;
    assert_eq!(log.aim(two, id, 0, None), Err(MoveRejection::NotMoving));
    log.aim(two, id, 0, Some(3)).unwrap();
    assert_eq!(target(&log), Some(3));
    log.aim(two, id, 0, None).unwrap();
    assert_eq!(target(&log), None);
    log.aim(two, id, 0, Some(3)).unwrap();
    log.aim(two, id, 0, Some(1)).unwrap();
    assert_eq!(target(&log), None, "where it is, it is");
    log.aim(two, id, 0, Some(3)).unwrap();
    log.hand(one, handed(id, 0, 3, 0)).unwrap();
    assert_eq!(target(&log), None);
    // Who dies, leaves or is being emptied is nobody's target any more.
    log.aim(two, id, 0, Some(2)).unwrap();
    log.apply(Command::SetDraining { by: one, broker: 2, draining: true }).unwrap();
    assert_eq!(target(&log), None);
    log.aim(two, id, 0, Some(1)).unwrap();
    log.apply(Command::Fence { by: three, of: one }).unwrap();
    assert_eq!(target(&log), None);
}

/// Where it was to move to is where it goes if its leader dies on the way.
#[test]
fn an_orphan_goes_to_its_target() {
    let (mut log, [one, two, _], id) = cluster();
    log.topic(two, "other", 1);
    log.aim(two, id, 0, Some(3)).unwrap();
    log.apply(Command::Fence { by: two, of: one }).unwrap();
    log.recovered(two, one);
    let after = log.image.topic(id).unwrap().partitions[0];
    assert_eq!((after.leader, after.target), (3, None));
}
