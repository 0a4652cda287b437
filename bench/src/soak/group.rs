//! Consumer groups: members that come, take their share of the partitions, commit, and leave.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use parking_lot::Mutex;
use rand::Rng;

use super::work::{EARLIEST, World, fetch, list_offset, serves};
use crate::batch;
use crate::client::{Connection, text, topic_name};

const MEMBER_ID_REQUIRED: i16 = 79;

/// A group, and what its members know of each other's commits.
#[derive(Debug)]
pub struct Group {
    pub name: String,
    /// The highest acknowledged commit of each partition, by its number in the world.
    committed: Mutex<BTreeMap<usize, u64>>,
}

impl Group {
    pub fn new(number: usize) -> Group {
        Group { name: format!("readers-{number}"), committed: Mutex::default() }
    }

    fn id(&self) -> GroupId {
        GroupId(text(&self.name))
    }
}

/// A place in a group, taken again and again: each life lasts for up to half a minute.
pub async fn member(world: &World, group: &Group) {
    while world.running() {
        let ends = Instant::now() + Duration::from_secs(rand::rng().random_range(5..30));
        if let Err(error) = life(world, group, ends).await {
            world.interrupted(error).await;
        }
    }
}

struct Membership {
    member_id: String,
    generation: i32,
    /// Numbers of the partitions in the world.
    assigned: Vec<usize>,
}

async fn life(world: &World, group: &Group, ends: Instant) -> anyhow::Result<()> {
    let mut connection = Connection::open(world.port).await?;
    let mut member_id = String::new();
    while world.running() && Instant::now() < ends {
        let membership = join(world, group, &mut connection, &member_id).await?;
        member_id.clone_from(&membership.member_id);
        world.rebalances.fetch_add(1, Ordering::Relaxed);
        generation(world, group, &mut connection, &membership, ends).await?;
    }
    let member = MemberIdentity::default().with_member_id(text(&member_id));
    connection
        .call(4, &LeaveGroupRequest::default().with_group_id(group.id()).with_members(vec![member]))
        .await?;
    Ok(())
}

async fn join(
    world: &World,
    group: &Group,
    connection: &mut Connection,
    id: &str,
) -> anyhow::Result<Membership> {
    let protocol = JoinGroupRequestProtocol::default().with_name(text("shares"));
    let mut request = JoinGroupRequest::default()
        .with_group_id(group.id())
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(20_000)
        .with_member_id(text(id))
        .with_protocol_type(text("soak"))
        .with_protocols(vec![protocol]);
    let mut joined = connection.call(7, &request).await?;
    if joined.error_code == MEMBER_ID_REQUIRED {
        request.member_id = joined.member_id;
        joined = connection.call(7, &request).await?;
    }
    ensure!(joined.error_code == 0, "joining: error {}", joined.error_code);
    let mut sync = SyncGroupRequest::default()
        .with_group_id(group.id())
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_protocol_type(Some(text("soak")))
        .with_protocol_name(Some(text("shares")));
    if joined.leader == joined.member_id {
        let share = |number: usize| {
            let mine =
                (0..world.partitions.len()).filter(|partition| partition % joined.members.len() == number);
            let mut bytes = BytesMut::new();
            mine.for_each(|partition| bytes.put_u32(partition as u32));
            bytes.freeze()
        };
        let of = |(number, member): (usize, &join_group_response::JoinGroupResponseMember)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(member.member_id.clone())
                .with_assignment(share(number))
        };
        sync.assignments = joined.members.iter().enumerate().map(of).collect();
    }
    let synced = connection.call(5, &sync).await?;
    ensure!(synced.error_code == 0, "synchronising: error {}", synced.error_code);
    let mut bytes: Bytes = synced.assignment;
    let mut assigned = Vec::new();
    while bytes.len() >= 4 {
        assigned.push(bytes.get_u32() as usize);
    }
    Ok(Membership { member_id: joined.member_id.to_string(), generation: joined.generation_id, assigned })
}

/// Reads until the group rebalances, or the life ends.
async fn generation(
    world: &World,
    group: &Group,
    connection: &mut Connection,
    membership: &Membership,
    ends: Instant,
) -> anyhow::Result<()> {
    let mut positions = BTreeMap::new();
    for &number in &membership.assigned {
        // Read before the request: later commits of this generation are this member's own.
        let known = group.committed.lock().get(&number).copied();
        let position = fetch_committed(world, group, connection, number).await?;
        if position < known {
            world.violation(format!(
                "{}: the commit of partition {number} was {known:?}, and is {position:?}",
                group.name
            ));
        }
        positions.insert(number, position.unwrap_or(0));
    }
    while world.running() && Instant::now() < ends {
        let heartbeat = HeartbeatRequest::default()
            .with_group_id(group.id())
            .with_generation_id(membership.generation)
            .with_member_id(text(&membership.member_id));
        match connection.call(4, &heartbeat).await?.error_code {
            0 => {}
            27 => return Ok(()),
            code => bail!("a heartbeat: error {code}"),
        }
        if positions.is_empty() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        for (number, position) in &mut positions {
            *position = consume(world, connection, *number, *position).await?;
        }
        if !commit(group, world, connection, membership, &positions).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads on in one partition; the new position.
async fn consume(
    world: &World,
    connection: &mut Connection,
    number: usize,
    from: u64,
) -> anyhow::Result<u64> {
    let partition = &world.partitions[number];
    let (topic, index) = (&partition.topic[..], partition.index);
    let Some(bytes) = fetch(connection, topic, index, from, 50).await? else {
        let start = list_offset(connection, topic, index, EARLIEST).await?;
        if start <= from {
            world
                .violation(format!("{topic}-{index}: {from} is out of range, and the log begins at {start}"));
        }
        return Ok(start);
    };
    match batch::check(bytes, from) {
        Ok(next) => {
            world.consumed.fetch_add(next - from, Ordering::Relaxed);
            Ok(next)
        }
        Err(error) => {
            world.violation(format!("{topic}-{index}: {error}"));
            bail!("it cannot go on")
        }
    }
}

/// `None` if nothing was committed.
async fn fetch_committed(
    world: &World,
    group: &Group,
    connection: &mut Connection,
    number: usize,
) -> anyhow::Result<Option<u64>> {
    let partition = &world.partitions[number];
    let wanted = OffsetFetchRequestTopic::default()
        .with_name(topic_name(&partition.topic))
        .with_partition_indexes(vec![partition.index]);
    let request = OffsetFetchRequest::default().with_group_id(group.id()).with_topics(Some(vec![wanted]));
    let response = connection.call(7, &request).await?;
    let answer = response.topics.first().and_then(|topic| topic.partitions.first()).context("no answer")?;
    ensure!(response.error_code == 0 && answer.error_code == 0, "error {}", response.error_code);
    Ok(u64::try_from(answer.committed_offset).ok())
}

/// `false` if the group has moved on.
async fn commit(
    group: &Group,
    world: &World,
    connection: &mut Connection,
    membership: &Membership,
    positions: &BTreeMap<usize, u64>,
) -> anyhow::Result<bool> {
    let topics = positions.iter().map(|(number, position)| {
        let partition = &world.partitions[*number];
        let offset = OffsetCommitRequestPartition::default()
            .with_partition_index(partition.index)
            .with_committed_offset(*position as i64);
        OffsetCommitRequestTopic::default()
            .with_name(topic_name(&partition.topic))
            .with_partitions(vec![offset])
    });
    let request = OffsetCommitRequest::default()
        .with_group_id(group.id())
        .with_generation_id_or_member_epoch(membership.generation)
        .with_member_id(text(&membership.member_id))
        .with_topics(topics.collect());
    let response = connection.call(8, &request).await?;
    let codes =
        response.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code);
    match codes.max().unwrap_or(0) {
        0 => {
            let mut committed = group.committed.lock();
            for (number, position) in positions {
                let known = committed.entry(*number).or_insert(0);
                *known = (*known).max(*position);
            }
            Ok(true)
        }
        // Rebalancing; another generation.
        27 | 22 => Ok(false),
        code => bail!("a commit: error {code}"),
    }
}

/// A group that only commits, and is deleted where the broker can do that.
pub async fn come_and_go(world: &World, connection: &mut Connection, number: u64) -> anyhow::Result<()> {
    let id = GroupId(text(&format!("passing-{}", number % 50)));
    let offset = OffsetCommitRequestPartition::default().with_committed_offset(1);
    let topic = OffsetCommitRequestTopic::default()
        .with_name(topic_name(&world.partitions[0].topic))
        .with_partitions(vec![offset]);
    let request = OffsetCommitRequest::default()
        .with_group_id(id.clone())
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    let response = connection.call(8, &request).await?;
    ensure!(response.topics[0].partitions[0].error_code == 0, "a commit without a group");
    if serves(connection, ApiKey::DeleteGroups).await? {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![id]);
        let code = connection.call(2, &request).await?.results[0].error_code;
        ensure!(code == 0, "deleting a group: error {code}");
    }
    Ok(())
}
