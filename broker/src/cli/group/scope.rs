//! Which partitions of a group's topics a command is about, as Kafka's tools take them.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;

use crate::cli::client::{Client, Error, no_partition};

/// `TOPIC`, or `TOPIC:PARTITION,PARTITION,…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicScope {
    pub topic: String,
    /// All of them if there are none.
    pub partitions: BTreeSet<i32>,
}

pub fn topic_scope(text: &str) -> Result<TopicScope, String> {
    let (topic, partitions) = match text.split_once(':') {
        None => (text, BTreeSet::new()),
        Some((topic, partitions)) => {
            let number = |text: &str| text.trim().parse::<i32>().ok().filter(|number| *number >= 0);
            let numbers: Option<BTreeSet<i32>> = partitions.split(',').map(number).collect();
            (topic, numbers.ok_or("expected TOPIC or TOPIC:PARTITION,PARTITION,…")?)
        }
    };
    if topic.is_empty() {
        return Err("expected a topic".to_owned());
    }
    Ok(TopicScope { topic: topic.to_owned(), partitions })
}

/// Partitions by topic.
pub type Partitions = BTreeMap<String, BTreeSet<i32>>;

/// Topics that are named, or all that the group has offsets of.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Scope {
    /// A topic, all of it or some partitions; may be repeated
    #[arg(long = "topic", value_name = "TOPIC[:PARTITION,…]", value_parser = topic_scope)]
    topics: Vec<TopicScope>,
    /// Every partition of which the group has committed an offset
    #[arg(long)]
    all_topics: bool,
}

impl Scope {
    pub async fn resolve(
        &self,
        client: &mut Client,
        committed: &BTreeMap<(String, i32), i64>,
    ) -> Result<Partitions, Error> {
        if !self.all_topics {
            return resolve(client, &self.topics).await;
        }
        let mut partitions = Partitions::new();
        for (topic, partition) in committed.keys() {
            partitions.entry(topic.clone()).or_default().insert(*partition);
        }
        Ok(partitions)
    }
}

/// Checks that the partitions exist, and lists them where none are named.
pub async fn resolve(client: &mut Client, topics: &[TopicScope]) -> Result<Partitions, Error> {
    let mut resolved = Partitions::new();
    for TopicScope { topic, partitions } in topics {
        let there = client.topic(topic, false).await?.leaders;
        if let Some(missing) = partitions.iter().find(|partition| !there.contains_key(partition)) {
            return Err(no_partition(topic, *missing));
        }
        let wanted = resolved.entry(topic.clone()).or_default();
        if partitions.is_empty() {
            wanted.extend(there.keys());
        } else {
            wanted.extend(partitions);
        }
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_with_and_without_partitions() {
        let scope = |topic: &str, partitions: &[i32]| TopicScope {
            topic: topic.to_owned(),
            partitions: partitions.iter().copied().collect(),
        };
        assert_eq!(topic_scope("t"), Ok(scope("t", &[])));
        assert_eq!(topic_scope("t:3"), Ok(scope("t", &[3])));
        assert_eq!(topic_scope("t:2,0,2"), Ok(scope("t", &[0, 2])));
        for wrong in ["", ":1", "t:", "t:x", "t:1,", "t:-1"] {
            assert!(topic_scope(wrong).is_err(), "{wrong:?}");
        }
    }
}
