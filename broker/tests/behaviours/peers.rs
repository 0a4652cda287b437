//! Several brokers on one store, each on a socket of its own: who hears of what, who is missed, what clients are told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use faults::{FaultStore, Operation, Port};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::{
    CreateTopicsRequest, DescribeClusterRequest, DescribeLogDirsRequest, FindCoordinatorRequest,
    ListGroupsRequest, MetadataRequest,
};
use kafka_protocol::protocol::StrBytes;
use object_store::ObjectStore;
use ottla::cluster::wire::{self, Answer, Beat, Heartbeat, Reply};
use ottla::cluster::{Config, Verdict, Why, detector};
use ottla::metadata::image::{Listener, Topic};
use ottla::metadata::{Metadata, Registering, TopicSpec, cluster_id};
use tokio::net::TcpListener;
use uuid::Uuid;
use wal::Incarnation;

use crate::support::{
    Client, DEADLINE, Disk, Options, TestBroker, fetch_request, name, produce_request, until, within,
};
use crate::testing;

const NOT_LEADER: i16 = 6;

/// Brokers 1, 2, … on one store.
struct Cluster {
    disks: Vec<Disk>,
    brokers: Vec<TestBroker>,
}

/// Nobody polls by itself: what is heard of, is told. Nor is anybody missed for being slow.
fn hints_alone() -> Options {
    let mut options = Options::default();
    options.metadata.log.poll_interval = Duration::from_secs(3_600);
    options.metadata.lease = Duration::from_secs(4 * 3_600);
    options.cluster.detector = patient();
    options
}

fn patient() -> detector::Config {
    detector::Config {
        silence: Duration::from_secs(300),
        patience: Duration::from_secs(300),
        minority_patience: Duration::from_secs(300),
        ..detector::Config::default()
    }
}

/// What is missed is missed soon. Whoever is slow may be suspected for it: the tests wait until it passes.
fn quick() -> Config {
    let detector = detector::Config {
        beat_interval: Duration::from_millis(50),
        silence: Duration::from_secs(1),
        patience: Duration::from_secs(2),
        minority_patience: Duration::from_secs(3),
    };
    Config { detector, reconnect_pause: Duration::from_millis(20), ..Config::default() }
}

impl Cluster {
    async fn start(store: Arc<dyn ObjectStore>, count: u32, options: &Options) -> Cluster {
        let disks: Vec<_> = (1..=count).map(|node| Disk::of(node, store.clone())).collect();
        let mut brokers = Vec::new();
        for disk in &disks {
            brokers.push(TestBroker::on(disk, options.clone()).await);
        }
        Cluster { disks, brokers }
    }

    fn broker(&self, node: u32) -> &TestBroker {
        &self.brokers[node as usize - 1]
    }

    fn life(&self, node: u32) -> Incarnation {
        self.broker(node).broker.metadata.incarnation().unwrap()
    }

    /// A topic whose partitions are led by these, known to all.
    async fn topic(&self, name: &str, leaders: &[u32]) -> Arc<Topic> {
        let partitions = leaders.len() as u32;
        let leaders = leaders.to_vec();
        let spec = TopicSpec { name: name.into(), partitions, configs: Vec::new(), leaders };
        let metadata = &self.broker(1).broker.metadata;
        let topic = metadata.create_topics(vec![spec]).await.remove(0).unwrap();
        let number = metadata.image().number();
        for broker in &self.brokers {
            knows(broker, number).await;
        }
        topic
    }

    async fn stop(self) {
        for broker in self.brokers {
            broker.stop().await;
        }
    }
}

/// Returns once a broker knows entry `number`.
async fn knows(broker: &TestBroker, number: u64) {
    let mut changed = broker.broker.metadata.changed();
    within(changed.wait_for(|known| *known >= number)).await.unwrap();
}

/// Returns once a broker says so of a life.
async fn verdict(broker: &TestBroker, life: Incarnation, expected: impl Fn(Option<Verdict>) -> bool) {
    let mut verdicts = broker.broker.peers.verdicts();
    within(verdicts.wait_for(|verdicts| expected(verdicts.of(life)))).await.unwrap();
}

fn is_dead(verdict: Option<Verdict>) -> bool {
    verdict.is_some_and(|verdict| verdict.dead)
}

/// Returns once every broker is connected to every other.
async fn connected(cluster: &Cluster) {
    within(async {
        for broker in &cluster.brokers {
            let reached = || {
                let status = broker.broker.peers.status();
                status.len() + 1 == cluster.brokers.len()
                    && status.iter().all(|peer| peer.heard.is_some() && peer.unreached.is_none())
            };
            while !reached() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    })
    .await;
}

/// P2: what one broker appends, the others know at once, for a read each and what finds the tail.
#[tokio::test]
async fn p2_an_entry_is_heard_of_without_a_poll() {
    let store = FaultStore::in_memory(3);
    let cluster = Cluster::start(Arc::new(store.clone()), 3, &hints_alone()).await;
    connected(&cluster).await;
    let entries = store.log().len();
    for at in 0..20 {
        let by = cluster.broker(1 + at % 3);
        let spec =
            TopicSpec { name: format!("t{at}").into(), partitions: 1, configs: vec![], leaders: vec![] };
        by.broker.metadata.create_topics(vec![spec]).await.remove(0).unwrap();
        let number = by.broker.metadata.image().number();
        for other in &cluster.brokers {
            knows(other, number).await;
        }
    }
    let reads = store.log()[entries..]
        .iter()
        .filter(|(operation, path)| *operation == Operation::Get && path.as_ref().starts_with("meta/log/"))
        .count();
    // By each of two others the entry and the tail behind it; by the one that appends, that its last entry stands.
    assert!((40..=20 * 8).contains(&reads), "{reads} reads for 20 entries");
    cluster.stop().await;
}

/// A hint of what is not there costs one look, and hides nothing that comes.
#[tokio::test]
async fn p3_a_false_hint_is_looked_after_once_and_forgotten() {
    let cluster = Cluster::start(FaultStore::in_memory(3).inner(), 2, &hints_alone()).await;
    connected(&cluster).await;
    let mut client = cluster.broker(2).connect().await;
    let to = cluster.life(2);
    let lying = Beat { number: u64::MAX, ..beat(cluster.life(1)) };
    let heartbeat = Heartbeat { cluster: cluster_of(cluster.broker(2)), to, beat: lying };
    assert_eq!(tell(&mut client, &heartbeat).await.unwrap().reply, Reply::Welcome);
    cluster.topic("after", &[1, 2]).await;
    cluster.topic("and-after", &[2, 1]).await;
    cluster.stop().await;
}

fn beat(from: Incarnation) -> Beat {
    Beat {
        from,
        number: 0,
        wall_ms: 0,
        ailing: false,
        leaving: false,
        blind: false,
        unreached: false,
        handing: false,
        load: 0,
        suspects: Vec::new(),
    }
}

fn cluster_of(broker: &TestBroker) -> Uuid {
    cluster_id::parse(&broker.broker.cluster_id).unwrap()
}

/// Sends a heartbeat; `None` if the connection was closed for it.
async fn tell(client: &mut Client, heartbeat: &Heartbeat) -> Option<Answer> {
    client.send_raw(&wire::request(wire::HEARTBEAT, 5, "test", &heartbeat.encode())).await;
    let frame = client.receive_frame().await?;
    Some(Answer::decode(wire::response_body(&frame, 5).unwrap()).unwrap())
}

#[tokio::test]
async fn brokers_of_other_clusters_and_other_lives_are_told_so() {
    let broker = TestBroker::start().await;
    let own = broker.broker.metadata.incarnation().unwrap();
    let mut client = broker.connect().await;
    let stranger = Incarnation { broker: 9, epoch: 9 };
    let right = Heartbeat { cluster: cluster_of(&broker), to: own, beat: beat(stranger) };
    for (heartbeat, reply) in [
        (right.clone(), Reply::Welcome),
        (Heartbeat { cluster: Uuid::from_u128(1), ..right.clone() }, Reply::OtherCluster),
        (Heartbeat { to: Incarnation { epoch: own.epoch + 1, ..own }, ..right.clone() }, Reply::OtherLife),
        (Heartbeat { to: stranger, ..right.clone() }, Reply::OtherLife),
    ] {
        let answer = tell(&mut client, &heartbeat).await.unwrap();
        assert_eq!((answer.reply, answer.beat.from), (reply, own), "{heartbeat:?}");
        assert_eq!(answer.cluster, cluster_of(&broker));
    }
    assert_eq!(broker.broker.peers.status(), []);
    // Behaviour 8, of keys that Kafka does not have.
    let good = right.encode();
    let (mut later, mut too_long) = (good.clone(), good.clone());
    later[16 + 12 + 12 + 8 + 8] |= 0xe0;
    later.push(0);
    too_long.resize(good.len() + wire::LATER_BYTES_MAX + 1, 0);
    client.send_raw(&wire::request(wire::HEARTBEAT, 6, "test", &later)).await;
    assert!(client.receive_frame().await.is_some(), "a later version is heard out");
    for body in [&good[..good.len() - 1], &too_long, &[]] {
        let mut client = broker.connect().await;
        client.send_raw(&wire::request(wire::HEARTBEAT, 5, "test", body)).await;
        client.closed().await;
    }
    for (key, version) in [(wire::HEARTBEAT, 1i16), (wire::HEARTBEAT, -1), (wire::HEARTBEAT - 1, 0)] {
        let mut client = broker.connect().await;
        let mut frame = wire::request(key, 5, "test", &good);
        frame[6..8].copy_from_slice(&version.to_be_bytes());
        client.send_raw(&frame).await;
        client.closed().await;
    }
    broker.stop().await;
}

/// Behaviours 24, 25, 31, 81, and 27 of the partitions of somebody else.
#[tokio::test]
async fn every_broker_tells_the_same_of_the_cluster() {
    let cluster = Cluster::start(FaultStore::in_memory(3).inner(), 3, &hints_alone()).await;
    connected(&cluster).await;
    cluster.topic("shared", &[1, 2, 3, 2]).await;
    let addresses: BTreeSet<_> =
        (1..=3).map(|node| (node as i32, i32::from(cluster.broker(node).address.port()))).collect();
    let mut coordinators = BTreeSet::new();
    for node in 1..=3 {
        let mut client = cluster.broker(node).connect().await;
        let response = client.call(12, &MetadataRequest::default().with_topics(None)).await;
        let brokers = response.brokers.iter().map(|broker| (broker.node_id.0, broker.port)).collect();
        assert_eq!((&addresses, response.controller_id.0), (&brokers, 1), "broker {node}");
        let topic = response.topics.iter().find(|topic| topic.name == Some(name("shared"))).unwrap();
        let leaders: Vec<_> = topic.partitions.iter().map(|partition| partition.leader_id.0).collect();
        assert_eq!(leaders, [1, 2, 3, 2], "broker {node}");

        let response = client.call(1, &DescribeClusterRequest::default().with_endpoint_type(1)).await;
        let brokers = response.brokers.iter().map(|broker| (broker.broker_id.0, broker.port)).collect();
        assert_eq!((&addresses, response.controller_id.0), (&brokers, 1), "broker {node}");

        let keys = (0..20).map(|at| StrBytes::from_string(format!("group-{at}"))).collect();
        let request = FindCoordinatorRequest::default().with_key_type(0).with_coordinator_keys(keys);
        let found = client.call(4, &request).await.coordinators;
        assert!(
            found.iter().all(|row| row.error_code == 0 && addresses.contains(&(row.node_id.0, row.port)))
        );
        coordinators.insert(found.iter().map(|row| row.node_id.0).collect::<Vec<_>>());
        knows(cluster.broker(node % 3 + 1), cluster.broker(node).broker.metadata.image().number()).await;
    }
    assert_eq!(coordinators.len(), 1, "all name the same: {coordinators:?}");
    assert!(coordinators.first().unwrap().iter().collect::<BTreeSet<_>>().len() > 1, "and not one for all");
    cluster.stop().await;
}

/// Behaviours 64 and 71: only the leader answers for a partition, and the others say who it is.
#[tokio::test]
async fn only_the_leader_answers_for_its_partitions() {
    let cluster = Cluster::start(FaultStore::in_memory(3).inner(), 2, &hints_alone()).await;
    connected(&cluster).await;
    cluster.topic("led", &[1, 2]).await;
    let batch = testing::batch(1, |_| {});
    for (node, other) in [(1, 2), (2, 1)] {
        let mut client = cluster.broker(node).connect().await;
        let (own, others) = (node as i32 - 1, other as i32 - 1);
        assert_eq!(client.produced("led", own, &batch).await, 0);
        let mut response = client.call(10, &produce_request("led", others, &batch)).await;
        let endpoints: Vec<_> =
            response.node_endpoints.iter().map(|node| (node.node_id.0, node.port)).collect();
        assert_eq!(endpoints, [(other as i32, i32::from(cluster.broker(other).address.port()))]);
        let refused = response.responses.remove(0).partition_responses.remove(0);
        assert_eq!((refused.error_code, refused.current_leader.leader_id.0), (NOT_LEADER, other as i32));
        let mut response = client.call(16, &by_name(fetch_request("led", others, 0), &cluster)).await;
        let refused = response.responses.remove(0).partitions.remove(0);
        assert_eq!((refused.error_code, refused.current_leader.leader_id.0), (NOT_LEADER, other as i32));
        // Clients ask all brokers for these and put the answers together.
        let sizes = client.call(4, &DescribeLogDirsRequest::default().with_topics(None)).await;
        let led: Vec<_> = sizes.results[0]
            .topics
            .iter()
            .filter(|topic| topic.name == name("led"))
            .flat_map(|topic| topic.partitions.iter().map(|partition| partition.partition_index))
            .collect();
        assert_eq!(led, [own]);
    }
    let mut client = cluster.broker(1).connect().await;
    let keys = vec![StrBytes::from_static_str("a-group")];
    client.call(4, &FindCoordinatorRequest::default().with_coordinator_keys(keys)).await;
    for broker in &cluster.brokers {
        knows(broker, cluster.broker(1).broker.metadata.image().number()).await;
        let listed = broker.connect().await.call(4, &ListGroupsRequest::default()).await;
        assert_eq!((listed.error_code, listed.groups.len()), (0, 0));
    }
    cluster.stop().await;
}

/// Fetches name topics by id from version 13 on.
fn by_name(
    mut request: kafka_protocol::messages::FetchRequest,
    cluster: &Cluster,
) -> kafka_protocol::messages::FetchRequest {
    let image = cluster.broker(1).broker.metadata.image();
    for topic in &mut request.topics {
        topic.topic_id = image.topic_named(&topic.topic.0).unwrap().id;
        topic.topic = Default::default();
    }
    request
}

/// D2, D4, D8 over sockets: who is killed is dead to all, its next life is not.
#[tokio::test]
async fn who_is_killed_is_dead_and_its_next_life_is_well() {
    let mut options = Options { cluster: quick(), ..Options::default() };
    options.metadata.dead_listed_for = DEADLINE;
    options.partitions.handover.expected_wait = DEADLINE;
    let mut cluster = Cluster::start(FaultStore::in_memory(3).inner(), 3, &options).await;
    connected(&cluster).await;
    let topic = cluster.topic("led", &[1, 2, 3]).await;
    let killed = cluster.life(3);
    let disk = cluster.disks.remove(2);
    cluster.brokers.remove(2).crash(&disk).await;
    verdict(cluster.broker(1), killed, is_dead).await;
    verdict(cluster.broker(2), killed, is_dead).await;

    cluster.broker(2).broker.metadata.fence(killed).await.unwrap();
    let number = cluster.broker(2).broker.metadata.image().number();
    knows(cluster.broker(1), number).await;
    for node in 1..=2 {
        verdict(cluster.broker(node), killed, |verdict| verdict.is_none()).await;
        let mut client = cluster.broker(node).connect().await;
        let response = client.call(12, &MetadataRequest::default().with_topics(None)).await;
        let mut known: Vec<_> = response.brokers.iter().map(|broker| broker.node_id.0).collect();
        known.sort_unstable();
        assert_eq!(known, [1, 2, 3], "clients are told of the dead for a while");
        let described = &response.topics.iter().find(|found| found.topic_id == topic.id).unwrap().partitions;
        let leaders: Vec<_> = described.iter().map(|row| (row.error_code, row.leader_id.0)).collect();
        assert_eq!(leaders, [(0, 1), (0, 2), (0, 1)], "and of who will lead what it led");
    }

    cluster.brokers.push(TestBroker::on(&disk, options).await);
    cluster.disks.push(disk);
    connected(&cluster).await;
    let next = cluster.life(3);
    assert!(next.epoch > killed.epoch);
    for node in 1..=2 {
        verdict(cluster.broker(node), next, |verdict| verdict.is_none()).await;
    }
    cluster.stop().await;
}

/// D3: a broker that stops in order says so, and is missed by nobody.
#[tokio::test]
async fn who_leaves_in_order_is_not_suspected() {
    // Nothing but refused connections could make it suspected, however slow this machine is.
    let mut options = Options { cluster: quick(), ..Options::default() };
    options.cluster.detector = detector::Config { beat_interval: Duration::from_millis(50), ..patient() };
    options.cluster.request_timeout = DEADLINE;
    let mut cluster = Cluster::start(FaultStore::in_memory(3).inner(), 2, &options).await;
    connected(&cluster).await;
    let leaver = cluster.life(2);
    cluster.brokers.remove(1).stop().await;
    // The entry that it closes with comes by hint or poll; until then its address refuses.
    let stayer = cluster.broker(1);
    let mut verdicts = stayer.broker.peers.verdicts();
    within(async {
        while stayer.broker.metadata.image().is_live(leaver) {
            assert_eq!(verdicts.borrow_and_update().of(leaver), None);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    cluster.stop().await;
}

/// A life without a broker: a registration, and an address at which somebody may or may not answer.
async fn registered(store: &Arc<dyn ObjectStore>, node: u32, port: u16) -> Arc<Metadata> {
    let metadata = Metadata::open(store.clone(), Default::default()).await.unwrap();
    let listener = Listener { host: "127.0.0.1".into(), port };
    let registering = Registering {
        id: node,
        wal: &wal::Uri("memory:other".to_owned()),
        listener,
        rack: None,
        machine: "machine",
        replaces: None,
        claim: None,
    };
    metadata.register(registering).await.unwrap();
    metadata
}

/// The same, open.
async fn opened(store: &Arc<dyn ObjectStore>, node: u32, port: u16) -> Arc<Metadata> {
    let metadata = registered(store, node, port).await;
    metadata.open_leaderships().await.unwrap();
    metadata
}

/// D1, D3 over sockets: a process that is stopped still has its connections accepted, and answers nothing.
#[tokio::test]
async fn who_accepts_and_answers_nothing_is_dead() {
    let store = FaultStore::in_memory(3).inner();
    let options = Options { cluster: quick(), ..Options::default() };
    let cluster = Cluster::start(store.clone(), 1, &options).await;
    let stopped = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = opened(&store, 2, stopped.local_addr().unwrap().port()).await;
    let life = other.incarnation().unwrap();
    let broker = cluster.broker(1);
    broker.broker.metadata.refresh().await.unwrap();
    let mut client = broker.connect().await;
    let heartbeat = Heartbeat { cluster: cluster_of(broker), to: cluster.life(1), beat: beat(life) };
    // Heard, if only because it asks.
    within(async {
        while broker.broker.peers.status().iter().all(|peer| peer.heard.is_none()) {
            tell(&mut client, &heartbeat).await.unwrap();
        }
    })
    .await;
    let silent = Some(Verdict { why: Why::Silent, dead: true });
    verdict(broker, life, |verdict| verdict == silent).await;
    // It goes on.
    within(async {
        while broker.broker.peers.verdicts().borrow().of(life).is_some() {
            tell(&mut client, &heartbeat).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let _ = other.close(true).await;
    cluster.stop().await;
}

/// D10: nobody is suspected yet, and what is new is not led by whom nobody hears, until somebody does.
#[tokio::test]
async fn a_newcomer_that_is_not_heard_gets_no_partitions() {
    let store = FaultStore::in_memory(3).inner();
    let mut options = Options { cluster: quick(), ..Options::default() };
    options.cluster.detector.patience = Duration::from_secs(300);
    options.cluster.detector.minority_patience = Duration::from_secs(300);
    // It is connected to, and nothing is wrong with that connection as long as the test lasts.
    options.cluster.request_timeout = Duration::from_secs(300);
    let cluster = Cluster::start(store.clone(), 1, &options).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = opened(&store, 2, silent.local_addr().unwrap().port()).await;
    let broker = cluster.broker(1);
    broker.broker.metadata.refresh().await.unwrap();
    within(async {
        while broker.broker.peers.avoided() != BTreeSet::from([2]) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(broker.broker.peers.verdicts().borrow().iter().count(), 0);
    let mut client = broker.connect().await;
    assert_eq!(leaders(broker, &mut client, "unheard", 2).await, [1, 1]);
    let life = other.incarnation().unwrap();
    let heartbeat = Heartbeat { cluster: cluster_of(broker), to: cluster.life(1), beat: beat(life) };
    tell(&mut client, &heartbeat).await.unwrap();
    assert_eq!(broker.broker.peers.untried(), BTreeSet::new());
    assert_eq!(leaders(broker, &mut client, "heard", 2).await, [2, 1]);
    // Or the stop would wait for its answer.
    drop(silent);
    let _ = other.close(true).await;
    cluster.stop().await;
}

/// Who leads a new topic.
async fn leaders(broker: &TestBroker, client: &mut Client, topic: &str, partitions: i32) -> Vec<u32> {
    let wanted = CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(1);
    let created = client.call(7, &CreateTopicsRequest::default().with_topics(vec![wanted])).await;
    assert_eq!(created.topics[0].error_code, 0);
    let image = broker.broker.metadata.image();
    let topic = image.topic_named(topic).unwrap();
    topic.partitions.iter().map(|partition| partition.leader).collect()
}

/// A broker that starts does not listen yet; and where no address can be reached, it is not the addresses that are wrong.
#[tokio::test]
async fn an_address_is_missed_only_of_who_is_open_and_where_others_can_be_reached() {
    let store = FaultStore::in_memory(3).inner();
    let options = Options { cluster: quick(), ..Options::default() };
    let cluster = Cluster::start(store.clone(), 1, &options).await;
    let (broker, nobody) = (cluster.broker(1), Port::reserve());
    let starting = registered(&store, 2, nobody.number()).await;
    broker.broker.metadata.refresh().await.unwrap();
    tokio::time::sleep(quick().detector.silence * 2).await;
    assert!(broker.broker.peers.status()[0].unreached.is_some());
    assert_eq!(broker.broker.peers.unreached(), BTreeSet::new());
    starting.open_leaderships().await.unwrap();
    broker.broker.metadata.refresh().await.unwrap();
    until(|| broker.broker.peers.unreached() == BTreeSet::from([2])).await;
    let other = opened(&store, 3, nobody.number()).await;
    broker.broker.metadata.refresh().await.unwrap();
    until(|| broker.broker.peers.unreached().is_empty()).await;
    for life in [starting, other] {
        let _ = life.close(true).await;
    }
    cluster.stop().await;
}

/// An operator hears of an address that is wrong, and so does whoever gave it; nothing new is led there, as clients would not get
/// there either.
#[tokio::test]
async fn an_address_that_cannot_be_reached_is_told() {
    let store = FaultStore::in_memory(3).inner();
    let options = Options { cluster: quick(), ..Options::default() };
    let cluster = Cluster::start(store.clone(), 1, &options).await;
    let nobody = Port::reserve();
    let other = opened(&store, 2, nobody.number()).await;
    let life = other.incarnation().unwrap();
    let broker = cluster.broker(1);
    broker.broker.metadata.refresh().await.unwrap();
    let mut client = broker.connect().await;
    let heartbeat = Heartbeat { cluster: cluster_of(broker), to: cluster.life(1), beat: beat(life) };
    // Its link has failed for so long that the answers say it.
    within(async {
        while !tell(&mut client, &heartbeat).await.unwrap().beat.unreached {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let status = broker.broker.peers.status();
    assert!(status[0].unreached.as_deref().unwrap().contains("refuses"), "{status:?}");
    assert_eq!(broker.broker.peers.untried(), BTreeSet::new(), "it is heard");
    assert_eq!(broker.broker.peers.unreached(), BTreeSet::from([2]));
    assert_eq!(leaders(broker, &mut client, "reached", 4).await, [1; 4]);
    let _ = other.close(true).await;
    cluster.stop().await;
}
