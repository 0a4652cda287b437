//! `ottla consume`: prints a topic's records, alone or as a member of a group.
//!
//! ```text
//!   positions ──► Fetcher::poll ──► print ──► positions ──► (group) commit now and then and at the end
//!      ▲                                                        │
//!      └──────────── Member: join, heartbeat, rejoin ◄──────────┘
//! ```
//!
//! An offset is committed only once its record was written to standard output, so a record may be printed twice after a
//! crash, never lost.

mod assign;
mod fetch;
mod member;
mod print;

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::client::{Client, Connect, EARLIEST, LATEST, Topic, no_partition};
use super::output;
pub use assign::decode_assignment;
use fetch::{Fetcher, Polled};
use member::{Beat, Member, or_joins_again};
use print::Format;

/// How long a broker may hold a fetch back when there is nothing.
const FETCH_WAIT: Duration = Duration::from_millis(500);
/// How often a group's offsets are committed.
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(
    after_help = "Without --follow this starts at the beginning and stops at the end; with it, it starts at the end and \
waits for more, unless told otherwise. A group goes on where it left off.\n\nExamples:\n  ottla consume greetings\n  \
ottla consume clicks --follow --json\n  ottla consume clicks --group reports --count 100"
)]
pub struct Consume {
    /// The topic's name
    topic: String,

    /// Start at the first record that is there
    #[arg(long, conflicts_with = "offset")]
    from_beginning: bool,

    /// Wait for more records instead of stopping at the end
    #[arg(long, short)]
    follow: bool,

    /// Read as a member of this group: partitions are shared, offsets remembered
    #[arg(long, short, conflicts_with_all = ["partition", "offset"], value_parser = clap::builder::NonEmptyStringValueParser::new())]
    group: Option<String>,

    /// Stop after so many records
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Print each record as a line of JSON, with key, headers, partition, offset and timestamp. Bytes that are not UTF-8
    /// become {"hex": "…"}
    #[arg(long, conflicts_with = "key_separator")]
    json: bool,

    /// Print keys too, and this text between key and value
    #[arg(long, short = 'k', value_name = "TEXT")]
    key_separator: Option<String>,

    /// Read only this partition; may be repeated
    #[arg(long, short, value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,

    /// Start at this offset, of every partition that is read
    #[arg(long, short, value_parser = clap::value_parser!(i64).range(0..))]
    offset: Option<i64>,

    #[command(flatten)]
    connect: Connect,
}

/// What is left to do, and how to show it.
struct Session<W> {
    out: W,
    format: Format,
    topic: String,
    left: Option<u64>,
    /// Where to stop; `None` when following.
    ends: Option<BTreeMap<i32, i64>>,
}

pub async fn run(arguments: Consume) -> anyhow::Result<()> {
    let mut client = Client::new(&arguments.connect);
    let topic = client.topic(&arguments.topic, false).await?;
    let format = match (arguments.json, &arguments.key_separator) {
        (true, _) => Format::Json,
        (false, Some(separator)) => Format::Keyed(separator.clone()),
        (false, None) => Format::Values,
    };
    let session = Session {
        out: output::stdout(),
        format,
        topic: topic.name.clone(),
        left: arguments.count,
        ends: (!arguments.follow).then(BTreeMap::new),
    };
    let stop = stop_signal()?;
    let from_beginning = arguments.from_beginning || !arguments.follow;
    match &arguments.group {
        None => {
            let positions = start(&mut client, &topic, &arguments, from_beginning).await?;
            alone(client, topic, positions, arguments.offset.is_some(), session, stop).await
        }
        Some(group) => {
            let member = Member::new(client.beside(), group, &topic.name);
            in_group(member, client, topic, from_beginning, session, stop).await
        }
    }
}

/// Ctrl-C or a termination signal: an orderly end.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Where to begin without a group.
async fn start(
    client: &mut Client,
    topic: &Topic,
    arguments: &Consume,
    from_beginning: bool,
) -> anyhow::Result<BTreeMap<i32, i64>> {
    let mut partitions: Vec<i32> = topic.leaders.keys().copied().collect();
    if !arguments.partition.is_empty() {
        if let Some(unknown) = arguments.partition.iter().find(|partition| !partitions.contains(partition)) {
            return Err(no_partition(&topic.name, *unknown).into());
        }
        partitions = arguments.partition.clone();
    }
    match arguments.offset {
        Some(offset) => {
            let starts = client.offsets(&topic.name, &partitions, EARLIEST).await?;
            let ends = client.offsets(&topic.name, &partitions, LATEST).await?;
            for partition in &partitions {
                fetch::check_offset(&topic.name, *partition, offset, starts[partition], ends[partition])?;
            }
            Ok(partitions.into_iter().map(|partition| (partition, offset)).collect())
        }
        None => {
            let at = if from_beginning { EARLIEST } else { LATEST };
            Ok(client.offsets(&topic.name, &partitions, at).await?)
        }
    }
}

async fn alone<W: Write>(
    mut client: Client,
    topic: Topic,
    positions: BTreeMap<i32, i64>,
    exact: bool,
    mut session: Session<W>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    session.mark_ends(&mut client, positions.keys().copied()).await?;
    let mut fetcher = Fetcher::new(topic, positions, exact);
    let mut stop = std::pin::pin!(stop);
    while !session.is_done(fetcher.positions()) {
        let wanted = session.wanted(fetcher.positions());
        let polled = tokio::select! {
            () = &mut stop => break,
            polled = fetcher.poll(&mut client, &wanted, FETCH_WAIT) => polled?,
        };
        session.print(polled, &mut fetcher)?;
    }
    Ok(session.out.flush()?)
}

async fn in_group<W: Write>(
    mut member: Member,
    mut client: Client,
    topic: Topic,
    from_beginning: bool,
    mut session: Session<W>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let mut stop = std::pin::pin!(stop);
    let mut fetcher = Fetcher::new(topic.clone(), BTreeMap::new(), false);
    let (outcome, patient) = tokio::select! {
        () = &mut stop => (Ok(()), false),
        outcome = follow_group(&mut member, &mut client, &topic, from_beginning, &mut session, &mut fetcher) => {
            let patient = outcome.is_ok();
            (outcome, patient)
        }
    };
    // Also after a failure, but then the failure is what counts.
    let written = session.out.flush();
    // Whoever came to the end of what there is to read waits for its offsets, unless somebody wants it to stop.
    let hurry = async {
        if patient {
            stop.await;
        }
    };
    let left = member.leave(fetcher.positions(), hurry).await;
    outcome?;
    written?;
    Ok(left?)
}

/// Joins, reads, and joins again when the group changes. Cancelled by the stop signal at any await; positions then say
/// what was printed.
async fn follow_group<W: Write>(
    member: &mut Member,
    client: &mut Client,
    topic: &Topic,
    from_beginning: bool,
    session: &mut Session<W>,
    fetcher: &mut Fetcher,
) -> anyhow::Result<()> {
    loop {
        let partitions = member.join().await?;
        // What was read of partitions that somebody else has now is that one's to commit.
        *fetcher = Fetcher::new(topic.clone(), BTreeMap::new(), false);
        if partitions.is_empty() && session.ends.is_some() {
            eprintln!("the group's other members have all partitions; nothing to read here");
            return Ok(());
        }
        let positions = member.positions(&partitions, if from_beginning { EARLIEST } else { LATEST }).await?;
        session.mark_ends(client, partitions.iter().copied()).await?;
        *fetcher = Fetcher::new(topic.clone(), positions, false);
        let mut commit_at = Instant::now() + COMMIT_INTERVAL;
        loop {
            if session.is_done(fetcher.positions()) {
                return Ok(());
            }
            let wanted = session.wanted(fetcher.positions());
            let poll = async {
                if wanted.is_empty() {
                    tokio::time::sleep(FETCH_WAIT).await;
                    return Ok(Vec::new());
                }
                fetcher.poll(client, &wanted, FETCH_WAIT).await
            };
            let Some(polled) = member.while_alive(poll).await? else {
                or_joins_again(member.commit(fetcher.positions()).await)?;
                break;
            };
            session.print(polled, fetcher)?;
            if Instant::now() >= commit_at {
                if or_joins_again(member.commit(fetcher.positions()).await)? == Beat::Rebalance {
                    break;
                }
                commit_at = Instant::now() + COMMIT_INTERVAL;
            }
        }
    }
}

impl<W: Write> Session<W> {
    /// Notes where these partitions end now, unless following.
    async fn mark_ends(
        &mut self,
        client: &mut Client,
        partitions: impl Iterator<Item = i32>,
    ) -> anyhow::Result<()> {
        if self.ends.is_some() {
            let partitions: Vec<i32> = partitions.collect();
            self.ends = Some(client.offsets(&self.topic, &partitions, LATEST).await?);
        }
        Ok(())
    }

    /// The partitions that still have something to print.
    fn wanted(&self, positions: &BTreeMap<i32, i64>) -> Vec<i32> {
        let beyond = |partition: &i32, position: i64| match &self.ends {
            Some(ends) => ends.get(partition).is_some_and(|end| position < *end),
            None => true,
        };
        positions
            .iter()
            .filter(|(partition, at)| beyond(partition, **at))
            .map(|(partition, _)| *partition)
            .collect()
    }

    fn is_done(&self, positions: &BTreeMap<i32, i64>) -> bool {
        self.left == Some(0) || (self.ends.is_some() && self.wanted(positions).is_empty())
    }

    /// Prints, and moves the positions to what was printed. What came in beyond the end that was marked is left out.
    fn print(&mut self, polled: Vec<Polled>, fetcher: &mut Fetcher) -> anyhow::Result<()> {
        for Polled { partition, records, next } in polled {
            let end = match &self.ends {
                Some(ends) => ends.get(&partition).copied().unwrap_or(i64::MAX),
                None => i64::MAX,
            };
            let mut position = next.min(end);
            for record in records.iter().filter(|record| record.offset < end) {
                if self.left == Some(0) {
                    position = record.offset;
                    break;
                }
                print::record(&mut self.out, &self.format, &self.topic, partition, record)?;
                self.left = self.left.map(|left| left - 1);
            }
            fetcher.advance(partition, position);
        }
        Ok(self.out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::records::Record;

    fn polled(offsets: std::ops::Range<i64>) -> Polled {
        let records = offsets.clone().map(|offset| Record {
            offset,
            timestamp: 0,
            key: None,
            value: Some(format!("v{offset}").into()),
            headers: vec![],
        });
        Polled { partition: 0, records: records.collect(), next: offsets.end }
    }

    fn fetcher(position: i64) -> Fetcher {
        let topic = Topic { name: "t".to_owned(), id: uuid::Uuid::nil(), leaders: [(0, 1)].into() };
        Fetcher::new(topic, [(0, position)].into(), false)
    }

    fn session(left: Option<u64>, end: Option<i64>) -> Session<Vec<u8>> {
        Session {
            out: Vec::new(),
            format: Format::Values,
            topic: "t".to_owned(),
            left,
            ends: end.map(|end| [(0, end)].into()),
        }
    }

    #[test]
    fn a_count_stops_in_the_middle_of_a_batch_and_the_position_says_so() {
        let (mut session, mut fetcher) = (session(Some(2), None), fetcher(5));
        session.print(vec![polled(5..9)], &mut fetcher).unwrap();
        assert_eq!(session.out, b"v5\nv6\n");
        assert_eq!(fetcher.positions()[&0], 7);
        assert!(session.is_done(fetcher.positions()));
    }

    #[test]
    fn without_follow_records_beyond_the_marked_end_are_left_for_later() {
        let (mut session, mut fetcher) = (session(None, Some(7)), fetcher(5));
        assert!(!session.is_done(fetcher.positions()));
        session.print(vec![polled(5..9)], &mut fetcher).unwrap();
        assert_eq!(session.out, b"v5\nv6\n");
        assert_eq!(fetcher.positions()[&0], 7);
        assert!(session.is_done(fetcher.positions()));
    }

    #[test]
    fn following_never_ends_by_itself() {
        let (mut session, mut fetcher) = (session(None, None), fetcher(0));
        session.print(vec![polled(0..3)], &mut fetcher).unwrap();
        assert!(!session.is_done(fetcher.positions()));
        assert_eq!(session.wanted(fetcher.positions()), [0]);
    }
}
