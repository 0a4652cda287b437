//! F1 to F4: the caretaker by itself, and the fail-over of brokers that share a directory as their store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use s3stream::StreamId;
use s3stream::record::{KIND_DATA, RecordMeta};
use tokio::sync::watch;
use wal::{AckRight, Incarnation, Medium, Position, Record, Vacated, Wal};

use super::caretaker::{Action, Caretaker};
use super::recovery::{Recovered, Recoverer};
use super::{Config, Failover};
use crate::cluster::{Verdict, Verdicts, Why};
use crate::media::{Judged, LastWriter, Media, Ours, check_ours};
use crate::metadata::apply::At;
use crate::metadata::command::{Command, FORMAT_VERSION, Registration};
use crate::metadata::image::{Image, Listener, lease_and_margin};
use crate::metadata::{Metadata, Registering, TopicSpec, cluster_id};
use crate::options::{Options, arguments, gather};
use crate::store::{self, Stores};

const SECOND: Duration = Duration::from_secs(1);
const DEAD: Verdict = Verdict { why: Why::Silent, dead: true };
const SUSPECTED: Verdict = Verdict { why: Why::Silent, dead: false };

/// A history of a cluster, without a log.
pub(crate) struct History {
    pub(crate) image: Image,
    number: u64,
}

impl History {
    /// Brokers 1 to `brokers`, each on a machine of its own, all of which serve.
    pub(crate) fn serving(brokers: u32, wal: &str) -> (History, Vec<Incarnation>) {
        let mut history = History { image: Image::empty(), number: 0 };
        history.apply(Command::Format { cluster_id: "a cluster".into(), format: FORMAT_VERSION });
        let mut lives = Vec::new();
        for broker in 1..=brokers {
            let by = history.register(broker, wal, None);
            history.apply(Command::OpenLeaderships { by });
            lives.push(by);
        }
        (history, lives)
    }

    fn register(&mut self, broker: u32, wal: &str, replaces: Option<u64>) -> Incarnation {
        self.apply(Command::RegisterBroker(Registration {
            broker,
            wal_uri: wal.into(),
            lease_ms: 3_000,
            listener: Listener { host: "a host".into(), port: 9092 },
            rack: None,
            machine: format!("machine {broker}").into(),
            replaces,
            claim: None,
        }));
        Incarnation { broker, epoch: self.number }
    }

    pub(crate) fn apply(&mut self, command: Command) {
        self.number += 1;
        self.image.apply(At { number: self.number, time_ms: 0 }, &command).unwrap();
    }
}

fn caretaker(own: Incarnation) -> Caretaker {
    Caretaker::new(Config::default(), own, format!("machine {}", own.broker), None)
}

/// When each of the living begins with `of`, if nobody else does anything.
fn begins(history: &History, living: &[Incarnation], of: Incarnation, verdicts: &Verdicts) -> Vec<Duration> {
    let mut begins = Vec::new();
    for own in living {
        let mut caretaker = caretaker(*own);
        let mut now = Duration::ZERO;
        loop {
            let actions = caretaker.look(now, &history.image, verdicts);
            if actions.iter().any(|action| matches!(action, Action::Fence { of: it, .. } | Action::Recover { of: it, .. } if *it == of)) {
                break begins.push(now);
            }
            now = caretaker.due().expect("its turn comes");
        }
    }
    begins.sort();
    begins
}

#[test]
fn brokers_take_turns_and_each_has_one() {
    let (mut history, lives) = History::serving(4, "object:");
    let (of, living) = (lives[0], &lives[1..]);
    let verdicts = Verdicts::default().with(of, DEAD);
    let Config { fence_patience, recovery_patience, .. } = Config::default();
    let turns = |patience: Duration| (0..3).map(|rank| patience * rank).collect::<Vec<_>>();
    assert_eq!(begins(&history, living, of, &verdicts), turns(fence_patience));
    history.apply(Command::Fence { by: living[0], of });
    assert_eq!(begins(&history, living, of, &verdicts), turns(recovery_patience));

    // Who is suspected, or about to leave, is not waited for.
    history.apply(Command::SetDraining { by: living[0], broker: living[1].broker, draining: true });
    let both = verdicts.with(living[0], SUSPECTED);
    assert_eq!(begins(&history, &living[2..], of, &both), [Duration::ZERO]);
}

/// C5.
#[test]
fn who_refuses_and_has_a_volume_is_challenged_once_by_the_first_in_rank() {
    let (mut history, lives) = History::serving(4, "block:///dev/volume");
    let (of, living) = (lives[0], &lives[1..]);
    let none = Verdicts::default();
    let refusing = none.clone().with_refusing(of);
    let mut caretakers: Vec<Caretaker> = living.iter().map(|own| caretaker(*own)).collect();
    let mut ask = |second: u32, history: &History, verdicts: &Verdicts| -> usize {
        let now = second * SECOND;
        let asked =
            caretakers.iter_mut().map(|caretaker| caretaker.challenges(now, &history.image, verdicts));
        let asked: Vec<Action> = asked.flatten().collect();
        assert!(asked.iter().all(|action| *action == Action::Challenge { of }), "{asked:?}");
        asked.len()
    };
    assert_eq!(ask(0, &history, &none), 0);
    assert_eq!(ask(1, &history, &refusing), 1);
    assert_eq!(ask(2, &history, &refusing), 0, "once");
    history.apply(Command::Challenge { by: living[0], of });
    history.apply(Command::Answer { by: of });
    assert_eq!(ask(3, &history, &refusing), 0, "though it has answered");
    for second in 4..30 {
        let verdicts = if second % 9 == 0 { &refusing } else { &none };
        assert_eq!(ask(second, &history, verdicts), 0, "it comes and goes");
    }
    assert_eq!(ask(37, &history, &refusing), 0, "it was well for nine seconds");
    assert_eq!(ask(70, &history, &refusing), 0, "and not at all since");
    assert_eq!(ask(71, &history, &none), 0);
    assert_eq!(ask(81, &history, &refusing), 1, "it refuses again");
    assert_eq!(ask(82, &history, &none), 0);
    history.apply(Command::Fence { by: living[0], of });
    assert_eq!(ask(100, &history, &refusing), 0, "there is nothing to save any more");

    let (history, lives) = History::serving(2, "object:");
    let refusing = none.with_refusing(lives[0]);
    assert_eq!(
        caretaker(lives[1]).challenges(SECOND, &history.image, &refusing),
        [],
        "it has no lease to wait out"
    );
}

/// F2: a lease counts from the challenge that stood when the fence came, and from no other.
#[test]
fn a_lease_counts_from_the_challenge_that_was_never_answered() {
    let (mut history, lives) = History::serving(2, "block:///dev/volume");
    let (of, own) = (lives[0], lives[1]);
    let none = Verdicts::default();
    let mut late = caretaker(own);
    let mut caretaker = caretaker(own);
    let mut at = |history: &History, second: u32| caretaker.look(second * SECOND, &history.image, &none);
    let from = |second: u32| [Action::Recover { of, lease_from: second * SECOND, until: None }];
    history.apply(Command::Challenge { by: own, of });
    assert_eq!(at(&history, 1), []);
    history.apply(Command::Answer { by: of });
    assert_eq!(at(&history, 2), []);
    let mut other = History { image: history.image.clone(), number: history.number };
    history.apply(Command::Challenge { by: own, of });
    assert_eq!(at(&history, 3), []);
    assert_eq!(at(&history, 4), []);
    history.apply(Command::Fence { by: own, of });
    assert_eq!(at(&history, 5), from(3));
    // Who sees all of it at once knows of nothing earlier.
    assert_eq!(late.look(9 * SECOND, &history.image, &none), from(9));

    // Answered, and challenged again while nobody looked.
    let mut caretaker = super::tests::caretaker(own);
    let mut at = |history: &History, second: u32| caretaker.look(second * SECOND, &history.image, &none);
    other.apply(Command::Challenge { by: own, of });
    assert_eq!(at(&other, 1), []);
    other.apply(Command::Answer { by: of });
    other.apply(Command::Challenge { by: own, of });
    other.apply(Command::Fence { by: own, of });
    assert_eq!(at(&other, 7), from(7));
}

/// The dead are spread over the living.
#[test]
fn several_dead_are_several_brokers_work() {
    let (mut history, lives) = History::serving(40, "object:");
    let (dead, living) = lives.split_at(20);
    for of in dead {
        history.apply(Command::Fence { by: living[0], of: *of });
    }
    let mut first = std::collections::BTreeMap::<Incarnation, usize>::new();
    for own in living {
        let actions = caretaker(*own).look(Duration::ZERO, &history.image, &Verdicts::default());
        first.insert(*own, actions.len());
    }
    assert_eq!(first.values().sum::<usize>(), 20, "one each: {first:?}");
    assert!(first.values().all(|count| *count <= 5), "{first:?}");
}

/// A file is best recovered where it is.
#[test]
fn a_dead_brokers_volume_is_its_machines_first() {
    let (mut history, lives) = History::serving(5, "block:///wal");
    let of = lives[0];
    history.apply(Command::Fence { by: lives[1], of });
    for own in &lives[1..] {
        let mut there = Caretaker::new(Config::default(), *own, "machine 1".to_owned(), None);
        let actions = there.look(Duration::ZERO, &history.image, &Verdicts::default());
        assert_eq!(actions, [Action::Recover { of, lease_from: Duration::ZERO, until: None }]);
    }
}

/// Brokers whose command that attaches volumes may take two minutes.
struct Attaching {
    history: History,
    of: Incarnation,
    living: Vec<Incarnation>,
}

/// A broker's command ran, from when until when.
type Ran = (Duration, Duration, Incarnation);

impl Attaching {
    const TIMEOUT: Duration = Duration::from_secs(120);
    /// With the default patience.
    const TURN: Duration = Duration::from_secs(125);

    /// One of four is fenced.
    fn new() -> Attaching {
        let (mut history, mut living) = History::serving(4, "block:///dev/wal");
        let of = living.remove(0);
        history.apply(Command::Fence { by: living[0], of });
        let mut attaching = Attaching { history, of, living };
        // In rank.
        let begins = |own: &Incarnation| attaching.begins(&mut attaching.broker(*own), Duration::ZERO).0;
        let mut ranked = attaching.living.clone();
        ranked.sort_by_key(begins);
        attaching.living = ranked;
        attaching
    }

    fn broker(&self, own: Incarnation) -> Caretaker {
        let machine = format!("machine {}", own.broker);
        Caretaker::new(Config::default(), own, machine, Some(Self::TIMEOUT))
    }

    /// When it begins, and by when its command has to end.
    fn begins(&self, broker: &mut Caretaker, mut now: Duration) -> (Duration, Option<Duration>) {
        loop {
            match broker.look(now, &self.history.image, &Verdicts::default())[..] {
                [] => now = broker.due().expect("its turn comes").max(now),
                [Action::Recover { until, .. }] => return (now, until),
                ref other => panic!("{other:?}"),
            }
        }
    }

    /// What all do meanwhile, where each command takes so long, if it may, and fails.
    fn run(&self, takes: Duration, until: Duration) -> Vec<Ran> {
        let mut ran = Vec::new();
        for own in &self.living {
            let (mut broker, mut now) = (self.broker(*own), Duration::ZERO);
            while now < until {
                let (began, limit) = self.begins(&mut broker, now);
                now = (began + takes).min(limit.expect("the others have turns too"));
                ran.push((began, now, *own));
                broker.recovery_ended(now, self.of);
            }
        }
        ran.sort();
        ran
    }

    /// Somebody commits a part of what was left.
    fn commit(&mut self, by: Incarnation, to: u64) {
        let from = self.history.image.life(self.of).unwrap().trim;
        let commit =
            s3stream::metadata::Commit { owner: self.of, objects: Vec::new(), wal_trim: Position(to) };
        self.history.apply(Command::CommitRecovered { by, of: self.of, from, commit, last: false });
    }
}

/// C2: where a command takes volumes from one broker to another, one of them at a time does.
#[test]
fn whoever_attaches_volumes_keeps_to_its_turn() {
    let attaching = Attaching::new();
    let patience = Config::default().recovery_patience;
    for takes in [SECOND, 30 * SECOND, 61 * SECOND, 119 * SECOND] {
        let ran = attaching.run(takes, 1_500 * SECOND);
        for pair in ran.windows(2) {
            let [(_, ended, one), (began, _, next)] = pair else { unreachable!() };
            assert!(one == next || *began >= *ended + patience, "{takes:?}: {pair:?}");
        }
        let mut turns: Vec<Incarnation> = ran.iter().map(|(_, _, own)| *own).collect();
        turns.dedup();
        let expected: Vec<_> = attaching.living.iter().cycle().take(turns.len()).copied().collect();
        assert!(turns.len() >= 12, "{takes:?}: {turns:?}");
        assert_eq!(turns, expected, "{takes:?}");
        // Each turn is long enough for a command that takes its time.
        let first = ran.iter().find(|(_, _, own)| *own == attaching.living[1]).unwrap();
        assert_eq!(first.0, Attaching::TURN);
        assert_eq!(first.1, Attaching::TURN + takes);
    }
    // Nobody waits for the dead, and nobody who is alone for a turn.
    let dead = attaching.living[1..].iter();
    let dead = dead.fold(Verdicts::default(), |verdicts, life| verdicts.with(*life, DEAD));
    let mut alone = attaching.broker(attaching.living[0]);
    let recovers = |alone: &mut Caretaker, at: Duration| {
        let actions = alone.look(at, &attaching.history.image, &dead);
        actions.iter().any(|action| matches!(action, Action::Recover { until: None, .. }))
    };
    assert!(recovers(&mut alone, 100 * SECOND));
    alone.recovery_ended(200 * SECOND, attaching.of);
    assert!(recovers(&mut alone, 201 * SECOND));
}

/// C2: whoever has the volume is left alone while it reads it, whatever its rank, and may try again.
#[test]
fn a_trim_point_that_moves_gives_whoever_moved_it_a_turn() {
    let mut attaching = Attaching::new();
    let [first, second] = [0, 1].map(|rank| attaching.living[rank]);
    let (mut waits, mut reads) = (attaching.broker(first), attaching.broker(second));
    let none = Verdicts::default();
    // The first one's command failed, and it is the second one's turn.
    let (began, _) = attaching.begins(&mut waits, Duration::ZERO);
    waits.recovery_ended(began, attaching.of);
    waits.look(began, &attaching.history.image, &none);
    let (began, _) = attaching.begins(&mut reads, Duration::ZERO);
    let moved = began + 10 * SECOND;
    waits.look(moved - SECOND, &attaching.history.image, &none);
    attaching.commit(second, 100);
    assert!(waits.look(moved, &attaching.history.image, &none).is_empty());
    assert!(reads.look(moved, &attaching.history.image, &none).is_empty(), "it is under way");
    reads.recovery_ended(moved + SECOND, attaching.of);
    let (again, until) = attaching.begins(&mut reads, moved + SECOND);
    assert!(again < moved + 3 * SECOND, "{again:?}");
    assert_eq!(until, Some(moved + Attaching::TIMEOUT));
    assert_eq!(attaching.begins(&mut waits, moved).0, moved + Attaching::TURN);
    // Once its turn is over it is like the others.
    reads.recovery_ended(moved + 100 * SECOND, attaching.of);
    assert_eq!(attaching.begins(&mut reads, moved + 101 * SECOND).0, moved + 2 * Attaching::TURN);
}

/// C2: a broker that crashed and is back recovers its log from its own volume, which nobody takes away from it.
#[test]
fn a_volume_is_its_own_brokers_first_when_that_is_back() {
    let (mut history, lives) = History::serving(3, "block:///dev/wal");
    let of = lives[0];
    let back = history.register(1, "block:///dev/wal", Some(of.epoch));
    let mut attaching = Attaching { history, of, living: lives[1..].to_vec() };
    let all = |attaching: &Attaching| {
        let begin = |own: &Incarnation| attaching.begins(&mut attaching.broker(*own), Duration::ZERO).0;
        let mut begins: Vec<Duration> = attaching.living.iter().map(begin).collect();
        begins.sort();
        begins
    };
    assert_eq!(all(&attaching), [Attaching::TURN, 2 * Attaching::TURN]);
    // A start that failed is over.
    attaching.history.apply(Command::CloseBroker { by: back });
    assert_eq!(all(&attaching), [Duration::ZERO, Attaching::TURN]);
}

/// F1: on nothing but a verdict of death, not twice, and not by who is fenced itself.
#[test]
fn only_the_dead_are_fenced_and_only_by_the_living() {
    let (mut history, lives) = History::serving(2, "object:");
    let (of, own) = (lives[0], lives[1]);
    let mut caretaker = caretaker(own);
    let look = |caretaker: &mut Caretaker, history: &History, verdicts: &Verdicts| {
        caretaker.look(Duration::ZERO, &history.image, verdicts)
    };
    assert_eq!(look(&mut caretaker, &history, &Verdicts::default()), []);
    assert_eq!(look(&mut caretaker, &history, &Verdicts::default().with(of, SUSPECTED)), []);
    let dead = Verdicts::default().with(of, DEAD);
    assert_eq!(look(&mut caretaker, &history, &dead), [Action::Fence { of, why: Why::Silent }]);
    assert_eq!(look(&mut caretaker, &history, &dead), [], "it is under way");
    caretaker.fence_ended(Duration::ZERO, of);
    assert_eq!(look(&mut caretaker, &history, &dead), [], "after a pause");
    let later = caretaker.due().unwrap();
    assert_eq!(caretaker.look(later, &history.image, &dead), [Action::Fence { of, why: Why::Silent }]);
    history.apply(Command::Fence { by: of, of: own });
    let mut anew = super::tests::caretaker(own);
    assert_eq!(anew.look(SECOND, &history.image, &dead), [], "it is fenced itself");
}

/// C4.
#[test]
fn the_first_in_rank_read_ahead_once() {
    let (mut history, lives) = History::serving(10, "object:");
    let (of, from) = (lives[0], Position(0));
    let dead = Verdicts::default().with(of, DEAD);
    let mut caretakers: Vec<_> = lives[1..].iter().map(|own| caretaker(*own)).collect();
    let mut ahead = |history: &History, verdicts: &Verdicts| {
        let begun = caretakers.iter_mut().flat_map(|caretaker| caretaker.ahead(&history.image, verdicts));
        begun.collect::<Vec<_>>()
    };
    assert_eq!(ahead(&history, &Verdicts::default().with(of, SUSPECTED)), []);
    assert_eq!(ahead(&history, &dead), [(of, from); 4]);
    assert_eq!(ahead(&history, &dead), [], "once");
    assert_eq!(ahead(&history, &Verdicts::default()), []);
    let refusing = Verdicts::default().with_refusing(of);
    assert_eq!(ahead(&history, &refusing), [(of, from); 4], "it was well in between");
    assert_eq!(ahead(&history, &dead), [], "once");
    history.apply(Command::Fence { by: lives[1], of });
    assert_eq!(ahead(&history, &Verdicts::default()), [], "it is the same life");
    history.apply(Command::Fence { by: lives[1], of: lives[2] });
    assert_eq!(ahead(&history, &Verdicts::default()).len(), 4, "a fence is reason enough");

    let (history, lives) = History::serving(2, "block:///wal");
    let dead = Verdicts::default().with(lives[0], DEAD);
    assert_eq!(caretaker(lives[1]).ahead(&history.image, &dead), [], "a volume may not be read yet");
}

/// F3, F4.
#[test]
fn recoveries_are_bounded_and_tried_again_until_the_life_is_forgotten() {
    let (mut history, lives) = History::serving(7, "object:");
    let own = lives[6];
    for of in &lives[..6] {
        history.apply(Command::Fence { by: own, of: *of });
    }
    let none = Verdicts::default();
    let mut caretaker = caretaker(own);
    let recovers = |actions: Vec<Action>| -> Vec<Incarnation> {
        let of = |action: &Action| match action {
            Action::Recover { of, .. } => *of,
            other => panic!("{other:?}"),
        };
        actions.iter().map(of).collect()
    };
    assert_eq!(recovers(caretaker.look(Duration::ZERO, &history.image, &none)), lives[..4]);
    caretaker.recovery_ended(SECOND, lives[0]);
    assert_eq!(
        recovers(caretaker.look(SECOND, &history.image, &none)),
        lives[4..5],
        "whoever waited is next"
    );
    assert_eq!(
        recovers(caretaker.look(2 * SECOND, &history.image, &none)),
        [],
        "as many as may be at a time"
    );
    // One that another broker completes is nobody's business any more.
    let mut begun = 5;
    for (at, of) in lives[..6].iter().enumerate() {
        let from = history.image.life(*of).unwrap().trim;
        let commit = s3stream::metadata::Commit { owner: *of, objects: Vec::new(), wal_trim: from };
        history.apply(Command::CommitRecovered { by: own, of: *of, from, commit, last: true });
        caretaker.recovery_ended(3 * SECOND, *of);
        begun += caretaker.look(10 * SECOND, &history.image, &none).len();
        assert_eq!(caretaker.counts_from(*of), None, "{at}");
    }
    assert!((6..=7).contains(&begun), "{begun}");

    // Pauses grow.
    let (mut history, lives) = History::serving(2, "object:");
    history.apply(Command::Fence { by: lives[1], of: lives[0] });
    let mut caretaker = super::tests::caretaker(lives[1]);
    let mut now = Duration::ZERO;
    let mut pauses = Vec::new();
    for _ in 0..9 {
        assert_eq!(recovers(caretaker.look(now, &history.image, &none)), lives[..1]);
        caretaker.recovery_ended(now, lives[0]);
        caretaker.look(now, &history.image, &none);
        let due = caretaker.due().unwrap();
        pauses.push((due - now).as_millis());
        now = due;
    }
    assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
}

/// A cluster in a directory.
struct Cluster {
    directory: tempfile::TempDir,
    stores: Arc<Stores>,
}

/// One of its brokers, as far as fail-over goes.
struct Member {
    metadata: Arc<Metadata>,
    media: Arc<Media>,
    life: Incarnation,
    ours: Ours,
    wal: Arc<dyn Wal>,
}

impl Cluster {
    fn new() -> Cluster {
        // Beside the build: a file system with direct I/O.
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/../target").unwrap();
        let options = options(directory.path(), "object", &[]);
        let stores = Arc::new(store::open(options.store, &options.access).unwrap());
        Cluster { directory, stores }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// A broker that serves; its log is `object`, or a file.
    async fn member(&self, id: u32, wal: &str, machine: &str) -> Member {
        self.member_with(id, wal, machine, &[]).await
    }

    fn options(&self, wal: &str, more: &[&str]) -> Options {
        let wal = match wal {
            "object" => wal.to_owned(),
            device if device.starts_with("/dev/") => format!("block://{device}"),
            file => format!("block://{}?capacity=2MiB", self.path(file).display()),
        };
        options(self.directory.path(), &wal, more)
    }

    async fn member_with(&self, id: u32, wal: &str, machine: &str, more: &[&str]) -> Member {
        let (recoverer, ours) = self.starting(id, wal, machine, more).await;
        let Recoverer { metadata, media, by: life, .. } = recoverer;
        let right = Arc::new(AckRight::unlimited());
        let wal = ours.medium.open(life, Vacated::nothing_left(), right).await.unwrap();
        metadata.open_leaderships().await.unwrap();
        Member { metadata, media, life, ours, wal }
    }

    /// One that has registered.
    async fn starting(&self, id: u32, wal: &str, machine: &str, more: &[&str]) -> (Recoverer, Ours) {
        self.starting_as(self.options(wal, more), id, machine).await
    }

    async fn starting_as(&self, options: Options, id: u32, machine: &str) -> (Recoverer, Ours) {
        let metadata =
            Metadata::open(self.stores.metadata.clone(), options.bounds.metadata.clone()).await.unwrap();
        let cluster = cluster_id::parse(&metadata.cluster_id()).unwrap();
        let media = Arc::new(Media::new(&options, cluster, self.stores.clone(), machine.to_owned()));
        let ours = media.ours().unwrap();
        let judged = check_ours(&media, &ours, &metadata.image(), id, false).unwrap();
        let registering = Registering {
            id,
            wal: ours.medium.uri(),
            listener: Listener { host: "a host".into(), port: id as u16 },
            rack: None,
            machine,
            replaces: metadata.image().last_registration(id),
            claim: judged.claim,
        };
        let by = metadata.register(registering).await.unwrap().incarnation;
        (Recoverer { metadata, media, engine: s3stream::Config::default(), by }, ours)
    }
}

fn options(directory: &Path, wal: &str, more: &[&str]) -> Options {
    let mut given = vec![
        "serve".to_owned(),
        format!("--store=file:{}", directory.join("store").display()),
        format!("--wal={wal}"),
        "--block-wal-zeroing-time=0ms".to_owned(),
    ];
    given.extend(more.iter().map(|option| (*option).to_owned()));
    let matches = clap::Command::new("serve").args(arguments()).get_matches_from(given);
    Options::from_values(&gather(&matches, []).unwrap()).unwrap()
}

impl Member {
    fn recoverer(&self) -> Recoverer {
        Recoverer {
            metadata: self.metadata.clone(),
            media: self.media.clone(),
            engine: s3stream::Config::default(),
            by: self.life,
        }
    }

    fn fail_over(&self) -> (Failover, watch::Sender<Arc<Verdicts>>) {
        let (sender, verdicts) = watch::channel(Arc::default());
        (Failover::start(Config::default(), self.recoverer(), verdicts, None), sender)
    }

    async fn append(&self, stream: StreamId, base: u64) {
        let meta = RecordMeta { stream, stream_epoch: 0, base, end: base + 1, max_timestamp: 1 };
        let body = Bytes::from(vec![base as u8; 100]);
        let append = self.wal.append(Record { kind: KIND_DATA, meta: meta.encode(), body }).unwrap();
        append.await.unwrap();
    }

    /// The log of partition 0 of a new topic that this broker leads, with records 0 to `count` acknowledged.
    async fn write(&self, count: u64) -> StreamId {
        let spec = TopicSpec {
            name: "t".into(),
            partitions: 1,
            configs: Vec::new(),
            leaders: vec![self.life.broker],
        };
        let topic = self.metadata.create_topics(vec![spec]).await.remove(0).unwrap();
        let stream = topic.partitions[0].log;
        for base in 0..count {
            self.append(stream, base).await;
        }
        stream
    }

    /// Waits until the life `of` is forgotten, and gives who leads the only partition, and where its log ends.
    async fn outcome(&self, of: Incarnation, stream: StreamId) -> (Option<u32>, u64) {
        let mut changed = self.metadata.changed();
        loop {
            let image = self.metadata.image();
            if image.life(of).is_none() {
                let topic = image.topic_named("t").unwrap();
                return (image.leader(&topic.partitions[0]), image.stream(stream).unwrap().committed_end);
            }
            changed.changed().await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_a_dead_broker_left_is_recovered_and_led_by_another() {
    for (wal, left_open) in [("object", true), ("one.wal", false)] {
        let cluster = Cluster::new();
        let dead = cluster.member(1, wal, "here").await;
        let (of, stream) = (dead.life, dead.write(20).await);
        let heir = cluster.member(2, "object", "here").await;
        assert_eq!(
            heir.metadata.image().leader(&heir.metadata.image().topic_named("t").unwrap().partitions[0]),
            Some(1)
        );
        let (failover, verdicts) = heir.fail_over();
        let dead = if left_open {
            // A zombie's epochs are enough.
            Some(dead)
        } else {
            dead.metadata.close(false).await.unwrap();
            let Member { wal, ours, .. } = dead;
            drop((wal, ours));
            None
        };
        verdicts.send_replace(Arc::new(Verdicts::default().with(of, DEAD)));
        assert_eq!(heir.outcome(of, stream).await, (Some(2), 20), "{wal}");
        if let Some(zombie) = dead {
            let refused = zombie.metadata.allocate_producer_ids(1).await;
            assert!(matches!(refused, Err(crate::metadata::Error::Fenced(_))), "{refused:?}");
        }
        failover.shutdown().await;
        heir.metadata.close(false).await.unwrap();
    }
}

/// F2: the recovery of what somebody may still write to is not complete before its lease is over. Time is tokio's, and jumps ahead where nothing
/// else is to be done.
#[tokio::test(start_paused = true)]
async fn a_volume_that_is_still_held_is_recovered_only_after_the_lease() {
    let cluster = Cluster::new();
    let dead = cluster.member(1, "one.wal", "here").await;
    let (of, stream) = (dead.life, dead.write(20).await);
    let heir = cluster.member(2, "object", "here").await;
    let (failover, verdicts) = heir.fail_over();
    let fenced = tokio::time::Instant::now();
    verdicts.send_replace(Arc::new(Verdicts::default().with(of, DEAD)));
    assert_eq!(heir.outcome(of, stream).await, (Some(2), 20));
    let lease = Duration::from_secs(3);
    assert!(fenced.elapsed() >= lease_and_margin(lease), "after {:?}", fenced.elapsed());
    failover.shutdown().await;
    drop(dead);
}

/// F6: what is whole is committed while the lease runs, and what is acknowledged meanwhile is found behind it.
#[tokio::test]
async fn what_is_whole_is_recovered_while_the_lease_runs() {
    let cluster = Cluster::new();
    let dead = cluster.member(1, "one.wal", "here").await;
    let (of, stream) = (dead.life, dead.write(20).await);
    let heir = cluster.member(2, "object", "here").await;
    heir.metadata.fence(of).await.unwrap();
    // Long enough for what follows; the rest of it passes at once.
    let (recoverer, known) = (heir.recoverer(), tokio::time::Instant::now() + 600 * SECOND);
    let recovering = tokio::spawn(async move { recoverer.recover_left(of, known, None).await });
    let mut changed = heir.metadata.changed();
    while heir.metadata.image().stream(stream).unwrap().committed_end < 20 {
        let change = tokio::time::timeout(120 * SECOND, changed.changed()).await;
        change.expect("what is whole is committed early, on a file system with direct I/O").unwrap();
    }
    let lease = heir.metadata.image().life(of).expect("it may go on").lease;
    for base in 20..25 {
        dead.append(stream, base).await;
    }
    // Where nothing else is to be done, it is over.
    tokio::time::pause();
    let recovered = recovering.await.unwrap().unwrap();
    assert!(matches!(recovered, Recovered::Here { .. }), "{recovered:?}");
    assert!(tokio::time::Instant::now() >= known + lease_and_margin(lease));
    assert_eq!(heir.outcome(of, stream).await, (Some(2), 25));
    drop(dead);
}

/// A volume whose first walk does not come to its end.
#[derive(Debug)]
struct Reluctant {
    inner: Arc<dyn Medium>,
    /// How the first walk fails, or not even that.
    fails: Option<wal::Error>,
    walks: std::sync::atomic::AtomicUsize,
}

#[async_trait::async_trait]
impl Medium for Reluctant {
    fn uri(&self) -> &wal::Uri {
        self.inner.uri()
    }

    async fn recover(&self, of: Incarnation, from: Position) -> Result<Box<dyn wal::Recovery>, wal::Error> {
        if self.walks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0 {
            return self.inner.recover(of, from).await;
        }
        match &self.fails {
            Some(error) => Err(error.clone()),
            None => std::future::pending().await,
        }
    }

    fn recovers_early(&self) -> bool {
        true
    }

    async fn open(
        &self,
        owner: Incarnation,
        vacated: Vacated,
        right: Arc<AckRight>,
    ) -> Result<Arc<dyn Wal>, wal::Error> {
        self.inner.open(owner, vacated, right).await
    }
}

/// F6: however the early recovery ends, and if it does not, the one behind the lease judges.
#[tokio::test(start_paused = true)]
async fn an_early_recovery_that_does_not_succeed_holds_up_nothing() {
    let damaged = wal::Error::Corrupt { location: "here".into(), detail: "damaged".into() };
    for fails in [None, Some(damaged), Some(wal::Error::Fenced("it has another owner".into()))] {
        let cluster = Cluster::new();
        let dead = cluster.member(1, "one.wal", "here").await;
        let (of, stream) = (dead.life, dead.write(20).await);
        let heir = cluster.member(2, "object", "here").await;
        heir.metadata.fence(of).await.unwrap();
        let inner = dead.ours.medium.clone();
        let medium = Reluctant { inner, fails, walks: Default::default() };
        let recoverer = heir.recoverer();
        let recovering = recoverer.recover_leased(of, tokio::time::Instant::now(), &medium);
        let recovered = tokio::time::timeout(Duration::from_secs(600), recovering).await.expect("it ends");
        assert!(matches!(recovered, Ok(Recovered::Here { .. })), "{recovered:?}");
        assert_eq!(medium.walks.into_inner(), 2);
        assert_eq!(heir.outcome(of, stream).await, (Some(2), 20));
    }
}

/// A command that takes a volume away is run on what the metadata says now, not on what it said when the turn came.
#[tokio::test]
async fn a_volume_is_not_attached_once_its_log_is_recovered() {
    let cluster = Cluster::new();
    let ran = cluster.path("ran");
    let hook = format!("--wal-attach=touch '{}'", ran.display());
    let dead = cluster.member(1, "one.wal", "here/1").await;
    let of = dead.life;
    let late = cluster.member_with(2, "object", "there/2", &[&hook]).await;
    let Member { wal, ours, metadata, .. } = dead;
    metadata.close(false).await.unwrap();
    drop((wal, ours));
    late.metadata.fence(of).await.unwrap();
    let known = tokio::time::Instant::now();
    let (back, ours) = cluster.starting(1, "one.wal", "here/1", &[]).await;
    // It has recovered its log, of which the other has not heard yet.
    assert!(late.metadata.image().life(of).is_some());
    back.recover(of, &*ours.medium).await.unwrap();
    assert!(late.metadata.image().life(of).is_some());
    let outcome = late.recoverer().recover_left(of, known, None).await.unwrap();
    assert!(matches!(outcome, Recovered::Elsewhere), "{outcome:?}");
    assert!(!ran.exists());
}

/// The same where the command runs already: it is ended before it takes what the next life of that broker uses.
#[tokio::test]
async fn the_command_that_attaches_a_volume_ends_when_its_log_is_recovered() {
    let cluster = Cluster::new();
    let (began, goes_on) = (cluster.path("began"), cluster.path("goes-on"));
    assert!(std::process::Command::new("mkfifo").arg(&goes_on).status().unwrap().success());
    // Nobody ever writes there.
    let hook = format!("--wal-attach=touch '{}'; cat '{}'", began.display(), goes_on.display());
    let dead = cluster.member(1, "one.wal", "here/1").await;
    let of = dead.life;
    let taking = cluster.member_with(2, "object", "there/2", &[&hook]).await;
    let Member { wal, ours, metadata, .. } = dead;
    metadata.close(false).await.unwrap();
    drop((wal, ours));
    taking.metadata.fence(of).await.unwrap();
    let recoverer = taking.recoverer();
    let recovering =
        tokio::spawn(async move { recoverer.recover_left(of, tokio::time::Instant::now(), None).await });
    while !began.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (back, ours) = cluster.starting(1, "one.wal", "here/1", &[]).await;
    back.recover(of, &*ours.medium).await.unwrap();
    taking.metadata.refresh().await.unwrap();
    let outcome = tokio::time::timeout(Duration::from_secs(60), recovering).await.expect("it ends");
    assert!(matches!(outcome.unwrap().unwrap(), Recovered::Elsewhere));
}

/// Two fail over the same life at once; together they take each record once, and both end.
#[tokio::test]
async fn two_recoverers_at_once_take_each_record_once() {
    let cluster = Cluster::new();
    let dead = cluster.member(1, "object", "here").await;
    let (of, stream) = (dead.life, dead.write(30).await);
    let (one, two) = (cluster.member(2, "object", "here").await, cluster.member(3, "object", "here").await);
    one.metadata.fence(of).await.unwrap();
    two.metadata.refresh().await.unwrap();
    let known = tokio::time::Instant::now();
    let (first, second) = (one.recoverer(), two.recoverer());
    let (first, second) =
        tokio::join!(first.recover_left(of, known, None), second.recover_left(of, known, None));
    first.unwrap();
    second.unwrap();
    assert_eq!(one.outcome(of, stream).await.1, 30);
    assert_eq!(two.outcome(of, stream).await.1, 30);
}

/// One that is refused though nobody else has done anything: its caller is told, pauses, and tries another one meanwhile.
#[tokio::test(start_paused = true)]
async fn a_recovery_that_is_refused_again_and_again_ends() {
    let cluster = Cluster::new();
    let dead = cluster.member(1, "object", "here").await;
    let spec = TopicSpec {
        name: "t".into(),
        partitions: 400,
        configs: Vec::new(),
        leaders: vec![dead.life.broker; 400],
    };
    let topic = dead.metadata.create_topics(vec![spec]).await.remove(0).unwrap();
    // As many in one slot as its adoption has no room for in an entry.
    let appends = topic.partitions.iter().map(|partition| dead.append(partition.log, 0));
    futures::future::join_all(appends).await;
    let mut options = cluster.options("object", &[]);
    options.bounds.metadata.log.entry_bytes_max = 4 << 10;
    let (heir, _ours) = cluster.starting_as(options, 2, "here").await;
    heir.metadata.fence(dead.life).await.unwrap();
    let refused = heir.recover_left(dead.life, tokio::time::Instant::now(), None).await;
    let refused = format!("{:#}", refused.expect_err("its commit is too large"));
    assert!(refused.contains("started over"), "{refused}");
    // Others may do better.
    let other = cluster.member(3, "object", "here").await;
    other.recoverer().recover_left(dead.life, tokio::time::Instant::now(), None).await.unwrap();
    assert_eq!(other.outcome(dead.life, topic.partitions[399].log).await.1, 1);
}

/// M2, M3: when nobody else can write to a volume, and when that is not known.
#[tokio::test]
async fn who_can_write_to_a_volume_is_judged_by_locks_machines_and_last_words() {
    let cluster = Cluster::new();
    let owner = cluster.member(1, "one.wal", "there/1").await;
    let (of, uri) = (owner.life, owner.ours.medium.uri().clone());
    let other = cluster.member(2, "object", "here/2").await;
    let exclusive = async |machine| other.media.left(of, &uri, machine, None).await.unwrap().exclusive;
    assert!(!exclusive(Some("there/1")).await, "it is held");
    assert!(!exclusive(Some("here/2")).await, "it is held");
    let Member { wal, ours, media, metadata, .. } = owner;
    drop((wal, ours));
    let path = cluster.path("one.wal");
    while !wal::block::device::is_unlocked(&path).unwrap() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(exclusive(Some("here/2")).await, "its process is gone from this kernel");
    for elsewhere in [Some("here/3"), Some("here"), Some("there/1"), None] {
        assert!(!exclusive(elsewhere).await, "whose lock is another kernel's: {elsewhere:?}");
    }
    let stranger = Incarnation { broker: 1, epoch: of.epoch + 1 };
    assert!(
        !other.media.left(stranger, &uri, Some("here/2"), None).await.unwrap().exclusive,
        "not its volume"
    );

    // As somebody's own log: this file is on one machine's file system, or on this machine.
    let ours = media.ours().unwrap();
    let judged = check_ours(&media, &ours, &metadata.image(), 1, false).unwrap();
    assert_eq!((judged.writer, judged.claim), (LastWriter::Gone, None));
    let wal = ours
        .medium
        .open(
            Incarnation { broker: 1, epoch: of.epoch + 9 },
            Vacated::nothing_left(),
            Arc::new(AckRight::unlimited()),
        )
        .await
        .unwrap();
    wal.close().await;
    assert_eq!(wal.status().trimmed, Position(0));
}

/// One disk, as two hosts see it: each has a device of its own, whose locks say nothing about the other's.
struct SharedDisk([String; 2]);

impl SharedDisk {
    fn new(cluster: &Cluster) -> SharedDisk {
        let file = cluster.path("disk");
        std::fs::File::create(&file).unwrap().set_len(4 << 20).unwrap();
        let attach = |_| {
            let mut losetup = std::process::Command::new("losetup");
            let made = losetup.args(["--direct-io=on", "--show", "--find"]).arg(&file).output();
            let made =
                made.expect("losetup (util-linux) is needed to test devices that several hosts can reach");
            let said = String::from_utf8_lossy(&made.stderr).into_owned();
            assert!(made.status.success(), "loop devices are needed, as root: {said}");
            String::from_utf8(made.stdout).unwrap().trim().to_owned()
        };
        SharedDisk([(); 2].map(attach))
    }
}

impl Drop for SharedDisk {
    fn drop(&mut self) {
        for device in &self.0 {
            // Detached by the kernel once the last user is gone.
            let _ = std::process::Command::new("losetup").arg("--detach").arg(device).status();
        }
    }
}

/// A broker that was started, and has registered with its log on `device`, and not opened it yet.
struct Starting {
    metadata: Arc<Metadata>,
    ours: Ours,
    judged: anyhow::Result<Judged>,
}

impl Starting {
    async fn on(cluster: &Cluster, device: &str, machine: &str, detached: bool) -> Starting {
        let options = cluster.options(device, &[]);
        let log = options.bounds.metadata.clone();
        let metadata = Metadata::open(cluster.stores.metadata.clone(), log).await.unwrap();
        let id = cluster_id::parse(&metadata.cluster_id()).unwrap();
        let media = Media::new(&options, id, cluster.stores.clone(), machine.to_owned());
        let ours = media.ours().unwrap();
        let judged = check_ours(&media, &ours, &metadata.image(), 1, detached);
        Starting { metadata, ours, judged }
    }

    async fn register(&self, machine: &str) -> Result<Incarnation, crate::metadata::Error> {
        let registering = Registering {
            id: 1,
            wal: self.ours.medium.uri(),
            listener: Listener { host: "a host".into(), port: 1 },
            rack: None,
            machine,
            replaces: self.metadata.image().last_registration(1),
            claim: self.judged.as_ref().unwrap().claim.clone(),
        };
        Ok(self.metadata.register(registering).await?.incarnation)
    }

    async fn open(&self, life: Incarnation) -> Result<Arc<dyn Wal>, wal::Error> {
        let right = Arc::new(AckRight::unlimited());
        self.ours.medium.open(life, Vacated::nothing_left(), right).await
    }
}

/// M5, N4: a host stands still with the first writes of its broker on their way. Whoever comes to the same volume meanwhile
/// finds nobody's name on it, and must know of that one nevertheless: its writes would land over what is acknowledged then.
/// Once as a blank volume, and once as one whose last owner closed its log.
#[tokio::test]
async fn a_volume_that_another_host_is_about_to_write_to_is_not_taken() {
    let cluster = Cluster::new();
    let disk = SharedDisk::new(&cluster);
    let [here, there] = &disk.0;
    for blank in [true, false] {
        // Both have looked at the volume when neither had registered.
        let slow = Starting::on(&cluster, here, "a/1", false).await;
        let before = std::fs::read(cluster.path("disk")).unwrap();
        let second = Starting::on(&cluster, there, "b/2", false).await;
        assert_eq!(slow.judged.as_ref().unwrap().writer, LastWriter::Gone);
        assert_eq!(slow.judged.as_ref().unwrap().claim.as_ref().unwrap().blank, blank);
        let life = slow.register("a/1").await.unwrap();
        let refused = second.register("b/2").await;
        assert!(matches!(refused, Err(crate::metadata::Error::Conflict(_))), "{refused:?}");
        drop(second);

        // Whoever looks later is told to wait, or refused, whatever became of the first one meanwhile.
        let third = Starting::on(&cluster, there, "b/2", false).await;
        match &third.judged {
            Ok(judged) => assert!(blank && judged.wait.as_ref().unwrap().contains("a/1")),
            Err(refused) => {
                let refused = refused.to_string();
                assert!(!blank && refused.contains("a/1") && refused.contains("--wal-detached"), "{refused}");
            }
        }
        drop(third);
        assert!(std::fs::read(cluster.path("disk")).unwrap() == before, "nobody has written anything");
        // Its own next life, under the same kernel, which has the lock of the volume.
        let Starting { metadata, ours, .. } = slow;
        metadata.close(false).await.unwrap();
        drop(ours);
        let again = Starting::on(&cluster, here, "a/1", false).await;
        let judged = again.judged.as_ref().unwrap();
        assert_eq!((judged.writer, &judged.wait), (LastWriter::Gone, &None));
        assert_eq!(judged.claim.as_ref().unwrap().gone, [life]);
        let life = again.register("a/1").await.unwrap();
        let wal = again.open(life).await.unwrap();
        again.metadata.open_leaderships().await.unwrap();
        wal.close().await;
        again.metadata.close(true).await.unwrap();
        assert_eq!(again.metadata.image().claimed_volumes().count(), 0, "it closed its log");
    }
    // The operator's word ends all claims.
    let slow = Starting::on(&cluster, here, "a/1", false).await;
    slow.register("a/1").await.unwrap();
    let moved = Starting::on(&cluster, there, "b/2", true).await;
    let life = moved.register("b/2").await.unwrap();
    moved.open(life).await.unwrap();
    assert_eq!(moved.metadata.image().claimed_volumes().flat_map(|(_, claims)| claims).count(), 1);
}

/// B1, B2 on a device that two hosts can reach: it is read when the lease is over, and is nobody's to format while the old
/// host may write to it, though its log was recovered. (With `OTTLA_PLANTED=format-early` this fails.) The last part shows
/// what would become of it.
#[tokio::test(start_paused = true)]
async fn a_shared_volume_is_read_after_the_lease_and_formatted_by_nobody_while_its_host_may_write() {
    let cluster = Cluster::new();
    let disk = SharedDisk::new(&cluster);
    let [here, there] = &disk.0;
    // Which goes on living, cut off.
    let zombie = cluster.member(1, here, "a/1").await;
    let (of, stream) = (zombie.life, zombie.write(20).await);
    let hook = format!("--wal-attach=echo {there}");
    let heir = cluster.member_with(2, "object", "b/2", &[&hook]).await;
    let (failover, verdicts) = heir.fail_over();
    let fenced = tokio::time::Instant::now();
    verdicts.send_replace(Arc::new(Verdicts::default().with(of, DEAD)));
    assert_eq!(heir.outcome(of, stream).await, (Some(2), 20));
    let lease = Duration::from_secs(3);
    assert!(fenced.elapsed() >= lease_and_margin(lease), "after {:?}", fenced.elapsed());
    failover.shutdown().await;

    // The guard: nothing on this machine holds a lock of that device.
    let taker_on = |machine: &str, more: &[&str]| {
        let options = cluster.options(there, more);
        let id = cluster_id::parse(&heir.metadata.cluster_id()).unwrap();
        Media::new(&options, id, cluster.stores.clone(), machine.to_owned())
    };
    let taker = |more: &[&str]| taker_on("b/2", more);
    let before = std::fs::read(cluster.path("disk")).unwrap();
    // Neither on another machine nor on one of the same id, which may be a clone of it.
    for machine in ["b/2", "a/2", "a"] {
        let media = taker_on(machine, &[]);
        let ours = media.ours().unwrap();
        let refused = check_ours(&media, &ours, &heir.metadata.image(), 1, false);
        let refused = refused.expect_err("its old host may still write to it").to_string();
        assert!(refused.contains("--wal-detached") && refused.contains("a/1"), "{refused}");
        let required = taker(&["--wal-reservation=required"]).ours();
        assert!(required.is_err(), "the device is in use by this process");
    }
    assert!(std::fs::read(cluster.path("disk")).unwrap() == before, "a start that is refused writes nothing");

    // Somebody says that the volume is detached, and it is not.
    let media = taker(&[]);
    let ours = media.ours().unwrap();
    let judged = check_ours(&media, &ours, &heir.metadata.image(), 1, true).unwrap();
    assert_eq!(judged.writer, LastWriter::Gone);
    assert!(judged.claim.unwrap().gone.contains(&of), "whose claim outlived its recovery");
    let life = Incarnation { broker: 1, epoch: of.epoch + 100 };
    let right = Arc::new(AckRight::unlimited());
    let wal = ours.medium.open(life, Vacated::nothing_left(), right).await.unwrap();
    let taker = Member { wal, ours, ..heir };
    for base in 20..60 {
        taker.append(stream, base).await;
    }
    let count = async || {
        let mut recovery = taker.ours.medium.recover(life, Position(0)).await.unwrap();
        let mut count = 0;
        while let Ok(Some(batch)) = recovery.next().await {
            count += batch.records.len();
        }
        count
    };
    assert_eq!(count().await, 40);
    // What it had on its way.
    for base in 20..30 {
        zombie.append(stream, base).await;
        if count().await < 40 {
            return;
        }
    }
    panic!("what was acknowledged was not overwritten, of all that the old host wrote");
}

/// What a broker that is back reads from its volume is not declared lost meanwhile; it would format the volume then.
#[tokio::test]
async fn a_log_is_given_up_only_while_its_broker_is_away() {
    let cluster = Cluster::new();
    let one = cluster.member(1, "one", "a/1").await;
    let two = cluster.member(2, "two", "b/2").await;
    let of = one.life;
    let refused = super::recovery::forsake(&two.metadata, of).await.unwrap_err().to_string();
    assert!(refused.contains("is not waited for; logs that are: none"), "{refused}");
    two.metadata.fence(of).await.unwrap();
    let registering = Registering {
        id: 1,
        wal: one.ours.medium.uri(),
        listener: Listener { host: "a host".into(), port: 1 },
        rack: None,
        machine: "a/1",
        replaces: Some(of.epoch),
        claim: None,
    };
    let log = cluster.options("one", &[]).bounds.metadata.clone();
    let metadata = Metadata::open(cluster.stores.metadata.clone(), log).await.unwrap();
    let back = metadata.register(registering).await.unwrap().incarnation;
    let refused = super::recovery::forsake(&two.metadata, of).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("broker 1 is back, as epoch {}", back.epoch)), "{refused}");
    assert!(two.metadata.image().life(of).is_some());
    two.metadata.fence(back).await.unwrap();
    super::recovery::forsake(&two.metadata, of).await.unwrap();
    assert!(two.metadata.image().life(of).is_none());
}
