//! What admin clients and tools ask besides topics and configs: pages of partitions, sizes, replicas, elections, ACLs.

use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use ottla::config::BrokerConfig;

use crate::support::{Client, Disk, Options, TestBroker, name};
use crate::testing;

/// Topic and partitions, topic by topic, and the cursor of the next page.
type Page = (Vec<(String, Vec<i32>)>, Option<(String, i32)>);

async fn page(client: &mut Client, topics: &[&str], limit: i32, cursor: Option<(&str, i32)>) -> Page {
    let topics = topics.iter().map(|topic| TopicRequest::default().with_name(name(topic))).collect();
    let cursor =
        cursor.map(|(topic, at)| Cursor::default().with_topic_name(name(topic)).with_partition_index(at));
    let request = DescribeTopicPartitionsRequest::default()
        .with_topics(topics)
        .with_response_partition_limit(limit)
        .with_cursor(cursor);
    let answered = client.call(0, &request).await;
    let described = answered.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            assert_eq!((partition.error_code, partition.leader_id), (0, BrokerId(1)));
            assert_eq!(partition.replica_nodes, [BrokerId(1)]);
            // Never null: Kafka's kafka-topics ends with a NullPointerException then.
            assert_eq!(partition.eligible_leader_replicas.as_deref(), Some(&[][..]));
            assert_eq!(partition.last_known_elr.as_deref(), Some(&[][..]));
            partition.partition_index
        });
        let partitions = partitions.collect();
        let name = topic.name.expect("a name").0.to_string();
        match topic.error_code {
            0 => {
                assert!(!topic.topic_id.is_nil());
                (name, partitions)
            }
            code => (format!("{name}: {code}"), partitions),
        }
    });
    let described = described.collect();
    let next = answered.next_cursor.map(|next| (next.topic_name.0.to_string(), next.partition_index));
    (described, next)
}

fn row(name: &str, partitions: std::ops::Range<i32>) -> (String, Vec<i32>) {
    (name.to_owned(), partitions.collect())
}

#[tokio::test]
async fn behaviour_30_partitions_are_described_page_by_page() {
    let broker = TestBroker::start().await;
    // Not in the order of their names.
    for (topic, partitions) in [("c", 1), ("a", 2), ("b", 5)] {
        broker.topic(topic, partitions, &[]).await;
    }
    let mut client = broker.connect().await;
    let at = |topic: &str, partition| Some((topic.to_owned(), partition));
    let all = (vec![row("a", 0..2), row("b", 0..5), row("c", 0..1)], None);
    assert_eq!(page(&mut client, &[], 2_000, None).await, all);
    // Pages that end within a topic, and between two.
    assert_eq!(page(&mut client, &[], 4, None).await, (vec![row("a", 0..2), row("b", 0..2)], at("b", 2)));
    let second = page(&mut client, &[], 3, Some(("b", 2))).await;
    assert_eq!(second, (vec![row("b", 2..5)], at("c", 0)));
    assert_eq!(page(&mut client, &[], 3, Some(("c", 0))).await, (vec![row("c", 0..1)], None));
    // Never a page without progress.
    for limit in [0, -1, i32::MIN] {
        assert_eq!(page(&mut client, &[], limit, None).await, (vec![row("a", 0..1)], at("a", 1)));
    }
    // By name: sorted, each once, those before the cursor left out; what is not there says so.
    let named = page(&mut client, &["zz", "c", "a b", "a", "c"], 2_000, None).await;
    let missing = |text: &str| (text.to_owned(), Vec::new());
    assert_eq!(named.0, [row("a", 0..2), missing("a b: 17"), row("c", 0..1), missing("zz: 3")]);
    assert_eq!(page(&mut client, &["a", "c"], 9, Some(("b", 3))).await, (vec![row("c", 0..1)], None));
    // A cursor whose topic is gone, or has fewer partitions than that, goes on behind it.
    assert_eq!(page(&mut client, &[], 9, Some(("bb", 3))).await, (vec![row("c", 0..1)], None));
    assert_eq!(page(&mut client, &[], 9, Some(("c", 7))).await, (vec![row("c", 0..0)], None));
    assert_eq!(page(&mut client, &[], 9, Some(("c", -1))).await.0, [missing("c: 42")]);
}

/// Every partition comes exactly once, whatever the size of a page; the broker's own limit outranks the client's.
#[tokio::test]
async fn behaviour_30_pages_add_up() {
    let set = [("max.request.partition.size.limit".to_owned(), "3".to_owned())];
    let config = BrokerConfig::new(&set.into()).expect("valid");
    let broker = TestBroker::on(&Disk::new(), Options { config, ..Options::default() }).await;
    for (topic, partitions) in [("a", 4), ("b", 1), ("c", 7)] {
        broker.topic(topic, partitions, &[]).await;
    }
    let mut client = broker.connect().await;
    for limit in [1, 2, 3, 100] {
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let from = cursor.as_ref().map(|(topic, at): &(String, i32)| (topic.as_str(), *at));
            let (topics, next) = page(&mut client, &[], limit, from).await;
            let count: usize = topics.iter().map(|(_, partitions)| partitions.len()).sum();
            assert!(count <= 3.min(limit as usize), "{count}");
            for (topic, partitions) in topics {
                seen.extend(partitions.into_iter().map(|partition| (topic.clone(), partition)));
            }
            match next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        let all = [("a", 4), ("b", 1), ("c", 7)]
            .into_iter()
            .flat_map(|(topic, count)| (0..count).map(move |partition| (topic.to_owned(), partition)));
        assert_eq!(seen, all.collect::<Vec<_>>());
    }
}

async fn sizes(client: &mut Client, topics: Option<Vec<(&str, Vec<i32>)>>) -> Vec<(String, i32, i64)> {
    let wanted = topics.map(|topics| {
        let topic = |(topic, partitions)| {
            DescribableLogDirTopic::default().with_topic(name(topic)).with_partitions(partitions)
        };
        topics.into_iter().map(topic).collect()
    });
    let answered = client.call(4, &DescribeLogDirsRequest::default().with_topics(wanted)).await;
    assert_eq!((answered.error_code, answered.results.len()), (0, 1));
    let store = &answered.results[0];
    assert_eq!((store.error_code, store.total_bytes, store.usable_bytes), (0, -1, -1));
    assert!(!store.log_dir.is_empty());
    let mut sizes = Vec::new();
    for topic in &store.topics {
        for partition in &topic.partitions {
            assert_eq!((partition.offset_lag, partition.is_future_key), (0, false));
            sizes.push((topic.name.0.to_string(), partition.partition_index, partition.partition_size));
        }
    }
    sizes
}

#[tokio::test]
async fn behaviour_112_sizes_count_what_is_uploaded_and_what_is_not_yet() {
    let disk = Disk::new();
    let broker = TestBroker::on(&disk, Options::default()).await;
    broker.topic("t", 2, &[]).await;
    broker.topic("u", 1, &[]).await;
    let mut client = broker.connect().await;
    let batch = testing::batch(3, |spec| spec.value_bytes = 1_000);
    let size = batch.len() as i64;
    for _ in 0..2 {
        client.produced("t", 1, &batch).await;
    }
    let all = |last| [("t", 0, 0), ("t", 1, last), ("u", 0, 0)].map(|(t, p, size)| (t.to_owned(), p, size));
    assert_eq!(sizes(&mut client, None).await, all(2 * size), "in the write-ahead log");
    broker.broker.partitions.storage().flush().await.expect("upload");
    assert_eq!(sizes(&mut client, None).await, all(2 * size), "in the store");
    client.produced("t", 1, &batch).await;
    assert_eq!(sizes(&mut client, None).await, all(3 * size), "both");
    // What is not there is not named.
    let some = vec![("t", vec![1, 7, -1, 1]), ("absent", vec![0]), ("u", vec![5])];
    assert_eq!(sizes(&mut client, Some(some)).await, [("t".to_owned(), 1, 3 * size)]);
    broker.stop().await;
    let broker = TestBroker::on(&disk.with_new_wal(), Options::default()).await;
    let mut client = broker.connect().await;
    assert_eq!(sizes(&mut client, None).await, all(3 * size), "of partitions that nobody has opened");
}

#[tokio::test]
async fn behaviour_113_without_an_authorizer_security_is_disabled() {
    let broker = TestBroker::start().await;
    let mut client = broker.connect().await;
    for version in 1..=3 {
        let described = client.call(version, &DescribeAclsRequest::default()).await;
        assert_eq!((described.error_code, described.resources.len()), (54, 0));
        let creations = vec![AclCreation::default(); 2];
        let created = client.call(version, &CreateAclsRequest::default().with_creations(creations)).await;
        assert_eq!(created.results.iter().map(|row| row.error_code).collect::<Vec<_>>(), [54, 54]);
        let filters = vec![DeleteAclsFilter::default(); 2];
        let deleted = client.call(version, &DeleteAclsRequest::default().with_filters(filters)).await;
        assert_eq!(deleted.filter_results.iter().map(|row| row.error_code).collect::<Vec<_>>(), [54, 54]);
    }
}

/// The error code.
pub async fn reassign(client: &mut Client, topic: &str, partition: i32, replicas: Option<&[i32]>) -> i16 {
    let replicas = replicas.map(|ids| ids.iter().map(|id| BrokerId(*id)).collect());
    let partition = ReassignablePartition::default().with_partition_index(partition).with_replicas(replicas);
    let topic = ReassignableTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
    let answered = client.call(1, &request).await;
    assert_eq!(answered.error_code, 0);
    answered.responses[0].partitions[0].error_code
}

/// Of these topics and partitions, or of all.
pub async fn reassignments(
    client: &mut Client,
    topics: Option<Vec<(&str, Vec<i32>)>>,
) -> ListPartitionReassignmentsResponse {
    let wanted = topics.map(|topics| {
        let topic = |(topic, indexes)| {
            ListPartitionReassignmentsTopics::default().with_name(name(topic)).with_partition_indexes(indexes)
        };
        topics.into_iter().map(topic).collect()
    });
    client.call(0, &ListPartitionReassignmentsRequest::default().with_topics(wanted)).await
}

#[tokio::test]
async fn behaviour_115_partitions_are_where_they_are() {
    let broker = TestBroker::start().await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    assert_eq!(reassign(&mut client, "t", 0, Some(&[1])).await, 0);
    assert_eq!(reassign(&mut client, "t", 0, None).await, 85);
    for impossible in [&[2][..], &[1, 2], &[], &[1, 1]] {
        assert_eq!(reassign(&mut client, "t", 0, Some(impossible)).await, 39, "{impossible:?}");
    }
    for (topic, partition) in [("t", 1), ("t", -1), ("absent", 0)] {
        assert_eq!(reassign(&mut client, topic, partition, Some(&[1])).await, 3);
    }
    for topics in [None, Some(vec![("t", vec![0]), ("absent", vec![0])])] {
        let listed = reassignments(&mut client, topics).await;
        assert_eq!((listed.error_code, listed.topics.len()), (0, 0));
    }
}

#[tokio::test]
async fn behaviour_115_elections_are_not_needed() {
    let broker = TestBroker::start().await;
    broker.topic("t", 2, &[]).await;
    let mut client = broker.connect().await;
    for election_type in [0, 1] {
        let of = |topic: &str, partitions| {
            TopicPartitions::default().with_topic(name(topic)).with_partitions(partitions)
        };
        let some = vec![of("t", vec![0, 1, 2]), of("absent", vec![0])];
        let request = ElectLeadersRequest::default().with_election_type(election_type);
        let answered = client.call(2, &request.clone().with_topic_partitions(Some(some))).await;
        let mut codes = Vec::new();
        for topic in &answered.replica_election_results {
            for partition in &topic.partition_result {
                codes.push((topic.topic.0.as_str(), partition.partition_id, partition.error_code));
            }
        }
        assert_eq!(codes, [("absent", 0, 3), ("t", 0, 84), ("t", 1, 84), ("t", 2, 3)]);
        let all = client.call(2, &request.with_topic_partitions(None)).await;
        assert_eq!((all.error_code, all.replica_election_results.len()), (0, 0));
    }
}

#[tokio::test]
async fn config_resources_are_listed_by_type() {
    let broker = TestBroker::start().await;
    broker.topic("t", 1, &[]).await;
    let mut client = broker.connect().await;
    for (version, types, expected) in [
        (0, vec![], &[][..]),
        (1, vec![], &[(2, "t"), (4, "1")]),
        (1, vec![4], &[(4, "1")]),
        (1, vec![2, 32, 16], &[(2, "t")]),
    ] {
        let request = ListConfigResourcesRequest::default().with_resource_types(types);
        let listed = client.call(version, &request).await;
        let resources: Vec<(i8, &StrBytes)> =
            listed.config_resources.iter().map(|row| (row.resource_type, &row.resource_name)).collect();
        assert_eq!(listed.error_code, 0);
        assert!(resources.iter().map(|(kind, name)| (*kind, name.as_str())).eq(expected.iter().copied()));
    }
    let request = ListConfigResourcesRequest::default().with_resource_types(vec![3]);
    assert_eq!(client.call(1, &request).await.error_code, 35);
}
