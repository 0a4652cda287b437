//! Partitions move between brokers that live, while clients write and read.

use std::sync::Arc;
use std::time::Duration;

use faults::{Fault, Operation, Rule};
use kafka_protocol::messages::{FetchRequest, FindCoordinatorRequest, JoinGroupResponse};
use kafka_protocol::protocol::StrBytes;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Cluster, NOT_LEADER, batch, read_all, write};
use crate::support::{Options, fetch_request, produce_request, until, within};

/// G1, G2: writers that send what may be lost again, and partitions that move to and fro between three brokers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_moves_under_idempotent_load_lose_and_double_nothing() {
    const PARTITIONS: usize = 4;
    let cluster = Arc::new(Cluster::start(3).await);
    let topic = cluster.topic("busy", &[1, 2, 3, 1]).await;
    // Some time passes between the steps of a move, so that writers meet each of them.
    cluster.store.add(Rule::new(Operation::Put, Fault::Delay(Duration::from_millis(3))));
    let stop = CancellationToken::new();
    let mut writers = JoinSet::new();
    for index in 0..PARTITIONS {
        let (cluster, topic, stop) = (cluster.clone(), topic.clone(), stop.clone());
        writers.spawn(async move {
            let (mut client, mut acknowledged) = (None, Vec::new());
            while !stop.is_cancelled() {
                let sequence = acknowledged.len() as i32;
                let batch = batch(100 + index as i64, sequence);
                let offset = write(&cluster, &mut client, &topic, index, &batch).await;
                acknowledged.push(offset);
                if sequence % 3 == 0 {
                    // As if that had not been heard; perhaps it is somebody else's turn to answer now.
                    let again = write(&cluster, &mut client, &topic, index, &batch).await;
                    assert_eq!(again, offset, "a batch that is sent again is known");
                }
            }
            acknowledged
        });
    }
    for at in 0..40 {
        let index = at % PARTITIONS;
        let from = cluster.leader(&topic, index);
        cluster.move_to(&topic, index, 1 + (from + at as u32 % 2) % 3).await;
    }
    stop.cancel();
    let mut acknowledged = Vec::new();
    while let Some(written) = writers.join_next().await {
        acknowledged.push(written.unwrap());
    }
    let mut total = 0;
    for index in 0..PARTITIONS {
        let found = read_all(&cluster, &topic, index).await;
        let sequences: Vec<i32> = found.iter().map(|(_, sequence)| *sequence).collect();
        assert_eq!(sequences, (0..found.len() as i32).collect::<Vec<_>>());
        let offsets: Vec<i64> = found.iter().map(|(offset, _)| *offset).collect();
        assert!(acknowledged.contains(&offsets), "what was acknowledged is what is there");
        total += found.len();
    }
    assert!(total >= 40, "{total} batches");
    Arc::into_inner(cluster).unwrap().stop().await;
}

/// G2, deterministically: the next leader, and the one after it, know what was written before they led; from the last one's
/// note, or without any, from the store.
#[tokio::test]
async fn a_batch_that_is_sent_again_to_the_next_leader_is_known_there() {
    known_at_the_next_leader(Duration::from_secs(60)).await;
    known_at_the_next_leader(Duration::ZERO).await;
}

async fn known_at_the_next_leader(note_wait: Duration) {
    let mut options = Options::default();
    options.partitions.handover.note_wait = note_wait;
    let cluster = Cluster::with(2, options).await;
    let topic = cluster.topic("known", &[1]).await;
    let mut client = None;
    for sequence in 0..3 {
        assert_eq!(write(&cluster, &mut client, &topic, 0, &batch(9, sequence)).await, i64::from(sequence));
    }
    for (to, next) in [(2, 3), (1, 4), (2, 5)] {
        cluster.move_to(&topic, 0, to).await;
        for sequence in [next - 1, next, next - 1, next - 2] {
            let offset = write(&cluster, &mut client, &topic, 0, &batch(9, sequence)).await;
            assert_eq!(offset, i64::from(sequence), "sequence {sequence} at broker {to}");
        }
    }
    let expected: Vec<_> = (0..6).map(|at| (i64::from(at), at)).collect();
    assert_eq!(read_all(&cluster, &topic, 0).await, expected);
    let image = cluster.broker(2).broker.metadata.image();
    assert_eq!(image.topic(topic.id).unwrap().partitions[0].leader_epoch, 3);
    // Whoever leads no more says so, and names the one who does.
    let mut old = cluster.connect(1).await;
    let refused = old.produce("known", 0, &batch(9, 6)).await;
    assert_eq!((refused.error_code, refused.current_leader.leader_id.0), (NOT_LEADER, -1));
    let mut refused = old.call(10, &produce_request("known", 0, &batch(9, 6))).await;
    let refused = refused.responses.remove(0).partition_responses.remove(0);
    assert_eq!((refused.current_leader.leader_id.0, refused.current_leader.leader_epoch), (2, 3));
    cluster.stop().await;
}

#[tokio::test]
async fn a_fetch_that_waits_is_told_when_the_partition_leaves() {
    let cluster = Cluster::start(2).await;
    let topic = cluster.topic("waited", &[1]).await;
    let mut client = cluster.connect(1).await;
    client.produced("waited", 0, &batch(1, 0)).await;
    let wait = fetch_request("waited", 0, 1).with_max_wait_ms(600_000).with_min_bytes(1);
    let asked = client.send(12, &wait).await;
    let partition = cluster.broker(1).partition(&topic, 0).await;
    until(|| partition.fetches_waiting() == 1).await;
    cluster.move_to(&topic, 0, 2).await;
    let mut told = client.receive::<FetchRequest>(12, asked).await;
    assert_eq!(told.responses.remove(0).partitions.remove(0).error_code, NOT_LEADER);
    let mut next = cluster.connect(2).await;
    assert_eq!(next.fetch("waited", 0, 0).await.high_watermark, 1);
    cluster.stop().await;
}

/// Groups move with their partition of `__consumer_offsets`, and nobody rebalances for it.
#[tokio::test]
async fn members_of_a_group_find_its_next_coordinator_and_go_on() {
    use crate::groups::{commit, commit_request, committed, heartbeat, join, options, sync_request};
    let cluster = Cluster::with(2, options()).await;
    cluster.topic("orders", &[1]).await;
    let mut one = cluster.connect(1).await;
    let commit_by = |group: &str, joined: &JoinGroupResponse, offset| {
        commit_request(group, "orders", offset)
            .with_generation_id_or_member_epoch(joined.generation_id)
            .with_member_id(joined.member_id.clone())
    };
    let find = |group: &str| {
        FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.to_owned())).with_key_type(0)
    };
    one.call(2, &find("here")).await;
    let image = within(cluster.broker(2).broker.metadata.refresh()).await.unwrap();
    let offsets = image.topic_named("__consumer_offsets").unwrap().clone();
    within(cluster.broker(1).broker.metadata.refresh()).await.unwrap();
    // Two groups, one with each broker.
    let partition_of =
        |group: &str| ottla::group::groups::partition_of(group, offsets.partitions.len() as i32) as usize;
    let groups: Vec<String> = (0..200).map(|at| format!("group-{at}")).collect();
    let with =
        |broker| groups.iter().find(|group| cluster.leader(&offsets, partition_of(group)) == broker).unwrap();
    let (moves, stays) = (with(1), with(2));
    let mut two = cluster.connect(2).await;
    let (moving, staying) = (join(&mut one, moves).await, join(&mut two, stays).await);
    for (client, group, joined) in [(&mut one, moves, &moving), (&mut two, stays, &staying)] {
        let synced = client.call(5, &sync_request(group, joined, &[(&joined.member_id, "all")])).await;
        assert_eq!(synced.error_code, 0);
        assert_eq!(commit(client, &commit_by(group, joined, 42)).await, 0);
    }
    cluster.move_to(&offsets, partition_of(moves), 2).await;
    within(cluster.broker(2).broker.metadata.refresh()).await.unwrap();

    assert_eq!(one.call(4, &heartbeat(moves, &moving)).await.error_code, 16, "NOT_COORDINATOR");
    let found = one.call(2, &find(moves)).await;
    assert_eq!((found.error_code, found.node_id.0), (0, 2));
    assert_eq!(two.call(4, &heartbeat(moves, &moving)).await.error_code, 0, "the same generation goes on");
    assert_eq!(committed(&mut two, moves, "orders").await.committed_offset, 42);
    assert_eq!(two.call(4, &heartbeat(stays, &staying)).await.error_code, 0);
    // And back: what came meanwhile is known.
    assert_eq!(commit(&mut two, &commit_by(moves, &moving, 43)).await, 0);
    cluster.move_to(&offsets, partition_of(moves), 1).await;
    within(cluster.broker(1).broker.metadata.refresh()).await.unwrap();
    assert_eq!(two.call(4, &heartbeat(moves, &moving)).await.error_code, 16);
    assert_eq!(one.call(4, &heartbeat(moves, &moving)).await.error_code, 0);
    assert_eq!(committed(&mut one, moves, "orders").await.committed_offset, 43);
    cluster.stop().await;
}
