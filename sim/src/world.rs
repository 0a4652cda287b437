//! What all machines share: time, chance, the order of events, and the trace.
//!
//! ```text
//!   time ──┬─────────── step ───────────┬─────────── step ───────────┬──►
//!          │ what the store was asked,  │
//!          │ and its time has come      │
//!          │ machine 2 ────────────────►│   in an order that the seed gives, each by itself
//!          │ machine 0 ────────────────►│   to the end of the step
//!          │ machine 1 ────────────────►│
//! ```
//!
//! - **W1** Nothing that leaves a machine arrives anywhere in less than [`STEP`]: so a machine that is run to the end of a
//!   step misses nothing that another one does in it, and within a step the order of machines is nobody's business.
//! - **W2** Every choice is drawn from one generator, every event gets a number: a seed gives one trace.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::device::{self, Disks};
use crate::machine::Life;
use crate::net::Network;
use crate::store::{self, Bucket};

/// Nothing travels faster.
pub const STEP: Duration = Duration::from_millis(5);

/// When simulated clocks begin.
pub const EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// Machines are numbered. The clients are on the last one.
pub type MachineId = usize;

/// Handles of one world.
#[derive(Clone)]
pub struct World(Arc<Mutex<Inner>>);

pub struct Inner {
    /// The beginning of this step.
    pub now: Duration,
    pub random: StdRng,
    pub network: Network,
    pub bucket: Bucket,
    pub disks: Disks,
    /// How often each machine has lost its power.
    pub boots: Vec<u64>,
    pub clocks: Vec<Clock>,
    due: BTreeMap<(Duration, u64), Due>,
    number: u64,
    trace: Trace,
}

/// What will happen at its time.
pub enum Due {
    Store(store::Due),
    Disk(device::Due),
}

/// A machine's clocks against the world's.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// How fast its timers and its boot time go.
    pub rate: f64,
    pub wall_offset_ms: i64,
}

/// What happened, as a number, and as text if somebody asked for it.
struct Trace {
    hash: u64,
    events: u64,
    print: bool,
}

impl World {
    pub fn new(seed: u64, machines: usize, print: bool) -> World {
        let random = StdRng::seed_from_u64(seed);
        World(Arc::new(Mutex::new(Inner {
            now: Duration::ZERO,
            network: Network::new(machines),
            bucket: Bucket::new(machines),
            disks: Disks::new(machines),
            boots: vec![0; machines],
            clocks: vec![Clock { rate: 1.0, wall_offset_ms: 0 }; machines],
            due: BTreeMap::new(),
            number: 0,
            trace: Trace { hash: 0xcbf2_9ce4_8422_2325, events: 0, print },
            random,
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock()
    }

    /// Notes an event. What is noted is what two runs of one seed are compared by.
    pub fn note(&self, event: fmt::Arguments<'_>) {
        self.lock().note(event);
    }

    /// The hash of all events so far, and how many there were.
    pub fn trace(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.trace.hash, inner.trace.events)
    }

    /// Lets what was due before the end of this step happen.
    pub fn happen(&self) {
        loop {
            let due = {
                let mut inner = self.lock();
                let until = inner.now + STEP;
                match inner.due.first_entry() {
                    Some(entry) if entry.key().0 < until => entry.remove_entry(),
                    _ => return,
                }
            };
            let ((at, _), due) = due;
            match due {
                Due::Store(due) => due.happen(self, at),
                Due::Disk(due) => due.happen(self, at),
            }
        }
    }
}

impl Inner {
    pub fn note(&mut self, event: fmt::Arguments<'_>) {
        let at = crate::machine::precise().unwrap_or(self.now);
        let text = format!("{:>12.6} {event}", at.as_secs_f64());
        self.trace.events += 1;
        for byte in text.bytes() {
            self.trace.hash = (self.trace.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if self.trace.print {
            println!("{text}");
        }
    }

    pub fn at(&mut self, time: Duration, due: Due) {
        self.number += 1;
        self.due.insert((time, self.number), due);
    }

    /// A process is gone: of its requests that had not arrived, some never will.
    pub fn lose_requests(&mut self, life: Life) {
        let is_its = |due: &Due| matches!(due, Due::Store(due) if due.life() == life);
        let keys: Vec<_> = self.due.iter().filter(|(_, due)| is_its(due)).map(|(key, _)| *key).collect();
        for key in keys {
            if self.chance(0.6) {
                self.due.remove(&key);
            }
        }
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.random.random::<f64>() < probability
    }

    /// Somewhere between two durations.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        if most <= least {
            return least;
        }
        Duration::from_micros(self.random.random_range(least.as_micros() as u64..=most.as_micros() as u64))
    }
}
