//! The commands that speak to a broker: their command line, and how they are run.

use clap::{ArgMatches, Command, FromArgMatches, Subcommand};

use super::{cluster, config, consume, cost, group, produce, topic};

/// The client half of the command.
#[derive(Debug, Subcommand)]
enum Tool {
    /// Create, list, describe, grow and delete topics
    Topic(topic::Topic),
    /// Show and change configs of topics and brokers
    Config(config::Config),
    /// Write records to a topic
    Produce(produce::Produce),
    /// Read records of a topic
    Consume(consume::Consume),
    /// List, describe, delete and reset consumer groups
    Group(group::Group),
    /// Show the brokers, empty one of them, and spread partitions over all
    Cluster(cluster::Cluster),
    /// Tell what a broker asks of its store, and what that costs
    Cost(cost::Cost),
}

/// Adds the tools' subcommands.
pub(super) fn augment(command: Command) -> Command {
    Tool::augment_subcommands(command)
}

/// Runs the subcommand if it is a tool.
pub(super) fn run(matches: &ArgMatches) -> Option<anyhow::Result<()>> {
    let tool = Tool::from_arg_matches(matches).ok()?;
    Some(run_tool(tool))
}

fn run_tool(tool: Tool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        match tool {
            Tool::Topic(topic) => topic::run(topic).await,
            Tool::Config(config) => config::run(config).await,
            Tool::Produce(produce) => produce::run(produce).await,
            Tool::Consume(consume) => consume::run(consume).await,
            Tool::Group(group) => group::run(group).await,
            Tool::Cluster(cluster) => cluster::run(cluster).await,
            Tool::Cost(cost) => cost::run(cost).await,
        }
    });
    // A read of standard input that nobody waits for any more must not hold the process.
    runtime.shutdown_background();
    match result {
        Err(error) if super::output::is_broken_pipe(&error) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Tool, clap::Error> {
        let matches = augment(Command::new("ottla")).try_get_matches_from(line.split(' '))?;
        Tool::from_arg_matches(&matches)
    }

    #[test]
    fn the_command_line_is_consistent() {
        augment(Command::new("ottla")).debug_assert();
    }

    #[test]
    fn what_people_type_is_understood() {
        for line in [
            "ottla topic create greetings",
            "ottla topic create t -p 3 --config a.b=c --config d=",
            "ottla topic list --internal --bootstrap a:1,b:2",
            "ottla topic delete a b c",
            "ottla topic alter t --partitions 3",
            "ottla config describe t --all",
            "ottla config describe --broker 1",
            "ottla config set t a.b=c d=e=f",
            "ottla config set --all-brokers a.b=c --dry-run",
            "ottla config unset t a.b c.d",
            "ottla config append --broker 1 a.b=c",
            "ottla config subtract t a.b=c",
            "ottla produce t hello world",
            "ottla produce t -k : -H trace=1 -p 2",
            "ottla consume t",
            "ottla consume t --from-beginning -f --json -n 5 --timeout 5s",
            "ottla consume t -p 0 -p 1 -o 17 -k =",
            "ottla consume t -g readers",
            "ottla group list",
            "ottla cluster status --bootstrap a:1",
            "ottla cluster drain 2",
            "ottla cluster drain 2 --no-wait",
            "ottla cluster undrain 2",
            "ottla cluster rebalance --dry-run --observe 5s",
            "ottla cost",
            "ottla cost --admin [::1]:9644 --price-list gcs --json",
            "ottla cost --prices file.toml --over 1m",
            "ottla group describe readers",
            "ottla group delete readers others",
            "ottla group delete-offsets readers --topic t --topic u:0,2",
            "ottla group reset-offsets readers --topic t:1 --to-earliest",
            "ottla group reset-offsets readers --all-topics --to-latest --dry-run",
            "ottla group reset-offsets readers --all-topics --to-offset 7 --execute",
            "ottla group reset-offsets readers --topic t --shift-by -10",
            "ottla group reset-offsets readers --topic t --to-datetime 2026-01-31T08:00:00.000",
            "ottla group reset-offsets readers --topic t --by-duration PT1H",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        for line in [
            "ottla topic",
            "ottla cluster",
            "ottla cluster drain",
            "ottla cluster drain one",
            "ottla topic delete",
            "ottla topic create t -p 0",
            "ottla topic alter t",
            "ottla topic alter t -p 0",
            "ottla config describe",
            "ottla config describe t --broker 1",
            "ottla config describe --broker 1 --all-brokers",
            "ottla config set",
            "ottla config set --broker one a=b",
            "ottla topic create t --config novalue",
            "ottla produce",
            "ottla consume t --group g --offset 1",
            "ottla consume t --group g --partition 1",
            "ottla consume t --from-beginning --offset 1",
            "ottla consume t --count 0",
            "ottla consume t --json --key-separator :",
            "ottla consume t --timeout soon",
            "ottla cost --price-list cheap",
            "ottla cost --price-list s3 --prices file.toml",
            "ottla cost --admin nowhere",
            "ottla group delete",
            "ottla group delete-offsets readers",
            "ottla group delete-offsets readers --topic t:x",
            "ottla group reset-offsets readers --topic t",
            "ottla group reset-offsets readers --to-earliest",
            "ottla group reset-offsets readers --topic t --all-topics --to-earliest",
            "ottla group reset-offsets readers --topic t --to-earliest --to-latest",
            "ottla group reset-offsets readers --topic t --to-offset -1",
            "ottla group reset-offsets readers --topic t --to-earliest --execute --dry-run",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
