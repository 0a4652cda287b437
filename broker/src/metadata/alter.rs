//! How [`apply`](super::apply) changes what exists already: partitions are added, configs are set.
//!
//! A config is changed by whoever read it: the command says what the configs were and what they shall be, and is rejected
//! where somebody else came in between. So a read-modify-write (append to a list, unset one of several) needs no lock.
//!
//! - **C1** Configs are replaced as a whole, for one resource, or not at all.
//! - **C2** A command that finds its work done already is accepted: a retry after an unknown outcome is harmless.
//! - **C3** Partitions are only ever added: those that exist keep their streams and their places.

use std::sync::Arc;

use uuid::Uuid;
use wal::Incarnation;

use super::apply::{Outcome, PARTITIONS_MAX, Rejection, conflict};
use super::command::GrownTopic;
use super::image::{Config, Image, PartitionInfo, Topic};

/// Why one topic of a command got no more partitions. The texts are Kafka's (`ReplicationControlManager`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrowRejection {
    #[error("This server does not host this topic-partition.")]
    Gone,
    #[error("Topic already has {0} partition(s).")]
    Equal(usize),
    #[error("The topic {name} currently has {current} partition(s); {wanted} would not be an increase.")]
    Fewer { name: Arc<str>, current: usize, wanted: usize },
    #[error(
        "the cluster has {existing} partitions already; {added} more would exceed its limit of {PARTITIONS_MAX}"
    )]
    TooMany { existing: usize, added: usize },
    /// Of the leaders that were named.
    #[error("{0}")]
    Assignment(String),
}

/// Whether `topic` can be grown to `wanted` partitions in a cluster that has `existing`; how many are added.
pub fn check_growth(topic: &Topic, existing: usize, wanted: usize) -> Result<usize, GrowRejection> {
    let current = topic.partitions.len();
    if wanted == current {
        return Err(GrowRejection::Equal(current));
    }
    let Some(added) = wanted.checked_sub(current) else {
        return Err(GrowRejection::Fewer { name: topic.name.clone(), current, wanted });
    };
    if existing + added > PARTITIONS_MAX {
        return Err(GrowRejection::TooMany { existing, added });
    }
    Ok(added)
}

impl Image {
    /// C3.
    pub(super) fn grow_topic(
        &mut self,
        by: Incarnation,
        grown: &GrownTopic,
    ) -> Result<Arc<Topic>, GrowRejection> {
        let topic = self.topics.get(&grown.id).cloned().ok_or(GrowRejection::Gone)?;
        let added = check_growth(&topic, self.partitions, grown.partitions as usize)?;
        let leaders = self
            .leaders_for(by, &topic.partitions, added, &grown.leaders)
            .map_err(GrowRejection::Assignment)?;
        let mut partitions = topic.partitions.to_vec();
        for leader in leaders {
            partitions.push(PartitionInfo::new(leader.broker, || self.create_stream(leader)));
        }
        let topic = Arc::new(Topic { partitions: partitions.into(), ..Topic::clone(&topic) });
        self.put_topic(topic.clone());
        Ok(topic)
    }

    pub(super) fn set_topic_configs(
        &mut self,
        id: Uuid,
        was: &[Config],
        shall: &[Config],
    ) -> Result<Outcome, Rejection> {
        let topic = self.topics.get(&id).cloned();
        let topic = topic.ok_or_else(|| conflict(format!("there is no topic {id} any more")))?;
        if *topic.configs == *shall {
            return Ok(Outcome::Done);
        }
        if *topic.configs != *was {
            return Err(conflict(format!("the configs of topic {} were changed meanwhile", topic.name)));
        }
        self.put_topic(Arc::new(Topic { configs: shall.into(), ..Topic::clone(&topic) }));
        Ok(Outcome::Done)
    }

    pub(super) fn set_broker_configs(
        &mut self,
        broker: Option<u32>,
        was: &[Config],
        shall: &[Config],
    ) -> Result<Outcome, Rejection> {
        let now = self.broker_configs(broker);
        if now == shall {
            return Ok(Outcome::Done);
        }
        if now != was {
            return Err(conflict(match broker {
                Some(id) => format!("the configs of broker {id} were changed meanwhile"),
                None => "the configs of all brokers were changed meanwhile".to_owned(),
            }));
        }
        if shall.is_empty() {
            self.configs.remove_mut(&broker);
        } else {
            self.configs.insert_mut(broker, shall.into());
        }
        Ok(Outcome::Done)
    }
}
