//! `ottla topic create|list|describe|alter|delete`.

use std::io::Write;

use anyhow::Context;
use clap::{Args, Subcommand};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::client::{Client, Connect, EARLIEST, Error, LATEST, check, topic_name};
use super::output;

/// DescribeConfigs: a topic.
const TOPIC_RESOURCE: i8 = 2;
/// DescribeConfigs: a value that was set for this topic.
const DYNAMIC_TOPIC_CONFIG: i8 = 1;

#[derive(Debug, Args)]
pub struct Topic {
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    /// Create a topic
    #[command(
        after_help = "Examples:\n  ottla topic create greetings\n  ottla topic create clicks --partitions 12 --config retention.ms=86400000"
    )]
    Create(Create),
    /// List topics
    #[command(
        after_help = "Examples:\n  ottla topic list\n  ottla topic list --bootstrap broker.example:9092"
    )]
    List(List),
    /// Show a topic's partitions, offsets and configs
    #[command(after_help = "Example:\n  ottla topic describe greetings")]
    Describe(Describe),
    /// Give a topic more partitions
    #[command(
        after_help = "Records stay where they are. Records with a key may go to other partitions from then on than before.\nConfigs are changed with `ottla config`.\n\nExample:\n  ottla topic alter greetings --partitions 6"
    )]
    Alter(Alter),
    /// Delete topics and everything in them
    #[command(after_help = "Example:\n  ottla topic delete greetings clicks")]
    Delete(Delete),
}

#[derive(Debug, Args)]
struct Create {
    /// Name of the new topic: letters, digits, `.`, `_` and `-`
    topic: String,
    /// How many partitions; without it the broker decides
    #[arg(long, short, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// A topic config as Kafka names it; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
struct List {
    /// Include the broker's own topics
    #[arg(long)]
    internal: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
struct Describe {
    /// The topic's name
    topic: String,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
struct Alter {
    /// The topic's name
    topic: String,
    /// How many partitions it is to have; more than it has
    #[arg(long, short, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
struct Delete {
    /// Names of topics
    #[arg(required = true)]
    topics: Vec<String>,
    #[command(flatten)]
    connect: Connect,
}

/// `KEY=VALUE`; the value may be empty and may hold further equals signs.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

pub async fn run(topic: Topic) -> anyhow::Result<()> {
    match topic.command {
        TopicCommand::Create(arguments) => create(arguments).await,
        TopicCommand::List(arguments) => list(arguments).await,
        TopicCommand::Describe(arguments) => describe(arguments).await,
        TopicCommand::Alter(arguments) => alter(arguments).await,
        TopicCommand::Delete(arguments) => delete(arguments).await,
    }
}

/// Topics are made and unmade by the controller.
async fn controller(client: &mut Client) -> Result<i32, Error> {
    let metadata = client.metadata(Some(&[]), false).await?;
    Ok(metadata.controller_id.0)
}

async fn create(arguments: Create) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.connect);
    let configs = arguments.config.iter().map(|(key, value)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_string(key.clone()))
            .with_value(Some(StrBytes::from_string(value.clone())))
    });
    let topic = CreatableTopic::default()
        .with_name(topic_name(&arguments.topic))
        .with_num_partitions(arguments.partitions.unwrap_or(-1))
        .with_replication_factor(-1)
        .with_configs(configs.collect());
    let request =
        CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(millis(client.timeout()));
    let node = controller(&mut client).await?;
    let response = client.call(node, &request).await?;
    let created = response.topics.first().context("the broker's answer does not mention the topic")?;
    let what = || format!("topic {}", arguments.topic);
    check(created.error_code, what, created.error_message.as_deref())?;
    // Versions before 5 do not say how many.
    let partitions = match u64::try_from(created.num_partitions) {
        Ok(count) => format!(" with {}", output::counted(count, "partition")),
        Err(_) => String::new(),
    };
    let mut out = output::stdout();
    writeln!(out, "created topic {}{partitions}", arguments.topic)?;
    Ok(out.flush()?)
}

async fn list(arguments: List) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.connect);
    let metadata = client.metadata(None, false).await?;
    let mut rows: Vec<Vec<String>> = metadata
        .topics
        .iter()
        .filter(|topic| arguments.internal || !topic.is_internal)
        .filter_map(|topic| {
            let name = topic.name.as_ref()?.to_string();
            Some(vec![name, topic.partitions.len().to_string()])
        })
        .collect();
    rows.sort();
    if rows.is_empty() {
        eprintln!("there are no topics; `ottla topic create TOPIC` makes one");
        return Ok(());
    }
    rows.insert(0, vec!["TOPIC".to_owned(), "PARTITIONS".to_owned()]);
    let mut out = output::stdout();
    output::table(&mut out, &rows)?;
    Ok(out.flush()?)
}

async fn describe(arguments: Describe) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.connect);
    let topic = client.topic(&arguments.topic, false).await?;
    let partitions: Vec<i32> = topic.leaders.keys().copied().collect();
    let starts = client.offsets(&topic.name, &partitions, EARLIEST).await?;
    let ends = client.offsets(&topic.name, &partitions, LATEST).await?;
    let mut out = output::stdout();
    writeln!(out, "topic {}", topic.name)?;
    if !topic.id.is_nil() {
        writeln!(out, "id    {}", topic.id)?;
    }
    for (key, value) in configs(&mut client, &topic.name).await? {
        writeln!(out, "{key} = {value}")?;
    }
    writeln!(out)?;
    let mut rows = vec![["PARTITION", "LEADER", "START", "END"].map(str::to_owned).to_vec()];
    for (partition, leader) in &topic.leaders {
        rows.push(vec![
            partition.to_string(),
            leader.to_string(),
            starts[partition].to_string(),
            ends[partition].to_string(),
        ]);
    }
    output::table(&mut out, &rows)?;
    Ok(out.flush()?)
}

/// What was set for the topic, as opposed to what holds by default.
async fn configs(client: &mut Client, topic: &str) -> anyhow::Result<Vec<(String, String)>> {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(TOPIC_RESOURCE)
        .with_resource_name(StrBytes::from_string(topic.to_owned()))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let response = client.call_any(&request).await?;
    let mut configs = Vec::new();
    for result in response.results {
        check(result.error_code, || format!("configs of topic {topic}"), result.error_message.as_deref())?;
        configs.extend(
            result.configs.into_iter().filter(|config| config.config_source == DYNAMIC_TOPIC_CONFIG).map(
                |config| {
                    let value = if config.is_sensitive {
                        "(hidden)".to_owned()
                    } else {
                        config.value.unwrap_or_default().to_string()
                    };
                    (config.name.to_string(), value)
                },
            ),
        );
    }
    configs.sort();
    Ok(configs)
}

async fn alter(arguments: Alter) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.connect);
    let topic = CreatePartitionsTopic::default()
        .with_name(topic_name(&arguments.topic))
        .with_count(arguments.partitions)
        .with_assignments(None);
    let request =
        CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(millis(client.timeout()));
    let node = controller(&mut client).await?;
    let response = client.call(node, &request).await?;
    let grown = response.results.first().context("the broker's answer does not mention the topic")?;
    check(grown.error_code, || format!("topic {}", arguments.topic), grown.error_message.as_deref())?;
    let mut out = output::stdout();
    writeln!(out, "topic {} has {} partitions now", arguments.topic, arguments.partitions)?;
    Ok(out.flush()?)
}

async fn delete(arguments: Delete) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.connect);
    let names = arguments.topics.iter().map(|name| topic_name(name)).collect();
    let request =
        DeleteTopicsRequest::default().with_topic_names(names).with_timeout_ms(millis(client.timeout()));
    let node = controller(&mut client).await?;
    let response = client.call(node, &request).await?;
    let mut out = output::stdout();
    let mut failed = None;
    for deleted in response.responses {
        let name = deleted.name.as_ref().map(|name| name.to_string()).unwrap_or_default();
        match check(deleted.error_code, || format!("topic {name}"), deleted.error_message.as_deref()) {
            Ok(()) => writeln!(out, "deleted topic {name}")?,
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

pub fn millis(duration: std::time::Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
