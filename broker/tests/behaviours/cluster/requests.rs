//! What any broker is asked to do with partitions and brokers, and tells of them.

use std::time::Duration;

use kafka_protocol::messages::BrokerId;
use ottla::cluster::state::{Ask, CLUSTER_STATE, ClusterState, Standing};
use ottla::cluster::wire;

use super::{Cluster, batch};
use crate::admin::{reassign, reassignments};
use crate::support::{Client, within};

/// Behaviour 115, in a cluster.
#[tokio::test]
async fn behaviour_115_partitions_are_reassigned_by_any_broker_and_led_by_the_first_that_is_named() {
    let cluster = Cluster::start(3).await;
    let topic = cluster.topic("aimed", &[1, 1]).await;
    let mut client = cluster.connect(3).await;
    assert_eq!(reassign(&mut client, "aimed", 0, Some(&[2, 1, 3])).await, 0);
    within(async {
        while cluster.leader(&topic, 0) != 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(reassign(&mut client, "aimed", 0, None).await, 85, "it has moved");
    assert_eq!(reassign(&mut client, "aimed", 0, Some(&[4])).await, 39);
    // One that cannot move now is listed, and can be told to stay.
    cluster.movers.iter().for_each(|mover| mover.stop());
    assert_eq!(reassign(&mut client, "aimed", 1, Some(&[3])).await, 0);
    for topics in [None, Some(vec![("aimed", vec![1, 0])])] {
        let listed = reassignments(&mut client, topics).await;
        let partitions = &listed.topics[0].partitions;
        assert_eq!((listed.topics.len(), partitions.len(), partitions[0].partition_index), (1, 1, 1));
        assert_eq!(
            (&partitions[0].adding_replicas[..], &partitions[0].removing_replicas[..]),
            (&[BrokerId(3)][..], &[BrokerId(1)][..])
        );
    }
    assert_eq!(reassign(&mut client, "aimed", 1, None).await, 0);
    assert_eq!(reassign(&mut client, "aimed", 1, None).await, 85);
    assert_eq!(cluster.leader(&topic, 1), 1);
    cluster.stop().await;
}

async fn state(client: &mut Client, ask: Ask) -> ClusterState {
    client.send_raw(&wire::request(CLUSTER_STATE, 7, "test", &ask.encode())).await;
    let answer = client.receive_frame().await.expect("an answer");
    ClusterState::decode(wire::response_body(&answer, 7).expect("to this request")).unwrap()
}

#[tokio::test]
async fn the_state_of_the_cluster_is_told_and_any_broker_has_another_one_emptied() {
    let cluster = Cluster::start(2).await;
    cluster.topic("seen", &[2, 2, 1]).await;
    cluster.connect(2).await.produced("seen", 0, &batch(1, 0)).await;
    let mut client = cluster.connect(1).await;
    let standings = |state: &ClusterState| -> Vec<(u32, Standing, u32)> {
        state.members.iter().map(|member| (member.id, member.standing, member.leads)).collect()
    };
    let known = state(&mut client, Ask::State { traffic: true }).await;
    assert_eq!((known.error_code, known.from, known.caretaker, known.traffic.len()), (0, 1, Some(1), 0));
    assert_eq!(standings(&known), [(1, Standing::Serving, 1), (2, Standing::Serving, 2)]);
    let traffic = state(&mut cluster.connect(2).await, Ask::State { traffic: true }).await.traffic;
    assert!(traffic.len() == 1 && traffic[0].index == 0 && traffic[0].appended_bytes > 0, "{traffic:?}");
    let told = state(&mut client, Ask::SetDraining { broker: 2, draining: true }).await;
    assert_eq!((told.error_code, told.members[1].standing), (0, Standing::Draining));
    within(async {
        while state(&mut client, Ask::State { traffic: false }).await.members[1].leads > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let told = state(&mut client, Ask::SetDraining { broker: 2, draining: false }).await;
    assert_eq!(standings(&told)[1], (2, Standing::Serving, 0));
    let refused = state(&mut client, Ask::SetDraining { broker: 9, draining: true }).await;
    assert_eq!(refused.error_code, 102);
    assert!(refused.error_message.contains('9'), "{}", refused.error_message);
    // What is none of it ends the connection.
    client.send_raw(&wire::request(CLUSTER_STATE, 8, "test", &[9, 0, 0, 0, 0])).await;
    client.closed().await;
    cluster.stop().await;
}
