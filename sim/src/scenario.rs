//! What a seed stands for: a cluster, a load, and what goes wrong.
//!
//! ```text
//!   plan ──► the load, while the nemesis strikes (30–60 s) ──► everything is healed ──► the load ends
//!        ──► everything is read once more ──► the bucket against the metadata ──► the checker
//! ```
//!
//! Reading order: [`plan`], this file, [`nemesis`].

mod nemesis;
mod plan;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream;
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use rand::{SeedableRng, seq::SliceRandom};

use crate::machine::{self, Life, Process};
use crate::workload::{self, Shared};
use crate::world::{MachineId, STEP, World};
use crate::{admin, members, reading};
use nemesis::Undo;
use plan::{Disk, Plan};

/// After the nemesis has stopped: for the load to end and to be read.
const CALM_MAX: Duration = Duration::from_secs(180);

/// Of brokers.
const LEASE_MAX: Duration = Duration::from_secs(5);

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub findings: Vec<String>,
    pub trace: u64,
    pub events: u64,
    pub simulated: Duration,
    pub acknowledged: u64,
    pub unknown: u64,
    pub read: u64,
    pub commits: u64,
    pub moves: u64,
    pub lives: u64,
    pub requests: u64,
    pub strikes: BTreeMap<&'static str, u64>,
}

/// Who came to an end, and how.
type Ended = Arc<Mutex<Vec<(Life, Result<(), String>)>>>;

struct Broker {
    process: Option<Process>,
    disk: Option<Disk>,
    stopped_until: Option<Duration>,
    start_at: Option<Duration>,
    terminate: Option<tokio::sync::oneshot::Sender<()>>,
    /// Until the start of its process is through.
    is_starting: Arc<AtomicBool>,
    lives: u64,
}

struct Run {
    world: World,
    plan: Plan,
    /// Where each broker is to be: if it ends there, it is started there again.
    places: Vec<MachineId>,
    random: StdRng,
    brokers: Vec<Broker>,
    clients: Process,
    /// Clients that may be on the other side of a cut than the others, behind all other machines.
    monitors: Process,
    shared: Arc<Shared>,
    ended: Ended,
    undo: Vec<(Duration, Undo)>,
    strikes: BTreeMap<&'static str, u64>,
    next_strike: Duration,
    heard: u64,
}

/// Runs a seed.
pub fn run(seed: u64, brokers_max: usize, print: bool) -> Outcome {
    let mut random = StdRng::seed_from_u64(seed ^ 0x5eed);
    let plan = Plan::new(&mut random, brokers_max);
    Run::new(seed, random, plan, print).play()
}

/// The final reader's number; what others have lies behind.
const FINAL: u32 = 0;
/// The first monitor's.
const MONITORS: u32 = 1_000;

async fn load(shared: Arc<Shared>, producers: usize, readers: usize, groups: Vec<usize>, admin: bool) {
    workload::create_topics(shared.clone()).await;
    let mut processes = FINAL + 1..;
    let mut process = || processes.next().expect("there are enough numbers");
    for _ in 0..producers {
        drop(tokio::spawn(workload::producer(shared.clone(), process())));
    }
    for _ in 0..readers {
        drop(tokio::spawn(reading::reader(shared.clone(), process())));
    }
    for (group, members) in groups.into_iter().enumerate() {
        for _ in 0..members {
            drop(tokio::spawn(members::member(shared.clone(), group, process())));
        }
    }
    if admin {
        drop(tokio::spawn(admin::admin(shared)));
    }
}

impl Run {
    fn new(seed: u64, mut random: StdRng, plan: Plan, print: bool) -> Run {
        let world = World::new(seed, 2 * plan.brokers + 2, print);
        world.note(format_args!(
            "{} brokers, {:?}, {:?}, {} producers, {} readers, groups {:?}, admin {}, aim {}, {}",
            plan.brokers,
            plan.wals,
            plan.topics,
            plan.producers,
            plan.readers,
            plan.groups,
            plan.admin,
            plan.aim,
            plan.options.join(" ")
        ));
        let shared = Shared::new(world.clone(), plan.brokers, &plan.topics, plan.groups.len(), LEASE_MAX);
        {
            let mut state = shared.state.lock();
            state.producers = plan.producers;
            state.members = plan.groups.iter().sum();
        }
        let load = load(shared.clone(), plan.producers, plan.readers, plan.groups.clone(), plan.admin);
        let clients = Process::start(&world, Life { machine: plan.brokers, number: 0 }, load);
        let monitor = Life { machine: plan.monitor_machine(), number: 0 };
        let monitors = Process::start(&world, monitor, reading::monitors(shared.clone(), MONITORS));
        let brokers = (0..=2 * plan.brokers)
            .map(|machine| Broker {
                process: None,
                disk: plan.disk_of(&world, &mut random, machine),
                stopped_until: None,
                start_at: (machine < plan.brokers).then_some(Duration::ZERO),
                terminate: None,
                is_starting: Arc::default(),
                lives: 0,
            })
            .collect();
        Run {
            places: (0..plan.brokers).collect(),
            next_strike: Duration::from_secs(6),
            world,
            plan,
            random,
            brokers,
            clients,
            monitors,
            shared,
            ended: Ended::default(),
            undo: Vec::new(),
            strikes: BTreeMap::new(),
            heard: 0,
        }
    }

    fn play(&mut self) -> Outcome {
        let trouble = self.plan.trouble;
        while self.now() < trouble {
            self.strike();
            self.step();
        }
        self.heal();
        self.shared.state.lock().stop = true;
        let until = self.now() + CALM_MAX;
        let mut reading = false;
        let is_over = |state: &workload::State| state.final_reads > 0 && state.members == 0;
        while self.now() < until && !is_over(&self.shared.state.lock()) {
            if !reading && self.shared.state.lock().producers == 0 {
                reading = true;
                let shared = self.shared.clone();
                self.clients.spawn(Box::pin(reading::final_reader(shared, FINAL)));
            }
            self.step();
        }
        let mut findings = self.shared.state.lock().findings.clone();
        {
            let state = self.shared.state.lock();
            if !is_over(&state) {
                let undone = state.undone();
                findings.push(format!(
                    "not everything could be read {CALM_MAX:?} after all was healed: {undone}"
                ));
            }
        }
        findings.extend(self.judge());
        let (trace, events) = self.world.trace();
        let (simulated, requests) = {
            let inner = self.world.lock();
            (inner.now, inner.bucket.requests)
        };
        let state = self.shared.state.lock();
        Outcome {
            findings,
            trace,
            events,
            simulated,
            acknowledged: state.acknowledged,
            unknown: state.unknown,
            read: state.read,
            commits: state.commits,
            moves: state.moves,
            lives: self.brokers.iter().map(|broker| broker.lives).sum(),
            requests,
            strikes: self.strikes.clone(),
        }
    }

    fn now(&self) -> Duration {
        self.world.lock().now
    }

    /// One step of the world (W1).
    fn step(&mut self) {
        let from = self.now();
        let until = from + STEP;
        self.undo(from);
        for machine in 0..self.brokers.len() {
            if self.brokers[machine].start_at.is_some_and(|at| at <= from) {
                self.start(machine);
            }
            let broker = &mut self.brokers[machine];
            if broker.stopped_until.is_some_and(|until| until <= from) {
                broker.stopped_until = None;
                self.world.note(format_args!("machine {machine} goes on"));
            }
        }
        self.world.happen();
        let mut order: Vec<usize> = (0..=self.plan.monitor_machine()).collect();
        order.shuffle(&mut self.random);
        for machine in order {
            if machine == self.plan.brokers {
                self.clients.run_until(from, until);
                continue;
            }
            if machine == self.plan.monitor_machine() {
                self.monitors.run_until(from, until);
                continue;
            }
            let broker = &mut self.brokers[machine];
            if let Some(process) = &mut broker.process
                && broker.stopped_until.is_none()
            {
                process.run_until(from, until);
            }
        }
        self.world.lock().now = until;
        let ended = std::mem::take(&mut *self.ended.lock());
        for (life, outcome) in ended {
            self.world.note(format_args!("broker {life:?} ended: {outcome:?}"));
            let broker = &mut self.brokers[life.machine];
            if broker.process.as_ref().is_some_and(|process| process.life() == life) {
                broker.process = None;
                {
                    let mut inner = self.world.lock();
                    inner.disconnect(life, true);
                    inner.leave_disks(life, true);
                }
                if self.places.contains(&life.machine) {
                    let pause = Duration::from_millis(self.random.random_range(100..2_000));
                    broker.start_at = Some(until + pause);
                }
            }
        }
    }

    fn start(&mut self, machine: MachineId) {
        let disk = self.brokers[machine].disk.clone();
        let options = self.plan.options_of(machine, disk.as_ref());
        if let Some(disk) = &disk {
            self.take_back(machine, &disk.path);
            self.world.lock().disks.attach(machine, Path::new(&disk.path));
        }
        let (terminate, terminated) = tokio::sync::oneshot::channel::<()>();
        let broker = &mut self.brokers[machine];
        broker.start_at = None;
        broker.lives += 1;
        let life = Life { machine, number: broker.lives };
        self.world.lock().power_on(machine);
        self.world.note(format_args!("machine {machine} starts life {}", life.number));
        let ended = self.ended.clone();
        let is_starting = Arc::new(AtomicBool::new(true));
        broker.is_starting = is_starting.clone();
        let main = async move {
            let started = ottla::startup::start(options).await;
            is_starting.store(false, Ordering::Relaxed);
            let outcome = match started {
                Err(error) => Err(format!("{error:#}")),
                Ok(running) => {
                    let signal = Box::pin(stream::once(async move {
                        if terminated.await.is_err() {
                            std::future::pending::<()>().await;
                        }
                        "SIGTERM"
                    }));
                    running.until_stopped(signal).await.map_err(|error| format!("{error:#}"))
                }
            };
            ended.lock().push((life, outcome));
        };
        broker.process = Some(Process::start(&self.world, life, main));
        broker.terminate = Some(terminate);
    }

    /// A volume that `machine` is to have is nobody else's alone any more: what the operator said of that is taken back, and what
    /// starts by it is ended first.
    fn take_back(&mut self, machine: MachineId, path: &str) {
        for other in (0..self.brokers.len()).filter(|other| *other != machine) {
            let broker = &mut self.brokers[other];
            let Some(disk) = broker.disk.as_mut().filter(|disk| disk.path == path && disk.detached) else {
                continue;
            };
            disk.detached = false;
            let is_starting = broker.is_starting.load(Ordering::Relaxed);
            self.world.note(format_args!("{path} is not machine {other}'s alone any more"));
            if is_starting {
                self.kill(other, true);
            }
        }
    }

    /// What the history and the bucket say.
    fn judge(&mut self) -> Vec<String> {
        let mut findings = Vec::new();
        let options = checker::Options { rebalances_logged: true, ..checker::Options::default() };
        let state = self.shared.state.lock();
        let verdict = checker::check(&state.history, &options);
        if !verdict.valid() {
            let verdict = verdict.to_string();
            // Its first lines are counts.
            let lines = verdict.lines().skip(4).map(str::trim).filter(|line| !line.is_empty());
            findings.push(format!("the history is not true: {}", lines.collect::<Vec<_>>().join("; ")));
        }
        drop(state);
        let objects = self.world.lock().bucket.objects.clone();
        let life = Life { machine: self.plan.brokers, number: 1 };
        let options = ottla::verify::Options { checksums: true, ..Default::default() };
        let log = self.plan.options_of(0, None).bounds.metadata.log;
        let verify = ottla::verify::verify(objects.clone(), objects, log, options, &ottla::verify::Silent);
        let verified = machine::apart(&self.world, life, verify);
        match verified {
            Ok(report) if report.is_clean() => {}
            Ok(report) => {
                findings.push(format!("the bucket is not what the metadata says: {:?}", report.problems))
            }
            Err(error) => findings.push(format!("the bucket cannot be verified: {error}")),
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::plan::Wal;
    use super::*;

    /// One broker with a volume, which the operator has said to be its machine's alone.
    fn vouched_for() -> Run {
        let mut random = StdRng::seed_from_u64(1);
        let plan = Plan { wals: vec![Wal::Volume], ..Plan::new(&mut random, 1) };
        let mut run = Run::new(1, random, plan, false);
        run.undo.push((Duration::ZERO, Undo::Detach(0)));
        run.undo(Duration::ZERO);
        run.start(0);
        run
    }

    /// The other machine gets the same volume.
    fn start_beside(run: &mut Run) {
        run.brokers[2].disk = run.brokers[0].disk.clone().map(|disk| Disk { detached: false, ..disk });
        run.places = vec![2];
        run.start(2);
    }

    #[test]
    fn a_word_does_not_outlive_what_it_says() {
        let mut run = vouched_for();
        assert!(run.brokers[0].disk.as_ref().is_some_and(|disk| disk.detached));
        run.start(0);
        assert!(run.brokers[0].disk.as_ref().is_some_and(|disk| disk.detached), "it is its own volume");
        run.brokers[0].is_starting.store(false, Ordering::Relaxed);
        start_beside(&mut run);
        assert!(run.brokers[0].disk.as_ref().is_some_and(|disk| !disk.detached));
        assert!(run.brokers[0].process.is_some(), "it relies on the word no more");
    }

    #[test]
    fn who_starts_by_a_word_is_ended_before_it_is_broken() {
        let mut run = vouched_for();
        start_beside(&mut run);
        assert!(run.brokers[0].process.is_none());
        assert!(run.brokers[2].process.is_some());
    }
}
