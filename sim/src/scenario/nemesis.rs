//! The nemesis: what goes wrong, when, and how it is undone.
//!
//! It does what chance gives it, and it aims: at whoever is about to write the metadata log, a seal, or somebody else's
//! slots; at the leader whose acknowledgement was just heard. A broker that is struck so is killed with its requests on their
//! way, or stopped for longer than its lease while its PUTs are held back, so that it wakes beside its successor.

use std::path::Path;
use std::time::Duration;

use rand::Rng;

use super::Run;
use super::plan::{Disk, Wal};
use crate::device;
use crate::store::{Stumble, Weather};
use crate::world::MachineId;

/// What is to be undone, and when.
pub(super) enum Undo {
    Links(Vec<(MachineId, MachineId)>),
    Refusing(Vec<(MachineId, MachineId)>),
    /// Until then the store is cut off.
    CutStore(MachineId, Duration),
    Weather(MachineId),
    Delay(MachineId),
    Clock(MachineId),
    Disk(MachineId),
    /// The operator makes sure that the volume of a broker that was moved here, or whose machine lost its power, is nobody else's.
    Detach(MachineId),
    /// It ends here.
    Stumble(MachineId),
}

impl Run {
    pub(super) fn strike(&mut self) {
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
        let kinds = if self.brokers[machine].disk.is_some() { 11 } else { 7 };
        match self.random.random_range(0..kinds) {
            10 => self.firewall(machine),
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
        let kinds = if self.brokers[machine].disk.is_some() { 22 } else { 16 };
        match self.random.random_range(0..kinds) {
            16 => self.hang(machine),
            17 => self.fail(machine),
            18 | 19 => self.island(machine),
            20 | 21 => self.firewall(machine),
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

    pub(super) fn kill(&mut self, machine: MachineId, power: bool) {
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

    /// Both ways, between a machine and all on which other brokers run, or may.
    fn links_to_brokers(&self, machine: MachineId) -> Vec<(MachineId, MachineId)> {
        let clients = self.plan.brokers;
        let others = (0..=2 * clients).filter(|other| *other != machine && *other != clients);
        others.flat_map(|other| [(machine, other), (other, machine)]).collect()
    }

    /// A broker that reaches its clients and its log, and neither the store nor the other brokers.
    fn island(&mut self, machine: MachineId) {
        let until = self.now() + Duration::from_millis(self.random.random_range(1_000..9_000));
        let links = self.links_to_brokers(machine);
        self.cut(links, until);
        self.world.lock().bucket.weather[machine].cut = true;
        self.undo.push((until, Undo::Weather(machine)));
        self.count("island", &machine.to_string());
    }

    /// A broker that is refused by the other brokers and refuses them, as if it were dead, and that reaches its clients, its log and the store;
    /// but what it writes there may be long on its way, and when the others have challenged and fenced it, or nearly, it may
    /// lose sight of the store altogether.
    fn firewall(&mut self, machine: MachineId) {
        let until = self.now() + Duration::from_millis(self.random.random_range(300..5_000));
        let links = self.links_to_brokers(machine);
        for (from, to) in &links {
            self.world.lock().set_refusing(*from, *to, true);
        }
        self.undo.push((until, Undo::Refusing(links)));
        self.count("firewall", &format!("{machine} until {until:?}"));
        if self.random.random() {
            self.delay(machine);
            let blind = self.now() + Duration::from_millis(self.random.random_range(300..900));
            let seeing = blind + Duration::from_millis(self.random.random_range(500..6_000));
            self.undo.push((blind, Undo::CutStore(machine, seeing)));
        }
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

    fn cut(&mut self, links: Vec<(MachineId, MachineId)>, until: Duration) {
        for (from, to) in &links {
            self.world.lock().set_cut(*from, *to, true);
        }
        self.count("cut", &format!("{links:?} until {until:?}"));
        self.undo.push((until, Undo::Links(links)));
    }

    pub(super) fn undo(&mut self, now: Duration) {
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
                Undo::Refusing(links) => {
                    for (from, to) in links {
                        inner.set_refusing(from, to, false);
                    }
                }
                Undo::CutStore(machine, until) => {
                    // Unless all is healed.
                    if now != Duration::MAX {
                        inner.bucket.weather[machine].cut = true;
                        self.undo.push((until, Undo::Weather(machine)));
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

    pub(super) fn heal(&mut self) {
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

    fn count(&mut self, what: &'static str, detail: &str) {
        *self.strikes.entry(what).or_default() += 1;
        self.world.note(format_args!("nemesis: {what} {detail}"));
    }
}
