//! Replacing parts, rule by rule.

use super::*;

/// A serving broker, the log of a topic of one partition, and three objects that hold 0..5, 5..9 and 9..12 of it.
fn three_parts() -> (Log, Incarnation, StreamId, Vec<NewObject>) {
    let mut log = Log::formatted();
    let by = log.serving(1);
    let stream = log.topic(by, "t", 1).partitions[0].log;
    let objects: Vec<_> = [(0, 5), (5, 9), (9, 12)]
        .into_iter()
        .enumerate()
        .map(|(counter, (base, end))| data(by, counter as u64, &[part(stream, base, end)]))
        .collect();
    log.apply(Command::CommitObjects { commit: commit(by, 1, &objects) }).unwrap();
    (log, by, stream, objects)
}

fn replace(by: Incarnation, object: NewObject, sources: &[NewObject]) -> Command {
    Command::ReplaceParts { by, replacements: vec![replacement(object, sources)] }
}

fn ranges(log: &Log, stream: StreamId) -> Vec<(u64, u64, ObjectId)> {
    let located = log.image.locate(stream, 0, 99);
    located.iter().map(|located| (located.part.base, located.part.end, located.object)).collect()
}

fn garbage(log: &Log) -> Vec<ObjectId> {
    log.image.garbage().map(|(id, _)| id).collect()
}

#[test]
fn whole_parts_are_replaced_and_their_objects_are_garbage() {
    let (mut log, by, stream, old) = three_parts();
    let new = data(by, 7, &[StreamPart { max_timestamp: 99, bytes: 70, ..part(stream, 0, 9) }]);
    let before = log.image.stream_view(stream);
    log.apply(replace(by, new.clone(), &old[..2])).unwrap();
    assert_eq!(ranges(&log, stream), [(0, 9, new.id), (9, 12, old[2].id)]);
    assert_eq!(garbage(&log), [old[0].id, old[1].id]);
    assert_eq!(log.image.stream_view(stream), before, "no bound of the stream moves");
    assert_eq!(log.image.object(new.id).unwrap().size_bytes, new.size_bytes);
    assert_eq!(log.image.locate_max_timestamp(stream).unwrap().part.max_timestamp, 99);
    let parts = log.image.stream(stream).unwrap().parts();
    assert_eq!(parts.bytes(), 70 + 30);
    assert_eq!(
        parts.get(&0).unwrap().committed_ms,
        parts.get(&9).unwrap().committed_ms,
        "as old as its sources"
    );
}

/// Its answer may have been lost long enough for everything to happen to its objects.
#[test]
fn a_commit_is_repeated_after_its_objects_were_replaced_and_collected() {
    let (mut log, by, stream, old) = three_parts();
    let first = log.image.encode();
    log.apply(Command::CommitObjects { commit: commit(by, 1, &old) }).unwrap();
    assert_eq!(log.image.encode()[9..], first[9..]);
    let new = data(by, 7, &[part(stream, 0, 12)]);
    log.apply(replace(by, new.clone(), &old)).unwrap();
    let objects = garbage(&log);
    log.apply(Command::ForgetGarbage { by, objects: objects.clone() }).unwrap();
    log.apply(Command::CommitObjects { commit: commit(by, 1, &old) }).unwrap();
    assert_eq!(ranges(&log, stream), [(0, 12, new.id)]);
    assert_eq!(garbage(&log), objects, "a late PUT may have brought them back");
}

#[test]
fn an_object_stays_as_long_as_another_stream_names_it() {
    let mut log = Log::formatted();
    let by = log.serving(1);
    let topic = log.topic(by, "t", 2);
    let (one, two) = (topic.partitions[0].log, topic.partitions[1].log);
    let mixed = data(by, 0, &[part(one, 0, 5), part(two, 0, 5)]);
    log.apply(Command::CommitObjects { commit: commit(by, 1, std::slice::from_ref(&mixed)) }).unwrap();
    let sources = std::slice::from_ref(&mixed);
    log.apply(replace(by, data(by, 1, &[part(one, 0, 5)]), sources)).unwrap();
    assert_eq!(garbage(&log), []);
    log.apply(replace(by, data(by, 2, &[part(two, 0, 5)]), sources)).unwrap();
    assert_eq!(garbage(&log), [mixed.id]);
}

/// A conflict changes nothing, whatever other parts of the command were good.
#[test]
fn anything_but_whole_parts_of_the_sources_is_a_conflict() {
    let (mut log, by, stream, old) = three_parts();
    let before = log.image.encode();
    for (base, end, sources) in [
        (0, 8, &old[..]),   // Ends inside a part.
        (1, 9, &old[..]),   // Begins inside a part.
        (0, 13, &old[..]),  // Beyond the end.
        (12, 13, &old[..]), // Nothing there.
        (0, 12, &old[..2]), // The last one was replaced meanwhile, by something that was not read.
        (0, 5, &[]),
    ] {
        let good = data(by, 6, &[part(stream, 0, 5)]);
        let bad = data(by, 7, &[part(stream, base, end)]);
        let replacements = vec![replacement(good, &old[..1]), replacement(bad, sources)];
        let outcome = log.apply(Command::ReplaceParts { by, replacements });
        assert!(matches!(outcome, Err(Rejection::Conflict(_))), "{base}..{end}: {outcome:?}");
        assert_eq!(log.image.encode()[9..], before[9..], "only the clock may have moved");
    }
}

#[test]
fn what_makes_no_sense_is_invalid() {
    let (mut log, by, stream, old) = three_parts();
    let other = Incarnation { broker: 1, epoch: 999 };
    let whole = part(stream, 0, 5);
    for object in [
        data(other, 7, &[whole]),
        slot(by, 7, &[whole]),
        data(by, 7, &[]),
        data(by, 7, &[part(stream, 5, 5)]),
        data(by, 7, &[part(StreamId(4711), 0, 5)]),
        data(by, 0, &[whole]), // Committed already, with its size.
        NewObject { size_bytes: 1, ..data(by, 1, &[whole]) },
    ] {
        let outcome = log.apply(replace(by, object.clone(), &old[2..]));
        let repeated = object == old[0];
        assert!(
            repeated && outcome.is_ok() || matches!(outcome, Err(Rejection::Invalid(_))),
            "{object:?}: {outcome:?}"
        );
    }
    assert!(log.apply(Command::ReplaceParts { by, replacements: Vec::new() }).is_err());
}

#[test]
fn what_retention_did_meanwhile_is_no_conflict() {
    let (mut log, by, stream, old) = three_parts();
    log.apply(Command::TrimStreams { by, trims: vec![(stream, 6)] }).unwrap();
    let new = data(by, 7, &[part(stream, 0, 9)]);
    log.apply(replace(by, new.clone(), &old[..2])).unwrap();
    assert_eq!(ranges(&log, stream), [(6, 9, new.id), (9, 12, old[2].id)], "clipped at the stream's start");
    log.apply(Command::TrimStreams { by, trims: vec![(stream, 12)] }).unwrap();
    let late = data(by, 8, &[part(stream, 6, 12)]);
    log.apply(replace(by, late.clone(), &[new, old[2].clone()])).unwrap();
    assert!(garbage(&log).contains(&late.id), "nothing of it is left");
    assert_eq!(ranges(&log, stream), []);
}

#[test]
fn parts_of_deleted_streams_are_dropped() {
    let (mut log, by, stream, old) = three_parts();
    let topic = log.image.topic_named("t").unwrap().id;
    log.apply(Command::DeleteTopics { by, topics: vec![topic] }).unwrap();
    let new = data(by, 7, &[part(stream, 0, 9)]);
    log.apply(replace(by, new.clone(), &old[..2])).unwrap();
    assert!(garbage(&log).contains(&new.id));
}

#[test]
fn a_repetition_is_harmless() {
    let (mut log, by, stream, old) = three_parts();
    let new = data(by, 7, &[part(stream, 0, 9)]);
    let command = replace(by, new, &old[..2]);
    log.apply(command.clone()).unwrap();
    let once = log.image.encode();
    log.apply(command.clone()).unwrap();
    assert_eq!(log.image.encode()[9..], once[9..], "only the clock may have moved");
    log.apply(Command::TrimStreams { by, trims: vec![(stream, 10)] }).unwrap();
    let trimmed = log.image.encode();
    log.apply(command).unwrap();
    assert_eq!(log.image.encode()[9..], trimmed[9..], "it is garbage already");
}
