//! Brokers that are emptied, and those that get their share when they join or are back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use faults::{Fault, Operation, Rule};
use ottla::cluster::joined::Pauses;
use ottla::cluster::mover::{self, Mover};
use ottla::metadata::command::Reassigned;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Cluster, batch, read_all};
use crate::support::{Options, until, within};

/// What a drain costs: entries and objects, not a request for each partition; and idle partitions need not even be opened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_partitions_leave_in_a_few_entries_and_objects() {
    let cluster = Cluster::start(3).await;
    let topic = cluster.topic("many", &[1; 1000]).await;
    let mut client = cluster.connect(1).await;
    for index in (0..1000).step_by(10) {
        client.produced("many", index, &batch(5, 0)).await;
    }
    let before = cluster.broker(1).broker.metadata.image().number();
    let (log, gets) = (cluster.store.log().len(), cluster.store.counts().gets);
    let left = tokio::time::timeout(Duration::from_secs(120), cluster.movers[0].drain()).await.unwrap();
    assert_eq!(left.unwrap(), 0);
    let image = cluster.broker(1).broker.metadata.image();
    assert_eq!([1, 2, 3].map(|broker| image.led_count(broker)), [0, 500, 500]);
    let entries = image.number() - before;
    let requests = cluster.store.log();
    let objects = requests[log..]
        .iter()
        .filter(|(operation, key)| *operation == Operation::Put && key.as_ref().starts_with("data/"));
    let objects = objects.count();
    assert!(entries <= 8, "{entries} entries");
    assert!(objects <= 4, "{objects} objects");
    assert!(cluster.store.counts().gets - gets < 200, "nobody opened a partition that nobody asked for");
    for broker in [2, 3] {
        // Whoever is asked before it knows says that another leads.
        within(cluster.broker(broker).broker.metadata.refresh()).await.unwrap();
    }
    for index in (0..1000).step_by(100) {
        assert_eq!(read_all(&cluster, &topic, index).await, [(0, 0)]);
    }
    cluster.stop().await;
}

/// A broker that joins gets its share without being told, and V4: what was moved by hand stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_no_longer_emptied_gets_its_share_back() {
    let cluster = Cluster::start(2).await;
    let topic = cluster.topic("shared", &[1, 2, 1, 2, 1, 2, 1, 2]).await;
    for index in [0, 2] {
        cluster.move_to(&topic, index, 2).await;
    }
    let led = |broker| cluster.broker(1).broker.metadata.image().led_count(broker);
    assert_eq!((led(1), led(2)), (2, 6), "that nobody asked to be undone");
    within(cluster.movers[1].drain()).await.unwrap();
    within(cluster.broker(1).broker.metadata.refresh()).await.unwrap();
    assert_eq!((led(1), led(2)), (8, 0));
    // An emptying that is over before the caretaker looks is none to it; after a failure it looks after a pause.
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.broker(1).broker.metadata.set_draining(2, false).await.unwrap();
    tokio::time::timeout(Duration::from_secs(120), async {
        while (led(1), led(2)) != (4, 4) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    cluster.stop().await;
}

/// V4: a caretaker that cannot hand over what should leave it has others give a newcomer its share nevertheless.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_cannot_leave_the_caretaker_keeps_nobody_from_a_share() {
    let mut options = Options::default();
    options.partitions.handover.prepare_max = Duration::from_millis(500);
    let soon = Duration::from_millis(100);
    let pauses = Pauses { joining: soon, returning: soon };
    let movers = mover::Config { pauses, joining_patience: soon, ..Default::default() };
    let cluster = Cluster::moving(3, options, |disk| disk, movers).await;
    within(cluster.movers[2].drain()).await.unwrap();
    for broker in &cluster.brokers {
        within(broker.broker.metadata.refresh()).await.unwrap();
    }
    let topic = cluster.topic("stuck", &[1, 2, 1, 2, 1, 2, 1, 2]).await;
    let metadata = &cluster.broker(1).broker.metadata;
    assert_eq!(metadata.image().caretaker(), metadata.incarnation());
    // What is in its log only cannot be uploaded.
    cluster.connect(1).await.produced("stuck", 0, &batch(1, 0)).await;
    cluster.store.add(Rule::new(Operation::Put, Fault::Refuse).under("data/"));
    let aim = Reassigned { topic: topic.id, partition: 0, target: Some(2) };
    metadata.reassign(vec![aim]).await.unwrap().remove(0).unwrap();
    metadata.set_draining(3, false).await.unwrap();
    tokio::time::timeout(Duration::from_secs(120), async {
        while metadata.image().led_count(3) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(cluster.leader(&topic, 0), 1);
    cluster.store.heal();
    cluster.stop().await;
}

/// V1, V4: whoever joins under an address that nobody reaches gets its share once it is reached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_cannot_be_connected_to_gets_no_share() {
    let cluster = Cluster::start(2).await;
    cluster.movers[0].stop();
    let topic = cluster.topic("shared", &[1; 8]).await;
    let broker = &cluster.broker(1).broker;
    broker.metadata.set_draining(2, true).await.unwrap();
    // How often it was asked for: once for each plan.
    let (unreached, asked) = (Arc::new(Mutex::new(BTreeSet::from([2]))), watch::Sender::new(0));
    let mut plans = asked.subscribe();
    let answer = unreached.clone();
    let says = move || {
        asked.send_modify(|asked| *asked += 1);
        answer.lock().clone()
    };
    let pauses = Pauses { joining: Duration::from_millis(20), returning: Duration::from_millis(20) };
    let config = mover::Config { pauses, ..Default::default() };
    let (partitions, metadata) = (broker.partitions.clone(), broker.metadata.clone());
    let mover = Mover::start(config, partitions, metadata, Arc::new(BTreeSet::new), Arc::new(says));
    broker.metadata.set_draining(2, false).await.unwrap();
    within(plans.wait_for(|plans| *plans >= 3)).await.unwrap();
    let image = broker.metadata.image();
    let partitions = &image.topic(topic.id).unwrap().partitions;
    assert!(partitions.iter().all(|partition| partition.leader == 1 && partition.target.is_none()));
    unreached.lock().clear();
    until(|| broker.metadata.image().led_count(2) == 4).await;
    mover.stop();
    cluster.stop().await;
}
