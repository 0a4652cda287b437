//! Several brokers on one store, in this process: partitions move between them while clients write and read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use faults::{Fault, FaultStore, Operation, Rule};
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponsePartition;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId, FetchRequest, FindCoordinatorRequest, JoinGroupResponse,
    ListOffsetsRequest, ListPartitionReassignmentsRequest, MetadataRequest, ProduceRequest,
};
use kafka_protocol::protocol::StrBytes;
use ottla::cluster::joined::Pauses;
use ottla::cluster::mover::{self, Mover};
use ottla::cluster::state::{Ask, CLUSTER_STATE, ClusterState, Standing};
use ottla::cluster::wire;
use ottla::metadata::command::Reassigned;
use ottla::metadata::image::Topic;
use ottla::metadata::{Metadata, TopicSpec};
use ottla::partition::batch::BatchHeader;
use ottla::partition::handover::{HandOverError, Leave};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wal::Incarnation;

use crate::support::{
    Client, DEADLINE, Disk, Options, TestBroker, fetch_request, name, produce_request, until, within,
};
use crate::testing;

/// Brokers 1, 2, … on one store.
pub struct Cluster {
    store: FaultStore,
    brokers: Vec<TestBroker>,
    disks: Vec<Disk>,
    movers: Vec<Arc<Mover>>,
    /// As peers do: whoever appended tells the others.
    _hints: JoinSet<()>,
}

impl Cluster {
    pub async fn start(count: u32) -> Cluster {
        Cluster::with(count, Options::default()).await
    }

    pub async fn with(count: u32, options: Options) -> Cluster {
        Cluster::of(count, options, |disk| disk).await
    }

    /// With what `place` makes of each broker's disk.
    pub async fn of(count: u32, options: Options, place: impl Fn(Disk) -> Disk) -> Cluster {
        Cluster::moving(count, options, place, mover::Config::default()).await
    }

    /// With movers like this, which try again soon.
    async fn moving(
        count: u32,
        options: Options,
        place: impl Fn(Disk) -> Disk,
        movers: mover::Config,
    ) -> Cluster {
        let store = FaultStore::in_memory(7);
        let disks: Vec<_> = (1..=count).map(|node| place(Disk::of(node, Arc::new(store.clone())))).collect();
        let mut brokers = Vec::new();
        for disk in &disks {
            brokers.push(TestBroker::on(disk, options.clone()).await);
        }
        let movers = brokers
            .iter()
            .map(|broker| {
                let broker = &broker.broker;
                let config = mover::Config { retry_pause: Duration::from_millis(20), ..movers.clone() };
                Mover::start(
                    config,
                    broker.partitions.clone(),
                    broker.metadata.clone(),
                    Arc::new(BTreeSet::new),
                    Arc::new(BTreeSet::new),
                )
            })
            .collect();
        let mut hints = JoinSet::new();
        for from in &brokers {
            let others: Vec<Arc<Metadata>> = brokers
                .iter()
                .filter(|other| other.broker.node_id != from.broker.node_id)
                .map(|other| other.broker.metadata.clone())
                .collect();
            let mut changed = from.broker.metadata.changed();
            hints.spawn(async move {
                while changed.changed().await.is_ok() {
                    let number = *changed.borrow_and_update();
                    for other in others.iter().filter(|other| other.image().number() < number) {
                        let _ = other.refresh().await;
                    }
                }
            });
        }
        Cluster { store, brokers, disks, movers, _hints: hints }
    }

    pub fn broker(&self, node: u32) -> &TestBroker {
        &self.brokers[node as usize - 1]
    }

    /// A topic whose partitions are led by these.
    pub async fn topic(&self, name: &str, leaders: &[u32]) -> Arc<Topic> {
        let partitions = leaders.len() as u32;
        let spec =
            TopicSpec { name: name.into(), partitions, configs: Vec::new(), leaders: leaders.to_vec() };
        let topic = self.brokers[0].broker.metadata.create_topics(vec![spec]).await.remove(0).unwrap();
        self.refresh().await;
        topic
    }

    /// Who leads it, by the broker that knows most.
    fn leader(&self, topic: &Topic, index: usize) -> u32 {
        let images = self.brokers.iter().map(|broker| broker.broker.metadata.image());
        let newest = images.max_by_key(|image| image.number()).unwrap();
        newest.topic(topic.id).unwrap().partitions[index].leader
    }

    /// Has a partition move, and returns once it has.
    pub async fn move_to(&self, topic: &Topic, index: usize, to: u32) {
        let aim = Reassigned { topic: topic.id, partition: index as u32, target: Some(to) };
        self.brokers[0].broker.metadata.reassign(vec![aim]).await.unwrap().remove(0).unwrap();
        within(async {
            while self.leader(topic, index) != to {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    pub async fn connect(&self, node: u32) -> Client {
        self.broker(node).connect().await
    }

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

    async fn refresh(&self) {
        for broker in &self.brokers {
            within(broker.broker.metadata.refresh()).await.unwrap();
        }
    }

    pub async fn stop(self) {
        self.movers.iter().for_each(|mover| mover.stop());
        for broker in self.brokers {
            let partitions = broker.broker.partitions.clone();
            broker.stop().await;
            assert_eq!(partitions.failure(), None);
        }
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

const LEADER_NOT_AVAILABLE: i16 = 5;
const NOT_LEADER: i16 = 6;
const OFFSET_OUT_OF_RANGE: i16 = 1;

pub fn batch(producer_id: i64, sequence: i32) -> Vec<u8> {
    let batch = testing::batch(1, |spec| {
        (spec.producer_id, spec.producer_epoch, spec.base_sequence) = (producer_id, 0, sequence);
    });
    batch.to_vec()
}

/// Produces to whoever leads, until it is taken; the base offset.
pub async fn write(
    cluster: &Cluster,
    client: &mut Option<(u32, Client)>,
    topic: &Topic,
    index: usize,
    batch: &[u8],
) -> i64 {
    loop {
        let leader = cluster.leader(topic, index);
        if client.as_ref().is_none_or(|(node, _)| *node != leader) {
            *client = Some((leader, cluster.connect(leader).await));
        }
        let (_, connection) = client.as_mut().unwrap();
        let response = connection.produce(&topic.name, index as i32, batch).await;
        match response.error_code {
            0 => return response.base_offset,
            NOT_LEADER => tokio::time::sleep(Duration::from_millis(1)).await,
            _ => panic!("{response:?}"),
        }
    }
}

/// All batches of a partition: base offset, and base sequence.
pub async fn read_all(cluster: &Cluster, topic: &Topic, index: usize) -> Vec<(i64, i32)> {
    let mut client = cluster.connect(cluster.leader(topic, index)).await;
    let (mut found, mut offset) = (Vec::new(), 0);
    loop {
        let answer = client.fetch(&topic.name, index as i32, offset).await;
        assert_eq!(answer.error_code, 0, "{answer:?}");
        let records = answer.records.unwrap_or_default();
        if records.is_empty() {
            assert_eq!(offset, answer.high_watermark);
            return found;
        }
        let mut rest = &records[..];
        while !rest.is_empty() {
            let header = BatchHeader::parse(rest).unwrap();
            let base = i64::from_be_bytes(rest[..8].try_into().unwrap());
            found.push((base, header.base_sequence));
            offset = base + i64::from(header.last_offset_delta) + 1;
            rest = &rest[header.size..];
        }
    }
}

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

/// Behaviour 115, in a cluster.
#[tokio::test]
async fn behaviour_115_partitions_are_reassigned_by_any_broker_and_led_by_the_first_that_is_named() {
    let cluster = Cluster::start(3).await;
    let topic = cluster.topic("aimed", &[1, 1]).await;
    let mut client = cluster.connect(3).await;
    let mut reassign = async |index: i32, replicas: Option<&[i32]>| {
        let replicas = replicas.map(|ids| ids.iter().map(|id| BrokerId(*id)).collect());
        let partition = ReassignablePartition::default().with_partition_index(index).with_replicas(replicas);
        let topic = ReassignableTopic::default().with_name(name("aimed")).with_partitions(vec![partition]);
        let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
        let answered = client.call(1, &request).await;
        assert_eq!(answered.error_code, 0);
        answered.responses[0].partitions[0].error_code
    };
    assert_eq!(reassign(0, Some(&[2, 1, 3])).await, 0);
    within(async {
        while cluster.leader(&topic, 0) != 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(reassign(0, None).await, 85, "it has moved");
    assert_eq!(reassign(0, Some(&[4])).await, 39);
    // One that cannot move now is listed, and can be told to stay.
    cluster.movers.iter().for_each(|mover| mover.stop());
    assert_eq!(reassign(1, Some(&[3])).await, 0);
    for topics in [None, Some(vec![("aimed", vec![1, 0])])] {
        let wanted = topics.map(|topics| {
            let topic = |(topic, indexes)| {
                ListPartitionReassignmentsTopics::default()
                    .with_name(name(topic))
                    .with_partition_indexes(indexes)
            };
            topics.into_iter().map(topic).collect()
        });
        let request = ListPartitionReassignmentsRequest::default().with_topics(wanted);
        let listed = cluster.connect(3).await.call(0, &request).await;
        let partitions = &listed.topics[0].partitions;
        assert_eq!((listed.topics.len(), partitions.len(), partitions[0].partition_index), (1, 1, 1));
        assert_eq!(
            (&partitions[0].adding_replicas[..], &partitions[0].removing_replicas[..]),
            (&[BrokerId(3)][..], &[BrokerId(1)][..])
        );
    }
    assert_eq!(reassign(1, None).await, 0);
    assert_eq!(reassign(1, None).await, 85);
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
