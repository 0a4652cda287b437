//! Ingest: a broker that takes in all it can while old data is cut away, to see whether compaction, retention and the
//! collector keep up.
//!
//! ```text
//!   connections, some requests of each in flight ─┐
//!     (batches are encoded once)                  ├──► ottla (process) ──► store
//!   a topic that is created, filled and deleted ──┘                          │
//!                            samples, by `ottla verify` ◄── named, garbage ──┤
//!                       account, by `ottla metalog dump` ◄── commits, swaps ─┘
//! ```
//!
//! Once retention has cut for a while, everything must stay where it is. A run fails if what is named, its parts, or the
//! process's memory is in the last third of that time far more than in the first; if what waits for deletion was
//! ever more than what is written in twice the time that it has to wait; if garbage is left when all is over; or if
//! `ottla verify --checksums` finds anything wrong.

mod account;
mod load;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::account::Account;
use self::load::Load;
use crate::client::Connection;
use crate::process::{Ottla, S3, Storage};
use crate::trend::{self, Sample};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// How long the load lasts
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// The program
    #[arg(long, default_value = "target/release/ottla")]
    ottla: PathBuf,
    #[arg(long, value_enum, default_value = "directory")]
    storage: Storage,
    #[command(flatten)]
    s3: S3,
    /// Connections that write, each to a topic of its own
    #[arg(long, default_value_t = 4)]
    topics: usize,
    /// Partitions of each; they get batches in turn
    #[arg(long, default_value_t = 25)]
    partitions: i32,
    /// Bytes of a batch, about
    #[arg(long, default_value_t = 64 << 10)]
    batch_bytes: usize,
    /// Batches of one request, each for another partition
    #[arg(long, default_value_t = 8)]
    request_batches: i32,
    /// Requests of a connection that are under way at once
    #[arg(long, default_value_t = 4)]
    in_flight: usize,
    /// Bytes per second of all together; as fast as they are taken without it
    #[arg(long)]
    rate: Option<f64>,
    /// retention.bytes of the topics
    #[arg(long, default_value_t = 32 << 20)]
    retention_bytes: u64,
    /// How long an object stays that nothing names, in seconds
    #[arg(long, default_value_t = 15)]
    collect_delay: u64,
    /// What is written to each topic that is created to be deleted, in bytes
    #[arg(long, default_value_t = 32 << 20)]
    passing_bytes: usize,
    /// More arguments for the broker
    #[arg(last = true)]
    more: Vec<String>,
}

/// Samples are compared from when so many times that was written which retention keeps.
const WARM_UP: f64 = 1.5;
/// Fewer samples than this say nothing.
const SAMPLES_MIN: usize = 9;
/// By this factor it may be more at the end than at the beginning. A merge or a pass of retention that a sample just caught
/// makes this much; what is not kept up with grows by the rate of ingest.
const GROWTH_MAX: f64 = 1.25;
/// Beside its delay, garbage waits for the collector's next round, and for the requests of the one before.
const ROUND_SECONDS: f64 = 10.0;
/// How often a look at the store is tried.
const VERIFY_ATTEMPTS: u32 = 10;
/// What one upload and one merge bring.
const SPARE_BYTES: f64 = 512e6;
/// For the load to end, and then for the collector to be done.
const END_TIMEOUT: Duration = Duration::from_secs(600);

pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(ingest(options))
}

async fn ingest(options: &Options) -> anyhow::Result<()> {
    let program = std::path::absolute(&options.ottla)?;
    let directory = std::env::temp_dir().join(format!("ottla-ingest-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let mut arguments = vec![
        format!("--collect-delay={}s", options.collect_delay),
        "--collect-interval=2s".to_owned(),
        "--kafka=log.retention.check.interval.ms=5000".to_owned(),
    ];
    arguments.extend_from_slice(&options.more);
    let mut ottla = Ottla::new(&program, options.storage, &directory, &options.s3, &arguments).await?;
    ottla.start().await?;
    let load = Arc::new(Load::new(ottla.port, options));
    let mut connection = Connection::open(ottla.port).await?;
    let retention = options.retention_bytes.to_string();
    for topic in load.topics() {
        connection.create_topic(&topic, options.partitions, &[("retention.bytes", &retention)]).await?;
    }
    drop(connection);

    let began = Instant::now();
    let mut writers = JoinSet::new();
    for topic in load.topics() {
        let load = load.clone();
        writers.spawn(async move { load.write(&topic).await });
    }
    let passing = load.clone();
    writers.spawn(async move { passing.come_and_go().await });
    let samples = watch(options, &ottla, &load).await?;
    load.stopping.store(true, Ordering::Relaxed);
    let ended = async {
        while let Some(done) = writers.join_next().await {
            done.context("a writer died")??;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(END_TIMEOUT, ended).await.context("the load does not end")??;
    let seconds = began.elapsed().as_secs_f64();
    let written = load.acknowledged.load(Ordering::Relaxed);

    let (left, quiet_seconds) = until_quiet(&ottla).await?;
    ottla.stop(true).await?;
    let dump = ottla.command(&["metalog", "dump", "--json"]).await?;
    ensure!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let account = Account::of(&String::from_utf8(dump.stdout)?)?;
    let verified = verify(&ottla, &["--checksums"]).await?;

    let kept = (options.topics as u64 * options.partitions as u64 * options.retention_bytes) as f64;
    let mut wrong = grown(&samples, kept);
    wrong.extend(lags(&samples, options.collect_delay as f64 + ROUND_SECONDS));
    if left["garbage"]["objects"] != 0 {
        wrong.push(format!("garbage is left: {}", left["garbage"]));
    }
    if verified["problem_count"] != 0 {
        wrong.push(format!("the store is not in order: {}", verified["problems"]));
    }
    if account.uploaded.bytes == 0 || account.deleted_objects == 0 || load.passed.load(Ordering::Relaxed) == 0
    {
        wrong.push("nothing was uploaded, or nothing deleted".to_owned());
    }
    let report = json!({
        "storage": format!("{:?}", options.storage),
        "partitions": options.partitions as usize * options.topics,
        "retention_bytes": options.retention_bytes,
        "seconds": seconds,
        "ingested_bytes": written,
        "ingested_bytes_per_second": written as f64 / seconds,
        "topics_created_and_deleted": load.passed.load(Ordering::Relaxed),
        "refusals": load.refusals.load(Ordering::Relaxed),
        "account": account.report(written),
        "seconds_until_quiet": quiet_seconds,
        "left": summary(&left),
        "series": series(&samples, kept),
        "wrong": wrong,
    });
    println!("{report}");
    if !wrong.is_empty() {
        anyhow::bail!("{}\nwhat is left is in {}", wrong.join("\n"), directory.display());
    }
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

/// The series of samples, by name.
type Samples = BTreeMap<&'static str, Vec<Sample>>;

async fn watch(options: &Options, ottla: &Ottla, load: &Load) -> anyhow::Result<Samples> {
    let began = Instant::now();
    let length = Duration::from_secs_f64(options.minutes * 60.0);
    let mut samples = Samples::new();
    while began.elapsed() < length {
        tokio::time::sleep((length / 40).clamp(Duration::from_secs(1), Duration::from_secs(30))).await;
        let found = verify(ottla, &[]).await?;
        let now = began.elapsed().as_secs_f64();
        let [memory, _, _] = ottla.sample()?;
        let count = |name: &str, unit: &str| found[name][unit].as_f64().unwrap_or(0.0);
        let named = count("named", "bytes");
        let parts = found["parts"].as_f64().unwrap_or(0.0);
        for (name, value) in [
            ("ingested_bytes", load.acknowledged.load(Ordering::Relaxed) as f64),
            ("memory_bytes", memory as f64),
            ("named_objects", count("named", "objects")),
            ("named_bytes", named),
            ("parts", parts),
            ("parts_per_gib", if named > 0.0 { parts / named * f64::from(1 << 30) } else { 0.0 }),
            ("garbage_objects", count("garbage", "objects")),
            ("garbage_bytes", count("garbage", "bytes")),
            ("pending_objects", count("pending", "objects")),
            ("metadata_log_bytes", count("metadata_log", "bytes")),
        ] {
            samples.entry(name).or_default().push((now, value));
        }
        eprintln!(
            "{now:6.0} s  {:>8.0} MB in  {:>6.0} MB resident  {}",
            load.acknowledged.load(Ordering::Relaxed) as f64 / 1e6,
            memory as f64 / 1e6,
            summary(&found)
        );
    }
    Ok(samples)
}

/// What `ottla verify` finds, beside a broker that runs or without one. A store that is busy may let it wait too long.
async fn verify(ottla: &Ottla, arguments: &[&str]) -> anyhow::Result<Value> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let output = ottla.command(&[&["verify", "--json"], arguments].concat()).await?;
        match serde_json::from_slice(&output.stdout) {
            Ok(found) => return Ok(found),
            Err(_) if attempts < VERIFY_ATTEMPTS => {}
            Err(error) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(error).with_context(|| format!("`ottla verify` said {said}"));
            }
        }
    }
}

fn summary(found: &Value) -> Value {
    json!({
        "named": found["named"],
        "parts": found["parts"],
        "garbage": found["garbage"],
        "pending": found["pending"],
        "orphans": found["orphans"],
    })
}

/// Waits until there is no garbage any more. What is there then, or when nobody waits any longer, and how long that took.
async fn until_quiet(ottla: &Ottla) -> anyhow::Result<(Value, f64)> {
    let began = Instant::now();
    let mut none = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let found = verify(ottla, &[]).await?;
        // Retention and the next look of compaction come every ten seconds at most; then it stays away.
        none = if found["garbage"]["objects"] == 0 { none + 1 } else { 0 };
        if none == 8 || began.elapsed() > END_TIMEOUT {
            return Ok((found, began.elapsed().as_secs_f64()));
        }
    }
}

/// What of a series comes after the warm-up.
fn settled<'a>(samples: &'a Samples, name: &str, kept: f64) -> &'a [Sample] {
    let ingested = samples.get("ingested_bytes").map_or(&[][..], |samples| samples);
    let warm = ingested.iter().take_while(|(_, bytes)| *bytes < kept * WARM_UP).count();
    samples.get(name).and_then(|samples| samples.get(warm..)).unwrap_or(&[])
}

/// What grew that should not.
fn grown(samples: &Samples, kept: f64) -> Vec<String> {
    if settled(samples, "ingested_bytes", kept).len() < SAMPLES_MIN {
        return vec![
            "retention had no time to show itself: more --minutes, or less --retention-bytes".to_owned(),
        ];
    }
    // Without it, few objects would have to be fewer still.
    let spare = |name: &str| if name.ends_with("bytes") { SPARE_BYTES } else { 256.0 };
    ["named_objects", "named_bytes", "parts", "memory_bytes"]
        .into_iter()
        .filter_map(|name| {
            let (first, last) = trend::thirds(settled(samples, name, kept));
            let too_much = last > first * GROWTH_MAX + spare(name);
            too_much.then(|| format!("{name} grew from {first} to {last}"))
        })
        .collect()
}

/// Where garbage was more than what came in in twice `seconds`.
fn lags(samples: &Samples, seconds: f64) -> Option<String> {
    let (ingested, garbage) = (samples.get("ingested_bytes")?, samples.get("garbage_bytes")?);
    let came_in = |until: f64, bytes: f64| {
        let before = ingested.iter().take_while(|(when, _)| *when <= until - 2.0 * seconds).last();
        bytes - before.map_or(0.0, |(_, bytes)| *bytes)
    };
    garbage.iter().zip(ingested).find_map(|((when, garbage), (_, bytes))| {
        let most = came_in(*when, *bytes) + SPARE_BYTES;
        (*garbage > most)
            .then(|| format!("after {when:.0} s {garbage} bytes wait for deletion, {most} at most"))
    })
}

fn series(samples: &Samples, kept: f64) -> Value {
    let of = |name: &&'static str| {
        let settled = settled(samples, name, kept);
        let (first, last) = trend::thirds(settled);
        let most = settled.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        ((*name).to_owned(), json!({ "first_third": first, "last_third": last, "most": most }))
    };
    samples.keys().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: f64 = 1e9;

    /// 100 MB/s for 40 s, and a series that rises.
    fn rising(name: &'static str, from: f64, per_second: f64) -> Samples {
        let series = |from: f64, per_second: f64| -> Vec<Sample> {
            (0..40).map(|at| (f64::from(at), from + f64::from(at) * per_second)).collect()
        };
        Samples::from([("ingested_bytes", series(0.0, 1e8)), (name, series(from, per_second))])
    }

    #[test]
    fn what_grows_is_told() {
        assert_eq!(grown(&rising("named_bytes", 1e9, 0.0), KEPT), Vec::<String>::new());
        assert_eq!(grown(&rising("named_bytes", 1e9, 1e6), KEPT), Vec::<String>::new());
        assert_eq!(grown(&rising("named_bytes", 1e9, 1e8), KEPT).len(), 1);
        assert_eq!(grown(&rising("parts", 1e3, 1e3), KEPT).len(), 1);
        let short = grown(&rising("parts", 1e3, 0.0), 10.0 * KEPT);
        assert!(short[0].contains("no time"), "{short:?}");
    }

    #[test]
    fn garbage_that_is_not_kept_up_with_is_told() {
        // Ten seconds' worth of what comes in, and all of it.
        assert_eq!(
            lags(&rising("garbage_bytes", 1e9, 0.0), 5.0),
            Some("after 0 s 1000000000 bytes wait for deletion, 512000000 at most".to_owned())
        );
        assert_eq!(lags(&rising("garbage_bytes", 5e8, 1e7), 5.0), None);
        assert!(
            lags(&rising("garbage_bytes", 0.0, 1e8), 5.0).is_some_and(|lag| lag.starts_with("after 16 s"))
        );
        assert_eq!(lags(&rising("garbage_bytes", 0.0, 1e8), 20.0), None);
    }
}
