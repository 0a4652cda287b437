//! A run from the first broker's start to the verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep};

use crate::clients::{Client, Kind, Work};
use crate::cluster::Cluster;
use crate::fault::{Blow, Choice, Cycle, Fault};
use crate::history::{self, Ack, Tail};
use crate::kafka;
use crate::network::{Host, Network};
use crate::scene::Scene;
use crate::{HEALED_WITHIN, Options};

const TOPIC: &str = "real";
/// How often histories and processes are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// For a broker that is asked who leads what; the next one is asked then.
const ASKED_PATIENCE: Duration = Duration::from_secs(2);
/// How long clients get until each partition has had its first records.
const FIRST_WITHIN: Duration = Duration::from_secs(240);

/// The clock of the histories.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A cycle as it went.
struct Struck {
    kind: String,
    from: u64,
    /// When the next one began, or the faults were over.
    until: u64,
    /// Partitions that were led by who was struck.
    affected: BTreeSet<i32>,
}

struct Run<'s> {
    options: &'s Options,
    scene: &'s Scene,
    network: Network<'s>,
    cluster: Cluster<'s>,
    tails: Vec<Tail>,
    began: Instant,
    log: File,
    /// What should not have happened.
    wrong: Vec<String>,
}

/// Whether all was as it should be.
pub async fn run(options: &Options, scene: &Scene) -> anyhow::Result<bool> {
    let seed = options.seed.unwrap_or_else(rand::random);
    println!("seed {seed}, {} brokers, {} WAL", options.brokers, options.wal.name());
    let mut random = StdRng::seed_from_u64(seed);
    let choice = Choice {
        brokers: options.brokers,
        hold_max: Duration::from_secs(options.hold_max),
        only: options.only.clone(),
    };
    let hosts: Vec<Host> =
        (1..=options.brokers).map(Host::Broker).chain([Host::Store, Host::Clients]).collect();
    let network = Network::build(scene, &hosts).await?;
    let cluster = Cluster::new(scene, options).await?;
    let log = File::create(scene.directory().join("faults.log"))?;
    let (tails, wrong) = (Vec::new(), Vec::new());
    let mut run = Run { options, scene, network, cluster, tails, began: Instant::now(), log, wrong };

    for id in 1..=options.brokers {
        run.cluster.start(id)?;
    }
    for said in run.cluster.ready(TOPIC).await? {
        run.say(&said)?;
    }
    let bootstrap = run.cluster.addresses();
    kafka::create_topic(&bootstrap[0], TOPIC, options.partitions).await?;
    let work = Work { scene, topic: TOPIC, partitions: options.partitions, pace: options.pace };
    let mut clients = Vec::new();
    for (number, kind) in Kind::ALL.into_iter().enumerate() {
        let client = work.start(kind, number as u32 + 1, &bootstrap)?;
        run.tails.push(Tail::new(client.history.clone()));
        clients.push(client);
    }
    run.acknowledged_since(0, FIRST_WITHIN, &[]).await?;
    ensure!(run.wrong.is_empty(), "{}", run.wrong.join("\n"));
    run.say(&format!("every partition acknowledges; {} cycles follow", options.cycles))?;

    let mut struck = Vec::new();
    for cycle in 1..=options.cycles {
        let next = choice.next(&mut random).context("no fault has such a name")?;
        run.say(&format!("cycle {cycle}: {next}"))?;
        let mut done = run.cycle(&next).await?;
        for client in &mut clients {
            run.wrong.extend(client.ended()?);
        }
        if let Some(last) = struck.last_mut() {
            let last: &mut Struck = last;
            last.until = done.from;
        }
        done.until = now();
        struck.push(done);
        if !run.wrong.is_empty() {
            break;
        }
    }
    run.end(&work, clients, struck, seed).await
}

impl Run<'_> {
    /// Tells what happens, with the time since the beginning and that of the histories.
    fn say(&mut self, what: &str) -> anyhow::Result<()> {
        println!("{:8.1} s  {what}", self.began.elapsed().as_secs_f64());
        writeln!(self.log, "{:.3} {what}", now() as f64 / 1e9)?;
        Ok(())
    }

    fn acks(&self) -> impl Iterator<Item = &Ack> {
        self.tails.iter().flat_map(|tail| &tail.acks)
    }

    /// Reads histories, and starts again what left by itself.
    fn look(&mut self, but: &[u32]) -> anyhow::Result<()> {
        for tail in &mut self.tails {
            tail.read()?;
        }
        for said in self.cluster.supervise(but)? {
            self.say(&said)?;
        }
        Ok(())
    }

    /// Lets time pass.
    async fn pass(&mut self, time: Duration, but: &[u32]) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            sleep(LOOK).await;
            self.look(but)?;
        }
        Ok(())
    }

    /// Waits until every partition has acknowledged something that came in after `since`; it is wrong if that takes longer
    /// than `within`.
    async fn acknowledged_since(&mut self, since: u64, within: Duration, but: &[u32]) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            self.look(but)?;
            let mut missing: BTreeSet<i32> = (0..self.options.partitions).collect();
            for tail in &self.tails {
                for ack in tail.acks.iter().rev().take_while(|ack| ack.time > since) {
                    missing.remove(&ack.partition);
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            if began.elapsed() > within {
                self.wrong.push(format!("nothing acknowledged for {within:?} in partitions {missing:?}"));
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    /// Who leads each partition, as the first broker that answers knows it.
    async fn leaders(&self) -> BTreeMap<i32, i32> {
        for address in self.cluster.addresses() {
            if let Ok((_, leaders)) = kafka::metadata(&address, TOPIC, ASKED_PATIENCE).await {
                return leaders;
            }
        }
        BTreeMap::new()
    }

    async fn cycle(&mut self, cycle: &Cycle) -> anyhow::Result<Struck> {
        let victims: BTreeSet<i32> =
            cycle.faults.iter().filter_map(Fault::victim).map(|id| id as i32).collect();
        let leaders = self.leaders().await;
        let affected = leaders.iter().filter(|(_, leader)| victims.contains(leader));
        let affected = affected.map(|(partition, _)| *partition).collect();
        let from = now();
        // Those that are down until the fault is healed, and are not to be started before.
        let mut down = Vec::new();
        for fault in &cycle.faults {
            for (from, to) in fault.cuts(self.options.brokers) {
                self.network.cut(from, to).await?;
            }
            match *fault {
                Fault::Process { blow: Blow::Kill, broker } => {
                    self.cluster.kill(broker).await?;
                    down.push(broker);
                }
                Fault::Process { blow: Blow::Restart, broker } => {
                    self.cluster.kill(broker).await?;
                    self.cluster.start(broker)?;
                }
                Fault::Process { blow: Blow::Stop, broker } => self.cluster.pause(broker, true)?,
                Fault::Process { blow: Blow::Terminate, broker } => {
                    self.cluster.terminate(broker)?;
                    down.push(broker);
                }
                Fault::StoreStops => self.cluster.pause_store(true)?,
                Fault::Cut { .. } | Fault::Isolate { .. } | Fault::Storeless { .. } | Fault::Alone { .. } => {
                }
            }
        }
        self.pass(cycle.hold, &down).await?;
        self.network.heal().await?;
        for fault in &cycle.faults {
            match *fault {
                Fault::Process { blow: Blow::Kill, broker } => self.cluster.start(broker)?,
                Fault::Process { blow: Blow::Stop, broker } => self.cluster.pause(broker, false)?,
                Fault::Process { blow: Blow::Terminate, broker } => {
                    let wrong = self.cluster.left_in_order(broker).await?;
                    self.wrong.extend(wrong);
                    self.cluster.start(broker)?;
                }
                Fault::StoreStops => self.cluster.pause_store(false)?,
                _ => {}
            }
        }
        let healed = now();
        self.acknowledged_since(healed, HEALED_WITHIN, &[]).await?;
        self.pass(cycle.rest, &[]).await?;
        Ok(Struck { kind: cycle.kind(), from, until: 0, affected })
    }

    /// Heals everything, reads everything once more, and judges.
    async fn end(
        mut self,
        work: &Work<'_>,
        clients: Vec<Client>,
        struck: Vec<Struck>,
        seed: u64,
    ) -> anyhow::Result<bool> {
        self.say("all is healed; the clients finish")?;
        let mut histories: Vec<PathBuf> = clients.iter().map(|client| client.history.clone()).collect();
        for client in clients {
            if let Err(error) = client.end().await {
                self.wrong.push(format!("{error:#}"));
            }
        }
        self.look(&[])?;
        let bootstrap = self.cluster.addresses();
        let mut lost = 0;
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            self.say(&format!("{} reads everything through each broker", kind.name()))?;
            let (history, wrong) = work.read(kind, 101 + number as u32, &bootstrap).await?;
            self.wrong.extend(wrong);
            let contents = history::contents(&history)?;
            if contents.len() != bootstrap.len() {
                self.wrong.push(format!("{} read through {} brokers", kind.name(), contents.len()));
            }
            for read in contents.values() {
                let ledger = history::ledger(self.acks(), read);
                lost += ledger.lost;
                if ledger != history::Ledger::default() {
                    self.wrong.push(format!("the last read of {}: {ledger:?}", kind.name()));
                }
            }
            self.tails.push(Tail::new(history.clone()));
            histories.push(history);
        }
        self.look(&[])?;
        for id in 1..=self.options.brokers {
            self.cluster.terminate(id)?;
        }
        for id in 1..=self.options.brokers {
            let wrong = self.cluster.left_in_order(id).await?;
            self.wrong.extend(wrong);
        }
        self.verify().await?;
        self.look_into_logs()?;
        for tail in &self.tails {
            self.wrong.extend(tail.violations.iter().cloned());
        }
        let merged = history::merged(&histories)?;
        let options = checker::Options { rebalances_logged: true, ..checker::Options::default() };
        let verdict = checker::check(&merged, &options);
        fs::write(self.scene.directory().join("verdict.txt"), verdict.to_string())?;
        println!("\n{verdict}");
        if !verdict.valid() {
            self.wrong.push("the checker found errors, above".to_owned());
        }
        self.report(&struck, seed, lost);
        Ok(self.wrong.is_empty())
    }

    /// What the store holds against what the metadata names.
    async fn verify(&mut self) -> anyhow::Result<()> {
        self.say("the store is verified")?;
        let (found_well, said) = self.cluster.tool(&["verify", "--checksums"]).await?;
        fs::write(self.scene.directory().join("verify.txt"), &said)?;
        if !found_well {
            self.wrong.push(format!("ottla verify:\n{said}"));
            let (_, dump) = self.cluster.tool(&["metalog", "dump"]).await?;
            fs::write(self.scene.directory().join("metalog.txt"), dump)?;
        }
        Ok(())
    }

    /// A broker that panicked is wrong, whatever its clients saw.
    fn look_into_logs(&mut self) -> anyhow::Result<()> {
        for broker in &self.cluster.brokers {
            let log = fs::read(self.scene.directory().join(format!("b{}.log", broker.id)))?;
            let log = String::from_utf8_lossy(&log);
            if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
                self.wrong.push(format!("broker {}: {line}", broker.id));
            }
        }
        Ok(())
    }

    /// Times by kind of fault, what was wrong, and a line for the table of docs/testing.md.
    fn report(&self, struck: &[Struck], seed: u64, lost: u64) {
        let mut times: BTreeMap<i32, Vec<u64>> = BTreeMap::new();
        for ack in self.acks() {
            times.entry(ack.partition).or_default().push(ack.time);
        }
        times.values_mut().for_each(|times| times.sort_unstable());
        let mut kinds: BTreeMap<&str, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
        for one in struck {
            let (affected, others) = kinds.entry(&one.kind).or_default();
            for (partition, times) in &times {
                let Some(pause) = history::pause(times, one.from, one.until) else { continue };
                if one.affected.contains(partition) { affected.push(pause) } else { others.push(pause) }
            }
        }
        println!(
            "longest time without an acknowledged write, s: partitions led by who was struck | all others"
        );
        for (kind, (affected, others)) in &mut kinds {
            println!("  {kind:<40} {} | {}", told(affected), told(others));
        }
        let of = |name: &str| kinds.get(name).map(|(affected, _)| affected.clone()).unwrap_or_default();
        let dead = |names: [&str; 3]| names.iter().flat_map(|name| of(name)).collect::<Vec<_>>();
        let mut dead = dead(["kill", "stop", "restart"]);
        let seconds = |value: u64| value as f64 / 1e9;
        println!(
            "\n| {} | {seed} | {} | {} | {lost} | {:.1} | {:.1} | {:.1} |",
            self.options.wal.name(),
            struck.len(),
            self.acks().count(),
            seconds(history::percentile(&mut dead, 50)),
            seconds(history::percentile(&mut dead, 99)),
            seconds(history::percentile(&mut dead, 100)),
        );
        let notes: usize = self.tails.iter().map(|tail| tail.notes.len()).sum();
        println!(
            "{:.0} s; {} notes of clients; {} times a broker left by itself",
            self.began.elapsed().as_secs_f64(),
            notes,
            self.cluster.left_by_themselves,
        );
        for tail in &self.tails {
            for note in tail.notes.iter().take(10) {
                println!("  note: {note}");
            }
        }
        for wrong in &self.wrong {
            println!("WRONG: {wrong}");
        }
        if !self.wrong.is_empty() {
            let Options { cycles, wal, brokers, .. } = self.options;
            let (wal, seed) = (wal.name(), seed);
            println!("again: sim/real/run --cycles {cycles} --wal {wal} --brokers {brokers} --seed {seed}");
        }
    }
}

fn told(pauses: &mut [u64]) -> String {
    let mut text = format!("{:4}", pauses.len());
    for (name, percent) in [("p50", 50), ("p99", 99), ("max", 100)] {
        let _ = write!(text, "  {name} {:6.2}", history::percentile(pauses, percent) as f64 / 1e9);
    }
    text
}
