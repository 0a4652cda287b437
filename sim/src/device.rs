//! Volumes: what block WALs are on.
//!
//! ```text
//!   write ──► under way ──► landed: whoever reads sees it ──► durable: flushed, or written with FUA
//!             (any order)     (in the cache of a local disk)
//! ```
//!
//! | fault | what is under way | what has landed and is not durable |
//! |---|---|---|
//! | kill -9 | lands; the lock is held until then | stays |
//! | power cut, a local disk | any of its sectors land | any of its sectors are lost |
//! | power cut, a shared volume | any of its sectors land | stays: its cache is not the machine's |
//! | EIO | any of its sectors land | stays |
//! | a disk that hangs, a host that stands still | lands late, after whatever happens meanwhile | stays |
//! | detached | any of its sectors land, and nothing later | stays |
//!
//! - **D1** Two writes that are under way at once land in any order, each as a whole unless a fault says otherwise; a sector is
//!   never torn.
//! - **D2** A lock is one machine's: it says nothing about another machine that has the same volume.
//! - **D3** A flush makes durable what had landed when it takes effect, at one instant between its call and its end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use host::simulated::{Found, Volume};
use rand::Rng;
use tokio::sync::oneshot;

use crate::machine::{self, Life};
use crate::world::{self, Inner, MachineId, STEP, World};

const BLOCK_BYTES: usize = 4096;

/// How a machine's disks are.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// The longest that a write is usually under way.
    pub most: Duration,
    /// How likely a read or a write fails.
    pub failing: f64,
    /// Nothing lands before.
    pub hangs_until: Duration,
}

impl Weather {
    pub const FAIR: Weather =
        Weather { most: Duration::from_millis(15), failing: 0.0, hangs_until: Duration::ZERO };
}

/// What kind of volume it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file on a disk in one machine.
    Local,
    /// A device that several machines can have attached at once.
    Shared,
}

/// All volumes of a world.
pub struct Disks {
    all: Vec<Disk>,
    pub weather: Vec<Weather>,
    /// Who has written since the nemesis last looked.
    pub written: Vec<MachineId>,
    next: u64,
}

struct Disk {
    kind: Kind,
    path: PathBuf,
    /// Who can reach it.
    attached: BTreeSet<MachineId>,
    /// What is atomic.
    sector: usize,
    fua: bool,
    /// As it is read.
    bytes: Vec<u8>,
    /// What a power cut would bring back, by the sector's place.
    volatile: BTreeMap<usize, Vec<u8>>,
    locks: BTreeMap<MachineId, Life>,
    under_way: BTreeMap<u64, UnderWay>,
    /// Lives that are gone, and hold their locks until their last write has landed.
    dying: BTreeSet<Life>,
}

struct UnderWay {
    life: Life,
    what: What,
    fails: bool,
    done: oneshot::Sender<(Duration, io::Result<()>)>,
}

enum What {
    Write { offset: usize, bytes: Vec<u8>, durable: bool },
    Flush,
}

/// Something that will land.
pub struct Due {
    disk: usize,
    id: u64,
}

impl Due {
    pub fn happen(self, world: &World, at: Duration) {
        let mut inner = world.lock();
        let inner: &mut Inner = &mut inner;
        let Some(UnderWay { life, what, fails, done }) =
            inner.disks.all[self.disk].under_way.remove(&self.id)
        else {
            return;
        };
        let text = match &what {
            What::Write { offset, bytes, durable } => {
                let how = if *durable { "writes through" } else { "writes" };
                format!("{how} {} bytes at {offset}", bytes.len())
            }
            What::Flush => "flushes".to_owned(),
        };
        inner.note(format_args!(
            "disk {} {} {}.{} {text}{}",
            self.disk,
            at.as_micros(),
            life.machine,
            life.number,
            if fails { ", and fails" } else { "" }
        ));
        match what {
            What::Write { offset, bytes, durable } => {
                let share = if fails { [0.0, 0.5, 1.0][inner.random.random_range(0..3)] } else { 1.0 };
                land(inner, self.disk, offset, &bytes, durable && !fails, share);
            }
            What::Flush if !fails => inner.disks.all[self.disk].volatile.clear(),
            What::Flush => {}
        }
        inner.disks.all[self.disk].let_go(life);
        let outcome = if fails { Err(failed()) } else { Ok(()) };
        let _ = done.send((at, outcome));
    }
}

/// Writes a share of the sectors.
fn land(inner: &mut Inner, disk: usize, offset: usize, bytes: &[u8], durable: bool, share: f64) {
    let sector = inner.disks.all[disk].sector;
    for (number, new) in bytes.chunks(sector).enumerate() {
        if share < 1.0 && !inner.chance(share) {
            continue;
        }
        let disk = &mut inner.disks.all[disk];
        let place = offset + number * sector;
        let old = disk.bytes[place..place + new.len()].to_vec();
        if durable || disk.kind == Kind::Shared {
            disk.volatile.remove(&place);
        } else {
            disk.volatile.entry(place).or_insert(old);
        }
        disk.bytes[place..place + new.len()].copy_from_slice(new);
    }
}

impl Disk {
    /// A life that is gone lets go of the lock once nothing of it is under way.
    fn let_go(&mut self, life: Life) {
        if self.dying.contains(&life) && self.under_way.values().all(|under_way| under_way.life != life) {
            self.dying.remove(&life);
            if self.locks.get(&life.machine) == Some(&life) {
                self.locks.remove(&life.machine);
            }
        }
    }
}

impl Disks {
    pub fn new(machines: usize) -> Disks {
        Disks { all: Vec::new(), weather: vec![Weather::FAIR; machines], written: Vec::new(), next: 0 }
    }

    /// A blank volume that is at `path` on every machine that has it attached: `machine`, to begin with.
    pub fn add(&mut self, kind: Kind, path: &str, machine: MachineId, size: usize, sector: usize, fua: bool) {
        self.all.push(Disk {
            kind,
            path: PathBuf::from(path),
            attached: BTreeSet::from([machine]),
            sector,
            fua,
            bytes: vec![0; size],
            volatile: BTreeMap::new(),
            locks: BTreeMap::new(),
            under_way: BTreeMap::new(),
            dying: BTreeSet::new(),
        });
    }

    fn find(&self, machine: MachineId, path: &Path) -> Option<usize> {
        self.all.iter().position(|disk| disk.path == path && disk.attached.contains(&machine))
    }

    pub fn look(&self, machine: MachineId, path: &Path) -> Option<Found> {
        self.find(machine, path).map(|disk| {
            let is_local = self.all[disk].kind == Kind::Local;
            Found { id: disk as u64, is_file: is_local, is_one_machines: is_local }
        })
    }

    pub fn is_unlocked(&self, machine: MachineId, path: &Path) -> io::Result<bool> {
        let disk = self.find(machine, path).ok_or(io::ErrorKind::NotFound)?;
        Ok(!self.all[disk].locks.contains_key(&machine))
    }

    /// Whether there is such a volume to be attached; then it is.
    pub fn attach(&mut self, machine: MachineId, path: &Path) -> bool {
        let found = self.all.iter_mut().find(|disk| disk.path == path && disk.kind == Kind::Shared);
        found.is_some_and(|disk| {
            disk.attached.insert(machine);
            true
        })
    }
}

impl Inner {
    /// The machine can reach the volume no more.
    pub fn detach(&mut self, machine: MachineId, path: &Path) {
        if let Some(disk) = self.disks.find(machine, path) {
            self.cut_off(disk, machine);
            let disk = &mut self.disks.all[disk];
            disk.attached.remove(&machine);
            disk.locks.remove(&machine);
        }
    }

    /// Of what a machine has under way any sectors land.
    fn cut_off(&mut self, disk: usize, machine: MachineId) {
        let ids: Vec<u64> = self.disks.all[disk]
            .under_way
            .iter()
            .filter(|(_, under_way)| under_way.life.machine == machine)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let Some(UnderWay { what, done, .. }) = self.disks.all[disk].under_way.remove(&id) else {
                continue;
            };
            let share = [0.0, 0.3, 0.8, 1.0][self.random.random_range(0..4)];
            if let What::Write { offset, bytes, .. } = what {
                self.note(format_args!("disk {disk} keeps {share} of {} bytes at {offset}", bytes.len()));
                land(self, disk, offset, &bytes, true, share);
            }
            let _ = done.send((Duration::ZERO, Err(failed())));
        }
    }

    /// A process is gone, and unless its machine has `power` all of that one's volatile memory.
    pub fn leave_disks(&mut self, life: Life, power: bool) {
        for disk in 0..self.disks.all.len() {
            if !power {
                self.cut_off(disk, life.machine);
                // Earlier lives held theirs until then too.
                let cut = &mut self.disks.all[disk];
                cut.locks.remove(&life.machine);
                cut.dying.retain(|dying| dying.machine != life.machine);
                let is_its = self.disks.all[disk].attached.contains(&life.machine);
                if self.disks.all[disk].kind == Kind::Local && is_its {
                    let lost = [0.0, 0.5, 1.0][self.random.random_range(0..3)];
                    for (place, old) in std::mem::take(&mut self.disks.all[disk].volatile) {
                        if self.chance(lost) {
                            self.disks.all[disk].bytes[place..place + old.len()].copy_from_slice(&old);
                        }
                    }
                }
            }
            let disk = &mut self.disks.all[disk];
            disk.dying.insert(life);
            disk.let_go(life);
        }
    }

    fn submit(&mut self, disk: usize, life: Life, what: What) -> Submitted {
        let (done, landed) = oneshot::channel();
        if !self.disks.all[disk].attached.contains(&life.machine) {
            let _ = done.send((Duration::ZERO, Err(failed())));
            return landed;
        }
        let now = machine::precise().unwrap_or(self.now);
        let weather = self.disks.weather[life.machine];
        let mut at = now.max(weather.hangs_until) + self.between(STEP, weather.most);
        if self.chance(0.03) {
            at += self.between(STEP, Duration::from_millis(80));
        }
        let fails = self.chance(weather.failing);
        self.disks.written.push(life.machine);
        let id = self.disks.next;
        self.disks.next += 1;
        self.disks.all[disk].under_way.insert(id, UnderWay { life, what, fails, done });
        self.at(at, world::Due::Disk(Due { disk, id }));
        landed
    }
}

type Submitted = oneshot::Receiver<(Duration, io::Result<()>)>;

fn failed() -> io::Error {
    io::Error::other("input/output error")
}

/// A volume that a process has open.
struct Open {
    world: World,
    life: Life,
    disk: usize,
    own: bool,
    block_bytes: usize,
    size_bytes: u64,
    fua: bool,
}

/// See [`host::simulated::Machine::volume`].
pub fn open(world: &World, life: Life, path: &Path, own: bool) -> io::Result<Arc<dyn Volume>> {
    let mut inner = world.lock();
    let disk = inner.disks.find(life.machine, path).ok_or(io::ErrorKind::NotFound)?;
    let found = &mut inner.disks.all[disk];
    if own {
        if found.locks.contains_key(&life.machine) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        found.locks.insert(life.machine, life);
    }
    let (size_bytes, fua) = (found.bytes.len() as u64, found.fua);
    Ok(Arc::new(Open { world: world.clone(), life, disk, own, block_bytes: BLOCK_BYTES, size_bytes, fua }))
}

impl Open {
    fn check(&self, length: usize, offset: u64) {
        assert!(length.is_multiple_of(self.block_bytes), "O_DIRECT: {length} bytes");
        assert!(offset.is_multiple_of(self.block_bytes as u64), "O_DIRECT: at {offset}");
        assert!(offset + length as u64 <= self.size_bytes, "{length} bytes at {offset} are beyond the end");
    }

    fn submit(&self, what: What) -> BoxFuture<'static, io::Result<()>> {
        assert!(self.own, "a volume that was opened to read it is written to");
        let landed = self.world.lock().submit(self.disk, self.life, what);
        Box::pin(async move {
            let Ok((at, outcome)) = landed.await else { return Err(failed()) };
            let now = machine::precise().unwrap_or(at);
            tokio::time::sleep(at.saturating_sub(now)).await;
            outcome
        })
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "disk {}", self.disk)
    }
}

impl Drop for Open {
    /// Of a process that lives on.
    fn drop(&mut self) {
        if self.own {
            let mut inner = self.world.lock();
            let disk = &mut inner.disks.all[self.disk];
            disk.dying.insert(self.life);
            disk.let_go(self.life);
        }
    }
}

impl Volume for Open {
    fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn fua(&self) -> bool {
        self.fua
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.check(buffer.len(), offset);
        let mut inner = self.world.lock();
        let failing = inner.disks.weather[self.life.machine].failing;
        let is_attached = inner.disks.all[self.disk].attached.contains(&self.life.machine);
        if !is_attached || inner.chance(failing) {
            return Err(failed());
        }
        let offset = offset as usize;
        buffer.copy_from_slice(&inner.disks.all[self.disk].bytes[offset..offset + buffer.len()]);
        Ok(())
    }

    fn write_now(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.check(bytes.len(), offset);
        let mut inner = self.world.lock();
        if !inner.disks.all[self.disk].attached.contains(&self.life.machine) {
            return Err(failed());
        }
        land(&mut inner, self.disk, offset as usize, bytes, true, 1.0);
        Ok(())
    }

    fn write(&self, bytes: &[u8], offset: u64, durable: bool) -> BoxFuture<'static, io::Result<()>> {
        self.check(bytes.len(), offset);
        self.submit(What::Write { offset: offset as usize, bytes: bytes.to_vec(), durable })
    }

    fn flush(&self) -> BoxFuture<'static, io::Result<()>> {
        self.submit(What::Flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Life = Life { machine: 0, number: 1 };
    const SECTOR: usize = 512;

    fn world(seed: u64, kind: Kind, fua: bool) -> (World, Arc<dyn Volume>) {
        let world = World::new(seed, 2, false);
        world.lock().disks.add(kind, "/wal", 0, 16 * BLOCK_BYTES, SECTOR, fua);
        let volume = open(&world, LIFE, Path::new("/wal"), true).unwrap();
        (world, volume)
    }

    /// Until everything has landed.
    fn pass(world: &World) {
        for _ in 0..60 {
            world.happen();
            world.lock().now += STEP;
        }
    }

    /// The first byte of each sector of the first block.
    fn sectors(volume: &dyn Volume) -> Vec<u8> {
        let mut block = [0; BLOCK_BYTES];
        volume.read(&mut block, 0).unwrap();
        block.iter().step_by(SECTOR).copied().collect()
    }

    fn cut(world: &World) {
        world.lock().leave_disks(LIFE, false);
    }

    #[test]
    fn a_power_cut_takes_sectors_of_what_was_not_durable_and_of_nothing_else() {
        let mut torn = 0;
        for seed in 0..40 {
            let (world, volume) = world(seed, Kind::Local, false);
            drop(volume.write(&[1; BLOCK_BYTES], 0, false));
            pass(&world);
            drop(volume.flush());
            pass(&world);
            drop(volume.write(&[2; BLOCK_BYTES], 0, false));
            pass(&world);
            assert_eq!(sectors(&*volume), [2; 8], "it is read before it is durable");
            cut(&world);
            let left = sectors(&*volume);
            assert!(left.iter().all(|byte| [1, 2].contains(byte)), "{left:?}");
            torn += u32::from(left.contains(&1) && left.contains(&2));
        }
        assert!(torn > 0);
    }

    #[test]
    fn a_write_under_way_is_torn_by_a_power_cut_and_not_by_a_kill() {
        let (mut torn, mut lost) = (0, 0);
        for seed in 0..40 {
            let (world, volume) = world(seed, Kind::Shared, true);
            drop(volume.write(&[1; BLOCK_BYTES], 0, true));
            cut(&world);
            pass(&world);
            let left = sectors(&*volume);
            torn += u32::from(left.contains(&0) && left.contains(&1));
            lost += u32::from(left == [0; 8]);
        }
        assert!(torn > 0 && lost > 0, "{torn} {lost}");
        let (world, volume) = world(1, Kind::Shared, true);
        drop(volume.write(&[1; BLOCK_BYTES], 0, true));
        world.lock().leave_disks(LIFE, true);
        assert!(!world.lock().disks.is_unlocked(0, Path::new("/wal")).unwrap(), "its write is under way");
        pass(&world);
        assert_eq!(sectors(&*volume), [1; 8]);
        assert!(world.lock().disks.is_unlocked(0, Path::new("/wal")).unwrap());
    }

    #[test]
    fn what_was_written_through_survives() {
        for seed in 0..40 {
            let (world, volume) = world(seed, Kind::Local, true);
            drop(volume.write(&[1; BLOCK_BYTES], 0, true));
            pass(&world);
            cut(&world);
            assert_eq!(sectors(&*volume), [1; 8]);
        }
    }

    #[test]
    fn a_lock_is_one_machines_and_what_is_detached_is_written_to_no_more() {
        let (world, volume) = world(1, Kind::Shared, true);
        let path = Path::new("/wal");
        let elsewhere = Life { machine: 1, number: 1 };
        assert!(open(&world, elsewhere, path, true).is_err(), "it is not there");
        assert!(world.lock().disks.attach(1, path));
        let other = open(&world, elsewhere, path, true).unwrap();
        let again = open(&world, Life { machine: 0, number: 2 }, path, true).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::WouldBlock);
        world.lock().detach(0, path);
        drop(volume.write(&[1; BLOCK_BYTES], 0, true));
        pass(&world);
        assert_eq!(sectors(&*other), [0; 8]);
    }
}
