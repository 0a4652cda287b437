//! `ottla group delete` and `ottla group delete-offsets`.

use std::io::Write;

use clap::Args;
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, GroupId, OffsetDeleteRequest, OffsetDeleteResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::scope::{TopicScope, resolve, topic_scope};
use crate::cli::client::{Client, Connect, Error, check, topic_name};
use crate::cli::output;

#[derive(Debug, Args)]
pub struct Delete {
    /// Names of groups; none of them may have members
    #[arg(required = true)]
    groups: Vec<String>,
    #[command(flatten)]
    connect: Connect,
}

pub async fn delete(arguments: Delete) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.connect);
    let mut out = output::stdout();
    let mut failed: Option<Error> = None;
    for group in &arguments.groups {
        match delete_one(&mut client, group).await {
            Ok(()) => writeln!(out, "deleted group {group}")?,
            Err(error) => {
                if let Some(earlier) = failed.replace(error) {
                    eprintln!("ottla: {earlier}");
                }
            }
        }
    }
    out.flush()?;
    failed.map_or(Ok(()), |error| Err(error.into()))
}

async fn delete_one(client: &mut Client, group: &str) -> Result<(), Error> {
    let id = GroupId(StrBytes::from_string(group.to_owned()));
    let request = DeleteGroupsRequest::default().with_groups_names(vec![id]);
    let read = |response: DeleteGroupsResponse| {
        response
            .results
            .iter()
            .try_for_each(|result| check(result.error_code, || format!("deleting group {group}"), None))
    };
    client.call_coordinator(group, &request, read).await
}

#[derive(Debug, Args)]
pub struct DeleteOffsets {
    /// The group's name
    group: String,
    /// A topic, all of it or some partitions, that none of the group's members consumes; may be repeated
    #[arg(long = "topic", required = true, value_name = "TOPIC[:PARTITION,…]", value_parser = topic_scope)]
    topics: Vec<TopicScope>,
    #[command(flatten)]
    connect: Connect,
}

pub async fn delete_offsets(arguments: DeleteOffsets) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.connect);
    let group = &arguments.group;
    let partitions = resolve(&mut client, &arguments.topics).await?;
    let topics = partitions.iter().map(|(topic, partitions)| {
        let partitions = partitions
            .iter()
            .map(|partition| OffsetDeleteRequestPartition::default().with_partition_index(*partition));
        OffsetDeleteRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions.collect())
    });
    let request = OffsetDeleteRequest::default()
        .with_group_id(GroupId(StrBytes::from_string(group.clone())))
        .with_topics(topics.collect());
    let read = |response: OffsetDeleteResponse| {
        check(response.error_code, || format!("deleting offsets of group {group}"), None).map(|()| response)
    };
    let response = client.call_coordinator(group, &request, read).await?;
    let mut out = output::stdout();
    let mut failed = None;
    for topic in response.topics {
        for partition in topic.partitions {
            let at = format!("{} [{}]", topic.name.as_str(), partition.partition_index);
            match check(partition.error_code, || format!("deleting the offset of {at}"), None) {
                Ok(()) => writeln!(out, "deleted the offset of {at}")?,
                Err(error) => {
                    if let Some(earlier) = failed.replace(error) {
                        eprintln!("ottla: {earlier}");
                    }
                }
            }
        }
    }
    out.flush()?;
    failed.map_or(Ok(()), |error: Error| Err(error.into()))
}
