//! On a device that keeps reservations as SCSI's and NVMe's do, over several paths, and whose writes can be held up.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::block::device::Device;
use crate::block::{BlockMedium, Config};
use crate::{AckRight, Append, Medium, Meta, Position, Record, Uri, Vacated, Wal};

const OLD: Incarnation = Incarnation { broker: 1, epoch: 10 };
const NEW: Incarnation = Incarnation { broker: 1, epoch: 20 };
const NEWER: Incarnation = Incarnation { broker: 1, epoch: 30 };

/// Several hosts' disk.
#[derive(Debug, Default)]
struct Disk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    bytes: Vec<u8>,
    /// By path.
    keys: BTreeMap<u32, Key>,
    holder: Option<u32>,
    /// Writes are accepted, and wait.
    holding: bool,
    waiting: usize,
    /// Reservations and preemptions that fail next, having done what they are for.
    lost_reserves: u32,
    lost_preempts: u32,
    /// Calls that fail, having done nothing.
    broken: Vec<Call>,
    has_reservations: bool,
}

impl State {
    fn may_write(&self, path: u32) -> bool {
        self.holder.is_none() || self.keys.contains_key(&path)
    }

    fn call(&mut self, path: u32, call: Call) -> Reply {
        if !self.has_reservations {
            return Reply::Unsupported("nothing of the kind".into());
        }
        if self.broken.contains(&call) {
            return Reply::Failed("no".into());
        }
        let key = self.keys.get(&path).copied();
        match call {
            Call::Register { old, new, whatever } => {
                if !whatever && key != old {
                    return Reply::Conflict;
                }
                self.keys.insert(path, new);
                Reply::Done
            }
            Call::Reserve { own }
            | Call::Release { own }
            | Call::Preempt { own, .. }
            | Call::Clear { own }
                if key != Some(own) =>
            {
                Reply::Conflict
            }
            Call::Reserve { .. } => match self.holder {
                Some(holder) if holder != path => Reply::Conflict,
                _ => {
                    self.holder = Some(path);
                    Reply::Done
                }
            },
            Call::Preempt { victim, .. } => {
                let removed: Vec<u32> = self
                    .keys
                    .iter()
                    .filter(|(of, key)| **key == victim && **of != path)
                    .map(|(of, _)| *of)
                    .collect();
                for of in &removed {
                    self.keys.remove(of);
                }
                if self.holder.is_some_and(|holder| removed.contains(&holder)) {
                    self.holder = Some(path);
                }
                if removed.is_empty() { Reply::Conflict } else { Reply::Done }
            }
            Call::Release { .. } => {
                self.holder = self.holder.filter(|holder| *holder != path);
                Reply::Done
            }
            Call::Clear { .. } => {
                self.keys.clear();
                self.holder = None;
                Reply::Done
            }
        }
    }
}

/// A path to it: a host's.
#[derive(Clone, Debug)]
struct Path {
    disk: Arc<Disk>,
    number: u32,
}

impl Disk {
    fn new() -> Arc<Disk> {
        let state = State { bytes: vec![0; 4 << 20], has_reservations: true, ..State::default() };
        Arc::new(Disk { state: Mutex::new(state), changed: Condvar::new() })
    }

    fn path(self: &Arc<Disk>, number: u32) -> Path {
        Path { disk: self.clone(), number }
    }

    /// Waits until a write was accepted, which waits.
    fn until_one_waits(&self) {
        let mut state = self.state.lock();
        while state.waiting == 0 {
            self.changed.wait(&mut state);
        }
    }

    fn hold(&self, holding: bool) {
        self.state.lock().holding = holding;
        self.changed.notify_all();
    }
}

impl Reservable for Path {
    fn call(&self, call: Call) -> Reply {
        let mut state = self.disk.state.lock();
        let reply = state.call(self.number, call);
        let lost = match call {
            Call::Reserve { .. } => &mut state.lost_reserves,
            Call::Preempt { .. } => &mut state.lost_preempts,
            _ => return reply,
        };
        if *lost > 0 {
            *lost -= 1;
            return Reply::Failed("unit attention".into());
        }
        reply
    }
}

impl Device for Path {
    fn block_bytes(&self) -> usize {
        4096
    }

    fn size_bytes(&self) -> u64 {
        self.disk.state.lock().bytes.len() as u64
    }

    fn is_direct(&self) -> bool {
        true
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let at = offset as usize;
        buffer.copy_from_slice(&self.disk.state.lock().bytes[at..at + buffer.len()]);
        Ok(())
    }

    fn write_durable(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        if !state.may_write(self.number) {
            return Err(rustix::io::Errno::BADE.into());
        }
        state.waiting += 1;
        self.disk.changed.notify_all();
        while state.holding {
            self.disk.changed.wait(&mut state);
        }
        state.waiting -= 1;
        let at = offset as usize;
        state.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

impl Path {
    fn uri() -> Uri {
        Uri("block:///dev/shared".into())
    }

    fn config() -> Config {
        Config { frame_bytes_max: 64 << 10, frame_bytes_target: 64 << 10, ..Config::default() }
    }

    fn medium(&self) -> BlockMedium {
        let device = Arc::new(self.clone());
        let medium = BlockMedium::on_device(device.clone(), Path::uri(), Uuid::nil(), Path::config());
        medium.unwrap().with_reservations(device)
    }

    fn left(&self) -> BlockMedium {
        let device = Arc::new(self.clone());
        let medium =
            BlockMedium::for_recovery_on_device(device.clone(), Path::uri(), Uuid::nil(), Path::config());
        medium.unwrap().with_reservations(device)
    }

    async fn open(&self, life: Incarnation) -> Result<Arc<dyn Wal>, Error> {
        open(&self.medium(), life).await
    }
}

async fn open(medium: &BlockMedium, life: Incarnation) -> Result<Arc<dyn Wal>, Error> {
    medium.open(life, Vacated::nothing_left(), Arc::new(AckRight::unlimited())).await
}

fn append(wal: &Arc<dyn Wal>, byte: u8) -> Append {
    let record = Record { kind: 1, meta: Meta::new(b"meta"), body: Bytes::from(vec![byte; 100]) };
    wal.append(record).unwrap()
}

async fn recovered(medium: &BlockMedium, of: Incarnation) -> Vec<u8> {
    let mut recovery = medium.recover(of, Position(0)).await.unwrap();
    let mut found = Vec::new();
    while let Some(batch) = recovery.next().await.unwrap() {
        found.extend(batch.records.iter().map(|record| record.body[0]));
    }
    found
}

/// P3, P5: the whole of a fail-over, and the old owner's restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_shut_out_acknowledges_nothing_and_lost_nothing() {
    let disk = Disk::new();
    let (here, there) = (disk.path(1), disk.path(2));
    let wal = here.open(OLD).await.unwrap();
    for byte in 0..10 {
        append(&wal, byte).await.unwrap();
    }
    let left = there.left();
    left.shut_out(OLD, Host::Another).await.unwrap();
    assert!(matches!(append(&wal, 99).await, Err(Error::Fenced(_))));
    assert!(matches!(wal.failed().await, Error::Fenced(_)));
    assert_eq!(recovered(&left, OLD).await, (0..10).collect::<Vec<_>>());
    wal.close().await;
    assert!(!disk.state.lock().may_write(1), "until the volume has its next owner (P6)");

    // Which may be on the old host, and finds the recoverer in possession.
    let wal = here.open(NEW).await.unwrap();
    append(&wal, 7).await.unwrap();
    assert!(!disk.state.lock().may_write(2));
    wal.close().await;
    assert_eq!(disk.state.lock().holder, None, "who closes in order gives it back");
    // To whoever comes, who removes it; and then it can be told that it is out, over the path that was its own.
    let wal = there.open(NEWER).await.unwrap();
    assert!(!disk.state.lock().may_write(1));
    here.left().shut_out(NEWER, Host::Another).await.unwrap();
    assert!(matches!(append(&wal, 8).await, Err(Error::Fenced(_))));
}

/// P4: accepted before the owner was removed, written after the recoverer has looked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_the_device_held_back_is_not_acknowledged_behind_a_recoverers_back() {
    let disk = Disk::new();
    let wal = disk.path(1).open(OLD).await.unwrap();
    append(&wal, 0).await.unwrap();
    disk.hold(true);
    let late = append(&wal, 1);
    disk.until_one_waits();
    let left = disk.path(2).left();
    left.shut_out(OLD, Host::Another).await.unwrap();
    assert_eq!(recovered(&left, OLD).await, [0]);
    disk.hold(false);
    assert!(matches!(late.await, Err(Error::Fenced(_))), "nobody will ever recover it");
}

/// P4: slow, and nobody took anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_write_counts_when_the_device_confirms_it() {
    let disk = Disk::new();
    let wal = disk.path(1).open(OLD).await.unwrap();
    disk.hold(true);
    let slow = append(&wal, 1);
    disk.until_one_waits();
    std::thread::sleep(SETTLE + Duration::from_millis(50));
    disk.state.lock().lost_reserves = TRIES - 1;
    disk.hold(false);
    slow.await.unwrap();
    // And one whose device does not say is none.
    disk.hold(true);
    let slow = append(&wal, 2);
    disk.until_one_waits();
    std::thread::sleep(SETTLE + Duration::from_millis(50));
    disk.state.lock().lost_reserves = TRIES;
    disk.hold(false);
    assert!(matches!(slow.await, Err(Error::Failed(_))));
}

/// P1, P2.
#[test]
fn a_device_is_taken_from_who_is_known_to_have_had_it_and_from_nobody_else() {
    let other = Incarnation { broker: 9, epoch: 3 };
    let taken = |disk: &Arc<Disk>, last, anybodys| claim(&disk.path(1), NEW, last, anybodys);
    for (before, last, anybodys, expected) in [
        (None, None, false, Claimed::Held),
        (Some(Key::of_owner(OLD)), Some(OLD), false, Claimed::Held),
        (Some(Key::of_recoverer(OLD)), Some(OLD), false, Claimed::Held),
        (Some(Key::of_owner(OLD)), None, false, Claimed::Taken),
        (Some(Key::of_owner(other)), Some(OLD), false, Claimed::Taken),
        (Some(Key::of_recoverer(other)), Some(OLD), false, Claimed::Taken),
        (Some(Key::of_owner(other)), Some(OLD), true, Claimed::Held),
        (Some(Key::of_owner(other)), None, true, Claimed::Held),
    ] {
        let disk = Disk::new();
        if let Some(key) = before {
            let mut state = disk.state.lock();
            state.call(2, Call::Register { old: None, new: key, whatever: false });
            state.call(2, Call::Reserve { own: key });
        }
        assert_eq!(taken(&disk, last, anybodys), expected, "{before:?} {last:?} {anybodys}");
        let held = expected == Claimed::Held;
        let state = disk.state.lock();
        assert_eq!((state.holder == Some(1), state.may_write(2)), (held, !held), "{before:?} {last:?}");
    }
    // Our own host's, of a life that crashed; and nobody's, where there is no such thing.
    let disk = Disk::new();
    assert_eq!(claim(&disk.path(1), OLD, None, false), Claimed::Held);
    assert_eq!(taken(&disk, Some(OLD), false), Claimed::Held);
    disk.state.lock().has_reservations = false;
    assert!(matches!(taken(&disk, Some(OLD), false), Claimed::Without(_)));
}

/// P3.
#[test]
fn nothing_but_the_devices_word_is_a_proof() {
    let disk = Disk::new();
    assert!(shut_out(&disk.path(2), OLD, Host::Another).is_err(), "it never had a reservation");
    assert_eq!(claim(&disk.path(1), OLD, None, false), Claimed::Held);
    assert!(shut_out(&disk.path(1), OLD, Host::Another).is_err(), "over the owner's own path");
    assert!(disk.state.lock().may_write(1));
    assert_eq!(prepare(&disk.path(3), OLD, Host::Another), Ok(()));
    assert!(disk.state.lock().may_write(1), "and nothing is taken from it");
    assert_eq!(shut_out(&disk.path(2), OLD, Host::Another), Ok(()));
    assert!(!disk.state.lock().may_write(1));
    assert!(shut_out(&disk.path(2), OLD, Host::Another).is_err(), "it was done before: nobody knows when");
    assert!(shut_out(&disk.path(3), OLD, Host::Another).is_err(), "by another host");

    // An answer that was lost.
    let disk = Disk::new();
    assert_eq!(claim(&disk.path(1), OLD, None, false), Claimed::Held);
    assert_eq!(prepare(&disk.path(2), OLD, Host::Another), Ok(()));
    disk.state.lock().lost_preempts = 1;
    assert!(shut_out(&disk.path(2), OLD, Host::Another).is_err());
}

/// P3: an owner that is registered, and whose reservation failed, or whose answer was lost, is nobody's proof; and who removes one
/// that is registered alone holds the reservation then.
#[test]
fn a_removed_registration_without_a_reservation_is_no_proof() {
    let lost = |disk: &Arc<Disk>| disk.state.lock().lost_reserves = TRIES;
    let broken = |disk: &Arc<Disk>| {
        disk.state.lock().broken.push(Call::Reserve { own: Key::of_owner(OLD) });
    };
    for fail in [&lost as &dyn Fn(&Arc<Disk>), &broken] {
        let disk = Disk::new();
        fail(&disk);
        assert!(matches!(claim(&disk.path(1), OLD, None, false), Claimed::Without(_)));
        assert!(shut_out(&disk.path(2), OLD, Host::Another).is_err(), "it never confirms a slow write");
        assert_eq!(claim(&disk.path(3), NEW, Some(OLD), false), Claimed::Held);
        assert!(!disk.state.lock().may_write(1), "the next owner finds it all the same");
    }
    // One that cannot even say so does not start.
    let disk = Disk::new();
    broken(&disk);
    let (owner, bystander) = (Key::of_owner(OLD), Key::of_bystander(OLD));
    disk.state.lock().broken.push(Call::Register { old: Some(owner), new: bystander, whatever: true });
    assert!(matches!(claim(&disk.path(1), OLD, None, false), Claimed::Unclear(_)));
    // And if it did: the device's word about a registration is none about a reservation.
    assert_eq!(disk.state.lock().keys.get(&1), Some(&owner));
    let recoverer = Key::of_recoverer(OLD);
    disk.state.lock().broken.push(Call::Reserve { own: recoverer });
    assert!(shut_out(&disk.path(2), OLD, Host::Another).is_err());
    let disk = Disk::new();
    disk.state.lock().call(1, Call::Register { old: None, new: owner, whatever: false });
    assert_eq!(shut_out(&disk.path(2), OLD, Host::Another), Ok(()));
    assert!(!disk.state.lock().may_write(1), "nothing is accepted from then on");
}

/// P1: a preempt that failed is not like one that found nobody.
#[test]
fn an_owner_that_could_not_remove_the_last_one_does_not_hold_the_device() {
    let disk = Disk::new();
    let (old, new) = (Key::of_owner(OLD), Key::of_owner(NEW));
    disk.state.lock().call(1, Call::Register { old: None, new: old, whatever: false });
    disk.state.lock().broken.push(Call::Preempt { own: new, victim: old });
    assert!(matches!(claim(&disk.path(2), NEW, Some(OLD), false), Claimed::Without(_)));
    assert_eq!(disk.state.lock().holder, None);
}

/// P3: nobody puts an owner back whom somebody else removed.
#[test]
fn a_recoverer_on_the_owners_host_does_not_let_it_write_again() {
    let disk = Disk::new();
    assert_eq!(claim(&disk.path(1), OLD, None, false), Claimed::Held);
    assert_eq!(shut_out(&disk.path(2), OLD, Host::Another), Ok(()));
    assert!(shut_out(&disk.path(1), OLD, Host::PerhapsItsOwn).is_err());
    assert!(prepare(&disk.path(1), OLD, Host::PerhapsItsOwn).is_err());
    assert_eq!(has_them(&disk.path(1), OLD), Ok(()));
    assert!(!disk.state.lock().may_write(1));
    // Nor is anything changed where it is still there.
    let disk = Disk::new();
    assert_eq!(claim(&disk.path(1), OLD, None, false), Claimed::Held);
    let before = disk.state.lock().clone();
    assert_eq!((has_them(&disk.path(1), OLD), has_them(&disk.path(2), OLD)), (Ok(()), Ok(())));
    assert!(*disk.state.lock() == before);
    disk.state.lock().has_reservations = false;
    assert!(has_them(&disk.path(1), OLD).is_err());
}

/// P4: what the device had accepted of the last owner lands before anything is written.
#[tokio::test(start_paused = true)]
async fn a_volume_that_only_a_reservation_guards_is_written_when_what_was_accepted_has_landed() {
    let disk = Disk::new();
    drop(disk.path(1).open(OLD).await.unwrap());
    let medium = disk.path(2).medium();
    medium.rely_on_reservation();
    let before = disk.state.lock().bytes.clone();
    let began = tokio::time::Instant::now();
    let opening = open(&medium, NEW);
    tokio::pin!(opening);
    assert!(tokio::time::timeout(LANDING_WAIT - Duration::from_secs(1), &mut opening).await.is_err());
    assert!(!disk.state.lock().may_write(1), "it is kept out at once");
    assert!(disk.state.lock().bytes == before, "and nothing is written");
    opening.await.unwrap();
    assert!(began.elapsed() >= LANDING_WAIT);
}

/// A recoverer's reservation stays (P6), and who comes back without one hears what it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_reservation_hears_of_one_what_it_is() {
    let disk = Disk::new();
    disk.path(1).open(OLD).await.unwrap().close().await;
    let uri = Path::uri();
    let without = BlockMedium::on_device(Arc::new(disk.path(1)), uri, Uuid::nil(), Path::config()).unwrap();
    assert_eq!(claim(&disk.path(2), OLD, None, false), Claimed::Held);
    disk.state.lock().keys.remove(&1);
    let opened = open(&without, NEW).await;
    assert!(matches!(opened, Err(Error::Refused(why)) if why.contains("--wal-reservation auto")));
}

/// Who cannot do without does without nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_relies_on_a_reservation_is_not_opened_without_one() {
    let disk = Disk::new();
    disk.state.lock().has_reservations = false;
    let medium = disk.path(1).medium();
    assert!(medium.prepare_to_shut_out(OLD, Host::Another).is_err());
    medium.rely_on_reservation();
    let before = disk.state.lock().bytes.clone();
    assert!(matches!(open(&medium, OLD).await, Err(Error::Refused(_))));
    assert!(disk.state.lock().bytes == before, "nothing was written");
    disk.path(1).open(OLD).await.unwrap().close().await;
    // Nor over somebody else's, nor formatted.
    disk.state.lock().has_reservations = true;
    assert_eq!(claim(&disk.path(2), NEW, None, false), Claimed::Held);
    assert!(
        matches!(disk.path(1).open(NEW).await, Err(Error::Refused(reason)) if reason.contains("--wal-detached"))
    );
    disk.state.lock().bytes.fill(0);
    let blank = BlockMedium::on_device(Arc::new(disk.path(3)), Path::uri(), Uuid::nil(), Path::config());
    let refused = open(&blank.unwrap(), OLD).await;
    assert!(matches!(refused, Err(Error::Refused(reason)) if reason.contains("is blank, but reserved")));
}

/// A participant, step by step.
#[derive(Debug)]
enum Actor {
    Owner(Claim, Step<Claimed>),
    Recoverer(ShutOut, Step<Result<(), String>>),
}

impl Actor {
    /// Its next call, and whether it has won.
    fn step(&mut self, state: &mut State, path: u32) {
        match self {
            Actor::Owner(claim, step) => {
                if let Step::Call(call) = *step {
                    *step = claim.after(state.call(path, call));
                }
            }
            Actor::Recoverer(shutting, step) => {
                if let Step::Call(call) = *step {
                    *step = shutting.after(state.call(path, call));
                }
            }
        }
    }

    fn has_shut_out(&self) -> bool {
        matches!(self, Actor::Owner(_, Step::Ended(Claimed::Held)) | Actor::Recoverer(_, Step::Ended(Ok(()))))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// However two recoverers and two next owners come in between each other: whoever was told that the old owner is out
    /// finds it out for good, and of two new owners only one can write in the end.
    #[test]
    fn whoever_was_told_that_the_owner_is_out_finds_it_out(order in prop::collection::vec(0usize..5, 50)) {
        let mut state = State { has_reservations: true, ..State::default() };
        let old = Key::of_owner(OLD);
        state.call(0, Call::Register { old: None, new: old, whatever: false });
        state.call(0, Call::Reserve { own: old });
        let recoverer = |host| { let (machine, step) = ShutOut::new(OLD, host); Actor::Recoverer(machine, step) };
        let owner = |epoch| {
            let (machine, step) = Claim::new(Incarnation { epoch, ..OLD }, Some(OLD), false);
            Actor::Owner(machine, step)
        };
        let (another, its) = (Host::Another, Host::PerhapsItsOwn);
        let mut actors = [recoverer(another), recoverer(another), owner(20), owner(21), recoverer(its)];
        let mut is_out = false;
        let all = order.into_iter().chain((0..5).cycle().take(50));
        for index in all {
            // The last one is on the old owner's host.
            actors[index].step(&mut state, [1, 2, 3, 4, 0][index]);
            is_out |= actors[index].has_shut_out();
            prop_assert!(!is_out || !state.may_write(0), "{:?} {:?}", actors, state);
        }
        prop_assert!(is_out, "somebody succeeds");
        prop_assert!(state.holder.is_some_and(|holder| holder >= 3), "an owner: {:?}", state);
    }

    #[test]
    fn keys_tell_lives_and_roles_apart(one in any::<(u32, u32)>(), other in any::<(u32, u32)>()) {
        let life = |(broker, epoch): (u32, u32)| Incarnation { broker: broker >> 1, epoch: u64::from(epoch >> 2) };
        let (one, other) = (life(one), life(other));
        prop_assert_eq!(Key::of_owner(one) == Key::of_owner(other), one == other);
        prop_assert_eq!(Key::of_recoverer(one) == Key::of_recoverer(other), one == other);
        prop_assert_ne!(Key::of_owner(one), Key::of_recoverer(other));
        prop_assert_ne!(Key::of_bystander(one), Key::of_owner(other));
        prop_assert_ne!(Key::of_bystander(one), Key::of_recoverer(other));
        prop_assert_ne!(Key::of_owner(one).get(), 0);
    }
}
