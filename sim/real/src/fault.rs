//! What strikes: chosen by a seed, and said in a word. Nothing here touches anything.

use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::network::Host;

/// What a broker's process meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    /// SIGKILL; started again when it heals.
    Kill,
    /// SIGKILL, and started again at once.
    Restart,
    /// SIGSTOP; SIGCONT when it heals.
    Stop,
    /// SIGTERM; started again when it heals.
    Terminate,
}

/// Which directions of a pair are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    There,
    Back,
    Both,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Process {
        blow: Blow,
        broker: u32,
    },
    /// Between two brokers.
    Cut {
        brokers: (u32, u32),
        way: Way,
    },
    /// Between a broker and all others; the store and the clients reach it.
    Isolate {
        broker: u32,
        way: Way,
    },
    /// Between a broker and the store.
    Storeless {
        broker: u32,
        way: Way,
    },
    /// A broker is alone, but for the clients.
    Alone {
        broker: u32,
    },
    /// SIGSTOP for the store itself.
    StoreStops,
}

/// The names of all, as [`Fault::kind`] gives them.
pub const KINDS: [&str; 12] = [
    "kill",
    "restart",
    "stop",
    "terminate",
    "cut-brokers",
    "cut-brokers-one-way",
    "cut-from-brokers",
    "cut-from-brokers-one-way",
    "cut-from-store",
    "cut-from-store-one-way",
    "cut-from-all",
    "store-stops",
];

impl Fault {
    /// The name under which its times are told.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Process { blow: Blow::Kill, .. } => "kill",
            Fault::Process { blow: Blow::Restart, .. } => "restart",
            Fault::Process { blow: Blow::Stop, .. } => "stop",
            Fault::Process { blow: Blow::Terminate, .. } => "terminate",
            Fault::Cut { way: Way::Both, .. } => "cut-brokers",
            Fault::Cut { .. } => "cut-brokers-one-way",
            Fault::Isolate { way: Way::Both, .. } => "cut-from-brokers",
            Fault::Isolate { .. } => "cut-from-brokers-one-way",
            Fault::Storeless { way: Way::Both, .. } => "cut-from-store",
            Fault::Storeless { .. } => "cut-from-store-one-way",
            Fault::Alone { .. } => "cut-from-all",
            Fault::StoreStops => "store-stops",
        }
    }

    /// The broker whose partitions it may take away.
    pub fn victim(&self) -> Option<u32> {
        match self {
            Fault::Process { broker, .. }
            | Fault::Isolate { broker, .. }
            | Fault::Storeless { broker, .. }
            | Fault::Alone { broker } => Some(*broker),
            Fault::Cut { .. } | Fault::StoreStops => None,
        }
    }

    /// The directions that it cuts, where `brokers` are all there are.
    pub fn cuts(&self, brokers: u32) -> Vec<(Host, Host)> {
        let others = |broker| (1..=brokers).filter(move |other| *other != broker).map(Host::Broker);
        match *self {
            Fault::Process { .. } | Fault::StoreStops => Vec::new(),
            Fault::Cut { brokers: (a, b), way } => directions(Host::Broker(a), Host::Broker(b), way),
            Fault::Isolate { broker, way } => {
                others(broker).flat_map(|other| directions(Host::Broker(broker), other, way)).collect()
            }
            Fault::Storeless { broker, way } => directions(Host::Broker(broker), Host::Store, way),
            Fault::Alone { broker } => others(broker)
                .chain([Host::Store])
                .flat_map(|other| directions(Host::Broker(broker), other, Way::Both))
                .collect(),
        }
    }
}

fn directions(a: Host, b: Host, way: Way) -> Vec<(Host, Host)> {
    match way {
        Way::There => vec![(a, b)],
        Way::Back => vec![(b, a)],
        Way::Both => vec![(a, b), (b, a)],
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = |way: &Way| match way {
            Way::There => "→",
            Way::Back => "←",
            Way::Both => "↔",
        };
        match self {
            Fault::Process { broker, .. } => write!(f, "{} {broker}", self.kind()),
            Fault::Cut { brokers: (a, b), way } => write!(f, "cut {a} {} {b}", arrow(way)),
            Fault::Isolate { broker, way } => write!(f, "cut {broker} {} brokers", arrow(way)),
            Fault::Storeless { broker, way } => write!(f, "cut {broker} {} store", arrow(way)),
            Fault::Alone { broker } => write!(f, "cut {broker} ↔ brokers and store"),
            Fault::StoreStops => write!(f, "store-stops"),
        }
    }
}

/// One cycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle {
    /// One after the other, or two at once.
    pub faults: Vec<Fault>,
    pub hold: Duration,
    pub rest: Duration,
}

impl Cycle {
    pub fn kind(&self) -> String {
        self.faults.iter().map(Fault::kind).collect::<Vec<_>>().join("+")
    }
}

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<_> = self.faults.iter().map(Fault::to_string).collect();
        write!(f, "{} for {:.1} s", faults.join(" and "), self.hold.as_secs_f64())
    }
}

/// What can be chosen from.
pub struct Choice {
    pub brokers: u32,
    pub hold_max: Duration,
    /// Beginnings of names; all if there are none.
    pub only: Vec<String>,
}

const HOLD_MIN: Duration = Duration::from_millis(200);
/// One cycle in so many has two faults.
const DOUBLE: u32 = 5;

impl Choice {
    /// The next cycle; `None` if nothing has one of the names.
    pub fn next(&self, random: &mut StdRng) -> Option<Cycle> {
        let mut faults = vec![self.fault(random)?];
        if random.random_ratio(1, DOUBLE) {
            let second = self.fault(random)?;
            // A process is struck once; any number of cuts go together.
            let strikes = |fault: &Fault| fault.cuts(self.brokers).is_empty();
            if !strikes(&second) || second.victim() != faults[0].victim() {
                faults.push(second);
            }
        }
        // Short ones are over before anybody is suspected; long ones are longer than a lease.
        let longest = self.hold_max.max(HOLD_MIN).as_secs_f64();
        let hold = HOLD_MIN.as_secs_f64() + (longest - HOLD_MIN.as_secs_f64()) * random.random::<f64>();
        let rest = random.random_range(200..1500);
        Some(Cycle { faults, hold: Duration::from_secs_f64(hold), rest: Duration::from_millis(rest) })
    }

    fn fault(&self, random: &mut StdRng) -> Option<Fault> {
        let brokers: Vec<u32> = (1..=self.brokers).collect();
        let broker = *brokers.choose(random)?;
        let way = *[Way::There, Way::Back, Way::Both, Way::Both].choose(random)?;
        let process = |blow| Fault::Process { blow, broker };
        let mut all = vec![
            (process(Blow::Kill), 6),
            (process(Blow::Restart), 2),
            (process(Blow::Stop), 5),
            (process(Blow::Terminate), 2),
            (Fault::Storeless { broker, way }, 4),
            (Fault::StoreStops, 1),
        ];
        if self.brokers > 1 {
            let mut pair = brokers.clone();
            pair.shuffle(random);
            all.push((Fault::Cut { brokers: (pair[0], pair[1]), way }, 2));
            all.push((Fault::Isolate { broker, way }, 3));
            all.push((Fault::Alone { broker }, 2));
        }
        let named = |fault: &Fault| {
            self.only.is_empty() || self.only.iter().any(|name| fault.kind().starts_with(name.as_str()))
        };
        all.retain(|(fault, _)| named(fault));
        all.choose_weighted(random, |(_, weight)| *weight).ok().map(|(fault, _)| fault.clone())
    }
}
