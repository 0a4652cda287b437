//! What is different from one seed to the next: the cluster, its load, and how hard it is struck.

use std::time::Duration;

use ottla::options::{Options, arguments, gather};
use rand::Rng;
use rand::rngs::StdRng;

use super::LEASE_MAX;
use crate::client::PORT;
use crate::device::Kind;
use crate::workload::{Deletes, Topic};
use crate::world::{MachineId, World};
use crate::{admin, machine, members};

/// What is different from one seed to the next.
pub(super) struct Plan {
    pub(super) brokers: usize,
    pub(super) wals: Vec<Wal>,
    pub(super) block_wal: wal::block::Config,
    pub(super) topics: Vec<Topic>,
    pub(super) producers: usize,
    pub(super) readers: usize,
    /// Members of each group.
    pub(super) groups: Vec<usize>,
    /// Whether somebody moves partitions, deletes records, creates topics.
    pub(super) admin: bool,
    /// How long the nemesis is at work.
    pub(super) trouble: Duration,
    /// The longest pause between two strikes.
    pub(super) gap: Duration,
    /// How likely a request that is aimed at brings a strike.
    pub(super) aim: f64,
    /// Options of the brokers.
    pub(super) options: Vec<String>,
    pub(super) delete_delay: Duration,
}

/// What a broker's log is on, wherever it is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wal {
    Object,
    /// A file: only the machine that it is on can recover it.
    File,
    /// A volume that any machine can have attached.
    Volume,
}

impl Plan {
    pub(super) fn new(random: &mut StdRng, brokers_max: usize) -> Plan {
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
        // A second is the default of volumes.
        let is_short = random.random();
        let lease_max = if is_short { 1_500 } else { LEASE_MAX.as_millis() };
        let lease_ms = random.random_range(1_000..lease_max);
        let upload_ms = random.random_range(1_000..5_000);
        let mut options = vec![
            "--store=s3://bucket/cluster".to_owned(),
            format!("--upload-interval={upload_ms}ms"),
            format!("--lease={lease_ms}ms"),
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
        if is_short {
            // As a volume's default lease has them.
            options.push("--metadata-hedge-after=250ms".to_owned());
            options.push("--metadata-request-timeout=2s".to_owned());
        }
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
    pub(super) fn id_of(&self, machine: MachineId) -> usize {
        machine % (self.brokers + 1)
    }

    pub(super) fn monitor_machine(&self) -> MachineId {
        2 * self.brokers + 1
    }

    pub(super) fn other_machine(&self, machine: MachineId) -> MachineId {
        if machine < self.brokers { machine + self.brokers + 1 } else { machine - self.brokers - 1 }
    }

    /// Makes the volume that a machine begins with.
    pub(super) fn disk_of(&self, world: &World, random: &mut StdRng, machine: MachineId) -> Option<Disk> {
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

    pub(super) fn options_of(&self, machine: MachineId, disk: Option<&Disk>) -> Options {
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

/// The volume that a machine's broker is started with.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) path: String,
    /// The operator has detached it from every other machine, and says so.
    pub(super) detached: bool,
}
