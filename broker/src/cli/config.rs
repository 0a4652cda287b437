//! `ottla config describe|set|unset|append|subtract`, for a topic, a broker or all brokers.

use std::io::Write;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{DescribeConfigsRequest, IncrementalAlterConfigsRequest};
use kafka_protocol::protocol::StrBytes;

use super::client::{Client, Connect, check};
use super::output;
use super::topic::key_value;

#[derive(Debug, Args)]
pub struct Config {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show what is set, and where
    #[command(
        override_usage = "ottla config describe TOPIC [--all]\n       ottla config describe --broker ID [--all]\n       ottla config describe --all-brokers",
        after_help = "Examples:\n  ottla config describe greetings\n  ottla config describe greetings --all\n  ottla config describe --broker 1"
    )]
    Describe(Describe),
    /// Set configs; what is not named stays as it is
    #[command(
        override_usage = "ottla config set TOPIC KEY=VALUE...\n       ottla config set --broker ID|--all-brokers KEY=VALUE...",
        after_help = "Examples:\n  ottla config set greetings retention.ms=86400000\n  ottla config set --all-brokers log.retention.ms=86400000"
    )]
    Set(Change),
    /// Unset configs: their defaults hold again
    #[command(
        override_usage = "ottla config unset TOPIC KEY...\n       ottla config unset --broker ID|--all-brokers KEY...",
        after_help = "Example:\n  ottla config unset greetings retention.ms"
    )]
    Unset(Change),
    /// Add elements to lists
    #[command(
        override_usage = "ottla config append TOPIC KEY=ELEMENT[,ELEMENT]...\n       ottla config append --broker ID|--all-brokers KEY=ELEMENT[,ELEMENT]...",
        after_help = "Example:\n  ottla config append greetings cleanup.policy=delete"
    )]
    Append(Change),
    /// Take elements out of lists
    #[command(
        override_usage = "ottla config subtract TOPIC KEY=ELEMENT[,ELEMENT]...\n       ottla config subtract --broker ID|--all-brokers KEY=ELEMENT[,ELEMENT]...",
        after_help = "Example:\n  ottla config subtract greetings cleanup.policy=delete"
    )]
    Subtract(Change),
}

/// Whose configs are meant, if not a topic's.
#[derive(Debug, Args)]
struct Target {
    /// Those of a broker, by its id, instead of a topic's
    #[arg(long, value_name = "ID", conflicts_with = "all_brokers", value_parser = clap::value_parser!(i32).range(0..))]
    broker: Option<i32>,
    /// Those that every broker has unless it has its own, instead of a topic's
    #[arg(long)]
    all_brokers: bool,
}

#[derive(Debug, Args)]
struct Describe {
    /// The topic's name
    #[arg(required_unless_present_any = ["broker", "all_brokers"], conflicts_with_all = ["broker", "all_brokers"])]
    topic: Option<String>,
    #[command(flatten)]
    target: Target,
    /// Defaults too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, Args)]
struct Change {
    /// The topic's name, unless it is about brokers; then the configs as Kafka names them
    #[arg(required = true, value_name = "TOPIC|CONFIG")]
    words: Vec<String>,
    #[command(flatten)]
    target: Target,
    /// Only check whether it could be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connect: Connect,
}

/// What a command is about, in the protocol's terms and in words.
struct Resource {
    kind: i8,
    name: String,
}

/// Kafka's `ConfigResource.Type`.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;

impl Resource {
    fn topic(name: &str) -> Resource {
        Resource { kind: TOPIC, name: name.to_owned() }
    }

    fn said(&self) -> String {
        match (self.kind, self.name.as_str()) {
            (BROKER, "") => "all brokers".to_owned(),
            (BROKER, id) => format!("broker {id}"),
            (_, name) => format!("topic {name}"),
        }
    }
}

impl Target {
    fn resource(&self) -> Option<Resource> {
        match self.broker {
            Some(id) => Some(Resource { kind: BROKER, name: id.to_string() }),
            None => self.all_brokers.then(|| Resource { kind: BROKER, name: String::new() }),
        }
    }
}

/// Kafka's `AlterConfigOp.OpType`.
#[derive(Clone, Copy)]
enum Op {
    Set = 0,
    Delete = 1,
    Append = 2,
    Subtract = 3,
}

pub async fn run(config: Config) -> anyhow::Result<()> {
    match config.command {
        ConfigCommand::Describe(arguments) => describe(arguments).await,
        ConfigCommand::Set(change) => alter(change, Op::Set).await,
        ConfigCommand::Unset(change) => alter(change, Op::Delete).await,
        ConfigCommand::Append(change) => alter(change, Op::Append).await,
        ConfigCommand::Subtract(change) => alter(change, Op::Subtract).await,
    }
}

async fn describe(arguments: Describe) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.connect);
    let resource = match (&arguments.topic, arguments.target.resource()) {
        (Some(topic), _) => Resource::topic(topic),
        (None, Some(resource)) => resource,
        (None, None) => bail!("a topic, --broker ID or --all-brokers is needed"),
    };
    let configs = of(&mut client, &resource).await?;
    let default = |config: &&DescribeConfigsResourceResult| source(config.config_source) == DEFAULT;
    let shown: Vec<_> = configs.iter().filter(|config| arguments.all || !default(config)).collect();
    if shown.is_empty() {
        eprintln!("nothing is set for {}; --all shows what holds by default", resource.said());
        return Ok(());
    }
    let mut rows = vec![["CONFIG", "VALUE", "SET"].map(str::to_owned).to_vec()];
    rows.extend(shown.into_iter().map(|config| {
        let value = match &config.value {
            Some(value) => value.to_string(),
            None if config.is_sensitive => "(hidden)".to_owned(),
            None => String::new(),
        };
        vec![config.name.to_string(), value, source(config.config_source).to_owned()]
    }));
    let mut out = output::stdout();
    output::table(&mut out, &rows)?;
    Ok(out.flush()?)
}

const DEFAULT: &str = "by default";

/// Where a value was set (Kafka's `ConfigSource`).
fn source(number: i8) -> &'static str {
    match number {
        1 => "for the topic",
        2 => "for the broker",
        3 => "for all brokers",
        4 => "at the broker's start",
        5 => DEFAULT,
        _ => "elsewhere",
    }
}

/// All configs of a resource, by name.
async fn of(client: &mut Client, resource: &Resource) -> anyhow::Result<Vec<DescribeConfigsResourceResult>> {
    let wanted = DescribeConfigsResource::default()
        .with_resource_type(resource.kind)
        .with_resource_name(StrBytes::from_string(resource.name.clone()))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![wanted]);
    // A broker answers for itself only.
    let response = match (resource.kind, resource.name.parse()) {
        (BROKER, Ok(node)) => {
            client.metadata(Some(&[]), false).await?;
            client.call(node, &request).await?
        }
        _ => client.call_any(&request).await?,
    };
    let result = response.results.into_iter().next();
    let result = result.with_context(|| format!("the answer does not mention {}", resource.said()))?;
    check(result.error_code, || format!("configs of {}", resource.said()), result.error_message.as_deref())?;
    let mut configs = result.configs;
    configs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(configs)
}

async fn alter(change: Change, op: Op) -> anyhow::Result<()> {
    let (resource, words) = match (change.target.resource(), change.words.split_first()) {
        (Some(resource), _) => (resource, &change.words[..]),
        (None, Some((topic, words))) => (Resource::topic(topic), words),
        (None, None) => bail!("a topic, --broker ID or --all-brokers is needed"),
    };
    if words.is_empty() {
        bail!("which configs? `ottla config describe` shows what is set, and with --all what there is");
    }
    let mut configs = Vec::with_capacity(words.len());
    for word in words {
        let (name, value) = match op {
            Op::Delete if word.contains('=') => {
                bail!("{word}: to unset a config takes its name alone")
            }
            Op::Delete => (word.clone(), None),
            Op::Set | Op::Append | Op::Subtract => {
                let (name, value) = key_value(word).map_err(|why| anyhow::anyhow!("{word}: {why}"))?;
                (name, Some(value))
            }
        };
        configs.push(
            AlterableConfig::default()
                .with_name(StrBytes::from_string(name))
                .with_config_operation(op as i8)
                .with_value(value.map(StrBytes::from_string)),
        );
    }
    let count = configs.len() as u64;
    let wanted = AlterConfigsResource::default()
        .with_resource_type(resource.kind)
        .with_resource_name(StrBytes::from_string(resource.name.clone()))
        .with_configs(configs);
    let request = IncrementalAlterConfigsRequest::default()
        .with_resources(vec![wanted])
        .with_validate_only(change.dry_run);
    let mut client = Client::new(&change.connect);
    let controller = client.metadata(Some(&[]), false).await?.controller_id.0;
    let node = match resource.kind {
        BROKER => resource.name.parse().unwrap_or(controller),
        _ => controller,
    };
    let response = client.call(node, &request).await?;
    let result = response.responses.first();
    let result = result.with_context(|| format!("the answer does not mention {}", resource.said()))?;
    check(result.error_code, || format!("configs of {}", resource.said()), result.error_message.as_deref())?;
    let done = match (change.dry_run, op) {
        (true, _) => "would change",
        (false, Op::Delete) => "unset",
        (false, Op::Set) => "set",
        (false, Op::Append | Op::Subtract) => "changed",
    };
    let mut out = output::stdout();
    writeln!(out, "{done} {} of {}", output::counted(count, "config"), resource.said())?;
    Ok(out.flush()?)
}
