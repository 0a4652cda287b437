//! `ottla cluster`: who is there, emptying a broker, and spreading partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::{Args, Subcommand};
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId, ListPartitionReassignmentsRequest,
};
use tokio::time::Instant;
use uuid::Uuid;
use wal::Incarnation;

use super::client::{Client, Connect, check, topic_name};
use super::output;
use crate::cluster::balance::{self, Load, Move, Placed, Slack};
use crate::cluster::state::{Ask, ClusterState, Member, Standing, Traffic};

/// How often it is looked whether what was asked for is done.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Moves of one `rebalance`: enough for any cluster that a person looks at, and it can be run again.
const MOVES_MAX: usize = 10_000;

#[derive(Debug, Args)]
pub struct Cluster {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// List the brokers, what they are about, and how many partitions they lead
    #[command(after_help = "Example:\n  ottla cluster status --bootstrap broker.example:9092")]
    Status(Status),
    /// Have a broker hand over all its partitions and get no more; it goes on running
    #[command(
        after_help = "A broker that is told to stop (SIGTERM) does this by itself. `ottla cluster undrain` takes it back.\n\nExample:\n  ottla cluster drain 2"
    )]
    Drain(Drain),
    /// Let a broker that was drained lead partitions again
    #[command(after_help = "Example:\n  ottla cluster undrain 2")]
    Undrain(Undrain),
    /// Give up the log of a dead broker whose volume is lost for good, so that its partitions are led again
    #[command(
        after_help = "What was acknowledged on that volume and not uploaded from it is lost, once and for all. Where the volume can still be attached to any machine, its log is recovered instead: see --wal-attach. The broker's log and `ottla metalog dump` say which epoch is waited for.\n\nExample:\n  ottla cluster forsake 3 17 --accept-loss"
    )]
    Forsake(Forsake),
    /// Move partitions so that brokers have equal shares, by number and by load
    #[command(
        after_help = "Nothing is copied: a partition pauses for a fraction of a second and is led by another broker.\n\nExamples:\n  ottla cluster rebalance --dry-run\n  ottla cluster rebalance --observe 30s"
    )]
    Rebalance(Rebalance),
}

#[derive(Debug, Args)]
struct Status {
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
struct Drain {
    /// The broker's id
    broker: u32,
    /// Return at once; otherwise, when the broker leads nothing any more
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
struct Undrain {
    /// The broker's id
    broker: u32,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
struct Forsake {
    /// The broker's id
    broker: u32,
    /// The epoch of its life that left the log
    epoch: u64,
    /// Yes, what is only in that log is to be lost
    #[arg(long, required = true)]
    accept_loss: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
struct Rebalance {
    /// Only say what would move
    #[arg(long)]
    dry_run: bool,
    /// For how long the load of partitions is measured before
    #[arg(long, default_value = "3s", value_name = "TIME", value_parser = humantime::parse_duration)]
    observe: Duration,
    #[command(flatten)]
    connect: Connect,
}

pub async fn run(cluster: Cluster) -> anyhow::Result<()> {
    match cluster.command {
        ClusterCommand::Status(arguments) => status(arguments).await,
        ClusterCommand::Drain(arguments) => drain(arguments).await,
        ClusterCommand::Undrain(arguments) => undrain(arguments).await,
        ClusterCommand::Forsake(arguments) => forsake(arguments).await,
        ClusterCommand::Rebalance(arguments) => rebalance(arguments).await,
    }
}

async fn status(arguments: Status) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.connect);
    let state = client.cluster_state(Ask::State { traffic: false }).await?;
    let mut out = output::stdout();
    writeln!(out, "cluster    {}", state.cluster)?;
    writeln!(out, "metadata   entry {}, as broker {} knows it", state.number, state.from)?;
    if let Some(caretaker) = state.caretaker {
        writeln!(out, "caretaker  broker {caretaker}")?;
    }
    writeln!(out)?;
    let heads = ["BROKER", "ADDRESS", "RACK", "STATE", "PARTITIONS", "MOVING"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(state.members.iter().map(row));
    output::table(&mut out, &rows)?;
    Ok(out.flush()?)
}

fn row(member: &Member) -> Vec<String> {
    vec![
        member.id.to_string(),
        address(member),
        member.rack.as_deref().unwrap_or("-").to_owned(),
        member.standing.name().to_owned(),
        member.leads.to_string(),
        member.moving.to_string(),
    ]
}

fn address(member: &Member) -> String {
    if member.host.contains(':') {
        format!("[{}]:{}", member.host, member.port)
    } else {
        format!("{}:{}", member.host, member.port)
    }
}

async fn set_draining(client: &mut Client, broker: u32, draining: bool) -> anyhow::Result<ClusterState> {
    let state = client.cluster_state(Ask::SetDraining { broker, draining }).await?;
    check(state.error_code as i16, || format!("broker {broker}"), Some(&state.error_message))?;
    Ok(state)
}

async fn drain(arguments: Drain) -> anyhow::Result<()> {
    let broker = arguments.broker;
    let mut client = Client::new(&arguments.connect);
    let mut state = set_draining(&mut client, broker, true).await?;
    let mut out = output::stdout();
    if arguments.no_wait {
        writeln!(out, "broker {broker} is being emptied")?;
        return Ok(out.flush()?);
    }
    let (mut fewest, mut since) = (u32::MAX, Instant::now());
    loop {
        let known = state.members.iter().filter(|member| member.id == broker);
        let left = known.map(|member| member.leads).sum();
        if left == 0 {
            writeln!(out, "broker {broker} leads no partition any more")?;
            return Ok(out.flush()?);
        }
        let others = state.members.iter().filter(|member| member.standing == Standing::Serving);
        ensure!(
            others.count() > 0,
            "broker {broker} leads {left} partitions, and there is no other broker that could take them. It is being emptied \
             all the same, as soon as there is one, and gets no more; `ottla cluster undrain {broker}` takes that back"
        );
        if left < fewest {
            (fewest, since) = (left, Instant::now());
        } else if since.elapsed() >= client.timeout() {
            bail!(
                "broker {broker} still leads {left} partitions, and nothing has moved for {:?}: its log says why. It is still \
                 being emptied; `ottla cluster undrain {broker}` takes that back",
                client.timeout()
            );
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        state = client.cluster_state(Ask::State { traffic: false }).await?;
    }
}

async fn undrain(arguments: Undrain) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.connect);
    set_draining(&mut client, arguments.broker, false).await?;
    let mut out = output::stdout();
    writeln!(out, "broker {} may lead partitions again, and gets its share soon", arguments.broker)?;
    Ok(out.flush()?)
}

async fn forsake(arguments: Forsake) -> anyhow::Result<()> {
    let Forsake { broker, epoch, .. } = arguments;
    let mut client = Client::new(&arguments.connect);
    let state = client.cluster_state(Ask::Forsake(Incarnation { broker, epoch })).await?;
    check(state.error_code as i16, || format!("broker {broker}"), Some(&state.error_message))?;
    let mut out = output::stdout();
    writeln!(
        out,
        "the log of broker {broker} epoch {epoch} is given up; its partitions go on without what was only there"
    )?;
    Ok(out.flush()?)
}

async fn rebalance(arguments: Rebalance) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.connect);
    let state = client.cluster_state(Ask::State { traffic: false }).await?;
    let serving: Vec<&Member> =
        state.members.iter().filter(|member| member.standing == Standing::Serving).collect();
    let loads = observe(&mut client, &serving, arguments.observe).await?;
    let brokers: BTreeSet<u32> = serving.iter().map(|member| member.id).collect();
    let (names, placed) = placed(&mut client, &loads).await?;
    let moves = balance::plan(&brokers, &placed, Slack::none(MOVES_MAX));
    let mut out = output::stdout();
    if moves.is_empty() {
        writeln!(out, "partitions are spread evenly; nothing moves")?;
        return Ok(out.flush()?);
    }
    let mut rows = vec![["TOPIC", "PARTITION", "FROM", "TO"].map(str::to_owned).to_vec()];
    rows.extend(moves.iter().map(|done| {
        vec![names[&done.topic].clone(), done.index.to_string(), done.from.to_string(), done.to.to_string()]
    }));
    output::table(&mut out, &rows)?;
    out.flush()?;
    if arguments.dry_run {
        return Ok(());
    }
    reassign(&mut client, &names, &moves).await?;
    wait_settled(&mut client).await?;
    writeln!(out, "{} moved", output::counted(moves.len() as u64, "partition"))?;
    Ok(out.flush()?)
}

/// Bytes per second of each partition.
async fn observe(
    client: &mut Client,
    brokers: &[&Member],
    time: Duration,
) -> anyhow::Result<BTreeMap<(Uuid, i32), Load>> {
    let began = Instant::now();
    let before = traffic(client, brokers).await?;
    tokio::time::sleep(time).await;
    let after = traffic(client, brokers).await?;
    let elapsed = began.elapsed().as_secs_f64().max(0.001);
    let rate = |(key, after): (&(Uuid, i32), &u64)| {
        let bytes = after.saturating_sub(before.get(key).copied().unwrap_or(0));
        (*key, Load { bytes_per_s: (bytes as f64 / elapsed) as u64, batches_per_s: 0 })
    };
    Ok(after.iter().map(rate).collect())
}

async fn traffic(client: &mut Client, brokers: &[&Member]) -> anyhow::Result<BTreeMap<(Uuid, i32), u64>> {
    let mut all = BTreeMap::new();
    for broker in brokers {
        let state = client.state_from(&address(broker), Ask::State { traffic: true }).await?;
        let bytes = |traffic: &Traffic| {
            let key = (traffic.topic, traffic.index as i32);
            (key, traffic.appended_bytes.saturating_add(traffic.read_bytes))
        };
        all.extend(state.traffic.iter().map(bytes));
    }
    Ok(all)
}

/// All partitions, and the names of their topics.
async fn placed(
    client: &mut Client,
    loads: &BTreeMap<(Uuid, i32), Load>,
) -> anyhow::Result<(BTreeMap<Uuid, String>, Vec<Placed>)> {
    let metadata = client.metadata(None, false).await?;
    let moving = moving(client).await?;
    let (mut names, mut placed) = (BTreeMap::new(), Vec::new());
    for topic in &metadata.topics {
        let Some(name) = &topic.name else { continue };
        names.insert(topic.topic_id, name.to_string());
        for partition in &topic.partitions {
            let index = partition.partition_index;
            let target = moving.get(&(name.to_string(), index)).copied();
            let Ok(broker) = u32::try_from(target.unwrap_or(partition.leader_id.0)) else { continue };
            let load = loads.get(&(topic.topic_id, index)).copied().unwrap_or_default();
            placed.push(Placed { topic: topic.topic_id, index, broker, load, moving: target.is_some() });
        }
    }
    Ok((names, placed))
}

/// Where partitions are on their way to.
async fn moving(client: &mut Client) -> anyhow::Result<BTreeMap<(String, i32), i32>> {
    let request = ListPartitionReassignmentsRequest::default().with_topics(None);
    let listed = client.call_any(&request).await?;
    check(listed.error_code, || "partitions on their way".to_owned(), listed.error_message.as_deref())?;
    let moving = listed.topics.iter().flat_map(|topic| {
        topic.partitions.iter().filter_map(|partition| {
            let to = partition.adding_replicas.first()?.0;
            Some(((topic.name.to_string(), partition.partition_index), to))
        })
    });
    Ok(moving.collect())
}

async fn reassign(client: &mut Client, names: &BTreeMap<Uuid, String>, moves: &[Move]) -> anyhow::Result<()> {
    let mut topics: BTreeMap<Uuid, Vec<ReassignablePartition>> = BTreeMap::new();
    for done in moves {
        let partition = ReassignablePartition::default()
            .with_partition_index(done.index)
            .with_replicas(Some(vec![BrokerId(done.to as i32)]));
        topics.entry(done.topic).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        ReassignableTopic::default().with_name(topic_name(&names[&topic])).with_partitions(partitions)
    });
    let request = AlterPartitionReassignmentsRequest::default()
        .with_timeout_ms(super::topic::millis(client.timeout()))
        .with_topics(topics.collect());
    let answered = client.call_any(&request).await?;
    check(answered.error_code, || "moving partitions".to_owned(), answered.error_message.as_deref())?;
    for topic in &answered.responses {
        for partition in &topic.partitions {
            let what = || format!("partition {} of topic {}", partition.partition_index, topic.name.as_str());
            check(partition.error_code, what, partition.error_message.as_deref())?;
        }
    }
    Ok(())
}

/// Returns once nothing is on its way any more; fails when nothing gets on.
async fn wait_settled(client: &mut Client) -> anyhow::Result<()> {
    let (mut fewest, mut since) = (usize::MAX, Instant::now());
    loop {
        let left = moving(client).await?.len();
        if left == 0 {
            return Ok(());
        }
        if left < fewest {
            (fewest, since) = (left, Instant::now());
        } else if since.elapsed() >= client.timeout() {
            bail!("{left} partitions have not moved yet, and nothing has moved for {:?}", client.timeout());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
