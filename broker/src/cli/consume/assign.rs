//! Kafka's embedded consumer protocol: what members subscribe to, and the range assignor (`RangeAssignor.java`).

use std::collections::BTreeMap;

use anyhow::Context;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition;
use kafka_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription};
use kafka_protocol::protocol::{Decodable, Encodable, Message, StrBytes};

use crate::cli::client::topic_name;

/// The name under which all clients know the assignor.
pub const RANGE: &str = "range";
/// Written; understood by every client.
const VERSION: i16 = 0;

/// Partitions by topic.
pub type Assignment = BTreeMap<String, Vec<i32>>;

pub fn encode_subscription(topics: &[&str]) -> anyhow::Result<Bytes> {
    let topics = topics.iter().map(|topic| StrBytes::from_string((*topic).to_owned())).collect();
    let mut bytes = BytesMut::new();
    bytes.put_i16(VERSION);
    ConsumerProtocolSubscription::default().with_topics(topics).encode(&mut bytes, VERSION)?;
    Ok(bytes.freeze())
}

pub fn decode_subscription(mut bytes: Bytes) -> anyhow::Result<Vec<String>> {
    let version = version::<ConsumerProtocolSubscription>(&mut bytes)?;
    let subscription = ConsumerProtocolSubscription::decode(&mut bytes, version)?;
    Ok(subscription.topics.iter().map(|topic| topic.to_string()).collect())
}

pub fn encode_assignment(assignment: &Assignment) -> anyhow::Result<Bytes> {
    let topics = assignment.iter().map(|(topic, partitions)| {
        TopicPartition::default().with_topic(topic_name(topic)).with_partitions(partitions.clone())
    });
    let mut bytes = BytesMut::new();
    bytes.put_i16(VERSION);
    ConsumerProtocolAssignment::default()
        .with_assigned_partitions(topics.collect())
        .encode(&mut bytes, VERSION)?;
    Ok(bytes.freeze())
}

/// Empty bytes are an empty assignment, as a member without one gets.
pub fn decode_assignment(mut bytes: Bytes) -> anyhow::Result<Assignment> {
    if bytes.is_empty() {
        return Ok(Assignment::new());
    }
    let version = version::<ConsumerProtocolAssignment>(&mut bytes)?;
    let assignment = ConsumerProtocolAssignment::decode(&mut bytes, version)?;
    let topics = assignment.assigned_partitions.into_iter();
    Ok(topics.map(|topic| (topic.topic.to_string(), topic.partitions)).collect())
}

/// A newer version only adds fields at the end.
fn version<M: Message>(bytes: &mut Bytes) -> anyhow::Result<i16> {
    let version = bytes.try_get_i16().context("a member's protocol data is cut short")?;
    anyhow::ensure!(version >= 0, "a member's protocol version is {version}");
    Ok(version.min(M::VERSIONS.max))
}

/// Per topic, members in order of their ids get adjacent partitions, the first ones one more where it does not divide.
pub fn range(
    subscriptions: &BTreeMap<String, Vec<String>>,
    partitions: &BTreeMap<String, Vec<i32>>,
) -> BTreeMap<String, Assignment> {
    let mut assignments: BTreeMap<String, Assignment> =
        subscriptions.keys().map(|member| (member.clone(), Assignment::new())).collect();
    for (topic, partitions) in partitions {
        let members: Vec<&String> = subscriptions
            .iter()
            .filter(|(_, topics)| topics.contains(topic))
            .map(|(member, _)| member)
            .collect();
        if members.is_empty() {
            continue;
        }
        let (share, extra) = (partitions.len() / members.len(), partitions.len() % members.len());
        let mut rest = &partitions[..];
        for (place, member) in members.into_iter().enumerate() {
            let (mine, others) = rest.split_at(share + usize::from(place < extra));
            rest = others;
            if !mine.is_empty()
                && let Some(assignment) = assignments.get_mut(member)
            {
                assignment.insert(topic.clone(), mine.to_vec());
            }
        }
    }
    assignments
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_adjacent_and_the_first_members_get_the_rest() {
        let subscriptions = [("a", &["t", "u"][..]), ("b", &["t"]), ("c", &["u"])].map(|(member, topics)| {
            (member.to_owned(), topics.iter().map(|topic| topic.to_string()).collect())
        });
        let partitions =
            [("t".to_owned(), vec![0, 1, 2]), ("u".to_owned(), vec![0]), ("v".to_owned(), vec![0])];
        let assigned = range(&subscriptions.into(), &partitions.into());
        assert_eq!(assigned["a"], [("t".to_owned(), vec![0, 1]), ("u".to_owned(), vec![0])].into());
        assert_eq!(assigned["b"], [("t".to_owned(), vec![2])].into());
        assert_eq!(assigned["c"], Assignment::new());
    }

    /// As a Java consumer sends them: version 1 with owned partitions, version 3 with more fields.
    #[test]
    fn subscriptions_of_other_versions_are_read() {
        for version in 0..=3 {
            let mut bytes = BytesMut::new();
            bytes.put_i16(version);
            ConsumerProtocolSubscription::default()
                .with_topics(vec![StrBytes::from_static_str("t")])
                .encode(&mut bytes, version)
                .unwrap();
            assert_eq!(decode_subscription(bytes.freeze()).unwrap(), ["t"]);
        }
        let own = encode_subscription(&["t", "u"]).unwrap();
        assert_eq!(&own[..], b"\0\0\0\0\0\x02\0\x01t\0\x01u\xff\xff\xff\xff");
        assert!(decode_subscription(Bytes::from_static(b"\0")).is_err());
        assert!(decode_assignment(Bytes::new()).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn every_partition_goes_to_exactly_one_member(members in 1usize..9, count in 0i32..30) {
            let subscriptions = (0..members).map(|member| (format!("m{member}"), vec!["t".to_owned()])).collect();
            let assigned = range(&subscriptions, &[("t".to_owned(), (0..count).collect())].into());
            let mut all: Vec<i32> = assigned.values().flat_map(|assignment| assignment.values().flatten().copied()).collect();
            all.sort();
            prop_assert_eq!(all, (0..count).collect::<Vec<_>>());
            let sizes: Vec<usize> = assigned.values().map(|assignment| assignment.get("t").map_or(0, Vec::len)).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            for assignment in assigned.values() {
                prop_assert_eq!(&decode_assignment(encode_assignment(assignment).unwrap()).unwrap(), assignment);
            }
        }
    }
}
