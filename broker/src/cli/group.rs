//! `ottla group list|describe|delete|delete-offsets|reset-offsets`.

mod delete;
mod reset;
mod scope;
mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use anyhow::bail;
use clap::{Args, Subcommand};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{
    DescribeGroupsRequest, DescribeGroupsResponse, GroupId, ListGroupsRequest, OffsetFetchRequest,
    OffsetFetchResponse, describe_groups_response::DescribedGroup,
};
use kafka_protocol::protocol::StrBytes;

use super::client::{Client, Connect, Error, LATEST, check};
use super::consume::decode_assignment;
use super::output;

#[derive(Debug, Args)]
pub struct Group {
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// List groups
    #[command(after_help = "Example:\n  ottla group list")]
    List(List),
    /// Show a group's members, committed offsets and lag
    #[command(after_help = "Example:\n  ottla group describe reports")]
    Describe(Describe),
    /// Delete groups without members, with all their offsets
    #[command(after_help = "Example:\n  ottla group delete reports audits")]
    Delete(delete::Delete),
    /// Delete committed offsets of topics that the group does not consume any more
    #[command(
        after_help = "Examples:\n  ottla group delete-offsets reports --topic clicks\n  ottla group delete-offsets reports --topic clicks:0,3"
    )]
    DeleteOffsets(delete::DeleteOffsets),
    /// Set the committed offsets of a group without members
    #[command(
        after_help = "Examples:\n  ottla group reset-offsets reports --topic clicks --to-earliest\n  ottla group reset-offsets reports --all-topics --by-duration 2h --execute"
    )]
    ResetOffsets(reset::Reset),
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
struct Describe {
    /// The group's name
    group: String,
    #[command(flatten)]
    connect: Connect,
}

pub async fn run(group: Group) -> anyhow::Result<()> {
    match group.command {
        GroupCommand::List(arguments) => list(arguments).await,
        GroupCommand::Describe(arguments) => describe(arguments).await,
        GroupCommand::Delete(arguments) => delete::delete(arguments).await,
        GroupCommand::DeleteOffsets(arguments) => delete::delete_offsets(arguments).await,
        GroupCommand::ResetOffsets(arguments) => reset::reset(arguments).await,
    }
}

async fn list(arguments: List) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.connect);
    client.metadata(Some(&[]), false).await?;
    let mut rows = BTreeSet::new();
    // Each broker knows the groups that it coordinates.
    for node in client.nodes() {
        let mut retry = client.retry();
        let response = loop {
            let answered = client.call(node, &ListGroupsRequest::default()).await.and_then(|response| {
                check(response.error_code, || format!("listing the groups of broker {node}"), None)
                    .map(|()| response)
            });
            match answered {
                Ok(response) => break response,
                Err(error) => retry.pause(error).await?,
            }
        };
        rows.extend(
            response.groups.iter().map(|group| {
                vec![group.group_id.to_string(), group.group_state.to_string(), node.to_string()]
            }),
        );
    }
    if rows.is_empty() {
        eprintln!("there are no groups; `ottla consume TOPIC --group NAME` makes one");
        return Ok(());
    }
    let mut table = vec![["GROUP", "STATE", "COORDINATOR"].map(str::to_owned).to_vec()];
    table.extend(rows);
    let mut out = output::stdout();
    output::table(&mut out, &table)?;
    Ok(out.flush()?)
}

async fn describe(arguments: Describe) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.connect);
    let group = describe_group(&mut client, &arguments.group).await?;
    let committed = committed(&mut client, &arguments.group).await?;
    if group.group_state.as_str() == "Dead" && committed.is_empty() {
        bail!("there is no group {}; `ottla group list` shows those there are", arguments.group);
    }
    let owners = owners(&group)?;
    let lag = lag(&mut client, &committed, &owners).await?;
    let mut out = output::stdout();
    writeln!(out, "group {}: {}", arguments.group, group.group_state.as_str())?;
    if !group.members.is_empty() {
        writeln!(out)?;
        output::table(&mut out, &members(&group))?;
    }
    if lag.len() > 1 {
        writeln!(out)?;
        output::table(&mut out, &lag)?;
    }
    Ok(out.flush()?)
}

/// A group that is not there is "Dead", whatever version of the API says so.
async fn describe_group(client: &mut Client, group: &str) -> Result<DescribedGroup, Error> {
    let id = GroupId(StrBytes::from_string(group.to_owned()));
    let request = DescribeGroupsRequest::default().with_groups(vec![id]);
    let read = |response: DescribeGroupsResponse| {
        let described = response.groups.into_iter().next().ok_or_else(|| Error::Malformed {
            address: "the coordinator".to_owned(),
            detail: format!("its answer does not mention group {group}"),
        })?;
        if described.error_code != ResponseError::GroupIdNotFound.code() {
            check(described.error_code, || format!("group {group}"), described.error_message.as_deref())?;
        }
        Ok(described)
    };
    client.call_coordinator(group, &request, read).await
}

type Partition = (String, i32);

/// Every offset that the group has committed.
async fn committed(client: &mut Client, group: &str) -> Result<BTreeMap<Partition, i64>, Error> {
    let id = GroupId(StrBytes::from_string(group.to_owned()));
    let request = OffsetFetchRequest::default().with_group_id(id).with_topics(None);
    let read = |response: OffsetFetchResponse| {
        let what = || format!("reading the offsets of group {group}");
        check(response.error_code, what, None)?;
        let mut committed = BTreeMap::new();
        for topic in response.topics {
            for partition in topic.partitions {
                check(partition.error_code, what, None)?;
                let at = (topic.name.to_string(), partition.partition_index);
                committed.insert(at, partition.committed_offset);
            }
        }
        Ok(committed)
    };
    client.call_coordinator(group, &request, read).await
}

/// Which member has which partition.
fn owners(group: &DescribedGroup) -> anyhow::Result<BTreeMap<Partition, String>> {
    let mut owners = BTreeMap::new();
    if group.protocol_type.as_str() != "consumer" {
        return Ok(owners);
    }
    for member in &group.members {
        for (topic, partitions) in decode_assignment(member.member_assignment.clone())? {
            for partition in partitions {
                owners.insert((topic.clone(), partition), member.member_id.to_string());
            }
        }
    }
    Ok(owners)
}

fn members(group: &DescribedGroup) -> Vec<Vec<String>> {
    let mut rows = vec![["MEMBER", "CLIENT", "HOST"].map(str::to_owned).to_vec()];
    rows.extend(group.members.iter().map(|member| {
        vec![member.member_id.to_string(), member.client_id.to_string(), member.client_host.to_string()]
    }));
    rows
}

/// A row for every partition that is committed or assigned.
async fn lag(
    client: &mut Client,
    committed: &BTreeMap<Partition, i64>,
    owners: &BTreeMap<Partition, String>,
) -> Result<Vec<Vec<String>>, Error> {
    let all: BTreeSet<&Partition> = committed.keys().chain(owners.keys()).collect();
    let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in &all {
        by_topic.entry(topic).or_default().push(*partition);
    }
    let mut rows =
        vec![["TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER"].map(str::to_owned).to_vec()];
    for (topic, partitions) in by_topic {
        // The topic may be gone while its offsets are still there.
        let ends = match client.offsets(topic, &partitions, LATEST).await {
            Ok(ends) => ends,
            Err(Error::Kafka { .. } | Error::Usage(_)) => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        for partition in partitions {
            let key = (topic.to_owned(), partition);
            let offset = committed.get(&key).copied().filter(|offset| *offset >= 0);
            let end = ends.get(&partition).copied();
            let show = |value: Option<i64>| value.map_or("-".to_owned(), |value| value.to_string());
            rows.push(vec![
                topic.to_owned(),
                partition.to_string(),
                show(offset),
                show(end),
                show(end.zip(offset).map(|(end, offset)| (end - offset).max(0))),
                owners.get(&key).cloned().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
    }
    Ok(rows)
}
