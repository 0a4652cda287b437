//! Many at once: a large group whose members die, and answers in their order under load.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use ottla::config::BrokerConfig;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::support::{Client, Disk, Options, TestBroker, fetch_request, produce_request, within};
use crate::testing;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// What each member knows: its generation, and for the leader how many are in it.
type Known = Arc<Mutex<HashMap<usize, (i32, Option<usize>)>>>;

/// One attempt to be part of a generation; `None` if it was over before.
async fn enter(client: &mut Client, member_id: &mut StrBytes) -> Option<(i32, Option<usize>)> {
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
    let join = JoinGroupRequest::default()
        .with_group_id(GroupId(text("storm")))
        .with_session_timeout_ms(2_000)
        .with_rebalance_timeout_ms(5_000)
        .with_member_id(member_id.clone())
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    let joined = client.call(9, &join).await;
    match joined.error_code {
        0 => {}
        79 => *member_id = joined.member_id.clone(),
        25 => *member_id = StrBytes::default(),
        other => panic!("JoinGroup: {other}"),
    }
    if joined.error_code != 0 {
        return None;
    }
    let leads = joined.leader == joined.member_id;
    assert_eq!(leads, !joined.members.is_empty(), "behaviour 85");
    let assignments = joined.members.iter().map(|member| {
        SyncGroupRequestAssignment::default()
            .with_member_id(member.member_id.clone())
            .with_assignment(Bytes::copy_from_slice(member.member_id.as_bytes()))
    });
    let sync = SyncGroupRequest::default()
        .with_group_id(GroupId(text("storm")))
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")))
        .with_assignments(assignments.collect());
    let synced = client.call(5, &sync).await;
    match synced.error_code {
        0 => assert_eq!(&synced.assignment[..], joined.member_id.as_bytes(), "its own assignment"),
        22 | 25 | 27 => return None,
        other => panic!("SyncGroup: {other}"),
    }
    Some((joined.generation_id, leads.then_some(joined.members.len())))
}

async fn member(mut client: Client, index: usize, known: Known) {
    let mut member_id = StrBytes::default();
    loop {
        let Some((generation, led)) = enter(&mut client, &mut member_id).await else { continue };
        known.lock().insert(index, (generation, led));
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let beat = HeartbeatRequest::default()
                .with_group_id(GroupId(text("storm")))
                .with_generation_id(generation)
                .with_member_id(member_id.clone());
            match client.call(4, &beat).await.error_code {
                0 => {}
                22 | 25 | 27 => break,
                other => panic!("Heartbeat: {other}"),
            }
        }
    }
}

/// Waits until `count` members are in one generation, all of them and nobody else.
async fn settled(known: &Known, members: &mut JoinSet<()>, count: usize) {
    within(async {
        loop {
            let whole = {
                let known = known.lock();
                let newest = known.values().map(|(generation, _)| *generation).max().unwrap_or(0);
                let of_it: Vec<_> = known.values().filter(|(generation, _)| *generation == newest).collect();
                of_it.len() == count && of_it.iter().any(|(_, led)| *led == Some(count))
            };
            if whole {
                return;
            }
            while let Some(ended) = members.try_join_next() {
                assert!(ended.is_err_and(|error| error.is_cancelled()), "a member ended");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn behaviour_86_and_behaviour_90_fifty_members_settle_and_settle_again_when_some_die() {
    let set = [
        ("group.initial.rebalance.delay.ms".to_owned(), "0".to_owned()),
        ("group.min.session.timeout.ms".to_owned(), "1000".to_owned()),
    ];
    let config = BrokerConfig::new(&set.into()).expect("a valid config");
    let broker = TestBroker::on(&Disk::new(), Options { config, ..Options::default() }).await;
    let known = Known::default();
    let mut members = JoinSet::new();
    let mut handles = Vec::new();
    for index in 0..50 {
        handles.push(members.spawn(member(broker.connect().await, index, known.clone())));
    }
    settled(&known, &mut members, 50).await;
    // Their connections go with them, without a LeaveGroup.
    handles.drain(..10).for_each(|handle| handle.abort());
    known.lock().retain(|index, _| *index >= 10);
    settled(&known, &mut members, 40).await;
}

#[tokio::test]
async fn behaviour_9_mixed_requests_of_many_connections_are_answered_in_order() {
    let broker = TestBroker::start().await;
    broker.topic("topic", 4, &[]).await;
    let mut connections = JoinSet::new();
    for number in 0..8 {
        let mut client = broker.connect().await;
        connections.spawn(async move {
            let batch = testing::batch(3, |_| {});
            for _ in 0..10 {
                let mut sent = Vec::new();
                for step in 0..40 {
                    let id = match step % 4 {
                        0 | 1 => client.send(9, &produce_request("topic", number % 4, &batch)).await,
                        2 => client.send(12, &fetch_request("topic", number % 4, 0)).await,
                        _ => client.send(3, &ApiVersionsRequest::default()).await,
                    };
                    sent.push((step % 4, id));
                }
                let mut last = -1;
                for (kind, id) in sent {
                    match kind {
                        0 | 1 => {
                            let response = client.receive::<ProduceRequest>(9, id).await;
                            let partition = &response.responses[0].partition_responses[0];
                            assert_eq!(partition.error_code, 0);
                            assert!(partition.base_offset > last, "appended in the order of the requests");
                            last = partition.base_offset;
                        }
                        2 => {
                            let response = client.receive::<FetchRequest>(12, id).await;
                            let partition = &response.responses[0].partitions[0];
                            assert!(partition.high_watermark > last, "what was answered before is there");
                        }
                        _ => drop(client.receive::<ApiVersionsRequest>(3, id).await),
                    }
                }
            }
        });
    }
    while let Some(done) = within(connections.join_next()).await {
        done.expect("a connection's task");
    }
    let mut client = broker.connect().await;
    for partition in 0..4 {
        assert_eq!(client.fetch("topic", partition, 0).await.high_watermark, 2 * 10 * 20 * 3);
    }
}
