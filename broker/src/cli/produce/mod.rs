//! `ottla produce`: records from arguments or standard input, acknowledged by the broker before this ends.
//!
//! ```text
//!   input ── gather (a few MiB, or what is there) ── batches by partition ── send, several in flight, in order
//!              ▲                                                               │
//!              └────────── the next lot is gathered while one is sent ◄────────┘
//! ```
//!
//! The producer is idempotent where the broker can tell (it has InitProducerId): a batch whose answer was lost is sent
//! again with its sequence number and stored once. Batches of a partition are acknowledged in order; after a failure
//! everything from the first failed one on is sent again.

mod batches;
mod input;
mod send;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::client::records::Header;
use super::client::{Client, Connect, no_partition};
use super::{output, topic};
use batches::{Batches, Partitioner};
use input::Input;
use send::Sender;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ottla produce greetings hello world\n  ottla produce users 'ann:{\"age\":7}' --key-separator :\n  cat access.log | ottla produce logs"
)]
pub struct Produce {
    /// The topic's name; the broker makes a topic that does not exist, unless it is told not to
    topic: String,

    /// One record each; without any, each line of standard input is a record
    values: Vec<String>,

    /// Take what comes before this text as the record's key
    #[arg(long, short = 'k', value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_separator: Option<String>,

    /// A header for every record; may be repeated
    #[arg(long, short = 'H', value_name = "NAME=VALUE", value_parser = topic::key_value)]
    header: Vec<(String, String)>,

    /// Write to this partition instead of choosing by key
    #[arg(long, short, value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,

    #[command(flatten)]
    connect: Connect,
}

pub async fn run(arguments: Produce) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.connect);
    let topic = client.topic(&arguments.topic, true).await?;
    let partitions: Vec<i32> = topic.leaders.keys().copied().collect();
    let partitioner = match arguments.partition {
        Some(partition) if !partitions.contains(&partition) => {
            return Err(no_partition(&topic.name, partition).into());
        }
        Some(partition) => Partitioner::Fixed(partition),
        None => Partitioner::by_key(partitions),
    };
    let headers: Vec<Header> = arguments
        .header
        .into_iter()
        .map(|(name, value)| (Bytes::from(name), Some(Bytes::from(value))))
        .collect();
    let progress = progress(arguments.values.is_empty());
    let mut sender = Sender::start(client, topic).await?;
    let mut batches = Batches::new(partitioner, sender.producer(), headers);
    let mut input = Input::new(arguments.values, arguments.key_separator);
    let outcome = pump(&mut input, &mut batches, &mut sender, &progress).await;
    progress.finish_and_clear();
    let acknowledged = output::counted(sender.acknowledged(), "record");
    outcome.with_context(|| format!("{acknowledged} to {} before this", arguments.topic))?;
    let mut out = output::stdout();
    writeln!(out, "{acknowledged} to {}", arguments.topic)?;
    Ok(out.flush()?)
}

async fn pump(
    input: &mut Input,
    batches: &mut Batches,
    sender: &mut Sender,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    let mut more = input.gather(batches).await?;
    while !batches.is_empty() {
        let lot = batches.take();
        // If one fails the other is of no use any more.
        let send = async { sender.deliver(lot).await.map_err(anyhow::Error::from) };
        let gather = async { if more { input.gather(batches).await } else { Ok(false) } };
        ((), more) = futures::try_join!(send, gather)?;
        progress.set_position(sender.acknowledged());
        progress.set_message(indicatif::HumanBytes(sender.acknowledged_bytes()).to_string());
    }
    Ok(())
}

/// A spinner for long input; nothing if nobody watches or somebody types.
fn progress(from_stdin: bool) -> ProgressBar {
    if !from_stdin || std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{spinner} {pos} records, {msg}, {per_sec}")
        .expect("the template is well-formed");
    let bar = ProgressBar::new_spinner().with_style(style);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
