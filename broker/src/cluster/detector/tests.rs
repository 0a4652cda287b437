use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const LEASE: Duration = Duration::from_secs(3);

fn life(broker: u32) -> Incarnation {
    Incarnation { broker, epoch: u64::from(broker) }
}

fn beat(broker: u32, suspects: &[u32]) -> Beat {
    Beat {
        from: life(broker),
        number: 100,
        wall_ms: 0,
        ailing: false,
        leaving: false,
        blind: false,
        unreached: false,
        handing: false,
        load: 0,
        suspects: suspects.iter().map(|broker| life(*broker)).collect(),
    }
}

/// Life 1 of a cluster, what the others are made to do, and the time.
struct Bench {
    detector: Detector,
    now: Duration,
    /// Lives that beat, and what they say.
    beating: BTreeMap<u32, Beat>,
    /// Whether their beats answer ours.
    answering: BTreeSet<u32>,
    refusing: BTreeSet<u32>,
    verdicts: Verdicts,
}

impl Bench {
    /// Lives 1 to `lives`, all of which have been heard for long enough.
    fn settled(lives: u32) -> Bench {
        let mut bench = Bench::unheard(lives);
        bench.beating = (2..=lives).map(|broker| (broker, beat(broker, &[]))).collect();
        bench.answering = (2..=lives).collect();
        bench.pass(3_000);
        assert_eq!(bench.verdicts, Verdicts::default());
        bench
    }

    fn unheard(lives: u32) -> Bench {
        let now = Duration::from_secs(1_000);
        let mut detector = Detector::new(Config::default(), life(1), now);
        detector.members(now, (1..=lives).map(|broker| (life(broker), Member { open: true, lease: LEASE })));
        Bench {
            detector,
            now,
            beating: BTreeMap::new(),
            answering: BTreeSet::new(),
            refusing: BTreeSet::new(),
            verdicts: Verdicts::default(),
        }
    }

    /// So many milliseconds, beats every 250 and refusals every 100.
    fn pass(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now += MS;
            let at = self.now.as_millis();
            if at.is_multiple_of(250) {
                for (broker, beat) in &self.beating {
                    self.detector.heard(self.now, beat.clone(), self.answering.contains(broker));
                }
            }
            if at.is_multiple_of(100) {
                self.refusing.iter().for_each(|broker| self.detector.refused(self.now, life(*broker)));
            }
            if at.is_multiple_of(60) {
                self.verdicts = self.detector.tick(self.now);
            }
        }
    }

    fn fall_silent(&mut self, broker: u32) {
        self.beating.remove(&broker);
    }

    fn die(&mut self, broker: u32) {
        self.beating.remove(&broker);
        self.refusing.insert(broker);
    }

    fn says(&mut self, broker: u32, suspects: &[u32]) {
        self.beating.insert(broker, beat(broker, suspects));
    }

    fn of(&self, broker: u32) -> Option<(Why, bool)> {
        self.verdicts.of(life(broker)).map(|verdict| (verdict.why, verdict.dead))
    }
}

#[test]
fn the_defaults_are_valid_and_times_that_contradict_each_other_are_not() {
    assert_eq!(Config::default().validate(), Ok(()));
    for wrong in [
        Config { beat_interval: Duration::ZERO, ..Config::default() },
        Config { beat_interval: Duration::from_secs(1), ..Config::default() },
        Config { patience: Duration::from_secs(1), ..Config::default() },
        Config { minority_patience: Duration::from_secs(9), ..Config::default() },
    ] {
        assert!(wrong.validate().is_err(), "{wrong:?}");
    }
}

#[test]
fn d1_who_is_silent_is_suspected_until_it_is_heard_again() {
    let mut bench = Bench::settled(3);
    bench.fall_silent(2);
    bench.pass(1_240);
    assert_eq!(bench.of(2), None);
    bench.pass(400);
    assert_eq!(bench.of(2), Some((Why::Silent, false)));
    assert_eq!(bench.detector.suspects(), [life(2)]);
    // A beat that nobody asked for is as good as an answer.
    bench.says(2, &[]);
    bench.answering.remove(&2);
    bench.pass(400);
    assert_eq!(bench.of(2), None);
    assert_eq!(bench.detector.suspects(), []);
}

#[test]
fn d2_who_refuses_is_suspected_sooner() {
    let mut bench = Bench::settled(3);
    bench.says(3, &[2]);
    bench.die(2);
    bench.pass(300);
    assert_eq!(bench.of(2), None, "one beat may have been late");
    assert_eq!(bench.verdicts.refusing().collect::<Vec<_>>(), [life(2)]);
    bench.pass(260);
    assert_eq!(bench.of(2), Some((Why::Refused, true)));
    bench.refusing.clear();
    bench.says(2, &[]);
    bench.pass(300);
    assert_eq!(bench.verdicts, Verdicts::default());
}

#[test]
fn d2_who_leaves_or_has_not_opened_does_not_refuse() {
    let mut bench = Bench::settled(3);
    bench.beating.get_mut(&2).unwrap().leaving = true;
    bench.pass(300);
    bench.die(2);
    bench.detector.members(bench.now, [2, 3].map(|at| (life(at), Member { open: at == 2, lease: LEASE })));
    bench.die(3);
    bench.pass(300);
    assert_eq!(bench.verdicts.refusing().collect::<Vec<_>>(), []);
}

#[test]
fn d2_refusals_before_and_after_an_answer_do_not_add_up() {
    let mut bench = Bench::settled(2);
    for _ in 0..5 {
        bench.detector.refused(bench.now, life(2));
        bench.pass(120);
        assert_eq!(bench.of(2), None);
        bench.pass(1_000);
    }
}

#[test]
fn d2_an_address_that_refuses_while_its_life_is_heard_proves_nothing() {
    let mut bench = Bench::settled(2);
    bench.answering.remove(&2);
    bench.refusing.insert(2);
    bench.pass(5_000);
    assert_eq!(bench.of(2), None);
    // Now it is late by a little; nobody but its address has ever refused.
    bench.fall_silent(2);
    bench.pass(1_000);
    assert_eq!(bench.of(2), None);
    assert_eq!(bench.verdicts.refusing().collect::<Vec<_>>(), []);
    bench.pass(1_000);
    assert_eq!(bench.of(2), Some((Why::Silent, true)));
    // Its address is put right: it counts again.
    bench.says(2, &[]);
    bench.refusing.clear();
    bench.answering.insert(2);
    bench.pass(1_000);
    bench.die(2);
    bench.pass(600);
    assert_eq!(bench.of(2), Some((Why::Refused, true)));
}

#[test]
fn d2_the_last_beat_of_a_process_may_come_after_the_first_refusal() {
    let mut bench = Bench::settled(2);
    bench.detector.refused(bench.now, life(2));
    bench.now += 20 * MS;
    bench.detector.heard(bench.now, beat(2, &[]), false);
    bench.die(2);
    bench.pass(700);
    assert_eq!(bench.of(2), Some((Why::Refused, true)));
}

#[test]
fn d3_who_has_not_opened_is_given_time() {
    let mut bench = Bench::settled(2);
    let starting = (life(5), Member { open: false, lease: LEASE });
    let open = |broker| (life(broker), Member { open: true, lease: LEASE });
    bench.detector.members(bench.now, [open(2), starting]);
    bench.says(5, &[]);
    bench.refusing.insert(5);
    bench.pass(20_000);
    assert_eq!(bench.of(5), None, "it beats while its listener is not there yet");
    bench.fall_silent(5);
    bench.says(2, &[5]);
    bench.pass(9_700);
    assert_eq!(bench.of(5), None);
    bench.pass(400);
    assert_eq!(bench.of(5), Some((Why::Silent, true)));
    // The same life, as soon as it has opened.
    bench.says(5, &[]);
    bench.refusing.clear();
    bench.answering.insert(5);
    bench.pass(500);
    bench.detector.members(bench.now, [open(2), open(5)]);
    bench.die(5);
    bench.pass(600);
    assert_eq!(bench.of(5), Some((Why::Refused, true)));
}

#[test]
fn d3_who_leaves_is_given_time() {
    let mut bench = Bench::settled(2);
    bench.beating.insert(2, Beat { leaving: true, ..beat(2, &[]) });
    bench.pass(500);
    bench.die(2);
    bench.pass(9_500);
    assert_eq!(bench.of(2), None);
    bench.pass(600);
    assert_eq!(bench.of(2), Some((Why::Silent, true)));
}

#[test]
fn d3_who_was_never_heard_is_given_time() {
    for refuses in [false, true] {
        let mut bench = Bench::unheard(2);
        bench.refusing.extend(refuses.then_some(2));
        bench.pass(9_800);
        assert_eq!(bench.of(2), None);
        bench.pass(300);
        assert_eq!(bench.of(2), Some((Why::Silent, true)));
    }
}

#[test]
fn d4_a_life_that_one_other_hears_is_not_dead() {
    let mut bench = Bench::settled(4);
    bench.fall_silent(2);
    bench.says(3, &[2]);
    bench.pass(100_000);
    assert_eq!(bench.of(2), Some((Why::Silent, false)), "4 hears it");
    bench.says(4, &[2]);
    bench.pass(400);
    assert_eq!(bench.of(2), Some((Why::Silent, true)));
    bench.says(3, &[]);
    bench.pass(400);
    assert_eq!(bench.of(2), Some((Why::Silent, false)));
    // Who is not heard is not asked.
    bench.fall_silent(3);
    bench.says(4, &[2, 3]);
    bench.pass(31_000);
    assert_eq!(bench.of(2), Some((Why::Silent, true)));
}

#[test]
fn d4_who_cannot_know_is_not_asked() {
    let ignorant = [
        Beat { leaving: true, ..beat(3, &[]) },
        // It has not read of the accused.
        Beat { number: 1, ..beat(3, &[]) },
    ];
    for says in ignorant {
        let mut bench = Bench::settled(3);
        bench.beating.insert(3, says);
        bench.pass(250);
        bench.fall_silent(2);
        bench.pass(1_700);
        assert_eq!(bench.of(2), Some((Why::Silent, true)));
    }
}

#[test]
fn d4_who_has_just_woken_up_is_waited_for_once() {
    let mut bench = Bench::settled(3);
    bench.beating.insert(3, Beat { blind: true, ..beat(3, &[]) });
    bench.die(2);
    bench.pass(1_500);
    assert_eq!(bench.of(2), Some((Why::Refused, false)));
    bench.pass(1_000);
    assert_eq!(bench.of(2), Some((Why::Refused, true)));
}

#[test]
fn d5_who_hears_nobody_accuses_nobody() {
    let mut bench = Bench::settled(3);
    bench.fall_silent(2);
    bench.fall_silent(3);
    bench.pass(30_000);
    assert_eq!(bench.of(2), Some((Why::Silent, false)));
    // Nobody has fenced this life either: the others are really gone.
    bench.pass(2_000);
    assert_eq!((bench.of(2), bench.of(3)), (Some((Why::Silent, true)), Some((Why::Silent, true))));
    // Half of them is not more than half.
    let mut bench = Bench::settled(4);
    bench.fall_silent(3);
    bench.fall_silent(4);
    bench.says(2, &[3, 4]);
    bench.pass(30_000);
    assert_eq!(bench.of(3), Some((Why::Silent, false)));
    // Whoever refuses is reached.
    let mut bench = Bench::settled(3);
    bench.die(2);
    bench.die(3);
    bench.pass(600);
    assert_eq!((bench.of(2), bench.of(3)), (Some((Why::Refused, true)), Some((Why::Refused, true))));
    // But not before it was heard: perhaps it is this life that a firewall keeps in.
    let mut bench = Bench::unheard(3);
    bench.refusing.extend([2, 3]);
    bench.pass(39_000);
    assert_eq!(bench.of(2), Some((Why::Silent, false)));
    bench.pass(2_000);
    assert_eq!(bench.of(2), Some((Why::Silent, true)));
}

#[test]
fn d5_of_two_each_may_accuse() {
    let mut bench = Bench::settled(2);
    bench.fall_silent(2);
    bench.pass(1_700);
    assert_eq!(bench.of(2), Some((Why::Silent, true)));
}

#[test]
fn d6_who_ails_for_longer_than_its_lease_is_dead() {
    let mut bench = Bench::settled(3);
    let ailing = |broker| Beat { ailing: true, ..beat(broker, &[]) };
    bench.beating.insert(2, ailing(2));
    bench.pass(2_900);
    assert_eq!(bench.of(2), Some((Why::Ailing, false)));
    // It is well in between.
    bench.says(2, &[]);
    bench.pass(250);
    assert_eq!(bench.of(2), None);
    bench.beating.insert(2, ailing(2));
    bench.pass(3_000);
    assert_eq!(bench.of(2), Some((Why::Ailing, false)));
    bench.pass(400);
    assert_eq!(bench.of(2), Some((Why::Ailing, true)));
    // It is the store's trouble if others ail too, or this life itself.
    bench.beating.insert(3, ailing(3));
    bench.pass(20_000);
    assert_eq!(bench.of(2), Some((Why::Ailing, false)));
    bench.says(3, &[]);
    bench.pass(250);
    assert_eq!(bench.of(2), Some((Why::Ailing, true)));
    bench.detector.set_ailing(bench.now, true);
    bench.pass(60);
    assert_eq!(bench.of(2), Some((Why::Ailing, false)));
    // Nor does one that ails accuse others.
    bench.die(3);
    bench.beating.insert(2, Beat { ailing: true, ..beat(2, &[3]) });
    bench.pass(60_000);
    assert_eq!(bench.of(3), Some((Why::Refused, false)));
}

#[test]
fn d6_who_ailed_a_moment_ago_accuses_nobody_of_it() {
    let mut bench = Bench::settled(2);
    bench.beating.insert(2, Beat { ailing: true, ..beat(2, &[]) });
    bench.pass(2_000);
    bench.detector.set_ailing(bench.now, true);
    bench.detector.set_ailing(bench.now, false);
    bench.pass(5_900);
    assert_eq!(bench.of(2), Some((Why::Ailing, false)));
    bench.pass(200);
    assert_eq!(bench.of(2), Some((Why::Ailing, true)));
}

/// One answer of the store that is late ends it.
#[test]
fn d6_a_short_lease_makes_nobody_hasty() {
    let mut bench = Bench::settled(3);
    let short = |broker| (life(broker), Member { open: true, lease: Duration::from_secs(1) });
    bench.detector.members(bench.now, [short(2), short(3)]);
    bench.pass(10_000);
    bench.beating.insert(2, Beat { ailing: true, ..beat(2, &[]) });
    bench.pass(4_900);
    assert_eq!(bench.of(2), Some((Why::Ailing, false)));
    bench.pass(500);
    assert_eq!(bench.of(2), Some((Why::Ailing, true)));
}

/// Each answer that takes longer than a second is one.
#[test]
fn d6_hiccups_under_a_short_lease_do_not_keep_a_life_from_accusing() {
    let ailing_for = |moments: u64| {
        let mut bench = Bench::settled(3);
        let short = |broker| (life(broker), Member { open: true, lease: Duration::from_secs(1) });
        bench.detector.members(bench.now, [short(1), short(2), short(3)]);
        bench.beating.insert(2, Beat { ailing: true, ..beat(2, &[]) });
        for _ in 0..6 {
            for _ in 0..moments {
                bench.detector.set_ailing(bench.now, true);
                bench.pass(100);
            }
            bench.detector.set_ailing(bench.now, false);
            bench.pass(4_000);
        }
        bench.of(2)
    };
    assert_eq!(ailing_for(19), Some((Why::Ailing, true)));
    assert_eq!(ailing_for(21), Some((Why::Ailing, false)), "that is no hiccup any more");
}

#[test]
fn d6_of_two_the_one_that_reaches_the_store_may_accuse() {
    let mut bench = Bench::settled(2);
    bench.beating.insert(2, Beat { ailing: true, ..beat(2, &[]) });
    bench.pass(3_600);
    assert_eq!(bench.of(2), Some((Why::Ailing, true)));
}

#[test]
fn d7_after_a_pause_of_its_own_a_life_listens_anew() {
    let mut bench = Bench::settled(2);
    assert!(!bench.detector.is_blind(bench.now));
    bench.refusing.insert(2);
    bench.pass(200);
    // Stopped for a minute.
    bench.now += Duration::from_secs(60);
    bench.refusing.clear();
    bench.fall_silent(2);
    bench.pass(1_400);
    assert!(bench.detector.is_blind(bench.now));
    assert_eq!(bench.of(2), None, "what was not heard meanwhile proves nothing");
    bench.pass(200);
    assert!(!bench.detector.is_blind(bench.now));
    assert_eq!(bench.of(2), Some((Why::Silent, true)));
    // Refusals from before the pause and after it do not make one span.
    let mut bench = Bench::settled(2);
    bench.die(2);
    bench.pass(200);
    bench.now += Duration::from_secs(60);
    bench.pass(300);
    assert_eq!(bench.of(2), None);
    // Nor does what it said of itself before.
    let mut bench = Bench::settled(2);
    bench.beating.insert(2, Beat { ailing: true, ..beat(2, &[]) });
    bench.pass(1_000);
    bench.fall_silent(2);
    bench.now += Duration::from_secs(60);
    bench.pass(1_000);
    assert_eq!(bench.of(2), Some((Why::Ailing, false)));
}

#[test]
fn d8_strangers_and_the_gone_leave_no_trace() {
    let mut bench = Bench::settled(2);
    assert!(!bench.detector.heard(bench.now, beat(9, &[2]), false));
    assert!(!bench.detector.heard(bench.now, beat(1, &[2]), false), "nor this life itself");
    bench.detector.refused(bench.now, life(9));
    bench.pass(60_000);
    assert_eq!((bench.of(9), bench.of(1)), (None, None));
    assert_eq!(bench.detector.peers.len(), 1);
    bench.fall_silent(2);
    bench.pass(2_000);
    assert!(bench.of(2).is_some());
    bench.detector.members(bench.now, []);
    bench.pass(60);
    assert_eq!(bench.verdicts, Verdicts::default());
    // Its next life begins anew.
    let next = Incarnation { broker: 2, epoch: 50 };
    bench.detector.members(bench.now, [(next, Member { open: true, lease: LEASE })]);
    bench.pass(5_000);
    assert_eq!(bench.verdicts, Verdicts::default());
}

/// Several lives that nobody's beats reach, by when they learn of all of them; the newest learns first. Whom each calls dead so
/// many milliseconds after that.
fn deaf(lives: &[(u32, u64)], millis: u64) -> Vec<Vec<u32>> {
    let began = Duration::from_secs(1_000);
    let all = || lives.iter().map(|(broker, _)| (life(*broker), Member { open: true, lease: LEASE }));
    let mut detectors: Vec<_> =
        lives.iter().map(|(broker, _)| Detector::new(Config::default(), life(*broker), began)).collect();
    let mut dead = vec![Vec::new(); lives.len()];
    for passed in 0..=millis {
        let now = began + MS * passed as u32;
        for (at, (detector, (_, learns))) in detectors.iter_mut().zip(lives).enumerate() {
            if passed == *learns {
                detector.members(now, all());
            }
            if passed.is_multiple_of(60) {
                dead[at] = detector.tick(now).dead().map(|(life, _)| life.broker).collect();
            }
        }
    }
    dead
}

#[test]
fn d9_of_two_that_never_heard_each_other_the_elder_accuses_first() {
    for late in [0, 500, 1_000, 5_000] {
        let cut = [(1, late), (2, 0)];
        assert_eq!(deaf(&cut, 9_900), vec![Vec::<u32>::new(); 2]);
        let elder_only = [vec![2], vec![]];
        assert_eq!(deaf(&cut, 10_100 + late), elder_only);
        assert_eq!(deaf(&cut, 19_900), elder_only);
        // If the elder was dead it had accused nobody by now.
        assert_eq!(deaf(&cut, 20_100), [vec![2], vec![1]]);
    }
}

#[test]
fn d9_nor_does_the_newest_of_several_in_corners_accuse_first() {
    let cut = [(1, 1_000), (2, 1_000), (3, 0)];
    assert_eq!(deaf(&cut, 40_000), vec![Vec::<u32>::new(); 3]);
    assert_eq!(deaf(&cut, 41_100), [vec![2, 3], vec![3], vec![]]);
    assert_eq!(deaf(&cut, 51_100), [vec![2, 3], vec![1, 3], vec![1, 2]]);
}

#[test]
fn d10_a_newcomer_that_nobody_heard_gets_nothing_and_an_elder_does() {
    let mut bench = Bench::unheard(2);
    let elder = Incarnation { broker: 3, epoch: 0 };
    let open = |life| (life, Member { open: true, lease: LEASE });
    bench.detector.members(bench.now, [open(life(2)), open(elder)]);
    let untried = |bench: &Bench| bench.detector.untried(bench.now).collect::<Vec<_>>();
    bench.pass(1_400);
    assert_eq!(untried(&bench), [], "its first beat may be on its way");
    bench.pass(200);
    assert_eq!(untried(&bench), [life(2)]);
    assert_eq!(bench.verdicts, Verdicts::default(), "nobody is suspected");
    bench.says(2, &[]);
    bench.pass(300);
    assert_eq!(untried(&bench), []);
    bench.fall_silent(2);
    bench.pass(2_000);
    assert_eq!(untried(&bench), [], "it is suspected");
    assert_eq!(bench.of(2).map(|(why, _)| why), Some(Why::Silent));
}

/// After a power cut of all, where one does not come back.
#[test]
fn d9_a_majority_need_not_wait_for_an_elder() {
    let mut bench = Bench::unheard(1);
    let elder = Incarnation { broker: 2, epoch: 0 };
    let open = Member { open: true, lease: LEASE };
    bench.detector.members(bench.now, [(elder, open), (life(3), open)]);
    let agrees = Beat { suspects: vec![elder], ..beat(3, &[]) };
    bench.beating.insert(3, agrees);
    bench.answering.insert(3);
    bench.pass(9_900);
    assert_eq!(bench.verdicts.of(elder), None);
    bench.pass(200);
    assert_eq!(bench.verdicts.of(elder), Some(Verdict { why: Why::Silent, dead: true }));
}

/// Who was heard once is known to have been there, and to be gone.
#[test]
fn d9_an_elder_that_was_heard_has_no_head_start() {
    let mut bench = Bench::unheard(1);
    let elder = Incarnation { broker: 2, epoch: 0 };
    bench.detector.members(bench.now, [(elder, Member { open: true, lease: LEASE })]);
    bench.detector.heard(bench.now, Beat { from: elder, ..beat(2, &[]) }, true);
    bench.pass(1_600);
    assert_eq!(bench.verdicts.of(elder), Some(Verdict { why: Why::Silent, dead: true }));
}

/// A whole cluster of detectors.
struct Cluster {
    lives: Vec<Detector>,
    faults: Vec<Fault>,
    now: u64,
    verdicts: Vec<Verdicts>,
    /// By sender and receiver: when the next beat is due to arrive.
    arrivals: BTreeMap<(usize, usize), u64>,
    /// The most that a beat is late, milliseconds, and where the randomness comes from.
    jitter: u64,
    random: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Its process is gone, its address refuses.
    Killed,
    /// It does nothing, its address is silent.
    Stopped,
    /// It runs, and nothing comes in or goes out.
    Isolated,
}

impl Cluster {
    fn new(lives: usize, jitter: u64, seed: u64) -> Cluster {
        let member = Member { open: true, lease: LEASE };
        let all = || (0..lives).map(|index| (life(index as u32), member));
        let detectors = (0..lives).map(|index| {
            let mut detector = Detector::new(Config::default(), life(index as u32), Duration::ZERO);
            detector.members(Duration::ZERO, all());
            detector
        });
        Cluster {
            lives: detectors.collect(),
            faults: vec![Fault::None; lives],
            now: 0,
            verdicts: vec![Verdicts::default(); lives],
            arrivals: BTreeMap::new(),
            jitter,
            random: seed | 1,
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below.max(1)
    }

    fn pass(&mut self, millis: u64) {
        for _ in 0..millis / 10 {
            self.now += 10;
            self.step();
        }
    }

    fn step(&mut self) {
        let now = MS * self.now as u32;
        for from in 0..self.lives.len() {
            for to in 0..self.lives.len() {
                if from == to || self.faults[to] != Fault::None {
                    continue;
                }
                if self.faults[from] == Fault::Killed && self.now.is_multiple_of(100) {
                    self.lives[to].refused(now, life(from as u32));
                }
                if self.faults[from] == Fault::None {
                    let due = self.arrivals.get(&(from, to)).copied().unwrap_or(0);
                    if self.now >= due {
                        let said = Beat {
                            from: life(from as u32),
                            number: 100,
                            blind: self.lives[from].is_blind(now),
                            suspects: self.lives[from].suspects(),
                            ..beat(0, &[])
                        };
                        self.lives[to].heard(now, said, true);
                        let next = self.now + 250 + self.random(self.jitter);
                        self.arrivals.insert((from, to), next);
                    }
                }
            }
        }
        for index in 0..self.lives.len() {
            // Not all at the same moment.
            if !matches!(self.faults[index], Fault::Killed | Fault::Stopped)
                && (self.now + 10 * index as u64).is_multiple_of(60)
            {
                self.verdicts[index] = self.lives[index].tick(now);
            }
        }
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![Just(Fault::Killed), Just(Fault::Stopped), Just(Fault::Isolated)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Beats that are late by less than the silence allows, and pauses of whoever listens, make nobody dead.
    #[test]
    fn nobody_who_is_well_is_called_dead(
        lives in 2usize..7,
        jitter in 0u64..1_000,
        seed in any::<u64>(),
        pauses in proptest::collection::vec((any::<prop::sample::Index>(), 500u64..1_100), 0..5),
    ) {
        let mut cluster = Cluster::new(lives, jitter, seed);
        cluster.pass(3_000);
        for (who, millis) in pauses {
            let who = who.index(lives);
            cluster.faults[who] = Fault::Stopped;
            cluster.pass((millis - jitter.min(millis - 100)).min(1_000 - jitter));
            cluster.faults[who] = Fault::None;
            for _ in 0..300 {
                cluster.pass(10);
                for verdicts in &cluster.verdicts {
                    prop_assert_eq!(verdicts.dead().count(), 0, "{:?}", verdicts);
                }
            }
        }
    }

    /// Whoever has failed is dead, within the bound, to all that are well, if they are more than half or one of two;
    /// and nobody else is. Who is cut off calls nobody dead while a majority may be there.
    #[test]
    fn whoever_fails_is_dead_within_the_bound(
        lives in 2usize..8,
        jitter in 0u64..200,
        seed in any::<u64>(),
        failing in proptest::collection::vec((any::<prop::sample::Index>(), fault()), 1..4),
    ) {
        let mut cluster = Cluster::new(lives, jitter, seed);
        cluster.pass(3_000);
        let mut kinds = BTreeMap::new();
        for (who, fault) in failing {
            let who = who.index(lives);
            if kinds.len() * 2 + 2 < lives || kinds.is_empty() {
                kinds.insert(who, fault);
                cluster.faults[who] = fault;
            }
        }
        // Silence or refusal; a beat with the news, late; a tick on either side.
        let all_killed = kinds.values().all(|fault| *fault == Fault::Killed);
        let bound = if all_killed { 375 + 100 } else { 1_500 } + 250 + jitter + 2 * 60 + 50;
        cluster.pass(bound);
        for observer in 0..lives {
            let dead: Vec<_> = cluster.verdicts[observer].dead().map(|(life, _)| life.broker as usize).collect();
            match cluster.faults[observer] {
                Fault::None => prop_assert_eq!(&dead, &kinds.keys().copied().collect::<Vec<_>>(), "{}", observer),
                Fault::Isolated if lives > 2 => prop_assert!(dead.is_empty(), "{} {:?}", observer, dead),
                _ => {}
            }
        }
    }
}
