//! Each rule of `apply` on its own.

use super::*;
use crate::metadata::GrowRejection;
use crate::metadata::apply::TopicRejection;
use s3stream::metadata::EpochStart;

fn created(outcome: Result<Outcome, Rejection>) -> Result<Arc<Topic>, TopicRejection> {
    match outcome.unwrap() {
        Outcome::Created(mut topics) => topics.remove(0),
        other => panic!("{other:?}"),
    }
}

/// A serving broker with one topic of one partition, and that partition's log.
fn one_topic() -> (Log, Incarnation, StreamId) {
    let mut log = Log::formatted();
    let by = log.serving(1);
    let stream = log.topic(by, "t", 1).partitions[0].log;
    (log, by, stream)
}

fn grown(id: Uuid, partitions: u32) -> GrownTopic {
    GrownTopic { id, partitions, leaders: Vec::new() }
}

#[test]
fn the_first_format_counts() {
    let mut log = Log::empty();
    assert_eq!(log.apply(registration(1)), Err(Rejection::NotFormatted));
    let format = |id: &str| Command::Format { cluster_id: id.into(), format: FORMAT_VERSION };
    log.apply(format("a")).unwrap();
    assert_eq!(log.apply(format("b")), Err(Rejection::AlreadyFormatted("a".into())));
    assert_eq!(log.image.cluster().unwrap().id.as_ref(), "a");
}

#[test]
fn a_newer_format_or_an_unknown_command_halts_for_good() {
    let mut log = Log::empty();
    let newer = Command::Format { cluster_id: "a".into(), format: FORMAT_VERSION + 1 };
    assert!(matches!(log.apply(newer.clone()), Err(Rejection::Halted(_))));
    let mut log = Log::formatted();
    let at = At { number: 2, time_ms: 0 };
    assert!(matches!(log.image.apply_bytes(at, &[2, 200]), Err(Rejection::Halted(_))));
    assert!(log.image.halted().unwrap().contains("entry 2"));
    assert!(matches!(log.apply(registration(1)), Err(Rejection::Halted(_))));
    assert!(Image::decode(&log.image.encode()).is_err(), "a halted state must not become anybody's snapshot");
}

#[test]
fn the_epoch_is_the_number_of_the_registering_entry() {
    let mut log = Log::formatted();
    let first = log.register(1);
    assert_eq!(first.incarnation, Incarnation { broker: 1, epoch: 2 });
    assert_eq!(first.previous, []);
    assert!(log.image.is_live(first.incarnation));
}

#[test]
fn a_registration_fences_the_previous_life_and_says_what_to_recover() {
    let (mut log, first, stream) = one_topic();
    log.apply(Command::CommitObjects { commit: commit(first, 7, &[data(first, 0, &[part(stream, 0, 3)])]) })
        .unwrap();
    let second = log.register(1);
    assert_eq!(second.previous.len(), 1);
    assert_eq!(second.previous[0].incarnation, first);
    assert_eq!(second.previous[0].trim, Position(7));
    assert_eq!(second.previous[0].wal_uri.as_ref(), "memory:1");
    assert!(!log.image.is_live(first));
}

/// O6: every command of a fenced incarnation is rejected.
#[test]
fn commands_of_a_fenced_incarnation_are_rejected() {
    let (mut log, old, stream) = one_topic();
    let id = log.image.topic_named("t").unwrap().id;
    let new = log.register(1).incarnation;
    let fenced = [
        Command::OpenLeaderships { by: old },
        create(old, "u", 1),
        Command::DeleteTopics { by: old, topics: vec![id] },
        Command::CommitObjects { commit: commit(old, 1, &[data(old, 0, &[part(stream, 0, 1)])]) },
        Command::CommitRecovered {
            by: old,
            of: old,
            from: Position(0),
            commit: commit(old, 1, &[]),
            last: true,
        },
        Command::TrimStreams { by: old, trims: vec![(stream, 0)] },
        Command::AllocateProducerIds { by: old, count: 1 },
        Command::CloseBroker { by: old },
        Command::ReplaceParts {
            by: old,
            replacements: vec![replacement(data(old, 0, &[part(stream, 0, 1)]), &[])],
        },
        Command::CreatePartitions { by: old, topics: vec![grown(id, 2)] },
        Command::SetTopicConfigs { by: old, topic: id, was: Vec::new(), shall: Vec::new() },
        Command::SetBrokerConfigs { by: old, broker: None, was: Vec::new(), shall: Vec::new() },
        Command::Fence { by: old, of: new },
        Command::Challenge { by: old, of: new },
        Command::Answer { by: old },
        Command::SetDraining { by: old, broker: 1, draining: true },
        Command::HandOver { by: old, moves: Vec::new() },
        Command::Reassign { by: old, moves: Vec::new() },
        Command::KeepLeaderships { by: old, kept: Vec::new() },
    ];
    for command in fenced {
        let before = log.image.encode();
        assert_eq!(log.apply(command.clone()), Err(Rejection::Fenced(old)), "{command:?}");
        assert_eq!(log.image.encode()[9..], before[9..], "only the clock may have moved: {command:?}");
    }
    assert!(log.image.is_live(new));
}

#[test]
fn a_life_that_never_opened_needs_no_recovery() {
    let mut log = Log::formatted();
    let first = log.serving(1);
    for _ in 0..5 {
        log.register(1);
    }
    let registered = log.register(1);
    let previous: Vec<_> = registered.previous.iter().map(|previous| previous.incarnation).collect();
    assert_eq!(previous, [first], "only the first could have acknowledged anything");
}

#[test]
fn topics_are_created_only_under_open_leaderships() {
    let mut log = Log::formatted();
    let by = log.register(1).incarnation;
    assert!(matches!(log.apply(create(by, "t", 1)), Err(Rejection::Invalid(_))));
}

#[test]
fn leaderships_open_only_after_recovery_and_under_a_new_epoch() {
    let (mut log, old, stream) = one_topic();
    log.apply(Command::CommitObjects { commit: commit(old, 1, &[data(old, 0, &[part(stream, 0, 5)])]) })
        .unwrap();
    let new = log.register(1).incarnation;
    log.apply(Command::OpenLeaderships { by: new }).unwrap();
    let view = log.image.stream_view(stream).unwrap();
    assert_eq!((view.epoch, view.owner), (0, Some(old)), "what it left may still extend the stream");
    let recovered = commit(old, 2, &[data(new, 0, &[part(stream, 5, 9)])]);
    log.apply(Command::CommitRecovered {
        by: new,
        of: old,
        from: Position(1),
        commit: recovered,
        last: true,
    })
    .unwrap();
    let view = log.image.stream_view(stream).unwrap();
    assert_eq!((view.epoch, view.committed_end, view.owner), (1, 9, Some(new)));
    assert_eq!(view.epochs, [EpochStart { epoch: 0, start: 0 }, EpochStart { epoch: 1, start: 9 }]);
    assert_eq!(log.image.topic_named("t").unwrap().partitions[0].leader_epoch, 1);
    log.apply(Command::OpenLeaderships { by: new }).unwrap();
    assert_eq!(log.image.stream(stream).unwrap().epoch, 1, "to open twice is to open once");
}

#[test]
fn behaviour_26_leader_epochs_only_grow_and_empty_ones_leave_no_trace() {
    let (mut log, mut by, stream) = one_topic();
    for expected in 1..4 {
        log.apply(Command::CloseBroker { by }).unwrap();
        assert_eq!(log.image.stream(stream).unwrap().owner, None);
        by = log.serving(1);
        assert_eq!(log.image.topic_named("t").unwrap().partitions[0].leader_epoch, expected);
    }
    let view = log.image.stream_view(stream).unwrap();
    assert_eq!(view.epochs, [EpochStart { epoch: 3, start: 0 }]);
}

#[test]
fn behaviour_22_names_are_validated_and_must_not_collide() {
    let mut log = Log::formatted();
    let by = log.serving(1);
    for name in ["", ".", "..", "a b", "a/b", "ä", &"x".repeat(250)] {
        assert!(
            matches!(created(log.apply(create(by, name, 1))), Err(TopicRejection::InvalidName(_))),
            "{name}"
        );
    }
    created(log.apply(create(by, &"x".repeat(249), 1))).unwrap();
    created(log.apply(create(by, "a.b_c", 1))).unwrap();
    assert_eq!(created(log.apply(create(by, "a.b_c", 1))), Err(TopicRejection::Exists("a.b_c".into())));
    assert_eq!(
        created(log.apply(create(by, "a_b.c", 1))),
        Err(TopicRejection::Collides { name: "a_b.c".into(), existing: "a.b_c".into() })
    );
}

#[test]
fn partitions_are_bounded() {
    let mut log = Log::formatted();
    let by = log.serving(1);
    assert_eq!(created(log.apply(create(by, "none", 0))), Err(TopicRejection::NoPartitions));
    assert!(matches!(
        created(log.apply(create(by, "many", u32::MAX))),
        Err(TopicRejection::TooManyPartitions { existing: 0, .. })
    ));
}

#[test]
fn a_topic_created_again_is_another_one() {
    let (mut log, by, stream) = one_topic();
    let first = log.image.topic_named("t").unwrap().clone();
    log.apply(Command::CommitObjects { commit: commit(by, 1, &[data(by, 0, &[part(stream, 0, 5)])]) })
        .unwrap();
    let outcome = log.apply(Command::DeleteTopics { by, topics: vec![first.id, first.id] });
    assert_eq!(outcome, Ok(Outcome::Deleted(vec![true, false])));
    assert!(log.image.topic_named("t").is_none() && log.image.stream(stream).is_none());
    let garbage: Vec<_> = log.image.garbage().collect();
    assert_eq!(garbage[0].0, ObjectId::Data { owner: by, counter: 0 });
    assert_eq!(garbage[0].1.since_ms, log.number as i64 * 1000);
    let second = log.topic(by, "t", 1);
    assert_ne!(first.id, second.id);
    assert_ne!(stream, second.partitions[0].log, "stream ids are handed out once");
}

/// S4, M3: no gap and no overlap, and nothing of a rejected commit stays.
#[test]
fn a_commit_extends_streams_exactly_or_changes_nothing() {
    let (mut log, by, stream) = one_topic();
    log.apply(Command::CommitObjects { commit: commit(by, 1, &[data(by, 0, &[part(stream, 0, 5)])]) })
        .unwrap();
    for (base, end) in [(4, 8), (5, 8), (7, 8), (0, 5)] {
        let good_then_bad = [data(by, 1, &[part(stream, 5, 6)]), data(by, 2, &[part(stream, base, end)])];
        let outcome = log.apply(Command::CommitObjects { commit: commit(by, 2, &good_then_bad) });
        assert!(matches!(outcome, Err(Rejection::Conflict(_))), "{base}..{end}");
        assert_eq!(log.image.stream(stream).unwrap().committed_end, 5);
        assert!(log.image.object(ObjectId::Data { owner: by, counter: 1 }).is_none());
        assert_eq!(log.image.life(by).unwrap().trim, Position(1));
    }
}

#[test]
fn a_trim_point_never_goes_back() {
    let (mut log, by, _) = one_topic();
    log.apply(Command::CommitObjects { commit: commit(by, 5, &[]) }).unwrap();
    log.apply(Command::CommitObjects { commit: commit(by, 5, &[]) }).unwrap();
    let back = log.apply(Command::CommitObjects { commit: commit(by, 4, &[]) });
    assert!(matches!(back, Err(Rejection::Invalid(_))));
}

/// F36.
#[test]
fn a_repeated_commit_is_accepted_and_a_reused_id_is_not() {
    let (mut log, by, stream) = one_topic();
    let first = commit(by, 3, &[data(by, 0, &[part(stream, 0, 5)])]);
    log.apply(Command::CommitObjects { commit: first.clone() }).unwrap();
    let before = log.image.encode();
    log.apply(Command::CommitObjects { commit: first.clone() }).unwrap();
    assert_eq!(log.image.encode()[9..], before[9..]);
    // A bug that uses a counter twice must not be told that its data is safe.
    for reused in [
        commit(by, 3, &[data(by, 0, &[part(stream, 5, 6)])]),
        commit(by, 4, &[data(by, 0, &[part(stream, 5, 6)])]),
        commit(by, 4, &[data(by, 0, &[part(stream, 0, 5)])]),
    ] {
        assert!(log.apply(Command::CommitObjects { commit: reused }).is_err());
    }
    // The repetition is still one after the stream was trimmed or deleted.
    log.apply(Command::TrimStreams { by, trims: vec![(stream, 2)] }).unwrap();
    log.apply(Command::CommitObjects { commit: first.clone() }).unwrap();
    let id = log.image.topic_named("t").unwrap().id;
    log.apply(Command::DeleteTopics { by, topics: vec![id] }).unwrap();
    log.apply(Command::CommitObjects { commit: first }).unwrap();
    assert_eq!(log.image.garbage().count(), 1);
}

#[test]
fn parts_of_deleted_streams_are_dropped() {
    let (mut log, by, gone) = one_topic();
    let kept = log.topic(by, "kept", 1).partitions[0].log;
    let id = log.image.topic_named("t").unwrap().id;
    log.apply(Command::DeleteTopics { by, topics: vec![id] }).unwrap();
    let objects = [data(by, 0, &[part(gone, 0, 4), part(kept, 0, 2)]), data(by, 1, &[part(gone, 4, 9)])];
    log.apply(Command::CommitObjects { commit: commit(by, 1, &objects) }).unwrap();
    assert_eq!(log.image.object(objects[0].id).unwrap().parts, 1);
    assert_eq!(log.image.garbage().next().unwrap().0, objects[1].id);
    let never = commit(by, 2, &[data(by, 2, &[part(StreamId(999), 0, 1)])]);
    assert!(matches!(log.apply(Command::CommitObjects { commit: never }), Err(Rejection::Invalid(_))));
}

#[test]
fn objects_must_be_the_issuers_own() {
    let (mut log, by, stream) = one_topic();
    let other = Incarnation { broker: 9, epoch: 9 };
    for object in
        [data(other, 0, &[part(stream, 0, 1)]), slot(by, 0, &[part(stream, 0, 1)]), data(by, 0, &[])]
    {
        let outcome = log.apply(Command::CommitObjects { commit: commit(by, 1, &[object]) });
        assert!(matches!(outcome, Err(Rejection::Invalid(_))));
    }
}

/// O2: an adoption is accepted only if the trim point is unchanged and recovery is not complete.
#[test]
fn a_recovery_commits_only_from_the_trim_point_and_only_once() {
    let (mut log, old, stream) = one_topic();
    let new = log.register(1).incarnation;
    let recover = |from: u64, to: u64, objects: &[NewObject], last: bool| Command::CommitRecovered {
        by: new,
        of: old,
        from: Position(from),
        commit: commit(old, to, objects),
        last,
    };
    log.apply(recover(0, 2, &[slot(old, 0, &[part(stream, 0, 3)])], false)).unwrap();
    let stale = log.apply(recover(0, 2, &[slot(old, 1, &[part(stream, 3, 4)])], false));
    assert!(matches!(stale, Err(Rejection::Conflict(_))), "another recoverer moved the trim point");
    let below = log.apply(recover(2, 3, &[slot(old, 1, &[part(stream, 3, 4)])], false));
    assert!(matches!(below, Err(Rejection::Invalid(_))), "a slot below the trim point may be gone");
    log.apply(recover(2, 3, &[slot(old, 2, &[part(stream, 3, 4)])], true)).unwrap();
    let again = log.apply(recover(3, 3, &[], true));
    assert!(matches!(again, Err(Rejection::Conflict(_))), "recovery is complete");
    assert!(log.image.life(old).is_none());
    assert_eq!(log.image.stream(stream).unwrap().committed_end, 4);
}

#[test]
fn only_the_fenced_are_recovered() {
    let (mut log, by, _) = one_topic();
    let own =
        Command::CommitRecovered { by, of: by, from: Position(0), commit: commit(by, 0, &[]), last: true };
    assert!(matches!(log.apply(own), Err(Rejection::Invalid(_))));
    assert!(log.image.is_live(by));
}

#[test]
fn trims_clip_parts_release_objects_and_cut_the_epoch_table() {
    let (mut log, mut by, stream) = one_topic();
    for (counter, base) in [0, 10, 20].into_iter().enumerate() {
        let object = data(by, counter as u64, &[part(stream, base, base + 10)]);
        log.apply(Command::CommitObjects { commit: commit(by, 0, &[object]) }).unwrap();
        log.apply(Command::CloseBroker { by }).unwrap();
        by = log.serving(1);
    }
    log.apply(Command::TrimStreams { by, trims: vec![(stream, 15)] }).unwrap();
    let view = log.image.stream_view(stream).unwrap();
    assert_eq!(view.start, 15);
    let epoch = |epoch, start| EpochStart { epoch, start };
    assert_eq!(view.epochs, [epoch(1, 15), epoch(2, 20), epoch(3, 30)]);
    let located = log.image.locate(stream, 0, 10);
    let ranges: Vec<_> = located.iter().map(|located| (located.part.base, located.part.end)).collect();
    assert_eq!(ranges, [(15, 20), (20, 30)]);
    assert_eq!(log.image.garbage().count(), 1);
    log.apply(Command::TrimStreams { by, trims: vec![(stream, 3)] }).unwrap();
    assert_eq!(log.image.stream(stream).unwrap().start, 15, "a start never goes back");
    let beyond = log.apply(Command::TrimStreams { by, trims: vec![(stream, 31)] });
    assert!(matches!(beyond, Err(Rejection::Invalid(_))));
    log.apply(Command::TrimStreams { by, trims: vec![(stream, 30)] }).unwrap();
    assert_eq!(log.image.stream_view(stream).unwrap().epochs, [epoch(3, 30)]);
    assert_eq!(log.image.garbage().count(), 3);
    assert!(log.image.locate(stream, 0, 10).is_empty());
}

#[test]
fn parts_are_found_by_offset_and_by_timestamp() {
    let (mut log, by, stream) = one_topic();
    let stamped = |base, end, max_timestamp| StreamPart { max_timestamp, ..part(stream, base, end) };
    let parts = [stamped(0, 10, 50), stamped(10, 20, 90), stamped(20, 30, 90), stamped(30, 40, 70)];
    let objects: Vec<_> = parts.iter().zip(0..).map(|(part, counter)| data(by, counter, &[*part])).collect();
    log.apply(Command::CommitObjects { commit: commit(by, 1, &objects) }).unwrap();
    let bases = |from, limit| -> Vec<u64> {
        log.image.locate(stream, from, limit).iter().map(|located| located.part.base).collect()
    };
    assert_eq!(bases(0, 2), [0, 10]);
    assert_eq!(bases(19, 9), [10, 20, 30]);
    assert_eq!(bases(20, 1), [20]);
    assert_eq!(bases(40, 9), [] as [u64; 0]);
    let by_time = |timestamp| log.image.locate_timestamp(stream, timestamp).map(|found| found.part.base);
    assert_eq!([by_time(0), by_time(51), by_time(91)], [Some(0), Some(10), None]);
    assert_eq!(log.image.locate_max_timestamp(stream).unwrap().part.base, 10);
}

#[test]
fn producer_ids_are_handed_out_once() {
    let mut log = Log::formatted();
    let by = log.register(1).incarnation;
    let take = |log: &mut Log, count| log.apply(Command::AllocateProducerIds { by, count });
    assert_eq!(take(&mut log, 1000), Ok(Outcome::ProducerIds(0..1000)));
    let mut log = Log { image: Image::decode(&log.image.encode()).unwrap(), ..log };
    assert_eq!(take(&mut log, 10), Ok(Outcome::ProducerIds(1000..1010)));
    assert!(take(&mut log, 0).is_err());
    assert!(take(&mut log, u32::MAX).is_err());
}

#[test]
fn partitions_are_added_behind_those_there_are() {
    let (mut log, by, _) = one_topic();
    let before = log.image.topic_named("t").unwrap().clone();
    let mut grow = |id, to| match log.apply(Command::CreatePartitions { by, topics: vec![grown(id, to)] }) {
        Ok(Outcome::Grown(mut topics)) => topics.remove(0),
        other => panic!("{other:?}"),
    };
    let after = grow(before.id, 3).unwrap();
    assert_eq!(after.partitions[0], before.partitions[0]);
    assert_eq!((after.partitions.len(), after.partitions[2].leader), (3, 1));
    assert_eq!(grow(before.id, 3), Err(GrowRejection::Equal(3)));
    assert_eq!(
        grow(before.id, 0).unwrap_err().to_string(),
        "The topic t currently has 3 partition(s); 0 would not be an increase."
    );
    assert_eq!(grow(Uuid::nil(), 3), Err(GrowRejection::Gone));
    assert_eq!(
        grow(before.id, u32::MAX),
        Err(GrowRejection::TooMany { existing: 3, added: u32::MAX as usize - 3 })
    );
    assert_eq!(log.image.partition_count(), 3);
}

/// A topic that grows before its broker has opened its leaderships would have streams that nobody recovers.
#[test]
fn partitions_are_not_added_before_leaderships_are_open() {
    let (mut log, _, _) = one_topic();
    let id = log.image.topic_named("t").unwrap().id;
    let by = log.register(1).incarnation;
    assert!(log.apply(Command::CreatePartitions { by, topics: vec![grown(id, 2)] }).is_err());
    assert_eq!(log.image.partition_count(), 1);
}

#[test]
fn configs_change_only_from_what_the_issuer_read() {
    let (mut log, by, _) = one_topic();
    let id = log.image.topic_named("t").unwrap().id;
    let of = |value: &str| vec![(Arc::from("retention.ms"), Arc::from(value))];
    let set = |topic, was, shall| Command::SetTopicConfigs { by, topic, was, shall };
    log.apply(set(id, Vec::new(), of("1"))).unwrap();
    // The second of two that read the same.
    assert!(matches!(log.apply(set(id, Vec::new(), of("2"))), Err(Rejection::Conflict(_))));
    assert_eq!(*log.image.topic(id).unwrap().configs, of("1"));
    // C2.
    log.apply(set(id, Vec::new(), of("1"))).unwrap();
    assert!(matches!(log.apply(set(Uuid::nil(), of("1"), of("2"))), Err(Rejection::Conflict(_))));

    let set = |broker, was, shall| Command::SetBrokerConfigs { by, broker, was, shall };
    log.apply(set(None, Vec::new(), of("1"))).unwrap();
    assert!(matches!(log.apply(set(None, Vec::new(), of("2"))), Err(Rejection::Conflict(_))));
    assert!(matches!(log.apply(set(Some(1), of("1"), of("2"))), Err(Rejection::Conflict(_))));
    log.apply(set(Some(1), Vec::new(), of("2"))).unwrap();
    assert_eq!(log.image.broker_configs(None), of("1"));
    log.apply(set(Some(1), of("2"), Vec::new())).unwrap();
    assert_eq!(log.image.broker_configs(Some(1)), []);
}
