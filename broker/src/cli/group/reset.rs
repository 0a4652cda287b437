//! `ottla group reset-offsets`: as Kafka's `kafka-consumer-groups --reset-offsets`, which only shows what it would do
//! until it is told to do it.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{GroupId, OffsetCommitRequest, OffsetCommitResponse};
use kafka_protocol::protocol::StrBytes;

use super::scope::{Partitions, Scope};
use super::time::{moment, span};
use super::{committed, describe_group};
use crate::cli::client::{Client, Connect, EARLIEST, Error, LATEST, check, topic_name};
use crate::cli::output;
use crate::partition::wall_clock_ms;

#[derive(Debug, Args)]
pub struct Reset {
    /// The group's name; it may not have members
    group: String,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    target: Target,
    /// Only show what would be done; this is what happens without --execute
    #[arg(long, conflicts_with = "execute")]
    dry_run: bool,
    /// Do it
    #[arg(long)]
    execute: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Where to.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// To the first record there is
    #[arg(long)]
    to_earliest: bool,
    /// Behind the last record
    #[arg(long)]
    to_latest: bool,
    /// To this offset, or the nearest there is
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    to_offset: Option<i64>,
    /// To the first record of that time or later; without a zone it is UTC
    #[arg(long, value_name = "YYYY-MM-DDThh:mm:ss[.sss][Z|±hh:mm]", value_parser = moment)]
    to_datetime: Option<i64>,
    /// So many records ahead of the committed offset, or back
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    shift_by: Option<i64>,
    /// To the first record that is no older than this, as in 90m, 7d or PT1H30M
    #[arg(long, value_name = "TIME", value_parser = span)]
    by_duration: Option<Duration>,
}

/// One partition of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    start: i64,
    end: i64,
}

impl Ends {
    fn nearest(self, offset: i64) -> i64 {
        offset.clamp(self.start, self.end)
    }
}

pub async fn reset(arguments: Reset) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.connect);
    let group = &arguments.group;
    let state = describe_group(&mut client, group).await?.group_state;
    if !matches!(state.as_str(), "Empty" | "Dead") {
        bail!("group {group} is {}: stop its consumers before its offsets are reset", state.as_str());
    }
    let before = committed(&mut client, group).await?;
    let partitions = arguments.scope.resolve(&mut client, &before).await?;
    if partitions.is_empty() {
        bail!("group {group} has no committed offsets; --topic TOPIC gives it some");
    }
    let after = arguments.target.resolve(&mut client, &partitions, &before).await?;
    if arguments.execute {
        commit(&mut client, group, &after).await?;
    }
    let mut rows = vec![["TOPIC", "PARTITION", "COMMITTED", "NEW-OFFSET"].map(str::to_owned).to_vec()];
    for ((topic, partition), offset) in &after {
        let was = before.get(&(topic.clone(), *partition)).filter(|offset| **offset >= 0);
        let was = was.map_or("-".to_owned(), i64::to_string);
        rows.push(vec![topic.clone(), partition.to_string(), was, offset.to_string()]);
    }
    let mut out = output::stdout();
    output::table(&mut out, &rows)?;
    out.flush()?;
    if !arguments.execute {
        eprintln!("nothing was changed; --execute does it");
    }
    Ok(())
}

type Offsets = BTreeMap<(String, i32), i64>;

impl Target {
    async fn resolve(
        &self,
        client: &mut Client,
        partitions: &Partitions,
        before: &Offsets,
    ) -> anyhow::Result<Offsets> {
        let mut after = Offsets::new();
        for (topic, partitions) in partitions {
            let wanted: Vec<i32> = partitions.iter().copied().collect();
            let starts = client.offsets(topic, &wanted, EARLIEST).await?;
            let ends = client.offsets(topic, &wanted, LATEST).await?;
            let at_time = match self.timestamp() {
                Some(timestamp) => client.offsets(topic, &wanted, timestamp).await?,
                None => BTreeMap::new(),
            };
            for partition in wanted {
                let ends = Ends { start: starts[&partition], end: ends[&partition] };
                let at = (topic.clone(), partition);
                let committed = before.get(&at).copied().filter(|offset| *offset >= 0);
                let found = at_time.get(&partition).copied().filter(|offset| *offset >= 0);
                let offset = self.choose(ends, committed, found).with_context(|| {
                    format!("{topic} [{partition}] has no committed offset that could be shifted")
                })?;
                after.insert(at, offset);
            }
        }
        Ok(after)
    }

    /// The time to look for, in milliseconds since the epoch.
    fn timestamp(&self) -> Option<i64> {
        let back = |span: Duration| wall_clock_ms().saturating_sub(span.as_millis() as i64);
        // Earlier ones mean something else in the protocol.
        self.to_datetime.or(self.by_duration.map(back)).map(|timestamp| timestamp.max(0))
    }

    /// `None` only where there is nothing to shift. `found` is what the time led to: nothing if all records are older.
    fn choose(&self, ends: Ends, committed: Option<i64>, found: Option<i64>) -> Option<i64> {
        if self.to_earliest {
            return Some(ends.start);
        }
        if self.to_latest {
            return Some(ends.end);
        }
        if let Some(offset) = self.to_offset {
            return Some(ends.nearest(offset));
        }
        if let Some(by) = self.shift_by {
            return committed.map(|offset| ends.nearest(offset.saturating_add(by)));
        }
        Some(found.unwrap_or(ends.end))
    }
}

/// As a group of its own that nobody is in.
async fn commit(client: &mut Client, group: &str, after: &Offsets) -> Result<(), Error> {
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for ((topic, partition), offset) in after {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(*partition)
            .with_committed_offset(*offset)
            .with_committed_metadata(Some(StrBytes::default()));
        topics.entry(topic).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions)
    });
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(topics.collect());
    let read = |response: OffsetCommitResponse| {
        for topic in &response.topics {
            for partition in &topic.partitions {
                let at = || format!("resetting {} [{}]", topic.name.as_str(), partition.partition_index);
                check(partition.error_code, at, None)?;
            }
        }
        Ok(())
    };
    client.call_coordinator(group, &request, read).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Target = Target {
        to_earliest: false,
        to_latest: false,
        to_offset: None,
        to_datetime: None,
        shift_by: None,
        by_duration: None,
    };

    #[test]
    fn offsets_stay_within_what_is_there() {
        let ends = Ends { start: 10, end: 20 };
        let choose = |target: Target, committed| target.choose(ends, committed, None);
        assert_eq!(choose(Target { to_earliest: true, ..NONE }, None), Some(10));
        assert_eq!(choose(Target { to_latest: true, ..NONE }, None), Some(20));
        for (asked, given) in [(0, 10), (15, 15), (20, 20), (99, 20)] {
            assert_eq!(choose(Target { to_offset: Some(asked), ..NONE }, None), Some(given));
        }
        for (by, given) in [(-3, 12), (3, 18), (-99, 10), (99, 20), (i64::MAX, 20), (i64::MIN, 10)] {
            assert_eq!(choose(Target { shift_by: Some(by), ..NONE }, Some(15)), Some(given), "{by}");
        }
        assert_eq!(choose(Target { shift_by: Some(1), ..NONE }, None), None);
        let target = Target { to_datetime: Some(5), ..NONE };
        assert_eq!(target.choose(ends, None, Some(12)), Some(12));
        assert_eq!(target.choose(ends, None, None), Some(20), "behind the last record");
    }
}
