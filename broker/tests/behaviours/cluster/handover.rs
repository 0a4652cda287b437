//! One hand-over, step by step: what fails in it, and what clients are told meanwhile.

use std::time::Duration;

use faults::{Fault, Operation, Rule};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{ListOffsetsRequest, ProduceRequest};
use ottla::metadata::image::Topic;
use ottla::partition::handover::{HandOverError, Leave};

use super::{Cluster, NOT_LEADER, batch, read_all};
use crate::support::{Client, DEADLINE, Options, name, produce_request, until, within};

const OFFSET_OUT_OF_RANGE: i16 = 1;

fn leave(topic: &Topic, to: u32) -> [Leave; 1] {
    [Leave { topic: topic.id, index: 0, to }]
}

/// G3: whatever fails, the partition goes on where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_that_fails_leaves_the_partition_where_it_was() {
    let mut options = Options::default();
    options.partitions.handover.prepare_max = Duration::from_secs(2);
    options.partitions.handover.stopped_max = Duration::from_secs(2);
    let cluster = Cluster::with(2, options).await;
    let topic = cluster.topic("stays", &[1]).await;
    let mut client = cluster.connect(1).await;
    let mut sequence = 0;
    let mut produce = async |client: &mut Client| {
        let offset = client.produced("stays", 0, &batch(3, sequence)).await;
        assert_eq!(offset, i64::from(sequence));
        sequence += 1;
    };
    produce(&mut client).await;
    let partitions = cluster.broker(1).broker.partitions.clone();

    // Nobody can take it.
    let done = partitions.hand_over(&leave(&topic, 7)).await.unwrap();
    assert_eq!((done.left.len(), done.stayed.len()), (0, 1));
    produce(&mut client).await;

    // The upload before the stop.
    cluster.store.add(Rule::new(Operation::Put, Fault::Refuse).under("data/"));
    let failed = partitions.hand_over(&leave(&topic, 2)).await.unwrap_err();
    assert!(matches!(failed, HandOverError::Late(_)), "{failed}");
    produce(&mut client).await;
    cluster.store.heal();
    within(cluster.broker(1).storage.flush()).await.unwrap();

    // The upload after it: a batch comes while the first one is under way.
    produce(&mut client).await;
    cluster.store.hold_puts();
    let handing = tokio::spawn({
        let (partitions, leave) = (partitions.clone(), leave(&topic, 2));
        async move { partitions.hand_over(&leave).await }
    });
    until(|| cluster.store.held_puts().iter().any(|key| key.as_ref().starts_with("data/"))).await;
    produce(&mut client).await;
    let before = cluster.store.log().len();
    while !handing.is_finished() {
        // All but what comes after the stop.
        let held = cluster.store.held_puts();
        let uploads = cluster.store.log()[before..]
            .iter()
            .filter(|(operation, key)| *operation == Operation::Put && key.as_ref().starts_with("data/"))
            .count();
        if let Some(nth) = held.iter().position(|key| uploads == 0 || !key.as_ref().starts_with("data/")) {
            cluster.store.complete_put(nth);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let failed = handing.await.unwrap().unwrap_err();
    assert!(matches!(failed, HandOverError::Late(_)), "{failed}");
    produce(&mut client).await;
    cluster.store.resume_puts();
    within(cluster.broker(1).storage.flush()).await.unwrap();

    // The entry is not taken, again and again; and an answer to it is lost. Both are the metadata log's to resolve.
    for fault in [Fault::Refuse, Fault::LoseReply] {
        produce(&mut client).await;
        within(cluster.broker(1).storage.flush()).await.unwrap();
        cluster.store.add(Rule::new(Operation::Put, fault).under("meta/log").times(2));
        let (from, to) = (cluster.leader(&topic, 0), 3 - cluster.leader(&topic, 0));
        let partitions = cluster.broker(from).broker.partitions.clone();
        let done = within(partitions.hand_over(&leave(&topic, to))).await.unwrap();
        assert_eq!((done.left.len(), done.stayed.len()), (1, 0), "{done:?}");
        assert_eq!(cluster.leader(&topic, 0), to);
        within(cluster.broker(to).broker.metadata.refresh()).await.unwrap();
        cluster.move_to(&topic, 0, 1).await;
        within(cluster.broker(1).broker.metadata.refresh()).await.unwrap();
    }
    let expected: Vec<_> = (0..sequence).map(|at| (i64::from(at), at)).collect();
    assert_eq!(read_all(&cluster, &topic, 0).await, expected);
    cluster.stop().await;
}

/// A partition that is not open is not opened for its move, and nobody opens it meanwhile.
#[tokio::test]
async fn whoever_opens_a_partition_that_is_leaving_waits_and_is_told() {
    let cluster = Cluster::start(2).await;
    let topic = cluster.topic("closed", &[1]).await;
    cluster.store.hold_puts();
    let partitions = cluster.broker(1).broker.partitions.clone();
    let handing = tokio::spawn({
        let (partitions, leave) = (partitions.clone(), leave(&topic, 2));
        async move { partitions.hand_over(&leave).await }
    });
    until(|| !cluster.store.held_puts().is_empty()).await;
    let mut client = cluster.connect(1).await;
    let asked = client.send(9, &produce_request("closed", 0, &batch(1, 0))).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    cluster.store.resume_puts();
    assert_eq!(handing.await.unwrap().unwrap().left.len(), 1);
    let mut told = client.receive::<ProduceRequest>(9, asked).await;
    assert_eq!(told.responses.remove(0).partition_responses.remove(0).error_code, NOT_LEADER);
    within(cluster.broker(2).broker.metadata.refresh()).await.unwrap();
    assert_eq!(cluster.connect(2).await.produced("closed", 0, &batch(1, 0)).await, 0);
    cluster.stop().await;
}

/// Producers are sent to the next leader when the entry is written, and before anybody knows that it counts; there they wait.
#[tokio::test]
async fn producers_are_sent_on_early_and_wait_for_the_next_leader() {
    let mut options = Options::default();
    options.partitions.handover.stopped_max = DEADLINE;
    let cluster = Cluster::with(2, options).await;
    let topic = cluster.topic("early", &[1]).await;
    let (mut client, mut other) = (cluster.connect(1).await, cluster.connect(2).await);
    client.produced("early", 0, &batch(1, 0)).await;
    within(cluster.broker(1).storage.flush()).await.unwrap();
    cluster.store.hold_puts();
    let partitions = cluster.broker(1).broker.partitions.clone();
    let handing = tokio::spawn({
        let leave = leave(&topic, 2);
        async move { partitions.hand_over(&leave).await }
    });
    let next = cluster.broker(2).broker.metadata.clone();
    let handing_over = || cluster.broker(1).broker.metadata.handing().borrow().contains_key(&2);
    // All that comes before the entry that decides, and not that.
    within(async {
        while !handing_over() {
            if !cluster.store.held_puts().is_empty() {
                cluster.store.complete_put(0);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    // As the last leader's heartbeat says.
    next.expect(true);
    until(|| !cluster.store.held_puts().is_empty()).await;
    let at_last = client.send(10, &produce_request("early", 0, &batch(1, 1))).await;
    let at_next = other.send(10, &produce_request("early", 0, &batch(1, 1))).await;
    // Whether the entry counts nobody can find out for now.
    cluster.store.add(Rule::new(Operation::Get, Fault::Refuse).under("meta/log"));
    cluster.store.resume_puts();
    let mut told = client.receive::<ProduceRequest>(10, at_last).await;
    let partition = told.responses.remove(0).partition_responses.remove(0);
    assert_eq!(partition.error_code, NOT_LEADER);
    assert_eq!((partition.current_leader.leader_id.0, partition.current_leader.leader_epoch), (2, 1));
    assert_eq!(told.node_endpoints.len(), 1);
    assert_eq!(cluster.leader(&topic, 0), 1, "before this broker knows it");
    cluster.store.heal();
    assert_eq!(within(handing).await.unwrap().unwrap().left.len(), 1);
    let mut taken = other.receive::<ProduceRequest>(10, at_next).await;
    let partition = taken.responses.remove(0).partition_responses.remove(0);
    assert_eq!((partition.error_code, partition.base_offset), (0, 1), "it was there too early, and waited");
    next.expect(false);
    cluster.stop().await;
}

/// A leader that says that it hands something over, and then nothing more, holds up no request of others.
#[tokio::test]
async fn what_is_expected_and_never_comes_is_waited_for_in_bounds() {
    let mut options = Options::default();
    options.partitions.handover.stopped_max = Duration::from_millis(100);
    let cluster = Cluster::with(2, options).await;
    cluster.topic("elsewhere", &[1]).await;
    cluster.broker(2).broker.metadata.expect(true);
    let mut client = cluster.connect(2).await;
    let asked = client.send(10, &produce_request("elsewhere", 0, &batch(1, 0))).await;
    let mut told = client.receive::<ProduceRequest>(10, asked).await;
    assert_eq!(told.responses.remove(0).partition_responses.remove(0).error_code, NOT_LEADER);
    cluster.stop().await;
}

/// From the stop to the decision the next leader may have written already: what is there last, this one does not know.
#[tokio::test]
async fn while_a_partition_leaves_nobody_is_told_of_its_present() {
    let mut options = Options::default();
    options.partitions.handover.stopped_max = DEADLINE;
    let cluster = Cluster::with(2, options).await;
    let topic = cluster.topic("present", &[1]).await;
    let mut client = cluster.connect(1).await;
    client.produced("present", 0, &batch(1, 0)).await;
    within(cluster.broker(1).storage.flush()).await.unwrap();
    let present = async |client: &mut Client| {
        let wanted = ListOffsetsPartition::default().with_current_leader_epoch(-1).with_timestamp(-1);
        let wanted = ListOffsetsTopic::default().with_name(name("present")).with_partitions(vec![wanted]);
        let latest = client.call(4, &ListOffsetsRequest::default().with_topics(vec![wanted])).await;
        let latest = &latest.topics[0].partitions[0];
        let beyond = client.fetch("present", 0, 100).await;
        (latest.error_code, latest.offset, beyond.error_code)
    };
    assert_eq!(present(&mut client).await, (0, 1, OFFSET_OUT_OF_RANGE));
    cluster.store.hold_puts();
    let partitions = cluster.broker(1).broker.partitions.clone();
    let handing = tokio::spawn({
        let leave = leave(&topic, 2);
        async move { partitions.hand_over(&leave).await }
    });
    // All that comes before the entry that decides, and not that.
    within(async {
        while present(&mut client).await != (NOT_LEADER, -1, NOT_LEADER) {
            if !cluster.store.held_puts().is_empty() {
                cluster.store.complete_put(0);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(cluster.leader(&topic, 0), 1, "it is told so before anybody else leads");
    cluster.store.resume_puts();
    within(handing).await.unwrap().unwrap();
    within(cluster.broker(2).broker.metadata.refresh()).await.unwrap();
    let mut next = cluster.connect(2).await;
    assert_eq!(present(&mut next).await, (0, 1, OFFSET_OUT_OF_RANGE));
    cluster.stop().await;
}

/// Whoever is fenced while it is not known what became of its hand-over, and is told to stop, stops.
#[tokio::test]
async fn a_hand_over_whose_outcome_nobody_tells_holds_up_no_end() {
    let mut options = Options::default();
    (options.metadata.log.request_timeout, options.metadata.log.operation_timeout) =
        (Duration::from_millis(100), Duration::from_millis(100));
    let cluster = Cluster::with(2, options).await;
    let topic = cluster.topic("unknown", &[1]).await;
    let (fenced, other) = (&cluster.broker(1).broker, &cluster.broker(2).broker);
    cluster.store.add(Rule::new(Operation::Put, Fault::Hang).under("meta/log"));
    let handing = tokio::spawn({
        let (partitions, leave) = (fenced.partitions.clone(), leave(&topic, 2));
        async move { partitions.hand_over(&leave).await }
    });
    let tries = || {
        cluster
            .store
            .log()
            .iter()
            .filter(|(operation, key)| *operation == Operation::Put && key.as_ref().starts_with("meta/log"))
            .count()
    };
    let before = tries();
    until(|| tries() >= before + 4).await;
    cluster.store.heal();
    let of = fenced.metadata.incarnation().unwrap();
    within(async { while other.metadata.fence(of).await.is_err() {} }).await;
    within(fenced.partitions.shutdown()).await;
    let ended = within(handing).await.unwrap();
    // It may have been applied, or the fence came first.
    println!("{ended:?}");
}
