//! A soak: the real program under mixed load for minutes or hours, watched from outside.
//!
//! ```text
//!   producers, one a partition ──┐                     ┌── samples: memory, threads, descriptors, objects
//!   groups whose members leave ──┤                     │
//!   readers from the start     ──┼──► ottla (process) ─┴── restarts, if asked for
//!   topics, groups, connections  │
//!     that come and go         ──┤
//!   deletion of old records    ──┘      at the end: everything is read once more, and the store verified
//! ```
//!
//! The record at offset *n* of a partition holds the number *n*, so every reader sees what was lost or doubled. After a
//! warm-up, a quarter of the time, nothing may grow: the slope of the memory is that of Theil and Sen.

mod group;
mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use kafka_protocol::messages::ApiKey;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::group::Group;
use self::work::World;
use crate::client::Connection;
use crate::process::{Ottla, S3, Storage};
use crate::trend::{self, Sample};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// How long the load lasts
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// The program
    #[arg(long, default_value = "target/release/ottla")]
    ottla: PathBuf,
    #[arg(long, value_enum, default_value = "directory")]
    storage: Storage,
    #[command(flatten)]
    s3: S3,
    /// Topics that are written to all the time
    #[arg(long, default_value_t = 4)]
    topics: usize,
    /// Partitions of each
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// Consumer groups, each with two members
    #[arg(long, default_value_t = 2)]
    groups: usize,
    /// Batches a second and partition
    #[arg(long, default_value_t = 10.0)]
    batches_per_second: f64,
    /// Records that each partition keeps
    #[arg(long, default_value_t = 20_000)]
    keep_records: u64,
    /// Stops and starts the broker this often, by SIGKILL and SIGTERM in turn
    #[arg(long)]
    restart_seconds: Option<f64>,
    /// Fails if memory grows faster than this, in percent an hour
    #[arg(long)]
    memory_slope_max: Option<f64>,
    /// More arguments for the broker
    #[arg(last = true)]
    more: Vec<String>,
}

/// Descriptors that may be there at the end and were not after the warm-up: members and connections come and go.
const DESCRIPTORS_SPARE: f64 = 24.0;
/// The runtime has up to 512 threads for calls that block, and lets them go when they are idle.
const THREADS_SPARE: f64 = 512.0;
/// Slots stay for ten leases after they are trimmed, twenty of them a second at most; and entries of the metadata log stay
/// for long.
const OBJECTS_SPARE: f64 = 4000.0;

/// Longer than any request of the load may take.
const END_TIMEOUT: Duration = Duration::from_secs(180);

pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(soak(options))
}

async fn soak(options: &Options) -> anyhow::Result<()> {
    let program = std::path::absolute(&options.ottla)?;
    let directory = std::env::temp_dir().join(format!("ottla-soak-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let mut more = options.more.clone();
    const LEASE: &str = "--lease";
    if !more.iter().any(|argument| argument.starts_with(LEASE)) {
        // A machine with too much to do ends the default one now and then, and this is not about leases.
        more.push(format!("{LEASE}=10s"));
    }
    const SWEEP: &str = "--collect-first-sweep";
    if let Some(seconds) = options.restart_seconds
        && !more.iter().any(|argument| argument.starts_with(SWEEP))
    {
        // What a life leaves behind only a sweep finds, and none lives until the first one is due by default.
        more.push(format!("{SWEEP}={}s", (seconds / 3.0).ceil()));
    }
    let mut ottla = Ottla::new(&program, options.storage, &directory, &options.s3, &more).await?;
    ottla.start().await?;
    let mut world = World::new(ottla.port, options.topics, options.partitions);
    world.batches_per_second = options.batches_per_second;
    world.keep_records = options.keep_records;
    let world = Arc::new(world);

    let mut connection = Connection::open(ottla.port).await?;
    for partition in world.partitions.iter().filter(|partition| partition.index == 0) {
        connection.create_topic(&partition.topic, options.partitions, &[]).await?;
    }
    let trims = work::serves(&mut connection, ApiKey::DeleteRecords).await?;
    drop(connection);

    let mut load = load(&world, options.groups, trims);
    let samples = watch(options, &mut ottla, &world).await?;
    world.stopping.store(true, Ordering::Relaxed);
    let ended = async {
        while let Some(done) = load.join_next().await {
            done.context("a part of the load died")?;
        }
        anyhow::Ok(())
    };
    let ended = tokio::time::timeout(END_TIMEOUT, ended).await;
    ended.with_context(|| format!("the load does not end: {}", world.progress()))??;

    let mut read = 0;
    for partition in &world.partitions {
        read += work::read_all(&world, partition).await?;
    }
    ottla.stop(true).await?;
    let verified = verify(&ottla).await?;
    let report = Report { options, world: &world, samples, trims, read, verified };
    let wrong = report.print();
    if !wrong.is_empty() {
        anyhow::bail!("{}\nwhat is left is in {}", wrong.join("\n"), directory.display());
    }
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

fn load(world: &Arc<World>, groups: usize, trims: bool) -> JoinSet<()> {
    let mut load = JoinSet::new();
    for number in 0..world.partitions.len() {
        let world = world.clone();
        load.spawn(async move { work::produce(&world, &world.partitions[number]).await });
    }
    for number in 0..groups {
        let group = Arc::new(Group::new(number));
        for _ in 0..2 {
            let (world, group) = (world.clone(), group.clone());
            load.spawn(async move { group::member(&world, &group).await });
        }
    }
    let of = world.clone();
    load.spawn(async move { work::catch_up(&of).await });
    let of = world.clone();
    load.spawn(async move { work::churn(&of).await });
    if trims {
        let of = world.clone();
        load.spawn(async move { work::trim(&of).await });
    }
    load
}

/// The series of samples, by name.
type Samples = BTreeMap<String, Vec<Sample>>;

/// Samples until the time is over, and restarts the broker if asked to.
async fn watch(options: &Options, ottla: &mut Ottla, world: &World) -> anyhow::Result<Samples> {
    let began = Instant::now();
    let length = Duration::from_secs_f64(options.minutes * 60.0);
    let every = (length / 240).clamp(Duration::from_secs(1), Duration::from_secs(15));
    let mut samples = Samples::new();
    let mut restart_at = options.restart_seconds;
    let mut in_order = false;
    let mut progress_at = 0.0;
    while began.elapsed() < length {
        tokio::time::sleep(every).await;
        if restart_at.is_some_and(|at| at < began.elapsed().as_secs_f64()) {
            ottla.stop(in_order).await?;
            ottla.start().await?;
            in_order = !in_order;
            restart_at = options.restart_seconds.map(|seconds| seconds + began.elapsed().as_secs_f64());
        }
        let now = began.elapsed().as_secs_f64();
        let mut add =
            |name: &str, value: u64| samples.entry(name.to_owned()).or_default().push((now, value as f64));
        let [memory, threads, descriptors] = ottla.sample()?;
        add("memory_bytes", memory);
        add("threads", threads);
        add("descriptors", descriptors);
        let objects = ottla.objects().await?;
        add("objects", objects.values().map(|(count, _)| count).sum());
        add("object_bytes", objects.values().map(|(_, bytes)| bytes).sum());
        for (part, (count, _)) in &objects {
            add(&format!("objects_{part}"), *count);
        }
        if now >= progress_at {
            eprintln!("{now:6.0} s  {}", world.progress());
            progress_at = now + length.as_secs_f64() / 20.0;
        }
        if !world.violations().is_empty() {
            break;
        }
    }
    Ok(samples)
}

/// `ottla verify` on the store, where the program has it: what it said, and whether it found the store in order.
async fn verify(ottla: &Ottla) -> anyhow::Result<Option<(bool, Value)>> {
    let help = ottla.command(&["verify", "--help"]).await?;
    if !help.status.success() {
        return Ok(None);
    }
    let output = ottla.command(&["verify", "--json", "--checksums"]).await?;
    let said = String::from_utf8_lossy(&output.stdout);
    let parsed = serde_json::from_str(said.trim()).unwrap_or(Value::String(said.into_owned()));
    Ok(Some((output.status.success(), parsed)))
}

struct Report<'a> {
    options: &'a Options,
    world: &'a World,
    samples: Samples,
    trims: bool,
    read: u64,
    verified: Option<(bool, Value)>,
}

impl Report<'_> {
    /// What came after the warm-up.
    fn settled(&self, name: &str) -> &[Sample] {
        let samples = self.samples.get(name).map_or(&[][..], |samples| samples);
        &samples[samples.len() / 4..]
    }

    /// Percent an hour.
    fn memory_slope(&self) -> f64 {
        let settled = self.settled("memory_bytes");
        let (first, _) = trend::thirds(settled);
        if first == 0.0 { 0.0 } else { trend::slope(settled) * 3600.0 / first * 100.0 }
    }

    /// What is not as it should be.
    fn wrong(&self) -> Vec<String> {
        let mut wrong = self.world.violations();
        let grows = |name: &str, factor: f64, spare: f64| {
            let (first, last) = trend::thirds(self.settled(name));
            (last > first * factor + spare).then(|| format!("{name} grew from {first} to {last}"))
        };
        wrong.extend(grows("descriptors", 1.0, DESCRIPTORS_SPARE));
        wrong.extend(grows("threads", 1.0, THREADS_SPARE));
        if self.trims {
            wrong.extend(grows("objects", 2.0, OBJECTS_SPARE));
        }
        if self.options.restart_seconds.is_none() {
            wrong.extend(grows("memory_bytes", 2.0, 128.0 * f64::from(1 << 20)));
            let slope = self.memory_slope();
            if self.options.memory_slope_max.is_some_and(|max| slope > max) {
                wrong.push(format!("memory grows by {slope:.2} % an hour"));
            }
        }
        let acknowledged = self.acknowledged();
        if acknowledged == 0 || self.world.consumed.load(Ordering::Relaxed) == 0 {
            wrong.push("nothing was written or nothing was read".to_owned());
        }
        if let Some((false, said)) = &self.verified {
            wrong.push(format!("the store is not in order: {said}"));
        }
        wrong
    }

    fn acknowledged(&self) -> u64 {
        self.world.partitions.iter().map(|partition| partition.acknowledged.load(Ordering::Relaxed)).sum()
    }

    /// One line of JSON, and the same for people on standard error. Gives back what is wrong.
    fn print(&self) -> Vec<String> {
        let wrong = self.wrong();
        let count = |of: &std::sync::atomic::AtomicU64| of.load(Ordering::Relaxed);
        let series: serde_json::Map<String, Value> = self
            .samples
            .keys()
            .map(|name| {
                let (first, last) = trend::thirds(self.settled(name));
                let slope = trend::slope(self.settled(name)) * 3600.0;
                (name.clone(), json!({"after_warm_up": first, "at_the_end": last, "slope_per_hour": slope}))
            })
            .collect();
        let (acknowledged, memory_slope) = (self.acknowledged(), self.memory_slope());
        eprintln!("{acknowledged} records acknowledged, {} read and right at the end", self.read);
        for (name, values) in &series {
            eprintln!(
                "{name:16} {:>14.0} after the warm-up {:>14.0} at the end {:>+14.1} an hour",
                values["after_warm_up"].as_f64().unwrap_or(0.0),
                values["at_the_end"].as_f64().unwrap_or(0.0),
                values["slope_per_hour"].as_f64().unwrap_or(0.0)
            );
        }
        eprintln!("memory {memory_slope:+.2} % an hour; {} violations", wrong.len());
        let report = json!({
            "minutes": self.options.minutes,
            "storage": format!("{:?}", self.options.storage),
            "acknowledged_records": acknowledged,
            "consumed_records": count(&self.world.consumed),
            "read_at_the_end": self.read,
            "rebalances": count(&self.world.rebalances),
            "topics_and_groups_passed": count(&self.world.churned),
            "interruptions": count(&self.world.interruptions),
            "records_are_deleted": self.trims,
            "memory_slope_percent_per_hour": memory_slope,
            "series": series,
            "verify": self.verified.as_ref().map(|(_, said)| said),
            "wrong": wrong,
        });
        println!("{report}");
        wrong
    }
}
