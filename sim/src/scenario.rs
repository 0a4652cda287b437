//! What a seed stands for: a cluster, a load, and what goes wrong.
//!
//! ```text
//!   plan ──► the load, while the nemesis strikes (30–60 s) ──► everything is healed ──► the load ends
//!        ──► everything is read once more ──► the bucket against the metadata ──► the checker
//! ```
//!
//! The nemesis does what chance gives it, and it aims: at whoever is about to write the metadata log, a seal, or somebody else's
//! slots; at the leader whose acknowledgement was just heard. A broker that is struck so is killed with its requests on their
//! way, or stopped for longer than its lease while its PUTs are held back, so that it wakes beside its successor.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream;
use ottla::options::{Options, arguments, gather};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use rand::{SeedableRng, seq::SliceRandom};

use crate::client::PORT;
use crate::device::{self, Kind};
use crate::machine::{self, Life, Process};
use crate::store::{Stumble, Weather};
use crate::workload::{self, Deletes, Shared, Topic};
use crate::world::{MachineId, STEP, World};
use crate::{admin, members, reading};

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

/// What is different from one seed to the next.
struct Plan {
    brokers: usize,
    wals: Vec<Wal>,
    block_wal: wal::block::Config,
    topics: Vec<Topic>,
    producers: usize,
    readers: usize,
    /// Members of each group.
    groups: Vec<usize>,
    /// Whether somebody moves partitions, deletes records, creates topics.
    admin: bool,
    /// How long the nemesis is at work.
    trouble: Duration,
    /// The longest pause between two strikes.
    gap: Duration,
    /// How likely a request that is aimed at brings a strike.
    aim: f64,
    /// Options of the brokers.
    options: Vec<String>,
    delete_delay: Duration,
}

/// What a broker's log is on, wherever it is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wal {
    Object,
    /// A file: only the machine that it is on can recover it.
    File,
    /// A volume that any machine can have attached.
    Volume,
}

impl Plan {
    fn new(random: &mut StdRng, brokers_max: usize) -> Plan {
        let brokers = [1, 2, 3, 3, 3][random.random_range(0..5)].min(brokers_max);
        let topics = (0..random.random_range(1..=2))
            .map(|number| Topic {
                name: format!("topic-{number}"),
                partitions: random.random_range(1..=4),
                deletes: match random.random_range(0..6) {
                    0..3 => Deletes::Nothing,
                    3 => Deletes::Asked,
                    4 => Deletes::Size(random.random_range(500..10_000)),
                    _ => Deletes::Age(random.random_range(3_000..20_000)),
                },
            })
            .collect();
        let upload_ms = random.random_range(1_000..5_000);
        let mut options = vec![
            "--store=s3://bucket/cluster".to_owned(),
            format!("--upload-interval={upload_ms}ms"),
            format!("--lease={}ms", random.random_range(3_000..LEASE_MAX.as_millis())),
            "--metadata-poll=300ms".to_owned(),
            format!("--collect-delay={}s", random.random_range(5..20)),
            "--collect-interval=2s".to_owned(),
            "--collect-sweep-interval=10s".to_owned(),
            "--collect-first-sweep=3s".to_owned(),
            "--compaction-interval=2s".to_owned(),
            format!("--object-wal-linger={}ms", random.random_range(1..60)),
            "--partition-checkpoint-interval=64KiB".to_owned(),
            format!("--metadata-snapshot-entries={}", random.random_range(20..200)),
            format!("--kafka=offsets.topic.num.partitions={}", admin::OFFSETS_PARTITIONS),
            "--kafka=log.retention.check.interval.ms=2000".to_owned(),
            "--kafka=message.max.bytes=131072".to_owned(),
        ];
        options.extend(members::BROKER_CONFIGS.map(|config| format!("--kafka={config}")));
        let groups = [&[][..], &[], &[2], &[3], &[1, 2]][random.random_range(0..5)].to_vec();
        let one = [Wal::File, Wal::Volume, Wal::Volume][random.random_range(0..3)];
        let mix = random.random_range(0..10);
        let wals: Vec<Wal> = (0..brokers)
            .map(|_| match mix {
                0..5 => Wal::Object,
                5..8 => one,
                _ => [Wal::Object, Wal::File, Wal::Volume][random.random_range(0..3)],
            })
            .collect();
        let block_wal = wal::block::Config {
            writes_in_flight_max: random.random_range(1..=6),
            in_flight_bytes_max: random.random_range(0..512) << 10,
            frame_bytes_max: 256 << 10,
            frame_bytes_target: 64 << 10,
            gather_bytes: random.random_range(0..8) << 10,
            pending_bytes_max: 1 << 20,
            ..wal::block::Config::default()
        };
        Plan {
            brokers,
            wals,
            block_wal,
            topics,
            producers: random.random_range(3..=8),
            readers: random.random_range(1..=3),
            groups,
            admin: random.random(),
            trouble: Duration::from_secs(random.random_range(30..60)),
            gap: Duration::from_millis(random.random_range(2_000..8_000)),
            aim: [0.0, 0.002, 0.005, 0.02][random.random_range(0..4)],
            options,
            delete_delay: Duration::from_millis(random.random_range(2_000..10_000)),
        }
    }

    /// Each broker has a machine, and another one on which it may be started beside itself: behind the clients'.
    fn id_of(&self, machine: MachineId) -> usize {
        machine % (self.brokers + 1)
    }

    fn monitor_machine(&self) -> MachineId {
        2 * self.brokers + 1
    }

    fn other_machine(&self, machine: MachineId) -> MachineId {
        if machine < self.brokers { machine + self.brokers + 1 } else { machine - self.brokers - 1 }
    }

    /// Makes the volume that a machine begins with.
    fn disk_of(&self, world: &World, random: &mut StdRng, machine: MachineId) -> Option<Disk> {
        let (kind, path) = match self.wals.get(self.id_of(machine))? {
            Wal::Object => return None,
            Wal::File => (Kind::Local, "/wal".to_owned()),
            Wal::Volume => (Kind::Shared, format!("/dev/volume-{machine}")),
        };
        let size = random.random_range(1_300_000..5_000_000 / 4096 * 4096);
        let sector = [512, 4096][random.random_range(0..2)];
        let (size, fua) = (size / 4096 * 4096, random.random());
        world.lock().disks.add(kind, &path, machine, size, sector, fua);
        world.note(format_args!("{kind:?} {path} of machine {machine}: {size} bytes, {sector}, fua {fua}"));
        Some(Disk { path, detached: false })
    }

    fn options_of(&self, machine: MachineId, disk: Option<&Disk>) -> Options {
        let address = machine::address(machine);
        let mut given = vec![
            "serve".to_owned(),
            format!("--listen={address}:{PORT}"),
            format!("--node-id={}", self.id_of(machine) + 1),
            "--takeover".to_owned(),
        ];
        match disk {
            None => given.push("--wal=object".to_owned()),
            Some(disk) => {
                given.push(format!("--wal=block://{}", disk.path));
                if disk.detached {
                    given.push("--wal-detached".to_owned());
                }
            }
        }
        if self.wals.contains(&Wal::Volume) {
            given.push("--wal-attach=attach".to_owned());
        }
        given.extend(self.options.iter().cloned());
        let matches = clap::Command::new("serve").args(arguments()).get_matches_from(given);
        let values = gather(&matches, []).expect("the simulation's options");
        let mut options = Options::from_values(&values).expect("the simulation's options");
        // Less than an operator may say: it is longer than a read here.
        options.bounds.object_wal.delete_delay = self.delete_delay;
        options.bounds.block_wal = self.block_wal.clone();
        options
    }
}

/// Who came to an end, and how.
type Ended = Arc<Mutex<Vec<(Life, Result<(), String>)>>>;

/// The volume that a machine's broker is started with.
#[derive(Clone)]
struct Disk {
    path: String,
    /// The operator has detached it from every other machine, and says so.
    detached: bool,
}

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

/// What is to be undone, and when.
enum Undo {
    Links(Vec<(MachineId, MachineId)>),
    Weather(MachineId),
    Delay(MachineId),
    Clock(MachineId),
    Disk(MachineId),
    /// The operator makes sure that the volume of a broker that was moved here, or whose machine lost its power, is nobody else's.
    Detach(MachineId),
    /// It ends here.
    Stumble(MachineId),
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

    fn count(&mut self, what: &'static str, detail: &str) {
        *self.strikes.entry(what).or_default() += 1;
        self.world.note(format_args!("nemesis: {what} {detail}"));
    }

    fn kill(&mut self, machine: MachineId, power: bool) {
        let least = if power { 50 } else { 1_000 };
        let pause = Duration::from_millis(self.random.random_range(least..4_000));
        let now = self.now();
        let broker = &mut self.brokers[machine];
        let Some(process) = broker.process.take() else { return };
        broker.stopped_until = None;
        broker.start_at = self.places.contains(&machine).then_some(now + pause);
        broker.terminate = None;
        let life = process.life();
        drop(process);
        {
            let mut inner = self.world.lock();
            inner.disconnect(life, power);
            inner.lose_requests(life);
            inner.leave_disks(life, power);
            inner.boots[machine] += u64::from(!power);
        }
        self.count(if power { "kill" } else { "power cut" }, &format!("{machine} for {pause:?}"));
        // Nothing but somebody's word tells a machine that was started again from its clone.
        if !power && self.plan.wals.get(self.plan.id_of(machine)) == Some(&Wal::Volume) {
            let time = pause + Duration::from_millis(self.random.random_range(0..5_000));
            self.undo.push((now + time, Undo::Detach(machine)));
        }
    }

    fn pause(&mut self, machine: MachineId) {
        let most = if self.random.random() { 1_500 } else { 12_000 };
        let time = Duration::from_millis(self.random.random_range(200..most));
        let until = self.now() + time;
        let broker = &mut self.brokers[machine];
        if broker.process.is_some() && broker.stopped_until.is_none() {
            broker.stopped_until = Some(until);
            self.count("pause", &format!("{machine} for {time:?}"));
        }
    }

    /// PUTs that leave are long on their way.
    fn delay(&mut self, machine: MachineId) {
        let most = Duration::from_millis(self.random.random_range(500..15_000));
        let time = Duration::from_millis(self.random.random_range(100..3_000));
        self.world.lock().bucket.delayed[machine] = most;
        self.undo.push((self.now() + time, Undo::Delay(machine)));
        self.count("late puts", &format!("{machine}: {most:?}, for {time:?}"));
    }

    /// The broker is started on another machine, beside itself: whoever did it believed that it was dead.
    fn beside(&mut self, machine: MachineId) {
        let other = self.plan.other_machine(machine);
        let id = self.plan.id_of(machine);
        let is_file = self.plan.wals[id] == Wal::File;
        if self.places[id] != machine || self.brokers[other].process.is_some() || is_file {
            return;
        }
        if self.plan.wals[id] == Wal::Volume {
            // With the volume, or with one of its own.
            let path = if self.random.random() {
                self.brokers[machine].disk.as_ref().map(|disk| disk.path.clone()).unwrap_or_default()
            } else {
                format!("/dev/volume-{other}")
            };
            self.world.note(format_args!("machine {other} is to have {path}"));
            self.brokers[other].disk = Some(Disk { path, detached: false });
            let time = Duration::from_millis(self.random.random_range(300..8_000));
            self.undo.push((self.now() + time, Undo::Detach(other)));
        }
        self.places[id] = other;
        self.brokers[other].start_at = Some(self.now());
        self.brokers[machine].start_at = None;
        self.count("beside", &format!("{machine} on {other}"));
        match self.random.random_range(0..4) {
            0 => self.pause(machine),
            1 => {
                let until = self.now() + Duration::from_millis(self.random.random_range(300..6_000));
                self.world.lock().bucket.weather[machine].cut = true;
                self.undo.push((until, Undo::Weather(machine)));
            }
            2 => self.delay(machine),
            _ => {}
        }
    }

    /// A broker that reaches its clients and its log, and neither the store nor the other brokers.
    fn island(&mut self, machine: MachineId) {
        let until = self.now() + Duration::from_millis(self.random.random_range(1_000..9_000));
        let clients = self.plan.brokers;
        let others = (0..=2 * clients).filter(|other| *other != machine && *other != clients);
        let links = others.flat_map(|other| [(machine, other), (other, machine)]).collect();
        self.cut(links, until);
        self.world.lock().bucket.weather[machine].cut = true;
        self.undo.push((until, Undo::Weather(machine)));
        self.count("island", &machine.to_string());
    }

    /// A broker that was cut off together with the monitors: all other clients, brokers and the store are on the other side.
    fn minority(&mut self, machine: MachineId) {
        let until = self.now() + Duration::from_millis(self.random.random_range(3_000..20_000));
        let monitor = self.plan.monitor_machine();
        let others = (0..monitor).filter(|other| *other != machine);
        let cut = |other| [(machine, other), (other, machine), (monitor, other), (other, monitor)];
        self.cut(others.flat_map(cut).collect(), until);
        self.world.lock().bucket.weather[machine].cut = true;
        self.undo.push((until, Undo::Weather(machine)));
        self.count("minority", &machine.to_string());
    }

    /// A disk on which nothing is done for a while.
    fn hang(&mut self, machine: MachineId) {
        let time = Duration::from_millis(self.random.random_range(100..8_000));
        let until = self.now() + time;
        self.world.lock().disks.weather[machine].hangs_until = until;
        self.count("disk hangs", &format!("{machine} for {time:?}"));
    }

    /// A disk that fails now and then, or always.
    fn fail(&mut self, machine: MachineId) {
        let until = self.now() + Duration::from_millis(self.random.random_range(100..5_000));
        let failing = [0.01, 0.1, 1.0][self.random.random_range(0..3)];
        self.world.lock().disks.weather[machine].failing = failing;
        self.undo.push((until, Undo::Disk(machine)));
        self.count("disk fails", &format!("{machine} {failing}"));
    }

    /// One slot is slow, those behind it are not, and then the broker is killed.
    fn stumble(&mut self, machine: MachineId) {
        let time = Duration::from_millis(self.random.random_range(300..900));
        self.world.lock().bucket.stumbling[machine] = Some(Stumble { time, key: None });
        let killed = self.now() + time.mul_f64(self.random.random_range(0.4..0.95));
        self.undo.push((killed, Undo::Stumble(machine)));
        self.count("stumble", &machine.to_string());
    }

    fn strike(&mut self) {
        let asked = std::mem::take(&mut self.world.lock().bucket.asked);
        for asked in asked {
            let aimed = match asked.what {
                "put" => {
                    asked.key.starts_with("meta/log")
                        || asked.key.starts_with("wal/")
                        || asked.key.starts_with("data/")
                }
                "delete" => true,
                _ => false,
            };
            if aimed && asked.machine != self.plan.brokers && self.random.random::<f64>() < self.plan.aim {
                self.aimed(asked.machine, &format!("{} {}", asked.what, asked.key));
            }
        }
        let written = std::mem::take(&mut self.world.lock().disks.written);
        for machine in written {
            if self.random.random::<f64>() < self.plan.aim / 4.0 {
                self.aimed(machine, "a write to its volume");
            }
        }
        let acknowledged = self.shared.state.lock().acknowledged;
        if acknowledged > self.heard && self.random.random::<f64>() < self.plan.aim / 2.0 {
            let machine = self.places[self.random.random_range(0..self.places.len())];
            self.aimed(machine, "an acknowledgement");
        }
        self.heard = acknowledged;
        let now = self.now();
        if now >= self.next_strike {
            let pause = self.random.random_range(100..=self.plan.gap.as_millis() as u64);
            self.next_strike = now + Duration::from_millis(pause);
            self.any();
        }
    }

    fn aimed(&mut self, machine: MachineId, at: &str) {
        self.world.note(format_args!("nemesis: aims at machine {machine}, {at}"));
        let kinds = if self.brokers[machine].disk.is_some() { 10 } else { 7 };
        match self.random.random_range(0..kinds) {
            7 => self.island(machine),
            8 => self.hang(machine),
            9 => {
                self.hang(machine);
                self.kill(machine, false);
            }
            5 => self.beside(machine),
            6 => self.stumble(machine),
            0 => self.kill(machine, true),
            1 => self.kill(machine, false),
            2 => self.pause(machine),
            3 => self.delay(machine),
            _ => {
                self.delay(machine);
                self.pause(machine);
            }
        }
    }

    fn any(&mut self) {
        let clients = self.plan.brokers;
        let machine = self.places[self.random.random_range(0..clients)];
        let now = self.now();
        let time = Duration::from_millis(self.random.random_range(300..6_000));
        let kinds = if self.brokers[machine].disk.is_some() { 20 } else { 16 };
        match self.random.random_range(0..kinds) {
            16 => self.hang(machine),
            17 => self.fail(machine),
            18 | 19 => self.island(machine),
            13 => self.minority(machine),
            0 | 1 => self.kill(machine, true),
            2 => self.kill(machine, false),
            3 => self.pause(machine),
            4 => self.delay(machine),
            5 => {
                if let Some(terminate) = self.brokers[machine].terminate.take() {
                    let _ = terminate.send(());
                    self.count("SIGTERM", &machine.to_string());
                }
            }
            6 => {
                let other = self.random.random_range(0..=2 * clients);
                if other == machine {
                    return;
                }
                let mut cut = vec![(machine, other)];
                if self.random.random() {
                    cut.push((other, machine));
                }
                self.cut(cut, now + time);
            }
            7 => {
                let others = (0..=2 * clients).filter(|other| *other != machine);
                let cut = others.flat_map(|other| [(machine, other), (other, machine)]).collect();
                self.cut(cut, now + time);
            }
            8 => {
                self.world.lock().bucket.weather[machine].cut = true;
                self.undo.push((now + time, Undo::Weather(machine)));
                self.count("store cut", &format!("{machine} for {time:?}"));
            }
            9 => {
                let offset_ms = self.random.random_range(-300_000..300_000);
                self.world.lock().clocks[machine].wall_offset_ms = offset_ms;
                self.undo.push((now + time, Undo::Clock(machine)));
                self.count("clock", &format!("{machine} {offset_ms} ms"));
            }
            10 | 11 => self.beside(machine),
            12 => self.stumble(machine),
            _ => {
                let heavy = self.random.random_range(0.0..0.3);
                let every = self.random.random::<bool>();
                for one in (0..=2 * clients).filter(|one| *one != clients) {
                    if every || one == machine {
                        let random = &mut self.random;
                        let mut some =
                            |most: f64| if random.random() { random.random_range(0.0..=most) } else { 0.0 };
                        let weather = Weather {
                            refused: some(heavy),
                            lost: some(heavy / 2.0),
                            reply_lost: some(heavy / 2.0),
                            late: some(heavy / 2.0),
                            twice: some(heavy),
                            slow: some(heavy / 2.0),
                            ..Weather::FAIR
                        };
                        self.world.lock().bucket.weather[one] = weather;
                        self.undo.push((now + time, Undo::Weather(one)));
                    }
                }
                self.count("storm", &format!("{heavy:.2} for {time:?}"));
            }
        }
    }

    fn cut(&mut self, links: Vec<(MachineId, MachineId)>, until: Duration) {
        for (from, to) in &links {
            self.world.lock().set_cut(*from, *to, true);
        }
        self.count("cut", &format!("{links:?} until {until:?}"));
        self.undo.push((until, Undo::Links(links)));
    }

    fn undo(&mut self, now: Duration) {
        let (due, rest) = std::mem::take(&mut self.undo).into_iter().partition(|(at, _)| *at <= now);
        self.undo = rest;
        let due: Vec<(Duration, Undo)> = due;
        for (at, undo) in due {
            let mut inner = self.world.lock();
            match undo {
                Undo::Stumble(machine) => {
                    inner.bucket.stumbling[machine] = None;
                    drop(inner);
                    // Unless all is healed.
                    if at <= now && now != Duration::MAX {
                        self.kill(machine, true);
                    }
                }
                Undo::Links(links) => {
                    for (from, to) in links {
                        inner.set_cut(from, to, false);
                    }
                }
                Undo::Weather(machine) => inner.bucket.weather[machine] = Weather::FAIR,
                Undo::Delay(machine) => inner.bucket.delayed[machine] = Duration::ZERO,
                Undo::Disk(machine) => inner.disks.weather[machine].failing = 0.0,
                Undo::Detach(machine) => {
                    let id = self.plan.id_of(machine);
                    let Some(disk) = &mut self.brokers[machine].disk else { continue };
                    if self.places[id] == machine {
                        inner.note(format_args!("{} is machine {machine}'s alone", disk.path));
                        for other in (0..=2 * self.plan.brokers).filter(|other| *other != machine) {
                            inner.detach(other, Path::new(&disk.path));
                        }
                        disk.detached = true;
                    }
                }
                Undo::Clock(machine) => inner.clocks[machine].wall_offset_ms = 0,
            }
        }
    }

    fn heal(&mut self) {
        self.undo(Duration::MAX);
        let now = self.now();
        for weather in &mut self.world.lock().disks.weather {
            *weather = device::Weather::FAIR;
        }
        for broker in &mut self.brokers {
            broker.stopped_until = None;
            if broker.process.is_none() && broker.start_at.is_some() {
                broker.start_at = broker.start_at.map(|at| at.min(now + Duration::from_millis(200)));
            }
        }
        self.world.note(format_args!("all is healed"));
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
