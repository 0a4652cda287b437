//! A broker dies, and others have what it had.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponsePartition;
use kafka_protocol::messages::{
    FetchRequest, FindCoordinatorRequest, JoinGroupResponse, MetadataRequest, ProduceRequest,
};
use kafka_protocol::protocol::StrBytes;
use ottla::metadata::Metadata;
use wal::Incarnation;

use super::{Cluster, NOT_LEADER, batch, read_all, write};
use crate::support::{Client, DEADLINE, Disk, Options, fetch_request, name, produce_request, within};

const LEADER_NOT_AVAILABLE: i16 = 5;

impl Cluster {
    /// The last broker dies, and `by` fails it over.
    async fn lose_the_last(&mut self, by: u32) {
        self.fence_the_last(by).await.recover(self).await;
    }

    /// The last broker dies, and `by` fences it.
    async fn fence_the_last(&mut self, by: u32) -> Lost {
        let (dead, disk) = (self.brokers.pop().unwrap(), self.disks.pop().unwrap());
        self.movers.pop().unwrap().stop();
        let of = dead.broker.metadata.incarnation().unwrap();
        within(dead.crash(&disk)).await;
        let heir = self.broker(by);
        let metadata = heir.broker.metadata.clone();
        within(metadata.fence(of)).await.unwrap();
        self.refresh().await;
        Lost { of, disk, metadata }
    }
}

/// A broker that is fenced, and not recovered.
struct Lost {
    of: Incarnation,
    disk: Disk,
    /// Of who fenced it.
    metadata: Arc<Metadata>,
}

impl Lost {
    async fn recover(self, cluster: &Cluster) {
        let Lost { of, disk, metadata } = self;
        let (config, from) = (s3stream::Config::default(), metadata.image().life(of).unwrap().trim);
        let by = metadata.incarnation().unwrap();
        let left = s3stream::recovery::Left { config: &config, store: disk.store, metadata, by, of, from };
        within(s3stream::recovery::recover(left, &disk.wal)).await.unwrap();
        cluster.refresh().await;
    }
}

/// A broker dies: its groups go on with whoever coordinates them next, as they were, its producers are recognised, and groups of
/// others notice nothing.
#[tokio::test]
async fn what_a_broker_knew_of_groups_and_producers_outlives_it() {
    use crate::groups::{commit, commit_request, committed, heartbeat, join, options, sync_request};
    let mut cluster = Cluster::with(3, options()).await;
    cluster.topic("orders", &[1]).await;
    let written = cluster.topic("written", &[3]).await;
    let mut producer = None;
    for sequence in 0..3 {
        let offset = write(&cluster, &mut producer, &written, 0, &batch(9, sequence)).await;
        assert_eq!(offset, i64::from(sequence));
    }
    let find = |group: &str| {
        FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.to_owned())).with_key_type(0)
    };
    let mut one = cluster.connect(1).await;
    one.call(2, &find("any")).await;
    for broker in &cluster.brokers {
        within(broker.broker.metadata.refresh()).await.unwrap();
    }
    let offsets =
        cluster.broker(1).broker.metadata.image().topic_named("__consumer_offsets").unwrap().clone();
    let partition_of =
        |group: &str| ottla::group::groups::partition_of(group, offsets.partitions.len() as i32) as usize;
    let groups: Vec<String> = (0..300).map(|at| format!("group-{at}")).collect();
    let with =
        |broker| groups.iter().find(|group| cluster.leader(&offsets, partition_of(group)) == broker).unwrap();
    let (unaffected, orphaned) = (with(1), with(3));
    let commit_by = |group: &str, joined: &JoinGroupResponse, offset| {
        commit_request(group, "orders", offset)
            .with_generation_id_or_member_epoch(joined.generation_id)
            .with_member_id(joined.member_id.clone())
    };
    let mut three = cluster.connect(3).await;
    let (stays, moves) = (join(&mut one, unaffected).await, join(&mut three, orphaned).await);
    for (client, group, joined) in [(&mut one, unaffected, &stays), (&mut three, orphaned, &moves)] {
        let synced = client.call(5, &sync_request(group, joined, &[(&joined.member_id, "all")])).await;
        assert_eq!(synced.error_code, 0);
        assert_eq!(commit(client, &commit_by(group, joined, 42)).await, 0);
    }
    drop((three, producer));

    cluster.lose_the_last(1).await;
    // The generation that it had: a rebalance would have ended that.
    assert_eq!(one.call(4, &heartbeat(unaffected, &stays)).await.error_code, 0);
    assert_eq!(commit(&mut one, &commit_by(unaffected, &stays, 43)).await, 0);

    let found = one.call(2, &find(orphaned)).await;
    assert_eq!(found.error_code, 0);
    let next = found.node_id.0 as u32;
    assert!([1, 2].contains(&next), "{next}");
    let mut coordinator = cluster.connect(next).await;
    assert_eq!(coordinator.call(4, &heartbeat(orphaned, &moves)).await.error_code, 0);
    assert_eq!(committed(&mut coordinator, orphaned, "orders").await.committed_offset, 42);
    assert_eq!(commit(&mut coordinator, &commit_by(orphaned, &moves, 43)).await, 0);
    let again = coordinator.call(5, &sync_request(orphaned, &moves, &[])).await;
    assert_eq!(&again.assignment[..], b"all");

    let mut producer = None;
    for sequence in [2, 1, 3, 2, 4] {
        let offset = write(&cluster, &mut producer, &written, 0, &batch(9, sequence)).await;
        assert_eq!(offset, i64::from(sequence), "sequence {sequence}");
    }
    let expected: Vec<_> = (0..5).map(|at| (i64::from(at), at)).collect();
    assert_eq!(read_all(&cluster, &written, 0).await, expected);
    cluster.stop().await;
}

/// W1 to W3 of `metadata::heirs`: from the fence on clients are told who will lead, for a while. What comes there too early waits;
/// anybody else refuses it.
#[tokio::test]
async fn who_will_lead_what_a_dead_broker_led_is_named_before_it_does() {
    let mut options = Options::default();
    options.metadata.dead_listed_for = DEADLINE;
    options.partitions.handover.expected_wait = DEADLINE;
    let mut cluster = Cluster::with(3, options.clone()).await;
    cluster.topic("left", &[3, 3, 3, 1]).await;
    let mut clients = [cluster.connect(1).await, cluster.connect(2).await];
    for client in &mut clients {
        assert_eq!(leaders_of(&described(client, "left").await), [3, 3, 3, 1]);
    }
    let lost = cluster.fence_the_last(1).await;
    let foretold = described(&mut clients[1], "left").await;
    assert_eq!(leaders_of(&foretold), [2, 1, 2, 1]);
    let mut early = Vec::new();
    for (partition, index) in foretold.iter().zip(0..3) {
        assert_eq!((partition.error_code, partition.leader_epoch), (0, 0));
        let heir = partition.leader_id.0 as usize - 1;
        // Nobody is sent back to who is dead.
        let mut refused = clients[1 - heir].call(10, &produce_request("left", index, &batch(9, 0))).await;
        assert_eq!(refused.node_endpoints, []);
        let refused = refused.responses.remove(0).partition_responses.remove(0);
        assert_eq!((refused.error_code, refused.current_leader.leader_id.0), (NOT_LEADER, -1));
        let mut waiting = cluster.connect(heir as u32 + 1).await;
        let asked = waiting.send(10, &produce_request("left", index, &batch(9, 0))).await;
        early.push((waiting, asked));
    }
    // A fetch of it waits as one of a partition without records does.
    let mut reader = cluster.connect(foretold[0].leader_id.0 as u32).await;
    let wait = fetch_request("left", 0, 0).with_max_wait_ms(600_000).with_min_bytes(1);
    let read = reader.send(12, &wait).await;
    let other = 2 - foretold[0].leader_id.0 as usize;
    let mut refused = within(clients[other].call(12, &wait)).await;
    assert_eq!(refused.responses.remove(0).partitions.remove(0).error_code, NOT_LEADER);
    lost.recover(&cluster).await;
    let now = described(&mut clients[0], "left").await;
    assert_eq!(leaders_of(&now), leaders_of(&foretold));
    assert!(now[..3].iter().all(|partition| partition.leader_epoch == 1));
    for (mut waiting, asked) in early {
        let mut answer = within(waiting.receive::<ProduceRequest>(10, asked)).await;
        assert_eq!(answer.responses.remove(0).partition_responses.remove(0).error_code, 0);
    }
    let read =
        within(reader.receive::<FetchRequest>(12, read)).await.responses.remove(0).partitions.remove(0);
    assert_eq!((read.error_code, read.high_watermark), (0, 1));
    cluster.stop().await;

    options.partitions.handover.expected_wait = Duration::ZERO;
    let mut cluster = Cluster::with(2, options).await;
    cluster.topic("left", &[2]).await;
    let mut client = cluster.connect(1).await;
    assert_eq!(leaders_of(&described(&mut client, "left").await), [2]);
    let lost = cluster.fence_the_last(1).await;
    let unled = described(&mut client, "left").await;
    assert_eq!((unled[0].error_code, unled[0].leader_id.0), (LEADER_NOT_AVAILABLE, -1));
    assert_eq!(client.produce("left", 0, &batch(9, 0)).await.error_code, NOT_LEADER);
    lost.recover(&cluster).await;
    assert_eq!(leaders_of(&described(&mut client, "left").await), [1]);
    cluster.stop().await;
}

/// A topic's partitions, as Metadata tells of them.
async fn described(client: &mut Client, topic: &str) -> Vec<MetadataResponsePartition> {
    let wanted = MetadataRequestTopic::default().with_name(Some(name(topic)));
    let mut answer = client.call(12, &MetadataRequest::default().with_topics(Some(vec![wanted]))).await;
    answer.topics.remove(0).partitions
}

fn leaders_of(partitions: &[MetadataResponsePartition]) -> Vec<i32> {
    partitions.iter().map(|partition| partition.leader_id.0).collect()
}
