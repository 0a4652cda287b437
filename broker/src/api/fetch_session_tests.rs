//! Tests of fetch sessions: behaviour 69.

use super::*;
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};

fn request(id: i32, epoch: i32, partitions: &[(i32, i64)], forgotten: &[i32]) -> FetchRequest {
    let name = || TopicName(StrBytes::from_static_str("topic"));
    let wanted = partitions
        .iter()
        .map(|(partition, offset)| {
            FetchPartition::default().with_partition(*partition).with_fetch_offset(*offset)
        })
        .collect();
    FetchRequest::default()
        .with_session_id(id)
        .with_session_epoch(epoch)
        .with_topics(vec![FetchTopic::default().with_topic(name()).with_partitions(wanted)])
        .with_forgotten_topics_data(vec![
            ForgottenTopic::default().with_topic(name()).with_partitions(forgotten.to_vec()),
        ])
}

fn said(high_watermark: i64) -> Said {
    Said { high_watermark, log_start: 0, error: false, has_records: false, urgent: false }
}

fn order(plan: &Plan) -> Vec<i32> {
    plan.partitions.iter().map(|wanted| wanted.partition).collect()
}

fn started(sessions: &Sessions, partitions: &[(i32, i64)]) -> i32 {
    let plan = sessions.begin(12, &request(0, 0, partitions, &[])).unwrap();
    let (id, named) = sessions.finish(&plan, &vec![said(5); partitions.len()]);
    assert!(named.into_iter().all(|named| named), "a full response names everything");
    id
}

#[test]
fn behaviour_69_a_session_remembers_partitions_and_what_was_said() {
    let sessions = Sessions::default();
    let id = started(&sessions, &[(0, 10), (1, 20)]);
    assert_ne!(id, 0);
    let plan = sessions.begin(12, &request(id, 1, &[], &[])).unwrap();
    assert_eq!(order(&plan), [0, 1]);
    assert_eq!(plan.partitions[1].fetch_offset, 20);
    assert_eq!(sessions.finish(&plan, &[said(5), said(6)]), (id, vec![false, true]));
    let plan = sessions.begin(12, &request(id, 2, &[(2, 0), (1, 21)], &[0])).unwrap();
    assert_eq!(order(&plan), [1, 2]);
    assert_eq!(plan.partitions[0].fetch_offset, 21);
    let trimmed = Said { log_start: 3, ..said(6) };
    assert_eq!(sessions.finish(&plan, &[trimmed, said(0)]).1, [true, true]);
}

#[test]
fn behaviour_69_names_that_no_topic_can_have_are_not_remembered() {
    let long = || TopicName(StrBytes::from_string("x".repeat(250)));
    let sessions = Sessions::default();
    let mut full = request(0, 0, &[(0, 0)], &[]);
    full.topics[0].topic = long();
    let plan = sessions.begin(12, &full).unwrap();
    assert_eq!(sessions.finish(&plan, &[said(-1)]), (NO_SESSION, vec![true]), "answered all the same");
    let id = started(&sessions, &[(0, 0)]);
    let mut more = request(id, 1, &[(0, 0)], &[]);
    more.topics[0].topic = long();
    assert_eq!(sessions.begin(12, &more).unwrap_err(), ResponseError::FetchSessionIdNotFound);
    assert_eq!(sessions.entries.lock().partitions, 0);
}

#[test]
fn behaviour_69_errors_are_said_each_time_and_their_end_once() {
    let sessions = Sessions::default();
    let id = started(&sessions, &[(0, 0)]);
    let failed = Said { error: true, high_watermark: -1, log_start: -1, ..said(0) };
    // An offset out of range comes with the high watermark, which then is no news.
    let beyond = Said { error: true, ..said(5) };
    for (epoch, said, named) in [
        (1, failed, true),
        (2, failed, true),
        (3, said(5), true),
        (4, said(5), false),
        (5, beyond, true),
        (6, said(5), true),
        (7, said(5), false),
    ] {
        let plan = sessions.begin(12, &request(id, epoch, &[], &[])).unwrap();
        assert_eq!(sessions.finish(&plan, &[said]).1, [named], "{epoch}");
    }
}

#[test]
fn behaviour_69_ids_and_epochs_are_checked() {
    let sessions = Sessions::default();
    let id = started(&sessions, &[(0, 0)]);
    let error = |id, epoch| sessions.begin(12, &request(id, epoch, &[], &[])).map(drop).unwrap_err();
    assert_eq!(error(id.wrapping_add(1), 1), ResponseError::FetchSessionIdNotFound);
    assert_eq!(error(0, 1), ResponseError::FetchSessionIdNotFound);
    assert_eq!(error(id, 2), ResponseError::InvalidFetchSessionEpoch);
    let by_id = sessions.begin(13, &request(id, 1, &[], &[])).map(drop);
    assert_eq!(by_id.unwrap_err(), ResponseError::FetchSessionTopicIdError);
    assert!(sessions.begin(12, &request(id, 1, &[], &[])).is_ok(), "errors changed nothing");
    assert_eq!(error(id, 1), ResponseError::InvalidFetchSessionEpoch, "each epoch once");
    assert_eq!(next_epoch(i32::MAX), 1);
}

#[test]
fn behaviour_69_sessions_end() {
    let sessions = Sessions::default();
    let id = started(&sessions, &[(0, 0)]);
    let plan = sessions.begin(12, &request(id, -1, &[(0, 0)], &[])).unwrap();
    assert_eq!(sessions.finish(&plan, &[said(1)]), (0, vec![true]));
    assert!(sessions.begin(12, &request(id, 1, &[], &[])).is_err());

    let id = started(&sessions, &[(0, 0)]);
    let plan = sessions.begin(12, &request(id, 0, &[(0, 0)], &[])).unwrap();
    let renewed = sessions.finish(&plan, &[said(1)]).0;
    assert_ne!(renewed, 0);
    assert_eq!(sessions.entries.lock().by_id.len(), 1, "the old one was replaced");

    let plan = sessions.begin(12, &request(renewed, 1, &[], &[0])).unwrap();
    assert_eq!(sessions.finish(&plan, &[]), (0, vec![]), "nothing is left of it");
    assert_eq!(sessions.entries.lock().partitions, 0);
}

#[test]
fn partitions_with_records_go_to_the_end() {
    let sessions = Sessions::default();
    let id = started(&sessions, &[(0, 0), (1, 0), (2, 0)]);
    let plan = sessions.begin(12, &request(id, 1, &[], &[])).unwrap();
    let with_records = Said { has_records: true, ..said(5) };
    sessions.finish(&plan, &[with_records, said(5), said(5)]);
    assert_eq!(order(&sessions.begin(12, &request(id, 2, &[], &[])).unwrap()), [1, 2, 0]);
}

#[tokio::test(start_paused = true)]
async fn sessions_and_their_partitions_are_bounded() {
    let limits = Limits { sessions_max: 2, partitions_max: 3, ..Limits::default() };
    let sessions = Sessions::new(limits.clone());
    let first = started(&sessions, &[(0, 0)]);
    tokio::time::advance(Duration::from_secs(1)).await;
    let second = started(&sessions, &[(0, 0)]);
    assert_eq!(started(&sessions, &[(0, 0)]), 0, "no slot, and nobody idles");
    tokio::time::advance(limits.eviction_age).await;
    assert_ne!(started(&sessions, &[(0, 0)]), 0);
    assert!(sessions.begin(12, &request(first, 1, &[], &[])).is_err(), "replaced");
    let more = request(second, 1, &[(1, 0), (2, 0)], &[]);
    assert_eq!(sessions.begin(12, &more).map(drop).unwrap_err(), ResponseError::FetchSessionIdNotFound);
    assert_eq!(sessions.entries.lock().partitions, 1);
}
