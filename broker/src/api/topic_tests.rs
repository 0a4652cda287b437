//! The handlers of topics and the cluster, over real metadata in memory. Every answer takes the way through its bytes,
//! at every version.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use object_store::memory::InMemory;
use uuid::Uuid;

use super::{
    Advertised, Context, create_topics, delete_topics, describe_cluster, describe_configs, init_producer_id,
    metadata, topic_name,
};
use crate::broker::Broker;
use crate::config::BrokerConfig;
use crate::metadata::image::Listener;
use crate::metadata::{Metadata, Options, Registering, cluster_id};

async fn broker_with(configs: &[(&str, &str)]) -> Broker {
    broker_on(Arc::new(InMemory::new()), configs).await
}

async fn broker_on(store: Arc<InMemory>, configs: &[(&str, &str)]) -> Broker {
    let set: BTreeMap<String, String> =
        configs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let metadata = Metadata::open(store.clone(), Options::default()).await.unwrap();
    let listener = Listener { host: "registered".into(), port: 1 };
    metadata
        .register(Registering {
            id: 1,
            wal: &wal::Uri("memory:1".to_owned()),
            listener,
            rack: Some("r1"),
            machine: "machine",
            replaces: metadata.image().last_registration(1),
            claim: None,
        })
        .await
        .unwrap();
    metadata.open_leaderships().await.unwrap();
    Broker::for_test(store, metadata, BrokerConfig::new(&set).unwrap()).await
}

async fn broker() -> Broker {
    broker_with(&[("num.partitions", "4")]).await
}

fn context() -> Context {
    Context {
        client_id: None,
        peer: ([127, 0, 0, 1], 5).into(),
        advertised: Advertised { host: "advertised".into(), port: 9092 },
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// As a client of this version sees it.
fn sent<R: Encodable + Decodable>(response: &R, version: i16) -> R {
    let mut bytes = BytesMut::new();
    response.encode(&mut bytes, version).unwrap();
    R::decode(&mut bytes.freeze(), version).unwrap()
}

async fn ask(broker: &Broker, version: i16, request: MetadataRequest) -> MetadataResponse {
    sent(&metadata::handle(broker, &context(), version, request).await, version)
}

fn named(names: &[&str]) -> MetadataRequest {
    let topics = names.iter().map(|n| MetadataRequestTopic::default().with_name(Some(name(n)))).collect();
    MetadataRequest::default().with_topics(Some(topics))
}

fn by_id(id: Uuid) -> MetadataRequest {
    let topic = MetadataRequestTopic::default().with_topic_id(id).with_name(None);
    MetadataRequest::default().with_topics(Some(vec![topic]))
}

fn topic(topic: &str, partitions: i32, replication_factor: i16) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(replication_factor)
}

fn with_config(topic: CreatableTopic, config: &str, value: Option<&str>) -> CreatableTopic {
    let config = CreatableTopicConfig::default().with_name(text(config)).with_value(value.map(text));
    topic.with_configs(vec![config])
}

async fn create(broker: &Broker, version: i16, topics: Vec<CreatableTopic>) -> CreateTopicsResponse {
    let request = CreateTopicsRequest::default().with_topics(topics);
    sent(&create_topics::handle(broker, &context(), version, request).await, version)
}

/// Error code and message of a creation.
async fn creation(broker: &Broker, topic: CreatableTopic) -> (i16, String) {
    let result = create(broker, 7, vec![topic]).await.topics.remove(0);
    (result.error_code, result.error_message.map_or(String::new(), |message| message.to_string()))
}

#[tokio::test(start_paused = true)]
async fn behaviour_15_all_topics_and_none() {
    let broker = broker().await;
    create(&broker, 7, vec![topic("a", 1, 1), topic("b", 2, 1)]).await;
    let names = |response: &MetadataResponse| -> Vec<String> {
        response.topics.iter().map(|topic| topic.name.as_ref().unwrap().0.to_string()).collect()
    };
    let all = MetadataRequest::default().with_topics(None);
    let none = MetadataRequest::default().with_topics(Some(Vec::new()));
    assert_eq!(names(&ask(&broker, 0, none.clone()).await), ["a", "b"]);
    for version in 1..=13 {
        assert_eq!(names(&ask(&broker, version, all.clone()).await), ["a", "b"]);
        assert!(ask(&broker, version, none.clone()).await.topics.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn behaviour_21_topics_are_created_only_if_both_sides_want_it() {
    let broker = broker().await;
    for version in 0..=13 {
        let topic = format!("t{version}");
        let response = ask(&broker, version, named(&[&topic])).await;
        assert_eq!((response.topics[0].error_code, response.topics[0].partitions.len()), (0, 4), "{version}");
    }
    let refused = named(&["u"]).with_allow_auto_topic_creation(false);
    assert_eq!(ask(&broker, 4, refused).await.topics[0].error_code, 3);
    let unwilling = broker_with(&[("auto.create.topics.enable", "false")]).await;
    assert_eq!(ask(&unwilling, 12, named(&["u"])).await.topics[0].error_code, 3);
    assert_eq!(unwilling.metadata.image().partition_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn behaviour_21_a_request_creates_each_topic_once_and_not_without_end() {
    let broker = broker_with(&[("num.partitions", "1000")]).await;
    let names: Vec<String> = (0..20).map(|n| format!("t{n:02}")).collect();
    let mut wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    wanted.push("t00");
    let response = ask(&broker, 9, named(&wanted)).await;
    let errors: Vec<i16> = response.topics.iter().map(|topic| topic.error_code).collect();
    assert_eq!(errors, [vec![0; 10], vec![3; 10]].concat());
}

#[tokio::test(start_paused = true)]
async fn behaviour_22_invalid_names_are_not_created() {
    let broker = broker().await;
    create(&broker, 7, vec![topic("a.b", 1, 1)]).await;
    let long = "x".repeat(250);
    for bad in ["", ".", "..", "a b", "ä", "a_b", &long] {
        assert_eq!(ask(&broker, 9, named(&[bad])).await.topics[0].error_code, 17, "{bad}");
        assert_eq!(creation(&broker, topic(bad, 1, 1)).await.0, 17, "{bad}");
    }
    assert_eq!(broker.metadata.image().partition_count(), 1);
    let (_, message) = creation(&broker, topic("a_b", 1, 1)).await;
    assert_eq!(message, "Topic 'a_b' collides with existing topic: a.b");
}

#[tokio::test(start_paused = true)]
async fn behaviour_23_topics_by_id() {
    let broker = broker().await;
    let id = create(&broker, 7, vec![topic("a", 1, 1)]).await.topics[0].topic_id;
    for version in [12, 13] {
        let found = ask(&broker, version, by_id(id)).await.topics.remove(0);
        assert_eq!((found.error_code, found.topic_id, found.name), (0, id, Some(name("a"))));
        let unknown = ask(&broker, version, by_id(Uuid::from_u128(7))).await.topics.remove(0);
        assert_eq!((unknown.error_code, unknown.topic_id), (100, Uuid::from_u128(7)));
        assert_eq!(unknown.name, None);
    }
    for version in [10, 11] {
        for request in [by_id(id), by_id(Uuid::nil())] {
            let refused = ask(&broker, version, request).await;
            assert!(refused.topics.iter().all(|topic| topic.error_code == 42));
            assert!(refused.brokers.is_empty());
        }
    }
    assert!(!ask(&broker, 9, named(&["a"])).await.brokers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn behaviour_24_controller_and_cluster_id() {
    let store = Arc::new(InMemory::new());
    let mut seen = Vec::new();
    for _ in 0..2 {
        let broker = broker_on(store.clone(), &[]).await;
        let response = ask(&broker, 9, named(&[])).await;
        assert_eq!(response.controller_id.0, 1);
        seen.push(response.cluster_id.unwrap());
        broker.metadata.close(true).await.unwrap();
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].len(), cluster_id::base64(Uuid::nil()).len());
}

#[tokio::test(start_paused = true)]
async fn behaviour_25_the_address_is_the_listeners() {
    let broker = broker().await;
    for version in 0..=13 {
        let answered = ask(&broker, version, named(&[])).await.brokers.remove(0);
        assert_eq!((answered.host.as_str(), answered.port, answered.node_id.0), ("advertised", 9092, 1));
        assert_eq!(answered.rack.as_deref(), (version > 0).then_some("r1"));
    }
}

#[tokio::test(start_paused = true)]
async fn behaviour_26_epochs_grow_with_each_life_and_a_new_topic_starts_over() {
    let store = Arc::new(InMemory::new());
    let mut id = Uuid::nil();
    for epoch in 0..3 {
        let broker = broker_on(store.clone(), &[]).await;
        let found = ask(&broker, 12, named(&["t"])).await.topics.remove(0);
        assert_eq!(found.partitions[0].leader_epoch, epoch);
        assert!(epoch == 0 || id == found.topic_id);
        id = found.topic_id;
        broker.metadata.close(true).await.unwrap();
    }
    let broker = broker_on(store, &[]).await;
    broker.metadata.delete_topics(vec![id]).await.unwrap();
    let found = ask(&broker, 12, named(&["t"])).await.topics.remove(0);
    assert_eq!(found.partitions[0].leader_epoch, 0);
    assert_ne!(found.topic_id, id);
}

#[tokio::test(start_paused = true)]
async fn behaviour_27_every_partition_is_there_though_nobody_leads_it() {
    let store = Arc::new(InMemory::new());
    let broker = broker_on(store.clone(), &[]).await;
    create(&broker, 7, vec![topic("t", 3, 1)]).await;
    let led = ask(&broker, 12, named(&["t"])).await.topics.remove(0);
    assert!(led.partitions.iter().all(|partition| partition.leader_id.0 == 1 && partition.error_code == 0));
    // The next life of the broker has fenced this one.
    let next = Metadata::open(store, Options::default()).await.unwrap();
    let listener = Listener { host: "elsewhere".into(), port: 1 };
    next.register(Registering {
        id: 1,
        wal: &wal::Uri("memory:2".to_owned()),
        listener,
        rack: None,
        machine: "machine",
        replaces: next.image().last_registration(1),
        claim: None,
    })
    .await
    .unwrap();
    broker.metadata.refresh().await.unwrap();
    let orphaned = ask(&broker, 12, named(&["t"])).await.topics.remove(0);
    let indexes: Vec<i32> = orphaned.partitions.iter().map(|partition| partition.partition_index).collect();
    assert_eq!(indexes, [0, 1, 2]);
    for partition in &orphaned.partitions {
        assert_eq!((partition.error_code, partition.leader_id.0), (5, -1));
    }
}

/// A deposed leader must not mislead: without a fresh view it does not say that it leads.
#[tokio::test(start_paused = true)]
async fn behaviour_27_leadership_is_told_on_a_fresh_view_alone() {
    let mut broker = broker().await;
    create(&broker, 7, vec![topic("t", 1, 1)]).await;
    broker.right = Arc::new(wal::AckRight::leased());
    let stale = ask(&broker, 12, named(&["t"])).await.topics.remove(0);
    assert_eq!((stale.partitions[0].error_code, stale.partitions[0].leader_id.0), (5, -1));
    broker.right.renew(wal::right::boottime(), std::time::Duration::from_secs(3600));
    let fresh = ask(&broker, 12, named(&["t"])).await.topics.remove(0);
    assert_eq!((fresh.partitions[0].error_code, fresh.partitions[0].leader_id.0), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn behaviour_28_internal_topics() {
    let broker = broker().await;
    let found = ask(&broker, 9, named(&["__consumer_offsets", "t"])).await;
    assert_eq!((found.topics[0].is_internal, found.topics[0].partitions.len()), (true, 50));
    assert!(!found.topics[1].is_internal);
    assert_eq!(ask(&broker, 9, named(&["__transaction_state"])).await.topics[0].error_code, 3);
    let all = ask(&broker, 9, MetadataRequest::default().with_topics(None)).await;
    assert_eq!(all.topics.len(), 2, "internal topics are listed");
    assert!(topic_name::is_internal("__share_group_state"));
}

#[tokio::test(start_paused = true)]
async fn behaviour_29_authorized_operations_only_when_asked() {
    let broker = broker().await;
    create(&broker, 7, vec![topic("t", 1, 1)]).await;
    for version in 8..=13 {
        let plain = ask(&broker, version, named(&["t"])).await;
        assert_eq!(plain.topics[0].topic_authorized_operations, i32::MIN);
        assert_eq!(plain.cluster_authorized_operations, i32::MIN);
        let request = named(&["t"])
            .with_include_topic_authorized_operations(true)
            .with_include_cluster_authorized_operations(version <= 10);
        let asked = ask(&broker, version, request).await;
        assert_eq!(asked.topics[0].topic_authorized_operations, 0b1101_1111_1000);
        let cluster = if version <= 10 { 0b1_1111_1010_0000 } else { i32::MIN };
        assert_eq!(asked.cluster_authorized_operations, cluster);
    }
}

#[tokio::test(start_paused = true)]
async fn behaviour_31_describe_cluster() {
    let broker = broker().await;
    for version in 0..=2 {
        let ask = async |endpoint_type, ops| {
            let request = DescribeClusterRequest::default()
                .with_endpoint_type(endpoint_type)
                .with_include_cluster_authorized_operations(ops);
            sent(&describe_cluster::handle(&broker, &context(), version, request).await, version)
        };
        let good = ask(1, true).await;
        assert_eq!((good.error_code, good.controller_id.0, good.brokers.len()), (0, 1, 1));
        assert_eq!(good.brokers[0].host.as_str(), "advertised");
        assert_eq!(good.cluster_id.as_str(), broker.cluster_id);
        assert_eq!(good.cluster_authorized_operations, 0b1_1111_1010_0000);
        assert_eq!(ask(1, false).await.cluster_authorized_operations, i32::MIN);
        assert_eq!(ask(2, false).await.error_code, if version == 0 { 42 } else { 114 });
        assert_eq!(ask(9, false).await.error_code, if version == 0 { 42 } else { 115 });
    }
}

#[tokio::test(start_paused = true)]
async fn behaviour_45_idempotent_producers_get_fresh_ids() {
    let broker = broker().await;
    let ask = async |request: InitProducerIdRequest| {
        let answers = (0..=5).map(async |version| {
            sent(&init_producer_id::handle(&broker, &context(), version, request.clone()).await, version)
        });
        futures::future::join_all(answers).await
    };
    let fresh = InitProducerIdRequest::default().with_transactional_id(None);
    let known = fresh.clone().with_producer_id(ProducerId(5)).with_producer_epoch(3);
    let mut seen = std::collections::BTreeSet::new();
    for answer in [ask(fresh.clone()).await, ask(known).await].concat() {
        assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
        assert!(seen.insert(answer.producer_id.0));
    }
    let refused = [
        (fresh.clone().with_producer_id(ProducerId(5)), 42),
        (fresh.clone().with_producer_epoch(5), 42),
        (InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(text("")))), 42),
        (InitProducerIdRequest::default().with_transactional_id(Some(TransactionalId(text("tx")))), 53),
    ];
    for (request, code) in refused {
        for answer in ask(request).await {
            assert_eq!((answer.error_code, answer.producer_id.0, answer.producer_epoch), (code, -1, -1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn behaviour_106_creations_answer_with_what_was_created() {
    let broker = broker_with(&[("num.partitions", "4"), ("default.replication.factor", "3")]).await;
    for version in 2..=7 {
        let set = format!("set{version}");
        let default = format!("default{version}");
        let topics = vec![with_config(topic(&set, 2, 1), "retention.ms", Some("5")), topic(&default, -1, -1)];
        let response = create(&broker, version, topics).await;
        assert!(response.topics.iter().all(|result| result.error_code == 0), "{response:?}");
        let image = broker.metadata.image();
        assert_eq!(image.topic_named(&set).unwrap().partitions.len(), 2);
        assert_eq!(image.topic_named(&default).unwrap().partitions.len(), 4);
        if version >= 5 {
            let result = &response.topics[0];
            assert_eq!((result.num_partitions, result.replication_factor), (2, 1));
            let configs = result.configs.as_ref().unwrap();
            assert!(configs.is_sorted_by(|one, next| one.name < next.name));
            let retention = configs.iter().find(|config| config.name.as_str() == "retention.ms").unwrap();
            assert_eq!((retention.value.as_deref(), retention.config_source), (Some("5"), 1));
            assert_eq!((response.topics[1].num_partitions, response.topics[1].replication_factor), (4, 3));
        }
        if version >= 7 {
            assert_eq!(response.topics[0].topic_id, image.topic_named(&set).unwrap().id);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn behaviour_106_creations_that_are_refused() {
    let broker = broker().await;
    create(&broker, 7, vec![topic("there", 1, 1)]).await;
    assert_eq!(
        creation(&broker, topic("there", 1, 1)).await,
        (36, "Topic 'there' already exists.".to_owned())
    );
    for partitions in [0, -2, i32::MIN] {
        assert_eq!(creation(&broker, topic("t", partitions, 1)).await.0, 37);
    }
    for factor in [0, -2, i16::MIN] {
        assert_eq!(creation(&broker, topic("t", 1, factor)).await.0, 38);
    }
    assert_eq!(creation(&broker, topic("t", 10_001, 1)).await.0, 44);
    assert_eq!(creation(&broker, topic("t", i32::MAX, 1)).await.0, 44);
    assert_eq!(creation(&broker, topic("__cluster_metadata", 1, 1)).await.0, 42);
    assert_eq!(creation(&broker, topic("__consumer_offsets", 1, 1)).await.0, 17);
    for (config, value, message) in [
        ("no.such", Some("1"), "Unknown topic config name: no.such"),
        ("retention.ms", None, "Null value not supported for topic configs: retention.ms"),
        ("retention.ms", Some("x"), "Not a number of type LONG"),
        ("cleanup.policy", Some("compact"), "not supported yet"),
        ("cleanup.policy", Some("compact,delete"), "not supported yet"),
    ] {
        let (code, text) = creation(&broker, with_config(topic("t", 1, 1), config, value)).await;
        assert_eq!(code, 40, "{config}");
        assert!(text.contains(message), "{text}");
    }
    assert_eq!(broker.metadata.image().partition_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn behaviour_106_a_name_twice_is_refused_for_all_of_them() {
    let broker = broker().await;
    let response = create(&broker, 7, vec![topic("a", 1, 1), topic("b", 1, 1), topic("a", 2, 1)]).await;
    let results: Vec<_> =
        response.topics.iter().map(|result| (result.name.0.to_string(), result.error_code)).collect();
    assert_eq!(results, [("a".to_owned(), 42), ("b".to_owned(), 0)]);
    assert!(broker.metadata.image().topic_named("a").is_none());
}

#[tokio::test(start_paused = true)]
async fn behaviour_106_validate_only_creates_nothing() {
    let broker = broker().await;
    create(&broker, 7, vec![topic("a.b", 1, 1)]).await;
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic("good", 3, 1), topic("bad", 0, 1), topic("a.b", 1, 1), topic("a_b", 1, 1)])
        .with_validate_only(true);
    let response = sent(&create_topics::handle(&broker, &context(), 7, request).await, 7);
    let codes: BTreeMap<_, _> =
        response.topics.iter().map(|result| (result.name.0.as_str(), result.error_code)).collect();
    assert_eq!(codes, BTreeMap::from([("good", 0), ("bad", 37), ("a.b", 36), ("a_b", 17)]));
    assert_eq!(broker.metadata.image().partition_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn behaviour_106_manual_assignments() {
    let broker = broker().await;
    let assigned = |replicas: &[(i32, &[i32])]| {
        let assignments = replicas
            .iter()
            .map(|(index, ids)| {
                CreatableReplicaAssignment::default()
                    .with_partition_index(*index)
                    .with_broker_ids(ids.iter().map(|id| BrokerId(*id)).collect())
            })
            .collect();
        topic("t", -1, -1).with_assignments(assignments)
    };
    for bad in [
        assigned(&[(0, &[1]), (2, &[1])]),
        assigned(&[(1, &[1])]),
        assigned(&[(-1, &[1]), (0, &[1])]),
        assigned(&[(0, &[1]), (0, &[1])]),
        assigned(&[(0, &[])]),
        assigned(&[(0, &[1, 1])]),
        assigned(&[(0, &[2])]),
    ] {
        assert_eq!(creation(&broker, bad.clone()).await.0, 39, "{bad:?}");
    }
    assert_eq!(creation(&broker, assigned(&[(0, &[1])]).with_num_partitions(1)).await.0, 42);
    assert_eq!(creation(&broker, assigned(&[(0, &[1])]).with_replication_factor(1)).await.0, 42);
    assert_eq!(creation(&broker, assigned(&[(1, &[1]), (0, &[1])])).await.0, 0);
    assert_eq!(broker.metadata.image().topic_named("t").unwrap().partitions.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn behaviour_107_deletions_by_name_and_by_id() {
    let broker = broker().await;
    let delete = async |version: i16, request: DeleteTopicsRequest| {
        sent(&delete_topics::handle(&broker, &context(), version, request).await, version).responses
    };
    for version in 1..=5 {
        create(&broker, 7, vec![topic("t", 1, 1)]).await;
        let names = vec![name("t"), name("unknown"), name("twice"), name("twice")];
        create(&broker, 7, vec![topic("twice", 1, 1)]).await;
        let mut codes: Vec<_> = delete(version, DeleteTopicsRequest::default().with_topic_names(names))
            .await
            .into_iter()
            .map(|result| (result.name.unwrap().0.to_string(), result.error_code))
            .collect();
        codes.sort();
        let expected = [("t", 0), ("twice", 42), ("twice", 42), ("unknown", 3)];
        assert_eq!(codes, expected.map(|(name, code)| (name.to_owned(), code)));
        assert!(broker.metadata.image().topic_named("t").is_none());
    }
    let id = create(&broker, 7, vec![topic("t", 1, 1)]).await.topics[0].topic_id;
    let state = |topic: Option<&str>, id: Uuid| {
        DeleteTopicState::default().with_name(topic.map(name)).with_topic_id(id)
    };
    let request = |topics: Vec<DeleteTopicState>| DeleteTopicsRequest::default().with_topics(topics);
    for (topics, codes) in [
        (vec![state(Some("t"), id)], vec![42]),
        (vec![state(None, Uuid::nil())], vec![42]),
        (vec![state(None, Uuid::from_u128(9))], vec![100]),
        (vec![state(Some("unknown"), Uuid::nil())], vec![3]),
        (vec![state(Some("t"), Uuid::nil()), state(None, id)], vec![42, 42]),
        (vec![state(None, id)], vec![0]),
        (vec![state(None, id)], vec![100]),
    ] {
        let answered: Vec<i16> =
            delete(6, request(topics.clone())).await.iter().map(|result| result.error_code).collect();
        assert_eq!(answered, codes, "{topics:?}");
    }
    let again = create(&broker, 7, vec![topic("t", 1, 1)]).await.topics[0].topic_id;
    assert_ne!(again, id);
}

/// Kafka deletes `__consumer_offsets` like any other, and the offsets of all groups with it.
#[tokio::test(start_paused = true)]
async fn behaviour_107_what_the_groups_committed_is_not_deleted() {
    let broker = broker().await;
    let internal = broker.metadata.ensure_internal_topic("__consumer_offsets", 3).await.unwrap();
    create(&broker, 7, vec![topic("t", 1, 1)]).await;
    for version in 1..=6 {
        let (mut by_name, mut by_id) = (DeleteTopicsRequest::default(), None);
        if version < 6 {
            by_name.topic_names = vec![name("__consumer_offsets"), name("absent")];
        } else {
            let named = DeleteTopicState::default().with_name(Some(name("__consumer_offsets")));
            by_name.topics = vec![named, DeleteTopicState::default().with_name(Some(name("absent")))];
            let state = DeleteTopicState::default().with_topic_id(internal.id);
            by_id = Some(DeleteTopicsRequest::default().with_topics(vec![state]));
        }
        for request in std::iter::once(by_name).chain(by_id) {
            let response = sent(&delete_topics::handle(&broker, &context(), version, request).await, version);
            let refused = &response.responses[0];
            assert_eq!(refused.error_code, 17, "version {version}");
            if version >= 5 {
                assert!(refused.error_message.as_ref().unwrap().contains("the broker's own"));
            }
            assert!(response.responses.iter().skip(1).all(|other| other.error_code == 3));
        }
        assert!(broker.metadata.image().topic(internal.id).is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn behaviour_107_deletion_can_be_disabled() {
    let broker = broker_with(&[("delete.topic.enable", "false")]).await;
    create(&broker, 7, vec![topic("t", 1, 1)]).await;
    for (version, code) in [(1, 42), (2, 42), (3, 73), (5, 73)] {
        let request = DeleteTopicsRequest::default().with_topic_names(vec![name("t")]);
        let response = sent(&delete_topics::handle(&broker, &context(), version, request).await, version);
        assert_eq!(response.responses[0].error_code, code);
    }
    assert!(broker.metadata.image().topic_named("t").is_some());
}

fn resource(kind: i8, resource: &str) -> DescribeConfigsResource {
    DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(resource))
        .with_configuration_keys(None)
}

#[tokio::test(start_paused = true)]
async fn behaviour_109_topics_show_every_config_with_its_source() {
    let broker = broker_with(&[("message.max.bytes", "7")]).await;
    create(&broker, 7, vec![with_config(topic("t", 1, 1), "retention.ms", Some("5"))]).await;
    for version in 1..=4 {
        let ask = async |request: DescribeConfigsRequest| {
            sent(&describe_configs::handle(&broker, &context(), version, request).await, version).results
        };
        let plain = DescribeConfigsRequest::default().with_resources(vec![resource(2, "t")]);
        let configs = ask(plain.clone()).await.remove(0).configs;
        assert_eq!(configs.len(), 33);
        let find = |name: &str| configs.iter().find(|config| config.name.as_str() == name).unwrap();
        let value = |name: &str| (find(name).value.as_deref().unwrap().to_owned(), find(name).config_source);
        assert_eq!(value("retention.ms"), ("5".to_owned(), 1));
        assert_eq!(value("max.message.bytes"), ("7".to_owned(), 4));
        assert_eq!(value("cleanup.policy"), ("delete".to_owned(), 5));
        assert!(configs.iter().all(|config| config.synonyms.is_empty() && !config.read_only));
        let full = plain.clone().with_include_synonyms(true).with_include_documentation(version >= 3);
        let configs = ask(full).await.remove(0).configs;
        let retention = configs.iter().find(|config| config.name.as_str() == "retention.ms").unwrap();
        let synonyms: Vec<_> =
            retention.synonyms.iter().map(|synonym| (synonym.name.as_str(), synonym.source)).collect();
        assert_eq!(synonyms, [("retention.ms", 1), ("log.retention.ms", 5)]);
        if version >= 3 {
            assert_eq!(retention.config_type, 5);
            assert!(retention.documentation.as_deref().is_some_and(|text| text.contains("Age")));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn behaviour_109_keys_resources_and_errors() {
    let broker = broker().await;
    create(&broker, 7, vec![topic("t", 1, 1)]).await;
    let ask = async |resource: DescribeConfigsResource| {
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        sent(&describe_configs::handle(&broker, &context(), 4, request).await, 4).results.remove(0)
    };
    let keys = |keys: &[&str]| Some(keys.iter().map(|key| text(key)).collect());
    let two = resource(2, "t").with_configuration_keys(keys(&["retention.ms", "no.such", "segment.ms"]));
    assert_eq!(ask(two).await.configs.len(), 2);
    assert_eq!(ask(resource(2, "t").with_configuration_keys(keys(&[]))).await.configs.len(), 33);
    assert_eq!(ask(resource(2, "unknown")).await.error_code, 3);
    assert_eq!(ask(resource(2, "a b")).await.error_code, 17);
    let twice = DescribeConfigsRequest::default().with_resources(vec![resource(2, "t"), resource(2, "t")]);
    assert_eq!(describe_configs::handle(&broker, &context(), 4, twice).await.results.len(), 1);
    let own = ask(resource(4, "1")).await;
    let node = own.configs.iter().find(|config| config.name.as_str() == "node.id").unwrap();
    assert_eq!((node.value.as_deref(), node.config_source, node.read_only), (Some("1"), 4, true));
    let partitions = own.configs.iter().find(|config| config.name.as_str() == "num.partitions").unwrap();
    assert_eq!((partitions.value.as_deref(), partitions.config_source), (Some("4"), 4));
    assert_eq!(ask(resource(4, "2")).await.error_code, 42);
    assert_eq!(ask(resource(4, "one")).await.error_code, 42);
    let cluster = ask(resource(4, "")).await;
    assert_eq!((cluster.error_code, cluster.configs.len()), (0, 0));
    assert_eq!(ask(resource(99, "x")).await.error_code, 42);
}
