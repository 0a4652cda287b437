//! The collector's rules, against a bucket and everybody who still needs something in it.
//!
//! Random histories of one broker id: lives that write slots and objects, commit them, give them up, are fenced and
//! recovered slot by slot; topics that come and go; readers that looked a part up; PUTs that land again long after.
//! In between somebody collects, by a listing and by a view of the metadata that may each be old.
//!
//! What must be in the bucket is written down in the plainest way by [`World::check`]; what must not, in the end, by
//! [`World::settle`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use s3stream::gc::rules::{Alive, Dead, Verdict, judge};
use s3stream::gc::{Aged, Due, Look, Naming, Owner, Standing};

use super::*;

/// An object that a reader has found.
struct Reading {
    object: ObjectId,
    until: u64,
    /// When the process began that reads it.
    process: u64,
}

const DELAY: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
enum Step {
    Register,
    RecoverSlot {
        adopt: bool,
    },
    Close,
    Create,
    Delete {
        pick: u8,
    },
    Trim {
        pick: u8,
        by: u8,
    },
    WriteSlot,
    Upload,
    Commit {
        pick: u8,
        trim: bool,
    },
    GiveUp {
        pick: u8,
    },
    RaiseLowWater,
    LandAgain {
        pick: u8,
    },
    Locate {
        pick: u8,
    },
    /// Seconds.
    Wait {
        seconds: u8,
    },
    /// Seconds by which the clocks of those who append, and of whoever collects, are ahead of the right time from here on.
    SkewClocks {
        appenders: i8,
        collector: i8,
    },
    CollectGarbage {
        crash: bool,
    },
    List,
    Sweep {
        listing: u8,
        view: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let pick = any::<u8>;
    prop_oneof![
        1 => Just(Step::Register),
        4 => any::<bool>().prop_map(|adopt| Step::RecoverSlot { adopt }),
        1 => Just(Step::Close),
        2 => Just(Step::Create),
        1 => pick().prop_map(|pick| Step::Delete { pick }),
        2 => (pick(), 1..4u8).prop_map(|(pick, by)| Step::Trim { pick, by }),
        4 => Just(Step::WriteSlot),
        5 => Just(Step::Upload),
        5 => (pick(), any::<bool>()).prop_map(|(pick, trim)| Step::Commit { pick, trim }),
        1 => pick().prop_map(|pick| Step::GiveUp { pick }),
        1 => Just(Step::RaiseLowWater),
        2 => pick().prop_map(|pick| Step::LandAgain { pick }),
        2 => pick().prop_map(|pick| Step::Locate { pick }),
        2 => (1..8u8).prop_map(|seconds| Step::Wait { seconds }),
        1 => (-100..100i8, -100..100i8)
            .prop_map(|(appenders, collector)| Step::SkewClocks { appenders, collector }),
        2 => any::<bool>().prop_map(|crash| Step::CollectGarbage { crash }),
        2 => Just(Step::List),
        4 => (0..3u8, 0..4u8).prop_map(|(listing, view)| Step::Sweep { listing, view }),
    ]
}

/// What the collector goes by.
#[derive(Clone, Copy)]
struct Rules {
    judge: fn(ObjectId, &Standing) -> Verdict,
    /// So old, garbage of before the process's start may go.
    delay: Duration,
    /// Up to which state garbage goes by its age, given that at the start and that of now.
    aged: fn(u64, u64) -> u64,
    /// After so long garbage that was seen may go.
    known_after: Duration,
}

const RULES: Rules = Rules { judge, delay: DELAY, aged: |start, _| start, known_after: DELAY };

/// A life's slots in the bucket.
#[derive(Clone, Copy, Debug, Default)]
struct Slots {
    trim: u64,
    next: u64,
}

struct World {
    rules: Rules,
    log: Log,
    live: Option<Incarnation>,
    /// What is in the bucket.
    bucket: BTreeSet<ObjectId>,
    seals: BTreeSet<ObjectId>,
    /// Lives that may have to be recovered, with what recovery will read.
    slots: BTreeMap<Incarnation, Slots>,
    /// Uploaded by the life that lives, and not committed yet.
    in_flight: BTreeSet<u64>,
    counter: u64,
    /// All objects that were ever put.
    put: Vec<ObjectId>,
    /// Objects that readers have found, and until when they read them. While clocks are right those of other processes
    /// count too: they go on when this one ends.
    readers: Vec<Reading>,
    skewed: bool,
    collector_ahead_ms: i64,
    topics: u64,
    /// Newest last.
    listings: Vec<BTreeSet<ObjectId>>,
    views: Vec<(u64, Image)>,
    /// When this process's collector looked.
    looks: Vec<u64>,
    /// The state at this process's start.
    start: u64,
    collected: u64,
}

impl World {
    fn new(rules: Rules) -> World {
        let mut world = World {
            rules,
            log: Log::formatted(),
            live: None,
            bucket: BTreeSet::new(),
            seals: BTreeSet::new(),
            slots: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            counter: 0,
            put: Vec::new(),
            readers: Vec::new(),
            skewed: false,
            collector_ahead_ms: 0,
            topics: 0,
            listings: Vec::new(),
            views: Vec::new(),
            looks: Vec::new(),
            start: 0,
            collected: 0,
        };
        world.register();
        world
    }

    fn run(rules: Rules, steps: &[Step]) {
        let mut world = World::new(rules);
        for step in steps {
            world.step(step);
            world.check();
        }
        world.settle();
    }

    fn now(&self) -> u64 {
        self.log.number
    }

    fn put(&mut self, id: ObjectId) {
        self.bucket.insert(id);
        self.put.push(id);
    }

    /// The streams that are open under `owner`.
    fn streams(&self, owner: Incarnation) -> Vec<StreamId> {
        let owned = |id: &u64| self.log.image.stream(StreamId(*id)).is_some_and(|s| s.owner == Some(owner));
        (0..100).filter(owned).map(StreamId).collect()
    }

    fn next_part(&self, stream: StreamId) -> StreamPart {
        let end = self.log.image.stream(stream).unwrap().committed_end;
        part(stream, end, end + 3)
    }

    fn register(&mut self) {
        let Outcome::Registered(registered) = self.log.apply(object_registration(&self.log)).unwrap() else {
            panic!("a registration is accepted")
        };
        self.live = Some(registered.incarnation);
        self.start = self.now();
        self.looks.clear();
        if self.skewed {
            self.readers.clear();
        }
        self.in_flight.clear();
        self.counter = 0;
        let needed: BTreeSet<_> = registered.previous.iter().map(|previous| previous.incarnation).collect();
        self.slots.retain(|incarnation, _| needed.contains(incarnation));
        if needed.is_empty() {
            self.open();
        }
    }

    fn open(&mut self) {
        let by = self.live.unwrap();
        self.log.apply(Command::OpenLeaderships { by }).unwrap();
        self.slots.insert(by, Slots::default());
    }

    fn is_open(&self) -> bool {
        self.live.is_some_and(|live| self.slots.contains_key(&live))
    }

    fn recover_slot(&mut self, adopt: bool) {
        let Some(by) = self.live else { return };
        let Some((&of, &slots)) = self.slots.iter().find(|(of, _)| **of != by) else { return };
        let from = Position(slots.trim);
        if slots.trim == slots.next {
            let seal = ObjectId::Slot { owner: of, slot: slots.next };
            self.put(seal);
            self.seals.insert(seal);
            let commit = commit(of, slots.next, &[]);
            self.log.apply(Command::CommitRecovered { by, of, from, commit, last: true }).unwrap();
            self.slots.remove(&of);
            if self.slots.is_empty() {
                self.open();
            }
            return;
        }
        let mut objects = Vec::new();
        if let (true, Some(&stream)) = (adopt, self.streams(of).first()) {
            objects.push(slot(of, slots.trim, &[self.next_part(stream)]));
        }
        let commit = commit(of, slots.trim + 1, &objects);
        self.log.apply(Command::CommitRecovered { by, of, from, commit, last: false }).unwrap();
        self.slots.get_mut(&of).unwrap().trim += 1;
    }

    fn commit(&mut self, pick: u8, trim: bool) {
        let Some(by) = self.live else { return };
        let streams = self.streams(by);
        if self.in_flight.is_empty() || streams.is_empty() {
            return;
        }
        let counter = *self.in_flight.iter().nth(pick as usize % self.in_flight.len()).unwrap();
        let part = self.next_part(streams[pick as usize % streams.len()]);
        let slots = self.slots.get_mut(&by).unwrap();
        slots.trim = slots.next.min(slots.trim + u64::from(trim));
        let commit = commit(by, slots.trim, &[data(by, counter, &[part])]);
        self.log.apply(Command::CommitObjects { commit }).expect("a commit in flight is accepted");
        self.in_flight.remove(&counter);
    }

    fn step(&mut self, step: &Step) {
        let live = self.live;
        match step {
            Step::Register => self.register(),
            Step::RecoverSlot { adopt } => self.recover_slot(*adopt),
            Step::Close => {
                let Some(by) = live.filter(|_| self.is_open()) else { return };
                self.log.apply(Command::CloseBroker { by }).unwrap();
                self.slots.clear();
                self.in_flight.clear();
                self.live = None;
            }
            Step::Create => {
                if let (Some(by), true) = (live, self.is_open() && self.topics < 20) {
                    self.topics += 1;
                    self.log.topic(by, &format!("topic{}", self.topics), 1);
                }
            }
            Step::Delete { pick } => {
                let topics: Vec<Uuid> = self.log.image.topics().map(|topic| topic.id).collect();
                if let (Some(by), false) = (live, topics.is_empty()) {
                    let topics = vec![topics[*pick as usize % topics.len()]];
                    self.log.apply(Command::DeleteTopics { by, topics }).unwrap();
                }
            }
            Step::Trim { pick, by: offsets } => {
                let Some(by) = live else { return };
                let streams = self.streams(by);
                if streams.is_empty() {
                    return;
                }
                let id = streams[*pick as usize % streams.len()];
                let stream = self.log.image.stream(id).unwrap();
                let start = stream.committed_end.min(stream.start + u64::from(*offsets));
                self.log.apply(Command::TrimStreams { by, trims: vec![(id, start)] }).unwrap();
            }
            Step::WriteSlot => {
                if let (Some(by), true) = (live, self.is_open()) {
                    let slots = self.slots.get_mut(&by).unwrap();
                    slots.next += 1;
                    let id = ObjectId::Slot { owner: by, slot: slots.next - 1 };
                    self.put(id);
                }
            }
            Step::Upload => {
                if let (Some(by), true) = (live, self.is_open()) {
                    self.put(ObjectId::Data { owner: by, counter: self.counter });
                    self.in_flight.insert(self.counter);
                    self.counter += 1;
                }
            }
            Step::Commit { pick, trim } => self.commit(*pick, *trim),
            Step::GiveUp { pick } => {
                let nth = self.in_flight.iter().nth(*pick as usize % self.in_flight.len().max(1));
                if let Some(counter) = nth.copied() {
                    self.in_flight.remove(&counter);
                }
            }
            Step::RaiseLowWater => {
                if let Some(by) = live {
                    let counter = self.in_flight.first().copied().unwrap_or(self.counter);
                    self.log.apply(Command::RaiseLowWater { by, counter }).unwrap();
                }
            }
            Step::LandAgain { pick } => {
                if !self.put.is_empty() {
                    // A seal's place is a slot's: whoever comes late finds it there.
                    self.bucket.insert(self.put[*pick as usize % self.put.len()]);
                }
            }
            Step::Locate { pick } => {
                let named: Vec<ObjectId> = self.log.image.objects().map(|(id, _)| id).collect();
                if !named.is_empty() {
                    let until = self.now() + DELAY.as_secs();
                    let object = named[*pick as usize % named.len()];
                    self.readers.push(Reading { object, until, process: self.start });
                }
            }
            Step::Wait { seconds } => self.log.number += u64::from(*seconds),
            Step::SkewClocks { appenders, collector } => {
                self.log.ahead_ms = i64::from(*appenders) * 1000;
                self.collector_ahead_ms = i64::from(*collector) * 1000;
                self.skewed = true;
                let own = self.start;
                self.readers.retain(|reading| reading.process == own);
            }
            Step::CollectGarbage { crash } => self.collect_garbage(*crash),
            Step::List => self.list(),
            Step::Sweep { listing, view } => self.sweep(*listing, *view),
        }
        self.views.push((self.log.number, self.log.image.clone()));
    }

    fn collect_garbage(&mut self, crash: bool) {
        let Some(by) = self.live else { return };
        let now = self.now();
        // Numbers of entries and seconds are the same here.
        let old = |look: &u64| *look + self.rules.known_after.as_secs() <= now;
        let known = self.looks.iter().copied().filter(old).max();
        self.looks.push(now);
        let now_ms = now as i64 * 1000 + self.collector_ahead_ms;
        let since_ms_max = now_ms - self.rules.delay.as_millis() as i64;
        let aged = Some(Aged { state: (self.rules.aged)(self.start, now), since_ms_max });
        let mut look = Look { from: None, limit: 3, aged, known };
        loop {
            let due = self.log.image.due_garbage(now, &look);
            for id in &due.objects {
                self.bucket.remove(id);
            }
            if !crash && !due.objects.is_empty() {
                self.log.apply(Command::ForgetGarbage { by, objects: due.objects }).unwrap();
            }
            match due.next {
                Some(next) => look.from = Some(next),
                None => return,
            }
        }
    }

    fn list(&mut self) {
        self.listings.push(self.bucket.clone());
    }

    /// By the `listing`-last listing and the `view`-last state.
    fn sweep(&mut self, listing: u8, view: u8) {
        let Some(listing) = self.listings.iter().rev().nth(listing.into()) else { return };
        let Some((number, image)) = self.views.iter().rev().nth(usize::from(view) * 5) else { return };
        for &id in listing {
            let delete = match (self.rules.judge)(id, &image.standing(*number, id)) {
                Verdict::Delete(_) => true,
                Verdict::DeleteUnlessSeal(_) => !self.seals.contains(&id),
                Verdict::Keep(_) => false,
            };
            if delete && self.bucket.remove(&id) {
                self.collected += 1;
            }
        }
    }

    /// Everything that anybody may still need is there.
    fn check(&mut self) {
        for (id, _) in self.log.image.objects() {
            assert!(self.bucket.contains(&id), "{id:?} is named");
        }
        assert!(self.seals.is_subset(&self.bucket), "seals stay");
        for (&owner, slots) in &self.slots {
            for slot in slots.trim..slots.next {
                let id = ObjectId::Slot { owner, slot };
                assert!(self.bucket.contains(&id), "{id:?} would be read by a recovery");
            }
        }
        if let Some(owner) = self.live {
            for &counter in &self.in_flight {
                let id = ObjectId::Data { owner, counter };
                assert!(self.bucket.contains(&id), "{id:?} is about to be committed");
            }
        }
        let now = self.now();
        self.readers.retain(|reading| reading.until > now);
        for Reading { object, .. } in &self.readers {
            assert!(self.bucket.contains(object), "{object:?} is being read");
        }
    }

    /// Once everybody has ended, a sweep and the delay leave what is named, and the seals.
    fn settle(mut self) {
        self.register();
        while self.slots.keys().any(|of| Some(*of) != self.live) {
            self.recover_slot(true);
        }
        // Whatever the clocks said.
        self.collect_garbage(false);
        self.log.number += DELAY.as_secs();
        self.collect_garbage(false);
        assert_eq!(self.log.image.garbage().count(), 0);
        self.list();
        self.views.push((self.log.number, self.log.image.clone()));
        self.sweep(0, 0);
        self.check();
        let mut expected: BTreeSet<ObjectId> = self.log.image.objects().map(|(id, _)| id).collect();
        expected.extend(&self.seals);
        assert_eq!(self.bucket, expected);
    }
}

fn object_registration(log: &Log) -> Command {
    let Command::RegisterBroker(registration) = log.registration(1) else { unreachable!() };
    Command::RegisterBroker(Registration { wal_uri: "object:".into(), ..registration })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_anybody_needs_is_collected_and_everything_else_is(
        steps in prop::collection::vec(step(), 1..150),
    ) {
        World::run(RULES, &steps);
    }
}

/// The model is worth something: whatever rule is left out, some history shows why it is there.
#[test]
fn without_any_one_of_the_rules_something_is_lost() {
    /// Decides about an object as if it, or its owner, stood otherwise.
    fn as_if(id: ObjectId, standing: &Standing, change: impl FnOnce(&mut Standing)) -> Verdict {
        let mut standing = *standing;
        change(&mut standing);
        judge(id, &standing)
    }
    let broken: [(&str, Rules); 10] = [
        (
            "what is named stays",
            Rules {
                judge: |id, standing| {
                    as_if(id, standing, |standing| {
                        if standing.naming == Naming::Named {
                            standing.naming = Naming::Unnamed
                        }
                    })
                },
                ..RULES
            },
        ),
        (
            "garbage is not an orphan",
            Rules {
                judge: |id, standing| {
                    as_if(id, standing, |standing| {
                        if standing.naming == Naming::Garbage {
                            standing.naming = Naming::Unnamed
                        }
                    })
                },
                ..RULES
            },
        ),
        ("garbage waits", Rules { delay: Duration::ZERO, ..RULES }),
        ("garbage of this process does not go by a clock", Rules { aged: |_, now| now, ..RULES }),
        ("garbage that is known waits", Rules { known_after: Duration::from_secs(5), ..RULES }),
        (
            "lives that a state has not heard of have not ended",
            Rules {
                judge: |id, standing| {
                    as_if(id, standing, |standing| {
                        if standing.owner == Owner::Unheard {
                            standing.owner = Owner::Ended
                        }
                    })
                },
                ..RULES
            },
        ),
        (
            "objects that may be committed stay",
            Rules {
                judge: |id, standing| {
                    as_if(id, standing, |standing| {
                        if let Owner::Listed { low_water, .. } = &mut standing.owner {
                            *low_water = u64::MAX
                        }
                    })
                },
                ..RULES
            },
        ),
        (
            "slots that recovery will read stay",
            Rules {
                judge: |id, standing| {
                    as_if(id, standing, |standing| {
                        if let Owner::Listed { slots_below, .. } = &mut standing.owner {
                            *slots_below = Some(u64::MAX)
                        }
                    })
                },
                ..RULES
            },
        ),
        (
            "slots of a living writer stay",
            Rules {
                judge: |id, standing| match judge(id, standing) {
                    Verdict::Keep(Alive::WritersOwn) => Verdict::Delete(Dead::BelowTrim),
                    verdict => verdict,
                },
                ..RULES
            },
        ),
        (
            "seals stay",
            Rules {
                judge: |id, standing| match judge(id, standing) {
                    Verdict::DeleteUnlessSeal(dead) => Verdict::Delete(dead),
                    verdict => verdict,
                },
                ..RULES
            },
        ),
    ];
    for (rule, rules) in broken {
        let config = ProptestConfig {
            // The rarest is found in one of some 700.
            cases: 20_000,
            max_shrink_iters: 0,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let found = proptest::test_runner::TestRunner::new(config).run(
            &prop::collection::vec(step(), 1..150),
            |steps| {
                World::run(rules, &steps);
                Ok(())
            },
        );
        assert!(found.is_err(), "nothing depends on the rule that {rule}");
    }
}

/// The bound of one look's work, and the next time at which something is due.
#[test]
fn garbage_falls_due_by_its_age_or_by_what_is_known() {
    let mut log = Log::formatted();
    let by = log.serving(1);
    let topic = log.topic(by, "t", 1);
    let stream = topic.partitions[0].log;
    let objects: Vec<_> = (0..3).map(|n| data(by, n, &[part(stream, n, n + 1)])).collect();
    log.apply(Command::CommitObjects { commit: commit(by, 1, &objects) }).unwrap();
    log.apply(Command::TrimStreams { by, trims: vec![(stream, 1)] }).unwrap();
    let (first, first_ms) = (log.number, log.number as i64 * 1000);
    log.number += 4;
    log.apply(Command::DeleteTopics { by, topics: vec![topic.id] }).unwrap();
    let last = log.number;
    let due = |aged: Option<(u64, i64)>, known| {
        let aged = aged.map(|(state, after_ms)| Aged { state, since_ms_max: first_ms + after_ms });
        let due = log.image.due_garbage(last, &Look { from: None, limit: 9, known, aged });
        (due.objects.len(), due.waiting, due.next_in.map(|wait| wait.as_millis()))
    };
    // By their age, what is as old as the process.
    assert_eq!(due(Some((last, -1)), None), (0, Some(first), Some(1)));
    assert_eq!(due(Some((last, 0)), None), (1, Some(last), Some(5_000)));
    assert_eq!(due(Some((last, 5_000)), None), (3, None, None));
    assert_eq!(due(Some((first, 5_000)), None), (1, Some(last), None));
    assert_eq!(due(Some((first - 1, 5_000)), None), (0, Some(first), None));
    assert_eq!(due(Some((last, i64::MIN / 2)), None).0, 0);
    assert_eq!(due(None, None), (0, Some(first), None));
    // By what is known of them.
    assert_eq!(due(None, Some(first - 1)), (0, Some(first), None));
    assert_eq!(due(None, Some(first)), (1, Some(last), None));
    assert_eq!(due(None, Some(last)), (3, None, None));
    assert_eq!(due(Some((last, -1)), Some(first)), (1, Some(last), Some(5_001)));
    let stretch = |from, limit| {
        let due = log.image.due_garbage(last, &Look { from, limit, known: Some(last), aged: None });
        (due.objects.len(), due.next)
    };
    let third = Some(objects[2].id);
    assert_eq!(stretch(None, 2), (2, third), "there is more");
    assert_eq!(stretch(third, 2), (1, None));
}

/// A recovery that commits in several entries dies after the first, and the topic of what it named is deleted: the next
/// one still comes by that slot.
#[test]
fn a_slot_that_a_recovery_may_still_come_by_is_not_due() {
    let mut log = Log::formatted();
    let of = log.serving(1);
    let topic = log.topic(of, "t", 1);
    let by = log.serving(2);
    log.apply(Command::Fence { by, of }).unwrap();
    let named = slot(of, 0, &[part(topic.partitions[0].log, 0, 1)]);
    let first = commit(of, 0, std::slice::from_ref(&named));
    log.apply(Command::CommitRecovered { by, of, from: Position(0), commit: first, last: false }).unwrap();
    log.apply(Command::DeleteTopics { by, topics: vec![topic.id] }).unwrap();
    let known = Some(log.number);
    let due =
        |log: &Log| log.image.due_garbage(log.number, &Look { from: None, limit: 9, known, aged: None });
    assert_eq!(
        due(&log),
        Due { state: log.number, ..Due::default() },
        "it would pass for the end of the log"
    );
    log.recovered(by, of);
    assert_eq!(due(&log).objects, [named.id]);
}
